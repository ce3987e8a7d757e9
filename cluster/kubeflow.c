/* kubeflow.c: pods of a Kubeflow training job.
 *
 * The operator numbers pods, not processes: RANK and WORLD_SIZE, or PET_NODE_RANK and PET_NNODES in
 * newer ones, which also say in PET_NPROC_PER_NODE how many processes a pod shall have.  Those
 * processes this one is to start.  Where LOCAL_WORLD_SIZE and LOCAL_RANK are set, somebody has
 * started them already and RANK counts processes.  An elastic job (PET_NNODES=min:max) has no ranks
 * before torchrun has agreed on them. */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>

static const char *const pods[] = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", NULL};
static const char *const new_pods[] = {"PET_NNODES", "PET_NODE_RANK", NULL};

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    static const char *const others[] = {"GROUP_RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
    if (!iv__cluster_get("KUBERNETES_PORT") && !iv__cluster_get("KUBERNETES_SERVICE_HOST")) {
        snprintf(why, why_size, "KUBERNETES_PORT is not set");
        return 0;
    }
    for (int i = 0; i < 3; ++i)
        if (iv__cluster_get(others[i])) {
            snprintf(why, why_size, "%s is set: RANK does not count pods", others[i]);
            return 0;
        }
    if (iv__cluster_all(new_pods, why, why_size) || iv__cluster_get("PET_RDZV_ENDPOINT")) {
        if (iv__cluster_get("PET_RDZV_ENDPOINT"))
            snprintf(why, why_size, "in Kubernetes, PET_RDZV_ENDPOINT=%.80s",
                     iv__cluster_get("PET_RDZV_ENDPOINT"));
        return 50;
    }
    return iv__cluster_all(pods, why, why_size) ? 50 : 0;
}

static const iv__rank_row processes[] = {
    {IV_RANK_WORLD, true, {"WORLD_SIZE"}},
    {IV_RANK_RANK, true, {"RANK"}},
    {IV_RANK_LOCAL_WORLD, false, {"LOCAL_WORLD_SIZE"}},
    {IV_RANK_LOCAL_RANK, true, {"LOCAL_RANK"}},
    {IV_RANK_NODES, false, {"GROUP_WORLD_SIZE"}},
    {IV_RANK_NODE, false, {"NODE_RANK", "GROUP_RANK"}},
};
static const iv__rank_row by_pod[] = {
    {IV_RANK_NODES, true, {"PET_NNODES", "WORLD_SIZE"}},
    {IV_RANK_NODE, true, {"PET_NODE_RANK", "RANK"}},
};

static iv_status started_already(const iv_cluster_ask *ask, iv_ranks *r)
{
    r->node = -1;
    iv_status s =
        iv__cluster_read("cluster kubeflow", processes, sizeof(processes) / sizeof(*processes), r);
    if (s == IV_OK && !r->local_world && ask->devices > 0)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, ask->devices, "--devices");
    if (s == IV_OK && !r->nodes && r->local_world && r->world % r->local_world == 0)
        iv__cluster_set(r, IV_RANK_NODES, r->world / r->local_world,
                        "WORLD_SIZE by LOCAL_WORLD_SIZE");
    if (s == IV_OK && r->nodes && r->node < 0 && r->local_world)
        iv__cluster_set(r, IV_RANK_NODE, r->rank / r->local_world, "RANK by LOCAL_WORLD_SIZE");
    if (!r->nodes) r->node = -1;
    return s;
}

/* Processes that this pod shall have. */
static iv_status processes_here(const iv_cluster_ask *ask, int64_t *out, const char **out_from)
{
    static const char *const names[] = {"PET_NPROC_PER_NODE", "PET_N_PROC_PER_NODE"};
    *out = ask->devices > 0 ? ask->devices : 1;
    *out_from = ask->devices > 0 ? "--devices" : "one process a pod";
    for (int i = 0; i < 2; ++i) {
        const char *text = iv__cluster_get(names[i]);
        if (!text || strcmp(text, "auto") == 0) continue;
        int64_t n;
        iv_status s = iv__cluster_number(names[i], text, 1, 4096, &n);
        if (s != IV_OK) return s;
        if (ask->devices > 0 && ask->devices != n)
            return iv__cluster_host->fail(IV_INVALID, "--devices %d, but %s=%lld", ask->devices,
                                          names[i], (long long)n);
        *out = n;
        *out_from = names[i];
        return IV_OK;
    }
    return IV_OK;
}

static iv_status start_here(const iv_cluster_ask *ask, iv_ranks *r)
{
    const char *elastic = iv__cluster_get("PET_NNODES"), *from;
    int64_t n, world;
    if ((elastic && strchr(elastic, ':')) ||
        (iv__cluster_get("PET_RDZV_ENDPOINT") && !iv__cluster_get("RANK")))
        return iv__cluster_host->fail(
            IV_INVALID,
            "cluster kubeflow: an elastic job (PET_NNODES=%.40s) has no ranks yet [hint: let the "
            "pod run `torchrun --no-python invar ...`]",
            elastic ? elastic : "");
    iv_status s = iv__cluster_read("cluster kubeflow", by_pod, 2, r);
    if (s == IV_OK) s = processes_here(ask, &n, &from);
    if (s != IV_OK) return s;
    const char *total = iv__cluster_get("WORLD_SIZE");
    if (total && strcmp(r->from[IV_RANK_NODES], "PET_NNODES") == 0) {
        /* Newer operators count processes in WORLD_SIZE, older ones pods. */
        s = iv__cluster_number("WORLD_SIZE", total, 1, 1 << 20, &world);
        if (s != IV_OK) return s;
        if (world != r->nodes && world != r->nodes * n)
            return iv__cluster_host->fail(
                IV_INVALID,
                "cluster kubeflow: WORLD_SIZE=%lld is neither PET_NNODES=%d nor its %lld "
                "processes",
                (long long)world, r->nodes, (long long)(r->nodes * n));
    }
    iv__cluster_set(r, IV_RANK_LOCAL_WORLD, (int32_t)n, from);
    iv__cluster_set(r, IV_RANK_WORLD, (int32_t)(r->nodes * n), "pods by processes a pod");
    iv__cluster_set(r, IV_RANK_RANK, (int32_t)(r->node * n), r->from[IV_RANK_NODE]);
    iv__cluster_set(r, IV_RANK_LOCAL_RANK, 0, "the pod's first process");
    r->spawn = (int32_t)n;
    return IV_OK;
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self;
    r->spawn = 1;
    const bool started = iv__cluster_get("LOCAL_RANK") || iv__cluster_get("LOCAL_WORLD_SIZE");
    iv_status s = started ? started_already(ask, r) : start_here(ask, r);
    if (s != IV_OK) return s;
    const char *address = iv__cluster_get("PET_MASTER_ADDR"),
               *port = iv__cluster_get("PET_MASTER_PORT");
    s = iv__cluster_address(r, address, "PET_MASTER_ADDR");
    if (s == IV_OK && !*r->address)
        return iv__cluster_host->fail(IV_INVALID, "cluster kubeflow: MASTER_ADDR is not set");
    if (s != IV_OK) return s;
    if (!iv__cluster_get("MASTER_PORT")) {
        int64_t p;
        if (!port)
            return iv__cluster_host->fail(IV_INVALID, "cluster kubeflow: MASTER_PORT is not set");
        s = iv__cluster_number("PET_MASTER_PORT", port, 1, 65535, &p);
        if (s != IV_OK) return s;
        r->ports[0] = (int32_t)p;
        r->n_ports = 1;
        snprintf(r->from[IV_RANK_PORT], sizeof(r->from[0]), "PET_MASTER_PORT");
        return IV_OK;
    }
    return iv__cluster_ports(r, 0, 1, 0, "MASTER_PORT");
}

static const iv_cluster table = {.detect = detect, .ranks = ranks};
const iv_plugin iv__plugin_kubeflow = {
    IV_CLUSTER_PLUGIN("kubeflow", "pods of a Kubeflow training job", &table)};
