/* cublaslt.c: matrix products by cuBLASLt (see ../gpu/blaslt.inc): INVAR_CUBLASLT_LIB, else the
 * newest libcublasLt.so that is there. */
#include "../gpu/gpu.h"

#include <cublasLt.h>

#define LT(name) cublasLt##name
#define LTC(name) CUBLASLT_##name
#define LTB(name) CUBLAS_##name
#define LTB_TYPE(name) cublas##name
#define LTR(name) CUDA_##name
#define LT_NAME "cublaslt"
#define LT_STATUS cublasStatus_t
#define LT_TYPE cudaDataType
#define LT_BIAS_AS_OUTPUT 1
#define LT_STATUS_NAME(e) lt.cublasLtGetStatusName(e)
#define S(name) __typeof__(name) *name;
static struct {
#include "cublaslt.def"
} lt;
#undef S

static iv_status lt_open(const iv_host *host)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        INVAR_CUDA_FOLDER "/lib64/libcublasLt.so", NULL};
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&lt.name, false},
#include "cublaslt.def"
#undef S
        {0}};
    return iv__gpu_library_once(host, "cuBLASLt", "INVAR_CUBLASLT_LIB", names, symbols);
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

#include "../gpu/blaslt.inc"

const iv_impl *const *iv__cuda_impls(void *dev, int32_t *out_n)
{
    return lt_list(dev, out_n);
}
