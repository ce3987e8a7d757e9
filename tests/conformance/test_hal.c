/* test_hal.c: what every backend must do, written once over the table of functions of hal.h and run
 * for every device that is there: cpu:0, and up to three of opencl, cuda and hip each.  Results of
 * kernels and element programs are compared bit for bit with those of cpu:0 (whose own are tested
 * in ops/).
 *
 *   test_hal [FILTER]     only the tests that match, as "opencl:0*" */
#include "conformance/excuses.h"
#include "conformance/hal.h"

static hal reference; /* cpu:0 */

/* ---- memory ---- */

static void copies_with_offsets(void **state)
{
    const hal *h = *state;
    uint8_t src[1000], got[1000], want[1000];
    void *a = memory(h, sizeof(src)), *b = memory(h, sizeof(src));
    for (size_t i = 0; i < sizeof(src); ++i) src[i] = (uint8_t)(i * 7 + 1);
    WORKS(h->vt->fill(h->queue, range(a, 0, 1000), 0));
    WORKS(h->vt->fill(h->queue, range(b, 0, 1000), 0x04030201u));
    upload(h, a, 100, src, 300);
    WORKS(h->vt->copy(h->queue, range(b, 40, 120), range(a, 180, 120)));
    WORKS(h->vt->fill(h->queue, range(b, 48, 8), 0xddccbbaau));
    for (size_t i = 0; i < sizeof(want); ++i) want[i] = (uint8_t)(i % 4 + 1);
    memcpy(want + 40, src + 80, 120);
    memcpy(want + 48, "\xaa\xbb\xcc\xdd\xaa\xbb\xcc\xdd", 8);
    download(h, got, b, 0, 1000);
    same_bits("fill, write, copy", h, got, want, 1000, 1);
    download(h, got, b, 44, 10);
    same_bits("read", h, got, want + 44, 10, 1);
    h->vt->mem_free(h->dev, a);
    h->vt->mem_free(h->dev, b);
}

/* src is read before `write` returns. */
static void write_takes_its_source(void **state)
{
    const hal *h = *state;
    uint32_t word;
    void *a = memory(h, 4 * 64);
    uint32_t got[64];
    for (uint32_t i = 0; i < 64; ++i) {
        word = i * i;
        upload(h, a, 4 * i, &word, 4);
        word = 0;
    }
    download(h, got, a, 0, sizeof(got));
    for (uint32_t i = 0; i < 64; ++i) assert_int_equal(got[i], i * i);
    h->vt->mem_free(h->dev, a);
}

static void pinned_memory(void **state)
{
    const hal *h = *state;
    void *pinned = NULL, *a = memory(h, 256);
    WORKS(h->vt->mem_alloc(h->dev, 256, IV_MEM_HOST, &pinned));
    uint8_t *bytes = h->vt->mem_host(h->dev, pinned);
    assert_non_null(bytes);
    for (int i = 0; i < 256; ++i) bytes[i] = (uint8_t)i;
    WORKS(h->vt->copy(h->queue, range(a, 0, 256), range(pinned, 0, 256)));
    WORKS(h->vt->sync(h->queue));
    memset(bytes, 0, 256);
    WORKS(h->vt->copy(h->queue, range(pinned, 16, 100), range(a, 100, 100)));
    WORKS(h->vt->sync(h->queue));
    assert_int_equal(bytes[15], 0);
    for (int i = 0; i < 100; ++i) assert_int_equal(bytes[16 + i], 100 + i);
    h->vt->mem_free(h->dev, a);
    h->vt->mem_free(h->dev, pinned);
    h->vt->mem_free(h->dev, NULL);
}

static void refuses_too_much(void **state)
{
    const hal *h = *state;
    void *mem = NULL;
    FAILS(IV_NO_MEMORY, "bytes", h->vt->mem_alloc(h->dev, INT64_C(1) << 56, IV_MEM_DEVICE, &mem));
    assert_null(mem);
    mem = memory(h, 64); /* it goes on */
    h->vt->mem_free(h->dev, mem);
}

static void describes_itself(void **state)
{
    const hal *h = *state;
    void *dev = NULL;
    int32_t n = 0;
    WORKS(h->vt->device_count(h->drv, &n));
    assert_true(n >= 1);
    assert_true(h->info.name[0] && h->info.vendor[0] && h->info.driver[0]);
    assert_true(h->info.units >= 1 && h->info.mem_bytes > 0);
    print_message("%s: %s, %s %s, exact: %s; %s\n", h->name, h->info.name, h->info.vendor,
                  h->info.driver, h->info.exact ? "yes" : "no", h->info.notes);
    FAILS(IV_UNAVAILABLE, "devices", h->vt->device_open(h->drv, n, &dev));
}

/* ---- element programs ---- */

/* How the inputs and the output of a program lie: [dims], strides as in iv_program. */
typedef struct space {
    const char *name;
    int32_t n_dims;
    int64_t dim[IV_PROGRAM_DIMS], a[IV_PROGRAM_DIMS], b[IV_PROGRAM_DIMS], out[IV_PROGRAM_DIMS];
} space;
static const space spaces[] = {
    {"flat", 1, {5000}, {1}, {1}, {1}},
    {"row broadcast", 2, {37, 150}, {150, 1}, {0, 1}, {150, 1}},
    {"column broadcast", 2, {150, 37}, {37, 1}, {1, 0}, {37, 1}},
    {"transposed", 2, {70, 33}, {1, 70}, {33, 1}, {33, 1}},
    {"into a slice", 3, {9, 11, 20}, {220, 20, 1}, {0, 0, 1}, {660, 40, 2}},
    {"four dimensions", 4, {3, 5, 7, 11}, {1, 3, 15, 105}, {0, 11, 0, 1}, {385, 77, 11, 1}},
};
enum { SPACES = sizeof(spaces) / sizeof(spaces[0]), MOST = 1 << 15 };

static int64_t places(int32_t n_dims, const int64_t *dim, const int64_t *stride)
{
    int64_t last = 0;
    for (int32_t d = 0; d < n_dims; ++d) last += (dim[d] - 1) * stride[d];
    return last + 1;
}

static iv_program program(const space *s, iv_dtype a, iv_dtype b, iv_dtype out)
{
    iv_program p;
    memset(&p, 0, sizeof(p));
    p.n_in = 2;
    p.n_dims = s->n_dims;
    p.compute = a == IV_F64 || b == IV_F64 || out == IV_F64 ? IV_F64 : IV_F32;
    p.in_type[0] = (uint8_t)a;
    p.in_type[1] = (uint8_t)b;
    p.out_type = (uint8_t)out;
    memcpy(p.dim, s->dim, sizeof(p.dim));
    memcpy(p.in_stride[0], s->a, sizeof(s->a));
    memcpy(p.in_stride[1], s->b, sizeof(s->b));
    memcpy(p.out_stride, s->out, sizeof(s->out));
    return p;
}

static void add_op(iv_program *p, uint8_t op, uint8_t dst, uint8_t x, uint8_t y, iv_dtype round)
{
    p->ops[p->n_ops++] = (iv_program_op){.op = op,
                                         .dst = dst,
                                         .src = {x, y},
                                         .round = (uint8_t)round,
                                         .stream = 77,
                                         .imm = {0.25, 4.0 / 3}};
    p->out_reg = dst;
}

/* Runs p on the inputs; the output, MOST elements' room, begins as zeros. */
static void run_program(const hal *h, const iv_program *p, const void *a, const void *b, void *out)
{
    const iv_uniforms u = {.seed = 0x123456789abcdefu, .step = 3, .first_sample = 5};
    const int64_t bytes = 8 * MOST, at = 256;
    void *kernel = NULL, *in0 = memory(h, bytes + at), *in1 = memory(h, bytes),
         *y = memory(h, bytes + 2 * at), *uniforms = memory(h, 64);
    upload(h, in0, at, a, bytes);
    upload(h, in1, 0, b, bytes);
    upload(h, uniforms, 32, &u, sizeof(u));
    WORKS(h->vt->fill(h->queue, range(y, 0, bytes), 0));
    WORKS(h->vt->kernel_build(h->dev, &(iv_kernel_src){.program = p}, &kernel));
    iv_launch l = {.buf = {range(in0, at, bytes), range(in1, 0, bytes), range(y, 2 * at, bytes),
                           range(uniforms, 32, sizeof(u))},
                   .n_bufs = p->uses_rng ? 4 : 3};
    int64_t count = 1;
    for (int32_t d = 0; d < p->n_dims; ++d) count *= p->dim[d];
    l.groups = (count + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE;
    WORKS(h->vt->fill(h->queue, range(y, 2 * at, bytes), 0));
    WORKS(h->vt->launch(h->queue, kernel, &l));
    download(h, out, y, 2 * at, bytes);
    h->vt->kernel_free(h->dev, kernel);
    h->vt->mem_free(h->dev, in0);
    h->vt->mem_free(h->dev, in1);
    h->vt->mem_free(h->dev, y);
    h->vt->mem_free(h->dev, uniforms);
}

static void same_program(const hal *h, const char *what, const iv_program *p)
{
    static uint64_t a[MOST], b[MOST], have[MOST], want[MOST];
    assert_true(places(p->n_dims, p->dim, p->out_stride) <= MOST);
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    numbers(a, p->in_type[0], MOST, 1, 0.1, 2.5);
    numbers(b, p->in_type[1], MOST, 2, 0.2, 2);
    run_program(h, p, a, b, have);
    run_program(&reference, p, a, b, want);
    same_bits(what, h, have, want, places(p->n_dims, p->dim, p->out_stride),
              iv_dtype_bytes((iv_dtype)p->out_type));
}

enum {
#define E(NAME, ...) ELEM_##NAME,
#include "../../kernels/elem.def"
#undef E
    ELEM_COUNT
};

static void programs_over_shapes(void **state)
{
    const hal *h = *state;
    for (int i = 0; i < SPACES; ++i) {
        iv_program p = program(&spaces[i], IV_F32, IV_F32, IV_F32);
        add_op(&p, ELEM_ADD, 2, 0, 1, IV_F32);
        add_op(&p, ELEM_MUL, 3, 2, 0, IV_F32);
        same_program(h, spaces[i].name, &p);
    }
}

static void programs_over_types(void **state)
{
    const hal *h = *state;
    static const iv_dtype types[][3] = {{IV_F64, IV_F64, IV_F64},  {IV_BF16, IV_BF16, IV_BF16},
                                        {IV_F16, IV_F16, IV_F16},  {IV_F32, IV_BF16, IV_F16},
                                        {IV_F16, IV_F32, IV_BF16}, {IV_F64, IV_BF16, IV_F32}};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); ++i) {
        iv_program p = program(&spaces[1], types[i][0], types[i][1], types[i][2]);
        if (p.compute == IV_F64 && excused(h->name, &h->info, "f64")) continue;
        add_op(&p, ELEM_MUL, 2, 0, 1, types[i][1]);
        add_op(&p, ELEM_SUB, 3, 2, 0, types[i][2]);
        same_program(h, "types", &p);
    }
}

/* Every row of elem.def, 15 of them in a program: their sum. */
static void every_expression(void **state)
{
    const hal *h = *state;
    for (int f64 = 0; f64 < 2; ++f64) {
        const iv_dtype t = f64 ? IV_F64 : IV_F32;
        if (f64 && excused(h->name, &h->info, "f64")) continue;
        for (int first = 0; first < ELEM_COUNT; first += 15) {
            iv_program p = program(&spaces[0], t, t, t);
            char what[64];
            p.uses_rng = 1;
            p.rng_per_sample = 1000;
            add_op(&p, ELEM_SCALE, 3, 0, 0, t);
            for (int op = first; op < ELEM_COUNT && op < first + 15; ++op) {
                add_op(&p, (uint8_t)op, 2, 0, 1, t);
                add_op(&p, ELEM_ADD, 3, 3, 2, t);
            }
            snprintf(what, sizeof(what), "expressions %d.. in %s", first, iv_dtype_name(t));
            same_program(h, what, &p);
        }
    }
}

/* ---- order ---- */

/* x = x + imm, 40 times, between a fill and a copy: any other order gives another number. */
static void runs_in_order(void **state)
{
    const hal *h = *state;
    iv_program p = program(&spaces[0], IV_F32, IV_F32, IV_F32);
    float got[2] = {0};
    void *kernel = NULL, *x = memory(h, 20000), *y = memory(h, 20000);
    p.n_in = 1;
    memcpy(p.out_stride, p.in_stride[0], sizeof(p.out_stride));
    add_op(&p, ELEM_ADD_SCALAR, 2, 0, 0, IV_F32);
    WORKS(h->vt->kernel_build(h->dev, &(iv_kernel_src){.program = &p}, &kernel));
    const iv_launch there = {
        .buf = {range(x, 0, 20000), range(y, 0, 20000)}, .n_bufs = 2, .groups = 5};
    const iv_launch back = {
        .buf = {range(y, 0, 20000), range(x, 0, 20000)}, .n_bufs = 2, .groups = 5};
    WORKS(h->vt->fill(h->queue, range(x, 0, 20000), 0x3f800000u));
    for (int i = 0; i < 20; ++i) {
        WORKS(h->vt->launch(h->queue, kernel, &there));
        WORKS(h->vt->launch(h->queue, kernel, &back));
    }
    WORKS(h->vt->copy(h->queue, range(y, 0, 4), range(x, 19996, 4)));
    WORKS(h->vt->fill(h->queue, range(x, 0, 20000), 0));
    WORKS(h->vt->read(h->queue, got, range(y, 0, 8)));
    WORKS(h->vt->sync(h->queue));
    assert_true(got[0] == 11.0f);  /* 1 + 40 / 4 */
    assert_true(got[1] == 10.75f); /* the last step but one */
    h->vt->kernel_free(h->dev, kernel);
    h->vt->mem_free(h->dev, x);
    h->vt->mem_free(h->dev, y);
}

/* Two queues hand a buffer to each other by points of the timeline, more often than any ring is
 * long. */
static void queues_wait_for_each_other(void **state)
{
    const hal *h = *state;
    void *other = NULL, *x = memory(h, 4096), *y = memory(h, 4096);
    uint64_t seq = 0, first = 0;
    uint32_t got = 0;
    WORKS(h->vt->queue_open(h->dev, IV_QUEUE_COPY, &other));
    for (uint32_t i = 1; i <= 200; ++i) {
        WORKS(h->vt->fill(h->queue, range(x, 0, 4096), i));
        WORKS(h->vt->signal(h->queue, &seq));
        if (i == 1) first = seq;
        WORKS(h->vt->wait(other, h->queue, seq));
        WORKS(h->vt->copy(other, range(y, 0, 4096), range(x, 0, 4096)));
        WORKS(h->vt->signal(other, &seq));
        WORKS(h->vt->wait(h->queue, other, seq));
    }
    WORKS(h->vt->wait(other, h->queue, first));
    WORKS(h->vt->read(other, &got, range(y, 4092, 4)));
    WORKS(h->vt->sync(other));
    assert_int_equal(got, 200);
    h->vt->queue_close(other);
    h->vt->mem_free(h->dev, x);
    h->vt->mem_free(h->dev, y);
}

/* ---- kernels ---- */

enum { ROWS = 13, COLUMNS = 203 };

static void run_softmax(const hal *h, const char *sig, iv_dtype t, const void *x, void *out)
{
    const int64_t bytes = ROWS * COLUMNS * (int64_t)iv_dtype_bytes(t);
    void *kernel = NULL, *a = memory(h, bytes + 64), *y = memory(h, bytes + 128);
    WORKS(h->vt->kernel_build(
        h->dev, &(iv_kernel_src){.file = "softmax", .name = "softmax", .sig = sig}, &kernel));
    upload(h, a, 64, x, bytes);
    const iv_launch l = {.buf = {range(a, 64, bytes), range(y, 128, bytes)},
                         .n_bufs = 2,
                         .groups = ROWS,
                         .n = {COLUMNS}};
    WORKS(h->vt->launch(h->queue, kernel, &l));
    download(h, out, y, 128, bytes);
    h->vt->kernel_free(h->dev, kernel);
    h->vt->mem_free(h->dev, a);
    h->vt->mem_free(h->dev, y);
}

static void softmax_has_the_bits(void **state)
{
    const hal *h = *state;
    static const struct {
        const char *sig;
        iv_dtype type;
    } all[] = {{"ff", IV_F32}, {"dd", IV_F64}, {"bb", IV_BF16}, {"hh", IV_F16}};
    static double x[ROWS * COLUMNS], have[ROWS * COLUMNS], want[ROWS * COLUMNS];
    for (size_t i = 0; i < 4; ++i) {
        if (all[i].type == IV_F64 && excused(h->name, &h->info, "f64")) continue;
        numbers(x, all[i].type, ROWS * COLUMNS, 3, -4, 4);
        run_softmax(h, all[i].sig, all[i].type, x, have);
        run_softmax(&reference, all[i].sig, all[i].type, x, want);
        same_bits(all[i].sig, h, have, want, ROWS * COLUMNS, iv_dtype_bytes(all[i].type));
    }
}

static void refuses_unknown_kernels(void **state)
{
    const hal *h = *state;
    void *kernel = NULL;
    FAILS(IV_UNSUPPORTED, "softmin",
          h->vt->kernel_build(h->dev,
                              &(iv_kernel_src){.file = "softmax", .name = "softmin", .sig = "ff"},
                              &kernel));
    FAILS(IV_UNSUPPORTED, "hardmax",
          h->vt->kernel_build(h->dev,
                              &(iv_kernel_src){.file = "hardmax", .name = "hardmax", .sig = "ff"},
                              &kernel));
    FAILS(IV_UNSUPPORTED, "'xy'",
          h->vt->kernel_build(h->dev,
                              &(iv_kernel_src){.file = "softmax", .name = "softmax", .sig = "xy"},
                              &kernel));
    assert_null(kernel);
}

static const struct CMUnitTest each_device[] = {
    cmocka_unit_test(describes_itself),       cmocka_unit_test(copies_with_offsets),
    cmocka_unit_test(write_takes_its_source), cmocka_unit_test(pinned_memory),
    cmocka_unit_test(refuses_too_much),       cmocka_unit_test(programs_over_shapes),
    cmocka_unit_test(programs_over_types),    cmocka_unit_test(every_expression),
    cmocka_unit_test(runs_in_order),          cmocka_unit_test(queues_wait_for_each_other),
    cmocka_unit_test(softmax_has_the_bits),   cmocka_unit_test(refuses_unknown_kernels),
};
enum { TESTS = sizeof(each_device) / sizeof(each_device[0]), DEVICES = 10 };

int main(int argc, char **argv)
{
    static hal devices[DEVICES];
    static struct CMUnitTest all[DEVICES * TESTS];
    static char names[DEVICES * TESTS][96];
    static const char *const kinds[] = {"cpu", "opencl", "cuda", "hip"};
    int n_devices = 0, n = 0;
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (hal_open(&reference, "cpu", 0, NULL) != IV_OK) {
        fprintf(stderr, "%s\n", iv_error_message());
        return 1;
    }
    for (int k = 0; k < 4; ++k)
        for (int32_t i = 0; i < 3; ++i) {
            hal *h = &devices[n_devices];
            if (hal_open(h, kinds[k], i, NULL) != IV_OK) {
                if (i == 0) printf("no %s device: %s\n", kinds[k], iv_error_message());
                hal_close(h);
                break;
            }
            ++n_devices;
            if (k == 0) break; /* there is one */
        }
    for (int d = 0; d < n_devices; ++d)
        for (int i = 0; i < TESTS; ++i, ++n) {
            snprintf(names[n], sizeof(names[n]), "%.31s %.60s", devices[d].name,
                     each_device[i].name);
            all[n] = each_device[i];
            all[n].name = names[n];
            all[n].initial_state = &devices[d];
        }
    const int failed = cmocka_run_group_tests(all, NULL, NULL);
    for (int d = 0; d < n_devices; ++d) hal_close(&devices[d]);
    hal_close(&reference);
    return failed;
}
