/* safetensors.c: checkpoints as safetensors files, which other programs read without Invar.
 *
 * Saving writes the tensors straight from their memory, a chunk at a time, and takes the checksum
 * of a chunk while it is in the cache; the header, whose size is known before its digits are, comes
 * last. Loading checks the header, then reads each tensor straight to its destination and verifies
 * it.  Apart from the header and one chunk nothing is held in memory.  The layout, and which bytes
 * the two checksum entries cover, is told in st_header.h; atomic replacement is io.c.
 *
 * Every byte of a file of ours is covered: the length and the header with its padding by one
 * checksum, the data of each tensor by its own.  Files without them load unverified.
 */
#include "safetensors.h"
#include "st_header.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CHUNK ((size_t)1 << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors are written as they lie in memory");

typedef struct plugin_self {
    const iv_host *host;
    const iv__io_calls *calls;
} plugin_self;

static iv__io_job job_of(void *self, const char *doing, const char *path)
{
    const plugin_self *p = self;
    return (iv__io_job){.host = p->host, .calls = p->calls, .doing = doing, .path = path};
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- save ---- */

/* Writes one tensor's bytes at `at` and their checksum's digits to `hex`. */
static iv_status write_tensor(iv__io_file *f, const iv_ckpt_tensor *t, uint64_t bytes, uint64_t at,
                              XXH3_state_t *x, char *hex)
{
    XXH3_64bits_reset(x);
    const char *src = t->data;
    for (uint64_t done = 0; done < bytes;) {
        const size_t n = (size_t)min_u64(CHUNK, bytes - done);
        XXH3_64bits_update(x, src + done, n);
        iv_status s = iv__io_write(f, src + done, n, at + done);
        if (s != IV_OK) return s;
        done += n;
    }
    iv__st_hex(XXH3_64bits_digest(x), hex);
    return IV_OK;
}

static iv_status write_all(iv__io_file *f, const iv_ckpt *c, iv__st_text *head)
{
    XXH3_state_t *x = XXH3_createState();
    if (!x) return iv__io_fail(f->job, IV_NO_MEMORY, "allocating a checksum state");
    iv_status s = IV_OK;
    uint64_t at = head->n;
    for (int64_t i = 0; i < c->n_tensors && s == IV_OK; ++i) {
        uint64_t bytes = 0;
        s = iv__st_bytes(f->job, &c->tensors[i], &bytes);
        if (s == IV_OK)
            s = write_tensor(f, &c->tensors[i], bytes, at, x,
                             head->s + head->sums_at + (size_t)i * (IV__ST_HEX + 1));
        at += bytes;
    }
    XXH3_freeState(x);
    if (s != IV_OK) return s;
    iv__st_hex(XXH3_64bits(head->s, head->n), head->s + IV__ST_SELF_AT);
    return iv__io_write(f, head->s, head->n, 0);
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    const iv__io_job j = job_of(self, "saving", path);
    if (!c || c->n_tensors < 0 || c->n_meta < 0 || (c->n_tensors && !c->tensors) ||
        (c->n_meta && !c->meta))
        return iv__io_fail(&j, IV_INVALID, "no contents were given");
    iv__st_text head;
    iv__io_file f;
    iv_status s = iv__st_build(&j, c, &head);
    if (s != IV_OK) return s;
    s = iv__io_create(&j, &f);
    if (s == IV_OK) {
        s = write_all(&f, c, &head);
        if (s == IV_OK) s = iv__io_commit(&f);
        iv__io_discard(&f);
    }
    free(head.s);
    return s;
}

/* ---- load ---- */

typedef struct reader {
    const iv__io_job *job;
    const iv_ckpt_sink *sink;
    int fd;
    uint64_t data_at; /* offset of the data in the file */
    iv__st_header h;
    XXH3_state_t *x; /* NULL: nothing to verify */
    char *chunk;     /* [CHUNK] for tensors that nobody wants, made when needed */
} reader;

/* Length of the header of an opened file, or the reason why this is no such file. */
static iv_status read_length(const iv__io_job *j, int fd, uint64_t size, uint64_t *out_n)
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
    iv_status s = read_length(r->job, r->fd, size, &n);
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

static iv_status need_scratch(reader *r)
{
    if (r->chunk) return IV_OK;
    r->chunk = malloc(CHUNK);
    if (!r->chunk) return iv__io_fail(r->job, IV_NO_MEMORY, "allocating %zu bytes", CHUNK);
    return IV_OK;
}

/* Reads tensor i to dst (NULL: only past it, for the checksum) and verifies it. */
static iv_status read_tensor(reader *r, int64_t i, char *dst)
{
    const iv__st_tensor *t = &r->h.tensors[i];
    const uint64_t bytes = t->end - t->begin;
    if (!dst && !r->x) return IV_OK;
    iv_status s = dst ? IV_OK : need_scratch(r);
    if (r->x) XXH3_64bits_reset(r->x);
    for (uint64_t done = 0; done < bytes && s == IV_OK;) {
        const size_t n = (size_t)min_u64(CHUNK, bytes - done);
        char *to = dst ? dst + done : r->chunk;
        s = iv__io_read(r->job, r->fd, to, n, r->data_at + t->begin + done);
        if (s == IV_OK && r->x) XXH3_64bits_update(r->x, to, n);
        done += n;
    }
    if (s != IV_OK || !r->x) return s;
    char found[IV__ST_HEX];
    iv__st_hex(XXH3_64bits_digest(r->x), found);
    const char *stored = r->h.sums + (size_t)i * (IV__ST_HEX + 1);
    if (memcmp(found, stored, IV__ST_HEX) != 0)
        return iv__io_fail(r->job, IV_CORRUPT,
                           "tensor \"%.200s\": the checksum of its %llu bytes is %.16s, "
                           "the file says %.16s",
                           t->name, (unsigned long long)bytes, found, stored);
    return IV_OK;
}

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

static iv_status deliver_tensor(reader *r, int64_t i)
{
    const iv__st_tensor *t = &r->h.tensors[i];
    if (!can_hold(r, t)) return read_tensor(r, i, NULL);
    const iv_ckpt_tensor info = {
        .name = t->name, .dtype = (iv_dtype)t->dtype->type, .shape = t->shape};
    void *dst = NULL;
    iv_status s = r->sink->want(r->sink->ctx, &info, &dst);
    if (s == IV_OK) s = read_tensor(r, i, dst);
    if (s == IV_OK && dst && r->sink->done) s = r->sink->done(r->sink->ctx, &info, dst);
    return s;
}

static iv_status deliver(reader *r)
{
    iv_status s = IV_OK;
    if (r->h.sums) {
        r->x = XXH3_createState();
        if (!r->x) return iv__io_fail(r->job, IV_NO_MEMORY, "allocating a checksum state");
    }
    for (int64_t i = 0; i < r->h.n_meta && s == IV_OK && r->sink->meta; ++i)
        s = r->sink->meta(r->sink->ctx, r->h.meta[i].key, r->h.meta[i].value);
    for (int64_t i = 0; i < r->h.n_tensors && s == IV_OK; ++i) s = deliver_tensor(r, i);
    return s;
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const iv__io_job j = job_of(self, "loading", path);
    reader r = {.job = &j, .sink = sink};
    uint64_t size = 0;
    iv_status s = iv__io_open(&j, &r.fd, &size);
    if (s != IV_OK) return s;
    s = read_header(&r, size);
    if (s == IV_OK) s = deliver(&r);
    iv__st_header_free(&r.h);
    XXH3_freeState(r.x);
    free(r.chunk);
    j.calls->close(r.fd);
    return s;
}

/* ---- the rest ---- */

/* fail() of a host for whom it is no failure that a file is something else. */
static iv_status fail_quietly(iv_status code, const char *fmt, ...)
{
    (void)fmt;
    return code;
}

static int detect(void *self, const char *path)
{
    static const char ext[] = ".safetensors";
    iv_host quiet = *((plugin_self *)self)->host;
    quiet.fail = fail_quietly;
    iv__io_job j = job_of(self, "detecting", path);
    j.host = &quiet;
    const size_t n_path = path ? strlen(path) : 0, n_ext = sizeof(ext) - 1;
    const bool named = n_path > n_ext && memcmp(path + n_path - n_ext, ext, n_ext) == 0;
    int fd;
    uint64_t size = 0, n = 0;
    iv_status s = iv__io_open(&j, &fd, &size);
    if (s == IV_INVALID) return 0;
    if (s != IV_OK) return named ? 50 : 0;
    char first = 0;
    bool fits = read_length(&j, fd, size, &n) == IV_OK && n >= 2 &&
                iv__io_read(&j, fd, &first, 1, 8) == IV_OK && first == '{';
    j.calls->close(fd);
    if (fits) return named ? 100 : 90;
    return named ? 40 : 0;
}

static iv_status remove_checkpoint(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "removing", path);
    return iv__io_remove(&j);
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    if (args && *args)
        return host->fail(IV_INVALID,
                          "checkpoint plugin safetensors: \"%s\": it takes no arguments", args);
    plugin_self *p = malloc(sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin safetensors: allocating %zu bytes",
                          sizeof(*p));
    *p = (plugin_self){.host = host, .calls = &iv__io_system};
    *out_self = p;
    return IV_OK;
}

void iv__st_use_calls(void *self, const iv__io_calls *calls)
{
    ((plugin_self *)self)->calls = calls;
}

static const iv_checkpoint vtable = {
    .detect = detect,
    .save = save,
    .load = load,
    .remove = remove_checkpoint,
    .drain = NULL, /* a save is durable when it returns */
    .extension = ".safetensors",
};

const iv_plugin iv__plugin_safetensors = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "safetensors",
    .version = "1.0",
    .summary = "safetensors files with checksums, replaced atomically",
    .vtable = &vtable,
    .init = init,
    .fini = free,
};
