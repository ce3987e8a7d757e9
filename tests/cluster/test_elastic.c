/* test_elastic.c: jobs with --elastic lose a rank at a random moment (killed or stopped, any rank)
 * and go on without it, to the bits of an undisturbed run.  ci/elastic does the same many times. */
#include "cluster/command.h"

#define ELASTIC TRAIN "--max-steps 300 --log-every 1 --grains 8 "

static char expected_[80];
static unsigned moment_;

/* Numbers that are others in each run of the test; the first is printed. */
static int some_step(void)
{
    moment_ = moment_ * 1103515245u + 12345u;
    return 2 + (int)(moment_ / 65536u % 100u);
}

/* A job of three ranks, one of which gets a signal after a random step. */
static void goes_on_without(int rank, int number, const char *more, const char *named)
{
    char step[64], args[1024], some[80];
    pid_t ranks[8];
    const int after = some_step();
    snprintf(args, sizeof(args), ELASTIC "--devices 3 --elastic --set cluster.timeout=1 %s", more);
    const pid_t pid = begin("INVAR_THREADS=1", args);
    snprintf(step, sizeof(step), "\"step\":%d,", after);
    await_step(step);
    assert_int_equal(children_of(pid, ranks, 8), 3);
    kill(ranks[rank], number);
    const int status = end(pid);
    if (status != 0)
        fail_msg("signal %d after step %d: status %d\n%s", number, after, status, err_);
    hash_of_run(some);
    if (strcmp(some, expected_) != 0)
        fail_msg("signal %d after step %d: %s, expected %s\n%s", number, after, some, expected_,
                 err_);
    assert_int_equal(count(out_, "\"done\""), 1);
    for (int i = 0; i < 3; ++i) { /* every survivor */
        char log[64];
        if (i == rank || !*more) continue;
        snprintf(log, sizeof(log), "logs/rank-%d.log", i);
        slurp(i ? at(log) : at("err.txt"), err_, sizeof(err_));
        if (!strstr(err_, named)) fail_msg("rank %d does not say '%s': %s", i, named, err_);
    }
}

static void a_killed_rank(void **state)
{
    (void)state;
    goes_on_without(1, SIGKILL, "--rank-logs logs", "rank 1 on ");
}

static void a_stopped_rank(void **state)
{
    (void)state;
    goes_on_without(2, SIGSTOP, "", "");
    if (!strstr(err_, "2 of 3 ranks go on")) fail_msg("said: %s", err_);
}

/* Rank 1 becomes rank 0: it goes on with the output, and saves. */
static void rank_0(void **state)
{
    (void)state;
    goes_on_without(0, SIGKILL, "", "");
    if (!strstr(out_, "\"step\":300,")) fail_msg("no step 300: %s", out_);
}

/* A policy whose state is kilobytes of text. */
static void a_large_precision_state(void **state)
{
    char others[80];
    (void)state;
    strcpy(others, expected_);
    runs_as("A=b", ELASTIC "--precision fp8", 0);
    hash_of_run(expected_);
    goes_on_without(1, SIGKILL, "--precision fp8 --rank-logs logs", "rank 1 on ");
    strcpy(expected_, others);
}

static void one_rank_after_the_other(void **state)
{
    char some[80];
    pid_t ranks[8];
    (void)state;
    const pid_t pid =
        begin("INVAR_THREADS=1", ELASTIC "--devices 4 --elastic --save-every 100 --out saved");
    await_step("\"step\":20,");
    assert_int_equal(children_of(pid, ranks, 8), 4);
    kill(ranks[3], SIGKILL);
    await_step("\"step\":60,");
    kill(ranks[0], SIGKILL);
    await_step("\"step\":150,");
    kill(ranks[1], SIGKILL);
    if (end(pid) != 0) fail_msg("said: %s", err_);
    hash_of_run(some);
    assert_string_equal(some, expected_);
    runs_as("A=b", "ckpt verify saved/checkpoints/*300*", 0);
}

static void needs_what_it_can_go_on_with(void **state)
{
    (void)state;
    runs_as("A=b", TRAIN "--max-steps 2 --devices 2 --elastic --strategy ddp_sharded", 2);
    if (!strstr(err_, "--elastic with --strategy ddp_sharded")) fail_msg("said: %s", err_);
}

static int make_run(void **state)
{
    if (make_text(state) != 0) return -1;
    moment_ = (unsigned)getpid();
    print_message("moments from %u\n", moment_);
    runs_as("A=b", ELASTIC, 0);
    hash_of_run(expected_);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_rank),
        cmocka_unit_test(a_stopped_rank),
        cmocka_unit_test(rank_0),
        cmocka_unit_test(a_large_precision_state),
        cmocka_unit_test(one_rank_after_the_other),
        cmocka_unit_test(needs_what_it_can_go_on_with),
    };
    return cmocka_run_group_tests(tests, make_run, temporary_remove);
}
