/* precision.c: the open instance of a precision plugin (see precision.h). */
#include "precision.h"

#include "registry.h"

#include <math.h>

/* ---- options ---- */

/* "name=value" in the arguments of the plugin, or NULL. */
static const char *argument(const iv__precision *p, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = p->args; *at; at += strlen(at) + 1)
        if (strncmp(at, name, n) == 0 && at[n] == '=') return at + n + 1;
    return NULL;
}

static const char *option(const void *ctx, const char *name)
{
    const iv__precision *p = ctx;
    char key[64];
    const char *text = argument(p, name);
    if (text || !p->config) return text;
    snprintf(key, sizeof(key), "precision.%s", name);
    text = iv_config_str(p->config, key);
    return *text ? text : NULL;
}

static bool knows(const iv__precision *p, const char *name, size_t n)
{
    for (const iv_precision_option *o = p->vt->options; o && o->name; ++o)
        if (strlen(o->name) == n && strncmp(o->name, name, n) == 0) return true;
    return false;
}

static iv_status unknown(const iv__precision *p, const char *name, size_t n)
{
    char list[256] = "";
    size_t at = 0;
    for (const iv_precision_option *o = p->vt->options; o && o->name && at < sizeof(list); ++o)
        at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", o->name);
    IV_FAIL(IV_INVALID, "precision %s has no option '%.*s' [hint: %s%s]", p->name, (int)n, name,
            *list ? "it has " : "it has none", list);
}

/* Cuts the arguments at their commas and refuses what the plugin does not know. */
static iv_status check_options(iv__precision *p)
{
    static const char prefix[] = "precision.";
    const iv_config_key *keys;
    for (char *at = p->args; *at;) {
        size_t n = strcspn(at, ","), name = strcspn(at, "=");
        if (name >= n)
            IV_FAIL(IV_INVALID, "precision %s: the argument '%.*s' is not name=value", p->name,
                    (int)n, at);
        if (!knows(p, at, name)) return unknown(p, at, name);
        at += n;
        if (*at) *at++ = 0;
    }
    int64_t n = p->config ? iv_config_keys(&keys) : 0;
    for (int64_t i = 0; i < n; ++i) {
        const char *key = keys[i].key, *name = key + sizeof(prefix) - 1;
        if (strncmp(key, prefix, sizeof(prefix) - 1) != 0 || strcmp(name, "name") == 0 ||
            strcmp(name, "backend") == 0 || strcmp(name, "level") == 0 || /* select.c's */
            !*iv_config_str(p->config, key))
            continue;
        if (!knows(p, name, strlen(name))) return unknown(p, name, strlen(name));
    }
    return IV_OK;
}

/* ---- opening ---- */

static bool is_16_bit(iv_dtype t)
{
    return t == IV_BF16 || t == IV_F16;
}

/* What store, cast and kernels can do: nothing else may come from a plugin. */
static iv_status check_policy(const iv__precision *p)
{
    const iv_policy *y = &p->policy;
    bool wide = y->full == IV_F32 || y->full == IV_F64;
    bool narrow =
        is_16_bit(y->param) ? y->compute == y->param && y->full == IV_F32 : y->param == y->full;
    bool moment = y->moment == y->full ||
                  (is_16_bit(y->param) && y->moment == y->param && y->moment == IV_BF16);
    bool low = is_16_bit(y->low) ? y->full == IV_F32 : y->low == y->full;
    bool compute = y->compute == y->full || y->compute == y->low;
    bool few =
        y->operands == IV_FORMAT_NONE || (y->operands < IV_FORMAT_COUNT && is_16_bit(y->low) &&
                                          (y->operands == IV_FORMAT_FP8 || y->param == IV_F32));
    if (!few)
        IV_FAIL(IV_UNSUPPORTED,
                "precision %s asks for operands of few bits (format %u) with parameters in %s, "
                "lowered to %s: 8-bit floats need a 16-bit low type, int8 and nf4 also f32 "
                "parameters",
                p->name, y->operands, iv_dtype_name(y->param), iv_dtype_name(y->low));
    if (wide && narrow && moment && low && compute) return IV_OK;
    IV_FAIL(IV_UNSUPPORTED,
            "precision %s asks for parameters in %s, gradients in %s, moments in %s, computing in "
            "%s, lowered to %s: no such combination is there",
            p->name, iv_dtype_name(y->param), iv_dtype_name(y->full), iv_dtype_name(y->moment),
            iv_dtype_name(y->compute), iv_dtype_name(y->low));
}

static iv_status open_run(iv__precision *p, void *self, const char *device)
{
    const iv_config *c = p->config;
    iv_precision_request q = {.size = sizeof(q),
                              .device = device,
                              .strategy = c ? iv_config_str(c, "cluster.strategy") : "ddp",
                              .optimizer = c ? iv_config_str(c, "optim.name") : "adamw",
                              .clip = c ? iv_config_float(c, "train.clip") : 0,
                              .option = option,
                              .ctx = p};
    void *run = self;
    if (p->vt->open) IV_TRY(p->vt->open(self, &q, &run));
    p->run = run;
    p->policy = (iv_policy){sizeof(iv_policy), IV_F32, IV_F32, IV_F32, IV_F32, IV_F32, 0, 0, 0};
    if (p->vt->policy) p->vt->policy(p->run, &p->policy);
    return check_policy(p);
}

iv_status iv__precision_start(const char *spec, const iv_config *c, const char *device,
                              iv__precision *out)
{
    const iv_plugin *plugin;
    void *self;
    char name[64];
    const char *open = strchr(spec, '(');
    size_t n = open ? (size_t)(open - spec) : strlen(spec);
    *out = (iv__precision){.config = c, .most_skips = 1000};
    if (n >= sizeof(name) ||
        (open && (spec[strlen(spec) - 1] != ')' || strlen(open) >= sizeof(out->args) + 2)))
        IV_FAIL(IV_INVALID, "--precision %s: write it as NAME or NAME(option=value,...)", spec);
    snprintf(name, sizeof(name), "%.*s", (int)n, spec);
    if (open) snprintf(out->args, sizeof(out->args) - 1, "%.*s", (int)strlen(open) - 2, open + 1);
    iv_status s = iv__registry_get(IV_PLUGIN_PRECISION, name, &plugin, &self);
    if (s != IV_OK) return iv__context(s, "--precision %s", name);
    out->vt = plugin->vtable;
    snprintf(out->name, sizeof(out->name), "%s", plugin->name);
    s = check_options(out);
    if (s == IV_OK) s = open_run(out, self, device);
    if (s != IV_OK) iv__precision_close(out);
    return s;
}

iv_status iv__precision_open(const iv_config *c, const char *device, iv__precision *out)
{
    char spec[320];
    const char *bad = iv_config_str(c, "train.nonfinite");
    IV_TRY(iv__precision_select(iv_config_str(c, "precision.name"), device,
                                iv_config_str(c, "cluster.strategy"),
                                iv_config_str(c, "precision.backend"),
                                iv_config_str(c, "precision.level"), spec, sizeof(spec)));
    IV_TRY(iv__precision_start(spec, c, device, out));
    out->most_skips = iv_config_int(c, "train.max_skips");
    out->bad = strcmp(bad, "stop") == 0   ? IV__BAD_STOP
               : strcmp(bad, "skip") == 0 ? IV__BAD_SKIP
                                          : IV__BAD_AUTO;
    return IV_OK;
}

void iv__precision_close(iv__precision *p)
{
    if (p->vt && p->vt->open && p->vt->close && p->run) p->vt->close(p->run);
    free(p->e5m2);
    free(p->scales);
    free(p->amax);
    *p = (iv__precision){0};
}

/* ---- in a step ---- */

iv_cast_class iv__precision_class(const iv__precision *p, const char *op, iv_cast_class fallback)
{
    iv_cast_class c = p->vt->classify ? p->vt->classify(p->run, op, fallback) : fallback;
    return c < IV_CAST_CLASS_COUNT ? c : fallback;
}

double iv__precision_scale(const iv__precision *p)
{
    return p->vt->loss_scale ? p->vt->loss_scale(p->run) : 1;
}

iv_status iv__precision_judge(iv__precision *p, double loss, double grad_norm, bool finite,
                              iv_verdict *out)
{
    bool bad = !finite || !isfinite(loss);
    iv_verdict v = IV_STEP;
    if (p->vt->on_grads && (p->bad != IV__BAD_STOP || !bad))
        v = p->vt->on_grads(p->run, grad_norm, bad);
    if (bad && p->bad == IV__BAD_SKIP) v = IV_SKIP_OVERFLOW;
    *out = v == IV_STEP ? IV_STEP : IV_SKIP_OVERFLOW;
    if (bad && v == IV_STEP) IV_FAIL(IV_NONFINITE, "loss %g, gradient norm %g", loss, grad_norm);
    return IV_OK;
}

/* Scales from the plugin.  They become powers of two here: dividing by them is exact then, and sums
 * over samples are the same however a step is cut. */
static iv_status new_scales(iv__precision *p, const float *amax)
{
    for (int64_t i = 0; i < p->n_scales && !p->vt->scales; ++i) p->scales[i] = 1;
    if (p->n_scales && p->vt->scales)
        IV_TRY(p->vt->scales(p->run, p->n_scales, p->e5m2, amax, p->scales));
    for (int64_t i = 0; i < p->n_scales; ++i) {
        int e;
        if (!(p->scales[i] > 0) || !isfinite(p->scales[i]))
            IV_FAIL(IV_INVALID, "precision %s: the scale of tensor %lld is %g", p->name,
                    (long long)i, (double)p->scales[i]);
        frexpf(p->scales[i], &e);
        p->scales[i] = ldexpf(1, IV_MAX2(-126, IV_MIN2(e - 1, 126)));
    }
    return IV_OK;
}

iv_status iv__precision_tensors(iv__precision *p, int64_t n, const uint8_t *e5m2)
{
    if (n == 0) return IV_OK;
    IV_TRY(iv__calloc(n, sizeof(*p->e5m2), "scales", &p->e5m2));
    IV_TRY(iv__calloc(n, sizeof(*p->scales), "scales", &p->scales));
    IV_TRY(iv__calloc(n, sizeof(*p->amax), "scales", &p->amax));
    memcpy(p->e5m2, e5m2, (size_t)n * sizeof(*e5m2));
    p->n_scales = n;
    return new_scales(p, NULL);
}

iv_status iv__precision_rescale(iv__precision *p)
{
    return new_scales(p, p->amax);
}

iv_status iv__precision_count(iv__precision *p, iv_verdict v)
{
    p->skips = v == IV_STEP ? 0 : p->skips + 1;
    p->skipped += v != IV_STEP;
    p->skipped_none += v == IV_SKIP_NONE;
    if (p->skips <= p->most_skips) return IV_OK;
    IV_FAIL(IV_NONFINITE, "%lld steps in a row were skipped (train.max_skips), loss scale %g",
            (long long)p->skips, iv__precision_scale(p));
}

/* ---- going on ---- */

iv_status iv__precision_resume(iv__precision *p, const char *name, const char *state)
{
    bool changed = *name && strcmp(name, p->name) != 0, has = state && *state;
    char kept[128] = "";
    iv_status s = has && p->vt->load ? p->vt->load(p->run, state, strlen(state)) : IV_OK;
    if (s != IV_OK && !(changed && s == IV_UNSUPPORTED)) return s;
    IV_TRY(new_scales(p, NULL));
    if (!changed) return IV_OK;
    size_t role = has ? strcspn(state, "/ ") : 0;
    if (has && (s != IV_OK || !p->vt->load))
        snprintf(kept, sizeof(kept), "; the state of its %.*s is dropped", (int)role, state);
    else if (has)
        snprintf(kept, sizeof(kept), "; the %.*s goes on, loss scale %g", (int)role, state,
                 iv__precision_scale(p));
    else if (p->vt->loss_scale)
        snprintf(kept, sizeof(kept), "; the loss scale starts at %g", iv__precision_scale(p));
    iv__log(IV_LOG_WARN,
            "precision changes from %s to %s: parameters are kept as %s, moments as %s%s", name,
            p->name, iv_dtype_name(p->policy.param), iv_dtype_name(p->policy.moment), kept);
    return IV_OK;
}

/* ---- as text ---- */

iv_status iv__precision_text(const iv__precision *p, iv__text *t)
{
    const iv_policy *y = &p->policy;
    static const char *const formats[IV_FORMAT_COUNT] = {
        [IV_FORMAT_FP8] = "E4M3, gradients E5M2",
        [IV_FORMAT_INT8] = "8-bit integers by rows, parameters only",
        [IV_FORMAT_NF4] = "NF4 in blocks of 64, parameters only"};
    iv__text_printf(t, "parameters %s%s, gradients %s, moments %s, statistics %s; computes in %s",
                    iv_dtype_name(y->param),
                    y->param != y->compute ? " (masters)"
                    : y->stochastic        ? " (stochastic rounding)"
                                           : "",
                    iv_dtype_name(y->full), iv_dtype_name(y->moment), iv_dtype_name(y->full),
                    iv_dtype_name(y->compute));
    if (y->low != y->compute) iv__text_printf(t, ", products in %s", iv_dtype_name(y->low));
    if (y->operands) iv__text_printf(t, "; operands of products: %s", formats[y->operands]);
    iv__text_printf(t, "\n");
    size_t n = p->vt->describe ? p->vt->describe(p->run, NULL, 0) : 0;
    char *more = NULL;
    if (n) {
        IV_TRY(iv__calloc((int64_t)n, 1, "a description", &more));
        p->vt->describe(p->run, more, n);
        iv__text_printf(t, "%s\n", more);
        free(more);
    }
    const iv_precision_option *o = p->vt->options;
    for (int i = 0; o && o[i].name; ++i)
        iv__text_printf(t, "%s%s%s", i ? ", " : "options: ", o[i].name, o[i + 1].name ? "" : "\n");
    return iv__precision_classes(p, t);
}
