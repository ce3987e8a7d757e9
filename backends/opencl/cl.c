/* cl.c: the OpenCL library, opened at run time, and the names of its errors (see opencl.h).
 *
 * Nothing is linked: the ICD loader is INVAR_OPENCL_LIB, else libOpenCL.so.1.  It stays open, since
 * the threads of its platforms outlive us. */
#include "opencl.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

cl_table iv__cl;
const iv_host *iv__cl_host;
static bool open_already;

iv_status iv__cl_open(void)
{
    const iv_host *h = iv__cl_host;
    const char *named = h->env("INVAR_OPENCL_LIB"), *path = named ? named : "libOpenCL.so.1";
    if (open_already) return IV_OK;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return h->fail(IV_UNAVAILABLE,
                       "opening the OpenCL loader: %s [hint: install ocl-icd-libopencl1 and a "
                       "driver such as pocl-opencl-icd, or set INVAR_OPENCL_LIB]",
                       dlerror());
    cl_table t;
#define S(name)                                                                                    \
    *(void **)&t.name = dlsym(lib, "cl" #name);                                                    \
    if (!t.name)                                                                                   \
        return h->fail(IV_UNAVAILABLE,                                                             \
                       "opening the OpenCL loader %s: it has no function cl" #name                 \
                       " [hint: OpenCL 1.2 is needed]",                                            \
                       path);
#include "cl.def"
#undef S
    iv__cl = t;
    open_already = true;
    return IV_OK;
}

static const struct {
    cl_int error;
    iv_status status;
    const char *name;
} errors[] = {
#define R(error, status) {error, IV_##status, #error},
#include "cl.def"
#undef R
};
enum { ERRORS = sizeof(errors) / sizeof(errors[0]) };

const char *iv__cl_name(cl_int error)
{
    for (int i = 0; i < ERRORS; ++i)
        if (errors[i].error == error) return errors[i].name;
    return "unknown OpenCL error";
}

iv_status iv__cl_fail(cl_int error, const char *fmt, ...)
{
    char what[768];
    iv_status status = IV_VENDOR;
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    for (int i = 0; i < ERRORS; ++i)
        if (errors[i].error == error) status = errors[i].status;
    return iv__cl_host->fail(status, "%s: %s = %d", what, iv__cl_name(error), (int)error);
}
