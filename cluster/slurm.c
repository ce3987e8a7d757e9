/* slurm.c: tasks of SLURM's srun.
 *
 * A step has its own counts and nodes (SLURM_STEP_*), which may be a part of the job's; where one
 * of these variables is set the step is described by them alone, and the job's are not looked at.
 *
 * Not a task, though SLURM_* variables are set: a shell of salloc or of `srun --pty`, the batch
 * script itself, and processes that an mpirun inside the job has started. */
#include "cluster/cluster.h"
#include "cluster/hostlist.h"

#include <stdio.h>
#include <string.h>

/* The value of the first of two that is set, and its name. */
static const char *either(const char *a, const char *b, const char **out_name)
{
    const char *v = iv__cluster_get(*out_name = a);
    return v ? v : iv__cluster_get(*out_name = b);
}

static bool in_step(void)
{
    return iv__cluster_get("SLURM_STEP_ID") || iv__cluster_get("SLURM_STEPID") ||
           iv__cluster_get("SLURM_STEP_NUM_TASKS") || iv__cluster_get("SLURM_STEP_NODELIST");
}

static const char *task_count(void)
{
    const char *name, *n = either("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", &name);
    return n ? n : iv__cluster_get("SLURM_NPROCS");
}

/* The batch script runs once, whatever the number of tasks. */
static bool is_batch_script(void)
{
    const char *where = iv__cluster_get("ENVIRONMENT");
    return !in_step() && where && strcmp(where, "BATCH") == 0;
}

static bool is_interactive(void)
{
    const char *name = iv__cluster_get("SLURM_JOB_NAME");
    return name && (strcmp(name, "bash") == 0 || strcmp(name, "interactive") == 0);
}

/* Why this process is not a task, or NULL. */
static const char *not_a_task(void)
{
    static const char *const mpi[][2] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK is set: mpirun started this process"},
        {"MPI_LOCALRANKID", "MPI_LOCALRANKID is set: mpiexec started this process"},
        {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK is set: mpirun_rsh started this process"},
        {"PALS_RANKID", "PALS_RANKID is set: mpiexec started this process"}};
    for (size_t i = 0; i < sizeof(mpi) / sizeof(*mpi); ++i)
        if (iv__cluster_get(mpi[i][0])) return mpi[i][1];
    const char *tasks = task_count();
    if (!tasks) return "SLURM_NTASKS is not set";
    if (!iv__cluster_get("SLURM_PROCID"))
        return "SLURM_PROCID is not set: an allocation, but not a task of it";
    const bool one = strcmp(tasks, "1") == 0;
    if (iv__cluster_get("SLURM_PTY_PORT")) return "SLURM_PTY_PORT is set: an interactive shell";
    if (is_interactive() && (one || !in_step()))
        return "SLURM_JOB_NAME is that of an interactive shell";
    if (one && is_batch_script()) return "the batch script itself, with one task";
    return NULL;
}

static int detect(void *self, char *why, size_t why_size)
{
    (void)self;
    const char *reason = not_a_task();
    if (reason) snprintf(why, why_size, "%s", reason);
    else
        snprintf(why, why_size, "SLURM_NTASKS=%.20s, SLURM_PROCID=%.20s", task_count(),
                 iv__cluster_get("SLURM_PROCID"));
    return reason ? 0 : 80;
}

static const iv__rank_row rows[] = {
    {IV_RANK_WORLD, true, {"SLURM_NTASKS", "SLURM_NPROCS"}},
    {IV_RANK_WORLD, false, {"SLURM_STEP_NUM_TASKS"}},
    {IV_RANK_RANK, true, {"SLURM_PROCID"}},
    {IV_RANK_LOCAL_RANK, true, {"SLURM_LOCALID"}},
    {IV_RANK_NODES, false, {"SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES"}},
    {IV_RANK_NODE, false, {"SLURM_NODEID"}},
};

/* ---- tasks per node: "2(x3),1" is 2, 2, 2, 1 ---- */

static iv_status malformed(const char *name, const char *text)
{
    return iv__cluster_host->fail(
        IV_INVALID, "%s='%.80s': must be like 2(x3),1 (numbers of tasks, node by node)", name,
        text);
}

static bool take_number(const char **s, int64_t *out)
{
    const char *start = *s;
    int64_t v = 0;
    for (; **s >= '0' && **s <= '9' && *s - start < 8; ++*s) v = v * 10 + (**s - '0');
    *out = v;
    return *s != start && v > 0;
}

/* Sum, number of nodes, and the tasks of node `at` (0 past the end). */
static iv_status tasks_per_node(const char *name, const char *text, int64_t at, int64_t *out_sum,
                                int64_t *out_nodes, int64_t *out_here)
{
    int64_t sum = 0, nodes = 0, here = 0, tasks, times;
    for (const char *s = text;; ++s) {
        if (!take_number(&s, &tasks)) return malformed(name, text);
        times = 1;
        if (s[0] == '(' && s[1] == 'x') {
            s += 2;
            if (!take_number(&s, &times) || *s++ != ')') return malformed(name, text);
        }
        if (at >= nodes && at < nodes + times) here = tasks;
        nodes += times;
        sum += tasks * times;
        if (nodes > 1 << 20 || sum > 1 << 20) return malformed(name, text);
        if (!*s) break;
        if (*s != ',') return malformed(name, text);
    }
    *out_sum = sum;
    *out_nodes = nodes;
    *out_here = here;
    return IV_OK;
}

/* local_world, from the counts of the step or of the job, which must agree with each other. */
static iv_status read_counts(iv_ranks *r)
{
    const bool step = iv__cluster_get("SLURM_STEP_NUM_TASKS") != NULL;
    const char *name = step ? "SLURM_STEP_TASKS_PER_NODE" : "SLURM_TASKS_PER_NODE",
               *text = iv__cluster_get(name), *most = iv__cluster_get("SLURM_NTASKS_PER_NODE");
    int64_t sum = 0, nodes = 0, here = 0, per_node = 0;
    iv_status s = IV_OK;
    if (most) s = iv__cluster_number("SLURM_NTASKS_PER_NODE", most, 1, 1 << 20, &per_node);
    if (s == IV_OK && text)
        s = tasks_per_node(name, text, r->node >= 0 ? r->node : 0, &sum, &nodes, &here);
    if (s != IV_OK) return s;
    if (text && sum != r->world)
        return iv__cluster_host->fail(IV_INVALID,
                                      "cluster slurm: %s=%d, but %s=%.80s is %lld tasks",
                                      r->from[IV_RANK_WORLD], r->world, name, text, (long long)sum);
    if (text && r->nodes && nodes != r->nodes)
        return iv__cluster_host->fail(
            IV_INVALID, "cluster slurm: %s=%d, but %s=%.80s is %lld nodes", r->from[IV_RANK_NODES],
            r->nodes, name, text, (long long)nodes);
    if (text && !r->nodes) iv__cluster_set(r, IV_RANK_NODES, (int32_t)nodes, name);
    if (text) iv__cluster_set(r, IV_RANK_LOCAL_WORLD, (int32_t)here, name);
    if (!step && per_node && r->nodes && r->world > r->nodes * per_node)
        return iv__cluster_host->fail(
            IV_INVALID,
            "cluster slurm: %s=%d tasks are more than %d nodes of SLURM_NTASKS_PER_NODE=%lld",
            r->from[IV_RANK_WORLD], r->world, r->nodes, (long long)per_node);
    if (!text && per_node && r->nodes && r->world == r->nodes * per_node)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, (int32_t)per_node, "SLURM_NTASKS_PER_NODE");
    if (!text && r->nodes == 1 && !r->local_world)
        iv__cluster_set(r, IV_RANK_LOCAL_WORLD, r->world, r->from[IV_RANK_WORLD]);
    return IV_OK;
}

/* ---- address and port ---- */

/* With --distribution=arbitrary task 0 runs on the first host of the host file, which need not be
 * the first of the node list. */
static bool first_of_host_file(char out[256])
{
    const char *distribution = iv__cluster_get("SLURM_DISTRIBUTION"),
               *path = iv__cluster_get("SLURM_HOSTFILE");
    if (!distribution || strncmp(distribution, "arbitrary", 9) != 0 || !path) return false;
    FILE *f = fopen(path, "r");
    const bool found = f && fscanf(f, "%255s", out) == 1;
    if (f) fclose(f);
    return found;
}

static iv_status read_address(iv_ranks *r)
{
    static const char *const lists[] = {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST",
                                        "SLURM_NODELIST"};
    const char *list = NULL, *name = NULL;
    char first[256] = "";
    for (int i = 0; !list && i < 3; ++i) list = iv__cluster_get(name = lists[i]);
    if (list) {
        int64_t n;
        iv_status s = iv__hostlist_count(iv__cluster_host, list, &n);
        if (s == IV_OK) s = iv__hostlist_get(iv__cluster_host, list, 0, first, sizeof(first));
        if (s != IV_OK) return s;
        if (n < r->nodes)
            return iv__cluster_host->fail(
                IV_INVALID, "cluster slurm: %s=%d, but %s='%.80s' names %lld hosts",
                r->from[IV_RANK_NODES], r->nodes, name, list, (long long)n);
        if (!r->nodes && name == lists[0]) iv__cluster_set(r, IV_RANK_NODES, (int32_t)n, name);
    }
    if (first_of_host_file(first)) name = "SLURM_HOSTFILE";
    if (!*first && (r->nodes == 1 || r->world == 1)) {
        strcpy(first, "127.0.0.1");
        name = "the only node";
    }
    iv_status s = iv__cluster_address(r, *first ? first : NULL, name);
    if (s == IV_OK && !*r->address)
        return iv__cluster_host->fail(IV_INVALID,
                                      "cluster slurm: neither MASTER_ADDR nor SLURM_STEP_NODELIST, "
                                      "SLURM_JOB_NODELIST or SLURM_NODELIST is set");
    return s;
}

static iv_status read_ids(iv_ranks *r)
{
    const char *job_name, *step_name, *job = either("SLURM_JOB_ID", "SLURM_JOBID", &job_name),
                                      *step = either("SLURM_STEP_ID", "SLURM_STEPID", &step_name),
                                      *restarts = iv__cluster_get("SLURM_RESTART_COUNT");
    int64_t j = 0, k = 0, n = 0;
    iv_status s = IV_OK;
    if (job) s = iv__cluster_number(job_name, job, 0, INT64_MAX, &j);
    if (s == IV_OK && step) s = iv__cluster_number(step_name, step, 0, INT64_MAX, &k);
    if (s == IV_OK && restarts)
        s = iv__cluster_number("SLURM_RESTART_COUNT", restarts, 0, 1 << 30, &n);
    if (s != IV_OK) return s;
    r->restarts = (int32_t)n;
    snprintf(r->job, sizeof(r->job), "slurm-%lld.%lld", (long long)j, (long long)k);
    if (!job) return iv__cluster_ports(r, 12910, 2000, 0, "SLURM_JOB_ID is not set");
    return iv__cluster_ports(r, 15000, 10000, j % 10000 + k % 10000 * 1009,
                             step ? "SLURM_JOB_ID and SLURM_STEP_ID" : "SLURM_JOB_ID");
}

static iv_status ranks(void *self, const iv_cluster_ask *ask, iv_ranks *r)
{
    (void)self, (void)ask;
    r->node = -1;
    iv_status s = iv__cluster_read("cluster slurm", rows, sizeof(rows) / sizeof(*rows), r);
    if (s != IV_OK) return s;
    r->spawn = 1;
    if (r->world > 1 && is_batch_script())
        return iv__cluster_host->fail(
            IV_INVALID,
            "cluster slurm: the job has %d tasks, but this is its batch script, which runs once "
            "[hint: srun invar ..., or --cluster lightning to start processes on this node]",
            r->world);
    s = read_counts(r);
    if (s == IV_OK) s = read_address(r);
    if (s == IV_OK) s = read_ids(r);
    if (!r->nodes) r->node = -1;
    else if (r->node < 0 && r->nodes == 1) r->node = 0;
    return s;
}

static iv_status validate(void *self, const iv_cluster_ask *ask, const iv_ranks *r)
{
    (void)self;
    const int32_t here = r->local_world;
    if (ask->devices > 0 && here && ask->devices != here)
        return iv__cluster_host->fail(
            IV_INVALID,
            "--devices %d, but SLURM started %d tasks on this node (%s) [hint: "
            "--ntasks-per-node=%d, or leave --devices out]",
            ask->devices, here, r->from[IV_RANK_LOCAL_WORLD], ask->devices);
    if (ask->nodes > 0 && r->nodes && ask->nodes != r->nodes)
        return iv__cluster_host->fail(
            IV_INVALID, "--nodes %d, but SLURM gave %d (%s) [hint: sbatch --nodes=%d]", ask->nodes,
            r->nodes, r->from[IV_RANK_NODES], ask->nodes);
    return IV_OK;
}

static iv_status requeue(void *self, char *out, size_t size)
{
    (void)self;
    const char *name, *array = iv__cluster_get("SLURM_ARRAY_JOB_ID"),
                      *task = iv__cluster_get("SLURM_ARRAY_TASK_ID"),
                      *job = either("SLURM_JOB_ID", "SLURM_JOBID", &name);
    int64_t n;
    iv_status s = IV_OK;
    *out = 0;
    if (is_interactive()) return IV_OK;
    if (array && task) {
        /* A task of an array by its own name: the array's number would requeue all of them. */
        s = iv__cluster_number("SLURM_ARRAY_JOB_ID", array, 0, INT64_MAX, &n);
        if (s == IV_OK) s = iv__cluster_number("SLURM_ARRAY_TASK_ID", task, 0, INT64_MAX, &n);
        if (s == IV_OK) snprintf(out, size, "scontrol requeue %s_%s", array, task);
    } else if (job) {
        s = iv__cluster_number(name, job, 0, INT64_MAX, &n);
        if (s == IV_OK) snprintf(out, size, "scontrol requeue %s", job);
    }
    return s;
}

static const iv_cluster table = {
    .detect = detect, .ranks = ranks, .validate = validate, .requeue = requeue};
const iv_plugin iv__plugin_slurm = {IV_CLUSTER_PLUGIN("slurm", "tasks of SLURM's srun", &table)};
