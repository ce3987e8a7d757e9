/* attention_soft.c: see attention_soft.h; compiled once per instruction level (IV__LEVEL). */
#include "backends/cpu/attention_soft.h"

#include <string.h>

#include "kernels/portable.h"
#include "kernels/math.h"

#define S_NAME(x) x##_f
#define S_T f32
#define S_EXP iv_exp_f
#define S_LOG iv_log_f
#define S_FMA IV_FMA32
#define S_NEG_INF (-IV_INF32_)
#include "backends/cpu/attention_soft.inc"

#define S_NAME(x) x##_d
#define S_T f64
#define S_EXP iv_exp_d
#define S_LOG iv_log_d
#define S_FMA IV_FMA64
#define S_NEG_INF (-IV_INF64_)
#include "backends/cpu/attention_soft.inc"

#define SOFT_OPS(t)                                                                                \
    {                                                                                              \
        .forward = forward_##t, .rescale = rescale_##t, .finish = finish_##t,                      \
        .backward = backward_##t, .widen = widen_##t, .dot = dot_##t                               \
    }
const iv__soft_ops IV_CAT(iv__soft_ops_, IV__LEVEL)[2] = {SOFT_OPS(f), SOFT_OPS(d)};
