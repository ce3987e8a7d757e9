/* cluster.h: what the cluster plugins share: reading variables into iv_ranks by tables, and noting
 * from which variable each field came.
 *
 * A plugin is two functions: `detect` looks which variables are set, `ranks` reads them.  Every
 * number is range-checked here, so that a malformed variable is one named refusal wherever it
 * stands.  Counts that contradict each other are the host's to find, once for all plugins; a plugin
 * checks only what it alone knows. */
#ifndef IV_CLUSTER_H
#define IV_CLUSTER_H

#include "runtime/plugin.h"

extern const iv_host *iv__cluster_host; /* set by init; the host outlives every plugin */
iv_status iv__cluster_init(const iv_host *host, const char *args, void **out_self);

/* Value of a variable; NULL if it is not set or empty. */
const char *iv__cluster_get(const char *name);
/* Whether all of the NULL-ended list are set.  `why` gets "A=1, B=2", or "B is not set". */
bool iv__cluster_all(const char *const *names, char *why, size_t why_size);
/* A whole decimal number in [least, most] from the text of a variable, or a refusal that names it.
 */
iv_status iv__cluster_number(const char *name, const char *text, int64_t least, int64_t most,
                             int64_t *out);

/* One field of iv_ranks and the variables that give it, the first one set winning. */
typedef struct iv__rank_row {
    iv_rank_field field; /* WORLD .. NODE */
    bool required;
    const char *names[5];
} iv__rank_row;
/* Reads n rows; an optional field without a variable stays.  `what` names the environment. */
iv_status iv__cluster_read(const char *what, const iv__rank_row *rows, size_t n, iv_ranks *r);
/* Sets a field that was found by a rule, which `from` names. */
void iv__cluster_set(iv_ranks *r, iv_rank_field field, int32_t value, const char *from);

/* MASTER_ADDR, else `fallback` by the rule `from` (NULL: stays unknown). */
iv_status iv__cluster_address(iv_ranks *r, const char *fallback, const char *from);
/* MASTER_PORT alone, else candidates first + (at + 1231 k) mod span, k = 0, 1, ... by the rule
 * `from`: `at` comes from what tells jobs on the same node apart.  All are below 32768, where
 * systems begin to give ports to everybody. */
iv_status iv__cluster_ports(iv_ranks *r, int32_t first, int32_t span, int64_t at, const char *from);
/* This host as launchers know it: INVAR_HOST_NAME, or the system's name. */
void iv__cluster_host_name(char out[256]);
/* Equal, or equal up to the first dot where one of them has none: "n1" and "n1.cluster". */
bool iv__cluster_same_host(const char *a, const char *b);

/* What every plugin's descriptor has in common. */
#define IV_CLUSTER_PLUGIN(id, text, table)                                                         \
    .abi = IV_PLUGIN_ABI, .size = sizeof(iv_plugin), .kind = IV_PLUGIN_CLUSTER,                    \
    .vtable_size = sizeof(iv_cluster), .name = (id), .version = "1", .summary = (text),            \
    .vtable = (table), .init = iv__cluster_init

#endif
