/* test_memplan.c: the placement of temporaries: what is live at the same time never overlaps,
 * places are aligned, sharing happens, and the same places come out every time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plan.h"

enum { MOST = 120, STEPS = 40, ALIGN = 256 };

static uint64_t state = 1;
static int64_t below(int64_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state >> 33) % (uint64_t)n);
}

static int64_t aligned(int64_t x)
{
    return (x + ALIGN - 1) / ALIGN * ALIGN;
}

static bool counts(const iv__place *p)
{
    return p->arena == IV_ARENA_TEMP && p->bytes > 0;
}

static void check(const iv__place *p, int64_t n, int64_t end, int64_t unshared)
{
    int64_t live[STEPS] = {0}, all = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (!counts(&p[i])) continue;
        all += aligned(p[i].bytes);
        for (int32_t s = p[i].first; s <= p[i].last; ++s) live[s] += p[i].bytes;
        if (p[i].offset < 0 || p[i].offset % ALIGN != 0 || p[i].offset + p[i].bytes > end)
            fail_msg("place %lld: %lld bytes at %lld of %lld", (long long)i, (long long)p[i].bytes,
                     (long long)p[i].offset, (long long)end);
        for (int64_t k = 0; k < i; ++k) {
            bool together = counts(&p[k]) && p[i].first <= p[k].last && p[k].first <= p[i].last;
            if (together && p[i].offset < p[k].offset + p[k].bytes &&
                p[k].offset < p[i].offset + p[i].bytes)
                fail_msg("%lld (%lld bytes at %lld, steps %d-%d) overlaps %lld (%lld bytes at "
                         "%lld, steps %d-%d)",
                         (long long)i, (long long)p[i].bytes, (long long)p[i].offset, p[i].first,
                         p[i].last, (long long)k, (long long)p[k].bytes, (long long)p[k].offset,
                         p[k].first, p[k].last);
        }
    }
    if (unshared != all || end > all)
        fail_msg("%lld bytes, %lld without sharing, expected %lld", (long long)end,
                 (long long)unshared, (long long)all);
    for (int s = 0; s < STEPS; ++s)
        if (live[s] > end)
            fail_msg("step %d has %lld live bytes, the arena %lld", s, (long long)live[s],
                     (long long)end);
}

/* Random lives and sizes; equal sizes, empty places and those of other arenas among them. */
static int64_t random_places(iv__place *p)
{
    int64_t n = 1 + below(MOST);
    bool few = below(2);
    for (int64_t i = 0; i < n; ++i) {
        int32_t first = (int32_t)below(STEPS), length = (int32_t)below(below(4) ? 4 : STEPS);
        p[i] = (iv__place){.arena = below(8) ? IV_ARENA_TEMP : IV_ARENA_INPUT,
                           .bytes = few ? 256 * below(5) : below(below(3) ? 2000 : 100000),
                           .offset = -77,
                           .first = first,
                           .last = IV_MIN2(first + length, STEPS - 1)};
    }
    return n;
}

static void test_random(void **unused)
{
    (void)unused;
    static iv__place p[MOST], again[MOST];
    for (int round = 0; round < 2000; ++round) {
        int64_t n = random_places(p), unshared = -1, same = -1;
        memcpy(again, p, sizeof(p));
        int64_t end = iv__memplan(p, n, &unshared);
        check(p, n, end, unshared);
        for (int64_t i = 0; i < n; ++i)
            if (p[i].arena != IV_ARENA_TEMP && p[i].offset != -77)
                fail_msg("place %lld is not temporary and was moved", (long long)i);
        assert_int_equal(iv__memplan(again, n, &same), end);
        assert_memory_equal(p, again, (size_t)n * sizeof(*p));
    }
}

/* Each value is read by the next step only: two places are enough for any number. */
static void test_chain(void **unused)
{
    (void)unused;
    iv__place p[STEPS - 1];
    int64_t unshared;
    for (int32_t i = 0; i < STEPS - 1; ++i)
        p[i] = (iv__place){.arena = IV_ARENA_TEMP, .bytes = 1000, .first = i, .last = i + 1};
    assert_int_equal(iv__memplan(p, STEPS - 1, &unshared), 2 * 1024);
    assert_int_equal(unshared, (STEPS - 1) * 1024);
}

static void test_empty(void **unused)
{
    (void)unused;
    int64_t unshared = -1;
    iv__place p = {.arena = IV_ARENA_TEMP};
    assert_int_equal(iv__memplan(&p, 0, &unshared), 0);
    assert_int_equal(iv__memplan(&p, 1, &unshared), 0);
    assert_int_equal(unshared, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
