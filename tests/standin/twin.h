/* twin.h: every kernel that a CPU device launches also runs as PTX, and must give the same bits
 * (twin.c).
 *
 * A device that was opened gets a table of functions in which `kernel_build` also finds the
 * kernel's PTX and `launch` first runs that on copies of the buffers, each of exactly the bytes
 * that the launch says, and then compares.  So all that models and operator tests ask of kernels is
 * tried on the PTX machine, with bounds as tight as they can be. */
#ifndef STANDIN_TWIN_H
#define STANDIN_TWIN_H

#include "runtime/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Compiles all kernels of kernels.def for PTX (both cores) and loads them.  False: `why`. */
bool twin_start(char *why, size_t size);
void twin_stop(void);
/* From now on the device's launches are compared.  A difference ends the test (fail_msg). */
void twin_device(iv__device *d);

/* How often an instance of kernels.def was compared. */
typedef struct twin_row {
    const char *file, *name, *sig;
    int64_t launches;
} twin_row;
const twin_row *twin_rows(int32_t *out_n);
/* How the accesses of a row's launches since twin_forget fell on memory (of checked blocks). */
typedef struct twin_totals {
    int64_t sectors, ideal; /* of global memory: moved, and the fewest possible */
    int32_t worst;          /* most passes over the banks of shared memory for one */
} twin_totals;
/* False: the row was not launched. */
bool twin_access(int32_t row, twin_totals *out);
void twin_forget(void);
/* Prints them, and the instructions that are worse than the limits. */
void twin_report(void);

#endif
