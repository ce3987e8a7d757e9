/* io.h: file work of checkpoint formats: whole reads, and files that appear completely or not at
 * all.
 *
 *   iv__io_create ── .name.tmp.PID ── iv__io_write ... ── iv__io_commit ── name
 *                                                     └── iv__io_discard (nothing happened)
 *
 * Commit is fdatasync, close, rename, fsync of the folder.  The temporary file is held under flock
 * while it is written: one whose process is gone and that nobody locks is the rest of a save that
 * was killed, and is removed after the next successful save into that folder. Every call to the
 * system goes through a table (iv__io_calls), so that a test can let the N-th fail. Errors read
 * "saving checkpoint PATH: what failed (text of errno) [hint: ...]".
 */
#ifndef IV_CHECKPOINT_IO_H
#define IV_CHECKPOINT_IO_H

#include "../runtime/plugin.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/types.h>

#if defined(__GNUC__)
#define IV__IO_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define IV__IO_PRINTF(fmt, first)
#endif

/* The system calls in use, with the meaning and errno of their namesakes. */
typedef struct iv__io_calls {
    int (*open)(const char *path, int flags, mode_t mode);
    int (*close)(int fd);
    ssize_t (*pread)(int fd, void *dst, size_t n, off_t at);
    ssize_t (*pwrite)(int fd, const void *src, size_t n, off_t at);
    int (*fstat)(int fd, struct stat *out);
    int (*stat)(const char *path, struct stat *out);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd);
    int (*rename)(const char *from, const char *to);
    int (*unlink)(const char *path);
    int (*mkdir)(const char *path, mode_t mode);
    int (*rmdir)(const char *path);
    int (*flock)(int fd, int how);
    int (*kill)(pid_t pid, int sig);
    DIR *(*opendir)(const char *path);
    struct dirent *(*readdir)(DIR *d);
    int (*closedir)(DIR *d);
} iv__io_calls;
extern const iv__io_calls iv__io_system;

/* What is being done to which file: enough to write an error text.  Borrows everything. */
typedef struct iv__io_job {
    const iv_host *host;
    const iv__io_calls *calls;
    const char *doing; /* "saving", "loading", "removing" */
    const char *path;
} iv__io_job;

/* Records "DOING checkpoint PATH: text" and returns `code`.  A very long path is shown by its end.
 */
iv_status iv__io_fail(const iv__io_job *j, iv_status code, const char *fmt, ...)
    IV__IO_PRINTF(3, 4);
/* As iv__io_fail with IV_IO, followed by the text of `err` and what to do about it. */
iv_status iv__io_fail_errno(const iv__io_job *j, int err, const char *fmt, ...) IV__IO_PRINTF(3, 4);

/* Opens j->path for reading; *out_size is its size.  IV_IO if it is missing or cannot be opened,
 * IV_INVALID if it is not a regular file (never blocks on a FIFO).  Close with j->calls->close. */
iv_status iv__io_open(const iv__io_job *j, int *out_fd, uint64_t *out_size);
/* Reads exactly n bytes from offset `at`.  IV_IO on errors and if the file has become shorter. */
iv_status iv__io_read(const iv__io_job *j, int fd, void *dst, size_t n, uint64_t at);

/* A file being written under its temporary name. */
typedef struct iv__io_file {
    const iv__io_job *job;
    char *tmp, *folder; /* owned */
    const char *name;   /* last part of job->path */
    int fd, folder_fd;  /* -1: closed */
    bool exists;        /* the temporary file is there, to be unlinked */
} iv__io_file;
/* Starts writing j->path; `j` must outlive the file.  IV_INVALID if the path is empty or something
 * other than a regular file stands there; IV_IO names the cause.  After IV_OK iv__io_discard is
 * due. */
iv_status iv__io_create(const iv__io_job *j, iv__io_file *out);
/* Writes n bytes at offset `at`, whatever the system takes at a time. */
iv_status iv__io_write(iv__io_file *f, const void *src, size_t n, uint64_t at);
/* Makes the file durable under job->path.  After an error the earlier file still stands there, but
 * for one case, which the text tells: the new file is in place and only flushing the folder failed.
 */
iv_status iv__io_commit(iv__io_file *f);
/* Frees what the file holds; unlinks the temporary file unless it was committed. */
void iv__io_discard(iv__io_file *f);

/* Makes what was created, renamed or removed in the folder j->path durable, or in the one above it.
 * A file system that cannot flush folders is fine. */
iv_status iv__io_sync_inside(const iv__io_job *j);
iv_status iv__io_sync_above(const iv__io_job *j);
/* fail() of a host for whom it is no failure that a file is not there or something else. */
iv_status iv__io_fail_quietly(iv_status code, const char *fmt, ...) IV__IO_PRINTF(2, 3);

/* Unlinks j->path; a missing file is fine.  IV_INVALID if it is not a regular file. */
iv_status iv__io_remove(const iv__io_job *j);

#endif
