/* test_deepspeed.c: what of a DeepSpeed configuration is understood, compared and refused. */
#include "unit/temporary.h"

#include "deepspeed.h"

static void test_rows(void **state)
{
    static const struct {
        const char *json;
        int world, stage; /* stage -1: refused, with `part` in the text */
        const char *part;
    } rows[] = {
        {"{}", 4, 0, NULL},
        {"{\"zero_optimization\":{\"stage\":1,\"reduce_bucket_size\":5e8}}", 4, 1, NULL},
        {"{\"zero_optimization\":{\"stage\":2}}", 1, 2, NULL},
        {"{\"zero_optimization\":{\"stage\":2}}", 4, 2, NULL},
        {"{\"zero_optimization\":{\"stage\":4}}", 4, -1, "stage"},
        {"{\"train_batch_size\":32,\"train_micro_batch_size_per_gpu\":4,"
         "\"gradient_accumulation_steps\":2,\"gradient_clipping\":1}",
         4, 0, NULL},
        {"{\"train_micro_batch_size_per_gpu\":8}", 4, 0, NULL},
        {"{\"train_batch_size\":32,\"train_micro_batch_size_per_gpu\":4}", 4, -1, "4 ranks"},
        {"{\"train_batch_size\":64}", 4, -1, "64 samples"},
        {"{\"train_batch_size\":\"auto\"}", 4, -1, "train_batch_size"},
        {"{\"gradient_clipping\":0.5}", 4, -1, "gradient_clipping"},
        {"{\"zero_optimization\":{\"stage\":3,\"stage3_prefetch_bucket_size\":5e7}}", 2, 3, NULL},
        {"{\"zero_optimization\":{\"stage\":1.5}}", 2, -1, "stage"},
        {"{\"zero_optimization\":{\"stage\":1,\"stage\":0}}", 2, -1, "twice"},
        {"{\"zero_optimization\":{\"stge\":1}}", 2, -1, "'stage'"},
        {"{\"zero_optimization\":{\"offload_optimizer\":{\"device\":\"cpu\"}}}", 2, -1, "offload"},
        {"{\"zero_optimization\":1}", 2, -1, "object"},
        {"{\"train_batch_size\":32,\"train_batch_size\":32}", 1, -1, "twice"},
        {"{\"train_batchsize\":32}", 1, -1, "train_batch_size"},
        {"[1]", 1, -1, "object"},
        {"{\"a\":", 1, -1, "not JSON"},
        {"{} {}", 1, -1, "not JSON"},
        {"", 1, -1, "not JSON"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        iv_config *c;
        int32_t stage = -7;
        WORKS(iv_config_new(&c));
        WORKS(iv_config_set(c, "train.batch", "16"));
        WORKS(iv_config_set(c, "train.accumulate", "2"));
        WORKS(iv_config_set(c, "train.clip", "1"));
        WORKS(iv_config_set(c, "precision.config", put_text("ds.json", rows[i].json)));
        iv_status s = iv__deepspeed_stage(c, rows[i].world, &stage);
        bool right = rows[i].stage < 0
                         ? s != IV_OK && strstr(iv_error_message(), rows[i].part) && stage == 0
                         : s == IV_OK && stage == rows[i].stage;
        if (!right)
            fail_msg("%s: stage %d, %s", rows[i].json, stage, s == IV_OK ? "" : iv_error_message());
        iv_config_free(c);
    }
}

static void test_files(void **state)
{
    (void)state;
    iv_config *c;
    int32_t stage = -7;
    WORKS(iv_config_new(&c));
    WORKS(iv__deepspeed_stage(c, 4, &stage));
    assert_int_equal(stage, 0);
    WORKS(iv_config_set(c, "precision.config", at("nowhere.json")));
    FAILS(IV_INVALID, "nowhere.json", iv__deepspeed_stage(c, 4, &stage));
    WORKS(iv_config_set(c, "precision.config", at("")));
    FAILS(IV_INVALID, "1 MiB", iv__deepspeed_stage(c, 4, &stage));
    iv_config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, temporary_make, temporary_remove);
}
