/* lsf.c: tasks of LSF's jsrun.
 *
 * The rank file names a host per line, repeated for each slot.  Its first line is the launch node,
 * which runs no task, and is left out; the first host of the rest is the main one, and the order of
 * first appearance numbers the nodes.  Where there is no rank file LSB_MCPU_HOSTS has the same as
 * "host slots host slots": a first host of one slot before larger ones is the launch node.
 * (LSB_HOSTS is empty in large jobs and is not used.) */
#include "cluster/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    static const char *const ranked[] = {"LSB_JOBID", "LSB_DJOB_RANKFILE",
                                         "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_SIZE", NULL};
    static const char *const counted[] = {"LSB_JOBID", "LSB_MCPU_HOSTS", "JSM_NAMESPACE_LOCAL_RANK",
                                          "JSM_NAMESPACE_SIZE", NULL};
    const bool file = iv__cluster_get("LSB_DJOB_RANKFILE") || !iv__cluster_get("LSB_MCPU_HOSTS");
    return iv__cluster_all(file ? ranked : counted, why, why_size) ? 70 : 0;
}

/* Distinct hosts in the order in which they appear. */
typedef struct hosts {
    char (*name)[256];
    int32_t n, cap;
    int64_t slots_of_first; /* until the second host appears */
} hosts;

static iv_status add_host(hosts *h, const char *name)
{
    for (int32_t i = h->n; i-- > 0;)
        if (strcmp(h->name[i], name) == 0) return IV_OK;
    if (h->n == h->cap) {
        const int32_t cap = h->cap ? 2 * h->cap : 64;
        void *grown = realloc(h->name, (size_t)cap * sizeof(*h->name));
        if (!grown) return iv__cluster_host->fail(IV_NO_MEMORY, "reading the hosts of an LSF job");
        h->name = grown;
        h->cap = cap;
    }
    snprintf(h->name[h->n++], sizeof(*h->name), "%s", name);
    return IV_OK;
}

static iv_status read_rank_file(const char *path, hosts *h)
{
    char line[256];
    FILE *f = fopen(path, "r");
    if (!f)
        return iv__cluster_host->fail(IV_INVALID,
                                      "cluster lsf: LSB_DJOB_RANKFILE=%.200s cannot be read", path);
    iv_status s = IV_OK;
    for (bool launch_node = true; s == IV_OK && fscanf(f, "%255s", line) == 1; launch_node = false)
        if (!launch_node) s = add_host(h, line);
    fclose(f);
    if (s == IV_OK && h->n == 0)
        return iv__cluster_host->fail(
            IV_INVALID, "cluster lsf: LSB_DJOB_RANKFILE=%.200s names no host after the launch node",
            path);
    return s;
}

static iv_status read_mcpu_hosts(const char *text, hosts *h)
{
    char name[256];
    int64_t slots, first_slots = 0;
    int n = 0, pairs = 0;
    for (const char *s = text; sscanf(s, " %255s%n", name, &n) == 1; ++pairs) {
        char count[32];
        s += n;
        if (sscanf(s, " %31s%n", count, &n) != 1)
            return iv__cluster_host->fail(
                IV_INVALID, "LSB_MCPU_HOSTS='%.80s': must be like 'hostA 4 hostB 4'", text);
        s += n;
        iv_status status = iv__cluster_number("LSB_MCPU_HOSTS", count, 1, 1 << 20, &slots);
        if (status != IV_OK) return status;
        if (pairs == 0) first_slots = slots;
        if (pairs == 1 && first_slots == 1 && slots > 1) h->n = 0; /* the launch node */
        status = add_host(h, name);
        if (status != IV_OK) return status;
    }
    if (h->n == 0)
        return iv__cluster_host->fail(IV_INVALID, "cluster lsf: LSB_MCPU_HOSTS is empty");
    return IV_OK;
}

static iv_status find_node(const hosts *h, iv_ranks *r)
{
    char own[256];
    iv__cluster_host_name(own);
    for (int32_t i = 0; i < h->n; ++i)
        if (iv__cluster_same_host(h->name[i], own)) {
            iv__cluster_set(r, IV_RANK_NODE, i, "this host's place among the job's");
            return IV_OK;
        }
    return iv__cluster_host->fail(
        IV_INVALID,
        "cluster lsf: this host is '%s', which is not among the job's %d, '%s' to '%s' [hint: "
        "INVAR_HOST_NAME gives its name]",
        own, h->n, h->name[0], h->name[h->n - 1]);
}

static const iv__rank_row rows[] = {
    {IV_RANK_WORLD, true, {"JSM_NAMESPACE_SIZE"}},
    {IV_RANK_RANK, true, {"JSM_NAMESPACE_RANK"}},
    {IV_RANK_LOCAL_RANK, true, {"JSM_NAMESPACE_LOCAL_RANK"}},
    {IV_RANK_LOCAL_WORLD, false, {"JSM_NAMESPACE_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"}},
};

static iv_status read_place(iv_ranks *r, const char *main_host, int32_t nodes)
{
    /* A run that uses a part of the job's hosts leaves the number of its nodes open. */
    if (!r->local_world && r->world % nodes == 0)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, r->world / nodes, "JSM_NAMESPACE_SIZE by hosts");
    if (r->local_world && (int64_t)r->local_world * nodes == r->world)
        iv__cluster_set(r, IV_RANK_NODES, nodes, "distinct hosts");
    else if (r->local_world == r->world) iv__cluster_set(r, IV_RANK_NODES, 1, "local size");
    else if (r->world >= nodes) iv__cluster_set(r, IV_RANK_NODES, nodes, "distinct hosts");
    if (!r->nodes || r->nodes == 1) r->node = r->nodes ? 0 : -1;
    return iv__cluster_address(r, main_host, "hosts of the job");
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self, (void)ask;
    const char *job = iv__cluster_get("LSB_JOBID"), *file = iv__cluster_get("LSB_DJOB_RANKFILE"),
               *counts = iv__cluster_get("LSB_MCPU_HOSTS");
    hosts h = {0};
    int64_t id;
    r->spawn = 1;
    if (!job) return iv__cluster_host->fail(IV_INVALID, "cluster lsf: LSB_JOBID is not set");
    iv_status s = iv__cluster_number("LSB_JOBID", job, 0, INT64_MAX, &id);
    if (s != IV_OK) return s;
    if (!iv__cluster_get("JSM_NAMESPACE_RANK"))
        return iv__cluster_host->fail(IV_INVALID, "cluster lsf: JSM_NAMESPACE_RANK is not set "
                                                  "[hint: start the command by jsrun]");
    if (!file && !counts)
        return iv__cluster_host->fail(
            IV_INVALID, "cluster lsf: neither LSB_DJOB_RANKFILE nor LSB_MCPU_HOSTS is set");
    s = iv__cluster_read("cluster lsf", rows, sizeof(rows) / sizeof(*rows), r);
    if (s == IV_OK) s = file ? read_rank_file(file, &h) : read_mcpu_hosts(counts, &h);
    if (s == IV_OK) s = find_node(&h, r);
    if (s == IV_OK) s = read_place(r, h.name[0], h.n);
    free(h.name);
    if (s != IV_OK) return s;
    snprintf(r->job, sizeof(r->job), "lsf-%lld", (long long)id);
    return iv__cluster_ports(r, 10000, 1000, id, "LSB_JOBID");
}

static iv_status requeue(void *self, char *out, size_t size)
{
    (void)self;
    const char *job = iv__cluster_get("LSB_JOBID"), *index = iv__cluster_get("LSB_JOBINDEX");
    int64_t n;
    *out = 0;
    if (!job) return IV_OK;
    iv_status s = iv__cluster_number("LSB_JOBID", job, 0, INT64_MAX, &n);
    if (s != IV_OK) return s;
    if (index && strcmp(index, "0") != 0) snprintf(out, size, "brequeue %s[%.20s]", job, index);
    else snprintf(out, size, "brequeue %s", job);
    return IV_OK;
}

static const iv_cluster table = {.detect = detect, .ranks = ranks, .requeue = requeue};
const iv_plugin iv__plugin_lsf = {IV_CLUSTER_PLUGIN("lsf", "tasks of LSF's jsrun", &table)};
