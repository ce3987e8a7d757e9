/* plugin.h: the plugin interface, the only header a plugin includes (it brings invar.h and hal.h).
 *
 * There are five kinds: backend, precision, checkpoint, cluster, transport.  Built-in plugins and
 * those in shared libraries use the same descriptor; a library exports `const iv_plugin
 * *invar_plugin(void)`. Compatibility: `abi` is major << 16 | minor.  The major number must match;
 * fields are only ever appended, and `size` / `vtable_size` (sizeof as the plugin was compiled)
 * tell which are there: a missing entry counts as NULL.  Plugins are loaded with RTLD_NOW |
 * RTLD_LOCAL and never unloaded. They call the host through `iv_host` and need no symbol of
 * libinvar.
 */
#ifndef IV_PLUGIN_H
#define IV_PLUGIN_H

#include "hal.h"
#include "invar.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IV_PLUGIN_ABI ((2u << 16) | 1u)

typedef enum iv_plugin_kind {
    IV_PLUGIN_BACKEND,
    IV_PLUGIN_PRECISION,
    IV_PLUGIN_CHECKPOINT,
    IV_PLUGIN_CLUSTER,
    IV_PLUGIN_TRANSPORT,
    IV_PLUGIN_KIND_COUNT
} iv_plugin_kind;

/* Services of the host.  All are safe to call from any thread. */
struct iv_host {
    uint32_t abi, size;
    /* Records the one-line text of a failure for this thread and returns `code`. */
    iv_status (*fail)(iv_status code, const char *fmt, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 2, 3)))
#endif
        ;
    void (*log)(iv_log_level level, const char *fmt, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 2, 3)))
#endif
        ;
    /* Value of one of Invar's environment variables by name ("INVAR_CACHE_DIR"), or NULL. */
    const char *(*env)(const char *name);
    /* (since 1.1) Value of any environment variable, "" if it is empty, NULL if it is not set: what
     * launchers leave to the processes that they start.  For cluster and transport plugins; NULL
     * for others. */
    const char *(*variable)(const char *name);
    /* (since 1.2) The text of this thread's last failure. */
    const char *(*message)(void);
    /* (since 1.2) The plugin `spec` ("safetensors", "async(safetensors)") of a kind, initialised:
     * what a plugin that wraps another calls in its init.  *out_vtable has all entries of this
     * header; those that the plugin lacks are NULL. */
    iv_status (*plugin)(uint32_t kind, const char *spec, const void **out_vtable, void **out_self);
};

struct iv_plugin {
    uint32_t abi;  /* IV_PLUGIN_ABI */
    uint32_t size; /* sizeof(iv_plugin) */
    uint32_t kind; /* iv_plugin_kind */
    uint32_t vtable_size;
    const char *name, *version, *summary;
    const void *vtable; /* iv_backend, iv_precision, iv_checkpoint, iv_cluster, iv_transport */
    /* Called once before first use.  args: the text in parentheses after the name ("async(x)" gives
     * "x"), or "".  *out_self is handed to every entry of the vtable.  NULL: nothing to do. */
    iv_status (*init)(const iv_host *host, const char *args, void **out_self);
    void (*fini)(void *self); /* (optional) */
};

/* ---- precision ----
 * A precision plugin is a numerics policy: a table of choices (iv_policy), read when a run opens,
 * the class of every operator, and a few functions that are called at fixed moments of a step:
 *
 *   loss_scale -> backward -> sum over passes and ranks -> unscale, finiteness and norm -> on_grads
 *   -> clip -> update -> lower -> scales
 *
 * The order is the trainer's: a plugin sees reduced, unscaled gradients only.  It never touches a
 * device, so every policy runs on any device that has the types. */
typedef enum iv_cast_class {
    IV_CAST_LOWER, /* runs in the low type where the policy has one (matmul, convolution, attention)
                    */
    IV_CAST_F32,   /* needs the full type (losses, sums, statistics) */
    IV_CAST_WIDEST, /* inputs are promoted to the widest of them (add, concat, ...) */
    IV_CAST_KEEP,   /* runs in the type of its first input */
    IV_CAST_CLASS_COUNT
} iv_cast_class;

/* What becomes of a step. */
typedef enum iv_verdict {
    IV_STEP,          /* applied */
    IV_SKIP_OVERFLOW, /* not applied: infinities or NaN in the gradients */
    IV_SKIP_NONE      /* not applied: there was no loss.  The trainer's, never a plugin's */
} iv_verdict;

/* What operands of an IV_CAST_LOWER matrix product with a parameter are rounded to before the
 * 16-bit type: an exact emulation.  FP8 rounds both operands, and the type is bf16, which holds
 * every value of the format; the others round the parameter alone to what its code stands for, in
 * `low`. */
typedef enum iv_format {
    IV_FORMAT_NONE,
    IV_FORMAT_FP8,  /* E4M3 forward, E5M2 for gradients; scales from `scales`, per tensor */
    IV_FORMAT_INT8, /* parameters only: 8 bit by outputs, scaled by the largest element */
    IV_FORMAT_NF4,  /* parameters only: NormalFloat 4 bit in blocks of 64 */
    IV_FORMAT_COUNT
} iv_format;

typedef struct iv_policy {
    uint32_t size;    /* sizeof(iv_policy) as the host was compiled: set before the call */
    iv_dtype param;   /* parameters, as they are kept and saved; a wide type makes them masters */
    iv_dtype full;    /* gradients, statistics, IV_CAST_F32: IV_F32 or IV_F64 */
    iv_dtype moment;  /* optimizer state */
    iv_dtype compute; /* inputs and parameters as the graph sees them */
    iv_dtype low;     /* what IV_CAST_LOWER means; compute when nothing is lowered */
    uint32_t stochastic; /* 1: updated 16-bit parameters are rounded up or down at random */
    uint32_t operands;   /* iv_format */
    double clip; /* norm that gradients are clipped to where the run does not say; 0: none */
} iv_policy;

/* What the run is, for plugins that refuse some, and its options. */
typedef struct iv_precision_request {
    uint32_t size;
    const char *device;    /* kind: "cpu", "cuda" */
    const char *strategy;  /* "ddp", "ddp_sharded", "fsdp", "deepspeed" */
    const char *optimizer; /* "adamw" */
    double clip;           /* what the run clips gradients to; 0: not at all */
    /* The text of an option: from the parentheses after the name ("16-mixed(window=100)"), or the
     * configuration key precision.NAME; NULL: not given.  Valid until the run ends. */
    const char *(*option)(const void *ctx, const char *name);
    const void *ctx;
} iv_precision_request;

typedef struct iv_precision_option {
    const char *name, *help;
} iv_precision_option;

typedef struct iv_precision {
    /* Options that the plugin knows, ended by a NULL name; others are refused.  NULL: none. */
    const iv_precision_option *options;
    /* The instance of one run, which the other entries get as `run`.  IV_INVALID, IV_UNSUPPORTED:
     * the run is not possible, with the reason.  NULL: *out_run is what init gave. */
    iv_status (*open)(void *self, const iv_precision_request *q, void **out_run);
    void (*close)(void *run); /* (optional) */
    /* Fills the table; what is left alone is f32 everywhere. */
    void (*policy)(void *run, iv_policy *out);
    /* Class of operator `op` (its name in ops.def), given the table's default.  NULL: the default.
     */
    iv_cast_class (*classify)(void *run, const char *op, iv_cast_class fallback);
    /* Factor on d(loss).  NULL: 1. */
    double (*loss_scale)(void *run);
    /* Decides about the step and may change the scale.  grad_norm: unscaled, before clipping.
     * NULL: a step, and non-finite gradients end the run. */
    iv_verdict (*on_grads)(void *run, double grad_norm, bool found_nonfinite);
    /* IV_FORMAT_FP8: the n largest magnitudes of an applied step give the scales of the next one;
     * amax NULL (at the start and after `load`): the scales as they are.  e5m2[i]: the tensor is a
     * gradient.  The host rounds scales down to powers of two.  NULL: all scales stay 1. */
    iv_status (*scales)(void *run, int64_t n, const uint8_t *e5m2, const float *amax, float *scale);
    /* State kept in checkpoints, as text that begins with its role and version ("scaler/1 ..."), so
     * that another plugin with the role can go on with it.  save returns the bytes needed and
     * writes if they fit.  NULL: none.  load: IV_UNSUPPORTED for roles that the plugin lacks. */
    size_t (*save)(void *run, char *dst, size_t size);
    iv_status (*load)(void *run, const char *src, size_t size);
    /* More about the policy, lines of text for `invar plugins -v`, like save.  NULL: none. */
    size_t (*describe)(void *run, char *dst, size_t size);
} iv_precision;

/* ---- checkpoint ---- format and transport; knows named tensors and metadata, not models. */
typedef struct iv_ckpt_tensor {
    const char *name;
    iv_dtype dtype;
    iv_shape shape;   /* of the whole tensor */
    const void *data; /* host memory, row-major, little-endian; NULL in listings, and where `read`
                         of iv_ckpt fetches it */
} iv_ckpt_tensor;
typedef struct iv_ckpt_meta {
    const char *key, *value; /* UTF-8 */
} iv_ckpt_meta;
/* The elements [begin, end) of a tensor that this rank has; `data` points at element begin. */
typedef struct iv_ckpt_part {
    int64_t begin, end;
} iv_ckpt_part;
typedef struct iv_ckpt {
    int64_t n_tensors, n_meta;
    const iv_ckpt_tensor *tensors; /* names unique */
    const iv_ckpt_meta *meta;      /* keys unique */
    /* Since 1.2.  Names, types, shapes and metadata are the same on every rank. */
    const iv_ckpt_part *parts; /* [n_tensors], together each tensor once over the ranks; NULL: every
                                  rank has all of every tensor */
    uint64_t id;               /* of this save: the same on all ranks, another for every save */
    /* Fetches bytes of a tensor whose data is NULL: device memory.  Called on the thread that calls
     * save, and only until it returns.  offset is from the first byte of this rank's part. */
    iv_status (*read)(void *ctx, int64_t tensor, int64_t offset, int64_t bytes, void *dst);
    void *ctx;
} iv_ckpt;
/* Receives a checkpoint while it is read.  `meta` is called for every pair first, then for each
 * tensor `want`, which sets *out_dst to host memory for the tensor's bytes, or to NULL to skip it;
 * it must stay there until `done` or the end of the load, since all are asked for before the first
 * is read.  A status other than IV_OK ends the load with that status.  Pointers are valid during
 * the call only. */
typedef struct iv_ckpt_sink {
    void *ctx;
    iv_status (*meta)(void *ctx, const char *key, const char *value); /* (optional) */
    iv_status (*want)(void *ctx, const iv_ckpt_tensor *info, void **out_dst);
    iv_status (*done)(void *ctx, const iv_ckpt_tensor *info,
                      void *dst); /* (optional) bytes are there */
} iv_ckpt_sink;
/* Which of the ranks that save together this one is. */
typedef struct iv_ckpt_group {
    int32_t rank, ranks, local_rank; /* local_rank: among the ranks of this host */
} iv_ckpt_group;

typedef struct iv_checkpoint {
    /* 0..100: how sure this format is to be the one of `path` (it may open the file).  NULL, since
     * 1.2: a wrapper, which is only used when it is named. */
    int (*detect)(void *self, const char *path);
    /* Writes everything or nothing: when the save has ended well the checkpoint is durable under
     * `path`; after an error whatever stood there before still does.  IV_IO names path and cause.
     * Without `poll` a save has ended when it returns. */
    iv_status (*save)(void *self, const char *path, const iv_ckpt *c);
    /* Reads and verifies (structure and checksums).  IV_CORRUPT names path and what contradicts.
     * Waits for an unfinished save of that path. */
    iv_status (*load)(void *self, const char *path, const iv_ckpt_sink *sink);
    /* Removes the checkpoint; a missing one is fine.  Waits for an unfinished save of that path. */
    iv_status (*remove)(void *self, const char *path);
    iv_status (*drain)(void *self); /* (optional) returns when all saves have ended */
    const char *extension;          /* ".safetensors", or "" for a folder */
    /* Since 1.2. */
    /* (optional) Called before the memory [data, data + bytes) is changed that a save was given:
     * returns when the save no longer reads it.  NULL: a save has read everything when it returns.
     */
    void (*release)(void *self, const void *data, int64_t bytes);
    /* (optional) The outcome of the oldest save that has ended and was not told yet: *out_path,
     * NULL if there is none, is valid until the next call.  Each outcome is told once.  With it,
     * `save` returns errors of the call itself only. */
    iv_status (*poll)(void *self, const char **out_path);
    /* (optional) Which rank this is; called before the first use.  NULL: one rank saves and removes
     * for all; else all of them call save, remove and drain.  Every rank may load. */
    iv_status (*join)(void *self, const iv_ckpt_group *group);
} iv_checkpoint;

/* ---- cluster ---- which process of how many this is, and where the first one listens (iv_ranks in
 * invar.h).  Moves no data, starts nothing: environment variables and files that they name only. */
typedef struct iv_cluster_ask {
    int32_t devices; /* processes per node that the run asks for; 0: as the launcher has it */
    int32_t nodes;   /* nodes that the run asks for; 0: as the launcher has it */
} iv_cluster_ask;
typedef struct iv_cluster {
    /* 0: not here; else how specific (higher wins; docs/cluster.md has the built-in ones).  `why`
     * gets one line naming the variables seen or missing. */
    int (*detect)(void *self, char *why, size_t why_size);
    /* Fills *out, which is zero.  IV_INVALID names the variable that is missing,
     * malformed or contradicts another one.  Also called for a plugin that the user names, though
     * detect says 0. */
    iv_status (*ranks)(void *self, const iv_cluster_ask *ask, iv_ranks *out);
    /* (optional) Checks the launcher's counts against what the run asks for.  NULL: what the host
     * checks on `ranks` is enough. */
    iv_status (*validate)(void *self, const iv_cluster_ask *ask, const iv_ranks *ranks);
    /* (optional) The command that makes the scheduler run this job once more, such as "scontrol
     * requeue 12_3".  NULL, or "": there is none. */
    iv_status (*requeue)(void *self, char *out, size_t size);
} iv_cluster;

/* ---- transport ---- moves bytes between the ranks of a job; knows no tensors.  All collective
 * operations are made of sets of messages (runtime/comm.c), so this is the whole of it. */
typedef struct iv_message {
    int32_t peer;     /* rank at the other end, never this one */
    int32_t outgoing; /* 1: data goes to the peer; 0: bytes of the peer arrive in data */
    void *data;       /* host memory, left alone by the caller until the set is finished */
    int64_t bytes;    /* the same at both ends; > 0 */
} iv_message;
#define IV_TRANSPORT_SETS 64 /* that may be under way at once */

typedef struct iv_transport {
    /* 0: cannot be used here; else how good it is (the highest is taken: shared memory and MPI 50,
     * sockets 10).  Looks at environment and libraries only, meets nobody.  `why` gets one line. */
    int (*usable)(void *self, const iv_ranks *r, char *why, size_t why_size);
    /* Meets the other ranks and checks that each of 0 .. world-1 is there once and means the same
     * world.  Returns within about timeout_ns: IV_TIMEOUT names who is missing, IV_INVALID who is
     * there twice.  All memory that start and finish need is allocated here. */
    iv_status (*open)(void *self, const iv_ranks *r, int64_t timeout_ns, void **out_link);
    /* Also after a failure; never waits for a lost rank. */
    void (*close)(void *link);
    /* Starts a set of n messages and returns soon.  Between two ranks and in each direction,
     * messages are matched in the order in which they were started, across sets.  *out_ticket: a
     * number that rises from set to set.  At most IV_TRANSPORT_SETS sets are unfinished. */
    iv_status (*start)(void *link, const iv_message *m, int32_t n, uint64_t *out_ticket);
    /* Waits for all sets up to this one.  IV_LOST, within about timeout_ns, if a rank is dead, hung
     * or cannot be reached: the text names it, and *out_rank is its number.  The link is of no
     * other use then than to be closed; every survivor's next call fails in the same way and names
     * the same rank, if the transport can tell them. */
    iv_status (*finish)(void *link, uint64_t ticket, int64_t timeout_ns, int32_t *out_rank);
    /* (optional) After IV_LOST: those who are left drop what was under way, and go on over the same
     * link.  ranks->rank and ->world become the new ones; the order stays.  Waits up to about
     * timeout_ns for ranks that are not known to be lost.  On failure the link can only be closed.
     * NULL: a job does not outlive its ranks. */
    iv_status (*again)(void *link, int64_t timeout_ns, iv_ranks *ranks);
} iv_transport;

#ifdef __cplusplus
}
#endif
#endif
