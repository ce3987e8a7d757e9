/* bench.c: `invar bench`: what the device reaches, and which share of its peaks. */
#include "cli.h"

#include <string.h>

static void print_share(double rate, double peak)
{
    if (peak > 0 && rate > 0) printf(" %5.1f%%", 100 * rate / peak);
    else fputs("       ", stdout);
}

static void print_rate(double per_s, double peak, const char *unit)
{
    if (per_s > 0) printf("  %9.2f G%s", per_s * 1e-9, unit);
    else printf("  %9s  %*s", "", (int)sizeof("FLOP/s") - 1, "");
    print_share(per_s, peak);
}

static void print_row(void *ctx, const iv_bench_row *r)
{
    const bool peak = r->seconds == 0;
    const double flops = peak ? r->flops : r->flops / r->seconds,
                 bytes = peak ? r->bytes : r->bytes / r->seconds;
    (void)ctx;
    printf("%-7s %-40s %-14s", r->group, r->name, r->impl);
    if (peak) printf("  %9s   ", "");
    else printf("  %9.3f ms", r->seconds * 1e3);
    print_rate(flops, r->peak_flops, "FLOP/s");
    print_rate(bytes, r->peak_bytes, "B/s");
    putchar('\n');
    fflush(stdout);
}

static void print_json(void *ctx, const iv_bench_row *r)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"seconds", r->seconds},       {"flops", r->flops},
                   {"bytes", r->bytes},           {"peak_flops", r->peak_flops},
                   {"peak_bytes", r->peak_bytes}, {"runs", (double)r->runs}};
    (void)ctx;
    fputs("{\"group\":", stdout);
    iv__json_text(stdout, r->group);
    fputs(",\"name\":", stdout);
    iv__json_text(stdout, r->name);
    fputs(",\"impl\":", stdout);
    iv__json_text(stdout, r->impl);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); ++i) {
        printf(",\"%s\":", numbers[i].name);
        iv__json_number(stdout, numbers[i].value);
    }
    puts("}");
    fflush(stdout);
}

int iv__cli_bench(iv__cli *c)
{
    iv_config *config;
    iv__cli_run run;
    const int files = c->n_args > 0 && strchr(c->arg[c->n_args - 1], '.') != NULL;
    const char *group = c->n_args > files ? c->arg[0] : "all";
    int status = iv__cli_config(c, files ? c->arg[c->n_args - 1] : NULL, &config);
    if (status != 0) return status;
    char out[1024]; /* the one group that writes keeps its folder */
    snprintf(out, sizeof(out), "%s",
             strcmp(group, "ckpt") == 0 ? iv_config_str(config, "out.dir") : "");
    status = iv__cli_neutral(c, config);
    if (status != 0) return status;
    (void)iv_config_set(config, "out.dir", out);
    (void)iv__cli_alone(config);
    status = iv__cli_open(c, config, true, &run);
    if (status != 0) return status;
    const iv_status s =
        iv_bench_run(run.trainer, group, c->seconds, c->json ? print_json : print_row, NULL);
    status = s == IV_OK ? 0 : iv__cli_status(c, s);
    iv__cli_close(&run);
    return status;
}
