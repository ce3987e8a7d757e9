/* op.c: the table of operators (from ops.def and elem.def) and their shape rules.
 *
 * A rule checks its inputs and sets shape, element type and the dimension of the samples of the
 * outputs. The types here are those of the uncast graph; cast.c sets the final ones. */
#include "graph.h"
#include "grad.h"

#define IN(i) (&g->values[n->in[i]])
#define RULE(name) static iv_status infer_##name(iv_graph *g, iv__node *n, iv__value *out)

/* Both shapes in the text of a mismatch. */
static iv_status mismatch(const iv__value *a, const iv__value *b, const char *need)
{
    char ta[128], tb[128];
    IV_FAIL(IV_INVALID, "shapes %s and %s: %s", iv__shape_text(&a->shape, ta, sizeof(ta)),
            iv__shape_text(&b->shape, tb, sizeof(tb)), need);
}

static iv_status need_float(const iv__value *v)
{
    if (!iv_dtype_is_float(v->dtype))
        IV_FAIL(IV_INVALID, "needs a float input, got %s", iv_dtype_name(v->dtype));
    return IV_OK;
}

static iv_status need_rank(const iv__value *v, int32_t least, int32_t most)
{
    char t[128];
    if (v->shape.rank < least || v->shape.rank > most)
        IV_FAIL(IV_INVALID, "shape %s: needs %d to %d dimensions",
                iv__shape_text(&v->shape, t, sizeof(t)), least, most);
    return IV_OK;
}

/* Operators that take rows as they lie find the grains only where the samples come first. */
static iv_status need_samples_first(const iv_graph *g, const iv__value *v)
{
    char t[128];
    if (g->grains > 1 && v->samples > 1)
        IV_FAIL(IV_INVALID,
                "shape %s: the samples are dimension %d and would not be kept apart for the %lld "
                "grains [hint: iv_transpose them to the front, or --grains 1]",
                iv__shape_text(&v->shape, t, sizeof(t)), v->samples - 1, (long long)g->grains);
    return IV_OK;
}

static int64_t last_dim(const iv__value *v)
{
    return v->shape.rank ? v->shape.dim[v->shape.rank - 1] : 1;
}

static void like(iv__value *out, const iv__value *src)
{
    out->dtype = src->dtype;
    out->shape = src->shape;
    out->samples = src->samples;
}

RULE(same)
{
    IV_TRY(need_float(IN(0)));
    like(&out[0], IN(0));
    return IV_OK;
}

/* As input 1: gradients whose first input is dy and second x. */
RULE(second)
{
    if (iv_shape_count(&IN(0)->shape) != iv_shape_count(&IN(1)->shape))
        return mismatch(IN(0), IN(1), "must be equal");
    like(&out[0], IN(1));
    return IV_OK;
}

/* NumPy's broadcasting: aligned at the last dimension, sizes equal or 1. */
RULE(elementwise)
{
    like(&out[0], IN(0));
    IV_TRY(need_float(IN(0)));
    for (int32_t k = 1; k < n->n_in; ++k) {
        const iv__value *b = IN(k);
        IV_TRY(need_float(b));
        iv_shape a = out[0].shape, r = a.rank >= b->shape.rank ? a : b->shape;
        for (int32_t i = 1; i <= r.rank; ++i) {
            int64_t da = i <= a.rank ? a.dim[a.rank - i] : 1;
            int64_t db = i <= b->shape.rank ? b->shape.dim[b->shape.rank - i] : 1;
            if (da != db && da != 1 && db != 1)
                return mismatch(IN(0), b, "cannot be broadcast together");
            r.dim[r.rank - i] = da == 1 ? db : da;
        }
        /* The outer one, should an input vary with the samples along another dimension. */
        const int32_t sa = out[0].samples ? out[0].samples + r.rank - a.rank : INT8_MAX;
        const int32_t sb = b->samples ? b->samples + r.rank - b->shape.rank : INT8_MAX;
        out[0].samples = (int8_t)(IV_MIN2(sa, sb) == INT8_MAX ? 0 : IV_MIN2(sa, sb));
        out[0].shape = r;
        if (b->dtype == IV_F64) out[0].dtype = IV_F64;
    }
    return IV_OK;
}

RULE(elements)
{
    (void)g, (void)n, (void)out;
    IV_FAIL(IV_INTERNAL, "made by fusion only");
}

/* Where the samples of x are in shape s: the dimension that as many elements lie before.  Its rows
 * are in sample order whether it is cut finer or coarser; 0: they are mixed with what came before.
 */
static int8_t samples_after_reshape(const iv__value *x, const iv_shape *s)
{
    int64_t before = 1, passed = 1;
    for (int32_t i = 0; i + 1 < x->samples; ++i) before *= x->shape.dim[i];
    const bool one = x->shape.dim[x->samples - 1] == 1;
    int8_t found = 0; /* a dimension of 1 before the samples' is not theirs */
    for (int32_t i = 0; i < s->rank && passed <= before; passed *= s->dim[i++])
        if (passed == before && (!found || (!one && s->dim[found - 1] == 1)))
            found = (int8_t)(i + 1);
    return found;
}

RULE(reshape)
{
    /* The wanted shape waits in attr: rank, then the dimensions. */
    iv_shape s = {(int32_t)n->attr[0], {0}};
    int64_t count = iv_shape_count(&IN(0)->shape), known = 1, unknown = -1;
    for (int32_t i = 0; i < s.rank; ++i) {
        s.dim[i] = n->attr[1 + i];
        if (s.dim[i] == -1) unknown = i;
        else known *= s.dim[i];
    }
    if (unknown >= 0 && known > 0) s.dim[unknown] = count / known;
    char ta[128], tb[128];
    if (iv_shape_count(&s) != count)
        IV_FAIL(IV_INVALID, "reshaping %s to %s: the numbers of elements differ",
                iv__shape_text(&IN(0)->shape, ta, sizeof(ta)), iv__shape_text(&s, tb, sizeof(tb)));
    like(&out[0], IN(0));
    out[0].shape = s;
    out[0].samples = IN(0)->samples ? samples_after_reshape(IN(0), &s) : 0;
    if (IN(0)->samples && !out[0].samples) return need_samples_first(g, IN(0));
    return IV_OK;
}

RULE(transpose)
{
    const iv_shape *s = &IN(0)->shape;
    uint32_t seen = 0;
    like(&out[0], IN(0));
    for (int32_t i = 0; i < s->rank; ++i) {
        int64_t a = n->attr[IV_A_AXES + i];
        if (a < 0 || a >= s->rank || (seen >> a & 1))
            IV_FAIL(IV_INVALID, "axis %lld is not one of %d, each once", (long long)a, s->rank);
        seen |= 1u << a;
        out[0].shape.dim[i] = s->dim[a];
        if (a + 1 == IN(0)->samples) out[0].samples = (int8_t)(i + 1);
    }
    return IV_OK;
}

static iv_status check_axis(const iv__value *v, int64_t axis)
{
    char t[128];
    if (axis < 0 || axis >= v->shape.rank)
        IV_FAIL(IV_INVALID, "axis %lld of a tensor of shape %s", (long long)axis,
                iv__shape_text(&v->shape, t, sizeof(t)));
    return IV_OK;
}

RULE(slice)
{
    int64_t axis = n->attr[IV_A_AXIS], start = n->attr[IV_A_START], length = n->attr[IV_A_LENGTH];
    IV_TRY(check_axis(IN(0), axis));
    int64_t size = IN(0)->shape.dim[axis];
    if (start < 0 || length < 1 || start > size - length)
        IV_FAIL(IV_INVALID, "slice [%lld, %lld) of a dimension of %lld", (long long)start,
                (long long)(start + length), (long long)size);
    like(&out[0], IN(0));
    out[0].shape.dim[axis] = length;
    if (axis + 1 == IN(0)->samples) out[0].samples = 0;
    return IV_OK;
}

RULE(pad)
{
    like(&out[0], IN(0));
    out[0].shape.dim[n->attr[IV_A_AXIS]] = n->attr[IV_A_LENGTH];
    if (n->attr[IV_A_AXIS] + 1 == IN(0)->samples) out[0].samples = 0;
    return IV_OK;
}

RULE(broadcast)
{
    iv_shape s = {(int32_t)n->attr[0], {0}};
    const iv_shape *a = &IN(0)->shape;
    for (int32_t i = 0; i < s.rank; ++i) s.dim[i] = n->attr[1 + i];
    like(&out[0], IN(0));
    out[0].shape = s;
    for (int32_t i = 1; i <= a->rank; ++i)
        if (i > s.rank || (a->dim[a->rank - i] != 1 && a->dim[a->rank - i] != s.dim[s.rank - i]))
            return mismatch(IN(0), &out[0], "cannot be broadcast to the second");
    if (IN(0)->samples) out[0].samples = (int8_t)(IN(0)->samples + s.rank - a->rank);
    return IV_OK;
}

RULE(concat)
{
    int64_t axis = n->attr[IV_A_AXIS];
    IV_TRY(check_axis(IN(0), axis));
    like(&out[0], IN(0));
    for (int32_t k = 1; k < n->n_in; ++k) {
        for (int32_t i = 0; i < IN(0)->shape.rank; ++i)
            if (IN(k)->shape.rank != IN(0)->shape.rank ||
                (i != axis && IN(k)->shape.dim[i] != IN(0)->shape.dim[i]))
                return mismatch(IN(0), IN(k), "may differ in the joined dimension only");
        if (iv_dtype_is_float(IN(k)->dtype) != iv_dtype_is_float(IN(0)->dtype))
            IV_FAIL(IV_INVALID, "joining %s and %s", iv_dtype_name(IN(0)->dtype),
                    iv_dtype_name(IN(k)->dtype));
        out[0].shape.dim[axis] += IN(k)->shape.dim[axis];
        if (!out[0].samples) out[0].samples = IN(k)->samples;
    }
    if (axis + 1 == out[0].samples) out[0].samples = 0;
    return IV_OK;
}

RULE(reduce)
{
    IV_TRY(need_float(IN(0)));
    const iv_shape *a = &IN(0)->shape;
    int64_t mask = n->attr[IV_A_MASK];
    like(&out[0], IN(0));
    if (mask >> a->rank)
        IV_FAIL(IV_INVALID, "axes mask 0x%llx of a tensor of rank %d", (long long)mask, a->rank);
    out[0].shape.rank = 0;
    out[0].samples = 0;
    for (int32_t i = 0; i < a->rank; ++i) {
        const bool reduced = mask >> i & 1, samples = i + 1 == IN(0)->samples;
        if (!reduced || n->attr[IV_A_KEEP])
            out[0].shape.dim[out[0].shape.rank++] = reduced ? 1 : a->dim[i];
        if (samples && !reduced) out[0].samples = (int8_t)out[0].shape.rank;
        if (samples && reduced && n->op == IV_OP_SUM) {
            n->segments = true;
            n->attr[IV_A_FIRST] = i + 1;
        }
    }
    return IV_OK;
}

RULE(matmul)
{
    const iv__value *a = IN(0), *b = IN(1);
    IV_TRY(need_float(a));
    IV_TRY(need_float(b));
    if (a->shape.rank < 2 || b->shape.rank < 2)
        return mismatch(a, b, "a matrix product needs two dimensions each");
    bool ta = n->attr[IV_A_TA], tb = n->attr[IV_A_TB];
    int32_t ra = a->shape.rank, rb = b->shape.rank;
    int64_t m = a->shape.dim[ra - 2 + ta], k = a->shape.dim[ra - 1 - ta];
    int64_t kb = b->shape.dim[rb - 2 + tb], cols = b->shape.dim[rb - 1 - tb];
    if (k != kb) return mismatch(a, b, "the inner dimensions differ");
    if (rb != 2) {
        if (ra != rb) return mismatch(a, b, "the batch dimensions differ");
        for (int32_t i = 0; i < ra - 2; ++i)
            if (a->shape.dim[i] != b->shape.dim[i])
                return mismatch(a, b, "the batch dimensions differ");
    } else if (ra > 2 && ta) return mismatch(a, b, "a transposed batch needs a batch on the right");
    if (n->n_in == 3) IV_TRY(need_float(IN(2)));
    if (n->n_in == 3 && iv_shape_count(&IN(2)->shape) != cols)
        return mismatch(b, IN(2), "one bias per column");
    like(&out[0], a);
    out[0].shape.dim[ra - 2] = m;
    out[0].shape.dim[ra - 1] = cols;
    if (b->dtype == IV_F64) out[0].dtype = IV_F64;
    /* A contraction over the samples' dimension is a sum over samples. */
    n->segments = a->samples == ra - ta || b->samples == rb - 1 + tb;
    if (a->samples == ra - ta) out[0].samples = 0;
    if (a->samples == ra - 1 + ta) out[0].samples = (int8_t)(ra - 1);
    if (!out[0].samples && b->samples == rb - tb) out[0].samples = (int8_t)ra;
    if (!out[0].samples && b->samples < rb - 1) out[0].samples = b->samples;
    return IV_OK;
}

RULE(xent)
{
    const iv__value *x = IN(0), *t = IN(1);
    IV_TRY(need_float(x));
    IV_TRY(need_rank(x, 1, IV_MAX_RANK));
    if (t->dtype != IV_I32) IV_FAIL(IV_INVALID, "targets are i32, got %s", iv_dtype_name(t->dtype));
    if (iv_shape_count(&t->shape) * last_dim(x) != iv_shape_count(&x->shape))
        return mismatch(x, t, "logits are [..., classes], targets [...]");
    IV_TRY(need_samples_first(g, x));
    for (int k = 0; k < 2; ++k) {
        like(&out[k], x);
        out[k].shape = IV_SHAPE(iv_shape_count(&t->shape));
    }
    return IV_OK;
}

/* y as x, then one statistic per row. */
static void rows_stat(iv__value *out, const iv__value *x)
{
    like(out, x);
    out->shape = IV_SHAPE(iv_shape_count(&x->shape) / last_dim(x));
}

static iv_status norm_params(const iv__value *x, const iv__value *w, int64_t channels)
{
    IV_TRY(need_float(w));
    if (iv_shape_count(&w->shape) != channels) return mismatch(x, w, "one weight per channel");
    return IV_OK;
}

RULE(layernorm)
{
    IV_TRY(need_float(IN(0)));
    IV_TRY(need_rank(IN(0), 1, IV_MAX_RANK));
    IV_TRY(norm_params(IN(0), IN(1), last_dim(IN(0))));
    IV_TRY(norm_params(IN(0), IN(2), last_dim(IN(0))));
    IV_TRY(need_samples_first(g, IN(0)));
    like(&out[0], IN(0));
    rows_stat(&out[1], IN(0));
    rows_stat(&out[2], IN(0));
    return IV_OK;
}

RULE(rmsnorm)
{
    IV_TRY(need_float(IN(0)));
    IV_TRY(need_rank(IN(0), 1, IV_MAX_RANK));
    IV_TRY(norm_params(IN(0), IN(1), last_dim(IN(0))));
    IV_TRY(need_samples_first(g, IN(0)));
    like(&out[0], IN(0));
    rows_stat(&out[1], IN(0));
    return IV_OK;
}

RULE(norm_wgrad)
{
    for (int32_t k = 0; k < iv__ops[n->op].n_out; ++k) {
        out[k].dtype = IN(1)->dtype;
        out[k].shape = IV_SHAPE(last_dim(IN(1)));
    }
    n->segments = IN(1)->samples != 0;
    return IV_OK;
}

/* Statistics are per grain: [grains, channels].  Dimension 0 are the samples, whatever it was
 * before. */
RULE(batchnorm)
{
    IV_TRY(need_float(IN(0)));
    IV_TRY(need_rank(IN(0), 2, 4));
    for (int k = 1; k < 3; ++k) IV_TRY(norm_params(IN(0), IN(k), IN(0)->shape.dim[1]));
    if (IN(0)->shape.dim[0] % g->grains)
        IV_FAIL(IV_INVALID, "%lld samples do not divide into %lld grains",
                (long long)IN(0)->shape.dim[0], (long long)g->grains);
    like(&out[0], IN(0));
    for (int k = 1; k < 3; ++k) {
        out[k].dtype = IN(0)->dtype;
        out[k].shape = IV_SHAPE(g->grains, IN(0)->shape.dim[1]);
    }
    n->segments = true;
    return IV_OK;
}

RULE(batchnorm_wgrad)
{
    for (int k = 0; k < 2; ++k) {
        out[k].dtype = IN(1)->dtype;
        out[k].shape = IV_SHAPE(IN(1)->shape.dim[1]);
    }
    n->segments = true;
    return IV_OK;
}

RULE(grain_sum)
{
    IV_TRY(need_float(IN(0)));
    IV_TRY(need_rank(IN(0), 2, IV_MAX_RANK));
    (void)g, (void)n;
    out[0].dtype = IN(0)->dtype;
    out[0].shape.rank = IN(0)->shape.rank - 1;
    for (int32_t i = 1; i < IN(0)->shape.rank; ++i) out[0].shape.dim[i - 1] = IN(0)->shape.dim[i];
    return IV_OK;
}

RULE(embedding)
{
    const iv__value *w = IN(0), *ids = IN(1);
    IV_TRY(need_float(w));
    IV_TRY(need_rank(w, 2, 2));
    if (ids->dtype != IV_I32) IV_FAIL(IV_INVALID, "ids are i32, got %s", iv_dtype_name(ids->dtype));
    IV_TRY(need_rank(ids, 1, IV_MAX_RANK - 1));
    IV_TRY(need_samples_first(g, ids));
    like(&out[0], ids);
    out[0].dtype = w->dtype;
    out[0].shape.dim[out[0].shape.rank++] = w->shape.dim[1];
    return IV_OK;
}

RULE(embedding_grad)
{
    out[0].dtype = IN(0)->dtype;
    out[0].shape = IV_SHAPE(n->attr[IV_A_VOCAB], last_dim(IN(0)));
    n->segments = IN(0)->samples != 0;
    return IV_OK;
}

RULE(attention)
{
    const iv__value *q = IN(0), *k = IN(1), *v = IN(2);
    int64_t heads = n->attr[IV_A_HEADS];
    for (int32_t i = 0; i < 3; ++i) {
        IV_TRY(need_float(IN(i)));
        IV_TRY(need_rank(IN(i), 3, 3));
    }
    if (k->shape.dim[0] != q->shape.dim[0] || k->shape.dim[2] != q->shape.dim[2])
        return mismatch(q, k, "q and k differ in batch or width");
    if (!iv__shape_equal(&v->shape, &k->shape)) return mismatch(k, v, "k and v must be equal");
    if (heads < 1 || last_dim(q) % heads)
        IV_FAIL(IV_INVALID, "%lld heads do not divide a width of %lld", (long long)heads,
                (long long)last_dim(q));
    if (last_dim(q) / heads > 256)
        IV_FAIL(IV_INVALID, "heads of %lld: 256 at most", (long long)(last_dim(q) / heads));
    like(&out[0], q);
    like(&out[1], q);
    out[1].shape = IV_SHAPE(q->shape.dim[0], heads, q->shape.dim[1]);
    return IV_OK;
}

RULE(attention_grad)
{
    for (int32_t i = 0; i < 3; ++i) like(&out[i], IN(i));
    (void)n;
    return IV_OK;
}

/* Positions of a window along one axis. */
static iv_status window_count(int64_t size, int64_t window, int64_t stride, int64_t pad,
                              int64_t *out)
{
    if (stride < 1 || pad < 0 || window < 1 || window > size + 2 * pad)
        IV_FAIL(IV_INVALID, "a window of %lld with stride %lld and padding %lld over %lld",
                (long long)window, (long long)stride, (long long)pad, (long long)size);
    *out = (size + 2 * pad - window) / stride + 1;
    return IV_OK;
}

RULE(conv2d)
{
    const iv__value *x = IN(0), *w = IN(1);
    int64_t groups = n->attr[IV_A_GROUPS];
    IV_TRY(need_float(x));
    IV_TRY(need_float(w));
    IV_TRY(need_rank(x, 4, 4));
    IV_TRY(need_rank(w, 4, 4));
    if (groups < 1 || x->shape.dim[1] != w->shape.dim[1] * groups || w->shape.dim[0] % groups)
        return mismatch(x, w,
                        "channels and groups do not fit: x [N,C,H,W], weight [O,C/groups,KH,KW]");
    if (n->n_in == 3) IV_TRY(norm_params(w, IN(2), w->shape.dim[0]));
    IV_TRY(need_samples_first(g, x));
    like(&out[0], x);
    out[0].shape.dim[1] = w->shape.dim[0];
    for (int k = 0; k < 2; ++k)
        IV_TRY(window_count(x->shape.dim[2 + k], w->shape.dim[2 + k], n->attr[IV_A_STRIDE + k],
                            n->attr[IV_A_PAD + k], &out[0].shape.dim[2 + k]));
    return IV_OK;
}

RULE(conv2d_dgrad)
{
    like(&out[0], IN(0));
    out[0].shape.dim[1] = IN(1)->shape.dim[1] * n->attr[IV_A_GROUPS];
    for (int k = 0; k < 2; ++k) out[0].shape.dim[2 + k] = n->attr[IV_A_SRC + k];
    return IV_OK;
}

RULE(conv2d_wgrad)
{
    out[0].dtype = IN(0)->dtype;
    out[0].shape = IV_SHAPE(IN(0)->shape.dim[1], IN(1)->shape.dim[1] / n->attr[IV_A_GROUPS],
                            n->attr[IV_A_SRC], n->attr[IV_A_SRC + 1]);
    n->segments = IN(0)->samples != 0;
    return IV_OK;
}

RULE(pool2d)
{
    const iv__value *x = IN(0);
    IV_TRY(need_float(x));
    IV_TRY(need_rank(x, 4, 4));
    like(&out[0], x);
    for (int k = 0; k < 2; ++k) {
        if (n->attr[IV_A_PAD + k] * 2 > n->attr[IV_A_SIZE + k])
            IV_FAIL(IV_INVALID, "padding %lld is more than half of a window of %lld",
                    (long long)n->attr[IV_A_PAD + k], (long long)n->attr[IV_A_SIZE + k]);
        IV_TRY(window_count(x->shape.dim[2 + k], n->attr[IV_A_SIZE + k], n->attr[IV_A_STRIDE + k],
                            n->attr[IV_A_PAD + k], &out[0].shape.dim[2 + k]));
    }
    if (iv__ops[n->op].n_out == 2) {
        out[1] = out[0];
        out[1].dtype = IV_I32;
    }
    return IV_OK;
}

RULE(pool2d_grad)
{
    like(&out[0], IN(0));
    for (int k = 0; k < 2; ++k) out[0].shape.dim[2 + k] = n->attr[IV_A_SRC + k];
    return IV_OK;
}

#define G(fn) .grad = iv__grad_##fn
#define NO_GRAD(why) .no_grad = (why)
#define O(NAME, id, ins, outs, rule, gradient, cls, text)                                          \
    [IV_OP_##NAME] = {.name = #id,                                                                 \
                      .n_in = (ins),                                                               \
                      .n_out = (outs),                                                             \
                      .infer = infer_##rule,                                                       \
                      gradient,                                                                    \
                      .cast = IV_CAST_##cls,                                                       \
                      .elementwise = false,                                                        \
                      .help = (text)},
#define E(NAME, id, ins, expr, cls, gradient)                                                      \
    [IV_OP_##NAME] = {.name = #id,                                                                 \
                      .n_in = (ins),                                                               \
                      .n_out = 1,                                                                  \
                      .infer = infer_elementwise,                                                  \
                      gradient,                                                                    \
                      .cast = IV_CAST_##cls,                                                       \
                      .elementwise = true,                                                         \
                      .help = #expr},
const iv__op_info iv__ops[IV_OP_COUNT] = {
#include "../kernels/elem.def"
#include "ops.def"
};
