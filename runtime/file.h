/* file.h: files, whole and safely: read, map, write atomically, make folders.
 *
 * Every message names the path and the system's reason.  Status codes: IV_INVALID for a path that
 * is the wrong kind of thing (a folder, a device, too large), IV_IO for everything the system
 * refuses, IV_NO_MEMORY for memory.  All functions block.
 */
#ifndef IV_FILE_H
#define IV_FILE_H

#include "base.h"

/* Replaces the file `path` by n bytes of data, or leaves it as it was: writes a temporary file in
 * the same folder, fsync, rename, fsync of the folder.  The new file gets mode 0666 less the umask.
 * A symbolic link is replaced, not followed.  IV_INVALID if path is there and not a regular file.
 * After an error the temporary file is removed; if only the last fsync (of the folder) fails, the
 * new file is in place but may not survive a power cut.  A process killed half-way leaves
 * `.invar-tmp-PID-N` behind in the folder. */
iv_status iv__file_write_atomic(const char *path, const void *data, size_t n);

/* Reads a whole file (or pipe) of at most max_bytes bytes, else IV_INVALID.  *out has a NUL after
 * its *out_n bytes; the caller frees it. */
iv_status iv__file_read(const char *path, int64_t max_bytes, char **out, int64_t *out_n);

/* Makes the folder `path` and those above it; one that is already there is fine. */
iv_status iv__mkdirs(const char *path);

/* A read-only view of a regular file. */
typedef struct iv__map {
    const uint8_t *data; /* NULL if size == 0 */
    int64_t size;        /* bytes, as the file was when it was opened */
} iv__map;
/* Maps the file.  Nothing can be promised about a file that another process shortens or rewrites
 * while it is mapped: reading past its new end raises SIGBUS, as for any mapping.  IV_INVALID if it
 * is not a regular file. */
iv_status iv__file_map(const char *path, iv__map *out);
/* Ends the view; an empty one is fine. */
void iv__file_unmap(iv__map *m);

#endif
