/* gemm_base.c: the matrix product's kernels for processors other than x86-64. */
#define IV__OPS iv__gemm_ops_base
#include "backends/cpu/gemm_kernels.inc"
