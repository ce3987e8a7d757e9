/* torchelastic.c: processes started by torchrun.  It comes first in the detection, since torchrun
 * itself often runs inside a SLURM or MPI job whose variables are still set. */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>

static const char *const new_names[] = {"TORCHELASTIC_RUN_ID", NULL};
static const char *const old_names[] = {"RANK", "GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
                                        NULL};

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    char first[128];
    if (iv__cluster_all(new_names, why, why_size)) return 90;
    snprintf(first, sizeof(first), "%s", why);
    if (iv__cluster_all(old_names, why, why_size)) return 90;
    snprintf(why, why_size, "%s", first);
    return 0;
}

static const iv__rank_row rows[] = {
    {IV_RANK_WORLD, true, {"WORLD_SIZE"}},      {IV_RANK_RANK, true, {"RANK"}},
    {IV_RANK_LOCAL_RANK, true, {"LOCAL_RANK"}}, {IV_RANK_LOCAL_WORLD, false, {"LOCAL_WORLD_SIZE"}},
    {IV_RANK_NODE, false, {"GROUP_RANK"}},      {IV_RANK_NODES, false, {"GROUP_WORLD_SIZE"}},
};

/* torchrun's agent keeps its own store on MASTER_PORT, where TORCHELASTIC_USE_AGENT_STORE says so;
 * the ports above are tried then, and also when something else holds MASTER_PORT. */
static iv_status ports(iv_ranks *r)
{
    const char *given = iv__cluster_get("MASTER_PORT"),
               *store = iv__cluster_get("TORCHELASTIC_USE_AGENT_STORE");
    int64_t port = 12910;
    if (!given)
        iv__cluster_host->log(IV_LOG_WARN, "cluster torchelastic: MASTER_PORT is not set; 12910");
    iv_status s = given ? iv__cluster_number("MASTER_PORT", given, 1, 65535, &port) : IV_OK;
    if (s != IV_OK) return s;
    const bool taken = given && store && (strcmp(store, "True") == 0 || strcmp(store, "1") == 0);
    r->n_ports = IV_MOST_PORTS;
    for (int k = 0; k < IV_MOST_PORTS; ++k) {
        const int64_t p = port + k + taken;
        r->ports[k] = (int32_t)(p <= 65535 ? p : p - 65535 + 15000);
    }
    snprintf(r->from[IV_RANK_PORT], sizeof(r->from[0]), "%s", given ? "MASTER_PORT" : "default");
    return IV_OK;
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self, (void)ask;
    iv_status s = iv__cluster_read("cluster torchelastic", rows, sizeof(rows) / sizeof(*rows), r);
    if (s != IV_OK) return s;
    r->spawn = 1;
    if (!*r->from[IV_RANK_NODE]) iv__cluster_set(r, IV_RANK_NODE, 0, "GROUP_RANK is not set");
    /* Groups are nodes: torchrun starts the same number of processes on each. */
    if (!r->nodes && r->local_world && r->world % r->local_world == 0)
        iv__cluster_set(r, IV_RANK_NODES, r->world / r->local_world,
                        "WORLD_SIZE by LOCAL_WORLD_SIZE");
    if (!r->nodes) r->node = -1;
    if (!iv__cluster_get("MASTER_ADDR")) {
        if (r->local_world != r->world)
            return iv__cluster_host->fail(
                IV_INVALID,
                "cluster torchelastic: MASTER_ADDR is not set, and WORLD_SIZE=%d is more than the "
                "%d processes of this node",
                r->world, r->local_world);
        iv__cluster_host->log(IV_LOG_WARN,
                              "cluster torchelastic: MASTER_ADDR is not set; 127.0.0.1");
    }
    s = iv__cluster_address(r, "127.0.0.1", "default");
    if (s == IV_OK) s = ports(r);
    if (s != IV_OK) return s;
    const char *id = iv__cluster_get("TORCHELASTIC_RUN_ID"),
               *restarts = iv__cluster_get("TORCHELASTIC_RESTART_COUNT");
    int64_t n = 0;
    if (restarts) s = iv__cluster_number("TORCHELASTIC_RESTART_COUNT", restarts, 0, 1 << 30, &n);
    r->restarts = (int32_t)n;
    snprintf(r->job, sizeof(r->job), "torchelastic-%.32s.%d", id ? id : "", r->restarts);
    return s;
}

static const iv_cluster table = {.detect = detect, .ranks = ranks};
const iv_plugin iv__plugin_torchelastic = {
    IV_CLUSTER_PLUGIN("torchelastic", "processes started by torchrun", &table)};
