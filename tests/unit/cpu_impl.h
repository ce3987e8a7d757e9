/* cpu_impl.h: for tests that call implementations of the CPU backend without a device. */
#ifndef IV_TEST_CPU_IMPL_H
#define IV_TEST_CPU_IMPL_H

#include <stdarg.h>
#include <stdio.h>

#include "backends/cpu/cpu.h"
#include "backends/cpu/team.h"

static char message[256]; /* of the last refusal */

static inline iv_status keep_text(iv_status code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    return code;
}

static const iv_host host = {.size = sizeof(host), .fail = keep_text};

/* [a, b, c, d], row-major. */
static inline iv_tensor_desc tensor(iv_dtype t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (iv_tensor_desc){
        .dtype = t, .shape = {4, {a, b, c, d}}, .stride = {b * c * d, c * d, d, 1}};
}

/* The teardown of a group of tests. */
static inline int close_team(void **state)
{
    (void)state;
    iv__team_close();
    return 0;
}

#endif
