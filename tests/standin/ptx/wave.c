/* wave.c: 64 lanes in lock step.
 *
 * The lanes that run have one program counter.  At a branch they may part: those that go to the
 * smaller place run on, the others wait as a group.  Where a block begins, groups that have met
 * become one, and the one with the smallest program counter runs: since compilers lay blocks out in
 * the order of the flow, lanes come together again where their paths do. */
#include "internal.h"

#include <string.h>

static void set_bits(ptx_wave *w, uint64_t bits)
{
    w->bits = bits;
    for (int32_t l = 0; l < LANES; ++l) w->mask[l] = 0u - (uint32_t)(bits >> l & 1);
}

static void wait_at(ptx_wave *w, int32_t pc, uint64_t bits)
{
    for (int32_t g = 0; g < w->n_groups; ++g)
        if (w->group[g].pc == pc) {
            w->group[g].bits |= bits;
            return;
        }
    w->group[w->n_groups++] = (ptx_group){pc, bits};
}

/* The group with the smallest program counter runs; false: there is none. */
static bool pick(ptx_wave *w)
{
    int32_t least = 0;
    if (w->n_groups == 0) return false;
    for (int32_t g = 1; g < w->n_groups; ++g)
        if (w->group[g].pc < w->group[least].pc) least = g;
    w->pc = w->group[least].pc;
    set_bits(w, w->group[least].bits);
    w->group[least] = w->group[--w->n_groups];
    return true;
}

/* At the beginning of a block, with groups waiting. */
static void meet(ptx_wave *w)
{
    int32_t least = w->pc;
    bool here = false;
    for (int32_t g = 0; g < w->n_groups; ++g) {
        least = w->group[g].pc < least ? w->group[g].pc : least;
        here |= w->group[g].pc == w->pc;
    }
    if (least == w->pc && !here) return;
    wait_at(w, w->pc, w->bits);
    pick(w);
}

static uint64_t guarded(const ptx_wave *w, const ptx_insn *i)
{
    if (i->guard < 0) return w->bits;
    const uint64_t p = w->worker->f->module->level->bits((const uint32_t *)(w->regs + i->guard));
    return w->bits & (i->guard_not ? ~p : p);
}

static void branch(ptx_wave *w, const ptx_insn *i)
{
    const uint64_t taken = guarded(w, i);
    const int32_t next = w->pc + 1;
    if (taken == w->bits) w->pc = i->target;
    else if (taken == 0) w->pc = next;
    else {
        const bool back = i->target < next;
        const uint64_t on = back ? taken : w->bits & ~taken;
        wait_at(w, back ? next : i->target, w->bits & ~on);
        set_bits(w, on);
        w->pc = back ? i->target : next;
    }
}

static void run_op(ptx_wave *w, const ptx_insn *i)
{
    _Alignas(64) uint32_t mask[LANES];
    if (i->guard < 0) {
        if (w->bits == ~(uint64_t)0) i->full(w->regs, i);
        else i->masked(w->regs, i, w->mask);
        return;
    }
    const uint32_t *p = (const uint32_t *)(w->regs + i->guard), flip = i->guard_not ? ~0u : 0;
    for (int32_t l = 0; l < LANES; ++l) mask[l] = w->mask[l] & (p[l] ^ flip);
    i->masked(w->regs, i, mask);
}

/* Parts to a whole or back. */
static void run_parts(ptx_wave *w, const ptx_insn *i)
{
    const uint64_t bits = guarded(w, i);
    const int32_t whole = i->n * i->bytes;
    for (int32_t l = 0; l < LANES; ++l)
        for (int32_t k = 0; k < i->n && (bits >> l & 1); ++k) {
            if (i->kind == K_PACK)
                memcpy(w->regs + i->d[0] + l * whole + k * i->bytes,
                       w->regs + i->s[k] + l * i->bytes, i->bytes);
            else
                memcpy(w->regs + i->d[k] + l * i->bytes,
                       w->regs + i->s[0] + l * whole + k * i->bytes, i->bytes);
        }
}

static bool divergent(ptx_wave *w, const ptx_insn *i, uint64_t missing)
{
    return ptx__fault(
        w, i, __builtin_ctzll(w->at_barrier ? w->at_barrier : w->bits), SC_LAUNCH_FAILED,
        "a divergent barrier: thread %d of the wave does not reach it", __builtin_ctzll(missing));
}

/* The lanes that run wait at the barrier.  True: the wave goes on with others, or all have arrived.
 */
static bool arrive(ptx_wave *w, const ptx_insn *i)
{
    if (w->at_barrier && w->barrier_pc != w->pc) return divergent(w, i, w->bits);
    w->at_barrier |= w->bits;
    w->barrier_pc = w->pc;
    return true;
}

/* Runs until all lanes are at a barrier or have ended; false: a fault. */
bool ptx__wave_run(ptx_wave *w, uint64_t all)
{
    const ptx_insn *const code = w->worker->f->code;
    int64_t executed = 0;
    bool good = true;
    if (w->at_barrier) {
        w->pc = w->barrier_pc + 1;
        set_bits(w, w->at_barrier);
        w->at_barrier = 0;
    }
    for (bool more = true; more && good;) {
        if (code[w->pc].leader && w->n_groups) meet(w);
        const ptx_insn *i = &code[w->pc];
        executed += LANES; /* of the machine; lanes that wait cost as much */
        switch ((ptx_kind)i->kind) {
        case K_OP:
            run_op(w, i);
            ++w->pc;
            break;
        case K_MEM:
            good = ptx__memory(w, i, guarded(w, i));
            ++w->pc;
            break;
        case K_BRA: branch(w, i); break;
        case K_BAR:
            good = arrive(w, i);
            more = good && pick(w);
            break;
        case K_RET: {
            const uint64_t ends = guarded(w, i);
            w->live &= ~ends;
            if (ends == w->bits) more = pick(w);
            else set_bits(w, w->bits & ~ends), ++w->pc;
            break;
        }
        case K_TRAP:
            good = guarded(w, i) == 0 ||
                   ptx__fault(w, i, __builtin_ctzll(guarded(w, i)), SC_LAUNCH_FAILED, "trap");
            ++w->pc;
            break;
        case K_PACK:
        case K_UNPACK:
            run_parts(w, i);
            ++w->pc;
            break;
        default: ++w->pc; break;
        }
    }
    w->worker->executed += executed;
    if (good && w->at_barrier && w->at_barrier != all)
        good = divergent(w, &code[w->barrier_pc], all & ~w->at_barrier);
    return good;
}

void ptx__wave_start(ptx_wave *w, uint64_t all)
{
    w->live = all;
    w->pc = 0;
    w->n_groups = 0;
    w->at_barrier = 0;
    set_bits(w, all);
}
