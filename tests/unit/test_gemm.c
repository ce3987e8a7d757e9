/* test_gemm.c: the host's matrix product against a scalar reading of docs/numerics.md, rules 4, 5,
 * 7 and 8, bit for bit: all types, levels, transpositions, odd sizes, segments, batches, 1 and 2
 * threads.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "standin/amx.h"
#include "cpu_impl.h"
#include "rnd.h"

static const int64_t widths[IV__GEMM_TYPES] = {4, 8, 2, 2};

/* ---- the reference: one element, by the letter of the rules ---- */

static float bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float flush(float x)
{
    uint32_t u = f32_bits(x);
    return (u & 0x7f800000u) ? x : bits_f32(u & 0x80000000u);
}

/* fmaf with flush-to-zero.  If the rounded result is the least normal number, whether the result
 * with an unbounded exponent is below it shows in the same fma 2^64 higher. */
static float fma_ftz(float a, float b, float c)
{
    float r = fmaf(a, b, c);
    if ((f32_bits(r) & 0x7fffffffu) == 0x00800000u) {
        float big = fabsf(a) > fabsf(b) ? a : b, small = fabsf(a) > fabsf(b) ? b : a;
        float scaled = fmaf(small * 0x1p64f, big, c * 0x1p64f);
        if (fabsf(scaled) < 0x1p-62f) {
            return bits_f32(f32_bits(r) & 0x80000000u);
        }
    }
    return flush(r);
}

static float f16_value(uint16_t h)
{
    int e = h >> 10 & 31;
    float m = (float)(h & 1023), s = (h & 0x8000) ? -1.0f : 1.0f;
    if (e == 31) {
        return m != 0.0f ? NAN : s * INFINITY;
    }
    return s * (e ? ldexpf(m + 1024.0f, e - 25) : ldexpf(m, -24));
}

/* To nearest even by searching the neighbours: slow, and nothing like the code under test. */
static uint16_t f16_round(float x)
{
    uint16_t s = (f32_bits(x) >> 31) ? 0x8000 : 0;
    double v = fabs((double)x);
    if (isnan(x)) {
        return 0x7e00;
    }
    if (v >= 65520.0) {
        return s | 0x7c00;
    }
    uint16_t lo = 0, hi = 0x7c00; /* value(lo) <= v < value(hi), where 0x7c00 counts as 65536 */
    while (hi - lo > 1) {
        uint16_t mid = (uint16_t)((lo + hi) / 2);
        if ((double)f16_value(mid) <= v) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    double top = hi == 0x7c00 ? 65536.0 : (double)f16_value(hi);
    double down = v - (double)f16_value(lo), up = top - v;
    return s | (down < up || (down == up && lo % 2 == 0) ? lo : hi);
}

static uint16_t bf16_round(float x)
{
    uint32_t u = f32_bits(x);
    if (isnan(x)) {
        return 0x7fc0;
    }
    uint32_t rest = u & 0xffffu, hi = u >> 16;
    return (uint16_t)(hi + (rest > 0x8000u || (rest == 0x8000u && (hi & 1))));
}

static double in_value(iv__gemm_type t, const void *x, int64_t i)
{
    switch (t) {
    case IV__GEMM_F32: return (double)((const float *)x)[i];
    case IV__GEMM_F64: return ((const double *)x)[i];
    case IV__GEMM_BF16: return (double)flush(bits_f32((uint32_t)((const uint16_t *)x)[i] << 16));
    default: return (double)f16_value(((const uint16_t *)x)[i]);
    }
}

static int64_t axis(iv__gemm_runs r, int64_t stride, int64_t i)
{
    return r.at ? r.at[i / r.run] + i % r.run * stride : i * stride;
}

typedef struct dot {
    const iv__gemm *g;
    const void *a, *b;
    int64_t a0, b0; /* first element of the row and the column */
} dot;

static double dot_a(const dot *d, int64_t k, int64_t end)
{
    return k < end ? in_value(d->g->in, d->a, d->a0 + axis(d->g->a_k, d->g->a_cs, k)) : 0.0;
}

static double dot_b(const dot *d, int64_t k, int64_t end)
{
    return k < end ? in_value(d->g->in, d->b, d->b0 + axis(d->g->b_k, d->g->b_rs, k)) : 0.0;
}

static double chain16(const dot *d, int64_t k0, int64_t k1)
{
    bool ftz = d->g->in == IV__GEMM_BF16;
    float acc = 0.0f;
    for (int64_t k = k0; k < k1; k += 32) {
        float sums[2] = {0.0f, 0.0f};
        for (int64_t i = 0; i < 32; ++i) {
            float a = (float)dot_a(d, k + i, k1), b = (float)dot_b(d, k + i, k1);
            sums[i % 2] = ftz ? fma_ftz(a, b, sums[i % 2]) : fmaf(a, b, sums[i % 2]);
        }
        float both = sums[0] + sums[1];
        both = ftz ? flush(both) : both;
        acc = acc + both;
        acc = ftz ? flush(acc) : acc;
    }
    return (double)acc;
}

static double segment_sum(const dot *d, int64_t k0, int64_t k1)
{
    if (d->g->in == IV__GEMM_BF16 || d->g->in == IV__GEMM_F16) {
        return chain16(d, k0, k1);
    }
    double acc = 0.0;
    for (int64_t k = k0; k < k1; ++k) {
        double a = dot_a(d, k, k1), b = dot_b(d, k, k1);
        acc = d->g->in == IV__GEMM_F64 ? fma(a, b, acc)
                                       : (double)fmaf((float)a, (float)b, (float)acc);
    }
    return acc;
}

/* The tree over segments [s0, s1): split at the largest power of two below the count. */
static double tree_sum(const dot *d, int64_t s0, int64_t s1)
{
    int64_t len = d->g->k / d->g->segments, half = 1;
    if (s1 - s0 == 1) {
        return segment_sum(d, s0 * len, s1 * len);
    }
    while (half * 2 < s1 - s0) {
        half *= 2;
    }
    double x = tree_sum(d, s0, s0 + half), y = tree_sum(d, s0 + half, s1);
    if (d->g->in == IV__GEMM_F64) {
        return x + y;
    }
    float sum = (float)x + (float)y;
    return (double)sum;
}

static uint64_t out_bits(iv__gemm_type t, double v)
{
    uint64_t u = 0;
    if (isnan(v)) {
        return UINT64_MAX; /* of a NaN only that it is one */
    }
    if (t == IV__GEMM_F64) {
        memcpy(&u, &v, sizeof u);
        return u;
    }
    return t == IV__GEMM_F32    ? f32_bits((float)v)
           : t == IV__GEMM_BF16 ? bf16_round((float)v)
                                : f16_round((float)v);
}

static uint64_t stored_bits(iv__gemm_type t, const void *c, int64_t i)
{
    if (t == IV__GEMM_F64) {
        return out_bits(t, ((const double *)c)[i]);
    }
    if (t == IV__GEMM_F32) {
        return out_bits(t, (double)((const float *)c)[i]);
    }
    uint16_t h = ((const uint16_t *)c)[i];
    bool nan = t == IV__GEMM_BF16 ? (h & 0x7fff) > 0x7f80 : (h & 0x7fff) > 0x7c00;
    return nan ? UINT64_MAX : h;
}

/* ---- inputs ---- */

enum { PLAIN, TINY, WIDE, DENORMAL, SPECIAL, RANGES };

/* First and last biased exponent of each range, of an 8-bit exponent. */
static const int32_t exps[RANGES][2] = {{118, 129}, {50, 79}, {0, 190}, {55, 70}, {0, 255}};

static void put(iv__gemm_type t, void *x, int64_t i, int range)
{
    uint32_t e = (uint32_t)rnd_to(exps[range][0], exps[range][1]), s = rnd() & 1, m = rnd();
    if (range == DENORMAL && rnd() % 3 == 0) {
        e = rnd() % 2 ? 0 : 120;
    }
    if (t == IV__GEMM_BF16) {
        ((uint16_t *)x)[i] = (uint16_t)(s << 15 | e << 7 | (m & 127));
    } else if (t == IV__GEMM_F16) {
        uint32_t h = range == PLAIN ? (uint32_t)rnd_to(10, 18) : (uint32_t)rnd_to(0, 31);
        h = range == SPECIAL || h < 31 ? h : 3;
        ((uint16_t *)x)[i] = (uint16_t)(s << 15 | h << 10 | (m & 1023));
    } else if (t == IV__GEMM_F32) {
        ((float *)x)[i] = bits_f32(s << 31 | e << 23 | (m & 0x7fffff));
    } else {
        int64_t top = range == SPECIAL ? 2047 : 1500;
        uint64_t wide = range == PLAIN ? e + 896 : (uint64_t)rnd_to(0, top);
        uint64_t u = (uint64_t)s << 63 | wide << 52 | ((uint64_t)m << 20 ^ rnd());
        memcpy((double *)x + i, &u, sizeof u);
    }
}

/* ---- running and comparing ---- */

typedef struct problem {
    iv__gemm g;
    void *a, *b, *c;
    int64_t c_n;
    uint64_t *want; /* [batch, m, n] */
} problem;

static void *zalloc(int64_t n, int64_t bytes)
{
    void *p = calloc((size_t)n + 1, (size_t)bytes);
    assert_non_null(p);
    return p;
}

/* ta, tb: the operand is stored transposed.  Rows have gaps, so strides are not the sizes. */
static problem problem_new(iv__gemm g, int ta, int tb, int range)
{
    problem p = {.g = g};
    int64_t pad = rnd_to(0, 3);
    p.g.a_rs = ta ? 1 : g.k + pad;
    p.g.a_cs = ta ? g.m + pad : 1;
    p.g.a_bs = (g.k + pad) * (g.m + pad);
    p.g.b_rs = tb ? 1 : g.n + pad;
    p.g.b_cs = tb ? g.k + pad : 1;
    p.g.b_bs = (g.k + pad) * (g.n + pad);
    p.g.c_rs = g.n + pad;
    p.g.c_bs = g.m * p.g.c_rs + pad;
    p.c_n = g.batch * p.g.c_bs;
    p.a = zalloc(g.batch * p.g.a_bs, widths[g.in]);
    p.b = zalloc(g.batch * p.g.b_bs, widths[g.in]);
    p.c = zalloc(p.c_n, widths[g.out]);
    p.want = zalloc(g.batch * g.m * g.n, sizeof(uint64_t));
    for (int64_t i = 0; i < g.batch * p.g.a_bs; ++i) {
        put(g.in, p.a, i, range);
    }
    for (int64_t i = 0; i < g.batch * p.g.b_bs; ++i) {
        put(g.in, p.b, i, range);
    }
    return p;
}

static void problem_solve(problem *p)
{
    const iv__gemm *g = &p->g;
    for (int64_t i = 0; i < g->batch * g->m * g->n; ++i) {
        int64_t z = i / (g->m * g->n), r = i / g->n % g->m, c = i % g->n;
        dot d = {.g = g,
                 .a = p->a,
                 .b = p->b,
                 .a0 = z * g->a_bs + r * g->a_rs,
                 .b0 = z * g->b_bs + axis(g->b_n, g->b_cs, c)};
        p->want[i] = out_bits(g->out, tree_sum(&d, 0, g->segments));
    }
}

static void problem_free(problem *p)
{
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->want);
}

static void run(problem *p, int level)
{
    enum { GUARD = 64 };
    assert_true(iv__gemm_accepts(&p->g));
    size_t bytes = iv__gemm_scratch(&p->g, iv__team_size());
    char *scratch = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    assert_non_null(scratch);
    memset(scratch, 0xff, bytes + GUARD); /* NaN, if it is read before it is written */
    memset(p->c, 0xee, (size_t)(p->c_n * widths[p->g.out]));
    iv__gemm_run(&p->g, level, p->a, p->b, p->c, scratch);
    for (size_t i = 0; i < GUARD; ++i) {
        assert_int_equal((unsigned char)scratch[bytes + i], 0xff);
    }
    free(scratch);
}

static void compare(const problem *p, int level)
{
    const iv__gemm *g = &p->g;
    for (int64_t i = 0; i < g->batch * g->m * g->n; ++i) {
        int64_t z = i / (g->m * g->n), r = i / g->n % g->m, c = i % g->n;
        uint64_t got = stored_bits(g->out, p->c, z * g->c_bs + r * g->c_rs + c);
        if (got != p->want[i]) {
            fail_msg("level %s, %d threads, types %d->%d, %lld x %lld x %lld x %lld, %lld segments,"
                     " strides %lld %lld, %lld %lld: [%lld %lld %lld] is %llx, must be %llx",
                     iv__isa_name(level), iv__team_size(), (int)g->in, (int)g->out,
                     (long long)g->batch, (long long)g->m, (long long)g->n, (long long)g->k,
                     (long long)g->segments, (long long)g->a_rs, (long long)g->a_cs,
                     (long long)g->b_rs, (long long)g->b_cs, (long long)z, (long long)r,
                     (long long)c, (unsigned long long)got, (unsigned long long)p->want[i]);
        }
    }
}

/* What this machine has, and tiles for bf16 by their stand-in where it has none. */
static bool can_run(int level, iv__gemm_type in)
{
    return level <= iv__isa_detect() ||
           (iv__isa_has_tiles(level) && in == IV__GEMM_BF16 && iv__isa_detect() >= 1 &&
            standin_amx_open()); /* in every test: cmocka sets its own handlers before each */
}

static void run_levels(problem *p)
{
    for (int level = 0; level < IV__ISA_COUNT; ++level) {
        if (can_run(level, p->g.in)) {
            run(p, level);
            compare(p, level);
        }
    }
}

static void check(iv__gemm g, int ta, int tb, int range)
{
    problem p = problem_new(g, ta, tb, range);
    problem_solve(&p);
    for (int threads = 1; threads <= 2; ++threads) {
        assert_int_equal(iv__team_open(threads), 0);
        run_levels(&p);
    }
    problem_free(&p);
}

static iv__gemm_type some_out(iv__gemm_type in)
{
    static const iv__gemm_type outs[3] = {IV__GEMM_F32, IV__GEMM_BF16, IV__GEMM_F16};
    return in == IV__GEMM_F64 ? IV__GEMM_F64 : outs[rnd() % 3];
}

/* ---- tests ---- */

static void test_random_sizes(void **state)
{
    (void)state;
    static const int64_t segments[] = {1, 1, 2, 3, 5, 8};
    for (int i = 0; i < 640; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        int64_t s = segments[rnd() % 6];
        iv__gemm g = {.in = in,
                      .out = some_out(in),
                      .batch = rnd_to(1, 3),
                      .m = rnd_to(1, 70),
                      .n = rnd_to(1, 70),
                      .k = rnd_to(0, 70 / s) * s,
                      .segments = s};
        check(g, i / 4 % 2, i / 8 % 2, i / 16 % RANGES);
    }
}

static void test_long_k(void **state)
{
    (void)state;
    static const int64_t segments[] = {1, 2, 3, 5, 8, 7, 64};
    for (int i = 0; i < 56; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        int64_t s = segments[i / 4 % 7];
        iv__gemm g = {.in = in,
                      .out = some_out(in),
                      .batch = 1,
                      .m = rnd_to(1, 40),
                      .n = rnd_to(1, 70),
                      .k = rnd_to(200, 1500) / s * s,
                      .segments = s};
        check(g, (int)(rnd() % 2), (int)(rnd() % 2), i / 28 ? WIDE : PLAIN);
    }
}

static void test_many_blocks(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {
        {1001, 37, 70}, {37, 1001, 70}, {500, 500, 33}, {1, 900, 401}, {700, 1, 401}};
    for (int i = 0; i < 20; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        const int64_t *z = sizes[i / 4];
        iv__gemm g = {.in = in,
                      .out = some_out(in),
                      .batch = 1,
                      .m = z[0],
                      .n = z[1],
                      .k = z[2],
                      .segments = 1};
        check(g, i % 2, i / 2 % 2, PLAIN);
    }
}

/* Runs, compares and frees; the team as it is. */
static void run_all_levels(problem *p)
{
    run_levels(p);
    problem_free(p);
}

static void check_all_levels(problem *p)
{
    problem_solve(p);
    run_all_levels(p);
}

static uint16_t bf16_of(uint32_t sign, int32_t exponent, uint32_t mantissa)
{
    return (uint16_t)(sign << 15 | (uint32_t)(exponent + 127) << 7 | (mantissa & 127));
}

/* 2^-126 from k = 0, and at k = 2, in the same chain, a little taken away: on both sides of the
 * point 2^-151 below 2^-126 from which the result counts as tiny, and on it. */
static void test_bf16_at_the_least_normal(void **state)
{
    (void)state;
    for (int i = 0; i < 20; ++i) {
        iv__gemm g = {.in = IV__GEMM_BF16,
                      .out = IV__GEMM_F32,
                      .batch = 1,
                      .m = 48,
                      .n = 64,
                      .k = 3,
                      .segments = 1};
        problem p = problem_new(g, 0, 1, PLAIN);
        uint16_t *a = p.a, *b = p.b;
        for (int64_t r = 0; r < g.m; ++r, a += p.g.a_rs) {
            uint32_t s = rnd() & 1, m = rnd() % 3 ? rnd() : 0;
            a[0] = bf16_of(s, -63, 0);
            a[1] = 0;
            a[2] = bf16_of(1 - s, -76, m);
        }
        for (int64_t c = 0; c < g.n; ++c, b += p.g.b_cs) {
            uint32_t m = rnd() % 3 ? rnd() : 0;
            b[0] = bf16_of(0, -63, 0);
            b[1] = 0;
            b[2] = bf16_of(0, (int32_t)rnd_to(-77, -73), m);
        }
        check_all_levels(&p);
    }
}

/* c + a b so close to the middle of two f32 that rounding to f64 first would give the other one:
 * 641 * 6700417 = 2^32 + 1 and 65537 * 65535 = 2^32 - 1, scaled to half a unit of c. */
static void test_f32_rounds_once(void **state)
{
    (void)state;
    for (int i = 0; i < 2; ++i) {
        iv__gemm g = {.in = IV__GEMM_F32,
                      .out = IV__GEMM_F32,
                      .batch = 1,
                      .m = 6,
                      .n = 6,
                      .k = 2,
                      .segments = 1};
        problem p = problem_new(g, i, i, PLAIN);
        for (int64_t j = 0; j < 6; ++j) {
            float sign = j & 1 ? -1.0f : 1.0f, *a = p.a, *b = p.b;
            a[j * p.g.a_rs] = sign * (1.0f + (float)(j / 2) * 0x1p-23f);
            a[j * p.g.a_rs + p.g.a_cs] = sign * (j < 3 ? 641.0f : 65537.0f) * 0x1p-28f;
            b[j * p.g.b_cs] = 1.0f;
            b[j * p.g.b_cs + p.g.b_rs] = (j % 2 ? 6700417.0f : 65535.0f) * 0x1p-28f;
        }
        check_all_levels(&p);
    }
}

static void test_general_strides(void **state)
{
    (void)state;
    for (int i = 0; i < 16; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        iv__gemm g = {
            .in = in, .out = some_out(in), .batch = 2, .m = 19, .n = 21, .k = 40, .segments = 2};
        problem p = problem_new(g, 0, 0, PLAIN);
        /* Neither stride is 1; b is shared by the batch. */
        p.g.a_rs = 1 + i / 4;
        p.g.a_cs = 11;
        p.g.b_rs = 3;
        p.g.b_cs = 17;
        p.g.b_bs = 0;
        free(p.a);
        free(p.b);
        p.a = zalloc(2000 + p.g.a_bs, 8);
        p.b = zalloc(2000, 8);
        for (int64_t j = 0; j < 2000 + p.g.a_bs; ++j) {
            put(in, p.a, j, PLAIN);
        }
        for (int64_t j = 0; j < 2000; ++j) {
            put(in, p.b, j, PLAIN);
        }
        check_all_levels(&p);
    }
}

/* Adds 1000 batch + row + column / 64 to sums that are zero: tells where each tile says it lies. */
static void place(void *ctx, void *acc, int64_t batch, int64_t row0, int64_t rows, int64_t col0,
                  int64_t cols, int64_t ld)
{
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
            double v = 1000.0 * (double)batch + (double)(row0 + i) + (double)(col0 + j) / 64.0;
            if (*(const iv__gemm_type *)ctx == IV__GEMM_F64) {
                ((double *)acc)[i * ld + j] += v;
            } else {
                /* A denormal must survive here, whatever the product's mode. */
                float tiny = ((float *)acc)[i * ld + j] + bits_f32(1);
                ((float *)acc)[i * ld + j] = (float)v + (tiny > 0.0f ? 0.0f : 1.0f);
            }
        }
    }
}

static void test_epilogue(void **state)
{
    (void)state;
    for (int i = 0; i < 16; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        iv__gemm_type out = in == IV__GEMM_F64 ? IV__GEMM_F64 : IV__GEMM_F32;
        iv__gemm g = {.in = in,
                      .out = out,
                      .batch = 2,
                      .m = 61,
                      .n = 45,
                      .k = i < 4 ? 0 : 20 << i / 2,
                      .segments = 1 + i % 2,
                      .epilogue = place,
                      .epilogue_ctx = &in};
        problem p = problem_new(g, 0, 0, PLAIN);
        memset(p.a, 0, (size_t)(g.batch * p.g.a_bs * widths[in]));
        for (int64_t j = 0; j < g.batch * g.m * g.n; ++j) {
            double v = 1000.0 * (double)(j / (g.m * g.n)) + (double)(j / g.n % g.m) +
                       (double)(j % g.n) / 64.0;
            p.want[j] = out_bits(out, v);
        }
        run_all_levels(&p);
    }
}

static void test_accepts(void **state)
{
    (void)state;
    iv__gemm ok = {.batch = 1, .m = 1, .n = 1, .k = 6, .segments = 3}, g = ok;
    assert_true(iv__gemm_accepts(&g));
    g.segments = 4;
    assert_false(iv__gemm_accepts(&g));
    g.segments = 0;
    assert_false(iv__gemm_accepts(&g));
    g = ok;
    g.in = IV__GEMM_F64;
    assert_false(iv__gemm_accepts(&g));
    g.out = IV__GEMM_F64;
    assert_true(iv__gemm_accepts(&g));
    g.m = -1;
    assert_false(iv__gemm_accepts(&g));
    g = ok;
    g.m = 0;
    g.batch = 0;
    iv__gemm_run(&g, 0, NULL, NULL, NULL, NULL);
}

static void test_isa(void **state)
{
    (void)state;
    int level = iv__isa_detect();
    assert_true(level >= 0 && level < IV__ISA_COUNT);
    for (int i = 0; i < IV__ISA_COUNT; ++i) {
        assert_int_equal(iv__isa_from_name(iv__isa_name(i)), i);
    }
    assert_int_equal(iv__isa_from_name("v9"), -1);
    assert_int_equal(iv__isa_from_name(NULL), -1);
    assert_null(iv__isa_name(-1));
    assert_null(iv__isa_name(IV__ISA_COUNT));
    printf("level %s, avx512_bf16 %d, amx_bf16 %d\n", iv__isa_name(level),
           iv__isa_has_avx512_bf16(), iv__isa_has_amx_bf16());
}

/* A table of runs for n indices; what it reaches is below `reach` elements. */
static iv__gemm_runs some_runs(int64_t n, int64_t stride, int64_t reach)
{
    static const int64_t lengths[] = {1, 2, 3, 7, 14, 16, 28, 33, 64};
    int64_t run = lengths[rnd() % 9], count = (n + run - 1) / run;
    int32_t *at = malloc((size_t)count * sizeof(*at));
    assert_non_null(at);
    for (int64_t i = 0; i < count; ++i) at[i] = (int32_t)rnd_to(0, reach - run * stride);
    return (iv__gemm_runs){at, run};
}

/* Operands that lie in runs: along k, along the columns, along both. */
static void test_runs(void **state)
{
    (void)state;
    enum { REACH = 400 };
    for (int i = 0; i < 120; ++i) {
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        int64_t s = rnd_to(1, 4);
        iv__gemm g = {.in = in,
                      .out = some_out(in),
                      .batch = rnd_to(1, 2),
                      .m = rnd_to(1, 40),
                      .n = rnd_to(1, 70),
                      .k = s * rnd_to(1, i % 12 == 0 ? 300 : 90),
                      .segments = s};
        problem p = problem_new(g, rnd() % 2, rnd() % 2, PLAIN);
        p.g.b_rs = rnd_to(1, 2);
        p.g.b_cs = rnd_to(1, 2);
        p.g.a_cs = rnd_to(1, 2);
        p.g.a_rs = rnd_to(0, 50);
        p.g.a_bs = p.g.b_bs = 17;
        if (rnd() % 3) p.g.b_k = some_runs(g.k, p.g.b_rs, REACH);
        if (rnd() % 3) p.g.b_n = some_runs(g.n, p.g.b_cs, REACH);
        if (rnd() % 3) p.g.a_k = some_runs(g.k, p.g.a_cs, REACH);
        free(p.a);
        free(p.b);
        int64_t n_a = 20 + 50 * g.m + 2 * g.k + REACH, n_b = 20 + 2 * (g.k + g.n) + 2 * REACH;
        p.a = zalloc(n_a, widths[in]);
        p.b = zalloc(n_b, widths[in]);
        for (int64_t e = 0; e < n_a; ++e) put(in, p.a, e, PLAIN);
        for (int64_t e = 0; e < n_b; ++e) put(in, p.b, e, PLAIN);
        problem_solve(&p);
        for (int threads = 1; threads <= 2; ++threads) {
            assert_int_equal(iv__team_open(threads), 0);
            run_levels(&p);
        }
        free((void *)(uintptr_t)p.g.b_k.at);
        free((void *)(uintptr_t)p.g.b_n.at);
        free((void *)(uintptr_t)p.g.a_k.at);
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_isa),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_random_sizes),
        cmocka_unit_test(test_long_k),
        cmocka_unit_test(test_many_blocks),
        cmocka_unit_test(test_bf16_at_the_least_normal),
        cmocka_unit_test(test_f32_rounds_once),
        cmocka_unit_test(test_general_strides),
        cmocka_unit_test(test_runs),
        cmocka_unit_test(test_epilogue),
    };
    int failed = cmocka_run_group_tests(tests, NULL, close_team);
    printf("%ld tile instructions by the stand-in\n", standin_amx_count());
    return failed;
}
