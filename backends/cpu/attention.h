/* attention.h: attention of the host on the canonical matrix product's packing and tiles.
 *
 *     o = softmax(scale q k') v per head, and its gradient, without Tq x Tk in memory
 *
 * The arithmetic is that of kernels/attention.k, to the bit, on every level (docs/numerics.md).
 * There a group recomputes what it needs; here a thread takes a head, packs each operand once, and
 * the backward pass computes every block of scores once. */
#ifndef IV_BACKENDS_CPU_ATTENTION_H
#define IV_BACKENDS_CPU_ATTENTION_H

#include "backends/cpu/gemm.h"

/* Where row t of a head of a sample begins: batch * bs + t * rs + head * d; elements. */
typedef struct iv__att_rows {
    int64_t bs, rs;
} iv__att_rows;

typedef struct iv__attention {
    iv__gemm_type in;  /* of q, k, v, do and, backward, o */
    iv__gemm_type out; /* of o forward, of dq, dk, dv; f64 if and only if `in` is f64 */
    int64_t batch, heads, tq, tk, d;
    bool causal; /* query i sees keys up to i + tk - tq */
    double scale;
    iv__att_rows q, k, v, o, dy; /* inputs; outputs are [batch, t, heads, d] */
    int level, soft_level;       /* isa.h: of products, and of the rest */
} iv__attention;

/* Bytes of scratch for a team of n_threads or fewer. */
size_t iv__attention_scratch(const iv__attention *a, bool backward, int n_threads);

/* lse: [batch, heads, tq] f32 (f64 where `in` is).  scratch: 64-byte aligned.  Blocks; allocates
 * nothing. */
void iv__attention_forward(const iv__attention *a, const void *q, const void *k, const void *v,
                           void *o, void *lse, void *scratch);
void iv__attention_backward(const iv__attention *a, const void *q, const void *k, const void *v,
                            const void *o, const void *lse, const void *dy, void *dq, void *dk,
                            void *dv, void *scratch);

#endif
