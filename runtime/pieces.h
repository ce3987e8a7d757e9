/* pieces.h: the moves of a sharded run, at the steps of its plans that send and await them
 * (plan_sets.c): parameters come from their owners, and sums of gradients go to theirs.
 *
 * All ranks go through the passes of a step together.  A rank with fewer passes than others serves:
 * it runs the moves alone.  In pass k an owner gets the sums of every rank that has a k-th pass,
 * and adds them, and those that wait from earlier passes, as far as they are children of one node
 * of the tree over grains.  What cannot be added yet waits.  So the sums are added in the order of
 * the tree, as everywhere (reduce.h), while no rank ever has the gradients of all parameters. */
#ifndef IV_PIECES_H
#define IV_PIECES_H

#include "comm.h"
#include "passes.h"
#include "plan.h"

typedef struct iv__pieces iv__pieces;

/* For the plans of a store that shares something (iv__share.ranks > 1).  In stage 0 the sums come
 * back to every rank, and a step has to be one pass of each. */
iv_status iv__pieces_open(iv__comm *comm, iv__store *store, iv__pieces **out);
void iv__pieces_close(iv__pieces *p);
/* Rank r computes span[r] of the grains in passes of at most `most`.  plan: one of the run's, whose
 * sets are those of all.  Collective. */
iv_status iv__pieces_deal(iv__pieces *p, int64_t grains, int64_t most, const iv__span *span,
                          const iv__plan *plan);
/* Until the next deal there are no passes, and sums go nowhere: something else adds them. */
void iv__pieces_rest(iv__pieces *p);
int64_t iv__pieces_passes(const iv__pieces *p);
/* What follows belongs to this pass; -1: to none, and sums go nowhere (validation). */
void iv__pieces_pass(iv__pieces *p, int64_t pass);
/* After the last pass: this rank's sums are in grad_mem; in stage 0 all of them. */
iv_status iv__pieces_end(iv__pieces *p);
iv_status iv__pieces_send(iv__pieces *p, const iv__plan *plan, int64_t set);
iv_status iv__pieces_await(iv__pieces *p, const iv__plan *plan, int64_t set);
/* Bytes of host memory, and nanoseconds of waiting for others so far. */
int64_t iv__pieces_bytes(const iv__pieces *p);
int64_t iv__pieces_waited(const iv__pieces *p);

#endif
