/* fuzz_config.c: arbitrary bytes as a configuration file, and as values (libFuzzer).
 *
 * The first byte chooses: even, the rest is the YAML file; odd, it is a list of key numbers and
 * texts for iv_config_set.  What was accepted must survive saving and loading unchanged. */
#include "input.h"

static void must(iv_status s)
{
    if (s == IV_OK) return;
    fprintf(stderr, "unexpected: %s\n", iv_error_message());
    abort();
}

static void check_same(const iv_config *a, const iv_config *b)
{
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    for (int64_t i = 0; i < n; ++i) {
        const char *k = keys[i].key;
        double fa = iv_config_float(a, k), fb = iv_config_float(b, k);
        if (strcmp(iv_config_str(a, k), iv_config_str(b, k)) != 0) abort();
        if (iv_config_int(a, k) != iv_config_int(b, k)) abort();
        if (iv_config_bool(a, k) != iv_config_bool(b, k)) abort();
        if (memcmp(&fa, &fb, sizeof(fa)) != 0) abort();
    }
}

static void check_round_trip(const iv_config *c)
{
    static char path[128];
    if (!*path) snprintf(path, sizeof(path), "%s/saved.yaml", input_folder());
    iv_config *other = NULL;
    must(iv_config_new(&other));
    must(iv_config_save(c, path));
    must(iv_config_load(other, path));
    check_same(c, other);
    iv_config_free(other);
}

static void set_values(iv_config *c, input *in)
{
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    while (in->n > 0) {
        int64_t i = input_byte(in) % (n + 1);
        input part = input_part(in);
        char *text = malloc(part.n + 1);
        if (!text) abort();
        if (part.n > 0) memcpy(text, part.data, part.n);
        text[part.n] = 0;
        /* One past the last key: the text is taken for a key. */
        (void)iv_config_set(c, i < n ? keys[i].key : text, i < n ? text : "1");
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static input_file file;
    input in = {data, n};
    bool is_file = input_byte(&in) % 2 == 0;
    iv_config *c = NULL, *untouched = NULL;
    must(iv_config_new(&c));
    must(iv_config_new(&untouched));
    iv_status s = IV_OK;
    if (is_file) s = iv_config_load(c, input_put(&file, in.data, in.n));
    else set_values(c, &in);
    if (s == IV_OK) check_round_trip(c);
    else check_same(c, untouched);
    if (s == IV_INTERNAL || s == IV_NO_MEMORY || s == IV_IO) must(s);
    iv_config_free(c);
    iv_config_free(untouched);
    return 0;
}
