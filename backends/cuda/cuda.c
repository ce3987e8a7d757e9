/* cuda.c: the CUDA backend: libcuda.so.1 and NVRTC behind the table of backends/gpu/gpu.h, as far
 * as they differ from HIP's (../gpu/vendor.inc).
 *
 * Nothing is linked: the driver is INVAR_CUDA_LIB, else libcuda.so.1; NVRTC is INVAR_NVRTC_LIB,
 * else the newest libnvrtc.so that is there and not of a later major version than the driver, whose
 * code the driver could not load. */
#include "../gpu/gpu.h"

#include <cuda.h>
#include <nvrtc.h>

extern const iv_impl *const *iv__cuda_impls(void *dev, int32_t *out_n);
#define IMPLS iv__cuda_impls
#define KIND "cuda"
#define VENDOR "NVIDIA"
#define PRODUCT "CUDA"
#define MOST_GROUPS INT32_MAX
#define OUT_OF_MEMORY CUDA_ERROR_OUT_OF_MEMORY
#define D(name) cu##name
#define DRIVER_OWN                                                                                 \
    V(cuDriverGetVersion)                                                                          \
    S(cuDeviceGet)                                                                                 \
    S(cuDeviceGetName)                                                                             \
    S(cuDeviceGetAttribute)                                                                        \
    S(cuDeviceTotalMem) S(cuDevicePrimaryCtxRetain) S(cuDevicePrimaryCtxRelease) S(cuCtxSetCurrent)
#define C(name) CU_##name
#define ADDRESS CUdeviceptr
#define WORD unsigned
#define PEER(index, context) (context)
#define PORTABLE CU_MEMHOSTALLOC_PORTABLE
#define NON_BLOCKING CU_STREAM_NON_BLOCKING
#define NO_TIMING CU_EVENT_DISABLE_TIMING
#define CAPTURE_LOCAL CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
#define RTC_NAME "NVRTC"
#define RTC(name) nvrtc##name
#define RTC_OWN                                                                                    \
    S(nvrtcGetNumSupportedArchs)                                                                   \
    S(nvrtcGetSupportedArchs)                                                                      \
    S(nvrtcGetCUBINSize) S(nvrtcGetCUBIN) S(nvrtcGetPTXSize) S(nvrtcGetPTX)
#define RTC_PROGRAM nvrtcProgram
#define RTC_RESULT nvrtcResult
#define RTC_OPTIONS(o) (o)
#include "../gpu/vendor.inc"

enum { LEAST_CUDA = 1200, MOST_ARCHS = 64 };

static int driver_version(void)
{
    int v = 0;
    return driver.cuDriverGetVersion(&v) ? 0 : v / 1000 * 100 + v % 1000 / 10;
}
static gpu_library driver_library = {
    .what = "the CUDA driver",
    .env = "INVAR_CUDA_LIB",
    .hint = "install or update NVIDIA's driver",
    .names = (const char *const[]){"libcuda.so.1", NULL},
    .symbols = driver_symbols,
    .product = PRODUCT,
    .least = LEAST_CUDA,
    .tell = driver_version,
};
static gpu_library compiler_library = {
    .what = "NVRTC, the compiler of kernels",
    .env = "INVAR_NVRTC_LIB",
    .hint = "install libnvrtc of the driver's CUDA version",
    .names = (const char *const[]){"libnvrtc.so.", INVAR_CUDA_FOLDER "/lib64/libnvrtc.so.", NULL},
    .symbols = rtc_symbols,
    .product = PRODUCT,
    .least = LEAST_CUDA,
    .tell = rtc_version,
};

static const char *error_name(int e)
{
    const char *s = NULL;
    return driver.cuGetErrorName((CUresult)e, &s) == CUDA_SUCCESS && s ? s : "unknown CUDA error";
}
static const char *error_text(int e)
{
    const char *s = NULL;
    return driver.cuGetErrorString((CUresult)e, &s) == CUDA_SUCCESS && s ? s : "no text";
}

static int context_open(int index, void **out)
{
    CUdevice d;
    const int e = (int)driver.cuDeviceGet(&d, index);
    return e ? e : (int)driver.cuDevicePrimaryCtxRetain((CUcontext *)out, d);
}
static void context_close(int index, void *context)
{
    CUdevice d;
    (void)context;
    if (driver.cuDeviceGet(&d, index) == CUDA_SUCCESS) driver.cuDevicePrimaryCtxRelease(d);
}
CALL(use, (void *c), cuCtxSetCurrent(c))

static int attribute(CUdevice d, CUdevice_attribute what)
{
    int x = 0;
    return driver.cuDeviceGetAttribute(&x, what, d) == CUDA_SUCCESS ? x : 0;
}

/* The newest architecture that NVRTC makes code for and that is not above `cc`; 0 if there is none.
 */
static int best_arch(int cc, int *out_first)
{
    int archs[MOST_ARCHS], n = 0, best = 0;
    *out_first = 0;
    if (rtc.nvrtcGetNumSupportedArchs(&n) || n > MOST_ARCHS || rtc.nvrtcGetSupportedArchs(archs))
        return 0;
    for (int i = 0; i < n; ++i)
        if (archs[i] <= cc) best = archs[i];
    *out_first = n ? archs[0] : 0;
    return best;
}

/* The device's own architecture if NVRTC knows it, else the newest below it, as PTX. */
static iv_status describe(int index, gpu_desc *out)
{
    CUdevice d;
    size_t bytes = 0;
    int e = (int)driver.cuDeviceGet(&d, index), first;
    if (!e) e = (int)driver.cuDeviceGetName(out->name, sizeof(out->name), d);
    if (!e) e = (int)driver.cuDeviceTotalMem(&bytes, d);
    if (e)
        return host->fail(IV_VENDOR, "opening cuda:%d: %s = %d (%s)", index, error_name(e), e,
                          error_text(e));
    const int cc = 10 * attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                   attribute(d, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    const int best = best_arch(cc, &first);
    if (best == 0)
        return host->fail(IV_UNSUPPORTED,
                          "opening cuda:%d (%s): it is sm_%d, and %s makes code for sm_%d and "
                          "later [hint: an older NVRTC, by INVAR_NVRTC_LIB]",
                          index, out->name, cc, api.driver, first);
    snprintf(out->arch, sizeof(out->arch), "sm_%d", cc);
    snprintf(out->target, sizeof(out->target), "%s_%d", best == cc ? "sm" : "compute", best);
    out->mem_bytes = (int64_t)bytes;
    out->units = attribute(d, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    return IV_OK;
}

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

const iv_plugin iv__plugin_cuda =
    GPU_PLUGIN("NVIDIA's GPUs: the portable kernels, compiled by NVRTC");
