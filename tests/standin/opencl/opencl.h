/* opencl.h: control of the stand-in for the OpenCL loader (opencl.c): which call fails, and counts.
 *
 * The library is opened by the backend under test (INVAR_OPENCL_LIB) and by the test itself, which
 * finds `standin_opencl` in it. */
#ifndef IV_STANDIN_OPENCL_H
#define IV_STANDIN_OPENCL_H

#include <stdbool.h>
#include <stdint.h>

/* The functions, in the order of cl.def. */
enum {
#define S(name) CL_##name,
#include "backends/opencl/cl.def"
#undef S
    CL_CALLS
};

typedef struct standin_opencl {
    const char *names[CL_CALLS];
    int64_t calls[CL_CALLS];   /* since the last time that the test set them to 0 */
    int64_t fail_at[CL_CALLS]; /* this call fails (from 1 on); 0: none */
    int32_t error;             /* with this error */
    bool lost;                 /* and everything that can fail after it fails too */
    bool no_platform, no_device, no_f64;
    int64_t alive[6]; /* contexts, queues, buffers, events, programs, kernels not released yet */
    int64_t misused;  /* calls with a handle that is not alive, or that overlapped */
} standin_opencl;

/* The state; the symbol is `standin_opencl_state`. */
typedef standin_opencl *standin_opencl_state_fn(void);

#endif
