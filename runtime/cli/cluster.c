/* cluster.c: `invar cluster`: which environment was found, what it says and from which variables,
 * and why the others were not chosen. */
#include "cli.h"

#include <string.h>

static const char *const field_names[IV_RANK_FIELDS] = {
    "world", "rank", "local_world", "local_rank", "nodes", "node", "address", "port"};

static bool is_chosen(const iv_cluster_info *f, const iv_cluster_candidate *c)
{
    return strcmp(f->name, c->name) == 0;
}

static void candidates_json(const iv_cluster_info *f)
{
    iv_cluster_candidate c;
    fputs(",\"candidates\":[", stdout);
    for (int32_t i = 0; iv_cluster_candidate_get(i, &c); ++i) {
        printf("%s{\"name\":", i ? "," : "");
        iv__json_text(stdout, c.name);
        printf(",\"score\":%d,\"chosen\":%s,\"why\":", c.score,
               is_chosen(f, &c) ? "true" : "false");
        iv__json_text(stdout, c.why);
        putchar('}');
    }
    putchar(']');
}

static void ranks_json(const iv_ranks *r)
{
    const int32_t number[] = {r->world, r->rank, r->local_world, r->local_rank, r->nodes, r->node};
    for (int i = 0; i < IV_RANK_ADDRESS; ++i) printf(",\"%s\":%d", field_names[i], number[i]);
    fputs(",\"address\":", stdout);
    iv__json_text(stdout, r->address);
    printf(",\"port\":%d,\"ports\":[", r->port);
    for (int32_t i = 0; i < r->n_ports; ++i) printf("%s%d", i ? "," : "", r->ports[i]);
    printf("],\"spawn\":%d,\"restarts\":%d,\"job\":", r->spawn, r->restarts);
    iv__json_text(stdout, r->job);
    fputs(",\"from\":{", stdout);
    for (int i = 0; i < IV_RANK_FIELDS; ++i) {
        printf("%s\"%s\":", i ? "," : "", field_names[i]);
        iv__json_text(stdout, r->from[i]);
    }
    putchar('}');
}

/* `error`: the refusal, or NULL. */
static void print_json(const iv_cluster_info *f, const char *error)
{
    fputs("{\"cluster\":", stdout);
    iv__json_text(stdout, f->name);
    fputs(",\"why\":", stdout);
    iv__json_text(stdout, f->why);
    if (error) {
        fputs(",\"error\":", stdout);
        iv__json_text(stdout, error);
    } else {
        ranks_json(&f->ranks);
        fputs(",\"requeue\":", stdout);
        iv__json_text(stdout, f->requeue);
    }
    candidates_json(f);
    puts("}");
}

static void print_text(const iv_cluster_info *f, bool refused)
{
    iv_cluster_candidate c;
    const iv_ranks *r = &f->ranks;
    const int32_t number[] = {r->world, r->rank, r->local_world, r->local_rank, r->nodes, r->node};
    printf("cluster %s: %s\n", f->name, f->why);
    for (int i = 0; !refused && i < IV_RANK_ADDRESS; ++i) {
        const bool unknown = (i == IV_RANK_LOCAL_WORLD && r->local_world == 0) ||
                             (i >= IV_RANK_NODES && r->nodes == 0);
        if (unknown) printf("  %-12s not told by the environment\n", field_names[i]);
        else printf("  %-12s %-20d %s\n", field_names[i], number[i], r->from[i]);
    }
    if (!refused && r->world > 1) {
        printf("  %-12s %-20s %s\n", "address", *r->address ? r->address : "unknown",
               r->from[IV_RANK_ADDRESS]);
        printf("  %-12s", "ports");
        for (int32_t i = 0; i < r->n_ports; ++i) printf(" %d", r->ports[i]);
        printf("  %s\n", r->from[IV_RANK_PORT]);
        if (r->spawn > 1) printf("  starts %d processes on this node\n", r->spawn);
    }
    if (!refused && *f->requeue) printf("  %-12s %s\n", "requeue", f->requeue);
    printf("not chosen:\n");
    for (int32_t i = 0; iv_cluster_candidate_get(i, &c); ++i)
        if (!is_chosen(f, &c)) printf("  %-12s %s%s\n", c.name, c.score ? "possible: " : "", c.why);
}

int iv__cli_cluster(iv__cli *c)
{
    iv_config *config;
    iv_cluster_info found;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status != 0) return status;
    iv_status s = iv_plugins_load(iv_config_str(config, "plugins"));
    if (s == IV_OK) {
        s = iv_cluster_find(config, &found);
        char error[2048];
        snprintf(error, sizeof(error), "%s", s == IV_OK ? "" : iv_error_message());
        if (c->json) print_json(&found, s == IV_OK ? NULL : error);
        else print_text(&found, s != IV_OK);
        if (s != IV_OK) status = iv__cli_fail(c, "%s", error);
    } else {
        status = iv__cli_status(c, s);
    }
    iv_config_free(config);
    return status;
}
