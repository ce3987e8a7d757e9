/* lanes.h: inside the HIP stand-in: running work-groups on the host, and compiled code. */
#ifndef SC_HIP_LANES_H
#define SC_HIP_LANES_H

#include "../core.h"

enum { SC_HIP_LANES = 64, SC_HIP_ARGS = 16 };

/* As in prelude.h: lives in each compiled module. */
typedef struct sc_hip_state {
    int lane;
    long long group;
    void (*barrier)(void *site);
} sc_hip_state;

/* A kernel of a module.  `call` runs one work-item with arguments by address; size[i] is that of
 * argument i, negative if it is a pointer. */
typedef struct sc_hip_function {
    char name[64];
    void (*call)(void **arguments);
    const int *sizes;
    int n;
    struct sc_hip_module *module;
    struct sc_hip_function *next;
} sc_hip_function;

typedef struct sc_hip_module {
    void *library;
    sc_hip_state *state;
    sc_hip_function *functions;
} sc_hip_module;

/* lanes.c: runs groups [0, groups) of 64 work-items each, in the calling thread.  The lanes of a
 * group take turns at its barriers, in an order that changes; lanes that end while others wait, or
 * wait at another barrier, are misuse and SC_LAUNCH_FAILED with a text. */
sc_status sc_hip_groups(const sc_hip_function *f, void **arguments, int64_t groups, uint64_t seed,
                        char *text, size_t text_size);

/* rtc.c: loads code that hiprtcGetCode gave.  SC_INVALID_IMAGE: it is something else. */
sc_status sc_hip_module_load(const void *code, sc_hip_module **out);
void sc_hip_module_free(sc_hip_module *m);
sc_hip_function *sc_hip_function_get(sc_hip_module *m, const char *name);

#endif
