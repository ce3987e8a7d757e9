/* tile.h: products of tiles by rules 4 and 5 of the numerics contract, for kernels that multiply.
 *
 * A group holds a tile of sums with lanes = columns and up to 64 rows, one private value per row:
 *
 *     PN(acc, e)[lane]  =  chain over k of  a[e, k] * b[k, lane]
 *
 * a and b are in SHARED memory, at most TILE_K k at a time, as the computing type A:
 *     a   by strides (ars, acs): rows of k [64][TILE_LDK], or k-major [TILE_K][TILE_LD]; the lanes of a
 *         group all read the same element
 *     b   [k][bks]: lane l reads b[k * bks + l]
 * Every element of a and b is used 64 times out of shared memory (device) or the first cache (host).
 *
 * This is the one construct with two bodies: on a device the rows are registers of a lane; on the host
 * 8 rows x 8 k x 16 lanes are one straight-line piece, because both gcc and clang vectorise only the
 * innermost loop.  The chains are the same.
 *
 * bf16 must flush denormal results, which costs several instructions per fma.  If the smallest exponents
 * of the two tiles sum to >= 142 (biased), all products are multiples of 2^-126, so every sum of them is
 * 0 or normal: then plain fma gives the same bits.  TILE_MULTIPLY looks, and takes the slow chain only
 * for the rare tile that needs it.
 */
#ifndef IV_TILE_H
#define IV_TILE_H

/* k of a block of rule 5; and k that are in memory of the group at a time, fewer in f64 on a device that
 * has little of it (IV_TILE_K64, set by its backend): a chain of rule 4 may be cut anywhere. */
#define TILE_BLOCK 32
#define TILE_K IV_CAT(iv_tile_k_, A)
#define iv_tile_k_f TILE_BLOCK
#ifdef IV_TILE_K64
#define iv_tile_k_d IV_TILE_K64
#else
#define iv_tile_k_d 32
#endif
/* Rows j, j + 1, ... of a PRIVN. */
#define TILE_ROWS_OF(v, j) (iv_p_##v + (j))
#ifdef IV_HOST_FORM
#define TILE_LD 64  /* row of a k-major tile of a */
#define TILE_LDK 32 /* row of a row-major tile of a */
#define TILE_LDB 64 /* row of a tile of b */
#define IV_TILE_END
/* Code for each lane and each row e in [0, count); on a device `count` should be a constant. */
#define ROWS(e, count, ...)                                                                        \
    for (i32 e = 0; e < (i32)(count); ++e) {                                                       \
        IV_SIMD for (i32 lid = 0; lid < IV_W; ++lid) { __VA_ARGS__ }                   \
    }
/* Code for each pair (r, c) in [0, R) x [0, C), neighbouring lanes at neighbouring c.  C: 16, 32 or 64. */
#define EACH2(r, R, c, C, ...)                                                                     \
    for (i32 r = 0; r < (R); ++r) {                                                                \
        IV_SIMD for (i32 c = 0; c < (C); ++c) { __VA_ARGS__ }                          \
    }
#else
/* The rows of a lane are registers, so every loop over them must unroll. */
#define IV_UNROLL _Pragma("unroll")
/* f32 rows are padded against bank conflicts; f64 tiles are twice as large without. */
#define TILE_LD IV_CAT(iv_tile_ld_, A)
#define TILE_LDK IV_CAT(iv_tile_ldk_, A)
#define TILE_LDB IV_CAT(iv_tile_ldb_, A)
#define iv_tile_ld_f 68
#define iv_tile_ldk_f 36
#define iv_tile_ldb_f 65
#define iv_tile_ld_d 64
#define iv_tile_ldk_d iv_tile_k_d
#define iv_tile_ldb_d 65
#define IV_TILE_END IV_BARRIER;
#define ROWS(e, count, ...)                                                                        \
    {                                                                                              \
        const i32 lid = IV_LANE;                                                                   \
        (void)lid;                                                                                 \
        IV_UNROLL for (i32 e = 0; e < (i32)(count); ++e) { __VA_ARGS__ }                   \
    }                                                                                              \
    IV_BARRIER;
#define EACH2(r, R, c, C, ...)                                                                     \
    {                                                                                              \
        for (i32 iv_i = IV_LANE; iv_i < (R) * (C); iv_i += IV_W) {                                 \
            const i32 r = iv_i / (C), c = iv_i % (C);                                              \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }                                                                                              \
    IV_BARRIER;
#endif
#define TILE_A_SIZE (TILE_LDK * IV_W > TILE_LD * TILE_K ? TILE_LDK * IV_W : TILE_LD * TILE_K)
#define TILE_B_SIZE (TILE_LDB * TILE_K)

/* ---- inputs of a product: for bf16 a denormal counts as signed zero ---- */
IV_FN f32 iv_daz_bf16(u16 h)
{
    return IV_AS_F32((u32)((h & 0x7f80u) ? h : (h & 0x8000u)) << 16);
}
#define LDX(T, v, idx) IV_CAT(iv_ldx_, T)(v, idx)
#define iv_ldx_f(v, i) ((v)[i])
#define iv_ldx_d(v, i) ((v)[i])
#define iv_ldx_h(v, i) iv_from_f16((v)[i])
#define iv_ldx_b(v, i) iv_daz_bf16((v)[i])
/* A computed value as it enters a product of type T. */
#define ROUNDX(T, x) IV_CAT(iv_roundx_, T)(x)
#define iv_roundx_f(x) (x)
#define iv_roundx_d(x) (x)
#define iv_roundx_h(x) iv_from_f16(iv_to_f16(x))
#define iv_roundx_b(x) iv_daz_bf16(iv_to_bf16(x))

/* Copies rows [0, nr) x columns [0, nc) of a matrix with contiguous columns to dst[r * ld + c], zeros up
 * to R x C.  T: type of src. */
#define TILE_LOAD(dst, ld, R, C, nr, nc, T, src, base, rs)                                         \
    if ((nr) >= (R) && (nc) >= (C)) {                                                              \
        EACH2(r, R, c, C, (dst)[r * (ld) + c] = LDX(T, src, (base) + r * (rs) + c);)               \
    } else {                                                                                       \
        EACH2(r, R, c, C,                                                                          \
              (dst)[r * (ld) + c] =                                                                \
                  r < (nr) && c < (nc) ? LDX(T, src, (base) + r * (rs) + c) : C_(0);)              \
    }
/* The same with any strides, to dst[r * dr + c * dc]. */
#ifndef TILE_LOAD_ANY
#define TILE_LOAD_ANY(dst, dr, dc, R, C, nr, nc, T, src, base, rs, cs)                             \
    EACH2(r, R, c, C,                                                                              \
          (dst)[r * (dr) + c * (dc)] =                                                             \
              r < (nr) && c < (nc) ? LDX(T, src, (base) + r * (rs) + c * (cs)) : C_(0);)
#endif

/* ---- flush to zero, as hardware does it: tiny is decided after rounding, exponent unbounded ---- */
IV_FN f32 iv_flush(f32 x)
{
    u32 u = IV_AS_U32(x);
    return IV_AS_F32((u & 0x7f800000u) ? u : (u & 0x80000000u));
}
IV_FN f32 iv_add_flush(f32 a, f32 b)
{
    return iv_flush(a + b);
}
/* Only a result of exactly the least normal number may have been rounded up to it: the same sum scaled
 * by 2^64 tells whether it is below. */
IV_FN f32 iv_fma_flush(f32 a, f32 b, f32 c)
{
    f32 r = IV_FMA32(a, b, c);
    u32 ua = IV_AS_U32(a) & 0x7fffffffu, ub = IV_AS_U32(b) & 0x7fffffffu;
    u32 less = ua < ub ? IV_AS_U32(a) : IV_AS_U32(b), more = ua < ub ? IV_AS_U32(b) : IV_AS_U32(a);
    f32 big = IV_AS_F32(0x5f800000u);
    u32 s = IV_AS_U32(IV_FMA32(IV_AS_F32(less) * big, IV_AS_F32(more), c * big)) & 0x7fffffffu;
    u32 u = IV_AS_U32(r), v = u & 0x7fffffffu;
    u32 tiny = (u32)(v < 0x00800000u) | ((u32)(v == 0x00800000u) & (u32)(s < 0x20800000u));
    return IV_AS_F32(u & (0x80000000u | (tiny - 1u)));
}
/* Rule 5 flushes inside its chain only.  Sums of segments, of grains, passes, devices and ranks are
 * added by the tree with plain additions, which keep denormals in every type: if the tree flushed
 * inside a product's kernel and not between passes, then cutting a step into passes would change
 * bits.  So there is no addition of partial sums here.
 *
 * (The hardware's mode for flushing is on during the chain, and off around it.) */

/* ---- may the product of these tiles need flushing? ---- */
/* TILE_RANGE declares memory for it. */
#define TILE_RANGE IV_CAT3(iv_tile_, range_, T0) /* not IV_CAT: SHARED needs that inside */
#define iv_tile_range_f
#define iv_tile_range_d
#define iv_tile_range_h
#define iv_tile_range_b SHARED(I, iv_rng, 2 * IV_W); IV_TILE_CLEAR
#define IV_TILE_LOOK(a, na, b, nb) IV_CAT(iv_tile_look_, T0)(a, na, b, nb)
#define iv_tile_look_f(a, na, b, nb) const i32 iv_slow = 0;
#define iv_tile_look_d(a, na, b, nb) const i32 iv_slow = 0;
#define iv_tile_look_h(a, na, b, nb) const i32 iv_slow = 0;
/* exponent - 1 of a nonzero value, 255 of zero */
#define IV_TILE_EXP(x) (i32)(((IV_AS_U32(x) >> 23) - 1u) & 255u)
#define iv_tile_look_b(a, na, b, nb)                                                               \
    REGION(iv_rng[lid] = 255; iv_rng[IV_W + lid] = 255;)                                           \
    EACH(iv_c, na, i32 x = IV_TILE_EXP((a)[iv_c]); iv_rng[lid] = x < iv_rng[lid] ? x : iv_rng[lid];) \
    EACH(iv_c, nb, i32 x = IV_TILE_EXP((b)[iv_c]);                                                 \
         iv_rng[IV_W + lid] = x < iv_rng[IV_W + lid] ? x : iv_rng[IV_W + lid];)                    \
    i32 iv_ea = 255, iv_eb = 255;                                                                  \
    for (i32 l = 0; l < IV_W; ++l) {                                                               \
        iv_ea = iv_rng[l] < iv_ea ? iv_rng[l] : iv_ea;                                             \
        iv_eb = iv_rng[IV_W + l] < iv_eb ? iv_rng[IV_W + l] : iv_eb;                               \
    }                                                                                              \
    const i32 iv_slow = iv_ea + iv_eb < 140;

/* ---- the product ----
 * Continues the sums acc[j + e], e in [0, rows), over k in [0, nk), nk <= TILE_K.  rows <= 64, may be
 * rounded up to a multiple of 8.  For b and h, nk counts as 32: the rest must be zeros in a and b.
 * na, nb: elements of a and b to look at for the range. */
#define TILE_MULTIPLY(acc, j, rows, a, na, ars, acs, b, nb, bks, nk)                               \
    {                                                                                              \
        IV_TILE_LOOK(a, na, b, nb)                                                                 \
        IV_CAT(iv_tile_, T0)(TILE_ROWS_OF(acc, j), (i32)(rows), a, ars, acs, b, bks, (i32)(nk),    \
                             iv_slow);                                                             \
        IV_TILE_END                                                                                \
    }

#ifdef IV_HOST_FORM
/* x(r): what to do for each of 8 rows; y(r, k) for each of 8 or 16 k */
#define IV_R8(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7)
#define IV_R4(x) x(0) x(1) x(2) x(3)
#define IV_K8(y, r) y(r, 0) y(r, 1) y(r, 2) y(r, 3) y(r, 4) y(r, 5) y(r, 6) y(r, 7)
#define IV_TILE_B(k) const AX b##k = bk[(k) * bks + c];
#define IV_TILE_STEP(r, k) x##r = FX(ak[(r) * ars + (k) * acs], b##k, x##r);
#define IV_TILE_8(r) AX x##r = x[(r) * IV_W + c]; IV_K8(IV_TILE_STEP, r) x[(r) * IV_W + c] = x##r;
#define IV_TILE_1(r) x[(r) * IV_W + c] = FX(ak[(r) * ars], bk[c], x[(r) * IV_W + c]);
#ifndef IV_TILE_CHAIN
/* Rule 4.  LV lanes are one vector. */
#define IV_TILE_CHAIN(name, LV)                                                                    \
    IV_FN void name(AX (*acc)[IV_W], i32 rows, const AX *a, i32 ars, i32 acs, const AX *b,         \
                    i32 bks, i32 nk, i32 slow)                                                     \
    {                                                                                              \
        (void)slow;                                                                                \
        for (i32 e = 0; e < rows; e += 8) {                                                        \
            for (i32 l = 0; l < IV_W; l += LV) {                                                   \
                AX *x = &acc[e][l];                                                                \
                const AX *ak = a + e * ars, *bk = b + l;                                           \
                i32 k = 0;                                                                         \
                for (; k + 8 <= nk; k += 8, ak += 8 * acs, bk += 8 * bks) {                        \
                    IV_SIMD for (i32 c = 0; c < LV; ++c)                               \
                    {                                                                              \
                        IV_R8(IV_TILE_B) IV_R8(IV_TILE_8)                                          \
                    }                                                                              \
                }                                                                                  \
                for (; k < nk; ++k, ak += acs, bk += bks) {                                        \
                    IV_SIMD for (i32 c = 0; c < LV; ++c) { IV_R8(IV_TILE_1) }          \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
#endif
#define AX f32
#define FX(a, b, c) IV_FMA32(a, b, c)
IV_TILE_CHAIN(iv_tile_f, 16)
#undef AX
#undef FX
#ifdef IV_HAS_F64
#define AX f64
#define FX(a, b, c) IV_FMA64(a, b, c)
IV_TILE_CHAIN(iv_tile_d, 8)
#undef AX
#undef FX
#endif

/* Rule 5: 16 k at a time keep the values of b in registers; s: even sum, t: odd sum. */
#define AX f32
#define IV_TILE_EVEN(r, k) s##r = FX(ak[(r) * ars + 2 * (k) * acs], b##k, s##r);
#define IV_TILE_ODD(r, k) t##r = FX(ak[(r) * ars + (2 * (k) + 1) * acs], b##k, t##r);
#define IV_TILE_BE(k) b##k = bk[2 * (k) * bks + c];
#define IV_TILE_BO(k) b##k = bk[(2 * (k) + 1) * bks + c];
#define IV_TILE_EVENS(r) IV_K8(IV_TILE_EVEN, r)
#define IV_TILE_ODDS(r) IV_K8(IV_TILE_ODD, r)
#define IV_TILE_ZERO(r) AX s##r = 0, t##r = 0;
#define IV_TILE_SUM(r) x[(r) * IV_W + c] = AF(x[(r) * IV_W + c], AF(s##r, t##r));
#define IV_TILE_BLOCKS(FN, name)                                                                   \
    FN void name(AX (*acc)[IV_W], i32 rows, const AX *a, i32 ars, i32 acs, const AX *b,         \
                    i32 bks)                                                                       \
    {                                                                                              \
        for (i32 e = 0; e < rows; e += 4) {                                                        \
            for (i32 l = 0; l < IV_W; l += 16) {                                                   \
                AX *x = &acc[e][l];                                                                \
                const AX *a0 = a + e * ars, *b0_ = b + l;                                          \
                IV_SIMD for (i32 c = 0; c < 16; ++c)                                   \
                {                                                                                  \
                    IV_R4(IV_TILE_ZERO)                                                            \
                    const AX *ak = a0, *bk = b0_;                                                  \
                    AX b0, b1, b2, b3, b4, b5, b6, b7;                                             \
                    IV_R8(IV_TILE_BE) IV_R4(IV_TILE_EVENS) IV_R8(IV_TILE_BO) IV_R4(IV_TILE_ODDS)   \
                    ak += 16 * acs;                                                                \
                    bk += 16 * bks;                                                                \
                    IV_R8(IV_TILE_BE) IV_R4(IV_TILE_EVENS) IV_R8(IV_TILE_BO) IV_R4(IV_TILE_ODDS)   \
                    IV_R4(IV_TILE_SUM)                                                             \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
#ifndef IV_TILE_PLAIN_BLOCKS /* with the plain fma */
#define IV_TILE_PLAIN_BLOCKS IV_TILE_BLOCKS
#endif
#define FX(a, b, c) IV_FMA32(a, b, c)
#define AF(a, b) ((a) + (b))
IV_TILE_PLAIN_BLOCKS(IV_FN, iv_tile_block_h)
#undef AF
#define AF(a, b) iv_add_flush(a, b)
IV_TILE_PLAIN_BLOCKS(IV_FN, iv_tile_block_b)
#undef FX
#define FX(a, b, c) iv_fma_flush(a, b, c)
IV_TILE_BLOCKS(static __attribute__((noinline, unused)), iv_tile_block_slow)
#undef FX
#undef AF
#undef AX

IV_FN void iv_tile_h(f32 (*acc)[IV_W], i32 rows, const f32 *a, i32 ars, i32 acs, const f32 *b,
                     i32 bks, i32 nk, i32 slow)
{
    (void)nk;
    (void)slow;
    iv_tile_block_h(acc, rows, a, ars, acs, b, bks);
}
IV_FN void iv_tile_b(f32 (*acc)[IV_W], i32 rows, const f32 *a, i32 ars, i32 acs, const f32 *b,
                     i32 bks, i32 nk, i32 slow)
{
    (void)nk;
    if (slow) {
        iv_tile_block_slow(acc, rows, a, ars, acs, b, bks);
    } else {
        iv_tile_block_b(acc, rows, a, ars, acs, b, bks);
    }
}
#define IV_TILE_CLEAR
#else
/* What pads the rows of a tile is looked at too (TILE_MULTIPLY's na, nb): once, zeros. */
#define IV_TILE_CLEAR                                                                              \
    EACH(iv_c, (i64)(sizeof(sa) / sizeof(sa[0])), sa[iv_c] = 0;)                                   \
    EACH(iv_c, (i64)(sizeof(sb) / sizeof(sb[0])), sb[iv_c] = 0;)
#define IV_NO_UNROLL _Pragma("unroll 1")
/* Rule 4: all 64 rows in registers. */
#define IV_TILE_CHAIN(name, AX, FX)                                                                \
    IV_FN void name(AX *acc, i32 rows, IV_LOCAL_ const AX *a, i32 ars, i32 acs,                    \
                    IV_LOCAL_ const AX *b, i32 bks, i32 nk, i32 slow)                              \
    {                                                                                              \
        AX x[IV_W];                                                                                \
        IV_UNROLL for (i32 e = 0; e < IV_W; ++e) x[e] = acc[e];                            \
        IV_NO_UNROLL for (i32 k = 0; k < nk; ++k) {                                                \
            AX bv = b[k * bks + IV_LANE];                                                          \
            IV_UNROLL for (i32 e = 0; e < IV_W; ++e) x[e] =                                \
                FX(a[e * ars + k * acs], bv, x[e]);                                                \
        }                                                                                          \
        IV_UNROLL for (i32 e = 0; e < IV_W; ++e) acc[e] = x[e];                            \
    }
/* Rule 5: 32 rows at a time, so that both sums fit in registers beside acc. */
#define IV_TILE_BLOCKS(name, FX, AF)                                                               \
    IV_FN void name(f32 *acc, i32 rows, IV_LOCAL_ const f32 *a, i32 ars, i32 acs,                  \
                    IV_LOCAL_ const f32 *b, i32 bks, i32 nk, i32 slow)                             \
    {                                                                                              \
        IV_UNROLL for (i32 h = 0; h < IV_W; h += 32) {                                     \
            f32 s[32], t[32];                                                                      \
            IV_UNROLL for (i32 e = 0; e < 32; ++e) s[e] = t[e] = 0;                        \
            IV_NO_UNROLL for (i32 k = 0; k < TILE_BLOCK; k += 2) {                                     \
                f32 b0 = b[k * bks + IV_LANE], b1 = b[(k + 1) * bks + IV_LANE];                    \
                IV_UNROLL for (i32 e = 0; e < 32; ++e) {                                   \
                    s[e] = FX(a[(h + e) * ars + k * acs], b0, s[e]);                               \
                    t[e] = FX(a[(h + e) * ars + (k + 1) * acs], b1, t[e]);                         \
                }                                                                                  \
            }                                                                                      \
            IV_UNROLL for (i32 e = 0; e < 32; ++e) acc[h + e] =                            \
                AF(acc[h + e], AF(s[e], t[e]));                                                    \
        }                                                                                          \
    }
IV_TILE_CHAIN(iv_tile_f, f32, IV_FMA32)
#ifdef IV_HAS_F64
IV_TILE_CHAIN(iv_tile_d, f64, IV_FMA64)
#endif
IV_TILE_BLOCKS(iv_tile_h, IV_FMA32, IV_ADD_)
IV_TILE_BLOCKS(iv_tile_block_b, IV_FMA32, iv_add_flush)
/* The slow chain is long and rare: row by row in memory of the lane, so that there is little code. */
IV_FN void iv_tile_block_slow(f32 *acc, IV_LOCAL_ const f32 *a, i32 ars, i32 acs,
                              IV_LOCAL_ const f32 *b, i32 bks)
{
    f32 x[IV_W];
    IV_UNROLL for (i32 e = 0; e < IV_W; ++e) x[e] = acc[e];
    IV_NO_UNROLL for (i32 e = 0; e < IV_W; ++e) {
        f32 s = 0, t = 0;
        IV_NO_UNROLL for (i32 k = 0; k < TILE_BLOCK; k += 2) {
            s = iv_fma_flush(a[e * ars + k * acs], b[k * bks + IV_LANE], s);
            t = iv_fma_flush(a[e * ars + (k + 1) * acs], b[(k + 1) * bks + IV_LANE], t);
        }
        x[e] = iv_add_flush(x[e], iv_add_flush(s, t));
    }
    IV_UNROLL for (i32 e = 0; e < IV_W; ++e) acc[e] = x[e];
}
IV_FN void iv_tile_b(f32 *acc, i32 rows, IV_LOCAL_ const f32 *a, i32 ars, i32 acs,
                     IV_LOCAL_ const f32 *b, i32 bks, i32 nk, i32 slow)
{
    if (slow) {
        iv_tile_block_slow(acc, a, ars, acs, b, bks);
    } else {
        iv_tile_block_b(acc, rows, a, ars, acs, b, bks, nk, slow);
    }
}
#endif

/* A 64 x 64 tile that is written by rows and read by columns, or the other way round: element (r, c) lies
 * at TILE_AT(r, c).  On a device the elements of a row are permuted, so that 32 neighbours of a row are in
 * 32 banks, and so are those of a column. */
#ifdef IV_HOST_FORM
#define TILE_AT(r, c) ((r) * 64 + (c))
#else
#define TILE_AT(r, c) ((r) * 64 + ((c) ^ (r)))
#endif
/* Turns rows [0, nr) x columns [0, nc): dst[c * 64 + r], zeros up to 64 x 64.  tmp: SHARED [64 * 64]; a
 * device goes through it, since neighbouring lanes must read and write neighbouring elements of dst too. */
#ifdef IV_HOST_FORM
#define TILE_TURN(dst, tmp, nr, nc, T, src, base, rs)                                              \
    TILE_LOAD_ANY(dst, 1, 64, 64, 64, nr, nc, T, src, base, rs, 1)
#else
#define TILE_TURN(dst, tmp, nr, nc, T, src, base, rs)                                              \
    EACH2(r, 64, c, 64,                                                                            \
          (tmp)[TILE_AT(c, r)] =                                                                   \
              r < (nr) && c < (nc) ? LDX(T, src, (base) + r * (rs) + c) : C_(0);)                  \
    EACH2(c, 64, r, 64, (dst)[c * 64 + r] = (tmp)[TILE_AT(c, r)];)
#endif

/* While another product needs registers, rows 32..63 of a PRIVN wait in memory of the group: tmp, SHARED
 * [32 * 64].  On the host they are in memory anyway. */
#ifdef IV_HOST_FORM
#define TILE_PARK(v, tmp)
#define TILE_FETCH(v, tmp)
#else
#define TILE_PARK(v, tmp) ROWS(e, 32, (tmp)[e * 64 + lid] = PN(v, 32 + e);)
#define TILE_FETCH(v, tmp) ROWS(e, 32, PN(v, 32 + e) = (tmp)[e * 64 + lid];)
#endif
#endif
