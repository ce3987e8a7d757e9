/* gemm_v3.c: the matrix product's kernels for x86-64-v3; needs -march=x86-64-v3. */
#define IV__LEVEL_V3
#define IV__OPS iv__gemm_ops_v3
#include "backends/cpu/gemm_kernels.inc"
