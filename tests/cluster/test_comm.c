/* test_comm.c: the socket transport and what is made of it: bytes arrive where they belong, in both
 * of its ways, and a rank that is missing, twice, dead, hung or idle is named by all others in
 * bounded time. */
#include "cluster/ranks.h"

#include "comm.h"

#include <time.h>

typedef struct job {
    const char *transport;
    int64_t timeout_ns;
    int victim, fault;                       /* who does what, at the third meeting */
    int world[RANKS_MOST], rank[RANKS_MOST]; /* what each process believes, + 1; 0: what is true */
} job;
enum { DIE = 1, STOP, LEAVE, IDLE, ABSENT };

static iv_status meet(const job *j, int rank, int n, int port, iv__comm **out)
{
    iv_ranks r = {.world = j->world[rank] ? j->world[rank] - 1 : n,
                  .rank = j->rank[rank] ? j->rank[rank] - 1 : rank,
                  .address = "127.0.0.1",
                  .port = port,
                  .n_ports = 1,
                  .ports = {port}};
    return iv__comm_open(j->transport, &r, j->timeout_ns, out);
}

static int told(iv_status s, char *text)
{
    snprintf(text, RANK_TEXT, "%s", s == IV_OK ? "" : iv_error_message());
    return s == IV_OK ? 0 : (int)s;
}

/* ---- bytes ---- */

static uint8_t value(int rank, int64_t i, int round)
{
    return (uint8_t)((uint64_t)(i * 31 + rank * 7 + round) * 0x9e3779b97f4a7c15u >> 56);
}

/* Parts of all sizes, also none, in several rounds. */
static iv_status gather_parts(iv__comm *c, int n, int round)
{
    static uint8_t all[8 << 20];
    static const int64_t sizes[] = {0, 1, 4096, 4097, 3 << 20, 65536, 17};
    iv__part parts[RANKS_MOST];
    int64_t at_ = 0;
    for (int i = 0; i < n; ++i) {
        parts[i] = (iv__part){at_, sizes[(i + round) % (int)IV_COUNT(sizes)]};
        at_ += parts[i].bytes;
    }
    if (at_ > (int64_t)sizeof(all)) return iv__fail(IV_INTERNAL, "the test's memory");
    memset(all, 0, sizeof(all));
    int me = c->ranks.rank;
    for (int64_t k = 0; k < parts[me].bytes; ++k) all[parts[me].offset + k] = value(me, k, round);
    IV_TRY(iv__comm_gather_parts(c, all, parts));
    for (int i = 0; i < n; ++i)
        for (int64_t k = 0; k < parts[i].bytes; ++k)
            if (all[parts[i].offset + k] != value(i, k, round))
                return iv__fail(IV_CORRUPT, "round %d: byte %lld of rank %d", round, (long long)k,
                                i);
    return IV_OK;
}

static iv_status reduce(iv__comm *c, int n)
{
    int64_t me = c->ranks.rank, v[4][2] = {{me, -me}, {me, -me}, {me, 1}, {(int64_t)1 << me, 0}};
    int64_t want[4][2] = {{n - 1, 0}, {0, 1 - n}, {n * (n - 1) / 2, n}, {((int64_t)1 << n) - 1, 0}};
    for (int op = 0; op < 4; ++op) {
        IV_TRY(iv__comm_reduce(c, (iv__comm_op)op, v[op], 2));
        for (int i = 0; i < 2; ++i)
            if (v[op][i] != want[op][i])
                return iv__fail(IV_CORRUPT, "operation %d: %lld, expected %lld", op,
                                (long long)v[op][i], (long long)want[op][i]);
    }
    return IV_OK;
}

/* Several sets under way, small and large messages mixed, finished late. */
static iv_status many_sets(iv__comm *c, int n)
{
    enum { SETS = 40, LARGE = 100000 };
    static uint8_t out[SETS][LARGE], in[RANKS_MOST][SETS][LARGE];
    int me = c->ranks.rank;
    uint64_t ticket = 0;
    for (int s = 0; s < SETS; ++s) {
        int64_t size = s % 3 ? LARGE - s : 8 + s;
        iv_message m[2 * RANKS_MOST];
        int32_t k = 0;
        for (int64_t i = 0; i < size; ++i) out[s][i] = value(me, i, s);
        for (int p = 0; p < n; ++p) {
            if (p == me) continue;
            m[k++] = (iv_message){p, 1, out[s], size};
            m[k++] = (iv_message){p, 0, in[p][s], size};
        }
        IV_TRY(iv__comm_start(c, m, k, &ticket));
    }
    IV_TRY(iv__comm_finish(c, ticket));
    for (int p = 0; p < n; ++p)
        for (int s = 0; p != me && s < SETS; ++s)
            for (int64_t i = 0; i < (s % 3 ? LARGE - s : 8 + s); ++i)
                if (in[p][s][i] != value(p, i, s))
                    return iv__fail(IV_CORRUPT, "set %d, rank %d, byte %lld", s, p, (long long)i);
    return IV_OK;
}

static int exchange(int rank, int n, int port, const void *arg, char *text)
{
    iv__comm *c = NULL;
    iv_status s = meet(arg, rank, n, port, &c);
    for (int round = 0; s == IV_OK && round < 7; ++round) s = gather_parts(c, n, round);
    for (int round = 0; s == IV_OK && round < 50; ++round) s = reduce(c, n);
    if (s == IV_OK && n > 1) s = many_sets(c, n);
    if (s == IV_OK) s = iv__comm_barrier(c);
    iv__comm_close(c);
    return told(s, text);
}

static void test_bytes(void **state)
{
    static const char *const ways[] = {"tcp", "tcp(sockets)", "auto"};
    (void)state;
    for (int n = 1; n <= 5; ++n)
        for (int w = 0; w < 3; ++w) {
            ranks r;
            job j = {.transport = ways[w], .timeout_ns = 60000000000};
            ranks_start(&r, n, exchange, &j);
            for (int i = 0; i < n; ++i) ranks_collect(&r, i);
            for (int i = 0; i < n; ++i)
                if (rank_exit(&r, i) != 0)
                    fail_msg("%s, rank %d of %d: %d, %s", ways[w], i, n, rank_exit(&r, i),
                             r.text[i]);
        }
}

/* ---- faults ---- */

static iv_status meetings(iv__comm *c, const job *j)
{
    static uint8_t all[RANKS_MOST << 16];
    for (int round = 0; round < 1000; ++round) {
        if (round == 3 && c->ranks.rank == j->victim) {
            if (j->fault == DIE) raise(SIGKILL);
            if (j->fault == STOP) raise(SIGSTOP);
            if (j->fault == LEAVE) return IV_OK;
            if (j->fault == IDLE) sleep(60);
        }
        IV_TRY(iv__comm_gather(c, all, 1 << 16));
    }
    return IV_OK;
}

static int suffer(int rank, int n, int port, const void *arg, char *text)
{
    const job *j = arg;
    iv__comm *c = NULL;
    if (j->fault == ABSENT && rank == j->victim) return 0;
    int64_t start = iv__now_ns();
    iv_status s = meet(j, rank, n, port, &c);
    if (s == IV_OK) s = meetings(c, j);
    int status = told(s, text);
    size_t used = strlen(text);
    iv__comm_close(c);
    snprintf(text + used, RANK_TEXT - used, " [%.1f s]", (double)(iv__now_ns() - start) * 1e-9);
    return status;
}

/* Every survivor ends with this status and names the victim. */
static void check_survivors(ranks *r, const job *j, const char *what)
{
    char name[32];
    snprintf(name, sizeof(name), "rank %d", j->victim);
    for (int i = 0; i < r->n; ++i)
        if (i != j->victim) ranks_collect(r, i);
    kill(r->pid[j->victim], SIGKILL); /* a stopped or sleeping one */
    ranks_collect(r, j->victim);
    for (int i = 0; i < r->n; ++i) {
        if (i == j->victim) continue;
        bool ended = j->fault == ABSENT ? rank_exit(r, i) != 0 : rank_exit(r, i) == IV_LOST;
        if (!ended || !strstr(r->text[i], name))
            fail_msg("%s: rank %d of %d ended with %d: %s", what, i, r->n, rank_exit(r, i),
                     r->text[i]);
    }
}

/* All faults at once, since most of the time is waiting: long enough for a machine that is busy. */
static const int64_t limit_ns = 6000000000;

static void test_lost(void **state)
{
    static const struct {
        int fault;
        const char *what;
    } faults[] = {{DIE, "killed"},
                  {STOP, "stopped"},
                  {LEAVE, "has left"},
                  {IDLE, "idle"},
                  {ABSENT, "absent"}};
    enum { FAULTS = sizeof(faults) / sizeof(faults[0]), CASES = 4 };
    static const char *const ways[] = {"tcp", "tcp(sockets)"};
    static ranks r[FAULTS][CASES];
    static job j[FAULTS][CASES];
    (void)state;
    for (int f = 0; f < FAULTS; ++f)
        for (int k = 0; k < CASES; ++k) { /* the first and the last of 2 and of 4 ranks */
            const int n = k < 2 ? 2 : 4;
            j[f][k] = (job){.transport = ways[(k + f) % 2],
                            .timeout_ns = limit_ns,
                            .victim = k % 2 ? n - 1 : 0,
                            .fault = faults[f].fault};
            ranks_start(&r[f][k], n, suffer, &j[f][k]);
        }
    for (int f = 0; f < FAULTS; ++f)
        for (int k = 0; k < CASES; ++k) check_survivors(&r[f][k], &j[f][k], faults[f].what);
}

/* Two processes with one rank, and different worlds. */
static void test_census(void **state)
{
    (void)state;
    ranks r;
    job twice = {.transport = "tcp", .timeout_ns = limit_ns, .victim = -1, .rank = {[2] = 2}};
    ranks_start(&r, 3, suffer, &twice);
    for (int i = 0; i < 3; ++i) ranks_collect(&r, i);
    for (int i = 0; i < 3; ++i)
        if (rank_exit(&r, i) == 0 || !strstr(r.text[i], "rank 1 is there twice"))
            fail_msg("rank 1 twice: %d ended with %d: %s", i, rank_exit(&r, i), r.text[i]);
    job worlds = {.transport = "tcp", .timeout_ns = limit_ns, .victim = -1, .world = {[1] = 5}};
    ranks_start(&r, 3, suffer, &worlds);
    for (int i = 0; i < 3; ++i) ranks_collect(&r, i);
    for (int i = 0; i < 2; ++i)
        if (rank_exit(&r, i) == 0 || !strstr(r.text[i], "world of 4"))
            fail_msg("two worlds: %d ended with %d: %s", i, rank_exit(&r, i), r.text[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_census),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
