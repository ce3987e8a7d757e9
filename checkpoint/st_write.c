/* st_write.c: writes a safetensors file (see st_header.h for its layout).
 *
 * The header, whose size is known before its digits are, comes last.  Large contents in host memory
 * go through pour.c; else a chunk is written while it is in the cache, after its checksum was
 * taken, and device memory is fetched a chunk at a time.  Apart from that nothing is held in
 * memory. */
#include "safetensors.h"
#include "st_header.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CHUNK ((size_t)1 << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors are written as they lie in memory");

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

typedef struct writer {
    iv__io_file *f;
    const iv_ckpt *c;
    iv__io_piece *pieces; /* [n_tensors] */
    iv__io_way way;
} writer;

/* Writes tensor i, which may lie in device memory, a chunk at a time. */
static iv_status write_tensor(const writer *w, int64_t i, XXH3_state_t *x, char *chunk)
{
    iv__io_piece *p = &w->pieces[i];
    XXH3_64bits_reset(x);
    for (uint64_t done = 0; done < p->bytes;) {
        const size_t n = (size_t)min_u64(CHUNK, p->bytes - done);
        const char *src = p->src ? p->src + done : chunk;
        iv_status s = IV_OK;
        if (!p->src) s = w->c->read(w->c->ctx, i, (int64_t)done, (int64_t)n, chunk);
        if (s != IV_OK) return s;
        XXH3_64bits_update(x, src, n);
        s = iv__io_write(w->f, src, n, p->at + done);
        if (s != IV_OK) return s;
        done += n;
    }
    p->sum = XXH3_64bits_digest(x);
    return IV_OK;
}

static iv_status write_in_order(const writer *w)
{
    XXH3_state_t *x = XXH3_createState();
    char *chunk = malloc(CHUNK);
    iv_status s =
        x && chunk ? IV_OK : iv__io_fail(w->f->job, IV_NO_MEMORY, "allocating %zu bytes", CHUNK);
    for (int64_t i = 0; i < w->c->n_tensors && s == IV_OK; ++i) s = write_tensor(w, i, x, chunk);
    free(chunk);
    XXH3_freeState(x);
    return s;
}

/* Fills the pieces.  *out_large: there is enough of it, in host memory, for several threads. */
static iv_status cut(const writer *w, uint64_t at, bool *out_large)
{
    const uint64_t begin = at;
    bool host = true;
    for (int64_t i = 0; i < w->c->n_tensors; ++i) {
        const iv_ckpt_tensor *t = &w->c->tensors[i];
        uint64_t bytes = 0;
        iv_status s = iv__st_bytes(w->f->job, t, &bytes);
        if (s != IV_OK) return s;
        if (bytes > 0 && !t->data && !w->c->read)
            return iv__io_fail(w->f->job, IV_INVALID,
                               "tensor \"%.200s\" has %llu bytes but no data", t->name,
                               (unsigned long long)bytes);
        host = host && (t->data || bytes == 0);
        w->pieces[i] = (iv__io_piece){.src = t->data, .bytes = bytes, .at = at};
        at += bytes;
    }
    *out_large = host && at - begin >= IV__ST_LARGE;
    return IV_OK;
}

static iv_status write_all(const writer *w, iv__st_text *head)
{
    bool large = false;
    iv_status s = cut(w, head->n, &large);
    if (s != IV_OK) return s;
    s = large ? iv__io_pour(w->f, w->pieces, w->c->n_tensors, w->way) : write_in_order(w);
    if (s != IV_OK) return s;
    for (int64_t i = 0; i < w->c->n_tensors; ++i)
        iv__st_hex(w->pieces[i].sum, head->s + head->sums_at + (size_t)i * (IV__ST_HEX + 1));
    iv__st_hex(XXH3_64bits(head->s, head->n), head->s + IV__ST_SELF_AT);
    return iv__io_write(w->f, head->s, head->n, 0);
}

iv_status iv__st_write(const iv__io_job *j, const iv_ckpt *c, iv__io_way way, iv__st_stamp *out)
{
    iv__st_text head;
    iv__io_file f;
    iv_status s = iv__st_build(j, c, &head);
    if (s != IV_OK) return s;
    writer w = {.f = &f, .c = c, .way = way};
    w.pieces = calloc((size_t)c->n_tensors + 1, sizeof(*w.pieces));
    s = w.pieces ? iv__io_create(j, &f)
                 : iv__io_fail(j, IV_NO_MEMORY, "allocating %lld entries", (long long)c->n_tensors);
    if (s == IV_OK) {
        s = write_all(&w, &head);
        if (s == IV_OK) s = iv__io_commit(&f);
        iv__io_discard(&f);
    }
    if (s == IV_OK && out) {
        const iv__io_piece *last = c->n_tensors ? &w.pieces[c->n_tensors - 1] : NULL;
        memcpy(out->header, head.s + IV__ST_SELF_AT, IV__ST_HEX);
        out->header[IV__ST_HEX] = '\0';
        out->bytes = last ? last->at + last->bytes : head.n;
    }
    free(w.pieces);
    free(head.s);
    return s;
}
