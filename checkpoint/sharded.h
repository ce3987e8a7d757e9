/* sharded.h: a checkpoint as a folder that all ranks write together.
 *
 *   step-000000000100/
 *     manifest.safetensors                 metadata, list of tensors, list of files: the commit
 * point 00c5f3a1b2d4e6f8-0000.safetensors    what rank 0 wrote in the save of that id
 *     00c5f3a1b2d4e6f8-0001.safetensors
 *
 * Files hold whole tensors, or parts of them named "NAME[begin:end]" with rank 1.  The manifest is
 * a safetensors file without tensors, whose metadata are those of the checkpoint and two more
 * texts: "invar.sharded.tensors", a line "DTYPE d0,d1,... NAME" for each, and
 * "invar.sharded.files", a line "NAME BYTES XXH3" for each, with the checksum of the file's header,
 * which covers all of the file. So one reader reads everything, and a folder without a valid
 * manifest is no checkpoint.
 */
#ifndef IV_CHECKPOINT_SHARDED_H
#define IV_CHECKPOINT_SHARDED_H

#include "safetensors.h"

extern const iv_plugin iv__plugin_sharded;
void iv__sharded_use_calls(void *self, const iv__io_calls *calls); /* for tests */

#define IV__SHARDED_MANIFEST "manifest.safetensors"
#define IV__SHARDED_TENSORS "invar.sharded.tensors"
#define IV__SHARDED_FILES "invar.sharded.files"
enum { IV__SHARDED_NAME = 64 };

typedef struct iv__shard_file {
    char name[IV__SHARDED_NAME];
    iv__st_stamp stamp;
} iv__shard_file;

/* A manifest, read. */
typedef struct iv__manifest {
    iv_ckpt_meta *meta; /* owned, as its texts; without the two */
    int64_t n_meta, n_tensors, n_files;
    iv_ckpt_tensor *tensors; /* names owned */
    iv__shard_file *files;
} iv__manifest;
/* Reads and checks folder/manifest.safetensors.  j->path names the folder in errors. */
iv_status iv__manifest_read(const iv__io_job *j, iv__manifest *out);
void iv__manifest_free(iv__manifest *m);
/* Writes it, atomically, for the checkpoint `c`. */
iv_status iv__manifest_write(const iv__io_job *j, const iv_ckpt *c, const iv__shard_file *files,
                             int64_t n_files);
/* Reads and verifies the checkpoint in the folder j->path. */
iv_status iv__sharded_read(const iv__io_job *j, const iv_ckpt_sink *sink);
/* Elements of a tensor. */
static inline int64_t iv__shard_count(const iv_ckpt_tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->shape.rank; ++i) n *= t->shape.dim[i];
    return n;
}
/* "folder/name"; the caller frees.  NULL without memory. */
char *iv__shard_path(const char *folder, const char *name);

#endif
