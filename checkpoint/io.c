/* io.c: reading and atomic writing of checkpoint files (see io.h).
 *
 * Offsets are explicit (pread, pwrite): there is no file position that a failed call could leave
 * somewhere, and the header can be written last, when the checksums of the data are known.
 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int open_file(const char *path, int flags, mode_t mode)
{
    return open(path, flags, mode);
}

const iv__io_calls iv__io_system = {
    .open = open_file,
    .close = close,
    .pread = pread,
    .pwrite = pwrite,
    .fstat = fstat,
    .stat = stat,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .rename = rename,
    .unlink = unlink,
    .mkdir = mkdir,
    .rmdir = rmdir,
    .flock = flock,
    .kill = kill,
    .opendir = opendir,
    .readdir = readdir,
    .closedir = closedir,
};

/* ---- errors ---- */

static iv_status fail_text(const iv__io_job *j, iv_status code, const char *text)
{
    enum { MOST = 700 }; /* the host keeps one line of limited length: the cause must fit as well */
    const char *path = j->path ? j->path : "(none)";
    size_t n = strlen(path);
    const char *dots = n > MOST ? "..." : "";
    return j->host->fail(code, "%s checkpoint %s%s: %s", j->doing, dots,
                         n > MOST ? path + n - MOST : path, text);
}

iv_status iv__io_fail(const iv__io_job *j, iv_status code, const char *fmt, ...)
{
    char text[1200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return fail_text(j, code, text);
}

static const char *hint_of(int err)
{
    static const struct {
        int err;
        const char *hint;
    } hints[] = {
        {ENOSPC, " [hint: free space on that file system, or save elsewhere]"},
        {EDQUOT, " [hint: the disk quota is used up: remove files, or save elsewhere]"},
        {EACCES, " [hint: check the permissions of the file and of its folder]"},
        {EPERM, " [hint: check the permissions of the file and of its folder]"},
        {EROFS, " [hint: the file system is mounted read-only: save elsewhere]"},
        {ENOENT, " [hint: check the path: the file or its folder does not exist]"},
        {EIO, " [hint: the disk or the network file system may be failing: see the system log]"},
        {EFBIG, " [hint: the file system or `ulimit -f` does not allow files this large]"},
        {ENAMETOOLONG, " [hint: use a shorter file name]"},
        {EMFILE, " [hint: raise the limit of open files, `ulimit -n`]"},
    };
    for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); ++i)
        if (hints[i].err == err) return hints[i].hint;
    return "";
}

iv_status iv__io_fail_errno(const iv__io_job *j, int err, const char *fmt, ...)
{
    char text[1200], name[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, 1000, fmt, args);
    va_end(args);
    size_t n = strlen(text);
    snprintf(text + n, sizeof(text) - n, " (%s)%s", strerror_r(err, name, sizeof(name)),
             hint_of(err));
    return fail_text(j, IV_IO, text);
}

/* ---- reading ---- */

static iv_status check_regular(const iv__io_job *j, const struct stat *st)
{
    if (S_ISREG(st->st_mode)) return IV_OK;
    const char *kind = S_ISDIR(st->st_mode)    ? "a folder"
                       : S_ISFIFO(st->st_mode) ? "a FIFO"
                       : S_ISSOCK(st->st_mode) ? "a socket"
                                               : "a device";
    return iv__io_fail(j, IV_INVALID, "this is %s, not a file", kind);
}

iv_status iv__io_open(const iv__io_job *j, int *out_fd, uint64_t *out_size)
{
    if (!j->path || !*j->path) return iv__io_fail(j, IV_INVALID, "the path is empty");
    /* O_NONBLOCK: opening a FIFO must not wait for a writer; it does nothing to a regular file. */
    int fd = j->calls->open(j->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);
    if (fd < 0) return iv__io_fail_errno(j, errno, "opening the file failed");
    struct stat st;
    iv_status s = IV_OK;
    if (j->calls->fstat(fd, &st) != 0)
        s = iv__io_fail_errno(j, errno, "asking for its size failed");
    else s = check_regular(j, &st);
    if (s != IV_OK) {
        j->calls->close(fd);
        return s;
    }
    *out_fd = fd;
    *out_size = (uint64_t)st.st_size;
    return IV_OK;
}

iv_status iv__io_read(const iv__io_job *j, int fd, void *dst, size_t n, uint64_t at)
{
    for (size_t have = 0; have < n;) {
        ssize_t got = j->calls->pread(fd, (char *)dst + have, n - have, (off_t)(at + have));
        if (got < 0 && errno == EINTR) continue;
        const unsigned long long where = at + have;
        if (got < 0)
            return iv__io_fail_errno(j, errno, "reading %zu bytes at %llu failed", n - have, where);
        if (got == 0)
            return iv__io_fail(j, IV_IO,
                               "the file became shorter while it was read: it ends at %llu, "
                               "%zu more bytes were there",
                               where, n - have);
        have += (size_t)got;
    }
    return IV_OK;
}

/* ---- writing ---- */

/* Room for FOLDER, FOLDER/.NAME.tmp.PID; sets tmp, folder and name. */
static iv_status make_names(const iv__io_job *j, iv__io_file *f)
{
    const char *slash = j->path ? strrchr(j->path, '/') : NULL;
    f->name = slash ? slash + 1 : j->path;
    if (!f->name || !*f->name) return iv__io_fail(j, IV_INVALID, "the path names no file");
    int dir = (int)(f->name - j->path);
    size_t room = strlen(j->path) + 40;
    f->tmp = malloc(room);
    f->folder = malloc((size_t)dir + 2);
    if (!f->tmp || !f->folder)
        return iv__io_fail(j, IV_NO_MEMORY, "allocating %zu bytes for file names", room);
    snprintf(f->tmp, room, "%.*s.%s.tmp.%ld", dir, j->path, f->name, (long)getpid());
    snprintf(f->folder, (size_t)dir + 2, "%.*s", dir ? dir : 1, dir ? j->path : ".");
    return IV_OK;
}

/* Unlinks `path` if no save is holding it. */
static void remove_unlocked(const iv__io_job *j, const char *path)
{
    int fd = j->calls->open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    if (fd < 0) return;
    struct stat st;
    if (j->calls->fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        j->calls->flock(fd, LOCK_EX | LOCK_NB) == 0 && j->calls->unlink(path) == 0)
        j->host->log(IV_LOG_INFO, "removed %s, which a save that was killed had left", path);
    j->calls->close(fd);
}

static int open_new(const iv__io_job *j, const char *path)
{
    return j->calls->open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
}

static iv_status open_temporary(const iv__io_job *j, iv__io_file *f)
{
    f->folder_fd = j->calls->open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (f->folder_fd < 0)
        return iv__io_fail_errno(j, errno, "opening the folder %s failed", f->folder);
    f->fd = open_new(j, f->tmp);
    if (f->fd < 0 && errno == EEXIST) {
        /* Our own process id: a process that had it before us died here (usual in containers). */
        remove_unlocked(j, f->tmp);
        f->fd = open_new(j, f->tmp);
    }
    if (f->fd < 0) return iv__io_fail_errno(j, errno, "creating %s failed", f->tmp);
    f->exists = true;
    /* Where locks do not work nothing is lost: then nobody can lock it, and nobody removes it. */
    (void)j->calls->flock(f->fd, LOCK_EX | LOCK_NB);
    return IV_OK;
}

iv_status iv__io_create(const iv__io_job *j, iv__io_file *out)
{
    iv__io_file f = {.job = j, .fd = -1, .folder_fd = -1};
    struct stat st;
    iv_status s = make_names(j, &f);
    if (s == IV_OK) {
        if (j->calls->stat(j->path, &st) == 0) s = check_regular(j, &st);
        else if (errno != ENOENT)
            s = iv__io_fail_errno(j, errno, "looking at what is there failed");
    }
    if (s == IV_OK) s = open_temporary(j, &f);
    if (s != IV_OK) {
        iv__io_discard(&f);
        return s;
    }
    *out = f;
    return IV_OK;
}

iv_status iv__io_write(iv__io_file *f, const void *src, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t put =
            f->job->calls->pwrite(f->fd, (const char *)src + done, n - done, (off_t)(at + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return iv__io_fail_errno(f->job, put < 0 ? errno : ENOSPC,
                                     "writing %zu bytes at %llu of %s failed", n - done,
                                     (unsigned long long)(at + done), f->tmp);
        done += (size_t)put;
    }
    return IV_OK;
}

static int sync_retry(int (*sync)(int fd), int fd)
{
    int r;
    do r = sync(fd);
    while (r != 0 && errno == EINTR);
    return r;
}

/* The process id of a temporary file that this code made, for a checkpoint or for `name`; else 0.
 */
static pid_t owner_of(const char *entry, const char *name)
{
    static const char mark[] = ".tmp.", ext[] = ".safetensors";
    const char *tail = NULL;
    for (const char *p = entry; (p = strstr(p, mark)) != NULL; ++p) tail = p;
    if (entry[0] != '.' || !tail || tail <= entry) return 0;
    size_t middle = (size_t)(tail - entry) - 1, n_ext = sizeof(ext) - 1;
    bool ours = (middle == strlen(name) && memcmp(entry + 1, name, middle) == 0) ||
                (middle > n_ext && memcmp(tail - n_ext, ext, n_ext) == 0);
    const char *digits = tail + sizeof(mark) - 1;
    size_t n = strspn(digits, "0123456789");
    if (!ours || n < 1 || n > 9 || digits[n] != '\0') return 0;
    return (pid_t)strtol(digits, NULL, 10);
}

/* Removes what killed saves left in the folder.  What cannot be removed stays; it does no harm. */
static void sweep(const iv__io_file *f)
{
    const iv__io_calls *c = f->job->calls;
    DIR *d = c->opendir(f->folder);
    if (!d) return;
    for (struct dirent *e; (e = c->readdir(d)) != NULL;) {
        pid_t pid = owner_of(e->d_name, f->name);
        if (pid <= 0 || pid == getpid() || c->kill(pid, 0) == 0 || errno != ESRCH) continue;
        size_t room = strlen(f->folder) + strlen(e->d_name) + 2;
        char *path = malloc(room);
        if (!path) break;
        snprintf(path, room, "%s/%s", f->folder, e->d_name);
        remove_unlocked(f->job, path);
        free(path);
    }
    c->closedir(d);
}

iv_status iv__io_commit(iv__io_file *f)
{
    const iv__io_job *j = f->job;
    if (sync_retry(j->calls->fdatasync, f->fd) != 0)
        return iv__io_fail_errno(j, errno, "flushing %s to the disk failed", f->tmp);
    int r = j->calls->close(f->fd), err = errno;
    f->fd = -1;
    /* An interrupted close has closed the file, and the data was flushed before. */
    if (r != 0 && err != EINTR) return iv__io_fail_errno(j, err, "closing %s failed", f->tmp);
    if (j->calls->rename(f->tmp, j->path) != 0)
        return iv__io_fail_errno(j, errno, "renaming %s to it failed", f->tmp);
    f->exists = false;
    /* Some file systems cannot flush a folder, and say so; there rename itself is as durable as it
     * gets. */
    if (sync_retry(j->calls->fsync, f->folder_fd) != 0 && errno != EINVAL && errno != ENOTSUP &&
        errno != ENOSYS)
        return iv__io_fail_errno(
            j, errno,
            "the new file is in place and complete, but flushing the folder %s "
            "failed: it may not survive a power failure",
            f->folder);
    sweep(f);
    return IV_OK;
}

void iv__io_discard(iv__io_file *f)
{
    const iv__io_job *j = f->job;
    /* Unlinked while it is open, hence locked: nobody else can take it for a dead one's. */
    if (f->exists && j->calls->unlink(f->tmp) != 0)
        j->host->log(IV_LOG_WARN, "could not remove the temporary file %s: errno %d", f->tmp,
                     errno);
    if (f->fd >= 0) j->calls->close(f->fd);
    if (f->folder_fd >= 0) j->calls->close(f->folder_fd);
    free(f->tmp);
    free(f->folder);
    *f = (iv__io_file){.job = j, .fd = -1, .folder_fd = -1};
}

/* ---- folders ---- */

static iv_status sync_folder(const iv__io_job *j, const char *folder)
{
    int fd = j->calls->open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return iv__io_fail_errno(j, errno, "opening the folder %s failed", folder);
    iv_status s = IV_OK;
    if (sync_retry(j->calls->fsync, fd) != 0 && errno != EINVAL && errno != ENOTSUP &&
        errno != ENOSYS)
        s = iv__io_fail_errno(j, errno, "flushing the folder %s failed", folder);
    j->calls->close(fd);
    return s;
}

iv_status iv__io_sync_inside(const iv__io_job *j)
{
    return sync_folder(j, j->path);
}

iv_status iv__io_sync_above(const iv__io_job *j)
{
    size_t n = strlen(j->path);
    while (n > 1 && j->path[n - 1] == '/') --n;
    while (n > 0 && j->path[n - 1] != '/') --n;
    char *above = malloc(n + 2);
    if (!above) return iv__io_fail(j, IV_NO_MEMORY, "allocating a file name");
    snprintf(above, n + 2, "%.*s", n ? (int)n : 1, n ? j->path : ".");
    iv_status s = sync_folder(j, above);
    free(above);
    return s;
}

iv_status iv__io_fail_quietly(iv_status code, const char *fmt, ...)
{
    (void)fmt;
    return code;
}

iv_status iv__io_remove(const iv__io_job *j)
{
    if (!j->path || !*j->path) return iv__io_fail(j, IV_INVALID, "the path is empty");
    struct stat st;
    if (j->calls->stat(j->path, &st) == 0) {
        iv_status s = check_regular(j, &st);
        if (s != IV_OK) return s;
    }
    if (j->calls->unlink(j->path) != 0 && errno != ENOENT)
        return iv__io_fail_errno(j, errno, "unlinking the file failed");
    return IV_OK;
}
