/* wrap.h: what checkpoint plugins share that hand the work on to another one. */
#ifndef IV_CHECKPOINT_WRAP_H
#define IV_CHECKPOINT_WRAP_H

#include "../runtime/plugin.h"

typedef struct iv__wrap {
    const iv_host *host;
    const iv_checkpoint *inner;
    void *inner_self;
    iv_ckpt_group group; /* {0, 1, 0} until join */
} iv__wrap;

/* Finds the inner plugin that `args` names ("" means safetensors), for the wrapper called `name`.
 */
iv_status iv__wrap_open(iv__wrap *w, const iv_host *host, const char *name, const char *args);
/* Tells the inner plugin, if it wants to know, and keeps the group. */
iv_status iv__wrap_join(iv__wrap *w, const iv_ckpt_group *group);
/* Whether this rank hands saves and removals on: all do to a plugin that wants to know its rank. */
static inline bool iv__wrap_acts(const iv__wrap *w)
{
    return w->inner->join != NULL || w->group.rank == 0;
}

#endif
