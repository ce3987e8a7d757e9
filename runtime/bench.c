/* bench.c: what a device reaches: peaks and matrix products (a training step's are in
 * bench_step.c).
 *
 * A row's time is the median of runs that fill the time asked for.  Where several implementations
 * take the same product they run in turns, so that what else the machine does meets all of them.
 * Shares are of peaks measured in the same call. */
#include "bench.h"

#include "../kernels/portable.h"

enum { CANDIDATES = 8, MOST_RUNS = 1000, STREAM_ELEMS = 1 << 24 };

/* ---- timing ---- */

static int by_time(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double iv__bench_median(double *seconds, int64_t n)
{
    qsort(seconds, (size_t)n, sizeof(*seconds), by_time);
    return n ? seconds[n / 2] : 0;
}

void iv__bench_row(const iv__bench *b, const iv_bench_row *row)
{
    b->on_row(b->ctx, row);
}

/* ---- peaks ---- */

/* out = a + b over arrays that no cache holds: the program of one addition. */
static iv_status stream(iv__bench *b, double *out_bytes_per_s)
{
    iv__device *d = b->device;
    iv_program p = iv__store_add_program(IV_F32, STREAM_ELEMS);
    iv__memory m[3] = {{0}};
    void *kernel;
    const int64_t bytes = STREAM_ELEMS * 4;
    iv_status s = iv__device_program(d, &p, &kernel);
    for (int i = 0; s == IV_OK && i < 3; ++i) s = iv__memory_alloc(d, bytes, "an array", &m[i]);
    iv_launch l = {.n_bufs = 3, .groups = STREAM_ELEMS / IV_PROGRAM_TILE};
    for (int i = 0; i < 3; ++i) l.buf[i] = iv__memory_range(&m[i], 0, bytes);
    double best = 0;
    for (int i = 0; s == IV_OK && i < 8; ++i) {
        const int64_t start = iv__now_ns();
        s = d->vt->launch(d->queue, kernel, &l);
        if (s == IV_OK) s = d->vt->sync(d->queue);
        best = IV_MAX2(best, 3.0 * (double)bytes * 1e9 / (double)(iv__now_ns() - start));
    }
    for (int i = 0; i < 3; ++i) iv__memory_free(&m[i]);
    *out_bytes_per_s = best;
    return s;
}

static iv_status find_peaks(iv__bench *b)
{
    static const iv_dtype types[] = {IV_F32, IV_F64, IV_BF16};
    iv__device *d = b->device;
    for (int64_t i = 0; d->vt->peak_flops && i < IV_COUNT(types); ++i)
        b->peak_flops[types[i]] = d->vt->peak_flops(d->dev, types[i]);
    b->peak_flops[IV_F16] = b->peak_flops[IV_F32];
    return stream(b, &b->peak_bytes);
}

static iv_status bench_peak(iv__bench *b)
{
    char name[64];
    for (int32_t t = 0; t < IV_DTYPE_COUNT; ++t) {
        if (b->peak_flops[t] == 0 || t == IV_F16) continue;
        snprintf(name, sizeof(name), "multipliers, %s", iv_dtype_name((iv_dtype)t));
        iv__bench_row(b, &(iv_bench_row){
                             .group = "peak", .name = name, .impl = "", .flops = b->peak_flops[t]});
    }
    iv__bench_row(
        b, &(iv_bench_row){
               .group = "peak", .name = "memory, c = a + b", .impl = "", .bytes = b->peak_bytes});
    return IV_OK;
}

/* ---- matrix products ---- */

/* The products of a layer of GPT-2 124M: inputs, outputs. */
static const struct {
    const char *name;
    int64_t in, out;
} layers[] = {{"qkv", 768, 2304}, {"out", 768, 768}, {"up", 768, 3072}, {"down", 3072, 768}};

typedef enum direction { FORWARD, DATA, WEIGHT, DIRECTIONS } direction;
static const char *const direction_names[DIRECTIONS] = {"forward", "data", "weight"};

static iv_tensor_desc matrix(iv_dtype t, int64_t rows, int64_t cols)
{
    return (iv_tensor_desc){.dtype = t, .shape = IV_SHAPE(rows, cols), .stride = {cols, 1}};
}

/* forward: y [M,O] = x [M,I] w [I,O]; data: dx = dy w'; weight: dw = x' dy, summed by grains. */
static iv_op_desc describe(const iv__bench *b, direction way, int64_t m, int64_t in, int64_t out)
{
    const iv_dtype low = b->low, full = b->low == IV_F64 ? IV_F64 : IV_F32;
    iv_op_desc d = {.op = "matmul", .n_in = 2, .n_out = 1, .segments = 1};
    d.invariant = b->device->invariant;
    d.in[0] = way == FORWARD || way == WEIGHT ? matrix(low, m, in) : matrix(low, m, out);
    d.in[1] = way == WEIGHT ? matrix(low, m, out) : matrix(low, in, out);
    d.out[0] = way == FORWARD ? matrix(low, m, out)
               : way == DATA  ? matrix(low, m, in)
                              : matrix(full, in, out);
    d.attr[IV_A_TA] = way == WEIGHT;
    d.attr[IV_A_TB] = way == DATA;
    if (way == WEIGHT) d.segments = 8;
    return d;
}

typedef struct candidate {
    const iv_impl *impl;
    void *prepared;
    iv__memory scratch;
    double *seconds;
} candidate;

static void free_candidates(candidate *c, int32_t n)
{
    for (int32_t i = 0; i < n; ++i) {
        if (c[i].impl->unprepare) c[i].impl->unprepare(c[i].prepared);
        iv__memory_free(&c[i].scratch);
        free(c[i].seconds);
    }
}

/* Those of the device's implementations that take d, prepared. */
static iv_status find_candidates(iv__bench *b, const iv_op_desc *d, candidate *c, int32_t *out_n)
{
    iv__device *dev = b->device;
    int32_t count = 0;
    const iv_impl *const *list = dev->vt->impls ? dev->vt->impls(dev->dev, &count) : NULL;
    for (int32_t i = 0; i < count && *out_n < CANDIDATES; ++i) {
        int64_t scratch = 0;
        candidate k = {.impl = list[i]};
        if (strcmp(list[i]->op, d->op) != 0 || (d->invariant && !list[i]->invariant)) continue;
        if (list[i]->accepts(dev->dev, d) != IV_OK) continue;
        IV_TRY(list[i]->prepare(dev->dev, d, &k.prepared, &scratch));
        c[(*out_n)++] = k;
        IV_TRY(iv__calloc(MOST_RUNS, sizeof(double), "times", &c[*out_n - 1].seconds));
        IV_TRY(iv__memory_alloc(dev, scratch, "scratch", &c[*out_n - 1].scratch));
    }
    return IV_OK;
}

static iv_status run_candidate(iv__bench *b, candidate *c, const iv__memory *m, double *out)
{
    iv_buffer io[4];
    for (int i = 0; i < 3; ++i) io[i] = iv__memory_range(&m[i], 0, m[i].bytes);
    io[3] = iv__memory_range(&c->scratch, 0, c->scratch.bytes);
    const int64_t start = iv__now_ns();
    IV_TRY(c->impl->run(b->device->queue, c->prepared, io));
    IV_TRY(b->device->vt->sync(b->device->queue));
    *out = (double)(iv__now_ns() - start) * 1e-9;
    return IV_OK;
}

/* In turns, one run to warm up, until the time is over. */
static iv_status race(iv__bench *b, candidate *c, int32_t n, const iv__memory *m, int64_t *out_runs)
{
    const int64_t limit = iv__now_ns() + (int64_t)(b->seconds * n * 1e9);
    double warm;
    for (int32_t i = 0; i < n; ++i) IV_TRY(run_candidate(b, &c[i], m, &warm));
    int64_t runs = 0;
    while (runs < MOST_RUNS && (runs < 3 || iv__now_ns() < limit)) {
        for (int32_t i = 0; i < n; ++i) IV_TRY(run_candidate(b, &c[i], m, &c[i].seconds[runs]));
        ++runs;
    }
    *out_runs = runs;
    return IV_OK;
}

static int64_t matrix_bytes(const iv_tensor_desc *t)
{
    return iv_shape_count(&t->shape) * (int64_t)iv_dtype_bytes(t->dtype);
}

static void report_product(const iv__bench *b, const char *name, const candidate *c, int64_t runs,
                           double flops, int64_t bytes)
{
    iv__bench_row(b, &(iv_bench_row){.group = "matmul",
                                     .name = name,
                                     .impl = c->impl->name,
                                     .seconds = iv__bench_median(c->seconds, runs),
                                     .flops = flops,
                                     .bytes = (double)bytes,
                                     .peak_flops = b->peak_flops[b->low],
                                     .peak_bytes = b->peak_bytes,
                                     .runs = runs});
}

/* Fills with numbers in [-1, 1): zeros and denormals would be another case. */
static iv_status fill_random(iv__bench *b, const iv__memory *m, iv_dtype t)
{
    const int64_t n = m->bytes / (int64_t)iv_dtype_bytes(t);
    uint8_t *host;
    IV_TRY(iv__calloc(m->bytes, 1, "numbers", &host));
    for (int64_t i = 0; i < n; ++i) {
        const double x = (double)((i * 2654435761) >> 8 & 0xffff) / 32768.0 - 1;
        const float f = (float)x;
        const uint16_t h = t == IV_BF16 ? iv_to_bf16(f) : iv_to_f16(f);
        memcpy(host + i * (int64_t)iv_dtype_bytes(t),
               t == IV_F64   ? (const void *)&x
               : t == IV_F32 ? (const void *)&f
                             : (const void *)&h,
               iv_dtype_bytes(t));
    }
    iv_status s = iv__device_write(b->device, iv__memory_range(m, 0, m->bytes), host);
    free(host);
    return s;
}

static iv_status bench_product(iv__bench *b, direction way, const char *layer, int64_t m,
                               int64_t in, int64_t out)
{
    const iv_op_desc d = describe(b, way, m, in, out);
    candidate c[CANDIDATES];
    iv__memory mem[3] = {{0}};
    int32_t n = 0;
    int64_t runs = 0,
            bytes[3] = {matrix_bytes(&d.in[0]), matrix_bytes(&d.in[1]), matrix_bytes(&d.out[0])};
    char name[96];
    snprintf(name, sizeof(name), "%s %s, %lld rows", layer, direction_names[way], (long long)m);
    iv_status s = find_candidates(b, &d, c, &n);
    for (int i = 0; s == IV_OK && i < 3; ++i)
        s = iv__memory_alloc(b->device, bytes[i], "a matrix", &mem[i]);
    for (int i = 0; s == IV_OK && i < 2; ++i) s = fill_random(b, &mem[i], d.in[i].dtype);
    if (s == IV_OK) s = race(b, c, n, mem, &runs);
    for (int32_t i = 0; s == IV_OK && i < n; ++i)
        report_product(b, name, &c[i], runs, 2.0 * (double)(m * in) * (double)out,
                       bytes[0] + bytes[1] + bytes[2]);
    for (int i = 0; i < 3; ++i) iv__memory_free(&mem[i]);
    free_candidates(c, n);
    return s;
}

static iv_status bench_matmul(iv__bench *b)
{
    static const int64_t rows[] = {1024, 4096};
    for (int64_t r = 0; r < IV_COUNT(rows); ++r)
        for (int64_t i = 0; i < IV_COUNT(layers); ++i)
            for (int way = 0; way < DIRECTIONS; ++way)
                IV_TRY(bench_product(b, (direction)way, layers[i].name, rows[r], layers[i].in,
                                     layers[i].out));
    return IV_OK;
}

/* ---- groups ---- */

static const struct {
    const char *name;
    iv_status (*run)(iv__bench *b);
} groups[] = {{"peak", bench_peak},     {"matmul", bench_matmul},         {"ops", iv__bench_ops},
              {"step", iv__bench_step}, {"launches", iv__bench_launches}, {"ckpt", iv__bench_ckpt}};
enum { GROUPS_OF_ALL = 4 }; /* the others are run when they are named */

static iv_status check_name(const char *what)
{
    const char *names[IV_COUNT(groups) + 1] = {"all"};
    for (int64_t i = 0; i < IV_COUNT(groups); ++i) names[i + 1] = groups[i].name;
    for (int64_t i = 0; i < IV_COUNT(names); ++i)
        if (strcmp(what, names[i]) == 0) return IV_OK;
    const char *near = iv__nearest(what, names, IV_COUNT(names));
    IV_FAIL(IV_INVALID,
            "benchmark '%s': there is none of that name%s%s [hint: peak, matmul, ops, step, "
            "launches, ckpt or all]",
            what, near ? "; nearest: " : "", near ? near : "");
}

/* What products run in: the type of the first one of the model. */
static iv_dtype product_type(const iv_graph *g)
{
    for (int64_t i = 0; i < g->n_nodes; ++i)
        if (g->nodes[i].op == IV_OP_MATMUL) return g->values[g->nodes[i].in[0]].dtype;
    return IV_F32;
}

iv_status iv_bench_run(iv_trainer *t, const char *what, double seconds,
                       void (*on_row)(void *ctx, const iv_bench_row *row), void *ctx)
{
    iv__bench b = {.t = t, .device = t->device, .seconds = seconds, .on_row = on_row, .ctx = ctx};
    if (!(seconds > 0)) IV_FAIL(IV_INVALID, "benchmark: %g seconds for a row", seconds);
    IV_TRY(check_name(what));
    b.low = product_type(t->workers.replicas[0]->programs[0].graph);
    IV_TRY(find_peaks(&b));
    for (int64_t i = 0; i < IV_COUNT(groups); ++i)
        if (strcmp(what, i < GROUPS_OF_ALL ? "all" : "") == 0 || strcmp(what, groups[i].name) == 0)
            IV_TRY(groups[i].run(&b));
    return IV_OK;
}
