/* config.c: the configuration store (see invar.h and config.def).
 *
 * A value arrives as text, from whatever side, and is read here and only here: numbers strictly
 * (the whole text, plain decimal, finite, within the row's bounds), booleans by name, choices by
 * their list, strings as UTF-8.  A value that is refused changes nothing.  Reading and printing of
 * floats is independent of the program's locale.  YAML is in config_yaml.c.
 */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>

static const iv_config_key keys[] = {
#define X(key, flag, type, fallback, minimum, maximum, help)                                       \
    {key, flag, IV_CFG_##type, fallback, help},
#define XC(key, flag, fallback, choices, help) {key, flag, IV_CFG_STRING, fallback, help},
#include "config.def"
#undef X
#undef XC
};

/* What the rows of config.def allow, in the same order.  Integer bounds are below 2^53: exact. */
static const struct {
    double least, most;
    const char *choices; /* "a|b", or NULL */
} rules[] = {
#define X(key, flag, type, fallback, minimum, maximum, help)                                       \
    {(double)(minimum), (double)(maximum), NULL},
#define XC(key, flag, fallback, choices, help) {0, 0, choices},
#include "config.def"
#undef X
#undef XC
};

enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };

typedef struct value {
    char *text; /* strings: owned */
    int64_t i;
    double f;
    bool b;
    bool is_set;
} value;

struct iv_config {
    value v[N_KEYS];
};

int64_t iv_config_keys(const iv_config_key **out_keys)
{
    *out_keys = keys;
    return N_KEYS;
}

int64_t iv__config_find(const char *key)
{
    for (int64_t i = 0; i < N_KEYS; ++i)
        if (strcmp(keys[i].key, key) == 0) return i;
    return -1;
}

bool iv__config_is_section(const char *prefix)
{
    size_t n = strlen(prefix);
    for (int64_t i = 0; i < N_KEYS; ++i)
        if (strncmp(keys[i].key, prefix, n) == 0 && keys[i].key[n] == '.') return true;
    return false;
}

iv_status iv__config_unknown(const char *key)
{
    const char *names[N_KEYS], *near = NULL;
    for (int64_t i = 0; i < N_KEYS; ++i) names[i] = keys[i].key;
    /* A name longer than any key by far has no neighbour, and measuring would take long. */
    if (strlen(key) <= 64) near = iv__nearest(key, names, N_KEYS);
    if (near) {
        IV_FAIL(IV_INVALID, "setting \"%.80s\": there is no such key [hint: did you mean %s?]", key,
                near);
    }
    IV_FAIL(IV_INVALID, "setting \"%.80s\": there is no such key", key);
}

/* ---- text to value ---- */

int iv__utf8_next(const char *s, uint32_t *out_code)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *u = (const unsigned char *)s;
    int n = u[0] < 0x80         ? 1
            : (u[0] >> 5) == 6  ? 2
            : (u[0] >> 4) == 14 ? 3
            : (u[0] >> 3) == 30 ? 4
                                : 0;
    if (n == 0) return 0;
    uint32_t code = n == 1 ? u[0] : u[0] & (0x7fu >> n);
    for (int i = 1; i < n; ++i) {
        if ((u[i] & 0xc0) != 0x80) return 0; /* also stops at the NUL */
        code = code << 6 | (u[i] & 0x3fu);
    }
    bool surrogate = code >= 0xd800 && code < 0xe000;
    if (code < least[n] || code > 0x10ffff || surrogate) return 0;
    *out_code = code;
    return n;
}

static int64_t skip_digits(const char *s, int64_t at)
{
    while (s[at] >= '0' && s[at] <= '9') ++at;
    return at;
}

/* Whether s is [+-]digits. */
static bool is_integer(const char *s)
{
    int64_t sign = *s == '+' || *s == '-', end = skip_digits(s, sign);
    return end > sign && !s[end];
}

/* Whether s is [+-]digits[.digits][e[+-]digits]: decimal, no NaN, infinity, hexadecimal or blanks.
 */
static bool is_decimal(const char *s)
{
    int64_t sign = *s == '+' || *s == '-', at = skip_digits(s, sign), digits = at - sign;
    if (s[at] == '.') {
        int64_t end = skip_digits(s, at + 1);
        digits += end - at - 1;
        at = end;
    }
    if (digits == 0) return false;
    if (s[at] == 'e' || s[at] == 'E') {
        at += 1 + (s[at + 1] == '+' || s[at + 1] == '-');
        int64_t end = skip_digits(s, at);
        if (end == at) return false;
        at = end;
    }
    return !s[at];
}

/* The C locale, whatever the program has chosen: a decimal point is '.'.  With all categories this
 * is a static object of the C library, so that nothing needs to be freed; freelocale is harmless.
 */
static locale_t c_locale(void)
{
    return newlocale(LC_ALL_MASK, "C", (locale_t)0);
}

/* Shortest decimals that read back as the same f64. */
static void print_float(double f, char out[32])
{
    locale_t c = c_locale(), old = uselocale(c);
    for (int digits = 1; digits <= 17; ++digits) {
        snprintf(out, 32, "%.*g", digits, f);
        if (strtod(out, NULL) == f) break;
    }
    uselocale(old);
    if (c) freelocale(c);
}

#define SHOWN "%.80s%s"
#define SHOW(text) (text), (strlen(text) > 80 ? "..." : "")

/* The bounds of row i as text: "1 to 1048576". */
static void print_range(int64_t i, char out[80])
{
    char least[32], most[32];
    if (keys[i].type == IV_CFG_INT) {
        snprintf(out, 80, "%lld to %lld", (long long)rules[i].least, (long long)rules[i].most);
        return;
    }
    print_float(rules[i].least, least);
    print_float(rules[i].most, most);
    snprintf(out, 80, "%s to %s", least, most);
}

static iv_status refuse_number(int64_t i, const char *text, const char *why)
{
    char range[80];
    print_range(i, range);
    IV_FAIL(IV_INVALID, "setting %s: \"" SHOWN "\" %s (allowed: %s)", keys[i].key, SHOW(text), why,
            range);
}

static iv_status read_int(int64_t i, const char *text, value *out)
{
    if (!is_integer(text)) return refuse_number(i, text, "is not an integer");
    errno = 0;
    long long v = strtoll(text, NULL, 10);
    if (errno == ERANGE || v < (int64_t)rules[i].least || v > (int64_t)rules[i].most)
        return refuse_number(i, text, "is out of range");
    out->i = v;
    return IV_OK;
}

static iv_status read_float(int64_t i, const char *text, value *out)
{
    if (!is_decimal(text)) return refuse_number(i, text, "is not a number");
    locale_t c = c_locale();
    double v = strtod_l(text, NULL, c);
    if (c) freelocale(c);
    /* 0 often means "off", so a number that only rounds to it is not taken for it. */
    size_t mantissa = strcspn(text, "eE");
    if (v == 0 && strcspn(text, "123456789") < mantissa)
        return refuse_number(i, text, "is too small for a 64-bit float");
    if (!isfinite(v) || v < rules[i].least || v > rules[i].most)
        return refuse_number(i, text, "is out of range");
    out->f = v == 0 ? 0 : v; /* "-0" is 0 */
    return IV_OK;
}

static bool equal_ignoring_case(const char *a, const char *b)
{
    while (*a && tolower((unsigned char)*a) == tolower((unsigned char)*b)) ++a, ++b;
    return *a == *b;
}

static iv_status read_bool(int64_t i, const char *text, value *out)
{
    static const char *const names[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int n = 0; n < (int)IV_COUNT(names); ++n) {
        if (equal_ignoring_case(text, names[n])) {
            out->b = n & 1;
            return IV_OK;
        }
    }
    IV_FAIL(IV_INVALID,
            "setting %s: \"" SHOWN
            "\" is not a truth value (allowed: true false yes no on off 1 0)",
            keys[i].key, SHOW(text));
}

/* Checks that text is one of "a|b|c". */
static iv_status check_choice(int64_t i, const char *text)
{
    enum { MOST = 16 };
    char list[256];
    const char *names[MOST];
    int64_t n = 0;
    snprintf(list, sizeof(list), "%s", rules[i].choices);
    for (char *at = list, *name; n < MOST && (name = strsep(&at, "|"));) names[n++] = name;
    for (int64_t k = 0; k < n; ++k)
        if (strcmp(text, names[k]) == 0) return IV_OK;
    const char *near = strlen(text) <= 64 ? iv__nearest(text, names, n) : NULL;
    IV_FAIL(IV_INVALID, "setting %s: \"" SHOWN "\" is not one of %s%s%s%s", keys[i].key, SHOW(text),
            rules[i].choices, near ? " [hint: did you mean " : "", near ? near : "",
            near ? "?]" : "");
}

static iv_status read_string(int64_t i, const char *text, value *out)
{
    if (rules[i].choices) IV_TRY(check_choice(i, text));
    size_t n = strlen(text);
    if (n > IV__CONFIG_MOST_TEXT) {
        IV_FAIL(IV_INVALID, "setting %s: the text has %zu bytes, at most %d are accepted",
                keys[i].key, n, IV__CONFIG_MOST_TEXT);
    }
    for (size_t at = 0; at < n;) {
        uint32_t code;
        int length = iv__utf8_next(text + at, &code);
        /* A saved configuration is YAML, which has no way to write other bytes. */
        if (length == 0) {
            IV_FAIL(IV_INVALID, "setting %s: byte %zu of the text is not UTF-8", keys[i].key, at);
        }
        at += (size_t)length;
    }
    return iv__strdup(text, &out->text);
}

static iv_status read_value(int64_t i, const char *text, value *out)
{
    static iv_status (*const readers[])(int64_t, const char *, value *) = {
        [IV_CFG_STRING] = read_string,
        [IV_CFG_INT] = read_int,
        [IV_CFG_FLOAT] = read_float,
        [IV_CFG_BOOL] = read_bool,
    };
    return readers[keys[i].type](i, text, out);
}

/* ---- the store ---- */

void iv_config_free(iv_config *c)
{
    if (!c) return;
    for (int64_t i = 0; i < N_KEYS; ++i) free(c->v[i].text);
    free(c);
}

iv_status iv_config_new(iv_config **out)
{
    iv_config *c = NULL;
    IV_TRY(iv__calloc(1, sizeof(*c), "a configuration", &c));
    iv_status s;
    for (int64_t i = 0; i < N_KEYS; ++i)
        IV_TRY_GOTO(s, read_value(i, keys[i].fallback, &c->v[i]), free_config);
    *out = c;
    return IV_OK;
free_config:
    iv_config_free(c);
    return s == IV_INVALID ? iv__context(IV_INTERNAL, "a default in config.def") : s;
}

iv_status iv__config_copy(const iv_config *c, iv_config **out)
{
    iv_config *copy = NULL;
    IV_TRY(iv__calloc(1, sizeof(*copy), "a configuration", &copy));
    for (int64_t i = 0; i < N_KEYS; ++i) {
        copy->v[i] = c->v[i];
        copy->v[i].text = NULL;
        iv_status s = c->v[i].text ? iv__strdup(c->v[i].text, &copy->v[i].text) : IV_OK;
        if (s != IV_OK) {
            iv_config_free(copy);
            return s;
        }
    }
    *out = copy;
    return IV_OK;
}

void iv__config_swap(iv_config *a, iv_config *b)
{
    iv_config swap = *a;
    *a = *b;
    *b = swap;
}

iv_status iv_config_set(iv_config *c, const char *key, const char *text)
{
    int64_t i = iv__config_find(key);
    if (i < 0) return iv__config_unknown(key);
    value v = {0};
    IV_TRY(read_value(i, text, &v));
    v.is_set = true;
    free(c->v[i].text);
    c->v[i] = v;
    return IV_OK;
}

/* The value of a key of that type, or NULL. */
static const value *get(const iv_config *c, const char *key, iv_config_type type)
{
    int64_t i = iv__config_find(key);
    return i >= 0 && keys[i].type == type ? &c->v[i] : NULL;
}

const char *iv_config_str(const iv_config *c, const char *key)
{
    const value *v = get(c, key, IV_CFG_STRING);
    return v ? v->text : "";
}

int64_t iv_config_int(const iv_config *c, const char *key)
{
    const value *v = get(c, key, IV_CFG_INT);
    return v ? v->i : 0;
}

double iv_config_float(const iv_config *c, const char *key)
{
    const value *v = get(c, key, IV_CFG_FLOAT);
    return v ? v->f : 0;
}

bool iv_config_bool(const iv_config *c, const char *key)
{
    const value *v = get(c, key, IV_CFG_BOOL);
    return v && v->b;
}

bool iv_config_is_set(const iv_config *c, const char *key)
{
    int64_t i = iv__config_find(key);
    return i >= 0 && c->v[i].is_set;
}

void iv__config_print(const iv_config *c, int64_t i, iv__text *t)
{
    const value *v = &c->v[i];
    char number[32];
    switch (keys[i].type) {
    case IV_CFG_STRING: iv__text_printf(t, "%s", v->text); break;
    case IV_CFG_INT: iv__text_printf(t, "%lld", (long long)v->i); break;
    case IV_CFG_BOOL: iv__text_printf(t, "%s", v->b ? "true" : "false"); break;
    case IV_CFG_FLOAT:
        print_float(v->f, number);
        iv__text_printf(t, "%s", number);
        break;
    }
}
