/* excuses.h: what the conformance tests do not ask of a device, each with its reason.  A test asks
 * before it leaves something out, and the reason is printed:
 *
 *     if (excused(h->name, &h->info, "f64")) continue;
 *
 * `unsupported` is what a device may lack for good.  `not_yet` is what backends still owe: nothing.
 */
#ifndef IV_TEST_EXCUSES_H
#define IV_TEST_EXCUSES_H

#include "plugin.h"

#include <stdio.h>
#include <string.h>

typedef struct excuse {
    const char *part; /* what is left out */
    bool (*applies)(const iv_device_info *info);
    const char *reason;
} excuse;

static bool lacks_f64(const iv_device_info *info)
{
    return !info->has_f64;
}

static const excuse unsupported[] = {
    {"f64", lacks_f64, "it has no 64-bit floats; users are refused 64-true by its name"},
    {NULL, NULL, NULL},
};
static const excuse not_yet[] = {{NULL, NULL, NULL}};

static inline bool excused(const char *device, const iv_device_info *info, const char *part)
{
    static const struct {
        const char *name;
        const excuse *list;
    } lists[] = {{"unsupported", unsupported}, {"not yet", not_yet}};
    for (int k = 0; k < 2; ++k)
        for (const excuse *e = lists[k].list; e->part; ++e)
            if (strcmp(e->part, part) == 0 && e->applies(info)) {
                printf("%s: %s left out, %s: %s\n", device, part, lists[k].name, e->reason);
                return true;
            }
    return false;
}

#endif
