/* models.c: the table of built-in models, and what they share. */
#include "models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    iv__model_fn *build;
} models[] = {{"gpt", iv__model_gpt}, {"cnn", iv__model_cnn}, {"mlp", iv__model_mlp}};

iv_value iv__model_linear(iv_graph *g, iv_value x, int64_t in, int64_t out, const char *name)
{
    char text[96];
    iv_init init = {IV_INIT_UNIFORM, 1 / sqrt((double)in)};
    snprintf(text, sizeof(text), "%s.weight", name);
    iv_value w = iv_param(g, text, IV_SHAPE(out, in), init);
    snprintf(text, sizeof(text), "%s.bias", name);
    return iv_linear(g, x, w, iv_param(g, text, IV_SHAPE(out), init), true);
}

iv_status iv_model_build(void *spec, iv_graph *g, int64_t batch, bool train, iv_model_io *out)
{
    const iv_model_spec *s = spec;
    const char *name = iv_config_str(s->config, "model.name");
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); ++i) {
        if (strcmp(models[i].name, name) != 0) continue;
        models[i].build(s, g, batch, train, out);
        iv_graph_set_loss(g, out->loss);
        return iv_graph_status(g);
    }
    return IV_INVALID; /* the configuration allows only names of the table */
}

iv_status iv_model_spec_from(const iv_config *c, const iv_dataset_info *data, iv_model_spec *out)
{
    iv_model_spec s = {.config = c,
                       .is_tokens = strcmp(iv_config_str(c, "model.name"), "gpt") == 0};
    int64_t vocab = iv_config_int(c, "model.vocab");
    if (data && data->is_tokens != s.is_tokens)
        return iv_error_set(IV_INVALID, "model %s needs %s, the data (%s) are %s",
                            iv_config_str(c, "model.name"), s.is_tokens ? "tokens" : "images",
                            data->kind, data->is_tokens ? "tokens" : "images");
    if (!data && (!s.is_tokens || vocab == 0))
        return iv_error_set(IV_INVALID,
                            "model %s without data: model.vocab must say the vocabulary",
                            iv_config_str(c, "model.name"));
    s.sample = data ? data->sample : IV_SHAPE(iv_config_int(c, "model.context"));
    s.classes = data && vocab < 1 ? data->classes : vocab;
    if (data && !s.is_tokens) s.classes = data->classes;
    if (data && data->classes > s.classes)
        return iv_error_set(
            IV_INVALID,
            "model.vocab %lld: the data have ids up to %lld [hint: --set model.vocab=%lld or more]",
            (long long)vocab, (long long)data->classes - 1, (long long)data->classes);
    *out = s;
    return IV_OK;
}
