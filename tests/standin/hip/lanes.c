/* lanes.c: the 64 work-items of a group as coroutines (see lanes.h).
 *
 * A coroutine is entered once with makecontext and then switched with _setjmp and _longjmp, which
 * cost a few instructions; its stack is kept for the next group.  The lanes of a group run one
 * after another up to the next barrier, rising in one phase and falling or from some other lane on
 * in the next, so a text that lacks a barrier gives other results than the CPU. */
#include "lanes.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { STACK = 256 << 10 };
typedef enum lane_state { LANE_READY, LANE_WAITS, LANE_OVER } lane_state;
typedef struct lane {
    ucontext_t start;
    jmp_buf here;
    bool entered;
    lane_state state;
    void *site;
} lane;
typedef struct crew {
    lane lanes[SC_HIP_LANES];
    char *stacks;
    jmp_buf scheduler;
    lane *now;
    const sc_hip_function *function;
    void **arguments;
    struct crew *next;
} crew;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* one group at a time: see prelude.h */
static crew *idle;
static crew *running; /* under mutex */

/* From a lane to the scheduler; comes back when the lane is entered again.  (No inlining: what is
 * kept over a longjmp must be plain.) */
static __attribute__((noinline)) void leave(void)
{
    if (_setjmp(running->now->here) == 0) _longjmp(running->scheduler, 1);
}

static void at_barrier(void *site)
{
    running->now->site = site;
    running->now->state = LANE_WAITS;
    leave();
}

/* A coroutine: runs its lane of one group after another. */
static void lane_main(void)
{
    for (;;) {
        running->function->call(running->arguments);
        running->now->state = LANE_OVER;
        leave();
    }
}

static __attribute__((noinline)) void enter(lane *l)
{
    if (_setjmp(running->scheduler) != 0) return;
    if (l->entered) _longjmp(l->here, 1);
    l->entered = true;
    setcontext(&l->start);
}

static void run_lane(crew *c, int i)
{
    c->now = &c->lanes[i];
    c->function->module->state->lane = i;
    enter(c->now);
}

static __attribute__((noinline)) void prepare(lane *l, char *stack)
{
    getcontext(&l->start);
    l->start.uc_stack.ss_sp = stack;
    l->start.uc_stack.ss_size = STACK;
    l->start.uc_link = NULL;
    makecontext(&l->start, lane_main, 0);
}

static crew *crew_new(void)
{
    crew *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    c->stacks = mmap(NULL, (size_t)STACK * SC_HIP_LANES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->stacks == MAP_FAILED) {
        free(c);
        return NULL;
    }
    for (int i = 0; i < SC_HIP_LANES; ++i) prepare(&c->lanes[i], c->stacks + (size_t)i * STACK);
    return c;
}

static void crew_free(crew *c)
{
    munmap(c->stacks, (size_t)STACK * SC_HIP_LANES);
    free(c);
}

__attribute__((destructor)) static void forget(void)
{
    if (idle) crew_free(idle);
    idle = NULL;
}

/* One phase: every lane up to its next barrier or its end.  False: they do not agree. */
static bool phase(crew *c, uint64_t *random, bool *out_over, char *text, size_t size)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    const int from = (int)(*random >> 58), step = (*random >> 32 & 1) ? 1 : SC_HIP_LANES - 1;
    for (int k = 0; k < SC_HIP_LANES; ++k) run_lane(c, (from + k * step) % SC_HIP_LANES);
    const lane *first = &c->lanes[0];
    for (int i = 1; i < SC_HIP_LANES; ++i) {
        const lane *l = &c->lanes[i];
        if (l->state == first->state && (l->state == LANE_OVER || l->site == first->site)) continue;
        snprintf(text, size, "kernel %s, group %lld: lane 0 %s and lane %d %s", c->function->name,
                 c->function->module->state->group,
                 first->state == LANE_OVER ? "has ended" : "is at a barrier", i,
                 l->state == LANE_OVER ? "has ended" : "is at another barrier");
        sc_misuse("divergent barrier: %s", text);
        return false;
    }
    *out_over = first->state == LANE_OVER;
    return true;
}

typedef struct job {
    crew *crew;
    int64_t groups;
    uint64_t random;
    char *text;
    size_t text_size;
} job;

static sc_status run_groups(void *arg)
{
    job *j = arg;
    for (int64_t g = 0; g < j->groups; ++g) {
        bool over = false;
        j->crew->function->module->state->group = g;
        while (!over)
            if (!phase(j->crew, &j->random, &over, j->text, j->text_size)) return SC_LAUNCH_FAILED;
    }
    return SC_OK;
}

sc_status sc_hip_groups(const sc_hip_function *f, void **arguments, int64_t groups, uint64_t seed,
                        char *text, size_t text_size)
{
    pthread_mutex_lock(&mutex);
    crew *c = idle ? idle : crew_new();
    idle = NULL;
    if (!c) {
        pthread_mutex_unlock(&mutex);
        return SC_OUT_OF_RESOURCES;
    }
    uint64_t address = 0;
    job j = {c, groups, seed, text, text_size};
    c->function = f;
    c->arguments = arguments;
    running = c;
    f->module->state->barrier = at_barrier;
    const sc_status s = sc_mem_guarded(run_groups, &j, &address);
    if (s == SC_ILLEGAL_ADDRESS) {
        char where[256];
        sc_mem_describe(address, 1, where, sizeof(where));
        snprintf(text, text_size, "kernel %s, group %lld, lane %d: %s", f->name,
                 f->module->state->group, f->module->state->lane, where);
    }
    running = NULL;
    if (s == SC_OK) idle = c; /* else its lanes are in the middle of something */
    else crew_free(c);
    pthread_mutex_unlock(&mutex);
    return s;
}
