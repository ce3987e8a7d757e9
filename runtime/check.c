/* check.c: two devices, one training step, operator by operator: where do the bits part?
 *
 * Both trainers have the same graph, so their plans do the same nodes in the same order, each in
 * the steps that its device needs.  After the steps of a node both devices hold its results; they
 * are read and compared before anything uses their memory again.  The first difference ends the
 * walk: whatever comes after it only repeats it.  A NaN is as good as any other. */
#include "plan_build.h"
#include "trainer.h"

typedef struct pair {
    iv__plan *a, *b;
    iv_check_report *r;
} pair;

static bool is_nan(iv_dtype t, uint64_t bits)
{
    switch (t) {
    case IV_F64: return (bits & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
    case IV_F32: return (bits & 0x7fffffffu) > 0x7f800000u;
    case IV_BF16: return (bits & 0x7fffu) > 0x7f80u;
    case IV_F16: return (bits & 0x7fffu) > 0x7c00u;
    default: return false;
    }
}

static void name_element(const iv_shape *s, int64_t e, iv_check_report *r)
{
    iv__text t = {0};
    int64_t index[IV_MAX_RANK];
    for (int32_t i = s->rank - 1; i >= 0; --i) {
        index[i] = e % s->dim[i];
        e /= s->dim[i];
    }
    iv__text_printf(&t, "[");
    for (int32_t i = 0; i < s->rank; ++i)
        iv__text_printf(&t, "%s%lld", i ? "," : "", (long long)index[i]);
    iv__text_printf(&t, "]");
    snprintf(r->index, sizeof(r->index), "%s", t.s ? t.s : "");
    iv__text_free(&t);
}

/* Counts the elements that differ; the first one is described. */
static void compare_bits(const char *x, const char *y, iv_dtype t, const iv_shape *s,
                         iv_check_report *r)
{
    const size_t size = iv_dtype_bytes(t);
    const int64_t n = iv_shape_count(s);
    ++r->compared;
    if (memcmp(x, y, (size_t)n * size) == 0) return;
    r->elements = n;
    for (int64_t i = 0; i < n; ++i) {
        uint64_t p = 0, q = 0;
        memcpy(&p, x + (size_t)i * size, size);
        memcpy(&q, y + (size_t)i * size, size);
        if (p == q || (is_nan(t, p) && is_nan(t, q))) continue;
        if (r->different++ > 0) continue;
        r->element = i;
        r->bits[0] = p;
        r->bits[1] = q;
        r->type = t;
        name_element(s, i, r);
    }
}

static iv_status compare_buffers(const pair *p, iv_buffer x, iv_buffer y, iv_dtype t,
                                 const iv_shape *s)
{
    char *host;
    const int64_t bytes = iv_shape_count(s) * (int64_t)iv_dtype_bytes(t);
    if (bytes == 0) return IV_OK;
    IV_TRY(iv__calloc(2 * bytes, 1, "a look at a tensor", &host));
    x.bytes = y.bytes = bytes;
    iv_status status = iv__device_read(p->a->device, host, x);
    if (status == IV_OK) status = iv__device_read(p->b->device, host + bytes, y);
    if (status == IV_OK) compare_bits(host, host + bytes, t, s, p->r);
    free(host);
    return status;
}

/* Whether value v has its bytes to itself and still holds them after step i. */
static bool holds(const iv__plan *p, int32_t v, int64_t i)
{
    const iv__place *pl = &p->places[v];
    if (p->layouts[v].base != v || pl->arena == IV_ARENA_NONE || pl->bytes == 0) return false;
    return iv__plan_contiguous(p, v) && (pl->arena != IV_ARENA_TEMP || pl->last >= i);
}

/* Runs the steps of one node from *i on; its label is that of its last step. */
static iv_status run_node(iv__plan *p, int32_t node, int64_t *i, char *label, size_t size)
{
    for (; *i < p->n_steps && p->steps[*i].node == node; ++*i) {
        IV_TRY(iv__plan_run_step(p, *i));
        snprintf(label, size, "%s", p->steps[*i].label);
    }
    return IV_OK;
}

static iv_status check_node(const pair *p, int32_t node, int64_t i, int64_t j)
{
    iv_check_report *r = p->r;
    const iv__node *n = &p->a->graph->nodes[node];
    const iv__node *m = &p->b->graph->nodes[node];
    for (int32_t k = 0; k < n->n_out && r->different == 0; ++k) {
        const int32_t v = n->out[k], w = m->out[k];
        const iv__value *x = iv__plan_value(p->a, v), *y = iv__plan_value(p->b, w);
        if (!holds(p->a, v, i) || !holds(p->b, w, j)) continue;
        if (x->dtype != y->dtype) IV_FAIL(IV_INTERNAL, "%s has two types", n->name);
        IV_TRY(compare_buffers(p, iv__plan_range(p->a, v), iv__plan_range(p->b, w), x->dtype,
                               &x->shape));
        snprintf(r->node, sizeof(r->node), "%s", n->name);
        snprintf(r->op, sizeof(r->op), "%s", iv__ops[n->op].name);
        r->output = k;
    }
    return IV_OK;
}

static iv_status check_plan(const pair *p)
{
    int64_t i = 0, j = 0;
    iv_check_report *r = p->r;
    while (r->different == 0 && (i < p->a->n_steps || j < p->b->n_steps)) {
        const int32_t node = i < p->a->n_steps ? p->a->steps[i].node : -2;
        if (j >= p->b->n_steps || p->b->steps[j].node != node)
            IV_FAIL(IV_INTERNAL, "comparing devices: their plans part at step %lld", (long long)i);
        IV_TRY(run_node(p->a, node, &i, r->label[0], sizeof(r->label[0])));
        IV_TRY(run_node(p->b, node, &j, r->label[1], sizeof(r->label[1])));
        if (node >= 0) IV_TRY(check_node(p, node, i - 1, j - 1));
    }
    return IV_OK;
}

/* The slots of an arena, one after another. */
static iv_status check_slots(const pair *p, const char *what, const iv__slot *slots, int64_t n,
                             const iv__memory *x, const iv__memory *y, iv_dtype t)
{
    iv_check_report *r = p->r;
    for (int64_t i = 0; i < n && r->different == 0 && x->bytes > 0; ++i) {
        IV_TRY(compare_buffers(p, iv__slot_range(x, &slots[i], t), iv__slot_range(y, &slots[i], t),
                               t, &slots[i].shape));
        snprintf(r->node, sizeof(r->node), "%s", slots[i].name);
        snprintf(r->op, sizeof(r->op), "%s", what);
        r->output = 0;
        for (int k = 0; k < 2; ++k) snprintf(r->label[k], sizeof(r->label[k]), "%s", what);
    }
    return IV_OK;
}

static iv_status check_arenas(const pair *p)
{
    const iv__store *a = p->a->store, *b = p->b->store;
    IV_TRY(
        check_slots(p, "parameter", a->params, a->n_params, &a->param_mem, &b->param_mem, a->type));
    for (int k = 0; k < 2; ++k)
        IV_TRY(check_slots(p, "optimizer state", a->params, a->n_params, &a->moment_mem[k],
                           &b->moment_mem[k], a->type));
    return check_slots(p, "statistics", a->states, a->n_states, &a->state_mem, &b->state_mem,
                       a->type);
}

/* What the first replica trains with. */
static iv__program *program_of(const iv_trainer *t)
{
    return &t->workers.replicas[0]->programs[0];
}

void iv__trainer_make_samples(iv_trainer *t)
{
    const iv__program *p = program_of(t);
    const iv__value *x = &p->graph->values[p->io.x.id],
                    *logits = &p->graph->values[p->io.logits.id];
    const uint64_t classes = (uint64_t)logits->shape.dim[logits->shape.rank - 1];
    const int64_t n = (int64_t)t->x_bytes / 4 * t->batch * t->accumulate,
                  m = t->y_count * t->batch * t->accumulate;
    uint64_t state = 1;
    for (int64_t i = 0; i < n + m; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const uint64_t random = state >> 33;
        const int32_t id = (int32_t)(random % classes);
        const float pixel = (float)(random >> 7) * 0x1p-24f;
        if (i >= n) t->y[i - n] = id;
        else if (x->dtype == IV_I32) memcpy(t->x + 4 * i, &id, 4);
        else memcpy(t->x + 4 * i, &pixel, 4);
    }
}

static iv_status feed(iv_trainer *t)
{
    const iv_uniforms u = {t->seed, (uint64_t)t->step, 0};
    iv__program *p = program_of(t);
    iv__trainer_make_samples(t);
    IV_TRY(iv__plan_uniforms(p->plan, &u));
    const double n = (double)iv__count_targets(p, t->y, p->batch * t->y_count);
    return iv__program_feed(t, p, t->x, t->y, n, 1);
}

/* Devices may choose other kernels, not other nodes. */
static iv_status same_graphs(const iv_graph *a, const iv_graph *b)
{
    bool same = a->n_nodes == b->n_nodes;
    for (int32_t i = 0; same && i < a->n_nodes; ++i)
        same = a->nodes[i].op == b->nodes[i].op && strcmp(a->nodes[i].name, b->nodes[i].name) == 0;
    if (!same) IV_FAIL(IV_INVALID, "comparing devices: the two trainers have different models");
    return IV_OK;
}

iv_status iv_trainer_check(iv_trainer *a, iv_trainer *b, iv_check_report *out)
{
    iv_check_report r = {0};
    const pair p = {program_of(a)->plan, program_of(b)->plan, &r};
    iv_step_report ignored;
    IV_TRY(same_graphs(p.a->graph, p.b->graph));
    IV_TRY(check_arenas(&p));
    if (r.different == 0) {
        IV_TRY(feed(a));
        IV_TRY(feed(b));
        IV_TRY(check_plan(&p));
    }
    if (r.different == 0) {
        IV_TRY(iv_trainer_step_on(a, a->x, a->y, &ignored));
        IV_TRY(iv_trainer_step_on(b, b->x, b->y, &ignored));
        IV_TRY(check_arenas(&p));
    }
    *out = r;
    return IV_OK;
}
