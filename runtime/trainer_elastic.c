/* trainer_elastic.c: a job that goes on when it loses ranks (--elastic).
 *
 * A step changes the state only after everything that ranks send each other in it, so a rank that
 * is interrupted is at the end of some step: of the same one as the others, or of the one before,
 * if the lost rank had sent the last of the sums to some and not to others.  Who is behind gets the
 * state of who is ahead.  Then the grains are dealt to who is left, and nothing that follows
 * depends on how many they are. */
#include "trainer.h"

/* What is not in arenas. */
typedef struct state {
    int64_t step, samples_seen, skips, skipped, skipped_none;
    iv_step_report report; /* of the last step */
    char precision[1024];
} state;

static iv_status describe(const iv_trainer *t, const iv_step_report *r, state *out)
{
    const iv__precision *p = &t->precision;
    const size_t n = p->vt->save ? p->vt->save(p->run, NULL, 0) : 0;
    *out = (state){.step = t->step,
                   .samples_seen = t->samples_seen,
                   .skips = p->skips,
                   .skipped = p->skipped,
                   .skipped_none = p->skipped_none,
                   .report = *r};
    if (n >= sizeof(out->precision))
        IV_FAIL(IV_INTERNAL, "precision %s has a state of %zu bytes", p->name, n);
    if (n) p->vt->save(p->run, out->precision, n);
    return IV_OK;
}

static iv_status adopt(iv_trainer *t, const state *s, iv_step_report *r)
{
    iv__precision *p = &t->precision;
    const size_t n = strlen(s->precision);
    t->step = s->step;
    t->samples_seen = s->samples_seen;
    p->skips = s->skips;
    p->skipped = s->skipped;
    p->skipped_none = s->skipped_none;
    *r = s->report;
    return n && p->vt->load ? p->vt->load(p->run, s->precision, n) : IV_OK;
}

/* The other devices of this rank get what the first one has. */
static iv_status copy_to_all(iv_trainer *t, const iv__memory *from, const iv__memory *to)
{
    char *host;
    if (from == to || !from->bytes) return IV_OK;
    IV_TRY(iv__calloc(from->bytes, 1, "the state of a rank", &host));
    iv_status s = iv__device_read(t->device, host, iv__memory_range(from, 0, from->bytes));
    if (s == IV_OK) s = iv__device_write(to->device, iv__memory_range(to, 0, to->bytes), host);
    free(host);
    return s;
}

static void arenas(const iv__store *s, const iv__memory *out[4])
{
    out[0] = &s->param_mem;
    out[1] = &s->state_mem;
    out[2] = &s->moment_mem[0];
    out[3] = &s->moment_mem[1];
}

static iv_status copy_from(iv_trainer *t, int32_t from)
{
    iv__workers *w = &t->workers;
    const iv__memory *first[4], *other[4];
    arenas(t->store, first);
    iv__trainer_release_all(t);
    for (int a = 0; a < 4; ++a) IV_TRY(iv__workers_copy_from(w, from, first[a]));
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        arenas(w->replicas[i]->store, other);
        for (int a = 0; a < 4; ++a) IV_TRY(copy_to_all(t, first[a], other[a]));
        IV_TRY(iv__store_lower(w->replicas[i]->store));
    }
    return IV_OK;
}

static iv_status catch_up(iv_trainer *t, state *all, iv_step_report *r)
{
    const iv__comm *c = t->workers.comm;
    int32_t ahead = 0;
    bool same = true;
    IV_TRY(iv__comm_agree(t->workers.comm, describe(t, r, &all[c->ranks.rank])));
    IV_TRY(iv__comm_gather(t->workers.comm, all, sizeof(*all)));
    for (int32_t i = 0; i < c->ranks.world; ++i) {
        same = same && all[i].samples_seen == all[0].samples_seen;
        if (all[i].samples_seen > all[ahead].samples_seen) ahead = i;
    }
    if (same) return IV_OK;
    IV_TRY(copy_from(t, ahead));
    return t->samples_seen == all[ahead].samples_seen ? IV_OK : adopt(t, &all[ahead], r);
}

iv_status iv__trainer_again(iv_trainer *t, iv_step_report *r)
{
    state *all;
    IV_TRY(iv__workers_again(t, &t->workers));
    const iv_ranks *now = &t->workers.comm->ranks;
    if (t->ckpt && t->ckpt->join)
        IV_TRY(t->ckpt->join(t->ckpt_self, &(iv_ckpt_group){.rank = now->rank,
                                                            .ranks = now->world,
                                                            .local_rank = now->local_rank}));
    IV_TRY(iv__calloc(t->workers.comm->ranks.world, sizeof(*all), "states of ranks", &all));
    iv_status s = catch_up(t, all, r);
    free(all);
    return s;
}
