/* test_grains.c: sums over samples are sums inside grains, folded by the balanced tree over the
 * grain's number (docs/numerics.md, rule 7).
 *
 * Each graph runs once over all samples cut into G grains, and G times over one grain alone; the
 * results of the latter, added by a literal tree here, must have the bits of the former: the loss,
 * every sum that a graph names "s...", and every parameter's gradient.  Outputs named "y..." are
 * per sample: the parts follow each other. */
#include "harness.h"

static iv__device *device, *portable;
static double size = 1; /* of the weights of the loss, so of all gradients */

static int open_it(void **state)
{
    (void)state;
    device = device_open(2, NULL, true, NULL);
    portable = device_open(1, NULL, true, "*:portable");
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    iv__device_close(device);
    iv__device_close(portable);
    return 0;
}

/* ---- the graphs: n samples ---- */

static iv_value in(rig *r, const char *name, iv_shape s)
{
    return iv_input(r->g, name, IV_F32, s);
}

static iv_value par(rig *r, const char *name, iv_shape s)
{
    return iv_param(r->g, name, s, (iv_init){IV_INIT_NORMAL, 0.5});
}

/* loss = sum of y times random weights */
static void weigh(rig *r, iv_value y)
{
    iv_graph_set_loss(r->g,
                      iv_sum(r->g, iv_mul(r->g, y, in(r, "v", iv_value_shape(r->g, y))), 0, false));
}

static void sums(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 5, 67)), y = iv_transpose(r->g, x, (int32_t[]){0, 2, 1});
    iv_graph_set_output(r->g, "s0", iv_sum(r->g, x, 1, false));
    iv_graph_set_output(r->g, "s1", iv_sum(r->g, x, 0, false));
    iv_graph_set_output(r->g, "s2", iv_sum(r->g, x, 1 + 4, true));
    iv_graph_set_output(r->g, "s3", iv_sum(r->g, y, 1 + 2, true));
    iv_graph_set_output(r->g, "s4", iv_sum(r->g, iv_reshape(r->g, x, IV_SHAPE(-1, 67)), 1, true));
    iv_graph_set_output(r->g, "y0", iv_sum(r->g, x, 2, true));
    iv_graph_set_output(r->g, "y1", iv_max(r->g, x, 4, true));
}

/* The samples are not the first dimension where they are summed over. */
static void turned_sums(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 5, 67)), a = iv_transpose(r->g, x, (int32_t[]){1, 0, 2}),
             b = iv_transpose(r->g, x, (int32_t[]){2, 1, 0});
    iv_graph_set_output(r->g, "s0", iv_sum(r->g, a, 2, false));
    iv_graph_set_output(r->g, "s1", iv_sum(r->g, a, 0, false));
    iv_graph_set_output(r->g, "s2", iv_sum(r->g, a, 1 + 2, true));
    iv_graph_set_output(r->g, "s3", iv_sum(r->g, b, 4, false));
    iv_graph_set_output(r->g, "s4", iv_sum(r->g, b, 2 + 4, true));
    iv_graph_set_output(r->g, "s5", iv_sum(r->g, iv_exp(r->g, b), 1 + 4, false));
    b = iv_mul(r->g, b, par(r, "w", IV_SHAPE(5, 1)));
    b = iv_sum(r->g, iv_add(r->g, iv_tanh(r->g, b), par(r, "p", IV_SHAPE(67, 1, 1))), 2, true);
    weigh(r, iv_transpose(r->g, b, (int32_t[]){2, 0, 1}));
}

/* A batch of products whose inner dimension is that of the samples, and its parameter's gradient.
 */
static void turned_batches(rig *r, int64_t n)
{
    iv_value x = iv_transpose(r->g, in(r, "x", IV_SHAPE(n, 3, 8)), (int32_t[]){1, 0, 2}),
             z = iv_transpose(r->g, in(r, "z", IV_SHAPE(n, 3, 6)), (int32_t[]){1, 2, 0}),
             y = iv_matmul(r->g, x, par(r, "w", IV_SHAPE(3, 8, 4)), false, false);
    iv_graph_set_output(r->g, "s0", iv_matmul(r->g, z, x, false, false));
    weigh(r, iv_transpose(r->g, y, (int32_t[]){1, 0, 2}));
}

static void long_sums(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 300, 9));
    iv_graph_set_output(r->g, "s0", iv_sum(r->g, x, 1 + 2, false));
    iv_graph_set_output(r->g, "s1", iv_sum(r->g, x, 0, false));
}

static void linear(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 33)), h = iv_linear(r->g, x, par(r, "w", IV_SHAPE(33, 20)),
                                                            par(r, "b", IV_SHAPE(20)), false);
    weigh(r, iv_linear(r->g, iv_tanh(r->g, h), par(r, "w2", IV_SHAPE(70, 20)),
                       par(r, "b2", IV_SHAPE(70)), true));
}

static void linear_rows(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 7, 33)),
             h = iv_linear(r->g, x, par(r, "w", IV_SHAPE(33, 20)), par(r, "b", IV_SHAPE(20)),
                           false);
    h = iv_reshape(r->g, h, IV_SHAPE(-1, 20));
    weigh(r, iv_matmul(r->g, h, par(r, "w2", IV_SHAPE(20, 6)), false, false));
}

static void turned_products(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 9)), z = in(r, "z", IV_SHAPE(n, 5)),
             turned = iv_transpose(r->g, x, (int32_t[]){1, 0});
    iv_graph_set_output(r->g, "s0", iv_matmul(r->g, x, z, true, false));
    iv_graph_set_output(r->g, "s1", iv_matmul(r->g, turned, z, false, false));
}

static void broadcasts(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 5, 67)), y = iv_mul(r->g, x, par(r, "w", IV_SHAPE(67)));
    y = iv_add(r->g, y, par(r, "position", IV_SHAPE(5, 67)));
    y = iv_mul(r->g, y, iv_broadcast(r->g, par(r, "one", IV_SHAPE(1, 5, 1)), IV_SHAPE(n, 5, 67)));
    weigh(r, iv_add(r->g, y, par(r, "scalar", IV_SHAPE(1))));
}

/* The gradient of each sample is a constant that no input brings in. */
static void bare_mean(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 11)), y = iv_add(r->g, x, par(r, "b", IV_SHAPE(11)));
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_scale(r->g, y, 1.0 / 3), 0, false));
}

static void norms(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 5, 67));
    iv_value y = iv_layernorm(r->g, x, par(r, "w", IV_SHAPE(67)), par(r, "b", IV_SHAPE(67)), 1e-5);
    weigh(r, iv_rmsnorm(r->g, y, par(r, "w2", IV_SHAPE(67)), 1e-5));
}

static void long_norms(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 300, 9));
    iv_value y = iv_layernorm(r->g, x, par(r, "w", IV_SHAPE(9)), par(r, "b", IV_SHAPE(9)), 1e-5);
    weigh(r, iv_rmsnorm(r->g, y, par(r, "w2", IV_SHAPE(9)), 1e-5));
}

static void batchnorm(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 6, 5)), w = par(r, "w", IV_SHAPE(6)),
             b = par(r, "b", IV_SHAPE(6)), stat[2];
    for (int i = 0; i < 2; ++i)
        stat[i] = iv_state(r->g, i ? "variance" : "mean", IV_SHAPE(6), (iv_init){IV_INIT_ONES, 0});
    iv_value y = iv_batchnorm(r->g, x, w, b, stat[0], stat[1], 1e-5, 0.1, true);
    iv_graph_set_output(r->g, "y0", y);
    weigh(r, y);
}

static void embedding(rig *r, int64_t n)
{
    iv_value ids = iv_input(r->g, "ids", IV_I32, IV_SHAPE(n, 40));
    weigh(r, iv_embedding(r->g, par(r, "w", IV_SHAPE(6, 70)), ids));
}

static void conv(rig *r, int64_t n)
{
    iv_window w = {{0, 0}, {1, 2}, {1, 0}};
    iv_value b = par(r, "b", IV_SHAPE(6)), x = in(r, "x", IV_SHAPE(n, 4, 6, 7));
    iv_value y = iv_conv2d(r->g, x, par(r, "w", IV_SHAPE(6, 2, 3, 3)), &b, w, 2);
    iv_window p = {{2, 2}, {2, 1}, {0, 1}};
    y = iv_max_pool2d(r->g, y, p);
    iv_graph_set_output(r->g, "y0", y);
    weigh(r, iv_avg_pool2d(r->g, y, p));
}

static void attention(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 9, 12)),
             q = iv_matmul(r->g, x, par(r, "w", IV_SHAPE(12, 36)), false, false), part[3];
    for (int i = 0; i < 3; ++i) part[i] = iv_slice(r->g, q, -1, 12 * i, 12);
    iv_value o = iv_attention(r->g, part[0], part[1], part[2], 3, true, 0);
    weigh(r, iv_matmul(r->g, o, par(r, "w2", IV_SHAPE(12, 12)), false, true));
}

static void classify(rig *r, int64_t n)
{
    iv_value x = in(r, "x", IV_SHAPE(n, 5, 8)), t = iv_input(r->g, "ids", IV_I32, IV_SHAPE(n, 5));
    iv_value y = iv_linear(r->g, x, par(r, "w", IV_SHAPE(6, 8)), par(r, "b", IV_SHAPE(6)), true);
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_cross_entropy_rows(r->g, y, t, 2), 0, false));
}

#define GRAPH(fn, per)                                                                             \
    {                                                                                              \
        fn, #fn, per                                                                               \
    }
static const struct {
    void (*build)(rig *r, int64_t n);
    const char *name;
    int64_t per; /* samples of a grain */
} graphs[] = {
    GRAPH(sums, 3),           GRAPH(long_sums, 1),       GRAPH(linear, 5),
    GRAPH(linear_rows, 3),    GRAPH(turned_products, 5), GRAPH(broadcasts, 3),
    GRAPH(bare_mean, 7),      GRAPH(norms, 3),           GRAPH(long_norms, 1),
    GRAPH(batchnorm, 4),      GRAPH(embedding, 2),       GRAPH(conv, 2),
    GRAPH(attention, 2),      GRAPH(classify, 3),        GRAPH(turned_sums, 3),
    GRAPH(turned_batches, 5),
};

/* ---- running them ---- */

/* Samples [from, from + n) of every input: input k is a fixed stream of numbers. */
static void feed(rig *r, int64_t n, int64_t from)
{
    for (int32_t v = 0; v < r->g->n_values; ++v) {
        const iv__value *value = &r->g->values[v];
        if (value->role != IV_ROLE_INPUT || value->shape.rank == 0) continue;
        int64_t elems = iv_shape_count(&value->shape), skip = elems / n * from;
        double *x = malloc((size_t)elems * sizeof(*x));
        uint64_t state = (uint64_t)value->name[0];
        assert_non_null(x);
        for (int64_t i = 0; i < skip + elems; ++i) {
            double e =
                value->dtype == IV_I32 ? (double)(next_bits(&state) % 6) : next_in(&state, -2, 2);
            if (value->name[0] == 'v') e *= size;
            if (i >= skip) x[i - skip] = e;
        }
        rig_write(r, (iv_value){v}, x);
        free(x);
    }
}

static void open_graph(rig *r, iv__device *d, int which, int policy, int64_t grains, int64_t from,
                       int64_t n)
{
    rig_open(r, d, policy, grains);
    graphs[which].build(r, n);
    if (r->g->loss >= 0) rig_differentiate(r, NULL, 0);
    if (rig_compile(r, n) != IV_OK)
        fail_msg("%s, %lld grains: %s", graphs[which].name, (long long)grains, iv_error_message());
    feed(r, n, from);
    rig_run(r);
}

/* The balanced tree over part[lo..hi): splits at the largest power of two below the count. */
static double tree(double *const *part, int64_t lo, int64_t hi, int64_t e, bool wide)
{
    int64_t half = 1;
    if (hi - lo == 1) return part[lo][e];
    while (half * 2 < hi - lo) half *= 2;
    double a = tree(part, lo, lo + half, e, wide), b = tree(part, lo + half, hi, e, wide);
    return wide ? a + b : (double)((float)a + (float)b);
}

static void compare(const char *graph, const char *name, const rig *r, int64_t grains,
                    const double *whole, double *const *part, int64_t n, bool sum)
{
    int64_t per = sum ? n : n / grains;
    for (int64_t e = 0; e < n; ++e) {
        double want =
            sum ? tree(part, 0, grains, e, r->policy->low == IV_F64) : part[e / per][e % per];
        if (whole[e] == want) continue;
        fail_msg("%s, %s, %lld grains, %s of %s: element %lld is %.17g, the %s of the grains %.17g",
                 graph, r->policy->name, (long long)grains, sum ? "sum" : "rows", name,
                 (long long)e, whole[e], sum ? "tree" : "row", want);
    }
}

static void check(iv__device *d, int which, int policy, int64_t grains)
{
    rig whole, part[8];
    double *x, *y[8];
    int64_t per = graphs[which].per, n = 0, m = 0;
    open_graph(&whole, d, which, policy, grains, 0, per * grains);
    for (int64_t g = 0; g < grains; ++g) open_graph(&part[g], d, which, policy, 1, per * g, per);
    for (int32_t i = 0; i < whole.g->n_outputs; ++i) {
        const char *name = whole.g->outputs[i].name;
        x = rig_read(&whole, name, &n);
        for (int64_t g = 0; g < grains; ++g) y[g] = rig_read(&part[g], name, &m);
        compare(graphs[which].name, name, &whole, grains, x, y, n, name[0] != 'y');
        for (int64_t g = 0; g < grains; ++g) free(y[g]);
        free(x);
    }
    for (int64_t i = 0; i < whole.store->n_params; ++i) {
        const char *name = whole.store->params[i].name;
        x = rig_gradient(&whole, name);
        for (int64_t g = 0; g < grains; ++g) y[g] = rig_gradient(&part[g], name);
        compare(graphs[which].name, name, &whole, grains, x, y, whole.store->params[i].count, true);
        for (int64_t g = 0; g < grains; ++g) free(y[g]);
        free(x);
    }
    for (int64_t g = 0; g < grains; ++g) rig_close(&part[g]);
    rig_close(&whole);
}

/* A product that is no parameter's gradient is rounded to bf16 in bf16-mixed: the parts are, too.
 */
static bool rounds_products(int i)
{
    return graphs[i].build == turned_products || graphs[i].build == turned_batches;
}

static void all_graphs(iv__device *d, int policy)
{
    for (int i = 0; i < IV_COUNT(graphs); ++i)
        for (int64_t g = 1; g <= 8 && !(policy == P_BF16_MIXED && rounds_products(i)); ++g)
            check(d, i, policy, g);
}

static void test_f64(void **state)
{
    (void)state;
    all_graphs(device, P_F64);
    all_graphs(portable, P_F64);
}

static void test_f32(void **state)
{
    (void)state;
    all_graphs(device, P_F32);
    all_graphs(portable, P_F32);
}

static void test_bf16_mixed(void **state)
{
    (void)state;
    all_graphs(device, P_BF16_MIXED);
    all_graphs(portable, P_BF16_MIXED);
}

/* Gradients about the least normal number: sums of grains that cancel are denormal, and stay. */
static void test_denormals(void **state)
{
    (void)state;
    size = ldexp(1, -125);
    all_graphs(device, P_BF16_MIXED);
    all_graphs(portable, P_BF16_MIXED);
    size = 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f64),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16_mixed),
        cmocka_unit_test(test_denormals),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
