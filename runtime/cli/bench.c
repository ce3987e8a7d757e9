/* bench.c: `invar bench`: where the time of a training step goes, operator by operator. */
#include "cli.h"

#include <stdlib.h>

static void print_row(const iv__cli *c, const iv_step_time *r)
{
    const double s = (double)r->ns * 1e-9, gbs = (double)r->bytes / s * 1e-9,
                 gflops = r->flops / s * 1e-9;
    if (!c->json) {
        printf("%10.1f us %10.1f cpu  %7.2f GB/s  ", s * 1e6, (double)r->cpu_ns * 1e-3, gbs);
        if (r->flops > 0) printf("%7.2f GFLOP/s", gflops);
        else printf("%15s", "");
        printf("  %-22s %s\n", r->label, r->node);
        return;
    }
    fputs("{\"step\":", stdout);
    iv__json_text(stdout, r->label);
    fputs(",\"node\":", stdout);
    iv__json_text(stdout, r->node);
    printf(",\"ns\":%lld,\"cpu_ns\":%lld,\"bytes\":%lld,\"flops\":", (long long)r->ns,
           (long long)r->cpu_ns, (long long)r->bytes);
    iv__json_number(stdout, r->flops);
    puts("}");
}

static int measure(const iv__cli *c, iv__cli_run *run)
{
    iv_step_time *rows;
    iv_trainer_info info;
    int64_t n;
    const iv_status s = iv_trainer_profile(run->trainer, c->runs, &rows, &n);
    if (s != IV_OK) return iv__cli_status(c, s);
    iv_trainer_info_get(run->trainer, &info);
    if (!c->json) printf("%s, %s, %s\n", info.device, info.precision, info.numerics);
    for (int64_t i = 0; i < n; ++i) print_row(c, &rows[i]);
    free(rows);
    return 0;
}

int iv__cli_bench(iv__cli *c)
{
    iv_config *config;
    iv__cli_run run;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status == 0) status = iv__cli_neutral(c, config);
    if (status == 0) status = iv__cli_open(c, config, true, &run);
    if (status != 0) return status;
    status = measure(c, &run);
    iv__cli_close(&run);
    return status;
}
