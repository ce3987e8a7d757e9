/* test_kill.c: kill -9 at each system call of a save, on a real file system: the process, with all
 * its threads, is stopped at its N-th call by ptrace and killed there, for every N.  Then the
 * previous checkpoint or the new one loads whole, and the next save works and leaves nothing
 * behind. */
#include "subjects.h"

static int save_new(const void *subject)
{
    return save(*(const int *)subject, 1) == IV_OK ? 0 : 1;
}

typedef struct countdown {
    int calls, at;
} countdown;

static void kill_at(void *ctx, pid_t child, pid_t thread)
{
    countdown *c = ctx;
    (void)thread;
    if (++c->calls == c->at) kill(child, SIGKILL);
}

/* Runs the save of version 2 and kills it at its n-th call; false: it had fewer. */
static bool killed_at(int i, int n)
{
    countdown c = {.at = n};
    const int status = traced(save_new, &i, kill_at, &c);
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return WIFSIGNALED(status);
}

static void test_kill(void **state)
{
    (void)state;
    for (int i = 0; i < SUBJECTS; ++i) {
        int old = 0, new = 0, n = 1;
        for (;; ++n) {
            assert_int_equal(save(i, 0), IV_OK);
            if (!killed_at(i, n)) break;
            const int v = version(i);
            if (v != 1 && v != 2) fail_msg("%s, killed at call %d: %d", subjects[i].name, n, v);
            old += v == 1;
            new += v == 2;
        }
        assert_int_equal(save(i, 1), IV_OK);
        assert_int_equal(version(i), 2);
        assert_int_equal(left_over(folder), 0);
        assert_int_equal(left_over(in_folder("folder")), 0);
        print_message("%s: killed at %d calls: %d times the previous one is there, %d times the "
                      "new one\n",
                      subjects[i].name, n - 1, old, new);
        assert_true(old > 10 && new > 1);
    }
}

int main(void)
{
    fill_contents();
    if (!may_trace()) {
        printf("skipped: tracing is not allowed here\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
