/* rounded.c: one operation in another rounding mode than to nearest even.
 * Compiled with -frounding-math; operands and results go through volatile, so that nothing moves
 * over the change of the mode. */
#include "rounded.h"

#include <fenv.h>
#include <math.h>

static int enter(int mode)
{
    const int before = fegetround();
    fesetround(mode == PTX_RZ ? FE_TOWARDZERO : mode == PTX_RM ? FE_DOWNWARD : FE_UPWARD);
    return before;
}

#define FUNCTION(name, T, params, load, expr)                                                      \
    T name params                                                                                  \
    {                                                                                              \
        load const int before = enter(mode);                                                       \
        const volatile T out = (T)(expr);                                                          \
        fesetround(before);                                                                        \
        return out;                                                                                \
    }
#define V(T, x) const volatile T v##x = x;
FUNCTION(ptx__add32, float, (float a, float b, int mode), V(float, a) V(float, b), va + vb)
FUNCTION(ptx__sub32, float, (float a, float b, int mode), V(float, a) V(float, b), va - vb)
FUNCTION(ptx__mul32, float, (float a, float b, int mode), V(float, a) V(float, b), va *vb)
FUNCTION(ptx__div32, float, (float a, float b, int mode), V(float, a) V(float, b), va / vb)
FUNCTION(ptx__sqrt32, float, (float a, int mode), V(float, a), sqrtf(va))
FUNCTION(ptx__fma32, float, (float a, float b, float c, int mode),
         V(float, a) V(float, b) V(float, c), fmaf(va, vb, vc))
FUNCTION(ptx__add64, double, (double a, double b, int mode), V(double, a) V(double, b), va + vb)
FUNCTION(ptx__sub64, double, (double a, double b, int mode), V(double, a) V(double, b), va - vb)
FUNCTION(ptx__mul64, double, (double a, double b, int mode), V(double, a) V(double, b), va *vb)
FUNCTION(ptx__div64, double, (double a, double b, int mode), V(double, a) V(double, b), va / vb)
FUNCTION(ptx__sqrt64, double, (double a, int mode), V(double, a), sqrt(va))
FUNCTION(ptx__fma64, double, (double a, double b, double c, int mode),
         V(double, a) V(double, b) V(double, c), fma(va, vb, vc))
FUNCTION(ptx__narrow, float, (double a, int mode), V(double, a), va)
