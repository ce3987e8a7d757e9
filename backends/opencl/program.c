/* program.c: kernels out of texts (see opencl.h).
 *
 * A program serves all kernels of a file.  It is compiled once per device, and kept on disk under a
 * hash of the texts, the options and the names and versions of platform, driver and device. */
#include "opencl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void options_of(const cl_dev *d, char *out, size_t size)
{
    const int n = snprintf(out, size, "-w -cl-std=CL1.2%s%s",
                           d->exact_option ? " -cl-fp32-correctly-rounded-divide-sqrt" : "",
                           d->f64 ? " -DIV_HAS_F64" : "");
    if (d->cpu)
        snprintf(out + n, size - (size_t)n, " -DIV_CPU_DEVICE -DIV_VECTOR=%d -DIV_VECTOR64=%d",
                 d->vector, d->vector / 2);
    else if (d->local_bytes < CL_ROOMY) snprintf(out + n, size - (size_t)n, " -DIV_TILE_K64=16");
}

static bool key_of(const cl_dev *d, const iv__source *s, const char *options, uint64_t out[2])
{
    const char *const names[] = {options, d->platform, d->name, d->vendor, d->driver, d->version};
    return iv__source_key(s, names, sizeof(names) / sizeof(*names), out);
}

/* The compiler's log in one line, as much as fits. */
static void read_log(const cl_dev *d, cl_program p, char *out, size_t size)
{
    size_t n = 0;
    *out = 0;
    if (iv__cl.GetProgramBuildInfo(p, d->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &n) != CL_SUCCESS ||
        n == 0)
        return;
    char *log = calloc(n + 1, 1);
    if (log &&
        iv__cl.GetProgramBuildInfo(p, d->id, CL_PROGRAM_BUILD_LOG, n, log, NULL) == CL_SUCCESS) {
        const char *from = strstr(log, "error"); /* the warnings before it say little */
        while (from && from > log && from[-1] != '\n') --from;
        snprintf(out, size, "%s", from ? from : log);
        for (char *c = out; *c; ++c)
            if (*c == '\n') *c = c[1] ? '|' : 0;
    }
    free(log);
}

static iv_status compile(cl_dev *d, const iv__source *s, const char *options, const char *what,
                         cl_program *out)
{
    char log[1400];
    cl_int e;
    cl_program p = iv__cl.CreateProgramWithSource(d->context, s->n,
                                                  (const char **)(uintptr_t)s->text, s->size, &e);
    if (!p) return iv__cl_fail(e, "building kernel %s for %s", what, d->label);
    e = iv__cl.BuildProgram(p, 1, &d->id, options, NULL, NULL);
    if (e != CL_SUCCESS) {
        read_log(d, p, log, sizeof(log));
        iv__cl.ReleaseProgram(p);
        return iv__cl_host->fail(IV_VENDOR, "building kernel %s for %s (%s) with %s: %s = %d: %s",
                                 what, d->label, d->name, options, iv__cl_name(e), (int)e, log);
    }
    *out = p;
    return IV_OK;
}

/* The program out of the cache on disk, or NULL. */
static cl_program load(cl_dev *d, const uint64_t key[2], const char *options)
{
    void *bytes;
    size_t size;
    cl_int e = CL_SUCCESS, status = CL_SUCCESS;
    iv__cache_load(&d->cache, key, &bytes, &size);
    if (!bytes) return NULL;
    const unsigned char *binary = bytes;
    cl_program p =
        iv__cl.CreateProgramWithBinary(d->context, 1, &d->id, &size, &binary, &status, &e);
    if (p && status == CL_SUCCESS) e = iv__cl.BuildProgram(p, 1, &d->id, options, NULL, NULL);
    free(bytes);
    if (p && e == CL_SUCCESS && status == CL_SUCCESS) return p;
    if (p) iv__cl.ReleaseProgram(p);
    iv__cl_host->log(IV_LOG_DEBUG,
                     "%s does not take a compiled program from the cache (%s = %d): made again",
                     d->label, iv__cl_name(e), (int)e);
    return NULL;
}

static void store(const cl_dev *d, const uint64_t key[2], cl_program p)
{
    size_t size = 0;
    if (!*d->cache.folder ||
        iv__cl.GetProgramInfo(p, CL_PROGRAM_BINARY_SIZES, sizeof(size), &size, NULL) !=
            CL_SUCCESS ||
        size == 0)
        return;
    unsigned char *bytes = malloc(size);
    if (bytes &&
        iv__cl.GetProgramInfo(p, CL_PROGRAM_BINARIES, sizeof(bytes), &bytes, NULL) == CL_SUCCESS)
        iv__cache_store(&d->cache, key, bytes, size);
    free(bytes);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The compiled program; owned by the device. */
static iv_status code_get(cl_dev *d, const iv__source *s, const char *what, cl_program *out)
{
    char options[160];
    uint64_t key[2];
    options_of(d, options, sizeof(options));
    if (!key_of(d, s, options, key))
        return iv__cl_host->fail(IV_NO_MEMORY, "building kernel %s", what);
    for (cl_code *c = d->codes; c; c = c->next)
        if (c->key[0] == key[0] && c->key[1] == key[1]) {
            *out = c->program;
            return IV_OK;
        }
    cl_code *c = calloc(1, sizeof(*c));
    if (!c) return iv__cl_host->fail(IV_NO_MEMORY, "building kernel %s", what);
    *c = (cl_code){.key = {key[0], key[1]}, .program = load(d, key, options)};
    if (!c->program) {
        const double begin = seconds();
        const iv_status status = compile(d, s, options, what, &c->program);
        if (status != IV_OK) {
            free(c);
            return status;
        }
        const double built = seconds();
        store(d, key, c->program);
        iv__cl_host->log(IV_LOG_DEBUG, "%s: compiled %s in %.2f s, stored it in %.2f s", d->label,
                         what, built - begin, seconds() - built);
    }
    c->next = d->codes;
    d->codes = c;
    *out = c->program;
    return IV_OK;
}

/* Whether a group of the compiled kernel fits: what it takes of local memory and registers, its
 * compiler alone knows. */
static iv_status check_group(const cl_dev *d, const cl_kern *k)
{
    cl_ulong local = 0;
    size_t items = CL_LANES;
    cl_int e = iv__cl.GetKernelWorkGroupInfo(k->kernel, d->id, CL_KERNEL_LOCAL_MEM_SIZE,
                                             sizeof(local), &local, NULL);
    if (e == CL_SUCCESS)
        e = iv__cl.GetKernelWorkGroupInfo(k->kernel, d->id, CL_KERNEL_WORK_GROUP_SIZE,
                                          sizeof(items), &items, NULL);
    if (e != CL_SUCCESS)
        return iv__cl_fail(e, "building kernel %s for %s (%s): asking what it needs", k->name,
                           d->label, d->name);
    if (local <= d->local_bytes && (d->cpu || items >= CL_LANES)) return IV_OK;
    return iv__cl_host->fail(IV_UNSUPPORTED,
                             "building kernel %s for %s (%s): its groups need %llu bytes of local "
                             "memory and %d work-items, the device gives them %llu and %llu "
                             "[hint: another --precision or device]",
                             k->name, d->label, d->name, (unsigned long long)local,
                             d->cpu ? 1 : CL_LANES, (unsigned long long)d->local_bytes,
                             (unsigned long long)items);
}

static iv_status make(cl_dev *d, const iv__source *s, cl_kern **out)
{
    cl_program program = NULL;
    cl_int e;
    iv_status status = code_get(d, s, s->what, &program);
    if (status != IV_OK) return status;
    cl_kern *k = calloc(1, sizeof(*k));
    if (!k) return iv__cl_host->fail(IV_NO_MEMORY, "building kernel %s", s->what);
    snprintf(k->name, sizeof(k->name), "%s", s->what);
    k->kernel = iv__cl.CreateKernel(program, s->function, &e);
    if (!k->kernel) {
        free(k);
        return iv__cl_fail(e, "building kernel %s for %s (%s)", s->what, d->label, d->name);
    }
    status = check_group(d, k);
    if (status == IV_OK) *out = k;
    else iv__cl_kernel_free(d, k);
    return status;
}

iv_status iv__cl_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel)
{
    cl_dev *d = dev;
    const iv__source_target t = {iv__cl_host, d->label, d->name, d->f64, d->cpu};
    iv__source s;
    cl_kern *k = NULL;
    iv_status status = iv__source_make(&t, src, &s);
    if (status == IV_OK) status = make(d, &s, &k);
    iv__source_free(&s);
    if (status != IV_OK) return status;
    k->program = src->program != NULL;
    if (k->program) iv__elem_params_fill(src->program, &k->elem);
    *out_kernel = k;
    return IV_OK;
}

void iv__cl_kernel_free(void *dev, void *kernel)
{
    (void)dev;
    cl_kern *k = kernel;
    if (!k) return;
    iv__cl.ReleaseKernel(k->kernel);
    free(k);
}
