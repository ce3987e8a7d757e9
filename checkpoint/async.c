/* async.c: the checkpoint plugin `async(INNER)`: saves while training goes on.
 *
 *   save ──> the list of what is to be copied ──> return
 *            worker:  chunk, chunk, chunk ... ──> inner save from the copy ──> outcome
 *            release: chunk, chunk                (the caller, before it changes that memory)
 *
 * The memory that save is given stays unchanged for the forward and backward passes that follow.
 * Meanwhile the worker copies it, a chunk at a time; before the optimizer changes a range it calls
 * release, which copies what of the range is not yet copied.  So a save costs the training thread
 * the making of the list, and copying only what the worker could not finish in time.
 *
 * Memory is bounded by one copy: one save is under way at a time, the next one waits for it.  The
 * copy is kept for the next save.  Outcomes are told by poll in the order of the saves, each once.
 * load and remove of a path wait for a save of that path.
 */
#include "wrap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256 << 10, ALIGN = 64 };

typedef struct chunk {
    const char *src;
    char *dst;
    size_t bytes;
    _Atomic int state; /* chunk_state */
} chunk;
enum chunk_state { WAITING, CLAIMED, COPIED };

/* A save under way, with copies of all that the caller's description holds. */
typedef struct job {
    char *path;
    iv_ckpt c; /* tensors' data point into the copy */
    char *texts;
    chunk *chunks;
    int64_t n_chunks;
    int users; /* calls of release that look at it; under the lock */
} job;

typedef struct outcome {
    struct outcome *next;
    char *path;
    iv_status status;
    char text[2048];
} outcome;

typedef struct async {
    iv__wrap wrap;
    char *copy; /* memory of the copied tensors */
    int64_t copy_bytes;
    _Atomic bool copying; /* some chunk is not yet copied */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    bool started, stop;
    job *job; /* under way, or NULL */
    outcome *first, *told;
} async;

/* ---- describing a save ---- */

static int64_t element_bytes(iv_dtype t)
{
    static const int64_t bytes[IV_DTYPE_COUNT] = {
        [IV_F32] = 4, [IV_F64] = 8, [IV_BF16] = 2, [IV_F16] = 2,
        [IV_I32] = 4, [IV_I64] = 8, [IV_U8] = 1,   [IV_U16] = 2};
    return (unsigned)t < IV_DTYPE_COUNT ? bytes[t] : 0;
}

/* Bytes of tensor i that this rank has. */
static int64_t bytes_of(const iv_ckpt *c, int64_t i)
{
    int64_t n = 1;
    if (c->parts) n = c->parts[i].end - c->parts[i].begin;
    else
        for (int32_t k = 0; k < c->tensors[i].shape.rank; ++k) n *= c->tensors[i].shape.dim[k];
    return n * element_bytes(c->tensors[i].dtype);
}

static int64_t room_of(int64_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static void job_free(job *j)
{
    if (!j) return;
    free((void *)(uintptr_t)j->c.tensors);
    free((void *)(uintptr_t)j->c.meta);
    free((void *)(uintptr_t)j->c.parts);
    free(j->texts);
    free(j->chunks);
    free(j->path);
    free(j);
}

static const char *put_text(char **at, const char *s)
{
    size_t n = strlen(s) + 1;
    char *to = memcpy(*at, s, n);
    *at += n;
    return to;
}

/* Copies names, metadata and parts. */
static bool copy_description(job *j, const char *path, const iv_ckpt *c)
{
    size_t n_text = 1, n = (size_t)c->n_tensors, m = (size_t)c->n_meta;
    for (size_t i = 0; i < n; ++i) n_text += strlen(c->tensors[i].name) + 1;
    for (size_t i = 0; i < m; ++i) n_text += strlen(c->meta[i].key) + strlen(c->meta[i].value) + 2;
    iv_ckpt_tensor *tensors = calloc(n + 1, sizeof(*tensors));
    iv_ckpt_meta *meta = calloc(m + 1, sizeof(*meta));
    iv_ckpt_part *parts = c->parts ? calloc(n + 1, sizeof(*parts)) : NULL;
    j->c = (iv_ckpt){.n_tensors = c->n_tensors,
                     .n_meta = c->n_meta,
                     .tensors = tensors,
                     .meta = meta,
                     .parts = parts,
                     .id = c->id};
    j->texts = malloc(n_text);
    j->path = strdup(path);
    if (!tensors || !meta || (c->parts && !parts) || !j->texts || !j->path) return false;
    char *at = j->texts;
    for (size_t i = 0; i < n; ++i) {
        tensors[i] = c->tensors[i];
        tensors[i].name = put_text(&at, c->tensors[i].name);
    }
    for (size_t i = 0; i < m; ++i) {
        meta[i].key = put_text(&at, c->meta[i].key);
        meta[i].value = put_text(&at, c->meta[i].value);
    }
    if (parts) memcpy(parts, c->parts, n * sizeof(*parts));
    return true;
}

/* Makes room for the copy and lists the chunks.  Memory of a device is fetched now. */
static iv_status plan_copy(async *a, job *j, const iv_ckpt *c)
{
    iv_ckpt_tensor *tensors = (iv_ckpt_tensor *)(uintptr_t)j->c.tensors;
    int64_t total = 0, at = 0, n_chunks = 0;
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        total += room_of(bytes_of(c, i));
        n_chunks += bytes_of(c, i) / CHUNK + 1;
    }
    if (total > a->copy_bytes) {
        free(a->copy);
        a->copy_bytes = 0;
        a->copy = aligned_alloc(ALIGN, (size_t)total);
    }
    j->chunks = calloc((size_t)n_chunks + 1, sizeof(*j->chunks));
    if ((total > 0 && !a->copy) || !j->chunks)
        return a->wrap.host->fail(IV_NO_MEMORY,
                                  "saving checkpoint %s: allocating %lld bytes for a copy", j->path,
                                  (long long)total);
    if (total > a->copy_bytes) a->copy_bytes = total;
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const int64_t bytes = bytes_of(c, i);
        char *dst = a->copy + at;
        const char *src = c->tensors[i].data;
        tensors[i].data = dst;
        if (!src && bytes > 0 && c->read) {
            iv_status s = c->read(c->ctx, i, 0, bytes, dst);
            if (s != IV_OK) return s;
        }
        for (int64_t k = 0; src && k < bytes; k += CHUNK)
            j->chunks[j->n_chunks++] =
                (chunk){.src = src + k,
                        .dst = dst + k,
                        .bytes = (size_t)(bytes - k < CHUNK ? bytes - k : CHUNK)};
        at += room_of(bytes);
    }
    return IV_OK;
}

/* ---- copying and writing ---- */

/* Copies the chunk unless somebody else does. */
static void copy_chunk(chunk *k)
{
    int expected = WAITING;
    if (!atomic_compare_exchange_strong(&k->state, &expected, CLAIMED)) return;
    memcpy(k->dst, k->src, k->bytes);
    atomic_store(&k->state, COPIED);
}

static void wait_copied(async *a, const chunk *k)
{
    if (atomic_load(&k->state) == COPIED) return;
    pthread_mutex_lock(&a->lock);
    while (atomic_load(&k->state) != COPIED) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static void wake(async *a)
{
    pthread_mutex_lock(&a->lock);
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void add_outcome(async *a, outcome *o)
{
    outcome **end = &a->first;
    while (*end) end = &(*end)->next;
    *end = o;
}

static void finish(async *a, job *j)
{
    for (int64_t i = 0; i < j->n_chunks; ++i) {
        copy_chunk(&j->chunks[i]);
        wake(a); /* the training thread may wait for this very chunk */
    }
    for (int64_t i = 0; i < j->n_chunks; ++i) wait_copied(a, &j->chunks[i]);
    atomic_store(&a->copying, false);
    iv_status s = a->wrap.inner->save(a->wrap.inner_self, j->path, &j->c);
    outcome *o = calloc(1, sizeof(*o));
    if (o) {
        o->status = s;
        if (s != IV_OK) strncpy(o->text, a->wrap.host->message(), sizeof(o->text) - 1);
    } else {
        a->wrap.host->log(IV_LOG_WARN, "no memory to tell the outcome of saving %s: %s", j->path,
                          s == IV_OK ? "saved" : a->wrap.host->message());
    }
    pthread_mutex_lock(&a->lock);
    if (o) {
        o->path = j->path; /* until now others compare it */
        j->path = NULL;
        add_outcome(a, o);
    }
    a->job = NULL;
    pthread_cond_broadcast(&a->changed);
    while (j->users > 0) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    job_free(j);
}

static void *work(void *arg)
{
    async *a = arg;
    for (;;) {
        pthread_mutex_lock(&a->lock);
        while (!a->job && !a->stop) pthread_cond_wait(&a->changed, &a->lock);
        job *j = a->job;
        pthread_mutex_unlock(&a->lock);
        if (!j) return NULL;
        finish(a, j);
    }
}

/* ---- the table ---- */

static iv_status drain(void *self)
{
    async *a = self;
    pthread_mutex_lock(&a->lock);
    while (a->job) pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    return IV_OK;
}

/* A rank with nothing to write has saved at once. */
static iv_status nothing_to_write(async *a, const char *path)
{
    outcome *o = calloc(1, sizeof(*o));
    if (o) o->path = strdup(path);
    if (!o || !o->path) {
        free(o);
        return a->wrap.host->fail(IV_NO_MEMORY, "saving checkpoint %s: allocating its outcome",
                                  path);
    }
    pthread_mutex_lock(&a->lock);
    add_outcome(a, o);
    pthread_mutex_unlock(&a->lock);
    return IV_OK;
}

static iv_status start(async *a)
{
    if (a->started) return IV_OK;
    if (pthread_create(&a->thread, NULL, work, a) != 0)
        return a->wrap.host->fail(IV_NO_MEMORY, "checkpoint plugin async: starting its thread");
    a->started = true;
    return IV_OK;
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    async *a = self;
    if (!path || !c || c->n_tensors < 0 || c->n_meta < 0)
        return a->wrap.host->fail(IV_INVALID, "saving checkpoint: no contents were given");
    if (!iv__wrap_acts(&a->wrap)) return nothing_to_write(a, path);
    drain(a); /* one at a time: this bounds the memory */
    job *j = calloc(1, sizeof(*j));
    iv_status s = IV_OK;
    if (!j || !copy_description(j, path, c))
        s = a->wrap.host->fail(IV_NO_MEMORY, "saving checkpoint %s: copying its description", path);
    if (s == IV_OK) s = plan_copy(a, j, c);
    if (s == IV_OK) s = start(a);
    if (s != IV_OK) {
        job_free(j);
        return s;
    }
    atomic_store(&a->copying, true);
    pthread_mutex_lock(&a->lock);
    a->job = j;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    return IV_OK;
}

static void release(void *self, const void *data, int64_t bytes)
{
    async *a = self;
    if (!atomic_load(&a->copying)) return;
    pthread_mutex_lock(&a->lock);
    job *j = a->job;
    if (j) ++j->users; /* so it stays */
    pthread_mutex_unlock(&a->lock);
    if (!j) return;
    const char *begin = data, *end = begin + bytes;
    /* The worker goes from the first to the last; coming from the other end they meet once. */
    for (int64_t i = j->n_chunks - 1; i >= 0; --i) {
        chunk *k = &j->chunks[i];
        if (k->src < end && begin < k->src + k->bytes) copy_chunk(k);
    }
    for (int64_t i = 0; i < j->n_chunks; ++i) {
        const chunk *k = &j->chunks[i];
        if (k->src < end && begin < k->src + k->bytes) wait_copied(a, k);
    }
    pthread_mutex_lock(&a->lock);
    --j->users;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void wait_for_path(async *a, const char *path)
{
    pthread_mutex_lock(&a->lock);
    while (path && a->job && strcmp(a->job->path, path) == 0)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    async *a = self;
    wait_for_path(a, path);
    return a->wrap.inner->load(a->wrap.inner_self, path, sink);
}

static iv_status remove_checkpoint(void *self, const char *path)
{
    async *a = self;
    wait_for_path(a, path);
    if (!iv__wrap_acts(&a->wrap)) return IV_OK;
    return a->wrap.inner->remove(a->wrap.inner_self, path);
}

static iv_status poll(void *self, const char **out_path)
{
    async *a = self;
    pthread_mutex_lock(&a->lock);
    outcome *o = a->first, *old = a->told;
    if (o) a->first = o->next;
    a->told = o;
    pthread_mutex_unlock(&a->lock);
    if (old) free(old->path);
    free(old);
    *out_path = o ? o->path : NULL;
    if (!o || o->status == IV_OK) return IV_OK;
    return a->wrap.host->fail(o->status, "%s", o->text);
}

static iv_status join(void *self, const iv_ckpt_group *group)
{
    return iv__wrap_join(&((async *)self)->wrap, group);
}

static void fini(void *self)
{
    async *a = self;
    if (!a) return;
    drain(a);
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    if (a->started) pthread_join(a->thread, NULL);
    const char *path;
    do (void)poll(a, &path);
    while (path);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
    free(a->copy);
    free(a);
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    async *a = calloc(1, sizeof(*a));
    if (!a)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin async: allocating %zu bytes",
                          sizeof(*a));
    iv_status s = iv__wrap_open(&a->wrap, host, "async", args);
    if (s == IV_OK && a->wrap.inner->poll)
        s = host->fail(IV_INVALID, "checkpoint plugin async: \"%s\" saves asynchronously already",
                       args);
    if (s != IV_OK) {
        free(a);
        return s;
    }
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    *out_self = a;
    return IV_OK;
}

static const iv_checkpoint vtable = {
    .save = save,
    .load = load,
    .remove = remove_checkpoint,
    .drain = drain,
    .extension = NULL, /* the inner plugin's */
    .release = release,
    .poll = poll,
    .join = join,
};

const iv_plugin iv__plugin_async = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "async",
    .version = "1.0",
    .summary = "async(PLUGIN) saves with it while training goes on",
    .vtable = &vtable,
    .init = init,
    .fini = fini,
};
