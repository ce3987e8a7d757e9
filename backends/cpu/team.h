/* team.h: the one thread team of the CPU backend.
 *
 * A team of n threads counts the calling thread as its thread 0.  Work is split statically, so that
 * which thread does what is a function of (n, grain, team size) only.  The team is a process-wide
 * object: opened once by the device, used by every CPU kernel, closed at the end.
 */
#ifndef IV_BACKENDS_CPU_TEAM_H
#define IV_BACKENDS_CPU_TEAM_H

#include <stdint.h>

#define IV__TEAM_MAX 1024 /* largest team; more threads are cut to this */

/* The work function: items [begin, end) of the loop, on thread `thread` in [0, team size). */
typedef void (*iv__team_fn)(void *arg, int64_t begin, int64_t end, int thread);

/* Starts a team of `n_threads` >= 1 threads, the caller's included; an open team is closed first.
 * Allocates.  Returns 0, or -1 if not all threads could be started: then the team has the size that
 * iv__team_size tells, at least 1.  Not while a loop runs. */
int iv__team_open(int n_threads);

/* Ends the threads and waits for them; the team has size 1 then.  Not while a loop runs. */
void iv__team_close(void);

/* Threads of the team; 1 when none is open. */
int iv__team_size(void);

/* Runs `fn` over [0, n) in contiguous chunks, one for each thread at most; chunk boundaries are
 * multiples of `grain` >= 1.  Blocks until all is done; what the chunks wrote is visible then.
 * Runs inline as thread 0, in one call, if n <= grain, if the team has one thread, if called from
 * inside a loop of the team, or while another thread of the process runs a loop.
 * n <= 0 does nothing.  No allocation. */
void iv__team_for(int64_t n, int64_t grain, iv__team_fn fn, void *arg);

#endif
