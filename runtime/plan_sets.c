/* plan_sets.c: what a sharded run does not keep passes through temporaries of the plan.
 *
 * A parameter that other ranks have a part of becomes a temporary wherever it is used: it is sent
 * for before, while earlier steps compute, and its memory is free again after its last use.  Uses
 * far from each other, as in the forward and the backward pass, are temporaries of their own.  A
 * gradient of which this rank keeps a part is a temporary from the beginning: it goes to its owners
 * after its last step.  The memory plan knows nothing of this: it sees lifetimes.  Gradients that
 * every rank keeps are sent in the same way, from where they stay, so that they are added while the
 * backward pass goes on.
 *
 *   send 0 | await 0, send 1 | steps that use set 0 | await 1, send 2 | steps ... | send sums | ...
 *
 * Every rank needs the same sets in the same order, whatever its share of the step is: they follow
 * from the graph and the order of its nodes (iv__plan_sets_hash is compared). */
#include "plan_build.h"

#include <xxhash.h>

enum {
    BYTES = 1 << 20,  /* of a set: sent in one go; what arrives for it is held at once */
    MOVES = 64,       /* of a set */
    FAR = 8,          /* nodes between uses that are apart */
    SUMS_AHEAD = 1,   /* sets of sums that are under way while the next one is made */
    FETCHES_AHEAD = 2 /* sets of parameters that are under way while one is used */
};

/* A temporary that is moved as a whole, before it is cut into moves. */
typedef struct whole {
    iv__move m;
    int64_t step; /* parameters: the first that uses it; sums: the last that touches it */
    int64_t bytes;
} whole;
typedef struct wholes {
    whole *w;
    int64_t n, cap;
} wholes;

iv_status iv__plan_add_sums(iv__plan *p, int32_t v, int64_t at)
{
    IV_TRY(iv__reserve(&p->moves, &p->cap_moves, p->n_moves + 1, sizeof(*p->moves), "moves"));
    p->moves[p->n_moves++] = (iv__move){.arena = IV_ARENA_GRAD,
                                        .value = v,
                                        .at = at,
                                        .count = iv_shape_count(&iv__plan_value(p, v)->shape)};
    return IV_OK;
}

static iv_status add_whole(const iv__plan *p, wholes *l, iv__move m, int64_t step)
{
    IV_TRY(iv__reserve(&l->w, &l->cap, l->n + 1, sizeof(*l->w), "moves"));
    l->w[l->n++] =
        (whole){m, step, m.count * (int64_t)iv_dtype_bytes(iv__plan_value(p, m.value)->dtype)};
    return IV_OK;
}

/* ---- parameters ---- */

static bool is_kept_in_part(const iv__plan *p, int32_t v)
{
    iv__arena a = p->places[v].arena;
    return p->layouts[v].base == v && (a == IV_ARENA_PARAM || a == IV_ARENA_LOWERED);
}

/* A value like v whose bytes are those of `base`. */
static iv_status like(iv__plan *p, int32_t v, int32_t base, int32_t *out)
{
    const iv__value x = *iv__plan_value(p, v);
    const iv__layout l = p->layouts[v];
    IV_TRY(iv__plan_temp(p, x.dtype, x.shape, out));
    p->layouts[*out] = l;
    p->layouts[*out].base = base < 0 ? *out : base;
    return IV_OK;
}

/* The uses of parameter v become uses of temporaries. */
static iv_status fetch(iv__plan *p, int32_t v, wholes *l)
{
    int32_t node = 0, used = -1, temp = -1;
    for (int64_t i = 0; i < p->n_steps; ++i) {
        iv__step *s = &p->steps[i];
        if (s->node >= 0) node = s->node;
        for (int32_t k = 0; k < s->n_values; ++k) {
            const int32_t u = s->values[k];
            int32_t view;
            if (p->layouts[u].base != v) continue;
            if (used < 0 || node - used > FAR) {
                const int64_t b = (int64_t)iv_dtype_bytes(iv__plan_value(p, v)->dtype);
                IV_TRY(like(p, v, -1, &temp));
                IV_TRY(add_whole(p, l,
                                 (iv__move){.arena = p->places[v].arena,
                                            .value = temp,
                                            .at = p->places[v].offset / b,
                                            .count = p->places[v].bytes / b},
                                 i));
            }
            used = node;
            IV_TRY(like(p, u, temp, &view));
            s->values[k] = view;
        }
    }
    return IV_OK;
}

static iv_status fetch_all(iv__plan *p, wholes *l)
{
    const int32_t n = (int32_t)p->graph->n_values;
    for (int32_t v = 0; p->store->share.stage >= 3 && v < n; ++v)
        if (is_kept_in_part(p, v)) IV_TRY(fetch(p, v, l));
    return IV_OK;
}

/* ---- sums ---- */

static iv_status find_sums(iv__plan *p, wholes *l)
{
    for (int64_t i = 0; i < p->n_moves; ++i) {
        const int32_t base = p->layouts[p->moves[i].value].base;
        int64_t last = 0;
        for (int64_t k = 0; k < p->n_steps; ++k)
            for (int32_t j = 0; j < p->steps[k].n_values; ++j)
                if (p->layouts[p->steps[k].values[j]].base == base) last = k;
        IV_TRY(add_whole(p, l, p->moves[i], last));
    }
    p->n_moves = 0;
    return IV_OK;
}

/* ---- sets ---- */

static int by_step(const void *a, const void *b)
{
    const whole *x = a, *y = b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    if (x->m.arena != y->m.arena) return x->m.arena < y->m.arena ? -1 : 1;
    return (x->m.at > y->m.at) - (x->m.at < y->m.at);
}

/* The owner of element `at` of the arena, and how many of the next elements it has too. */
static int32_t owner_of(const iv__store *s, const iv__move *m, int64_t at, int64_t *out_n)
{
    enum { SPAN = 1 << 16 };
    const int32_t parts = s->share.parts;
    int64_t param = at, shift = 0;
    *out_n = m->count;
    if (s->share.stage == 0) { /* everybody gets all sums: who adds them is free */
        *out_n = SPAN - at % SPAN;
        return (int32_t)(at / SPAN % s->share.ranks);
    }
    if (m->arena == IV_ARENA_GRAD && at >= s->stat_at) return -1;
    if (m->arena == IV_ARENA_GRAD && at >= s->param_elems)
        for (int64_t i = 0; i < s->n_summands; ++i)
            if (s->summands[i].offset <= at)
                shift = s->params[s->summands[i].summand_of].offset - s->summands[i].offset;
    param += shift;
    for (int32_t r = 0; r < parts; ++r) {
        const int64_t end = iv__store_cut(s->param_elems, r + 1, parts);
        if (param >= end) continue;
        *out_n = end - param;
        return r;
    }
    return parts - 1;
}

typedef struct cutter {
    iv__plan *p;
    int64_t bytes; /* of the last set */
} cutter;

static iv_status add_move(cutter *c, const iv__move *m, bool sums, int64_t bytes, int64_t step)
{
    iv__plan *p = c->p;
    iv__set *last = p->n_sets ? &p->sets[p->n_sets - 1] : NULL;
    if (!last || last->sums != sums || last->n == MOVES || c->bytes + bytes > BYTES) {
        IV_TRY(iv__reserve(&p->sets, &p->cap_sets, p->n_sets + 1, sizeof(*p->sets), "sets"));
        last = &p->sets[p->n_sets++];
        *last = (iv__set){.first = p->n_moves, .sums = sums, .due = step};
        c->bytes = 0;
    }
    IV_TRY(iv__reserve(&p->moves, &p->cap_moves, p->n_moves + 1, sizeof(*p->moves), "moves"));
    p->moves[p->n_moves++] = *m;
    ++last->n;
    c->bytes += bytes;
    if (sums) last->due = step; /* when the last one is there; parameters: before the first use */
    return IV_OK;
}

static iv_status cut(cutter *c, const whole *w, bool sums)
{
    const iv__store *s = c->p->store;
    const int64_t b = w->bytes / IV_MAX2(w->m.count, 1);
    iv__move m = w->m;
    for (int64_t left = w->m.count; left > 0; left -= m.count) {
        m.count = left;
        m.owner = owner_of(s, &m, m.at, &m.count);
        m.count = IV_MIN2(IV_MIN2(m.count, left), BYTES / b);
        IV_TRY(add_move(c, &m, sums, m.count * b, w->step));
        m.at += m.count;
        m.skip += m.count;
    }
    return IV_OK;
}

static iv_status cut_all(iv__plan *p, wholes *l, bool sums)
{
    cutter c = {p, 0};
    if (l->n) qsort(l->w, (size_t)l->n, sizeof(*l->w), by_step);
    for (int64_t i = 0; i < l->n; ++i) IV_TRY(cut(&c, &l->w[i], sums));
    return IV_OK;
}

/* ---- steps ---- */

typedef struct weaver {
    iv__plan *p;
    const iv__step *old;
    int64_t n_old;
    int64_t fetches;                   /* sets of parameters; those of sums follow */
    int64_t fetch_sent, fetch_awaited; /* next ones */
    int64_t sum_sent, sum_awaited;
} weaver;

static iv_status add(weaver *w, iv__step_kind kind, int64_t set)
{
    iv__plan *p = w->p;
    iv__set *s = &p->sets[set];
    iv__step step = {.kind = kind, .node = -1, .set = set};
    snprintf(step.label, sizeof(step.label), "%s %s %lld", kind == IV_STEP_SEND ? "send" : "await",
             s->sums ? "sums" : "parameters", (long long)set);
    if (kind == IV_STEP_SEND) s->send = p->n_steps;
    else s->await = p->n_steps;
    return iv__plan_add_step(p, &step);
}

/* Parameters that a step needs are awaited; others are sent for ahead of it. */
static iv_status before(weaver *w, int64_t step)
{
    const iv__set *sets = w->p->sets;
    while (w->fetch_awaited < w->fetches && sets[w->fetch_awaited].due <= step) {
        IV_TRY(add(w, IV_STEP_AWAIT, w->fetch_awaited++));
        if (w->fetch_sent < w->fetches) IV_TRY(add(w, IV_STEP_SEND, w->fetch_sent++));
    }
    return IV_OK;
}

/* Sums that a step has completed are sent; earlier ones are awaited. */
static iv_status behind(weaver *w, int64_t step)
{
    while (w->sum_sent < w->p->n_sets && w->p->sets[w->sum_sent].due <= step) {
        IV_TRY(add(w, IV_STEP_SEND, w->sum_sent++));
        while (w->sum_awaited + SUMS_AHEAD < w->sum_sent)
            IV_TRY(add(w, IV_STEP_AWAIT, w->sum_awaited++));
    }
    return IV_OK;
}

static iv_status weave(weaver *w)
{
    while (w->fetch_sent < IV_MIN2(w->fetches, (int64_t)FETCHES_AHEAD))
        IV_TRY(add(w, IV_STEP_SEND, w->fetch_sent++));
    for (int64_t i = 0; i < w->n_old; ++i) {
        IV_TRY(before(w, i));
        IV_TRY(iv__plan_add_step(w->p, &w->old[i]));
        IV_TRY(behind(w, i));
    }
    while (w->sum_awaited < w->sum_sent) IV_TRY(add(w, IV_STEP_AWAIT, w->sum_awaited++));
    return IV_OK;
}

iv_status iv__plan_add_sets(iv__plan *p)
{
    wholes params = {0}, sums = {0};
    iv_status s = fetch_all(p, &params);
    if (s == IV_OK) s = find_sums(p, &sums);
    if (s == IV_OK) s = cut_all(p, &params, false);
    const int64_t fetches = p->n_sets;
    if (s == IV_OK) s = cut_all(p, &sums, true);
    free(params.w);
    free(sums.w);
    if (s != IV_OK || p->n_sets == 0) return s;
    iv__step *old = p->steps;
    weaver w = {.p = p,
                .old = old,
                .n_old = p->n_steps,
                .fetches = fetches,
                .sum_sent = fetches,
                .sum_awaited = fetches};
    p->steps = NULL;
    p->n_steps = p->cap_steps = 0;
    s = weave(&w);
    if (s != IV_OK) { /* prepared implementations are freed with the plan */
        free(p->steps);
        p->steps = old;
        p->n_steps = p->cap_steps = w.n_old;
        return s;
    }
    free(old);
    return IV_OK;
}

uint64_t iv__plan_sets_hash(const iv__plan *p)
{
    XXH64_hash_t h = 11;
    for (int64_t i = 0; i < p->n_steps; ++i) {
        const iv__step *s = &p->steps[i];
        if (s->kind != IV_STEP_SEND && s->kind != IV_STEP_AWAIT) continue;
        const int64_t step[2] = {s->kind, s->set};
        h = XXH64(step, sizeof(step), h);
    }
    for (int64_t i = 0; i < p->n_moves; ++i) {
        const iv__move *m = &p->moves[i];
        const int64_t move[4] = {m->arena, m->owner, m->at, m->count};
        h = XXH64(move, sizeof(move), h);
    }
    return h;
}
