/* test_launch.c: the command starts its ranks itself: the bits of one process, the output of rank
 * 0, exit statuses, ranks that end with their parent; a signal to any rank stops all after a
 * checkpoint, asks the scheduler to run the job again, and the next start goes on by itself. */
#include "cluster/command.h"

/* ---- what is tested ---- */

static void gives_the_bits_of_one(void **state)
{
    char one[80], some[80];
    (void)state;
    runs_as("A=b", TRAIN "--max-steps 6", 0);
    hash_of_run(one);
    for (int n = 2; n <= 4; ++n) {
        char args[1024];
        snprintf(args, sizeof(args), TRAIN "--max-steps 6 --devices %d --rank-logs logs%d", n, n);
        runs_as("A=b", args, 0);
        hash_of_run(some);
        assert_string_equal(some, one);
        assert_int_equal(count(out_, "\"done\""), 1);
        assert_int_equal(count(err_, "\n"), 1); /* which cluster, and why */
        assert_non_null(strstr(err_, "cluster lightning"));
        char log[64];
        snprintf(log, sizeof(log), "logs%d/rank-%d.log", n, n - 1);
        slurp(at(log), out_, sizeof(out_));
        assert_int_equal(count(out_, "\"done\""), 1);
    }
}

/* A command with variables as a launcher would set them, one process each. */
static void works_with_plain_variables(void **state)
{
    char one[80], some[80];
    (void)state;
    runs_as("A=b", TRAIN "--max-steps 3", 0);
    hash_of_run(one);
    char variables[256];
    /* Rank 1 says nothing; its files are written over by rank 0's. */
    snprintf(variables, sizeof(variables),
             "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 "
             "MASTER_PORT=%d",
             20000 + (int)(getpid() % 5000));
    const pid_t other = begin(variables, TRAIN "--max-steps 3");
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    variables[5] = '0';
    *(strstr(variables, "LOCAL_RANK=") + 11) = '0';
    runs_as(variables, TRAIN "--max-steps 3", 0);
    hash_of_run(some);
    assert_string_equal(some, one);
    int status;
    assert_int_equal(waitpid(other, &status, 0), other);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void refuses_in_one_line(void **state)
{
    (void)state;
    runs_as("A=b", "train --data text:nothing.txt --devices 3", 2);
    assert_int_equal(count(err_, "nothing.txt"), 1);
    runs_as("A=b", "train --data text:text.txt --devices 0", 2);
    assert_int_equal(count(err_, "\n"), 1);
    runs_as("SLURM_NTASKS=2 SLURM_PROCID=0", TRAIN, 2);
    assert_non_null(strstr(err_, "SLURM_LOCALID is not set"));
}

static void names_a_killed_rank(void **state)
{
    pid_t ranks[8];
    (void)state;
    const pid_t pid = begin("A=b", TRAIN "--max-steps 1000000 --devices 3");
    await_step("\"step\":3,");
    assert_int_equal(children_of(pid, ranks, 8), 3);
    kill(ranks[1], SIGKILL);
    const int status = end(pid);
    assert_int_equal(status, 128 + SIGKILL);
    if (!strstr(err_, "rank 1")) fail_msg("said: %s", err_);
    for (int i = 0; i < 3; ++i) assert_true(kill(ranks[i], 0) != 0 && errno == ESRCH);
}

static void ends_with_its_parent(void **state)
{
    pid_t ranks[8];
    (void)state;
    const pid_t pid = begin("A=b", TRAIN "--max-steps 1000000 --devices 2");
    await_step("\"step\":3,");
    assert_int_equal(children_of(pid, ranks, 8), 2);
    kill(pid, SIGKILL);
    assert_int_equal(end(pid), 1000 + SIGKILL);
    for (int i = 0; i < 1000 && (kill(ranks[0], 0) == 0 || kill(ranks[1], 0) == 0); ++i)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_true(kill(ranks[0], 0) != 0 && kill(ranks[1], 0) != 0);
}

/* What works in one process does so on the folder of a run of several. */
static void other_commands_need_no_ranks(void **state)
{
    (void)state;
    runs_as("A=b", TRAIN "--max-steps 2 --devices 2 --strategy fsdp --out several", 0);
    runs_as("A=b", "generate --out several --tokens 4", 0);
    runs_as("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1", "generate --out several --tokens 4",
            0);
    runs_as("A=b", "bench step several/config.yaml --seconds 0.01", 0);
}

/* SIGUSR1 to the last rank alone: all stop after a checkpoint, the job is queued again; started as
 * the scheduler does, it goes on, to the bits of a run that was not stopped. */
static void is_requeued_and_goes_on(void **state)
{
    char one[80], some[80];
    pid_t ranks[8];
    (void)state;
    runs_as("A=b", TRAIN "--max-steps 400 --log-every 1", 0);
    hash_of_run(one);
    const pid_t pid =
        begin("PATH=.:$PATH SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=3 SLURM_JOB_ID=9",
              TRAIN "--max-steps 400 --devices 2 --out again");
    await_step("\"step\":5,");
    assert_int_equal(children_of(pid, ranks, 8), 2);
    kill(ranks[1], SIGUSR1);
    assert_int_equal(end(pid), 75);
    if (!strstr(err_, "SIGUSR1")) fail_msg("said: %s", err_);
    char text[256];
    slurp(at("requeued.txt"), text, sizeof(text));
    assert_string_equal(text, "requeue 7_3\n"); /* by one rank, once */
    runs_as("SLURM_RESTART_COUNT=1 SLURM_JOB_ID=9", TRAIN "--max-steps 400 --devices 2 --out again",
            0);
    hash_of_run(some);
    assert_string_equal(some, one);
    assert_null(strstr(out_, "\"step\":1,")); /* it did not begin anew */
}

static int make_files(void **state)
{
    if (make_text(state) != 0) return -1;
    FILE *scontrol = fopen(at("scontrol"), "w");
    if (!scontrol) return -1;
    fprintf(scontrol, "#!/bin/sh\necho \"$@\" >>requeued.txt\n");
    if (fclose(scontrol) != 0) return -1;
    return chmod(at("scontrol"), 0700);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_bits_of_one),   cmocka_unit_test(works_with_plain_variables),
        cmocka_unit_test(refuses_in_one_line),     cmocka_unit_test(names_a_killed_rank),
        cmocka_unit_test(ends_with_its_parent),    cmocka_unit_test(other_commands_need_no_ranks),
        cmocka_unit_test(is_requeued_and_goes_on),
    };
    return cmocka_run_group_tests(tests, make_files, temporary_remove);
}
