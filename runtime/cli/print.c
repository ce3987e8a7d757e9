/* print.c: JSON pieces, and sizes and times for people.  The program never leaves the C locale. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the UTF-8 character at s (n > 0 left), or 0 if it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t length = s[0] < 0x80       ? 1
                          : s[0] >> 5 == 6  ? 2
                          : s[0] >> 4 == 14 ? 3
                          : s[0] >> 3 == 30 ? 4
                                            : 0;
    if (length == 0 || length > n) return 0;
    uint32_t code = length == 1 ? s[0] : s[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    return code < least[length] || code > 0x10ffff || surrogate ? 0 : length;
}

void iv__json_bytes(FILE *f, const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    fputc('"', f);
    for (size_t i = 0; i < n;) {
        const size_t length = utf8_length(u + i, n - i);
        if (length == 0) fputs("\\ufffd", f);
        else if (u[i] == '"' || u[i] == '\\') fprintf(f, "\\%c", u[i]);
        else if (u[i] == '\n') fputs("\\n", f);
        else if (u[i] < ' ' || u[i] == 0x7f) fprintf(f, "\\u%04x", u[i]);
        else fwrite(u + i, 1, length, f);
        i += length ? length : 1;
    }
    fputc('"', f);
}

void iv__json_text(FILE *f, const char *s)
{
    iv__json_bytes(f, s, strlen(s));
}

void iv__json_number(FILE *f, double x)
{
    char text[32];
    if (!isfinite(x)) {
        fputs("null", f);
        return;
    }
    for (int digits = 1; digits <= 17; ++digits) {
        snprintf(text, sizeof(text), "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    fputs(text, f);
}

void iv__print_bytes(char out[32], int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int32_t u = 0;
    for (; v >= 1024 && u < 4; ++u) v /= 1024;
    snprintf(out, 32, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

void iv__print_count(char out[32], double n)
{
    static const char *const units[] = {"", "k", "M", "G"};
    int32_t u = 0;
    for (; n >= 1000 && u < 3; ++u) n /= 1000;
    snprintf(out, 32, n >= 100 || (u == 0 && n == floor(n)) ? "%.0f%s" : "%.1f%s", n, units[u]);
}

void iv__print_time(char out[32], double seconds)
{
    const long long s = seconds < 0 ? 0 : seconds > 1e9 ? 1000000000 : (long long)(seconds + 0.5);
    if (s >= 3600) snprintf(out, 32, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, 32, "%lld:%02lld", s / 60, s % 60);
}
