/* test_crash.c: every state that a crash during a save may leave, for every checkpoint plugin: the
 * previous checkpoint or the new one loads whole, nothing loads with other contents, and a save
 * that has ended well is there whatever happens after it.
 *
 * Saves run on a file system in memory (memfs.h).  For each number of operations that may have been
 * issued before the crash, combinations of what was not flushed are replayed, and what is left is
 * loaded by the plugin.  Run with a number, it goes on until that many states have been replayed
 * (ci/crash: 1,000,000); ctest replays fewer.  Then the same with flushes left out must find
 * faults: a lab that finds nothing there would prove nothing. */
#include "../plugins/st_util.h"

#include "../../checkpoint/sharded.h"
#include "memfs.h"

#include <pthread.h>

extern const iv_plugin iv__plugin_async, iv__plugin_hpu_checkpoint;

/* ---- contents ---- */
enum { N = 3, BYTES_A = 1700, BYTES_B = 90, BYTES_C = 600 };
static unsigned char content[3][N][BYTES_A]; /* [version] */
static const int sizes[N] = {BYTES_A, BYTES_B, BYTES_C};

static void fill_contents(void)
{
    for (int v = 0; v < 3; ++v)
        for (int i = 0; i < N; ++i)
            for (int k = 0; k < sizes[i]; ++k)
                content[v][i][k] = (unsigned char)(v * 77 + i * 13 + k * (v + 1) + (k >> 4));
}

static iv_ckpt describe(int v, iv_ckpt_tensor t[N], iv_ckpt_meta *meta)
{
    static const char *const names[N] = {"weights", "b", "moments"}, *const steps[3] = {"0", "1",
                                                                                        "2"};
    for (int i = 0; i < N; ++i)
        t[i] = (iv_ckpt_tensor){
            .name = names[i], .dtype = IV_U8, .shape = IV_SHAPE(sizes[i]), .data = content[v][i]};
    *meta = (iv_ckpt_meta){"invar.step", steps[v]};
    iv_ckpt c = CKPT(N, 1, t, meta);
    return c;
}

typedef struct receiver {
    unsigned char got[N][BYTES_A];
    int n, version;
} receiver;

static iv_status take_step(void *ctx, const char *key, const char *value)
{
    if (strcmp(key, "invar.step") == 0) ((receiver *)ctx)->version = atoi(value);
    return IV_OK;
}

static iv_status take_place(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    receiver *r = ctx;
    const int i = info->name[0] == 'w' ? 0 : info->name[0] == 'b' ? 1 : 2;
    if (info->shape.rank != 1 || info->shape.dim[0] != sizes[i]) return IV_INVALID;
    ++r->n;
    *out_dst = r->got[i];
    return IV_OK;
}

/* The version that the path holds, -1 if it does not load, -2 if it loads with other contents. */
static int version_at(const iv_checkpoint *vt, void *self, const char *path)
{
    static receiver r;
    r.n = 0;
    r.version = -1;
    if (vt->load(self, path, &(iv_ckpt_sink){.ctx = &r, .meta = take_step, .want = take_place}) !=
        IV_OK)
        return -1;
    if (r.n != N || r.version < 0 || r.version > 2) return -2;
    for (int i = 0; i < N; ++i)
        if (memcmp(r.got[i], content[r.version][i], (size_t)sizes[i]) != 0) return -2;
    return r.version;
}

/* ---- plugins on the file system in memory ---- */
static iv_status give_inner(uint32_t kind, const char *spec, const void **out_vtable,
                            void **out_self);
static const iv_host lab_host = {IV_PLUGIN_ABI, sizeof(iv_host), keep_error, keep_log, no_env,
                                 NULL,          last_error,      give_inner};
static iv__io_calls calls; /* mf_calls, or with flushes left out */
enum { MOST_RANKS = 3 };
static struct {
    const iv_plugin *plugin;
    void *self;
} inner[MOST_RANKS]; /* what give_inner gave: one for each rank, until close_subject */
static int n_inner;

static iv_status give_inner(uint32_t kind, const char *spec, const void **out_vtable,
                            void **out_self)
{
    (void)kind;
    const bool sharded = strcmp(spec, "sharded") == 0;
    const iv_plugin *p = sharded ? &iv__plugin_sharded : &iv__plugin_safetensors;
    iv_status s = p->init(&lab_host, "", out_self);
    if (s != IV_OK) return s;
    if (sharded) iv__sharded_use_calls(*out_self, &calls);
    else iv__st_use_calls(*out_self, &calls);
    *out_vtable = p->vtable;
    inner[n_inner].plugin = p;
    inner[n_inner++].self = *out_self;
    return IV_OK;
}

typedef struct subject {
    const char *name;
    const iv_plugin *wrapper; /* NULL: none */
    const char *inner;
    int ranks;
} subject;
static const subject subjects[] = {
    {"safetensors", NULL, "safetensors", 1},
    {"async(safetensors)", &iv__plugin_async, "safetensors", 1},
    {"hpu(safetensors)", &iv__plugin_hpu_checkpoint, "safetensors", 1},
    {"sharded, 1 rank", NULL, "sharded", 1},
    {"sharded, 3 ranks", NULL, "sharded", 3},
    {"async(sharded), 2 ranks", &iv__plugin_async, "sharded", 2},
};
enum { SUBJECTS = sizeof(subjects) / sizeof(subjects[0]) };

typedef struct opened {
    const subject *s;
    const iv_checkpoint *vt;
    void *self[MOST_RANKS];
} opened;

static void open_subject(const subject *s, opened *o)
{
    const void *vtable = NULL;
    *o = (opened){.s = s};
    for (int r = 0; r < s->ranks; ++r) {
        if (s->wrapper) {
            assert_int_equal(s->wrapper->init(&lab_host, s->inner, &o->self[r]), IV_OK);
            vtable = s->wrapper->vtable;
        } else {
            assert_int_equal(give_inner(0, s->inner, &vtable, &o->self[r]), IV_OK);
        }
        o->vt = vtable;
        if (o->vt->join) o->vt->join(o->self[r], &(iv_ckpt_group){r, s->ranks, r});
    }
}

static void close_subject(opened *o)
{
    for (int r = 0; o->s->wrapper && r < o->s->ranks; ++r) o->s->wrapper->fini(o->self[r]);
    while (n_inner > 0) {
        --n_inner;
        inner[n_inner].plugin->fini(inner[n_inner].self);
    }
}

typedef struct save_job {
    const opened *o;
    int rank, version;
    uint64_t id;
    const char *path;
    iv_status status;
} save_job;

static void *run_save(void *arg)
{
    save_job *j = arg;
    iv_ckpt_tensor t[N];
    iv_ckpt_meta meta;
    iv_ckpt c = describe(j->version, t, &meta);
    c.id = j->id;
    j->status = j->o->vt->save(j->o->self[j->rank], j->path, &c);
    if (j->status == IV_OK && j->o->vt->poll) {
        const char *told;
        j->o->vt->drain(j->o->self[j->rank]);
        j->status = j->o->vt->poll(j->o->self[j->rank], &told);
    }
    return NULL;
}

static iv_status save_version(const opened *o, const char *path, int version)
{
    static uint64_t id = 1000;
    pthread_t threads[MOST_RANKS];
    save_job jobs[MOST_RANKS];
    iv_status s = IV_OK;
    ++id;
    for (int r = 0; r < o->s->ranks; ++r) {
        jobs[r] = (save_job){o, r, version, id, path, IV_OK};
        if (o->s->ranks > 1) pthread_create(&threads[r], NULL, run_save, &jobs[r]);
        else run_save(&jobs[r]);
    }
    for (int r = 0; r < o->s->ranks; ++r) {
        if (o->s->ranks > 1) pthread_join(threads[r], NULL);
        if (jobs[r].status != IV_OK) s = jobs[r].status;
    }
    return s;
}

/* ---- scenarios ---- */
#define PATH_A "/run/step-1"
#define PATH_B "/run/step-2"
typedef enum scenario { OVER, BESIDE, THEN_REMOVE, AFTER_CRASH, SCENARIOS } scenario;
static const char *const scenario_names[SCENARIOS] = {"over the previous one", "beside it",
                                                      "and its removal", "after an earlier crash"};

static mf_fs base, live, state_fs;
static int64_t n_states, n_distinct, n_faults;
static char first_fault[512];

/* Counts different states, by their hash; forgetting some when the table is full. */
static void count_state(const mf_fs *fs)
{
    enum { SLOTS = 1 << 22 };
    static uint64_t *seen;
    uint64_t sum = 0;
    if (!seen) seen = calloc(SLOTS, sizeof(*seen));
    for (int i = 0; i < fs->n_names; ++i) {
        const mf_inode *f = &fs->inodes[fs->names[i].inode];
        uint64_t h = 14695981039346656037u;
        for (const char *p = fs->names[i].path; *p; ++p) h = (h ^ (uint64_t)*p) * 1099511628211u;
        for (size_t k = 0; k < f->size; ++k)
            h = (h ^ (uint64_t)(uint8_t)f->data[k]) * 1099511628211u;
        sum += h * (h | 1); /* in any order of the names */
    }
    ++n_states;
    for (size_t k = sum % SLOTS, tries = 0; seen && tries < 64; ++tries, k = (k + 1) % SLOTS) {
        if (seen[k] == sum) return;
        if (seen[k]) continue;
        seen[k] = sum;
        ++n_distinct;
        return;
    }
}

static void check(const opened *o, scenario sc, int n, bool complete)
{
    const int b = version_at(o->vt, o->self[0], PATH_B);
    const int a = sc == OVER ? -1 : version_at(o->vt, o->self[0], PATH_A);
    bool good = false;
    switch (sc) {
    case OVER: good = b == 2 || (b == 1 && !complete); break;
    case BESIDE:
    case AFTER_CRASH: good = a == 1 && (b == 2 || (b == -1 && !complete)); break;
    case THEN_REMOVE:
        good = (a == 1 || a == -1) && (b == 2 || (b == -1 && !complete)) && (a == 1 || b == 2);
        break;
    case SCENARIOS: break;
    }
    if (good) return;
    if (n_faults++ == 0)
        snprintf(first_fault, sizeof(first_fault),
                 "%s, %s: after %d of %d operations%s: the previous one gives %d, the new one %d",
                 o->s->name, scenario_names[sc], n, mf.n_ops, complete ? ", saved" : "", a, b);
}

static void forget_operations(void)
{
    for (int i = 0; i < mf.n_ops; ++i) free(mf.ops[i].data);
    mf.n_ops = 0;
}

/* Records the save of the scenario from `base`; live is what it leaves. */
static void record(const opened *o, scenario sc)
{
    forget_operations();
    mf_copy(&live, &base);
    mf.fs = &live;
    mf.recording = true;
    assert_int_equal(save_version(o, PATH_B, 2), IV_OK);
    if (sc == THEN_REMOVE)
        for (int r = 0; r < o->s->ranks; ++r)
            assert_int_equal(o->vt->remove(o->self[r], PATH_A), IV_OK);
    mf.recording = false;
}

static void prepare(const opened *o, scenario sc, uint64_t *random)
{
    mf_free(&base);
    mf_set(&base, "/", mf_new_inode(&base, true));
    mf_set(&base, "/run", mf_new_inode(&base, true));
    mf.fs = &base;
    mf.recording = false;
    assert_int_equal(save_version(o, sc == OVER ? PATH_B : PATH_A, 1), IV_OK);
    if (sc != AFTER_CRASH) return;
    record(o, BESIDE);
    static mf_fs crashed;
    mf_crash(&crashed, &base, &live, (int)(mf_next(random) % (uint64_t)(mf.n_ops + 1)),
             mf_next(random), 2, random);
    mf_copy(&base, &crashed);
}

static void replay(const opened *o, scenario sc, int n, uint64_t names, int data, uint64_t *random)
{
    mf_crash(&state_fs, &base, &live, n, names, data, random);
    mf.fs = &state_fs;
    count_state(&state_fs);
    /* Removals after a save that has ended are part of the operations: the save is complete before
     * the first of them. */
    int saved = mf.n_ops;
    if (sc == THEN_REMOVE)
        for (int i = mf.n_ops - 1; i >= 0; --i)
            if (mf.ops[i].kind == MF_UNLINK &&
                strncmp(mf.ops[i].path, PATH_A, sizeof(PATH_A) - 1) == 0)
                saved = i;
    check(o, sc, n, n >= saved);
}

/* About `budget` states of one scenario. */
static void explore(const opened *o, scenario sc, int64_t budget, uint64_t *random)
{
    const int64_t until = n_states + budget;
    while (n_states < until) {
        prepare(o, sc, random);
        record(o, sc);
        const int64_t share = (sc == AFTER_CRASH ? 600 : until - n_states) / (mf.n_ops + 1) + 1;
        for (int n = mf.n_ops; n >= 0 && n_states < until; --n) {
            int loose[MF_OPS];
            const int n_loose = mf_loose_names(n, loose), n_writes = mf_loose_writes(n);
            const int64_t all = n_loose < 12 ? (int64_t)2 << n_loose : 0;
            /* First each combination of names, then random ones.  Without writes that may be lost
             * or torn these are all that there is, so that more of the budget is left for the
             * others. */
            const int64_t most =
                n_writes == 0 && all > 0 && all < share ? all : share * (1 + n_writes);
            for (int64_t k = 0; k < most && n_states < until; ++k) {
                const bool listed = k < all;
                const uint64_t names = listed ? (uint64_t)k >> 1 : mf_next(random);
                replay(o, sc, n, names,
                       !listed    ? 2
                       : n_writes ? (int)(k & 1)
                                  : 2 * (int)(k & 1),
                       random);
            }
        }
    }
}

static int64_t wanted = 24000;

static void test_states(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    calls = mf_calls;
    n_states = n_distinct = n_faults = 0;
    for (int i = 0; i < SUBJECTS; ++i) {
        const int64_t before = n_states, faults = n_faults;
        opened o;
        open_subject(&subjects[i], &o);
        for (int sc = 0; sc < SCENARIOS; ++sc)
            explore(&o, (scenario)sc, wanted / SUBJECTS / SCENARIOS + 1, &random);
        close_subject(&o);
        print_message("%-24s %9lld states, %lld faults\n", subjects[i].name,
                      (long long)(n_states - before), (long long)(n_faults - faults));
    }
    print_message("%lld states replayed, %lld of them different, %lld faults\n",
                  (long long)n_states, (long long)n_distinct, (long long)n_faults);
    assert_true(n_states >= wanted);
    if (n_faults) fail_msg("%s", first_fault);
}

/* ---- the lab itself ---- */

static int no_flush(int fd)
{
    (void)fd;
    return 0;
}

static int no_flush_of_files(int fd)
{
    return mf.fs->inodes[mf.fds[fd - 100].inode].dir ? mf_fsync(fd) : 0;
}

static int rename_by_unlink(const char *from, const char *to)
{
    (void)mf_unlink(to);
    return mf_rename(from, to);
}

static void test_lab_finds_faults(void **state)
{
    (void)state;
    for (int how = 0; how < 4; ++how)
        for (int i = 0; i < SUBJECTS; ++i) {
            uint64_t random = 12345;
            opened o;
            calls = mf_calls;
            if (how == 0) calls.fdatasync = calls.fsync = no_flush;
            if (how == 1) calls.fdatasync = calls.fsync = no_flush_of_files;
            if (how == 2) calls.fsync = no_flush; /* of folders */
            if (how == 3) calls.rename = rename_by_unlink;
            n_faults = 0;
            open_subject(&subjects[i], &o);
            explore(&o, how == 3 ? OVER : THEN_REMOVE, 3000, &random);
            close_subject(&o);
            if (!n_faults) fail_msg("%s, way %d: no fault was found", subjects[i].name, how);
        }
    calls = mf_calls;
}

/* A disk that is full at each write in turn: the previous one stays, and the next save works. */
static void test_full_disk(void **state)
{
    (void)state;
    uint64_t random = 1;
    calls = mf_calls;
    for (int i = 0; i < SUBJECTS; ++i) {
        if (subjects[i].ranks > 1) continue; /* the others would wait for their time limit */
        opened o;
        open_subject(&subjects[i], &o);
        int failed = 0;
        for (int at = 1;; ++at) {
            prepare(&o, OVER, &random);
            mf.full_at = at;
            const iv_status s = save_version(&o, PATH_B, 2);
            const bool reached = mf.full_at == 0;
            mf.full_at = 0;
            if (!reached) break;
            assert_int_equal(s, IV_IO);
            ++failed;
            assert_int_equal(version_at(o.vt, o.self[0], PATH_B), 1);
            assert_int_equal(save_version(&o, PATH_B, 2), IV_OK);
            assert_int_equal(version_at(o.vt, o.self[0], PATH_B), 2);
        }
        assert_true(failed >= 4);
        close_subject(&o);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) wanted = strtoll(argv[1], NULL, 10);
    fill_contents();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_states),
                                       cmocka_unit_test(test_lab_finds_faults),
                                       cmocka_unit_test(test_full_disk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
