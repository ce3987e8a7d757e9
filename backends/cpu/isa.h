/* isa.h: the instruction set levels of the host kernels.
 *
 * On x86-64 the kernels are compiled three times, for x86-64-v2, -v3 and -v4, and one of them is
 * chosen at run time; level "amx" is v4 with matrix products of bf16 in tiles.  Elsewhere there is
 * the one level "base".  All levels give the same bits.
 * A level is its index in rising order, 0 to IV__ISA_COUNT - 1, or -1 for none.
 */
#ifndef IV_BACKENDS_CPU_ISA_H
#define IV_BACKENDS_CPU_ISA_H

#include <stdbool.h>

#if defined(__x86_64__)
enum { IV__ISA_V2, IV__ISA_V3, IV__ISA_V4, IV__ISA_AMX, IV__ISA_COUNT };
#else
enum { IV__ISA_BASE, IV__ISA_COUNT };
#endif

/* The highest level that processor and operating system allow; -1 if not even the lowest. */
int iv__isa_detect(void);

/* The level called `name` ("v2", "v3", "v4", "amx"; "base"), whether this machine has it or not; -1
 * if there is none of that name in this build or `name` is NULL.  A caller that forces a level must
 * compare it with iv__isa_detect(). */
int iv__isa_from_name(const char *name);

/* The name of `level`, a string constant; NULL if it is out of range. */
const char *iv__isa_name(int level);

/* Whether the level multiplies bf16 in tiles, and whether its vectors are the widest that this
 * build knows. */
bool iv__isa_has_tiles(int level);
bool iv__isa_is_widest(int level);

/* The processor multiplies bf16 pairs: VDPBF16PS.  Not canonical arithmetic (numerics, rule 5). */
bool iv__isa_has_avx512_bf16(void);

/* The processor and the kernel know bf16 tiles (TDPBF16PS), and Linux lets this process use them:
 * it is asked for the tile state here, once for all threads. */
bool iv__isa_has_amx_bf16(void);

#endif
