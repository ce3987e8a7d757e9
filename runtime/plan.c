/* plan.c: graph to plan (see plan.h).
 *
 * 1. every node becomes steps: views cost nothing, element programs and copies are launches, other
 *    operators go to an implementation of the backend or to portable kernels (lower_*.c)
 * 2. liveness by step, memory planned, values bound to buffers
 * 3. kernels built */
#include "plan_build.h"

typedef iv_status lower_fn(iv__lower *, const iv__node *);
static const struct {
    lower_fn *fn;
    bool strided;
} lowerings[IV_OP_COUNT] = {
#define X(OP, name, strided_inputs) [IV_OP_##OP] = {iv__lower_##name, strided_inputs},
    IV_LOWERINGS(X)
#undef X
};

/* ---- nodes to steps ---- */

/* A contiguous copy of view v, or v itself. */
static iv_status contiguous(iv__plan *p, int32_t node, int32_t *v)
{
    if (iv__plan_contiguous(p, *v)) return IV_OK;
    int32_t copy;
    IV_TRY(iv__plan_temp(p, iv__plan_value(p, *v)->dtype, iv__plan_value(p, *v)->shape, &copy));
    IV_TRY(iv__plan_add_copy(p, node, *v, copy, &p->layouts[copy]));
    *v = copy;
    return IV_OK;
}

static iv_status plan_reshape(iv__plan *p, int32_t node, const iv__node *n)
{
    int32_t v = n->in[0];
    IV_TRY(contiguous(p, node, &v));
    iv__layout *l = &p->layouts[n->out[0]];
    *l = (iv__layout){.base = p->layouts[v].base, .offset = p->layouts[v].offset};
    iv__row_major(&iv__plan_value(p, n->out[0])->shape, l->stride);
    return IV_OK;
}

static iv_status plan_transpose(iv__plan *p, int32_t node, const iv__node *n)
{
    (void)node;
    const iv__layout *in = &p->layouts[n->in[0]];
    iv__layout out = {.base = in->base, .offset = in->offset};
    for (int32_t i = 0; i < iv__plan_value(p, n->in[0])->shape.rank; ++i)
        out.stride[i] = in->stride[n->attr[IV_A_AXES + i]];
    p->layouts[n->out[0]] = out;
    return IV_OK;
}

static iv_status plan_slice(iv__plan *p, int32_t node, const iv__node *n)
{
    (void)node;
    iv__layout out = p->layouts[n->in[0]];
    out.offset += n->attr[IV_A_START] * out.stride[n->attr[IV_A_AXIS]];
    p->layouts[n->out[0]] = out;
    return IV_OK;
}

static iv_status plan_broadcast(iv__plan *p, int32_t node, const iv__node *n)
{
    (void)node;
    const iv_shape *a = &iv__plan_value(p, n->in[0])->shape,
                   *b = &iv__plan_value(p, n->out[0])->shape;
    const iv__layout *in = &p->layouts[n->in[0]];
    iv__layout out = {.base = in->base, .offset = in->offset};
    for (int32_t i = 1; i <= a->rank; ++i)
        out.stride[b->rank - i] =
            a->dim[a->rank - i] == b->dim[b->rank - i] ? in->stride[a->rank - i] : 0;
    p->layouts[n->out[0]] = out;
    return IV_OK;
}

/* The elements of value v from `start` along `axis`, as a destination. */
static iv__layout part_of(const iv__plan *p, int32_t v, int64_t axis, int64_t start)
{
    iv__layout l = p->layouts[v];
    l.offset += start * l.stride[axis];
    return l;
}

static iv_status plan_concat(iv__plan *p, int32_t node, const iv__node *n)
{
    int64_t at = 0, axis = n->attr[IV_A_AXIS];
    iv__plan_own(p, n->out[0], IV_ARENA_TEMP);
    for (int32_t i = 0; i < n->n_in; ++i) {
        iv__layout dst = part_of(p, n->out[0], axis, at);
        at += iv__plan_value(p, n->in[i])->shape.dim[axis];
        IV_TRY(iv__plan_add_copy(p, node, n->in[i], n->out[0], &dst));
    }
    return IV_OK;
}

static iv_status plan_pad(iv__plan *p, int32_t node, const iv__node *n)
{
    iv__plan_own(p, n->out[0], IV_ARENA_TEMP);
    iv__layout dst = part_of(p, n->out[0], n->attr[IV_A_AXIS], n->attr[IV_A_START]);
    IV_TRY(iv__plan_add_fill(p, node, n->out[0]));
    return iv__plan_add_copy(p, node, n->in[0], n->out[0], &dst);
}

/* A lone cast of a parameter is the parameter in the lowered arena: made once per update, for all.
 */
static bool is_lowered_param(const iv__plan *p, const iv__node *n)
{
    const iv__value *in = iv__plan_value(p, n->in[0]), *out = iv__plan_value(p, n->out[0]);
    return n->program->n_ops == 1 && n->program->ops[0].op == IV_OP_CAST &&
           in->role == IV_ROLE_PARAM && iv_dtype_bytes(out->dtype) < iv_dtype_bytes(in->dtype);
}

static iv_status plan_elements(iv__plan *p, int32_t node, const iv__node *n)
{
    int32_t out = n->out[0];
    if (is_lowered_param(p, n)) {
        IV_TRY(iv__store_lowered(p->store, iv__plan_value(p, out)->dtype));
        iv__plan_own(p, out, IV_ARENA_LOWERED);
        int64_t i =
            iv__store_find(p->store->params, p->store->n_params, iv__plan_value(p, n->in[0])->name);
        p->places[out].offset =
            p->store->params[i].offset * (int64_t)iv_dtype_bytes(iv__plan_value(p, out)->dtype);
        return IV_OK;
    }
    iv__plan_own(p, out, IV_ARENA_TEMP);
    return iv__plan_add_program(p, node, n->program, &iv__plan_value(p, out)->shape, n->in, out,
                                &p->layouts[out]);
}

typedef iv_status plan_fn(iv__plan *, int32_t node, const iv__node *);
static plan_fn *const structural[IV_OP_COUNT] = {
    [IV_OP_RESHAPE] = plan_reshape,   [IV_OP_TRANSPOSE] = plan_transpose,
    [IV_OP_SLICE] = plan_slice,       [IV_OP_BROADCAST] = plan_broadcast,
    [IV_OP_CONCAT] = plan_concat,     [IV_OP_PAD] = plan_pad,
    [IV_OP_ELEMENTS] = plan_elements,
};

static iv_tensor_desc tensor_desc(const iv__plan *p, int32_t v)
{
    iv_tensor_desc d = {.dtype = iv__plan_value(p, v)->dtype, .shape = iv__plan_value(p, v)->shape};
    memcpy(d.stride, p->layouts[v].stride, sizeof(d.stride));
    return d;
}

static void describe(const iv__plan *p, const iv__node *n, iv_op_desc *d)
{
    *d = (iv_op_desc){.op = iv__ops[n->op].name,
                      .n_in = n->n_in,
                      .n_out = n->n_out,
                      .segments = n->segments ? p->graph->grains : 1,
                      .invariant = p->device->invariant};
    memcpy(d->attr, n->attr, sizeof(d->attr));
    memcpy(d->fattr, n->fattr, sizeof(d->fattr));
    for (int32_t i = 0; i < n->n_in; ++i) d->in[i] = tensor_desc(p, n->in[i]);
    for (int32_t i = 0; i < n->n_out; ++i) d->out[i] = tensor_desc(p, n->out[i]);
}

static iv_status add_call(iv__plan *p, int32_t node, const iv__node *n, const iv_impl *impl,
                          void *prepared, int64_t scratch)
{
    iv__step step = {.kind = IV_STEP_CALL, .node = node, .impl = impl, .prepared = prepared};
    snprintf(step.label, sizeof(step.label), "%s", impl->name);
    for (int32_t i = 0; i < n->n_in; ++i) iv__plan_add_value(&step, p, n->in[i]);
    for (int32_t i = 0; i < n->n_out; ++i) iv__plan_add_value(&step, p, n->out[i]);
    int32_t temp;
    iv_status s = IV_OK;
    if (scratch > 0) {
        s = iv__plan_temp(p, IV_U8, IV_SHAPE(scratch), &temp);
        if (s == IV_OK) iv__plan_add_value(&step, p, temp);
    }
    if (s == IV_OK) s = iv__plan_add_step(p, &step);
    if (s != IV_OK && impl->unprepare) impl->unprepare(prepared);
    return s;
}

/* Whether an operator takes input i as the view that it is.  Those that read strided views still
 * want a bias packed, the rows of attention contiguous and few dimensions to reduce. */
static bool takes_view(const iv__plan *p, const iv__node *n, int32_t i)
{
    const iv__value *v = iv__plan_value(p, n->in[i]);
    if (!lowerings[n->op].strided) return false;
    if (n->op == IV_OP_MATMUL) return i < 2;
    if (n->op == IV_OP_SUM || n->op == IV_OP_MAX)
        return iv__reduce_takes(iv__plan_view(p, n->in[i]), n);
    if (n->op != IV_OP_ATTENTION && n->op != IV_OP_ATTENTION_GRAD) return true;
    return i != 4 && (v->shape.dim[2] == 1 || p->layouts[n->in[i]].stride[2] == 1);
}

/* Any other operator: the first implementation that accepts, or the portable kernels. */
static iv_status plan_operator(iv__plan *p, int32_t node, iv__node *n)
{
    for (int32_t i = 0; i < n->n_out; ++i) iv__plan_own(p, n->out[i], IV_ARENA_TEMP);
    for (int32_t i = 0; i < n->n_in; ++i)
        if (!takes_view(p, n, i)) IV_TRY(contiguous(p, node, &n->in[i]));
    iv_op_desc d;
    const iv_impl *impl;
    void *prepared;
    int64_t scratch;
    describe(p, n, &d);
    IV_TRY(iv__plan_choose(p, n, &d, &impl, &prepared, &scratch));
    if (impl) return add_call(p, node, n, impl, prepared, scratch);
    if (!lowerings[n->op].fn)
        IV_FAIL(IV_UNSUPPORTED, "no portable kernel for %s", iv__ops[n->op].name);
    return lowerings[n->op].fn(&(iv__lower){p, node}, n);
}

static iv_status plan_nodes(iv__plan *p)
{
    for (int32_t i = 0; i < p->graph->n_nodes; ++i) {
        iv__node n = p->graph->nodes[i]; /* inputs may become contiguous copies */
        iv_status s = structural[n.op] ? structural[n.op](p, i, &n) : plan_operator(p, i, &n);
        if (s != IV_OK) return iv__context(s, "planning %s on %s", n.name, p->device->name);
    }
    return IV_OK;
}

/* ---- leaves, gradients, updates ---- */

static int64_t aligned(int64_t x)
{
    return (x + 255) / 256 * 256;
}

static void place_input(iv__plan *p, int32_t v)
{
    p->places[v].arena = IV_ARENA_INPUT;
    p->places[v].offset = p->input_bytes;
    p->input_bytes += aligned(p->places[v].bytes);
}

static iv_status plan_leaves(iv__plan *p)
{
    int64_t params = 0, states = 0;
    for (int32_t v = 0; v < p->graph->n_values; ++v) {
        const iv__value *value = iv__plan_value(p, v);
        if (value->role == IV_ROLE_TEMP) continue;
        iv__plan_own(p, v, IV_ARENA_NONE);
        if (value->summand_of > 0) continue; /* has a gradient only */
        if (value->role == IV_ROLE_INPUT) {
            place_input(p, v);
        } else {
            bool param = value->role == IV_ROLE_PARAM;
            const iv__slot *slots = param ? p->store->params : p->store->states;
            int64_t n = param ? p->store->n_params : p->store->n_states,
                    i = param ? params++ : states++;
            if (i >= n || strcmp(slots[i].name, value->name) != 0)
                i = iv__store_find(slots, n, value->name);
            if (i < 0 || slots[i].count != iv_shape_count(&value->shape))
                IV_FAIL(IV_INTERNAL, "the store has no %s of that shape", value->name);
            p->places[v].arena = param ? IV_ARENA_PARAM : IV_ARENA_STATE;
            p->places[v].offset = slots[i].offset * (int64_t)iv_dtype_bytes(value->dtype);
            if (value->dtype == (param ? p->store->param_type : p->store->type)) continue;
            if (!param) IV_FAIL(IV_INTERNAL, "%s: statistics have the full type", value->name);
            /* Policies with masters whose graph sees the low type: the parameter is its copy. */
            IV_TRY(iv__store_lowered(p->store, value->dtype));
            p->places[v].arena = IV_ARENA_LOWERED;
        }
    }
    return IV_OK;
}

/* Whether value v can be moved to an arena of its own: a temporary that owns its bytes, whole. */
static bool can_move(const iv__plan *p, int32_t v)
{
    int32_t base = p->layouts[v].base;
    return p->places[base].arena == IV_ARENA_TEMP && iv__plan_contiguous(p, v) &&
           p->layouts[v].offset == 0 &&
           iv_shape_count(&iv__plan_value(p, v)->shape) ==
               iv_shape_count(&iv__plan_value(p, base)->shape);
}

/* Where the gradient of parameter v belongs in its arena, in elements. */
static int64_t gradient_offset(const iv__plan *p, int32_t v)
{
    const iv__store *s = p->store;
    const char *name = iv__plan_value(p, v)->name;
    if (iv__plan_value(p, v)->summand_of > 0)
        return s->summands[iv__store_find(s->summands, s->n_summands, name)].offset;
    return s->params[iv__store_find(s->params, s->n_params, name)].offset;
}

/* Value d ends in the gradient arena at element `offset`: made there where possible, else copied;
 * or goes there as a move. *out_value: the value that lies there. */
static iv_status place_sum(iv__plan *p, int32_t d, int64_t offset, int32_t *out_value)
{
    if (!can_move(p, d) || iv__plan_value(p, d)->dtype != p->store->type) {
        int32_t slot;
        IV_TRY(iv__plan_temp(p, p->store->type, iv__plan_value(p, d)->shape, &slot));
        IV_TRY(iv__plan_add_copy(p, iv__plan_value(p, d)->node, d, slot, &p->layouts[slot]));
        d = slot;
    }
    int32_t base = p->layouts[d].base;
    *out_value = d;
    if (p->store->share.stage >= 2) return iv__plan_add_sums(p, d, offset);
    p->places[base].arena = IV_ARENA_GRAD;
    p->places[base].offset = offset * (int64_t)iv_dtype_bytes(p->store->type);
    return p->store->share.ranks > 1 ? iv__plan_add_sums(p, d, offset) : IV_OK;
}

/* What a step sums over samples: gradients, statistics and the loss; and the largest magnitudes. */
static iv_status plan_sums(iv__plan *p)
{
    if (!p->graph->differentiated) return IV_OK;
    const iv__store *s = p->store;
    int64_t n_values = p->graph->n_values;
    int32_t at;
    for (int32_t v = 0; v < n_values; ++v) {
        const iv__value *value = iv__plan_value(p, v);
        if (value->role == IV_ROLE_PARAM && value->grad >= 0)
            IV_TRY(place_sum(p, value->grad, gradient_offset(p, v), &at));
        else if (value->role == IV_ROLE_STATE && value->updates >= 0)
            IV_TRY(place_sum(p, value->updates,
                             s->stat_at + p->places[v].offset / (int64_t)iv_dtype_bytes(s->type),
                             &at));
    }
    for (int32_t i = 0; i < p->graph->n_outputs; ++i) /* the loss is an output that is read there */
        if (p->graph->outputs[i].value == p->graph->loss)
            IV_TRY(place_sum(p, p->graph->loss, s->loss_at, &p->graph->outputs[i].value));
    for (int64_t i = 0; i < p->graph->n_scaled; ++i)
        IV_TRY(place_sum(p, p->graph->scaled[i].amax, s->amax_at + i, &at));
    return IV_OK;
}

/* What the host reads stays readable: its own place, contiguous. */
static iv_status plan_outputs(iv__plan *p)
{
    for (int32_t i = 0; i < p->graph->n_outputs; ++i) {
        int32_t v = p->graph->outputs[i].value;
        iv__arena arena = p->places[p->layouts[v].base].arena;
        if ((arena == IV_ARENA_INPUT || arena == IV_ARENA_GRAD) && iv__plan_contiguous(p, v))
            continue;
        if (can_move(p, v)) {
            place_input(p, p->layouts[v].base);
            continue;
        }
        int32_t copy;
        IV_TRY(iv__plan_temp(p, iv__plan_value(p, v)->dtype, iv__plan_value(p, v)->shape, &copy));
        IV_TRY(iv__plan_add_copy(p, iv__plan_value(p, v)->node, v, copy, &p->layouts[copy]));
        place_input(p, copy);
        p->graph->outputs[i].value = copy;
    }
    return IV_OK;
}

/* ---- memory and binding ---- */

/* The set of move i. */
static const iv__set *set_of(const iv__plan *p, int64_t i)
{
    const iv__set *s = p->sets;
    while (i >= s->first + s->n) ++s;
    return s;
}

/* The most bytes of temporaries of moves that live at once. */
static void count_passing(iv__plan *p)
{
    for (int64_t step = 0; p->n_moves && step < p->n_steps; ++step) {
        int64_t sum = 0;
        for (int64_t i = 0; i < p->n_moves; ++i) {
            const iv__place *pl = &p->places[p->layouts[p->moves[i].value].base];
            if (!p->moves[i].skip && pl->first <= step && step <= pl->last) sum += pl->bytes;
        }
        p->passing = IV_MAX2(p->passing, sum);
    }
}

static void find_lifetimes(iv__plan *p)
{
    for (int32_t i = 0; i < p->n_steps; ++i)
        for (int32_t k = 0; k < p->steps[i].n_values; ++k) {
            iv__place *pl = &p->places[p->layouts[p->steps[i].values[k]].base];
            if (pl->first < 0) pl->first = i;
            pl->last = i;
        }
    for (int64_t i = 0; i < p->n_moves; ++i) {
        const iv__set *s = set_of(p, i);
        iv__place *pl = &p->places[p->layouts[p->moves[i].value].base];
        pl->first = (int32_t)(pl->first < 0 ? s->send : IV_MIN2(pl->first, s->send));
        pl->last = (int32_t)IV_MAX2(pl->last, s->await);
    }
    count_passing(p);
    /* A value that no step touches needs no room. */
    for (int64_t v = 0; v < p->graph->n_values; ++v)
        if (p->places[v].arena == IV_ARENA_TEMP && p->places[v].first < 0) p->places[v].bytes = 0;
}

static const iv__memory *arena_memory(const iv__plan *p, iv__arena a)
{
    const iv__memory *m[IV_ARENA_COUNT] = {
        [IV_ARENA_PARAM] = &p->store->param_mem, [IV_ARENA_GRAD] = &p->store->grad_mem,
        [IV_ARENA_STATE] = &p->store->state_mem, [IV_ARENA_LOWERED] = &p->store->lowered_mem,
        [IV_ARENA_INPUT] = &p->input_mem,        [IV_ARENA_TEMP] = &p->temp_mem,
    };
    return m[a];
}

iv_buffer iv__plan_range(const iv__plan *p, int32_t v)
{
    const iv__layout *l = &p->layouts[v];
    const iv__place *pl = &p->places[l->base];
    const iv__memory *m = arena_memory(p, pl->arena);
    int64_t b = (int64_t)iv_dtype_bytes(iv__plan_value(p, v)->dtype), skip = l->offset * b;
    /* A view reaches to the end of its base. */
    return m ? iv__memory_range(m, pl->offset + skip, pl->bytes - skip) : (iv_buffer){0};
}

static void bind_step(const iv__plan *p, iv__step *s)
{
    for (int32_t k = 0; k < s->n_values; ++k) {
        int32_t v = s->values[k];
        iv_buffer b = iv__plan_range(p, v);
        int64_t shift = (s->elem_offset[k] - p->layouts[v].offset) *
                        (int64_t)iv_dtype_bytes(iv__plan_value(p, v)->dtype);
        b.offset += shift;
        b.bytes -= shift;
        if (s->kind == IV_STEP_CALL) s->io[k] = b;
        else s->launch.buf[k] = b;
    }
    if (s->uses_rng)
        s->launch.buf[s->n_values] = iv__memory_range(&p->uniform_mem, 0, p->uniform_mem.bytes);
    if (s->kind == IV_STEP_FILL)
        s->launch.buf[0].bytes = (s->launch.buf[0].bytes + 3) / 4 * 4; /* places are aligned */
}

static iv_status allocate(iv__plan *p, const iv__plan *spare)
{
    find_lifetimes(p);
    p->temp_bytes = iv__memplan(p->places, p->graph->n_values, &p->temp_unshared);
    if (p->temp_bytes < 0) IV_FAIL(IV_NO_MEMORY, "planning memory");
    IV_TRY(iv__memory_alloc(p->device, p->input_bytes, "inputs and outputs", &p->input_mem));
    p->temp_borrowed = spare && spare->temp_mem.bytes >= p->temp_bytes;
    if (p->temp_borrowed) p->temp_mem = spare->temp_mem;
    else IV_TRY(iv__memory_alloc(p->device, p->temp_bytes, "temporaries", &p->temp_mem));
    IV_TRY(iv__memory_alloc(p->device, sizeof(iv_uniforms), "uniforms", &p->uniform_mem));
    for (int64_t i = 0; i < p->n_steps; ++i) bind_step(p, &p->steps[i]);
    return IV_OK;
}

static iv_status build(iv__plan *p, const iv__plan *spare)
{
    IV_TRY(iv__plan_room(p));
    IV_TRY(plan_leaves(p));
    IV_TRY(plan_nodes(p));
    IV_TRY(plan_sums(p));
    IV_TRY(plan_outputs(p));
    IV_TRY(iv__plan_add_sets(p));
    return allocate(p, spare);
}

iv_status iv__plan_new(iv__store *store, iv_graph *g, int64_t samples, const iv__plan *spare,
                       iv__plan **out)
{
    iv__plan *p;
    IV_TRY(iv_graph_status(g));
    IV_TRY(iv__calloc(1, sizeof(*p), "a plan", &p));
    p->device = store->device;
    p->store = store;
    p->graph = g;
    p->samples = samples;
    iv_status s = build(p, spare);
    if (s != IV_OK) {
        iv__plan_free(p);
        return s;
    }
    *out = p;
    return IV_OK;
}

void iv__plan_free(iv__plan *p)
{
    if (!p) return;
    for (int64_t i = 0; i < p->n_steps; ++i)
        if (p->steps[i].impl && p->steps[i].impl->unprepare)
            p->steps[i].impl->unprepare(p->steps[i].prepared);
    iv__memory_free(&p->input_mem);
    if (!p->temp_borrowed) iv__memory_free(&p->temp_mem);
    iv__memory_free(&p->uniform_mem);
    iv__text_free(&p->notes);
    free(p->steps);
    free(p->layouts);
    free(p->places);
    free(p->moves);
    free(p->sets);
    free(p);
}
