/* generate.c: `invar generate`: continues a prompt with the model of a checkpoint.
 *
 * The run folder (--out) gives configuration and newest checkpoint, unless --config and
 * --checkpoint name others.  Up to a vocabulary of 256 a token is a byte; above, prompt and result
 * are token ids, since the library has no tokenizer. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct request {
    char config[1024], checkpoint[1024];
    int64_t vocab;
    int32_t *prompt, *text; /* text [tokens] */
    int64_t n_prompt;
} request;

/* The folder given by --out, or NULL. */
static const char *run_folder(const iv__cli *c)
{
    const char *dir = NULL;
    for (int32_t i = 0; i < c->n_set; ++i)
        if (strcmp(c->set[i].key, "out.dir") == 0) dir = c->set[i].value;
    return dir;
}

static int newest_checkpoint(const iv__cli *c, const char *dir, char out[1024])
{
    iv__cli_file *files;
    int64_t n;
    const int status = iv__cli_folder(c, dir, &files, &n);
    if (status != 0) return status;
    if (n > 0) snprintf(out, 1024, "%s", files[n - 1].path);
    free(files);
    if (n == 0)
        return iv__cli_fail(c, "%s: no checkpoint there [hint: train with --out %s first]", dir,
                            dir);
    return 0;
}

/* Fills the paths of configuration and checkpoint. */
static int find_files(const iv__cli *c, request *q)
{
    const char *dir = run_folder(c);
    if (!dir && !(c->config_file && c->checkpoint))
        return iv__cli_fail(
            c, "no model is named [hint: --out DIR, or --config FILE --checkpoint FILE]");
    if (c->config_file) snprintf(q->config, sizeof(q->config), "%s", c->config_file);
    else snprintf(q->config, sizeof(q->config), "%.1000s/config.yaml", dir);
    if (!c->checkpoint) return newest_checkpoint(c, dir, q->checkpoint);
    snprintf(q->checkpoint, sizeof(q->checkpoint), "%s", c->checkpoint);
    return 0;
}

/* The vocabulary is the height of the token embedding. */
static void see_tensor(void *ctx, const char *name, iv_dtype dtype, const iv_shape *shape)
{
    request *q = ctx;
    (void)dtype;
    if (shape->rank != 2) return;
    if (strcmp(name, "wte.weight") == 0 || strcmp(name, "transformer.wte.weight") == 0)
        q->vocab = shape->dim[0];
}

/* A run on data takes the vocabulary from it; here it comes from the checkpoint, so that the data
 * need not be there. */
static int set_vocabulary(const iv__cli *c, request *q, iv_config *config)
{
    char text[32];
    const iv_ckpt_visitor visitor = {.ctx = q, .tensor = see_tensor};
    iv_status s = iv_checkpoint_list(q->checkpoint, &visitor);
    if (s != IV_OK) return iv__cli_status(c, s);
    if (q->vocab == 0)
        return iv__cli_fail(
            c, "%s: has no token embedding (wte.weight): only gpt models generate text",
            q->checkpoint);
    snprintf(text, sizeof(text), "%lld", (long long)q->vocab);
    s = iv_config_set(config, "model.vocab", text);
    return s == IV_OK ? 0 : iv__cli_status(c, s);
}

static int read_bytes(const iv__cli *c, const char *text, request *q)
{
    for (size_t i = 0; text[i]; ++i) {
        const int32_t id = (unsigned char)text[i];
        if (id >= q->vocab)
            return iv__cli_fail(c, "--prompt: byte %d at %zu is outside the vocabulary of %lld", id,
                                i, (long long)q->vocab);
        q->prompt[q->n_prompt++] = id;
    }
    return 0;
}

static int read_ids(const iv__cli *c, const char *text, request *q)
{
    while (*text) {
        char *end;
        errno = 0;
        const long long id = strtoll(text, &end, 10);
        if (end == text || errno == ERANGE || id < 0 || id >= q->vocab)
            return iv__cli_fail(c, "--prompt: \"%.40s\" is not a token id from 0 to %lld", text,
                                (long long)q->vocab - 1);
        q->prompt[q->n_prompt++] = (int32_t)id;
        text = end + strspn(end, ", ");
    }
    return 0;
}

static int read_prompt(const iv__cli *c, request *q)
{
    const bool bytes = q->vocab <= 256;
    const char *text = c->prompt ? c->prompt : bytes ? "\n" : "";
    q->prompt = calloc(strlen(text) + 1, sizeof(*q->prompt));
    q->text = calloc((size_t)c->tokens + 1, sizeof(*q->text));
    if (!q->prompt || !q->text)
        return iv__cli_fail(c, "out of memory for %lld tokens", (long long)c->tokens);
    const int status = bytes ? read_bytes(c, text, q) : read_ids(c, text, q);
    if (status == 0 && q->n_prompt == 0)
        return iv__cli_fail(c, "--prompt: at least one token is needed");
    return status;
}

static void print_tokens(const request *q, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        if (q->vocab <= 256) putchar(q->text[i]);
        else printf("%s%d", i ? " " : "", q->text[i]);
    }
    putchar('\n');
}

static int print_json(const iv__cli *c, const request *q)
{
    char *bytes = malloc((size_t)c->tokens + 1);
    if (!bytes) return iv__cli_fail(c, "out of memory for %lld tokens", (long long)c->tokens);
    fputs("{\"checkpoint\":", stdout);
    iv__json_text(stdout, q->checkpoint);
    if (q->vocab <= 256) {
        for (int64_t i = 0; i < c->tokens; ++i) bytes[i] = (char)q->text[i];
        fputs(",\"text\":", stdout);
        iv__json_bytes(stdout, bytes, (size_t)c->tokens);
    }
    fputs(",\"tokens\":[", stdout);
    for (int64_t i = 0; i < c->tokens; ++i) printf("%s%d", i ? "," : "", q->text[i]);
    puts("]}");
    free(bytes);
    return 0;
}

static int generate(const iv__cli *c, const iv__cli_run *r, request *q)
{
    iv_status s = iv_trainer_load(r->trainer, q->checkpoint);
    if (s != IV_OK) return iv__cli_status(c, s);
    s = iv_trainer_generate(r->trainer, q->prompt, q->n_prompt, c->tokens, c->temperature, c->top_k,
                            (uint64_t)c->seed, q->text);
    if (s != IV_OK) return iv__cli_status(c, s);
    if (c->json) return print_json(c, q);
    if (c->prompt && q->vocab <= 256) fputs(c->prompt, stdout);
    print_tokens(q, c->tokens);
    return 0;
}

/* The options of the run that do not matter here must not act. */
static int neutral(const iv__cli *c, iv_config *config)
{
    static const char *const keys[] = {"out.dir", "out.resume", "model.init"};
    iv_status s = iv__cli_alone(config);
    for (int32_t i = 0; s == IV_OK && i < 3; ++i) s = iv_config_set(config, keys[i], "");
    return s == IV_OK ? 0 : iv__cli_status(c, s);
}

static int prepare(const iv__cli *c, request *q, iv_config *config)
{
    if (strcmp(iv_config_str(config, "model.name"), "gpt") != 0)
        return iv__cli_fail(c, "%s: the model is %s; only gpt models generate text", q->config,
                            iv_config_str(config, "model.name"));
    int status = neutral(c, config);
    if (status == 0) status = set_vocabulary(c, q, config);
    if (status == 0) status = read_prompt(c, q);
    return status;
}

int iv__cli_generate(iv__cli *c)
{
    request q = {0};
    iv__cli_run run;
    iv_config *config;
    int status = find_files(c, &q);
    if (status != 0) return status;
    enum { MOST_TOKENS = 1 << 28 };
    if (c->tokens > MOST_TOKENS) return iv__cli_fail(c, "--tokens: at most %d", MOST_TOKENS);
    status = iv__cli_config(c, q.config, &config);
    if (status != 0) return status;
    status = prepare(c, &q, config);
    if (status != 0) iv_config_free(config);
    else status = iv__cli_open(c, config, false, &run);
    if (status == 0) {
        status = generate(c, &run, &q);
        iv__cli_close(&run);
    }
    free(q.prompt);
    free(q.text);
    return status;
}
