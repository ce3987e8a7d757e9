/* tpu.c: the policies of TPUs and XLA.
 *
 *   tpu       f32; reduce, clip, step: the trainer's order
 *   tpu-bf16  all that is f32 is kept as bf16: parameters and moments too
 *   xla       precision=32-true|16-true|bf16-true
 *
 * Policies by name: they run on any device. */
#include "policy.h"

static const char tpu_name[] = "tpu", tpu_bf16_name[] = "tpu-bf16", xla_name[] = "xla";
static const iv_precision_option tpu_options[] = {{0}};
static const iv_precision_option tpu_bf16_options[] = {IV_OPTIONS_TRUE, IV_OPTIONS_LIST, {0}};
static const iv_precision_option xla_options[] = {
    {"precision", "32-true, 16-true or bf16-true (default 32-true)"},
    IV_OPTIONS_TRUE,
    IV_OPTIONS_LIST,
    {0}};

static iv_status choose_xla(iv__policy_run *r, const iv_precision_request *q)
{
    const char *p = iv__option(q, "precision");
    bool masters = iv__option(q, "masters") && strcmp(iv__option(q, "masters"), "true") == 0;
    iv_policy f16 = IV_TYPES(F16, F32, F32, F16, F16), bf16 = IV_TYPES(BF16, F32, BF16, BF16, BF16);
    uint32_t stochastic = r->policy.stochastic;
    if (!p || strcmp(p, "32-true") == 0) return IV_OK;
    if (strcmp(p, "16-true") != 0 && strcmp(p, "bf16-true") != 0)
        return r->host->fail(IV_INVALID,
                             "precision xla: precision is '%s', not 32-true, 16-true or "
                             "bf16-true",
                             p);
    r->policy = strcmp(p, "16-true") == 0 ? f16 : bf16;
    r->policy.stochastic = stochastic;
    if (masters) r->policy.param = r->policy.moment = IV_F32;
    if (!iv__option(q, "ops")) r->list = IV_LIST_TRUE;
    return IV_OK;
}

static const char about[] =
    "a policy by name: it runs on any device, and on a TPU when a backend plugin has one";
static const iv__policy_spec tpu_spec = {.name = tpu_name,
                                         .policy = IV_TYPES(F32, F32, F32, F32, F32),
                                         .list = IV_LIST_DEFAULT,
                                         .about = about};
static const iv__policy_spec tpu_bf16_spec = {.name = tpu_bf16_name,
                                              .policy = IV_TYPES(BF16, F32, BF16, BF16, BF16),
                                              .list = IV_LIST_TRUE,
                                              .about = about};
static const iv__policy_spec xla_spec = {.name = xla_name,
                                         .policy = IV_TYPES(F32, F32, F32, F32, F32),
                                         .list = IV_LIST_DEFAULT,
                                         .adjust = choose_xla,
                                         .about = about};
IV_POLICY_VTABLE(tpu)
IV_POLICY_VTABLE(tpu_bf16)
IV_POLICY_VTABLE(xla)
const iv_plugin iv__plugin_tpu = IV_POLICY_PLUGIN(tpu, "TPU's policy: f32; reduce, clip, step");
const iv_plugin iv__plugin_tpu_bf16 =
    IV_POLICY_PLUGIN(tpu_bf16, "TPU's bf16: parameters, moments and model kept as bf16");
const iv_plugin iv__plugin_xla_true =
    IV_POLICY_PLUGIN(xla, "XLA's policies: 32-true, 16-true, bf16-true");
