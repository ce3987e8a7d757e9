/* cublaslt.c: matrix products by cuBLASLt (see ../gpu/blaslt.inc): INVAR_CUBLASLT_LIB, else the
 * newest libcublasLt.so that is there and not of a later major version than the driver. */
#include "../gpu/gpu.h"

#include <cublasLt.h>

#define LT(name) cublasLt##name
#define LTC(name) CUBLASLT_##name
#define LTB(name) CUBLAS_##name
#define LTB_TYPE(name) cublas##name
#define LTR(name) CUDA_##name
#define LT_OWN S(cublasLtGetStatusName)
#define LT_NAME "cublaslt"
#define LT_STATUS cublasStatus_t
#define LT_TYPE cudaDataType
#define LT_BIAS_AS_OUTPUT 1
#define LT_STATUS_NAME(e) lt.cublasLtGetStatusName(e)
#include "../gpu/blaslt.inc"

/* Before CUDA 12, whose numbers are others, its version is below 120000 too. */
static int lt_tell(void)
{
    const size_t v = lt.cublasLtGetVersion();
    return (int)(v / 10000 * 100 + v / 100 % 100);
}
static gpu_library lt_library = {
    .what = "cuBLASLt",
    .env = "INVAR_CUBLASLT_LIB",
    .hint = "install libcublasLt of the driver's CUDA version",
    .names =
        (const char *const[]){"libcublasLt.so.", INVAR_CUDA_FOLDER "/lib64/libcublasLt.so.", NULL},
    .symbols = lt_symbols,
    .product = "CUDA",
    .least = 1200,
    .tell = lt_tell,
};
static iv_status lt_join(const gpu_api *api)
{
    return iv__gpu_library_join(api->host, &lt_library, api->library);
}

/* No sums of parts of K, and operands that begin at multiples of `align` bytes. */
static cublasStatus_t lt_prefer(cublasLtMatmulPreference_t p, uint32_t align)
{
    static const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasStatus_t e = lt.cublasLtMatmulPreferenceSetAttribute(
        p, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof(none));
    for (int i = 0; i < 4 && !e; ++i)
        e = lt.cublasLtMatmulPreferenceSetAttribute(p, which[i], &align, sizeof(align));
    return e;
}

const iv_impl *const *iv__cuda_impls(void *dev, int32_t *out_n)
{
    (void)dev;
    *out_n = 1;
    return lt_impls;
}
