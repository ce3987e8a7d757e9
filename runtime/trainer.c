/* trainer.c: opening a trainer, and one optimizer step.
 *
 * A step draws batch x accumulate samples and runs `accumulate` passes of forward and backward. The
 * samples are cut into grains; a pass holds a whole number of them.  Gradients of passes are added
 * by the tree over grains, so that accumulating changes no bit: the partial sums of the tree wait
 * in up to log2(accumulate) extra arenas.
 *
 * Order: scale -> backward -> (reduce) -> unscale, finiteness and norm in one pass -> clip ->
 * update -> lower.  It is fixed here, and no plugin can change it. */
#include "trainer.h"

#include "registry.h"

#include <math.h>

/* ---- programs ---- */

void iv__program_free(iv__program *p)
{
    iv__plan_free(p->plan);
    iv_graph_free(p->graph);
    *p = (iv__program){0};
}

static iv_status compile(iv_trainer *t, iv__program *p, bool train)
{
    iv_graph *g = p->graph;
    IV_TRY(t->build(t->build_ctx, g, p->batch, train, &p->io));
    IV_TRY(iv_graph_status(g));
    /* Read for the share of right answers, and for generation (one sample); else they need not
     * stay. */
    if (!train && (!t->info.is_tokens || p->batch == 1))
        iv_graph_set_output(g, "logits", p->io.logits);
    if (train) IV_TRY(iv_graph_differentiate(g));
    if (train && t->accumulate > 1) IV_TRY(iv__graph_split_gradients(g));
    IV_TRY(iv__graph_prune(g));
    IV_TRY(iv__graph_cast(g, t->precision, t->precision_self));
    IV_TRY(iv__graph_absorb(g));
    IV_TRY(iv__graph_prune(g));
    return iv__graph_fuse(g);
}

static int32_t output_value(const iv_graph *g, const char *name)
{
    for (int32_t i = 0; i < g->n_outputs; ++i)
        if (strcmp(g->outputs[i].name, name) == 0) return g->outputs[i].value;
    return -1;
}

static iv__optim_options optim_options(const iv_config *c)
{
    const char *name = iv_config_str(c, "optim.name");
    double clip = iv_config_float(c, "train.clip");
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
                               .clip_norm = by_value ? 0 : clip,
                               .clip_value = by_value ? clip : 0};
}

iv_status iv__trainer_program(iv_trainer *t, int64_t batch, bool train, int64_t grains,
                              iv__program *out)
{
    iv__program p = {.batch = batch};
    IV_TRY(iv_graph_new(&p.graph));
    iv_graph_set_grains(p.graph, grains);
    iv_status s = compile(t, &p, train);
    if (s == IV_OK && !t->store) {
        iv__optim_options o = optim_options(t->config);
        bool all = strcmp(iv_config_str(t->config, "optim.decay"), "all") == 0;
        s = iv__store_new(t->device, p.graph, t->precision->master(t->precision_self), t->seed,
                          train ? iv__optim_moments(&o) : 0, all, &t->store);
    }
    if (s == IV_OK) s = iv__plan_new(t->store, p.graph, batch, t->train.plan, &p.plan);
    if (s == IV_OK) {
        p.loss = output_value(p.graph, "loss");
        p.logits = output_value(p.graph, "logits");
        *out = p;
        return IV_OK;
    }
    iv__program_free(&p);
    return s;
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
    if (v->dtype == IV_F32) return iv__plan_write(p->plan, p->io.x.id, x);
    if (v->dtype != IV_F64)
        IV_FAIL(IV_UNSUPPORTED, "feeding inputs of type %s", iv_dtype_name(v->dtype));
    for (int64_t i = 0; i < n; ++i) t->wide[i] = (double)x[i];
    return iv__plan_write(p->plan, p->io.x.id, t->wide);
}

iv_status iv__program_feed(iv_trainer *t, iv__program *p, const char *x, const int32_t *y,
                           double norm, double scale)
{
    if (p->graph->values[p->io.x.id].dtype == IV_I32)
        IV_TRY(iv__plan_write(p->plan, p->io.x.id, x));
    else IV_TRY(feed_floats(t, p, (const float *)(const void *)x));
    IV_TRY(iv__plan_write(p->plan, p->io.y.id, y));
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

static iv_status choose_device(iv_trainer *t)
{
    const char *kind = iv_config_str(t->config, "device.accelerator"),
               *list = iv_config_str(t->config, "device.devices");
    bool invariant = strcmp(iv_config_str(t->config, "numerics.mode"), "invariant") == 0;
    char name[64];
    if (strcmp(kind, "auto") == 0) kind = "cpu";
    if (strcmp(list, "auto") == 0 || strcmp(list, "1") == 0)
        snprintf(name, sizeof(name), "%s:0", kind);
    else if (strchr(list, ',') || !strchr(list, ':'))
        IV_FAIL(IV_UNSUPPORTED,
                "--devices %s: this version trains on one device [hint: --devices 1, or a name "
                "such as cpu:0]",
                list);
    else snprintf(name, sizeof(name), "%s", list);
    iv_backend_options o = {.threads = (int32_t)iv_config_int(t->config, "device.threads"),
                            .isa = iv__env(IV__ENV_ISA),
                            .cache = iv__env(IV__ENV_CACHE)};
    return iv__device_open(name, &o, invariant, &t->device);
}

static iv_status choose_precision(iv_trainer *t)
{
    /* Names of older releases that mean the same. */
    static const char *const alias[][2] = {{"32", "32-true"},
                                           {"64", "64-true"},
                                           {"bf16", "bf16-mixed"},
                                           {"double", "64-true"},
                                           {"single", "32-true"}};
    const char *name = iv_config_str(t->config, "precision.name");
    const iv_plugin *p;
    for (int64_t i = 0; i < IV_COUNT(alias); ++i)
        if (strcmp(name, alias[i][0]) == 0) name = alias[i][1];
    iv_status s = iv__registry_get(IV_PLUGIN_PRECISION, name, &p, &t->precision_self);
    if (s != IV_OK) return iv__context(s, "--precision %s", name);
    t->precision = p->vtable;
    snprintf(t->precision_name, sizeof(t->precision_name), "%s", p->name);
    return IV_OK;
}

/* Largest power of two up to `most` that divides n. */
static int64_t power_of_two_in(int64_t n, int64_t most)
{
    int64_t g = 1;
    while (g * 2 <= most && n % (g * 2) == 0) g *= 2;
    return g;
}

/* A pass must hold a subtree of the tree over grains: a power of two of them, unless it holds all.
 */
static iv_status choose_grains(iv_trainer *t)
{
    long long global = t->batch * t->accumulate, passes = t->accumulate;
    t->grains = iv_config_int(t->config, "train.grains");
    if (t->grains == 0) t->grains = passes * power_of_two_in(t->batch, IV_MAX2(1, 8 / passes));
    long long per_pass = t->grains / passes;
    if (global % t->grains)
        IV_FAIL(IV_INVALID,
                "--grains %lld does not divide the global batch of %lld samples (batch %lld x "
                "accumulate %lld)",
                (long long)t->grains, global, (long long)t->batch, passes);
    if (t->grains % passes || (passes > 1 && (per_pass & (per_pass - 1))))
        IV_FAIL(IV_INVALID,
                "--grains %lld with --accumulate %lld: each pass needs a power of two of grains "
                "[hint: --grains %lld]",
                (long long)t->grains, passes, passes);
    return IV_OK;
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

/* Host room for a step's samples, and for one pass converted to f64. */
static iv_status make_host_batch(iv_trainer *t)
{
    const iv__value *x = &t->train.graph->values[t->train.io.x.id],
                    *y = &t->train.graph->values[t->train.io.y.id];
    int64_t per_sample = iv_shape_count(&x->shape) / t->batch, global = t->batch * t->accumulate;
    t->x_bytes = (size_t)per_sample * 4;
    t->y_count = iv_shape_count(&y->shape) / t->batch;
    if (x->dtype == IV_F64)
        IV_TRY(iv__calloc(per_sample * t->batch, sizeof(*t->wide), "samples", &t->wide));
    IV_TRY(iv__calloc(global, t->x_bytes, "samples", &t->x));
    return iv__calloc(t->y_count * global, sizeof(*t->y), "targets", &t->y);
}

static iv_program add_program(iv_dtype type, int64_t n)
{
    iv_program p;
    memset(&p, 0, sizeof(p));
    p.n_in = 2;
    p.n_ops = p.n_dims = 1;
    p.compute = p.out_type = p.in_type[0] = p.in_type[1] = (uint8_t)type;
    p.out_reg = 2;
    p.dim[0] = n;
    p.in_stride[0][0] = p.in_stride[1][0] = p.out_stride[0] = 1;
    p.ops[0] = (iv_program_op){.op = IV_OP_ADD, .dst = 2, .src = {0, 1}, .round = (uint8_t)type};
    return p;
}

static iv_status make_tree(iv_trainer *t)
{
    if (t->accumulate == 1) return IV_OK;
    iv_program p = add_program(t->store->type, t->store->grad_elems);
    for (int64_t level = 0; (int64_t)1 << level < t->accumulate; ++level)
        IV_TRY(iv__memory_alloc(t->device, t->store->grad_mem.bytes,
                                "gradients of accumulated passes", &t->tree[level]));
    IV_TRY(iv__device_program(t->device, &p, &t->add_kernel));
    IV_TRY(iv__calloc(t->store->n_summands, sizeof(*t->summand_kernels), "sums of gradients",
                      &t->summand_kernels));
    for (int64_t i = 0; i < t->store->n_summands; ++i) {
        p.dim[0] = t->store->summands[i].count;
        IV_TRY(iv__device_program(t->device, &p, &t->summand_kernels[i]));
    }
    return IV_OK;
}

static iv_status check_data(const iv_trainer *t)
{
    if (!t->data) return IV_OK;
    const iv__value *x = &t->train.graph->values[t->train.io.x.id];
    int64_t model = iv_shape_count(&x->shape) / t->batch, sample = iv_shape_count(&t->info.sample);
    if (model != sample)
        IV_FAIL(IV_INVALID, "the model takes %lld values a sample, the data has %lld",
                (long long)model, (long long)sample);
    const iv__value *logits = &t->train.graph->values[t->train.io.logits.id];
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
    IV_TRY(choose_precision(t));
    IV_TRY(choose_device(t));
    IV_TRY(iv__trainer_program(t, t->batch, true, t->grains / t->accumulate, &t->train));
    iv__optim_options o = optim_options(t->config);
    IV_TRY(iv__optim_new(t->store, &o, &t->optim));
    IV_TRY(make_host_batch(t));
    IV_TRY(make_tree(t));
    IV_TRY(check_data(t));
    /* Validation is planned now, so that the memory known at the start is all that a run takes. */
    if (t->data && t->info.samples[IV_VAL] > 0)
        IV_TRY(iv__trainer_program(t, t->batch, false, t->grains / t->accumulate, &t->eval));
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
    iv__program_free(&t->eval); /* these two may use the memory of the first */
    iv__program_free(&t->generate);
    iv__program_free(&t->train);
    iv__optim_free(t->optim);
    iv__store_free(t->store);
    for (int i = 0; i < IV__TREE_LEVELS; ++i) iv__memory_free(&t->tree[i]);
    iv__device_close(t->device);
    free(t->x);
    free(t->y);
    free(t->wide);
    free(t->summand_kernels);
    free(t);
}

/* ---- one step ---- */

/* Ids that would reach outside a table are refused before they reach a kernel. */
iv_status iv__trainer_check_ids(const iv_trainer *t, const char *x, const int32_t *y,
                                int64_t samples)
{
    const iv__program *p = &t->train;
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

/* dst = a + b over gradient arenas. */
static iv_status add_arenas(iv_trainer *t, const iv__memory *a, const iv__memory *b,
                            const iv__memory *dst)
{
    iv_launch l = {.n_bufs = 3,
                   .groups = (t->store->grad_elems + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE,
                   .buf = {iv__memory_range(a, 0, a->bytes), iv__memory_range(b, 0, b->bytes),
                           iv__memory_range(dst, 0, dst->bytes)}};
    return t->device->vt->launch(t->device->queue, t->add_kernel, &l);
}

static double add_losses(const iv_trainer *t, double a, double b)
{
    return t->store->type == IV_F64 ? a + b : (double)((float)a + (float)b);
}

/* The binary counter of passes: after pass i, equal-sized neighbours merge; slot `level` holds the
 * sum of 2^level passes.  The result of all passes ends in the gradient arena. */
static iv_status fold_pass(iv_trainer *t, int64_t pass, double *loss)
{
    iv__memory *grad = &t->store->grad_mem;
    int64_t level = 0;
    for (; (pass >> level) & 1; ++level) {
        IV_TRY(add_arenas(t, &t->tree[level], grad, grad));
        *loss = add_losses(t, t->tree_loss[level], *loss);
    }
    if (pass + 1 < t->accumulate) {
        iv_buffer from = iv__memory_range(grad, 0, grad->bytes),
                  to = iv__memory_range(&t->tree[level], 0, grad->bytes);
        IV_TRY(t->device->vt->copy(t->device->queue, to, from));
        t->tree_loss[level] = *loss;
        return IV_OK;
    }
    /* Left-over subtrees, from the smallest up. */
    for (++level; (int64_t)1 << level <= t->accumulate; ++level) {
        if (!((pass + 1) >> level & 1)) continue;
        IV_TRY(add_arenas(t, &t->tree[level], grad, grad));
        *loss = add_losses(t, t->tree_loss[level], *loss);
    }
    return IV_OK;
}

/* The gradient of a parameter with several uses: its summands, each the sum over all samples, added
 * in the order in which a single pass adds them. */
static iv_status add_summands(iv_trainer *t)
{
    const iv__store *s = t->store;
    for (int64_t i = s->n_summands - 1; i >= 0; --i) { /* the last one was split off first */
        const iv__slot *from = &s->summands[i], *to = &s->params[from->summand_of];
        iv_buffer sum = iv__slot_range(&s->grad_mem, to, s->type);
        iv_launch l = {.n_bufs = 3,
                       .groups = (from->count + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE,
                       .buf = {sum, iv__slot_range(&s->grad_mem, from, s->type), sum}};
        IV_TRY(t->device->vt->launch(t->device->queue, t->summand_kernels[i], &l));
    }
    return IV_OK;
}

static iv_status run_passes(iv_trainer *t, const char *x, const int32_t *y, double scale,
                            double *out_loss)
{
    int64_t per_y = t->batch * t->y_count;
    double norm = (double)iv__count_targets(&t->train, y, per_y * t->accumulate);
    for (int64_t i = 0; i < t->accumulate; ++i) {
        iv_uniforms u = {t->seed, (uint64_t)t->step, (uint64_t)(i * t->batch)};
        IV_TRY(iv__plan_uniforms(t->train.plan, &u));
        IV_TRY(iv__program_feed(t, &t->train, x + (size_t)(i * t->batch) * t->x_bytes,
                                y + i * per_y, IV_MAX2(norm, 1), scale));
        IV_TRY(iv__plan_run(t->train.plan));
        IV_TRY(iv__program_loss(t, &t->train, out_loss));
        if (t->accumulate > 1) IV_TRY(fold_pass(t, i, out_loss));
    }
    return add_summands(t);
}

static iv_status nonfinite(iv_trainer *t, double loss, double norm)
{
    char name[256] = "the gradients";
    IV_TRY(iv__plan_first_nonfinite(t->train.plan, name, sizeof(name)));
    IV_FAIL(IV_NONFINITE,
            "training step %lld: loss %g, gradient norm %g: the first infinity or NaN comes from "
            "%s [hint: a lower "
            "--lr, --clip 1, or a wider --precision]",
            (long long)t->step + 1, loss, norm, name);
}

iv_status iv_trainer_step_on(iv_trainer *t, const void *x, const int32_t *y, iv_step_report *out)
{
    int64_t start = iv__now_ns(), global = t->batch * t->accumulate;
    iv_step_report r = {.scale = 1, .lr = iv__schedule_lr(&t->schedule, t->step)};
    bool finite;
    IV_TRY(iv__trainer_check_ids(t, x, y, global));
    if (t->precision->loss_scale) r.scale = (double)t->precision->loss_scale(t->precision_self);
    IV_TRY(run_passes(t, x, y, r.scale, &r.loss));
    IV_TRY(iv__optim_norm(t->optim, t->step, r.lr, 1 / r.scale, &r.grad_norm, &finite));
    iv_verdict verdict = t->precision->on_grads
                             ? t->precision->on_grads(t->precision_self, r.grad_norm, !finite)
                             : IV_STEP;
    if (!isfinite(r.loss) || (!finite && verdict == IV_STEP))
        return nonfinite(t, r.loss, r.grad_norm);
    r.skipped = verdict == IV_SKIP;
    t->skipped += r.skipped;
    if (!r.skipped) {
        IV_TRY(iv__optim_update(t->optim));
        ++t->step;
    }
    IV_TRY(t->device->vt->sync(t->device->queue));
    r.step = t->step;
    r.ns = iv__now_ns() - start;
    r.samples_per_s = (double)global * 1e9 / (double)IV_MAX2(r.ns, 1);
    r.tokens_per_s = t->data && t->info.is_tokens ? r.samples_per_s * (double)t->y_count : 0;
    *out = r;
    return IV_OK;
}

iv_status iv_trainer_step(iv_trainer *t, iv_step_report *out)
{
    int64_t global = t->batch * t->accumulate;
    if (!t->data) IV_FAIL(IV_INVALID, "training: the trainer was opened without data");
    for (int64_t i = 0; i < global; ++i)
        IV_TRY(iv_dataset_train_sample(t->data, t->seed, t->samples_seen + i,
                                       t->x + (size_t)i * t->x_bytes, t->y + i * t->y_count));
    IV_TRY(iv_trainer_step_on(t, t->x, t->y, out));
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
                             .precision = t->precision_name,
                             .numerics = t->device->invariant ? "invariant" : "fast",
                             .is_tokens = t->info.is_tokens};
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
    iv_buffer b =
        iv__slot_range(gradient ? &t->store->grad_mem : &t->store->param_mem, s, t->store->type);
    IV_TRY(iv__device_read(t->device, out, b));
    if (t->store->type == IV_F32) /* widen in place, from the end */
        for (int64_t k = s->count - 1; k >= 0; --k) {
            float f;
            memcpy(&f, (const char *)out + k * 4, 4);
            out[k] = (double)f;
        }
    return IV_OK;
}

iv_status iv_trainer_hash(iv_trainer *t, bool optimizer_state, char out_hex[33])
{
    return iv__store_hash(t->store, optimizer_state, out_hex);
}
