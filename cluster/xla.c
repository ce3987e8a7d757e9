/* xla.c: hosts of a TPU pod.  One process is started on each; it starts the others of its host.
 *
 *   TPU_WORKER_ID, TPU_WORKER_HOSTNAMES=a,b,c    the TPU runtime's names
 *   CLOUD_TPU_TASK_ID, TPU_PROCESS_ADDRESSES     host:port of every process
 *   HOST_ORDINAL, XRT_HOST_WORLD_SIZE, XRT_MESH_SERVICE_ADDRESS=host:port   the older runtime's
 *   XRT_SHARD_WORLD_SIZE, XRT_SHARD_ORDINAL, XRT_SHARD_LOCAL_ORDINAL        its own processes */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    static const char *const lists[][3] = {
        {"TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", NULL},
        {"CLOUD_TPU_TASK_ID", "TPU_PROCESS_ADDRESSES", NULL},
        {"XRT_SHARD_WORLD_SIZE", "XRT_SHARD_ORDINAL", NULL},
        {"XRT_HOST_WORLD_SIZE", "XRT_MESH_SERVICE_ADDRESS", NULL}};
    char first[256] = "";
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); ++i) {
        if (iv__cluster_all(lists[i], why, why_size)) return 40;
        if (i == 0) snprintf(first, sizeof(first), "%s", why);
    }
    snprintf(why, why_size, "%s", first);
    return 0;
}

static const iv__rank_row hosts[] = {
    {IV_RANK_NODE,
     false,
     {"TPU_WORKER_ID", "CLOUD_TPU_TASK_ID", "HOST_ORDINAL", "XRT_HOST_ORDINAL"}},
    {IV_RANK_NODES, false, {"XRT_HOST_WORLD_SIZE"}},
};
static const iv__rank_row shards[] = {
    {IV_RANK_WORLD, true, {"XRT_SHARD_WORLD_SIZE"}},
    {IV_RANK_RANK, true, {"XRT_SHARD_ORDINAL"}},
    {IV_RANK_LOCAL_RANK, false, {"XRT_SHARD_LOCAL_ORDINAL"}},
};

/* The first name of a list, cut at ':' (a port) or ','. */
static void first_host(const char *list, char out[256])
{
    snprintf(out, 256, "%.*s", (int)(strcspn(list, ",:") & 0xff), list);
}

static iv_status read_hosts(iv_ranks *r)
{
    static const char *const names[] = {"TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"};
    r->node = -1;
    iv_status s = iv__cluster_read("cluster xla", hosts, 2, r);
    for (int i = 0; s == IV_OK && i < 2; ++i) {
        const char *list = iv__cluster_get(names[i]);
        char first[256];
        int32_t n = 1;
        if (!list) continue;
        for (const char *c = list; *c; ++c) n += *c == ',';
        iv__cluster_set(r, IV_RANK_NODES, n, names[i]);
        first_host(list, first);
        s = iv__cluster_address(r, first, names[i]);
        break;
    }
    const char *mesh = iv__cluster_get("XRT_MESH_SERVICE_ADDRESS");
    if (s == IV_OK && !*r->address && mesh) {
        char first[256];
        first_host(mesh, first);
        s = iv__cluster_address(r, first, "XRT_MESH_SERVICE_ADDRESS");
    }
    if (s == IV_OK && !r->nodes) iv__cluster_set(r, IV_RANK_NODES, 1, "no list of hosts");
    if (s == IV_OK && r->node < 0 && r->nodes > 1)
        return iv__cluster_host->fail(
            IV_INVALID, "cluster xla: TPU_WORKER_ID is not set, but %s names %d hosts",
            r->from[IV_RANK_NODES], r->nodes);
    if (r->node < 0) iv__cluster_set(r, IV_RANK_NODE, 0, "the only node");
    return s == IV_OK && !*r->address
               ? iv__cluster_address(r, r->nodes == 1 ? "127.0.0.1" : NULL, "the only node")
               : s;
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self;
    const int32_t n = ask->devices > 0 ? ask->devices : 1;
    iv_status s = read_hosts(r);
    if (s != IV_OK) return s;
    if (iv__cluster_get("XRT_SHARD_WORLD_SIZE")) {
        s = iv__cluster_read("cluster xla", shards, 3, r);
        if (s != IV_OK) return s;
        r->spawn = 1;
        if (r->world % r->nodes == 0)
            iv__cluster_set(r, IV_RANK_LOCAL_WORLD, r->world / r->nodes, "shards by hosts");
        if (r->local_world && !*r->from[IV_RANK_LOCAL_RANK])
            iv__cluster_set(r, IV_RANK_LOCAL_RANK, r->rank % r->local_world, "XRT_SHARD_ORDINAL");
    } else {
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, n,
                        ask->devices > 0 ? "--devices" : "one process a host");
        iv__cluster_set(r, IV_RANK_WORLD, n * r->nodes, "hosts by processes a host");
        iv__cluster_set(r, IV_RANK_RANK, n * r->node, r->from[IV_RANK_NODE]);
        iv__cluster_set(r, IV_RANK_LOCAL_RANK, 0, "the host's first process");
        r->spawn = n;
    }
    if (r->world > 1 && !*r->address)
        return iv__cluster_host->fail(IV_INVALID, "cluster xla: neither MASTER_ADDR nor "
                                                  "TPU_WORKER_HOSTNAMES is set");
    snprintf(r->job, sizeof(r->job), "xla");
    return iv__cluster_ports(r, 12910, 2000, 0, "default");
}

static const iv_cluster table = {.detect = detect, .ranks = ranks};
const iv_plugin iv__plugin_xla = {IV_CLUSTER_PLUGIN("xla", "hosts of a TPU pod", &table)};
