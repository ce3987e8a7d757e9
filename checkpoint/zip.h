/* zip.h: the part of the ZIP format that PyTorch's files use: entries that are stored, not
 * compressed, with CRC-32, and ZIP64 for large ones when reading. */
#ifndef IV_CHECKPOINT_ZIP_H
#define IV_CHECKPOINT_ZIP_H

#include "io.h"

typedef struct iv__zip_entry {
    char *name; /* owned by the archive */
    uint64_t bytes, data_at;
    uint32_t crc;
} iv__zip_entry;

typedef struct iv__zip {
    iv__zip_entry *entries;
    int64_t n;
} iv__zip;

/* Reads the directory of an opened file.  IV_CORRUPT or IV_UNSUPPORTED (compressed entries, several
 * disks) name what is wrong. */
iv_status iv__zip_open(const iv__io_job *j, int fd, uint64_t size, iv__zip *out);
void iv__zip_close(iv__zip *z);
const iv__zip_entry *iv__zip_find(const iv__zip *z, const char *name);
/* An entry's bytes, verified; NUL behind them.  The caller frees. */
iv_status iv__zip_read(const iv__io_job *j, int fd, const iv__zip_entry *e, char **out);

/* Writing: entries one behind the other, then the directory.  An entry's bytes come in one piece,
 * or from `fill` in chunks, which is then called twice for all of them. */
typedef struct iv__zip_writer {
    iv__io_file *file;
    uint64_t at;
    iv__zip_entry *entries; /* names borrowed; data_at is that of the local header */
    int64_t n, cap;
} iv__zip_writer;
typedef iv_status iv__zip_fill(void *ctx, uint64_t at, size_t n, void *dst);
iv_status iv__zip_add(iv__zip_writer *w, const char *name, uint64_t bytes, iv__zip_fill *fill,
                      void *ctx);
iv_status iv__zip_finish(iv__zip_writer *w);

#endif
