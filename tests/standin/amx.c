/* amx.c: see amx.h.  Covers LDTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1, TILESTORED
 * and TDPBF16PS (Intel's manual, volume 2: VEX.128.0F38.W0 49, 4B, 5C); any other trap ends the
 * test by the signal, as without the handler.  TDPBF16PS is the emulation that was compared with
 * the instruction on 15 million results: an even and an odd chain of fma, their sum, one addition,
 * denormal inputs and results flushed to signed zero. */
#include "amx.h"

#include "backends/cpu/isa.h"

#if defined(__x86_64__)
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <xmmintrin.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

typedef struct config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;

static __thread struct {
    config c;
    _Alignas(64) uint8_t tile[TILES][ROWS][ROW_BYTES];
} state;
static long count;

long standin_amx_count(void)
{
    return __atomic_load_n(&count, __ATOMIC_RELAXED);
}

/* ---- TDPBF16PS ---- */

static float flush(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    u = (u & 0x7f800000u) ? u : u & 0x80000000u;
    memcpy(&x, &u, sizeof(x));
    return x;
}

static float element(const uint8_t *p, int i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, sizeof(h));
    uint32_t u = (uint32_t)((h & 0x7f80) ? h : h & 0x8000) << 16;
    float x;
    memcpy(&x, &u, sizeof(x));
    return x;
}

/* The product is exact in f64; a result is tiny if it rounds, with unbounded exponent, to less than
 * the least normal number. */
static float fma_flush(float a, float b, float c)
{
    float r = fmaf(a, b, c);
    if (fabsf(r) == 0x1p-126f) { /* scaled by 2^64 the rounding is that of an unbounded exponent */
        float big = fabsf(a) > fabsf(b) ? a : b, small = fabsf(a) > fabsf(b) ? b : a;
        if (fabsf(fmaf(small * 0x1p64f, big, c * 0x1p64f)) < 0x1p-62f) return copysignf(0, r);
    }
    return flush(r);
}

static void multiply(int sum, int a, int b)
{
    for (int m = 0; m < state.c.rows[sum]; ++m)
        for (int n = 0; n < state.c.row_bytes[sum] / 4; ++n) {
            float even = 0, odd = 0, *x = (float *)(void *)state.tile[sum][m] + n;
            for (int k = 0; k < state.c.row_bytes[a] / 4; ++k) {
                const uint8_t *p = state.tile[a][m], *q = state.tile[b][k];
                even = fma_flush(element(p, 2 * k), element(q, 2 * n), even);
                odd = fma_flush(element(p, 2 * k + 1), element(q, 2 * n + 1), odd);
            }
            *x = flush(flush(*x) + flush(even + odd));
        }
}

/* ---- decoding ---- */

typedef struct instruction {
    int prefix, opcode; /* 0, 1, 2, 3: none, 66, F3, F2 */
    int reg, rm, vvvv;
    bool memory;
    uint64_t base, step; /* address of row 0; bytes between rows (the index register) */
    int length;
} instruction;

static uint64_t general(const ucontext_t *u, int n)
{
    static const int where[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)u->uc_mcontext.gregs[where[n]];
}

/* The memory operand behind ModRM; x, b: the extension bits of index and base. */
static const uint8_t *decode_memory(const ucontext_t *u, const uint8_t *p, int mod, int x, int b,
                                    instruction *out)
{
    int base = out->rm | b << 3;
    int64_t offset = 0;
    if (out->rm == 4) {
        int sib = *p++, index = (sib >> 3 & 7) | x << 3;
        base = (sib & 7) | b << 3;
        out->step = index == 4 ? 0 : general(u, index) << (sib >> 6);
    }
    if (mod == 1) {
        offset = *(const int8_t *)p;
        p += 1;
    } else if (mod == 2 || (mod == 0 && (base & 7) == 5)) {
        int32_t d;
        memcpy(&d, p, sizeof(d));
        offset = d;
        p += 4;
    }
    bool none = mod == 0 && (base & 7) == 5; /* RIP-relative, or no base */
    uint64_t from = !none ? general(u, base) : out->rm == 5 ? (uint64_t)(uintptr_t)p : 0;
    out->base = from + (uint64_t)offset;
    return p;
}

static bool decode(const ucontext_t *u, instruction *out)
{
    const uint8_t *start = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP], *p = start;
    if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84)) return false; /* map 0F38, W0, L0 */
    int x = !(p[1] & 0x40), b = !(p[1] & 0x20), modrm = p[4];
    *out = (instruction){.prefix = p[2] & 3,
                         .opcode = p[3],
                         .vvvv = ~(p[2] >> 3) & 15,
                         .reg = modrm >> 3 & 7,
                         .rm = modrm & 7,
                         .memory = modrm >> 6 != 3};
    p += 5;
    if (out->memory) p = decode_memory(u, p, modrm >> 6, x, b, out);
    out->length = (int)(p - start);
    return true;
}

/* ---- executing ---- */

static void move(const instruction *i, bool store)
{
    for (int r = 0; r < state.c.rows[i->reg]; ++r) {
        uint8_t *at = (uint8_t *)(uintptr_t)(i->base + (uint64_t)r * i->step),
                *t = state.tile[i->reg][r];
        memcpy(store ? at : t, store ? t : at, state.c.row_bytes[i->reg]);
    }
}

static bool execute(const instruction *i)
{
    if (i->opcode == 0x49 && i->memory && i->prefix == 0) {
        memset(&state, 0, sizeof(state));
        memcpy(&state.c, (const void *)(uintptr_t)i->base, sizeof(state.c));
        return state.c.palette == 1;
    }
    if (i->opcode == 0x49 && !i->memory && i->prefix == 0) {
        memset(&state, 0, sizeof(state));
        return true;
    }
    if (state.c.palette != 1) return false; /* tiles without a configuration trap in hardware too */
    if (i->opcode == 0x49 && i->prefix == 3) memset(state.tile[i->reg], 0, sizeof(state.tile[0]));
    else if (i->opcode == 0x4b && (i->prefix == 3 || i->prefix == 1)) move(i, false);
    else if (i->opcode == 0x4b && i->prefix == 2) move(i, true);
    else if (i->opcode == 0x5c && i->prefix == 2) multiply(i->reg, i->rm, i->vvvv);
    else return false;
    return true;
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    (void)info;
    ucontext_t *u = context;
    instruction i;
    unsigned mode = _mm_getcsr();
    _mm_setcsr(0x1f80); /* the instruction does not look at it, and fmaf must */
    bool done = decode(u, &i) && execute(&i);
    _mm_setcsr(mode);
    if (!done) {
        signal(number, SIG_DFL);
        return;
    }
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    u->uc_mcontext.gregs[REG_RIP] += i.length;
}

bool standin_amx_open(void)
{
    struct sigaction a = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
    return iv__isa_has_amx_bf16() || sigaction(SIGILL, &a, NULL) == 0;
}

#else

bool standin_amx_open(void)
{
    return false;
}

long standin_amx_count(void)
{
    return 0;
}

#endif
