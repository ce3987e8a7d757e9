/* test_speed.c: how fast a device is beside cpu:0, in one process and in turns, so that what else
 * the machine does meets both: kernels that memory bounds, a matrix product, and a training step of
 * a GPT of six layers, whole and by kernel.  It prints medians and asserts nothing; without a
 * device named it skips, since times do not belong into a test run (ci/opencl speed).
 *
 *   test_speed DEVICE [ROUNDS [KEY=VALUE...]]
 *
 * A column says how many times as fast the device is as cpu:0, by the clock and by the processor
 * time that both take (which a loaded machine disturbs less; it says nothing about GPUs). */
#include "ops/harness.h"

#include "bench.h"

#include <time.h>

enum { MOST_ROUNDS = 101, MOST_ROWS = 64 };

static const char *name;
static int64_t rounds = 7;
static int n_settings;
static char **settings;

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Times of one thing on both devices: [device][round]. */
typedef struct race {
    char label[64];
    double wall[2][MOST_ROUNDS + 1], cpu[2][MOST_ROUNDS + 1], bytes, flops;
    int64_t n[2];
} race;

static void report(race *r)
{
    double wall[2], cpu[2];
    if (!r->n[0] || !r->n[1]) return;
    for (int d = 0; d < 2; ++d) {
        wall[d] = iv__bench_median(r->wall[d], r->n[d]);
        cpu[d] = iv__bench_median(r->cpu[d], r->n[d]);
    }
    printf("%-40s %9.3f ms %9.3f ms", r->label, 1e3 * wall[0], 1e3 * wall[1]);
    if (r->flops > 0) printf(" %7.1f GFLOP/s", 1e-9 * r->flops / wall[1]);
    else if (r->bytes > 0) printf(" %7.2f GB/s   ", 1e-9 * r->bytes / wall[1]);
    else printf(" %15s", "");
    printf("  %5.2f  %5.2f\n", wall[0] / wall[1], cpu[0] / cpu[1]);
    fflush(stdout);
}

/* ---- operators ---- */

typedef iv_value build_fn(iv_graph *g, iv_value *in);

static iv_value input(iv_graph *g, const char *label, int64_t rows, int64_t columns)
{
    const iv_shape two = IV_SHAPE(rows, columns), one = IV_SHAPE(columns);
    return iv_input(g, label, IV_F32, rows ? two : one);
}

static iv_value sum_of_two(iv_graph *g, iv_value *in)
{
    in[0] = input(g, "a", 4096, 1024);
    in[1] = input(g, "b", 4096, 1024);
    return iv_mul(g, iv_add(g, in[0], in[1]), in[0]);
}
static iv_value gelu(iv_graph *g, iv_value *in)
{
    in[0] = input(g, "a", 4096, 1024);
    return iv_gelu_tanh(g, in[0]);
}
static iv_value softmax(iv_graph *g, iv_value *in)
{
    in[0] = input(g, "a", 4096, 1024);
    return iv_softmax(g, in[0]);
}
static iv_value layernorm(iv_graph *g, iv_value *in)
{
    in[0] = input(g, "a", 4096, 1024);
    in[1] = input(g, "b", 0, 1024);
    in[2] = input(g, "c", 0, 1024);
    return iv_layernorm(g, in[0], in[1], in[2], 1e-5);
}
static iv_value product(iv_graph *g, iv_value *in)
{
    in[0] = input(g, "a", 1024, 768);
    in[1] = input(g, "b", 768, 3072);
    return iv_matmul(g, in[0], in[1], false, false);
}

static const struct {
    const char *label;
    build_fn *build;
    double bytes, flops;
} operators[] = {{"(a + b) a", sum_of_two, 3.0 * 4096 * 1024 * 4, 0},
                 {"gelu (tanh)", gelu, 2.0 * 4096 * 1024 * 4, 0},
                 {"softmax, rows of 1024", softmax, 2.0 * 4096 * 1024 * 4, 0},
                 {"layernorm, rows of 1024", layernorm, 2.0 * 4096 * 1024 * 4, 0},
                 {"product 1024 x 768 x 3072", product, 0, 2.0 * 1024 * 768 * 3072}};

static void prepare(rig *r, iv__device *d, build_fn *build)
{
    iv_value in[3] = {{-1}, {-1}, {-1}};
    rig_open(r, d, P_F32, 1);
    iv_graph_set_output(r->g, "y", build(r->g, in));
    WORKS(rig_compile(r, 1));
    for (int i = 0; i < 3 && in[i].id >= 0; ++i) {
        uint64_t state = (uint64_t)i + 1;
        const int64_t n = iv_shape_count(&r->g->values[in[i].id].shape);
        double *x = malloc((size_t)n * sizeof(*x));
        assert_non_null(x);
        for (int64_t k = 0; k < n; ++k) x[k] = next_in(&state, -2, 2);
        rig_write(r, in[i], x);
        free(x);
    }
    rig_run(r);
}

static void race_operator(iv__device *const d[2], int64_t k)
{
    rig rigs[2];
    race r = {.bytes = operators[k].bytes, .flops = operators[k].flops};
    snprintf(r.label, sizeof(r.label), "%s", operators[k].label);
    for (int i = 0; i < 2; ++i) prepare(&rigs[i], d[i], operators[k].build);
    for (int64_t n = 0; n < rounds; ++n)
        for (int i = 0; i < 2; ++i) {
            rig_run(&rigs[i]); /* caches and threads are this device's again */
            const double begin = processor_seconds();
            const int64_t start = iv__now_ns();
            rig_run(&rigs[i]);
            r.wall[i][r.n[i]] = 1e-9 * (double)(iv__now_ns() - start);
            r.cpu[i][r.n[i]++] = processor_seconds() - begin;
        }
    report(&r);
    for (int i = 0; i < 2; ++i) rig_close(&rigs[i]);
}

static void operators_in_turns(void **state)
{
    (void)state;
    iv__device *d[2];
    const iv_backend_options o = {0};
    WORKS(iv__device_open("cpu:0", &o, false, &d[0]));
    WORKS(iv__device_open(name, &o, false, &d[1]));
    for (int64_t k = 0; k < IV_COUNT(operators); ++k) race_operator(d, k);
    for (int i = 0; i < 2; ++i) iv__device_close(d[i]);
}

/* ---- a training step ---- */

typedef struct side {
    iv_config *config;
    iv_model_spec spec;
    iv_trainer *trainer;
} side;

static void open_side(side *s, const char *device)
{
    static const char *const gpt[] = {"model.name=gpt",  "model.layers=6",      "model.heads=6",
                                      "model.width=192", "model.context=128",   "model.vocab=256",
                                      "train.batch=4",   "train.max_steps=1000"};
    char copy[256];
    WORKS(iv_config_new(&s->config));
    for (int64_t i = 0; i < IV_COUNT(gpt) + n_settings; ++i) {
        snprintf(copy, sizeof(copy), "%s",
                 i < IV_COUNT(gpt) ? gpt[i] : settings[i - IV_COUNT(gpt)]);
        char *eq = strchr(copy, '=');
        if (!eq) fail_msg("'%s': a setting is written key=value", copy);
        *eq = 0;
        WORKS(iv_config_set(s->config, copy, eq + 1));
    }
    WORKS(iv_config_set(s->config, "device.devices", device));
    WORKS(iv_model_spec_from(s->config, NULL, &s->spec));
    WORKS(iv_trainer_open(s->config, NULL, iv_model_build, &s->spec, &s->trainer));
}

/* Products and attention have other names where a library or a kernel of the backend does them. */
static const char *common_name(const char *label)
{
    if (strstr(label, "matmul") || strstr(label, "gemm")) return "all products";
    if (strstr(label, "attention")) return "all attention";
    return label;
}

static race *race_of(race *all, int *n, const char *label)
{
    for (int i = 0; i < *n; ++i)
        if (strcmp(all[i].label, label) == 0) return &all[i];
    if (*n == MOST_ROWS) fail_msg("more than %d kinds of steps", MOST_ROWS);
    snprintf(all[*n].label, sizeof(all[*n].label), "%s", label);
    return &all[(*n)++];
}

static void add_round(race *all, int *n, int device, const side *s)
{
    iv__step_time *rows;
    int64_t n_rows;
    WORKS(iv__trainer_profile(s->trainer, 1, &rows, &n_rows));
    for (int64_t i = 0; i < n_rows; ++i) {
        race *r = race_of(all, n, common_name(rows[i].label));
        r->wall[device][r->n[device]] += 1e-9 * (double)rows[i].ns;
        r->cpu[device][r->n[device]] += 1e-9 * (double)rows[i].cpu_ns;
        if (device == 1 && r->n[1] == 0) r->bytes += (double)rows[i].bytes;
    }
    for (int i = 0; i < *n; ++i) /* kinds that this device has */
        all[i].n[device] += all[i].wall[device][all[i].n[device]] > 0;
    free(rows);
}

static void step_in_turns(void **state)
{
    (void)state;
    static race all[MOST_ROWS];
    side sides[2] = {{0}};
    int n = 0;
    open_side(&sides[0], "cpu:0");
    open_side(&sides[1], name);
    for (int64_t round = 0; round < rounds; ++round)
        for (int i = 0; i < 2; ++i) add_round(all, &n, i, &sides[i]);
    for (int i = 0; i < n; ++i) report(&all[i]);
    for (int i = 0; i < 2; ++i) {
        iv_trainer_close(sides[i].trainer);
        iv_config_free(sides[i].config);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(operators_in_turns),
                                       cmocka_unit_test(step_in_turns)};
    if (argc < 2) {
        printf("skipped: no device is named (ci/opencl speed does)\n");
        return 77;
    }
    name = argv[1];
    if (argc > 2) rounds = IV_MAX2(1, IV_MIN2(atoll(argv[2]), MOST_ROUNDS));
    n_settings = argc > 3 ? argc - 3 : 0;
    settings = argv + 3;
    printf("%-40s %12s %12s %15s  %5s  %5s\n", "medians", "cpu:0", name, "", "clock", "CPU");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
