/* hip.c: the HIP backend: libamdhip64 and hipRTC behind the table of backends/gpu/gpu.h.
 *
 * Nothing is linked: the driver is INVAR_HIP_LIB, else the newest libamdhip64.so that is there;
 * hipRTC is INVAR_HIPRTC_LIB, else libhiprtc.so of the same major version, else the driver itself,
 * which has its functions in ROCm 5.  hipRTC ends the process when it is asked for an architecture
 * that it does not know, so it is only asked for those of a table. */
#include "../gpu/gpu.h"

#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>
#include <hip/hiprtc.h>
#include <stdio.h>
#include <string.h>

/* The functions, under their symbols' names. */
#define S(name) __typeof__(name) *name;
#define O(name) S(name)
static struct {
#include "hip.def"
} hip;
static struct {
#include "hiprtc.def"
} rtc;
#undef S
#undef O

extern const iv_impl *const *iv__hip_impls(void *dev, int32_t *out_n);
#define IMPLS iv__hip_impls
#define KIND "hip"
#define VENDOR "AMD"
#define MOST_GROUPS ((INT64_C(1) << 26) - 1) /* 2^32 work-items, less one group */
#define OUT_OF_MEMORY hipErrorOutOfMemory
#define DRIVER hip
#define RTC(name) hiprtc##name
#define RTC_PROGRAM hiprtcProgram
#define RTC_RESULT hiprtcResult
#define RTC_OPTIONS(o) (const char **)(uintptr_t)(o)
#include "../gpu/vendor.inc"

/* ---- driver ---- */

static const char *error_name(int e)
{
    return hip.hipGetErrorName((hipError_t)e);
}
static const char *error_text(int e)
{
    return hip.hipGetErrorString((hipError_t)e);
}

/* HIP has current devices, not contexts: index + 1 stands for one. */
static int context_open(int index, void **out)
{
    *out = (void *)((intptr_t)index + 1);
    return 0;
}
static void context_close(int index, void *context)
{
    (void)index;
    (void)context;
}
static void *address(gpu_ptr p)
{
    return (void *)(uintptr_t)p;
}
static int mem_alloc(gpu_ptr *out, size_t n)
{
    void *p = NULL;
    const int e = (int)hip.hipMalloc(&p, n);
    *out = (gpu_ptr)(uintptr_t)p;
    return e;
}
CALL(device_count, (int *n), hipGetDeviceCount(n))
CALL(use, (void *c), hipSetDevice((int)((intptr_t)c - 1)))
CALL(mem_info, (size_t * f, size_t *t), hipMemGetInfo(f, t))
CALL(mem_free, (gpu_ptr p), hipFree(address(p)))
CALL(host_alloc, (void **p, size_t n), hipHostMalloc(p, n, hipHostMallocPortable))
CALL(host_free, (void *p), hipHostFree(p))
CALL(stream_open, (void **s), hipStreamCreateWithFlags((hipStream_t *)s, hipStreamNonBlocking))
CALL(stream_close, (void *s), hipStreamDestroy(s))
CALL(stream_sync, (void *s), hipStreamSynchronize(s))
CALL(stream_wait, (void *s, void *e), hipStreamWaitEvent(s, e, 0))
CALL(event_open, (void **e), hipEventCreateWithFlags((hipEvent_t *)e, hipEventDisableTiming))
CALL(event_close, (void *e), hipEventDestroy(e))
CALL(event_record, (void *e, void *s), hipEventRecord(e, s))
CALL(event_sync, (void *e), hipEventSynchronize(e))
CALL(copy_in, (gpu_ptr d, const void *p, size_t n, void *s),
     hipMemcpyHtoDAsync(address(d), (void *)(uintptr_t)p, n, s))
CALL(copy_out, (void *d, gpu_ptr p, size_t n, void *s), hipMemcpyDtoHAsync(d, address(p), n, s))
CALL(copy, (gpu_ptr d, gpu_ptr p, size_t n, void *s),
     hipMemcpyDtoDAsync(address(d), address(p), n, s))
CALL(fill, (gpu_ptr d, uint32_t x, size_t n, void *s), hipMemsetD32Async(address(d), (int)x, n, s))
CALL(module_load, (void **m, const void *code), hipModuleLoadData((hipModule_t *)m, code))
CALL(module_unload, (void *m), hipModuleUnload(m))
CALL(function_get, (void **f, void *m, const char *n),
     hipModuleGetFunction((hipFunction_t *)f, m, n))
CALL(launch, (void *f, unsigned groups, void **arguments, void *s),
     hipModuleLaunchKernel(f, groups, 1, 1, 64, 1, 1, 0, s, arguments, NULL))
CALL(peer_can, (int *can, int d, int other), hipDeviceCanAccessPeer(can, d, other))
CALL(capture_begin, (void *s), hipStreamBeginCapture(s, hipStreamCaptureModeThreadLocal))
CALL(capture_end, (void *s, void **g), hipStreamEndCapture(s, (hipGraph_t *)g))
CALL(graph_make, (void **x, void *g), hipGraphInstantiate((hipGraphExec_t *)x, g, NULL, NULL, 0))
CALL(graph_run, (void *x, void *s), hipGraphLaunch(x, s))
CALL(graph_exec_free, (void *x), hipGraphExecDestroy(x))
CALL(graph_free, (void *g), hipGraphDestroy(g))
static int peer_enable(int other, void *context)
{
    (void)context;
    return (int)hip.hipDeviceEnablePeerAccess(other, 0);
}
static int copy_peer(gpu_ptr d, int di, void *dc, gpu_ptr p, int pi, void *pc, size_t n, void *s)
{
    (void)dc;
    (void)pc;
    return (int)hip.hipMemcpyPeerAsync(address(d), di, address(p), pi, n, s);
}
static int function_info(void *f, int *registers, int *spilled)
{
    const int e = (int)hip.hipFuncGetAttribute(registers, HIP_FUNC_ATTRIBUTE_NUM_REGS, f);
    return e ? e : (int)hip.hipFuncGetAttribute(spilled, HIP_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, f);
}

/* ---- devices ---- */

/* Architectures, and the least version of ROCm whose compiler knows them. */
static const struct {
    const char *name;
    int least;
} archs[] = {{"gfx900", 500},  {"gfx906", 500},  {"gfx908", 500},  {"gfx90a", 500},
             {"gfx1010", 500}, {"gfx1030", 500}, {"gfx1100", 505}, {"gfx1101", 505},
             {"gfx1102", 505}, {"gfx942", 600},  {"gfx1200", 604}, {"gfx1201", 604},
             {"gfx950", 700}};
static int rocm; /* 502 for ROCm 5.2 */

static iv_status describe(int index, gpu_desc *out)
{
    union {
        hipDeviceProp_t p;
        char room[8192]; /* later versions of the library know more fields */
    } all;
    memset(&all, 0, sizeof(all));
    const int e = (int)hip.hipGetDeviceProperties(&all.p, index);
    if (e)
        return host->fail(IV_VENDOR, "opening hip:%d: %s = %d (%s)", index, error_name(e), e,
                          error_text(e));
    snprintf(out->name, sizeof(out->name), "%.127s", all.p.name);
    snprintf(out->arch, sizeof(out->arch), "%.63s", all.p.gcnArchName);
    snprintf(out->target, sizeof(out->target), "%.63s", all.p.gcnArchName);
    out->mem_bytes = (int64_t)all.p.totalGlobalMem;
    out->units = all.p.multiProcessorCount;
    const size_t n = strcspn(out->arch, ":");
    for (size_t i = 0; i < sizeof(archs) / sizeof(*archs); ++i)
        if (strlen(archs[i].name) == n && strncmp(archs[i].name, out->arch, n) == 0 &&
            archs[i].least <= rocm)
            return IV_OK;
    return host->fail(IV_UNSUPPORTED,
                      "opening hip:%d (%s): the compiler of %s makes no code for %s [hint: a later "
                      "ROCm]",
                      index, out->name, api.driver, out->arch);
}

/* ---- compiler ---- */

static void rtc_options(const gpu_desc *d, gpu_options *out)
{
    static const char *const fixed[] = {"-std=c++17", "-O3", "-ffp-contract=off",
                                        "-fhip-fp32-correctly-rounded-divide-sqrt", "-w"};
    snprintf(out->arch, sizeof(out->arch), "--offload-arch=%s", d->target);
    out->option[out->n++] = out->arch;
    for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); ++i) out->option[out->n++] = fixed[i];
}
static int rtc_code_size(const gpu_desc *d, void *p, size_t *out)
{
    (void)d;
    return (int)rtc.hiprtcGetCodeSize(p, out);
}
static int rtc_code(const gpu_desc *d, void *p, char *out)
{
    (void)d;
    return (int)rtc.hiprtcGetCode(p, out);
}

/* ---- opening ---- */

enum { LEAST_ROCM = 500 };

static iv_status open_driver(gpu_library *lib)
{
    static const char *const names[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5",
                                        "libamdhip64.so", NULL};
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&hip.name, false},
#define O(name) {GPU_TEXT(name), (void **)&hip.name, true},
#include "hip.def"
#undef S
#undef O
        {0}};
    const gpu_symbol first[] = {{"hipRuntimeGetVersion", (void **)&hip.hipRuntimeGetVersion, false},
                                {0}};
    int version = 0;
    iv_status s = iv__gpu_library_open(lib, names, "install ROCm");
    if (s == IV_OK) s = iv__gpu_library_find(lib, first);
    if (s != IV_OK) return s;
    if (hip.hipRuntimeGetVersion(&version) == hipSuccess)
        rocm = version / 10000000 * 100 + version / 100000 % 100;
    if (rocm < LEAST_ROCM)
        return host->fail(IV_UNAVAILABLE,
                          "opening %s %s: it is of ROCm %d.%d, need %d.%d or later [hint: update "
                          "ROCm]",
                          lib->what, lib->path, rocm / 100, rocm % 100, LEAST_ROCM / 100,
                          LEAST_ROCM % 100);
    s = iv__gpu_library_find(lib, symbols);
    if (s != IV_OK) return s;
    const int e = (int)hip.hipInit(0);
    if (e)
        return host->fail(IV_UNAVAILABLE, "starting %s %s: %s = %d (%s)", lib->what, lib->path,
                          error_name(e), e, error_text(e));
    return IV_OK;
}

static iv_status open_compiler(const gpu_library *driver)
{
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&rtc.name, false},
#include "hiprtc.def"
#undef S
        {0}};
    char name[32];
    const char *const names[] = {name, driver->path, NULL};
    gpu_library lib = {
        .host = host, .what = "hipRTC, the compiler of kernels", .env = "INVAR_HIPRTC_LIB"};
    int major = 0, minor = 0;
    snprintf(name, sizeof(name), "libhiprtc.so.%d", rocm / 100);
    iv_status s = iv__gpu_library_open(&lib, names, "install hipRTC of the same ROCm");
    if (s == IV_OK) s = iv__gpu_library_find(&lib, symbols);
    if (s != IV_OK) return s;
    rtc.hiprtcVersion(&major, &minor);
    snprintf(api.driver, sizeof(api.driver), "ROCm %d.%d, hipRTC %d.%d", rocm / 100, rocm % 100,
             major, minor);
    return IV_OK;
}

static iv_status open_libraries(void)
{
    gpu_library driver = {.host = host, .what = "the HIP driver", .env = "INVAR_HIP_LIB"};
    const iv_status s = open_driver(&driver);
    if (s != IV_OK) return s;
    if (!hip.hipFuncGetAttribute) api.function_info = NULL;
    if (!hip.hipDeviceCanAccessPeer || !hip.hipDeviceEnablePeerAccess) api.peer_can = NULL;
    if (!hip.hipMemcpyPeerAsync) api.copy_peer = NULL;
    if (!hip.hipStreamBeginCapture || !hip.hipStreamEndCapture || !hip.hipGraphInstantiate ||
        !hip.hipGraphLaunch || !hip.hipGraphExecDestroy || !hip.hipGraphDestroy)
        api.capture_begin = NULL;
    return open_compiler(&driver);
}

const iv_plugin iv__plugin_hip = GPU_PLUGIN("AMD's GPUs: the portable kernels, compiled by hipRTC");
