/* fpmode.h: the floating-point environment of a chain: denormals kept, or flushed as rule 5 says.
 */
#ifndef IV_BACKENDS_CPU_FPMODE_H
#define IV_BACKENDS_CPU_FPMODE_H

#if defined(__x86_64__)
#include <xmmintrin.h>
enum { FP_KEEP = 0x1f80, FP_FLUSH = 0x9fc0 }; /* exceptions masked, to nearest; | FTZ | DAZ */
static inline unsigned fp_get(void)
{
    return _mm_getcsr();
}
static inline void fp_set(unsigned mode)
{
    _mm_setcsr(mode);
}
#else
enum { FP_KEEP, FP_FLUSH };
static inline unsigned fp_get(void)
{
    return 0;
}
static inline void fp_set(unsigned mode)
{
    (void)mode;
}
#endif

#endif
