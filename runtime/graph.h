/* graph.h: the graph inside: values, nodes, and what passes over it need.
 *
 *   values[]  one entry per tensor: type, shape, role; made by a node or given (inputs, parameters)
 *   nodes[]   in an order in which every value is made before it is used
 *
 * Passes (grad, cast, fuse) append values and rebuild nodes[]; ids of values never change.
 */
#ifndef IV_GRAPH_H
#define IV_GRAPH_H

#include "base.h"
#include "precision.h"

typedef enum iv__op {
#define O(NAME, ...) IV_OP_##NAME,
#define E(NAME, ...) IV_OP_##NAME,
#include "../kernels/elem.def"
#include "ops.def"
#undef O
#undef E
    IV_OP_COUNT
} iv__op;

typedef enum iv__role {
    IV_ROLE_TEMP,
    IV_ROLE_INPUT,
    IV_ROLE_PARAM,
    IV_ROLE_STATE, /* running statistics */
} iv__role;

typedef struct iv__value {
    iv_dtype dtype;
    iv_shape shape;
    iv__role role;
    int32_t node;       /* that makes it, or -1 */
    int32_t grad;       /* value of d(loss)/d(this), or -1 */
    int32_t updates;    /* STATE: sum over the grains of the statistic that it follows, or -1 */
    double rate;        /* STATE: how fast: r = (1 - rate) r + rate (sum / grains) */
    int8_t samples;     /* 0: none; d: dimension d - 1 runs over samples, or rows in their order */
    int32_t summand_of; /* PARAM: 0, or 1 + the parameter whose gradient this one's is a part of */
    bool full;        /* keeps the full type under casting: a parameter's gradient or part of one */
    iv_init init;     /* PARAM, STATE */
    const char *name; /* owned by the graph; "" for temporaries */
} iv__value;

typedef struct iv__node {
    iv__op op;
    int32_t n_in, n_out;
    int32_t in[IV_NODE_INPUTS], out[IV_NODE_OUTPUTS];
    int64_t attr[12]; /* meaning per operator: enum below */
    double fattr[4];
    bool segments; /* sums over samples: cut into grains, folded by the tree */
    bool backward;
    const char *name;    /* "h.0.attn.matmul"; owned by the graph */
    iv_program *program; /* ELEMENTS only; owned by the graph */
} iv__node;

/* attr[] by operator */
enum {
    IV_A_AXES = 0,   /* TRANSPOSE: axes[rank] from 0 */
    IV_A_AXIS = 0,   /* SLICE, PAD, CONCAT */
    IV_A_START = 1,  /* SLICE, PAD: first index of the range */
    IV_A_LENGTH = 2, /* SLICE: length of the range; PAD: size of the result */
    IV_A_MASK = 0,   /* SUM, MAX: bit per reduced axis */
    IV_A_KEEP = 1,   /* SUM, MAX: reduced dimensions stay as 1 */
    IV_A_FIRST = 2,  /* SUM: `samples` of the input: counts first in the order of the sum */
    IV_A_TA = 0,
    IV_A_TB = 1,     /* MATMUL: transposed operands */
    IV_A_IGNORE = 0, /* XENT, XENT_GRAD */
    IV_A_VOCAB = 0,  /* EMBEDDING_GRAD: rows of the table */
    IV_A_HEADS = 0,
    IV_A_CAUSAL = 1, /* ATTENTION; fattr[0] = scale */
    IV_A_STRIDE = 0,
    IV_A_PAD = 2,
    IV_A_GROUPS = 4,
    IV_A_SIZE = 5,   /* CONV2D*, *POOL2D*: rows, columns */
    IV_A_SRC = 7,    /* CONV2D_DGRAD, *POOL2D_GRAD: H, W of x; CONV2D_WGRAD: KH, KW */
    IV_A_STREAM = 0, /* DROPOUT: random stream; fattr[0] = p, fattr[1] = 1/(1-p) */
};
/* fattr[]: SCALE, ADD_SCALAR: [0]; norms: [0] = eps */

/* A tensor that a policy of 8-bit floats rounds (operands.c). */
typedef struct iv__scaled {
    int32_t amax; /* value: the largest magnitude in this pass, or -1 in graphs without gradients */
    bool gradient; /* made by the backward pass */
} iv__scaled;

struct iv_graph {
    iv__value *values;
    iv__node *nodes;
    int64_t n_values, cap_values, n_nodes, cap_nodes;
    int64_t grains;       /* equal parts of the samples: sums over samples follow their tree */
    int32_t loss;         /* value or -1 */
    int32_t seed;         /* INPUT scalar: d(loss), the loss scale; -1 before differentiation */
    int32_t norm_input;   /* INPUT scalar: targets that count in the step, or -1 */
    int32_t norm_targets; /* INPUT whose entries != norm_ignore count */
    int64_t norm_ignore;
    struct {
        const char *name;
        int32_t value;
    } outputs[16];
    int32_t n_outputs;
    int32_t scales;     /* INPUT [n_scaled]: the scales of these tensors, or -1 */
    iv__scaled *scaled; /* forward tensors first, so that graphs without gradients count alike */
    int64_t n_scaled, cap_scaled;
    bool differentiated, in_backward;
    char scope[96];
    iv_status status; /* of the first error */
    char error[512];
    char **names; /* all names, freed with the graph */
    int64_t n_names, cap_names;
};

/* One row of the table of operators. */
typedef struct iv__op_info {
    const char *name;
    int32_t n_in, n_out; /* n_in -1: any */
    iv_status (*infer)(iv_graph *g, iv__node *n,
                       iv__value *out);                /* sets shape, dtype, batch of out[] */
    iv_status (*grad)(iv_graph *g, const iv__node *n); /* NULL: none */
    const char *no_grad;                               /* why there is none */
    iv_cast_class cast;
    bool elementwise;
    const char *help;
} iv__op_info;
extern const iv__op_info iv__ops[IV_OP_COUNT];

/* Appends a node with the given inputs; infers outputs.  attr (12) and fattr (4) may be NULL.
 * Returns output 0 (the others follow by id), or a poisoned value with the error kept in the graph.
 */
iv_value iv__node_add(iv_graph *g, iv__op op, const iv_value *in, int32_t n_in, const int64_t *attr,
                      const double *fattr);
/* Adds a value that no node makes. */
iv_value iv__value_add(iv_graph *g, iv__role role, const char *name, iv_dtype t, iv_shape s,
                       iv_init init);
/* Keeps the first error (text of iv_error_message) with the node's name. */
void iv__graph_fail(iv_graph *g, iv_status s, const char *what);
const char *iv__graph_name(iv_graph *g, const char *fmt, ...) IV_PRINTF(2, 3);
/* Output k of the node that made v. */
iv_value iv__value_output(const iv_graph *g, iv_value v, int32_t k);
int32_t iv__graph_find(const iv_graph *g, const char *name); /* value with a name, or -1 */
/* Adds to uses [values] how often each is read: by nodes, as an output, as the gradient of a
 * parameter, as a new state, as the largest magnitude of a scaled tensor.  (The loss is not read.)
 */
void iv__graph_count_uses(const iv_graph *g, int32_t *uses);
/* Removes nodes whose outputs nobody needs. */
iv_status iv__graph_prune(iv_graph *g);
/* A struct's padding is not part of a shape, nor are dimensions beyond the rank. */
static inline bool iv__shape_equal(const iv_shape *a, const iv_shape *b)
{
    return a->rank == b->rank && memcmp(a->dim, b->dim, (size_t)a->rank * sizeof(a->dim[0])) == 0;
}
/* "[4,64,128]" */
const char *iv__shape_text(const iv_shape *s, char *buf, size_t size);

/* Adds d to the gradient of v (grad.c; for the gradient functions). */
void iv__gradient_add(iv_graph *g, int32_t v, iv_value d);
/* After iv_graph_differentiate: a parameter that is used several times keeps the gradient of its
 * first use; each other one becomes the gradient of a value of its own (summand_of), to be added at
 * the end of the step.  Each sum over samples then goes through the tree over passes by itself. */
iv_status iv__graph_split_gradients(iv_graph *g);

/* commute.c, before differentiation: relu and max pooling change places where that gives the same
 * bits on smaller planes. */
iv_status iv__graph_commute(iv_graph *g);
/* cast.c: gives every value its type under the policy and inserts casts. */
iv_status iv__graph_cast(iv_graph *g, const iv__precision *policy);
/* absorb.c: removes casts next to kernels that convert on load and store. */
iv_status iv__graph_absorb(iv_graph *g);
/* fuse.c: merges chains of element-wise nodes into ELEMENTS nodes. */
iv_status iv__graph_fuse(iv_graph *g);

#endif
