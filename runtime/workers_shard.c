/* workers_shard.c: runs in which each rank updates its own part of the parameters and keeps the
 * optimizer's state of that part alone (Rajbhandari and others, "ZeRO", stage 1); in stages 2 and 3
 * its gradients and parameters too, which pieces.c moves.
 *
 * A rank owns whole blocks of the norm.  It gets the sums of its gradients (and of what is added to
 * them), computes its blocks of the norm, updates its parameters, and sends the blocks, and before
 * stage 3 the parameters, to all.  The arithmetic is that of every other run. */
#include "trainer.h"

/* The parts of summand `u` that belong to a rank's part of the parameter that it is added to. */
static int64_t summand_segments(const iv__store *s, const iv__slot *u, int32_t world,
                                iv__segment *out)
{
    const iv__slot *p = &s->params[u->summand_of];
    int64_t n = 0;
    for (int32_t r = 0; r < world; ++r) {
        const iv__span own = iv__store_owned(s, p, r, world);
        if (own.count == 0) continue;
        if (out) out[n] = (iv__segment){u->offset + own.first, own.count, r, false};
        ++n;
    }
    return n;
}

/* Gradients and their summands go to the parameters' owners; statistics and loss to everybody. */
int64_t iv__shard_segments(const iv__store *s, int32_t world, iv__segment *out)
{
    int64_t n = 0;
    for (int32_t r = 0; r < world; ++r, ++n) {
        int64_t at = iv__store_cut(s->param_elems, r, world);
        if (out)
            out[n] = (iv__segment){at, iv__store_cut(s->param_elems, r + 1, world) - at, r, false};
    }
    for (int64_t i = 0; i < s->n_summands; ++i)
        n += summand_segments(s, &s->summands[i], world, out ? out + n : NULL);
    if (out) out[n] = (iv__segment){s->stat_at, s->grad_elems - s->stat_at, world - 1, true};
    return n + 1;
}

/* ---- exchange ---- */

/* Each rank has parts[rank] of a memory; afterwards every rank has all. */
static iv_status exchange(iv__workers *w, const iv__memory *m, const iv__part *parts)
{
    const iv_backend *vt = m->device->vt;
    void *q = m->device->queue;
    char *host = iv__memory_host(m), *copy = NULL;
    const iv__part *own = &parts[w->comm->ranks.rank];
    IV_TRY(vt->sync(q));
    if (host) return iv__comm_gather_parts(w->comm, host, parts);
    IV_TRY(iv__calloc(m->bytes, 1, "an exchange between ranks", &copy));
    iv_status s = iv__device_read(m->device, copy + own->offset,
                                  iv__memory_range(m, own->offset, own->bytes));
    if (s == IV_OK) s = iv__comm_gather_parts(w->comm, copy, parts);
    if (s == IV_OK) s = iv__device_write(m->device, iv__memory_range(m, 0, m->bytes), copy);
    free(copy);
    return s;
}

iv_status iv__workers_copy_from(iv__workers *w, int32_t from, const iv__memory *memory)
{
    for (int32_t r = 0; r < w->comm->ranks.world; ++r)
        w->shared[r] = (iv__part){0, r == from ? memory->bytes : 0};
    return memory->bytes ? exchange(w, memory, w->shared) : IV_OK;
}

/* parts[r]: rank r's part of n elements of the parameters, at `unit` bytes for each `per`. */
static void parts_of(const iv__workers *w, int64_t per, int64_t unit, int64_t skip, iv__part *parts)
{
    const iv__store *s = w->replicas[0]->store;
    int32_t world = w->comm->ranks.world;
    for (int32_t r = 0; r < world; ++r) {
        int64_t first = iv__store_cut(s->param_elems, r, world),
                end = iv__store_cut(s->param_elems, r + 1, world);
        int64_t a = (first + per - 1) / per * unit, b = (end + per - 1) / per * unit;
        parts[r] = (iv__part){skip + a, b - a};
    }
}

iv_status iv__workers_share_blocks(iv__workers *w)
{
    enum { BLOCK = 4096 };
    const iv__optim *o = w->replicas[0]->optim;
    int64_t b = (int64_t)iv_dtype_bytes(o->store->type);
    if (!w->sharded) return IV_OK;
    for (int64_t half = 0; half < 2; ++half) { /* sums, then counts */
        parts_of(w, BLOCK, b, half * o->blocks * b, w->shared);
        IV_TRY(exchange(w, &o->part_mem, w->shared));
    }
    return IV_OK;
}

iv_status iv__workers_share_gradients(iv__workers *w)
{
    iv__replica *r = w->replicas[0];
    const iv__store *s = r->store;
    int64_t b = (int64_t)iv_dtype_bytes(s->type);
    iv__memory gradients = s->grad_mem;
    if (!w->tracked) return IV_OK;
    if (w->share.stage >= 2) {
        if (!w->gradients.mem)
            IV_TRY(iv__memory_alloc(s->device, s->param_elems * b, "gradients of all ranks",
                                    &w->gradients));
        gradients = w->gradients;
        r->optim->gradients = &w->gradients;
        if (s->shard_elems)
            IV_TRY(s->device->vt->copy(
                s->device->queue, iv__memory_range(&gradients, s->shard_at * b, s->shard_elems * b),
                iv__memory_range(&s->grad_mem, 0, s->shard_elems * b)));
    }
    gradients.bytes = s->param_elems * b; /* what lies behind is every rank's already */
    parts_of(w, 1, b, 0, w->shared);
    return exchange(w, &gradients, w->shared);
}

iv_status iv__workers_share_params(iv__workers *w)
{
    const iv__optim *o = w->replicas[0]->optim;
    if (!w->sharded) return IV_OK;
    parts_of(w, 1, (int64_t)iv_dtype_bytes(o->store->param_type), 0, w->shared);
    if (w->share.stage < 3) IV_TRY(exchange(w, &o->store->param_mem, w->shared));
    return o->count ? iv__workers_share_blocks(w) : IV_OK; /* of updates that rounding undid */
}

/* ---- moments of all ranks ---- */

/* Rank 0, or every rank, gets all parts in `host`, which has its own. */
static iv_status send_parts(iv__workers *w, char *host, const iv__part *parts, iv__unshard how)
{
    const int32_t me = w->comm->ranks.rank, world = w->comm->ranks.world;
    uint64_t ticket;
    int32_t n = 0;
    if (how == IV_UNSHARD_EVERY) return iv__comm_gather_parts(w->comm, host, parts);
    if (me > 0 && parts[me].bytes)
        w->comm->messages[n++] = (iv_message){0, 1, host + parts[me].offset, parts[me].bytes};
    for (int32_t r = 1; me == 0 && r < world; ++r)
        if (parts[r].bytes)
            w->comm->messages[n++] = (iv_message){r, 0, host + parts[r].offset, parts[r].bytes};
    if (n == 0) return IV_OK;
    IV_TRY(iv__comm_start(w->comm, w->comm->messages, n, &ticket));
    return iv__comm_finish(w->comm, ticket);
}

/* `full` (where it is) gets all parts; each rank has its own in `own`. */
static iv_status collect(iv__workers *w, const iv__memory *own, const iv__memory *full,
                         int64_t bytes, const iv__part *parts, iv__unshard how)
{
    const iv__part *mine = &parts[w->comm->ranks.rank];
    char *host;
    IV_TRY(iv__calloc(bytes, 1, "state of all ranks", &host));
    iv_status s = mine->bytes ? iv__device_read(own->device, host + mine->offset,
                                                iv__memory_range(own, 0, mine->bytes))
                              : IV_OK;
    if (s == IV_OK) s = send_parts(w, host, parts, how);
    if (s == IV_OK && full->mem)
        s = iv__device_write(full->device, iv__memory_range(full, 0, full->bytes), host);
    free(host);
    return s;
}

/* The arenas of which each rank has a part, parameters last. */
static int32_t split_arenas(const iv__workers *w, iv__memory *out[3])
{
    iv__store *s = w->replicas[0]->store;
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_moments; ++i) out[n++] = &s->moment_mem[i];
    if (w->share.stage >= 3) out[n++] = &s->param_mem;
    return n;
}

iv_status iv__workers_unshard(iv_trainer *t, iv__workers *w, iv__unshard how)
{
    iv__store *s = w->replicas[0]->store;
    iv__memory *arenas[3];
    const bool here = how != IV_UNSHARD_ROOT || w->comm->ranks.rank == 0;
    (void)t;
    if (!w->sharded) return IV_OK;
    const int32_t n = split_arenas(w, arenas);
    for (int32_t i = 0; i < n; ++i) {
        const int64_t b = (int64_t)iv_dtype_bytes(iv__store_type(s, arenas[i]));
        iv__memory full = {0};
        parts_of(w, 1, b, 0, w->shared);
        iv_status st =
            here ? iv__memory_alloc(s->device, s->param_elems * b, "state of all ranks", &full)
                 : IV_OK;
        if (st == IV_OK && how != IV_UNSHARD_EMPTY)
            st = collect(w, arenas[i], &full, s->param_elems * b, w->shared, how);
        if (st != IV_OK) {
            iv__memory_free(&full);
            return st;
        }
        if (!here) continue;
        w->shards[i] = *arenas[i];
        *arenas[i] = full;
    }
    w->unsharded = here;
    return IV_OK;
}

iv_status iv__workers_reshard(iv_trainer *t, iv__workers *w, iv__reshard how)
{
    iv__store *s = w->replicas[0]->store;
    iv__memory *arenas[3];
    iv_status st = IV_OK;
    const int32_t n = split_arenas(w, arenas);
    for (int32_t i = 0; w->unsharded && i < n; ++i) {
        const int64_t b = (int64_t)iv_dtype_bytes(iv__store_type(s, arenas[i])),
                      bytes = s->shard_elems * b;
        const bool takes =
            how == IV_RESHARD_TAKE || (how == IV_RESHARD_TAKE_PARAMS && arenas[i] == &s->param_mem);
        if (st == IV_OK && takes && bytes)
            st = s->device->vt->copy(s->device->queue, iv__memory_range(&w->shards[i], 0, bytes),
                                     iv__memory_range(arenas[i], s->shard_at * b, bytes));
        if (st == IV_OK) st = s->device->vt->sync(s->device->queue);
        iv__trainer_release(t, arenas[i]);
        iv__memory_free(arenas[i]);
        *arenas[i] = w->shards[i];
        w->shards[i] = (iv__memory){0};
    }
    const bool lower = w->unsharded && how != IV_RESHARD_KEEP && w->share.stage >= 3;
    w->unsharded = false;
    return st == IV_OK && lower ? iv__store_lower(s) : st;
}

iv_status iv__workers_hash(iv_trainer *t, iv__workers *w, bool optimizer_state, char out_hex[33])
{
    iv__store *s = w->replicas[0]->store;
    int64_t words[4] = {0};
    if (!w->sharded || (!optimizer_state && w->share.stage < 3))
        return iv__store_hash(s, optimizer_state, out_hex);
    IV_TRY(iv__workers_unshard(t, w, IV_UNSHARD_ROOT));
    iv_status st = w->comm->ranks.rank == 0 ? iv__store_hash(s, optimizer_state, out_hex) : IV_OK;
    IV_TRY(iv__workers_reshard(t, w, IV_RESHARD_KEEP));
    IV_TRY(iv__comm_agree(w->comm, st));
    if (w->comm->ranks.rank == 0) memcpy(words, out_hex, sizeof(words));
    IV_TRY(iv__comm_reduce(w->comm, IV_COMM_OR, words, 4)); /* the others have zeros */
    memcpy(out_hex, words, sizeof(words));
    out_hex[32] = 0;
    return IV_OK;
}
