/* test_opencl_train.c: small trainings in `invariant` mode have the same hashes of parameters and
 * of optimizer state on opencl:0 as on cpu:0, and on both together; a checkpoint of one goes on on
 * the other.  Most of the time goes into compiling the kernels, so only two models run by
 * themselves.  Skips where there is no OpenCL device.
 *
 *   test_opencl_train [FILTER]     the tests that match, as "gpt*", or "*" */
#include "train/session.h"

#include "conformance/hal.h"

enum { STEPS = 9 }; /* shares are dealt anew after the 8th */
#define COMMON "numerics.mode=invariant train.batch=8 train.grains=4 train.seed=5 train.clip=0.5 "
#define GPT COMMON "model.name=gpt model.layers=1 model.heads=2 model.width=32 model.context=16 "
#define CNN COMMON "model.name=cnn model.channels=4 "

static hal device;

static void same_hashes(const char *settings)
{
    char cpu[2][33], opencl[2][33];
    session_hashes(settings, "device.accelerator=cpu", STEPS, cpu);
    session_hashes(settings, "device.accelerator=opencl", STEPS, opencl);
    assert_string_equal(opencl[0], cpu[0]);
    assert_string_equal(opencl[1], cpu[1]);
}

/* Shares of 1:1, 3:1, and as they come out. */
static void mixed(const char *settings)
{
    char one[2][33], both[2][33];
    session_hashes(settings, "device.accelerator=cpu", STEPS, one);
    static const char *const lists[] = {"device.devices=cpu:0,opencl:0 device.shares=1:1",
                                        "device.devices=cpu:0,opencl:0 device.shares=3:1",
                                        "device.devices=opencl:0,cpu:0"};
    for (int i = 0; i < 3; ++i) {
        session_hashes(settings, lists[i], STEPS, both);
        assert_string_equal(both[0], one[0]);
        assert_string_equal(both[1], one[1]);
    }
}

/* 2 steps on one device, saved; the others on another; the hashes are those of all on one. */
static void resumed(const char *settings, const char *first, const char *second)
{
    char whole[2][33], parts[2][33], all[1024];
    session s;
    iv_step_report r;
    session_hashes(settings, "device.accelerator=cpu", STEPS, whole);
    snprintf(all, sizeof(all), "%s device.accelerator=%s", settings, first);
    session_open(&s, all);
    for (int i = 0; i < 2; ++i) WORKS(iv_trainer_step(s.trainer, &r));
    WORKS(iv_trainer_save(s.trainer, at("moved.safetensors")));
    session_close(&s);
    snprintf(all, sizeof(all), "%s device.accelerator=%s", settings, second);
    session_open(&s, all);
    WORKS(iv_trainer_load(s.trainer, at("moved.safetensors")));
    for (int i = 2; i < STEPS; ++i) WORKS(iv_trainer_step(s.trainer, &r));
    WORKS(iv_trainer_hash(s.trainer, false, parts[0]));
    WORKS(iv_trainer_hash(s.trainer, true, parts[1]));
    session_close(&s);
    assert_string_equal(parts[0], whole[0]);
    assert_string_equal(parts[1], whole[1]);
}

#define RUN(test, settings)                                                                        \
    static void test(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        if (!device.info.has_f64 && strstr(settings, "64-true")) {                                 \
            print_message("skipped: %s has no f64\n", device.info.name);                           \
            skip();                                                                                \
        }                                                                                          \
        same_hashes(settings);                                                                     \
    }
RUN(gpt_f32, GPT "precision.name=32-true model.dropout=0.1")
RUN(gpt_f64, GPT "precision.name=64-true")
RUN(gpt_bf16, GPT "precision.name=bf16-mixed")
RUN(gpt_f16, GPT "precision.name=16-mixed")
RUN(gpt_bf16_true, GPT "precision.name=bf16-true precision.rounding=stochastic")
RUN(gpt_fp8, GPT "precision.name=fp8")
RUN(gpt_nf4, GPT "precision.name=nf4")
RUN(cnn_int8, CNN "precision.name=int8")
RUN(cnn_f32, CNN "precision.name=32-true model.norm=batch")
RUN(cnn_f64, CNN "precision.name=64-true")
RUN(cnn_bf16, CNN "precision.name=bf16-mixed optim.name=sgd optim.momentum=0.9")

#define GPT_F32 GPT "precision.name=32-true model.dropout=0.1"
static void gpt_f32_mixed(void **state)
{
    (void)state;
    mixed(GPT_F32);
}

/* The largest magnitudes of both devices give the scales. */
static void gpt_fp8_mixed(void **state)
{
    (void)state;
    mixed(GPT "precision.name=fp8");
}

static void gpt_f32_resumed(void **state)
{
    (void)state;
    resumed(GPT_F32, "cpu", "opencl");
    resumed(GPT_F32, "opencl", "cpu");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt_f32),         cmocka_unit_test(gpt_f32_mixed),
        cmocka_unit_test(gpt_f32_resumed), cmocka_unit_test(gpt_f64),
        cmocka_unit_test(gpt_bf16),        cmocka_unit_test(cnn_f32),
        cmocka_unit_test(cnn_f64),         cmocka_unit_test(cnn_bf16),
        cmocka_unit_test(gpt_fp8),         cmocka_unit_test(gpt_fp8_mixed),
        cmocka_unit_test(gpt_nf4),         cmocka_unit_test(cnn_int8),
        cmocka_unit_test(gpt_f16),         cmocka_unit_test(gpt_bf16_true),
    };
    cmocka_set_test_filter(argc > 1 ? argv[1] : "gpt_f32*");
    if (hal_open(&device, "opencl", 0, NULL) != IV_OK) {
        printf("skipped: %s\n", iv_error_message());
        return 77;
    }
    if (!device.info.exact) {
        printf("skipped: %s does not round exactly: %s\n", device.info.name, device.info.notes);
        hal_close(&device);
        return 77;
    }
    const int failed = cmocka_run_group_tests(tests, session_files, temporary_remove);
    hal_close(&device);
    return failed;
}
