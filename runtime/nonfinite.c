/* nonfinite.c: finds where a step's first infinity or NaN comes from: the plan is run again and
 * what each step wrote is looked at.  Slow, and used only when a step has failed already. */
#include "trainer.h"

static bool all_finite(const char *host, iv_dtype t, int64_t n)
{
    int64_t bytes = (int64_t)iv_dtype_bytes(t);
    for (int64_t i = 0; i < n; ++i) {
        double x = iv__dtype_get(t, host + i * bytes);
        if (x - x != 0) return false;
    }
    return true;
}

/* Whether the bytes of value v (which owns them) are finite. */
static iv_status check_value(iv__plan *p, int32_t v, bool *out)
{
    const iv__value *value = &p->graph->values[v];
    int64_t n = iv_shape_count(&value->shape);
    char *host;
    *out = true;
    if (!iv_dtype_is_float(value->dtype)) return IV_OK;
    IV_TRY(iv__calloc(n, iv_dtype_bytes(value->dtype), "a look at a tensor", &host));
    iv_buffer b = iv__plan_range(p, v);
    b.bytes = n * (int64_t)iv_dtype_bytes(value->dtype);
    iv_status s = iv__device_read(p->device, host, b);
    if (s == IV_OK) *out = all_finite(host, value->dtype, n);
    free(host);
    return s;
}

/* Parameters come first: a damaged parameter is the cause, not its user. */
static iv_status check_leaves(iv__plan *p, char *name, size_t size, bool *found)
{
    for (int32_t v = 0; v < p->graph->n_values && !*found; ++v) {
        const iv__value *value = &p->graph->values[v];
        bool finite;
        if (value->summand_of > 0) continue;
        if (value->role != IV_ROLE_PARAM && value->role != IV_ROLE_STATE &&
            value->role != IV_ROLE_INPUT)
            continue;
        if (value->role == IV_ROLE_PARAM && p->store->share.stage >= 3) continue; /* not all here */
        IV_TRY(check_value(p, v, &finite));
        if (finite) continue;
        snprintf(name, size, "%s '%s'", value->role == IV_ROLE_INPUT ? "input" : "parameter",
                 value->name);
        *found = true;
    }
    return IV_OK;
}

iv_status iv__plan_run_checked(iv__plan *p, int32_t *out_node, char *out_name, size_t size)
{
    bool found = false;
    IV_TRY(check_leaves(p, out_name, size, &found));
    *out_node = found ? -1 : -2;
    for (int64_t i = 0; i < p->n_steps; ++i) { /* all of them: what follows needs the results */
        const iv__step *s = &p->steps[i];
        IV_TRY(iv__plan_run_step(p, i));
        if (s->node < 0 || found) continue;
        const iv__node *n = &p->graph->nodes[s->node];
        bool last = i + 1 == p->n_steps || p->steps[i + 1].node != s->node;
        for (int32_t k = 0; last && k < n->n_out && !found; ++k) {
            bool finite = true;
            if (p->layouts[n->out[k]].base == n->out[k]) IV_TRY(check_value(p, n->out[k], &finite));
            if (finite) continue;
            snprintf(out_name, size, "node %s (%s, output %d)", n->name, s->label, k);
            *out_node = s->node;
            found = true;
        }
    }
    return IV_OK;
}

iv_status iv__plan_run_guarded(const iv_trainer *t, iv__plan *p)
{
    char name[256] = "";
    int32_t node;
    double scale = iv__precision_scale(&t->precision);
    long long step = (long long)t->step + 1;
    IV_TRY(iv__plan_run_checked(p, &node, name, sizeof(name)));
    if (node == -2) return IV_OK;
    if (node >= 0 && p->graph->nodes[node].backward && t->precision.vt->on_grads && scale != 1) {
        iv__log(IV_LOG_WARN, "step %lld: gradients overflow first in %s at loss scale %g", step,
                name, scale);
        return IV_OK;
    }
    IV_FAIL(IV_NONFINITE, "training step %lld: the first infinity or NaN comes from %s", step,
            name);
}
