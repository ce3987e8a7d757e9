/* texts.h: the texts of kernels/ inside the library, for devices that compile at run time.  The
 * build writes the table (cmake/embed.cmake) from portable.h, the other headers of the dialect and
 * all *.k. */
#ifndef IV_KERNELS_TEXTS_H
#define IV_KERNELS_TEXTS_H

#include <stddef.h>

typedef struct iv__kernel_text {
    const char *name; /* "softmax.k" */
    const unsigned char *bytes;
    size_t size;
} iv__kernel_text;
extern const iv__kernel_text iv__kernel_texts[]; /* ends with a NULL name */

#endif
