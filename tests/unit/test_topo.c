/* test_topo.c: placement on machines that are not here (hwloc's synthetic ones, and files of
 * tests/topo), the CPUs that a launcher left to a process, and the binding of threads and memory.
 */
#include "unit/temporary.h"

#include "backends/cpu/place.h"
#include "backends/cpu/team.h"
#include "registry.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* "node,node/cpu,cpu.../gpu/nic" */
static void describe(const iv_topo *t, const iv_topo_place *p, char *out, size_t size)
{
    size_t n = 0;
    *out = 0;
    for (int32_t i = 0; i < p->n_nodes; ++i)
        n += (size_t)snprintf(out + n, size - n, "%s%d", i ? "," : "", p->nodes[i]);
    for (int32_t i = 0; i < p->n_cpus; ++i)
        n += (size_t)snprintf(out + n, size - n, "%s%d", i ? "," : "/", p->cpus[i]);
    if (p->gpu >= 0) n += (size_t)snprintf(out + n, size - n, "/%s", t->devices[p->gpu].bus);
    if (p->nic >= 0) (void)snprintf(out + n, size - n, "/%s", t->devices[p->nic].name);
}

static bool has_hwloc(void)
{
    iv_topo *t;
    assert_int_equal(iv_topo_open(&t), IV_OK);
    const bool has = strncmp(t->source, "hwloc", 5) == 0;
    if (!has) print_message("left out: %s\n", t->source);
    iv_topo_close(t);
    return has;
}

static void places_ranks(void **state)
{
    /* The machine, its packages, nodes and CPUs; ranks; where each belongs, by blanks. */
    static const struct {
        const char *synthetic, *file;
        int32_t packages, nodes, cpus, ranks;
        bool gpu;
        const char *expected;
    } rows[] = {
        {"pack:2 numa:1 core:2 pu:2", NULL, 2, 2, 8, 2, false, "0/0,1,2,3 1/4,5,6,7"},
        {"pack:2 numa:1 core:2 pu:2", NULL, 2, 2, 8, 1, false, "0,1/0,1,2,3,4,5,6,7"},
        {"pack:2 numa:1 core:2 pu:2", NULL, 2, 2, 8, 3, false, "0/0,1 0/2,3 1/4,5,6,7"},
        {"pack:2 numa:1 core:2 pu:2", NULL, 2, 2, 8, 6, false,
         "0/0,1 0/0,1 0/2,3 1/4,5 1/4,5 1/6,7"},
        {"pack:4 numa:1 core:2 pu:1", NULL, 4, 4, 8, 4, false, "0/0,1 1/2,3 2/4,5 3/6,7"},
        {"pack:4 numa:1 core:2 pu:1", NULL, 4, 4, 8, 2, false, "0,1/0,1,2,3 2,3/4,5,6,7"},
        {"pack:4 numa:1 core:2 pu:1", NULL, 4, 4, 8, 3, false, "0/0,1 1/2,3 2,3/4,5,6,7"},
        {"pack:4 numa:1 core:2 pu:1", NULL, 4, 4, 8, 8, false, "0/0 0/1 1/2 1/3 2/4 2/5 3/6 3/7"},
        /* Sub-NUMA clusters. */
        {"pack:2 numa:2 core:2 pu:1", NULL, 2, 4, 8, 4, false, "0/0,1 1/2,3 2/4,5 3/6,7"},
        {"pack:1 numa:4 core:1 pu:2", NULL, 1, 4, 8, 4, false, "0/0,1 1/2,3 2/4,5 3/6,7"},
        {"core:2 pu:1", NULL, 1, 1, 2, 4, false, "0/0 0/0 0/1 0/1"},
        {"pack:1 core:3 pu:1", NULL, 1, 1, 3, 2, false, "0/0 0/1,2"},
        /* All GPUs on the second socket: ranks are there, beside the NIC there. */
        {NULL, "gpus-on-one-socket.xml", 2, 2, 32, 4, true,
         "1/16,17,18,19/0000:81:00.0/mlx5_1 1/20,21,22,23/0000:82:00.0/mlx5_1 "
         "1/24,25,26,27/0000:84:00.0/mlx5_1 1/28,29,30,31/0000:85:00.0/mlx5_1"},
        {NULL, "gpus-on-one-socket.xml", 2, 2, 32, 1, true,
         "1/16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31/0000:81:00.0/mlx5_1"},
        {NULL, "gpus-on-one-socket.xml", 2, 2, 32, 2, false,
         "0/0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15/mlx5_0 "
         "1/16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31/mlx5_1"},
        /* A container with CPUs 2-3,6-7,12-17 of two sockets with two nodes each. */
        {NULL, "container.xml", 2, 3, 10, 3, false, "0/2,3,6,7 1/12,13,14,15 2/16,17"},
        {NULL, "container.xml", 2, 3, 10, 5, false, "0/2,3 0/6,7 1/12,13 1/14,15 2/16,17"},
        {NULL, "container.xml", 2, 3, 10, 2, false, "0/2,3,6,7 1,2/12,13,14,15,16,17"},
        {NULL, "vm-two-cores.xml", 1, 1, 2, 2, false, "0/0/eth0 0/1/eth0"},
    };
    (void)state;
    if (!has_hwloc()) skip();
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char path[1024], all[2048] = "";
        iv_topo *t;
        unsetenv("HWLOC_SYNTHETIC");
        unsetenv("HWLOC_XMLFILE");
        snprintf(path, sizeof(path), "%s/topo/%s", TESTS_DIR, rows[i].file ? rows[i].file : "");
        if (rows[i].file) setenv("HWLOC_XMLFILE", path, 1);
        else setenv("HWLOC_SYNTHETIC", rows[i].synthetic, 1);
        assert_int_equal(iv_topo_open(&t), IV_OK);
        assert_false(t->here);
        assert_int_equal(t->n_packages, rows[i].packages);
        assert_int_equal(t->n_nodes, rows[i].nodes);
        assert_int_equal(t->n_cpus, rows[i].cpus);
        for (int32_t r = 0; r < rows[i].ranks; ++r) {
            char one[512];
            iv_topo_place *p;
            assert_int_equal(iv_topo_place_get(t, r, rows[i].ranks, rows[i].gpu, &p), IV_OK);
            describe(t, p, one, sizeof(one));
            snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", r ? " " : "", one);
            free(p);
        }
        if (strcmp(all, rows[i].expected) != 0)
            fail_msg("row %d: %s\n  expected %s", (int)i, all, rows[i].expected);
        iv_topo_close(t);
    }
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_SYNTHETIC");
}

/* Every rank has CPUs, and as long as there are enough, no two have the same. */
static void shares_are_disjoint(void **state)
{
    static const char *const machines[] = {"pack:2 numa:2 core:4 pu:2", "pack:4 numa:1 core:6 pu:1",
                                           "pack:1 core:5 pu:2", "pack:3 numa:1 core:3 pu:1"};
    (void)state;
    if (!has_hwloc()) skip();
    for (size_t m = 0; m < sizeof(machines) / sizeof(*machines); ++m) {
        iv_topo *t;
        setenv("HWLOC_SYNTHETIC", machines[m], 1);
        assert_int_equal(iv_topo_open(&t), IV_OK);
        const int32_t cores = t->cpus[t->n_cpus - 1].core + 1;
        for (int32_t n = 1; n <= 2 * cores; ++n) {
            int32_t taken[64] = {0}, most = 0;
            for (int32_t r = 0; r < n; ++r) {
                iv_topo_place *p;
                assert_int_equal(iv_topo_place_get(t, r, n, false, &p), IV_OK);
                assert_true(p->n_cpus > 0 && p->n_nodes > 0);
                for (int32_t i = 0; i < p->n_cpus; ++i) ++taken[p->cpus[i]];
                free(p);
            }
            for (int32_t i = 0; i < 64; ++i) most = IV_MAX2(most, taken[i]);
            if (n <= cores && most > 1)
                fail_msg("%s: %d ranks, a CPU is taken %d times", machines[m], n, most);
        }
        iv_topo_close(t);
    }
    unsetenv("HWLOC_SYNTHETIC");
}

/* ---- this machine, in a process of its own ---- */

static int usable_cpus(int32_t *out)
{
    cpu_set_t set;
    int n = 0;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 0;
    for (int32_t i = 0; i < CPU_SETSIZE && n < 64; ++i)
        if (CPU_ISSET((size_t)i, &set)) out[n++] = i;
    return n;
}

/* Only the last of the usable CPUs is left to it, as a launcher does. */
static int keeps_to_a_cpuset(void)
{
    int32_t cpus[64];
    const int n = usable_cpus(cpus);
    cpu_set_t set;
    iv_topo *t;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpus[n - 1], &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0) return 1;
    if (iv_topo_open(&t) != IV_OK) return 2;
    const bool right =
        t->here && t->n_cpus == 1 && t->cpus[0].os_index == cpus[n - 1] && t->bound == (n > 1);
    iv_topo_close(t);
    return right ? 0 : 3;
}

typedef struct seen {
    int32_t first[16];
    int count[16];
} seen;

static void look(void *arg, int64_t begin, int64_t end, int thread)
{
    seen *s = arg;
    int32_t cpus[64];
    (void)begin, (void)end;
    s->count[thread] = usable_cpus(cpus);
    s->first[thread] = cpus[0];
}

static int binds_threads(void)
{
    int32_t cpus[64];
    seen s = {.count = {0}};
    const int n = usable_cpus(cpus);
    if (n < 2) return 77;
    if (iv__team_open(2) != 0) return 1;
    iv__place_team(&iv__host, cpus, 2);
    iv__team_for(2, 1, look, &s);
    iv__team_close();
    /* Thread 0 may use both CPUs, thread 1 the second. */
    return s.count[0] == 2 && s.count[1] == 1 && s.first[1] == cpus[1] ? 0 : 2;
}

static int leaves_bound_threads(void)
{
    int32_t cpus[64], after[64];
    const int n = usable_cpus(cpus);
    setenv("OMP_PROC_BIND", "true", 1);
    iv__place_team(&iv__host, cpus, 1);
    return usable_cpus(after) == n ? 0 : 1;
}

static int prefers_a_node(void)
{
    enum { BY_ADDRESS = 2, PREFERRED = 1 };
    const int32_t node = 0;
    const size_t bytes = 1 << 20;
    int policy = -1;
    unsigned long mask[16] = {0};
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return 1;
    iv__place_memory(p, bytes, &node, 1);
    if (syscall(SYS_get_mempolicy, &policy, mask, 1024ul, p, BY_ADDRESS) != 0) return 77;
    return policy == PREFERRED && mask[0] == 1 ? 0 : 2;
}

static void on_this_machine(void **state)
{
    static const struct {
        const char *name;
        int (*fn)(void);
    } rows[] = {{"keeps_to_a_cpuset", keeps_to_a_cpuset},
                {"binds_threads", binds_threads},
                {"leaves_bound_threads", leaves_bound_threads},
                {"prefers_a_node", prefers_a_node}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        int status;
        fflush(NULL);
        const pid_t pid = fork();
        if (pid == 0) _Exit(rows[i].fn());
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
            print_message("left out: %s: not possible here\n", rows[i].name);
        else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("%s: %d", rows[i].name, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    }
}

int main(void)
{
    unsetenv("OMP_PROC_BIND");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places_ranks),
        cmocka_unit_test(shares_are_disjoint),
        cmocka_unit_test(on_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
