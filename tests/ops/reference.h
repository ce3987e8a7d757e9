/* reference.h: every operator, written plainly in f64.  Nothing here is clever: these are the
 * definitions that the kernels are measured against.  in[]: the inputs; out[]: arrays of the right
 * size. */
#ifndef IV_TEST_OPS_REFERENCE_H
#define IV_TEST_OPS_REFERENCE_H

#include "harness.h"

typedef struct tensor {
    iv_shape s;
    double *x;
} tensor;

typedef struct op_case {
    iv__op op;
    int32_t n_in, n_check; /* inputs; outputs that are compared (0: one) */
    iv_shape in[4];
    char fill[5]; /* what the inputs hold: cases.h */
    int64_t attr[12];
    double fattr[4];
    double chain;         /* longest chain of roundings, for the tolerance */
    double low_roundings; /* further roundings to a 16-bit type inside the operator */
    int64_t grains;       /* 0: 1 */
    iv_dtype to;          /* CAST */
    bool forward_only;
    void (*ref)(const struct op_case *c, const tensor *in, tensor *out);
    const char *note;
} op_case;

#define REF(name) static inline void ref_##name(const op_case *c, const tensor *in, tensor *out)
#define D(t, i) ((t).s.dim[i])

static inline int64_t count(const tensor *t)
{
    return iv_shape_count(&t->s);
}

static inline int64_t last(const tensor *t)
{
    return t->s.rank ? t->s.dim[t->s.rank - 1] : 1;
}

/* Index of element i of shape s in a tensor of shape a that is broadcast to s. */
static inline int64_t broadcast_index(const iv_shape *s, const iv_shape *a, int64_t i)
{
    int64_t at = 0, step = 1;
    for (int32_t k = 1; k <= s->rank; ++k) {
        int64_t d = s->dim[s->rank - k], idx = i % d;
        i /= d;
        if (k > a->rank) continue;
        if (a->dim[a->rank - k] != 1) at += idx * step;
        step *= a->dim[a->rank - k];
    }
    return at;
}

/* ---- element-wise ---- */

static inline double gelu_tanh_slope(double a)
{
    double k = 0.79788456080286535588, t = tanh(k * (a + 0.044715 * a * a * a));
    return 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * k * (1 + 3 * 0.044715 * a * a);
}

/* x as a float with `bits` bits behind the point and exponents from `least`. */
static inline double float8(double x, int bits, int least, double most)
{
    int e;
    if (fabs(x) > most) return x < 0 ? -most : most;
    frexp(x, &e);
    double unit = ldexp(1, (e - 1 > least ? e - 1 : least) - bits);
    return nearbyint(x / unit) * unit;
}

/* The nearest number of NormalFloat. */
static inline double normal_float(double x)
{
    static const double code[16] = {-1,
                                    -0.6961928009986877,
                                    -0.5250730514526367,
                                    -0.39491748809814453,
                                    -0.28444138169288635,
                                    -0.18477343022823334,
                                    -0.09105003625154495,
                                    0,
                                    0.07958029955625534,
                                    0.16093020141124725,
                                    0.24611230194568634,
                                    0.33791524171829224,
                                    0.44070982933044434,
                                    0.5626170039176941,
                                    0.7229568362236023,
                                    1};
    int best = 0;
    for (int i = 1; i < 16; ++i)
        if (fabs(x - code[i]) < fabs(x - code[best])) best = i;
    return code[best];
}

static inline double elem(iv__op op, double a, double b, double c)
{
    double s = 1 / (1 + exp(-a)), cdf = 0.5 * erfc(-a * 0.70710678118654752440);
    switch (op) {
    case IV_OP_ADD: return a + b;
    case IV_OP_SUB: return a - b;
    case IV_OP_MUL: return a * b;
    case IV_OP_DIV: return a / b;
    case IV_OP_POW: return pow(a, b);
    case IV_OP_MAXIMUM: return a > b ? a : b;
    case IV_OP_MINIMUM: return a < b ? a : b;
    case IV_OP_SCALE: return a * c;
    case IV_OP_ADD_SCALAR: return a + c;
    case IV_OP_NEG: return -a;
    case IV_OP_ABS: return fabs(a);
    case IV_OP_SIGN: return (a > 0) - (a < 0);
    case IV_OP_RELU: return a > 0 ? a : 0;
    case IV_OP_RELU_GRAD: return a > 0 ? b : 0;
    case IV_OP_GELU: return a * cdf;
    case IV_OP_GELU_GRAD: return b * (cdf + a * 0.39894228040143267794 * exp(-0.5 * a * a));
    case IV_OP_GELU_TANH:
        return 0.5 * a * (1 + tanh(0.79788456080286535588 * (a + 0.044715 * a * a * a)));
    case IV_OP_GELU_TANH_GRAD: return b * gelu_tanh_slope(a);
    case IV_OP_SIGMOID: return s;
    case IV_OP_SIGMOID_GRAD: return b * a * (1 - a);
    case IV_OP_SILU: return a * s;
    case IV_OP_SILU_GRAD: return b * (s + a * s * (1 - s));
    case IV_OP_TANH: return tanh(a);
    case IV_OP_TANH_GRAD: return b * (1 - a * a);
    case IV_OP_EXP: return exp(a);
    case IV_OP_LOG: return log(a);
    case IV_OP_SQRT: return sqrt(a);
    case IV_OP_RSQRT: return 1 / sqrt(a);
    case IV_OP_SIN: return sin(a);
    case IV_OP_COS: return cos(a);
    case IV_OP_EQ: return a == b;
    case IV_OP_E4M3: return float8(a * b, 3, -6, 448) / b;
    case IV_OP_E5M2: return float8(a * b, 2, -14, 57344) / b;
    case IV_OP_INT8: return nearbyint(a * 127 / b) * b / 127;
    case IV_OP_NF4: return normal_float(a / b) * b;
    case IV_OP_TIE: return a > b ? 1 : a == b ? 0.5 : 0;
    default: return NAN;
    }
}

REF(elem)
{
    for (int64_t i = 0; i < count(out); ++i) {
        double a = in[0].x[broadcast_index(&out->s, &in[0].s, i)];
        double b = c->n_in > 1 ? in[1].x[broadcast_index(&out->s, &in[1].s, i)] : 0;
        out->x[i] = elem(c->op, a, b, c->fattr[0]);
    }
}

REF(cast)
{
    for (int64_t i = 0; i < count(out); ++i) out->x[i] = rounded(c->to, in[0].x[i]);
}

/* The mask is a function of (seed, stream, step, global element): harness.h runs with 7, 3,
 * sample 5. */
REF(dropout)
{
    uint64_t first = 5 * (uint64_t)(count(out) / D(*out, 0));
    for (int64_t i = 0; i < count(out); ++i) {
        uint32_t r = iv_random_u32(7, (uint32_t)c->attr[0], 3, first + (uint64_t)i);
        out->x[i] =
            (double)(r >> 8) * 0x1p-24 < (double)(float)c->fattr[0] ? 0 : in[0].x[i] * c->fattr[1];
    }
}

/* ---- shape ---- */

REF(reshape)
{
    (void)c;
    memcpy(out->x, in[0].x, (size_t)count(out) * sizeof(double));
}

REF(transpose)
{
    int64_t stride[IV_MAX_RANK], at = 1;
    for (int32_t k = in[0].s.rank - 1; k >= 0; at *= in[0].s.dim[k--]) stride[k] = at;
    for (int64_t i = 0; i < count(out); ++i) {
        int64_t from = 0, rest = i;
        for (int32_t k = out->s.rank - 1; k >= 0; rest /= out->s.dim[k--])
            from += rest % out->s.dim[k] * stride[c->attr[k]];
        out->x[i] = in[0].x[from];
    }
}

REF(broadcast)
{
    (void)c;
    for (int64_t i = 0; i < count(out); ++i)
        out->x[i] = in[0].x[broadcast_index(&out->s, &in[0].s, i)];
}

/* Product of the dimensions of s in [from, to). */
static inline int64_t span(const iv_shape *s, int32_t from, int32_t to)
{
    int64_t n = 1;
    for (int32_t i = from; i < to; ++i) n *= s->dim[i];
    return n;
}

/* Copies along the axis: `n` slots of src from src0 to dst from dst0. */
static inline void copy_axis(const tensor *src, int64_t src0, tensor *dst, int64_t dst0,
                             int32_t axis, int64_t n)
{
    int64_t outer = span(&dst->s, 0, axis), inner = span(&dst->s, axis + 1, dst->s.rank);
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t k = 0; k < n; ++k)
            memcpy(dst->x + (o * D(*dst, axis) + dst0 + k) * inner,
                   src->x + (o * D(*src, axis) + src0 + k) * inner, (size_t)inner * sizeof(double));
}

REF(slice)
{
    copy_axis(in, c->attr[IV_A_START], out, 0, (int32_t)c->attr[IV_A_AXIS], c->attr[IV_A_LENGTH]);
}

REF(pad)
{
    int32_t axis = (int32_t)c->attr[IV_A_AXIS];
    memset(out->x, 0, (size_t)count(out) * sizeof(double));
    copy_axis(in, 0, out, c->attr[IV_A_START], axis, D(in[0], axis));
}

REF(concat)
{
    int32_t axis = (int32_t)c->attr[IV_A_AXIS];
    int64_t at = 0;
    for (int32_t i = 0; i < c->n_in; at += D(in[i++], axis))
        copy_axis(&in[i], 0, out, at, axis, D(in[i], axis));
}

REF(reduce)
{
    for (int64_t i = 0; i < count(out); ++i) out->x[i] = c->op == IV_OP_MAX ? -INFINITY : 0;
    for (int64_t i = 0; i < count(in); ++i) {
        int64_t at = 0, step = 1, rest = i;
        for (int32_t k = in[0].s.rank - 1; k >= 0; rest /= D(in[0], k--)) {
            if (c->attr[IV_A_MASK] >> k & 1) continue;
            at += rest % D(in[0], k) * step;
            step *= D(in[0], k);
        }
        if (c->op == IV_OP_SUM) out->x[at] += in[0].x[i];
        else if (in[0].x[i] > out->x[at]) out->x[at] = in[0].x[i];
    }
}

/* ---- products ---- */

REF(matmul)
{
    bool ta = c->attr[IV_A_TA], tb = c->attr[IV_A_TB], shared = in[1].s.rank == 2;
    int32_t ra = in[0].s.rank, rb = in[1].s.rank;
    int64_t m = D(*out, ra - 2), n = D(*out, ra - 1), k = D(in[0], ra - 1 - ta),
            batch = span(&in[0].s, 0, ra - 2);
    for (int64_t z = 0; z < batch; ++z)
        for (int64_t i = 0; i < m; ++i)
            for (int64_t j = 0; j < n; ++j) {
                const double *a = in[0].x + z * m * k, *b = in[1].x + (shared ? 0 : z * k * n);
                double sum = c->n_in == 3 ? in[2].x[j] : 0;
                for (int64_t l = 0; l < k; ++l)
                    sum += a[ta ? l * m + i : i * k + l] * b[tb ? j * k + l : l * n + j];
                out->x[(z * m + i) * n + j] = sum;
            }
    (void)rb;
}

REF(conv2d)
{
    const int64_t *a = c->attr, groups = a[IV_A_GROUPS], cg = D(in[1], 1), og = D(*out, 1) / groups;
    int64_t C = D(in[0], 1), H = D(in[0], 2), W = D(in[0], 3), KH = D(in[1], 2), KW = D(in[1], 3),
            at = 0;
    for (int64_t n = 0; n < D(*out, 0); ++n)
        for (int64_t o = 0; o < D(*out, 1); ++o)
            for (int64_t y = 0; y < D(*out, 2); ++y)
                for (int64_t x = 0; x < D(*out, 3); ++x) {
                    double sum = c->n_in == 3 ? in[2].x[o] : 0;
                    for (int64_t i = 0; i < cg; ++i)
                        for (int64_t ky = 0; ky < KH; ++ky)
                            for (int64_t kx = 0; kx < KW; ++kx) {
                                int64_t iy = y * a[IV_A_STRIDE] - a[IV_A_PAD] + ky,
                                        ix = x * a[IV_A_STRIDE + 1] - a[IV_A_PAD + 1] + kx;
                                if (iy < 0 || iy >= H || ix < 0 || ix >= W) continue;
                                sum += in[0].x[((n * C + o / og * cg + i) * H + iy) * W + ix] *
                                       in[1].x[((o * cg + i) * KH + ky) * KW + kx];
                            }
                    out->x[at++] = sum;
                }
}

REF(pool)
{
    const int64_t *a = c->attr, H = D(in[0], 2), W = D(in[0], 3), OH = D(out[0], 2),
                  OW = D(out[0], 3);
    for (int64_t i = 0; i < count(out); ++i) {
        const double *plane = in[0].x + i / (OH * OW) * H * W;
        int64_t y0 = i / OW % OH * a[IV_A_STRIDE] - a[IV_A_PAD],
                x0 = i % OW * a[IV_A_STRIDE + 1] - a[IV_A_PAD + 1], best = -1;
        double sum = 0;
        for (int64_t y = y0; y < y0 + a[IV_A_SIZE]; ++y)
            for (int64_t x = x0; x < x0 + a[IV_A_SIZE + 1]; ++x) {
                if (y < 0 || y >= H || x < 0 || x >= W) continue;
                sum += plane[y * W + x];
                if (best < 0 || plane[y * W + x] > plane[best]) best = y * W + x;
            }
        out[0].x[i] = c->op == IV_OP_MAX_POOL2D ? plane[best]
                                                : sum / (double)(a[IV_A_SIZE] * a[IV_A_SIZE + 1]);
        if (c->op == IV_OP_MAX_POOL2D) out[1].x[i] = (double)best;
    }
}

/* ---- rows ---- */

/* max + log(sum exp(x - max)) of n numbers */
static inline double log_sum(const double *x, int64_t n)
{
    double m = x[0], sum = 0;
    for (int64_t i = 1; i < n; ++i) m = x[i] > m ? x[i] : m;
    for (int64_t i = 0; i < n; ++i) sum += exp(x[i] - m);
    return m + log(sum);
}

REF(softmax)
{
    int64_t n = last(in);
    for (int64_t i = 0; i < count(in); ++i) {
        double y = in[0].x[i] - log_sum(in[0].x + i / n * n, n);
        out->x[i] = c->op == IV_OP_SOFTMAX ? exp(y) : y;
    }
}

REF(xent)
{
    int64_t n = last(in);
    for (int64_t r = 0; r < count(&in[1]); ++r) {
        int64_t t = (int64_t)in[1].x[r];
        out[1].x[r] = log_sum(in[0].x + r * n, n);
        out[0].x[r] = t == c->attr[IV_A_IGNORE] ? 0 : out[1].x[r] - in[0].x[r * n + t];
    }
}

REF(norm)
{
    int64_t n = last(in);
    bool centred = c->op == IV_OP_LAYERNORM;
    for (int64_t r = 0; r < count(in) / n; ++r) {
        const double *x = in[0].x + r * n;
        double m = 0, v = 0;
        for (int64_t i = 0; i < n && centred; ++i) m += x[i] / (double)n;
        for (int64_t i = 0; i < n; ++i) v += (x[i] - m) * (x[i] - m) / (double)n;
        double rstd = 1 / sqrt(v + c->fattr[0]);
        for (int64_t i = 0; i < n; ++i)
            out[0].x[r * n + i] = (x[i] - m) * rstd * in[1].x[i] + (centred ? in[2].x[i] : 0);
        if (centred) out[1].x[r] = m;
        out[centred ? 2 : 1].x[r] = rstd;
    }
}

REF(batchnorm)
{
    int64_t G = c->grains ? c->grains : 1, N = D(in[0], 0), C = D(in[0], 1), P = count(in) / N / C;
    for (int64_t g = 0; g < G; ++g)
        for (int64_t k = 0; k < C; ++k) {
            double m = 0, v = 0, n = (double)(N / G * P);
            for (int64_t i = g * N / G; i < (g + 1) * N / G; ++i)
                for (int64_t p = 0; p < P; ++p) m += in[0].x[(i * C + k) * P + p] / n;
            for (int64_t i = g * N / G; i < (g + 1) * N / G; ++i)
                for (int64_t p = 0; p < P; ++p) v += pow(in[0].x[(i * C + k) * P + p] - m, 2);
            for (int64_t i = g * N / G; i < (g + 1) * N / G; ++i)
                for (int64_t p = 0; p < P; ++p) {
                    int64_t at = (i * C + k) * P + p;
                    out[0].x[at] =
                        (in[0].x[at] - m) / sqrt(v / n + c->fattr[0]) * in[1].x[k] + in[2].x[k];
                }
            out[1].x[g * C + k] = m;
            out[2].x[g * C + k] = v / (n > 1 ? n - 1 : 1);
        }
}

REF(embedding)
{
    (void)c;
    int64_t n = D(in[0], 1);
    for (int64_t r = 0; r < count(&in[1]); ++r)
        memcpy(out->x + r * n, in[0].x + (int64_t)in[1].x[r] * n, (size_t)n * sizeof(double));
}

REF(attention)
{
    int64_t heads = c->attr[IV_A_HEADS], B = D(in[0], 0), Tq = D(in[0], 1), Tk = D(in[1], 1),
            C = D(in[0], 2), d = C / heads;
    double *s = malloc((size_t)Tk * sizeof(*s));
    for (int64_t z = 0; z < B * heads * Tq; ++z) {
        int64_t b = z / heads / Tq, h = z / Tq % heads, i = z % Tq,
                seen = c->attr[IV_A_CAUSAL] ? i + Tk - Tq + 1 : Tk;
        const double *q = in[0].x + (b * Tq + i) * C + h * d, *k = in[1].x + b * Tk * C + h * d,
                     *v = in[2].x + b * Tk * C + h * d;
        double *o = out[0].x + (b * Tq + i) * C + h * d;
        for (int64_t l = 0; l < d; ++l) o[l] = 0;
        out[1].x[z] = -INFINITY;
        if (seen <= 0) continue;
        for (int64_t j = 0; j < seen; ++j) {
            s[j] = 0;
            for (int64_t l = 0; l < d; ++l) s[j] += q[l] * k[j * C + l];
            s[j] *= c->fattr[0];
        }
        out[1].x[z] = log_sum(s, seen);
        for (int64_t j = 0; j < seen; ++j)
            for (int64_t l = 0; l < d; ++l) o[l] += exp(s[j] - out[1].x[z]) * v[j * C + l];
    }
    free(s);
}

#undef REF
#endif
