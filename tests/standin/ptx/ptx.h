/* ptx.h: a machine that executes PTX, the text that NVRTC makes for NVIDIA's GPUs, on the host.
 *
 *   text ─► lex, parse ─► statements ─► decode ─► instructions ─► place ─► run
 *                         (names)       (types, targets)    (registers)   (64 lanes at a time)
 *
 * It computes what the PTX manual says, to the bit: every rounding mode is the instruction's own,
 * f32 results that are NaN are the canonical NaN, denormals are kept, shifts clamp.  An instruction
 * that it does not know is refused by name when the module is loaded.
 *
 * Threads run in waves of 64 lanes in lock step.  Where lanes part, the group with the smallest
 * program counter runs, and groups that meet run on together.  Blocks are spread over the host's
 * threads.
 *
 * Every access to memory is checked for bounds and alignment.  Blocks that are "checked"
 * (ptx_check) also get: reads of shared memory that nobody wrote, races on shared memory between
 * barriers, and counts of how well accesses coalesce and how they spread over banks. */
#ifndef PTX_H
#define PTX_H

#include "../core.h"

typedef struct ptx_module ptx_module;
typedef struct ptx_function ptx_function;

/* Parses and decodes.  On failure false and one line that says where and what; `device` gets the
 * module's global variables, if it has any. */
bool ptx_load(sc_device *device, const char *text, char *error, size_t error_size,
              ptx_module **out_module);
void ptx_unload(ptx_module *m);

/* A kernel, borrowed; NULL: no such. */
ptx_function *ptx_function_get(ptx_module *m, const char *name);
ptx_function *ptx_function_at(ptx_module *m, int32_t index); /* NULL: no more */
const char *ptx_function_name(const ptx_function *f);
sc_device *ptx_function_device(const ptx_function *f);

/* Parameters: number, and place and size of each in the block of parameters. */
int32_t ptx_function_params(const ptx_function *f);
int32_t ptx_function_param(const ptx_function *f, int32_t k, int32_t *out_offset);
int32_t ptx_function_param_bytes(const ptx_function *f);

typedef struct ptx_size {
    int32_t shared_bytes, local_bytes; /* static, of a block; of a thread */
    int32_t max_threads;               /* of a block (.maxntid), or 1024 */
    int32_t instructions, registers;   /* registers: bytes of the machine's own, per lane */
} ptx_size;
void ptx_function_size(const ptx_function *f, ptx_size *out);

typedef struct ptx_launch {
    uint32_t grid[3], block[3];
    uint32_t shared_bytes; /* dynamic */
    const void *params;    /* the block of parameters */
    sc_check check;  /* which blocks are checked; SC_CHECK_SOME: the first 2, and every 61st */
    int32_t threads; /* host threads; 0: all */
} ptx_launch;

/* SC_INVALID_VALUE and a line of text if the sizes are more than the function or any device takes.
 */
sc_status ptx_check_launch(const ptx_function *f, const ptx_launch *l, char *text,
                           size_t text_size);

/* Runs the grid to its end.  touched (or NULL) gets the ranges of device memory read and written.
 * A fault ends it: its status, and `text` says which instruction of which thread did what. */
sc_status ptx_run(ptx_function *f, const ptx_launch *l, sc_access_list *touched, char *text,
                  size_t text_size);

/* ---- what the checked blocks of all launches so far showed ---- */

typedef struct ptx_counts {
    int32_t line;     /* of the text */
    const char *name; /* mnemonic */
    bool shared;      /* shared memory, else global */
    int64_t requests; /* of a warp of 32 lanes */
    int64_t units;    /* sectors of 32 bytes moved; for shared memory, passes over the banks */
    int64_t ideal;    /* the fewest possible for the bytes asked for */
    int32_t worst;    /* shared: most passes of a request for its ideal one ("2-way") */
} ptx_counts;
/* The k-th memory instruction of the function; false: no more. */
bool ptx_function_counts(const ptx_function *f, int32_t k, ptx_counts *out);
/* Begins to count anew. */
void ptx_function_forget(ptx_function *f);
/* One line a kernel, and one for each instruction that is worse than 1.25 times the ideal, or
 * 2-way. */
void ptx_report(const ptx_module *m, void (*line)(void *ctx, const char *text), void *ctx);
/* Lane-instructions executed by this process so far. */
int64_t ptx_executed(void);

#endif
