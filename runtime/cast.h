/* cast.h: inside the pass that gives values their types.  cast.c visits the nodes; operands.c
 * rounds operands of products to formats of few bits. */
#ifndef IV_CAST_H
#define IV_CAST_H

#include "graph.h"

typedef struct iv__caster {
    iv_graph *g;
    const iv__precision *precision;
    iv_dtype full, compute, low;
    iv__node *nodes; /* the new list */
    int64_t n_nodes, cap_nodes;
    /* [values] id + 1 of the cast to a type, and last of the rounded operand; 0: none */
    int32_t (*casts)[IV_DTYPE_COUNT + 1];
    int64_t cap_casts;
} iv__caster;

/* Appends a copy of `like`, whose output becomes a new value of that type, shape and name. */
iv_status iv__cast_append(iv__caster *c, const iv__node *like, iv_dtype t, iv_shape shape,
                          const char *name, int32_t *out);
/* Room in c->casts for all values. */
iv_status iv__cast_room(iv__caster *c);
/* The node of the new list that makes v, or NULL. */
static inline const iv__node *iv__cast_maker(const iv__caster *c, int32_t v)
{
    int32_t n = c->g->values[v].node;
    return n >= 0 ? &c->nodes[n] : NULL;
}

/* Whether the policy rounds the operands of node n, whose inputs are those of before: then inputs 0
 * and 1 become the rounded ones, of type *out_type. */
iv_status iv__operands_round(iv__caster *c, iv__node *n, bool *out_rounded, iv_dtype *out_type);

#endif
