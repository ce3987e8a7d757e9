/* gpu.c: the driver, its devices and their memory (see gpu.h). */
#include "gpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

iv_status iv__gpu_fail(const gpu_device *d, int error, const char *fmt, ...)
{
    char what[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    return d->api->host->fail(error == d->api->out_of_memory ? IV_NO_MEMORY : IV_VENDOR,
                              "%s (%s), %s: %s = %d (%s)", d->label, d->desc.name, what,
                              d->api->error_name(error), error, d->api->error_text(error));
}

iv_status iv__gpu_open(const gpu_api *api, const iv_backend_options *o, void **out_drv)
{
    int n = 0;
    const int e = api->device_count(&n);
    if (e || n == 0)
        return api->host->fail(IV_UNAVAILABLE, "looking for %s devices: %s = %d: there are none",
                               api->vendor, api->error_name(e), e);
    gpu_driver *d = calloc(1, sizeof(*d));
    if (!d) return api->host->fail(IV_NO_MEMORY, "opening the %s backend", api->kind);
    d->api = api;
    iv__cache_choose(api->host, o->cache, d->cache, sizeof(d->cache));
    *out_drv = d;
    return IV_OK;
}

void iv__gpu_close(void *drv)
{
    free(drv);
}

iv_status iv__gpu_device_count(void *drv, int32_t *out_n)
{
    const gpu_api *api = ((const gpu_driver *)drv)->api;
    int n = 0;
    const int e = api->device_count(&n);
    if (e)
        return api->host->fail(IV_VENDOR, "counting %s devices: %s = %d", api->vendor,
                               api->error_name(e), e);
    *out_n = n;
    return IV_OK;
}

/* ---- devices ---- */

const iv_backend iv__gpu_backend = GPU_BACKEND(NULL);

static iv_status open_context(gpu_device *d)
{
    int e = d->api->context_open(d->index, &d->context);
    if (!e) e = d->api->use(d->context);
    return e ? iv__gpu_fail(d, e, "opening its context") : IV_OK;
}

iv_status iv__gpu_device_open(void *drv, int32_t index, void **out_dev)
{
    const gpu_driver *driver = drv;
    const gpu_api *api = driver->api;
    int32_t n = 0;
    iv_status s = iv__gpu_device_count(drv, &n);
    if (s != IV_OK) return s;
    if (index < 0 || index >= n)
        return api->host->fail(IV_UNAVAILABLE, "opening %s:%d: there are %d %s devices", api->kind,
                               index, n, api->vendor);
    gpu_device *d = calloc(1, sizeof(*d));
    if (!d) return api->host->fail(IV_NO_MEMORY, "opening %s:%d", api->kind, index);
    d->api = api;
    d->index = index;
    snprintf(d->label, sizeof(d->label), "%s:%d", api->kind, index);
    d->cache = (iv__cache){.host = api->host, .kind = api->kind};
    snprintf(d->cache.folder, sizeof(d->cache.folder), "%s", driver->cache);
    s = api->describe(index, &d->desc);
    if (s == IV_OK) s = open_context(d);
    if (s == IV_OK)
        s = iv__probe(api->host, &iv__gpu_backend, d, true, d->inexact, d->notes, sizeof(d->notes));
    if (s != IV_OK) {
        iv__gpu_device_close(d);
        return s;
    }
    *out_dev = d;
    return IV_OK;
}

void iv__gpu_device_close(void *dev)
{
    gpu_device *d = dev;
    if (!d) return;
    if (d->context) {
        d->api->use(d->context);
        if (d->library) d->library_close(d->library);
        iv__gpu_codes_free(d);
        d->api->context_close(d->index, d->context);
    }
    free(d);
}

iv_status iv__gpu_device_info(void *dev, iv_device_info *out)
{
    const gpu_device *d = dev;
    size_t mem_free = 0, total = 0;
    int e = d->api->use(d->context);
    if (!e) e = d->api->mem_info(&mem_free, &total);
    if (e) return iv__gpu_fail(d, e, "asking for its memory");
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", d->desc.name);
    snprintf(out->vendor, sizeof(out->vendor), "%s", d->api->vendor);
    snprintf(out->driver, sizeof(out->driver), "%s", d->api->driver);
    snprintf(out->arch, sizeof(out->arch), "%s", d->desc.arch);
    out->mem_bytes = d->desc.mem_bytes;
    out->mem_free = (int64_t)mem_free;
    out->units = d->desc.units;
    out->has_f64 = true;
    out->exact = !d->inexact[0] && !d->inexact[1];
    memcpy(out->inexact, d->inexact, sizeof(out->inexact));
    snprintf(out->notes, sizeof(out->notes), "%s", d->notes);
    return IV_OK;
}

const iv_impl *const *iv__gpu_impls(void *dev, int32_t *out_n)
{
    const gpu_device *d = dev;
    *out_n = 0;
    return d->api->impls ? d->api->impls(dev, out_n) : NULL;
}

/* ---- memory ---- */

static iv_status no_room(const gpu_device *d, int error, int64_t bytes, iv_mem_kind kind)
{
    size_t mem_free = 0, total = 0;
    if (kind == IV_MEM_DEVICE && d->api->mem_info(&mem_free, &total) == 0)
        return iv__gpu_fail(d, error,
                            "allocating %lld bytes (%zu of %zu are free) [hint: a smaller --batch "
                            "or model]",
                            (long long)bytes, mem_free, total);
    return iv__gpu_fail(d, error, "allocating %lld bytes of pinned memory", (long long)bytes);
}

iv_status iv__gpu_mem_alloc(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem)
{
    gpu_device *d = dev;
    if (bytes <= 0)
        return d->api->host->fail(IV_INVALID, "allocating %lld bytes on %s", (long long)bytes,
                                  d->label);
    gpu_memory *m = calloc(1, sizeof(*m));
    if (!m) return d->api->host->fail(IV_NO_MEMORY, "allocating on %s", d->label);
    m->dev = d;
    m->bytes = bytes;
    int e = d->api->use(d->context);
    void *host = NULL;
    if (!e)
        e = kind == IV_MEM_HOST ? d->api->host_alloc(&host, (size_t)bytes)
                                : d->api->mem_alloc(&m->at, (size_t)bytes);
    if (e) {
        free(m);
        return no_room(d, e, bytes, kind);
    }
    m->host = host;
    *out_mem = m;
    return IV_OK;
}

void iv__gpu_mem_free(void *dev, void *mem)
{
    gpu_device *d = dev;
    gpu_memory *m = mem;
    if (!m) return;
    d->api->use(d->context);
    if (m->host) d->api->host_free(m->host);
    else d->api->mem_free(m->at);
    free(m);
}

void *iv__gpu_mem_host(void *dev, void *mem)
{
    (void)dev;
    return ((gpu_memory *)mem)->host;
}
