/* opencl.c: a stand-in for the OpenCL loader with one platform and one device (see opencl.h).
 *
 * Buffers are host memory, copies happen at once and in order, programs always build and kernels do
 * nothing, except that `grad_norm` says that all gradients are finite, so that a training goes on.
 * What it is for: any call can be made to fail, and every handle is checked and counted, so that a
 * test can walk through all failures of a training in seconds, without a driver. */
#include "opencl.h"

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <stdlib.h>
#include <string.h>

#define PUBLIC __attribute__((visibility("default")))

static standin_opencl state = {
    .names =
        {
#define S(name) #name,
#include "backends/opencl/cl.def"
#undef S
        },
    .error = CL_OUT_OF_RESOURCES,
};

PUBLIC standin_opencl *standin_opencl_state(void);
PUBLIC standin_opencl *standin_opencl_state(void)
{
    return &state;
}

enum { CONTEXT, QUEUE, BUFFER, EVENT, PROGRAM, KERNEL };
typedef struct handle {
    int kind, uses;
    size_t bytes;   /* BUFFER */
    char *memory;   /* BUFFER */
    char name[64];  /* KERNEL */
    bool f64;       /* PROGRAM, KERNEL: what it computes in */
    cl_mem args[8]; /* KERNEL */
    int64_t offset[8];
} handle;

/* Whether this call is to fail. */
static bool fails(int call)
{
    ++state.calls[call];
    if (state.fail_at[call] == 0) return false;
    if (state.calls[call] == state.fail_at[call]) return true;
    return state.lost && state.calls[call] > state.fail_at[call];
}

/* After the device was lost, whatever is asked of it fails. */
static bool lost_already(void)
{
    if (!state.lost) return false;
    for (int i = 0; i < CL_CALLS; ++i)
        if (state.fail_at[i] > 0 && state.calls[i] >= state.fail_at[i]) return true;
    return false;
}

#define MAY_FAIL(name)                                                                             \
    do {                                                                                           \
        const bool gone = lost_already();                                                          \
        if (fails(CL_##name) || gone) return state.error;                                          \
    } while (0)
#define MAY_FAIL_TO_MAKE(name)                                                                     \
    do {                                                                                           \
        const bool gone = lost_already(), failed = fails(CL_##name) || gone;                       \
        *error = failed ? state.error : CL_SUCCESS;                                                \
        if (failed) return NULL;                                                                   \
    } while (0)

static void *make(int kind)
{
    handle *h = calloc(1, sizeof(*h));
    if (!h) abort();
    h->kind = kind;
    h->uses = 1;
    ++state.alive[kind];
    return h;
}

static handle *use(void *p, int kind)
{
    handle *h = p;
    if (!h || h->kind != kind || h->uses < 1) ++state.misused;
    return h;
}

static cl_int release(void *p, int kind)
{
    handle *h = use(p, kind);
    if (--h->uses > 0) return CL_SUCCESS;
    --state.alive[kind];
    free(h->memory);
    free(h);
    return CL_SUCCESS;
}

static cl_int give(const void *value, size_t bytes, size_t size, void *out, size_t *out_size)
{
    if (out_size) *out_size = bytes;
    if (!out) return CL_SUCCESS;
    if (size < bytes) return CL_INVALID_VALUE;
    memcpy(out, value, bytes);
    return CL_SUCCESS;
}

/* ---- platform and device ---- */

static int platform, device; /* their addresses are the handles */

PUBLIC cl_int clGetPlatformIDs(cl_uint n, cl_platform_id *out, cl_uint *out_n)
{
    MAY_FAIL(GetPlatformIDs);
    if (state.no_platform) return -1001; /* what the ICD loader says */
    if (n && out) *out = (cl_platform_id)(void *)&platform;
    if (out_n) *out_n = 1;
    return CL_SUCCESS;
}

PUBLIC cl_int clGetPlatformInfo(cl_platform_id p, cl_platform_info what, size_t size, void *out,
                                size_t *out_size)
{
    (void)p, (void)what;
    MAY_FAIL(GetPlatformInfo);
    return give("Stand-in", 9, size, out, out_size);
}

PUBLIC cl_int clGetDeviceIDs(cl_platform_id p, cl_device_type type, cl_uint n, cl_device_id *out,
                             cl_uint *out_n)
{
    (void)p, (void)type;
    MAY_FAIL(GetDeviceIDs);
    if (state.no_device) return CL_DEVICE_NOT_FOUND;
    if (n && out) *out = (cl_device_id)(void *)&device;
    if (out_n) *out_n = 1;
    return CL_SUCCESS;
}

static const struct {
    cl_device_info what;
    size_t bytes;
    uint64_t value;
} numbers[] = {
    {CL_DEVICE_AVAILABLE, 4, 1},
    {CL_DEVICE_COMPILER_AVAILABLE, 4, 1},
    {CL_DEVICE_ENDIAN_LITTLE, 4, 1},
    {CL_DEVICE_TYPE, 8, CL_DEVICE_TYPE_GPU},
    {CL_DEVICE_SINGLE_FP_CONFIG, 8, CL_FP_FMA | CL_FP_DENORM | CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT},
    {CL_DEVICE_GLOBAL_MEM_SIZE, 8, 1u << 30},
    {CL_DEVICE_MAX_MEM_ALLOC_SIZE, 8, 1u << 28},
    {CL_DEVICE_MAX_COMPUTE_UNITS, 4, 4},
    {CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(size_t), 256},
    {CL_DEVICE_LOCAL_MEM_SIZE, 8, 65536},
    {CL_DEVICE_MAX_PARAMETER_SIZE, sizeof(size_t), 4096},
    {CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, 4, 1},
};

PUBLIC cl_int clGetDeviceInfo(cl_device_id d, cl_device_info what, size_t size, void *out,
                              size_t *out_size)
{
    (void)d;
    MAY_FAIL(GetDeviceInfo);
    const uint64_t f64 = state.no_f64 ? 0 : CL_FP_FMA;
    void *const p = &platform;
    if (what == CL_DEVICE_DOUBLE_FP_CONFIG) return give(&f64, sizeof(f64), size, out, out_size);
    if (what == CL_DEVICE_PLATFORM) return give(&p, sizeof(p), size, out, out_size);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); ++i)
        if (numbers[i].what == what)
            return give(&numbers[i].value, numbers[i].bytes, size, out, out_size);
    return give("stand-in", 9, size, out, out_size); /* names, versions, extensions */
}

PUBLIC cl_context clCreateContext(const cl_context_properties *properties, cl_uint n,
                                  const cl_device_id *devices,
                                  void(CL_CALLBACK *notify)(const char *, const void *, size_t,
                                                            void *),
                                  void *user, cl_int *error)
{
    (void)properties, (void)n, (void)devices, (void)notify, (void)user;
    MAY_FAIL_TO_MAKE(CreateContext);
    return make(CONTEXT);
}

PUBLIC cl_int clReleaseContext(cl_context c)
{
    ++state.calls[CL_ReleaseContext];
    return release(c, CONTEXT);
}

/* ---- queues ---- */

PUBLIC cl_command_queue clCreateCommandQueue(cl_context c, cl_device_id d,
                                             cl_command_queue_properties p, cl_int *error)
{
    (void)d, (void)p;
    use(c, CONTEXT);
    MAY_FAIL_TO_MAKE(CreateCommandQueue);
    return make(QUEUE);
}

PUBLIC cl_int clReleaseCommandQueue(cl_command_queue q)
{
    ++state.calls[CL_ReleaseCommandQueue];
    return release(q, QUEUE);
}

PUBLIC cl_int clFlush(cl_command_queue q)
{
    use(q, QUEUE);
    MAY_FAIL(Flush);
    return CL_SUCCESS;
}

PUBLIC cl_int clFinish(cl_command_queue q)
{
    use(q, QUEUE);
    MAY_FAIL(Finish);
    return CL_SUCCESS;
}

static void give_event(cl_event *out)
{
    if (out) *out = make(EVENT);
}

PUBLIC cl_int clEnqueueMarkerWithWaitList(cl_command_queue q, cl_uint n, const cl_event *wait,
                                          cl_event *event)
{
    (void)n, (void)wait;
    use(q, QUEUE);
    MAY_FAIL(EnqueueMarkerWithWaitList);
    give_event(event);
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueBarrierWithWaitList(cl_command_queue q, cl_uint n, const cl_event *wait,
                                           cl_event *event)
{
    use(q, QUEUE);
    for (cl_uint i = 0; i < n; ++i) use(wait[i], EVENT);
    MAY_FAIL(EnqueueBarrierWithWaitList);
    give_event(event);
    return CL_SUCCESS;
}

PUBLIC cl_int clWaitForEvents(cl_uint n, const cl_event *events)
{
    for (cl_uint i = 0; i < n; ++i) use(events[i], EVENT);
    MAY_FAIL(WaitForEvents);
    return CL_SUCCESS;
}

PUBLIC cl_int clReleaseEvent(cl_event e)
{
    ++state.calls[CL_ReleaseEvent];
    return release(e, EVENT);
}

/* ---- buffers ---- */

PUBLIC cl_mem clCreateBuffer(cl_context c, cl_mem_flags flags, size_t size, void *host,
                             cl_int *error)
{
    (void)flags, (void)host;
    use(c, CONTEXT);
    MAY_FAIL_TO_MAKE(CreateBuffer);
    handle *h = make(BUFFER);
    h->bytes = size;
    h->memory = malloc(size);
    if (!h->memory) abort();
    memset(h->memory, 0x7f, size); /* no memory of a device is zero by itself */
    return (cl_mem)(void *)h;
}

PUBLIC cl_int clReleaseMemObject(cl_mem m)
{
    ++state.calls[CL_ReleaseMemObject];
    return release(m, BUFFER);
}

static char *part(cl_mem m, size_t offset, size_t size)
{
    handle *h = use(m, BUFFER);
    if (offset > h->bytes || size > h->bytes - offset) abort();
    return h->memory + offset;
}

PUBLIC void *clEnqueueMapBuffer(cl_command_queue q, cl_mem m, cl_bool blocking, cl_map_flags flags,
                                size_t offset, size_t size, cl_uint n, const cl_event *wait,
                                cl_event *event, cl_int *error)
{
    (void)blocking, (void)flags, (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    MAY_FAIL_TO_MAKE(EnqueueMapBuffer);
    return part(m, offset, size);
}

PUBLIC cl_int clEnqueueUnmapMemObject(cl_command_queue q, cl_mem m, void *p, cl_uint n,
                                      const cl_event *wait, cl_event *event)
{
    (void)p, (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    use(m, BUFFER);
    MAY_FAIL(EnqueueUnmapMemObject);
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueWriteBuffer(cl_command_queue q, cl_mem m, cl_bool blocking, size_t offset,
                                   size_t size, const void *from, cl_uint n, const cl_event *wait,
                                   cl_event *event)
{
    (void)blocking, (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    MAY_FAIL(EnqueueWriteBuffer);
    memcpy(part(m, offset, size), from, size);
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueReadBuffer(cl_command_queue q, cl_mem m, cl_bool blocking, size_t offset,
                                  size_t size, void *to, cl_uint n, const cl_event *wait,
                                  cl_event *event)
{
    (void)blocking, (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    MAY_FAIL(EnqueueReadBuffer);
    memcpy(to, part(m, offset, size), size);
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueCopyBuffer(cl_command_queue q, cl_mem from, cl_mem to, size_t from_offset,
                                  size_t to_offset, size_t size, cl_uint n, const cl_event *wait,
                                  cl_event *event)
{
    (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    MAY_FAIL(EnqueueCopyBuffer);
    memmove(part(to, to_offset, size), part(from, from_offset, size), size);
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueFillBuffer(cl_command_queue q, cl_mem m, const void *pattern,
                                  size_t pattern_size, size_t offset, size_t size, cl_uint n,
                                  const cl_event *wait, cl_event *event)
{
    (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    MAY_FAIL(EnqueueFillBuffer);
    char *p = part(m, offset, size);
    for (size_t i = 0; i < size; ++i) p[i] = ((const char *)pattern)[i % pattern_size];
    return CL_SUCCESS;
}

/* ---- programs and kernels ---- */

PUBLIC cl_program clCreateProgramWithSource(cl_context c, cl_uint n, const char **texts,
                                            const size_t *sizes, cl_int *error)
{
    static const char f64[] = "#define A d\n";
    use(c, CONTEXT);
    MAY_FAIL_TO_MAKE(CreateProgramWithSource);
    handle *h = make(PROGRAM);
    for (cl_uint i = 0; i < n; ++i)
        h->f64 |= memmem(texts[i], sizes[i], f64, sizeof(f64) - 1) != NULL;
    return (cl_program)(void *)h;
}

PUBLIC cl_program clCreateProgramWithBinary(cl_context c, cl_uint n, const cl_device_id *devices,
                                            const size_t *sizes, const unsigned char **bytes,
                                            cl_int *status, cl_int *error)
{
    (void)n, (void)devices, (void)sizes, (void)bytes;
    use(c, CONTEXT);
    *status = CL_SUCCESS;
    MAY_FAIL_TO_MAKE(CreateProgramWithBinary);
    return make(PROGRAM);
}

PUBLIC cl_int clBuildProgram(cl_program p, cl_uint n, const cl_device_id *devices,
                             const char *options, void(CL_CALLBACK *notify)(cl_program, void *),
                             void *user)
{
    (void)n, (void)devices, (void)options, (void)notify, (void)user;
    use(p, PROGRAM);
    MAY_FAIL(BuildProgram);
    return CL_SUCCESS;
}

PUBLIC cl_int clGetProgramBuildInfo(cl_program p, cl_device_id d, cl_program_build_info what,
                                    size_t size, void *out, size_t *out_size)
{
    (void)d, (void)what;
    static const char log[] = "a warning\nfile.cl:7: error: stand-in's own words";
    use(p, PROGRAM);
    MAY_FAIL(GetProgramBuildInfo);
    return give(log, sizeof(log), size, out, out_size);
}

PUBLIC cl_int clGetProgramInfo(cl_program p, cl_program_info what, size_t size, void *out,
                               size_t *out_size)
{
    static const char binary[] = "binary";
    const size_t bytes = sizeof(binary);
    use(p, PROGRAM);
    MAY_FAIL(GetProgramInfo);
    if (what == CL_PROGRAM_BINARY_SIZES) return give(&bytes, sizeof(bytes), size, out, out_size);
    memcpy(*(unsigned char **)out, binary, bytes);
    return CL_SUCCESS;
}

PUBLIC cl_int clReleaseProgram(cl_program p)
{
    ++state.calls[CL_ReleaseProgram];
    return release(p, PROGRAM);
}

PUBLIC cl_kernel clCreateKernel(cl_program p, const char *name, cl_int *error)
{
    const bool f64 = ((const handle *)use(p, PROGRAM))->f64;
    MAY_FAIL_TO_MAKE(CreateKernel);
    handle *h = make(KERNEL);
    h->f64 = f64;
    strncpy(h->name, name, sizeof(h->name) - 1);
    return (cl_kernel)(void *)h;
}

/* Kernels need no local memory, and groups may be large. */
PUBLIC cl_int clGetKernelWorkGroupInfo(cl_kernel k, cl_device_id d, cl_kernel_work_group_info what,
                                       size_t size, void *value, size_t *out_size)
{
    use(k, KERNEL);
    MAY_FAIL(GetKernelWorkGroupInfo);
    (void)d;
    (void)out_size;
    const size_t items = 1024;
    memset(value, 0, size);
    if (what == CL_KERNEL_WORK_GROUP_SIZE) memcpy(value, &items, sizeof(items));
    return CL_SUCCESS;
}

PUBLIC cl_int clReleaseKernel(cl_kernel k)
{
    ++state.calls[CL_ReleaseKernel];
    return release(k, KERNEL);
}

PUBLIC cl_int clSetKernelArg(cl_kernel k, cl_uint index, size_t size, const void *value)
{
    handle *h = use(k, KERNEL);
    MAY_FAIL(SetKernelArg);
    if (index < 8) {
        memcpy(&h->args[index], value, sizeof(cl_mem));
        use(h->args[index], BUFFER);
    } else if (index == 8 && size >= sizeof(h->offset)) {
        memcpy(h->offset, value, sizeof(h->offset));
    }
    return CL_SUCCESS;
}

PUBLIC cl_int clEnqueueNDRangeKernel(cl_command_queue q, cl_kernel k, cl_uint dims,
                                     const size_t *from, const size_t *global, const size_t *local,
                                     cl_uint n, const cl_event *wait, cl_event *event)
{
    (void)dims, (void)from, (void)global, (void)local, (void)n, (void)wait, (void)event;
    use(q, QUEUE);
    const handle *h = use(k, KERNEL);
    MAY_FAIL(EnqueueNDRangeKernel);
    for (int i = 0; i < 8; ++i) use(h->args[i], BUFFER);
    if (strcmp(h->name, "grad_norm") == 0) { /* norm, factor of clipping, finite */
        const float f[3] = {1, 1, 1};
        const double d[3] = {1, 1, 1};
        const size_t size = h->f64 ? sizeof(d) : sizeof(f);
        memcpy(part(h->args[2], (size_t)h->offset[2], size), h->f64 ? (const void *)d : f, size);
    }
    return CL_SUCCESS;
}
