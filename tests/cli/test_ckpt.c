/* test_ckpt.c: `invar ckpt`: verify, diff, convert there and back through every format, prune; for
 * people and with --json; and what it says of files that are damaged or not there. */
#include "unit/temporary.h"

#include <cJSON.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char out_[1 << 16], err_[1 << 14];

static void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* Runs `invar ARGS` in the folder and expects this exit status. */
static void runs(const char *args, int expected)
{
    char command[4096];
    snprintf(command, sizeof(command), "cd '%s' && '%s' %s >out.txt 2>err.txt", folder_, INVAR_CLI,
             args);
    const int status = system(command);
    slurp(at("out.txt"), out_, sizeof(out_));
    slurp(at("err.txt"), err_, sizeof(err_));
    if (WEXITSTATUS(status) != expected)
        fail_msg("invar %s\n  ended with %d, expected %d\n  %s%s", args, WEXITSTATUS(status),
                 expected, out_, err_);
}

static void says(const char *part)
{
    if (!strstr(out_, part)) fail_msg("\"%s\" is not in: %s", part, out_);
}

/* Every line of the output is a JSON object; how many. */
static int objects(void)
{
    int n = 0;
    char *rest = out_;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (!*line) continue;
        cJSON *o = cJSON_Parse(line);
        if (!cJSON_IsObject(o)) fail_msg("no JSON object: %s", line);
        cJSON_Delete(o);
        ++n;
    }
    return n;
}

#define TRAIN                                                                                      \
    "train --data text:text.txt --set model.layers=1 --set model.heads=2 --set model.width=16 "    \
    "--set model.context=8 --batch 4 --set eval.batches=1 "
#define STEP(run, n) run "/checkpoints/step-00000000000" n ".safetensors"

static void test_verify(void **state)
{
    (void)state;
    runs("ckpt verify run", 0);
    says(STEP("run", "2") ": whole");
    says(STEP("run", "6") ": whole");
    runs("ckpt verify run --json", 0);
    assert_int_equal(objects(), 3);
    runs("ckpt verify shards", 0);
    runs("ckpt ls shards/checkpoints/step-000000000002", 0);
    says("wte.weight");
    runs("ckpt verify missing.safetensors", 2);
    assert_non_null(strstr(err_, "missing.safetensors"));
    /* One bit of one of them. */
    FILE *f = fopen(at(STEP("damaged", "4")), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, -100, SEEK_END), 0);
    const int c = fgetc(f);
    assert_int_equal(fseek(f, -100, SEEK_END), 0);
    fputc(c ^ 16, f);
    fclose(f);
    runs("ckpt verify damaged", 2);
    says(STEP("damaged", "6") ": whole");
    assert_non_null(strstr(err_, STEP("damaged", "4")));
    runs("ckpt verify damaged --json", 2);
    says("\"whole\":false");
    assert_int_equal(objects(), 3);
}

static void test_diff(void **state)
{
    (void)state;
    runs("ckpt diff " STEP("run", "4") " " STEP("run", "4"), 0);
    says(" 0 of them different");
    runs("ckpt diff " STEP("run", "2") " " STEP("run", "4"), 1);
    says("wte.weight");
    runs("ckpt diff --json " STEP("run", "2") " " STEP("run", "4"), 1);
    assert_true(objects() > 10);
    runs("ckpt diff " STEP("run", "2") " shards/checkpoints/step-000000000002", 0);
    runs("ckpt diff " STEP("run", "2") " nothing", 2);
    runs("ckpt diff " STEP("run", "2"), 2);
    assert_non_null(strstr(err_, "diff A B"));
}

static void test_convert(void **state)
{
    (void)state;
    static const char *const via[] = {"c.pt", "c.ckpt", "c.safetensors.index.json", "c", "d.pth"};
    for (int i = 0; i < 5; ++i) {
        char args[512];
        snprintf(args, sizeof(args), "ckpt convert " STEP("run", "4") " %s", via[i]);
        runs(args, 0);
        snprintf(args, sizeof(args), "ckpt convert --json %s back%d.safetensors", via[i], i);
        runs(args, 0);
        assert_int_equal(objects(), 1);
        snprintf(args, sizeof(args), "ckpt diff " STEP("run", "4") " back%d.safetensors", i);
        runs(args, 0);
    }
    /* Through a format that keeps metadata, a run goes on from what comes back. */
    runs(TRAIN "--max-steps 6 --resume back3.safetensors --json", 0);
    runs("ckpt convert nothing.pt x.safetensors", 2);
    assert_int_equal(access(at("x.safetensors"), F_OK), -1);
}

static void test_prune(void **state)
{
    (void)state;
    runs("ckpt prune pruned --keep 2 --json", 0);
    assert_int_equal(objects(), 1);
    runs("ckpt ls pruned --json", 0);
    assert_int_equal(objects(), 2);
    /* What `last` names stays; a damaged one that would stay keeps all. */
    FILE *f = fopen(at("pruned/checkpoints/last"), "w");
    fputs("step-000000000004.safetensors\n", f);
    fclose(f);
    runs("ckpt prune pruned", 0);
    runs("ckpt ls pruned --json", 0);
    assert_int_equal(objects(), 2);
    assert_int_equal(truncate(at(STEP("pruned", "6")), 500), 0);
    runs("ckpt prune pruned", 2);
    assert_int_equal(access(at(STEP("pruned", "4")), F_OK), 0);
    runs("ckpt prune pruned --keep 0", 2);
    runs("ckpt prune " STEP("run", "4"), 2);
}

static int make_runs(void **state)
{
    static char text[4000];
    if (temporary_make(state) != 0) return -1;
    for (int i = 0; i < (int)sizeof(text); ++i) text[i] = (char)('a' + i * i % 23);
    put("text.txt", text, sizeof(text));
    runs(TRAIN "--max-steps 6 --save-every 2 --out run", 0);
    runs(TRAIN "--max-steps 2 --plugins sharded --out shards", 0);
    char command[512];
    snprintf(command, sizeof(command), "cd '%s' && cp -r run damaged && cp -r run pruned", folder_);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_verify), cmocka_unit_test(test_diff),
                                       cmocka_unit_test(test_convert),
                                       cmocka_unit_test(test_prune)};
    return cmocka_run_group_tests(tests, make_runs, temporary_remove);
}
