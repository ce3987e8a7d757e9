/* gpt.c: GPT-2's architecture (Radford and others, "Language models are unsupervised multitask
 * learners", 2019) with Hugging Face's parameter names and layouts: projection weights are [in,
 * out], the output shares the token embedding.  Width C, context T, vocabulary V, heads H.
 *
 *   x = wte[ids] + wpe;  per block: x += proj(attention(ln_1 x));  x += proj(gelu(fc(ln_2 x)));
 *   logits = ln_f(x) wte'
 */
#include "models.h"

#include <math.h>
#include <stdio.h>

typedef struct gpt {
    iv_graph *g;
    int64_t batch, context, width, heads, layers;
    double dropout;
    char prefix[32]; /* "h.3." */
} gpt;

static iv_value param(gpt *m, const char *name, iv_shape shape, iv_init_kind kind, double scale)
{
    char text[96];
    snprintf(text, sizeof(text), "%s%s", m->prefix, name);
    return iv_param(m->g, text, shape, (iv_init){kind, scale});
}

static iv_value norm(gpt *m, iv_value x, const char *name)
{
    char w[64], b[64];
    snprintf(w, sizeof(w), "%s.weight", name);
    snprintf(b, sizeof(b), "%s.bias", name);
    iv_value weight = param(m, w, IV_SHAPE(m->width), IV_INIT_ONES, 0);
    iv_value bias = param(m, b, IV_SHAPE(m->width), IV_INIT_ZEROS, 0);
    return iv_layernorm(m->g, x, weight, bias, 1e-5);
}

/* Projections into the residual stream start smaller, by 1/sqrt(2 layers). */
static iv_value project(gpt *m, iv_value x, const char *name, int64_t in, int64_t out, double std)
{
    char w[64], b[64];
    snprintf(w, sizeof(w), "%s.weight", name);
    snprintf(b, sizeof(b), "%s.bias", name);
    iv_value weight = param(m, w, IV_SHAPE(in, out), IV_INIT_NORMAL, std);
    iv_value bias = param(m, b, IV_SHAPE(out), IV_INIT_ZEROS, 0);
    return iv_linear(m->g, x, weight, bias, false);
}

static iv_value attention(gpt *m, iv_value x)
{
    iv_graph *g = m->g;
    int64_t c = m->width;
    iv_value qkv = project(m, x, "attn.c_attn", c, 3 * c, 0.02), part[3];
    for (int i = 0; i < 3; ++i) part[i] = iv_slice(g, qkv, 2, i * c, c);
    iv_value y = iv_attention(g, part[0], part[1], part[2], m->heads, true, 0);
    y = project(m, y, "attn.c_proj", c, c, 0.02 / sqrt(2.0 * (double)m->layers));
    return iv_dropout(g, y, m->dropout);
}

static iv_value mlp(gpt *m, iv_value x)
{
    int64_t c = m->width;
    iv_value y = iv_gelu_tanh(m->g, project(m, x, "mlp.c_fc", c, 4 * c, 0.02));
    y = project(m, y, "mlp.c_proj", 4 * c, c, 0.02 / sqrt(2.0 * (double)m->layers));
    return iv_dropout(m->g, y, m->dropout);
}

static iv_value block(gpt *m, iv_value x, int64_t i)
{
    char scope[32];
    snprintf(m->prefix, sizeof(m->prefix), "h.%lld.", (long long)i);
    snprintf(scope, sizeof(scope), "h.%lld", (long long)i);
    iv_graph_scope(m->g, scope);
    x = iv_add(m->g, x, attention(m, norm(m, x, "ln_1")));
    x = iv_add(m->g, x, mlp(m, norm(m, x, "ln_2")));
    m->prefix[0] = 0;
    iv_graph_scope(m->g, NULL);
    return x;
}

void iv__model_gpt(const iv_model_spec *s, iv_graph *g, int64_t batch, bool train, iv_model_io *out)
{
    const iv_config *c = s->config;
    gpt m = {.g = g,
             .batch = batch,
             .context = s->sample.dim[0],
             .width = iv_config_int(c, "model.width"),
             .heads = iv_config_int(c, "model.heads"),
             .layers = iv_config_int(c, "model.layers"),
             .dropout = train ? iv_config_float(c, "model.dropout") : 0};
    out->x = iv_input(g, "input", IV_I32, IV_SHAPE(batch, m.context));
    out->y = iv_input(g, "target", IV_I32, IV_SHAPE(batch, m.context));
    iv_value wte = param(&m, "wte.weight", IV_SHAPE(s->classes, m.width), IV_INIT_NORMAL, 0.02);
    iv_value wpe = param(&m, "wpe.weight", IV_SHAPE(m.context, m.width), IV_INIT_NORMAL, 0.02);
    iv_value x = iv_dropout(g, iv_add(g, iv_embedding(g, wte, out->x), wpe), m.dropout);
    for (int64_t i = 0; i < m.layers; ++i) x = block(&m, x, i);
    out->logits = iv_matmul(g, norm(&m, x, "ln_f"), wte, false, true);
    out->loss = iv_cross_entropy(g, out->logits, out->y, IV_IGNORE);
}
