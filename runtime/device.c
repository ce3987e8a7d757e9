/* device.c: opening devices, their memory and their kernels (see device.h). */
#include "device.h"

#include "registry.h"

typedef struct iv__kernel_entry {
    char key[96]; /* "file/name:sig"; empty for programs */
    iv_program program;
    void *kernel;
} iv__kernel_entry;

static iv_status open_backend(const char *kind, const char *name, const iv_backend_options *o,
                              iv__device *d)
{
    const iv_plugin *p;
    void *self;
    IV_TRY(iv__registry_get(IV_PLUGIN_BACKEND, kind, &p, &self));
    d->vt = p->vtable;
    iv_status s = d->vt->open(self, o, &d->drv);
    return s == IV_OK ? s : iv__context(s, "opening device %s", name);
}

static iv_status open_index(iv__device *d, const char *name, int32_t index)
{
    int32_t n = 0;
    IV_TRY(d->vt->device_count(d->drv, &n));
    if (index >= n)
        IV_FAIL(IV_UNAVAILABLE,
                "opening device %s: there are %d of this kind [hint: `invar devices` lists them]",
                name, n);
    IV_TRY(d->vt->device_open(d->drv, index, &d->dev));
    IV_TRY(d->vt->device_info(d->dev, &d->info));
    return d->vt->queue_open(d->dev, IV_QUEUE_COMPUTE, &d->queue);
}

iv_status iv__device_open(const char *name, const iv_backend_options *o, bool invariant,
                          iv__device **out)
{
    char kind[16] = "";
    int32_t index = -1;
    char rest;
    if (sscanf(name, "%15[a-z]:%d%c", kind, &index, &rest) != 2 || index < 0)
        IV_FAIL(IV_INVALID, "opening device '%s': a device is written kind:number, such as cpu:0",
                name);
    iv__device *d;
    IV_TRY(iv__calloc(1, sizeof(*d), "a device", &d));
    snprintf(d->name, sizeof(d->name), "%s:%d", kind, index);
    d->invariant = invariant;
    d->impl_filter = iv__env(IV__ENV_IMPL);
    iv_status s = open_backend(kind, d->name, o, d);
    if (s == IV_OK) s = open_index(d, d->name, index);
    if (s != IV_OK) {
        iv__device_close(d);
        return s;
    }
    *out = d;
    return IV_OK;
}

void iv__device_close(iv__device *d)
{
    if (!d) return;
    for (int64_t i = 0; i < d->n_kernels; ++i) d->vt->kernel_free(d->dev, d->kernels[i].kernel);
    free(d->kernels);
    if (d->queue) d->vt->queue_close(d->queue);
    if (d->dev) d->vt->device_close(d->dev);
    if (d->drv) d->vt->close(d->drv);
    free(d);
}

iv_status iv__device_count(const char *kind, int32_t *out)
{
    const iv_plugin *p;
    void *self, *drv;
    iv_backend_options o = {0};
    IV_TRY(iv__registry_get(IV_PLUGIN_BACKEND, kind, &p, &self));
    const iv_backend *vt = p->vtable;
    IV_TRY(vt->open(self, &o, &drv));
    iv_status s = vt->device_count(drv, out);
    vt->close(drv);
    return s;
}

iv_status iv__memory_alloc(iv__device *d, int64_t bytes, const char *what, iv__memory *out)
{
    iv__memory m = {.device = d, .bytes = bytes};
    if (bytes > 0) {
        iv_status s = d->vt->mem_alloc(d->dev, bytes, IV_MEM_DEVICE, &m.mem);
        if (s != IV_OK)
            return iv__context(s, "allocating %lld bytes for %s on %s (%lld in use)",
                               (long long)bytes, what, d->name, (long long)d->allocated);
        d->allocated += bytes;
        s = d->vt->fill(d->queue, (iv_buffer){m.mem, 0, bytes / 4 * 4}, 0);
        if (s == IV_OK) s = d->vt->sync(d->queue);
        if (s != IV_OK) {
            iv__memory_free(&m);
            return s;
        }
    }
    *out = m;
    return IV_OK;
}

void iv__memory_free(iv__memory *m)
{
    if (m->mem) {
        m->device->vt->mem_free(m->device->dev, m->mem);
        m->device->allocated -= m->bytes;
    }
    *m = (iv__memory){0};
}

/* ---- kernels and the invariant flag ---- */

/* Files of kernels, and expressions, without divisions, roots and functions. */
static const char *const plain_files[] = {"matmul", "conv", "embed", "reduce"};
#define PLAIN(X)                                                                                   \
    X(ADD)                                                                                         \
    X(SUB)                                                                                         \
    X(MUL)                                                                                         \
    X(MAXIMUM)                                                                                     \
    X(MINIMUM)                                                                                     \
    X(SCALE)                                                                                       \
    X(ADD_SCALAR)                                                                                  \
    X(NEG)                                                                                         \
    X(ABS) X(SIGN) X(RELU) X(RELU_GRAD) X(SIGMOID_GRAD) X(TANH_GRAD) X(EQ) X(TIE) X(CAST) X(DROPOUT)

/* The operations whose exactness the bits of a kernel hang on: IV_INEXACT_*. */
static uint32_t operations_of(const iv_kernel_src *src)
{
    enum {
#define E(NAME, ...) ROW_##NAME,
#include "../kernels/elem.def"
#undef E
        ROWS
    };
#define X(NAME) [ROW_##NAME] = true,
    static const bool plain[ROWS] = {PLAIN(X)};
#undef X
    if (!src->program) {
        for (int64_t i = 0; i < IV_COUNT(plain_files); ++i)
            if (strcmp(src->file, plain_files[i]) == 0) return IV_INEXACT_BASIC;
        return IV_INEXACT_ALL;
    }
    for (int32_t i = 0; i < src->program->n_ops; ++i)
        if (!plain[src->program->ops[i].op]) return IV_INEXACT_ALL;
    return IV_INEXACT_BASIC;
}

/* In `invariant` mode a kernel whose operations the device does inexactly is refused. */
static iv_status check_exact(const iv__device *d, const iv_kernel_src *src)
{
    const bool f64 = src->program ? src->program->compute == IV_F64 : strchr(src->sig, 'd') != NULL;
    if (!d->invariant || !(d->info.inexact[f64] & operations_of(src))) return IV_OK;
    IV_FAIL(
        IV_UNSUPPORTED,
        "building kernel %s%s%s for %s (%s): it cannot have the bits of --numerics invariant: %s "
        "[hint: --numerics fast, or another device]",
        src->program ? "elements" : src->name, src->program ? "" : "_",
        src->program ? "" : src->sig, d->name, d->info.name, d->info.notes);
}

static iv_status add_kernel(iv__device *d, const iv_kernel_src *src, const char *key, void **out)
{
    IV_TRY(iv__reserve(&d->kernels, &d->cap_kernels, d->n_kernels + 1, sizeof(*d->kernels),
                       "kernels"));
    iv__kernel_entry *e = &d->kernels[d->n_kernels];
    IV_TRY(check_exact(d, src));
    IV_TRY(d->vt->kernel_build(d->dev, src, &e->kernel));
    snprintf(e->key, sizeof(e->key), "%s", key);
    if (src->program) e->program = *src->program;
    ++d->n_kernels;
    *out = e->kernel;
    return IV_OK;
}

iv_status iv__device_kernel(iv__device *d, const char *file, const char *name, const char *sig,
                            void **out)
{
    char key[96];
    snprintf(key, sizeof(key), "%s/%s:%s", file, name, sig);
    for (int64_t i = 0; i < d->n_kernels; ++i)
        if (strcmp(d->kernels[i].key, key) == 0) {
            *out = d->kernels[i].kernel;
            return IV_OK;
        }
    return add_kernel(d, &(iv_kernel_src){.file = file, .name = name, .sig = sig}, key, out);
}

iv_status iv__device_program(iv__device *d, const iv_program *p, void **out)
{
    for (int64_t i = 0; i < d->n_kernels; ++i)
        if (!d->kernels[i].key[0] && memcmp(&d->kernels[i].program, p, sizeof(*p)) == 0) {
            *out = d->kernels[i].kernel;
            return IV_OK;
        }
    return add_kernel(d, &(iv_kernel_src){.program = p}, "", out);
}

iv_status iv__device_write(iv__device *d, iv_buffer dst, const void *src)
{
    IV_TRY(d->vt->write(d->queue, dst, src));
    return d->vt->sync(d->queue);
}

iv_status iv__device_read(iv__device *d, void *dst, iv_buffer src)
{
    IV_TRY(d->vt->read(d->queue, dst, src));
    return d->vt->sync(d->queue);
}
