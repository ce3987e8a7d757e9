/* Integer instructions of the PTX machine against C, each written another way than in ptx/ops.def.
 */
#include "ptx_rig.h"

typedef uint64_t u64;
typedef int64_t s64;
typedef unsigned __int128 u128;
typedef __int128 s128;

/* FN(name) defines a reference of the bits a b c d; S8.. reads them as signed. */
#define FN(name, expr)                                                                             \
    static u64 name(u64 a, u64 b, u64 c, u64 d)                                                    \
    {                                                                                              \
        (void)a, (void)b, (void)c, (void)d;                                                        \
        return (u64)(expr);                                                                        \
    }
static s64 sx(u64 v, int bits) /* sign-extended */
{
    return (s64)(v << (64 - bits)) >> (64 - bits);
}
static u64 low(u64 v, int bits)
{
    return bits == 64 ? v : v & (((u64)1 << bits) - 1);
}
/* A function for each width. */
#define FN3(name, expr) FN(name##_16, expr(16)) FN(name##_32, expr(32)) FN(name##_64, expr(64))

#define ADD(n) a + b
#define SUB(n) a - b
#define MUL(n) a *b
#define MAD(n) a *b + c
#define DIVU(n) b ? a / b : ~(u64)0
#define REMU(n) b ? a - a / b *b : a
#define DIVS(n) sx(b, n) ? (s128)sx(a, n) / sx(b, n) : -1
#define REMS(n) sx(b, n) ? (s128)sx(a, n) % sx(b, n) : (s128)a
#define MINU(n) a > b ? b : a
#define MAXU(n) b > a ? b : a
#define MINS(n) sx(a, n) > sx(b, n) ? b : a
#define MAXS(n) sx(b, n) > sx(a, n) ? b : a
#define AND(n) ~(~a | ~b)
#define OR(n) ~(~a & ~b)
#define XOR(n) (a | b) - (a & b)
#define NOT(n) 0 - a - 1
#define NEG(n) 0 - a
#define ABS(n) sx(a, n) < 0 ? 0 - a : a
#define SHL(n) b >= n ? 0 : (u64)((u128)a << b)
#define SHRU(n) b >= n ? 0 : a >> b
#define SHRS(n) sx(a, n) >> (b >= n ? n - 1 : b)
#define HIU(n) (u128) a *b >> n
#define HIS(n) (s128) sx(a, n) * sx(b, n) >> n
#define PICK(n) c ? a : b
#define SAME(n) a
FN3(add, ADD)
FN3(sub, SUB)
FN3(mul, MUL)
FN3(mad, MAD)
FN3(divu, DIVU)
FN3(remu, REMU)
FN3(divs, DIVS)
FN3(rems, REMS)
FN3(minu, MINU)
FN3(maxu, MAXU)
FN3(mins, MINS)
FN3(maxs, MAXS)
FN3(and, AND)
FN3(or, OR)
FN3(xor, XOR) FN3(not, NOT) FN3(neg, NEG) FN3(abs, ABS) FN3(shl, SHL) FN3(shru, SHRU)
    FN3(shrs, SHRS) FN3(hiu, HIU) FN3(his, HIS) FN3(pick, PICK) FN3(same, SAME)
        FN(wides_16, sx(a, 16) * sx(b, 16)) FN(wides_32, sx(a, 32) * sx(b, 32)) FN(wideu, a *b)
            FN(madwides, (u64)(sx(a, 32) * sx(b, 32)) + c) FN(madwideu, a *b + c)
                FN(madhiu, (a * b >> 32) + c) FN(madhis, (u64)(sx(a, 32) * sx(b, 32) >> 32) + c)
                    FN(not_pred, !a) FN(and_pred, a &&b) FN(or_pred, a || b) FN(xor_pred, a != b)

    /* ---- fields, bit by bit ---- */
    static u64 bfe(u64 a, u64 b, u64 c, int width, bool sign)
{
    const u64 pos = b & 255, len = c & 255;
    const u64 last = pos + len - 1 > (u64)width - 1 ? (u64)width - 1 : pos + len - 1;
    const u64 fill = sign && len ? a >> last & 1 : 0;
    u64 out = 0;
    for (u64 i = 0; i < (u64)width; ++i)
        out |= (i < len && pos + i < (u64)width ? a >> (pos + i) & 1 : fill) << i;
    return out;
}
FN(bfeu_32, bfe(a, b, c, 32, false))
FN(bfeu_64, bfe(a, b, c, 64, false))
FN(bfes_32, bfe(a, b, c, 32, true))
FN(bfes_64, bfe(a, b, c, 64, true)) static u64 bfi(u64 a, u64 b, u64 c, u64 d, int width)
{
    u64 out = b;
    for (u64 i = 0; i < (d & 255) && (c & 255) + i < (u64)width; ++i) {
        const u64 bit = (u64)1 << ((c & 255) + i);
        out = (out & ~bit) | (a >> i & 1 ? bit : 0);
    }
    return out;
}
FN(bfi_32, bfi(a, b, c, d, 32))
FN(bfi_64, bfi(a, b, c, d, 64)) static u64 prmt(u64 a, u64 b, u64 c, u64 d)
{
    uint8_t bytes[8], out[4];
    (void)d;
    memcpy(bytes, &a, 4);
    memcpy(bytes + 4, &b, 4);
    for (int i = 0; i < 4; ++i) {
        const unsigned s = (unsigned)(c >> 4 * i);
        out[i] = s & 8 ? (uint8_t)((int8_t)bytes[s & 7] >> 7) : bytes[s & 7];
    }
    uint32_t v;
    memcpy(&v, out, 4);
    return v;
}
static u64 lop3(u64 a, u64 b, u64 c, u64 d)
{
    u64 out = 0;
    for (int i = 0; i < 32; ++i)
        out |= (d >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i;
    return out;
}
static u64 count(u64 a, int mode, int n) /* 0: ones; 1: leading zeros */
{
    u64 k = 0;
    if (mode == 0)
        for (int i = 0; i < n; ++i) k += a >> i & 1;
    else
        while (k < (u64)n && !(a >> (n - 1 - (int)k) & 1)) ++k;
    return k;
}
FN(popc_32, count(a, 0, 32))
FN(popc_64, count(a, 0, 64))
FN(clz_32, count(a, 1, 32)) FN(clz_64, count(a, 1, 64)) static u64 reverse(u64 a, int n)
{
    u64 out = 0;
    for (int i = 0; i < n; ++i) out |= (a >> i & 1) << (n - 1 - i);
    return out;
}
FN(brev_32, reverse(a, 32))
FN(brev_64, reverse(a, 64)) static u64 funnel(u64 a, u64 b, u64 n, bool left)
{
    u64 out = 0; /* bit i of the result out of the 64 bits b:a, shifted by n in 0..32 */
    for (int i = 0; i < 32; ++i) {
        const int from = left ? i + 32 - (int)n : i + (int)n;
        out |= (from < 32 ? a >> from & 1 : b >> (from - 32) & 1) << i;
    }
    return out;
}
FN(shflw, funnel(a, b, c & 31, true))
FN(shfrw, funnel(a, b, c & 31, false))
FN(shflc, funnel(a, b, c > 32 ? 32 : c, true))
FN(shfrc, funnel(a, b, c > 32 ? 32 : c, false))

/* ---- comparisons and conversions ---- */
#define CMP(name, op)                                                                              \
    FN(name##_u, a op b)                                                                           \
    FN(name##_s16, sx(a, 16) op sx(b, 16))                                                         \
    FN(name##_s32, sx(a, 32) op sx(b, 32)) FN(name##_s64, sx(a, 64) op sx(b, 64))
CMP(eq, ==)
CMP(ne, !=)
CMP(lt, <)
CMP(le, <=)
CMP(gt, >)
CMP(ge, >=)
FN(low_8, low(a, 8))
FN(low_16, low(a, 16))
FN(low_32, low(a, 32))
FN(sign_8, sx(a, 8))
FN(sign_16, sx(a, 16)) FN(sign_32, sx(a, 32)) static u64 clamp(s64 v, s64 lo, s64 hi)
{
    return (u64)(v < lo ? lo : v > hi ? hi : v);
}
FN(sat_u8, clamp(sx(a, 32), 0, 255))
FN(sat_s8, clamp(sx(a, 32), -128, 127))
FN(sat_u16, clamp(sx(a, 32), 0, 65535))
FN(sat_s16, clamp(sx(a, 32), -32768, 32767))
FN(sat_u32, clamp((s64)a, 0, 4294967295))
FN(sat_s32, clamp((s64)a, INT32_MIN, INT32_MAX))

#define R1(name, d, a, fn) {name, {d, a}, fn, 0},
#define R2(name, d, a, b, fn) {name, {d, a, b}, fn, 0},
#define R3(name, d, a, b, c, fn) {name, {d, a, b, c}, fn, 0},
#define W3(op, t, fn)                                                                              \
    R2(op t "16", t "16", t "16", t "16", fn##_16)                                                 \
    R2(op t "32", t "32", t "32", t "32", fn##_32) R2(op t "64", t "64", t "64", t "64", fn##_64)
#define W3U(op, t, fn)                                                                             \
    R1(op t "16", t "16", t "16", fn##_16)                                                         \
    R1(op t "32", t "32", t "32", fn##_32) R1(op t "64", t "64", t "64", fn##_64)
#define SHIFT(op, t, fn)                                                                           \
    {op t "16", {t "16", t "16", "u32"}, fn##_16, 1},                                              \
        {op t "32", {t "32", t "32", "u32"}, fn##_32, 1},                                          \
        {op t "64", {t "64", t "64", "u32"}, fn##_64, 1},
#define SETP(op, un, name)                                                                         \
    R2("setp." op ".u16", "pred", "u16", "u16", name##_u)                                          \
    R2("setp." op ".u32", "pred", "u32", "u32", name##_u)                                          \
    R2("setp." op ".u64", "pred", "u64", "u64", name##_u)                                          \
    R2("setp." un ".u16", "pred", "u16", "u16", name##_u)                                          \
    R2("setp." un ".u32", "pred", "u32", "u32", name##_u)                                          \
    R2("setp." un ".u64", "pred", "u64", "u64", name##_u)                                          \
    R2("setp." op ".s16", "pred", "s16", "s16", name##_s16)                                        \
    R2("setp." op ".s32", "pred", "s32", "s32", name##_s32)                                        \
    R2("setp." op ".s64", "pred", "s64", "s64", name##_s64)
static const rig_row rows[] = {
    W3("add.", "s", add) W3("add.", "u", add) W3("sub.", "s", sub) W3("sub.", "u", sub) W3(
        "mul.lo.", "s", mul) W3("mul.lo.", "u", mul) W3("div.", "u", divu) W3("div.", "s", divs)
        W3("rem.", "u", remu) W3("rem.", "s", rems) W3("min.", "u", minu) W3("min.", "s", mins)
            W3("max.", "u", maxu) W3("max.", "s", maxs) W3("and.", "b", and) W3("or.", "b", or) W3(
                "xor.", "b", xor) W3U("not.", "b", not ) W3U("neg.", "s", neg) W3U("abs.", "s", abs)
                W3U("mov.", "b", same) SHIFT("shl.", "b", shl) SHIFT("shr.", "u", shru)
                    SHIFT("shr.", "s", shrs) SHIFT("shr.", "b", shru) R2("mul.hi.u16", "u16", "u16",
                                                                         "u16", hiu_16)
                        R2("mul.hi.s16", "s16", "s16", "s16", his_16) R2("mul.hi.u32", "u32", "u32",
                                                                         "u32", hiu_32)
                            R2("mul.hi.u64", "u64", "u64", "u64", hiu_64) R2(
                                "mul.hi.s32", "s32", "s32", "s32",
                                his_32) R2("mul.hi.s64", "s64", "s64", "s64", his_64)
                                R2("mul.wide.u16", "u32", "u16", "u16",
                                   wideu) R2("mul.wide.u32", "u64", "u32", "u32", wideu)
                                    R2("mul.wide.s16", "s32", "s16", "s16",
                                       wides_16) R2("mul.wide.s32", "s64", "s32", "s32", wides_32)
                                        R3("mad.lo.s16", "s16", "s16", "s16", "s16", mad_16)
                                            R3("mad.lo.s32", "s32", "s32", "s32", "s32", mad_32) R3(
                                                "mad.lo.s64", "s64", "s64", "s64", "s64", mad_64)
                                                R3("mad.wide.u32", "u64", "u32", "u32", "u64",
                                                   madwideu) R3("mad.wide.s32", "s64", "s32", "s32",
                                                                "s64", madwides)
                                                    R3("mad.hi.u32", "u32", "u32", "u32", "u32",
                                                       madhiu) R3("mad.hi.s32", "s32", "s32", "s32",
                                                                  "s32", madhis)
                                                        R3("selp.b16", "b16", "b16", "b16", "pred",
                                                           pick_16) R3("selp.b32", "b32", "b32",
                                                                       "b32", "pred", pick_32)
                                                            R3("selp.b64", "b64", "b64", "b64",
                                                               "pred", pick_64)
                                                                R1("not.pred", "pred", "pred",
                                                                   not_pred) R2("and.pred", "pred",
                                                                                "pred", "pred",
                                                                                and_pred)
                                                                    R2("or.pred", "pred", "pred",
                                                                       "pred", or_pred)
                                                                        R2("xor."
                                                                           "pred",
                                                                           "pred", "pred", "pred",
                                                                           xor_pred){"bfe."
                                                                                     "u32",
                                                                                     {"u32", "u32",
                                                                                      "u32", "u32"},
                                                                                     bfeu_32,
                                                                                     1},
    {"bfe.u64", {"u64", "u64", "u32", "u32"}, bfeu_64, 1},
    {"bfe.s32", {"s32", "s32", "u32", "u32"}, bfes_32, 1},
    {"bfe.s64", {"s64", "s64", "u32", "u32"}, bfes_64, 1},
    {"bfi.b32", {"b32", "b32", "b32", "u32", "u32"}, bfi_32, 1},
    {"bfi.b64", {"b64", "b64", "b64", "u32", "u32"}, bfi_64, 1},
    R3("prmt.b32", "b32", "b32", "b32", "b32",
       prmt){"lop3.b32", {"b32", "b32", "b32", "b32", "b32"}, lop3, 0},
    R1("popc.b32", "u32", "b32", popc_32) R1("popc.b64", "u32", "b64", popc_64)
        R1("clz.b32", "u32", "b32", clz_32) R1("clz.b64", "u32", "b64", clz_64)
            R1("brev.b32", "b32", "b32", brev_32) R1("brev.b64", "b64", "b64", brev_64){
                "shf.l.wrap.b32", {"b32", "b32", "b32", "u32"}, shflw, 1},
    {"shf.r.wrap.b32", {"b32", "b32", "b32", "u32"}, shfrw, 1},
    {"shf.l.clamp.b32", {"b32", "b32", "b32", "u32"}, shflc, 1},
    {"shf.r.clamp.b32", {"b32", "b32", "b32", "u32"}, shfrc, 1},
    SETP("eq", "eq", eq) SETP("ne", "ne", ne) SETP("lt", "lo", lt) SETP("le", "ls", le) SETP(
        "gt", "hi", gt) SETP("ge", "hs", ge) R2("setp.eq.b16", "pred", "b16", "b16",
                                                eq_u) R2("setp.eq.b32", "pred", "b32", "b32", eq_u)
        R2("setp.ne.b64", "pred", "b64", "b64", ne_u) R1("cvt.u16.u8", "u16", "u16", low_8) R1(
            "cvt.s16.s8", "s16", "s16", sign_8) R1("cvt.u32.u8", "u32", "u16", low_8)
            R1("cvt.s32.s8", "s32", "s16", sign_8) R1("cvt.u8.u32", "u16", "u32",
                                                      low_8) R1("cvt.u16.u32", "u16", "u32", low_16)
                R1("cvt.u16.u64", "u16", "u64", low_16) R1("cvt.u32.u16", "u32", "u16", low_16)
                    R1("cvt.s32.s16", "s32", "s16", sign_16) R1("cvt.u64.u16", "u64", "u16", low_16)
                        R1("cvt.s64.s16", "s64", "s16", sign_16) R1("cvt.u64.u32", "u64", "u32",
                                                                    low_32)
                            R1("cvt.s64.s32", "s64", "s32", sign_32) R1("cvt.u32.u64", "u32", "u64",
                                                                        low_32)
                                R1("cvt.s64.s32", "s64", "s64", sign_32) R1("cvt.u64.u32", "u64",
                                                                            "u64", low_32)
                                    R1("cvt.s32.s16", "s32", "s32",
                                       sign_16) R1("cvt.u32.u16", "u32", "u32", low_16)
                                        R1("cvt.s32.s8", "s32", "s32",
                                           sign_8) R1("cvt.u32.u8", "u32", "u32", low_8)
                                            R1("cvt.sat.u8.s32", "u16", "s32",
                                               sat_u8) R1("cvt.sat.s8.s32", "s16", "s32", sat_s8)
                                                R1("cvt.sat.u16.s32", "u16", "s32", sat_u16)
                                                    R1("cvt.sat.s16.s32", "s16", "s32", sat_s16)
                                                        R1("cvt.sat.u32.s64", "u32", "s64", sat_u32)
                                                            R1("cvt.sat.s32.s64", "s32", "s64",
                                                               sat_s32)};

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) rig_check(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
