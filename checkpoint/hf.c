/* hf.c: the checkpoint plugin `hf`: a model in several safetensors files with Hugging Face's index.
 *
 *   model.safetensors.index.json    {"metadata":{"total_size":N},"weight_map":{"NAME":"FILE",...}}
 *   model-00001-of-00002.safetensors ...
 *
 * The path is that of the index, which is written last.  The format has no checksums of the whole,
 * but each file written here has its own. */
#include "safetensors.h"
#include "st_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_BYTES ((uint64_t)5000000000u) /* as Hugging Face cuts */
#define INDEX ".index.json"
enum { MOST_INDEX = 256 << 20, NAME = 256 };

typedef struct plugin_self {
    const iv_host *host;
    const iv__io_calls *calls;
} plugin_self;

static iv__io_job job_of(void *self, const char *doing, const char *path)
{
    const plugin_self *p = self;
    return (iv__io_job){.host = p->host, .calls = p->calls, .doing = doing, .path = path};
}

static bool is_index(const char *path)
{
    const size_t n = path ? strlen(path) : 0, m = sizeof(INDEX) - 1;
    return n > m && strcmp(path + n - m, INDEX) == 0;
}

/* FILE in the folder of the index; the caller frees. */
static char *beside(const char *index, const char *file)
{
    const char *slash = strrchr(index, '/');
    const size_t folder = slash ? (size_t)(slash - index) + 1 : 0;
    char *s = malloc(folder + strlen(file) + 1);
    if (s) sprintf(s, "%.*s%s", (int)folder, index, file);
    return s;
}

/* ---- loading ---- */

typedef struct reader {
    const iv__io_job *job;
    const iv_ckpt_sink *sink;
    const cJSON *map;
    const char *file; /* being read */
    int64_t found;
} reader;

static iv_status pass_meta(void *ctx, const char *key, const char *value)
{
    const reader *r = ctx;
    return r->sink->meta ? r->sink->meta(r->sink->ctx, key, value) : IV_OK;
}

static iv_status pass_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    reader *r = ctx;
    const cJSON *file = cJSON_GetObjectItemCaseSensitive(r->map, info->name);
    *out_dst = NULL;
    if (!file || strcmp(file->valuestring, r->file) != 0) return IV_OK;
    ++r->found;
    return r->sink->want(r->sink->ctx, info, out_dst);
}

static iv_status pass_done(void *ctx, const iv_ckpt_tensor *info, void *dst)
{
    const reader *r = ctx;
    return r->sink->done ? r->sink->done(r->sink->ctx, info, dst) : IV_OK;
}

static iv_status read_index(const iv__io_job *j, cJSON **out)
{
    int fd;
    uint64_t size;
    iv_status s = iv__io_open(j, &fd, &size);
    if (s != IV_OK) return s;
    char *text = size <= MOST_INDEX ? malloc((size_t)size + 1) : NULL;
    s = text ? iv__io_read(j, fd, text, (size_t)size, 0)
             : iv__io_fail(j, size <= MOST_INDEX ? IV_NO_MEMORY : IV_CORRUPT,
                           "an index of %llu bytes", (unsigned long long)size);
    j->calls->close(fd);
    cJSON *root = s == IV_OK ? cJSON_ParseWithLength(text, (size_t)size) : NULL;
    free(text);
    if (s != IV_OK) return s;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
    if (!cJSON_IsObject(map)) s = iv__io_fail(j, IV_CORRUPT, "the index has no \"weight_map\"");
    for (const cJSON *e = cJSON_IsObject(map) ? map->child : NULL; e && s == IV_OK; e = e->next)
        if (!cJSON_IsString(e) || strchr(e->valuestring, '/') || !*e->valuestring)
            s = iv__io_fail(j, IV_CORRUPT, "the index names no file beside it for \"%.200s\"",
                            e->string);
    if (s == IV_OK) *out = root;
    else cJSON_Delete(root);
    return s;
}

/* Whether an earlier entry of the map names the same file. */
static bool was_read(const cJSON *map, const cJSON *entry)
{
    for (const cJSON *e = map->child; e != entry; e = e->next)
        if (strcmp(e->valuestring, entry->valuestring) == 0) return true;
    return false;
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const iv__io_job j = job_of(self, "loading", path);
    cJSON *root = NULL;
    iv_status s = read_index(&j, &root);
    if (s != IV_OK) return s;
    reader r = {
        .job = &j, .sink = sink, .map = cJSON_GetObjectItemCaseSensitive(root, "weight_map")};
    const iv_ckpt_sink inner = {&r, pass_meta, pass_want, pass_done};
    for (const cJSON *e = r.map->child; e && s == IV_OK; e = e->next) {
        if (was_read(r.map, e)) continue;
        iv__io_job file = j;
        char *name = beside(path, e->valuestring);
        file.path = name;
        r.file = e->valuestring;
        s = name ? iv__st_read(&file, &inner, NULL)
                 : iv__io_fail(&j, IV_NO_MEMORY, "allocating a file name");
        free(name);
    }
    const int64_t listed = cJSON_GetArraySize(r.map);
    if (s == IV_OK && r.found != listed)
        s = iv__io_fail(&j, IV_CORRUPT, "the index lists %lld tensors, its files hold %lld of them",
                        (long long)listed, (long long)r.found);
    cJSON_Delete(root);
    return s;
}

/* ---- saving ---- */

/* The end of the shard that begins with tensor `first`. */
static int64_t shard_end(const iv__io_job *j, const iv_ckpt *c, int64_t first, uint64_t *out_bytes)
{
    uint64_t all = 0, bytes = 0;
    int64_t i = first;
    for (; i < c->n_tensors; ++i) {
        if (iv__st_bytes(j, &c->tensors[i], &bytes) != IV_OK) break;
        if (i > first && all + bytes > SHARD_BYTES) break;
        all += bytes;
    }
    *out_bytes = all;
    return i;
}

typedef struct shard_source {
    const iv_ckpt *c;
    int64_t first;
} shard_source;

static iv_status read_tensor(void *ctx, int64_t i, int64_t offset, int64_t bytes, void *dst)
{
    const shard_source *s = ctx;
    return s->c->read(s->c->ctx, s->first + i, offset, bytes, dst);
}

static iv_status write_shard(const iv__io_job *j, const iv_ckpt *c, int64_t first, int64_t end,
                             const char *name)
{
    shard_source source = {c, first};
    iv__io_job file = *j;
    char *path = beside(j->path, name);
    if (!path) return iv__io_fail(j, IV_NO_MEMORY, "allocating a file name");
    file.path = path;
    iv_status s = iv__st_write(&file,
                               &(iv_ckpt){.n_tensors = end - first,
                                          .tensors = c->tensors + first,
                                          .n_meta = c->n_meta,
                                          .meta = c->meta,
                                          .read = c->read ? read_tensor : NULL,
                                          .ctx = &source},
                               IV_IO_DIRECT, NULL);
    free(path);
    return s;
}

static iv_status write_index(const iv__io_job *j, const cJSON *root)
{
    iv__io_file f;
    char *text = cJSON_Print(root);
    if (!text) return iv__io_fail(j, IV_NO_MEMORY, "making its index");
    iv_status s = iv__io_create(j, &f);
    if (s == IV_OK) {
        s = iv__io_write(&f, text, strlen(text), 0);
        if (s == IV_OK) s = iv__io_commit(&f);
        iv__io_discard(&f);
    }
    free(text);
    return s;
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    const iv__io_job j = job_of(self, "saving", path);
    if (!c || c->n_tensors < 0 || (c->n_tensors && !c->tensors) || c->parts)
        return iv__io_fail(&j, IV_INVALID, "whole tensors are needed");
    if (!is_index(path))
        return iv__io_fail(&j, IV_INVALID, "the path of an index must end in \"" INDEX "\"");
    int64_t n = 0, k = 0;
    uint64_t bytes, total = 0;
    for (int64_t i = 0; i < c->n_tensors; ++n) {
        const int64_t end = shard_end(&j, c, i, &bytes);
        if (end == i) return iv__st_bytes(&j, &c->tensors[i], &bytes);
        i = end;
    }
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strchr(base, '.');
    cJSON *root = cJSON_CreateObject(), *about = cJSON_AddObjectToObject(root, "metadata"),
          *map = cJSON_AddObjectToObject(root, "weight_map");
    iv_status s = map ? IV_OK : iv__io_fail(&j, IV_NO_MEMORY, "making its index");
    for (int64_t i = 0; i < c->n_tensors && s == IV_OK; ++k) {
        char name[NAME];
        const int64_t end = shard_end(&j, c, i, &bytes);
        snprintf(name, sizeof(name), "%.*s-%05lld-of-%05lld.safetensors",
                 (int)(dot - base < 200 ? dot - base : 200), base, (long long)k + 1, (long long)n);
        s = write_shard(&j, c, i, end, name);
        for (; i < end; ++i) cJSON_AddStringToObject(map, c->tensors[i].name, name);
        total += bytes;
    }
    cJSON_AddNumberToObject(about, "total_size", (double)total);
    if (s == IV_OK && cJSON_GetArraySize(map) != c->n_tensors)
        s = iv__io_fail(&j, IV_NO_MEMORY, "making its index");
    if (s == IV_OK) s = write_index(&j, root);
    cJSON_Delete(root);
    return s;
}

/* ---- the rest ---- */

static int detect(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "detecting", path);
    struct stat st;
    return is_index(path) && j.calls->stat(path, &st) == 0 && S_ISREG(st.st_mode) ? 100 : 0;
}

/* The index goes first: then there is no model any more.  Its files may serve others: they stay. */
static iv_status remove_checkpoint(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "removing", path);
    return iv__io_remove(&j);
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    if (args && *args)
        return host->fail(IV_INVALID, "checkpoint plugin hf: \"%s\": it takes no arguments", args);
    plugin_self *p = malloc(sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin hf: allocating %zu bytes", sizeof(*p));
    *p = (plugin_self){.host = host, .calls = &iv__io_system};
    *out_self = p;
    return IV_OK;
}

static const iv_checkpoint vtable = {.detect = detect,
                                     .save = save,
                                     .load = load,
                                     .remove = remove_checkpoint,
                                     .extension = ".safetensors.index.json"};

const iv_plugin iv__plugin_hf = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "hf",
    .version = "1.0",
    .summary = "several safetensors files with Hugging Face's index",
    .vtable = &vtable,
    .init = init,
    .fini = free,
};
