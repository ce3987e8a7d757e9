/* policies.c: the precision plugins whose policy is a choice of types alone: 32-true, 64-true and
 * bf16-mixed.  bf16-mixed keeps f32 masters, gradients and optimizer state, and lowers matrix
 * products, convolutions and attention to bf16 (with f32 accumulation); no loss scale is needed,
 * since bf16 has f32's range. */
#include "../runtime/plugin.h"

typedef struct policy {
    iv_dtype full, low;
} policy;

static iv_dtype full_type(void *self)
{
    return ((const policy *)self)->full;
}

static iv_dtype low_type(void *self)
{
    return ((const policy *)self)->low;
}

static const iv_precision vtable = {.master = full_type, .compute = full_type, .low = low_type};

#define POLICY(id, full_t, low_t)                                                                  \
    static iv_status init_##id(const iv_host *host, const char *args, void **out_self)             \
    {                                                                                              \
        static policy p = {full_t, low_t};                                                         \
        if (*args)                                                                                 \
            return host->fail(IV_INVALID, "this precision takes no arguments, got '%s'", args);    \
        *out_self = &p;                                                                            \
        return IV_OK;                                                                              \
    }
#define DESCRIPTOR(id, text, about)                                                                \
    {                                                                                              \
        .abi = IV_PLUGIN_ABI, .size = sizeof(iv_plugin), .kind = IV_PLUGIN_PRECISION,              \
        .vtable_size = sizeof(iv_precision), .name = text, .version = "1", .summary = about,       \
        .vtable = &vtable, .init = init_##id                                                       \
    }
POLICY(f32, IV_F32, IV_F32)
POLICY(f64, IV_F64, IV_F64)
POLICY(bf16_mixed, IV_F32, IV_BF16)

const iv_plugin iv__plugin_f32 = DESCRIPTOR(f32, "32-true", "everything in f32");
const iv_plugin iv__plugin_f64 = DESCRIPTOR(f64, "64-true", "everything in f64");
const iv_plugin iv__plugin_bf16_mixed =
    DESCRIPTOR(bf16_mixed, "bf16-mixed",
               "matrix products, convolutions and attention in bf16; the rest in f32");
