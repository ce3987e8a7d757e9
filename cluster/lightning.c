/* lightning.c: one node, or some with the same command on each; no launcher.  The fallback.
 *
 * The process that a person starts is the first on its node and is to start the others
 * (iv_ranks.spawn); those find LOCAL_RANK set, as do processes that a script started with the usual
 * variables RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE.  On several nodes NODE_RANK (or
 * GROUP_RANK), MASTER_ADDR and MASTER_PORT are needed on each. */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const iv__rank_row given[] = {
    {IV_RANK_LOCAL_RANK, false, {"LOCAL_RANK"}},
    {IV_RANK_RANK, false, {"RANK"}},
    {IV_RANK_WORLD, false, {"WORLD_SIZE"}},
    {IV_RANK_LOCAL_WORLD, false, {"LOCAL_WORLD_SIZE"}},
    {IV_RANK_NODE, false, {"NODE_RANK", "GROUP_RANK"}},
    {IV_RANK_NODES, false, {"GROUP_WORLD_SIZE"}},
};
enum { N_GIVEN = sizeof(given) / sizeof(*given) };

static bool started_by_others(void)
{
    return iv__cluster_get("LOCAL_RANK") ||
           (iv__cluster_get("RANK") && iv__cluster_get("WORLD_SIZE"));
}

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    const char *rank = iv__cluster_get("LOCAL_RANK");
    if (rank) snprintf(why, why_size, "no launcher's variables, but LOCAL_RANK=%.80s", rank);
    else if (started_by_others()) snprintf(why, why_size, "no launcher's, but RANK and WORLD_SIZE");
    else snprintf(why, why_size, "no launcher's variables");
    return 1;
}

/* What is not given follows from the rest, as a run of equal nodes. */
static iv_status complete(const iv_cluster_ask *ask, iv_ranks *r)
{
    if (!r->nodes && ask->nodes > 0) iv__cluster_set(r, IV_RANK_NODES, ask->nodes, "--nodes");
    if (!r->nodes && r->local_world && r->world % r->local_world == 0 && r->world)
        iv__cluster_set(r, IV_RANK_NODES, r->world / r->local_world,
                        "WORLD_SIZE by LOCAL_WORLD_SIZE");
    if (!r->nodes) iv__cluster_set(r, IV_RANK_NODES, 1, "the only node");
    if (!r->local_world && ask->devices > 0)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, ask->devices, "--devices");
    if (!r->local_world && r->world && r->world % r->nodes == 0)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, r->world / r->nodes, "WORLD_SIZE by nodes");
    if (!r->local_world)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, r->world ? 0 : 1, "one process a node");
    if (!r->world)
        iv__cluster_set(r, IV_RANK_WORLD, r->nodes * r->local_world, "nodes by processes a node");
    if (!*r->from[IV_RANK_NODE] && *r->from[IV_RANK_RANK] && r->local_world)
        iv__cluster_set(r, IV_RANK_NODE, r->rank / r->local_world, "RANK by LOCAL_WORLD_SIZE");
    if (!*r->from[IV_RANK_NODE]) iv__cluster_set(r, IV_RANK_NODE, 0, "the only node");
    if (!*r->from[IV_RANK_LOCAL_RANK] && *r->from[IV_RANK_RANK] && r->local_world)
        iv__cluster_set(r, IV_RANK_LOCAL_RANK, r->rank % r->local_world, "RANK");
    if (!*r->from[IV_RANK_RANK])
        iv__cluster_set(r, IV_RANK_RANK, r->node * r->local_world + r->local_rank,
                        "node and local rank");
    return IV_OK;
}

/* Without a launcher the rank of a process is not told: RANK alone would be a leftover. */
static iv_status read_own(const iv_cluster_ask *ask, iv_ranks *r)
{
    const int32_t n = ask->devices > 0 ? ask->devices : 1, nodes = ask->nodes > 0 ? ask->nodes : 1;
    iv_status s = iv__cluster_read("cluster lightning", &given[4], 1, r);
    if (s != IV_OK) return s;
    if (nodes > 1 && (!*r->from[IV_RANK_NODE] || !iv__cluster_get("MASTER_ADDR") ||
                      !iv__cluster_get("MASTER_PORT")))
        return iv__cluster_host->fail(
            IV_INVALID,
            "cluster lightning: %s is not set, but --nodes %d asks for several [hint: start the "
            "command on each node with NODE_RANK, MASTER_ADDR and MASTER_PORT]",
            !*r->from[IV_RANK_NODE]           ? "NODE_RANK"
            : !iv__cluster_get("MASTER_ADDR") ? "MASTER_ADDR"
                                              : "MASTER_PORT",
            nodes);
    if (!*r->from[IV_RANK_NODE]) iv__cluster_set(r, IV_RANK_NODE, 0, "the only node");
    iv__cluster_set(r, IV_RANK_NODES, nodes, ask->nodes > 0 ? "--nodes" : "the only node");
    iv__cluster_set(r, IV_RANK_LOCAL_WORLD, n, ask->devices > 0 ? "--devices" : "one process");
    iv__cluster_set(r, IV_RANK_WORLD, n * nodes, "nodes by processes a node");
    iv__cluster_set(r, IV_RANK_LOCAL_RANK, 0, "the process that starts the others");
    iv__cluster_set(r, IV_RANK_RANK, r->node * n, "node");
    r->spawn = n;
    return IV_OK;
}

/* A single process, or one that starts its ranks itself, is often a batch job all the same. */
static iv_status read_restarts(iv_ranks *r)
{
    const char *text = iv__cluster_get("SLURM_RESTART_COUNT");
    int64_t n = 0;
    iv_status s = text ? iv__cluster_number("SLURM_RESTART_COUNT", text, 0, 1 << 30, &n) : IV_OK;
    r->restarts = (int32_t)n;
    return s;
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self;
    iv_status s;
    r->spawn = 1;
    if (started_by_others()) {
        s = iv__cluster_read("cluster lightning", given, N_GIVEN, r);
        if (s == IV_OK) s = complete(ask, r);
    } else {
        s = read_own(ask, r);
    }
    if (s != IV_OK) return s;
    s = iv__cluster_address(r, r->nodes <= 1 ? "127.0.0.1" : NULL, "the only node");
    if (s == IV_OK) s = read_restarts(r);
    /* Processes of one parent agree on its number: two runs on a machine get different ports. */
    const int64_t parent = r->spawn > 1 ? getpid() : getppid();
    const char *port = iv__cluster_get("MASTER_PORT");
    if (port) snprintf(r->job, sizeof(r->job), "port-%.8s", port);
    else snprintf(r->job, sizeof(r->job), "parent-%lld", (long long)parent);
    if (s == IV_OK) s = iv__cluster_ports(r, 15000, 10000, parent, "number of the parent process");
    if (s == IV_OK && r->world > 1 && !*r->address)
        return iv__cluster_host->fail(
            IV_INVALID, "cluster lightning: MASTER_ADDR is not set, but there are %d nodes",
            r->nodes);
    return s;
}

static const iv_cluster table = {.detect = detect, .ranks = ranks};
const iv_plugin iv__plugin_lightning = {
    IV_CLUSTER_PLUGIN("lightning", "one node, processes started by Invar itself", &table)};
