/* oplists.h: which operators run in which type, as the lists of the systems that users know put it:
 * one table over the operators of ops.def, a column for each list.
 *
 *   default  ops.def's own classes: what 16-mixed and bf16-mixed use on every device
 *   cuda, cpu  torch.autocast's lists for these devices; a run is the same wherever it runs, so the
 *            list is an option of the policy and does not follow the device
 *   hpu      Habana's autocast;  hpu-o2: products in low, the rest in f32
 *   apex     Apex's O1
 *   true     the whole model in the low type, losses in f32 (the "true" policies, Apex's O2 and O3)
 */
#ifndef IV_OPLISTS_H
#define IV_OPLISTS_H

#include "../runtime/plugin.h"

#include <stddef.h>

typedef enum iv__oplist {
    IV_LIST_DEFAULT,
    IV_LIST_CUDA,
    IV_LIST_CPU,
    IV_LIST_HPU,
    IV_LIST_HPU_O2,
    IV_LIST_APEX,
    IV_LIST_TRUE,
    IV_LIST_COUNT
} iv__oplist;

/* The list of that name, or IV_LIST_COUNT. */
iv__oplist iv__oplist_find(const char *name);
const char *iv__oplist_name(iv__oplist list);
/* Class of an operator; gradients ("softmax_grad") follow their operator. */
iv_cast_class iv__oplist_class(iv__oplist list, const char *op, iv_cast_class fallback);
/* The row of the table that an operator or its gradient belongs to; -1: none. */
int iv__oplist_row(const char *op);
/* The table as text: a line for each operator, what every list but `default` makes of it.  Returns
 * the bytes needed, the final 0 included. */
size_t iv__oplist_text(char *dst, size_t size);

#endif
