/* order.c: finds work that should have waited (see core.h).
 *
 * Each stream keeps its last finished pieces of work; a piece that ends is compared with those of
 * other streams that its clock does not know.  The lists are short: work that is known to be over
 * is skipped. */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEPT = 256, LABEL = 64 };

typedef struct done_work {
    uint64_t number; /* 0: none */
    sc_access *at;
    int32_t n;
    char label[LABEL];
} done_work;

static done_work kept[SC_STREAMS][KEPT];
static int32_t last[SC_STREAMS]; /* where the newest is */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void sc_clock_join(sc_clock *a, const sc_clock *b)
{
    for (int32_t i = 0; i < SC_STREAMS; ++i)
        if (b->at[i] > a->at[i]) a->at[i] = b->at[i];
}

void sc_access_add(sc_access_list *list, uint64_t address, int64_t bytes, bool write)
{
    if (bytes <= 0) return;
    if (list->n == list->cap) {
        const int32_t cap = 2 * list->cap + 8;
        sc_access *more = realloc(list->at, (size_t)cap * sizeof(*more));
        if (!more) return;
        list->at = more;
        list->cap = cap;
    }
    list->at[list->n++] = (sc_access){address, address + (uint64_t)bytes, write};
}

/* The first pair that overlaps with a write in it. */
static const sc_access *clash(const done_work *w, const sc_access_list *touched, bool *out_both)
{
    for (int32_t i = 0; i < w->n; ++i)
        for (int32_t k = 0; k < touched->n; ++k) {
            const sc_access *a = &w->at[i], *b = &touched->at[k];
            if (a->begin >= b->end || b->begin >= a->end || !(a->write || b->write)) continue;
            *out_both = a->write && b->write;
            return b;
        }
    return NULL;
}

static void compare(int32_t slot, const sc_clock *clock, const char *label,
                    const sc_access_list *touched)
{
    char what[256];
    for (int32_t other = 0; other < SC_STREAMS; ++other) {
        if (other == slot) continue;
        for (int32_t back = 0; back < KEPT; ++back) {
            const done_work *w = &kept[other][(last[other] - back + KEPT) % KEPT];
            if (w->number == 0 || w->number <= clock->at[other]) break;
            bool both = false;
            const sc_access *a = clash(w, touched, &both);
            if (!a) continue;
            sc_mem_describe(a->begin, (int64_t)(a->end - a->begin), what, sizeof(what));
            sc_misuse("missing wait: `%s` of stream %d and `%s` of stream %d both %s %s", label,
                      slot, w->label, other, both ? "write" : "use", what);
            return;
        }
    }
}

void sc_order_done(int32_t slot, uint64_t number, const sc_clock *clock, const char *label,
                   const sc_access_list *touched)
{
    pthread_mutex_lock(&mutex);
    compare(slot, clock, label, touched);
    last[slot] = (last[slot] + 1) % KEPT;
    done_work *w = &kept[slot][last[slot]];
    free(w->at);
    *w = (done_work){.number = number, .n = touched->n, .at = NULL};
    snprintf(w->label, sizeof(w->label), "%s", label);
    if (touched->n) w->at = malloc((size_t)touched->n * sizeof(*w->at));
    if (w->at) memcpy(w->at, touched->at, (size_t)touched->n * sizeof(*w->at));
    else w->n = 0;
    pthread_mutex_unlock(&mutex);
}
