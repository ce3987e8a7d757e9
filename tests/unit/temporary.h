/* temporary.h: a folder of its own for a test program, files in it, and checks of a failure's text.
 */
#ifndef IV_TEST_TEMPORARY_H
#define IV_TEST_TEMPORARY_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base.h"

#include <dirent.h>
#include <unistd.h>

/* The call fails with this status and its one line of text contains `part`. */
#define FAILS(status, part, call)                                                                  \
    do {                                                                                           \
        iv_status got_ = (call);                                                                   \
        if (got_ != (status) || !strstr(iv_error_message(), (part)))                               \
            fail_msg("%s\n  gave \"%s\" (%s)\n  expected \"%s\" (%s)", #call, iv_error_message(),  \
                     iv_status_name(got_), (part), iv_status_name(status));                        \
    } while (0)
/* The call succeeds; its text is shown if not. */
#define WORKS(call)                                                                                \
    do {                                                                                           \
        iv_status got_ = (call);                                                                   \
        if (got_ != IV_OK) fail_msg("%s\n  gave \"%s\"", #call, iv_error_message());               \
    } while (0)

static char folder_[64];

/* cmocka group setup and teardown: an empty folder; teardown also finds what was left open in it.
 */
static inline int temporary_make(void **state)
{
    (void)state;
    strcpy(folder_, "/tmp/invar-test-XXXXXX");
    return mkdtemp(folder_) ? 0 : -1;
}

static inline int temporary_remove(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", folder_);
    return system(command);
}

/* The path of a name in the folder.  Eight results live at a time. */
static inline const char *at(const char *name)
{
    static char paths[8][512];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof(paths[0]), "%s/%s", folder_, name);
    return p;
}

/* "kind:" and the path, for iv_dataset_open. */
static inline const char *spec(const char *kind, const char *name)
{
    static char specs[8][600];
    static int next;
    char *p = specs[next++ % 8];
    snprintf(p, sizeof(specs[0]), "%s:%s", kind, at(name));
    return p;
}

static inline const char *put(const char *name, const void *data, size_t n)
{
    const char *path = at(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n > 0) assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

static inline const char *put_text(const char *name, const char *text)
{
    return put(name, text, strlen(text));
}

/* Files in the folder, hidden ones included. */
static inline int count_files(void)
{
    DIR *d = opendir(folder_);
    assert_non_null(d);
    int n = -2; /* "." and ".." */
    while (readdir(d)) ++n;
    closedir(d);
    return n;
}

static inline int count_open(void)
{
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    int n = 0;
    while (readdir(d)) ++n;
    closedir(d);
    return n;
}

#endif
