/* ckpt_tools.c: what tools do with checkpoints of any format: list, compare, convert, remove. */
#include "trainer.h"

#include "registry.h"

#include <math.h>

/* ---- listing ---- */

static iv_status list_meta(void *ctx, const char *key, const char *value)
{
    const iv_ckpt_visitor *v = ctx;
    if (v->meta) v->meta(v->ctx, key, value);
    return IV_OK;
}

static iv_status list_tensor(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    const iv_ckpt_visitor *v = ctx;
    *out_dst = NULL;
    if (v->tensor) v->tensor(v->ctx, info->name, info->dtype, &info->shape);
    return IV_OK;
}

iv_status iv_checkpoint_list(const char *path, const iv_ckpt_visitor *v)
{
    const iv_checkpoint *vt;
    void *self;
    IV_TRY(iv__ckpt_format_of(NULL, path, &vt, &self));
    iv_ckpt_visitor copy = *v;
    return vt->load(self, path,
                    &(iv_ckpt_sink){.ctx = &copy, .meta = list_meta, .want = list_tensor});
}

iv_status iv_checkpoint_remove(const char *path)
{
    const iv_checkpoint *vt;
    void *self;
    IV_TRY(iv__ckpt_format_of(NULL, path, &vt, &self));
    return vt->remove(self, path);
}

/* ---- a whole checkpoint in memory ---- */

typedef struct image {
    iv_ckpt_tensor *tensors; /* names and data owned */
    iv_ckpt_meta *meta;      /* owned */
    int64_t n_tensors, cap_tensors, n_meta, cap_meta;
} image;

static iv_status image_meta(void *ctx, const char *key, const char *value)
{
    image *m = ctx;
    char *k, *v;
    IV_TRY(iv__reserve(&m->meta, &m->cap_meta, m->n_meta + 1, sizeof(*m->meta), "metadata"));
    IV_TRY(iv__strdup(key, &k));
    m->meta[m->n_meta].key = k;
    iv_status s = iv__strdup(value, &v);
    m->meta[m->n_meta++].value = s == IV_OK ? v : NULL;
    return s;
}

static iv_status image_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    image *m = ctx;
    char *name, *data;
    IV_TRY(iv__reserve(&m->tensors, &m->cap_tensors, m->n_tensors + 1, sizeof(*m->tensors),
                       "the list of tensors"));
    IV_TRY(iv__strdup(info->name, &name));
    iv_ckpt_tensor *t = &m->tensors[m->n_tensors++];
    *t = *info;
    t->name = name;
    t->data = NULL;
    IV_TRY(
        iv__calloc(iv_shape_count(&info->shape), iv_dtype_bytes(info->dtype), info->name, &data));
    t->data = *out_dst = data;
    return IV_OK;
}

static void image_free(image *m)
{
    for (int64_t i = 0; i < m->n_tensors; ++i) {
        free((void *)(uintptr_t)m->tensors[i].name);
        free((void *)(uintptr_t)m->tensors[i].data);
    }
    for (int64_t i = 0; i < m->n_meta; ++i) {
        free((void *)(uintptr_t)m->meta[i].key);
        free((void *)(uintptr_t)m->meta[i].value);
    }
    free(m->tensors);
    free(m->meta);
    *m = (image){0};
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const iv_ckpt_tensor *)a)->name, ((const iv_ckpt_tensor *)b)->name);
}

static iv_status image_load(image *m, const char *path)
{
    const iv_checkpoint *vt;
    void *self;
    IV_TRY(iv__ckpt_format_of(NULL, path, &vt, &self));
    return vt->load(self, path, &(iv_ckpt_sink){.ctx = m, .meta = image_meta, .want = image_want});
}

/* ---- comparing ---- */

static double element(const iv_ckpt_tensor *t, int64_t i)
{
    const char *p = (const char *)t->data + i * (int64_t)iv_dtype_bytes(t->dtype);
    uint32_t bits;
    uint16_t half;
    union {
        float f;
        double d;
        int32_t i;
        int64_t l;
        uint8_t u;
    } v;
    memcpy(&v, p, iv_dtype_bytes(t->dtype));
    switch (t->dtype) {
    case IV_F32: return (double)v.f;
    case IV_F64: return v.d;
    case IV_I32: return (double)v.i;
    case IV_I64: return (double)v.l;
    case IV_U8: return (double)v.u;
    case IV_BF16:
        memcpy(&half, p, 2);
        bits = (uint32_t)half << 16;
        memcpy(&v.f, &bits, 4);
        return (double)v.f;
    case IV_F16: {
        memcpy(&half, p, 2);
        const int exponent = half >> 10 & 31, mantissa = half & 1023;
        const double x = exponent == 31 ? (mantissa ? NAN : INFINITY)
                         : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                        : ldexp(mantissa, -24);
        return half >> 15 ? -x : x;
    }
    default: memcpy(&half, p, 2); return (double)half;
    }
}

static void compare_values(const iv_ckpt_tensor *a, const iv_ckpt_tensor *b, iv_ckpt_difference *d)
{
    const size_t each = iv_dtype_bytes(a->dtype);
    for (int64_t i = 0; i < d->elements; ++i) {
        if (memcmp((const char *)a->data + (size_t)i * each,
                   (const char *)b->data + (size_t)i * each, each) == 0)
            continue;
        const double x = fabs(element(a, i) - element(b, i));
        ++d->different;
        if (isnan(x) || x > d->max_abs) d->max_abs = x;
    }
    if (d->different) d->kind = "values";
}

static void compare(const iv_ckpt_tensor *a, const iv_ckpt_tensor *b,
                    void (*tell)(void *ctx, const iv_ckpt_difference *d), void *ctx)
{
    iv_ckpt_difference d = {.name = a ? a->name : b->name,
                            .kind = "equal",
                            .elements = iv_shape_count(a ? &a->shape : &b->shape)};
    if (!a || !b) d.kind = a ? "only in the first" : "only in the second";
    else if (!iv__shape_equal(&a->shape, &b->shape)) d.kind = "shape";
    else if (a->dtype != b->dtype) d.kind = "type";
    else compare_values(a, b, &d);
    tell(ctx, &d);
}

iv_status iv_checkpoint_diff(const char *path_a, const char *path_b,
                             void (*tell)(void *ctx, const iv_ckpt_difference *d), void *ctx)
{
    image a = {0}, b = {0};
    iv_status s = image_load(&a, path_a);
    if (s == IV_OK) s = image_load(&b, path_b);
    if (s == IV_OK) {
        qsort(a.tensors, (size_t)a.n_tensors, sizeof(*a.tensors), by_name);
        qsort(b.tensors, (size_t)b.n_tensors, sizeof(*b.tensors), by_name);
        for (int64_t i = 0, k = 0; i < a.n_tensors || k < b.n_tensors;) {
            const iv_ckpt_tensor *x = i < a.n_tensors ? &a.tensors[i] : NULL,
                                 *y = k < b.n_tensors ? &b.tensors[k] : NULL;
            const int order = !x ? 1 : !y ? -1 : strcmp(x->name, y->name);
            compare(order <= 0 ? x : NULL, order >= 0 ? y : NULL, tell, ctx);
            i += order <= 0;
            k += order >= 0;
        }
    }
    image_free(&a);
    image_free(&b);
    return s;
}

/* ---- converting ---- */

static const char *format_for(const char *path)
{
    static const char *const endings[][2] = {{".safetensors", "safetensors"},
                                             {".index.json", "hf"},
                                             {".pt", "torch"},
                                             {".pth", "torch"},
                                             {".bin", "torch"},
                                             {".ckpt", "torch"}};
    const size_t n = strlen(path);
    for (int64_t i = 0; i < IV_COUNT(endings); ++i) {
        const size_t m = strlen(endings[i][0]);
        if (n > m && strcmp(path + n - m, endings[i][0]) == 0) return endings[i][1];
    }
    return "sharded";
}

iv_status iv_checkpoint_convert(const char *src, const char *dst, const char *format)
{
    image m = {0};
    const iv_plugin *p;
    void *self;
    iv_status s = image_load(&m, src);
    if (s == IV_OK)
        s = iv__registry_get(IV_PLUGIN_CHECKPOINT, format ? format : format_for(dst), &p, &self);
    if (s == IV_OK) {
        const iv_checkpoint *vt = p->vtable;
        s = vt->save(self, dst,
                     &(iv_ckpt){.n_tensors = m.n_tensors,
                                .tensors = m.tensors,
                                .n_meta = m.n_meta,
                                .meta = m.meta,
                                .id = (uint64_t)iv__now_ns() | 1});
        if (s == IV_OK && vt->poll) { /* a wrapper that saves later */
            const char *told;
            s = vt->drain(self);
            if (s == IV_OK) s = vt->poll(self, &told);
        }
    }
    image_free(&m);
    return s;
}
