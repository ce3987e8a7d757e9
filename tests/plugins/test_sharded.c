/* test_sharded.c: the plugin `sharded`: folders that 1 to 5 ranks (threads here, each with its own
 * instance) write together and that anybody loads; parts, shared tensors and device memory; saves
 * that a rank does not take part in or fails; damage; and the staging wrappers hpu and xla. */
#include "st_util.h"

#include "../../checkpoint/sharded.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

extern const iv_plugin iv__plugin_hpu_checkpoint, iv__plugin_xla_checkpoint;

enum { TENSORS = 5, MOST_RANKS = 5 };
static float data_a[1000], data_b[7], data_c[1];
static unsigned char data_d[333];
static iv_ckpt_tensor tensors[TENSORS];
static const iv_ckpt_meta pairs[] = {{"invar.step", "12"}, {"text", "two\nlines \"x\""}};

static void fill(int seed)
{
    for (int i = 0; i < 1000; ++i) data_a[i] = (float)(seed * 1000 + i);
    for (int i = 0; i < 7; ++i) data_b[i] = (float)(seed + i);
    data_c[0] = (float)seed / 3;
    for (int i = 0; i < 333; ++i) data_d[i] = (unsigned char)(seed * 7 + i);
    const iv_ckpt_tensor all[TENSORS] = {
        {.name = "a", .dtype = IV_F32, .shape = IV_SHAPE(10, 100), .data = data_a},
        {.name = "b[0:3]", .dtype = IV_F32, .shape = IV_SHAPE(7), .data = data_b}, /* a mean name */
        {.name = "scalar", .dtype = IV_F32, .shape = IV_SCALAR, .data = data_c},
        {.name = "empty", .dtype = IV_I64, .shape = IV_SHAPE(0, 3)},
        {.name = "bytes and spaces", .dtype = IV_U8, .shape = IV_SHAPE(3, 111), .data = data_d}};
    memcpy(tensors, all, sizeof(all));
}

static iv_ckpt whole(void)
{
    iv_ckpt c = CKPT(TENSORS, 2, tensors, pairs);
    return c;
}

static const iv_checkpoint *table(void)
{
    return iv__plugin_sharded.vtable;
}

static void *open_rank(int rank, int ranks, const char *args)
{
    void *self = NULL;
    assert_int_equal(iv__plugin_sharded.init(&host, args, &self), IV_OK);
    assert_int_equal(table()->join(self, &(iv_ckpt_group){rank, ranks, rank}), IV_OK);
    return self;
}

typedef struct rank_job {
    int rank, ranks;
    const char *path, *args;
    iv_ckpt c;
    iv_ckpt_tensor tensors[TENSORS];
    iv_ckpt_part parts[TENSORS];
    iv_status status;
    char text[4096];
} rank_job;

static void *run_rank(void *arg)
{
    rank_job *j = arg;
    void *self = open_rank(j->rank, j->ranks, j->args);
    j->status = table()->save(self, j->path, &j->c);
    snprintf(j->text, sizeof(j->text), "%s", j->status == IV_OK ? "" : error_text);
    iv__plugin_sharded.fini(self);
    return NULL;
}

/* Gives rank r its parts of every tensor: unequal ones, some of them nothing. */
static void divide(rank_job *j)
{
    static const int64_t edges[TENSORS][MOST_RANKS] = {{0, 10, 300, 300, 999},
                                                       {0, 0, 2, 7, 7},
                                                       {0, 1, 1, 1, 1},
                                                       {0, 0, 0, 0, 0},
                                                       {0, 5, 6, 200, 333}};
    for (int i = 0; i < TENSORS; ++i) {
        const iv_ckpt_tensor *t = &tensors[i];
        const int64_t all = iv__shard_count(t), each = t->dtype == IV_F32 ? 4 : 1;
        j->parts[i].begin = edges[i][j->rank];
        j->parts[i].end = j->rank + 1 < j->ranks ? edges[i][j->rank + 1] : all;
        j->tensors[i] = *t;
        if (t->data) j->tensors[i].data = (const char *)t->data + j->parts[i].begin * each;
    }
    j->c.tensors = j->tensors;
    j->c.parts = j->parts;
}

static rank_job jobs[MOST_RANKS];

/* Saves on `ranks` ranks but those in the mask `absent`. */
static void save_on(int ranks, const char *path, uint64_t id, bool divided, unsigned absent,
                    const char *args)
{
    pthread_t threads[MOST_RANKS];
    for (int r = 0; r < ranks; ++r) {
        jobs[r] = (rank_job){.rank = r, .ranks = ranks, .path = path, .args = args, .c = whole()};
        jobs[r].c.id = id;
        if (divided) divide(&jobs[r]);
        if (!(absent >> r & 1)) pthread_create(&threads[r], NULL, run_rank, &jobs[r]);
    }
    for (int r = 0; r < ranks; ++r)
        if (!(absent >> r & 1)) pthread_join(threads[r], NULL);
}

static void all_saved(int ranks)
{
    for (int r = 0; r < ranks; ++r)
        if (jobs[r].status != IV_OK) fail_msg("rank %d: %d %s", r, jobs[r].status, jobs[r].text);
}

static iv_status load_with(void *self, const char *path, collected *got)
{
    return table()->load(self, path, &(iv_ckpt_sink){got, take_meta, take_want, take_done});
}

static void holds_filled(const char *path, int seed)
{
    collected got = {0};
    void *self = open_rank(0, 1, "");
    assert_int_equal(table()->detect(self, path), 100);
    if (load_with(self, path, &got) != IV_OK) fail_msg("%s", error_text);
    fill(seed);
    const iv_ckpt want = whole();
    assert_true(same(&got, &want));
    assert_int_equal(got.n_done, TENSORS);
    collected_free(&got);
    iv__plugin_sharded.fini(self);
}

static int count_in(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void test_any_number_of_ranks(void **state)
{
    (void)state;
    for (int divided = 0; divided < 2; ++divided)
        for (int ranks = 1; ranks <= MOST_RANKS; ++ranks) {
            char name[64];
            snprintf(name, sizeof(name), "ranks%d-%d", ranks, divided);
            fill(ranks);
            save_on(ranks, in_folder(name), 77, divided, 0, "");
            all_saved(ranks);
            holds_filled(in_folder(name), ranks);
            assert_int_equal(count_in(in_folder(name)), ranks + 1); /* notes are gone */
        }
}

/* Shared tensors are written once: an equal share by each rank. */
static void test_shares(void **state)
{
    (void)state;
    const char *path = in_folder("shares");
    off_t most = 0, least = 1 << 30;
    fill(1);
    save_on(4, path, 5, false, 0, "");
    all_saved(4);
    for (int r = 0; r < 4; ++r) {
        char name[128];
        struct stat st;
        snprintf(name, sizeof(name), "shares/0000000000000005-%04d.safetensors", r);
        assert_int_equal(stat(in_folder(name), &st), 0);
        most = st.st_size > most ? st.st_size : most;
        least = st.st_size < least ? st.st_size : least;
    }
    /* 4365 bytes in all, and headers of a few hundred */
    if (most > 4365 / 4 + 500 || least < 4365 / 4)
        fail_msg("%ld to %ld bytes", (long)least, (long)most);
}

static iv_status read_device(void *ctx, int64_t i, int64_t offset, int64_t bytes, void *dst)
{
    const iv_ckpt_tensor *t = ctx;
    memcpy(dst, (const char *)t[i].data + offset, (size_t)bytes);
    return IV_OK;
}

static void test_device_memory(void **state)
{
    (void)state;
    const char *path = in_folder("device");
    fill(3);
    for (int divided = 0; divided < 2; ++divided) {
        pthread_t threads[3];
        static iv_ckpt_tensor real[3][TENSORS];
        for (int r = 0; r < 3; ++r) {
            jobs[r] = (rank_job){.rank = r, .ranks = 3, .path = path, .args = "", .c = whole()};
            jobs[r].c.id = (uint64_t)(20 + divided);
            if (divided) divide(&jobs[r]);
            else {
                memcpy(jobs[r].tensors, tensors, sizeof(tensors));
                jobs[r].c.tensors = jobs[r].tensors;
            }
            memcpy(real[r], jobs[r].tensors, sizeof(tensors));
            for (int i = 0; i < TENSORS; ++i) jobs[r].tensors[i].data = NULL;
            jobs[r].c.read = read_device;
            jobs[r].c.ctx = real[r];
            pthread_create(&threads[r], NULL, run_rank, &jobs[r]);
        }
        for (int r = 0; r < 3; ++r) pthread_join(threads[r], NULL);
        all_saved(3);
        holds_filled(path, 3);
    }
}

static void test_over_an_older_one(void **state)
{
    (void)state;
    const char *path = in_folder("twice");
    fill(1);
    save_on(3, path, 1, false, 0, "");
    fill(2);
    save_on(2, path, 2, true, 0, "");
    all_saved(2);
    holds_filled(path, 2);
    assert_int_equal(count_in(path), 3);
    void *self = open_rank(0, 1, "");
    assert_int_equal(table()->remove(self, path), IV_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(table()->remove(self, path), IV_OK);
    iv__plugin_sharded.fini(self);
}

/* A rank that does not take part: the others end with an error, and the older one stays. */
static void test_missing_rank(void **state)
{
    (void)state;
    const char *path = in_folder("missing");
    fill(1);
    save_on(3, path, 1, false, 0, "");
    for (int absent = 0; absent < 3; ++absent) {
        fill(2);
        save_on(3, path, (uint64_t)(10 + absent), false, 1u << absent, "timeout=0.3");
        for (int r = 0; r < 3; ++r) {
            if (r == absent) continue;
            if (jobs[r].status != IV_TIMEOUT && jobs[r].status != IV_IO)
                fail_msg("rank %d: %d %s", r, jobs[r].status, jobs[r].text);
            assert_non_null(strstr(jobs[r].text, path));
            if (r == 0) {
                char who[32];
                snprintf(who, sizeof(who), "rank %d of 3", absent);
                assert_int_equal(jobs[r].status, IV_TIMEOUT);
                assert_non_null(strstr(jobs[r].text, who));
            }
        }
        holds_filled(path, 1);
    }
    fill(4);
    save_on(3, path, 40, false, 0, "");
    all_saved(3);
    holds_filled(path, 4);
    assert_int_equal(count_in(path), 4); /* what the failed saves had left is gone */
}

/* A rank whose save fails (its parts are wrong) tells rank 0 why. */
static void test_failing_rank(void **state)
{
    (void)state;
    const char *path = in_folder("failing");
    fill(1);
    save_on(2, path, 1, true, 0, "");
    for (int bad = 0; bad < 2; ++bad) {
        pthread_t threads[2];
        fill(2);
        for (int r = 0; r < 2; ++r) {
            jobs[r] =
                (rank_job){.rank = r, .ranks = 2, .path = path, .args = "timeout=20", .c = whole()};
            jobs[r].c.id = (uint64_t)(5 + bad);
            divide(&jobs[r]);
            if (r == bad) jobs[r].parts[0].end = 5000;
            pthread_create(&threads[r], NULL, run_rank, &jobs[r]);
        }
        for (int r = 0; r < 2; ++r) pthread_join(threads[r], NULL);
        assert_int_equal(jobs[bad].status, IV_INVALID);
        assert_int_equal(jobs[1 - bad].status, IV_IO);
        if (bad == 1) assert_non_null(strstr(jobs[0].text, "of 1000"));
        holds_filled(path, 1);
    }
}

/* Every changed bit and every cut of every file is found; so is a file of another save. */
static void test_damage(void **state)
{
    (void)state;
    const char *path = in_folder("damage"), *other = in_folder("other");
    void *self = open_rank(0, 1, "");
    fill(1);
    save_on(2, path, 1, false, 0, "");
    fill(2);
    save_on(2, other, 1, false, 0, "");
    char names[8][256];
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') snprintf(names[n++], 256, "%s", e->d_name);
    closedir(d);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; ++i) {
        char file[300];
        snprintf(file, sizeof(file), "damage/%.255s", names[i]);
        const char *in = in_folder(file);
        size_t size;
        char *s = read_file(in, &size);
        for (size_t k = 0; k < size; k += 1 + k % 3) {
            collected got = {0};
            s[k] = (char)(s[k] ^ (1 << k % 8));
            write_file(in, s, size);
            if (load_with(self, path, &got) != IV_CORRUPT)
                fail_msg("%s, byte %zu: %s", names[i], k, error_text);
            collected_free(&got);
            s[k] = (char)(s[k] ^ (1 << k % 8));
        }
        for (size_t cut = 0; cut < size; cut += 1 + cut / 8) {
            collected got = {0};
            write_file(in, s, cut);
            assert_int_equal(load_with(self, path, &got), IV_CORRUPT);
            collected_free(&got);
        }
        snprintf(file, sizeof(file), "other/%.255s", names[i]);
        size_t other_size;
        char *o = read_file(in_folder(file), &other_size);
        collected got = {0};
        write_file(in, o, other_size);
        const iv_status status = load_with(self, path, &got);
        if (status != IV_CORRUPT) fail_msg("%s of another save: %d", names[i], status);
        collected_free(&got);
        unlink(in);
        assert_int_not_equal(load_with(self, path, &got), IV_OK);
        collected_free(&got);
        write_file(in, s, size);
        free(o);
        free(s);
    }
    holds_filled(path, 1);
    iv__plugin_sharded.fini(self);
}

static void test_paths(void **state)
{
    (void)state;
    void *self = open_rank(0, 1, "");
    iv_ckpt c = whole();
    const char *file = in_folder("file");
    write_file(file, "x", 1);
    assert_int_equal(table()->save(self, file, &c), IV_INVALID);
    assert_int_equal(table()->save(self, in_folder("no/folder"), &c), IV_IO);
    assert_int_equal(table()->save(self, "", &c), IV_INVALID);
    assert_int_equal(table()->detect(self, file), 0);
    assert_int_equal(table()->detect(self, in_folder("nothing")), 0);
    assert_int_equal(mkdir(in_folder("bare"), 0777), 0);
    assert_int_equal(table()->detect(self, in_folder("bare")), 10);
    collected got = {0};
    assert_int_equal(load_with(self, in_folder("bare"), &got), IV_IO);
    assert_int_equal(table()->remove(self, file), IV_INVALID);
    assert_int_equal(iv__plugin_sharded.init(&host, "x", &self), IV_INVALID);
    assert_int_equal(table()->join(self, &(iv_ckpt_group){2, 2, 0}), IV_INVALID);
    iv__plugin_sharded.fini(self);
}

/* hpu and xla: device memory arrives as host memory; who writes. */
static void test_staged(void **state)
{
    (void)state;
    const iv_plugin *const plugins[] = {&iv__plugin_hpu_checkpoint, &iv__plugin_xla_checkpoint};
    for (int k = 0; k < 2; ++k)
        for (int rank = 0; rank < 3; ++rank) {
            const iv_checkpoint *t = plugins[k]->vtable;
            void *self = NULL, *plain = open_plugin();
            iv_ckpt_tensor device[TENSORS];
            iv_ckpt c = whole();
            fill(6);
            memcpy(device, tensors, sizeof(device));
            for (int i = 0; i < TENSORS; i += 2) device[i].data = NULL;
            c.tensors = device;
            c.read = read_device;
            c.ctx = tensors;
            const char *path = in_folder("staged.safetensors");
            unlink(path);
            assert_int_equal(plugins[k]->init(&host, rank ? "safetensors" : "", &self), IV_OK);
            /* rank 1 is the first of the second host */
            assert_int_equal(t->join(self, &(iv_ckpt_group){rank, 3, rank == 2}), IV_OK);
            assert_int_equal(t->save(self, path, &c), IV_OK);
            const bool writes = rank == 0 || (k == 1 && rank == 1);
            assert_int_equal(access(path, F_OK) == 0, writes);
            c.tensors = tensors;
            if (writes) assert_true(holds(plain, path, &c));
            assert_int_equal(t->remove(self, path), IV_OK);
            assert_int_equal(access(path, F_OK), -1);
            assert_null(t->detect);
            plugins[k]->fini(self);
            close_plugin(plain);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_ranks),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_device_memory),
        cmocka_unit_test(test_over_an_older_one),
        cmocka_unit_test(test_missing_rank),
        cmocka_unit_test(test_failing_rank),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_staged),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
