/* deepspeed.c: the numerics of a DeepSpeed configuration: `deepspeed(precision=...,config=FILE)`.
 * The file is DeepSpeed's JSON; read are fp16, bf16 (or bfloat16), gradient_clipping,
 * communication_data_type and the stage of zero_optimization; how ranks share the work is the
 * strategy's.  Model and inputs in the 16-bit type, f32 masters and moments.
 *
 * The loss scaler is ZeRO's (hysteresis, and an overflow at the lower bound ends the run), or that
 * of the fused optimizer at stage 0.  Without a file the values are those that Lightning writes:
 * 2^16, window 1000, hysteresis 2, minimum 1. */
#include "policy.h"

#include <cjson/cJSON.h>
#include <errno.h>

static const char deepspeed_name[] = "deepspeed";
static const iv_precision_option deepspeed_options[] = {
    {"precision", "16-mixed, bf16-mixed, 16-true, bf16-true or 32-true"},
    {"config", "DeepSpeed's JSON file"},
    {"amp", "true: Apex's O1 list instead of a 16-bit model"},
    {0}};

static iv_status bad(const iv__policy_run *r, const char *what, const char *why)
{
    return r->host->fail(IV_INVALID, "precision deepspeed: %s: %s", what, why);
}

/* A key twice in one object is refused: the last one would win in silence. */
static iv_status check_keys(const iv__policy_run *r, const cJSON *o)
{
    iv_status s = IV_OK;
    for (const cJSON *a = o->child; a && s == IV_OK; a = a->next) {
        for (const cJSON *b = a->next; b && a->string; b = b->next)
            if (b->string && strcmp(a->string, b->string) == 0)
                return bad(r, a->string, "the key is there twice");
        s = check_keys(r, a);
    }
    return s;
}

static const cJSON *item(const cJSON *o, const char *name)
{
    return o ? cJSON_GetObjectItemCaseSensitive(o, name) : NULL;
}

static bool is_true(const cJSON *o, const char *name)
{
    return cJSON_IsTrue(item(o, name));
}

/* A number of the block; *found: whether it is there. */
static iv_status number(const iv__policy_run *r, const cJSON *o, const char *name, double least,
                        double *out, bool *found)
{
    const cJSON *x = item(o, name);
    if (!x) return IV_OK;
    if (!cJSON_IsNumber(x) || !(x->valuedouble >= least) || !(x->valuedouble <= 1e18))
        return bad(r, name, "not a number in its range");
    *out = x->valuedouble;
    if (found) *found = true;
    return IV_OK;
}

static iv_status read_fp16(iv__policy_run *r, const cJSON *fp16, bool zero)
{
    iv__scaler *s = &r->scaler;
    double fixed = 0, power = 16, window = 1000, hysteresis = 2, least = 1;
    bool any = false;
    iv_status st = number(r, fp16, "loss_scale", 0, &fixed, NULL);
    if (st == IV_OK) st = number(r, fp16, "initial_scale_power", 0, &power, &any);
    if (st == IV_OK) st = number(r, fp16, "loss_scale_window", 1, &window, &any);
    if (st == IV_OK) st = number(r, fp16, "hysteresis", 1, &hysteresis, &any);
    if (st == IV_OK) st = number(r, fp16, "min_loss_scale", 0, &least, &any);
    if (st != IV_OK) return st;
    if (power > 126) return bad(r, "initial_scale_power", "2 to that power is not in f32");
    if (is_true(fp16, "fp16_master_weights_and_grads"))
        return bad(r, "fp16_master_weights_and_grads",
                   "masters are f32 here [hint: precision 16-true has none]");
    any |= item(fp16, "consecutive_hysteresis") != NULL;
    iv__scaler_init(s, zero ? IV_SCALER_ZERO : IV_SCALER_FUSED);
    /* A block without any of these keys leaves the classes' own defaults. */
    if (!any) power = zero ? 32 : 16;
    s->scale = 1;
    for (int i = 0; i < (int)power; ++i) s->scale *= 2;
    s->window = (int64_t)window;
    s->least = (float)least;
    s->hysteresis = s->left = zero && any ? (int64_t)hysteresis : 1;
    s->refill = is_true(fp16, "consecutive_hysteresis");
    if (fixed > 0) {
        iv__scaler_init(s, IV_SCALER_STATIC);
        s->scale = (float)fixed;
    }
    return IV_OK;
}

static void set_types(iv__policy_run *r, const char *p)
{
    const iv_policy f16 = IV_TYPES(F32, F32, F32, F16, F16),
                    bf16 = IV_TYPES(F32, F32, F32, BF16, BF16),
                    f32 = IV_TYPES(F32, F32, F32, F32, F32);
    bool half = strcmp(p, "16-mixed") == 0 || strcmp(p, "16-true") == 0;
    r->policy = half ? f16 : strncmp(p, "bf16", 4) == 0 ? bf16 : f32;
    r->list = r->policy.low == IV_F32 ? IV_LIST_DEFAULT : IV_LIST_TRUE;
    if (!half) iv__scaler_init(&r->scaler, IV_SCALER_NONE);
}

/* The precision that the blocks ask for; *out stays if they ask for none. */
static iv_status read_blocks(iv__policy_run *r, const cJSON *j, const char *wanted,
                             const char **out)
{
    const cJSON *fp16 = item(j, "fp16"), *bf16 = item(j, "bf16"), *amp = item(j, "amp"),
                *zero = item(j, "zero_optimization"), *type = item(j, "communication_data_type");
    double stage = 0, clip = 0;
    if (!bf16) bf16 = item(j, "bfloat16");
    bool half = is_true(fp16, "enabled"), brain = is_true(bf16, "enabled"),
         apex = is_true(amp, "enabled");
    iv_status s = number(r, zero, "stage", 0, &stage, NULL);
    if (s == IV_OK) s = number(r, j, "gradient_clipping", 0, &clip, NULL);
    if (s != IV_OK) return s;
    if (stage > 3) return bad(r, "zero_optimization.stage", "0 to 3 are possible");
    if (half && brain) return bad(r, "fp16 and bf16", "both are enabled");
    if (apex && (half || brain)) return bad(r, "amp", "enabled together with fp16 or bf16");
    if (apex && stage > 0) return bad(r, "amp", "not possible with zero_optimization");
    if (type && !(cJSON_IsString(type) && (strcmp(type->valuestring, "fp16") == 0 ||
                                           strcmp(type->valuestring, "bf16") == 0 ||
                                           strcmp(type->valuestring, "fp32") == 0)))
        return bad(r, "communication_data_type", "not fp16, bf16 or fp32");
    if (wanted &&
        ((half && strncmp(wanted, "16", 2) != 0) || (brain && strncmp(wanted, "bf16", 4) != 0)))
        return bad(r, wanted, "the file enables another type");
    *out = wanted ? wanted : half ? "16-mixed" : brain ? "bf16-mixed" : "32-true";
    set_types(r, *out);
    r->policy.clip = clip;
    if (r->scaler.kind == IV_SCALER_NONE) return IV_OK;
    return read_fp16(r, fp16, stage > 0);
}

static iv_status read_file(iv__policy_run *r, const char *path, const char *wanted)
{
    enum { MOST = 1 << 20 };
    FILE *f = fopen(path, "r");
    if (!f) return bad(r, path, strerror(errno));
    char *text = calloc(1, MOST + 1);
    size_t n = text ? fread(text, 1, MOST, f) : 0;
    fclose(f);
    cJSON *j = text ? cJSON_ParseWithLength(text, n) : NULL;
    const char *name = NULL;
    iv_status s = cJSON_IsObject(j) ? check_keys(r, j) : bad(r, path, "not a JSON object");
    if (s == IV_OK) s = read_blocks(r, j, wanted, &name);
    cJSON_Delete(j);
    free(text);
    return s;
}

static iv_status choose(iv__policy_run *r, const iv_precision_request *q)
{
    static const char *const known[] = {"16-mixed", "bf16-mixed", "16-true", "bf16-true",
                                        "32-true"};
    const char *wanted = iv__option(q, "precision"), *path = iv__option(q, "config");
    bool amp = false, found = !wanted;
    for (int i = 0; i < 5 && wanted; ++i) found |= strcmp(wanted, known[i]) == 0;
    if (!found) return bad(r, wanted, "the precisions are 16, bf16 and 32, mixed or true");
    iv_status s = iv__option_truth(r, q, "amp", &amp);
    if (s == IV_OK && path) s = read_file(r, path, wanted);
    else if (s == IV_OK) set_types(r, wanted ? wanted : "16-mixed");
    if (s == IV_OK && amp) { /* the engine runs Apex then */
        r->policy.compute = IV_F32;
        r->list = IV_LIST_APEX;
        iv__scaler_init(&r->scaler, IV_SCALER_APEX);
    }
    return s;
}

static const iv__policy_spec deepspeed_spec = {.name = deepspeed_name,
                                               .policy = IV_TYPES(F32, F32, F32, F16, F16),
                                               .list = IV_LIST_TRUE,
                                               .scaler = IV_SCALER_ZERO,
                                               .adjust = choose};
IV_POLICY_VTABLE(deepspeed)
const iv_plugin iv__plugin_deepspeed =
    IV_POLICY_PLUGIN(deepspeed, "a DeepSpeed configuration: 16-bit model, f32 masters, its scaler");
