/* safetensors.h: the checkpoint plugin `safetensors`, the default format. */
#ifndef IV_CHECKPOINT_SAFETENSORS_H
#define IV_CHECKPOINT_SAFETENSORS_H

#include "pour.h"

#define IV__ST_LARGE ((uint64_t)32 << 20) /* bytes of data from which several threads write */

extern const iv_plugin iv__plugin_safetensors;
/* Lets an instance (out_self of init) use other system calls; `calls` must outlive it.  For tests.
 */
void iv__st_use_calls(void *self, const iv__io_calls *calls);

/* What pins the contents of a file that was written: its size, and the checksum of its header,
 * which holds the checksums of all data. */
typedef struct iv__st_stamp {
    uint64_t bytes;
    char header[17];
} iv__st_stamp;
/* Writes j->path atomically; `out` may be NULL. */
iv_status iv__st_write(const iv__io_job *j, const iv_ckpt *c, iv__io_way way, iv__st_stamp *out);
/* Reads and verifies j->path.  stamp, which may be NULL: what it must match, else IV_CORRUPT. */
iv_status iv__st_read(const iv__io_job *j, const iv_ckpt_sink *sink, const iv__st_stamp *stamp);
/* Length of the header of an opened file of `size` bytes, or the reason why this is no such file.
 */
iv_status iv__st_length(const iv__io_job *j, int fd, uint64_t size, uint64_t *out_n);

#endif
