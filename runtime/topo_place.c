/* topo_place.c: where the ranks of a machine belong (iv_topo_place_get in invar.h).
 *
 * Pure functions of an iv_topo: what they do on machines that are not here is tested on recorded
 * ones. */
#include "base.h"

/* The node that each of n ranks belongs to, by the greatest number of cores per rank (D'Hondt):
 * even machines get even shares, and every node has a rank if there are enough.  Rising. */
static void deal_nodes(const iv_topo *t, const int32_t *cores, int32_t n, int32_t *out_node)
{
    int32_t rank = 0;
    for (int32_t node = 0; node < t->n_nodes; ++node) {
        /* Ranks of this node: count the quotients among the n greatest of all. */
        for (int32_t k = 1; k <= n && rank < n; ++k) {
            int64_t above = 0;
            for (int32_t other = 0; other < t->n_nodes; ++other)
                for (int32_t j = 1; j <= n; ++j) {
                    const int64_t a = (int64_t)cores[other] * k, b = (int64_t)cores[node] * j;
                    above += a > b || (a == b && (j < k || (j == k && other < node)));
                }
            if (above >= n) break;
            out_node[rank++] = node;
        }
    }
    while (rank < n) out_node[rank++] = t->n_nodes - 1;
}

static int32_t nth_device(const iv_topo *t, const char *kind, int32_t i)
{
    int32_t n = 0;
    for (int32_t d = 0; d < t->n_devices; ++d) n += strcmp(t->devices[d].kind, kind) == 0;
    if (n == 0) return -1;
    i %= n;
    for (int32_t d = 0; d < t->n_devices; ++d)
        if (strcmp(t->devices[d].kind, kind) == 0 && i-- == 0) return d;
    return -1;
}

/* 2: on the node, 1: on its package, 0: elsewhere or anywhere. */
static int closeness(const iv_topo *t, const iv_topo_device *d, int32_t node)
{
    if (d->node < 0) return 0;
    if (d->node == node) return 2;
    return t->nodes[d->node].package == t->nodes[node].package;
}

/* The device of a kind that is closest to a node; of several that are, the `turn`-th. */
static int32_t nearest_device(const iv_topo *t, const char *kind, int32_t node, int32_t turn)
{
    int best = -1;
    int32_t n = 0;
    for (int32_t d = 0; d < t->n_devices; ++d) {
        if (strcmp(t->devices[d].kind, kind) != 0) continue;
        const int c = closeness(t, &t->devices[d], node);
        n = c > best ? 1 : n + (c == best);
        best = IV_MAX2(best, c);
    }
    for (int32_t d = 0, i = n ? turn % n : 0; d < t->n_devices; ++d)
        if (strcmp(t->devices[d].kind, kind) == 0 && closeness(t, &t->devices[d], node) == best &&
            i-- == 0)
            return d;
    return -1;
}

/* Number of usable cores of a node, and where core i (by order) begins among its CPUs. */
static int32_t count_cores(const iv_topo *t, const iv_topo_node *node)
{
    int32_t n = 0;
    for (int32_t i = 0; i < node->n_cpus; ++i)
        n += i == 0 || t->cpus[node->first_cpu + i].core != t->cpus[node->first_cpu + i - 1].core;
    return n;
}

/* Appends the CPUs of cores [begin, end) of a node. */
static void take_cores(const iv_topo *t, int32_t node, int32_t begin, int32_t end,
                       iv_topo_place *out)
{
    const iv_topo_node *n = &t->nodes[node];
    int32_t core = -1;
    for (int32_t i = 0; i < n->n_cpus; ++i) {
        const iv_topo_cpu *c = &t->cpus[n->first_cpu + i];
        core += i == 0 || c->core != c[-1].core;
        if (core >= begin && core < end) out->cpus[out->n_cpus++] = c->os_index;
    }
    out->nodes[out->n_nodes++] = n->os_index;
}

/* Several ranks on one node: cores [i C / n, (i + 1) C / n), at least one. */
static void share_node(const iv_topo *t, const int32_t *cores, const int32_t *node_of,
                       int32_t local_rank, int32_t local_world, iv_topo_place *out)
{
    const int32_t node = node_of[local_rank];
    int32_t before = 0, n = 0;
    for (int32_t r = 0; r < local_world; ++r) {
        if (node_of[r] != node) continue;
        before += r < local_rank;
        ++n;
    }
    const int32_t begin = (int32_t)((int64_t)before * cores[node] / n);
    const int32_t end = (int32_t)((int64_t)(before + 1) * cores[node] / n);
    take_cores(t, node, begin, IV_MAX2(end, begin + 1), out);
    out->nic = nearest_device(t, "nic", node, before);
}

static void place(const iv_topo *t, int32_t *scratch, int32_t local_rank, int32_t local_world,
                  bool gpu, iv_topo_place *out)
{
    int32_t *cores = scratch, *node_of = scratch + t->n_nodes;
    for (int32_t i = 0; i < t->n_nodes; ++i) cores[i] = count_cores(t, &t->nodes[i]);
    out->gpu = gpu ? nth_device(t, "gpu", local_rank) : -1;
    if (out->gpu >= 0 && t->devices[out->gpu].node >= 0) {
        for (int32_t r = 0; r < local_world; ++r)
            node_of[r] = t->devices[nth_device(t, "gpu", r)].node;
        for (int32_t r = 0; r < local_world; ++r) /* a GPU without a place is anywhere */
            if (node_of[r] < 0) node_of[r] = r % t->n_nodes;
        share_node(t, cores, node_of, local_rank, local_world, out);
    } else if (local_world >= t->n_nodes) {
        deal_nodes(t, cores, local_world, node_of);
        share_node(t, cores, node_of, local_rank, local_world, out);
    } else {
        const int32_t begin = (int32_t)((int64_t)local_rank * t->n_nodes / local_world),
                      end = (int32_t)((int64_t)(local_rank + 1) * t->n_nodes / local_world);
        for (int32_t i = begin; i < end; ++i) take_cores(t, i, 0, cores[i], out);
        out->nic = nearest_device(t, "nic", begin, local_rank);
    }
}

iv_status iv_topo_place_get(const iv_topo *t, int32_t local_rank, int32_t local_world, bool gpu,
                            iv_topo_place **out)
{
    if (local_rank < 0 || local_rank >= local_world)
        IV_FAIL(IV_INVALID, "placing rank %d of %d on this machine", local_rank, local_world);
    int32_t *scratch;
    iv_topo_place *p;
    IV_TRY(
        iv__calloc((int64_t)t->n_nodes + local_world, sizeof(*scratch), "a placement", &scratch));
    iv_status s =
        iv__calloc(1, sizeof(*p) + ((size_t)t->n_cpus + (size_t)t->n_nodes) * sizeof(int32_t),
                   "a placement", &p);
    if (s == IV_OK) {
        p->cpus = (int32_t *)(p + 1);
        p->nodes = p->cpus + t->n_cpus;
        p->nic = -1;
        place(t, scratch, local_rank, local_world, gpu, p);
        *out = p;
    }
    free(scratch);
    return s;
}
