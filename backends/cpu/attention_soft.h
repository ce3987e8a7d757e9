/* attention_soft.h: the element-wise part of attention on blocks of 64 x 64, for one instruction
 * level and computing type (f32 or f64, behind void).
 *
 * A block is [64][64], row-major; a lane is a column.  The arithmetic is that of
 * kernels/attention.k, to the bit. */
#ifndef IV_BACKENDS_CPU_ATTENTION_SOFT_H
#define IV_BACKENDS_CPU_ATTENTION_SOFT_H

#include <stdint.h>

#include "backends/cpu/gemm.h"

enum { IV__ATT_BLOCK = 64 };

/* Which elements of a block count: row e and lane l with e < rows, l < lanes, and
 * e <= l + edge (forward: rows are keys) or l <= e + edge (backward: lanes are keys). */
typedef struct iv__att_mask {
    int64_t rows, lanes, edge;
} iv__att_mask;

typedef struct iv__soft_ops {
    /* One block of keys: s [64][64] = k q' becomes p; m, l [64] go on; alpha [64] is what sums so
     * far are multiplied by. */
    void (*forward)(void *s, double scale, const iv__att_mask *mask, void *m, void *l, void *alpha);
    /* o[r][c] = o[r][c] * alpha[c] + x[r][c], over a tile of sums. */
    void (*rescale)(void *o, const void *alpha, const void *x, int64_t ld, int64_t rows,
                    int64_t cols);
    /* o [rows][64] / l, 0 where l is 0; lse [64] = m + log l, -inf there. */
    void (*finish)(void *o, int64_t rows, const void *m, const void *l, void *lse);
    /* s = q k' becomes p, t = do v' becomes ds; lse and delta per row. */
    void (*backward)(void *s, void *t, double scale, const iv__att_mask *mask, const void *lse,
                     const void *delta);
    /* n elements of a type to the computing one. */
    void (*widen)(iv__gemm_type from, const void *src, int64_t n, void *dst);
    /* The sum of x y over n elements, by rule 3. */
    void (*dot)(const void *x, const void *y, int64_t n, void *out);
} iv__soft_ops;

/* [0] f32, [1] f64 */
#if defined(__x86_64__)
extern const iv__soft_ops iv__soft_ops_v2[2], iv__soft_ops_v3[2], iv__soft_ops_v4[2];
#else
extern const iv__soft_ops iv__soft_ops_base[2];
#endif

#endif
