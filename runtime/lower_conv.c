/* lower_conv.c: convolutions to kernels/conv.k, pooling to kernels/pool.k. */
#include "base.h"
#include "lower.h"

static int64_t tiles(int64_t n)
{
    return (n + 63) / 64;
}

/* The kernels count elements in i32. */
static iv_status check_size(const iv__view *v)
{
    const int64_t n = iv_shape_count(&v->shape);
    if (n >= INT32_MAX)
        IV_FAIL(IV_UNSUPPORTED,
                "convolution: a tensor of %lld elements [hint: lower the batch or accumulate]",
                (long long)n);
    return IV_OK;
}

/* Parameters 0-13, common to all: x [N,C,H,W], weight [O,C/G,KH,KW], y [N,O,OH,OW]. */
static iv_status conv_emit(const iv__node *n, const iv__view *x, const iv__view *w,
                           const iv__view *y, const char *kernel, iv__emit *out)
{
    IV_TRY(check_size(x));
    IV_TRY(check_size(w));
    IV_TRY(check_size(y));
    const int64_t *a = n->attr, *dx = x->shape.dim, *dw = w->shape.dim, *dy = y->shape.dim;
    *out = (iv__emit){.file = "conv",
                      .name = kernel,
                      .n = {dx[0], dx[1], dx[2], dx[3], dw[0], dw[2], dw[3], dy[2], dy[3],
                            a[IV_A_STRIDE], a[IV_A_STRIDE + 1], a[IV_A_PAD], a[IV_A_PAD + 1],
                            a[IV_A_GROUPS]}};
    return IV_OK;
}

static void set_sig(iv__emit *e, iv_dtype in, iv_dtype to)
{
    e->sig[0] = iv__letter(in);
    e->sig[1] = iv__letter(to);
}

static iv_status check_types(const char *op, const iv__view *a, const iv__view *b)
{
    if (a->dtype == b->dtype) return IV_OK;
    IV_FAIL(IV_UNSUPPORTED, "%s: operands of %s and %s", op, iv_dtype_name(a->dtype),
            iv_dtype_name(b->dtype));
}

/* What sums of elements of v are kept in: the type of a bias. */
static iv_dtype sum_type(const iv__view *v)
{
    return v->dtype == IV_F64 ? IV_F64 : IV_F32;
}

iv_status iv__lower_conv2d(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), w = iv__lower_in(l, n, 1), y = iv__lower_out(l, n, 0);
    const bool has_bias = n->n_in > 2;
    const iv__view bias = has_bias ? iv__lower_in(l, n, 2) : x;
    iv__emit e;
    IV_TRY(check_types("conv2d", &x, &w));
    if (has_bias && bias.dtype != sum_type(&x))
        IV_FAIL(IV_UNSUPPORTED, "conv2d: operands of %s and bias of %s", iv_dtype_name(x.dtype),
                iv_dtype_name(bias.dtype));
    IV_TRY(conv_emit(n, &x, &w, &y, "conv2d", &e));
    set_sig(&e, x.dtype, y.dtype);
    e.n_bufs = 4;
    e.buf[0] = x;
    e.buf[1] = w;
    e.buf[2] = y;
    e.buf[3] = bias;
    e.n[15] = has_bias;
    e.groups = e.n[13] * tiles(e.n[4] / e.n[13]) * tiles(e.n[0] * e.n[7] * e.n[8]);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_conv2d_dgrad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), w = iv__lower_in(l, n, 1),
                   dx = iv__lower_out(l, n, 0);
    iv__emit e;
    IV_TRY(check_types("conv2d_dgrad", &dy, &w));
    IV_TRY(conv_emit(n, &dx, &w, &dy, "conv2d_dgrad", &e));
    set_sig(&e, dy.dtype, dx.dtype);
    e.n_bufs = 3;
    e.buf[0] = dy;
    e.buf[1] = w;
    e.buf[2] = dx;
    e.groups = e.n[13] * tiles(e.n[1] / e.n[13]) * tiles(e.n[0] * e.n[2] * e.n[3]);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_conv2d_wgrad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), x = iv__lower_in(l, n, 1),
                   dw = iv__lower_out(l, n, 0);
    const int64_t grains = iv__lower_segments(l, n), n_w = iv_shape_count(&dw.shape);
    iv__view part;
    iv__emit e;
    if (x.shape.dim[0] % grains != 0)
        IV_FAIL(IV_INVALID, "conv2d_wgrad: %lld grains do not divide %lld samples",
                (long long)grains, (long long)x.shape.dim[0]);
    IV_TRY(check_types("conv2d_wgrad", &dy, &x));
    IV_TRY(iv__lower_temp(l, sum_type(&dy), IV_SHAPE(grains, n_w), &part));
    IV_TRY(conv_emit(n, &x, &dw, &dy, "conv2d_wgrad", &e));
    set_sig(&e, dy.dtype, dw.dtype);
    e.n_bufs = 3;
    e.buf[0] = dy;
    e.buf[1] = x;
    e.buf[2] = part;
    e.n[14] = x.shape.dim[0] / grains;
    e.groups = grains * e.n[13] * tiles(e.n[4] / e.n[13]) * tiles(n_w / e.n[4]);
    IV_TRY(iv__lower_launch(l, &e));
    iv__emit fold = {.file = "conv",
                     .name = "conv2d_fold",
                     .n_bufs = 2,
                     .buf = {part, dw},
                     .groups = (n_w + 1023) / 1024,
                     .n = {n_w, grains}};
    set_sig(&fold, dy.dtype, dw.dtype);
    return iv__lower_launch(l, &fold);
}

/* One lane per element of `to`; x and y: the larger and the smaller planes. */
static iv_status pool(iv__lower *l, const iv__node *n, const char *kernel, const iv__view *x,
                      const iv__view *y, const iv__view *to, const iv__view *buf, int32_t n_bufs)
{
    const int64_t *a = n->attr, *dx = x->shape.dim, *dy = y->shape.dim;
    const int64_t count = iv_shape_count(&to->shape);
    iv__emit e = {.file = "pool",
                  .name = kernel,
                  .n_bufs = n_bufs,
                  .groups = (count + 255) / 256,
                  .n = {count, dx[2], dx[3], dy[2], dy[3], a[IV_A_SIZE], a[IV_A_SIZE + 1],
                        a[IV_A_STRIDE], a[IV_A_STRIDE + 1], a[IV_A_PAD], a[IV_A_PAD + 1]}};
    for (int32_t i = 0; i < n_bufs; ++i) e.buf[i] = buf[i];
    set_sig(&e, buf[0].dtype, to->dtype);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_max_pool2d(iv__lower *l, const iv__node *n)
{
    const iv__view b[3] = {iv__lower_in(l, n, 0), iv__lower_out(l, n, 0), iv__lower_out(l, n, 1)};
    return pool(l, n, "max_pool2d", &b[0], &b[1], &b[1], b, 3);
}

iv_status iv__lower_max_pool2d_grad(iv__lower *l, const iv__node *n)
{
    const iv__view b[3] = {iv__lower_in(l, n, 0), iv__lower_in(l, n, 1), iv__lower_out(l, n, 0)};
    return pool(l, n, "max_pool2d_grad", &b[2], &b[0], &b[2], b, 3);
}

iv_status iv__lower_avg_pool2d(iv__lower *l, const iv__node *n)
{
    const iv__view b[2] = {iv__lower_in(l, n, 0), iv__lower_out(l, n, 0)};
    return pool(l, n, "avg_pool2d", &b[0], &b[1], &b[1], b, 2);
}

iv_status iv__lower_avg_pool2d_grad(iv__lower *l, const iv__node *n)
{
    const iv__view b[2] = {iv__lower_in(l, n, 0), iv__lower_out(l, n, 0)};
    return pool(l, n, "avg_pool2d_grad", &b[1], &b[0], &b[1], b, 2);
}
