/* test_ranks.c: several processes and several devices give the bits of one: the hashes of
 * parameters and optimizer state and the losses on the way are equal for 1 to 4 ranks, with even
 * and uneven shares, for each strategy, model and precision.  And a rank that dies or hangs in
 * training is named by all others, who end in bounded time. */
#include "train/session.h"

#include "cluster/ranks.h"

#define GPT "model.name=gpt model.layers=2 model.heads=2 model.width=32 model.context=16 "
#define CNN "model.name=cnn model.channels=4 model.norm=batch "
#define STEPS 4

static const struct {
    const char *name, *settings;
} runs[] = {
    {"gpt f32", GPT "precision.name=32-true train.clip=0.5 optim.schedule=cosine optim.warmup=2 "
                    "train.track_norm=2 "},
    {"gpt bf16", GPT "precision.name=bf16-mixed model.dropout=0.1 train.clip=1 "},
    {"gpt f64", GPT "precision.name=64-true optim.name=adam train.batch=8 train.accumulate=2 "},
    {"gpt fp8", GPT "precision.name=fp8 train.batch=8 train.accumulate=2 "},
    {"gpt nf4", GPT "precision.name=nf4 "},
    {"cnn f32", CNN "precision.name=32-true optim.name=sgd optim.momentum=0.9 "},
    {"cnn bf16", CNN "precision.name=bf16-mixed train.batch=4 train.accumulate=4 "},
};
enum { RUNS = sizeof(runs) / sizeof(runs[0]) };

typedef struct job {
    const char *settings, *more;
    int victim, signal; /* of a rank that ends itself in the third step; -1: nobody */
    int steps;          /* 0: STEPS */
    bool slow;          /* rank 1 has portable kernels only */
} job;

static iv_status open_session(session *s, const char *settings)
{
    session_prepare(s, settings);
    return iv_trainer_open(s->config, s->data, iv_model_build, &s->spec, &s->trainer);
}

static iv_status steps(session *s, const job *j, int rank, uint64_t *losses)
{
    for (int k = 0; k < (j->steps ? j->steps : STEPS); ++k) {
        iv_step_report r;
        if (k == 2 && rank == j->victim) raise(j->signal);
        IV_TRY(iv_trainer_step(s->trainer, &r));
        uint64_t bits[2];
        memcpy(&bits[0], &r.loss, 8);
        memcpy(&bits[1], &r.grad_norm, 8);
        *losses = (*losses ^ bits[0]) * 0x100000001b3u;
        *losses = (*losses ^ bits[1]) * 0x100000001b3u;
    }
    return IV_OK;
}

/* The norms of the last step's gradients, where they are tracked. */
static iv_status add_norms(session *s, uint64_t *losses)
{
    enum { MOST = 64 };
    double norms[MOST] = {0};
    if (!*iv_config_str(s->config, "train.track_norm")) return IV_OK;
    if (iv_trainer_param_count(s->trainer) > MOST)
        return iv_error_set(IV_INTERNAL, "more than %d parameters", MOST);
    IV_TRY(iv_trainer_grad_norms(s->trainer, norms));
    for (int i = 0; i < MOST; ++i) {
        uint64_t bits;
        memcpy(&bits, &norms[i], 8);
        *losses = (*losses ^ bits) * 0x100000001b3u;
    }
    return IV_OK;
}

static iv_status hashes(session *s, uint64_t losses, char *text)
{
    char a[33], b[33];
    double loss, accuracy;
    iv_trainer_info info;
    IV_TRY(iv_trainer_hash(s->trainer, false, a));
    IV_TRY(iv_trainer_hash(s->trainer, true, b));
    IV_TRY(iv_trainer_evaluate(s->trainer, &loss, &accuracy));
    iv_trainer_info_get(s->trainer, &info);
    snprintf(text, RANK_TEXT, "%s %s %016llx %a, %lld steps", a, b, (unsigned long long)losses,
             loss, (long long)info.step);
    return IV_OK;
}

static int train(int rank, int n, int port, const void *arg, char *text)
{
    const job *j = arg;
    session s;
    char all[1024];
    uint64_t losses = 0xcbf29ce484222325u;
    ranks_environment(rank, n, port);
    snprintf(all, sizeof(all),
             "numerics.mode=invariant device.threads=1 train.batch=16 train.grains=8 train.seed=5 "
             "cluster.timeout=60 %s%s",
             j->settings, j->more);
    if (j->slow && rank == 1) setenv("INVAR_IMPL", "*:portable", 1);
    iv_status status = open_session(&s, all);
    iv_trainer_info info = {.world = n};
    if (status == IV_OK) iv_trainer_info_get(s.trainer, &info);
    if (info.world != n) status = iv_error_set(IV_INTERNAL, "%d ranks of %d", info.world, n);
    if (status == IV_OK) status = steps(&s, j, rank, &losses);
    if (status == IV_OK) status = add_norms(&s, &losses);
    if (status == IV_OK) status = hashes(&s, losses, text);
    if (status != IV_OK) snprintf(text, RANK_TEXT, "%s", iv_error_message());
    if (j->slow && s.trainer) {
        iv_trainer_info_get(s.trainer, &info);
        print_message("rank %d: %lld of %lld grains\n", rank, (long long)info.own_grains,
                      (long long)info.grains);
        fflush(stdout);
    }
    session_close(&s);
    return (int)status;
}

/* The text of one process with one device. */
static const char *alone(int run)
{
    static char made[RUNS][RANK_TEXT];
    if (!made[run][0]) {
        ranks r;
        job j = {runs[run].settings, "", -1, 0, 0, false};
        ranks_start(&r, 1, train, &j);
        ranks_collect(&r, 0);
        if (rank_exit(&r, 0) != 0) fail_msg("%s, alone: %s", runs[run].name, r.text[0]);
        snprintf(made[run], RANK_TEXT, "%s", r.text[0]);
    }
    return made[run];
}

static int differences;
static bool quiet; /* differences are expected */

static void same(int run, int n, const char *more)
{
    const char *want = alone(run);
    ranks r;
    job j = {runs[run].settings, more, -1, 0, 0, false};
    ranks_start(&r, n, train, &j);
    for (int i = 0; i < n; ++i) ranks_collect(&r, i);
    for (int i = 0; i < n; ++i) {
        if (rank_exit(&r, i) == 0 && strcmp(r.text[i], want) == 0) continue;
        ++differences;
        if (quiet) continue;
        print_error("%s, rank %d of %d,%s: %d, %s\n  alone %s\n", runs[run].name, i, n, more,
                    rank_exit(&r, i), r.text[i], want);
    }
}

static void end_of_test(void)
{
    const int n = differences;
    differences = 0;
    if (n > 0) fail_msg("%d ranks differ", n);
}

static void test_ranks(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; ++run) same(run, 2 + run % 3, "");
}

/* Optimizer state in parts, over ranks and with more ranks than blocks of the norm. */
static void test_sharded(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; ++run)
        same(run, 2 + (run + 1) % 3, " cluster.strategy=ddp_sharded");
    char more[256];
    snprintf(more, sizeof(more), " cluster.strategy=deepspeed precision.config=%s",
             put_text("ds.json", "{\"train_batch_size\":16,\"gradient_clipping\":0.5,"
                                 "\"zero_optimization\":{\"stage\":1}}"));
    same(0, 3, more);
    end_of_test();
}

/* Sums that are added during the passes, and not behind them, are the same. */
static void test_overlap(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; run += 2) same(run, run ? 4 : 2, " cluster.overlap=true");
    same(1, 3, " cluster.overlap=true cluster.strategy=ddp_sharded");
    same(0, 4, " cluster.overlap=true cluster.transport=tcp(sockets)");
    end_of_test();
}

/* Gradients in parts; with accumulation, sums of several passes wait at their owners.  In f32,
 * where DeepSpeed's casts are no others. */
static void test_stage_2(void **state)
{
    char more[256];
    (void)state;
    snprintf(more, sizeof(more), " cluster.strategy=deepspeed precision.config=%s",
             put_text("ds2.json", "{\"zero_optimization\":{\"stage\":2}}"));
    for (int n = 2; n <= 4; ++n) same(n == 3 ? 5 : 0, n, more);
    strcat(more, " train.batch=8 train.accumulate=2");
    for (int n = 2; n <= 4; ++n) same(0, n, more);
    end_of_test();
}

/* Parameters in parts too; by 3 ranks, 8 grains are uneven shares, in nodes of several passes. */
static void test_stage_3(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; ++run) same(run, 2 + run % 3, " cluster.strategy=fsdp");
    same(0, 3, " cluster.strategy=fsdp");
    same(1, 3, " cluster.strategy=fsdp");
    same(0, 4, " cluster.strategy=fsdp cluster.transport=tcp(sockets)");
    end_of_test();
}

/* Parameters, gradients and optimizer state of all ranks. */
static int weigh(int rank, int n, int port, const void *arg, char *text)
{
    session s;
    iv_memory_report all[4];
    ranks_environment(rank, n, port);
    iv_status status = open_session(&s, arg);
    if (status == IV_OK) status = iv_trainer_memory_all(s.trainer, all);
    if (status != IV_OK) snprintf(text, RANK_TEXT, "%s", iv_error_message());
    for (int i = 0, at = 0; status == IV_OK && i < n; ++i)
        at += snprintf(text + at, (size_t)(RANK_TEXT - at), "%lld %lld %lld %lld %lld ",
                       (long long)all[i].parameters, (long long)all[i].gradients,
                       (long long)all[i].optimizer, (long long)all[i].lowered,
                       (long long)(all[i].total - all[i].allocated));
    session_close(&s);
    return (int)status;
}

static void weighs(int n, const char *more, long long out[4][5])
{
    char settings[512];
    ranks r;
    snprintf(settings, sizeof(settings),
             "model.name=gpt model.layers=2 model.heads=2 model.width=128 model.context=16 "
             "precision.name=bf16-mixed train.batch=12 train.grains=6 cluster.timeout=60 %s",
             more);
    ranks_start(&r, n, weigh, settings);
    for (int i = 0; i < n; ++i) {
        ranks_collect(&r, i);
        if (rank_exit(&r, i) != 0) fail_msg("rank %d: %s", i, r.text[i]);
    }
    char *at = r.text[0];
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < 5; ++k) out[i][k] = strtoll(at, &at, 10);
}

/* What is kept in parts is within 5 % of an even part, and what is told is what is allocated. */
static void test_memory(void **state)
{
    static const char *const stages[] = {
        " cluster.strategy=ddp_sharded",
        " cluster.strategy=deepspeed",
        " cluster.strategy=fsdp",
    };
    static const char *const kinds[] = {"parameters", "gradients", "optimizer state", "lowered"};
    static const int from[] = {3, 2, 1, 3}; /* the stage in which each is kept in parts */
    enum { RANKS = 3 };
    long long one[4][5], some[4][5];
    char ds[256];
    (void)state;
    snprintf(ds, sizeof(ds), "%s precision.config=%s", stages[1],
             put_text("ds2.json", "{\"zero_optimization\":{\"stage\":2}}"));
    weighs(RANKS, "", one);
    for (int stage = 1; stage <= 3; ++stage) {
        const char *more = stage == 2 ? ds : stages[stage - 1];
        weighs(RANKS, more, some);
        for (int i = 0; i < RANKS; ++i) {
            for (int k = 0; k < 4; ++k) {
                const double whole = (double)one[0][k],
                             part = stage >= from[k] ? whole / RANKS : whole;
                if ((double)some[i][k] > 1.05 * part || (double)some[i][k] < 0.95 * part)
                    fail_msg("stage %d, rank %d: %lld bytes of %s, expected about %.0f", stage, i,
                             some[i][k], kinds[k], part);
            }
            if (some[i][4] != 0) fail_msg("%lld bytes are not told", -some[i][4]);
        }
    }
}

/* An overflow in the gradients of one rank: all of them skip that step, and the scale falls. */
static void gotcha_12_an_overflow_of_a_rank_is_everybodys(void **state)
{
    static const char *const strategies[] = {"ddp", "ddp_sharded", "deepspeed", "fsdp"};
    enum { RANKS = 3 };
    (void)state;
    for (int k = 0; k < 4; ++k)
        for (int grain = 0; grain < 8; grain += 3) { /* one of each rank */
            char more[256], want[RANK_TEXT];
            ranks r;
            snprintf(more, sizeof(more), " precision.name=16 cluster.strategy=%s", strategies[k]);
            job j = {runs[0].settings, more, -1, 0, 6, false};
            snprintf(want, sizeof(want), "step=3,grain=%d,param=h.0.mlp.c_fc.weight", grain);
            setenv("INVAR_INJECT", want, 1);
            for (int n = 1; n <= RANKS; n += RANKS - 1) {
                ranks_start(&r, n, train, &j);
                for (int i = 0; i < n; ++i) ranks_collect(&r, i);
                if (n == 1) snprintf(want, sizeof(want), "%s", r.text[0]);
                if (!strstr(want, ", 5 steps")) fail_msg("not one step was skipped: %s", want);
                for (int i = 0; i < n; ++i)
                    if (rank_exit(&r, i) != 0 || strcmp(r.text[i], want) != 0)
                        fail_msg("%s, grain %d, rank %d of %d: %d, %s\n  alone %s", strategies[k],
                                 grain, i, n, rank_exit(&r, i), r.text[i], want);
            }
            unsetenv("INVAR_INJECT");
        }
}

/* With train.nonfinite=stop all ranks end at that step, whoever had the infinity; nobody waits. */
static void gotcha_12_a_stop_is_everybodys(void **state)
{
    static const char *const strategies[] = {"ddp", "ddp_sharded", "fsdp"};
    enum { RANKS = 3 };
    (void)state;
    setenv("INVAR_INJECT", "step=3,grain=5,param=h.1.ln_2.weight", 1);
    for (int k = 0; k < 3; ++k) {
        char more[256];
        ranks r;
        job j = {runs[0].settings, more, -1, 0, 6, false};
        snprintf(more, sizeof(more), " precision.name=16 train.nonfinite=stop cluster.strategy=%s",
                 strategies[k]);
        ranks_start(&r, RANKS, train, &j);
        for (int i = 0; i < RANKS; ++i) ranks_collect(&r, i);
        for (int i = 0; i < RANKS; ++i)
            if (rank_exit(&r, i) != IV_NONFINITE || !strstr(r.text[i], "training step 3"))
                fail_msg("%s, rank %d: %d, %s", strategies[k], i, rank_exit(&r, i), r.text[i]);
    }
    unsetenv("INVAR_INJECT");
}

/* The comparison finds what differs: grains are an argument of a run. */
static void test_grains(void **state)
{
    (void)state;
    quiet = true;
    same(0, 4, " train.grains=16");
    quiet = false;
    const int n = differences;
    differences = 0;
    if (n != 4) fail_msg("%d of 4 ranks with other grains differ", n);
}

/* Rank 1 has slow kernels, so shares change after step 8; the bits do not. */
static void test_balance(void **state)
{
    (void)state;
    const char *more = " train.grains=16 model.width=64 train.max_steps=12";
    ranks r;
    job j = {runs[0].settings, more, -1, 0, 12, false};
    char want[RANK_TEXT];
    ranks_start(&r, 1, train, &j);
    ranks_collect(&r, 0);
    assert_int_equal(rank_exit(&r, 0), 0);
    snprintf(want, sizeof(want), "%s", r.text[0]);
    j.slow = true;
    ranks_start(&r, 2, train, &j);
    for (int i = 0; i < 2; ++i) ranks_collect(&r, i);
    for (int i = 0; i < 2; ++i)
        if (rank_exit(&r, i) != 0 || strcmp(r.text[i], want) != 0)
            fail_msg("rank %d: %d, %s\n  alone %s", i, rank_exit(&r, i), r.text[i], want);
}

/* Several devices of a process, and of several processes; grains that no number divides. */
static void test_devices(void **state)
{
    (void)state;
    for (int run = 0; run < RUNS; ++run)
        same(run, 1 + run % 2,
             run % 2 ? " device.devices=cpu:0,cpu:0" : " device.devices=cpu:0,cpu:0,cpu:0");
    end_of_test();
}

static void test_lost(void **state)
{
    enum { CASES = 6 }; /* each of 3 ranks killed, and stopped; all at once, to wait once */
    static ranks r[CASES];
    static job j[CASES];
    (void)state;
    for (int k = 0; k < CASES; ++k) {
        j[k] = (job){
            runs[0].settings, " cluster.timeout=8", k % 3, k < 3 ? SIGKILL : SIGSTOP, 0, false};
        ranks_start(&r[k], 3, train, &j[k]);
    }
    for (int k = 0; k < CASES; ++k) {
        const int victim = j[k].victim;
        char name[32];
        for (int i = 0; i < 3; ++i)
            if (i != victim) ranks_collect(&r[k], i);
        kill(r[k].pid[victim], SIGKILL);
        ranks_collect(&r[k], victim);
        snprintf(name, sizeof(name), "rank %d", victim);
        for (int i = 0; i < 3; ++i)
            if (i != victim && (rank_exit(&r[k], i) != IV_LOST || !strstr(r[k].text[i], name)))
                fail_msg("signal %d to rank %d: rank %d ended with %d: %s", j[k].signal, victim, i,
                         rank_exit(&r[k], i), r[k].text[i]);
    }
}

/* Ranks that mean different runs are told so. */
static int train_otherwise(int rank, int n, int port, const void *arg, char *text)
{
    job j = *(const job *)arg;
    if (rank == 1) j.more = " optim.lr=0.5";
    return train(rank, n, port, &j, text);
}

static void test_agreement(void **state)
{
    (void)state;
    ranks r;
    job j = {runs[0].settings, "", -1, 0, 0, false};
    ranks_start(&r, 3, train_otherwise, &j);
    for (int i = 0; i < 3; ++i) ranks_collect(&r, i);
    for (int i = 0; i < 3; ++i)
        if (rank_exit(&r, i) != IV_INVALID ||
            !strstr(r.text[i], "rank 1 has another configuration"))
            fail_msg("rank %d ended with %d: %s", i, rank_exit(&r, i), r.text[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_grains),
        cmocka_unit_test(test_balance),
        cmocka_unit_test(test_sharded),
        cmocka_unit_test(test_overlap),
        cmocka_unit_test(test_stage_2),
        cmocka_unit_test(test_stage_3),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_agreement),
        cmocka_unit_test(gotcha_12_an_overflow_of_a_rank_is_everybodys),
        cmocka_unit_test(gotcha_12_a_stop_is_everybodys),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
