/* grad.h: the gradient functions named in ops.def and elem.def (written in grad.c). */
#ifndef IV_GRAD_H
#define IV_GRAD_H

#include "graph.h"

#define G(fn) iv_status iv__grad_##fn(iv_graph *g, const iv__node *n);
#define NO_GRAD(why)
#define O(NAME, id, ins, outs, rule, gradient, cls, text) gradient
#define E(NAME, id, ins, expr, cls, gradient) gradient
#include "../kernels/elem.def"
#include "ops.def"
#undef G
#undef NO_GRAD
#undef O
#undef E

#endif
