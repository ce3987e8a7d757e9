/* lower_attention.c: ATTENTION and its gradient to kernels/attention.k.
 *
 * Inputs may be views with any batch and row strides (slices of one [B,T,3C]); the last dimension
 * must be contiguous.  Each group gets room in `turned` for the rows of its block, transposed.
 */
#include "base.h"
#include "lower.h"

static int64_t tiles(int64_t n)
{
    return (n + 63) / 64;
}

static iv_status check(const char *what, const iv__view *v, const iv__view *like)
{
    if (v->dtype != like->dtype)
        IV_FAIL(IV_UNSUPPORTED, "attention: %s is %s, q is %s", what, iv_dtype_name(v->dtype),
                iv_dtype_name(like->dtype));
    if (v->stride[2] != 1 && v->shape.dim[2] != 1)
        IV_FAIL(IV_UNSUPPORTED,
                "attention: the last dimension of %s has stride %lld [hint: copy it]", what,
                (long long)v->stride[2]);
    return IV_OK;
}

/* Parameters of all kernels; dy and o: NULL in the forward pass. */
static iv_status attention_emit(const iv__node *n, const iv__view *q, const iv__view *k,
                                const iv__view *v, const iv__view *dy, const iv__view *o,
                                iv__emit *out)
{
    const int64_t heads = n->attr[IV_A_HEADS], width = q->shape.dim[2] / heads;
    IV_TRY(check("q", q, q));
    IV_TRY(check("k", k, q));
    IV_TRY(check("v", v, q));
    if (width > 256)
        IV_FAIL(IV_UNSUPPORTED, "attention: heads of %lld, at most 256", (long long)width);
    *out = (iv__emit){.file = "attention",
                      .n = {q->shape.dim[1], k->shape.dim[1], width, heads, n->attr[IV_A_CAUSAL],
                            q->stride[0], q->stride[1], k->stride[0], k->stride[1], v->stride[0],
                            v->stride[1], 0, 0, 0, 0, q->shape.dim[0]},
                      .f = {n->fattr[0]}};
    if (dy) {
        IV_TRY(check("do", dy, q));
        IV_TRY(check("o", o, q));
        out->n[11] = dy->stride[0];
        out->n[12] = dy->stride[1];
        out->n[13] = o->stride[0];
        out->n[14] = o->stride[1];
    }
    return IV_OK;
}

/* Row statistics are of the type the kernels compute in. */
static iv_status check_stat(const iv__view *lse, const iv__view *q)
{
    if (lse->dtype == (q->dtype == IV_F64 ? IV_F64 : IV_F32)) return IV_OK;
    IV_FAIL(IV_UNSUPPORTED, "attention: log sums of %s with q of %s", iv_dtype_name(lse->dtype),
            iv_dtype_name(q->dtype));
}

static iv_status launch(iv__lower *l, iv__emit e, const char *kernel, iv_dtype to, int64_t groups,
                        int32_t n_bufs, const iv__view *buf)
{
    e.name = kernel;
    e.sig[0] = iv__letter(buf[0].dtype);
    e.sig[1] = iv__letter(to);
    e.groups = groups;
    e.n_bufs = n_bufs;
    for (int32_t i = 0; i < n_bufs; ++i) e.buf[i] = buf[i];
    return groups > 0 ? iv__lower_launch(l, &e) : IV_OK;
}

iv_status iv__lower_attention(iv__lower *l, const iv__node *n)
{
    const iv__view q = iv__lower_in(l, n, 0), k = iv__lower_in(l, n, 1), v = iv__lower_in(l, n, 2);
    const iv__view o = iv__lower_out(l, n, 0), lse = iv__lower_out(l, n, 1);
    iv__view turned;
    iv__emit e;
    IV_TRY(attention_emit(n, &q, &k, &v, NULL, NULL, &e));
    IV_TRY(check_stat(&lse, &q));
    const int64_t groups = e.n[15] * e.n[3] * tiles(e.n[0]);
    IV_TRY(iv__lower_temp(l, lse.dtype, IV_SHAPE(groups, tiles(e.n[2]) * 64, 64), &turned));
    return launch(l, e, "attention", o.dtype, groups, 6, (iv__view[]){q, k, v, o, lse, turned});
}

iv_status iv__lower_attention_grad(iv__lower *l, const iv__node *n)
{
    iv__view in[6]; /* q k v o lse do */
    for (int32_t i = 0; i < 6; ++i) in[i] = iv__lower_in(l, n, i);
    const iv__view dq = iv__lower_out(l, n, 0), dk = iv__lower_out(l, n, 1),
                   dv = iv__lower_out(l, n, 2);
    const iv__view q = in[0], k = in[1], v = in[2], o = in[3], lse = in[4], dy = in[5];
    iv__view stat, turned;
    iv__emit e;
    IV_TRY(attention_emit(n, &q, &k, &v, &dy, &o, &e));
    IV_TRY(check_stat(&lse, &q));
    const int64_t heads = e.n[15] * e.n[3], by_query = heads * tiles(e.n[0]),
                  by_key = heads * tiles(e.n[1]);
    IV_TRY(iv__lower_temp(l, lse.dtype, IV_SHAPE(2, heads, e.n[0]), &stat));
    IV_TRY(iv__lower_temp(l, lse.dtype,
                          IV_SHAPE(IV_MAX2(by_query, by_key), 2, tiles(e.n[2]) * 64, 64), &turned));
    IV_TRY(launch(l, e, "attention_stat", dq.dtype, by_query, 4, (iv__view[]){dy, o, lse, stat}));
    IV_TRY(launch(l, e, "attention_dq", dq.dtype, by_query, 7,
                  (iv__view[]){q, k, v, dy, stat, dq, turned}));
    return launch(l, e, "attention_dkv", dk.dtype, by_key, 8,
                  (iv__view[]){q, k, v, dy, stat, dk, dv, turned});
}
