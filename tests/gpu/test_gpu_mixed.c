/* test_gpu_mixed.c: CUDA, HIP and CPU devices in one job have the hashes of cpu:0: the devices of a
 * process, ranks with a device each, both, and a run that is saved on one kind and goes on on
 * another.
 *
 *   test_gpu_mixed [STEPS [FILTER]]      FILTER: only the tests that match, as "*_f32" */
#include "train/session.h"

#include "cluster/ranks.h"

#include <dlfcn.h>

#define COMMON                                                                                     \
    "numerics.mode=invariant device.threads=1 train.batch=8 train.grains=8 train.seed=5 "          \
    "train.clip=0.5 cluster.timeout=300 "
#define GPT                                                                                        \
    "model.name=gpt model.layers=1 model.heads=2 model.width=16 model.context=8 "                  \
    "model.dropout=0.1 "

enum { MOST = 3, LIMIT_S = 900 };
static int steps = 2;

typedef struct job {
    const char *name, *settings;
    const char *devices[MOST]; /* of each rank */
    const char *resume;        /* devices of the second half of the steps, or NULL: no stop */
} job;

static iv_status open_on(session *s, const job *j, const char *devices)
{
    char all[1024];
    snprintf(all, sizeof(all), COMMON "%s device.devices=%s", j->settings, devices);
    session_prepare(s, all);
    return iv_trainer_open(s->config, s->data, iv_model_build, &s->spec, &s->trainer);
}

static iv_status advance(session *s, int n)
{
    iv_step_report r;
    for (int i = 0; i < n; ++i) IV_TRY(iv_trainer_step(s->trainer, &r));
    return IV_OK;
}

static iv_status go_on(session *s, const job *j)
{
    const char *path = at("stopped.safetensors");
    IV_TRY(iv_trainer_save(s->trainer, path));
    session_close(s);
    IV_TRY(open_on(s, j, j->resume));
    return iv_trainer_load(s->trainer, path);
}

static iv_status train(session *s, const job *j, int rank, char *text)
{
    char a[33], b[33];
    const int first = j->resume ? steps / 2 : steps;
    IV_TRY(open_on(s, j, j->devices[rank]));
    IV_TRY(advance(s, first));
    if (j->resume) IV_TRY(go_on(s, j));
    IV_TRY(advance(s, steps - first));
    IV_TRY(iv_trainer_hash(s->trainer, false, a));
    IV_TRY(iv_trainer_hash(s->trainer, true, b));
    snprintf(text, RANK_TEXT, "%s %s", a, b);
    return IV_OK;
}

/* What the stand-ins of this process have seen. */
static int64_t misuses(void)
{
    static const char *const variables[] = {"INVAR_CUDA_LIB", "INVAR_HIP_LIB"};
    int64_t n = 0;
    for (size_t i = 0; i < 2; ++i) {
        int64_t (*count)(void);
        void *lib = dlopen(getenv(variables[i]), RTLD_NOW | RTLD_LOCAL);
        void *f = lib ? dlsym(lib, "sc_misuses") : NULL;
        memcpy(&count, &f, sizeof(f));
        if (f) n += count();
    }
    return n;
}

static int one_rank(int rank, int n, int port, const void *arg, char *text)
{
    session s = {0};
    alarm(LIMIT_S);
    ranks_environment(rank, n, port);
    iv_status status = train(&s, arg, rank, text);
    if (status != IV_OK) snprintf(text, RANK_TEXT, "%s", iv_error_message());
    session_close(&s);
    return misuses() > 0 ? 97 : (int)status;
}

/* Runs the job; the text of rank 0, which all others have too. */
static const char *text_of(const job *j)
{
    static ranks r;
    int n = 0;
    while (n < MOST && j->devices[n]) ++n;
    ranks_start(&r, n, one_rank, j);
    for (int i = 0; i < n; ++i) ranks_collect(&r, i);
    for (int i = 0; i < n; ++i)
        if (rank_exit(&r, i) != 0 || strcmp(r.text[i], r.text[0]) != 0)
            fail_msg("%s, rank %d on %s: %d, %s; rank 0: %s", j->name, i, j->devices[i],
                     rank_exit(&r, i), r.text[i], r.text[0]);
    return r.text[0];
}

static void same_everywhere(const char *settings)
{
    static const job jobs[] = {
        {"devices of a process", NULL, {"cuda:0,hip:0,cpu:0"}, NULL},
        {"several of a kind", NULL, {"hip:1,cuda:1,cuda:0,hip:0"}, NULL},
        {"ranks", NULL, {"cuda:0", "hip:0", "cpu:0"}, NULL},
        {"ranks with devices", NULL, {"hip:0,cpu:0", "cuda:1"}, NULL},
        {"saved on cuda, resumed on hip", NULL, {"cuda:0"}, "hip:0"},
        {"saved on hip, resumed on all", NULL, {"hip:1"}, "cpu:0,cuda:0,hip:0"},
    };
    char cpu[RANK_TEXT];
    job j = {"cpu:0", settings, {"cpu:0"}, NULL};
    snprintf(cpu, sizeof(cpu), "%s", text_of(&j));
    for (size_t i = 0; i < sizeof(jobs) / sizeof(*jobs); ++i) {
        j = jobs[i];
        j.settings = settings;
        const char *text = text_of(&j);
        if (strcmp(text, cpu) != 0) fail_msg("%s: %s\n  on cpu:0: %s", j.name, text, cpu);
    }
}

#define RUN(test, settings)                                                                        \
    static void test(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        same_everywhere(settings);                                                                 \
    }
RUN(gpt_f32, GPT "precision.name=32-true")
RUN(gpt_f64, GPT "precision.name=64-true")
RUN(gpt_bf16, GPT "precision.name=bf16-mixed")

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(gpt_f32), cmocka_unit_test(gpt_f64),
                                       cmocka_unit_test(gpt_bf16)};
    if (argc > 1) steps = atoi(argv[1]);
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    if (!getenv("INVAR_CUDA_LIB") || !getenv("INVAR_HIP_LIB")) {
        printf("skipped: no stand-ins are named\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
