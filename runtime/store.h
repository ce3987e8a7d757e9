/* store.h: what lives as long as a training run: parameters, gradients, optimizer state, lowered
 * copies and running statistics, each one contiguous arena in device memory.
 *
 *   params   | w0 ....| w1 ..| w2 ........|     in the order of their names, each at a
 *   grads    | same layout                |..   multiple of 64 elements, the gap behind it zero
 *   moments  | same layout, 0 to 2 times  |
 *   lowered  | same layout, 16-bit        |     made by one launch after each update
 *
 * Behind the gradients lies whatever else is a sum over the samples of a step, so that one range is
 * added up over passes, devices and ranks:
 *
 *   grads    | gradients | summands of gradients | statistics, laid out as states | loss | amax |
 *
 * amax, the largest magnitudes of tensors that are rounded to 8-bit floats, is not added: the
 * larger one stays, the same however the step is cut.
 *
 * So optimizer, norm, reduction, sharding and checkpoints are operations on ranges.
 *
 * Of a sharded run a rank keeps a range of the parameters and what belongs to it (iv__share):
 *
 *   moments  | of the range |                                                   stage 1
 *   grads    | of the range | of its summands | statistics | loss | amax |      stage 2
 *   params, lowered | of the range |                                            stage 3
 *
 * What is not kept passes through temporaries of the plan (plan_sets.c). */
#ifndef IV_STORE_H
#define IV_STORE_H

#include "device.h"
#include "graph.h"
#include "passes.h"

typedef struct iv__slot {
    char *name;
    iv_shape shape;
    iv_init init;
    int64_t offset, count; /* elements */
    int64_t summand_of;    /* summands: the parameter's index */
    int64_t own, n_own;    /* summands: elements that this rank adds up, from `own` of the slot, */
    int64_t own_at;        /* at this element of grad_mem */
    double rate;           /* states: of following their statistic */
    bool decay;            /* rank 2 and more: bit 0 of its groups */
} iv__slot;

/* What of a run a rank keeps, as ZeRO numbers it (Rajbhandari and others, 2020): of part `part` of
 * `parts` alone, 1: the optimizer's state, 2: gradients too, 3: parameters too; 0: everything. */
typedef struct iv__share {
    int32_t part, parts, stage;
    int32_t ranks; /* that add sums as they come, in sets of the plan; else they do so behind it */
} iv__share;

typedef struct iv__store {
    iv__device *device;
    iv_dtype type;                    /* of gradients and statistics: f32 or f64 */
    iv_dtype param_type, moment_type; /* 16-bit in policies without masters */
    iv__slot *params, *states;
    iv__slot *summands; /* parts of gradients (iv__graph_split_gradients), behind the others in
                           grad_mem */
    int64_t n_params, n_states, n_summands;
    int64_t param_elems, state_elems, grad_elems; /* arena sizes in elements */
    int64_t stat_at, loss_at, amax_at;            /* elements of the gradient arena */
    int64_t n_amax;                               /* behind amax_at */
    /* The range of parameters that this rank updates: whole blocks of the norm.  Moments are kept
     * of it alone.  Everything, unless the run is sharded. */
    int64_t shard_at, shard_elems;
    iv__share share;
    struct iv__pieces *pieces; /* borrowed; NULL unless the plans' sets move something */
    int32_t n_moments;
    iv__memory param_mem, grad_mem, state_mem, moment_mem[2], group_mem, rate_mem;
    void *running_kernel, **summand_kernels; /* [n_summands] */
    iv__memory lowered_mem;                  /* one low type per run */
    iv_dtype lowered_type;
    void *lower_kernel;
} iv__store;

/* Makes the arenas for the parameters and states of a differentiated, cast graph, with initial
 * values: Philox(seed, stream IV__STREAM_INIT + index << 8).  moments: 0 to 2.  decay_all: bit 0 of
 * all groups. */
iv_status iv__store_new(iv__device *d, const iv_graph *g, const iv_policy *policy, uint64_t seed,
                        int32_t moments, bool decay_all, iv__store **out);
/* The same for a part (shard_at, shard_elems). */
iv_status iv__store_new_part(iv__device *d, const iv_graph *g, const iv_policy *policy,
                             uint64_t seed, int32_t moments, bool decay_all, iv__share share,
                             iv__store **out);
/* Where grad_mem has element i of the gradient arena, which is this rank's own. */
int64_t iv__store_sum_at(const iv__store *s, int64_t i);
/* The range of the parameters that param_mem and lowered_mem have. */
static inline int64_t iv__store_first(const iv__store *s)
{
    return s->share.stage >= 3 ? s->shard_at : 0;
}
/* Elements of the gradients that grad_mem has, from its beginning. */
static inline int64_t iv__store_held_sums(const iv__store *s)
{
    return s->share.stage >= 2 ? s->shard_elems : s->param_elems;
}
static inline int64_t iv__store_held(const iv__store *s)
{
    return s->share.stage >= 3 ? s->shard_elems : s->param_elems;
}
/* Where part `part` of n elements begins: whole blocks of 4096, as even as they can be. */
int64_t iv__store_cut(int64_t n, int32_t part, int32_t parts);
/* What of parameter p's slot, its gap included, that part has: elements of the slot. */
iv__span iv__store_owned(const iv__store *s, const iv__slot *p, int32_t part, int32_t parts);
/* The element type of one of the store's arenas. */
iv_dtype iv__store_type(const iv__store *s, const iv__memory *m);
void iv__store_free(iv__store *s);
/* Element i of a parameter that starts as `init` says, as f64 (what kernels/init.k writes).  Normal
 * numbers by Box and Muller (1958). */
double iv__initial_value(iv_init init, uint64_t seed, uint32_t stream, uint64_t i);
/* The lowered arena in type t, made on first use.  IV_UNSUPPORTED if another type is in use. */
iv_status iv__store_lowered(iv__store *s, iv_dtype t);
/* Refreshes the lowered arena from the masters. */
iv_status iv__store_lower(iv__store *s);
/* c = a + b over n elements: the addition of partial sums. */
iv_program iv__store_add_program(iv_dtype type, int64_t n);
/* c = the larger one of a and b, or NaN: what becomes of the largest magnitudes. */
iv_program iv__store_max_program(iv_dtype type, int64_t n);
/* Adds the summands of gradients to the gradients that they are parts of: each is a sum over all
 * samples; they are added in the order in which a single pass adds them. */
iv_status iv__store_add_summands(iv__store *s);
/* Running statistics follow the sums over a step's grains. */
iv_status iv__store_follow(iv__store *s, int64_t grains);
int64_t iv__store_find(const iv__slot *slots, int64_t n, const char *name); /* -1: none */
/* Ranges of a slot. */
static inline iv_buffer iv__slot_range(const iv__memory *m, const iv__slot *slot, iv_dtype t)
{
    int64_t b = (int64_t)iv_dtype_bytes(t);
    return iv__memory_range(m, slot->offset * b, slot->count * b);
}
/* XXH3-128 over name, type, shape and bytes of each slot, in order of the names. */
iv_status iv__store_hash(iv__store *s, bool optimizer_state, char out_hex[33]);

#endif
