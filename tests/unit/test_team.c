/* test_team.c: the thread team: every item once, chunks on grain boundaries, nesting, reopening. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "backends/cpu/team.h"

enum { MOST = 5000 };

typedef struct seen {
    int64_t n, grain;
    unsigned char hit[MOST];
    int thread_of[MOST];
    atomic_int calls, bad;
    int size;
} seen;

static void mark(void *arg, int64_t begin, int64_t end, int thread)
{
    seen *s = arg;
    atomic_fetch_add(&s->calls, 1);
    if (begin % s->grain != 0 || (end % s->grain != 0 && end != s->n) || begin >= end ||
        thread < 0 || thread >= s->size) {
        atomic_fetch_add(&s->bad, 1);
    }
    for (int64_t i = begin; i < end; ++i) {
        s->hit[i]++;
        s->thread_of[i] = thread;
    }
}

static void covers(int size, int64_t n, int64_t grain)
{
    static seen s;
    memset(&s, 0, sizeof s);
    s.n = n;
    s.grain = grain;
    s.size = size;
    iv__team_for(n, grain, mark, &s);
    assert_int_equal(atomic_load(&s.bad), 0);
    assert_true(atomic_load(&s.calls) <= size);
    for (int64_t i = 0; i < n; ++i) {
        assert_int_equal(s.hit[i], 1);
        assert_true(i == 0 || s.thread_of[i] >= s.thread_of[i - 1]); /* contiguous, in order */
    }
    if (n <= grain) {
        assert_int_equal(atomic_load(&s.calls), n > 0);
    }
}

static void test_every_item_once(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 4, 7};
    static const int64_t ns[] = {0, 1, 2, 3, 63, 64, 65, 1000, 4999}, grains[] = {1, 3, 64, 5000};
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; ++t) {
        assert_int_equal(iv__team_open(sizes[t]), 0);
        assert_int_equal(iv__team_size(), sizes[t]);
        for (size_t i = 0; i < sizeof ns / sizeof *ns; ++i) {
            for (size_t j = 0; j < sizeof grains / sizeof *grains; ++j) {
                covers(sizes[t], ns[i], grains[j]);
            }
        }
    }
    iv__team_close();
    assert_int_equal(iv__team_size(), 1);
    covers(1, 100, 7);
}

/* Plain, not atomic: the team orders one loop after the other, which ThreadSanitizer checks. */
static int64_t values[2][64];

static void shift(void *arg, int64_t begin, int64_t end, int thread)
{
    int64_t from = *(int64_t *)arg;
    (void)thread;
    for (int64_t i = begin; i < end; ++i) {
        values[1 - from][i] = values[from][(i + 1) % 64] + 1;
    }
}

static void test_loops_are_ordered(void **state)
{
    (void)state;
    assert_int_equal(iv__team_open(3), 0);
    memset(values, 0, sizeof values);
    for (int64_t r = 0; r < 2000; ++r) {
        int64_t from = r % 2;
        iv__team_for(64, 1, shift, &from);
    }
    for (int i = 0; i < 64; ++i) {
        assert_int_equal(values[0][i], 2000);
    }
    iv__team_close();
}

static void inner(void *arg, int64_t begin, int64_t end, int thread)
{
    atomic_fetch_add((atomic_int *)arg, begin == 0 && end == 10 && thread == 0 ? 1 : 1000);
}

static void outer(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t i = begin; i < end; ++i) {
        iv__team_for(10, 1, inner, arg);
    }
}

static void test_nested_runs_inline(void **state)
{
    (void)state;
    atomic_int calls = 0;
    assert_int_equal(iv__team_open(2), 0);
    iv__team_for(8, 1, outer, &calls);
    assert_int_equal(atomic_load(&calls), 8);
    iv__team_close();
}

static void *second_caller(void *arg)
{
    for (int i = 0; i < 500; ++i) {
        iv__team_for(10, 1, shift, arg);
    }
    return NULL;
}

static void add_one(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    atomic_fetch_add((atomic_int *)arg, (int)(end - begin));
}

static void test_two_callers(void **state)
{
    (void)state;
    pthread_t other;
    int64_t from = 0;
    atomic_int items = 0;
    assert_int_equal(iv__team_open(2), 0);
    assert_int_equal(pthread_create(&other, NULL, second_caller, &from), 0);
    for (int i = 0; i < 500; ++i) {
        iv__team_for(10, 1, add_one, &items);
    }
    pthread_join(other, NULL);
    assert_int_equal(atomic_load(&items), 5000);
    iv__team_close();
}

static void test_open_again(void **state)
{
    (void)state;
    for (int i = 0; i < 50; ++i) {
        assert_int_equal(iv__team_open(1 + i % 4), 0);
        covers(1 + i % 4, 777, 5);
    }
    iv__team_close();
    iv__team_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_item_once),    cmocka_unit_test(test_loops_are_ordered),
        cmocka_unit_test(test_nested_runs_inline), cmocka_unit_test(test_two_callers),
        cmocka_unit_test(test_open_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
