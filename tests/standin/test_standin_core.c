/* The core of the stand-ins: what it does, and that it notices what it is there to notice. */
#include "core.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static char report[64];

/* All that was reported so far; the caller frees it. */
static char *report_read(void)
{
    FILE *f = fopen(report, "r");
    char *text = calloc(1, 1 << 16);
    if (f) {
        const size_t n = fread(text, 1, (1 << 16) - 1, f);
        text[n] = 0;
        fclose(f);
    }
    return text;
}

/* Exactly `n` new lines of misuse, the last with `part` in it; forgets them. */
static void expect_misuse(int64_t *seen, int64_t n, const char *part)
{
    char *text = report_read();
    if (sc_misuses() != *seen + n || (part && !strstr(text, part)))
        fail_msg("%lld reports, expected %lld with \"%s\":\n%s", (long long)(sc_misuses() - *seen),
                 (long long)n, part ? part : "", text);
    free(text);
    unlink(report);
    *seen = sc_misuses();
}

static uint64_t device_memory(int32_t device, int64_t bytes)
{
    uint64_t p = 0;
    assert_int_equal(sc_mem_alloc(sc_device_get(device), bytes, SC_MEM_DEVICE, "alloc", &p), SC_OK);
    return p;
}

static sc_stream *stream_of(int32_t device)
{
    sc_stream *s = NULL;
    assert_int_equal(sc_stream_open(sc_device_get(device), false, "open", &s), SC_OK);
    return s;
}

static void test_copies(void **state)
{
    int64_t seen = sc_misuses();
    (void)state;
    char in[1000], out[1000] = {0};
    for (int i = 0; i < 1000; ++i) in[i] = (char)(i * 7);
    sc_stream *s = stream_of(0);
    const uint64_t a = device_memory(0, 1000), b = device_memory(1, 1000);
    assert_int_equal(sc_stream_copy(s, a, (uint64_t)(uintptr_t)in, 1000, "write"), SC_OK);
    memset(in, 0, sizeof(in)); /* pageable memory: it was read */
    assert_int_equal(sc_stream_copy(s, b, a, 1000, "peer"), SC_OK);
    assert_int_equal(sc_stream_fill(s, b, 0xabcdef01, 4, 2, "fill"), SC_OK);
    assert_int_equal(sc_stream_copy(s, (uint64_t)(uintptr_t)out, b, 1000, "read"), SC_OK);
    assert_int_equal(sc_stream_sync(s), SC_OK);
    assert_memory_equal(out, "\x01\xef\xcd\xab\x01\xef\xcd\xab", 8);
    for (int i = 8; i < 1000; ++i) assert_int_equal(out[i], (char)(i * 7));
    assert_int_equal(sc_mem_free(a, SC_MEM_DEVICE, "free"), SC_OK);
    assert_int_equal(sc_mem_free(b, SC_MEM_DEVICE, "free"), SC_OK);
    assert_int_equal(sc_stream_close(s, "close"), SC_OK);
    assert_int_equal(sc_leaks(), 0);
    expect_misuse(&seen, 0, NULL);
}

/* The host dies where it touches device memory, with a line that names the allocation. */
static void test_protection(void **state)
{
    (void)state;
    char text[4096] = "";
    int ends[2], status = 0;
    const uint64_t a = device_memory(0, 100);
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        signal(SIGSEGV, SIG_DFL); /* cmocka's, which would go on */
        sc_mem_watch();
        *(volatile char *)(uintptr_t)(a + 3) = 1;
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t k; (k = read(ends[0], text + n, sizeof(text) - 1 - n)) > 0;) n += (size_t)k;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_non_null(strstr(text, "the host touches device memory"));
    assert_non_null(strstr(text, "at byte 3 of allocation"));
    sc_mem_free(a, SC_MEM_DEVICE, "free");
}

static void test_limits(void **state)
{
    int64_t total, left, seen = sc_misuses();
    uint64_t p = 0;
    (void)state;
    sc_device *d = sc_device_get(0);
    const uint64_t a = device_memory(0, 1 << 20);
    sc_device_memory(d, &total, &left);
    assert_int_equal(total, 8 << 20);
    assert_int_equal(left, 7 << 20);
    assert_int_equal(sc_mem_alloc(d, (7 << 20) + 1, SC_MEM_DEVICE, "alloc", &p), SC_OUT_OF_MEMORY);
    assert_int_equal(sc_mem_alloc(d, 0, SC_MEM_DEVICE, "alloc", &p), SC_INVALID_VALUE);
    sc_mem_free(a, SC_MEM_DEVICE, "free");
    sc_device_memory(d, &total, &left);
    assert_int_equal(left, 8 << 20);
    assert_null(sc_device_get(2));
    expect_misuse(&seen, 0, NULL);
}

static void test_misuse(void **state)
{
    int64_t seen = sc_misuses();
    (void)state;
    char host[64] = {0};
    const uint64_t at = (uint64_t)(uintptr_t)host;
    sc_stream *s = stream_of(0);
    const uint64_t a = device_memory(0, 64);
    assert_int_equal(sc_stream_copy(s, at, a + 1, 64, "read"), SC_INVALID_VALUE);
    expect_misuse(&seen, 1, "at byte 1 of allocation");
    assert_int_equal(sc_stream_fill(s, a + 2, 0, 4, 1, "fill"), SC_INVALID_VALUE);
    expect_misuse(&seen, 1, "not a multiple of 4");
    assert_int_equal(sc_stream_check(s, sc_device_get(1), "launch"), SC_INVALID_HANDLE);
    expect_misuse(&seen, 1, "the stream is one of device 0");
    sc_leaks();
    expect_misuse(&seen, 2, "leak: 64 bytes of alloc");
    sc_mem_free(a, SC_MEM_DEVICE, "free");
    assert_int_equal(sc_mem_free(a, SC_MEM_DEVICE, "free"), SC_INVALID_VALUE);
    expect_misuse(&seen, 1, "nothing to free (twice?)");
    assert_int_equal(sc_stream_copy(s, at, a, 64, "read"), SC_INVALID_VALUE);
    expect_misuse(&seen, 1, "no live allocation");
    sc_stream_close(s, "close");
    assert_int_equal(sc_stream_close(s, "close"), SC_INVALID_HANDLE);
    expect_misuse(&seen, 1, "destroyed twice?");
}

/* A copy that another stream's copy should have waited for, without and with an event. */
static void test_order(void **state)
{
    int64_t seen = sc_misuses();
    (void)state;
    uint64_t pinned = 0;
    sc_stream *s = stream_of(0), *t = stream_of(0);
    sc_event *e = NULL;
    sc_device *d = sc_device_get(0);
    const uint64_t a = device_memory(0, 4096), b = device_memory(0, 4096);
    assert_int_equal(sc_mem_alloc(d, 4096, SC_MEM_PINNED, "host", &pinned), SC_OK);
    assert_int_equal(sc_event_open(d, "event", &e), SC_OK);
    sc_stream_copy(s, a, pinned, 4096, "write");
    sc_stream_copy(t, b, a + 4092, 4, "copy");
    sc_device_sync(d);
    expect_misuse(&seen, 1, "missing wait");

    sc_stream_copy(s, a, pinned, 4096, "write");
    sc_event_record(e, s, "record");
    sc_stream_wait(t, e, "wait");
    sc_stream_copy(t, b, a, 4096, "copy");
    sc_event_record(e, t, "record");
    sc_event_sync(e,
                  "sync"); /* the host knows of both now, and what it asks for next comes after */
    assert_int_equal(sc_event_query(e, "query"), SC_OK);
    sc_stream_copy(s, b, a, 4096, "copy");
    sc_stream_sync(s);
    /* Different bytes, and two that read: no order needed. */
    sc_stream_copy(s, a, pinned, 2048, "write");
    sc_stream_copy(t, a + 2048, pinned, 2048, "write");
    sc_device_sync(d);
    expect_misuse(&seen, 0, NULL);

    /* A host that fills a staging buffer again too early. */
    int64_t changed = 0;
    for (int i = 0; i < 50 && !changed; ++i) {
        memset((void *)(uintptr_t)pinned, i, 4096);
        for (int k = 0; k < 20; ++k) sc_stream_copy(s, a, pinned, 4096, "write");
        memset((void *)(uintptr_t)pinned, i + 1, 4096);
        sc_stream_sync(s);
        changed = sc_misuses() - seen;
    }
    expect_misuse(&seen, changed, "the host changed pinned memory");
    assert_true(changed > 0);
    sc_event_close(e, "close");
    sc_mem_free(pinned, SC_MEM_PINNED, "free");
    sc_mem_free(a, SC_MEM_DEVICE, "free");
    sc_mem_free(b, SC_MEM_DEVICE, "free");
    sc_stream_close(s, "close");
    sc_stream_close(t, "close");
    expect_misuse(&seen, 0, NULL);
}

static sc_status bad_kernel(sc_device *d, void *arg, sc_access_list *touched, char *text, size_t n)
{
    (void)d, (void)arg, (void)touched;
    snprintf(text, n, "it went wrong");
    return SC_ILLEGAL_ADDRESS;
}

static sc_status touch(void *arg)
{
    *(volatile char *)arg = 1;
    return SC_OK;
}

static void test_faults(void **state)
{
    int64_t seen = sc_misuses();
    uint64_t at = 0;
    (void)state;
    sc_device *d = sc_device_get(1);
    sc_stream *s = stream_of(1);
    assert_int_equal(sc_stream_put(s, "kernel k", bad_kernel, NULL, 0), SC_OK);
    assert_int_equal(sc_stream_sync(s), SC_ILLEGAL_ADDRESS);
    assert_int_equal(sc_stream_put(s, "kernel k", bad_kernel, NULL, 0), SC_ILLEGAL_ADDRESS);
    assert_string_equal(sc_device_fault_text(d), "kernel k: it went wrong");
    sc_device_clear_fault(d);
    assert_int_equal(sc_stream_sync(s), SC_OK);
    sc_stream_close(s, "close");

    const uint64_t a = device_memory(1, 256);
    sc_mem_watch();
    assert_int_equal(sc_mem_guarded(touch, sc_mem_alias(a + 255), &at), SC_OK);
    assert_int_equal(sc_mem_guarded(touch, sc_mem_alias(a + 256), &at), SC_ILLEGAL_ADDRESS);
    assert_int_equal(at, a + 256);
    sc_mem_free(a, SC_MEM_DEVICE, "free");

    assert_int_equal(sc_enter("vendorAlloc"), SC_OK);
    assert_int_equal(sc_enter("vendorAlloc"), SC_OUT_OF_MEMORY);
    assert_int_equal(sc_enter("vendorAlloc"), SC_OK);
    assert_int_equal(sc_enter("vendorLaunch"), SC_UNKNOWN);
    expect_misuse(&seen, 0, NULL);
}

int main(void)
{
    snprintf(report, sizeof(report), "/tmp/standin-core-%d.txt", (int)getpid());
    setenv("INVAR_STANDIN_REPORT", report, 1);
    setenv("INVAR_STANDIN_STRICT", "0", 1);
    setenv("INVAR_STANDIN_MEMORY", "0x800000", 1);
    setenv("INVAR_STANDIN_FAIL", "vendorAlloc:2=out_of_memory,vendorLaunch:1", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies), cmocka_unit_test(test_protection),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_order),  cmocka_unit_test(test_faults),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(report);
    return failed;
}
