/* rounded.h: operations that do not round to nearest even (rounded.c). */
#ifndef PTX_ROUNDED_H
#define PTX_ROUNDED_H

enum { PTX_RZ, PTX_RM, PTX_RP }; /* toward zero, down, up */

float ptx__add32(float a, float b, int mode);
float ptx__sub32(float a, float b, int mode);
float ptx__mul32(float a, float b, int mode);
float ptx__div32(float a, float b, int mode);
float ptx__sqrt32(float a, int mode);
float ptx__fma32(float a, float b, float c, int mode);
double ptx__add64(double a, double b, int mode);
double ptx__sub64(double a, double b, int mode);
double ptx__mul64(double a, double b, int mode);
double ptx__div64(double a, double b, int mode);
double ptx__sqrt64(double a, int mode);
double ptx__fma64(double a, double b, double c, int mode);
float ptx__narrow(double a, int mode);

#endif
