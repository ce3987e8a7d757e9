/* core.c: options, counted calls, reports, handles, devices (see core.h). */
#include "core_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

pthread_mutex_t sc__mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t sc__progress = PTHREAD_COND_INITIALIZER;

/* ---- options ---- */

enum { FAULTS = 16, NAME_SIZE = 64 };
typedef struct fault {
    char function[NAME_SIZE];
    int64_t call; /* fails at this one */
    int64_t seen;
    sc_status status;
} fault;

static sc_options options;
static fault faults[FAULTS];
static int32_t n_faults;
static sc_device devices[SC_DEVICES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char *const names[] = {
#define S(NAME, name) name,
#include "statuses.def"
#undef S
};
enum { STATUSES = sizeof(names) / sizeof(names[0]) };

const char *sc_status_name(sc_status s)
{
    return (unsigned)s < STATUSES ? names[s] : "?";
}

static int64_t number_of(const char *variable, int64_t otherwise)
{
    const char *text = getenv(variable);
    char *end;
    if (!text || !*text) return otherwise;
    const long long value = strtoll(text, &end, 0);
    if (*end == 0) return value;
    sc_misuse("%s=%s is not a number", variable, text);
    return otherwise;
}

static sc_check check_of(const char *text)
{
    if (text && strcmp(text, "none") == 0) return SC_CHECK_NONE;
    if (text && strcmp(text, "all") == 0) return SC_CHECK_ALL;
    if (text && strcmp(text, "some") != 0) sc_misuse("INVAR_STANDIN_CHECK=%s: not a value", text);
    return SC_CHECK_SOME;
}

/* One item of INVAR_STANDIN_FAIL: F:N or F:N=NAME. */
static void fault_add(const char *item)
{
    fault f = {.status = SC_UNKNOWN};
    char name[NAME_SIZE] = "unknown";
    long long call = 0;
    const int n = sscanf(item, "%63[^:]:%lld=%63s", f.function, &call, name);
    f.call = call;
    int32_t s = 0;
    while (s < STATUSES && strcmp(names[s], name) != 0) ++s;
    if (n < 2 || call < 1 || s == STATUSES || n_faults == FAULTS) {
        sc_misuse("INVAR_STANDIN_FAIL: cannot read `%s`", item);
        return;
    }
    f.status = (sc_status)s;
    faults[n_faults++] = f;
}

static void read_faults(void)
{
    const char *list = getenv("INVAR_STANDIN_FAIL");
    char *copy = list ? strdup(list) : NULL;
    char *rest = copy;
    for (char *item; rest && (item = strsep(&rest, ",")) != NULL;)
        if (*item) fault_add(item);
    free(copy);
}

/* At the end of the process: leaks, and the exit status. */
static void at_end(void)
{
    sc_leaks();
    if (sc_misuses() == 0 || !options.strict) return;
    fprintf(stderr, "stand-in: %lld faults: exit status %d\n", (long long)sc_misuses(),
            SC_EXIT_MISUSE);
    fflush(NULL);
    _exit(SC_EXIT_MISUSE);
}

static void open_once(void)
{
    const int64_t n = number_of("INVAR_STANDIN_DEVICES", 2);
    options.devices = n < 0 ? 0 : n > SC_DEVICES ? SC_DEVICES : (int32_t)n;
    options.memory_bytes = number_of("INVAR_STANDIN_MEMORY", (int64_t)4 << 30);
    options.seed = (uint64_t)number_of("INVAR_STANDIN_SEED", 1);
    options.check = check_of(getenv("INVAR_STANDIN_CHECK"));
    options.strict = number_of("INVAR_STANDIN_STRICT", 1) != 0;
    options.report = getenv("INVAR_STANDIN_REPORT");
    for (int32_t i = 0; i < SC_DEVICES; ++i) devices[i].index = i;
    read_faults();
    sc__memory_open();
    atexit(at_end);
}

const sc_options *sc_options_get(void)
{
    pthread_once(&once, open_once);
    return &options;
}

/* Calls by function; a name is a literal, though the same one may lie at several places. */
enum { FUNCTIONS = 256 };
static struct {
    const char *name;
    int64_t n;
} calls[FUNCTIONS];

static void count(const char *function)
{
    int32_t i = 0;
    while (i < FUNCTIONS - 1 && calls[i].name && calls[i].name != function) ++i;
    calls[i].name = function;
    ++calls[i].n;
}

int64_t sc_calls(const char *function)
{
    int64_t n = 0;
    pthread_mutex_lock(&sc__mutex);
    for (int32_t i = 0; i < FUNCTIONS && calls[i].name; ++i)
        if (strcmp(calls[i].name, function) == 0) n += calls[i].n;
    pthread_mutex_unlock(&sc__mutex);
    return n;
}

sc_status sc_enter(const char *function)
{
    sc_status s = SC_OK;
    sc_options_get();
    pthread_mutex_lock(&sc__mutex);
    count(function);
    for (int32_t i = 0; i < n_faults; ++i)
        if (strcmp(faults[i].function, function) == 0 && ++faults[i].seen == faults[i].call)
            s = faults[i].status;
    pthread_mutex_unlock(&sc__mutex);
    return s;
}

/* ---- reports ---- */

static int64_t n_misuses;
static pthread_mutex_t report_mutex = PTHREAD_MUTEX_INITIALIZER;

static void write_line(const char *kind, const char *line, bool to_stderr)
{
    pthread_mutex_lock(&report_mutex);
    if (to_stderr) fprintf(stderr, "stand-in: %s%s\n", kind, line);
    FILE *f = options.report ? fopen(options.report, "a") : NULL;
    if (f) {
        fprintf(f, "%s%s\n", kind, line);
        fclose(f);
    }
    pthread_mutex_unlock(&report_mutex);
}

void sc_misuse(const char *fmt, ...)
{
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    /* A fault that repeats is counted and printed a hundred times only. */
    const int64_t n = __atomic_add_fetch(&n_misuses, 1, __ATOMIC_RELAXED);
    if (n <= 100) write_line("misuse: ", line, true);
}

void sc_note(const char *fmt, ...)
{
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    write_line("", line, false);
}

int64_t sc_misuses(void)
{
    return __atomic_load_n(&n_misuses, __ATOMIC_RELAXED);
}

/* ---- handles ---- */

typedef struct object {
    const char *kind, *maker;
    const void *object;
} object;
static object *objects;
static int32_t n_objects, cap_objects;

void sc_object_add(const char *kind, const void *thing, const char *maker)
{
    pthread_mutex_lock(&sc__mutex);
    if (n_objects == cap_objects) {
        const int32_t cap = 2 * cap_objects + 64;
        object *more = realloc(objects, (size_t)cap * sizeof(*more));
        if (!more) {
            pthread_mutex_unlock(&sc__mutex);
            return;
        }
        objects = more;
        cap_objects = cap;
    }
    objects[n_objects++] = (object){kind, maker, thing};
    pthread_mutex_unlock(&sc__mutex);
}

/* Index of a live object or -1; the lock is held. */
static int32_t object_find(const char *kind, const void *thing)
{
    for (int32_t i = n_objects - 1; i >= 0; --i)
        if (objects[i].object == thing && strcmp(objects[i].kind, kind) == 0) return i;
    return -1;
}

bool sc_object_known(const char *kind, const void *thing)
{
    pthread_mutex_lock(&sc__mutex);
    const bool there = object_find(kind, thing) >= 0;
    pthread_mutex_unlock(&sc__mutex);
    return there;
}

bool sc_object_check(const char *kind, const void *thing, const char *function)
{
    const bool there = sc_object_known(kind, thing);
    if (!there) sc_misuse("%s: %p is not a live %s", function, thing, kind);
    return there;
}

bool sc_object_remove(const char *kind, const void *thing, const char *function)
{
    pthread_mutex_lock(&sc__mutex);
    const int32_t i = object_find(kind, thing);
    if (i >= 0) objects[i] = objects[--n_objects];
    pthread_mutex_unlock(&sc__mutex);
    if (i < 0) sc_misuse("%s: %p is not a live %s (destroyed twice?)", function, thing, kind);
    return i >= 0;
}

int32_t sc_leaks(void)
{
    pthread_mutex_lock(&sc__mutex);
    const int32_t n = n_objects;
    object *left = n_objects ? malloc((size_t)n_objects * sizeof(*left)) : NULL;
    if (left) memcpy(left, objects, (size_t)n * sizeof(*left));
    pthread_mutex_unlock(&sc__mutex);
    for (int32_t i = 0; left && i < n; ++i)
        sc_misuse("leak: a %s of %s", left[i].kind, left[i].maker);
    free(left);
    return n + sc__memory_leaks();
}

/* ---- devices ---- */

int32_t sc_device_count(void)
{
    return sc_options_get()->devices;
}

sc_device *sc_device_get(int32_t index)
{
    return index >= 0 && index < sc_device_count() ? &devices[index] : NULL;
}

int32_t sc_device_index(const sc_device *d)
{
    return d->index;
}

void sc_device_memory(const sc_device *d, int64_t *out_total, int64_t *out_free)
{
    pthread_mutex_lock(&sc__mutex);
    *out_total = options.memory_bytes;
    *out_free = options.memory_bytes - d->used;
    pthread_mutex_unlock(&sc__mutex);
}

sc_status sc_device_fault(const sc_device *d)
{
    return __atomic_load_n(&d->fault, __ATOMIC_ACQUIRE);
}

void sc_device_set_fault(sc_device *d, sc_status s, const char *text)
{
    pthread_mutex_lock(&sc__mutex);
    const bool first = d->fault == SC_OK;
    if (first) snprintf(d->fault_text, sizeof(d->fault_text), "%s", text);
    if (first) __atomic_store_n(&d->fault, s, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&sc__mutex);
    if (first) write_line("fault: ", text, true);
}

const char *sc_device_fault_text(const sc_device *d)
{
    return d->fault_text;
}

void sc_device_clear_fault(sc_device *d)
{
    pthread_mutex_lock(&sc__mutex);
    d->fault_text[0] = 0;
    __atomic_store_n(&d->fault, SC_OK, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&sc__mutex);
}
