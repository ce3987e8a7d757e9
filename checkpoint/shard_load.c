/* shard_load.c: reads a sharded checkpoint (see sharded.h): what the manifest lists is offered to
 * the receiver, then each file is read, its parts straight to their places in the whole tensors,
 * and it is checked that the parts are all of every tensor. */
#include "sharded.h"
#include "st_header.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static iv_status no_memory(const iv__io_job *j)
{
    return iv__io_fail(j, IV_NO_MEMORY, "allocating its lists");
}

typedef struct range {
    int64_t tensor, begin, end;
} range;

typedef struct loader {
    const iv__io_job *job;
    const iv__manifest *m;
    char **dst;     /* [n_tensors] */
    int64_t *order; /* [n_tensors] indices by name */
    range *ranges;  /* seen in the files */
    int64_t n_ranges, cap;
} loader;

static int64_t find_tensor(const loader *l, const char *name, size_t n)
{
    int64_t lo = 0, hi = l->m->n_tensors - 1;
    while (lo <= hi) {
        const int64_t mid = (lo + hi) / 2;
        const char *other = l->m->tensors[l->order[mid]].name;
        int c = strncmp(name, other, n);
        if (c == 0 && other[n]) c = -1;
        if (c == 0) return l->order[mid];
        if (c < 0) hi = mid - 1;
        else lo = mid + 1;
    }
    return -1;
}

/* "NAME[begin:end]", or NAME for all of it. */
static bool find_range(const loader *l, const iv_ckpt_tensor *info, range *out)
{
    long long begin, end;
    int used = 0;
    const char *open = strrchr(info->name, '[');
    const int64_t whole = find_tensor(l, info->name, strlen(info->name));
    if (whole >= 0) {
        *out = (range){whole, 0, iv__shard_count(&l->m->tensors[whole])};
        return memcmp(&info->shape, &l->m->tensors[whole].shape, sizeof(info->shape)) == 0;
    }
    if (!open || sscanf(open, "[%lld:%lld]%n", &begin, &end, &used) != 2 || open[used])
        return false;
    *out = (range){find_tensor(l, info->name, (size_t)(open - info->name)), begin, end};
    return out->tensor >= 0 && begin >= 0 && end > begin &&
           end <= iv__shard_count(&l->m->tensors[out->tensor]) && info->shape.rank == 1 &&
           info->shape.dim[0] == end - begin;
}

static iv_status want_part(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    loader *l = ctx;
    range r = {0};
    if (!find_range(l, info, &r) || info->dtype != l->m->tensors[r.tensor].dtype)
        return iv__io_fail(l->job, IV_CORRUPT,
                           "a file holds \"%.200s\", which the manifest does not list so",
                           info->name);
    if (l->n_ranges == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        range *more = realloc(l->ranges, (size_t)l->cap * sizeof(*more));
        if (!more) return no_memory(l->job);
        l->ranges = more;
    }
    l->ranges[l->n_ranges++] = r;
    char *dst = l->dst[r.tensor];
    *out_dst = dst ? dst + r.begin * (int64_t)(iv__st_dtype_of(info->dtype)->bits / 8) : NULL;
    return IV_OK;
}

static int by_place(const void *a, const void *b)
{
    const range *x = a, *y = b;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Every element of every tensor is there once. */
static iv_status check_cover(loader *l)
{
    if (l->n_ranges > 1) qsort(l->ranges, (size_t)l->n_ranges, sizeof(*l->ranges), by_place);
    int64_t k = 0;
    for (int64_t i = 0; i < l->m->n_tensors; ++i) {
        const int64_t count = iv__shard_count(&l->m->tensors[i]);
        int64_t at = 0;
        bool fits = k < l->n_ranges && l->ranges[k].tensor == i;
        for (; fits && k < l->n_ranges && l->ranges[k].tensor == i; ++k) {
            fits = l->ranges[k].begin == at;
            at = l->ranges[k].end;
        }
        if (!fits || at != count)
            return iv__io_fail(l->job, IV_CORRUPT,
                               "the files do not hold each of the %lld elements of tensor "
                               "\"%.200s\" once",
                               (long long)count, l->m->tensors[i].name);
    }
    return IV_OK;
}

typedef struct named {
    const char *name;
    int64_t index;
} named;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static iv_status sort_names(loader *l)
{
    const int64_t n = l->m->n_tensors;
    named *all = malloc((size_t)(n + 1) * sizeof(*all));
    if (!all) return no_memory(l->job);
    for (int64_t i = 0; i < n; ++i) all[i] = (named){l->m->tensors[i].name, i};
    if (n > 1) qsort(all, (size_t)n, sizeof(*all), by_name);
    iv_status s = IV_OK;
    for (int64_t i = 0; i < n; ++i) {
        l->order[i] = all[i].index;
        if (i > 0 && strcmp(all[i - 1].name, all[i].name) == 0)
            s = iv__io_fail(l->job, IV_CORRUPT, "its manifest lists \"%.200s\" twice", all[i].name);
    }
    free(all);
    return s;
}

static iv_status read_files(loader *l)
{
    iv_status s = IV_OK;
    const iv_ckpt_sink sink = {.ctx = l, .want = want_part};
    for (int64_t i = 0; i < l->m->n_files && s == IV_OK; ++i) {
        char *path = iv__shard_path(l->job->path, l->m->files[i].name);
        iv__io_job file = *l->job;
        file.path = path;
        s = path ? iv__st_read(&file, &sink, &l->m->files[i].stamp) : no_memory(l->job);
        free(path);
    }
    return s == IV_OK ? check_cover(l) : s;
}

static iv_status deliver(loader *l, const iv_ckpt_sink *sink)
{
    const iv__manifest *m = l->m;
    l->dst = calloc((size_t)m->n_tensors + 1, sizeof(*l->dst));
    l->order = calloc((size_t)m->n_tensors + 1, sizeof(*l->order));
    if (!l->dst || !l->order) return no_memory(l->job);
    iv_status s = sort_names(l);
    for (int64_t i = 0; i < m->n_meta && s == IV_OK && sink->meta; ++i)
        s = sink->meta(sink->ctx, m->meta[i].key, m->meta[i].value);
    for (int64_t i = 0; i < m->n_tensors && s == IV_OK; ++i) {
        void *dst = NULL;
        s = sink->want(sink->ctx, &m->tensors[i], &dst);
        l->dst[i] = dst;
    }
    if (s == IV_OK) s = read_files(l);
    for (int64_t i = 0; i < m->n_tensors && s == IV_OK && sink->done; ++i)
        if (l->dst[i]) s = sink->done(sink->ctx, &m->tensors[i], l->dst[i]);
    return s;
}

iv_status iv__sharded_read(const iv__io_job *j, const iv_ckpt_sink *sink)
{
    iv__manifest m;
    iv_status s = iv__manifest_read(j, &m);
    if (s != IV_OK) return s;
    loader l = {.job = j, .m = &m};
    s = deliver(&l, sink);
    free(l.dst);
    free(l.order);
    free(l.ranges);
    iv__manifest_free(&m);
    return s;
}
