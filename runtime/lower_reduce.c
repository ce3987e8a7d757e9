/* lower_reduce.c: SUM and MAX over any dimensions as launches of kernels/reduce.k.
 *
 * The dimensions are sorted into kept and reduced ones, each in order, but that of the samples
 * first of the reduced ones: a grain is then a range of the sum.  Neighbours that lie in memory as
 * one are merged.  Then two kernels give the same bits: rows (lanes along the reduced elements) and
 * cols (lanes along neighbouring outputs); the one whose lanes lie side by side is taken. */
#include "lower_emit.h"

#define MAX_DIMS 3 /* of a kind, that the kernels take */

typedef struct dims {
    int32_t n;
    int64_t dim[IV_MAX_RANK], stride[IV_MAX_RANK];
    int64_t count;
} dims;

static void dims_add(dims *d, int64_t size, int64_t stride)
{
    d->count *= size;
    if (size == 1) return;
    if (d->n > 0 && d->stride[d->n - 1] == stride * size) {
        d->dim[d->n - 1] *= size;
        d->stride[d->n - 1] = stride;
        return;
    }
    d->dim[d->n] = size;
    d->stride[d->n] = stride;
    ++d->n;
}

/* The kernel's description: size of the inner and the middle dimension; strides outer, middle,
 * inner. */
static void dims_params(const dims *d, int64_t *p)
{
    const int32_t n = d->n;
    p[0] = n > 0 ? d->dim[n - 1] : 1;
    p[1] = n > 1 ? d->dim[n - 2] : 1;
    p[2] = n > 2 ? d->stride[n - 3] : 0;
    p[3] = n > 1 ? d->stride[n - 2] : 0;
    p[4] = n > 0 ? d->stride[n - 1] : 0;
}

static void dims_split(const iv__node *n, const iv__view *x, dims *kept, dims *reduced)
{
    const int32_t first = (int32_t)n->attr[IV_A_FIRST] - 1;
    kept->count = reduced->count = 1;
    if (first >= 0) dims_add(reduced, x->shape.dim[first], x->stride[first]);
    for (int32_t i = 0; i < x->shape.rank; ++i) {
        const bool is_reduced = ((n->attr[IV_A_MASK] >> i) & 1) != 0;
        if (i != first) dims_add(is_reduced ? reduced : kept, x->shape.dim[i], x->stride[i]);
    }
}

bool iv__reduce_takes(iv__view x, const iv__node *n)
{
    dims kept = {0}, reduced = {0};
    dims_split(n, &x, &kept, &reduced);
    return kept.n <= MAX_DIMS && reduced.n <= MAX_DIMS;
}

static iv_status dims_sort(const iv__node *n, const iv__view *x, dims *kept, dims *reduced)
{
    char text[128];
    dims_split(n, x, kept, reduced);
    if (kept->n > MAX_DIMS || reduced->n > MAX_DIMS)
        IV_FAIL(
            IV_UNSUPPORTED,
            "lowering %s: reducing %s needs %d kept and %d reduced dimensions, the portable kernel "
            "takes %d of each",
            n->name, iv__shape_text(&x->shape, text, sizeof text), kept->n, reduced->n, MAX_DIMS);
    return IV_OK;
}

/* Lanes along the outputs: if there are enough side by side, and the reduced elements are farther
 * apart or too few to fill the lanes. */
static bool takes_cols(const dims *kept, const dims *reduced)
{
    if (kept->n == 0 || kept->dim[kept->n - 1] < 16) return false;
    if (reduced->n == 0 || reduced->count <= 32) return true;
    const int64_t k = kept->stride[kept->n - 1], r = reduced->stride[reduced->n - 1];
    return (k < 0 ? -k : k) < (r < 0 ? -r : r);
}

iv_status iv__lower_tree(iv__lower *l, iv__view partial, iv__view out)
{
    const int64_t cols = iv_shape_count(&out.shape);
    iv__emit e =
        iv__emit_of("reduce", "reduce_tree", partial.dtype, out.dtype, iv__column_blocks(cols));
    iv__emit_buf(&e, partial);
    iv__emit_buf(&e, out);
    e.n[0] = partial.shape.dim[0];
    e.n[1] = cols;
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_grain_sum(iv__lower *l, const iv__node *n)
{
    return iv__lower_tree(l, iv__lower_in(l, n, 0), iv__lower_out(l, n, 0));
}

iv_status iv__lower_reduce(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), y = iv__lower_out(l, n, 0);
    const bool max = n->op == IV_OP_MAX;
    dims kept = {0}, reduced = {0};
    IV_TRY(dims_sort(n, &x, &kept, &reduced));
    /* A maximum is the same however it is cut. */
    const int64_t segments = max ? 1 : iv__lower_segments(l, n);
    IV_TRY(iv__lower_divides(n, reduced.count, segments));
    const int64_t rows = reduced.count / segments, outputs = kept.count;
    if (outputs == 0) return IV_OK;
    const bool split =
        iv__lower_splits(segments, rows) && y.dtype == iv__compute_type(x.dtype, y.dtype);
    iv__view sums = y;
    if (split) IV_TRY(iv__lower_temp(l, y.dtype, IV_SHAPE(segments, outputs), &sums));
    const bool cols = takes_cols(&kept, &reduced);
    const char *kernel =
        max ? (cols ? "max_cols" : "max_rows") : (cols ? "reduce_cols" : "reduce_rows");
    int64_t groups = outputs * (split ? segments : 1);
    if (cols) {
        const int64_t inner = kept.dim[kept.n - 1];
        groups = groups / inner * iv__column_blocks(inner);
    }
    iv__emit e = iv__emit_of("reduce", kernel, x.dtype, y.dtype, groups);
    iv__emit_buf(&e, x);
    iv__emit_buf(&e, sums);
    e.n[0] = rows;
    e.n[1] = split ? 1 : segments;
    e.n[2] = outputs;
    dims_params(&reduced, &e.n[3]);
    dims_params(&kept, &e.n[8]);
    IV_TRY(iv__lower_launch(l, &e));
    return split ? iv__lower_tree(l, sums, y) : IV_OK;
}
