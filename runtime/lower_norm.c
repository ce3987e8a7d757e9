/* lower_norm.c: layer norm, RMS norm and batch norm as launches of kernels/norm.k and
 * kernels/batchnorm.k.  Weights and statistics have the computing type. */
#include "lower_emit.h"

/* Appends v to the launch; it must have type a. */
static iv_status put(const iv__node *n, iv__emit *e, iv__view v, iv_dtype a, const char *what)
{
    IV_TRY(iv__lower_typed(n, &v, a, what));
    iv__emit_buf(e, v);
    return IV_OK;
}

/* ---- layer norm and RMS norm: rows ---- */
static iv_status norm_forward(iv__lower *l, const iv__node *n, const char *kernel,
                              int32_t n_weights)
{
    const iv__view x = iv__lower_in(l, n, 0), y = iv__lower_out(l, n, 0);
    const iv_dtype a = iv__compute_type(x.dtype, y.dtype);
    iv__emit e = iv__emit_of("norm", kernel, x.dtype, y.dtype, iv__rows(&x));
    iv__emit_buf(&e, x);
    for (int32_t i = 1; i <= n_weights; ++i)
        IV_TRY(put(n, &e, iv__lower_in(l, n, i), a, "a weight"));
    iv__emit_buf(&e, y);
    for (int32_t i = 1; i <= n_weights; ++i)
        IV_TRY(put(n, &e, iv__lower_out(l, n, i), a, "a statistic"));
    e.n[0] = iv__cols(&x);
    e.f[0] = n->fattr[0];
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_layernorm(iv__lower *l, const iv__node *n)
{
    return norm_forward(l, n, "layernorm", 2);
}

iv_status iv__lower_rmsnorm(iv__lower *l, const iv__node *n)
{
    return norm_forward(l, n, "rmsnorm", 1);
}

static iv_status norm_backward(iv__lower *l, const iv__node *n, const char *kernel, int32_t n_in)
{
    const iv__view dy = iv__lower_in(l, n, 0), x = iv__lower_in(l, n, 1),
                   dx = iv__lower_out(l, n, 0);
    const iv_dtype a = iv__compute_type(x.dtype, dy.dtype);
    iv__emit e = iv__emit_of("norm", kernel, x.dtype, dy.dtype, iv__rows(&x));
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, x);
    for (int32_t i = 2; i < n_in; ++i)
        IV_TRY(put(n, &e, iv__lower_in(l, n, i), a, "a weight or statistic"));
    IV_TRY(put(n, &e, dx, x.dtype, "the gradient"));
    e.n[0] = iv__cols(&x);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_layernorm_grad(iv__lower *l, const iv__node *n)
{
    return norm_backward(l, n, "layernorm_grad", 5);
}

iv_status iv__lower_rmsnorm_grad(iv__lower *l, const iv__node *n)
{
    return norm_backward(l, n, "rmsnorm_grad", 4);
}

/* Where the kernel puts its sums: the outputs, or slabs of them for the tree. */
static iv_status norm_sums(iv__lower *l, const iv__node *n, bool split, int64_t segments,
                           int64_t cols, iv__view *sums)
{
    for (int32_t i = 0; i < n->n_out; ++i) {
        sums[i] = iv__lower_out(l, n, i);
        if (split) IV_TRY(iv__lower_temp(l, sums[i].dtype, IV_SHAPE(segments, cols), &sums[i]));
    }
    return IV_OK;
}

/* Of LAYERNORM_WGRAD and RMSNORM_WGRAD. */
iv_status iv__lower_norm_wgrad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), x = iv__lower_in(l, n, 1);
    const iv_dtype a = iv__compute_type(x.dtype, dy.dtype);
    const int64_t rows = iv__rows(&x), cols = iv__cols(&x), segments = iv__lower_segments(l, n);
    IV_TRY(iv__lower_divides(n, rows, segments));
    const bool split = iv__lower_splits(segments, rows / segments);
    iv__emit e = iv__emit_of("norm", n->n_out == 2 ? "layernorm_wgrad" : "rmsnorm_wgrad", x.dtype,
                             dy.dtype, iv__column_blocks(cols) * (split ? segments : 1));
    iv__view sums[IV_NODE_OUTPUTS];
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, x);
    for (int32_t i = 2; i < n->n_in; ++i)
        IV_TRY(put(n, &e, iv__lower_in(l, n, i), a, "a statistic"));
    IV_TRY(norm_sums(l, n, split, segments, cols, sums));
    for (int32_t i = 0; i < n->n_out; ++i) IV_TRY(put(n, &e, sums[i], a, "a weight's gradient"));
    e.n[0] = cols;
    e.n[1] = rows / segments;
    e.n[2] = split ? 1 : segments;
    IV_TRY(iv__lower_launch(l, &e));
    for (int32_t i = 0; split && i < n->n_out; ++i)
        IV_TRY(iv__lower_tree(l, sums[i], iv__lower_out(l, n, i)));
    return IV_OK;
}

/* ---- batch norm ---- */
/* Fills the parameters of the launch for x [N, C, ...] in grains; stats: mean [G, C]. */
static iv_status batch_params(const iv__node *n, iv__emit *e, const iv__view *x,
                              const iv__view *stats)
{
    const int64_t N = x->shape.dim[0], C = x->shape.dim[1], G = stats->shape.dim[0];
    int64_t pixels = 1;
    for (int32_t i = 2; i < x->shape.rank; ++i) pixels *= x->shape.dim[i];
    IV_TRY(iv__lower_divides(n, N, G));
    e->n[0] = C;
    e->n[1] = N / G * pixels;
    /* A run is a sample's channel, or with one pixel a column of the grain. */
    e->n[2] = pixels > 1 ? pixels : N / G;
    e->n[3] = C * pixels;
    e->n[4] = pixels > 1 ? 1 : C;
    e->n[5] = N / G * C * pixels;
    e->n[6] = pixels;
    e->n[7] = G;
    e->f[0] = n->fattr[0];
    return IV_OK;
}

iv_status iv__lower_batchnorm(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), y = iv__lower_out(l, n, 0),
                   mean = iv__lower_out(l, n, 1);
    const iv_dtype a = iv__compute_type(x.dtype, y.dtype);
    iv__emit e =
        iv__emit_of("batchnorm", "batchnorm", x.dtype, y.dtype, iv_shape_count(&mean.shape));
    iv__emit_buf(&e, x);
    IV_TRY(put(n, &e, iv__lower_in(l, n, 1), a, "the weight"));
    IV_TRY(put(n, &e, iv__lower_in(l, n, 2), a, "the bias"));
    iv__emit_buf(&e, y);
    IV_TRY(put(n, &e, mean, a, "the mean"));
    IV_TRY(put(n, &e, iv__lower_out(l, n, 2), a, "the variance"));
    IV_TRY(batch_params(n, &e, &x, &mean));
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_batchnorm_grad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), x = iv__lower_in(l, n, 1),
                   mean = iv__lower_in(l, n, 3);
    const iv_dtype a = iv__compute_type(x.dtype, dy.dtype);
    iv__emit e =
        iv__emit_of("batchnorm", "batchnorm_grad", x.dtype, dy.dtype, iv_shape_count(&mean.shape));
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, x);
    IV_TRY(put(n, &e, iv__lower_in(l, n, 2), a, "the weight"));
    IV_TRY(put(n, &e, mean, a, "the mean"));
    IV_TRY(put(n, &e, iv__lower_in(l, n, 4), a, "the variance"));
    IV_TRY(put(n, &e, iv__lower_out(l, n, 0), x.dtype, "the gradient"));
    IV_TRY(batch_params(n, &e, &x, &mean));
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_batchnorm_wgrad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), x = iv__lower_in(l, n, 1),
                   mean = iv__lower_in(l, n, 2);
    const iv_dtype a = iv__compute_type(x.dtype, dy.dtype);
    iv__emit e = iv__emit_of("batchnorm", "batchnorm_wgrad", x.dtype, dy.dtype, x.shape.dim[1]);
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, x);
    IV_TRY(put(n, &e, mean, a, "the mean"));
    IV_TRY(put(n, &e, iv__lower_in(l, n, 3), a, "the variance"));
    IV_TRY(put(n, &e, iv__lower_out(l, n, 0), a, "the weight's gradient"));
    IV_TRY(put(n, &e, iv__lower_out(l, n, 1), a, "the bias's gradient"));
    IV_TRY(batch_params(n, &e, &x, &mean));
    return iv__lower_launch(l, &e);
}
