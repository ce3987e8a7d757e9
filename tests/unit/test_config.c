/* test_config.c: the configuration store and its YAML files: every value type, every refusal. */
#include "temporary.h"

#include "file.h"

#include <locale.h>
#include <sys/stat.h>

static iv_config *c;

static int make(void **state)
{
    (void)state;
    return iv_config_new(&c) == IV_OK ? 0 : -1;
}

static int destroy(void **state)
{
    (void)state;
    iv_config_free(c);
    c = NULL;
    return 0;
}

static void test_table(void **state)
{
    (void)state;
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    assert_true(n > 40);
    for (int64_t i = 0; i < n; ++i) {
        assert_false(iv_config_is_set(c, keys[i].key));
        /* The default is a value like any other. */
        WORKS(iv_config_set(c, keys[i].key, keys[i].fallback));
        assert_true(strlen(keys[i].help) > 0);
        assert_true(!keys[i].flag || strncmp(keys[i].flag, "--", 2) == 0);
        for (int64_t k = 0; k < i; ++k) {
            assert_string_not_equal(keys[i].key, keys[k].key);
            if (keys[i].flag && keys[k].flag) assert_string_not_equal(keys[i].flag, keys[k].flag);
        }
    }
    iv_config_free(NULL);
}

static void test_values(void **state)
{
    (void)state;
    assert_string_equal(iv_config_str(c, "model.name"), "gpt");
    assert_int_equal(iv_config_int(c, "model.width"), 128);
    assert_true(iv_config_float(c, "optim.lr") == 1e-3);
    assert_false(iv_config_bool(c, "optim.nesterov"));
    WORKS(iv_config_set(c, "model.width", "+384"));
    assert_int_equal(iv_config_int(c, "model.width"), 384);
    assert_true(iv_config_is_set(c, "model.width"));
    WORKS(iv_config_set(c, "out.save_top_k", "-1"));
    assert_int_equal(iv_config_int(c, "out.save_top_k"), -1);
    WORKS(iv_config_set(c, "train.max_steps", "9007199254740992"));
    assert_true(iv_config_int(c, "train.max_steps") == INT64_C(9007199254740992));
    WORKS(iv_config_set(c, "data.train", "text:/a b/\xc3\xa4"));
    assert_string_equal(iv_config_str(c, "data.train"), "text:/a b/\xc3\xa4");
    WORKS(iv_config_set(c, "data.train", ""));
    assert_string_equal(iv_config_str(c, "data.train"), "");
    /* Another type, or no key at all. */
    assert_string_equal(iv_config_str(c, "model.width"), "");
    assert_string_equal(iv_config_str(c, "nothing"), "");
    assert_int_equal(iv_config_int(c, "optim.lr"), 0);
    assert_true(iv_config_float(c, "model.width") == 0);
    assert_false(iv_config_bool(c, "model.width"));
    assert_false(iv_config_is_set(c, "nothing"));
}

static void test_floats(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0.25", 0.25},     {"1e-8", 1e-8},  {".5", .5},   {"5.", 5},
                {"+3E+2", 300},     {"-0", 0},       {"0e999", 0}, {"1e30", 1e30},
                {"5e-324", 5e-324}, {"00.10", 0.10}, {"0.000", 0}};
    for (int64_t i = 0; i < IV_COUNT(good); ++i) {
        WORKS(iv_config_set(c, "optim.lr", good[i].text));
        assert_memory_equal(&(double){iv_config_float(c, "optim.lr")}, &good[i].value, 8);
    }
    WORKS(iv_config_set(c, "optim.lr", "0.25"));
    static const char *const bad[] = {"",  "nan",   "inf", "-inf", "0x1p3", "1e",    "e5",
                                      ".", "1.2.3", " 1",  "1 ",   "1,5",   "1_000", "1e+",
                                      "-", "+.",    "1f",  "--1",  "1e5.5"};
    for (int64_t i = 0; i < IV_COUNT(bad); ++i)
        FAILS(IV_INVALID, "is not a number (allowed: 0 to 1e+30)",
              iv_config_set(c, "optim.lr", bad[i]));
    FAILS(IV_INVALID, "setting optim.lr: \"1e999\" is out of range",
          iv_config_set(c, "optim.lr", "1e999"));
    FAILS(IV_INVALID, "\"-1\" is out of range", iv_config_set(c, "optim.lr", "-1"));
    FAILS(IV_INVALID, "too small for a 64-bit", iv_config_set(c, "optim.lr", "0.1e-400"));
    FAILS(IV_INVALID, "(allowed: 0 to 0.999999999)", iv_config_set(c, "optim.beta1", "1"));
    assert_true(iv_config_float(c, "optim.lr") == 0.25);
}

static void test_integers(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "1_000", "1e3", "4.0", " 4", "4 ", "0x10", "-", "four"};
    for (int64_t i = 0; i < IV_COUNT(bad); ++i)
        FAILS(IV_INVALID, "is not an integer (allowed: 1 to 1048576)",
              iv_config_set(c, "model.width", bad[i]));
    FAILS(IV_INVALID, "setting model.width: \"0\" is out of range (allowed: 1 to 1048576)",
          iv_config_set(c, "model.width", "0"));
    FAILS(IV_INVALID, "out of range", iv_config_set(c, "model.width", "1048577"));
    FAILS(IV_INVALID, "out of range", iv_config_set(c, "model.width", "99999999999999999999"));
    FAILS(IV_INVALID, "out of range", iv_config_set(c, "train.max_steps", "9007199254740993"));
    assert_int_equal(iv_config_int(c, "model.width"), 128);
    assert_false(iv_config_is_set(c, "model.width"));
}

static void test_booleans(void **state)
{
    (void)state;
    static const char *const yes[] = {"true", "True", "YES", "on", "1"};
    static const char *const no[] = {"false", "FALSE", "no", "Off", "0"};
    for (int64_t i = 0; i < IV_COUNT(yes); ++i) {
        WORKS(iv_config_set(c, "optim.nesterov", yes[i]));
        assert_true(iv_config_bool(c, "optim.nesterov"));
        WORKS(iv_config_set(c, "optim.nesterov", no[i]));
        assert_false(iv_config_bool(c, "optim.nesterov"));
    }
    static const char *const bad[] = {"", "2", "t", "truee", "tru", "y"};
    for (int64_t i = 0; i < IV_COUNT(bad); ++i)
        FAILS(IV_INVALID, "is not a truth value", iv_config_set(c, "optim.nesterov", bad[i]));
}

static void test_texts(void **state)
{
    (void)state;
    FAILS(IV_INVALID, "setting model.name: \"ctn\" is not one of gpt|cnn|mlp",
          iv_config_set(c, "model.name", "ctn"));
    FAILS(IV_INVALID, "[hint: did you mean cosine?]", iv_config_set(c, "optim.schedule", "cosin"));
    FAILS(IV_INVALID, "is not one of", iv_config_set(c, "model.name", ""));
    FAILS(IV_INVALID, "is not one of", iv_config_set(c, "model.name", "gpt|cnn"));
    FAILS(IV_INVALID,
          "setting \"model.widht\": there is no such key [hint: did you mean model.width?]",
          iv_config_set(c, "model.widht", "3"));
    FAILS(IV_INVALID, "did you mean optim.lr?", iv_config_set(c, "lr", "3"));
    FAILS(IV_INVALID, "setting \"zzzzzzzzzz\": there is no such key",
          iv_config_set(c, "zzzzzzzzzz", ""));
    assert_null(strstr(iv_error_message(), "hint"));
    FAILS(IV_INVALID, "no such key", iv_config_set(c, "", "3"));
    FAILS(IV_INVALID, "no such key", iv_config_set(c, "model", "3"));
    char *longest = malloc(100001);
    memset(longest, 'a', 100000);
    longest[100000] = 0;
    FAILS(IV_INVALID, "no such key", iv_config_set(c, longest, "3"));
    FAILS(IV_INVALID, "has 100000 bytes, at most 8192", iv_config_set(c, "out.dir", longest));
    FAILS(IV_INVALID, "aaa...\" is not one of", iv_config_set(c, "model.name", longest));
    longest[8192] = 0;
    WORKS(iv_config_set(c, "out.dir", longest));
    free(longest);
    static const char *const bad[] = {
        "ab\xff", "ab\xc3",        "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80",
        "ab\x80", "ab\xe2\x28\xa1"};
    for (int64_t i = 0; i < IV_COUNT(bad); ++i)
        FAILS(IV_INVALID, "setting out.dir: byte 2 of the text is not UTF-8",
              iv_config_set(c, "out.dir", bad[i]));
}

/* Loads a text as file "c.yaml". */
static iv_status load(const char *text)
{
    return iv_config_load(c, put_text("c.yaml", text));
}

static void test_load(void **state)
{
    (void)state;
    WORKS(load("# a comment\nmodel: {width: 384, name: mlp}\nmodel.heads: 2\n"
               "optim:\n  lr: 3e-4\n  nesterov: yes\nplugins: [./x.so, 'async(a)']\n"
               "device:\n  devices: 2\n\"out\":\n  'dir': |\n    a\n    b\n"));
    assert_int_equal(iv_config_int(c, "model.width"), 384);
    assert_int_equal(iv_config_int(c, "model.heads"), 2);
    assert_string_equal(iv_config_str(c, "model.name"), "mlp");
    assert_true(iv_config_float(c, "optim.lr") == 3e-4);
    assert_true(iv_config_bool(c, "optim.nesterov"));
    assert_string_equal(iv_config_str(c, "plugins"), "./x.so,async(a)");
    assert_string_equal(iv_config_str(c, "device.devices"), "2");
    assert_string_equal(iv_config_str(c, "out.dir"), "a\nb\n");
    assert_false(iv_config_is_set(c, "model.layers"));
    WORKS(load("plugins: []\nout: {}\n"));
    assert_string_equal(iv_config_str(c, "plugins"), "");
    WORKS(load("{}"));
    WORKS(
        load("\xef\xbb\xbfmodel.width: 5\r\n")); /* with a byte order mark, as some editors write */
    assert_int_equal(iv_config_int(c, "model.width"), 5);
}

/* Refused texts with the line and the reason. */
static const struct {
    const char *text, *part;
} refused[] = {
    {"", "c.yaml:1: the file has no settings"},
    {"# only a comment\n", "the file has no settings"},
    {"- a\n", ":1: the document is not a mapping"},
    {"text", ":1: the document is not a mapping"},
    {"---\n", "the document is not a mapping"},
    {"model.width: 4\n---\nmodel.width: 5\n", ":2: a second document"},
    {"model.width: 4\n...\n---\nmodel.width: 5\n", "a second document"},
    {"model.width: 4\nmodel.widht: 5\n", ":2: setting \"model.widht\": there is no such key [hint"},
    {"modle: {width: 4}\n", ":1: setting \"modle\": there is no such key"},
    {"model: {width: {x: 4}}\n", ":1: model.width takes one value, not a mapping"},
    {"model: {model: {width: 4}}\n", ":1: setting \"model.model\": there is no such key"},
    {"model: 4\n", ":1: model is a section"},
    {"model:\n", ":1: model is a section"},
    {"model: [a]\n", ":1: model takes no list"},
    {"model.width: [4]\n", ":1: model.width takes no list"},
    {"\n\nmodel.width: four\n", ":3: setting model.width: \"four\" is not an integer"},
    {"model:\n  width: 0\n", ":2: setting model.width: \"0\" is out of range"},
    {"plugins: [[a]]\n", ":1: an item of a list must be a plain text"},
    {"plugins: [{a: b}]\n", "an item of a list must be a plain text"},
    {"plugins: [~]\n", "an item of a list must be a plain text"},
    {"plugins:\n", ":1: plugins has no value [hint: \"\" is the empty text]"},
    {"plugins: null\n", "plugins has no value"},
    {"plugins: ~\n", "plugins has no value"},
    {"model.width: 4\nmodel: {width: 5}\n", ":2: model.width is given twice, first in line 1"},
    {"model: {width: 5}\nplugins: ''\nmodel: {}\n", ":3: model is given twice, first in line 1"},
    {"plugins: &a x\n", ":1: anchors"},
    {"model: &a {width: 4}\n", ":1: anchors"},
    {"plugins: &a [x]\n", ":1: anchors"},
    {"plugins: *a\n", ":1: aliases"},
    {"*a : b\n", ":1: aliases"},
    {"plugins: !!str x\n", ":1: tags"},
    {"plugins: !x [x]\n", ":1: tags"},
    {"model: !x {}\n", ":1: tags"},
    {"<<: {model.width: 4}\n", "there is no such key"},
    {"? [a]\n: b\n", ":1: a key must be a plain text"},
    {"? {a: b}\n: b\n", ":1: a key must be a plain text"},
    {"'': 4\n", "setting \"\": there is no such key"},
    {"plugins: \"a\\0b\"\n", ":1: a text contains the character NUL"},
    {"\"plug\\0ins\": a\n", ":1: a text contains the character NUL"},
    {"plugins: [\"a\\0b\"]\n", ":1: a text contains the character NUL"},
    {"model: {width: 4\n", "c.yaml:2: "},
    {"model:\n\twidth: 4\n", "c.yaml:2: "},
    {"plugins: \"abc\n", "c.yaml:2: "},
    {"plugins: a\xff\n", "c.yaml: byte "},
    {"a: {b: {c: {d: {e: {f: {g: {h: 1}}}}}}}\n", "there is no such key"},
};

static void test_load_refused(void **state)
{
    (void)state;
    WORKS(iv_config_set(c, "model.width", "77"));
    for (int64_t i = 0; i < IV_COUNT(refused); ++i) {
        FAILS(IV_INVALID, refused[i].part, load(refused[i].text));
        /* Nothing of a refused file stays. */
        assert_int_equal(iv_config_int(c, "model.width"), 77);
    }
}

static void test_load_limits(void **state)
{
    (void)state;
    char *big = malloc((8 << 20) + 1);
    memset(big, ' ', 8 << 20);
    big[8 << 20] = 0;
    FAILS(IV_INVALID, "has 8388608 bytes, at most 4194304", load(big));
    memset(big, '[', 500000);
    big[500000] = 0;
    FAILS(IV_INVALID, "c.yaml:1: ", load(big));
    memcpy(big, "plugins: ", 9);
    FAILS(IV_INVALID, "c.yaml:1: ", load(big));
    memset(big, '{', 500000);
    FAILS(IV_INVALID, "c.yaml:1: ", load(big));
    memset(big, 'k', 500000); /* a key that is very long */
    strcpy(big + 1000, ": 1\n");
    FAILS(IV_INVALID, "c.yaml:1: setting \"kkk", load(big));
    free(big);
    FAILS(IV_IO, "/none.yaml: No such file", iv_config_load(c, at("none.yaml")));
    FAILS(IV_INVALID, "it is a folder", iv_config_load(c, folder_));
}

/* All keys of the two are equal. */
static void same(const iv_config *a, const iv_config *b)
{
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    for (int64_t i = 0; i < n; ++i) {
        const char *k = keys[i].key;
        assert_string_equal(iv_config_str(a, k), iv_config_str(b, k));
        assert_int_equal(iv_config_int(a, k), iv_config_int(b, k));
        assert_memory_equal(&(double){iv_config_float(a, k)}, &(double){iv_config_float(b, k)}, 8);
        assert_int_equal(iv_config_bool(a, k), iv_config_bool(b, k));
    }
}

static void saves_and_loads(void)
{
    iv_config *other = NULL;
    WORKS(iv_config_new(&other));
    WORKS(iv_config_save(c, at("saved.yaml")));
    WORKS(iv_config_load(other, at("saved.yaml")));
    same(c, other);
    iv_config_free(other);
}

static void test_save(void **state)
{
    (void)state;
    saves_and_loads();
    static const char *const texts[] = {
        "",
        " lead and trail ",
        "yes",
        "null",
        "~",
        "- a",
        "a: b",
        "a # b",
        "\"q\" 'r'",
        "back\\slash\\n",
        "tab\tnl\ncr\r",
        "%x",
        "\x01\x1f\x7f",
        "\xc2\x80\xc2\x85\xc2\xa0\xc3\xa4",
        "\xe2\x80\xa8\xe2\x80\xa9 \xef\xbb\xbf",
        "\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf",
        "*a &b !c |",
        "{[",
        "line\n\n  two",
        "a very long text, longer than eighty characters, with spaces that a writer would like to "
        "fold "
        "into several lines, and so on                                    and on",
    };
    for (int64_t i = 0; i < IV_COUNT(texts); ++i) {
        WORKS(iv_config_set(c, "data.train", texts[i]));
        WORKS(iv_config_set(c, "plugins", texts[i]));
        saves_and_loads();
    }
    static const char *const floats[] = {"0.1",  "3.0000000000000004e-7", "5e-324",
                                         "1e30", "0.30000000000000004",   "123456789.125"};
    for (int64_t i = 0; i < IV_COUNT(floats); ++i) {
        WORKS(iv_config_set(c, "optim.lr", floats[i]));
        saves_and_loads();
    }
    /* The largest configuration stays below the limit of a file. */
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    char longest[8193];
    memset(longest, '\x01', 8192);
    longest[8192] = 0;
    for (int64_t i = 0; i < n; ++i)
        if (keys[i].type == IV_CFG_STRING) (void)iv_config_set(c, keys[i].key, longest);
    saves_and_loads();
    FAILS(IV_IO, "No such file", iv_config_save(c, at("none/x.yaml")));
    FAILS(IV_INVALID, "it is a folder", iv_config_save(c, folder_));
}

static void test_save_text(void **state)
{
    (void)state;
    char *text = NULL;
    int64_t n = 0;
    WORKS(iv_config_set(c, "optim.lr", "0.1"));
    WORKS(iv_config_save(c, at("t.yaml")));
    WORKS(iv__file_read(at("t.yaml"), 1 << 20, &text, &n));
    assert_non_null(strstr(text, "model:\n  name: \"gpt\"\n  layers: 4\n"));
    assert_non_null(strstr(text, "\nplugins: \"\"\n"));
    assert_non_null(strstr(text, "\n  lr: 0.1\n"));
    assert_non_null(strstr(text, "\n  nesterov: false\n"));
    free(text);
}

/* Whether a locale with a decimal comma could be set: an installed one, or one made here. */
static bool set_comma_locale(void)
{
    if (setlocale(LC_ALL, "de_DE.UTF-8")) return true;
    char command[256];
    snprintf(command, sizeof(command), "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 2>/dev/null",
             folder_);
    if (system(command) != 0) return false;
    setenv("LOCPATH", folder_, 1);
    return setlocale(LC_ALL, "de_DE.UTF-8") != NULL;
}

/* A program may run under a locale with another decimal point. */
static void test_locale(void **state)
{
    (void)state;
    if (!set_comma_locale()) {
        print_message(
            "skipped: there is no locale with a decimal comma, nor localedef's sources\n");
        skip();
    }
    assert_true(strtod("0,125", NULL) == 0.125);
    WORKS(iv_config_set(c, "optim.lr", "0.125"));
    assert_true(iv_config_float(c, "optim.lr") == 0.125);
    FAILS(IV_INVALID, "(allowed: 0 to 0.999)", iv_config_set(c, "model.dropout", "0,125"));
    saves_and_loads();
    assert_true(strtod("0,125", NULL) == 0.125); /* the program's locale is as it was */
    setlocale(LC_ALL, "C");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make, destroy)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_table),    TEST(test_values), TEST(test_floats),      TEST(test_integers),
        TEST(test_booleans), TEST(test_texts),  TEST(test_load),        TEST(test_load_refused),
        TEST(test_save),     TEST(test_locale), TEST(test_load_limits), TEST(test_save_text),
    };
    return cmocka_run_group_tests_name("config", tests, temporary_make, temporary_remove);
}
