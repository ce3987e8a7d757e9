/* test_few_bits.c: what policies of few bits make of a product with a parameter.
 *
 * A product with the identity shows the weights as the product sees them; the identity as the
 * output's gradient shows them in the backward pass.  The gradient of the weights is that of
 * bf16-mixed, bit for bit: it goes straight through the rounding.  With 8-bit floats both operands
 * are rounded by scales, and the largest magnitude of each is found. */
#include "reference.h"

static iv__device *device;

static int open_it(void **state)
{
    (void)state;
    device = device_open(2, NULL, true, NULL);
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    iv__device_close(device);
    return 0;
}

enum { MOST = 200 };

typedef struct linear {
    rig r;
    iv_value x, w, v;
    int64_t in, out; /* of the product */
    bool turned;     /* w is [out, in] */
} linear;

/* y = x w' of `rows` rows, loss = sum(y v). */
static void open_linear(linear *l, int policy, int64_t rows, int64_t in, int64_t out, bool turned)
{
    *l = (linear){.in = in, .out = out, .turned = turned};
    rig_open(&l->r, device, policy, 1);
    iv_graph *g = l->r.g;
    l->x = iv_input(g, "x", IV_F32, IV_SHAPE(rows, in));
    l->w = iv_param(g, "w", turned ? IV_SHAPE(out, in) : IV_SHAPE(in, out),
                    (iv_init){IV_INIT_ZEROS, 0});
    l->v = iv_input(g, "v", IV_F32, IV_SHAPE(rows, out));
    iv_value y = iv_matmul(g, l->x, l->w, false, turned);
    iv_graph_set_output(g, "y", y);
    iv_graph_set_loss(g, iv_sum(g, iv_mul(g, y, l->v), 0, false));
    rig_differentiate(&l->r, &l->x, 1);
    WORKS(rig_compile(&l->r, rows));
}

static void fill(double *x, int64_t n, double size, uint64_t seed)
{
    for (int64_t i = 0; i < n; ++i) x[i] = (double)(float)next_in(&seed, -size, size);
}

static void identity(double *x, int64_t n)
{
    for (int64_t i = 0; i < n * n; ++i) x[i] = i / n == i % n;
}

/* Weight (o, i) of [outputs, inputs]. */
static int64_t place(const linear *l, int64_t o, int64_t i)
{
    return l->turned ? o * l->in + i : i * l->out + o;
}

/* What weight k of [outputs, inputs] is rounded to, in f64. */
static double few_bits(const linear *l, const double *w, int policy, int64_t k)
{
    int64_t first = policy == P_INT8 ? k / l->in * l->in : k / 64 * 64;
    int64_t end = policy == P_INT8 ? first + l->in : first + 64;
    double most = 0, x = w[place(l, k / l->in, k % l->in)];
    for (int64_t j = first; j < end && j < l->in * l->out; ++j)
        most = fmax(most, fabs(w[place(l, j / l->in, j % l->in)]));
    if (most == 0) return 0;
    return policy == P_INT8 ? nearbyint(x * 127 / most) * most / 127
                            : normal_float(x / most) * most;
}

static void check_weights(int policy, int64_t in, int64_t out, bool turned)
{
    static double x[MOST * MOST], w[MOST * MOST], v[MOST * MOST];
    linear l, plain;
    int64_t n;
    open_linear(&l, policy, in, in, out, turned);
    identity(x, in);
    fill(w, in * out, 0.3, 11);
    for (int64_t k = 0; k < in; ++k) w[place(&l, out - 1, k)] = 0; /* no largest magnitude there */
    fill(v, in * out, 1, 12);
    open_linear(&plain, P_BF16_MIXED, in, in, out, turned);
    linear *both[2] = {&l, &plain};
    for (int i = 0; i < 2; ++i) {
        rig_write(&both[i]->r, both[i]->x, x);
        rig_write(&both[i]->r, both[i]->w, w);
        rig_write(&both[i]->r, both[i]->v, v);
        rig_run(&both[i]->r);
    }
    double *y = rig_read(&l.r, "y", &n), *dw = rig_gradient(&l.r, "w"),
           *straight = rig_gradient(&plain.r, "w");
    for (int64_t k = 0; k < in * out; ++k) {
        double want = few_bits(&l, w, policy, k), got = y[k % in * out + k / in];
        if (fabs(got - want) > fabs(want) * 0x1p-8)
            fail_msg("%s, %d x %d, weight %d: %.9g, expected %.9g", policies[policy].name, (int)in,
                     (int)out, (int)k, got, want);
        if (dw[k] != straight[k])
            fail_msg("%s: gradient %d is %.9g, in bf16-mixed %.9g", policies[policy].name, (int)k,
                     dw[k], straight[k]);
    }
    free(y);
    free(dw);
    free(straight);
    rig_close(&l.r);
    rig_close(&plain.r);
}

/* The backward pass uses the rounded weights too: dx = v w, with the identity as v. */
static void check_backward(int policy, int64_t in, int64_t out, bool turned)
{
    static double x[MOST * MOST], w[MOST * MOST], v[MOST * MOST];
    linear l;
    int64_t n;
    open_linear(&l, policy, out, in, out, turned);
    fill(x, in * out, 1, 13);
    fill(w, in * out, 0.3, 14);
    identity(v, out);
    rig_write(&l.r, l.x, x);
    rig_write(&l.r, l.w, w);
    rig_write(&l.r, l.v, v);
    rig_run(&l.r);
    double *dx = rig_read(&l.r, "d0", &n);
    for (int64_t k = 0; k < in * out; ++k) {
        double want = few_bits(&l, w, policy, k);
        if (fabs(dx[k] - want) > fabs(want) * 0x1p-8)
            fail_msg("%s backward, weight %d: %.9g, expected %.9g", policies[policy].name, (int)k,
                     dx[k], want);
    }
    free(dx);
    rig_close(&l.r);
}

static void weights_are_rounded(void **state)
{
    static const int64_t shapes[][2] = {{64, 3}, {33, 5}, {70, 130}, {128, 64}, {1, 7}};
    (void)state;
    for (int policy = P_INT8; policy <= P_NF4; ++policy)
        for (int64_t i = 0; i < IV_COUNT(shapes); ++i)
            for (int turned = 0; turned < 2; ++turned) {
                check_weights(policy, shapes[i][0], shapes[i][1], turned);
                check_backward(policy, shapes[i][0], shapes[i][1], turned);
            }
}

/* ---- 8-bit floats ---- */

static double e4m3(double x, double s)
{
    return float8(x * s, 3, -6, 448) / s;
}

static double e5m2(double x, double s)
{
    return float8(x * s, 2, -14, 57344) / s;
}

static double largest(const double *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; ++i) m = fmax(m, fabs(x[i]));
    return m;
}

static void expect(const char *what, double got, double want, double unit)
{
    if (fabs(got - want) > unit) fail_msg("%s is %.9g, expected %.9g", what, got, want);
}

/* Products of rounded operands: y of x and w, dx of v and w, dw of x and v. */
static void float8_rounds_both_operands(void **state)
{
    enum { ROWS = 9, IN = 40, OUT = 24 };
    static double x[ROWS * IN], w[IN * OUT], v[ROWS * OUT];
    const double scales[3] = {64, 1024, 0x1p10}; /* x, w, dy: x's saturates */
    (void)state;
    for (int turned = 0; turned < 2; ++turned) {
        linear l;
        int64_t n;
        open_linear(&l, P_FP8, ROWS, IN, OUT, turned);
        assert_int_equal(l.r.g->n_scaled, 3);
        fill(x, ROWS * IN, 10, 1);
        fill(w, IN * OUT, 0.2, 2);
        fill(v, ROWS * OUT, 0.01, 3);
        for (int64_t i = 0; i < ROWS * OUT; ++i) v[i] = rounded(IV_BF16, v[i]); /* as dy arrives */
        rig_write(&l.r, l.x, x);
        rig_write(&l.r, l.w, w);
        rig_write(&l.r, l.v, v);
        rig_write(&l.r, (iv_value){l.r.g->scales}, scales);
        rig_run(&l.r);
        double *y = rig_read(&l.r, "y", &n), *dx = rig_read(&l.r, "d0", &n),
               *dw = rig_gradient(&l.r, "w");
        for (int64_t r = 0; r < ROWS; ++r)
            for (int64_t o = 0; o < OUT; ++o) {
                double sum = 0;
                for (int64_t i = 0; i < IN; ++i)
                    sum += e4m3(x[r * IN + i], scales[0]) * e4m3(w[place(&l, o, i)], scales[1]);
                expect("y", y[r * OUT + o], sum, fabs(sum) * 0x1p-8 + 1e-4);
            }
        for (int64_t r = 0; r < ROWS; ++r)
            for (int64_t i = 0; i < IN; ++i) {
                double sum = 0;
                for (int64_t o = 0; o < OUT; ++o)
                    sum += e5m2(v[r * OUT + o], scales[2]) * e4m3(w[place(&l, o, i)], scales[1]);
                expect("dx", dx[r * IN + i], sum, fabs(sum) * 0x1p-8 + 1e-6);
            }
        for (int64_t i = 0; i < IN; ++i)
            for (int64_t o = 0; o < OUT; ++o) {
                double sum = 0;
                for (int64_t r = 0; r < ROWS; ++r)
                    sum += e4m3(x[r * IN + i], scales[0]) * e5m2(v[r * OUT + o], scales[2]);
                expect("dw", dw[place(&l, o, i)], sum, 1e-6);
            }
        float amax[3];
        const iv__store *s = l.r.store;
        WORKS(iv__device_read(device, amax, iv__memory_range(&s->grad_mem, s->amax_at * 4, 12)));
        assert_true((double)amax[0] == largest(x, ROWS * IN));
        assert_true((double)amax[1] == largest(w, IN * OUT));
        assert_true((double)amax[2] == largest(v, ROWS * OUT));
        free(y);
        free(dx);
        free(dw);
        rig_close(&l.r);
    }
}

/* Each tensor is rounded once, whoever uses it; products without a parameter are not. */
static void each_tensor_has_one_scale(void **state)
{
    (void)state;
    for (int train = 0; train < 2; ++train) {
        rig r;
        rig_open(&r, device, P_FP8, 1);
        iv_value x = iv_input(r.g, "x", IV_F32, IV_SHAPE(4, 6, 8)), w[2];
        for (int i = 0; i < 2; ++i)
            w[i] = iv_param(r.g, i ? "a" : "b", IV_SHAPE(8, 8), (iv_init){IV_INIT_ONES, 0});
        iv_value p = iv_matmul(r.g, x, w[0], false, false),
                 q = iv_matmul(r.g, x, w[1], false, true);
        iv_graph_set_loss(r.g, iv_sum(r.g, iv_matmul(r.g, p, q, false, true), 0, false));
        if (train) WORKS(iv_graph_differentiate(r.g));
        iv_graph_set_output(r.g, "y", p);
        WORKS(rig_cast(&r));
        /* x and two weights; two gradients of outputs */
        assert_int_equal(r.g->n_scaled, train ? 5 : 3);
        for (int i = 0; i < (int)r.g->n_scaled; ++i) {
            assert_int_equal(r.g->scaled[i].gradient, i >= 3);
            assert_true((r.g->scaled[i].amax >= 0) == train);
        }
        rig_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_rounded),
        cmocka_unit_test(float8_rounds_both_operands),
        cmocka_unit_test(each_tensor_has_one_scale),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
