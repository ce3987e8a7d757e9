/* copy.c: copies and fills as work of a stream (see core.h). */
#include "core_internal.h"

#include <string.h>

typedef struct copy_arg {
    uint64_t dst, src;
    int64_t bytes;
    const char *function;
    uint64_t sum; /* of pinned memory that is read, when the copy was asked for; 0: not known */
} copy_arg;

typedef struct fill_arg {
    uint64_t dst;
    int64_t n;
    uint32_t value;
    int32_t width;
    const char *function;
} fill_arg;

/* Any sum will do that sees a changed byte; never 0. */
static uint64_t sum_of(const void *data, int64_t bytes)
{
    const unsigned char *p = data;
    uint64_t h = 0x9e3779b97f4a7c15u, v;
    int64_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        memcpy(&v, p + i, 8);
        h = (h ^ v) * 0xff51afd7ed558ccdu;
        h ^= h >> 29;
    }
    for (; i < bytes; ++i) h = (h ^ p[i]) * 0xff51afd7ed558ccdu;
    return h | 1;
}

/* SC_OK if the address is host memory or lies in live device memory. */
static sc_status place_check(uint64_t address, int64_t bytes, const char *function)
{
    char what[256];
    sc_mem m;
    if (!sc_mem_is_device_address(address) || sc_mem_find(address, bytes, &m)) return SC_OK;
    sc_mem_describe(address, bytes, what, sizeof(what));
    sc_misuse("%s: %s", function, what);
    return SC_INVALID_VALUE;
}

static sc_status run_copy(sc_device *d, void *arg, sc_access_list *touched, char *text, size_t size)
{
    const copy_arg *c = arg;
    (void)d, (void)text, (void)size;
    if (place_check(c->dst, c->bytes, c->function) != SC_OK ||
        place_check(c->src, c->bytes, c->function) != SC_OK)
        return SC_ILLEGAL_ADDRESS; /* freed since it was asked for */
    if (c->sum && sum_of(sc_mem_alias(c->src), c->bytes) != c->sum)
        sc_misuse("%s: the host changed pinned memory before a copy out of it was over",
                  c->function);
    memmove(sc_mem_alias(c->dst), sc_mem_alias(c->src), (size_t)c->bytes);
    sc_access_add(touched, c->src, c->bytes, false);
    sc_access_add(touched, c->dst, c->bytes, true);
    return SC_OK;
}

bool sc__copy_writes(sc_run_fn *run, const void *arg, uint64_t address, int64_t bytes)
{
    const copy_arg *c = arg;
    return run == run_copy && c->dst < address + (uint64_t)bytes &&
           address < c->dst + (uint64_t)c->bytes;
}

sc_status sc_stream_copy(sc_stream *s, uint64_t dst, uint64_t src, int64_t bytes,
                         const char *function)
{
    copy_arg c = {dst, src, bytes, function, 0};
    sc_mem m;
    if (bytes == 0) return sc_device_fault(sc_stream_device(s));
    if (place_check(dst, bytes, function) != SC_OK || place_check(src, bytes, function) != SC_OK)
        return SC_INVALID_VALUE;
    const bool from_device = sc_mem_is_device_address(src);
    const bool pinned = !from_device && sc_mem_find(src, bytes, &m);
    if (pinned && !sc__pending_write(src, bytes)) c.sum = sum_of(sc_mem_alias(src), bytes);
    const sc_status status = sc_stream_put(s, function, run_copy, &c, sizeof(c));
    if (status != SC_OK || from_device || pinned) return status;
    return sc_stream_sync(s); /* pageable memory is read before the return */
}

static sc_status run_fill(sc_device *d, void *arg, sc_access_list *touched, char *text, size_t size)
{
    const fill_arg *f = arg;
    const int64_t bytes = f->n * f->width;
    (void)d, (void)text, (void)size;
    if (place_check(f->dst, bytes, f->function) != SC_OK) return SC_ILLEGAL_ADDRESS;
    char *p = sc_mem_alias(f->dst);
    for (int64_t i = 0; i < f->n; ++i) memcpy(p + i * f->width, &f->value, (size_t)f->width);
    sc_access_add(touched, f->dst, bytes, true);
    return SC_OK;
}

sc_status sc_stream_fill(sc_stream *s, uint64_t dst, uint32_t value, int32_t width, int64_t n,
                         const char *function)
{
    const fill_arg f = {dst, n, value, width, function};
    if (n == 0) return sc_device_fault(sc_stream_device(s));
    if (dst % (uint64_t)width != 0) {
        sc_misuse("%s: address 0x%llx is not a multiple of %d", function, (unsigned long long)dst,
                  width);
        return SC_INVALID_VALUE;
    }
    if (place_check(dst, n * width, function) != SC_OK) return SC_INVALID_VALUE;
    return sc_stream_put(s, function, run_fill, &f, sizeof(f));
}
