/* policy.c: an open policy: its options read, its scaler run (see policy.h). */
#include "policy.h"

#include <locale.h>
#include <math.h>

/* ---- options ---- */

iv_status iv__option_number(const iv__policy_run *r, const iv_precision_request *q,
                            const char *name, double least, double most, double *out)
{
    const char *text = iv__option(q, name);
    char *end;
    if (!text) return IV_OK;
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0), old = uselocale(c);
    double x = strtod(text, &end);
    uselocale(old);
    freelocale(c);
    if (end == text || *end || !(x >= least && x <= most))
        return r->host->fail(IV_INVALID, "precision %s: %s is '%s', not a number from %g to %g",
                             r->spec->name, name, text, least, most);
    *out = x;
    return IV_OK;
}

iv_status iv__option_truth(const iv__policy_run *r, const iv_precision_request *q, const char *name,
                           bool *out)
{
    const char *text = iv__option(q, name);
    if (!text) return IV_OK;
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return r->host->fail(IV_INVALID, "precision %s: %s is '%s', not true or false",
                             r->spec->name, name, text);
    *out = strcmp(text, "true") == 0;
    return IV_OK;
}

static iv_status read_list(iv__policy_run *r, const iv_precision_request *q)
{
    const char *text = iv__option(q, "ops");
    if (!text) return IV_OK;
    iv__oplist list = iv__oplist_find(text);
    if (list == IV_LIST_COUNT)
        return r->host->fail(IV_INVALID,
                             "precision %s: there is no list of operators '%s' [hint: default, "
                             "cuda, cpu, hpu, hpu-o2, apex, true]",
                             r->spec->name, text);
    r->list = list;
    return IV_OK;
}

/* masters and rounding, for the policies whose parameters are 16-bit. */
static iv_status read_true(iv__policy_run *r, const iv_precision_request *q)
{
    bool masters = false;
    const char *rounding = iv__option(q, "rounding");
    iv_status s = iv__option_truth(r, q, "masters", &masters);
    if (s != IV_OK) return s;
    if (masters) r->policy.param = r->policy.moment = r->policy.full;
    if (!rounding) return IV_OK;
    if (strcmp(rounding, "nearest") != 0 && strcmp(rounding, "stochastic") != 0)
        return r->host->fail(IV_INVALID,
                             "precision %s: rounding is '%s', not nearest or stochastic",
                             r->spec->name, rounding);
    r->policy.stochastic = strcmp(rounding, "stochastic") == 0;
    if (r->policy.stochastic && masters)
        return r->host->fail(IV_INVALID,
                             "precision %s: rounding=stochastic is for parameters without masters",
                             r->spec->name);
    return IV_OK;
}

static iv_status read_kind(iv__policy_run *r, const iv_precision_request *q)
{
    const char *text = iv__option(q, "scaler");
    if (!text) return IV_OK;
    for (int k = IV_SCALER_GRAD; k < IV_SCALER_COUNT; ++k)
        if (strcmp(text, iv__scaler_name((iv__scaler_kind)k)) == 0) {
            iv__scaler_init(&r->scaler, (iv__scaler_kind)k);
            return IV_OK;
        }
    return r->host->fail(IV_INVALID,
                         "precision %s: there is no scaler '%s' [hint: grad, apex, zero, "
                         "fused, hysteresis]",
                         r->spec->name, text);
}

static iv_status read_scale(iv__policy_run *r, const iv_precision_request *q)
{
    iv__scaler *s = &r->scaler;
    const char *fixed = iv__option(q, "scale");
    double x[8] = {(double)s->scale, s->growth,         s->backoff,           (double)s->least,
                   (double)s->most,  (double)s->window, (double)s->hysteresis};
    static const struct {
        const char *name;
        double least, most;
    } numbers[7] = {{"init_scale", 1e-30, 1e38},  {"growth", 1.0000001, 1e6},
                    {"backoff", 1e-6, 0.9999999}, {"min_scale", 0, 1e38},
                    {"max_scale", 0, 1e38},       {"window", 1, 1e15},
                    {"hysteresis", 1, 1e15}};
    for (int i = 0; i < 7; ++i) {
        iv_status st =
            iv__option_number(r, q, numbers[i].name, numbers[i].least, numbers[i].most, &x[i]);
        if (st != IV_OK) return st;
    }
    s->scale = (float)x[0];
    s->growth = x[1];
    s->backoff = x[2];
    s->least = (float)x[3];
    s->most = (float)x[4];
    s->window = (int64_t)x[5];
    s->hysteresis = s->left = (int64_t)x[6];
    if (!fixed || strcmp(fixed, "dynamic") == 0) return IV_OK;
    double value = 1;
    iv_status st = iv__option_number(r, q, "scale", 1e-30, 1e38, &value);
    if (st != IV_OK) return st;
    iv__scaler_init(s, IV_SCALER_STATIC);
    s->scale = (float)value;
    return IV_OK;
}

/* ---- the entries ---- */

iv_status iv__policy_open(void *self, const iv_precision_request *q, void **out_run)
{
    const iv__policy_self *p = self;
    iv__policy_run *r = calloc(1, sizeof(*r));
    if (!r) return p->host->fail(IV_NO_MEMORY, "precision %s", p->spec->name);
    r->spec = p->spec;
    r->host = p->host;
    r->policy = p->spec->policy;
    r->list = p->spec->list;
    iv__scaler_init(&r->scaler, p->spec->scaler);
    iv_status s = read_list(r, q);
    if (s == IV_OK) s = read_true(r, q);
    if (s == IV_OK) s = read_kind(r, q);
    if (s == IV_OK && p->spec->adjust) s = p->spec->adjust(r, q);
    if (s == IV_OK && r->scaler.kind != IV_SCALER_NONE) s = read_scale(r, q);
    if (s != IV_OK) {
        iv__policy_close(r);
        return s;
    }
    *out_run = r;
    return IV_OK;
}

void iv__policy_close(void *run)
{
    iv__policy_run *r = run;
    if (r) free(r->extra);
    free(r);
}

void iv__policy_get(void *run, iv_policy *out)
{
    const iv__policy_run *r = run;
    uint32_t size = out->size < r->policy.size ? out->size : r->policy.size;
    memcpy(out, &r->policy, size);
}

iv_cast_class iv__policy_class(void *run, const char *op, iv_cast_class fallback)
{
    const iv__policy_run *r = run;
    int row = iv__oplist_row(op);
    if (row >= 0 && row < (int)sizeof(r->classes) && r->classes[row])
        return (iv_cast_class)(r->classes[row] - 1);
    return iv__oplist_class(r->list, op, fallback);
}

double iv__policy_scale(void *run)
{
    const iv__policy_run *r = run;
    return (double)r->scaler.scale;
}

iv_verdict iv__policy_judge(void *run, double grad_norm, bool found_nonfinite)
{
    iv__policy_run *r = run;
    (void)grad_norm;
    if (r->scaler.kind == IV_SCALER_NONE) return IV_STEP;
    bool usable = iv__scaler_update(&r->scaler, found_nonfinite);
    r->overflows += found_nonfinite;
    if (!usable)
        r->host->log(IV_LOG_WARN,
                     "precision %s: an overflow at the smallest loss scale, %g: it cannot fall",
                     r->spec->name, (double)r->scaler.scale);
    /* A step that is "applied" with non-finite gradients ends the run: what the original does. */
    return found_nonfinite && usable ? IV_SKIP_OVERFLOW : IV_STEP;
}

size_t iv__policy_save(void *run, char *dst, size_t size)
{
    const iv__policy_run *r = run;
    return r->scaler.kind == IV_SCALER_NONE ? 0 : iv__scaler_save(&r->scaler, dst, size);
}

iv_status iv__policy_load(void *run, const char *src, size_t size)
{
    iv__policy_run *r = run;
    (void)size;
    if (r->scaler.kind == IV_SCALER_NONE || strncmp(src, "scaler/", 7) != 0)
        return r->host->fail(IV_UNSUPPORTED, "precision %s has no %.*s", r->spec->name,
                             (int)strcspn(src, "/ "), src);
    if (!iv__scaler_load(&r->scaler, src))
        return r->host->fail(IV_CORRUPT, "the state of the loss scale is '%.64s'", src);
    return IV_OK;
}

size_t iv__policy_describe(void *run, char *dst, size_t size)
{
    const iv__policy_run *r = run;
    const iv__scaler *s = &r->scaler;
    char scaler[256] = "loss scale: none";
    if (s->kind == IV_SCALER_STATIC)
        snprintf(scaler, sizeof(scaler), "loss scale: %g, fixed", (double)s->scale);
    else if (s->kind != IV_SCALER_NONE)
        snprintf(scaler, sizeof(scaler),
                 "loss scale: dynamic (%s) from %g; overflow: x %g; every %lld good steps: x %g; "
                 "bounds %g to %g (0: none)%s",
                 iv__scaler_name(s->kind), (double)s->scale, s->backoff, (long long)s->window,
                 s->growth, (double)s->least, (double)s->most,
                 s->hysteresis > 1 ? "; with hysteresis" : "");
    return (size_t)snprintf(dst, size, "%s\noperators: list '%s'%s%s", scaler,
                            iv__oplist_name(r->list), r->spec->about ? "\n" : "",
                            r->spec->about ? r->spec->about : "") +
           1;
}
