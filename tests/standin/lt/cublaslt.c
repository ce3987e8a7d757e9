/* cublaslt.c: the stand-in for cuBLASLt, inside that of libcuda (see lt.inc). */
#pragma GCC visibility push(default)
#include <cublasLt.h>
#pragma GCC visibility pop

#define LT(name) cublasLt##name
#define LTC(name) CUBLASLT_##name
#define LTB(name) CUBLAS_##name
#define LTR(name) CUDA_##name
#define STATUS cublasStatus_t
#define TYPE cudaDataType
#define COMPUTE cublasComputeType_t
#define STREAM cudaStream_t
#define DESC_ATTRIBUTE cublasLtMatmulDescAttributes_t
#define LAYOUT_ATTRIBUTE cublasLtMatrixLayoutAttribute_t
#define PREF_ATTRIBUTE cublasLtMatmulPreferenceAttributes_t
#define BIAS_ALSO -2      /* no other type than the output's */
#define DEFAULT_ALIGN 256 /* unless a preference says less */
#include "lt.inc"

/* INVAR_STANDIN_LT_VERSION: another, as 1104 for 11.4. */
size_t cublasLtGetVersion(void)
{
    const int v = version_or(1300);
    return (size_t)(v / 100 * 10000 + v % 100 * 100);
}

const char *cublasLtGetStatusName(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : s == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
           : s == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE"
                                              : "another CUBLAS_STATUS";
}

static cublasStatus_t vendor_preference(preference *p, int which, const void *value, size_t size)
{
    uint32_t scheme = 0;
    switch (which) {
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return take(&p->align[0], 4, value, size, "Lt alignment");
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return take(&p->align[1], 4, value, size, "Lt alignment");
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return take(&p->align[2], 4, value, size, "Lt alignment");
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&p->align[3], 4, value, size, "Lt alignment");
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        take(&scheme, 4, value, size, "Lt reduction scheme");
        if (scheme != CUBLASLT_REDUCTION_SCHEME_NONE)
            BAD("Lt: sums of parts of K may change their order");
        return CUBLAS_STATUS_SUCCESS;
    }
    BAD("Lt preference: attribute %d", which);
}
