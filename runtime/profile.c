/* profile.c: the time of each step of a training step, measured alone (see iv__trainer_profile).
 *
 * A step of the plan is run and waited for, several times, and the shortest time counts; so
 * launches do not overlap, and the sum is more than a whole step takes.  Steps that work in place
 * see their own results again: the numbers become meaningless, the work stays the same. */
#include "bench.h"

#include <time.h>

static int64_t operand_bytes(const iv__plan *p, const iv__step *s)
{
    int64_t sum = 0;
    for (int32_t k = 0; k < s->n_values; ++k) {
        const iv__value *v = &p->graph->values[s->values[k]];
        const iv__place *base = &p->places[p->layouts[s->values[k]].base];
        const int64_t own = iv_shape_count(&v->shape) * (int64_t)iv_dtype_bytes(v->dtype);
        sum += IV_MIN2(own, base->bytes);
    }
    return sum;
}

static double count(const iv_graph *g, int32_t v)
{
    return (double)iv_shape_count(&g->values[v].shape);
}

/* Multiplications and additions of products; 0 for other operators. */
static double node_flops(const iv_graph *g, const iv__node *n)
{
    const iv_shape *a = &g->values[n->in[0]].shape;
    switch (n->op) {
    case IV_OP_MATMUL:
        return 2 * count(g, n->out[0]) * (double)a->dim[a->rank - 1 - (n->attr[IV_A_TA] != 0)];
    case IV_OP_ATTENTION: /* two products of [Tq, Tk] by D; five backward */
    case IV_OP_ATTENTION_GRAD: {
        const double products = n->op == IV_OP_ATTENTION ? 2 : 5;
        const double keys = (double)g->values[n->in[1]].shape.dim[1];
        return products * 2 * count(g, n->in[0]) * keys / (n->attr[IV_A_CAUSAL] ? 2 : 1);
    }
    case IV_OP_CONV2D: {
        const iv_shape *w = &g->values[n->in[1]].shape;
        return 2 * count(g, n->out[0]) * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
    }
    case IV_OP_CONV2D_DGRAD: { /* of dy, weight */
        const iv_shape *w = &g->values[n->in[1]].shape;
        return 2 * count(g, n->in[0]) * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
    }
    case IV_OP_CONV2D_WGRAD: { /* of dy, x */
        const iv_shape *w = &g->values[n->out[0]].shape;
        return 2 * count(g, n->in[0]) * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
    }
    default: return 0;
    }
}

/* Those of the node whose last step this is, else 0: an operator may take several launches. */
double iv__step_flops(const iv__plan *p, int64_t i)
{
    const int32_t node = p->steps[i].node;
    if (node < 0 || (i + 1 < p->n_steps && p->steps[i + 1].node == node)) return 0;
    return node_flops(p->graph, &p->graph->nodes[node]);
}

typedef iv_status timed_fn(iv_trainer *t, int64_t i);

/* What the first replica trains with. */
static iv__plan *plan_of(const iv_trainer *t)
{
    return t->workers.replicas[0]->programs[0].plan;
}

static iv_status run_step(iv_trainer *t, int64_t i)
{
    return iv__plan_run_step(plan_of(t), i);
}

static iv_status run_norm(iv_trainer *t, int64_t i)
{
    double norm;
    bool finite;
    (void)i;
    IV_TRY(iv__optim_norm_blocks(t->workers.replicas[0]->optim, 0, 0, 1));
    return iv__optim_norm(t->workers.replicas[0]->optim, &norm, &finite);
}

static iv_status run_update(iv_trainer *t, int64_t i)
{
    (void)i;
    return iv__optim_update(t->workers.replicas[0]->optim, 0);
}

static iv_status run_whole(iv_trainer *t, int64_t i)
{
    iv_step_report r;
    (void)i;
    return iv_trainer_step_on(t, t->x, t->y, &r);
}

static int64_t processor_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) != 0) return 0;
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static iv_status measure(iv_trainer *t, timed_fn *fn, int64_t i, int64_t runs, iv__step_time *out)
{
    out->ns = out->cpu_ns = INT64_MAX;
    for (int64_t r = 0; r <= runs; ++r) { /* the first only warms up */
        const int64_t begin = iv__now_ns(), cpu = processor_ns();
        IV_TRY(fn(t, i));
        IV_TRY(t->device->vt->sync(t->device->queue));
        if (r == 0) continue;
        out->ns = IV_MIN2(out->ns, iv__now_ns() - begin);
        out->cpu_ns = IV_MIN2(out->cpu_ns, processor_ns() - cpu);
    }
    return IV_OK;
}

static iv_status measure_all(iv_trainer *t, int64_t runs, iv__step_time *rows)
{
    iv__plan *p = plan_of(t);
    const iv__store *store = t->store;
    iv__step_time *norm = &rows[p->n_steps], *update = norm + 1, *whole = update + 1;
    const int64_t moments = store->moment_mem[0].bytes + store->moment_mem[1].bytes;
    *whole = (iv__step_time){.label = "whole step", .node = ""};
    iv__trainer_make_samples(t);
    IV_TRY(measure(t, run_whole, 0, runs, whole)); /* first: the numbers are good yet */
    for (int64_t i = 0; i < p->n_steps; ++i) {
        const iv__step *s = &p->steps[i];
        rows[i] = (iv__step_time){.label = s->label,
                                  .node = s->node >= 0 ? p->graph->nodes[s->node].name : "update",
                                  .bytes = operand_bytes(p, s),
                                  .flops = iv__step_flops(p, i)};
        IV_TRY(measure(t, run_step, i, runs, &rows[i]));
    }
    *norm = (iv__step_time){.label = "gradient norm", .node = "", .bytes = store->param_mem.bytes};
    *update = (iv__step_time){.label = "update",
                              .node = "",
                              .bytes = 3 * store->param_mem.bytes + 2 * moments +
                                       store->lowered_mem.bytes};
    IV_TRY(measure(t, run_norm, 0, runs, norm));
    return measure(t, run_update, 0, runs, update);
}

iv_status iv__trainer_profile(iv_trainer *t, int64_t runs, iv__step_time **out, int64_t *out_n)
{
    iv__step_time *rows;
    const int64_t n = plan_of(t)->n_steps + 3;
    if (runs < 1) IV_FAIL(IV_INVALID, "measuring a step: %lld runs", (long long)runs);
    IV_TRY(iv__calloc(n, sizeof(*rows), "times", &rows));
    const iv_status s = measure_all(t, runs, rows);
    if (s != IV_OK) {
        free(rows);
        return s;
    }
    *out = rows;
    *out_n = n;
    return IV_OK;
}
