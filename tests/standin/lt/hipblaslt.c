/* hipblaslt.c: the stand-in for hipBLASLt, inside that of libamdhip64 (see lt.inc). */
#pragma GCC visibility push(default)
#include "backends/hip/hipblaslt.h"
#pragma GCC visibility pop

#define LT(name) hipblasLt##name
#define LTC(name) HIPBLASLT_##name
#define LTB(name) HIPBLAS_##name
#define LTR(name) HIP_##name
#define STATUS hipblasStatus_t
#define TYPE hipDataType
#define COMPUTE hipblasComputeType_t
#define STREAM hipStream_t
#define DESC_ATTRIBUTE hipblasLtMatmulDescAttributes_t
#define LAYOUT_ATTRIBUTE hipblasLtMatrixLayoutAttribute_t
#define PREF_ATTRIBUTE hipblasLtMatmulPreferenceAttributes_t
#define BIAS_ALSO HIP_R_32F /* the type of the scale */
#define DEFAULT_ALIGN 1     /* there is no preference for it */
#include "lt.inc"

/* INVAR_STANDIN_LT_VERSION: another, as 3 for 0.3. */
hipblasStatus_t hipblasLtGetVersion(hipblasLtHandle_t h, int *out)
{
    const int v = version_or(10);
    if (!sc_object_check("Lt handle", h, "Lt GetVersion")) return HIPBLAS_STATUS_NOT_INITIALIZED;
    *out = v / 100 * 100000 + v % 100 * 100;
    return HIPBLAS_STATUS_SUCCESS;
}

static hipblasStatus_t vendor_preference(preference *p, int which, const void *value, size_t size)
{
    (void)p;
    (void)value;
    (void)size;
    BAD("Lt preference: attribute %d", which);
}
