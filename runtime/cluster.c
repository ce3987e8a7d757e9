/* cluster.c: chooses a cluster plugin and checks what it says (iv_cluster_find in invar.h).
 *
 * Order: a rank that Invar has started itself, cluster.name (--cluster), INVAR_CLUSTER, then the
 * plugin that detects most specifically. "none" is one process, whatever the environment says.
 * Every range and every contradiction between counts that needs no knowledge of the launcher is
 * checked here, once for all plugins. */
#include "registry.h"

#include "base.h"

/* Built-in and loaded plugins by name; a name that comes again stands for the last one loaded. */
static bool name_at(int32_t i, char out[64])
{
    iv_plugin_info p;
    for (int32_t k = 0, n = 0; iv_plugin_entry(k, &p); ++k) {
        bool again = strcmp(p.kind, "cluster") != 0 || *p.refused;
        iv_plugin_info before;
        for (int32_t j = 0; !again && j < k && iv_plugin_entry(j, &before); ++j)
            again = strcmp(before.kind, "cluster") == 0 && strcmp(before.name, p.name) == 0;
        if (again || n++ != i) continue;
        snprintf(out, 64, "%s", p.name);
        return true;
    }
    return false;
}

static iv_status open_plugin(const char *name, const iv_cluster **out, void **out_self)
{
    const iv_plugin *p;
    IV_TRY(iv__registry_get(IV_PLUGIN_CLUSTER, name, &p, out_self));
    *out = p->vtable;
    return IV_OK;
}

bool iv_cluster_candidate_get(int32_t i, iv_cluster_candidate *out)
{
    iv_cluster_candidate c = {.score = 0};
    const iv_cluster *vt;
    void *self;
    if (!name_at(i, c.name)) return false;
    if (open_plugin(c.name, &vt, &self) != IV_OK)
        snprintf(c.why, sizeof(c.why), "%s", iv_error_message());
    else c.score = vt->detect(self, c.why, sizeof(c.why));
    *out = c;
    return true;
}

/* The candidate with the highest score; the earlier one of two that are equal. */
static void detect(iv_cluster_info *out)
{
    iv_cluster_candidate c;
    int32_t best = 0;
    snprintf(out->name, sizeof(out->name), "none");
    snprintf(out->why, sizeof(out->why), "no cluster plugin is loaded");
    for (int32_t i = 0; iv_cluster_candidate_get(i, &c); ++i) {
        if (c.score <= best) continue;
        best = c.score;
        snprintf(out->name, sizeof(out->name), "%s", c.name);
        snprintf(out->why, sizeof(out->why), "%s", c.why);
    }
}

static void choose(const iv_config *c, iv_cluster_info *out)
{
    const char *name = iv_config_str(c, "cluster.name"), *own = iv__env(IV__ENV_CLUSTER);
    if (iv__env(IV__ENV_SPAWNED)) {
        snprintf(out->name, sizeof(out->name), "lightning");
        snprintf(out->why, sizeof(out->why), "INVAR_SPAWNED is set");
    } else if (*name && strcmp(name, "auto") != 0) {
        snprintf(out->name, sizeof(out->name), "%s", name);
        snprintf(out->why, sizeof(out->why), "--cluster %s", out->name);
    } else if (own && strcmp(own, "auto") != 0) {
        snprintf(out->name, sizeof(out->name), "%s", own);
        snprintf(out->why, sizeof(out->why), "INVAR_CLUSTER=%s", out->name);
    } else {
        detect(out);
    }
}

/* What device.devices asks for: a number of processes per node; 0 for auto and for lists, which
 * name the devices of one process. */
static iv_status read_ask(const iv_config *c, iv_cluster_ask *out)
{
    const char *devices = iv_config_str(c, "device.devices");
    out->nodes = (int32_t)iv_config_int(c, "cluster.nodes");
    out->devices = 0;
    if (*devices < '0' || *devices > '9' || strchr(devices, ':') || strchr(devices, ','))
        return IV_OK;
    char *end;
    const long n = strtol(devices, &end, 10);
    if (*end || n < 1 || n > 4096)
        IV_FAIL(IV_INVALID,
                "--devices %.40s: a number from 1 to 4096, or a list such as cpu:0, is "
                "needed",
                devices);
    out->devices = (int32_t)n;
    return IV_OK;
}

/* ---- checks ---- */

static iv_status check_place(const char *what, const iv_ranks *r, iv_rank_field place, int32_t at,
                             iv_rank_field count, int32_t n)
{
    if (at >= 0 && at < n) return IV_OK;
    IV_FAIL(IV_INVALID, "cluster %s: %s=%d, but %s=%d: must be from 0 to %d", what, r->from[place],
            at, r->from[count], n, n - 1);
}

static iv_status check_ranks(const char *what, const iv_ranks *r)
{
    if (r->nodes) IV_TRY(check_place(what, r, IV_RANK_NODE, r->node, IV_RANK_NODES, r->nodes));
    if (r->local_world)
        IV_TRY(check_place(what, r, IV_RANK_LOCAL_RANK, r->local_rank, IV_RANK_LOCAL_WORLD,
                           r->local_world));
    IV_TRY(check_place(what, r, IV_RANK_RANK, r->rank, IV_RANK_WORLD, r->world));
    if (r->local_world) {
        if (r->local_world > r->world)
            IV_FAIL(IV_INVALID, "cluster %s: %s=%d on this node, but %s=%d in all", what,
                    r->from[IV_RANK_LOCAL_WORLD], r->local_world, r->from[IV_RANK_WORLD], r->world);
    }
    if (r->local_rank > r->rank)
        IV_FAIL(IV_INVALID, "cluster %s: %s=%d is above %s=%d", what, r->from[IV_RANK_LOCAL_RANK],
                r->local_rank, r->from[IV_RANK_RANK], r->rank);
    if (r->nodes) {
        if (r->nodes > r->world)
            IV_FAIL(IV_INVALID, "cluster %s: %s=%d nodes, but %s=%d processes", what,
                    r->from[IV_RANK_NODES], r->nodes, r->from[IV_RANK_WORLD], r->world);
        if (r->nodes == 1 && r->local_world && r->local_world != r->world)
            IV_FAIL(IV_INVALID, "cluster %s: one node with %s=%d, but %s=%d", what,
                    r->from[IV_RANK_LOCAL_WORLD], r->local_world, r->from[IV_RANK_WORLD], r->world);
    }
    for (int32_t i = 0; i < r->n_ports; ++i)
        if (r->ports[i] < 1 || r->ports[i] > 65535)
            IV_FAIL(IV_INVALID, "cluster %s: port %d is out of range (%s)", what, r->ports[i],
                    r->from[IV_RANK_PORT]);
    return IV_OK;
}

static iv_status check_ask(const char *what, const iv_cluster_ask *ask, const iv_ranks *r)
{
    if (ask->devices > 0 && r->local_world && ask->devices != r->local_world)
        IV_FAIL(IV_INVALID,
                "--devices %d, but cluster %s has %d processes on this node (%s) [hint: leave "
                "--devices out, or --cluster lightning to start processes here]",
                ask->devices, what, r->local_world, r->from[IV_RANK_LOCAL_WORLD]);
    if (ask->nodes > 0 && r->nodes && ask->nodes != r->nodes)
        IV_FAIL(IV_INVALID, "--nodes %d, but cluster %s has %d (%s)", ask->nodes, what, r->nodes,
                r->from[IV_RANK_NODES]);
    const int32_t nodes = r->nodes ? r->nodes : ask->nodes;
    if (ask->devices > 0 && !r->local_world && nodes && ask->devices * nodes != r->world)
        IV_FAIL(IV_INVALID, "--devices %d on %d nodes, but %s=%d", ask->devices, nodes,
                r->from[IV_RANK_WORLD], r->world);
    return IV_OK;
}

static iv_status read_none(const iv_cluster_ask *ask, iv_ranks *r)
{
    if (ask->devices > 1 || ask->nodes > 1)
        IV_FAIL(IV_INVALID,
                "--cluster none is one process, but --devices %d and --nodes %d ask for more",
                ask->devices, ask->nodes);
    *r = (iv_ranks){.world = 1, .local_world = 1, .nodes = 1, .spawn = 1};
    for (int i = 0; i < IV_RANK_ADDRESS; ++i) snprintf(r->from[i], sizeof(r->from[i]), "none");
    return IV_OK;
}

/* The chosen plugin's command, or that of any other: a single process, or one that starts its ranks
 * itself, is often a job of a scheduler all the same. */
static iv_status find_requeue(const iv_cluster *chosen, void *self, iv_cluster_info *out)
{
    char name[64];
    if (chosen->requeue) IV_TRY(chosen->requeue(self, out->requeue, sizeof(out->requeue)));
    for (int32_t i = 0; !*out->requeue && name_at(i, name); ++i) {
        const iv_cluster *vt;
        if (open_plugin(name, &vt, &self) == IV_OK && vt != chosen && vt->requeue)
            IV_TRY(vt->requeue(self, out->requeue, sizeof(out->requeue)));
    }
    return IV_OK;
}

iv_status iv_cluster_find(const iv_config *c, iv_cluster_info *out)
{
    iv_cluster_ask ask;
    iv_ranks r = {0};
    const iv_cluster *vt;
    void *self;
    *out = (iv_cluster_info){.name = ""};
    choose(c, out);
    IV_TRY(read_ask(c, &ask));
    if (strcmp(out->name, "none") == 0) return read_none(&ask, &out->ranks);
    IV_TRY(open_plugin(out->name, &vt, &self));
    IV_TRY(vt->ranks(self, &ask, &r));
    if (r.spawn < 1) r.spawn = 1;
    r.port = r.n_ports ? r.ports[0] : 0;
    IV_TRY(check_ranks(out->name, &r));
    if (vt->validate) IV_TRY(vt->validate(self, &ask, &r));
    IV_TRY(check_ask(out->name, &ask, &r));
    IV_TRY(find_requeue(vt, self, out));
    out->ranks = r;
    return IV_OK;
}
