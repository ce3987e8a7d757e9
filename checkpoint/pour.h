/* pour.h: writes a large file's contents from many pieces of memory with several threads.
 *
 * The file is cut into blocks at multiples of the block size.  Each thread takes the next block,
 * gathers its bytes in an aligned buffer and writes them past the page cache (O_DIRECT), so that a
 * checkpoint neither waits for a copy into the cache nor pushes other things out of it.  Where the
 * file system has no O_DIRECT, and for the first and last block, which are not whole, the same
 * bytes are written the plain way.  Checksums are jobs of the same threads.
 */
#ifndef IV_CHECKPOINT_POUR_H
#define IV_CHECKPOINT_POUR_H

#include "io.h"

/* Bytes of memory that belong at an offset of the file, and their XXH3. */
typedef struct iv__io_piece {
    const char *src;
    uint64_t bytes, at;
    uint64_t sum; /* out */
} iv__io_piece;

typedef enum iv__io_way { IV_IO_DIRECT, IV_IO_PLAIN } iv__io_way;
/* Writes n pieces that follow each other without a gap, and sets their sums.  Bytes of the file
 * before the first piece are not touched. */
iv_status iv__io_pour(iv__io_file *f, iv__io_piece *pieces, int64_t n, iv__io_way way);

#endif
