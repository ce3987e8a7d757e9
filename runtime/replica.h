/* replica.h: one device's copy of the model, and its part of a step.
 *
 * A replica has a device, a store, an optimizer and a program for each size of a pass.  It runs the
 * passes of its range of grains (passes.h) and adds their sums by the tree over grains.  How many
 * passes there are, because of --accumulate, several devices, ranks or uneven shares, is known to
 * nothing else. */
#ifndef IV_REPLICA_H
#define IV_REPLICA_H

#include "optim.h"
#include "passes.h"
#include "plan.h"

/* One executable for a number of samples. */
typedef struct iv__program {
    iv_graph *graph;
    iv__plan *plan;
    iv_model_io io;
    int64_t batch, grains;
    int32_t loss, logits; /* values the host reads */
} iv__program;

typedef struct iv__replica {
    iv__device *device;
    iv__store *store;
    iv__optim *optim;
    iv__program *programs; /* for training, the largest first */
    int64_t n_programs, cap_programs;
    iv__span range; /* of grains */
    iv__pass *passes;
    int64_t n_passes, cap_passes;
    /* Sums that are left after the passes: those of node i wait in slot i, those of the last node
     * in the store's gradient arena. */
    iv__span nodes[IV__NODES_MOST];
    int64_t n_nodes;
    iv__memory slots[IV__NODES_MOST];
    void *add_kernel, *max_kernel; /* max_kernel: NULL where nothing is compared */
    double seconds;                /* that its passes took, over `grains_timed` grains */
    int64_t grains_timed;
} iv__replica;

/* The samples of a step, on the host: all of them, of which a replica reads its own. */
typedef struct iv__feed {
    const char *x;    /* [global batch, sample] */
    const int32_t *y; /* [global batch, targets] */
    double norm;      /* targets that count in the step */
    double scale;     /* of the loss */
    uint64_t seed, step;
} iv__feed;

struct iv_trainer;
/* Opens a device, makes programs for a range of grains, store and optimizer. */
iv_status iv__replica_open(struct iv_trainer *t, const char *device, iv__span range,
                           iv__replica **out);
void iv__replica_close(iv__replica *r);
/* Gives the replica a range of grains: its passes, and the programs and slots that they need. */
iv_status iv__replica_deal(struct iv_trainer *t, iv__replica *r, iv__span range);
/* Enqueues all passes. */
iv_status iv__replica_run(struct iv_trainer *t, iv__replica *r, const iv__feed *f);
/* The program that ran last in a step. */
iv__program *iv__replica_last(iv__replica *r);
/* The sums of node i. */
const iv__memory *iv__replica_sums(const iv__replica *r, int64_t i);

#endif
