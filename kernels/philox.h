/* philox.h: Philox4x32-10 in the kernel dialect (include portable.h first).
 * Constants and rounds as published by Salmon et al., SC 2011, and Random123. */
#ifndef IV_PHILOX_H
#define IV_PHILOX_H

typedef struct { u32 v[4]; } iv_u32x4;

/* High half of a 32 x 32 bit product. */
IV_FN u32 iv_mulhi32(u32 a, u32 b) { return (u32)(((u64)a * (u64)b) >> 32); }

/* The four numbers of counter (c0, c1, c2, c3) under key (k0, k1). */
IV_FN iv_u32x4 iv_philox(u32 k0, u32 k1, u32 c0, u32 c1, u32 c2, u32 c3)
{
    for (i32 round = 0; round < 10; ++round) {
        u32 h0 = iv_mulhi32(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
        u32 h1 = iv_mulhi32(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    iv_u32x4 r;
    r.v[0] = c0; r.v[1] = c1; r.v[2] = c2; r.v[3] = c3;
    return r;
}

/* Number `element` of (seed, stream, step): element / 4 picks the counter, element % 4 the word.
 * The counter holds element / 4 (32 bits), stream (32 bits) and step (64 bits). */
IV_FN u32 iv_random_u32(u64 seed, u32 stream, u64 step, u64 element)
{
    iv_u32x4 r = iv_philox((u32)seed, (u32)(seed >> 32), (u32)(element >> 2), stream, (u32)step,
                           (u32)(step >> 32) ^ ((u32)(element >> 34) << 16));
    return r.v[element & 3];
}
/* Uniform in [0, 1) with 24 bits: exact in f32. */
IV_FN f32 iv_uniform(u32 x) { return (f32)(x >> 8) * IV_AS_F32(0x33800000u); }

#endif
