/* test_passes.c: ranges of grains, their passes, and the order in which sums are added: whatever
 * the cut, the additions are those of the tree that splits at the largest power of two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "passes.h"

enum { MOST = 40 };

/* A sum as a number that tells how it was added: not associative, not commutative. */
static uint64_t add(uint64_t a, uint64_t b)
{
    return (a * 0x9e3779b97f4a7c15u + b) * 0xbf58476d1ce4e5b9u + 1;
}

static uint64_t tree(int64_t first, int64_t n)
{
    if (n == 1) return (uint64_t)first + 17;
    int64_t left = 1;
    while (left * 2 < n) left *= 2;
    return add(tree(first, left), tree(first + left, n - left));
}

/* What a replica does with the passes of a range. */
static int64_t run(int64_t grains, iv__span range, int64_t most, uint64_t *sums, iv__span *nodes)
{
    iv__pass passes[MOST];
    int64_t n_passes, n_nodes, waiting = 0, at = range.first;
    iv__passes_cut(grains, range, most, passes, &n_passes, nodes, &n_nodes);
    for (int64_t i = 0; i < n_passes; ++i) {
        iv__span g = passes[i].grains;
        assert_int_equal(g.first, at);
        assert_in_range(g.count, 1, most);
        at += g.count;
        uint64_t sum = tree(g.first, g.count);
        for (int32_t k = 0; k < passes[i].joins; ++k) sum = add(sums[--waiting], sum);
        sums[waiting++] = sum;
    }
    assert_int_equal(at, range.first + range.count);
    assert_int_equal(waiting, n_nodes);
    return n_nodes;
}

static void check(int64_t grains, int64_t most, const iv__span *ranges, int64_t workers)
{
    uint64_t sums[MOST * 2];
    iv__span nodes[MOST * 2];
    iv__fold_op ops[MOST * 2];
    int32_t temps;
    int64_t n = 0;
    for (int64_t w = 0; w < workers; ++w) n += run(grains, ranges[w], most, &sums[n], &nodes[n]);
    if (iv__fold_plan(grains, nodes, n, ops, &temps) != IV_OK) fail_msg("%s", iv_error_message());
    assert_true(n + temps <= 2 * MOST);
    for (int64_t i = 0; i + 1 < n; ++i) sums[ops[i].dst] = add(sums[ops[i].a], sums[ops[i].b]);
    uint64_t got = n > 1 ? sums[ops[n - 2].dst] : sums[0];
    if (got != tree(0, grains))
        fail_msg("%lld grains, passes of %lld, %lld workers: another order of additions",
                 (long long)grains, (long long)most, (long long)workers);
}

/* All ways to deal up to 3 workers their ranges. */
static void test_tree(void **state)
{
    (void)state;
    for (int64_t g = 1; g <= 37; ++g)
        for (int64_t most = 1; most <= g; most += most < 9 ? 1 : 5)
            for (int64_t a = 0; a <= g; ++a)
                for (int64_t b = a; b <= g; b += 1 + (g > 16)) {
                    iv__span ranges[] = {{0, a}, {a, b - a}, {b, g - b}};
                    check(g, most, ranges, 3);
                }
}

/* The fewest passes: the nodes that fit, and no smaller ones. */
static void test_few(void **state)
{
    (void)state;
    static const struct {
        int64_t grains, first, count, most, passes;
    } rows[] = {{8, 0, 8, 8, 1},     {8, 0, 8, 4, 2}, {8, 2, 5, 8, 3}, {7, 4, 3, 4, 1},
                {6, 0, 6, 6, 1},     {6, 0, 6, 5, 2}, {6, 0, 6, 3, 3}, {1, 0, 1, 1, 1},
                {64, 1, 62, 64, 10}, {8, 3, 0, 8, 0}};
    for (int64_t i = 0; i < IV_COUNT(rows); ++i) {
        iv__pass passes[64];
        iv__span nodes[IV__NODES_MOST];
        int64_t n, n_nodes;
        iv__passes_cut(rows[i].grains, (iv__span){rows[i].first, rows[i].count}, rows[i].most,
                       passes, &n, nodes, &n_nodes);
        if (n != rows[i].passes)
            fail_msg("row %lld: %lld passes, expected %lld", (long long)i, (long long)n,
                     (long long)rows[i].passes);
    }
}

/* No way to deal the grains is done earlier. */
static void test_shares(void **state)
{
    (void)state;
    static const double speed[][3] = {{1, 1, 1}, {1, 3, 2}, {1, 0.5, 0.01}, {7, 5, 3}};
    for (size_t k = 0; k < sizeof(speed) / sizeof(speed[0]); ++k)
        for (int64_t g = 1; g <= 40; ++g) {
            iv__span s[3], other[3] = {{0, 0}};
            iv__shares(g, speed[k], 3, s);
            double time = iv__shares_time(s, speed[k], 3);
            int64_t at = 0;
            for (int i = 0; i < 3; ++i) {
                assert_int_equal(s[i].first, at);
                at += s[i].count;
            }
            assert_int_equal(at, g);
            for (other[0].count = 0; other[0].count <= g; ++other[0].count)
                for (other[1].count = 0; other[0].count + other[1].count <= g; ++other[1].count) {
                    other[2].count = g - other[0].count - other[1].count;
                    double t = iv__shares_time(other, speed[k], 3);
                    if (t < time * (1 - 1e-12))
                        fail_msg("%lld grains: %lld, %lld, %lld take %g s; another way %g s",
                                 (long long)g, (long long)s[0].count, (long long)s[1].count,
                                 (long long)s[2].count, time, t);
                }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_few),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
