/* policy.h: what the built-in precision plugins share.  Each is a file with a spec: the types, the
 * list of operators, the loss scaler, the options, and a function that looks at the request where
 * it has restrictions or levels. */
#ifndef IV_POLICY_H
#define IV_POLICY_H

#include "oplists.h"
#include "scaler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct iv__policy_spec iv__policy_spec;

/* An open policy. */
typedef struct iv__policy_run {
    const iv__policy_spec *spec;
    const iv_host *host;
    iv_policy policy;
    iv__oplist list;
    uint8_t classes[128]; /* file lists: class + 1 per row, 0: the list's; see hpu.c */
    iv__scaler scaler;
    int64_t overflows;
    void *extra; /* of the plugin; freed on close */
} iv__policy_run;

struct iv__policy_spec {
    const char *name;
    iv_policy policy;
    iv__oplist list;
    iv__scaler_kind scaler;
    /* Looks at options and restrictions of its own, after the shared ones.  NULL: none. */
    iv_status (*adjust)(iv__policy_run *r, const iv_precision_request *q);
    const char *about; /* lines for `invar plugins -v`, or NULL */
};

#define IV_TYPES(param_, full_, moment_, compute_, low_)                                           \
    {                                                                                              \
        .size = sizeof(iv_policy), .param = IV_##param_, .full = IV_##full_,                       \
        .moment = IV_##moment_, .compute = IV_##compute_, .low = IV_##low_                         \
    }

/* The option's text, or NULL. */
static inline const char *iv__option(const iv_precision_request *q, const char *name)
{
    return q->option ? q->option(q->ctx, name) : NULL;
}
/* Options as numbers and truth values; *out stays if the option is not given. */
iv_status iv__option_number(const iv__policy_run *r, const iv_precision_request *q,
                            const char *name, double least, double most, double *out);
iv_status iv__option_truth(const iv__policy_run *r, const iv_precision_request *q, const char *name,
                           bool *out);

/* Entries of the table of functions. */
iv_status iv__policy_open(void *self, const iv_precision_request *q, void **out_run);
void iv__policy_close(void *run);
void iv__policy_get(void *run, iv_policy *out);
iv_cast_class iv__policy_class(void *run, const char *op, iv_cast_class fallback);
double iv__policy_scale(void *run);
iv_verdict iv__policy_judge(void *run, double grad_norm, bool found_nonfinite);
size_t iv__policy_save(void *run, char *dst, size_t size);
iv_status iv__policy_load(void *run, const char *src, size_t size);
size_t iv__policy_describe(void *run, char *dst, size_t size);
/* What init returns: the spec and the host's services. */
typedef struct iv__policy_self {
    const iv__policy_spec *spec;
    const iv_host *host;
} iv__policy_self;

/* Rows for tables of options. */
#define IV_OPTIONS_LIST                                                                            \
    {                                                                                              \
        "ops", "list of operators: default, cuda, cpu, hpu, hpu-o2, apex, true"                    \
    }
#define IV_OPTIONS_TRUE                                                                            \
    {"masters", "true: parameters and moments are kept in f32, the model sees a 16-bit copy"},     \
    {                                                                                              \
        "rounding", "of updated 16-bit parameters: nearest or stochastic"                          \
    }
#define IV_OPTIONS_SCALE                                                                           \
    {"scale", "loss scale: dynamic, or a number that stays"},                                      \
        {"init_scale", "dynamic scale at the start"}, {"growth", "factor when the scale grows"},   \
        {"backoff", "factor at an overflow"},                                                      \
        {"window", "steps without overflow before it grows"},                                      \
        {"hysteresis", "overflows in a row before it falls (scalers zero and hysteresis)"},        \
        {"min_scale", "lower bound; 0: none"}, {"max_scale", "upper bound; 0: none"},              \
    {                                                                                              \
        "scaler", "algorithm: grad, apex, zero, fused or hysteresis"                               \
    }

/* The table of functions of plugin `id`, with its table of options and a `describe`. */
#define IV_POLICY_TABLE(id, describe_)                                                             \
    {                                                                                              \
        .options = id##_options, .open = iv__policy_open, .close = iv__policy_close,               \
        .policy = iv__policy_get, .classify = iv__policy_class, .loss_scale = iv__policy_scale,    \
        .on_grads = iv__policy_judge, .save = iv__policy_save, .load = iv__policy_load,            \
        .describe = (describe_),                                                                   \
    }
/* Defines the table and the descriptor's `init` of the plugin `id`, from its spec. */
#define IV_POLICY_VTABLE(id)                                                                       \
    static const iv_precision id##_vtable = IV_POLICY_TABLE(id, iv__policy_describe);              \
    IV_POLICY_INIT(id)
#define IV_POLICY_INIT(id)                                                                         \
    static iv_status id##_init(const iv_host *host, const char *args, void **out_self)             \
    {                                                                                              \
        static iv__policy_self self = {&id##_spec, NULL};                                          \
        (void)args;                                                                                \
        self.host = host;                                                                          \
        *out_self = &self;                                                                         \
        return IV_OK;                                                                              \
    }
#define IV_POLICY_PLUGIN(id, text)                                                                 \
    {                                                                                              \
        .abi = IV_PLUGIN_ABI, .size = sizeof(iv_plugin), .kind = IV_PLUGIN_PRECISION,              \
        .vtable_size = sizeof(iv_precision), .name = id##_name, .version = "1", .summary = text,   \
        .vtable = &id##_vtable, .init = id##_init                                                  \
    }

#endif
