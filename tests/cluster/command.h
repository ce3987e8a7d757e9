/* command.h: the command as a process of a test: started in a shell in the test's folder, awaited,
 * and what it said. */
#ifndef IV_TEST_COMMAND_H
#define IV_TEST_COMMAND_H

#include "unit/temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char out_[1 << 16], err_[1 << 14];

static inline void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    *text = 0;
    if (!f) return;
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

#define TRAIN                                                                                      \
    "train --data text:text.txt --json --numerics invariant --set model.layers=1 --set "           \
    "model.heads=2 --set model.width=16 --set model.context=8 --batch 8 --set eval.batches=2 "

/* Starts `VARIABLES invar ARGS` in a shell in the folder; its output goes to files. */
static inline pid_t begin(const char *variables, const char *args)
{
    char command[4096];
    snprintf(command, sizeof(command), "cd '%s' && exec env %s '%s' %s >out.txt 2>err.txt", folder_,
             variables, INVAR_CLI, args);
    /* What an earlier run said is not taken for this one's. */
    (void)unlink(at("out.txt"));
    (void)unlink(at("err.txt"));
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _Exit(127);
    }
    assert_true(pid > 0);
    return pid;
}

/* Its exit status, or 1000 + the signal; fails after a minute. */
static inline int end(pid_t pid)
{
    int status = 0;
    for (int i = 0; i < 6000; ++i) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            slurp(at("out.txt"), out_, sizeof(out_));
            slurp(at("err.txt"), err_, sizeof(err_));
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    kill(pid, SIGKILL);
    fail_msg("it did not end within a minute");
    return -1;
}

static inline void runs_as(const char *variables, const char *args, int expected)
{
    const int status = end(begin(variables, args));
    if (status != expected)
        fail_msg("invar %s\n  ended with %d, expected %d\n  %s", args, status, expected, err_);
}

static inline void hash_of_run(char out[80])
{
    const char *h = strstr(out_, "\"hash\":");
    if (!h) fail_msg("no hash in: %s%s", out_, err_);
    snprintf(out, 80, "%.*s", (int)strcspn(h, "}"), h);
}

static inline int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)); ++text) ++n;
    return n;
}

/* Waits until a step of the run has been printed. */
static inline void await_step(const char *step)
{
    for (int i = 0; i < 6000; ++i) {
        slurp(at("out.txt"), out_, sizeof(out_));
        if (strstr(out_, step)) return;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    slurp(at("err.txt"), err_, sizeof(err_));
    fail_msg("no %s: %s", step, err_);
}

/* Processes whose parent is `pid`; their number. */
static inline int children_of(pid_t pid, pid_t *out, int most)
{
    char path[64], text[256];
    int n = 0;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
    slurp(path, text, sizeof(text));
    char *rest = text;
    for (char *word; (word = strsep(&rest, " "));)
        if (*word && n < most) out[n++] = (pid_t)strtol(word, NULL, 10);
    return n;
}

/* cmocka group setup: a folder with text.txt to train on. */
static inline int make_text(void **state)
{
    if (temporary_make(state) != 0) return -1;
    FILE *text = fopen(at("text.txt"), "w");
    if (!text) return -1;
    for (int i = 0; i < 2000; ++i) fprintf(text, "line %d of a text\n", i);
    return fclose(text);
}

#endif
