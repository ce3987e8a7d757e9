/* gemm_impl.c: `matmul` by the canonical GEMM (gemm.h): invariant, and the host's own fast path. */
#include "cpu.h"
#include "gemm.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

typedef struct gemm_call {
    iv__gemm g;
    int level;
    bool bias, wide; /* wide: f64 */
    const void *bias_data;
} gemm_call;

/* Dimensions [0, n) of t as one dimension: their product and stride; false if they do not merge. */
static bool merged(const iv_tensor_desc *t, int32_t n, int64_t *count, int64_t *stride)
{
    *count = 1;
    *stride = 0;
    for (int32_t i = n - 1; i >= 0; --i) {
        if (t->shape.dim[i] == 1) continue;
        if (*count == 1) *stride = t->stride[i];
        else if (t->stride[i] != *stride * *count) return false;
        *count *= t->shape.dim[i];
    }
    return true;
}

/* Fills sizes and strides; false if the batch dimensions have no common stride. */
static bool fill(const iv_op_desc *d, iv__gemm *g)
{
    const iv_tensor_desc *a = &d->in[0], *b = &d->in[1], *c = &d->out[0];
    int32_t ra = a->shape.rank, rb = b->shape.rank;
    bool ta = d->attr[0], tb = d->attr[1], shared = rb == 2 && ra > 2;
    int64_t nb, rows, stride;
    *g = (iv__gemm){.in = (iv__gemm_type)iv__cpu_type(a->dtype),
                    .out = (iv__gemm_type)iv__cpu_type(c->dtype),
                    .batch = 1,
                    .segments = d->segments};
    g->m = c->shape.dim[ra - 2];
    g->n = c->shape.dim[ra - 1];
    g->k = a->shape.dim[ra - 1 - ta];
    g->a_rs = a->stride[ra - 2 + ta];
    g->a_cs = a->stride[ra - 1 - ta];
    g->b_rs = b->stride[rb - 2 + tb];
    g->b_cs = b->stride[rb - 1 - tb];
    g->c_rs = g->n;
    if (shared) { /* the leading dimensions of a are rows */
        if (!merged(a, ra - 1, &rows, &stride)) return false;
        g->m = rows;
        g->a_rs = stride;
        return true;
    }
    if (!merged(a, ra - 2, &g->batch, &g->a_bs) || !merged(b, rb - 2, &nb, &g->b_bs)) return false;
    g->c_bs = g->m * g->n;
    return true;
}

static iv_status gemm_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    iv__gemm g;
    if (iv__cpu_type(d->in[0].dtype) < 0 || d->in[0].dtype != d->in[1].dtype ||
        iv__cpu_type(d->out[0].dtype) < 0)
        return cpu->host->fail(IV_UNSUPPORTED, "types %s x %s", iv_dtype_name(d->in[0].dtype),
                               iv_dtype_name(d->in[1].dtype));
    if (!fill(d, &g))
        return cpu->host->fail(IV_UNSUPPORTED, "batch dimensions without a common stride");
    if (!iv__gemm_accepts(&g))
        return cpu->host->fail(IV_UNSUPPORTED, "K = %lld in %lld segments", (long long)g.k,
                               (long long)g.segments);
    return IV_OK;
}

/* Adds the bias row to finished sums. */
static void add_bias(void *ctx, void *acc, int64_t batch, int64_t row0, int64_t rows, int64_t col0,
                     int64_t cols, int64_t ld)
{
    (void)batch, (void)row0;
    const gemm_call *c = ctx;
    for (int64_t r = 0; r < rows; ++r)
        if (c->wide) {
            double *x = (double *)acc + r * ld;
            const double *b = (const double *)c->bias_data + col0;
            for (int64_t i = 0; i < cols; ++i) x[i] += b[i];
        } else {
            float *x = (float *)acc + r * ld;
            const float *b = (const float *)c->bias_data + col0;
            for (int64_t i = 0; i < cols; ++i) x[i] += b[i];
        }
}

static iv_status gemm_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                              int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    gemm_call *c = calloc(1, sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a matrix product");
    fill(d, &c->g);
    c->level = cpu->level;
    c->bias = d->n_in == 3;
    c->wide = d->in[0].dtype == IV_F64;
    if (c->bias) {
        c->g.epilogue = add_bias;
        c->g.epilogue_ctx = c;
    }
    *out_scratch = (int64_t)iv__gemm_scratch(&c->g, cpu->threads);
    *out_prepared = c;
    return IV_OK;
}

static iv_status gemm_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    gemm_call *c = prepared;
    int n_in = 2 + c->bias;
    if (c->bias) c->bias_data = iv__cpu_ptr(io[2]);
    iv__gemm_run(&c->g, c->level, iv__cpu_ptr(io[0]), iv__cpu_ptr(io[1]), iv__cpu_ptr(io[n_in]),
                 iv__cpu_ptr(io[n_in + 1]));
    return IV_OK;
}

static const iv_impl gemm_impl = {
    .name = "cpu.gemm",
    .op = "matmul",
    .invariant = true,
    .accepts = gemm_accepts,
    .prepare = gemm_prepare,
    .unprepare = free,
    .run = gemm_run,
};

const iv_impl *const iv__cpu_gemm_impls[] = {&gemm_impl, NULL};
