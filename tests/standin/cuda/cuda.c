/* cuda.c: a stand-in for libcuda.so.1: the driver functions that backends/gpu/driver.def lists, on
 * the core of the stand-ins and the PTX machine.
 *
 * It is stricter than a driver where that finds mistakes (core.h), and it loads PTX only: its
 * devices say a compute capability that no NVRTC knows, so a backend asks for PTX of the newest
 * one.
 *
 *   INVAR_STANDIN_CUDA_VERSION=13000   what cuDriverGetVersion says
 *   INVAR_STANDIN_CUDA_ARCH=130        compute capability, times 10 */
#include "../core.h"
#include "../ptx/ptx.h"

#include <cuda.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- codes ---- */

static const CUresult codes[] = {
    [SC_OK] = CUDA_SUCCESS,
    [SC_INVALID_VALUE] = CUDA_ERROR_INVALID_VALUE,
    [SC_OUT_OF_MEMORY] = CUDA_ERROR_OUT_OF_MEMORY,
    [SC_NOT_INITIALIZED] = CUDA_ERROR_NOT_INITIALIZED,
    [SC_NO_DEVICE] = CUDA_ERROR_NO_DEVICE,
    [SC_INVALID_DEVICE] = CUDA_ERROR_INVALID_DEVICE,
    [SC_INVALID_CONTEXT] = CUDA_ERROR_INVALID_CONTEXT,
    [SC_INVALID_HANDLE] = CUDA_ERROR_INVALID_HANDLE,
    [SC_INVALID_IMAGE] = CUDA_ERROR_INVALID_IMAGE,
    [SC_INVALID_PTX] = CUDA_ERROR_INVALID_PTX,
    [SC_NO_BINARY] = CUDA_ERROR_NO_BINARY_FOR_GPU,
    [SC_NOT_FOUND] = CUDA_ERROR_NOT_FOUND,
    [SC_NOT_READY] = CUDA_ERROR_NOT_READY,
    [SC_NOT_SUPPORTED] = CUDA_ERROR_NOT_SUPPORTED,
    [SC_ILLEGAL_ADDRESS] = CUDA_ERROR_ILLEGAL_ADDRESS,
    [SC_MISALIGNED] = CUDA_ERROR_MISALIGNED_ADDRESS,
    [SC_OUT_OF_RESOURCES] = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
    [SC_LAUNCH_FAILED] = CUDA_ERROR_LAUNCH_FAILED,
    [SC_STREAM_CAPTURE] = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
    [SC_UNKNOWN] = CUDA_ERROR_UNKNOWN,
};

static const struct {
    CUresult code;
    const char *name, *text;
} texts[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image for the device"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access"},
    {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
     "peer access is already enabled"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
enum { TEXTS = sizeof(texts) / sizeof(texts[0]), DEVICES = 8 };

/* ---- state ---- */

struct CUctx_st { /* the primary context of a device */
    sc_device *device;
    int32_t users;
    bool peers[DEVICES];
};
typedef struct module {
    ptx_module *ptx;
    sc_device *device;
} module;

static struct CUctx_st contexts[DEVICES];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static bool started;
static __thread CUcontext current;

/* Begins every function: counts the call; ends it if a fault was asked for or cuInit is missing. */
#define ENTER(name)                                                                                \
    do {                                                                                           \
        const sc_status entered_ = sc_enter(name);                                                 \
        if (entered_ != SC_OK) return codes[entered_];                                             \
    } while (0)
#define STARTED(name)                                                                              \
    ENTER(name);                                                                                   \
    if (!started) {                                                                                \
        sc_misuse("%s before cuInit", name);                                                       \
        return CUDA_ERROR_NOT_INITIALIZED;                                                         \
    }
/* And those that work on the current context: `d` is its device; a fault of that is sticky. */
#define CURRENT(name)                                                                              \
    STARTED(name)                                                                                  \
    sc_device *const d = device_of(name);                                                          \
    if (!d) return CUDA_ERROR_INVALID_CONTEXT;                                                     \
    if (sc_device_fault(d) != SC_OK) return codes[sc_device_fault(d)];

static sc_device *device_of(const char *name)
{
    if (current && current->users > 0) return current->device;
    sc_misuse("%s without a current context", name);
    return NULL;
}

/* The stream of a handle, or NULL after a line of misuse. */
static sc_stream *stream_of(sc_device *d, CUstream s, const char *name)
{
    if (!s) return sc_stream_default(d);
    return sc_stream_check((sc_stream *)s, d, name) == SC_OK ? (sc_stream *)s : NULL;
}

static int32_t number(const char *variable, int32_t otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? atoi(text) : otherwise;
}

/* ---- driver and devices ---- */

EXPORT CUresult cuDriverGetVersion(int *version)
{
    ENTER("cuDriverGetVersion");
    *version = number("INVAR_STANDIN_CUDA_VERSION", 13000);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuInit(unsigned flags)
{
    ENTER("cuInit");
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (sc_device_count() == 0) return CUDA_ERROR_NO_DEVICE;
    started = true;
    return CUDA_SUCCESS;
}

/* Not for backends: NVRTC asks every libcuda.so.1 in the process for tables, and believes the size
 * in their first word before it uses them.  These are empty. */
EXPORT CUresult cuGetExportTable(const void **out, const CUuuid *id)
{
    static const size_t empty[1] = {sizeof(empty)};
    (void)id;
    *out = empty;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult e, const char **out)
{
    for (int32_t i = 0; i < TEXTS; ++i)
        if (texts[i].code == e) {
            *out = texts[i].name;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGetErrorString(CUresult e, const char **out)
{
    for (int32_t i = 0; i < TEXTS; ++i)
        if (texts[i].code == e) {
            *out = texts[i].text;
            return CUDA_SUCCESS;
        }
    return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuDeviceGetCount(int *n)
{
    STARTED("cuDeviceGetCount")
    *n = sc_device_count();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *out, int index)
{
    STARTED("cuDeviceGet")
    if (!sc_device_get(index)) return CUDA_ERROR_INVALID_DEVICE;
    *out = index;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *out, int size, CUdevice d)
{
    STARTED("cuDeviceGetName")
    if (!sc_device_get(d)) return CUDA_ERROR_INVALID_DEVICE;
    snprintf(out, (size_t)size, "PTX machine %d", d);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute what, CUdevice d)
{
    STARTED("cuDeviceGetAttribute")
    const int arch = number("INVAR_STANDIN_CUDA_ARCH", 130);
    if (!sc_device_get(d)) return CUDA_ERROR_INVALID_DEVICE;
    switch (what) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *out = arch / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *out = arch % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *out = 2; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *out = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *out = 48 * 1024; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *out = 1; break;
    default:
        sc_misuse("cuDeviceGetAttribute: attribute %d is not known", (int)what);
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem(size_t *out, CUdevice d)
{
    int64_t total, left;
    STARTED("cuDeviceTotalMem_v2")
    if (!sc_device_get(d)) return CUDA_ERROR_INVALID_DEVICE;
    sc_device_memory(sc_device_get(d), &total, &left);
    *out = (size_t)total;
    return CUDA_SUCCESS;
}

/* ---- contexts ---- */

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice d)
{
    STARTED("cuDevicePrimaryCtxRetain")
    if (!sc_device_get(d)) return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&mutex);
    contexts[d].device = sc_device_get(d);
    ++contexts[d].users;
    pthread_mutex_unlock(&mutex);
    sc_object_add("context", &contexts[d], "cuDevicePrimaryCtxRetain");
    *out = &contexts[d];
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice d)
{
    STARTED("cuDevicePrimaryCtxRelease_v2")
    if (!sc_device_get(d)) return CUDA_ERROR_INVALID_DEVICE;
    if (!sc_object_remove("context", &contexts[d], "cuDevicePrimaryCtxRelease"))
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&mutex);
    const bool last = --contexts[d].users == 0;
    pthread_mutex_unlock(&mutex);
    if (last) {
        sc_device_sync(contexts[d].device);
        sc_device_clear_fault(contexts[d].device);
        memset(contexts[d].peers, 0, sizeof(contexts[d].peers));
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext c)
{
    STARTED("cuCtxSetCurrent")
    if (c && !sc_object_check("context", c, "cuCtxSetCurrent")) return CUDA_ERROR_INVALID_CONTEXT;
    current = c;
    return CUDA_SUCCESS;
}

/* ---- memory ---- */

EXPORT CUresult cuMemGetInfo(size_t *out_free, size_t *out_total)
{
    int64_t total, left;
    CURRENT("cuMemGetInfo_v2")
    sc_device_memory(d, &total, &left);
    *out_free = (size_t)left;
    *out_total = (size_t)total;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
    uint64_t p = 0;
    CURRENT("cuMemAlloc_v2")
    const sc_status s = sc_mem_alloc(d, (int64_t)bytes, SC_MEM_DEVICE, "cuMemAlloc_v2", &p);
    if (s == SC_OK) *out = p;
    return codes[s];
}

/* Memory can be given back on a device with a fault too. */
static CUresult give_back(uint64_t p, sc_mem_kind kind, const char *name)
{
    if (!device_of(name)) return CUDA_ERROR_INVALID_CONTEXT;
    const sc_status s = sc_mem_free(p, kind, name), fault = sc_device_fault(current->device);
    return codes[s != SC_OK ? s : fault];
}

EXPORT CUresult cuMemFree(CUdeviceptr p)
{
    STARTED("cuMemFree_v2")
    return p ? give_back(p, SC_MEM_DEVICE, "cuMemFree_v2") : CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    uint64_t p = 0;
    CURRENT("cuMemHostAlloc")
    if (flags & ~7u) return CUDA_ERROR_INVALID_VALUE;
    const sc_status s = sc_mem_alloc(d, (int64_t)bytes, SC_MEM_PINNED, "cuMemHostAlloc", &p);
    if (s == SC_OK) *out = (void *)(uintptr_t)p;
    return codes[s];
}

EXPORT CUresult cuMemFreeHost(void *p)
{
    STARTED("cuMemFreeHost")
    return give_back((uint64_t)(uintptr_t)p, SC_MEM_PINNED, "cuMemFreeHost");
}

/* ---- streams and events ---- */

EXPORT CUresult cuStreamCreate(CUstream *out, unsigned flags)
{
    sc_stream *s = NULL;
    CURRENT("cuStreamCreate")
    if (flags & ~1u) return CUDA_ERROR_INVALID_VALUE;
    const sc_status status =
        sc_stream_open(d, !(flags & CU_STREAM_NON_BLOCKING), "cuStreamCreate", &s);
    if (status == SC_OK) *out = (CUstream)s;
    return codes[status];
}

EXPORT CUresult cuStreamDestroy(CUstream s)
{
    STARTED("cuStreamDestroy_v2")
    return codes[sc_stream_close((sc_stream *)s, "cuStreamDestroy_v2")];
}

EXPORT CUresult cuStreamSynchronize(CUstream handle)
{
    CURRENT("cuStreamSynchronize")
    sc_stream *s = stream_of(d, handle, "cuStreamSynchronize");
    return s ? codes[sc_stream_sync(s)] : CUDA_ERROR_INVALID_HANDLE;
}

EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent e, unsigned flags)
{
    CURRENT("cuStreamWaitEvent")
    sc_stream *s = stream_of(d, handle, "cuStreamWaitEvent");
    if (!s || flags > 1) return CUDA_ERROR_INVALID_HANDLE;
    return codes[sc_stream_wait(s, (sc_event *)e, "cuStreamWaitEvent")];
}

EXPORT CUresult cuEventCreate(CUevent *out, unsigned flags)
{
    sc_event *e = NULL;
    CURRENT("cuEventCreate")
    if (flags & ~7u) return CUDA_ERROR_INVALID_VALUE;
    const sc_status s = sc_event_open(d, "cuEventCreate", &e);
    if (s == SC_OK) *out = (CUevent)e;
    return codes[s];
}

EXPORT CUresult cuEventDestroy(CUevent e)
{
    STARTED("cuEventDestroy_v2")
    return codes[sc_event_close((sc_event *)e, "cuEventDestroy_v2")];
}

EXPORT CUresult cuEventRecord(CUevent e, CUstream handle)
{
    CURRENT("cuEventRecord")
    sc_stream *s = stream_of(d, handle, "cuEventRecord");
    return s ? codes[sc_event_record((sc_event *)e, s, "cuEventRecord")]
             : CUDA_ERROR_INVALID_HANDLE;
}

EXPORT CUresult cuEventSynchronize(CUevent e)
{
    STARTED("cuEventSynchronize")
    return codes[sc_event_sync((sc_event *)e, "cuEventSynchronize")];
}

/* ---- copies ---- */

/* Is `p` device memory (or host memory) as the function's name says? */
static bool side(uint64_t p, bool device, const char *name)
{
    if (sc_mem_is_device_address(p) == device) return true;
    sc_misuse("%s: 0x%llx is %s memory", name, (unsigned long long)p, device ? "host" : "device");
    return false;
}

static CUresult copy(uint64_t dst, bool to_device, uint64_t src, bool from_device, size_t bytes,
                     CUstream handle, const char *name)
{
    CURRENT(name)
    sc_stream *s = stream_of(d, handle, name);
    if (!s) return CUDA_ERROR_INVALID_HANDLE;
    if (!side(dst, to_device, name) || !side(src, from_device, name))
        return CUDA_ERROR_INVALID_VALUE;
    if (dst < src + bytes && src < dst + bytes && bytes)
        sc_misuse("%s: source and destination overlap", name);
    return codes[sc_stream_copy(s, dst, src, (int64_t)bytes, name)];
}

EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t bytes, CUstream s)
{
    return copy(dst, true, (uint64_t)(uintptr_t)src, false, bytes, s, "cuMemcpyHtoDAsync_v2");
}

EXPORT CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t bytes, CUstream s)
{
    return copy((uint64_t)(uintptr_t)dst, false, src, true, bytes, s, "cuMemcpyDtoHAsync_v2");
}

EXPORT CUresult cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream s)
{
    return copy(dst, true, src, true, bytes, s, "cuMemcpyDtoDAsync_v2");
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr dst, unsigned value, size_t n, CUstream handle)
{
    CURRENT("cuMemsetD32Async")
    sc_stream *s = stream_of(d, handle, "cuMemsetD32Async");
    if (!s) return CUDA_ERROR_INVALID_HANDLE;
    if (!side(dst, true, "cuMemsetD32Async")) return CUDA_ERROR_INVALID_VALUE;
    return codes[sc_stream_fill(s, dst, value, 4, (int64_t)n, "cuMemsetD32Async")];
}

/* ---- modules and launches ---- */

EXPORT CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
    char error[512];
    CURRENT("cuModuleLoadData")
    if (memcmp(image, "\177ELF", 4) == 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    module *m = calloc(1, sizeof(*m));
    if (!m) return CUDA_ERROR_OUT_OF_MEMORY;
    m->device = d;
    if (!ptx_load(d, image, error, sizeof(error), &m->ptx)) {
        sc_misuse("cuModuleLoadData: %s", error);
        free(m);
        return CUDA_ERROR_INVALID_PTX;
    }
    sc_object_add("module", m, "cuModuleLoadData");
    *out = (CUmodule)m;
    return CUDA_SUCCESS;
}

static void note(void *ctx, const char *line)
{
    (void)ctx;
    sc_note("%s", line);
}

EXPORT CUresult cuModuleUnload(CUmodule handle)
{
    module *m = (module *)handle;
    STARTED("cuModuleUnload")
    if (!sc_object_remove("module", m, "cuModuleUnload")) return CUDA_ERROR_INVALID_HANDLE;
    sc_device_sync(m->device);
    if (sc_options_get()->report) ptx_report(m->ptx, note, NULL);
    for (int32_t i = 0; ptx_function_at(m->ptx, i); ++i)
        if (sc_object_known("function", ptx_function_at(m->ptx, i)))
            sc_object_remove("function", ptx_function_at(m->ptx, i), "cuModuleUnload");
    ptx_unload(m->ptx);
    free(m);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction *out, CUmodule handle, const char *name)
{
    module *m = (module *)handle;
    STARTED("cuModuleGetFunction")
    if (!sc_object_check("module", m, "cuModuleGetFunction")) return CUDA_ERROR_INVALID_HANDLE;
    ptx_function *f = ptx_function_get(m->ptx, name);
    if (!f) return CUDA_ERROR_NOT_FOUND;
    if (!sc_object_known("function", f)) sc_object_add("function", f, "cuModuleGetFunction");
    *out = (CUfunction)f;
    return CUDA_SUCCESS;
}

typedef struct launch_arg {
    ptx_function *f;
    ptx_launch launch;
    _Alignas(16) char params[1024];
} launch_arg;

static sc_status run_launch(sc_device *d, void *arg, sc_access_list *touched, char *text,
                            size_t size)
{
    launch_arg *a = arg;
    (void)d;
    if (!sc_object_check("function", a->f, "a kernel that runs")) return SC_ILLEGAL_ADDRESS;
    const sc_status injected = sc_enter("kernel");
    if (injected != SC_OK) {
        snprintf(text, size, "a fault that was asked for");
        return injected == SC_UNKNOWN ? SC_ILLEGAL_ADDRESS : injected;
    }
    a->launch.params = a->params;
    return ptx_run(a->f, &a->launch, touched, text, size);
}

EXPORT CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz,
                               unsigned bx, unsigned by, unsigned bz, unsigned shared,
                               CUstream stream, void **params, void **extra)
{
    ptx_function *f = (ptx_function *)handle;
    launch_arg a = {.f = f,
                    .launch = {.grid = {gx, gy, gz},
                               .block = {bx, by, bz},
                               .shared_bytes = shared,
                               .check = sc_options_get()->check}};
    char text[256];
    CURRENT("cuLaunchKernel")
    sc_stream *s = stream_of(d, stream, "cuLaunchKernel");
    if (!s || !sc_object_check("function", f, "cuLaunchKernel")) return CUDA_ERROR_INVALID_HANDLE;
    if (ptx_function_device(f) != d) {
        sc_misuse("cuLaunchKernel: %s was loaded on another device", ptx_function_name(f));
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (extra || !params || ptx_function_param_bytes(f) > (int32_t)sizeof(a.params))
        return CUDA_ERROR_INVALID_VALUE;
    const sc_status status = ptx_check_launch(f, &a.launch, text, sizeof(text));
    if (status != SC_OK) {
        sc_misuse("cuLaunchKernel: %s: %s", ptx_function_name(f), text);
        return codes[status];
    }
    for (int32_t k = 0, at; k < ptx_function_params(f); ++k) {
        const int32_t bytes = ptx_function_param(f, k, &at);
        memcpy(a.params + at, params[k], (size_t)bytes);
    }
    return codes[sc_stream_put(s, ptx_function_name(f), run_launch, &a, sizeof(a))];
}

/* ---- optional functions ---- */
#ifndef STANDIN_LEAST

EXPORT CUresult cuFuncGetAttribute(int *out, CUfunction_attribute what, CUfunction f)
{
    ptx_size size;
    STARTED("cuFuncGetAttribute")
    if (!sc_object_check("function", f, "cuFuncGetAttribute")) return CUDA_ERROR_INVALID_HANDLE;
    ptx_function_size((ptx_function *)f, &size);
    switch (what) {
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *out = size.registers / 4 < 255 ? size.registers / 4 : 255;
        break;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *out = size.local_bytes; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *out = size.shared_bytes; break;
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *out = size.max_threads; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceCanAccessPeer(int *out, CUdevice d, CUdevice other)
{
    STARTED("cuDeviceCanAccessPeer")
    if (!sc_device_get(d) || !sc_device_get(other)) return CUDA_ERROR_INVALID_DEVICE;
    *out = d != other;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxEnablePeerAccess(CUcontext c, unsigned flags)
{
    CURRENT("cuCtxEnablePeerAccess")
    if (flags != 0 || !sc_object_check("context", c, "cuCtxEnablePeerAccess") || c == current)
        return CUDA_ERROR_INVALID_VALUE;
    bool *const on = &contexts[sc_device_index(d)].peers[sc_device_index(c->device)];
    const bool already = *on;
    *on = true;
    return already ? CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED : CUDA_SUCCESS;
}

EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext to, CUdeviceptr src, CUcontext from,
                                  size_t bytes, CUstream handle)
{
    sc_mem m;
    STARTED("cuMemcpyPeerAsync")
    if (!sc_object_check("context", to, "cuMemcpyPeerAsync") ||
        !sc_object_check("context", from, "cuMemcpyPeerAsync"))
        return CUDA_ERROR_INVALID_CONTEXT;
    const bool right = (!sc_mem_find(dst, (int64_t)bytes, &m) || m.device == to->device) &&
                       (!sc_mem_find(src, (int64_t)bytes, &m) || m.device == from->device);
    if (!right) sc_misuse("cuMemcpyPeerAsync: an address of another device than its context's");
    return copy(dst, true, src, true, bytes, handle, "cuMemcpyPeerAsync");
}

EXPORT CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode)
{
    CURRENT("cuStreamBeginCapture_v2")
    (void)mode;
    sc_stream *s = handle ? stream_of(d, handle, "cuStreamBeginCapture_v2") : NULL;
    return s ? codes[sc_capture_begin(s, "cuStreamBeginCapture_v2")]
             : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

EXPORT CUresult cuStreamEndCapture(CUstream handle, CUgraph *out)
{
    sc_graph *g = NULL;
    CURRENT("cuStreamEndCapture")
    sc_stream *s = handle ? stream_of(d, handle, "cuStreamEndCapture") : NULL;
    if (!s) return CUDA_ERROR_INVALID_HANDLE;
    const sc_status status = sc_capture_end(s, "cuStreamEndCapture", &g);
    *out = (CUgraph)g;
    return codes[status];
}

EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph g, unsigned long long flags)
{
    sc_graph *x = NULL;
    CURRENT("cuGraphInstantiateWithFlags")
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const sc_status s = sc_graph_copy((const sc_graph *)g, "cuGraphInstantiateWithFlags", &x);
    if (s == SC_OK) *out = (CUgraphExec)x;
    return codes[s];
}

EXPORT CUresult cuGraphLaunch(CUgraphExec x, CUstream handle)
{
    CURRENT("cuGraphLaunch")
    sc_stream *s = stream_of(d, handle, "cuGraphLaunch");
    return s ? codes[sc_graph_launch((sc_graph *)x, s, "cuGraphLaunch")]
             : CUDA_ERROR_INVALID_HANDLE;
}

EXPORT CUresult cuGraphExecDestroy(CUgraphExec x)
{
    STARTED("cuGraphExecDestroy")
    return codes[sc_graph_free((sc_graph *)x, "cuGraphExecDestroy")];
}

EXPORT CUresult cuGraphDestroy(CUgraph g)
{
    STARTED("cuGraphDestroy")
    return codes[sc_graph_free((sc_graph *)g, "cuGraphDestroy")];
}
#endif
