/* ops.c: one function for each row of ops.def, over the 64 lanes of a wave; compiled once for each
 * level of instructions (PTX_LEVEL), so that the loops become vector code with fma where that
 * exists.
 *
 * Registers are arrays of LANES values.  No two registers overlap unless they are the same, so
 * lanes do not depend on each other. */
#include "internal.h"
#include "rounded.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

typedef uint32_t pr;
typedef uint8_t u8;
typedef int8_t s8;
typedef uint16_t u16;
typedef int16_t s16;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;
typedef int64_t s64;
typedef float f32;
typedef double f64;

#define INLINE static inline __attribute__((always_inline, unused))

INLINE f32 N32(f32 x)
{
    const union {
        u32 u;
        f32 f;
    } nan = {0x7fffffffu};
    return x == x ? x : nan.f;
}
INLINE u32 P(int truth)
{
    return truth ? ~0u : 0u;
}

/* ---- bit fields ---- */
INLINE u64 ones(u32 n)
{
    return n > 63 ? ~(u64)0 : ((u64)1 << n) - 1;
}
INLINE u64 bfe_u64(u64 a, u32 pos, u32 len)
{
    return pos > 63 ? 0 : a >> pos & ones(len);
}
/* What lies beyond the top bit, or beyond the field, is the field's highest bit. */
INLINE s64 bfe_s64(s64 a, u32 pos, u32 len, u32 width)
{
    if (len == 0) return 0;
    const s64 at = a >> (pos > 63 ? 63 : pos);
    if (pos >= width || len > 63 || pos + len >= width) return at;
    const u64 field = (u64)at & ones(len);
    return field >> (len - 1) & 1 ? (s64)(field | ~ones(len)) : (s64)field;
}
INLINE u64 bfi_u64(u64 a, u64 b, u32 pos, u32 len, u32 width)
{
    if (pos >= width) return b;
    const u64 m = ones(len) << pos;
    return (b & ~m) | (a << pos & m);
}
INLINE u32 prmt(u32 a, u32 b, u32 c)
{
    const u64 both = (u64)b << 32 | a;
    u32 out = 0;
    for (u32 i = 0; i < 4; ++i) {
        const u32 pick = c >> 4 * i & 15;
        u32 byte = (u32)(both >> 8 * (pick & 7)) & 255;
        if (pick & 8) byte = byte & 128 ? 255 : 0;
        out |= byte << 8 * i;
    }
    return out;
}
INLINE u32 lop3(u32 a, u32 b, u32 c, u32 table)
{
    u32 out = 0;
    for (u32 i = 0; i < 8; ++i)
        if (table >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return out;
}
INLINE u64 brev64(u64 a)
{
    a = (a >> 1 & 0x5555555555555555u) | (a & 0x5555555555555555u) << 1;
    a = (a >> 2 & 0x3333333333333333u) | (a & 0x3333333333333333u) << 2;
    a = (a >> 4 & 0x0f0f0f0f0f0f0f0fu) | (a & 0x0f0f0f0f0f0f0f0fu) << 4;
    return __builtin_bswap64(a);
}

/* ---- floats to integers: saturating; a NaN is 0, or the integer indefinite for 64 bits ---- */
INLINE s32 to_s32(f64 x)
{
    return x != x ? 0 : x <= -2147483648.0 ? INT32_MIN : x >= 2147483647.0 ? INT32_MAX : (s32)x;
}
INLINE u32 to_u32(f64 x)
{
    return x != x || x <= 0 ? 0 : x >= 4294967295.0 ? UINT32_MAX : (u32)x;
}
INLINE s64 to_s64(f64 x)
{
    return x != x || x <= -0x1p63 ? INT64_MIN : x >= 0x1p63 ? INT64_MAX : (s64)x;
}
INLINE u64 to_u64(f64 x)
{
    return x != x ? (u64)1 << 63 : x <= 0 ? 0 : x >= 0x1p64 ? UINT64_MAX : (u64)x;
}

/* ---- from rows to functions ---- */
#define LOOP _Pragma("omp simd") for (int l = 0; l < LANES; ++l)
#define REG(T, at) ((T *)__builtin_assume_aligned(r + (at), 128))
/* All lanes, and those of a mask (the others keep their value).  WHERE finds the operands, LOAD
 * loads them. */
#define BOTH(id, D, WHERE, LOAD, expr)                                                             \
    static void full_##id(char *r, const ptx_insn *i)                                              \
    {                                                                                              \
        D *const out = REG(D, i->d[0]);                                                            \
        WHERE                                                                                      \
        LOOP                                                                                       \
        {                                                                                          \
            LOAD out[l] = (D)(expr);                                                               \
        }                                                                                          \
    }                                                                                              \
    static void masked_##id(char *r, const ptx_insn *i, const uint32_t *m)                         \
    {                                                                                              \
        D *const out = REG(D, i->d[0]);                                                            \
        WHERE                                                                                      \
        LOOP                                                                                       \
        {                                                                                          \
            LOAD const D x = (D)(expr), old = out[l];                                              \
            out[l] = m[l] ? x : old;                                                               \
        }                                                                                          \
    }
#define WHERE_(T, v, k) const T *const p##v = REG(T, i->s[k]);
#define LOAD_(T, v) const T v = p##v[l];
#define OP1(id, names, D, A, e) BOTH(id, D, WHERE_(A, a, 0), LOAD_(A, a), e)
#define OP2(id, names, D, A, B, e)                                                                 \
    BOTH(id, D, WHERE_(A, a, 0) WHERE_(B, b, 1), LOAD_(A, a) LOAD_(B, b), e)
#define OP3(id, names, D, A, B, C, e)                                                              \
    BOTH(id, D, WHERE_(A, a, 0) WHERE_(B, b, 1) WHERE_(C, c, 2),                                   \
         LOAD_(A, a) LOAD_(B, b) LOAD_(C, c), e)
#define OP4(id, names, D, A, B, C, E, e)                                                           \
    BOTH(id, D, WHERE_(A, a, 0) WHERE_(B, b, 1) WHERE_(C, c, 2) WHERE_(E, d, 3),                   \
         LOAD_(A, a) LOAD_(B, b) LOAD_(C, c) LOAD_(E, d), e)

/* setp of the integer types; unsigned comparisons have a second name. */
#define COMPARE(id, op, s, u, f)                                                                   \
    COMPARE_EQ_##id(op) OP2(setp_##id##_u16, "setp." s ".u16 setp." u ".u16", pr, u16, u16,        \
                            P(a op b))                                                             \
        OP2(setp_##id##_s16, "setp." s ".s16", pr, s16, s16, P(a op b))                            \
            OP2(setp_##id##_u32, "setp." s ".u32 setp." u ".u32", pr, u32, u32, P(a op b))         \
                OP2(setp_##id##_s32, "setp." s ".s32", pr, s32, s32, P(a op b))                    \
                    OP2(setp_##id##_u64, "setp." s ".u64 setp." u ".u64", pr, u64, u64, P(a op b)) \
                        OP2(setp_##id##_s64, "setp." s ".s64", pr, s64, s64, P(a op b))
#define COMPARE_EQ_eq(op) BITS_(eq, op)
#define COMPARE_EQ_ne(op) BITS_(ne, op)
#define COMPARE_EQ_lt(op) FLOATS_(lt, op)
#define COMPARE_EQ_le(op) FLOATS_(le, op)
#define COMPARE_EQ_gt(op) FLOATS_(gt, op)
#define COMPARE_EQ_ge(op) FLOATS_(ge, op)
#define BITS_(id, op)                                                                              \
    OP2(setp_##id##_b16, "setp." #id ".b16", pr, u16, u16, P(a op b))                              \
    OP2(setp_##id##_b32, "setp." #id ".b32", pr, u32, u32, P(a op b))                              \
    OP2(setp_##id##_b64, "setp." #id ".b64", pr, u64, u64, P(a op b))
#define FLOATS_(id, op)                                                                            \
    OP2(setp_##id##_f32, "setp." #id ".f32", pr, f32, f32, P(a op b))                              \
    OP2(setp_##id##_f64, "setp." #id ".f64", pr, f64, f64, P(a op b))

/* The other rounding modes: `directed` computes one lane in the mode (rounded.c). */
#define ROUNDED(mode, word)                                                                        \
    OP2(add_##mode##_f32, "add." #mode ".f32", f32, f32, f32, N32(ptx__add32(a, b, word)))         \
    OP2(sub_##mode##_f32, "sub." #mode ".f32", f32, f32, f32, N32(ptx__sub32(a, b, word)))         \
    OP2(mul_##mode##_f32, "mul." #mode ".f32", f32, f32, f32, N32(ptx__mul32(a, b, word)))         \
    OP2(div_##mode##_f32, "div." #mode ".f32", f32, f32, f32, N32(ptx__div32(a, b, word)))         \
    OP1(rcp_##mode##_f32, "rcp." #mode ".f32", f32, f32, N32(ptx__div32(1.0f, a, word)))           \
    OP1(sqrt_##mode##_f32, "sqrt." #mode ".f32", f32, f32, N32(ptx__sqrt32(a, word)))              \
    OP3(fma_##mode##_f32, "fma." #mode ".f32", f32, f32, f32, f32, N32(ptx__fma32(a, b, c, word))) \
    OP2(add_##mode##_f64, "add." #mode ".f64", f64, f64, f64, ptx__add64(a, b, word))              \
    OP2(sub_##mode##_f64, "sub." #mode ".f64", f64, f64, f64, ptx__sub64(a, b, word))              \
    OP2(mul_##mode##_f64, "mul." #mode ".f64", f64, f64, f64, ptx__mul64(a, b, word))              \
    OP2(div_##mode##_f64, "div." #mode ".f64", f64, f64, f64, ptx__div64(a, b, word))              \
    OP1(rcp_##mode##_f64, "rcp." #mode ".f64", f64, f64, ptx__div64(1.0, a, word))                 \
    OP1(sqrt_##mode##_f64, "sqrt." #mode ".f64", f64, f64, ptx__sqrt64(a, word))                   \
    OP3(fma_##mode##_f64, "fma." #mode ".f64", f64, f64, f64, f64, ptx__fma64(a, b, c, word))      \
    OP1(cvt_##mode##_f32_f64, "cvt." #mode ".f32.f64", f32, f64, N32(ptx__narrow(a, word)))

#define TO_WHOLE(mode, fn)                                                                         \
    OP1(cvt_##mode##_f32, "cvt." #mode ".f32.f32", f32, f32, N32((f32)fn((f64)a)))                 \
    OP1(cvt_##mode##_f64, "cvt." #mode ".f64.f64", f64, f64, fn(a))                                \
    OP1(cvt_##mode##_s32_f32, "cvt." #mode ".s32.f32", s32, f32, to_s32(fn((f64)a)))               \
    OP1(cvt_##mode##_u32_f32, "cvt." #mode ".u32.f32", u32, f32, to_u32(fn((f64)a)))               \
    OP1(cvt_##mode##_s64_f32, "cvt." #mode ".s64.f32", s64, f32, to_s64(fn((f64)a)))               \
    OP1(cvt_##mode##_u64_f32, "cvt." #mode ".u64.f32", u64, f32, to_u64(fn((f64)a)))               \
    OP1(cvt_##mode##_s32_f64, "cvt." #mode ".s32.f64", s32, f64,                                   \
        a != a ? INT32_MIN : to_s32(fn(a)))                                                        \
    OP1(cvt_##mode##_u32_f64, "cvt." #mode ".u32.f64", u32, f64,                                   \
        a != a ? 0x80000000u : to_u32(fn(a)))                                                      \
    OP1(cvt_##mode##_s64_f64, "cvt." #mode ".s64.f64", s64, f64, to_s64(fn(a)))                    \
    OP1(cvt_##mode##_u64_f64, "cvt." #mode ".u64.f64", u64, f64, to_u64(fn(a)))
#include "ops.def"

#undef OP1
#undef OP2
#undef OP3
#undef OP4
#define ROW(id, names, n, ...) {names, n, {__VA_ARGS__}, full_##id, masked_##id},
#define OP1(id, names, D, A, e) ROW(id, names, 1, T_##D, T_##A)
#define OP2(id, names, D, A, B, e) ROW(id, names, 2, T_##D, T_##A, T_##B)
#define OP3(id, names, D, A, B, C, e) ROW(id, names, 3, T_##D, T_##A, T_##B, T_##C)
#define OP4(id, names, D, A, B, C, E, e) ROW(id, names, 4, T_##D, T_##A, T_##B, T_##C, T_##E)
static const ptx_op ops[] = {
#include "ops.def"
    {0}};

/* ---- what runs over lanes besides ---- */

static uint64_t bits(const uint32_t *lanes)
{
    uint64_t out = 0;
#ifdef __SSE2__
    const __m128i *v = (const __m128i *)lanes;
    for (int k = 0; k < LANES / 16; ++k, v += 4) {
        const __m128i lo = _mm_packs_epi32(_mm_load_si128(v), _mm_load_si128(v + 1));
        const __m128i hi = _mm_packs_epi32(_mm_load_si128(v + 2), _mm_load_si128(v + 3));
        out |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_packs_epi16(lo, hi)) << 16 * k;
    }
#else
    for (int l = 0; l < LANES; ++l) out |= (uint64_t)(lanes[l] & 1) << l;
#endif
    return out;
}

static void addresses(const int64_t *base, int64_t imm, uint64_t active, int64_t *out, int64_t *lo,
                      int64_t *hi, int64_t *any)
{
    int64_t least = INT64_MAX, most = INT64_MIN, all = 0;
    if (active == ~(uint64_t)0) {
        for (int l = 0; l < LANES; ++l) {
            const int64_t at = base[l] + imm;
            out[l] = at;
            least = at < least ? at : least;
            most = at > most ? at : most;
            all |= at;
        }
    } else {
        for (uint64_t left = active; left; left &= left - 1) {
            const int l = __builtin_ctzll(left);
            const int64_t at = base[l] + imm;
            out[l] = at;
            least = at < least ? at : least;
            most = at > most ? at : most;
            all |= at;
        }
    }
    *lo = least;
    *hi = most;
    *any = all;
}

static bool is_row(const int64_t *at, int64_t lo, int64_t bytes)
{
    int64_t differ = 0;
    for (int l = 0; l < LANES; ++l) differ |= at[l] ^ (lo + l * bytes);
    return differ == 0;
}

#define NAME_(level) ptx__level_##level
#define NAME(level) NAME_(level)
const ptx_level NAME(PTX_LEVEL) = {ops, bits, addresses, is_row};
