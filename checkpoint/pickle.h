/* pickle.h: reads the pickles that PyTorch writes, as data: a machine for the opcodes that build
 * numbers, texts, lists and dictionaries.  Nothing is imported, called or executed: of the
 * functions that a pickle may name, it knows the few that say "this is a tensor of that storage",
 * and "this is an ordered dictionary"; what any other call would make is a value of kind
 * IV_PICKLE_OTHER. */
#ifndef IV_CHECKPOINT_PICKLE_H
#define IV_CHECKPOINT_PICKLE_H

#include "io.h"

typedef enum iv__pickle_kind {
    IV_PICKLE_NONE,
    IV_PICKLE_BOOL,
    IV_PICKLE_INT,
    IV_PICKLE_FLOAT,
    IV_PICKLE_TEXT,
    IV_PICKLE_LIST, /* tuples too */
    IV_PICKLE_DICT, /* items: key, value, key, value, ... */
    IV_PICKLE_NAME, /* of a function or class: "module name" */
    IV_PICKLE_STORAGE,
    IV_PICKLE_TENSOR,
    IV_PICKLE_OTHER
} iv__pickle_kind;

typedef struct iv__pickle {
    iv__pickle_kind kind;
    int64_t number;
    double real;
    const char *text; /* NAME, TEXT; of a storage: its key */
    struct iv__pickle **items;
    int64_t n, cap;
    /* a storage */
    iv_dtype type;
    /* a tensor */
    const struct iv__pickle *storage;
    int64_t offset; /* elements */
    iv_shape shape;
    int64_t stride[IV_MAX_RANK];
} iv__pickle;

typedef struct iv__pickle_tree {
    iv__pickle *root;
    iv__pickle **all; /* every value, for freeing */
    int64_t n, cap;
    char *texts; /* storage of texts */
} iv__pickle_tree;

/* Reads n bytes.  IV_CORRUPT at a byte; IV_UNSUPPORTED names an opcode or type that is not known.
 */
iv_status iv__pickle_read(const iv__io_job *j, const char *bytes, size_t n, iv__pickle_tree *out);
void iv__pickle_free(iv__pickle_tree *t);
/* The value of a text key, or NULL. */
const iv__pickle *iv__pickle_get(const iv__pickle *dict, const char *key);

#endif
