/* fp8.c: `fp8`: products with a parameter in 8-bit floats, TransformerEngine's delayed scaling.
 *
 * Forward operands are E4M3 (up to 448), gradients E5M2 (up to 57344).  A tensor's scale
 * comes from its largest magnitude (amax) of the last `history` applied steps:
 *
 *     scale = (largest of the format / 2^margin) / amax
 *
 * and the host rounds it down to a power of two.  Of a history only those entries matter that no
 * later one exceeds: they are kept, with their steps, in falling order, and saved with a run. */
#include "policy.h"

#include <inttypes.h>

static const char fp8_name[] = "fp8";
static const iv_precision_option fp8_options[] = {
    {"weights", "parameters as they are kept: f32, bf16 or f16 (default f32)"},
    {"margin", "powers of two left between the largest magnitude and that of the format (0)"},
    {"history", "applied steps whose largest magnitudes count (default 1024)"},
    {"algo", "max of the history, or most_recent (default max)"},
    IV_OPTIONS_LIST,
    {0}};

typedef struct peak {
    int64_t step;
    float amax;
} peak;

/* Peaks of a tensor: a ring of `history` places, oldest and largest first. */
typedef struct ring {
    int64_t first, count;
    float scale;
} ring;

typedef struct fp8_state {
    int64_t history, n, steps;
    double margin;
    ring *rings; /* [n] */
    peak *peaks; /* [n][history] */
} fp8_state;

static iv_status refuse(const iv__policy_run *r, const char *option, const char *text,
                        const char *possible)
{
    return r->host->fail(IV_INVALID, "precision fp8: %s is '%s', not %s", option, text, possible);
}

static iv_status choose_weights(iv__policy_run *r, const iv_precision_request *q)
{
    static const iv_policy bf16 = IV_TYPES(BF16, F32, BF16, BF16, BF16),
                           f16 = IV_TYPES(F16, F32, F32, F16, F16);
    const char *w = iv__option(q, "weights");
    if (!w || strcmp(w, "f32") == 0) return IV_OK;
    if (strcmp(w, "bf16") != 0 && strcmp(w, "f16") != 0)
        return refuse(r, "weights", w, "f32, bf16 or f16");
    r->policy = strcmp(w, "bf16") == 0 ? bf16 : f16;
    r->policy.operands = IV_FORMAT_FP8;
    if (!iv__option(q, "ops")) r->list = IV_LIST_TRUE;
    return IV_OK;
}

static iv_status adjust(iv__policy_run *r, const iv_precision_request *q)
{
    const char *algo = iv__option(q, "algo");
    double margin = 0, history = 1024;
    iv_status s = choose_weights(r, q);
    if (s == IV_OK) s = iv__option_number(r, q, "margin", 0, 32, &margin);
    if (s == IV_OK) s = iv__option_number(r, q, "history", 1, 65536, &history);
    if (s != IV_OK) return s;
    if (algo && strcmp(algo, "max") != 0 && strcmp(algo, "most_recent") != 0)
        return refuse(r, "algo", algo, "max or most_recent");
    fp8_state *f = calloc(1, sizeof(*f));
    if (!f) return r->host->fail(IV_NO_MEMORY, "precision fp8");
    f->margin = margin;
    f->history = algo && strcmp(algo, "most_recent") == 0 ? 1 : (int64_t)history;
    r->extra = f;
    return IV_OK;
}

static void close_fp8(void *run)
{
    iv__policy_run *r = run;
    const fp8_state *f = r->extra;
    if (f) {
        free(f->rings);
        free(f->peaks);
    }
    iv__policy_close(r);
}

/* ---- scales ---- */

static peak *peak_at(const fp8_state *f, int64_t tensor, int64_t i)
{
    const ring *g = &f->rings[tensor];
    return &f->peaks[tensor * f->history + (g->first + i) % f->history];
}

/* The largest magnitude of this step joins those of a tensor; what is too old or exceeded goes. */
static void record(fp8_state *f, int64_t tensor, float amax)
{
    ring *g = &f->rings[tensor];
    while (g->count && peak_at(f, tensor, 0)->step <= f->steps - f->history) {
        g->first = (g->first + 1) % f->history;
        --g->count;
    }
    while (g->count && peak_at(f, tensor, g->count - 1)->amax <= amax) --g->count;
    *peak_at(f, tensor, g->count++) = (peak){f->steps, amax};
}

/* A magnitude that is 0 or no number leaves the scale as it is. */
static void rescale(fp8_state *f, int64_t tensor, bool gradient)
{
    const float amax = peak_at(f, tensor, 0)->amax;
    double scale = (gradient ? 57344.0 : 448.0) / (double)amax;
    for (int i = 0; i < (int)f->margin; ++i) scale /= 2;
    if (!(amax > 0) || !(amax <= 3.4028234e38f)) return;
    f->rings[tensor].scale = scale < 3.4028234e38 ? (float)scale : 3.4028234e38f;
}

static iv_status room(const iv__policy_run *r, fp8_state *f, int64_t n)
{
    if (f->n == n) return IV_OK;
    f->rings = calloc((size_t)n, sizeof(*f->rings));
    f->peaks = calloc((size_t)(n * f->history), sizeof(*f->peaks));
    if (!f->rings || !f->peaks)
        return r->host->fail(IV_NO_MEMORY, "precision fp8: scales of %" PRId64 " tensors", n);
    f->n = n;
    for (int64_t i = 0; i < n; ++i) f->rings[i].scale = 1;
    return IV_OK;
}

static iv_status scales(void *run, int64_t n, const uint8_t *e5m2, const float *amax, float *scale)
{
    const iv__policy_run *r = run;
    fp8_state *f = r->extra;
    iv_status s = room(r, f, n);
    if (s != IV_OK) return s;
    for (int64_t i = 0; amax && i < n; ++i) {
        record(f, i, amax[i]);
        rescale(f, i, e5m2[i]);
    }
    f->steps += amax != NULL;
    for (int64_t i = 0; i < n; ++i) scale[i] = f->rings[i].scale;
    return IV_OK;
}

/* ---- state: "fp8/1 steps=7 tensors=2 | 128 3:0.5 6:0.25 | ..."; scale, then step:amax ---- */

static size_t save(void *run, char *dst, size_t size)
{
    const iv__policy_run *r = run;
    const fp8_state *f = r->extra;
    size_t at = 0;
#define PUT(...)                                                                                   \
    at += (size_t)snprintf(at < size ? dst + at : NULL, at < size ? size - at : 0, __VA_ARGS__)
    PUT("fp8/1 steps=%" PRId64 " tensors=%" PRId64, f->steps, f->n);
    for (int64_t i = 0; i < f->n; ++i) {
        PUT(" | %.9g", (double)f->rings[i].scale);
        for (int64_t k = 0; k < f->rings[i].count; ++k)
            PUT(" %" PRId64 ":%.9g", peak_at(f, i, k)->step, (double)peak_at(f, i, k)->amax);
    }
#undef PUT
    return at + 1;
}

/* The peaks of one tensor, from behind its scale to the next '|'. */
static bool load_peaks(fp8_state *f, int64_t tensor, const char **at)
{
    ring *g = &f->rings[tensor];
    peak p;
    int used;
    for (; sscanf(*at, " %" SCNd64 ":%g%n", &p.step, &p.amax, &used) == 2; *at += used) {
        if (p.step >= f->steps) return false;
        if (p.step < f->steps - f->history) continue; /* of a longer history */
        if (g->count == f->history ||
            (g->count && p.step <= peak_at(f, tensor, g->count - 1)->step))
            return false;
        *peak_at(f, tensor, g->count++) = p;
    }
    return true;
}

static iv_status load(void *run, const char *src, size_t size)
{
    const iv__policy_run *r = run;
    fp8_state *f = r->extra;
    int64_t steps, n;
    int used = 0;
    (void)size;
    if (strncmp(src, "fp8/1 ", 6) != 0)
        return r->host->fail(IV_UNSUPPORTED, "precision fp8 has no %.*s", (int)strcspn(src, "/ "),
                             src);
    bool good =
        sscanf(src, "fp8/1 steps=%" SCNd64 " tensors=%" SCNd64 "%n", &steps, &n, &used) == 2 &&
        n == f->n && steps >= 0;
    const char *at = src + used;
    f->steps = good ? steps : 0;
    for (int64_t i = 0; i < f->n; ++i) {
        ring *g = &f->rings[i];
        *g = (ring){0, 0, 1};
        good = good && sscanf(at, " | %g%n", &g->scale, &used) == 1 && g->scale > 0;
        at += good ? used : 0;
        good = good && load_peaks(f, i, &at);
    }
    if (good) return IV_OK;
    return r->host->fail(IV_CORRUPT, "the scales of %" PRId64 " tensors are '%.64s'", f->n, src);
}

static const char about[] =
    "operands with a scale each, from the largest magnitudes of past steps; each a power of two";
static const iv__policy_spec fp8_spec = {.name = fp8_name,
                                         .policy = {.size = sizeof(iv_policy),
                                                    .param = IV_F32,
                                                    .full = IV_F32,
                                                    .moment = IV_F32,
                                                    .compute = IV_F32,
                                                    .low = IV_BF16,
                                                    .operands = IV_FORMAT_FP8},
                                         .list = IV_LIST_DEFAULT,
                                         .adjust = adjust,
                                         .about = about};
static const iv_precision fp8_vtable = {
    .options = fp8_options,
    .open = iv__policy_open,
    .close = close_fp8,
    .policy = iv__policy_get,
    .classify = iv__policy_class,
    .scales = scales,
    .save = save,
    .load = load,
    .describe = iv__policy_describe,
};
IV_POLICY_INIT(fp8)
const iv_plugin iv__plugin_fp8 = IV_POLICY_PLUGIN(
    fp8, "products with a parameter in 8-bit floats with delayed scaling; the rest as bf16-mixed");
