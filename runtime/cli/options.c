/* options.c: reads arguments.  Options come from two tables: those of commands (below), and the
 * keys of config.def that have a flag (iv_config_keys).  `--name value` and `--name=value` are the
 * same.  Keys are collected and applied after the configuration file, in the order given, so that a
 * later one wins. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(iv__cli, field)
enum {
    ALL = -1,
    TABLES = IV_CLI_TRAIN | IV_CLI_GENERATE | IV_CLI_PLAN | IV_CLI_DEVICES | IV_CLI_PLUGINS |
             IV_CLI_ENV | IV_CLI_CKPT | IV_CLI_CLUSTER | IV_CLI_TOPO | IV_CLI_BENCH | IV_CLI_CHECK,
    RUNS = IV_CLI_TRAIN | IV_CLI_GENERATE | IV_CLI_PLAN | IV_CLI_CLUSTER | IV_CLI_TOPO |
           IV_CLI_BENCH | IV_CLI_CHECK
};

const iv__cli_option iv__cli_options[] = {
    {"--help", "-h", (uint32_t)ALL, IV_OPT_FLAG, AT(help), NULL, "show this"},
    {"--json", NULL, TABLES, IV_OPT_FLAG, AT(json), NULL, "print JSON on standard output"},
    {"--verbose", "-v", TABLES, IV_OPT_FLAG, AT(verbose), NULL, "print more"},
    {"--set", NULL, RUNS, IV_OPT_SET, 0, "KEY=VALUE", "set any key below; may be repeated"},
    {"--seconds", NULL, IV_CLI_BENCH, IV_OPT_FLOAT, AT(seconds), "X",
     "time to spend on a row (default 1)"},
    {"--checkpoint", NULL, IV_CLI_GENERATE, IV_OPT_TEXT, AT(checkpoint), "FILE",
     "checkpoint to use (default: the newest of --out)"},
    {"--config", NULL, IV_CLI_GENERATE, IV_OPT_TEXT, AT(config_file), "FILE",
     "configuration of the run (default: config.yaml of --out)"},
    {"--prompt", NULL, IV_CLI_GENERATE, IV_OPT_TEXT, AT(prompt), "TEXT",
     "text to continue (default: a newline); token ids if the vocabulary is above 256"},
    {"--tokens", NULL, IV_CLI_GENERATE, IV_OPT_INT, AT(tokens), "N",
     "tokens to generate (default 256)"},
    {"--temperature", NULL, IV_CLI_GENERATE, IV_OPT_FLOAT, AT(temperature), "X",
     "0: always the most likely token (default 0.8)"},
    {"--top-k", NULL, IV_CLI_GENERATE, IV_OPT_INT, AT(top_k), "K",
     "choose among the K most likely; 0: all (default 0)"},
    {"--seed", NULL, IV_CLI_GENERATE, IV_OPT_INT, AT(seed), "N", "seed of the choice (default 1)"},
    {"--keep", NULL, IV_CLI_CKPT, IV_OPT_INT, AT(keep), "N",
     "prune: the newest N stay, and the one that `last` names (default 1)"},
    {0},
};

/* ---- nearest name ---- */

enum { LONGEST = 63 };

static int32_t least3(int32_t a, int32_t b, int32_t c)
{
    const int32_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Insertions, deletions and replacements that make b of a; both at most LONGEST bytes. */
static int32_t distance(const char *a, const char *b)
{
    int32_t row[LONGEST + 1];
    const int32_t n = (int32_t)strlen(a), m = (int32_t)strlen(b);
    for (int32_t j = 0; j <= m; ++j) row[j] = j;
    for (int32_t i = 1; i <= n; ++i) {
        int32_t diagonal = row[0];
        row[0] = i;
        for (int32_t j = 1; j <= m; ++j) {
            const int32_t above = row[j];
            row[j] = least3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

const char *iv__cli_nearest(const char *name, const char *const *names, int32_t n)
{
    const size_t length = strlen(name);
    int32_t best = (int32_t)length / 3 + 1;
    const char *near = NULL;
    if (length > LONGEST) return NULL;
    for (int32_t i = 0; i < n; ++i) {
        if (strlen(names[i]) > LONGEST) continue;
        const int32_t d = distance(name, names[i]);
        if (d > best || (d == best && near)) continue;
        best = d;
        near = names[i];
    }
    return near;
}

/* ---- tables ---- */

static const iv__cli_option *find_option(const iv__cli *c, const char *name, size_t n)
{
    for (const iv__cli_option *o = iv__cli_options; o->name; ++o) {
        if (!(o->commands & c->command->bit)) continue;
        if (strlen(o->name) == n && memcmp(o->name, name, n) == 0) return o;
        if (o->letter && strlen(o->letter) == n && memcmp(o->letter, name, n) == 0) return o;
    }
    return NULL;
}

static const iv_config_key *find_flag(const iv__cli *c, const char *name, size_t n)
{
    const iv_config_key *keys;
    const int64_t n_keys = c->command->config ? iv_config_keys(&keys) : 0;
    for (int64_t i = 0; i < n_keys; ++i) {
        const char *flag = keys[i].flag;
        if (flag && strlen(flag) == n && memcmp(flag, name, n) == 0) return &keys[i];
    }
    return NULL;
}

/* Whether name is a key of config.def, with "--" before it. */
static bool is_key(const char *name)
{
    const iv_config_key *keys;
    const int64_t n = iv_config_keys(&keys);
    for (int64_t i = 0; i < n; ++i)
        if (strcmp(keys[i].key, name + 2) == 0) return true;
    return false;
}

static int unknown_option(const iv__cli *c, const char *name, size_t n)
{
    enum { MOST = 256 };
    const char *names[MOST];
    char typed[LONGEST + 2];
    int32_t count = 0;
    for (const iv__cli_option *o = iv__cli_options; o->name && count < MOST; ++o)
        if (o->commands & c->command->bit) names[count++] = o->name;
    const iv_config_key *keys;
    const int64_t n_keys = c->command->config ? iv_config_keys(&keys) : 0;
    for (int64_t i = 0; i < n_keys && count < MOST; ++i)
        if (keys[i].flag) names[count++] = keys[i].flag;
    snprintf(typed, sizeof(typed), "%.*s", (int)n, name);
    if (c->command->config && n > 2 && is_key(typed))
        return iv__cli_fail(c, "%s: there is no such option [hint: --set %s=VALUE]", typed,
                            typed + 2);
    const char *near = iv__cli_nearest(typed, names, count);
    if (near)
        return iv__cli_fail(c, "%s: there is no such option [hint: did you mean %s?]", typed, near);
    return iv__cli_fail(c, "%s: there is no such option [hint: invar %s --help lists them]", typed,
                        c->command->name);
}

/* ---- values ---- */

static int add_setting(iv__cli *c, const char *flag, const char *key, const char *value)
{
    if (c->n_set == IV_CLI_MOST_SETTINGS)
        return iv__cli_fail(c, "%s: more than %d settings", flag, IV_CLI_MOST_SETTINGS);
    c->set[c->n_set++] = (iv__cli_setting){flag, key, value};
    return 0;
}

/* "key=value": the text is cut at the '='; argv is ours to write. */
static int add_pair(iv__cli *c, char *text)
{
    char *equal = strchr(text, '=');
    if (!equal || equal == text)
        return iv__cli_fail(c, "--set %.80s: not of the form KEY=VALUE", text);
    *equal = 0;
    return add_setting(c, "--set", text, equal + 1);
}

static int read_int(iv__cli *c, const iv__cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno == ERANGE || v < 0)
        return iv__cli_fail(c, "%s: \"%.80s\" is not an integer from 0 on", o->name, text);
    memcpy((char *)c + o->at, &(int64_t){v}, sizeof(int64_t));
    return 0;
}

static int read_float(iv__cli *c, const iv__cli_option *o, const char *text)
{
    char *end;
    const double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < 0)
        return iv__cli_fail(c, "%s: \"%.80s\" is not a number from 0 on", o->name, text);
    memcpy((char *)c + o->at, &v, sizeof(v));
    return 0;
}

static int take_value(iv__cli *c, const iv__cli_option *o, char *text)
{
    switch (o->kind) {
    case IV_OPT_INT: return read_int(c, o, text);
    case IV_OPT_FLOAT: return read_float(c, o, text);
    case IV_OPT_SET: return add_pair(c, text);
    case IV_OPT_TEXT: *(const char **)(void *)((char *)c + o->at) = text; return 0;
    case IV_OPT_FLAG: break;
    }
    return iv__cli_fail(c, "%s: takes no value", o->name);
}

/* The value of the option argv[*i]: after its '=', or the next argument.  NULL: there is none. */
static char *value_of(char *equal, int argc, char **argv, int *i)
{
    if (equal) return equal + 1;
    if (*i + 1 >= argc || strncmp(argv[*i + 1], "--", 2) == 0) return NULL;
    return argv[++*i];
}

static int read_option(iv__cli *c, int argc, char **argv, int *i)
{
    char *name = argv[*i], *equal = strncmp(name, "--", 2) == 0 ? strchr(name, '=') : NULL;
    const size_t n = equal ? (size_t)(equal - name) : strlen(name);
    const iv__cli_option *o = find_option(c, name, n);
    const iv_config_key *key = o ? NULL : find_flag(c, name, n);
    if (!o && !key) return unknown_option(c, name, n);
    if (o && o->kind == IV_OPT_FLAG && !equal) {
        memcpy((char *)c + o->at, &(bool){true}, sizeof(bool));
        return 0;
    }
    if (key && key->type == IV_CFG_BOOL && !equal)
        return add_setting(c, key->flag, key->key, "true");
    char *value = value_of(equal, argc, argv, i);
    if (!value) return iv__cli_fail(c, "%.*s: its value is missing", (int)n, name);
    return o ? take_value(c, o, value) : add_setting(c, key->flag, key->key, value);
}

static int read_argument(iv__cli *c, const char *text)
{
    if (c->n_args == c->command->most)
        return iv__cli_fail(c, "\"%.80s\": unexpected argument [hint: invar %s --help]", text,
                            c->command->name);
    c->arg[c->n_args++] = text;
    return 0;
}

int iv__cli_parse(iv__cli *c, int argc, char **argv)
{
    c->tokens = 256;
    c->seconds = 1;
    c->temperature = 0.8;
    c->seed = 1;
    c->keep = 1;
    bool options = true;
    for (int i = 0; i < argc; ++i) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
            continue;
        }
        const bool option = options && argv[i][0] == '-' && argv[i][1];
        const int status = option ? read_option(c, argc, argv, &i) : read_argument(c, argv[i]);
        if (status != 0) return status;
    }
    if (c->help || c->n_args >= c->command->least) return 0;
    return iv__cli_fail(c, "arguments are missing [hint: invar %s %s]", c->command->name,
                        c->command->args);
}

/* The library names the key; options name themselves too. */
static int refuse_setting(const iv__cli *c, const iv__cli_setting *s)
{
    return iv__cli_fail(c, "%s: %s", s->flag, iv_error_message());
}

int iv__cli_config(const iv__cli *c, const char *file, iv_config **out)
{
    iv_config *config;
    int status = 0;
    iv_status s = iv_config_new(&config);
    if (s != IV_OK) return iv__cli_status(c, s);
    if (file) {
        s = iv_config_load(config, file);
        if (s != IV_OK) status = iv__cli_status(c, s);
    }
    for (int32_t i = 0; i < c->n_set && status == 0; ++i) {
        s = iv_config_set(config, c->set[i].key, c->set[i].value);
        if (s != IV_OK) status = refuse_setting(c, &c->set[i]);
    }
    if (status == 0) *out = config;
    else iv_config_free(config);
    return status;
}
