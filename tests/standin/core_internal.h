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
