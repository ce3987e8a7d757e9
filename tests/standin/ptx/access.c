/* access.c: loads and stores of a wave: addresses, bounds, alignment, and the bytes. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool ptx__fault(ptx_wave *w, const ptx_insn *i, int32_t lane, sc_status s, const char *fmt, ...)
{
    ptx_worker *k = w->worker;
    const uint32_t *size = k->launch->block;
    const uint32_t t = (uint32_t)(w->index * LANES + lane);
    va_list args;
    if (k->status != SC_OK) return false;
    k->status = s;
    const int n = snprintf(k->text, sizeof(k->text),
                           "%s (PTX line %d) of thread (%u,%u,%u) in block (%u,%u,%u): ", i->name,
                           i->line, t % size[0], t / size[0] % size[1], t / size[0] / size[1],
                           k->block[0], k->block[1], k->block[2]);
    va_start(args, fmt);
    if (n > 0 && (size_t)n < sizeof(k->text))
        vsnprintf(k->text + n, sizeof(k->text) - (size_t)n, fmt, args);
    va_end(args);
    return false;
}

/* ---- bounds ---- */

static int32_t first_lane(uint64_t bits)
{
    return __builtin_ctzll(bits);
}

/* The allocation of [at, at + bytes), from those met lately or from the table. */
static const sc_mem *known(ptx_worker *k, int64_t at, int64_t bytes)
{
    for (int32_t j = 0; j < k->n_known; ++j) {
        const sc_mem *m = &k->known[j];
        const uint64_t off = (uint64_t)at - m->address;
        if (off < (uint64_t)m->bytes && (uint64_t)bytes <= (uint64_t)m->bytes - off) return m;
    }
    sc_mem m;
    if (!sc_mem_find((uint64_t)at, bytes, &m) || m.kind != SC_MEM_DEVICE ||
        m.device != k->f->module->device)
        return NULL;
    const int32_t j = k->n_known < KNOWN ? k->n_known++ : (int32_t)((uint64_t)at >> 12) % KNOWN;
    k->known[j] = m;
    return &k->known[j];
}

static bool global_bounds(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at,
                          int64_t lo, int64_t hi, int32_t bytes)
{
    ptx_worker *k = w->worker;
    char what[256];
    if (!known(k, lo, hi - lo + bytes)) /* else all is in one allocation */
        for (uint64_t left = bits; left; left &= left - 1) {
            const int32_t l = first_lane(left);
            if (known(k, at[l], bytes)) continue;
            sc_mem_describe((uint64_t)at[l], bytes, what, sizeof(what));
            return ptx__fault(w, i, l, SC_ILLEGAL_ADDRESS, "%s", what);
        }
    ptx_range *r = &k->ranges[i->counter];
    if (lo < r->lo) r->lo = lo;
    if (hi + bytes > r->hi) r->hi = hi + bytes;
    return true;
}

static bool space_bounds(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at,
                         int64_t lo, int64_t hi, int32_t bytes, int64_t size, const char *space)
{
    if (lo >= 0 && hi + bytes <= size) return true;
    for (uint64_t left = bits; left; left &= left - 1) {
        const int32_t l = first_lane(left);
        if (at[l] < 0 || at[l] + bytes > size)
            return ptx__fault(w, i, l, SC_ILLEGAL_ADDRESS,
                              "%d bytes at %lld of %s memory of %lld bytes", bytes,
                              (long long)at[l], space, (long long)size);
    }
    return true;
}

/* ---- the bytes ---- */

#define EVERY(l, bits)                                                                             \
    for (uint64_t left_ = (bits); left_; left_ &= left_ - 1)                                       \
        for (int32_t l = first_lane(left_), once_ = 1; once_; once_ = 0)

#define GATHER(T, R)                                                                               \
    do {                                                                                           \
        R *const to = (R *)reg;                                                                    \
        if (bits == ~(uint64_t)0)                                                                  \
            for (int32_t l = 0; l < LANES; ++l) {                                                  \
                T v;                                                                               \
                memcpy(&v, from + at[l], sizeof(v));                                               \
                to[l] = (R)v;                                                                      \
            }                                                                                      \
        else EVERY(l, bits)                                                                        \
            {                                                                                      \
                T v;                                                                               \
                memcpy(&v, from + at[l], sizeof(v));                                               \
                to[l] = (R)v;                                                                      \
            }                                                                                      \
    } while (0)
#define SCATTER(T, R)                                                                              \
    do {                                                                                           \
        const R *const of = (const R *)reg;                                                        \
        EVERY(l, bits)                                                                             \
        {                                                                                          \
            const T v = (T)of[l];                                                                  \
            memcpy(to + at[l], &v, sizeof(v));                                                     \
        }                                                                                          \
    } while (0)

/* One element of `bytes` for each lane into a register of `reg_bytes`. */
static void gather(char *reg, const char *from, const int64_t *at, uint64_t bits, const ptx_insn *i)
{
    switch (i->reg_bytes * 32 + i->bytes * 2 + (i->sign && i->bytes < i->reg_bytes)) {
    case 2 * 32 + 1 * 2: GATHER(uint8_t, uint16_t); break;
    case 2 * 32 + 1 * 2 + 1: GATHER(int8_t, uint16_t); break;
    case 2 * 32 + 2 * 2: GATHER(uint16_t, uint16_t); break;
    case 4 * 32 + 1 * 2: GATHER(uint8_t, uint32_t); break;
    case 4 * 32 + 1 * 2 + 1: GATHER(int8_t, uint32_t); break;
    case 4 * 32 + 2 * 2: GATHER(uint16_t, uint32_t); break;
    case 4 * 32 + 2 * 2 + 1: GATHER(int16_t, uint32_t); break;
    case 4 * 32 + 4 * 2: GATHER(uint32_t, uint32_t); break;
    case 8 * 32 + 1 * 2: GATHER(uint8_t, uint64_t); break;
    case 8 * 32 + 1 * 2 + 1: GATHER(int8_t, uint64_t); break;
    case 8 * 32 + 2 * 2: GATHER(uint16_t, uint64_t); break;
    case 8 * 32 + 2 * 2 + 1: GATHER(int16_t, uint64_t); break;
    case 8 * 32 + 4 * 2: GATHER(uint32_t, uint64_t); break;
    case 8 * 32 + 4 * 2 + 1: GATHER(int32_t, uint64_t); break;
    default: GATHER(uint64_t, uint64_t); break;
    }
}

static void scatter(const char *reg, char *to, const int64_t *at, uint64_t bits, const ptx_insn *i)
{
    switch (i->reg_bytes * 16 + i->bytes) {
    case 2 * 16 + 1: SCATTER(uint8_t, uint16_t); break;
    case 2 * 16 + 2: SCATTER(uint16_t, uint16_t); break;
    case 4 * 16 + 1: SCATTER(uint8_t, uint32_t); break;
    case 4 * 16 + 2: SCATTER(uint16_t, uint32_t); break;
    case 4 * 16 + 4: SCATTER(uint32_t, uint32_t); break;
    case 8 * 16 + 1: SCATTER(uint8_t, uint64_t); break;
    case 8 * 16 + 2: SCATTER(uint16_t, uint64_t); break;
    case 8 * 16 + 4: SCATTER(uint32_t, uint64_t); break;
    default: SCATTER(uint64_t, uint64_t); break;
    }
}

/* origin: where address 0 of the space would be. */
static void move(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at, int64_t lo,
                 int64_t hi, char *origin)
{
    const bool same = i->bytes == i->reg_bytes && bits == ~(uint64_t)0 && i->n == 1;
    if (same && hi - lo == (LANES - 1) * i->bytes &&
        w->worker->f->module->level->is_row(at, lo, i->bytes)) {
        char *const reg = w->regs + (i->store ? i->s[0] : i->d[0]);
        if (i->store) memcpy(origin + lo, reg, (size_t)(LANES * i->bytes));
        else memcpy(reg, origin + lo, (size_t)(LANES * i->bytes));
        return;
    }
    for (int32_t e = 0; e < i->n; ++e) {
        if (i->store) scatter(w->regs + i->s[e], origin + e * i->bytes, at, bits, i);
        else gather(w->regs + i->d[e], origin + e * i->bytes, at, bits, i);
    }
}

/* Local memory: word k of lane l at (k * LANES + l), so that lanes which read the same place of
 * theirs read a row. */
static void move_local(ptx_wave *w, const ptx_insn *i, uint64_t bits, const int64_t *at)
{
    char *const local = w->local;
    for (int32_t e = 0; e < i->n; ++e) {
        char *const reg = w->regs + (i->store ? i->s[e] : i->d[e]);
        EVERY(l, bits)
        {
            const int64_t a = at[l] + e * i->bytes;
            uint64_t v = 0;
            char *const first = local + (a / 4 * LANES + l) * 4 + a % 4;
            const int32_t head = i->bytes < 4 ? i->bytes : 4;
            if (i->store) {
                memcpy(&v, reg + l * i->reg_bytes, i->reg_bytes);
                memcpy(first, &v, (size_t)head);
                if (i->bytes == 8) memcpy(first + LANES * 4, (char *)&v + 4, 4);
                continue;
            }
            memcpy(&v, first, (size_t)head);
            if (i->bytes == 8) memcpy((char *)&v + 4, first + LANES * 4, 4);
            const int shift = 64 - 8 * i->bytes;
            if (i->sign) v = (uint64_t)((int64_t)(v << shift) >> shift);
            memcpy(reg + l * i->reg_bytes, &v, i->reg_bytes);
        }
    }
}

/* ---- one instruction ---- */

static void find_addresses(ptx_wave *w, const ptx_insn *i, uint64_t bits, int64_t *at, int64_t *lo,
                           int64_t *hi, int64_t *any)
{
    const ptx_level *level = w->worker->f->module->level;
    int64_t wide[LANES];
    if (i->addr_bytes == 8) {
        level->addresses((const int64_t *)(w->regs + i->s[4]), i->imm, bits, at, lo, hi, any);
        return;
    }
    const uint32_t *narrow = i->addr_bytes ? (const uint32_t *)(w->regs + i->s[4]) : NULL;
    for (int32_t l = 0; l < LANES; ++l) wide[l] = narrow ? narrow[l] : 0;
    level->addresses(wide, i->imm, bits, at, lo, hi, any);
}

/* The space of generic addresses; they become addresses in it. */
static bool resolve(ptx_wave *w, const ptx_insn *i, uint64_t bits, int64_t *at, int64_t *lo,
                    int64_t *hi, ptx_space *out)
{
    const uint64_t window = (uint64_t)*lo & ~(SHARED_WINDOW - 1);
    if ((((uint64_t)*hi) & ~(SHARED_WINDOW - 1)) != window)
        return ptx__fault(w, i, first_lane(bits), SC_ILLEGAL_ADDRESS,
                          "generic addresses of several spaces");
    *out = window == SHARED_WINDOW ? S_SHARED : window == LOCAL_WINDOW ? S_LOCAL : S_GLOBAL;
    if (*out == S_GLOBAL) return true;
    for (int32_t l = 0; l < LANES; ++l) at[l] -= (int64_t)window;
    *lo -= (int64_t)window;
    *hi -= (int64_t)window;
    return true;
}

bool ptx__memory(ptx_wave *w, const ptx_insn *i, uint64_t bits)
{
    ptx_worker *k = w->worker;
    const ptx_function *f = k->f;
    const int32_t bytes = i->n * i->bytes;
    _Alignas(64) int64_t at[LANES];
    int64_t lo, hi, any;
    ptx_space space = (ptx_space)i->space;
    if (bits == 0) return true;
    find_addresses(w, i, bits, at, &lo, &hi, &any);
    if (any & (bytes - 1)) {
        uint64_t left = bits;
        while (!(at[first_lane(left)] & (bytes - 1))) left &= left - 1;
        return ptx__fault(w, i, first_lane(left), SC_MISALIGNED,
                          "address 0x%llx is not a multiple of %d",
                          (unsigned long long)at[first_lane(left)], bytes);
    }
    if (space == S_GENERIC && !resolve(w, i, bits, at, &lo, &hi, &space)) return false;
    switch (space) {
    case S_SHARED:
        if (!space_bounds(w, i, bits, at, lo, hi, bytes, k->shared_bytes, "shared")) return false;
        if (k->checked && !ptx__check_shared(w, i, bits, at, bytes)) return false;
        move(w, i, bits, at, lo, hi, (char *)k->shared);
        return true;
    case S_PARAM:
        if (!space_bounds(w, i, bits, at, lo, hi, bytes, f->param_bytes, "parameter")) return false;
        move(w, i, bits, at, lo, hi, (char *)(uintptr_t)k->launch->params);
        return true;
    case S_LOCAL:
        if (!space_bounds(w, i, bits, at, lo, hi, bytes, f->local_bytes, "local")) return false;
        move_local(w, i, bits, at);
        return true;
    default:
        if (!global_bounds(w, i, bits, at, lo, hi, bytes)) return false;
        if (k->checked) ptx__count_global(k, i, bits, at, bytes);
        move(w, i, bits, at, lo, hi, (char *)sc_mem_alias((uint64_t)lo) - lo);
        return true;
    }
}
