/* pool.h: maximum and mean over windows of planes, and their gradients, for one instruction
 * level and element type.  The arithmetic is that of kernels/pool.k, to the bit.
 *
 * x [planes][h][w] -> y [planes][oh][ow].  Forward, a row of outputs is a row of lanes: each
 * element of the window is one pass over them, so that a lane meets its window in row-major order.
 * Backward, the outputs in rising order add to the pixels of their windows, so that a pixel meets
 * its outputs in rising order, however windows overlap.
 */
#ifndef IV_BACKENDS_CPU_POOL_H
#define IV_BACKENDS_CPU_POOL_H

#include <stdint.h>

typedef struct iv__pool {
    int64_t h, w, oh, ow;
    int64_t size[2], stride[2], pad[2];
} iv__pool;

/* place: of a maximum, its index in the plane, -1 for a window that lies in the padding.
 * scratch: iv__pool_scratch bytes, aligned to 64, of one thread. */
typedef struct iv__pool_ops {
    void (*max)(const iv__pool *p, int64_t planes, const void *x, void *y, int32_t *place,
                void *scratch);
    void (*mean)(const iv__pool *p, int64_t planes, const void *x, void *y, void *scratch);
    void (*max_grad)(const iv__pool *p, int64_t planes, const void *dy, const int32_t *place,
                     void *dx, void *scratch);
    void (*mean_grad)(const iv__pool *p, int64_t planes, const void *dy, void *dx, void *scratch);
} iv__pool_ops;

/* A row of lanes is a multiple of this. */
enum { IV__POOL_LANES = 8 };

static inline int64_t iv__pool_lanes(const iv__pool *p)
{
    return (p->ow + IV__POOL_LANES - 1) / IV__POOL_LANES * IV__POOL_LANES;
}

/* A row of x is kept in `stride` phases of so many elements, padding included. */
static inline int64_t iv__pool_phase(const iv__pool *p)
{
    int64_t lanes = iv__pool_lanes(p) + p->size[1] / p->stride[1] + 1;
    int64_t row = (p->w + 2 * p->pad[1]) / p->stride[1] + 1;
    int64_t most = lanes > row ? lanes : row;
    return (most + IV__POOL_LANES - 1) / IV__POOL_LANES * IV__POOL_LANES;
}

/* A row, values and places of its lanes, and three numbers for each column of the window; or a
 * plane of sums.  Elements of 8 bytes at most. */
static inline int64_t iv__pool_scratch(const iv__pool *p)
{
    int64_t rows = iv__pool_phase(p) * p->stride[1] + 2 * iv__pool_lanes(p) + 3 * p->size[1];
    int64_t plane = p->h * p->w;
    return ((rows > plane ? rows : plane) * 8 + 63) / 64 * 64;
}

/* By iv__gemm_type. */
#if defined(__x86_64__)
extern const iv__pool_ops iv__pool_ops_v2[], iv__pool_ops_v3[], iv__pool_ops_v4[];
#else
extern const iv__pool_ops iv__pool_ops_base[];
#endif

#endif
