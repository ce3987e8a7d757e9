/* test_precision.c: precision policies in a run: which one is chosen, what a step with an overflow
 * leaves alone, clipping and norms.  Tests named gotcha_N stand for row N of a list of what users
 * of other systems complain about most. */
#include "train/policies.h"

/* ---- selection ---- */

static void selection_follows_the_table(void **state)
{
    static const struct {
        const char *precision, *device, *strategy, *backend, *level, *want;
    } rows[] = {
        {"16", "cpu", "ddp", "native", "", "16-mixed"},
        {"16", "cuda", "ddp", "native", "", "16-mixed"},
        {"mixed", "cpu", "ddp", "native", "", "16-mixed"},
        {"16-mixed", "cpu", "ddp", "native", "", "16-mixed"},
        {"bf16", "cpu", "ddp", "native", "", "bf16-mixed"},
        {"bf16-mixed", "hip", "ddp", "native", "", "bf16-mixed"},
        {"32", "cpu", "ddp", "native", "", "32-true"},
        {"single", "cpu", "fsdp", "native", "", "32-true"},
        {"32", "cpu", "ddp", "apex", "", "32-true"},
        {"64", "cpu", "ddp", "native", "", "64-true"},
        {"double", "cpu", "ddp_sharded", "native", "", "64-true"},
        {"16-true", "cpu", "fsdp", "native", "", "16-true"},
        {"bf16-true", "cuda", "ddp", "native", "", "bf16-true"},
        {"16", "cpu", "ddp_sharded", "native", "", "sharded(precision=16)"},
        {"bf16", "cpu", "ddp_sharded", "native", "", "sharded(precision=bf16)"},
        {"16", "cpu", "fsdp", "native", "", "fullysharded(precision=16)"},
        {"bf16", "cpu", "fsdp", "native", "", "fullysharded(precision=bf16)"},
        {"16", "cpu", "deepspeed", "native", "", "deepspeed(precision=16-mixed)"},
        {"bf16", "cpu", "deepspeed", "native", "", "deepspeed(precision=bf16-mixed)"},
        {"32", "cpu", "deepspeed", "native", "", "deepspeed(precision=32-true)"},
        {"16", "cpu", "deepspeed", "apex", "", "deepspeed(precision=16-mixed,amp=true)"},
        {"16", "cpu", "ddp", "apex", "", "apex"},
        {"16", "cuda", "ddp", "apex", "O1", "apex(level=O1)"},
        {"16", "hpu", "ddp", "native", "", "hpu(precision=16)"},
        {"bf16", "hpu", "ddp", "native", "", "hpu(precision=bf16)"},
        {"32", "hpu", "ddp", "native", "", "hpu(precision=32)"},
        {"16", "ipu", "ddp", "native", "", "ipu(precision=16)"},
        {"32", "ipu", "ddp", "native", "", "ipu(precision=32)"},
        {"16", "tpu", "ddp", "native", "", "tpu-bf16"},
        {"bf16", "tpu", "ddp", "native", "", "tpu-bf16"},
        {"32", "tpu", "ddp", "native", "", "tpu"},
        {"bf16-true", "tpu", "ddp", "native", "", "xla(precision=bf16-true)"},
        {"my-own(x=1)", "cuda", "fsdp", "native", "", "my-own(x=1)"},
        /* refusals begin with '!' */
        {"64", "hpu", "ddp", "native", "", "!HPUs"},
        {"64", "tpu", "ddp", "native", "", "!TPUs"},
        {"bf16", "ipu", "ddp", "native", "", "!IPUs"},
        {"64", "cpu", "deepspeed", "native", "", "!deepspeed"},
        {"bf16", "cuda", "ddp", "apex", "", "!--amp-backend apex"},
        {"16", "cuda", "ddp_sharded", "apex", "", "!--amp-backend apex"},
        {"16", "cuda", "fsdp", "apex", "", "!--amp-backend apex"},
        {"16", "cuda", "ddp", "native", "O1", "!--amp-level O1"},
        {"16", "cuda", "ddp", "apex", "O4", "!O0, O1, O2 and O3"},
        {"32-true", "cuda", "ddp", "native", "O2", "!--amp-level O2"},
        {"transformer-engine", "cuda", "ddp", "native", "", "fp8(weights=bf16)"},
        {"transformer-engine-float16", "cuda", "ddp", "native", "", "fp8(weights=f16)"},
        {"my-own", "tpu", "ddp", "native", "", "!TPUs"},
        {"my-own", "cpu", "ddp", "apex", "", "!two choices"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char got[128] = "";
        const bool refused = rows[i].want[0] == '!';
        const iv_status s =
            iv__precision_select(rows[i].precision, rows[i].device, rows[i].strategy,
                                 rows[i].backend, rows[i].level, got, sizeof(got));
        if (refused ? s != IV_INVALID || !strstr(iv_error_message(), rows[i].want + 1)
                    : s != IV_OK || strcmp(got, rows[i].want) != 0)
            fail_msg("%s on %s, %s, %s %s: \"%s\", expected \"%s\"", rows[i].precision,
                     rows[i].device, rows[i].strategy, rows[i].backend, rows[i].level,
                     s == IV_OK ? got : iv_error_message(), rows[i].want);
    }
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    refuses(MLP, "32-true", "precision.masters=true", "no option 'masters'");
    refuses(MLP, "16-mixed(speed=3)", "", "no option 'speed'");
    refuses(MLP, "16-mixed(window)", "", "not name=value");
    refuses(MLP, "16-mixed(window=0)", "", "window");
    refuses(MLP, "16-mixed(growth=0.5)", "", "growth");
    refuses(MLP, "16-mixed(backoff=1)", "", "backoff");
    refuses(MLP, "16-mixed", "precision.scale=-1", "scale");
    refuses(MLP, "16-mixed(scaler=adam)", "", "scaler");
    refuses(MLP, "16-mixed(ops=mine)", "", "list of operators");
    refuses(MLP, "bf16-mixed", "precision.scaler=grad", "scaler");
    refuses(MLP, "bf16-true(masters=maybe)", "", "masters");
    refuses(MLP, "bf16-true(masters=true,rounding=stochastic)", "", "stochastic");
    refuses(MLP, "apex(level=O9)", "", "O9");
    refuses(MLP, "ipu", "train.clip=1", "clip");
    refuses(MLP, "fp8(weights=f64)", "", "f32, bf16 or f16");
    refuses(MLP, "fp8(history=0)", "", "history");
    refuses(MLP, "fp8(algo=mean)", "", "most_recent");
    refuses(MLP, "nf4(low=f32)", "", "bf16 or f16");
    refuses(MLP, "hpu(precision=64)", "", "64");
    refuses(MLP, "nothing", "", "nothing");
    refuses(MLP, "32-true", "train.norm=0", "train.norm");
    refuses(MLP, "32-true", "train.norm=two", "train.norm");
}

/* ---- overflow ---- */

enum { MOST_PARAMS = 64 };
/* The parameters that the run has. */
static void names_of(const session *s, char names[MOST_PARAMS][64], int *n)
{
    iv_shape shape;
    assert_true(iv_trainer_param_count(s->trainer) <= MOST_PARAMS);
    for (*n = 0; *n < iv_trainer_param_count(s->trainer); ++*n)
        snprintf(names[*n], 64, "%s", iv_trainer_param_name(s->trainer, *n, &shape));
}

static void overflow_in(const char *precision, const char *more, const char *param, int grain,
                        const char *value)
{
    char text[128];
    session s;
    iv_step_report r;
    open_with(&s, GPT, precision, more);
    advance(&s, 2);
    const prints before = prints_of(&s);
    snprintf(text, sizeof(text), "step=3,grain=%d,param=%s,value=%s", grain, param, value);
    inject(text);
    WORKS(iv_trainer_step(s.trainer, &r));
    const prints after = prints_of(&s);
    if (r.outcome != IV_SKIPPED_OVERFLOW || r.step != 2 || !equal(&before, &after))
        fail_msg("%s, %s of %s in grain %d: outcome %d, step %d, state %s", precision, value, param,
                 grain, r.outcome, (int)r.step, equal(&before, &after) ? "kept" : "changed");
    const double lr = r.lr, scale = r.scale;
    for (int i = 0; i < 2; ++i) {
        WORKS(iv_trainer_step(s.trainer, &r));
        if (r.outcome != IV_APPLIED || r.step != 3 + i)
            fail_msg("%s: another step was skipped after grain %d", precision, grain);
        if (i == 0 && r.lr != lr) fail_msg("learning rate %g after a skip, %g before", r.lr, lr);
        if (i == 0 && strcmp(precision, "16-mixed") == 0 && r.scale != scale / 2)
            fail_msg("scale %g after an overflow at %g", r.scale, scale);
    }
    inject(NULL);
    session_close(&s);
}

static void gotcha_5_and_7_an_overflow_skips_one_step_and_changes_nothing(void **state)
{
    static const char *const scaled[] = {"16-mixed", "apex(level=O1)", "apex(level=O2)",
                                         "sharded(precision=16)", "deepspeed(precision=16-mixed)"};
    static const char *const passes[] = {
        "optim.schedule=cosine optim.warmup=4 train.max_steps=20",
        "optim.schedule=cosine optim.warmup=4 train.max_steps=20 train.batch=2 train.accumulate=4"};
    char names[MOST_PARAMS][64];
    int n;
    session s;
    (void)state;
    open_with(&s, GPT, "32-true", "");
    names_of(&s, names, &n);
    session_close(&s);
    for (int k = 0; k < n; ++k) /* every parameter; of every fourth, every pass */
        for (int grain = k % 4; grain < 4; grain += k % 4 ? 4 : 1)
            overflow_in("16-mixed", passes[1], names[k], grain, k % 2 ? "inf" : "nan");
    for (size_t i = 0; i < sizeof(scaled) / sizeof(*scaled); ++i)
        overflow_in(scaled[i], passes[i % 2], names[0], (int)i % 4, "-inf");
}

/* Without a scale non-finite gradients end the run by name, and change nothing; train.nonfinite
 * chooses. */
static void gotcha_12_nonfinite_gradients_stop_before_anything_changes(void **state)
{
    static const struct {
        const char *precision, *more;
        bool stops;
    } rows[] = {
        {"32-true", "train.clip=1", true},
        {"bf16-mixed", "train.clip=1", true},
        {"32-true", "train.nonfinite=skip", false},
        {"16-mixed", "train.nonfinite=stop train.clip=1", true},
        {"sharded(precision=16)", "train.nonfinite=stop train.clip=1", true},
        {"fullysharded(precision=16)", "train.nonfinite=stop train.clip=1", true},
        {"apex(level=O3)", "", true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        session s;
        iv_step_report r;
        open_with(&s, GPT, rows[i].precision, rows[i].more);
        advance(&s, 1);
        const prints before = prints_of(&s);
        inject("step=2,grain=1,param=wpe.weight");
        const iv_status st = iv_trainer_step(s.trainer, &r);
        inject(NULL);
        if (st != (rows[i].stops ? IV_NONFINITE : IV_OK))
            fail_msg("%s %s: %s", rows[i].precision, rows[i].more, iv_status_name(st));
        const prints after = prints_of(&s);
        if (!equal(&before, &after)) fail_msg("%s %s: changed", rows[i].precision, rows[i].more);
        session_close(&s);
    }
}

/* Row 3: no loss: nothing is unscaled, counted or scheduled, under any policy. */
static void gotcha_3_a_step_without_targets_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < POLICIES; ++i) {
        session s;
        iv_step_report r;
        int32_t x[8 * 8], y[8 * 8];
        char state_before[256] = "", state_after[256] = "";
        open_with(&s, GPT, policies[i], "");
        advance(&s, 1);
        const iv__precision *p = &s.trainer->precision;
        if (p->vt->save) p->vt->save(p->run, state_before, sizeof(state_before));
        const prints before = prints_of(&s);
        for (int k = 0; k < 64; ++k) x[k] = 97, y[k] = -1;
        WORKS(iv_trainer_step_on(s.trainer, x, y, &r));
        const prints after = prints_of(&s);
        if (p->vt->save) p->vt->save(p->run, state_after, sizeof(state_after));
        if (r.outcome != IV_SKIPPED_NONE || r.step != 1 || !equal(&before, &after) ||
            strcmp(state_before, state_after) != 0)
            fail_msg("%s: outcome %d, step %d, scaler %s then %s", policies[i], r.outcome,
                     (int)r.step, state_before, state_after);
        session_close(&s);
    }
}

/* Row 8: many overflows in a row end the run and name a tensor. */
static void gotcha_8_a_run_of_overflows_ends_by_name(void **state)
{
    session s;
    iv_step_report r;
    int32_t x[8 * 8], y[8 * 8];
    iv_status st = IV_OK;
    int steps = 0;
    (void)state;
    for (int k = 0; k < 64; ++k) x[k] = y[k] = 97;
    open_with(&s, GPT, "16-mixed(init_scale=1e37,min_scale=1e36,window=1000000)",
              "train.max_skips=5");
    while (st == IV_OK && ++steps < 50) st = iv_trainer_step_on(s.trainer, x, y, &r);
    if (st != IV_NONFINITE || steps != 6) fail_msg("%s after %d steps", iv_status_name(st), steps);
    if (!strstr(iv_error_message(), "6 steps in a row") || !strstr(iv_error_message(), "node "))
        fail_msg("\"%s\" names no node", iv_error_message());
    session_close(&s);
    /* DeepSpeed gives up at its lower bound. */
    put_text("ds.json",
             "{\"fp16\": {\"enabled\": true, \"initial_scale_power\": 100, \"hysteresis\": 1, "
             "\"min_loss_scale\": 1e15}, \"zero_optimization\": {\"stage\": 2}}");
    char more[256];
    snprintf(more, sizeof(more), "precision.config=%s", at("ds.json"));
    open_with(&s, GPT, "deepspeed", more);
    for (st = IV_OK, steps = 0; st == IV_OK && ++steps < 200;)
        st = iv_trainer_step_on(s.trainer, x, y, &r);
    if (st != IV_NONFINITE || steps > 60)
        fail_msg("deepspeed: %s after %d steps", iv_status_name(st), steps);
    session_close(&s);
}

/* Row 4: however many parts a step has (passes, devices, parameters with and without decay), the
 * scale moves once. */
static void gotcha_4_the_scale_moves_once_a_step(void **state)
{
    static const char *const cuts[] = {"", "train.batch=2 train.accumulate=4",
                                       "device.devices=cpu:0,cpu:0"};
    static const double want[] = {256, 512, 1024, 512, 1024};
    (void)state;
    for (int i = 0; i < 3; ++i) {
        session s;
        iv_step_report r;
        open_with(&s, GPT, "16-mixed(init_scale=256,window=1)", cuts[i]);
        inject("step=3,grain=3,param=wte.weight");
        for (int k = 0; k < 5; ++k) {
            WORKS(iv_trainer_step(s.trainer, &r));
            if (r.scale != want[k] || (r.outcome == IV_APPLIED) != (k != 2))
                fail_msg("'%s', step %d: scale %g, outcome %d", cuts[i], k + 1, r.scale, r.outcome);
        }
        inject(NULL);
        session_close(&s);
    }
}

static iv_status differentiates(void *spec, iv_graph *g, int64_t batch, bool train,
                                iv_model_io *out)
{
    iv_status s = iv_model_build(spec, g, batch, train, out);
    return s == IV_OK && train ? iv_graph_differentiate(g) : s;
}

/* Row 6: the backward pass is the trainer's, which scales the loss; one of one's own is refused. */
static void gotcha_6_a_backward_pass_of_ones_own_is_refused(void **state)
{
    static const char *const ps[] = {"16-mixed", "32-true"};
    (void)state;
    for (int i = 0; i < 2; ++i) {
        char settings[256];
        session s;
        snprintf(settings, sizeof(settings), "%s precision.name=%s", GPT, ps[i]);
        session_prepare(&s, settings);
        assert_int_equal(iv_trainer_open(s.config, s.data, differentiates, &s.spec, &s.trainer),
                         IV_INVALID);
        if (!strstr(iv_error_message(), "under its loss scale"))
            fail_msg("%s: \"%s\"", ps[i], iv_error_message());
        s.trainer = NULL;
        session_close(&s);
    }
}

/* ---- clipping and norms ---- */

/* Rows 1 and 2: the scale is a power of two and bf16 has f32's range: it must leave no trace, with
 * clipping by norm and by value, in the fused optimizers. */
static void gotcha_1_and_2_clipping_sees_unscaled_gradients(void **state)
{
    static const char *const optims[] = {
        "train.clip=0.05", "train.clip=0.001 train.clip_by=value",
        "train.clip=0.05 optim.name=adam",
        "train.clip=0.05 optim.name=sgd optim.lr=1 optim.weight_decay=0"};
    (void)state;
    for (int i = 0; i < 4; ++i) {
        const prints a = run(GPT, "mixed(low=bf16,scale=65536)", optims[i], 4),
                     b = run(GPT, "mixed(low=bf16,scale=1)", optims[i], 4);
        if (!equal(&a, &b)) fail_msg("%s: the loss scale changes the result", optims[i]);
    }
    /* SGD with rate 1: the update is the clipped gradient. */
    session s;
    int64_t n;
    open_with(&s, GPT, "16-mixed", optims[3]);
    double *before = all_params(&s, false, &n), sum = 0;
    advance(&s, 1);
    double *after = all_params(&s, false, &n);
    for (int64_t k = 0; k < n; ++k) sum += (after[k] - before[k]) * (after[k] - before[k]);
    if (fabs(sqrt(sum) - 0.05) > 1e-6) fail_msg("the clipped norm is %.9g, not 0.05", sqrt(sum));
    free(before);
    free(after);
    session_close(&s);
}

static double norm_of(const double *x, int64_t n, double p)
{
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum = p == 0 ? fmax(sum, fabs(x[i])) : sum + pow(fabs(x[i]), p);
    return p == 0 ? sum : pow(sum, 1 / p);
}

static void norms_of_any_p(void **state)
{
    static const struct {
        const char *text;
        double p;
    } rows[] = {{"2", 2}, {"1", 1}, {"3", 3}, {"0.5", 0.5}, {"inf", 0}};
    static const char *const types[] = {"32-true", "64-true"};
    (void)state;
    for (int i = 0; i < 10; ++i) {
        const double tol = i < 5 ? 1e-5 : 1e-12;
        char more[128];
        session s;
        iv_step_report r;
        int64_t n, at_ = 0;
        double norms[64];
        snprintf(more, sizeof(more), "train.norm=%s train.track_norm=%s train.clip=0.01",
                 rows[i % 5].text, rows[i % 5].text);
        open_with(&s, GPT, types[i / 5], more);
        WORKS(iv_trainer_step(s.trainer, &r));
        double *g = all_params(&s, true, &n), all = norm_of(g, n, rows[i % 5].p);
        if (fabs(r.grad_norm - all) > tol * all)
            fail_msg("%s: norm %.15g, expected %.15g", more, r.grad_norm, all);
        WORKS(iv_trainer_grad_norms(s.trainer, norms));
        for (int64_t k = 0; k < iv_trainer_param_count(s.trainer); ++k) {
            iv_shape shape;
            const char *name = iv_trainer_param_name(s.trainer, k, &shape);
            const double one = norm_of(g + at_, iv_shape_count(&shape), rows[i % 5].p);
            if (fabs(norms[k] - one) > tol * one + 1e-30)
                fail_msg("%s: norm of %s %.15g, expected %.15g", more, name, norms[k], one);
            at_ += iv_shape_count(&shape);
        }
        free(g);
        session_close(&s);
    }
}

static void detect_anomaly_names_the_first_node(void **state)
{
    session s;
    iv_step_report r;
    static float x[8 * IMAGE * IMAGE];
    int32_t y[8] = {0};
    (void)state;
    x[77] = INFINITY;
    open_with(&s, MLP, "32-true", "train.detect_anomaly=true train.nonfinite=skip");
    assert_int_equal(iv_trainer_step_on(s.trainer, x, y, &r), IV_NONFINITE);
    if (!strstr(iv_error_message(), "input")) fail_msg("\"%s\"", iv_error_message());
    for (size_t i = 0; i < sizeof(x) / sizeof(*x); ++i) x[i] = 3e38f;
    assert_int_equal(iv_trainer_step_on(s.trainer, x, y, &r), IV_NONFINITE);
    if (!strstr(iv_error_message(), "node ")) fail_msg("\"%s\"", iv_error_message());
    session_close(&s);
    const prints a = run(GPT, "bf16-mixed", "train.detect_anomaly=true", 3),
                 b = run(GPT, "bf16-mixed", "", 3);
    assert_true(equal(&a, &b));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selection_follows_the_table),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(gotcha_5_and_7_an_overflow_skips_one_step_and_changes_nothing),
        cmocka_unit_test(gotcha_12_nonfinite_gradients_stop_before_anything_changes),
        cmocka_unit_test(gotcha_3_a_step_without_targets_changes_nothing),
        cmocka_unit_test(gotcha_4_the_scale_moves_once_a_step),
        cmocka_unit_test(gotcha_6_a_backward_pass_of_ones_own_is_refused),
        cmocka_unit_test(gotcha_8_a_run_of_overflows_ends_by_name),
        cmocka_unit_test(gotcha_1_and_2_clipping_sees_unscaled_gradients),
        cmocka_unit_test(norms_of_any_p),
        cmocka_unit_test(detect_anomaly_names_the_first_node),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
