/* vendor.h: opening a vendor's library at run time: the one that an environment variable names, or
 * the first of a list.  A library in use is never closed, because its threads outlive us. */
#ifndef IV_BACKENDS_CPU_VENDOR_H
#define IV_BACKENDS_CPU_VENDOR_H

#include <dlfcn.h>

#include "../../runtime/plugin.h"

/* Opens the library that `variable` names (then no other will do), else the first of `names` (ends
 * with NULL) that is there.  IV_UNAVAILABLE with the loader's reason for the first name. */
static inline iv_status iv__vendor_open(const iv_host *host, const char *variable,
                                        const char *const *names, void **out_lib)
{
    const char *const named[] = {host->env(variable), NULL};
    const char *why = NULL;
    char first[192] = "";
    for (const char *const *n = named[0] ? named : names; *n; ++n) {
        void *lib = dlopen(*n, RTLD_NOW | RTLD_LOCAL);
        if (lib) {
            *out_lib = lib;
            return IV_OK;
        }
        why = dlerror();
        for (size_t i = 0; why && !*named && n == names && why[i] && i + 1 < sizeof(first); ++i)
            first[i] = why[i];
    }
    return host->fail(IV_UNAVAILABLE, "opening %s: %s [hint: set %s to the library's path]",
                      named[0] ? variable : names[0],
                      first[0] ? first
                      : why    ? why
                               : "not found",
                      variable);
}

#endif
