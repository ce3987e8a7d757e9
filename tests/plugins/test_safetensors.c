/* test_safetensors.c: the checkpoint plugin `safetensors`: round trips, files of other programs,
 * and everything that must be refused: each flipped bit and each cut of a file of ours, and
 * malformed headers one by one.  Failing system calls are in test_safetensors_faults.c. */
#include "st_util.h"

#include <sys/stat.h>

/* Computed by Python's xxhash from the description in st_header.h. */
#define PIN_SELF "4c909f6e087ea93e"
#define PIN_W "4de8d78f7134f4b7"

static unsigned char bytes[4096]; /* contents of all tensors here */

#define T(nm, dt, ...)                                                                             \
    {                                                                                              \
        .name = (nm), .dtype = (dt), .shape = IV_SHAPE(__VA_ARGS__), .data = bytes                 \
    }

static void fill_bytes(void)
{
    for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = (unsigned char)(i * 37 + (i >> 3));
}

static void test_descriptor(void **state)
{
    (void)state;
    const iv_plugin *p = &iv__plugin_safetensors;
    assert_int_equal(p->abi, IV_PLUGIN_ABI);
    assert_int_equal(p->kind, IV_PLUGIN_CHECKPOINT);
    assert_string_equal(p->name, "safetensors");
    assert_string_equal(format()->extension, ".safetensors");
    assert_null(format()->drain);
    void *self = NULL;
    assert_int_equal(p->init(&host, "x", &self), IV_INVALID);
    assert_null(self);
}

static void test_round_trip(void **state)
{
    (void)state;
    const iv_ckpt_tensor tensors[] = {
        T("f32", IV_F32, 2, 3),
        T("f64", IV_F64, 3),
        T("bf16", IV_BF16, 5),
        T("f16", IV_F16, 1, 7),
        T("i32", IV_I32, 4),
        T("i64", IV_I64, 2, 2),
        T("u8", IV_U8, 13),
        T("u16", IV_U16, 3, 1, 1),
        {.name = "scalar", .dtype = IV_F64, .shape = IV_SCALAR, .data = bytes + 11},
        {.name = "empty", .dtype = IV_F32, .shape = IV_SHAPE(0), .data = NULL},
        T("rank6", IV_U8, 1, 2, 1, 2, 1, 2),
        T("", IV_U8, 1),
        T("a \"b\\c/d\"\n\t\x01\x7f", IV_U8, 2),
        T("größe.層.\U0001f600", IV_U8, 3),
        T("__metadata_", IV_U8, 1),
        {.name = "empty2", .dtype = IV_I64, .shape = IV_SHAPE(3, 0, 2)},
    };
    const iv_ckpt_meta meta[] = {
        {"step", "100"},
        {"", ""},
        {"json", "{\"a\": [1, \"\\n\"]}"},
        {"lines", "a\nb\r\n\tc\x1f"},
        {"ключ \"1\"", "\U0001f600 ünï\\u0041"},
        {"invar.xxh3x", "0"},
    };
    const iv_ckpt c =
        CKPT(sizeof(tensors) / sizeof(tensors[0]), sizeof(meta) / sizeof(meta[0]), tensors, meta);
    void *self = open_plugin();
    const char *path = in_folder("round trip.safetensors");
    for (int again = 0; again < 2; ++again) {
        if (format()->save(self, path, &c) != IV_OK) fail_msg("%s", error_text);
        assert_true(holds(self, path, &c));
    }
    size_t n;
    char *s = read_file(path, &n);
    assert_int_equal(s[0] % 8, 0); /* the data is aligned */
    free(s);
    assert_int_equal(format()->detect(self, path), 100);
    close_plugin(self);
}

static void test_large(void **state)
{
    (void)state;
    const int64_t n = 3 * (1 << 20) + 4321; /* several chunks and an odd rest */
    unsigned char *big = malloc((size_t)n);
    for (int64_t i = 0; i < n; ++i) big[i] = (unsigned char)(i * i >> 7);
    const iv_ckpt_tensor t[] = {{.name = "a", .dtype = IV_U8, .shape = IV_SHAPE(n), .data = big},
                                T("b", IV_F32, 9)};
    const iv_ckpt c = CKPT(2, 0, t, NULL);
    void *self = open_plugin();
    const char *path = in_folder("large.safetensors");
    assert_int_equal(format()->save(self, path, &c), IV_OK);
    assert_true(holds(self, path, &c));
    collected got = {.skip_all = 1};
    assert_int_equal(load_file(self, path, &got), IV_OK);
    assert_int_equal(got.n_tensors, 2);
    assert_int_equal(got.n_done, 0);
    collected_free(&got);
    /* A skipped tensor is verified as well. */
    size_t size;
    char *s = read_file(path, &size);
    s[size - 50] ^= 4;
    write_file(path, s, size);
    got = (collected){.skip_all = 1};
    assert_int_equal(load_file(self, path, &got), IV_CORRUPT);
    assert_non_null(strstr(error_text, "tensor \"a\""));
    collected_free(&got);
    free(s);
    free(big);
    close_plugin(self);
}

static void test_nothing_in_it(void **state)
{
    (void)state;
    const iv_ckpt none = CKPT(0, 0, NULL, NULL);
    void *self = open_plugin();
    const char *path = in_folder("none");
    assert_int_equal(format()->save(self, path, &none), IV_OK);
    assert_true(holds(self, path, &none));
    assert_int_equal(format()->detect(self, path), 90);
    assert_int_equal(format()->remove(self, path), IV_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(format()->remove(self, path), IV_OK);
    close_plugin(self);
}

/* The bytes are fixed: they must not change from one version to the next. */
static void test_bytes_are_pinned(void **state)
{
    (void)state;
    static const float x[2] = {1, 2};
    const iv_ckpt_tensor t = {.name = "w", .dtype = IV_F32, .shape = IV_SHAPE(2), .data = x};
    const iv_ckpt_tensor both[] = {t, {.name = "e", .dtype = IV_U8, .shape = IV_SHAPE(0)}};
    const iv_ckpt_meta meta = {"k", "v"};
    const iv_ckpt c = CKPT(2, 1, both, &meta);
    void *self = open_plugin();
    const char *path = in_folder("pinned.safetensors");
    assert_int_equal(format()->save(self, path, &c), IV_OK);
    size_t n;
    char *s = read_file(path, &n);
    static const char want[] =
        "{\"__metadata__\":{\"invar.header_xxh3\":\"" PIN_SELF "\",\"invar.xxh3\":\"" PIN_W
        " 2d06800538d394c2\",\"k\":\"v\"},\"w\":{\"dtype\":\"F32\","
        "\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[8,8]}}";
    assert_int_equal(n % 8, 0);
    s[n] = '\0';
    if (memcmp(s + 8, want, sizeof(want) - 1) != 0) fail_msg("header is %s", s + 8);
    assert_memory_equal(s + n - 8, x, 8);
    free(s);
    close_plugin(self);
}

static void save_small(void *self, const char *path)
{
    const iv_ckpt_tensor t[] = {
        T("w.a", IV_F32, 3),
        T("b", IV_U8, 5),
        {.name = "s", .dtype = IV_I64, .shape = IV_SCALAR, .data = bytes + 99}};
    const iv_ckpt_meta meta[] = {{"invar.step", "7"}, {"q", "\"\\"}};
    const iv_ckpt c = CKPT(3, 2, t, meta);
    assert_int_equal(format()->save(self, path, &c), IV_OK);
}

static void test_every_bit(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("bits.safetensors");
    save_small(self, path);
    size_t n;
    char *s = read_file(path, &n);
    for (size_t bit = 0; bit < n * 8; ++bit) {
        s[bit / 8] = (char)(s[bit / 8] ^ (1 << bit % 8));
        write_file(path, s, n);
        iv_status r = try_load(self, path);
        if (r != IV_CORRUPT)
            fail_msg("bit %zu of byte %zu: status %d, %s", bit % 8, bit / 8, r, error_text);
        s[bit / 8] = (char)(s[bit / 8] ^ (1 << bit % 8));
    }
    write_file(path, s, n);
    assert_int_equal(try_load(self, path), IV_OK);
    free(s);
    close_plugin(self);
}

static void test_every_length(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("cut.safetensors");
    save_small(self, path);
    size_t n;
    char *s = read_file(path, &n), *longer = calloc(1, n + 64);
    memcpy(longer, s, n);
    for (size_t cut = 0; cut < n + 64; ++cut) {
        if (cut == n) continue;
        write_file(path, longer, cut);
        iv_status r = try_load(self, path);
        if (r != IV_CORRUPT) fail_msg("%zu of %zu bytes: status %d, %s", cut, n, r, error_text);
        assert_non_null(strstr(error_text, path));
    }
    free(longer);
    free(s);
    close_plugin(self);
}

static void write_raw(const char *path, const char *header, size_t n_header, size_t data)
{
    char *s = calloc(1, 8 + n_header + data);
    for (int i = 0; i < 8; ++i) s[i] = (char)(n_header >> (8 * i));
    memcpy(s + 8, header, n_header);
    memset(s + 8 + n_header, 0x55, data);
    write_file(path, s, 8 + n_header + data);
    free(s);
}

#define A4 "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}"
static const struct {
    const char *header;
    size_t data;
    const char *text; /* of the error */
} malformed[] = {
    {"", 0, "no JSON object"},
    {" {}", 0, "not '{'"},
    {"[]", 0, "not '{'"},
    {"{", 0, "no JSON object"},
    {"{ ", 0, "not JSON"},
    {"{}x", 0, "no text, integer"},
    {"{}{}", 0, "more text after"},
    {"{}}", 0, "a closing bracket too many"},
    {"{" A4 "]", 4, "not JSON"},
    {"{" A4 ",}", 4, "not JSON"},
    {"{" A4 "}", 3, "describes 4 bytes"},
    {"{" A4 "}", 5, "describes 4 bytes"},
    {"{}", 1, "describes 0 bytes"},
    {"{" A4 "," A4 "}", 4, "\"a\" occurs twice"},
    {"{" A4 ",\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
     "occurs twice"},
    {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype \"F31\""},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype"},
    {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype is not a text"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "shape is not a list"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4,
     "else than integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4,
     "not written as an integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1e0],\"data_offsets\":[0,4]}}", 4,
     "not written as an integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "no text, integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[+1],\"data_offsets\":[0,4]}}", 4, "no text, integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[01],\"data_offsets\":[0,4]}}", 4, "leading zeros"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]}}", 4,
     "not in a tensor's entry"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9007199254740993],\"data_offsets\":[0,4]}}", 4,
     "above 2^53"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
     "more elements than fit"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "need 64 bits"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "need 12 bits"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "run backwards"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "has 1 numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "has 3 numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
     "the one before ends at 0"},
    {"{" A4 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, "begins at 2"},
    {"{" A4 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 12, "begins at 8"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "no data_offsets"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
     "\"x\" is unknown"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
     "\"shape\" occurs twice"},
    {"{\"a\":[0]}", 0, "not in a tensor's entry"},
    {"{\"a\":1}", 0, "not an object"},
    {"{\"a\":null}", 0, "no text, integer"},
    {"{\"a\":{\"b\":{}}}", 0, "inside a tensor's entry"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "\"k\" is not a text"},
    {"{\"__metadata__\":{\"k\":[]}}", 0, "\"k\" is not a text"},
    {"{\"__metadata__\":\"k\"}", 0, "not an object"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "\"k\" occurs twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "occurs twice"},
    {"{\"__metadata__\":{\"k\":\"\xff\"}}", 0, "not UTF-8 at byte 22"},
    {"{\"__metadata__\":{\"k\":\"\xc0\x80\"}}", 0, "not UTF-8"},
    {"{\"__metadata__\":{\"k\":\"\xed\xa0\x80\"}}", 0, "not UTF-8"},
    {"{\"__metadata__\":{\"k\":\"\xf4\x90\x80\x80\"}}", 0, "not UTF-8"},
    {"{\"__metadata__\":{\"k\":\"\xe5\xb1\"}}", 0, "not UTF-8"},
    {"{\"__metadata__\":{\"k\":\"\\u0000\"}}", 0, "NUL character"},
    {"{\"__metadata__\":{\"k\":\"\\u00zz\"}}", 0, "hexadecimal"},
    {"{\"__metadata__\":{\"k\":\"\\ud800\"}}", 0, "not JSON"},
    {"{\"__metadata__\":{\"k\":\"\\x\"}}", 0, "escape"},
    {"{\"__metadata__\":{\"k\":\"\n\"}}", 0, "control character"},
    {"{\"__metadata__\":{\"k\":\"", 0, "does not end"},
    {"{\"__metadata__\":{\"k\":\"\\", 0, "does not end"},
    {"{\v}", 0, "no text, integer"},
    {"{\"__metadata__\":{\"invar.xxh3\":\"\"}}", 0, "not \"invar.header_xxh3\""},
    {"{\"__metadata__\":{\"invar.header_xxh3\":\"0123456789abcdef\"}}", 0, "not \"invar.xxh3\""},
    {"{\"__metadata__\":{\"invar.xxh3\":\"\",\"invar.header_xxh3\":\"0123456789abcdef\"}}", 0,
     "not at its place"},
    {"{\"__metadata__\":{\"invar.header_xxh3\":\"0123456789abcdef\",\"invar.xxh3\":\"\"}}", 0,
     "the file says 0123456789abcdef [hint"},
};

static void test_malformed(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("bad.safetensors");
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); ++i) {
        write_raw(path, malformed[i].header, strlen(malformed[i].header), malformed[i].data);
        error_text[0] = '\0';
        iv_status s = try_load(self, path);
        if (s != IV_CORRUPT || !strstr(error_text, malformed[i].text) || !strstr(error_text, path))
            fail_msg("%s: status %d, %s", malformed[i].header, s, error_text);
    }
    write_raw(path, "{}\0", 3, 0);
    assert_int_equal(try_load(self, path), IV_CORRUPT);
    write_file(path, "\x01\xe1\xf5\x05\0\0\0\0{}", 10); /* 100,000,001 */
    assert_int_equal(try_load(self, path), IV_CORRUPT);
    assert_non_null(strstr(error_text, "limit of 100000000"));
    write_file(path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_int_equal(try_load(self, path), IV_CORRUPT);
    assert_int_equal(format()->detect(self, path), 40);
    close_plugin(self);
}

/* A shape of 65 numbers, and a foreign file with what Invar has no type or rank for. */
static void test_foreign(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("foreign");
    static const char head[] =
        "{\"z\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[5,9]},\r\n\t "
        "\"__metadata__\":{\"format\":\"pt\"},"
        "\"odd\":{\"data_offsets\":[0,1],\"shape\":[1],\"dtype\":\"F8_E4M3\"},"
        "\"deep\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,4],\"data_offsets\":[1,5]},"
        "\"\\u00e9\\ud83d\\ude00\\/\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[9,11]},"
        "\"zero\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[5,5]}}  \n";
    write_raw(path, head, sizeof(head) - 1, 11);
    collected c = {0};
    log_text[0] = '\0';
    if (load_file(self, path, &c) != IV_OK) fail_msg("%s", error_text);
    assert_int_equal(c.n_tensors, 3);
    assert_int_equal(c.n_done, 3);
    assert_string_equal(c.tensor[0].name, "zero");
    assert_string_equal(c.tensor[1].name, "z");
    assert_string_equal(c.tensor[2].name, "é\U0001f600/");
    assert_int_equal(c.n_meta, 1);
    assert_non_null(strstr(log_text, "\"deep\" is skipped"));
    collected_free(&c);
    char long_shape[512] = "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1],\"shape\":[1";
    for (int i = 0; i < 64; ++i) strcat(long_shape, ",1");
    strcat(long_shape, "]}}");
    write_raw(path, long_shape, strlen(long_shape), 1);
    assert_int_equal(try_load(self, path), IV_CORRUPT);
    assert_non_null(strstr(error_text, "too many numbers"));
    close_plugin(self);
}

static void refuse(void *self, const iv_ckpt_tensor *t, const iv_ckpt_meta *m, const char *text)
{
    const iv_ckpt_tensor two[] = {*t, T("twin", IV_U8, 1)};
    const iv_ckpt c = CKPT(2, m ? 1 : 0, two, m);
    iv_status s = format()->save(self, in_folder("refused"), &c);
    if (s != IV_INVALID || !strstr(error_text, text)) fail_msg("status %d: %s", s, error_text);
    assert_int_equal(access(in_folder("refused"), F_OK), -1);
}

static void test_refused_saves(void **state)
{
    (void)state;
    void *self = open_plugin();
    const iv_ckpt_tensor ok = T("ok", IV_U8, 1);
    const iv_ckpt_tensor bad[] = {
        T("twin", IV_U8, 1),
        T("__metadata__", IV_U8, 1),
        T("\xff", IV_U8, 1),
        T(NULL, IV_U8, 1),
        T("t", IV_DTYPE_COUNT, 1),
        T("t", IV_U8, -1),
        T("t", IV_F32, INT64_MAX, 2),
        T("t", IV_F64, 1LL << 40, 1 << 20),
        {.name = "t", .dtype = IV_U8, .shape = {7, {0}}, .data = bytes},
        {.name = "t", .dtype = IV_U8, .shape = {-1, {0}}, .data = bytes},
        {.name = "t", .dtype = IV_U8, .shape = IV_SCALAR, .data = NULL},
    };
    static const char *const text[] = {
        "\"twin\" occurs twice", "cannot be named", "not UTF-8 at byte 0", "is NULL", "dtype 8",
        "makes no size",         "makes no size",   "makes no size",       "rank 7",  "rank -1",
        "1 bytes but no data"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); ++i) refuse(self, &bad[i], NULL, text[i]);
    const iv_ckpt_meta m[] = {
        {"invar.xxh3", "1"}, {"invar.header_xxh3", "1"}, {NULL, "v"}, {"k", NULL}, {"k", "\x80"}};
    static const char *const meta_text[] = {"reserved", "reserved", "key is NULL", "value is NULL",
                                            "UTF-8"};
    for (size_t i = 0; i < sizeof(m) / sizeof(m[0]); ++i) refuse(self, &ok, &m[i], meta_text[i]);
    const iv_ckpt_meta twice[] = {{"k", "1"}, {"k", "2"}};
    const iv_ckpt c = CKPT(0, 2, NULL, twice);
    assert_int_equal(format()->save(self, in_folder("refused"), &c), IV_INVALID);
    assert_int_equal(format()->save(self, in_folder("refused"), NULL), IV_INVALID);
    close_plugin(self);
}

static void test_paths(void **state)
{
    (void)state;
    void *self = open_plugin();
    const iv_ckpt none = CKPT(0, 0, NULL, NULL);
    const char *fifo = in_folder("fifo.safetensors");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const odd[] = {fifo, folder, "/dev/null", "", NULL};
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); ++i) {
        assert_int_equal(try_load(self, odd[i]), IV_INVALID);
        assert_int_equal(format()->save(self, odd[i], &none), IV_INVALID);
        assert_int_equal(format()->remove(self, odd[i]), IV_INVALID);
        assert_int_equal(format()->detect(self, odd[i]), 0);
    }
    assert_int_equal(format()->save(self, "/tmp/", &none), IV_INVALID);
    const char *missing = in_folder("missing.safetensors");
    assert_int_equal(try_load(self, missing), IV_IO);
    assert_non_null(strstr(error_text, missing));
    assert_non_null(strstr(error_text, "No such file"));
    assert_int_equal(format()->detect(self, missing), 50);
    assert_int_equal(format()->save(self, in_folder("no/such"), &none), IV_IO);
    assert_non_null(strstr(error_text, "[hint: check the path"));
    char name[300], path[4200];
    memset(name, 'n', 299);
    name[299] = '\0';
    assert_int_equal(format()->save(self, in_folder(name), &none), IV_IO);
    memset(path, 'p', 4199);
    path[0] = '/';
    path[4199] = '\0';
    assert_int_equal(format()->save(self, path, &none), IV_IO);
    assert_non_null(strstr(error_text, "File name too long"));
    /* A name without a folder means the current one. */
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(format()->save(self, "here.safetensors", &none), IV_OK);
    assert_int_equal(try_load(self, in_folder("here.safetensors")), IV_OK);
    assert_int_equal(chdir("/"), 0);
    close_plugin(self);
}

static void test_sink_stops(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("stop.safetensors");
    save_small(self, path);
    collected c = {.stop_at = 2};
    assert_int_equal(load_file(self, path, &c), IV_INTERRUPTED);
    assert_string_equal(error_text, "enough");
    assert_int_equal(c.n_done, 0); /* all are asked for before the first is read */
    collected_free(&c);
    close_plugin(self);
}

int main(void)
{
    fill_bytes();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_nothing_in_it),
        cmocka_unit_test(test_bytes_are_pinned),
        cmocka_unit_test(test_every_bit),
        cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_refused_saves),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_sink_stops),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
