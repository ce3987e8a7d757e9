/* program.c: kernels out of texts, through the compiler of the vendor (see gpu.h).
 *
 * A module serves all kernels of a text.  It is compiled once per device and kept on disk under a
 * hash of the text, the options and the names and versions of device, driver and compiler. */
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One text, NUL-terminated: these compilers take no pieces. */
static char *joined(const iv__source *s)
{
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < s->n; ++i) n += s->size[i];
    char *text = malloc(n + 1);
    for (uint32_t i = 0; text && i < s->n; at += s->size[i], ++i)
        memcpy(text + at, s->text[i], s->size[i]);
    if (text) text[n] = 0;
    return text;
}

/* The compiler's log in one line, as much as fits, from its first error on. */
static void read_log(const gpu_api *api, void *program, char *out, size_t size)
{
    size_t n = 0;
    *out = 0;
    if (api->rtc_log_size(program, &n) || n == 0) return;
    char *log = calloc(n + 1, 1);
    if (log && api->rtc_log(program, log) == 0) {
        const char *from = strstr(log, "error");
        while (from && from > log && from[-1] != '\n') --from;
        snprintf(out, size, "%s", from ? from : log);
        for (char *c = out; *c; ++c)
            if (*c == '\n') *c = c[1] ? '|' : 0;
    }
    free(log);
}

static void join_options(const gpu_options *o, char *out, size_t size)
{
    size_t n = 0;
    *out = 0;
    for (int i = 0; i < o->n && n < size; ++i)
        n += (size_t)snprintf(out + n, size - n, "%s%s", i ? " " : "", o->option[i]);
}

static iv_status compile(const gpu_device *d, const iv__source *s, const gpu_options *o,
                         char **out_code, size_t *out_size)
{
    const gpu_api *api = d->api;
    char options[512], log[1200] = "", *text = joined(s), *code = NULL;
    void *program = NULL;
    size_t size = 0;
    join_options(o, options, sizeof(options));
    if (!text) return api->host->fail(IV_NO_MEMORY, "building kernel %s", s->what);
    int e = api->rtc_open(&program, text, s->what);
    if (!e) {
        e = api->rtc_compile(program, o->n, o->option);
        if (e) read_log(api, program, log, sizeof(log));
    }
    if (!e) e = api->rtc_code_size(&d->desc, program, &size);
    if (!e) code = calloc(size + 1, 1); /* PTX must end with a NUL */
    if (code) e = api->rtc_code(&d->desc, program, code);
    if (program) api->rtc_close(program);
    free(text);
    if (e || !code) {
        free(code);
        return api->host->fail(
            e ? IV_VENDOR : IV_NO_MEMORY, "building kernel %s for %s (%s) with %s: %s = %d%s%s",
            s->what, d->label, d->desc.name, options, api->rtc_error(e), e, *log ? ": " : "", log);
    }
    *out_code = code;
    *out_size = size;
    return IV_OK;
}

/* The module of a text: out of the cache on disk, or compiled. */
static iv_status load(gpu_device *d, const iv__source *s, const gpu_options *o,
                      const uint64_t key[2], void **out_module)
{
    const gpu_api *api = d->api;
    void *bytes = NULL;
    char *code = NULL;
    size_t size = 0;
    iv__cache_load(&d->cache, key, &bytes, &size);
    if (bytes) { /* a cached text lacks the NUL that PTX needs behind it */
        char *whole = realloc(bytes, size + 1);
        int e = 1;
        if (whole) {
            whole[size] = 0;
            e = api->module_load(out_module, whole);
        }
        free(whole ? whole : bytes);
        if (!e) return IV_OK;
        api->host->log(IV_LOG_DEBUG, "%s does not take a module from the cache (%s): made again",
                       d->label, api->error_name(e));
    }
    const iv_status status = compile(d, s, o, &code, &size);
    if (status != IV_OK) return status;
    const int e = api->module_load(out_module, code);
    if (!e) iv__cache_store(&d->cache, key, code, size);
    free(code);
    return e ? iv__gpu_fail(d, e, "loading kernel %s", s->what) : IV_OK;
}

/* The module; owned by the device. */
static iv_status code_get(gpu_device *d, const iv__source *s, void **out_module)
{
    const gpu_api *api = d->api;
    gpu_options o = {.n = 0};
    char options[512];
    uint64_t key[2];
    api->rtc_options(&d->desc, &o);
    join_options(&o, options, sizeof(options));
    const char *const names[] = {options, d->desc.arch, d->desc.target, api->kind, api->driver};
    if (!iv__source_key(s, names, sizeof(names) / sizeof(*names), key))
        return api->host->fail(IV_NO_MEMORY, "building kernel %s", s->what);
    for (gpu_code *c = d->codes; c; c = c->next)
        if (c->key[0] == key[0] && c->key[1] == key[1]) {
            *out_module = c->module;
            return IV_OK;
        }
    gpu_code *c = calloc(1, sizeof(*c));
    if (!c) return api->host->fail(IV_NO_MEMORY, "building kernel %s", s->what);
    const iv_status status = load(d, s, &o, key, &c->module);
    if (status != IV_OK) {
        free(c);
        return status;
    }
    c->key[0] = key[0];
    c->key[1] = key[1];
    c->next = d->codes;
    d->codes = c;
    *out_module = c->module;
    return IV_OK;
}

static iv_status make(gpu_device *d, const iv__source *s, gpu_kernel *k)
{
    const gpu_api *api = d->api;
    void *module = NULL;
    int registers = 0, spilled = 0;
    int e = api->use(d->context);
    if (e) return iv__gpu_fail(d, e, "making its context current");
    const iv_status status = code_get(d, s, &module);
    if (status != IV_OK) return status;
    e = api->function_get(&k->function, module, s->function);
    if (e)
        return api->host->fail(
            IV_UNSUPPORTED, "building kernel %s for %s (%s): its text has no kernel %s (%s = %d)",
            s->what, d->label, d->desc.name, s->function, api->error_name(e), e);
    snprintf(k->name, sizeof(k->name), "%s", s->what);
    if (api->function_info && api->function_info(k->function, &registers, &spilled) == 0)
        api->host->log(IV_LOG_DEBUG, "%s: kernel %s has %d registers, %d bytes of local memory",
                       d->label, k->name, registers, spilled);
    return IV_OK;
}

iv_status iv__gpu_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel)
{
    gpu_device *d = dev;
    const iv__source_target t = {d->api->host, d->label, d->desc.name, true, false};
    iv__source s;
    gpu_kernel *k = calloc(1, sizeof(*k));
    if (!k) return d->api->host->fail(IV_NO_MEMORY, "building a kernel for %s", d->label);
    iv_status status = iv__source_make(&t, src, &s);
    if (status == IV_OK) status = make(d, &s, k);
    iv__source_free(&s);
    if (status != IV_OK) {
        free(k);
        return status;
    }
    k->program = src->program != NULL;
    if (k->program) iv__elem_params_fill(src->program, &k->elem);
    *out_kernel = k;
    return IV_OK;
}

void iv__gpu_kernel_free(void *dev, void *kernel)
{
    (void)dev;
    free(kernel); /* its code belongs to the device */
}

void iv__gpu_codes_free(gpu_device *d)
{
    for (gpu_code *c = d->codes, *next; c; c = next) {
        next = c->next;
        d->api->module_unload(c->module);
        free(c);
    }
    d->codes = NULL;
}
