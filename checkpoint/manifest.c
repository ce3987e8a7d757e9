/* manifest.c: the manifest of a sharded checkpoint, to text and back (see sharded.h). */
#include "sharded.h"
#include "st_header.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *iv__shard_path(const char *folder, const char *name)
{
    size_t n = strlen(folder) + strlen(name) + 2;
    char *s = malloc(n);
    if (s) snprintf(s, n, "%s/%s", folder, name);
    return s;
}

static iv_status no_memory(const iv__io_job *j)
{
    return iv__io_fail(j, IV_NO_MEMORY, "allocating its manifest");
}

/* ---- writing ---- */

static iv_status tensor_lines(const iv__io_job *j, const iv_ckpt *c, char **out)
{
    size_t room = 1;
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const iv_ckpt_tensor *t = &c->tensors[i];
        uint64_t bytes;
        iv_status s = iv__st_bytes(j, t, &bytes);
        if (s != IV_OK) return s;
        if (strchr(t->name, '\n'))
            return iv__io_fail(j, IV_INVALID, "tensor \"%.200s\": a line break in a name", t->name);
        room += strlen(t->name) + 16 + 20 * IV_MAX_RANK;
    }
    char *s = malloc(room), *at = s;
    if (!s) return no_memory(j);
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const iv_ckpt_tensor *t = &c->tensors[i];
        at += sprintf(at, "%s ", iv__st_dtype_of(t->dtype)->name);
        for (int32_t k = 0; k < t->shape.rank; ++k)
            at += sprintf(at, "%s%" PRId64, k ? "," : "", t->shape.dim[k]);
        at += sprintf(at, " %s\n", t->name);
    }
    *at = '\0';
    *out = s;
    return IV_OK;
}

static char *file_lines(const iv__shard_file *files, int64_t n)
{
    char *s = malloc((size_t)n * (IV__SHARDED_NAME + 48) + 1), *at = s;
    if (!s) return NULL;
    for (int64_t i = 0; i < n; ++i)
        at += sprintf(at, "%s %" PRIu64 " %s\n", files[i].name, files[i].stamp.bytes,
                      files[i].stamp.header);
    *at = '\0';
    return s;
}

iv_status iv__manifest_write(const iv__io_job *j, const iv_ckpt *c, const iv__shard_file *files,
                             int64_t n_files)
{
    char *tensors = NULL, *lines = file_lines(files, n_files),
         *path = iv__shard_path(j->path, IV__SHARDED_MANIFEST);
    iv_ckpt_meta *meta = malloc(((size_t)c->n_meta + 2) * sizeof(*meta));
    iv_status s = lines && path && meta ? tensor_lines(j, c, &tensors) : no_memory(j);
    if (s == IV_OK) {
        if (c->n_meta) memcpy(meta, c->meta, (size_t)c->n_meta * sizeof(*meta));
        meta[c->n_meta] = (iv_ckpt_meta){IV__SHARDED_TENSORS, tensors};
        meta[c->n_meta + 1] = (iv_ckpt_meta){IV__SHARDED_FILES, lines};
        iv__io_job file = *j;
        file.path = path;
        s = iv__st_write(&file, &(iv_ckpt){.n_meta = c->n_meta + 2, .meta = meta}, IV_IO_PLAIN,
                         NULL);
    }
    free(tensors);
    free(lines);
    free(path);
    free(meta);
    return s;
}

/* ---- reading ---- */

typedef struct reader {
    const iv__io_job *job;
    iv__manifest *m;
    char *tensors, *files; /* the two texts */
    int64_t cap;
} reader;

static iv_status take_meta(void *ctx, const char *key, const char *value)
{
    reader *r = ctx;
    char **own = strcmp(key, IV__SHARDED_TENSORS) == 0 ? &r->tensors
                 : strcmp(key, IV__SHARDED_FILES) == 0 ? &r->files
                                                       : NULL;
    if (own) {
        *own = strdup(value);
        return *own ? IV_OK : no_memory(r->job);
    }
    if (r->m->n_meta == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 16;
        iv_ckpt_meta *more = realloc(r->m->meta, (size_t)r->cap * sizeof(*more));
        if (!more) return no_memory(r->job);
        r->m->meta = more;
    }
    const iv_ckpt_meta pair = {strdup(key), strdup(value)};
    r->m->meta[r->m->n_meta++] = pair;
    return pair.key && pair.value ? IV_OK : no_memory(r->job);
}

static iv_status no_tensors(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    const reader *r = ctx;
    *out_dst = NULL;
    return iv__io_fail(r->job, IV_CORRUPT, "its manifest holds a tensor, \"%.200s\"", info->name);
}

static int64_t count_lines(const char *s)
{
    int64_t n = 0;
    for (; *s; ++s) n += *s == '\n';
    return n;
}

/* The next line of *at, cut off; NULL at the end, or if the last one does not end. */
static char *next_line(char **at)
{
    char *s = *at, *end = strchr(s, '\n');
    if (!end) return NULL;
    *end = '\0';
    *at = end + 1;
    return s;
}

static bool read_number(const char **s, uint64_t *out)
{
    const char *p = *s;
    uint64_t v = 0;
    for (; *p >= '0' && *p <= '9'; ++p) {
        v = v * 10 + (uint64_t)(*p - '0');
        if (v > IV__ST_MAX_NUMBER) return false;
    }
    if (p == *s || (p - *s > 1 && **s == '0')) return false;
    *s = p;
    *out = v;
    return true;
}

/* "DTYPE d0,d1 NAME" */
static bool read_tensor_line(const char *line, iv_ckpt_tensor *out, const char **out_name)
{
    char type[16];
    const char *s = strchr(line, ' ');
    if (!s || (size_t)(s - line) >= sizeof(type)) return false;
    memcpy(type, line, (size_t)(s - line));
    type[s - line] = '\0';
    const iv__st_dtype *d = iv__st_dtype_named(type);
    if (!d || d->type < 0) return false;
    *out = (iv_ckpt_tensor){.dtype = (iv_dtype)d->type};
    for (++s; *s != ' '; s += *s == ',') {
        uint64_t dim;
        if (out->shape.rank == IV_MAX_RANK || !read_number(&s, &dim)) return false;
        out->shape.dim[out->shape.rank++] = (int64_t)dim;
        if (*s != ' ' && (*s != ',' || s[1] == ' ')) return false;
    }
    *out_name = s + 1;
    return true;
}

/* "NAME BYTES XXH3" */
static bool read_file_line(const char *line, iv__shard_file *out)
{
    const char *s = strchr(line, ' ');
    if (!s || s == line || s - line >= IV__SHARDED_NAME || memchr(line, '/', (size_t)(s - line)) ||
        line[0] == '.')
        return false;
    *out = (iv__shard_file){0};
    memcpy(out->name, line, (size_t)(s - line));
    ++s;
    if (!read_number(&s, &out->stamp.bytes) || *s++ != ' ') return false;
    if (strlen(s) != IV__ST_HEX || strspn(s, "0123456789abcdef") != IV__ST_HEX) return false;
    memcpy(out->stamp.header, s, IV__ST_HEX + 1);
    return true;
}

static iv_status read_tables(const iv__io_job *j, reader *r)
{
    iv__manifest *m = r->m;
    if (!r->tensors || !r->files)
        return iv__io_fail(j, IV_CORRUPT, "its manifest lacks the list of tensors or of files");
    m->tensors = calloc((size_t)count_lines(r->tensors) + 1, sizeof(*m->tensors));
    m->files = calloc((size_t)count_lines(r->files) + 1, sizeof(*m->files));
    if (!m->tensors || !m->files) return no_memory(j);
    char *at = r->tensors;
    for (char *line; (line = next_line(&at));) {
        iv_ckpt_tensor *t = &m->tensors[m->n_tensors];
        const char *name;
        uint64_t bytes;
        if (!read_tensor_line(line, t, &name))
            return iv__io_fail(j, IV_CORRUPT, "its manifest lists the tensor \"%.200s\"", line);
        t->name = strdup(name);
        if (!t->name) return no_memory(j);
        ++m->n_tensors;
        if (iv__st_bytes(j, t, &bytes) != IV_OK)
            return iv__io_fail(j, IV_CORRUPT, "its manifest lists a tensor \"%.200s\" of no size",
                               t->name);
    }
    bool whole = *at == '\0';
    at = r->files;
    for (char *line; (line = next_line(&at));)
        if (!read_file_line(line, &m->files[m->n_files++]))
            return iv__io_fail(j, IV_CORRUPT, "its manifest lists the file \"%.200s\"", line);
    if (!whole || *at) return iv__io_fail(j, IV_CORRUPT, "a list in its manifest does not end");
    return IV_OK;
}

iv_status iv__manifest_read(const iv__io_job *j, iv__manifest *out)
{
    iv__manifest m = {0};
    reader r = {.job = j, .m = &m};
    char *path = iv__shard_path(j->path, IV__SHARDED_MANIFEST);
    iv_status s = path ? IV_OK : no_memory(j);
    if (s == IV_OK) {
        iv__io_job file = *j;
        file.path = path;
        s = iv__st_read(&file, &(iv_ckpt_sink){.ctx = &r, .meta = take_meta, .want = no_tensors},
                        NULL);
    }
    if (s == IV_OK) s = read_tables(j, &r);
    free(path);
    free(r.tensors);
    free(r.files);
    if (s == IV_OK) *out = m;
    else iv__manifest_free(&m);
    return s;
}

void iv__manifest_free(iv__manifest *m)
{
    for (int64_t i = 0; i < m->n_meta; ++i) {
        free((void *)(uintptr_t)m->meta[i].key);
        free((void *)(uintptr_t)m->meta[i].value);
    }
    for (int64_t i = 0; i < m->n_tensors; ++i) free((void *)(uintptr_t)m->tensors[i].name);
    free(m->meta);
    free(m->tensors);
    free(m->files);
    *m = (iv__manifest){0};
}
