/* twin.c: see twin.h. */
#include "twin.h"

#include "backends/cpu/cpu.h"
#include "nvrtc.h"
#include "ptx/ptx.h"

#include <setjmp.h>
#include <stdarg.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MODULES = 256, ROWS = 1024, PARAMS = 8 * 8 + (int)sizeof(cpu_params) };

typedef struct twin_module {
    const char *file, *sig;
    char *ptx, why[1000];
    ptx_module *module;
} twin_module;
static twin_module modules[MODULES];
static twin_row rows[ROWS];
static cpu_kernel_fn *host_fn[ROWS];
static ptx_function *ptx_fn[ROWS];
static int32_t n_modules, n_rows, next_module;

/* ---- compiling everything ---- */

static const iv__host_kernel *const *host_kernels(void)
{
    for (int level = 0; level < IV__ISA_COUNT; ++level)
        if (iv__host_kernels[level]) return iv__host_kernels[level];
    return NULL;
}

static void *compile_some(void *unused)
{
    (void)unused;
    for (;;) {
        const int32_t i = __atomic_fetch_add(&next_module, 1, __ATOMIC_RELAXED);
        if (i >= n_modules) return NULL;
        twin_module *m = &modules[n_modules - 1 - i]; /* the long ones are at the end */
        m->ptx = nvrtc_kernel(m->file, m->sig, m->why, sizeof(m->why));
    }
}

static void list_modules(void)
{
    for (const iv__host_kernel *const *file = host_kernels(); *file; ++file)
        for (const iv__host_kernel *k = *file; k->name; ++k) {
            const twin_module *last = n_modules ? &modules[n_modules - 1] : NULL;
            if (!last || strcmp(last->file, k->file) != 0 || strcmp(last->sig, k->sig) != 0)
                modules[n_modules++] = (twin_module){.file = k->file, .sig = k->sig};
            host_fn[n_rows] = k->fn;
            rows[n_rows++] = (twin_row){k->file, k->name, k->sig, 0};
        }
}

bool twin_start(char *why, size_t size)
{
    pthread_t other;
    if (!nvrtc_open(why, size)) return false;
    list_modules();
    const bool two = pthread_create(&other, NULL, compile_some, NULL) == 0;
    compile_some(NULL);
    if (two) pthread_join(other, NULL);
    for (int32_t i = 0; i < n_modules; ++i) {
        twin_module *m = &modules[i];
        if (!m->ptx) fail_msg("%s_%s: %s", m->file, m->sig, m->why);
        if (!ptx_load(sc_device_get(0), m->ptx, m->why, sizeof(m->why), &m->module))
            fail_msg("%s_%s: %s", m->file, m->sig, m->why);
        for (int32_t r = 0; r < n_rows; ++r)
            if (strcmp(rows[r].file, m->file) == 0 && strcmp(rows[r].sig, m->sig) == 0)
                ptx_fn[r] = ptx_function_get(m->module, rows[r].name);
    }
    return true;
}

void twin_stop(void)
{
    for (int32_t i = 0; i < n_modules; ++i) {
        ptx_unload(modules[i].module);
        free(modules[i].ptx);
    }
}

const twin_row *twin_rows(int32_t *out_n)
{
    *out_n = n_rows;
    return rows;
}

/* ---- buffers ---- */

/* Bytes that overlapping buffers of a launch cover together, with a copy for each side. */
typedef struct piece {
    uint8_t *begin, *end, *host;
    uint64_t address; /* of the PTX side's allocation; the data begins `ahead` bytes into it */
    int64_t ahead;
} piece;
typedef struct pieces {
    piece at[IV_MAX_BUFS];
    int32_t n;
} pieces;

static void add_piece(pieces *p, uint8_t *begin, int64_t bytes)
{
    piece new = {.begin = begin, .end = begin + bytes};
    for (int32_t i = 0; i < p->n;) {
        if (p->at[i].begin >= new.end || new.begin >= p->at[i].end) {
            ++i;
            continue;
        }
        if (p->at[i].begin < new.begin) new.begin = p->at[i].begin;
        if (p->at[i].end > new.end) new.end = p->at[i].end;
        p->at[i] = p->at[--p->n];
        i = 0;
    }
    p->at[p->n++] = new;
}

static void copy_pieces(pieces *p, const iv_launch *l)
{
    p->n = 0;
    for (int32_t k = 0; k < l->n_bufs; ++k)
        if (l->buf[k].mem && l->buf[k].bytes > 0)
            add_piece(p, iv__cpu_ptr(l->buf[k]), l->buf[k].bytes);
    for (int32_t i = 0; i < p->n; ++i) {
        piece *c = &p->at[i];
        const size_t bytes = (size_t)(c->end - c->begin);
        c->ahead = (int64_t)((uintptr_t)c->begin % 256); /* the same alignment */
        c->host = malloc(bytes);
        if (!c->host || sc_mem_alloc(sc_device_get(0), (int64_t)bytes + c->ahead, SC_MEM_DEVICE,
                                     "twin", &c->address) != SC_OK)
            fail_msg("no memory for a twin");
        memcpy(c->host, c->begin, bytes);
        memcpy((char *)sc_mem_alias(c->address) + c->ahead, c->begin, bytes);
    }
}

static void free_pieces(pieces *p)
{
    for (int32_t i = 0; i < p->n; ++i) {
        free(p->at[i].host);
        sc_mem_free(p->at[i].address, SC_MEM_DEVICE, "twin");
    }
}

/* The parameters as a GPU backend passes them, 8 pointers and the block; buf: for the host's
 * instance, whose offsets are in the pointers. */
static void set_params(const pieces *p, const iv_launch *l, char *out, uint8_t **buf, cpu_params *h)
{
    uint64_t pointer[IV_MAX_BUFS] = {0};
    *h = (cpu_params){.off = {0}};
    memcpy(h->n, l->n, sizeof(h->n));
    memcpy(h->d, l->f, sizeof(h->d));
    for (int32_t i = 0; i < IV_KERNEL_FLOATS; ++i) h->f[i] = (float)l->f[i];
    cpu_params block = *h;
    for (int32_t k = 0; k < IV_MAX_BUFS; ++k) {
        uint8_t *at = k < l->n_bufs ? iv__cpu_ptr(l->buf[k]) : NULL;
        buf[k] = NULL;
        for (int32_t i = 0; i < p->n && at; ++i) {
            const piece *c = &p->at[i];
            if (at < c->begin || at >= c->end) continue;
            buf[k] = c->host + (at - c->begin);
            pointer[k] = c->address + (uint64_t)c->ahead;
            block.off[k] = at - c->begin;
        }
    }
    memcpy(out, pointer, sizeof(pointer));
    memcpy(out + sizeof(pointer), &block, sizeof(block));
}

/* Is the element of `bytes` around byte i a NaN in both?  Any NaN is as good as any other.
 * mantissa: bits of it in that type. */
static bool both_nan(const uint8_t *x, const uint8_t *y, int64_t i, int64_t n, int bytes,
                     int mantissa)
{
    const int64_t at = i / bytes * bytes;
    const uint64_t all = ~(uint64_t)0 >> (65 - 8 * bytes), inf = all >> mantissa << mantissa;
    uint64_t u = 0, v = 0;
    if (at + bytes > n) return false;
    memcpy(&u, x + at, (size_t)bytes);
    memcpy(&v, y + at, (size_t)bytes);
    return (u & all) > inf && (v & all) > inf;
}

static void compare_piece(const piece *c, const twin_row *row, const iv_launch *l)
{
    const uint8_t *x = (const uint8_t *)sc_mem_alias(c->address) + c->ahead, *y = c->host;
    const int64_t n = c->end - c->begin;
    if (memcmp(x, y, (size_t)n) == 0) return;
    for (int64_t b = 0; b < n; ++b) {
        if (x[b] == y[b] || both_nan(x, y, b, n, 4, 23) || both_nan(x, y, b, n, 8, 52) ||
            both_nan(x, y, b, n, 2, 10) || both_nan(x, y, b, n, 2, 7))
            continue;
        for (int32_t j = 0; j < l->n_bufs; ++j) {
            const int64_t at = c->begin + b - (uint8_t *)iv__cpu_ptr(l->buf[j]);
            if (l->buf[j].mem && at >= 0 && at < l->buf[j].bytes)
                print_error("buffer %d, byte %lld\n", j, (long long)at);
        }
        fail_msg("%s_%s on %lld groups: a byte is %d as PTX, %d on the host", row->name, row->sig,
                 (long long)l->groups, x[b], y[b]);
    }
}

/* Not yet checked for reads of shared memory that nobody wrote: the product of bf16 tiles looks at
 * the padding of its tiles too when it decides on the chain that flushes (the bits do not depend on
 * it). */
static bool reads_padding(const twin_row *row)
{
    return row->sig[0] == 'b' &&
           (strcmp(row->file, "matmul") == 0 || strcmp(row->file, "conv") == 0 ||
            strcmp(row->file, "attention") == 0);
}

/* Both instances of a row on copies of the launch's buffers. */
static void compare_row(int32_t r, const iv_launch *l)
{
    char params[PARAMS], text[512];
    uint8_t *buf[IV_MAX_BUFS];
    cpu_params block;
    pieces p;
    copy_pieces(&p, l);
    set_params(&p, l, params, buf, &block);
    const sc_check check = reads_padding(&rows[r]) ? SC_CHECK_NONE : SC_CHECK_SOME;
    const ptx_launch launch = {{(uint32_t)l->groups, 1, 1}, {64, 1, 1}, 0, params, check, 0};
    if (ptx_run(ptx_fn[r], &launch, NULL, text, sizeof(text)) != SC_OK)
        fail_msg("%s_%s on %lld groups: %s", rows[r].name, rows[r].sig, (long long)l->groups, text);
    host_fn[r](buf, &block, 0, l->groups);
    for (int32_t i = 0; i < p.n; ++i) compare_piece(&p.at[i], &rows[r], l);
    free_pieces(&p);
    ++rows[r].launches;
}

/* ---- the device ---- */

typedef struct twin_kernel {
    void *inner;
    int32_t row; /* -1: an element program */
} twin_kernel;
static const iv_backend *host_table;
static iv_backend twin_table;

static iv_status twin_build(void *dev, const iv_kernel_src *src, void **out_kernel)
{
    twin_kernel *k = calloc(1, sizeof(*k));
    if (!k) return IV_NO_MEMORY;
    const iv_status s = host_table->kernel_build(dev, src, &k->inner);
    if (s != IV_OK) {
        free(k);
        return s;
    }
    *out_kernel = k;
    k->row = -1;
    for (int32_t i = 0; i < n_rows && !src->program; ++i)
        if (strcmp(rows[i].file, src->file) == 0 && strcmp(rows[i].name, src->name) == 0 &&
            strcmp(rows[i].sig, src->sig) == 0)
            k->row = i;
    if (k->row < 0 && !src->program) fail_msg("%s_%s is not in kernels.def", src->name, src->sig);
    return IV_OK;
}

static void twin_free(void *dev, void *kernel)
{
    twin_kernel *k = kernel;
    if (k) host_table->kernel_free(dev, k->inner);
    free(k);
}

/* Instances that the runtime seldom asks for get the launches of the f32 instance too: their
 * elements are no larger, and any bits will do. */
static void compare_relatives(int32_t r, const iv_launch *l)
{
    if (strcmp(rows[r].sig, "ff") != 0) return;
    for (int32_t i = 0; i < n_rows; ++i)
        if (rows[i].launches < 2 && !strchr(rows[i].sig, 'd') &&
            strcmp(rows[i].file, rows[r].file) == 0 && strcmp(rows[i].name, rows[r].name) == 0)
            compare_row(i, l);
}

static iv_status twin_launch(void *q, void *kernel, const iv_launch *l)
{
    const twin_kernel *k = kernel;
    if (k->row >= 0 && l->groups > 0) {
        compare_row(k->row, l);
        compare_relatives(k->row, l);
    }
    return host_table->launch(q, k->inner, l);
}

void twin_device(iv__device *d)
{
    host_table = d->vt;
    twin_table = *d->vt;
    twin_table.kernel_build = twin_build;
    twin_table.kernel_free = twin_free;
    twin_table.launch = twin_launch;
    d->vt = &twin_table;
}

/* ---- report ---- */

void twin_forget(void)
{
    for (int32_t r = 0; r < n_rows; ++r) ptx_function_forget(ptx_fn[r]);
}

static void print_line(void *ctx, const char *line)
{
    print_message("%s %s\n", (const char *)ctx, line);
}

void twin_report(void)
{
    char name[64];
    for (int32_t i = 0; i < n_modules; ++i) {
        snprintf(name, sizeof(name), "%s", modules[i].sig);
        ptx_report(modules[i].module, print_line, name);
    }
}

bool twin_access(int32_t row, twin_totals *out)
{
    ptx_counts c;
    *out = (twin_totals){.worst = 1};
    for (int32_t k = 0; ptx_function_counts(ptx_fn[row], k, &c); ++k) {
        if (!c.shared) out->sectors += c.units;
        if (!c.shared) out->ideal += c.ideal;
        if (c.worst > out->worst) out->worst = c.worst;
    }
    return out->ideal > 0;
}
