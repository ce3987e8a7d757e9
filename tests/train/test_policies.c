/* test_policies.c: precision policies: going on from checkpoints, 16-bit parameters, lists of
 * operators, DeepSpeed's files.  Names as in test_precision.c. */
#include "train/policies.h"

#include "../precision/oplists.h"

/* ---- going on ---- */

static void gotcha_9_every_policy_resumes_with_the_same_bits(void **state)
{
    (void)state;
    for (int i = 0; i < POLICIES; ++i) {
        /* A window of 2 moves the scale on both sides of the stop. */
        const char *const bases[2] = {GPT "optim.schedule=cosine ",
                                      MLP "model.dropout=0.1 optim.name=adam "};
        const char *base = bases[i % 2];
        session s;
        const prints whole = run(base, policies[i], "", 6);
        open_with(&s, base, policies[i], "");
        advance(&s, 3);
        WORKS(iv_trainer_save(s.trainer, at("half.safetensors")));
        session_close(&s);
        open_with(&s, base, policies[i], "");
        WORKS(iv_trainer_load(s.trainer, at("half.safetensors")));
        advance(&s, 3);
        const prints both = prints_of(&s);
        session_close(&s);
        if (!equal(&whole, &both)) fail_msg("%s: another hash after a resume", policies[i]);
    }
}

/* In passes, and over devices: sums over samples keep the full type until all are there. */
static void every_policy_has_the_same_bits_however_a_step_is_cut(void **state)
{
    static const char *const cuts[] = {
        "train.batch=2 train.accumulate=4", "device.devices=cpu:0,cpu:0,cpu:0",
        "train.batch=4 train.accumulate=2 device.devices=cpu:0,cpu:0"};
    static const char *const bases[] = {
        GPT, MLP "train.grains=4 ",
        "numerics.mode=invariant device.threads=1 train.batch=8 train.grains=4 model.name=cnn "
        "model.channels=4 model.norm=batch "};
    (void)state;
    for (int i = 0; i < POLICIES; ++i)
        for (int b = 0; b < 2; ++b) { /* every policy: a GPT, and one of the others */
            const char *base = bases[b ? 1 + i % 2 : 0];
            const prints whole = run(base, policies[i], "", 3),
                         cut = run(base, policies[i], cuts[(i + b) % 3], 3);
            if (!equal(&whole, &cut))
                fail_msg("%s, %.60s: another hash with %s", policies[i], base, cuts[(i + b) % 3]);
        }
}

/* The scaler's own state takes part: a small window, and an overflow before the stop. */
static void scaler_state_resumes(void **state)
{
    static const char *const scaled[] = {
        "16-mixed(window=3)", "mixed(scaler=apex,window=3)", "mixed(scaler=zero,window=3)",
        "mixed(scaler=fused,window=3)", "mixed(scaler=hysteresis,window=3)"};
    (void)state;
    for (size_t i = 0; i < sizeof(scaled) / sizeof(*scaled); ++i) {
        double want[6], got[6];
        session s;
        iv_step_report r;
        inject("step=2,grain=0,param=wte.weight");
        for (int half = 0; half < 2; ++half) {
            double *scales = half ? got : want;
            open_with(&s, GPT, scaled[i], "");
            for (int k = 0; k < 6; ++k) {
                if (half && k == 3) {
                    WORKS(iv_trainer_save(s.trainer, at("s.safetensors")));
                    session_close(&s);
                    open_with(&s, GPT, scaled[i], "");
                    WORKS(iv_trainer_load(s.trainer, at("s.safetensors")));
                }
                WORKS(iv_trainer_step(s.trainer, &r));
                scales[k] = r.scale;
            }
            session_close(&s);
        }
        inject(NULL);
        for (int k = 0; k < 6; ++k)
            if (want[k] != got[k])
                fail_msg("%s: scale %g in step %d after a resume, %g without", scaled[i], got[k], k,
                         want[k]);
    }
}

static char logged[1024];
static void keep_log(void *ctx, iv_log_level level, const char *line)
{
    (void)ctx, (void)level;
    if (strstr(line, "changes from")) snprintf(logged, sizeof(logged), "%s", line);
}

/* Row 10: another precision goes on from the file, and says what it keeps. */
static void gotcha_10_a_change_of_precision_is_converted_and_told(void **state)
{
    static const char *const ps[] = {"32-true",
                                     "64-true",
                                     "16-mixed",
                                     "bf16-mixed",
                                     "apex(level=O2)",
                                     "bf16-true",
                                     "16-true",
                                     "deepspeed(precision=16-mixed)",
                                     "fp8"};
    enum { N = sizeof(ps) / sizeof(*ps) };
    (void)state;
    iv_log_set(IV_LOG_INFO, keep_log, NULL);
    for (int a = 0; a < N; ++a) {
        session s;
        int64_t n;
        open_with(&s, GPT, ps[a], "");
        advance(&s, 2);
        WORKS(iv_trainer_save(s.trainer, at("a.safetensors")));
        double *was = all_params(&s, false, &n);
        session_close(&s);
        for (int b = 0; b < N; ++b) {
            iv_step_report r;
            logged[0] = 0;
            open_with(&s, GPT, ps[b], "");
            WORKS(iv_trainer_load(s.trainer, at("a.safetensors")));
            double *is = all_params(&s, false, &n);
            const double unit = b == 5 ? 0x1p-8 : b == 6 ? 0x1p-11 : b == 1 ? 0 : 0x1p-24;
            for (int64_t k = 0; k < n; ++k)
                if (fabs(is[k] - was[k]) > unit * fabs(was[k]) + (b == 6 ? 0x1p-24 : 0))
                    fail_msg("%s to %s: parameter %g became %g", ps[a], ps[b], was[k], is[k]);
            free(is);
            if ((a != b) != (logged[0] != 0))
                fail_msg("%s to %s: log \"%s\"", ps[a], ps[b], logged);
            const bool from = a == 2 || a == 4 || a == 7, to = b == 2 || b == 4 || b == 7;
            if (a != b && from && to && !strstr(logged, "goes on, loss scale 65536"))
                fail_msg("%s to %s: \"%s\"", ps[a], ps[b], logged);
            if (a != b && (from || a == 8) && !(from && to) && !strstr(logged, "dropped"))
                fail_msg("%s to %s: \"%s\"", ps[a], ps[b], logged);
            WORKS(iv_trainer_step(s.trainer, &r));
            assert_int_equal(r.step, 3);
            session_close(&s);
        }
        free(was);
    }
    iv_log_set(IV_LOG_INFO, NULL, NULL);
}

/* Row 11: passes without gradients (validation) leave no trace in what training sees. */
static void gotcha_11_validation_changes_no_training_step(void **state)
{
    static const char *const ps[] = {"16-mixed", "bf16-mixed", "bf16-true", "apex(level=O1)"};
    (void)state;
    for (int i = 0; i < 4; ++i) {
        session s;
        double loss, accuracy;
        const prints plain = run(GPT, ps[i], "", 4);
        open_with(&s, GPT, ps[i], "");
        for (int k = 0; k < 4; ++k) {
            WORKS(iv_trainer_evaluate(s.trainer, &loss, &accuracy));
            advance(&s, 1);
        }
        const prints with = prints_of(&s);
        session_close(&s);
        if (!equal(&plain, &with)) fail_msg("%s: validation changes the run", ps[i]);
    }
}

/* ---- 16-bit parameters ---- */

static void train_norm_weight(const char *precision, double out[3])
{
    session s;
    iv_step_report r;
    int64_t n = 0;
    open_with(&s, GPT, precision, "optim.lr=1e-4");
    out[1] = out[2] = 0;
    for (int i = 0; i < 40; ++i) {
        WORKS(iv_trainer_step(s.trainer, &r));
        out[1] += r.lost_updates / 40;
    }
    double *w = malloc(16 * sizeof(*w));
    assert_non_null(w);
    WORKS(iv_trainer_param_read(s.trainer, param_index(&s, "ln_f.weight", &n), false, w));
    for (int64_t i = 0; i < n; ++i) out[2] += w[i] != 1;
    out[0] = (double)n;
    free(w);
    session_close(&s);
}

/* Row 13: at 1.0 an update of 1e-4 is below half a unit of bf16: all are lost and reported; masters
 * and stochastic rounding keep them. */
static void gotcha_13_lost_updates_are_reported_and_avoidable(void **state)
{
    double plain[3], masters[3], random[3];
    (void)state;
    train_norm_weight("bf16-true", plain);
    train_norm_weight("bf16-true(masters=true)", masters);
    train_norm_weight("bf16-true(rounding=stochastic)", random);
    if (plain[2] != 0) fail_msg("%g of %g weights moved", plain[2], plain[0]);
    if (!(plain[1] > 0.05)) fail_msg("share of lost updates %g", plain[1]);
    if (masters[1] >= 0) fail_msg("masters lose %g", masters[1]);
    if (!(random[2] > 0))
        fail_msg("stochastic rounding moved no weight, unchanged %g of %g", random[1], random[0]);
    const prints a = run(GPT, "bf16-true(rounding=stochastic)", "", 4),
                 b = run(GPT, "bf16-true(rounding=stochastic)", "", 4),
                 c = run(GPT, "bf16-true(rounding=stochastic)", "device.threads=2", 4),
                 d = run(GPT, "bf16-true", "", 4);
    assert_true(equal(&a, &b));
    assert_true(equal(&a, &c));
    assert_false(equal(&a, &d));
}

/* Row 14: f64 belongs to its run: neither an end nor a refused opening leaves it behind. */
static void gotcha_14_types_do_not_leak_from_run_to_run(void **state)
{
    const prints before = run(GPT, "32-true", "", 2);
    session s;
    (void)state;
    open_with(&s, GPT, "64-true", "");
    const prints meanwhile = run(GPT, "32-true", "", 2);
    advance(&s, 1);
    session_close(&s);
    refuses(GPT, "64-true", "train.norm=-1", "train.norm");
    const prints after = run(GPT, "32-true", "", 2);
    assert_true(equal(&before, &meanwhile));
    assert_true(equal(&before, &after));
}

/* ---- lists of operators ---- */

/* Row 33: f32 converts nothing; lists are checked. */
static void gotcha_33_hpu_lists_are_validated(void **state)
{
    const prints f32 = run(GPT, "32-true", "", 2), hpu = run(GPT, "hpu(precision=32)", "", 2);
    char more[512];
    (void)state;
    assert_true(equal(&f32, &hpu));
    put_text("bf16.txt", "addmm\nconv2d\nmax_pool2d\nsum\nrelu\nmm\nbmm\nmv\nlinear\nt\n");
    put_text("fp32.txt", "log_softmax\nnll_loss  # the loss\n\ncross_entropy\n");
    put_text("unknown.txt", "linear\nlinaer\n");
    put_text("both.txt", "nll_loss\nrelu\n");
    snprintf(more, sizeof(more), "precision.bf16_file=%s precision.fp32_file=%s", at("bf16.txt"),
             at("fp32.txt"));
    const prints lists = run(GPT, "hpu", more, 2), o2 = run(GPT, "hpu", "", 2);
    assert_false(equal(&lists, &f32));
    assert_false(equal(&lists, &o2));
    snprintf(more, sizeof(more), "precision.bf16_file=%s", at("unknown.txt"));
    refuses(GPT, "hpu", more, "line 2: there is no operator 'linaer'");
    snprintf(more, sizeof(more), "precision.bf16_file=%s precision.fp32_file=%s", at("bf16.txt"),
             at("both.txt"));
    refuses(GPT, "hpu", more, "'relu' stands in");
    refuses(GPT, "hpu", "precision.bf16_file=nowhere", "nowhere");
    snprintf(more, sizeof(more), "precision.bf16_file=%s", at("bf16.txt"));
    refuses(GPT, "hpu(level=O2)", more, "level=O1");
}

static void deepspeed_files_are_read_and_refused(void **state)
{
    static const struct {
        const char *json, *precision, *part;
    } rows[] = {
        {"{\"fp16\":{\"enabled\":true},\"bf16\":{\"enabled\":true}}", "deepspeed", "both"},
        {"{\"fp16\":{\"enabled\":true,\"enabled\":false}}", "deepspeed", "twice"},
        {"{\"amp\":{\"enabled\":true},\"zero_optimization\":{\"stage\":1}}", "deepspeed", "amp"},
        {"{\"amp\":{\"enabled\":true},\"fp16\":{\"enabled\":true}}", "deepspeed", "amp"},
        {"{\"zero_optimization\":{\"stage\":4}}", "deepspeed", "stage"},
        {"{\"communication_data_type\":\"int8\"}", "deepspeed", "communication_data_type"},
        {"{\"fp16\":{\"enabled\":true,\"loss_scale\":\"big\"}}", "deepspeed", "loss_scale"},
        {"{\"fp16\":{\"enabled\":true,\"fp16_master_weights_and_grads\":true}}", "deepspeed",
         "fp16_master"},
        {"{\"bf16\":{\"enabled\":true}}", "deepspeed(precision=16-mixed)", "another type"},
        {"[1, 2]", "deepspeed", "not a JSON object"},
        {"{\"fp16\":", "deepspeed", "not a JSON object"},
        {"{}", "deepspeed(precision=8)", "8"},
    };
    static const struct {
        const char *json;
        double scale;
    } good[] = {
        {"{\"fp16\":{\"enabled\":true}}", 65536}, /* fused: no zero_optimization */
        {"{\"fp16\":{\"enabled\":true},\"zero_optimization\":{\"stage\":2}}", 4294967296.0},
        {"{\"fp16\":{\"enabled\":true,\"hysteresis\":2},\"zero_optimization\":{\"stage\":2}}",
         65536},
        {"{\"fp16\":{\"enabled\":true,\"initial_scale_power\":8}}", 256},
        {"{\"fp16\":{\"enabled\":true,\"loss_scale\":32}}", 32},
        {"{\"bfloat16\":{\"enabled\":true},\"gradient_clipping\":0.5}", 1},
    };
    char more[256];
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        put_text("c.json", rows[i].json);
        snprintf(more, sizeof(more), "precision.config=%s", at("c.json"));
        refuses(MLP, rows[i].precision, more, rows[i].part);
    }
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); ++i) {
        session s;
        put_text("c.json", good[i].json);
        snprintf(more, sizeof(more), "precision.config=%s", at("c.json"));
        open_with(&s, MLP, "deepspeed", more);
        const double scale = iv__precision_scale(&s.trainer->precision);
        if (scale != good[i].scale) fail_msg("%s: scale %g", good[i].json, scale);
        session_close(&s);
    }
    put_text("c.json", "{\"fp16\":{\"enabled\":false},\"gradient_clipping\":0.05}");
    snprintf(more, sizeof(more), "precision.config=%s", at("c.json"));
    const prints a = run(GPT, "deepspeed", more, 2), b = run(GPT, "32-true", "train.clip=0.05", 2);
    assert_true(equal(&a, &b));
}

static void lists_give_other_types(void **state)
{
    static const char *const lists[] = {"default", "cuda", "cpu", "hpu", "hpu-o2", "apex", "true"};
    char spec[64], *text;
    (void)state;
    for (int i = 0; i < 7; ++i) {
        snprintf(spec, sizeof(spec), "bf16-mixed(ops=%s)", lists[i]);
        const prints p = run(GPT, spec, "", 2); /* every list trains */
        (void)p;
        WORKS(iv_precision_text(spec, &text));
        char *full = strstr(text, "in f32:"), *end = full ? strchr(full, '\n') : NULL;
        assert_non_null(end);
        *end = 0;
        const bool softmax = strstr(full, " softmax") != NULL;
        if (softmax != (i == 0 || i == 1 || i == 4 || i == 5))
            fail_msg("list %s: softmax is%s in f32", lists[i], softmax ? "" : " not");
        free(text);
    }
}

/* Operators of ours that stand in the lists of the originals: in the low type, in f32. */
static void lists_are_those_of_the_originals(void **state)
{
    static const struct {
        const char *list, *low, *full, *widest;
    } rows[] = {
        {"cuda", "matmul conv2d attention",
         "cross_entropy_rows softmax log_softmax layernorm sum exp log pow rsqrt",
         "add sub mul div maximum minimum concat"},
        {"cpu", "matmul conv2d attention", "cross_entropy_rows",
         "add sub mul div maximum minimum concat"},
        {"hpu", "matmul conv2d attention softmax log_softmax layernorm batchnorm dropout mul",
         "cross_entropy_rows embedding exp log pow div", "add sub maximum minimum concat"},
        {"apex", "matmul conv2d attention",
         "cross_entropy_rows softmax log_softmax layernorm gelu sum exp log pow rsqrt",
         "add sub mul div maximum minimum concat"},
    };
    static const char *const own[] = {"rmsnorm", "gelu_tanh"}; /* as layernorm, as gelu */
    char *text;
    (void)state;
    WORKS(iv_precision_text("mixed", &text));
    if (!strstr(text, "ops=               cuda   cpu    hpu    hpu-o2 apex   true\n"))
        fail_msg("there is no table in \"%s\"", text);
    if (!strstr(text, "options: low, ops, scale,")) fail_msg("no options in \"%s\"", text);
    free(text);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        const iv__oplist list = iv__oplist_find(rows[i].list);
        int counts[IV_CAST_CLASS_COUNT] = {0};
        for (int k = 0; k < 3; ++k) {
            static const iv_cast_class classes[] = {IV_CAST_LOWER, IV_CAST_F32, IV_CAST_WIDEST};
            char names[256], *rest = names, *name;
            snprintf(names, sizeof(names), "%s",
                     k == 0   ? rows[i].low
                     : k == 1 ? rows[i].full
                              : rows[i].widest);
            for (; (name = strsep(&rest, " ")); ++counts[classes[k]])
                if (iv__oplist_class(list, name, IV_CAST_KEEP) != classes[k])
                    fail_msg("list %s: %s is in class %d, expected %d", rows[i].list, name,
                             iv__oplist_class(list, name, IV_CAST_KEEP), classes[k]);
        }
        int found[IV_CAST_CLASS_COUNT] = {0};
        for (int op = 0; op < IV_OP_COUNT; ++op)
            if (iv__oplist_row(iv__ops[op].name) >= 0 && !strstr(iv__ops[op].name, "grad") &&
                !strstr(iv__ops[op].name, "running") && strcmp(iv__ops[op].name, own[0]) != 0 &&
                strcmp(iv__ops[op].name, own[1]) != 0)
                ++found[iv__oplist_class(list, iv__ops[op].name, IV_CAST_KEEP)];
        for (int c = 0; c < IV_CAST_CLASS_COUNT; ++c)
            if (c != IV_CAST_KEEP && found[c] != counts[c])
                fail_msg("list %s: %d operators in class %d, expected %d", rows[i].list, found[c],
                         c, counts[c]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gotcha_9_every_policy_resumes_with_the_same_bits),
        cmocka_unit_test(every_policy_has_the_same_bits_however_a_step_is_cut),
        cmocka_unit_test(scaler_state_resumes),
        cmocka_unit_test(gotcha_10_a_change_of_precision_is_converted_and_told),
        cmocka_unit_test(gotcha_11_validation_changes_no_training_step),
        cmocka_unit_test(gotcha_13_lost_updates_are_reported_and_avoidable),
        cmocka_unit_test(gotcha_14_types_do_not_leak_from_run_to_run),
        cmocka_unit_test(gotcha_33_hpu_lists_are_validated),
        cmocka_unit_test(deepspeed_files_are_read_and_refused),
        cmocka_unit_test(lists_give_other_types),
        cmocka_unit_test(lists_are_those_of_the_originals),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
