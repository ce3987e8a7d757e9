/* workers.h: everybody who takes part in a step: the replicas of this process and those of all
 * other ranks.  A worker is a replica of a rank; workers are numbered by rank, then by replica.
 *
 * They share a step's grains in proportion to their speed.  That a step is shared changes none of
 * its bits (passes.h, reduce.h). */
#ifndef IV_WORKERS_H
#define IV_WORKERS_H

#include "reduce.h"
#include "replica.h"

typedef struct iv__workers {
    iv_cluster_info cluster;
    iv__comm *comm;
    iv__replica **replicas; /* of this rank */
    int64_t n_replicas;
    int64_t n, first; /* workers of all ranks; the first of this rank */
    int32_t *rank;    /* [n] */
    iv__span *span;   /* [n] grains */
    double *speed;    /* [n] grains per second, as last measured; equal at first */
    iv__reducer *reducer;
    void **parts;        /* host addresses of the sums of this rank's nodes, in order */
    iv__memory *staging; /* [n_staging]: nodes of devices whose memory the host cannot reach */
    int64_t n_parts, n_staging;
    void *out;          /* where the sums of all arrive; may be a part */
    iv__memory out_mem; /* `out`, if no device has its gradients in host memory */
    bool sharded;       /* each rank updates its own segment of the parameters */
    int64_t steps;      /* so far: says when speeds are measured and shares are dealt anew */
} iv__workers;

struct iv_trainer;
/* Finds the other ranks, opens this rank's devices, and deals the grains. */
iv_status iv__workers_open(struct iv_trainer *t, iv__workers *w);
void iv__workers_close(iv__workers *w);
/* All passes of this rank; then the sums of all workers are in the gradient arena of each replica
 * (sharded: its segments, statistics and loss). */
iv_status iv__workers_run(struct iv_trainer *t, iv__workers *w, const iv__feed *f);
/* Samples of the step that this rank computes. */
iv__span iv__workers_samples(const struct iv_trainer *t, const iv__workers *w);
/* Deals the grains anew, if measured speeds say that it pays.  Between steps; collective. */
iv_status iv__workers_balance(struct iv_trainer *t, iv__workers *w);

#endif
