/* rng.h: Philox4x32-10, the counter-based generator of the numerics contract (Salmon, Moraes, Dror,
 * Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).  key = seed, counter = (stream,
 * step, element): a number is a pure function of these, on every device, in any order. */
#ifndef IV_RNG_H
#define IV_RNG_H
#include "../kernels/portable.h"
#include "../kernels/philox.h"

/* Streams: who draws.  Fixed numbers, part of the contract. */
enum {
    IV__STREAM_INIT = 1,    /* + index in the order of names << 8: initial values */
    IV__STREAM_DATA = 2,    /* sampling and shuffling */
    IV__STREAM_DROPOUT = 3, /* + node index << 8 */
    IV__STREAM_GENERATE = 4,
    IV__STREAM_ROUND = 5 /* stochastic rounding of updated parameters, by element of the arena */
};
#endif
