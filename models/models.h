/* models.h: the built-in models: each a function that builds its graph on the public interface. */
#ifndef IV_MODELS_H
#define IV_MODELS_H

#include "../runtime/invar.h"

enum { IV_IGNORE = -1 }; /* targets that do not count */

/* x, y, logits and loss of a model for `batch` samples. */
typedef void iv__model_fn(const iv_model_spec *s, iv_graph *g, int64_t batch, bool train,
                          iv_model_io *out);
iv__model_fn iv__model_gpt, iv__model_cnn, iv__model_mlp;

/* Weight [out, in] and bias [out] named "<name>.weight", "<name>.bias", uniform in +-1/sqrt(in), as
 * torch.nn.Linear starts.  x: [batch, in]. */
iv_value iv__model_linear(iv_graph *g, iv_value x, int64_t in, int64_t out, const char *name);

#endif
