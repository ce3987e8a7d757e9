/* test_math.c: the canonical functions of kernels/math.h.
 *
 * Three kinds of checks, all from tables over the functions:
 *   - error in ulp against a wider function of the C library: f32 against f64 on a strided sweep
 *     of all 2^32 bit patterns; f64 against __float128 (gcc, needs -lquadmath) or long double
 *     (clang) on random arguments of several shapes.  The limits are the errors that
 *     kernels/math.h documents, rounded up;
 *   - special values: zeros, infinities, NaN, ends of the range, the list of C99 for pow;
 *   - a pinned FNV-1a hash of the result bits over a fixed set of arguments, so that a change of
 *     any rounding, by us or by a compiler, is seen.  The hashes are equal on every compiler,
 *     optimisation level and instruction set; who changes a function on purpose changes them.
 * The ulp of a result is that of the binade of the exact value, in the denormal range the
 * smallest denormal; overflow counts as the first power of two out of range.
 * It does not check the compilers of the other dialects: the conformance tests do.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#if defined(__has_include) && !defined(__clang__)
#if __has_include(<quadmath.h>)
#define WIDE_IS_QUAD 1
#include <quadmath.h>
#endif
#endif

#include "kernels/portable.h"
#include "kernels/math.h"

#ifdef WIDE_IS_QUAD
typedef __float128 wide;
#define WIDE(f) f##q
#else
typedef long double wide;
#define WIDE(f) f##l
#endif

#define COUNT(t) (sizeof(t) / sizeof(t)[0])

/* The kernels' functions are always inlined, so tables need functions around them. */
#define WRAP(name)                                                                                 \
    static f32 name##_f32(f32 x)                                                                   \
    {                                                                                              \
        return iv_##name##_f(x);                                                                   \
    }                                                                                              \
    static f64 name##_f64(f64 x)                                                                   \
    {                                                                                              \
        return iv_##name##_d(x);                                                                   \
    }                                                                                              \
    static wide name##_wide(wide x)                                                                \
    {                                                                                              \
        return WIDE(name)(x);                                                                      \
    }
WRAP(exp)
WRAP(log)
WRAP(tanh)
WRAP(erf)
WRAP(sin)
WRAP(cos)

typedef struct {
    const char *name;
    f32 (*f)(f32);
    f64 (*d)(f64);
    f64 (*ref_f)(f64);
    wide (*ref_d)(wide);
    f64 limit_f, limit_d; /* ulp */
    f64 lo, hi;           /* where the f64 function is interesting */
    u64 hash_f, hash_d;
} subject;

static const subject subjects[] = {
#define SUBJECT(n, lf, ld, lo, hi, hf, hd)                                                         \
    {                                                                                              \
#n, n##_f32, n##_f64, n, n##_wide, lf, ld, lo, hi, hf, hd                                  \
    }
    SUBJECT(exp, 0.90, 0.90, -746, 710, 0xcbd80187fcd44314u, 0x725c69f59fcec2c5u),
    SUBJECT(log, 0.89, 0.95, 0.2, 4, 0x50ba5fea0108bc05u, 0x2db83712a880271cu),
    SUBJECT(tanh, 1.42, 1.45, -20, 20, 0x5146ff46d34d3476u, 0xb805020619bc68acu),
    SUBJECT(erf, 1.09, 1.10, -6, 6, 0x46f12cd8c77793e1u, 0x3bcfc0863adf9068u),
    SUBJECT(sin, 1.55, 1.55, -40, 40, 0x7c0406931ce810afu, 0x1a1770521dd55a46u),
    SUBJECT(cos, 1.56, 1.55, -40, 40, 0xfc72b3f0a29be1b8u, 0xdd837b63b81bb7e5u),
};
static const f64 pow_limit_f = 1.05, pow_limit_d = 1.20;
static const u64 pow_hash_f = 0xece27e09c54a1be2u, pow_hash_d = 0x690fc47d314429a7u;

/* ---- arguments ---- */

/* SplitMix64: the k-th value of a stream, by k alone. */
static u64 mix(u64 k)
{
    u64 z = k * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static f64 between(u64 k, f64 lo, f64 hi)
{
    return lo + (hi - lo) * ((f64)(i64)(mix(k) >> 11) * 0x1p-53);
}

/* The k-th f64 argument of a subject: any bits, its own range, near 0, near multiples of pi/2. */
static f64 argument(const subject *s, u64 k)
{
    switch (k % 5) {
    case 0: return IV_AS_F64(mix(k));
    case 1: return between(k, -2, 2);
    case 2: return between(k, -1, 1) * IV_AS_F64((1023u - (mix(~k) & 31u)) << 52);
    case 3: return (f64)(i64)(mix(k) >> 44) * 1.5707963267948966;
    default: return between(k, s->lo, s->hi);
    }
}

/* The k-th pair for pow: any bits; moderate; near 1 with large y; near overflow and underflow. */
static void pair(u64 k, f64 *out_x, f64 *out_y)
{
    const u64 j = k << 1;
    switch (k % 4) {
    case 0: *out_x = IV_AS_F64(mix(j)), *out_y = IV_AS_F64(mix(j + 1)); break;
    case 1: *out_x = between(j, 0, 8), *out_y = between(j + 1, -40, 40); break;
    case 2:
        *out_x = 1 + between(j, -1, 1) * IV_AS_F64((1023u - (mix(j) & 15u)) << 52);
        *out_y = between(j + 1, -60000, 60000);
        break;
    default: *out_x = between(j, 0.5, 2), *out_y = between(j + 1, -1075, 1075); break;
    }
}

/* ---- ulp ---- */

typedef struct {
    i32 bits;             /* of the mantissa */
    i32 min_exp, max_exp; /* of the smallest denormal, of the first overflow */
} format;
static const format format_f = {24, -149, 128}, format_d = {53, -1074, 1024};

static f64 ulps(wide got, wide ref, format t)
{
    if (ref != ref || got != got) return ref != ref && got != got ? 0 : HUGE_VAL;
    if (got == ref) return 0;
    const wide limit = WIDE(ldexp)(1, t.max_exp);
    if (WIDE(fabs)(ref) >= limit && WIDE(fabs)(got) > limit && (ref > 0) == (got > 0)) return 0;
    if (WIDE(fabs)(ref) > limit + limit) ref = ref > 0 ? limit + limit : -limit - limit;
    if (WIDE(fabs)(got) > limit) got = got > 0 ? limit : -limit;
    int e = t.min_exp;
    if (ref != 0) (void)WIDE(frexp)(ref, &e);
    e -= t.bits;
    if (e < t.min_exp) e = t.min_exp;
    if (e > t.max_exp - t.bits) e = t.max_exp - t.bits;
    return (f64)WIDE(ldexp)(WIDE(fabs)(got - ref), -e);
}

typedef struct {
    f64 ulp, x, y;
} worst;

static void note(worst *w, f64 ulp, f64 x, f64 y)
{
    if (ulp > w->ulp) *w = (worst){ulp, x, y};
}

static void report(const char *name, worst w, f64 limit)
{
    print_message("%-7s %.4f ulp at %a %a (limit %g)\n", name, w.ulp, w.x, w.y, limit);
    if (!(w.ulp <= limit)) fail_msg("%s: %g ulp at %a %a, limit %g", name, w.ulp, w.x, w.y, limit);
}

static void test_error_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(subjects); ++i) {
        const subject *s = &subjects[i];
        worst w = {0, 0, 0};
        for (u64 b = 0; b < 1ull << 32; b += 1021) {
            const f32 x = IV_AS_F32(b), y = s->f(x);
            const f64 ref = s->ref_f((f64)x), mag = fabs(ref);
            /* The usual case without wide arithmetic: a normal result's ulp by bits. */
            if (mag >= 0x1p-126 && mag < 0x1p127) {
                const f64 scale = IV_AS_F64((2046u + 23u - (IV_AS_U64(mag) >> 52)) << 52);
                note(&w, fabs((f64)y - ref) * scale, (f64)x, 0);
            } else {
                note(&w, ulps((wide)y, (wide)ref, format_f), (f64)x, 0);
            }
        }
        report(s->name, w, s->limit_f);
    }
}

static void test_error_f64(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(subjects); ++i) {
        const subject *s = &subjects[i];
        worst w = {0, 0, 0};
        for (u64 k = 1; k <= 200000; ++k) {
            const f64 x = argument(s, k);
            note(&w, ulps((wide)s->d(x), s->ref_d((wide)x), format_d), x, 0);
        }
        report(s->name, w, s->limit_d);
    }
}

static void test_error_pow(void **state)
{
    (void)state;
    worst wf = {0, 0, 0}, wd = {0, 0, 0};
    for (u64 k = 1; k <= 1u << 20; ++k) {
        f64 x, y;
        pair(k, &x, &y);
        const f32 xf = k % 4 ? (f32)x : IV_AS_F32(IV_AS_U64(x) >> 32);
        const f32 yf = k % 4 == 3 ? (f32)(y * 0.14) : (f32)y;
        const f64 ref_f = pow((f64)xf, (f64)yf);
        note(&wf, ulps((wide)iv_pow_f(xf, yf), (wide)ref_f, format_f), (f64)xf, (f64)yf);
        if (k > 1u << 18) continue;
        /* Powers of any bits by any bits are 0 or infinity: take an integer or a small power. */
        const f64 small = mix(k) & 32u ? (f64)(i64)(mix(k) & 31u) - 16 : between(k, -2, 2);
        if (k % 4 == 0) y = small;
        note(&wd, ulps((wide)iv_pow_d(x, y), WIDE(pow)((wide)x, (wide)y), format_d), x, y);
    }
    report("pow f32", wf, pow_limit_f);
    report("pow f64", wd, pow_limit_d);
}

/* ---- special values ---- */

/* Bits of the expected value; NaN must be the canonical one. */
static void expect(const char *name, f64 x, f64 y, f64 want, f32 got_f, f64 got_d)
{
    const u32 want_f = want != want ? 0x7fc00000u : IV_AS_U32((f32)want);
    const u64 want_d = want != want ? 0x7ff8000000000000u : IV_AS_U64(want);
    if (IV_AS_U32(got_f) != want_f)
        fail_msg("%s(%a, %a) in f32: %a, want %a", name, x, y, (f64)got_f, want);
    if (IV_AS_U64(got_d) != want_d)
        fail_msg("%s(%a, %a) in f64: %a, want %a", name, x, y, got_d, want);
}

static void test_special(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        f32 (*f)(f32);
        f64 (*d)(f64);
        f64 x, want;
    } t[] = {
#define CASE(n, x, want) {#n, n##_f32, n##_f64, x, want}
        CASE(exp, 0.0, 1.0),
        CASE(exp, -0.0, 1.0),
        CASE(exp, INFINITY, INFINITY),
        CASE(exp, -INFINITY, 0.0),
        CASE(exp, 1e30, INFINITY),
        CASE(exp, -1e30, 0.0),
        CASE(exp, NAN, NAN),
        CASE(exp, -NAN, NAN),
        CASE(exp, 0x1p-140, 1.0),
        CASE(exp, 711.0, INFINITY),
        CASE(exp, -747.0, 0.0),
        CASE(log, 0.0, -INFINITY),
        CASE(log, -0.0, -INFINITY),
        CASE(log, 1.0, 0.0),
        CASE(log, INFINITY, INFINITY),
        CASE(log, -INFINITY, NAN),
        CASE(log, -1.0, NAN),
        CASE(log, -0x1p-149, NAN),
        CASE(log, NAN, NAN),
        CASE(log, -NAN, NAN),
        CASE(tanh, 0.0, 0.0),
        CASE(tanh, -0.0, -0.0),
        CASE(tanh, INFINITY, 1.0),
        CASE(tanh, -INFINITY, -1.0),
        CASE(tanh, 0x1p-149, 0x1p-149),
        CASE(tanh, -0x1p-149, -0x1p-149),
        CASE(tanh, 1e30, 1.0),
        CASE(tanh, -1e30, -1.0),
        CASE(tanh, NAN, NAN),
        CASE(tanh, -NAN, NAN),
        CASE(erf, 0.0, 0.0),
        CASE(erf, -0.0, -0.0),
        CASE(erf, INFINITY, 1.0),
        CASE(erf, -INFINITY, -1.0),
        CASE(erf, 1e30, 1.0),
        CASE(erf, -1e30, -1.0),
        CASE(erf, NAN, NAN),
        CASE(erf, -NAN, NAN),
        CASE(sin, 0.0, 0.0),
        CASE(sin, -0.0, -0.0),
        CASE(sin, 0x1p-149, 0x1p-149),
        CASE(sin, -0x1p-149, -0x1p-149),
        CASE(sin, INFINITY, NAN),
        CASE(sin, -INFINITY, NAN),
        CASE(sin, NAN, NAN),
        CASE(sin, -NAN, NAN),
        CASE(cos, 0.0, 1.0),
        CASE(cos, -0.0, 1.0),
        CASE(cos, 0x1p-149, 1.0),
        CASE(cos, -0x1p-149, 1.0),
        CASE(cos, INFINITY, NAN),
        CASE(cos, -INFINITY, NAN),
        CASE(cos, NAN, NAN),
        CASE(cos, -NAN, NAN),
    };
    for (size_t i = 0; i < COUNT(t); ++i)
        expect(t[i].name, t[i].x, 0, t[i].want, t[i].f((f32)t[i].x), t[i].d(t[i].x));
}

static void test_special_pow(void **state)
{
    (void)state;
    static const f64 t[][3] = {
        /* x, y, x^y: C99 F.9.4.4 in its order, then exact powers */
        {0.0, -3, INFINITY},
        {-0.0, -3, -INFINITY},
        {0.0, -2, INFINITY},
        {-0.0, -2, INFINITY},
        {-0.0, -2.5, INFINITY},
        {-0.0, -INFINITY, INFINITY},
        {0.0, 3, 0.0},
        {-0.0, 3, -0.0},
        {-0.0, 2, 0.0},
        {-0.0, 2.5, 0.0},
        {-1, INFINITY, 1},
        {-1, -INFINITY, 1},
        {1, 7, 1},
        {1, NAN, 1},
        {1, INFINITY, 1},
        {NAN, 0.0, 1},
        {NAN, -0.0, 1},
        {INFINITY, 0.0, 1},
        {-8, 0.5, NAN},
        {-8, -1.5, NAN},
        {0.5, -INFINITY, INFINITY},
        {-0.5, -INFINITY, INFINITY},
        {2, -INFINITY, 0.0},
        {-2, -INFINITY, 0.0},
        {0.5, INFINITY, 0.0},
        {2, INFINITY, INFINITY},
        {-INFINITY, -3, -0.0},
        {-INFINITY, -2, 0.0},
        {-INFINITY, -2.5, 0.0},
        {-INFINITY, 3, -INFINITY},
        {-INFINITY, 2, INFINITY},
        {-INFINITY, 2.5, INFINITY},
        {INFINITY, -1, 0.0},
        {INFINITY, 1, INFINITY},
        {NAN, 1, NAN},
        {2, NAN, NAN},
        {NAN, NAN, NAN},
        {-NAN, 2, NAN},
        {2, 10, 1024},
        {-2, 3, -8},
        {-2, 4, 16},
        {2, -149, 0x1p-149},
        {2, 127, 0x1p127},
        {2, 1e30, INFINITY},
        {0.5, 1e30, 0.0},
        {-2, 16777215, -INFINITY},
        {-1, 1e30, 1},
        {-1, 16777215, -1},
        {3, 4, 81},
        {9, 0.5, 3},
        {2, 0x1p-149, 1},
        {1e30, 1e38, INFINITY},
        {0x1p-149, 1, 0x1p-149},
        {-0x1p-149, 1, -0x1p-149},
        {1e-30, 1e38, 0.0},
        {1e-30, -1e38, INFINITY},
        {-5, 0.0, 1},
    };
    for (size_t i = 0; i < COUNT(t); ++i) {
        const f64 x = t[i][0], y = t[i][1];
        expect("pow", x, y, t[i][2], iv_pow_f((f32)x, (f32)y), iv_pow_d(x, y));
    }
}

/* Ends of the range that differ between the types. */
static void test_range_ends(void **state)
{
    (void)state;
    assert_true(iv_exp_f(88.7228317f) < INFINITY);
    assert_true(iv_exp_f(88.7228394f) == INFINITY);
    assert_int_equal(IV_AS_U32(iv_exp_f(-103.972076f)), 1u);
    assert_int_equal(IV_AS_U32(iv_exp_f(-103.972084f)), 0u);
    assert_true(iv_exp_d(709.782712893384) < INFINITY);
    assert_true(iv_exp_d(709.7827128933841) == INFINITY);
    assert_int_equal(IV_AS_U64(iv_exp_d(-745.1332191019411)), 1u);
    assert_int_equal(IV_AS_U64(iv_exp_d(-745.1332191019412)), 0u);
    assert_true(fabs((f64)iv_log_f(IV_AS_F32(1u)) + 103.27892990343184) < 4e-6);
    assert_true(fabs(iv_log_d(IV_AS_F64(1u)) + 744.4400719213812) < 2e-13);
    assert_true(iv_pow_f(-2.0f, 127.0f) == -0x1p127f && iv_pow_f(-2.0f, 129.0f) == -INFINITY);
    assert_true(iv_pow_d(-2.0, -1074.0) == 0x1p-1074 && iv_pow_d(-2.0, -1073.0) == -0x1p-1073);
}

/* Arguments whose reduction is hard, with values computed in 2000-bit arithmetic. */
static void test_reduction(void **state)
{
    (void)state;
    /* The f64 nearest to a multiple of pi/2; the largest f64; the ends of Payne and Hanek. */
    const f64 got_d[] = {iv_cos_d(0x1.6ac5b262ca1ffp+849), iv_sin_d(0x1.fffffffffffffp+1023),
                         iv_sin_d(1048576.0)};
    static const f64 want_d[] = {-4.6871659242546276e-19, 0.0049619547891840618,
                                 0.33049314002173467};
    for (size_t i = 0; i < COUNT(got_d); ++i)
        report("reduce", (worst){ulps((wide)got_d[i], (wide)want_d[i], format_d), (f64)i, 0}, 2);
    const f32 got_f[] = {iv_sin_f(65536.0f), iv_sin_f(0x1.fffffep+127f)};
    static const f64 want_f[] = {0.692065454, -0.521876523};
    for (size_t i = 0; i < COUNT(got_f); ++i)
        report("reduce", (worst){ulps((wide)got_f[i], (wide)want_f[i], format_f), (f64)i, 0}, 2);
}

/* ---- bits ---- */

static u64 fnv(u64 h, u64 v, i32 n_bytes)
{
    for (i32 i = 0; i < n_bytes; ++i) h = (h ^ ((v >> (8 * i)) & 0xffu)) * 0x100000001b3u;
    return h;
}

static void expect_hash(const char *name, const char *type, u64 got, u64 want)
{
    if (got != want)
        fail_msg("%s %s: the bits changed: hash 0x%016llx, pinned 0x%016llx", name, type,
                 (unsigned long long)got, (unsigned long long)want);
}

static void test_bits(void **state)
{
    (void)state;
    const u64 basis = 0xcbf29ce484222325u;
    for (size_t i = 0; i < COUNT(subjects); ++i) {
        const subject *s = &subjects[i];
        u64 hf = basis, hd = basis;
        for (u64 b = 0; b < 1ull << 32; b += 65521) {
            hf = fnv(hf, IV_AS_U32(s->f(IV_AS_F32(b))), 4);
            hf = fnv(hf, IV_AS_U32(s->f(((f32)(i32)(b >> 8) - 8388608.0f) * 0x1p-19f)), 4);
        }
        for (u64 k = 1; k <= 100000; ++k) hd = fnv(hd, IV_AS_U64(s->d(argument(s, k))), 8);
        expect_hash(s->name, "f32", hf, s->hash_f);
        expect_hash(s->name, "f64", hd, s->hash_d);
    }
    u64 hf = basis, hd = basis;
    for (u64 k = 1; k <= 100000; ++k) {
        f64 x, y;
        pair(k, &x, &y);
        const f32 xf = k % 4 ? (f32)x : IV_AS_F32(IV_AS_U64(x) >> 32);
        const f32 yf = k % 4 ? (f32)y : IV_AS_F32(IV_AS_U64(y) >> 32);
        hf = fnv(hf, IV_AS_U32(iv_pow_f(xf, yf)), 4);
        hd = fnv(hd, IV_AS_U64(iv_pow_d(x, y)), 8);
    }
    expect_hash("pow", "f32", hf, pow_hash_f);
    expect_hash("pow", "f64", hd, pow_hash_d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special),    cmocka_unit_test(test_special_pow),
        cmocka_unit_test(test_range_ends), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_error_f32),  cmocka_unit_test(test_error_f64),
        cmocka_unit_test(test_error_pow),  cmocka_unit_test(test_reduction),
    };
    return cmocka_run_group_tests_name("math", tests, NULL, NULL);
}
