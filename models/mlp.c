/* mlp.c: model.layers hidden layers of model.width with ReLU, and a linear layer; names and layouts
 * as torch.nn.Sequential(Flatten, Linear, ReLU, ..., Linear) gives them: "1", "3", "5", ... */
#include "models.h"

#include <stdio.h>

void iv__model_mlp(const iv_model_spec *s, iv_graph *g, int64_t batch, bool train, iv_model_io *out)
{
    iv_shape in = s->sample;
    int64_t width = iv_config_int(s->config, "model.width"), features = iv_shape_count(&in);
    double dropout = train ? iv_config_float(s->config, "model.dropout") : 0;
    char name[32];
    out->x = iv_input(g, "input", IV_F32, IV_SHAPE(batch, features));
    out->y = iv_input(g, "target", IV_I32, IV_SHAPE(batch));
    iv_value x = out->x;
    int64_t layers = iv_config_int(s->config, "model.layers");
    for (int64_t i = 0; i < layers; ++i) {
        snprintf(name, sizeof(name), "%lld", (long long)(2 * i + 1));
        x = iv_dropout(g, iv_relu(g, iv__model_linear(g, x, features, width, name)), dropout);
        features = width;
    }
    snprintf(name, sizeof(name), "%lld", (long long)(2 * layers + 1));
    out->logits = iv__model_linear(g, x, features, s->classes, name);
    out->loss = iv_cross_entropy(g, out->logits, out->y, IV_IGNORE);
}
