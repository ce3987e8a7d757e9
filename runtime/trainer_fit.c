/* trainer_fit.c: the training loop and the run folder.
 *
 *   out.dir/config.yaml          the whole configuration
 *           metrics.csv          a line per reported step and validation
 *           checkpoints/         step-000000000100.safetensors, ...
 *
 * A checkpoint is complete before an older one is removed; on an interruption the state is saved at
 * the step's end. */
#include "trainer.h"

#include "file.h"
#include "registry.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <time.h>

typedef struct kept {
    int64_t step;
    double val_loss; /* NAN: not validated */
} kept;

typedef struct fit {
    iv_trainer *t;
    const iv_fit_callbacks *cb;
    iv_fit_result result;
    FILE *metrics;
    int64_t start_ns, time_limit_ns, saved_step, resumed_step;
    kept *kept;
    int64_t n_kept, cap_kept;
} fit;

static const char *out_dir(const fit *f)
{
    return iv_config_str(f->t->config, "out.dir");
}

static iv_status checkpoint_path(const fit *f, int64_t step, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/checkpoints/step-%012" PRId64 ".safetensors", out_dir(f), step);
    if (n < 0 || (size_t)n >= size)
        IV_FAIL(IV_INVALID, "--out %s: the path is too long", out_dir(f));
    return IV_OK;
}

/* ---- resuming ---- */

/* The largest step below `below` with a checkpoint in the folder; -1: none. */
static int64_t newest_below(const char *folder, int64_t below)
{
    int64_t best = -1;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        int64_t step;
        int end = 0;
        if (sscanf(e->d_name, "step-%" SCNd64 ".safetensors%n", &step, &end) == 1 && end &&
            !e->d_name[end] && step < below && step > best)
            best = step;
    }
    if (d) closedir(d);
    return best;
}

/* The newest checkpoint that loads; a corrupt one is passed over with a line. */
static iv_status resume_auto(fit *f)
{
    char folder[1024], path[1024];
    snprintf(folder, sizeof(folder), "%s/checkpoints", out_dir(f));
    for (int64_t step = newest_below(folder, INT64_MAX); step >= 0;
         step = newest_below(folder, step)) {
        IV_TRY(checkpoint_path(f, step, path, sizeof(path)));
        iv_status s = iv_trainer_load(f->t, path);
        if (s != IV_CORRUPT) return s;
        iv__log(IV_LOG_WARN, "%s; trying the one before", iv_error_message());
    }
    return IV_OK; /* none: a fresh start */
}

static iv_status resume(fit *f)
{
    const char *how = iv_config_str(f->t->config, "out.resume");
    if (!*how) return IV_OK;
    if (strcmp(how, "auto") != 0) IV_TRY(iv_trainer_load(f->t, how));
    else if (!*out_dir(f)) IV_FAIL(IV_INVALID, "--resume auto needs --out DIR, the run's folder");
    else IV_TRY(resume_auto(f));
    f->resumed_step = f->saved_step = f->t->step;
    return IV_OK;
}

/* ---- the run folder ---- */

/* Rank 0 alone writes. */
static bool writes(const fit *f)
{
    return f->t->workers.comm->ranks.rank == 0;
}

static iv_status open_folder(fit *f)
{
    char path[1024];
    const iv_plugin *p;
    void *self;
    if (!*out_dir(f) || !writes(f)) return IV_OK;
    /* A checkpoint plugin that is not there is told now, not after hours of training. */
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, iv_config_str(f->t->config, "out.checkpoint"), &p,
                            &self));
    snprintf(path, sizeof(path), "%s/checkpoints", out_dir(f));
    IV_TRY(iv__mkdirs(path));
    if (!*iv_config_str(f->t->config, "out.resume") && newest_below(path, INT64_MAX) >= 0)
        IV_FAIL(IV_INVALID,
                "--out %s holds the checkpoints of a run already [hint: --resume auto continues "
                "it; another folder starts anew]",
                out_dir(f));
    snprintf(path, sizeof(path), "%s/config.yaml", out_dir(f));
    IV_TRY(iv_config_save(f->t->config, path));
    snprintf(path, sizeof(path), "%s/metrics.csv", out_dir(f));
    f->metrics = fopen(path, f->resumed_step > 0 ? "a" : "w");
    if (!f->metrics) IV_FAIL(IV_IO, "opening %s: %s", path, strerror(errno));
    if (ftell(f->metrics) == 0)
        fprintf(f->metrics,
                "step,loss,grad_norm,lr,scale,tokens_per_s,samples_per_s,val_loss,val_accuracy\n");
    return IV_OK;
}

static iv_status flush_metrics(fit *f)
{
    if (f->metrics && (fflush(f->metrics) != 0 || ferror(f->metrics)))
        IV_FAIL(IV_IO, "writing %s/metrics.csv: %s", out_dir(f), strerror(errno));
    return IV_OK;
}

static iv_status report_step(fit *f, const iv_step_report *r)
{
    f->result.loss = r->loss;
    if (f->cb->on_step) f->cb->on_step(f->cb->ctx, r);
    if (!f->metrics || r->step % iv_config_int(f->t->config, "log.every")) return IV_OK;
    fprintf(f->metrics, "%" PRId64 ",%.9g,%.9g,%.9g,%.9g,%.6g,%.6g,,\n", r->step, r->loss,
            r->grad_norm, r->lr, r->scale, r->tokens_per_s, r->samples_per_s);
    return flush_metrics(f);
}

/* ---- checkpoints ---- */

static iv_status remove_checkpoint(fit *f, int64_t step)
{
    char path[1024];
    const iv_plugin *p;
    void *self;
    if (step == f->resumed_step && step > 0) return IV_OK; /* what this run started from stays */
    IV_TRY(checkpoint_path(f, step, path, sizeof(path)));
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, iv_config_str(f->t->config, "out.checkpoint"), &p,
                            &self));
    return ((const iv_checkpoint *)p->vtable)->remove(self, path);
}

/* save_top_k: drops the worst of more than k; without a validation, the oldest counts as the worst.
 * The newest always stays: it is what a resume needs. */
static iv_status prune_kept(fit *f)
{
    if (!writes(f)) return IV_OK;
    int64_t k = iv_config_int(f->t->config, "out.save_top_k");
    while (k > 0 && f->n_kept > k) {
        int64_t worst = 0;
        for (int64_t i = 1; i < f->n_kept - 1; ++i)
            if (f->kept[i].val_loss > f->kept[worst].val_loss ||
                isnan(f->kept[worst].val_loss) < isnan(f->kept[i].val_loss))
                worst = i;
        IV_TRY(remove_checkpoint(f, f->kept[worst].step));
        memmove(&f->kept[worst], &f->kept[worst + 1], (size_t)(--f->n_kept - worst) * sizeof(kept));
    }
    return IV_OK;
}

static iv_status save(fit *f)
{
    char path[1024];
    if (!*out_dir(f) || f->saved_step == f->t->step) return IV_OK;
    IV_TRY(checkpoint_path(f, f->t->step, path, sizeof(path)));
    IV_TRY(iv_trainer_save(f->t, path));
    f->saved_step = f->t->step;
    snprintf(f->result.checkpoint, sizeof(f->result.checkpoint), "%s", path);
    IV_TRY(iv__reserve(&f->kept, &f->cap_kept, f->n_kept + 1, sizeof(*f->kept),
                       "the list of checkpoints"));
    f->kept[f->n_kept++] = (kept){f->t->step, f->result.val_loss};
    if (f->cb->on_save) f->cb->on_save(f->cb->ctx, f->t->step, path);
    return prune_kept(f);
}

static iv_status evaluate(fit *f)
{
    double loss, accuracy;
    iv_status s = iv_trainer_evaluate(f->t, &loss, &accuracy);
    if (s == IV_UNAVAILABLE) return IV_OK;
    if (s != IV_OK) return s;
    f->result.val_loss = loss;
    f->result.val_accuracy = accuracy < 0 ? NAN : accuracy;
    if (f->cb->on_eval) f->cb->on_eval(f->cb->ctx, f->t->step, loss, accuracy);
    if (f->metrics) {
        fprintf(f->metrics, "%" PRId64 ",,,,,,,%.9g,", f->t->step, loss);
        fprintf(f->metrics, accuracy < 0 ? "\n" : "%.9g\n", accuracy);
    }
    return flush_metrics(f);
}

/* ---- the loop ---- */

/* "90", "90s", "15m", "2h", "hh:mm:ss" or "mm:ss"; empty: no limit. */
static iv_status parse_time(const char *s, int64_t *out_ns)
{
    double a, b, c;
    char unit = 's', rest;
    *out_ns = INT64_MAX;
    if (!*s) return IV_OK;
    int n = sscanf(s, "%lf:%lf:%lf%c", &a, &b, &c, &rest);
    if (n == 3) a = a * 3600 + b * 60 + c;
    else if (n == 2) a = a * 60 + b;
    else if ((n = sscanf(s, "%lf%c%c", &a, &unit, &rest)) == 2 || n == 1) {
        if (!strchr("smh", unit)) n = 0;
        a *= unit == 'h' ? 3600 : unit == 'm' ? 60 : 1;
    }
    if (n < 1 || n > 3 || !(a > 0) || a > 1e9)
        IV_FAIL(IV_INVALID, "--max-time '%s': write 90, 90s, 15m, 2h or hh:mm:ss", s);
    *out_ns = (int64_t)(a * 1e9);
    return IV_OK;
}

/* What any rank wants, all do: stop on a signal (1) or because time is up (2). */
static iv_status wishes(fit *f, int64_t *out)
{
    *out = (f->cb->stop && f->cb->stop(f->cb->ctx)) |
           (iv__now_ns() - f->start_ns >= f->time_limit_ns) << 1;
    return iv__comm_reduce(f->t->workers.comm, IV_COMM_OR, out, 1);
}

/* Whether something is due every `every` steps. */
static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

static iv_status one_step(fit *f)
{
    iv_step_report r;
    const iv_config *c = f->t->config;
    IV_TRY(iv_trainer_step(f->t, &r));
    IV_TRY(report_step(f, &r));
    if (r.skipped) return IV_OK;
    if (due(r.step, iv_config_int(c, "eval.every"))) IV_TRY(evaluate(f));
    if (due(r.step, iv_config_int(c, "out.save_every"))) IV_TRY(save(f));
    return IV_OK;
}

static iv_status loop(fit *f)
{
    while (f->t->step < f->t->max_steps) {
        int64_t wish;
        IV_TRY(one_step(f));
        IV_TRY(wishes(f, &wish));
        if (wish & 1) {
            IV_TRY(save(f));
            IV_FAIL(IV_INTERRUPTED, "stopped after step %" PRId64 "%s%s", f->t->step,
                    f->result.checkpoint[0] ? "; saved " : "", f->result.checkpoint);
        }
        if (wish) break;
    }
    return IV_OK;
}

static iv_status finish(fit *f)
{
    if (!due(f->t->step, iv_config_int(f->t->config, "eval.every"))) IV_TRY(evaluate(f));
    IV_TRY(save(f));
    f->result.steps = f->t->step;
    IV_TRY(iv_trainer_hash(f->t, false, f->result.hash));
    return iv_trainer_hash(f->t, true, f->result.state_hash);
}

iv_status iv_trainer_fit(iv_trainer *t, const iv_fit_callbacks *cb, iv_fit_result *out)
{
    static const iv_fit_callbacks none;
    fit f = {.t = t,
             .cb = cb ? cb : &none,
             .start_ns = iv__now_ns(),
             .saved_step = -1,
             .resumed_step = -1,
             .result = {.loss = NAN, .val_loss = NAN, .val_accuracy = NAN}};
    iv_status s =
        t->data ? IV_OK
                : iv__fail(IV_INVALID,
                           "training: no data [hint: --data text:FILE, idx:DIR or tokens:FILE]");
    if (s == IV_OK) s = parse_time(iv_config_str(t->config, "train.max_time"), &f.time_limit_ns);
    if (s == IV_OK) s = resume(&f);
    if (s == IV_OK) s = open_folder(&f);
    s = iv__comm_agree(t->workers.comm, s);
    if (s == IV_OK)
        s = iv__comm_same(t->workers.comm, (uint64_t)t->step, "a checkpoint of another step");
    if (s == IV_OK) s = loop(&f);
    if (s == IV_OK) s = finish(&f);
    if (f.metrics && fclose(f.metrics) != 0 && s == IV_OK)
        s = iv__fail(IV_IO, "closing %s/metrics.csv: %s", out_dir(&f), strerror(errno));
    free(f.kept);
    f.result.steps = t->step;
    *out = f.result;
    return s;
}
