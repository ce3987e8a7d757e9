/* zip.c: reading and writing stored ZIP entries (see zip.h). */
#include "zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    LOCAL = 0x04034b50,
    CENTRAL = 0x02014b50,
    END = 0x06054b50,
    END64 = 0x06064b50,
    LOCATOR64 = 0x07064b50,
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    ALIGN = 64
};
#define CHUNK ((size_t)1 << 20)
#define MOST_DIRECTORY ((uint64_t)256 << 20)

static uint64_t get(const unsigned char *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; ++i) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void set(unsigned char *p, int n, uint64_t v)
{
    for (int i = 0; i < n; ++i) p[i] = (unsigned char)(v >> (8 * i));
}

/* ---- reading ---- */

typedef struct place {
    uint64_t at, bytes, count;
} place;

/* Where the directory lies, from the record at the end of the file. */
static iv_status find_directory(const iv__io_job *j, int fd, uint64_t size, place *out)
{
    enum { TAIL = 65536 + END_BYTES };
    static const char none[] =
        "no directory of a ZIP file at its end [hint: it was cut short, or is "
        "of PyTorch before 1.6: load and save it there]";
    const size_t n = size < TAIL ? (size_t)size : TAIL;
    if (size < END_BYTES) return iv__io_fail(j, IV_CORRUPT, "%s", none);
    unsigned char *tail = malloc(n);
    if (!tail) return iv__io_fail(j, IV_NO_MEMORY, "allocating %zu bytes", n);
    iv_status s = iv__io_read(j, fd, tail, n, size - n);
    size_t i = n - END_BYTES + 1;
    while (s == IV_OK && i-- > 0)
        if (get(tail + i, 4) == END && get(tail + i + 20, 2) == n - i - END_BYTES) break;
    if (s == IV_OK && i == (size_t)-1) s = iv__io_fail(j, IV_CORRUPT, "%s", none);
    if (s == IV_OK) {
        *out = (place){get(tail + i + 16, 4), get(tail + i + 12, 4), get(tail + i + 10, 2)};
        if (i >= 20 && get(tail + i - 20, 4) == LOCATOR64) {
            unsigned char end[56];
            const uint64_t at = get(tail + i - 12, 8);
            if (at > size || size - at < sizeof(end)) s = iv__io_fail(j, IV_CORRUPT, "%s", none);
            else s = iv__io_read(j, fd, end, sizeof(end), at);
            if (s == IV_OK && get(end, 4) != END64) s = iv__io_fail(j, IV_CORRUPT, "%s", none);
            if (s == IV_OK) *out = (place){get(end + 48, 8), get(end + 40, 8), get(end + 32, 8)};
        }
        if (s == IV_OK && (out->at > size || out->bytes > size - out->at ||
                           out->bytes > MOST_DIRECTORY || out->count > out->bytes / CENTRAL_BYTES))
            s = iv__io_fail(j, IV_CORRUPT, "the directory of the ZIP file lies outside of it");
    }
    free(tail);
    return s;
}

/* 64-bit fields stand in an extra field, in this order, where the short ones are all ones. */
static bool widen(const unsigned char *extra, size_t n, uint64_t *field[3])
{
    bool any = false;
    for (int k = 0; k < 3; ++k) any = any || *field[k] == 0xffffffffu;
    for (size_t i = 0; any && i + 4 <= n;) {
        const size_t id = get(extra + i, 2), bytes = get(extra + i + 2, 2);
        if (bytes > n - i - 4) return false;
        size_t at = i + 4;
        const size_t end = at + bytes;
        i = end;
        if (id != 1) continue;
        for (int k = 0; k < 3; ++k) {
            if (*field[k] != 0xffffffffu) continue;
            if (end - at < 8) return false;
            *field[k] = get(extra + at, 8);
            at += 8;
        }
        return true;
    }
    return true;
}

/* The place of an entry's data: behind its local header, which has lengths of its own. */
static iv_status find_data(const iv__io_job *j, int fd, uint64_t size, uint64_t local,
                           iv__zip_entry *e)
{
    unsigned char h[LOCAL_BYTES];
    if (local > size || size - local < LOCAL_BYTES)
        return iv__io_fail(j, IV_CORRUPT, "entry %.200s lies outside of the file", e->name);
    iv_status s = iv__io_read(j, fd, h, sizeof(h), local);
    if (s != IV_OK) return s;
    e->data_at = local + LOCAL_BYTES + get(h + 26, 2) + get(h + 28, 2);
    if (get(h, 4) != LOCAL || e->data_at > size || e->bytes > size - e->data_at)
        return iv__io_fail(j, IV_CORRUPT, "entry %.200s lies outside of the file", e->name);
    return IV_OK;
}

static iv_status read_entry(const iv__io_job *j, int fd, uint64_t size, const unsigned char **p,
                            const unsigned char *end, iv__zip_entry *e)
{
    const unsigned char *h = *p;
    if (end - h < CENTRAL_BYTES || get(h, 4) != CENTRAL)
        return iv__io_fail(j, IV_CORRUPT, "the directory of the ZIP file cannot be read");
    const size_t name = get(h + 28, 2), extra = get(h + 30, 2), comment = get(h + 32, 2);
    if ((size_t)(end - h) - CENTRAL_BYTES < name + extra + comment)
        return iv__io_fail(j, IV_CORRUPT, "the directory of the ZIP file cannot be read");
    uint64_t stored = get(h + 20, 4), local = get(h + 42, 4);
    e->bytes = get(h + 24, 4);
    e->crc = (uint32_t)get(h + 16, 4);
    e->name = malloc(name + 1);
    if (!e->name) return iv__io_fail(j, IV_NO_MEMORY, "allocating a name");
    memcpy(e->name, h + CENTRAL_BYTES, name);
    e->name[name] = '\0';
    if (!widen(h + CENTRAL_BYTES + name, extra, (uint64_t *[3]){&e->bytes, &stored, &local}))
        return iv__io_fail(j, IV_CORRUPT, "entry %.200s: its extra fields cannot be read", e->name);
    if (get(h + 10, 2) != 0 || stored != e->bytes || get(h + 8, 2) & 1)
        return iv__io_fail(j, IV_UNSUPPORTED, "entry %.200s is compressed or encrypted", e->name);
    *p = h + CENTRAL_BYTES + name + extra + comment;
    return find_data(j, fd, size, local, e);
}

iv_status iv__zip_open(const iv__io_job *j, int fd, uint64_t size, iv__zip *out)
{
    place d = {0};
    iv__zip z = {0};
    iv_status s = find_directory(j, fd, size, &d);
    if (s != IV_OK) return s;
    unsigned char *text = malloc((size_t)d.bytes + 1);
    z.entries = calloc((size_t)d.count + 1, sizeof(*z.entries));
    if (!text || !z.entries) s = iv__io_fail(j, IV_NO_MEMORY, "allocating the ZIP directory");
    if (s == IV_OK) s = iv__io_read(j, fd, text, (size_t)d.bytes, d.at);
    const unsigned char *p = text;
    for (uint64_t i = 0; i < d.count && s == IV_OK; ++i, ++z.n)
        s = read_entry(j, fd, size, &p, text + d.bytes, &z.entries[i]);
    free(text);
    if (s == IV_OK) *out = z;
    else iv__zip_close(&z);
    return s;
}

void iv__zip_close(iv__zip *z)
{
    for (int64_t i = 0; i < z->n; ++i) free(z->entries[i].name);
    free(z->entries);
    *z = (iv__zip){0};
}

const iv__zip_entry *iv__zip_find(const iv__zip *z, const char *name)
{
    for (int64_t i = 0; i < z->n; ++i)
        if (strcmp(z->entries[i].name, name) == 0) return &z->entries[i];
    return NULL;
}

static uint32_t crc_of(uint32_t crc, const void *p, size_t n)
{
    return (uint32_t)crc32_z(crc, p, n);
}

iv_status iv__zip_read(const iv__io_job *j, int fd, const iv__zip_entry *e, char **out)
{
    char *data = malloc((size_t)e->bytes + 1);
    if (!data)
        return iv__io_fail(j, IV_NO_MEMORY, "allocating %llu bytes", (unsigned long long)e->bytes);
    iv_status s = iv__io_read(j, fd, data, (size_t)e->bytes, e->data_at);
    const uint32_t crc = s == IV_OK ? crc_of(0, data, (size_t)e->bytes) : 0;
    if (s == IV_OK && crc != e->crc)
        s = iv__io_fail(j, IV_CORRUPT,
                        "entry %.200s: the CRC of its %llu bytes is %08x, the "
                        "file says %08x",
                        e->name, (unsigned long long)e->bytes, crc, e->crc);
    if (s != IV_OK) {
        free(data);
        return s;
    }
    data[e->bytes] = '\0';
    *out = data;
    return IV_OK;
}

/* ---- writing ---- */

static iv_status too_large(const iv__zip_writer *w)
{
    return iv__io_fail(w->file->job, IV_UNSUPPORTED,
                       "more than 4 GiB are not written to this format [hint: safetensors]");
}

/* The local header, with an extra field that brings the data to a multiple of 64. */
static iv_status put_local(iv__zip_writer *w, const iv__zip_entry *e)
{
    unsigned char h[LOCAL_BYTES + 4 + ALIGN] = {0};
    const size_t name = strlen(e->name);
    const uint64_t data = w->at + LOCAL_BYTES + name + 4;
    const size_t pad = (size_t)((ALIGN - data % ALIGN) % ALIGN);
    set(h, 4, LOCAL);
    set(h + 14, 4, e->crc);
    set(h + 18, 4, e->bytes);
    set(h + 22, 4, e->bytes);
    set(h + 26, 2, name);
    set(h + 28, 2, 4 + pad);
    set(h + LOCAL_BYTES, 2, 0x4246); /* "FB", as PyTorch pads */
    set(h + LOCAL_BYTES + 2, 2, pad);
    iv_status s = iv__io_write(w->file, h, LOCAL_BYTES, w->at);
    if (s == IV_OK) s = iv__io_write(w->file, e->name, name, w->at + LOCAL_BYTES);
    if (s == IV_OK) s = iv__io_write(w->file, h + LOCAL_BYTES, 4 + pad, w->at + LOCAL_BYTES + name);
    w->at += LOCAL_BYTES + name + 4 + pad;
    return s;
}

iv_status iv__zip_add(iv__zip_writer *w, const char *name, uint64_t bytes, iv__zip_fill *fill,
                      void *ctx)
{
    const iv__io_job *j = w->file->job;
    if (bytes + w->at > 0xf0000000u || w->n == 60000) return too_large(w);
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 64;
        iv__zip_entry *more = realloc(w->entries, (size_t)w->cap * sizeof(*more));
        if (!more) return iv__io_fail(j, IV_NO_MEMORY, "allocating the ZIP directory");
        w->entries = more;
    }
    char *chunk = malloc(CHUNK);
    if (!chunk) return iv__io_fail(j, IV_NO_MEMORY, "allocating %zu bytes", CHUNK);
    iv__zip_entry *e = &w->entries[w->n];
    *e = (iv__zip_entry){.name = (char *)(uintptr_t)name, .bytes = bytes, .data_at = w->at};
    iv_status s = IV_OK;
    for (int pass = 0; pass < 2 && s == IV_OK; ++pass) {
        if (pass == 1) s = put_local(w, e);
        for (uint64_t at = 0; at < bytes && s == IV_OK; at += CHUNK) {
            const size_t n = (size_t)(bytes - at < CHUNK ? bytes - at : CHUNK);
            s = fill(ctx, at, n, chunk);
            if (s == IV_OK && pass == 0) e->crc = crc_of(e->crc, chunk, n);
            else if (s == IV_OK) s = iv__io_write(w->file, chunk, n, w->at + at);
        }
    }
    w->at += bytes;
    ++w->n;
    free(chunk);
    return s;
}

iv_status iv__zip_finish(iv__zip_writer *w)
{
    const uint64_t begin = w->at;
    iv_status s = IV_OK;
    for (int64_t i = 0; i < w->n && s == IV_OK; ++i) {
        const iv__zip_entry *e = &w->entries[i];
        unsigned char h[CENTRAL_BYTES] = {0};
        const size_t name = strlen(e->name);
        set(h, 4, CENTRAL);
        set(h + 16, 4, e->crc);
        set(h + 20, 4, e->bytes);
        set(h + 24, 4, e->bytes);
        set(h + 28, 2, name);
        set(h + 42, 4, e->data_at);
        s = iv__io_write(w->file, h, sizeof(h), w->at);
        if (s == IV_OK) s = iv__io_write(w->file, e->name, name, w->at + sizeof(h));
        w->at += sizeof(h) + name;
    }
    unsigned char end[END_BYTES] = {0};
    if (w->at > 0xfff00000u) return too_large(w);
    set(end, 4, END);
    set(end + 8, 2, (uint64_t)w->n);
    set(end + 10, 2, (uint64_t)w->n);
    set(end + 12, 4, w->at - begin);
    set(end + 16, 4, begin);
    if (s == IV_OK) s = iv__io_write(w->file, end, sizeof(end), w->at);
    return s;
}
