/* deepspeed.c: what a DeepSpeed configuration (precision.config, --deepspeed-config FILE) says
 * about sharing the work; what it says about precision is the precision plugin's.
 *
 * The file does not set a run, it is compared with it: batches and clipping have to be the run's
 * own, so that they stand in one place.  A key that is not known, or that stands twice, is refused:
 * a setting that is ignored in silence is worse than one that is missing. */
#include "deepspeed.h"

#include <cjson/cJSON.h>
#include <errno.h>

typedef struct reader {
    const iv_config *config;
    const char *path;
    int32_t world;
    double batch, micro, steps; /* 0: not given */
    int32_t stage;
} reader;

/* A key, and where its number goes; offset 0: it is not this file's concern, or it says how
 * DeepSpeed works and not what is computed. */
typedef struct key {
    const char *name;
    size_t offset;
    iv_status (*take)(reader *r, const cJSON *v);
} key;

static iv_status object(reader *r, const cJSON *o, const char *where, const key *keys, int64_t n)
{
    enum { MOST = 32 };
    if (!cJSON_IsObject(o)) IV_FAIL(IV_INVALID, "%s: %s is to be an object", r->path, where);
    for (const cJSON *v = o->child; v; v = v->next) {
        const char *names[MOST];
        const key *k = NULL;
        for (int64_t i = 0; i < n; ++i) {
            names[i] = keys[i].name;
            if (strcmp(keys[i].name, v->string) == 0) k = &keys[i];
        }
        for (const cJSON *w = o->child; w != v; w = w->next)
            if (strcmp(w->string, v->string) == 0)
                IV_FAIL(IV_INVALID, "%s: '%s' stands twice in %s", r->path, v->string, where);
        const char *near = k ? NULL : iv__nearest(v->string, names, n);
        if (!k)
            IV_FAIL(IV_INVALID, "%s: unknown key '%s' in %s%s%s%s", r->path, v->string, where,
                    near ? " [hint: did you mean '" : "", near ? near : "", near ? "'?]" : "");
        if (k->take) IV_TRY(k->take(r, v));
        if (!k->offset) continue;
        if (!cJSON_IsNumber(v) || !(v->valuedouble >= 1) || v->valuedouble > 1e9)
            IV_FAIL(IV_INVALID, "%s: '%s' is to be a whole number of at least 1", r->path,
                    v->string);
        memcpy((char *)r + k->offset, &v->valuedouble, sizeof(double));
    }
    return IV_OK;
}

static iv_status take_clip(reader *r, const cJSON *v)
{
    double own = iv_config_float(r->config, "train.clip");
    if (cJSON_IsNumber(v) && v->valuedouble == own) return IV_OK;
    IV_FAIL(IV_INVALID, "%s: gradient_clipping is not the run's, which is %g [hint: --clip]",
            r->path, own);
}

static iv_status take_stage(reader *r, const cJSON *v)
{
    double x = cJSON_IsNumber(v) ? v->valuedouble : -1;
    if (x != 0 && x != 1 && x != 2 && x != 3)
        IV_FAIL(IV_INVALID, "%s: zero_optimization.stage is to be 0, 1, 2 or 3", r->path);
    r->stage = (int32_t)x;
    return IV_OK;
}

static iv_status refuse(reader *r, const cJSON *v)
{
    if (cJSON_IsNull(v)) return IV_OK;
    IV_FAIL(IV_UNSUPPORTED, "%s: '%s': this version keeps everything on the device", r->path,
            v->string);
}

static iv_status take_zero(reader *r, const cJSON *v)
{
    static const key keys[] = {{"stage", 0, take_stage},
                               {"reduce_bucket_size", 0, NULL},
                               {"allgather_bucket_size", 0, NULL},
                               {"allgather_partitions", 0, NULL},
                               {"reduce_scatter", 0, NULL},
                               {"overlap_comm", 0, NULL},
                               {"contiguous_gradients", 0, NULL},
                               {"round_robin_gradients", 0, NULL},
                               {"offload_optimizer", 0, refuse},
                               {"offload_param", 0, refuse},
                               {"sub_group_size", 0, NULL},
                               {"stage3_prefetch_bucket_size", 0, NULL},
                               {"stage3_max_live_parameters", 0, NULL},
                               {"stage3_max_reuse_distance", 0, NULL},
                               {"stage3_param_persistence_threshold", 0, NULL},
                               {"stage3_gather_16bit_weights_on_model_save", 0, NULL}};
    return object(r, v, "zero_optimization", keys, IV_COUNT(keys));
}

/* train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks, and it
 * is the run's --batch x --accumulate. */
static iv_status check_batch(const reader *r)
{
    double steps = r->steps > 0 ? r->steps : 1,
           batch = r->batch > 0 ? r->batch : r->micro * steps * r->world,
           own = (double)(iv_config_int(r->config, "train.batch") *
                          iv_config_int(r->config, "train.accumulate"));
    if (r->batch > 0 && r->micro > 0 && r->micro * steps * r->world != r->batch)
        IV_FAIL(IV_INVALID,
                "%s: train_batch_size %g is not train_micro_batch_size_per_gpu %g x "
                "gradient_accumulation_steps %g x %d ranks",
                r->path, r->batch, r->micro, steps, r->world);
    if (batch > 0 && batch != own)
        IV_FAIL(IV_INVALID, "%s: a step has %g samples, the run's --batch x --accumulate %g",
                r->path, batch, own);
    return IV_OK;
}

static iv_status read_text(const char *path, char *text, size_t most)
{
    FILE *f = fopen(path, "rb");
    if (!f) IV_FAIL(IV_INVALID, "--deepspeed-config %s: %s", path, strerror(errno));
    size_t n = fread(text, 1, most, f);
    bool failed = ferror(f) != 0 || n == most;
    fclose(f);
    if (failed) IV_FAIL(IV_INVALID, "--deepspeed-config %s: not a file of less than 1 MiB", path);
    return IV_OK;
}

static iv_status read_all(reader *r, const cJSON *root)
{
    static const key keys[] = {
        {"train_batch_size", offsetof(reader, batch), NULL},
        {"train_micro_batch_size_per_gpu", offsetof(reader, micro), NULL},
        {"gradient_accumulation_steps", offsetof(reader, steps), NULL},
        {"gradient_clipping", 0, take_clip},
        {"zero_optimization", 0, take_zero},
        {"fp16", 0, NULL}, /* these four are the precision plugin's */
        {"bf16", 0, NULL},
        {"bfloat16", 0, NULL},
        {"amp", 0, NULL},
        {"communication_data_type", 0, NULL},
        {"steps_per_print", 0, NULL},
        {"wall_clock_breakdown", 0, NULL},
        {"dump_state", 0, NULL},
        {"prescale_gradients", 0, NULL},
    };
    IV_TRY(object(r, root, "the file", keys, IV_COUNT(keys)));
    return check_batch(r);
}

iv_status iv__deepspeed_stage(const iv_config *c, int32_t world, int32_t *out)
{
    enum { MOST = 1 << 20 };
    reader r = {.config = c, .path = iv_config_str(c, "precision.config"), .world = world};
    char *text;
    *out = 0;
    if (!*r.path) return IV_OK;
    IV_TRY(iv__calloc(MOST + 1, 1, "a configuration", &text));
    iv_status s = read_text(r.path, text, MOST);
    cJSON *root = s == IV_OK ? cJSON_ParseWithOpts(text, NULL, true) : NULL;
    if (s == IV_OK && !root) s = iv__fail(IV_INVALID, "--deepspeed-config %s: not JSON", r.path);
    if (s == IV_OK) s = read_all(&r, root);
    if (s == IV_OK) *out = r.stage;
    cJSON_Delete(root);
    free(text);
    return s;
}
