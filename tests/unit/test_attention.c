/* test_attention.c: the host's attention gives the same bits at every level: types, sizes around
 * the block of 64, heads of any width, causal with more and with fewer keys than queries, threads.
 * With tiles by their stand-in where the processor has none.  That these are the portable kernels'
 * bits is shown by tests/ops/test_invariance.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/attention.h"
#include "backends/cpu/isa.h"
#include "standin/amx.h"
#include "cpu_impl.h"
#include "rnd.h"

enum { BUFFERS = 10, OUT = 6, GUARD = 64 };
static const int64_t widths[IV__GEMM_TYPES] = {4, 8, 2, 2};

/* Numbers in (-2, 2) of any type, now and then tiny. */
static void fill(iv__gemm_type t, void *p, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        uint32_t s = rnd() & 1, m = rnd(), down = rnd() % 50 == 0 ? 40 : rnd() % 4;
        float f;
        uint32_t u = s << 31 | (127 - down) << 23 | (m & 0x7fffff);
        memcpy(&f, &u, sizeof f);
        if (t == IV__GEMM_F64) ((double *)p)[i] = (double)f;
        else if (t == IV__GEMM_F32) ((float *)p)[i] = f;
        else if (t == IV__GEMM_BF16) ((uint16_t *)p)[i] = (uint16_t)(u >> 16);
        else ((uint16_t *)p)[i] = (uint16_t)(s << 15 | (15 - down % 15) << 10 | (m & 1023));
    }
}

/* q k v o lse do, then the outputs: forward o lse, backward dq dk dv. */
typedef struct problem {
    iv__attention a;
    int64_t bytes[BUFFERS];
    void *buf[BUFFERS];
} problem;

static void add(problem *p, int i, int64_t n, int64_t width)
{
    p->bytes[i] = n * width;
    p->buf[i] = calloc((size_t)n + 1, (size_t)width);
    assert_non_null(p->buf[i]);
}

static problem problem_new(iv__attention a)
{
    problem p = {.a = a};
    int64_t width = a.heads * a.d, pad = rnd_to(0, 2) * width, w = widths[a.in],
            sum = a.in == IV__GEMM_F64 ? 8 : 4, nq = a.batch * a.tq * width,
            nk = a.batch * a.tk * width;
    p.a.q = (iv__att_rows){a.tq * (width + pad), width + pad};
    p.a.k = (iv__att_rows){a.tk * (width + pad), width + pad};
    p.a.v = (iv__att_rows){a.tk * width, width};
    p.a.o = p.a.dy = (iv__att_rows){a.tq * width, width};
    add(&p, 0, a.batch * p.a.q.bs, w);
    add(&p, 1, a.batch * p.a.k.bs, w);
    add(&p, 2, nk, w);
    add(&p, 3, nq, w);
    add(&p, 4, a.batch * a.heads * a.tq, sum);
    add(&p, 5, nq, w);
    for (int i = 0; i < OUT; ++i)
        if (i != 4) fill(a.in, p.buf[i], p.bytes[i] / w);
    fill(sum == 8 ? IV__GEMM_F64 : IV__GEMM_F32, p.buf[4], p.bytes[4] / sum);
    add(&p, OUT, nq, widths[a.out]);
    add(&p, OUT + 1, nk > nq ? nk : nq, 8);
    add(&p, OUT + 2, nk, widths[a.out]);
    return p;
}

static void run(problem *p, bool backward)
{
    void **b = p->buf;
    size_t bytes = iv__attention_scratch(&p->a, backward, iv__team_size());
    char *scratch = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    assert_non_null(scratch);
    memset(scratch, 0xff, bytes + GUARD); /* NaN, if it is read before it is written */
    for (int i = OUT; i < OUT + 3; ++i) memset(b[i], 0xee, (size_t)p->bytes[i]);
    if (backward)
        iv__attention_backward(&p->a, b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8],
                               scratch);
    else iv__attention_forward(&p->a, b[0], b[1], b[2], b[6], b[7], scratch);
    for (size_t i = 0; i < GUARD; ++i) assert_int_equal((unsigned char)scratch[bytes + i], 0xff);
    free(scratch);
}

static void compare(const problem *p, void *const *want, bool backward)
{
    for (int i = OUT; i < OUT + 3; ++i)
        for (int64_t k = 0; k < p->bytes[i]; ++k)
            if (((uint8_t *)p->buf[i])[k] != ((uint8_t *)want[i - OUT])[k])
                fail_msg("%s, output %d, byte %lld differs: products at %s, the rest at %s, %d "
                         "threads, types %d->%d, %lld x %lld keys, heads of %lld, causal %d",
                         backward ? "backward" : "forward", i - OUT, (long long)k,
                         iv__isa_name(p->a.level), iv__isa_name(p->a.soft_level), iv__team_size(),
                         (int)p->a.in, (int)p->a.out, (long long)p->a.tq, (long long)p->a.tk,
                         (long long)p->a.d, p->a.causal);
}

static void check_levels(problem *p, bool backward)
{
    int best = iv__isa_detect(), most = best;
    void *want[3];
    bool tiles = p->a.in == IV__GEMM_BF16 && best >= 1 && standin_amx_open();
    p->a.level = p->a.soft_level = 0;
    assert_int_equal(iv__team_open(1), 0);
    run(p, backward);
    for (int i = 0; i < 3; ++i) {
        want[i] = malloc((size_t)p->bytes[OUT + i] + 1);
        assert_non_null(want[i]);
        memcpy(want[i], p->buf[OUT + i], (size_t)p->bytes[OUT + i]);
    }
    assert_int_equal(iv__team_open(2), 0);
    for (int level = 0; level < IV__ISA_COUNT; ++level) {
        if (level > best && !(tiles && iv__isa_has_tiles(level))) continue;
        p->a.level = level;
        p->a.soft_level = level < most ? level : most;
        run(p, backward);
        compare(p, want, backward);
    }
    for (int i = 0; i < 3; ++i) free(want[i]);
}

static void check(iv__attention a)
{
    problem p = problem_new(a);
    check_levels(&p, false);
    check_levels(&p, true);
    for (int i = 0; i < BUFFERS; ++i) free(p.buf[i]);
}

static void test_sizes(void **state)
{
    (void)state;
    static const int64_t sizes[][3] = {{1, 1, 1},      {5, 9, 7},     {64, 64, 64},  {65, 63, 32},
                                       {130, 130, 33}, {40, 150, 80}, {150, 40, 16}, {70, 200, 8}};
    for (int i = 0; i < 64; ++i) {
        const int64_t *z = sizes[i / 4 % 8];
        iv__gemm_type in = (iv__gemm_type)(i % 4);
        bool wide = in == IV__GEMM_F64 || in == IV__GEMM_F32 || rnd() % 2;
        check((iv__attention){.in = in,
                              .out = in == IV__GEMM_F64 ? in
                                     : wide             ? IV__GEMM_F32
                                                        : in,
                              .batch = rnd_to(1, 2),
                              .heads = rnd_to(1, 3),
                              .tq = z[0],
                              .tk = z[1],
                              .d = z[2],
                              .causal = i / 32,
                              .scale = 0.25});
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes)};
    int failed = cmocka_run_group_tests(tests, NULL, close_team);
    printf("%ld tile instructions by the stand-in\n", standin_amx_count());
    return failed;
}
