/* math.h: exp log tanh erf sin cos pow of the numerics contract, in f32 and f64.
 *
 * A vendor's libm differs from the next one in the last bits, so a run that used them would depend on
 * the device.  These functions are built from exactly rounded operations (+ - * / fma), comparisons,
 * conversions and integer code in one fixed order: the same bits on every compiler and device.  They are
 * text of the portable dialect: include portable.h before (not repeated here, because on devices the
 * two texts are concatenated), and never put kernels/ itself on an include path, where this file would
 * hide the C library's <math.h>.
 *
 * exp, log, tanh and erf have no branch: every case is computed and then selected, so that loops over
 * them become vector code.  sin, cos and pow may branch or cost more.  Every NaN result is the quiet NaN 0x7fc00000 (0x7ff8000000000000).  Rounding to an integer is done by
 * adding 1.5 * 2^23 (2^52), after which the low mantissa bits hold it; that is defined for NaN too.  The
 * polynomials are our own weighted minimax fits.  Errors in ulp were measured over all f32 arguments (sin
 * and cos: x >= 0; pow: 12 million pairs) and on 12 million f64 arguments against __float128, and rounded
 * up; tests/unit/test_math.c repeats a sample and pins the bits.
 */
#ifndef IV_MATH_H
#define IV_MATH_H
#ifndef IV_PORTABLE_H
#error "include kernels/portable.h before kernels/math.h"
#endif

#define IV_INF32_ IV_AS_F32(0x7f800000u)
#define IV_NAN32_ IV_AS_F32(0x7fc00000u)
#define IV_MAGIC32_ 12582912.0f /* 1.5 * 2^23 */
#define IV_MAGIC32_BITS_ 0x4b400000u

/* ---- f32 ---- */

/* Three steps of Horner's rule: ((w x + a) x + b) x + c. */
IV_FN f32 iv_horner3_f(f32 w, f32 x, f32 a, f32 b, f32 c)
{
    return IV_FMA32(IV_FMA32(IV_FMA32(w, x, a), x, b), x, c);
}

/* e^r for |r| <= ln(2)/2 (slightly more is harmless): 1 + r + r^2 q(r), error 2^-28. */
IV_FN f32 iv_exp_poly_f(f32 r)
{
    f32 q = 0.00138209597f;
    q = iv_horner3_f(q, r, 0.00836866908f, 0.0416682623f, 0.166665211f);
    return iv_horner3_f(q, r, 0.49999994f, 1.0f, 1.0f);
}

/* v * 2^k for k = kb - magic bits in [-250, 250].  Two factors: the first product stays normal,
 * thus exact, and only the second rounds, once, also when the result is denormal or overflows. */
IV_FN f32 iv_scale_f(f32 v, u32 kb)
{
    const u32 k = kb - IV_MAGIC32_BITS_;
    const u32 k1 = ((k + 512u) >> 1) - 256u;
    const u32 k2 = k - k1;
    return v * IV_AS_F32((k1 + 127u) << 23) * IV_AS_F32((k2 + 127u) << 23);
}

/* ln(2) in two parts, so that x - k ln(2) loses nothing: with fma the first step is exact (Cody
 * and Waite, Software Manual for the Elementary Functions, 1980). */
IV_FN f32 iv_sub_kln2_f(f32 x, f32 k)
{
    return IV_FMA32(k, 1.90465421e-9f, IV_FMA32(-k, 0.693147182f, x));
}

/* e^x for any f32 x; results under 2^-126 are denormal, then 0; over the range +inf.
 * Max error 0.90 ulp. */
IV_FN f32 iv_exp_f(f32 x)
{
    f32 c = x > 89.0f ? 89.0f : x;
    c = c < -104.0f ? -104.0f : c;
    const f32 t = IV_FMA32(c, 1.44269502f, IV_MAGIC32_);
    const f32 r = iv_sub_kln2_f(c, t - IV_MAGIC32_);
    const f32 v = iv_scale_f(iv_exp_poly_f(r), IV_AS_U32(t));
    return x != x ? IV_NAN32_ : v;
}

/* Natural logarithm of any f32 x; -inf at both zeros, NaN below.  Max error 0.89 ulp.
 * x = 2^e m with m in [2/3, 4/3), so that nothing cancels between e ln(2) and log(m);
 * log(1+f) = f - f^2/2 + f^3 P(f) as in fdlibm and Cephes, P of degree 8 without a division. */
IV_FN f32 iv_log_f(f32 x)
{
    const f32 s = x < 1.17549435e-38f ? x * 8388608.0f : x;
    const f32 e0 = x < 1.17549435e-38f ? -23.0f : 0.0f;
    const u32 u = IV_AS_U32(s);
    const u32 d = (u - 0x3f2aaaabu) & 0xff800000u;
    const f32 e = IV_FMA32((f32)(i32)d, 1.1920928955078125e-7f, e0);
    const f32 f = IV_AS_F32(u - d) - 1.0f;
    f32 w = 0.119194701f;
    w = iv_horner3_f(w, f, -0.128465533f, 0.107794426f, -0.121954232f);
    w = iv_horner3_f(w, f, 0.14301911f, -0.166796044f, 0.199997023f);
    w = IV_FMA32(w, f, -0.249998197f);
    w = IV_FMA32(w, f, 0.333333343f);
    const f32 f2 = f * f;
    f32 y = IV_FMA32(w, f, -0.5f);
    y = IV_FMA32(e, -1.90465421e-9f, y * f2) + f;
    y = IV_FMA32(e, 0.693147182f, y);
    y = x == 0.0f ? -IV_INF32_ : y;
    y = x == IV_INF32_ ? x : y;
    return x >= 0.0f ? y : IV_NAN32_;
}

/* Hyperbolic tangent of any f32 x; keeps the sign of zero.  Max error 1.42 ulp.
 * With m = e^(-2|x|) - 1: tanh|x| = -m / (2 + m).  m = 2^k p + (2^k - 1), p = e^r - 1 =
 * r + r^2 q(r), is accurate for tiny x as well, because then k = 0.  What was lost in rounding m
 * and 2 + m is put back by one Newton step, with 1 / (2 + m) = (1 + tanh|x|) / 2. */
IV_FN f32 iv_tanh_f(f32 x)
{
    const u32 sign = IV_AS_U32(x) & 0x80000000u;
    f32 y = -2.0f * IV_AS_F32(IV_AS_U32(x) & 0x7fffffffu);
    y = y < -20.0f ? -20.0f : y; /* tanh(10) rounds to 1 */
    const f32 t = IV_FMA32(y, 1.44269502f, IV_MAGIC32_);
    const f32 r = iv_sub_kln2_f(y, t - IV_MAGIC32_);
    f32 q = 0.000197450368f;
    q = iv_horner3_f(q, r, 0.00139336952f, 0.00833356474f, 0.0416664779f);
    q = IV_FMA32(q, r, 0.166666657f);
    q = IV_FMA32(q, r, 0.5f);
    const f32 pr = IV_FMA32(q, r * r, r);
    const f32 s = IV_AS_F32((IV_AS_U32(t) - IV_MAGIC32_BITS_ + 127u) << 23);
    const f32 m = IV_FMA32(s, pr, s - 1.0f), ml = IV_FMA32(s, pr, (s - 1.0f) - m);
    const f32 g = m + 2.0f, gl = m - (g - 2.0f) + ml;
    const f32 v0 = m / g;
    const f32 d = IV_FMA32(-v0, gl, IV_FMA32(-v0, g, m) + ml);
    const f32 v = IV_FMA32(d, IV_FMA32(-0.5f, v0, 0.5f), v0);
    return x != x ? IV_NAN32_ : IV_AS_F32((IV_AS_U32(v) & 0x7fffffffu) | sign);
}

/* Error function of any f32 x; keeps the sign of zero.  Max error 1.09 ulp.
 * |x| < 0.92: x + x P(x^2).  Else 1 - exp(-g(|x|)), g a fit of -log(erfc) weighted by erfc,
 * because only the absolute error of the exponential counts there. */
IV_FN f32 iv_erf_f(f32 x)
{
    const u32 sign = IV_AS_U32(x) & 0x80000000u;
    f32 a = IV_AS_F32(IV_AS_U32(x) & 0x7fffffffu);
    a = a > 3.95f ? 3.95f : a; /* erf(3.95) rounds to 1 */
    const f32 z = a * a;
    f32 w = 8.33097438e-5f;
    w = iv_horner3_f(w, z, -0.000813141116f, 0.00519978162f, -0.0268587358f);
    w = iv_horner3_f(w, z, 0.112836786f, -0.376126319f, 0.128379166f);
    const f32 near0 = IV_FMA32(w, a, a);
    f32 g = -0.000195006069f;
    g = iv_horner3_f(g, a, 0.00303414371f, -0.0221910663f, 0.103858031f);
    g = iv_horner3_f(g, a, 0.637264967f, 1.12762725f, 0.00020718103f);
    const f32 t = IV_FMA32(g, -1.44269502f, IV_MAGIC32_);
    const f32 r = iv_sub_kln2_f(-g, t - IV_MAGIC32_);
    const f32 s = IV_AS_F32((IV_AS_U32(t) - IV_MAGIC32_BITS_ + 127u) << 23);
    const f32 far0 = IV_FMA32(-s, iv_exp_poly_f(r), 1.0f);
    const f32 v = a < 0.92f ? near0 : far0;
    return x != x ? IV_NAN32_ : IV_AS_F32(IV_AS_U32(v) | sign);
}

/* 64-bit word k of 2/pi, most significant first; word 0 is a zero for arguments that start
 * early. */
IV_FN u64 iv_two_over_pi(u32 k)
{
    switch (k) {
    case 1: return 0xa2f9836e4e441529ul;
    case 2: return 0xfc2757d1f534ddc0ul;
    case 3: return 0xdb6295993c439041ul;
    case 4: return 0xfe5163abdebbc561ul;
    case 5: return 0xb7246e3a424dd2e0ul;
    case 6: return 0x06492eea09d1921cul;
    case 7: return 0xfe1deb1cb129a73eul;
    case 8: return 0xe88235f52ebb4484ul;
    case 9: return 0xe99c7026b45f7e41ul;
    case 10: return 0x3991d639835339f4ul;
    case 11: return 0x9c845f8bbdf9283bul;
    case 12: return 0x1ff897ffde05980ful;
    case 13: return 0xef2f118b5a0a6d1ful;
    case 14: return 0x6d367ecf27cb09b7ul;
    case 15: return 0x4f463f669e5fea2dul;
    case 16: return 0x7527bac7ebe5f17bul;
    case 17: return 0x3d0739f78a5292eaul;
    case 18: return 0x6bfb5fb11f8d5d08ul;
    case 19: return 0x56033046fc7b6babul;
    default: return 0ul;
    }
}

/* High 64 bits of a * b; spelled out because each dialect calls it differently. */
IV_FN u64 iv_mulhi(u64 a, u64 b)
{
    const u64 al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    const u64 m = al * bh + ((al * bl) >> 32);
    const u64 n = ah * bl + (m & 0xffffffffu);
    return ah * bh + (m >> 32) + (n >> 32);
}

/* m 2^e modulo pi/2, in integers: m < 2^53, e in [-62, 971].  Returns the quadrant (mod 4) and
 * *out_r, *out_n, *out_neg such that the rest is (-1)^neg r 2^-(62+n), |rest| <= pi/4, r in
 * [2^61, 2^63). Payne and Hanek, Radian Reduction for Trigonometric Functions, 1983: bits of
 * 2/pi that contribute multiples of 4 are skipped; 192 bits of it leave 60 after the worst
 * cancellation of an f64. */
IV_FN u32 iv_payne_hanek(u64 m, i32 e, u64 *out_r, u32 *out_n, u32 *out_neg)
{
    const u32 skip = (u32)(e + 62), sh = skip & 63u, k = skip >> 6;
    const u64 a = iv_two_over_pi(k), b = iv_two_over_pi(k + 1u);
    const u64 c = iv_two_over_pi(k + 2u), d = iv_two_over_pi(k + 3u);
    const u64 w0 = (a << sh) | ((b >> 1) >> (63u - sh));
    const u64 w1 = (b << sh) | ((c >> 1) >> (63u - sh));
    const u64 w2 = (c << sh) | ((d >> 1) >> (63u - sh));
    u64 lo = m * w1 + iv_mulhi(m, w2);
    u64 hi = m * w0 + iv_mulhi(m, w1) + (lo < m * w1 ? 1u : 0u);
    /* hi:lo / 2^126 counts quarter turns; take the nearest, keep the distance to it. */
    const u32 quadrant = (u32)((hi + 0x2000000000000000ul) >> 62) & 3u;
    hi = (hi << 2) | (lo >> 62);
    lo <<= 2;
    const u32 neg = (u32)(hi >> 63);
    hi = neg ? ~hi : hi;
    lo = neg ? ~lo : lo;
    u32 n = 0u;
    if (hi == 0u) {
        hi = lo;
        lo = 0u;
        n = 64u;
    }
    for (u32 s = 32u; s > 0u; s >>= 1) {
        if ((hi >> (64u - s)) == 0u) {
            hi = (hi << s) | (lo >> (64u - s));
            lo <<= s;
            n += s;
        }
    }
    *out_r = iv_mulhi(hi, 0xc90fdaa22168c235ul) >> 1; /* times pi/2, as 2^-63 units, halved */
    *out_n = n;
    *out_neg = neg;
    return quadrant;
}

/* a >= 0 modulo pi/2 into *out_r, |r| <= pi/4 (1 + 2^-7); returns the quadrant.  Under 2^16 by
 * Cody and Waite with pi/2 in three parts: with fma the first difference is exact. */
IV_FN u32 iv_trig_reduce_f(f32 a, f32 *out_r)
{
    if (a < 65536.0f) {
        const f32 t = IV_FMA32(a, 0.636619747f, IV_MAGIC32_);
        const f32 k = t - IV_MAGIC32_;
        f32 r = IV_FMA32(-k, 1.57079637f, a);
        r = IV_FMA32(k, 4.37113883e-8f, r);
        *out_r = IV_FMA32(k, 1.71512451e-15f, r);
        return IV_AS_U32(t) & 3u;
    }
    const u32 u = IV_AS_U32(a);
    u64 r;
    u32 n, neg;
    const u32 quadrant = iv_payne_hanek((u & 0x7fffffu) | 0x800000u,
                                        (i32)((u >> 23) & 0xffu) - 150, &r, &n, &neg);
    const f32 v = (f32)(i64)r * IV_AS_F32((127u - 62u - n) << 23);
    *out_r = neg ? -v : v;
    return quadrant;
}

/* sin(x + turn pi/2), its sign bit flipped by `sign`; NaN at infinity.  sin(r) = r + r^3 S(r^2)
 * or, in odd quadrants, cos(r) = 1 - r^2/2 + r^4 C(r^2); negated in quadrants 2 and 3. */
IV_FN f32 iv_sin_turn_f(f32 x, u32 turn, u32 sign)
{
    const f32 a = IV_AS_F32(IV_AS_U32(x) & 0x7fffffffu);
    if (!(a < IV_INF32_)) return IV_NAN32_;
    f32 r;
    const u32 quadrant = iv_trig_reduce_f(a, &r) + turn;
    const f32 z = r * r;
    f32 s = IV_FMA32(-0.000195056986f, z, 0.00833209604f);
    s = IV_FMA32(s, z, -0.166666538f);
    s = IV_FMA32(s, r * z, r);
    f32 c = IV_FMA32(2.44142557e-5f, z, -0.00138871418f);
    c = iv_horner3_f(c, z, 0.0416666418f, -0.5f, 1.0f);
    const f32 v = (quadrant & 1u) ? c : s;
    return IV_AS_F32(IV_AS_U32(v) ^ ((quadrant & 2u) << 30) ^ sign);
}

/* Sine of any f32 x in radians; NaN at infinity; keeps the sign of zero.  Max error 1.55 ulp. */
IV_FN f32 iv_sin_f(f32 x) { return iv_sin_turn_f(x, 0u, IV_AS_U32(x) & 0x80000000u); }

/* Cosine of any f32 x in radians; NaN at infinity.  Max error 1.56 ulp. */
IV_FN f32 iv_cos_f(f32 x) { return iv_sin_turn_f(x, 1u, 0u); }


/* log(a) as the sum of the result and *out_lo, relative error about 2^-40, for finite a > 0
 * (any other a gives a meaningless value).  With s = (m-1)/(m+1): log(m) = 2s + s^3 (2/3 + s^2
 * Q(s^2)), as in fdlibm's e_pow; s, s^2, s^3 and the bracket are kept as unevaluated sums of
 * two floats. */
IV_FN f32 iv_log_ext_f(f32 a, f32 *out_lo)
{
    const f32 n = a < 1.17549435e-38f ? a * 8388608.0f : a;
    const f32 e0 = a < 1.17549435e-38f ? -23.0f : 0.0f;
    const u32 u = IV_AS_U32(n);
    const u32 d = (u - 0x3f3504f3u) & 0xff800000u;
    const f32 e = IV_FMA32((f32)(i32)d, 1.1920928955078125e-7f, e0);
    const f32 m = IV_AS_F32(u - d), f = m - 1.0f, g = m + 1.0f, ig = 1.0f / g;
    const f32 s = f * ig;
    const f32 sl = IV_FMA32(-s, m - (g - 1.0f), IV_FMA32(-s, g, f)) * ig;
    const f32 q = s * s;
    const f32 ql = IV_FMA32(2.0f * s, sl, IV_FMA32(s, s, -q));
    f32 w = IV_FMA32(0.195279002f, q, 0.221810594f);
    w = IV_FMA32(IV_FMA32(w, q, 0.285719573f), q, 0.399999976f) * q;
    const f32 c = 0.666666687f + w;
    const f32 cl = (0.666666687f - c) + w - 1.98682155e-8f;
    const f32 b = s * q;
    const f32 bl = IV_FMA32(sl, q, IV_FMA32(s, ql, IV_FMA32(s, q, -b)));
    const f32 h = b * c;
    const f32 hl = IV_FMA32(bl, c, IV_FMA32(b, cl, IV_FMA32(b, c, -h)));
    /* 16 bits of ln(2): their product with e is exact. */
    const f32 k = e * 0.693145752f;
    const f32 x1 = IV_FMA32(2.0f, s, k);
    const f32 l1 = IV_FMA32(2.0f, s, k - x1);
    const f32 x2 = x1 + h;
    const f32 l2 = (x1 - x2) + h;
    const f32 lo = (l1 + l2) + IV_FMA32(e, 1.42860677e-6f, IV_FMA32(2.0f, sl, hl));
    const f32 hi = x2 + lo;
    *out_lo = (x2 - hi) + lo;
    return hi;
}

/* x^y with the special cases of C99 (F.9.4.4).  Max error 1.05 ulp. */
IV_FN f32 iv_pow_f(f32 x, f32 y)
{
    const f32 ax = IV_AS_F32(IV_AS_U32(x) & 0x7fffffffu);
    const f32 ay = IV_AS_F32(IV_AS_U32(y) & 0x7fffffffu);
    /* |log x| >= 2^-24 for x != 1, so |y| = 2^40 is far beyond overflow already. */
    f32 yc = y > 1.09951163e12f ? 1.09951163e12f : y;
    yc = yc < -1.09951163e12f ? -1.09951163e12f : yc;
    f32 ll;
    const f32 lh = iv_log_ext_f(ax, &ll);
    f32 h = yc * lh;
    f32 l = IV_FMA32(yc, ll, IV_FMA32(yc, lh, -h));
    l = (h > 90.0f || h < -110.0f) ? 0.0f : l;
    h = h > 90.0f ? 90.0f : h;
    h = h < -110.0f ? -110.0f : h;
    const f32 t = IV_FMA32(h, 1.44269502f, IV_MAGIC32_);
    const f32 r = iv_sub_kln2_f(h, t - IV_MAGIC32_) + l;
    f32 v = iv_scale_f(iv_exp_poly_f(r), IV_AS_U32(t));

    const f32 up = y > 0.0f ? IV_INF32_ : 0.0f, down = y > 0.0f ? 0.0f : IV_INF32_;
    v = ax == 0.0f ? down : v;
    v = ax == IV_INF32_ ? up : v;
    v = ay == IV_INF32_ ? (ax == 1.0f ? 1.0f : ax > 1.0f ? up : down) : v;
    /* From 2^24 on every f32 is an even integer. */
    const f32 yi = ay < 16777216.0f ? y : 0.0f;
    const i32 k = (i32)yi;
    const u32 whole = (f32)k == yi, odd = whole & (u32)k;
    const u32 negative = IV_AS_U32(x) >> 31;
    v = IV_AS_F32(IV_AS_U32(v) ^ ((negative & odd) << 31));
    v = (x < 0.0f && ax < IV_INF32_ && !whole) ? IV_NAN32_ : v;
    v = (x != x || y != y) ? IV_NAN32_ : v;
    return (x == 1.0f || y == 0.0f) ? 1.0f : v;
}

/* ---- f64: the same methods with longer polynomials ---- */
#ifdef IV_HAS_F64
#define IV_INF64_ IV_AS_F64(0x7ff0000000000000ul)
#define IV_NAN64_ IV_AS_F64(0x7ff8000000000000ul)
#define IV_ABS64_(x) IV_AS_F64(IV_AS_U64(x) & 0x7ffffffffffffffful)
#define IV_SIGN64_ 0x8000000000000000ul
#define IV_MAGIC64_ 6755399441055744.0 /* 1.5 * 2^52 */
#define IV_MAGIC64_BITS_ 0x4338000000000000ul
#define IV_TWO52_BITS_ 0x4330000000000000ul
#define IV_LOG2E64_ 1.4426950408889634

IV_FN f64 iv_horner3_d(f64 w, f64 x, f64 a, f64 b, f64 c)
{
    return IV_FMA64(IV_FMA64(IV_FMA64(w, x, a), x, b), x, c);
}

/* e^r for |r| <= ln(2)/2, error 2^-57. */
IV_FN f64 iv_exp_poly_d(f64 r)
{
    f64 q = 2.500654798951287e-08;
    q = iv_horner3_d(q, r, 2.763025143978586e-07, 2.755756130837478e-06, 2.480149303003009e-05);
    q = iv_horner3_d(q, r, 0.00019841269542066853, 0.001388888894381251, 0.008333333333472779);
    q = iv_horner3_d(q, r, 0.04166666666652852, 0.1666666666666646, 0.5000000000000011);
    q = IV_FMA64(q, r, 1.0);
    return IV_FMA64(q, r, 1.0);
}

/* v * 2^k, k = kb - magic bits in [-2000, 2000], rounded once; see iv_scale_f. */
IV_FN f64 iv_scale_d(f64 v, u64 kb)
{
    const u64 k = kb - IV_MAGIC64_BITS_;
    const u64 k1 = ((k + 4096u) >> 1) - 2048u;
    const u64 k2 = k - k1;
    return v * IV_AS_F64((k1 + 1023u) << 52) * IV_AS_F64((k2 + 1023u) << 52);
}

/* x - k ln(2), ln(2) in two parts. */
IV_FN f64 iv_sub_kln2_d(f64 x, f64 k)
{
    return IV_FMA64(-k, 2.3190468138462996e-17, IV_FMA64(-k, 0.69314718055994529, x));
}

/* e^x for any f64 x; results under 2^-1022 are denormal, then 0; over the range +inf.
 * Max error 0.90 ulp. */
IV_FN f64 iv_exp_d(f64 x)
{
    f64 c = x > 710.0 ? 710.0 : x;
    c = c < -746.0 ? -746.0 : c;
    const f64 t = IV_FMA64(c, IV_LOG2E64_, IV_MAGIC64_);
    const f64 r = iv_sub_kln2_d(c, t - IV_MAGIC64_);
    const f64 v = iv_scale_d(iv_exp_poly_d(r), IV_AS_U64(t));
    return x != x ? IV_NAN64_ : v;
}

/* The integer k in [-2^20, 2^20] that a multiple of 2^52 holds in its upper bits, as f64.  By
 * way of the mantissa, as i64 to f64 is no vector instruction before AVX-512. */
IV_FN f64 iv_exponent_d(u64 k52)
{
    const u64 biased = (k52 + 0x4000000000000000ul) >> 52;
    return IV_AS_F64(biased | IV_TWO52_BITS_) - 4503599627371520.0;
}

/* Natural logarithm of any f64 x; -inf at both zeros, NaN below.  Max error 0.95 ulp. */
IV_FN f64 iv_log_d(f64 x)
{
    const f64 s = x < 2.2250738585072014e-308 ? x * 4503599627370496.0 : x;
    const f64 e0 = x < 2.2250738585072014e-308 ? -52.0 : 0.0;
    const u64 u = IV_AS_U64(s);
    const u64 d = (u - 0x3fe5555555555555ul) & 0xfff0000000000000ul;
    const f64 e = iv_exponent_d(d) + e0;
    const f64 f = IV_AS_F64(u - d) - 1.0;
    f64 w = 0.084499493866240852;
    w = iv_horner3_d(w, f, -0.086242833640594943, 0.042036669465386943, -0.045737867337942849);
    w = iv_horner3_d(w, f, 0.060449234371932371, -0.06390851858474686, 0.066515770386003537);
    w = iv_horner3_d(w, f, -0.071307968216357431, 0.076931910330280379, -0.083339719201086779);
    w = iv_horner3_d(w, f, 0.090908764821682017, -0.099999793025621883, 0.11111111843846654);
    w = iv_horner3_d(w, f, -0.12500000388886884, 0.1428571427647721, -0.1666666666293117);
    w = iv_horner3_d(w, f, 0.20000000000055129, -0.25000000000013339, 0.33333333333333232);
    const f64 f2 = f * f;
    f64 y = IV_FMA64(w, f, -0.5);
    y = IV_FMA64(e, 2.3190468138462996e-17, y * f2) + f;
    y = IV_FMA64(e, 0.69314718055994529, y);
    y = x == 0.0 ? -IV_INF64_ : y;
    y = x == IV_INF64_ ? x : y;
    return x >= 0.0 ? y : IV_NAN64_;
}

/* Hyperbolic tangent of any f64 x; keeps the sign of zero.  Max error 1.45 ulp. */
IV_FN f64 iv_tanh_d(f64 x)
{
    const u64 sign = IV_AS_U64(x) & IV_SIGN64_;
    f64 y = -2.0 * IV_ABS64_(x);
    y = y < -40.0 ? -40.0 : y; /* tanh(20) rounds to 1 */
    const f64 t = IV_FMA64(y, IV_LOG2E64_, IV_MAGIC64_);
    const f64 r = iv_sub_kln2_d(y, t - IV_MAGIC64_);
    f64 q = 2.089684099850272e-09;
    q = iv_horner3_d(q, r, 2.510869860993798e-08, 2.755732014608836e-07, 2.7557245083975936e-06);
    q = iv_horner3_d(q, r, 2.4801587288937332e-05, 0.00019841269885445057, 0.0013888888888890201);
    q = iv_horner3_d(q, r, 0.00833333333332175, 0.041666666666666685, 0.16666666666666677);
    q = IV_FMA64(q, r, 0.5);
    const f64 pr = IV_FMA64(q, r * r, r);
    const f64 s = IV_AS_F64((IV_AS_U64(t) - IV_MAGIC64_BITS_ + 1023u) << 52);
    const f64 m = IV_FMA64(s, pr, s - 1.0), ml = IV_FMA64(s, pr, (s - 1.0) - m);
    const f64 g = m + 2.0, gl = m - (g - 2.0) + ml;
    const f64 v0 = m / g;
    const f64 d = IV_FMA64(-v0, gl, IV_FMA64(-v0, g, m) + ml);
    const f64 v = IV_FMA64(d, IV_FMA64(-0.5, v0, 0.5), v0);
    return x != x ? IV_NAN64_ : IV_AS_F64((IV_AS_U64(v) & 0x7ffffffffffffffful) | sign);
}

/* Error function of any f64 x; keeps the sign of zero.  Max error 1.10 ulp. */
IV_FN f64 iv_erf_d(f64 x)
{
    const u64 sign = IV_AS_U64(x) & IV_SIGN64_;
    f64 a = IV_ABS64_(x);
    a = a > 6.0 ? 6.0 : a; /* erf(6) rounds to 1 */
    const f64 z = a * a;
    f64 w = 6.692922607808629e-11;
    w = iv_horner3_d(w, z, -1.1835367956535688e-9, 1.4787777786850283e-8, -1.6370819079948875e-7);
    w = iv_horner3_d(w, z, 1.6463103832680115e-6, -1.4925739516927437e-5, 0.00012055337818027899);
    w = iv_horner3_d(w, z, -0.00085483271906303853, 0.0052239776291114082, -0.026866170645620833);
    w = iv_horner3_d(w, z, 0.11283791670958747, -0.37612638903183876, 0.12837916709551259);
    const f64 near0 = IV_FMA64(w, a, a);
    f64 g = -1.0373758524676799e-12;
    g = iv_horner3_d(g, a, 4.7447931352337132e-11, -1.0157188962170941e-9, 1.3506455497164397e-8);
    g = iv_horner3_d(g, a, -1.2470113648452192e-7, 8.4440825415818901e-7, -4.2981614345810022e-6);
    g = iv_horner3_d(g, a, 1.6408471136688212e-5, -4.4732938691466616e-5, 6.966675083828565e-5);
    g = iv_horner3_d(g, a, 4.6107119105792473e-5, -0.00064305109856352416, 0.0017711724966035314);
    g = iv_horner3_d(g, a, -0.00028244757150265717, -0.019076807417859408, 0.10274656902680605);
    g = iv_horner3_d(g, a, 0.63662872911320101, 1.1283772769738121, 1.8492553162204831e-7);
    const f64 t = IV_FMA64(g, -IV_LOG2E64_, IV_MAGIC64_);
    const f64 r = iv_sub_kln2_d(-g, t - IV_MAGIC64_);
    const f64 s = IV_AS_F64((IV_AS_U64(t) - IV_MAGIC64_BITS_ + 1023u) << 52);
    const f64 far0 = IV_FMA64(-s, iv_exp_poly_d(r), 1.0);
    const f64 v = a < 1.0 ? near0 : far0;
    return x != x ? IV_NAN64_ : IV_AS_F64(IV_AS_U64(v) | sign);
}

/* a in [0, 2^20) modulo pi/2 into *out_r; returns the quadrant (Cody and Waite).  No branch. */
IV_FN u32 iv_trig_near_d(f64 a, f64 *out_r)
{
    const f64 t = IV_FMA64(a, 0.63661977236758138, IV_MAGIC64_);
    const f64 k = t - IV_MAGIC64_;
    const f64 r = IV_FMA64(-k, 6.123233995736766e-17, IV_FMA64(-k, 1.5707963267948966, a));
    *out_r = IV_FMA64(k, 1.4973849048591698e-33, r);
    return (u32)IV_AS_U64(t) & 3u;
}
/* The same for any a >= 0. */
IV_FN u32 iv_trig_reduce_d(f64 a, f64 *out_r)
{
    if (a < 1048576.0) return iv_trig_near_d(a, out_r);
    const u64 u = IV_AS_U64(a);
    u64 r;
    u32 n, neg;
    const u32 quadrant = iv_payne_hanek((u & 0xffffffffffffful) | 0x10000000000000ul,
                                        (i32)((u >> 52) & 0x7ffu) - 1075, &r, &n, &neg);
    const f64 v = (f64)(i64)r * IV_AS_F64((u64)(1023u - 62u - n) << 52);
    *out_r = neg ? -v : v;
    return quadrant;
}

/* The sine of r + quadrant pi/2, with `sign` (a sign bit) turned.  No branch. */
IV_FN f64 iv_sin_quadrant_d(f64 r, u32 quadrant, u64 sign)
{
    const f64 z = r * r;
    f64 s = IV_FMA64(1.5895861129630061e-10, z, -2.5050741047207258e-8);
    s = iv_horner3_d(s, z, 2.7557313575297313e-6, -0.00019841269829442749, 0.0083333333333219066);
    s = IV_FMA64(s, z, -0.1666666666666663);
    s = IV_FMA64(s, r * z, r);
    f64 c = IV_FMA64(-1.1358716460939899e-11, z, 2.0875704891122912e-9);
    c = iv_horner3_d(c, z, -2.755731421431484e-7, 2.480158728899612e-5, -0.0013888888888873338);
    c = iv_horner3_d(c, z, 0.041666666666666595, -0.5, 1.0);
    const f64 v = (quadrant & 1u) ? c : s;
    return IV_AS_F64(IV_AS_U64(v) ^ ((u64)(quadrant & 2u) << 62) ^ sign);
}
/* As iv_sin_turn_f. */
IV_FN f64 iv_sin_turn_d(f64 x, u32 turn, u64 sign)
{
    f64 r;
    if (!(IV_ABS64_(x) < IV_INF64_)) return IV_NAN64_;
    const u32 quadrant = iv_trig_reduce_d(IV_ABS64_(x), &r) + turn;
    return iv_sin_quadrant_d(r, quadrant, sign);
}

/* Sine of any f64 x in radians; NaN at infinity; keeps the sign of zero.  Max error 1.55 ulp. */
IV_FN f64 iv_sin_d(f64 x) { return iv_sin_turn_d(x, 0u, IV_AS_U64(x) & IV_SIGN64_); }

/* Cosine of any f64 x in radians; NaN at infinity.  Max error 1.55 ulp. */
IV_FN f64 iv_cos_d(f64 x) { return iv_sin_turn_d(x, 1u, 0u); }

/* log(a) as the sum of the result and *out_lo, relative error about 2^-64; see iv_log_ext_f. */
IV_FN f64 iv_log_ext_d(f64 a, f64 *out_lo)
{
    const f64 n = a < 2.2250738585072014e-308 ? a * 4503599627370496.0 : a;
    const f64 e0 = a < 2.2250738585072014e-308 ? -52.0 : 0.0;
    const u64 u = IV_AS_U64(n);
    const u64 d = (u - 0x3fe6a09e667f3bcdul) & 0xfff0000000000000ul;
    const f64 e = iv_exponent_d(d) + e0;
    const f64 m = IV_AS_F64(u - d), f = m - 1.0, g = m + 1.0, ig = 1.0 / g;
    const f64 s = f * ig;
    const f64 sl = IV_FMA64(-s, m - (g - 1.0), IV_FMA64(-s, g, f)) * ig;
    const f64 q = s * s;
    const f64 ql = IV_FMA64(2.0 * s, sl, IV_FMA64(s, s, -q));
    f64 w = IV_FMA64(0.12000958573057127, q, 0.11673283650233265);
    w = iv_horner3_d(w, q, 0.13336399038546462, 0.15384554556136679, 0.18181818907844904);
    w = iv_horner3_d(w, q, 0.22222222217192131, 0.28571428571446744, 0.39999999999999974) * q;
    const f64 c = 0.66666666666666663 + w;
    const f64 cl = (0.66666666666666663 - c) + w + 3.7007434154171883e-17;
    const f64 b = s * q;
    const f64 bl = IV_FMA64(sl, q, IV_FMA64(s, ql, IV_FMA64(s, q, -b)));
    const f64 h = b * c;
    const f64 hl = IV_FMA64(bl, c, IV_FMA64(b, cl, IV_FMA64(b, c, -h)));
    /* 42 bits of ln(2): their product with e is exact. */
    const f64 k = e * 0.69314718055989033;
    const f64 x1 = IV_FMA64(2.0, s, k);
    const f64 l1 = IV_FMA64(2.0, s, k - x1);
    const f64 x2 = x1 + h;
    const f64 l2 = (x1 - x2) + h;
    const f64 lo = (l1 + l2) + IV_FMA64(e, 5.4979230187083712e-14, IV_FMA64(2.0, sl, hl));
    const f64 hi = x2 + lo;
    *out_lo = (x2 - hi) + lo;
    return hi;
}

/* x^y with the special cases of C99 (F.9.4.4).  Max error 1.20 ulp. */
IV_FN f64 iv_pow_d(f64 x, f64 y)
{
    const f64 ax = IV_ABS64_(x), ay = IV_ABS64_(y);
    /* |log x| >= 2^-53 for x != 1, so |y| = 2^70 is far beyond overflow already. */
    f64 yc = y > 1.1805916207174113e21 ? 1.1805916207174113e21 : y;
    yc = yc < -1.1805916207174113e21 ? -1.1805916207174113e21 : yc;
    f64 ll;
    const f64 lh = iv_log_ext_d(ax, &ll);
    f64 h = yc * lh;
    f64 l = IV_FMA64(yc, ll, IV_FMA64(yc, lh, -h));
    l = (h > 720.0 || h < -760.0) ? 0.0 : l;
    h = h > 720.0 ? 720.0 : h;
    h = h < -760.0 ? -760.0 : h;
    const f64 t = IV_FMA64(h, IV_LOG2E64_, IV_MAGIC64_);
    const f64 r = iv_sub_kln2_d(h, t - IV_MAGIC64_) + l;
    f64 v = iv_scale_d(iv_exp_poly_d(r), IV_AS_U64(t));

    const f64 up = y > 0.0 ? IV_INF64_ : 0.0, down = y > 0.0 ? 0.0 : IV_INF64_;
    v = ax == 0.0 ? down : v;
    v = ax == IV_INF64_ ? up : v;
    v = ay == IV_INF64_ ? (ax == 1.0 ? 1.0 : ax > 1.0 ? up : down) : v;
    /* From 2^53 on every f64 is an even integer. */
    const f64 yi = ay < 9007199254740992.0 ? y : 0.0;
    const i64 k = (i64)yi;
    const u64 whole = (f64)k == yi, odd = whole & (u64)k;
    const u64 negative = IV_AS_U64(x) >> 63;
    v = IV_AS_F64(IV_AS_U64(v) ^ ((negative & odd) << 63));
    v = (x < 0.0 && ax < IV_INF64_ && !whole) ? IV_NAN64_ : v;
    v = (x != x || y != y) ? IV_NAN64_ : v;
    return (x == 1.0 || y == 0.0) ? 1.0 : v;
}
#endif

#endif
