/* comm.h: what the ranks of a job do together: gather, small reductions, meeting at a point.
 *
 * All of it is made of sets of messages of one transport plugin (iv_transport in plugin.h).  With
 * one rank every operation returns at once, so callers know no special case.  All calls are
 * collective and come in the same order on every rank, from one thread.  IV_LOST names a rank that
 * is dead, hung or unreachable; afterwards the communicator is of no use.  No call allocates. */
#ifndef IV_COMM_H
#define IV_COMM_H

#include "base.h"
#include "plugin.h"

typedef struct iv__comm {
    iv_ranks ranks;
    const char *name; /* of the transport; "none" with one rank */
    const iv_transport *vt;
    void *link;
    int64_t timeout_ns;
    int32_t lost;          /* the rank that was found lost, or -1 */
    iv_message *messages;  /* [2 * world]: scratch */
    int64_t *words;        /* [world][IV__COMM_WORDS]: scratch */
    struct iv__told *told; /* [world]: scratch */
} iv__comm;

/* spec: a transport's name, or "auto": the ranks meet through sockets at the main address and agree
 * on the best transport that all of them can use.  timeout_ns bounds this meeting and each later
 * wait for a silent rank. */
iv_status iv__comm_open(const char *spec, const iv_ranks *r, int64_t timeout_ns, iv__comm **out);
void iv__comm_close(iv__comm *c);

/* After IV_LOST: the ranks that are left become the ranks, with new numbers in the old order.
 * IV_UNSUPPORTED: the transport cannot do that. */
iv_status iv__comm_again(iv__comm *c);

/* Raw sets of messages (plugin.h). */
iv_status iv__comm_start(iv__comm *c, const iv_message *m, int32_t n, uint64_t *out_ticket);
iv_status iv__comm_finish(iv__comm *c, uint64_t ticket);

/* A range of bytes that a rank holds. */
typedef struct iv__part {
    int64_t offset, bytes;
} iv__part;
/* Every rank has parts[rank] of base; afterwards every rank has all parts.  parts: [world], the
 * same on all ranks; bytes may be 0. */
iv_status iv__comm_gather_parts(iv__comm *c, void *base, const iv__part *parts);
/* The same with equal parts: all[rank * each] is given. */
iv_status iv__comm_gather(iv__comm *c, void *all, int64_t each);

enum { IV__COMM_WORDS = 32 };
typedef enum iv__comm_op { IV_COMM_MAX, IV_COMM_MIN, IV_COMM_SUM, IV_COMM_OR } iv__comm_op;
/* v[i] becomes the reduction of the ranks' v[i]; n <= IV__COMM_WORDS. */
iv_status iv__comm_reduce(iv__comm *c, iv__comm_op op, int64_t *v, int32_t n);
/* Whether all ranks came so far well: gives every rank the failure of the first that failed, with
 * its number before the text.  s: this rank's status, whose text is iv_error_message(). */
iv_status iv__comm_agree(iv__comm *c, iv_status s);
/* IV_INVALID, which names the first rank that differs, unless all ranks have the same value. */
iv_status iv__comm_same(iv__comm *c, uint64_t value, const char *what);
/* Returns when every rank has called it. */
iv_status iv__comm_barrier(iv__comm *c);

#endif
