/* st_read.c: reads a safetensors file (see st_header.h for its layout).
 *
 * The header is checked first and the receiver asked where each tensor should go.  Then the data is
 * read straight to its destinations and verified, a tensor by a thread: by one for small files.
 * Every byte of a file of ours is covered: the length and the header with its padding by one
 * checksum, the data of each tensor by its own.  Files without them load unverified. */
#include "safetensors.h"
#include "st_header.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CHUNK ((size_t)1 << 20)
enum { THREADS = 4 };

/* What became of a tensor's data.  The text of an error is made on the caller's thread. */
typedef struct outcome {
    enum { FINE, NO_MEMORY, FAILED, ENDED, DIFFERS } what;
    int err;     /* FAILED */
    uint64_t at; /* FAILED, ENDED: in the file */
    char found[IV__ST_HEX + 1];
} outcome;

typedef struct reader {
    const iv__io_job *job;
    const iv_ckpt_sink *sink;
    int fd;
    uint64_t data_at; /* offset of the data in the file */
    iv__st_header h;
    char **dst;        /* [n_tensors]; NULL: only verified */
    outcome *outcomes; /* [n_tensors] */
    pthread_mutex_t lock;
    int64_t next; /* tensor to be read; under the lock */
    bool stop;    /* as well */
} reader;

/* ---- header ---- */

iv_status iv__st_length(const iv__io_job *j, int fd, uint64_t size, uint64_t *out_n)
{
    unsigned char b[8];
    if (size < 8)
        return iv__io_fail(j, IV_CORRUPT, "the file has %llu bytes, the shortest possible has 10",
                           (unsigned long long)size);
    iv_status s = iv__io_read(j, fd, b, 8, 0);
    if (s != IV_OK) return s;
    uint64_t n = 0;
    for (int i = 0; i < 8; ++i) n |= (uint64_t)b[i] << (8 * i);
    if (n > IV__ST_MAX_HEADER)
        return iv__io_fail(j, IV_CORRUPT,
                           "its header of %llu bytes is longer than the format's limit of %u "
                           "[hint: this may not be a safetensors file]",
                           (unsigned long long)n, IV__ST_MAX_HEADER);
    if (n > size - 8)
        return iv__io_fail(j, IV_CORRUPT,
                           "its header of %llu bytes does not fit the file of %llu bytes "
                           "[hint: the file was cut short, or is no safetensors file]",
                           (unsigned long long)n, (unsigned long long)size);
    *out_n = n;
    return IV_OK;
}

static iv_status read_header(reader *r, uint64_t size)
{
    uint64_t n = 0;
    iv_status s = iv__st_length(r->job, r->fd, size, &n);
    if (s != IV_OK) return s;
    r->data_at = 8 + n;
    unsigned char *text = malloc((size_t)r->data_at);
    if (!text)
        return iv__io_fail(r->job, IV_NO_MEMORY, "allocating %llu bytes for its header",
                           (unsigned long long)n);
    s = iv__io_read(r->job, r->fd, text, (size_t)r->data_at, 0);
    if (s == IV_OK) s = iv__st_parse(r->job, text, (size_t)r->data_at, size - r->data_at, &r->h);
    free(text);
    return s;
}

/* ---- data ---- */

static bool read_chunk(const reader *r, char *to, size_t n, uint64_t at, outcome *o)
{
    for (size_t have = 0; have < n;) {
        ssize_t got = r->job->calls->pread(r->fd, to + have, n - have, (off_t)(at + have));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            *o = (outcome){.what = got < 0 ? FAILED : ENDED, .err = errno, .at = at + have};
            return false;
        }
        have += (size_t)got;
    }
    return true;
}

/* Reads tensor i to its destination (none: past it, for the checksum) and verifies it. */
static void read_tensor(const reader *r, int64_t i, XXH3_state_t *x, char *scratch, outcome *o)
{
    const iv__st_tensor *t = &r->h.tensors[i];
    const uint64_t bytes = t->end - t->begin;
    if (!r->dst[i] && !r->h.sums) return;
    XXH3_64bits_reset(x);
    for (uint64_t done = 0; done < bytes;) {
        const size_t n = (size_t)(bytes - done < CHUNK ? bytes - done : CHUNK);
        char *to = r->dst[i] ? r->dst[i] + done : scratch;
        if (!read_chunk(r, to, n, r->data_at + t->begin + done, o)) return;
        if (r->h.sums) XXH3_64bits_update(x, to, n);
        done += n;
    }
    if (!r->h.sums) return;
    iv__st_hex(XXH3_64bits_digest(x), o->found);
    if (memcmp(o->found, r->h.sums + (size_t)i * (IV__ST_HEX + 1), IV__ST_HEX) != 0)
        o->what = DIFFERS;
}

static void *work(void *arg)
{
    reader *r = arg;
    XXH3_state_t *x = XXH3_createState();
    char *scratch = malloc(CHUNK);
    for (;;) {
        pthread_mutex_lock(&r->lock);
        int64_t i = r->stop || r->next == r->h.n_tensors ? -1 : r->next++;
        pthread_mutex_unlock(&r->lock);
        if (i < 0) break;
        if (x && scratch) read_tensor(r, i, x, scratch, &r->outcomes[i]);
        else r->outcomes[i].what = NO_MEMORY;
        if (r->outcomes[i].what == FINE) continue;
        pthread_mutex_lock(&r->lock);
        r->stop = true;
        pthread_mutex_unlock(&r->lock);
    }
    free(scratch);
    XXH3_freeState(x);
    return NULL;
}

static iv_status tell(const reader *r, int64_t i)
{
    const outcome *o = &r->outcomes[i];
    const iv__st_tensor *t = &r->h.tensors[i];
    const unsigned long long at = o->at, bytes = t->end - t->begin;
    switch (o->what) {
    case NO_MEMORY: return iv__io_fail(r->job, IV_NO_MEMORY, "allocating %zu bytes", CHUNK);
    case FAILED: return iv__io_fail_errno(r->job, o->err, "reading at %llu failed", at);
    case ENDED:
        return iv__io_fail(r->job, IV_IO,
                           "the file became shorter while it was read: it ends at %llu, within "
                           "tensor \"%.200s\"",
                           at, t->name);
    case DIFFERS:
        return iv__io_fail(r->job, IV_CORRUPT,
                           "tensor \"%.200s\": the checksum of its %llu bytes is %.16s, "
                           "the file says %.16s",
                           t->name, bytes, o->found, r->h.sums + (size_t)i * (IV__ST_HEX + 1));
    case FINE: break;
    }
    return IV_OK;
}

static iv_status read_data(reader *r)
{
    const iv__st_tensor *last = r->h.n_tensors ? &r->h.tensors[r->h.n_tensors - 1] : NULL;
    pthread_t threads[THREADS];
    int started = 0;
    pthread_mutex_init(&r->lock, NULL);
    while (last && last->end >= IV__ST_LARGE && started < THREADS - 1 &&
           pthread_create(&threads[started], NULL, work, r) == 0)
        ++started;
    work(r);
    for (int i = 0; i < started; ++i) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&r->lock);
    iv_status s = IV_OK;
    for (int64_t i = 0; i < r->h.n_tensors && s == IV_OK; ++i) s = tell(r, i);
    return s;
}

/* ---- the receiver ---- */

/* Whether Invar can hold the tensor; else says that it is skipped. */
static bool can_hold(const reader *r, const iv__st_tensor *t)
{
    if (t->dtype->type >= 0 && t->rank <= IV_MAX_RANK) return true;
    r->job->host->log(IV_LOG_WARN,
                      "loading checkpoint %s: tensor \"%.200s\" is skipped: %s of rank %lld is "
                      "not held here",
                      r->job->path, t->name, t->dtype->name, (long long)t->rank);
    return false;
}

static iv_ckpt_tensor info_of(const iv__st_tensor *t)
{
    return (iv_ckpt_tensor){.name = t->name, .dtype = (iv_dtype)t->dtype->type, .shape = t->shape};
}

static iv_status deliver(reader *r)
{
    const iv_ckpt_sink *k = r->sink;
    iv_status s = IV_OK;
    r->dst = calloc((size_t)r->h.n_tensors + 1, sizeof(*r->dst));
    r->outcomes = calloc((size_t)r->h.n_tensors + 1, sizeof(*r->outcomes));
    if (!r->dst || !r->outcomes)
        return iv__io_fail(r->job, IV_NO_MEMORY, "allocating %lld entries",
                           (long long)r->h.n_tensors);
    for (int64_t i = 0; i < r->h.n_meta && s == IV_OK && k->meta; ++i)
        s = k->meta(k->ctx, r->h.meta[i].key, r->h.meta[i].value);
    for (int64_t i = 0; i < r->h.n_tensors && s == IV_OK; ++i) {
        const iv_ckpt_tensor info = info_of(&r->h.tensors[i]);
        void *dst = NULL;
        if (can_hold(r, &r->h.tensors[i])) s = k->want(k->ctx, &info, &dst);
        r->dst[i] = dst;
    }
    if (s == IV_OK) s = read_data(r);
    for (int64_t i = 0; i < r->h.n_tensors && s == IV_OK && k->done; ++i) {
        const iv_ckpt_tensor info = info_of(&r->h.tensors[i]);
        if (r->dst[i]) s = k->done(k->ctx, &info, r->dst[i]);
    }
    return s;
}

static iv_status check_stamp(const reader *r, uint64_t size, const iv__st_stamp *stamp)
{
    if (!stamp) return IV_OK;
    if (stamp->bytes != size)
        return iv__io_fail(r->job, IV_CORRUPT, "it has %llu bytes, %llu were written",
                           (unsigned long long)size, (unsigned long long)stamp->bytes);
    if (strcmp(stamp->header, r->h.self) != 0)
        return iv__io_fail(
            r->job, IV_CORRUPT,
            "its header has the checksum %.16s, that of the file that was written is "
            "%.16s",
            r->h.self, stamp->header);
    return IV_OK;
}

iv_status iv__st_read(const iv__io_job *j, const iv_ckpt_sink *sink, const iv__st_stamp *stamp)
{
    reader r = {.job = j, .sink = sink};
    uint64_t size = 0;
    iv_status s = iv__io_open(j, &r.fd, &size);
    if (s != IV_OK) return s;
    s = read_header(&r, size);
    if (s == IV_OK) s = check_stamp(&r, size, stamp);
    if (s == IV_OK) s = deliver(&r);
    iv__st_header_free(&r.h);
    free(r.dst);
    free(r.outcomes);
    j->calls->close(r.fd);
    return s;
}
