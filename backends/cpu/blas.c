/* blas.c: `matmul` of f32 and f64 through a CBLAS library (OpenBLAS, BLIS, ...): fast mode only.
 *
 * The library is opened at run time: INVAR_BLAS_LIB, else the one found at build (INVAR_BLAS_PATH),
 * else the usual names.  OpenBLAS is told the device's number of threads; other libraries keep
 * theirs.
 *
 * Threads.  Debian's OpenBLAS has threads of its own beside the team's, and both spin for some
 * milliseconds when their work is done: a product that follows a kernel finds the other cores
 * taken. Measured with 2 threads (2 busy cores of a Zen 4, f64, a team loop before each product),
 * OpenBLAS against cpu.gemm: 1.0 to 1.2 times its speed at m n k = 2^31, 0.05 to 0.5 times from
 * 2^21 to 2^25, 1.3 times where one thread does everything (2^15 and less).  So products in between
 * are refused.
 *
 * Segments: one call over all of K.  So a sum over samples does not follow the grains inside a
 * process, and its bits depend on library, processor and threads.  That is what the fast mode
 * allows: equal runs on equal machines are equal as far as the library's are.
 */
#include "cpu.h"
#include "../common/matmul.h"

#ifdef INVAR_BLAS
#include "vendor.h"

#include <cblas.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    SMALL = 1 << 15,
    LARGE = 1 << 30
}; /* m n k up to which, and from which on, CBLAS is faster */

static struct {
    __typeof__(cblas_sgemm) *sgemm;
    __typeof__(cblas_dgemm) *dgemm;
    void (*set_threads)(int n); /* (optional) NULL: not OpenBLAS */
    bool open;
} blas;
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* of blas, which does not change once open */

static iv_status open_locked(const iv_host *host)
{
    static const char *const names[] = {INVAR_BLAS_PATH, "libopenblas.so.0", "libcblas.so.3", NULL};
    void *lib = NULL;
    if (blas.open) return IV_OK;
    iv_status s = iv__vendor_open(host, "INVAR_BLAS_LIB", names, &lib);
    if (s != IV_OK) return s;
    *(void **)&blas.sgemm = dlsym(lib, "cblas_sgemm");
    *(void **)&blas.dgemm = dlsym(lib, "cblas_dgemm");
    *(void **)&blas.set_threads = dlsym(lib, "openblas_set_num_threads");
    if (!blas.sgemm || !blas.dgemm) {
        dlclose(lib);
        return host->fail(
            IV_UNAVAILABLE,
            "the BLAS library has no cblas_sgemm or cblas_dgemm [hint: set INVAR_BLAS_LIB]");
    }
    blas.open = true;
    return IV_OK;
}

static iv_status blas_open(const iv_host *host)
{
    pthread_mutex_lock(&lock);
    iv_status s = open_locked(host);
    pthread_mutex_unlock(&lock);
    return s;
}

typedef struct blas_call {
    iv__matmul x;
    bool wide; /* f64 */
    int threads;
} blas_call;

static iv_status blas_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    const iv_host *h = cpu->host;
    iv_dtype t = d->in[0].dtype;
    iv__matmul x;
    bool same = d->in[1].dtype == t && d->out[0].dtype == t && (d->n_in < 3 || d->in[2].dtype == t);
    if ((t != IV_F32 && t != IV_F64) || !same)
        return h->fail(IV_UNSUPPORTED, "all operands must be f32, or all f64");
    if (!iv__matmul_read(d, &x))
        return h->fail(IV_UNSUPPORTED, "strides or sizes that CBLAS cannot take");
    if (x.m > INT_MAX || x.n > INT_MAX || x.k > INT_MAX || x.a.ld > INT_MAX || x.b.ld > INT_MAX)
        return h->fail(IV_UNSUPPORTED, "a size of more than 31 bits");
    double products = (double)x.m * (double)x.n * (double)x.k;
    if (products < LARGE && (products > SMALL || x.batch > 1))
        return h->fail(IV_UNSUPPORTED, "cpu.gemm is faster here (%lld x %lld x %lld)",
                       (long long)x.m, (long long)x.n, (long long)x.k);
    return blas_open(h);
}

static iv_status blas_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                              int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    blas_call *c = calloc(1, sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a matrix product");
    iv__matmul_read(d, &c->x);
    c->wide = d->in[0].dtype == IV_F64;
    c->threads = cpu->threads;
    *out_scratch = 0;
    *out_prepared = c;
    return IV_OK;
}

/* c = a b, or c += a b if there is a bias, which is in c already. */
static void multiply(const blas_call *call, const uint8_t *a, const uint8_t *b, uint8_t *c)
{
    const iv__matmul *x = &call->x;
    CBLAS_TRANSPOSE ta = x->a.turned ? CblasTrans : CblasNoTrans,
                    tb = x->b.turned ? CblasTrans : CblasNoTrans;
    int m = (int)x->m, n = (int)x->n, k = (int)x->k, lda = (int)x->a.ld, ldb = (int)x->b.ld;
    if (call->wide)
        blas.dgemm(CblasRowMajor, ta, tb, m, n, k, 1.0, (const double *)(const void *)a, lda,
                   (const double *)(const void *)b, ldb, x->bias ? 1.0 : 0.0, (double *)(void *)c,
                   n);
    else
        blas.sgemm(CblasRowMajor, ta, tb, m, n, k, 1.0f, (const float *)(const void *)a, lda,
                   (const float *)(const void *)b, ldb, x->bias ? 1.0f : 0.0f, (float *)(void *)c,
                   n);
}

static iv_status blas_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    const blas_call *call = prepared;
    const iv__matmul *x = &call->x;
    int64_t e = call->wide ? 8 : 4;
    const uint8_t *a = iv__cpu_ptr(io[0]), *b = iv__cpu_ptr(io[1]),
                  *bias = x->bias ? iv__cpu_ptr(io[2]) : NULL;
    uint8_t *c = iv__cpu_ptr(io[2 + x->bias]);
    if (blas.set_threads) blas.set_threads(call->threads);
    for (int64_t i = 0; bias && i < x->batch * x->m; ++i)
        memcpy(c + i * x->n * e, bias, (size_t)(x->n * e));
    for (int64_t z = 0; z < x->batch; ++z)
        multiply(call, a + z * x->a.bs * e, b + z * x->b.bs * e, c + z * x->m * x->n * e);
    return IV_OK;
}

static const iv_impl blas_impl = {
    .name = "blas.matmul",
    .op = "matmul",
    .invariant = false,
    .accepts = blas_accepts,
    .prepare = blas_prepare,
    .unprepare = free,
    .run = blas_run,
};
const iv_impl *const iv__cpu_blas_impls[] = {&blas_impl, NULL};
#else
const iv_impl *const iv__cpu_blas_impls[] = {NULL};
#endif
