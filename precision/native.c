/* native.c: native mixed precision.  Parameters, gradients and optimizer state in f32; products,
 * convolutions and attention in a 16-bit type with f32 accumulation.
 *
 *   16-mixed    f16, whose range needs a loss scale: PyTorch's GradScaler
 *   bf16-mixed  bf16, which has f32's range: no scale */
#include "policy.h"

static const char f16_mixed_name[] = "16-mixed", bf16_mixed_name[] = "bf16-mixed";
static const iv_precision_option f16_mixed_options[] = {IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};
static const iv_precision_option bf16_mixed_options[] = {IV_OPTIONS_LIST, {0}};

static iv_status no_scale(iv__policy_run *r, const iv_precision_request *q)
{
    (void)q;
    return r->scaler.kind == IV_SCALER_NONE
               ? IV_OK
               : r->host->fail(IV_INVALID,
                               "precision bf16-mixed: bf16 has f32's range and takes no "
                               "loss scaler");
}

static const iv__policy_spec f16_mixed_spec = {.name = f16_mixed_name,
                                               .policy = IV_TYPES(F32, F32, F32, F32, F16),
                                               .list = IV_LIST_DEFAULT,
                                               .scaler = IV_SCALER_GRAD};
static const iv__policy_spec bf16_mixed_spec = {.name = bf16_mixed_name,
                                                .policy = IV_TYPES(F32, F32, F32, F32, BF16),
                                                .list = IV_LIST_DEFAULT,
                                                .adjust = no_scale};
IV_POLICY_VTABLE(f16_mixed)
IV_POLICY_VTABLE(bf16_mixed)
const iv_plugin iv__plugin_f16_mixed =
    IV_POLICY_PLUGIN(f16_mixed, "matrix products, convolutions and attention in f16, dynamic loss "
                                "scale; the rest in f32");
const iv_plugin iv__plugin_bf16_mixed = IV_POLICY_PLUGIN(
    bf16_mixed, "matrix products, convolutions and attention in bf16; the rest in f32");
