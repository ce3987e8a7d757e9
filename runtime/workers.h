/* workers.h: everybody who takes part in a step: the replicas of this process and those of all
 * other ranks.  A worker is a replica of a rank; workers are numbered by rank, then by replica.
 *
 * They share a step's grains in proportion to their speed.  That a step is shared changes none of
 * its bits (passes.h, reduce.h). */
#ifndef IV_WORKERS_H
#define IV_WORKERS_H

#include "pieces.h"
#include "reduce.h"
#include "replica.h"

struct iv_trainer;
typedef struct iv__workers {
    iv_cluster_info cluster;
    iv__comm *comm;
    iv__replica **replicas; /* of this rank */
    int64_t n_replicas;
    int64_t n, first; /* workers of all ranks; the first of this rank */
    int32_t *rank;    /* [n] */
    iv__span *span;   /* [n] grains */
    double *speed;    /* [n] grains per second, as last measured; equal at first */
    bool fixed;       /* speeds are device.shares: nothing is measured */
    iv__reducer *reducer;
    void **parts;        /* host addresses of the sums of this rank's nodes, in order */
    iv__memory *staging; /* [n_staging]: nodes of devices whose memory the host cannot reach */
    int64_t n_parts, n_staging;
    void *out;            /* where the sums of all arrive; may be a part */
    iv__memory out_mem;   /* `out`, if no device has its gradients in host memory */
    bool sharded;         /* each rank updates its own part of the parameters */
    iv__memory gradients; /* of all ranks, where they are tracked and a rank keeps its part */
    bool tracked;         /* sharded, and every rank gets all gradients (train.track_norm) */
    iv__share share;      /* what this rank keeps */
    iv__pieces *pieces;   /* where plans have sets of sums */
    bool may_overlap;
    int64_t reduced_ns;   /* in the reducer, so far */
    bool overlaps;        /* sums of the step are added by them, and not by the reducer */
    iv__part *shared;     /* [world]: scratch */
    bool unsharded;       /* the first store has the parts of all ranks */
    iv__memory shards[3]; /* this rank's parts meanwhile */
    int64_t steps; /* passed, or the one under way: says when speeds are measured and shares are
                      dealt anew */
} iv__workers;

/* workers_shard.c: runs in which each rank updates its own part of the parameters.  Where nothing
 * is sharded, all of this does nothing. */
int64_t iv__shard_segments(const iv__store *s, int32_t world, iv__segment *out);
/* Sums of blocks of the norm, and updated parameters, of every rank come to every rank; gradients
 * too where norms of each are tracked. */
iv_status iv__workers_share_blocks(iv__workers *w);
iv_status iv__workers_share_gradients(iv__workers *w);
iv_status iv__workers_share_params(iv__workers *w);
/* For saving and loading: the first store gets room for the moments (and parameters, stage 3) of
 * all ranks.  IV_UNSHARD_ROOT: on rank 0, with their values; EVERY: on every rank, with their
 * values; EMPTY: on every rank.  IV_RESHARD_* ends it: KEEP drops what is there, TAKE puts this
 * rank's part back, TAKE_PARAMS that of the parameters. */
typedef enum iv__unshard { IV_UNSHARD_ROOT, IV_UNSHARD_EVERY, IV_UNSHARD_EMPTY } iv__unshard;
typedef enum iv__reshard { IV_RESHARD_KEEP, IV_RESHARD_TAKE, IV_RESHARD_TAKE_PARAMS } iv__reshard;
iv_status iv__workers_unshard(struct iv_trainer *t, iv__workers *w, iv__unshard how);
iv_status iv__workers_reshard(struct iv_trainer *t, iv__workers *w, iv__reshard how);
/* The same on every rank. */
iv_status iv__workers_hash(struct iv_trainer *t, iv__workers *w, bool optimizer_state,
                           char out_hex[33]);

/* Finds the other ranks, opens this rank's devices, and deals the grains. */
iv_status iv__workers_open(struct iv_trainer *t, iv__workers *w);
void iv__workers_close(iv__workers *w);
/* The kind of this rank's first device ("cpu"). */
void iv__workers_kind(const struct iv_trainer *t, char *out, size_t size);
/* All passes of this rank; then the sums of all workers are in the gradient arena of each replica
 * (sharded: its segments, statistics and loss). */
iv_status iv__workers_run(struct iv_trainer *t, iv__workers *w, const iv__feed *f);
/* Nanoseconds so far in which this rank did nothing but take part in the exchange of a pass. */
int64_t iv__workers_waited(const iv__workers *w);
/* Samples of the step that this rank computes. */
iv__span iv__workers_samples(const struct iv_trainer *t, const iv__workers *w);
/* After IV_LOST: the workers that are left share the step. */
iv_status iv__workers_again(struct iv_trainer *t, iv__workers *w);
/* Every rank has a memory of n bytes, and gets that of rank `from`; `memory` is one of the first
 * replica's store. */
iv_status iv__workers_copy_from(iv__workers *w, int32_t from, const iv__memory *memory);
/* Deals the grains anew, if measured speeds say that it pays.  Before a step; collective. */
iv_status iv__workers_balance(struct iv_trainer *t, iv__workers *w);

#endif
