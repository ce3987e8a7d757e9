/* pour.c: large files from many pieces of memory, by several threads (see pour.h). */
#include "pour.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { THREADS = 4, ALIGN = 4096 };
#define BLOCK ((uint64_t)4 << 20)

typedef struct pour {
    iv__io_file *f;
    iv__io_piece *pieces;
    int64_t n;
    uint64_t begin, end, first_block;
    int direct_fd; /* -1: none */
    pthread_mutex_t lock;
    /* under the lock */
    int64_t next_block, n_blocks, next_sum;
    bool failed, no_direct;
    int err; /* of the first failure: 0 stands for no memory */
    uint64_t err_at;
} pour;

static void keep_error(pour *p, int err, uint64_t at)
{
    pthread_mutex_lock(&p->lock);
    if (!p->failed) {
        p->failed = true;
        p->err = err;
        p->err_at = at;
    }
    pthread_mutex_unlock(&p->lock);
}

/* Index of the piece that holds file offset `at` (begin <= at < end). */
static int64_t piece_at(const pour *p, uint64_t at)
{
    int64_t lo = 0, hi = p->n - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        if (p->pieces[mid].at <= at) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

/* Copies the file's bytes [at, at + n) to dst. */
static void gather(const pour *p, uint64_t at, uint64_t n, char *dst)
{
    for (int64_t i = piece_at(p, at); n > 0; ++i) {
        const iv__io_piece *q = &p->pieces[i];
        const uint64_t skip = at - q->at, have = q->bytes > skip ? q->bytes - skip : 0;
        const uint64_t take = have < n ? have : n;
        if (take) memcpy(dst, q->src + skip, (size_t)take);
        dst += take;
        at += take;
        n -= take;
    }
}

/* 0, or the errno. */
static int put(const pour *p, int fd, const char *src, uint64_t n, uint64_t at)
{
    while (n > 0) {
        ssize_t k = p->f->job->calls->pwrite(fd, src, (size_t)n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return k < 0 ? errno : ENOSPC;
        src += k;
        at += (uint64_t)k;
        n -= (uint64_t)k;
        /* After a short write the rest need not be aligned. */
        if (n > 0) fd = p->f->fd;
    }
    return 0;
}

static void write_block(pour *p, int64_t block, char *buffer)
{
    uint64_t at = (p->first_block + (uint64_t)block) * BLOCK, to = at + BLOCK;
    if (at < p->begin) at = p->begin;
    if (to > p->end) to = p->end;
    gather(p, at, to - at, buffer);
    pthread_mutex_lock(&p->lock);
    bool direct = p->direct_fd >= 0 && !p->no_direct && to - at == BLOCK;
    pthread_mutex_unlock(&p->lock);
    int err = put(p, direct ? p->direct_fd : p->f->fd, buffer, to - at, at);
    if (err == EINVAL && direct) { /* opened, but not to be written so: the plain way */
        pthread_mutex_lock(&p->lock);
        p->no_direct = true;
        pthread_mutex_unlock(&p->lock);
        err = put(p, p->f->fd, buffer, to - at, at);
    }
    if (err) keep_error(p, err, at);
}

/* Takes jobs until there are none: blocks first, so that the disk is busy, then checksums. */
static void *work(void *arg)
{
    pour *p = arg;
    char *buffer = aligned_alloc(ALIGN, BLOCK);
    if (!buffer) keep_error(p, 0, 0);
    for (;;) {
        pthread_mutex_lock(&p->lock);
        int64_t block = -1, sum = -1;
        if (p->failed) block = -1;
        else if (p->next_block < p->n_blocks) block = p->next_block++;
        else if (p->next_sum < p->n) sum = p->next_sum++;
        pthread_mutex_unlock(&p->lock);
        if (block >= 0) write_block(p, block, buffer);
        else if (sum >= 0)
            p->pieces[sum].sum = XXH3_64bits(p->pieces[sum].src, (size_t)p->pieces[sum].bytes);
        else break;
    }
    free(buffer);
    return NULL;
}

static void run(pour *p)
{
    pthread_t threads[THREADS];
    int started = 0;
    while (started < THREADS - 1 && pthread_create(&threads[started], NULL, work, p) == 0)
        ++started;
    work(p); /* with no other thread, all of it */
    for (int i = 0; i < started; ++i) pthread_join(threads[i], NULL);
}

iv_status iv__io_pour(iv__io_file *f, iv__io_piece *pieces, int64_t n, iv__io_way way)
{
    if (n == 0) return IV_OK;
    const iv__io_job *j = f->job;
    pour p = {.f = f,
              .pieces = pieces,
              .n = n,
              .begin = pieces[0].at,
              .end = pieces[n - 1].at + pieces[n - 1].bytes,
              .direct_fd = -1};
    p.first_block = p.begin / BLOCK;
    p.n_blocks = (int64_t)((p.end + BLOCK - 1) / BLOCK - p.first_block);
    if (p.end == p.begin) p.n_blocks = 0;
    if (way == IV_IO_DIRECT)
        p.direct_fd = j->calls->open(f->tmp, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECT, 0);
    pthread_mutex_init(&p.lock, NULL);
    run(&p);
    pthread_mutex_destroy(&p.lock);
    if (p.direct_fd >= 0) j->calls->close(p.direct_fd);
    if (!p.failed) return IV_OK;
    if (p.err == 0) return iv__io_fail(j, IV_NO_MEMORY, "allocating buffers for writing");
    return iv__io_fail_errno(j, p.err, "writing at %llu of %s failed", (unsigned long long)p.err_at,
                             f->tmp);
}
