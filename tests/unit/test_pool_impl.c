/* test_pool_impl.c: the CPU's poolings against the order of the contract, bit for bit: each element
 * of the result is worked out alone, in the words of kernels/pool.k.  Random sizes, strides and
 * paddings, windows that overlap and that leave gaps, values that are equal, infinite or not a
 * number; all types, levels and teams.  (Which NaN comes out is not asked.)
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/portable.h"

#include "cpu_impl.h"
#include "rnd.h"

static const iv_dtype dtypes[4] = {IV_F32, IV_F64, IV_BF16, IV_F16};

enum { MAX, MEAN, MAX_GRAD, MEAN_GRAD };

typedef struct problem {
    int kind;
    iv_dtype type;
    int64_t n, c, h, w, oh, ow, k[2], s[2], p[2];
    double *big, *small; /* x and y, or dx and dy, as f64; grad: both are set by `solve` or given */
    int32_t *place;
} problem;

/* x rounded to the type; f32 sums are taken in f32, as for the 16-bit types. */
static double rounded(iv_dtype t, double x)
{
    return t == IV_F64    ? x
           : t == IV_F32  ? (double)(float)x
           : t == IV_BF16 ? (double)iv_from_bf16(iv_to_bf16((float)x))
                          : (double)iv_from_f16(iv_to_f16((float)x));
}

static double add(iv_dtype t, double a, double b)
{
    return t == IV_F64 ? a + b : (double)((float)a + (float)b);
}

static double over(iv_dtype t, double a, double b)
{
    return t == IV_F64 ? a / b : (double)((float)a / (float)b);
}

static double value(iv_dtype t)
{
    static const double special[] = {0, -0.0, INFINITY, -INFINITY, NAN, 1, 1, 1};
    if (rnd_to(0, 9) == 0) return special[rnd_to(0, 7)];
    return rounded(t, (double)rnd_to(-(1 << 20), 1 << 20) / (double)rnd_to(1 << 10, 1 << 18));
}

/* ---- the reference ---- */

static void window_max(problem *p, const double *x, int64_t oy, int64_t ox, double *y,
                       int32_t *place)
{
    *y = -INFINITY;
    *place = -1;
    for (int64_t r = 0; r < p->k[0]; ++r)
        for (int64_t q = 0; q < p->k[1]; ++q) {
            int64_t iy = oy * p->s[0] - p->p[0] + r, ix = ox * p->s[1] - p->p[1] + q;
            if (iy < 0 || iy >= p->h || ix < 0 || ix >= p->w) continue;
            double v = x[iy * p->w + ix];
            if (*place >= 0 && !(v > *y) && !(isnan(v) && !isnan(*y))) continue;
            *y = v;
            *place = (int32_t)(iy * p->w + ix);
        }
}

static double window_mean(const problem *p, const double *x, int64_t oy, int64_t ox)
{
    double sum = 0;
    for (int64_t r = 0; r < p->k[0]; ++r)
        for (int64_t q = 0; q < p->k[1]; ++q) {
            int64_t iy = oy * p->s[0] - p->p[0] + r, ix = ox * p->s[1] - p->p[1] + q;
            if (iy < 0 || iy >= p->h || ix < 0 || ix >= p->w) continue;
            sum = add(p->type, sum, x[iy * p->w + ix]);
        }
    return rounded(p->type, over(p->type, sum, (double)(p->k[0] * p->k[1])));
}

/* The gradient of pixel (iy, ix): all outputs in rising order, those that count are added. */
static double pixel(const problem *p, const double *dy, const int32_t *place, int64_t iy,
                    int64_t ix)
{
    double sum = 0;
    for (int64_t o = 0; o < p->oh * p->ow; ++o) {
        int64_t r = iy + p->p[0] - o / p->ow * p->s[0], q = ix + p->p[1] - o % p->ow * p->s[1];
        bool inside = r >= 0 && r < p->k[0] && q >= 0 && q < p->k[1];
        if (p->kind == MAX_GRAD ? place[o] == iy * p->w + ix : inside)
            sum = add(p->type, sum, dy[o]);
    }
    if (p->kind == MEAN_GRAD) sum = over(p->type, sum, (double)(p->k[0] * p->k[1]));
    return rounded(p->type, sum);
}

static void solve(problem *p)
{
    for (int64_t i = 0; i < p->n * p->c; ++i) {
        double *x = p->big + i * p->h * p->w, *y = p->small + i * p->oh * p->ow;
        int32_t *place = p->place + i * p->oh * p->ow;
        for (int64_t o = 0; o < p->oh * p->ow; ++o) {
            if (p->kind == MAX || p->kind == MAX_GRAD)
                window_max(p, x, o / p->ow, o % p->ow, &y[o], &place[o]);
            else if (p->kind == MEAN) y[o] = window_mean(p, x, o / p->ow, o % p->ow);
            if (p->kind >= MAX_GRAD) y[o] = value(p->type);
        }
        for (int64_t k = 0; p->kind >= MAX_GRAD && k < p->h * p->w; ++k)
            x[k] = pixel(p, y, place, k / p->w, k % p->w);
    }
}

/* ---- the run ---- */

static void encode(iv_dtype t, const double *x, int64_t n, uint8_t *out)
{
    for (int64_t i = 0; i < n; ++i)
        if (t == IV_F64) ((double *)out)[i] = x[i];
        else if (t == IV_F32) ((float *)out)[i] = (float)x[i];
        else ((uint16_t *)out)[i] = t == IV_BF16 ? iv_to_bf16((float)x[i]) : iv_to_f16((float)x[i]);
}

static double decode(iv_dtype t, const uint8_t *x, int64_t i)
{
    if (t == IV_F64) return ((const double *)x)[i];
    if (t == IV_F32) return (double)((const float *)x)[i];
    uint16_t u = ((const uint16_t *)x)[i];
    return (double)(t == IV_BF16 ? iv_from_bf16(u) : iv_from_f16(u));
}

static const char *text_of(const problem *p, int level, int threads)
{
    static char text[256];
    snprintf(text, sizeof(text),
             "kind %d, %s, level %s, %d threads: x [%lld %lld %lld %lld], window %lld %lld, stride "
             "%lld %lld, padding %lld %lld",
             p->kind, iv_dtype_name(p->type), iv__isa_name(level), threads, (long long)p->n,
             (long long)p->c, (long long)p->h, (long long)p->w, (long long)p->k[0],
             (long long)p->k[1], (long long)p->s[0], (long long)p->s[1], (long long)p->p[0],
             (long long)p->p[1]);
    return text;
}

static iv_op_desc describe(const problem *p, const iv_impl *impl)
{
    iv_tensor_desc big = tensor(p->type, p->n, p->c, p->h, p->w),
                   small = tensor(p->type, p->n, p->c, p->oh, p->ow), place = small;
    place.dtype = IV_I32;
    iv_op_desc d = {.op = impl->op, .n_in = 1, .n_out = 1, .segments = 1, .invariant = true};
    d.in[0] = p->kind < MAX_GRAD ? big : small;
    d.out[0] = p->kind < MAX_GRAD ? small : big;
    if (p->kind == MAX) d.out[d.n_out++] = place;
    if (p->kind == MAX_GRAD) d.in[d.n_in++] = place;
    for (int i = 0; i < 2; ++i) {
        d.attr[i] = p->s[i];
        d.attr[2 + i] = p->p[i];
        d.attr[5 + i] = p->k[i];
        d.attr[7 + i] = i ? p->w : p->h;
    }
    return d;
}

static void run(const problem *p, int level, int threads)
{
    const iv_impl *impl = iv__cpu_pool_impls[p->kind];
    cpu_device dev = {.host = &host, .level = level, .threads = threads};
    iv_op_desc d = describe(p, impl);
    int64_t n_big = p->n * p->c * p->h * p->w, n_small = p->n * p->c * p->oh * p->ow, scratch = 0;
    bool forward = p->kind < MAX_GRAD;
    void *prepared;
    assert_int_equal(impl->accepts(&dev, &d), IV_OK);
    assert_int_equal(impl->prepare(&dev, &d, &prepared, &scratch), IV_OK);
    uint8_t *big = malloc((size_t)n_big * 8), *small = malloc((size_t)n_small * 8),
            *extra = aligned_alloc(64, (size_t)scratch + 64);
    int32_t *place = malloc((size_t)n_small * 4);
    memset(big, 0xee, (size_t)n_big * 8);
    memset(small, 0xee, (size_t)n_small * 8);
    memset(extra, 0xff, (size_t)scratch + 64); /* NaN, if it is read before it is written */
    if (forward) encode(p->type, p->big, n_big, big);
    else encode(p->type, p->small, n_small, small);
    memcpy(place, p->place, (size_t)n_small * 4);
    cpu_memory mem[4] = {{forward ? big : small, 0}}, *m = mem + 1;
    if (p->kind == MAX_GRAD) *m++ = (cpu_memory){(uint8_t *)place, 0};
    *m++ = (cpu_memory){forward ? small : big, 0};
    if (p->kind == MAX) {
        memset(place, 0xee, (size_t)n_small * 4);
        *m++ = (cpu_memory){(uint8_t *)place, 0};
    }
    *m = (cpu_memory){extra, scratch};
    iv_buffer io[4];
    for (int i = 0; i < 4; ++i) io[i] = (iv_buffer){.mem = &mem[i]};
    assert_int_equal(impl->run(&dev, prepared, io), IV_OK);
    for (int i = 0; i < 64; ++i) assert_int_equal(extra[scratch + i], 0xff);
    const double *want = forward ? p->small : p->big;
    for (int64_t i = 0; i < (forward ? n_small : n_big); ++i) {
        double got = decode(p->type, forward ? small : big, i);
        if (memcmp(&got, &want[i], 8) != 0 && !(isnan(got) && isnan(want[i])))
            fail_msg("%s: element %lld is %a, not %a", text_of(p, level, threads), (long long)i,
                     got, want[i]);
    }
    for (int64_t i = 0; p->kind == MAX && i < n_small; ++i)
        if (place[i] != p->place[i])
            fail_msg("%s: place %lld is %d, not %d", text_of(p, level, threads), (long long)i,
                     place[i], p->place[i]);
    impl->unprepare(prepared);
    free(big);
    free(small);
    free(place);
    free(extra);
}

static void check(problem *p)
{
    p->oh = (p->h + 2 * p->p[0] - p->k[0]) / p->s[0] + 1;
    p->ow = (p->w + 2 * p->p[1] - p->k[1]) / p->s[1] + 1;
    int64_t n_big = p->n * p->c * p->h * p->w, n_small = p->n * p->c * p->oh * p->ow;
    p->big = malloc((size_t)n_big * 8);
    p->small = malloc((size_t)n_small * 8);
    p->place = calloc((size_t)n_small, 4);
    for (int64_t i = 0; i < n_big; ++i) p->big[i] = value(p->type);
    solve(p);
    for (int threads = 1; threads <= 3; threads += 2) {
        assert_int_equal(iv__team_open(threads), 0);
        for (int level = 0; level <= iv__isa_detect(); ++level) run(p, level, threads);
    }
    free(p->big);
    free(p->small);
    free(p->place);
}

/* ---- tests ---- */

static void test_random(void **state)
{
    (void)state;
    for (int i = 0; i < 192; ++i) {
        problem p = {
            .kind = i % 4, .type = dtypes[i / 4 % 4], .n = rnd_to(1, 3), .c = rnd_to(1, 3)};
        for (int k = 0; k < 2; ++k) {
            p.k[k] = rnd_to(1, 5);
            p.s[k] = rnd_to(1, 4);
            p.p[k] = rnd_to(0, p.k[k] / 2);
        }
        p.h = rnd_to(p.k[0], 15);
        p.w = rnd_to(p.k[1], 40);
        check(&p);
    }
}

/* The windows that networks have, in planes of odd widths. */
static void test_halves(void **state)
{
    (void)state;
    for (int i = 0; i < 64; ++i) {
        int64_t k = 2 + i / 16 % 2;
        problem p = {.kind = i % 4,
                     .type = dtypes[i / 4 % 4],
                     .n = 2,
                     .c = 3,
                     .h = rnd_to(4, 9),
                     .w = rnd_to(4, 67),
                     .k = {k, k},
                     .s = {2, 2},
                     .p = {k / 2 * (i / 32), k / 2 * (i / 32)}};
        check(&p);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    cpu_device dev = {.host = &host, .level = 0, .threads = 1};
    problem p = {.kind = MAX,
                 .type = IV_F32,
                 .n = 1,
                 .c = 2,
                 .h = 4,
                 .w = 6,
                 .oh = 2,
                 .ow = 3,
                 .k = {2, 2},
                 .s = {2, 2}};
    iv_op_desc d = describe(&p, iv__cpu_pool_impls[MAX]);
    assert_int_equal(iv__cpu_pool_impls[MAX]->accepts(&dev, &d), IV_OK);
    d.in[0].stride[3] = 2;
    assert_int_equal(iv__cpu_pool_impls[MAX]->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "input 0 is not contiguous");
    d.out[0].dtype = IV_BF16;
    assert_int_equal(iv__cpu_pool_impls[MAX]->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "types f32 to bf16");
    p.h = p.w = 50000;
    d = describe(&p, iv__cpu_pool_impls[MAX]);
    assert_int_equal(iv__cpu_pool_impls[MAX]->accepts(&dev, &d), IV_UNSUPPORTED);
    assert_string_equal(message, "planes of 50000 x 50000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_halves),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, close_team);
}
