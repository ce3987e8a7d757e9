/* plan_build.h: inside the planner (plan.c, plan_steps.c). */
#ifndef IV_PLAN_BUILD_H
#define IV_PLAN_BUILD_H

#include "plan.h"

struct iv__lower {
    iv__plan *p;
    int32_t node; /* being lowered */
};

/* Room in layouts and places for all values of the graph. */
iv_status iv__plan_room(iv__plan *p);
const iv__value *iv__plan_value(const iv__plan *p, int32_t v);
void iv__row_major(const iv_shape *s, int64_t *stride);
/* Whether the elements of v lie in row-major order without gaps (sizes of 1 may have any stride).
 */
bool iv__plan_contiguous(const iv__plan *p, int32_t v);
/* v owns its bytes, in row-major order. */
void iv__plan_own(iv__plan *p, int32_t v, iv__arena arena);
iv_status iv__plan_temp(iv__plan *p, iv_dtype t, iv_shape s, int32_t *out);
iv__view iv__plan_view(const iv__plan *p, int32_t v);

iv_status iv__plan_add_step(iv__plan *p, const iv__step *s);
/* One more operand of a step. */
void iv__plan_add_value(iv__step *s, const iv__plan *p, int32_t v);
/* A launch of `prog` over shape s, from values in[] to value out laid out as dst. */
iv_status iv__plan_add_program(iv__plan *p, int32_t node, iv_program *prog, const iv_shape *s,
                               const int32_t *in, int32_t out, const iv__layout *dst);
/* Copies value `from` (any view) to elements of `to` laid out as dst, converting the float type. */
iv_status iv__plan_add_copy(iv__plan *p, int32_t node, int32_t from, int32_t to,
                            const iv__layout *dst);
iv_status iv__plan_add_fill(iv__plan *p, int32_t node, int32_t v);
/* plan_sets.c: value v has the sums of element `at` of the gradient arena on. */
iv_status iv__plan_add_sums(iv__plan *p, int32_t v, int64_t at);
/* All steps are there: those that send and await what this rank does not keep go between them. */
iv_status iv__plan_add_sets(iv__plan *p);

#endif
