/* elem.c: runs element programs on the host, a tile of 256 elements at a time.
 *
 * Registers are rows of a tile that stay in L1; every operator of kernels/elem.def is a loop over
 * the row that the compiler vectorises.  Compiled once per instruction level (IV__LEVEL names it).
 */
#include "cpu.h"

#include "../../kernels/portable.h"
#include "../../kernels/math.h"
#include "../../kernels/philox.h"

#include <string.h>

enum {
#define E(NAME, ...) ELEM_##NAME,
#include "../../kernels/elem.def"
#undef E
    ELEM_COUNT
};
enum { TILE = 256 };

/* The random numbers of a tile: stream and step fixed, elements first .. first + n. */
typedef struct rng_base {
    uint64_t seed, step, first;
} rng_base;

/* Element e of the output as an index per dimension. */
static void split_index(const iv_program *p, int64_t e, int64_t idx[IV_PROGRAM_DIMS])
{
    for (int32_t d = p->n_dims - 1; d >= 0; --d) {
        idx[d] = e % p->dim[d];
        e /= p->dim[d];
    }
}

static int64_t dot_index(const iv_program *p, const int64_t *idx, const int64_t *stride)
{
    int64_t at = 0;
    for (int32_t d = 0; d < p->n_dims; ++d) at += idx[d] * stride[d];
    return at;
}

/* Steps idx to the start of the next run of the innermost dimension. */
static void next_row(const iv_program *p, int64_t *idx)
{
    int32_t d = p->n_dims - 1;
    idx[d] = p->dim[d];
    for (; d > 0 && idx[d] >= p->dim[d]; --d) {
        idx[d] = 0;
        ++idx[d - 1];
    }
}

#define A f
#define ELEM_FN(name) name##_f32
#include "elem_ops.inc"
#undef A
#undef ELEM_FN
#define A d
#define ELEM_FN(name) name##_f64
#include "elem_ops.inc"
#undef A
#undef ELEM_FN

void IV_CAT(iv__host_program_, IV__LEVEL)(const iv_program *p, u8 *const *buf, i64 g0, i64 g1);
void IV_CAT(iv__host_program_, IV__LEVEL)(const iv_program *p, u8 *const *buf, i64 g0, i64 g1)
{
    i64 count = 1;
    for (i32 d = 0; d < p->n_dims; ++d) count *= p->dim[d];
    i64 end = g1 * IV_PROGRAM_TILE < count ? g1 * IV_PROGRAM_TILE : count;
    for (i64 e = g0 * IV_PROGRAM_TILE; e < end; e += TILE) {
        i32 n = (i32)(end - e < TILE ? end - e : TILE);
        if (p->compute == IV_F64) run_tile_f64(p, buf, e, n);
        else run_tile_f32(p, buf, e, n);
    }
}
