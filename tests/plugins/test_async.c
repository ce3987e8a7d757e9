/* test_async.c: the plugin async(INNER): what a save holds while its memory is being changed, one
 * save at a time, the order of outcomes, waiting loads and removals, and errors, each told once
 * with its path.  The inner plugin is safetensors, or one here that waits at a gate. */
#include "st_util.h"

#include <pthread.h>
#include <time.h>

extern const iv_plugin iv__plugin_async;

/* ---- an inner plugin that waits at a gate and notes what it was asked ---- */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int open, inside; /* saves let through; saves that arrived */
    char log[4096];
    float seen; /* the first element of the last save */
    iv_status next;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void note(const char *what, const char *path)
{
    pthread_mutex_lock(&gate.lock);
    size_t n = strlen(gate.log);
    snprintf(gate.log + n, sizeof(gate.log) - n, "%s %s;", what, path);
    pthread_mutex_unlock(&gate.lock);
}

static void clear_log(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.log[0] = '\0';
    pthread_mutex_unlock(&gate.lock);
}

static iv_status gate_save(void *self, const char *path, const iv_ckpt *c)
{
    (void)self;
    note("save", path);
    pthread_mutex_lock(&gate.lock);
    ++gate.inside;
    pthread_cond_broadcast(&gate.changed);
    while (gate.open == 0) pthread_cond_wait(&gate.changed, &gate.lock);
    --gate.open;
    gate.seen = ((const float *)c->tensors[0].data)[0];
    iv_status s = gate.next;
    gate.next = IV_OK;
    pthread_mutex_unlock(&gate.lock);
    note("saved", path);
    return s == IV_OK ? s : keep_error(s, "saving checkpoint %s: the disk is full", path);
}

static iv_status gate_load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    (void)self, (void)sink;
    note("load", path);
    return IV_OK;
}

static iv_status gate_remove(void *self, const char *path)
{
    (void)self;
    note("remove", path);
    return IV_OK;
}

static const iv_checkpoint gate_table = {
    .save = gate_save, .load = gate_load, .remove = gate_remove, .extension = ".gate"};

static iv_status give_gate(uint32_t kind, const char *spec, const void **out_vtable,
                           void **out_self)
{
    if (strcmp(spec, "gate") != 0) return give_plugin(kind, spec, out_vtable, out_self);
    *out_vtable = &gate_table;
    *out_self = NULL;
    return IV_OK;
}

static const iv_host gate_host = {IV_PLUGIN_ABI, sizeof(iv_host), keep_error, keep_log, no_env,
                                  NULL,          last_error,      give_gate};

static const iv_checkpoint *table(void)
{
    return iv__plugin_async.vtable;
}

static void *open_async(const char *args)
{
    void *self = NULL;
    assert_int_equal(iv__plugin_async.init(&gate_host, args, &self), IV_OK);
    gate.open = gate.inside = 0;
    gate.log[0] = '\0';
    return self;
}

static void let_through(int n)
{
    pthread_mutex_lock(&gate.lock);
    gate.open += n;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static void wait_inside(int n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.inside < n) pthread_cond_wait(&gate.changed, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

/* ---- what is saved ---- */
enum { ELEMENTS = 300000, TENSORS = 7 };
static float memory[TENSORS][ELEMENTS];

static void fill(float first)
{
    for (int i = 0; i < TENSORS; ++i)
        for (int k = 0; k < ELEMENTS; ++k) memory[i][k] = first + (float)(i * 3 + k % 1000);
}

static iv_ckpt describe(iv_ckpt_tensor t[TENSORS])
{
    static const char *const names[TENSORS] = {"a", "b", "c", "d", "e", "f", "g"};
    for (int i = 0; i < TENSORS; ++i)
        t[i] = (iv_ckpt_tensor){.name = names[i],
                                .dtype = IV_F32,
                                .shape = IV_SHAPE(ELEMENTS - 13 * i),
                                .data = memory[i]};
    return (iv_ckpt)CKPT(TENSORS, 0, t, NULL);
}

/* Whether the file holds what fill(first) made. */
static void holds_filled(void *self, const char *path, float first)
{
    collected got = {0};
    const iv_ckpt_sink sink = {&got, take_meta, take_want, take_done};
    if (table()->load(self, path, &sink) != IV_OK) fail_msg("%s", error_text);
    assert_int_equal(got.n_tensors, TENSORS);
    for (int i = 0; i < TENSORS; ++i)
        for (int k = 0; k < ELEMENTS - 13 * i; ++k) {
            const float x = ((const float *)got.tensor[i].data)[k],
                        want = first + (float)(i * 3 + k % 1000);
            if (x != want) fail_msg("%s: tensor %d element %d is %g, not %g", path, i, k, x, want);
        }
    collected_free(&got);
}

static void told(void *self, const char *path, iv_status status)
{
    const char *p;
    iv_status s = table()->poll(self, &p);
    if (s != status || !path != !p || (p && strcmp(p, path) != 0))
        fail_msg("told %d %s (%s), not %d %s", s, p ? p : "nothing", error_text, status,
                 path ? path : "nothing");
}

/* The memory is changed as soon as release lets it: every save holds one moment only. */
static void test_changed_while_saving(void **state)
{
    (void)state;
    void *self = open_async("");
    iv_ckpt_tensor t[TENSORS];
    const iv_ckpt c = describe(t);
    enum { ROUNDS = 12 };
    for (int r = 0; r < ROUNDS; ++r) {
        char name[32];
        snprintf(name, sizeof(name), "round%d.safetensors", r);
        fill((float)(r * 10));
        assert_int_equal(table()->save(self, in_folder(name), &c), IV_OK);
        if (r % 3 == 0) /* after a while the worker has copied some */
            nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
        for (int i = 0; i < TENSORS; ++i) { /* as an optimizer does, range by range */
            table()->release(self, memory[i], sizeof(memory[i]));
            for (int k = 0; k < ELEMENTS; ++k) memory[i][k] = -1;
        }
    }
    assert_int_equal(table()->drain(self), IV_OK);
    for (int r = 0; r < ROUNDS; ++r) {
        char name[32];
        snprintf(name, sizeof(name), "round%d.safetensors", r);
        holds_filled(self, in_folder(name), (float)(r * 10));
        told(self, in_folder(name), IV_OK);
    }
    told(self, NULL, IV_OK);
    iv__plugin_async.fini(self);
}

/* Releasing a part of a tensor, or what no save has, is fine too. */
static void test_release_of_parts(void **state)
{
    (void)state;
    void *self = open_async("safetensors");
    iv_ckpt_tensor t[TENSORS];
    const iv_ckpt c = describe(t);
    const char *path = in_folder("parts.safetensors");
    table()->release(self, memory, sizeof(memory));
    fill(5);
    assert_int_equal(table()->save(self, path, &c), IV_OK);
    table()->release(self, path, 1);
    for (int k = 0; k + 1000 <= ELEMENTS; k += 1000) {
        table()->release(self, &memory[3][k], 1000 * sizeof(float));
        for (int m = 0; m < 1000; ++m) memory[3][k + m] = -2;
    }
    table()->release(self, memory, sizeof(memory));
    fill(0);
    holds_filled(self, path, 5); /* load waits for the save */
    iv__plugin_async.fini(self);
}

typedef struct call {
    void *self;
    const char *path;
    const iv_ckpt *c;
    iv_status (*remove)(void *self, const char *path);
    int done;
} call;

static void *run_call(void *arg)
{
    call *k = arg;
    if (k->c) table()->save(k->self, k->path, k->c);
    else if (k->remove) k->remove(k->self, k->path);
    else table()->load(k->self, k->path, NULL);
    __atomic_store_n(&k->done, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Whether the call is still under way after a while. */
static bool waits(const call *k)
{
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    return !__atomic_load_n(&k->done, __ATOMIC_SEQ_CST);
}

static void test_order(void **state)
{
    (void)state;
    void *self = open_async("gate");
    iv_ckpt_tensor t[TENSORS];
    const iv_ckpt c = describe(t);
    pthread_t thread;
    fill(1);
    assert_int_equal(table()->save(self, "one", &c), IV_OK);
    wait_inside(1);
    told(self, NULL, IV_OK); /* not before it has ended */
    table()->remove(self, "other");
    table()->release(self, memory, sizeof(memory));
    fill(2);
    /* A second save, a load and a removal of the same path wait. */
    call calls[3] = {{self, "two", &c, NULL, 0},
                     {self, "one", NULL, NULL, 0},
                     {self, "one", NULL, table()->remove, 0}};
    for (int i = 0; i < 3; ++i) {
        clear_log();
        pthread_create(&thread, NULL, run_call, &calls[i]);
        assert_true(waits(&calls[i]));
        assert_string_equal(gate.log, "");
        let_through(1);
        pthread_join(thread, NULL);
        if (i == 0) {
            assert_float_equal(gate.seen, 1, 0);
            wait_inside(2);
            let_through(1);
            table()->drain(self);
            assert_float_equal(gate.seen, 2, 0);
            assert_string_equal(gate.log, "saved one;save two;saved two;");
            told(self, "one", IV_OK);
            told(self, "two", IV_OK);
        }
        if (i == 1) assert_string_equal(gate.log, "saved one;load one;");
        if (i == 2) assert_string_equal(gate.log, "saved one;remove one;");
        told(self, i == 0 ? NULL : "one", IV_OK);
        if (i == 2) break;
        assert_int_equal(table()->save(self, "one", &c), IV_OK);
        wait_inside(3 + i);
    }
    iv__plugin_async.fini(self);
}

static void test_errors(void **state)
{
    (void)state;
    void *self = open_async("gate");
    iv_ckpt_tensor t[TENSORS];
    const iv_ckpt c = describe(t);
    fill(1);
    for (int i = 0; i < 3; ++i) {
        gate.next = i == 1 ? IV_IO : IV_OK;
        assert_int_equal(table()->save(self, i == 0 ? "x" : i == 1 ? "y" : "z", &c), IV_OK);
        let_through(1);
        table()->drain(self);
    }
    error_text[0] = '\0';
    told(self, "x", IV_OK);
    told(self, "y", IV_IO);
    assert_string_equal(error_text, "saving checkpoint y: the disk is full");
    told(self, "z", IV_OK);
    told(self, NULL, IV_OK);
    iv__plugin_async.fini(self);
    /* The real one: a folder that is not there. */
    self = open_async("safetensors");
    const char *path = in_folder("no/such.safetensors");
    assert_int_equal(table()->save(self, path, &c), IV_OK);
    table()->drain(self);
    told(self, path, IV_IO);
    assert_non_null(strstr(error_text, path));
    told(self, NULL, IV_OK);
    iv__plugin_async.fini(self);
}

static void test_opening(void **state)
{
    (void)state;
    void *self = NULL;
    assert_int_equal(iv__plugin_async.init(&gate_host, "nothing", &self), IV_INVALID);
    assert_non_null(strstr(error_text, "nothing"));
    iv_host old = gate_host;
    old.size = offsetof(iv_host, message);
    assert_int_equal(iv__plugin_async.init(&old, "", &self), IV_UNSUPPORTED);
    assert_null(self);
    assert_null(table()->detect);
}

static iv_status read_count(void *ctx, int64_t i, int64_t offset, int64_t bytes, void *dst)
{
    ++*(int *)ctx;
    memcpy(dst, (const char *)memory[i] + offset, (size_t)bytes);
    return IV_OK;
}

/* Memory that only the caller can read is copied before save returns. */
static void test_device_memory(void **state)
{
    (void)state;
    void *self = open_async("");
    iv_ckpt_tensor t[TENSORS];
    iv_ckpt c = describe(t);
    int calls = 0;
    for (int i = 0; i < TENSORS; i += 2) t[i].data = NULL;
    c.read = read_count;
    c.ctx = &calls;
    fill(8);
    const char *path = in_folder("device.safetensors");
    assert_int_equal(table()->save(self, path, &c), IV_OK);
    assert_int_equal(calls, 4);
    table()->release(self, memory, sizeof(memory));
    fill(9);
    holds_filled(self, path, 8);
    iv__plugin_async.fini(self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changed_while_saving),
        cmocka_unit_test(test_release_of_parts),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_opening),
        cmocka_unit_test(test_device_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
