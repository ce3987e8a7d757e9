/* pool_impl.c: `max_pool2d`, `avg_pool2d` and their gradients by planes (pool.h): invariant.
 * A thread takes whole planes, so one plane in the cache is all that a step touches. */
#include "cpu.h"
#include "pool.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

enum { A_STRIDE = 0, A_PAD = 2, A_SIZE = 5 }; /* of attr: runtime/graph.h */

static const iv__pool_ops *const levels[IV__ISA_COUNT] = {
#if defined(__x86_64__)
    iv__pool_ops_v2, iv__pool_ops_v3, iv__pool_ops_v4, iv__pool_ops_v4
#else
    iv__pool_ops_base
#endif
};

typedef struct pool {
    iv__pool p;
    const iv__pool_ops *ops;
    int kind;
    int64_t planes, elem_bytes, scratch;
    /* of the running call: buffers of the operator in order, then scratch */
    uint8_t *io[4];
} pool;

/* Plane i of a tensor, h x w. */
static void *plane(const pool *c, int buf, int64_t i, int64_t h, int64_t w, int64_t bytes)
{
    return c->io[buf] + i * h * w * bytes;
}
#define BIG(c, buf, i) plane(c, buf, i, (c)->p.h, (c)->p.w, (c)->elem_bytes)
#define SMALL(c, buf, i) plane(c, buf, i, (c)->p.oh, (c)->p.ow, (c)->elem_bytes)
#define PLACE(c, buf, i) plane(c, buf, i, (c)->p.oh, (c)->p.ow, (int64_t)sizeof(int32_t))

static void run_max(void *arg, int64_t begin, int64_t end, int thread)
{
    const pool *c = arg;
    c->ops->max(&c->p, end - begin, BIG(c, 0, begin), SMALL(c, 1, begin), PLACE(c, 2, begin),
                c->io[3] + thread * c->scratch);
}

static void run_mean(void *arg, int64_t begin, int64_t end, int thread)
{
    const pool *c = arg;
    c->ops->mean(&c->p, end - begin, BIG(c, 0, begin), SMALL(c, 1, begin),
                 c->io[2] + thread * c->scratch);
}

static void run_max_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const pool *c = arg;
    c->ops->max_grad(&c->p, end - begin, SMALL(c, 0, begin), PLACE(c, 1, begin), BIG(c, 2, begin),
                     c->io[3] + thread * c->scratch);
}

static void run_mean_grad(void *arg, int64_t begin, int64_t end, int thread)
{
    const pool *c = arg;
    c->ops->mean_grad(&c->p, end - begin, SMALL(c, 0, begin), BIG(c, 1, begin),
                      c->io[2] + thread * c->scratch);
}

/* Operators by name: buffers but scratch, whether the larger planes come in, and the loop. */
static const struct {
    const char *op;
    int n_bufs;
    bool forward;
    iv__team_fn run;
} kinds[] = {{"max_pool2d", 3, true, run_max},
             {"avg_pool2d", 2, true, run_mean},
             {"max_pool2d_grad", 3, false, run_max_grad},
             {"avg_pool2d_grad", 2, false, run_mean_grad}};

static int kind_of(const char *op)
{
    int i = 0;
    while (strcmp(kinds[i].op, op) != 0) ++i;
    return i;
}

static iv_status pool_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    const iv_tensor_desc *big = kinds[kind_of(d->op)].forward ? &d->in[0] : &d->out[0];
    iv_dtype t = d->in[0].dtype;
    if (iv__cpu_type(t) < 0 || d->out[0].dtype != t)
        return cpu->host->fail(IV_UNSUPPORTED, "types %s to %s", iv_dtype_name(t),
                               iv_dtype_name(d->out[0].dtype));
    for (int32_t i = 0; i < d->n_in; ++i)
        if (!iv__cpu_contiguous(&d->in[i]))
            return cpu->host->fail(IV_UNSUPPORTED, "input %d is not contiguous", i);
    if (big->shape.dim[2] * big->shape.dim[3] > INT32_MAX)
        return cpu->host->fail(IV_UNSUPPORTED, "planes of %lld x %lld",
                               (long long)big->shape.dim[2], (long long)big->shape.dim[3]);
    return IV_OK;
}

static iv_status pool_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                              int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    pool *c = calloc(1, sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a pooling");
    c->kind = kind_of(d->op);
    bool forward = kinds[c->kind].forward;
    const int64_t *big = (forward ? &d->in[0] : &d->out[0])->shape.dim;
    const int64_t *small = (forward ? &d->out[0] : &d->in[0])->shape.dim;
    c->p = (iv__pool){.h = big[2], .w = big[3], .oh = small[2], .ow = small[3]};
    for (int i = 0; i < 2; ++i) {
        c->p.size[i] = d->attr[A_SIZE + i];
        c->p.stride[i] = d->attr[A_STRIDE + i];
        c->p.pad[i] = d->attr[A_PAD + i];
    }
    c->planes = big[0] * big[1];
    c->elem_bytes = (int64_t)iv_dtype_bytes(d->in[0].dtype);
    c->ops = &levels[cpu->level][iv__cpu_type(d->in[0].dtype)];
    c->scratch = iv__pool_scratch(&c->p);
    *out_scratch = c->scratch * cpu->threads;
    *out_prepared = c;
    return IV_OK;
}

static iv_status pool_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    pool *c = prepared;
    for (int i = 0; i <= kinds[c->kind].n_bufs; ++i) c->io[i] = iv__cpu_ptr(io[i]);
    iv__team_for(c->planes, 1, kinds[c->kind].run, c);
    return IV_OK;
}

#define POOL_IMPL(id)                                                                              \
    {                                                                                              \
        .name = "cpu." #id, .op = #id, .invariant = true, .accepts = pool_accepts,                 \
        .prepare = pool_prepare, .unprepare = free, .run = pool_run                                \
    }
static const iv_impl impls[] = {POOL_IMPL(max_pool2d), POOL_IMPL(avg_pool2d),
                                POOL_IMPL(max_pool2d_grad), POOL_IMPL(avg_pool2d_grad)};
const iv_impl *const iv__cpu_pool_impls[] = {&impls[0], &impls[1], &impls[2], &impls[3], NULL};
