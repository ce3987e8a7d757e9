/* help.c: help texts, written from the tables of commands, options and configuration keys. */
#include "cli.h"

#include <string.h>

void iv__cli_usage(FILE *f)
{
    fprintf(f, "invar %s: trains neural networks, with the same bits everywhere\n\n", iv_version());
    fprintf(f, "usage: invar COMMAND [ARGUMENTS] [OPTIONS]\n\n");
    for (const iv__cli_command *k = iv__cli_commands; k->name; ++k) {
        char left[64];
        snprintf(left, sizeof(left), "%s %s", k->name, k->args);
        fprintf(f, "  %-24s %s\n", left, k->summary);
    }
    fprintf(f, "  %-24s %s\n", "--version", "print the version");
    fprintf(f,
            "\n`invar COMMAND --help` lists all options of a command.  For example:\n\n"
            "  invar train --data text:FILE --precision bf16-mixed --max-steps 500 --out runs/a\n"
            "  invar generate --out runs/a --prompt \"In the beginning\"\n");
}

static void print_option(FILE *f, const iv__cli_option *o)
{
    char left[64];
    snprintf(left, sizeof(left), "%s%s%s%s%s", o->letter ? o->letter : "", o->letter ? ", " : "",
             o->name, o->value ? " " : "", o->value ? o->value : "");
    fprintf(f, "  %-26s %s\n", left, o->help);
}

static const char *value_name(const iv_config_key *k)
{
    static const char *const names[] = {
        [IV_CFG_STRING] = "TEXT", [IV_CFG_INT] = "N", [IV_CFG_FLOAT] = "X", [IV_CFG_BOOL] = "BOOL"};
    return names[k->type];
}

/* Whether a command's own option hides the flag of a key. */
static bool is_hidden(const iv__cli_command *command, const char *flag)
{
    for (const iv__cli_option *o = iv__cli_options; o->name; ++o)
        if ((o->commands & command->bit) && strcmp(o->name, flag) == 0) return true;
    return false;
}

static void print_key(FILE *f, const iv__cli_command *command, const iv_config_key *k)
{
    char left[96], flag[64] = "";
    const char *fallback = *k->fallback ? k->fallback : "\"\"";
    if (k->flag && !is_hidden(command, k->flag))
        snprintf(flag, sizeof(flag), "%s %s", k->flag, value_name(k));
    snprintf(left, sizeof(left), "%-20s %s", k->key, flag);
    fprintf(f, "  %-41s %s [%s]\n", left, k->help, fallback);
}

void iv__cli_help(FILE *f, const iv__cli_command *command)
{
    fprintf(f, "usage: invar %s%s%s [OPTIONS]\n%s\n\n", command->name, *command->args ? " " : "",
            command->args, command->summary);
    for (const iv__cli_option *o = iv__cli_options; o->name; ++o)
        if (o->commands & command->bit) print_option(f, o);
    if (!command->config) return;
    const iv_config_key *keys;
    const int64_t n = iv_config_keys(&keys);
    fprintf(f,
            "\nKeys of CONFIG.yaml and of --set, the options that set them, and [defaults]:\n\n");
    for (int64_t i = 0; i < n; ++i) print_key(f, command, &keys[i]);
}
