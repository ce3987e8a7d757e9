/* lex.c: PTX text into words, numbers and marks.
 *
 * Words are left in the text and ended with a NUL in place, so names need no memory of their own;
 * the character that the NUL replaced is kept until the next token. */
#include "internal.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ptx__lex_open(ptx_lexer *x, char *text, char *error, size_t size)
{
    *x = (ptx_lexer){.at = text, .line = 1, .error = error, .error_size = size};
    if (size) error[0] = 0;
    ptx__lex_next(x);
}

bool ptx__lex_fail(ptx_lexer *x, const char *fmt, ...)
{
    va_list args;
    if (x->failed) return false;
    x->failed = true;
    const int n = snprintf(x->error, x->error_size, "PTX line %d: ", x->line);
    if (n < 0 || (size_t)n >= x->error_size) return false;
    va_start(args, fmt);
    vsnprintf(x->error + n, x->error_size - (size_t)n, fmt, args);
    va_end(args);
    return false;
}

static char peek(const ptx_lexer *x)
{
    return x->held ? x->held : *x->at;
}

static void advance(ptx_lexer *x)
{
    if (peek(x) == '\n') ++x->line;
    x->held = 0;
    ++x->at;
}

static void skip_space(ptx_lexer *x)
{
    for (;;) {
        const char c = peek(x);
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            advance(x);
        } else if (c == '/' && x->at[1] == '/') {
            while (peek(x) && peek(x) != '\n') advance(x);
        } else if (c == '/' && x->at[1] == '*') {
            while (peek(x) && !(peek(x) == '*' && x->at[1] == '/')) advance(x);
            if (peek(x)) advance(x);
            if (peek(x)) advance(x);
        } else return;
    }
}

static bool in_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

static void lex_word(ptx_lexer *x)
{
    x->word = x->at;
    if (x->held) *x->at = x->held;
    x->held = 0;
    while (in_word(*x->at)) ++x->at;
    x->held = *x->at;
    *x->at = 0;
    x->kind = TOK_WORD;
}

/* 12, 0x1f, 12U, 0f3F800000 (bits of an f32), 0d... (of an f64). */
static void lex_number(ptx_lexer *x)
{
    char *end;
    if (x->held) *x->at = x->held;
    x->held = 0;
    const bool bits = x->at[0] == '0' && strchr("fFdD", x->at[1]) && x->at[1];
    x->kind = !bits ? TOK_NUMBER : tolower((unsigned char)x->at[1]) == 'f' ? TOK_F32 : TOK_F64;
    x->number = bits ? strtoull(x->at + 2, &end, 16) : strtoull(x->at, &end, 0);
    x->at = end;
    if (!bits && *x->at == 'U') ++x->at;
    if (!bits && *x->at == '.') /* a version: 9.0 */
        do ++x->at;
        while (isdigit((unsigned char)*x->at));
    if (in_word(*x->at)) ptx__lex_fail(x, "a number ends with `%c`", *x->at);
}

void ptx__lex_next(ptx_lexer *x)
{
    skip_space(x);
    const char c = peek(x);
    if (c == 0 || x->failed) {
        x->kind = TOK_END;
    } else if (isdigit((unsigned char)c)) {
        lex_number(x);
    } else if (in_word(c)) {
        lex_word(x);
    } else if (c == '"') { /* of .pragma: nothing that matters */
        do advance(x);
        while (peek(x) && peek(x) != '"');
        if (peek(x)) advance(x);
        x->kind = TOK_MARK;
        x->mark = '"';
    } else {
        x->kind = TOK_MARK;
        x->mark = c;
        advance(x);
    }
}

bool ptx__lex_is(const ptx_lexer *x, char mark)
{
    return x->kind == TOK_MARK && x->mark == mark;
}

bool ptx__lex_word(const ptx_lexer *x, const char *word)
{
    return x->kind == TOK_WORD && strcmp(x->word, word) == 0;
}

bool ptx__lex_take(ptx_lexer *x, char mark)
{
    if (!ptx__lex_is(x, mark))
        return ptx__lex_fail(x, "expected `%c`, found %s%c", mark,
                             x->kind == TOK_WORD ? x->word : "",
                             x->kind == TOK_MARK ? x->mark : ' ');
    ptx__lex_next(x);
    return !x->failed;
}
