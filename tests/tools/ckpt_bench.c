/* ckpt_bench.c: measures checkpoint plugins on a state as large as that of GPT-2 124M with AdamW:
 * parameters and two moments in three arenas, 1.5 GB in f32.
 *
 *   ckpt_bench FOLDER [PLUGIN=async] [SAVES=10] [STEP_MS=1000] [STEPS_PER_SAVE=10]
 *
 * A step leaves the state alone for STEP_MS (forward and backward), releases it as the trainer
 * does, and overwrites it (the optimizer).  Printed as one JSON line: what a save costs the thread
 * that trains (in save and in release) as median, 99th percentile and greatest; the time of a whole
 * save and of a load, and their rates. */
#include "base.h"
#include "registry.h"

#include <time.h>
#include <unistd.h>

enum { LAYERS = 12, WIDTH = 768, VOCAB = 50257, CONTEXT = 1024, MOST = 600, MOST_SAVES = 1000 };

typedef struct bench {
    iv_ckpt_tensor tensors[MOST];
    char names[MOST][64];
    int64_t n, elements; /* of one arena */
    float *arena[3];
    void *loaded;
} bench;

static void add(bench *b, const char *name, int64_t rows, int64_t columns)
{
    const int64_t count = rows * (columns ? columns : 1);
    snprintf(b->names[b->n], sizeof(b->names[0]), "%s", name);
    b->tensors[b->n] = (iv_ckpt_tensor){.name = b->names[b->n],
                                        .dtype = IV_F32,
                                        .shape = columns ? IV_SHAPE(rows, columns) : IV_SHAPE(rows),
                                        .data = b->arena[0] ? b->arena[0] + b->elements : NULL};
    ++b->n;
    b->elements += (count + 63) / 64 * 64;
}

/* The parameters of GPT-2, with a prefix for the moments, from element b->elements on. */
static void add_model(bench *b, const char *prefix)
{
    static const struct {
        const char *name;
        int64_t rows, columns;
    } block[] = {{"ln_1.weight", WIDTH, 0},
                 {"ln_1.bias", WIDTH, 0},
                 {"attn.c_attn.weight", WIDTH, 3 * WIDTH},
                 {"attn.c_attn.bias", 3 * WIDTH, 0},
                 {"attn.c_proj.weight", WIDTH, WIDTH},
                 {"attn.c_proj.bias", WIDTH, 0},
                 {"ln_2.weight", WIDTH, 0},
                 {"ln_2.bias", WIDTH, 0},
                 {"mlp.c_fc.weight", WIDTH, 4 * WIDTH},
                 {"mlp.c_fc.bias", 4 * WIDTH, 0},
                 {"mlp.c_proj.weight", 4 * WIDTH, WIDTH},
                 {"mlp.c_proj.bias", WIDTH, 0}};
    char name[64];
    snprintf(name, sizeof(name), "%swte.weight", prefix);
    add(b, name, VOCAB, WIDTH);
    snprintf(name, sizeof(name), "%swpe.weight", prefix);
    add(b, name, CONTEXT, WIDTH);
    for (int l = 0; l < LAYERS; ++l)
        for (size_t k = 0; k < sizeof(block) / sizeof(block[0]); ++k) {
            snprintf(name, sizeof(name), "%sh.%d.%s", prefix, l, block[k].name);
            add(b, name, block[k].rows, block[k].columns);
        }
    snprintf(name, sizeof(name), "%sln_f.weight", prefix);
    add(b, name, WIDTH, 0);
    snprintf(name, sizeof(name), "%sln_f.bias", prefix);
    add(b, name, WIDTH, 0);
}

static iv_status make(bench *b)
{
    static const char *const prefix[3] = {"", "optim.m.", "optim.v."};
    add_model(b, ""); /* for its size */
    const int64_t elements = b->elements;
    b->n = 0;
    for (int a = 0; a < 3; ++a) IV_TRY(iv__calloc(elements, 4, "an arena", &b->arena[a]));
    for (int a = 0; a < 3; ++a) {
        float *first = b->arena[0];
        b->arena[0] = b->arena[a]; /* add() takes addresses from there */
        b->elements = 0;
        add_model(b, prefix[a]);
        b->arena[0] = first;
        for (int64_t i = 0; i < elements; ++i) b->arena[a][i] = (float)i;
    }
    return IV_OK;
}

static iv_status want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    bench *b = ctx;
    *out_dst = b->loaded;
    b->loaded = (char *)b->loaded + iv_shape_count(&info->shape) * 4;
    return IV_OK;
}

static void sleep_ms(int64_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static iv_status measure(bench *b, const char *folder, const char *spec, int64_t saves,
                         int64_t step_ms, int64_t steps)
{
    static int64_t stall[MOST_SAVES];
    const iv_plugin *p;
    void *self;
    char path[1000];
    int64_t bytes = 0, begin = iv__now_ns(), busy = 0;
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, spec, &p, &self));
    const iv_checkpoint *vt = p->vtable;
    for (int64_t i = 0; i < b->n; ++i) bytes += iv_shape_count(&b->tensors[i].shape) * 4;
    for (int64_t k = 0; k < saves; ++k) {
        snprintf(path, sizeof(path), "%s/bench-%d", folder, (int)(k % 2));
        int64_t t = iv__now_ns();
        IV_TRY(vt->save(self, path,
                        &(iv_ckpt){.n_tensors = b->n, .tensors = b->tensors, .id = (uint64_t)t}));
        stall[k] = iv__now_ns() - t;
        for (int64_t s = 0; s < steps; ++s) {
            sleep_ms(step_ms);
            t = iv__now_ns();
            for (int a = 0; a < 3 && vt->release; ++a)
                vt->release(self, b->arena[a], b->elements * 4);
            stall[k] += iv__now_ns() - t;
            for (int a = 0; a < 3; ++a) b->arena[a][(k * 7919 + s) % b->elements] += 1;
        }
    }
    if (vt->drain) IV_TRY(vt->drain(self));
    const int64_t all = iv__now_ns() - begin;
    for (const char *told = ""; vt->poll && told;) IV_TRY(vt->poll(self, &told));
    int64_t t = iv__now_ns();
    IV_TRY(vt->save(self, path, &(iv_ckpt){.n_tensors = b->n, .tensors = b->tensors, .id = 1}));
    if (vt->drain) IV_TRY(vt->drain(self));
    const double saved = (double)(iv__now_ns() - t) * 1e-9;
    void *room;
    IV_TRY(iv__calloc(bytes, 1, "the loaded state", &room));
    memset(room, 1, (size_t)bytes); /* as memory that a run has used */
    b->loaded = room;
    t = iv__now_ns();
    IV_TRY(vt->load(self, path, &(iv_ckpt_sink){.ctx = b, .want = want}));
    const double loaded = (double)(iv__now_ns() - t) * 1e-9;
    free(room);
    busy = saves * steps * step_ms;
    qsort(stall, (size_t)saves, sizeof(*stall), by_size);
    printf("{\"plugin\":\"%s\",\"bytes\":%lld,\"saves\":%lld,\"stall_ms_median\":%.3f,"
           "\"stall_ms_p99\":%.3f,\"stall_ms_max\":%.3f,\"overhead_percent\":%.2f,\"save_s\":%.2f,"
           "\"save_mb_per_s\":%.0f,\"load_s\":%.2f,\"load_mb_per_s\":%.0f}\n",
           spec, (long long)bytes, (long long)saves, (double)stall[saves / 2] * 1e-6,
           (double)stall[(saves * 99 + 99) / 100 - 1] * 1e-6, (double)stall[saves - 1] * 1e-6,
           100 * ((double)all * 1e-6 - (double)busy) / (double)IV_MAX2(busy, 1), saved,
           (double)bytes / saved * 1e-6, loaded, (double)bytes / loaded * 1e-6);
    for (int i = 0; i < 2; ++i) {
        snprintf(path, sizeof(path), "%s/bench-%d", folder, i);
        IV_TRY(vt->remove(self, path));
    }
    return IV_OK;
}

int main(int argc, char **argv)
{
    static bench b;
    const int64_t saves = argc > 3 ? strtoll(argv[3], NULL, 10) : 10;
    if (argc < 2 || saves < 1 || saves > MOST_SAVES) {
        fprintf(stderr, "ckpt_bench FOLDER [PLUGIN] [SAVES] [STEP_MS] [STEPS_PER_SAVE]\n");
        return 2;
    }
    iv_status s = make(&b);
    if (s == IV_OK)
        s = measure(&b, argv[1], argc > 2 ? argv[2] : "async", saves,
                    argc > 4 ? strtoll(argv[4], NULL, 10) : 1000,
                    argc > 5 ? strtoll(argv[5], NULL, 10) : 10);
    for (int a = 0; a < 3; ++a) free(b.arena[a]);
    if (s == IV_OK) return 0;
    fprintf(stderr, "ckpt_bench: %s\n", iv_error_message());
    return 1;
}
