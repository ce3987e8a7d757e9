/* test_invariance.c: the same bits, forward and backward, for every operator and type: with 1 and 2
 * threads, at every instruction level of this machine, and from the portable kernels as from the
 * implementations that the invariant mode picks. */
#include "cases.h"

#include "backends/cpu/isa.h"

enum { MOST_DEVICES = 8 };
static struct {
    iv__device *device;
    char what[64];
} others[MOST_DEVICES];
static int n_others;
static iv__device *first;

static void add_device(int32_t threads, const char *isa, const char *filter, const char *what)
{
    others[n_others].device = device_open(threads, isa, true, filter);
    snprintf(others[n_others++].what, sizeof(others->what), "%s %s", what, isa ? isa : "");
}

static int open_it(void **state)
{
    (void)state;
    make_cases();
    first = device_open(1, NULL, true, NULL);
    add_device(2, NULL, NULL, "2 threads");
    add_device(2, NULL, "*:portable", "portable kernels");
    /* "x86-64-v3": the best level that this machine and this build have */
    const int best = iv__isa_from_name(strrchr(first->info.arch, '-') + 1);
    for (int level = 0; level <= best; ++level) {
        add_device(1, iv__isa_name(level), NULL, "level");
        if (level == 0) add_device(1, iv__isa_name(level), "*:portable", "portable kernels, level");
    }
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    for (int i = 0; i < n_others; ++i) iv__device_close(others[i].device);
    iv__device_close(first);
    return 0;
}

typedef struct variant {
    view view;
    bool params, wild;
} variant;

/* Runs the case with its gradients where it has them; the rig keeps the results. */
static void run_on(iv__device *d, const op_case *c, int policy, const variant *v, rig *r,
                   char *name, size_t size)
{
    built b;
    rig_open(r, d, policy, c->grains ? c->grains : 1);
    r->params = v->params;
    r->wild = v->wild;
    build_case(r, c, v->view, &b);
    if (iv__ops[c->op].grad && !c->forward_only) add_loss(r, &b);
    if (rig_compile(r, samples_of(&b)) != IV_OK) fail_msg("%s: %s", b.name, iv_error_message());
    write_case(r, &b);
    rig_run(r);
    snprintf(name, size, "%s", b.name);
    free_case(&b);
}

/* Any NaN is as good as any other. */
static void same(const char *name, const char *output, int64_t e, double x, const char *what,
                 double y)
{
    if (memcmp(&x, &y, sizeof(x)) != 0 && !(isnan(x) && isnan(y)))
        fail_msg("%s: %s, element %lld is %.17g (%a), with %s %.17g (%a)", name, output,
                 (long long)e, x, x, what, y, y);
}

static void compare_rigs(rig *a, rig *b, const char *name, const char *what)
{
    for (int32_t i = 0; i < a->g->n_outputs; ++i) {
        int64_t n = 0, m = 0, elems = 0;
        const char *output = a->g->outputs[i].name;
        uint8_t *x = rig_bytes(a, output, &n), *y = rig_bytes(b, output, &m);
        assert_true(x && y && n == m);
        if (memcmp(x, y, (size_t)n) != 0) {
            double *u = rig_read(a, output, &elems), *v = rig_read(b, output, &elems);
            for (int64_t e = 0; e < elems; ++e) same(name, output, e, u[e], what, v[e]);
            free(u);
            free(v);
        }
        free(x);
        free(y);
    }
    for (int64_t i = 0; i < a->store->n_params && a->g->differentiated; ++i) {
        double *x = rig_gradient(a, a->store->params[i].name),
               *y = rig_gradient(b, a->store->params[i].name);
        for (int64_t e = 0; e < a->store->params[i].count; ++e)
            same(name, a->store->params[i].name, e, x[e], what, y[e]);
        free(x);
        free(y);
    }
}

static void check_case(const op_case *c, int policy, const variant *v)
{
    char name[160], again[160];
    rig r, other;
    run_on(first, c, policy, v, &r, name, sizeof(name));
    int most = v->view == V_PLAIN ? n_others : 2; /* a level does not see what is a view */
    for (int k = 0; k < most; ++k) {
        run_on(others[k].device, c, policy, v, &other, again, sizeof(again));
        compare_rigs(&r, &other, name, others[k].what);
        rig_close(&other);
    }
    rig_close(&r);
}

static void all_cases(int policy)
{
    static const variant variants[] = {{V_PLAIN, false, false},  {V_PLAIN, true, false},
                                       {V_PLAIN, false, true},   {V_SLICED, false, false},
                                       {V_TURNED, false, false}, {V_SPREAD, false, false}};
    for (int i = 0; i < n_cases; ++i)
        for (int64_t k = 0; k < IV_COUNT(variants); ++k) {
            /* The first dimension of an input counts samples: weights spread from 1 do not make
             * grains. */
            if (cases[i].grains > 1 && variants[k].view == V_SPREAD) continue;
            check_case(&cases[i], policy, &variants[k]);
        }
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

static void test_bf16_mixed(void **state)
{
    (void)state;
    all_cases(P_BF16_MIXED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f64), cmocka_unit_test(test_f32),        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16), cmocka_unit_test(test_bf16_mixed),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
