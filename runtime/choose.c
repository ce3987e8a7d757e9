/* choose.c: which implementation a node gets: the first of the device's list that is not filtered
 * out, has the invariant flag where the mode asks for it, and accepts shape, types and layout. */
#include "plan.h"

#include <ctype.h>

/* Copies the next entry of "op:name,op:!name" to op and name; false at the end. */
static bool next_rule(const char **at, char op[64], char name[64])
{
    while (**at == ',' || isspace((unsigned char)**at)) ++*at;
    if (!**at) return false;
    size_t n = strcspn(*at, ",");
    snprintf(op, 64, "%.*s", (int)IV_MIN2(n, 63), *at);
    *at += n;
    char *colon = strchr(op, ':');
    snprintf(name, 64, "%s", colon ? colon + 1 : "");
    if (colon) *colon = 0;
    return true;
}

/* INVAR_IMPL: "matmul:portable" takes only that, "matmul:!onednn" all but that; names match by
 * prefix. */
static bool filtered_out(const char *filter, const char *op, const char *impl)
{
    char rule_op[64], rule[64];
    bool only = false, named = false;
    while (filter && next_rule(&filter, rule_op, rule)) {
        if (strcmp(rule_op, op) != 0 && strcmp(rule_op, "*") != 0) continue;
        bool negative = rule[0] == '!';
        const char *want = rule + negative;
        bool hit = strncmp(impl, want, strlen(want)) == 0;
        if (negative && hit) return true;
        if (!negative) {
            only = true;
            named |= hit;
        }
    }
    return only && !named;
}

/* Why `impl` cannot take the node, or NULL after preparing it. */
static const char *refusal(iv__plan *p, const iv_impl *impl, const iv_op_desc *d, void **prepared,
                           int64_t *scratch)
{
    if (filtered_out(p->device->impl_filter, d->op, impl->name)) return "INVAR_IMPL excludes it";
    if (d->invariant && !impl->invariant) return "not invariant";
    if (impl->accepts(p->device->dev, d) != IV_OK) return iv_error_message();
    *scratch = 0;
    if (impl->prepare(p->device->dev, d, prepared, scratch) != IV_OK) return iv_error_message();
    return NULL;
}

iv_status iv__plan_choose(iv__plan *p, const iv__node *n, const iv_op_desc *d, const iv_impl **out,
                          void **out_prepared, int64_t *out_scratch)
{
    int32_t count = 0;
    const iv_impl *const *list =
        p->device->vt->impls ? p->device->vt->impls(p->device->dev, &count) : NULL;
    *out = NULL;
    for (int32_t i = 0; i < count; ++i) {
        if (strcmp(list[i]->op, d->op) != 0) continue;
        const char *why = refusal(p, list[i], d, out_prepared, out_scratch);
        if (!why) {
            *out = list[i];
            return IV_OK;
        }
        iv__text_printf(&p->notes, "%s: %s refused: %s\n", n->name, list[i]->name, why);
    }
    if (filtered_out(p->device->impl_filter, d->op, "portable"))
        IV_FAIL(IV_INVALID, "INVAR_IMPL='%s' leaves no implementation of %s",
                p->device->impl_filter, d->op);
    return IV_OK;
}
