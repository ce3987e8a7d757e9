/* st_header.h: the header of a safetensors file: text to tables (st_parse.c) and back (st_build.c).
 *
 *   8 bytes N, little-endian │ N bytes JSON, padded with spaces │ data of the tensors
 *
 *   {"__metadata__":{"invar.header_xxh3":"<16 hex>",
 *                    "invar.xxh3":"<16 hex> <16 hex> ...", "key":"value", ...},
 *    "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, ...}
 *
 * Checksums are XXH3 with 64 bits and seed 0, as 16 lower-case hexadecimal digits.  "invar.xxh3"
 * holds those of the tensors' bytes in order of their offsets, separated by one space.
 * "invar.header_xxh3" is that of the first 8+N bytes with its own digits taken as '0'; it always
 * stands first.  The two come together or not at all: a file with neither and without any
 * other key "invar.*" was made by another program and is read unverified.
 */
#ifndef IV_ST_HEADER_H
#define IV_ST_HEADER_H

#include "io.h"

#include <cjson/cJSON.h>

#define IV__ST_MAX_HEADER 100000000u        /* bytes; the limit of the format */
#define IV__ST_MAX_NUMBER 9007199254740992u /* 2^53: what a JSON number holds exactly */
#define IV__ST_META "__metadata__"
#define IV__ST_SUMS "invar.xxh3"
#define IV__ST_SELF "invar.header_xxh3"
#define IV__ST_PREFIX "{\"" IV__ST_META "\":{\"" IV__ST_SELF "\":\""
#define IV__ST_SELF_AT (8 + sizeof(IV__ST_PREFIX) - 1) /* offset in the file of its digits */
#define IV__ST_HEX 16

/* Types of the format; `type` is -1 where Invar has none. */
typedef struct iv__st_dtype {
    const char *name;
    uint32_t bits;
    int32_t type;
} iv__st_dtype;
/* The entry of that name, or of that iv_dtype; NULL if there is none. */
const iv__st_dtype *iv__st_dtype_named(const char *name);
const iv__st_dtype *iv__st_dtype_of(iv_dtype t);

typedef struct iv__st_tensor {
    const char *name;
    const iv__st_dtype *dtype;
    int64_t rank; /* of the file; above IV_MAX_RANK `shape` is not set */
    iv_shape shape;
    uint64_t begin, end; /* bytes from the start of the data */
} iv__st_tensor;

typedef struct iv__st_header {
    cJSON *root; /* owns all texts below */
    int64_t n_tensors, n_meta;
    iv__st_tensor *tensors;    /* in order of their offsets */
    iv_ckpt_meta *meta;        /* without the two checksum entries */
    char self[IV__ST_HEX + 1]; /* the header's own checksum, "" if it has none */
    const char *sums; /* IV__ST_HEX digits and a space per tensor, or NULL: not verifiable */
} iv__st_header;

/* Reads the first 8+N bytes of a file whose data has data_bytes.  Checks all that can be checked
 * without the data, the header's checksum included (`text` is changed by that).  IV_CORRUPT or
 * IV_NO_MEMORY. */
iv_status iv__st_parse(const iv__io_job *j, unsigned char *text, size_t bytes, uint64_t data_bytes,
                       iv__st_header *out);
void iv__st_header_free(iv__st_header *h);

/* The 8+N bytes that describe a checkpoint.  Digits of the checksums are '0' as yet. */
typedef struct iv__st_text {
    char *s; /* owned; free() */
    size_t n, cap;
    size_t sums_at; /* offset of the digits of the first tensor; the others follow every IV__ST_HEX
                       + 1 */
    bool failed;
} iv__st_text;
/* Describes `c`.  IV_INVALID: a name, key or value that the format cannot hold, names that occur
 * twice, a bad shape or dtype, or too much of it.  Nothing is owned by *out after an error. */
iv_status iv__st_build(const iv__io_job *j, const iv_ckpt *c, iv__st_text *out);
/* Bytes of a tensor's data; IV_INVALID if shape or dtype are bad or the size has no number. */
iv_status iv__st_bytes(const iv__io_job *j, const iv_ckpt_tensor *t, uint64_t *out_bytes);

/* The 16 digits of a checksum (no NUL is written). */
void iv__st_hex(uint64_t sum, char *out);
/* Length of the valid UTF-8 at the start of s[0..n): n if all of it is. */
size_t iv__st_utf8(const unsigned char *s, size_t n);
/* Sorts names[0..n); returns one that occurs twice, or NULL. */
const char *iv__st_twice(const char **names, int64_t n);

#endif
