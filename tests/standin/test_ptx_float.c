/* Float instructions of the PTX machine against C: every rounding mode, denormals, the canonical
 * NaN. */
#include "ptx_rig.h"

#include <fenv.h>
#include <math.h>

typedef uint64_t u64;
static float f(u64 bits)
{
    const uint32_t u = (uint32_t)bits;
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static double g(u64 bits)
{
    double x;
    memcpy(&x, &bits, 8);
    return x;
}
static u64 of_f(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return isnan(x) ? 0x7fffffffu : u;
}
static u64 of_g(double x)
{
    u64 u;
    memcpy(&u, &x, 8);
    return u;
}
#define FN(name, expr)                                                                             \
    static u64 name(u64 a, u64 b, u64 c, u64 d)                                                    \
    {                                                                                              \
        (void)a, (void)b, (void)c, (void)d;                                                        \
        return (u64)(expr);                                                                        \
    }
/* To nearest in f32: by way of f64, which has more than twice the bits. */
FN(add32, of_f((float)((double)f(a) + (double)f(b))))
FN(sub32, of_f((float)((double)f(a) - (double)f(b))))
FN(mul32, of_f((float)((double)f(a) * (double)f(b))))
FN(div32, of_f((float)((double)f(a) / (double)f(b))))
FN(rcp32, of_f((float)(1.0 / (double)f(a))))
FN(sqrt32, of_f((float)sqrt((double)f(a))))
FN(fma32, of_f(fmaf(f(a), f(b), f(c))))
FN(add64, of_g(g(a) + g(b)))
FN(sub64, of_g(g(a) - g(b)))
FN(mul64, of_g(g(a) * g(b)))
FN(div64, of_g(g(a) / g(b)))
FN(rcp64, of_g(1.0 / g(a)))
FN(sqrt64, of_g(sqrt(g(a))))
FN(fma64, of_g(fma(g(a), g(b), g(c))))

/* In a mode: volatile keeps the operation between the changes of the mode. */
#define IN(mode, T, op)                                                                            \
    ({                                                                                             \
        volatile T r_;                                                                             \
        fesetround(mode);                                                                          \
        r_ = (T)(op);                                                                              \
        fesetround(FE_TONEAREST);                                                                  \
        r_;                                                                                        \
    })
#define MODE(m, M)                                                                                 \
    static u64 add32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a), y = f(b);                                                         \
        (void)c, (void)d;                                                                          \
        return of_f(IN(M, float, x + y));                                                          \
    }                                                                                              \
    static u64 sub32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a), y = f(b);                                                         \
        (void)c, (void)d;                                                                          \
        return of_f(IN(M, float, x - y));                                                          \
    }                                                                                              \
    static u64 mul32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a), y = f(b);                                                         \
        (void)c, (void)d;                                                                          \
        return of_f(IN(M, float, x *y));                                                           \
    }                                                                                              \
    static u64 div32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a), y = f(b);                                                         \
        (void)c, (void)d;                                                                          \
        return of_f(IN(M, float, x / y));                                                          \
    }                                                                                              \
    static u64 rcp32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a);                                                                   \
        (void)b, (void)c, (void)d;                                                                 \
        return of_f(IN(M, float, 1.0f / x));                                                       \
    }                                                                                              \
    static u64 sqrt32_##m(u64 a, u64 b, u64 c, u64 d)                                              \
    {                                                                                              \
        volatile float x = f(a);                                                                   \
        (void)b, (void)c, (void)d;                                                                 \
        return of_f(IN(M, float, sqrtf(x)));                                                       \
    }                                                                                              \
    static u64 fma32_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile float x = f(a), y = f(b), z = f(c);                                               \
        (void)d;                                                                                   \
        return of_f(IN(M, float, fmaf(x, y, z)));                                                  \
    }                                                                                              \
    static u64 add64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a), y = g(b);                                                        \
        (void)c, (void)d;                                                                          \
        return of_g(IN(M, double, x + y));                                                         \
    }                                                                                              \
    static u64 sub64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a), y = g(b);                                                        \
        (void)c, (void)d;                                                                          \
        return of_g(IN(M, double, x - y));                                                         \
    }                                                                                              \
    static u64 mul64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a), y = g(b);                                                        \
        (void)c, (void)d;                                                                          \
        return of_g(IN(M, double, x *y));                                                          \
    }                                                                                              \
    static u64 div64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a), y = g(b);                                                        \
        (void)c, (void)d;                                                                          \
        return of_g(IN(M, double, x / y));                                                         \
    }                                                                                              \
    static u64 rcp64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a);                                                                  \
        (void)b, (void)c, (void)d;                                                                 \
        return of_g(IN(M, double, 1.0 / x));                                                       \
    }                                                                                              \
    static u64 sqrt64_##m(u64 a, u64 b, u64 c, u64 d)                                              \
    {                                                                                              \
        volatile double x = g(a);                                                                  \
        (void)b, (void)c, (void)d;                                                                 \
        return of_g(IN(M, double, sqrt(x)));                                                       \
    }                                                                                              \
    static u64 fma64_##m(u64 a, u64 b, u64 c, u64 d)                                               \
    {                                                                                              \
        volatile double x = g(a), y = g(b), z = g(c);                                              \
        (void)d;                                                                                   \
        return of_g(IN(M, double, fma(x, y, z)));                                                  \
    }                                                                                              \
    static u64 cut_##m(u64 a, u64 b, u64 c, u64 d)                                                 \
    {                                                                                              \
        volatile double x = g(a);                                                                  \
        (void)b, (void)c, (void)d;                                                                 \
        return of_f(IN(M, float, x));                                                              \
    }
MODE(rz, FE_TOWARDZERO)
MODE(rm, FE_DOWNWARD)
MODE(rp, FE_UPWARD)

/* fmin and fmax of C leave the zeros open. */
static double least(double x, double y)
{
    if (isnan(x)) return y;
    if (isnan(y)) return x;
    return x == y ? (signbit(x) ? x : y) : x < y ? x : y;
}
FN(min32, of_f((float)least((double)f(a), (double)f(b))))
FN(max32, of_f((float)-least(-(double)f(a), -(double)f(b))))
FN(min64, of_g(least(g(a), g(b))))
FN(max64, isnan(g(a)) ? b : isnan(g(b)) ? a : of_g(-least(-g(a), -g(b))))
FN(sign32, (b & 0x7fffffffu) | (signbit(f(a)) ? 0x80000000u : 0))
FN(sign64, (b & ~((u64)1 << 63)) | (signbit(g(a)) ? (u64)1 << 63 : 0))
FN(neg32, a ^ 0x80000000u)
FN(abs32, a & 0x7fffffffu)
FN(neg64, a ^ ((u64)1 << 63))
FN(abs64, a & ~((u64)1 << 63))
FN(same, a)
FN(pick, c ? a : b)

#define CMP(name, op, unordered)                                                                   \
    FN(name##32, isunordered(f(a), f(b)) ? unordered : f(a) op f(b))                               \
    FN(name##64, isunordered(g(a), g(b)) ? unordered : g(a) op g(b))
CMP(eq, ==, 0)
CMP(lt, <, 0)
CMP(le, <=, 0)
CMP(gt, >, 0)
CMP(ge, >=, 0)
CMP(equ, ==, 1)
CMP(neu, !=, 1)
CMP(ltu, <, 1)
CMP(leu, <=, 1)
CMP(gtu, >, 1)
CMP(geu, >=, 1)
FN(ne32, !isunordered(f(a), f(b)) && f(a) != f(b))
FN(ne64, !isunordered(g(a), g(b)) && g(a) != g(b))
FN(num32, !isunordered(f(a), f(b)))
FN(nan32, isunordered(f(a), f(b)))
FN(num64, !isunordered(g(a), g(b)))
FN(nan64, isunordered(g(a), g(b)))

/* ---- conversions: whole numbers are exact in f80, which holds 64 bits ---- */
static u64 limit(long double x, long double lo, long double hi, u64 nan)
{
    if (isnan(x)) return nan;
    if (x < lo) x = lo;
    if (x > hi) x = hi;
    return x < 0 ? (u64)(int64_t)x : (u64)x;
}
#define I32 -2147483648.0L, 2147483647.0L
#define U32 0.0L, 4294967295.0L
#define I64 -9223372036854775808.0L, 9223372036854775807.0L
#define U64 0.0L, 18446744073709551615.0L
#define LOW64 ((u64)1 << 63)
#define WHOLE(m, fn)                                                                               \
    FN(s32f_##m, limit(fn((long double)f(a)), I32, 0))                                             \
    FN(u32f_##m, limit(fn((long double)f(a)), U32, 0))                                             \
    FN(s64f_##m, limit(fn((long double)f(a)), I64, LOW64))                                         \
    FN(u64f_##m, limit(fn((long double)f(a)), U64, LOW64))                                         \
    FN(s32g_##m, limit(fn((long double)g(a)), I32, 0x80000000u))                                   \
    FN(u32g_##m, limit(fn((long double)g(a)), U32, 0x80000000u))                                   \
    FN(s64g_##m, limit(fn((long double)g(a)), I64, LOW64))                                         \
    FN(u64g_##m, limit(fn((long double)g(a)), U64, LOW64))                                         \
    FN(whole32_##m, of_f((float)fn((long double)f(a))))                                            \
    FN(whole64_##m, of_g((double)fn((long double)g(a))))
WHOLE(rni, rintl)
WHOLE(rzi, truncl)
WHOLE(rmi, floorl)
WHOLE(rpi, ceill)
FN(f_u, of_f((float)(long double)a))
FN(f_s16, of_f((float)(int16_t)a))
FN(f_s32, of_f((float)(long double)(int32_t)a))
FN(f_s64, of_f((float)(long double)(int64_t)a))
FN(g_u, of_g((double)(long double)a))
FN(g_s16, of_g((int16_t)a))
FN(g_s32, of_g((int32_t)a))
FN(g_s64, of_g((double)(long double)(int64_t)a))
FN(widen, isnan(f(a)) ? of_g((double)f(a)) : of_g((double)f(a)))
FN(narrow, of_f((float)g(a)))

#define R1(name, d, a, fn) {name, {d, a}, fn, 0},
#define R2(name, d, a, b, fn) {name, {d, a, b}, fn, 0},
#define R3(name, d, a, b, c, fn) {name, {d, a, b, c}, fn, 0},
#define SEVEN(m, s, t, n)                                                                          \
    R2("add." m "." t, t, t, t, add##n##s)                                                         \
    R2("sub." m "." t, t, t, t, sub##n##s)                                                         \
    R2("mul." m "." t, t, t, t, mul##n##s)                                                         \
    R2("div." m "." t, t, t, t, div##n##s)                                                         \
    R1("rcp." m "." t, t, t, rcp##n##s)                                                            \
    R1("sqrt." m "." t, t, t, sqrt##n##s) R3("fma." m "." t, t, t, t, t, fma##n##s)
#define SETP(op)                                                                                   \
    R2("setp." #op ".f32", "pred", "f32", "f32", op##32)                                           \
    R2("setp." #op ".f64", "pred", "f64", "f64", op##64)
#define TO(m)                                                                                      \
    R1("cvt." #m ".s32.f32", "s32", "f32", s32f_##m)                                               \
    R1("cvt." #m ".u32.f32", "u32", "f32", u32f_##m)                                               \
    R1("cvt." #m ".s64.f32", "s64", "f32", s64f_##m)                                               \
    R1("cvt." #m ".u64.f32", "u64", "f32", u64f_##m)                                               \
    R1("cvt." #m ".s32.f64", "s32", "f64", s32g_##m)                                               \
    R1("cvt." #m ".u32.f64", "u32", "f64", u32g_##m)                                               \
    R1("cvt." #m ".s64.f64", "s64", "f64", s64g_##m)                                               \
    R1("cvt." #m ".u64.f64", "u64", "f64", u64g_##m)                                               \
    R1("cvt." #m ".f32.f32", "f32", "f32", whole32_##m)                                            \
    R1("cvt." #m ".f64.f64", "f64", "f64", whole64_##m)
static const rig_row rows[] = {
    SEVEN("rn", , "f32", 32) SEVEN("rn", , "f64", 64) SEVEN("rz", _rz, "f32", 32)
        SEVEN("rz", _rz, "f64", 64) SEVEN("rm", _rm, "f32", 32) SEVEN("rm", _rm, "f64", 64) SEVEN(
            "rp", _rp, "f32", 32) SEVEN("rp", _rp, "f64", 64)
            R2("add.f32", "f32", "f32", "f32", add32) R2("mul.f64", "f64", "f64", "f64", mul64) R2(
                "min.f32", "f32", "f32", "f32", min32) R2("max.f32", "f32", "f32", "f32", max32)
                R2("min.f64", "f64", "f64", "f64", min64) R2("max.f64", "f64", "f64", "f64", max64)
                    R1("neg.f32", "f32", "f32", neg32) R1("abs.f32", "f32", "f32", abs32)
                        R1("neg.f64", "f64", "f64", neg64) R1("abs.f64", "f64", "f64", abs64)
                            R1("mov.f32", "f32", "f32", same) R1("mov.f64", "f64", "f64", same)
                                R3("selp.f32", "f32", "f32", "f32", "pred",
                                   pick) R3("selp.f64", "f64", "f64", "f64", "pred",
                                            pick) R2("copysign.f32", "f32", "f32", "f32", sign32)
                                    R2("copysign.f64", "f64", "f64", "f64", sign64) SETP(eq)
                                        SETP(ne) SETP(lt) SETP(le) SETP(gt) SETP(ge) SETP(equ) SETP(
                                            neu) SETP(ltu) SETP(leu) SETP(gtu) SETP(geu) SETP(num)
                                            SETP(nan) TO(rni) TO(rzi) TO(rmi) TO(rpi) R1(
                                                "cvt.rn.f32.u16", "f32", "u16",
                                                f_u) R1("cvt.rn.f32.u32", "f32", "u32", f_u)
                                                R1("cvt.rn.f32.u64", "f32", "u64", f_u) R1(
                                                    "cvt.rn.f32.s16", "f32", "s16",
                                                    f_s16) R1("cvt.rn.f32.s32", "f32", "s32", f_s32)
                                                    R1("cvt.rn.f32.s64", "f32", "s64",
                                                       f_s64) R1("cvt.rn.f64.u16", "f64", "u16",
                                                                 g_u) R1("cvt.rn.f64."
                                                                         "u32",
                                                                         "f64", "u32", g_u)
                                                        R1("cvt.rn.f64.u64", "f64", "u64", g_u)
                                                            R1("cvt.rn.f64.s16", "f64", "s16",
                                                               g_s16) R1("cvt.rn.f64."
                                                                         "s32",
                                                                         "f64", "s32", g_s32)
                                                                R1("cvt.rn.f64."
                                                                   "s64",
                                                                   "f64", "s64",
                                                                   g_s64) R1("cvt."
                                                                             "f64."
                                                                             "f32",
                                                                             "f64", "f32", widen)
                                                                    R1("cvt.rn."
                                                                       "f32."
                                                                       "f64",
                                                                       "f32", "f64", narrow)
                                                                        R1("cvt.rz."
                                                                           "f32.f64",
                                                                           "f32", "f64", cut_rz)
                                                                            R1("cvt."
                                                                               "rm."
                                                                               "f32."
                                                                               "f64",
                                                                               "f32", "f64", cut_rm)
                                                                                R1("c"
                                                                                   "v"
                                                                                   "t"
                                                                                   "."
                                                                                   "r"
                                                                                   "p"
                                                                                   "."
                                                                                   "f"
                                                                                   "3"
                                                                                   "2"
                                                                                   "."
                                                                                   "f"
                                                                                   "6"
                                                                                   "4",
                                                                                   "f"
                                                                                   "3"
                                                                                   "2",
                                                                                   "f"
                                                                                   "6"
                                                                                   "4",
                                                                                   cut_rp)};

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) rig_check(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
