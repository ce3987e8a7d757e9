/* sharded.c: the checkpoint plugin `sharded`: a folder that all ranks write (see sharded.h).
 *
 *   every rank: its file ── .part note ──┐           (each durable before the next)
 *   rank 0:                  all notes ──┴─> manifest ──> old files and notes are removed
 *   the others:                              wait for that manifest
 *
 * The ranks meet in the folder itself, so a save needs no messages and may run beside training.
 * What belongs to one save carries its id in its name; a save over an older checkpoint leaves that
 * one's files alone until the manifest has replaced the older manifest, in one rename.  Tensors
 * that all ranks have are written once, each rank an equal share of the bytes.
 */
#include "sharded.h"
#include "st_header.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct sharded {
    const iv_host *host;
    const iv__io_calls *calls;
    iv_ckpt_group group;
    double timeout; /* seconds that a rank waits for the others */
} sharded;

static iv__io_job job_of(void *self, const char *doing, const char *path)
{
    const sharded *p = self;
    return (iv__io_job){.host = p->host, .calls = p->calls, .doing = doing, .path = path};
}

static iv_status no_memory(const iv__io_job *j)
{
    return iv__io_fail(j, IV_NO_MEMORY, "allocating its lists");
}

/* ---- what this rank writes ---- */

typedef struct shard {
    iv_ckpt_tensor *tensors;
    int64_t *of;     /* which tensor of the checkpoint each is a part of */
    int64_t *offset; /* in bytes, from the first byte that this rank has of it */
    int64_t n;
    char *names;
    const iv_ckpt *c;
} shard;

static void shard_free(shard *s)
{
    free(s->tensors);
    free(s->of);
    free(s->offset);
    free(s->names);
}

/* Where the share of rank r begins, of `total` bytes, within a tensor of `count` elements of `each`
 * bytes that starts at byte `at`: an element from 0 to count. */
static int64_t cut(int64_t total, int32_t r, int32_t ranks, int64_t at, int64_t count, int64_t each)
{
    const int64_t edge = total / ranks * r + total % ranks * r / ranks;
    if (edge <= at) return 0;
    const int64_t element = (edge - at) / each;
    return element < count ? element : count;
}

/* The elements of tensor i that this rank writes. */
static iv_ckpt_part part_of(const sharded *p, const iv_ckpt *c, int64_t i, int64_t total,
                            int64_t at)
{
    if (c->parts) return c->parts[i];
    const int64_t count = iv__shard_count(&c->tensors[i]);
    const int64_t each = iv__st_dtype_of(c->tensors[i].dtype)->bits / 8;
    const iv_ckpt_part q = {cut(total, p->group.rank, p->group.ranks, at, count, each),
                            cut(total, p->group.rank + 1, p->group.ranks, at, count, each)};
    if (count == 0 && p->group.rank == 0) return (iv_ckpt_part){0, 0};
    return q;
}

static iv_status total_bytes(const iv__io_job *j, const iv_ckpt *c, int64_t *out_total,
                             size_t *out_names)
{
    uint64_t bytes, total = 0;
    size_t names = 1;
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        iv_status s = iv__st_bytes(j, &c->tensors[i], &bytes);
        if (s != IV_OK) return s;
        total += bytes;
        names += strlen(c->tensors[i].name) + 48;
        const int64_t count = iv__shard_count(&c->tensors[i]);
        const iv_ckpt_part *q = c->parts ? &c->parts[i] : NULL;
        if (q && (q->begin < 0 || q->end < q->begin || q->end > count))
            return iv__io_fail(j, IV_INVALID, "tensor \"%.200s\": elements %lld to %lld of %lld",
                               c->tensors[i].name, (long long)q->begin, (long long)q->end,
                               (long long)count);
    }
    *out_total = (int64_t)total;
    *out_names = names;
    return IV_OK;
}

static iv_status make_shard(const iv__io_job *j, const sharded *p, const iv_ckpt *c, shard *s)
{
    int64_t total = 0, at = 0;
    size_t n_names = 0;
    iv_status st = total_bytes(j, c, &total, &n_names);
    if (st != IV_OK) return st;
    s->c = c;
    s->tensors = calloc((size_t)c->n_tensors + 1, sizeof(*s->tensors));
    s->of = calloc((size_t)c->n_tensors + 1, sizeof(*s->of));
    s->offset = calloc((size_t)c->n_tensors + 1, sizeof(*s->offset));
    char *name = s->names = malloc(n_names);
    if (!s->tensors || !s->of || !s->offset || !s->names) return no_memory(j);
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const iv_ckpt_tensor *t = &c->tensors[i];
        const int64_t count = iv__shard_count(t), each = iv__st_dtype_of(t->dtype)->bits / 8;
        const iv_ckpt_part q = part_of(p, c, i, total, at);
        at += count * each;
        if (q.begin == q.end && (count > 0 || p->group.rank > 0)) continue;
        iv_ckpt_tensor *part = &s->tensors[s->n];
        *part = *t;
        if (q.begin > 0 || q.end < count) {
            part->name = name;
            part->shape = IV_SHAPE(q.end - q.begin);
            name += sprintf(name, "%s[%" PRId64 ":%" PRId64 "]", t->name, q.begin, q.end) + 1;
        }
        /* With parts, data points at what this rank has; without, at the whole tensor. */
        s->offset[s->n] = c->parts ? 0 : q.begin * each;
        if (t->data) part->data = (const char *)t->data + s->offset[s->n];
        s->of[s->n++] = i;
    }
    return IV_OK;
}

static iv_status read_part(void *ctx, int64_t i, int64_t offset, int64_t bytes, void *dst)
{
    const shard *s = ctx;
    return s->c->read(s->c->ctx, s->of[i], s->offset[i] + offset, bytes, dst);
}

/* ---- the folder ---- */

static void file_name(char out[IV__SHARDED_NAME], uint64_t id, int32_t rank, const char *ext)
{
    snprintf(out, IV__SHARDED_NAME, "%016" PRIx64 "-%04d.%s", id, rank, ext);
}

/* Whether a name is one of ours, of any save; *out_id: of which. */
static bool is_ours(const char *name, uint64_t *out_id)
{
    int rank, end = 0;
    return strspn(name, "0123456789abcdef") == 16 &&
           sscanf(name, "%16" SCNx64 "-%d%n", out_id, &rank, &end) == 2 &&
           (strcmp(name + end, ".safetensors") == 0 || strcmp(name + end, ".part") == 0);
}

/* Removes files of other saves than `keep`, and the notes of that one.  What cannot be removed
 * stays: it does no harm. */
static void clean(const iv__io_job *j, uint64_t keep)
{
    DIR *d = j->calls->opendir(j->path);
    if (!d) return;
    for (struct dirent *e; (e = j->calls->readdir(d)) != NULL;) {
        uint64_t id;
        const size_t n = strlen(e->d_name);
        if (!is_ours(e->d_name, &id)) continue;
        if (id == keep && strcmp(e->d_name + n - 5, ".part") != 0) continue;
        char *path = iv__shard_path(j->path, e->d_name);
        if (path) (void)j->calls->unlink(path);
        free(path);
    }
    j->calls->closedir(d);
}

/* ---- notes ---- */

/* The note of a rank that it has written its file: a safetensors file with the stamp, or the text
 * of what went wrong, as metadata. */
static iv_status write_note(const iv__io_job *j, uint64_t id, int32_t rank, const char *key,
                            const char *value)
{
    char name[IV__SHARDED_NAME];
    file_name(name, id, rank, "part");
    char *path = iv__shard_path(j->path, name);
    if (!path) return no_memory(j);
    iv__io_job file = *j;
    file.path = path;
    const iv_ckpt_meta meta = {key, value};
    iv_status s = iv__st_write(&file, &(iv_ckpt){.n_meta = 1, .meta = &meta}, IV_IO_PLAIN, NULL);
    free(path);
    return s;
}

typedef struct note {
    const iv__io_job *job;
    int32_t rank;
    iv__st_stamp stamp;
    bool stamped;
} note;

static iv_status note_meta(void *ctx, const char *key, const char *value)
{
    note *n = ctx;
    if (strcmp(key, "failed") == 0)
        return iv__io_fail(n->job, IV_IO, "rank %d could not write its part: %.600s", n->rank,
                           value);
    n->stamped = sscanf(value, "%" SCNu64 " %16[0-9a-f]", &n->stamp.bytes, n->stamp.header) == 2;
    return IV_OK;
}

static iv_status no_tensors(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    (void)ctx, (void)info;
    *out_dst = NULL;
    return IV_OK;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_a_little(int *round)
{
    const long ms = *round < 50 ? 1 : *round < 100 ? 10 : 50;
    ++*round;
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static bool exists(const iv__io_job *j, const char *path)
{
    struct stat st;
    return j->calls->stat(path, &st) == 0;
}

/* Rank 0 waits for the note of a rank and reads it. */
static iv_status await_note(const iv__io_job *j, const sharded *p, uint64_t id, int32_t rank,
                            double until, iv__shard_file *out)
{
    char name[IV__SHARDED_NAME];
    file_name(name, id, rank, "part");
    char *path = iv__shard_path(j->path, name);
    if (!path) return no_memory(j);
    iv_status s = IV_OK;
    for (int round = 0; s == IV_OK && !exists(j, path); pause_a_little(&round))
        if (now() > until)
            s = iv__io_fail(
                j, IV_TIMEOUT,
                "rank %d of %d has not written its part within %g s [hint: do all ranks "
                "see this folder?]",
                rank, p->group.ranks, p->timeout);
    note n = {.job = j, .rank = rank};
    iv__io_job file = *j;
    file.path = path;
    if (s == IV_OK)
        s = iv__st_read(&file, &(iv_ckpt_sink){.ctx = &n, .meta = note_meta, .want = no_tensors},
                        NULL);
    if (s == IV_OK && !n.stamped)
        s = iv__io_fail(j, IV_CORRUPT, "the note of rank %d cannot be read", rank);
    free(path);
    if (s != IV_OK) return s;
    file_name(out->name, id, rank, "safetensors");
    out->stamp = n.stamp;
    return IV_OK;
}

/* ---- saving ---- */

/* Makes the folder, and durable in the one above. */
static iv_status make_folder(const iv__io_job *j)
{
    if (!j->path || !*j->path) return iv__io_fail(j, IV_INVALID, "the path is empty");
    if (j->calls->mkdir(j->path, 0777) != 0) {
        struct stat st;
        const int err = errno;
        if (j->calls->stat(j->path, &st) != 0) {
            if (err == EEXIST)
                return iv__io_fail_errno(j, errno, "looking at what is there failed");
            return iv__io_fail_errno(j, err, "making the folder failed");
        }
        if (!S_ISDIR(st.st_mode))
            return iv__io_fail(j, IV_INVALID, "this is a file, and a folder is to be made there");
    }
    return iv__io_sync_above(j);
}

static iv_status write_own(const iv__io_job *j, const sharded *p, const iv_ckpt *c,
                           iv__shard_file *out)
{
    shard own = {0};
    char *path = NULL;
    file_name(out->name, c->id, p->group.rank, "safetensors");
    iv_status s = make_folder(j);
    if (s == IV_OK) s = make_shard(j, p, c, &own);
    if (s == IV_OK && !(path = iv__shard_path(j->path, out->name))) s = no_memory(j);
    if (s == IV_OK) {
        iv__io_job file = *j;
        file.path = path;
        const iv_ckpt part = {.n_tensors = own.n,
                              .tensors = own.tensors,
                              .read = c->read ? read_part : NULL,
                              .ctx = &own};
        s = iv__st_write(&file, &part, IV_IO_DIRECT, &out->stamp);
    }
    free(path);
    shard_free(&own);
    return s;
}

/* Rank 0, when its own file is there. */
static iv_status commit(const iv__io_job *j, const sharded *p, const iv_ckpt *c,
                        const iv__shard_file *own)
{
    const double until = now() + p->timeout;
    iv__shard_file *files = calloc((size_t)p->group.ranks, sizeof(*files));
    if (!files) return no_memory(j);
    iv_status s = IV_OK;
    files[0] = *own;
    for (int32_t r = 1; r < p->group.ranks && s == IV_OK; ++r)
        s = await_note(j, p, c->id, r, until, &files[r]);
    if (s == IV_OK && p->group.ranks > 1) s = iv__io_sync_inside(j); /* the others' names too */
    if (s == IV_OK) s = iv__manifest_write(j, c, files, p->group.ranks);
    free(files);
    if (s == IV_OK) clean(j, c->id);
    return s;
}

/* Whether the manifest that is there names the file. */
static bool names(const iv__io_job *j, const char *file)
{
    iv_host quiet = *j->host;
    quiet.fail = iv__io_fail_quietly;
    iv__io_job look = *j;
    look.host = &quiet;
    iv__manifest m;
    if (iv__manifest_read(&look, &m) != IV_OK) return false;
    bool found = false;
    for (int64_t i = 0; i < m.n_files && !found; ++i) found = strcmp(m.files[i].name, file) == 0;
    iv__manifest_free(&m);
    return found;
}

/* The other ranks: their save ends when rank 0 has committed it, or has told that it cannot. */
static iv_status await_commit(const iv__io_job *j, const sharded *p, const iv_ckpt *c,
                              const iv__shard_file *own)
{
    char name[IV__SHARDED_NAME], mine[IV__SHARDED_NAME];
    file_name(name, c->id, 0, "part");
    file_name(mine, c->id, p->group.rank, "part");
    char *failed = iv__shard_path(j->path, name), *note_path = iv__shard_path(j->path, mine);
    const double until = now() + p->timeout;
    iv_status s = failed && note_path ? IV_OK : no_memory(j);
    for (int round = 0; s == IV_OK; pause_a_little(&round)) {
        /* Rank 0 removes the notes after the commit, so that few look at the manifest. */
        if ((!exists(j, note_path) || round % 16 == 15) && names(j, own->name)) break;
        if (exists(j, failed))
            s = iv__io_fail(j, IV_IO, "rank 0 could not complete it [hint: see its message]");
        else if (now() > until)
            s = iv__io_fail(j, IV_TIMEOUT, "rank 0 has not completed it within %g s", p->timeout);
    }
    free(failed);
    free(note_path);
    return s;
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    const sharded *p = self;
    const iv__io_job j = job_of(self, "saving", path);
    iv__shard_file own = {0};
    if (!c || c->n_tensors < 0 || c->n_meta < 0 || (c->n_tensors && !c->tensors) ||
        (c->n_meta && !c->meta))
        return iv__io_fail(&j, IV_INVALID, "no contents were given");
    iv_status s = write_own(&j, p, c, &own);
    if (s == IV_OK && p->group.rank > 0) {
        char stamp[64];
        snprintf(stamp, sizeof(stamp), "%" PRIu64 " %s", own.stamp.bytes, own.stamp.header);
        s = write_note(&j, c->id, p->group.rank, "stamp", stamp);
        if (s == IV_OK) return await_commit(&j, p, c, &own);
    }
    if (s == IV_OK) s = commit(&j, p, c, &own);
    if (s == IV_OK || p->group.ranks == 1) return s;
    /* The others must not wait for what will not come.  This rank's error is the one to report. */
    char text[1024] = "see its message";
    if (p->host->size > offsetof(iv_host, message))
        snprintf(text, sizeof(text), "%s", p->host->message());
    (void)write_note(&j, c->id, p->group.rank, "failed", text);
    return p->host->fail(s, "%s", text);
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const iv__io_job j = job_of(self, "loading", path);
    if (!path || !*path) return iv__io_fail(&j, IV_INVALID, "the path is empty");
    return iv__sharded_read(&j, sink);
}

static int detect(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "detecting", path);
    struct stat st;
    if (!path || j.calls->stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) return 0;
    char *manifest = iv__shard_path(path, IV__SHARDED_MANIFEST);
    const bool there = manifest && exists(&j, manifest);
    free(manifest);
    return there ? 100 : 10;
}

/* The manifest goes first: from then on it is no checkpoint. */
static iv_status remove_checkpoint(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "removing", path);
    const sharded *p = self;
    struct stat st;
    if (!path || !*path) return iv__io_fail(&j, IV_INVALID, "the path is empty");
    if (p->group.rank > 0 || j.calls->stat(path, &st) != 0) return IV_OK;
    if (!S_ISDIR(st.st_mode)) return iv__io_fail(&j, IV_INVALID, "this is a file, not a folder");
    char *manifest = iv__shard_path(path, IV__SHARDED_MANIFEST);
    if (!manifest) return no_memory(&j);
    iv__io_job file = j;
    file.path = manifest;
    iv_status s = iv__io_remove(&file);
    free(manifest);
    if (s == IV_OK) s = iv__io_sync_inside(&j);
    if (s != IV_OK) return s;
    clean(&j, 0);
    if (j.calls->rmdir(path) != 0 && errno != ENOENT && errno != ENOTEMPTY && errno != EEXIST)
        return iv__io_fail_errno(&j, errno, "removing the folder failed");
    return IV_OK;
}

static iv_status join(void *self, const iv_ckpt_group *group)
{
    sharded *p = self;
    if (group->ranks < 1 || group->rank < 0 || group->rank >= group->ranks)
        return p->host->fail(IV_INVALID, "checkpoint plugin sharded: rank %d of %d", group->rank,
                             group->ranks);
    p->group = *group;
    return IV_OK;
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    double timeout = 600;
    char rest;
    if (args && *args && (sscanf(args, "timeout=%lf%c", &timeout, &rest) != 1 || !(timeout > 0)))
        return host->fail(IV_INVALID,
                          "checkpoint plugin sharded: \"%s\": it takes nothing, or timeout=SECONDS",
                          args);
    sharded *p = malloc(sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin sharded: allocating %zu bytes",
                          sizeof(*p));
    *p =
        (sharded){.host = host, .calls = &iv__io_system, .group = {.ranks = 1}, .timeout = timeout};
    *out_self = p;
    return IV_OK;
}

void iv__sharded_use_calls(void *self, const iv__io_calls *calls)
{
    ((sharded *)self)->calls = calls;
}

static const iv_checkpoint vtable = {
    .detect = detect,
    .save = save,
    .load = load,
    .remove = remove_checkpoint,
    .extension = "",
    .join = join,
};

const iv_plugin iv__plugin_sharded = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "sharded",
    .version = "1.0",
    .summary = "folders that all ranks write, loaded by any number of ranks",
    .vtable = &vtable,
    .init = init,
    .fini = free,
};
