/* build.c: the operators of the public interface: each checks what the shape rules cannot see,
 * fills the attributes and appends nodes. */
#include "graph.h"
#include "rng.h"

static iv_value unary(iv_graph *g, iv__op op, iv_value a)
{
    return iv__node_add(g, op, &a, 1, NULL, NULL);
}

static iv_value binary(iv_graph *g, iv__op op, iv_value a, iv_value b)
{
    return iv__node_add(g, op, (iv_value[]){a, b}, 2, NULL, NULL);
}

#define UNARY(fn, OP)                                                                              \
    iv_value fn(iv_graph *g, iv_value a)                                                           \
    {                                                                                              \
        return unary(g, IV_OP_##OP, a);                                                            \
    }
#define BINARY(fn, OP)                                                                             \
    iv_value fn(iv_graph *g, iv_value a, iv_value b)                                               \
    {                                                                                              \
        return binary(g, IV_OP_##OP, a, b);                                                        \
    }
BINARY(iv_add, ADD)
BINARY(iv_sub, SUB)
BINARY(iv_mul, MUL)
BINARY(iv_div, DIV)
BINARY(iv_pow, POW)
BINARY(iv_maximum, MAXIMUM)
BINARY(iv_minimum, MINIMUM)
UNARY(iv_neg, NEG)
UNARY(iv_abs, ABS)
UNARY(iv_relu, RELU)
UNARY(iv_gelu, GELU)
UNARY(iv_gelu_tanh, GELU_TANH)
UNARY(iv_silu, SILU)
UNARY(iv_sigmoid, SIGMOID)
UNARY(iv_tanh, TANH)
UNARY(iv_exp, EXP)
UNARY(iv_log, LOG)
UNARY(iv_sqrt, SQRT)
UNARY(iv_rsqrt, RSQRT)
UNARY(iv_sin, SIN)
UNARY(iv_cos, COS)
UNARY(iv_softmax, SOFTMAX)
UNARY(iv_log_softmax, LOG_SOFTMAX)

iv_value iv_scale(iv_graph *g, iv_value a, double factor)
{
    return iv__node_add(g, IV_OP_SCALE, &a, 1, NULL, (double[4]){factor});
}

iv_value iv_add_scalar(iv_graph *g, iv_value a, double c)
{
    return iv__node_add(g, IV_OP_ADD_SCALAR, &a, 1, NULL, (double[4]){c});
}

iv_value iv_cast(iv_graph *g, iv_value a, iv_dtype to)
{
    if (g->status == IV_OK && !iv_dtype_is_float(to)) {
        iv__graph_fail(
            g, iv__fail(IV_INVALID, "to %s: casts are between float types", iv_dtype_name(to)),
            "cast");
        return (iv_value){-1};
    }
    iv_value v = unary(g, IV_OP_CAST, a);
    if (v.id >= 0) g->values[v.id].dtype = to;
    return v;
}

iv_value iv_dropout(iv_graph *g, iv_value a, double p)
{
    if (p == 0) return a;
    if (!(p > 0 && p < 1)) {
        iv__graph_fail(g, iv__fail(IV_INVALID, "probability %g is not in [0, 1)", p), "dropout");
        return (iv_value){-1};
    }
    /* The stream is the node's place in the graph: the same for every batch size and device. */
    int64_t stream = IV__STREAM_DROPOUT + (g->n_nodes << 8);
    return iv__node_add(g, IV_OP_DROPOUT, &a, 1, (int64_t[12]){stream},
                        (double[4]){p, 1 / (1 - p)});
}

/* A node with a wanted shape, which travels in attr: rank, then the dimensions. */
static iv_value to_shape(iv_graph *g, iv__op op, iv_value a, const iv_shape *s)
{
    int64_t attr[12] = {s->rank};
    if (s->rank < 0 || s->rank > IV_MAX_RANK) {
        iv__graph_fail(
            g,
            iv__fail(IV_INVALID, "a tensor of rank %d: 0 to %d are possible", s->rank, IV_MAX_RANK),
            iv__ops[op].name);
        return (iv_value){-1};
    }
    for (int32_t i = 0; i < s->rank; ++i) attr[1 + i] = s->dim[i];
    return iv__node_add(g, op, &a, 1, attr, NULL);
}

iv_value iv_reshape(iv_graph *g, iv_value a, iv_shape shape)
{
    return to_shape(g, IV_OP_RESHAPE, a, &shape);
}

iv_value iv_broadcast(iv_graph *g, iv_value a, iv_shape shape)
{
    return to_shape(g, IV_OP_BROADCAST, a, &shape);
}

/* Negative axes count from the end. */
static int64_t axis_of(const iv_graph *g, iv_value a, int64_t axis)
{
    return axis < 0 ? axis + iv_value_shape(g, a).rank : axis;
}

iv_value iv_transpose(iv_graph *g, iv_value a, const int32_t *axes)
{
    int64_t attr[12] = {0};
    for (int32_t i = 0; i < iv_value_shape(g, a).rank; ++i)
        attr[IV_A_AXES + i] = axis_of(g, a, axes[i]);
    return iv__node_add(g, IV_OP_TRANSPOSE, &a, 1, attr, NULL);
}

iv_value iv_slice(iv_graph *g, iv_value a, int32_t axis, int64_t start, int64_t length)
{
    return iv__node_add(g, IV_OP_SLICE, &a, 1, (int64_t[12]){axis_of(g, a, axis), start, length},
                        NULL);
}

iv_value iv_concat(iv_graph *g, const iv_value *v, int32_t n, int32_t axis)
{
    if (n < 1 || n > IV_NODE_INPUTS) {
        iv__graph_fail(g,
                       iv__fail(IV_INVALID, "%d inputs: 1 to %d are possible", n, IV_NODE_INPUTS),
                       "concat");
        return (iv_value){-1};
    }
    return iv__node_add(g, IV_OP_CONCAT, v, n, (int64_t[12]){axis_of(g, v[0], axis)}, NULL);
}

static iv_value reduce(iv_graph *g, iv__op op, iv_value a, uint32_t axes, bool keep)
{
    int64_t mask = axes ? axes : (1u << iv_value_shape(g, a).rank) - 1u;
    return iv__node_add(g, op, &a, 1, (int64_t[12]){mask, keep}, NULL);
}

iv_value iv_sum(iv_graph *g, iv_value a, uint32_t axes, bool keep)
{
    return reduce(g, IV_OP_SUM, a, axes, keep);
}

iv_value iv_max(iv_graph *g, iv_value a, uint32_t axes, bool keep)
{
    return reduce(g, IV_OP_MAX, a, axes, keep);
}

iv_value iv_mean(iv_graph *g, iv_value a, uint32_t axes, bool keep)
{
    iv_shape s = iv_value_shape(g, a);
    int64_t n = 1;
    for (int32_t i = 0; i < s.rank; ++i)
        if (!axes || (axes >> i & 1)) n *= s.dim[i];
    return iv_scale(g, reduce(g, IV_OP_SUM, a, axes, keep), 1.0 / (double)n);
}

iv_value iv_matmul(iv_graph *g, iv_value a, iv_value b, bool ta, bool tb)
{
    return iv__node_add(g, IV_OP_MATMUL, (iv_value[]){a, b}, 2, (int64_t[12]){ta, tb}, NULL);
}

iv_value iv_linear(iv_graph *g, iv_value x, iv_value weight, iv_value bias, bool tw)
{
    return iv__node_add(g, IV_OP_MATMUL, (iv_value[]){x, weight, bias}, 3, (int64_t[12]){false, tw},
                        NULL);
}

iv_value iv_cross_entropy_rows(iv_graph *g, iv_value logits, iv_value targets, int64_t ignore)
{
    return iv__node_add(g, IV_OP_XENT, (iv_value[]){logits, targets}, 2, (int64_t[12]){ignore},
                        NULL);
}

iv_value iv_cross_entropy(iv_graph *g, iv_value logits, iv_value targets, int64_t ignore)
{
    if (g->status != IV_OK || targets.id < 0) return (iv_value){-1};
    if (g->values[targets.id].role != IV_ROLE_INPUT || g->norm_input >= 0) {
        iv__graph_fail(g, iv__fail(IV_INVALID, "one per graph, and its targets must be an input"),
                       "cross_entropy");
        return (iv_value){-1};
    }
    iv_value rows = iv_cross_entropy_rows(g, logits, targets, ignore);
    iv_value norm = iv_input(g, "loss_norm", IV_F32, IV_SCALAR);
    g->norm_input = norm.id;
    g->norm_targets = targets.id;
    g->norm_ignore = ignore;
    /* Divided before the sum, so that the sums of passes add up to the sum of all. */
    return iv_sum(g, iv_div(g, rows, norm), 0, false);
}

iv_value iv_layernorm(iv_graph *g, iv_value x, iv_value weight, iv_value bias, double eps)
{
    return iv__node_add(g, IV_OP_LAYERNORM, (iv_value[]){x, weight, bias}, 3, NULL,
                        (double[4]){eps});
}

iv_value iv_rmsnorm(iv_graph *g, iv_value x, iv_value weight, double eps)
{
    return iv__node_add(g, IV_OP_RMSNORM, (iv_value[]){x, weight}, 2, NULL, (double[4]){eps});
}

/* [C] as [1, C, 1, ...] so that it broadcasts over x [N, C, ...]. */
static iv_value per_channel(iv_graph *g, iv_value v, int32_t rank)
{
    iv_shape s = {rank, {1, -1, 1, 1, 1, 1}};
    return iv_reshape(g, v, s);
}

/* The state follows the statistic of the grains (value `of`, [grains, C]) once per step. */
static void running_sum(iv_graph *g, iv_value state, iv_value of, double momentum)
{
    iv_value sum = iv__node_add(g, IV_OP_GRAIN_SUM, &of, 1, NULL, NULL);
    if (sum.id < 0 || state.id < 0) return;
    g->values[state.id].updates = sum.id;
    g->values[state.id].rate = momentum;
}

iv_value iv_batchnorm(iv_graph *g, iv_value x, iv_value weight, iv_value bias,
                      iv_value running_mean, iv_value running_var, double eps, double momentum,
                      bool train)
{
    int32_t rank = iv_value_shape(g, x).rank;
    if (!train) {
        iv_value scale = iv_mul(g, weight, iv_rsqrt(g, iv_add_scalar(g, running_var, eps)));
        iv_value centred = iv_sub(g, x, per_channel(g, running_mean, rank));
        return iv_add(g, iv_mul(g, centred, per_channel(g, scale, rank)),
                      per_channel(g, bias, rank));
    }
    iv_value y =
        iv__node_add(g, IV_OP_BATCHNORM, (iv_value[]){x, weight, bias}, 3, NULL, (double[4]){eps});
    running_sum(g, running_mean, iv__value_output(g, y, 1), momentum);
    running_sum(g, running_var, iv__value_output(g, y, 2), momentum);
    return y;
}

iv_value iv_embedding(iv_graph *g, iv_value weight, iv_value ids)
{
    return binary(g, IV_OP_EMBEDDING, weight, ids);
}

iv_value iv_attention(iv_graph *g, iv_value q, iv_value k, iv_value v, int64_t heads, bool causal,
                      double scale)
{
    iv_shape s = iv_value_shape(g, q);
    if (scale == 0 && s.rank == 3 && heads > 0)
        scale = 1.0 / __builtin_sqrt((double)s.dim[2] / (double)heads);
    return iv__node_add(g, IV_OP_ATTENTION, (iv_value[]){q, k, v}, 3, (int64_t[12]){heads, causal},
                        (double[4]){scale});
}

static void window_attr(int64_t *attr, iv_window w, int64_t groups)
{
    for (int k = 0; k < 2; ++k) {
        attr[IV_A_STRIDE + k] = w.stride[k];
        attr[IV_A_PAD + k] = w.pad[k];
        attr[IV_A_SIZE + k] = w.size[k];
    }
    attr[IV_A_GROUPS] = groups;
}

iv_value iv_conv2d(iv_graph *g, iv_value x, iv_value weight, const iv_value *bias, iv_window w,
                   int32_t groups)
{
    int64_t attr[12] = {0};
    window_attr(attr, w, groups);
    return iv__node_add(g, IV_OP_CONV2D, (iv_value[]){x, weight, bias ? *bias : x}, bias ? 3 : 2,
                        attr, NULL);
}

static iv_value pool(iv_graph *g, iv__op op, iv_value x, iv_window w)
{
    int64_t attr[12] = {0};
    window_attr(attr, w, 1);
    return iv__node_add(g, op, &x, 1, attr, NULL);
}

iv_value iv_max_pool2d(iv_graph *g, iv_value x, iv_window w)
{
    return pool(g, IV_OP_MAX_POOL2D, x, w);
}

iv_value iv_avg_pool2d(iv_graph *g, iv_value x, iv_window w)
{
    return pool(g, IV_OP_AVG_POOL2D, x, w);
}
