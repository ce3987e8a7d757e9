/* The PTX machine beyond single instructions: control flow, memory of all spaces, and that it
 * notices what it is there to notice. */
#include "ptx/ptx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEAD ".version 9.0\n.target sm_80\n.address_size 64\n"
/* A kernel k(out) of which `body` is the text; %q9 is out, %r9 the thread, %r8 the block. */
#define KERNEL(body)                                                                               \
    HEAD ".visible .entry k(.param .u64 out)\n{\n.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 "    \
         "%r<20>; .reg .f32 %f<8>; .reg .b64 %q<20>;\n"                                            \
         "ld.param.u64 %q9, [out]; mov.u32 %r9, %tid.x; mov.u32 %r8, %ctaid.x;\n" body "ret;\n}\n"

enum { WORDS = 4096 };
static uint64_t memory;
static uint32_t *words; /* of the host's view */

static int open_it(void **state)
{
    (void)state;
    if (sc_mem_alloc(sc_device_get(0), WORDS * 4, SC_MEM_DEVICE, "words", &memory) != SC_OK)
        return -1;
    words = sc_mem_alias(memory);
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    return sc_mem_free(memory, SC_MEM_DEVICE, "words") == SC_OK ? 0 : -1;
}

typedef struct run_options {
    uint32_t blocks, threads, shared;
    sc_check check;
    ptx_counts *counts; /* [4], or NULL */
    sc_access_list *touched;
} run_options;

/* Loads and runs; the fault's text is in `text`. */
static sc_status run(const char *ptx, const run_options *o, char *text, size_t size)
{
    ptx_module *m = NULL;
    if (!ptx_load(sc_device_get(0), ptx, text, size, &m)) return SC_INVALID_PTX;
    const ptx_launch l = {{o->blocks, 1, 1}, {o->threads, 1, 1}, o->shared, &memory, o->check, 0};
    const sc_status s = ptx_run(ptx_function_get(m, "k"), &l, o->touched, text, size);
    for (int k = 0; k < 4 && o->counts; ++k)
        if (!ptx_function_counts(ptx_function_get(m, "k"), k, &o->counts[k]))
            o->counts[k].name = NULL;
    ptx_unload(m);
    return s;
}

static const run_options one = {1, 64, 0, SC_CHECK_ALL, NULL, NULL};

static void works(const char *ptx, const run_options *o)
{
    char text[512] = "";
    const sc_status s = run(ptx, o, text, sizeof(text));
    if (s != SC_OK) fail_msg("%s: %s\n%s", sc_status_name(s), text, ptx);
}

static void faults(const char *ptx, const run_options *o, sc_status status, const char *part)
{
    char text[512] = "";
    const sc_status s = run(ptx, o, text, sizeof(text));
    if (s != status || !strstr(text, part))
        fail_msg("%s \"%s\", expected %s \"%s\"\n%s", sc_status_name(s), text,
                 sc_status_name(status), part, ptx);
}

#define PLACE "mad.lo.s32 %r7, %r8, 64, %r9; mul.wide.u32 %q8, %r7, 4; add.s64 %q8, %q9, %q8;\n"

/* ---- control flow ---- */

/* Every thread its own number of turns: lanes part in every turn and meet behind the loop. */
static void test_loops(void **state)
{
    (void)state;
    works(KERNEL(PLACE "mov.u32 %r1, 0; mov.u32 %r2, 0; and.b32 %r3, %r9, 15;\n"
                       "$loop:\nsetp.ge.u32 %p1, %r1, %r3;\n@%p1 bra $end;\n"
                       "mad.lo.s32 %r2, %r2, 3, %r1; add.s32 %r1, %r1, 1;\nbra.uni $loop;\n"
                       "$end:\nbar.sync 0;\nst.global.u32 [%q8], %r2;\n"),
          &(run_options){8, 64, 0, SC_CHECK_ALL, NULL, NULL});
    for (uint32_t t = 0; t < 512; ++t) {
        uint32_t want = 0;
        for (uint32_t i = 0; i < (t & 15); ++i) want = want * 3 + i;
        assert_int_equal(words[t], want);
    }
}

/* Nested branches, guards on plain instructions, and lanes that end early. */
static void test_branches(void **state)
{
    (void)state;
    memset(words, 0, WORDS * 4);
    works(KERNEL(PLACE "mov.u32 %r1, 1; and.b32 %r2, %r9, 1; setp.eq.u32 %p1, %r2, 0; and.b32 %r3, "
                       "%r9, 2; setp.eq.u32 %p2, %r3, 0;\n"
                       "@%p1 bra $a;\n@!%p2 bra $b;\nmov.u32 %r1, 10;\nbra $c;\n$b:\nmov.u32 %r1, "
                       "20;\nbra $c;\n"
                       "$a:\n@%p2 add.s32 %r1, %r1, 5;\n@!%p2 st.global.u32 [%q8], 77;\n@!%p2 "
                       "ret;\n$c:\nst.global.u32 [%q8], %r1;\n"),
          &one);
    static const uint32_t want[4] = {6, 10, 77, 20};
    for (uint32_t t = 0; t < 64; ++t) assert_int_equal(words[t], want[t & 3]);
}

/* Blocks of 40 and of 200 threads: a wave that is not full, and several waves at barriers. */
static void test_blocks(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 40, 64, 200, 1024};
    for (int i = 0; i < 5; ++i) {
        const uint32_t n = sizes[i];
        memset(words, 0, WORDS * 4);
        works(KERNEL(".shared .align 4 .b8 s[4096];\nmov.u32 %r0, %ntid.x; mad.lo.s32 %r7, %r8, "
                     "%r0, %r9; mul.wide.u32 %q8, %r7, 4; add.s64 %q8, %q9, %q8;\n"
                     "mov.u64 %q1, s; mul.wide.u32 %q2, %r9, 4; add.s64 %q2, %q1, "
                     "%q2;\nst.shared.u32 [%q2], %r7;\nbar.sync 0;\n"
                     "sub.s32 %r1, %r0, 1; sub.s32 %r1, %r1, %r9; mul.wide.u32 %q3, %r1, 4; "
                     "add.s64 %q3, %q1, %q3;\n"
                     "ld.shared.u32 %r2, [%q3];\nst.global.u32 [%q8], %r2;\n"),
              &(run_options){3, n, 0, SC_CHECK_ALL, NULL, NULL});
        for (uint32_t t = 0; t < 3 * n; ++t)
            assert_int_equal(words[t], t / n * n + (n - 1 - t % n));
        assert_int_equal(words[3 * n], 0);
    }
}

/* ---- spaces ---- */

static void test_memory(void **state)
{
    (void)state;
    /* Vectors, parts of registers, local memory with an address that differs from lane to lane. */
    works(KERNEL(".local .align 16 .b8 l[64];\nmul.wide.u32 %q1, %r9, 16; add.s64 %q1, %q9, "
                 "%q1;\nmov.u64 %q2, l; and.b32 %r5, %r9, 3; mul.wide.u32 %q3, %r5, 4; add.s64 "
                 "%q4, %q2, %q3;\n"
                 "mov.u32 %r1, 11; mov.u32 %r2, 22; mov.u32 %r3, 33; mov.u32 %r4, "
                 "44;\nst.local.v4.u32 [%q2], {%r1, %r2, %r3, %r4};\n"
                 "ld.local.u32 %r6, [%q4];\nmov.b64 %q5, {%r6, %r9}; mov.b32 {%h1, %h2}, "
                 "%r2;\nst.local.u16 [%q2+32], %h1; ld.local.s16 %r7, [%q2+32]; ld.local.b64 %q6, "
                 "[%q2+8];\n"
                 "st.global.v2.u32 [%q1], {%r6, %r7}; st.global.b64 [%q1+8], %q6;\n"),
          &one);
    for (uint32_t t = 0; t < 64; ++t) {
        assert_int_equal(words[4 * t], 11 * (t % 4 + 1));
        assert_int_equal(words[4 * t + 1], 22);
        assert_int_equal(words[4 * t + 2], 33);
        assert_int_equal(words[4 * t + 3], 44);
    }
    /* A table of the module, bytes with and without sign, dynamic shared memory, generic addresses.
     */
    works(HEAD ".const .align 4 .b8 table[8] = {1, 2, 255, 128, 0, 0, 128, 63};\n.global .align 4 "
               ".u32 sum = 7;\n.extern .shared .align 16 .b8 dyn[];\n"
               ".visible .entry k(.param .u64 out)\n{\n.reg .b32 %r<9>; .reg .f32 %f<3>; .reg .b64 "
               "%q<9>; .reg .pred %p<2>;\n"
               "ld.param.u64 %q0, [out]; mov.u32 %r0, %tid.x; setp.ne.u32 %p1, %r0, 0; mov.u64 "
               "%q1, dyn; mov.u64 %q2, table;\n"
               "@%p1 bra $end;\nld.const.s8 %r1, [%q2+2]; ld.const.u8 %r2, [table+3]; ld.const.f32 "
               "%f1, [%q2+4]; ld.global.u32 %r3, [sum];\n"
               "st.shared.u32 [%q1+8], 99; cvta.shared.u64 %q3, %q1; ld.u32 %r4, [%q3+8]; "
               "cvta.to.shared.u64 %q4, %q3; ld.shared.u32 %r5, [%q4+8];\n"
               "st.global.u32 [%q0], %r1; st.global.u32 [%q0+4], %r2; st.global.f32 [%q0+8], %f1; "
               "st.global.u32 [%q0+12], %r3; st.u32 [%q0+16], %r4; st.global.u32 [%q0+20], "
               "%r5;\n$end:\nret;\n}\n",
          &(run_options){1, 64, 32, SC_CHECK_ALL, NULL, NULL});
    static const uint32_t want[] = {0xffffffffu, 128, 0x3f800000u, 7, 99, 99};
    for (int i = 0; i < 6; ++i) assert_int_equal(words[i], want[i]);
}

/* ---- what it refuses ---- */

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {KERNEL("ex2.approx.f32 %f1, %f2;\n"),
         "PTX line 9: this machine does not know ex2.approx.f32"},
        {KERNEL("add.rn.ftz.f32 %f1, %f2, %f3;\n"), "does not know add.rn.ftz.f32"},
        {KERNEL("fma.f32 %f1, %f2, %f3, %f1;\n"), "does not know fma.f32"},
        {KERNEL("shfl.sync.down.b32 %r1, %r2, 1, 31, -1;\n"), "does not know shfl.sync.down.b32"},
        {KERNEL("atom.global.add.f32 %f1, [%q9], %f2;\n"), "does not know atom.global.add.f32"},
        {KERNEL("ld.global.relaxed.u32 %r1, [%q9];\n"), "does not know ld.global.relaxed.u32"},
        {KERNEL("add.s32 %r1, %q1, %r2;\n"), "operand 2 is a register of 8 bytes, expected 4"},
        {KERNEL("add.s32 %r1, %r2;\n"), "add.s32 with 2 operands"},
        {KERNEL("add.s32 %r99, %r2, %r3;\n"), "register %r99 is not declared"},
        {KERNEL("mov.u32 %r1, %clock;\n"), "register %clock is not declared or not known"},
        {KERNEL("bra $nowhere;\n"), "a branch to $nowhere, which is not a label"},
        {KERNEL("bar.sync 1, 32;\n"), "only barrier 0"},
        {KERNEL("st.param.u64 [out], %q1;\n"), "st.param.u64 to a parameter"},
        {".func x", "this is not PTX"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        faults(rows[i].text, &one, SC_INVALID_PTX, rows[i].part);
}

/* ---- what it notices ---- */

static void test_bounds(void **state)
{
    (void)state;
    faults(KERNEL(PLACE "ld.global.u32 %r1, [%q8+16200];\n"), &one, SC_ILLEGAL_ADDRESS,
           "ld.global.u32 (PTX line 9) of thread (46,0,0) in block (0,0,0): 4 bytes at");
    faults(KERNEL(PLACE "ld.global.u32 %r1, [%q8+16200];\n"), &one, SC_ILLEGAL_ADDRESS,
           "0 bytes behind allocation");
    faults(KERNEL(PLACE "st.global.u32 [%q8+-4], %r1;\n"), &one, SC_ILLEGAL_ADDRESS,
           "thread (0,0,0)");
    faults(KERNEL(PLACE "ld.global.u32 %r1, [%q8+2];\n"), &one, SC_MISALIGNED,
           "is not a multiple of 4");
    faults(KERNEL(PLACE "ld.global.v2.u32 {%r1, %r2}, [%q8];\n"), &one, SC_MISALIGNED,
           "thread (1,0,0)");
    faults(KERNEL(".shared .align 4 .b8 s[128];\nmov.u64 %q1, s; mul.wide.u32 %q2, %r9, 4; add.s64 "
                  "%q2, %q1, %q2; st.shared.u32 [%q2], 1;\n"),
           &one, SC_ILLEGAL_ADDRESS, "4 bytes at 128 of shared memory of 128 bytes");
    faults(KERNEL("mov.u64 %q1, 64; ld.global.u32 %r1, [%q1];\n"), &one, SC_ILLEGAL_ADDRESS,
           "not device memory");
    faults(KERNEL("trap;\n"), &one, SC_LAUNCH_FAILED, "trap");
    faults(KERNEL(""), &(run_options){1, 2000, 0, SC_CHECK_ALL, NULL, NULL}, SC_INVALID_VALUE,
           "at most 1024");
    faults(KERNEL(""), &(run_options){0, 64, 0, SC_CHECK_ALL, NULL, NULL}, SC_INVALID_VALUE,
           "a grid of 0");
}

#define SHARED_ROW                                                                                 \
    ".shared .align 4 .b8 s[512];\nmov.u64 %q1, s; mul.wide.u32 %q2, %r9, 4; add.s64 %q2, %q1, "   \
    "%q2;\n"
static void test_shared(void **state)
{
    (void)state;
    faults(KERNEL(SHARED_ROW "ld.shared.u32 %r1, [%q2];\n"), &one, SC_LAUNCH_FAILED,
           "byte 0 of shared memory is read, and nobody wrote it");
    faults(
        KERNEL(SHARED_ROW "st.shared.u32 [%q2], %r9;\nld.shared.u32 %r1, [%q1+12];\n"), &one,
        SC_LAUNCH_FAILED,
        "thread (0,0,0) in block (0,0,0): a race on byte 12 of shared memory: thread 3 wrote it");
    faults(KERNEL(SHARED_ROW "st.shared.u32 [%q2], %r9;\nbar.sync 0;\nld.shared.u32 %r1, "
                             "[%q1+12];\nst.shared.u32 [%q2], %r1;\n"),
           &one, SC_LAUNCH_FAILED, "a race on byte 12");
    faults(KERNEL(SHARED_ROW "st.shared.u32 [%q1], %r9;\n"), &one, SC_LAUNCH_FAILED,
           "thread 0 wrote it");
    /* Between waves too; and with a barrier all is well, and unchecked blocks are not looked at. */
    faults(
        KERNEL(SHARED_ROW "st.shared.u32 [%q2], %r9;\nsetp.lt.u32 %p1, %r9, 64;\n@%p1 bra "
                          "$end;\nld.shared.u32 %r1, [%q1];\n$end:\n"),
        &(run_options){1, 128, 0, SC_CHECK_ALL, NULL, NULL}, SC_LAUNCH_FAILED,
        "thread (64,0,0) in block (0,0,0): a race on byte 0 of shared memory: thread 0 wrote it");
    works(KERNEL(SHARED_ROW "st.shared.u32 [%q2], %r9;\nbar.sync 0;\nld.shared.u32 %r1, "
                            "[%q1+12];\nbar.sync 0;\nst.shared.u32 [%q2], %r1;\n"),
          &one);
    works(KERNEL(SHARED_ROW "ld.shared.u32 %r1, [%q2];\n"),
          &(run_options){1, 64, 0, SC_CHECK_NONE, NULL, NULL});
}

static void test_barriers(void **state)
{
    (void)state;
    static const char part[] =
        KERNEL("setp.lt.u32 %p1, %r9, 7;\n@%p1 bra $end;\nbar.sync 0;\n$end:\n");
    faults(part, &one, SC_LAUNCH_FAILED,
           "a divergent barrier: thread 0 of the wave does not reach it");
    faults(KERNEL("setp.lt.u32 %p1, %r9, 7;\n@%p1 bra $else;\nbar.sync 0;\nbra "
                  "$end;\n$else:\nbar.sync 0;\n$end:\n"),
           &one, SC_LAUNCH_FAILED, "a divergent barrier");
    faults(KERNEL("setp.lt.u32 %p1, %r9, 64;\n@%p1 bra $end;\nbar.sync 0;\n$end:\n"),
           &(run_options){1, 128, 0, SC_CHECK_NONE, NULL, NULL}, SC_LAUNCH_FAILED,
           "other threads of the block");
    /* All threads leave out the barrier together. */
    works(KERNEL("setp.lt.u32 %p1, %r9, 64;\n@%p1 bra $end;\nbar.sync 0;\n$end:\n"), &one);
}

/* ---- what it counts ---- */

static void test_counts(void **state)
{
    ptx_counts c[4];
    (void)state;
    const run_options o = {1, 64, 0, SC_CHECK_ALL, c, NULL};
    works(KERNEL(PLACE
                 "ld.global.u32 %r1, [%q8]; ld.global.u32 %r2, [%q9]; mul.wide.u32 %q7, %r9, 128; "
                 "add.s64 %q7, %q7, %q9; ld.global.u32 %r3, [%q7]; ld.global.u32 %r4, [%q8+16];\n"),
          &o);
    const int64_t units[4] = {8, 2, 64, 10},
                  ideal[4] = {8, 2, 8,
                              8}; /* row, one address, stride of 128 bytes, row off by 16 bytes */
    for (int k = 0; k < 4; ++k) {
        assert_int_equal(c[k].requests, 2);
        assert_int_equal(c[k].units, units[k]);
        assert_int_equal(c[k].ideal, ideal[k]);
        assert_false(c[k].shared);
    }
    works(KERNEL(".shared .align 8 .b8 s[16384];\nmov.u64 %q1, s; mul.wide.u32 %q2, %r9, 4; "
                 "add.s64 %q2, %q2, %q1; st.shared.u32 [%q2], 1;\nbar.sync 0;\n"
                 "mul.wide.u32 %q3, %r9, 256; add.s64 %q3, %q3, %q1; st.shared.u32 [%q3], "
                 "1;\nbar.sync 0;\n"
                 "mul.wide.u32 %q4, %r9, 8; add.s64 %q4, %q4, %q1; st.shared.u64 [%q4], "
                 "%q2;\nbar.sync 0;\nst.shared.u32 [%q4], 2;\n"),
          &o);
    const int32_t worst[4] = {1, 32, 1,
                              2}; /* row, one bank, 8 bytes a lane in a row, every other word */
    for (int k = 0; k < 4; ++k) {
        assert_true(c[k].shared);
        assert_int_equal(c[k].worst, worst[k]);
    }
}

static void test_touched(void **state)
{
    sc_access_list touched = {0};
    (void)state;
    works(KERNEL(PLACE "ld.global.u32 %r1, [%q8+64]; st.global.u32 [%q8+1024], %r1;\n"),
          &(run_options){2, 64, 0, SC_CHECK_NONE, NULL, &touched});
    assert_int_equal(touched.n, 2);
    assert_int_equal(touched.at[0].begin - memory, 64);
    assert_int_equal(touched.at[0].end - memory, 64 + 512);
    assert_false(touched.at[0].write);
    assert_int_equal(touched.at[1].begin - memory, 1024);
    assert_int_equal(touched.at[1].end - memory, 1024 + 512);
    assert_true(touched.at[1].write);
    free(touched.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loops),   cmocka_unit_test(test_branches),
        cmocka_unit_test(test_blocks),  cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_shared),  cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_counts),  cmocka_unit_test(test_touched),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
