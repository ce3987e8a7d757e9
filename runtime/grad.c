/* grad.c: reverse-mode differentiation, graph to graph.
 *
 * The nodes on a path from a parameter to the loss are visited backwards.  When a node's turn
 * comes, all uses of its output have contributed, so its gradient is complete; the node's gradient
 * function then contributes to its inputs (iv__gradient_add).  Contributions are added in the order
 * of the walk, which makes the sums the same on every device.
 *
 * Gradients of slices are kept aside as parts; where the parts tile the sliced tensor (q, k, v of
 * one projection), they are joined instead of padded and added. */
#include "grad.h"

typedef struct part {
    int32_t value, grad; /* of the sliced tensor; gradient of the slice */
    int64_t axis, start, length;
} part;

static _Thread_local struct {
    part *parts;
    int64_t n, cap;
} pending; /* parts whose tensor has not been visited yet; empty outside iv_graph_differentiate */

/* ---- helpers for the gradient functions ---- */

static iv_value in(const iv__node *n, int32_t i)
{
    return (iv_value){n->in[i]};
}

static iv_value out(const iv__node *n, int32_t i)
{
    return (iv_value){n->out[i]};
}

static iv_value dout(const iv_graph *g, const iv__node *n)
{
    return (iv_value){g->values[n->out[0]].grad};
}

static iv_value node2(iv_graph *g, iv__op op, iv_value a, iv_value b)
{
    return iv__node_add(g, op, (iv_value[]){a, b}, 2, NULL, NULL);
}

/* Sums d over the dimensions along which v was broadcast, to v's shape. */
static iv_value unbroadcast(iv_graph *g, int32_t v, iv_value d)
{
    iv_shape s = g->values[v].shape, ds = iv_value_shape(g, d);
    uint32_t axes = 0;
    for (int32_t i = 0; i < ds.rank; ++i) {
        int32_t k = i - (ds.rank - s.rank);
        if (k < 0 || (s.dim[k] == 1 && ds.dim[i] != 1)) axes |= 1u << i;
    }
    if (axes) d = iv_sum(g, d, axes, true);
    ds = iv_value_shape(g, d);
    return ds.rank == s.rank ? d : iv_reshape(g, d, s);
}

void iv__gradient_add(iv_graph *g, int32_t v, iv_value d)
{
    if (g->status != IV_OK || d.id < 0 || !iv_dtype_is_float(g->values[v].dtype)) return;
    d = unbroadcast(g, v, d);
    if (d.id < 0) return;
    /* A parameter's gradient, and each summand of it, keeps the full type under casting. */
    bool full = g->values[v].role == IV_ROLE_PARAM;
    g->values[d.id].full |= full;
    /* The gradient of samples is one per sample, also where it is a constant (of a bare sum). */
    if (!g->values[d.id].samples) g->values[d.id].samples = g->values[v].samples;
    int32_t old = g->values[v].grad;
    if (old >= 0) {
        d = iv_add(g, (iv_value){old}, d);
        if (d.id < 0) return;
        g->values[d.id].full |= full;
        if (!g->values[d.id].samples) g->values[d.id].samples = g->values[v].samples;
    }
    g->values[v].grad = d.id;
}

/* Keeps the gradient of a slice until the sliced tensor's turn. */
static iv_status add_part(int32_t v, iv_value d, int64_t axis, int64_t start, int64_t length)
{
    IV_TRY(iv__reserve(&pending.parts, &pending.cap, pending.n + 1, sizeof(part), "slices"));
    pending.parts[pending.n++] = (part){v, d.id, axis, start, length};
    return IV_OK;
}

/* Takes the parts of v out of the pending ones into parts[]; returns their number, -1 if too many.
 */
static int32_t take_parts(int32_t v, part *parts, int32_t most)
{
    int32_t n = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < pending.n; ++i) {
        if (pending.parts[i].value != v) pending.parts[kept++] = pending.parts[i];
        else if (n < most) parts[n++] = pending.parts[i];
        else return -1;
    }
    pending.n = kept;
    return n;
}

static bool parts_tile(part *p, int32_t n, int64_t size)
{
    for (int32_t i = 1; i < n; ++i) /* by start; n is small */
        for (int32_t j = i; j > 0 && p[j].start < p[j - 1].start; --j) {
            part t = p[j];
            p[j] = p[j - 1];
            p[j - 1] = t;
        }
    int64_t at = 0;
    for (int32_t i = 0; i < n; at += p[i++].length)
        if (p[i].axis != p[0].axis || p[i].start != at) return false;
    return at == size;
}

/* Adds the parts of v to its gradient: joined where they tile v, else padded with zeros. */
static iv_status resolve_parts(iv_graph *g, int32_t v)
{
    part parts[64];
    int32_t n = take_parts(v, parts, 64);
    if (n == 0) return IV_OK;
    if (n < 0) IV_FAIL(IV_UNSUPPORTED, "more than 64 slices of one tensor");
    int64_t size = g->values[v].shape.dim[parts[0].axis];
    if (n <= IV_NODE_INPUTS && parts_tile(parts, n, size)) {
        iv_value d[IV_NODE_INPUTS];
        for (int32_t i = 0; i < n; ++i) d[i].id = parts[i].grad;
        iv__gradient_add(g, v, iv_concat(g, d, n, (int32_t)parts[0].axis));
        return g->status;
    }
    for (int32_t i = 0; i < n; ++i) {
        int64_t attr[12] = {parts[i].axis, parts[i].start, g->values[v].shape.dim[parts[i].axis]};
        iv__gradient_add(g, v,
                         iv__node_add(g, IV_OP_PAD, &(iv_value){parts[i].grad}, 1, attr, NULL));
    }
    return g->status;
}

/* ---- gradient functions: n is (a copy of) a node whose output 0 has a gradient ---- */

#define GRAD(name) iv_status iv__grad_##name(iv_graph *g, const iv__node *n)
#define X in(n, 0)
#define Y out(n, 0)
#define DY dout(g, n)
#define TO(i, d) iv__gradient_add(g, n->in[i], (d))

GRAD(add)
{
    iv_value d = DY;
    TO(0, d);
    TO(1, d);
    return g->status;
}

GRAD(sub)
{
    iv_value d = DY;
    TO(0, d);
    TO(1, iv_neg(g, d));
    return g->status;
}

GRAD(mul)
{
    iv_value a = in(n, 0), b = in(n, 1), d = DY;
    TO(0, iv_mul(g, d, b));
    TO(1, iv_mul(g, d, a));
    return g->status;
}

GRAD(div)
{
    iv_value b = in(n, 1), y = Y, d = DY, q = iv_div(g, d, b);
    TO(0, q);
    TO(1, iv_neg(g, iv_mul(g, q, y)));
    return g->status;
}

GRAD(pow)
{
    iv_value a = in(n, 0), b = in(n, 1), y = Y, d = DY;
    TO(0, iv_mul(g, d, iv_mul(g, b, iv_pow(g, a, iv_add_scalar(g, b, -1)))));
    TO(1, iv_mul(g, d, iv_mul(g, y, iv_log(g, a))));
    return g->status;
}

/* A tie gives half to each side. */
static iv_status extremum(iv_graph *g, const iv__node *n, int32_t larger, int32_t smaller)
{
    iv_value d = DY, a = in(n, 0), b = in(n, 1);
    TO(larger, iv_mul(g, d, node2(g, IV_OP_TIE, a, b)));
    TO(smaller, iv_mul(g, d, node2(g, IV_OP_TIE, b, a)));
    return g->status;
}

GRAD(maximum)
{
    return extremum(g, n, 0, 1);
}

GRAD(minimum)
{
    return extremum(g, n, 1, 0);
}

GRAD(scale)
{
    TO(0, iv_scale(g, DY, n->fattr[0]));
    return g->status;
}

GRAD(pass)
{
    TO(0, DY);
    return g->status;
}

GRAD(neg)
{
    TO(0, iv_neg(g, DY));
    return g->status;
}

GRAD(abs)
{
    iv_value x = X, d = DY;
    TO(0, iv_mul(g, d, iv__node_add(g, IV_OP_SIGN, &x, 1, NULL, NULL)));
    return g->status;
}

#define BY_INPUT(name, OP)                                                                         \
    GRAD(name)                                                                                     \
    {                                                                                              \
        TO(0, node2(g, IV_OP_##OP, X, DY));                                                        \
        return g->status;                                                                          \
    }
#define BY_OUTPUT(name, OP)                                                                        \
    GRAD(name)                                                                                     \
    {                                                                                              \
        TO(0, node2(g, IV_OP_##OP, Y, DY));                                                        \
        return g->status;                                                                          \
    }
BY_INPUT(relu, RELU_GRAD)
BY_INPUT(gelu, GELU_GRAD)
BY_INPUT(gelu_tanh, GELU_TANH_GRAD)
BY_INPUT(silu, SILU_GRAD)
BY_OUTPUT(sigmoid, SIGMOID_GRAD)
BY_OUTPUT(tanh, TANH_GRAD)
BY_OUTPUT(exp, MUL)
BY_OUTPUT(softmax, SOFTMAX_GRAD)
BY_OUTPUT(log_softmax, LOG_SOFTMAX_GRAD)

GRAD(log)
{
    TO(0, iv_div(g, DY, X));
    return g->status;
}

GRAD(sqrt)
{
    TO(0, iv_scale(g, iv_div(g, DY, Y), 0.5));
    return g->status;
}

/* d x^-1/2 = -1/2 x^-3/2 = -1/2 y^3 */
GRAD(rsqrt)
{
    iv_value y = Y, d = DY;
    TO(0, iv_scale(g, iv_mul(g, d, iv_mul(g, y, iv_mul(g, y, y))), -0.5));
    return g->status;
}

GRAD(sin)
{
    iv_value x = X, d = DY;
    TO(0, iv_mul(g, d, iv_cos(g, x)));
    return g->status;
}

GRAD(cos)
{
    iv_value x = X, d = DY;
    TO(0, iv_neg(g, iv_mul(g, d, iv_sin(g, x))));
    return g->status;
}

/* The same stream gives the same mask. */
GRAD(dropout)
{
    iv_value d = DY;
    int64_t attr[12];
    double fattr[4];
    memcpy(attr, n->attr, sizeof(attr));
    memcpy(fattr, n->fattr, sizeof(fattr));
    TO(0, iv__node_add(g, IV_OP_DROPOUT, &d, 1, attr, fattr));
    return g->status;
}

GRAD(reshape)
{
    TO(0, iv_reshape(g, DY, g->values[n->in[0]].shape));
    return g->status;
}

GRAD(transpose)
{
    int32_t back[IV_MAX_RANK] = {0};
    for (int32_t i = 0; i < g->values[n->in[0]].shape.rank; ++i) back[n->attr[IV_A_AXES + i]] = i;
    TO(0, iv_transpose(g, DY, back));
    return g->status;
}

GRAD(slice)
{
    return add_part(n->in[0], DY, n->attr[IV_A_AXIS], n->attr[IV_A_START], n->attr[IV_A_LENGTH]);
}

GRAD(broadcast)
{
    TO(0, DY);
    return g->status;
}

GRAD(concat)
{
    int64_t at = 0, axis = n->attr[IV_A_AXIS];
    iv_value d = DY;
    for (int32_t i = 0; i < n->n_in; ++i) {
        int64_t length = g->values[n->in[i]].shape.dim[axis];
        iv__gradient_add(g, n->in[i], iv_slice(g, d, (int32_t)axis, at, length));
        at += length;
    }
    return g->status;
}

/* d with the reduced dimensions kept as 1, so that it broadcasts against the input. */
static iv_value kept(iv_graph *g, const iv__node *n, iv_value d)
{
    iv_shape s = g->values[n->in[0]].shape;
    for (int32_t i = 0; i < s.rank; ++i)
        if (n->attr[IV_A_MASK] >> i & 1) s.dim[i] = 1;
    return iv_reshape(g, d, s);
}

GRAD(sum)
{
    iv_shape s = g->values[n->in[0]].shape;
    TO(0, iv_broadcast(g, kept(g, n, DY), s));
    return g->status;
}

/* Elements equal to the maximum share its gradient. */
GRAD(max)
{
    iv_value x = X, y = kept(g, n, Y), d = kept(g, n, DY);
    uint32_t mask = (uint32_t)n->attr[IV_A_MASK];
    int32_t x_id = n->in[0];
    iv_value hit = node2(g, IV_OP_EQ, x, y);
    iv__gradient_add(g, x_id, iv_mul(g, hit, iv_div(g, d, iv_sum(g, hit, mask, true))));
    return g->status;
}

/* c = op(a) op(b).  With a shared 2-D b, the leading dimensions of a are rows. */
GRAD(matmul)
{
    iv_value a = in(n, 0), b = in(n, 1), d = DY;
    bool ta = n->attr[IV_A_TA], tb = n->attr[IV_A_TB];
    if (n->n_in == 3) TO(2, d);
    iv_shape sa = iv_value_shape(g, a), sd = iv_value_shape(g, d);
    if (sa.rank > 2 && iv_value_shape(g, b).rank == 2) {
        iv_value d2 = iv_reshape(g, d, IV_SHAPE(-1, sd.dim[sd.rank - 1]));
        iv_value a2 = iv_reshape(g, a, IV_SHAPE(-1, sa.dim[sa.rank - 1]));
        int32_t b_id = b.id, a_id = a.id;
        iv__gradient_add(g, a_id, iv_reshape(g, iv_matmul(g, d2, b, false, !tb), sa));
        iv__gradient_add(
            g, b_id, tb ? iv_matmul(g, d2, a2, true, false) : iv_matmul(g, a2, d2, true, false));
        return g->status;
    }
    iv__gradient_add(g, a.id, ta ? iv_matmul(g, b, d, tb, true) : iv_matmul(g, d, b, false, !tb));
    iv__gradient_add(g, b.id, tb ? iv_matmul(g, d, a, true, ta) : iv_matmul(g, a, d, !ta, false));
    return g->status;
}

GRAD(xent)
{
    iv_value io[4] = {in(n, 0), in(n, 1), out(n, 1), DY};
    TO(0, iv__node_add(g, IV_OP_XENT_GRAD, io, 4, n->attr, NULL));
    return g->status;
}

/* Norms: dx from (dy, x, w, statistics), dw and db from (dy, x, statistics). */
static iv_status norm(iv_graph *g, const iv__node *n, iv__op dx_op, iv__op dw_op)
{
    iv_value dx[5] = {DY, in(n, 0), in(n, 1)}, dw[4] = {DY, in(n, 0)};
    for (int32_t k = 1; k < n->n_out; ++k) dx[2 + k] = dw[1 + k] = out(n, k);
    iv__gradient_add(g, n->in[0], iv__node_add(g, dx_op, dx, 2 + n->n_out, NULL, n->fattr));
    iv_value w = iv__node_add(g, dw_op, dw, 1 + n->n_out, NULL, n->fattr);
    iv__gradient_add(g, n->in[1], w);
    if (n->n_in > 2) iv__gradient_add(g, n->in[2], iv__value_output(g, w, 1));
    return g->status;
}

GRAD(layernorm)
{
    return norm(g, n, IV_OP_LAYERNORM_GRAD, IV_OP_LAYERNORM_WGRAD);
}

GRAD(rmsnorm)
{
    return norm(g, n, IV_OP_RMSNORM_GRAD, IV_OP_RMSNORM_WGRAD);
}

GRAD(batchnorm)
{
    return norm(g, n, IV_OP_BATCHNORM_GRAD, IV_OP_BATCHNORM_WGRAD);
}

GRAD(embedding)
{
    iv_value d = DY, ids = in(n, 1);
    int64_t attr[12] = {g->values[n->in[0]].shape.dim[0]};
    TO(0, iv__node_add(g, IV_OP_EMBEDDING_GRAD, (iv_value[]){d, ids}, 2, attr, NULL));
    return g->status;
}

GRAD(attention)
{
    iv_value io[6] = {in(n, 0), in(n, 1), in(n, 2), out(n, 0), out(n, 1), DY};
    iv_value dq = iv__node_add(g, IV_OP_ATTENTION_GRAD, io, 6, n->attr, n->fattr);
    for (int32_t k = 0; k < 3; ++k) iv__gradient_add(g, n->in[k], iv__value_output(g, dq, k));
    return g->status;
}

/* attr of a node with IV_A_SRC set to two dimensions of v, from the third on. */
static void attr_with_src(const iv_graph *g, const iv__node *n, int32_t v, int64_t attr[12])
{
    memcpy(attr, n->attr, 12 * sizeof(*attr));
    for (int k = 0; k < 2; ++k) attr[IV_A_SRC + k] = g->values[v].shape.dim[2 + k];
}

GRAD(conv2d)
{
    iv_value d = DY, x = in(n, 0), w = in(n, 1);
    int64_t attr[12];
    if (n->n_in == 3) {
        iv_shape s = g->values[n->in[2]].shape; /* iv_sum may move values[] */
        TO(2, iv_reshape(g, iv_sum(g, d, 1 + 4 + 8, true), s));
    }
    attr_with_src(g, n, x.id, attr);
    iv__gradient_add(g, x.id,
                     iv__node_add(g, IV_OP_CONV2D_DGRAD, (iv_value[]){d, w}, 2, attr, NULL));
    attr_with_src(g, n, w.id, attr);
    iv__gradient_add(g, w.id,
                     iv__node_add(g, IV_OP_CONV2D_WGRAD, (iv_value[]){d, x}, 2, attr, NULL));
    return g->status;
}

GRAD(max_pool2d)
{
    int64_t attr[12];
    attr_with_src(g, n, n->in[0], attr);
    TO(0, iv__node_add(g, IV_OP_MAX_POOL2D_GRAD, (iv_value[]){DY, out(n, 1)}, 2, attr, NULL));
    return g->status;
}

GRAD(avg_pool2d)
{
    int64_t attr[12];
    iv_value d = DY;
    attr_with_src(g, n, n->in[0], attr);
    TO(0, iv__node_add(g, IV_OP_AVG_POOL2D_GRAD, &d, 1, attr, NULL));
    return g->status;
}

/* ---- the walk ---- */

/* Marks values that depend on a parameter (or float input, whose gradient tests read). */
static iv_status mark_wanted(const iv_graph *g, uint8_t *wanted)
{
    for (int64_t i = 0; i < g->n_values; ++i) {
        const iv__value *v = &g->values[i];
        wanted[i] =
            v->role == IV_ROLE_PARAM || (v->role == IV_ROLE_INPUT && iv_dtype_is_float(v->dtype) &&
                                         (int32_t)i != g->norm_input);
    }
    for (int64_t i = 0; i < g->n_nodes; ++i)
        for (int32_t a = 0; a < g->nodes[i].n_in; ++a)
            for (int32_t b = 0; wanted[g->nodes[i].in[a]] && b < g->nodes[i].n_out; ++b)
                wanted[g->nodes[i].out[b]] = 1;
    return IV_OK;
}

static iv_status walk(iv_graph *g, const uint8_t *wanted, int64_t n_forward)
{
    for (int64_t i = n_forward - 1; i >= 0 && g->status == IV_OK; --i) {
        iv__node n = g->nodes[i];
        bool needed = false;
        for (int32_t k = 0; k < n.n_in; ++k) needed |= wanted[n.in[k]];
        if (!needed) continue;
        IV_TRY(resolve_parts(g, n.out[0]));
        if (g->values[n.out[0]].grad < 0) continue;
        if (!iv__ops[n.op].grad)
            IV_FAIL(IV_UNSUPPORTED, "differentiating %s: %s has no gradient: %s", n.name,
                    iv__ops[n.op].name, iv__ops[n.op].no_grad);
        iv_graph_scope(g, NULL);
        snprintf(g->scope, sizeof(g->scope), "%s", n.name);
        IV_TRY(iv__ops[n.op].grad(g, &n));
    }
    for (int64_t i = 0; i < g->n_values && g->status == IV_OK; ++i)
        if (pending.n && g->values[i].node < 0) IV_TRY(resolve_parts(g, (int32_t)i));
    return iv_graph_status(g);
}

iv_status iv_graph_differentiate(iv_graph *g)
{
    IV_TRY(iv_graph_status(g));
    if (g->loss < 0)
        IV_FAIL(IV_INVALID, "differentiating: the graph has no loss (iv_graph_set_loss)");
    if (g->differentiated)
        IV_FAIL(IV_INVALID,
                "differentiating: done already [hint: a trainer does it, under its loss "
                "scale]");
    int64_t n_forward = g->n_nodes;
    uint8_t *wanted;
    IV_TRY(iv__calloc(g->n_values, 1, "marks", &wanted));
    iv_status s = mark_wanted(g, wanted);
    g->in_backward = true;
    iv_value seed = iv_input(g, "loss_scale", IV_F32, IV_SCALAR);
    g->seed = seed.id;
    if (s == IV_OK && seed.id >= 0) {
        iv_value d = iv_broadcast(g, seed, g->values[g->loss].shape);
        g->values[g->loss].grad = d.id;
        s = walk(g, wanted, n_forward);
    }
    if (s == IV_OK) s = iv_graph_status(g);
    free(pending.parts);
    memset(&pending, 0, sizeof(pending));
    free(wanted);
    g->in_backward = false;
    g->scope[0] = 0;
    g->differentiated = s == IV_OK;
    return s;
}

/* Makes the second summand of v's gradient, if it is a sum, the gradient of a value of its own. */
static bool split_one(iv_graph *g, int32_t v, int32_t k)
{
    int32_t made_by = g->values[v].grad < 0 ? -1 : g->values[g->values[v].grad].node;
    if (made_by < 0 || g->nodes[made_by].op != IV_OP_ADD) return false;
    int32_t first = g->nodes[made_by].in[0], second = g->nodes[made_by].in[1];
    if (!iv__shape_equal(&g->values[first].shape, &g->values[second].shape)) return false;
    const char *name = iv__graph_name(g, "%s+%05d", g->values[v].name, k);
    iv_value s =
        iv__value_add(g, IV_ROLE_PARAM, name, g->values[v].dtype, g->values[v].shape, (iv_init){0});
    if (s.id < 0) return false;
    g->values[s.id].summand_of = v + 1;
    g->values[s.id].grad = second;
    g->values[v].grad = first;
    g->values[first].full = g->values[second].full = true;
    return true;
}

iv_status iv__graph_split_gradients(iv_graph *g)
{
    int64_t n = g->n_values;
    for (int32_t v = 0; v < n; ++v) {
        if (g->values[v].role != IV_ROLE_PARAM) continue;
        for (int32_t k = 0; split_one(g, v, k);) ++k;
    }
    return iv_graph_status(g);
}

iv_value iv_graph_gradient(const iv_graph *g, iv_value of)
{
    return (iv_value){of.id >= 0 && of.id < g->n_values ? g->values[of.id].grad : -1};
}
