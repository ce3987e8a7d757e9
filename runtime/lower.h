/* lower.h: from a node to launches of portable kernels.
 *
 * One function per operator (lower_*.c), in the table of lower.c.  It is called at plan time when
 * no implementation of the backend took the node.  It may emit several launches and ask for
 * temporaries that live as long as the node.  Inputs arrive contiguous unless lower.c says that the
 * operator reads strided views.
 */
#ifndef IV_LOWER_H
#define IV_LOWER_H

#include "graph.h"

typedef struct iv__lower iv__lower;

/* A tensor as a kernel sees it. */
typedef struct iv__view {
    int32_t value; /* for iv__emit.buf */
    iv_dtype dtype;
    iv_shape shape;
    int64_t stride[IV_MAX_RANK]; /* elements; row-major when contiguous */
} iv__view;

/* One launch.  buf: views in the order of the kernel's BUF declarations. */
typedef struct iv__emit {
    const char *file, *name; /* kernels/<file>.k, kernel */
    char sig[4];             /* letters of T0, T1, T2: use iv__letter */
    int32_t n_bufs;
    iv__view buf[IV_MAX_BUFS];
    int64_t groups;
    int64_t n[IV_KERNEL_INTS];
    double f[IV_KERNEL_FLOATS];
} iv__emit;

/* Input i and output i of the node being lowered. */
iv__view iv__lower_in(iv__lower *l, const iv__node *n, int32_t i);
iv__view iv__lower_out(iv__lower *l, const iv__node *n, int32_t i);
/* A temporary for this node. */
iv_status iv__lower_temp(iv__lower *l, iv_dtype t, iv_shape s, iv__view *out);
/* Grains that the samples of this plan are cut into (>= 1), for nodes with `segments`; else 1. */
int64_t iv__lower_segments(const iv__lower *l, const iv__node *n);
/* Appends the launch to the plan. */
iv_status iv__lower_launch(iv__lower *l, const iv__emit *e);
/* Fills with zero bytes. */
iv_status iv__lower_zero(iv__lower *l, iv__view v);
/* Rows and columns: product of all dimensions but the last, and the last. */
static inline int64_t iv__rows(const iv__view *v)
{
    int64_t n = 1;
    for (int32_t i = 0; i + 1 < v->shape.rank; ++i) n *= v->shape.dim[i];
    return n;
}
static inline int64_t iv__cols(const iv__view *v)
{
    return v->shape.rank ? v->shape.dim[v->shape.rank - 1] : 1;
}

/* Whether SUM or MAX node n can read x as it lies: not too many dimensions that do not merge.  In
 * lower_reduce.c. */
bool iv__reduce_takes(iv__view x, const iv__node *n);

/* The lowering functions: lower_norm.c, lower_loss.c, lower_reduce.c, lower_matmul.c, lower_conv.c,
 * lower_attention.c, lower_embed.c. */
/* clang-format off */
#define IV_LOWERINGS(X)                                                                            \
    X(SUM, reduce, 1) X(MAX, reduce, 1) X(MATMUL, matmul, 1)                                       \
    X(SOFTMAX, softmax, 0) X(SOFTMAX_GRAD, softmax_grad, 0)                                        \
    X(LOG_SOFTMAX, softmax, 0) X(LOG_SOFTMAX_GRAD, softmax_grad, 0)                                \
    X(XENT, xent, 0) X(XENT_GRAD, xent_grad, 0)                                                    \
    X(LAYERNORM, layernorm, 0) X(LAYERNORM_GRAD, layernorm_grad, 0)                                \
    X(LAYERNORM_WGRAD, norm_wgrad, 0) X(RMSNORM, rmsnorm, 0) X(RMSNORM_GRAD, rmsnorm_grad, 0)      \
    X(RMSNORM_WGRAD, norm_wgrad, 0)                                                                \
    X(BATCHNORM, batchnorm, 0) X(BATCHNORM_GRAD, batchnorm_grad, 0)                                \
    X(BATCHNORM_WGRAD, batchnorm_wgrad, 0) X(GRAIN_SUM, grain_sum, 0)                              \
    X(EMBEDDING, embedding, 0) X(EMBEDDING_GRAD, embedding_grad, 0)                                \
    X(ATTENTION, attention, 1) X(ATTENTION_GRAD, attention_grad, 1)                                \
    X(CONV2D, conv2d, 0) X(CONV2D_DGRAD, conv2d_dgrad, 0) X(CONV2D_WGRAD, conv2d_wgrad, 0)         \
    X(MAX_POOL2D, max_pool2d, 0) X(MAX_POOL2D_GRAD, max_pool2d_grad, 0)                            \
    X(AVG_POOL2D, avg_pool2d, 0) X(AVG_POOL2D_GRAD, avg_pool2d_grad, 0)
/* clang-format on */
/* X(OP, function, reads strided inputs) */
#define X(OP, fn, strided) iv_status iv__lower_##fn(iv__lower *l, const iv__node *n);
IV_LOWERINGS(X)
#undef X

#endif
