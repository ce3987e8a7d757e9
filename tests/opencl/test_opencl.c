/* test_opencl.c: what only the OpenCL backend has: faults that stay, the cache of compiled
 * programs, the reasons for which there is no device.  Skips where there is none. */
#include "conformance/hal.h"

#include <dirent.h>

static hal device;

static void faults_stay(void **state)
{
    (void)state;
    void *pinned = NULL, *q = NULL, *kernel = NULL, *x = memory(&device, 64);
    const iv_backend *vt = device.vt;
    uint32_t word = 1;
    WORKS(vt->queue_open(device.dev, IV_QUEUE_COMPUTE, &q));
    WORKS(vt->mem_alloc(device.dev, 4096, IV_MEM_HOST, &pinned));
    WORKS(vt->kernel_build(
        device.dev, &(iv_kernel_src){.file = "softmax", .name = "softmax", .sig = "ff"}, &kernel));
    const iv_launch l = {
        .buf = {range(pinned, 0, 64), range(x, 0, 64)}, .n_bufs = 2, .groups = 1, .n = {4}};
    FAILS(IV_VENDOR, "softmax_ff on 1 groups: CL_INVALID_MEM_OBJECT = -38",
          vt->launch(q, kernel, &l));
    FAILS(IV_VENDOR, "CL_INVALID_MEM_OBJECT", vt->write(q, range(x, 0, 4), &word));
    FAILS(IV_VENDOR, "CL_INVALID_MEM_OBJECT", vt->fill(q, range(x, 0, 4), 0));
    FAILS(IV_VENDOR, "CL_INVALID_MEM_OBJECT", vt->sync(q));
    vt->queue_close(q);
    upload(&device, x, 0, &word, 4); /* another queue goes on */
    vt->kernel_free(device.dev, kernel);
    vt->mem_free(device.dev, pinned);
    vt->mem_free(device.dev, x);
}

/* Files of the cache; each gets its last byte changed if `damage`. */
static int cached(bool damage)
{
    int n = 0;
    DIR *d = opendir(at("cache/of/kernels"));
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) {
        char path[512];
        if (e->d_name[0] == '.') continue;
        assert_non_null(strstr(e->d_name, ".bin"));
        assert_string_equal(strstr(e->d_name, ".bin"), ".bin"); /* nothing half-written */
        ++n;
        snprintf(path, sizeof(path), "%s/%s", at("cache/of/kernels"), e->d_name);
        FILE *f = damage ? fopen(path, "r+b") : NULL;
        if (!f) continue;
        fseek(f, -1, SEEK_END);
        const int c = fgetc(f);
        fseek(f, -1, SEEK_END);
        fputc(c ^ 255, f);
        fclose(f);
    }
    closedir(d);
    return n;
}

static int told; /* lines of the log about damaged entries */
static void count_lines(void *ctx, iv_log_level level, const char *line)
{
    (void)ctx, (void)level;
    told += strstr(line, "damaged") != NULL;
}

/* Opens a device with the cache in our folder and runs a softmax. */
static void use_cache(void)
{
    hal h;
    void *kernel = NULL;
    float x[4] = {0, 0, 0, 0}, y[4];
    WORKS(hal_open(&h, "opencl", 0, at("cache/of/kernels")));
    WORKS(h.vt->kernel_build(
        h.dev, &(iv_kernel_src){.file = "softmax", .name = "softmax", .sig = "ff"}, &kernel));
    void *a = memory(&h, 64);
    upload(&h, a, 0, x, sizeof(x));
    const iv_launch l = {
        .buf = {range(a, 0, 16), range(a, 32, 16)}, .n_bufs = 2, .groups = 1, .n = {4}};
    WORKS(h.vt->launch(h.queue, kernel, &l));
    download(&h, y, a, 32, sizeof(y));
    for (int i = 0; i < 4; ++i) assert_true(y[i] == 0.25f);
    h.vt->mem_free(h.dev, a);
    h.vt->kernel_free(h.dev, kernel);
    hal_close(&h);
}

static void cache_on_disk(void **state)
{
    (void)state;
    iv_log_set(IV_LOG_DEBUG, count_lines, NULL);
    use_cache();
    const int n = cached(false);
    assert_true(n >= 2); /* the probe and the softmax */
    use_cache();
    assert_int_equal(cached(true), n);
    assert_int_equal(told, 0);
    use_cache();
    assert_int_equal(told, n);
    assert_int_equal(cached(false), n);
    use_cache();
    assert_int_equal(told, n);
    iv_log_set(IV_LOG_INFO, NULL, NULL);
}

/* A cache that cannot be written only costs time. */
static void cache_without_a_folder(void **state)
{
    (void)state;
    hal h;
    WORKS(hal_open(&h, "opencl", 0, "/proc/none"));
    hal_close(&h);
}

/* What `invar devices` prints with one variable set. */
static void devices_say(const char *setting, const char *want)
{
    char command[512], text[8192] = "";
    snprintf(command, sizeof(command), "%s '%s' devices 2>&1", setting, INVAR_CLI);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    const size_t n = fread(text, 1, sizeof(text) - 1, f);
    pclose(f);
    text[n] = 0;
    if (!strstr(text, want)) fail_msg("%s gave\n%s\nexpected in it: %s", command, text, want);
}

static void without_loader_or_platform(void **state)
{
    (void)state;
    devices_say("INVAR_OPENCL_LIB=/nowhere/libOpenCL.so",
                "opening the OpenCL loader: /nowhere/libOpenCL.so");
    devices_say("INVAR_OPENCL_LIB=libz.so.1", "has no function clGetPlatformIDs");
    devices_say("OCL_ICD_VENDORS=/nowhere/", "looking for OpenCL platforms: there are none");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_stay),
        cmocka_unit_test(cache_on_disk),
        cmocka_unit_test(cache_without_a_folder),
        cmocka_unit_test(without_loader_or_platform),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (hal_open(&device, "opencl", 0, NULL) != IV_OK) {
        printf("skipped: %s\n", iv_error_message());
        return 77;
    }
    const int failed = cmocka_run_group_tests(tests, temporary_make, temporary_remove);
    hal_close(&device);
    return failed;
}
