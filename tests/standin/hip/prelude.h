/* prelude.h: what the compiler of a GPU knows by itself, for texts of HIP that the stand-in
 * compiles for the host (rtc.c puts it before each).
 *
 * The hardware's roots are made as bad as AMD's manuals allow: the text has to round them itself.
 */
#define __HIP__ 1
#define __HIPCC_RTC__ 1

/* The work-item that runs.  The stand-in writes lane and group; one module runs at a time. */
struct sc_hip_state {
    int lane;
    long long group;
    void (*barrier)(void *site);
};
extern "C" {
__attribute__((visibility("default"))) struct sc_hip_state sc_hip_state;
}
/* Each barrier of the text has an address of its own: work-items must meet at the same one. */
static inline __attribute__((always_inline)) void sc_hip_barrier(int line)
{
    sc_hip_state.barrier((void *)(__UINTPTR_TYPE__)line);
}
static inline float sc_hip_sqrt(float x)
{
    const float r = __builtin_sqrtf(x);
    unsigned u;
    __builtin_memcpy(&u, &r, 4);
    if (u > 0x00800000u && u < 0x7f000000u) u += (u * 2654435761u >> 16) % 3u - 1u; /* an ulp off */
    float off;
    __builtin_memcpy(&off, &u, 4);
    return off;
}
static inline double sc_hip_rsq(double x)
{
    const double r = 1 / __builtin_sqrt(x);
    unsigned long long u;
    __builtin_memcpy(&u, &r, 8);
    if ((u >> 52 & 0x7ff) != 0x7ff) u &= ~0xfffffffull; /* 24 bits are good */
    double off;
    __builtin_memcpy(&off, &u, 8);
    return off;
}
#define __builtin_amdgcn_workitem_id_x() ((unsigned)sc_hip_state.lane)
#define __builtin_amdgcn_workgroup_id_x() ((unsigned)sc_hip_state.group)
#define __builtin_amdgcn_fence(order, scope) ((void)0)
#define __builtin_amdgcn_s_barrier() sc_hip_barrier(__COUNTER__)
#define __builtin_amdgcn_sqrtf(x) sc_hip_sqrt(x)
#define __builtin_amdgcn_rsq(x) sc_hip_rsq(x)
