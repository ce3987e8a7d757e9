/* check.c: `invar check --devices A,B`: a training step on two devices, operator by operator, and
 * the first operator and element whose bits differ. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* The devices of --devices A,B. */
static int two_devices(const iv__cli *c, const char *list, char out[2][32])
{
    const char *comma = strchr(list, ',');
    const size_t n = comma ? (size_t)(comma - list) : 0;
    if (!comma || n == 0 || n >= sizeof(out[0]) || strlen(comma + 1) >= sizeof(out[1]) ||
        !comma[1] || strchr(comma + 1, ','))
        return iv__cli_fail(
            c, "--devices \"%.80s\": two names are needed [hint: --devices cpu:0,opencl:0]", list);
    memcpy(out[0], list, n);
    out[0][n] = 0;
    memcpy(out[1], comma + 1, strlen(comma + 1) + 1);
    return 0;
}

/* The same run on one device; in fast mode devices may differ, so it is not the default here. */
static int open_on(const iv__cli *c, const char *device, iv__cli_run *out)
{
    iv_config *config;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status == 0) status = iv__cli_neutral(c, config);
    if (status != 0) return status;
    iv_status s = iv__cli_alone(config);
    if (s == IV_OK) s = iv_config_set(config, "device.devices", device);
    if (s == IV_OK && !iv_config_is_set(config, "numerics.mode"))
        s = iv_config_set(config, "numerics.mode", "invariant");
    if (s != IV_OK) {
        iv_config_free(config);
        return iv__cli_status(c, s);
    }
    return iv__cli_open(c, config, true, out);
}

static double number_of(iv_dtype t, uint64_t bits)
{
    uint32_t word = (uint32_t)bits;
    double d;
    float f;
    if (t == IV_F64) {
        memcpy(&d, &bits, sizeof(d));
        return d;
    }
    if (t == IV_I32) return (int32_t)word;
    if (t == IV_BF16) word <<= 16;
    memcpy(&f, &word, sizeof(f));
    return (double)f;
}

static void print_value(const char *device, const iv_check_report *r, int k)
{
    printf("  %-10s %-24s %0*llx", device, r->label[k], (int)(2 * iv_dtype_bytes(r->type)),
           (unsigned long long)r->bits[k]);
    if (r->type != IV_F16) printf("  %.17g", number_of(r->type, r->bits[k]));
    printf("\n");
}

static void print_text(char devices[2][32], const iv_check_report *r)
{
    if (r->different == 0) {
        printf("%s and %s: %lld tensors, all bits equal\n", devices[0], devices[1],
               (long long)r->compared);
        return;
    }
    printf("%s and %s differ first in %s (%s), output %d, element %lld %s; %lld of %lld elements "
           "differ\n",
           devices[0], devices[1], r->node, r->op, r->output, (long long)r->element, r->index,
           (long long)r->different, (long long)r->elements);
    for (int k = 0; k < 2; ++k) print_value(devices[k], r, k);
}

static void print_json(char devices[2][32], const iv_check_report *r)
{
    printf("{\"devices\":[\"%s\",\"%s\"],\"compared\":%lld,\"different\":%lld", devices[0],
           devices[1], (long long)r->compared, (long long)r->different);
    if (r->different > 0) {
        fputs(",\"node\":", stdout);
        iv__json_text(stdout, r->node);
        printf(",\"op\":\"%s\",\"output\":%d,\"element\":%lld,\"index\":%s,\"elements\":%lld,"
               "\"labels\":[\"%s\",\"%s\"],\"type\":\"%s\",\"bits\":[\"%llx\",\"%llx\"]",
               r->op, r->output, (long long)r->element, r->index, (long long)r->elements,
               r->label[0], r->label[1], iv_dtype_name(r->type), (unsigned long long)r->bits[0],
               (unsigned long long)r->bits[1]);
    }
    puts("}");
}

/* 0: equal; 1: not. */
int iv__cli_check(iv__cli *c)
{
    iv_config *config;
    iv__cli_run runs[2] = {{0}};
    char devices[2][32];
    iv_check_report r;
    int status = iv__cli_config(c, c->n_args ? c->arg[0] : NULL, &config);
    if (status != 0) return status;
    status = two_devices(c, iv_config_str(config, "device.devices"), devices);
    iv_config_free(config);
    for (int k = 0; k < 2 && status == 0; ++k) status = open_on(c, devices[k], &runs[k]);
    if (status == 0) {
        const iv_status s = iv_trainer_check(runs[0].trainer, runs[1].trainer, &r);
        if (s != IV_OK) status = iv__cli_status(c, s);
        else if (c->json) print_json(devices, &r);
        else print_text(devices, &r);
        if (status == 0) status = r.different > 0;
    }
    for (int k = 0; k < 2; ++k) iv__cli_close(&runs[k]);
    return status;
}
