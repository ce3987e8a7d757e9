/* run.h: `invar` run by the shell in the test's folder, with what it printed;
 * session_files makes the data. */
#ifndef IV_TEST_GPU_RUN_H
#define IV_TEST_GPU_RUN_H

#include "train/session.h"

static char out_[1 << 16], err_[1 << 14];

static inline void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* Runs `ENVIRONMENT invar ARGS`; its exit status, 124 after five minutes. */
static inline int run(const char *environment, const char *args)
{
    char command[4096];
    snprintf(command, sizeof(command), "cd '%s' && %s timeout 300 '%s' %s >out.txt 2>err.txt",
             folder_, environment, INVAR_CLI, args);
    const int status = system(command);
    slurp(at("out.txt"), out_, sizeof(out_));
    slurp(at("err.txt"), err_, sizeof(err_));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

#endif
