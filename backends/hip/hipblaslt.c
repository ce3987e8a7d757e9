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
#define LT_NAME "hipblaslt"
#define LT_STATUS hipblasStatus_t
#define LT_TYPE hipDataType
#define LT_BIAS_AS_OUTPUT 0
#define LT_STATUS_NAME(e)                                                                          \
    ((e) == HIPBLAS_STATUS_NOT_SUPPORTED ? "HIPBLAS_STATUS_NOT_SUPPORTED" : "status")
#define S(name) __typeof__(name) *name;
static struct {
#include "hipblaslt.def"
} lt;
#undef S

static iv_status lt_open(const iv_host *host)
{
    static const char *const names[] = {"libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so",
                                        NULL};
    static const gpu_symbol symbols[] = {
#define S(name) {GPU_TEXT(name), (void **)&lt.name, false},
#include "hipblaslt.def"
#undef S
        {0}};
    return iv__gpu_library_once(host, "hipBLASLt", "INVAR_HIPBLASLT_LIB", names, symbols);
}

static hipblasStatus_t lt_prefer(hipblasLtMatmulPreference_t p, uint32_t align)
{
    (void)p;
    (void)align;
    return HIPBLAS_STATUS_SUCCESS;
}

#include "../gpu/blaslt.inc"

const iv_impl *const *iv__hip_impls(void *dev, int32_t *out_n)
{
    return lt_list(dev, out_n);
}
