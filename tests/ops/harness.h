/* harness.h: from a small graph to numbers: what every operator test shares.
 *
 *   rig_open ─ build nodes in rig.g ─ rig_compile ─ rig_write ... rig_run ─ rig_read
 *
 * A rig is one graph with its store and plan under one precision policy, on a device that the test
 * opened.  Values go in and come out as f64; what is written is rounded to nearest even to the type
 * the plan gave the value.  Policies that run *everything* in a 16-bit type (also sums, norms,
 * losses) are made here, so that every kernel is met in every type it has, and "true" ones, whose
 * graph sees the 16-bit type while the operators' classes stay. */
#ifndef IV_TEST_OPS_HARNESS_H
#define IV_TEST_OPS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plan.h"
#include "registry.h"
#include "rng.h"

#include <math.h>

/* The call succeeds; its text is shown if not. */
#define WORKS(call)                                                                                \
    do {                                                                                           \
        if ((call) != IV_OK) fail_msg("%s\n  gave \"%s\"", #call, iv_error_message());             \
    } while (0)
/* The call fails with this status and its text contains `part`. */
#define FAILS(status, part, call)                                                                  \
    do {                                                                                           \
        iv_status got_ = (call);                                                                   \
        if (got_ != (status) || !strstr(iv_error_message(), (part)))                               \
            fail_msg("%s\n  gave \"%s\" (%s)\n  expected \"%s\" (%s)", #call, iv_error_message(),  \
                     iv_status_name(got_), (part), iv_status_name(status));                        \
    } while (0)

/* ---- policies ---- */

typedef struct op_policy {
    const char *name, *plugin; /* plugin NULL: of this file; masters f32, inputs `low` */
    iv_dtype low;
    double unit,
        sum_unit; /* half a unit in the last place at 1: of storage, and of what sums are kept in */
    bool all;     /* every operator in `low` */
} op_policy;

enum {
    P_F64,
    P_F32,
    P_BF16,
    P_F16,
    P_BF16_MIXED,
    P_BF16_TRUE,
    P_F16_TRUE,
    P_COUNT,
    P_FP8 = P_COUNT,
    P_INT8,
    P_NF4,
    P_ALL
}; /* behind P_COUNT: test_few_bits.c's */
static const op_policy policies[P_ALL] = {
    [P_F64] = {"f64", "64-true", IV_F64, 0x1p-53, 0x1p-53, false},
    [P_F32] = {"f32", "32-true", IV_F32, 0x1p-24, 0x1p-24, false},
    [P_BF16] = {"all bf16", NULL, IV_BF16, 0x1p-8, 0x1p-24, true},
    [P_F16] = {"all f16", NULL, IV_F16, 0x1p-11, 0x1p-24, true},
    [P_BF16_MIXED] = {"bf16-mixed", "bf16-mixed", IV_BF16, 0x1p-8, 0x1p-24, false},
    [P_BF16_TRUE] = {"bf16-true", NULL, IV_BF16, 0x1p-8, 0x1p-24, false},
    [P_F16_TRUE] = {"f16-true", NULL, IV_F16, 0x1p-11, 0x1p-24, false},
    [P_FP8] = {"fp8", "fp8", IV_BF16, 0x1p-8, 0x1p-24, false},
    [P_INT8] = {"int8", "int8", IV_BF16, 0x1p-8, 0x1p-24, false},
    [P_NF4] = {"nf4", "nf4", IV_BF16, 0x1p-8, 0x1p-24, false},
};

static inline void own_types(void *self, iv_policy *out)
{
    out->compute = out->low = ((const op_policy *)self)->low;
}

static inline iv_cast_class all_lower(void *self, const char *op, iv_cast_class fallback)
{
    (void)op;
    return ((const op_policy *)self)->all ? IV_CAST_LOWER : fallback;
}

static const iv_precision own_policy = {.policy = own_types, .classify = all_lower};

/* ---- numbers ---- */

static inline uint64_t next_bits(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [lo, hi). */
static inline double next_in(uint64_t *state, double lo, double hi)
{
    return lo + (hi - lo) * (double)(next_bits(state) >> 11) * 0x1p-53;
}

static inline double rounded(iv_dtype t, double x)
{
    if (t == IV_F32) return (double)(float)x;
    if (t == IV_BF16) return (double)iv_from_bf16(iv_to_bf16(iv_narrow(x)));
    if (t == IV_F16) return (double)iv_from_f16(iv_to_f16(iv_narrow(x)));
    return x;
}

static inline void pack(iv_dtype t, const double *x, int64_t n, void *out)
{
    for (int64_t i = 0; i < n; ++i) switch (t) {
        case IV_F64: ((double *)out)[i] = x[i]; break;
        case IV_F32: ((float *)out)[i] = (float)x[i]; break;
        case IV_BF16: ((uint16_t *)out)[i] = iv_to_bf16(iv_narrow(x[i])); break;
        case IV_F16: ((uint16_t *)out)[i] = iv_to_f16(iv_narrow(x[i])); break;
        default: ((int32_t *)out)[i] = (int32_t)x[i]; break;
        }
}

static inline void unpack(iv_dtype t, const void *from, int64_t n, double *out)
{
    for (int64_t i = 0; i < n; ++i) switch (t) {
        case IV_F64: out[i] = ((const double *)from)[i]; break;
        case IV_F32: out[i] = (double)((const float *)from)[i]; break;
        case IV_BF16: out[i] = (double)iv_from_bf16(((const uint16_t *)from)[i]); break;
        case IV_F16: out[i] = (double)iv_from_f16(((const uint16_t *)from)[i]); break;
        default: out[i] = (double)((const int32_t *)from)[i]; break;
        }
}

/* ---- devices ---- */

/* filter: as INVAR_IMPL, or NULL.  invariant: only canonical implementations. */
static inline iv__device *device_open(int32_t threads, const char *isa, bool invariant,
                                      const char *filter)
{
    iv__device *d = NULL;
    WORKS(iv__device_open("cpu:0", &(iv_backend_options){.threads = threads, .isa = isa}, invariant,
                          &d));
    if (filter) d->impl_filter = filter;
    return d;
}

/* ---- rigs ---- */

typedef struct rig {
    iv__device *device; /* borrowed */
    const op_policy *policy;
    iv_graph *g;
    iv__store *store;
    iv__plan *plan;
    bool wild;       /* inputs get zeros of both signs, denormals and other extremes */
    bool params;     /* the cases' float inputs are parameters */
    bool keep_casts; /* leave out the pass that absorbs casts */
} rig;

static inline void rig_open(rig *r, iv__device *d, int policy, int64_t grains)
{
    *r = (rig){.device = d, .policy = &policies[policy]};
    WORKS(iv_graph_new(&r->g));
    iv_graph_set_grains(r->g, grains);
}

static inline void rig_close(rig *r)
{
    iv__plan_free(r->plan);
    iv__store_free(r->store);
    iv_graph_free(r->g);
    *r = (rig){0};
}

/* The policy, open. */
static inline iv__precision rig_precision(const rig *r)
{
    iv__precision p = {.vt = &own_policy};
    op_policy *own;
    if (r->policy->plugin) {
        WORKS(iv__precision_start(r->policy->plugin, NULL, "cpu", &p));
        return p;
    }
    memcpy(&own, &r->policy, sizeof(own)); /* only read */
    p.run = own;
    p.policy = (iv_policy){sizeof(iv_policy), IV_F32, IV_F32, IV_F32, IV_F32, IV_F32, 0, 0, 0};
    own_policy.policy(own, &p.policy);
    return p;
}

/* Differentiates if there is a loss: then gradients[i] of wanted[i] become outputs "d0", "d1", ...
 */
static inline void rig_differentiate(rig *r, const iv_value *wanted, int32_t n)
{
    char name[16];
    WORKS(iv_graph_differentiate(r->g));
    for (int32_t i = 0; i < n; ++i) {
        if (wanted[i].id < 0 || !iv_dtype_is_float(iv_value_dtype(r->g, wanted[i]))) continue;
        iv_value d = iv_graph_gradient(r->g, wanted[i]);
        if (d.id < 0) fail_msg("input %d has no gradient", i);
        snprintf(name, sizeof(name), "d%d", i);
        iv_graph_set_output(r->g, name, d);
    }
}

/* The passes before fusing, as trainer.c runs them. */
static inline iv_status rig_cast(rig *r)
{
    IV_TRY(iv_graph_status(r->g));
    IV_TRY(iv__graph_prune(r->g));
    iv__precision p = rig_precision(r);
    iv_status s = iv__graph_cast(r->g, &p);
    iv__precision_close(&p);
    IV_TRY(s);
    if (!r->keep_casts) IV_TRY(iv__graph_absorb(r->g));
    return iv__graph_prune(r->g);
}

/* Fuses, makes store and plan. */
static inline iv_status rig_plan(rig *r, int64_t samples)
{
    IV_TRY(iv__graph_fuse(r->g));
    iv__precision p = rig_precision(r);
    iv_status s = iv__store_new(r->device, r->g, &p.policy, 1, 0, false, &r->store);
    iv__precision_close(&p);
    IV_TRY(s);
    return iv__plan_new(r->store, r->g, samples, NULL, &r->plan);
}

static inline iv_status rig_compile(rig *r, int64_t samples)
{
    IV_TRY(rig_cast(r));
    return rig_plan(r, samples);
}

/* Writes an input, a parameter or a state. */
static inline void rig_write(rig *r, iv_value v, const double *x)
{
    const iv__value *value = &r->g->values[v.id];
    int64_t n = iv_shape_count(&value->shape);
    void *host = malloc((size_t)n * 8);
    assert_non_null(host);
    if (value->role == IV_ROLE_INPUT) {
        pack(value->dtype, x, n, host);
        WORKS(iv__plan_write(r->plan, v.id, host));
    } else { /* the store keeps masters, whatever the graph sees */
        bool param = value->role == IV_ROLE_PARAM;
        const iv__slot *slots = param ? r->store->params : r->store->states;
        int64_t i =
            iv__store_find(slots, param ? r->store->n_params : r->store->n_states, value->name);
        pack(r->store->type, x, n, host);
        WORKS(iv__device_write(r->device,
                               iv__slot_range(param ? &r->store->param_mem : &r->store->state_mem,
                                              &slots[i], r->store->type),
                               host));
    }
    free(host);
}

static inline void rig_run(rig *r)
{
    double one = 1;
    if (r->g->seed >= 0) rig_write(r, (iv_value){r->g->seed}, &one);
    WORKS(iv__store_lower(r->store));
    WORKS(iv__plan_uniforms(r->plan, &(iv_uniforms){.seed = 7, .step = 3, .first_sample = 5}));
    WORKS(iv__plan_run(r->plan));
    WORKS(r->device->vt->sync(r->device->queue));
}

static inline int32_t rig_output(const rig *r, const char *name)
{
    for (int32_t i = 0; i < r->g->n_outputs; ++i)
        if (strcmp(r->g->outputs[i].name, name) == 0) return r->g->outputs[i].value;
    return -1;
}

/* Bytes of an output (the caller frees), with their number; NULL if there is none of that name. */
static inline void *rig_bytes(rig *r, const char *name, int64_t *out_bytes)
{
    int32_t v = rig_output(r, name);
    if (v < 0) return NULL;
    iv_buffer b = iv__plan_range(r->plan, v);
    *out_bytes = b.bytes =
        iv_shape_count(&r->g->values[v].shape) * (int64_t)iv_dtype_bytes(r->g->values[v].dtype);
    void *host = malloc((size_t)b.bytes);
    assert_non_null(host);
    WORKS(iv__device_read(r->device, host, b));
    return host;
}

/* An output as f64 (the caller frees); *out_n: elements. */
static inline double *rig_read(rig *r, const char *name, int64_t *out_n)
{
    int64_t bytes = 0;
    void *host = rig_bytes(r, name, &bytes);
    if (!host) fail_msg("there is no output '%s'", name);
    iv_dtype t = r->g->values[rig_output(r, name)].dtype;
    *out_n = bytes / (int64_t)iv_dtype_bytes(t);
    double *x = malloc((size_t)*out_n * sizeof(*x));
    assert_non_null(x);
    unpack(t, host, *out_n, x);
    free(host);
    return x;
}

/* A parameter's gradient from the arena, as f64 (the caller frees). */
static inline double *rig_gradient(rig *r, const char *param)
{
    int64_t i = iv__store_find(r->store->params, r->store->n_params, param);
    if (i < 0) fail_msg("there is no parameter '%s'", param);
    const iv__slot *slot = &r->store->params[i];
    double *x = malloc((size_t)slot->count * sizeof(*x));
    void *host = malloc((size_t)slot->count * sizeof(double));
    assert_true(x && host);
    WORKS(iv__device_read(r->device, host,
                          iv__slot_range(&r->store->grad_mem, slot, r->store->type)));
    unpack(r->store->type, host, slot->count, x);
    free(host);
    return x;
}

/* FNV-1a over the bytes of all outputs, in order: equal bits, equal hash. */
static inline uint64_t rig_hash(rig *r)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int32_t i = 0; i < r->g->n_outputs; ++i) {
        int64_t n = 0;
        uint8_t *x = rig_bytes(r, r->g->outputs[i].name, &n);
        for (int64_t k = 0; k < n; ++k) h = (h ^ x[k]) * 0x100000001b3u;
        free(x);
    }
    return h;
}

#endif
