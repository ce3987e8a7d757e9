/* bench_ckpt.c: what checkpoints cost a run, with its model, its plugin and its folder.
 *
 *   round:  10 steps | save, 10 steps, save has ended      in turns, until the time is over
 *           the same bytes written plainly | a save alone | two loads
 *
 * A save costs the training thread what it spends in starting it, in the optimizer's waiting for
 * memory that is not copied yet (release), in telling its outcome after a step, and, since only one
 * is under way at a time, in waiting for its end if that is not there after 10 steps. */
#include "bench.h"

#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EVERY = 10, MOST_ROUNDS = 200, BLOCK = 4 << 20, ALIGN = 4096 };

/* Times of each round, in seconds. */
typedef struct rounds {
    double without[MOST_ROUNDS], with[MOST_ROUNDS], stall[MOST_ROUNDS];
    double plain[MOST_ROUNDS], save[MOST_ROUNDS], load[2][MOST_ROUNDS];
    int64_t n;
} rounds;

typedef struct ckpt_bench {
    iv_trainer *t;
    iv__keeper keeper;
    rounds r;
    /* The run's plugin, while steps see one that measures its release. */
    const iv_checkpoint *inner;
    void *inner_self;
    int64_t release_ns;
    char *block; /* BLOCK bytes */
    int64_t bytes;
} ckpt_bench;

static double since(int64_t start_ns)
{
    return (double)(iv__now_ns() - start_ns) * 1e-9;
}

/* ---- steps and saves ---- */

static void timed_release(void *self, const void *data, int64_t bytes)
{
    ckpt_bench *k = self;
    const int64_t start = iv__now_ns();
    k->inner->release(k->inner_self, data, bytes);
    k->release_ns += iv__now_ns() - start;
}
static const iv_checkpoint timed = {.release = timed_release};

static iv_status train(ckpt_bench *k)
{
    iv_trainer *t = k->t;
    iv_step_report r;
    k->inner = t->ckpt;
    k->inner_self = t->ckpt_self;
    if (k->inner->release) {
        t->ckpt = &timed;
        t->ckpt_self = k;
    }
    const iv_status s = iv_trainer_step_on(t, t->x, t->y, &r);
    t->ckpt = k->inner;
    t->ckpt_self = k->inner_self;
    return s;
}

static iv_status steps_without(ckpt_bench *k, double *out)
{
    const int64_t start = iv__now_ns();
    for (int i = 0; i < EVERY; ++i) IV_TRY(train(k));
    *out = since(start);
    return IV_OK;
}

static iv_status steps_with(ckpt_bench *k, double *out, double *out_stall)
{
    static const iv__scores none = {(double)NAN, (double)NAN, (double)NAN};
    const int64_t start = iv__now_ns();
    double stall;
    k->release_ns = 0;
    IV_TRY(iv__keeper_save(&k->keeper, &none));
    stall = since(start);
    for (int i = 0; i < EVERY; ++i) {
        IV_TRY(train(k));
        const int64_t told = iv__now_ns();
        IV_TRY(iv__keeper_poll(&k->keeper));
        stall += since(told);
    }
    const int64_t end = iv__now_ns();
    IV_TRY(iv__keeper_finish(&k->keeper));
    *out_stall = stall + since(end) + (double)k->release_ns * 1e-9;
    *out = since(start);
    return IV_OK;
}

/* ---- the disk ---- */

/* Writes as many bytes as a checkpoint has, one block after another, past the page cache where that
 * can be, and flushes them: what dd does with oflag=direct conv=fsync. */
static iv_status write_plainly(ckpt_bench *k, double *out)
{
    char path[1100];
    snprintf(path, sizeof(path), "%s/plain", k->keeper.folder);
    const int64_t start = iv__now_ns();
    const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
    int fd = open(path, flags | O_DIRECT, 0666);
    if (fd < 0) fd = open(path, flags, 0666);
    bool good = fd >= 0;
    for (int64_t at = 0; good && at < k->bytes; at += BLOCK)
        good = pwrite(fd, k->block, BLOCK, at) == BLOCK;
    good = good && fsync(fd) == 0;
    const int err = errno;
    *out = since(start);
    if (fd >= 0) close(fd);
    unlink(path);
    if (!good) IV_FAIL(IV_IO, "benchmark: writing %s: %s", path, strerror(err));
    return IV_OK;
}

/* A save and two loads with nothing beside them: what was written past the page cache is read from
 * the disk at first. */
static iv_status write_and_read(ckpt_bench *k, double *out_save, double *out_first,
                                double *out_again)
{
    char path[1100];
    snprintf(path, sizeof(path), "%s/alone%s", k->keeper.folder, k->keeper.extension);
    int64_t start = iv__now_ns();
    IV_TRY(iv_trainer_save(k->t, path));
    *out_save = since(start);
    start = iv__now_ns();
    IV_TRY(iv_trainer_load(k->t, path));
    *out_first = since(start);
    start = iv__now_ns();
    IV_TRY(iv_trainer_load(k->t, path));
    *out_again = since(start);
    return iv_checkpoint_remove(path);
}

static int64_t state_bytes(const iv_trainer *t)
{
    const iv__store *s = t->store;
    return s->param_mem.bytes + s->state_mem.bytes + s->moment_mem[0].bytes +
           s->moment_mem[1].bytes;
}

/* ---- the group ---- */

static iv_status run_round(ckpt_bench *k)
{
    rounds *r = &k->r;
    const int64_t i = r->n;
    IV_TRY(steps_without(k, &r->without[i]));
    IV_TRY(steps_with(k, &r->with[i], &r->stall[i]));
    IV_TRY(write_plainly(k, &r->plain[i]));
    IV_TRY(write_and_read(k, &r->save[i], &r->load[0][i], &r->load[1][i]));
    ++r->n;
    return IV_OK;
}

static void row(const iv__bench *b, const char *name, double seconds, double bytes, double peak,
                int64_t runs)
{
    char spec[256];
    iv__trainer_ckpt_spec(b->t->config, spec, sizeof(spec));
    iv__bench_row(b, &(iv_bench_row){.group = "ckpt",
                                     .name = name,
                                     .impl = spec,
                                     .seconds = seconds,
                                     .bytes = bytes,
                                     .peak_bytes = peak,
                                     .runs = runs});
}

/* Medians; a row of the longest stall. */
static void report(const iv__bench *b, ckpt_bench *k)
{
    rounds *r = &k->r;
    const int64_t n = r->n;
    const double bytes = (double)k->bytes, plain = iv__bench_median(r->plain, n);
    row(b, "10 steps", iv__bench_median(r->without, n), 0, 0, n);
    row(b, "10 steps and a save", iv__bench_median(r->with, n), 0, 0, n);
    row(b, "training waits for a save", iv__bench_median(r->stall, n), 0, 0, n);
    row(b, "training waits for a save, the longest", r->stall[n - 1], 0, 0, n); /* sorted */
    row(b, "writing as many bytes plainly", plain, bytes, 0, n);
    row(b, "a save alone", iv__bench_median(r->save, n), bytes, bytes / plain, n);
    row(b, "a load from the disk", iv__bench_median(r->load[0], n), bytes, 0, n);
    row(b, "a load from the page cache", iv__bench_median(r->load[1], n), bytes, 0, n);
}

/* Removes what the benchmark has written. */
static iv_status clean(ckpt_bench *k)
{
    char path[1100];
    for (int64_t i = 0; i < k->keeper.n_kept; ++i)
        IV_TRY(iv_checkpoint_remove(k->keeper.kept[i].path));
    snprintf(path, sizeof(path), "%s/last", k->keeper.folder);
    (void)unlink(path);
    (void)rmdir(k->keeper.folder);
    return IV_OK;
}

static iv_status measure(iv__bench *b, ckpt_bench *k)
{
    const int64_t limit = iv__now_ns() + (int64_t)(b->seconds * 8e9); /* eight rows */
    double warm;
    IV_TRY(steps_without(k, &warm));
    while (k->r.n < MOST_ROUNDS && (k->r.n < 3 || iv__now_ns() < limit)) IV_TRY(run_round(k));
    report(b, k);
    return IV_OK;
}

iv_status iv__bench_ckpt(iv__bench *b)
{
    static const iv_fit_callbacks none;
    ckpt_bench *k;
    if (!*iv_config_str(b->t->config, "out.dir"))
        IV_FAIL(IV_INVALID, "benchmark 'ckpt' needs a folder to write to [hint: --out DIR]");
    IV_TRY(iv__calloc(1, sizeof(*k), "times", &k));
    k->t = b->t;
    k->bytes = state_bytes(b->t);
    k->block = aligned_alloc(ALIGN, BLOCK);
    iv_status s = k->block ? IV_OK : iv__fail(IV_NO_MEMORY, "benchmark: allocating a block");
    if (s == IV_OK) s = iv__keeper_open(&k->keeper, b->t, &none);
    if (s == IV_OK) s = iv__keeper_resume(&k->keeper);
    if (s == IV_OK) s = iv__keeper_make_folder(&k->keeper);
    if (s == IV_OK) {
        memset(k->block, 1, BLOCK);
        iv__trainer_make_samples(b->t);
        s = measure(b, k);
        if (s == IV_OK) s = clean(k);
    }
    iv__keeper_close(&k->keeper);
    free(k->block);
    free(k);
    return s;
}
