/* progress.c: the progress of a run on stderr: on a terminal one line that is redrawn at most ten
 * times a second, else a plain line at the first step and then every few seconds. */
#include "cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double redraw_s = 0.1, line_s = 5;

double iv__progress_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double iv__progress_duration(const char *text)
{
    char *end;
    double total = 0;
    for (int32_t parts = 1;; ++parts) {
        const double v = strtod(text, &end);
        if (end == text || !(v >= 0)) return 0;
        total = total * 60 + v;
        if (*end == ':' && parts < 3) text = end + 1;
        else if (*end == 0) return total;
        else break;
    }
    const char *unit = strchr("smh", *end);
    if (!unit || end[1]) return 0;
    return total * (*end == 'h' ? 3600 : *end == 'm' ? 60 : 1);
}

void iv__progress_start(iv__progress *p, const iv_trainer *t, double max_seconds)
{
    iv_trainer_info info;
    iv_memory_report memory;
    iv_trainer_info_get(t, &info);
    iv_trainer_memory(t, &memory);
    *p = (iv__progress){.terminal = isatty(STDERR_FILENO) == 1,
                        .max_steps = info.max_steps,
                        .memory_bytes = memory.total,
                        .start_step = -1,
                        .max_seconds = max_seconds,
                        .started = iv__progress_clock(),
                        .shown = -1};
}

static void clear_bar(iv__progress *p)
{
    if (p->drawn) fputs("\r\033[K", stderr);
    p->drawn = false;
}

/* The share of the run that is done, 0..1, by steps or by time, whichever ends it first. */
static double share_done(const iv__progress *p, int64_t step, double elapsed)
{
    const double all = (double)(p->max_steps - p->start_step);
    double by_step = all > 0 ? (double)(step - p->start_step) / all : 0;
    const double by_time = p->max_seconds > 0 ? elapsed / p->max_seconds : 0;
    if (by_time > by_step) by_step = by_time;
    return by_step > 1 ? 1 : by_step;
}

/* "step 12/100", loss, speed, memory, time left. */
static void print_state(const iv__progress *p, const iv_step_report *r, double done, double elapsed,
                        char out[256])
{
    char speed[32], memory[32], left[32] = "?", of[32] = "";
    iv__print_count(speed, p->speed);
    iv__print_bytes(memory, p->memory_bytes);
    if (done > 0) iv__print_time(left, elapsed / done - elapsed);
    if (p->max_steps > 0) snprintf(of, sizeof(of), "/%lld", (long long)p->max_steps);
    snprintf(out, 256, "step %lld%s  %3.0f%%  loss %.4f  %s %s/s  %s  ETA %s%s", (long long)r->step,
             of, 100 * done, r->loss, speed, r->tokens_per_s > 0 ? "tokens" : "samples", memory,
             left, r->skipped ? "  (skipped)" : "");
}

static int32_t terminal_columns(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static void draw_bar(iv__progress *p, const char *state, double done)
{
    enum { MOST = 30 };
    char bar[MOST + 1];
    const int32_t columns = terminal_columns();
    int32_t width = columns - (int32_t)strlen(state) - 5;
    if (width > MOST) width = MOST;
    clear_bar(p);
    if (width >= 8) {
        const int32_t filled = (int32_t)(done * width);
        memset(bar, '.', sizeof(bar));
        memset(bar, '#', (size_t)filled);
        fprintf(stderr, "[%.*s]  %s", width, bar, state);
    } else {
        fprintf(stderr, "%.*s", columns - 1, state);
    }
    p->drawn = true;
}

void iv__progress_step(iv__progress *p, const iv_step_report *r)
{
    char state[256];
    const double now = iv__progress_clock(), elapsed = now - p->started;
    const double speed = r->tokens_per_s > 0 ? r->tokens_per_s : r->samples_per_s;
    if (p->start_step < 0) p->start_step = r->step - (r->skipped ? 0 : 1);
    p->speed = p->speed > 0 ? 0.9 * p->speed + 0.1 * speed : speed;
    const bool last = p->max_steps > 0 && r->step >= p->max_steps;
    if (p->shown >= 0 && !last && now - p->shown < (p->terminal ? redraw_s : line_s)) return;
    p->shown = now;
    const double done = share_done(p, r->step, elapsed);
    print_state(p, r, done, elapsed, state);
    if (p->terminal) draw_bar(p, state, done);
    else fprintf(stderr, "%s\n", state);
    fflush(stderr);
}

void iv__progress_line(iv__progress *p, const char *fmt, ...)
{
    va_list args;
    clear_bar(p);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void iv__progress_end(iv__progress *p)
{
    if (p->drawn) fputc('\n', stderr);
    p->drawn = false;
}
