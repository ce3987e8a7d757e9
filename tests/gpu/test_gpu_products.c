/* test_gpu_products.c: matrix products by cuBLASLt and hipBLASLt in the fast mode, on their
 * stand-ins, which check what they are asked for and compute plainly (tests/standin/lt/lt.inc).
 *
 *   test_gpu_products cuda|hip    the driver's stand-in is in INVAR_CUDA_LIB or INVAR_HIP_LIB, the
 *                                 library's in INVAR_CUBLASLT_LIB or INVAR_HIPBLASLT_LIB
 *
 * Without these it compares what the vendor's libraries compute.  Expected is c = a b [+ bias] in
 * f64, rounded once; stand-ins sum in f64 too, libraries in the type of the sums. */
#include "ops/harness.h"
#undef WORKS /* run.h has its own */
#undef FAILS
#include "run.h"

#include "conformance/hal.h"

#include <dlfcn.h>

static const char *kind;
static bool cuda;
static hal device;
static int64_t (*calls)(const char *function);

/* ---- a product ---- */

enum { MOST = 4096, GUARD = 64, RANK = 4 };

/* How the matrices lie in memory. */
typedef struct layout_case {
    const char *name;
    int64_t batch[2]; /* 0: none; of b too, unless it is shared */
    bool shared;      /* b has no batch */
    int64_t pad;      /* elements behind each row */
    int64_t ahead;    /* elements before the first */
} layout_case;
static const layout_case layouts[] = {
    {"plain", {0, 0}, false, 0, 0},       {"rows apart", {0, 0}, false, 3, 0},
    {"unaligned", {0, 0}, false, 0, 1},   {"a batch", {3, 0}, false, 0, 0},
    {"two batches", {2, 2}, false, 0, 0}, {"a batch, apart, unaligned", {3, 0}, false, 5, 3},
    {"b shared", {3, 0}, true, 0, 0},     {"a row's width of 16 bytes", {2, 0}, false, 8, 16},
};
static const int64_t sizes[][3] = {{5, 7, 9}, {16, 24, 8}, {1, 3, 4},
                                   {3, 1, 2}, {4, 4, 1},   {1, 1, 1}};
static const struct {
    iv_dtype in, out;
} types[] = {{IV_F32, IV_F32},  {IV_F64, IV_F64}, {IV_BF16, IV_BF16},
             {IV_BF16, IV_F32}, {IV_F16, IV_F16}, {IV_F16, IV_F32}};

typedef struct product {
    iv_op_desc d;
    int64_t m, n, k, batch, ahead;
    double a[MOST], b[MOST], bias[MOST]; /* as they lie, rounded to their types */
} product;

static int64_t dims(const iv_tensor_desc *t)
{
    int64_t most = 1;
    for (int32_t i = 0; i < t->shape.rank; ++i) most += (t->shape.dim[i] - 1) * t->stride[i];
    return most;
}

static void lay_out(iv_tensor_desc *t, iv_dtype type, const int64_t *batch, int64_t rows,
                    int64_t cols, int64_t pad)
{
    *t = (iv_tensor_desc){.dtype = type};
    for (int i = 0; i < 2 && batch && batch[i]; ++i) t->shape.dim[t->shape.rank++] = batch[i];
    t->shape.dim[t->shape.rank++] = rows;
    t->shape.dim[t->shape.rank++] = cols;
    int64_t step = 1;
    for (int32_t i = t->shape.rank - 1; i >= 0; --i) {
        t->stride[i] = step;
        step = step * t->shape.dim[i] + (i == t->shape.rank - 1 ? pad : 0);
    }
}

static void random_numbers(double *x, int64_t n, iv_dtype t, uint64_t *seed)
{
    assert_true(n <= MOST);
    for (int64_t i = 0; i < n; ++i) {
        x[i] = rounded(t, next_in(seed, -1, 1));
    }
}

static void make(product *p, const layout_case *l, const int64_t size[3], int type, bool ta,
                 bool tb, bool bias)
{
    const iv_dtype in = types[type].in, out = types[type].out;
    uint64_t seed = 17;
    p->m = size[0], p->n = size[1], p->k = size[2], p->ahead = l->ahead;
    p->d = (iv_op_desc){.op = "matmul", .n_in = bias ? 3 : 2, .n_out = 1, .segments = 1};
    p->d.attr[0] = ta;
    p->d.attr[1] = tb;
    lay_out(&p->d.in[0], in, l->batch, ta ? p->k : p->m, ta ? p->m : p->k, l->pad);
    lay_out(&p->d.in[1], in, l->shared ? NULL : l->batch, tb ? p->n : p->k, tb ? p->k : p->n,
            l->pad);
    p->d.in[2] = (iv_tensor_desc){
        .dtype = in == IV_F64 ? IV_F64 : IV_F32, .shape = IV_SHAPE(p->n), .stride = {1}};
    lay_out(&p->d.out[0], out, l->batch, p->m, p->n, 0);
    p->batch = iv_shape_count(&p->d.out[0].shape) / (p->m * p->n);
    random_numbers(p->a, dims(&p->d.in[0]), in, &seed);
    random_numbers(p->b, dims(&p->d.in[1]), in, &seed);
    random_numbers(p->bias, p->n, p->d.in[2].dtype, &seed);
}

/* Element i j of matrix z; ranks above 2 are packed, but for the padding of rows. */
static double element(const iv_tensor_desc *t, const double *x, int64_t z, int64_t i, int64_t j)
{
    const int32_t r = t->shape.rank;
    int64_t offset = i * t->stride[r - 2] + j * t->stride[r - 1];
    for (int32_t q = r - 3; q >= 0; --q) {
        offset += z % t->shape.dim[q] * t->stride[q];
        z /= t->shape.dim[q];
    }
    return x[offset];
}

/* Half a unit in the last place at 1. */
static double unit_of(iv_dtype t)
{
    return t == IV_F64 ? 0x1p-53 : t == IV_F32 ? 0x1p-24 : t == IV_F16 ? 0x1p-11 : 0x1p-8;
}

/* The result against f64: one rounding to its type, one more of the bias where the library wants it
 * in that type, and sums in f64; small numbers of f16 are multiples of 2^-24. */
static void compare(const char *what, const product *p, const uint8_t *y)
{
    const iv_dtype t = p->d.out[0].dtype;
    const double unit = unit_of(t), sums = calls || t == IV_F64 ? 0x1p-53 : 0x1p-24;
    static double all[MOST];
    unpack(t, y, p->batch * p->m * p->n, all);
    for (int64_t z = 0; z < p->batch; ++z)
        for (int64_t i = 0; i < p->m; ++i)
            for (int64_t j = 0; j < p->n; ++j) {
                const double bias = p->d.n_in == 3 ? p->bias[j] : 0;
                double sum = bias, size = fabs(bias);
                for (int64_t k = 0; k < p->k; ++k) {
                    const double a = p->d.attr[0] ? element(&p->d.in[0], p->a, z, k, i)
                                                  : element(&p->d.in[0], p->a, z, i, k);
                    const int64_t zb = p->d.in[1].shape.rank > 2 ? z : 0;
                    const double b = p->d.attr[1] ? element(&p->d.in[1], p->b, zb, j, k)
                                                  : element(&p->d.in[1], p->b, zb, k, j);
                    sum += a * b;
                    size += fabs(a * b);
                }
                const int64_t e = (z * p->m + i) * p->n + j;
                const double have = all[e];
                const double most = unit * (fabs(sum) + fabs(bias)) * 1.01 +
                                    (double)(p->k + 2) * sums * size + (t == IV_F16 ? 0x1p-25 : 0);
                if (!(fabs(have - sum) <= most))
                    fail_msg("%s: element %lld %lld %lld is %.9g, expected %.9g", what,
                             (long long)z, (long long)i, (long long)j, have, sum);
            }
}

/* The library's implementation, the first of the list. */
static const iv_impl *library(void)
{
    int32_t n = 0;
    const iv_impl *const *list = device.vt->impls(device.dev, &n);
    assert_int_equal(n, 1);
    return list[0];
}

static iv_buffer put_in(iv_dtype t, const double *x, int64_t n, int64_t ahead)
{
    static uint8_t host[8 * MOST];
    const int64_t size = (int64_t)iv_dtype_bytes(t);
    pack(t, x, n, host);
    const iv_buffer b = {memory(&device, (n + ahead) * size), ahead * size, n * size};
    WORKS(device.vt->write(device.queue, b, host));
    return b;
}

/* Runs what was prepared and compares; the bytes around the result stay as they were. */
static void run_product(const char *what, const product *p, void *prepared, int64_t scratch)
{
    static uint8_t y[8 * MOST + 2 * GUARD];
    const iv_dtype t = p->d.out[0].dtype;
    const int64_t bytes = p->batch * p->m * p->n * (int64_t)iv_dtype_bytes(t);
    const int64_t at_ = GUARD + p->ahead * (int64_t)iv_dtype_bytes(t);
    const int64_t all = (at_ + bytes + GUARD + 3) / 4 * 4;
    const int32_t n = p->d.n_in;
    iv_buffer io[5] = {put_in(p->d.in[0].dtype, p->a, dims(&p->d.in[0]), p->ahead),
                       put_in(p->d.in[1].dtype, p->b, dims(&p->d.in[1]), p->ahead)};
    if (n == 3) io[2] = put_in(p->d.in[2].dtype, p->bias, p->n, 0);
    void *mem = memory(&device, all), *room = scratch ? memory(&device, scratch + 4) : NULL;
    io[n] = range(mem, at_, bytes);
    io[n + 1] = range(room, scratch ? 4 : 0, scratch);
    WORKS(device.vt->fill(device.queue, range(mem, 0, all), 0xabababab));
    WORKS(library()->run(device.queue, prepared, io));
    assert_true(all <= (int64_t)sizeof(y));
    download(&device, y, mem, 0, all);
    compare(what, p, y + at_);
    for (int64_t i = 0; i < all; ++i)
        if ((i < at_ || i >= at_ + bytes) && y[i] != 0xab)
            fail_msg("%s: byte %lld beside the result of %lld was written", what,
                     (long long)(i - at_), (long long)bytes);
    for (int i = 0; i < n; ++i) device.vt->mem_free(device.dev, io[i].mem);
    device.vt->mem_free(device.dev, mem);
    if (room) device.vt->mem_free(device.dev, room);
}

/* ---- tests ---- */

static product p;

/* Types x transposes x bias x layouts x sizes. */
static void every_product(void **state)
{
    char what[160];
    int64_t n = 0;
    (void)state;
    for (int c = 0; c < (int)IV_COUNT(types) * 8; ++c)
        for (size_t l = 0; l < IV_COUNT(layouts); ++l)
            for (size_t s = 0; s < IV_COUNT(sizes); ++s) {
                const int type = c / 8;
                const bool ta = c & 1, tb = c & 2, bias = c & 4;
                if (layouts[l].shared && ta) continue; /* then rows and batch do not merge */
                if (bias && types[type].in == IV_F64) continue; /* refuses_what_it_cannot */
                snprintf(what, sizeof(what), "%s to %s%s%s%s, %s, %lld %lld %lld",
                         iv_dtype_name(types[type].in), iv_dtype_name(types[type].out),
                         ta ? ", a'" : "", tb ? ", b'" : "", bias ? ", bias" : "", layouts[l].name,
                         (long long)sizes[s][0], (long long)sizes[s][1], (long long)sizes[s][2]);
                void *prepared = NULL;
                int64_t scratch = 0;
                make(&p, &layouts[l], sizes[s], type, ta, tb, bias);
                if (library()->accepts(device.dev, &p.d) != IV_OK ||
                    library()->prepare(device.dev, &p.d, &prepared, &scratch) != IV_OK)
                    fail_msg("%s: %s", what, iv_error_message());
                run_product(what, &p, prepared, scratch);
                library()->unprepare(prepared);
                ++n;
            }
    print_message("%lld products\n", (long long)n);
    assert_true(n > 1000);
}

/* The algorithm belongs to what was prepared: running it asks no more. */
static void chooses_once(void **state)
{
    if (!calls) skip();
    void *prepared = NULL;
    int64_t scratch = 0;
    (void)state;
    make(&p, &layouts[0], sizes[0], 0, false, true, true);
    const int64_t before = calls("Lt AlgoGetHeuristic"), ran = calls("Lt Matmul");
    WORKS(library()->prepare(device.dev, &p.d, &prepared, &scratch));
    const int64_t chosen = calls("Lt AlgoGetHeuristic") - before;
    for (int i = 0; i < 5; ++i) run_product("again", &p, prepared, scratch);
    assert_int_equal(chosen, 2); /* for aligned operands and others */
    assert_int_equal(calls("Lt AlgoGetHeuristic") - before, chosen);
    assert_int_equal(calls("Lt Matmul") - ran, 5);
    library()->unprepare(prepared);
}

static void refuses_what_it_cannot(void **state)
{
    if (!calls) skip();
    const iv_impl *impl = library();
    void *prepared = NULL;
    int64_t scratch = 0;
    (void)state;
    assert_false(impl->invariant);
    make(&p, &layouts[0], sizes[1], 0, false, false, false);
    p.d.in[1].dtype = IV_BF16;
    FAILS(IV_UNSUPPORTED, "different types", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 1, false, false, false);
    p.d.out[0].dtype = IV_F32;
    FAILS(IV_UNSUPPORTED, "different types", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 0, false, false, false);
    p.d.in[0].stride[1] = 2; /* neither rows nor columns are contiguous */
    FAILS(IV_UNSUPPORTED, "strides", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 0, false, false, false);
    p.d.in[0].stride[0] = 3; /* rows overlap */
    FAILS(IV_UNSUPPORTED, "strides", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 0, false, false, false);
    p.d.in[0].shape.dim[0] = p.d.out[0].shape.dim[0] = INT64_C(1) << 31;
    FAILS(IV_UNSUPPORTED, "31 bits", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 0, false, false, false);
    p.d.in[0].shape.dim[0] = p.d.out[0].shape.dim[0] = 0;
    FAILS(IV_UNSUPPORTED, "sizes", impl->accepts(device.dev, &p.d));
    make(&p, &layouts[0], sizes[1], 1, false, false, true); /* no epilogue in f64 */
    FAILS(IV_UNSUPPORTED, "NOT_SUPPORTED", impl->prepare(device.dev, &p.d, &prepared, &scratch));
    assert_null(prepared);
}

/* ---- whole runs ---- */

#define MODEL                                                                                      \
    "--model mlp --data idx:images --batch 4 --seed 3 --set model.width=16 --set "                 \
    "eval.batches=1 --max-steps 4 "

static double last_loss(const char *text)
{
    const char *done = strstr(text, "\"done\":true"),
               *loss = done ? strstr(done, "\"loss\":") : NULL;
    return loss ? strtod(loss + 7, NULL) : NAN;
}

static int train(const char *environment, const char *accelerator, const char *more)
{
    char args[512];
    snprintf(args, sizeof(args), "train " MODEL "--json --accelerator %s %s", accelerator, more);
    return run(environment, args);
}

/* The library's sums differ from ours in their order alone. */
static void trains_as_the_cpu_does(void **state)
{
    static const struct {
        const char *precision;
        double most;
    } all[] = {{"32-true", 1e-5}, {"64-true", 1e-10}, {"bf16-mixed", 1e-2}};
    char args[512], more[64];
    (void)state;
    for (size_t i = 0; i < IV_COUNT(all); ++i) {
        snprintf(more, sizeof(more), "--precision %s", all[i].precision);
        if (train("", "cpu", more) != 0) fail_msg("cpu: %s", err_);
        const double cpu = last_loss(out_);
        if (train("", kind, more) != 0) fail_msg("%s: %s", kind, err_);
        const double gpu = last_loss(out_);
        if (!(fabs(gpu - cpu) <= all[i].most * fabs(cpu)))
            fail_msg("%s: a loss of %.12g, on the CPU %.12g", more, gpu, cpu);
        snprintf(args, sizeof(args), "plan " MODEL "--accelerator %s %s", kind, more);
        if (run("", args) != 0) fail_msg("plan: %s", err_);
        if (!strstr(out_, cuda ? "cublaslt.matmul" : "hipblaslt.matmul"))
            fail_msg("invar %s\n  said: %s", args, out_);
        snprintf(args, sizeof(args), "plan " MODEL "--accelerator %s --numerics invariant", kind);
        if (run("", args) != 0 || strstr(out_, "blaslt.matmul"))
            fail_msg("invar %s\n  said: %s%s", args, out_, err_);
    }
}

/* Without the library, or with one that is old, of a later driver, or works on another driver, the
 * plan says why and the portable kernel runs. */
static void goes_on_without(void **state)
{
    if (!calls) skip();
    const char *library_ = cuda ? "INVAR_CUBLASLT_LIB" : "INVAR_HIPBLASLT_LIB";
    char least[512], environment[1200], args[512], paths[4][600];
    (void)state;
    snprintf(least, sizeof(least), "%s", getenv(library_));
    char *whole = strstr(least, "whole/");
    assert_non_null(whole);
    memcpy(whole, "least", 5);
    snprintf(paths[0], sizeof(paths[0]), "%s=/nonexistent/lt.so", library_);
    snprintf(paths[1], sizeof(paths[1]), "%s=libm.so.6", library_);
    snprintf(paths[2], sizeof(paths[2]), "%s=%s", library_, least);
    snprintf(paths[3], sizeof(paths[3]), "INVAR_%s_LIB=%s", cuda ? "CUDA" : "HIP", least);
    const struct {
        const char *set[2], *expect;
    } all[] = {
        {{paths[0], ""}, "/nonexistent/lt.so"},
        {{paths[1], ""}, "it has no function"},
        {{paths[2], ""}, "it works on another driver than"},
        {{paths[2], paths[3]}, "AlgoGetHeuristic"},
        {{"INVAR_STANDIN_LT_VERSION=5", ""}, cuda ? "of CUDA 0.5, need 12.0" : "0.5, need 0.6"},
        {{"INVAR_STANDIN_LT_VERSION=1402", ""}, cuda ? "of CUDA 14.2, and the driver of 13" : NULL},
    };
    for (size_t i = 0; i < IV_COUNT(all); ++i) {
        if (!all[i].expect) continue;
        snprintf(environment, sizeof(environment), "%s %s", all[i].set[0], all[i].set[1]);
        snprintf(args, sizeof(args), "plan -v " MODEL "--accelerator %s", kind);
        if (run(environment, args) != 0 || !strstr(out_, all[i].expect))
            fail_msg("%s invar %s\n  said: %s%s", environment, args, out_, err_);
        if (train(environment, kind, "") != 0) fail_msg("%s: %s", environment, err_);
    }
}

/* Without a name, the vendor's library is looked for; here that works on the vendor's driver. */
static void refuses_a_library_of_another_driver(void **state)
{
    if (!calls) skip();
    char environment[128];
    (void)state;
    snprintf(environment, sizeof(environment), "env -u %s",
             cuda ? "INVAR_CUBLASLT_LIB" : "INVAR_HIPBLASLT_LIB");
    if (train(environment, kind, "") != 0) fail_msg("%s: %s", environment, err_);
}

/* What fails while a plan is made leaves the portable kernel; what fails in a step ends the run
 * with one line that names it.  Nothing leaks: the stand-in would end with status 97. */
static void calls_fail(void **state)
{
    if (!calls) skip();
    static const struct {
        const char *call;
        int nth, status;
    } all[] = {{"Lt handle", 1, 0},     {"Lt desc", 1, 0},
               {"Lt desc", 3, 0},       {"Lt layout", 2, 0},
               {"Lt layout", 6, 0},     {"Lt preference", 1, 0},
               {"Lt preference", 2, 0}, {"Lt AlgoGetHeuristic", 2, 0},
               {"Lt Matmul", 1, 1},     {"Lt Matmul", 9, 1}};
    char environment[128];
    (void)state;
    for (size_t i = 0; i < IV_COUNT(all); ++i) {
        snprintf(environment, sizeof(environment), "INVAR_STANDIN_FAIL='%s:%d'", all[i].call,
                 all[i].nth);
        const int status = train(environment, kind, "");
        if (all[i].status ? status == 0 || status == 97 || status >= 124 : status != 0)
            fail_msg("%s: status %d, %s", environment, status, err_);
        if (all[i].status && (!strstr(err_, "running a matrix product") || !strstr(err_, kind)))
            fail_msg("%s: said %s", environment, err_);
    }
}

static int close_it(void **state)
{
    hal_close(&device);
    return temporary_remove(state);
}

/* The call counter of the library's stand-in; NULL: a library of the vendor. */
static void find_counter(void)
{
    const char *name = getenv(cuda ? "INVAR_CUBLASLT_LIB" : "INVAR_HIPBLASLT_LIB");
    void *lib = name ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : NULL;
    void *counter = lib ? dlsym(lib, "sc_calls") : NULL;
    memcpy(&calls, &counter, sizeof(calls));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_product),
        cmocka_unit_test(trains_as_the_cpu_does),
        cmocka_unit_test(refuses_what_it_cannot),
        cmocka_unit_test(chooses_once),
        cmocka_unit_test(goes_on_without),
        cmocka_unit_test(calls_fail),
        cmocka_unit_test(refuses_a_library_of_another_driver),
    };
    kind = argc > 1 ? argv[1] : "cuda";
    cuda = strcmp(kind, "cuda") == 0;
    find_counter();
    if (hal_open(&device, kind, 0, NULL) != IV_OK) {
        printf("skipped: %s\n", iv_error_message());
        return 77;
    }
    if (!calls) printf("no stand-in: only what a vendor's library can show\n");
    return cmocka_run_group_tests(tests, session_files, close_it);
}
