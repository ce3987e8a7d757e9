/* oplists.c: the lists of autocast, as a table (see oplists.h).  Operators that a system does not
 * know have the class of the nearest one that it does: rmsnorm that of layernorm. */
#include "oplists.h"

#include <stdio.h>
#include <string.h>

enum { L = IV_CAST_LOWER, F = IV_CAST_F32, W = IV_CAST_WIDEST, K = IV_CAST_KEEP, D = 255 };

static const char *const list_names[IV_LIST_COUNT] = {"default", "cuda", "cpu", "hpu",
                                                      "hpu-o2",  "apex", "true"};

/* D: the class of ops.def.  Columns after cuda: cpu, hpu, hpu-o2, apex, true. */
static const struct {
    const char *op;
    uint8_t cls[IV_LIST_COUNT];
} table[] = {
    /*                    default cuda cpu hpu o2 apex true */
    {"matmul", {D, L, L, L, L, L, L}},     {"conv2d", {D, L, L, L, L, L, L}},
    {"attention", {D, L, L, L, L, L, L}},  {"cross_entropy_rows", {D, F, F, F, F, F, F}},
    {"softmax", {D, F, K, L, F, F, K}},    {"log_softmax", {D, F, K, L, F, F, K}},
    {"layernorm", {D, F, K, L, F, F, K}},  {"rmsnorm", {D, F, K, L, F, F, K}},
    {"batchnorm", {D, K, K, L, F, K, K}},  {"sum", {D, F, K, K, F, F, K}},
    {"max", {D, K, K, K, F, K, K}},        {"embedding", {D, K, K, F, F, K, K}},
    {"dropout", {D, K, K, L, F, K, K}},    {"gelu", {D, K, K, K, F, F, K}},
    {"gelu_tanh", {D, K, K, K, F, F, K}},  {"relu", {D, K, K, K, F, K, K}},
    {"silu", {D, K, K, K, F, K, K}},       {"sigmoid", {D, K, K, K, F, K, K}},
    {"tanh", {D, K, K, K, F, K, K}},       {"exp", {D, F, K, F, F, F, K}},
    {"log", {D, F, K, F, F, F, K}},        {"pow", {D, F, K, F, F, F, K}},
    {"sqrt", {D, K, K, K, F, K, K}},       {"rsqrt", {D, F, K, K, F, F, K}},
    {"sin", {D, K, K, K, F, K, K}},        {"cos", {D, K, K, K, F, K, K}},
    {"mul", {D, W, W, L, F, W, W}},        {"add", {D, W, W, W, F, W, W}},
    {"sub", {D, W, W, W, F, W, W}},        {"div", {D, W, W, F, F, W, W}},
    {"maximum", {D, W, W, W, F, W, W}},    {"minimum", {D, W, W, W, F, W, W}},
    {"concat", {D, W, W, W, W, W, W}},     {"max_pool2d", {D, K, K, K, F, K, K}},
    {"avg_pool2d", {D, K, K, K, F, K, K}}, {"scale", {D, K, K, K, F, K, K}},
    {"add_scalar", {D, K, K, K, F, K, K}}, {"neg", {D, K, K, K, F, K, K}},
    {"abs", {D, K, K, K, F, K, K}},
};
enum { ROWS = sizeof(table) / sizeof(table[0]) };

iv__oplist iv__oplist_find(const char *name)
{
    for (int i = 0; i < IV_LIST_COUNT; ++i)
        if (strcmp(list_names[i], name) == 0) return (iv__oplist)i;
    return IV_LIST_COUNT;
}

const char *iv__oplist_name(iv__oplist list)
{
    return list_names[list];
}

/* What of "layernorm_wgrad" names the operator. */
static size_t operator_length(const char *op)
{
    static const char *const tails[] = {"_grad", "_wgrad", "_dgrad", "_running"};
    size_t n = strlen(op);
    for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); ++i) {
        size_t m = strlen(tails[i]);
        if (n > m && strcmp(op + n - m, tails[i]) == 0) return n - m;
    }
    return n;
}

static int row_of(const char *op, size_t n)
{
    for (int i = 0; i < ROWS; ++i)
        if (strlen(table[i].op) == n && strncmp(table[i].op, op, n) == 0) return i;
    return -1;
}

int iv__oplist_row(const char *op)
{
    return row_of(op, operator_length(op));
}

iv_cast_class iv__oplist_class(iv__oplist list, const char *op, iv_cast_class fallback)
{
    /* The gradient of a table's rows is a sum over all samples: wide, whatever the list. */
    if (list == IV_LIST_DEFAULT || strcmp(op, "embedding_grad") == 0) return fallback;
    int i = iv__oplist_row(op);
    if (i < 0 || table[i].cls[list] == D) return fallback;
    return (iv_cast_class)table[i].cls[list];
}

size_t iv__oplist_text(char *dst, size_t size)
{
    static const char *const words[] = {[L] = "low", [F] = "f32", [W] = "widest", [K] = "keep"};
    size_t at = 0;
#define PUT(...)                                                                                   \
    at += (size_t)snprintf(at < size ? dst + at : NULL, at < size ? size - at : 0, __VA_ARGS__)
    PUT("%-18s", "ops=");
    for (int k = IV_LIST_DEFAULT + 1; k < IV_LIST_COUNT; ++k)
        PUT(" %-*s", k + 1 < IV_LIST_COUNT ? 6 : 0, list_names[k]);
    for (int i = 0; i < ROWS; ++i) {
        PUT("\n%-18s", table[i].op);
        for (int k = IV_LIST_DEFAULT + 1; k < IV_LIST_COUNT; ++k)
            PUT(" %-*s", k + 1 < IV_LIST_COUNT ? 6 : 0, words[table[i].cls[k]]);
    }
#undef PUT
    return at + 1;
}
