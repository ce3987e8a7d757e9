/* test_fuse.c: fusing, absorbing and commuting change no bit.
 *
 * Random graphs of element-wise operators (with broadcasts, dropout and casts between types),
 * forward and backward, run fused; then again with some of their intermediate values cut out, by
 * making outputs of them, until each was cut once.  Absorbed casts: every operator case with and
 * without the pass. */
#include "cases.h"

static iv__device *device;
enum { CHAINS = 40, STEPS = 22 };

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

/* ---- random chains ---- */

typedef struct chain {
    iv_value pool[8 + STEPS];
    int32_t n;
} chain;

/* Ready for any operator: a value of moderate size. */
static iv_value tame(iv_graph *g, iv_value v)
{
    return iv_tanh(g, v);
}

static iv_value step(iv_graph *g, iv_value a, iv_value b, uint64_t *state)
{
    static const iv_dtype types[] = {IV_BF16, IV_F16, IV_F32};
    switch (next_bits(state) % 22) {
    case 0: return iv_add(g, a, b);
    case 1: return iv_sub(g, a, b);
    case 2: return iv_mul(g, a, b);
    case 3: return iv_div(g, a, iv_add_scalar(g, iv_mul(g, b, b), 1));
    case 4: return iv_maximum(g, a, b);
    case 5: return iv_minimum(g, a, b);
    case 6: return iv_relu(g, a);
    case 7: return iv_gelu(g, a);
    case 8: return iv_gelu_tanh(g, a);
    case 9: return iv_silu(g, a);
    case 10: return iv_sigmoid(g, a);
    case 11: return iv_exp(g, tame(g, a));
    case 12: return iv_sin(g, a);
    case 13: return iv_cos(g, a);
    case 14: return iv_abs(g, a);
    case 15: return iv_scale(g, a, next_in(state, -2, 2));
    case 16: return iv_add_scalar(g, a, next_in(state, -2, 2));
    case 17: return iv_sqrt(g, iv_add_scalar(g, iv_abs(g, a), 0.5));
    case 18: return iv_rsqrt(g, iv_add_scalar(g, iv_abs(g, a), 0.5));
    case 19: return iv_dropout(g, a, 0.25);
    case 20: return iv_pow(g, iv_add_scalar(g, iv_abs(g, a), 0.5), tame(g, b));
    default: return iv_cast(g, a, types[next_bits(state) % 3]);
    }
}

/* Inputs of several shapes that broadcast to [4,3,65], then STEPS operators on earlier values,
 * later ones more often; the loss takes the last. */
static void build_chain(rig *r, uint64_t seed)
{
    static const iv_shape shapes[] = {IV_SHAPE(4, 3, 65), IV_SHAPE(4, 1, 65), IV_SHAPE(4, 3, 1)};
    uint64_t state = seed;
    chain c = {.n = 0};
    char name[8];
    for (int i = 0; i < 3; ++i) {
        snprintf(name, sizeof(name), "x%d", i);
        c.pool[c.n++] = iv_input(r->g, name, IV_F32, shapes[i]);
    }
    c.pool[c.n++] = iv_param(r->g, "row", IV_SHAPE(65), (iv_init){IV_INIT_NORMAL, 1});
    c.pool[c.n++] = iv_param(r->g, "plane", IV_SHAPE(3, 65), (iv_init){IV_INIT_NORMAL, 1});
    c.pool[c.n++] = iv_param(r->g, "one", IV_SHAPE(1), (iv_init){IV_INIT_NORMAL, 1});
    for (int i = 0; i < STEPS; ++i) {
        uint64_t near = (uint64_t)(c.n < 4 ? c.n : 4);
        iv_value a = c.pool[c.n - 1 - (int32_t)(next_bits(&state) % near)],
                 b = c.pool[next_bits(&state) % (uint64_t)c.n];
        c.pool[c.n++] = step(r->g, a, b, &state);
    }
    iv_value y = iv_add(r->g, iv_mul(r->g, c.pool[c.n - 1], c.pool[0]), c.pool[c.n - 2]);
    y = iv_transpose(r->g, tame(r->g, y), (int32_t[]){0, 2, 1});
    iv_graph_set_output(r->g, "y", y);
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_mul(r->g, y, y), 0, false));
    rig_differentiate(r, c.pool, 1);
    if (iv_graph_status(r->g) != IV_OK)
        fail_msg("chain %llu: %s", (unsigned long long)seed, iv_error_message());
}

static void feed(rig *r, uint64_t seed)
{
    for (int32_t v = 0; v < r->g->n_values; ++v) {
        if (r->g->values[v].role != IV_ROLE_INPUT || r->g->values[v].shape.rank == 0) continue;
        uint64_t state = seed + (uint64_t)v;
        static double x[4 * 3 * 65];
        for (int64_t i = 0; i < iv_shape_count(&r->g->values[v].shape); ++i)
            x[i] = next_in(&state, -2, 2);
        rig_write(r, (iv_value){v}, x);
    }
}

/* Elements that cut the values of element-wise nodes number from .. (as many as there is room for).
 */
static int cut(rig *r, int from)
{
    int seen = 0;
    char name[16];
    for (int64_t i = 0; i < r->g->n_nodes; ++i) {
        if (!iv__ops[r->g->nodes[i].op].elementwise) continue;
        if (seen++ < from) continue;
        if (r->g->n_outputs == IV_COUNT(r->g->outputs)) return seen - 1;
        snprintf(name, sizeof(name), "cut%d", seen);
        iv_graph_set_output(r->g, name, (iv_value){r->g->nodes[i].out[0]});
    }
    return -1; /* all were */
}

/* The most operators in one program, and programs in all. */
static int64_t longest(const rig *r, int64_t *out_programs)
{
    int64_t most = 0;
    *out_programs = 0;
    for (int64_t i = 0; i < r->g->n_nodes; ++i) {
        if (r->g->nodes[i].op != IV_OP_ELEMENTS) continue;
        most = IV_MAX2(most, r->g->nodes[i].program->n_ops);
        ++*out_programs;
    }
    return most;
}

static void compare(rig *fused, rig *other, const char *what, uint64_t seed)
{
    for (int32_t i = 0; i < fused->g->n_outputs; ++i) {
        int64_t n = 0, m = 0;
        const char *name = fused->g->outputs[i].name;
        uint8_t *x = rig_bytes(fused, name, &n), *y = rig_bytes(other, name, &m);
        if (!x || !y || n != m || memcmp(x, y, (size_t)n) != 0)
            fail_msg("%s %llu, %s: output %s has other bits", what, (unsigned long long)seed,
                     fused->policy->name, name);
        free(x);
        free(y);
    }
    for (int64_t i = 0; i < fused->store->n_params && fused->g->differentiated; ++i) {
        const char *name = fused->store->params[i].name;
        double *x = rig_gradient(fused, name), *y = rig_gradient(other, name);
        if (memcmp(x, y, (size_t)fused->store->params[i].count * sizeof(*x)) != 0)
            fail_msg("%s %llu, %s: the gradient of %s has other bits", what,
                     (unsigned long long)seed, fused->policy->name, name);
        free(x);
        free(y);
    }
}

/* What a set of chains shows: the longest program, finite losses, programs that cuts added (a
 * single cut may save one: fusing takes what fits first). */
typedef struct tally {
    int64_t most, added;
    int finite;
} tally;

static void check_chain(int policy, uint64_t seed, tally *t)
{
    rig fused, part;
    int64_t programs = 0, more = 0, n = 0;
    rig_open(&fused, device, policy, 2);
    build_chain(&fused, seed);
    if (rig_compile(&fused, 4) != IV_OK)
        fail_msg("chain %llu, %s: %s", (unsigned long long)seed, fused.policy->name,
                 iv_error_message());
    t->most = IV_MAX2(t->most, longest(&fused, &programs));
    feed(&fused, seed);
    rig_run(&fused);
    double *loss = rig_read(&fused, "loss", &n);
    t->finite += isfinite(loss[0]);
    free(loss);
    for (int from = 0; from >= 0;) {
        rig_open(&part, device, policy, 2);
        build_chain(&part, seed);
        WORKS(rig_cast(&part));
        from = cut(&part, from);
        WORKS(rig_plan(&part, 4));
        longest(&part, &more);
        t->added += more - programs;
        feed(&part, seed);
        rig_run(&part);
        compare(&fused, &part, "chain", seed);
        rig_close(&part);
    }
    rig_close(&fused);
}

static void all_chains(int policy)
{
    tally t = {0};
    for (uint64_t seed = 1; seed <= CHAINS; ++seed) check_chain(policy, seed, &t);
    if (t.finite < CHAINS / 2) fail_msg("only %d of %d losses are finite", t.finite, CHAINS);
    if (t.most < 12)
        fail_msg("the longest program has %lld operators: nothing was fused", (long long)t.most);
    if (t.added < CHAINS) fail_msg("cuts added %lld programs only", (long long)t.added);
}

static void test_f64(void **state)
{
    (void)state;
    all_chains(P_F64);
}

static void test_f32(void **state)
{
    (void)state;
    all_chains(P_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    all_chains(P_BF16);
}

static void test_f16(void **state)
{
    (void)state;
    all_chains(P_F16_TRUE);
}

/* ---- limits of a program ---- */

/* More inputs and operators than a program takes. */
static void test_long(void **state)
{
    (void)state;
    rig r;
    int64_t programs = 0, n = 0;
    rig_open(&r, device, P_F64, 1);
    iv_value in[10], sum = {-1};
    char name[8];
    for (int i = 0; i < 10; ++i) {
        snprintf(name, sizeof(name), "x%d", i);
        in[i] = iv_input(r.g, name, IV_F32, IV_SHAPE(3));
        sum = i ? iv_add(r.g, sum, in[i]) : in[i];
    }
    for (int i = 0; i < 100; ++i) sum = iv_add_scalar(r.g, sum, 1);
    iv_graph_set_output(r.g, "y", sum);
    WORKS(rig_compile(&r, 3));
    assert_true(longest(&r, &programs) <= IV_PROGRAM_OPS);
    for (int i = 0; i < 10; ++i) rig_write(&r, in[i], (double[3]){i, 2 * i, 3 * i});
    rig_run(&r);
    double *y = rig_read(&r, "y", &n);
    for (int i = 0; i < 3; ++i)
        if (y[i] != 100 + 45 * (i + 1))
            fail_msg("element %d is %g, expected %d", i, y[i], 100 + 45 * (i + 1));
    free(y);
    rig_close(&r);
}

/* One input read by many operators, and a value used twice by one operator. */
static void test_diamonds(void **state)
{
    (void)state;
    rig r;
    int64_t programs = 0, n = 0;
    rig_open(&r, device, P_F64, 1);
    iv_value x = iv_input(r.g, "x", IV_F32, IV_SHAPE(3)), s = iv_mul(r.g, x, x);
    iv_value y = iv_add(r.g, iv_mul(r.g, s, s), iv_sub(r.g, iv_neg(r.g, s), iv_mul(r.g, x, s)));
    iv_graph_set_output(r.g, "y", y);
    WORKS(rig_compile(&r, 3));
    longest(&r, &programs);
    assert_int_equal(programs, 1);
    rig_write(&r, x, (double[3]){1, 2, 3});
    rig_run(&r);
    double *got = rig_read(&r, "y", &n);
    for (int i = 0; i < 3; ++i) {
        double e = i + 1, want = e * e * e * e + (-e * e - e * e * e);
        if (got[i] != want) fail_msg("element %d is %g, expected %g", i, got[i], want);
    }
    free(got);
    rig_close(&r);
}

/* ---- absorbed casts ---- */

static void run_case(rig *r, const op_case *c, int policy, bool keep)
{
    built b;
    rig_open(r, device, policy, c->grains ? c->grains : 1);
    r->keep_casts = keep;
    r->params = policy == P_BF16_MIXED;
    build_case(r, c, V_PLAIN, &b);
    if (iv__ops[c->op].grad && !c->forward_only) add_loss(r, &b);
    if (rig_compile(r, samples_of(&b)) != IV_OK) fail_msg("%s: %s", b.name, iv_error_message());
    write_case(r, &b);
    rig_run(r);
    free_case(&b);
}

static void test_absorb(void **state)
{
    (void)state;
    static const int types[] = {P_BF16_TRUE, P_F16_TRUE, P_BF16_MIXED};
    int64_t fewer = 0;
    for (int64_t t = 0; t < IV_COUNT(types); ++t)
        for (int i = 0; i < n_cases; ++i) {
            rig with, without;
            run_case(&with, &cases[i], types[t], false);
            run_case(&without, &cases[i], types[t], true);
            fewer += with.plan->n_steps < without.plan->n_steps;
            assert_true(with.plan->n_steps <= without.plan->n_steps);
            compare(&with, &without, "case", (uint64_t)i);
            rig_close(&with);
            rig_close(&without);
        }
    if (fewer < 10) fail_msg("only %lld plans became shorter", (long long)fewer);
}

/* Absorbing between operators of a small network, where casts have several users. */
static void build_network(rig *r)
{
    iv_value x = iv_input(r->g, "x", IV_F32, IV_SHAPE(4, 5, 12)),
             ids = iv_input(r->g, "ids", IV_I32, IV_SHAPE(4, 5));
    iv_value e =
        iv_embedding(r->g, iv_param(r->g, "e", IV_SHAPE(7, 12), (iv_init){IV_INIT_NORMAL, 1}), ids);
    iv_value h = iv_add(
        r->g,
        iv_matmul(r->g, x, iv_param(r->g, "w", IV_SHAPE(12, 12), (iv_init){IV_INIT_NORMAL, 0.5}),
                  false, false),
        e);
    iv_value w = iv_param(r->g, "n", IV_SHAPE(12), (iv_init){IV_INIT_NORMAL, 1}),
             b = iv_param(r->g, "b", IV_SHAPE(12), (iv_init){IV_INIT_NORMAL, 1});
    iv_value y = iv_layernorm(r->g, h, w, b, 1e-5);
    y = iv_matmul(r->g, y, iv_param(r->g, "w2", IV_SHAPE(12, 12), (iv_init){IV_INIT_NORMAL, 0.5}),
                  false, true);
    y = iv_rmsnorm(r->g, iv_add(r->g, y, h),
                   iv_param(r->g, "n2", IV_SHAPE(12), (iv_init){IV_INIT_ONES, 0}), 1e-5);
    y = iv_attention(r->g, y, y, y, 3, true, 0);
    iv_value z =
        iv_linear(r->g, y, iv_param(r->g, "head", IV_SHAPE(7, 12), (iv_init){IV_INIT_NORMAL, 0.5}),
                  iv_param(r->g, "bias", IV_SHAPE(7), (iv_init){IV_INIT_NORMAL, 1}), true);
    iv_graph_set_output(r->g, "max", iv_max(r->g, z, 4, false));
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_cross_entropy_rows(r->g, z, ids, 3), 0, false));
}

static void test_absorb_network(void **state)
{
    (void)state;
    static const int types[] = {P_BF16_TRUE, P_F16_TRUE, P_BF16_MIXED, P_F32, P_F64};
    static double x[4 * 5 * 12], ids[4 * 5];
    uint64_t s = 3;
    for (int i = 0; i < 240; ++i) x[i] = next_in(&s, -2, 2);
    for (int i = 0; i < 20; ++i) ids[i] = (double)(next_bits(&s) % 7);
    for (int64_t t = 0; t < IV_COUNT(types); ++t) {
        rig r[2];
        for (int k = 0; k < 2; ++k) {
            rig_open(&r[k], device, types[t], 2);
            r[k].keep_casts = k;
            build_network(&r[k]);
            rig_differentiate(&r[k], NULL, 0);
            WORKS(rig_compile(&r[k], 4));
            rig_write(&r[k], (iv_value){iv__graph_find(r[k].g, "x")}, x);
            rig_write(&r[k], (iv_value){iv__graph_find(r[k].g, "ids")}, ids);
            rig_run(&r[k]);
        }
        compare(&r[0], &r[1], "network", (uint64_t)t);
        rig_close(&r[0]);
        rig_close(&r[1]);
    }
}

/* ---- relu and max pooling change places ---- */

/* A convolution whose values are small multiples of a half, so that windows have ties, zeros and
 * nothing but negative numbers, under windows that overlap. */
static void build_pooled(rig *r, iv_window w)
{
    iv_value x = iv_input(r->g, "x", IV_F32, IV_SHAPE(4, 2, 11, 9));
    iv_value y =
        iv_conv2d(r->g, x, iv_param(r->g, "w", IV_SHAPE(3, 2, 1, 1), (iv_init){IV_INIT_ONES, 0}),
                  NULL, (iv_window){.stride = {1, 1}}, 1);
    iv_value z = iv_max_pool2d(r->g, iv_relu(r->g, y), w);
    iv_graph_set_output(r->g, "z", z);
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_mul(r->g, z, z), 0, false));
}

static void test_commute(void **state)
{
    (void)state;
    static const iv_window windows[] = {
        {{2, 2}, {2, 2}, {0, 0}}, {{3, 3}, {2, 1}, {1, 1}}, {{2, 4}, {1, 3}, {1, 2}}};
    static double x[4 * 2 * 11 * 9];
    uint64_t s = 5;
    for (int i = 0; i < (int)IV_COUNT(x); ++i)
        x[i] = i == 100 ? NAN : 0.5 * floor(next_in(&s, -4, 2)) * (i % 3 ? 1 : -0.0);
    for (int t = 0; t < P_COUNT * (int)IV_COUNT(windows); ++t) {
        rig r[2];
        for (int k = 0; k < 2; ++k) {
            rig_open(&r[k], device, t % P_COUNT, 2);
            build_pooled(&r[k], windows[t / P_COUNT]);
            int64_t relu = r[k].g->n_nodes;
            while (r[k].g->nodes[--relu].op != IV_OP_RELU) {
            }
            if (k == 1) WORKS(iv__graph_commute(r[k].g));
            assert_int_equal(r[k].g->nodes[relu].op, k ? IV_OP_MAX_POOL2D : IV_OP_RELU);
            iv_value in = {iv__graph_find(r[k].g, "x")};
            rig_differentiate(&r[k], &in, 1);
            WORKS(rig_compile(&r[k], 4));
            rig_write(&r[k], in, x);
            rig_run(&r[k]);
        }
        compare(&r[0], &r[1], "pooling", (uint64_t)t);
        rig_close(&r[0]);
        rig_close(&r[1]);
    }
}

/* What is read elsewhere too stays where it is. */
static void test_commute_not(void **state)
{
    (void)state;
    rig r;
    rig_open(&r, device, P_F32, 1);
    iv_value x = iv_input(r.g, "x", IV_F32, IV_SHAPE(1, 1, 4, 4)), y = iv_relu(r.g, x);
    iv_window w = {{2, 2}, {2, 2}, {0, 0}};
    iv_graph_set_output(r.g, "y", y);
    iv_graph_set_output(r.g, "z", iv_max_pool2d(r.g, y, w));
    WORKS(iv__graph_commute(r.g));
    assert_int_equal(r.g->nodes[0].op, IV_OP_RELU);
    assert_int_equal(iv_value_shape(r.g, y).dim[3], 4);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f64),     cmocka_unit_test(test_f32),
        cmocka_unit_test(test_bf16),    cmocka_unit_test(test_f16),
        cmocka_unit_test(test_long),    cmocka_unit_test(test_diamonds),
        cmocka_unit_test(test_absorb),  cmocka_unit_test(test_absorb_network),
        cmocka_unit_test(test_commute), cmocka_unit_test(test_commute_not),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
