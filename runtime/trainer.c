/* trainer.c: opening a trainer, and one optimizer step.
 *
 * A step draws batch x accumulate samples, cut into grains.  Replicas compute the grains of their
 * ranges in passes (replica.h) and everything that is summed over samples ends in one range, the
 * gradient arena (store.h).
 *
 * Order: scale -> backward -> (reduce) -> unscale, finiteness and norm in one pass -> clip ->
 * update -> lower.  It is fixed here, and no plugin can change it. */
#include "trainer.h"

#include "registry.h"

#include <math.h>

/* ---- programs ---- */

/* p of a norm: a number, or "inf" as 0. */
static double norm_p(const char *text)
{
    return strcmp(text, "inf") == 0 ? 0 : strtod(text, NULL);
}

iv__optim_options iv__trainer_optim(const iv_trainer *t)
{
    const iv_config *c = t->config;
    const char *name = iv_config_str(c, "optim.name");
    double clip = iv_config_float(c, "train.clip");
    if (clip == 0) clip = t->precision.policy.clip;
    bool by_value = strcmp(iv_config_str(c, "train.clip_by"), "value") == 0;
    return (iv__optim_options){.kind = strcmp(name, "sgd") == 0    ? IV_OPTIM_SGD
                                       : strcmp(name, "adam") == 0 ? IV_OPTIM_ADAM
                                                                   : IV_OPTIM_ADAMW,
                               .beta1 = iv_config_float(c, "optim.beta1"),
                               .beta2 = iv_config_float(c, "optim.beta2"),
                               .eps = iv_config_float(c, "optim.eps"),
                               .weight_decay = iv_config_float(c, "optim.weight_decay"),
                               .momentum = iv_config_float(c, "optim.momentum"),
                               .nesterov = iv_config_bool(c, "optim.nesterov"),
                               .stochastic = t->precision.policy.stochastic,
                               .seed = t->seed,
                               .norm_p = norm_p(iv_config_str(c, "train.norm")),
                               .clip_norm = by_value ? 0 : clip,
                               .clip_value = by_value ? clip : 0};
}

/* A float scalar input in its planned type. */
static iv_status feed_scalar(iv__program *p, int32_t value, double x)
{
    float f = (float)x;
    if (value < 0) return IV_OK;
    return iv__plan_write(p->plan, value,
                          p->graph->values[value].dtype == IV_F64 ? (const void *)&x
                                                                  : (const void *)&f);
}

/* Images arrive as f32; a model in another type gets them converted. */
static iv_status feed_floats(iv_trainer *t, iv__program *p, const float *x)
{
    const iv__value *v = &p->graph->values[p->io.x.id];
    int64_t n = iv_shape_count(&v->shape);
    int64_t bytes = (int64_t)iv_dtype_bytes(v->dtype);
    if (v->dtype == IV_F32) return iv__plan_write(p->plan, p->io.x.id, x);
    for (int64_t i = 0; i < n; ++i) iv__dtype_put(v->dtype, t->converted + i * bytes, (double)x[i]);
    return iv__plan_write(p->plan, p->io.x.id, t->converted);
}

static iv_status feed_scales(iv_trainer *t, iv__program *p)
{
    const iv_graph *g = p->graph;
    if (g->scales < 0) return IV_OK;
    if (g->n_scaled > t->precision.n_scales)
        IV_FAIL(IV_INTERNAL, "scales of %lld tensors for a graph of %lld",
                (long long)t->precision.n_scales, (long long)g->n_scaled);
    return iv__plan_write(p->plan, g->scales, t->precision.scales);
}

iv_status iv__program_feed(iv_trainer *t, iv__program *p, const char *x, const int32_t *y,
                           double norm, double scale)
{
    if (p->graph->values[p->io.x.id].dtype == IV_I32)
        IV_TRY(iv__plan_write(p->plan, p->io.x.id, x));
    else IV_TRY(feed_floats(t, p, (const float *)(const void *)x));
    IV_TRY(iv__plan_write(p->plan, p->io.y.id, y));
    IV_TRY(feed_scales(t, p));
    IV_TRY(feed_scalar(p, p->graph->norm_input, norm));
    return feed_scalar(p, p->graph->seed, scale);
}

iv_status iv__program_loss(iv_trainer *t, const iv__program *p, double *out)
{
    float f;
    iv_buffer b = iv__plan_range(p->plan, p->loss);
    if (p->graph->values[p->loss].dtype == IV_F64) {
        b.bytes = sizeof(double);
        return iv__device_read(t->device, out, b);
    }
    b.bytes = sizeof(float);
    IV_TRY(iv__device_read(t->device, &f, b));
    *out = (double)f;
    return IV_OK;
}

int64_t iv__count_targets(const iv__program *p, const int32_t *y, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += y[i] != p->graph->norm_ignore;
    return count;
}

/* ---- opening ---- */

static iv_status choose_precision(iv_trainer *t)
{
    char kind[32];
    iv__workers_kind(t, kind, sizeof(kind));
    return iv__precision_open(t->config, kind, &t->precision);
}

/* The tensors that the graph rounds to 8-bit floats. */
static iv_status scale_tensors(iv_trainer *t)
{
    const iv_graph *g = t->workers.replicas[0]->programs[0].graph;
    uint8_t *e5m2;
    IV_TRY(iv__calloc(g->n_scaled, sizeof(*e5m2), "scales", &e5m2));
    for (int64_t i = 0; i < g->n_scaled; ++i) e5m2[i] = g->scaled[i].gradient;
    iv_status s = iv__precision_tensors(&t->precision, g->n_scaled, e5m2);
    free(e5m2);
    return s;
}

/* The largest magnitudes of the step that was applied give the next one's scales. */
static iv_status rescale(iv_trainer *t)
{
    const iv__store *s = t->store;
    int64_t b = (int64_t)sizeof(*t->precision.amax);
    if (!t->precision.n_scales) return IV_OK;
    IV_TRY(iv__device_read(
        t->device, t->precision.amax,
        iv__memory_range(&s->grad_mem, iv__store_sum_at(s, s->amax_at) * b, s->n_amax * b)));
    return iv__precision_rescale(&t->precision);
}

static void tell_emulation(const iv_trainer *t)
{
    if (t->precision.policy.low == IV_F16 && !t->device->info.native_f16)
        iv__log(IV_LOG_INFO,
                "precision %s on %s: f16 is converted in software here, so a step takes longer "
                "than in 32-true; the bits are those of every device",
                t->precision.name, t->device->name);
}

/* Largest power of two up to `most` that divides n. */
static int64_t power_of_two_in(int64_t n, int64_t most)
{
    int64_t g = 1;
    while (g * 2 <= most && n % (g * 2) == 0) g *= 2;
    return g;
}

/* A grain is computed in one pass, so it must fit into one. */
static iv_status choose_grains(iv_trainer *t)
{
    long long global = t->batch * t->accumulate, passes = t->accumulate;
    t->grains = iv_config_int(t->config, "train.grains");
    if (t->grains == 0) t->grains = passes * power_of_two_in(t->batch, IV_MAX2(1, 8 / passes));
    if (global % t->grains)
        IV_FAIL(IV_INVALID,
                "--grains %lld does not divide the global batch of %lld samples (batch %lld x "
                "accumulate %lld)",
                (long long)t->grains, global, (long long)t->batch, passes);
    if (t->grains < passes)
        IV_FAIL(IV_INVALID,
                "--grains %lld: a grain of %lld samples does not fit into a pass of --batch %lld "
                "[hint: --grains %lld]",
                (long long)t->grains, global / (long long)t->grains, (long long)t->batch, passes);
    return IV_OK;
}

/* Grains of a validation batch: those of a step's pass. */
static int64_t eval_grains(const iv_trainer *t)
{
    int64_t g = t->grains / t->accumulate;
    return t->batch % g == 0 ? g : 1;
}

static iv_status choose_steps(iv_trainer *t)
{
    int64_t epochs = iv_config_int(t->config, "train.epochs"), global = t->batch * t->accumulate;
    t->max_steps = iv_config_int(t->config, "train.max_steps");
    if (epochs > 0 && (!iv_config_is_set(t->config, "train.max_steps") || t->max_steps == 0)) {
        if (!t->data) IV_FAIL(IV_INVALID, "train.epochs needs data");
        if (epochs > INT64_MAX / IV_MAX2(1, t->info.samples[IV_TRAIN]))
            IV_FAIL(IV_INVALID, "train.epochs %lld is too many", (long long)epochs);
        t->max_steps = IV_MAX2(1, epochs * t->info.samples[IV_TRAIN] / global);
    }
    const char *kind = iv_config_str(t->config, "optim.schedule");
    t->schedule = (iv__schedule){.lr = iv_config_float(t->config, "optim.lr"),
                                 .min_lr = iv_config_float(t->config, "optim.min_lr"),
                                 .warmup = iv_config_int(t->config, "optim.warmup"),
                                 .total = t->max_steps,
                                 .kind = strcmp(kind, "cosine") == 0   ? IV_SCHEDULE_COSINE
                                         : strcmp(kind, "linear") == 0 ? IV_SCHEDULE_LINEAR
                                                                       : IV_SCHEDULE_CONSTANT};
    return IV_OK;
}

/* Host room for a step's samples, and for one pass converted to the model's type. */
static iv_status make_host_batch(iv_trainer *t)
{
    const iv__program *p = &t->workers.replicas[0]->programs[0];
    const iv__value *x = &p->graph->values[p->io.x.id], *y = &p->graph->values[p->io.y.id];
    int64_t per_sample = iv_shape_count(&x->shape) / p->batch, global = t->batch * t->accumulate;
    t->x_bytes = (size_t)per_sample * 4;
    t->y_count = iv_shape_count(&y->shape) / p->batch;
    if (iv_dtype_is_float(x->dtype) && x->dtype != IV_F32)
        IV_TRY(
            iv__calloc(per_sample * t->batch, iv_dtype_bytes(x->dtype), "samples", &t->converted));
    IV_TRY(iv__calloc(global, t->x_bytes, "samples", &t->x));
    return iv__calloc(t->y_count * global, sizeof(*t->y), "targets", &t->y);
}

static iv_status check_norm(const iv_trainer *t, const char *key)
{
    const char *text = iv_config_str(t->config, key);
    char *end;
    double p = strtod(text, &end);
    if (!*text || strcmp(text, "inf") == 0 || (end != text && !*end && p > 0 && p < 1e6))
        return IV_OK;
    IV_FAIL(IV_INVALID, "%s is '%s': a number above 0, or inf", key, text);
}

static iv_status check_data(const iv_trainer *t)
{
    if (!t->data) return IV_OK;
    const iv__program *p = &t->workers.replicas[0]->programs[0];
    const iv__value *x = &p->graph->values[p->io.x.id];
    int64_t model = iv_shape_count(&x->shape) / p->batch, sample = iv_shape_count(&t->info.sample);
    if (model != sample)
        IV_FAIL(IV_INVALID, "the model takes %lld values a sample, the data has %lld",
                (long long)model, (long long)sample);
    const iv__value *logits = &p->graph->values[p->io.logits.id];
    int64_t classes = logits->shape.dim[logits->shape.rank - 1];
    if (t->info.classes > classes)
        IV_FAIL(
            IV_INVALID,
            "the data has ids up to %lld, the model only %lld classes [hint: a larger model.vocab]",
            (long long)t->info.classes - 1, (long long)classes);
    return IV_OK;
}

static iv_status open_all(iv_trainer *t)
{
    t->batch = iv_config_int(t->config, "train.batch");
    t->accumulate = iv_config_int(t->config, "train.accumulate");
    t->seed = (uint64_t)iv_config_int(t->config, "train.seed");
    if (t->data) iv_dataset_info_get(t->data, &t->info);
    IV_TRY(iv__registry_load(iv_config_str(t->config, "plugins")));
    IV_TRY(choose_grains(t));
    IV_TRY(choose_steps(t));
    IV_TRY(check_norm(t, "train.norm"));
    IV_TRY(check_norm(t, "train.track_norm"));
    IV_TRY(choose_precision(t));
    t->detect_anomaly = iv_config_bool(t->config, "train.detect_anomaly");
    IV_TRY(iv__workers_open(t, &t->workers));
    t->device = t->workers.replicas[0]->device;
    t->store = t->workers.replicas[0]->store;
    tell_emulation(t);
    IV_TRY(scale_tensors(t));
    IV_TRY(make_host_batch(t));
    IV_TRY(check_data(t));
    /* Validation is planned now, so that the memory known at the start is all that a run takes. */
    if (t->data && t->info.samples[IV_VAL] > 0)
        IV_TRY(
            iv__program_new(t, t->workers.replicas[0], t->batch, false, eval_grains(t), &t->eval));
    const char *init = iv_config_str(t->config, "model.init");
    return *init ? iv_trainer_load_params(t, init) : IV_OK;
}

iv_status iv_trainer_open(const iv_config *c, iv_dataset *data, iv_build_fn build, void *ctx,
                          iv_trainer **out)
{
    iv_trainer *t;
    IV_TRY(iv__calloc(1, sizeof(*t), "a trainer", &t));
    t->config = c;
    t->data = data;
    t->build = build;
    t->build_ctx = ctx;
    iv_status s = open_all(t);
    if (s != IV_OK) {
        iv_trainer_close(t);
        return s;
    }
    *out = t;
    return IV_OK;
}

void iv_trainer_close(iv_trainer *t)
{
    if (!t) return;
    iv__trainer_ckpt_close(t);
    iv__program_free(&t->eval); /* these two may use the memory of the first replica */
    iv__program_free(&t->generate);
    iv__workers_close(&t->workers);
    free(t->x);
    free(t->y);
    free(t->converted);
    iv__precision_close(&t->precision);
    free(t);
}

/* ---- one step ---- */

/* Ids that would reach outside a table are refused before they reach a kernel. */
iv_status iv__trainer_check_ids(const iv_trainer *t, const char *x, const int32_t *y,
                                int64_t samples)
{
    const iv__program *p = &t->workers.replicas[0]->programs[0];
    const iv__value *logits = &p->graph->values[p->io.logits.id];
    int64_t classes = logits->shape.dim[logits->shape.rank - 1], bad = -1;
    for (int64_t i = 0; i < samples * t->y_count; ++i)
        if ((y[i] < 0 || y[i] >= classes) && y[i] != p->graph->norm_ignore) bad = i;
    if (bad >= 0) IV_FAIL(IV_INVALID, "target %d is outside [0, %lld)", y[bad], (long long)classes);
    if (p->graph->values[p->io.x.id].dtype != IV_I32) return IV_OK;
    const int32_t *ids = (const int32_t *)(const void *)x;
    for (int64_t i = 0; i < samples * (int64_t)t->x_bytes / 4; ++i)
        if (ids[i] < 0 || ids[i] >= classes) bad = i;
    if (bad >= 0)
        IV_FAIL(IV_INVALID, "token %d is outside [0, %lld)", ids[bad], (long long)classes);
    return IV_OK;
}

/* Forward and backward of all samples: their sums are in the gradient arenas afterwards. */
static iv_status run_passes(iv_trainer *t, const char *x, const int32_t *y, int64_t targets,
                            double scale)
{
    iv__feed f = {.x = x,
                  .y = y,
                  .norm = (double)IV_MAX2(targets, 1),
                  .scale = scale,
                  .seed = t->seed,
                  .step = (uint64_t)t->step};
    return iv__workers_run(t, &t->workers, &f);
}

/* The sums of the step are there: gradients are completed, the loss is read. */
static iv_status finish_sums(iv_trainer *t, double *out_loss)
{
    for (int64_t i = 0; i < t->workers.n_replicas; ++i)
        IV_TRY(iv__store_add_summands(t->workers.replicas[i]->store));
    IV_TRY(iv__workers_share_gradients(&t->workers));
    const iv__store *s = t->store;
    const int64_t b = (int64_t)iv_dtype_bytes(s->type);
    double loss;
    IV_TRY(iv__device_read(t->device, &loss,
                           iv__memory_range(&s->grad_mem, iv__store_sum_at(s, s->loss_at) * b, b)));
    *out_loss = iv__dtype_get(s->type, &loss);
    return IV_OK;
}

static iv_status update(iv_trainer *t)
{
    for (int64_t i = 0; i < t->workers.n_replicas; ++i) {
        iv__replica *r = t->workers.replicas[i];
        IV_TRY(iv__optim_update(r->optim, t->step));
        IV_TRY(iv__workers_share_params(&t->workers));
        IV_TRY(iv__store_lower(r->store));
        IV_TRY(iv__store_follow(r->store, t->grains));
    }
    return IV_OK;
}

/* The run ends for infinities or NaN: the reason gets step and the first bad node. */
static iv_status nonfinite(iv_trainer *t)
{
    char name[256] = "the gradients", why[256];
    int32_t node;
    snprintf(why, sizeof(why), "%s", iv_error_message());
    IV_TRY(iv__plan_run_checked(iv__replica_last(t->workers.replicas[0])->plan, &node, name,
                                sizeof(name)));
    IV_FAIL(IV_NONFINITE,
            "training step %lld: %s: the first infinity or NaN comes from %s [hint: a lower "
            "--lr, --clip 1, or a wider --precision]",
            (long long)t->step + 1, why, name);
}

/* After the gradients: decide, update, count. */
static iv_status settle(iv_trainer *t, iv_step_report *r, bool finite)
{
    iv_verdict v;
    iv_status s = iv__precision_judge(&t->precision, r->loss, r->grad_norm, finite, &v);
    if (s == IV_OK) s = iv__precision_count(&t->precision, v);
    if (s == IV_NONFINITE) return nonfinite(t);
    IV_TRY(s);
    r->skipped = v != IV_STEP;
    r->outcome = v == IV_STEP ? IV_APPLIED : IV_SKIPPED_OVERFLOW;
    if (r->skipped) return IV_OK;
    iv__trainer_release_all(t);
    IV_TRY(update(t));
    IV_TRY(rescale(t));
    IV_TRY(iv__optim_lost(t->workers.replicas[0]->optim, &r->lost_updates));
    ++t->step;
    return IV_OK;
}

/* No target counts: nothing is computed, and nothing changes, whatever the precision. */
static iv_status no_loss(iv_trainer *t, iv_step_report *r, iv_step_report *out)
{
    iv_status s = iv__precision_count(&t->precision, IV_SKIP_NONE);
    if (s != IV_OK) return iv__context(s, "training step %lld", (long long)t->step + 1);
    r->step = t->step;
    r->loss = r->grad_norm = NAN;
    r->skipped = true;
    r->outcome = IV_SKIPPED_NONE;
    *out = *r;
    return IV_OK;
}

/* Norm and finiteness of the gradients, on every replica for its own update. */
static iv_status measure(iv_trainer *t, iv_step_report *r, bool *finite)
{
    for (int64_t i = t->workers.n_replicas - 1; i >= 0; --i) { /* the values are the same on all */
        iv__optim *o = t->workers.replicas[i]->optim;
        IV_TRY(iv__optim_norm_blocks(o, t->step, r->lr, 1 / r->scale));
        IV_TRY(iv__workers_share_blocks(&t->workers));
        IV_TRY(iv__optim_norm(o, &r->grad_norm, finite));
    }
    return IV_OK;
}

/* A step on samples of which this rank's are given; `targets` of all of them count. */
static iv_status step(iv_trainer *t, const char *x, const int32_t *y, int64_t targets,
                      iv_step_report *out)
{
    int64_t start = iv__now_ns(), global = t->batch * t->accumulate;
    iv_step_report r = {.scale = iv__precision_scale(&t->precision),
                        .lr = iv__schedule_lr(&t->schedule, t->step),
                        .lost_updates = -1};
    bool finite;
    if (targets == 0) return no_loss(t, &r, out);
    const int64_t waited = iv__workers_waited(&t->workers);
    IV_TRY(run_passes(t, x, y, targets, r.scale));
    IV_TRY(finish_sums(t, &r.loss));
    IV_TRY(measure(t, &r, &finite));
    IV_TRY(settle(t, &r, finite));
    for (int64_t i = 0; i < t->workers.n_replicas; ++i) {
        iv__device *d = t->workers.replicas[i]->device;
        IV_TRY(d->vt->sync(d->queue));
    }
    r.step = t->step;
    r.ns = iv__now_ns() - start;
    r.waited_ns = iv__workers_waited(&t->workers) - waited;
    r.samples_per_s = (double)global * 1e9 / (double)IV_MAX2(r.ns, 1);
    r.tokens_per_s = t->data && t->info.is_tokens ? r.samples_per_s * (double)t->y_count : 0;
    *out = r;
    return IV_OK;
}

iv_status iv_trainer_step_on(iv_trainer *t, const void *x, const int32_t *y, iv_step_report *out)
{
    int64_t global = t->batch * t->accumulate;
    IV_TRY(iv__trainer_check_ids(t, x, y, global));
    return step(t, x, y,
                iv__count_targets(&t->workers.replicas[0]->programs[0], y, global * t->y_count),
                out);
}

/* Samples of the data are functions of their number, so each rank reads its own only.  The data
 * sets give no target that is ignored. */
iv_status iv_trainer_step(iv_trainer *t, iv_step_report *out)
{
    int64_t global = t->batch * t->accumulate;
    if (!t->data) IV_FAIL(IV_INVALID, "training: the trainer was opened without data");
    IV_TRY(iv__workers_balance(t, &t->workers));
    iv__span own = iv__workers_samples(t, &t->workers);
    char *x = t->x + (size_t)own.first * t->x_bytes;
    int32_t *y = t->y + own.first * t->y_count;
    for (int64_t i = 0; i < own.count; ++i)
        IV_TRY(iv_dataset_train_sample(t->data, t->seed, t->samples_seen + own.first + i,
                                       x + (size_t)i * t->x_bytes, y + i * t->y_count));
    IV_TRY(iv__trainer_check_ids(t, x, y, own.count));
    IV_TRY(step(t, t->x, t->y, global * t->y_count, out));
    t->samples_seen += global;
    return IV_OK;
}

/* ---- facts ---- */

void iv_trainer_info_get(const iv_trainer *t, iv_trainer_info *out)
{
    int64_t n = 0;
    for (int64_t i = 0; i < t->store->n_params; ++i) n += t->store->params[i].count;
    *out = (iv_trainer_info){.step = t->step,
                             .max_steps = t->max_steps,
                             .samples_seen = t->samples_seen,
                             .batch = t->batch,
                             .grains = t->grains,
                             .accumulate = t->accumulate,
                             .parameters = n,
                             .device = t->device->name,
                             .precision = t->precision.name,
                             .numerics = t->device->invariant ? "invariant" : "fast",
                             .is_tokens = t->info.is_tokens,
                             .rank = t->workers.comm->ranks.rank,
                             .world = t->workers.comm->ranks.world};
    for (int64_t i = 0; i < t->workers.n_replicas; ++i)
        out->own_grains += t->workers.replicas[i]->range.count;
}

iv_status iv_trainer_grad_norms(iv_trainer *t, double *out)
{
    const char *p = iv_config_str(t->config, "train.track_norm");
    if (!*p)
        IV_FAIL(IV_INVALID, "norms of gradients are not tracked [hint: --set train.track_norm=2]");
    return iv__optim_norms(t->workers.replicas[0]->optim, norm_p(p), out);
}

int64_t iv_trainer_param_count(const iv_trainer *t)
{
    return t->store->n_params;
}

const char *iv_trainer_param_name(const iv_trainer *t, int64_t i, iv_shape *out_shape)
{
    if (i < 0 || i >= t->store->n_params) return NULL;
    *out_shape = t->store->params[i].shape;
    return t->store->params[i].name;
}

iv_status iv_trainer_param_read(iv_trainer *t, int64_t i, bool gradient, double *out)
{
    if (i < 0 || i >= t->store->n_params)
        IV_FAIL(IV_INVALID, "parameter %lld of %lld", (long long)i, (long long)t->store->n_params);
    const iv__slot *s = &t->store->params[i];
    if (t->workers.share.stage >= (gradient ? 1 : 3))
        IV_FAIL(IV_UNSUPPORTED, "reading %s with --strategy %s: a rank has its part only",
                gradient ? "gradients" : "parameters",
                iv_config_str(t->config, "cluster.strategy"));
    const iv__memory *m = gradient ? &t->store->grad_mem : &t->store->param_mem;
    iv_dtype type = iv__store_type(t->store, m);
    int64_t bytes = (int64_t)iv_dtype_bytes(type);
    IV_TRY(iv__device_read(t->device, out, iv__slot_range(m, s, type)));
    for (int64_t k = s->count - 1; k >= 0; --k) /* widened in place, from the end */
        out[k] = iv__dtype_get(type, (const char *)out + k * bytes);
    return IV_OK;
}

iv_status iv_trainer_hash(iv_trainer *t, bool optimizer_state, char out_hex[33])
{
    return iv__workers_hash(t, &t->workers, optimizer_state, out_hex);
}
