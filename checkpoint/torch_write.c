/* torch_write.c: writes a file of torch.save (see torch.h): a pickle that describes the tensors,
 * and a ZIP entry with the bytes of each.  The pickle uses the opcodes of protocol 2 that every
 * reader knows, also torch.load(weights_only=True). */
#include "torch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct text {
    char *s;
    size_t n, cap;
    bool failed;
} text;

static void put(text *t, const void *bytes, size_t n)
{
    if (t->n + n > t->cap && !t->failed) {
        const size_t cap = (t->n + n) * 2 + 256;
        char *more = realloc(t->s, cap);
        if (!more) t->failed = true;
        else {
            t->s = more;
            t->cap = cap;
        }
    }
    if (t->failed) return;
    memcpy(t->s + t->n, bytes, n);
    t->n += n;
}

static void op(text *t, const char *opcodes)
{
    put(t, opcodes, strlen(opcodes));
}

static void put_text(text *t, const char *s)
{
    const uint32_t n = (uint32_t)strlen(s);
    op(t, "X");
    put(t, &n, 4);
    put(t, s, n);
}

static void put_int(text *t, int64_t v)
{
    if (v >= INT32_MIN && v <= INT32_MAX) {
        const int32_t small = (int32_t)v;
        op(t, "J");
        put(t, &small, 4);
    } else {
        put(t, "\x8a\x08", 2);
        put(t, &v, 8);
    }
}

static void put_float(text *t, double x)
{
    uint64_t v;
    memcpy(&v, &x, sizeof(v));
    v = __builtin_bswap64(v);
    op(t, "G");
    put(t, &v, 8);
}

/* ---- tensors ---- */

static const char *const storages[IV_DTYPE_COUNT] = {
    [IV_F32] = "FloatStorage", [IV_F64] = "DoubleStorage", [IV_BF16] = "BFloat16Storage",
    [IV_F16] = "HalfStorage",  [IV_I32] = "IntStorage",    [IV_I64] = "LongStorage",
    [IV_U8] = "ByteStorage"};

static int64_t size_of(iv_dtype t)
{
    static const int64_t each[IV_DTYPE_COUNT] = {
        [IV_F32] = 4, [IV_F64] = 8, [IV_BF16] = 2, [IV_F16] = 2,
        [IV_I32] = 4, [IV_I64] = 8, [IV_U8] = 1,   [IV_U16] = 2};
    return each[t];
}

static int64_t count_of(const iv_ckpt_tensor *t)
{
    int64_t n = 1;
    for (int32_t k = 0; k < t->shape.rank; ++k) n *= t->shape.dim[k];
    return n;
}

/* The value of tensor i, whose bytes are in entry data/i. */
static void put_tensor(text *p, const iv_ckpt *c, int64_t i)
{
    const iv_ckpt_tensor *t = &c->tensors[i];
    char key[32];
    int64_t stride[IV_MAX_RANK], all = 1;
    for (int32_t k = t->shape.rank - 1; k >= 0; --k) {
        stride[k] = all;
        all *= t->shape.dim[k] ? t->shape.dim[k] : 1;
    }
    snprintf(key, sizeof(key), "%" PRId64, i);
    op(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(p, "storage");
    op(p, "ctorch\n");
    op(p, storages[t->dtype]);
    op(p, "\n");
    put_text(p, key);
    put_text(p, "cpu");
    put_int(p, count_of(t));
    op(p, "tQ");
    put_int(p, 0);
    op(p, "(");
    for (int32_t k = 0; k < t->shape.rank; ++k) put_int(p, t->shape.dim[k]);
    op(p, "t(");
    for (int32_t k = 0; k < t->shape.rank; ++k) put_int(p, stride[k]);
    op(p, "t\x89"
          "ccollections\nOrderedDict\n)RtR");
}

static bool starts_with(const char *s, const char *head)
{
    return strncmp(s, head, strlen(head)) == 0;
}

/* {name: tensor} of all, or of those that are no optimizer state. */
static void put_tensors(text *p, const iv_ckpt *c, bool weights)
{
    op(p, "}(");
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        if (weights && starts_with(c->tensors[i].name, "optim.")) continue;
        put_text(p, c->tensors[i].name);
        put_tensor(p, c, i);
    }
    op(p, "u");
}

/* ---- Lightning ---- */

static const char *meta_of(const iv_ckpt *c, const char *key)
{
    for (int64_t i = 0; i < c->n_meta; ++i)
        if (strcmp(c->meta[i].key, key) == 0) return c->meta[i].value;
    return NULL;
}

/* A setting of the optimizer: what Lightning had, or the run's configuration (YAML, a section of
 * which is "optim:"). */
static double optim_setting(const iv_ckpt *c, const char *theirs, const char *ours, double fallback)
{
    const char *value = meta_of(c, theirs), *config = meta_of(c, "invar.config");
    char line[64];
    if (value) return strtod(value, NULL);
    snprintf(line, sizeof(line), "\n  %s: ", ours);
    const char *section = config ? strstr(config, "optim:\n") : NULL,
               *at = section ? strstr(section, line) : NULL;
    return at ? strtod(at + strlen(line), NULL) : fallback;
}

static int64_t find(const iv_ckpt *c, const char *prefix, const char *name)
{
    const size_t n = strlen(prefix);
    for (int64_t i = 0; i < c->n_tensors; ++i)
        if (starts_with(c->tensors[i].name, prefix) && strcmp(c->tensors[i].name + n, name) == 0)
            return i;
    return -1;
}

static void put_optimizer(text *p, const iv_ckpt *c, double step)
{
    int64_t n = 0;
    op(p, "](}(");
    put_text(p, "state");
    op(p, "}(");
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const int64_t m = find(c, "optim.m.", c->tensors[i].name),
                      v = find(c, "optim.v.", c->tensors[i].name);
        if (m < 0 || v < 0) continue;
        put_int(p, n++);
        op(p, "}(");
        put_text(p, "step");
        put_float(p, step);
        put_text(p, "exp_avg");
        put_tensor(p, c, m);
        put_text(p, "exp_avg_sq");
        put_tensor(p, c, v);
        op(p, "u");
    }
    op(p, "u");
    put_text(p, "param_groups");
    op(p, "](}(");
    static const struct {
        const char *key, *theirs, *ours;
        double fallback;
    } settings[] = {
        {"lr", "lightning.param_groups.0.lr", "lr", 1e-3},
        {"eps", "lightning.param_groups.0.eps", "eps", 1e-8},
        {"weight_decay", "lightning.param_groups.0.weight_decay", "weight_decay", 1e-2},
    };
    for (int k = 0; k < 3; ++k) {
        put_text(p, settings[k].key);
        put_float(p, optim_setting(c, settings[k].theirs, settings[k].ours, settings[k].fallback));
    }
    put_text(p, "betas");
    put_float(p, optim_setting(c, "lightning.param_groups.0.betas.0", "beta1", 0.9));
    put_float(p, optim_setting(c, "lightning.param_groups.0.betas.1", "beta2", 0.999));
    op(p, "\x86");
    static const char *const off[] = {"amsgrad", "maximize", "capturable", "differentiable"};
    for (int k = 0; k < 4; ++k) {
        put_text(p, off[k]);
        op(p, "\x89");
    }
    put_text(p, "foreach");
    op(p, "N");
    put_text(p, "fused");
    op(p, "N");
    put_text(p, "params");
    op(p, "](");
    for (int64_t k = 0; k < n; ++k) put_int(p, k);
    op(p, "eueue");
}

static void put_lightning(text *p, const iv_ckpt *c)
{
    const char *step = meta_of(c, "invar.step"), *epoch = meta_of(c, "lightning.epoch"),
               *version = meta_of(c, "lightning.pytorch-lightning_version");
    op(p, "}(");
    put_text(p, "epoch");
    put_int(p, epoch ? strtoll(epoch, NULL, 10) : 0);
    put_text(p, "global_step");
    put_int(p, step ? strtoll(step, NULL, 10) : 0);
    put_text(p, "pytorch-lightning_version");
    put_text(p, version ? version : "2.0.0");
    put_text(p, "state_dict");
    put_tensors(p, c, true);
    put_text(p, "optimizer_states");
    put_optimizer(p, c, step ? strtod(step, NULL) : 0);
    put_text(p, "lr_schedulers");
    op(p, "]");
    put_text(p, "callbacks");
    op(p, "}");
    put_text(p, "loops");
    op(p, "}");
    op(p, "u");
}

/* ---- the file ---- */

static iv_status fill_text(void *ctx, uint64_t at, size_t n, void *dst)
{
    memcpy(dst, (const char *)ctx + at, n);
    return IV_OK;
}

typedef struct source {
    const iv_ckpt *c;
    int64_t i;
} source;

static iv_status fill_tensor(void *ctx, uint64_t at, size_t n, void *dst)
{
    const source *s = ctx;
    const iv_ckpt_tensor *t = &s->c->tensors[s->i];
    if (!t->data) return s->c->read(s->c->ctx, s->i, (int64_t)at, (int64_t)n, dst);
    memcpy(dst, (const char *)t->data + at, n);
    return IV_OK;
}

static iv_status check(const iv__io_job *j, const iv_ckpt *c)
{
    for (int64_t i = 0; i < c->n_tensors; ++i) {
        const iv_ckpt_tensor *t = &c->tensors[i];
        if ((unsigned)t->dtype >= IV_DTYPE_COUNT || !storages[t->dtype])
            return iv__io_fail(j, IV_UNSUPPORTED,
                               "tensor \"%.200s\": its type is none of this format", t->name);
        if (!t->data && count_of(t) > 0 && !c->read)
            return iv__io_fail(j, IV_INVALID, "tensor \"%.200s\" has no data", t->name);
        if (c->parts && (c->parts[i].begin != 0 || c->parts[i].end != count_of(t)))
            return iv__io_fail(j, IV_UNSUPPORTED,
                               "tensor \"%.200s\": this format holds whole tensors", t->name);
    }
    return IV_OK;
}

static iv_status write_entries(iv__zip_writer *w, const iv_ckpt *c, text *pickle, char (*names)[48])
{
    iv_status s = iv__zip_add(w, "archive/data.pkl", pickle->n, fill_text, pickle->s);
    if (s == IV_OK)
        s = iv__zip_add(w, "archive/byteorder", 6, fill_text, (void *)(uintptr_t) "little");
    for (int64_t i = 0; i < c->n_tensors && s == IV_OK; ++i) {
        source from = {c, i};
        snprintf(names[i], sizeof(names[i]), "archive/data/%" PRId64, i);
        s = iv__zip_add(w, names[i],
                        (uint64_t)(count_of(&c->tensors[i]) * size_of(c->tensors[i].dtype)),
                        fill_tensor, &from);
    }
    if (s == IV_OK) s = iv__zip_add(w, "archive/version", 2, fill_text, (void *)(uintptr_t) "3\n");
    return s == IV_OK ? iv__zip_finish(w) : s;
}

iv_status iv__torch_write(const iv__io_job *j, const iv_ckpt *c, bool lightning)
{
    text pickle = {0};
    iv__io_file f;
    iv_status s = check(j, c);
    if (s != IV_OK) return s;
    put(&pickle, "\x80\x02", 2);
    if (lightning) put_lightning(&pickle, c);
    else put_tensors(&pickle, c, false);
    op(&pickle, ".");
    char(*names)[48] = calloc((size_t)c->n_tensors + 1, sizeof(*names));
    s = pickle.failed || !names ? iv__io_fail(j, IV_NO_MEMORY, "making its pickle")
                                : iv__io_create(j, &f);
    if (s == IV_OK) {
        iv__zip_writer w = {.file = &f};
        s = write_entries(&w, c, &pickle, names);
        if (s == IV_OK) s = iv__io_commit(&f);
        iv__io_discard(&f);
        free(w.entries);
    }
    free(names);
    free(pickle.s);
    return s;
}
