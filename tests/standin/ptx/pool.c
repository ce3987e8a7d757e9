/* pool.c: the host's threads, which share one launch at a time.  A launch that finds them busy runs
 * on its caller's thread alone. */
#include "internal.h"

#include <pthread.h>
#include <unistd.h>

enum { MOST = 16 };
static struct {
    pthread_mutex_t busy; /* held by the launch that has the threads */
    pthread_mutex_t mutex;
    pthread_cond_t begin, end;
    void (*fn)(void *arg);
    void *arg;
    int32_t threads, wanted, running;
    int64_t round;
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER,
          .mutex = PTHREAD_MUTEX_INITIALIZER,
          .begin = PTHREAD_COND_INITIALIZER,
          .end = PTHREAD_COND_INITIALIZER};

static void *pool_main(void *unused)
{
    int64_t seen = 0;
    (void)unused;
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        while (pool.round == seen || pool.wanted == 0) {
            if (pool.round != seen) seen = pool.round;
            pthread_cond_wait(&pool.begin, &pool.mutex);
        }
        seen = pool.round;
        --pool.wanted;
        ++pool.running;
        pthread_mutex_unlock(&pool.mutex);
        pool.fn(pool.arg);
        pthread_mutex_lock(&pool.mutex);
        if (--pool.running == 0) pthread_cond_signal(&pool.end);
    }
    return NULL;
}

static int32_t others(int32_t threads)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const int32_t n = threads > 0 ? threads : cores > 0 ? (int32_t)cores : 1;
    return (n < MOST ? n : MOST) - 1;
}

/* Calls fn(arg) on up to `threads` threads (0: all cores) at once and waits for them. */
void ptx__pool_run(void (*fn)(void *arg), void *arg, int32_t threads)
{
    const int32_t n = others(threads);
    if (n == 0 || pthread_mutex_trylock(&pool.busy) != 0) {
        fn(arg);
        return;
    }
    pthread_mutex_lock(&pool.mutex);
    for (; pool.threads < n; ++pool.threads) {
        pthread_t t;
        if (pthread_create(&t, NULL, pool_main, NULL) != 0) break;
        pthread_detach(t);
    }
    pool.fn = fn;
    pool.arg = arg;
    pool.wanted = n;
    ++pool.round;
    pthread_cond_broadcast(&pool.begin);
    pthread_mutex_unlock(&pool.mutex);
    fn(arg);
    pthread_mutex_lock(&pool.mutex);
    pool.wanted = 0; /* who has not begun need not */
    while (pool.running) pthread_cond_wait(&pool.end, &pool.mutex);
    pthread_mutex_unlock(&pool.mutex);
    pthread_mutex_unlock(&pool.busy);
}
