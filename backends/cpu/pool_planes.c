/* pool_planes.c: see pool.h; compiled once per instruction level (IV__LEVEL). */
#include "backends/cpu/gemm.h"
#include "backends/cpu/pool.h"

#include <string.h>

#include "kernels/portable.h"
#include "kernels/math.h"

#define PL_NAME(x) x##_f32
#define PL_T f32
#define PL_A f32
#define PL_I i32
#define PL_LD(x) (x)
#define PL_ST(x) (x)
#define PL_WIDE 1
#include "backends/cpu/pool_planes.inc"

#define PL_NAME(x) x##_f64
#define PL_T f64
#define PL_A f64
#define PL_I i64
#define PL_LD(x) (x)
#define PL_ST(x) (x)
#define PL_WIDE 1
#include "backends/cpu/pool_planes.inc"

#define PL_NAME(x) x##_bf16
#define PL_T u16
#define PL_A f32
#define PL_I i32
#define PL_LD(x) iv_from_bf16(x)
#define PL_ST(x) iv_to_bf16(x)
#define PL_WIDE 0
#include "backends/cpu/pool_planes.inc"

#define PL_NAME(x) x##_f16
#define PL_T u16
#define PL_A f32
#define PL_I i32
#define PL_LD(x) iv_from_f16(x)
#define PL_ST(x) iv_to_f16(x)
#define PL_WIDE 0
#include "backends/cpu/pool_planes.inc"

#define POOL_OPS(t)                                                                                \
    {                                                                                              \
        max_##t, mean_##t, max_grad_##t, mean_grad_##t                                             \
    }
const iv__pool_ops IV_CAT(iv__pool_ops_,
                          IV__LEVEL)[IV__GEMM_TYPES] = {[IV__GEMM_F32] = POOL_OPS(f32),
                                                        [IV__GEMM_F64] = POOL_OPS(f64),
                                                        [IV__GEMM_BF16] = POOL_OPS(bf16),
                                                        [IV__GEMM_F16] = POOL_OPS(f16)};
