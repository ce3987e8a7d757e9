/* passes.c: cutting the tree over grains (see passes.h). */
#include "passes.h"

int64_t iv__tree_split(int64_t n)
{
    int64_t p = 1;
    while (2 * p < n) p *= 2;
    return p;
}

bool iv__tree_joins(int64_t grains, iv__span a, iv__span b)
{
    iv__span at = {0, grains};
    if (a.first + a.count != b.first) return false;
    while (at.count > a.count + b.count) {
        int64_t left = iv__tree_split(at.count);
        if (a.first < at.first + left) at.count = left;
        else at = (iv__span){at.first + left, at.count - left};
    }
    return at.count == a.count + b.count && at.first == a.first && at.count > 1 &&
           iv__tree_split(at.count) == a.count;
}

typedef struct cutter {
    int64_t grains, most, n_passes, n_nodes;
    iv__span range;
    iv__pass *passes;
    iv__span *nodes;
} cutter;

/* The node's sums are there: they join what they can. */
static void push(cutter *c, iv__span node)
{
    iv__pass *p = &c->passes[c->n_passes++];
    *p = (iv__pass){.grains = node};
    while (c->n_nodes > 0 && iv__tree_joins(c->grains, c->nodes[c->n_nodes - 1], node)) {
        node.first = c->nodes[--c->n_nodes].first;
        node.count += c->nodes[c->n_nodes].count;
        ++p->joins;
    }
    c->nodes[c->n_nodes++] = node;
}

static void cut(cutter *c, iv__span node)
{
    int64_t end = node.first + node.count, last = c->range.first + c->range.count;
    if (node.first >= last || end <= c->range.first) return;
    if (node.first >= c->range.first && end <= last && node.count <= c->most) {
        push(c, node);
        return;
    }
    int64_t left = iv__tree_split(node.count);
    cut(c, (iv__span){node.first, left});
    cut(c, (iv__span){node.first + left, node.count - left});
}

void iv__passes_cut(int64_t grains, iv__span range, int64_t most, iv__pass *passes,
                    int64_t *out_passes, iv__span *nodes, int64_t *out_nodes)
{
    cutter c = {grains, IV_MAX2(most, 1), 0, 0, range, passes, nodes};
    if (range.count > 0) cut(&c, (iv__span){0, grains});
    *out_passes = c.n_passes;
    *out_nodes = c.n_nodes;
}

/* Each grain goes to the worker that would have done it first: then the last worker is done as soon
 * as it can be. */
void iv__shares(int64_t grains, const double *speed, int64_t workers, iv__span *out)
{
    int64_t at = 0;
    for (int64_t i = 0; i < workers; ++i) out[i].count = 0;
    for (int64_t g = 0; g < grains; ++g) {
        int64_t best = 0;
        for (int64_t i = 1; i < workers; ++i)
            if ((double)(out[i].count + 1) / speed[i] < (double)(out[best].count + 1) / speed[best])
                best = i;
        ++out[best].count;
    }
    for (int64_t i = 0; i < workers; ++i) {
        out[i].first = at;
        at += out[i].count;
    }
}

double iv__shares_time(const iv__span *spans, const double *speed, int64_t workers)
{
    double most = 0;
    for (int64_t i = 0; i < workers; ++i) most = IV_MAX2(most, (double)spans[i].count / speed[i]);
    return most;
}

typedef struct folder {
    const iv__span *nodes;
    int64_t n, at; /* nodes seen */
    iv__fold_op *ops;
    int64_t n_ops;
    int32_t used, most; /* temporaries */
} folder;

/* Where the sums of a node are: a given one, or a temporary that operations fill. */
static int32_t fold(folder *f, iv__span node)
{
    if (f->at < f->n && f->nodes[f->at].first == node.first && f->nodes[f->at].count == node.count)
        return (int32_t)f->at++;
    if (node.count < 2) return -1;
    int64_t left = iv__tree_split(node.count);
    int32_t a = fold(f, (iv__span){node.first, left}),
            b = a < 0 ? -1 : fold(f, (iv__span){node.first + left, node.count - left});
    if (b < 0) return -1;
    /* Temporaries are a stack: those of the operands are free again. */
    f->used -= (a >= f->n) + (b >= f->n);
    int32_t dst = (int32_t)f->n + f->used++;
    f->most = IV_MAX2(f->most, f->used);
    f->ops[f->n_ops++] = (iv__fold_op){a, b, dst};
    return dst;
}

iv_status iv__fold_plan(int64_t grains, const iv__span *nodes, int64_t n, iv__fold_op *ops,
                        int32_t *out_temps)
{
    folder f = {.nodes = nodes, .n = n, .ops = ops};
    if (fold(&f, (iv__span){0, grains}) < 0 || f.at != n)
        IV_FAIL(IV_INTERNAL, "adding sums of passes: the parts do not make up the %lld grains",
                (long long)grains);
    *out_temps = f.most;
    return IV_OK;
}
