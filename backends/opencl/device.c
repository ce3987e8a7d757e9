/* device.c: an OpenCL device: what it can do, and its memory (see opencl.h).
 *
 * Pinned host memory is a buffer that stays mapped: the host and the copies use its host address,
 * and kernels may not have it (OpenCL forbids them a mapped buffer). */
#include "opencl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void iv__cl_device_text(cl_device_id id, cl_device_info what, char *out, size_t size)
{
    char text[1024] = "";
    if (iv__cl.GetDeviceInfo(id, what, sizeof(text) - 1, text, NULL) != CL_SUCCESS)
        snprintf(text, sizeof(text), "?");
    size_t from = strspn(text, " ");
    snprintf(out, size, "%s", text + from);
}

static uint64_t device_number(cl_device_id id, cl_device_info what, size_t size)
{
    uint64_t x = 0; /* little-endian, so a smaller number lands in its low part */
    return iv__cl.GetDeviceInfo(id, what, size, &x, NULL) == CL_SUCCESS ? x : 0;
}

static bool has_extension(cl_device_id id, const char *name)
{
    char all[8192] = " ", *at = all;
    const size_t n = strlen(name);
    if (iv__cl.GetDeviceInfo(id, CL_DEVICE_EXTENSIONS, sizeof(all) - 1, all, NULL) != CL_SUCCESS)
        return false;
    while ((at = strstr(at, name))) {
        if ((at == all || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
        at += n;
    }
    return false;
}

static void read_properties(cl_dev *d)
{
    cl_platform_id platform = NULL;
    iv__cl_device_text(d->id, CL_DEVICE_NAME, d->name, sizeof(d->name));
    iv__cl_device_text(d->id, CL_DEVICE_VENDOR, d->vendor, sizeof(d->vendor));
    iv__cl_device_text(d->id, CL_DRIVER_VERSION, d->driver, sizeof(d->driver));
    iv__cl_device_text(d->id, CL_DEVICE_VERSION, d->version, sizeof(d->version));
    iv__cl.GetDeviceInfo(d->id, CL_DEVICE_PLATFORM, sizeof(platform), &platform, NULL);
    if (!platform || iv__cl.GetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof(d->platform) - 1,
                                            d->platform, NULL) != CL_SUCCESS)
        snprintf(d->platform, sizeof(d->platform), "?");
    d->pocl = strcmp(d->platform, "Portable Computing Language") == 0;
    const char *form = iv__cl_host->env("INVAR_OPENCL_FORM");
    const uint64_t type = device_number(d->id, CL_DEVICE_TYPE, sizeof(cl_device_type));
    d->cpu = form ? strcmp(form, "loops") == 0 : (type & CL_DEVICE_TYPE_CPU) != 0;
    d->f64 = device_number(d->id, CL_DEVICE_DOUBLE_FP_CONFIG, sizeof(cl_device_fp_config)) != 0;
    d->f16 = has_extension(d->id, "cl_khr_fp16");
    d->exact_option =
        (device_number(d->id, CL_DEVICE_SINGLE_FP_CONFIG, sizeof(cl_device_fp_config)) &
         CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT) != 0;
    d->mem_bytes = (int64_t)device_number(d->id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    d->most_bytes = (int64_t)device_number(d->id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    d->units = (cl_uint)device_number(d->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(cl_uint));
    if (d->units == 0) d->units = 1;
    d->local_bytes = device_number(d->id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    d->most_items = device_number(d->id, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(size_t));
    const uint64_t vector =
        device_number(d->id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, sizeof(cl_uint));
    d->vector = vector >= 16 ? 16 : vector >= 8 ? 8 : 4;
}

/* Whether the groups of f32 kernels in the form for GPUs fit. */
static iv_status check_limits(const cl_dev *d)
{
    const uint64_t params = device_number(d->id, CL_DEVICE_MAX_PARAMETER_SIZE, sizeof(size_t));
    if (!d->cpu && (d->most_items < CL_LANES || d->local_bytes < CL_LEAST_LOCAL))
        return iv__cl_host->fail(IV_UNSUPPORTED,
                                 "opening %s (%s): its groups have at most %llu work-items and "
                                 "%llu bytes of local memory, need %d and %d",
                                 d->label, d->name, (unsigned long long)d->most_items,
                                 (unsigned long long)d->local_bytes, CL_LANES, CL_LEAST_LOCAL);
    if (params < 1024)
        return iv__cl_host->fail(
            IV_UNSUPPORTED, "opening %s (%s): kernels take %llu bytes of parameters, need 1024",
            d->label, d->name, (unsigned long long)params);
    return IV_OK;
}

static iv_status open_context(cl_dev *d)
{
    cl_int e;
    d->context = iv__cl.CreateContext(NULL, 1, &d->id, NULL, NULL, &e);
    if (!d->context)
        return iv__cl_fail(e, "opening %s (%s): creating a context", d->label, d->name);
    d->spare = iv__cl.CreateBuffer(d->context, CL_MEM_READ_WRITE, 64, NULL, &e);
    if (!d->spare) return iv__cl_fail(e, "opening %s (%s): creating a buffer", d->label, d->name);
    return IV_OK;
}

iv_status iv__cl_device_open(cl_device_id id, int32_t index, const char *cache,
                             iv__cache_named named, cl_dev **out)
{
    cl_dev *d = calloc(1, sizeof(*d));
    if (!d) return iv__cl_host->fail(IV_NO_MEMORY, "opening an OpenCL device");
    d->id = id;
    snprintf(d->label, sizeof(d->label), "opencl:%d", index);
    read_properties(d);
    /* PoCL keeps compiled kernels itself, and to ask it for a program's binary makes it compile
     * every kernel once more than it needs: 12 of 24 seconds for a small GPT. */
    d->cache = (iv__cache){.host = iv__cl_host, .kind = "opencl"};
    if (named == IV__CACHE_NAMED || !d->pocl)
        snprintf(d->cache.folder, sizeof(d->cache.folder), "%s", cache);
    snprintf(
        d->notes, sizeof(d->notes),
        "platform %s; kernels as %s; groups of up to %llu work-items, %llu KiB of local memory; "
        "f16 %s",
        d->platform, d->cpu ? "loops" : "64 lanes", (unsigned long long)d->most_items,
        (unsigned long long)(d->local_bytes >> 10), d->f16 ? "arithmetic not used" : "stored only");
    iv_status s = check_limits(d);
    if (s == IV_OK) s = open_context(d);
    if (s == IV_OK)
        s = iv__probe(iv__cl_host, &iv__cl_backend, d, d->f64, d->inexact, d->notes,
                      sizeof(d->notes));
    if (s != IV_OK) {
        iv__cl_device_close(d);
        return s;
    }
    *out = d;
    return IV_OK;
}

void iv__cl_device_close(void *dev)
{
    cl_dev *d = dev;
    if (!d) return;
    for (cl_code *c = d->codes, *next; c; c = next) {
        next = c->next;
        iv__cl.ReleaseProgram(c->program);
        free(c);
    }
    if (d->spare) iv__cl.ReleaseMemObject(d->spare);
    if (d->context) iv__cl.ReleaseContext(d->context);
    free(d);
}

iv_status iv__cl_device_info(void *dev, iv_device_info *out)
{
    const cl_dev *d = dev;
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", d->name);
    snprintf(out->vendor, sizeof(out->vendor), "%s", d->vendor);
    snprintf(out->driver, sizeof(out->driver), "%s", d->driver);
    snprintf(out->arch, sizeof(out->arch), "%s", d->version);
    out->mem_bytes = d->mem_bytes;
    out->mem_free = d->mem_bytes - d->allocated; /* OpenCL does not tell what others use */
    out->units = (int32_t)d->units;
    out->has_f64 = d->f64;
    out->exact = !d->inexact[0] && !d->inexact[1];
    memcpy(out->inexact, d->inexact, sizeof(out->inexact));
    out->native_f16 = false; /* 16-bit types are storage only */
    snprintf(out->notes, sizeof(out->notes), "%s", d->notes);
    return IV_OK;
}

/* ---- memory ---- */

static void release(cl_memory *m)
{
    if (m->host) iv__cl.EnqueueUnmapMemObject(m->queue, m->mem, m->host, 0, NULL, NULL);
    if (m->host) iv__cl.Finish(m->queue);
    if (m->queue) iv__cl.ReleaseCommandQueue(m->queue);
    iv__cl.ReleaseMemObject(m->mem);
    free(m);
}

iv_status iv__cl_mem_alloc(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem)
{
    cl_dev *d = dev;
    cl_int e = CL_SUCCESS;
    if (bytes <= 0)
        return iv__cl_host->fail(IV_INVALID, "allocating %lld bytes on %s", (long long)bytes,
                                 d->label);
    const int64_t size = bytes > INT64_MAX - 64 ? bytes : (bytes + 63) / 64 * 64;
    if (size > d->most_bytes)
        return iv__cl_host->fail(IV_NO_MEMORY,
                                 "%s (%s) gives at most %lld bytes in one piece, %lld are needed "
                                 "[hint: a smaller --batch or model]",
                                 d->label, d->name, (long long)d->most_bytes, (long long)bytes);
    cl_memory *m = calloc(1, sizeof(*m));
    if (!m) return iv__cl_host->fail(IV_NO_MEMORY, "allocating on %s", d->label);
    m->bytes = size;
    m->mem = iv__cl.CreateBuffer(
        d->context, CL_MEM_READ_WRITE | (kind == IV_MEM_HOST ? CL_MEM_ALLOC_HOST_PTR : 0),
        (size_t)size, NULL, &e);
    if (!m->mem) {
        free(m);
        return iv__cl_fail(e, "%s (%s): creating a buffer of %lld bytes", d->label, d->name,
                           (long long)size);
    }
    if (kind == IV_MEM_HOST) {
        m->queue = iv__cl.CreateCommandQueue(d->context, d->id, 0, &e);
        if (m->queue)
            m->host = iv__cl.EnqueueMapBuffer(m->queue, m->mem, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE,
                                              0, (size_t)size, 0, NULL, NULL, &e);
        if (!m->host) {
            release(m);
            return iv__cl_fail(e, "%s (%s): mapping %lld bytes of pinned memory", d->label, d->name,
                               (long long)size);
        }
    }
    d->allocated += size;
    *out_mem = m;
    return IV_OK;
}

void iv__cl_mem_free(void *dev, void *mem)
{
    cl_dev *d = dev;
    cl_memory *m = mem;
    if (!m) return;
    d->allocated -= m->bytes;
    ++d->freed;
    release(m);
}

void *iv__cl_mem_host(void *dev, void *mem)
{
    (void)dev;
    return ((cl_memory *)mem)->host;
}
