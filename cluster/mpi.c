/* mpi.c: processes started by mpirun or mpiexec of Open MPI, MPICH and its relatives, MVAPICH2 and
 * Cray's PALS, from the variables that these leave.  MPI itself is never started here: that would
 * hang or end a process that no launcher has started.
 *
 * No variable tells where rank 0 is.  On one node it is here; on several MASTER_ADDR may say it,
 * else the address stays unknown, which MPI as the transport does not mind. */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>

/* One family of launchers; the first whose rank and size are set is the one. */
typedef struct family {
    const char *name;
    iv__rank_row rows[6];
    size_t n;
    const char *job;
} family;

static const family families[] = {
    {"Open MPI",
     {{IV_RANK_WORLD, true, {"OMPI_COMM_WORLD_SIZE"}},
      {IV_RANK_RANK, true, {"OMPI_COMM_WORLD_RANK"}},
      /* OMPI_COMM_WORLD_NODE_RANK numbers the processes of a node, not the nodes. */
      {IV_RANK_LOCAL_WORLD, false, {"OMPI_COMM_WORLD_LOCAL_SIZE"}},
      {IV_RANK_LOCAL_RANK, false, {"OMPI_COMM_WORLD_LOCAL_RANK"}}},
     4,
     "PMIX_NAMESPACE"},
    {"MVAPICH2",
     {{IV_RANK_WORLD, true, {"MV2_COMM_WORLD_SIZE"}},
      {IV_RANK_RANK, true, {"MV2_COMM_WORLD_RANK"}},
      {IV_RANK_LOCAL_WORLD, false, {"MV2_COMM_WORLD_LOCAL_SIZE"}},
      {IV_RANK_LOCAL_RANK, false, {"MV2_COMM_WORLD_LOCAL_RANK"}}},
     4,
     "PMI_ID"},
    {"PALS",
     {{IV_RANK_WORLD, true, {"PALS_SIZE", "PMI_SIZE"}},
      {IV_RANK_RANK, true, {"PALS_RANKID"}},
      {IV_RANK_LOCAL_WORLD, false, {"PALS_LOCAL_SIZE"}},
      {IV_RANK_LOCAL_RANK, false, {"PALS_LOCAL_RANKID"}},
      {IV_RANK_NODE, false, {"PALS_NODEID"}}},
     5,
     "PALS_APID"},
    {"PMI",
     {{IV_RANK_WORLD, true, {"PMI_SIZE"}},
      {IV_RANK_RANK, true, {"PMI_RANK"}},
      {IV_RANK_LOCAL_WORLD, false, {"MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"}},
      {IV_RANK_LOCAL_RANK, false, {"MPI_LOCALRANKID", "PMI_LOCAL_RANK"}}},
     4,
     "PMI_JOBID"},
    {"PMIx",
     {{IV_RANK_WORLD, true, {"PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}},
      {IV_RANK_RANK, true, {"PMIX_RANK"}},
      {IV_RANK_LOCAL_WORLD, false, {"PMIX_LOCAL_SIZE"}},
      {IV_RANK_LOCAL_RANK, false, {"PMIX_LOCAL_RANK"}}},
     4,
     "PMIX_NAMESPACE"},
};
enum { N_FAMILIES = sizeof(families) / sizeof(*families) };

/* The first of a row's variables that is set; NULL if none is. */
static const char *set_name(const iv__rank_row *row)
{
    for (int i = 0; i < 5 && row->names[i]; ++i)
        if (iv__cluster_get(row->names[i])) return row->names[i];
    return NULL;
}

static const family *find_family(void)
{
    for (int i = 0; i < N_FAMILIES; ++i)
        if (set_name(&families[i].rows[0]) && set_name(&families[i].rows[1])) return &families[i];
    return NULL;
}

/* A launcher's variables of which only one half is there. */
static const family *find_half(void)
{
    for (int i = 0; i + 1 < N_FAMILIES; ++i) /* PMIX_RANK alone is usual under srun */
        if (set_name(&families[i].rows[0]) || set_name(&families[i].rows[1])) return &families[i];
    return NULL;
}

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    const family *f = find_family();
    if (!f && (f = find_half())) {
        const char *here = set_name(&f->rows[0]);
        snprintf(why, why_size, "%s is set, but %s is not", here ? here : set_name(&f->rows[1]),
                 here ? f->rows[1].names[0] : f->rows[0].names[0]);
        return 0;
    }
    if (!f) {
        snprintf(why, why_size, "OMPI_COMM_WORLD_SIZE and PMI_SIZE are not set");
        return 0;
    }
    const char *size = set_name(&f->rows[0]), *rank = set_name(&f->rows[1]);
    if (strcmp(iv__cluster_get(size), "1") == 0) {
        snprintf(why, why_size, "%s=1: alone, as without a launcher", size);
        return 0;
    }
    snprintf(why, why_size, "%s=%.20s, %s=%.20s (%s)", size, iv__cluster_get(size), rank,
             iv__cluster_get(rank), f->name);
    return 60;
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self, (void)ask;
    const family *f = find_family();
    if (!f) {
        f = find_half();
        if (!f) f = &families[0];
    }
    r->node = -1;
    iv_status s = iv__cluster_read("cluster mpi", f->rows, f->n, r);
    if (s != IV_OK) return s;
    r->spawn = 1;
    if (r->local_world == r->world) {
        iv__cluster_set(r, IV_RANK_NODES, 1, r->from[IV_RANK_LOCAL_WORLD]);
        iv__cluster_set(r, IV_RANK_NODE, 0, r->from[IV_RANK_LOCAL_WORLD]);
    } else {
        r->node = -1; /* a number of nodes that would go with it is not told */
    }
    s = iv__cluster_address(r, r->nodes == 1 ? "127.0.0.1" : NULL, "the only node");
    if (s != IV_OK) return s;
    /* Any number that the ranks of one start share and those of another don't. */
    const char *job = iv__cluster_get(f->job);
    uint32_t mixed = 2166136261u;
    for (const char *c = job; c && *c; ++c) mixed = (mixed ^ (unsigned char)*c) * 16777619u;
    snprintf(r->job, sizeof(r->job), "mpi-%.48s", job ? job : "");
    return iv__cluster_ports(r, 15000, 10000, mixed, job ? f->job : "default");
}

static const iv_cluster table = {.detect = detect, .ranks = ranks};
const iv_plugin iv__plugin_mpi_env = {
    IV_CLUSTER_PLUGIN("mpi", "processes started by mpirun or mpiexec", &table)};
