/* test_gpu_train.c: small trainings in `invariant` mode have the same hashes of parameters and of
 * optimizer state on a GPU backend as on cpu:0.  Run once for each backend, on its stand-in where
 * there is no device; most of the time goes into running the kernels there, so few, small steps.
 *
 *   test_gpu_train cuda|hip [STEPS [FILTER]]     FILTER: only the tests that match, as "*_f32" */
#include "train/session.h"

#include "conformance/hal.h"

#define COMMON "numerics.mode=invariant train.grains=4 train.seed=5 train.clip=0.5 "
#define GPT                                                                                        \
    COMMON "train.batch=4 model.name=gpt model.layers=1 model.heads=2 model.width=16 "             \
           "model.context=16 "
#define CNN COMMON "train.batch=4 model.name=cnn model.channels=4 "

static const char *kind;
static char accelerator[40]; /* of that kind, as a setting */
static int steps = 2;

#define RUN(test, settings)                                                                        \
    static void test(void **state)                                                                 \
    {                                                                                              \
        char cpu[2][33], gpu[2][33];                                                               \
        (void)state;                                                                               \
        session_hashes(settings, "device.accelerator=cpu", steps, cpu);                            \
        session_hashes(settings, accelerator, steps, gpu);                                         \
        assert_string_equal(gpu[0], cpu[0]);                                                       \
        assert_string_equal(gpu[1], cpu[1]);                                                       \
    }
RUN(gpt_f32, GPT "precision.name=32-true model.dropout=0.1")
RUN(gpt_f64, GPT "precision.name=64-true")
RUN(gpt_bf16, GPT "precision.name=bf16-mixed")
RUN(gpt_f16, GPT "precision.name=16-mixed")
RUN(gpt_fp8, GPT "precision.name=fp8")
RUN(cnn_f32, CNN "precision.name=32-true model.norm=batch")
RUN(cnn_f64, CNN "precision.name=64-true")
RUN(cnn_bf16, CNN "precision.name=bf16-mixed optim.name=sgd optim.momentum=0.9")

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt_f32), cmocka_unit_test(gpt_f64), cmocka_unit_test(gpt_bf16),
        cmocka_unit_test(cnn_f32), cmocka_unit_test(cnn_f64), cmocka_unit_test(cnn_bf16),
        cmocka_unit_test(gpt_f16), cmocka_unit_test(gpt_fp8),
    };
    hal device;
    kind = argc > 1 ? argv[1] : "cuda";
    snprintf(accelerator, sizeof(accelerator), "device.accelerator=%s", kind);
    if (argc > 2) steps = atoi(argv[2]);
    if (argc > 3) cmocka_set_test_filter(argv[3]);
    const iv_status s = hal_open(&device, kind, 0, NULL);
    if (s != IV_OK) printf("%s\n", iv_error_message());
    const bool exact = s == IV_OK && device.info.exact;
    if (s == IV_OK && !exact) printf("%s rounds: %s\n", device.name, device.info.notes);
    hal_close(&device);
    if (s == IV_UNAVAILABLE) return 77;
    return exact ? cmocka_run_group_tests(tests, session_files, temporary_remove) : 1;
}
