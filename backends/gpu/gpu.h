/* gpu.h: CUDA and HIP devices: one backend over a table of driver functions.
 *
 *   gpu.c      driver, devices, memory
 *   queue.c    copies, launches, timeline, captured graphs
 *   program.c  kernels out of the texts of backends/common, through the vendor's compiler
 *   library.c  libraries opened at run time
 *
 * backends/cuda and backends/hip fill the table (gpu_api) from the libraries of their vendor, with
 * its real headers, and hold nothing that both have: that is in vendor.inc, driver.def and rtc.def
 * for driver and compiler, in blaslt.inc and lt.def for matrix products.
 *
 * Memory is device memory or pinned host memory; kernels get device memory only.  What the host
 * writes goes through a ring of pinned memory, so `write` returns at once and copies are true DMA.
 * Threads: as the HAL: one thread at a time for a device; every call makes its context current. */
#ifndef IV_BACKENDS_GPU_GPU_H
#define IV_BACKENDS_GPU_GPU_H

#include "../common/common.h"

typedef unsigned long long gpu_ptr; /* an address in device memory */

/* library.c: a library opened at run time. */
typedef struct gpu_symbol {
    const char *name; /* NULL ends a list */
    void **at;        /* gets the address, NULL if an optional one is missing */
    char need;        /* 'V': needed to read the version; 'S': needed; 'O': optional */
} gpu_symbol;
typedef struct gpu_library {
    const char *what; /* "the CUDA driver" */
    const char *env;  /* variable that names it instead */
    const char *hint; /* where to get it */
    /* Up to a NULL.  One that ends in '.' gets a major version, the latest first. */
    const char *const *names;
    const gpu_symbol *symbols; /* the first is one that no other library has */
    const char *product;       /* "CUDA": whose version it tells */
    int least, most;           /* versions to be used, 1304 for 13.4; most 0: any later one */
    int (*tell)(void);         /* its version, by the symbols V; NULL: it does not tell */
    void *handle;
    int version;
    char path[256];
} gpu_library;
/* Opens the first of its names that is there, reads its version, and only then looks up the other
 * functions.  IV_UNAVAILABLE: it is missing (with the loader's words), of another version, or lacks
 * a function. */
iv_status iv__gpu_library_open(const iv_host *host, gpu_library *lib);
/* The same once, for one that is to work with what `driver` made; any thread.  IV_UNAVAILABLE too
 * if it works on another driver than that, whose memory and streams it would not know. */
iv_status iv__gpu_library_join(const iv_host *host, gpu_library *lib, const gpu_library *driver);
/* The symbol of a function, which a macro of its header may have chosen. */
#define GPU_TEXT(x) GPU_TEXT_(x)
#define GPU_TEXT_(x) #x

/* A device, as its vendor describes it. */
typedef struct gpu_desc {
    char name[128], arch[64]; /* "sm_90", "gfx90a:sramecc+:xnack-" */
    char target[64];          /* what the compiler is asked for: "sm_90", "compute_121", "gfx90a" */
    int64_t mem_bytes;
    int32_t units;
} gpu_desc;

/* What is asked of the compiler. */
enum { GPU_OPTIONS = 12 };
typedef struct gpu_options {
    const char *option[GPU_OPTIONS];
    int n;
    char arch[96];
} gpu_options;

/* The table.  Functions that return int give 0 or the vendor's error number; those that work on
 * memory, streams, events and modules do so in the context made current by `use`. */
typedef struct gpu_api {
    const iv_host *host;
    const char *kind, *vendor;  /* "cuda", "NVIDIA" */
    const gpu_library *library; /* the driver */
    char driver[64];            /* "CUDA 13.0, NVRTC 13.0" */
    int64_t most_groups;        /* of a launch */
    int out_of_memory;          /* error numbers with a meaning here */
    const char *(*error_name)(int error);
    const char *(*error_text)(int error);

    int (*device_count)(int *out_n);
    /* IV_UNSUPPORTED: the compiler here cannot make code for it. */
    iv_status (*describe)(int index, gpu_desc *out);
    int (*context_open)(int index, void **out_context);
    void (*context_close)(int index, void *context);
    int (*use)(void *context);

    int (*mem_info)(size_t *out_free, size_t *out_total);
    int (*mem_alloc)(gpu_ptr *out, size_t bytes);
    int (*mem_free)(gpu_ptr p);
    int (*host_alloc)(void **out, size_t bytes); /* pinned, for all contexts */
    int (*host_free)(void *p);

    int (*stream_open)(void **out_stream); /* without ties to the default stream */
    int (*stream_close)(void *stream);
    int (*stream_sync)(void *stream);
    int (*stream_wait)(void *stream, void *event); /* the event may be another device's */
    int (*event_open)(void **out_event);
    int (*event_close)(void *event);
    int (*event_record)(void *event, void *stream);
    int (*event_sync)(void *event); /* at once if it was never recorded */

    int (*copy_in)(gpu_ptr dst, const void *pinned, size_t bytes, void *stream);
    int (*copy_out)(void *dst, gpu_ptr src, size_t bytes, void *stream);
    int (*copy)(gpu_ptr dst, gpu_ptr src, size_t bytes, void *stream);
    int (*fill)(gpu_ptr dst, uint32_t pattern, size_t words, void *stream);

    int (*module_load)(void **out_module, const void *code);
    int (*module_unload)(void *module);
    int (*function_get)(void **out_function, void *module, const char *name);
    /* groups x 64 threads; arguments by address */
    int (*launch)(void *function, unsigned groups, void **arguments, void *stream);

    /* (optional) NULL where the driver has no such function. */
    int (*function_info)(void *function, int *out_registers, int *out_spill_bytes);
    int (*peer_can)(int *out_can, int index, int other);
    int (*peer_enable)(int other, void *other_context); /* from the current context */
    int (*copy_peer)(gpu_ptr dst, int dst_index, void *dst_context, gpu_ptr src, int src_index,
                     void *src_context, size_t bytes, void *stream);
    int (*capture_begin)(void *stream);
    int (*capture_end)(void *stream, void **out_graph);
    int (*graph_make)(void **out_exec, void *graph);
    int (*graph_run)(void *exec, void *stream);
    int (*graph_exec_free)(void *exec);
    int (*graph_free)(void *graph);

    /* The compiler: texts to code.  Its error numbers are its own. */
    void (*rtc_options)(const gpu_desc *d, gpu_options *out);
    const char *(*rtc_error)(int error);
    int (*rtc_open)(void **out_program, const char *text, const char *name);
    int (*rtc_compile)(void *program, int n, const char *const *options);
    int (*rtc_log_size)(void *program, size_t *out);
    int (*rtc_log)(void *program, char *out);
    int (*rtc_code_size)(const gpu_desc *d, void *program, size_t *out);
    int (*rtc_code)(const gpu_desc *d, void *program, char *out);
    void (*rtc_close)(void *program);

    /* Implementations of whole operators by the vendor's library; *out_n may be 0. */
    const iv_impl *const *(*impls)(void *dev, int32_t *out_n);
} gpu_api;

typedef struct gpu_driver {
    const gpu_api *api;
    char cache[512];
} gpu_driver;

/* A compiled text; serves all kernels of it. */
typedef struct gpu_code {
    uint64_t key[2];
    void *module;
    struct gpu_code *next;
} gpu_code;

typedef struct gpu_device {
    const gpu_api *api;
    int index;
    void *context;
    gpu_desc desc;
    char label[32]; /* "cuda:0" */
    char notes[256];
    iv__cache cache;
    gpu_code *codes;
    uint8_t inexact[2]; /* IV_INEXACT_* in f32, in f64 */
    uint64_t peers;     /* bit i: device i's memory is mapped here */
    void *library;      /* handle of the vendor's matrix products, once they were asked for */
    void (*library_close)(void *handle);
} gpu_device;

typedef struct gpu_memory {
    gpu_device *dev;
    gpu_ptr at; /* device memory; 0 if pinned */
    char *host; /* pinned memory, or NULL */
    int64_t bytes;
} gpu_memory;

typedef struct gpu_kernel {
    void *function;
    char name[64];
    bool program; /* an element program: elem is its constant part */
    iv__elem_params elem;
} gpu_kernel;

/* The ring that host writes go through: slots that are written one after another; a slot's event is
 * recorded behind its last copy and waited for before the slot is used again. */
enum { GPU_RING = 64, GPU_SLOTS = 8, GPU_SLOT_BYTES = 1 << 20 };
typedef struct gpu_queue {
    gpu_device *dev;
    void *stream;
    void *ring[GPU_RING]; /* point s of the timeline: event s % GPU_RING */
    uint64_t seq;         /* last point */
    char *staging;
    void *slot_event[GPU_SLOTS];
    int slot;
    int64_t slot_used; /* bytes */
    bool capturing;
    iv_status failed; /* not IV_OK: what every call returns */
    char why[512];
} gpu_queue;

typedef struct gpu_graph {
    gpu_device *dev;
    void *graph, *exec;
} gpu_graph;

/* Fails with "LABEL (NAME), WHAT: ERROR = 700 (text)"; the status belongs to the error. */
iv_status iv__gpu_fail(const gpu_device *d, int error, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* gpu.c */
iv_status iv__gpu_open(const gpu_api *api, const iv_backend_options *o, void **out_drv);
void iv__gpu_close(void *drv);
iv_status iv__gpu_device_count(void *drv, int32_t *out_n);
iv_status iv__gpu_device_open(void *drv, int32_t index, void **out_dev);
void iv__gpu_device_close(void *dev);
iv_status iv__gpu_device_info(void *dev, iv_device_info *out);
iv_status iv__gpu_mem_alloc(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem);
void iv__gpu_mem_free(void *dev, void *mem);
void *iv__gpu_mem_host(void *dev, void *mem);
const iv_impl *const *iv__gpu_impls(void *dev, int32_t *out_n);
/* The whole backend, without `open`: for the probe. */
extern const iv_backend iv__gpu_backend;

/* queue.c */
iv_status iv__gpu_queue_open(void *dev, iv_queue_kind kind, void **out_q);
void iv__gpu_queue_close(void *q);
iv_status iv__gpu_write(void *q, iv_buffer dst, const void *src);
iv_status iv__gpu_read(void *q, void *dst, iv_buffer src);
iv_status iv__gpu_copy(void *q, iv_buffer dst, iv_buffer src);
iv_status iv__gpu_fill(void *q, iv_buffer dst, uint32_t pattern);
iv_status iv__gpu_launch(void *q, void *kernel, const iv_launch *l);
iv_status iv__gpu_signal(void *q, uint64_t *out_seq);
iv_status iv__gpu_wait(void *q, void *other_q, uint64_t seq);
iv_status iv__gpu_sync(void *q);
iv_status iv__gpu_capture_begin(void *q);
iv_status iv__gpu_capture_end(void *q, void **out_graph);
iv_status iv__gpu_graph_run(void *q, void *graph);
void iv__gpu_graph_free(void *dev, void *graph);
/* Keeps a failure for good and returns it. */
iv_status iv__gpu_fault(gpu_queue *q, int error, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* IV_OK, or the queue's fault once more. */
iv_status iv__gpu_queue_ready(const gpu_queue *q);
static inline gpu_ptr iv__gpu_at(iv_buffer b)
{
    return ((const gpu_memory *)b.mem)->at + (gpu_ptr)b.offset;
}

/* program.c */
iv_status iv__gpu_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel);
void iv__gpu_kernel_free(void *dev, void *kernel);
void iv__gpu_codes_free(gpu_device *d);

/* A backend whose first entry is `open_function`. */
#define GPU_BACKEND(open_function)                                                                 \
    {                                                                                              \
        .open = open_function, .close = iv__gpu_close, .device_count = iv__gpu_device_count,       \
        .device_open = iv__gpu_device_open, .device_close = iv__gpu_device_close,                  \
        .device_info = iv__gpu_device_info, .mem_alloc = iv__gpu_mem_alloc,                        \
        .mem_free = iv__gpu_mem_free, .mem_host = iv__gpu_mem_host,                                \
        .queue_open = iv__gpu_queue_open, .queue_close = iv__gpu_queue_close,                      \
        .write = iv__gpu_write, .read = iv__gpu_read, .copy = iv__gpu_copy, .fill = iv__gpu_fill,  \
        .launch = iv__gpu_launch, .signal = iv__gpu_signal, .wait = iv__gpu_wait,                  \
        .sync = iv__gpu_sync, .kernel_build = iv__gpu_kernel_build,                                \
        .kernel_free = iv__gpu_kernel_free, .impls = iv__gpu_impls,                                \
        .capture_begin = iv__gpu_capture_begin, .capture_end = iv__gpu_capture_end,                \
        .graph_run = iv__gpu_graph_run, .graph_free = iv__gpu_graph_free,                          \
    }

#endif
