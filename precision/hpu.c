/* hpu.c: Habana's policies: `hpu(precision=16|bf16|32,level=O1|O2)`.  16 and bf16 both mean bf16.
 *
 *   O2  products and convolutions in bf16, the rest in f32 (default)
 *   O1  two lists from files, bf16_file and fp32_file, one operator a line; what stands in neither
 *       runs in its first input's type, operators of several inputs in the widest; without files
 *       the lists of Habana's autocast
 *
 * Lists are checked: a name that no operator has, and one that stands in both, are refused.  f32
 * converts nothing.  A policy by name: it runs on any device. */
#include "policy.h"

#include <ctype.h>
#include <errno.h>

static const char hpu_name[] = "hpu";
static const iv_precision_option hpu_options[] = {
    {"precision", "16, bf16 or 32 (default bf16)"},
    {"level", "O1 or O2 (default O2; O1 if a file is given)"},
    {"bf16_file", "operators that run in bf16, one a line"},
    {"fp32_file", "operators that run in f32, one a line"},
    {0}};

/* Habana's names of operators, and ours; "": known there, and nothing that is cast here. */
static const char *const names[][2] = {
    {"addmm", "matmul"},
    {"mm", "matmul"},
    {"bmm", "matmul"},
    {"mv", "matmul"},
    {"linear", "matmul"},
    {"addbmm", "matmul"},
    {"baddbmm", "matmul"},
    {"nll_loss", "cross_entropy_rows"},
    {"cross_entropy", "cross_entropy_rows"},
    {"layer_norm", "layernorm"},
    {"batch_norm", "batchnorm"},
    {"iadd", "add"},
    {"imul", "mul"},
    {"truediv", "div"},
    {"rsub", "sub"},
    {"mean", "sum"},
    {"t", ""},
    {"transpose", ""},
    {"topk", ""},
    {"view", ""},
    {"cat", "concat"},
    {"scaled_dot_product_attention", "attention"},
};

/* The row of a name, -1: unknown, -2: nothing to cast. */
static int find(const char *name)
{
    int row = iv__oplist_row(name);
    for (size_t i = 0; row < 0 && i < sizeof(names) / sizeof(names[0]); ++i)
        if (strcmp(names[i][0], name) == 0) row = *names[i][1] ? iv__oplist_row(names[i][1]) : -2;
    return row;
}

/* Marks the operators of a file with a class. */
static iv_status read_file(iv__policy_run *r, const char *path, const char *other,
                           iv_cast_class cls)
{
    char line[256];
    iv_status s = IV_OK;
    FILE *f = fopen(path, "r");
    if (!f) return r->host->fail(IV_INVALID, "precision hpu: list %s: %s", path, strerror(errno));
    for (int n = 1; s == IV_OK && fgets(line, sizeof(line), f); ++n) {
        char *name = line;
        while (isspace((unsigned char)*name)) ++name;
        name[strcspn(name, " \t\r\n#")] = 0;
        if (!*name) continue;
        int row = find(name);
        if (row == -1)
            s = r->host->fail(IV_INVALID, "precision hpu: %s, line %d: there is no operator '%s'",
                              path, n, name);
        if (row < 0) continue;
        if (r->classes[row] && r->classes[row] != cls + 1)
            s = r->host->fail(IV_INVALID, "precision hpu: %s, line %d: '%s' stands in %s as well",
                              path, n, name, other);
        r->classes[row] = (uint8_t)(cls + 1);
    }
    fclose(f);
    return s;
}

static iv_status read_lists(iv__policy_run *r, const char *low, const char *full)
{
    iv_status s = low ? read_file(r, low, full ? full : "", IV_CAST_LOWER) : IV_OK;
    if (s == IV_OK && full) s = read_file(r, full, low ? low : "", IV_CAST_F32);
    return s;
}

static iv_status choose(iv__policy_run *r, const iv_precision_request *q)
{
    const char *p = iv__option(q, "precision"), *level = iv__option(q, "level"),
               *low = iv__option(q, "bf16_file"), *full = iv__option(q, "fp32_file");
    if (!level) level = low || full ? "O1" : "O2";
    if (strcmp(level, "O1") != 0 && strcmp(level, "O2") != 0)
        return r->host->fail(IV_INVALID, "precision hpu: level is '%s', not O1 or O2", level);
    if (level[1] == '2' && (low || full))
        return r->host->fail(IV_INVALID, "precision hpu: lists of operators are for level=O1");
    if (p && strcmp(p, "16") != 0 && strcmp(p, "bf16") != 0 && strcmp(p, "32") != 0)
        return r->host->fail(IV_INVALID, "precision hpu: precision is '%s', not 16, bf16 or 32", p);
    iv_status s = read_lists(r, low, full);
    if (s != IV_OK) return s;
    r->list = level[1] == '2' ? IV_LIST_HPU_O2 : low || full ? IV_LIST_TRUE : IV_LIST_HPU;
    if (p && strcmp(p, "32") == 0) r->policy.low = IV_F32;
    return IV_OK;
}

static const iv__policy_spec hpu_spec = {
    .name = hpu_name,
    .policy = IV_TYPES(F32, F32, F32, F32, BF16),
    .list = IV_LIST_HPU_O2,
    .adjust = choose,
    .about =
        "a policy by name: it runs on any device, and on an HPU when a backend plugin has one"};
IV_POLICY_VTABLE(hpu)
const iv_plugin iv__plugin_hpu =
    IV_POLICY_PLUGIN(hpu, "Habana's policies: bf16 by level (O2) or by lists of operators (O1)");
