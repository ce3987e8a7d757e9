/* test_logits.c: a gpt that was trained and saved here says to Hugging Face's transformers, and to
 * Invar, the same.  tests/ref/logits.safetensors is the checkpoint, tests/ref/logits.txt what
 * GPT2LMHeadModel computed from it in f32 (tests/ref/make_logits.py; ci/huggingface compares anew).
 */
#include "unit/temporary.h"

#include "unit/logits.h"

#include <math.h>

#define SETTINGS                                                                                   \
    "model.name=gpt model.layers=2 model.heads=2 model.width=16 model.context=16 model.vocab=64 "  \
    "train.batch=1 "
enum { CONTEXT = 16, VOCAB = 64, CONTEXTS = 2 };

static void compare(const char *numerics)
{
    static float ours[CONTEXT * VOCAB];
    char settings[512];
    iv_config *c = NULL;
    iv_model_spec spec;
    iv_trainer *t = NULL;
    double most = 0, largest = 0;
    snprintf(settings, sizeof(settings), SETTINGS "numerics.mode=%s", numerics);
    WORKS(logits_open(settings, TESTS_DIR "/ref/logits.safetensors", &c, &spec, &t));
    FILE *f = fopen(TESTS_DIR "/ref/logits.txt", "r");
    assert_non_null(f);
    for (int k = 0; k < CONTEXTS; ++k) {
        int32_t ids[CONTEXT];
        for (int i = 0; i < CONTEXT; ++i) assert_int_equal(fscanf(f, "%d", &ids[i]), 1);
        WORKS(logits_of(t, ids, ours));
        for (int i = 0; i < CONTEXT * VOCAB; ++i) {
            double theirs;
            assert_int_equal(fscanf(f, "%lf", &theirs), 1);
            most = fmax(most, fabs(theirs - (double)ours[i]));
            largest = fmax(largest, fabs(theirs));
        }
    }
    fclose(f);
    print_message("%s: logits up to %.3g differ by at most %.3g\n", numerics, largest, most);
    assert_true(most <= 1e-5 && largest > 1);
    iv_trainer_close(t);
    iv_config_free(c);
}

static void test_logits(void **state)
{
    (void)state;
    compare("fast");
    compare("invariant");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
