/* logits.h: what a language model says to a whole context of tokens. */
#ifndef IV_TEST_LOGITS_H
#define IV_TEST_LOGITS_H

#include "trainer.h"

/* A gpt with the parameters of a checkpoint, computing in f32.  settings: "key=value key=value". */
static inline iv_status logits_open(const char *settings, const char *checkpoint, iv_config **out_c,
                                    iv_model_spec *spec, iv_trainer **out)
{
    char all[512], *rest = NULL;
    snprintf(all, sizeof(all), "%s", settings);
    IV_TRY(iv_config_new(out_c));
    for (char *s = strtok_r(all, " ", &rest); s; s = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(s, '=');
        *value++ = 0;
        IV_TRY(iv_config_set(*out_c, s, value));
    }
    IV_TRY(iv_model_spec_from(*out_c, NULL, spec));
    IV_TRY(iv_trainer_open(*out_c, NULL, iv_model_build, spec, out));
    return iv_trainer_load_params(*out, checkpoint);
}

static inline int64_t logits_context(const iv_trainer *t)
{
    const iv__program *p = &t->workers.replicas[0]->programs[0];
    return iv_shape_count(&p->graph->values[p->io.x.id].shape) / p->batch;
}

/* out: [context, vocabulary] of ids [context]. */
static inline iv_status logits_of(iv_trainer *t, const int32_t *ids, float *out)
{
    int32_t first, *targets;
    IV_TRY(iv_trainer_generate(t, ids, 1, 0, 0, 0, 0, &first)); /* makes its program */
    const iv__program *p = &t->generate;
    IV_TRY(iv__calloc(logits_context(t), sizeof(*targets), "targets", &targets));
    iv_status s = iv__program_feed(t, &t->generate, (const char *)ids, targets, 1, 1);
    free(targets);
    IV_TRY(s);
    IV_TRY(iv__plan_run(p->plan));
    return iv__device_read(t->device, out, iv__plan_range(p->plan, p->logits));
}

#endif
