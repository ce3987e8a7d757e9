/* lower_emit.h: what the lowering functions of norms, losses and reductions share. */
#ifndef IV_LOWER_EMIT_H
#define IV_LOWER_EMIT_H

#include "lower.h"

#define IV__LANES 64 /* columns of a group in kernels whose lanes are columns */

/* What a kernel of storage types t0, t1 computes in. */
static inline iv_dtype iv__compute_type(iv_dtype t0, iv_dtype t1)
{
    return t0 == IV_F64 || t1 == IV_F64 ? IV_F64 : IV_F32;
}
static inline int64_t iv__column_blocks(int64_t n)
{
    return (n + IV__LANES - 1) / IV__LANES;
}
/* A launch of `groups` groups without buffers and parameters. */
static inline iv__emit iv__emit_of(const char *file, const char *name, iv_dtype t0, iv_dtype t1,
                                   int64_t groups)
{
    iv__emit e = {.file = file, .name = name, .groups = groups};
    e.sig[0] = iv__letter(t0);
    e.sig[1] = iv__letter(t1);
    return e;
}
static inline void iv__emit_buf(iv__emit *e, iv__view v)
{
    e->buf[e->n_bufs++] = v;
}
/* IV_UNSUPPORTED unless v, called `what`, has type t. */
static inline iv_status iv__lower_typed(const iv__node *n, const iv__view *v, iv_dtype t,
                                        const char *what)
{
    if (v->dtype != t)
        IV_FAIL(IV_UNSUPPORTED, "lowering %s: %s is %s, the portable kernel wants %s", n->name,
                what, iv_dtype_name(v->dtype), iv_dtype_name(t));
    return IV_OK;
}
/* IV_INTERNAL unless the rows that a sum over samples runs over divide into the segments. */
static inline iv_status iv__lower_divides(const iv__node *n, int64_t rows, int64_t segments)
{
    if (segments < 1 || rows % segments != 0)
        IV_FAIL(IV_INTERNAL, "lowering %s: %lld rows do not divide into %lld grains", n->name,
                (long long)rows, (long long)segments);
    return IV_OK;
}
/* Whether segments of `rows` rows are worth groups of their own: more groups than one that goes
 * through all segments, for one more small launch.  The bits do not depend on it. */
static inline bool iv__lower_splits(int64_t segments, int64_t rows)
{
    return segments > 1 && rows >= 256;
}
/* out [...] = the balanced tree over the first dimension of partial [count, ...]; both have the
 * computing type.  In lower_reduce.c. */
iv_status iv__lower_tree(iv__lower *l, iv__view partial, iv__view out);

#endif
