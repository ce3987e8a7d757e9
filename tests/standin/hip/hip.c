/* hip.c: libamdhip64 as a stand-in: every function of backends/gpu/driver.def over the core.
 *
 * Built with STANDIN_LEAST it lacks the functions that a backend can do without.  The device says
 * that it is a gfx90a.  Kernels are the host's code (lanes.h); the order check does not see what
 * they touch, so missing waits are found between copies and fills only.
 *
 *   INVAR_STANDIN_HIP_VERSION=N    what hipRuntimeGetVersion says (default 50221153: ROCm 5.2)
 */
#include "lanes.h"

#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#pragma GCC visibility push(default)
#include <hip/hip_runtime_api.h>
#pragma GCC visibility pop

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    sc_status s;
    hipError_t e;
    const char *name;
} errors[] = {
    {SC_OK, hipSuccess, "hipSuccess"},
    {SC_INVALID_VALUE, hipErrorInvalidValue, "hipErrorInvalidValue"},
    {SC_OUT_OF_MEMORY, hipErrorOutOfMemory, "hipErrorOutOfMemory"},
    {SC_NOT_INITIALIZED, hipErrorNotInitialized, "hipErrorNotInitialized"},
    {SC_NO_DEVICE, hipErrorNoDevice, "hipErrorNoDevice"},
    {SC_INVALID_DEVICE, hipErrorInvalidDevice, "hipErrorInvalidDevice"},
    {SC_INVALID_CONTEXT, hipErrorInvalidContext, "hipErrorInvalidContext"},
    {SC_INVALID_HANDLE, hipErrorInvalidHandle, "hipErrorInvalidHandle"},
    {SC_INVALID_IMAGE, hipErrorInvalidImage, "hipErrorInvalidImage"},
    {SC_NO_BINARY, hipErrorNoBinaryForGpu, "hipErrorNoBinaryForGpu"},
    {SC_NOT_FOUND, hipErrorNotFound, "hipErrorNotFound"},
    {SC_NOT_READY, hipErrorNotReady, "hipErrorNotReady"},
    {SC_NOT_SUPPORTED, hipErrorNotSupported, "hipErrorNotSupported"},
    {SC_ILLEGAL_ADDRESS, hipErrorIllegalAddress, "hipErrorIllegalAddress"},
    {SC_OUT_OF_RESOURCES, hipErrorLaunchOutOfResources, "hipErrorLaunchOutOfResources"},
    {SC_LAUNCH_FAILED, hipErrorLaunchFailure, "hipErrorLaunchFailure"},
    {SC_STREAM_CAPTURE, hipErrorStreamCaptureUnsupported, "hipErrorStreamCaptureUnsupported"},
    {SC_UNKNOWN, hipErrorUnknown, "hipErrorUnknown"},
};
enum { ERRORS = sizeof(errors) / sizeof(errors[0]) };

static hipError_t error(sc_status s)
{
    for (int i = 0; i < ERRORS; ++i)
        if (errors[i].s == s) return errors[i].e;
    return hipErrorUnknown;
}

static _Thread_local int current;

static sc_device *here(void)
{
    return sc_device_get(current);
}

/* Opens every function: counts it; ends it with a fault that was asked for, or the device's. */
#define ENTER()                                                                                    \
    do {                                                                                           \
        const sc_status enter_ = sc_enter(__func__);                                               \
        if (enter_ != SC_OK) return error(enter_);                                                 \
    } while (0)
#define ENTER_DEVICE()                                                                             \
    ENTER();                                                                                       \
    do {                                                                                           \
        if (!here()) return hipErrorNoDevice;                                                      \
        const sc_status fault_ = sc_device_fault(here());                                          \
        if (fault_ != SC_OK) return error(fault_);                                                 \
    } while (0)

const char *hipGetErrorName(hipError_t e)
{
    for (int i = 0; i < ERRORS; ++i)
        if (errors[i].e == e) return errors[i].name;
    return "hipErrorUnknown";
}

const char *hipGetErrorString(hipError_t e)
{
    return hipGetErrorName(e); /* as ROCm 5 does */
}

/* ---- devices ---- */

hipError_t hipRuntimeGetVersion(int *out)
{
    const char *named = getenv("INVAR_STANDIN_HIP_VERSION");
    ENTER();
    *out = named ? atoi(named) : 50221153;
    return hipSuccess;
}

hipError_t hipInit(unsigned flags)
{
    ENTER();
    if (flags) return hipErrorInvalidValue;
    return sc_device_count() == 0 ? hipErrorInvalidDevice : hipSuccess;
}

hipError_t hipGetDeviceCount(int *out)
{
    ENTER();
    *out = sc_device_count();
    return *out ? hipSuccess : hipErrorNoDevice;
}

hipError_t hipSetDevice(int index)
{
    ENTER();
    if (!sc_device_get(index)) return hipErrorInvalidDevice;
    current = index;
    return hipSuccess;
}

hipError_t hipGetDeviceProperties(hipDeviceProp_t *p, int index)
{
    int64_t total = 0, rest = 0;
    ENTER();
    const sc_device *d = sc_device_get(index);
    if (!d) return hipErrorInvalidDevice;
    sc_device_memory(d, &total, &rest);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "Stand-in for an AMD GPU");
    snprintf(p->gcnArchName, sizeof(p->gcnArchName), "gfx90a:sramecc+:xnack-");
    p->totalGlobalMem = (size_t)total;
    p->multiProcessorCount = 104;
    p->warpSize = 64;
    return hipSuccess;
}

/* ---- memory ---- */

hipError_t hipMemGetInfo(size_t *out_free, size_t *out_total)
{
    int64_t total = 0, rest = 0;
    ENTER_DEVICE();
    sc_device_memory(here(), &total, &rest);
    *out_free = (size_t)rest;
    *out_total = (size_t)total;
    return hipSuccess;
}

static hipError_t allocate(void **out, size_t bytes, sc_mem_kind kind, const char *maker)
{
    uint64_t at = 0;
    if (bytes > INT64_MAX) return hipErrorOutOfMemory;
    const sc_status s = sc_mem_alloc(here(), (int64_t)bytes, kind, maker, &at);
    *out = (void *)(uintptr_t)at;
    return error(s);
}

hipError_t hipMalloc(void **out, size_t bytes)
{
    ENTER_DEVICE();
    return allocate(out, bytes, SC_MEM_DEVICE, "hipMalloc");
}

hipError_t hipFree(void *p)
{
    ENTER();
    return error(sc_mem_free((uintptr_t)p, SC_MEM_DEVICE, "hipFree"));
}

hipError_t hipHostMalloc(void **out, size_t bytes, unsigned flags)
{
    ENTER_DEVICE();
    if (flags & ~(unsigned)(hipHostMallocPortable | hipHostMallocMapped))
        return hipErrorInvalidValue;
    return allocate(out, bytes, SC_MEM_PINNED, "hipHostMalloc");
}

hipError_t hipHostFree(void *p)
{
    ENTER();
    return error(sc_mem_free((uintptr_t)p, SC_MEM_PINNED, "hipHostFree"));
}

/* ---- streams and events ---- */

/* The stream behind a handle; the current device's own for NULL. */
static sc_stream *stream_of(hipStream_t s)
{
    return s ? (sc_stream *)s : sc_stream_default(here());
}

hipError_t hipStreamCreateWithFlags(hipStream_t *out, unsigned flags)
{
    ENTER_DEVICE();
    return error(sc_stream_open(here(), flags != hipStreamNonBlocking, "hipStreamCreateWithFlags",
                                (sc_stream **)out));
}

hipError_t hipStreamDestroy(hipStream_t s)
{
    ENTER();
    return error(sc_stream_close((sc_stream *)s, "hipStreamDestroy"));
}

hipError_t hipStreamSynchronize(hipStream_t s)
{
    ENTER_DEVICE();
    const sc_status bad = sc_stream_check(stream_of(s), here(), "hipStreamSynchronize");
    return error(bad != SC_OK ? bad : sc_stream_sync(stream_of(s)));
}

hipError_t hipStreamWaitEvent(hipStream_t s, hipEvent_t e, unsigned flags)
{
    ENTER_DEVICE();
    if (flags) return hipErrorInvalidValue;
    return error(sc_stream_wait(stream_of(s), (sc_event *)e, "hipStreamWaitEvent"));
}

hipError_t hipEventCreateWithFlags(hipEvent_t *out, unsigned flags)
{
    ENTER_DEVICE();
    if (flags & ~(unsigned)(hipEventDisableTiming | hipEventBlockingSync))
        return hipErrorInvalidValue;
    return error(sc_event_open(here(), "hipEventCreateWithFlags", (sc_event **)out));
}

hipError_t hipEventDestroy(hipEvent_t e)
{
    ENTER();
    return error(sc_event_close((sc_event *)e, "hipEventDestroy"));
}

hipError_t hipEventRecord(hipEvent_t e, hipStream_t s)
{
    ENTER_DEVICE();
    return error(sc_event_record((sc_event *)e, stream_of(s), "hipEventRecord"));
}

hipError_t hipEventSynchronize(hipEvent_t e)
{
    ENTER_DEVICE();
    return error(sc_event_sync((sc_event *)e, "hipEventSynchronize"));
}

/* ---- copies ---- */

static hipError_t copy(void *dst, const void *src, size_t n, hipStream_t s, const char *function)
{
    const sc_status bad = sc_stream_check(stream_of(s), here(), function);
    return error(bad != SC_OK ? bad
                              : sc_stream_copy(stream_of(s), (uintptr_t)dst, (uintptr_t)src,
                                               (int64_t)n, function));
}

/* Misuse: an address of the wrong side. */
static hipError_t sides(const void *dst, bool dst_device, const void *src, bool src_device,
                        const char *function)
{
    if (sc_mem_is_device_address((uintptr_t)dst) == dst_device &&
        sc_mem_is_device_address((uintptr_t)src) == src_device)
        return hipSuccess;
    sc_misuse("%s: an address is on the wrong side (%p from %p)", function, dst, src);
    return hipErrorInvalidValue;
}

hipError_t hipMemcpyHtoDAsync(hipDeviceptr_t dst, void *src, size_t n, hipStream_t s)
{
    ENTER_DEVICE();
    const hipError_t e = sides(dst, true, src, false, __func__);
    return e != hipSuccess ? e : copy(dst, src, n, s, __func__);
}

hipError_t hipMemcpyDtoHAsync(void *dst, hipDeviceptr_t src, size_t n, hipStream_t s)
{
    ENTER_DEVICE();
    const hipError_t e = sides(dst, false, src, true, __func__);
    return e != hipSuccess ? e : copy(dst, src, n, s, __func__);
}

hipError_t hipMemcpyDtoDAsync(hipDeviceptr_t dst, hipDeviceptr_t src, size_t n, hipStream_t s)
{
    ENTER_DEVICE();
    const hipError_t e = sides(dst, true, src, true, __func__);
    return e != hipSuccess ? e : copy(dst, src, n, s, __func__);
}

hipError_t hipMemsetD32Async(hipDeviceptr_t dst, int value, size_t n, hipStream_t s)
{
    ENTER_DEVICE();
    return error(sc_stream_fill(stream_of(s), (uintptr_t)dst, (uint32_t)value, 4, (int64_t)n,
                                "hipMemsetD32Async"));
}

/* ---- modules and kernels ---- */

hipError_t hipModuleLoadData(hipModule_t *out, const void *code)
{
    sc_hip_module *m = NULL;
    ENTER_DEVICE();
    const sc_status s = sc_hip_module_load(code, &m);
    if (s != SC_OK) return error(s);
    sc_object_add("module", m, "hipModuleLoadData");
    *out = (hipModule_t)m;
    return hipSuccess;
}

hipError_t hipModuleUnload(hipModule_t m)
{
    ENTER();
    if (!sc_object_remove("module", m, "hipModuleUnload")) return hipErrorInvalidHandle;
    sc_hip_module_free((sc_hip_module *)m);
    return hipSuccess;
}

hipError_t hipModuleGetFunction(hipFunction_t *out, hipModule_t m, const char *name)
{
    ENTER_DEVICE();
    if (!sc_object_check("module", m, "hipModuleGetFunction")) return hipErrorInvalidHandle;
    sc_hip_function *f = sc_hip_function_get((sc_hip_module *)m, name);
    if (!f) return hipErrorNotFound;
    *out = (hipFunction_t)f;
    return hipSuccess;
}

/* A launch with its arguments, pointers as the host may use them. */
typedef struct launch {
    const sc_hip_function *f;
    int64_t groups;
    size_t at[SC_HIP_ARGS];
    char bytes[1024];
} launch;

static sc_status run_kernel(sc_device *d, void *arg, sc_access_list *touched, char *text,
                            size_t text_size)
{
    launch *l = arg;
    void *arguments[SC_HIP_ARGS];
    (void)d;
    (void)touched;
    for (int i = 0; i < l->f->n; ++i) arguments[i] = l->bytes + l->at[i];
    const sc_status fault = sc_enter("kernel");
    if (fault != SC_OK) {
        snprintf(text, text_size, "kernel %s: a fault that was asked for", l->f->name);
        return fault;
    }
    return sc_hip_groups(l->f, arguments, l->groups, sc_options_get()->seed, text, text_size);
}

/* Copies the arguments; false if they do not fit. */
static bool take_arguments(const sc_hip_function *f, void **arguments, launch *out)
{
    size_t at = 0;
    for (int i = 0; i < f->n; ++i) {
        const size_t n = (size_t)abs(f->sizes[i]);
        at = (at + 15) / 16 * 16;
        if (at + n > sizeof(out->bytes)) return false;
        out->at[i] = at;
        memcpy(out->bytes + at, arguments[i], n);
        if (f->sizes[i] < 0) {
            uint64_t p;
            sc_mem where;
            memcpy(&p, out->bytes + at, sizeof(p));
            if (p && !sc_mem_find(p, 1, &where)) {
                char what[256];
                sc_mem_describe(p, 1, what, sizeof(what));
                sc_misuse("kernel %s: argument %d: %s", f->name, i, what);
            }
            p = (uint64_t)(uintptr_t)sc_mem_alias(p);
            memcpy(out->bytes + at, &p, sizeof(p));
        }
        at += n;
    }
    return true;
}

hipError_t hipModuleLaunchKernel(hipFunction_t f, unsigned gx, unsigned gy, unsigned gz,
                                 unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                 hipStream_t s, void **arguments, void **extra)
{
    launch l = {.f = (const sc_hip_function *)f, .groups = gx};
    ENTER_DEVICE();
    if (bx != SC_HIP_LANES || by != 1 || bz != 1 || gy != 1 || gz != 1 || shared || extra ||
        (uint64_t)gx * bx > UINT32_MAX) {
        sc_misuse("hipModuleLaunchKernel: %s: %ux%ux%u groups of %ux%ux%u", l.f->name, gx, gy, gz,
                  bx, by, bz);
        return hipErrorInvalidValue;
    }
    const sc_status bad = sc_stream_check(stream_of(s), here(), "hipModuleLaunchKernel");
    if (bad != SC_OK) return error(bad);
    if (!take_arguments(l.f, arguments, &l)) return hipErrorInvalidValue;
    return error(sc_stream_put(stream_of(s), l.f->name, run_kernel, &l, sizeof(l)));
}

/* ---- what a backend can do without ---- */

#ifndef STANDIN_LEAST
hipError_t hipFuncGetAttribute(int *out, hipFunction_attribute what, hipFunction_t f)
{
    (void)what;
    (void)f;
    ENTER_DEVICE();
    *out = 0;
    return hipSuccess;
}

hipError_t hipDeviceCanAccessPeer(int *can, int index, int other)
{
    ENTER();
    if (!sc_device_get(index) || !sc_device_get(other)) return hipErrorInvalidDevice;
    *can = index != other;
    return hipSuccess;
}

hipError_t hipDeviceEnablePeerAccess(int other, unsigned flags)
{
    ENTER_DEVICE();
    return !sc_device_get(other) || flags || other == current ? hipErrorInvalidDevice : hipSuccess;
}

hipError_t hipMemcpyPeerAsync(void *dst, int dst_index, const void *src, int src_index, size_t n,
                              hipStream_t s)
{
    ENTER_DEVICE();
    if (!sc_device_get(dst_index) || !sc_device_get(src_index)) return hipErrorInvalidDevice;
    const hipError_t e = sides(dst, true, src, true, __func__);
    return e != hipSuccess ? e : copy(dst, src, n, s, __func__);
}

hipError_t hipStreamBeginCapture(hipStream_t s, hipStreamCaptureMode mode)
{
    ENTER_DEVICE();
    (void)mode;
    return s ? error(sc_capture_begin((sc_stream *)s, "hipStreamBeginCapture"))
             : hipErrorStreamCaptureUnsupported;
}

hipError_t hipStreamEndCapture(hipStream_t s, hipGraph_t *out)
{
    ENTER_DEVICE();
    return error(sc_capture_end((sc_stream *)s, "hipStreamEndCapture", (sc_graph **)out));
}

hipError_t hipGraphInstantiateWithFlags(hipGraphExec_t *out, hipGraph_t g, unsigned long long flags)
{
    ENTER_DEVICE();
    (void)flags;
    return error(
        sc_graph_copy((const sc_graph *)g, "hipGraphInstantiateWithFlags", (sc_graph **)out));
}

hipError_t hipGraphLaunch(hipGraphExec_t x, hipStream_t s)
{
    ENTER_DEVICE();
    return error(sc_graph_launch((sc_graph *)x, stream_of(s), "hipGraphLaunch"));
}

hipError_t hipGraphExecDestroy(hipGraphExec_t x)
{
    ENTER();
    return error(sc_graph_free((sc_graph *)x, "hipGraphExecDestroy"));
}

hipError_t hipGraphDestroy(hipGraph_t g)
{
    ENTER();
    return error(sc_graph_free((sc_graph *)g, "hipGraphDestroy"));
}
#endif
