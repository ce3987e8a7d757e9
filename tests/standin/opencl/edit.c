/* edit.c: the OpenCL loader, except that a piece of the kernels' texts is replaced before they are
 * compiled: a wrong kernel, for tests of what finds wrong kernels.
 *
 *   STANDIN_CL_FROM   text to replace, where it occurs first       STANDIN_CL_TO   by this text
 *
 * The backend looks its functions up in this library; those that are not here come from the loader
 * that it stands before. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

typedef cl_program create_fn(cl_context, cl_uint, const char **, const size_t *, cl_int *);

/* All parts in one text with the replacement; NULL without memory. */
static char *edited(cl_uint n, const char **texts, const size_t *sizes)
{
    const char *from = getenv("STANDIN_CL_FROM"), *to = getenv("STANDIN_CL_TO");
    size_t size = 1 + (to ? strlen(to) : 0), at = 0;
    for (cl_uint i = 0; i < n; ++i) size += sizes[i];
    char *all = calloc(1, size);
    if (!all) return NULL;
    for (cl_uint i = 0; i < n; ++i) {
        memcpy(all + at, texts[i], sizes[i]);
        at += sizes[i];
    }
    char *found = from && to ? strstr(all, from) : NULL;
    if (!found) return all;
    memmove(found + strlen(to), found + strlen(from), strlen(found + strlen(from)) + 1);
    memcpy(found, to, strlen(to));
    return all;
}

PUBLIC cl_program clCreateProgramWithSource(cl_context c, cl_uint n, const char **texts,
                                            const size_t *sizes, cl_int *error)
{
    create_fn *real = NULL;
    void *loader = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL); /* it is loaded already */
    if (loader) *(void **)&real = dlsym(loader, "clCreateProgramWithSource");
    char *all = edited(n, texts, sizes);
    if (!real || !all) {
        *error = CL_OUT_OF_HOST_MEMORY;
        free(all);
        return NULL;
    }
    const char *text = all;
    const size_t size = strlen(all);
    cl_program p = real(c, 1, &text, &size, error);
    free(all);
    return p;
}
