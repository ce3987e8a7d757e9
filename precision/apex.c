/* apex.c: Apex's opt levels, with its scaler (bounds included).
 *
 *   O0  f32                         O2  model in f16, f32 masters, batch statistics in f32
 *   O1  f32 model, products and Apex's white list in f16, its black list in f32
 *   O3  model in f16, no masters, scale 1
 *
 * Masters, moments and scaler state are in the checkpoint, and a run restores them after the types
 * are known, so every level resumes with the same bits. */
#include "policy.h"

static const char apex_name[] = "apex";
static const iv_precision_option apex_options[] = {
    {"level", "O0, O1, O2 or O3 (default O2)"}, IV_OPTIONS_LIST, IV_OPTIONS_SCALE, {0}};

static const struct {
    const char *name;
    iv_policy policy;
    iv__oplist list;
    iv__scaler_kind scaler;
} levels[] = {
    {"O0", IV_TYPES(F32, F32, F32, F32, F32), IV_LIST_DEFAULT, IV_SCALER_NONE},
    {"O1", IV_TYPES(F32, F32, F32, F32, F16), IV_LIST_APEX, IV_SCALER_APEX},
    {"O2", IV_TYPES(F32, F32, F32, F16, F16), IV_LIST_TRUE, IV_SCALER_APEX},
    {"O3", IV_TYPES(F16, F32, F32, F16, F16), IV_LIST_TRUE, IV_SCALER_NONE},
};

static iv_status choose_level(iv__policy_run *r, const iv_precision_request *q)
{
    const char *name = iv__option(q, "level");
    bool scaled = iv__option(q, "scale") || iv__option(q, "scaler");
    if (!name) name = "O2";
    for (int i = 0; i < 4; ++i) {
        if (strcmp(levels[i].name, name) != 0) continue;
        r->policy = levels[i].policy;
        if (!iv__option(q, "ops")) r->list = levels[i].list;
        if (!scaled || levels[i].scaler == IV_SCALER_NONE)
            iv__scaler_init(&r->scaler, scaled ? IV_SCALER_APEX : levels[i].scaler);
        if (i == 2) r->classes[iv__oplist_row("batchnorm")] = IV_CAST_F32 + 1;
        return IV_OK;
    }
    return r->host->fail(IV_INVALID, "precision apex: level '%s' is not O0, O1, O2 or O3", name);
}

static const iv__policy_spec apex_spec = {.name = apex_name,
                                          .policy = IV_TYPES(F32, F32, F32, F16, F16),
                                          .list = IV_LIST_TRUE,
                                          .scaler = IV_SCALER_APEX,
                                          .adjust = choose_level};
IV_POLICY_VTABLE(apex)
const iv_plugin iv__plugin_apex =
    IV_POLICY_PLUGIN(apex, "Apex's levels O0 to O3 (default O2): f16 with its scaler and lists");
