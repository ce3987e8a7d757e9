/* placement.h: where the CPU devices of this process work: the machine (iv_topo), this rank's part
 * of it, and what a backend is told of that. */
#ifndef IV_PLACEMENT_H
#define IV_PLACEMENT_H

#include "hal.h"

typedef struct iv__placement {
    int32_t n;           /* places; 0: nothing is bound */
    iv_cpu_place *place; /* [n], in one block with the numbers */
} iv__placement;

typedef enum iv__placement_kind {
    IV_PLACE_RANK,     /* one place: the share of this rank, for a device that is not named */
    IV_PLACE_GPU_RANK, /* the same, near the GPU that the rank works on */
    IV_PLACE_NODES     /* one for each NUMA node: cpu:0, cpu:1, ... */
} iv__placement_kind;

/* Nothing is bound for a single rank on one node, nor by a topology that is not this machine's. */
iv_status iv__placement_open(const iv_ranks *r, iv__placement_kind kind, iv__placement *out);
void iv__placement_close(iv__placement *p);
/* Keeps the calling thread, and the memory that it will touch first, on the only place: what a rank
 * does that drives a GPU.  Does nothing if there is none. */
void iv__placement_stay(const iv__placement *p);

#endif
