/* portable.h: the dialect in which every kernel is written once.
 *
 * A kernel is a work-group function of 64 lanes.  Its text runs in "regions": inside a region the
 * code runs once per lane, and the end of a region is the barrier.  On a GPU a region is the body of
 * one work-item; on the host it is a loop over the 64 lanes, which the C compiler vectorises.  So one
 * text serves the host's C compiler, OpenCL C, NVRTC and hipRTC, and gives the same bits on each,
 * because it uses only exactly rounded operations (docs/numerics.md).  A processor behind OpenCL
 * (IV_CPU_DEVICE, set by that backend) gets the host's form too: loops over lanes in a work-group of one
 * work-item.
 *
 *     IV_KERNEL(scale_rows)                 one group per row of x
 *         BUF(T0, x, 0);                    buffer 0, stored as type variable T0
 *         BUF(T1, y, 1);
 *         i64 n = p.n[0], base = GROUP * n;
 *         PRIV(A, s);                       a value per lane that outlives a region
 *         SHARED(A, part, 64);              memory of the group
 *         REGION( P(s) = 0; )
 *         EACH(c, n, P(s) = P(s) + LD(T0, x, base + c); )     strided loop: lane c mod 64 gets c;
 *                                           c_b = c - c mod 64 is equal for all lanes
 *         REGION( part[lid] = P(s); )
 *         FOLD_ADD(part);                   fixed tree: l += l+32, +16, ... +1
 *         EACH(c, n, ST(T1, y, base + c, LD(T0, x, base + c) / part[0]); )
 *     IV_END
 *
 * Type variables: T0 T1 T2 are storage types of an instance ("signature"), A is what it computes in:
 * f64 if any of them is f64, else f32.  A signature is a string of letters, one for each variable:
 * f = f32, d = f64, b = bf16, h = f16.  16-bit types are storage only; LD and ST convert.
 * An instance of kernel `softmax` with signature "fb" is named softmax_fb.
 *
 * Rules for kernel texts: no libc, no float atomics, no warp intrinsics, no function pointers; integer
 * types i32 u32 i64 u64 u16 u8; no suffix ll on literals (OpenCL C has 128 bits there); loops around
 * regions have trip counts equal for all lanes of a group;
 * private values used in one region only are plain locals; A-typed constants are written C_(0.5).
 * Commas in a region's text are fine (the macros are variadic); preprocessor lines inside are not.
 *
 * IV_SABOTAGE breaks the numerics contract on purpose, so that ci/sabotage can show that the tests
 * notice: 1: conversion to bf16 truncates; 2: lanes fold in another order; 3: fma rounds twice.
 */
#ifndef IV_PORTABLE_H
#define IV_PORTABLE_H

#define IV_W 64 /* lanes: a constant of the numerics contract, not of a device */
#define IV_CAT_(a, b) a##b
#define IV_CAT(a, b) IV_CAT_(a, b)
#define IV_CAT3_(a, b, c) a##b##c
#define IV_CAT3(a, b, c) IV_CAT3_(a, b, c)

/* ---- dialects ---- */
#if defined(__OPENCL_VERSION__) || defined(__OPENCL_C_VERSION__)
#define IV_OPENCL 1
#pragma OPENCL FP_CONTRACT OFF
#ifdef IV_HAS_F64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
typedef int i32; typedef uint u32; typedef long i64; typedef ulong u64;
typedef short i16; typedef ushort u16; typedef uchar u8; typedef float f32;
#ifdef IV_HAS_F64
typedef double f64;
#define IV_AS_F64(x) as_double((u64)(x))
#define IV_AS_U64(x) as_ulong(x)
#define IV_FMA64(a, b, c) fma((f64)(a), (f64)(b), (f64)(c))
#define IV_SQRT64(x) sqrt((f64)(x))
#endif
#define IV_GLOBAL __global
#ifdef IV_CPU_DEVICE
#define IV_HOST_FORM 1
#define IV_LOCAL_
#define IV_FN static inline __attribute__((always_inline))
#define IV_SIMD /* no hint: at `clang loop vectorize(assume_safety)` the compiler of Intel's runtime crashes */
#else
#define IV_LOCAL_ __local
#define IV_FN static inline
#endif
#define IV_AS_F32(x) as_float((u32)(x))
#define IV_AS_U32(x) as_uint(x)
#define IV_FMA32(a, b, c) fma((f32)(a), (f32)(b), (f32)(c))
#define IV_SQRT32(x) sqrt((f32)(x))
#define IV_BARRIER barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)
#define IV_LANE ((i32)get_local_id(0))
#define IV_GROUP_ID ((i64)get_group_id(0))
#define IV_SHARED_DECL(t, v, n) __local t v[n]
#ifndef IV_CPU_DEVICE
#define IV_HEAD_(name, P)                                                                          \
    __kernel __attribute__((reqd_work_group_size(IV_W, 1, 1))) void name(IV_BUFS_, const P p)      \
    {
#endif
#elif defined(__HIP__) || defined(__HIPCC__) || defined(__HIPCC_RTC__)
/* HIP by the builtins of its compiler alone: no header, no device library, so that the text is the same
 * for hipRTC and for compilers without ROCm. */
#define IV_HIP 1
#define IV_HAS_F64 1
typedef int i32; typedef unsigned u32; typedef long long i64; typedef unsigned long long u64;
typedef short i16; typedef unsigned short u16; typedef unsigned char u8;
typedef float f32; typedef double f64;
#define IV_GLOBAL
#define IV_LOCAL_
#define IV_FN static inline __attribute__((device, always_inline, unused))
#define IV_AS_F32(x) __builtin_bit_cast(f32, (u32)(x))
#define IV_AS_U32(x) __builtin_bit_cast(u32, (f32)(x))
#define IV_AS_F64(x) __builtin_bit_cast(f64, (u64)(x))
#define IV_AS_U64(x) __builtin_bit_cast(u64, (f64)(x))
#define IV_FMA32(a, b, c) __builtin_fmaf((f32)(a), (f32)(b), (f32)(c))
#define IV_FMA64(a, b, c) __builtin_fma((f64)(a), (f64)(b), (f64)(c))
#define IV_SQRT32(x) iv_sqrt32(x)
#define IV_SQRT64(x) iv_sqrt64(x)
/* The hardware's root is off by one ulp at most.  s is the rounded root of y if
 * prev(s) s < y <= next(s) s, and fma tells the signs of these differences exactly.  Small numbers are
 * scaled, so that no residue is lost.  Comparisons with the NaNs that 0, inf and x < 0 lead to are false. */
#define IV_ROUND_ROOT(F, U, AS_F, AS_U, FMA_, s, y)                                                \
    const F down = AS_F(AS_U(s) - (U)1), up = AS_F(AS_U(s) + (U)1);                                \
    const F low = FMA_(-down, s, y), high = FMA_(-up, s, y);                                       \
    s = low <= (F)0 ? down : s;                                                                    \
    s = high > (F)0 ? up : s;
IV_FN f32 iv_sqrt32(f32 x)
{
    const bool small = x < 0x1p-96f;
    const f32 y = small ? x * 0x1p32f : x;
    f32 s = __builtin_amdgcn_sqrtf(y);
    IV_ROUND_ROOT(f32, u32, IV_AS_F32, IV_AS_U32, IV_FMA32, s, y)
    return small ? s * 0x1p-16f : s;
}
/* From an inverse root of some 24 bits: one step of both, one of the root. */
IV_FN f64 iv_sqrt64(f64 x)
{
    const bool small = x < 0x1p-767;
    const f64 y = small ? x * 0x1p256 : x;
    const f64 r = __builtin_amdgcn_rsq(y);
    const f64 g = y * r, h = 0.5 * r, e = IV_FMA64(-h, g, 0.5);
    const f64 g1 = IV_FMA64(g, e, g), h1 = IV_FMA64(h, e, h);
    f64 s = IV_FMA64(IV_FMA64(-g1, g1, y), h1, g1);
    IV_ROUND_ROOT(f64, u64, IV_AS_F64, IV_AS_U64, IV_FMA64, s, y)
    s = small ? s * 0x1p-128 : s;
    return y == 0 || y == IV_AS_F64(0x7ff0000000000000) ? x : s;
}
#define IV_BARRIER                                                                                 \
    do {                                                                                           \
        __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");                                     \
        __builtin_amdgcn_s_barrier();                                                              \
        __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");                                     \
    } while (0)
#define IV_LANE ((i32)__builtin_amdgcn_workitem_id_x())
#define IV_GROUP_ID ((i64)__builtin_amdgcn_workgroup_id_x())
#define IV_SHARED_DECL(t, v, n) static __attribute__((shared)) t v[n]
#define IV_HEAD_(name, P)                                                                          \
    extern "C" __attribute__((global, amdgpu_flat_work_group_size(IV_W, IV_W))) void name(         \
        IV_BUFS_, const P p)                                                                       \
    {
#elif defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define IV_HAS_F64 1
typedef int i32; typedef unsigned u32; typedef long long i64; typedef unsigned long long u64;
typedef short i16; typedef unsigned short u16; typedef unsigned char u8;
typedef float f32; typedef double f64;
#define IV_GLOBAL
#define IV_LOCAL_
#define IV_FN __device__ static inline
#define IV_AS_F32(x) __uint_as_float((u32)(x))
#define IV_AS_U32(x) __float_as_uint(x)
#define IV_AS_F64(x) __longlong_as_double((i64)(x))
#define IV_AS_U64(x) ((u64)__double_as_longlong(x))
#define IV_FMA32(a, b, c) __fmaf_rn((f32)(a), (f32)(b), (f32)(c))
#define IV_FMA64(a, b, c) __fma_rn((f64)(a), (f64)(b), (f64)(c))
#define IV_SQRT32(x) __fsqrt_rn((f32)(x))
#define IV_SQRT64(x) __dsqrt_rn((f64)(x))
#define IV_BARRIER __syncthreads()
#define IV_LANE ((i32)threadIdx.x)
#define IV_GROUP_ID ((i64)blockIdx.x)
#define IV_SHARED_DECL(t, v, n) __shared__ t v[n]
#define IV_HEAD_(name, P)                                                                          \
    extern "C" __global__ void __launch_bounds__(IV_W) name(IV_BUFS_, const P p)                   \
    {
#else
#define IV_HOST_DIALECT 1
#define IV_HOST_FORM 1
#define IV_HAS_F64 1
#define IV_SIMD _Pragma("omp simd")
#include <stdint.h>
typedef int32_t i32; typedef uint32_t u32; typedef int64_t i64; typedef uint64_t u64;
typedef int16_t i16; typedef uint16_t u16; typedef uint8_t u8;
typedef float f32; typedef double f64;
#define IV_GLOBAL
#define IV_LOCAL_
#define IV_FN static inline __attribute__((always_inline, unused))
typedef union { f32 f; u32 u; } iv_pun32;
typedef union { f64 f; u64 u; } iv_pun64;
#define IV_AS_F32(x) (((iv_pun32){.u = (u32)(x)}).f)
#define IV_AS_U32(x) (((iv_pun32){.f = (x)}).u)
#define IV_AS_F64(x) (((iv_pun64){.u = (u64)(x)}).f)
#define IV_AS_U64(x) (((iv_pun64){.f = (x)}).u)
#if IV_SABOTAGE == 3
#define IV_FMA32(a, b, c) ((f32)(a) * (f32)(b) + (f32)(c))
#define IV_FMA64(a, b, c) ((f64)(a) * (f64)(b) + (f64)(c))
#else
#define IV_FMA32(a, b, c) __builtin_fmaf((f32)(a), (f32)(b), (f32)(c))
#define IV_FMA64(a, b, c) __builtin_fma((f64)(a), (f64)(b), (f64)(c))
#endif
#define IV_SQRT32(x) __builtin_sqrtf((f32)(x))
#define IV_SQRT64(x) __builtin_sqrt((f64)(x))
#endif

/* The one parameter block of every kernel.  off: byte offset of each buffer (OpenCL has no cheap
 * sub-buffers); n: integers; f: floats, and d: the same floats as bits of f64. */
typedef struct {
    i64 off[8];
    i64 n[24];
    i64 d[8];
    f32 f[8];
} iv_params;

/* ---- work-group model ---- */
/* The buffers of a device's kernel. */
#define IV_BUFS_                                                                                   \
    IV_GLOBAL u8 *iv_b0, IV_GLOBAL u8 *iv_b1, IV_GLOBAL u8 *iv_b2, IV_GLOBAL u8 *iv_b3,            \
        IV_GLOBAL u8 *iv_b4, IV_GLOBAL u8 *iv_b5, IV_GLOBAL u8 *iv_b6, IV_GLOBAL u8 *iv_b7
#ifdef IV_HOST_FORM
/* A kernel runs the groups [g0, g1) of a launch: IV_HEAD_ opens such a function with parameters of type
 * P (iv_params, or those of an element program).  On a GPU it is the work of one group. */
#ifdef IV_HOST_DIALECT
#define IV_HEAD_(name, P)                                                                          \
    __attribute__((visibility("hidden"))) void IV_HOST_NAME(name)(                                 \
        u8 *const *iv_buf, const P *iv_pp, i64 iv_g0, i64 iv_g1)                                   \
    {                                                                                              \
        const P p = *iv_pp;                                                                        \
        (void)p;
#define IV_RAW(k) iv_buf[k]
#else
/* Each work-item has an equal part of the groups. */
#define IV_HEAD_(name, P)                                                                          \
    __kernel __attribute__((reqd_work_group_size(1, 1, 1))) void name(                             \
        IV_BUFS_, const P p, const i64 iv_groups)                                                  \
    {                                                                                              \
        const i64 iv_g0 = iv_groups * (i64)get_group_id(0) / (i64)get_num_groups(0);               \
        const i64 iv_g1 = iv_groups * ((i64)get_group_id(0) + 1) / (i64)get_num_groups(0);
#define IV_RAW(k) iv_b##k
#endif
#define IV_KERNEL(name)                                                                            \
    IV_HEAD_(name, iv_params)                                                                      \
        for (i64 iv_group = iv_g0; iv_group < iv_g1; ++iv_group) {
#define IV_END                                                                                     \
    }                                                                                              \
    }
#define GROUP iv_group
#define SHARED(t, v, n) IV_TYPE(t) v[n] __attribute__((aligned(64)))
#define PRIV(t, v) IV_TYPE(t) iv_p_##v[IV_W] __attribute__((aligned(64)))
#define P(v) iv_p_##v[lid]
#define PRIVN(t, v, n) IV_TYPE(t) iv_p_##v[n][IV_W] __attribute__((aligned(64)))
#define PN(v, j) iv_p_##v[j][lid]
#define REGION(...)                                                                                \
    IV_SIMD for (i32 lid = 0; lid < IV_W; ++lid) { __VA_ARGS__ }
/* A region whose lanes may not be run as one vector (long bodies, calls, data-dependent loops). */
#define REGION_SERIAL(...)                                                                         \
    for (i32 lid = 0; lid < IV_W; ++lid) { __VA_ARGS__ }
#define EACH(c, count, ...)                                                                        \
    {                                                                                              \
        const i64 c##_n = (count);                                                                 \
        i64 c##_b = 0;                                                                             \
        for (; c##_b + IV_W <= c##_n; c##_b += IV_W) {                                             \
            IV_SIMD for (i32 lid = 0; lid < IV_W; ++lid)                               \
            {                                                                                      \
                const i64 c = c##_b + lid;                                                         \
                (void)c;                                                                           \
                __VA_ARGS__                                                                        \
            }                                                                                      \
        }                                                                                          \
        const i32 c##_m = (i32)(c##_n - c##_b);                                                    \
        IV_SIMD for (i32 lid = 0; lid < c##_m; ++lid)                                  \
        {                                                                                          \
            const i64 c = c##_b + lid;                                                             \
            (void)c;                                                                               \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#else
#define IV_KERNEL(name) IV_HEAD_(name, iv_params)
#define IV_END }
#define GROUP IV_GROUP_ID
#define IV_RAW(k) iv_b##k
#define SHARED(t, v, n) IV_SHARED_DECL(IV_TYPE(t), v, n)
#define PRIV(t, v) IV_TYPE(t) iv_p_##v
#define P(v) iv_p_##v
#define PRIVN(t, v, n) IV_TYPE(t) iv_p_##v[n]
#define PN(v, j) iv_p_##v[j]
#define REGION(...)                                                                                \
    {                                                                                              \
        const i32 lid = IV_LANE;                                                                   \
        (void)lid;                                                                                 \
        __VA_ARGS__                                                                                \
    }                                                                                              \
    IV_BARRIER;
#define REGION_SERIAL(...) REGION(__VA_ARGS__)
#define EACH(c, count, ...)                                                                        \
    {                                                                                              \
        const i32 lid = IV_LANE;                                                                   \
        const i64 c##_n = (count);                                                                 \
        (void)lid;                                                                                 \
        for (i64 c = lid; c < c##_n; c += IV_W) {                                                  \
            const i64 c##_b = c - lid;                                                             \
            (void)c##_b;                                                                           \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }                                                                                              \
    IV_BARRIER;
#endif
/* Rule 3 of the contract: part[0] becomes the fold of the 64 lanes in the fixed order. */
#define IV_FOLD_(part, EXPR)                                                                       \
    for (i32 iv_s = IV_W / 2; iv_s > 0; iv_s >>= 1) {                                              \
        REGION(if (lid < iv_s) part[lid] = EXPR(part[lid], part[IV_PARTNER(lid, iv_s)]);)          \
    }
#if IV_SABOTAGE == 2
#define IV_PARTNER(lid, s) (2 * (s) - 1 - (lid))
#else
#define IV_PARTNER(lid, s) ((lid) + (s))
#endif
#define IV_ADD_(a, b) ((a) + (b))
#define FOLD_ADD(part) IV_FOLD_(part, IV_ADD_)
#define FOLD_MAX(part) IV_FOLD_(part, IV_MAX)
/* Maximum that keeps a NaN from either side; of equal values the second. */
#define IV_MAX(a, b) (((a) > (b) || (a) != (a)) ? (a) : (b))
#define IV_MIN(a, b) (((a) < (b) || (a) != (a)) ? (a) : (b))

/* ---- storage types ---- */
typedef f32 iv_st_f;
typedef u16 iv_st_b;
typedef u16 iv_st_h;
typedef i32 iv_st_i;
typedef u8 iv_st_u;
typedef u32 iv_st_w;
#ifdef IV_HAS_F64
typedef f64 iv_st_d;
#endif
/* f32 <-> bf16 and f16 in integer code: round to nearest even, NaN stays a quiet NaN, overflow gives infinity. */
IV_FN f32 iv_from_bf16(u16 h) { return IV_AS_F32((u32)h << 16); }
IV_FN u16 iv_to_bf16(f32 x)
{
    u32 u = IV_AS_U32(x);
#if IV_SABOTAGE == 1
    u32 r = u >> 16;
#else
    u32 r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
#endif
    return (u16)((u & 0x7fffffffu) > 0x7f800000u ? ((u >> 16) | 0x40u) : r);
}
IV_FN f32 iv_from_f16(u16 h)
{
    /* Shift exponent and mantissa into place and rescale: 2^112 renormalises, exact for denormals too. */
    u32 m = (u32)(h & 0x7fffu) << 13;
    u32 s = (u32)(h & 0x8000u) << 16;
    f32 v = IV_AS_F32(m) * IV_AS_F32(0x77800000u);
    u32 special = m >= 0x0f800000u ? (m | 0x7f800000u) : IV_AS_U32(v);
    return IV_AS_F32(special | s);
}
IV_FN u16 iv_to_f16(f32 x)
{
    u32 u = IV_AS_U32(x), s = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    /* Normal range: rebias and round; below 2^-14: adding 0.5 aligns the denormal mantissa, rounded by the adder. */
    u32 norm = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
    u32 sub = IV_AS_U32(IV_AS_F32(a) + 0.5f) - 0x3f000000u;
    u32 r = a < 0x38800000u ? sub : norm;
    r = a >= 0x477ff000u ? 0x7c00u : r;
    r = a > 0x7f800000u ? (0x7e00u | ((a >> 13) & 0x1ffu)) : r;
    return (u16)(r | s);
}
#ifdef IV_HAS_F64
/* f64 -> f32 on the way to a 16-bit type: towards zero, and odd where that is not exact.  f32 has enough
 * bits more than those that rounding the result is rounding x once. */
IV_FN f32 iv_narrow(f64 x)
{
    const f32 r = (f32)x;
    const f64 back = (f64)r;
    const u32 u = IV_AS_U32(r);
    const u64 past = (IV_AS_U64(back) << 1) > (IV_AS_U64(x) << 1); /* |back| > |x| */
    return IV_AS_F32(back == x || x != x ? u : ((u - (u32)past) | 1u));
}
#endif
#define iv_narrow_f(x) ((f32)(x))
#define iv_narrow_d(x) iv_narrow((f64)(x))
#define iv_ld_f(b, i) ((b)[i])
#define iv_ld_d(b, i) ((b)[i])
#define iv_ld_b(b, i) iv_from_bf16((b)[i])
#define iv_ld_h(b, i) iv_from_f16((b)[i])
#define iv_ld_i(b, i) ((b)[i])
#define iv_ld_u(b, i) ((b)[i])
#define iv_ld_w(b, i) ((b)[i])
#define iv_st_to_f(v) ((f32)(v))
#define iv_st_to_d(v) ((f64)(v))
#define iv_st_to_b(v) iv_to_bf16(IV_CAT(iv_narrow_, A)(v))
#define iv_st_to_h(v) iv_to_f16(IV_CAT(iv_narrow_, A)(v))
#define iv_st_to_i(v) (v)
#define iv_st_to_u(v) (v)
#define iv_st_to_w(v) (v)
#define I i
#define U u
#define W32 w
/* BUF declares a kernel's buffer k; T is a type variable (T0 T1 T2 A) or I (i32), U (u8), W32 (u32). */
#define IV_TYPE(T) IV_CAT(iv_st_, T)
#define BUF(T, v, k) IV_GLOBAL IV_TYPE(T) *v = (IV_GLOBAL IV_TYPE(T) *)(IV_RAW(k) + p.off[k])
#define LD(T, v, idx) IV_CAT(iv_ld_, T)(v, idx)
#define ST(T, v, idx, x) (v)[idx] = IV_CAT(iv_st_to_, T)(x)
/* The value rounded to type T and back: what a store followed by a load gives. */
#define ROUND(T, x) IV_CAT(iv_round_, T)(x)
#define iv_round_f(x) (x)
#define iv_round_d(x) (x)
#define iv_round_b(x) iv_from_bf16(iv_st_to_b(x))
#define iv_round_h(x) iv_from_f16(iv_st_to_h(x))

/* ---- arithmetic of the computing type A (defined per instance as f or d) ---- */
#define AT IV_TYPE(A)            /* the C type of A */
#define C_(x) ((AT)(x))          /* a constant in A */
#define FMA(a, b, c) IV_CAT(iv_fma_, A)(a, b, c)
#define SQRT(x) IV_CAT(iv_sqrt_, A)(x)
#define EXP(x) IV_CAT(iv_exp_, A)(x)
#define LOG(x) IV_CAT(iv_log_, A)(x)
#define TANH(x) IV_CAT(iv_tanh_, A)(x)
#define ERF(x) IV_CAT(iv_erf_, A)(x)
#define SIN(x) IV_CAT(iv_sin_, A)(x)
#define COS(x) IV_CAT(iv_cos_, A)(x)
#define POW(x, y) IV_CAT(iv_pow_, A)(x, y)
#define RSQRT(x) (C_(1) / SQRT(x))
#define FPARAM(k) IV_CAT(iv_fparam_, A)(k)  /* float parameter k of the launch, in A */
#define iv_fma_f(a, b, c) IV_FMA32(a, b, c)
#define iv_sqrt_f(x) IV_SQRT32(x)
#define iv_fparam_f(k) p.f[k]
#define iv_fma_d(a, b, c) IV_FMA64(a, b, c)
#define iv_sqrt_d(x) IV_SQRT64(x)
#define iv_fparam_d(k) IV_AS_F64(p.d[k])
#define NEG_INF_f (-IV_AS_F32(0x7f800000u))
#define NEG_INF_d (-IV_AS_F64(0x7ff0000000000000))
#define NEG_INF IV_CAT(NEG_INF_, A)

#endif
