/* elem.h: expressions too long for a row of elem.def, in the kernel dialect, as functions of type A.
 * Included once per computing type (A is f or d). */
#define IV_SIGMOID(a) IV_CAT(iv_sigmoid_, A)(a)
#define IV_SILU_SLOPE(a) IV_CAT(iv_silu_slope_, A)(a)
#define IV_GELU_TANH_SLOPE(a) IV_CAT(iv_gelu_tanh_slope_, A)(a)
#define IV_E4M3(a, b) IV_CAT(iv_float8_, A)(a, b, C_(0.125), C_(0.001953125), C_(448))
#define IV_E5M2(a, b) IV_CAT(iv_float8_, A)(a, b, C_(0.25), C_(0.0000152587890625), C_(57344))
#define IV_INT8(a, b) IV_CAT(iv_int8_, A)(a, b)
#define IV_NF4(a, b) IV_CAT(iv_nf4_, A)(a, b)

IV_FN AT IV_CAT(iv_sigmoid_, A)(AT a)
{
    return C_(1) / (C_(1) + EXP(-a));
}
/* d/da (a s(a)) = s + a s (1 - s) */
IV_FN AT IV_CAT(iv_silu_slope_, A)(AT a)
{
    AT s = C_(1) / (C_(1) + EXP(-a));
    return FMA(a * s, C_(1) - s, s);
}
/* d/da of 0.5 a (1 + tanh u), u = k (a + 0.044715 a^3): 0.5 (1 + t) + 0.5 a (1 - t^2) k (1 + 3 0.044715 a^2) */
IV_FN AT IV_CAT(iv_gelu_tanh_slope_, A)(AT a)
{
    AT q = a * a;
    AT t = TANH(C_(0.79788456080286535588) * FMA(C_(0.044715) * a, q, a));
    AT slope = C_(0.79788456080286535588) * FMA(C_(0.134145), q, C_(1));
    return FMA(C_(0.5) * a * FMA(-t, t, C_(1)), slope, C_(0.5) * (C_(1) + t));
}

/* ---- numbers of few bits, as what they stand for ---- */

/* Adding and subtracting this times u rounds to multiples of u, ties to even. */
#define IV_ROUNDER IV_CAT(IV_ROUNDER_, A)
#define IV_ROUNDER_f 12582912.0f
#define IV_ROUNDER_d 6755399441055744.0
/* The power of two at or below a normal number; of others, something smaller. */
#define IV_POWER(x) IV_CAT(IV_POWER_, A)(x)
#define IV_POWER_f(x) IV_AS_F32(IV_AS_U32(x) & 0x7f800000u)
#define IV_POWER_d(x) IV_AS_F64(IV_AS_U64(x) & 0x7ff0000000000000)

/* a b as a float of 8 bits, divided by b: distance of neighbours `step` times their power of two and
 * at least `least`, ties to even.  Finite numbers beyond `most` become it; infinities and NaN stay,
 * so that a run sees them. */
IV_FN AT IV_CAT(iv_float8_, A)(AT a, AT b, AT step, AT least, AT most)
{
    const AT x = a * b, size = x < C_(0) ? -x : x;
    const AT c = size > most ? most : size;
    const AT wide = IV_POWER(c) * step, unit = wide > least ? wide : least;
    const AT big = unit * IV_ROUNDER, r = (c + big) - big;
    return a - a == C_(0) ? (x < C_(0) ? -r : r) / b : a;
}
/* a in steps of b / 127, where b is the largest magnitude of its row. */
IV_FN AT IV_CAT(iv_int8_, A)(AT a, AT b)
{
    const AT x = a * C_(127) / b;
    return b > C_(0) ? ((x + IV_ROUNDER) - IV_ROUNDER) * b / C_(127) : a * b;
}
/* The nearest of b times the 16 numbers of NormalFloat (Dettmers and others, "QLoRA", appendix E),
 * where b is the largest magnitude of its block. */
IV_FN AT IV_CAT(iv_nf4_, A)(AT a, AT b)
{
    const AT x = a / b;
    AT r = C_(-1);
    r = x > C_(-0.8480963706970215) ? C_(-0.6961928009986877) : r;
    r = x > C_(-0.6106328964233398) ? C_(-0.5250730514526367) : r;
    r = x > C_(-0.4599952697753906) ? C_(-0.39491748809814453) : r;
    r = x > C_(-0.33967941999435425) ? C_(-0.28444138169288635) : r;
    r = x > C_(-0.23460739850997925) ? C_(-0.18477343022823334) : r;
    r = x > C_(-0.13791173696517944) ? C_(-0.09105003625154495) : r;
    r = x > C_(-0.045525018125772476) ? C_(0.0) : r;
    r = x > C_(0.03979014977812767) ? C_(0.07958029955625534) : r;
    r = x > C_(0.120255246758461) ? C_(0.16093020141124725) : r;
    r = x > C_(0.2035212516784668) ? C_(0.24611230194568634) : r;
    r = x > C_(0.2920137643814087) ? C_(0.33791524171829224) : r;
    r = x > C_(0.3893125355243683) ? C_(0.44070982933044434) : r;
    r = x > C_(0.5016634464263916) ? C_(0.5626170039176941) : r;
    r = x > C_(0.6427869200706482) ? C_(0.7229568362236023) : r;
    r = x > C_(0.8614784479141235) ? C_(1.0) : r;
    return b > C_(0) ? r * b : a * b;
}
