/* test_gpu_start.c: GPU backends where the driver is missing, old, without a device, or lacks
 * functions: `invar devices` says so in a line, the other backends go on, and a training on that
 * backend ends with one line and status 2.
 *
 *   test_gpu_start cuda|hip      the stand-in is in INVAR_CUDA_LIB or INVAR_HIP_LIB */
#include "run.h"

static const char *kind, *variable, *standin;

/* The line of `invar devices` that begins with the backend's kind. */
static const char *line_of_kind(void)
{
    static char line[2048];
    const size_t n = strlen(kind);
    for (const char *at_ = out_; *at_; at_ += strcspn(at_, "\n") + 1)
        if (strncmp(at_, kind, n) == 0) {
            snprintf(line, sizeof(line), "%.*s", (int)strcspn(at_, "\n"), at_);
            return line;
        }
    return "(none)";
}

/* Not usable, for a reason with `part` in it; cpu:0 is there all the same. */
static void unusable(const char *environment, const char *part)
{
    char args[256];
    assert_int_equal(run(environment, "devices"), 0);
    if (!strstr(line_of_kind(), "not usable") || !strstr(line_of_kind(), part))
        fail_msg("%s invar devices\n  said: %s\n  expected \"%s\"", environment, line_of_kind(),
                 part);
    assert_non_null(strstr(out_, "cpu:0"));
    snprintf(args, sizeof(args), "train --model gpt --data text:text.txt --accelerator %s", kind);
    const int status = run(environment, args);
    if (status != 2 || !strstr(err_, part) || strchr(err_, '\n') != err_ + strlen(err_) - 1)
        fail_msg("%s invar %s\n  ended with %d and said: %s", environment, args, status, err_);
}

static const char *set(const char *fmt, const char *value)
{
    static char text[2048];
    snprintf(text, sizeof(text), fmt, variable, value);
    return text;
}

static void no_driver(void **state)
{
    (void)state;
    unusable(set("%s=%s", "/nonexistent/driver.so"), "/nonexistent/driver.so");
}

static void not_a_driver(void **state)
{
    (void)state;
    unusable(set("%s=%s", "libm.so.6"), "it has no function");
}

static void old_driver(void **state)
{
    const bool cuda = strcmp(kind, "cuda") == 0;
    (void)state;
    if (cuda) unusable("INVAR_STANDIN_CUDA_VERSION=11020", "it is of CUDA 11.2, need 12.0");
    else unusable("INVAR_STANDIN_HIP_VERSION=40300000", "it is of ROCm 4.3, need 5.0");
}

static void no_device(void **state)
{
    (void)state;
    unusable("INVAR_STANDIN_DEVICES=0", "= 10"); /* CUDA 100, HIP 101 */
}

/* Only what needs an optional function is missing then. */
static void no_optional_function(void **state)
{
    char path[1024];
    (void)state;
    snprintf(path, sizeof(path), "%s", standin);
    char *whole = strstr(path, "whole/");
    assert_non_null(whole);
    memcpy(whole, "least", 5);
    assert_int_equal(run(set("%s=%s", path), "devices"), 0);
    if (strstr(line_of_kind(), "not usable")) fail_msg("%s", line_of_kind());
    assert_non_null(strstr(out_, "invariant numerics: yes"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_driver),
        cmocka_unit_test(not_a_driver),
        cmocka_unit_test(old_driver),
        cmocka_unit_test(no_device),
        cmocka_unit_test(no_optional_function),
    };
    kind = argc > 1 ? argv[1] : "cuda";
    variable = strcmp(kind, "cuda") == 0 ? "INVAR_CUDA_LIB" : "INVAR_HIP_LIB";
    standin = getenv(variable);
    if (!standin) {
        printf("skipped: %s names no stand-in\n", variable);
        return 77;
    }
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
