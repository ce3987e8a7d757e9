/* main.c: the command `invar`: picks the command, reports faults, maps them to exit statuses. */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

static int run_help(iv__cli *c);

const iv__cli_command iv__cli_commands[] = {
    {"train", IV_CLI_TRAIN, true, 0, 1, "[CONFIG.yaml]", "train a model", iv__cli_train},
    {"generate", IV_CLI_GENERATE, true, 0, 0, "", "continue a text with a trained model",
     iv__cli_generate},
    {"plan", IV_CLI_PLAN, true, 0, 1, "[CONFIG.yaml]",
     "show the steps of a training step, and its memory", iv__cli_plan},
    {"check", IV_CLI_CHECK, true, 0, 1, "[CONFIG.yaml]",
     "compare a training step on two devices, operator by operator", iv__cli_check},
    {"devices", IV_CLI_DEVICES, false, 0, 0, "", "list devices, and backends that are not usable",
     iv__cli_devices},
    {"plugins", IV_CLI_PLUGINS, false, 0, 0, "", "list plugins; -v: also those refused, and why",
     iv__cli_plugins},
    {"ckpt", IV_CLI_CKPT, false, 2, 3, "ls|verify PATH | diff A B | convert SRC DST | prune DIR",
     "list, check, compare, convert or remove checkpoints", iv__cli_ckpt},
    {"cluster", IV_CLI_CLUSTER, true, 0, 1, "[CONFIG.yaml]",
     "show which of how many processes this is, and from which variables", iv__cli_cluster},
    {"topo", IV_CLI_TOPO, true, 0, 1, "[CONFIG.yaml]",
     "draw this machine, and where its ranks belong", iv__cli_topo},
    {"bench", IV_CLI_BENCH, true, 0, 2, "[GROUP] [CONFIG.yaml]",
     "measure the device and a training step: peak, matmul, ops, step, launches, ckpt or all",
     iv__cli_bench},
    {"env", IV_CLI_ENV, false, 0, 0, "", "list the environment variables that are read",
     iv__cli_env},
    {"help", IV_CLI_HELP, false, 0, 1, "[COMMAND]", "show this, or all options of a command",
     run_help},
    {0},
};

int iv__cli_fail(const iv__cli *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "invar%s%s: ", c->command ? " " : "", c->command ? c->command->name : "");
    if (c->rank > 0) fprintf(stderr, "rank %d: ", c->rank);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return 2;
}

int iv__cli_status(const iv__cli *c, iv_status s)
{
    static const int codes[IV_STATUS_COUNT] = {
        [IV_INVALID] = 2, [IV_UNAVAILABLE] = 2, [IV_UNSUPPORTED] = 2, [IV_NO_MEMORY] = 2,
        [IV_IO] = 2,      [IV_CORRUPT] = 2,     [IV_NONFINITE] = 1,   [IV_INTERRUPTED] = 130,
        [IV_TIMEOUT] = 1, [IV_VENDOR] = 1,      [IV_INTERNAL] = 1,    [IV_LOST] = 1,
    };
    iv__cli_fail(c, "%s", iv_error_message());
    return codes[s];
}

int iv__cli_flush(const iv__cli *c)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    return iv__cli_fail(c, "writing to standard output: %s",
                        errno ? strerror(errno) : "output was lost");
}

static const iv__cli_command *find_command(const char *name)
{
    for (const iv__cli_command *k = iv__cli_commands; k->name; ++k)
        if (strcmp(k->name, name) == 0) return k;
    return NULL;
}

static int unknown_command(const iv__cli *c, const char *name)
{
    enum { MOST = 16 };
    const char *names[MOST];
    int32_t n = 0;
    for (const iv__cli_command *k = iv__cli_commands; k->name && n < MOST; ++k)
        names[n++] = k->name;
    const char *near = iv__cli_nearest(name, names, n);
    if (near)
        return iv__cli_fail(c, "\"%.80s\" is not a command [hint: did you mean %s?]", name, near);
    return iv__cli_fail(c, "\"%.80s\" is not a command [hint: invar help lists them]", name);
}

static int run_help(iv__cli *c)
{
    if (c->n_args == 0) {
        iv__cli_usage(stdout);
        return 0;
    }
    const iv__cli_command *k = find_command(c->arg[0]);
    if (!k) return unknown_command(c, c->arg[0]);
    iv__cli_help(stdout, k);
    return 0;
}

static bool is_one_of(const char *s, const char *a, const char *b)
{
    return strcmp(s, a) == 0 || strcmp(s, b) == 0;
}

/* OpenMP threads that wait in a spin for milliseconds take a core from whoever has work: on a
 * machine that others use too, a training step gets ten times slower.  The OpenMP runtimes read
 * these variables when they are loaded, before main, so the program starts itself once more.  What
 * the user set stays. */
static void tame_waiting(char **argv)
{
    static const char *const theirs[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
    const char *name, *help, *value;
    for (int64_t i = 0; (name = iv_env_entry(i, &help, &value)); ++i)
        for (int k = 0; k < 3; ++k)
            if (value && strcmp(name, theirs[k]) == 0) return;
    if (setenv("GOMP_SPINCOUNT", "10000", 1) == 0 && setenv("KMP_BLOCKTIME", "0", 1) == 0)
        execv("/proc/self/exe", argv); /* if that fails, waiting stays as it is */
}

/* Reading options cuts their texts; ranks that are started get the whole ones. */
static char **copy_arguments(int argc, char **argv)
{
    size_t bytes = ((size_t)argc + 1) * sizeof(char *);
    for (int i = 0; i < argc; ++i) bytes += strlen(argv[i]) + 1;
    char **copy = malloc(bytes), *at = (char *)(copy ? copy + argc + 1 : NULL);
    for (int i = 0; copy && i < argc; ++i) {
        copy[i] = strcpy(at, argv[i]);
        at += strlen(argv[i]) + 1;
    }
    if (copy) copy[argc] = NULL;
    return copy;
}

int main(int argc, char **argv)
{
    static iv__cli c;
    tame_waiting(argv);
    if (argc < 2) {
        iv__cli_usage(stderr);
        return 2;
    }
    if (is_one_of(argv[1], "--version", "-V")) {
        printf("invar %s\n", iv_version());
        return iv__cli_flush(&c);
    }
    if (is_one_of(argv[1], "--help", "-h")) {
        iv__cli_usage(stdout);
        return iv__cli_flush(&c);
    }
    const iv__cli_command *k = find_command(argv[1]);
    if (!k) return unknown_command(&c, argv[1]);
    c.command = k;
    c.argv = copy_arguments(argc, argv);
    if (!c.argv) return iv__cli_fail(&c, "out of memory");
    int status = iv__cli_parse(&c, argc - 2, argv + 2);
    if (status == 0 && c.help) iv__cli_help(stdout, k);
    else if (status == 0) status = k->run(&c);
    free(c.argv);
    return status != 0 ? status : iv__cli_flush(&c);
}
