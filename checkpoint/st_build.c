/* st_build.c: writes the header of a safetensors file, and small things that reading shares.
 *
 * The text is written by hand, not from a cJSON tree: cJSON prints numbers through doubles, and the
 * places of the checksum digits must be known, because they are filled in after the data is
 * written.
 */
#include "st_header.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the format knows, and what that is here. */
static const iv__st_dtype dtypes[] = {
    {"F32", 32, IV_F32},    {"F64", 64, IV_F64},    {"BF16", 16, IV_BF16}, {"F16", 16, IV_F16},
    {"I32", 32, IV_I32},    {"I64", 64, IV_I64},    {"U8", 8, IV_U8},      {"U16", 16, IV_U16},
    {"BOOL", 8, -1},        {"I8", 8, -1},          {"I16", 16, -1},       {"U32", 32, -1},
    {"U64", 64, -1},        {"C64", 64, -1},        {"F4", 4, -1},         {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},     {"F8_E5M2", 8, -1},     {"F8_E4M3", 8, -1},    {"F8_E8M0", 8, -1},
    {"F8_E4M3FNUZ", 8, -1}, {"F8_E5M2FNUZ", 8, -1},
};
#define N_DTYPES (sizeof(dtypes) / sizeof(dtypes[0]))

const iv__st_dtype *iv__st_dtype_named(const char *name)
{
    for (size_t i = 0; i < N_DTYPES; ++i)
        if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
    return NULL;
}

const iv__st_dtype *iv__st_dtype_of(iv_dtype t)
{
    for (size_t i = 0; i < N_DTYPES; ++i)
        if (dtypes[i].type >= 0 && dtypes[i].type == (int32_t)t) return &dtypes[i];
    return NULL;
}

void iv__st_hex(uint64_t sum, char *out)
{
    for (int i = 0; i < IV__ST_HEX; ++i) out[i] = "0123456789abcdef"[(sum >> (60 - 4 * i)) & 15];
}

/* Bytes of the UTF-8 sequence at s (n >= 1), or 0: no overlong forms, no surrogates, at most
 * U+10FFFF. */
static size_t utf8_one(const unsigned char *s, size_t n)
{
    static const struct {
        unsigned char first, last, lo, hi; /* range of the first byte, and of the second */
        size_t len;
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); ++i) {
        if (s[0] < forms[i].first || s[0] > forms[i].last) continue;
        if (forms[i].len > n) return 0;
        if (forms[i].len > 1 && (s[1] < forms[i].lo || s[1] > forms[i].hi)) return 0;
        for (size_t k = 2; k < forms[i].len; ++k)
            if ((s[k] & 0xc0) != 0x80) return 0;
        return forms[i].len;
    }
    return 0;
}

size_t iv__st_utf8(const unsigned char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t len = utf8_one(s + i, n - i);
        if (!len) break;
        i += len;
    }
    return i;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

const char *iv__st_twice(const char **names, int64_t n)
{
    if (n > 1) qsort(names, (size_t)n, sizeof(names[0]), by_text);
    for (int64_t i = 1; i < n; ++i)
        if (strcmp(names[i - 1], names[i]) == 0) return names[i];
    return NULL;
}

/* ---- text ---- */

static void put(iv__st_text *t, const char *s, size_t n)
{
    if (t->failed) return;
    if (n >= t->cap - t->n) {
        size_t cap = (t->cap + n) * 2 + 256;
        char *p = realloc(t->s, cap);
        if (!p) {
            t->failed = true;
            return;
        }
        t->s = p;
        t->cap = cap;
    }
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

static void put_text(iv__st_text *t, const char *s)
{
    put(t, s, strlen(s));
}

static void put_number(iv__st_text *t, uint64_t v)
{
    char s[24];
    put(t, s, (size_t)snprintf(s, sizeof(s), "%llu", (unsigned long long)v));
}

static void put_string(iv__st_text *t, const char *s)
{
    put(t, "\"", 1);
    for (const char *p = s; *p; ++p) {
        const unsigned char c = (unsigned char)*p;
        if (c < ' ') {
            char esc[8];
            put(t, esc, (size_t)snprintf(esc, sizeof(esc), "\\u%04x", c));
        } else {
            if (c == '"' || c == '\\') put(t, "\\", 1);
            put(t, p, 1);
        }
    }
    put(t, "\"", 1);
}

/* ---- checks ---- */

static iv_status check_text(const iv__io_job *j, const char *what, const char *s)
{
    if (!s) return iv__io_fail(j, IV_INVALID, "%s is NULL", what);
    size_t n = strlen(s), ok = iv__st_utf8((const unsigned char *)s, n);
    if (ok != n)
        return iv__io_fail(j, IV_INVALID, "%s \"%.200s\" is not UTF-8 at byte %zu", what, s, ok);
    return IV_OK;
}

/* Refuses names that occur twice; `first` is followed by the n - 1 others every `step` bytes. */
static iv_status check_unique(const iv__io_job *j, const char *what, const void *first, size_t step,
                              int64_t n)
{
    if (n < 2) return IV_OK;
    const char **names = malloc((size_t)n * sizeof(*names));
    if (!names) return iv__io_fail(j, IV_NO_MEMORY, "allocating %lld names", (long long)n);
    for (int64_t i = 0; i < n; ++i)
        memcpy(&names[i], (const char *)first + (size_t)i * step, sizeof(names[i]));
    const char *twice = iv__st_twice(names, n);
    free(names);
    if (twice) return iv__io_fail(j, IV_INVALID, "%s \"%.200s\" occurs twice", what, twice);
    return IV_OK;
}

static iv_status check_meta(const iv__io_job *j, const iv_ckpt *c)
{
    for (int64_t i = 0; i < c->n_meta; ++i) {
        const iv_ckpt_meta *m = &c->meta[i];
        iv_status s = check_text(j, "metadata key", m->key);
        if (s == IV_OK) s = check_text(j, "metadata value", m->value);
        if (s != IV_OK) return s;
        if (strcmp(m->key, IV__ST_SUMS) == 0 || strcmp(m->key, IV__ST_SELF) == 0)
            return iv__io_fail(j, IV_INVALID, "metadata key \"%s\" is reserved for checksums",
                               m->key);
    }
    _Static_assert(offsetof(iv_ckpt_meta, key) == 0, "check_unique reads the key at the start");
    return check_unique(j, "metadata key", c->meta, sizeof(*c->meta), c->n_meta);
}

static iv_status check_names(const iv__io_job *j, const iv_ckpt *c)
{
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        iv_status s = check_text(j, "tensor name", c->tensors[i].name);
        if (s != IV_OK) return s;
        if (strcmp(c->tensors[i].name, IV__ST_META) == 0)
            return iv__io_fail(j, IV_INVALID, "a tensor cannot be named \"" IV__ST_META "\"");
    }
    _Static_assert(offsetof(iv_ckpt_tensor, name) == 0, "check_unique reads the name at the start");
    return check_unique(j, "tensor name", c->tensors, sizeof(*c->tensors), c->n_tensors);
}

iv_status iv__st_bytes(const iv__io_job *j, const iv_ckpt_tensor *t, uint64_t *out_bytes)
{
    const iv__st_dtype *d = iv__st_dtype_of(t->dtype);
    if (!d)
        return iv__io_fail(j, IV_INVALID, "tensor \"%.200s\": dtype %d", t->name, (int)t->dtype);
    if (t->shape.rank < 0 || t->shape.rank > IV_MAX_RANK)
        return iv__io_fail(j, IV_INVALID, "tensor \"%.200s\": rank %d is not in 0..%d", t->name,
                           (int)t->shape.rank, IV_MAX_RANK);
    uint64_t bytes = d->bits / 8;
    for (int32_t i = 0; i < t->shape.rank; ++i) {
        int64_t dim = t->shape.dim[i];
        if (dim < 0 || (uint64_t)dim > IV__ST_MAX_NUMBER ||
            (dim > 0 && bytes > IV__ST_MAX_NUMBER / (uint64_t)dim))
            return iv__io_fail(j, IV_INVALID,
                               "tensor \"%.200s\": dimension %d of %lld makes no size", t->name,
                               (int)i, (long long)dim);
        bytes *= (uint64_t)dim;
    }
    *out_bytes = bytes;
    return IV_OK;
}

/* ---- the header ---- */

static void put_meta(iv__st_text *t, const iv_ckpt *c)
{
    put(t, "\0\0\0\0\0\0\0\0", 8);
    put_text(t, IV__ST_PREFIX "0000000000000000\",\"" IV__ST_SUMS "\":\"");
    t->sums_at = t->n;
    for (int64_t i = 0; i < c->n_tensors; ++i)
        put_text(t, i ? " 0000000000000000" : "0000000000000000");
    put_text(t, "\"");
    for (int64_t i = 0; i < c->n_meta; ++i) {
        put_text(t, ",");
        put_string(t, c->meta[i].key);
        put_text(t, ":");
        put_string(t, c->meta[i].value);
    }
    put_text(t, "}");
}

static void put_tensor(iv__st_text *t, const iv_ckpt_tensor *x, uint64_t begin, uint64_t end)
{
    put_text(t, ",");
    put_string(t, x->name);
    put_text(t, ":{\"dtype\":\"");
    put_text(t, iv__st_dtype_of(x->dtype)->name);
    put_text(t, "\",\"shape\":[");
    for (int32_t i = 0; i < x->shape.rank; ++i) {
        if (i) put_text(t, ",");
        put_number(t, (uint64_t)x->shape.dim[i]);
    }
    put_text(t, "],\"data_offsets\":[");
    put_number(t, begin);
    put_text(t, ",");
    put_number(t, end);
    put_text(t, "]}");
}

static iv_status put_all(const iv__io_job *j, const iv_ckpt *c, iv__st_text *t)
{
    put_meta(t, c);
    uint64_t at = 0;
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        uint64_t bytes = 0;
        iv_status s = iv__st_bytes(j, &c->tensors[i], &bytes);
        if (s != IV_OK) return s;
        if (bytes > IV__ST_MAX_NUMBER - at)
            return iv__io_fail(j, IV_INVALID, "more than 2^53 bytes of tensors");
        put_tensor(t, &c->tensors[i], at, at + bytes);
        at += bytes;
    }
    put_text(t, "}");
    while (!t->failed && t->n % 8 != 0) put_text(t, " ");
    if (t->failed) return iv__io_fail(j, IV_NO_MEMORY, "growing a header of %zu bytes", t->n);
    if (t->n - 8 > IV__ST_MAX_HEADER)
        return iv__io_fail(j, IV_INVALID,
                           "names and metadata need a header of %zu bytes, at most %u", t->n - 8,
                           IV__ST_MAX_HEADER);
    for (int i = 0; i < 8; ++i) t->s[i] = (char)(((uint64_t)t->n - 8) >> (8 * i) & 255);
    return IV_OK;
}

iv_status iv__st_build(const iv__io_job *j, const iv_ckpt *c, iv__st_text *out)
{
    iv__st_text t = {0};
    iv_status s = check_meta(j, c);
    if (s == IV_OK) s = check_names(j, c);
    if (s == IV_OK) s = put_all(j, c, &t);
    if (s != IV_OK) free(t.s);
    else *out = t;
    return s;
}
