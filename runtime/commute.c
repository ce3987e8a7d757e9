/* commute.c: puts operators into the cheaper of two orders that give the same bits.
 *
 * relu, then max pooling -> max pooling, then relu: on the smaller planes, forward and backward.
 * relu is monotone, so the maximum of its results is its result of the maximum (a NaN wins either
 * way, and no window is empty).  The place of the maximum is the same where it is positive.  Where
 * it is not, ties among zeros may choose another place, but relu lets no gradient through to any of
 * them: dx has the same bits.  Rounding to a shorter type is monotone too, and keeps signs and
 * zero. */
#include "graph.h"

static int32_t uses_of(const iv_graph *g, int32_t v)
{
    int32_t n = v == g->loss;
    for (int32_t i = 0; i < g->n_outputs; ++i) n += g->outputs[i].value == v;
    for (int64_t i = 0; i < g->n_nodes; ++i)
        for (int32_t k = 0; k < g->nodes[i].n_in; ++k) n += g->nodes[i].in[k] == v;
    return n;
}

/* Pooling moves to where relu was, so that its result is there for relu; the value between them
 * stays one, of another shape. */
static void swap(iv_graph *g, int32_t relu_at, int32_t pool_at)
{
    iv__node relu = g->nodes[relu_at], pool = g->nodes[pool_at];
    int32_t between = relu.out[0], last = pool.out[0];
    pool.in[0] = relu.in[0];
    pool.out[0] = relu.in[0] = between;
    relu.out[0] = last;
    g->nodes[relu_at] = pool;
    g->nodes[pool_at] = relu;
    g->values[between].shape = g->values[last].shape;
    g->values[pool.out[1]].node = relu_at;
    g->values[last].node = pool_at;
}

void iv__graph_commute(iv_graph *g)
{
    for (int32_t i = 0; i < g->n_nodes; ++i) {
        if (g->nodes[i].op != IV_OP_MAX_POOL2D) continue;
        int32_t v = g->nodes[i].in[0], by = g->values[v].node;
        if (by >= 0 && g->nodes[by].op == IV_OP_RELU && uses_of(g, v) == 1) swap(g, by, i);
    }
}
