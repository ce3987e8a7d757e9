/* workers.c: ranks, devices and shares (see workers.h). */
#include "trainer.h"

#include "deepspeed.h"

#include <math.h>
#include <sched.h>
#include <unistd.h>
#include <xxhash.h>

/* ---- devices ---- */

static const char *device_kind(const iv_trainer *t)
{
    const char *kind = iv_config_str(t->config, "device.accelerator");
    return strcmp(kind, "auto") == 0 ? "cpu" : kind;
}

void iv__workers_kind(const iv_trainer *t, char *out, size_t size)
{
    const char *list = iv_config_str(t->config, "device.devices");
    if (strchr(list, ':')) snprintf(out, size, "%.*s", (int)strcspn(list, ":"), list);
    else snprintf(out, size, "%s", device_kind(t));
}

/* With one process per device: the one whose number is the local rank, or the only one that the
 * launcher lets this process see. */
static iv_status own_device(const iv_trainer *t, const iv_ranks *r, char *out, size_t size)
{
    const char *kind = device_kind(t);
    int32_t index = 0, n = 1;
    if (r->local_world > 1 && strcmp(kind, "cpu") != 0) {
        IV_TRY(iv__device_count(kind, &n));
        index = n > 1 ? r->local_rank : 0;
    }
    snprintf(out, size, "%s:%d", kind, index);
    return IV_OK;
}

/* Device i of the list; *out_more: whether others follow. */
static iv_status listed_device(const char *list, int64_t i, char *out, size_t size, bool *out_more)
{
    const char *at = list;
    for (; i > 0 && at; --i) at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
    size_t n = at ? strcspn(at, ",") : 0;
    if (n == 0 || n >= size)
        IV_FAIL(IV_INVALID, "--devices %s: a list of devices is written cpu:0,opencl:0", list);
    snprintf(out, size, "%.*s", (int)n, at);
    *out_more = at[n] == ',';
    return IV_OK;
}

/* "auto" and numbers mean one device for each process (which the cluster environment counts); a
 * list means the devices of this process. */
static iv_status device_name(const iv_trainer *t, const iv_ranks *r, int64_t i, char *out,
                             size_t size, bool *out_more)
{
    const char *list = iv_config_str(t->config, "device.devices");
    *out_more = false;
    if (!strchr(list, ':')) return own_device(t, r, out, size);
    return listed_device(list, i, out, size, out_more);
}

static iv_status count_replicas(const iv_trainer *t, const iv_ranks *r, int64_t *out)
{
    char name[64];
    bool more = true;
    for (*out = 0; more; ++*out) IV_TRY(device_name(t, r, *out, name, sizeof(name), &more));
    return IV_OK;
}

/* ---- ranks ---- */

/* What a run is a function of, and what must be the same for its ranks to take part in it. */
static uint64_t run_hash(const iv_trainer *t)
{
    static const char *const own[] = {"device.", "out.", "log.", "plugins", "cluster.name"};
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    XXH64_hash_t h = 7;
    for (int64_t i = 0; i < n; ++i) {
        bool skip = false;
        for (int64_t k = 0; k < IV_COUNT(own); ++k)
            skip |= strncmp(keys[i].key, own[k], strlen(own[k])) == 0;
        if (skip) continue;
        char text[64];
        const char *s = text;
        switch (keys[i].type) {
        case IV_CFG_STRING: s = iv_config_str(t->config, keys[i].key); break;
        case IV_CFG_INT:
            snprintf(text, sizeof(text), "%lld", (long long)iv_config_int(t->config, keys[i].key));
            break;
        case IV_CFG_FLOAT:
            snprintf(text, sizeof(text), "%a", iv_config_float(t->config, keys[i].key));
            break;
        case IV_CFG_BOOL: s = iv_config_bool(t->config, keys[i].key) ? "true" : "false"; break;
        }
        /* Files may lie elsewhere on another machine; what they hold is compared below. */
        if (strncmp(keys[i].key, "data.train", 10) != 0) h = XXH64(s, strlen(s), h);
    }
    return XXH64(t->info.samples, sizeof(t->info.samples), h);
}

static iv_status meet(iv_trainer *t, iv__workers *w)
{
    IV_TRY(iv_cluster_find(t->config, &w->cluster));
    double timeout = iv_config_float(t->config, "cluster.timeout") * 1e9;
    IV_TRY(iv__comm_open(iv_config_str(t->config, "cluster.transport"), &w->cluster.ranks,
                         (int64_t)timeout, &w->comm));
    return iv__comm_same(w->comm, run_hash(t),
                         "another configuration, other data or another version");
}

/* Who the workers are; speeds are equal until they are measured. */
static iv_status count_workers(iv__workers *w, int64_t own)
{
    int32_t world = w->comm->ranks.world, me = w->comm->ranks.rank;
    int64_t *counts;
    free(w->rank);
    free(w->span);
    free(w->speed);
    w->rank = NULL;
    w->span = NULL;
    w->speed = NULL;
    w->n = w->steps = 0;
    IV_TRY(iv__calloc(world, sizeof(*counts), "workers", &counts));
    counts[me] = own;
    iv_status s = iv__comm_gather(w->comm, counts, sizeof(*counts));
    for (int32_t r = 0; r < world; ++r) {
        if (r == me) w->first = w->n;
        w->n += counts[r];
    }
    if (s == IV_OK) s = iv__calloc(w->n, sizeof(*w->rank), "workers", &w->rank);
    if (s == IV_OK) s = iv__calloc(w->n, sizeof(*w->span), "workers", &w->span);
    if (s == IV_OK) s = iv__calloc(w->n, sizeof(*w->speed), "workers", &w->speed);
    int64_t at = 0;
    for (int32_t r = 0; s == IV_OK && r < world; ++r)
        for (int64_t i = 0; i < counts[r]; ++i, ++at) {
            w->rank[at] = r;
            w->speed[at] = 1;
        }
    free(counts);
    return s;
}

/* Each rank's part of w->speed comes to every rank. */
static iv_status gather_speeds(iv__workers *w)
{
    iv__part *parts;
    IV_TRY(iv__calloc(w->comm->ranks.world, sizeof(*parts), "speeds", &parts));
    for (int64_t i = 0; i < w->n; ++i) {
        iv__part *p = &parts[w->rank[i]];
        if (!p->bytes) p->offset = i * (int64_t)sizeof(*w->speed);
        p->bytes += (int64_t)sizeof(*w->speed);
    }
    const iv_status s = iv__comm_gather_parts(w->comm, w->speed, parts);
    free(parts);
    return s;
}

/* device.shares of this process, as speeds. */
static iv_status read_shares(const iv_trainer *t, iv__workers *w, int64_t own)
{
    const char *text = iv_config_str(t->config, "device.shares"), *at = text;
    char *end = NULL;
    w->fixed = strcmp(text, "auto") != 0;
    for (int64_t i = 0; w->fixed && i < own; ++i, at = end + (*end == ':')) {
        w->speed[w->first + i] = strtod(at, &end);
        if (end == at || !(w->speed[w->first + i] > 0) || !isfinite(w->speed[w->first + i]) ||
            *end != (i + 1 < own ? ':' : 0))
            IV_FAIL(IV_INVALID,
                    "device.shares \"%s\": a number above 0 is needed for each of %lld devices "
                    "[hint: 3:1, or auto]",
                    text, (long long)own);
    }
    return IV_OK;
}

/* ---- segments ---- */

/* Everybody adds an even part, and everybody gets everything. */
static int64_t even_segments(const iv__store *s, int32_t world, iv__segment *out)
{
    for (int32_t r = 0; out && r < world; ++r) {
        int64_t at = iv__store_cut(s->grad_elems, r, world);
        out[r] = (iv__segment){at, iv__store_cut(s->grad_elems, r + 1, world) - at, r, true};
    }
    return world;
}

/* What adds up the sums of all workers. */
static iv_status open_reducer(iv__workers *w)
{
    if (w->share.ranks > 1) {
        IV_TRY(iv__pieces_open(w->comm, w->replicas[0]->store, &w->pieces));
        w->replicas[0]->store->pieces = w->pieces;
    }
    if (w->share.stage >= 2) return IV_OK;
    int64_t (*make)(const iv__store *, int32_t, iv__segment *) =
        w->sharded ? iv__shard_segments : even_segments;
    const iv__store *s = w->replicas[0]->store;
    int32_t world = w->comm->ranks.world;
    int64_t n = make(s, world, NULL);
    iv__segment *segments;
    iv__reducer_close(w->reducer);
    w->reducer = NULL;
    IV_TRY(iv__calloc(n, sizeof(*segments), "segments", &segments));
    make(s, world, segments);
    iv_status st = iv__reducer_open(w->comm, s->type, segments, n, s->amax_at, &w->reducer);
    free(segments);
    return st;
}

static iv_status check_elastic(const iv__workers *w, const char *strategy)
{
    if (w->sharded)
        IV_FAIL(IV_UNSUPPORTED,
                "--elastic with --strategy %s: what a lost rank had of the optimizer's state, no "
                "other rank has [hint: --strategy ddp, or --resume auto]",
                strategy);
    if (w->comm->ranks.world > 1 && !w->comm->vt->again)
        IV_FAIL(IV_UNSUPPORTED,
                "--elastic: transport %s cannot go on without a rank [hint: --set "
                "cluster.transport=tcp]",
                w->comm->name);
    return IV_OK;
}

/* How ranks share the work. */
static iv_status choose_strategy(const iv_trainer *t, iv__workers *w, int64_t own)
{
    const char *name = iv_config_str(t->config, "cluster.strategy");
    const int32_t world = w->comm->ranks.world;
    int32_t stage = strcmp(name, "ddp_sharded") == 0 ? 1 : strcmp(name, "fsdp") == 0 ? 3 : 0;
    if (strcmp(name, "deepspeed") == 0) IV_TRY(iv__deepspeed_stage(t->config, world, &stage));
    w->sharded = stage > 0 && world > 1;
    w->tracked = w->sharded && *iv_config_str(t->config, "train.track_norm");
    w->may_overlap = world > 1 && stage < 2 && iv_config_bool(t->config, "cluster.overlap") &&
                     !iv_config_bool(t->config, "cluster.elastic");
    w->share = w->sharded ? (iv__share){w->comm->ranks.rank, world, stage, 1}
                          : (iv__share){.parts = 1, .ranks = 1};
    if (stage >= 2 || (w->may_overlap && own == 1)) w->share.ranks = world;
    if (w->sharded && own > 1)
        IV_FAIL(IV_UNSUPPORTED,
                "--strategy %s with %lld devices in a process [hint: a process for "
                "each device]",
                name, (long long)own);
    if (iv_config_bool(t->config, "cluster.elastic")) IV_TRY(check_elastic(w, name));
    return iv__calloc(w->comm->ranks.world, sizeof(*w->shared), "parts", &w->shared);
}

/* ---- shares ---- */

static iv_status host_memory(iv__device *d, int64_t bytes, iv__memory *out)
{
    iv__memory m = {.device = d, .bytes = bytes};
    iv_status s = d->vt->mem_alloc(d->dev, bytes, IV_MEM_HOST, &m.mem);
    if (s != IV_OK) return iv__context(s, "allocating %lld bytes of host memory", (long long)bytes);
    *out = m;
    return IV_OK;
}

static void free_parts(iv__workers *w)
{
    for (int64_t i = 0; i < w->n_staging; ++i)
        if (w->staging[i].mem)
            w->staging[i].device->vt->mem_free(w->staging[i].device->dev, w->staging[i].mem);
    if (w->out_mem.mem) w->out_mem.device->vt->mem_free(w->out_mem.device->dev, w->out_mem.mem);
    free(w->staging);
    free(w->parts);
    w->staging = NULL;
    w->parts = NULL;
    w->out_mem = (iv__memory){0};
    w->n_parts = w->n_staging = 0;
}

/* Host addresses of the sums of this rank's nodes, and of the place for the sums of all. */
static iv_status place_parts(iv__workers *w)
{
    free_parts(w);
    for (int64_t i = 0; i < w->n_replicas; ++i) w->n_parts += w->replicas[i]->n_nodes;
    IV_TRY(iv__calloc(w->n_parts, sizeof(*w->parts), "sums of workers", &w->parts));
    IV_TRY(iv__calloc(w->n_parts, sizeof(*w->staging), "sums of workers", &w->staging));
    w->n_staging = w->n_parts;
    w->out = NULL;
    int64_t k = 0;
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        iv__replica *r = w->replicas[i];
        for (int64_t n = 0; n < r->n_nodes; ++n, ++k) {
            const iv__memory *m = iv__replica_sums(r, n);
            w->parts[k] = iv__memory_host(m);
            if (w->parts[k]) continue;
            IV_TRY(host_memory(r->device, m->bytes, &w->staging[k]));
            w->parts[k] = iv__memory_host(&w->staging[k]);
        }
        if (!w->out) w->out = iv__memory_host(&r->store->grad_mem);
    }
    if (w->out) return IV_OK;
    const iv__store *s = w->replicas[0]->store;
    IV_TRY(host_memory(s->device, s->grad_mem.bytes, &w->out_mem));
    w->out = iv__memory_host(&w->out_mem);
    return IV_OK;
}

/* The nodes of all workers, in order. */
static iv_status deal_reducer(iv_trainer *t, iv__workers *w)
{
    iv__span *nodes;
    iv__pass *passes;
    int32_t *rank = NULL;
    int64_t n = 0;
    IV_TRY(iv__calloc(w->n * IV__NODES_MOST, sizeof(*nodes), "nodes", &nodes));
    iv_status s = iv__calloc(t->grains, sizeof(*passes), "passes", &passes);
    if (s == IV_OK) s = iv__calloc(w->n * IV__NODES_MOST, sizeof(*rank), "nodes", &rank);
    for (int64_t i = 0; s == IV_OK && i < w->n; ++i) {
        int64_t n_passes, n_nodes;
        iv__passes_cut(t->grains, w->span[i], t->grains / t->accumulate, passes, &n_passes,
                       nodes + n, &n_nodes);
        for (int64_t k = 0; k < n_nodes; ++k) rank[n++] = w->rank[i];
    }
    if (s == IV_OK) s = iv__reducer_deal(w->reducer, t->grains, nodes, rank, n);
    free(nodes);
    free(passes);
    free(rank);
    return s;
}

/* Every program has the same sets. */
static iv_status deal_pieces(const iv_trainer *t, iv__workers *w)
{
    const iv__replica *r = w->replicas[0];
    iv_status s = IV_OK;
    for (int64_t i = 1; i < r->n_programs; ++i)
        if (iv__plan_sets_hash(r->programs[i].plan) != iv__plan_sets_hash(r->programs[0].plan))
            s = iv__fail(IV_INTERNAL, "passes of other sizes move parameters in another order");
    IV_TRY(iv__comm_agree(w->comm, s));
    return iv__pieces_deal(w->pieces, t->grains, t->grains / t->accumulate, w->span,
                           r->programs[0].plan);
}

/* Whether what is enqueued on a device is done at once, on the calling thread. */
static bool is_host(const iv__replica *r)
{
    return iv__memory_host(&r->store->grad_mem) != NULL;
}

/* Whether every rank computes its grains in one pass, with memory that the host reaches, and moves
 * its sums in the same order.  Sums of several passes are better added before they travel. */
static iv_status can_overlap(const iv_trainer *t, const iv__workers *w, bool *out)
{
    const iv__replica *r = w->replicas[0];
    const int64_t hash = (int64_t)(iv__plan_sets_hash(r->programs[0].plan) >> 1);
    int64_t same[] = {w->pieces && is_host(r), hash, -hash};
    iv__span nodes[IV__NODES_MOST];
    iv__pass *passes;
    IV_TRY(iv__calloc(t->grains, sizeof(*passes), "passes", &passes));
    for (int64_t i = 0; i < w->n; ++i) {
        int64_t n_passes, n_nodes;
        iv__passes_cut(t->grains, w->span[i], t->grains / t->accumulate, passes, &n_passes, nodes,
                       &n_nodes);
        if (n_passes > 1) same[0] = 0;
    }
    free(passes);
    IV_TRY(iv__comm_reduce(w->comm, IV_COMM_MIN, same, 3));
    *out = same[0] && same[1] == -same[2];
    return IV_OK;
}

/* Who does how much, for those who ask. */
static void log_shares(const iv__workers *w)
{
    for (int64_t i = 0; i < w->n_replicas; ++i)
        iv__log(IV_LOG_DEBUG, "%s does %lld of %lld grains of a step", w->replicas[i]->device->name,
                (long long)w->span[w->first + i].count,
                (long long)(w->span[w->n - 1].first + w->span[w->n - 1].count));
}

/* Gives every worker its range. */
static iv_status deal(iv_trainer *t, iv__workers *w)
{
    for (int64_t i = 0; i < w->n_replicas; ++i)
        IV_TRY(iv__replica_deal(t, w->replicas[i], w->span[w->first + i]));
    if (w->n > 1) log_shares(w);
    w->overlaps = w->share.stage >= 2;
    if (w->may_overlap) IV_TRY(can_overlap(t, w, &w->overlaps));
    if (w->overlaps) return deal_pieces(t, w);
    if (w->pieces) iv__pieces_rest(w->pieces);
    IV_TRY(place_parts(w));
    return deal_reducer(t, w);
}

static iv_status open_replicas(iv_trainer *t, iv__workers *w, int64_t n)
{
    const iv_ranks *r = &w->comm->ranks;
    IV_TRY(iv__calloc(n, sizeof(*w->replicas), "replicas", &w->replicas));
    for (int64_t i = 0; i < n; ++i) {
        char name[64];
        bool more;
        IV_TRY(device_name(t, r, i, name, sizeof(name), &more));
        IV_TRY(iv__replica_open(t, name, w->span[w->first + i], &w->replicas[i]));
        ++w->n_replicas;
    }
    return IV_OK;
}

iv_status iv__workers_open(iv_trainer *t, iv__workers *w)
{
    int64_t own = 0;
    IV_TRY(meet(t, w));
    iv_status s = count_replicas(t, &w->comm->ranks, &own);
    if (s == IV_OK) s = choose_strategy(t, w, own);
    IV_TRY(iv__comm_agree(w->comm, s));
    IV_TRY(count_workers(w, own));
    IV_TRY(iv__comm_agree(w->comm, read_shares(t, w, own)));
    IV_TRY(gather_speeds(w));
    iv__shares(t->grains, w->speed, w->n, w->span);
    t->is_cut = w->n > 1 || t->accumulate > 1;
    s = open_replicas(t, w, own);
    if (s == IV_OK) s = open_reducer(w);
    if (s == IV_OK) s = deal(t, w);
    return iv__comm_agree(w->comm, s);
}

iv_status iv__workers_again(iv_trainer *t, iv__workers *w)
{
    IV_TRY(iv__comm_again(w->comm));
    IV_TRY(count_workers(w, w->n_replicas));
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        w->replicas[i]->seconds = 0;
        w->replicas[i]->grains_timed = 0;
    }
    iv__shares(t->grains, w->speed, w->n, w->span);
    iv_status s = open_reducer(w);
    if (s == IV_OK) s = deal(t, w);
    return iv__comm_agree(w->comm, s);
}

void iv__workers_close(iv__workers *w)
{
    /* First: messages of a job that has failed may still be arriving in what is freed then. */
    iv__comm_close(w->comm);
    free_parts(w);
    iv__reducer_close(w->reducer);
    iv__pieces_close(w->pieces);
    iv__memory_free(&w->gradients);
    for (int64_t i = 0; i < w->n_replicas; ++i) iv__replica_close(w->replicas[i]);
    free(w->replicas);
    free(w->rank);
    free(w->span);
    free(w->speed);
    free(w->shared);
    *w = (iv__workers){0};
}

/* ---- a step ---- */

iv__span iv__workers_samples(const iv_trainer *t, const iv__workers *w)
{
    int64_t per_grain = t->batch * t->accumulate / t->grains;
    int64_t last = w->first + w->n_replicas - 1;
    int64_t first = w->span[w->first].first, end = w->span[last].first + w->span[last].count;
    return (iv__span){first * per_grain, (end - first) * per_grain};
}

/* Speeds are measured in steps 4 to 7 and in 4 of each 64: then devices work one after the other.
 */
static bool is_measuring(const iv__workers *w)
{
    return w->n > 1 && !w->fixed && (w->steps < 64 ? w->steps : w->steps % 64) / 4 == 1;
}

static iv_status run_timed(iv_trainer *t, iv__replica *r, const iv__feed *f)
{
    const iv__pieces *p = t->workers.pieces;
    const int64_t waited = p ? iv__pieces_waited(p) : 0, start = iv__now_ns();
    IV_TRY(iv__replica_run(t, r, f));
    IV_TRY(r->device->vt->sync(r->device->queue));
    const int64_t others = p ? iv__pieces_waited(p) - waited : 0;
    r->seconds += (double)(iv__now_ns() - start - others) * 1e-9;
    r->grains_timed += r->range.count;
    return IV_OK;
}

/* Devices that work by themselves begin before those that work on this thread. */
static iv_status run_passes(iv_trainer *t, iv__workers *w, const iv__feed *f)
{
    bool timed = is_measuring(w);
    for (int host = 0; host < 2; ++host)
        for (int64_t i = 0; i < w->n_replicas; ++i)
            if (is_host(w->replicas[i]) == (host == 1))
                IV_TRY(timed ? run_timed(t, w->replicas[i], f)
                             : iv__replica_run(t, w->replicas[i], f));
    return IV_OK;
}

/* Brings sums of devices whose memory the host cannot reach to host memory. */
static iv_status collect(iv__workers *w)
{
    int64_t k = 0;
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        iv__replica *r = w->replicas[i];
        for (int64_t n = 0; n < r->n_nodes; ++n, ++k) {
            const iv__memory *m = iv__replica_sums(r, n);
            if (w->staging[k].mem)
                IV_TRY(r->device->vt->read(r->device->queue, w->parts[k],
                                           iv__memory_range(m, 0, m->bytes)));
        }
    }
    for (int64_t i = 0; i < w->n_replicas; ++i)
        IV_TRY(w->replicas[i]->device->vt->sync(w->replicas[i]->device->queue));
    return IV_OK;
}

/* Brings the sums of all to every device. */
static iv_status spread(iv__workers *w)
{
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        iv__device *d = w->replicas[i]->device;
        const iv__memory *g = &w->replicas[i]->store->grad_mem;
        if (iv__memory_host(g) == w->out) continue;
        IV_TRY(d->vt->write(d->queue, iv__memory_range(g, 0, g->bytes), w->out));
    }
    return IV_OK;
}

/* Speeds of all workers.  One that had no grains is taken for an average one. */
static iv_status share_speeds(iv__workers *w)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < w->n_replicas; ++i) {
        iv__replica *r = w->replicas[i];
        w->speed[w->first + i] = r->seconds > 0 ? (double)r->grains_timed / r->seconds : 0;
        r->seconds = 0;
        r->grains_timed = 0;
    }
    IV_TRY(gather_speeds(w));
    for (int64_t i = 0; i < w->n; ++i) {
        sum += w->speed[i];
        n += w->speed[i] > 0;
    }
    for (int64_t i = 0; i < w->n; ++i)
        if (!(w->speed[i] > 0)) w->speed[i] = n ? sum / (double)n : 1;
    return IV_OK;
}

iv_status iv__workers_balance(iv_trainer *t, iv__workers *w)
{
    bool measured = is_measuring(w);
    ++w->steps;
    if (!measured || is_measuring(w)) return IV_OK;
    iv__span *spans;
    IV_TRY(share_speeds(w));
    IV_TRY(iv__calloc(w->n, sizeof(*spans), "shares", &spans));
    iv__shares(t->grains, w->speed, w->n, spans);
    bool better =
        iv__shares_time(spans, w->speed, w->n) < 0.95 * iv__shares_time(w->span, w->speed, w->n);
    if (better) memcpy(w->span, spans, (size_t)w->n * sizeof(*spans));
    free(spans);
    return better ? iv__comm_agree(w->comm, deal(t, w)) : IV_OK;
}

iv_status iv__workers_run(iv_trainer *t, iv__workers *w, const iv__feed *f)
{
    IV_TRY(run_passes(t, w, f));
    if (w->n == 1 || w->overlaps) return IV_OK; /* the sums are those of the step already */
    IV_TRY(collect(w));
    const int64_t start = iv__now_ns();
    IV_TRY(iv__reducer_run(w->reducer, w->parts, w->out));
    w->reduced_ns += iv__now_ns() - start;
    return spread(w);
}

int64_t iv__workers_waited(const iv__workers *w)
{
    return w->reduced_ns + (w->pieces ? iv__pieces_waited(w->pieces) : 0);
}
