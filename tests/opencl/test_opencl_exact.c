/* test_opencl_exact.c: devices that round in another way or have less memory, made by editing the
 * text of the probe and what they say (standin/opencl/edit.c): what they are said to do, which
 * kernels lose the invariant flag, and which do not fit.
 * Skips where there is no OpenCL device that is exact without it. */
#include "ops/harness.h"

#include "device.h"

static iv__device *device;

/* cache: where compiled programs go, NULL: where they always go. */
static int pretend_with(const char *from, const char *to, const char *cache)
{
    const iv_backend_options o = {.cache = cache};
    setenv("STANDIN_CL_FROM", from, 1);
    setenv("STANDIN_CL_TO", to, 1);
    return iv__device_open("opencl:0", &o, true, &device);
}

static int pretend(const char *from, const char *to)
{
    return pretend_with(from, to, "/proc/none");
}

static int close_device(void **state)
{
    (void)state;
    iv__device_close(device);
    device = NULL;
    return 0;
}

static void says(const char *part)
{
    if (!strstr(device->info.notes, part))
        fail_msg("the device is said to be \"%s\", expected \"%s\"", device->info.notes, part);
}

static iv_status build(const char *file, const char *name, const char *sig)
{
    void *kernel;
    return iv__device_kernel(device, file, name, sig, &kernel);
}

static iv_status build_sum(iv_dtype type, int n_ops, const iv_program_op *ops)
{
    void *kernel;
    iv_program p = {.n_in = 1, .n_dims = 1, .compute = (uint8_t)type, .out_reg = 1};
    p.in_type[0] = p.out_type = (uint8_t)type;
    p.dim[0] = 64;
    p.in_stride[0][0] = p.out_stride[0] = 1;
    for (int i = 0; i < n_ops; ++i) p.ops[p.n_ops++] = ops[i];
    return iv__device_program(device, &p, &kernel);
}

enum {
#define E(NAME, ...) ROW_##NAME,
#include "../../kernels/elem.def"
#undef E
};

static void as_it_is(void **state)
{
    (void)state;
    WORKS(pretend("no such text", ""));
    says("rounds exactly, keeps denormals");
    assert_true(device->info.exact);
    WORKS(build("softmax", "softmax", "ff"));
}

/* Only kernels that divide, and only those that compute in f64, are refused. */
static void divides_inexactly_in_f64(void **state)
{
    (void)state;
    const iv_program_op add = {.op = ROW_ADD, .dst = 1, .round = IV_F64},
                        div = {.op = ROW_DIV, .dst = 1, .round = IV_F64};
    WORKS(pretend("y[6 * c + 3] = a / b;", "y[6 * c + 3] = (AT)(f32)(a / b);"));
    if (!device->info.has_f64) skip();
    says("f64: divisions inexact");
    assert_false(device->info.exact);
    assert_int_equal(device->info.inexact[0], 0);
    assert_int_equal(device->info.inexact[1], IV_INEXACT_DIVISION);
    WORKS(build("softmax", "softmax", "ff"));
    WORKS(build("matmul", "matmul", "dd"));
    WORKS(build_sum(IV_F64, 1, &add));
    FAILS(IV_UNSUPPORTED, "divisions inexact", build_sum(IV_F64, 1, &div));
    FAILS(IV_UNSUPPORTED, "building kernel softmax_dd for opencl:0",
          build("softmax", "softmax", "dd"));
    assert_non_null(strstr(iv_error_message(), "--numerics invariant"));
}

static void takes_roots_inexactly(void **state)
{
    (void)state;
    WORKS(pretend("y[6 * c + 4] = SQRT(a);", "y[6 * c + 4] = SQRT(a) * C_(1.000001);"));
    says("f32: square roots inexact; f64: square roots inexact");
    WORKS(build("matmul", "matmul", "ff"));
    FAILS(IV_UNSUPPORTED, "square roots inexact", build("optim", "adam", "ff"));
}

/* This concerns every kernel. */
static void flushes_denormals(void **state)
{
    (void)state;
    WORKS(pretend("y[6 * c] = a + b;",
                  "y[6 * c] = IV_AS_U32((f32)(a + b)) & 0x7f800000u ? a + b : C_(0) * a;"));
    says("f32: denormals are flushed");
    FAILS(IV_UNSUPPORTED, "denormals are flushed", build("matmul", "matmul", "ff"));
}

static void fuses_products(void **state)
{
    (void)state;
    WORKS(pretend("y[6 * c + 5] = a * b + d;", "y[6 * c + 5] = FMA(a, b, d);"));
    says("a * b + c fuses");
    FAILS(IV_UNSUPPORTED, "fuses", build("matmul", "matmul", "ff"));
}

/* ---- groups with little memory ---- */

enum { ROWS = 70, INNER = 45, COLUMNS = 66 };

static void product_on(iv__device *d, double *out)
{
    static double a[ROWS * INNER], b[INNER * COLUMNS];
    uint64_t seed = 1;
    int64_t n = 0;
    rig r;
    rig_open(&r, d, P_F64, 1);
    const iv_value x = iv_input(r.g, "x", IV_F32, IV_SHAPE(ROWS, INNER)),
                   y = iv_input(r.g, "y", IV_F32, IV_SHAPE(INNER, COLUMNS));
    iv_graph_set_output(r.g, "z", iv_matmul(r.g, x, y, false, false));
    WORKS(rig_compile(&r, 1));
    for (int i = 0; i < ROWS * INNER; ++i) a[i] = next_in(&seed, -1, 1);
    for (int i = 0; i < INNER * COLUMNS; ++i) b[i] = next_in(&seed, -1, 1);
    rig_write(&r, x, a);
    rig_write(&r, y, b);
    rig_run(&r);
    double *z = rig_read(&r, "z", &n);
    assert_int_equal(n, ROWS * COLUMNS);
    memcpy(out, z, (size_t)n * sizeof(*z));
    free(z);
    rig_close(&r);
}

/* 32 KiB are enough for products of f64 in smaller tiles, with the same bits, not for attention.
 * PoCL needs minutes to compile such a product for lanes; Oclgrind (ci/opencl) interprets it. */
static void has_little_local_memory(void **state)
{
    (void)state;
    static double have[ROWS * COLUMNS], want[ROWS * COLUMNS];
    iv__device *host = device_open(1, NULL, true, NULL);
    product_on(host, want);
    iv__device_close(host);
    setenv("INVAR_OPENCL_FORM", "lanes", 1);
    setenv("STANDIN_CL_LOCAL", "32768", 1);
    /* With a cache named, PoCL would compile every kernel of the file in order to store it. */
    WORKS(pretend_with("no such text", "", NULL));
    if (device->info.has_f64) {
        if (strstr(device->info.notes, "platform Oclgrind")) {
            product_on(device, have);
            assert_memory_equal(have, want, sizeof(want));
        }
        FAILS(IV_UNSUPPORTED, "building kernel attention_dd for opencl:0",
              build("attention", "attention", "dd"));
        assert_non_null(strstr(iv_error_message(), "the device gives them 32768"));
    }
    iv__device_close(device);
    device = NULL;
    setenv("STANDIN_CL_LOCAL", "16384", 1);
    FAILS(IV_UNSUPPORTED, "16384 bytes of local memory, need 64 and 32768",
          pretend("no such text", ""));
    unsetenv("STANDIN_CL_LOCAL");
    unsetenv("INVAR_OPENCL_FORM");
}

/* What a user sees. */
static void command(const char *arguments, int status, const char *part)
{
    char line[1024], text[8192] = "";
    snprintf(line, sizeof(line), "'%s' %s 2>&1", INVAR_CLI, arguments);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    const int got = WEXITSTATUS(pclose(f));
    if (got != status || !strstr(text, part))
        fail_msg("invar %s gave %d and\n%s\nexpected %d and \"%s\"", arguments, got, text, status,
                 part);
}

static void is_told_to_users(void **state)
{
    (void)state;
    setenv("STANDIN_CL_FROM", "y[6 * c + 3] = a / b;", 1);
    setenv("STANDIN_CL_TO", "y[6 * c + 3] = a / b * C_(1.000001);", 1);
    setenv("INVAR_CACHE_DIR", "/proc/none", 1);
    command("devices", 0, "invariant numerics: not by all kernels");
    command("devices", 0, "f16 stored only; f32: divisions inexact; f64: divisions inexact");
    command("bench peak --accelerator opencl --set model.layers=1 --set model.heads=1 --set "
            "model.width=16 --numerics invariant",
            2, "it cannot have the bits of --numerics invariant");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(as_it_is, close_device),
        cmocka_unit_test_teardown(divides_inexactly_in_f64, close_device),
        cmocka_unit_test_teardown(takes_roots_inexactly, close_device),
        cmocka_unit_test_teardown(flushes_denormals, close_device),
        cmocka_unit_test_teardown(fuses_products, close_device),
        cmocka_unit_test_teardown(has_little_local_memory, close_device),
        cmocka_unit_test(is_told_to_users),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (setenv("INVAR_OPENCL_LIB", STANDIN_EDIT, 1) != 0) return 1;
    if (pretend("no such text", "") != IV_OK || !device->info.exact) {
        printf("skipped: %s\n", device ? device->info.notes : iv_error_message());
        iv__device_close(device);
        return 77;
    }
    close_device(NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
