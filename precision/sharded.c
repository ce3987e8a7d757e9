/* sharded.c: native mixed precision under strategies whose ranks own parts of the state.
 *
 *   sharded       --strategy ddp_sharded     fullysharded   --strategy fsdp
 *
 * The policies are those of native.c.  What their originals add, a found-inf and a norm reduced
 * over the ranks, holds for every policy here: gradients are reduced before the norm and the
 * finiteness check run, so all ranks see the same numbers, decide the same and clip by the same
 * factor, also ranks that own no parameter.  Clipping by norm works under both. */
#include "policy.h"

static const char sharded_name[] = "sharded", fullysharded_name[] = "fullysharded";
#define PRECISION                                                                                  \
    {                                                                                              \
        "precision", "16 or bf16 (default 16)"                                                     \
    }
static const iv_precision_option sharded_options[] = {
    PRECISION, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};
static const iv_precision_option fullysharded_options[] = {
    PRECISION, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};

static iv_status choose(iv__policy_run *r, const iv_precision_request *q)
{
    const char *p = iv__option(q, "precision");
    if (!p || strcmp(p, "16") == 0) return IV_OK;
    if (strcmp(p, "bf16") != 0)
        return r->host->fail(IV_INVALID, "precision %s: precision is '%s', not 16 or bf16",
                             r->spec->name, p);
    if (iv__option(q, "scaler") || iv__option(q, "scale"))
        return r->host->fail(IV_INVALID, "precision %s: bf16 takes no loss scaler", r->spec->name);
    r->policy.low = IV_BF16;
    iv__scaler_init(&r->scaler, IV_SCALER_NONE);
    return IV_OK;
}

static const char about[] =
    "found-inf and norm are those of all ranks: gradients are reduced before they are looked at";
static const iv__policy_spec sharded_spec = {.name = sharded_name,
                                             .policy = IV_TYPES(F32, F32, F32, F32, F16),
                                             .list = IV_LIST_DEFAULT,
                                             .scaler = IV_SCALER_GRAD,
                                             .adjust = choose,
                                             .about = about};
static const iv__policy_spec fullysharded_spec = {.name = fullysharded_name,
                                                  .policy = IV_TYPES(F32, F32, F32, F32, F16),
                                                  .list = IV_LIST_DEFAULT,
                                                  .scaler = IV_SCALER_GRAD,
                                                  .adjust = choose,
                                                  .about = about};
IV_POLICY_VTABLE(sharded)
IV_POLICY_VTABLE(fullysharded)
const iv_plugin iv__plugin_sharded_mixed =
    IV_POLICY_PLUGIN(sharded, "native mixed precision for sharded optimizer state");
const iv_plugin iv__plugin_fullysharded_mixed =
    IV_POLICY_PLUGIN(fullysharded, "native mixed precision for fully sharded parameters");
