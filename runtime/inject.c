/* inject.c: puts a value into a gradient, as INVAR_INJECT says: how tests make an overflow where
 * they want it.
 *
 *   INVAR_INJECT=step=3,grain=5,param=wte.weight[,value=inf|nan|NUMBER]
 *
 * Counted are the steps that were tried, from 1.  The rank whose pass holds the grain does it,
 * after that pass: so a single micro-batch of a single rank overflows. */
#include "trainer.h"

#include <math.h>

static bool number_of(const char *text, const char *name, double *out)
{
    const char *at = strstr(text, name);
    if (!at) return false;
    *out = strtod(at + strlen(name), NULL);
    return true;
}

iv_status iv__inject(const iv_trainer *t, iv__replica *r, iv__span grains)
{
    const char *text = iv__env(IV__ENV_INJECT), *param = text ? strstr(text, "param=") : NULL;
    double step = 0, grain = 0, value = (double)INFINITY;
    if (!param || !number_of(text, "step=", &step)) return IV_OK;
    number_of(text, "grain=", &grain);
    number_of(text, "value=", &value);
    if ((int64_t)step != t->step + t->precision.skipped + 1 || (int64_t)grain < grains.first ||
        (int64_t)grain >= grains.first + grains.count)
        return IV_OK;
    const iv__store *s = r->store;
    size_t n = strcspn(param + 6, ",");
    for (int64_t i = 0; i < s->n_params; ++i) {
        if (strlen(s->params[i].name) != n || strncmp(s->params[i].name, param + 6, n) != 0)
            continue;
        double bits = 0; /* room for one element */
        const int64_t at = s->params[i].offset, own = at - s->shard_at;
        if (s->share.stage >= 2 && (own < 0 || own >= s->shard_elems)) return IV_OK;
        int64_t bytes = (int64_t)iv_dtype_bytes(s->type);
        iv__dtype_put(s->type, &bits, value);
        return iv__device_write(
            r->device, iv__memory_range(&s->grad_mem, iv__store_sum_at(s, at) * bytes, bytes),
            &bits);
    }
    IV_FAIL(IV_INVALID, "INVAR_INJECT: there is no parameter '%.*s'", (int)n, param + 6);
}
