/* trainer_fit.c: the training loop and the run folder.
 *
 *   out.dir/config.yaml          the whole configuration
 *           metrics.csv          a line per reported step and validation
 *           checkpoints/         see keep.h
 *
 * On an interruption the state is saved at the step's end, and so it is when a step fails: a step
 * that fails has changed nothing. */
#include "trainer.h"

#include "keep.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>

typedef struct fit {
    iv_trainer *t;
    const iv_fit_callbacks *cb;
    iv_fit_result result;
    FILE *metrics;
    int64_t start_ns, time_limit_ns;
    int stopped;            /* the `stop` callback has said so */
    iv_step_report report;  /* of the last step */
    bool evaluates;         /* that step is to be followed by a validation */
    int64_t validated_step; /* of result.val_loss */
    iv__keeper keeper;
} fit;

static const char *out_dir(const fit *f)
{
    return iv_config_str(f->t->config, "out.dir");
}

/* ---- the run folder ---- */

/* Rank 0 alone writes what is not a checkpoint. */
static bool writes(const fit *f)
{
    return f->t->workers.comm->ranks.rank == 0;
}

static iv_status open_metrics(fit *f, const char *mode)
{
    char path[1100];
    if (!*out_dir(f) || !writes(f)) return IV_OK;
    snprintf(path, sizeof(path), "%s/metrics.csv", out_dir(f));
    f->metrics = fopen(path, mode);
    if (!f->metrics) IV_FAIL(IV_IO, "opening %s: %s", path, strerror(errno));
    if (ftell(f->metrics) == 0)
        fprintf(f->metrics,
                "step,loss,grad_norm,lr,scale,tokens_per_s,samples_per_s,val_loss,val_accuracy\n");
    return IV_OK;
}

static iv_status open_folder(fit *f)
{
    char path[1100];
    if (!*out_dir(f) || !writes(f)) return IV_OK;
    IV_TRY(iv__keeper_make_folder(&f->keeper));
    snprintf(path, sizeof(path), "%s/config.yaml", out_dir(f));
    IV_TRY(iv_config_save(f->t->config, path));
    return open_metrics(f, f->keeper.started_step > 0 ? "a" : "w");
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

static iv_status save(fit *f)
{
    const bool fresh = f->validated_step == f->t->step;
    return iv__keeper_save(
        &f->keeper, &(iv__scores){.loss = f->result.loss,
                                  .val_loss = fresh ? f->result.val_loss : (double)NAN,
                                  .val_accuracy = fresh ? f->result.val_accuracy : (double)NAN});
}

static int stopping(void *ctx)
{
    fit *f = ctx;
    if (f->cb->stop) f->stopped |= f->cb->stop(f->cb->ctx) & (IV_STOP | IV_STOP_REQUEUE);
    return f->stopped;
}

/* A validation takes as long as the data is big: it is given up where the run is to stop. */
static iv_status evaluate(fit *f)
{
    double loss, accuracy;
    iv_status s = iv__trainer_evaluate(f->t, stopping, f, &loss, &accuracy);
    if (s == IV_INTERRUPTED) f->stopped |= IV_STOP; /* on any rank */
    if (s == IV_UNAVAILABLE || s == IV_INTERRUPTED) return IV_OK;
    if (s != IV_OK) return s;
    f->validated_step = f->t->step;
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

/* Whether something is due every `every` steps. */
static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

static iv_status one_step(fit *f)
{
    IV_TRY(iv_trainer_step(f->t, &f->report));
    f->evaluates =
        !f->report.skipped && due(f->report.step, iv_config_int(f->t->config, "eval.every"));
    return report_step(f, &f->report);
}

/* What any rank wants, all do. */
enum {
    STOP = IV_STOP | IV_STOP_REQUEUE, /* bits of the callback */
    TIME_IS_UP = 4,
    SAVE = 8,
    FAILED = 16
};

/* samples: those before the step. */
static iv_status wishes(fit *f, int64_t samples, int64_t *out)
{
    const iv_status saved = iv__keeper_poll(&f->keeper);
    *out = stopping(f) | (iv__now_ns() - f->start_ns >= f->time_limit_ns ? TIME_IS_UP : 0) |
           (iv__keeper_due(&f->keeper, samples) ? SAVE : 0) | (saved != IV_OK ? FAILED : 0);
    const int64_t mine = *out;
    char *text = NULL;
    if (mine & FAILED) IV_TRY(iv__strdup(iv_error_message(), &text));
    iv_status s = iv__comm_reduce(f->t->workers.comm, IV_COMM_OR, out, 1);
    if (text && s == IV_OK)
        s = iv__fail(saved, "%s", text); /* the reduction may have had its own */
    free(text);
    return mine & FAILED || *out & FAILED ? iv__comm_agree(f->t->workers.comm, s) : s;
}

/* The state at the end, durable. */
static iv_status save_last(fit *f)
{
    IV_TRY(iv__comm_agree(f->t->workers.comm, save(f)));
    return iv__comm_agree(f->t->workers.comm, iv__keeper_finish(&f->keeper));
}

static iv_status interrupted(fit *f)
{
    int64_t why = f->stopped;
    IV_TRY(iv__comm_reduce(f->t->workers.comm, IV_COMM_OR, &why, 1));
    f->result.stopped = (int)why;
    IV_TRY(save_last(f));
    IV_FAIL(IV_INTERRUPTED, "stopped after step %" PRId64 "%s%s", f->t->step,
            *f->keeper.newest ? "; saved " : "", f->keeper.newest);
}

/* What follows a step. */
static iv_status after_step(fit *f, bool *out_ends)
{
    const int64_t samples = f->t->samples_seen - f->t->batch * f->t->accumulate;
    int64_t wish;
    if (f->evaluates) IV_TRY(evaluate(f));
    f->evaluates = false;
    IV_TRY(wishes(f, samples, &wish));
    if (wish & SAVE) IV_TRY(iv__comm_agree(f->t->workers.comm, save(f)));
    *out_ends = (wish & TIME_IS_UP) != 0;
    return wish & STOP ? interrupted(f) : IV_OK;
}

static iv_status finish(fit *f)
{
    if (!due(f->t->step, iv_config_int(f->t->config, "eval.every"))) IV_TRY(evaluate(f));
    if (f->stopped) return interrupted(f);
    IV_TRY(save_last(f));
    f->result.steps = f->t->step;
    IV_TRY(iv_trainer_hash(f->t, false, f->result.hash));
    return iv_trainer_hash(f->t, true, f->result.state_hash);
}

/* From here, or from behind a step that was done already, to the end. */
static iv_status run(fit *f, bool behind_step)
{
    bool ends = false;
    if (behind_step) IV_TRY(after_step(f, &ends));
    while (!ends && f->t->step < f->t->max_steps) {
        IV_TRY(one_step(f));
        IV_TRY(after_step(f, &ends));
    }
    return finish(f);
}

/* Goes on without lost ranks, behind the last step that one of the others has done. */
static iv_status go_on(fit *f)
{
    iv__comm *c = f->t->workers.comm;
    const int64_t before = f->t->samples_seen, world = c->ranks.world;
    char why[256];
    snprintf(why, sizeof(why), "%s", iv_error_message());
    IV_TRY(iv__trainer_again(f->t, &f->report));
    if (f->t->samples_seen != before) IV_TRY(report_step(f, &f->report));
    int64_t evaluates = f->evaluates;
    IV_TRY(iv__comm_reduce(c, IV_COMM_OR, &evaluates, 1));
    f->evaluates = evaluates != 0;
    f->keeper.started_step = -1; /* who was lost may have been saving */
    IV_TRY(iv__comm_agree(c, f->metrics ? IV_OK : open_metrics(f, "a")));
    iv__log(IV_LOG_WARN, "%s; %d of %d ranks go on after step %lld", why, c->ranks.world,
            (int)world, (long long)f->t->step);
    return IV_OK;
}

static iv_status run_on(fit *f)
{
    const bool elastic = iv_config_bool(f->t->config, "cluster.elastic");
    iv_status s = run(f, false);
    while (s == IV_LOST && elastic) {
        s = go_on(f);
        if (s == IV_OK) s = run(f, f->t->samples_seen > 0);
    }
    return s;
}

/* A run that fails leaves the state of its last good step, if that is not what failed; the error
 * stays that of the run. */
static iv_status save_after(fit *f, iv_status s)
{
    char *text = NULL;
    const bool useless = s == IV_IO || s == IV_NO_MEMORY || s == IV_VENDOR || s == IV_INTERNAL ||
                         iv__trainer_saves_together(f->t); /* the others may not come */
    if (iv__strdup(iv_error_message(), &text) != IV_OK) return s;
    if (s != IV_INTERRUPTED) {
        iv_status saved = IV_OK;
        if (!useless && iv_config_bool(f->t->config, "out.save_on_exception") && f->t->step > 0)
            saved = save(f);
        if (saved == IV_OK) saved = iv__keeper_finish(&f->keeper); /* also those under way */
        if (saved != IV_OK) iv__log(IV_LOG_WARN, "%s", iv_error_message());
    }
    s = iv__fail(s, "%s", text);
    free(text);
    return s;
}

iv_status iv_trainer_fit(iv_trainer *t, const iv_fit_callbacks *cb, iv_fit_result *out)
{
    static const iv_fit_callbacks none;
    fit f = {.t = t,
             .cb = cb ? cb : &none,
             .start_ns = iv__now_ns(),
             .validated_step = -1,
             .result = {.loss = NAN, .val_loss = NAN, .val_accuracy = NAN}};
    iv_status s =
        t->data ? IV_OK
                : iv__fail(IV_INVALID,
                           "training: no data [hint: --data text:FILE, idx:DIR or tokens:FILE]");
    if (s == IV_OK)
        s = iv__parse_time("--max-time", iv_config_str(t->config, "train.max_time"),
                           &f.time_limit_ns);
    if (s == IV_OK) s = iv__keeper_open(&f.keeper, t, f.cb);
    if (s == IV_OK) s = iv__keeper_resume(&f.keeper);
    if (s == IV_OK) s = open_folder(&f);
    s = iv__comm_agree(t->workers.comm, s);
    if (s == IV_OK)
        s = iv__comm_same(t->workers.comm, (uint64_t)t->step, "a checkpoint of another step");
    if (s == IV_OK) {
        s = run_on(&f);
        if (s != IV_OK) s = save_after(&f, s);
    }
    if (f.metrics && fclose(f.metrics) != 0 && s == IV_OK)
        s = iv__fail(IV_IO, "closing %s/metrics.csv: %s", out_dir(&f), strerror(errno));
    snprintf(f.result.checkpoint, sizeof(f.result.checkpoint), "%s", f.keeper.newest);
    iv__keeper_close(&f.keeper);
    f.result.steps = t->step;
    *out = f.result;
    return s;
}
