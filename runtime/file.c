/* file.c: reading, mapping and atomic writing of files (see file.h). */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Ends a close that matters.  After EINTR Linux has closed the descriptor: a second close could hit
 * one that another thread has just opened. */
static int close_checked(int fd)
{
    return close(fd) == 0 || errno == EINTR ? 0 : -1;
}

static int fsync_retry(int fd)
{
    int r;
    do r = fsync(fd);
    while (r != 0 && errno == EINTR);
    return r;
}

/* Opens path for reading; *out_stat is its status. */
static iv_status open_read(const char *path, int *out_fd, struct stat *out_stat)
{
    if (!*path) IV_FAIL(IV_INVALID, "reading a file: the path is empty");
    int fd;
    do fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) IV_FAIL(IV_IO, "reading %s: %s", path, strerror(errno));
    if (fstat(fd, out_stat) != 0) {
        iv_status s = iv__fail(IV_IO, "reading %s: %s", path, strerror(errno));
        close(fd);
        return s;
    }
    *out_fd = fd;
    return IV_OK;
}

/* Appends what fd still gives, up to `most` bytes, to the buffer. */
static iv_status read_all(int fd, const char *path, int64_t most, char **buf, int64_t *cap,
                          int64_t *out_n)
{
    int64_t n = 0;
    for (;;) {
        /* One byte beyond the limit tells a file that is too large; one more is for the NUL. */
        IV_TRY(iv__reserve(buf, cap, n + 2, 1, "a file's contents"));
        ssize_t got = read(fd, *buf + n, (size_t)(*cap - n - 1));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) IV_FAIL(IV_IO, "reading %s: %s", path, strerror(errno));
        if (got == 0) break;
        n += got;
        if (n > most) {
            IV_FAIL(IV_INVALID, "reading %s: the file is larger than %lld bytes", path,
                    (long long)most);
        }
    }
    (*buf)[n] = 0;
    *out_n = n;
    return IV_OK;
}

iv_status iv__file_read(const char *path, int64_t max_bytes, char **out, int64_t *out_n)
{
    int fd = -1;
    struct stat st;
    IV_TRY(open_read(path, &fd, &st));
    char *buf = NULL;
    int64_t cap = 0, n = 0;
    iv_status s;
    if (S_ISDIR(st.st_mode)) {
        s = iv__fail(IV_INVALID, "reading %s: it is a folder, expected a file", path);
    } else if (S_ISREG(st.st_mode) && st.st_size > max_bytes) {
        s = iv__fail(IV_INVALID, "reading %s: the file has %lld bytes, at most %lld are accepted",
                     path, (long long)st.st_size, (long long)max_bytes);
    } else {
        s = iv__reserve(&buf, &cap, IV_MIN2(st.st_size, max_bytes) + 2, 1, "a file's contents");
        if (s == IV_OK) s = read_all(fd, path, max_bytes, &buf, &cap, &n);
    }
    close(fd); /* only read from: an error here says nothing about the data */
    if (s != IV_OK) {
        free(buf);
        return s;
    }
    *out = buf;
    *out_n = n;
    return IV_OK;
}

iv_status iv__file_map(const char *path, iv__map *out)
{
    int fd = -1;
    struct stat st;
    IV_TRY(open_read(path, &fd, &st));
    iv_status s = IV_OK;
    void *p = NULL;
    if (!S_ISREG(st.st_mode)) {
        s = iv__fail(IV_INVALID, "reading %s: it is %s, expected a regular file", path,
                     S_ISDIR(st.st_mode) ? "a folder" : "a pipe or device");
    } else if (st.st_size > 0) {
        p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            s = iv__fail(errno == ENOMEM ? IV_NO_MEMORY : IV_IO, "mapping %s (%lld bytes): %s",
                         path, (long long)st.st_size, strerror(errno));
        }
    }
    close(fd);
    if (s != IV_OK) return s;
    *out = (iv__map){p, st.st_size};
    return IV_OK;
}

void iv__file_unmap(iv__map *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    *m = (iv__map){0};
}

/* ---- atomic write ---- */

/* Opens the folder of path; *out_base is the name within it.  A path without '/' is in ".". */
static iv_status open_folder(const char *path, int *out_fd, const char **out_base)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash ? slash + 1 : path;
    if (!*base) IV_FAIL(IV_INVALID, "writing \"%s\": the path names no file", path);
    char *folder = NULL;
    IV_TRY(iv__strdup(slash ? path : ".", &folder));
    /* Cut behind the slash, so that the root folder stays "/". */
    if (slash) folder[slash - path + 1] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    iv_status s = IV_OK;
    if (fd < 0) s = iv__fail(IV_IO, "writing %s: folder %s: %s", path, folder, strerror(errno));
    free(folder);
    if (s != IV_OK) return s;
    *out_fd = fd;
    *out_base = base;
    return IV_OK;
}

/* Makes a file that was not there in the folder; `name` receives its name. */
static iv_status open_temporary(int folder, const char *path, char name[64], int *out_fd)
{
    /* The name must not grow with path's: that may already be as long as the file system allows. */
    for (int i = 0; i < 1000; ++i) {
        snprintf(name, 64, ".invar-tmp-%ld-%d", (long)getpid(), i);
        int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            *out_fd = fd;
            return IV_OK;
        }
        if (errno != EEXIST && errno != EINTR) {
            IV_FAIL(IV_IO, "writing %s: making a temporary file next to it: %s", path,
                    strerror(errno));
        }
    }
    IV_FAIL(IV_IO, "writing %s: 1000 temporary files are in the way [hint: remove .invar-tmp-*]",
            path);
}

static iv_status write_all(int fd, const char *path, const char *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t put = write(fd, data + done, n - done);
        if (put < 0 && errno == EINTR) continue;
        /* A write of nothing is no progress; treated as a full disk rather than tried for ever. */
        if (put == 0) errno = ENOSPC;
        if (put <= 0) {
            IV_FAIL(IV_IO, "writing %s: %s (after %zu of %zu bytes)", path, strerror(errno), done,
                    n);
        }
        done += (size_t)put;
    }
    return IV_OK;
}

/* Fills the temporary file and closes it, whatever happens. */
static iv_status fill(int fd, const char *path, const void *data, size_t n)
{
    iv_status s = write_all(fd, path, data, n);
    if (s == IV_OK && fsync_retry(fd) != 0)
        s = iv__fail(IV_IO, "writing %s: fsync: %s", path, strerror(errno));
    /* Some file systems report a failed write only here. */
    if (close_checked(fd) != 0 && s == IV_OK)
        s = iv__fail(IV_IO, "writing %s: close: %s", path, strerror(errno));
    return s;
}

/* Only a regular file (or a link) may be replaced: a rename over /dev/null would remove the device.
 */
static iv_status check_replaceable(int folder, const char *base, const char *path)
{
    struct stat st;
    if (fstatat(folder, base, &st, 0) != 0) return IV_OK; /* not there, or the rename will tell */
    if (S_ISREG(st.st_mode)) return IV_OK;
    IV_FAIL(IV_INVALID, "writing %s: it is %s, expected a regular file", path,
            S_ISDIR(st.st_mode) ? "a folder" : "a pipe or device");
}

iv_status iv__file_write_atomic(const char *path, const void *data, size_t n)
{
    int folder = -1, fd = -1;
    const char *base = NULL;
    char temporary[64];
    IV_TRY(open_folder(path, &folder, &base));
    iv_status s;
    IV_TRY_GOTO(s, check_replaceable(folder, base, path), close_folder);
    IV_TRY_GOTO(s, open_temporary(folder, path, temporary, &fd), close_folder);
    IV_TRY_GOTO(s, fill(fd, path, data, n), remove_temporary);
    if (renameat(folder, temporary, folder, base) != 0) {
        s = iv__fail(IV_IO, "writing %s: rename: %s", path, strerror(errno));
        goto remove_temporary;
    }
    /* EINVAL: the file system has no fsync for folders (some network and FUSE ones); nothing to do.
     */
    if (fsync_retry(folder) != 0 && errno != EINVAL)
        s = iv__fail(IV_IO, "writing %s: fsync of its folder: %s", path, strerror(errno));
    goto close_folder;
remove_temporary:
    unlinkat(folder, temporary, 0);
close_folder:
    close(folder); /* a descriptor for reading: nothing is lost by an error */
    return s;
}

/* ---- folders ---- */

static iv_status make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0) return IV_OK;
    int reason = errno;
    struct stat st;
    /* mkdir of a folder that is there may also say EROFS or EACCES: what matters is that it is
     * there. */
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode)) return IV_OK;
        IV_FAIL(IV_INVALID, "making folder %s: there is a file of that name", path);
    }
    IV_FAIL(IV_IO, "making folder %s: %s", path, strerror(reason));
}

iv_status iv__mkdirs(const char *path)
{
    if (!*path) IV_FAIL(IV_INVALID, "making a folder: the path is empty");
    char *part = NULL;
    IV_TRY(iv__strdup(path, &part));
    iv_status s = IV_OK;
    for (char *p = part + 1; s == IV_OK; ++p) {
        if (*p != '/' && *p != 0) continue;
        bool last = *p == 0;
        *p = 0;
        /* "a//b" and "a/" give the same folder twice, which is fine. */
        s = make_folder(part);
        if (last) break;
        *p = '/';
    }
    free(part);
    return s;
}
