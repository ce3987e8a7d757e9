/* select.c: which precision plugin a run gets: the names of old and new that mean the same, and the
 * table of device, strategy and backend (docs/precision.md).
 *
 * A name that is not a precision of the table is a plugin's own, and wins over the table. */
#include "precision.h"

/* What --precision means, once and for all: every spelling that users know. */
typedef enum wanted { P16, BF16, P32, P64, P16_TRUE, BF16_TRUE, FP8, FP8_F16, WANTED } wanted;
static const struct {
    const char *name;
    wanted means;
} names[] = {
    {"16-mixed", P16},
    {"16", P16},
    {"mixed", P16},
    {"half", P16},
    {"bf16-mixed", BF16},
    {"bf16", BF16},
    {"32-true", P32},
    {"32", P32},
    {"single", P32},
    {"64-true", P64},
    {"64", P64},
    {"double", P64},
    {"16-true", P16_TRUE},
    {"bf16-true", BF16_TRUE},
    {"transformer-engine", FP8},
    {"transformer-engine-float16", FP8_F16},
};
static const char *const canonical[WANTED] = {"16-mixed",
                                              "bf16-mixed",
                                              "32-true",
                                              "64-true",
                                              "16-true",
                                              "bf16-true",
                                              "transformer-engine",
                                              "transformer-engine-float16"};

/* Rows are tried in order; the first that fits decides.  NULL matches anything; a row either names
 * a plugin or says why there is none. */
#define ON(x) (1u << (x))
#define ALL (ON(WANTED) - 1u)
enum { T16 = ON(P16_TRUE) | ON(BF16_TRUE), TE = ON(FP8) | ON(FP8_F16) };
static const struct {
    const char *device, *strategy, *backend;
    uint32_t wanted;
    const char *plugin, *refusal;
} rows[] = {
    {NULL, NULL, "apex", ON(BF16) | T16 | TE, NULL,
     "--amp-backend apex computes in f16 only [hint: --precision 16, or --amp-backend native]"},
    {NULL, "ddp_sharded", "apex", ALL, NULL,
     "--amp-backend apex has no sharded gradient scaler "
     "[hint: --amp-backend native]"},
    {NULL, "fsdp", "apex", ALL, NULL,
     "--amp-backend apex has no sharded gradient scaler [hint: "
     "--amp-backend native]"},
    {"ipu", NULL, NULL, ON(P16), "ipu(precision=16)", NULL},
    {"ipu", NULL, NULL, ON(P32), "ipu(precision=32)", NULL},
    {"ipu", NULL, NULL, ALL, NULL, "IPUs compute in 16 and 32 [hint: --precision 16]"},
    {"hpu", NULL, NULL, ON(P16), "hpu(precision=16)", NULL},
    {"hpu", NULL, NULL, ON(BF16), "hpu(precision=bf16)", NULL},
    {"hpu", NULL, NULL, ON(P32), "hpu(precision=32)", NULL},
    {"hpu", NULL, NULL, ALL, NULL, "HPUs compute in 16, bf16 and 32 [hint: --precision bf16]"},
    {"tpu", NULL, NULL, ON(P16) | ON(BF16), "tpu-bf16", NULL},
    {"tpu", NULL, NULL, ON(P32), "tpu", NULL},
    {"tpu", NULL, NULL, ON(P16_TRUE), "xla(precision=16-true)", NULL},
    {"tpu", NULL, NULL, ON(BF16_TRUE), "xla(precision=bf16-true)", NULL},
    {"tpu", NULL, NULL, ALL, NULL, "TPUs compute in 16, bf16 and 32 [hint: --precision bf16]"},
    {NULL, "deepspeed", "apex", ON(P16), "deepspeed(precision=16-mixed,amp=true)", NULL},
    {NULL, "deepspeed", NULL, ON(P16), "deepspeed(precision=16-mixed)", NULL},
    {NULL, "deepspeed", NULL, ON(BF16), "deepspeed(precision=bf16-mixed)", NULL},
    {NULL, "deepspeed", NULL, ON(P32), "deepspeed(precision=32-true)", NULL},
    {NULL, "deepspeed", NULL, ON(P16_TRUE), "deepspeed(precision=16-true)", NULL},
    {NULL, "deepspeed", NULL, ON(BF16_TRUE), "deepspeed(precision=bf16-true)", NULL},
    {NULL, "deepspeed", NULL, ALL, NULL,
     "--strategy deepspeed knows 16, bf16 and 32, mixed and true [hint: --strategy ddp]"},
    {NULL, NULL, NULL, ON(P32), "32-true", NULL},
    {NULL, NULL, NULL, ON(P64), "64-true", NULL},
    {NULL, NULL, NULL, ON(P16_TRUE), "16-true", NULL},
    {NULL, NULL, NULL, ON(BF16_TRUE), "bf16-true", NULL},
    {NULL, NULL, NULL, ON(FP8), "fp8(weights=bf16)", NULL},
    {NULL, NULL, NULL, ON(FP8_F16), "fp8(weights=f16)", NULL},
    {NULL, NULL, "apex", ON(P16), "apex", NULL},
    {NULL, "ddp_sharded", NULL, ON(P16), "sharded(precision=16)", NULL},
    {NULL, "ddp_sharded", NULL, ON(BF16), "sharded(precision=bf16)", NULL},
    {NULL, "fsdp", NULL, ON(P16), "fullysharded(precision=16)", NULL},
    {NULL, "fsdp", NULL, ON(BF16), "fullysharded(precision=bf16)", NULL},
    {NULL, NULL, NULL, ON(P16), "16-mixed", NULL},
    {NULL, NULL, NULL, ON(BF16), "bf16-mixed", NULL},
};

static bool fits(const char *pattern, const char *x)
{
    return !pattern || strcmp(pattern, x) == 0;
}

static iv_status from_table(wanted w, const char *device, const char *strategy, const char *backend,
                            char *out, size_t size)
{
    for (int64_t i = 0; i < IV_COUNT(rows); ++i) {
        if (!fits(rows[i].device, device) || !fits(rows[i].strategy, strategy) ||
            !fits(rows[i].backend, backend) || !(rows[i].wanted >> w & 1))
            continue;
        if (rows[i].refusal)
            IV_FAIL(IV_INVALID, "--precision %s on %s with --strategy %s: %s", canonical[w], device,
                    strategy, rows[i].refusal);
        snprintf(out, size, "%s", rows[i].plugin);
        return IV_OK;
    }
    IV_FAIL(IV_INTERNAL, "--precision %s: the table has no row", canonical[w]);
}

static bool is_level(const char *level)
{
    return level[0] == 'O' && level[1] >= '0' && level[1] <= '3' && !level[2];
}

/* TPUs store what their own plugins say. */
static iv_status check_own(const char *name, const char *device)
{
    static const char *const own[] = {"tpu", "tpu-bf16", "xla"};
    bool found = strcmp(device, "tpu") != 0;
    size_t n = strcspn(name, "(");
    for (int64_t i = 0; i < IV_COUNT(own); ++i)
        found |= strlen(own[i]) == n && strncmp(own[i], name, n) == 0;
    if (found) return IV_OK;
    IV_FAIL(IV_INVALID, "--precision %s: TPUs take tpu, tpu-bf16 and xla only", name);
}

iv_status iv__precision_select(const char *precision, const char *device, const char *strategy,
                               const char *backend, const char *level, char *out, size_t size)
{
    bool apex = strcmp(backend, "apex") == 0;
    if (*level && !apex)
        IV_FAIL(IV_INVALID, "--amp-level %s is for --amp-backend apex, not %s", level, backend);
    if (*level && !is_level(level))
        IV_FAIL(IV_INVALID, "--amp-level %s: O0, O1, O2 and O3 are possible", level);
    for (int64_t i = 0; i < IV_COUNT(names); ++i)
        if (strcmp(precision, names[i].name) == 0) {
            IV_TRY(from_table(names[i].means, device, strategy, backend, out, size));
            if (*level && strcmp(out, "apex") == 0) snprintf(out, size, "apex(level=%s)", level);
            return IV_OK;
        }
    if (apex && strncmp(precision, "apex", 4) != 0)
        IV_FAIL(IV_INVALID,
                "--amp-backend apex and --precision %s are two choices [hint: "
                "--precision 16]",
                precision);
    if (strlen(precision) >= size)
        IV_FAIL(IV_INVALID, "--precision: a name of %zu characters", strlen(precision));
    snprintf(out, size, "%s", precision);
    return check_own(precision, device);
}
