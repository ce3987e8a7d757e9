/* test_damage.c: random damage to small checkpoints: flipped bits, cuts, bytes added, pieces of the
 * same or of another file put in their place.  Each must be refused as corrupt (or, where it leaves
 * a folder without its manifest or a file, as not to be read); none may load.  The files lie in
 * memory (memfs.h).  Run with two numbers, of flips and of cuts and splices, for more (ci/damage:
 * 1,000,000 and 100,000). */
#include "../plugins/st_util.h"

#include "../../checkpoint/sharded.h"
#include "memfs.h"

static unsigned char content[2][3][900];
static mf_fs pristine, damaged;

typedef struct subject {
    const char *name;
    const iv_plugin *plugin;
    void *self;
    const char *path;
} subject;
static subject subjects[] = {{"safetensors", &iv__plugin_safetensors, NULL, "/run/a"},
                             {"sharded", &iv__plugin_sharded, NULL, "/run/b"}};

static iv_ckpt describe(int v, iv_ckpt_tensor t[3], iv_ckpt_meta m[2])
{
    static const char *const names[3] = {"layer.0.weight", "b", "optim.m.b"};
    for (int i = 0; i < 3; ++i)
        t[i] = (iv_ckpt_tensor){.name = names[i],
                                .dtype = i == 1 ? IV_F32 : IV_U8,
                                .shape = i == 1 ? IV_SHAPE(15, 4) : IV_SHAPE(300 * (i + 1)),
                                .data = content[v][i]};
    m[0] = (iv_ckpt_meta){"invar.step", v ? "20" : "10"};
    m[1] = (iv_ckpt_meta){"invar.config", "a: 1\nb: \"two\"\n"};
    iv_ckpt c = CKPT(3, 2, t, m);
    c.id = 1; /* the worst case for splices: the same names */
    return c;
}

static iv_status skip_all(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    (void)ctx, (void)info;
    *out_dst = NULL; /* as `invar ckpt verify` */
    return IV_OK;
}

static iv_status take_all(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    static char room[4096];
    (void)ctx, (void)info;
    *out_dst = room;
    return IV_OK;
}

static int64_t refused;

/* By load and by verify. */
static void must_refuse(const subject *s, const char *what, const char *file, size_t at)
{
    const iv_checkpoint *vt = s->plugin->vtable;
    for (int verify = 0; verify < 2; ++verify) {
        const iv_ckpt_sink sink = {.want = verify ? skip_all : take_all};
        const iv_status status = vt->load(s->self, s->path, &sink);
        if (status != IV_CORRUPT)
            fail_msg("%s, %s in %s at %zu: %s gives %d %s", s->name, what, file, at,
                     verify ? "verify" : "load", status, error_text);
    }
    ++refused;
}

static const char *pick_file(const subject *s, uint64_t *random, mf_inode **out)
{
    for (;;) {
        const int i = (int)(mf_next(random) % (uint64_t)damaged.n_names);
        mf_inode *f = &damaged.inodes[damaged.names[i].inode];
        if (f->dir || strncmp(damaged.names[i].path, s->path, strlen(s->path)) != 0) continue;
        *out = f;
        return damaged.names[i].path;
    }
}

static int64_t flips = 20000, others = 4000;

static void test_flips(void **state)
{
    (void)state;
    uint64_t random = 4101842887655102017u;
    refused = 0;
    for (int64_t k = 0; k < flips; ++k) {
        const subject *s = &subjects[k % 2];
        mf_inode *f;
        const char *file = pick_file(s, &random, &f);
        const size_t at = mf_next(&random) % f->size;
        const char bit = (char)(1 << mf_next(&random) % 8);
        f->data[at] = (char)(f->data[at] ^ bit);
        must_refuse(s, "a flipped bit", file, at);
        f->data[at] = (char)(f->data[at] ^ bit);
    }
    print_message("%lld flipped bits, all found\n", (long long)refused);
}

static void test_cuts_and_splices(void **state)
{
    (void)state;
    uint64_t random = 88172645463325252u;
    static mf_fs other; /* the same files of another checkpoint */
    mf_copy(&other, &pristine);
    mf.fs = &other;
    for (int i = 0; i < 2; ++i) {
        iv_ckpt_tensor t[3];
        iv_ckpt_meta m[2];
        const iv_ckpt c = describe(1, t, m);
        const iv_checkpoint *vt = subjects[i].plugin->vtable;
        assert_int_equal(vt->save(subjects[i].self, subjects[i].path, &c), IV_OK);
    }
    mf.fs = &damaged;
    refused = 0;
    while (refused < others) {
        static const char *const what[] = {"a cut", "bytes at the end", "a piece of itself",
                                           "a piece of another", "zeros"};
        const subject *s = &subjects[refused % 2];
        mf_inode *f;
        const char *file = pick_file(s, &random, &f);
        const int how = (int)(mf_next(&random) % 5);
        const int twin = mf_find(&other, file);
        assert_true(twin >= 0);
        const mf_inode *from = how == 3 ? &other.inodes[other.names[twin].inode] : f;
        char *saved = malloc(f->size);
        const size_t size = f->size, at = mf_next(&random) % size;
        memcpy(saved, f->data, size);
        if (how == 0) f->size = at;
        if (how == 1) mf_put(f, size, saved, at % 64 + 1);
        if (how >= 2) {
            const size_t source = mf_next(&random) % from->size;
            size_t n = mf_next(&random) % 256 + 1;
            if (n > from->size - source) n = from->size - source;
            if (n > size - at) n = size - at;
            if (how == 4) memset(f->data + at, 0, n);
            else memmove(f->data + at, from->data + source, n);
        }
        if (f->size != size || memcmp(f->data, saved, size) != 0)
            must_refuse(s, what[how], file, at);
        f->size = 0;
        mf_put(f, 0, saved, size);
        free(saved);
    }
    print_message("%lld cuts and splices, all found\n", (long long)refused);
}

static int make_files(void **state)
{
    (void)state;
    for (int v = 0; v < 2; ++v)
        for (int i = 0; i < 3; ++i)
            for (int k = 0; k < 900; ++k)
                content[v][i][k] = (unsigned char)(k * 7 + i * 31 + v * 101 + (k >> 3));
    mf_set(&pristine, "/", mf_new_inode(&pristine, true));
    mf_set(&pristine, "/run", mf_new_inode(&pristine, true));
    mf.fs = &pristine;
    for (int i = 0; i < 2; ++i) {
        subject *s = &subjects[i];
        const iv_checkpoint *vt = s->plugin->vtable;
        iv_ckpt_tensor t[3];
        iv_ckpt_meta m[2];
        const iv_ckpt c = describe(0, t, m);
        if (s->plugin->init(&host, "", &s->self) != IV_OK) return -1;
        if (i == 0) iv__st_use_calls(s->self, &mf_calls);
        else iv__sharded_use_calls(s->self, &mf_calls);
        if (vt->save(s->self, s->path, &c) != IV_OK) return -1;
        if (vt->load(s->self, s->path, &(iv_ckpt_sink){.want = take_all}) != IV_OK) return -1;
    }
    mf_copy(&damaged, &pristine);
    mf.fs = &damaged;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1) flips = strtoll(argv[1], NULL, 10);
    if (argc > 2) others = strtoll(argv[2], NULL, 10);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flips),
                                       cmocka_unit_test(test_cuts_and_splices)};
    return cmocka_run_group_tests(tests, make_files, NULL);
}
