/* test_hash.c: what does not vary.  A small run in `invariant` mode has one hash (of parameters and
 * of optimizer state, and one of the losses on the way) for every number of threads, instruction
 * level and choice of implementation, with and without an interruption, and however its batch is
 * cut into passes.  The hashes are pinned: a change of one rounding, chain or fold order anywhere
 * turns this test red, with every compiler.
 *
 *   test_hash [FILTER]     only the tests that match, as "pinned*" in ci/sabotage */
#include "train/session.h"

#include "../backends/cpu/isa.h"

enum { STEPS = 10, GLOBAL = 16 };

/* Everything that a run leaves. */
typedef struct prints {
    char text[96]; /* "<parameters> <optimizer state> <losses and norms>" */
} prints;

#define GPT "model.name=gpt model.layers=2 model.heads=2 model.width=32 model.context=16 "
#define CNN "model.name=cnn model.channels=4 "
#define MLP "model.name=mlp model.layers=2 model.width=48 "
#define COSINE "optim.schedule=cosine optim.warmup=3 optim.min_lr=1e-4 "
#define LINEAR "optim.schedule=linear optim.warmup=2 optim.min_lr=1e-4 "
#define NESTEROV "optim.name=sgd optim.momentum=0.9 optim.nesterov=true optim.lr=0.05 "

/* The runs, with the hashes that they have always had.  A new hash belongs here only together with
 * a change of docs/numerics.md or of the models. */
static const struct {
    const char *name, *settings;
    const char *pin;
} runs[] = {
    {"gpt f32", GPT "precision.name=32-true train.clip=0.5 " COSINE,
     "0a44dba8ad5f4ac4ee36812049680490 4b790bb152ab549f3bbded87a0465488 df9f7ebf0c104ba1"},
    {"gpt f64",
     GPT "precision.name=64-true optim.name=adam train.clip=0.01 train.clip_by=value " LINEAR,
     "2faa3f6ab5d376d9ff15f6259b62d69e 87b7d896565322245de1cb6e3e7a3e14 f4459ab3d394b5f6"},
    {"gpt bf16", GPT "precision.name=bf16-mixed model.dropout=0.1 train.clip=1 ",
     "8cf12437530b5128ae6ea32139dcdfb7 367c7423faecae58f2ad469045734463 8625afeee0aa32e9"},
    {"gpt f32 dropout", GPT "precision.name=32-true model.dropout=0.1 " NESTEROV LINEAR,
     "3437bc3d32437e1af9d7a2871b943a38 bd73f69ff681ffdc5221f12f7aeb6628 bca04d2d9af04d48"},
    {"cnn f32", CNN "precision.name=32-true train.clip=0.5 " NESTEROV COSINE,
     "43423f2d4ef4e9ac24a6ffa7aa3c4531 2745b96fc14d26d2fadc1dc0863b9803 f320e2c1b1d35d1c"},
    {"cnn f64", CNN "precision.name=64-true optim.name=adamw optim.decay=all ",
     "06e96a9fcb37d3b5cf7ad8915e0e37da 1f1b7683c1cc55ce5ac76f1579c03667 e1ec32c3d392bc0f"},
    {"cnn bf16", CNN "precision.name=bf16-mixed optim.name=adam " LINEAR,
     "7bdb1a17b7b23e36e949ce332c81946f 395043a42d18ef13bbf8e1c76ff21228 9fe096ba8abe1efc"},
    {"cnn f32 batchnorm", CNN "precision.name=32-true model.norm=batch optim.lr=1e-2 ",
     "d36f9699592758c8131c52d75dd10051 71390f74481b0fecd3daeab740557e91 572038f10f586502"},
    {"cnn bf16 batchnorm", CNN "precision.name=bf16-mixed model.norm=batch " NESTEROV,
     "720eea2751cca6aaad11910e831b0e3c 3c1963a23e620cd894cf31869d4cb8ab b2c1fa14c1ce2034"},
    {"mlp f32",
     MLP "precision.name=32-true optim.name=sgd optim.momentum=0.8 train.clip=0.02 "
         "train.clip_by=value ",
     "fb3160391fab86767110070cdda80aec bedd73ab80fe339cc19b378239f2b400 8bc230fc26a9e818"},
    {"mlp f64", MLP "precision.name=64-true model.dropout=0.2 " NESTEROV,
     "a30e1cd3335d9096f6f46d0f12b0d345 caf35e5cbf6262f61ac720d26c8725b3 42886d22d436b748"},
    {"gpt fp8", GPT "precision.name=fp8 train.clip=1 ",
     "2d18bfc7fae43e9bf89bf97f40d8810b 22bcc57315b45d9901d0d2b298eda0bb 5b43cb471b27e95c"},
    {"gpt int8", GPT "precision.name=int8 " COSINE,
     "a7c190c689795ab218104777f564f65d c01b347d84ca7bbb120b9ea8e5c6b824 881dd7a6287fa5ec"},
    {"mlp nf4", MLP "precision.name=nf4 ",
     "7f7cf296a0653601c505c4fe007ba4d0 d9ed2be288befdfe4c0fff7310ae7771 e81f9acab0a6de14"},
    {"mlp bf16",
     MLP "precision.name=bf16-mixed optim.name=sgd optim.lr=0.1 optim.weight_decay=0.01 ",
     "ad64085050f2b9f4b9e075071c2e4356 99aa06d3014798d86001c324468d497f 3c017d95503a8c26"},
};
enum { RUNS_COUNT = sizeof(runs) / sizeof(runs[0]) };

static void mix(uint64_t *hash, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    for (int i = 0; i < 8; ++i) *hash = (*hash ^ (bits >> 8 * i & 255)) * 0x100000001b3u;
}

/* Steps until `end`. */
static void advance(session *s, uint64_t *losses, int end)
{
    iv_trainer_info info;
    iv_step_report r;
    for (iv_trainer_info_get(s->trainer, &info); info.step < end; info.step = r.step) {
        WORKS(iv_trainer_step(s->trainer, &r));
        mix(losses, r.loss);
        mix(losses, r.grad_norm);
    }
}

/* The run with these settings added; stopped and resumed from a file after `stop` steps if stop >
 * 0. */
static prints train(const char *settings, const char *more, int stop)
{
    char all[1024];
    session s;
    prints p;
    char a[33], b[33];
    uint64_t losses = 0xcbf29ce484222325u;
    snprintf(
        all, sizeof(all),
        "numerics.mode=invariant device.threads=1 train.batch=%d train.grains=8 train.seed=5 %s%s",
        GLOBAL, settings, more);
    session_open(&s, all);
    if (stop > 0) {
        advance(&s, &losses, stop);
        WORKS(iv_trainer_save(s.trainer, at("stopped.safetensors")));
        session_close(&s);
        session_open(&s, all);
        WORKS(iv_trainer_load(s.trainer, at("stopped.safetensors")));
    }
    advance(&s, &losses, STEPS);
    WORKS(iv_trainer_hash(s.trainer, false, a));
    WORKS(iv_trainer_hash(s.trainer, true, b));
    snprintf(p.text, sizeof(p.text), "%s %s %016llx", a, b, (unsigned long long)losses);
    session_close(&s);
    return p;
}

/* The plain runs, made once. */
static const char *plain(int run)
{
    static prints made[RUNS_COUNT];
    if (!made[run].text[0]) made[run] = train(runs[run].settings, "", 0);
    return made[run].text;
}

static int differences;

static void same(int run, const char *how, const prints *p)
{
    if (strcmp(p->text, plain(run)) == 0) return;
    ++differences;
    print_error("%s, %s:\n  %s, plain\n  %s\n", runs[run].name, how, p->text, plain(run));
}

static void end_of_test(void)
{
    const int n = differences;
    differences = 0;
    if (n > 0) fail_msg("%d runs differ", n);
}

static void pinned_hashes(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i) {
        if (strcmp(plain(i), runs[i].pin) == 0) continue;
        ++differences;
        print_error("%s: \"%s\", pinned \"%s\"\n", runs[i].name, plain(i), runs[i].pin);
    }
    end_of_test();
}

static void threads(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i)
        for (int n = 2; n <= 3; ++n) {
            char more[64];
            snprintf(more, sizeof(more), " device.threads=%d", n);
            const prints p = train(runs[i].settings, more, 0);
            same(i, more, &p);
        }
    end_of_test();
}

/* A level counts if machine and build have it. */
static bool has_level(const char *name)
{
    session s;
    setenv("INVAR_ISA", name, 1);
    session_prepare(&s, MLP);
    const iv_status status = iv_trainer_open(s.config, s.data, iv_model_build, &s.spec, &s.trainer);
    if (status != IV_OK) {
        assert_int_equal(status, IV_UNAVAILABLE);
        print_message("left out: %s\n", iv_error_message());
    }
    session_close(&s);
    return status == IV_OK;
}

static void instruction_levels(void **state)
{
    (void)state;
    for (int level = 0; level < IV__ISA_COUNT; ++level) {
        const char *name = iv__isa_name(level);
        for (int i = 0; i < RUNS_COUNT; ++i) (void)plain(i); /* before the level is forced */
        for (int i = 0; has_level(name) && i < RUNS_COUNT; ++i) {
            const prints p = train(runs[i].settings, "", 0);
            same(i, name, &p);
        }
        unsetenv("INVAR_ISA");
    }
    end_of_test();
}

static void portable_kernels(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i) {
        (void)plain(i);
        setenv("INVAR_IMPL", "*:portable", 1);
        const prints p = train(runs[i].settings, " device.threads=2", 0);
        unsetenv("INVAR_IMPL");
        same(i, "portable kernels only", &p);
    }
    end_of_test();
}

static void stop_and_resume(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i)
        for (int stop = 1 + i % 3; stop < STEPS; stop += 4) {
            char how[64];
            snprintf(how, sizeof(how), "stopped after step %d", stop);
            const prints p = train(runs[i].settings, "", stop);
            same(i, how, &p);
        }
    end_of_test();
}

/* Passes per step and samples per pass are not arguments of a run: only their product and the
 * grains. */
static void passes(void **state)
{
    static const char *const cuts[] = {" train.batch=8 train.accumulate=2",
                                       " train.batch=4 train.accumulate=4",
                                       " train.batch=2 train.accumulate=8"};
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i)
        for (size_t k = 0; k < sizeof(cuts) / sizeof(*cuts); ++k) {
            const prints p = train(runs[i].settings, cuts[k], 0);
            same(i, cuts[k], &p);
        }
    end_of_test();
}

/* A number of passes that is not a power of two leaves subtrees over. */
static void odd_passes(void **state)
{
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i) {
        const prints one = train(runs[i].settings, " train.batch=12 train.grains=6", 0);
        const prints three =
            train(runs[i].settings, " train.batch=4 train.accumulate=3 train.grains=6", 0);
        if (strcmp(one.text, three.text) == 0) continue;
        ++differences;
        print_error("%s: 4 x 3 samples: %s\n  12 x 1: %s\n", runs[i].name, three.text, one.text);
    }
    end_of_test();
}

/* What is an argument of a run must change it: otherwise these tests prove nothing. */
static void arguments_matter(void **state)
{
    static const char *const changes[] = {" train.seed=6", " train.grains=4",
                                          " optim.weight_decay=0.2", " optim.lr=0.02"};
    (void)state;
    for (int i = 0; i < RUNS_COUNT; ++i)
        for (size_t k = 0; k < sizeof(changes) / sizeof(*changes); ++k) {
            const prints p = train(runs[i].settings, changes[k], 0);
            if (strcmp(p.text, plain(i)) != 0) continue;
            ++differences;
            print_error("%s: %s changes nothing\n", runs[i].name, changes[k]);
        }
    end_of_test();
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pinned_hashes),    cmocka_unit_test(threads),
        cmocka_unit_test(portable_kernels), cmocka_unit_test(instruction_levels),
        cmocka_unit_test(stop_and_resume),  cmocka_unit_test(passes),
        cmocka_unit_test(odd_passes),       cmocka_unit_test(arguments_matter),
    };
    unsetenv("INVAR_ISA");
    unsetenv("INVAR_IMPL");
    unsetenv("INVAR_THREADS");
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
