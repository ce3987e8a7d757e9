/* hal.h: what a backend implements: devices, memory, in-order queues, kernels, library calls.
 *
 *   driver ── device ──┬── memory (arenas: device or pinned host)
 *                      ├── queues (compute, copy): everything on a queue runs in order
 *                      ├── kernels (built from the portable text of kernels/)
 *                      └── implementations (ways of a vendor's library or of the backend
 *                          itself to do a whole operator)
 *
 * Handles are the backend's own pointers.  A buffer is a range of a memory; the offset travels to
 * the kernel as a parameter.  Work on a queue is asynchronous; faults of it surface in `sync`,
 * after which the queue returns the same error to every call.
 */
#ifndef IV_HAL_H
#define IV_HAL_H

#include "invar.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct iv_host iv_host;
typedef struct iv_plugin iv_plugin;

typedef enum iv_mem_kind { IV_MEM_DEVICE, IV_MEM_HOST } iv_mem_kind;

/* A range of device memory.  mem is the backend's handle. */
typedef struct iv_buffer {
    void *mem;
    int64_t offset, bytes;
} iv_buffer;

/* Kinds of basic operations that a device may do otherwise than the numerics contract wants. */
enum {
    IV_INEXACT_BASIC = 1, /* sums, products, fma, denormals, or a * b + c fuses */
    IV_INEXACT_DIVISION = 2,
    IV_INEXACT_ROOT = 4,
    IV_INEXACT_ALL = 7
};

/* What a device can do, filled by device_info. */
typedef struct iv_device_info {
    char name[128]; /* "AMD EPYC 9B45" */
    char vendor[64], driver[64];
    char arch[64]; /* "x86-64-v4", "gfx90a", "sm_90" */
    int64_t mem_bytes, mem_free;
    int32_t units; /* threads, compute units, multiprocessors */
    bool has_f64;
    bool exact;                   /* passes the rounding probe: every kernel is invariant */
    bool native_bf16, native_f16; /* faster than emulation */
    char notes[256];              /* what limits it, one line */
    uint8_t inexact[2]; /* IV_INEXACT_* in f32, in f64: kernels with these are not invariant */
} iv_device_info;

/* One launch of a portable kernel: `groups` work-groups of 64 lanes. */
#define IV_MAX_BUFS 8
#define IV_KERNEL_INTS 24
#define IV_KERNEL_FLOATS 8
typedef struct iv_launch {
    iv_buffer buf[IV_MAX_BUFS];
    int32_t n_bufs;
    int64_t groups;
    int64_t n[IV_KERNEL_INTS];  /* p.n[] of the kernel */
    double f[IV_KERNEL_FLOATS]; /* FPARAM() of the kernel */
} iv_launch;

/* A portable kernel by name and signature (docs/kernels.md), or generated text. */
typedef struct iv_kernel_src {
    const char
        *file; /* text in the table of kernels: "softmax" for kernels/softmax.k; NULL: `text` */
    const char *name;                 /* kernel in it */
    const char *sig;                  /* types of T0 T1 T2, e.g. "fb" */
    const struct iv_program *program; /* an element program instead of a file (file NULL) */
} iv_kernel_src;

/* ---- element programs: chains of element-wise operators, fused into one launch ---- */
#define IV_PROGRAM_OPS 32
#define IV_PROGRAM_REGS 32
#define IV_PROGRAM_INPUTS 6
#define IV_PROGRAM_DIMS 6
#define IV_PROGRAM_TILE 1024 /* elements of the output per work-group */
typedef struct iv_program_op {
    uint8_t op;      /* row of kernels/elem.def */
    uint8_t dst;     /* register */
    uint8_t src[3];  /* registers */
    uint8_t round;   /* iv_dtype the result is rounded to (the type of the node it came from) */
    uint32_t stream; /* DROPOUT: random stream */
    double imm[2];   /* constants of the operator */
} iv_program_op;
/* Element e of the output runs ops[] on registers; inputs are loaded into registers 0..n_in-1.  The
 * index space has n_dims collapsed dimensions (outermost first); strides are in elements, 0 to
 * broadcast.  The output is stored from register out_reg. */
typedef struct iv_program {
    int32_t n_in, n_ops, n_dims;
    uint8_t compute; /* IV_F32 or IV_F64: what A is */
    uint8_t in_type[IV_PROGRAM_INPUTS], out_type, out_reg;
    uint8_t uses_rng;       /* one more buffer, after the output: the iv_uniforms of the step */
    int64_t rng_per_sample; /* elements of the output per sample */
    int64_t dim[IV_PROGRAM_DIMS];
    int64_t in_stride[IV_PROGRAM_INPUTS][IV_PROGRAM_DIMS];
    int64_t out_stride[IV_PROGRAM_DIMS];
    iv_program_op ops[IV_PROGRAM_OPS];
} iv_program;

/* What changes from step to step, in device memory: read by programs that draw random numbers. */
typedef struct iv_uniforms {
    uint64_t seed, step;
    uint64_t first_sample; /* index in the global batch of the first sample here */
} iv_uniforms;

/* ---- implementations of whole operators ---- */
/* What a node asks for: enough to accept or refuse at plan time, and to prepare. */
typedef struct iv_tensor_desc {
    iv_dtype dtype;
    iv_shape shape;
    int64_t stride[IV_MAX_RANK]; /* elements */
} iv_tensor_desc;
#define IV_NODE_INPUTS 6
#define IV_NODE_OUTPUTS 4
typedef struct iv_op_desc {
    const char *op; /* name in ops.def */
    int32_t n_in, n_out;
    iv_tensor_desc in[IV_NODE_INPUTS], out[IV_NODE_OUTPUTS];
    int64_t attr[12];
    double fattr[4];
    int64_t segments; /* grains that a sum over samples is cut into; 1: none */
    bool invariant;   /* numerics mode: only the canonical arithmetic will do */
} iv_op_desc;

typedef struct iv_impl {
    const char *name; /* "cpu.gemm", "onednn.matmul" */
    const char *op;   /* name in ops.def */
    bool invariant;   /* gives the canonical bits */
    /* IV_OK, or IV_UNSUPPORTED / IV_UNAVAILABLE with the reason in the error text. */
    iv_status (*accepts)(void *dev, const iv_op_desc *d);
    /* Builds what `run` needs.  *out_scratch: bytes of device memory it wants while running. */
    iv_status (*prepare)(void *dev, const iv_op_desc *d, void **out_prepared, int64_t *out_scratch);
    void (*unprepare)(void *prepared);
    /* Enqueues.  io: inputs, then outputs, then the scratch (mem NULL if none). */
    iv_status (*run)(void *queue, void *prepared, const iv_buffer *io);
} iv_impl;

typedef enum iv_queue_kind { IV_QUEUE_COMPUTE, IV_QUEUE_COPY } iv_queue_kind;

/* Where a CPU device works: numbers of the system's CPUs and NUMA nodes.  A backend that needs them
 * later copies them. */
typedef struct iv_cpu_place {
    int32_t n_cpus, n_nodes;
    const int32_t *cpus, *nodes;
} iv_cpu_place;

typedef struct iv_backend_options {
    int32_t threads;   /* CPU devices: 0 = the cores this process may use */
    const char *isa;   /* CPU devices: forced instruction level or NULL */
    const char *cache; /* folder for compiled kernels or NULL */
    /* CPU devices: device i works on place[i]: threads are bound to its CPUs, memory to its nodes.
     * n_places 0: one device, nothing is bound. */
    int32_t n_places;
    const iv_cpu_place *place; /* [n_places] */
} iv_backend_options;

typedef struct iv_backend {
    /* driver */
    iv_status (*open)(void *self, const iv_backend_options *o,
                      void **out_drv); /* IV_UNAVAILABLE + reason */
    void (*close)(void *drv);
    iv_status (*device_count)(void *drv, int32_t *out_n);
    iv_status (*device_open)(void *drv, int32_t index, void **out_dev);
    void (*device_close)(void *dev);
    iv_status (*device_info)(void *dev, iv_device_info *out);
    /* memory */
    iv_status (*mem_alloc)(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem);
    void (*mem_free)(void *dev, void *mem);
    void *(*mem_host)(void *dev, void *mem); /* host address, or NULL if the host cannot touch it */
    /* queue */
    iv_status (*queue_open)(void *dev, iv_queue_kind kind, void **out_q);
    void (*queue_close)(void *q);
    iv_status (*write)(void *q, iv_buffer dst,
                       const void *src); /* host to device; src is read before return */
    iv_status (*read)(void *q, void *dst, iv_buffer src); /* device to host; complete after sync */
    /* Within the device; backends cuda and hip also take src of another of their devices. */
    iv_status (*copy)(void *q, iv_buffer dst, iv_buffer src);
    iv_status (*fill)(void *q, iv_buffer dst, uint32_t pattern); /* bytes a multiple of 4 */
    iv_status (*launch)(void *q, void *kernel, const iv_launch *l);
    iv_status (*signal)(void *q, uint64_t *out_seq);         /* a point on the queue's timeline */
    iv_status (*wait)(void *q, void *other_q, uint64_t seq); /* q waits for other_q's point */
    iv_status (*sync)(void *q);                              /* the host waits for all work */
    /* code */
    iv_status (*kernel_build)(void *dev, const iv_kernel_src *src, void **out_kernel);
    void (*kernel_free)(void *dev, void *kernel);
    /* implementations, best first; *out_n may be 0 */
    const iv_impl *const *(*impls)(void *dev, int32_t *out_n);
    /* (optional) graphs: what is enqueued between begin and end (launches, copies within the
     * device, fills) is not run but kept, and then runs as one, as often as wanted, with the
     * parameters and buffers that it had.  NULL, or IV_UNSUPPORTED from begin: there are none. */
    iv_status (*capture_begin)(void *q);
    iv_status (*capture_end)(void *q, void **out_graph);
    iv_status (*graph_run)(void *q, void *graph);
    void (*graph_free)(void *dev, void *graph);
    /* (optional) What the multipliers do at most with type t, measured now: floating-point
     * operations per second, a multiplication and an addition being two; 0: not known.  For
     * benchmarks. */
    double (*peak_flops)(void *dev, iv_dtype t);
} iv_backend;

#ifdef __cplusplus
}
#endif
#endif
