/* cnn.c: two 3x3 convolutions with ReLU and 2x2 max pooling, and a linear layer; parameter names
 * and layouts as torch.nn.Sequential(Conv2d, ReLU, MaxPool2d, Conv2d, ReLU, MaxPool2d, Flatten,
 * Linear) gives them.  model.norm=batch puts a batch norm after each convolution. */
#include "models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static iv_value batch_norm(iv_graph *g, iv_value x, int64_t channels, const char *name, bool train)
{
    static const char *const part[] = {"weight", "bias", "running_mean", "running_var"};
    char text[64];
    iv_value v[4];
    for (int i = 0; i < 4; ++i) {
        iv_init init = {i == 0 || i == 3 ? IV_INIT_ONES : IV_INIT_ZEROS, 0};
        snprintf(text, sizeof(text), "%s.norm.%s", name, part[i]);
        v[i] = i < 2 ? iv_param(g, text, IV_SHAPE(channels), init)
                     : iv_state(g, text, IV_SHAPE(channels), init);
    }
    return iv_batchnorm(g, x, v[0], v[1], v[2], v[3], 1e-5, 0.1, train);
}

static iv_value stage(const iv_model_spec *s, iv_graph *g, iv_value x, int64_t in, int64_t channels,
                      const char *name, bool train)
{
    char w[64], b[64];
    iv_init init = {IV_INIT_UNIFORM, 1 / sqrt((double)(in * 9))};
    snprintf(w, sizeof(w), "%s.weight", name);
    snprintf(b, sizeof(b), "%s.bias", name);
    iv_value weight = iv_param(g, w, IV_SHAPE(channels, in, 3, 3), init);
    iv_value bias = iv_param(g, b, IV_SHAPE(channels), init);
    x = iv_conv2d(g, x, weight, &bias, (iv_window){.stride = {1, 1}, .pad = {1, 1}}, 1);
    if (strcmp(iv_config_str(s->config, "model.norm"), "batch") == 0)
        x = batch_norm(g, x, channels, name, train);
    return iv_max_pool2d(g, iv_relu(g, x), (iv_window){.size = {2, 2}, .stride = {2, 2}});
}

void iv__model_cnn(const iv_model_spec *s, iv_graph *g, int64_t batch, bool train, iv_model_io *out)
{
    iv_shape in = s->sample;
    int64_t channels = iv_config_int(s->config, "model.channels");
    out->x = iv_input(g, "input", IV_F32, IV_SHAPE(batch, in.dim[0], in.dim[1], in.dim[2]));
    out->y = iv_input(g, "target", IV_I32, IV_SHAPE(batch));
    iv_value x = stage(s, g, out->x, in.dim[0], channels, "0", train);
    x = stage(s, g, x, channels, 2 * channels, "3", train);
    iv_shape shape = iv_value_shape(g, x);
    int64_t features = iv_shape_count(&shape) / batch;
    x = iv_dropout(g, iv_reshape(g, x, IV_SHAPE(batch, features)),
                   train ? iv_config_float(s->config, "model.dropout") : 0);
    out->logits = iv__model_linear(g, x, features, s->classes, "7");
    out->loss = iv_cross_entropy(g, out->logits, out->y, IV_IGNORE);
}
