/* attention_impl.c: `attention` and `attention_grad` by attention.h: invariant.
 *
 * A thread takes whole heads, so with fewer heads (of all samples) than threads the portable
 * kernels, which split a head, are better. */
#include "attention.h"
#include "cpu.h"

#include <stdlib.h>
#include <string.h>

enum { A_HEADS = 0, A_CAUSAL = 1 }; /* of attr: runtime/graph.h */
enum { MAX_SCRATCH = 512 << 20, MAX_D = 256 };

typedef struct attention_call {
    iv__attention a;
    bool backward;
} attention_call;

static iv__att_rows rows_of(const iv_tensor_desc *t)
{
    return (iv__att_rows){t->stride[0], t->stride[1]};
}

static void fill(const cpu_device *cpu, const iv_op_desc *d, attention_call *c)
{
    const iv_tensor_desc *q = &d->in[0];
    *c = (attention_call){.backward = d->n_in == 6,
                          .a = {.in = (iv__gemm_type)iv__cpu_type(q->dtype),
                                .out = (iv__gemm_type)iv__cpu_type(d->out[0].dtype),
                                .batch = q->shape.dim[0],
                                .heads = d->attr[A_HEADS],
                                .tq = q->shape.dim[1],
                                .tk = d->in[1].shape.dim[1],
                                .d = q->shape.dim[2] / d->attr[A_HEADS],
                                .causal = d->attr[A_CAUSAL] != 0,
                                .scale = d->fattr[0],
                                .q = rows_of(q),
                                .k = rows_of(&d->in[1]),
                                .v = rows_of(&d->in[2]),
                                .level = cpu->level,
                                .soft_level = cpu->level}};
    if (!c->backward) return;
    c->a.o = rows_of(&d->in[3]);
    c->a.dy = rows_of(&d->in[5]);
}

/* q, k, v and, backward, o and do have one type and contiguous rows; the sums' type is the wide
 * one. */
static iv_status check_inputs(const cpu_device *cpu, const iv_op_desc *d)
{
    for (int32_t i = 0; i < d->n_in; ++i) {
        const iv_tensor_desc *t = &d->in[i];
        if (i == 4) continue;
        if (t->dtype != d->in[0].dtype || iv__cpu_type(t->dtype) < 0)
            return cpu->host->fail(IV_UNSUPPORTED, "input %d is %s, q is %s", i,
                                   iv_dtype_name(t->dtype), iv_dtype_name(d->in[0].dtype));
        if (t->stride[2] != 1 && t->shape.dim[2] != 1)
            return cpu->host->fail(IV_UNSUPPORTED, "rows of input %d are not contiguous", i);
    }
    return IV_OK;
}

static iv_status attention_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    attention_call c;
    iv_status s = check_inputs(cpu, d);
    if (s != IV_OK) return s;
    fill(cpu, d, &c);
    for (int32_t i = 0; i < (c.backward ? d->n_out : 1); ++i)
        if (iv__cpu_type(d->out[i].dtype) < 0 || d->out[i].dtype != d->out[0].dtype ||
            (c.a.in == IV__GEMM_F64) != (c.a.out == IV__GEMM_F64))
            return cpu->host->fail(IV_UNSUPPORTED, "output %d is %s", i,
                                   iv_dtype_name(d->out[i].dtype));
    iv_dtype stat = c.backward ? d->in[4].dtype : d->out[1].dtype;
    if (stat != (c.a.in == IV__GEMM_F64 ? IV_F64 : IV_F32))
        return cpu->host->fail(IV_UNSUPPORTED, "log sums of %s", iv_dtype_name(stat));
    if (c.a.d > MAX_D || c.a.batch * c.a.heads < cpu->threads)
        return cpu->host->fail(
            IV_UNSUPPORTED, "heads of %lld (at most %d), %lld of them for %d threads",
            (long long)c.a.d, MAX_D, (long long)(c.a.batch * c.a.heads), cpu->threads);
    if (iv__attention_scratch(&c.a, c.backward, cpu->threads) > MAX_SCRATCH)
        return cpu->host->fail(IV_UNSUPPORTED, "needs more than %d MiB of scratch",
                               MAX_SCRATCH >> 20);
    return IV_OK;
}

static iv_status attention_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                                   int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    attention_call *c = malloc(sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing attention");
    fill(cpu, d, c);
    *out_scratch = (int64_t)iv__attention_scratch(&c->a, c->backward, cpu->threads);
    *out_prepared = c;
    return IV_OK;
}

static iv_status attention_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    const attention_call *c = prepared;
    void *p[10];
    for (int i = 0; i < (c->backward ? 10 : 6); ++i) p[i] = iv__cpu_ptr(io[i]);
    if (c->backward)
        iv__attention_backward(&c->a, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]);
    else iv__attention_forward(&c->a, p[0], p[1], p[2], p[3], p[4], p[5]);
    return IV_OK;
}

#define ATTENTION_IMPL(id)                                                                         \
    {                                                                                              \
        .name = "cpu." #id, .op = #id, .invariant = true, .accepts = attention_accepts,            \
        .prepare = attention_prepare, .unprepare = free, .run = attention_run                      \
    }
static const iv_impl impls[] = {ATTENTION_IMPL(attention), ATTENTION_IMPL(attention_grad)};
const iv_impl *const iv__cpu_attention_impls[] = {&impls[0], &impls[1], NULL};
