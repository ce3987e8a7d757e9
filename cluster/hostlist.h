/* hostlist.h: SLURM's host lists: "n1,rack[1-2]n[03-05,7]-ib" (see hostlist.c for the grammar). */
#ifndef IV_CLUSTER_HOSTLIST_H
#define IV_CLUSTER_HOSTLIST_H

#include "runtime/plugin.h"

/* Number of hosts that `list` names (repeated ones count again); at least 1.  IV_INVALID, through
 * `host`, names the place of the first fault. */
iv_status iv__hostlist_count(const iv_host *host, const char *list, int64_t *out_n);
/* Host i in the list's order, 0 <= i < count.  IV_INVALID also if the name needs `size` bytes or
 * more. */
iv_status iv__hostlist_get(const iv_host *host, const char *list, int64_t i, char *out,
                           size_t size);

#endif
