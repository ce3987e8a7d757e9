/* invar.h: the public interface of Invar, a library that trains neural networks and gives the same
 * bits everywhere.
 *
 * A program builds a graph (iv_graph_new, iv_input, iv_param, operators, iv_graph_set_loss), gives
 * it with a configuration to a trainer (iv_trainer_open) and runs it (iv_trainer_fit).  The model
 * builders (iv_model_build), data readers (iv_dataset_open) and the command line are written on
 * this header alone.
 *
 * Errors: every function that can fail returns iv_status; iv_error_message() tells what happened in
 * one line.  No function exits or aborts.  Ownership: the verb tells (_new/_open are freed by the
 * caller with _free/_close; _get is borrowed).  Outputs come last and are written only on success.
 * Threads: objects may be used by one thread at a time; different objects by different threads.
 */
#ifndef INVAR_H
#define INVAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IV_VERSION_MAJOR 0
#define IV_VERSION_MINOR 1
#define IV_VERSION_PATCH 0

#if defined(__GNUC__)
#define IV_API __attribute__((visibility("default")))
#else
#define IV_API
#endif

/* ---- status ---- */
typedef enum iv_status {
    IV_OK = 0,
    IV_INVALID, /* the caller's mistake: option, shape, config, file that is not what it should be
                 */
    IV_UNAVAILABLE, /* not here (no driver, no device, no library), which may be fine */
    IV_UNSUPPORTED, /* this implementation cannot do it */
    IV_NO_MEMORY,   /* host or device memory */
    IV_IO,          /* a file could not be read or written */
    IV_CORRUPT,     /* a file's contents contradict themselves */
    IV_NONFINITE,   /* training met an infinity or NaN */
    IV_INTERRUPTED, /* a signal or a request to stop */
    IV_TIMEOUT,
    IV_VENDOR,   /* a vendor library or driver failed */
    IV_INTERNAL, /* a broken promise inside Invar: please report */
    IV_LOST,     /* another rank of the job is dead, hung or unreachable */
    IV_STATUS_COUNT
} iv_status;
/* "invalid", "unavailable", ... ; static text. */
IV_API const char *iv_status_name(iv_status s);
/* One line: what was being done, what is wrong, what to do.  Thread-local, valid until the next
 * failure. */
IV_API const char *iv_error_message(void);
/* Records a one-line error text for this thread and returns `code`: for callbacks such as
 * iv_build_fn. */
IV_API iv_status iv_error_set(iv_status code, const char *fmt, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;
/* "0.1.0" */
IV_API const char *iv_version(void);

typedef enum iv_log_level { IV_LOG_DEBUG, IV_LOG_INFO, IV_LOG_WARN } iv_log_level;
/* Sends log lines to `sink` (NULL: stderr).  Lines below `level` are dropped. */
IV_API void iv_log_set(iv_log_level level, void (*sink)(void *ctx, iv_log_level, const char *line),
                       void *ctx);

/* The environment variables that Invar reads: name of entry i (NULL past the end), help, and its
 * value or NULL when unset. */
IV_API int64_t iv_env_count(void);
IV_API const char *iv_env_entry(int64_t i, const char **out_help, const char **out_value);

/* ---- types ---- */
typedef enum iv_dtype {
    IV_F32,
    IV_F64,
    IV_BF16,
    IV_F16,
    IV_I32,
    IV_I64,
    IV_U8,
    IV_U16,
    IV_DTYPE_COUNT
} iv_dtype;
IV_API const char *iv_dtype_name(iv_dtype t); /* "f32", "bf16", ... */
IV_API size_t iv_dtype_bytes(iv_dtype t);
IV_API bool iv_dtype_is_float(iv_dtype t);

#define IV_MAX_RANK 6
typedef struct iv_shape {
    int32_t rank; /* 0..IV_MAX_RANK; 0 is a scalar */
    int64_t dim[IV_MAX_RANK];
} iv_shape;
#define IV_SHAPE(...)                                                                              \
    ((iv_shape){(int32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define IV_SCALAR ((iv_shape){0, {0}})
IV_API int64_t iv_shape_count(const iv_shape *s); /* elements; 1 for a scalar */

/* ---- configuration: a table of dotted keys (config.def), set from YAML, flags or code ---- */
typedef struct iv_config iv_config;
typedef enum iv_config_type { IV_CFG_STRING, IV_CFG_INT, IV_CFG_FLOAT, IV_CFG_BOOL } iv_config_type;
IV_API iv_status iv_config_new(iv_config **out);
IV_API void iv_config_free(iv_config *c);
/* Sets one key from text.  IV_INVALID: unknown key (names the nearest), or a value out of its type
 * or range; nothing is changed then. */
IV_API iv_status iv_config_set(iv_config *c, const char *key, const char *value);
/* Reads a YAML mapping of (nested) keys.  Unknown and duplicate keys are refused with file and
 * line. */
IV_API iv_status iv_config_load(iv_config *c, const char *path);
/* Writes all keys as YAML that iv_config_load reads back.  Atomic: temporary file, fsync, rename.
 */
IV_API iv_status iv_config_save(const iv_config *c, const char *path);
/* Values by key; the key must be in config.def with that type (a wrong key gives "" / 0). */
IV_API const char *iv_config_str(const iv_config *c, const char *key);
IV_API int64_t iv_config_int(const iv_config *c, const char *key);
IV_API double iv_config_float(const iv_config *c, const char *key);
IV_API bool iv_config_bool(const iv_config *c, const char *key);
/* Whether the key was set (by file, flag or code) rather than left at its default. */
IV_API bool iv_config_is_set(const iv_config *c, const char *key);
/* The table itself, for help and documentation: i in [0, n). */
typedef struct iv_config_key {
    const char *key, *flag; /* "optim.lr", "--lr" or NULL */
    iv_config_type type;
    const char *fallback, *help;
} iv_config_key;
IV_API int64_t iv_config_keys(const iv_config_key **out_keys);

/* ---- data ---- */
typedef struct iv_dataset iv_dataset;
typedef enum iv_split { IV_TRAIN, IV_VAL } iv_split;
typedef struct iv_dataset_info {
    const char *kind;   /* "text", "idx", "tokens" */
    bool is_tokens;     /* tokens: x, y i32 [context]; else images: x f32 [shape], y i32 label */
    iv_shape sample;    /* shape of one x: [context] or [channels, height, width] */
    int64_t classes;    /* vocabulary or number of labels: every id is below it */
    int64_t samples[2]; /* windows or images per split: text and tokens: non-overlapping windows */
    int64_t tokens[2];  /* tokens per split (0 for images) */
} iv_dataset_info;
/* Opens "text:FILE", "idx:DIR" (train-images-idx3-ubyte[.gz] ... t10k-...) or
 * "tokens:FILE[,VALFILE]". context: tokens per sample (ignored for images).  val_fraction: the last
 * part of a text or token file kept for validation when no separate file is given. */
IV_API iv_status iv_dataset_open(const char *spec, int64_t context, double val_fraction,
                                 iv_dataset **out);
IV_API void iv_dataset_close(iv_dataset *d);
IV_API void iv_dataset_info_get(const iv_dataset *d, iv_dataset_info *out);
/* Reads the training sample that global sample index `index` (0, 1, 2, ... over the whole run)
 * means under `seed`: text and tokens: a window at a random place (Philox, uniform over all start
 * positions); images: epoch-wise shuffled without replacement.  A pure function of its arguments.
 * x: i32 [context] or f32 [channels, height, width] in 0..1; y: i32 [context] (next tokens) or i32
 * [1]. */
IV_API iv_status iv_dataset_train_sample(iv_dataset *d, uint64_t seed, int64_t index, void *x,
                                         int32_t *y);
/* Reads sample i of a split in file order (text and tokens: window i, not overlapping). */
IV_API iv_status iv_dataset_sample(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y);

/* ---- graph ----
 * Operators append nodes and return values.  They never fail visibly: the first error is kept in
 * the graph with the node's name, later calls return a poisoned value, and iv_graph_status tells
 * it. */
typedef struct iv_graph iv_graph;
typedef struct iv_value {
    int32_t id; /* < 0: poisoned */
} iv_value;

IV_API iv_status iv_graph_new(iv_graph **out);
IV_API void iv_graph_free(iv_graph *g);
IV_API iv_status iv_graph_status(const iv_graph *g);
/* The samples of this graph's inputs come in `grains` equal parts (docs/numerics.md); to be called
 * before the first node.  1 unless set. */
IV_API void iv_graph_set_grains(iv_graph *g, int64_t grains);
/* Following nodes get "scope.": names for plans and error texts; NULL or "" ends it. */
IV_API void iv_graph_scope(iv_graph *g, const char *scope);
/* Shape and (declared) type of a value; a poisoned one gives a scalar f32. */
IV_API iv_shape iv_value_shape(const iv_graph *g, iv_value v);
IV_API iv_dtype iv_value_dtype(const iv_graph *g, iv_value v);

typedef enum iv_init_kind {
    IV_INIT_ZEROS,
    IV_INIT_ONES,
    IV_INIT_NORMAL,
    IV_INIT_UNIFORM
} iv_init_kind;
typedef struct iv_init {
    iv_init_kind kind;
    double scale; /* NORMAL: standard deviation; UNIFORM: values in [-scale, scale) */
} iv_init;
/* An input of every step.  Its first dimension counts samples (or rows in sample order) unless the
 * shape is a scalar.  dtype: IV_F32 for "the model's float type", IV_I32 for ids. */
IV_API iv_value iv_input(iv_graph *g, const char *name, iv_dtype dtype, iv_shape shape);
/* A trained parameter; names are unique. */
IV_API iv_value iv_param(iv_graph *g, const char *name, iv_shape shape, iv_init init);
/* Kept between steps and in checkpoints, but not trained (running statistics). */
IV_API iv_value iv_state(iv_graph *g, const char *name, iv_shape shape, iv_init init);
/* The scalar `name` outputs of a graph: the loss to minimise, and values to read after a step. */
IV_API void iv_graph_set_loss(iv_graph *g, iv_value loss);
IV_API void iv_graph_set_output(iv_graph *g, const char *name, iv_value v);

/* Element-wise, with NumPy's broadcasting. */
IV_API iv_value iv_add(iv_graph *g, iv_value a, iv_value b);
IV_API iv_value iv_sub(iv_graph *g, iv_value a, iv_value b);
IV_API iv_value iv_mul(iv_graph *g, iv_value a, iv_value b);
IV_API iv_value iv_div(iv_graph *g, iv_value a, iv_value b);
IV_API iv_value iv_pow(iv_graph *g, iv_value a, iv_value b); /* gradient in b needs a > 0 */
IV_API iv_value iv_maximum(iv_graph *g, iv_value a,
                           iv_value b); /* gradient of a tie goes half to each */
IV_API iv_value iv_minimum(iv_graph *g, iv_value a, iv_value b);
IV_API iv_value iv_scale(iv_graph *g, iv_value a, double factor);
IV_API iv_value iv_add_scalar(iv_graph *g, iv_value a, double c);
IV_API iv_value iv_neg(iv_graph *g, iv_value a);
IV_API iv_value iv_abs(iv_graph *g, iv_value a);
IV_API iv_value iv_relu(iv_graph *g, iv_value a);
IV_API iv_value iv_gelu(iv_graph *g, iv_value a);      /* x Phi(x) by erf */
IV_API iv_value iv_gelu_tanh(iv_graph *g, iv_value a); /* the tanh approximation ("gelu_new") */
IV_API iv_value iv_silu(iv_graph *g, iv_value a);
IV_API iv_value iv_sigmoid(iv_graph *g, iv_value a);
IV_API iv_value iv_tanh(iv_graph *g, iv_value a);
IV_API iv_value iv_exp(iv_graph *g, iv_value a);
IV_API iv_value iv_log(iv_graph *g, iv_value a);
IV_API iv_value iv_sqrt(iv_graph *g, iv_value a);
IV_API iv_value iv_rsqrt(iv_graph *g, iv_value a);
IV_API iv_value iv_sin(iv_graph *g, iv_value a);
IV_API iv_value iv_cos(iv_graph *g, iv_value a);
IV_API iv_value iv_cast(iv_graph *g, iv_value a, iv_dtype to);
/* Zeroes elements with probability p in [0, 1) and scales the rest by 1/(1-p).  The mask is a
 * function of (seed, step, global sample index), not of the device.  p = 0 is the identity. */
IV_API iv_value iv_dropout(iv_graph *g, iv_value a, double p);

/* Shape.  One dimension of a reshape may be -1.  Negative axes count from the end. */
IV_API iv_value iv_reshape(iv_graph *g, iv_value a, iv_shape shape);
IV_API iv_value iv_transpose(iv_graph *g, iv_value a,
                             const int32_t *axes); /* axes[rank]: out dim i = a dim axes[i] */
IV_API iv_value iv_slice(iv_graph *g, iv_value a, int32_t axis, int64_t start, int64_t length);
IV_API iv_value iv_concat(iv_graph *g, const iv_value *v, int32_t n, int32_t axis); /* n <= 6 */
IV_API iv_value iv_broadcast(iv_graph *g, iv_value a, iv_shape shape);

/* Reductions over the axes whose bits are set in `axes` (0: all); kept as 1 if keep, else dropped.
 */
IV_API iv_value iv_sum(iv_graph *g, iv_value a, uint32_t axes, bool keep);
IV_API iv_value iv_mean(iv_graph *g, iv_value a, uint32_t axes, bool keep);
IV_API iv_value iv_max(iv_graph *g, iv_value a, uint32_t axes, bool keep);

/* [..., m, k] x [..., k, n]: the batch dimensions are equal, or b is [k, n].  ta, tb: the last two
 * dimensions of a or b are swapped first. */
IV_API iv_value iv_matmul(iv_graph *g, iv_value a, iv_value b, bool ta, bool tb);
/* x [..., k] times weight [k, n] (or [n, k] if tw), plus bias [n], rounded once. */
IV_API iv_value iv_linear(iv_graph *g, iv_value x, iv_value weight, iv_value bias, bool tw);
/* Over the last dimension. */
IV_API iv_value iv_softmax(iv_graph *g, iv_value a);
IV_API iv_value iv_log_softmax(iv_graph *g, iv_value a);
/* logits [..., V], targets i32 [...]: -log softmax at the target per row, 0 where target == ignore.
 */
IV_API iv_value iv_cross_entropy_rows(iv_graph *g, iv_value logits, iv_value targets,
                                      int64_t ignore);
/* Mean of the above over the targets that are not ignored.  targets must be an input; the graph
 * gets an input scalar with the number of targets that count in the whole optimizer step, which the
 * trainer fills, so that accumulation and ranks do not change the mean. */
IV_API iv_value iv_cross_entropy(iv_graph *g, iv_value logits, iv_value targets, int64_t ignore);
/* Over the last dimension; weight and bias [C]. */
IV_API iv_value iv_layernorm(iv_graph *g, iv_value x, iv_value weight, iv_value bias, double eps);
IV_API iv_value iv_rmsnorm(iv_graph *g, iv_value x, iv_value weight, double eps);
/* x [N, C, ...]; statistics per grain in training.  running_mean, running_var: states [C], updated
 * by r = (1 - momentum) r + momentum batch (variance unbiased).  train false uses the running ones.
 */
IV_API iv_value iv_batchnorm(iv_graph *g, iv_value x, iv_value weight, iv_value bias,
                             iv_value running_mean, iv_value running_var, double eps,
                             double momentum, bool train);
IV_API iv_value iv_embedding(iv_graph *g, iv_value weight,
                             iv_value ids); /* [V, C], i32 [...] -> [..., C] */
/* q [B, Tq, H*D], k, v [B, Tk, H*D] -> [B, Tq, H*D].  scale 0: 1/sqrt(D).  causal: query i sees
 * keys up to i + Tk - Tq.  Never holds Tq x Tk in memory. */
IV_API iv_value iv_attention(iv_graph *g, iv_value q, iv_value k, iv_value v, int64_t heads,
                             bool causal, double scale);
typedef struct iv_window {
    int32_t size[2], stride[2], pad[2]; /* rows, columns; size is unused by convolutions */
} iv_window;
/* x [N, C, H, W], weight [O, C/groups, KH, KW] -> [N, O, H', W'].  bias [O], or NULL. */
IV_API iv_value iv_conv2d(iv_graph *g, iv_value x, iv_value weight, const iv_value *bias,
                          iv_window w, int32_t groups);
IV_API iv_value iv_max_pool2d(iv_graph *g, iv_value x, iv_window w);
IV_API iv_value iv_avg_pool2d(iv_graph *g, iv_value x,
                              iv_window w); /* padding counts in the mean */

/* The derivative of the loss by a parameter or float input, appended to the graph once by
 * iv_graph_differentiate.  IV_UNSUPPORTED names an operator without a gradient on the way. */
IV_API iv_status iv_graph_differentiate(iv_graph *g);
IV_API iv_value iv_graph_gradient(const iv_graph *g, iv_value of); /* poisoned if there is none */

/* ---- plugins ---- */
typedef struct iv_plugin_info {
    const char *kind, *name, *version, *summary;
    const char *origin;  /* "built in" or a file */
    const char *refused; /* why it cannot be used, or "" */
} iv_plugin_info;
/* Candidate i (false past the end): built-in plugins and the libraries tried so far. */
IV_API bool iv_plugin_entry(int32_t i, iv_plugin_info *out);
/* What precision plugin `spec` ("16-mixed", "apex(level=O1)") does: types, loss scale, operators by
 * type; lines of text.  The caller frees with free(). */
IV_API iv_status iv_precision_text(const char *spec, char **out_text);
/* Loads the shared libraries named in a comma-separated list (other entries are left alone). */
IV_API iv_status iv_plugins_load(const char *list);

/* ---- clusters: which process of how many this is, as the launcher's environment tells ---- */
enum { IV_MOST_PORTS = 8 };
typedef enum iv_rank_field {
    IV_RANK_WORLD,
    IV_RANK_RANK,
    IV_RANK_LOCAL_WORLD,
    IV_RANK_LOCAL_RANK,
    IV_RANK_NODES,
    IV_RANK_NODE,
    IV_RANK_ADDRESS,
    IV_RANK_PORT,
    IV_RANK_FIELDS
} iv_rank_field;
typedef struct iv_ranks {
    int32_t world, rank; /* 0 <= rank < world */
    int32_t local_world,
        local_rank;      /* on this node; local_world 0: the environment does not tell */
    int32_t nodes, node; /* nodes 0 and node -1: the environment does not tell */
    char address[256]; /* where rank 0 listens: name or number; "": the environment does not tell */
    int32_t port;      /* ports[0], or 0 */
    /* Rank 0 listens on the first of these that is free; the others try them in turn. */
    int32_t n_ports, ports[IV_MOST_PORTS];
    /* Processes that this one is to start on its node, itself being the first: world, rank and
     * local_world count them.  1: the launcher has started all. */
    int32_t spawn;
    int32_t restarts; /* how often the launcher has started this job before */
    char job[64];     /* tells runs on shared nodes apart; the same on every rank; may be "" */
    /* The variable, or the rule, that gave each field: "SLURM_PROCID"; "" where none did. */
    char from[IV_RANK_FIELDS][64];
} iv_ranks;
typedef struct iv_cluster_info {
    char name[64];     /* the plugin, or "none" */
    char why[512];     /* what decided, one line */
    char requeue[256]; /* command that makes the scheduler run the job again, or "" */
    iv_ranks ranks;
} iv_cluster_info;
/* The environment that cluster.name, INVAR_CLUSTER or detection choose, and what it says, checked
 * against device.devices and cluster.nodes.  IV_INVALID names what is missing or contradicts.
 * Writes name and why in *out also then, where a choice was made. */
IV_API iv_status iv_cluster_find(const iv_config *c, iv_cluster_info *out);
typedef struct iv_cluster_candidate {
    char name[64];
    int32_t score; /* 0: not here; the highest is chosen */
    char why[512];
} iv_cluster_candidate;
/* Candidate i of the detection (false past the end), in the order of plugins. */
IV_API bool iv_cluster_candidate_get(int32_t i, iv_cluster_candidate *out);

/* ---- topology: the machine as this process may use it, and where its ranks belong ---- */
typedef struct iv_topo_node { /* a NUMA node with usable CPUs */
    int32_t os_index, package;
    int32_t first_cpu, n_cpus; /* range of iv_topo.cpus */
    int64_t mem_bytes;         /* 0: not known */
} iv_topo_node;
typedef struct iv_topo_cpu {
    int32_t os_index, core, node; /* core: number on the machine; node: index into nodes */
} iv_topo_cpu;
typedef struct iv_topo_device {
    char kind[8]; /* "gpu" or "nic" */
    char name[64], bus[16];
    int32_t node; /* the nearest: index into nodes, or -1 where none is nearer than others */
} iv_topo_device;
typedef struct iv_topo {
    char source[128]; /* "hwloc 2.9.0", or what tells less without it */
    bool here;        /* it is this machine; false: HWLOC_SYNTHETIC or HWLOC_XMLFILE */
    bool bound;       /* the process may use fewer CPUs than its container: a launcher bound it */
    int32_t n_packages, n_nodes, n_cpus, n_devices, machine_cpus;
    iv_topo_node *nodes;
    iv_topo_cpu *cpus; /* by node, then core */
    iv_topo_device *devices;
} iv_topo;
IV_API iv_status iv_topo_open(iv_topo **out);
IV_API void iv_topo_close(iv_topo *t);
typedef struct iv_topo_place {
    int32_t n_cpus, n_nodes;
    int32_t *cpus, *nodes; /* numbers of the system */
    int32_t gpu, nic;      /* nearest: indices into devices, or -1 */
} iv_topo_place;
/* The place of rank `local_rank` among the `local_world` of this machine.  Ranks are dealt to NUMA
 * nodes in proportion to their cores and share a node's cores evenly; fewer ranks than nodes get
 * whole nodes.  gpu: rank i works on the i-th GPU, and its CPUs are near that.  Whole cores, unless
 * there are more ranks than cores.  The caller frees *out with free(). */
IV_API iv_status iv_topo_place_get(const iv_topo *t, int32_t local_rank, int32_t local_world,
                                   bool gpu, iv_topo_place **out);

/* ---- models ---- */
typedef struct iv_model_io {
    iv_value x, y;   /* inputs: samples and targets (i32; entries -1 are ignored) */
    iv_value loss;   /* scalar */
    iv_value logits; /* [batch, classes] or [batch, context, vocabulary] */
} iv_model_io;
/* Builds a model's graph for `batch` samples; train false leaves out dropout and takes running
 * statistics.  Called once for each batch size that a run needs. */
typedef iv_status (*iv_build_fn)(void *ctx, iv_graph *g, int64_t batch, bool train,
                                 iv_model_io *out);
typedef struct iv_model_spec {
    const iv_config *config; /* borrowed: the keys model.* */
    iv_shape sample;         /* shape of one x */
    int64_t classes;         /* labels, or vocabulary */
    bool is_tokens;
} iv_model_spec;
/* The built-in models "gpt", "cnn", "mlp" (model.name) as an iv_build_fn; ctx is an iv_model_spec.
 */
IV_API iv_status iv_model_build(void *spec, iv_graph *g, int64_t batch, bool train,
                                iv_model_io *out);
/* Fills a spec from configuration and data (data NULL: gpt with model.vocab and model.context). */
IV_API iv_status iv_model_spec_from(const iv_config *c, const iv_dataset_info *data,
                                    iv_model_spec *out);

/* ---- training ---- */
typedef struct iv_trainer iv_trainer;
/* Only an applied step changes parameters, optimizer state, step counter and learning rate. */
typedef enum iv_step_outcome {
    IV_APPLIED,
    IV_SKIPPED_OVERFLOW, /* infinities or NaN; the loss scale was lowered where there is one */
    IV_SKIPPED_NONE      /* no target counts in these samples: there is no loss */
} iv_step_outcome;
/* What one optimizer step did. */
typedef struct iv_step_report {
    int64_t step;                       /* optimizer steps applied so far, this one included */
    double loss;                        /* mean over the targets that count, before the update */
    double grad_norm;                   /* L2, unscaled, before clipping */
    double lr, scale;                   /* learning rate used, loss scale */
    double samples_per_s, tokens_per_s; /* of this step; tokens 0 for images */
    int64_t ns;                         /* wall time of the step */
    bool skipped;                       /* outcome is not IV_APPLIED */
    iv_step_outcome outcome;
    double lost_updates; /* share of the parameters' changes that rounding them to 16 bits undid;
                            -1: they are wider, or nothing was applied */
    int64_t waited_ns;   /* of `ns`, for sums and parameters of other ranks */
} iv_step_report;

/* Opens devices, plugins and data as the configuration says, meets the other ranks of the job,
 * builds graph, plans and arenas.  With several ranks, steps, validations, saves, loads and hashes
 * are made by all ranks together, in the same order; IV_LOST names a rank that is gone.  data
 * may be NULL (no training: generate, or iv_trainer_step_on).  build and ctx must stay valid. */
IV_API iv_status iv_trainer_open(const iv_config *c, iv_dataset *data, iv_build_fn build, void *ctx,
                                 iv_trainer **out);
IV_API void iv_trainer_close(iv_trainer *t);
/* One optimizer step on the next samples of the data.  IV_NONFINITE names step and first bad node;
 * parameters are unchanged then. */
IV_API iv_status iv_trainer_step(iv_trainer *t, iv_step_report *out);
/* The same on given samples: x [batch * accumulate, sample], i32 or f32; y i32; all of them on
 * every rank. */
IV_API iv_status iv_trainer_step_on(iv_trainer *t, const void *x, const int32_t *y,
                                    iv_step_report *out);
/* Mean loss over the validation data (eval.batches, or all), and for images the share of right
 * answers (accuracy -1 for tokens).  IV_UNAVAILABLE if there is none. */
IV_API iv_status iv_trainer_evaluate(iv_trainer *t, double *out_loss, double *out_accuracy);
/* Checkpoints through the plugin out.checkpoint. */
IV_API iv_status iv_trainer_save(iv_trainer *t, const char *path);
IV_API iv_status iv_trainer_load(iv_trainer *t, const char *path);
/* Parameters only, by name, from a safetensors file (for example one that Hugging Face wrote; a
 * prefix "transformer." is accepted).  Every parameter must be there with its shape; others are
 * ignored. */
IV_API iv_status iv_trainer_load_params(iv_trainer *t, const char *path);
/* Hex of XXH3-128 over parameters and statistics, or over the optimizer state: 32 digits and NUL.
 */
IV_API iv_status iv_trainer_hash(iv_trainer *t, bool optimizer_state, char out_hex[33]);
/* Norms of the parameters' gradients of the last step, unscaled, before clipping: [param_count].
 * IV_INVALID unless train.track_norm is set. */
IV_API iv_status iv_trainer_grad_norms(iv_trainer *t, double *out);
/* A parameter, or its last gradient (before clipping), as f64.  count: its elements. */
IV_API int64_t iv_trainer_param_count(const iv_trainer *t);
IV_API const char *iv_trainer_param_name(const iv_trainer *t, int64_t i, iv_shape *out_shape);
IV_API iv_status iv_trainer_param_read(iv_trainer *t, int64_t i, bool gradient, double *out);
/* The plan as text: one line a step, then memory by category.  The caller frees with free(). */
typedef enum iv_plan_detail { IV_PLAN_SUMMARY, IV_PLAN_STEPS, IV_PLAN_REFUSED } iv_plan_detail;
IV_API iv_status iv_trainer_plan_text(iv_trainer *t, iv_plan_detail detail, char **out_text);
/* Bytes of device memory by category, as planned; total equals what is allocated. */
typedef struct iv_memory_report {
    int64_t parameters, gradients, optimizer, lowered, statistics, inputs, temporaries, other,
        total;
    int64_t allocated; /* by the device's own count */
    int64_t passing;   /* of the temporaries: parameters and gradients of a sharded run that this
                          rank does not keep, at most */
    int64_t exchange;  /* host memory in which sums of other ranks arrive; not in the total */
} iv_memory_report;
IV_API void iv_trainer_memory(const iv_trainer *t, iv_memory_report *out);
/* Those of all ranks; out has room for the ranks of the run (iv_trainer_info.world).  Collective.
 */
IV_API iv_status iv_trainer_memory_all(iv_trainer *t, iv_memory_report *out);
/* Compares two devices: both trainers, opened on one configuration but for the device, make one
 * training step on the same made-up samples, operator by operator; then the update. */
typedef struct iv_check_report {
    int64_t compared;       /* tensors that were compared */
    int64_t different;      /* elements of the tensor below whose bits differ; 0: all is equal */
    int64_t elements;       /* of that tensor, the first one with a difference */
    char node[128], op[64]; /* "h.0.softmax", "softmax"; or a parameter and "parameter" */
    char label[2][64];      /* what computed it: "cpu.gemm", "matmul_ff" */
    int32_t output;         /* of the node */
    int64_t element;        /* the first that differs, in row-major order, */
    char index[64];         /* and as "[0,3,7]" */
    iv_dtype type;
    uint64_t bits[2];
} iv_check_report;
IV_API iv_status iv_trainer_check(iv_trainer *a, iv_trainer *b, iv_check_report *out);
typedef struct iv_trainer_info {
    int64_t step, max_steps, samples_seen, batch, grains, accumulate, parameters;
    const char *device, *precision, *numerics;
    bool is_tokens;
    int32_t rank, world;
    int64_t own_grains; /* of a step, that this rank computes now */
} iv_trainer_info;
IV_API void iv_trainer_info_get(const iv_trainer *t, iv_trainer_info *out);

/* The training loop: steps, validations, checkpoints, metrics.csv and config.yaml as the
 * configuration says.  Callbacks may be NULL; `stop` is asked after each step and in validations:
 * iv_stop bits on any rank end the run on all of them, after a checkpoint, with IV_INTERRUPTED. */
typedef enum iv_stop {
    IV_STOP = 1,
    IV_STOP_REQUEUE = 2 /* the run is to be started again: iv_fit_result.stopped tells every rank */
} iv_stop;
typedef struct iv_fit_callbacks {
    void *ctx;
    void (*on_step)(void *ctx, const iv_step_report *r);
    void (*on_eval)(void *ctx, int64_t step, double loss, double accuracy);
    void (*on_save)(void *ctx, int64_t step, const char *path);
    int (*stop)(void *ctx);
} iv_fit_callbacks;
typedef struct iv_fit_result {
    int64_t steps;
    double loss, val_loss, val_accuracy; /* NAN where there is none */
    char hash[33], state_hash[33];
    char checkpoint[1024]; /* the last one written, or "" */
    int stopped;           /* what `stop` said on all ranks together; 0: nothing */
} iv_fit_result;
IV_API iv_status iv_trainer_fit(iv_trainer *t, const iv_fit_callbacks *cb, iv_fit_result *out);

/* Generates n tokens after the prompt (prompt_n >= 1) into out [n].  temperature 0: the most
 * likely; top_k 0: all.  Deterministic in seed. */
IV_API iv_status iv_trainer_generate(iv_trainer *t, const int32_t *prompt, int64_t prompt_n,
                                     int64_t n, double temperature, int64_t top_k, uint64_t seed,
                                     int32_t *out);

/* ---- benchmarks ---- */
typedef struct iv_bench_row {
    const char *group;             /* "peak", "matmul", "ops", "step", "launches", "ckpt" */
    const char *name;              /* "forward 1024x2304x768 bf16" */
    const char *impl;              /* "cpu.gemm", or "" */
    double seconds;                /* of one run: the median; 0: the row states a peak */
    double flops, bytes;           /* of one run; of a peak: per second; 0: not counted */
    double peak_flops, peak_bytes; /* per second, measured in the same call; 0: not known */
    int64_t runs;
} iv_bench_row;
/* Measures on a trainer's device, in its precision: "peak" what multipliers and memory do at most;
 * "matmul" the products of a GPT-2 layer by each implementation that takes them, in turns; "ops"
 * each kind of launch in the forward and backward pass of its model, "step" whole training steps,
 * both on random samples (the model is trained on them); or "all", these four; "launches" each
 * launch by itself; "ckpt" what checkpoints cost, in out.dir, which must hold none.  seconds: to
 * spend on a row. Texts of a row are valid during the call. */
IV_API iv_status iv_bench_run(iv_trainer *t, const char *what, double seconds,
                              void (*on_row)(void *ctx, const iv_bench_row *row), void *ctx);

/* ---- checkpoints and devices, for tools ---- */
typedef struct iv_ckpt_visitor {
    void *ctx;
    void (*meta)(void *ctx, const char *key, const char *value);
    void (*tensor)(void *ctx, const char *name, iv_dtype dtype, const iv_shape *shape);
} iv_ckpt_visitor;
/* Reads and verifies a checkpoint, telling what is in it. */
IV_API iv_status iv_checkpoint_list(const char *path, const iv_ckpt_visitor *v);
/* Removes a checkpoint of any format; a missing one is fine. */
IV_API iv_status iv_checkpoint_remove(const char *path);
/* How a tensor of two checkpoints differs.  different, max_abs: of tensors of one shape and type.
 */
typedef struct iv_ckpt_difference {
    const char *name;
    const char *kind; /* "equal", "values", "shape", "type", "only in the first" or "... second" */
    int64_t elements, different;
    double max_abs; /* NAN if one of the two is */
} iv_ckpt_difference;
/* Reads both and tells each tensor, in the order of the names. */
IV_API iv_status iv_checkpoint_diff(const char *path_a, const char *path_b,
                                    void (*tell)(void *ctx, const iv_ckpt_difference *d),
                                    void *ctx);
/* Writes what src holds as dst.  format: a checkpoint plugin; NULL: by the ending of dst
 * (.safetensors, .index.json, .pt, .pth, .bin, .ckpt; none: a sharded folder). */
IV_API iv_status iv_checkpoint_convert(const char *src, const char *dst, const char *format);
typedef struct iv_device_entry {
    char name[32]; /* "cpu:0" */
    char description[128], vendor[64], driver[64], arch[64], notes[256];
    int64_t mem_bytes, mem_free;
    int32_t units;
    bool f64, exact, native_bf16, native_f16;
    char why[512]; /* backend not usable: the reason (the rest is empty then) */
} iv_device_entry;
/* Devices of all backends, and unusable backends with the reason.  The caller frees *out. */
IV_API iv_status iv_devices_list(iv_device_entry **out, int64_t *out_n);

#ifdef __cplusplus
}
#endif
#endif
