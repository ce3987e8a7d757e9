/* gemm.h: the canonical matrix product of the host (docs/numerics.md, rules 4, 5, 7 and 8).
 *
 *     c[b][i][j] = sum over k of a[b][i][k] * b[b][k][j]
 *
 * f32 and f64: one chain acc = fma(a, b, acc) in rising k.  bf16 and f16: blocks of 32 with an even
 * and an odd f32 chain, K padded with zeros.  With S segments, K is cut into S equal ranges, each
 * is a sum of its own, and the S sums are folded by the balanced binary tree.  The bits depend on
 * nothing else: not on the level, the threads, the strides or the batch.  (Of a NaN only that it is
 * one.)
 */
#ifndef IV_BACKENDS_CPU_GEMM_H
#define IV_BACKENDS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum iv__gemm_type {
    IV__GEMM_F32,
    IV__GEMM_F64,
    IV__GEMM_BF16,
    IV__GEMM_F16,
    IV__GEMM_TYPES
} iv__gemm_type;

/* Called once for each tile of finished sums, before it is converted and stored; may change it.
 * acc: [rows][ld] of f32, or f64 if the inputs are f64, 64-byte aligned; it holds rows
 * [row0, row0 + rows) and columns [col0, col0 + cols) of product `batch`.  Runs on the team's
 * threads, several at once, each tile of the output exactly once, in no fixed order. */
typedef void (*iv__gemm_epilogue)(void *ctx, void *acc, int64_t batch, int64_t row0, int64_t rows,
                                  int64_t col0, int64_t cols, int64_t ld);

/* (optional) An axis of an operand that no single stride describes: index i lies `at[i / run] +
 * i % run * stride` elements from the start, where the stride is that of the axis.  So an operand
 * may be read out of images, or where rows lie scattered, and be copied nowhere but into the panels
 * that every product packs.  at NULL: the axis is one run.  Neighbours in memory (stride 1 and long
 * runs) along one of the two axes are what packing is fast for. */
typedef struct iv__gemm_runs {
    const int32_t *at;
    int64_t run;
} iv__gemm_runs;

typedef struct iv__gemm {
    iv__gemm_type in;  /* of a and b */
    iv__gemm_type out; /* of c; f64 if and only if `in` is f64 */
    int64_t batch, m, n, k;
    int64_t a_rs, a_cs, a_bs; /* strides of a [batch, m, k] in elements; any, 0 too */
    int64_t b_rs, b_cs, b_bs; /* of b [batch, k, n] */
    iv__gemm_runs a_k;        /* k of a; k and columns of b */
    iv__gemm_runs b_k, b_n;
    int64_t c_rs, c_bs;         /* of c [batch, m, n], whose column stride is 1 */
    int64_t segments;           /* >= 1, divides k */
    iv__gemm_epilogue epilogue; /* (optional) NULL: none */
    void *epilogue_ctx;
} iv__gemm;

/* Whether iv__gemm_run can run `g`: known types in a valid pair, sizes >= 0, segments >= 1 and a
 * divisor of k. */
bool iv__gemm_accepts(const iv__gemm *g);

/* Bytes of scratch that iv__gemm_run needs with a team of `n_threads` or fewer; the same for every
 * level.  At most 1.7 MiB a thread (f64: 2.5 MiB); with k > 384 (192) and S segments the sums
 * among it, 0.8 MiB (1.6 MiB), are needed floor(log2 S) + 1 times. */
size_t iv__gemm_scratch(const iv__gemm *g, int n_threads);

/* Runs `g` over the team at `isa_level` (isa.h; the machine must have it).  Blocks; no allocation.
 * a, b, c are aligned to their element size; c must not overlap a or b.  scratch: as many bytes as
 * iv__gemm_scratch says for iv__team_size() threads, 64-byte aligned, not shared with a call that
 * runs at the same time.  `g` must be one that iv__gemm_accepts.  k == 0 gives +0 (then the
 * epilogue). The floating-point environment is put back as it was. */
void iv__gemm_run(const iv__gemm *g, int isa_level, const void *a, const void *b, void *c,
                  void *scratch);

#endif
