/* safetensors.h: the checkpoint plugin `safetensors`, the default format. */
#ifndef IV_CHECKPOINT_SAFETENSORS_H
#define IV_CHECKPOINT_SAFETENSORS_H

#include "io.h"

extern const iv_plugin iv__plugin_safetensors;
/* Lets an instance (out_self of init) use other system calls; `calls` must outlive it.  For tests.
 */
void iv__st_use_calls(void *self, const iv__io_calls *calls);

#endif
