/* edit.c: in front of the OpenCL loader, which does all that is not here.
 *
 *   STANDIN_CL_FROM     the first occurrence of this text in each program becomes
 *   STANDIN_CL_TO       this one, so that a test can see a wrong kernel found
 *   STANDIN_CL_STORES   a kernel does writes, fills and copies: where the host writes a part of
 *                       a buffer, Oclgrind 21.10 takes the rest for uninitialised
 *   STANDIN_CL_LOCAL    bytes of local memory that devices say they have
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

/* A function of the loader, which is linked and so loaded already. */
static void *loader(const char *name)
{
    void *lib = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    return lib ? dlsym(lib, name) : NULL;
}

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
    *(void **)&real = loader("clCreateProgramWithSource");
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

typedef cl_int info_fn(cl_device_id, cl_device_info, size_t, void *, size_t *);
PUBLIC cl_int clGetDeviceInfo(cl_device_id id, cl_device_info what, size_t size, void *value,
                              size_t *out_size)
{
    info_fn *real = NULL;
    *(void **)&real = loader("clGetDeviceInfo");
    const char *bytes = getenv("STANDIN_CL_LOCAL");
    const cl_int e = real(id, what, size, value, out_size);
    const cl_ulong local = bytes ? strtoull(bytes, NULL, 10) : 0;
    if (bytes && what == CL_DEVICE_LOCAL_MEM_SIZE && value && e == CL_SUCCESS)
        memcpy(value, &local, sizeof(local));
    return e;
}

/* ---- stores by a kernel ---- */

/* Pieces of 64 bytes. */
static const char stores[] =
    "__kernel void store(__global uchar *dst, ulong to, __global const uchar *src, ulong from,\n"
    "                    ulong bytes) {\n"
    "    ulong i = 64 * get_global_id(0), end = min(i + 64, bytes);\n"
    "    if (end == i + 64 && ((to | from) & 7) == 0)\n"
    "        vstore8(vload8(0, (__global const ulong *)(src + from + i)), 0,\n"
    "                (__global ulong *)(dst + to + i));\n"
    "    else for (; i < end; ++i) dst[to + i] = src[from + i];\n"
    "}\n";

enum { STAGE = 1 << 20, CONTEXTS = 64 };
typedef struct maker { /* what stores in a context; kept until the end */
    cl_context context;
    cl_kernel kernel;
    cl_mem stage;
} maker;

static maker *maker_of(cl_command_queue q)
{
    static maker all[CONTEXTS];
    const char *text = stores;
    create_fn *create = NULL;
    cl_context c;
    cl_int e;
    int i = 0;
    *(void **)&create = loader("clCreateProgramWithSource");
    if (clGetCommandQueueInfo(q, CL_QUEUE_CONTEXT, sizeof(c), &c, NULL)) return NULL;
    while (i < CONTEXTS && all[i].context && all[i].context != c) ++i;
    if (i == CONTEXTS || all[i].context) return i < CONTEXTS ? &all[i] : NULL;
    cl_program p = create(c, 1, &text, NULL, &e);
    if (!p || clBuildProgram(p, 0, NULL, "", NULL, NULL) != CL_SUCCESS) return NULL;
    all[i].kernel = clCreateKernel(p, "store", &e);
    all[i].stage = clCreateBuffer(c, CL_MEM_READ_WRITE, STAGE, NULL, &e);
    all[i].context = c;
    return &all[i];
}

static cl_int store(cl_command_queue q, const maker *m, cl_mem dst, size_t to, cl_mem src,
                    size_t from, size_t bytes)
{
    const cl_ulong numbers[] = {to, from, bytes};
    const size_t items = (bytes + 63) / 64;
    clSetKernelArg(m->kernel, 0, sizeof(dst), &dst);
    clSetKernelArg(m->kernel, 1, sizeof(cl_ulong), &numbers[0]);
    clSetKernelArg(m->kernel, 2, sizeof(src), &src);
    clSetKernelArg(m->kernel, 3, sizeof(cl_ulong), &numbers[1]);
    clSetKernelArg(m->kernel, 4, sizeof(cl_ulong), &numbers[2]);
    const cl_int e = clEnqueueNDRangeKernel(q, m->kernel, 1, NULL, &items, NULL, 0, NULL, NULL);
    return e == CL_SUCCESS ? clFinish(q) : e;
}

typedef cl_int write_fn(cl_command_queue, cl_mem, cl_bool, size_t, size_t, const void *, cl_uint,
                        const cl_event *, cl_event *);
PUBLIC cl_int clEnqueueWriteBuffer(cl_command_queue q, cl_mem dst, cl_bool wait, size_t to,
                                   size_t bytes, const void *src, cl_uint n, const cl_event *list,
                                   cl_event *out)
{
    write_fn *real = NULL;
    cl_int e = CL_SUCCESS;
    *(void **)&real = loader("clEnqueueWriteBuffer");
    if (!getenv("STANDIN_CL_STORES")) return real(q, dst, wait, to, bytes, src, n, list, out);
    const maker *m = maker_of(q);
    if (!m) return CL_OUT_OF_HOST_MEMORY;
    for (size_t at = 0, part; at < bytes && e == CL_SUCCESS; at += part) {
        part = bytes - at < STAGE ? bytes - at : STAGE;
        e = real(q, m->stage, CL_TRUE, 0, part, (const char *)src + at, 0, NULL, NULL);
        if (e == CL_SUCCESS) e = store(q, m, dst, to + at, m->stage, 0, part);
    }
    return e;
}

typedef cl_int fill_fn(cl_command_queue, cl_mem, const void *, size_t, size_t, size_t, cl_uint,
                       const cl_event *, cl_event *);
PUBLIC cl_int clEnqueueFillBuffer(cl_command_queue q, cl_mem dst, const void *pattern, size_t size,
                                  size_t to, size_t bytes, cl_uint n, const cl_event *list,
                                  cl_event *out)
{
    fill_fn *real = NULL;
    *(void **)&real = loader("clEnqueueFillBuffer");
    if (!getenv("STANDIN_CL_STORES")) return real(q, dst, pattern, size, to, bytes, n, list, out);
    char *all = malloc(bytes);
    if (!all) return CL_OUT_OF_HOST_MEMORY;
    for (size_t i = 0; i < bytes; i += size) memcpy(all + i, pattern, size);
    const cl_int e = clEnqueueWriteBuffer(q, dst, CL_TRUE, to, bytes, all, n, list, out);
    free(all);
    return e;
}

typedef cl_int copy_fn(cl_command_queue, cl_mem, cl_mem, size_t, size_t, size_t, cl_uint,
                       const cl_event *, cl_event *);
PUBLIC cl_int clEnqueueCopyBuffer(cl_command_queue q, cl_mem src, cl_mem dst, size_t from,
                                  size_t to, size_t bytes, cl_uint n, const cl_event *list,
                                  cl_event *out)
{
    copy_fn *real = NULL;
    *(void **)&real = loader("clEnqueueCopyBuffer");
    if (!getenv("STANDIN_CL_STORES")) return real(q, src, dst, from, to, bytes, n, list, out);
    const maker *m = maker_of(q);
    return m ? store(q, m, dst, to, src, from, bytes) : CL_OUT_OF_HOST_MEMORY;
}

typedef cl_int release_fn(cl_mem);
PUBLIC cl_int clReleaseMemObject(cl_mem m)
{
    release_fn *real = NULL;
    *(void **)&real = loader("clReleaseMemObject");
    return getenv("STANDIN_CL_STORES") ? CL_SUCCESS : real(m);
}
