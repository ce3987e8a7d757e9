/* fuse.c: merges chains of element-wise nodes into element programs.
 *
 * A node joins the program of its consumers if these are all in one program, over the same index
 * space, and nobody else needs its output: then the output never exists in memory.  Visited from
 * the end, so that diamonds close.  Every element-wise node ends in an ELEMENTS node, also alone:
 * there is one way to run them.  Results are rounded to the type of the node they came from, so
 * fusing never changes a bit. */
#include "graph.h"

enum { MOST_OPS = IV_PROGRAM_OPS, MOST_INPUTS = IV_PROGRAM_INPUTS };

/* A group of nodes that becomes one program; root is its last node. */
typedef struct cluster {
    int32_t n_nodes, n_inputs;
    int32_t nodes[MOST_OPS];     /* in falling order */
    int32_t inputs[MOST_INPUTS]; /* values from outside */
} cluster;

typedef struct fuser {
    iv_graph *g;
    int32_t *cluster_of; /* [nodes], -1: none */
    int32_t *uses;       /* [values] uses by nodes; a needed value has one more */
    cluster *clusters;
    int64_t n_clusters, cap_clusters;
} fuser;

static bool same_space(const iv__value *a, const iv__value *b)
{
    bool wide = a->dtype == IV_F64, other = b->dtype == IV_F64;
    if (wide != other || a->shape.rank != b->shape.rank) return false;
    return memcmp(a->shape.dim, b->shape.dim, (size_t)a->shape.rank * sizeof(int64_t)) == 0;
}

/* All inputs in the computing type of the output: a cast between f64 and the rest stands alone. */
static bool one_width(const iv_graph *g, const iv__node *n)
{
    for (int32_t i = 0; i < n->n_in; ++i)
        if ((g->values[n->in[i]].dtype == IV_F64) != (g->values[n->out[0]].dtype == IV_F64))
            return false;
    return true;
}

/* c's inputs after node n joined; false if they would be too many. */
static bool join_inputs(cluster *c, const iv__node *n, int32_t joined_value)
{
    cluster t = *c;
    int32_t kept = 0;
    for (int32_t i = 0; i < t.n_inputs; ++i)
        if (t.inputs[i] != joined_value) t.inputs[kept++] = t.inputs[i];
    t.n_inputs = kept;
    for (int32_t i = 0; i < n->n_in; ++i) {
        bool known = false;
        for (int32_t k = 0; k < t.n_inputs; ++k) known |= t.inputs[k] == n->in[i];
        if (known) continue;
        if (t.n_inputs == MOST_INPUTS) return false;
        t.inputs[t.n_inputs++] = n->in[i];
    }
    *c = t;
    return true;
}

/* The cluster that uses every use of v, or -1. */
static int32_t only_user(const fuser *f, int64_t node, int32_t v)
{
    int32_t found = -1, uses = 0;
    for (int64_t i = node + 1; i < f->g->n_nodes && uses < f->uses[v]; ++i)
        for (int32_t k = 0; k < f->g->nodes[i].n_in; ++k) {
            if (f->g->nodes[i].in[k] != v) continue;
            if (f->cluster_of[i] < 0 || (found >= 0 && found != f->cluster_of[i])) return -1;
            found = f->cluster_of[i];
            ++uses;
        }
    return uses == f->uses[v] ? found : -1;
}

static iv_status place(fuser *f, int64_t i)
{
    iv_graph *g = f->g;
    const iv__node *n = &g->nodes[i];
    int32_t v = n->out[0], c = one_width(g, n) ? only_user(f, i, v) : -1;
    if (c >= 0) {
        cluster *k = &f->clusters[c];
        const iv__node *root = &g->nodes[k->nodes[0]];
        if (k->n_nodes < MOST_OPS - 4 && one_width(g, root) &&
            same_space(&g->values[v], &g->values[root->out[0]]) && join_inputs(k, n, v)) {
            k->nodes[k->n_nodes++] = (int32_t)i;
            f->cluster_of[i] = c;
            return IV_OK;
        }
    }
    IV_TRY(iv__reserve(&f->clusters, &f->cap_clusters, f->n_clusters + 1, sizeof(cluster),
                       "programs"));
    cluster *k = &f->clusters[f->n_clusters];
    k->nodes[k->n_nodes++] = (int32_t)i;
    join_inputs(k, n, -1);
    f->cluster_of[i] = (int32_t)f->n_clusters++;
    return IV_OK;
}

/* The last op of the program (in falling order of nodes) that reads v; ops are nodes[n-1] ..
 * nodes[0]. */
static int32_t last_use(const iv_graph *g, const cluster *c, int32_t v)
{
    for (int32_t at = 0; at < c->n_nodes; ++at)
        for (int32_t i = 0; i < g->nodes[c->nodes[at]].n_in; ++i)
            if (g->nodes[c->nodes[at]].in[i] == v) return c->n_nodes - 1 - at;
    return -1;
}

/* Registers while a program is made: which value each holds, -1: free. */
typedef struct registers {
    int32_t value[IV_PROGRAM_REGS];
} registers;

static uint8_t reg_of(const registers *r, int32_t v)
{
    for (uint8_t i = 0; i < IV_PROGRAM_REGS; ++i)
        if (r->value[i] == v) return i;
    return 0;
}

/* Inputs take the first registers and keep them; results reuse those that are dead. */
static uint8_t take_reg(registers *r, const iv_graph *g, const cluster *c, int32_t op, int32_t v)
{
    for (int32_t i = c->n_inputs; i < IV_PROGRAM_REGS; ++i)
        if (r->value[i] < 0 || last_use(g, c, r->value[i]) < op) {
            r->value[i] = v;
            return (uint8_t)i;
        }
    return IV_PROGRAM_REGS -
           1; /* unreachable: 6 inputs and 28 ops need fewer than 32 live registers */
}

static void make_ops(const iv_graph *g, const cluster *c, iv_program *p)
{
    registers r;
    for (int32_t i = 0; i < IV_PROGRAM_REGS; ++i) r.value[i] = i < c->n_inputs ? c->inputs[i] : -1;
    for (int32_t at = c->n_nodes - 1; at >= 0; --at) {
        const iv__node *n = &g->nodes[c->nodes[at]];
        iv_program_op *op = &p->ops[p->n_ops];
        *op = (iv_program_op){.op = (uint8_t)n->op,
                              .round = (uint8_t)g->values[n->out[0]].dtype,
                              .imm = {n->fattr[0], n->fattr[1]},
                              .stream = (uint32_t)n->attr[IV_A_STREAM]};
        for (int32_t i = 0; i < n->n_in; ++i) op->src[i] = reg_of(&r, n->in[i]);
        op->dst = take_reg(&r, g, c, p->n_ops, n->out[0]);
        p->out_reg = op->dst;
        p->uses_rng |= n->op == IV_OP_DROPOUT;
        ++p->n_ops;
    }
}

/* The root becomes an ELEMENTS node with the program; strides come when the plan knows the layouts.
 */
static iv_status make_program(iv_graph *g, const cluster *c, iv__node *root)
{
    iv_program *p;
    IV_TRY(iv__calloc(1, sizeof(*p), "an element program", &p));
    const iv__value *out = &g->values[root->out[0]];
    p->n_in = c->n_inputs;
    p->out_type = (uint8_t)out->dtype;
    p->compute = out->dtype == IV_F64 || g->values[c->inputs[0]].dtype == IV_F64 ? IV_F64 : IV_F32;
    for (int32_t i = 0; i < c->n_inputs; ++i)
        p->in_type[i] = (uint8_t)g->values[c->inputs[i]].dtype;
    make_ops(g, c, p);
    root->op = IV_OP_ELEMENTS;
    root->n_in = c->n_inputs;
    memcpy(root->in, c->inputs, sizeof(root->in));
    root->program = p;
    return IV_OK;
}

static iv_status fuse(fuser *f)
{
    iv_graph *g = f->g;
    iv__graph_count_uses(g, f->uses);
    for (int64_t i = 0; i < g->n_nodes; ++i) f->cluster_of[i] = -1;
    for (int64_t i = g->n_nodes - 1; i >= 0; --i)
        if (iv__ops[g->nodes[i].op].elementwise) IV_TRY(place(f, i));
    for (int64_t c = 0; c < f->n_clusters; ++c)
        IV_TRY(make_program(g, &f->clusters[c], &g->nodes[f->clusters[c].nodes[0]]));
    int64_t kept = 0;
    for (int64_t i = 0; i < g->n_nodes; ++i) {
        if (f->cluster_of[i] >= 0 && f->clusters[f->cluster_of[i]].nodes[0] != i) continue;
        g->nodes[kept] = g->nodes[i];
        for (int32_t k = 0; k < g->nodes[kept].n_out; ++k)
            g->values[g->nodes[kept].out[k]].node = (int32_t)kept;
        ++kept;
    }
    g->n_nodes = kept;
    return IV_OK;
}

iv_status iv__graph_fuse(iv_graph *g)
{
    fuser f = {.g = g};
    iv_status s = iv__calloc(g->n_nodes, sizeof(*f.cluster_of), "programs", &f.cluster_of);
    if (s == IV_OK) s = iv__calloc(g->n_values, sizeof(*f.uses), "uses", &f.uses);
    if (s == IV_OK) s = fuse(&f);
    free(f.cluster_of);
    free(f.uses);
    free(f.clusters);
    return s;
}
