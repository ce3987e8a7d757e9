/* precision_plugin.c: an out-of-tree precision plugin, compiled against the installed headers only.
 * It keeps a count of good steps, halves its scale at an overflow and refuses SGD; with
 * operands=fp8 it scales 8-bit floats by its own rule, with operands=bad by one that no host takes.
 * With WRONG_ABI it says that it was made for a future host; with BAD_INIT its init fails. */
#include <plugin.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    const iv_host *host;
    double scale;
    float first; /* scale of operands before a step; 0: they are not rounded */
    int good;
} run;

static const iv_precision_option options[] = {
    {"start", "loss scale at the start"}, {"operands", "fp8, or bad"}, {0}};
static const iv_host *services;

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    (void)args;
    services = host;
    *out_self = NULL;
#ifdef BAD_INIT
    return host->fail(IV_UNAVAILABLE, "its licence has run out");
#else
    return IV_OK;
#endif
}

static iv_status open_run(void *self, const iv_precision_request *q, void **out_run)
{
    const char *start = q->option(q->ctx, "start"), *operands = q->option(q->ctx, "operands");
    (void)self;
    if (strcmp(q->optimizer, "sgd") == 0)
        return services->fail(IV_UNSUPPORTED, "the example works with Adam only");
    run *r = calloc(1, sizeof(*r));
    if (!r) return services->fail(IV_NO_MEMORY, "the example's state");
    r->host = services;
    r->scale = start ? strtod(start, NULL) : 128;
    if (operands) r->first = strcmp(operands, "fp8") == 0 ? 3 : -1;
    *out_run = r;
    return IV_OK;
}

static void policy(void *self, iv_policy *out)
{
    out->low = IV_BF16;
    if (((run *)self)->first != 0) out->operands = IV_FORMAT_FP8;
}

/* The largest magnitude becomes 100. */
static iv_status scales(void *self, int64_t n, const uint8_t *e5m2, const float *amax, float *scale)
{
    (void)e5m2;
    for (int64_t i = 0; i < n; ++i)
        scale[i] = amax && amax[i] > 0 ? 100 / amax[i] : ((run *)self)->first;
    return IV_OK;
}

static iv_cast_class classify(void *self, const char *op, iv_cast_class fallback)
{
    (void)self;
    return strcmp(op, "attention") == 0 ? IV_CAST_F32 : fallback;
}

static double loss_scale(void *self)
{
    return ((run *)self)->scale;
}

static iv_verdict on_grads(void *self, double norm, bool bad)
{
    run *r = self;
    (void)norm;
    if (!bad) {
        ++r->good;
        return IV_STEP;
    }
    r->scale /= 2;
    return IV_SKIP_OVERFLOW;
}

static size_t save(void *self, char *dst, size_t size)
{
    const run *r = self;
    return (size_t)snprintf(dst, size, "example/1 scale=%g good=%d", r->scale, r->good) + 1;
}

static iv_status load(void *self, const char *src, size_t size)
{
    run *r = self;
    (void)size;
    if (sscanf(src, "example/1 scale=%lf good=%d", &r->scale, &r->good) == 2) return IV_OK;
    return r->host->fail(IV_UNSUPPORTED, "not the example's state");
}

static const iv_precision table = {
    .options = options,
    .open = open_run,
    .close = free,
    .policy = policy,
    .classify = classify,
    .loss_scale = loss_scale,
    .on_grads = on_grads,
    .scales = scales,
    .save = save,
    .load = load,
};

static const iv_plugin plugin = {
#ifdef WRONG_ABI
    .abi = 77u << 16,
#else
    .abi = IV_PLUGIN_ABI,
#endif
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_PRECISION,
    .vtable_size = sizeof(iv_precision),
#ifdef BAD_INIT
    .name = "example-bad",
#else
    .name = "example",
#endif
    .version = "1.0",
    .summary = "an example outside the tree",
    .vtable = &table,
    .init = init,
};

__attribute__((visibility("default"))) const iv_plugin *invar_plugin(void);
__attribute__((visibility("default"))) const iv_plugin *invar_plugin(void)
{
    return &plugin;
}
