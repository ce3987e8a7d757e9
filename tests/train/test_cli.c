/* test_cli.c: the command as a person or a script meets it: exit statuses, the one line of a fault,
 * JSON, the run folder, interruption. */
#include "unit/temporary.h"

#include <cJSON.h>
#include <signal.h>
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

/* Runs `invar ARGS` in the folder; its exit status.  Fills out_ and err_. */
static int run(const char *args)
{
    char command[2048];
    snprintf(command, sizeof(command), "cd '%s' && '%s' %s >out.txt 2>err.txt", folder_, INVAR_CLI,
             args);
    const int status = system(command);
    slurp(at("out.txt"), out_, sizeof(out_));
    slurp(at("err.txt"), err_, sizeof(err_));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int lines(const char *text)
{
    int n = 0;
    for (; *text; ++text) n += *text == '\n';
    return n;
}

#define RUNS(expected, args)                                                                       \
    do {                                                                                           \
        const int status_ = run(args);                                                             \
        if (status_ != (expected))                                                                 \
            fail_msg("invar %s\n  ended with %d, expected %d\n  %s", args, status_, expected,      \
                     err_);                                                                        \
    } while (0)

static void faults_are_one_line(void **state)
{
    static const struct {
        const char *args, *part;
    } rows[] = {
        {"trian", "did you mean train?"},
        {"train --data text:text.txt --lrr 1", "did you mean --lr?"},
        {"train --data text:text.txt --optim.lr 1", "--set optim.lr=VALUE"},
        {"train --data text:text.txt --lr", "--lr: its value is missing"},
        {"train --data text:text.txt --lr --json", "--lr: its value is missing"},
        {"train --data text:text.txt --lr fast", "optim.lr"},
        {"train --data text:text.txt --json=yes", "--json: takes no value"},
        {"train --data text:text.txt --set optim.lr", "KEY=VALUE"},
        {"train --data text:text.txt --set optim.lrr=1", "optim.lr"},
        {"train --data text:text.txt --model gtp", "gpt"},
        {"train --data text:text.txt --max-time soon", "max-time"},
        {"train --data text:text.txt --precision 17-true --max-steps 1", "17-true"},
        {"train", "--data"},
        {"train a.yaml b.yaml", "unexpected argument"},
        {"train missing.yaml", "missing.yaml"},
        {"train bad.yaml", "bad.yaml:2"},
        {"train --data text:missing.txt", "missing.txt"},
        {"train --data txt:text.txt", "txt"},
        {"train --data text:text.txt --model cnn", "cnn"},
        {"train --data text:text.txt --resume missing.safetensors", "missing.safetensors"},
        {"train --data text:text.txt --out text.txt/run --max-steps 1", "text.txt"},
        {"generate", "--out"},
        {"generate --out nowhere", "nowhere"},
        {"generate --out nowhere --tokens -1", "--tokens"},
        {"generate --out nowhere --tokens 1x", "--tokens"},
        {"ckpt", "ckpt ls"},
        {"ckpt sl x", "ls"},
        {"ckpt ls missing", "missing"},
        {"ckpt ls text.txt", "text.txt"},
        {"devices --lr 1", "no such option"},
        {"help trian", "did you mean train?"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        RUNS(2, rows[i].args);
        if (!strstr(err_, rows[i].part))
            fail_msg("invar %s\n  said %s  not \"%s\"", rows[i].args, err_, rows[i].part);
        if (!strstr(rows[i].args, "--out text") && lines(err_) != 1)
            fail_msg("invar %s\n  said more than a line: %s", rows[i].args, err_);
        assert_string_equal(out_, "");
    }
}

static void tables(void **state)
{
    static const struct {
        const char *args, *part;
    } rows[] = {
        {"--version", "invar 0.1.0"},  {"help", "generate"},        {"train --help", "optim.lr"},
        {"help train", "--max-steps"}, {"devices", "cpu:0"},        {"plugins -v", "safetensors"},
        {"env", "INVAR_ISA"},          {"generate -h", "--prompt"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        RUNS(0, rows[i].args);
        if (!strstr(out_, rows[i].part))
            fail_msg("invar %s lacks %s:\n%s", rows[i].args, rows[i].part, out_);
    }
}

/* Every line of out_ is a JSON object; the last one, for the caller to delete. */
static cJSON *json_lines(void)
{
    cJSON *last = NULL;
    for (char *at_ = out_, *line; (line = strsep(&at_, "\n")) && *line;) {
        cJSON_Delete(last);
        last = cJSON_Parse(line);
        if (!cJSON_IsObject(last)) fail_msg("not a JSON object: %s", line);
    }
    assert_non_null(last);
    return last;
}

static void json_tables(void **state)
{
    static const char *const rows[] = {"devices --json", "plugins --json", "env --json",
                                       "plan --json --data text:text.txt"};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        RUNS(0, rows[i]);
        cJSON_Delete(json_lines());
    }
}

#define SMALL                                                                                      \
    "--data text:text.txt --set model.layers=1 --set model.heads=2 --set model.width=16 "          \
    "--set model.context=8 --batch 4 --set eval.batches=2 "

static bool has_number(const cJSON *o, const char *name)
{
    return cJSON_IsNumber(cJSON_GetObjectItemCaseSensitive(o, name));
}

static void a_run(void **state)
{
    static const char *const numbers[] = {"step",         "loss",      "lr",
                                          "tokens_per_s", "grad_norm", "scale"};
    char first[4096], hash[33];
    (void)state;
    RUNS(0, "train " SMALL "--max-steps 6 --save-every 3 --eval-every 3 --json --out run");
    assert_string_equal(err_, "");
    snprintf(first, sizeof(first), "%.*s", (int)strcspn(out_, "\n"), out_);
    cJSON *step = cJSON_Parse(first);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); ++i)
        assert_true(has_number(step, numbers[i]));
    cJSON_Delete(step);
    assert_int_equal(lines(out_), 6 + 2 + 1);
    cJSON *end = json_lines();
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(end, "done")));
    assert_true(has_number(end, "val_loss"));
    snprintf(hash, sizeof(hash), "%s", cJSON_GetObjectItemCaseSensitive(end, "hash")->valuestring);
    assert_int_equal(strlen(hash), 32);
    cJSON_Delete(end);

    RUNS(0, "ckpt ls run");
    assert_int_equal(lines(out_), 2);
    RUNS(0, "ckpt ls -v run/checkpoints/step-000000000006.safetensors");
    assert_non_null(strstr(out_, "wte.weight"));
    RUNS(0, "generate --out run --tokens 20 --json --prompt In");
    cJSON *text = json_lines();
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(text, "tokens")), 20);
    cJSON_Delete(text);
    RUNS(0, "generate --config run/config.yaml --checkpoint "
            "run/checkpoints/step-000000000003.safetensors "
            "--tokens 5 --temperature 0");

    /* Without --resume a run is not overwritten; with it, half a run and the rest have the same
     * hash. */
    RUNS(2, "train run/config.yaml");
    assert_non_null(strstr(err_, "--resume auto"));
    RUNS(0, "train " SMALL "--max-steps 3 --json --out half");
    RUNS(0, "train half/config.yaml --max-steps 6 --resume auto --json");
    end = json_lines();
    assert_string_equal(hash, cJSON_GetObjectItemCaseSensitive(end, "hash")->valuestring);
    cJSON_Delete(end);
}

/* A run without end gets the signal after its first line of output. */
static void interrupted_by(int number, const char *dir)
{
    char command[1024], line[512];
    snprintf(command, sizeof(command),
             "cd '%s' && exec '%s' train " SMALL "--max-steps 100000000 --json --out %s", folder_,
             INVAR_CLI, dir);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *f = fdopen(ends[0], "r");
    assert_non_null(fgets(line, sizeof(line), f));
    kill(child, number);
    while (fgets(line, sizeof(line), f)) continue;
    fclose(f);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + number);
    char args[64];
    snprintf(args, sizeof(args), "ckpt ls %s", dir);
    RUNS(0, args);
    assert_int_equal(lines(out_), 1);
}

static void interruption_saves(void **state)
{
    (void)state;
    interrupted_by(SIGINT, "int");
    interrupted_by(SIGTERM, "term");
}

static void nonfinite_is_a_training_failure(void **state)
{
    (void)state;
    RUNS(1, "train " SMALL "--max-steps 50 --json --optimizer sgd --lr 1e30");
    assert_int_equal(lines(err_), 1);
}

static int make_files(void **state)
{
    char text[4096];
    if (temporary_make(state) != 0) return -1;
    for (size_t i = 0; i < sizeof(text) - 1; ++i) text[i] = "In the beginning. "[i % 18];
    text[sizeof(text) - 1] = 0;
    put_text("text.txt", text);
    put_text("bad.yaml", "model:\n  widht: 3\n");
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_are_one_line), cmocka_unit_test(tables),
        cmocka_unit_test(json_tables),         cmocka_unit_test(a_run),
        cmocka_unit_test(interruption_saves),  cmocka_unit_test(nonfinite_is_a_training_failure),
    };
    return cmocka_run_group_tests(tests, make_files, temporary_remove);
}
