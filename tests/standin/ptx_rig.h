/* ptx_rig.h: one PTX instruction on many operands against a function in C.
 *
 * The kernel loads up to four operands of each thread, executes the instruction, stores the result.
 * It does so twice: with all 64 lanes of a wave, and with every third lane only (after a branch),
 * where the other lanes must keep what they had.  Operands are random bits and, every other time,
 * special values. */
#ifndef PTX_RIG_H
#define PTX_RIG_H

#include "ptx/ptx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Results and operands as bits in the low part; t: "pred", "u16", "f32", ... */
typedef uint64_t rig_fn(uint64_t a, uint64_t b, uint64_t c, uint64_t d);
typedef struct rig_row {
    const char *name;    /* mnemonic */
    const char *type[5]; /* of the result and the operands; NULL: no more */
    rig_fn *fn;
    int kind; /* of operands: 0 anything; 1: small numbers for the last ones (shifts, fields) */
} rig_row;

enum { RIG_THREADS = 64 * 24 };

static inline int rig_bytes(const char *type)
{
    return strcmp(type, "pred") == 0 ? 4 : atoi(type + 1) / 8;
}

static inline uint64_t rig_random(uint64_t *s)
{
    uint64_t z = *s += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Bits of an operand. */
static inline uint64_t rig_operand(const char *type, uint64_t *s, bool small)
{
    static const double values[] = {0,
                                    1,
                                    2,
                                    0.5,
                                    1.5,
                                    2.5,
                                    3,
                                    1e-3,
                                    65535,
                                    65536,
                                    2147483647.0,
                                    2147483648.0,
                                    4294967295.0,
                                    4294967296.0,
                                    9.2233720368547758e18,
                                    1.8446744073709552e19,
                                    1e30,
                                    255,
                                    128,
                                    0.49999997,
                                    8388609,
                                    1e-42,
                                    1.4e-45,
                                    4.9e-324};
    static const uint64_t ints[] = {0,
                                    1,
                                    2,
                                    3,
                                    7,
                                    31,
                                    32,
                                    33,
                                    63,
                                    64,
                                    65,
                                    127,
                                    128,
                                    255,
                                    256,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x7fffffff,
                                    0x80000000u,
                                    0xffffffffu,
                                    0x7fffffffffffffffu,
                                    0x8000000000000000u,
                                    0xffffffffffffffffu};
    const uint64_t r = rig_random(s), k = rig_random(s);
    const int bytes = rig_bytes(type);
    uint64_t v = r;
    if (strcmp(type, "pred") == 0) return r & 1;
    if (small) return k % 4 ? r % 70 : r & 0xffffffffu;
    if (type[0] == 'f') {
        const double x = (k & 8 ? -1 : 1) * (k % 7 ? values[r % 24] : (double)(int64_t)r * 0x1p-40);
        const float f = (float)x;
        uint32_t u;
        if (k % 3 == 0 && bytes == 8) memcpy(&v, &x, 8);
        if (k % 3 == 0 && bytes == 4) memcpy(&u, &f, 4), v = u;
        if (k % 31 == 1)
            v = bytes == 4 ? (r & 1 ? 0x7f800000u : 0xff800000u)
                           : (r & 1 ? 0x7ff0000000000000u : 0xfff0000000000000u);
        if (k % 31 == 2) v = bytes == 4 ? 0x7fc00000u : 0x7ff8000000000000u;
    } else if (k % 2) v = ints[r % 24];
    return bytes == 8 ? v : v & (((uint64_t)1 << 8 * bytes) - 1);
}

typedef struct rig_text {
    char s[6000];
    size_t n;
} rig_text;
static inline void rig_put(rig_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void rig_put(rig_text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    t->n += (size_t)vsnprintf(t->s + t->n, sizeof(t->s) - t->n, fmt, args);
    va_end(args);
}

/* The type of loads and registers: floats are moved as bits. */
static inline const char *rig_class(const char *type)
{
    static const char *const names[] = {"b16", "b32", "", "b64"};
    return names[rig_bytes(type) / 2 - 1];
}

static inline void rig_kernel(rig_text *t, const rig_row *row, bool part)
{
    rig_put(t,
            ".visible .entry %s(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3, "
            ".param .u64 p4)\n.maxntid 64, 1, 1\n{\n",
            part ? "part" : "full");
    rig_put(t, ".reg .pred %%p<8>; .reg .b16 %%h<8>; .reg .b32 %%r<40>; .reg .b64 %%q<40>; .reg "
               ".b64 %%SP;\n");
    rig_put(
        t,
        "mov.u32 %%r20, %%tid.x; mov.u32 %%r21, %%ctaid.x; mad.lo.s32 %%r22, %%r21, 64, %%r20;\n");
    for (int k = 0; k < 5; ++k) {
        if (!row->type[k]) continue;
        rig_put(t,
                "ld.param.u64 %%q%d, [p%d]; mul.wide.u32 %%q%d, %%r22, %d; add.s64 %%q%d, %%q%d, "
                "%%q%d;\n",
                20 + k, k, 30 + k, rig_bytes(row->type[k]), 20 + k, 20 + k, 30 + k);
    }
    for (int k = 0; k < 5; ++k) {
        if (!row->type[k]) continue;
        const bool pred = strcmp(row->type[k], "pred") == 0;
        const char reg = rig_bytes(row->type[k]) == 2   ? 'h'
                         : rig_bytes(row->type[k]) == 4 ? 'r'
                                                        : 'q';
        rig_put(t, "ld.global.%s %%%c%d, [%%q%d];\n", rig_class(row->type[k]), reg, k, 20 + k);
        if (pred) rig_put(t, "setp.ne.u32 %%p%d, %%r%d, 0;\n", k, k);
    }
    if (part)
        rig_put(t, "rem.u32 %%r23, %%r20, 3; setp.ne.u32 %%p7, %%r23, 1;\n@%%p7 bra $over;\n");
    rig_put(t, "%s ", row->name);
    for (int k = 0; k < 5 && row->type[k]; ++k) {
        const bool pred = strcmp(row->type[k], "pred") == 0;
        const char reg = pred                           ? 'p'
                         : rig_bytes(row->type[k]) == 2 ? 'h'
                         : rig_bytes(row->type[k]) == 4 ? 'r'
                                                        : 'q';
        rig_put(t, "%s%%%c%d", k ? ", " : "", reg, k);
    }
    rig_put(t, ";\n");
    if (part) rig_put(t, "$over:\n");
    if (strcmp(row->type[0], "pred") == 0) rig_put(t, "selp.u32 %%r0, 1, 0, %%p0;\n");
    const char reg = rig_bytes(row->type[0]) == 2 ? 'h' : rig_bytes(row->type[0]) == 4 ? 'r' : 'q';
    rig_put(t, "st.global.%s [%%q20], %%%c0;\nret;\n}\n", rig_class(row->type[0]), reg);
}

static inline uint64_t rig_get(const char *at, const char *type, int i)
{
    uint64_t v = 0;
    memcpy(&v, at + i * rig_bytes(type), (size_t)rig_bytes(type));
    return v;
}

static inline bool rig_is_nan(uint64_t bits)
{
    return (bits & ~((uint64_t)1 << 63)) > (uint64_t)0x7ff << 52;
}

/* Both forms of one row. */
static inline void rig_check(const rig_row *row)
{
    static rig_text t;
    static char params[40], text[512];
    uint64_t mem[5], seed = 11;
    sc_device *d = sc_device_get(0);
    ptx_module *m = NULL;
    t.n = 0;
    rig_put(&t, ".version 9.0\n.target sm_80\n.address_size 64\n");
    rig_kernel(&t, row, false);
    rig_kernel(&t, row, true);
    if (!ptx_load(d, t.s, text, sizeof(text), &m)) fail_msg("%s: %s\n%s", row->name, text, t.s);
    for (int k = 0; k < 5; ++k) {
        assert_int_equal(sc_mem_alloc(d, RIG_THREADS * 8, SC_MEM_DEVICE, "rig", &mem[k]), SC_OK);
        memcpy(params + 8 * k, &mem[k], 8);
    }
    for (int part = 0; part < 2; ++part) {
        uint64_t before[RIG_THREADS];
        for (int i = 0; i < RIG_THREADS; ++i)
            for (int k = 0; k < 5; ++k) {
                if (!row->type[k]) continue;
                const uint64_t v =
                    rig_operand(row->type[k], &seed, row->kind && k >= 2 && row->type[0][0] != 'f');
                memcpy((char *)sc_mem_alias(mem[k]) + i * rig_bytes(row->type[k]), &v,
                       (size_t)rig_bytes(row->type[k]));
                if (k == 0) before[i] = v;
            }
        const ptx_launch l = {{RIG_THREADS / 64, 1, 1}, {64, 1, 1}, 0, params, SC_CHECK_ALL, 1};
        if (ptx_run(ptx_function_get(m, part ? "part" : "full"), &l, NULL, text, sizeof(text)) !=
            SC_OK)
            fail_msg("%s: %s", row->name, text);
        for (int i = 0; i < RIG_THREADS; ++i) {
            uint64_t x[4] = {0};
            for (int k = 1; k < 5; ++k)
                if (row->type[k]) x[k - 1] = rig_get(sc_mem_alias(mem[k]), row->type[k], i);
            const int bytes = rig_bytes(row->type[0]);
            uint64_t want = part && i % 64 % 3 != 1 ? before[i] : row->fn(x[0], x[1], x[2], x[3]);
            if (bytes < 8) want &= ((uint64_t)1 << 8 * bytes) - 1;
            const uint64_t got = rig_get(sc_mem_alias(mem[0]), row->type[0], i);
            /* The manual leaves the payload of an f64 NaN open. */
            if (got != want &&
                !(row->type[0][0] == 'f' && bytes == 8 && rig_is_nan(got) && rig_is_nan(want)))
                fail_msg(
                    "%s of 0x%llx 0x%llx 0x%llx 0x%llx is 0x%llx, expected 0x%llx (%s, thread %d)",
                    row->name, (unsigned long long)x[0], (unsigned long long)x[1],
                    (unsigned long long)x[2], (unsigned long long)x[3], (unsigned long long)got,
                    (unsigned long long)want, part ? "some lanes" : "all lanes", i);
        }
    }
    for (int k = 0; k < 5; ++k) sc_mem_free(mem[k], SC_MEM_DEVICE, "rig");
    ptx_unload(m);
}

#endif
