/* place.c: binding threads and memory by the system's own calls (see place.h).  Which CPUs and
 * nodes is the runtime's to say. */
#include "backends/cpu/place.h"

#include "backends/cpu/team.h"
#include "runtime/plugin.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of linux/mempolicy.h, which need not be installed. */
enum { POLICY_PREFERRED = 1, POLICY_INTERLEAVE = 3, POLICY_MOVE = 1 << 1, MOST_NODES = 1024 };

/* What the process could use before it was bound. */
static cpu_set_t before;
static bool is_bound;

typedef struct binding {
    const int32_t *cpus;
    int32_t n;
} binding;

static void bind_thread(const int32_t *cpus, int32_t n)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int32_t i = 0; i < n; ++i)
        if (cpus[i] >= 0 && cpus[i] < CPU_SETSIZE) CPU_SET((size_t)cpus[i], &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* a hint: nothing depends on it */
}

static void bind_part(void *arg, int64_t begin, int64_t end, int thread)
{
    const binding *b = arg;
    (void)begin, (void)end;
    const int32_t at = (int32_t)((int64_t)thread * b->n / iv__team_size());
    if (thread == 0) bind_thread(b->cpus, b->n);
    else bind_thread(b->cpus + at, 1);
}

void iv__place_team(const iv_host *host, const int32_t *cpus, int32_t n)
{
    static const char *const theirs[] = {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY",
                                         "KMP_AFFINITY"};
    for (int i = 0; i < 4; ++i)
        if (host->env(theirs[i])) return;
    binding b = {cpus, n};
    if (n < 1) return;
    if (!is_bound) is_bound = sched_getaffinity(0, sizeof(before), &before) == 0;
    if (iv__team_size() == 1) bind_thread(cpus, n);
    else iv__team_for(iv__team_size(), 1, bind_part, &b);
}

static void release_part(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)arg, (void)begin, (void)end, (void)thread;
    (void)sched_setaffinity(0, sizeof(before), &before);
}

void iv__place_release(void)
{
    if (!is_bound) return;
    release_part(NULL, 0, 0, 0);
    iv__team_for(iv__team_size(), 1, release_part, NULL);
    is_bound = false;
}

void iv__place_memory(void *ptr, size_t bytes, const int32_t *nodes, int32_t n)
{
    enum { WORD = 8 * sizeof(unsigned long) };
    unsigned long mask[MOST_NODES / WORD] = {0};
    for (int32_t i = 0; i < n; ++i)
        if (nodes[i] >= 0 && nodes[i] < MOST_NODES)
            mask[nodes[i] / WORD] |= 1ul << (unsigned)(nodes[i] % WORD);
    if (n > 0)
        (void)syscall(SYS_mbind, ptr, bytes, n == 1 ? POLICY_PREFERRED : POLICY_INTERLEAVE, mask,
                      (unsigned long)MOST_NODES, POLICY_MOVE);
}

iv_cpu_place *iv__place_copy(const iv_cpu_place *places, int32_t n)
{
    size_t numbers = 0;
    for (int32_t i = 0; i < n; ++i) numbers += (size_t)(places[i].n_cpus + places[i].n_nodes);
    iv_cpu_place *copy = malloc((size_t)n * sizeof(*copy) + numbers * sizeof(int32_t));
    int32_t *at = (int32_t *)(void *)(copy ? copy + n : NULL);
    for (int32_t i = 0; copy && i < n; ++i) {
        copy[i] = places[i];
        copy[i].cpus = memcpy(at, places[i].cpus, (size_t)places[i].n_cpus * sizeof(*at));
        at += places[i].n_cpus;
        copy[i].nodes = memcpy(at, places[i].nodes, (size_t)places[i].n_nodes * sizeof(*at));
        at += places[i].n_nodes;
    }
    return copy;
}
