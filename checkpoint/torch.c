/* torch.c: the checkpoint plugin `torch`: files of torch.save, read and written without Python.
 *
 * Reading takes every tensor of nested dictionaries and lists under its keys joined by dots, and
 * numbers and texts as metadata.  A checkpoint of Lightning (it has "state_dict" and
 * "pytorch-lightning_version") is mapped to a run's own names by lightning.c, and one is written
 * where the path ends in ".ckpt"; else a plain dictionary of tensors.  Pickles are read as data
 * (pickle.h): nothing in a file is executed.  Every entry is verified by its CRC-32. */
#include "torch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct plugin_self {
    const iv_host *host;
    const iv__io_calls *calls;
} plugin_self;

static iv__io_job job_of(void *self, const char *doing, const char *path)
{
    const plugin_self *p = self;
    return (iv__io_job){.host = p->host, .calls = p->calls, .doing = doing, .path = path};
}

/* ---- what is in a file ---- */

iv_status iv__torch_add(iv__torch_list *l, const iv__io_job *j, const char *name,
                        const iv__pickle *p)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        iv__torch_item *more = realloc(l->items, (size_t)l->cap * sizeof(*more));
        if (!more) return iv__io_fail(j, IV_NO_MEMORY, "allocating its list");
        l->items = more;
    }
    iv__torch_item *e = &l->items[l->n];
    *e = (iv__torch_item){.name = strdup(name)};
    if (!e->name) return iv__io_fail(j, IV_NO_MEMORY, "allocating its list");
    ++l->n;
    if (p->kind == IV_PICKLE_TENSOR) e->tensor = p;
    else if (p->kind == IV_PICKLE_TEXT) snprintf(e->value, sizeof(e->value), "%s", p->text);
    else if (p->kind == IV_PICKLE_FLOAT) snprintf(e->value, sizeof(e->value), "%.17g", p->real);
    else snprintf(e->value, sizeof(e->value), "%lld", (long long)p->number);
    return IV_OK;
}

static bool is_leaf(const iv__pickle *p)
{
    return p->kind == IV_PICKLE_TENSOR || p->kind == IV_PICKLE_TEXT || p->kind == IV_PICKLE_FLOAT ||
           p->kind == IV_PICKLE_INT || p->kind == IV_PICKLE_BOOL;
}

iv_status iv__torch_flatten(iv__torch_list *l, const iv__io_job *j, const char *name,
                            const iv__pickle *p, int depth)
{
    enum { DEEPEST = 24, MOST = 4000000 };
    char key[IV__TORCH_NAME];
    if (depth > DEEPEST || ++l->visited > MOST)
        return iv__io_fail(j, IV_CORRUPT, "its pickle is nested too deeply, or without an end");
    if (is_leaf(p)) return *name ? iv__torch_add(l, j, name, p) : IV_OK;
    if (p->kind != IV_PICKLE_DICT && p->kind != IV_PICKLE_LIST) return IV_OK;
    const int64_t step = p->kind == IV_PICKLE_DICT ? 2 : 1;
    for (int64_t k = 0; k + step <= p->n; k += step) {
        const iv__pickle *id = p->items[k];
        const char *dot = *name ? "." : "";
        int n = -1;
        if (step == 1) n = snprintf(key, sizeof(key), "%s%s%lld", name, dot, (long long)k);
        else if (id->kind == IV_PICKLE_TEXT)
            n = snprintf(key, sizeof(key), "%s%s%s", name, dot, id->text);
        else if (id->kind == IV_PICKLE_INT)
            n = snprintf(key, sizeof(key), "%s%s%lld", name, dot, (long long)id->number);
        if (n < 0 || n >= (int)sizeof(key)) continue;
        iv_status s = iv__torch_flatten(l, j, key, p->items[k + step - 1], depth + 1);
        if (s != IV_OK) return s;
    }
    return IV_OK;
}

void iv__torch_list_free(iv__torch_list *l)
{
    for (int64_t i = 0; i < l->n; ++i) free(l->items[i].name);
    free(l->items);
    *l = (iv__torch_list){0};
}

/* ---- loading ---- */

typedef struct reader {
    const iv__io_job *job;
    int fd;
    iv__zip zip;
    iv__pickle_tree tree;
    char prefix[IV__TORCH_NAME]; /* "archive/" */
    iv__torch_list list;
    const iv__pickle *storage; /* whose bytes are in `data` */
    char *data;
    uint64_t bytes;
} reader;

static int64_t size_of(iv_dtype t)
{
    static const int64_t each[IV_DTYPE_COUNT] = {
        [IV_F32] = 4, [IV_F64] = 8, [IV_BF16] = 2, [IV_F16] = 2,
        [IV_I32] = 4, [IV_I64] = 8, [IV_U8] = 1,   [IV_U16] = 2};
    return each[t];
}

static const iv__zip_entry *entry_named(const reader *r, const char *name)
{
    char path[2 * IV__TORCH_NAME];
    snprintf(path, sizeof(path), "%s%s", r->prefix, name);
    return iv__zip_find(&r->zip, path);
}

/* Finds the folder inside, and reads the pickle. */
static iv_status read_pickle(reader *r)
{
    static const char suffix[] = "/data.pkl";
    char *text;
    const iv__zip_entry *pickle = NULL;
    for (int64_t i = 0; i < r->zip.n && !pickle; ++i) {
        const char *name = r->zip.entries[i].name;
        const size_t n = strlen(name), m = sizeof(suffix) - 1;
        if (n < m || n - m + 2 > sizeof(r->prefix) || strcmp(name + n - m, suffix) != 0) continue;
        snprintf(r->prefix, sizeof(r->prefix), "%.*s", (int)(n - m + 1), name);
        pickle = &r->zip.entries[i];
    }
    if (!pickle)
        return iv__io_fail(r->job, IV_CORRUPT,
                           "the ZIP file has no data.pkl: it is not of torch.save");
    const iv__zip_entry *order = entry_named(r, "byteorder");
    iv_status s = order ? iv__zip_read(r->job, r->fd, order, &text) : IV_OK;
    if (s == IV_OK && order) {
        if (strncmp(text, "little", 6) != 0)
            s = iv__io_fail(r->job, IV_UNSUPPORTED, "its numbers are big-endian");
        free(text);
    }
    if (s == IV_OK) s = iv__zip_read(r->job, r->fd, pickle, &text);
    if (s != IV_OK) return s;
    s = iv__pickle_read(r->job, text, (size_t)pickle->bytes, &r->tree);
    free(text);
    return s;
}

/* Elements from the first to the last that a tensor touches; false: more than the storage has. */
static bool fits(const reader *r, const iv__pickle *t)
{
    uint64_t last = (uint64_t)t->offset, count = 1;
    const uint64_t have = r->bytes / (uint64_t)size_of(t->storage->type);
    for (int32_t k = 0; k < t->shape.rank; ++k) {
        uint64_t more;
        const uint64_t dim = (uint64_t)t->shape.dim[k];
        if (dim == 0) return true;
        if (__builtin_mul_overflow(dim - 1, (uint64_t)t->stride[k], &more) ||
            __builtin_add_overflow(last, more, &last) || __builtin_mul_overflow(count, dim, &count))
            return false;
    }
    return last < have && count <= have;
}

static iv_status need_storage(reader *r, const iv__pickle *t)
{
    char name[IV__TORCH_NAME];
    if (r->storage == t->storage) return IV_OK;
    free(r->data);
    r->data = NULL;
    r->storage = NULL;
    snprintf(name, sizeof(name), "data/%.400s", t->storage->text);
    const iv__zip_entry *e = entry_named(r, name);
    if (!e) return iv__io_fail(r->job, IV_CORRUPT, "entry %.200s is not there", name);
    iv_status s = iv__zip_read(r->job, r->fd, e, &r->data);
    if (s != IV_OK) return s;
    r->bytes = e->bytes;
    r->storage = t->storage;
    return IV_OK;
}

/* Copies a strided tensor to row-major memory. */
static void copy_strided(const reader *r, const iv__pickle *t, char *dst)
{
    const int64_t each = size_of(t->storage->type);
    int64_t index[IV_MAX_RANK] = {0}, count = 1;
    for (int32_t k = 0; k < t->shape.rank; ++k) count *= t->shape.dim[k];
    for (int64_t i = 0; i < count; ++i, dst += each) {
        int64_t at = t->offset;
        for (int32_t k = 0; k < t->shape.rank; ++k) at += index[k] * t->stride[k];
        memcpy(dst, r->data + at * each, (size_t)each);
        for (int32_t k = t->shape.rank - 1; k >= 0 && ++index[k] == t->shape.dim[k]; --k)
            index[k] = 0;
    }
}

static bool is_contiguous(const iv__pickle *t)
{
    int64_t expected = 1;
    for (int32_t k = t->shape.rank - 1; k >= 0; expected *= t->shape.dim[k--])
        if (t->shape.dim[k] != 1 && t->stride[k] != expected) return false;
    return true;
}

static iv_status deliver_tensor(reader *r, const iv__torch_item *e, const iv_ckpt_sink *sink)
{
    const iv__pickle *t = e->tensor;
    const iv_ckpt_tensor info = {.name = e->name, .dtype = t->storage->type, .shape = t->shape};
    iv_status s = need_storage(r, t);
    if (s != IV_OK) return s;
    if (!fits(r, t))
        return iv__io_fail(r->job, IV_CORRUPT, "tensor \"%.200s\" is larger than its storage",
                           e->name);
    void *dst = NULL;
    s = sink->want(sink->ctx, &info, &dst);
    if (s != IV_OK || !dst) return s;
    int64_t count = 1;
    for (int32_t k = 0; k < t->shape.rank; ++k) count *= t->shape.dim[k];
    const int64_t each = size_of(t->storage->type);
    if (count > 0 && is_contiguous(t))
        memcpy(dst, r->data + t->offset * each, (size_t)(count * each));
    else if (count > 0) copy_strided(r, t, dst);
    return sink->done ? sink->done(sink->ctx, &info, dst) : IV_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Tied weights come under both names; one name twice would be ambiguous. */
static iv_status check_names(const reader *r)
{
    const char **names = malloc(((size_t)r->list.n + 1) * sizeof(*names));
    iv_status s = IV_OK;
    if (!names) return iv__io_fail(r->job, IV_NO_MEMORY, "allocating its list");
    for (int64_t i = 0; i < r->list.n; ++i) names[i] = r->list.items[i].name;
    qsort(names, (size_t)r->list.n, sizeof(*names), by_name);
    for (int64_t i = 1; i < r->list.n && s == IV_OK; ++i)
        if (strcmp(names[i - 1], names[i]) == 0)
            s = iv__io_fail(r->job, IV_CORRUPT, "\"%.200s\" occurs twice", names[i]);
    free(names);
    return s;
}

static iv_status deliver(reader *r, const iv_ckpt_sink *sink)
{
    iv_status s = read_pickle(r);
    if (s == IV_OK)
        s = iv__lightning_is(r->tree.root)
                ? iv__lightning_map(&r->list, r->job, r->tree.root)
                : iv__torch_flatten(&r->list, r->job, "", r->tree.root, 0);
    if (s == IV_OK) s = check_names(r);
    for (int64_t i = 0; i < r->list.n && s == IV_OK && sink->meta; ++i)
        if (!r->list.items[i].tensor)
            s = sink->meta(sink->ctx, r->list.items[i].name, r->list.items[i].value);
    for (int64_t i = 0; i < r->list.n && s == IV_OK; ++i)
        if (r->list.items[i].tensor) s = deliver_tensor(r, &r->list.items[i], sink);
    return s;
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const iv__io_job j = job_of(self, "loading", path);
    reader r = {.job = &j};
    uint64_t size = 0;
    iv_status s = iv__io_open(&j, &r.fd, &size);
    if (s != IV_OK) return s;
    s = iv__zip_open(&j, r.fd, size, &r.zip);
    if (s == IV_OK) s = deliver(&r, sink);
    iv__torch_list_free(&r.list);
    iv__pickle_free(&r.tree);
    iv__zip_close(&r.zip);
    free(r.data);
    j.calls->close(r.fd);
    return s;
}

/* ---- the rest ---- */

static bool ends_with(const char *s, const char *tail)
{
    const size_t n = s ? strlen(s) : 0, m = strlen(tail);
    return n > m && strcmp(s + n - m, tail) == 0;
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    const iv__io_job j = job_of(self, "saving", path);
    if (!c || c->n_tensors < 0 || (c->n_tensors && !c->tensors))
        return iv__io_fail(&j, IV_INVALID, "no contents were given");
    return iv__torch_write(&j, c, ends_with(path, ".ckpt"));
}

static int detect(void *self, const char *path)
{
    iv_host quiet = *((plugin_self *)self)->host;
    quiet.fail = iv__io_fail_quietly;
    iv__io_job j = job_of(self, "detecting", path);
    j.host = &quiet;
    const bool named = ends_with(path, ".pt") || ends_with(path, ".pth") ||
                       ends_with(path, ".ckpt") || ends_with(path, ".bin");
    int fd;
    uint64_t size;
    char first[4];
    iv_status s = iv__io_open(&j, &fd, &size);
    if (s != IV_OK) return s == IV_INVALID ? 0 : named ? 40 : 0;
    const bool zip =
        size > 4 && iv__io_read(&j, fd, first, 4, 0) == IV_OK && memcmp(first, "PK\3\4", 4) == 0;
    j.calls->close(fd);
    return zip ? (named ? 100 : 90) : named ? 40 : 0;
}

static iv_status remove_checkpoint(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "removing", path);
    return iv__io_remove(&j);
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    if (args && *args)
        return host->fail(IV_INVALID, "checkpoint plugin torch: \"%s\": it takes no arguments",
                          args);
    plugin_self *p = malloc(sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin torch: allocating %zu bytes",
                          sizeof(*p));
    *p = (plugin_self){.host = host, .calls = &iv__io_system};
    *out_self = p;
    return IV_OK;
}

static const iv_checkpoint vtable = {
    .detect = detect, .save = save, .load = load, .remove = remove_checkpoint, .extension = ".pt"};

const iv_plugin iv__plugin_torch = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "torch",
    .version = "1.0",
    .summary = "files of torch.save and Lightning, read without executing anything",
    .vtable = &vtable,
    .init = init,
    .fini = free,
};
