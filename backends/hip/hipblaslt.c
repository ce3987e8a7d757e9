/* hipblaslt.c: matrix products by hipBLASLt (see ../gpu/blaslt.inc): INVAR_HIPBLASLT_LIB, else the
 * newest libhipblaslt.so that is there.  It offers no sums over parts of K whose order could
 * change, and takes operands at any multiple of their element. */
#include "../gpu/gpu.h"

#include "hipblaslt.h"

#define LT(name) hipblasLt##name
#define LTC(name) HIPBLASLT_##name
#define LTB(name) HIPBLAS_##name
#define LTB_TYPE(name) hipblas##name
#define LTR(name) HIP_##name
#define LT_OWN
#define LT_NAME "hipblaslt"
#define LT_STATUS hipblasStatus_t
#define LT_TYPE hipDataType
#define LT_BIAS_AS_OUTPUT 0
#define LT_STATUS_NAME(e)                                                                          \
    ((e) == HIPBLAS_STATUS_NOT_SUPPORTED ? "HIPBLAS_STATUS_NOT_SUPPORTED" : "status")
#include "../gpu/blaslt.inc"

/* It tells its version to who has a handle.  Before 0.6, of ROCm 6, types had other numbers. */
static int lt_tell(void)
{
    hipblasLtHandle_t h = NULL;
    int v = 0;
    if (lt.hipblasLtCreate(&h)) return 0;
    if (lt.hipblasLtGetVersion(h, &v)) v = 0;
    lt.hipblasLtDestroy(h);
    return v / 100000 * 100 + v / 100 % 1000;
}
static gpu_library lt_library = {
    .what = "hipBLASLt",
    .env = "INVAR_HIPBLASLT_LIB",
    .hint = "install hipBLASLt of ROCm 6 or later",
    .names = (const char *const[]){"libhipblaslt.so.", "libhipblaslt.so", NULL},
    .symbols = lt_symbols,
    .product = "hipBLASLt",
    .least = 6,
    .tell = lt_tell,
};
static iv_status lt_join(const gpu_api *api)
{
    return iv__gpu_library_join(api->host, &lt_library, api->library);
}

static hipblasStatus_t lt_prefer(hipblasLtMatmulPreference_t p, uint32_t align)
{
    (void)p;
    (void)align;
    return HIPBLAS_STATUS_SUCCESS;
}

const iv_impl *const *iv__hip_impls(void *dev, int32_t *out_n)
{
    (void)dev;
    *out_n = 1;
    return lt_impls;
}
