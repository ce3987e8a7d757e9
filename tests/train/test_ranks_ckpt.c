/* test_ranks_ckpt.c: checkpoints of several ranks: saved by 1 to 4 of them and loaded by 1 to 4,
 * the run ends 20 steps later with the bits of one that never stopped; written together (sharded)
 * and by rank 0 (safetensors), at once and asynchronously; by other strategies; and a rank that
 * cannot save ends all of them. */
#include "train/session.h"

#include "cluster/ranks.h"

#define MODEL                                                                                      \
    "model.layers=1 model.heads=2 model.width=16 model.context=8 train.batch=12 train.grains=12 "  \
    "numerics.mode=invariant device.threads=1 eval.batches=1 cluster.timeout=60 "

typedef struct job {
    const char *settings;
} job;

static int train(int rank, int n, int port, const void *arg, char *text)
{
    const job *j = arg;
    session s;
    iv_fit_result r;
    ranks_environment(rank, n, port);
    session_prepare(&s, j->settings);
    iv_status status = iv_trainer_open(s.config, s.data, iv_model_build, &s.spec, &s.trainer);
    if (status == IV_OK) status = iv_trainer_fit(s.trainer, NULL, &r);
    if (status == IV_OK) snprintf(text, RANK_TEXT, "%s %s", r.hash, r.state_hash);
    else snprintf(text, RANK_TEXT, "%s", iv_error_message());
    session_close(&s);
    return (int)status;
}

static void run_on(int n, const char *settings, ranks *r)
{
    job j = {settings};
    ranks_start(r, n, train, &j);
    for (int i = 0; i < n; ++i) ranks_collect(r, i);
}

/* All ranks end with this text; *want "" takes that of rank 0. */
static void all_give(const ranks *r, const char *what, char *want)
{
    for (int i = 0; i < r->n; ++i) {
        if (rank_exit(r, i) != 0) fail_msg("%s, rank %d of %d: %s", what, i, r->n, r->text[i]);
        if (!*want) strcpy(want, r->text[i]);
        if (strcmp(r->text[i], want) != 0)
            fail_msg("%s, rank %d of %d\n  gave %s\n  not  %s", what, i, r->n, r->text[i], want);
    }
}

static char good[RANK_TEXT];

static void alone(void)
{
    ranks r;
    if (*good) return;
    run_on(1, MODEL "train.max_steps=25", &r);
    all_give(&r, "alone", good);
}

/* The strategies on both sides are settings, or "". */
static void save_and_load_as(const char *plugin, int from, const char *strategy, int to,
                             const char *other)
{
    char settings[1024], what[128], dir[64], copy[700];
    char none[RANK_TEXT] = "";
    ranks r;
    snprintf(dir, sizeof(dir), "%.7s%d%zu", plugin, from, strlen(strategy));
    snprintf(what, sizeof(what), "%s, saved by %d%s, loaded by %d%s", plugin, from, strategy, to,
             other);
    if (access(at(dir), F_OK) != 0) {
        snprintf(settings, sizeof(settings),
                 MODEL "train.max_steps=5 out.save_every=2 out.save_top_k=2 out.checkpoint=%s "
                       "out.dir=%s%s",
                 plugin, at(dir), strategy);
        run_on(from, settings, &r);
        all_give(&r, what, none);
    }
    snprintf(copy, sizeof(copy), "rm -rf '%s' && cp -r '%s' '%s'", at("copy"), at(dir), at("copy"));
    assert_int_equal(system(copy), 0);
    snprintf(settings, sizeof(settings),
             MODEL
             "train.max_steps=25 out.save_every=10 out.resume=auto out.checkpoint=%s out.dir=%s%s",
             plugin, at("copy"), other);
    run_on(to, settings, &r);
    all_give(&r, what, good);
}

static void save_and_load(const char *plugin, int from, int to)
{
    save_and_load_as(plugin, from, "", to, "");
}

static void test_sharded(void **state)
{
    (void)state;
    alone();
    for (int from = 1; from <= 4; ++from)
        for (int to = 1; to <= 4; ++to) save_and_load("sharded", from, to);
}

static void test_others(void **state)
{
    (void)state;
    alone();
    save_and_load("safetensors", 3, 2);
    save_and_load("async(sharded)", 2, 3);
    save_and_load("async", 2, 1);
}

/* Ranks that keep a part of the optimizer's state each, or of the parameters as well. */
static void test_strategies(void **state)
{
    (void)state;
    alone();
    save_and_load_as("safetensors", 4, " cluster.strategy=fsdp", 2, " cluster.strategy=fsdp");
    save_and_load_as("safetensors", 3, " cluster.strategy=ddp_sharded", 1, "");
    save_and_load_as("sharded", 3, " cluster.strategy=fsdp", 4, " cluster.strategy=ddp_sharded");
    save_and_load_as("sharded", 1, "", 3, " cluster.strategy=fsdp");
    save_and_load_as("async(sharded)", 4, " cluster.strategy=fsdp", 3, " cluster.strategy=fsdp");
    save_and_load_as("async(sharded)", 2, " cluster.strategy=ddp_sharded", 4, "");
}

/* The folder of the checkpoint cannot be made: all ranks end, and name it. */
static void test_failing(void **state)
{
    (void)state;
    static const char *const plugins[] = {"sharded", "safetensors", "async(sharded)"};
    for (int i = 0; i < 3; ++i) {
        char settings[1024], dir[32], wall[128];
        ranks r;
        snprintf(dir, sizeof(dir), "fails%d", i);
        snprintf(settings, sizeof(settings),
                 MODEL "train.max_steps=40 out.save_every=4 out.checkpoint=%s out.dir=%s",
                 plugins[i], at(dir));
        snprintf(wall, sizeof(wall), "%s/checkpoints", dir);
        assert_int_equal(mkdir(at(dir), 0777), 0);
        assert_int_equal(mkdir(at(wall), 0777), 0);
        snprintf(wall, sizeof(wall), "%s/checkpoints/step-000000000004%s", dir,
                 i == 1 ? ".safetensors" : "");
        if (i == 1) assert_int_equal(mkdir(at(wall), 0777), 0);
        else put(wall, "x", 1);
        /* A file that is no checkpoint does not keep the run from starting. */
        char resume[1100];
        snprintf(resume, sizeof(resume), "%s out.resume=auto", settings);
        run_on(3, resume, &r);
        for (int k = 0; k < 3; ++k)
            if (rank_exit(&r, k) == 0 || !strstr(r.text[k], "step-000000000004"))
                fail_msg("%s, rank %d: %d %s", plugins[i], k, rank_exit(&r, k), r.text[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sharded), cmocka_unit_test(test_others),
        cmocka_unit_test(test_strategies), cmocka_unit_test(test_failing)};
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
