/* memplan.c: static placement of temporaries.
 *
 * Each temporary is live from its first to its last step.  Largest first, each goes to the lowest
 * offset at which it overlaps no placed one that is live at the same time.  Deterministic, O(n^2).
 */
#include "plan.h"

enum { ALIGN = 256 };

static int64_t aligned(int64_t x)
{
    return (x + ALIGN - 1) / ALIGN * ALIGN;
}

static bool overlap_in_time(const iv__place *a, const iv__place *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset for *p beside the n placed ones, which are sorted by offset. */
static int64_t lowest(const iv__place *p, iv__place *const *placed, int64_t n)
{
    int64_t at = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (!overlap_in_time(p, placed[i])) continue;
        if (placed[i]->offset >= at + p->bytes) break;
        at = IV_MAX2(at, aligned(placed[i]->offset + placed[i]->bytes));
    }
    return at;
}

static int by_size(const void *a, const void *b)
{
    const iv__place *x = *(iv__place *const *)a, *y = *(iv__place *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x < y ? -1 : x > y; /* of one array: a stable order */
}

int64_t iv__memplan(iv__place *places, int64_t n, int64_t *out_unshared)
{
    iv__place **todo, **placed;
    int64_t n_todo = 0, n_placed = 0, end = 0;
    *out_unshared = 0;
    if (iv__calloc(2 * n, sizeof(*todo), "the memory plan", &todo) != IV_OK) return -1;
    placed = todo + n;
    for (int64_t i = 0; i < n; ++i)
        if (places[i].arena == IV_ARENA_TEMP && places[i].bytes > 0) todo[n_todo++] = &places[i];
    qsort(todo, (size_t)n_todo, sizeof(*todo), by_size);
    for (int64_t i = 0; i < n_todo; ++i) {
        iv__place *p = todo[i];
        p->offset = lowest(p, placed, n_placed);
        end = IV_MAX2(end, aligned(p->offset + p->bytes));
        *out_unshared += aligned(p->bytes);
        int64_t k = n_placed++;
        for (; k > 0 && placed[k - 1]->offset > p->offset; --k) placed[k] = placed[k - 1];
        placed[k] = p;
    }
    free(todo);
    return end;
}
