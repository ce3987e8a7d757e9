/* reduce.h: the sums of a step over all workers.
 *
 * A worker is a replica of a rank.  After its passes it has the sums of some nodes of the tree over
 * grains, each as long as the gradient arena.  The arena is cut into segments, one owner each:
 * every rank sends its nodes' parts of a segment to the owner, who adds all nodes in the order of
 * the tree.  Then the segments that everybody needs are sent to everybody.  With one rank nothing
 * is sent, and what remains is the addition over the devices of a process.
 *
 * It goes in steps of a chunk per segment, so that the memory for what arrives is small, and
 * sending and adding overlap. */
#ifndef IV_REDUCE_H
#define IV_REDUCE_H

#include "comm.h"
#include "passes.h"

/* A range of the arena, in elements, and who adds it up. */
typedef struct iv__segment {
    int64_t offset, count;
    int32_t owner;
    bool gathered; /* everybody gets the sums; else only the owner */
} iv__segment;

typedef struct iv__reducer {
    iv__comm *comm;    /* borrowed */
    iv_dtype type;     /* IV_F32 or IV_F64 */
    int64_t larger_at; /* elements from here on: the largest, not the sum */
    iv__segment *segments;
    int64_t n_segments;
    /* Chunks: [owner][step], count 0 where an owner has no more. */
    iv__segment *chunks;
    int64_t n_steps;
    /* Nodes of all workers in order, and the order of additions. */
    iv__span *nodes;
    int32_t *node_rank;
    int64_t n_nodes, cap_nodes;
    iv__fold_op *ops;
    int32_t temps;
    int64_t first_own, n_own; /* this rank's nodes */
    char *received;           /* [2][nodes of other ranks][chunk] */
    int64_t received_bytes;
    char *temporary; /* [temps][block] */
    iv_message *messages;
    void **operands; /* [nodes + temps] */
} iv__reducer;

/* segments: in any order, each a multiple of 64 elements from the next; copied.  Elements from
 * larger_at on are not added: the larger one stays. */
iv_status iv__reducer_open(iv__comm *comm, iv_dtype type, const iv__segment *segments, int64_t n,
                           int64_t larger_at, iv__reducer **out);
void iv__reducer_close(iv__reducer *r);
/* Of host memory. */
int64_t iv__reducer_bytes(const iv__reducer *r);
/* The nodes of all workers, in order; rank[i] has node i.  They make up the tree over `grains`. */
iv_status iv__reducer_deal(iv__reducer *r, int64_t grains, const iv__span *nodes,
                           const int32_t *rank, int64_t n);
/* parts: sums of this rank's nodes, in order, in host memory.  out: gets the sums; may be one of
 * the parts.  Parts are of no use afterwards. */
iv_status iv__reducer_run(iv__reducer *r, void *const *parts, void *out);

/* dst = a + b, from element `at` of the gradient arena on; from element larger_at on, the larger
 * one, or NaN.  dst may be a or b. */
void iv__sums_add(iv_dtype type, int64_t larger_at, int64_t at, void *dst, const void *a,
                  const void *b, int64_t bytes);

#endif
