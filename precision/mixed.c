/* mixed.c: `mixed(low=...)`: the base of the mixed policies, with everything to choose: parameters
 * in f32, products in f16 (with a loss scaler, unless scaler and scale say otherwise) or bf16. */
#include "policy.h"

static const char mixed_name[] = "mixed";
static const iv_precision_option mixed_options[] = {
    {"low", "f16 or bf16"}, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};

static iv_status choose_low(iv__policy_run *r, const iv_precision_request *q)
{
    const char *low = iv__option(q, "low");
    if (!low || strcmp(low, "f16") == 0) return IV_OK;
    if (strcmp(low, "bf16") != 0)
        return r->host->fail(IV_INVALID, "precision mixed: low is '%s', not f16 or bf16", low);
    r->policy.low = IV_BF16;
    if (!iv__option(q, "scaler") && !iv__option(q, "scale"))
        iv__scaler_init(&r->scaler, IV_SCALER_NONE);
    return IV_OK;
}

static const iv__policy_spec mixed_spec = {.name = mixed_name,
                                           .policy = IV_TYPES(F32, F32, F32, F32, F16),
                                           .list = IV_LIST_DEFAULT,
                                           .scaler = IV_SCALER_GRAD,
                                           .adjust = choose_low};

/* Of all policies this one shows the lists that `ops` chooses from. */
static size_t describe(void *run, char *dst, size_t size)
{
    static const char title[] = "\nlists of operators, and what an operator runs in:\n";
    const size_t head = iv__policy_describe(run, dst, size) - 1, n = head + sizeof(title) - 1;
    if (head < size) snprintf(dst + head, size - head, "%s", title);
    return n + iv__oplist_text(n < size ? dst + n : NULL, n < size ? size - n : 0);
}

static const iv_precision mixed_vtable = IV_POLICY_TABLE(mixed, describe);
IV_POLICY_INIT(mixed)
const iv_plugin iv__plugin_mixed =
    IV_POLICY_PLUGIN(mixed, "the base of the mixed policies: f32 parameters, products in `low`");
