/* trainer_ckpt.c: putting a checkpoint back into a trainer (what it holds: trainer_save.c). */
#include "trainer.h"

#include "registry.h"

#include <inttypes.h>

iv_status iv__ckpt_format_of(iv_trainer *t, const char *path, const iv_checkpoint **out,
                             void **out_self)
{
    const iv_plugin *p;
    if (t) {
        IV_TRY(iv__trainer_ckpt(t));
        IV_TRY(iv__trainer_drain(t)); /* the file may be one that is being written */
    }
    IV_TRY(iv__registry_detect(path, t ? t->ckpt : NULL, &p, out_self));
    *out = p->vtable;
    return IV_OK;
}

/* ---- loading ---- */

/* A tensor of another precision's file: its bytes, and the place that gets the converted ones. */
typedef struct aside {
    char *bytes, *to;
    iv_dtype to_type;
} aside;

/* Everything is read aside and checked first; only then are the arenas touched. */
typedef struct loader {
    iv_trainer *t;
    bool params_only;
    char *data[4]; /* params, states, m, v: host images of the arenas */
    uint8_t *seen[4];
    aside *asides;
    int64_t n_asides, cap_asides;
    iv__text left_out; /* names of tensors that the model does not have */
    int64_t n_left_out;
    bool weights_only;
    int64_t step, samples, grains, skipped;
    uint64_t seed;
    char precision[64], optimizer[32];
    char *state;
} loader;

static iv_status load_meta(void *ctx, const char *key, const char *value)
{
    loader *l = ctx;
    if (strcmp(key, "invar.step") == 0) l->step = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.samples") == 0) l->samples = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.skipped") == 0) l->skipped = strtoll(value, NULL, 10);
    if (strcmp(key, "invar.weights_only") == 0) l->weights_only = true;
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
        if (strncmp(name, iv__moment_prefix[i], strlen(iv__moment_prefix[i])) == 0) {
            *out_arena = 2 + i;
            name += strlen(iv__moment_prefix[i]);
        }
    if (l->params_only && strncmp(name, "transformer.", 12) == 0) name += 12;
    *out_slot = iv__store_find(s->params, s->n_params, name);
    if (*out_slot < 0 && *out_arena == 0) {
        *out_arena = 1;
        *out_slot = iv__store_find(s->states, s->n_states, name);
    }
    return *out_slot >= 0 && l->data[*out_arena];
}

static const iv__memory *arena_of(const iv__store *s, int arena)
{
    const iv__memory *m[4] = {&s->param_mem, &s->state_mem, &s->moment_mem[0], &s->moment_mem[1]};
    return m[arena];
}

/* What a file holds beyond the model is told, since a model that is too small would not be seen
 * otherwise.  Moments are no part of what is asked for when parameters alone are. */
static void leave_out(loader *l, const char *name)
{
    enum { NAMED = 8 };
    for (int i = 0; i < 2; ++i)
        if (l->params_only &&
            strncmp(name, iv__moment_prefix[i], strlen(iv__moment_prefix[i])) == 0)
            return;
    if (l->n_left_out < NAMED)
        iv__text_printf(&l->left_out, "%s%.100s", l->n_left_out ? ", " : "", name);
    if (l->n_left_out++ == NAMED) iv__text_printf(&l->left_out, ", ...");
}

static iv_status load_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    loader *l = ctx;
    int arena;
    int64_t i;
    char a[128], b[128];
    *out_dst = NULL;
    if (!find_tensor(l, info->name, &arena, &i)) {
        leave_out(l, info->name);
        return IV_OK;
    }
    const iv__slot *slot = arena == 1 ? &l->t->store->states[i] : &l->t->store->params[i];
    if (!iv__shape_equal(&slot->shape, &info->shape))
        IV_FAIL(IV_INVALID, "tensor %s has shape %s in the file and %s in the model", info->name,
                iv__shape_text(&info->shape, a, sizeof(a)),
                iv__shape_text(&slot->shape, b, sizeof(b)));
    if (!iv_dtype_is_float(info->dtype))
        IV_FAIL(IV_INVALID, "tensor %s is %s in the file, the run keeps floats", info->name,
                iv_dtype_name(info->dtype));
    l->seen[arena][i] = 1;
    iv_dtype type = iv__store_type(l->t->store, arena_of(l->t->store, arena));
    char *to = l->data[arena] + (size_t)slot->offset * iv_dtype_bytes(type);
    *out_dst = to;
    if (info->dtype == type) return IV_OK;
    aside x = {.to = to, .to_type = type};
    IV_TRY(iv__reserve(&l->asides, &l->cap_asides, l->n_asides + 1, sizeof(x), "tensors"));
    IV_TRY(iv__calloc(slot->count, iv_dtype_bytes(info->dtype), "a tensor", &x.bytes));
    l->asides[l->n_asides++] = x;
    *out_dst = x.bytes;
    return IV_OK;
}

/* A tensor of another type is converted. */
static iv_status load_done(void *ctx, const iv_ckpt_tensor *info, void *dst)
{
    const loader *l = ctx;
    for (int64_t i = 0; dst && i < l->n_asides; ++i) {
        aside *x = &l->asides[i];
        if (dst != x->bytes) continue;
        size_t from = iv_dtype_bytes(info->dtype), to = iv_dtype_bytes(x->to_type);
        for (int64_t k = 0; k < iv_shape_count(&info->shape); ++k)
            iv__dtype_put(x->to_type, x->to + (size_t)k * to,
                          iv__dtype_get(info->dtype, x->bytes + (size_t)k * from));
        free(x->bytes);
        x->bytes = NULL;
    }
    return IV_OK;
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
                        a >= 2 ? iv__moment_prefix[a - 2] : "", slots[i].name);
    }
    return IV_OK;
}

static iv_status check_run(const loader *l)
{
    const iv_trainer *t = l->t;
    if (l->step < 0 || l->weights_only)
        IV_FAIL(IV_INVALID,
                "the file holds %s, no training state [hint: --set model.init=FILE "
                "starts from parameters]",
                l->weights_only ? "weights only" : "tensors only");
    if (l->seed != t->seed)
        IV_FAIL(IV_INVALID, "the run was started with --seed %" PRIu64 ", not %" PRIu64, l->seed,
                t->seed);
    if (l->grains != t->grains)
        IV_FAIL(IV_INVALID, "the run has %lld grains, not %lld [hint: --grains %lld]",
                (long long)l->grains, (long long)t->grains, (long long)l->grains);
    if (strcmp(l->optimizer, iv_config_str(t->config, "optim.name")) != 0)
        IV_FAIL(IV_INVALID, "the run used optimizer %s, not %s", l->optimizer,
                iv_config_str(t->config, "optim.name"));
    return IV_OK;
}

static iv_status put_in_store(const loader *l, iv__store *s)
{
    for (int a = 0; a < 4; ++a)
        if (l->data[a]) {
            const iv__memory *m = arena_of(s, a);
            IV_TRY(iv__device_write(s->device, iv__memory_range(m, 0, m->bytes), l->data[a]));
        }
    /* Of parameters in parts the part is lowered when it has been taken. */
    return s->share.stage >= 3 ? IV_OK : iv__store_lower(s);
}

static iv_status put_back(loader *l)
{
    iv_trainer *t = l->t;
    for (int64_t i = 0; i < t->workers.n_replicas; ++i)
        IV_TRY(put_in_store(l, t->workers.replicas[i]->store));
    if (l->params_only) return IV_OK;
    t->step = l->step;
    t->samples_seen = l->samples;
    t->precision.skipped = l->skipped;
    return iv__precision_resume(&t->precision, l->precision, l->state);
}

static iv_status load_from(loader *l, const char *path)
{
    const iv_checkpoint *vt;
    void *self;
    const iv__store *s = l->t->store;
    IV_TRY(iv__ckpt_format_of(l->t, path, &vt, &self));
    for (int a = 0; a < 4; ++a) {
        int64_t n = a == 1 ? s->n_states : s->n_params, bytes = arena_of(s, a)->bytes;
        if (bytes == 0 || (l->params_only && a >= 2)) continue;
        IV_TRY(iv__calloc(bytes, 1, "a checkpoint", &l->data[a]));
        IV_TRY(iv__calloc(n, 1, "marks", &l->seen[a]));
    }
    IV_TRY(vt->load(
        self, path,
        &(iv_ckpt_sink){.ctx = l, .meta = load_meta, .want = load_want, .done = load_done}));
    if (!l->params_only) IV_TRY(check_run(l));
    IV_TRY(check_complete(l));
    if (l->n_left_out > 0)
        iv__log(IV_LOG_WARN,
                "loading %s: %lld tensors that the model does not have are left out: %s", path,
                (long long)l->n_left_out, l->left_out.failed ? "" : l->left_out.s);
    iv__trainer_release_all(l->t);
    return put_back(l);
}

static iv_status load(iv_trainer *t, const char *path, bool params_only)
{
    loader l = {.t = t, .params_only = params_only, .step = -1, .grains = -1};
    iv_status s = iv__workers_unshard(t, &t->workers, IV_UNSHARD_EMPTY);
    if (s == IV_OK) s = load_from(&l, path);
    iv_status back = iv__workers_reshard(t, &t->workers,
                                         s != IV_OK    ? IV_RESHARD_KEEP
                                         : params_only ? IV_RESHARD_TAKE_PARAMS
                                                       : IV_RESHARD_TAKE);
    if (s == IV_OK) s = back;
    for (int a = 0; a < 4; ++a) {
        free(l.data[a]);
        free(l.seen[a]);
    }
    free(l.state);
    iv__text_free(&l.left_out);
    for (int64_t i = 0; i < l.n_asides; ++i) free(l.asides[i].bytes);
    free(l.asides);
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
