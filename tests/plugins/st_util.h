/* st_util.h: what the tests of the safetensors plugin share: a host that keeps the last texts,
 * whole files as bytes, and a sink that collects a checkpoint so that it can be compared with
 * another. */
#ifndef ST_UTIL_H
#define ST_UTIL_H

#include "../../checkpoint/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static _Thread_local char error_text[4096];
static char log_text[4096];

static __attribute__((format(printf, 2, 3))) iv_status keep_error(iv_status code, const char *fmt,
                                                                  ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(error_text, sizeof(error_text), fmt, args);
    va_end(args);
    return code;
}

static __attribute__((format(printf, 2, 3))) void keep_log(iv_log_level level, const char *fmt, ...)
{
    (void)level;
    va_list args;
    va_start(args, fmt);
    vsnprintf(log_text, sizeof(log_text), fmt, args);
    va_end(args);
}

/* An iv_ckpt of whole tensors in host memory. */
#define CKPT(nt, nm, t, m)                                                                         \
    {                                                                                              \
        .n_tensors = (nt), .n_meta = (nm), .tensors = (t), .meta = (m)                             \
    }

static const char *no_env(const char *name)
{
    (void)name;
    return NULL;
}

static const char *last_error(void)
{
    return error_text;
}

static iv_status give_plugin(uint32_t kind, const char *spec, const void **out_vtable,
                             void **out_self);
static const iv_host host = {IV_PLUGIN_ABI, sizeof(iv_host), keep_error, keep_log, no_env,
                             NULL,          last_error,      give_plugin};
/* What a wrapper gets as its inner plugin: safetensors, which stays as in the library. */
static iv_status give_plugin(uint32_t kind, const char *spec, const void **out_vtable,
                             void **out_self)
{
    static void *inner;
    assert_int_equal(kind, IV_PLUGIN_CHECKPOINT);
    if (strncmp(spec, "safetensors", 11) != 0) return keep_error(IV_INVALID, "no plugin %s", spec);
    if (!inner) assert_int_equal(iv__plugin_safetensors.init(&host, "", &inner), IV_OK);
    *out_vtable = iv__plugin_safetensors.vtable;
    *out_self = inner;
    return IV_OK;
}
static char folder[64]; /* a fresh folder per executable */

static const iv_checkpoint *format(void)
{
    return iv__plugin_safetensors.vtable;
}

static inline void *open_plugin(void)
{
    void *self = NULL;
    assert_int_equal(iv__plugin_safetensors.init(&host, "", &self), IV_OK);
    return self;
}

static inline void close_plugin(void *self)
{
    iv__plugin_safetensors.fini(self);
}

static inline int make_folder(void **state)
{
    (void)state;
    /* In memory where that is possible: most of the time would be spent in flushing. */
    const bool memory = access("/dev/shm", W_OK) == 0;
    strcpy(folder, memory ? "/dev/shm/invar-st-XXXXXX" : "/tmp/invar-st-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state)
{
    (void)state;
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", folder);
    return system(cmd) == 0 ? 0 : -1;
}

/* FOLDER/name; the text stays for the whole run. */
static inline const char *in_folder(const char *name)
{
    static char text[256][384];
    static int n;
    char s[384];
    snprintf(s, sizeof(s), "%s/%s", folder, name);
    for (int i = 0; i < n; ++i)
        if (strcmp(text[i], s) == 0) return text[i];
    assert_true(n < 256);
    return strcpy(text[n++], s);
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n > 0) assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The bytes of a file; the caller frees. */
static inline char *read_file(const char *path, size_t *out_n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(f);
    rewind(f);
    char *s = malloc(n + 1);
    assert_non_null(s);
    assert_int_equal(fread(s, 1, n, f), n);
    fclose(f);
    *out_n = n;
    return s;
}

/* ---- a sink that collects ---- */
enum { MOST = 32 };
typedef struct collected {
    int n_meta, n_tensors, n_done;
    char *key[MOST], *value[MOST];
    iv_ckpt_tensor tensor[MOST]; /* name and data owned */
    size_t bytes[MOST];
    int skip_all, stop_at; /* stop_at: want number n is refused, 0: never */
} collected;

static size_t bytes_of(const iv_ckpt_tensor *t)
{
    static const size_t size[IV_DTYPE_COUNT] = {4, 8, 2, 2, 4, 8, 1, 2};
    size_t n = size[t->dtype];
    for (int i = 0; i < t->shape.rank; ++i) n *= (size_t)t->shape.dim[i];
    return n;
}

static iv_status take_meta(void *ctx, const char *key, const char *value)
{
    collected *c = ctx;
    assert_true(c->n_tensors == 0 && c->n_meta < MOST);
    c->key[c->n_meta] = strdup(key);
    c->value[c->n_meta++] = strdup(value);
    return IV_OK;
}

static iv_status take_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    collected *c = ctx;
    assert_true(c->n_tensors < MOST);
    if (c->stop_at && c->n_tensors + 1 == c->stop_at) return keep_error(IV_INTERRUPTED, "enough");
    iv_ckpt_tensor *t = &c->tensor[c->n_tensors];
    *t = *info;
    t->name = strdup(info->name);
    c->bytes[c->n_tensors++] = bytes_of(info);
    void *dst = c->skip_all ? NULL : malloc(bytes_of(info) + 1);
    t->data = dst;
    *out_dst = dst;
    return IV_OK;
}

static iv_status take_done(void *ctx, const iv_ckpt_tensor *info, void *dst)
{
    collected *c = ctx;
    int i = 0;
    while (i < c->n_tensors && strcmp(c->tensor[i].name, info->name) != 0) ++i;
    assert_true(i < c->n_tensors);
    assert_ptr_equal(dst, c->tensor[i].data);
    ++c->n_done;
    return IV_OK;
}

static void collected_free(collected *c)
{
    for (int i = 0; i < c->n_meta; ++i) {
        free(c->key[i]);
        free(c->value[i]);
    }
    for (int i = 0; i < c->n_tensors; ++i) {
        free((void *)(uintptr_t)c->tensor[i].name);
        free((void *)(uintptr_t)c->tensor[i].data);
    }
    *c = (collected){0};
}

static iv_status load_file(void *self, const char *path, collected *c)
{
    const iv_ckpt_sink sink = {c, take_meta, take_want, take_done};
    return format()->load(self, path, &sink);
}

/* Whether the file loads.  The sink checks nothing; the contents are dropped. */
static inline iv_status try_load(void *self, const char *path)
{
    collected c = {0};
    iv_status s = load_file(self, path, &c);
    collected_free(&c);
    return s;
}

static int same(const collected *got, const iv_ckpt *want)
{
    if (got->n_meta != want->n_meta || got->n_tensors != want->n_tensors) return 0;
    for (int i = 0; i < got->n_meta; ++i)
        if (strcmp(got->key[i], want->meta[i].key) || strcmp(got->value[i], want->meta[i].value))
            return 0;
    for (int i = 0; i < got->n_tensors; ++i) {
        const iv_ckpt_tensor *a = &got->tensor[i], *b = &want->tensors[i];
        if (strcmp(a->name, b->name) || a->dtype != b->dtype || a->shape.rank != b->shape.rank)
            return 0;
        for (int k = 0; k < a->shape.rank; ++k)
            if (a->shape.dim[k] != b->shape.dim[k]) return 0;
        if (bytes_of(b) > 0 && memcmp(a->data, b->data, bytes_of(b)) != 0) return 0;
    }
    return 1;
}

/* Loads `path` and tells whether it holds `c`; a failure to load is a failed test. */
static inline int holds(void *self, const char *path, const iv_ckpt *c)
{
    collected got = {0};
    if (load_file(self, path, &got) != IV_OK) fail_msg("%s", error_text);
    int r = same(&got, c);
    collected_free(&got);
    return r;
}

#endif
