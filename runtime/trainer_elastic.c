/* trainer_elastic.c: a job that goes on when it loses ranks (--elastic).
 *
 * A step changes the state only after everything that ranks send each other in it, so a rank that
 * is interrupted is at the end of some step: of the same one as the others, or of the one before,
 * if the lost rank had sent the last of the sums to some and not to others.  Who is behind gets the
 * state of who is ahead.  Then the grains are dealt to who is left, and nothing that follows
 * depends on how many they are. */
#include "trainer.h"

/* What is not in arenas; the precision plugin's state is a text of its own. */
typedef struct state {
    int64_t step, samples_seen, skips, skipped, skipped_none;
    iv_step_report report; /* of the last step */
} state;

typedef struct states {
    state *all; /* [world] */
    char *text; /* [world][room] */
    int64_t room;
} states;

static iv_status states_new(iv_trainer *t, states *out)
{
    const iv__precision *p = &t->precision;
    const int32_t world = t->workers.comm->ranks.world;
    *out = (states){.room = 1 + (int64_t)(p->vt->save ? p->vt->save(p->run, NULL, 0) : 0)};
    IV_TRY(iv__comm_reduce(t->workers.comm, IV_COMM_MAX, &out->room, 1));
    IV_TRY(iv__calloc(world, sizeof(*out->all), "states of ranks", &out->all));
    return iv__calloc(world * out->room, 1, "precision states of ranks", &out->text);
}

static void describe(const iv_trainer *t, const iv_step_report *r, states *out)
{
    const iv__precision *p = &t->precision;
    const int32_t rank = t->workers.comm->ranks.rank;
    out->all[rank] = (state){.step = t->step,
                             .samples_seen = t->samples_seen,
                             .skips = p->skips,
                             .skipped = p->skipped,
                             .skipped_none = p->skipped_none,
                             .report = *r};
    if (p->vt->save) p->vt->save(p->run, out->text + rank * out->room, (size_t)out->room - 1);
}

static iv_status adopt(iv_trainer *t, const states *from, int32_t rank, iv_step_report *r)
{
    const state *s = &from->all[rank];
    iv__precision *p = &t->precision;
    t->step = s->step;
    t->samples_seen = s->samples_seen;
    p->skips = s->skips;
    p->skipped = s->skipped;
    p->skipped_none = s->skipped_none;
    *r = s->report;
    return iv__precision_resume(p, p->name, from->text + rank * from->room);
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

static iv_status catch_up(iv_trainer *t, states *known, iv_step_report *r)
{
    iv__comm *c = t->workers.comm;
    const state *all = known->all;
    int32_t ahead = 0;
    bool same = true;
    describe(t, r, known);
    IV_TRY(iv__comm_gather(c, known->all, sizeof(*known->all)));
    IV_TRY(iv__comm_gather(c, known->text, known->room));
    for (int32_t i = 0; i < c->ranks.world; ++i) {
        same = same && all[i].samples_seen == all[0].samples_seen;
        if (all[i].samples_seen > all[ahead].samples_seen) ahead = i;
    }
    if (same) return IV_OK;
    IV_TRY(copy_from(t, ahead));
    return t->samples_seen == all[ahead].samples_seen ? IV_OK : adopt(t, known, ahead, r);
}

iv_status iv__trainer_again(iv_trainer *t, iv_step_report *r)
{
    states known = {0};
    IV_TRY(iv__workers_again(t, &t->workers));
    const iv_ranks *now = &t->workers.comm->ranks;
    if (t->ckpt && t->ckpt->join)
        IV_TRY(t->ckpt->join(t->ckpt_self, &(iv_ckpt_group){.rank = now->rank,
                                                            .ranks = now->world,
                                                            .local_rank = now->local_rank}));
    iv_status s = states_new(t, &known);
    if (s == IV_OK) s = catch_up(t, &known, r);
    free(known.all);
    free(known.text);
    return s;
}
