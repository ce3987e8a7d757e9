/* cases.h: the table of operator cases that all operator tests run from, and how a case becomes a
 * graph.
 *
 * A row names an operator, shapes, what the inputs hold, attributes, the reference and the length
 * of the longest chain of roundings (for the tolerance).  Element-wise operators get their rows
 * from elem.def: each meets the same list of shapes. Each input can reach the operator as it is or
 * as a view: a slice of a larger tensor, a transposed one, or a broadcast one; what lies beside a
 * slice is NaN, so that reading it shows. */
#ifndef IV_TEST_OPS_CASES_H
#define IV_TEST_OPS_CASES_H

#include "reference.h"

#define S IV_SHAPE
#define EPS                                                                                        \
    {                                                                                              \
        1e-5                                                                                       \
    }
#define WINDOW(sy, sx, py, px, groups, ky, kx)                                                     \
    {                                                                                              \
        sy, sx, py, px, groups, ky, kx                                                             \
    }
/* What inputs hold: n in [-2,2), p in [1/2,2), k and q the same with either sign and at least 1/10
 * or 1/2 away from 0 (kinks, divisors), d distinct multiples of 1/16, h the same plus 1/32 (never
 * equal to a d), r one of -1 0 1, i row numbers of input 0, t classes of input 0, a quarter of them
 * -1. */
static const op_case table[] = {
    {IV_OP_RESHAPE, 1, 1, {S(3, 4, 5)}, "n", {2, 6, 10}, .ref = ref_reshape},
    {IV_OP_RESHAPE, 1, 1, {S(9, 131)}, "n", {1, 1179}, .ref = ref_reshape},
    {IV_OP_TRANSPOSE, 1, 1, {S(3, 5, 7)}, "n", {2, 0, 1}, .ref = ref_transpose},
    {IV_OP_TRANSPOSE, 1, 1, {S(70, 33)}, "n", {1, 0}, .ref = ref_transpose},
    {IV_OP_TRANSPOSE, 1, 1, {S(2, 3, 4, 5)}, "n", {3, 1, 0, 2}, .ref = ref_transpose},
    {IV_OP_SLICE, 1, 1, {S(3, 9, 5)}, "n", {1, 2, 5}, .ref = ref_slice},
    {IV_OP_SLICE, 1, 1, {S(40, 67)}, "n", {0, 3, 36}, .ref = ref_slice},
    {IV_OP_PAD, 1, 1, {S(3, 4, 5)}, "n", {1, 2, 9}, .ref = ref_pad},
    {IV_OP_PAD, 1, 1, {S(3, 67)}, "n", {1, 0, 129}, .ref = ref_pad},
    {IV_OP_BROADCAST, 1, 1, {S(3, 1, 5)}, "n", {4, 2, 3, 4, 5}, .ref = ref_broadcast},
    {IV_OP_BROADCAST, 1, 1, {S(1)}, "n", {2, 20, 65}, .ref = ref_broadcast},
    {IV_OP_CONCAT, 3, 1, {S(2, 3, 5), S(2, 1, 5), S(2, 4, 5)}, "nnn", {1}, .ref = ref_concat},
    {IV_OP_CONCAT, 2, 1, {S(20, 33), S(21, 33)}, "nn", {0}, .ref = ref_concat},
    {IV_OP_CONCAT, 1, 1, {S(5, 3)}, "n", {1}, .ref = ref_concat},
    {IV_OP_SUM, 1, 1, {S(3, 5, 67)}, "n", {1, 0}, .chain = 3, .ref = ref_reduce},
    {IV_OP_SUM, 1, 1, {S(3, 5, 67)}, "n", {2, 1}, .chain = 5, .ref = ref_reduce},
    {IV_OP_SUM, 1, 1, {S(3, 5, 67)}, "n", {4, 1}, .chain = 67, .ref = ref_reduce},
    {IV_OP_SUM, 1, 1, {S(3, 5, 67)}, "n", {5, 0}, .chain = 201, .ref = ref_reduce},
    {IV_OP_SUM, 1, 1, {S(3, 5, 67)}, "n", {7, 0}, .chain = 1005, .ref = ref_reduce},
    {IV_OP_SUM, 1, 1, {S(130, 17)}, "n", {1, 0}, .chain = 130, .ref = ref_reduce},
    {IV_OP_SUM,
     1,
     1,
     {S(2, 3, 2, 3, 2, 3)},
     "n",
     {0x15, 0},
     .chain = 8,
     .ref = ref_reduce,
     .forward_only = true,
     .note = "the gradient needs an element program of 6 dimensions"},
    {IV_OP_MAX, 1, 1, {S(3, 5, 7)}, "d", {2, 1}, .ref = ref_reduce},
    {IV_OP_MAX, 1, 1, {S(3, 5, 7)}, "d", {5, 0}, .ref = ref_reduce},
    {IV_OP_MAX, 1, 1, {S(9, 131)}, "d", {2, 0}, .ref = ref_reduce},
    {IV_OP_MAX, 1, 1, {S(131, 17)}, "d", {1, 0}, .ref = ref_reduce},
    {IV_OP_MATMUL, 2, 1, {S(5, 7), S(7, 3)}, "nn", {0, 0}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(7, 5), S(7, 3)}, "nn", {1, 0}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(5, 7), S(3, 7)}, "nn", {0, 1}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(7, 5), S(3, 7)}, "nn", {1, 1}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(67, 65), S(65, 66)}, "nn", {0, 0}, .chain = 65, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(65, 67), S(66, 65)}, "nn", {1, 1}, .chain = 65, .ref = ref_matmul},
    {IV_OP_MATMUL,
     2,
     1,
     {S(2, 3, 5, 7), S(2, 3, 7, 4)},
     "nn",
     {0, 0},
     .chain = 7,
     .ref = ref_matmul},
    {IV_OP_MATMUL,
     2,
     1,
     {S(2, 3, 7, 5), S(2, 3, 7, 4)},
     "nn",
     {1, 0},
     .chain = 7,
     .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(6, 5, 33), S(6, 4, 33)}, "nn", {0, 1}, .chain = 33, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(6, 7, 5), S(6, 4, 7)}, "nn", {1, 1}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(2, 5, 7), S(7, 4)}, "nn", {0, 0}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL, 2, 1, {S(2, 3, 5, 7), S(4, 7)}, "nn", {0, 1}, .chain = 7, .ref = ref_matmul},
    {IV_OP_MATMUL,
     3,
     1,
     {S(2, 5, 7), S(7, 4), S(4)},
     "nnn",
     {0, 0},
     .chain = 8,
     .ref = ref_matmul,
     .note = "linear"},
    {IV_OP_MATMUL,
     3,
     1,
     {S(33, 40), S(66, 40), S(66)},
     "nnn",
     {0, 1},
     .chain = 41,
     .ref = ref_matmul,
     .note = "linear"},
    {IV_OP_SOFTMAX, 1, 1, {S(5, 67)}, "n", .chain = 80, .ref = ref_softmax},
    {IV_OP_SOFTMAX, 1, 1, {S(2, 3, 1)}, "n", .chain = 8, .ref = ref_softmax},
    {IV_OP_LOG_SOFTMAX, 1, 1, {S(5, 67)}, "n", .chain = 80, .ref = ref_softmax},
    {IV_OP_LOG_SOFTMAX, 1, 1, {S(2, 3, 64)}, "n", .chain = 80, .ref = ref_softmax},
    {IV_OP_XENT, 2, 2, {S(9, 67), S(9)}, "nt", {-1}, .chain = 80, .ref = ref_xent},
    {IV_OP_XENT, 2, 2, {S(2, 3, 5), S(2, 3)}, "nt", {-1}, .chain = 80, .ref = ref_xent},
    {IV_OP_LAYERNORM,
     3,
     3,
     {S(5, 67), S(67), S(67)},
     "nnn",
     .fattr = EPS,
     .chain = 100,
     .ref = ref_norm},
    {IV_OP_LAYERNORM,
     3,
     3,
     {S(2, 3, 64), S(64), S(64)},
     "nnn",
     .fattr = EPS,
     .chain = 100,
     .ref = ref_norm},
    {IV_OP_LAYERNORM,
     3,
     3,
     {S(130, 5), S(5), S(5)},
     "nnn",
     .fattr = EPS,
     .chain = 400,
     .ref = ref_norm},
    {IV_OP_RMSNORM, 2, 2, {S(5, 67), S(67)}, "nn", .fattr = EPS, .chain = 100, .ref = ref_norm},
    {IV_OP_RMSNORM, 2, 2, {S(2, 3, 63), S(63)}, "nn", .fattr = EPS, .chain = 100, .ref = ref_norm},
    {IV_OP_BATCHNORM,
     3,
     3,
     {S(4, 3, 3, 3), S(3), S(3)},
     "nnn",
     .fattr = EPS,
     .chain = 100,
     .ref = ref_batchnorm},
    {IV_OP_BATCHNORM,
     3,
     3,
     {S(4, 3, 5), S(3), S(3)},
     "nnn",
     .fattr = EPS,
     .chain = 100,
     .grains = 2,
     .ref = ref_batchnorm},
    {IV_OP_BATCHNORM,
     3,
     3,
     {S(70, 3), S(3), S(3)},
     "nnn",
     .fattr = EPS,
     .chain = 100,
     .ref = ref_batchnorm},
    {IV_OP_BATCHNORM,
     3,
     3,
     {S(8, 65), S(65), S(65)},
     "nnn",
     .fattr = EPS,
     .chain = 400,
     .grains = 2,
     .ref = ref_batchnorm},
    {IV_OP_EMBEDDING, 2, 1, {S(7, 5), S(9)}, "ni", .ref = ref_embedding},
    {IV_OP_EMBEDDING, 2, 1, {S(20, 67), S(3, 11)}, "ni", .ref = ref_embedding},
    {IV_OP_ATTENTION,
     3,
     2,
     {S(2, 5, 6), S(2, 5, 6), S(2, 5, 6)},
     "nnn",
     {2, 1},
     {0.6},
     .chain = 40,
     .low_roundings = 2,
     .ref = ref_attention},
    {IV_OP_ATTENTION,
     3,
     2,
     {S(2, 5, 6), S(2, 8, 6), S(2, 8, 6)},
     "nnn",
     {3, 0},
     {0.6},
     .chain = 40,
     .low_roundings = 2,
     .ref = ref_attention},
    {IV_OP_ATTENTION,
     3,
     2,
     {S(1, 4, 8), S(1, 9, 8), S(1, 9, 8)},
     "nnn",
     {2, 1},
     {0.5},
     .chain = 40,
     .low_roundings = 2,
     .ref = ref_attention},
    {IV_OP_ATTENTION,
     3,
     2,
     {S(2, 70, 8), S(2, 70, 8), S(2, 70, 8)},
     "nnn",
     {2, 1},
     {0.5},
     .chain = 80,
     .low_roundings = 2,
     .ref = ref_attention},
    {IV_OP_ATTENTION,
     3,
     2,
     {S(1, 66, 5), S(1, 131, 5), S(1, 131, 5)},
     "nnn",
     {1, 0},
     {0.4},
     .chain = 150,
     .low_roundings = 2,
     .ref = ref_attention},
    {IV_OP_CONV2D,
     2,
     1,
     {S(2, 4, 6, 5), S(6, 2, 3, 3)},
     "nn",
     WINDOW(1, 1, 1, 1, 2, 0, 0),
     .chain = 18,
     .ref = ref_conv2d},
    {IV_OP_CONV2D,
     3,
     1,
     {S(2, 3, 7, 9), S(4, 3, 3, 2), S(4)},
     "nnn",
     WINDOW(2, 3, 1, 0, 1, 0, 0),
     .chain = 19,
     .ref = ref_conv2d},
    {IV_OP_CONV2D,
     3,
     1,
     {S(3, 5, 4, 4), S(6, 5, 1, 1), S(6)},
     "nnn",
     WINDOW(1, 1, 0, 0, 1, 0, 0),
     .chain = 6,
     .ref = ref_conv2d},
    {IV_OP_CONV2D,
     2,
     1,
     {S(2, 3, 12, 11), S(66, 3, 3, 3)},
     "nn",
     WINDOW(1, 1, 1, 1, 1, 0, 0),
     .chain = 27,
     .ref = ref_conv2d},
    {IV_OP_CONV2D,
     2,
     1,
     {S(2, 4, 5, 5), S(4, 1, 3, 3)},
     "nn",
     WINDOW(2, 2, 2, 1, 4, 0, 0),
     .chain = 9,
     .ref = ref_conv2d,
     .note = "depthwise"},
    {IV_OP_MAX_POOL2D, 1, 2, {S(2, 3, 7, 8)}, "d", WINDOW(2, 2, 1, 1, 1, 3, 2), .ref = ref_pool},
    {IV_OP_MAX_POOL2D, 1, 2, {S(1, 5, 13, 9)}, "d", WINDOW(1, 2, 0, 1, 1, 2, 3), .ref = ref_pool},
    {IV_OP_AVG_POOL2D,
     1,
     1,
     {S(2, 3, 7, 8)},
     "n",
     WINDOW(2, 2, 1, 1, 1, 3, 2),
     .chain = 7,
     .ref = ref_pool},
    {IV_OP_AVG_POOL2D,
     1,
     1,
     {S(1, 5, 13, 9)},
     "n",
     WINDOW(1, 2, 0, 1, 1, 2, 3),
     .chain = 7,
     .ref = ref_pool},
    {IV_OP_DROPOUT,
     1,
     1,
     {S(8, 131)},
     "n",
     {IV__STREAM_DROPOUT + (9 << 8)},
     {0.3, 1 / 0.7},
     .chain = 2,
     .ref = ref_dropout},
    {IV_OP_CAST, 1, 1, {S(5, 67)}, "n", .to = IV_F64, .ref = ref_cast},
    {IV_OP_CAST, 1, 1, {S(5, 67)}, "n", .to = IV_F32, .ref = ref_cast, .forward_only = true},
    {IV_OP_CAST, 1, 1, {S(5, 67)}, "n", .to = IV_BF16, .ref = ref_cast, .forward_only = true},
    {IV_OP_CAST, 1, 1, {S(5, 67)}, "n", .to = IV_F16, .ref = ref_cast, .forward_only = true},
};

/* What the operands of element-wise operators hold where not "nn", and roundings: exp, tanh, erf
 * cost up to 2 ulp and what is around them a few more; pow has exp(y log x) with |y log x| < 1.4.
 */
static const struct {
    iv__op op;
    char fill[3];
} elem_fill[] = {
    {IV_OP_DIV, "nq"},  {IV_OP_POW, "pn"},  {IV_OP_MAXIMUM, "dh"}, {IV_OP_MINIMUM, "hd"},
    {IV_OP_ABS, "k"},   {IV_OP_RELU, "k"},  {IV_OP_LOG, "p"},      {IV_OP_SQRT, "p"},
    {IV_OP_RSQRT, "p"}, {IV_OP_E4M3, "np"}, {IV_OP_E5M2, "np"},    {IV_OP_INT8, "np"},
    {IV_OP_NF4, "np"},  {IV_OP_EQ, "rr"},   {IV_OP_TIE, "rr"},     {IV_OP_SIGN, "r"}};
enum { ELEM_CHAIN = 16 };
static const iv_shape elem_shapes[][2] = {
    {S(2, 3, 65), S(2, 3, 65)}, {S(3, 65), S(65)},      {S(3, 1), S(1, 65)},  {S(2, 3, 5), S(3, 1)},
    {S(4), IV_SCALAR},          {S(9, 131), S(9, 131)}, {S(63), S(2, 1, 63)},
};

enum { MOST_CASES = 512 };
static op_case cases[MOST_CASES];
static int n_cases;

static inline void add_elem(iv__op op)
{
    bool two = iv__ops[op].n_in == 2;
    for (int64_t s = 0; s < IV_COUNT(elem_shapes); ++s) {
        if (!two && s != 0 && s != 4 && s != 5) continue;
        op_case *c = &cases[n_cases++];
        *c = (op_case){.op = op,
                       .n_in = two ? 2 : 1,
                       .n_check = 1,
                       .in = {elem_shapes[s][0], elem_shapes[s][1]},
                       .fill = "nn",
                       .fattr = {0.75},
                       .chain = ELEM_CHAIN,
                       .ref = ref_elem};
        for (int64_t i = 0; i < IV_COUNT(elem_fill); ++i)
            if (elem_fill[i].op == op) snprintf(c->fill, sizeof(c->fill), "%s", elem_fill[i].fill);
    }
}

static inline void make_cases(void)
{
    if (n_cases) return;
    for (int64_t i = 0; i < IV_COUNT(table); ++i) cases[n_cases++] = table[i];
    for (int op = 0; op < IV_OP_COUNT; ++op)
        if (iv__ops[op].elementwise && op != IV_OP_CAST && op != IV_OP_DROPOUT)
            add_elem((iv__op)op);
}

/* ---- a case as a graph ---- */

typedef enum view { V_PLAIN, V_SLICED, V_TURNED, V_SPREAD, V_COUNT } view;
static const char *const view_names[V_COUNT] = {"as it is", "sliced", "transposed", "broadcast"};

typedef struct built {
    const op_case *c;
    view view;
    iv_value base[4], in[4], y,
        w; /* inputs of the graph; of the operator; its output; its weights in the loss */
    tensor logical[4]; /* what the operator sees */
    tensor data[4];    /* what base holds */
    iv_shape out[4];
    double *weights;
    char name[160];
} built;

/* Every fourth number is one of these, where `wild`: 0, denormals of f16 and f32, far ends. */
static inline double extreme(uint64_t *state, double x)
{
    static const double far[] = {0,          0x1p-24,  0x1.8p-16, 0x1p-60, 0x1p-126,
                                 0x1.4p-130, 0x1p-149, 0x1p-1040, 0x1p12,  0x1.fp-14};
    uint64_t k = next_bits(state);
    return k % 4 ? x : copysign(far[k / 4 % (uint64_t)IV_COUNT(far)], x);
}

static inline void fill_input(const op_case *c, int32_t i, const op_policy *p, bool wild, tensor *t)
{
    uint64_t state = (uint64_t)(c - cases) * 977 + (uint64_t)i;
    char kind = c->fill[i];
    int64_t n = count(t), shift = (int64_t)(next_bits(&state) % 251);
    t->x = malloc((size_t)n * sizeof(double));
    assert_non_null(t->x);
    for (int64_t e = 0; e < n; ++e) {
        double sign = next_bits(&state) & 1 ? 1 : -1, x = 0;
        if (kind == 'n') x = next_in(&state, -2, 2);
        if (kind == 'p') x = next_in(&state, 0.5, 2);
        if (kind == 'k') x = sign * next_in(&state, 0.1, 2);
        if (kind == 'q') x = sign * next_in(&state, 0.5, 2);
        if (wild) x = extreme(&state, x);
        if (kind == 'd' || kind == 'h')
            x = ((double)((e * 37 + shift) % 251) - 125) / 16 + (kind == 'h') / 32.0;
        if (kind == 'r') x = (double)(next_bits(&state) % 3) - 1;
        if (kind == 'i') x = (double)(next_bits(&state) % (uint64_t)c->in[0].dim[0]);
        if (kind == 't')
            x = e % 4 == 2
                    ? -1
                    : (double)(next_bits(&state) % (uint64_t)c->in[0].dim[c->in[0].rank - 1]);
        t->x[e] = rounded(p->low, x);
    }
}

/* Whether input i can come as the view; others come as they are. */
static inline bool can_view(const built *b, int32_t i)
{
    const iv_shape *s = &b->c->in[i];
    bool whole = b->c->fill[i] == 'i' || b->c->fill[i] == 't';
    if (b->view == V_SLICED) return s->rank >= 1;
    if (b->view == V_TURNED) return s->rank >= 2;
    return b->view == V_SPREAD && s->rank >= 1 && !whole;
}

static inline iv_shape base_shape(const built *b, int32_t i)
{
    iv_shape s = b->c->in[i];
    if (!can_view(b, i)) return s;
    int64_t *end = &s.dim[s.rank - 1], t = *end;
    if (b->view == V_SLICED) *end += 3;
    if (b->view == V_SPREAD) *end = 1;
    if (b->view == V_TURNED) {
        *end = end[-1];
        end[-1] = t;
    }
    return s;
}

/* Where element e of input i lies in its base. */
static inline int64_t base_index(const built *b, int32_t i, int64_t e)
{
    const iv_shape *s = &b->c->in[i];
    if (!can_view(b, i)) return e;
    int64_t n = s->dim[s->rank - 1], m = s->rank > 1 ? s->dim[s->rank - 2] : 1;
    if (b->view == V_SLICED) return e / n * (n + 3) + 2 + e % n;
    if (b->view == V_SPREAD) return e / n;
    return e / (m * n) * (m * n) + e % n * m + e / n % m;
}

static inline iv_value add_view(iv_graph *g, const built *b, int32_t i)
{
    const iv_shape *s = &b->c->in[i];
    int32_t axes[IV_MAX_RANK] = {0, 1, 2, 3, 4, 5};
    if (!can_view(b, i)) return b->base[i];
    if (b->view == V_SLICED) return iv_slice(g, b->base[i], -1, 2, s->dim[s->rank - 1]);
    if (b->view == V_SPREAD) return iv_broadcast(g, b->base[i], *s);
    axes[s->rank - 1] = s->rank - 2;
    axes[s->rank - 2] = s->rank - 1;
    return iv_transpose(g, b->base[i], axes);
}

/* Makes the data of input i, and the input. */
static inline void add_input(rig *r, built *b, int32_t i)
{
    char name[8];
    bool ints = b->c->fill[i] == 'i' || b->c->fill[i] == 't';
    b->logical[i].s = b->c->in[i];
    b->data[i].s = base_shape(b, i);
    fill_input(b->c, i, r->policy, r->wild, &b->logical[i]);
    b->data[i].x = malloc((size_t)count(&b->data[i]) * sizeof(double));
    assert_non_null(b->data[i].x);
    for (int64_t e = 0; e < count(&b->data[i]); ++e) b->data[i].x[e] = ints ? 0 : (double)NAN;
    for (int64_t e = 0; e < count(&b->logical[i]); ++e)
        b->data[i].x[base_index(b, i, e)] = b->logical[i].x[e];
    for (int64_t e = 0; e < count(&b->logical[i]); ++e)
        b->logical[i].x[e] = b->data[i].x[base_index(b, i, e)];
    snprintf(name, sizeof(name), "x%d", i);
    if (r->params && !ints)
        b->base[i] = iv_param(r->g, name, b->data[i].s, (iv_init){IV_INIT_ZEROS, 0});
    else b->base[i] = iv_input(r->g, name, ints ? IV_I32 : IV_F32, b->data[i].s);
    b->in[i] = add_view(r->g, b, i);
}

/* Appends the case's nodes; its outputs become outputs "y", "y1", ... */
static inline void build_case(rig *r, const op_case *c, view v, built *b)
{
    char name[8];
    *b = (built){.c = c, .view = v, .w = {-1}};
    snprintf(b->name, sizeof(b->name), "case %d: %s %s, inputs %s, %s", (int)(c - cases),
             iv__ops[c->op].name, c->note ? c->note : "", view_names[v], r->policy->name);
    for (int32_t i = 0; i < c->n_in; ++i) add_input(r, b, i);
    b->y = c->op == IV_OP_CAST ? iv_cast(r->g, b->in[0], c->to)
                               : iv__node_add(r->g, c->op, b->in, c->n_in, c->attr, c->fattr);
    if (b->y.id < 0) fail_msg("%s: %s", b->name, r->g->error);
    for (int32_t k = 0; k < iv__ops[c->op].n_out; ++k) {
        iv_value y = iv__value_output(r->g, b->y, k);
        b->out[k] = iv_value_shape(r->g, y);
        snprintf(name, sizeof(name), "y%.0d", k);
        iv_graph_set_output(r->g, name, y);
    }
}

/* loss = sum(y w) with fixed weights, differentiated; gradients of the inputs become "d0", ... */
static inline void add_loss(rig *r, built *b)
{
    uint64_t state = 4711;
    int64_t n = iv_shape_count(&b->out[0]);
    b->weights = malloc((size_t)n * sizeof(double));
    assert_non_null(b->weights);
    for (int64_t i = 0; i < n; ++i) b->weights[i] = rounded(r->policy->low, next_in(&state, -1, 1));
    b->w = iv_input(r->g, "w", IV_F32, b->out[0]);
    iv_graph_set_loss(r->g, iv_sum(r->g, iv_mul(r->g, b->y, b->w), 0, false));
    rig_differentiate(r, b->base, b->c->n_in);
}

static inline void write_case(rig *r, const built *b)
{
    for (int32_t i = 0; i < b->c->n_in; ++i) rig_write(r, b->base[i], b->data[i].x);
    if (b->w.id >= 0) rig_write(r, b->w, b->weights);
}

static inline void free_case(built *b)
{
    for (int32_t i = 0; i < 4; ++i) {
        free(b->logical[i].x);
        free(b->data[i].x);
    }
    free(b->weights);
}

static inline int64_t samples_of(const built *b)
{
    return b->out[0].rank ? b->out[0].dim[0] : 1;
}

#undef S
#undef EPS
#undef WINDOW
#endif
