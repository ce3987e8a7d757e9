/* peak_loop.c: a loop that keeps all multipliers busy and touches no memory; compiled once per
 * instruction level (IV__LEVEL).  Twelve sums in registers: more than latency times units asks for.
 */
#include <stdint.h>

#include "kernels/portable.h"

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__FMA__)
#define BYTES 32
#endif

#ifdef BYTES
#include <immintrin.h>
#if BYTES == 64
#define OP(x) _mm512_##x
#else
#define OP(x) _mm256_##x
#endif
#define SUMS 12
#define EACH_SUM(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)

/* Sums are variables, since an array may stay in memory. */
#define PEAK_LOOP(name, suffix, elem)                                                              \
    static double name(int64_t rounds)                                                             \
    {                                                                                              \
        __typeof__(OP(setzero_##suffix)()) a = OP(set1_##suffix)((elem)0.999);                     \
        EACH_SUM(DECLARE_##suffix)                                                                 \
        for (int64_t r = 0; r < rounds; ++r) {                                                     \
            EACH_SUM(ADD_##suffix)                                                                 \
        }                                                                                          \
        return (double)rounds * SUMS * 2 * (BYTES / (double)sizeof(elem));                         \
    }
#define DECLARE_ps(i) __typeof__(a) c##i = OP(set1_ps)(i);
#define DECLARE_pd(i) __typeof__(a) c##i = OP(set1_pd)(i);
#define ADD(suffix, i)                                                                             \
    c##i = OP(fmadd_##suffix)(c##i, a, a);                                                         \
    __asm__ volatile("" : "+v"(c##i));
#define ADD_ps(i) ADD(ps, i)
#define ADD_pd(i) ADD(pd, i)
PEAK_LOOP(loop_f32, ps, float)
PEAK_LOOP(loop_f64, pd, double)
#else
static double loop_f32(int64_t rounds)
{
    (void)rounds;
    return 0;
}
#define loop_f64 loop_f32
#endif

/* [0] f32, [1] f64: runs `rounds` and returns the operations done. */
double (*const IV_CAT(iv__peak_loop_, IV__LEVEL)[2])(int64_t rounds) = {loop_f32, loop_f64};
