/* place.c: gives the registers of a function their places in the register file of a wave.
 *
 * PTX has a new register for every value; thousands of them, 64 lanes wide, would not fit into a
 * cache. So copies of registers that are written once vanish, and registers that are never alive at
 * the same time share a place: liveness over the blocks, one interval for each register, first fit
 * in order of their beginnings.  Lanes that wait elsewhere keep their values, since places belong
 * to lanes. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct block {
    int32_t first, end;
    int32_t next[2]; /* blocks that follow, or -1 */
} block;

typedef struct live {
    ptx_function *f;
    block *blocks;
    int32_t n_blocks;
    int32_t *block_of; /* of each instruction */
    size_t words;      /* of a set of registers */
    uint64_t *use, *def, *in, *out;
    int32_t *begin, *end; /* interval of each register */
} live;

static int32_t same_of(const ptx_function *f, int32_t r)
{
    while (r >= 0 && f->regs[r].same >= 0) r = f->regs[r].same;
    return r;
}

/* d = s without a guard, both written once: what reads d may as well read s. */
static void drop_copies(ptx_function *f)
{
    for (int32_t k = 0; k < f->n_code; ++k) {
        ptx_insn *i = &f->code[k];
        if (i->kind != K_OP || i->guard >= 0 || strncmp(i->name, "mov.", 4) != 0) continue;
        ptx_reg *d = &f->regs[i->d[0]];
        const ptx_reg *s = &f->regs[i->s[0]];
        const bool fixed = s->constant || i->s[0] < SPECIALS || s->defs == 1;
        if (d->defs != 1 || !fixed || d->bytes != s->bytes) continue;
        d->same = i->s[0];
        i->kind = K_NOP;
        i->d[0] = i->s[0] = -1;
    }
    for (int32_t k = 0; k < f->n_code; ++k) {
        ptx_insn *i = &f->code[k];
        for (int32_t j = 0; j < MAX_SRC; ++j) i->s[j] = same_of(f, i->s[j]);
        i->guard = same_of(f, i->guard);
    }
}

/* Removes what does nothing now; targets of branches follow. */
static bool compact(ptx_function *f)
{
    int32_t *to = malloc(((size_t)f->n_code + 1) * sizeof(*to));
    int32_t n = 0;
    if (!to) return false;
    bool leader = false;
    for (int32_t k = 0; k < f->n_code; ++k) {
        to[k] = n;
        leader |= f->code[k].leader;
        if (f->code[k].kind == K_NOP && k + 1 < f->n_code) continue;
        f->code[n] = f->code[k];
        f->code[n++].leader = leader;
        leader = false;
    }
    for (int32_t k = 0; k < n; ++k)
        if (f->code[k].target >= 0) f->code[k].target = to[f->code[k].target];
    f->n_code = n;
    free(to);
    return true;
}

/* ---- liveness ---- */

static bool find_blocks(live *v)
{
    ptx_function *f = v->f;
    v->blocks = calloc((size_t)f->n_code, sizeof(*v->blocks));
    v->block_of = calloc((size_t)f->n_code, sizeof(*v->block_of));
    if (!v->blocks || !v->block_of) return false;
    for (int32_t k = 0; k < f->n_code; ++k) {
        const bool after = k > 0 && (f->code[k - 1].kind == K_BRA || f->code[k - 1].kind == K_RET);
        if (k == 0 || f->code[k].leader || after) v->blocks[v->n_blocks++].first = k;
        v->block_of[k] = v->n_blocks - 1;
    }
    for (int32_t b = 0; b < v->n_blocks; ++b) {
        block *k = &v->blocks[b];
        k->end = b + 1 < v->n_blocks ? v->blocks[b + 1].first : f->n_code;
        const ptx_insn *last = &f->code[k->end - 1];
        const bool jumps = last->kind == K_BRA, leaves = last->kind == K_RET;
        k->next[0] = (jumps || leaves) && last->guard < 0 ? -1 : b + 1 < v->n_blocks ? b + 1 : -1;
        k->next[1] = jumps ? v->block_of[last->target] : -1;
    }
    return true;
}

static void set(uint64_t *s, int32_t r)
{
    s[r / 64] |= (uint64_t)1 << r % 64;
}
static bool has(const uint64_t *s, int32_t r)
{
    return s[r / 64] >> r % 64 & 1;
}

/* What a block reads before it writes it, and what it surely writes. */
static void find_uses(live *v)
{
    for (int32_t b = 0; b < v->n_blocks; ++b) {
        uint64_t *use = v->use + (size_t)b * v->words, *def = v->def + (size_t)b * v->words;
        for (int32_t k = v->blocks[b].first; k < v->blocks[b].end; ++k) {
            const ptx_insn *i = &v->f->code[k];
            for (int32_t j = 0; j < MAX_SRC; ++j)
                if (i->s[j] >= 0 && !has(def, i->s[j])) set(use, i->s[j]);
            if (i->guard >= 0 && !has(def, i->guard)) set(use, i->guard);
            for (int32_t j = 0; j < MAX_DST; ++j) {
                if (i->d[j] < 0) continue;
                if (i->guard < 0) set(def, i->d[j]);
                else if (!has(def, i->d[j])) set(use, i->d[j]); /* lanes keep the old value */
            }
        }
    }
}

static void spread(live *v)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (int32_t b = v->n_blocks - 1; b >= 0; --b) {
            const size_t at = (size_t)b * v->words;
            for (int32_t j = 0; j < 2; ++j) {
                if (v->blocks[b].next[j] < 0) continue;
                const uint64_t *in = v->in + (size_t)v->blocks[b].next[j] * v->words;
                for (size_t w = 0; w < v->words; ++w) v->out[at + w] |= in[w];
            }
            for (size_t w = 0; w < v->words; ++w) {
                const uint64_t in = v->use[at + w] | (v->out[at + w] & ~v->def[at + w]);
                changed |= in != v->in[at + w];
                v->in[at + w] = in;
            }
        }
    }
}

static void cover(live *v, int32_t r, int32_t at)
{
    if (at < v->begin[r]) v->begin[r] = at;
    if (at > v->end[r]) v->end[r] = at;
}

/* Intervals in half steps: an instruction reads at 2k and writes at 2k + 1. */
static void find_intervals(live *v)
{
    for (int32_t r = 0; r < v->f->n_regs; ++r) {
        v->begin[r] = INT32_MAX;
        v->end[r] = -1;
    }
    for (int32_t k = 0; k < v->f->n_code; ++k) {
        const ptx_insn *i = &v->f->code[k];
        for (int32_t j = 0; j < MAX_SRC; ++j)
            if (i->s[j] >= 0) cover(v, i->s[j], 2 * k);
        if (i->guard >= 0) cover(v, i->guard, 2 * k);
        for (int32_t j = 0; j < MAX_DST; ++j)
            if (i->d[j] >= 0) cover(v, i->d[j], 2 * k + 1);
    }
    for (int32_t b = 0; b < v->n_blocks; ++b)
        for (int32_t r = SPECIALS; r < v->f->n_regs; ++r) {
            const size_t at = (size_t)b * v->words;
            if (has(v->in + at, r)) cover(v, r, 2 * v->blocks[b].first);
            if (has(v->out + at, r)) cover(v, r, 2 * v->blocks[b].end - 1);
        }
}

/* ---- places ---- */

static _Thread_local const int32_t *sort_by;
static int by_begin(const void *a, const void *b)
{
    const int32_t x = sort_by[*(const int32_t *)a], y = sort_by[*(const int32_t *)b];
    return (x > y) - (x < y);
}

static int32_t slot_bytes(const ptx_reg *r)
{
    return LANES * (r->bytes == 8 ? 8 : 4);
}

/* A result may take the place of an operand, so places are shared among values of one width only.
 * Free places are stacks: the one that was freed last is warm. */
enum { POOLS = 3 };
static int32_t pool_of(const ptx_reg *r)
{
    return r->bytes == 8 ? 1 : r->bytes == 2 ? 2 : 0;
}

static bool give_places(live *v)
{
    ptx_function *f = v->f;
    int32_t *order = malloc((size_t)f->n_regs * sizeof(*order));
    int32_t *active = malloc((size_t)f->n_regs * sizeof(*active));
    int32_t *free_at[POOLS], n_free[POOLS] = {0};
    int32_t n = 0, n_active = 0, top = 0;
    bool good = order && active;
    for (int32_t w = 0; w < POOLS; ++w)
        good = (free_at[w] = malloc((size_t)f->n_regs * sizeof(int32_t))) != NULL && good;
    for (int32_t r = 0; good && r < f->n_regs; ++r) {
        const bool fixed = r < SPECIALS || f->regs[r].constant;
        if (fixed && (r < SPECIALS || v->end[r] >= 0)) {
            f->regs[r].offset = top;
            top += slot_bytes(&f->regs[r]);
        } else if (!fixed && v->end[r] >= 0) order[n++] = r;
    }
    sort_by = v->begin;
    if (good) qsort(order, (size_t)n, sizeof(*order), by_begin);
    for (int32_t k = 0; good && k < n; ++k) {
        ptx_reg *r = &f->regs[order[k]];
        const int32_t pool = pool_of(r);
        for (int32_t a = 0; a < n_active;) {
            const int32_t old = active[a];
            if (v->end[old] >= v->begin[order[k]]) {
                ++a;
                continue;
            }
            const int32_t w = pool_of(&f->regs[old]);
            free_at[w][n_free[w]++] = f->regs[old].offset;
            active[a] = active[--n_active];
        }
        if (n_free[pool]) r->offset = free_at[pool][--n_free[pool]];
        else {
            r->offset = top;
            top += slot_bytes(r);
        }
        active[n_active++] = order[k];
    }
    f->file_bytes = top;
    free(order);
    free(active);
    for (int32_t w = 0; w < POOLS; ++w) free(free_at[w]);
    return good;
}

static void name_places(ptx_function *f)
{
    for (int32_t k = 0; k < f->n_code; ++k) {
        ptx_insn *i = &f->code[k];
        for (int32_t j = 0; j < MAX_SRC; ++j)
            if (i->s[j] >= 0) i->s[j] = f->regs[i->s[j]].offset;
        for (int32_t j = 0; j < MAX_DST; ++j)
            if (i->d[j] >= 0) i->d[j] = f->regs[i->d[j]].offset;
        if (i->guard >= 0) i->guard = f->regs[i->guard].offset;
    }
}

/* Registers whose value never changes are kept; the others are not needed any more. */
static void keep_constants(ptx_function *f, const live *v)
{
    int32_t n = SPECIALS;
    for (int32_t r = SPECIALS; r < f->n_regs; ++r)
        if (f->regs[r].constant && v->end[r] >= 0) f->regs[n++] = f->regs[r];
    f->n_regs = n;
}

bool ptx__place(ptx_function *f)
{
    live v = {.f = f};
    drop_copies(f);
    if (!compact(f)) return false;
    f->counts = calloc((size_t)f->n_counters + 1, sizeof(*f->counts));
    bool good = f->counts && find_blocks(&v);
    if (good) {
        v.words = ((size_t)f->n_regs + 63) / 64;
        const size_t all = v.words * (size_t)v.n_blocks;
        uint64_t *sets = calloc(4 * all, sizeof(*sets));
        v.begin = malloc((size_t)f->n_regs * sizeof(int32_t));
        v.end = malloc((size_t)f->n_regs * sizeof(int32_t));
        good = sets && v.begin && v.end;
        if (good) {
            v.use = sets;
            v.def = sets + all;
            v.in = sets + 2 * all;
            v.out = sets + 3 * all;
            find_uses(&v);
            spread(&v);
            find_intervals(&v);
            good = give_places(&v);
        }
        if (good) {
            name_places(f);
            keep_constants(f, &v);
        }
        free(sets);
    }
    free(v.begin);
    free(v.end);
    free(v.blocks);
    free(v.block_of);
    return good;
}
