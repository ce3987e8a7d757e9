/* bench_step.c: where the time of a training step goes: the whole step, and its launches, one by
 * one or by kind, on the real shapes of the model (profile.c measures). */
#include "bench.h"

enum { MOST_KINDS = 256, MOST_STEPS = 200, WARM = 2, RUNS = 5 };

typedef struct kind {
    const char *label;
    int64_t calls;
    double seconds, flops, bytes; /* of a step */
} kind;

static kind *kind_of(kind *k, int32_t *n, const char *label)
{
    for (int32_t i = 0; i < *n; ++i)
        if (strcmp(k[i].label, label) == 0) return &k[i];
    if (*n == MOST_KINDS) return &k[MOST_KINDS - 1];
    k[*n] = (kind){.label = label};
    return &k[(*n)++];
}

static int by_seconds(const void *a, const void *b)
{
    const double x = ((const kind *)a)->seconds, y = ((const kind *)b)->seconds;
    return x > y ? -1 : x < y;
}

static void report(const iv__bench *b, const char *group, const char *name, const kind *k)
{
    b->on_row(b->ctx, &(iv_bench_row){.group = group,
                                      .name = name,
                                      .impl = k->label,
                                      .seconds = k->seconds,
                                      .flops = k->flops,
                                      .bytes = k->bytes,
                                      .peak_flops = b->peak_flops[b->low],
                                      .peak_bytes = b->peak_bytes,
                                      .runs = RUNS});
}

static kind kind_from(const iv__step_time *r)
{
    return (kind){r->label, 1, (double)r->ns * 1e-9, r->flops, (double)r->bytes};
}

iv_status iv__bench_launches(iv__bench *b)
{
    iv__step_time *rows;
    int64_t n;
    IV_TRY(iv__trainer_profile(b->t, RUNS, &rows, &n));
    for (int64_t i = 0; i < n; ++i) {
        const kind k = kind_from(&rows[i]);
        report(b, "launches", rows[i].node, &k);
    }
    free(rows);
    return IV_OK;
}

iv_status iv__bench_ops(iv__bench *b)
{
    kind kinds[MOST_KINDS];
    iv__step_time *rows;
    int32_t n_kinds = 0;
    int64_t n;
    IV_TRY(iv__trainer_profile(b->t, RUNS, &rows, &n));
    for (int64_t i = 0; i < n; ++i) {
        kind *k = kind_of(kinds, &n_kinds, rows[i].label);
        const kind one = kind_from(&rows[i]);
        ++k->calls;
        k->seconds += one.seconds;
        k->flops += one.flops;
        k->bytes += one.bytes;
    }
    qsort(kinds, (size_t)n_kinds, sizeof(*kinds), by_seconds);
    for (int32_t i = 0; i < n_kinds; ++i) {
        char name[64];
        snprintf(name, sizeof(name), "%lld a step", (long long)kinds[i].calls);
        report(b, "ops", name, &kinds[i]);
    }
    free(rows);
    return IV_OK;
}

iv_status iv__bench_step(iv__bench *b)
{
    iv_trainer *t = b->t;
    const iv__plan *p = t->workers.replicas[0]->programs[0].plan;
    double times[MOST_STEPS], flops = 0;
    iv_step_report r;
    int64_t n = 0;
    iv__trainer_make_samples(t);
    for (int i = 0; i < WARM; ++i) IV_TRY(iv_trainer_step_on(t, t->x, t->y, &r));
    const int64_t limit = iv__now_ns() + (int64_t)(b->seconds * 1e9);
    while (n < MOST_STEPS && (n < 3 || iv__now_ns() < limit)) {
        IV_TRY(iv_trainer_step_on(t, t->x, t->y, &r));
        times[n++] = (double)r.ns * 1e-9;
    }
    for (int64_t i = 0; i < p->n_steps; ++i) flops += iv__step_flops(p, i);
    char name[96];
    snprintf(name, sizeof(name), "%lld samples, %lld parameters",
             (long long)(t->batch * t->accumulate), (long long)t->store->param_elems);
    b->on_row(b->ctx, &(iv_bench_row){.group = "step",
                                      .name = name,
                                      .impl = t->precision.name,
                                      .seconds = iv__bench_median(times, n),
                                      .flops = flops * (double)t->accumulate,
                                      .peak_flops = b->peak_flops[b->low],
                                      .peak_bytes = b->peak_bytes,
                                      .runs = n});
    return IV_OK;
}
