/* test_file.c: runtime/file.c on a real folder, and with system calls that fail.
 *
 * The program defines write, read, fsync, close and renameat itself, which hides those of the C
 * library from the code under test: each passes its call on to the kernel until `faults` says
 * otherwise.
 */
#include "temporary.h"

#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* Call number `at` (1 is the next) of a kind fails with `error`; error < 0: only -error bytes are
 * written (write).  0: never. */
typedef struct fault {
    int at, error;
} fault;
static struct {
    fault write, fsync, close, rename, read;
} faults;

static int due(fault *f)
{
    return f->at > 0 && --f->at == 0 ? f->error : 0;
}

#define EXPORT __attribute__((visibility("default")))
EXPORT ssize_t write(int fd, const void *data, size_t n);
EXPORT ssize_t write(int fd, const void *data, size_t n)
{
    int e = due(&faults.write);
    if (e > 0) {
        errno = e == 9999 ? 0 : e;
        return e == 9999 ? 0 : -1;
    }
    return syscall(SYS_write, fd, data, e < 0 ? (size_t)-e : n);
}

EXPORT ssize_t read(int fd, void *data, size_t n);
EXPORT ssize_t read(int fd, void *data, size_t n)
{
    int e = due(&faults.read);
    if (e > 0) {
        errno = e;
        return -1;
    }
    return syscall(SYS_read, fd, data, e < 0 ? (size_t)-e : n);
}

EXPORT int fsync(int fd)
{
    int e = due(&faults.fsync);
    if (e) {
        errno = e;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

EXPORT int close(int fd)
{
    int e = due(&faults.close), r = (int)syscall(SYS_close, fd);
    if (e) errno = e;
    return e ? -1 : r;
}

EXPORT int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    int e = due(&faults.rename);
    if (e) {
        errno = e;
        return -1;
    }
    return (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

static int no_faults(void **state)
{
    (void)state;
    memset(&faults, 0, sizeof(faults));
    return 0;
}

/* The file holds exactly this text. */
static void holds(const char *path, const char *text)
{
    char *got = NULL;
    int64_t n = 0;
    WORKS(iv__file_read(path, 1 << 20, &got, &n));
    assert_int_equal(n, strlen(text));
    assert_string_equal(got, text);
    free(got);
}

static void test_write_and_read(void **state)
{
    (void)state;
    int open_before = count_open(), files_before = count_files();
    const char *path = at("a");
    WORKS(iv__file_write_atomic(path, "one", 3));
    holds(path, "one");
    WORKS(iv__file_write_atomic(path, "", 0));
    holds(path, "");
    mode_t mask = umask(027);
    WORKS(iv__file_write_atomic(at("b"), "two", 3));
    umask(mask);
    struct stat st;
    assert_int_equal(stat(at("b"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    /* A name as long as the file system allows has room for the temporary one. */
    char name[256];
    memset(name, 'n', 255);
    name[255] = 0;
    WORKS(iv__file_write_atomic(at(name), "x", 1));
    unlink(at(name));
    assert_int_equal(chdir(folder_), 0);
    WORKS(iv__file_write_atomic("b", "three", 5));
    holds("b", "three");
    assert_int_equal(count_files(), files_before + 2);
    assert_int_equal(count_open(), open_before);
}

static void test_write_refused(void **state)
{
    (void)state;
    mkdir(at("folder"), 0777);
    FAILS(IV_INVALID, "it is a folder", iv__file_write_atomic(at("folder"), "x", 1));
    FAILS(IV_INVALID, "names no file", iv__file_write_atomic(at("folder/"), "x", 1));
    FAILS(IV_INVALID, "names no file", iv__file_write_atomic("", "x", 1));
    FAILS(IV_IO, "No such file", iv__file_write_atomic(at("none/x"), "x", 1));
    FAILS(IV_IO, "Not a directory", iv__file_write_atomic("/dev/null/x", "x", 1));
    FAILS(IV_INVALID, "pipe or device", iv__file_write_atomic("/dev/null", "x", 1));
    if (geteuid() == 0) {
        assert_int_equal(seteuid(65534), 0);
        iv_status s = iv__file_write_atomic(at("denied"), "x", 1);
        char *out;
        int64_t n;
        FAILS(IV_IO, "Permission denied", s);
        FAILS(IV_IO, "Permission denied", iv__file_read(at("b"), 9, &out, &n));
        FAILS(IV_IO, "Permission denied", iv__mkdirs(at("denied/x")));
        assert_int_equal(seteuid(0), 0);
    }
}

static void test_write_survives(void **state)
{
    (void)state;
    const char *path = at("s");
    faults.write = (fault){1, -2};
    WORKS(iv__file_write_atomic(path, "short writes", 12));
    holds(path, "short writes");
    faults.write = (fault){1, EINTR};
    faults.fsync = (fault){1, EINTR};
    WORKS(iv__file_write_atomic(path, "interrupted", 11));
    holds(path, "interrupted");
    faults.close = (fault){1, EINTR};
    WORKS(iv__file_write_atomic(path, "close", 5));
    faults.fsync = (fault){2, EINVAL}; /* of the folder */
    WORKS(iv__file_write_atomic(path, "no fsync of folders", 19));
    holds(path, "no fsync of folders");
}

static void test_write_fails(void **state)
{
    (void)state;
    const char *path = at("f");
    WORKS(iv__file_write_atomic(path, "old", 3));
    int open_before = count_open(), files_before = count_files();
    faults.write = (fault){1, ENOSPC};
    FAILS(IV_IO, "No space left on device (after 0 of 3", iv__file_write_atomic(path, "new", 3));
    faults.write = (fault){1, 9999};
    FAILS(IV_IO, "No space left on device", iv__file_write_atomic(path, "new", 3));
    faults.write = (fault){1, EIO};
    FAILS(IV_IO, "Input/output error", iv__file_write_atomic(path, "new", 3));
    faults.fsync = (fault){1, EIO};
    FAILS(IV_IO, "/f: fsync: Input/output error", iv__file_write_atomic(path, "new", 3));
    faults.close = (fault){1, EDQUOT};
    FAILS(IV_IO, "/f: close: ", iv__file_write_atomic(path, "new", 3));
    faults.rename = (fault){1, EXDEV};
    FAILS(IV_IO, "/f: rename: ", iv__file_write_atomic(path, "new", 3));
    holds(path, "old");
    faults.fsync = (fault){2, EIO};
    FAILS(IV_IO, "fsync of its folder", iv__file_write_atomic(path, "new", 3));
    holds(path, "new");
    assert_int_equal(count_files(), files_before);
    assert_int_equal(count_open(), open_before);
}

static void test_read(void **state)
{
    (void)state;
    char *out = NULL;
    int64_t n = 0;
    int open_before = count_open();
    put_text("r", "0123456789");
    FAILS(IV_INVALID, "has 10 bytes, at most 9", iv__file_read(at("r"), 9, &out, &n));
    FAILS(IV_INVALID, "folder", iv__file_read(folder_, 9, &out, &n));
    FAILS(IV_IO, "No such file", iv__file_read(at("missing"), 9, &out, &n));
    FAILS(IV_INVALID, "path is empty", iv__file_read("", 9, &out, &n));
    FAILS(IV_INVALID, "larger than 100 bytes", iv__file_read("/dev/zero", 100, &out, &n));
    faults.read = (fault){1, EIO};
    FAILS(IV_IO, "Input/output error", iv__file_read(at("r"), 10, &out, &n));
    assert_null(out);
    faults.read = (fault){1, EINTR};
    WORKS(iv__file_read(at("r"), 10, &out, &n));
    assert_string_equal(out, "0123456789");
    free(out);
    faults.read = (fault){1, -3};
    holds(at("r"), "0123456789");
    assert_int_equal(count_open(), open_before);
}

static void test_map(void **state)
{
    (void)state;
    iv__map m = {0};
    put_text("m", "abc");
    put_text("empty", "");
    WORKS(iv__file_map(at("m"), &m));
    assert_int_equal(m.size, 3);
    assert_memory_equal(m.data, "abc", 3);
    iv__file_unmap(&m);
    assert_null(m.data);
    WORKS(iv__file_map(at("empty"), &m));
    assert_int_equal(m.size, 0);
    iv__file_unmap(&m);
    FAILS(IV_INVALID, "a folder, expected a regular file", iv__file_map(folder_, &m));
    FAILS(IV_INVALID, "a pipe or device", iv__file_map("/dev/zero", &m));
}

static void test_mkdirs(void **state)
{
    (void)state;
    struct stat st;
    WORKS(iv__mkdirs(at("p/q//r/")));
    WORKS(iv__mkdirs(at("p/q/r/s")));
    WORKS(iv__mkdirs("/"));
    assert_int_equal(stat(at("p/q/r/s"), &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    put_text("plain", "x");
    FAILS(IV_INVALID, "there is a file of that name", iv__mkdirs(at("plain/x")));
    FAILS(IV_INVALID, "path is empty", iv__mkdirs(""));
    FAILS(IV_IO, "making folder /proc/none: ", iv__mkdirs("/proc/none/x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_write_and_read, no_faults),
        cmocka_unit_test_teardown(test_write_refused, no_faults),
        cmocka_unit_test_teardown(test_write_survives, no_faults),
        cmocka_unit_test_teardown(test_write_fails, no_faults),
        cmocka_unit_test_teardown(test_read, no_faults),
        cmocka_unit_test_teardown(test_map, no_faults),
        cmocka_unit_test_teardown(test_mkdirs, no_faults),
    };
    return cmocka_run_group_tests_name("file", tests, temporary_make, temporary_remove);
}
