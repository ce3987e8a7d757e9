/* base.c: errors, allocation, text, log, environment (see base.h). */
#include "base.h"

#include <time.h>

static _Thread_local char error_text[2048];

static const char *const status_names[IV_STATUS_COUNT] = {
    [IV_OK] = "ok",
    [IV_INVALID] = "invalid",
    [IV_UNAVAILABLE] = "unavailable",
    [IV_UNSUPPORTED] = "unsupported",
    [IV_NO_MEMORY] = "out of memory",
    [IV_IO] = "io error",
    [IV_CORRUPT] = "corrupt",
    [IV_NONFINITE] = "not finite",
    [IV_INTERRUPTED] = "interrupted",
    [IV_TIMEOUT] = "timeout",
    [IV_VENDOR] = "vendor error",
    [IV_INTERNAL] = "internal error",
    [IV_LOST] = "rank lost",
};

const char *iv_status_name(iv_status s)
{
    return (unsigned)s < IV_STATUS_COUNT ? status_names[s] : "unknown status";
}

const char *iv_error_message(void)
{
    return error_text;
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
const char *iv_version(void)
{
    return TEXT(IV_VERSION_MAJOR) "." TEXT(IV_VERSION_MINOR) "." TEXT(IV_VERSION_PATCH);
}

/* The text of an error is one line, whatever a file name or a value contains. */
static void one_line(char *s)
{
    for (; *s; ++s)
        if ((unsigned char)*s < ' ' || *s == 127) *s = '?';
}

static iv_status record(iv_status code, const char *fmt, va_list args)
{
    /* Printed aside first: an argument may be the old text. */
    char text[sizeof(error_text)];
    vsnprintf(text, sizeof(text), fmt, args);
    one_line(text);
    memcpy(error_text, text, sizeof(error_text));
    return code;
}

iv_status iv__fail(iv_status code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    record(code, fmt, args);
    va_end(args);
    return code;
}

iv_status iv_error_set(iv_status code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    record(code, fmt, args);
    va_end(args);
    return code;
}

iv_status iv__context(iv_status code, const char *fmt, ...)
{
    char text[sizeof(error_text)];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof(text)) return code;
    snprintf(text + n, sizeof(text) - (size_t)n, ": %.*s", (int)(sizeof(text) - (size_t)n - 3),
             error_text);
    one_line(text);
    memcpy(error_text, text, sizeof(error_text));
    return code;
}

iv_status iv__calloc(int64_t n, size_t size, const char *what, void *out_ptr)
{
    void *p =
        n >= 0 && (uint64_t)n <= SIZE_MAX / (size ? size : 1) ? calloc((size_t)n + !n, size) : NULL;
    if (!p) IV_FAIL(IV_NO_MEMORY, "allocating %s: %lld x %zu bytes", what, (long long)n, size);
    memcpy(out_ptr, &p, sizeof(p));
    return IV_OK;
}

iv_status iv__reserve(void *ptr, int64_t *cap, int64_t need, size_t size, const char *what)
{
    if (need <= *cap) return IV_OK;
    int64_t grown = IV_MAX2(IV_MAX2(need, 16), *cap * 2);
    void *old, *p = NULL;
    memcpy(&old, ptr, sizeof(old));
    if ((uint64_t)grown <= SIZE_MAX / size) p = realloc(old, (size_t)grown * size);
    if (!p) IV_FAIL(IV_NO_MEMORY, "growing %s: %lld x %zu bytes", what, (long long)grown, size);
    memset((char *)p + (size_t)*cap * size, 0, (size_t)(grown - *cap) * size);
    memcpy(ptr, &p, sizeof(p));
    *cap = grown;
    return IV_OK;
}

iv_status iv__strdup(const char *s, char **out)
{
    size_t n = strlen(s) + 1;
    char *p = malloc(n);
    if (!p) IV_FAIL(IV_NO_MEMORY, "copying a text of %zu bytes", n);
    memcpy(p, s, n);
    *out = p;
    return IV_OK;
}

void iv__text_printf(iv__text *t, const char *fmt, ...)
{
    if (t->failed) return;
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || iv__reserve(&t->s, &t->cap, t->len + n + 1, 1, "a text") != IV_OK) {
        t->failed = true;
    } else {
        vsnprintf(t->s + t->len, (size_t)n + 1, fmt, again);
        t->len += n;
    }
    va_end(again);
}

void iv__text_free(iv__text *t)
{
    free(t->s);
    *t = (iv__text){0};
}

static struct {
    iv_log_level level;
    void (*sink)(void *ctx, iv_log_level level, const char *line);
    void *ctx;
} log_state = {IV_LOG_INFO, NULL, NULL};

void iv_log_set(iv_log_level level, void (*sink)(void *, iv_log_level, const char *), void *ctx)
{
    log_state.level = level;
    log_state.sink = sink;
    log_state.ctx = ctx;
}

void iv__log(iv_log_level level, const char *fmt, ...)
{
    if (level < log_state.level) return;
    char line[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    one_line(line);
    if (log_state.sink) log_state.sink(log_state.ctx, level, line);
    else fprintf(stderr, "invar: %s\n", line);
}

/* Levenshtein distance by one row; names are short. */
static int64_t edit_distance(const char *a, const char *b)
{
    enum { MOST = 64 };
    int64_t row[MOST + 1], nb = (int64_t)strlen(b);
    if (nb > MOST) return MOST;
    for (int64_t j = 0; j <= nb; ++j) row[j] = j;
    for (int64_t i = 1; a[i - 1]; ++i) {
        int64_t diagonal = row[0];
        row[0] = i;
        for (int64_t j = 1; j <= nb; ++j) {
            int64_t swap = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = IV_MIN2(swap, IV_MIN2(row[j], row[j - 1]) + 1);
        }
    }
    return row[nb];
}

const char *iv__nearest(const char *name, const char *const *names, int64_t n)
{
    const char *best = NULL;
    int64_t best_d = (int64_t)strlen(name) / 2 + 1;
    for (int64_t i = 0; i < n; ++i) {
        /* The last part of a dotted name is what people type. */
        const char *tail = strrchr(names[i], '.');
        int64_t d = edit_distance(name, names[i]);
        if (tail) d = IV_MIN2(d, edit_distance(name, tail + 1) + 1);
        if (d < best_d) {
            best_d = d;
            best = names[i];
        }
    }
    return best;
}

int64_t iv__now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static const struct {
    const char *name, *help;
} env_table[] = {
#define X(key, name, help) {name, help},
    IV_ENV_TABLE(X)
#undef X
};

const char *iv__env(iv__env_key key)
{
    const char *v = getenv(env_table[key].name);
    return v && *v ? v : NULL;
}

const char *iv__env_any(const char *name)
{
    return getenv(name);
}

int64_t iv_env_count(void)
{
    return IV_COUNT(env_table);
}

const char *iv_env_entry(int64_t i, const char **out_help, const char **out_value)
{
    if (i < 0 || i >= IV_COUNT(env_table)) return NULL;
    *out_help = env_table[i].help;
    *out_value = iv__env((iv__env_key)i);
    return env_table[i].name;
}
