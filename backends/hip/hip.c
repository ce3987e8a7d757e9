/* hip.c: the HIP backend: libamdhip64 and hipRTC behind the table of backends/gpu/gpu.h, as far as
 * they differ from CUDA's (../gpu/vendor.inc).
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
#include <string.h>

extern const iv_impl *const *iv__hip_impls(void *dev, int32_t *out_n);
#define IMPLS iv__hip_impls
#define KIND "hip"
#define VENDOR "AMD"
#define PRODUCT "ROCm"
#define MOST_GROUPS ((INT64_C(1) << 26) - 1) /* 2^32 work-items, less one group */
#define OUT_OF_MEMORY hipErrorOutOfMemory
#define D(name) hip##name
#define DRIVER_OWN V(hipRuntimeGetVersion) S(hipGetDeviceProperties) S(hipSetDevice)
/* What HIP calls otherwise. */
#define hipDeviceGetCount hipGetDeviceCount
#define hipMemAlloc hipMalloc
#define hipMemFree hipFree
#define hipMemHostAlloc hipHostMalloc
#define hipMemFreeHost hipHostFree
#define hipStreamCreate hipStreamCreateWithFlags
#define hipEventCreate hipEventCreateWithFlags
#define hipLaunchKernel hipModuleLaunchKernel
#define hipCtxEnablePeerAccess hipDeviceEnablePeerAccess
#define C(name) HIP_##name
#define ADDRESS void *
#define WORD int
#define PEER(index, context) (index)
#define PORTABLE hipHostMallocPortable
#define NON_BLOCKING hipStreamNonBlocking
#define NO_TIMING hipEventDisableTiming
#define CAPTURE_LOCAL hipStreamCaptureModeThreadLocal
#define RTC_NAME "hipRTC"
#define RTC(name) hiprtc##name
#define RTC_OWN S(hiprtcGetCodeSize) S(hiprtcGetCode)
#define RTC_PROGRAM hiprtcProgram
#define RTC_RESULT hiprtcResult
#define RTC_OPTIONS(o) (const char **)(uintptr_t)(o)
#include "../gpu/vendor.inc"

static int driver_version(void)
{
    int v = 0;
    return driver.hipRuntimeGetVersion(&v) ? 0 : v / 10000000 * 100 + v / 100000 % 100;
}
static gpu_library driver_library = {
    .what = "the HIP driver",
    .env = "INVAR_HIP_LIB",
    .hint = "install or update ROCm",
    .names = (const char *const[]){"libamdhip64.so.", "libamdhip64.so", NULL},
    .symbols = driver_symbols,
    .product = PRODUCT,
    .least = 500,
    .tell = driver_version,
};
/* Of the driver's major version, which its name says; its functions tell another. */
static gpu_library compiler_library = {
    .what = "hipRTC, the compiler of kernels",
    .env = "INVAR_HIPRTC_LIB",
    .hint = "install hipRTC of the same ROCm",
    .names = (const char *const[]){"libhiprtc.so.", driver_library.path, NULL},
    .symbols = rtc_symbols,
    .product = PRODUCT,
};

static const char *error_name(int e)
{
    return driver.hipGetErrorName((hipError_t)e);
}
static const char *error_text(int e)
{
    return driver.hipGetErrorString((hipError_t)e);
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
CALL(use, (void *c), hipSetDevice((int)((intptr_t)c - 1)))

/* Architectures, and the least version of ROCm whose compiler knows them. */
static const struct {
    const char *name;
    int least;
} archs[] = {{"gfx900", 500},  {"gfx906", 500},  {"gfx908", 500},  {"gfx90a", 500},
             {"gfx1010", 500}, {"gfx1030", 500}, {"gfx1100", 505}, {"gfx1101", 505},
             {"gfx1102", 505}, {"gfx942", 600},  {"gfx1200", 604}, {"gfx1201", 604},
             {"gfx950", 700}};

static iv_status describe(int index, gpu_desc *out)
{
    union {
        hipDeviceProp_t p;
        char room[8192]; /* later versions of the library know more fields */
    } all;
    memset(&all, 0, sizeof(all));
    const int e = (int)driver.hipGetDeviceProperties(&all.p, index);
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
            archs[i].least <= driver_library.version)
            return IV_OK;
    return host->fail(IV_UNSUPPORTED,
                      "opening hip:%d (%s): the compiler of %s makes no code for %s [hint: a later "
                      "ROCm]",
                      index, out->name, api.driver, out->arch);
}

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

const iv_plugin iv__plugin_hip = GPU_PLUGIN("AMD's GPUs: the portable kernels, compiled by hipRTC");
