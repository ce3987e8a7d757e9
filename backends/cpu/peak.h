/* peak.h: what the processor's multipliers do at most, measured: benchmarks state shares of it. */
#ifndef IV_BACKENDS_CPU_PEAK_H
#define IV_BACKENDS_CPU_PEAK_H

#include "backends/cpu/gemm.h"

/* Floating-point operations per second (a multiplication and an addition are two) of the whole team
 * at a level: fma on registers; for bf16 at level amx products of resident tiles.  bf16 and f16
 * elsewhere are computed with f32's fma.  0: the level has no fma. */
double iv__peak_flops(int level, iv__gemm_type t);

#endif
