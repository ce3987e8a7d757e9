/* lower_matmul.c: MATMUL to kernels/matmul.k.
 *
 * All transposes are strides.  Batch dimensions that a 2-D b does not have join the rows of a; the
 * others are merged where the strides allow, at most four are left for the kernel.
 */
#include "base.h"
#include "lower.h"

enum { MATMUL_DIMS = 4 };

typedef struct product {
    int64_t m, n, k;
    int64_t ars, acs, brs, bcs;
    int32_t n_dims;
    int64_t dim[MATMUL_DIMS], a_stride[MATMUL_DIMS],
        b_stride[MATMUL_DIMS]; /* batch, outermost first */
} product;

/* Rows of a take in its batch dimensions from the inside while they follow each other evenly; gives
 * the number of batch dimensions left. */
static int32_t collapse_rows(const iv__view *a, product *q)
{
    int32_t left = a->shape.rank - 2;
    for (; left > 0; --left) {
        const int64_t size = a->shape.dim[left - 1];
        if (size != 1 && q->m != 1 && a->stride[left - 1] != q->m * q->ars) break;
        if (q->m == 1) q->ars = a->stride[left - 1];
        q->m *= size;
    }
    return left;
}

static iv_status batch_dims(const iv__view *a, const iv__view *b, int32_t n, product *q)
{
    for (int32_t i = 0; i < n; ++i) {
        const int64_t size = a->shape.dim[i], sa = a->stride[i],
                      sb = b->shape.rank > 2 ? b->stride[i] : 0;
        if (size == 1) continue;
        const int32_t last = q->n_dims - 1;
        if (last >= 0 && q->a_stride[last] == sa * size && q->b_stride[last] == sb * size) {
            q->dim[last] *= size;
            q->a_stride[last] = sa;
            q->b_stride[last] = sb;
            continue;
        }
        if (q->n_dims == MATMUL_DIMS)
            IV_FAIL(
                IV_UNSUPPORTED,
                "matmul: more than %d batch dimensions that do not merge [hint: copy an operand]",
                MATMUL_DIMS);
        q->dim[q->n_dims] = size;
        q->a_stride[q->n_dims] = sa;
        q->b_stride[q->n_dims++] = sb;
    }
    return IV_OK;
}

static iv_status describe(const iv__view *a, const iv__view *b, const iv__node *n, product *q)
{
    const int32_t ra = a->shape.rank, rb = b->shape.rank;
    const int32_t ta = n->attr[IV_A_TA] != 0, tb = n->attr[IV_A_TB] != 0;
    *q = (product){.m = a->shape.dim[ra - 2 + ta],
                   .k = a->shape.dim[ra - 1 - ta],
                   .n = b->shape.dim[rb - 1 - tb],
                   .ars = a->stride[ra - 2 + ta],
                   .acs = a->stride[ra - 1 - ta],
                   .brs = b->stride[rb - 2 + tb],
                   .bcs = b->stride[rb - 1 - tb]};
    const int32_t left = rb == 2 ? collapse_rows(a, q) : ra - 2;
    return batch_dims(a, b, left, q);
}

/* Finished sums of 2^level segments wait in one array per level. */
static int64_t levels_of(int64_t segments)
{
    int64_t levels = 0;
    for (int64_t s = segments - 1; s > 0; s >>= 1) ++levels;
    return levels;
}

iv_status iv__lower_matmul(iv__lower *l, const iv__node *n)
{
    const iv__view a = iv__lower_in(l, n, 0), b = iv__lower_in(l, n, 1), y = iv__lower_out(l, n, 0);
    const bool has_bias = n->n_in > 2;
    const iv__view bias = has_bias ? iv__lower_in(l, n, 2) : a;
    const iv_dtype sums = a.dtype == IV_F64 ? IV_F64 : IV_F32;
    product q;
    if (a.dtype != b.dtype || (has_bias && bias.dtype != sums))
        IV_FAIL(IV_UNSUPPORTED, "matmul: operands of %s, %s and bias of %s", iv_dtype_name(a.dtype),
                iv_dtype_name(b.dtype), iv_dtype_name(bias.dtype));
    if (has_bias && iv_shape_count(&bias.shape) != 1 && bias.stride[bias.shape.rank - 1] != 1)
        IV_FAIL(IV_UNSUPPORTED, "matmul: the bias is strided");
    IV_TRY(describe(&a, &b, n, &q));
    const int64_t segments = iv__lower_segments(l, n);
    if (q.k % segments != 0)
        IV_FAIL(IV_INVALID, "matmul: %lld grains do not divide a sum over %lld rows",
                (long long)segments, (long long)q.k);
    int64_t batch = 1;
    for (int32_t i = 0; i < q.n_dims; ++i) batch *= q.dim[i];
    iv__view waiting = y;
    if (segments > 1) {
        IV_TRY(iv__lower_temp(l, sums, IV_SHAPE(levels_of(segments), batch, q.m, q.n), &waiting));
    }
    iv__emit e = {.file = "matmul",
                  .name = "matmul",
                  .sig = {iv__letter(a.dtype), iv__letter(y.dtype)},
                  .n_bufs = 5,
                  .buf = {a, b, y, waiting, bias},
                  .groups = batch * ((q.m + 63) / 64) * ((q.n + 63) / 64),
                  .n = {q.m, q.n, q.k / segments, segments, q.ars, q.acs, q.brs, q.bcs}};
    for (int32_t i = 0; i < MATMUL_DIMS; ++i) {
        e.n[8 + i] = i < q.n_dims ? q.dim[i] : 1;
        e.n[12 + i] = i < q.n_dims ? q.a_stride[i] : 0;
        e.n[16 + i] = i < q.n_dims ? q.b_stride[i] : 0;
    }
    e.n[20] = batch;
    e.n[21] = has_bias;
    return e.groups > 0 ? iv__lower_launch(l, &e) : IV_OK;
}
