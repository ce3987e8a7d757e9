/* placement.c: from a topology to what a backend is told (see placement.h).
 *
 * A launcher that bound each rank has decided already: all CPUs that are left are the rank's. Ranks
 * that Invar starts itself inherit what their parent may use, and share it. */
#include "placement.h"

#include "base.h"

#include <sched.h>

static iv_status allocate(const iv_topo *t, int32_t n, iv__placement *out)
{
    const size_t numbers = (size_t)t->n_cpus + (size_t)t->n_nodes;
    IV_TRY(iv__calloc(1, (size_t)n * sizeof(*out->place) + numbers * sizeof(int32_t), "places",
                      &out->place));
    out->n = n;
    return IV_OK;
}

static iv_status whole_nodes(const iv_topo *t, iv__placement *out)
{
    IV_TRY(allocate(t, t->n_nodes, out));
    int32_t *at = (int32_t *)(void *)(out->place + out->n);
    for (int32_t i = 0; i < t->n_nodes; ++i) {
        iv_cpu_place *p = &out->place[i];
        p->cpus = at;
        p->n_cpus = t->nodes[i].n_cpus;
        for (int32_t k = 0; k < p->n_cpus; ++k) *at++ = t->cpus[t->nodes[i].first_cpu + k].os_index;
        p->nodes = at;
        p->n_nodes = 1;
        *at++ = t->nodes[i].os_index;
    }
    return IV_OK;
}

static iv_status one_rank(const iv_topo *t, const iv_ranks *r, bool gpu, iv__placement *out)
{
    const bool own = t->bound && !iv__env(IV__ENV_SPAWNED); /* the launcher's choice */
    const int32_t n = own || r->local_world < 1 ? 1 : r->local_world;
    iv_topo_place *p;
    if (n == 1 && t->n_nodes == 1) return IV_OK;
    IV_TRY(iv_topo_place_get(t, n == 1 ? 0 : r->local_rank, n, gpu, &p));
    iv_status s = allocate(t, 1, out);
    if (s == IV_OK) {
        int32_t *at = (int32_t *)(void *)(out->place + 1);
        /* With one node there is no choice of memory. */
        const int32_t n_nodes = t->n_nodes > 1 ? p->n_nodes : 0;
        memcpy(at, p->cpus, (size_t)p->n_cpus * sizeof(*at));
        memcpy(at + p->n_cpus, p->nodes, (size_t)n_nodes * sizeof(*at));
        *out->place = (iv_cpu_place){p->n_cpus, n_nodes, at, at + p->n_cpus};
    }
    free(p);
    return s;
}

iv_status iv__placement_open(const iv_ranks *r, iv__placement_kind kind, iv__placement *out)
{
    iv_topo *t;
    *out = (iv__placement){0};
    IV_TRY(iv_topo_open(&t));
    iv_status s = IV_OK;
    if (t->here && kind != IV_PLACE_NODES) s = one_rank(t, r, kind == IV_PLACE_GPU_RANK, out);
    if (t->here && kind == IV_PLACE_NODES && t->n_nodes > 1) s = whole_nodes(t, out);
    iv_topo_close(t);
    return s;
}

void iv__placement_close(iv__placement *p)
{
    free(p->place);
    *p = (iv__placement){0};
}

void iv__placement_stay(const iv__placement *p)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (p->n != 1) return;
    for (int32_t i = 0; i < p->place->n_cpus; ++i)
        if (p->place->cpus[i] < CPU_SETSIZE) CPU_SET((size_t)p->place->cpus[i], &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* a hint: nothing depends on it */
}
