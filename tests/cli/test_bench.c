/* test_bench.c: `invar bench` through the library: each group gives rows with numbers that can be.
 */
#include "unit/temporary.h"

#include <math.h>

enum { GROUPS = 6 };
static int rows[GROUPS];

static void on_row(void *ctx, const iv_bench_row *r)
{
    static const char *const groups[] = {"peak", "matmul", "ops", "step", "launches", "ckpt"};
    (void)ctx;
    int g = 0;
    while (g < GROUPS && strcmp(groups[g], r->group) != 0) ++g;
    assert_true(g < GROUPS);
    ++rows[g];
    assert_true((r->name[0] || r->impl[0]) && isfinite(r->seconds) && r->seconds >= 0);
    if (g == 0) assert_true(r->flops + r->bytes > 0);
    else assert_true(r->seconds > 0 && r->runs >= 3);
    if (g == 5) assert_string_equal(r->impl, "async(sharded)");
    if (g == 1) assert_true(r->flops >= 2.0 * 1024 * 768 * 768 && r->impl[0]);
}

static void run(const char *what, int group)
{
    iv_config *c = NULL;
    iv_model_spec spec;
    iv_trainer *t = NULL;
    memset(rows, 0, sizeof(rows));
    assert_int_equal(iv_config_new(&c), IV_OK);
    assert_int_equal(iv_config_set(c, "model.vocab", "61"), IV_OK);
    assert_int_equal(iv_config_set(c, "model.width", "32"), IV_OK);
    assert_int_equal(iv_config_set(c, "train.batch", "2"), IV_OK);
    if (strcmp(what, "ckpt") == 0) {
        assert_int_equal(iv_config_set(c, "out.dir", at("run")), IV_OK);
        assert_int_equal(iv_config_set(c, "out.checkpoint", "async(sharded)"), IV_OK);
    }
    assert_int_equal(iv_model_spec_from(c, NULL, &spec), IV_OK);
    assert_int_equal(iv_trainer_open(c, NULL, iv_model_build, &spec, &t), IV_OK);
    if (group < 0) {
        assert_int_equal(iv_bench_run(t, what, 0.01, on_row, NULL), IV_INVALID);
        assert_non_null(strstr(iv_error_message(), what));
    } else {
        assert_int_equal(iv_bench_run(t, what, 0.01, on_row, NULL), IV_OK);
        for (int i = 0; i < GROUPS; ++i) assert_true((rows[i] > 0) == (i == group));
    }
    iv_trainer_close(t);
    iv_config_free(c);
}

static void test_groups(void **state)
{
    (void)state;
    run("peak", 0);
    run("ops", 2);
    run("step", 3);
    run("launches", 4);
    run("ckpt", 5);
    assert_int_not_equal(access(at("run/checkpoints"), F_OK), 0); /* it leaves nothing there */
}

static void test_unknown(void **state)
{
    (void)state;
    run("steps", -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_groups),
                                       cmocka_unit_test(test_unknown)};
    return cmocka_run_group_tests(tests, temporary_make, temporary_remove);
}
