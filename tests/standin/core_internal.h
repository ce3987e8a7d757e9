/* core_internal.h: what the files of the core share. */
#ifndef SC_CORE_INTERNAL_H
#define SC_CORE_INTERNAL_H

#include "core.h"

#include <pthread.h>

enum { SC_DEVICES = 8 };

struct sc_device {
    int32_t index;
    int64_t used; /* bytes of device memory */
    sc_status fault;
    char fault_text[512];
    sc_stream *default_stream; /* made when it is first asked for */
};

typedef struct sc__item { /* of a graph */
    struct sc__item *next;
    sc_run_fn *run;
    char label[64];
    size_t arg_bytes;
    _Alignas(16) char arg[];
} sc__item;
struct sc_graph {
    sc__item *first, *last;
    bool spoilt; /* something that cannot be captured was asked for */
};
sc_status sc__graph_add(sc_graph *g, const char *label, sc_run_fn *run, const void *arg,
                        size_t arg_bytes);
void sc__graph_clear(sc_graph *g);
/* The graph that a stream captures into, or NULL; may be set. */
sc_graph **sc__stream_graph(sc_stream *s);
/* Ends the capture of all streams that capture into g. */
void sc__streams_leave(const sc_graph *g);

/* One lock for all tables and queues; `sc__progress` is signalled when work is over. */
extern pthread_mutex_t sc__mutex;
extern pthread_cond_t sc__progress;

void sc__memory_open(void); /* once, from sc_options_get */
int32_t sc__memory_leaks(void);
/* Work that runs now or later and has to do with [address, +bytes) of pinned memory as its
 * destination. */
bool sc__pending_write(uint64_t address, int64_t bytes);
/* Is this work a copy that writes there? */
bool sc__copy_writes(sc_run_fn *run, const void *arg, uint64_t address, int64_t bytes);

#endif
