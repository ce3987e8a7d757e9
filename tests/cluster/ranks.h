/* ranks.h: jobs of several processes in a test: each rank is a fork of the test program, which
 * gives back one line of text.  The test program itself starts no thread before. */
#ifndef IV_TEST_RANKS_H
#define IV_TEST_RANKS_H

#include "unit/temporary.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MOST = 8, RANK_TEXT = 1024, RANKS_LIMIT_S = 100 };

typedef struct ranks {
    int n, port;
    pid_t pid[RANKS_MOST];
    int out[RANKS_MOST];
    char text[RANKS_MOST][RANK_TEXT];
    int status[RANKS_MOST]; /* of waitpid */
} ranks;

/* What a rank does; returns its exit status and writes its text. */
typedef int rank_fn(int rank, int n, int port, const void *arg, char *text);

static inline int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
                getsockname(fd, (struct sockaddr *)&a, &size) == 0);
    close(fd);
    return ntohs(a.sin_port);
}

static inline void ranks_start(ranks *r, int n, rank_fn *fn, const void *arg)
{
    *r = (ranks){.n = n, .port = free_port()};
    fflush(NULL);
    for (int i = 0; i < n; ++i) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        r->pid[i] = fork();
        assert_true(r->pid[i] >= 0);
        if (r->pid[i] == 0) {
            char text[RANK_TEXT] = "";
            alarm(RANKS_LIMIT_S); /* nothing of a test outlives it for long */
            int status = fn(i, n, r->port, arg, text);
            if (write(ends[1], text, RANK_TEXT) != RANK_TEXT) status = 99;
            _Exit(status);
        }
        close(ends[1]);
        r->out[i] = ends[0];
    }
}

/* Collects rank i: its text, and how it ended. */
static inline void ranks_collect(ranks *r, int i)
{
    size_t at_ = 0;
    for (ssize_t n;
         at_ < RANK_TEXT && (n = read(r->out[i], r->text[i] + at_, RANK_TEXT - at_)) != 0;)
        if (n > 0) at_ += (size_t)n;
        else if (errno != EINTR) break;
    close(r->out[i]);
    assert_int_equal(waitpid(r->pid[i], &r->status[i], 0), r->pid[i]);
}

static inline int rank_exit(const ranks *r, int i)
{
    return WIFEXITED(r->status[i]) ? WEXITSTATUS(r->status[i]) : -WTERMSIG(r->status[i]);
}

static inline void ranks_number(const char *name, int x)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", x);
    setenv(name, text, 1);
}

/* What a launcher leaves, in torchrun's names. */
static inline void ranks_environment(int rank, int n, int port)
{
    unsetenv("INVAR_ISA");
    unsetenv("INVAR_IMPL");
    unsetenv("INVAR_THREADS");
    if (n == 1) return;
    setenv("TORCHELASTIC_RUN_ID", "test", 1);
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    ranks_number("MASTER_PORT", port);
    ranks_number("RANK", rank);
    ranks_number("LOCAL_RANK", rank);
    ranks_number("WORLD_SIZE", n);
    ranks_number("LOCAL_WORLD_SIZE", n);
    ranks_number("GROUP_RANK", 0);
}

#endif
