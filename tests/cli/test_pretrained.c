/* test_pretrained.c: checkpoints of a gpt are files of Hugging Face's GPT-2: its names and layouts
 * in, and out.  The file is taken apart and written here by the format's definition (8 bytes of
 * length, a JSON header, the data), not by the library. */
#include "unit/temporary.h"

#include <cJSON.h>
#include <sys/wait.h>

#define MODEL                                                                                      \
    "--data text:text.txt --json --set model.layers=1 --set model.heads=2 --set model.width=16 "   \
    "--set model.context=8 --batch 4 --set eval.batches=2 "

/* GPT-2's tensors at this size; matrices are [in, out], as its Conv1D keeps them. */
static const struct {
    const char *name, *shape;
    int64_t count;
} gpt2[] = {
    {"wte.weight", "[256,16]", 256 * 16},
    {"wpe.weight", "[8,16]", 8 * 16},
    {"h.0.ln_1.weight", "[16]", 16},
    {"h.0.ln_1.bias", "[16]", 16},
    {"h.0.attn.c_attn.weight", "[16,48]", 16 * 48},
    {"h.0.attn.c_attn.bias", "[48]", 48},
    {"h.0.attn.c_proj.weight", "[16,16]", 16 * 16},
    {"h.0.attn.c_proj.bias", "[16]", 16},
    {"h.0.ln_2.weight", "[16]", 16},
    {"h.0.ln_2.bias", "[16]", 16},
    {"h.0.mlp.c_fc.weight", "[16,64]", 16 * 64},
    {"h.0.mlp.c_fc.bias", "[64]", 64},
    {"h.0.mlp.c_proj.weight", "[64,16]", 64 * 16},
    {"h.0.mlp.c_proj.bias", "[16]", 16},
    {"ln_f.weight", "[16]", 16},
    {"ln_f.bias", "[16]", 16},
};
enum { TENSORS = IV_COUNT(gpt2), MOST = 1 << 20 };

static char file_[MOST]; /* the run's checkpoint */
static cJSON *header_;
static const char *data_;
static char hash_[33]; /* of the run's parameters */

/* Runs `invar train ARGS`; its status, and the last line of its output in `out`, of faults in err.
 */
static int train(const char *args, char *out, size_t size, const char *from)
{
    char command[2048];
    snprintf(command, sizeof(command),
             "cd '%s' && '%s' train %s >out.txt 2>err.txt; status=$?; tail -n 1 %s >last.txt; exit "
             "$status",
             folder_, INVAR_CLI, args, from);
    const int status = system(command);
    FILE *f = fopen(at("last.txt"), "rb");
    assert_non_null(f);
    out[fread(out, 1, size - 1, f)] = 0;
    fclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void hash_of(const char *args, char hash[33])
{
    char line[1024];
    if (train(args, line, sizeof(line), "out.txt") != 0) fail_msg("invar train %s failed", args);
    cJSON *o = cJSON_Parse(line);
    snprintf(hash, 33, "%s", cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, "hash")));
    cJSON_Delete(o);
}

static void names_and_layouts(void **state)
{
    int known = 0;
    (void)state;
    for (int i = 0; i < TENSORS; ++i) {
        const cJSON *t = cJSON_GetObjectItemCaseSensitive(header_, gpt2[i].name);
        if (!t) fail_msg("the checkpoint lacks %s", gpt2[i].name);
        char *shape = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(t, "shape"));
        assert_string_equal(shape, gpt2[i].shape);
        assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(t, "dtype")),
                            "F32");
        free(shape);
        ++known;
    }
    for (const cJSON *t = header_->child; t; t = t->next)
        if (strncmp(t->string, "optim.", 6) != 0 && strcmp(t->string, "__metadata__") != 0) --known;
    assert_int_equal(known, 0); /* nothing beside them */
}

/* Writes the parameters as Hugging Face would: other order, `prefix`, the mask and the tied head
 * beside them.  Tensor `without` is left out, `flat` gets one dimension. */
static void write_pretrained(const char *name, const char *prefix, int without, int flat)
{
    static const float mask[64];
    cJSON *h = cJSON_CreateObject(), *meta = cJSON_AddObjectToObject(h, "__metadata__");
    FILE *f = fopen(at(name), "wb"), *body = fopen(at("body"), "w+b");
    assert_true(f && body);
    cJSON_AddStringToObject(meta, "format", "pt");
    for (int i = TENSORS + 1; i >= 0; --i) {
        const int k = i == TENSORS ? 0 : i; /* TENSORS: lm_head.weight, the same as wte.weight */
        char full[96];
        if (i == without) continue;
        snprintf(full, sizeof(full), "%s%s", i == TENSORS ? "" : prefix,
                 i > TENSORS    ? "h.0.attn.bias"
                 : i == TENSORS ? "lm_head.weight"
                                : gpt2[k].name);
        cJSON *t = cJSON_AddObjectToObject(h, full), *at_ = cJSON_CreateArray();
        cJSON_AddStringToObject(t, "dtype", "F32");
        const int64_t n = i > TENSORS ? 64 : gpt2[k].count;
        if (i > TENSORS) cJSON_AddItemToObject(t, "shape", cJSON_Parse("[1,1,8,8]"));
        else if (i == flat)
            cJSON_AddItemToObject(t, "shape", cJSON_CreateIntArray((int[]){(int)n}, 1));
        else cJSON_AddItemToObject(t, "shape", cJSON_Parse(gpt2[k].shape));
        cJSON_AddItemToArray(at_, cJSON_CreateNumber((double)ftell(body)));
        const char *from = (const char *)mask;
        if (i <= TENSORS) {
            const cJSON *old = cJSON_GetObjectItemCaseSensitive(header_, gpt2[k].name);
            from = data_ + (size_t)cJSON_GetNumberValue(cJSON_GetArrayItem(
                               cJSON_GetObjectItemCaseSensitive(old, "data_offsets"), 0));
        }
        assert_int_equal(fwrite(from, 4, (size_t)n, body), n);
        cJSON_AddItemToArray(at_, cJSON_CreateNumber((double)ftell(body)));
        cJSON_AddItemToObject(t, "data_offsets", at_);
    }
    char *text = cJSON_PrintUnformatted(h), buffer[4096];
    const uint64_t length = strlen(text);
    fwrite(&length, 8, 1, f);
    fwrite(text, 1, length, f);
    rewind(body);
    for (size_t n; (n = fread(buffer, 1, sizeof(buffer), body)) > 0;) fwrite(buffer, 1, n, f);
    fclose(body);
    assert_int_equal(fclose(f), 0);
    free(text);
    cJSON_Delete(h);
}

/* Whether the last run's standard error has this text. */
static bool says(const char *text)
{
    static char all[1 << 16];
    FILE *f = fopen(at("err.txt"), "rb");
    assert_non_null(f);
    all[fread(all, 1, sizeof(all) - 1, f)] = 0;
    fclose(f);
    return strstr(all, text) != NULL;
}

static void begins_with_them(void **state)
{
    static const char *const prefixes[] = {"", "transformer."};
    char hash[33];
    (void)state;
    for (int i = 0; i < 2; ++i) {
        write_pretrained("hf.safetensors", prefixes[i], -1, -1);
        hash_of(MODEL "--max-steps 1 --lr 0 --seed 9 --set model.init=hf.safetensors", hash);
        assert_string_equal(hash, hash_);
        assert_true(says("2 tensors that the model does not have are left out: "));
        assert_true(says("h.0.attn.bias, lm_head.weight"));
    }
}

static void what_does_not_fit(void **state)
{
    char said[1024];
    (void)state;
    write_pretrained("hf.safetensors", "", 15, -1);
    assert_int_equal(
        train(MODEL "--max-steps 1 --set model.init=hf.safetensors", said, sizeof(said), "err.txt"),
        2);
    if (!strstr(said, "lacks tensor ln_f.bias")) fail_msg("said: %s", said);
    write_pretrained("hf.safetensors", "", -1, 4);
    assert_int_equal(
        train(MODEL "--max-steps 1 --set model.init=hf.safetensors", said, sizeof(said), "err.txt"),
        2);
    if (!strstr(said, "[768] in the file and [16,48] in the model")) fail_msg("said: %s", said);
}

static int make_run(void **state)
{
    char text[2048];
    uint64_t length;
    if (temporary_make(state) != 0) return -1;
    for (size_t i = 0; i < sizeof(text) - 1; ++i) text[i] = "In the beginning. "[i * i % 18];
    text[sizeof(text) - 1] = 0;
    put_text("text.txt", text);
    hash_of(MODEL "--max-steps 3 --out run", hash_);
    FILE *f = fopen(at("run/checkpoints/step-000000000003.safetensors"), "rb");
    if (!f) return -1;
    const size_t n = fread(file_, 1, sizeof(file_), f);
    fclose(f);
    memcpy(&length, file_, 8);
    if (n == MOST || length > n) return -1;
    header_ = cJSON_ParseWithLength(file_ + 8, length);
    data_ = file_ + 8 + length;
    return header_ ? 0 : -1;
}

static int remove_run(void **state)
{
    cJSON_Delete(header_);
    return temporary_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_layouts),
        cmocka_unit_test(begins_with_them),
        cmocka_unit_test(what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, make_run, remove_run);
}
