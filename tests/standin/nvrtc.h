/* nvrtc.h: PTX of the portable kernels, made by the real NVRTC (nvrtc.c).  It is opened at run time
 * and needs no GPU. */
#ifndef STANDIN_NVRTC_H
#define STANDIN_NVRTC_H

#include <stdbool.h>
#include <stddef.h>

/* False: no NVRTC here, and why. */
bool nvrtc_open(char *why, size_t size);
/* PTX of kernels/<file>.k for a signature, as the CUDA backend asks for it; out of the build
 * folder's cache if that has it for these texts.  NULL: the compiler's log is in `why`.  The caller
 * frees. */
char *nvrtc_kernel(const char *file, const char *sig, char *why, size_t size);
/* PTX of any text that may include kernels/ headers. */
char *nvrtc_text(const char *text, const char *name, char *why, size_t size);

#endif
