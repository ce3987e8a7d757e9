/* rank.c: a run's place in its cluster: starts the other ranks of this node where it is this
 * process's task, tells in one line what was found, and keeps ranks other than 0 quiet.
 *
 * Rank 0 alone reports.  The others' standard output goes nowhere; of standard error only faults
 * stay, with the rank before them.  With --rank-logs DIR each of them writes DIR/rank-N.log as rank
 * 0 writes the terminal. */
#include "cli.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static void no_log(void *ctx, iv_log_level level, const char *line)
{
    (void)ctx, (void)level, (void)line;
}

static int go_quiet(iv__cli *c, const iv_config *config, int32_t rank)
{
    char path[1024];
    const char *folder = iv_config_str(config, "out.rank_logs");
    c->rank = rank;
    if (rank == 0) return 0;
    if (!*folder) {
        iv_log_set(IV_LOG_WARN, no_log, NULL);
        c->quiet = true;
        /* Where rank 0 may be lost, this process may become it. */
        if (iv_config_bool(config, "cluster.elastic")) return 0;
        return freopen("/dev/null", "w", stdout)
                   ? 0
                   : iv__cli_fail(c, "opening /dev/null: %s", strerror(errno));
    }
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return iv__cli_fail(c, "--rank-logs %s: %s", folder, strerror(errno));
    if (snprintf(path, sizeof(path), "%s/rank-%d.log", folder, rank) >= (int)sizeof(path))
        return iv__cli_fail(c, "--rank-logs: the path is too long");
    if (!freopen(path, "a", stdout) || !freopen(path, "a", stderr))
        return iv__cli_fail(c, "--rank-logs %s: %s", folder, strerror(errno));
    setvbuf(stderr, NULL, _IOLBF, 0);
    return 0;
}

/* Nothing is said of a single process that no launcher has started. */
static void say_place(const iv_cluster_info *f)
{
    const iv_ranks *r = &f->ranks;
    char nodes[32] = "";
    if (r->world == 1 && r->spawn == 1) return;
    if (r->nodes)
        snprintf(nodes, sizeof(nodes), " on %d node%s", r->nodes, r->nodes > 1 ? "s" : "");
    fprintf(stderr, "cluster %s: %d ranks%s (%s)\n", f->name, r->world, nodes, f->why);
}

int iv__cli_join(iv__cli *c, const iv_config *config)
{
    iv_cluster_info found;
    iv_status s = iv_plugins_load(iv_config_str(config, "plugins"));
    if (s == IV_OK) s = iv_cluster_find(config, &found);
    if (s != IV_OK) return iv__cli_status(c, s);
    const bool spawns = found.ranks.spawn > 1;
    /* Ranks that were spawned are announced by who spawned them. */
    if (spawns || (found.ranks.rank == 0 && strncmp(found.why, "INVAR_SPAWNED", 13) != 0))
        say_place(&found);
    if (spawns) {
        const int status = iv__cli_spawn(c, config, &found.ranks);
        return status == 0 ? IV_CLI_SPAWNED : status;
    }
    return go_quiet(c, config, found.ranks.rank);
}
