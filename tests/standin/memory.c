/* memory.c: device memory that the host cannot touch, and pinned memory (see core.h).
 *
 *   window of device addresses  [ dev 0 | dev 1 | ... ]   never mapped with any access
 *   alias, at a fixed distance  [ dev 0 | dev 1 | ... ]   mapped where an allocation is alive
 *
 * An allocation ends where a page ends (to 256 bytes), with a hole behind it, so that an alias that
 * is overrun faults too. */
#include "core_internal.h"

#include <execinfo.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, ALIGN = 256 };
static const uint64_t per_device = (uint64_t)64 << 30; /* addresses; memory is limited elsewhere */
/* Filling more than this takes too long. */
static const int64_t most_filled = (int64_t)256 << 20;

static uint64_t window, window_bytes, distance;
static uint64_t next[SC_DEVICES]; /* next free offset in the device's part */

/* Live allocations, by address. */
static sc_mem *mems;
static int32_t n_mems, cap_mems;
static int64_t numbers;

static struct sigaction old_action;
static __thread sigjmp_buf *guard;
static __thread uint64_t guard_address;

/* ---- faults of the host ---- */

static void on_segv(int sig, siginfo_t *info, void *context)
{
    const uint64_t at = (uint64_t)(uintptr_t)info->si_addr;
    const bool public = at >= window && at < window + window_bytes;
    const bool alias = at >= window + distance && at < window + distance + window_bytes;
    (void)sig, (void)context;
    if (alias && guard) {
        guard_address = at - distance;
        siglongjmp(*guard, 1);
    }
    if (public || alias) {
        char what[256], line[400];
        void *frames[24];
        sc_mem_describe(alias ? at - distance : at, 1, what, sizeof(what));
        const int n = snprintf(line, sizeof(line), "stand-in: misuse: %s device memory: %s\n",
                               public ? "the host touches" : "a kernel leaves its", what);
        if (write(2, line, (size_t)n) < 0) return;
        backtrace_symbols_fd(frames, backtrace(frames, 24), 2);
    }
    sigaction(SIGSEGV, &old_action, NULL); /* the access faults again, now as if we were not here */
}

sc_status sc_mem_guarded(sc_status (*fn)(void *arg), void *arg, uint64_t *out_address)
{
    sigjmp_buf here;
    sigjmp_buf *const outer = guard;
    if (sigsetjmp(here, 1) != 0) {
        guard = outer;
        *out_address = guard_address;
        return SC_ILLEGAL_ADDRESS;
    }
    guard = &here;
    const sc_status s = fn(arg);
    guard = outer;
    return s;
}

void sc__memory_open(void)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    window_bytes = per_device * SC_DEVICES;
    void *p = mmap(NULL, 2 * window_bytes, PROT_NONE, flags, -1, 0);
    if (p == MAP_FAILED) {
        window_bytes = 0;
        sc_misuse("no room for %llu bytes of addresses", (unsigned long long)window_bytes);
        return;
    }
    window = (uint64_t)(uintptr_t)p;
    distance = window_bytes;
    void *warm[1];
    backtrace(warm, 1); /* loads what it needs now, not in the handler */
    sc_mem_watch();
}

void sc_mem_watch(void)
{
    struct sigaction action = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sigaction before;
    sigaction(SIGSEGV, &action, &before);
    if (before.sa_sigaction != on_segv) old_action = before;
}

/* ---- table ---- */

/* Number of allocations that begin at or before `address`; the lock is held. */
static int32_t upto(uint64_t address)
{
    int32_t lo = 0, hi = n_mems;
    while (lo < hi) {
        const int32_t mid = (lo + hi) / 2;
        if (mems[mid].address <= address) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static bool insert(const sc_mem *m)
{
    if (n_mems == cap_mems) {
        const int32_t cap = 2 * cap_mems + 64;
        sc_mem *more = realloc(mems, (size_t)cap * sizeof(*more));
        if (!more) return false;
        mems = more;
        cap_mems = cap;
    }
    const int32_t i = upto(m->address);
    memmove(mems + i + 1, mems + i, (size_t)(n_mems - i) * sizeof(*mems));
    mems[i] = *m;
    ++n_mems;
    return true;
}

static const sc_mem *find(uint64_t address, int64_t bytes)
{
    const int32_t i = upto(address) - 1;
    if (i < 0 || bytes < 0) return NULL;
    const uint64_t off = address - mems[i].address;
    if (off > (uint64_t)mems[i].bytes || (uint64_t)bytes > (uint64_t)mems[i].bytes - off)
        return NULL;
    return &mems[i];
}

bool sc_mem_find(uint64_t address, int64_t bytes, sc_mem *out)
{
    pthread_mutex_lock(&sc__mutex);
    const sc_mem *m = find(address, bytes);
    if (m) *out = *m;
    pthread_mutex_unlock(&sc__mutex);
    return m != NULL;
}

bool sc_mem_is_device_address(uint64_t address)
{
    return address >= window && address < window + window_bytes;
}

void *sc_mem_alias(uint64_t address)
{
    return (void *)(uintptr_t)(sc_mem_is_device_address(address) ? address + distance : address);
}

void sc_mem_describe(uint64_t address, int64_t bytes, char *out, size_t size)
{
    const bool locked = pthread_mutex_trylock(&sc__mutex) == 0; /* also called from a handler */
    const int32_t i = upto(address) - 1;
    const sc_mem *m = i >= 0 ? &mems[i] : NULL;
    const unsigned long long at = (unsigned long long)address;
    if (m && address - m->address < (uint64_t)m->bytes)
        snprintf(out, size,
                 "%lld bytes at 0x%llx: at byte %llu of allocation %lld (%s, %lld bytes)",
                 (long long)bytes, at, (unsigned long long)(address - m->address),
                 (long long)m->number, m->maker, (long long)m->bytes);
    else if (m && address - m->address < (uint64_t)m->bytes + (1u << 20))
        snprintf(
            out, size, "%lld bytes at 0x%llx: %llu bytes behind allocation %lld (%s, %lld bytes)",
            (long long)bytes, at, (unsigned long long)(address - m->address - (uint64_t)m->bytes),
            (long long)m->number, m->maker, (long long)m->bytes);
    else
        snprintf(out, size, "%lld bytes at 0x%llx: %s", (long long)bytes, at,
                 sc_mem_is_device_address(address) ? "no live allocation (freed?)"
                                                   : "not device memory");
    if (locked) pthread_mutex_unlock(&sc__mutex);
}

/* ---- allocation ---- */

/* Bytes of addresses of an allocation: its pages and a hole. */
static uint64_t span_of(int64_t bytes)
{
    return ((uint64_t)bytes + PAGE - 1) / PAGE * PAGE + PAGE;
}

/* A free range of the device's addresses: behind all others, and from the front again when the end
 * is reached.  0: none.  The lock is held. */
static uint64_t place(int32_t device, uint64_t span)
{
    const uint64_t base = window + per_device * (uint64_t)device;
    for (int32_t turn = 0; turn < 2; ++turn) {
        uint64_t at = turn == 0 ? base + next[device] : base;
        for (int32_t i = 0; i < n_mems; ++i) {
            const uint64_t first = mems[i].address / PAGE * PAGE;
            const uint64_t last = mems[i].address + (uint64_t)mems[i].bytes + PAGE;
            if (first < at + span && last > at) at = (last + PAGE - 1) / PAGE * PAGE;
        }
        if (at + span > base + per_device) continue;
        next[device] = at + span - base;
        return at;
    }
    return 0;
}

static sc_status alloc_device(sc_device *d, int64_t bytes, sc_mem *m)
{
    const uint64_t span = span_of(bytes);
    const uint64_t at = window_bytes ? place(d->index, span) : 0;
    if (at == 0) return SC_OUT_OF_MEMORY;
    if (mprotect((void *)(uintptr_t)(at + distance), span - PAGE, PROT_READ | PROT_WRITE) != 0)
        return SC_OUT_OF_MEMORY;
    m->address = at + (span - PAGE - ((uint64_t)bytes + ALIGN - 1) / ALIGN * ALIGN);
    d->used += bytes;
    return SC_OK;
}

static sc_status alloc_pinned(int64_t bytes, sc_mem *m)
{
    const uint64_t span = span_of(bytes);
    char *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return SC_OUT_OF_MEMORY;
    mprotect(p + span - PAGE, PAGE, PROT_NONE);
    m->address = (uint64_t)(uintptr_t)p;
    return SC_OK;
}

sc_status sc_mem_alloc(sc_device *d, int64_t bytes, sc_mem_kind kind, const char *maker,
                       uint64_t *out_address)
{
    sc_mem m = {.bytes = bytes, .kind = kind, .device = d, .maker = maker};
    if (bytes <= 0) return SC_INVALID_VALUE;
    pthread_mutex_lock(&sc__mutex);
    sc_status s = SC_OK;
    if (kind == SC_MEM_DEVICE && bytes > sc_options_get()->memory_bytes - d->used)
        s = SC_OUT_OF_MEMORY;
    if (s == SC_OK)
        s = kind == SC_MEM_DEVICE ? alloc_device(d, bytes, &m) : alloc_pinned(bytes, &m);
    m.number = ++numbers;
    if (s == SC_OK && !insert(&m)) s = SC_OUT_OF_MEMORY;
    pthread_mutex_unlock(&sc__mutex);
    if (s != SC_OK) return s;
    if (bytes <= most_filled) memset(sc_mem_alias(m.address), 0xff, (size_t)bytes);
    *out_address = m.address;
    return SC_OK;
}

sc_status sc_mem_free(uint64_t address, sc_mem_kind kind, const char *function)
{
    char what[256];
    pthread_mutex_lock(&sc__mutex);
    const int32_t i = upto(address) - 1;
    const bool there = i >= 0 && mems[i].address == address && mems[i].kind == kind;
    const sc_mem m = there ? mems[i] : (sc_mem){0};
    pthread_mutex_unlock(&sc__mutex);
    if (!there) {
        sc_mem_describe(address, 0, what, sizeof(what));
        sc_misuse("%s: nothing to free (twice?): %s", function, what);
        return SC_INVALID_VALUE;
    }
    sc_device_sync(m.device);
    pthread_mutex_lock(&sc__mutex);
    const int32_t k = upto(address) - 1; /* others may have come and gone */
    memmove(mems + k, mems + k + 1, (size_t)(n_mems - k - 1) * sizeof(*mems));
    --n_mems;
    if (kind == SC_MEM_DEVICE) {
        const uint64_t first = (address + distance) / PAGE * PAGE, span = span_of(m.bytes) - PAGE;
        mmap((void *)(uintptr_t)first, span, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        m.device->used -= m.bytes;
    } else munmap((void *)(uintptr_t)address, span_of(m.bytes));
    pthread_mutex_unlock(&sc__mutex);
    return SC_OK;
}

int32_t sc__memory_leaks(void)
{
    pthread_mutex_lock(&sc__mutex);
    const int32_t n = n_mems;
    sc_mem *left = n ? malloc((size_t)n * sizeof(*left)) : NULL;
    if (left) memcpy(left, mems, (size_t)n * sizeof(*left));
    pthread_mutex_unlock(&sc__mutex);
    for (int32_t i = 0; left && i < n; ++i)
        sc_misuse("leak: %lld bytes of %s (allocation %lld)", (long long)left[i].bytes,
                  left[i].maker, (long long)left[i].number);
    free(left);
    return n;
}
