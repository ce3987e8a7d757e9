/* staged.c: the checkpoint plugins `hpu(INNER)` and `xla(INNER)`: device memory is copied to the
 * host as a whole before anything is written, so that the device is free again after the copy and
 * the inner plugin sees host memory only.
 *
 *   hpu   one rank stages and writes
 *   xla   a collective save: every rank stages (reading an XLA device is collective), one rank of
 *         each host writes.  All metadata is written, whatever it is about.
 *
 * An inner plugin that wants to know its rank writes on every rank, as it would by itself.  The
 * staging memory is kept for the next save. */
#include "wrap.h"

#include <stdlib.h>
#include <string.h>

typedef struct staged {
    iv__wrap wrap;
    bool collective;
    char *memory;
    int64_t bytes;
} staged;

enum { ALIGN = 64 };

static int64_t bytes_of(const iv_ckpt *c, int64_t i)
{
    static const int64_t each[IV_DTYPE_COUNT] = {
        [IV_F32] = 4, [IV_F64] = 8, [IV_BF16] = 2, [IV_F16] = 2,
        [IV_I32] = 4, [IV_I64] = 8, [IV_U8] = 1,   [IV_U16] = 2};
    int64_t n = (unsigned)c->tensors[i].dtype < IV_DTYPE_COUNT ? each[c->tensors[i].dtype] : 0;
    if (c->parts) return n * (c->parts[i].end - c->parts[i].begin);
    for (int32_t k = 0; k < c->tensors[i].shape.rank; ++k) n *= c->tensors[i].shape.dim[k];
    return n;
}

static int64_t room_of(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Fetches what is in device memory; tensors is a copy of the list, to be completed. */
static iv_status stage(staged *p, const char *path, const iv_ckpt *c, iv_ckpt_tensor *tensors)
{
    int64_t total = 0, at = 0;
    for (int64_t i = 0; i < c->n_tensors; ++i)
        if (!tensors[i].data) total += room_of(bytes_of(c, i));
    if (total > p->bytes) {
        free(p->memory);
        p->memory = aligned_alloc(ALIGN, (size_t)total);
        p->bytes = p->memory ? total : 0;
        if (!p->memory)
            return p->wrap.host->fail(IV_NO_MEMORY,
                                      "saving checkpoint %s: allocating %lld bytes for staging",
                                      path, (long long)total);
    }
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const int64_t bytes = bytes_of(c, i);
        if (tensors[i].data || bytes == 0 || !c->read) continue;
        iv_status s = c->read(c->ctx, i, 0, bytes, p->memory + at);
        if (s != IV_OK) return s;
        tensors[i].data = p->memory + at;
        at += room_of(bytes);
    }
    return IV_OK;
}

/* Whether this rank hands the save or removal on. */
static bool acts(const staged *p)
{
    return p->collective && !p->wrap.inner->join ? p->wrap.group.local_rank == 0
                                                 : iv__wrap_acts(&p->wrap);
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    staged *p = self;
    if (!path || !c || c->n_tensors < 0)
        return p->wrap.host->fail(IV_INVALID, "saving checkpoint: no contents were given");
    if (!p->collective && !acts(p)) return IV_OK;
    iv_ckpt_tensor *tensors = calloc((size_t)c->n_tensors + 1, sizeof(*tensors));
    if (!tensors)
        return p->wrap.host->fail(IV_NO_MEMORY, "saving checkpoint %s: allocating its list", path);
    if (c->n_tensors) memcpy(tensors, c->tensors, (size_t)c->n_tensors * sizeof(*tensors));
    iv_status s = stage(p, path, c, tensors);
    iv_ckpt host = *c;
    host.tensors = tensors;
    host.read = NULL;
    host.ctx = NULL;
    if (s == IV_OK && acts(p)) s = p->wrap.inner->save(p->wrap.inner_self, path, &host);
    free(tensors);
    return s;
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const staged *p = self;
    return p->wrap.inner->load(p->wrap.inner_self, path, sink);
}

static iv_status remove_checkpoint(void *self, const char *path)
{
    const staged *p = self;
    return acts(p) ? p->wrap.inner->remove(p->wrap.inner_self, path) : IV_OK;
}

static iv_status join(void *self, const iv_ckpt_group *group)
{
    return iv__wrap_join(&((staged *)self)->wrap, group);
}

static iv_status open_staged(const iv_host *host, const char *name, const char *args,
                             bool collective, void **out_self)
{
    staged *p = calloc(1, sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin %s: allocating %zu bytes", name,
                          sizeof(*p));
    p->collective = collective;
    iv_status s = iv__wrap_open(&p->wrap, host, name, args);
    if (s == IV_OK && p->wrap.inner->poll) /* write async(hpu(...)): the staging memory is one */
        s = host->fail(IV_INVALID, "checkpoint plugin %s: it cannot wrap \"%s\" [hint: async(%s)]",
                       name, args, name);
    if (s != IV_OK) free(p);
    else *out_self = p;
    return s;
}

static iv_status init_hpu(const iv_host *host, const char *args, void **out_self)
{
    return open_staged(host, "hpu", args, false, out_self);
}

static iv_status init_xla(const iv_host *host, const char *args, void **out_self)
{
    return open_staged(host, "xla", args, true, out_self);
}

static void fini(void *self)
{
    staged *p = self;
    if (p) free(p->memory);
    free(p);
}

static const iv_checkpoint vtable = {
    .save = save, .load = load, .remove = remove_checkpoint, .extension = NULL, .join = join};

const iv_plugin iv__plugin_hpu_checkpoint = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "hpu",
    .version = "1.0",
    .summary = "hpu(PLUGIN) saves with it what was first copied from the device as a whole",
    .vtable = &vtable,
    .init = init_hpu,
    .fini = fini,
};

const iv_plugin iv__plugin_xla_checkpoint = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "xla",
    .version = "1.0",
    .summary = "xla(PLUGIN) copies on all ranks and saves with it on one rank of each host",
    .vtable = &vtable,
    .init = init_xla,
    .fini = fini,
};
