/* team.c: one thread team, in two implementations: OpenMP's (INVAR_OPENMP), so that we share
 * threads with vendor libraries built on the same runtime, or our own pthread team.
 *
 * The pthread team keeps its workers in a loop: wait for a new `generation`, run the chunk with the
 * worker's number, count down `pending`.  Both waits spin for some microseconds (launches follow
 * each other closely in a training step) and then sleep on a condition variable.  With more threads
 * than processors nobody spins.  The generation changes only under the lock, so a sleeper can't
 * miss it.
 */
#include "backends/cpu/team.h"

#include <stdatomic.h>
#include <stdbool.h>

#ifdef INVAR_OPENMP
#include <omp.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif

typedef struct loop {
    int64_t n_units; /* grains */
    int64_t grain;
    int64_t n;
    iv__team_fn fn;
    void *arg;
    int size;
} loop;

static int team_size = 1;
static atomic_flag team_busy = ATOMIC_FLAG_INIT;
static _Thread_local bool inside; /* this thread runs a chunk: loops inside run inline */

static void chunk_run(const loop *l, int thread)
{
    /* q units for everybody and one more for the first r: no product that could overflow. */
    int64_t q = l->n_units / l->size, r = l->n_units % l->size;
    int64_t first = q * thread + (thread < r ? thread : r);
    int64_t count = q + (thread < r ? 1 : 0);
    if (count == 0) {
        return;
    }
    int64_t begin = first * l->grain;
    int64_t end = first + count == l->n_units ? l->n : (first + count) * l->grain;
    inside = true;
    l->fn(l->arg, begin, end, thread);
    inside = false;
}

#ifdef INVAR_OPENMP

int iv__team_open(int n_threads)
{
    iv__team_close();
    team_size = n_threads < 1 ? 1 : n_threads > IV__TEAM_MAX ? IV__TEAM_MAX : n_threads;
    return 0;
}

void iv__team_close(void)
{
    team_size = 1;
}

static void loop_run(const loop *l)
{
    /* The runtime may give fewer threads than asked: each then runs several chunks. */
#pragma omp parallel num_threads(l->size)
    {
        for (int t = omp_get_thread_num(); t < l->size; t += omp_get_num_threads()) {
            chunk_run(l, t);
        }
    }
}

#else

enum { SPINS = 4000 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_cond_t done;
    pthread_t threads[IV__TEAM_MAX];
    const loop *job; /* written before, and read after, the change of `generation` */
    atomic_uint generation;
    atomic_int pending; /* workers that have not finished the job */
    int spins;
    bool stop;
} team = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void job_await(unsigned seen)
{
    for (int i = 0; i < team.spins; ++i) {
        if (atomic_load_explicit(&team.generation, memory_order_acquire) != seen) {
            return;
        }
        relax();
    }
    pthread_mutex_lock(&team.lock);
    while (atomic_load_explicit(&team.generation, memory_order_acquire) == seen) {
        pthread_cond_wait(&team.work, &team.lock);
    }
    pthread_mutex_unlock(&team.lock);
}

static void job_finish(void)
{
    if (atomic_fetch_sub_explicit(&team.pending, 1, memory_order_acq_rel) == 1) {
        pthread_mutex_lock(&team.lock);
        pthread_cond_signal(&team.done);
        pthread_mutex_unlock(&team.lock);
    }
}

static void *worker_main(void *arg)
{
    int thread = (int)(intptr_t)arg;
    for (unsigned seen = 0;; ++seen) { /* a worker sees every generation: the caller waits for it */
        job_await(seen);
        if (team.stop) {
            return NULL;
        }
        chunk_run(team.job, thread);
        job_finish();
    }
}

static void job_publish(const loop *l)
{
    team.job = l;
    atomic_store_explicit(&team.pending, team_size - 1, memory_order_relaxed);
    pthread_mutex_lock(&team.lock);
    atomic_fetch_add_explicit(&team.generation, 1, memory_order_release);
    pthread_cond_broadcast(&team.work);
    pthread_mutex_unlock(&team.lock);
}

static void loop_run(const loop *l)
{
    job_publish(l);
    chunk_run(l, 0);
    for (int i = 0; i < team.spins; ++i) {
        if (atomic_load_explicit(&team.pending, memory_order_acquire) == 0) {
            return;
        }
        relax();
    }
    pthread_mutex_lock(&team.lock);
    while (atomic_load_explicit(&team.pending, memory_order_acquire) != 0) {
        pthread_cond_wait(&team.done, &team.lock);
    }
    pthread_mutex_unlock(&team.lock);
}

int iv__team_open(int n_threads)
{
    iv__team_close();
    int want = n_threads < 1 ? 1 : n_threads > IV__TEAM_MAX ? IV__TEAM_MAX : n_threads;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    team.spins = want <= online ? SPINS : 0;
    team.stop = false;
    atomic_store(&team.generation, 0);
    for (int t = 1; t < want; ++t) {
        if (pthread_create(&team.threads[t], NULL, worker_main, (void *)(intptr_t)t) != 0) {
            return -1;
        }
        team_size = t + 1;
    }
    return 0;
}

void iv__team_close(void)
{
    if (team_size > 1) {
        team.stop = true;
        job_publish(NULL);
    }
    for (int t = 1; t < team_size; ++t) {
        pthread_join(team.threads[t], NULL);
    }
    team_size = 1;
}

#endif

int iv__team_size(void)
{
    return team_size;
}

void iv__team_for(int64_t n, int64_t grain, iv__team_fn fn, void *arg)
{
    if (n <= 0) {
        return;
    }
    if (n <= grain || team_size == 1 || inside ||
        atomic_flag_test_and_set_explicit(&team_busy, memory_order_acquire)) {
        fn(arg, 0, n, 0);
        return;
    }
    loop l = {.n_units = n / grain + (n % grain != 0),
              .grain = grain,
              .n = n,
              .fn = fn,
              .arg = arg,
              .size = team_size};
    loop_run(&l);
    atomic_flag_clear_explicit(&team_busy, memory_order_release);
}
