/* hal.h: an opened device for the conformance tests, and small helpers over its table of functions.
 */
#ifndef IV_TEST_HAL_H
#define IV_TEST_HAL_H

#include "unit/temporary.h"

#include "registry.h"

typedef struct hal {
    char name[32]; /* "opencl:0" */
    const iv_backend *vt;
    void *drv, *dev, *queue;
    iv_device_info info;
} hal;

/* Opens device `index` of backend `kind`; IV_UNAVAILABLE where it is not there. */
static inline iv_status hal_open(hal *h, const char *kind, int32_t index, const char *cache)
{
    const iv_plugin *p;
    void *self;
    const iv_backend_options o = {.cache = cache};
    *h = (hal){0};
    snprintf(h->name, sizeof(h->name), "%s:%d", kind, index);
    IV_TRY(iv__registry_get(IV_PLUGIN_BACKEND, kind, &p, &self));
    h->vt = p->vtable;
    IV_TRY(h->vt->open(self, &o, &h->drv));
    IV_TRY(h->vt->device_open(h->drv, index, &h->dev));
    IV_TRY(h->vt->device_info(h->dev, &h->info));
    return h->vt->queue_open(h->dev, IV_QUEUE_COMPUTE, &h->queue);
}

static inline void hal_close(hal *h)
{
    if (h->queue) h->vt->queue_close(h->queue);
    if (h->dev) h->vt->device_close(h->dev);
    if (h->drv) h->vt->close(h->drv);
    *h = (hal){0};
}

static inline void *memory(const hal *h, int64_t bytes)
{
    void *mem = NULL;
    WORKS(h->vt->mem_alloc(h->dev, bytes, IV_MEM_DEVICE, &mem));
    return mem;
}

static inline iv_buffer range(void *mem, int64_t offset, int64_t bytes)
{
    return (iv_buffer){mem, offset, bytes};
}

static inline void upload(const hal *h, void *mem, int64_t offset, const void *src, int64_t bytes)
{
    WORKS(h->vt->write(h->queue, range(mem, offset, bytes), src));
}

static inline void download(const hal *h, void *dst, void *mem, int64_t offset, int64_t bytes)
{
    WORKS(h->vt->read(h->queue, dst, range(mem, offset, bytes)));
    WORKS(h->vt->sync(h->queue));
}

/* Moderate numbers that are the same everywhere, as elements of type t. */
static inline void numbers(void *dst, iv_dtype t, int64_t n, uint32_t seed, double from, double to)
{
    for (int64_t i = 0; i < n; ++i) {
        seed = seed * 1664525u + 1013904223u;
        const double x = from + (to - from) * (double)(seed >> 8) / 16777216.0;
        const float f = (float)x;
        uint32_t u;
        memcpy(&u, &f, sizeof(u));
        if (t == IV_F64) ((double *)dst)[i] = x;
        else if (t == IV_F32) ((float *)dst)[i] = f;
        else if (t == IV_BF16) ((uint16_t *)dst)[i] = (uint16_t)(u >> 16);
        else
            ((uint16_t *)dst)[i] =
                (uint16_t)(((u >> 16) & 0x8000u) | (0x3000u + (seed >> 20))); /* f16 of 2^-3 .. 2 */
    }
}

/* Fails with both values if the first `n` elements of `size` bytes differ. */
static inline void same_bits(const char *what, const hal *h, const void *have, const void *want,
                             int64_t n, size_t size)
{
    for (int64_t i = 0; i < n; ++i) {
        uint64_t a = 0, b = 0;
        memcpy(&a, (const char *)have + i * (int64_t)size, size);
        memcpy(&b, (const char *)want + i * (int64_t)size, size);
        if (a != b)
            fail_msg("%s on %s: element %lld has bits %llx, expected %llx", what, h->name,
                     (long long)i, (unsigned long long)a, (unsigned long long)b);
    }
}

#endif
