/* test_refused.c: what a file system may refuse during a save, for real: the N-th call of the
 * process on files is answered with an error (ptrace; for every N and several errors), the file
 * system is remounted read-only before it, the disk is full or the quota used up after any number
 * of pages.  Then a save that has ended well is there, and after an error, which names path and
 * cause, the previous one is; the next save works and nothing is left behind. */
#include "subjects.h"

#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/user.h>

/* ---- how a save ended ---- */
enum { SAVED, REFUSED, IN_PLACE, ODD };

/* The child's side: err is the cause that an error must name. */
static int outcome(int i, int err)
{
    error_text[0] = '\0';
    const iv_status s = save(i, 1);
    if (s == IV_OK) return SAVED;
    if (s != IV_IO || !strstr(error_text, "saving checkpoint ") ||
        !strstr(error_text, in_folder(subjects[i].path)) || !strstr(error_text, strerror(err))) {
        fprintf(stderr, "status %d: %s\n", (int)s, error_text);
        return ODD;
    }
    return strstr(error_text, "is in place") ? IN_PLACE : REFUSED;
}

static void check_outcome(int i, int n, const char *what, int status)
{
    if (!WIFEXITED(status) || WEXITSTATUS(status) == ODD)
        fail_msg("%s, %s, call %d: wait status %d", subjects[i].name, what, n, status);
    const int how = WEXITSTATUS(status), v = version(i);
    /* A file of a folder may be in place, the manifest not. */
    if (how == SAVED ? v != 2 : how == REFUSED ? v != 1 : v != 1 && v != 2)
        fail_msg("%s, %s, call %d: ended as %d, version %d is there", subjects[i].name, what, n,
                 how, v);
}

static void next_save_works(int i)
{
    assert_int_equal(save(i, 1), IV_OK);
    assert_int_equal(version(i), 2);
    assert_int_equal(left_over(folder), 0);
    assert_int_equal(left_over(in_folder("folder")), 0);
}

/* ---- calls that are answered with an error ---- */
#if defined(__x86_64__)
static const long file_calls[] = {SYS_open,     SYS_openat,    SYS_close,  SYS_write,
                                  SYS_pwrite64, SYS_fstat,     SYS_stat,   SYS_newfstatat,
                                  SYS_fsync,    SYS_fdatasync, SYS_rename, SYS_renameat,
                                  SYS_mkdir,    SYS_mkdirat,   SYS_unlink, SYS_unlinkat,
                                  SYS_rmdir,    SYS_ftruncate, SYS_flock,  SYS_getdents64};

typedef struct attempt {
    int subject, err, at; /* at: the file call that is refused */
    int calls;
    bool remount, remounted;
    pid_t refused; /* the thread whose call is being refused */
    bool inside[1 << 16];
} attempt;

static int save_refused(const void *arg)
{
    const attempt *a = arg;
    return outcome(a->subject, a->err);
}

static bool is_file_call(long nr)
{
    for (size_t k = 0; k < sizeof(file_calls) / sizeof(file_calls[0]); ++k)
        if (file_calls[k] == nr) return true;
    return false;
}

static void refuse(void *ctx, pid_t child, pid_t thread)
{
    attempt *a = ctx;
    struct user_regs_struct r;
    (void)child;
    bool *inside = &a->inside[(size_t)thread % (sizeof(a->inside) / sizeof(a->inside[0]))];
    *inside = !*inside;
    if (ptrace(PTRACE_GETREGS, thread, NULL, &r) != 0) return;
    if (!*inside) { /* at the exit */
        if (a->refused != thread) return;
        a->refused = 0;
        r.rax = (unsigned long long)(long long)-a->err;
        ptrace(PTRACE_SETREGS, thread, NULL, &r);
        return;
    }
    if (!is_file_call((long)r.orig_rax) || ++a->calls != a->at) return;
    if (a->remount) {
        a->remounted = mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0;
        return;
    }
    a->refused = thread;
    r.orig_rax = (unsigned long long)-1; /* no call */
    ptrace(PTRACE_SETREGS, thread, NULL, &r);
}

static void test_answers(void **state)
{
    (void)state;
    static attempt a;
    static const int errors[] = {EIO, ENOSPC, EDQUOT, EACCES, EROFS};
    if (!may_trace()) skip();
    for (int i = 0; i < SUBJECTS; ++i) {
        int ended[4] = {0};
        for (size_t k = 0; k < sizeof(errors) / sizeof(errors[0]); ++k)
            for (int n = 1;; ++n) {
                memset(&a, 0, sizeof(a));
                a.subject = i;
                a.err = errors[k];
                a.at = n;
                assert_int_equal(save(i, 0), IV_OK);
                const int status = traced(save_refused, &a, refuse, &a);
                check_outcome(i, n, strerror(errors[k]), status);
                if (a.calls < n) break;
                ++ended[WEXITSTATUS(status)];
            }
        next_save_works(i);
        print_message("%s: %d refused calls ended the save, %d did it no harm\n", subjects[i].name,
                      ended[REFUSED] + ended[IN_PLACE], ended[SAVED]);
        assert_true(ended[REFUSED] > 30 && ended[SAVED] > 5);
    }
}
#else
static void test_answers(void **state)
{
    (void)state;
    print_message("skipped: written for the registers of x86-64\n");
    skip();
}
#endif

/* ---- file systems of our own ---- */

/* A tmpfs on the folder, with these options, in a namespace of its own; false: not allowed here. */
static bool mount_folder(const char *options)
{
    static bool own;
    if (!own && unshare(CLONE_NEWNS) != 0) return false;
    own = true;
    return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("invar", folder, "tmpfs", 0, options) == 0;
}

static void unmount_folder(void)
{
    assert_int_equal(umount2(folder, MNT_DETACH), 0);
}

static void test_read_only(void **state)
{
    (void)state;
#if defined(__x86_64__)
    static attempt a;
    if (!may_trace() || !mount_folder("size=1m")) {
        print_message("skipped: tracing or mounting is not allowed here\n");
        skip();
    }
    for (int i = 0; i < SUBJECTS; ++i) {
        int done = 0, n = 1;
        for (;; ++n) {
            memset(&a, 0, sizeof(a));
            a = (attempt){.subject = i, .err = EROFS, .at = n, .remount = true};
            assert_int_equal(save(i, 0), IV_OK);
            const int status = traced(save_refused, &a, refuse, &a);
            assert_int_equal(mount(NULL, folder, NULL, MS_REMOUNT, NULL), 0);
            check_outcome(i, n, "remounted read-only", status);
            done += a.remounted;
            if (a.calls < n) break;
        }
        next_save_works(i);
        print_message("%s: remounted read-only at %d of %d calls (at the others a file was open "
                      "for writing)\n",
                      subjects[i].name, done, n - 1);
        assert_true(done > 3);
    }
    unmount_folder();
#else
    skip();
#endif
}

/* Pages that are left before the save: it fails until there are enough. */
static int fill_up(int i, int err)
{
    enum { PAGE = 4096 };
    int failed = 0;
    static const char zeros[PAGE];
    for (int room = 0;; ++room) {
        if (save(i, 0) != IV_OK) return -1;
        int fd = open(in_folder("filler"), O_WRONLY | O_CREAT | O_TRUNC, 0600), pages = 0;
        while (write(fd, zeros, PAGE) == PAGE) ++pages;
        if (ftruncate(fd, (off_t)PAGE * (pages > room ? pages - room : 0)) != 0) return -1;
        close(fd);
        const int how = outcome(i, err), v = version(i);
        unlink(in_folder("filler"));
        if (how == SAVED) return v == 2 ? failed : -1;
        if (how != REFUSED || v != 1 || left_over(folder) || room > 64) return -1;
        ++failed;
    }
}

static void test_full_disk(void **state)
{
    (void)state;
    if (!mount_folder("size=128k")) {
        print_message("skipped: mounting is not allowed here\n");
        skip();
    }
    for (int i = 0; i < SUBJECTS; ++i) {
        const int failed = fill_up(i, ENOSPC);
        print_message("%s: full after 0 to %d pages\n", subjects[i].name, failed - 1);
        assert_true(failed >= 2);
        next_save_works(i);
    }
    unmount_folder();
}

static void test_quota(void **state)
{
    (void)state;
    if (!mount_folder("size=1m,mode=0777,usrquota,usrquota_block_hardlimit=128k")) {
        print_message("skipped: mounting a file system with quotas is not allowed here\n");
        skip();
    }
    for (int i = 0; i < SUBJECTS; ++i) {
        int status = 0;
        const pid_t child = fork();
        if (child == 0) {
            if (setgid(65534) != 0 || setuid(65534) != 0) _exit(99);
            _exit(fill_up(i, EDQUOT) & 127);
        }
        waitpid(child, &status, 0);
        print_message("%s: the quota is used up after 0 to %d pages\n", subjects[i].name,
                      WEXITSTATUS(status) - 1);
        if (!WIFEXITED(status) || WEXITSTATUS(status) < 2 || WEXITSTATUS(status) > 64)
            fail_msg("%s: wait status %d", subjects[i].name, status);
    }
    unmount_folder();
}

int main(void)
{
    fill_contents();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers), cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_quota)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
