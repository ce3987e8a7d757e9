/* cast.c: gives every value its element type under a precision policy and inserts the casts.
 *
 * The policy names three types: full (masters, losses, statistics), compute (what parameters and
 * inputs look like to the graph) and low (what IV_CAST_LOWER runs in).  Nodes are visited in order;
 * an input of another type than the node wants is cast once and the cast is shared.  So a parameter
 * is lowered once, however often it is used. */
#include "cast.h"

/* Inputs and outputs that stay in the full type whatever the class: weights and statistics of
 * norms, row statistics of losses and attention (kernels declare them as A). */
static const struct {
    iv__op op;
    uint8_t in, out; /* bit per input, output */
} full_slots[] = {
    {IV_OP_MATMUL, 4, 0},
    {IV_OP_CONV2D, 4, 0},
    {IV_OP_ATTENTION, 0, 2},
    {IV_OP_ATTENTION_GRAD, 16, 0},
    {IV_OP_XENT, 0, 3},
    {IV_OP_XENT_GRAD, 4 + 8, 0},
    {IV_OP_LAYERNORM, 2 + 4, 2 + 4},
    {IV_OP_LAYERNORM_GRAD, 4 + 8 + 16, 0},
    {IV_OP_LAYERNORM_WGRAD, 4 + 8, 3},
    {IV_OP_RMSNORM, 2, 2},
    {IV_OP_RMSNORM_GRAD, 4 + 8, 0},
    {IV_OP_RMSNORM_WGRAD, 4, 1},
    {IV_OP_BATCHNORM, 2 + 4, 2 + 4},
    {IV_OP_BATCHNORM_GRAD, 4 + 8 + 16, 0},
    {IV_OP_BATCHNORM_WGRAD, 4 + 8, 3},
    {IV_OP_GRAIN_SUM, 1, 1},
    {IV_OP_EMBEDDING_GRAD, 0, 1},
};

static iv_dtype widest(iv_dtype a, iv_dtype b)
{
    if (a == b) return a;
    if (a == IV_F64 || b == IV_F64) return IV_F64;
    return IV_F32; /* f32 with a 16-bit type, or the two 16-bit types */
}

static iv_status emit(iv__caster *c, const iv__node *n)
{
    IV_TRY(iv__reserve(&c->nodes, &c->cap_nodes, c->n_nodes + 1, sizeof(*c->nodes), "nodes"));
    c->nodes[c->n_nodes] = *n;
    for (int32_t i = 0; i < n->n_out; ++i) c->g->values[n->out[i]].node = (int32_t)c->n_nodes;
    ++c->n_nodes;
    return IV_OK;
}

static iv_status as_type(iv__caster *c, int32_t v, iv_dtype t, int32_t *out);

iv_status iv__cast_append(iv__caster *c, const iv__node *like, iv_dtype t, iv_shape shape,
                          const char *name, int32_t *out)
{
    iv_graph *g = c->g;
    iv__value value = {
        .dtype = t, .shape = shape, .node = -1, .grad = -1, .updates = -1, .name = name};
    IV_TRY(iv__reserve(&g->values, &g->cap_values, g->n_values + 1, sizeof(*g->values), "values"));
    int32_t id = (int32_t)g->n_values++;
    g->values[id] = value;
    iv__node n = *like;
    n.out[0] = id;
    n.name = name;
    *out = id;
    return emit(c, &n);
}

iv_status iv__cast_room(iv__caster *c)
{
    return iv__reserve(&c->casts, &c->cap_casts, c->g->n_values + 1, sizeof(*c->casts), "casts");
}

/* A new value like v, of type t, made by a copy of node `op` from `from`. */
static iv_status derive(iv__caster *c, int32_t v, iv_dtype t, const iv__node *like, int32_t from,
                        int32_t *out)
{
    iv_graph *g = c->g;
    const char *name = iv__graph_name(g, "%s:%s", g->values[v].name, iv_dtype_name(t));
    iv__node n = *like;
    n.in[0] = from;
    IV_TRY(iv__cast_append(c, &n, t, g->values[v].shape, name, out));
    g->values[*out].samples = g->values[v].samples;
    c->casts[v][t] = *out + 1;
    return IV_OK;
}

/* The value v in type t: v itself, what v was widened from, an earlier cast, or a new one.  A
 * reshaped or transposed value is narrowed before, so that one cast serves the tensor and its
 * views. */
static iv_status as_type(iv__caster *c, int32_t v, iv_dtype t, int32_t *out)
{
    iv_graph *g = c->g;
    *out = v;
    if (g->values[v].dtype == t || !iv_dtype_is_float(g->values[v].dtype)) return IV_OK;
    IV_TRY(iv__cast_room(c));
    if (c->casts[v][t]) {
        *out = c->casts[v][t] - 1;
        return IV_OK;
    }
    iv__node cast = {.op = IV_OP_CAST, .n_in = 1, .n_out = 1};
    const iv__node from = g->values[v].node >= 0 ? c->nodes[g->values[v].node] : cast;
    if (from.op == IV_OP_CAST && g->values[v].node >= 0 && g->values[from.in[0]].dtype == t &&
        iv_dtype_bytes(t) < iv_dtype_bytes(g->values[v].dtype)) {
        *out = from.in[0]; /* widening and narrowing back is exact */
        return IV_OK;
    }
    bool narrows = iv_dtype_bytes(t) < iv_dtype_bytes(g->values[v].dtype);
    if (!narrows || (from.op != IV_OP_RESHAPE && from.op != IV_OP_TRANSPOSE))
        return derive(c, v, t, &cast, v, out);
    int32_t base;
    IV_TRY(as_type(c, from.in[0], t, &base));
    IV_TRY(iv__cast_room(c));
    return derive(c, v, t, &from, base, out);
}

/* What the node computes in, by its class. */
static iv_dtype node_type(const iv__caster *c, const iv__node *n, iv_cast_class cls,
                          uint8_t full_in)
{
    iv_dtype t = c->full;
    bool first = true;
    if (cls == IV_CAST_LOWER) return c->low;
    if (cls == IV_CAST_F32) return c->full;
    for (int32_t i = 0; i < n->n_in; ++i) {
        iv_dtype ti = c->g->values[n->in[i]].dtype;
        if (!iv_dtype_is_float(ti) || (full_in >> i & 1)) continue;
        t = first || cls == IV_CAST_KEEP ? (first ? ti : t) : widest(t, ti);
        first = false;
    }
    return t;
}

/* Whether an operator that runs in the low type can store its result in the full one: views cannot,
 * and kernels need a mixed signature (kernels/kernels.def). */
static bool stores_full(iv__op op)
{
    return iv__ops[op].elementwise || op == IV_OP_MATMUL || op == IV_OP_CONV2D ||
           op == IV_OP_CONV2D_DGRAD || op == IV_OP_CONV2D_WGRAD || op == IV_OP_SUM ||
           op == IV_OP_EMBEDDING;
}

static iv_status cast_node(iv__caster *c, const iv__node *old, iv_cast_class cls)
{
    uint8_t full_in = 0, full_out = 0;
    for (int64_t i = 0; i < IV_COUNT(full_slots); ++i)
        if (full_slots[i].op == old->op) {
            full_in = full_slots[i].in;
            full_out = full_slots[i].out;
        }
    iv__node n = *old;
    iv_dtype t = node_type(c, &n, cls, full_in), narrow;
    bool rounded = false;
    if (cls == IV_CAST_LOWER) IV_TRY(iv__operands_round(c, &n, &rounded, &narrow));
    if (rounded) t = narrow;
    if (n.op != IV_OP_CAST)
        for (int32_t i = 0; i < n.n_in; ++i)
            IV_TRY(as_type(c, n.in[i], full_in >> i & 1 ? c->full : t, &n.in[i]));
    for (int32_t i = 0; i < n.n_out; ++i) {
        iv__value *v = &c->g->values[n.out[i]];
        if (!iv_dtype_is_float(v->dtype) || n.op == IV_OP_CAST) continue;
        bool wide = v->full || n.segments; /* sums over samples go on over passes and ranks */
        bool full = (full_out >> i & 1) || (wide && t != c->full && stores_full(n.op));
        v->dtype = full ? c->full : t;
    }
    return emit(c, &n);
}

static void type_leaves(iv__caster *c)
{
    iv_graph *g = c->g;
    for (int64_t i = 0; i < g->n_values; ++i) {
        iv__value *v = &g->values[i];
        if (v->node >= 0 || !iv_dtype_is_float(v->dtype)) continue;
        bool scalar = v->role == IV_ROLE_INPUT && v->shape.rank == 0; /* loss scale, target count */
        v->dtype = scalar || v->role == IV_ROLE_STATE ? c->full : c->compute;
    }
}

/* A parameter's gradient is in the full type, whatever made it. */
static iv_status cast_gradients(iv__caster *c)
{
    for (int64_t i = 0; i < c->g->n_values; ++i) {
        if (c->g->values[i].role != IV_ROLE_PARAM || c->g->values[i].grad < 0) continue;
        int32_t d;
        IV_TRY(as_type(c, c->g->values[i].grad, c->full, &d));
        c->g->values[i].grad = d;
    }
    return IV_OK;
}

iv_status iv__graph_cast(iv_graph *g, const iv__precision *policy)
{
    iv__caster c = {.g = g,
                    .precision = policy,
                    .full = policy->policy.full,
                    .compute = policy->policy.compute,
                    .low = policy->policy.low};
    iv_status s = iv__reserve(&c.casts, &c.cap_casts, g->n_values + 1, sizeof(*c.casts), "casts");
    type_leaves(&c);
    for (int64_t i = 0; s == IV_OK && i < g->n_nodes; ++i) {
        const iv__op_info *op = &iv__ops[g->nodes[i].op];
        s = cast_node(&c, &g->nodes[i], iv__precision_class(policy, op->name, op->cast));
    }
    if (s == IV_OK) s = cast_gradients(&c);
    free(c.casts);
    if (s != IV_OK) {
        free(c.nodes);
        return s;
    }
    free(g->nodes);
    g->nodes = c.nodes;
    g->n_nodes = c.n_nodes;
    g->cap_nodes = c.cap_nodes;
    return IV_OK;
}

/* ---- classes as text ---- */

/* "    in f16: matmul conv2d ..." for one class; gradients are left out: they follow. */
static void print_class(const iv__precision *p, iv__text *t, iv_cast_class cls, const char *what)
{
    int32_t n = 0;
    for (int32_t i = 0; i < IV_OP_COUNT; ++i) {
        const iv__op_info *op = &iv__ops[i];
        if (i == IV_OP_ELEMENTS || !op->grad || i == IV_OP_CAST ||
            iv__precision_class(p, op->name, op->cast) != cls)
            continue;
        iv__text_printf(t, "%s %s", n++ ? "" : what, op->name);
    }
    if (n) iv__text_printf(t, "\n");
}

iv_status iv__precision_classes(const iv__precision *p, iv__text *t)
{
    char what[IV_CAST_CLASS_COUNT][64];
    snprintf(what[IV_CAST_LOWER], 64, "in %s:", iv_dtype_name(p->policy.low));
    snprintf(what[IV_CAST_F32], 64, "in %s:", iv_dtype_name(p->policy.full));
    snprintf(what[IV_CAST_WIDEST], 64, "in the widest input's type:");
    snprintf(what[IV_CAST_KEEP], 64, "in the first input's type:");
    if (p->policy.low == p->policy.full) return IV_OK; /* one type: classes change nothing */
    for (int cls = 0; cls < IV_CAST_CLASS_COUNT; ++cls)
        print_class(p, t, (iv_cast_class)cls, what[cls]);
    if (t->failed) IV_FAIL(IV_NO_MEMORY, "printing a policy");
    return IV_OK;
}

iv_status iv_precision_text(const char *spec, char **out_text)
{
    iv__precision p;
    iv__text t = {0};
    IV_TRY(iv__precision_start(spec, NULL, "cpu", &p));
    iv_status s = iv__precision_text(&p, &t);
    iv__precision_close(&p);
    if (s == IV_OK && t.failed) s = iv__fail(IV_NO_MEMORY, "printing a policy");
    if (s == IV_OK) *out_text = t.s;
    else iv__text_free(&t);
    return s;
}
