/* test_conv_impl.c: the CPU's convolutions against the order of the contract (docs/numerics.md),
 * bit for bit: for each element of the output the pairs of its chain are listed one after the
 * other, as the rule says, and multiplied as a product of one row and one column.  (What such a
 * product must give is the matter of test_gemm.c.)  Random sizes, strides, paddings, groups and
 * grains, all types.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/gemm.h"

#include "cpu_impl.h"
#include "rnd.h"

/* Element types by iv__gemm_type. */
static const iv_dtype dtypes[IV__GEMM_TYPES] = {IV_F32, IV_F64, IV_BF16, IV_F16};
static const size_t widths[IV__GEMM_TYPES] = {4, 8, 2, 2};

typedef struct problem {
    const iv_impl *impl;
    int kind; /* 0 y, 1 dx, 2 dw */
    int64_t n, c, h, w, o, kh, kw, oh, ow, groups, s[2], p[2], segments;
    iv__gemm_type in, out;
    bool bias;
    uint8_t *src[3], *dst, *want;
    int64_t n_src[2], n_dst;
} problem;

/* Values with full mantissas, so that every change of order shows. */
static void put(iv__gemm_type t, void *x, int64_t i)
{
    double v = (double)rnd_to(-(1 << 20), 1 << 20) / (double)rnd_to(1 << 10, 1 << 22);
    float f = (float)v;
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    if (t == IV__GEMM_F64) ((double *)x)[i] = v * (1.0 + 1e-9 * (double)rnd_to(0, 1000));
    else if (t == IV__GEMM_F32) ((float *)x)[i] = f;
    else if (t == IV__GEMM_BF16) ((uint16_t *)x)[i] = (uint16_t)(u >> 16);
    else
        ((uint16_t *)x)[i] =
            (uint16_t)(rnd_to(0, 1) << 15 | rnd_to(11, 17) << 10 | rnd_to(0, 1023));
}

/* ---- the reference ---- */

typedef struct chain {
    const problem *p;
    int64_t n;      /* pairs so far */
    uint8_t *a, *b; /* their factors */
} chain;

/* Appends src[0][i] * src[1][j]; a negative index is a zero. */
static void pair(chain *q, int64_t i, int64_t j)
{
    size_t e = widths[q->p->in];
    memset(q->a + (size_t)q->n * e, 0, e);
    memset(q->b + (size_t)q->n * e, 0, e);
    if (i >= 0) memcpy(q->a + (size_t)q->n * e, q->p->src[0] + (size_t)i * e, e);
    if (j >= 0) memcpy(q->b + (size_t)q->n * e, q->p->src[1] + (size_t)j * e, e);
    ++q->n;
}

/* Index of [a, b, y, x] in a tensor of planes h x w, -1 outside of the plane. */
static int64_t at(int64_t a, int64_t n_b, int64_t b, int64_t h, int64_t w, int64_t y, int64_t x)
{
    return y < 0 || y >= h || x < 0 || x >= w ? -1 : ((a * n_b + b) * h + y) * w + x;
}

static void chain_y(chain *q, int64_t n, int64_t o, int64_t y, int64_t x)
{
    const problem *p = q->p;
    int64_t cg = p->c / p->groups, group = o / (p->o / p->groups);
    for (int64_t c = 0; c < cg; ++c)
        for (int64_t r = 0; r < p->kh; ++r)
            for (int64_t s = 0; s < p->kw; ++s)
                pair(q,
                     at(n, p->c, group * cg + c, p->h, p->w, y * p->s[0] - p->p[0] + r,
                        x * p->s[1] - p->p[1] + s),
                     at(o, cg, c, p->kh, p->kw, r, s));
}

/* The output that meets input position i at place r of the kernel, -1 if none. */
static int64_t output_of(int64_t i, int64_t pad, int64_t r, int64_t stride)
{
    int64_t t = i + pad - r;
    return t < 0 || t % stride ? -1 : t / stride;
}

static void chain_dx(chain *q, int64_t n, int64_t c, int64_t y, int64_t x)
{
    const problem *p = q->p;
    int64_t cg = p->c / p->groups, og = p->o / p->groups, group = c / cg;
    for (int64_t o = 0; o < og; ++o)
        for (int64_t r = 0; r < p->kh; ++r)
            for (int64_t s = 0; s < p->kw; ++s)
                pair(q,
                     at(n, p->o, group * og + o, p->oh, p->ow, output_of(y, p->p[0], r, p->s[0]),
                        output_of(x, p->p[1], s, p->s[1])),
                     at(group * og + o, cg, c % cg, p->kh, p->kw, r, s));
}

static void chain_dw(chain *q, int64_t o, int64_t c, int64_t r, int64_t s)
{
    const problem *p = q->p;
    int64_t cg = p->c / p->groups, group = o / (p->o / p->groups);
    for (int64_t n = 0; n < p->n; ++n)
        for (int64_t y = 0; y < p->oh; ++y)
            for (int64_t x = 0; x < p->ow; ++x)
                pair(q, at(n, p->o, o, p->oh, p->ow, y, x),
                     at(n, p->c, group * cg + c, p->h, p->w, y * p->s[0] - p->p[0] + r,
                        x * p->s[1] - p->p[1] + s));
}

typedef struct bias_of {
    const problem *p;
    int64_t o;
} bias_of;

static void add_bias(void *ctx, void *acc, int64_t batch, int64_t row0, int64_t rows, int64_t col0,
                     int64_t cols, int64_t ld)
{
    (void)batch, (void)row0, (void)rows, (void)col0, (void)cols, (void)ld;
    const bias_of *b = ctx;
    if (b->p->in == IV__GEMM_F64) *(double *)acc += ((const double *)b->p->src[2])[b->o];
    else *(float *)acc += ((const float *)b->p->src[2])[b->o];
}

static void solve(problem *p)
{
    static void (*const chains[3])(chain *, int64_t, int64_t, int64_t,
                                   int64_t) = {chain_y, chain_dx, chain_dw};
    const int64_t dims[3][4] = {{p->n, p->o, p->oh, p->ow},
                                {p->n, p->c, p->h, p->w},
                                {p->o, p->c / p->groups, p->kh, p->kw}};
    const int64_t *d = dims[p->kind];
    static _Alignas(64) uint8_t scratch[8 << 20];
    size_t most = (size_t)(p->n_src[0] + p->n_src[1] + p->c * p->o * p->kh * p->kw) * 8;
    chain q = {p, 0, malloc(most), malloc(most)};
    bias_of bias = {p, 0};
    for (int64_t i = 0; i < p->n_dst; ++i) {
        q.n = 0;
        bias.o = i / (d[2] * d[3]) % d[1];
        chains[p->kind](&q, i / (d[1] * d[2] * d[3]), bias.o, i / d[3] % d[2], i % d[3]);
        iv__gemm g = {.in = p->in,
                      .out = p->out,
                      .batch = 1,
                      .m = 1,
                      .n = 1,
                      .k = q.n,
                      .a_rs = 1,
                      .a_cs = 1,
                      .b_rs = 1,
                      .b_cs = 1,
                      .c_rs = 1,
                      .segments = p->segments,
                      .epilogue = p->bias ? add_bias : NULL,
                      .epilogue_ctx = &bias};
        assert_true(iv__gemm_scratch(&g, 1) <= sizeof(scratch));
        iv__gemm_run(&g, 0, q.a, q.b, p->want + (size_t)i * widths[p->out], scratch);
    }
    free(q.a);
    free(q.b);
}

/* ---- the run ---- */

static iv_op_desc describe(const problem *p)
{
    iv_tensor_desc x = tensor(dtypes[p->in], p->n, p->c, p->h, p->w),
                   y = tensor(dtypes[p->in], p->n, p->o, p->oh, p->ow);
    iv_tensor_desc w = tensor(dtypes[p->in], p->o, p->c / p->groups, p->kh, p->kw);
    iv_op_desc d = {.op = p->impl->op,
                    .n_in = 2 + p->bias,
                    .n_out = 1,
                    .segments = p->segments,
                    .invariant = true,
                    .attr = {p->s[0], p->s[1], p->p[0], p->p[1], p->groups}};
    d.in[0] = p->kind == 0 ? x : y;
    d.in[1] = p->kind == 2 ? x : w;
    d.in[2] = (iv_tensor_desc){
        .dtype = p->in == IV__GEMM_F64 ? IV_F64 : IV_F32, .shape = {1, {p->o}}, .stride = {1}};
    d.out[0] = p->kind == 0 ? y : p->kind == 1 ? x : w;
    d.out[0].dtype = dtypes[p->out];
    return d;
}

static void run(problem *p, int level, int threads)
{
    cpu_device dev = {.host = &host, .level = level, .threads = threads};
    iv_op_desc d = describe(p);
    void *prepared;
    int64_t scratch = 0;
    assert_int_equal(p->impl->accepts(&dev, &d), IV_OK);
    assert_int_equal(p->impl->prepare(&dev, &d, &prepared, &scratch), IV_OK);
    cpu_memory mem[5] = {
        {p->src[0], 0}, {p->src[1], 0}, {p->src[2], 0}, {p->dst, 0}, {NULL, scratch}};
    mem[4].ptr = aligned_alloc(64, (size_t)scratch + 64);
    memset(mem[4].ptr, 0xff, (size_t)scratch + 64); /* NaN, if it is read before it is written */
    memset(p->dst, 0xee, (size_t)p->n_dst * widths[p->out]);
    iv_buffer io[5];
    for (int i = 0, j = 0; i < 5; ++i)
        if (i != 2 || p->bias) io[j++] = (iv_buffer){.mem = &mem[i]};
    assert_int_equal(p->impl->run(&dev, prepared, io), IV_OK);
    for (int i = 0; i < 64; ++i) assert_int_equal(mem[4].ptr[scratch + i], 0xff);
    p->impl->unprepare(prepared);
    free(mem[4].ptr);
}

static void compare(const problem *p, int level, int threads)
{
    size_t e = widths[p->out];
    for (int64_t i = 0; i < p->n_dst; ++i)
        if (memcmp(p->dst + (size_t)i * e, p->want + (size_t)i * e, e) != 0)
            fail_msg("%s, level %s, %d threads, types %d->%d: x [%lld %lld %lld %lld], w [%lld "
                     "%lld %lld %lld], stride %lld %lld,"
                     " padding %lld %lld, %lld groups, %lld grains: element %lld differs",
                     p->impl->name, iv__isa_name(level), threads, (int)p->in, (int)p->out,
                     (long long)p->n, (long long)p->c, (long long)p->h, (long long)p->w,
                     (long long)p->o, (long long)(p->c / p->groups), (long long)p->kh,
                     (long long)p->kw, (long long)p->s[0], (long long)p->s[1], (long long)p->p[0],
                     (long long)p->p[1], (long long)p->groups, (long long)p->segments,
                     (long long)i);
}

static void check(problem *p)
{
    for (int i = 0; i < 2; ++i) {
        p->oh = (p->h + 2 * p->p[0] - p->kh) / p->s[0] + 1;
        p->ow = (p->w + 2 * p->p[1] - p->kw) / p->s[1] + 1;
    }
    int64_t n_x = p->n * p->c * p->h * p->w, n_y = p->n * p->o * p->oh * p->ow,
            n_w = p->o * (p->c / p->groups) * p->kh * p->kw;
    p->impl = iv__cpu_conv_impls[p->kind];
    p->n_src[0] = p->kind == 0 ? n_x : n_y;
    p->n_src[1] = p->kind == 2 ? n_x : n_w;
    p->n_dst = p->kind == 0 ? n_y : p->kind == 1 ? n_x : n_w;
    for (int i = 0; i < 2; ++i) {
        p->src[i] = malloc((size_t)p->n_src[i] * 8);
        for (int64_t k = 0; k < p->n_src[i]; ++k) put(p->in, p->src[i], k);
    }
    p->src[2] = malloc((size_t)p->o * 8);
    for (int64_t k = 0; k < p->o; ++k)
        put(p->in == IV__GEMM_F64 ? IV__GEMM_F64 : IV__GEMM_F32, p->src[2], k);
    p->dst = malloc((size_t)p->n_dst * 8);
    p->want = malloc((size_t)p->n_dst * 8);
    solve(p);
    for (int threads = 1; threads <= 3; ++threads) {
        assert_int_equal(iv__team_open(threads), 0);
        for (int level = 0; level <= iv__isa_detect(); ++level) {
            run(p, level, threads);
            compare(p, level, threads);
        }
    }
    for (int i = 0; i < 3; ++i) free(p->src[i]);
    free(p->dst);
    free(p->want);
}

/* ---- tests ---- */

static iv__gemm_type some_out(iv__gemm_type in)
{
    static const iv__gemm_type outs[3] = {IV__GEMM_F32, IV__GEMM_BF16, IV__GEMM_F16};
    return in == IV__GEMM_F64 ? IV__GEMM_F64 : outs[rnd_to(0, 2)];
}

static void test_random(void **state)
{
    (void)state;
    for (int i = 0; i < 360; ++i) {
        int64_t groups = rnd_to(0, 2) ? 1 : rnd_to(2, 4), grains = rnd_to(1, 4);
        problem p = {.kind = i % 3,
                     .in = (iv__gemm_type)(i / 3 % 4),
                     .groups = groups,
                     .n = rnd_to(1, 2),
                     .c = groups * rnd_to(1, 4),
                     .o = groups * rnd_to(1, 5),
                     .kh = rnd_to(1, 4),
                     .kw = rnd_to(1, 5),
                     .segments = 1};
        for (int k = 0; k < 2; ++k) {
            p.s[k] = rnd_to(1, 3);
            p.p[k] = rnd_to(0, 3);
        }
        p.h = rnd_to(p.kh, 12);
        p.w = rnd_to(p.kw, 12);
        p.out = some_out(p.in);
        p.bias = p.kind == 0 && rnd_to(0, 1);
        if (p.kind == 2) {
            p.segments = grains;
            p.n *= grains;
        }
        check(&p);
    }
}

/* Several bands of rows in an image, of x and of dy; windows wider than the image and padding wider
 * than windows; images that are read where they are: without padding, and dy where dx sees all of
 * a window. */
static void test_edges(void **state)
{
    (void)state;
    problem cases[] = {
        {.n = 1,
         .c = 24,
         .h = 40,
         .w = 37,
         .o = 3,
         .kh = 3,
         .kw = 3,
         .s = {1, 1},
         .p = {1, 1},
         .groups = 1},
        {.n = 2,
         .c = 40,
         .h = 30,
         .w = 33,
         .o = 40,
         .kh = 5,
         .kw = 5,
         .s = {2, 3},
         .p = {2, 2},
         .groups = 20},
        {.n = 2,
         .c = 2,
         .h = 1,
         .w = 2,
         .o = 3,
         .kh = 3,
         .kw = 6,
         .s = {1, 1},
         .p = {4, 5},
         .groups = 1},
        {.n = 3,
         .c = 4,
         .h = 7,
         .w = 9,
         .o = 4,
         .kh = 2,
         .kw = 1,
         .s = {5, 4},
         .p = {0, 3},
         .groups = 4},
        {.n = 2,
         .c = 100,
         .h = 29,
         .w = 31,
         .o = 2,
         .kh = 3,
         .kw = 3,
         .s = {2, 1},
         .p = {1, 1},
         .groups = 1},
        {.n = 2,
         .c = 2,
         .h = 29,
         .w = 40,
         .o = 100,
         .kh = 2,
         .kw = 3,
         .s = {1, 1},
         .p = {1, 1},
         .groups = 1},
        {.n = 3,
         .c = 12,
         .h = 20,
         .w = 11,
         .o = 10,
         .kh = 1,
         .kw = 1,
         .s = {1, 1},
         .p = {0, 0},
         .groups = 2},
        {.n = 2,
         .c = 3,
         .h = 20,
         .w = 26,
         .o = 5,
         .kh = 3,
         .kw = 5,
         .s = {1, 1},
         .p = {2, 4},
         .groups = 1},
    };
    for (int i = 0; i < (int)(sizeof(cases) / sizeof(*cases)) * 3; ++i) {
        problem p = cases[i / 3];
        p.kind = i % 3;
        p.in = p.out = i / 3 % 2 ? IV__GEMM_BF16 : IV__GEMM_F32;
        p.segments = p.kind == 2 ? p.n : 1;
        check(&p);
    }
}

/* Weight gradients with long chains: of one channel of many places, and of many groups. */
static void test_parts(void **state)
{
    (void)state;
    problem cases[] = {
        {.n = 24,
         .c = 6,
         .h = 56,
         .w = 48,
         .o = 1,
         .kh = 3,
         .kw = 3,
         .s = {1, 1},
         .p = {1, 1},
         .groups = 1,
         .segments = 8},
        {.n = 16,
         .c = 9,
         .h = 50,
         .w = 50,
         .o = 9,
         .kh = 3,
         .kw = 2,
         .s = {1, 1},
         .p = {1, 1},
         .groups = 9,
         .segments = 4},
    };
    for (int i = 0; i < 2; ++i) {
        cases[i].kind = 2;
        check(&cases[i]);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    cpu_device dev = {.host = &host, .level = 0, .threads = 1};
    problem p = {.impl = iv__cpu_conv_impls[2],
                 .kind = 2,
                 .n = 6,
                 .c = 8,
                 .h = 10,
                 .w = 10,
                 .o = 8,
                 .kh = 3,
                 .kw = 3,
                 .oh = 10,
                 .ow = 10,
                 .groups = 1,
                 .s = {1, 1},
                 .p = {1, 1},
                 .segments = 4};
    iv_op_desc d = describe(&p);
    assert_int_equal(p.impl->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "6 samples in 4 grains");
    d.segments = 3;
    assert_int_equal(p.impl->accepts(&dev, &d), IV_OK);
    d.in[1].dtype = IV_F64;
    assert_int_equal(p.impl->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "types f32, f64 to f32");
    d.in[1] = d.in[0];
    d.in[1].stride[3] = 2;
    assert_int_equal(p.impl->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "input 1 is not contiguous");
    p.n = 512;
    p.h = p.w = p.oh = p.ow = 224;
    d = describe(&p);
    assert_int_equal(p.impl->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_non_null(strstr(message, "MiB of scratch, 512 at most"));
    p.n = 8192;
    p.kh = p.kw = 1;
    p.p[0] = p.p[1] = 0; /* then x is read where it is */
    d = describe(&p);
    assert_int_equal(p.impl->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "more than 2147483647 elements");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_edges),
                                       cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, close_team);
}
