/* matmul.h: what a `matmul` node asks of a vendor's library: sizes, transpositions, leading
 * dimensions.
 *
 *     c[z][i][j] = sum over k of a[z][i][k] b[z][k][j] [+ bias[j]]
 *
 * A matrix is `turned` if its columns, not its rows, are contiguous; ld is the step from one to the
 * next.
 */
#ifndef IV_BACKENDS_COMMON_MATMUL_H
#define IV_BACKENDS_COMMON_MATMUL_H

#include "../../runtime/plugin.h"

typedef struct iv__matmul_operand {
    bool turned;
    int64_t ld, bs; /* elements; bs: step of the batch, 0 if all share one matrix */
} iv__matmul_operand;

typedef struct iv__matmul {
    int64_t batch, m, n, k;
    iv__matmul_operand a, b; /* [batch, m, k], [batch, k, n] */
    bool bias;               /* c is contiguous: ld n, bs m n */
} iv__matmul;

/* Dimensions [0, n) of t as one: their product and stride; false if they do not merge. */
static inline bool iv__matmul_merge(const iv_tensor_desc *t, int32_t n, int64_t *count,
                                    int64_t *stride)
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

/* Sets turned and ld; false if neither rows nor columns are contiguous, or they overlap. */
static inline bool iv__matmul_lead(iv__matmul_operand *o, int64_t rows, int64_t cols, int64_t rs,
                                   int64_t cs)
{
    bool by_row = (cs == 1 || cols == 1) && (rs >= cols || rows == 1);
    bool by_col = (rs == 1 || rows == 1) && (cs >= rows || cols == 1);
    o->turned = !by_row;
    o->ld = by_row ? (rows == 1 ? cols : rs) : cols == 1 ? rows : cs;
    return by_row || by_col;
}

/* The reading of node `d`; false if its strides are none that libraries take, or a size is 0. */
static inline bool iv__matmul_read(const iv_op_desc *d, iv__matmul *out)
{
    const iv_tensor_desc *a = &d->in[0], *b = &d->in[1];
    int32_t ra = a->shape.rank, rb = b->shape.rank;
    bool ta = d->attr[0], tb = d->attr[1], shared = rb == 2 && ra > 2;
    int64_t a_rs = a->stride[ra - 2 + ta], batch_b;
    iv__matmul x = {.batch = 1,
                    .m = d->out[0].shape.dim[ra - 2],
                    .n = d->out[0].shape.dim[ra - 1],
                    .k = a->shape.dim[ra - 1 - ta],
                    .bias = d->n_in == 3};
    if (shared) { /* the leading dimensions of a are rows */
        if (!iv__matmul_merge(a, ra - 1, &x.m, &a_rs)) return false;
    } else if (!iv__matmul_merge(a, ra - 2, &x.batch, &x.a.bs) ||
               !iv__matmul_merge(b, rb - 2, &batch_b, &x.b.bs)) {
        return false;
    }
    if (x.batch == 0 || x.m == 0 || x.n == 0 || x.k == 0) return false;
    if (!iv__matmul_lead(&x.a, x.m, x.k, a_rs, a->stride[ra - 1 - ta])) return false;
    if (!iv__matmul_lead(&x.b, x.k, x.n, b->stride[rb - 2 + tb], b->stride[rb - 1 - tb]))
        return false;
    *out = x;
    return true;
}

#endif
