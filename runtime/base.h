/* base.h: what every file of the runtime stands on: errors, checked allocation, text buffers, log.
 *
 * Errors: the function that detects a fault writes the whole text with IV_FAIL and returns the
 * code; callers pass it up with IV_TRY.  The text is thread-local and lives until the next failure
 * on the same thread (iv_error_message in invar.h).  Nothing here exits, aborts or prints on its
 * own.
 */
#ifndef IV_BASE_H
#define IV_BASE_H

#include "invar.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define IV_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define IV_PRINTF(fmt, first)
#endif

/* Records an error text for this thread and returns `code`.  Never fails. */
iv_status iv__fail(iv_status code, const char *fmt, ...) IV_PRINTF(2, 3);
/* Puts "context: " before the text of the error just recorded; returns `code` unchanged. */
iv_status iv__context(iv_status code, const char *fmt, ...) IV_PRINTF(2, 3);

#define IV_FAIL(code, ...) return iv__fail((code), __VA_ARGS__)
#define IV_TRY(expr)                                                                               \
    do {                                                                                           \
        const iv_status iv_s_ = (expr);                                                            \
        if (iv_s_ != IV_OK) return iv_s_;                                                          \
    } while (0)
/* As IV_TRY, for functions that clean up: stores the status in `s` and goes to `label`. */
#define IV_TRY_GOTO(s, expr, label)                                                                \
    do {                                                                                           \
        (s) = (expr);                                                                              \
        if ((s) != IV_OK) goto label;                                                              \
    } while (0)

/* Zeroed memory for n elements of `size` bytes; IV_NO_MEMORY names `what` and the size.  n >= 0.
 * Also refuses a product that does not fit size_t.  free() releases it. */
iv_status iv__calloc(int64_t n, size_t size, const char *what, void *out_ptr);
/* Makes room for `need` elements in *ptr (grows by doubling, new part zeroed). */
iv_status iv__reserve(void *ptr, int64_t *cap, int64_t need, size_t size, const char *what);
/* A copy of s, or of the printed text; the caller frees. */
iv_status iv__strdup(const char *s, char **out);

/* A growing text.  After a failed allocation `failed` stays set and further prints do nothing. */
typedef struct iv__text {
    char *s; /* NUL-terminated, or NULL while empty */
    int64_t len, cap;
    bool failed;
} iv__text;
void iv__text_printf(iv__text *t, const char *fmt, ...) IV_PRINTF(2, 3);
void iv__text_free(iv__text *t);

/* One line to the log sink (stderr unless iv_log_set was called); adds the newline. */
void iv__log(iv_log_level level, const char *fmt, ...) IV_PRINTF(2, 3);

/* The name in names[0..n) nearest to `name` by edit distance, or NULL if none is near enough to
 * help. */
const char *iv__nearest(const char *name, const char *const *names, int64_t n);

/* Monotonic clock. */
int64_t iv__now_ns(void);

#define IV_COUNT(a) ((int64_t)(sizeof(a) / sizeof((a)[0])))
#define IV_MIN2(a, b) ((a) < (b) ? (a) : (b))
#define IV_MAX2(a, b) ((a) > (b) ? (a) : (b))

/* ---- environment variables: the one table, read in base.c only, printed by `invar env` ---- */
#define IV_ENV_TABLE(X)                                                                            \
    X(ISA, "INVAR_ISA", "force a CPU instruction level: v2, v3, v4, amx")                          \
    X(IMPL, "INVAR_IMPL", "filter implementations, e.g. matmul:portable,conv2d:!onednn")           \
    X(THREADS, "INVAR_THREADS",                                                                    \
      "threads of a CPU device (default: the cores this process may use)")                         \
    X(CACHE, "INVAR_CACHE_DIR", "folder of compiled device kernels (default ~/.cache/invar)")      \
    X(PLUGINS, "INVAR_PLUGIN_PATH", "folders searched for plugins, separated by ':'")              \
    X(ONEDNN, "INVAR_ONEDNN_LIB", "path of libdnnl.so to open instead of the one found at build")  \
    X(BLAS, "INVAR_BLAS_LIB",                                                                      \
      "path of the CBLAS library to open instead of the one found at build")                       \
    X(OPENCL, "INVAR_OPENCL_LIB", "path of the OpenCL ICD loader to open")                         \
    X(OPENCL_FORM, "INVAR_OPENCL_FORM",                                                            \
      "kernels of OpenCL devices as lanes (work-items) or loops (default: loops on processors)")   \
    X(CUDA, "INVAR_CUDA_LIB", "path of libcuda.so.1 to open")                                      \
    X(HIP, "INVAR_HIP_LIB", "path of libamdhip64 to open")                                         \
    X(NVRTC, "INVAR_NVRTC_LIB", "path of the libnvrtc to open")                                    \
    X(CUBLASLT, "INVAR_CUBLASLT_LIB", "path of the libcublasLt to open")                           \
    X(HIPBLASLT, "INVAR_HIPBLASLT_LIB", "path of the libhipblaslt to open")                        \
    X(HIPRTC, "INVAR_HIPRTC_LIB", "path of the libhiprtc to open")                                 \
    X(CLUSTER, "INVAR_CLUSTER",                                                                    \
      "cluster environment, as --cluster: none or a name; --cluster wins")                         \
    X(SPAWNED, "INVAR_SPAWNED",                                                                    \
      "set in ranks that Invar itself has started: RANK and its like are theirs")                  \
    X(HOST_NAME, "INVAR_HOST_NAME", "name of this host, where launchers know it by another")       \
    X(MPI, "INVAR_MPI_LIB", "path of the MPI transport (invar-mpi-*.so) to open")                  \
    X(OMP_WAIT, "OMP_WAIT_POLICY",                                                                 \
      "how OpenMP threads wait; the command lets them spin shortly unless one of these is set")    \
    X(GOMP_SPIN, "GOMP_SPINCOUNT", "spins of a waiting thread of GNU OpenMP")                      \
    X(KMP_BLOCK, "KMP_BLOCKTIME", "milliseconds that a waiting thread of LLVM OpenMP spins")       \
    X(OMP_BIND, "OMP_PROC_BIND", "binding of OpenMP threads; where it is set Invar binds none")    \
    X(OMP_PLACES, "OMP_PLACES", "places of OpenMP threads; as OMP_PROC_BIND")                      \
    X(GOMP_AFFINITY, "GOMP_CPU_AFFINITY", "CPUs of GNU OpenMP threads; as OMP_PROC_BIND")          \
    X(KMP_AFFINITY, "KMP_AFFINITY", "CPUs of LLVM OpenMP threads; as OMP_PROC_BIND")               \
    X(INJECT, "INVAR_INJECT",                                                                      \
      "for tests: step=N,grain=G,param=NAME[,value=inf] puts a value into a gradient")             \
    X(HOME, "HOME", "where .cache/invar is")
typedef enum iv__env_key {
#define X(key, name, help) IV__ENV_##key,
    IV_ENV_TABLE(X)
#undef X
        IV__ENV_COUNT
} iv__env_key;
/* The variable's value, or NULL if unset or empty. */
const char *iv__env(iv__env_key key);
/* Value of any variable, or NULL if unset: only for what launchers leave to cluster plugins. */
const char *iv__env_any(const char *name);

/* ---- element types (dtype.c) ---- */
/* 'f' 'd' 'b' 'h' for a float type, '?' else. */
char iv__letter(iv_dtype t);
/* One element of a float type as f64, and back; rounds to f32 first, then to 16 bits. */
double iv__dtype_get(iv_dtype t, const void *src);
void iv__dtype_put(iv_dtype t, void *dst, double x);

#endif
