/* gemm_v2.c: the matrix product's kernels for x86-64-v2; needs -march=x86-64-v2. */
#define IV__OPS iv__gemm_ops_v2
#include "backends/cpu/gemm_kernels.inc"
