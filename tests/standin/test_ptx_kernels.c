/* test_ptx_kernels.c: every kernel of kernels.def, as PTX of the real NVRTC, against the host's
 * instance: equal bits.  The launches are those of the operator tests' cases and of small trainings
 * (twin.h).
 *
 *   test_ptx_kernels [FILTER]      FILTER: only the tests that match, as "test_access" */
#include "ops/cases.h"
#undef WORKS /* session.h has its own */
#include "train/session.h"
#include "nvrtc.h"
#include "twin.h"

#include <stdio.h>

iv_status __real_iv__device_open(const char *name, const iv_backend_options *o, bool invariant,
                                 iv__device **out);
iv_status __wrap_iv__device_open(const char *name, const iv_backend_options *o, bool invariant,
                                 iv__device **out);

/* Every device that is opened here has a twin and portable kernels only. */
iv_status __wrap_iv__device_open(const char *name, const iv_backend_options *o, bool invariant,
                                 iv__device **out)
{
    const iv_status s = __real_iv__device_open(name, o, invariant, out);
    if (s != IV_OK) return s;
    twin_device(*out);
    (*out)->impl_filter = "*:portable";
    return s;
}

static iv__device *device;

static void run_case(const op_case *c, int policy)
{
    rig r;
    built b;
    rig_open(&r, device, policy, c->grains ? c->grains : 1);
    build_case(&r, c, V_PLAIN, &b);
    if (iv__ops[c->op].grad && !c->forward_only) add_loss(&r, &b);
    if (rig_compile(&r, samples_of(&b)) != IV_OK) fail_msg("%s: %s", b.name, iv_error_message());
    write_case(&r, &b);
    rig_run(&r);
    free_case(&b);
    rig_close(&r);
}

static void test_cases(void **state)
{
    (void)state;
    for (int p = 0; p < P_COUNT; ++p)
        for (int i = 0; i < n_cases; ++i) run_case(&cases[i], p);
}

static void train(const char *model, const char *precision)
{
    char settings[512];
    session s;
    iv_fit_result result;
    snprintf(settings, sizeof(settings), "train.batch=4 train.max_steps=2 %s precision.name=%s",
             model, precision);
    session_open(&s, settings);
    WORKS(iv_trainer_fit(s.trainer, NULL, &result));
    session_close(&s);
}

static const char *const precisions[] = {"64-true", "32-true", "bf16-mixed"};

static void test_trainings(void **state)
{
    (void)state;
    for (int p = 0; p < 3; ++p) {
        train("model.name=cnn model.norm=batch", precisions[p]);
        train("model.name=mlp model.layers=1 model.width=24 optim.name=sgd", precisions[p]);
        train("model.name=mlp model.layers=1 model.width=24 train.norm=3", precisions[p]);
    }
    train("model.name=mlp model.layers=1 model.width=24", "bf16-true");
}

/* What a kernel of a model with usual sizes may move of global memory, as a multiple of the fewest
 * sectors, and how many passes over the banks an access may take. */
static const double most_sectors = 1.25;
static const int32_t most_ways = 2;

static void test_access(void **state)
{
    int32_t n = 0, bad = 0;
    twin_totals t;
    const twin_row *rows = twin_rows(&n);
    (void)state;
    twin_forget();
    for (int p = 0; p < 3; ++p)
        train("model.name=gpt model.layers=1 model.heads=2 model.width=128 model.context=64",
              precisions[p]);
    twin_report();
    for (int32_t i = 0; i < n; ++i) {
        if (!twin_access(i, &t)) continue;
        const double ratio = (double)t.sectors / (double)t.ideal;
        if (ratio <= most_sectors && t.worst <= most_ways) continue;
        print_error("%s_%s: %.2f of the ideal sectors, %d-way bank conflicts\n", rows[i].name,
                    rows[i].sig, ratio, t.worst);
        ++bad;
    }
    assert_int_equal(bad, 0);
}

static void test_complete(void **state)
{
    int32_t n = 0, missing = 0;
    const twin_row *rows = twin_rows(&n);
    (void)state;
    for (int32_t i = 0; i < n; ++i)
        /* 16-bit parameters go with f32 gradients only, so nobody counts lost updates in f64. */
        if (rows[i].launches == 0 &&
            !(strcmp(rows[i].name, "updates_lost") == 0 && strcmp(rows[i].sig, "dd") == 0)) {
            print_error("never compared: %s_%s\n", rows[i].name, rows[i].sig);
            ++missing;
        }
    assert_int_equal(missing, 0);
}

static int open_it(void **state)
{
    char why[256];
    make_cases();
    if (!twin_start(why, sizeof(why))) return -1;
    device = device_open(1, NULL, true, NULL);
    return session_files(state);
}

static int close_it(void **state)
{
    (void)state;
    iv__device_close(device);
    twin_stop();
    return 0;
}

int main(int argc, char **argv)
{
    char why[256];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases), cmocka_unit_test(test_trainings),
        cmocka_unit_test(test_access), cmocka_unit_test(test_complete)};
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!nvrtc_open(why, sizeof(why))) {
        printf("skipped: %s\n", why);
        return 77;
    }
    return cmocka_run_group_tests(tests, open_it, close_it);
}
