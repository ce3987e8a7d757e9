/* logits.c: what a gpt of a checkpoint says, for ci/huggingface.
 *
 *   logits CHECKPOINT SETTINGS <IDS >LOGITS
 *
 * SETTINGS: "model.layers=2 model.heads=2 ...".  IDS: i32, whole contexts.  LOGITS: f32,
 * [vocabulary] for each id. */
#include "unit/logits.h"

static iv_status say(iv_trainer *t, int64_t vocab)
{
    const int64_t context = logits_context(t);
    int32_t *ids;
    float *out;
    IV_TRY(iv__calloc(context, sizeof(*ids), "ids", &ids));
    IV_TRY(iv__calloc(context * vocab, sizeof(*out), "logits", &out));
    iv_status s = IV_OK;
    while (s == IV_OK && fread(ids, sizeof(*ids), (size_t)context, stdin) == (size_t)context) {
        s = logits_of(t, ids, out);
        if (s == IV_OK) fwrite(out, sizeof(*out), (size_t)(context * vocab), stdout);
    }
    free(ids);
    free(out);
    return s;
}

int main(int argc, char **argv)
{
    iv_config *c = NULL;
    iv_model_spec spec;
    iv_trainer *t = NULL;
    if (argc != 3) {
        fprintf(stderr, "logits CHECKPOINT SETTINGS <IDS >LOGITS\n");
        return 2;
    }
    iv_status s = logits_open(argv[2], argv[1], &c, &spec, &t);
    if (s == IV_OK) s = say(t, iv_config_int(c, "model.vocab"));
    if (s != IV_OK) fprintf(stderr, "logits: %s\n", iv_error_message());
    iv_trainer_close(t);
    iv_config_free(c);
    return s == IV_OK && fflush(stdout) == 0 ? 0 : 1;
}
