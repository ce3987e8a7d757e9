/* cli.h: what the files of the command line share.
 *
 * The command line is a customer of invar.h: it includes nothing else of the library.  main.c picks
 * a command, options.c reads the arguments into an iv__cli, the command runs and returns the exit
 * status: 0, 1 (training failed), 2 (bad option, file or environment), 130 or 143 (interrupted).
 * Faults are one line on stderr; stdout holds results only.
 */
#ifndef IV_CLI_H
#define IV_CLI_H

#include "invar.h"

#include <stdio.h>

#if defined(__GNUC__)
#define IV_CLI_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define IV_CLI_PRINTF(fmt, first)
#endif

enum { IV_CLI_MOST_SETTINGS = 256 };

/* A key set by an option; applied after the configuration file. */
typedef struct iv__cli_setting {
    const char *flag; /* as typed: "--lr", or "--set" */
    const char *key, *value;
} iv__cli_setting;

typedef struct iv__cli iv__cli;
typedef struct iv__cli_command {
    const char *name;
    uint32_t bit;        /* IV_CLI_TRAIN, ... */
    bool config;         /* takes the options of config.def */
    int32_t least, most; /* positional arguments */
    const char *args, *summary;
    int (*run)(iv__cli *c); /* returns the exit status */
} iv__cli_command;
enum {
    IV_CLI_TRAIN = 1,
    IV_CLI_GENERATE = 2,
    IV_CLI_PLAN = 4,
    IV_CLI_DEVICES = 8,
    IV_CLI_PLUGINS = 16,
    IV_CLI_ENV = 32,
    IV_CLI_CKPT = 64,
    IV_CLI_HELP = 128,
    IV_CLI_CLUSTER = 256,
    IV_CLI_TOPO = 512,
    IV_CLI_BENCH = 1024,
    IV_CLI_CHECK = 2048
};

/* The arguments, read. */
struct iv__cli {
    char **argv; /* of the process: what spawned ranks run */
    const iv__cli_command *command;
    const char *arg[3]; /* positional */
    int32_t n_args;
    bool json, verbose, help;
    int32_t rank;                                  /* of this process; named in faults unless 0 */
    bool quiet;                                    /* a rank that reports nothing but faults */
    const char *prompt, *checkpoint, *config_file; /* generate; NULL: not given */
    int64_t tokens, top_k, seed, keep;
    double temperature, seconds; /* seconds: bench */
    iv__cli_setting set[IV_CLI_MOST_SETTINGS];
    int32_t n_set;
};

/* ---- main.c ---- */
/* Commands, ended by a NULL name. */
extern const iv__cli_command iv__cli_commands[];
/* Prints "invar COMMAND: text" on stderr and returns 2. */
int iv__cli_fail(const iv__cli *c, const char *fmt, ...) IV_CLI_PRINTF(2, 3);
/* Prints the library's error text for `s` (not IV_OK) and returns the exit status for it. */
int iv__cli_status(const iv__cli *c, iv_status s);
/* Flushes stdout; 0, or 2 with a line on stderr when output was lost. */
int iv__cli_flush(const iv__cli *c);

/* ---- options.c ---- */
/* An option that is not a key of config.def. */
typedef struct iv__cli_option {
    const char *name, *letter; /* "--verbose", "-v" or NULL */
    uint32_t commands;         /* bits */
    enum { IV_OPT_FLAG, IV_OPT_TEXT, IV_OPT_INT, IV_OPT_FLOAT, IV_OPT_SET } kind;
    size_t at;                /* offset of the field in iv__cli */
    const char *value, *help; /* name of the value in help texts, or NULL */
} iv__cli_option;
/* Ended by a NULL name. */
extern const iv__cli_option iv__cli_options[];
/* Reads what follows the command's name.  0, or the exit status after a line on stderr. */
int iv__cli_parse(iv__cli *c, int argc, char **argv);
/* The configuration: defaults, then `file` (NULL: none), then the options.  0 and *out, or as
 * above. */
int iv__cli_config(const iv__cli *c, const char *file, iv_config **out);
/* The name in names[0..n) nearest to `name`, or NULL if none is near. */
const char *iv__cli_nearest(const char *name, const char *const *names, int32_t n);

/* ---- help.c ---- */
void iv__cli_usage(FILE *f);
void iv__cli_help(FILE *f, const iv__cli_command *command);

/* ---- print.c ---- */
/* A JSON string of n bytes (bytes that are not UTF-8 become U+FFFD); of a C string. */
void iv__json_bytes(FILE *f, const char *s, size_t n);
void iv__json_text(FILE *f, const char *s);
/* The shortest decimal that reads back as x; null for NaN and infinities. */
void iv__json_number(FILE *f, double x);
/* "1.4 GiB", "12.3k", "1:02:03". */
void iv__print_bytes(char out[32], int64_t bytes);
void iv__print_count(char out[32], double n);
void iv__print_time(char out[32], double seconds);

/* ---- progress.c ---- what a person sees of a run, on stderr */
typedef struct iv__progress {
    bool terminal, drawn; /* a bar is on the line */
    int64_t max_steps, memory_bytes;
    int64_t start_step;    /* steps done before this run's first; < 0: not known yet */
    double max_seconds;    /* 0: no limit */
    double started, shown; /* seconds on the monotonic clock; shown < 0: never */
    double speed;          /* smoothed samples or tokens per second */
} iv__progress;
double iv__progress_clock(void);
void iv__progress_start(iv__progress *p, const iv_trainer *t, double max_seconds);
void iv__progress_step(iv__progress *p, const iv_step_report *r);
/* A line of its own, above the bar. */
void iv__progress_line(iv__progress *p, const char *fmt, ...) IV_CLI_PRINTF(2, 3);
/* Leaves the cursor on an empty line. */
void iv__progress_end(iv__progress *p);
/* Seconds meant by "90", "90s", "15m", "2h" or "hh:mm:ss"; 0 if it is none of these. */
double iv__progress_duration(const char *text);

/* ---- folder.c ---- checkpoints of a run folder */
typedef struct iv__cli_file {
    int64_t step, bytes;
    char path[1024];
} iv__cli_file;
/* The checkpoints in `dir` or in dir/checkpoints, by rising step; the caller frees *out.  0, or the
 * exit status after a line on stderr. */
bool iv__cli_is_sharded(const char *path);
int iv__cli_folder(const iv__cli *c, const char *dir, iv__cli_file **out, int64_t *out_n);

/* ---- open.c ---- */
/* Data, model specification and trainer of a configuration. */
typedef struct iv__cli_run {
    iv_config *config;
    iv_dataset *data; /* or NULL */
    iv_dataset_info info;
    iv_model_spec spec;
    iv_trainer *trainer;
} iv__cli_run;
/* Opens config (taken over) and what it names; without data.train the data stays NULL. */
int iv__cli_open(const iv__cli *c, iv_config *config, bool with_data, iv__cli_run *out);
void iv__cli_close(iv__cli_run *r);
/* For commands that only look: nothing is resumed, no run folder is made, and a model of text may
 * be without data.  Frees config unless it returns 0. */
int iv__cli_neutral(const iv__cli *c, iv_config *config);
/* For commands that work in this process alone, however many ranks the run has. */
iv_status iv__cli_alone(iv_config *config);

/* ---- rank.c ---- */
enum { IV_CLI_SPAWNED = -1 }; /* the ranks did the work, in processes of their own */
/* Finds this run's place in its cluster.  0: go on as c->rank; IV_CLI_SPAWNED: all is done; else
 * the exit status after a line on stderr. */
int iv__cli_join(iv__cli *c, const iv_config *config);

/* ---- spawn.c ---- */
/* Starts r->spawn ranks of this same command on this node and waits for them; the exit status. */
int iv__cli_spawn(const iv__cli *c, const iv_config *config, const iv_ranks *r);

/* ---- the commands ---- */
int iv__cli_train(iv__cli *c);
int iv__cli_generate(iv__cli *c);
int iv__cli_plan(iv__cli *c);
int iv__cli_bench(iv__cli *c);
int iv__cli_check(iv__cli *c);
int iv__cli_devices(iv__cli *c);
int iv__cli_plugins(iv__cli *c);
int iv__cli_env(iv__cli *c);
int iv__cli_ckpt(iv__cli *c);
int iv__cli_cluster(iv__cli *c);
int iv__cli_topo(iv__cli *c);

#endif
