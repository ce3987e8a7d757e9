/* tokens.c: data reader "tokens:FILE[,VALFILE]": token ids as 16- or 32-bit little-endian integers.
 *
 * Each file is either of the llm.c kind, with a header of 256 int32,
 *     20240520, 1, n, 0 ...   then n uint16 (GPT-2)
 *     20240801, 7, n, 0 ...   then n uint32 (Llama 3)
 * or the bare ids: uint16, or as a suffix says: "FILE:u16", "FILE:u32".  A name with a comma cannot
 * be given (the first comma begins VALFILE), nor one that ends in such a suffix without repeating
 * it.
 *
 * Files are mapped.  Opening reads them once from end to end, for the largest id (about a second
 * per GB of file that is not cached by the system): without it, an id beyond the vocabulary would
 * show up in the middle of training.  A file that another process changes meanwhile is out of scope
 * (file.h).
 */
#include "dataset.h"

enum { HEADER_BYTES = 256 * 4 };

typedef struct tokens {
    iv__map map[2];
    iv__span spans[2];
} tokens;

static const struct {
    uint32_t magic, version;
    int32_t bytes;
} formats[] = {{20240520, 1, 2}, {20240801, 7, 4}};

static void tokens_close(void *self)
{
    tokens *t = self;
    for (int split = 0; split < 2; ++split) iv__file_unmap(&t->map[split]);
    free(t);
}

static uint32_t header_u32(const iv__map *m, int at)
{
    const uint8_t *p = m->data + at * 4;
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A file with llm.c's header; its magic number is that of format f. */
static iv_status parse_header(const char *path, const iv__map *m, int64_t f, int32_t width,
                              iv__span *out)
{
    if (m->size < HEADER_BYTES) {
        IV_FAIL(IV_CORRUPT, "opening tokens:%s: the file has %lld bytes, its header alone has %d",
                path, (long long)m->size, HEADER_BYTES);
    }
    uint32_t version = header_u32(m, 1), n = header_u32(m, 2);
    if (version != formats[f].version) {
        IV_FAIL(IV_UNSUPPORTED, "opening tokens:%s: version %u of the format, expected %u", path,
                version, formats[f].version);
    }
    if (width && width != formats[f].bytes) {
        IV_FAIL(IV_INVALID, "opening tokens:%s: the header says u%d, the suffix u%d", path,
                formats[f].bytes * 8, width * 8);
    }
    int64_t expected = HEADER_BYTES + (int64_t)n * formats[f].bytes;
    if (n > INT32_MAX || expected != m->size) {
        IV_FAIL(IV_CORRUPT,
                "opening tokens:%s: the header tells %u tokens (%lld bytes), the file has "
                "%lld bytes",
                path, n, (long long)expected, (long long)m->size);
    }
    *out = (iv__span){m->data + HEADER_BYTES, n, formats[f].bytes};
    return IV_OK;
}

/* Finds the ids in a mapped file.  width: bytes that the suffix asks for, or 0. */
static iv_status parse_file(const char *path, const iv__map *m, int32_t width, iv__span *out)
{
    if (m->size == 0) IV_FAIL(IV_INVALID, "opening tokens:%s: the file is empty", path);
    for (int64_t f = 0; m->size >= 8 && f < IV_COUNT(formats); ++f)
        if (header_u32(m, 0) == formats[f].magic) return parse_header(path, m, f, width, out);
    if (!width) width = 2;
    if (m->size % width != 0) {
        IV_FAIL(IV_INVALID,
                "opening tokens:%s: the file has %lld bytes, not a multiple of %d (u%d ids)", path,
                (long long)m->size, width, width * 8);
    }
    *out = (iv__span){m->data, m->size / width, width};
    return IV_OK;
}

/* Raises *classes to the largest id + 1. */
static iv_status scan(const char *path, const iv__span *s, int64_t *classes)
{
    uint32_t most = 0;
    for (int64_t k = 0; k < s->n; ++k) {
        const uint8_t *p = s->data + k * s->bytes;
        uint32_t id = p[0] | (uint32_t)p[1] << 8;
        if (s->bytes == 4) id |= (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        if (id >= INT32_MAX) {
            IV_FAIL(IV_INVALID,
                    "opening tokens:%s: token %lld is %u, expected less than %d [hint: are "
                    "these u%d ids?]",
                    path, (long long)k, id, INT32_MAX, s->bytes * 8);
        }
        most = IV_MAX2(most, id);
    }
    *classes = IV_MAX2(*classes, (int64_t)most + 1);
    return IV_OK;
}

/* Opens one file; `name` may end in a width suffix, which is cut off. */
static iv_status open_file(char *name, iv__map *map, iv__span *out, int64_t *classes)
{
    size_t n = strlen(name);
    int32_t width = 0;
    if (n >= 4 && strcmp(name + n - 4, ":u16") == 0) width = 2;
    if (n >= 4 && strcmp(name + n - 4, ":u32") == 0) width = 4;
    if (width) name[n - 4] = 0;
    if (!*name) IV_FAIL(IV_INVALID, "opening tokens: a file name is empty");
    IV_TRY(iv__file_map(name, map));
    IV_TRY(parse_file(name, map, width, out));
    return scan(name, out, classes);
}

/* Splits "FILE,VALFILE" and opens what is there; cuts `names` up. */
static iv_status open_files(tokens *t, char *names, double val_fraction, int64_t context,
                            int64_t *classes)
{
    char *comma = strchr(names, ',');
    if (comma) *comma = 0;
    IV_TRY(open_file(names, &t->map[IV_TRAIN], &t->spans[IV_TRAIN], classes));
    if (!comma) return iv__span_split(t->spans[IV_TRAIN], val_fraction, t->spans);
    char *val = comma + 1;
    IV_TRY(open_file(val, &t->map[IV_VAL], &t->spans[IV_VAL], classes));
    /* Without a window a file that was named for validation is a mistake, not a short rest. */
    if (t->spans[IV_VAL].n <= context) {
        IV_FAIL(IV_INVALID,
                "opening tokens:%s: the validation file has %lld tokens, fewer than context "
                "+ 1 = %llu",
                val, (long long)t->spans[IV_VAL].n, (unsigned long long)context + 1);
    }
    return IV_OK;
}

static iv_status tokens_open(iv_dataset *d, const char *rest, int64_t context, double val_fraction)
{
    tokens *t = NULL;
    char *names = NULL;
    iv_status s;
    IV_TRY(iv__calloc(1, sizeof(*t), "a token reader", &t));
    IV_TRY_GOTO(s, iv__strdup(rest, &names), close_tokens);
    IV_TRY_GOTO(s, open_files(t, names, val_fraction, context, &d->info.classes), free_names);
    iv__text what = {0};
    iv__text_printf(&what, "tokens:%s", names);
    s = iv__windows_init(t->spans, context, what.failed ? "tokens" : what.s, &d->info);
    iv__text_free(&what);
free_names:
    free(names);
close_tokens:
    if (s != IV_OK) tokens_close(t);
    else d->self = t;
    return s;
}

static iv_status tokens_train_sample(iv_dataset *d, uint64_t seed, int64_t index, void *x,
                                     int32_t *y)
{
    const tokens *t = d->self;
    iv__window_random(&t->spans[IV_TRAIN], d->info.sample.dim[0], seed, index, x, y);
    return IV_OK;
}

static iv_status tokens_sample(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y)
{
    const tokens *t = d->self;
    int64_t context = d->info.sample.dim[0];
    iv__window_copy(&t->spans[split], i * context, context, x, y);
    return IV_OK;
}

const iv__reader iv__reader_tokens = {"tokens",
                                      "tokens:FILE[:u16|:u32][,VALFILE]",
                                      tokens_open,
                                      tokens_close,
                                      tokens_train_sample,
                                      tokens_sample};
