/* test_safetensors_faults.c: the safetensors plugin when the system fails it: the N-th call fails,
 * for every N and several causes; writes and reads are short or interrupted; the process is killed
 * before its N-th call.  What stood under the name still stands there and loads, the error text
 * tells path and cause, no temporary file and no descriptor is left. */
#include "st_util.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- calls that fail ---- */
typedef enum mode { FAIL, SHORT, AT_END, DIE } mode;
static struct {
    mode how;
    int at, count, err; /* the at-th call fails with err; 0: none */
    bool onward;        /* and all after it */
    const char *call;   /* name of the call that failed */
} fault;

static bool hit(const char *call)
{
    ++fault.count;
    if (!fault.at || (fault.onward ? fault.count < fault.at : fault.count != fault.at))
        return false;
    if (fault.how == DIE) _exit(9);
    if (!fault.call) fault.call = call;
    errno = fault.err;
    return fault.how == FAIL;
}

static bool hit_now(void)
{
    return fault.at && (fault.onward ? fault.count >= fault.at : fault.count == fault.at);
}

static int f_open(const char *path, int flags, mode_t m)
{
    return hit("open") ? -1 : iv__io_system.open(path, flags, m);
}
static int f_close(int fd)
{
    /* As on Linux, the descriptor is gone even if close reports an error. */
    bool bad = hit("close");
    int r = close(fd);
    if (bad) errno = fault.err;
    return bad ? -1 : r;
}
static ssize_t f_pread(int fd, void *dst, size_t n, off_t at)
{
    if (hit("pread")) return -1;
    if (hit_now() && fault.how == AT_END) return 0;
    return pread(fd, dst, hit_now() && fault.how == SHORT ? n / 2 + 1 : n, at);
}
static ssize_t f_pwrite(int fd, const void *src, size_t n, off_t at)
{
    if (hit("pwrite")) return -1;
    if (hit_now() && fault.how == AT_END) return 0;
    return pwrite(fd, src, hit_now() && fault.how == SHORT ? n / 2 + 1 : n, at);
}
static int f_fstat(int fd, struct stat *out)
{
    return hit("fstat") ? -1 : fstat(fd, out);
}
static int f_stat(const char *path, struct stat *out)
{
    return hit("stat") ? -1 : stat(path, out);
}
static int f_fdatasync(int fd)
{
    return hit("fdatasync") ? -1 : fdatasync(fd);
}
static int f_fsync(int fd)
{
    return hit("fsync") ? -1 : fsync(fd);
}
static int f_rename(const char *from, const char *to)
{
    return hit("rename") ? -1 : rename(from, to);
}
static int f_unlink(const char *path)
{
    return hit("unlink") ? -1 : unlink(path);
}
static int f_flock(int fd, int how)
{
    return hit("flock") ? -1 : flock(fd, how);
}
static int f_kill(pid_t pid, int sig)
{
    return hit("kill") ? -1 : kill(pid, sig);
}
static DIR *f_opendir(const char *path)
{
    return hit("opendir") ? NULL : opendir(path);
}
static struct dirent *f_readdir(DIR *d)
{
    return hit("readdir") ? NULL : readdir(d);
}
static int f_closedir(DIR *d)
{
    bool bad = hit("closedir");
    int r = closedir(d);
    return bad ? -1 : r;
}

static int f_mkdir(const char *path, mode_t m)
{
    return hit("mkdir") ? -1 : mkdir(path, m);
}
static int f_rmdir(const char *path)
{
    return hit("rmdir") ? -1 : rmdir(path);
}

static const iv__io_calls faulty = {f_open,      f_close, f_pread,   f_pwrite,  f_fstat,   f_stat,
                                    f_fdatasync, f_fsync, f_rename,  f_unlink,  f_mkdir,   f_rmdir,
                                    f_flock,     f_kill,  f_opendir, f_readdir, f_closedir};

static void *open_faulty(void)
{
    void *self = open_plugin();
    iv__st_use_calls(self, &faulty);
    fault.at = 0;
    return self;
}

static void set_fault(mode how, int at, int err, bool onward)
{
    fault.how = how;
    fault.at = at;
    fault.err = err;
    fault.onward = onward;
    fault.count = 0;
    fault.call = NULL;
    error_text[0] = '\0';
}

/* ---- what is saved ---- */
static const double values[] = {1, 2, 3, 4, 5, 6};
static const iv_ckpt_tensor old_tensors[] = {
    {.name = "w", .dtype = IV_F64, .shape = {1, {3}}, .data = values},
};
static const iv_ckpt_tensor new_tensors[] = {
    {.name = "w", .dtype = IV_F64, .shape = {1, {5}}, .data = values + 1},
    {.name = "b", .dtype = IV_F32, .shape = {2, {2, 2}}, .data = values},
};
static const iv_ckpt old_ckpt = CKPT(1, 0, old_tensors, NULL),
                     new_ckpt = CKPT(2, 0, new_tensors, NULL);

static int open_files(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) ++n;
    if (d) closedir(d);
    return n;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static const char *temp_of(const char *name, pid_t pid)
{
    char s[200];
    snprintf(s, sizeof(s), ".%s.tmp.%ld", name, (long)pid);
    return in_folder(s);
}

/* A process id that nobody has. */
static pid_t dead_pid(void)
{
    pid_t p = fork();
    if (p == 0) _exit(0);
    waitpid(p, NULL, 0);
    return p;
}

/* Checks what a save under a fault has left; `path` held old_ckpt before (or nothing). */
static void check_after_save(void *self, const char *path, bool had_old, iv_status s)
{
    const char *call = fault.call ? fault.call : "none";
    int at = fault.at;
    fault.at = 0;
    if (s == IV_OK) {
        if (!holds(self, path, &new_ckpt))
            fail_msg("call %d, %s: saved, but not the contents", at, call);
    } else {
        if (s != IV_IO || !strstr(error_text, path) || !strstr(error_text, "saving checkpoint") ||
            !strstr(error_text, strerror(fault.err)))
            fail_msg("call %d, %s: status %d: %s", at, call, s, error_text);
        bool in_place = strstr(error_text, "is in place") != NULL;
        if (in_place) assert_string_equal(call, "fsync");
        if (in_place || had_old) assert_true(holds(self, path, in_place ? &new_ckpt : &old_ckpt));
        else assert_false(exists(path));
    }
    if (exists(temp_of("x.safetensors", getpid())))
        fail_msg("call %d, %s: temporary file left", at, call);
}

/* Saves with the N-th call failing, N = 1, 2, ... until a save needs fewer calls.  Returns how
 * many. */
static int save_under_faults(mode how, int err, bool onward, bool had_old)
{
    void *self = open_faulty();
    const char *path = in_folder("x.safetensors"), *stale = temp_of("y.safetensors", dead_pid());
    const int files = open_files();
    int failed = 0, n = 1;
    for (;; ++n) {
        unlink(path);
        if (had_old) assert_int_equal(format()->save(self, path, &old_ckpt), IV_OK);
        write_file(stale, "half", 4);
        set_fault(how, n, err, onward);
        iv_status s = format()->save(self, path, &new_ckpt);
        if (fault.count < n) break;
        failed += s != IV_OK;
        if (onward && s != IV_OK)
            unlink(temp_of("x.safetensors", getpid())); /* unlink failed too */
        check_after_save(self, path, had_old, s);
        assert_int_equal(open_files(), files);
        assert_true(n < 200);
    }
    fault.at = 0;
    assert_false(exists(stale));
    close_plugin(self);
    return failed;
}

static const int causes[] = {EIO, ENOSPC, EDQUOT, EACCES, EROFS};
#define N_CAUSES (sizeof(causes) / sizeof(causes[0]))

static void test_save_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CAUSES; ++i)
        for (int had_old = 0; had_old < 2; ++had_old) {
            /* stat, 2 opens, 3 writes, fdatasync, close, rename and fsync must all be noticed. */
            int failed = save_under_faults(FAIL, causes[i], false, had_old);
            if (failed != 10) fail_msg("%d calls were noticed", failed);
            save_under_faults(FAIL, causes[i], true, had_old);
        }
}

static void test_save_short_and_interrupted(void **state)
{
    (void)state;
    assert_int_equal(save_under_faults(SHORT, 0, false, true), 0);
    assert_int_equal(save_under_faults(SHORT, 0, true, true), 0);
    assert_int_equal(save_under_faults(AT_END, ENOSPC, false, true), 3);
    void *self = open_faulty();
    const char *path = in_folder("x.safetensors");
    for (int n = 1;; ++n) {
        set_fault(FAIL, n, EINTR, false);
        iv_status s = format()->save(self, path, &new_ckpt);
        if (fault.count < n) break;
        const char *must[] = {"pwrite", "fdatasync", "fsync", "close"};
        for (int k = 0; k < 4; ++k)
            if (strcmp(fault.call, must[k]) == 0) assert_int_equal(s, IV_OK);
    }
    fault.at = 0;
    /* A folder that cannot be flushed at all is none that lost the file. */
    for (int n = 1;; ++n) {
        set_fault(FAIL, n, EINVAL, false);
        iv_status s = format()->save(self, path, &new_ckpt);
        if (fault.count < n) break;
        if (strcmp(fault.call, "fsync") == 0) assert_int_equal(s, IV_OK);
    }
    close_plugin(self);
}

/* The temporary file that could not be unlinked is told, and goes with the next save. */
static void test_unlink_fails(void **state)
{
    (void)state;
    void *self = open_faulty();
    const char *path = in_folder("u.safetensors"), *tmp = temp_of("u.safetensors", getpid());
    assert_int_equal(format()->save(self, path, &old_ckpt), IV_OK);
    set_fault(FAIL, 6, ENOSPC, true); /* all from the second write on */
    log_text[0] = '\0';
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_IO);
    assert_non_null(strstr(error_text, "No space left"));
    assert_non_null(strstr(error_text, "[hint: free space"));
    assert_non_null(strstr(log_text, tmp));
    assert_true(exists(tmp));
    fault.at = 0;
    assert_true(holds(self, path, &old_ckpt));
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_OK);
    assert_false(exists(tmp));
    assert_true(holds(self, path, &new_ckpt));
    close_plugin(self);
}

static void test_killed(void **state)
{
    (void)state;
    void *self = open_faulty();
    const char *path = in_folder("x.safetensors");
    int kept = 0, replaced = 0;
    for (int n = 1;; ++n) {
        fault.at = 0;
        assert_int_equal(format()->save(self, path, &old_ckpt), IV_OK);
        pid_t p = fork();
        if (p == 0) {
            set_fault(DIE, n, 0, false);
            _exit(format()->save(self, path, &new_ckpt) == IV_OK ? 0 : 1);
        }
        int how = 0;
        waitpid(p, &how, 0);
        assert_true(WIFEXITED(how));
        if (WEXITSTATUS(how) != 9) {
            assert_int_equal(WEXITSTATUS(how), 0);
            break;
        }
        if (holds(self, path, &old_ckpt)) ++kept;
        else {
            assert_true(holds(self, path, &new_ckpt));
            ++replaced;
        }
        assert_int_equal(format()->save(self, in_folder("z.safetensors"), &old_ckpt), IV_OK);
        assert_false(exists(temp_of("x.safetensors", p)));
    }
    assert_true(kept >= 8 && replaced >= 2);
    close_plugin(self);
}

static void test_sweep_takes_only_dead_ones(void **state)
{
    (void)state;
    void *self = open_faulty();
    const pid_t dead = dead_pid();
    const char *alive = temp_of("l.safetensors", 1), *locked = temp_of("k.safetensors", dead);
    write_file(alive, "1", 1);
    write_file(locked, "2", 1);
    int fd = open(locked, O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    const char *other = temp_of("config.yaml", dead);
    write_file(other, "3", 1);
    const char *path = in_folder("s.bin");
    write_file(in_folder(".s.bin.tmp.1x"), "4", 1);
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_OK);
    assert_true(exists(alive) && exists(locked) && exists(other) &&
                exists(in_folder(".s.bin.tmp.1x")));
    close(fd);
    const char *own = temp_of("s.bin", dead);
    write_file(own, "5", 1);
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_OK);
    assert_true(!exists(locked) && !exists(own));
    close_plugin(self);
}

static void test_load_fails(void **state)
{
    (void)state;
    void *self = open_faulty();
    const char *path = in_folder("r.safetensors");
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_OK);
    const int files = open_files();
    for (size_t i = 0; i < N_CAUSES; ++i)
        for (int n = 1;; ++n) {
            set_fault(FAIL, n, causes[i], false);
            iv_status s = try_load(self, path);
            if (fault.count < n) break;
            if (strcmp(fault.call, "close") == 0) assert_int_equal(s, IV_OK);
            else if (s != IV_IO || !strstr(error_text, path) ||
                     !strstr(error_text, strerror(causes[i])))
                fail_msg("call %d, %s: status %d: %s", n, fault.call, s, error_text);
            assert_int_equal(open_files(), files);
        }
    for (int n = 1; n < 12; ++n) {
        set_fault(SHORT, n, 0, true);
        assert_true(holds(self, path, &new_ckpt));
        set_fault(FAIL, n, EINTR, false);
        iv_status s = try_load(self, path);
        if (fault.call && strcmp(fault.call, "pread") == 0) assert_int_equal(s, IV_OK);
        set_fault(AT_END, n, 0, false);
        s = try_load(self, path);
        if (fault.call && strcmp(fault.call, "pread") == 0) {
            assert_int_equal(s, IV_IO);
            assert_non_null(strstr(error_text, "became shorter"));
        }
    }
    close_plugin(self);
}

static void test_remove_fails(void **state)
{
    (void)state;
    void *self = open_faulty();
    const char *path = in_folder("d.safetensors");
    assert_int_equal(format()->save(self, path, &new_ckpt), IV_OK);
    set_fault(FAIL, 2, EACCES, false);
    assert_int_equal(format()->remove(self, path), IV_IO);
    assert_non_null(strstr(error_text, "removing checkpoint"));
    fault.at = 0;
    assert_int_equal(format()->remove(self, path), IV_OK);
    close_plugin(self);
}

/* A real refusal of the kernel in the middle of the data. */
static void test_file_size_limit(void **state)
{
    (void)state;
    void *self = open_plugin();
    const char *path = in_folder("f.safetensors");
    assert_int_equal(format()->save(self, path, &old_ckpt), IV_OK);
    pid_t p = fork();
    if (p == 0) {
        static char data[100000];
        const iv_ckpt_tensor t = {
            .name = "t", .dtype = IV_U8, .shape = {1, {sizeof(data)}}, .data = data};
        const iv_ckpt c = CKPT(1, 0, &t, NULL);
        const struct rlimit most = {50000, 50000};
        signal(SIGXFSZ, SIG_IGN);
        bool ok = setrlimit(RLIMIT_FSIZE, &most) == 0 && format()->save(self, path, &c) == IV_IO &&
                  strstr(error_text, "File too large") && strstr(error_text, "ulimit -f");
        _exit(ok ? 0 : 1);
    }
    int how = 1;
    waitpid(p, &how, 0);
    assert_int_equal(how, 0);
    assert_true(holds(self, path, &old_ckpt));
    assert_false(exists(temp_of("f.safetensors", p)));
    close_plugin(self);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_fails),   cmocka_unit_test(test_save_short_and_interrupted),
        cmocka_unit_test(test_unlink_fails), cmocka_unit_test(test_killed),
        cmocka_unit_test(test_load_fails),   cmocka_unit_test(test_sweep_takes_only_dead_ones),
        cmocka_unit_test(test_remove_fails), cmocka_unit_test(test_file_size_limit),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
