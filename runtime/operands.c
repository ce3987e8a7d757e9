/* operands.c: rounds operands of matrix products to formats of few bits (iv_format).
 *
 * A rounded operand is made of ordinary element-wise operators (kernels/elem.def has one for each
 * format), so it is the same on every device, and differentiation is over by then: a gradient goes
 * through the rounding as if it were not there, to the parameters as they are kept.
 *
 *   8-bit floats   both operands of a product with a parameter, and of those of its gradient.
 *                  Scales are powers of two, so dividing by them is exact, and sums of products are
 *                  the same however a step is cut.  Each tensor is rounded once, whoever uses it;
 *                  of each the largest magnitude is kept for the scales of the next step.
 *   int8, nf4      the parameter only, by rows or blocks of what it multiplies */
#include "cast.h"

enum { ROUNDED = IV_DTYPE_COUNT, BLOCK = 64 };

/* ---- nodes ---- */

static iv_status node1(iv__caster *c, iv__op op, int32_t a, const int64_t *attr, iv_dtype t,
                       iv_shape s, const char *name, int32_t *out)
{
    iv__node n = {.op = op, .n_in = 1, .n_out = 1, .in = {a}};
    if (attr) memcpy(n.attr, attr, sizeof(n.attr));
    return iv__cast_append(c, &n, t, s, name, out);
}

/* op(a, b) in the full type and shape of a, then in type t. */
static iv_status round_by(iv__caster *c, iv__op op, int32_t a, int32_t b, iv_dtype t,
                          const char *name, int32_t *out)
{
    iv__node n = {.op = op, .n_in = 2, .n_out = 1, .in = {a, b}};
    int32_t wide;
    iv_shape s = c->g->values[a].shape;
    IV_TRY(iv__cast_append(c, &n, c->full, s, name, &wide));
    return node1(c, IV_OP_CAST, wide, NULL, t, s, name, out);
}

static iv_status reshape(iv__caster *c, int32_t v, iv_shape s, const char *name, int32_t *out)
{
    int64_t attr[12] = {s.rank};
    for (int32_t i = 0; i < s.rank; ++i) attr[1 + i] = s.dim[i];
    return node1(c, IV_OP_RESHAPE, v, attr, c->g->values[v].dtype, s, name, out);
}

/* The largest magnitude along the axes of the mask, which stay as 1 or go. */
static iv_status largest(iv__caster *c, int32_t v, int64_t mask, bool keep, const char *name,
                         int32_t *out)
{
    iv_shape from = c->g->values[v].shape, s = {0};
    int32_t size;
    for (int32_t i = 0; i < from.rank; ++i)
        if (!(mask >> i & 1)) s.dim[s.rank++] = from.dim[i];
        else if (keep) s.dim[s.rank++] = 1;
    IV_TRY(node1(c, IV_OP_ABS, v, NULL, c->full, from, name, &size));
    return node1(c, IV_OP_MAX, size, (int64_t[12]){mask, keep}, c->full, s, name, out);
}

/* ---- 8-bit floats ---- */

static bool is_view(const iv__node *n)
{
    return n && (n->op == IV_OP_RESHAPE || n->op == IV_OP_TRANSPOSE);
}

/* What v is a view of. */
static int32_t root_of(const iv__caster *c, int32_t v)
{
    while (is_view(iv__cast_maker(c, v))) v = iv__cast_maker(c, v)->in[0];
    return v;
}

static bool is_param(const iv__caster *c, int32_t v)
{
    return c->g->values[root_of(c, v)].role == IV_ROLE_PARAM;
}

/* The largest magnitude of a tensor: of its rows, then of these. */
static iv_status measure(iv__caster *c, int32_t v, const char *name, int32_t *out)
{
    int32_t rows, rank = c->g->values[v].shape.rank;
    if (!c->g->differentiated) return IV_OK;
    IV_TRY(largest(c, v, 1 << (rank - 1), false, name, &rows));
    *out = rows;
    if (rank == 1) return IV_OK;
    return node1(c, IV_OP_MAX, rows, (int64_t[12]){(1 << (rank - 1)) - 1, false}, c->full,
                 IV_SCALAR, name, out);
}

/* The scale of a new tensor. */
static iv_status new_scale(iv__caster *c, int32_t v, bool gradient, int32_t *out)
{
    iv_graph *g = c->g;
    iv__scaled t = {.amax = -1, .gradient = gradient};
    const char *name = iv__graph_name(g, "%s:scale", g->values[v].name);
    if (g->scales < 0) g->scales = iv_input(g, "operand_scales", IV_F32, IV_SHAPE(1)).id;
    if (g->scales < 0) return g->status;
    IV_TRY(iv__reserve(&g->scaled, &g->cap_scaled, g->n_scaled + 1, sizeof(t), "scales"));
    IV_TRY(measure(c, v, name, &t.amax));
    IV_TRY(node1(c, IV_OP_SLICE, g->scales, (int64_t[12]){0, g->n_scaled, 1}, IV_F32, IV_SHAPE(1),
                 name, out));
    g->scaled[g->n_scaled++] = t;
    g->values[g->scales].shape.dim[0] = g->n_scaled;
    return IV_OK;
}

/* v as an 8-bit float; a view of a tensor is the view of the rounded one. */
static iv_status round_float8(iv__caster *c, int32_t v, bool gradient, int32_t *out)
{
    IV_TRY(iv__cast_room(c));
    if (c->casts[v][ROUNDED]) {
        *out = c->casts[v][ROUNDED] - 1;
        return IV_OK;
    }
    const char *name =
        iv__graph_name(c->g, "%s:%s", c->g->values[v].name, gradient ? "e5m2" : "e4m3");
    int32_t base, scale;
    if (is_view(iv__cast_maker(c, v))) {
        iv__node view = *iv__cast_maker(c, v);
        IV_TRY(round_float8(c, view.in[0], gradient, &base));
        view.in[0] = base;
        IV_TRY(iv__cast_append(c, &view, IV_BF16, c->g->values[v].shape, name, out));
    } else {
        IV_TRY(new_scale(c, v, gradient, &scale));
        IV_TRY(round_by(c, gradient ? IV_OP_E5M2 : IV_OP_E4M3, v, scale, IV_BF16, name, out));
    }
    IV_TRY(iv__cast_room(c));
    c->casts[v][ROUNDED] = *out + 1;
    return IV_OK;
}

static bool is_rounded(const iv__caster *c, int32_t v)
{
    return c->casts[root_of(c, v)][ROUNDED] != 0;
}

/* Products with a parameter, and those of its gradient: there one operand has been rounded in the
 * forward pass, and the other one or the result belongs to the parameter. */
static bool takes_float8(const iv__caster *c, const iv__node *n)
{
    int32_t a = n->in[0], b = n->in[1];
    if (!n->backward) return is_param(c, a) || is_param(c, b);
    bool ra = is_rounded(c, a), rb = is_rounded(c, b);
    return (ra && is_param(c, a)) || (rb && is_param(c, b)) ||
           ((ra || rb) && c->g->values[n->out[0]].full);
}

/* Whether an operand was made by the backward pass. */
static bool is_gradient(const iv__caster *c, int32_t v)
{
    const iv__node *n = iv__cast_maker(c, root_of(c, v));
    return n && n->backward;
}

/* ---- int8 and nf4 ---- */

/* The axis of parameter input i over which the product sums. */
static int32_t summed_axis(const iv__node *n, int32_t i)
{
    return i == 1 ? n->attr[IV_A_TB] != 0 : n->attr[IV_A_TA] == 0;
}

static iv_status round_int8(iv__caster *c, int32_t v, int32_t axis, const char *name, int32_t *out)
{
    int32_t most;
    IV_TRY(largest(c, v, 1 << axis, true, name, &most));
    return round_by(c, IV_OP_INT8, v, most, c->low, name, out);
}

static iv_status turn(iv__caster *c, int32_t v, const char *name, int32_t *out)
{
    iv_shape s = c->g->values[v].shape;
    return node1(c, IV_OP_TRANSPOSE, v, (int64_t[12]){1, 0}, c->g->values[v].dtype,
                 IV_SHAPE(s.dim[1], s.dim[0]), name, out);
}

/* Blocks of 64 of the matrix [outputs, inputs], row behind row; the last may be padded. */
static iv_status round_nf4(iv__caster *c, int32_t v, int32_t axis, const char *name, int32_t *out)
{
    iv_shape s = c->g->values[v].shape;
    int64_t n = iv_shape_count(&s), padded = (n + BLOCK - 1) / BLOCK * BLOCK;
    iv_shape rows = axis == 1 ? s : IV_SHAPE(s.dim[1], s.dim[0]);
    int32_t x = v, most;
    if (axis == 0) IV_TRY(turn(c, x, name, &x));
    if (padded != n) {
        IV_TRY(reshape(c, x, IV_SHAPE(n), name, &x));
        IV_TRY(node1(c, IV_OP_PAD, x, (int64_t[12]){0, 0, padded}, c->g->values[v].dtype,
                     IV_SHAPE(padded), name, &x));
    }
    IV_TRY(reshape(c, x, IV_SHAPE(padded / BLOCK, BLOCK), name, &x));
    IV_TRY(largest(c, x, 2, true, name, &most));
    IV_TRY(round_by(c, IV_OP_NF4, x, most, c->low, name, &x));
    if (padded != n) {
        IV_TRY(reshape(c, x, IV_SHAPE(padded), name, &x));
        IV_TRY(node1(c, IV_OP_SLICE, x, (int64_t[12]){0, 0, n}, c->low, IV_SHAPE(n), name, &x));
    }
    IV_TRY(reshape(c, x, rows, name, &x));
    if (axis == 0) IV_TRY(turn(c, x, name, &x));
    *out = x;
    return IV_OK;
}

/* Parameter input i of a product.  The first one, that of the forward pass, tells how it lies. */
static iv_status round_weight(iv__caster *c, iv__node *n, int32_t i, iv_format format)
{
    int32_t v = n->in[i], out;
    IV_TRY(iv__cast_room(c));
    if (!c->casts[v][ROUNDED]) {
        bool int8 = format == IV_FORMAT_INT8;
        const char *name =
            iv__graph_name(c->g, "%s:%s", c->g->values[v].name, int8 ? "int8" : "nf4");
        IV_TRY((int8 ? round_int8 : round_nf4)(c, v, summed_axis(n, i), name, &out));
        IV_TRY(iv__cast_room(c));
        c->casts[v][ROUNDED] = out + 1;
    }
    n->in[i] = c->casts[v][ROUNDED] - 1;
    return IV_OK;
}

iv_status iv__operands_round(iv__caster *c, iv__node *n, bool *out_rounded, iv_dtype *out_type)
{
    iv_format format = (iv_format)c->precision->policy.operands;
    *out_rounded = false;
    *out_type = format == IV_FORMAT_FP8 ? IV_BF16 : c->low;
    if (format == IV_FORMAT_NONE || n->op != IV_OP_MATMUL) return IV_OK;
    IV_TRY(iv__cast_room(c));
    if (format == IV_FORMAT_FP8 && !takes_float8(c, n)) return IV_OK;
    for (int32_t i = 0; i < 2; ++i) {
        const iv__value *v = &c->g->values[n->in[i]];
        if (format == IV_FORMAT_FP8)
            IV_TRY(round_float8(c, n->in[i], is_gradient(c, n->in[i]), &n->in[i]));
        else if (v->role == IV_ROLE_PARAM && v->shape.rank == 2)
            IV_TRY(round_weight(c, n, i, format));
    }
    *out_rounded = format == IV_FORMAT_FP8;
    return IV_OK;
}
