/* plan.h: the executable form of a graph: a flat array of steps over arenas.
 *
 * Made once: implementations chosen, layouts (views) resolved, memory placed, kernels built.
 * Running it allocates nothing and decides nothing. */
#ifndef IV_PLAN_H
#define IV_PLAN_H

#include "lower.h"
#include "store.h"

/* Where a value's bytes are. */
typedef enum iv__arena {
    IV_ARENA_NONE,
    IV_ARENA_PARAM,
    IV_ARENA_GRAD,
    IV_ARENA_STATE,
    IV_ARENA_LOWERED,
    IV_ARENA_INPUT, /* inputs of the step and outputs that the host reads */
    IV_ARENA_TEMP,
    IV_ARENA_COUNT
} iv__arena;

/* A value's elements: those of `base`, from `offset`, by strides. */
typedef struct iv__layout {
    int32_t base;                /* value that owns the bytes */
    int64_t offset;              /* elements */
    int64_t stride[IV_MAX_RANK]; /* elements */
} iv__layout;

typedef struct iv__place {
    iv__arena arena;
    int64_t offset, bytes; /* in the arena */
    int32_t first, last;   /* TEMP: steps during which it is live */
} iv__place;

/* SEND and AWAIT begin and end a set of moves. */
typedef enum iv__step_kind {
    IV_STEP_LAUNCH,
    IV_STEP_CALL,
    IV_STEP_FILL,
    IV_STEP_SEND,
    IV_STEP_AWAIT
} iv__step_kind;

typedef struct iv__step {
    iv__step_kind kind;
    int32_t node;   /* of the graph, or -1 */
    char label[64]; /* "softmax_ff", "cpu.gemm", "elements:3" */
    /* LAUNCH */
    void *kernel;
    iv_launch launch;
    bool uses_rng; /* the last buffer is the plan's iv_uniforms */
    /* CALL */
    const iv_impl *impl;
    void *prepared;
    iv_buffer io[IV_NODE_INPUTS + IV_NODE_OUTPUTS + 1];
    /* values behind the buffers, for liveness and binding: n_values of launch.buf or io */
    int32_t n_values;
    int32_t values[IV_NODE_INPUTS + IV_NODE_OUTPUTS + 1];
    int64_t elem_offset[IV_NODE_INPUTS + IV_NODE_OUTPUTS + 1];
    int64_t set; /* SEND, AWAIT */
} iv__step;

/* Elements [at, at + count) of an arena, of which a rank keeps a part only (iv__share), and the
 * temporary through which they pass: elements from `skip` of a value.  PARAM and LOWERED: they come
 * from their owner.  GRAD: their sums of this pass go to their owner; -1: to every rank. */
typedef struct iv__move {
    iv__arena arena;
    int32_t value, owner;
    int64_t at, skip, count;
} iv__move;

/* Moves that travel together, all of parameters or all of sums, and the steps between which their
 * temporaries are needed. */
typedef struct iv__set {
    int64_t first, n; /* moves */
    int64_t send, await;
    int64_t due; /* while planning: the step that needs it, or has made it */
    bool sums;
} iv__set;

typedef struct iv__plan {
    iv__device *device;
    iv__store *store; /* borrowed */
    iv_graph *graph;  /* borrowed; passes have run */
    iv__step *steps;
    int64_t n_steps, cap_steps;
    iv__layout *layouts; /* [values] */
    iv__place *places;   /* [values] */
    int64_t cap_layouts, cap_places;
    iv__memory input_mem, temp_mem, uniform_mem;
    bool temp_borrowed;                             /* temp_mem belongs to another plan */
    int64_t input_bytes, temp_bytes, temp_unshared; /* temp_unshared: without reuse */
    iv__text notes;                                 /* per node: implementations refused and why */
    int64_t samples;                                /* first dimension of the inputs */
    iv__move *moves;
    iv__set *sets; /* in the order in which they are sent */
    int64_t n_moves, cap_moves, n_sets, cap_sets;
    int64_t passing; /* bytes of their temporaries, at most at once */
} iv__plan;

/* Builds the plan of a graph on which differentiate (if training), cast and fuse have run.  spare
 * (optional): a plan that never runs at the same time and lives longer: its temporaries' memory is
 * used again if it is large enough. */
iv_status iv__plan_new(iv__store *store, iv_graph *g, int64_t samples, const iv__plan *spare,
                       iv__plan **out);
void iv__plan_free(iv__plan *p);
/* Enqueues all steps; one step. */
iv_status iv__plan_run(iv__plan *p);
iv_status iv__plan_run_step(iv__plan *p, int64_t i);
/* The sets alone: for a rank that has no part in a pass of the others. */
iv_status iv__plan_serve(iv__plan *p);
/* Tells sets of moves, and the order of their steps, apart. */
uint64_t iv__plan_sets_hash(const iv__plan *p);
/* Writes an input by name (IV_INVALID if the graph has none); bytes of its planned type. */
iv_status iv__plan_write(iv__plan *p, int32_t value, const void *src);
/* Range of a value that the host reads or writes (inputs, outputs, parameters). */
iv_buffer iv__plan_range(const iv__plan *p, int32_t value);
iv_status iv__plan_uniforms(iv__plan *p, const iv_uniforms *u);
/* Table of steps, one a line, and memory by category. */
void iv__plan_print(const iv__plan *p, iv__text *t, bool refused);

/* memplan.c: places the TEMP values; returns the arena's size. */
int64_t iv__memplan(iv__place *places, int64_t n, int64_t *out_unshared);
/* choose.c: the first implementation of the device that takes node n, prepared; NULL: the portable
 * kernels.  Reasons of refusal are appended to p->notes. */
iv_status iv__plan_choose(iv__plan *p, const iv__node *n, const iv_op_desc *d, const iv_impl **out,
                          void **out_prepared, int64_t *out_scratch);

#endif
