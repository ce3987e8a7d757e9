/* elem.h: expressions too long for a row of elem.def, in the kernel dialect, as functions of type A.
 * Included once per computing type (A is f or d). */
#define IV_SIGMOID(a) IV_CAT(iv_sigmoid_, A)(a)
#define IV_SILU_SLOPE(a) IV_CAT(iv_silu_slope_, A)(a)
#define IV_GELU_TANH_SLOPE(a) IV_CAT(iv_gelu_tanh_slope_, A)(a)

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
