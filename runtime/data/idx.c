/* idx.c: data reader "idx:DIR": images of the MNIST family.
 *
 * DIR holds four files, each plain or with .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte,
 * and the same with t10k for validation (both of the latter may be missing).  The format,
 * big-endian: images   00 00 08 03   count   rows   columns   count * rows * columns bytes labels
 * 00 00 08 01   count                    count bytes Nothing in the files is trusted: sizes are
 * compared with what the file can hold before memory is taken.  Pixels stay bytes in memory and
 * become f32 (pixel / 255) when a sample is read.
 *
 * Training order: epoch e = index / N; within it a permutation of 0..N-1, Fisher-Yates with Philox
 * numbers of (seed, step = e, element = position).  Two permutations are kept, for even and odd
 * epochs, so that readers on both sides of an epoch's end do not undo each other's work.
 */
#include "dataset.h"

#include <errno.h>
#include <sys/stat.h>
#include <zlib.h>

/* ---- a stream of bytes, plain or inflated ---- */

typedef struct source {
    char *path;
    iv__map map;
    int64_t at; /* in the map: bytes consumed */
    bool is_gz, ended;
    z_stream z;
} source;

static iv_status truncated(const source *s)
{
    IV_FAIL(IV_CORRUPT, "reading %s: the file is truncated (%lld bytes)", s->path,
            (long long)s->map.size);
}

static void source_close(source *s)
{
    if (s->is_gz) inflateEnd(&s->z);
    iv__file_unmap(&s->map);
    free(s->path);
    *s = (source){0};
}

/* Whether `path` is there; other obstacles than its absence count as there, and opening tells them.
 */
static bool exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

/* Opens dir/name or dir/name.gz; *out_found says whether one is there. */
static iv_status source_open(const char *dir, const char *name, source *s, bool *out_found)
{
    iv__text path = {0};
    iv__text_printf(&path, "%s/%s", dir, name);
    bool found = !path.failed && exists(path.s), is_gz = false;
    if (!found) {
        iv__text_printf(&path, ".gz");
        found = is_gz = !path.failed && exists(path.s);
    }
    iv_status status = IV_OK;
    if (path.failed) status = iv__fail(IV_NO_MEMORY, "opening idx:%s: a path", dir);
    if (!found) {
        iv__text_free(&path);
        *out_found = false;
        return status;
    }
    *s = (source){.path = path.s};
    status = iv__file_map(s->path, &s->map);
    if (status == IV_OK && s->map.size == 0)
        status = iv__fail(IV_INVALID, "reading %s: the file is empty", s->path);
    /* 15 + 16: the largest window, and a gzip header rather than zlib's. */
    if (status == IV_OK && is_gz && inflateInit2(&s->z, 15 + 16) != Z_OK)
        status = iv__fail(IV_NO_MEMORY, "reading %s: starting zlib", s->path);
    if (status != IV_OK) {
        source_close(s);
        return status;
    }
    s->is_gz = is_gz;
    *out_found = true;
    return IV_OK;
}

/* Bytes of contents that the file can hold at most. */
static int64_t source_most(const source *s)
{
    /* Deflate cannot shrink below 1032 : 1 (zlib's technical notes). */
    enum { RATIO = 1032 };
    if (!s->is_gz) return s->map.size;
    return s->map.size < INT64_MAX / RATIO ? s->map.size * RATIO : INT64_MAX;
}

/* One call of inflate, for at most n bytes; *out_got of them came. */
static iv_status inflate_some(source *s, uint8_t *dst, size_t n, size_t *out_got)
{
    const int64_t most = 1 << 30; /* zlib counts in 32 bits */
    uInt in = (uInt)IV_MIN2(s->map.size - s->at, most), room = (uInt)IV_MIN2(n, (size_t)most);
    s->z.next_in = (Bytef *)(uintptr_t)(s->map.data + s->at);
    s->z.avail_in = in;
    s->z.next_out = dst;
    s->z.avail_out = room;
    int r = inflate(&s->z, Z_NO_FLUSH);
    s->at += in - s->z.avail_in;
    *out_got = room - s->z.avail_out;
    if (r == Z_STREAM_END) {
        /* A gzip file may be several in a row. */
        const uint8_t *next = s->map.data + s->at;
        s->ended = s->map.size - s->at < 2 || next[0] != 0x1f || next[1] != 0x8b;
        if (!s->ended) inflateReset(&s->z);
        return IV_OK;
    }
    if (r == Z_MEM_ERROR) IV_FAIL(IV_NO_MEMORY, "reading %s: zlib", s->path);
    if (r == Z_BUF_ERROR || (r == Z_OK && s->at == s->map.size && *out_got == 0))
        return truncated(s);
    if (r != Z_OK) {
        IV_FAIL(IV_CORRUPT, "reading %s: gzip data is damaged (%s)", s->path,
                s->z.msg ? s->z.msg : "zlib gives no reason");
    }
    return IV_OK;
}

/* Reads exactly n bytes. */
static iv_status source_read(source *s, uint8_t *dst, size_t n)
{
    if (!s->is_gz) {
        if (n > (size_t)(s->map.size - s->at)) return truncated(s);
        if (n > 0) memcpy(dst, s->map.data + s->at, n);
        s->at += (int64_t)n;
        return IV_OK;
    }
    for (size_t done = 0, got = 0; done < n; done += got) {
        if (s->ended) return truncated(s);
        IV_TRY(inflate_some(s, dst + done, n - done, &got));
    }
    return IV_OK;
}

/* Checks that the contents end here. */
static iv_status source_finish(source *s)
{
    /* The end of a gzip stream (with its checksum) is seen by asking for one byte more. */
    uint8_t extra;
    size_t got = 0;
    while (s->is_gz && !s->ended && got == 0) IV_TRY(inflate_some(s, &extra, 1, &got));
    if (got > 0 || s->at != s->map.size) {
        IV_FAIL(IV_CORRUPT, "reading %s: there are bytes after the end that its header tells",
                s->path);
    }
    return IV_OK;
}

/* ---- one IDX file ---- */

typedef struct array {
    uint8_t *data;  /* [dim 0, dim 1, dim 2] */
    int64_t dim[3]; /* count, rows, columns; unused ones are 1 */
} array;

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Reads the header of an array with `rank` dimensions; *out_bytes is the size of its elements. */
static iv_status read_header(source *s, int rank, array *a, int64_t *out_bytes)
{
    uint8_t head[16];
    IV_TRY(source_read(s, head, 4));
    uint32_t magic = big_endian(head), expected = 0x800u + (uint32_t)rank;
    if (magic != expected) {
        IV_FAIL(IV_CORRUPT, "reading %s: magic number 0x%08x, expected 0x%08x (bytes, rank %d)",
                s->path, magic, expected, rank);
    }
    IV_TRY(source_read(s, head + 4, 4 * (size_t)rank));
    int64_t bytes = 1;
    for (int k = 0; k < 3; ++k) a->dim[k] = k < rank ? big_endian(head + 4 + 4 * k) : 1;
    for (int k = 0; k < 3; ++k) {
        if (a->dim[k] < 1 || a->dim[k] > INT32_MAX) {
            IV_FAIL(IV_CORRUPT, "reading %s: dimension %d is %lld, expected 1 to %d", s->path, k,
                    (long long)a->dim[k], INT32_MAX);
        }
        if (__builtin_mul_overflow(bytes, a->dim[k], &bytes)) bytes = INT64_MAX;
    }
    if (bytes > source_most(s)) {
        IV_FAIL(IV_CORRUPT,
                "reading %s: the header tells %lld x %lld x %lld bytes, the file has %lld", s->path,
                (long long)a->dim[0], (long long)a->dim[1], (long long)a->dim[2],
                (long long)s->map.size);
    }
    *out_bytes = bytes;
    return IV_OK;
}

static iv_status read_array(source *s, int rank, array *out)
{
    array a = {0};
    int64_t bytes = 0;
    IV_TRY(read_header(s, rank, &a, &bytes));
    IV_TRY(iv__calloc(bytes, 1, "images or labels", &a.data));
    iv_status status = source_read(s, a.data, (size_t)bytes);
    if (status == IV_OK) status = source_finish(s);
    if (status != IV_OK) {
        free(a.data);
        return status;
    }
    *out = a;
    return IV_OK;
}

/* ---- the data set ---- */

typedef struct idx {
    array images[2], labels[2];
    int32_t *order[2]; /* [N] permutation, for even and odd epochs */
    int64_t epoch[2];  /* whose it is, or -1 */
    uint64_t seed[2];
} idx;

static void idx_close(void *self)
{
    idx *x = self;
    for (int k = 0; k < 2; ++k) {
        free(x->images[k].data);
        free(x->labels[k].data);
        free(x->order[k]);
    }
    free(x);
}

/* Reads dir/<part>-<rest> or its .gz if it is there. */
static iv_status load_array(const char *dir, const char *name, int rank, array *out,
                            bool *out_found)
{
    source s = {0};
    IV_TRY(source_open(dir, name, &s, out_found));
    if (!*out_found) return IV_OK;
    iv_status status = read_array(&s, rank, out);
    source_close(&s);
    return status;
}

/* Reads the two files of a split; *out_found is false if neither is there. */
static iv_status load_split(idx *x, const char *dir, iv_split split, bool *out_found)
{
    static const char *const names[2][2] = {
        {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
        {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
    };
    bool found[2] = {false, false};
    IV_TRY(load_array(dir, names[split][0], 3, &x->images[split], &found[0]));
    IV_TRY(load_array(dir, names[split][1], 1, &x->labels[split], &found[1]));
    *out_found = found[0];
    /* The training split must be there; of the other, one file alone is a mistake. */
    int missing = found[0];
    if (found[0] != found[1] || (split == IV_TRAIN && !found[0])) {
        IV_FAIL(IV_IO, "opening idx:%s: there is no %s and no %s.gz", dir, names[split][missing],
                names[split][missing]);
    }
    if (found[0] && x->images[split].dim[0] != x->labels[split].dim[0]) {
        IV_FAIL(IV_CORRUPT, "opening idx:%s: %lld images in %s, %lld labels in %s", dir,
                (long long)x->images[split].dim[0], names[split][0],
                (long long)x->labels[split].dim[0], names[split][1]);
    }
    return IV_OK;
}

static iv_status check_folder(const char *dir)
{
    struct stat st;
    if (stat(dir, &st) != 0) IV_FAIL(IV_IO, "opening idx:%s: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode)) IV_FAIL(IV_INVALID, "opening idx:%s: it is not a folder", dir);
    return IV_OK;
}

/* Loads both splits and compares their image sizes. */
static iv_status load(idx *x, const char *dir)
{
    bool train = false, val = false;
    IV_TRY(check_folder(dir));
    IV_TRY(load_split(x, dir, IV_TRAIN, &train));
    IV_TRY(load_split(x, dir, IV_VAL, &val));
    const int64_t *a = x->images[IV_TRAIN].dim, *b = x->images[IV_VAL].dim;
    if (val && (a[1] != b[1] || a[2] != b[2])) {
        IV_FAIL(IV_CORRUPT,
                "opening idx:%s: images of %lld x %lld for training, %lld x %lld in t10k", dir,
                (long long)a[1], (long long)a[2], (long long)b[1], (long long)b[2]);
    }
    for (int k = 0; k < 2; ++k) {
        x->epoch[k] = -1;
        IV_TRY(iv__calloc(a[0], sizeof(int32_t), "an order of images", &x->order[k]));
    }
    return IV_OK;
}

static int64_t count_classes(const idx *x)
{
    int64_t classes = 10; /* a small file may lack the highest digits */
    for (int k = 0; k < 2; ++k)
        for (int64_t i = 0; i < x->labels[k].dim[0]; ++i)
            classes = IV_MAX2(classes, x->labels[k].data[i] + 1);
    return classes;
}

static iv_status idx_open(iv_dataset *d, const char *dir, int64_t context, double val_fraction)
{
    (void)context, (void)val_fraction;
    idx *x = NULL;
    IV_TRY(iv__calloc(1, sizeof(*x), "an image reader", &x));
    iv_status s = load(x, dir);
    if (s != IV_OK) {
        idx_close(x);
        return s;
    }
    d->info.sample = IV_SHAPE(1, x->images[IV_TRAIN].dim[1], x->images[IV_TRAIN].dim[2]);
    d->info.classes = count_classes(x);
    for (int k = 0; k < 2; ++k) d->info.samples[k] = x->images[k].dim[0];
    d->self = x;
    return IV_OK;
}

static iv_status idx_sample(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y)
{
    const idx *self = d->self;
    const array *a = &self->images[split];
    int64_t n = a->dim[1] * a->dim[2];
    const uint8_t *src = a->data + i * n;
    float *dst = x;
    for (int64_t k = 0; k < n; ++k) dst[k] = (float)src[k] / 255.0f;
    y[0] = self->labels[split].data[i];
    return IV_OK;
}

static void shuffle(int32_t *order, int64_t n, uint64_t seed, int64_t epoch)
{
    for (int64_t i = 0; i < n; ++i) order[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; --i) {
        int64_t j = (int64_t)iv__data_uniform(seed, (uint64_t)epoch, (uint64_t)i, (uint64_t)i + 1);
        int32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

static iv_status idx_train_sample(iv_dataset *d, uint64_t seed, int64_t index, void *x, int32_t *y)
{
    idx *self = d->self;
    int64_t n = d->info.samples[IV_TRAIN], epoch = index / n;
    if (epoch > UINT32_MAX) {
        IV_FAIL(IV_INVALID, "reading idx data: training sample %lld is beyond epoch %u",
                (long long)index, UINT32_MAX);
    }
    int slot = epoch & 1;
    if (self->epoch[slot] != epoch || self->seed[slot] != seed) {
        shuffle(self->order[slot], n, seed, epoch);
        self->epoch[slot] = epoch;
        self->seed[slot] = seed;
    }
    return idx_sample(d, IV_TRAIN, self->order[slot][index % n], x, y);
}

const iv__reader iv__reader_idx = {"idx",     "idx:DIR",        idx_open,
                                   idx_close, idx_train_sample, idx_sample};
