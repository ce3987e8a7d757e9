/* program.c: kernels out of texts (see opencl.h).
 *
 * A program is portable.h, the other headers, the type letters of an instance and one kernel file,
 * so it serves all kernels of the file.  It is compiled once per device, and kept on disk under a
 * hash of the texts, the options and the names and versions of platform, driver and device. */
#include "opencl.h"

#include "texts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

bool iv__cl_add_file(cl_source *s, const char *name)
{
    for (const iv__kernel_text *t = iv__kernel_texts; t->name; ++t) {
        if (strcmp(t->name, name) != 0) continue;
        s->text[s->n] = (const char *)t->bytes;
        s->size[s->n++] = t->size;
        return true;
    }
    return false;
}

void iv__cl_add_text(cl_source *s, const char *text)
{
    s->text[s->n] = text;
    s->size[s->n++] = strlen(text);
}

static void options_of(const cl_dev *d, char *out, size_t size)
{
    snprintf(out, size, "-w -cl-std=CL1.2%s%s%s",
             d->exact_option ? " -cl-fp32-correctly-rounded-divide-sqrt" : "",
             d->f64 ? " -DIV_HAS_F64" : "", d->cpu ? " -DIV_CPU_DEVICE" : "");
}

static bool key_of(const cl_dev *d, const cl_source *s, const char *options, uint64_t out[2])
{
    XXH3_state_t *h = XXH3_createState();
    const char *const names[] = {options, d->platform, d->name, d->vendor, d->driver, d->version};
    if (!h) return false;
    XXH3_128bits_reset(h);
    for (cl_uint i = 0; i < s->n; ++i) XXH3_128bits_update(h, s->text[i], s->size[i]);
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); ++i)
        XXH3_128bits_update(h, names[i], strlen(names[i]) + 1);
    const XXH128_hash_t sum = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    out[0] = sum.high64;
    out[1] = sum.low64;
    return true;
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

static iv_status compile(cl_dev *d, const cl_source *s, const char *options, const char *what,
                         cl_program *out)
{
    char log[1400];
    cl_int e;
    cl_program p =
        iv__cl.CreateProgramWithSource(d->context, s->n, (const char **)s->text, s->size, &e);
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
    iv__cl_cache_load(d, key, &bytes, &size);
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
    if (!*d->cache ||
        iv__cl.GetProgramInfo(p, CL_PROGRAM_BINARY_SIZES, sizeof(size), &size, NULL) !=
            CL_SUCCESS ||
        size == 0)
        return;
    unsigned char *bytes = malloc(size);
    if (bytes &&
        iv__cl.GetProgramInfo(p, CL_PROGRAM_BINARIES, sizeof(bytes), &bytes, NULL) == CL_SUCCESS)
        iv__cl_cache_store(d, key, bytes, size);
    free(bytes);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The compiled program; owned by the device. */
static iv_status code_get(cl_dev *d, const cl_source *s, const char *what, cl_program *out)
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

iv_status iv__cl_kernel_make(cl_dev *d, const cl_source *s, const char *function, const char *what,
                             cl_kern **out)
{
    cl_program program = NULL;
    cl_int e;
    const iv_status status = code_get(d, s, what, &program);
    if (status != IV_OK) return status;
    cl_kern *k = calloc(1, sizeof(*k));
    if (!k) return iv__cl_host->fail(IV_NO_MEMORY, "building kernel %s", what);
    snprintf(k->name, sizeof(k->name), "%s", what);
    k->kernel = iv__cl.CreateKernel(program, function, &e);
    if (!k->kernel) {
        free(k);
        return iv__cl_fail(e, "building kernel %s for %s (%s)", what, d->label, d->name);
    }
    *out = k;
    return IV_OK;
}

/* ---- kernels of files and element programs ---- */

static bool is_signature(const char *sig)
{
    return strlen(sig) == 2 && strspn(sig, "fdbh") == 2;
}

static iv_status build_file(cl_dev *d, const iv_kernel_src *src, cl_kern **out)
{
    cl_source s = {.n = 0};
    char file[64], letters[224], what[64];
    snprintf(what, sizeof(what), "%s_%s", src->name, src->sig);
    snprintf(file, sizeof(file), "%s.k", src->file);
    const bool f64 = strchr(src->sig, 'd') != NULL;
    if (!is_signature(src->sig))
        return iv__cl_host->fail(IV_UNSUPPORTED,
                                 "building kernel %s: types '%s' are not two of f, d, b, h",
                                 src->name, src->sig);
    if (f64 && !d->f64)
        return iv__cl_host->fail(IV_UNSUPPORTED,
                                 "building kernel %s: %s (%s) has no f64 arithmetic", what,
                                 d->label, d->name);
    snprintf(letters, sizeof(letters),
             "#define T0 %c\n#define T1 %c\n#define A %c\ntypedef char "
             "iv_same_layout[sizeof(iv_params) == %zu ? 1 : -1];\n#line 1 \"%s\"\n",
             src->sig[0], src->sig[1], f64 ? 'd' : 'f', sizeof(cl_params), file);
    static const char *const headers[] = {"portable.h", "math.h", "philox.h", "fold.h", "tile.h"};
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); ++i) iv__cl_add_file(&s, headers[i]);
    iv__cl_add_text(&s, letters);
    if (!iv__cl_add_file(&s, file))
        return iv__cl_host->fail(
            IV_UNSUPPORTED, "building kernel %s: there is no kernel file %s (kernels/kernels.def)",
            what, file);
    return iv__cl_kernel_make(d, &s, src->name, what, out);
}

static iv_status build_program(cl_dev *d, const iv_program *p, cl_kern **out)
{
    cl_source s = {.n = 0};
    bool f64 = p->compute == IV_F64 || p->out_type == IV_F64;
    for (int32_t i = 0; i < p->n_in; ++i) f64 |= p->in_type[i] == IV_F64;
    if (f64 && !d->f64)
        return iv__cl_host->fail(IV_UNSUPPORTED,
                                 "building an element program: %s (%s) has no f64 arithmetic",
                                 d->label, d->name);
    char *text = iv__cl_elem_text(d, p);
    if (!text) return iv__cl_host->fail(IV_NO_MEMORY, "building an element program");
    static const char *const headers[] = {"portable.h", "math.h", "philox.h"};
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); ++i) iv__cl_add_file(&s, headers[i]);
    iv__cl_add_text(&s, p->compute == IV_F64 ? "#define A d\n" : "#define A f\n");
    iv__cl_add_file(&s, "elem.h");
    iv__cl_add_text(&s, text);
    const iv_status status = iv__cl_kernel_make(d, &s, "elements", "elements", out);
    free(text);
    if (status != IV_OK) return status;
    (*out)->program = true;
    iv__cl_elem_params(p, &(*out)->elem);
    return IV_OK;
}

iv_status iv__cl_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel)
{
    cl_kern *k;
    const iv_status s =
        src->program ? build_program(dev, src->program, &k) : build_file(dev, src, &k);
    if (s == IV_OK) *out_kernel = k;
    return s;
}

void iv__cl_kernel_free(void *dev, void *kernel)
{
    (void)dev;
    cl_kern *k = kernel;
    if (!k) return;
    iv__cl.ReleaseKernel(k->kernel);
    free(k);
}
