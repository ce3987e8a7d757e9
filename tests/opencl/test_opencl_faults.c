/* test_opencl_faults.c: a training on the stand-in for the OpenCL loader, where any call can fail:
 * each failure is one clear line, nothing hangs or leaks, what was saved stays; and a running
 * training makes nothing but one enqueue for each step of its plan. */
#include "train/session.h"

#include "standin/opencl/opencl.h"

#include <dlfcn.h>

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#define COMMON "train.batch=4 train.grains=2 device.accelerator=opencl eval.batches=1"
#define MLP "model.name=mlp model.width=16 precision.name=32-true " COMMON

static standin_opencl *cl;

static void reset(void)
{
    memset(cl->calls, 0, sizeof(cl->calls));
    memset(cl->fail_at, 0, sizeof(cl->fail_at));
    cl->error = CL_OUT_OF_RESOURCES;
    cl->lost = cl->no_platform = cl->no_device = cl->no_f64 = false;
    cl->misused = 0;
}

static void nothing_left(const char *what)
{
    static const char *const kinds[] = {"contexts", "queues",   "buffers",
                                        "events",   "programs", "kernels"};
    for (int i = 0; i < 6; ++i)
        if (cl->alive[i] != 0)
            fail_msg("%s: %lld %s are left", what, (long long)cl->alive[i], kinds[i]);
    if (cl->misused) fail_msg("%s: %lld uses of dead handles", what, (long long)cl->misused);
}

/* A whole life: open, two steps, validation, hash, checkpoint, a step; `path` NULL: no checkpoint.
 */
static iv_status live(session *s, const char *path)
{
    iv_step_report r;
    char hash[33];
    double loss, accuracy;
    IV_TRY(iv_trainer_open(s->config, s->data, iv_model_build, &s->spec, &s->trainer));
    IV_TRY(iv_trainer_step(s->trainer, &r));
    IV_TRY(iv_trainer_step(s->trainer, &r));
    IV_TRY(iv_trainer_evaluate(s->trainer, &loss, &accuracy));
    IV_TRY(iv_trainer_hash(s->trainer, false, hash));
    if (path) IV_TRY(iv_trainer_save(s->trainer, path));
    return iv_trainer_step(s->trainer, &r);
}

static iv_status life(const char *path)
{
    session s;
    session_prepare(&s, MLP);
    const iv_status status = live(&s, path);
    session_close(&s);
    return status;
}

/* Failures that only cost something: a name that is "?", a cache that is not filled. */
static bool may_be_ignored(int call)
{
    return call == CL_GetDeviceInfo || call == CL_GetPlatformInfo || call == CL_GetProgramInfo ||
           call == CL_GetProgramBuildInfo || call == CL_CreateProgramWithBinary ||
           call == CL_EnqueueUnmapMemObject; /* before a buffer is freed */
}

static void every_call_fails_once(void **state)
{
    (void)state;
    int64_t n[CL_CALLS], failures = 0, closings = 0;
    reset();
    WORKS(life(NULL));
    nothing_left("a good life");
    memcpy(n, cl->calls, sizeof(n));
    for (int call = 0; call < CL_CALLS; ++call) {
        /* All calls of most kinds; of those that come by the hundred every 13th. */
        const int64_t stride = n[call] > 100 ? 13 : 1;
        for (int64_t k = 1; k <= n[call]; k += stride) {
            char what[96];
            if (strncmp(cl->names[call], "Release", 7) == 0) break; /* nobody asks them */
            snprintf(what, sizeof(what), "call %lld of cl%s", (long long)k, cl->names[call]);
            reset();
            cl->fail_at[call] = k;
            const iv_status s = life(NULL);
            nothing_left(what);
            if (s == IV_OK && may_be_ignored(call)) continue;
            /* A queue that is closed is waited for; what it had to do was waited for before. */
            if (s == IV_OK && call == CL_Finish && ++closings <= n[CL_ReleaseCommandQueue])
                continue;
            const char *text = iv_error_message();
            if (s == IV_OK || !*text || strchr(text, '\n'))
                fail_msg("%s failed, and the training gave \"%s\" (%s)", what, text,
                         iv_status_name(s));
            if (!may_be_ignored(call) && call != CL_GetPlatformIDs && call != CL_GetDeviceIDs &&
                !strstr(text, "CL_OUT_OF_RESOURCES"))
                fail_msg("%s failed, and the error is \"%s\"", what, text);
            ++failures;
        }
    }
    print_message("%lld failures\n", (long long)failures);
    assert_true(failures > 100);
}

static void says_what_it_cannot_do(void **state)
{
    (void)state;
    reset();
    cl->no_platform = true;
    FAILS(IV_UNAVAILABLE, "looking for OpenCL platforms: there are none", life(NULL));
    reset();
    cl->no_device = true;
    FAILS(IV_UNAVAILABLE, "1 platforms list none that can be used", life(NULL));
    reset();
    cl->fail_at[CL_BuildProgram] = 2;
    cl->error = CL_BUILD_PROGRAM_FAILURE;
    FAILS(IV_VENDOR, "file.cl:7: error: stand-in's own words", life(NULL));
    assert_non_null(strstr(iv_error_message(), "-cl-std=CL1.2"));
    assert_non_null(strstr(iv_error_message(), "CL_BUILD_PROGRAM_FAILURE = -11"));
    reset();
    cl->fail_at[CL_CreateBuffer] = 6;
    cl->error = CL_MEM_OBJECT_ALLOCATION_FAILURE;
    FAILS(IV_NO_MEMORY, "CL_MEM_OBJECT_ALLOCATION_FAILURE = -4", life(NULL));
    nothing_left("out of memory");
}

static void refuses_types_and_modes(void **state)
{
    (void)state;
    session s;
    reset();
    cl->no_f64 = true;
    session_prepare(&s, MLP " precision.name=64-true");
    FAILS(IV_UNSUPPORTED, "has no f64 arithmetic", live(&s, NULL));
    session_close(&s);
    /* Kernels of the stand-in compute nothing, so its rounding is wrong. */
    session_prepare(&s, MLP " numerics.mode=invariant");
    FAILS(IV_UNSUPPORTED, "inexact", live(&s, NULL));
    session_close(&s);
    nothing_left("refusals");
}

static char *contents(const char *path, size_t *out_size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *all = malloc(1 << 20);
    assert_non_null(all);
    *out_size = fread(all, 1, 1 << 20, f);
    assert_int_equal(fclose(f), 0);
    return all;
}

/* The device goes away in the middle of a step: that step, all later ones and a second save fail,
 * and the first save is as it was. */
static void device_lost_in_a_run(void **state)
{
    (void)state;
    static const int calls[] = {CL_EnqueueNDRangeKernel, CL_Finish, CL_EnqueueWriteBuffer,
                                CL_EnqueueReadBuffer, CL_EnqueueFillBuffer};
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); ++i) {
        session s;
        iv_step_report r;
        size_t before_size, after_size;
        reset();
        session_prepare(&s, MLP);
        WORKS(live(&s, at("kept.safetensors")));
        char *before = contents(at("kept.safetensors"), &before_size);
        cl->calls[calls[i]] = 0;
        cl->fail_at[calls[i]] = 1;
        cl->error = CL_DEVICE_NOT_AVAILABLE;
        cl->lost = true;
        /* A plan without fills does not meet the last one before it is asked to save. */
        iv_status status = iv_trainer_step(s.trainer, &r);
        if (calls[i] == CL_EnqueueFillBuffer && status == IV_OK) cl->fail_at[CL_Finish] = 1;
        if (status == IV_OK) status = iv_trainer_step(s.trainer, &r);
        assert_int_equal(status, IV_VENDOR);
        assert_non_null(strstr(iv_error_message(), "CL_DEVICE_NOT_AVAILABLE = -2"));
        FAILS(IV_VENDOR, "CL_DEVICE_NOT_AVAILABLE", iv_trainer_step(s.trainer, &r));
        FAILS(IV_VENDOR, "CL_DEVICE_NOT_AVAILABLE",
              iv_trainer_save(s.trainer, at("kept.safetensors")));
        char *after = contents(at("kept.safetensors"), &after_size);
        assert_int_equal(after_size, before_size);
        assert_memory_equal(after, before, after_size);
        free(before);
        free(after);
        session_close(&s);
        nothing_left("a lost device");
    }
}

static int64_t plan_steps(iv_trainer *t)
{
    char *text;
    WORKS(iv_trainer_plan_text(t, IV_PLAN_SUMMARY, &text));
    const char *end = strstr(text, " steps a pass");
    assert_non_null(end);
    while (end > text && end[-1] != ' ') --end;
    const int64_t n = atoll(end);
    free(text);
    return n;
}

/* Heap allocations by this program (not by the stand-in, which is a library).  Sanitizers have
 * their own heap. */
static int64_t allocations;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern const char __executable_start[], etext[];
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
static void count_caller(const void *from)
{
    allocations += (const char *)from >= __executable_start && (const char *)from < etext;
}
void *malloc(size_t n)
{
    count_caller(__builtin_return_address(0));
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    count_caller(__builtin_return_address(0));
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    count_caller(__builtin_return_address(0));
    return __libc_realloc(p, n);
}
#endif

/* A running training: nothing is allocated, no object is made, nothing is compiled; one enqueue for
 * a step of the plan; around it are norm (2), update, running statistics and lowered copies. */
static void steady(const char *settings)
{
    enum { STEPS = 3, AROUND = 5 };
    static const int makers[] = {
        CL_CreateContext,           CL_CreateCommandQueue, CL_CreateBuffer,
        CL_EnqueueMapBuffer,        CL_BuildProgram,       CL_CreateProgramWithSource,
        CL_CreateProgramWithBinary, CL_CreateKernel};
    session s;
    iv_step_report r;
    reset();
    session_prepare(&s, settings);
    WORKS(live(&s, NULL));
    reset();
    const int64_t before = allocations;
    for (int i = 0; i < STEPS; ++i) WORKS(iv_trainer_step(s.trainer, &r));
    if (allocations != before)
        fail_msg("%d steps allocated %lld times\n%s", STEPS, (long long)(allocations - before),
                 settings);
    for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); ++i)
        if (cl->calls[makers[i]])
            fail_msg("%d steps called cl%s %lld times\n%s", STEPS, cl->names[makers[i]],
                     (long long)cl->calls[makers[i]], settings);
    const int64_t enqueued = cl->calls[CL_EnqueueNDRangeKernel] + cl->calls[CL_EnqueueFillBuffer] +
                             cl->calls[CL_EnqueueCopyBuffer],
                  least = STEPS * plan_steps(s.trainer), most = least + STEPS * AROUND;
    print_message("%lld enqueues for %lld steps of plans\n", (long long)enqueued, (long long)least);
    if (enqueued > most || enqueued < least)
        fail_msg("%d steps enqueued %lld times, %lld to %lld are needed\n%s", STEPS,
                 (long long)enqueued, (long long)least, (long long)most, settings);
    session_close(&s);
    nothing_left("a running training");
}

static void steady_state(void **state)
{
    (void)state;
    static const char *const models[] = {
        MLP, "model.name=gpt model.layers=2 model.heads=2 model.width=32 model.context=16 " COMMON,
        "model.name=cnn model.channels=4 model.norm=batch " COMMON};
    static const char *const precisions[] = {"32-true", "64-true", "bf16-mixed"};
    char settings[512];
    for (size_t m = 0; m < sizeof(models) / sizeof(models[0]); ++m)
        for (size_t p = 0; p < sizeof(precisions) / sizeof(precisions[0]); ++p) {
            snprintf(settings, sizeof(settings), "%s precision.name=%s", models[m], precisions[p]);
            steady(settings);
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steady_state),
        cmocka_unit_test(says_what_it_cannot_do),
        cmocka_unit_test(refuses_types_and_modes),
        cmocka_unit_test(device_lost_in_a_run),
        cmocka_unit_test(every_call_fails_once),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    void *lib = dlopen(STANDIN_OPENCL, RTLD_NOW | RTLD_LOCAL);
    standin_opencl_state_fn *fn = NULL;
    if (lib) *(void **)&fn = dlsym(lib, "standin_opencl_state");
    /* No cache of programs: every kernel is built from its text. */
    if (!fn || setenv("INVAR_OPENCL_LIB", STANDIN_OPENCL, 1) != 0 ||
        setenv("INVAR_CACHE_DIR", "/proc/none", 1) != 0) {
        fprintf(stderr, "opening %s: %s\n", STANDIN_OPENCL, dlerror());
        return 1;
    }
    cl = fn();
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
