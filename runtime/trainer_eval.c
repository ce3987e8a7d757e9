/* trainer_eval.c: validation and text generation. */
#include "trainer.h"

#include "rng.h"
#include "../kernels/math.h"

#include <math.h>

/* The logits of the last run, as f64; out has room for all of them. */
static iv_status read_logits(iv_trainer *t, const iv__program *p, int64_t offset, int64_t n,
                             double *out)
{
    iv_dtype type = p->graph->values[p->logits].dtype;
    int64_t b = (int64_t)iv_dtype_bytes(type);
    char *raw = (char *)out;
    iv_buffer range = iv__plan_range(p->plan, p->logits);
    range.offset += offset * b;
    range.bytes = n * b;
    IV_TRY(iv__device_read(t->device, raw, range));
    for (int64_t i = n - 1; i >= 0; --i) { /* widen in place, from the end */
        float f = 0;
        uint16_t h = 0;
        if (type == IV_F64) break;
        memcpy(type == IV_F32 ? (void *)&f : (void *)&h, raw + i * b, (size_t)b);
        out[i] = (double)(type == IV_F32 ? f : type == IV_BF16 ? iv_from_bf16(h) : iv_from_f16(h));
    }
    return IV_OK;
}

static int64_t largest(const double *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; ++i)
        if (x[i] > x[best]) best = i;
    return best;
}

/* ---- validation ---- */

typedef struct tally {
    double loss; /* sum over targets */
    int64_t targets, right;
} tally;

/* Fills a batch with samples first .. first + batch of the validation data; behind the last one,
 * copies of it whose targets are ignored. */
static iv_status fill_batch(iv_trainer *t, int64_t first, int64_t samples)
{
    for (int64_t i = 0; i < t->batch; ++i) {
        int64_t k = IV_MIN2(first + i, samples - 1);
        int32_t *y = t->y + i * t->y_count;
        IV_TRY(iv_dataset_sample(t->data, IV_VAL, k, t->x + (size_t)i * t->x_bytes, y));
        for (int64_t j = 0; first + i >= samples && j < t->y_count; ++j)
            y[j] = (int32_t)t->eval.graph->norm_ignore;
    }
    return IV_OK;
}

static iv_status count_right(iv_trainer *t, double *logits, tally *sum)
{
    int64_t classes = t->info.classes, rows = t->batch;
    const iv__value *v = &t->eval.graph->values[t->eval.logits];
    classes = v->shape.dim[v->shape.rank - 1];
    IV_TRY(read_logits(t, &t->eval, 0, rows * classes, logits));
    for (int64_t i = 0; i < rows; ++i)
        sum->right += t->y[i] == largest(logits + i * classes, classes);
    return IV_OK;
}

static iv_status eval_batch(iv_trainer *t, int64_t first, int64_t samples, double *logits,
                            tally *sum, bool *out_done)
{
    double loss;
    IV_TRY(fill_batch(t, first, samples));
    int64_t n = iv__count_targets(&t->eval, t->y, t->batch * t->y_count);
    if (n == 0) return IV_OK;
    IV_TRY(iv__trainer_check_ids(t, t->x, t->y, t->batch));
    IV_TRY(iv__program_feed(t, &t->eval, t->x, t->y, (double)n, 1));
    IV_TRY(iv__plan_run(t->eval.plan));
    *out_done = true;
    IV_TRY(iv__program_loss(t, &t->eval, &loss));
    sum->loss = loss * (double)n;
    sum->targets = n;
    return logits ? count_right(t, logits, sum) : IV_OK;
}

/* Batches [0, n), of which each rank computes an even part; then every rank has all tallies.
 * IV_INTERRUPTED on all ranks if `stop` of any says so. */
static iv_status eval_all(iv_trainer *t, int (*stop)(void *ctx), void *ctx, int64_t n,
                          int64_t samples, double *logits, tally *all)
{
    iv__comm *c = t->workers.comm;
    int64_t world = c->ranks.world, stopped = 0;
    iv__part *parts;
    iv_status s = IV_OK;
    IV_TRY(iv__calloc(world, sizeof(*parts), "parts of the validation", &parts));
    for (int64_t r = 0; r < world; ++r) {
        int64_t first = n * r / world, end = n * (r + 1) / world;
        parts[r] =
            (iv__part){first * (int64_t)sizeof(tally), (end - first) * (int64_t)sizeof(tally)};
    }
    /* In rounds: who has no batch in one may have parameters that others need. */
    const iv__part own = parts[c->ranks.rank];
    for (int64_t k = 0; s == IV_OK && k < (n + world - 1) / world; ++k) {
        const int64_t i = own.offset / (int64_t)sizeof(tally) + k;
        bool done = false;
        stopped = stopped || (stop && stop(ctx));
        if (!stopped && k < own.bytes / (int64_t)sizeof(tally))
            s = eval_batch(t, i * t->batch, samples, logits, &all[i], &done);
        if (s == IV_OK && !done) s = iv__plan_serve(t->eval.plan);
    }
    if (s == IV_OK) s = iv__comm_gather_parts(c, all, parts);
    if (s == IV_OK) s = iv__comm_reduce(c, IV_COMM_OR, &stopped, 1);
    if (s == IV_OK && stopped) s = iv__fail(IV_INTERRUPTED, "stopped");
    free(parts);
    return s;
}

iv_status iv_trainer_evaluate(iv_trainer *t, double *out_loss, double *out_accuracy)
{
    return iv__trainer_evaluate(t, NULL, NULL, out_loss, out_accuracy);
}

iv_status iv__trainer_evaluate(iv_trainer *t, int (*stop)(void *ctx), void *ctx, double *out_loss,
                               double *out_accuracy)
{
    int64_t samples = t->data ? t->info.samples[IV_VAL] : 0,
            most = iv_config_int(t->config, "eval.batches"),
            n = (samples + t->batch - 1) / t->batch;
    if (samples == 0) IV_FAIL(IV_UNAVAILABLE, "validating: the data has no validation part");
    if (most > 0) n = IV_MIN2(n, most);
    double *logits = NULL;
    tally sum = {0, 0, 0}, *all = NULL;
    iv_status s = iv__calloc(n, sizeof(*all), "validation batches", &all);
    if (s == IV_OK && !t->info.is_tokens)
        s = iv__calloc(iv_shape_count(&t->eval.graph->values[t->eval.logits].shape), sizeof(double),
                       "logits", &logits);
    if (s == IV_OK) s = eval_all(t, stop, ctx, n, samples, logits, all);
    for (int64_t i = 0; s == IV_OK && i < n; ++i) {
        sum.loss += all[i].loss;
        sum.targets += all[i].targets;
        sum.right += all[i].right;
    }
    free(logits);
    free(all);
    if (s != IV_OK) return iv__context(s, "validating");
    *out_loss = sum.loss / (double)sum.targets;
    *out_accuracy = t->info.is_tokens ? -1 : (double)sum.right / (double)sum.targets;
    return IV_OK;
}

/* ---- generation ---- */

/* Draws from softmax(logits / temperature) restricted to the top_k largest; work has room for n. */
static int32_t draw(const double *logits, int64_t n, double temperature, int64_t top_k, double u,
                    double *work)
{
    int64_t best = largest(logits, n);
    if (temperature <= 0) return (int32_t)best;
    double least = -INFINITY, sum = 0;
    if (top_k > 0 && top_k < n) { /* the k-th largest, by k passes: k is small */
        double bound = INFINITY;
        for (int64_t k = 0, seen = 0; k < top_k && seen < top_k; ++k) {
            least = -INFINITY;
            for (int64_t i = 0; i < n; ++i)
                if (logits[i] < bound && logits[i] > least) least = logits[i];
            for (int64_t i = 0; i < n; ++i) seen += logits[i] == least;
            bound = least;
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        work[i] = logits[i] >= least ? iv_exp_d((logits[i] - logits[best]) / temperature) : 0;
        sum += work[i];
    }
    double at = u * sum;
    for (int64_t i = 0; i < n; ++i) {
        at -= work[i];
        if (at < 0) return (int32_t)i;
    }
    return (int32_t)best;
}

typedef struct window {
    int32_t *x, *y;
    double *logits, *work;
    int64_t context, classes;
} window;

/* The token after all[0..n): the model sees the last `context` of them. */
static iv_status next_token(iv_trainer *t, window *w, const int32_t *all, int64_t n,
                            double temperature, int64_t top_k, uint64_t seed, int32_t *out)
{
    int64_t seen = IV_MIN2(n, w->context);
    memset(w->x, 0,
           (size_t)w->context * sizeof(*w->x)); /* behind the end: causal attention does not look */
    memcpy(w->x, all + n - seen, (size_t)seen * sizeof(*w->x));
    IV_TRY(iv__program_feed(t, &t->generate, (const char *)w->x, w->y, 1, 1));
    IV_TRY(iv__plan_run(t->generate.plan));
    IV_TRY(read_logits(t, &t->generate, (seen - 1) * w->classes, w->classes, w->logits));
    double u = (double)iv_random_u32(seed, IV__STREAM_GENERATE, 0, (uint64_t)n) * 0x1p-32;
    *out = draw(w->logits, w->classes, temperature, top_k, u, w->work);
    return IV_OK;
}

static iv_status generate(iv_trainer *t, window *w, const int32_t *prompt, int64_t prompt_n,
                          int64_t n, double temperature, int64_t top_k, uint64_t seed, int32_t *out)
{
    int32_t *all;
    IV_TRY(iv__calloc(prompt_n + n, sizeof(*all), "tokens", &all));
    memcpy(all, prompt, (size_t)prompt_n * sizeof(*all));
    iv_status s = IV_OK;
    for (int64_t i = 0; s == IV_OK && i < prompt_n; ++i)
        if (prompt[i] < 0 || prompt[i] >= w->classes)
            s = iv__fail(IV_INVALID, "generating: token %d is outside [0, %lld)", prompt[i],
                         (long long)w->classes);
    for (int64_t i = 0; s == IV_OK && i < n; ++i)
        s = next_token(t, w, all, prompt_n + i, temperature, top_k, seed, &all[prompt_n + i]);
    if (s == IV_OK) memcpy(out, all + prompt_n, (size_t)n * sizeof(*all));
    free(all);
    return s;
}

iv_status iv_trainer_generate(iv_trainer *t, const int32_t *prompt, int64_t prompt_n, int64_t n,
                              double temperature, int64_t top_k, uint64_t seed, int32_t *out)
{
    if (prompt_n < 1 || n < 0)
        IV_FAIL(IV_INVALID, "generating: a prompt of at least one token is needed");
    if (!t->generate.plan)
        IV_TRY(iv__program_new(t, t->workers.replicas[0], 1, false, 1, &t->generate));
    const iv__value *x = &t->generate.graph->values[t->generate.io.x.id],
                    *l = &t->generate.graph->values[t->generate.logits];
    if (x->dtype != IV_I32 || l->shape.rank != 3)
        IV_FAIL(IV_INVALID, "generating: the model is not a language model");
    window w = {.context = iv_shape_count(&x->shape), .classes = l->shape.dim[2]};
    iv_status s = iv__calloc(w.context, sizeof(*w.x), "tokens", &w.x);
    if (s == IV_OK) s = iv__calloc(w.context, sizeof(*w.y), "tokens", &w.y);
    if (s == IV_OK) s = iv__calloc(w.classes, sizeof(double), "logits", &w.logits);
    if (s == IV_OK) s = iv__calloc(w.classes, sizeof(double), "probabilities", &w.work);
    if (s == IV_OK) s = generate(t, &w, prompt, prompt_n, n, temperature, top_k, seed, out);
    free(w.x);
    free(w.y);
    free(w.logits);
    free(w.work);
    return s;
}
