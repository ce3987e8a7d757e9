/* test_old_table.c: entries beyond the table that a plugin was compiled with count as NULL. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "registry.h"

static void test_missing_entries_are_null(void **state)
{
    (void)state;
    const iv_plugin *p = NULL;
    void *self = NULL;
    assert_int_equal(iv__registry_load(OLD_TABLE), IV_OK);
    assert_int_equal(iv__registry_get(IV_PLUGIN_TRANSPORT, "old-table", &p, &self), IV_OK);
    const iv_transport *t = p->vtable;
    iv_ranks r = {.world = 1};
    char why[64];
    assert_int_equal(t->usable(self, &r, why, sizeof(why)), 7);
    assert_null(t->open);
    assert_null(t->finish);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_missing_entries_are_null)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
