/* check.c: what checked blocks get besides: a shadow of shared memory that sees races and reads of
 * nothing, and counts of how the accesses of a warp of 32 lanes fall on sectors and banks. */
#include "internal.h"

enum {
    SECTOR = 32,
    BANKS = 32,
    THREAD_BITS = 10,
    MANY = 1 << THREAD_BITS,
    EPOCH_SHIFT = THREAD_BITS + 1
};

/* ---- counts ---- */

/* Distinct values of at[l] / unit for the lanes in bits; at most 32 lanes. */
static int32_t distinct(const int64_t *at, uint32_t bits, int64_t unit)
{
    int64_t seen[WARP];
    int32_t n = 0;
    for (; bits; bits &= bits - 1) {
        const int64_t v = at[__builtin_ctz(bits)] / unit;
        int32_t k = n - 1; /* neighbours are often equal */
        while (k >= 0 && seen[k] != v) --k;
        if (k < 0) seen[n++] = v;
    }
    return n;
}

void ptx__count_global(ptx_worker *k, const ptx_insn *i, uint64_t bits, const int64_t *at,
                       int32_t bytes)
{
    ptx_shadow_counts *c = &k->counts[i->counter];
    for (int32_t warp = 0; warp < LANES / WARP; ++warp) {
        const uint32_t lanes = (uint32_t)(bits >> WARP * warp);
        if (!lanes) continue;
        const int64_t wanted = (int64_t)distinct(at + WARP * warp, lanes, 1) * bytes;
        ++c->requests;
        c->units += distinct(at + WARP * warp, lanes, SECTOR);
        c->ideal += (wanted + SECTOR - 1) / SECTOR;
    }
}

/* Passes over the banks that a group of lanes needs: the most different words in one bank. */
static int32_t passes(const int64_t *at, uint32_t lanes, int32_t bytes)
{
    int64_t words[BANKS][WARP];
    int32_t n[BANKS] = {0}, most = 0;
    for (; lanes; lanes &= lanes - 1) {
        const int64_t first = at[__builtin_ctz(lanes)] / 4;
        for (int64_t word = first; word < first + (bytes + 3) / 4; ++word) {
            const int32_t b = (int32_t)(word % BANKS);
            int32_t k = n[b] - 1;
            while (k >= 0 && words[b][k] != word) --k;
            if (k >= 0) continue;
            words[b][n[b]++] = word;
            most = n[b] > most ? n[b] : most;
        }
    }
    return most;
}

static void count_shared(ptx_worker *k, const ptx_insn *i, uint64_t bits, const int64_t *at,
                         int32_t bytes)
{
    ptx_shadow_counts *c = &k->counts[i->counter];
    const int32_t group = bytes <= 4   ? WARP
                          : bytes == 8 ? WARP / 2
                                       : WARP / 4; /* served together */
    const uint32_t all = group == WARP ? ~0u : (1u << group) - 1;
    for (int32_t first = 0; first < LANES; first += group) {
        const uint32_t lanes = (uint32_t)(bits >> first) & all;
        if (!lanes) continue;
        const int32_t n = passes(at + first, lanes, bytes);
        c->requests += 1;
        c->units += n;
        c->ideal += 1;
        c->worst = n > c->worst ? n : c->worst;
    }
}

/* ---- races ---- */

static bool in_epoch(const ptx_worker *k, uint32_t mark)
{
    return mark >> EPOCH_SHIFT == k->epoch;
}

static uint32_t thread_of(uint32_t mark)
{
    return mark & (MANY - 1);
}

static bool race(ptx_wave *w, const ptx_insn *i, int32_t lane, int64_t at, uint32_t other,
                 const char *what)
{
    return ptx__fault(
        w, i, lane, SC_LAUNCH_FAILED,
        "a race on byte %lld of shared memory: thread %u %s it since the last barrier",
        (long long)at, other, what);
}

static bool check_lane(ptx_wave *w, const ptx_insn *i, int32_t lane, int64_t at, int32_t bytes)
{
    ptx_worker *k = w->worker;
    const int32_t grain = k->f->shared_granule;
    const uint32_t me = (uint32_t)(w->index * LANES + lane), mark = k->epoch << EPOCH_SHIFT | me;
    for (int64_t g = at / grain; g < (at + bytes) / grain; ++g) {
        const uint32_t wrote = k->wrote[g], read = k->read[g];
        if (!i->store && wrote == 0)
            return ptx__fault(w, i, lane, SC_LAUNCH_FAILED,
                              "byte %lld of shared memory is read, and nobody wrote it",
                              (long long)(g * grain));
        if (in_epoch(k, wrote) && thread_of(wrote) != me)
            return race(w, i, lane, g * grain, thread_of(wrote), "wrote");
        if (!i->store) {
            const bool others = in_epoch(k, read) && (thread_of(read) != me || (read & MANY));
            k->read[g] = mark | (others ? MANY : 0);
            continue;
        }
        if (in_epoch(k, read) && (thread_of(read) != me || (read & MANY)))
            return race(w, i, lane, g * grain, thread_of(read), "read");
        k->wrote[g] = mark;
    }
    return true;
}

bool ptx__check_shared(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at,
                       int32_t bytes)
{
    count_shared(w->worker, i, bits, at, bytes);
    for (uint64_t left = bits; left; left &= left - 1) {
        const int32_t l = __builtin_ctzll(left);
        if (!check_lane(w, i, l, at[l], bytes)) return false;
    }
    return true;
}
