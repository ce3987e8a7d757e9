/* tile_vector.h: pieces of tile.h in the vectors of OpenCL C, for processors behind OpenCL: their
 * compilers make little of the host's loops over lanes.  Comes before tile.h, which has the contract.
 * IV_VECTOR and IV_VECTOR64 are the numbers of f32 and f64 in a register of the device.
 */
#ifdef IV_VECTOR
/* IV_CAT for names that expand to something with IV_CAT in it. */
#define IV_GLUE_(a, b) a##b
#define IV_GLUE(a, b) IV_GLUE_(a, b)
typedef IV_CAT(float, IV_VECTOR) iv_v_f32;
#define iv_vn_f32 IV_VECTOR
#define iv_vld_f32 IV_CAT(vload, IV_VECTOR)
#define iv_vst_f32 IV_CAT(vstore, IV_VECTOR)
#ifdef IV_HAS_F64
typedef IV_CAT(double, IV_VECTOR64) iv_v_f64;
#define iv_vn_f64 IV_VECTOR64
#define iv_vld_f64 IV_CAT(vload, IV_VECTOR64)
#define iv_vst_f64 IV_CAT(vstore, IV_VECTOR64)
#endif
#define VX IV_GLUE(iv_v_, AX)
#define VN IV_GLUE(iv_vn_, AX)
#define VLD IV_GLUE(iv_vld_, AX)
#define VST IV_GLUE(iv_vst_, AX)

/* Rule 4: the sums of 4 rows x 2 vectors stay in registers for all k. */
#define IV_TILE_VLOAD(r) VX x##r = VLD(0, x + (r) * IV_W), y##r = VLD(1, x + (r) * IV_W);
#define IV_TILE_VSTEP(r)                                                                           \
    {                                                                                              \
        const VX v = (VX)(ak[(r) * ars]);                                                          \
        x##r = fma(v, b0, x##r);                                                                   \
        y##r = fma(v, b1, y##r);                                                                   \
    }
#define IV_TILE_VSTORE(r)                                                                          \
    VST(x##r, 0, x + (r) * IV_W);                                                                  \
    VST(y##r, 1, x + (r) * IV_W);
#define IV_TILE_CHAIN(name, LV)                                                                    \
    IV_FN void name(AX (*acc)[IV_W], i32 rows, const AX *a, i32 ars, i32 acs, const AX *b,         \
                    i32 bks, i32 nk, i32 slow)                                                     \
    {                                                                                              \
        (void)slow;                                                                                \
        for (i32 e = 0; e < rows; e += 4) {                                                        \
            for (i32 l = 0; l < IV_W; l += 2 * VN) {                                               \
                AX *x = &acc[e][l];                                                                \
                const AX *ak = a + e * ars, *bk = b + l;                                           \
                IV_R4(IV_TILE_VLOAD)                                                               \
                for (i32 k = 0; k < nk; ++k, ak += acs, bk += bks) {                               \
                    const VX b0 = VLD(0, bk), b1 = VLD(1, bk);                                     \
                    IV_R4(IV_TILE_VSTEP)                                                           \
                }                                                                                  \
                IV_R4(IV_TILE_VSTORE)                                                              \
            }                                                                                      \
        }                                                                                          \
    }

/* Rule 5: even and odd sums of 4 rows x 1 vector in registers, then added lane by lane. */
#define IV_TILE_VZERO(r) VX s##r = 0, t##r = 0;
#define IV_TILE_VPAIR(r)                                                                           \
    s##r = fma((VX)(ak[(r) * ars]), b0, s##r);                                                     \
    t##r = fma((VX)(ak[(r) * ars + acs]), b1, t##r);
#define IV_TILE_VKEEP(r)                                                                           \
    VST(s##r, 0, even[r]);                                                                         \
    VST(t##r, 0, odd[r]);
#define IV_TILE_PLAIN_BLOCKS(FN, name)                                                              \
    FN void name(AX (*acc)[IV_W], i32 rows, const AX *a, i32 ars, i32 acs, const AX *b, i32 bks)   \
    {                                                                                              \
        AX even[4][VN], odd[4][VN];                                                                \
        for (i32 e = 0; e < rows; e += 4) {                                                        \
            for (i32 l = 0; l < IV_W; l += VN) {                                                   \
                const AX *ak = a + e * ars, *bk = b + l;                                           \
                IV_R4(IV_TILE_VZERO)                                                               \
                for (i32 k = 0; k < TILE_BLOCK; k += 2, ak += 2 * acs, bk += 2 * bks) {                \
                    const VX b0 = VLD(0, bk), b1 = VLD(0, bk + bks);                               \
                    IV_R4(IV_TILE_VPAIR)                                                           \
                }                                                                                  \
                IV_R4(IV_TILE_VKEEP)                                                               \
                for (i32 r = 0; r < 4; ++r)                                                        \
                    for (i32 c = 0; c < VN; ++c)                                                   \
                        acc[e + r][l + c] = AF(acc[e + r][l + c], AF(even[r][c], odd[r][c]));      \
            }                                                                                      \
        }                                                                                          \
    }

/* Whole tiles of f32 whose source has contiguous columns: rows are copied, or turned in squares of
 * 8 x 8 by exchanging ever larger parts of neighbours (a vector's halves last). */
#define IV_PAIRS(a, b) (float8)(a.s0, b.s0, a.s1, b.s1, a.s4, b.s4, a.s5, b.s5)
#define IV_PAIRS_HI(a, b) (float8)(a.s2, b.s2, a.s3, b.s3, a.s6, b.s6, a.s7, b.s7)
#define IV_QUADS(a, b) (float8)(a.s01, b.s01, a.s45, b.s45)
#define IV_QUADS_HI(a, b) (float8)(a.s23, b.s23, a.s67, b.s67)
/* To memory of the group or of the device: two functions of one name. */
#define IV_BOTH __attribute__((overloadable))
#define IV_LOADS(SPACE)                                                                                          \
    IV_FN IV_BOTH void iv_turn_8(IV_GLOBAL const f32 *s, i64 rs, SPACE f32 *d, i32 dc)                           \
    {                                                                                                            \
        const float8 r0 = vload8(0, s), r1 = vload8(0, s + rs), r2 = vload8(0, s + 2 * rs);                      \
        const float8 r3 = vload8(0, s + 3 * rs), r4 = vload8(0, s + 4 * rs), r5 = vload8(0, s + 5 * rs);         \
        const float8 r6 = vload8(0, s + 6 * rs), r7 = vload8(0, s + 7 * rs);                                     \
        const float8 t0 = IV_PAIRS(r0, r1), t1 = IV_PAIRS_HI(r0, r1), t2 = IV_PAIRS(r2, r3);                     \
        const float8 t3 = IV_PAIRS_HI(r2, r3), t4 = IV_PAIRS(r4, r5), t5 = IV_PAIRS_HI(r4, r5);                  \
        const float8 t6 = IV_PAIRS(r6, r7), t7 = IV_PAIRS_HI(r6, r7);                                            \
        const float8 u0 = IV_QUADS(t0, t2), u1 = IV_QUADS_HI(t0, t2), u2 = IV_QUADS(t1, t3);                     \
        const float8 u3 = IV_QUADS_HI(t1, t3), u4 = IV_QUADS(t4, t6), u5 = IV_QUADS_HI(t4, t6);                  \
        const float8 u6 = IV_QUADS(t5, t7), u7 = IV_QUADS_HI(t5, t7);                                            \
        vstore8((float8)(u0.lo, u4.lo), 0, d);                                                                   \
        vstore8((float8)(u1.lo, u5.lo), 0, d + dc);                                                              \
        vstore8((float8)(u2.lo, u6.lo), 0, d + 2 * dc);                                                          \
        vstore8((float8)(u3.lo, u7.lo), 0, d + 3 * dc);                                                          \
        vstore8((float8)(u0.hi, u4.hi), 0, d + 4 * dc);                                                          \
        vstore8((float8)(u1.hi, u5.hi), 0, d + 5 * dc);                                                          \
        vstore8((float8)(u2.hi, u6.hi), 0, d + 6 * dc);                                                          \
        vstore8((float8)(u3.hi, u7.hi), 0, d + 7 * dc);                                                          \
    }                                                                                                            \
    IV_FN IV_BOTH void iv_load_f(SPACE f32 *dst, i32 dr, i32 dc, i32 R, i32 C, IV_GLOBAL const f32 *src, i64 rs) \
    {                                                                                                            \
        for (i32 r = 0; r < R; r += 8) {                                                                         \
            for (i32 c = 0; c < C; c += 8) {                                                                     \
                IV_GLOBAL const f32 *s = src + r * rs + c;                                                       \
                SPACE f32 *d = dst + r * dr + c * dc;                                                            \
                if (dr == 1) {                                                                                   \
                    iv_turn_8(s, rs, d, dc);                                                                     \
                } else {                                                                                         \
                    for (i32 k = 0; k < 8; ++k) vstore8(vload8(0, s + k * rs), 0, d + k * dr);                   \
                }                                                                                                \
            }                                                                                                    \
        }                                                                                                        \
    }
IV_LOADS(__private)
IV_LOADS(__global)
#define TILE_LOAD_ANY(dst, dr, dc, R, C, nr, nc, T, src, base, rs, cs)                             \
    IV_GLUE(iv_load_any_, T)(dst, dr, dc, R, C, nr, nc, src, base, rs, cs)
#define iv_load_any_f(dst, dr, dc, R, C, nr, nc, src, base, rs, cs)                                \
    if ((cs) == 1 && (nr) >= (R) && (nc) >= (C)) {                                                 \
        iv_load_f(dst, dr, dc, R, C, (src) + (base), rs);                                          \
    } else {                                                                                       \
        IV_LOAD_EACH(dst, dr, dc, R, C, nr, nc, f, src, base, rs, cs)                              \
    }
#define iv_load_any_d(dst, dr, dc, R, C, nr, nc, src, base, rs, cs)                                \
    IV_LOAD_EACH(dst, dr, dc, R, C, nr, nc, d, src, base, rs, cs)
#define iv_load_any_b(dst, dr, dc, R, C, nr, nc, src, base, rs, cs)                                \
    IV_LOAD_EACH(dst, dr, dc, R, C, nr, nc, b, src, base, rs, cs)
#define iv_load_any_h(dst, dr, dc, R, C, nr, nc, src, base, rs, cs)                                \
    IV_LOAD_EACH(dst, dr, dc, R, C, nr, nc, h, src, base, rs, cs)
#define IV_LOAD_EACH(dst, dr, dc, R, C, nr, nc, T, src, base, rs, cs)                              \
    EACH2(r, R, c, C,                                                                              \
          (dst)[r * (dr) + c * (dc)] =                                                             \
              r < (nr) && c < (nc) ? LDX(T, src, (base) + r * (rs) + c * (cs)) : C_(0);)
#endif
