/* test_operators.c: every operator, forward and backward, in every type, gives on other devices the
 * bits that cpu:0 gives: the cases of ops/cases.h.  Compiling all kernels takes minutes on devices
 * that do it at run time, so without arguments it skips; ci/opencl names devices.
 *
 *   test_operators DEVICE [plain] [POLICY...]
 *
 * plain: inputs as they are only, neither sliced nor transposed.  Policies: f64 f32 bf16 f16 mixed;
 * default: all that the device has. */
#include "conformance/excuses.h"
#include "ops/cases.h"

static const struct {
    const char *name;
    int policy;
} known[] = {
    {"f64", P_F64}, {"f32", P_F32}, {"bf16", P_BF16}, {"f16", P_F16}, {"mixed", P_BF16_MIXED}};

static iv__device *first, *other;
static int policy;
static view last_view = V_TURNED;
static int64_t n_compared;

static void run_on(iv__device *d, const op_case *c, view v, rig *r, char *name, size_t size)
{
    built b;
    rig_open(r, d, policy, c->grains ? c->grains : 1);
    build_case(r, c, v, &b);
    if (iv__ops[c->op].grad && !c->forward_only) add_loss(r, &b);
    snprintf(name, size, "%s", b.name);
    if (rig_compile(r, samples_of(&b)) != IV_OK) fail_msg("%s: %s", name, iv_error_message());
    write_case(r, &b);
    rig_run(r);
    free_case(&b);
}

static void compare(rig *a, rig *b, const char *name)
{
    for (int32_t i = 0; i < a->g->n_outputs; ++i) {
        int64_t n = 0, m = 0, elems = 0;
        const char *output = a->g->outputs[i].name;
        uint8_t *x = rig_bytes(a, output, &n), *y = rig_bytes(b, output, &m);
        assert_true(x && y && n == m);
        ++n_compared;
        if (memcmp(x, y, (size_t)n) != 0) {
            double *u = rig_read(a, output, &elems), *v = rig_read(b, output, &elems);
            for (int64_t e = 0; e < elems; ++e)
                if (memcmp(&u[e], &v[e], 8) != 0 && !(isnan(u[e]) && isnan(v[e])))
                    fail_msg("%s: %s, element %lld is %.17g (%a) on %s, %.17g (%a) on %s", name,
                             output, (long long)e, u[e], u[e], first->name, v[e], v[e],
                             other->name);
            free(u);
            free(v);
        }
        free(x);
        free(y);
    }
}

static void every_operator(void **state)
{
    (void)state;
    char name[160];
    if (policy == P_F64 && excused(other->name, &other->info, "f64")) skip();
    for (int i = 0; i < n_cases; ++i)
        for (view v = V_PLAIN; v <= last_view; ++v) {
            rig a, b;
            if (v != V_PLAIN && cases[i].ref == ref_elem) continue; /* views are test_hal's */
            run_on(first, &cases[i], v, &a, name, sizeof(name));
            run_on(other, &cases[i], v, &b, name, sizeof(name));
            compare(&a, &b, name);
            rig_close(&a);
            rig_close(&b);
        }
}

static iv_status open_devices(const char *name)
{
    const iv_backend_options o = {0};
    IV_TRY(iv__device_open("cpu:0", &o, true, &first));
    return iv__device_open(name, &o, true, &other);
}

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(every_operator)};
    int failed = 0;
    make_cases();
    if (argc < 2) {
        printf("skipped: no device is named (ci/opencl does)\n");
        return 77;
    }
    if (open_devices(argv[1]) != IV_OK) {
        printf("skipped: %s\n", iv_error_message());
        return 77;
    }
    const bool plain = argc > 2 && strcmp(argv[2], "plain") == 0;
    if (plain) last_view = V_PLAIN;
    for (int64_t k = 0; k < IV_COUNT(known); ++k) {
        bool wanted = argc == 2 + plain;
        for (int i = 2 + plain; i < argc; ++i) wanted |= strcmp(argv[i], known[k].name) == 0;
        if (!wanted) continue;
        policy = known[k].policy;
        printf("%s on %s\n", known[k].name, other->name);
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    printf("%lld tensors compared\n", (long long)n_compared);
    iv__device_close(other);
    iv__device_close(first);
    return failed;
}
