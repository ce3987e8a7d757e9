/* ipu.c: `ipu(precision=16|32)`: model and inputs in f16 without masters, a loss scale that stays,
 * and the restriction of the original: no gradient clipping.  A policy by name: it runs on any
 * device. */
#include "policy.h"

static const char ipu_name[] = "ipu";
static const iv_precision_option ipu_options[] = {{"precision", "16 or 32 (default 16)"},
                                                  IV_OPTIONS_TRUE,
                                                  IV_OPTIONS_LIST,
                                                  {"scale", "loss scale (default 1)"},
                                                  {0}};

static iv_status restrict_run(iv__policy_run *r, const iv_precision_request *q)
{
    const char *p = iv__option(q, "precision");
    if (q->clip > 0)
        return r->host->fail(IV_INVALID,
                             "precision ipu: gradients cannot be clipped, --clip is %g "
                             "[hint: --clip 0]",
                             q->clip);
    if (!p || strcmp(p, "16") == 0) return IV_OK;
    if (strcmp(p, "32") != 0)
        return r->host->fail(IV_INVALID, "precision ipu: precision is '%s', not 16 or 32", p);
    r->policy = (iv_policy)IV_TYPES(F32, F32, F32, F32, F32);
    iv__scaler_init(&r->scaler, IV_SCALER_NONE);
    return IV_OK;
}

static const iv__policy_spec ipu_spec = {
    .name = ipu_name,
    .policy = IV_TYPES(F16, F32, F32, F16, F16),
    .list = IV_LIST_TRUE,
    .scaler = IV_SCALER_STATIC,
    .adjust = restrict_run,
    .about =
        "a policy by name: it runs on any device, and on an IPU when a backend plugin has one"};
IV_POLICY_VTABLE(ipu)
const iv_plugin iv__plugin_ipu =
    IV_POLICY_PLUGIN(ipu, "IPU's policy: model and inputs in f16, fixed loss scale, no clipping");
