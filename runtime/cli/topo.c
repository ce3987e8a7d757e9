/* topo.c: `invar topo`: the machine as this process may use it, and where its ranks belong. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* "0-3,16-19" */
static void print_ranges(const int32_t *v, int32_t n)
{
    for (int32_t i = 0; i < n;) {
        int32_t end = i + 1;
        while (end < n && v[end] == v[end - 1] + 1) ++end;
        printf("%s%d", i ? "," : "", v[i]);
        if (end - i > 1) printf("-%d", v[end - 1]);
        i = end;
    }
}

static int by_number(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int32_t count_cores(const iv_topo *t, const iv_topo_node *n)
{
    int32_t cores = 0;
    for (int32_t i = n->first_cpu; i < n->first_cpu + n->n_cpus; ++i)
        cores += i == n->first_cpu || t->cpus[i].core != t->cpus[i - 1].core;
    return cores;
}

static void draw_devices(const iv_topo *t, int32_t node, const char *indent)
{
    for (int32_t i = 0; i < t->n_devices; ++i)
        if (t->devices[i].node == node)
            printf("%s%-4s %s  %s\n", indent, t->devices[i].kind, t->devices[i].bus,
                   t->devices[i].name);
}

static void draw_machine(const iv_topo *t)
{
    printf("machine: %d package%s, %d NUMA node%s, %d of %d CPUs usable (%s)%s\n", t->n_packages,
           t->n_packages == 1 ? "" : "s", t->n_nodes, t->n_nodes == 1 ? "" : "s", t->n_cpus,
           t->machine_cpus, t->source, t->bound ? "; bound by the launcher" : "");
    int32_t *cpus = calloc((size_t)t->n_cpus, sizeof(*cpus)), package = -1;
    for (int32_t i = 0; cpus && i < t->n_nodes; ++i) {
        const iv_topo_node *n = &t->nodes[i];
        char memory[32];
        iv__print_bytes(memory, n->mem_bytes);
        if (n->package != package) printf("  package %d\n", package = n->package);
        for (int32_t k = 0; k < n->n_cpus; ++k) cpus[k] = t->cpus[n->first_cpu + k].os_index;
        qsort(cpus, (size_t)n->n_cpus, sizeof(*cpus), by_number);
        printf("    node %d  %s, %d cores, CPUs ", n->os_index, n->mem_bytes ? memory : "memory ?",
               count_cores(t, n));
        print_ranges(cpus, n->n_cpus);
        putchar('\n');
        draw_devices(t, i, "            ");
    }
    free(cpus);
    draw_devices(t, -1, "    near no node: ");
}

static void draw_place(const iv_topo *t, int32_t rank, const iv_topo_place *p)
{
    printf("  rank %d: node ", rank);
    print_ranges(p->nodes, p->n_nodes);
    printf(", CPUs ");
    qsort(p->cpus, (size_t)p->n_cpus, sizeof(*p->cpus), by_number);
    print_ranges(p->cpus, p->n_cpus);
    if (p->gpu >= 0) printf(", gpu %s", t->devices[p->gpu].bus);
    if (p->nic >= 0) printf(", nic %s", t->devices[p->nic].name);
    putchar('\n');
}

static void json_numbers(const char *name, const int32_t *v, int32_t n)
{
    printf(",\"%s\":[", name);
    for (int32_t i = 0; i < n; ++i) printf("%s%d", i ? "," : "", v[i]);
    putchar(']');
}

static void json_machine(const iv_topo *t)
{
    fputs("{\"source\":", stdout);
    iv__json_text(stdout, t->source);
    printf(",\"packages\":%d,\"machine_cpus\":%d,\"bound\":%s,\"nodes\":[", t->n_packages,
           t->machine_cpus, t->bound ? "true" : "false");
    for (int32_t i = 0; i < t->n_nodes; ++i) {
        const iv_topo_node *n = &t->nodes[i];
        printf("%s{\"node\":%d,\"package\":%d,\"mem_bytes\":%lld,\"cores\":%d,\"cpus\":[",
               i ? "," : "", n->os_index, n->package, (long long)n->mem_bytes, count_cores(t, n));
        for (int32_t k = 0; k < n->n_cpus; ++k)
            printf("%s%d", k ? "," : "", t->cpus[n->first_cpu + k].os_index);
        fputs("]}", stdout);
    }
    fputs("],\"devices\":[", stdout);
    for (int32_t i = 0; i < t->n_devices; ++i) {
        const iv_topo_device *d = &t->devices[i];
        printf("%s{\"kind\":\"%s\",\"bus\":\"%s\",\"node\":%d,\"name\":", i ? "," : "", d->kind,
               d->bus, d->node >= 0 ? t->nodes[d->node].os_index : -1);
        iv__json_text(stdout, d->name);
        putchar('}');
    }
    puts("]}");
}

static void json_place(const iv_topo *t, int32_t rank, const iv_topo_place *p)
{
    printf("{\"local_rank\":%d", rank);
    json_numbers("nodes", p->nodes, p->n_nodes);
    json_numbers("cpus", p->cpus, p->n_cpus);
    if (p->gpu >= 0) printf(",\"gpu\":\"%s\"", t->devices[p->gpu].bus);
    if (p->nic >= 0) printf(",\"nic\":\"%s\"", t->devices[p->nic].bus);
    puts("}");
}

static iv_status show(const iv__cli *c, const iv_config *config, const iv_topo *t)
{
    iv_cluster_info found;
    iv_status s = iv_cluster_find(config, &found);
    if (s != IV_OK) return s;
    const char *kind = iv_config_str(config, "device.accelerator");
    const bool gpu = strcmp(kind, "auto") != 0 && strcmp(kind, "cpu") != 0;
    const int32_t n = found.ranks.local_world > 0 ? found.ranks.local_world : 1;
    if (c->json) {
        json_machine(t);
    } else {
        draw_machine(t);
        printf("placement of %d rank%s%s\n", n, n == 1 ? "" : "s",
               t->here ? "" : " (nobody is bound by a machine that is not this one)");
    }
    for (int32_t rank = 0; s == IV_OK && rank < n; ++rank) {
        iv_topo_place *p;
        s = iv_topo_place_get(t, rank, n, gpu, &p);
        if (s != IV_OK) break;
        if (c->json) json_place(t, rank, p);
        else draw_place(t, rank, p);
        free(p);
    }
    return s;
}

int iv__cli_topo(iv__cli *c)
{
    iv_config *config;
    iv_topo *t = NULL;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status != 0) return status;
    iv_status s = iv_plugins_load(iv_config_str(config, "plugins"));
    if (s == IV_OK) s = iv_topo_open(&t);
    if (s == IV_OK) s = show(c, config, t);
    if (s != IV_OK) status = iv__cli_status(c, s);
    iv_topo_close(t);
    iv_config_free(config);
    return status;
}
