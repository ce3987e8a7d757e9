/* trainer_ckpt.c: what a checkpoint of a run holds, and putting it back.
 *
 * Tensors: parameters and running statistics under their own names, moments as "optim.m.NAME" and
 * "optim.v.NAME".  Metadata: step, samples seen, seed, grains, types, precision and its state. */
#include "trainer.h"

#include "registry.h"

#include <inttypes.h>

static const char *const moment_prefix[2] = {"optim.m.", "optim.v."};

static iv_status plugin_of(const iv_config *c, const iv_checkpoint **out, void **out_self)
{
    const iv_plugin *p;
    IV_TRY(
        iv__registry_get(IV_PLUGIN_CHECKPOINT, iv_config_str(c, "out.checkpoint"), &p, out_self));
    *out = p->vtable;
    return IV_OK;
}

/* ---- saving ---- */

typedef struct saver {
    iv_ckpt_tensor *tensors;
    int64_t n, cap;
    iv__text names; /* storage of composed names */
    char *data;     /* host copies, in order */
    int64_t bytes, at;
} saver;

/* Appends the slots of one arena; its bytes are read into s->data. */
static iv_status add_slots(iv_trainer *t, saver *s, const iv__slot *slots, int64_t n,
                           const iv__memory *m, const char *prefix)
{
    for (int64_t i = 0; m->mem && i < n; ++i) {
        char *name;
        IV_TRY(
            iv__calloc((int64_t)(strlen(prefix) + strlen(slots[i].name) + 1), 1, "a name", &name));
        sprintf(name, "%s%s", prefix, slots[i].name);
        iv_buffer b = iv__slot_range(m, &slots[i], t->store->type);
        s->tensors[s->n++] = (iv_ckpt_tensor){.name = name,
                                              .dtype = t->store->type,
                                              .shape = slots[i].shape,
                                              .data = s->data + s->at};
        IV_TRY(iv__device_read(t->device, s->data + s->at, b));
        s->at += b.bytes;
    }
    return IV_OK;
}

static iv_status gather(iv_trainer *t, saver *s)
{
    const iv__store *st = t->store;
    int64_t n = st->n_params * 3 + st->n_states;
    IV_TRY(iv__calloc(n, sizeof(*s->tensors), "a checkpoint's index", &s->tensors));
    s->bytes = st->param_mem.bytes + st->state_mem.bytes + st->moment_mem[0].bytes +
               st->moment_mem[1].bytes;
    IV_TRY(iv__calloc(s->bytes, 1, "a checkpoint", &s->data));
    IV_TRY(add_slots(t, s, st->params, st->n_params, &st->param_mem, ""));
    IV_TRY(add_slots(t, s, st->states, st->n_states, &st->state_mem, ""));
    for (int i = 0; i < 2; ++i)
        IV_TRY(add_slots(t, s, st->params, st->n_params, &st->moment_mem[i], moment_prefix[i]));
    return IV_OK;
}

static iv_status precision_state(iv_trainer *t, char **out)
{
    size_t n = t->precision->save ? t->precision->save(t->precision_self, NULL, 0) : 0;
    IV_TRY(iv__calloc((int64_t)n + 1, 1, "precision state", out));
    if (n) t->precision->save(t->precision_self, *out, n);
    return IV_OK;
}

static iv_status write_checkpoint(iv_trainer *t, const saver *s, const char *state,
                                  const char *path)
{
    char step[32], samples[32], seed[32], grains[32];
    snprintf(step, sizeof(step), "%" PRId64, t->step);
    snprintf(samples, sizeof(samples), "%" PRId64, t->samples_seen);
    snprintf(seed, sizeof(seed), "%" PRIu64, t->seed);
    snprintf(grains, sizeof(grains), "%" PRId64, t->grains);
    const iv_ckpt_meta meta[] = {
        {"format", "pt"}, /* what Hugging Face's loader asks for */
        {"invar.version", iv_version()},
        {"invar.step", step},
        {"invar.samples", samples},
        {"invar.seed", seed},
        {"invar.grains", grains},
        {"invar.type", iv_dtype_name(t->store->type)},
        {"invar.precision", t->precision_name},
        {"invar.precision_state", state},
        {"invar.optimizer", iv_config_str(t->config, "optim.name")},
        {"invar.device", t->device->info.name},
        {"invar.arch", t->device->info.arch},
        {"invar.numerics", t->device->invariant ? "invariant" : "fast"},
    };
    const iv_checkpoint *vt;
    void *self;
    IV_TRY(plugin_of(t->config, &vt, &self));
    return vt->save(
        self, path,
        &(iv_ckpt){
            .n_tensors = s->n, .n_meta = IV_COUNT(meta), .tensors = s->tensors, .meta = meta});
}

iv_status iv_trainer_save(iv_trainer *t, const char *path)
{
    saver s = {0};
    char *state = NULL;
    iv_status st = gather(t, &s);
    if (st == IV_OK) st = precision_state(t, &state);
    if (st == IV_OK) st = write_checkpoint(t, &s, state, path);
    for (int64_t i = 0; i < s.n; ++i) free((void *)(uintptr_t)s.tensors[i].name);
    free(s.tensors);
    free(s.data);
    free(state);
    return st;
}

/* ---- loading ---- */

/* Everything is read aside and checked first; only then are the arenas touched. */
typedef struct loader {
    iv_trainer *t;
    bool params_only;
    char *data[4]; /* params, states, m, v: host images of the arenas */
    uint8_t *seen[4];
    int64_t step, samples, grains;
    uint64_t seed;
    char precision[64], optimizer[32];
    char *state;
} loader;

static iv_status load_meta(void *ctx, const char *key, const char *value)
{
    loader *l = ctx;
    if (strcmp(key, "invar.step") == 0) l->step = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.samples") == 0) l->samples = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.grains") == 0) l->grains = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.seed") == 0) l->seed = strtoull(value, NULL, 10);
    if (strcmp(key, "invar.precision") == 0)
        snprintf(l->precision, sizeof(l->precision), "%s", value);
    if (strcmp(key, "invar.optimizer") == 0)
        snprintf(l->optimizer, sizeof(l->optimizer), "%s", value);
    if (strcmp(key, "invar.precision_state") == 0) {
        free(l->state);
        IV_TRY(iv__strdup(value, &l->state));
    }
    return IV_OK;
}

/* Which arena and slot a tensor's name means; false: none of ours. */
static bool find_tensor(const loader *l, const char *name, int *out_arena, int64_t *out_slot)
{
    const iv__store *s = l->t->store;
    *out_arena = 0;
    for (int i = 0; i < 2; ++i)
        if (strncmp(name, moment_prefix[i], strlen(moment_prefix[i])) == 0) {
            *out_arena = 2 + i;
            name += strlen(moment_prefix[i]);
        }
    if (l->params_only && strncmp(name, "transformer.", 12) == 0) name += 12;
    *out_slot = iv__store_find(s->params, s->n_params, name);
    if (*out_slot < 0 && *out_arena == 0) {
        *out_arena = 1;
        *out_slot = iv__store_find(s->states, s->n_states, name);
    }
    return *out_slot >= 0 && l->data[*out_arena];
}

static iv_status load_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    loader *l = ctx;
    int arena;
    int64_t i;
    char a[128], b[128];
    *out_dst = NULL;
    if (!find_tensor(l, info->name, &arena, &i)) return IV_OK;
    const iv__slot *slot = arena == 1 ? &l->t->store->states[i] : &l->t->store->params[i];
    if (!iv__shape_equal(&slot->shape, &info->shape))
        IV_FAIL(IV_INVALID, "tensor %s has shape %s in the file and %s in the model", info->name,
                iv__shape_text(&info->shape, a, sizeof(a)),
                iv__shape_text(&slot->shape, b, sizeof(b)));
    if (info->dtype != l->t->store->type && !(info->dtype == IV_F32 && l->t->store->type == IV_F64))
        IV_FAIL(IV_INVALID,
                "tensor %s is %s in the file, the run keeps %s [hint: --precision as in the run "
                "that wrote it]",
                info->name, iv_dtype_name(info->dtype), iv_dtype_name(l->t->store->type));
    l->seen[arena][i] = 1;
    *out_dst = l->data[arena] + (size_t)slot->offset * iv_dtype_bytes(l->t->store->type);
    return IV_OK;
}

/* f32 tensors of a file widened to f64 masters, in place. */
static iv_status load_done(void *ctx, const iv_ckpt_tensor *info, void *dst)
{
    const loader *l = ctx;
    if (info->dtype == l->t->store->type || !dst) return IV_OK;
    double *wide = dst;
    for (int64_t k = iv_shape_count(&info->shape) - 1; k >= 0; --k) {
        float f;
        memcpy(&f, (const char *)dst + 4 * k, 4);
        wide[k] = (double)f;
    }
    return IV_OK;
}

static const iv__memory *arena_of(const iv_trainer *t, int arena)
{
    const iv__store *s = t->store;
    const iv__memory *m[4] = {&s->param_mem, &s->state_mem, &s->moment_mem[0], &s->moment_mem[1]};
    return m[arena];
}

static iv_status check_complete(const loader *l)
{
    const iv__store *s = l->t->store;
    for (int a = 0; a < 4; ++a) {
        const iv__slot *slots = a == 1 ? s->states : s->params;
        int64_t n = a == 1 ? s->n_states : s->n_params;
        for (int64_t i = 0; l->data[a] && i < n; ++i)
            if (!l->seen[a][i])
                IV_FAIL(IV_INVALID, "the file lacks tensor %s%s, which the model needs",
                        a >= 2 ? moment_prefix[a - 2] : "", slots[i].name);
    }
    return IV_OK;
}

static iv_status check_run(const loader *l)
{
    const iv_trainer *t = l->t;
    if (l->step < 0)
        IV_FAIL(IV_INVALID, "the file holds no training state [hint: --set model.init=FILE starts "
                            "from parameters]");
    if (l->seed != t->seed)
        IV_FAIL(IV_INVALID, "the run was started with --seed %" PRIu64 ", not %" PRIu64, l->seed,
                t->seed);
    if (l->grains != t->grains)
        IV_FAIL(IV_INVALID, "the run has %lld grains, not %lld [hint: --grains %lld]",
                (long long)l->grains, (long long)t->grains, (long long)l->grains);
    if (strcmp(l->precision, t->precision_name) != 0)
        IV_FAIL(IV_INVALID,
                "the run has --precision %s, not %s [hint: --set model.init=FILE starts a new run "
                "from its parameters]",
                l->precision, t->precision_name);
    if (strcmp(l->optimizer, iv_config_str(t->config, "optim.name")) != 0)
        IV_FAIL(IV_INVALID, "the run used optimizer %s, not %s", l->optimizer,
                iv_config_str(t->config, "optim.name"));
    return IV_OK;
}

static iv_status put_back(loader *l)
{
    iv_trainer *t = l->t;
    for (int a = 0; a < 4; ++a)
        if (l->data[a])
            IV_TRY(iv__device_write(
                t->device, iv__memory_range(arena_of(t, a), 0, arena_of(t, a)->bytes), l->data[a]));
    if (!l->params_only) {
        t->step = l->step;
        t->samples_seen = l->samples;
        if (t->precision->load && l->state)
            IV_TRY(t->precision->load(t->precision_self, l->state, strlen(l->state)));
    }
    return iv__store_lower(t->store);
}

static iv_status load_from(loader *l, const char *path)
{
    const iv_checkpoint *vt;
    void *self;
    const iv__store *s = l->t->store;
    IV_TRY(plugin_of(l->t->config, &vt, &self));
    for (int a = 0; a < 4; ++a) {
        int64_t n = a == 1 ? s->n_states : s->n_params, bytes = arena_of(l->t, a)->bytes;
        if (bytes == 0 || (l->params_only && a >= 2)) continue;
        IV_TRY(iv__calloc(bytes, 1, "a checkpoint", &l->data[a]));
        IV_TRY(iv__calloc(n, 1, "marks", &l->seen[a]));
    }
    IV_TRY(vt->load(
        self, path,
        &(iv_ckpt_sink){.ctx = l, .meta = load_meta, .want = load_want, .done = load_done}));
    IV_TRY(check_complete(l));
    if (!l->params_only) IV_TRY(check_run(l));
    return put_back(l);
}

static iv_status load(iv_trainer *t, const char *path, bool params_only)
{
    loader l = {.t = t, .params_only = params_only, .step = -1, .grains = -1};
    iv_status s = load_from(&l, path);
    for (int a = 0; a < 4; ++a) {
        free(l.data[a]);
        free(l.seen[a]);
    }
    free(l.state);
    return s == IV_OK ? s : iv__context(s, "loading %s", path);
}

iv_status iv_trainer_load(iv_trainer *t, const char *path)
{
    return load(t, path, false);
}

iv_status iv_trainer_load_params(iv_trainer *t, const char *path)
{
    return load(t, path, true);
}

/* ---- listing ---- */

static iv_status list_meta(void *ctx, const char *key, const char *value)
{
    const iv_ckpt_visitor *v = ctx;
    if (v->meta) v->meta(v->ctx, key, value);
    return IV_OK;
}

static iv_status list_tensor(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    const iv_ckpt_visitor *v = ctx;
    *out_dst = NULL;
    if (v->tensor) v->tensor(v->ctx, info->name, info->dtype, &info->shape);
    return IV_OK;
}

iv_status iv_checkpoint_list(const char *path, const iv_ckpt_visitor *v)
{
    const iv_plugin *p;
    void *self;
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, "safetensors", &p, &self));
    const iv_checkpoint *vt = p->vtable;
    iv_ckpt_visitor copy = *v;
    return vt->load(self, path,
                    &(iv_ckpt_sink){.ctx = &copy, .meta = list_meta, .want = list_tensor});
}
