/* half.c: `16-true` and `bf16-true`: the whole model in a 16-bit type, losses in f32, no masters.
 *
 * An update smaller than half a unit of the parameter's last place is lost; the run reports the
 * share of these.  Options: masters=true keeps f32 parameters beside, rounding=stochastic loses
 * nothing on average.  Gradients stay f32, because they are summed over grains, passes and ranks.
 * Moments are as the parameters in bf16; f16 cannot hold squares of gradients, so its are f32. */
#include "policy.h"

static const char f16_true_name[] = "16-true", bf16_true_name[] = "bf16-true";
static const iv_precision_option f16_true_options[] = {IV_OPTIONS_TRUE, IV_OPTIONS_LIST, {0}};
static const iv_precision_option bf16_true_options[] = {IV_OPTIONS_TRUE, IV_OPTIONS_LIST, {0}};
static const char about[] =
    "without masters an update below half a unit in the last place of its parameter is lost";
static const iv__policy_spec f16_true_spec = {.name = f16_true_name,
                                              .policy = IV_TYPES(F16, F32, F32, F16, F16),
                                              .list = IV_LIST_TRUE,
                                              .about = about};
static const iv__policy_spec bf16_true_spec = {.name = bf16_true_name,
                                               .policy = IV_TYPES(BF16, F32, BF16, BF16, BF16),
                                               .list = IV_LIST_TRUE,
                                               .about = about};
IV_POLICY_VTABLE(f16_true)
IV_POLICY_VTABLE(bf16_true)
const iv_plugin iv__plugin_f16_true =
    IV_POLICY_PLUGIN(f16_true, "the whole model in f16, losses and gradients in f32");
const iv_plugin iv__plugin_bf16_true =
    IV_POLICY_PLUGIN(bf16_true, "the whole model in bf16, losses and gradients in f32");
