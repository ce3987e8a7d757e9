/* test_grad.c: every gradient, against finite differences in f64, and the 16- and 32-bit gradients
 * against those in f64.
 *
 * loss = sum(op(x) w) with fixed random w.  Differences are central with four points,
 *     (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h,  h = 2^-10,
 * whose error is h^4 f'''''/30 < 3e-14 x 1e4 (the largest fifth derivative here, of 1/x at 1/2)
 * plus rounding 1e-16 |loss| / h < 1e-11: 1e-8 of max(1, |gradient|) leaves room for both.  Inputs
 * stay 1/32 or more away from kinks (cases.h). */
#include "cases.h"

static iv__device *device;
enum { MOST_ELEMENTS = 24 }; /* of an input that are perturbed */

static int open_it(void **state)
{
    (void)state;
    make_cases();
    device = device_open(1, NULL, true, NULL);
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    iv__device_close(device);
    return 0;
}

static bool differentiable(const op_case *c)
{
    return iv__ops[c->op].grad && !c->forward_only;
}

/* The case with its loss and gradients, ready to run. */
static void open_case(rig *r, built *b, const op_case *c, int policy, view v, bool params)
{
    rig_open(r, device, policy, c->grains ? c->grains : 1);
    r->params = params;
    build_case(r, c, v, b);
    add_loss(r, b);
    if (rig_compile(r, samples_of(b)) != IV_OK) fail_msg("%s: %s", b->name, iv_error_message());
    write_case(r, b);
}

static double loss_at(rig *r, const built *b, int32_t i, int64_t e, double x)
{
    int64_t n = 0;
    double keep = b->data[i].x[e], loss;
    b->data[i].x[e] = x;
    rig_write(r, b->base[i], b->data[i].x);
    b->data[i].x[e] = keep;
    rig_run(r);
    double *y = rig_read(r, "loss", &n);
    loss = y[0];
    free(y);
    return loss;
}

static double difference(rig *r, const built *b, int32_t i, int64_t e)
{
    double x = b->data[i].x[e], h = 0x1p-10;
    double near = loss_at(r, b, i, e, x + h) - loss_at(r, b, i, e, x - h);
    double far = loss_at(r, b, i, e, x + 2 * h) - loss_at(r, b, i, e, x - 2 * h);
    return (8 * near - far) / (12 * h);
}

/* `value` only evaluates the loss: it has no backward nodes, so it is quick. */
static void check_input(const built *b, rig *value, const double *d, int32_t i)
{
    int64_t n = count(&b->data[i]), step = (n + MOST_ELEMENTS - 1) / MOST_ELEMENTS;
    for (int64_t at = 0; at < n; at += step) {
        int64_t e = (at + at / step * 7) % n; /* not only one column */
        if (isnan(b->data[i].x[e])) {
            if (d[e] != 0)
                fail_msg("%s: input %d, element %lld is not used, its gradient is %g", b->name, i,
                         (long long)e, d[e]);
            continue;
        }
        double want = difference(value, b, i, e);
        if (!(fabs(d[e] - want) <= 1e-8 * fmax(1, fabs(want))))
            fail_msg("%s: gradient of input %d, element %lld is %.12g, differences give %.12g",
                     b->name, i, (long long)e, d[e], want);
    }
    rig_write(value, b->base[i], b->data[i].x);
}

static void check_case(const op_case *c, view v)
{
    rig r, value;
    built b, plain;
    char name[8];
    int64_t n = 0;
    open_case(&r, &b, c, P_F64, v, false);
    rig_run(&r);
    rig_open(&value, device, P_F64, c->grains ? c->grains : 1);
    build_case(&value, c, v, &plain);
    plain.w = iv_input(value.g, "w", IV_F32, plain.out[0]);
    iv_graph_set_output(value.g, "loss",
                        iv_sum(value.g, iv_mul(value.g, plain.y, plain.w), 0, false));
    WORKS(rig_compile(&value, samples_of(&plain)));
    write_case(&value, &b);
    for (int32_t i = 0; i < c->n_in; ++i) {
        if (c->fill[i] == 'i' || c->fill[i] == 't') continue;
        snprintf(name, sizeof(name), "d%d", i);
        double *d = rig_read(&r, name, &n);
        assert_int_equal(n, count(&b.data[i]));
        check_input(&b, &value, d, i);
        free(d);
    }
    free_case(&b);
    free_case(&plain);
    rig_close(&r);
    rig_close(&value);
}

static void check_view(view v)
{
    for (int i = 0; i < n_cases; ++i)
        if (differentiable(&cases[i])) check_case(&cases[i], v);
}

static void test_plain(void **state)
{
    (void)state;
    check_view(V_PLAIN);
}

static void test_sliced(void **state)
{
    (void)state;
    check_view(V_SLICED);
}

static void test_transposed(void **state)
{
    (void)state;
    check_view(V_TURNED);
}

/* A broadcast value has ties in MAX and MAX_POOL2D, where there is no derivative, and rows of equal
 * elements in norms, where differences are useless. */
static void test_broadcast(void **state)
{
    (void)state;
    for (int i = 0; i < n_cases; ++i) {
        iv__op op = cases[i].op;
        bool kink = op == IV_OP_MAX || op == IV_OP_MAX_POOL2D || op == IV_OP_LAYERNORM ||
                    op == IV_OP_RMSNORM || op == IV_OP_BATCHNORM;
        if (differentiable(&cases[i]) && !kink) check_case(&cases[i], V_SPREAD);
    }
}

/* ---- other types: the inputs as inputs, then as parameters, whose gradients are in the full type
 * ---- */

/* Values, weights and what is between forward and backward are rounded a few times on the way; each
 * rounding is half a unit of the largest element at most, sums in 16-bit types (bias gradients and
 * the like in "all" policies) add one each.  12 covers the longest path (norms) with room for a
 * factor 2. A gradient is a sum of up to as many terms as there are outputs. */
static void compare_types(const op_case *c, int policy, bool params)
{
    rig r, wide;
    built b, w;
    char name[8];
    open_case(&r, &b, c, policy, V_PLAIN, params);
    rig_open(&wide, device, P_F64, c->grains ? c->grains : 1);
    build_case(&wide, c, V_PLAIN, &w);
    add_loss(&wide, &w);
    WORKS(rig_compile(&wide, samples_of(&w)));
    write_case(&wide, &b); /* the same numbers, rounded to the other policy's type */
    rig_run(&r);
    rig_run(&wide);
    for (int32_t i = 0; i < c->n_in; ++i) {
        if (c->fill[i] == 'i' || c->fill[i] == 't') continue;
        int64_t n = 0;
        snprintf(name, sizeof(name), "d%d", i);
        double *want = rig_read(&wide, name, &n), *got = params ? NULL : rig_read(&r, name, &n),
               most = 1;
        snprintf(name, sizeof(name), "x%d", i);
        if (params) got = rig_gradient(&r, name);
        double slack = 12 * r.policy->unit +
                       (c->chain + (double)iv_shape_count(&b.out[0])) * r.policy->sum_unit;
        for (int64_t e = 0; e < n; ++e) most = fmax(most, fabs(want[e]));
        for (int64_t e = 0; e < n; ++e)
            if (!(fabs(got[e] - want[e]) <= slack * most))
                fail_msg(
                    "%s: gradient of input %d, element %lld is %.9g, in f64 %.9g (largest %.3g)",
                    b.name, i, (long long)e, got[e], want[e], most);
        free(got);
        free(want);
    }
    free_case(&b);
    free_case(&w);
    rig_close(&r);
    rig_close(&wide);
}

static void all_types(int policy)
{
    for (int i = 0; i < 2 * n_cases; ++i)
        if (differentiable(&cases[i / 2])) compare_types(&cases[i / 2], policy, i % 2);
}

static void test_f32(void **state)
{
    (void)state;
    all_types(P_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    all_types(P_BF16);
}

static void test_f16(void **state)
{
    (void)state;
    all_types(P_F16);
}

static void test_bf16_mixed(void **state)
{
    (void)state;
    all_types(P_BF16_MIXED);
}

static void test_bf16_true(void **state)
{
    (void)state;
    all_types(P_BF16_TRUE);
}

/* ---- what the table cannot show ---- */

/* A scalar loss without weights: its gradient reaches the operator as a broadcast view. */
static void test_plain_sum(void **state)
{
    (void)state;
    for (int i = 0; i < n_cases; ++i) {
        rig r;
        built b;
        if (!differentiable(&cases[i])) continue;
        rig_open(&r, device, P_F64, cases[i].grains ? cases[i].grains : 1);
        build_case(&r, &cases[i], V_PLAIN, &b);
        iv_graph_set_loss(r.g, iv_sum(r.g, b.y, 0, false));
        rig_differentiate(&r, b.base, b.c->n_in);
        if (rig_compile(&r, samples_of(&b)) != IV_OK)
            fail_msg("%s, loss sum(y): %s", b.name, iv_error_message());
        write_case(&r, &b);
        rig_run(&r);
        free_case(&b);
        rig_close(&r);
    }
}

/* One value used twice, a parameter as its own loss, two parameters with one gradient. */
static void test_shared(void **state)
{
    (void)state;
    static const double x[3] = {1, -2, 3}, y[3] = {0.5, 4, -1};
    rig r;
    rig_open(&r, device, P_F64, 1);
    iv_value a = iv_param(r.g, "a", IV_SHAPE(3), (iv_init){0}),
             b = iv_param(r.g, "b", IV_SHAPE(3), (iv_init){0});
    iv_value c = iv_param(r.g, "c", IV_SHAPE(3), (iv_init){0}),
             unused = iv_param(r.g, "unused", IV_SHAPE(2), (iv_init){0});
    iv_value both = iv_add(r.g, iv_add(r.g, iv_mul(r.g, a, a), b), c);
    iv_graph_set_loss(r.g, iv_sum(r.g, both, 0, false));
    rig_differentiate(&r, NULL, 0);
    assert_int_equal(iv_graph_gradient(r.g, unused).id, -1);
    WORKS(rig_compile(&r, 1));
    rig_write(&r, a, x);
    rig_write(&r, b, y);
    rig_run(&r);
    static const char *const names[] = {"a", "b", "c", "unused"};
    for (int k = 0; k < 4; ++k) {
        double *d = rig_gradient(&r, names[k]);
        for (int i = 0; i < (k == 3 ? 2 : 3); ++i) {
            double want = k == 0 ? 2 * x[i] : k == 3 ? 0 : 1;
            if (d[i] != want)
                fail_msg("gradient of %s[%d] is %g, expected %g", names[k], i, d[i], want);
        }
        free(d);
    }
    rig_close(&r);
}

/* Ties: MAXIMUM gives half to each side, MAX shares among the equal elements. */
static void test_ties(void **state)
{
    (void)state;
    static const double x[4] = {1, 2, 2, 0}, y[4] = {1, 1, 3, 0},
                        want_x[4] = {0.5, 1 + 0.5, 0 + 0.5, 0.5};
    rig r;
    int64_t n = 0;
    rig_open(&r, device, P_F64, 1);
    iv_value a = iv_input(r.g, "a", IV_F32, IV_SHAPE(4)),
             b = iv_input(r.g, "b", IV_F32, IV_SHAPE(4));
    iv_value sum = iv_sum(r.g, iv_maximum(r.g, a, b), 0, false);
    iv_graph_set_loss(r.g, iv_add(r.g, sum, iv_max(r.g, a, 0, false)));
    rig_differentiate(&r, &a, 1);
    WORKS(rig_compile(&r, 4));
    rig_write(&r, a, x);
    rig_write(&r, b, y);
    rig_run(&r);
    double *d = rig_read(&r, "d0", &n);
    for (int i = 0; i < 4; ++i)
        if (d[i] != want_x[i]) fail_msg("gradient %d is %g, expected %g", i, d[i], want_x[i]);
    free(d);
    rig_close(&r);
}

/* Gradients of slices: those that tile a tensor are joined, others padded; some overlap. */
static void test_slices(void **state)
{
    (void)state;
    static const struct {
        int64_t at[4][2];
    } rows[] = {
        {{{0, 2}, {2, 2}, {4, 2}, {0, 0}}}, {{{4, 2}, {0, 4}, {0, 0}, {0, 0}}},
        {{{1, 3}, {2, 3}, {0, 0}, {0, 0}}}, {{{5, 1}, {0, 0}, {0, 0}, {0, 0}}},
        {{{0, 6}, {0, 3}, {3, 3}, {5, 1}}},
    };
    for (int64_t k = 0; k < IV_COUNT(rows); ++k) {
        rig r;
        rig_open(&r, device, P_F64, 1);
        iv_value a = iv_param(r.g, "a", IV_SHAPE(6), (iv_init){0}), loss = {-1};
        double want[6] = {0};
        for (int s = 0; s < 4 && rows[k].at[s][1]; ++s) {
            iv_value part = iv_scale(
                r.g, iv_sum(r.g, iv_slice(r.g, a, 0, rows[k].at[s][0], rows[k].at[s][1]), 0, false),
                s + 1);
            loss = loss.id < 0 ? part : iv_add(r.g, loss, part);
            for (int64_t i = 0; i < rows[k].at[s][1]; ++i) want[rows[k].at[s][0] + i] += s + 1;
        }
        iv_graph_set_loss(r.g, loss);
        rig_differentiate(&r, NULL, 0);
        WORKS(rig_compile(&r, 1));
        rig_run(&r);
        double *d = rig_gradient(&r, "a");
        for (int i = 0; i < 6; ++i)
            if (d[i] != want[i])
                fail_msg("slices %lld: gradient %d is %g, expected %g", (long long)k, i, d[i],
                         want[i]);
        free(d);
        rig_close(&r);
    }
}

/* Every operator with a gradient has a case; every other one says why it has none. */
static void test_complete(void **state)
{
    (void)state;
    for (int op = 0; op < IV_OP_COUNT; ++op) {
        bool found = false;
        for (int i = 0; i < n_cases; ++i)
            found |= cases[i].op == (iv__op)op && !cases[i].forward_only;
        if (iv__ops[op].grad && !found)
            fail_msg("no test of the gradient of %s: add a case to cases.h", iv__ops[op].name);
        if (!iv__ops[op].grad && !(iv__ops[op].no_grad && strlen(iv__ops[op].no_grad) > 8))
            fail_msg("%s has no gradient and no reason", iv__ops[op].name);
        if (iv__ops[op].grad && iv__ops[op].no_grad)
            fail_msg("%s has a gradient and a reason for none", iv__ops[op].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_sliced),
        cmocka_unit_test(test_transposed), cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_f32),        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16),        cmocka_unit_test(test_bf16_mixed),
        cmocka_unit_test(test_plain_sum),  cmocka_unit_test(test_bf16_true),
        cmocka_unit_test(test_shared),     cmocka_unit_test(test_ties),
        cmocka_unit_test(test_slices),     cmocka_unit_test(test_complete),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
