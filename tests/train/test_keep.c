/* test_keep.c: which checkpoints a run writes and keeps, and where it starts from: when a save is
 * due, the best k, `last`, resuming auto, last, best and a path, weights only, saves of failing
 * runs; all of it with the plugins safetensors, async and sharded, and with the bits of a run that
 * never stopped. */
#include "session.h"

#include <dirent.h>
#include <math.h>

#define GPT                                                                                        \
    "model.layers=1 model.heads=2 model.width=16 model.context=8 train.batch=4 eval.batches=2 "
#define CNN "model.name=cnn model.channels=2 train.batch=4 eval.batches=2 "

/* ---- a run ---- */
typedef struct told {
    int64_t saves[64];
    int n, stop_after; /* stop_after: step, 0 never */
    int64_t step;
    double val_loss[64]; /* by step */
} told;

static void on_step(void *ctx, const iv_step_report *r)
{
    ((told *)ctx)->step = r->step;
}

static void on_eval(void *ctx, int64_t step, double loss, double accuracy)
{
    (void)accuracy;
    ((told *)ctx)->val_loss[step % 64] = loss;
}

/* What was told is there, and `last` names it. */
static void on_save(void *ctx, int64_t step, const char *path)
{
    told *t = ctx;
    char last[600], line[128] = "";
    t->saves[t->n++] = step;
    assert_int_equal(access(path, F_OK), 0);
    snprintf(last, sizeof(last), "%.*s/last", (int)(strrchr(path, '/') - path), path);
    FILE *f = fopen(last, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof(line), f));
    fclose(f);
    line[strcspn(line, "\n")] = 0;
    assert_string_equal(line, strrchr(path, '/') + 1);
}

static int stop(void *ctx)
{
    const told *t = ctx;
    return t->stop_after > 0 && t->step >= t->stop_after;
}

static iv_status fit(const char *settings, told *t, iv_fit_result *r)
{
    session s;
    told none = {0};
    iv_fit_result unused;
    session_open(&s, settings);
    if (!t) t = &none;
    const iv_fit_callbacks cb = {t, on_step, on_eval, on_save, stop};
    iv_status status = iv_trainer_fit(s.trainer, &cb, r ? r : &unused);
    session_close(&s);
    return status;
}

/* Settings with an --out folder. */
static const char *in(const char *dir, const char *settings)
{
    static char text[4][1024];
    static int next;
    char *p = text[next++ % 4];
    snprintf(p, sizeof(text[0]), "%s out.dir=%s", settings, at(dir));
    return p;
}

/* The steps of the checkpoints in a folder, as text: "2 4 last". */
static const char *listed(const char *dir)
{
    static char text[512];
    char path[600];
    long long steps[64];
    int n = 0, last = 0;
    text[0] = 0;
    snprintf(path, sizeof(path), "%s/checkpoints", at(dir));
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        long long step;
        if (sscanf(e->d_name, "step-%lld", &step) == 1) steps[n++] = step;
        else if (strcmp(e->d_name, "last") == 0) last = 1;
        else if (e->d_name[0] != '.' || e->d_name[1] == 's') fail_msg("%s is there", e->d_name);
    }
    if (d) closedir(d);
    for (int i = 1; i < n; ++i)
        for (int k = i; k > 0 && steps[k - 1] > steps[k]; --k) {
            const long long swap = steps[k];
            steps[k] = steps[k - 1];
            steps[k - 1] = swap;
        }
    for (int i = 0; i < n; ++i) sprintf(text + strlen(text), "%lld ", steps[i]);
    return strcat(text, last ? "last" : "");
}

static void same_result(const iv_fit_result *a, const iv_fit_result *b)
{
    assert_string_equal(a->hash, b->hash);
    assert_string_equal(a->state_hash, b->state_hash);
}

static const char *const plugins[] = {"safetensors", "async", "sharded", "hpu"};

/* Stopped and resumed, with every plugin, and read by another one than wrote it. */
static void test_resume(void **state)
{
    (void)state;
    iv_fit_result good, r;
    WORKS(fit(GPT "train.max_steps=9", NULL, &good));
    for (int i = 0; i < 4; ++i) {
        char dir[32], settings[256];
        told t = {.stop_after = 5};
        snprintf(dir, sizeof(dir), "resume%d", i);
        snprintf(settings, sizeof(settings),
                 GPT "train.max_steps=9 out.save_every=2 out.checkpoint=%s", plugins[i]);
        FAILS(IV_INTERRUPTED, "step-000000000005", fit(in(dir, settings), &t, &r));
        assert_int_equal(t.n, 3);
        assert_string_equal(listed(dir), "2 4 5 last");
        snprintf(settings, sizeof(settings),
                 GPT "train.max_steps=9 out.save_every=2 out.resume=auto out.checkpoint=%s",
                 plugins[(i + 1) % 4]);
        t = (told){0};
        WORKS(fit(in(dir, settings), &t, &r));
        same_result(&r, &good);
        assert_string_equal(listed(dir), "2 4 5 6 8 9 last");
        assert_int_equal(t.n, 3);
    }
}

static void test_named_by_plugins(void **state)
{
    (void)state;
    told t = {0};
    WORKS(fit(in("named", GPT "train.max_steps=2 plugins=sharded"), &t, NULL));
    assert_int_equal(access(at("named/checkpoints/step-000000000002/manifest.safetensors"), F_OK),
                     0);
    WORKS(fit(in("named2", GPT "train.max_steps=2 plugins=sharded out.checkpoint=safetensors"), &t,
              NULL));
    assert_int_equal(access(at("named2/checkpoints/step-000000000002.safetensors"), F_OK), 0);
}

static void test_best(void **state)
{
    (void)state;
    for (int i = 0; i < 2; ++i)
        for (int mode = 0; mode < 2; ++mode) { /* the lowest, then the greatest */
            char dir[32], settings[512], expected[64] = "";
            told t = {0};
            snprintf(dir, sizeof(dir), "best%d-%d", i, mode);
            snprintf(settings, sizeof(settings),
                     GPT "train.max_steps=10 optim.lr=0.5 eval.every=1 out.save_every=1 "
                         "out.save_top_k=3 out.checkpoint=%s out.monitor_mode=%s",
                     plugins[i], mode ? "max" : "min");
            WORKS(fit(in(dir, settings), &t, NULL));
            /* The two best at every moment, and the newest. */
            bool there[11] = {false};
            int best = 0;
            for (int n = 1, kept = 0; n <= 10; ++n) {
                there[n] = true;
                if (best == 0 ||
                    (mode ? t.val_loss[n] > t.val_loss[best] : t.val_loss[n] < t.val_loss[best]))
                    best = n;
                if (++kept <= 3) continue;
                int worst = 0;
                for (int k = 1; k < n; ++k)
                    if (there[k] && (worst == 0 || (mode ? t.val_loss[k] <= t.val_loss[worst]
                                                         : t.val_loss[k] >= t.val_loss[worst])))
                        worst = k;
                there[worst] = false;
                --kept;
            }
            for (int n = 1; n <= 10; ++n)
                if (there[n]) sprintf(expected + strlen(expected), "%d ", n);
            strcat(expected, "last");
            assert_string_equal(listed(dir), expected);
            /* Resuming from the best: the next step is the one after it. */
            strcat(settings, " out.resume=best train.max_steps=20");
            told after = {.stop_after = 1};
            FAILS(IV_INTERRUPTED, "stopped", fit(in(dir, settings), &after, NULL));
            assert_int_equal(after.step, best + 1);
        }
}

/* After a resume from an older one, auto goes on from there, not from the greater step. */
static void test_branch(void **state)
{
    (void)state;
    iv_fit_result r, good;
    char settings[1024];
    WORKS(fit(in("branch", GPT "train.max_steps=8 out.save_every=2"), NULL, &good));
    told t = {.stop_after = 3};
    snprintf(settings, sizeof(settings), GPT "train.max_steps=8 out.save_every=2 out.resume=%s",
             at("branch/checkpoints/step-000000000002.safetensors"));
    FAILS(IV_INTERRUPTED, "stopped", fit(in("branch", settings), &t, NULL));
    assert_string_equal(listed("branch"), "2 3 4 6 8 last");
    for (int i = 0; i < 2; ++i) {
        t = (told){.stop_after = 1};
        FAILS(IV_INTERRUPTED, "stopped",
              fit(in("branch", i ? GPT "train.max_steps=8 out.save_every=9 out.resume=last"
                                 : GPT "train.max_steps=8 out.save_every=9 out.resume=auto"),
                  &t, NULL));
        assert_int_equal(t.step, 4 + i);
    }
    WORKS(fit(in("branch", GPT "train.max_steps=8 out.save_every=2 out.resume=auto"), NULL, &r));
    same_result(&r, &good);
}

/* What is not there, and what was cut. */
static void test_refused(void **state)
{
    (void)state;
    iv_fit_result r, good;
    FAILS(IV_INVALID, "--resume last", fit(in("none", GPT "out.resume=last"), NULL, NULL));
    FAILS(IV_INVALID, "--resume best", fit(in("none", GPT "out.resume=best"), NULL, NULL));
    FAILS(IV_INVALID, "needs --out", fit(GPT "out.resume=auto", NULL, NULL));
    FAILS(IV_INVALID, "--save-every-time",
          fit(in("none", GPT "out.save_every_time=often"), NULL, NULL));
    WORKS(fit(in("cut", GPT "train.max_steps=4 out.save_every=2"), NULL, &good));
    FAILS(IV_INVALID, "holds the checkpoints", fit(in("cut", GPT), NULL, NULL));
    assert_int_equal(truncate(at("cut/checkpoints/step-000000000004.safetensors"), 1000), 0);
    FAILS(IV_CORRUPT, "step-000000000004", fit(in("cut", GPT "out.resume=last"), NULL, NULL));
    WORKS(fit(in("cut", GPT "train.max_steps=4 out.resume=auto"), NULL, &r));
    same_result(&r, &good);
}

static void test_weights_only(void **state)
{
    (void)state;
    char settings[1024];
    iv_fit_result r;
    WORKS(fit(in("weights", GPT "train.max_steps=2 out.save_weights_only=true"), NULL, &r));
    FAILS(IV_INVALID, "weights only", fit(in("weights", GPT "out.resume=auto"), NULL, NULL));
    snprintf(settings, sizeof(settings), GPT "model.init=%s",
             at("weights/checkpoints/step-000000000002.safetensors"));
    session s;
    char hash[33];
    session_open(&s, settings);
    WORKS(iv_trainer_hash(s.trainer, false, hash));
    assert_string_equal(hash, r.hash);
    session_close(&s);
}

static void test_epochs_and_time(void **state)
{
    (void)state;
    told t = {0};
    /* 60 images in batches of 4: 15 steps an epoch */
    WORKS(fit(in("epochs", CNN "train.max_steps=46 out.save_every_epochs=1"), &t, NULL));
    assert_string_equal(listed("epochs"), "15 30 45 46 last");
    t = (told){0};
    WORKS(fit(in("time", CNN "train.max_steps=4 out.save_every_time=0.000001"), &t, NULL));
    assert_string_equal(listed("time"), "1 2 3 4 last");
    t = (told){0};
    WORKS(fit(in("time2", CNN "train.max_steps=4 out.save_every_time=2h"), &t, NULL));
    assert_string_equal(listed("time2"), "4 last");
}

/* The checkpoint that a run started from stays, however bad it is. */
static void test_resumed_stays(void **state)
{
    (void)state;
    WORKS(fit(in("stays", GPT "train.max_steps=2 out.save_every=2 eval.every=1"), NULL, NULL));
    WORKS(fit(in("stays", GPT "train.max_steps=8 out.save_every=1 eval.every=1 out.save_top_k=1 "
                              "out.resume=auto"),
              NULL, NULL));
    assert_string_equal(listed("stays"), "2 8 last");
}

static void test_exception(void **state)
{
    (void)state;
    for (int i = 0; i < 2; ++i) {
        char dir[32], settings[256];
        told t = {0};
        snprintf(dir, sizeof(dir), "fails%d", i);
        snprintf(settings, sizeof(settings),
                 GPT "optim.name=sgd optim.lr=1e30 train.max_steps=50 out.save_on_exception=%s",
                 i ? "false" : "true");
        FAILS(IV_NONFINITE, "training step", fit(in(dir, settings), &t, NULL));
        char expected[32];
        snprintf(expected, sizeof(expected), "%d last", (int)t.step);
        assert_string_equal(listed(dir), i ? "" : expected);
    }
}

/* A save that fails ends the run with its path, once, also when it was asynchronous; what was saved
 * before stays. */
static void test_failing_saves(void **state)
{
    (void)state;
    for (int i = 0; i < 3; ++i) {
        char dir[32], settings[256], wall[256];
        told t = {0};
        snprintf(dir, sizeof(dir), "blocked%d", i);
        snprintf(settings, sizeof(settings),
                 GPT "train.max_steps=2 out.save_every=2 out.checkpoint=%s", plugins[i]);
        WORKS(fit(in(dir, settings), NULL, NULL));
        /* Something else stands where the fourth step's checkpoint should go. */
        snprintf(wall, sizeof(wall), "%s/checkpoints/step-000000000004%s", dir,
                 i == 2 ? "" : ".safetensors");
        if (i == 2) put(wall, "x", 1);
        else assert_int_equal(mkdir(at(wall), 0777), 0);
        snprintf(settings, sizeof(settings),
                 GPT "train.max_steps=400 out.save_every=2 out.resume=last out.save_top_k=1 "
                     "out.checkpoint=%s",
                 plugins[i]);
        FAILS(IV_INVALID, "step-000000000004", fit(in(dir, settings), &t, NULL));
        /* An asynchronous one is known a step later, whose state is saved then. */
        assert_true(t.n == (i == 1 && t.step > 4));
        WORKS(fit(in(dir, GPT "train.max_steps=6 out.resume=last"), NULL, NULL));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_named_by_plugins),
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_branch),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_weights_only),
        cmocka_unit_test(test_epochs_and_time),
        cmocka_unit_test(test_resumed_stays),
        cmocka_unit_test(test_exception),
        cmocka_unit_test(test_failing_saves),
    };
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
