/* device.h: an opened device: its backend, queue, memory in use and the kernels built so far. */
#ifndef IV_DEVICE_H
#define IV_DEVICE_H

#include "base.h"
#include "plugin.h"

typedef struct iv__device {
    const iv_backend *vt;
    void *drv, *dev, *queue;
    char name[32]; /* "cpu:0" */
    iv_device_info info;
    int64_t allocated;       /* bytes of device memory in use */
    bool invariant;          /* numerics mode of the run */
    const char *impl_filter; /* INVAR_IMPL or NULL */
    struct iv__kernel_entry *kernels;
    int64_t n_kernels, cap_kernels;
} iv__device;

/* Opens "cpu:0".  Errors name the device and the reason. */
iv_status iv__device_open(const char *name, const iv_backend_options *o, bool invariant,
                          iv__device **out);
void iv__device_close(iv__device *d);
/* Devices of a kind ("cpu") that there are. */
iv_status iv__device_count(const char *kind, int32_t *out);

/* A memory of one device. */
typedef struct iv__memory {
    iv__device *device;
    void *mem;
    int64_t bytes;
} iv__memory;
/* bytes 0 gives an empty memory.  Contents are zero. */
iv_status iv__memory_alloc(iv__device *d, int64_t bytes, const char *what, iv__memory *out);
void iv__memory_free(iv__memory *m);
static inline iv_buffer iv__memory_range(const iv__memory *m, int64_t offset, int64_t bytes)
{
    return (iv_buffer){m->mem, offset, bytes};
}
/* Where the host reaches it; NULL if it cannot, or if there is none. */
static inline void *iv__memory_host(const iv__memory *m)
{
    return m->mem && m->device->vt->mem_host ? m->device->vt->mem_host(m->device->dev, m->mem)
                                             : NULL;
}

/* A portable kernel of the device, built once. */
iv_status iv__device_kernel(iv__device *d, const char *file, const char *name, const char *sig,
                            void **out);
/* An element program; owned by the device. */
iv_status iv__device_program(iv__device *d, const iv_program *p, void **out);
/* Blocking copies between host and device. */
iv_status iv__device_write(iv__device *d, iv_buffer dst, const void *src);
iv_status iv__device_read(iv__device *d, void *dst, iv_buffer src);

#endif
