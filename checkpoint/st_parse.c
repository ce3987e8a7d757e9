/* st_parse.c: reads and checks the header of a safetensors file (see st_header.h).
 *
 * cJSON is more lenient than the format: it takes raw control characters, "\u0000" and bad
 * hexadecimal digits (as the end of the string), every byte up to 32 as white space, numbers like
 * +1 or 1., bytes that are not UTF-8, and keys that occur twice.  So the text passes `lint` first,
 * which also bounds what the tree can cost: objects nest at most two deep, arrays stand only in a
 * tensor's entry and are short.  Then the tree is turned into tables, and the tables are checked
 * against each other.
 */
#include "st_header.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MAX_LIST 64 /* numbers in a shape; numpy holds as many dimensions */

/* ---- lexical checks ---- */

typedef struct lexer {
    const unsigned char *s;
    size_t n, i; /* i: the next byte */
    int depth, items;
} lexer;

static bool is_hex(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The functions of this part return what is wrong at x->i, or NULL. */
static const char *lint_escape(lexer *x)
{
    if (x->n - x->i < 2) return "a text that does not end";
    if (x->s[x->i + 1] != 'u') {
        if (!x->s[x->i + 1] || !strchr("\"\\/bfnrt", x->s[x->i + 1]))
            return "an escape that JSON does not have";
        x->i += 2;
        return NULL;
    }
    if (x->n - x->i < 6) return "a text that does not end";
    bool zero = true;
    for (size_t k = 2; k < 6; ++k) {
        if (!is_hex(x->s[x->i + k])) return "\\u without four hexadecimal digits";
        zero = zero && x->s[x->i + k] == '0';
    }
    if (zero) return "a NUL character in a text";
    x->i += 6;
    return NULL;
}

static const char *lint_string(lexer *x)
{
    ++x->i;
    while (x->i < x->n) {
        const unsigned char c = x->s[x->i];
        if (c < ' ') return "a control character in a text";
        if (c == '\\') {
            const char *wrong = lint_escape(x);
            if (wrong) return wrong;
            continue;
        }
        ++x->i;
        if (c == '"') return NULL;
    }
    return "a text that does not end";
}

static const char *lint_number(lexer *x)
{
    const size_t first = x->i;
    uint64_t v = 0;
    for (; x->i < x->n && x->s[x->i] >= '0' && x->s[x->i] <= '9'; ++x->i) {
        v = v * 10 + (uint64_t)(x->s[x->i] - '0');
        if (v > IV__ST_MAX_NUMBER) return "a number above 2^53";
    }
    if (x->i - first > 1 && x->s[first] == '0') return "a number with leading zeros";
    if (x->i < x->n && strchr(".eE+-", x->s[x->i]) && x->s[x->i])
        return "a number that is not written as an integer";
    return NULL;
}

static const char *lint_bracket(lexer *x, unsigned char c)
{
    if (c == '{' && x->depth >= 2) return "an object inside a tensor's entry";
    if (c == '[' && x->depth != 2) return "a list that is not in a tensor's entry";
    if ((c == '}' || c == ']') && x->depth == 0) return "a closing bracket too many";
    x->depth += c == '{' || c == '[' ? 1 : -1;
    x->items = 0;
    ++x->i;
    return NULL;
}

static const char *lint(lexer *x)
{
    while (x->i < x->n) {
        const unsigned char c = x->s[x->i];
        const char *wrong = NULL;
        if (c == '"') wrong = lint_string(x);
        else if (c >= '0' && c <= '9') wrong = lint_number(x);
        else if (c == '{' || c == '[' || c == '}' || c == ']') wrong = lint_bracket(x, c);
        else if (c == ',' && x->depth == 3 && ++x->items >= MAX_LIST)
            wrong = "a list with too many numbers";
        else if (c && strchr(" \t\r\n,:", c)) ++x->i;
        else wrong = "a byte that no text, integer, list or object begins with";
        if (wrong) return wrong;
    }
    return NULL;
}

static iv_status parse_json(const iv__io_job *j, const unsigned char *s, size_t n, cJSON **out)
{
    if (s[0] != '{')
        return iv__io_fail(j, IV_CORRUPT, "header: begins with byte 0x%02x, not '{'", s[0]);
    size_t ok = iv__st_utf8(s, n);
    if (ok != n) return iv__io_fail(j, IV_CORRUPT, "header: not UTF-8 at byte %zu", ok);
    lexer x = {.s = s, .n = n};
    const char *wrong = lint(&x);
    if (wrong) return iv__io_fail(j, IV_CORRUPT, "header: %s, at byte %zu", wrong, x.i);
    const char *end = (const char *)s;
    errno = 0;
    cJSON *root = cJSON_ParseWithLengthOpts((const char *)s, n, &end, 0);
    size_t at = (size_t)(end - (const char *)s);
    if (!root && errno == ENOMEM)
        return iv__io_fail(j, IV_NO_MEMORY, "reading a header of %zu bytes", n);
    if (!root) return iv__io_fail(j, IV_CORRUPT, "header: not JSON at byte %zu", at);
    while (at < n && strchr(" \t\r\n", s[at]) && s[at]) ++at;
    if (at != n) {
        cJSON_Delete(root);
        return iv__io_fail(j, IV_CORRUPT, "header: more text after the JSON object, at byte %zu",
                           at);
    }
    *out = root;
    return IV_OK;
}

/* ---- tree to tables ---- */

static iv_status check_keys(const iv__io_job *j, const cJSON *object, int64_t n)
{
    if (n < 2) return IV_OK;
    const char **names = malloc((size_t)n * sizeof(*names));
    if (!names) return iv__io_fail(j, IV_NO_MEMORY, "allocating %lld names", (long long)n);
    int64_t i = 0;
    for (const cJSON *e = object->child; e; e = e->next) names[i++] = e->string;
    const char *twice = iv__st_twice(names, n);
    iv_status s = IV_OK;
    if (twice) s = iv__io_fail(j, IV_CORRUPT, "header: key \"%.200s\" occurs twice", twice);
    free(names);
    return s;
}

static iv_status read_meta(const iv__io_job *j, const cJSON *m, iv__st_header *h, const char **self)
{
    if (!cJSON_IsObject(m))
        return iv__io_fail(j, IV_CORRUPT, "header: " IV__ST_META " is not an object");
    int64_t n = cJSON_GetArraySize(m);
    iv_status s = check_keys(j, m, n);
    if (s != IV_OK) return s;
    h->meta = malloc((size_t)(n + 1) * sizeof(*h->meta));
    if (!h->meta)
        return iv__io_fail(j, IV_NO_MEMORY, "allocating %lld metadata pairs", (long long)n);
    for (const cJSON *e = m->child; e; e = e->next) {
        if (!cJSON_IsString(e))
            return iv__io_fail(j, IV_CORRUPT, "header: metadata value of \"%.200s\" is not a text",
                               e->string);
        if (strcmp(e->string, IV__ST_SUMS) == 0) h->sums = e->valuestring;
        else if (strcmp(e->string, IV__ST_SELF) == 0) *self = e->valuestring;
        else h->meta[h->n_meta++] = (iv_ckpt_meta){e->string, e->valuestring};
    }
    return IV_OK;
}

/* Takes the numbers of a list, at most `room` of them; *out_n is how many it has.  lint has made
 * sure that every number is an exact integer. */
static iv_status read_numbers(const iv__io_job *j, const char *name, const cJSON *e, uint64_t *dst,
                              int64_t room, int64_t *out_n)
{
    if (!cJSON_IsArray(e))
        return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": %s is not a list", name, e->string);
    int64_t n = 0;
    for (const cJSON *v = e->child; v; v = v->next, ++n) {
        if (!cJSON_IsNumber(v))
            return iv__io_fail(j, IV_CORRUPT,
                               "tensor \"%.200s\": %s holds something else than integers", name,
                               e->string);
        if (n < room) dst[n] = (uint64_t)v->valuedouble;
    }
    *out_n = n;
    return IV_OK;
}

static iv_status check_size(const iv__io_job *j, const iv__st_tensor *t, const uint64_t *dims)
{
    uint64_t bits = t->dtype->bits;
    for (int64_t i = 0; i < t->rank; ++i)
        if (__builtin_mul_overflow(bits, dims[i], &bits))
            return iv__io_fail(j, IV_CORRUPT,
                               "tensor \"%.200s\": its shape has more elements than fit", t->name);
    if (t->end < t->begin)
        return iv__io_fail(j, IV_CORRUPT,
                           "tensor \"%.200s\": data_offsets [%llu, %llu] run backwards", t->name,
                           (unsigned long long)t->begin, (unsigned long long)t->end);
    if (bits % 8 != 0 || bits / 8 != t->end - t->begin)
        return iv__io_fail(j, IV_CORRUPT,
                           "tensor \"%.200s\": shape and dtype %s need %llu bits, "
                           "data_offsets give %llu bytes",
                           t->name, t->dtype->name, (unsigned long long)bits,
                           (unsigned long long)(t->end - t->begin));
    return IV_OK;
}

/* The three fields of a tensor's entry, each there once and nothing else. */
static iv_status find_fields(const iv__io_job *j, const cJSON *e, const cJSON *out[3])
{
    static const char *const names[3] = {"dtype", "shape", "data_offsets"};
    if (!cJSON_IsObject(e))
        return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": not an object", e->string);
    for (const cJSON *f = e->child; f; f = f->next) {
        int k = 0;
        while (k < 3 && strcmp(names[k], f->string) != 0) ++k;
        if (k == 3 || out[k])
            return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": field \"%.100s\" %s", e->string,
                               f->string, k == 3 ? "is unknown" : "occurs twice");
        out[k] = f;
    }
    for (int k = 0; k < 3; ++k)
        if (!out[k])
            return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": no %s", e->string, names[k]);
    return IV_OK;
}

static iv_status read_tensor(const iv__io_job *j, const cJSON *e, iv__st_tensor *out)
{
    const cJSON *field[3] = {NULL, NULL, NULL};
    iv_status s = find_fields(j, e, field);
    if (s != IV_OK) return s;
    iv__st_tensor t = {.name = e->string};
    if (!cJSON_IsString(field[0]))
        return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": dtype is not a text", t.name);
    t.dtype = iv__st_dtype_named(field[0]->valuestring);
    if (!t.dtype)
        return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": the format has no dtype \"%.60s\"",
                           t.name, field[0]->valuestring);
    uint64_t dims[MAX_LIST], ends[2];
    int64_t n = 0;
    s = read_numbers(j, t.name, field[1], dims, MAX_LIST, &t.rank);
    if (s == IV_OK) s = read_numbers(j, t.name, field[2], ends, 2, &n);
    if (s != IV_OK) return s;
    if (n != 2)
        return iv__io_fail(j, IV_CORRUPT, "tensor \"%.200s\": data_offsets has %lld numbers, not 2",
                           t.name, (long long)n);
    t.begin = ends[0];
    t.end = ends[1];
    s = check_size(j, &t, dims);
    if (s != IV_OK) return s;
    if (t.rank <= IV_MAX_RANK) {
        t.shape.rank = (int32_t)t.rank;
        for (int64_t i = 0; i < t.rank; ++i) t.shape.dim[i] = (int64_t)dims[i];
    }
    *out = t;
    return IV_OK;
}

static int by_offset(const void *a, const void *b)
{
    const iv__st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static iv_status check_layout(const iv__io_job *j, iv__st_header *h, uint64_t data_bytes)
{
    if (h->n_tensors > 1) qsort(h->tensors, (size_t)h->n_tensors, sizeof(h->tensors[0]), by_offset);
    uint64_t at = 0;
    for (int64_t i = 0; i < h->n_tensors; ++i) {
        const iv__st_tensor *t = &h->tensors[i];
        if (t->begin != at)
            return iv__io_fail(j, IV_CORRUPT,
                               "tensor \"%.200s\": its data begins at %llu, the one before "
                               "ends at %llu",
                               t->name, (unsigned long long)t->begin, (unsigned long long)at);
        at = t->end;
    }
    if (at != data_bytes)
        return iv__io_fail(j, IV_CORRUPT,
                           "the header describes %llu bytes of data, the file has %llu",
                           (unsigned long long)at, (unsigned long long)data_bytes);
    return IV_OK;
}

/* ---- the header's own checksum ---- */

/* A file of another program has no checksums.  One of ours that has lost both must not pass for
 * one.
 */
static iv_status check_foreign(const iv__io_job *j, const iv__st_header *h)
{
    for (int64_t i = 0; i < h->n_meta; ++i)
        if (strncmp(h->meta[i].key, "invar.", 6) == 0)
            return iv__io_fail(j, IV_CORRUPT,
                               "the header has the metadata key \"%.100s\" but no checksums [hint: "
                               "the file is damaged, or another program rewrote it and kept "
                               "metadata keys that begin with \"invar.\", which it must drop]",
                               h->meta[i].key);
    return IV_OK;
}

static iv_status check_self(const iv__io_job *j, unsigned char *text, size_t bytes,
                            const iv__st_header *h, const char *self)
{
    if (!h->sums && !self) return check_foreign(j, h);
    if (!h->sums || !self)
        return iv__io_fail(j, IV_CORRUPT, "the header has \"%s\" but not \"%s\"",
                           self ? IV__ST_SELF : IV__ST_SUMS, self ? IV__ST_SUMS : IV__ST_SELF);
    static const char hint[] =
        "[hint: the file is damaged, or another program rewrote it and kept the "
        "metadata keys " IV__ST_SUMS " and " IV__ST_SELF ", which it must drop]";
    const size_t prefix = sizeof(IV__ST_PREFIX) - 1;
    if (bytes < IV__ST_SELF_AT + IV__ST_HEX || memcmp(text + 8, IV__ST_PREFIX, prefix) != 0 ||
        strlen(self) != IV__ST_HEX)
        return iv__io_fail(j, IV_CORRUPT, "the header's checksum is not at its place %s", hint);
    memset(text + IV__ST_SELF_AT, '0', IV__ST_HEX);
    char found[IV__ST_HEX];
    iv__st_hex(XXH3_64bits(text, bytes), found);
    if (memcmp(found, self, IV__ST_HEX) != 0)
        return iv__io_fail(j, IV_CORRUPT, "the header's checksum is %.16s, the file says %s %s",
                           found, self, hint);
    const size_t n = h->n_tensors ? (size_t)h->n_tensors * (IV__ST_HEX + 1) - 1 : 0;
    if (strlen(h->sums) != n)
        return iv__io_fail(j, IV_CORRUPT,
                           "\"" IV__ST_SUMS "\" has %zu characters; %lld tensors need %zu",
                           strlen(h->sums), (long long)h->n_tensors, n);
    return IV_OK;
}

static iv_status read_root(const iv__io_job *j, iv__st_header *h, const char **self)
{
    int64_t n = cJSON_GetArraySize(h->root);
    iv_status s = check_keys(j, h->root, n);
    if (s != IV_OK) return s;
    h->tensors = malloc((size_t)(n + 1) * sizeof(*h->tensors));
    if (!h->tensors)
        return iv__io_fail(j, IV_NO_MEMORY, "allocating %lld tensor entries", (long long)n);
    for (const cJSON *e = h->root->child; e && s == IV_OK; e = e->next) {
        if (strcmp(e->string, IV__ST_META) == 0) s = read_meta(j, e, h, self);
        else s = read_tensor(j, e, &h->tensors[h->n_tensors++]);
    }
    return s;
}

iv_status iv__st_parse(const iv__io_job *j, unsigned char *text, size_t bytes, uint64_t data_bytes,
                       iv__st_header *out)
{
    if (bytes < 10)
        return iv__io_fail(j, IV_CORRUPT, "header: %zu bytes hold no JSON object",
                           bytes < 8 ? 0 : bytes - 8);
    iv__st_header h = {0};
    const char *self = NULL;
    iv_status s = parse_json(j, text + 8, bytes - 8, &h.root);
    if (s == IV_OK) s = read_root(j, &h, &self);
    if (s == IV_OK) s = check_layout(j, &h, data_bytes);
    if (s == IV_OK) s = check_self(j, text, bytes, &h, self);
    if (s != IV_OK) iv__st_header_free(&h);
    else {
        if (self) memcpy(h.self, self, IV__ST_HEX);
        *out = h;
    }
    return s;
}

void iv__st_header_free(iv__st_header *h)
{
    cJSON_Delete(h->root);
    free(h->tensors);
    free(h->meta);
    *h = (iv__st_header){0};
}
