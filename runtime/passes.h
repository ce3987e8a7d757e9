/* passes.h: who computes which grains of a step, in which passes, and in which order their sums are
 * added (docs/numerics.md, 7).  Pure functions of numbers; nothing here knows of devices or ranks.
 *
 * The tree over n grains splits at the largest power of two below n.  A worker has a contiguous
 * range of grains.  The range is cut into nodes of the tree that fit into a pass; the sum of a node
 * does not depend on how it was cut, so neither do the bits of a step. */
#ifndef IV_PASSES_H
#define IV_PASSES_H

#include "base.h"

typedef struct iv__span {
    int64_t first, count; /* grains */
} iv__span;

/* A pass, and what is to be done with its sums: `joins` times they are added to the sums of the
 * node before them.  Sums that can be added to no neighbour wait in the next free slot. */
typedef struct iv__pass {
    iv__span grains;
    int32_t joins;
} iv__pass;

/* Largest power of two below n >= 2: where a tree over n splits. */
int64_t iv__tree_split(int64_t n);
/* Whether a and b are the two children of a node of the tree over `grains`. */
bool iv__tree_joins(int64_t grains, iv__span a, iv__span b);

/* The least list of passes of at most `most` grains for a range.  passes: room for range.count;
 * nodes: room for IV__NODES_MOST, gets the nodes whose sums are left in the end, in order. */
enum { IV__NODES_MOST = 40 }; /* a range is made of at most two nodes a level; 2^16 grains */
void iv__passes_cut(int64_t grains, iv__span range, int64_t most, iv__pass *passes,
                    int64_t *out_passes, iv__span *nodes, int64_t *out_nodes);

/* Deals grains to workers by their speeds (grains per second, all > 0): ranges in order, so that
 * the last one is done as soon as possible; a worker may get none. */
void iv__shares(int64_t grains, const double *speed, int64_t workers, iv__span *out);
/* When the last one is done, in seconds. */
double iv__shares_time(const iv__span *spans, const double *speed, int64_t workers);

/* How the sums of all nodes become one: dst = a + b, in order.  Operands below n are the nodes,
 * n + i is temporary i; the last dst is the result.  ops: room for n - 1.  IV_INTERNAL unless the
 * nodes make up the tree.  *out_temps: temporaries in use at once. */
typedef struct iv__fold_op {
    int32_t a, b, dst;
} iv__fold_op;
iv_status iv__fold_plan(int64_t grains, const iv__span *nodes, int64_t n, iv__fold_op *ops,
                        int32_t *out_temps);

#endif
