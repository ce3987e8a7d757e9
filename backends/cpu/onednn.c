/* onednn.c: `matmul` of f32 and bf16 through oneDNN 3: fast mode only.
 *
 * The library is opened at run time: INVAR_ONEDNN_LIB, else the one found at build
 * (INVAR_ONEDNN_PATH), else libdnnl.so.3; its version is looked at before anything else of it.  It
 * is called from the thread that runs the plan and brings OpenMP threads, the same as the team's
 * where that is OpenMP's.
 *
 * Accepted are types and instruction levels, whatever the sizes, so that the products of the
 * backward pass are taken wherever that of the forward pass is: f32 always; bf16, to bf16 or f32,
 * on processors that multiply bf16 (AVX512-BF16 or AMX).  (Operands with neither rows nor columns
 * contiguous are refused, since only oneDNN's slow reference code takes them; empty ones too.)
 *
 * Segments: one product over all of K; what blas.c says about it holds here.
 *
 * Not here: convolutions.  With our plain layouts oneDNN runs them as im2col and GEMM too; on a
 * small network in f32 (1, 8, 16 channels of 28 x 28) a training step takes longer than with
 * conv_impl.c.
 */
#include "cpu.h"
#include "../common/matmul.h"

#ifdef INVAR_ONEDNN
#include "vendor.h"

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>

/* Every function of the library that is called, without its prefix. */
/* clang-format off */
#define DNNL_SYMBOLS(X)                                                                            \
    X(version)                                                                                     \
    X(set_max_cpu_isa) X(engine_create) X(stream_create) X(stream_wait)                            \
        X(memory_desc_create_with_strides) X(memory_desc_destroy) X(memory_desc_get_size)          \
            X(primitive_attr_create) X(primitive_attr_set_scratchpad_mode)                         \
                X(primitive_attr_destroy) X(matmul_primitive_desc_create)                          \
                    X(primitive_desc_query_md) X(primitive_desc_destroy) X(primitive_create)       \
                        X(primitive_execute) X(primitive_destroy) X(memory_create)                 \
                            X(memory_set_data_handle) X(memory_destroy)
/* clang-format on */

static struct {
#define X(name) __typeof__(dnnl_##name) *name;
    DNNL_SYMBOLS(X)
#undef X
    int (*get_threads)(
        void); /* (optional) omp_get_max_threads, omp_set_num_threads of its OpenMP */
    void (*set_threads)(int n);
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool open;
} dnnl;
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* of dnnl, which does not change once open */

static iv_status vendor_fail(const iv_host *h, const char *what, dnnl_status_t s)
{
    return h->fail(s == dnnl_unimplemented   ? IV_UNSUPPORTED
                   : s == dnnl_out_of_memory ? IV_NO_MEMORY
                                             : IV_VENDOR,
                   "oneDNN, %s (dnnl_status_t = %d)", what, (int)s);
}

/* Calls a function of the library; its failure ends the caller. */
#define TRY(host, call)                                                                            \
    do {                                                                                           \
        dnnl_status_t status_ = dnnl.call;                                                         \
        if (status_ != dnnl_success) return vendor_fail(host, #call, status_);                     \
    } while (0)

static iv_status find_symbols(const iv_host *h, void *lib)
{
    *(void **)&dnnl.version = dlsym(lib, "dnnl_version");
    const dnnl_version_t *v = dnnl.version ? dnnl.version() : NULL;
    if (!v || v->major != DNNL_VERSION_MAJOR)
        return h->fail(IV_UNAVAILABLE,
                       "oneDNN is version %d.%d, need %d.x [hint: set INVAR_ONEDNN_LIB]",
                       v ? v->major : 0, v ? v->minor : 0, DNNL_VERSION_MAJOR);
#define X(name)                                                                                    \
    *(void **)&dnnl.name = dlsym(lib, "dnnl_" #name);                                              \
    if (!dnnl.name)                                                                                \
        return h->fail(IV_UNAVAILABLE, "oneDNN %d.%d has no symbol dnnl_" #name, v->major,         \
                       v->minor);
    DNNL_SYMBOLS(X)
#undef X
    /* The OpenMP that the library binds to: a global one if there is, else the one it brought. */
    *(void **)&dnnl.get_threads = dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    *(void **)&dnnl.set_threads = dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (!dnnl.get_threads) *(void **)&dnnl.get_threads = dlsym(lib, "omp_get_max_threads");
    if (!dnnl.set_threads) *(void **)&dnnl.set_threads = dlsym(lib, "omp_set_num_threads");
    return IV_OK;
}

static iv_status open_locked(const cpu_device *cpu)
{
    static const char *const names[] = {INVAR_ONEDNN_PATH, "libdnnl.so.3", NULL};
    const iv_host *h = cpu->host;
    void *lib = NULL;
    if (dnnl.open) return IV_OK;
    iv_status s = iv__vendor_open(h, "INVAR_ONEDNN_LIB", names, &lib);
    if (s != IV_OK) return s;
    s = find_symbols(h, lib);
    if (s != IV_OK) {
        dlclose(lib);
        return s;
    }
#if defined(__x86_64__)
    /* A forced level holds for the library as well, unless it has run already in this process. */
    static const dnnl_cpu_isa_t isas[IV__ISA_COUNT] = {[IV__ISA_V2] = dnnl_cpu_isa_sse41,
                                                       [IV__ISA_V3] = dnnl_cpu_isa_avx2,
                                                       [IV__ISA_V4] =
                                                           dnnl_cpu_isa_avx512_core_bf16};
    if (isas[cpu->level] && dnnl.set_max_cpu_isa(isas[cpu->level]) != dnnl_success)
        h->log(IV_LOG_WARN, "oneDNN ignores the instruction level %s", iv__isa_name(cpu->level));
#endif
    TRY(h, engine_create(&dnnl.engine, dnnl_cpu, 0));
    TRY(h, stream_create(&dnnl.stream, dnnl.engine, dnnl_stream_default_flags));
    dnnl.open = true;
    return IV_OK;
}

static iv_status onednn_open(const cpu_device *cpu)
{
    pthread_mutex_lock(&lock);
    iv_status s = open_locked(cpu);
    pthread_mutex_unlock(&lock);
    return s;
}

/* Sets the threads of the caller's parallel regions and returns what they were; 0: leave them. */
static int swap_threads(int n)
{
    if (n < 1 || !dnnl.get_threads || !dnnl.set_threads) return 0;
    int old = dnnl.get_threads();
    if (old != n) dnnl.set_threads(n);
    return old != n ? old : 0;
}

/* ---- matmul ---- */

enum { SRC, WEIGHTS, BIAS, DST, SCRATCH, SLOTS };
typedef struct onednn_call {
    const cpu_device *cpu;
    bool bias, scratch;
    dnnl_memory_desc_t md[SLOTS];
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[SLOTS]; /* in the order of io */
    int n_args;
} onednn_call;

static dnnl_data_type_t data_type(iv_dtype t)
{
    return t == IV_F32 ? dnnl_f32 : t == IV_BF16 ? dnnl_bf16 : dnnl_data_type_undef;
}

static iv_status onednn_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    const iv_host *h = cpu->host;
    iv_dtype in = d->in[0].dtype, out = d->out[0].dtype;
    iv__matmul x;
    if (d->in[1].dtype != in || !data_type(in) || !data_type(out) ||
        (in == IV_F32 && out != IV_F32) || (d->n_in == 3 && d->in[2].dtype != IV_F32))
        return h->fail(IV_UNSUPPORTED, "types %s x %s to %s", iv_dtype_name(in),
                       iv_dtype_name(d->in[1].dtype), iv_dtype_name(out));
    bool native = iv__isa_has_tiles(cpu->level) ||
                  (iv__isa_is_widest(cpu->level) && iv__isa_has_avx512_bf16());
    if (in == IV_BF16 && !native)
        return h->fail(IV_UNSUPPORTED,
                       "this processor, or the level asked for, does not multiply bf16");
    if (!iv__matmul_read(d, &x))
        return h->fail(IV_UNSUPPORTED, "no rows or columns that are contiguous");
    return onednn_open(cpu);
}

/* [batch, rows, cols] of an operand; without the batch if there is none. */
static iv_status describe(onednn_call *c, int slot, iv_dtype t, int64_t batch, int64_t rows,
                          int64_t cols, iv__matmul_operand o)
{
    dnnl_dims_t dims = {o.bs ? batch : 1, rows, cols},
                strides = {o.bs ? o.bs : rows * cols, o.turned ? 1 : o.ld, o.turned ? o.ld : 1};
    int skip = batch == 1;
    TRY(c->cpu->host, memory_desc_create_with_strides(&c->md[slot], 3 - skip, dims + skip,
                                                      data_type(t), strides + skip));
    return IV_OK;
}

static iv_status describe_all(onednn_call *c, const iv_op_desc *d)
{
    iv__matmul x;
    if (!iv__matmul_read(d, &x))
        return c->cpu->host->fail(IV_INTERNAL, "a product that was accepted cannot be read");
    iv_status s = describe(c, SRC, d->in[0].dtype, x.batch, x.m, x.k, x.a);
    if (s == IV_OK) s = describe(c, WEIGHTS, d->in[1].dtype, x.batch, x.k, x.n, x.b);
    if (s == IV_OK)
        s = describe(c, DST, d->out[0].dtype, x.batch, x.m, x.n,
                     (iv__matmul_operand){false, x.n, x.m * x.n});
    if (s == IV_OK && c->bias)
        s = describe(c, BIAS, IV_F32, x.batch, 1, x.n, (iv__matmul_operand){false, x.n, 0});
    return s;
}

static iv_status add_arg(onednn_call *c, int arg, const_dnnl_memory_desc_t md)
{
    c->args[c->n_args].arg = arg;
    TRY(c->cpu->host, memory_create(&c->args[c->n_args].memory, md, dnnl.engine, DNNL_MEMORY_NONE));
    ++c->n_args;
    return IV_OK;
}

/* The primitive, and memory objects that run sets the addresses of. */
static iv_status build(onednn_call *c, dnnl_primitive_desc_t pd, int64_t *out_scratch)
{
    static const int arg_of[SLOTS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST,
                                      DNNL_ARG_SCRATCHPAD};
    const_dnnl_memory_desc_t scratchpad =
        dnnl.primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    size_t bytes = scratchpad ? dnnl.memory_desc_get_size(scratchpad) : 0;
    iv_status s = IV_OK;
    TRY(c->cpu->host, primitive_create(&c->primitive, pd));
    for (int i = SRC; i <= DST && s == IV_OK; ++i)
        if (c->md[i]) s = add_arg(c, arg_of[i], c->md[i]);
    c->scratch = bytes > 0;
    if (s == IV_OK && c->scratch) s = add_arg(c, arg_of[SCRATCH], scratchpad);
    *out_scratch = (int64_t)bytes;
    return s;
}

static iv_status make(onednn_call *c, const iv_op_desc *d, int64_t *out_scratch)
{
    const iv_host *h = c->cpu->host;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    iv_status s = describe_all(c, d);
    if (s != IV_OK) return s;
    TRY(h, primitive_attr_create(&attr));
    dnnl_status_t status = dnnl.primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (status == dnnl_success)
        status = dnnl.matmul_primitive_desc_create(&pd, dnnl.engine, c->md[SRC], c->md[WEIGHTS],
                                                   c->md[BIAS], c->md[DST], attr);
    dnnl.primitive_attr_destroy(attr);
    if (status != dnnl_success) return vendor_fail(h, "matmul_primitive_desc_create", status);
    s = build(c, pd, out_scratch);
    dnnl.primitive_desc_destroy(pd);
    return s;
}

static void onednn_unprepare(void *prepared)
{
    onednn_call *c = prepared;
    if (!c) return;
    for (int i = 0; i < c->n_args; ++i) dnnl.memory_destroy(c->args[i].memory);
    if (c->primitive) dnnl.primitive_destroy(c->primitive);
    for (int i = 0; i < SLOTS; ++i)
        if (c->md[i]) dnnl.memory_desc_destroy(c->md[i]);
    free(c);
}

static iv_status onednn_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                                int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    onednn_call *c = calloc(1, sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a matrix product");
    c->cpu = cpu;
    c->bias = d->n_in == 3;
    int old = swap_threads(cpu->threads); /* the scratchpad's size depends on them */
    iv_status s = make(c, d, out_scratch);
    swap_threads(old);
    if (s != IV_OK) onednn_unprepare(c);
    else *out_prepared = c;
    return s;
}

static iv_status onednn_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    onednn_call *c = prepared;
    for (int i = 0; i < c->n_args; ++i)
        TRY(c->cpu->host, memory_set_data_handle(c->args[i].memory, iv__cpu_ptr(io[i])));
    int old = swap_threads(c->cpu->threads);
    dnnl_status_t s = dnnl.primitive_execute(c->primitive, dnnl.stream, c->n_args, c->args);
    if (s == dnnl_success) s = dnnl.stream_wait(dnnl.stream);
    swap_threads(old);
    return s == dnnl_success ? IV_OK : vendor_fail(c->cpu->host, "primitive_execute", s);
}

static const iv_impl onednn_impl = {
    .name = "onednn.matmul",
    .op = "matmul",
    .invariant = false,
    .accepts = onednn_accepts,
    .prepare = onednn_prepare,
    .unprepare = onednn_unprepare,
    .run = onednn_run,
};
const iv_impl *const iv__cpu_onednn_impls[] = {&onednn_impl, NULL};
#else
const iv_impl *const iv__cpu_onednn_impls[] = {NULL};
#endif
