/* opencl.h: inside the OpenCL backend.
 *
 *   cl.c       the library: opened at run time, its functions and error names
 *   opencl.c   the plugin: platforms and devices, the table of functions
 *   device.c   one device: what it can do, memory
 *   queue.c    copies, launches, timeline
 *   program.c  kernels out of the texts of backends/common
 *
 * A device of type CPU (dev->cpu) compiles the host's form of the kernels (IV_CPU_DEVICE in
 * portable.h): its kernels have a ninth argument, the number of groups, of which every work-item
 * does a part.
 *
 * Threads: as the HAL: one thread at a time for a device. */
#ifndef IV_BACKENDS_OPENCL_OPENCL_H
#define IV_BACKENDS_OPENCL_OPENCL_H

#include "../common/common.h"

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

/* The functions of the library: iv__cl.Finish is clFinish. */
typedef struct cl_table {
#define S(name) __typeof__(cl##name) *name;
#include "cl.def"
#undef S
} cl_table;
extern cl_table iv__cl;
extern const iv_host *iv__cl_host; /* set once by init; the host outlives every plugin */

/* Opens the library once.  IV_UNAVAILABLE with the loader's reason. */
iv_status iv__cl_open(void);
/* "CL_OUT_OF_RESOURCES"; "unknown" for numbers of vendors. */
const char *iv__cl_name(cl_int error);
/* Fails with "WHAT: CL_NAME = -5"; the status belongs to the error. */
iv_status iv__cl_fail(cl_int error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

typedef struct cl_memory {
    cl_mem mem;
    void *host;             /* IV_MEM_HOST only: mapped until it is freed, */
    cl_command_queue queue; /* by this queue */
    int64_t bytes;
} cl_memory;

/* A compiled program; serves all kernels of its text. */
typedef struct cl_code {
    uint64_t key[2];
    cl_program program;
    struct cl_code *next;
} cl_code;

typedef struct cl_device {
    cl_device_id id;
    cl_context context;
    cl_mem spare; /* for arguments that a launch does not use */
    cl_code *codes;
    char label[32]; /* "opencl:0" */
    char platform[64], name[128], vendor[64], driver[64], version[64];
    iv__cache cache; /* no folder: none, or the platform keeps its own */
    char notes[256];
    int64_t mem_bytes, most_bytes, allocated;
    uint64_t local_bytes; /* memory of a group */
    uint64_t most_items;  /* work-items of a group */
    uint64_t freed;       /* number of memories freed: arguments set before may be stale */
    cl_uint units;
    int vector; /* CPU devices: f32 in a vector register, 4 to 16 */
    bool cpu, pocl, f64, f16, exact_option;
    uint8_t inexact[2]; /* IV_INEXACT_* in f32, in f64 */
} cl_dev;

typedef struct cl_kern {
    cl_kernel kernel;
    char name[64];
    bool program; /* an element program: elem holds its constant part */
    iv__elem_params elem;
    cl_mem set[IV_MAX_BUFS]; /* arguments as last set, */
    uint64_t freed;          /* when this many memories had been freed */
} cl_kern;

/* Groups of the kernels in the form for GPUs; with less than CL_ROOMY bytes tiles of f64 are
 * smaller. */
enum { CL_LANES = 64, CL_LEAST_LOCAL = 32 << 10, CL_ROOMY = 48 << 10 };
enum { CL_RING = 64, CL_STAGE = 1 << 20 };
typedef struct cl_queue {
    cl_dev *dev;
    cl_command_queue queue;
    cl_memory *stage;       /* pinned: what `write` has taken and the device may not have read */
    int64_t staged;         /* bytes of it in use since the last sync */
    cl_event ring[CL_RING]; /* point s of the timeline in ring[s % CL_RING] */
    uint64_t seq;           /* last point */
    iv_status failed;       /* not IV_OK: what every call returns */
    char why[512];
} cl_queue;

/* device.c */
/* `cache` is the folder of compiled programs: a platform that has its own uses ours only if named.
 */
iv_status iv__cl_device_open(cl_device_id id, int32_t index, const char *cache,
                             iv__cache_named named, cl_dev **out);
void iv__cl_device_close(void *dev);
iv_status iv__cl_device_info(void *dev, iv_device_info *out);
iv_status iv__cl_mem_alloc(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem);
void iv__cl_mem_free(void *dev, void *mem);
void *iv__cl_mem_host(void *dev, void *mem);
/* A text property of a device, or "?". */
void iv__cl_device_text(cl_device_id id, cl_device_info what, char *out, size_t size);

/* opencl.c */
extern const iv_backend iv__cl_backend;

/* queue.c */
iv_status iv__cl_queue_open(void *dev, iv_queue_kind kind, void **out_q);
void iv__cl_queue_close(void *q);
iv_status iv__cl_write(void *q, iv_buffer dst, const void *src);
iv_status iv__cl_read(void *q, void *dst, iv_buffer src);
iv_status iv__cl_copy(void *q, iv_buffer dst, iv_buffer src);
iv_status iv__cl_fill(void *q, iv_buffer dst, uint32_t pattern);
iv_status iv__cl_launch(void *q, void *kernel, const iv_launch *l);
iv_status iv__cl_signal(void *q, uint64_t *out_seq);
iv_status iv__cl_wait(void *q, void *other_q, uint64_t seq);
iv_status iv__cl_sync(void *q);

/* program.c */
iv_status iv__cl_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel);
void iv__cl_kernel_free(void *dev, void *kernel);

#endif
