/* plan_steps.c: the pieces that planning is made of: layouts of values, and steps that run an
 * element program, copy, fill or launch a portable kernel (the services of lower.h). */
#include "plan_build.h"

/* ---- values and layouts ---- */

iv_status iv__plan_room(iv__plan *p)
{
    IV_TRY(iv__reserve(&p->layouts, &p->cap_layouts, p->graph->n_values, sizeof(*p->layouts),
                       "layouts"));
    return iv__reserve(&p->places, &p->cap_places, p->graph->n_values, sizeof(*p->places),
                       "places");
}

void iv__row_major(const iv_shape *s, int64_t *stride)
{
    int64_t at = 1;
    for (int32_t i = s->rank - 1; i >= 0; --i) {
        stride[i] = at;
        at *= s->dim[i];
    }
}

const iv__value *iv__plan_value(const iv__plan *p, int32_t v)
{
    return &p->graph->values[v];
}

/* Whether the elements of v lie in row-major order without gaps (sizes of 1 may have any stride).
 */
bool iv__plan_contiguous(const iv__plan *p, int32_t v)
{
    const iv_shape *s = &iv__plan_value(p, v)->shape;
    int64_t want[IV_MAX_RANK];
    iv__row_major(s, want);
    for (int32_t i = 0; i < s->rank; ++i)
        if (s->dim[i] != 1 && p->layouts[v].stride[i] != want[i]) return false;
    return true;
}

/* v owns its bytes, in row-major order. */
void iv__plan_own(iv__plan *p, int32_t v, iv__arena arena)
{
    const iv__value *value = iv__plan_value(p, v);
    p->layouts[v] = (iv__layout){.base = v};
    iv__row_major(&value->shape, p->layouts[v].stride);
    p->places[v] =
        (iv__place){.arena = arena,
                    .bytes = iv_shape_count(&value->shape) * (int64_t)iv_dtype_bytes(value->dtype),
                    .first = -1,
                    .last = -1};
}

iv_status iv__plan_temp(iv__plan *p, iv_dtype t, iv_shape s, int32_t *out)
{
    iv_graph *g = p->graph;
    IV_TRY(iv__reserve(&g->values, &g->cap_values, g->n_values + 1, sizeof(*g->values), "values"));
    g->values[g->n_values] =
        (iv__value){.dtype = t, .shape = s, .node = -1, .grad = -1, .updates = -1, .name = ""};
    *out = (int32_t)g->n_values++;
    IV_TRY(iv__plan_room(p));
    iv__plan_own(p, *out, IV_ARENA_TEMP);
    return IV_OK;
}

iv__view iv__plan_view(const iv__plan *p, int32_t v)
{
    iv__view w = {
        .value = v, .dtype = iv__plan_value(p, v)->dtype, .shape = iv__plan_value(p, v)->shape};
    memcpy(w.stride, p->layouts[v].stride, sizeof(w.stride));
    return w;
}

/* ---- steps ---- */

iv_status iv__plan_add_step(iv__plan *p, const iv__step *s)
{
    IV_TRY(iv__reserve(&p->steps, &p->cap_steps, p->n_steps + 1, sizeof(*p->steps), "steps"));
    p->steps[p->n_steps++] = *s;
    return IV_OK;
}

void iv__plan_add_value(iv__step *s, const iv__plan *p, int32_t v)
{
    s->values[s->n_values] = v;
    s->elem_offset[s->n_values++] = p->layouts[v].offset;
}

/* Merges neighbouring dimensions that all operands walk through evenly; returns the new number. */
static int32_t collapse(int32_t rank, int64_t *dim, int64_t stride[][IV_MAX_RANK], int32_t n)
{
    int32_t out = 0;
    for (int32_t i = 0; i < rank; ++i) {
        if (dim[i] == 1) continue;
        bool merge = out > 0;
        for (int32_t k = 0; merge && k < n; ++k)
            merge = stride[k][out - 1] == stride[k][i] * dim[i];
        if (!merge) ++out;
        dim[out - 1] = merge ? dim[out - 1] * dim[i] : dim[i];
        for (int32_t k = 0; k < n; ++k) stride[k][out - 1] = stride[k][i];
    }
    if (out == 0) {
        dim[0] = 1;
        for (int32_t k = 0; k < n; ++k) stride[k][0] = 0;
        out = 1;
    }
    return out;
}

/* Fills the index space of a program: output dst, inputs broadcast to its shape. */
static iv_status program_space(const iv__plan *p, iv_program *prog, const iv_shape *s,
                               const iv__layout *dst, const int32_t *in)
{
    int64_t dim[IV_MAX_RANK] = {0}, stride[IV_PROGRAM_INPUTS + 1][IV_MAX_RANK] = {{0}};
    char text[128];
    memcpy(dim, s->dim, sizeof(dim));
    for (int32_t i = 0; i < s->rank; ++i) stride[prog->n_in][i] = dst->stride[i];
    for (int32_t k = 0; k < prog->n_in; ++k) {
        const iv_shape *si = &iv__plan_value(p, in[k])->shape;
        for (int32_t i = 1; i <= si->rank; ++i)
            stride[k][s->rank - i] =
                si->dim[si->rank - i] == 1 ? 0 : p->layouts[in[k]].stride[si->rank - i];
    }
    prog->n_dims = collapse(s->rank, dim, stride, prog->n_in + 1);
    if (prog->n_dims > IV_PROGRAM_DIMS)
        IV_FAIL(IV_UNSUPPORTED,
                "an element-wise operator over shape %s needs %d index dimensions, %d are possible",
                iv__shape_text(s, text, sizeof(text)), prog->n_dims, IV_PROGRAM_DIMS);
    for (int32_t i = 0; i < prog->n_dims; ++i) {
        prog->dim[i] = dim[i];
        for (int32_t k = 0; k < prog->n_in; ++k) prog->in_stride[k][i] = stride[k][i];
        prog->out_stride[i] = stride[prog->n_in][i];
    }
    return IV_OK;
}

/* A launch of `prog` over shape s, from values in[] to value out laid out as dst. */
iv_status iv__plan_add_program(iv__plan *p, int32_t node, iv_program *prog, const iv_shape *s,
                               const int32_t *in, int32_t out, const iv__layout *dst)
{
    IV_TRY(program_space(p, prog, s, dst, in));
    int64_t count = iv_shape_count(s);
    prog->rng_per_sample = prog->uses_rng ? count / p->samples : 0;
    iv__step step = {.kind = IV_STEP_LAUNCH, .node = node, .uses_rng = prog->uses_rng};
    snprintf(step.label, sizeof(step.label), "elements:%d", prog->n_ops);
    for (int32_t k = 0; k < prog->n_in; ++k) iv__plan_add_value(&step, p, in[k]);
    iv__plan_add_value(&step, p, out);
    step.elem_offset[prog->n_in] = dst->offset;
    step.launch.n_bufs = step.n_values + prog->uses_rng;
    step.launch.groups = (count + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE;
    IV_TRY(iv__device_program(p->device, prog, &step.kernel));
    return iv__plan_add_step(p, &step);
}

/* What a copy of elements of type t moves them as: i32 travels in f32, whose bits a copy keeps. */
static iv_dtype copied_as(iv_dtype t)
{
    return t == IV_I32 ? IV_F32 : t;
}

/* Copies value `from` (any view) to elements of `to` laid out as dst, converting the float type. */
iv_status iv__plan_add_copy(iv__plan *p, int32_t node, int32_t from, int32_t to,
                            const iv__layout *dst)
{
    iv_dtype a = iv__plan_value(p, from)->dtype, b = iv__plan_value(p, to)->dtype;
    iv_program prog;
    if (a != b && (a == IV_I32 || b == IV_I32))
        IV_FAIL(IV_UNSUPPORTED, "copying %s to %s", iv_dtype_name(a), iv_dtype_name(b));
    a = copied_as(a);
    b = copied_as(b);
    if (!iv_dtype_is_float(a) || !iv_dtype_is_float(b))
        IV_FAIL(IV_UNSUPPORTED, "copying %s to %s", iv_dtype_name(a), iv_dtype_name(b));
    memset(&prog, 0, sizeof(prog));
    prog.n_in = prog.n_ops = 1;
    prog.compute = a == IV_F64 || b == IV_F64 ? IV_F64 : IV_F32;
    prog.in_type[0] = (uint8_t)a;
    prog.out_type = (uint8_t)b;
    prog.out_reg = 1;
    prog.ops[0] = (iv_program_op){.op = IV_OP_CAST, .dst = 1, .round = (uint8_t)b};
    iv_shape s = iv__plan_value(p, from)->shape;
    return iv__plan_add_program(p, node, &prog, &s, &from, to, dst);
}

iv_status iv__plan_add_fill(iv__plan *p, int32_t node, int32_t v)
{
    iv__step step = {.kind = IV_STEP_FILL, .node = node, .label = "zero"};
    iv__plan_add_value(&step, p, v);
    return iv__plan_add_step(p, &step);
}

/* ---- lower.h ---- */

iv__view iv__lower_in(iv__lower *l, const iv__node *n, int32_t i)
{
    return iv__plan_view(l->p, n->in[i]);
}

iv__view iv__lower_out(iv__lower *l, const iv__node *n, int32_t i)
{
    return iv__plan_view(l->p, n->out[i]);
}

iv_status iv__lower_temp(iv__lower *l, iv_dtype t, iv_shape s, iv__view *out)
{
    int32_t v;
    IV_TRY(iv__plan_temp(l->p, t, s, &v));
    *out = iv__plan_view(l->p, v);
    return IV_OK;
}

int64_t iv__lower_segments(const iv__lower *l, const iv__node *n)
{
    return n->segments ? l->p->graph->grains : 1;
}

iv_status iv__lower_launch(iv__lower *l, const iv__emit *e)
{
    iv__step step = {.kind = IV_STEP_LAUNCH, .node = l->node};
    snprintf(step.label, sizeof(step.label), "%s_%s", e->name, e->sig);
    for (int32_t i = 0; i < e->n_bufs; ++i) iv__plan_add_value(&step, l->p, e->buf[i].value);
    step.launch.n_bufs = e->n_bufs;
    step.launch.groups = e->groups;
    memcpy(step.launch.n, e->n, sizeof(step.launch.n));
    memcpy(step.launch.f, e->f, sizeof(step.launch.f));
    IV_TRY(iv__device_kernel(l->p->device, e->file, e->name, e->sig, &step.kernel));
    return iv__plan_add_step(l->p, &step);
}

iv_status iv__lower_zero(iv__lower *l, iv__view v)
{
    return iv__plan_add_fill(l->p, l->node, v.value);
}
