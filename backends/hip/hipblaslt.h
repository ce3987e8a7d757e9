/* hipblaslt.h: the part of hipBLASLt's interface (ROCm 6 and later) that is called, declared here
 * since Debian has no package of it.  Where its own header is found, that is used instead. */
#ifndef IV_BACKENDS_HIP_HIPBLASLT_H
#define IV_BACKENDS_HIP_HIPBLASLT_H

#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#include <hip/hip_runtime_api.h>
#if defined(__has_include) && __has_include(<hipblaslt/hipblaslt.h>)
#include <hipblaslt/hipblaslt.h>
#else
#include <stdint.h>
typedef enum {
    HIPBLAS_STATUS_SUCCESS = 0,
    HIPBLAS_STATUS_NOT_INITIALIZED = 1,
    HIPBLAS_STATUS_ALLOC_FAILED = 2,
    HIPBLAS_STATUS_INVALID_VALUE = 3,
    HIPBLAS_STATUS_EXECUTION_FAILED = 5,
    HIPBLAS_STATUS_INTERNAL_ERROR = 6,
    HIPBLAS_STATUS_NOT_SUPPORTED = 7
} hipblasStatus_t;
typedef enum { HIPBLAS_OP_N = 111, HIPBLAS_OP_T = 112 } hipblasOperation_t;
typedef enum { HIPBLAS_COMPUTE_32F = 2, HIPBLAS_COMPUTE_64F = 7 } hipblasComputeType_t;
typedef enum { HIP_R_32F = 0, HIP_R_64F = 1, HIP_R_16F = 2, HIP_R_16BF = 14 } hipDataType;
typedef enum { HIPBLASLT_EPILOGUE_DEFAULT = 1, HIPBLASLT_EPILOGUE_BIAS = 4 } hipblasLtEpilogue_t;
typedef enum {
    HIPBLASLT_MATRIX_LAYOUT_BATCH_COUNT = 0,
    HIPBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET = 1
} hipblasLtMatrixLayoutAttribute_t;
typedef enum {
    HIPBLASLT_MATMUL_DESC_TRANSA = 0,
    HIPBLASLT_MATMUL_DESC_TRANSB = 1,
    HIPBLASLT_MATMUL_DESC_EPILOGUE = 2,
    HIPBLASLT_MATMUL_DESC_BIAS_POINTER = 3,
    HIPBLASLT_MATMUL_DESC_BIAS_DATA_TYPE = 4
} hipblasLtMatmulDescAttributes_t;
typedef enum {
    HIPBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1
} hipblasLtMatmulPreferenceAttributes_t;
typedef void *hipblasLtHandle_t, *hipblasLtMatmulDesc_t, *hipblasLtMatrixLayout_t,
    *hipblasLtMatmulPreference_t;
typedef struct {
    uint8_t data[16];
    size_t max_workspace_bytes;
} hipblasLtMatmulAlgo_t;
typedef struct {
    hipblasLtMatmulAlgo_t algo;
    size_t workspaceSize;
    hipblasStatus_t state;
    float wavesCount;
    int reserved[4];
} hipblasLtMatmulHeuristicResult_t;
hipblasStatus_t hipblasLtGetVersion(hipblasLtHandle_t h, int *out);
hipblasStatus_t hipblasLtCreate(hipblasLtHandle_t *out);
hipblasStatus_t hipblasLtDestroy(hipblasLtHandle_t h);
hipblasStatus_t hipblasLtMatmulDescCreate(hipblasLtMatmulDesc_t *out, hipblasComputeType_t c,
                                          hipDataType scale);
hipblasStatus_t hipblasLtMatmulDescDestroy(hipblasLtMatmulDesc_t d);
hipblasStatus_t hipblasLtMatmulDescSetAttribute(hipblasLtMatmulDesc_t d,
                                                hipblasLtMatmulDescAttributes_t which,
                                                const void *value, size_t size);
hipblasStatus_t hipblasLtMatrixLayoutCreate(hipblasLtMatrixLayout_t *out, hipDataType t,
                                            uint64_t rows, uint64_t cols, int64_t ld);
hipblasStatus_t hipblasLtMatrixLayoutDestroy(hipblasLtMatrixLayout_t l);
hipblasStatus_t hipblasLtMatrixLayoutSetAttribute(hipblasLtMatrixLayout_t l,
                                                  hipblasLtMatrixLayoutAttribute_t which,
                                                  const void *value, size_t size);
hipblasStatus_t hipblasLtMatmulPreferenceCreate(hipblasLtMatmulPreference_t *out);
hipblasStatus_t hipblasLtMatmulPreferenceDestroy(hipblasLtMatmulPreference_t p);
hipblasStatus_t hipblasLtMatmulPreferenceSetAttribute(hipblasLtMatmulPreference_t p,
                                                      hipblasLtMatmulPreferenceAttributes_t which,
                                                      const void *value, size_t size);
hipblasStatus_t hipblasLtMatmulAlgoGetHeuristic(
    hipblasLtHandle_t h, hipblasLtMatmulDesc_t d, hipblasLtMatrixLayout_t a,
    hipblasLtMatrixLayout_t b, hipblasLtMatrixLayout_t c, hipblasLtMatrixLayout_t y,
    hipblasLtMatmulPreference_t p, int most, hipblasLtMatmulHeuristicResult_t *out, int *out_n);
hipblasStatus_t hipblasLtMatmul(hipblasLtHandle_t h, hipblasLtMatmulDesc_t d, const void *alpha,
                                const void *a, hipblasLtMatrixLayout_t la, const void *b,
                                hipblasLtMatrixLayout_t lb, const void *beta, const void *c,
                                hipblasLtMatrixLayout_t lc, void *y, hipblasLtMatrixLayout_t ly,
                                const hipblasLtMatmulAlgo_t *algo, void *workspace,
                                size_t workspace_bytes, hipStream_t stream);
#endif
#endif
