/* test_plugin_abi.c: the layout of the checkpoint interface and of the host table, which compiled
 * plugins rely on.  A change here is a change of IV_PLUGIN_ABI: fields may only be appended. */
#include "plugin.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define AT(type, field, offset) assert_int_equal(offsetof(type, field), offset)

static void test_layout(void **state)
{
    (void)state;
    assert_int_equal(sizeof(void *), 8); /* the numbers below are those of 64-bit machines */
    assert_int_equal(IV_PLUGIN_ABI >> 16, 2);
    AT(iv_host, fail, 8);
    AT(iv_host, log, 16);
    AT(iv_host, env, 24);
    AT(iv_host, variable, 32);
    AT(iv_host, message, 40);
    AT(iv_host, plugin, 48);
    AT(iv_plugin, vtable, 40);
    AT(iv_plugin, init, 48);
    AT(iv_plugin, fini, 56);
    AT(iv_ckpt_tensor, dtype, 8);
    AT(iv_ckpt_tensor, shape, 16);
    AT(iv_ckpt_tensor, data, 72);
    assert_int_equal(sizeof(iv_ckpt_tensor), 80);
    assert_int_equal(sizeof(iv_ckpt_meta), 16);
    assert_int_equal(sizeof(iv_ckpt_part), 16);
    AT(iv_ckpt, tensors, 16);
    AT(iv_ckpt, meta, 24);
    AT(iv_ckpt, parts, 32);
    AT(iv_ckpt, id, 40);
    AT(iv_ckpt, read, 48);
    AT(iv_ckpt, ctx, 56);
    AT(iv_ckpt_sink, done, 24);
    assert_int_equal(sizeof(iv_ckpt_group), 12);
    AT(iv_checkpoint, detect, 0);
    AT(iv_checkpoint, save, 8);
    AT(iv_checkpoint, load, 16);
    AT(iv_checkpoint, remove, 24);
    AT(iv_checkpoint, drain, 32);
    AT(iv_checkpoint, extension, 40);
    AT(iv_checkpoint, release, 48);
    AT(iv_checkpoint, poll, 56);
    AT(iv_checkpoint, join, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_layout)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
