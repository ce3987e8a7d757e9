/* memfs.h: a file system in memory behind the calls of checkpoint/io.h, which can be in every state
 * that a crash may leave.
 *
 *   a save runs on it ──> the list of its operations ──> crash: how many had been issued, which of
 *                                                        those that nothing had flushed took effect
 *
 * Rules (POSIX, with nothing added that a particular file system promises beyond it):
 *   - What was written to a file is certain after fsync or fdatasync of the file; until then each
 *     write may have happened, not have happened, or in part, by sectors of 512 bytes; a sector may
 *     also hold other bytes.  A file that is longer than what was written to it has zeros there.
 *   - A name that was made, renamed or removed is certain after fsync of its folder; until then
 * each of these may have happened or not, in any combination.  A rename puts its target in place at
 *     once: the old name may be left beside it, but the target never names nothing between.
 *   - What is in a folder that did not come to be is not there.
 */
#ifndef MEMFS_H
#define MEMFS_H

#include "../../checkpoint/io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MF_NAMES = 64, MF_INODES = 96, MF_OPS = 400, MF_PATH = 96, MF_FDS = 64, MF_SECTOR = 512 };

typedef struct mf_inode {
    bool dir;
    char *data;
    size_t size, cap;
} mf_inode;

typedef struct mf_fs {
    int n_names, n_inodes;
    struct {
        char path[MF_PATH];
        int inode;
    } names[MF_NAMES];
    mf_inode inodes[MF_INODES];
} mf_fs;

typedef enum mf_kind { MF_MAKE, MF_WRITE, MF_FLUSH, MF_RENAME, MF_UNLINK, MF_FLUSH_DIR } mf_kind;
typedef struct mf_op {
    mf_kind kind;
    int inode;
    char path[MF_PATH], to[MF_PATH]; /* to: of a rename; path: of the folder for MF_FLUSH_DIR */
    char *data;
    size_t n, at;
} mf_op;

static struct {
    mf_fs *fs; /* what the calls work on */
    bool recording;
    mf_op ops[MF_OPS];
    int n_ops;
    struct {
        int inode; /* -1: free */
        char path[MF_PATH];
    } fds[MF_FDS];
    pthread_mutex_t lock;
    int full_at; /* the write that finds the disk full; 0: none */
} mf = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void mf_die(const char *why)
{
    fprintf(stderr, "memfs: %s\n", why);
    abort();
}

static int mf_find(const mf_fs *fs, const char *path)
{
    for (int i = 0; i < fs->n_names; ++i)
        if (strcmp(fs->names[i].path, path) == 0) return i;
    return -1;
}

static void mf_set(mf_fs *fs, const char *path, int inode)
{
    int i = mf_find(fs, path);
    if (i < 0) {
        if (fs->n_names == MF_NAMES) mf_die("too many names");
        i = fs->n_names++;
        if (strlen(path) >= MF_PATH) mf_die("a long name");
        strcpy(fs->names[i].path, path);
    }
    fs->names[i].inode = inode;
}

static void mf_clear(mf_fs *fs, const char *path)
{
    const int i = mf_find(fs, path);
    if (i >= 0) fs->names[i] = fs->names[--fs->n_names];
}

static void mf_put(mf_inode *f, size_t at, const char *src, size_t n)
{
    if (n == 0) return;
    if (at + n > f->cap) {
        const size_t cap = (at + n) * 2;
        f->data = realloc(f->data, cap);
        if (!f->data) mf_die("no memory");
        f->cap = cap;
    }
    if (at > f->size) memset(f->data + f->size, 0, at - f->size);
    memcpy(f->data + at, src, n);
    if (at + n > f->size) f->size = at + n;
}

static int mf_new_inode(mf_fs *fs, bool dir)
{
    if (fs->n_inodes == MF_INODES) mf_die("too many files");
    fs->inodes[fs->n_inodes] = (mf_inode){.dir = dir};
    return fs->n_inodes++;
}

static mf_op *mf_record(mf_kind kind, int inode, const char *path)
{
    static mf_op unused;
    if (!mf.recording) return &unused;
    if (mf.n_ops == MF_OPS) mf_die("too many operations");
    mf_op *o = &mf.ops[mf.n_ops++];
    *o = (mf_op){.kind = kind, .inode = inode};
    if (path) strcpy(o->path, path);
    return o;
}

static void mf_folder_of(const char *path, char out[MF_PATH])
{
    strcpy(out, path);
    char *slash = strrchr(out, '/');
    if (!slash) strcpy(out, ".");
    else if (slash == out) out[1] = '\0';
    else *slash = '\0';
}

/* A path without a slash at its end, which names of folders may have. */
static const char *mf_trim(const char *path, char out[MF_PATH])
{
    size_t n = strlen(path);
    if (n >= MF_PATH) mf_die("a long path");
    while (n > 1 && path[n - 1] == '/') --n;
    memcpy(out, path, n);
    out[n] = '\0';
    return out;
}

/* ---- the calls ---- */

static int mf_open(const char *given, int flags, mode_t mode)
{
    char path[MF_PATH], parent[MF_PATH];
    (void)mode;
    mf_trim(given, path);
    pthread_mutex_lock(&mf.lock);
    int i = mf_find(mf.fs, path), inode = i < 0 ? -1 : mf.fs->names[i].inode, err = 0;
    if (inode >= 0 && (flags & O_CREAT) && (flags & O_EXCL)) err = EEXIST;
    else if (inode < 0 && !(flags & O_CREAT)) err = ENOENT;
    else if (inode >= 0 && (flags & O_DIRECTORY) && !mf.fs->inodes[inode].dir) err = ENOTDIR;
    mf_folder_of(path, parent);
    if (!err && inode < 0 && mf_find(mf.fs, parent) < 0) err = ENOENT;
    if (!err && inode < 0) {
        inode = mf_new_inode(mf.fs, false);
        mf_set(mf.fs, path, inode);
        mf_record(MF_MAKE, inode, path);
    }
    int fd = -1;
    for (int k = 0; !err && k < MF_FDS && fd < 0; ++k)
        if (!mf.fds[k].path[0]) fd = k;
    if (!err && fd < 0) mf_die("too many descriptors");
    if (fd >= 0) {
        mf.fds[fd].inode = inode;
        strcpy(mf.fds[fd].path, path);
    }
    pthread_mutex_unlock(&mf.lock);
    errno = err;
    return fd < 0 ? -1 : fd + 100;
}

static int mf_close(int fd)
{
    pthread_mutex_lock(&mf.lock);
    mf.fds[fd - 100].path[0] = '\0';
    pthread_mutex_unlock(&mf.lock);
    return 0;
}

static ssize_t mf_pread(int fd, void *dst, size_t n, off_t at)
{
    pthread_mutex_lock(&mf.lock);
    const mf_inode *f = &mf.fs->inodes[mf.fds[fd - 100].inode];
    const size_t have = (size_t)at < f->size ? f->size - (size_t)at : 0, k = n < have ? n : have;
    if (k) memcpy(dst, f->data + at, k);
    pthread_mutex_unlock(&mf.lock);
    return (ssize_t)k;
}

static ssize_t mf_pwrite(int fd, const void *src, size_t n, off_t at)
{
    pthread_mutex_lock(&mf.lock);
    const int inode = mf.fds[fd - 100].inode;
    if (mf.full_at && --mf.full_at == 0) {
        pthread_mutex_unlock(&mf.lock);
        errno = ENOSPC;
        return -1;
    }
    mf_put(&mf.fs->inodes[inode], (size_t)at, src, n);
    mf_op *o = mf_record(MF_WRITE, inode, NULL);
    if (mf.recording) {
        o->data = malloc(n);
        if (!o->data) mf_die("no memory");
        memcpy(o->data, src, n);
        o->n = n;
        o->at = (size_t)at;
    }
    pthread_mutex_unlock(&mf.lock);
    return (ssize_t)n;
}

static void mf_fill_stat(const mf_inode *f, struct stat *out)
{
    memset(out, 0, sizeof(*out));
    out->st_mode = f->dir ? S_IFDIR | 0777 : S_IFREG | 0666;
    out->st_size = (off_t)f->size;
}

static int mf_fstat(int fd, struct stat *out)
{
    pthread_mutex_lock(&mf.lock);
    mf_fill_stat(&mf.fs->inodes[mf.fds[fd - 100].inode], out);
    pthread_mutex_unlock(&mf.lock);
    return 0;
}

static int mf_stat(const char *given, struct stat *out)
{
    char path[MF_PATH];
    mf_trim(given, path);
    pthread_mutex_lock(&mf.lock);
    const int i = mf_find(mf.fs, path);
    if (i >= 0) mf_fill_stat(&mf.fs->inodes[mf.fs->names[i].inode], out);
    pthread_mutex_unlock(&mf.lock);
    errno = ENOENT;
    return i < 0 ? -1 : 0;
}

static int mf_fsync(int fd)
{
    pthread_mutex_lock(&mf.lock);
    const int inode = mf.fds[fd - 100].inode;
    if (mf.fs->inodes[inode].dir) mf_record(MF_FLUSH_DIR, inode, mf.fds[fd - 100].path);
    else mf_record(MF_FLUSH, inode, NULL);
    pthread_mutex_unlock(&mf.lock);
    return 0;
}

static int mf_rename(const char *from, const char *to)
{
    pthread_mutex_lock(&mf.lock);
    const int i = mf_find(mf.fs, from);
    if (i >= 0) {
        const int inode = mf.fs->names[i].inode;
        mf_clear(mf.fs, from);
        mf_set(mf.fs, to, inode);
        mf_op *o = mf_record(MF_RENAME, inode, from);
        strcpy(o->to, to);
    }
    pthread_mutex_unlock(&mf.lock);
    errno = ENOENT;
    return i < 0 ? -1 : 0;
}

static int mf_unlink(const char *path)
{
    pthread_mutex_lock(&mf.lock);
    const int i = mf_find(mf.fs, path);
    if (i >= 0) {
        mf_record(MF_UNLINK, mf.fs->names[i].inode, path);
        mf_clear(mf.fs, path);
    }
    pthread_mutex_unlock(&mf.lock);
    errno = ENOENT;
    return i < 0 ? -1 : 0;
}

static int mf_mkdir(const char *given, mode_t mode)
{
    char path[MF_PATH];
    (void)mode;
    mf_trim(given, path);
    pthread_mutex_lock(&mf.lock);
    const bool there = mf_find(mf.fs, path) >= 0;
    if (!there) {
        const int inode = mf_new_inode(mf.fs, true);
        mf_set(mf.fs, path, inode);
        mf_record(MF_MAKE, inode, path);
    }
    pthread_mutex_unlock(&mf.lock);
    errno = EEXIST;
    return there ? -1 : 0;
}

/* Whether a name lies in the folder. */
static bool mf_inside(const char *name, const char *parent)
{
    char above[MF_PATH];
    mf_folder_of(name, above);
    return strcmp(above, parent) == 0 && strcmp(name, parent) != 0;
}

static int mf_rmdir(const char *given)
{
    char path[MF_PATH];
    mf_trim(given, path);
    pthread_mutex_lock(&mf.lock);
    const int i = mf_find(mf.fs, path);
    int err = i < 0 ? ENOENT : 0;
    for (int k = 0; k < mf.fs->n_names; ++k)
        if (mf_inside(mf.fs->names[k].path, path)) err = ENOTEMPTY;
    if (!err) {
        mf_record(MF_UNLINK, mf.fs->names[i].inode, path);
        mf_clear(mf.fs, path);
    }
    pthread_mutex_unlock(&mf.lock);
    errno = err;
    return err ? -1 : 0;
}

static int mf_flock(int fd, int how)
{
    (void)fd, (void)how;
    return 0;
}

static int mf_kill(pid_t pid, int sig)
{
    (void)pid, (void)sig;
    errno = ESRCH;
    return -1;
}

typedef struct mf_dir {
    int n, next;
    struct dirent entries[MF_NAMES];
} mf_dir;

static DIR *mf_opendir(const char *given)
{
    char path[MF_PATH];
    mf_trim(given, path);
    mf_dir *d = calloc(1, sizeof(*d));
    if (!d) mf_die("no memory");
    pthread_mutex_lock(&mf.lock);
    for (int k = 0; k < mf.fs->n_names; ++k)
        if (mf_inside(mf.fs->names[k].path, path))
            strcpy(d->entries[d->n++].d_name, strrchr(mf.fs->names[k].path, '/') + 1);
    pthread_mutex_unlock(&mf.lock);
    return (DIR *)(void *)d;
}

static struct dirent *mf_readdir(DIR *d)
{
    mf_dir *m = (mf_dir *)(void *)d;
    return m->next < m->n ? &m->entries[m->next++] : NULL;
}

static int mf_closedir(DIR *d)
{
    free(d);
    return 0;
}

static const iv__io_calls mf_calls = {.open = mf_open,
                                      .close = mf_close,
                                      .pread = mf_pread,
                                      .pwrite = mf_pwrite,
                                      .fstat = mf_fstat,
                                      .stat = mf_stat,
                                      .fdatasync = mf_fsync,
                                      .fsync = mf_fsync,
                                      .rename = mf_rename,
                                      .unlink = mf_unlink,
                                      .mkdir = mf_mkdir,
                                      .rmdir = mf_rmdir,
                                      .flock = mf_flock,
                                      .kill = mf_kill,
                                      .opendir = mf_opendir,
                                      .readdir = mf_readdir,
                                      .closedir = mf_closedir};

/* ---- states after a crash ---- */

static inline void mf_free(mf_fs *fs)
{
    for (int i = 0; i < fs->n_inodes; ++i) free(fs->inodes[i].data);
    memset(fs, 0, sizeof(*fs));
}

static inline void mf_copy(mf_fs *dst, const mf_fs *src)
{
    mf_free(dst);
    *dst = *src;
    for (int i = 0; i < src->n_inodes; ++i) {
        mf_inode *f = &dst->inodes[i];
        f->data = NULL;
        f->cap = f->size = 0;
        if (src->inodes[i].size) mf_put(f, 0, src->inodes[i].data, src->inodes[i].size);
    }
}

static inline uint64_t mf_next(uint64_t *state) /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

/* Whether a flush after op i and before op n makes it certain. */
static inline bool mf_certain(int i, int n)
{
    const mf_op *o = &mf.ops[i];
    char parent[MF_PATH], to[MF_PATH] = "";
    if (o->kind != MF_WRITE) mf_folder_of(o->path, parent);
    if (o->kind == MF_RENAME) mf_folder_of(o->to, to);
    for (int k = i + 1; k < n; ++k) {
        const mf_op *f = &mf.ops[k];
        if (o->kind == MF_WRITE ? f->kind == MF_FLUSH && f->inode == o->inode
                                : f->kind == MF_FLUSH_DIR && strcmp(f->path, parent) == 0)
            return true;
    }
    return false;
}

/* A write of which some sectors arrived. */
static inline void mf_tear(mf_inode *f, const mf_op *o, uint64_t *random)
{
    const uint64_t how = mf_next(random) % 4;
    const size_t cut = mf_next(random) % (o->n / MF_SECTOR + 1) * MF_SECTOR;
    if (how == 0) mf_put(f, o->at, o->data, cut); /* the front */
    else if (how == 1 && cut < o->n) mf_put(f, o->at + cut, o->data + cut, o->n - cut);
    else
        for (size_t k = 0; k < o->n; k += MF_SECTOR) {
            const size_t n = o->n - k < MF_SECTOR ? o->n - k : MF_SECTOR;
            char other[MF_SECTOR];
            if (mf_next(random) & 1) mf_put(f, o->at + k, o->data + k, n);
            else if (how == 3) { /* what was there before on the disk */
                memset(other, (int)(mf_next(random) & 255), sizeof(other));
                mf_put(f, o->at + k, other, n);
            }
        }
}

/* Which of the first n operations are names (make, rename, unlink) that are not certain. */
static inline int mf_loose_names(int n, int out[MF_OPS])
{
    int count = 0;
    for (int i = 0; i < n; ++i) {
        const mf_kind k = mf.ops[i].kind;
        if ((k == MF_MAKE || k == MF_RENAME || k == MF_UNLINK) && !mf_certain(i, n))
            out[count++] = i;
    }
    return count;
}

/* How many of the first n operations are writes that are not certain. */
static inline int mf_loose_writes(int n)
{
    int count = 0;
    for (int i = 0; i < n; ++i) count += mf.ops[i].kind == MF_WRITE && !mf_certain(i, n);
    return count;
}

/* Names below folders that are not there are not there. */
static inline void mf_drop_unreachable(mf_fs *fs)
{
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < fs->n_names; ++i) {
            char parent[MF_PATH];
            mf_folder_of(fs->names[i].path, parent);
            if (strcmp(fs->names[i].path, "/") != 0 && mf_find(fs, parent) < 0) {
                fs->names[i] = fs->names[--fs->n_names];
                again = true;
                break;
            }
        }
    }
}

/* The state `fs` after a crash when n operations had been issued on `base`.  names: a bit for each
 * of the loose names (mf_loose_names), whether it happened.  data: 0 no loose write happened, 1
 * all, 2 each as it falls. */
static inline void mf_crash(mf_fs *fs, const mf_fs *base, const mf_fs *live, int n, uint64_t names,
                            int data, uint64_t *random)
{
    int loose[MF_OPS];
    const int n_loose = mf_loose_names(n, loose);
    mf_copy(fs, base);
    for (int i = base->n_inodes; i < live->n_inodes; ++i)
        fs->inodes[fs->n_inodes++] = (mf_inode){.dir = live->inodes[i].dir};
    for (int i = 0, k = 0; i < n; ++i) {
        const mf_op *o = &mf.ops[i];
        if (o->kind == MF_WRITE) {
            const bool sure = mf_certain(i, n);
            const uint64_t fate = sure || data == 1 ? 0 : data == 0 ? 1 : mf_next(random) % 3;
            if (fate == 0) mf_put(&fs->inodes[o->inode], o->at, o->data, o->n);
            else if (fate == 2) mf_tear(&fs->inodes[o->inode], o, random);
        }
        bool happens = true;
        if (k < n_loose && loose[k] == i) happens = names >> (k++ % 64) & 1;
        if (!happens) continue;
        if (o->kind == MF_MAKE) mf_set(fs, o->path, o->inode);
        if (o->kind == MF_UNLINK) mf_clear(fs, o->path);
        if (o->kind == MF_RENAME) {
            mf_set(fs, o->to, o->inode);
            if (mf_certain(i, n) || data != 2 || mf_next(random) & 1) mf_clear(fs, o->path);
        }
    }
    mf_drop_unreachable(fs);
}

#endif
