/* fold.h: the canonical sums of docs/numerics.md (rule 3, grains of rule 7) in the kernel dialect.
 * Every text of a kernel file comes after portable.h, math.h and this header; nothing here depends
 * on T0, T1 or A before it is used.
 *
 *   LANES    code of the first few lanes, without a barrier: lanes that do not talk to each other
 *   EACH_RUN a strided loop over a range that lies in runs: x[n, c, :] for one c and all n
 *   FOLD     64 lane sums in shared memory -> one (as FOLD_ADD, with constant steps)
 *   COUNTER  the balanced tree over values that come one after another (grains)
 *   IV_COLUMN_KERNEL  kernels whose lanes are columns, with sums down the rows; see there
 */
#ifndef IV_FOLD_H
#define IV_FOLD_H

IV_FN i64 iv_least(i64 a, i64 b) { return a < b ? a : b; }
/* Quotient of a >= 0 and b > 0.  64-bit division is slow on every device, and seldom needed. */
IV_FN i64 iv_quotient(i64 a, i64 b)
{
    return ((u64)(a | b) >> 32) == 0 ? (i64)((u32)a / (u32)b) : a / b;
}

/* Element e of three nested dimensions [.., inner, len] lies at
 * (e / len / inner) s0 + (e / len % inner) s1 + (e % len) s2. */
typedef struct {
    i64 len, inner, s0, s1, s2;
} iv_runs;
IV_FN i64 iv_run_at(iv_runs r, i64 e)
{
    if (e < r.len) return e * r.s2;
    const i64 o = iv_quotient(e, r.len), j = e - o * r.len;
    if (o < r.inner) return o * r.s1 + j * r.s2;
    const i64 oo = iv_quotient(o, r.inner);
    return oo * r.s0 + (o - oo * r.inner) * r.s1 + j * r.s2;
}
/* Elements from e to the end of its run. */
IV_FN i64 iv_run_left(iv_runs r, i64 e)
{
    return e < r.len ? r.len - e : r.len - (e - iv_quotient(e, r.len) * r.len);
}

#ifdef IV_HOST_FORM
#define IV_ASSUME(c) if (!(c)) __builtin_unreachable() /* so that gcc sees what is initialised */

/* Code of lanes [0, live).  No barrier: another lane's results are not there afterwards. */
#define LANES(live, ...)                                                                           \
    {                                                                                              \
        const i32 iv_live = (i32)(live);                                                           \
        IV_SIMD for (i32 lid = 0; lid < iv_live; ++lid) { __VA_ARGS__ }                            \
    }
/* Region of lane 0 alone, with the barrier. */
#define FIRST(...)                                                                                 \
    {                                                                                              \
        const i32 lid = 0;                                                                         \
        (void)lid;                                                                                 \
        __VA_ARGS__                                                                                \
    }

/* Elements e0 + i, i in [0, count), of the runs r: lane i mod 64 gets the offset `at`.  On the host
 * in pieces that end with a run or with lane 63, so that a piece is one vector loop. */
#define EACH_RUN(at, r, e0, count, ...)                                                            \
    {                                                                                              \
        const i64 at##_n = (count), at##_s = (r).s2;                                               \
        for (i64 at##_i = 0, at##_m; at##_i < at##_n; at##_i += at##_m) {                          \
            const i64 at##_b = iv_run_at((r), (e0) + at##_i);                                      \
            const i32 at##_l = (i32)(at##_i & (IV_W - 1));                                         \
            at##_m = iv_least(iv_run_left((r), (e0) + at##_i), at##_n - at##_i);                   \
            if (at##_l == 0 && at##_m >= IV_W) {                                                   \
                at##_m &= ~(i64)(IV_W - 1);                                                        \
                if (at##_s == 1) {                                                                 \
                    IV_PIECES(at, at##_b + at##_k + lid, __VA_ARGS__)                              \
                } else {                                                                           \
                    IV_PIECES(at, at##_b + (at##_k + lid) * at##_s, __VA_ARGS__)                   \
                }                                                                                  \
            } else {                                                                               \
                at##_m = iv_least(at##_m, IV_W - at##_l);                                          \
                const i32 at##_e = at##_l + (i32)at##_m;                                           \
                if (at##_s == 1) {                                                                 \
                    IV_PIECE(at##_l, at##_e, at, at##_b + (lid - at##_l), __VA_ARGS__)             \
                } else {                                                                           \
                    IV_PIECE(at##_l, at##_e, at, at##_b + (lid - at##_l) * at##_s, __VA_ARGS__)    \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
#define IV_PIECES(at, WHERE, ...)                                                                  \
    for (i64 at##_k = 0; at##_k < at##_m; at##_k += IV_W) IV_PIECE(0, IV_W, at, WHERE, __VA_ARGS__)
#define IV_PIECE(from, to, at, WHERE, ...)                                                         \
    {                                                                                              \
        IV_SIMD for (i32 lid = (from); lid < (to); ++lid)                                          \
        {                                                                                          \
            const i64 at = (WHERE);                                                                \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }

/* part[0] becomes the fold of part[0..64) by EXPR in the order of rule 3.  Constant steps give
 * whole vectors without masks. */
#define FOLD(part, EXPR)                                                                           \
    IV_FOLD_STEP(part, EXPR, 32)                                                                   \
    IV_FOLD_STEP(part, EXPR, 16)                                                                   \
    IV_FOLD_STEP(part, EXPR, 8)                                                                    \
    IV_FOLD_STEP(part, EXPR, 4)                                                                    \
    IV_FOLD_STEP(part, EXPR, 2)                                                                    \
    IV_FOLD_STEP(part, EXPR, 1)
#define IV_FOLD_STEP(part, EXPR, s)                                                                \
    IV_SIMD                                                                                        \
    for (i32 lid = 0; lid < (s); ++lid) part[lid] = EXPR(part[lid], part[IV_PARTNER(lid, s)]);

/* See below. */
#define IV_SPAN 512
#define IV_COLUMN_KERNEL(name)                                                                     \
    IV_HEAD_(name, iv_params)                                                                      \
        i64 iv_merged = 1;                                                                         \
        for (i64 iv_group = iv_g0; iv_group < iv_g1; iv_group += iv_merged) {
#define LIVE_COLUMNS(n, c0)                                                                        \
    (iv_merged = iv_least(iv_g1 - GROUP, IV_SPAN / IV_W),                                          \
     iv_merged = iv_least(iv_merged, ((n) - (c0) + IV_W - 1) / IV_W),                              \
     iv_least((n) - (c0), iv_merged * IV_W))
#define COLUMN(t, v) IV_TYPE(t) iv_p_##v[IV_SPAN] __attribute__((aligned(64)))
#define COUNTER(t, v, levels) IV_TYPE(t) iv_p_##v[levels][IV_SPAN] __attribute__((aligned(64)))

#else
#define IV_ASSUME(c)
#define LANES(live, ...)                                                                           \
    {                                                                                              \
        const i32 lid = IV_LANE;                                                                   \
        if (lid < (live)) { __VA_ARGS__ }                                                          \
    }
#define FIRST(...) REGION(if (lid == 0) { __VA_ARGS__ })
#define EACH_RUN(at, r, e0, count, ...)                                                            \
    {                                                                                              \
        const i32 lid = IV_LANE;                                                                   \
        const i64 at##_n = (count);                                                                \
        (void)lid;                                                                                 \
        for (i64 at##_i = lid; at##_i < at##_n; at##_i += IV_W) {                                  \
            const i64 at = iv_run_at((r), (e0) + at##_i);                                          \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }                                                                                              \
    IV_BARRIER;
#define FOLD(part, EXPR) IV_FOLD_(part, EXPR)
#define IV_COLUMN_KERNEL(name) IV_KERNEL(name)
#define LIVE_COLUMNS(n, c0) iv_least((n) - (c0), IV_W)
#define COLUMN(t, v) PRIV(t, v)
#define COUNTER(t, v, levels) PRIVN(t, v, levels)
#endif

/* The balanced tree (split at the largest power of two below the count) over the values P(x) number
 * k = 0, 1, 2, ..., as a binary counter: level j holds the sum of 2^j values if bit j of their
 * number is set.  Every lane below `live` has a counter of its own; k and count are equal for all.
 *     COUNTER(A, tree, TREE_LEVELS);
 *     for (i64 k = 0; k < count; ++k) { ... COUNT(tree, k, x, live, IV_ADD_) }
 *     COUNTED(tree, count, x, live, IV_ADD_)           P(x) = the sum; 1 <= count < 2^TREE_LEVELS
 * After a value number 2^j - 1, P(x) is the sum of all so far already. */
#define TREE_LEVELS 17
#define COUNT(v, k, x, live, EXPR)                                                                 \
    {                                                                                              \
        i32 iv_j = 0;                                                                              \
        for (; ((k) >> iv_j) & 1; ++iv_j) { LANES(live, P(x) = EXPR(PN(v, iv_j), P(x));) }         \
        LANES(live, PN(v, iv_j) = P(x);)                                                           \
    }
#define COUNTED(v, count, x, live, EXPR)                                                           \
    {                                                                                              \
        i32 iv_j = 0;                                                                              \
        IV_ASSUME((count) > 0);                                                                    \
        while (!(((count) >> iv_j) & 1)) ++iv_j;                                                   \
        LANES(live, P(x) = PN(v, iv_j);)                                                           \
        for (++iv_j; (count) >> iv_j; ++iv_j)                                                      \
            if (((count) >> iv_j) & 1) { LANES(live, P(x) = EXPR(PN(v, iv_j), P(x));) }            \
    }

/* Column kernels: a group has the columns [c0, c0 + live) of a matrix, lanes are columns, and lane
 * values are declared with COLUMN and COUNTER instead of PRIV.  Group g has block g mod blocks of
 * blocks = ceil(n / 64).  A host runs up to 8 neighbouring groups of its range as one of 512 lanes:
 * it reads 2 KiB of a row at a time instead of 256 bytes.  Lanes must not need each other's values.
 *
 * Rule 3 down a column, with the bits of a sum along it: the fold of the 64 lane sums l += l+32,
 * ... is the balanced tree over the lane sums in bit-reversed order, so a column needs one running
 * sum and a counter of 7 levels instead of 64 sums.  Lane sums without a row hold the neutral
 * value, which changes nothing, and are left out.
 *     IV_COLUMN_KERNEL(name)
 *         const i64 live = LIVE_COLUMNS(n, c0);
 *         COLUMN(A, v);
 *         COUNTER(A, lanes, LANE_LEVELS);
 *         const i32 width = iv_fold_width(rows);
 *         for (i32 k = 0; k < width; ++k) {
 *             LANES(live, P(v) = C_(0);)
 *             for (i64 i = iv_fold_lane(k, width); i < rows; i += IV_W) {
 *                 LANES(live, P(v) = P(v) + LD(T0, x, i * n + c0 + lid);)
 *             }
 *             COUNT(lanes, k, v, live, IV_ADD_)
 *         }                                            now P(v) is the sum */
#define LANE_LEVELS 7
/* The least power of two that is not below n, at most 64. */
IV_FN i32 iv_fold_width(i64 n)
{
    i32 w = 1;
    while (w < IV_W && w < n) w *= 2;
    return w;
}
/* The k-th of width lanes in the order in which rule 3 folds them: k with its bits reversed. */
IV_FN i32 iv_fold_lane(i32 k, i32 width)
{
    i32 r = 0;
    for (i32 b = 1; b < width; b *= 2, k >>= 1) r = 2 * r + (k & 1);
    return r;
}

#endif
