/* tcp.h: inside the socket transport: meeting (tcp_meet.c), moving messages (tcp.c), and meeting
 * again without those that were lost (tcp_again.c). */
#ifndef IV_TRANSPORT_TCP_H
#define IV_TRANSPORT_TCP_H

#include "runtime/base.h"
#include "runtime/plugin.h"

#include <sys/socket.h>

/* Another rank, as the meeting found it. */
typedef struct iv__tcp_peer {
    int fd;                     /* connected, blocking; -1: this rank itself */
    int32_t pid;                /* in its own process namespace */
    uint64_t host;              /* tells machines (and their process namespaces) apart */
    uint64_t window;            /* address of its iv__tcp_window */
    char name[64];              /* of its machine, for messages */
    struct sockaddr_storage at; /* where it listens as long as it lives */
    socklen_t at_size;
} iv__tcp_peer;

/* What a rank on the same machine reads to find out whether it can read this rank's memory. */
typedef struct iv__tcp_window {
    uint64_t token; /* random */
} iv__tcp_window;

/* Connects every pair of ranks.  peers: [world].  *out_listener: where this rank listens for later
 * meetings.  On failure nothing stays open. */
iv_status iv__tcp_meet(const iv_ranks *r, int64_t timeout_ns, const iv__tcp_window *window,
                       iv__tcp_peer *peers, int *out_listener);

/* tcp_again.c.  What is said first on a connection between two ranks that know each other. */
typedef struct iv__tcp_hello {
    uint64_t magic, job; /* job: also tells one meeting of the job from the next */
    int32_t rank, reserved;
} iv__tcp_hello;
uint64_t iv__tcp_job(const iv_ranks *r, int32_t meeting);
/* Connects ranks above 0 among each other (the higher one calls), where peers[i].at is known. */
iv_status iv__tcp_pairs(const iv_ranks *r, int32_t meeting, int listener, iv__tcp_peer *peers,
                        int64_t deadline);
/* The `meeting`-th of the job (1, 2, ...): those of r->world ranks that are left find out who they
 * are.  peers: of all ranks, with no connection; suspect[i]: i was found lost, and is not waited
 * for.  Afterwards alive[i] says who is left, and they are connected: peers[i].fd. */
iv_status iv__tcp_again(const iv_ranks *r, int32_t meeting, int64_t timeout_ns, int listener,
                        const bool *suspect, iv__tcp_peer *peers, bool *alive);
/* Connects before the deadline; -1 and errno. */
int iv__tcp_call(const struct sockaddr *a, socklen_t n, int64_t deadline);
/* Accepts before the deadline; -1 and errno. */
int iv__tcp_take(int listener, int64_t deadline);
/* All of n bytes before the deadline (of iv__now_ns), or errno; 0 for a closed connection is
 * ECONNRESET. */
int iv__tcp_read(int fd, void *data, size_t n, int64_t deadline);
int iv__tcp_write(int fd, const void *data, size_t n, int64_t deadline);

#endif
