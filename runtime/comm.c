/* comm.c: collective operations out of sets of messages (see comm.h).
 *
 * Everything is exchanged directly between pairs of ranks: each byte crosses a link once, and every
 * rank waits for every other one itself, so that a lost rank is seen by all. */
#include "comm.h"

#include "registry.h"

#include <inttypes.h>

/* What a rank tells of its failure. */
typedef struct iv__told {
    int32_t status;
    char text[508];
} iv__told;

static iv_status open_link(iv__comm *c, const char *name)
{
    const iv_plugin *p;
    void *self;
    IV_TRY(iv__registry_get(IV_PLUGIN_TRANSPORT, name, &p, &self));
    c->vt = p->vtable;
    c->name = p->name;
    iv_status s = c->vt->open(self, &c->ranks, c->timeout_ns, &c->link);
    return s == IV_OK ? s : iv__context(s, "meeting the other ranks through %s", c->name);
}

/* Goodness of transport i here, 0: not usable. */
static int32_t goodness(const iv__comm *c, const char *name)
{
    const iv_plugin *p;
    void *self;
    char why[256] = "";
    if (iv__registry_get(IV_PLUGIN_TRANSPORT, name, &p, &self) != IV_OK) return 0;
    int good = ((const iv_transport *)p->vtable)->usable(self, &c->ranks, why, sizeof(why));
    iv__log(IV_LOG_DEBUG, "transport %s: %d (%s)", name, good, why);
    return good;
}

/* The best transport that every rank can use.  All ranks have the same plugins, or fail here. */
static iv_status agree(iv__comm *c, const char **out_name)
{
    int64_t good[IV__COMM_WORDS] = {0};
    int32_t n = 0, best = -1;
    for (; n < IV__COMM_WORDS - 1 && iv__registry_name(IV_PLUGIN_TRANSPORT, n); ++n)
        good[n] = goodness(c, iv__registry_name(IV_PLUGIN_TRANSPORT, n));
    int64_t count[2] = {n, -n};
    IV_TRY(iv__comm_reduce(c, IV_COMM_MIN, count, 2));
    if (count[0] != -count[1])
        IV_FAIL(IV_INVALID,
                "choosing a transport: ranks have from %" PRId64 " to %" PRId64
                " transport plugins [hint: the same --plugins everywhere]",
                count[0], -count[1]);
    IV_TRY(iv__comm_reduce(c, IV_COMM_MIN, good, n));
    for (int32_t i = 0; i < n; ++i)
        if (good[i] > 0 && (best < 0 || good[i] > good[best])) best = i;
    *out_name = best >= 0 ? iv__registry_name(IV_PLUGIN_TRANSPORT, best) : c->name;
    return IV_OK;
}

/* The best transport by this rank's own judgement. */
static const char *best_here(const iv__comm *c)
{
    const char *best = "tcp", *name;
    int32_t most = 0;
    for (int32_t i = 0; (name = iv__registry_name(IV_PLUGIN_TRANSPORT, i)); ++i) {
        const int32_t good = goodness(c, name);
        if (good <= most) continue;
        most = good;
        best = name;
    }
    return best;
}

static iv_status open_auto(iv__comm *c)
{
    const char *name = NULL;
    /* Without an address there is no meeting place.  mpirun on several nodes tells none: its ranks
     * judge alike, and MPI finds them. */
    if (!*c->ranks.address) return open_link(c, best_here(c));
    IV_TRY(open_link(c, "tcp"));
    IV_TRY(agree(c, &name));
    if (strcmp(name, c->name) == 0) return IV_OK;
    iv__comm meeting = *c;
    c->link = NULL;
    iv_status s = open_link(c, name);
    meeting.vt->close(meeting.link);
    return s;
}

iv_status iv__comm_open(const char *spec, const iv_ranks *r, int64_t timeout_ns, iv__comm **out)
{
    iv__comm *c;
    IV_TRY(iv__calloc(1, sizeof(*c), "a communicator", &c));
    *c = (iv__comm){.ranks = *r, .timeout_ns = timeout_ns, .lost = -1, .name = "none"};
    /* The name that a scheduler gives a node need not be known to it; on one node none is needed.
     */
    if (r->nodes == 1 && *r->address && strcmp(r->from[IV_RANK_ADDRESS], "MASTER_ADDR") != 0)
        snprintf(c->ranks.address, sizeof(c->ranks.address), "127.0.0.1");
    iv_status s = iv__calloc(2 * r->world, sizeof(*c->messages), "messages", &c->messages);
    if (s == IV_OK)
        s = iv__calloc((int64_t)r->world * IV__COMM_WORDS, sizeof(*c->words), "words", &c->words);
    if (s == IV_OK) s = iv__calloc(r->world, sizeof(*c->told), "failures", &c->told);
    if (s == IV_OK && r->world > 1)
        s = strcmp(spec, "auto") == 0 ? open_auto(c) : open_link(c, spec);
    if (s != IV_OK) {
        iv__comm_close(c);
        return s;
    }
    *out = c;
    return IV_OK;
}

void iv__comm_close(iv__comm *c)
{
    if (!c) return;
    if (c->link) c->vt->close(c->link);
    free(c->messages);
    free(c->words);
    free(c->told);
    free(c);
}

iv_status iv__comm_again(iv__comm *c)
{
    if (!c->vt || !c->vt->again)
        IV_FAIL(IV_UNSUPPORTED, "transport %s cannot go on without a rank", c->name);
    IV_TRY(c->vt->again(c->link, c->timeout_ns, &c->ranks));
    c->lost = -1;
    return IV_OK;
}

iv_status iv__comm_start(iv__comm *c, const iv_message *m, int32_t n, uint64_t *out_ticket)
{
    return c->vt->start(c->link, m, n, out_ticket);
}

iv_status iv__comm_finish(iv__comm *c, uint64_t ticket)
{
    int32_t rank = -1;
    iv_status s = c->vt->finish(c->link, ticket, c->timeout_ns, &rank);
    if (s != IV_OK && rank >= 0) c->lost = rank;
    return s;
}

iv_status iv__comm_gather_parts(iv__comm *c, void *base, const iv__part *parts)
{
    const int32_t me = c->ranks.rank, world = c->ranks.world;
    uint64_t ticket;
    int32_t n = 0;
    for (int32_t i = 1; i < world; ++i) { /* each begins with its right neighbour */
        int32_t to = (me + i) % world, from = (me + world - i) % world;
        if (parts[me].bytes)
            c->messages[n++] =
                (iv_message){to, 1, (char *)base + parts[me].offset, parts[me].bytes};
        if (parts[from].bytes)
            c->messages[n++] =
                (iv_message){from, 0, (char *)base + parts[from].offset, parts[from].bytes};
    }
    if (n == 0) return IV_OK;
    IV_TRY(iv__comm_start(c, c->messages, n, &ticket));
    return iv__comm_finish(c, ticket);
}

iv_status iv__comm_gather(iv__comm *c, void *all, int64_t each)
{
    const int32_t me = c->ranks.rank, world = c->ranks.world;
    uint64_t ticket;
    int32_t n = 0;
    if (world == 1 || each == 0) return IV_OK;
    for (int32_t i = 1; i < world; ++i) {
        int32_t to = (me + i) % world, from = (me + world - i) % world;
        c->messages[n++] = (iv_message){to, 1, (char *)all + me * each, each};
        c->messages[n++] = (iv_message){from, 0, (char *)all + from * each, each};
    }
    IV_TRY(iv__comm_start(c, c->messages, n, &ticket));
    return iv__comm_finish(c, ticket);
}

static int64_t combine(iv__comm_op op, int64_t a, int64_t b)
{
    switch (op) {
    case IV_COMM_MAX: return a > b ? a : b;
    case IV_COMM_MIN: return a < b ? a : b;
    case IV_COMM_SUM: return a + b;
    case IV_COMM_OR: return a | b;
    }
    return a;
}

iv_status iv__comm_reduce(iv__comm *c, iv__comm_op op, int64_t *v, int32_t n)
{
    if (n < 0 || n > IV__COMM_WORDS) IV_FAIL(IV_INTERNAL, "reducing %d words", n);
    memcpy(c->words + (int64_t)c->ranks.rank * n, v, (size_t)n * sizeof(*v));
    IV_TRY(iv__comm_gather(c, c->words, n * (int64_t)sizeof(*v)));
    memcpy(v, c->words, (size_t)n * sizeof(*v));
    for (int32_t r = 1; r < c->ranks.world; ++r)
        for (int32_t i = 0; i < n; ++i) v[i] = combine(op, v[i], c->words[(int64_t)r * n + i]);
    return IV_OK;
}

iv_status iv__comm_agree(iv__comm *c, iv_status s)
{
    iv__told *mine = &c->told[c->ranks.rank];
    if (c->ranks.world == 1 || c->lost >= 0) return s;
    *mine = (iv__told){.status = (int32_t)s};
    if (s != IV_OK) snprintf(mine->text, sizeof(mine->text), "%s", iv_error_message());
    IV_TRY(iv__comm_gather(c, c->told, sizeof(*mine)));
    if (s != IV_OK) IV_FAIL(s, "%s", mine->text);
    for (int32_t r = 0; r < c->ranks.world; ++r)
        if (c->told[r].status != IV_OK)
            IV_FAIL((iv_status)c->told[r].status, "rank %d: %s", r, c->told[r].text);
    return IV_OK;
}

iv_status iv__comm_same(iv__comm *c, uint64_t value, const char *what)
{
    uint64_t *all = (uint64_t *)c->words;
    all[c->ranks.rank] = value;
    IV_TRY(iv__comm_gather(c, all, sizeof(*all)));
    for (int32_t r = 1; r < c->ranks.world; ++r)
        if (all[r] != all[0]) IV_FAIL(IV_INVALID, "rank %d has %s than rank 0", r, what);
    return IV_OK;
}

iv_status iv__comm_barrier(iv__comm *c)
{
    int64_t nothing = 0;
    return iv__comm_reduce(c, IV_COMM_MAX, &nothing, 1);
}
