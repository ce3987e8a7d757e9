/* test_forward.c: every operator in every type against its definition in f64 (reference.h), with
 * inputs as they are and as views.
 *
 * Tolerance: one rounding of the result to its storage type, plus `chain` roundings of the type
 * that sums are kept in, relative to the largest result: the chain is the number of terms of the
 * longest sum, or for functions what they are made of (cases.h).  Attention in 16-bit types rounds
 * its probabilities once more. */
#include "cases.h"

static iv__device *device;

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

static void compare(rig *r, const built *b, int32_t k, const tensor *want)
{
    char name[8];
    int64_t n = 0;
    snprintf(name, sizeof(name), "y%.0d", k);
    double *got = rig_read(r, name, &n), most = 1;
    assert_int_equal(n, count(want));
    for (int64_t i = 0; i < n; ++i)
        if (isfinite(want->x[i])) most = fmax(most, fabs(want->x[i]));
    double low = r->policy->unit * b->c->low_roundings *
                 (r->policy->low == IV_BF16 || r->policy->low == IV_F16);
    /* A row of equal elements: x - mean is rounding alone, times 1 / sqrt(eps). */
    if (b->view == V_SPREAD && (b->c->op == IV_OP_LAYERNORM || b->c->op == IV_OP_BATCHNORM))
        most /= sqrt(b->c->fattr[0]);
    double slack =
        (b->c->chain * r->policy->sum_unit + low) * most + (r->policy->low == IV_F16 ? 0x1p-24 : 0);
    for (int64_t i = 0; i < n; ++i) {
        double allowed = slack + 1.01 * r->policy->unit * fabs(want->x[i]);
        if (got[i] == want->x[i] || fabs(got[i] - want->x[i]) <= allowed) continue;
        fail_msg("%s: output %d, element %lld is %.17g, the reference %.17g, allowed %.3g", b->name,
                 k, (long long)i, got[i], want->x[i], allowed);
    }
    free(got);
}

static void run_case(const op_case *c, int policy, view v)
{
    rig r;
    built b;
    tensor want[4] = {{.x = NULL}};
    rig_open(&r, device, policy, c->grains ? c->grains : 1);
    build_case(&r, c, v, &b);
    if (rig_compile(&r, samples_of(&b)) != IV_OK) fail_msg("%s: %s", b.name, iv_error_message());
    write_case(&r, &b);
    rig_run(&r);
    for (int32_t k = 0; k < iv__ops[c->op].n_out; ++k) {
        want[k].s = b.out[k];
        want[k].x = calloc((size_t)count(&want[k]), sizeof(double));
        assert_non_null(want[k].x);
    }
    c->ref(c, b.logical, want);
    for (int32_t k = 0; k < iv__ops[c->op].n_out; ++k) {
        compare(&r, &b, k, &want[k]);
        free(want[k].x);
    }
    free_case(&b);
    rig_close(&r);
}

static void all_cases(int policy)
{
    for (int i = 0; i < n_cases; ++i)
        for (int v = 0; v < V_COUNT; ++v) run_case(&cases[i], policy, (view)v);
}

static void test_f64(void **state)
{
    (void)state;
    all_cases(P_F64);
}

static void test_f32(void **state)
{
    (void)state;
    all_cases(P_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    all_cases(P_BF16);
}

static void test_f16(void **state)
{
    (void)state;
    all_cases(P_F16);
}

/* Operators that no case shows, each with its reason. */
static void test_complete(void **state)
{
    (void)state;
    static const struct {
        iv__op op;
        const char *why;
    } elsewhere[] = {
        {IV_OP_ELEMENTS, "what element-wise operators become: every case of theirs is one"},
        {IV_OP_GRAIN_SUM, "test_running below"},
    };
    for (int op = 0; op < IV_OP_COUNT; ++op) {
        bool found = iv__ops[op].no_grad &&
                     strstr(iv__ops[op].no_grad, "part of a gradient"); /* test_grad.c */
        for (int i = 0; i < n_cases; ++i) found |= cases[i].op == (iv__op)op;
        for (int64_t i = 0; i < IV_COUNT(elsewhere); ++i) found |= elsewhere[i].op == (iv__op)op;
        if (!found) fail_msg("no test of the operator %s: add a case to cases.h", iv__ops[op].name);
    }
}

/* Running statistics: r' = (1 - m) r + m (mean over grains of the grain's statistic). */
static void check_running(int policy, int64_t grains)
{
    enum { N = 12, C = 67 };
    static double x[N * C], ones[C], mean0[C], var0[C];
    uint64_t s = 5;
    rig r;
    op_case c = {.op = IV_OP_BATCHNORM, .fattr = {1e-5}, .grains = grains, .in = {IV_SHAPE(N, C)}};
    double y[N * C], m[8 * C], v[8 * C];
    int64_t n = 0;
    rig_open(&r, device, policy, grains);
    iv_value in = iv_input(r.g, "x", IV_F32, IV_SHAPE(N, C)),
             w = iv_param(r.g, "w", IV_SHAPE(C), (iv_init){IV_INIT_ONES, 0});
    iv_value b = iv_param(r.g, "b", IV_SHAPE(C), (iv_init){IV_INIT_ZEROS, 0});
    iv_value rm = iv_state(r.g, "rm", IV_SHAPE(C), (iv_init){IV_INIT_ZEROS, 0}),
             rv = iv_state(r.g, "rv", IV_SHAPE(C), (iv_init){IV_INIT_ONES, 0});
    iv_value out_y = iv_batchnorm(r.g, in, w, b, rm, rv, 1e-5, 0.25, true);
    iv_graph_set_output(r.g, "y", out_y);
    iv_graph_set_loss(r.g, iv_sum(r.g, out_y, 0, false));
    WORKS(iv_graph_differentiate(r.g));
    WORKS(rig_compile(&r, N));
    for (int i = 0; i < N * C; ++i) x[i] = rounded(policies[policy].low, next_in(&s, -2, 2));
    for (int i = 0; i < C; ++i) {
        ones[i] = 1;
        mean0[i] = rounded(IV_F32, next_in(&s, -1, 1));
        var0[i] = rounded(IV_F32, next_in(&s, 0.5, 2));
    }
    rig_write(&r, in, x);
    rig_write(&r, rm, mean0);
    rig_write(&r, rv, var0);
    rig_run(&r);
    WORKS(iv__store_follow(r.store, grains));
    c.ref = ref_batchnorm;
    static double zeros[C];
    tensor ins[3] = {{IV_SHAPE(N, C), x}, {IV_SHAPE(C), ones}, {IV_SHAPE(C), zeros}};
    tensor outs[3] = {{IV_SHAPE(N, C), y}, {IV_SHAPE(grains, C), m}, {IV_SHAPE(grains, C), v}};
    c.ref(&c, ins, outs);
    iv_value states[2] = {rm, rv};
    for (int k = 0; k < 2; ++k) {
        iv_buffer range = iv__plan_range(r.plan, states[k].id);
        char host[C * 8];
        double got[C];
        range.bytes = C * (int64_t)iv_dtype_bytes(r.store->type);
        WORKS(iv__device_read(device, host, range));
        unpack(r.store->type, host, C, got);
        for (int i = 0; i < C; ++i) {
            double sum = 0, old = k ? var0[i] : mean0[i];
            for (int64_t g = 0; g < grains; ++g) sum += (k ? v : m)[g * C + i];
            double want = 0.75 * old + 0.25 * sum / (double)grains;
            if (fabs(got[i] - want) > 32 * policies[policy].sum_unit)
                fail_msg("running %s %d, %lld grains, %s: %.17g, the reference %.17g",
                         k ? "variance" : "mean", i, (long long)grains, policies[policy].name,
                         got[i], want);
        }
    }
    double *out = rig_read(&r, "y", &n);
    for (int64_t i = 0; i < n; ++i)
        if (fabs(out[i] - y[i]) > 3 * policies[policy].unit * 3 + 200 * policies[policy].sum_unit)
            fail_msg("y[%lld] is %.17g, the reference %.17g", (long long)i, out[i], y[i]);
    free(out);
    rig_close(&r);
}

static void test_running(void **state)
{
    (void)state;
    for (int p = P_F64; p <= P_F16; ++p)
        for (int64_t g = 1; g <= 4; ++g) check_running(p, g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f64), cmocka_unit_test(test_f32),     cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16), cmocka_unit_test(test_running), cmocka_unit_test(test_complete),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
