/* config.h: the parts of the configuration store that config.c and config_yaml.c share.
 *
 * The public interface is in invar.h.  A store is one array of values in the order of config.def; a
 * key's text is looked up by a linear search (some fifty rows, never inside a training step).
 */
#ifndef IV_CONFIG_H
#define IV_CONFIG_H

#include "base.h"

#include <locale.h>

enum {
    IV__CONFIG_MOST_BYTES = 4 << 20, /* of a configuration file: every text at its longest */
    IV__CONFIG_MOST_TEXT = 8192      /* of one value; so that a saved file stays below the limit */
};

/* Index of `key` in the table (iv_config_keys), or -1. */
int64_t iv__config_find(const char *key);
/* Whether some key of the table begins with `prefix` and a dot. */
bool iv__config_is_section(const char *prefix);
/* IV_INVALID: no such key, with the nearest one. */
iv_status iv__config_unknown(const char *key);
/* A deep copy; the caller frees it with iv_config_free. */
iv_status iv__config_copy(const iv_config *c, iv_config **out);
/* Exchanges the values of two stores. */
void iv__config_swap(iv_config *a, iv_config *b);
/* Appends the value of row i as text that iv_config_set reads back to the same value: "true", "-3",
 * the shortest decimals of a float, or a string as it is. */
void iv__config_print(const iv_config *c, int64_t i, iv__text *t);

/* Appends the whole configuration as YAML that iv_config_load reads back. */
void iv__config_yaml(const iv_config *c, iv__text *t);

/* Length in bytes (1..4) of the UTF-8 sequence at s and its code point; 0 if it is not valid.
 * s is NUL-terminated and not at its NUL. */
int iv__utf8_next(const char *s, uint32_t *out_code);

#endif
