/* weights.c: `int8` and `nf4`: products see their weights rounded to few bits, as bitsandbytes
 * keeps them; everything else is mixed precision.
 *
 *   int8   each output's weights in 255 steps of their largest magnitude
 *   nf4    blocks of 64 weights in the 16 numbers of NormalFloat, scaled by the block's largest
 *
 * Parameters are kept in f32 and rounded anew for every pass; a gradient is taken at the rounded
 * weights and applied to the kept ones. */
#include "policy.h"

static const char int8_name[] = "int8", nf4_name[] = "nf4";
#define LOW                                                                                        \
    {                                                                                              \
        "low", "what products compute in: bf16 or f16 (default bf16)"                              \
    }
static const iv_precision_option int8_options[] = {LOW, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};
static const iv_precision_option nf4_options[] = {LOW, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};

static iv_status choose_low(iv__policy_run *r, const iv_precision_request *q)
{
    const char *low = iv__option(q, "low");
    bool scaled = iv__option(q, "scaler") || iv__option(q, "scale");
    if (low && strcmp(low, "bf16") != 0 && strcmp(low, "f16") != 0)
        return r->host->fail(IV_INVALID, "precision %s: low is '%s', not bf16 or f16",
                             r->spec->name, low);
    if (low && strcmp(low, "f16") == 0) r->policy.low = IV_F16;
    if ((scaled || r->policy.low == IV_F16) && r->scaler.kind == IV_SCALER_NONE)
        iv__scaler_init(&r->scaler, IV_SCALER_GRAD);
    return IV_OK;
}

#define TYPES(format)                                                                              \
    {                                                                                              \
        .size = sizeof(iv_policy), .param = IV_F32, .full = IV_F32, .moment = IV_F32,              \
        .compute = IV_F32, .low = IV_BF16, .operands = (format)                                    \
    }
static const iv__policy_spec int8_spec = {.name = int8_name,
                                          .policy = TYPES(IV_FORMAT_INT8),
                                          .list = IV_LIST_DEFAULT,
                                          .adjust = choose_low};
static const iv__policy_spec nf4_spec = {.name = nf4_name,
                                         .policy = TYPES(IV_FORMAT_NF4),
                                         .list = IV_LIST_DEFAULT,
                                         .adjust = choose_low};
IV_POLICY_VTABLE(int8)
IV_POLICY_VTABLE(nf4)
const iv_plugin iv__plugin_int8 =
    IV_POLICY_PLUGIN(int8, "weights of products rounded to 8-bit integers; the rest mixed");
const iv_plugin iv__plugin_nf4 =
    IV_POLICY_PLUGIN(nf4, "weights of products rounded to NormalFloat of 4 bits; the rest mixed");
