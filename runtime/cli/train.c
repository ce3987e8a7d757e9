/* train.c: `invar train`: opens what the configuration names, runs iv_trainer_fit and tells how it
 * goes: as JSON lines on stdout (--json), or as progress on stderr and a summary on stdout.
 *
 * SIGINT, SIGTERM and SIGUSR1 only set a flag.  The loop asks all ranks for it after each step,
 * saves a checkpoint and returns IV_INTERRUPTED; the exit status is then 130 or 143.  SIGUSR1 is a
 * scheduler's warning that the time is nearly up: rank 0 then asks it to run the job again, and the
 * exit status is 75, on which a script can do the same. */
#include "cli.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static volatile sig_atomic_t caught_signal;

static void on_signal(int number)
{
    caught_signal = number;
}

static void catch_signals(void)
{
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
    /* A reader that goes away must not end the run before its checkpoint. */
    a.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &a, NULL);
}

typedef struct session {
    const iv__cli *cli;
    const iv__cli_run *run;
    bool json, started; /* started: the first step is done */
    int64_t every;      /* log.every */
    iv__progress progress;
    char saved[1024]; /* the last checkpoint, or "" */
    int64_t saved_step, step;
} session;

static int32_t rank_now(const session *s)
{
    iv_trainer_info t;
    iv_trainer_info_get(s->run->trainer, &t);
    return t.rank;
}

/* Rank 0 reports.  Which process that is may change in a run (--elastic). */
static bool speaks(const session *s)
{
    return !s->cli->quiet || rank_now(s) == 0;
}

static void member(const char *name, double value)
{
    printf("\"%s\":", name);
    iv__json_number(stdout, value);
}

/* ,"grad_norms":{"wte.weight":1.5,...} where they are tracked. */
static void json_norms(const iv__cli_run *run)
{
    iv_trainer *t = run->trainer;
    const int64_t n = iv_trainer_param_count(t);
    double *norms = malloc((size_t)n * sizeof(*norms));
    iv_shape shape;
    if (norms && iv_trainer_grad_norms(t, norms) == IV_OK) {
        fputs(",\"grad_norms\":{", stdout);
        for (int64_t i = 0; i < n; ++i) {
            if (i) putchar(',');
            iv__json_text(stdout, iv_trainer_param_name(t, i, &shape));
            putchar(':');
            iv__json_number(stdout, norms[i]);
        }
        putchar('}');
    }
    free(norms);
}

static void json_step(const iv__cli_run *run, const iv_step_report *r)
{
    printf("{\"step\":%lld,", (long long)r->step);
    member("loss", r->loss);
    putchar(',');
    member("lr", r->lr);
    putchar(',');
    member("tokens_per_s", r->tokens_per_s);
    putchar(',');
    if (!(r->tokens_per_s > 0)) {
        member("samples_per_s", r->samples_per_s);
        putchar(',');
    }
    member("grad_norm", r->grad_norm);
    putchar(',');
    member("scale", r->scale);
    iv_trainer_info info;
    iv_trainer_info_get(run->trainer, &info);
    if (info.world > 1) {
        putchar(',');
        member("waited_s", (double)r->waited_ns * 1e-9);
    }
    if (*iv_config_str(run->config, "train.track_norm")) json_norms(run);
    if (r->lost_updates >= 0) {
        putchar(',');
        member("lost_updates", r->lost_updates);
    }
    if (r->skipped)
        printf(",\"skipped\":true,\"outcome\":\"%s\"",
               r->outcome == IV_SKIPPED_NONE ? "skipped-none" : "skipped-overflow");
    puts("}");
    fflush(stdout);
}

/* What is trained, on what.  Shown after the first step, so that a fault before it is one line. */
static void print_start(const iv__cli_run *run, const iv_step_report *first)
{
    iv_trainer_info t;
    char parameters[32], samples[32];
    iv_trainer_info_get(run->trainer, &t);
    iv__print_count(parameters, (double)t.parameters);
    iv__print_count(
        samples, (double)(t.is_tokens ? run->info.tokens[IV_TRAIN] : run->info.samples[IV_TRAIN]));
    fprintf(stderr, "%s: %s parameters on %s, %s, numerics %s\n",
            iv_config_str(run->config, "model.name"), parameters, t.device, t.precision,
            t.numerics);
    fprintf(stderr, "%s: %s %s for training; %lld a step\n",
            iv_config_str(run->config, "data.train"), samples, t.is_tokens ? "tokens" : "samples",
            (long long)(t.batch * t.accumulate * (t.is_tokens ? run->spec.sample.dim[0] : 1)));
    if (first->step > 1) fprintf(stderr, "resumed after step %lld\n", (long long)first->step - 1);
}

static void on_step(void *ctx, const iv_step_report *r)
{
    session *s = ctx;
    s->step = r->step;
    if (!speaks(s)) return;
    if (!s->json && !s->started) print_start(s->run, r);
    s->started = true;
    if (!s->json) iv__progress_step(&s->progress, r);
    else if (r->step % s->every == 0 || r->step == s->progress.max_steps) json_step(s->run, r);
}

static void on_eval(void *ctx, int64_t step, double loss, double accuracy)
{
    session *s = ctx;
    if (!speaks(s)) return;
    if (s->json) {
        printf("{\"step\":%lld,", (long long)step);
        member("val_loss", loss);
        if (accuracy >= 0) {
            putchar(',');
            member("val_accuracy", accuracy);
        }
        puts("}");
        fflush(stdout);
    } else if (accuracy >= 0) {
        iv__progress_line(&s->progress, "step %lld: validation loss %.4f, accuracy %.2f %%",
                          (long long)step, loss, 100 * accuracy);
    } else {
        iv__progress_line(&s->progress, "step %lld: validation loss %.4f", (long long)step, loss);
    }
}

static void on_save(void *ctx, int64_t step, const char *path)
{
    session *s = ctx;
    snprintf(s->saved, sizeof(s->saved), "%s", path);
    s->saved_step = step;
    if (!s->json && speaks(s))
        iv__progress_line(&s->progress, "step %lld: saved %s", (long long)step, path);
}

static int stop(void *ctx)
{
    (void)ctx;
    if (caught_signal == SIGUSR1) return IV_STOP | IV_STOP_REQUEUE;
    return caught_signal != 0 || ferror(stdout) ? IV_STOP : 0;
}

static void on_log(void *ctx, iv_log_level level, const char *line)
{
    session *s = ctx;
    (void)level;
    if (speaks(s)) iv__progress_line(&s->progress, "invar: %s", line);
}

static void print_end(const session *s, const iv_fit_result *f)
{
    if (!speaks(s)) return;
    if (s->json) {
        printf("{\"done\":true,\"steps\":%lld,", (long long)f->steps);
        member("loss", f->loss);
        putchar(',');
        member("val_loss", f->val_loss);
        if (f->val_accuracy >= 0) {
            putchar(',');
            member("val_accuracy", f->val_accuracy);
        }
        printf(",\"hash\":\"%s\",\"state_hash\":\"%s\"}\n", f->hash, f->state_hash);
        return;
    }
    char time[32];
    iv__print_time(time, iv__progress_clock() - s->progress.started);
    printf("%lld steps in %s, loss %.4f", (long long)f->steps, time, f->loss);
    if (isfinite(f->val_loss)) printf(", validation loss %.4f", f->val_loss);
    if (f->val_accuracy >= 0) printf(", accuracy %.2f %%", 100 * f->val_accuracy);
    printf("\nhash %s, optimizer state %s\n", f->hash, f->state_hash);
    if (f->checkpoint[0]) printf("checkpoint %s\n", f->checkpoint);
}

enum { REQUEUED = 75 }; /* EX_TEMPFAIL: to be started again */

/* Rank 0 has the scheduler run this job again. */
static void requeue(const session *s)
{
    const iv__cli *c = s->cli;
    const iv__cli_run *r = s->run;
    iv_cluster_info found;
    const char *command = iv_config_str(r->config, "cluster.requeue");
    if (rank_now(s) != 0 || strcmp(command, "none") == 0) return;
    if (strcmp(command, "auto") == 0) {
        if (iv_cluster_find(r->config, &found) != IV_OK) return;
        command = found.requeue;
    }
    if (!*command) return;
    fflush(NULL);
    const int status = system(command);
    if (status != 0)
        iv__cli_fail(
            c, "\"%s\" ended with status %d [hint: the exit status is %d: start the run again]",
            command, WIFEXITED(status) ? WEXITSTATUS(status) : status, REQUEUED);
}

static int interrupted(const session *s, const iv_fit_result *f)
{
    const iv__cli *c = s->cli;
    const int number = caught_signal;
    const bool again = (f->stopped & IV_STOP_REQUEUE) != 0;
    const char *name = again               ? "SIGUSR1"
                       : number == SIGTERM ? "SIGTERM"
                       : number == SIGINT  ? "SIGINT"
                       : ferror(stdout)    ? "the output's reader"
                                           : "another rank";
    if (!speaks(s)) { /* rank 0 tells it */
    } else if (s->saved[0]) {
        iv__cli_fail(c, "stopped by %s after step %lld; checkpoint %s", name, (long long)s->step,
                     s->saved);
    } else {
        iv__cli_fail(c, "stopped by %s after step %lld; no checkpoint, since no --out was given",
                     name, (long long)s->step);
    }
    if (again) requeue(s);
    if (again) return REQUEUED;
    return number ? 128 + number : ferror(stdout) ? 2 : 128 + SIGTERM;
}

static int fit(const iv__cli *c, const iv__cli_run *r)
{
    session s = {
        .cli = c, .run = r, .json = c->json, .every = iv_config_int(r->config, "log.every")};
    iv_fit_result result;
    const iv_fit_callbacks callbacks = {&s, on_step, on_eval, on_save, stop};
    iv__progress_start(&s.progress, r->trainer,
                       iv__progress_duration(iv_config_str(r->config, "train.max_time")));
    iv_log_set(c->verbose ? IV_LOG_DEBUG : IV_LOG_INFO, on_log, &s);
    const iv_status status = iv_trainer_fit(r->trainer, &callbacks, &result);
    iv_log_set(IV_LOG_INFO, NULL, NULL);
    iv__progress_end(&s.progress);
    if (status == IV_INTERRUPTED) return interrupted(&s, &result);
    if (status != IV_OK) return iv__cli_status(c, status);
    print_end(&s, &result);
    return 0;
}

int iv__cli_train(iv__cli *c)
{
    iv_config *config;
    iv__cli_run run;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status != 0) return status;
    if (!*iv_config_str(config, "data.train")) {
        iv_config_free(config);
        return iv__cli_fail(c, "no training data is named [hint: --data text:FILE, idx:DIR or "
                               "tokens:FILE]");
    }
    status = iv__cli_join(c, config);
    if (status != 0) {
        iv_config_free(config);
        return status == IV_CLI_SPAWNED ? 0 : status;
    }
    catch_signals();
    status = iv__cli_open(c, config, true, &run);
    if (status != 0) return status;
    status = fit(c, &run);
    iv__cli_close(&run);
    return status;
}
