/* test_check.c: `invar check` finds no difference between cpu:0 and opencl:0, and finds a kernel
 * that was made wrong on purpose: by a loader that changes its text before it is compiled
 * (standin/opencl/edit.c).  Skips where there is no OpenCL device. */
#include "train/session.h"

#include "conformance/hal.h"

#define GPT                                                                                        \
    "--model gpt --set model.layers=1 --set model.heads=2 --set model.width=32 --set "             \
    "model.context=16 --batch 4 --grains 2 --precision 32-true"

/* Exit status and output of `invar check` with variables set. */
static int check(const char *variables, const char *devices, char *text, size_t size)
{
    char command[2048];
    snprintf(command, sizeof(command), "%s '%s' check --devices %s " GPT " 2>&1", variables,
             INVAR_CLI, devices);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    const size_t n = fread(text, 1, size - 1, f);
    text[n] = 0;
    return WEXITSTATUS(pclose(f));
}

static void expect(const char *variables, const char *devices, int status, const char *part)
{
    char text[4096];
    const int got = check(variables, devices, text, sizeof(text));
    if (got != status || !strstr(text, part))
        fail_msg("invar check --devices %s gave %d and\n%s\nexpected %d and \"%s\"", devices, got,
                 text, status, part);
}

static void equal_devices(void **state)
{
    (void)state;
    expect("", "cpu:0,opencl:0", 0, "all bits equal");
}

static void wrong_devices(void **state)
{
    (void)state;
    expect("", "cpu:0", 2, "two names are needed");
    expect("", "cpu:0,cpu:0,cpu:0", 2, "two names are needed");
    expect("", "cpu:0,opencl:99", 2, "opening device opencl:99");
}

/* The variance of layernorm, divided by n + 1 in place of n: the first norm differs.  Our cache of
 * compiled kernels knows the texts before they are changed: it gets another home. */
static void wrong_kernel(void **state)
{
    (void)state;
    expect("POCL_CACHE_DIR=\"${POCL_CACHE_DIR:-$HOME/.cache/pocl/kcache}\" HOME=/nowhere "
           "INVAR_OPENCL_LIB='" STANDIN_EDIT "' STANDIN_CL_FROM='squares[0] / C_(n) + FPARAM(0)' "
           "STANDIN_CL_TO='squares[0] / C_(n + 1) + FPARAM(0)'",
           "cpu:0,opencl:0", 1,
           "differ first in h.0.layernorm (layernorm), output 0, element 0 [0,0,0]");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_devices),
        cmocka_unit_test(wrong_devices),
        cmocka_unit_test(wrong_kernel),
    };
    hal device;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (hal_open(&device, "opencl", 0, NULL) != IV_OK) {
        printf("skipped: %s\n", iv_error_message());
        return 77;
    }
    hal_close(&device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
