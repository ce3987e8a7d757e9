/* gemm_v4.c: the matrix product's kernels for x86-64-v4; needs -march=x86-64-v4. */
#define IV__LEVEL_V4
#define IV__OPS iv__gemm_ops_v4
#include "backends/cpu/gemm_kernels.inc"
