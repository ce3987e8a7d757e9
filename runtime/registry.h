/* registry.h: the lists of plugins: built-in ones first, then shared libraries. */
#ifndef IV_REGISTRY_H
#define IV_REGISTRY_H

#include "plugin.h"

/* The initialised plugin `spec`: a name ("cpu"), or a name with arguments ("async(safetensors)").
 * IV_INVALID names the nearest known one; IV_UNAVAILABLE says why it was refused. */
iv_status iv__registry_get(iv_plugin_kind kind, const char *spec, const iv_plugin **out,
                           void **out_self);
/* Name of the i-th usable plugin of a kind, or NULL past the end. */
const char *iv__registry_name(iv_plugin_kind kind, int32_t i);
/* The checkpoint plugin that is the most sure to know the format of `path`; among equals the one
 * with the table `preferred` (which may be NULL), and that one also if nobody knows the format. */
iv_status iv__registry_detect(const char *path, const void *preferred, const iv_plugin **out,
                              void **out_self);
/* Loads shared libraries from a comma-separated list (entries with a '/' or ending in ".so"; others
 * are left alone), and once all that INVAR_PLUGIN_PATH holds. */
iv_status iv__registry_load(const char *list);
/* Host services for plugins. */
extern const iv_host iv__host;

#endif
