/* test_torch.c: files that PyTorch wrote (tests/ref/torch, made by tests/ref/make_torch.py) hold
 * what their safetensors twins hold; what is written here reads back the same, as a dictionary and
 * in Lightning's layout; nothing in a pickle is executed; damage is found, or changes nothing; and
 * models in several files with Hugging Face's index. */
#include "st_util.h"

#include <sys/stat.h>

extern const iv_plugin iv__plugin_torch, iv__plugin_hf;
#define REF TESTS_DIR "/ref/torch/"

static const iv_checkpoint *torch(void)
{
    return iv__plugin_torch.vtable;
}

static void *open_torch(void)
{
    void *self = NULL;
    assert_int_equal(iv__plugin_torch.init(&host, "", &self), IV_OK);
    return self;
}

static iv_status load_as(const iv_plugin *p, const char *path, collected *c)
{
    const iv_ckpt_sink sink = {c, take_meta, take_want, take_done};
    void *self = NULL;
    assert_int_equal(p->init(&host, "", &self), IV_OK);
    iv_status s = ((const iv_checkpoint *)p->vtable)->load(self, path, &sink);
    p->fini(self);
    return s;
}

static void loads(const iv_plugin *p, const char *path, collected *c)
{
    if (load_as(p, path, c) != IV_OK) fail_msg("%s", error_text);
}

static const iv_ckpt_tensor *tensor_named(const collected *c, const char *name)
{
    for (int i = 0; i < c->n_tensors; ++i)
        if (strcmp(c->tensor[i].name, name) == 0) return &c->tensor[i];
    return NULL;
}

static const char *value_of(const collected *c, const char *key)
{
    for (int i = 0; i < c->n_meta; ++i)
        if (strcmp(c->key[i], key) == 0) return c->value[i];
    return "none";
}

/* Whether both hold the same tensors, in whatever order. */
static bool same_tensors(const collected *a, const collected *b)
{
    if (a->n_tensors != b->n_tensors) return false;
    for (int i = 0; i < a->n_tensors; ++i) {
        const iv_ckpt_tensor *x = &a->tensor[i], *y = tensor_named(b, x->name);
        if (!y || x->dtype != y->dtype || memcmp(&x->shape, &y->shape, sizeof(x->shape)) != 0 ||
            memcmp(x->data, y->data, bytes_of(x)) != 0)
            return false;
    }
    return true;
}

static void test_files_of_torch(void **state)
{
    (void)state;
    static const char *const names[][2] = {{"plain.pt", "plain.safetensors"},
                                           {"nested.pt", "nested.safetensors"}};
    void *self = open_torch();
    for (int i = 0; i < 2; ++i) {
        char a[512], b[512];
        collected x = {0}, y = {0};
        snprintf(a, sizeof(a), REF "%s", names[i][0]);
        snprintf(b, sizeof(b), REF "%s", names[i][1]);
        assert_int_equal(torch()->detect(self, a), 100);
        assert_int_equal(torch()->detect(self, b), 0);
        loads(&iv__plugin_torch, a, &x);
        loads(&iv__plugin_safetensors, b, &y);
        if (!same_tensors(&x, &y)) fail_msg("%s differs from %s", a, b);
        if (i == 1) {
            assert_string_equal(value_of(&x, "epoch"), "3");
            assert_string_equal(value_of(&x, "name"), "a run");
            assert_string_equal(value_of(&x, "rate"), "0.125");
        }
        collected_free(&x);
        collected_free(&y);
    }
    iv__plugin_torch.fini(self);
}

/* state_dict and moments under our names, counters as metadata; buffers have no moments, and the
 * moments of the parameters of equal shape behind them are not mixed up. */
static void test_lightning(void **state)
{
    (void)state;
    collected x = {0}, y = {0};
    loads(&iv__plugin_torch, REF "lightning.ckpt", &x);
    loads(&iv__plugin_safetensors, REF "lightning.safetensors", &y);
    assert_true(same_tensors(&x, &y));
    assert_string_equal(value_of(&x, "invar.step"), "3");
    assert_string_equal(value_of(&x, "lightning.epoch"), "1");
    assert_string_equal(value_of(&x, "lightning.loops.fit_loop.epoch_progress.total.ready"), "3");
    assert_string_equal(value_of(&x, "lightning.param_groups.0.lr"), "0.002");
    collected_free(&y);
    /* And back: what was written reads as the same. */
    iv_ckpt_meta meta[MOST];
    for (int i = 0; i < x.n_meta; ++i) meta[i] = (iv_ckpt_meta){x.key[i], x.value[i]};
    const iv_ckpt c = CKPT(x.n_tensors, x.n_meta, x.tensor, meta);
    const char *path = in_folder("again.ckpt");
    void *self = open_torch();
    assert_int_equal(torch()->save(self, path, &c), IV_OK);
    loads(&iv__plugin_torch, path, &y);
    assert_true(same_tensors(&x, &y));
    assert_string_equal(value_of(&y, "invar.step"), "3");
    assert_string_equal(value_of(&y, "lightning.epoch"), "1");
    assert_string_equal(value_of(&y, "lightning.param_groups.0.betas.0"), "0.80000000000000004");
    collected_free(&x);
    collected_free(&y);
    iv__plugin_torch.fini(self);
}

static void test_round_trip(void **state)
{
    (void)state;
    static const char data[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    const iv_ckpt_tensor t[] = {
        {.name = "a.b", .dtype = IV_F32, .shape = IV_SHAPE(2, 3), .data = data},
        {.name = "bf", .dtype = IV_BF16, .shape = IV_SHAPE(7), .data = data},
        {.name = "scalar", .dtype = IV_I64, .shape = IV_SCALAR, .data = data},
        {.name = "none", .dtype = IV_F64, .shape = IV_SHAPE(3, 0)},
        {.name = "u", .dtype = IV_U8, .shape = IV_SHAPE(1, 2, 1, 3, 1, 2), .data = data}};
    const iv_ckpt c = CKPT(5, 0, t, NULL);
    const char *path = in_folder("own.pt");
    void *self = open_torch();
    collected got = {0};
    for (int again = 0; again < 2; ++again) assert_int_equal(torch()->save(self, path, &c), IV_OK);
    loads(&iv__plugin_torch, path, &got);
    assert_true(same(&got, &c));
    collected_free(&got);
    const iv_ckpt_tensor u16 = {.name = "x", .dtype = IV_U16, .shape = IV_SHAPE(1), .data = data};
    const iv_ckpt bad = CKPT(1, 0, &u16, NULL);
    assert_int_equal(torch()->save(self, path, &bad), IV_UNSUPPORTED);
    loads(&iv__plugin_torch, path, &got); /* still the older one */
    collected_free(&got);
    iv__plugin_torch.fini(self);
}

static void test_nothing_is_executed(void **state)
{
    (void)state;
    collected got = {0};
    assert_int_equal(chdir(folder), 0);
    loads(&iv__plugin_torch, REF "evil.pt", &got);
    assert_int_equal(got.n_tensors, 1);
    assert_string_equal(got.tensor[0].name, "weight");
    assert_int_equal(access("executed", F_OK), -1);
    assert_int_equal(chdir("/"), 0);
    collected_free(&got);
}

/* A changed bit or a cut: refused, or in bytes that mean nothing (padding, dates). */
static void test_damage(void **state)
{
    (void)state;
    static const char *const names[] = {"plain.pt", "nested.pt", "lightning.ckpt"};
    int refused = 0, unchanged = 0;
    for (int i = 0; i < 3; ++i) {
        char path[512];
        size_t size;
        collected whole = {0};
        snprintf(path, sizeof(path), REF "%s", names[i]);
        loads(&iv__plugin_torch, path, &whole);
        char *s = read_file(path, &size);
        const char *copy = in_folder("damaged.pt");
        for (size_t k = 0; k < size; ++k) {
            collected got = {0};
            s[k] = (char)(s[k] ^ (1 << k % 8));
            write_file(copy, s, size);
            const iv_status status = load_as(&iv__plugin_torch, copy, &got);
            s[k] = (char)(s[k] ^ (1 << k % 8));
            if (status != IV_OK) ++refused;
            else if (same_tensors(&got, &whole)) ++unchanged;
            else fail_msg("%s: byte %zu changed, and it loads as something else", names[i], k);
            collected_free(&got);
        }
        for (size_t cut = 0; cut < size; cut += 7) {
            collected got = {0};
            write_file(copy, s, cut);
            assert_int_not_equal(load_as(&iv__plugin_torch, copy, &got), IV_OK);
            collected_free(&got);
        }
        collected_free(&whole);
        free(s);
    }
    print_message("%d changed bytes refused, %d mean nothing\n", refused, unchanged);
    assert_true(refused > unchanged / 2);
}

static void test_hugging_face(void **state)
{
    (void)state;
    static const char data[64] = "some bytes, it does not matter which they are";
    const iv_checkpoint *hf = iv__plugin_hf.vtable;
    const iv_ckpt_tensor t[] = {{.name = "a", .dtype = IV_F32, .shape = IV_SHAPE(4), .data = data},
                                {.name = "b", .dtype = IV_F16, .shape = IV_SHAPE(5), .data = data},
                                {.name = "c", .dtype = IV_U8, .shape = IV_SHAPE(6), .data = data}};
    void *self = NULL, *plain = open_plugin();
    assert_int_equal(iv__plugin_hf.init(&host, "", &self), IV_OK);
    const iv_ckpt all = CKPT(3, 0, t, NULL);
    const char *index = in_folder("m.safetensors.index.json");
    assert_int_equal(hf->save(self, index, &all), IV_OK);
    assert_int_equal(access(in_folder("m-00001-of-00001.safetensors"), F_OK), 0);
    assert_int_equal(hf->detect(self, index), 100);
    collected got = {0};
    loads(&iv__plugin_hf, index, &got);
    assert_true(same(&got, &all));
    collected_free(&got);
    /* Two files, as others cut them; a third tensor of the second one is not in the index. */
    const iv_ckpt first = CKPT(1, 0, t, NULL), rest = CKPT(2, 0, t + 1, NULL);
    assert_int_equal(format()->save(plain, in_folder("x1.safetensors"), &first), IV_OK);
    assert_int_equal(format()->save(plain, in_folder("x2.safetensors"), &rest), IV_OK);
    static const struct {
        const char *text;
        iv_status status;
    } rows[] = {
        {"{\"weight_map\":{\"a\":\"x1.safetensors\",\"c\":\"x2.safetensors\"}}", IV_OK},
        {"{\"weight_map\":{\"a\":\"x1.safetensors\",\"d\":\"x2.safetensors\"}}", IV_CORRUPT},
        {"{\"weight_map\":{\"a\":\"x3.safetensors\"}}", IV_IO},
        {"{\"weight_map\":{\"a\":\"../x1.safetensors\"}}", IV_CORRUPT},
        {"{\"weight_map\":{\"a\":3}}", IV_CORRUPT},
        {"{\"weight_map\":[]}", IV_CORRUPT},
        {"{", IV_CORRUPT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        write_file(index, rows[i].text, strlen(rows[i].text));
        const iv_status s = load_as(&iv__plugin_hf, index, &got);
        if (s != rows[i].status) fail_msg("%s: %d %s", rows[i].text, s, error_text);
        if (i == 0) assert_int_equal(got.n_tensors, 2);
        collected_free(&got);
    }
    iv__plugin_hf.fini(self);
    close_plugin(plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files_of_torch), cmocka_unit_test(test_lightning),
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_nothing_is_executed),
        cmocka_unit_test(test_damage),         cmocka_unit_test(test_hugging_face),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
