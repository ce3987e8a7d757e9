/* spawn.c: starts the other ranks of this node where no launcher has (`--devices 4`).
 *
 *   invar train --devices 4          this process: starts, passes signals on, waits
 *     ├─ rank 0                      the terminal is its own
 *     ├─ rank 1 ─ stderr by pipe     told at the end, with its rank, if it ended badly
 *     └─ ...
 *
 * Each rank is the same command with the same arguments and the usual variables (RANK, LOCAL_RANK,
 * WORLD_SIZE, ...).  Ranks end when this process dies.  The exit status is the highest of theirs.
 * When one has failed the others notice that by themselves in bounded time; what then still runs is
 * ended from here, so that nothing stays behind. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 4096, MOST_PASSED = 4 };

typedef struct child {
    pid_t pid;
    int fd;          /* its standard error, or -1 */
    int status;      /* exit status; 128 + signal; -1 while it runs */
    bool stopped;    /* by SIGSTOP */
    char text[TEXT]; /* what it said last on standard error */
    size_t n;
} child;

typedef struct family {
    child *c;
    int32_t n, running;
    bool elastic;         /* survivors go on without a rank that died */
    double grace, failed; /* seconds that the others have, and when the first failed (0: none) */
    int kills;            /* signals sent to what is left: 0, then SIGTERM, then SIGKILL */
} family;

static const int passed[MOST_PASSED] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
static volatile sig_atomic_t to_pass[MOST_PASSED];

static void on_signal(int number)
{
    for (int i = 0; i < MOST_PASSED; ++i)
        if (passed[i] == number) to_pass[i] = 1;
}

static void on_child(int number)
{
    (void)number; /* poll() returns */
}

static void catch_all(void)
{
    struct sigaction a = {.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    for (int i = 0; i < MOST_PASSED; ++i) sigaction(passed[i], &a, NULL);
    a.sa_handler = on_child;
    sigaction(SIGCHLD, &a, NULL);
}

/* ---- in the child ---- */

static bool put(const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)value);
    return setenv(name, text, 1) == 0;
}

static bool set_variables(const iv_ranks *r, int32_t i)
{
    /* On one node the ranks agree on ports by the number of their parent; on several, where the
     * parents differ, on one port. */
    const bool port = r->nodes > 1 || r->n_ports == 1;
    return put("RANK", r->rank + i) && put("LOCAL_RANK", i) && put("WORLD_SIZE", r->world) &&
           put("LOCAL_WORLD_SIZE", r->local_world) && put("NODE_RANK", r->node) &&
           put("GROUP_RANK", r->node) && put("GROUP_WORLD_SIZE", r->nodes) &&
           put("INVAR_SPAWNED", 1) && (!port || put("MASTER_PORT", r->port)) &&
           (!*r->address || setenv("MASTER_ADDR", r->address, 1) == 0);
}

/* Does not return if the command could be started. */
static void run_rank(const iv__cli *c, const iv_ranks *r, bool elastic, int32_t i, int error_fd,
                     pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) return;
    if (!set_variables(r, i)) return;
    if (i > 0) {
        const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(error_fd, 2) < 0) return;
        if (!elastic && dup2(nothing, 1) < 0) return;
    }
    execv("/proc/self/exe", c->argv);
}

/* ---- in the parent ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void signal_all(const family *f, int number)
{
    for (int32_t i = 0; i < f->n; ++i)
        if (f->c[i].status < 0) kill(f->c[i].pid, number);
}

static bool start(const iv__cli *c, const iv_ranks *r, family *f)
{
    const pid_t parent = getpid();
    for (int32_t i = 0; i < f->n; ++i) f->c[i] = (child){.fd = -1, .status = 0};
    for (int32_t i = 0; i < f->n; ++i) {
        int ends[2] = {-1, -1};
        if (i > 0 && pipe2(ends, O_CLOEXEC) != 0) return false;
        fflush(NULL);
        const pid_t pid = fork();
        if (pid == 0) {
            run_rank(c, r, f->elastic, i, ends[1], parent);
            /* The parent sees the end of this process like that of any rank. */
            kill(getpid(), SIGKILL);
        }
        if (ends[1] >= 0) close(ends[1]);
        f->c[i] = (child){.pid = pid, .fd = ends[0], .status = pid < 0 ? 0 : -1};
        if (pid < 0) return false;
        ++f->running;
    }
    return true;
}

/* Keeps the last TEXT bytes of what ranks say. */
static void read_some(child *c)
{
    char part[1024];
    const ssize_t got = read(c->fd, part, sizeof(part));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (got <= 0) {
        close(c->fd);
        c->fd = -1;
        return;
    }
    const size_t n = (size_t)got, drop = c->n + n > TEXT ? c->n + n - TEXT : 0;
    memmove(c->text, c->text + drop, c->n - drop);
    memcpy(c->text + c->n - drop, part, n);
    c->n += n - drop;
}

static void listen_shortly(family *f)
{
    struct pollfd p[256];
    int32_t who[256];
    nfds_t n = 0;
    for (int32_t i = 0; i < f->n && n < 256; ++i)
        if (f->c[i].fd >= 0) {
            who[n] = i;
            p[n++] = (struct pollfd){.fd = f->c[i].fd, .events = POLLIN};
        }
    if (poll(p, n, 200) <= 0) return;
    for (nfds_t k = 0; k < n; ++k)
        if (p[k].revents) read_some(&f->c[who[k]]);
}

static void collect(family *f)
{
    int how;
    for (pid_t pid; (pid = waitpid(-1, &how, WNOHANG | WUNTRACED | WCONTINUED)) > 0;)
        for (int32_t i = 0; i < f->n; ++i) {
            child *c = &f->c[i];
            if (c->pid != pid || c->status >= 0) continue;
            c->stopped = WIFSTOPPED(how);
            if (WIFSTOPPED(how) || WIFCONTINUED(how)) continue;
            c->status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
            --f->running;
            if (c->status != 0 && f->failed == 0) f->failed = now();
        }
}

static bool only_stopped_left(const family *f)
{
    for (int32_t i = 0; i < f->n; ++i)
        if (f->c[i].status < 0 && !f->c[i].stopped) return false;
    return f->running > 0;
}

static void end_leftovers(family *f)
{
    const bool stuck = only_stopped_left(f) && f->running < f->n;
    if (!stuck && (f->failed == 0 || f->elastic || now() < f->failed + f->grace + 10 * f->kills))
        return;
    signal_all(f, f->kills == 0 && !stuck ? SIGTERM : SIGKILL);
    ++f->kills;
}

static void wait_for_all(family *f)
{
    while (f->running > 0) {
        for (int i = 0; i < MOST_PASSED; ++i)
            if (to_pass[i]) {
                to_pass[i] = 0;
                signal_all(f, passed[i]);
            }
        listen_shortly(f);
        collect(f);
        end_leftovers(f);
    }
    for (int32_t i = 0; i < f->n; ++i)
        while (f->c[i].fd >= 0) read_some(&f->c[i]);
}

/* What ranks said, unless it is what rank 0 said too: a bad option or file, or a request to stop.
 */
static int tell(const iv__cli *cli, const family *f)
{
    int worst = 0;
    bool done = false;
    for (int32_t i = 0; i < f->n; ++i) done |= f->c[i].status == 0;
    for (int32_t i = 0; i < f->n; ++i) {
        const child *c = &f->c[i];
        const bool same = c->status == f->c[0].status && c->status != 1;
        if (i > 0 && c->n > 0 && !same) fwrite(c->text, 1, c->n, stderr);
        if (c->status > 128 && c->status != 128 + SIGTERM && c->status != 128 + SIGINT)
            iv__cli_fail(cli, "rank %d was ended by signal %d", i, c->status - 128);
        /* With --elastic a job that went on without a rank has done its work. */
        if (c->status > worst && !(f->elastic && done && c->status > 128)) worst = c->status;
    }
    return worst;
}

int iv__cli_spawn(const iv__cli *c, const iv_config *config, const iv_ranks *r)
{
    family f = {.n = r->spawn, .elastic = iv_config_bool(config, "cluster.elastic"), .grace = 60};
    f.c = calloc((size_t)f.n, sizeof(*f.c));
    if (!f.c) return iv__cli_fail(c, "starting %d ranks: out of memory", f.n);
    catch_all();
    int status = 0;
    if (!start(c, r, &f)) {
        status = iv__cli_fail(c, "starting rank %d of %d: %s", f.running, f.n, strerror(errno));
        signal_all(&f, SIGKILL);
    }
    wait_for_all(&f);
    if (status == 0) status = tell(c, &f);
    free(f.c);
    return status;
}
