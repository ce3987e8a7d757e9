/* test_runs.c: whole runs of the command on real files: what it prints for machines, where settings
 * come from, resuming (also after signals) with the bits of a run that never stopped, and what it
 * does with bad input, damaged files and full disks: one line, the right exit status, and nothing
 * lost. */
#include "unit/temporary.h"

#include <cJSON.h>
#include <errno.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <zlib.h>

static char out_[1 << 18], err_[1 << 14];

static void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* Runs `PREFIX invar ARGS` by the shell in the folder; its exit status.  Fills out_ and err_. */
static int shell(const char *prefix, const char *args)
{
    char command[4096];
    snprintf(command, sizeof(command), "cd '%s' && %s '%s' %s >out.txt 2>err.txt", folder_, prefix,
             INVAR_CLI, args);
    const int status = system(command);
    slurp(at("out.txt"), out_, sizeof(out_));
    slurp(at("err.txt"), err_, sizeof(err_));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

static int lines(const char *text)
{
    int n = 0;
    for (; *text; ++text) n += *text == '\n';
    return n;
}

/* Formats into one of some buffers. */
static const char *text(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static const char *text(const char *fmt, ...)
{
    static char buffers[8][2048];
    static int next;
    char *s = buffers[next++ % 8];
    va_list args;
    va_start(args, fmt);
    vsnprintf(s, sizeof(buffers[0]), fmt, args);
    va_end(args);
    return s;
}

static void runs_as(const char *prefix, const char *args, int expected)
{
    const int status = shell(prefix, args);
    if (status != expected)
        fail_msg("invar %s\n  ended with %d, expected %d\n  %s", args, status, expected, err_);
}

static void runs(const char *args)
{
    runs_as("", args, 0);
}

/* Fails with this status and one line that contains `part`. */
static void refuses_as(const char *prefix, const char *args, int status, const char *part)
{
    runs_as(prefix, args, status);
    if (lines(err_) != 1 || !strstr(err_, part))
        fail_msg("invar %s\n  said: %s  expected one line with \"%s\"", args, err_, part);
}

static void refuses(const char *args, const char *part)
{
    refuses_as("", args, 2, part);
}

#define MODEL                                                                                      \
    "--set model.layers=1 --set model.heads=2 --set model.width=16 --set model.context=8 --batch " \
    "4 --set eval.batches=2 "
#define SMALL "--data text:text.txt --json " MODEL
#define CNN                                                                                        \
    "--model cnn --data idx:images --json --set model.channels=2 --batch 4 --set eval.batches=2 "

/* ---- JSON ---- */

static cJSON *parse(const char *line)
{
    cJSON *o = cJSON_Parse(line);
    if (!cJSON_IsObject(o)) fail_msg("not a JSON object: %s", line);
    return o;
}

static void has_keys(const cJSON *o, const char *keys)
{
    char copy[512], *rest = copy;
    strcpy(copy, keys);
    for (char *key; (key = strsep(&rest, " "));)
        if (*key && !cJSON_GetObjectItemCaseSensitive(o, key)) {
            char *printed = cJSON_PrintUnformatted(o);
            fail_msg("no \"%s\" in %s", key, printed);
        }
}

/* Line i of out_ (negative: from the end), parsed. */
static cJSON *line_of(int i)
{
    const char *p = out_;
    if (i < 0) i += lines(out_);
    assert_true(i >= 0 && i < lines(out_));
    for (; i > 0; --i) p = strchr(p, '\n') + 1;
    return parse(text("%.*s", (int)strcspn(p, "\n"), p));
}

/* Every line of out_ is an object with the keys. */
static void every_line_has(const char *keys)
{
    assert_true(lines(out_) > 0 && out_[strlen(out_) - 1] == '\n');
    for (int i = 0; i < lines(out_); ++i) {
        cJSON *o = line_of(i);
        has_keys(o, keys);
        cJSON_Delete(o);
    }
}

/* "<hash> <state hash>" of the run that out_ tells, and its last step in *steps. */
static const char *hashes(int64_t *steps)
{
    cJSON *o = line_of(-1);
    has_keys(o, "done steps loss val_loss hash state_hash");
    assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(o, "done")));
    const char *a = cJSON_GetObjectItemCaseSensitive(o, "hash")->valuestring;
    const char *b = cJSON_GetObjectItemCaseSensitive(o, "state_hash")->valuestring;
    assert_int_equal(strlen(a), 32);
    assert_int_equal(strlen(b), 32);
    const char *both = text("%s %s", a, b);
    if (steps) *steps = (int64_t)cJSON_GetObjectItemCaseSensitive(o, "steps")->valuedouble;
    cJSON_Delete(o);
    return both;
}

static void lists_in_json(void **state)
{
    static const struct {
        const char *args, *keys;
    } rows[] = {
        {"devices --json", "name"},
        {"plugins --json", "kind name version"},
        {"env --json", "name help"},
        {"plan " SMALL, "memory device precision numerics parameters batch grains accumulate"},
        {"plan " CNN, "memory device precision numerics parameters batch grains accumulate"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        runs(rows[i].args);
        every_line_has(rows[i].keys);
        if (i > 0) assert_string_equal(err_, ""); /* drivers of devices print what they like */
    }
}

static void runs_in_json(void **state)
{
    (void)state;
    static const char *const rows[] = {SMALL "--precision 32-true",
                                       SMALL "--precision bf16-mixed --numerics invariant",
                                       SMALL "--precision 64-true", CNN "--precision 32-true",
                                       CNN "--precision bf16-mixed --set model.norm=batch"};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        const bool images = strstr(rows[i], "cnn") != NULL;
        runs(text("train %s --max-steps 4 --eval-every 2 --out json%d", rows[i], (int)i));
        assert_string_equal(err_, "");
        assert_int_equal(lines(out_), 4 + 2 + 1);
        for (int k = 0; k < 6; ++k) {
            cJSON *o = line_of(k);
            const bool validation = k == 2 || k == 5;
            has_keys(o, validation ? images ? "step val_loss val_accuracy" : "step val_loss"
                                   : "step loss lr tokens_per_s grad_norm scale");
            assert_int_equal((int)cJSON_GetObjectItemCaseSensitive(o, "step")->valuedouble,
                             k < 3 ? 1 + k - (k == 2) : k - (k == 5));
            cJSON_Delete(o);
        }
        int64_t steps;
        (void)hashes(&steps);
        assert_int_equal(steps, 4);
        runs(text("ckpt ls json%d --json", (int)i));
        every_line_has("step bytes path");
        runs(text("ckpt ls json%d/checkpoints/step-000000000004.safetensors --json", (int)i));
        every_line_has("tensor dtype shape");
    }
    runs("generate --out json0 --tokens 5 --prompt a --json");
    every_line_has("tokens");
}

/* The same without --json: results on stdout for people. */
static void runs_for_people(void **state)
{
    (void)state;
    runs("train --data text:text.txt " MODEL "--max-steps 3 --out people");
    assert_non_null(strstr(out_, "hash "));
    assert_non_null(strstr(out_, "checkpoint people/checkpoints/step-000000000003.safetensors"));
    runs("plan people/config.yaml");
    assert_non_null(strstr(out_, "total"));
    runs("generate --out people --tokens 5 --prompt abc");
    assert_true(strlen(out_) >= 5);
    runs("ckpt ls people");
    assert_int_equal(lines(out_), 1);
}

/* ---- configuration ---- */

static double first_lr(void)
{
    cJSON *o = line_of(0);
    const double lr = cJSON_GetObjectItemCaseSensitive(o, "lr")->valuedouble;
    cJSON_Delete(o);
    return lr;
}

static void options_go_before_the_file(void **state)
{
    (void)state;
    put_text("lr.yaml", "optim:\n  lr: 0.5\ndata:\n  train: text:text.txt\nmodel:\n  layers: 1\n  "
                        "width: 16\n  heads: 2\n  context: 8\n"
                        "train:\n  max_steps: 1\n  batch: 4\neval:\n  batches: 1\n");
    runs("train lr.yaml --json");
    assert_true(first_lr() == 0.5);
    runs("train lr.yaml --json --lr 0.25");
    assert_true(first_lr() == 0.25);
    runs("train --set optim.lr=0.125 lr.yaml --json --out saved");
    assert_true(first_lr() == 0.125);
    runs("train saved/config.yaml --json --out saved2 "); /* what was in force was written down */
    assert_true(first_lr() == 0.125);
    runs("train lr.yaml --json --lr 0.25 --set optim.lr=0.75"); /* of options, the last */
    assert_true(first_lr() == 0.75);
    put_text("near.yaml", "optim:\n  lrr: 0.5\n");
    refuses("train near.yaml --data text:text.txt", "near.yaml:2");
    assert_non_null(strstr(err_, "optim.lr"));
    put_text("twice.yaml", "optim:\n  lr: 0.5\n  lr: 0.6\n");
    refuses("train twice.yaml --data text:text.txt", "twice.yaml:3");
    put_text("broken.yaml", "optim: [\n");
    refuses("train broken.yaml --data text:text.txt", "broken.yaml");
    refuses("train --data text:text.txt --set model.widht=3", "model.width");
}

/* ---- resuming ---- */

static void resumed_runs_are_the_same(void **state)
{
    static const char *const rows[] = {
        SMALL "--schedule cosine --set optim.warmup=2 --clip 0.5",
        SMALL "--precision bf16-mixed --set model.dropout=0.1",
        CNN "--set model.norm=batch --optimizer sgd --set optim.momentum=0.9"};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char whole[80];
        runs(text("train %s --max-steps 9 --out whole%d", rows[i], (int)i));
        strcpy(whole, hashes(NULL));
        /* Every third step is saved; the later ones are removed, as if the run had been killed. */
        runs(text("train %s --max-steps 9 --save-every 3 --out parts%d", rows[i], (int)i));
        assert_string_equal(hashes(NULL), whole);
        unlink(at(text("parts%d/checkpoints/step-000000000009.safetensors", (int)i)));
        runs(text("train %s --max-steps 9 --save-every 3 --resume auto --out parts%d", rows[i],
                  (int)i));
        assert_string_equal(hashes(NULL), whole);
        assert_int_equal(lines(out_), 3 + 2); /* steps 7, 8, 9, a validation, the end */
        runs(text("train parts%d/config.yaml --json --resume "
                  "parts%d/checkpoints/step-000000000003.safetensors --out other%d",
                  (int)i, (int)i, (int)i));
        assert_string_equal(hashes(NULL), whole);
        runs(text("train parts%d/config.yaml --json --resume auto",
                  (int)i)); /* nothing is left to do */
        assert_string_equal(hashes(NULL), whole);
    }
}

/* The last step in the checkpoints of a folder. */
static int64_t last_saved(const char *dir)
{
    runs(text("ckpt ls %s --json", dir));
    cJSON *o = line_of(-1);
    const int64_t step = (int64_t)cJSON_GetObjectItemCaseSensitive(o, "step")->valuedouble;
    cJSON_Delete(o);
    return step;
}

static int validations_; /* that the run told of after the signal */

/* Starts a run that would not end, sends it the signal after `after` lines, and returns its status.
 */
static int interrupt(int number, const char *dir, int after, const char *settings)
{
    int ends[2];
    char line[1024];
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/bin/sh", "sh", "-c",
              text("cd '%s' && exec '%s' train " SMALL
                   "--max-steps 100000000 --out %s %s 2>err.txt",
                   folder_, INVAR_CLI, dir, settings),
              (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *f = fdopen(ends[0], "r");
    for (int i = 0; i < after; ++i) assert_non_null(fgets(line, sizeof(line), f));
    kill(child, number);
    for (validations_ = 0; fgets(line, sizeof(line), f);) {
        cJSON *o = parse(line); /* no line is cut */
        validations_ += cJSON_HasObjectItem(o, "val_loss");
        cJSON_Delete(o);
    }
    fclose(f);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    slurp(at("err.txt"), err_, sizeof(err_));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

static void signals_save_and_lose_nothing(void **state)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    (void)state;
    for (int i = 0; i < 2; ++i) {
        const char *dir = i ? "sigterm" : "sigint";
        char whole[80];
        assert_int_equal(interrupt(numbers[i], dir, 3 + i, ""), 128 + numbers[i]);
        assert_int_equal(lines(err_), 1);
        const int64_t step = last_saved(dir);
        assert_true(step >= 3);
        runs(text("train %s/config.yaml --json --resume auto --max-steps %lld", dir,
                  (long long)step + 4));
        strcpy(whole, hashes(NULL));
        runs(text("train " SMALL "--max-steps %lld", (long long)step + 4));
        assert_string_equal(hashes(NULL), whole);
    }
}

/* A long validation does not hold up a signal: between steps, and after the last one. */
static void signals_end_validations(void **state)
{
    static const char *const settings[] = {"--eval-every 1", "--max-steps 1"};
    static const char *const data = "--data text:long.txt --set data.val_fraction=0.5";
    enum { LONG = 1 << 20 };
    char *book = malloc(LONG), whole[80];
    (void)state;
    assert_non_null(book);
    for (int i = 0; i < LONG; ++i) book[i] = (char)('a' + i % 1009 % 26);
    put("long.txt", book, LONG);
    free(book);
    runs(text("train " SMALL "%s --max-steps 4", data));
    strcpy(whole, hashes(NULL));
    for (int i = 0; i < 2; ++i) {
        const char *dir = i ? "last" : "between";
        assert_int_equal(
            interrupt(SIGTERM, dir, 1, text("%s --set eval.batches=0 %s", data, settings[i])),
            128 + SIGTERM);
        assert_int_equal(lines(err_), 1);
        assert_int_equal(validations_, 0);
        assert_int_equal(last_saved(dir), 1);
        runs(text("train %s/config.yaml --json --resume auto --set eval.batches=2 --max-steps 4",
                  dir));
        assert_string_equal(hashes(NULL), whole);
    }
}

/* ---- damaged files ---- */

static void edit(const char *name, long offset, int whence, unsigned char flip)
{
    FILE *f = fopen(at(name), "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, offset, whence), 0);
    const int c = fgetc(f);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    fputc(c ^ flip, f);
    assert_int_equal(fclose(f), 0);
}

static void damaged_checkpoints(void **state)
{
    enum { KINDS = 5 };
    static const char newest[] = "bad/checkpoints/step-000000000006.safetensors";
    char whole[80];
    struct stat st;
    (void)state;
    runs("train " SMALL "--max-steps 8 --out good");
    strcpy(whole, hashes(NULL));
    for (int kind = 0; kind < KINDS; ++kind) {
        runs("train " SMALL "--max-steps 6 --save-every 3 --out bad");
        assert_int_equal(stat(at(newest), &st), 0);
        if (kind == 0) edit(newest, -100, SEEK_END, 1); /* one bit of the data */
        if (kind == 1) assert_int_equal(truncate(at(newest), st.st_size - 1), 0);
        if (kind == 2) assert_int_equal(truncate(at(newest), 100), 0);
        if (kind == 3) assert_int_equal(truncate(at(newest), 0), 0);
        if (kind == 4) edit(newest, 3, SEEK_SET, 0x40); /* the header's length */
        refuses(text("train bad/config.yaml --json --max-steps 8 --resume %s --out bad2", newest),
                newest);
        refuses(text("ckpt ls %s", newest), newest);
        refuses(text("generate --config bad/config.yaml --checkpoint %s", newest), newest);
        runs("train bad/config.yaml --json --max-steps 8 --resume auto");
        if (lines(err_) != 1 || !strstr(err_, newest))
            fail_msg("damage %d: falling back was not told: %s", kind, err_);
        assert_string_equal(hashes(NULL), whole);
        (void)system(text("rm -rf '%s' '%s'", at("bad"), at("bad2")));
    }
}

static void put_idx(const char *dir, const char *part, int count)
{
    enum { SIDE = 8, MOST = 16 };
    uint8_t images[16 + MOST * SIDE * SIDE] = {0, 0, 8, 3,    0, 0, 0, (uint8_t)count,
                                               0, 0, 0, SIDE, 0, 0, 0, SIDE};
    uint8_t labels[8 + MOST] = {0, 0, 8, 1, 0, 0, 0, (uint8_t)count};
    for (int i = 0; i < count; ++i) labels[8 + i] = (uint8_t)(i * 7 % 10);
    for (int i = 0; i < count * SIDE * SIDE; ++i) images[16 + i] = (uint8_t)(i * i % 251);
    put(text("%s/%s-images-idx3-ubyte", dir, part), images, 16 + (size_t)(count * SIDE * SIDE));
    put(text("%s/%s-labels-idx1-ubyte", dir, part), labels, 8 + (size_t)count);
}

/* Compresses dir/name to dir/name.gz, keeps its first `keep` bytes, and removes the plain file. */
static void gz_cut(const char *dir, const char *name, long keep)
{
    char data[4096];
    FILE *f = fopen(at(text("%s/%s", dir, name)), "rb");
    assert_non_null(f);
    const size_t n = fread(data, 1, sizeof(data), f);
    fclose(f);
    gzFile g = gzopen(at(text("%s/%s.gz", dir, name)), "wb");
    assert_int_equal(gzwrite(g, data, (unsigned)n), n);
    assert_int_equal(gzclose(g), Z_OK);
    if (keep > 0) assert_int_equal(truncate(at(text("%s/%s.gz", dir, name)), keep), 0);
    unlink(at(text("%s/%s", dir, name)));
}

static void damaged_data(void **state)
{
    static const char images[] = "train-images-idx3-ubyte", labels[] = "train-labels-idx1-ubyte";
    static const char *const train =
        "train --model cnn --json --max-steps 1 --batch 4 --data idx:broken";
    (void)state;
    for (int kind = 0; kind < 7; ++kind) {
        const char *part = NULL;
        (void)system(text("rm -rf '%s'", at("broken")));
        assert_int_equal(mkdir(at("broken"), 0777), 0);
        put_idx("broken", "train", 16);
        put_idx("broken", "t10k", 8);
        if (kind == 0) assert_int_equal(truncate(at(part = text("broken/%s", images)), 500), 0);
        if (kind == 1) assert_int_equal(truncate(at(part = text("broken/%s", labels)), 9), 0);
        if (kind == 2) assert_int_equal(truncate(at(part = text("broken/%s", images)), 0), 0);
        if (kind == 3)
            edit(part = text("broken/%s", images), 3, SEEK_SET, 1); /* the magic number */
        if (kind == 4) gz_cut("broken", images, 200), part = text("broken/%s.gz", images);
        if (kind == 5) {
            gz_cut("broken", images, 0);
            edit(part = text("broken/%s.gz", images), -6, SEEK_END, 1); /* the checksum */
        }
        if (kind == 6) unlink(at(text("broken/%s", part = labels)));
        refuses(train, part);
        assert_string_equal(out_, "");
    }
}

/* ---- bad input ---- */

static void bad_input(void **state)
{
    static const struct {
        const char *args, *part;
    } rows[] = {
        {"train --json --data text:nowhere.txt", "nowhere.txt"},
        {"train --json --data idx:nowhere --model cnn", "nowhere"},
        {"train --json --data tokens:nowhere.bin", "nowhere.bin"},
        {"train --json --data text:empty.txt", "empty.txt"},
        {"train --json --data text:short.txt", "short.txt"},
        {"train --json --data text:.", "folder"},
        {"train " SMALL "--set model.vocab=10", "model.vocab"},
        {"train " SMALL "--set model.heads=3", "heads"},
        {"train " SMALL "--batch 0", "train.batch"},
        {"train " SMALL "--batch four", "four"},
        {"train " SMALL "--batch 4 --grains 3", "--grains 3"},
        {"train " SMALL "--batch 4 --accumulate 3 --grains 2", "--batch 4"},
        {"train " SMALL "--lr -1", "optim.lr"},
        {"train " SMALL "--lr nan", "optim.lr"},
        {"train " SMALL "--optimizer lion", "lion"},
        {"train " SMALL "--schedule cosin", "cosine"},
        {"train " SMALL "--precision bf17-mixed", "bf17-mixed"},
        {"train " SMALL "--numerics exact", "exact"},
        {"train " SMALL "--accelerator tpu", "tpu"},
        {"train " SMALL "--devices 5000", "--devices 5000"},
        {"train " SMALL "--devices cpu:9", "cpu:9"},
        {"train " SMALL "--plugins ./nowhere.so", "nowhere.so"},
        {"train " SMALL "--set out.checkpoint=floppy --out floppy --max-steps 1", "floppy"},
        {"train " SMALL "--max-time 1w", "1w"},
        {"train " SMALL "--set model.init=nowhere.safetensors", "nowhere.safetensors"},
        {"train " SMALL "--set model.init=text.txt", "text.txt"},
        {"train " SMALL "--set model.dropout=1", "model.dropout"},
        {"train " SMALL "--resume auto", "--out"},
        {"train " SMALL "--resume nowhere.safetensors", "nowhere.safetensors"},
        {"train " SMALL "--resume text.txt", "text.txt"},
        {"train " SMALL "--out text.txt/run --max-steps 1", "text.txt"},
        {"train " SMALL "--out /proc/run --max-steps 1", "/proc/run"},
        {"train " SMALL
         "--resume run/checkpoints/step-000000000002.safetensors --set model.width=32",
         "[48] in the file and [96] in the model"},
        {"train " SMALL
         "--resume run/checkpoints/step-000000000002.safetensors --set model.layers=2",
         "h.1."},
        {"train " SMALL "--resume run/checkpoints/step-000000000002.safetensors --seed 2",
         "--seed"},
        {"train " SMALL "--resume run/checkpoints/step-000000000002.safetensors --grains 2",
         "--grains 4"},
        {"train " SMALL "--resume run/checkpoints/step-000000000002.safetensors --optimizer sgd",
         "adamw"},
        {"train " SMALL
         "--resume run/checkpoints/step-000000000002.safetensors --precision nothing",
         "--precision"},
        {"train run/config.yaml --json --max-steps 9", "--resume auto"},
        {"generate --out run --prompt a --top-k -1", "--top-k"},
        {"generate --out run --prompt a --temperature hot", "hot"},
        {"generate --config run/config.yaml --checkpoint nowhere.safetensors",
         "nowhere.safetensors"},
    };
    char good[80];
    (void)state;
    put_text("empty.txt", "");
    put_text("short.txt", "abc");
    runs("train " SMALL "--max-steps 2 --out run");
    strcpy(good, hashes(NULL));
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        refuses(rows[i].args, rows[i].part);
        assert_string_equal(out_, "");
    }
    refuses_as("INVAR_ISA=v9", "train " SMALL "--max-steps 1", 2, "INVAR_ISA");
    refuses_as("INVAR_THREADS=none", "train " SMALL "--max-steps 1", 2, "INVAR_THREADS");
    refuses_as("INVAR_IMPL='*:warp'", "train " SMALL "--max-steps 1", 2, "INVAR_IMPL");
    /* None of that touched the run. */
    runs("train run/config.yaml --json --resume auto");
    assert_string_equal(hashes(NULL), good);
}

static void divergence_is_a_training_failure(void **state)
{
    (void)state;
    runs("train " SMALL "--max-steps 2 --save-every 1 --optimizer sgd --out diverged");
    refuses_as("", "train diverged/config.yaml --json --lr 1e30 --max-steps 50 --resume auto", 1,
               "training step ");
    assert_true(strstr(err_, "node ") || strstr(err_, "parameter "));
    if (lines(out_) > 0) every_line_has("step loss");
    runs("train diverged/config.yaml --json --max-steps 3 --lr 1e-3 --resume "
         "diverged/checkpoints/step-000000000002.safetensors --out after");
}

/* ---- full disks ---- */

static int count_in(const char *dir)
{
    DIR *d = opendir(at(dir));
    int n = -2;
    assert_non_null(d);
    while (readdir(d)) ++n;
    closedir(d);
    return n;
}

/* A limit on file sizes stands in for a full disk: every road of a failed write is the same. */
static void full_disk(void **state)
{
    char good[80];
    (void)state;
    runs("train " SMALL "--max-steps 4 --out complete");
    strcpy(good, hashes(NULL));
    runs("train " SMALL "--max-steps 2 --out full");
    const char *limited =
        "trap '' XFSZ; ulimit -f 16;"; /* blocks of 512 bytes: less than a checkpoint */
    refuses_as(limited, "train full/config.yaml --json --max-steps 4 --resume auto", 2,
               "step-000000000004");
    assert_int_equal(count_in("full/checkpoints"), 2); /* the first one and `last` */
    assert_int_equal(last_saved("full"), 2);
    runs("train full/config.yaml --json --max-steps 4 --resume auto");
    assert_string_equal(hashes(NULL), good);
    refuses_as(limited, "train " SMALL "--max-steps 2 --out full2", 2, "full2");
    runs_as("", "ckpt ls full2", 0);
    /* Standard output that is full loses results: that is no success. */
    const int status =
        system(text("cd '%s' && '%s' ckpt ls full >/dev/full 2>err.txt", folder_, INVAR_CLI));
    assert_int_equal(WEXITSTATUS(status), 2);
}

/* A folder that the user may not write to; root, who may, becomes nobody for this. */
static void unwritable_folder(void **state)
{
    const char *nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    (void)state;
    assert_int_equal(mkdir(at("locked"), 0755), 0);
    runs("train " SMALL "--max-steps 2 --out locked/run");
    if (geteuid() == 0) assert_int_equal(chmod(folder_, 0755), 0);
    else assert_int_equal(chmod(at("locked"), 0555), 0);
    /* out.txt and err.txt are opened by the shell, as the user who runs the tests. */
    const char *as = geteuid() == 0 ? nobody : "";
    refuses_as(as, "train " SMALL "--max-steps 2 --out locked/new", 2, "locked/new");
    if (geteuid() != 0) assert_int_equal(chmod(at("locked/run/checkpoints"), 0555), 0);
    refuses_as(as, "train locked/run/config.yaml --json --resume auto --max-steps 3", 2,
               "locked/run");
    if (geteuid() != 0) assert_int_equal(chmod(at("locked/run/checkpoints"), 0755), 0);
    assert_int_equal(last_saved("locked/run"), 2);
    assert_int_equal(chmod(at("locked"), 0755), 0);
}

/* A full disk on a real small file system, where one checkpoint fits and the second does not. */
static void full_file_system(void **state)
{
    struct stat st;
    (void)state;
    runs("train " SMALL "--max-steps 2 --out sized");
    assert_int_equal(stat(at("sized/checkpoints/step-000000000002.safetensors"), &st), 0);
    assert_int_equal(mkdir(at("disk"), 0777), 0);
    if (mount("none", at("disk"), "tmpfs", 0,
              text("size=%lld", (long long)st.st_size * 3 / 2 + 16384)) != 0) {
        print_message("skipped: mounting a file system: %s\n", strerror(errno));
        skip();
    }
    const int status = shell("", "train " SMALL "--max-steps 6 --save-every 2 --out disk/run");
    char said[sizeof(err_)];
    strcpy(said, err_);
    const int64_t kept = status == 2 ? last_saved("disk/run") : -1;
    const int files = status == 2 ? count_in("disk/run/checkpoints") : -1;
    const int again =
        shell("", "train disk/run/config.yaml --json --resume auto --max-steps 3 --out sized2");
    umount2(at("disk"), MNT_DETACH);
    assert_int_equal(status, 2);
    if (lines(said) != 1 || !strstr(said, "disk/run")) fail_msg("said: %s", said);
    assert_int_equal(kept, 2);
    assert_int_equal(files, 2);
    assert_true(again == 0 || again == 2);
}

static int make_files(void **state)
{
    char book[4096];
    if (temporary_make(state) != 0) return -1;
    for (size_t i = 0; i < sizeof(book) - 1; ++i)
        book[i] = "In the beginning God created. "[i * i % 977 % 30];
    book[sizeof(book) - 1] = 0;
    put_text("text.txt", book);
    if (mkdir(at("images"), 0777) != 0) return -1;
    put_idx("images", "train", 16);
    put_idx("images", "t10k", 9);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_in_json),
        cmocka_unit_test(runs_in_json),
        cmocka_unit_test(runs_for_people),
        cmocka_unit_test(options_go_before_the_file),
        cmocka_unit_test(resumed_runs_are_the_same),
        cmocka_unit_test(signals_save_and_lose_nothing),
        cmocka_unit_test(signals_end_validations),
        cmocka_unit_test(damaged_checkpoints),
        cmocka_unit_test(damaged_data),
        cmocka_unit_test(bad_input),
        cmocka_unit_test(divergence_is_a_training_failure),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(unwritable_folder),
        cmocka_unit_test(full_file_system),
    };
    return cmocka_run_group_tests(tests, make_files, temporary_remove);
}
