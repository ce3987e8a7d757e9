/* core.h: what the stand-ins for GPU drivers share (libcuda.so.1, libamdhip64.so).
 *
 * A stand-in is a shared library with a vendor's name and functions, so that the shipped backend
 * runs unchanged on a machine without a GPU, and is watched while it does:
 *
 *   vendor's functions ─► core ─┬─ calls      every entry is counted; the N-th one can be made to
 * fail (handles, codes,            ├─ memory     device addresses that the host cannot touch,
 * bounds compilers)                 ├─ streams    worker threads, random delays, events ├─ order
 * which work may overlap: reports missing waits └─ reports    misuse and leaks, on stderr and as
 * the exit status
 *
 * Each stand-in links its own copy.  All functions may be called from any thread.
 *
 * Environment (read at the first call):
 *   INVAR_STANDIN_DEVICES=2        number of devices; 0: none
 *   INVAR_STANDIN_MEMORY=BYTES     memory of each device (default 4 GiB)
 *   INVAR_STANDIN_SEED=N           delays of the streams (default 1; 0: no delays)
 *   INVAR_STANDIN_FAIL=F:N[=NAME][,...]  the N-th call of F fails (NAME as in statuses.def, default
 *                                  `unknown`).  F is a function of the vendor, or `kernel`: the
 * N-th kernel that runs, which faults the way a bad address does. INVAR_STANDIN_CHECK=none|some|all
 * which work-groups get the expensive checks INVAR_STANDIN_STRICT=1         misuse or a leak makes
 * the process end with status 97 INVAR_STANDIN_REPORT=FILE      misuse, leaks and kernel reports go
 * there too
 */
#ifndef SC_CORE_H
#define SC_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum sc_status {
#define S(NAME, name) SC_##NAME,
#include "statuses.def"
#undef S
} sc_status;

enum { SC_EXIT_MISUSE = 97 };
#define SC_EXPORT __attribute__((visibility("default")))

/* ---- options, calls, reports (core.c) ---- */

typedef enum sc_check { SC_CHECK_NONE, SC_CHECK_SOME, SC_CHECK_ALL } sc_check;
typedef struct sc_options {
    int32_t devices;
    int64_t memory_bytes; /* of each device */
    uint64_t seed;
    sc_check check;
    bool strict;
    const char *report; /* file or NULL */
} sc_options;

/* The options of this process. */
const sc_options *sc_options_get(void);

/* Every function of a vendor begins with this: counts the call; the status that it must return at
 * once if a fault was asked for, else SC_OK.  `function` is the exported name, a literal. */
sc_status sc_enter(const char *function);

/* Calls of a function so far.  Every stand-in exports it, for tests. */
SC_EXPORT int64_t sc_calls(const char *function);

/* Name of a status as in statuses.def. */
const char *sc_status_name(sc_status s);

/* One line of misuse: counted, printed, written to the report. */
void sc_misuse(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line for the report only (statistics of kernels). */
void sc_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Misuse seen so far.  Exported too. */
SC_EXPORT int64_t sc_misuses(void);

/* ---- handles (core.c): what is alive, for leaks and wrong handles ---- */

/* `kind` is a literal ("stream", "module"); `maker` the function that made it. */
void sc_object_add(const char *kind, const void *object, const char *maker);
/* True if it is alive.  A freed, foreign or NULL handle is one line of misuse and false. */
bool sc_object_check(const char *kind, const void *object, const char *function);
/* Is it alive?  Says nothing. */
bool sc_object_known(const char *kind, const void *object);
/* Ends its life; false and misuse as above. */
bool sc_object_remove(const char *kind, const void *object, const char *function);
/* Prints what is alive, one line each, as misuse; returns how many.  Runs at exit by itself. */
int32_t sc_leaks(void);

/* ---- devices (core.c) ---- */

typedef struct sc_device sc_device;
int32_t sc_device_count(void);
sc_device *sc_device_get(int32_t index); /* NULL: out of range */
int32_t sc_device_index(const sc_device *d);
void sc_device_memory(const sc_device *d, int64_t *out_total, int64_t *out_free);

/* A fault of a kernel is sticky: from then on every call of the device returns it. */
sc_status sc_device_fault(const sc_device *d);
/* `text` says what happened; it is printed, not counted as misuse (the caller has a bug or asked
 * for it). */
void sc_device_set_fault(sc_device *d, sc_status s, const char *text);
/* What the fault was, or "". */
const char *sc_device_fault_text(const sc_device *d);
/* Ends the fault (the device is reset). */
void sc_device_clear_fault(sc_device *d);

/* ---- memory (memory.c) ----
 *
 * A device address lies in a range of the process that is mapped without any access, so the host
 * faults where it touches it (the report names the allocation).  The bytes lie in a second range at
 * a fixed distance: the alias, for copies and kernels only.  Addresses are not used again for a
 * while. */

typedef enum sc_mem_kind { SC_MEM_DEVICE, SC_MEM_PINNED } sc_mem_kind;
typedef struct sc_mem {
    uint64_t address; /* first byte; for SC_MEM_PINNED the host's address */
    int64_t bytes;
    sc_mem_kind kind;
    sc_device *device;
    int64_t number; /* 1, 2, 3 ... in the order of allocation */
    const char *maker;
} sc_mem;

/* Zero bytes is SC_INVALID_VALUE; more than the device has left is SC_OUT_OF_MEMORY.  New device
 * memory is filled with a pattern that is a NaN in every type. */
sc_status sc_mem_alloc(sc_device *d, int64_t bytes, sc_mem_kind kind, const char *maker,
                       uint64_t *out_address);
/* Waits for the work of the device.  A wrong address, a second time or the wrong kind is misuse. */
sc_status sc_mem_free(uint64_t address, sc_mem_kind kind, const char *function);
/* The allocation of [address, address + bytes), copied to *out; false if there is none. */
bool sc_mem_find(uint64_t address, int64_t bytes, sc_mem *out);
/* True if the address lies where device memory lies, alive or not. */
bool sc_mem_is_device_address(uint64_t address);
/* Where the bytes of a device address lie; other addresses are given back as they are. */
void *sc_mem_alias(uint64_t address);
/* "12 bytes at 0x.. : 4 bytes behind allocation 3 (cuMemAlloc_v2, 1024 bytes)": what is wrong with
 * an access, for reports. */
void sc_mem_describe(uint64_t address, int64_t bytes, char *out, size_t size);

/* Takes SIGSEGV again, where something else took it since the start (test frameworks do). */
void sc_mem_watch(void);
/* Calls fn(arg) so that a bad access by it to an alias (a kernel compiled for the host that leaves
 * its memory) ends it: SC_ILLEGAL_ADDRESS, and the device address.  fn must hold no locks. */
sc_status sc_mem_guarded(sc_status (*fn)(void *arg), void *arg, uint64_t *out_address);

/* ---- streams and events (stream.c) ---- */

typedef struct sc_stream sc_stream;
typedef struct sc_event sc_event;

/* Device bytes that a piece of work has touched. */
typedef struct sc_access {
    uint64_t begin, end;
    bool write;
} sc_access;
typedef struct sc_access_list {
    sc_access *at;
    int32_t n, cap;
} sc_access_list;
void sc_access_add(sc_access_list *list, uint64_t address, int64_t bytes, bool write);

/* Work of a stream.  `run` is called once, by the stream's thread; it lists what it touched (for
 * the order check) and returns SC_OK or a fault, with a line of text.  `arg` is the stream's own
 * copy. */
typedef sc_status sc_run_fn(sc_device *d, void *arg, sc_access_list *touched, char *text,
                            size_t text_size);

/* `blocking`: synchronises with the default stream (the vendors' legacy rule). */
sc_status sc_stream_open(sc_device *d, bool blocking, const char *maker, sc_stream **out_s);
/* Work that was asked for still runs. */
sc_status sc_stream_close(sc_stream *s, const char *function);
/* The device's default stream, what a NULL handle means. */
sc_stream *sc_stream_default(sc_device *d);
sc_device *sc_stream_device(const sc_stream *s);
/* Is `s` a live stream of `d`?  Else misuse, and SC_INVALID_HANDLE. */
sc_status sc_stream_check(sc_stream *s, const sc_device *d, const char *function);
/* Puts work at the end.  label: for reports, copied; [arg, arg + arg_bytes) is copied. */
sc_status sc_stream_put(sc_stream *s, const char *label, sc_run_fn *run, const void *arg,
                        size_t arg_bytes);
/* Waits for all of it; returns the device's fault if there is one. */
sc_status sc_stream_sync(sc_stream *s);
sc_status sc_stream_query(sc_stream *s); /* SC_OK or SC_NOT_READY */
sc_status sc_device_sync(sc_device *d);

/* Copies between any two places.  Pageable host memory is read before the return; other memory is
 * read, and any memory written, as late as the next wait: a copy out of pinned memory that the host
 * changes meanwhile is misuse. */
sc_status sc_stream_copy(sc_stream *s, uint64_t dst, uint64_t src, int64_t bytes,
                         const char *function);
/* Fills n elements of `width` (1, 2 or 4) bytes. */
sc_status sc_stream_fill(sc_stream *s, uint64_t dst, uint32_t value, int32_t width, int64_t n,
                         const char *function);

sc_status sc_event_open(sc_device *d, const char *maker, sc_event **out_e);
sc_status sc_event_close(sc_event *e, const char *function);
sc_status sc_event_record(sc_event *e, sc_stream *s, const char *function);
sc_status sc_stream_wait(sc_stream *s, sc_event *e, const char *function);
sc_status sc_event_sync(sc_event *e, const char *function);
sc_status sc_event_query(sc_event *e, const char *function); /* SC_OK or SC_NOT_READY */
sc_status sc_event_elapsed(sc_event *from, sc_event *to, float *out_ms, const char *function);

/* ---- graphs (stream.c): the work of a stream, kept and run later ----
 *
 * While a stream captures, work that is put there is kept instead; a stream that waits for an event
 * of a capturing stream captures into the same graph.  A graph's work runs in the order it was put.
 */
typedef struct sc_graph sc_graph;
sc_status sc_capture_begin(sc_stream *s, const char *function);
/* SC_STREAM_CAPTURE if the stream does not capture, or if something that cannot be captured was
 * asked for (waiting by the host, pageable memory). */
sc_status sc_capture_end(sc_stream *s, const char *function, sc_graph **out_g);
sc_status sc_graph_copy(const sc_graph *g, const char *function, sc_graph **out_g);
sc_status sc_graph_launch(sc_graph *g, sc_stream *s, const char *function);
sc_status sc_graph_free(sc_graph *g, const char *function);

/* ---- order (order.c): used by stream.c ----
 *
 * Streams have vector clocks: work w of stream i is known to be over before work v if v's clock at
 * i has reached w's number: through the stream's own order, events waited for, or the host's
 * waiting. Two pieces of work that touch the same bytes, one of them writing, and are not ordered
 * this way are a missing wait, whether or not the run happened to show it. */
enum { SC_STREAMS = 64 };
typedef struct sc_clock {
    uint64_t at[SC_STREAMS];
} sc_clock;
void sc_clock_join(sc_clock *a, const sc_clock *b);
/* Work `number` of stream `slot` is over and touched this. */
void sc_order_done(int32_t slot, uint64_t number, const sc_clock *clock, const char *label,
                   const sc_access_list *touched);

#endif
