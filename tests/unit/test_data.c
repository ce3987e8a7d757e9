/* test_data.c: the data readers on small files: values, splits, order, randomness, every refusal.
 */
#include "temporary.h"

#include "data/dataset.h"

#include <math.h>
#include <sys/stat.h>
#include <zlib.h>

static iv_dataset *d;

static int destroy(void **state)
{
    (void)state;
    iv_dataset_close(d);
    d = NULL;
    return 0;
}

static iv_dataset_info info(void)
{
    iv_dataset_info i;
    iv_dataset_info_get(d, &i);
    return i;
}

static void reopen(const char *what, int64_t context, double val_fraction)
{
    iv_dataset_close(d);
    d = NULL;
    WORKS(iv_dataset_open(what, context, val_fraction, &d));
}

/* Opening fails, and leaves the output alone and nothing open. */
#define REFUSED(status, part, what, context, fraction)                                             \
    do {                                                                                           \
        int open_before_ = count_open();                                                           \
        iv_dataset *none_ = NULL;                                                                  \
        FAILS(status, part, iv_dataset_open(what, context, fraction, &none_));                     \
        assert_null(none_);                                                                        \
        assert_int_equal(count_open(), open_before_);                                              \
    } while (0)

/* ---- random choice ---- */

static void test_uniform(void **state)
{
    (void)state;
    assert_int_equal(iv__data_uniform(1, 0, 0, 1), 0);
    /* Chi-square over 10 cells, 100000 draws: 99.9 % of generators stay below 27.9 at 9 degrees. */
    int64_t count[10] = {0};
    for (uint64_t i = 0; i < 100000; ++i) count[iv__data_uniform(7, 0, i, 10)]++;
    double chi = 0;
    for (int k = 0; k < 10; ++k) chi += pow((double)count[k] - 10000, 2) / 10000;
    assert_true(chi < 27.9);
    /* n = 3 * 2^62: without rejection every third result would be twice as likely. */
    int64_t rest[3] = {0};
    for (uint64_t i = 0; i < 30000; ++i) rest[iv__data_uniform(7, 0, i, UINT64_C(3) << 62) % 3]++;
    for (int k = 0; k < 3; ++k) assert_true(rest[k] > 9500 && rest[k] < 10500);
    assert_true(iv__data_uniform(1, 0, 0, 1000000) != iv__data_uniform(2, 0, 0, 1000000));
    assert_true(iv__data_uniform(1, 0, 0, 1000000) != iv__data_uniform(1, 1, 0, 1000000));
    assert_true(iv__data_uniform(1, 0, 0, 1000000) != iv__data_uniform(1, 0, 1, 1000000));
    /* Fixed numbers, from an independent implementation in Python: a change of the generator or of
     * its use changes every training run.  Elements 7 and 18 of the last row need 2 and 4 tries. */
    assert_true(iv__data_uniform(1, 0, 0, 1000000) == 899259);
    assert_true(iv__data_uniform(1, 3, 59999, 60000) == 29355);
    assert_true(iv__data_uniform(UINT64_C(0x123456789abcdef0), 2, UINT64_C(1) << 40,
                                 UINT64_C(1000000000000000)) == UINT64_C(489870907568933));
    assert_true(iv__data_uniform(7, 0, 7, UINT64_C(3) << 62) == UINT64_C(5172554558456781249));
    assert_true(iv__data_uniform(7, 0, 18, UINT64_C(3) << 62) == UINT64_C(11298791262386862509));
}

/* ---- text ---- */

static void test_text(void **state)
{
    (void)state;
    uint8_t bytes[100];
    for (int i = 0; i < 100; ++i) bytes[i] = (uint8_t)(i + 100);
    put("t", bytes, 100);
    reopen(spec("text", "t"), 4, 0.25);
    iv_dataset_info i = info();
    assert_string_equal(i.kind, "text");
    assert_true(i.is_tokens);
    assert_int_equal(i.sample.rank, 1);
    assert_int_equal(i.sample.dim[0], 4);
    assert_int_equal(i.classes, 256);
    assert_int_equal(i.tokens[IV_TRAIN], 75);
    assert_int_equal(i.tokens[IV_VAL], 25);
    assert_int_equal(i.samples[IV_TRAIN], 18); /* 18 * 4 + 1 <= 75 */
    assert_int_equal(i.samples[IV_VAL], 6);
    int32_t x[4], y[4];
    WORKS(iv_dataset_sample(d, IV_TRAIN, 17, x, y));
    assert_int_equal(x[0], 100 + 68);
    assert_int_equal(y[3], 100 + 72);
    WORKS(iv_dataset_sample(d, IV_VAL, 5, x, y));
    for (int k = 0; k < 4; ++k) {
        assert_int_equal(x[k], 100 + 75 + 20 + k);
        assert_int_equal(y[k], x[k] + 1);
    }
    FAILS(IV_INVALID, "sample 6 of the validation split, which has 6",
          iv_dataset_sample(d, IV_VAL, 6, x, y));
    FAILS(IV_INVALID, "sample -1 of the training", iv_dataset_sample(d, IV_TRAIN, -1, x, y));
    FAILS(IV_INVALID, "there is no split 2", iv_dataset_sample(d, (iv_split)2, 0, x, y));
    FAILS(IV_INVALID, "training sample -1", iv_dataset_train_sample(d, 1, -1, x, y));
}

static void test_text_random(void **state)
{
    (void)state;
    uint8_t bytes[20];
    for (int i = 0; i < 20; ++i) bytes[i] = (uint8_t)i;
    put("t", bytes, 20);
    reopen(spec("text", "t"), 15, 0);
    assert_int_equal(info().samples[IV_VAL], 0);
    int seen[5] = {0};
    int32_t x[15], y[15], again[15];
    for (int64_t k = 0; k < 1000; ++k) {
        WORKS(iv_dataset_train_sample(d, 5, k, x, y));
        assert_in_range(x[0], 0, 4); /* every start position, and none beyond */
        assert_int_equal(y[14], x[0] + 15);
        seen[x[0]]++;
    }
    for (int k = 0; k < 5; ++k) assert_true(seen[k] > 130 && seen[k] < 270);
    /* A pure function of seed and index, in any order. */
    WORKS(iv_dataset_train_sample(d, 5, 999, again, y));
    assert_memory_equal(again, x, sizeof(x));
    int differ = 0;
    for (int64_t k = 0; k < 50; ++k) {
        WORKS(iv_dataset_train_sample(d, 5, k, x, y));
        WORKS(iv_dataset_train_sample(d, 6, k, again, y));
        differ += x[0] != again[0];
    }
    assert_true(differ > 25);
    WORKS(iv_dataset_train_sample(d, UINT64_MAX, INT64_MAX, x, y));
    /* The shortest file: one window. */
    put("t", bytes, 16);
    reopen(spec("text", "t"), 15, 0);
    WORKS(iv_dataset_train_sample(d, 5, 3, x, y));
    assert_int_equal(x[0], 0);
    assert_int_equal(info().samples[IV_TRAIN], 1);
}

static char logged[256];
static void catch_log(void *ctx, iv_log_level level, const char *line)
{
    (void)ctx, (void)level;
    snprintf(logged, sizeof(logged), "%s", line);
}

static void test_text_refused(void **state)
{
    (void)state;
    put_text("t", "0123456789");
    put_text("empty", "");
    mkdir(at("folder"), 0777);
    REFUSED(IV_IO, "/none: No such file", spec("text", "none"), 4, 0);
    REFUSED(IV_INVALID, "it is a folder", spec("text", "folder"), 4, 0);
    REFUSED(IV_INVALID, "/empty: the file is empty", spec("text", "empty"), 4, 0);
    REFUSED(IV_INVALID, "has 10 tokens, fewer than context + 1 = 11", spec("text", "t"), 10, 0);
    REFUSED(IV_INVALID, "has 5 tokens, fewer than context + 1 = 6", spec("text", "t"), 5, 0.5);
    REFUSED(IV_INVALID, "fewer than context + 1 = 9223372036854775808", spec("text", "t"),
            INT64_MAX, 0);
    REFUSED(IV_INVALID, "the context is 0 tokens", spec("text", "t"), 0, 0);
    REFUSED(IV_INVALID, "the context is -1 tokens", spec("text", "t"), -1, 0);
    REFUSED(IV_INVALID, "fraction is 1,", spec("text", "t"), 2, 1);
    REFUSED(IV_INVALID, "fraction is -0.1,", spec("text", "t"), 2, -0.1);
    REFUSED(IV_INVALID, "fraction is ", spec("text", "t"), 2, (double)NAN);
    REFUSED(IV_INVALID, "no data is given (allowed: text:FILE", "", 4, 0);
    REFUSED(IV_INVALID, "the kind of data is missing", "t", 4, 0);
    REFUSED(IV_INVALID, "no file is named", "text:", 4, 0);
    REFUSED(IV_INVALID,
            "there is no kind \"txt\" (allowed: text:FILE, idx:DIR, tokens:FILE[,VALFILE]) "
            "[hint: did you mean text?]",
            "txt:x", 4, 0);
    REFUSED(IV_INVALID, "there is no kind \"\"", ":x", 4, 0);
    REFUSED(IV_INVALID, "there is no kind \"averyvery",
            "averyveryveryveryveryveryveryveryveryvery:x", 4, 0);
    iv_dataset_close(NULL);
    /* A rest that is too short to validate with is told. */
    iv_log_set(IV_LOG_INFO, catch_log, NULL);
    reopen(spec("text", "t"), 4, 0.2);
    iv_log_set(IV_LOG_INFO, NULL, NULL);
    assert_int_equal(info().samples[IV_VAL], 0);
    assert_non_null(strstr(logged, "its part has 2 tokens, fewer than context + 1 = 5"));
}

/* ---- tokens ---- */

static uint8_t file[4096];

/* Writes ids, with an llm.c header if magic is not 0; `told` is the count in the header. */
static void put_tokens(const char *name, uint32_t magic, uint32_t version, uint32_t told, int n,
                       int width, uint32_t first)
{
    size_t size = 0;
    memset(file, 0, sizeof(file));
    uint32_t head[3] = {magic, version, told};
    if (magic) {
        memcpy(file, head, sizeof(head));
        size = 1024;
    }
    for (uint32_t k = 0; k < (uint32_t)n; ++k, size += (size_t)width) {
        uint32_t id = first + k;
        memcpy(file + size, &id, (size_t)width);
    }
    put(name, file, size);
}

static void check_ramp(int64_t classes, int64_t tokens, int32_t first)
{
    int32_t x[4], y[4];
    iv_dataset_info i = info();
    assert_string_equal(i.kind, "tokens");
    assert_int_equal(i.classes, classes);
    assert_int_equal(i.tokens[IV_TRAIN], tokens);
    WORKS(iv_dataset_sample(d, IV_TRAIN, 1, x, y));
    for (int k = 0; k < 4; ++k) {
        assert_int_equal(x[k], first + 4 + k);
        assert_int_equal(y[k], first + 5 + k);
    }
    WORKS(iv_dataset_train_sample(d, 1, 0, x, y));
    assert_in_range(x[0], first, first + tokens - 5);
    assert_int_equal(y[3], x[0] + 4);
}

static void test_tokens(void **state)
{
    (void)state;
    put_tokens("gpt2.bin", 20240520, 1, 50, 50, 2, 1000);
    reopen(spec("tokens", "gpt2.bin"), 4, 0);
    check_ramp(1050, 50, 1000);
    reopen(spec("tokens", "gpt2.bin:u16"), 4, 0.5);
    check_ramp(1050, 25, 1000);
    assert_int_equal(info().tokens[IV_VAL], 25);
    put_tokens("llama.bin", 20240801, 7, 50, 50, 4, 100000);
    reopen(spec("tokens", "llama.bin"), 4, 0);
    check_ramp(100050, 50, 100000);
    reopen(spec("tokens", "llama.bin:u32"), 4, 0);
    put_tokens("raw16", 0, 0, 0, 30, 2, 65500);
    reopen(spec("tokens", "raw16"), 4, 0);
    check_ramp(65530, 30, 65500);
    put_tokens("raw32", 0, 0, 0, 30, 4, 70000);
    reopen(spec("tokens", "raw32:u32"), 4, 0);
    check_ramp(70030, 30, 70000);
    /* A second file for validation: the fraction plays no part, classes cover both. */
    char both[1200];
    snprintf(both, sizeof(both), "%s,%s", spec("tokens", "raw16"), at("raw32:u32"));
    reopen(both, 4, 0.5);
    check_ramp(70030, 30, 65500);
    assert_int_equal(info().tokens[IV_VAL], 30);
    int32_t x[4], y[4];
    WORKS(iv_dataset_sample(d, IV_VAL, 6, x, y));
    assert_int_equal(y[3], 70028);
}

static void test_tokens_refused(void **state)
{
    (void)state;
    put_text("empty", "");
    REFUSED(IV_INVALID, "/empty: the file is empty", spec("tokens", "empty"), 4, 0);
    REFUSED(IV_IO, "/none: No such file", spec("tokens", "none"), 4, 0);
    REFUSED(IV_INVALID, "a file name is empty", "tokens::u16", 4, 0);
    REFUSED(IV_INVALID, "a file name is empty", "tokens:,x", 4, 0);
    put_text("odd", "abcdefghijklm");
    REFUSED(IV_INVALID, "has 13 bytes, not a multiple of 2 (u16 ids)", spec("tokens", "odd"), 4, 0);
    REFUSED(IV_INVALID, "not a multiple of 4 (u32 ids)", spec("tokens", "odd:u32"), 4, 0);
    put_tokens("v", 20240520, 2, 50, 50, 2, 0);
    REFUSED(IV_UNSUPPORTED, "version 2 of the format, expected 1", spec("tokens", "v"), 4, 0);
    put_tokens("n", 20240520, 1, 51, 50, 2, 0);
    REFUSED(IV_CORRUPT, "tells 51 tokens (1126 bytes), the file has 1124", spec("tokens", "n"), 4,
            0);
    put_tokens("n", 20240801, 7, 0xffffffff, 50, 4, 0);
    REFUSED(IV_CORRUPT, "tells 4294967295 tokens", spec("tokens", "n"), 4, 0);
    put_tokens("n", 20240801, 7, 0, 0, 4, 0);
    REFUSED(IV_INVALID, "has 0 tokens", spec("tokens", "n"), 4, 0);
    put("short", file, 1000);
    REFUSED(IV_CORRUPT, "has 1000 bytes, its header alone has 1024", spec("tokens", "short"), 4, 0);
    put_tokens("g", 20240520, 1, 50, 50, 2, 0);
    REFUSED(IV_INVALID, "the header says u16, the suffix u32", spec("tokens", "g:u32"), 4, 0);
    REFUSED(IV_INVALID, "has 50 tokens, fewer than context + 1 = 51", spec("tokens", "g"), 50, 0);
    REFUSED(IV_INVALID, "validation fraction", spec("tokens", "g"), 4, 2);
    char both[1200];
    put_tokens("few", 0, 0, 0, 4, 2, 0);
    snprintf(both, sizeof(both), "%s,%s", spec("tokens", "g"), at("few"));
    REFUSED(IV_INVALID, "/few: the validation file has 4 tokens, fewer than context + 1 = 5", both,
            4, 0);
    snprintf(both, sizeof(both), "%s,", spec("tokens", "g"));
    REFUSED(IV_INVALID, "a file name is empty", both, 4, 0);
    put_tokens("huge", 0, 0, 0, 20, 4, 0x7ffffff0);
    REFUSED(IV_INVALID, "token 15 is 2147483647, expected less than", spec("tokens", "huge:u32"), 4,
            0);
}

/* ---- idx ---- */

static void be(uint8_t *p, uint32_t v)
{
    for (int k = 0; k < 4; ++k) p[k] = (uint8_t)(v >> (24 - 8 * k));
}

/* An IDX file in memory: n elements of rows x cols (rank 3) or of 1 (rank 1); returns its size. */
static size_t make_idx(int rank, uint32_t n, uint32_t rows, uint32_t cols, int first)
{
    be(file, 0x800 + (uint32_t)rank);
    be(file + 4, n);
    be(file + 8, rows);
    be(file + 12, cols);
    size_t head = rank == 3 ? 16 : 8, size = rank == 3 ? (size_t)n * rows * cols : n;
    for (size_t k = 0; k < size; ++k) file[head + k] = (uint8_t)((size_t)first + k);
    return head + size;
}

static void put_gz(const char *name, size_t n)
{
    gzFile f = gzopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, file, (unsigned)n), (int)n);
    assert_int_equal(gzclose(f), Z_OK);
}

#define TRAIN_X "i/train-images-idx3-ubyte"
#define TRAIN_Y "i/train-labels-idx1-ubyte"
#define VAL_X "i/t10k-images-idx3-ubyte"
#define VAL_Y "i/t10k-labels-idx1-ubyte"

/* An empty folder "i", then training data of n images of 2 x 3. */
static void put_train(uint32_t n)
{
    static const char *const names[] = {TRAIN_X, TRAIN_Y, VAL_X, VAL_Y};
    mkdir(at("i"), 0777);
    for (int k = 0; k < 4; ++k) {
        char gz[64];
        snprintf(gz, sizeof(gz), "%s.gz", names[k]);
        unlink(at(names[k]));
        unlink(at(gz));
    }
    put(TRAIN_X, file, make_idx(3, n, 2, 3, 0));
    put(TRAIN_Y, file, make_idx(1, n, 0, 0, 0));
}

static void test_idx(void **state)
{
    (void)state;
    put_train(12);
    reopen(spec("idx", "i"), 0, 0);
    iv_dataset_info i = info();
    assert_string_equal(i.kind, "idx");
    assert_false(i.is_tokens);
    assert_int_equal(i.sample.rank, 3);
    assert_int_equal(i.sample.dim[0], 1);
    assert_int_equal(i.sample.dim[1], 2);
    assert_int_equal(i.sample.dim[2], 3);
    assert_int_equal(i.classes, 12);
    assert_int_equal(i.samples[IV_TRAIN], 12);
    assert_int_equal(i.samples[IV_VAL], 0);
    assert_int_equal(i.tokens[IV_TRAIN], 0);
    float x[6];
    int32_t y = -1;
    WORKS(iv_dataset_sample(d, IV_TRAIN, 11, x, &y));
    assert_int_equal(y, 11);
    for (int k = 0; k < 6; ++k) assert_true(x[k] == (float)(66 + k) / 255.0f);
    FAILS(IV_INVALID, "sample 0 of the validation split, which has 0",
          iv_dataset_sample(d, IV_VAL, 0, x, &y));
    /* Compressed, with validation, few labels. */
    put_gz(VAL_X ".gz", make_idx(3, 5, 2, 3, 200));
    put_gz(VAL_Y ".gz", make_idx(1, 5, 0, 0, 3));
    put(TRAIN_Y, file, make_idx(1, 12, 0, 0, -4)); /* labels 252 ... 255, 0 ... 7 */
    reopen(spec("idx", "i/"), 0, 0);
    assert_int_equal(info().classes, 256);
    assert_int_equal(info().samples[IV_VAL], 5);
    WORKS(iv_dataset_sample(d, IV_VAL, 4, x, &y));
    assert_int_equal(y, 7);
    assert_true(x[0] == 224.0f / 255.0f);
    put(TRAIN_Y, file, make_idx(1, 5, 0, 0, 0));
    put(TRAIN_X, file, make_idx(3, 5, 2, 3, 0));
    reopen(spec("idx", "i"), 0, 0);
    assert_int_equal(info().classes, 10);
}

/* Labels number the images of put_train, so they show the order. */
static void read_epoch(uint64_t seed, int64_t epoch, int32_t n, int32_t *out)
{
    float x[6];
    for (int32_t k = 0; k < n; ++k)
        WORKS(iv_dataset_train_sample(d, seed, epoch * n + k, x, &out[k]));
}

static void test_idx_order(void **state)
{
    (void)state;
    enum { N = 40 };
    put_train(N);
    reopen(spec("idx", "i"), 0, 0);
    int32_t orders[4][N], again[N];
    for (int e = 0; e < 4; ++e) {
        int seen[N] = {0};
        read_epoch(9, e, N, orders[e]);
        for (int k = 0; k < N; ++k) seen[orders[e][k]]++;
        for (int k = 0; k < N; ++k) assert_int_equal(seen[k], 1);
        for (int f = 0; f < e; ++f) assert_memory_not_equal(orders[e], orders[f], sizeof(again));
    }
    read_epoch(10, 0, N, again);
    assert_memory_not_equal(again, orders[0], sizeof(again));
    for (int e = 3; e >= 0; --e) {
        read_epoch(9, e, N, again);
        assert_memory_equal(again, orders[e], sizeof(again));
    }
    float x[6];
    int32_t y;
    FAILS(IV_INVALID, "is beyond epoch", iv_dataset_train_sample(d, 9, INT64_MAX, x, &y));
    put_train(1);
    reopen(spec("idx", "i"), 0, 0);
    WORKS(iv_dataset_train_sample(d, 9, 5, x, &y));
    assert_int_equal(y, 0);
}

static void test_idx_refused(void **state)
{
    (void)state;
    REFUSED(IV_IO, "/none: No such file", spec("idx", "none"), 0, 0);
    put_text("plain", "x");
    REFUSED(IV_INVALID, "it is not a folder", spec("idx", "plain"), 0, 0);
    put_train(4);
    unlink(at(TRAIN_Y));
    REFUSED(IV_IO, "there is no train-labels-idx1-ubyte and no train-labels-idx1-ubyte.gz",
            spec("idx", "i"), 0, 0);
    put_train(4);
    unlink(at(TRAIN_X));
    REFUSED(IV_IO, "there is no train-images-idx3-ubyte and", spec("idx", "i"), 0, 0);
    unlink(at(TRAIN_Y));
    REFUSED(IV_IO, "there is no train-images-idx3-ubyte and", spec("idx", "i"), 0, 0);
    put_train(4);
    put(VAL_X, file, make_idx(3, 5, 2, 3, 0));
    REFUSED(IV_IO, "there is no t10k-labels-idx1-ubyte and", spec("idx", "i"), 0, 0);
    put(VAL_Y, file, make_idx(1, 6, 0, 0, 0));
    REFUSED(IV_CORRUPT, "5 images in t10k-images-idx3-ubyte, 6 labels in t10k-labels-idx1-ubyte",
            spec("idx", "i"), 0, 0);
    put(VAL_X, file, make_idx(3, 6, 3, 2, 0));
    REFUSED(IV_CORRUPT, "images of 2 x 3 for training, 3 x 2 in t10k", spec("idx", "i"), 0, 0);
    unlink(at(VAL_X));
    REFUSED(IV_IO, "there is no t10k-images-idx3-ubyte and", spec("idx", "i"), 0, 0);
    put_train(4);
    unlink(at(TRAIN_X));
    mkdir(at(TRAIN_X), 0777);
    REFUSED(IV_INVALID, "it is a folder, expected a regular file", spec("idx", "i"), 0, 0);
    rmdir(at(TRAIN_X));
}

/* Damaged images, in plain files. */
static void test_idx_damaged(void **state)
{
    (void)state;
    put_train(4);
    size_t n = make_idx(3, 4, 2, 3, 0);
    for (size_t cut = 1; cut < n; ++cut) {
        put(TRAIN_X, file, cut);
        REFUSED(IV_CORRUPT,
                cut < 16   ? "is truncated"
                : cut < 24 ? "the header tells"
                           : "is truncated",
                spec("idx", "i"), 0, 0);
    }
    put_text(TRAIN_X, "");
    REFUSED(IV_INVALID, "-ubyte: the file is empty", spec("idx", "i"), 0, 0);
    put(TRAIN_X, file, n + 1);
    REFUSED(IV_CORRUPT, "there are bytes after the end", spec("idx", "i"), 0, 0);
    file[2] = 13;
    put(TRAIN_X, file, n);
    REFUSED(IV_CORRUPT, "magic number 0x00000d03, expected 0x00000803", spec("idx", "i"), 0, 0);
    put(TRAIN_X, file, make_idx(1, 4, 0, 0, 0));
    REFUSED(IV_CORRUPT, "magic number 0x00000801", spec("idx", "i"), 0, 0);
    make_idx(3, 4, 2, 3, 0);
    be(file + 4, 0);
    put(TRAIN_X, file, n);
    REFUSED(IV_CORRUPT, "dimension 0 is 0, expected 1 to", spec("idx", "i"), 0, 0);
    be(file + 4, 0x80000000u);
    put(TRAIN_X, file, n);
    REFUSED(IV_CORRUPT, "dimension 0 is 2147483648", spec("idx", "i"), 0, 0);
    for (int k = 1; k < 4; ++k) be(file + 4 * k, 0x7fffffffu);
    put(TRAIN_X, file, n);
    REFUSED(IV_CORRUPT, "tells 2147483647 x 2147483647 x 2147483647 bytes, the file has 40",
            spec("idx", "i"), 0, 0);
}

/* The same, compressed. */
static void test_idx_damaged_gz(void **state)
{
    (void)state;
    static uint8_t gz[8192];
    put_train(4);
    unlink(at(TRAIN_X));
    size_t n = make_idx(3, 4, 2, 3, 0);
    put_gz(TRAIN_X ".gz", n);
    reopen(spec("idx", "i"), 0, 0);
    FILE *f = fopen(at(TRAIN_X ".gz"), "rb");
    size_t size = fread(gz, 1, sizeof(gz), f);
    fclose(f);
    for (size_t cut = 1; cut < size; ++cut) {
        put(TRAIN_X ".gz", gz, cut);
        REFUSED(IV_CORRUPT, "gz: the file is truncated", spec("idx", "i"), 0, 0);
    }
    put_text(TRAIN_X ".gz", "");
    REFUSED(IV_INVALID, ".gz: the file is empty", spec("idx", "i"), 0, 0);
    memcpy(gz + size, "trailing", 8);
    put(TRAIN_X ".gz", gz, size + 8);
    REFUSED(IV_CORRUPT, "there are bytes after the end", spec("idx", "i"), 0, 0);
    gz[size - 8] ^= 1; /* the checksum */
    put(TRAIN_X ".gz", gz, size);
    REFUSED(IV_CORRUPT, "gzip data is damaged (incorrect data check)", spec("idx", "i"), 0, 0);
    put(TRAIN_X ".gz", file, n);
    REFUSED(IV_CORRUPT, "gzip data is damaged (incorrect header check)", spec("idx", "i"), 0, 0);
    put_gz(TRAIN_X ".gz", n + 1);
    REFUSED(IV_CORRUPT, "there are bytes after the end", spec("idx", "i"), 0, 0);
    put_gz(TRAIN_X ".gz", n - 1);
    REFUSED(IV_CORRUPT, "is truncated", spec("idx", "i"), 0, 0);
    be(file + 4, 1 << 30); /* more than deflate can compress into so few bytes */
    put_gz(TRAIN_X ".gz", n);
    REFUSED(IV_CORRUPT, "the header tells 1073741824 x 2 x 3 bytes", spec("idx", "i"), 0, 0);
}

/* A gzip file may consist of several members. */
static void test_idx_members(void **state)
{
    (void)state;
    put_train(4);
    unlink(at(TRAIN_X));
    size_t n = make_idx(3, 4, 2, 3, 50);
    put_gz(TRAIN_X ".gz", 10);
    gzFile f = gzopen(at(TRAIN_X ".gz"), "ab");
    assert_int_equal(gzwrite(f, file + 10, (unsigned)(n - 10)), (int)(n - 10));
    assert_int_equal(gzclose(f), Z_OK);
    reopen(spec("idx", "i"), 0, 0);
    float x[6];
    int32_t y;
    WORKS(iv_dataset_sample(d, IV_TRAIN, 3, x, &y));
    assert_true(x[5] == 73.0f / 255.0f);
}

#define TEST(f) cmocka_unit_test_teardown(f, destroy)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_uniform),      TEST(test_text),           TEST(test_text_random),
        TEST(test_text_refused), TEST(test_tokens),         TEST(test_tokens_refused),
        TEST(test_idx),          TEST(test_idx_order),      TEST(test_idx_refused),
        TEST(test_idx_damaged),  TEST(test_idx_damaged_gz), TEST(test_idx_members),
    };
    return cmocka_run_group_tests_name("data", tests, temporary_make, temporary_remove);
}
