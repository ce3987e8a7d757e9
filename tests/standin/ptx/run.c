/* run.c: a launch: its blocks over the host's threads, the waves of a block from barrier to
 * barrier. */
#include "internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t executed_all;
int64_t ptx_executed(void)
{
    return __atomic_load_n(&executed_all, __ATOMIC_RELAXED);
}

typedef struct launch {
    ptx_function *f;
    const ptx_launch *l;
    int64_t blocks, next; /* next: taken with an atomic add */
    bool stop;
    pthread_mutex_t mutex;
    sc_status status;
    char *text;
    size_t text_size;
    ptx_range *ranges;
} launch;

/* ---- a worker's memory ---- */

/* The next `bytes` of the piece; with base NULL only their place is counted. */
static void *piece(char *base, size_t *at, size_t bytes)
{
    void *const p = base ? base + *at : NULL;
    *at += (bytes + 127) / 128 * 128;
    return p;
}

static size_t carve(ptx_worker *k, char *base)
{
    const ptx_function *f = k->f;
    const size_t waves = (size_t)k->n_waves, counters = (size_t)f->n_counters;
    const size_t grains = (size_t)(k->shared_bytes / f->shared_granule) + 1;
    size_t at = 0;
    k->waves = piece(base, &at, waves * sizeof(*k->waves));
    for (size_t n = 0; n < waves; ++n) {
        void *const regs = piece(base, &at, (size_t)f->file_bytes);
        void *const local = piece(base, &at, (size_t)(f->local_bytes + 15) * LANES);
        if (!base) continue;
        k->waves[n].regs = regs;
        k->waves[n].local = local;
    }
    k->shared = piece(base, &at, (size_t)k->shared_bytes + 16);
    k->wrote = piece(base, &at, grains * sizeof(*k->wrote));
    k->read = piece(base, &at, grains * sizeof(*k->read));
    k->ranges = piece(base, &at, counters * sizeof(*k->ranges));
    k->counts = piece(base, &at, counters * sizeof(*k->counts));
    return at;
}

static void set_all(char *reg, const ptx_reg *r, uint64_t value)
{
    for (int32_t l = 0; l < LANES; ++l) {
        if (r->bytes == 8) ((uint64_t *)reg)[l] = value;
        else if (r->bytes == 2) ((uint16_t *)reg)[l] = (uint16_t)value;
        else ((uint32_t *)reg)[l] = (uint32_t)value;
    }
}

/* What does not change from block to block. */
static void wave_constants(ptx_worker *k, ptx_wave *w)
{
    const ptx_function *f = k->f;
    const uint32_t *size = k->launch->block;
    for (int32_t r = SPECIALS; r < f->n_regs; ++r)
        set_all(w->regs + f->regs[r].offset, &f->regs[r], f->regs[r].value);
    for (int32_t d = 0; d < 3; ++d) {
        set_all(w->regs + f->regs[SPECIAL_NTID + d].offset, &f->regs[0], size[d]);
        set_all(w->regs + f->regs[SPECIAL_NCTAID + d].offset, &f->regs[0], k->launch->grid[d]);
    }
    for (uint32_t l = 0; l < LANES; ++l) {
        const uint32_t t = (uint32_t)w->index * LANES + l;
        const uint32_t id[] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
        for (int32_t d = 0; d < 3; ++d)
            ((uint32_t *)(w->regs + f->regs[SPECIAL_TID + d].offset))[l] = id[d];
        ((uint32_t *)(w->regs + f->regs[SPECIAL_LANE].offset))[l] = t % WARP;
        ((uint32_t *)(w->regs + f->regs[SPECIAL_WARP].offset))[l] = t / WARP;
    }
}

static ptx_worker *worker_new(ptx_function *f, const ptx_launch *l)
{
    ptx_worker *k = calloc(1, sizeof(*k));
    if (!k) return NULL;
    k->f = f;
    k->launch = l;
    k->n_threads = (int32_t)(l->block[0] * l->block[1] * l->block[2]);
    k->n_waves = (k->n_threads + LANES - 1) / LANES;
    k->shared_bytes = f->shared_bytes;
    if (l->shared_bytes)
        k->shared_bytes = (f->shared_bytes + 15) / 16 * 16 + (int64_t)l->shared_bytes;
    k->memory = aligned_alloc(128, carve(k, NULL));
    if (!k->memory) {
        free(k);
        return NULL;
    }
    carve(k, k->memory);
    for (int32_t n = 0; n < k->n_waves; ++n) {
        k->waves[n].worker = k;
        k->waves[n].index = n;
        wave_constants(k, &k->waves[n]);
    }
    for (int32_t c = 0; c < f->n_counters; ++c) k->ranges[c] = (ptx_range){INT64_MAX, INT64_MIN};
    memset(k->counts, 0, (size_t)f->n_counters * sizeof(*k->counts));
    return k;
}

/* ---- a block ---- */

static uint64_t lanes_of(const ptx_worker *k, int32_t wave)
{
    const int32_t left = k->n_threads - wave * LANES;
    return left >= LANES ? ~(uint64_t)0 : ((uint64_t)1 << left) - 1;
}

/* Have all waves ended, or are all at one barrier? */
static bool waves_agree(ptx_worker *k, bool *out_ended)
{
    const ptx_wave *first = &k->waves[0];
    *out_ended = first->live == 0;
    for (int32_t n = 1; n < k->n_waves; ++n) {
        ptx_wave *w = &k->waves[n];
        if ((w->live == 0) == *out_ended && (*out_ended || w->barrier_pc == first->barrier_pc))
            continue;
        ptx_wave *waits = w->live ? w : &k->waves[0];
        return ptx__fault(waits, &k->f->code[waits->barrier_pc], 0, SC_LAUNCH_FAILED,
                          "a divergent barrier: other threads of the block do not reach it");
    }
    return true;
}

static bool is_checked(const ptx_worker *k, int64_t block)
{
    const sc_check c = k->launch->check;
    return c == SC_CHECK_ALL || (c == SC_CHECK_SOME && (block < 2 || block % 61 == 60));
}

static bool run_block(ptx_worker *k, int64_t block)
{
    const uint32_t *grid = k->launch->grid;
    const size_t grains = (size_t)(k->shared_bytes / k->f->shared_granule) + 1;
    bool ended = false;
    k->block[0] = (uint32_t)(block % grid[0]);
    k->block[1] = (uint32_t)(block / grid[0] % grid[1]);
    k->block[2] = (uint32_t)(block / grid[0] / grid[1]);
    k->checked = is_checked(k, block);
    k->epoch = 0;
    if (k->checked) {
        memset(k->wrote, 0, grains * sizeof(*k->wrote));
        memset(k->read, 0, grains * sizeof(*k->read));
    }
    for (int32_t n = 0; n < k->n_waves; ++n) {
        for (int32_t d = 0; d < 3; ++d)
            set_all(k->waves[n].regs + k->f->regs[SPECIAL_CTAID + d].offset, &k->f->regs[0],
                    k->block[d]);
        ptx__wave_start(&k->waves[n], lanes_of(k, n));
    }
    while (!ended) {
        ++k->epoch;
        for (int32_t n = 0; n < k->n_waves; ++n)
            if (!ptx__wave_run(&k->waves[n], lanes_of(k, n))) return false;
        if (!waves_agree(k, &ended)) return false;
    }
    return true;
}

/* ---- a launch ---- */

static void merge(launch *a, const ptx_worker *k)
{
    const ptx_function *f = a->f;
    pthread_mutex_lock(&a->mutex);
    if (k->status != SC_OK && a->status == SC_OK) {
        a->status = k->status;
        snprintf(a->text, a->text_size, "%s", k->text);
    }
    for (int32_t c = 0; c < f->n_counters; ++c) {
        if (k->ranges[c].lo < a->ranges[c].lo) a->ranges[c].lo = k->ranges[c].lo;
        if (k->ranges[c].hi > a->ranges[c].hi) a->ranges[c].hi = k->ranges[c].hi;
        f->counts[c].requests += k->counts[c].requests;
        f->counts[c].units += k->counts[c].units;
        f->counts[c].ideal += k->counts[c].ideal;
        if (k->counts[c].worst > f->counts[c].worst) f->counts[c].worst = k->counts[c].worst;
    }
    pthread_mutex_unlock(&a->mutex);
    __atomic_add_fetch(&executed_all, k->executed, __ATOMIC_RELAXED);
}

static void run_some(void *arg)
{
    launch *a = arg;
    ptx_worker *k = NULL;
    while (!__atomic_load_n(&a->stop, __ATOMIC_RELAXED)) {
        const int64_t block = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED);
        if (block >= a->blocks) break;
        if (!k && !(k = worker_new(a->f, a->l))) {
            a->status = SC_OUT_OF_RESOURCES;
            break;
        }
        if (!run_block(k, block)) __atomic_store_n(&a->stop, true, __ATOMIC_RELAXED);
    }
    if (!k) return;
    merge(a, k);
    free(k->memory);
    free(k);
}

sc_status ptx_check_launch(const ptx_function *f, const ptx_launch *l, char *text, size_t size)
{
    const uint64_t threads = (uint64_t)l->block[0] * l->block[1] * l->block[2];
    const uint64_t blocks = (uint64_t)l->grid[0] * l->grid[1] * l->grid[2];
    if (threads == 0 || blocks == 0 || threads > (uint64_t)f->max_threads || l->grid[1] > 65535 ||
        l->grid[2] > 65535 || l->grid[0] > 0x7fffffff) {
        snprintf(text, size, "a grid of %u x %u x %u blocks of %u x %u x %u threads (at most %d)",
                 l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2],
                 f->max_threads);
        return SC_INVALID_VALUE;
    }
    if (f->shared_bytes + (int64_t)l->shared_bytes > 227 * 1024 || f->shared_bytes > 48 * 1024) {
        snprintf(text, size, "%d + %u bytes of shared memory", f->shared_bytes, l->shared_bytes);
        return SC_INVALID_VALUE;
    }
    return SC_OK;
}

sc_status ptx_run(ptx_function *f, const ptx_launch *l, sc_access_list *touched, char *text,
                  size_t text_size)
{
    const sc_status s = ptx_check_launch(f, l, text, text_size);
    if (s != SC_OK) return s;
    launch a = {.f = f,
                .l = l,
                .blocks = (int64_t)l->grid[0] * l->grid[1] * l->grid[2],
                .text = text,
                .text_size = text_size,
                .mutex = PTHREAD_MUTEX_INITIALIZER,
                .ranges = malloc(((size_t)f->n_counters + 1) * sizeof(ptx_range))};
    if (!a.ranges) return SC_OUT_OF_RESOURCES;
    for (int32_t c = 0; c < f->n_counters; ++c) a.ranges[c] = (ptx_range){INT64_MAX, INT64_MIN};
    ptx__pool_run(run_some, &a, a.blocks < 2 ? 1 : l->threads);
    for (int32_t k = 0; touched && k < f->n_code; ++k) {
        const int32_t c = f->code[k].counter;
        if (c >= 0 && a.ranges[c].lo < a.ranges[c].hi)
            sc_access_add(touched, (uint64_t)a.ranges[c].lo, a.ranges[c].hi - a.ranges[c].lo,
                          f->code[k].store);
    }
    free(a.ranges);
    return a.status;
}
