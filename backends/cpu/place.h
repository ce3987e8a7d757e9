/* place.h: binding the thread team to CPUs and memory to NUMA nodes. */
#ifndef IV_BACKENDS_CPU_PLACE_H
#define IV_BACKENDS_CPU_PLACE_H

#include "runtime/hal.h"

/* Binds the open team: thread 0, from which later threads of the process inherit, to all n CPUs,
 * every other one to one of them, spread evenly.  Does nothing where the user has bound OpenMP's
 * threads (OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY, KMP_AFFINITY: `env` reads them).  A CPU
 * that is not there is left out. */
void iv__place_team(const iv_host *host, const int32_t *cpus, int32_t n);
/* Lets the threads that iv__place_team bound go where they could go before; before the team is
 * closed. */
void iv__place_release(void);
/* Asks the system for memory of these nodes: of one preferably, of several in turn.  Best effort:
 * placement changes no result. */
void iv__place_memory(void *ptr, size_t bytes, const int32_t *nodes, int32_t n);
/* A copy in one block, released by free(). */
iv_cpu_place *iv__place_copy(const iv_cpu_place *places, int32_t n);

#endif
