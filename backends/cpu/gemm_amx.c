/* gemm_amx.c: the bf16 product of rule 5 on AMX tiles; compiled for x86-64-v3.
 *
 * TDPBF16PS computes rule 5 to the bit: an even and an odd chain of 16 fma from +0, their sum, then
 * one addition to the tile, denormals flushed, whatever MXCSR says.
 *
 * A tile of sums is 32 x 32, four tile registers.  A block of 32 k of a panel is two tiles:
 *
 *     a   [2][16 rows][32 k]                as the instruction wants its first operand
 *     b   [2][16 pairs of k][16 columns][2]     and its second one
 *
 * so a k-block of both is read in order, 64 bytes a row.  Packing is moving 16-bit elements (and
 * pairs of them) around; nothing is converted.
 *
 * The instructions are written as assembly: gcc 12 drops stores to the configuration before its
 * intrinsic, and this way the file needs no flags that a compiler may not know.
 */
#include <immintrin.h>
#include <string.h>

#include "backends/cpu/gemm_ops.h"
#include "kernels/portable.h"

enum { T = 16, K = 32, SIDE = 32, BLOCK = T * K /* elements of a packed tile */ };

/* ---- moving elements ---- */

/* dst[c][r] = src[r][c] of 8 x 8 pairs, rows `ds` and `ss` bytes apart. */
static void turn8(char *dst, int64_t ds, const char *src, int64_t ss)
{
    __m256i r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256((const __m256i *)(src + i * ss));
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
            r[4 * i + 2 * j] = _mm256_unpacklo_epi64(t[4 * i + j], t[4 * i + 2 + j]);
            r[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(t[4 * i + j], t[4 * i + 2 + j]);
        }
    for (int i = 0; i < 4; ++i) {
        __m256i *low = (__m256i *)(dst + i * ds), *high = (__m256i *)(dst + (i + 4) * ds);
        _mm256_storeu_si256(low, _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
        _mm256_storeu_si256(high, _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
    }
}

/* A tile of 16 x 16 pairs, turned.  dst: rows of 64 bytes. */
static void turn16(uint16_t *dst, const char *src, int64_t ss)
{
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j)
            turn8((char *)dst + i * 8 * 64 + j * 32, 64, src + j * 8 * ss + i * 32, ss);
}

/* dst[c] = (low[c], high[c]) for 16 c. */
static void pair16(uint16_t *dst, const uint16_t *low, const uint16_t *high)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)low);
    __m256i y = _mm256_loadu_si256((const __m256i *)high);
    __m256i a = _mm256_unpacklo_epi16(x, y), b = _mm256_unpackhi_epi16(x, y);
    _mm256_storeu_si256((__m256i *)dst, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((__m256i *)(dst + 16), _mm256_permute2x128_si256(a, b, 0x31));
}

/* ---- packing one tile ----
 * x: element (0, 0) of the operand's rows (columns of b) and k; n rows and k of them exist. */
typedef void tile_fn(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n,
                     int64_t k);

/* [rows][k]: what is missing is zero. */
static void a_any(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n, int64_t k)
{
    memset(dst, 0, BLOCK * sizeof(*dst));
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j) dst[i * K + j] = x[i * ws + j * ks];
}

static void a_by_rows(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n,
                      int64_t k)
{
    (void)ks, (void)n, (void)k;
    for (int i = 0; i < T; ++i) memcpy(dst + i * K, x + i * ws, K * sizeof(*dst));
}

static void pairs_by_k(uint16_t *dst, const uint16_t *x, int64_t ks)
{
    for (int j = 0; j < T; ++j) pair16(dst + j * K, x + 2 * j * ks, x + (2 * j + 1) * ks);
}

static void a_by_k(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n, int64_t k)
{
    uint16_t pairs[BLOCK] __attribute__((aligned(64)));
    (void)ws, (void)n, (void)k;
    pairs_by_k(pairs, x, ks);
    turn16(dst, (const char *)pairs, 64);
}

/* [pairs of k][columns][2] */
static void b_any(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n, int64_t k)
{
    memset(dst, 0, BLOCK * sizeof(*dst));
    for (int64_t j = 0; j < k; ++j)
        for (int64_t i = 0; i < n; ++i) dst[j / 2 * K + 2 * i + j % 2] = x[i * ws + j * ks];
}

static void b_by_columns(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n,
                         int64_t k)
{
    (void)ks, (void)n, (void)k;
    turn16(dst, (const char *)x, ws * (int64_t)sizeof(*x));
}

static void b_by_k(uint16_t *dst, const uint16_t *x, int64_t ws, int64_t ks, int64_t n, int64_t k)
{
    (void)ws, (void)n, (void)k;
    pairs_by_k(dst, x, ks);
}

/* ---- packing a panel ---- */

/* What is not one run in both directions is gathered first: [k][columns]. */
static void gather(uint16_t tmp[K][T], const uint16_t *src, const iv__gemm_panel *q, int64_t w0,
                   int64_t n, int64_t k0, int64_t k)
{
    int64_t at[K];
    for (int64_t j = 0; j < k; ++j) at[j] = iv__gemm_place_of(q->k_runs, q->k_stride, k0 + j).at;
    for (int64_t i = 0; i < n; ++i) {
        const uint16_t *x = src + iv__gemm_place_of(q->w_runs, q->w_stride, w0 + i).at;
        for (int64_t j = 0; j < k; ++j) tmp[j][i] = x[at[j]];
    }
}

static void pack(uint16_t *dst, const uint16_t *src, const iv__gemm_panel *q, tile_fn *along_k,
                 tile_fn *along_w, tile_fn *any)
{
    uint16_t tmp[K][T];
    for (int64_t p = q->p0; p < q->p1; p += K) {
        int64_t off = p % q->seg_padded, k = q->seg - off < K ? q->seg - off : K;
        int64_t k0 = p / q->seg_padded * q->seg + off;
        iv__gemm_place pk = iv__gemm_place_of(q->k_runs, q->k_stride, k0);
        for (int64_t w = 0; w < SIDE; w += T, dst += BLOCK) {
            int64_t n = q->n_w - w < 0 ? 0 : q->n_w - w < T ? q->n_w - w : T;
            iv__gemm_place pw = iv__gemm_place_of(q->w_runs, q->w_stride, n ? q->w0 + w : q->w0);
            const uint16_t *x = src + pk.at + pw.at;
            int64_t ws = q->w_stride, ks = q->k_stride;
            if (pk.left < k || pw.left < n) {
                gather(tmp, src, q, q->w0 + w, n, k0, k);
                x = &tmp[0][0];
                ws = 1;
                ks = T;
            }
            tile_fn *whole = ks == 1 ? along_k : ws == 1 ? along_w : any;
            (n == T && k == K ? whole : any)(dst, x, ws, ks, n, k);
        }
    }
}

static void pack_a(void *dst, const void *src, const iv__gemm_panel *q)
{
    pack(dst, src, q, a_by_rows, a_by_k, a_any);
}

static void pack_b(void *dst, const void *src, const iv__gemm_panel *q)
{
    pack(dst, src, q, b_by_columns, b_by_k, b_any);
}

/* ---- tiles ---- */

static void enter(void)
{
    struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c;
    memset(&c, 0, sizeof(c));
    c.palette = 1;
    for (int i = 0; i < 8; ++i) {
        c.row_bytes[i] = 64;
        c.rows[i] = T;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory");
}

static void leave(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

#define LOAD(tile, at, row_bytes)                                                                  \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(at), "r"((int64_t)(row_bytes))       \
                     : "memory")
#define STORE(tile, at, row_bytes)                                                                 \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(at), "r"((int64_t)(row_bytes))   \
                     : "memory")
#define ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::: "memory")
#define MULTIPLY(sum, a, b)                                                                        \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum ::: "memory")

/* Sums in tmm0 to tmm3 (row-major), a in tmm4 and tmm5, b in tmm6 and tmm7. */
static void chain(int64_t steps, const void *va, const void *vb, void *vacc, int64_t rows,
                  int64_t cols, bool fresh)
{
    const uint16_t *a = va, *b = vb;
    float *c = vacc;
    bool down = rows > T, right = cols > T;
    if (fresh) {
        ZERO(0);
        ZERO(1);
        ZERO(2);
        ZERO(3);
    } else {
        LOAD(0, c, SIDE * 4);
        if (right) LOAD(1, c + T, SIDE * 4);
        if (down) LOAD(2, c + T * SIDE, SIDE * 4);
        if (down && right) LOAD(3, c + T * SIDE + T, SIDE * 4);
    }
    for (int64_t k = 0; k < steps; k += K, a += 2 * BLOCK, b += 2 * BLOCK) {
        LOAD(4, a, 64);
        LOAD(6, b, 64);
        MULTIPLY(0, 4, 6);
        if (right) {
            LOAD(7, b + BLOCK, 64);
            MULTIPLY(1, 4, 7);
        }
        if (!down) continue;
        LOAD(5, a + BLOCK, 64);
        MULTIPLY(2, 5, 6);
        if (right) MULTIPLY(3, 5, 7);
    }
    STORE(0, c, SIDE * 4);
    if (right) STORE(1, c + T, SIDE * 4);
    if (down) STORE(2, c + T * SIDE, SIDE * 4);
    if (down && right) STORE(3, c + T * SIDE + T, SIDE * 4);
}

/* What products of resident tiles do at most (peak.h): returns the operations done. */
double iv__peak_loop_amx(int64_t rounds);
double iv__peak_loop_amx(int64_t rounds)
{
    static const uint16_t zeros[BLOCK] __attribute__((aligned(64)));
    enter();
    LOAD(4, zeros, 64);
    LOAD(5, zeros, 64);
    LOAD(6, zeros, 64);
    LOAD(7, zeros, 64);
    for (int64_t r = 0; r < rounds; ++r) {
        MULTIPLY(0, 4, 6);
        MULTIPLY(1, 4, 7);
        MULTIPLY(2, 5, 6);
        MULTIPLY(3, 5, 7);
    }
    leave();
    return (double)rounds * 4 * 2 * T * T * K;
}

#define IV__STORES_F32
#include "backends/cpu/gemm_store.inc"

const iv__gemm_ops iv__gemm_ops_amx = {
    .mr = {[IV__GEMM_BF16] = SIDE},
    .nr = {[IV__GEMM_BF16] = SIDE},
    .panel_bytes = {[IV__GEMM_BF16] = 2},
    .uses_ftz = true,
    .enter = enter,
    .leave = leave,
    .pack_a = {[IV__GEMM_BF16] = pack_a},
    .pack_b = {[IV__GEMM_BF16] = pack_b},
    .chain = {[IV__GEMM_BF16] = chain},
    .fold = {[IV__GEMM_BF16] = fold_f32},
    .store = {store_f32, NULL, store_bf16, store_f16},
};
