/* commute.c: puts operators into the cheaper of two orders that give the same bits.
 *
 * relu, then max pooling -> max pooling, then relu: on the smaller planes, forward and backward.
 * relu is monotone, so the maximum of its results is its result of the maximum (a NaN wins either
 * way, and no window is empty).  The place of the maximum is the same where it is positive.  Where
 * it is not, ties among zeros may choose another place, but relu lets no gradient through to any of
 * them: dx has the same bits.  Rounding to a shorter type is monotone too, and keeps signs and
 * zero. */
#include "graph.h"

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

iv_status iv__graph_commute(iv_graph *g)
{
    int32_t *uses;
    IV_TRY(iv__calloc(g->n_values, sizeof(*uses), "uses", &uses));
    iv__graph_count_uses(g, uses);
    for (int32_t i = 0; i < g->n_nodes; ++i) {
        if (g->nodes[i].op != IV_OP_MAX_POOL2D) continue;
        int32_t v = g->nodes[i].in[0], by = g->values[v].node;
        if (by >= 0 && g->nodes[by].op == IV_OP_RELU && uses[v] == 1 && v != g->loss)
            swap(g, by, i);
    }
    free(uses);
    return IV_OK;
}
