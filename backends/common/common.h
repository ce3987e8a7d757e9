/* common.h: what the backends that compile kernels at run time share (opencl, cuda, hip).
 *
 *   source.c   the text of a kernel or element program, and its hash
 *   elem.c     element programs as kernels
 *   cache.c    compiled code on disk
 *   probe.c    does a device round as the numerics contract wants?
 */
#ifndef IV_BACKENDS_COMMON_H
#define IV_BACKENDS_COMMON_H

#include "../../runtime/plugin.h"

/* Same layout as iv_params of kernels/portable.h. */
typedef struct iv__kernel_params {
    int64_t off[IV_MAX_BUFS];
    int64_t n[IV_KERNEL_INTS];
    int64_t d[IV_KERNEL_FLOATS];
    float f[IV_KERNEL_FLOATS];
} iv__kernel_params;

/* The parameter block of element programs; the struct in the text that elem.c writes is the same.
 */
typedef struct iv__elem_params {
    int64_t off[IV_MAX_BUFS];
    int64_t count, per_sample;
    int64_t dim[IV_PROGRAM_DIMS];
    int64_t stride[IV_PROGRAM_INPUTS + 1][IV_PROGRAM_DIMS]; /* inputs, then at n_in the output */
    uint32_t stream[IV_PROGRAM_OPS];
} iv__elem_params;

/* ---- source.c ---- */
enum { IV__SOURCE_PARTS = 12 };
typedef struct iv__source {
    const char *text[IV__SOURCE_PARTS]; /* to be read one after another; not NUL-terminated */
    size_t size[IV__SOURCE_PARTS];
    uint32_t n;
    char function[64];           /* name of the kernel in the text */
    char what[64];               /* names it in errors: "softmax_fb" */
    char letters[224], *program; /* parts that are owned */
} iv__source;

/* For which device a text is made. */
typedef struct iv__source_target {
    const iv_host *host;
    const char *label, *name; /* "opencl:0", "AMD Instinct MI210": for errors */
    bool has_f64;
    bool host_form; /* loops over lanes instead of work-items (IV_CPU_DEVICE) */
} iv__source_target;

/* The text for `src`.  IV_UNSUPPORTED names what the device or the table of kernels lacks.  Free it
 * also after a failure. */
iv_status iv__source_make(const iv__source_target *t, const iv_kernel_src *src, iv__source *out);
void iv__source_free(iv__source *s);
/* Hash of the text and of `names` (options, compiler, device: all that changes the code). */
bool iv__source_key(const iv__source *s, const char *const *names, size_t n, uint64_t out[2]);

/* The parameters of a launch, with offsets: of a kernel from a file, or of a program with its
 * constant part. */
void iv__kernel_params_fill(const iv_launch *l, iv__kernel_params *out);

/* ---- elem.c ---- */
/* The text of a program, a kernel `elements`.  Shapes, strides and streams are parameters, so that
 * programs that differ in them only share a text.  malloc'ed; NULL: out of memory. */
char *iv__elem_text(const iv_program *p, bool host_form);
void iv__elem_params_fill(const iv_program *p, iv__elem_params *out);

/* ---- cache.c: folder and file appear when the first entry is stored ---- */
typedef struct iv__cache {
    const iv_host *host;
    const char *kind; /* "opencl": begins the names of its files */
    char folder[512]; /* "": no cache */
} iv__cache;
/* How a folder was found. */
typedef enum iv__cache_named { IV__CACHE_NAMED, IV__CACHE_DEFAULT } iv__cache_named;
/* The folder of compiled kernels: the option, INVAR_CACHE_DIR, ~/.cache/invar, or none. */
iv__cache_named iv__cache_choose(const iv_host *h, const char *option, char *folder, size_t size);
/* *out_bytes is malloc'ed, NULL if there is no good entry. */
void iv__cache_load(const iv__cache *c, const uint64_t key[2], void **out_bytes, size_t *out_size);
void iv__cache_store(const iv__cache *c, const uint64_t key[2], const void *bytes, size_t size);

/* ---- probe.c ---- */
/* Runs every basic operation on the device and compares bits.  What was found is added to `notes`,
 * a text in `size` bytes; out_inexact: IV_INEXACT_* in f32, in f64.  Fails only if nothing can be
 * run. */
iv_status iv__probe(const iv_host *h, const iv_backend *vt, void *dev, bool has_f64,
                    uint8_t out_inexact[2], char *notes, size_t size);

#endif
