/* tcp.h: inside the socket transport: meeting (tcp_meet.c), then moving messages (tcp.c). */
#ifndef IV_TRANSPORT_TCP_H
#define IV_TRANSPORT_TCP_H

#include "runtime/base.h"
#include "runtime/plugin.h"

#include <sys/socket.h>

/* Another rank, as the meeting found it. */
typedef struct iv__tcp_peer {
    int fd;          /* connected, blocking; -1: this rank itself */
    int32_t pid;     /* in its own process namespace */
    uint64_t host;   /* tells machines (and their process namespaces) apart */
    uint64_t window; /* address of its iv__tcp_window */
    char name[64];   /* of its machine, for messages */
} iv__tcp_peer;

/* What a rank on the same machine reads to find out whether it can read this rank's memory. */
typedef struct iv__tcp_window {
    uint64_t token; /* random */
} iv__tcp_window;

/* Connects every pair of ranks.  peers: [world].  On failure nothing stays open. */
iv_status iv__tcp_meet(const iv_ranks *r, int64_t timeout_ns, const iv__tcp_window *window,
                       iv__tcp_peer *peers);
/* All of n bytes before the deadline (of iv__now_ns), or errno; 0 for a closed connection is
 * ECONNRESET. */
int iv__tcp_read(int fd, void *data, size_t n, int64_t deadline);
int iv__tcp_write(int fd, const void *data, size_t n, int64_t deadline);

#endif
