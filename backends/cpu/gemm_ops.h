/* gemm_ops.h: what one level's compilation of gemm_kernels.inc (or gemm_amx.c) offers to gemm.c.
 *
 * Panels.  A packed panel holds w rows of a (or columns of b) as compute type (f32, f64), k-major:
 *
 *     panel[p * w + i]      p: packed k, i in [0, w)
 *
 * w is mr for a and nr for b.  For bf16 and f16 every segment is padded with zeros to a multiple of
 * 32, and inside a block of 32 the even k come first, then the odd ones, so that the two chains of
 * rule 5 run over contiguous memory with the full register tile each.  A level may keep blocks of
 * 32 in another order and type (panel_bytes), as gemm_amx.c does; a block of 32 k has 32 w elements
 * whatever the order.
 *
 * Tiles.  An accumulator tile is [mr][nr] of f32 or f64, 64-byte aligned.
 */
#ifndef IV_BACKENDS_CPU_GEMM_OPS_H
#define IV_BACKENDS_CPU_GEMM_OPS_H

#include "backends/cpu/gemm.h"

/* Which part of which operand to pack. */
typedef struct iv__gemm_panel {
    int64_t w;        /* width of the panel */
    int64_t n_w;      /* of these exist; the rest is zero */
    int64_t w_stride; /* strides of the source, in elements */
    int64_t k_stride;
    iv__gemm_runs w_runs, k_runs;
    int64_t w0;     /* index of the panel's first row or column */
    int64_t p0, p1; /* range of packed k; multiples of 32 for 16-bit types, except the end */
    int64_t seg;    /* k in a segment */
    int64_t seg_padded;
} iv__gemm_panel;

/* A place on an axis: how far it is from the start, and how many indices, itself included, are
 * left of its run. */
typedef struct iv__gemm_place {
    int64_t at, left;
} iv__gemm_place;

static inline iv__gemm_place iv__gemm_place_of(iv__gemm_runs r, int64_t stride, int64_t i)
{
    if (!r.at) return (iv__gemm_place){i * stride, INT64_MAX};
    int64_t in_run = i % r.run;
    return (iv__gemm_place){r.at[i / r.run] + in_run * stride, r.run - in_run};
}

typedef struct iv__gemm_ops {
    int32_t mr[IV__GEMM_TYPES]; /* rows and columns of a tile, by input type */
    int32_t nr[IV__GEMM_TYPES];
    int32_t panel_bytes[IV__GEMM_TYPES]; /* of an element of a panel */
    bool uses_ftz; /* the bf16 chain wants flush-to-zero set; else it flushes by itself */

    /* (optional) Before the first and after the last chain of a thread's share. */
    void (*enter)(void);
    void (*leave)(void);
    /* Packs a panel of a or of b, by input type; src is row or column 0 of the operand at k = 0. */
    void (*pack_a[IV__GEMM_TYPES])(void *dst, const void *src, const iv__gemm_panel *q);
    void (*pack_b[IV__GEMM_TYPES])(void *dst, const void *src, const iv__gemm_panel *q);
    /* Continues the sums of the tile over `steps` packed k (a multiple of 32 for 16-bit types), or
     * starts them from +0 if `fresh`; only the first `rows` and `cols` are asked for, the others
     * are left undefined. */
    void (*chain[IV__GEMM_TYPES])(int64_t steps, const void *a, const void *b, void *acc,
                                  int64_t rows, int64_t cols, bool fresh);
    /* dst[i] += src[i], over n elements: one fold of two segments' tiles. */
    void (*fold[IV__GEMM_TYPES])(void *dst, const void *src, int64_t n);
    /* Converts and stores a tile, by output type, to c with row stride c_rs. */
    void (*store[IV__GEMM_TYPES])(void *c, int64_t c_rs, const void *acc, int64_t ld, int64_t rows,
                                  int64_t cols);
} iv__gemm_ops;

/* The table for products of `in` at a level. */
const iv__gemm_ops *iv__gemm_ops_of(int level, iv__gemm_type in);

#if defined(__x86_64__)
extern const iv__gemm_ops iv__gemm_ops_v2, iv__gemm_ops_v3, iv__gemm_ops_v4;
extern const iv__gemm_ops iv__gemm_ops_amx; /* bf16 only */
#else
extern const iv__gemm_ops iv__gemm_ops_base;
#endif

#endif
