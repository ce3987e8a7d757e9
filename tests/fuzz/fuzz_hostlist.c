/* fuzz_hostlist.c: arbitrary text as a SLURM host list (libFuzzer).  A list that is taken gives the
 * names that it counts, each a word; one that is refused gives none. */
#include "input.h"

#include "cluster/hostlist.h"
#include "registry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *list = malloc(n + 1), name[256];
    int64_t count = -1;
    if (!list) return 0;
    if (n > 0) memcpy(list, data, n);
    list[n] = 0;
    const iv_status s = iv__hostlist_count(&iv__host, list, &count);
    if (s == IV_OK && count < 1) abort();
    if (s != IV_OK && (s != IV_INVALID || count != -1)) abort();
    for (int64_t k = 0; s == IV_OK && k < 64 && k < count; ++k) {
        /* From both ends. */
        const int64_t i = k & 1 ? count - 1 - k / 2 : k / 2;
        const iv_status g = iv__hostlist_get(&iv__host, list, i, name, sizeof(name));
        if (g == IV_OK && (!*name || strpbrk(name, "[], \t\n"))) abort();
        if (g != IV_OK && g != IV_INVALID) abort();
    }
    if (s == IV_OK && iv__hostlist_get(&iv__host, list, count, name, sizeof(name)) == IV_OK)
        abort();
    free(list);
    return 0;
}
