/* cpu.h: inside the CPU backend: device and memory, the host's kernel tables, implementations. */
#ifndef IV_BACKENDS_CPU_CPU_H
#define IV_BACKENDS_CPU_CPU_H

#include "../../runtime/plugin.h"
#include "gemm.h"
#include "isa.h"
#include "kernel.h"

_Static_assert(CPU_KERNEL_BUFS == IV_MAX_BUFS && CPU_KERNEL_INTS == IV_KERNEL_INTS &&
                   CPU_KERNEL_FLOATS == IV_KERNEL_FLOATS,
               "the instances of kernels take what a launch has");

/* [level] the instances of all kernel files at that level; each list ends with a NULL name;
 * NULL for a level that the build left out (INVAR_LEVELS).  The build writes this table from
 * kernels/kernels.def. */
extern const iv__host_kernel *const *const iv__host_kernels[IV__ISA_COUNT];

/* Runs groups [g0, g1) of an element program (elem.c, once per level). */
typedef void cpu_program_fn(const iv_program *p, uint8_t *const *buf, int64_t g0, int64_t g1);
extern cpu_program_fn *const iv__host_programs[IV__ISA_COUNT];

typedef struct cpu_device {
    const iv_host *host;
    int level; /* instruction level in use */
    int threads;
    const iv_cpu_place *place; /* of the driver, or NULL: nothing is bound */
} cpu_device;

typedef struct cpu_memory {
    uint8_t *ptr;
    int64_t bytes;
} cpu_memory;

static inline void *iv__cpu_ptr(iv_buffer b)
{
    return b.mem ? ((cpu_memory *)b.mem)->ptr + b.offset : NULL;
}

/* The iv__gemm_type of an element type, by which tables of implementations are indexed; -1: none.
 */
static inline int iv__cpu_type(iv_dtype t)
{
    switch (t) {
    case IV_F32: return IV__GEMM_F32;
    case IV_F64: return IV__GEMM_F64;
    case IV_BF16: return IV__GEMM_BF16;
    case IV_F16: return IV__GEMM_F16;
    default: return -1;
    }
}

/* Whether the elements lie row-major without gaps. */
static inline bool iv__cpu_contiguous(const iv_tensor_desc *t)
{
    int64_t stride = 1;
    for (int32_t i = t->shape.rank - 1; i >= 0; --i) {
        if (t->shape.dim[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape.dim[i];
    }
    return true;
}

/* Lists of implementations, each NULL-terminated; NULL where not built. */
extern const iv_impl *const iv__cpu_gemm_impls[];
extern const iv_impl *const iv__cpu_onednn_impls[];
extern const iv_impl *const iv__cpu_blas_impls[];
extern const iv_impl *const iv__cpu_conv_impls[];
extern const iv_impl *const iv__cpu_pool_impls[];
extern const iv_impl *const iv__cpu_attention_impls[];

#endif
