/* exec.c: running a plan and printing it. */
#include "plan.h"

#include "pieces.h"

iv_status iv__plan_run_step(iv__plan *p, int64_t i)
{
    const iv_backend *vt = p->device->vt;
    void *q = p->device->queue;
    iv__step *s = &p->steps[i];
    iv_status st = IV_OK;
    switch (s->kind) {
    case IV_STEP_LAUNCH: st = vt->launch(q, s->kernel, &s->launch); break;
    case IV_STEP_CALL: st = s->impl->run(q, s->prepared, s->io); break;
    case IV_STEP_FILL: st = vt->fill(q, s->launch.buf[0], 0); break;
    case IV_STEP_SEND: st = iv__pieces_send(p->store->pieces, p, s->set); break;
    case IV_STEP_AWAIT: st = iv__pieces_await(p->store->pieces, p, s->set); break;
    }
    if (st == IV_OK) return st;
    return iv__context(st, "running step %lld (%s) of %s", (long long)i, s->label,
                       s->node >= 0 ? p->graph->nodes[s->node].name : "the plan");
}

iv_status iv__plan_run(iv__plan *p)
{
    for (int64_t i = 0; i < p->n_steps; ++i) IV_TRY(iv__plan_run_step(p, i));
    return IV_OK;
}

iv_status iv__plan_serve(iv__plan *p)
{
    for (int64_t i = 0; i < p->n_steps; ++i)
        if (p->steps[i].kind == IV_STEP_SEND || p->steps[i].kind == IV_STEP_AWAIT)
            IV_TRY(iv__plan_run_step(p, i));
    return IV_OK;
}

iv_status iv__plan_write(iv__plan *p, int32_t value, const void *src)
{
    iv_buffer b = iv__plan_range(p, value);
    b.bytes = iv_shape_count(&p->graph->values[value].shape) *
              (int64_t)iv_dtype_bytes(p->graph->values[value].dtype);
    return p->device->vt->write(p->device->queue, b, src); /* a device works on meanwhile */
}

iv_status iv__plan_uniforms(iv__plan *p, const iv_uniforms *u)
{
    return p->device->vt->write(p->device->queue, iv__memory_range(&p->uniform_mem, 0, sizeof(*u)),
                                u);
}

static void print_value(const iv__plan *p, iv__text *t, int32_t v)
{
    static const char *const arenas[IV_ARENA_COUNT] = {"-",       "param", "grad", "state",
                                                       "lowered", "input", "temp"};
    const iv__value *value = &p->graph->values[v];
    const iv__place *pl = &p->places[p->layouts[v].base];
    char shape[128];
    iv__text_printf(t, " %s%s@%s", iv_dtype_name(value->dtype),
                    iv__shape_text(&value->shape, shape, sizeof(shape)), arenas[pl->arena]);
    if (pl->arena == IV_ARENA_TEMP || pl->arena == IV_ARENA_INPUT)
        iv__text_printf(t, "+%lld", (long long)pl->offset);
}

void iv__plan_print(const iv__plan *p, iv__text *t, bool refused)
{
    for (int64_t i = 0; i < p->n_steps; ++i) {
        const iv__step *s = &p->steps[i];
        const bool moves = s->kind == IV_STEP_SEND || s->kind == IV_STEP_AWAIT;
        const char *node = s->node >= 0 ? p->graph->nodes[s->node].name : moves ? "" : "update";
        iv__text_printf(t, "%4lld  %-22s %-34s", (long long)i, s->label, node);
        for (int32_t k = 0; k < s->n_values; ++k) print_value(p, t, s->values[k]);
        iv__text_printf(t, "\n");
    }
    if (refused && p->notes.s) iv__text_printf(t, "%s", p->notes.s);
}
