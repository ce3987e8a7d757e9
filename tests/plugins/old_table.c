/* old_table.c: a plugin as one compiled when the table of transports ended before `open`. */
#include "plugin.h"

static int usable(void *self, const iv_ranks *r, char *why, size_t why_size)
{
    (void)self, (void)r, (void)why, (void)why_size;
    return 7;
}

/* What lies behind an old plugin's table is not its table's. */
static const struct {
    int (*usable)(void *, const iv_ranks *, char *, size_t);
    uintptr_t other;
} table = {usable, 0x5eed};

static const iv_plugin plugin = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_TRANSPORT,
    .vtable_size = offsetof(iv_transport, open),
    .name = "old-table",
    .version = "1",
    .summary = "a table that ends early",
    .vtable = &table,
};

IV_API const iv_plugin *invar_plugin(void);
const iv_plugin *invar_plugin(void)
{
    return &plugin;
}
