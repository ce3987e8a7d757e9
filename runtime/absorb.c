/* absorb.c: removes casts at the edges of kernels that convert while they load or store.
 *
 * A kernel computes in the full type anyway; reading 16-bit values widens them exactly, and
 * rounding on the store is the cast.  So no bit changes, and the wide copy never exists in memory.
 * Slots listed here are the only holder of their type variable in the kernel (kernels/kernels.def
 * has the mixed signatures), so they may change type alone. */
#include "graph.h"

static const struct {
    iv__op op;
    uint8_t in, out; /* bit per input, output */
} slots[] = {
    {IV_OP_LAYERNORM, 1, 1},      {IV_OP_LAYERNORM_GRAD, 1, 0}, {IV_OP_LAYERNORM_WGRAD, 1 + 2, 0},
    {IV_OP_RMSNORM, 1, 1},        {IV_OP_RMSNORM_GRAD, 1, 0},   {IV_OP_RMSNORM_WGRAD, 1 + 2, 0},
    {IV_OP_XENT, 1, 0},           {IV_OP_XENT_GRAD, 1, 1},      {IV_OP_SUM, 1, 0},
    {IV_OP_EMBEDDING_GRAD, 1, 0},
};

static bool is_16_bit(iv_dtype t)
{
    return t == IV_BF16 || t == IV_F16;
}

/* The cast node that makes v from `from` to `to`-wide types, or NULL. */
static const iv__node *cast_of(const iv_graph *g, int32_t v)
{
    int32_t n = g->values[v].node;
    return n >= 0 && g->nodes[n].op == IV_OP_CAST ? &g->nodes[n] : NULL;
}

/* All 16-bit types of one node are the same: instances mix f32 with one of them. */
static bool mixes(const iv_graph *g, const iv__node *n, iv_dtype low)
{
    for (int32_t i = 0; i < n->n_in + n->n_out; ++i) {
        iv_dtype t = g->values[i < n->n_in ? n->in[i] : n->out[i - n->n_in]].dtype;
        if (t == IV_F64 || (is_16_bit(t) && t != low)) return false;
    }
    return true;
}

static void absorb_inputs(iv_graph *g, iv__node *n, uint8_t mask)
{
    for (int32_t i = 0; i < n->n_in; ++i) {
        const iv__node *c = mask >> i & 1 ? cast_of(g, n->in[i]) : NULL;
        if (!c || !is_16_bit(g->values[c->in[0]].dtype) || g->values[n->in[i]].dtype != IV_F32)
            continue;
        if (mixes(g, n, g->values[c->in[0]].dtype)) n->in[i] = c->in[0];
    }
}

/* Output k goes straight to the type of its only user, a narrowing cast; that node then is empty.
 */
static void absorb_output(iv_graph *g, iv__node *n, int32_t k, const int32_t *uses,
                          const int32_t *user)
{
    int32_t v = n->out[k];
    if (uses[v] != 1 || user[v] < 0) return;
    iv__node *c = &g->nodes[user[v]];
    iv_dtype to = g->values[c->out[0]].dtype;
    if (c->op != IV_OP_CAST || !is_16_bit(to) || g->values[v].dtype != IV_F32 || !mixes(g, n, to))
        return;
    int32_t moved = c->out[0];
    n->out[k] = moved;
    g->values[moved].node = g->values[v].node;
    c->out[0] = v; /* nobody reads v now: pruned */
    g->values[v].node = user[v];
}

/* The last node that reads each value, or -1. */
static void find_users(const iv_graph *g, int32_t *user)
{
    for (int64_t i = 0; i < g->n_values; ++i) user[i] = -1;
    for (int32_t i = 0; i < g->n_nodes; ++i)
        for (int32_t k = 0; k < g->nodes[i].n_in; ++k) user[g->nodes[i].in[k]] = i;
}

iv_status iv__graph_absorb(iv_graph *g)
{
    int32_t *uses, *user;
    IV_TRY(iv__graph_prune(g)); /* a use by a dead node is none */
    IV_TRY(iv__calloc(2 * g->n_values, sizeof(*uses), "uses", &uses));
    user = uses + g->n_values;
    iv__graph_count_uses(g, uses);
    find_users(g, user);
    for (int32_t i = 0; i < g->n_nodes; ++i)
        for (int64_t s = 0; s < IV_COUNT(slots); ++s) {
            iv__node *n = &g->nodes[i];
            if (n->op != slots[s].op) continue;
            absorb_inputs(g, n, slots[s].in);
            for (int32_t k = 0; k < n->n_out; ++k)
                if (slots[s].out >> k & 1) absorb_output(g, n, k, uses, user);
        }
    free(uses);
    return IV_OK;
}
