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
        {"allocated", m->allocated},
    };
    fputs("{\"memory\":{", stdout);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i)
        printf("%s\"%s\":%lld", i ? "," : "", rows[i].name, (long long)rows[i].bytes);
    fputs("}", stdout);
}

static void print_json(const iv_trainer *t)
{
    iv_memory_report memory;
    iv_trainer_info info;
    iv_trainer_memory(t, &memory);
    iv_trainer_info_get(t, &info);
    print_memory(&memory);
    fputs(",\"device\":", stdout);
    iv__json_text(stdout, info.device);
    fputs(",\"precision\":", stdout);
    iv__json_text(stdout, info.precision);
    fputs(",\"numerics\":", stdout);
    iv__json_text(stdout, info.numerics);
    printf(",\"parameters\":%lld,\"batch\":%lld,\"grains\":%lld,\"accumulate\":%lld}\n",
           (long long)info.parameters, (long long)info.batch, (long long)info.grains,
           (long long)info.accumulate);
}

static int print_plan(const iv__cli *c, iv_trainer *t)
{
    if (c->json) {
        print_json(t);
        return 0;
    }
    char *text;
    const iv_status s =
        iv_trainer_plan_text(t, c->verbose ? IV_PLAN_REFUSED : IV_PLAN_STEPS, &text);
    if (s != IV_OK) return iv__cli_status(c, s);
    fputs(text, stdout);
    free(text);
    return 0;
}

int iv__cli_plan(iv__cli *c)
{
    iv_config *config;
    iv__cli_run run;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status == 0) status = iv__cli_neutral(c, config);
    if (status == 0) status = iv__cli_open(c, config, true, &run);
    if (status != 0) return status;
    status = print_plan(c, run.trainer);
    iv__cli_close(&run);
    return status;
}
