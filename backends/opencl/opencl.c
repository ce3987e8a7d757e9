/* opencl.c: the OpenCL backend: the plugin and its list of devices (see opencl.h).
 *
 * Devices of all platforms count through: opencl:0, opencl:1, ... in the order in which the loader
 * names platforms and these their devices.  Left out, with a line in the debug log: devices that
 * are switched off, have no compiler or store the high byte first. */
#include "opencl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PLATFORMS = 16, MOST_DEVICES = 64 };
typedef struct cl_driver {
    cl_device_id devices[MOST_DEVICES];
    int32_t n;
    char cache[512];
    iv__cache_named cache_named;
} cl_driver;

static iv_status cl_init(const iv_host *h, const char *args, void **out_self)
{
    if (*args) return h->fail(IV_INVALID, "backend opencl takes no arguments, got '%s'", args);
    iv__cl_host = h;
    *out_self = NULL;
    return IV_OK;
}

static bool device_flag(cl_device_id id, cl_device_info what)
{
    cl_bool yes = CL_FALSE;
    return iv__cl.GetDeviceInfo(id, what, sizeof(yes), &yes, NULL) == CL_SUCCESS && yes;
}

static bool usable(cl_device_id id)
{
    const char *why = !device_flag(id, CL_DEVICE_AVAILABLE)            ? "it is not available"
                      : !device_flag(id, CL_DEVICE_COMPILER_AVAILABLE) ? "it has no compiler"
                      : !device_flag(id, CL_DEVICE_ENDIAN_LITTLE)      ? "it is big-endian"
                                                                       : NULL;
    char name[128];
    if (!why) return true;
    iv__cl_device_text(id, CL_DEVICE_NAME, name, sizeof(name));
    iv__cl_host->log(IV_LOG_DEBUG, "OpenCL device %s is left out: %s", name, why);
    return false;
}

static void add_platform(cl_driver *d, cl_platform_id platform)
{
    cl_device_id ids[MOST_DEVICES];
    cl_uint n = 0;
    const cl_int e = iv__cl.GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, MOST_DEVICES, ids, &n);
    if (e != CL_SUCCESS && e != CL_DEVICE_NOT_FOUND)
        iv__cl_host->log(IV_LOG_WARN, "an OpenCL platform lists no devices: %s = %d",
                         iv__cl_name(e), (int)e);
    if (e != CL_SUCCESS) return;
    for (cl_uint i = 0; i < n && i < MOST_DEVICES; ++i)
        if (d->n < MOST_DEVICES && usable(ids[i])) d->devices[d->n++] = ids[i];
}

static iv_status find_devices(cl_driver *d)
{
    cl_platform_id platforms[MOST_PLATFORMS];
    cl_uint n = 0;
    const cl_int e = iv__cl.GetPlatformIDs(MOST_PLATFORMS, platforms, &n);
    if (e != CL_SUCCESS || n == 0)
        return iv__cl_host->fail(IV_UNAVAILABLE,
                                 "looking for OpenCL platforms: there are none (clGetPlatformIDs = "
                                 "%d) [hint: install a driver such as pocl-opencl-icd]",
                                 (int)e);
    for (cl_uint i = 0; i < n && i < MOST_PLATFORMS; ++i) add_platform(d, platforms[i]);
    if (d->n == 0)
        return iv__cl_host->fail(
            IV_UNAVAILABLE, "looking for OpenCL devices: %u platforms list none that can be used",
            n);
    return IV_OK;
}

static iv_status cl_open(void *self, const iv_backend_options *o, void **out_drv)
{
    (void)self;
    iv_status s = iv__cl_open();
    if (s != IV_OK) return s;
    cl_driver *d = calloc(1, sizeof(*d));
    if (!d) return iv__cl_host->fail(IV_NO_MEMORY, "opening the OpenCL backend");
    d->cache_named = iv__cache_choose(iv__cl_host, o->cache, d->cache, sizeof(d->cache));
    s = find_devices(d);
    if (s != IV_OK) {
        free(d);
        return s;
    }
    *out_drv = d;
    return IV_OK;
}

static void cl_close(void *drv)
{
    free(drv);
}

static iv_status cl_device_count(void *drv, int32_t *out_n)
{
    *out_n = ((cl_driver *)drv)->n;
    return IV_OK;
}

static iv_status cl_device_open(void *drv, int32_t index, void **out_dev)
{
    const cl_driver *d = drv;
    cl_dev *dev;
    if (index < 0 || index >= d->n)
        return iv__cl_host->fail(IV_UNAVAILABLE, "opening opencl:%d: there are %d OpenCL devices",
                                 index, d->n);
    iv_status s = iv__cl_device_open(d->devices[index], index, d->cache, d->cache_named, &dev);
    if (s == IV_OK) *out_dev = dev;
    return s;
}

/* No library of a vendor: the portable kernels do everything. */
static const iv_impl *const *cl_impls(void *dev, int32_t *out_n)
{
    (void)dev;
    *out_n = 0;
    return NULL;
}

const iv_backend iv__cl_backend = {
    .open = cl_open,
    .close = cl_close,
    .device_count = cl_device_count,
    .device_open = cl_device_open,
    .device_close = iv__cl_device_close,
    .device_info = iv__cl_device_info,
    .mem_alloc = iv__cl_mem_alloc,
    .mem_free = iv__cl_mem_free,
    .mem_host = iv__cl_mem_host,
    .queue_open = iv__cl_queue_open,
    .queue_close = iv__cl_queue_close,
    .write = iv__cl_write,
    .read = iv__cl_read,
    .copy = iv__cl_copy,
    .fill = iv__cl_fill,
    .launch = iv__cl_launch,
    .signal = iv__cl_signal,
    .wait = iv__cl_wait,
    .sync = iv__cl_sync,
    .kernel_build = iv__cl_kernel_build,
    .kernel_free = iv__cl_kernel_free,
    .impls = cl_impls,
};

const iv_plugin iv__plugin_opencl = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_BACKEND,
    .vtable_size = sizeof(iv_backend),
    .name = "opencl",
    .version = "1",
    .summary = "devices of all OpenCL platforms: the portable kernels, compiled at run time",
    .vtable = &iv__cl_backend,
    .init = cl_init,
};
