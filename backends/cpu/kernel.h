/* kernel.h: how the CPU backend calls an instance of a portable kernel.
 *
 * All that the generated instances include besides the kernel texts, so that a change of the
 * library's other headers does not compile every kernel again. */
#ifndef IV_BACKENDS_CPU_KERNEL_H
#define IV_BACKENDS_CPU_KERNEL_H

#include <stdint.h>

/* As many as an iv_launch has (cpu.h compares). */
enum { CPU_KERNEL_BUFS = 8, CPU_KERNEL_INTS = 24, CPU_KERNEL_FLOATS = 8 };

/* Same layout as iv_params of kernels/portable.h. */
typedef struct cpu_params {
    int64_t off[CPU_KERNEL_BUFS];
    int64_t n[CPU_KERNEL_INTS];
    int64_t d[CPU_KERNEL_FLOATS];
    float f[CPU_KERNEL_FLOATS];
} cpu_params;

/* Runs the groups [g0, g1) of a launch. */
typedef void cpu_kernel_fn(uint8_t *const *buf, const cpu_params *p, int64_t g0, int64_t g1);

/* One instance, in a list that ends with a NULL name. */
typedef struct iv__host_kernel {
    const char *file, *name, *sig;
    cpu_kernel_fn *fn;
} iv__host_kernel;

#endif
