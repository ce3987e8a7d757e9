/* plan.c: `invar plan`: what a training step of a configuration would do, and its memory. */
#include "cli.h"

#include <stdlib.h>

static void print_memory(const iv_memory_report *m)
{
    const struct {
        const char *name;
        int64_t bytes;
    } rows[] = {
        {"parameters", m->parameters},   {"gradients", m->gradients},   {"optimizer", m->optimizer},
        {"lowered", m->lowered},         {"statistics", m->statistics}, {"inputs", m->inputs},
        {"temporaries", m->temporaries}, {"other", m->other},           {"total", m->total},
        {"allocated", m->allocated},     {"passing", m->passing},       {"exchange", m->exchange},
    };
    fputs("{", stdout);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i)
        printf("%s\"%s\":%lld", i ? "," : "", rows[i].name, (long long)rows[i].bytes);
    fputs("}", stdout);
}

static iv_status print_json(iv_trainer *t)
{
    iv_trainer_info info;
    iv_trainer_info_get(t, &info);
    iv_memory_report *all = calloc((size_t)info.world, sizeof(*all));
    if (!all) return iv_error_set(IV_NO_MEMORY, "memory of %d ranks", info.world);
    const iv_status s = iv_trainer_memory_all(t, all);
    if (s != IV_OK) {
        free(all);
        return s;
    }
    fputs("{\"memory\":", stdout);
    print_memory(&all[info.rank]);
    fputs(",\"ranks\":[", stdout);
    for (int32_t i = 0; i < info.world; ++i) {
        if (i) fputs(",", stdout);
        print_memory(&all[i]);
    }
    fputs("]", stdout);
    free(all);
    fputs(",\"device\":", stdout);
    iv__json_text(stdout, info.device);
    fputs(",\"precision\":", stdout);
    iv__json_text(stdout, info.precision);
    fputs(",\"numerics\":", stdout);
    iv__json_text(stdout, info.numerics);
    printf(",\"parameters\":%lld,\"batch\":%lld,\"grains\":%lld,\"accumulate\":%lld}\n",
           (long long)info.parameters, (long long)info.batch, (long long)info.grains,
           (long long)info.accumulate);
    return IV_OK;
}

static int print_plan(const iv__cli *c, iv_trainer *t)
{
    char *text = NULL;
    const iv_status s =
        c->json ? print_json(t)
                : iv_trainer_plan_text(t, c->verbose ? IV_PLAN_REFUSED : IV_PLAN_STEPS, &text);
    if (s != IV_OK) return iv__cli_status(c, s);
    if (text) fputs(text, stdout);
    free(text);
    return 0;
}

int iv__cli_plan(iv__cli *c)
{
    iv_config *config;
    iv__cli_run run;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status == 0) status = iv__cli_neutral(c, config);
    if (status != 0) return status;
    status = iv__cli_join(c, config);
    if (status != 0) {
        iv_config_free(config);
        return status == IV_CLI_SPAWNED ? 0 : status;
    }
    status = iv__cli_open(c, config, true, &run);
    if (status != 0) return status;
    status = print_plan(c, run.trainer);
    iv__cli_close(&run);
    return status;
}
