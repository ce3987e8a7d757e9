/* rnd.h: numbers for tests that draw their cases: the same ones in every run (xorshift64). */
#ifndef IV_TEST_RND_H
#define IV_TEST_RND_H

#include <stdint.h>

static uint64_t seed = 1;

static uint32_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

/* In [lo, hi]. */
static int64_t rnd_to(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(rnd() % (uint32_t)(hi - lo + 1));
}

#endif
