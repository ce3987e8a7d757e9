/* graph.c: building the graph: values, nodes, names, the first error, pruning (see graph.h). */
#include "graph.h"

iv_status iv_graph_new(iv_graph **out)
{
    iv_graph *g;
    IV_TRY(iv__calloc(1, sizeof(*g), "a graph", &g));
    g->grains = 1;
    g->loss = g->seed = g->norm_input = g->norm_targets = g->scales = -1;
    *out = g;
    return IV_OK;
}

void iv_graph_free(iv_graph *g)
{
    if (!g) return;
    for (int64_t i = 0; i < g->n_nodes; ++i) free(g->nodes[i].program);
    for (int64_t i = 0; i < g->n_names; ++i) free(g->names[i]);
    free(g->names);
    free(g->values);
    free(g->scaled);
    free(g->nodes);
    free(g);
}

iv_status iv_graph_status(const iv_graph *g)
{
    return g->status == IV_OK ? IV_OK : iv__fail(g->status, "%s", g->error);
}

void iv__graph_fail(iv_graph *g, iv_status s, const char *what)
{
    if (g->status != IV_OK || s == IV_OK) return;
    g->status = s;
    snprintf(g->error, sizeof(g->error), "building the graph: %s%s%s: %s", g->scope,
             g->scope[0] ? "." : "", what, iv_error_message());
}

void iv_graph_set_grains(iv_graph *g, int64_t grains)
{
    if (grains >= 1) g->grains = grains;
    else
        iv__graph_fail(g, iv__fail(IV_INVALID, "%lld: 1 or more are possible", (long long)grains),
                       "grains");
}

void iv_graph_scope(iv_graph *g, const char *scope)
{
    snprintf(g->scope, sizeof(g->scope), "%s", scope ? scope : "");
}

const char *iv__graph_name(iv_graph *g, const char *fmt, ...)
{
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    char *copy;
    iv_status s = iv__reserve(&g->names, &g->cap_names, g->n_names + 1, sizeof(*g->names), "names");
    if (s == IV_OK) s = iv__strdup(text, &copy);
    if (s != IV_OK) {
        iv__graph_fail(g, s, "names");
        return "";
    }
    return g->names[g->n_names++] = copy;
}

const char *iv__shape_text(const iv_shape *s, char *buf, size_t size)
{
    size_t at = (size_t)snprintf(buf, size, "[");
    for (int32_t i = 0; i < s->rank && at < size; ++i)
        at += (size_t)snprintf(buf + at, size - at, "%s%lld", i ? "," : "", (long long)s->dim[i]);
    if (at < size) snprintf(buf + at, size - at, "]");
    return buf;
}

static iv_value poisoned(void)
{
    return (iv_value){-1};
}

static iv_status check_shape(const iv_shape *s)
{
    char text[128];
    if (s->rank < 0 || s->rank > IV_MAX_RANK)
        IV_FAIL(IV_INVALID, "a tensor of rank %d: 0 to %d are possible", s->rank, IV_MAX_RANK);
    int64_t n = 1;
    for (int32_t i = 0; i < s->rank; ++i) {
        if (s->dim[i] < 1 || s->dim[i] > INT32_MAX || n > INT32_MAX / s->dim[i])
            IV_FAIL(IV_INVALID,
                    "shape %s: dimensions must be 1 or more and the elements below 2^31",
                    iv__shape_text(s, text, sizeof(text)));
        n *= s->dim[i];
    }
    return IV_OK;
}

/* Appends a value; on failure the graph keeps the error and -1 comes back. */
static int32_t append_value(iv_graph *g, const iv__value *v)
{
    iv_status s = check_shape(&v->shape);
    if (s == IV_OK)
        s = iv__reserve(&g->values, &g->cap_values, g->n_values + 1, sizeof(*g->values), "values");
    if (s != IV_OK) {
        iv__graph_fail(g, s, v->name);
        return -1;
    }
    g->values[g->n_values] = *v;
    return (int32_t)g->n_values++;
}

iv_value iv__value_add(iv_graph *g, iv__role role, const char *name, iv_dtype t, iv_shape s,
                       iv_init init)
{
    if (g->status != IV_OK) return poisoned();
    if (*name && iv__graph_find(g, name) >= 0) {
        iv__graph_fail(g, iv__fail(IV_INVALID, "the name is taken: names are unique"), name);
        return poisoned();
    }
    iv__value v = {.dtype = t,
                   .shape = s,
                   .role = role,
                   .node = -1,
                   .grad = -1,
                   .updates = -1,
                   .init = init,
                   .samples = role == IV_ROLE_INPUT && s.rank > 0,
                   .name = iv__graph_name(g, "%s", name)};
    return (iv_value){append_value(g, &v)};
}

iv_value iv_input(iv_graph *g, const char *name, iv_dtype dtype, iv_shape shape)
{
    return iv__value_add(g, IV_ROLE_INPUT, name, dtype, shape, (iv_init){0});
}

iv_value iv_param(iv_graph *g, const char *name, iv_shape shape, iv_init init)
{
    return iv__value_add(g, IV_ROLE_PARAM, name, IV_F32, shape, init);
}

iv_value iv_state(iv_graph *g, const char *name, iv_shape shape, iv_init init)
{
    return iv__value_add(g, IV_ROLE_STATE, name, IV_F32, shape, init);
}

int32_t iv__graph_find(const iv_graph *g, const char *name)
{
    for (int64_t i = 0; i < g->n_values; ++i)
        if (g->values[i].role != IV_ROLE_TEMP && strcmp(g->values[i].name, name) == 0)
            return (int32_t)i;
    return -1;
}

static bool is_valid(const iv_graph *g, iv_value v)
{
    return v.id >= 0 && v.id < g->n_values;
}

iv_shape iv_value_shape(const iv_graph *g, iv_value v)
{
    return is_valid(g, v) ? g->values[v.id].shape : IV_SCALAR;
}

iv_dtype iv_value_dtype(const iv_graph *g, iv_value v)
{
    return is_valid(g, v) ? g->values[v.id].dtype : IV_F32;
}

void iv_graph_set_loss(iv_graph *g, iv_value loss)
{
    if (g->status != IV_OK || !is_valid(g, loss)) return;
    if (iv_shape_count(&g->values[loss.id].shape) != 1)
        iv__graph_fail(g, iv__fail(IV_INVALID, "a loss has one element"), "loss");
    g->loss = loss.id;
    iv_graph_set_output(g, "loss", loss);
}

void iv_graph_set_output(iv_graph *g, const char *name, iv_value v)
{
    if (g->status != IV_OK || !is_valid(g, v)) return;
    if (g->n_outputs == IV_COUNT(g->outputs)) {
        iv__graph_fail(g, iv__fail(IV_INVALID, "more than %d outputs", g->n_outputs), name);
        return;
    }
    g->outputs[g->n_outputs].name = iv__graph_name(g, "%s", name);
    g->outputs[g->n_outputs++].value = v.id;
}

iv_value iv__value_output(const iv_graph *g, iv_value v, int32_t k)
{
    if (!is_valid(g, v) || g->values[v.id].node < 0) return poisoned();
    const iv__node *n = &g->nodes[g->values[v.id].node];
    return (iv_value){k < n->n_out ? n->out[k] : -1};
}

static const char *node_name(iv_graph *g, iv__op op)
{
    return iv__graph_name(g, "%s%s%s%s", g->in_backward ? "d." : "", g->scope,
                          g->scope[0] ? "." : "", iv__ops[op].name);
}

static iv_status add_node(iv_graph *g, iv__node *n)
{
    const iv__op_info *op = &iv__ops[n->op];
    iv__value out[IV_NODE_OUTPUTS];
    for (int32_t i = 0; i < op->n_out; ++i)
        out[i] = (iv__value){.role = IV_ROLE_TEMP,
                             .node = (int32_t)g->n_nodes,
                             .grad = -1,
                             .updates = -1,
                             .name = n->name};
    IV_TRY(op->infer(g, n, out));
    IV_TRY(iv__reserve(&g->nodes, &g->cap_nodes, g->n_nodes + 1, sizeof(*g->nodes), "nodes"));
    n->n_out = op->n_out;
    for (int32_t i = 0; i < op->n_out; ++i) {
        n->out[i] = append_value(g, &out[i]);
        if (n->out[i] < 0) return g->status;
    }
    g->nodes[g->n_nodes++] = *n;
    return IV_OK;
}

iv_value iv__node_add(iv_graph *g, iv__op op, const iv_value *in, int32_t n_in, const int64_t *attr,
                      const double *fattr)
{
    if (g->status != IV_OK) return poisoned();
    iv__node n = {.op = op, .n_in = n_in, .backward = g->in_backward};
    for (int32_t i = 0; i < n_in; ++i) {
        if (!is_valid(g, in[i])) {
            iv__graph_fail(g, iv__fail(IV_INVALID, "input %d is no value of this graph", i),
                           iv__ops[op].name);
            return poisoned();
        }
        n.in[i] = in[i].id;
    }
    if (attr) memcpy(n.attr, attr, sizeof(n.attr));
    if (fattr) memcpy(n.fattr, fattr, sizeof(n.fattr));
    n.name = node_name(g, op);
    iv_status s = add_node(g, &n);
    if (s != IV_OK) {
        iv__graph_fail(g, s, iv__ops[op].name);
        return poisoned();
    }
    return (iv_value){n.out[0]};
}

/* Marks what the graph exists for: outputs, gradients of parameters, new states. */
static void mark_roots(const iv_graph *g, uint8_t *used)
{
    for (int32_t i = 0; i < g->n_outputs; ++i) used[g->outputs[i].value] = 1;
    for (int64_t i = 0; i < g->n_values; ++i) {
        const iv__value *v = &g->values[i];
        if (v->role == IV_ROLE_PARAM && v->grad >= 0) used[v->grad] = 1;
        if (v->role == IV_ROLE_INPUT && v->grad >= 0 && !g->differentiated) used[v->grad] = 1;
        if (v->role == IV_ROLE_STATE && v->updates >= 0) used[v->updates] = 1;
    }
    for (int64_t i = 0; i < g->n_scaled; ++i)
        if (g->scaled[i].amax >= 0) used[g->scaled[i].amax] = 1;
}

void iv__graph_count_uses(const iv_graph *g, int32_t *uses)
{
    for (int64_t i = 0; i < g->n_nodes; ++i)
        for (int32_t k = 0; k < g->nodes[i].n_in; ++k) ++uses[g->nodes[i].in[k]];
    for (int32_t i = 0; i < g->n_outputs; ++i) ++uses[g->outputs[i].value];
    for (int64_t i = 0; i < g->n_values; ++i) {
        if (g->values[i].role == IV_ROLE_PARAM && g->values[i].grad >= 0) ++uses[g->values[i].grad];
        if (g->values[i].updates >= 0) ++uses[g->values[i].updates];
    }
    for (int64_t i = 0; i < g->n_scaled; ++i)
        if (g->scaled[i].amax >= 0) ++uses[g->scaled[i].amax];
}

iv_status iv__graph_prune(iv_graph *g)
{
    uint8_t *used;
    IV_TRY(iv__calloc(g->n_values, 1, "marks", &used));
    mark_roots(g, used);
    for (int64_t i = g->n_nodes - 1; i >= 0; --i) {
        const iv__node *n = &g->nodes[i];
        bool needed = false;
        for (int32_t k = 0; k < n->n_out; ++k) needed |= used[n->out[k]];
        for (int32_t k = 0; needed && k < n->n_in; ++k) used[n->in[k]] = 1;
        if (needed)
            for (int32_t k = 0; k < n->n_out; ++k) used[n->out[k]] = 1;
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < g->n_nodes; ++i) {
        if (!used[g->nodes[i].out[0]]) {
            free(g->nodes[i].program);
            continue;
        }
        g->nodes[kept] = g->nodes[i];
        for (int32_t k = 0; k < g->nodes[kept].n_out; ++k)
            g->values[g->nodes[kept].out[k]].node = (int32_t)kept;
        ++kept;
    }
    g->n_nodes = kept;
    free(used);
    return IV_OK;
}
