/* wrap.c: plugins that hand the work on to another one (see wrap.h). */
#include "wrap.h"

iv_status iv__wrap_open(iv__wrap *w, const iv_host *host, const char *name, const char *args)
{
    const char *spec = args && *args ? args : "safetensors";
    const void *vtable = NULL;
    *w = (iv__wrap){.host = host, .group = {.rank = 0, .ranks = 1}};
    if (host->size < offsetof(iv_host, plugin) + sizeof(host->plugin))
        return host->fail(IV_UNSUPPORTED,
                          "checkpoint plugin %s: this host cannot give it the plugin %s to wrap",
                          name, spec);
    iv_status s = host->plugin(IV_PLUGIN_CHECKPOINT, spec, &vtable, &w->inner_self);
    if (s == IV_OK) w->inner = vtable;
    return s;
}

iv_status iv__wrap_join(iv__wrap *w, const iv_ckpt_group *group)
{
    w->group = *group;
    return w->inner->join ? w->inner->join(w->inner_self, group) : IV_OK;
}
