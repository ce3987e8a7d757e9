/* hostlist.c: SLURM's host lists.
 *
 *   list  = item { separator item }           separator: ',' or blanks
 *   item  = { text | '[' group ']' }          any number of brackets, no nesting
 *   group = range { ',' range }
 *   range = digits | digits '-' digits        padded to the digits of the first number
 *
 * Nothing is expanded: an item with brackets stands for the product of its groups, the last bracket
 * varying fastest, so that host i is found by division.  A list of millions of hosts costs its
 * length. */
#include "cluster/hostlist.h"

#include <stdio.h>
#include <string.h>

enum { MOST_BRACKETS = 16, MOST_DIGITS = 15 };
static const int64_t most_hosts = (int64_t)1 << 40;

typedef struct range {
    int64_t low, n;
    int width;
} range;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_separator(char c)
{
    return c == ',' || c == ' ' || c == '\t' || c == '\n';
}

/* Reads digits at *s; the number of them, or 0 if there are none or too many. */
static int read_digits(const char **s, int64_t *out)
{
    int n = 0;
    int64_t v = 0;
    for (; is_digit((*s)[n]); ++n) {
        if (n == MOST_DIGITS) return 0;
        v = v * 10 + ((*s)[n] - '0');
    }
    *s += n;
    *out = v;
    return n;
}

/* A range at *s, up to its ',' or ']'.  NULL, or what is wrong. */
static const char *read_range(const char **s, range *out)
{
    const char *at = *s;
    int64_t low, high;
    const int width = read_digits(&at, &low);
    if (width == 0) return "a number of at most 15 digits is needed";
    high = low;
    if (*at == '-') {
        ++at;
        const char *digits = at;
        const int n = read_digits(&at, &high);
        if (n == 0) return "a number of at most 15 digits is needed";
        if (n < width || (n > width && *digits == '0'))
            return "the ends of the range are padded differently";
        if (high < low) return "the range ends below its start";
    }
    if (*at != ',' && *at != ']') return *at ? "',' or ']' is needed" : "']' is missing";
    *s = at;
    *out = (range){low, high - low + 1, width};
    return NULL;
}

/* The group after '[' at *s; leaves *s behind its ']'.  With `want` >= 0 the number of that index
 * goes to *out_pick. */
static const char *read_group(const char **s, int64_t want, int64_t *out_n, range *out_pick)
{
    int64_t n = 0;
    for (;; ++*s) {
        range r;
        const char *fault = read_range(s, &r);
        if (fault) return fault;
        if (want >= n && want - n < r.n) *out_pick = (range){r.low + want - n, 1, r.width};
        n += r.n;
        if (n > most_hosts) return "the list names too many hosts";
        if (**s == ']') break;
    }
    ++*s;
    *out_n = n;
    return NULL;
}

/* Checks the item at *s and counts its hosts; leaves *s behind it. */
static const char *count_item(const char **s, int64_t sizes[MOST_BRACKETS], int64_t *out_n)
{
    const char *start = *s;
    int64_t n = 1;
    int brackets = 0;
    while (**s && !is_separator(**s)) {
        if (**s == ']') return "']' without '['";
        if ((unsigned char)**s < ' ' || **s == 127) return "not a name of a host";
        if (*(*s)++ != '[') continue;
        if (brackets == MOST_BRACKETS) return "an item has more than 16 brackets";
        range unused;
        const char *fault = read_group(s, -1, &sizes[brackets], &unused);
        if (fault) return fault;
        if (n > most_hosts / sizes[brackets]) return "the list names too many hosts";
        n *= sizes[brackets++];
    }
    if (*s == start) return "an item is empty";
    *out_n = n;
    return NULL;
}

/* Behind a separator and the blanks around it; an item must follow. */
static const char *skip_separator(const char **s)
{
    while (**s && is_separator(**s) && **s != ',') ++*s;
    if (**s == ',') {
        ++*s;
        while (**s && is_separator(**s) && **s != ',') ++*s;
        if (!**s) return "an item is empty";
    }
    return NULL;
}

static iv_status refuse(const iv_host *host, const char *list, const char *at, const char *fault)
{
    return host->fail(IV_INVALID, "host list '%.200s': character %lld: %s", list,
                      (long long)(at - list) + 1, fault);
}

iv_status iv__hostlist_count(const iv_host *host, const char *list, int64_t *out_n)
{
    int64_t total = 0, n, sizes[MOST_BRACKETS];
    const char *s = list, *fault;
    while (*s && is_separator(*s) && *s != ',') ++s;
    do {
        fault = count_item(&s, sizes, &n);
        if (!fault && (total += n) > most_hosts) fault = "the list names too many hosts";
        if (!fault) fault = skip_separator(&s);
        if (fault) return refuse(host, list, s, fault);
    } while (*s);
    *out_n = total;
    return IV_OK;
}

/* Writes host `index` of the item at s. */
static bool print_item(const char *s, const int64_t *sizes, int64_t n, int64_t index, char *out,
                       size_t size)
{
    size_t length = 0;
    int bracket = 0;
    while (*s && !is_separator(*s) && length + 1 < size) {
        if (*s != '[') {
            out[length++] = *s++;
            continue;
        }
        range pick = {0};
        int64_t unused;
        ++s;
        n /= sizes[bracket++];
        (void)read_group(&s, index / n, &unused, &pick);
        index %= n;
        const int k =
            snprintf(out + length, size - length, "%0*lld", pick.width, (long long)pick.low);
        if (k < 0 || (size_t)k >= size - length) return false;
        length += (size_t)k;
    }
    out[length] = 0;
    return !*s || is_separator(*s);
}

iv_status iv__hostlist_get(const iv_host *host, const char *list, int64_t i, char *out, size_t size)
{
    int64_t total, n, sizes[MOST_BRACKETS];
    iv_status status = iv__hostlist_count(host, list, &total);
    if (status != IV_OK) return status;
    if (i < 0 || i >= total)
        return host->fail(IV_INVALID, "host list '%.200s': there is no host %lld, only %lld", list,
                          (long long)i, (long long)total);
    const char *s = list;
    for (;;) {
        while (*s && is_separator(*s)) ++s;
        const char *item = s;
        (void)count_item(&s, sizes, &n);
        if (i >= n) {
            i -= n;
            continue;
        }
        if (print_item(item, sizes, n, i, out, size)) return IV_OK;
        return refuse(host, list, item, "a name has too many characters");
    }
}
