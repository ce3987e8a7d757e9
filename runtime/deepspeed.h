/* deepspeed.h: how a DeepSpeed configuration wants the work shared. */
#ifndef IV_DEEPSPEED_H
#define IV_DEEPSPEED_H

#include "base.h"

/* The ZeRO stage of the file precision.config: 0 (also without a file) or 1.  IV_INVALID names a
 * key that is unknown, there twice, or contradicts the run; IV_UNSUPPORTED: stages 2 and 3 of
 * several ranks, and offloading.
 */
iv_status iv__deepspeed_stage(const iv_config *c, int32_t world, int32_t *out);

#endif
