/* cuda.c: the CUDA backend: libcuda.so.1 and NVRTC behind the table of backends/gpu/gpu.h.
 *
 * Nothing is linked: the driver is INVAR_CUDA_LIB, else libcuda.so.1; NVRTC is INVAR_NVRTC_LIB,
 * else the newest libnvrtc.so that is there and not of a later major version than the driver, whose
 * code the driver could not load.  Both stay open, since their threads outlive us. */
#include "../gpu/gpu.h"

#include <cuda.h>
#include <nvrtc.h>
#include <stdio.h>

/* The functions, under their symbols' names. */
#define S(name) __typeof__(name) *name;
#define O(name) S(name)
static struct {
#include "cuda.def"
} cu;
static struct {
#include "nvrtc.def"
} rtc;
#undef S
#undef O

extern const iv_impl *const *iv__cuda_impls(void *dev, int32_t *out_n);
#define IMPLS iv__cuda_impls
#define KIND "cuda"
#define VENDOR "NVIDIA"
#define MOST_GROUPS INT32_MAX
#define OUT_OF_MEMORY CUDA_ERROR_OUT_OF_MEMORY
#define DRIVER cu
#define RTC(name) nvrtc##name
#define RTC_PROGRAM nvrtcProgram
#define RTC_RESULT nvrtcResult
#define RTC_OPTIONS(o) (o)
#include "../gpu/vendor.inc"

enum { LEAST_DRIVER = 12000, MOST_MAJORS = 8, MOST_ARCHS = 64 };
static int archs[MOST_ARCHS], n_archs; /* what NVRTC makes code for, rising: 75, 80, .. */

/* ---- driver ---- */

static const char *error_name(int e)
{
    const char *s = NULL;
    return cu.cuGetErrorName((CUresult)e, &s) == CUDA_SUCCESS && s ? s : "unknown CUDA error";
}
static const char *error_text(int e)
{
    const char *s = NULL;
    return cu.cuGetErrorString((CUresult)e, &s) == CUDA_SUCCESS && s ? s : "no text";
}

static int context_open(int index, void **out)
{
    CUdevice d;
    const int e = (int)cu.cuDeviceGet(&d, index);
    return e ? e : (int)cu.cuDevicePrimaryCtxRetain((CUcontext *)out, d);
}
static void context_close(int index, void *context)
{
    CUdevice d;
    (void)context;
    if (cu.cuDeviceGet(&d, index) == CUDA_SUCCESS) cu.cuDevicePrimaryCtxRelease(d);
}

CALL(device_count, (int *n), cuDeviceGetCount(n))
CALL(use, (void *c), cuCtxSetCurrent(c))
CALL(mem_info, (size_t * f, size_t *t), cuMemGetInfo(f, t))
CALL(mem_alloc, (gpu_ptr * p, size_t n), cuMemAlloc(p, n))
CALL(mem_free, (gpu_ptr p), cuMemFree(p))
CALL(host_alloc, (void **p, size_t n), cuMemHostAlloc(p, n, CU_MEMHOSTALLOC_PORTABLE))
CALL(host_free, (void *p), cuMemFreeHost(p))
CALL(stream_open, (void **s), cuStreamCreate((CUstream *)s, CU_STREAM_NON_BLOCKING))
CALL(stream_close, (void *s), cuStreamDestroy(s))
CALL(stream_sync, (void *s), cuStreamSynchronize(s))
CALL(stream_wait, (void *s, void *e), cuStreamWaitEvent(s, e, 0))
CALL(event_open, (void **e), cuEventCreate((CUevent *)e, CU_EVENT_DISABLE_TIMING))
CALL(event_close, (void *e), cuEventDestroy(e))
CALL(event_record, (void *e, void *s), cuEventRecord(e, s))
CALL(event_sync, (void *e), cuEventSynchronize(e))
CALL(copy_in, (gpu_ptr d, const void *p, size_t n, void *s), cuMemcpyHtoDAsync(d, p, n, s))
CALL(copy_out, (void *d, gpu_ptr p, size_t n, void *s), cuMemcpyDtoHAsync(d, p, n, s))
CALL(copy, (gpu_ptr d, gpu_ptr p, size_t n, void *s), cuMemcpyDtoDAsync(d, p, n, s))
CALL(fill, (gpu_ptr d, uint32_t x, size_t n, void *s), cuMemsetD32Async(d, x, n, s))
CALL(module_load, (void **m, const void *code), cuModuleLoadData((CUmodule *)m, code))
CALL(module_unload, (void *m), cuModuleUnload(m))
CALL(function_get, (void **f, void *m, const char *n), cuModuleGetFunction((CUfunction *)f, m, n))
CALL(launch, (void *f, unsigned groups, void **arguments, void *s),
     cuLaunchKernel(f, groups, 1, 1, 64, 1, 1, 0, s, arguments, NULL))
CALL(peer_can, (int *can, int d, int other), cuDeviceCanAccessPeer(can, d, other))
CALL(capture_begin, (void *s), cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
CALL(capture_end, (void *s, void **g), cuStreamEndCapture(s, (CUgraph *)g))
CALL(graph_make, (void **x, void *g), cuGraphInstantiateWithFlags((CUgraphExec *)x, g, 0))
CALL(graph_run, (void *x, void *s), cuGraphLaunch(x, s))
CALL(graph_exec_free, (void *x), cuGraphExecDestroy(x))
CALL(graph_free, (void *g), cuGraphDestroy(g))
static int peer_enable(int other, void *context)
{
    (void)other;
    return (int)cu.cuCtxEnablePeerAccess(context, 0);
}
static int copy_peer(gpu_ptr d, int di, void *dc, gpu_ptr p, int pi, void *pc, size_t n, void *s)
{
    (void)di;
    (void)pi;
    return (int)cu.cuMemcpyPeerAsync(d, dc, p, pc, n, s);
}
static int function_info(void *f, int *registers, int *spilled)
{
    const int e = (int)cu.cuFuncGetAttribute(registers, CU_FUNC_ATTRIBUTE_NUM_REGS, f);
    return e ? e : (int)cu.cuFuncGetAttribute(spilled, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, f);
}

/* ---- devices ---- */

static int attribute(CUdevice d, CUdevice_attribute what)
{
    int x = 0;
    return cu.cuDeviceGetAttribute(&x, what, d) == CUDA_SUCCESS ? x : 0;
}

/* The device's own architecture if NVRTC knows it, else the newest below it, as PTX. */
static iv_status describe(int index, gpu_desc *out)
{
    CUdevice d;
    size_t bytes = 0;
    int e = (int)cu.cuDeviceGet(&d, index), best = 0;
    if (!e) e = (int)cu.cuDeviceGetName(out->name, sizeof(out->name), d);
    if (!e) e = (int)cu.cuDeviceTotalMem(&bytes, d);
    if (e)
        return host->fail(IV_VENDOR, "opening cuda:%d: %s = %d (%s)", index, error_name(e), e,
                          error_text(e));
    const int cc = 10 * attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                   attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    for (int i = 0; i < n_archs; ++i)
        if (archs[i] <= cc) best = archs[i];
    if (best == 0)
        return host->fail(IV_UNSUPPORTED,
                          "opening cuda:%d (%s): it is sm_%d, and %s makes code for sm_%d and "
                          "later [hint: an older NVRTC, by INVAR_NVRTC_LIB]",
                          index, out->name, cc, api.driver, n_archs ? archs[0] : 0);
    snprintf(out->arch, sizeof(out->arch), "sm_%d", cc);
    snprintf(out->target, sizeof(out->target), "%s_%d", best == cc ? "sm" : "compute", best);
    out->mem_bytes = (int64_t)bytes;
    out->units = attribute(d, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    return IV_OK;
}

/* ---- compiler ---- */

static bool wants_ptx(const gpu_desc *d)
{
    return d->target[0] == 'c';
}
static void rtc_options(const gpu_desc *d, gpu_options *out)
{
    static const char *const fixed[] = {"--std=c++17",     "--fmad=false",     "--ftz=false",
                                        "--prec-div=true", "--prec-sqrt=true", "-w"};
    snprintf(out->arch, sizeof(out->arch), "--gpu-architecture=%s", d->target);
    out->option[out->n++] = out->arch;
    for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); ++i) out->option[out->n++] = fixed[i];
}
static int rtc_code_size(const gpu_desc *d, void *p, size_t *out)
{
    return (int)(wants_ptx(d) ? rtc.nvrtcGetPTXSize(p, out) : rtc.nvrtcGetCUBINSize(p, out));
}
static int rtc_code(const gpu_desc *d, void *p, char *out)
{
    return (int)(wants_ptx(d) ? rtc.nvrtcGetPTX(p, out) : rtc.nvrtcGetCUBIN(p, out));
}
/* ---- opening ---- */

static iv_status open_driver(int *out_version)
{
    static const char *const names[] = {"libcuda.so.1", NULL};
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&cu.name, false},
#define O(name) {GPU_TEXT(name), (void **)&cu.name, true},
#include "cuda.def"
#undef S
#undef O
        {0}};
    const gpu_symbol first[] = {{"cuDriverGetVersion", (void **)&cu.cuDriverGetVersion, false},
                                {0}};
    gpu_library lib = {.host = host, .what = "the CUDA driver", .env = "INVAR_CUDA_LIB"};
    int version = 0;
    iv_status s = iv__gpu_library_open(&lib, names, "install NVIDIA's driver");
    if (s == IV_OK) s = iv__gpu_library_find(&lib, first);
    if (s != IV_OK) return s;
    if (cu.cuDriverGetVersion(&version) != CUDA_SUCCESS || version < LEAST_DRIVER)
        return host->fail(IV_UNAVAILABLE,
                          "opening the CUDA driver %s: it supports CUDA %d.%d, need %d.%d or later "
                          "[hint: update NVIDIA's driver]",
                          lib.path, version / 1000, version % 1000 / 10, LEAST_DRIVER / 1000,
                          LEAST_DRIVER % 1000 / 10);
    s = iv__gpu_library_find(&lib, symbols);
    if (s != IV_OK) return s;
    const int e = (int)cu.cuInit(0);
    if (e)
        return host->fail(IV_UNAVAILABLE, "starting the CUDA driver: %s = %d (%s)", error_name(e),
                          e, error_text(e));
    *out_version = version;
    return IV_OK;
}

/* NVRTC of the driver's major version, or the newest before it. */
static iv_status open_compiler(int version)
{
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&rtc.name, false},
#include "nvrtc.def"
#undef S
        {0}};
    char name[2 * MOST_MAJORS][128];
    const char *names[2 * MOST_MAJORS + 1] = {NULL};
    const int driver = version / 1000;
    for (int i = 0; i < MOST_MAJORS && driver - i >= LEAST_DRIVER / 1000; ++i) {
        snprintf(name[2 * i], sizeof(name[0]), "libnvrtc.so.%d", driver - i);
        snprintf(name[2 * i + 1], sizeof(name[0]), "%s/lib64/libnvrtc.so.%d", INVAR_CUDA_FOLDER,
                 driver - i);
        names[2 * i] = name[2 * i];
        names[2 * i + 1] = name[2 * i + 1];
    }
    gpu_library lib = {
        .host = host, .what = "NVRTC, the compiler of kernels", .env = "INVAR_NVRTC_LIB"};
    int major = 0, minor = 0;
    iv_status s =
        iv__gpu_library_open(&lib, names, "install libnvrtc of the driver's CUDA version");
    if (s == IV_OK) s = iv__gpu_library_find(&lib, symbols);
    if (s != IV_OK) return s;
    if (rtc.nvrtcVersion(&major, &minor) != NVRTC_SUCCESS || major > driver)
        return host->fail(IV_UNAVAILABLE,
                          "opening %s: it is of CUDA %d.%d, and the driver supports CUDA %d.%d "
                          "[hint: update the driver, or an older NVRTC by INVAR_NVRTC_LIB]",
                          lib.path, major, minor, driver, version % 1000 / 10);
    if (rtc.nvrtcGetNumSupportedArchs(&n_archs) != NVRTC_SUCCESS || n_archs > MOST_ARCHS ||
        rtc.nvrtcGetSupportedArchs(archs) != NVRTC_SUCCESS)
        return host->fail(IV_UNAVAILABLE, "opening %s: it does not tell its architectures",
                          lib.path);
    snprintf(api.driver, sizeof(api.driver), "CUDA %d.%d, NVRTC %d.%d", driver, version % 1000 / 10,
             major, minor);
    return IV_OK;
}

static iv_status open_libraries(void)
{
    int version = 0;
    const iv_status s = open_driver(&version);
    if (s != IV_OK) return s;
    if (!cu.cuFuncGetAttribute) api.function_info = NULL;
    if (!cu.cuDeviceCanAccessPeer || !cu.cuCtxEnablePeerAccess) api.peer_can = NULL;
    if (!cu.cuMemcpyPeerAsync) api.copy_peer = NULL;
    if (!cu.cuStreamBeginCapture || !cu.cuStreamEndCapture || !cu.cuGraphInstantiateWithFlags ||
        !cu.cuGraphLaunch || !cu.cuGraphExecDestroy || !cu.cuGraphDestroy)
        api.capture_begin = NULL;
    return open_compiler(version);
}

const iv_plugin iv__plugin_cuda =
    GPU_PLUGIN("NVIDIA's GPUs: the portable kernels, compiled by NVRTC");
