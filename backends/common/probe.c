/* probe.c: does the device round as the numerics contract wants?  (see common.h)
 *
 * Drivers announce their rounding, and not always rightly.  So kernels/probe.k does each basic
 * operation on 4096 triples of numbers, half of moderate size, half random bits (with denormals,
 * infinities and NaN among them), in f32 and, where the device has it, f64; the host does the same,
 * and every bit counts (any NaN is as good as another).  The last operation is a product and a sum
 * that must not fuse. */
#include "common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIPLES = 4096, OPS = 6, DENORMALS = OPS, FINDINGS };
static const struct {
    const char *text;
    uint8_t kind;
} findings[FINDINGS] = {
    {"additions inexact", IV_INEXACT_BASIC},     {"products inexact", IV_INEXACT_BASIC},
    {"fma inexact", IV_INEXACT_BASIC},           {"divisions inexact", IV_INEXACT_DIVISION},
    {"square roots inexact", IV_INEXACT_ROOT},   {"a * b + c fuses", IV_INEXACT_BASIC},
    {"denormals are flushed", IV_INEXACT_BASIC},
};

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = *state;
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    return x ^ x >> 29;
}

static void inputs_f32(float *x)
{
    uint64_t state = 1;
    for (int i = 0; i < 3 * TRIPLES; ++i) {
        const uint32_t r = (uint32_t)next(&state);
        const uint32_t moderate = (r & 0x807fffffu) | ((120u + (r >> 23) % 16u) << 23);
        memcpy(&x[i], i < 3 * TRIPLES / 2 ? &moderate : &r, sizeof(r));
    }
    for (int i = 0; i < 900; ++i) { /* plenty of denormals, alone and with others */
        const uint32_t r = (uint32_t)next(&state) & 0x80ffffffu;
        memcpy(&x[i < 300 ? 7 * i : 6144 + i], &r, sizeof(r));
    }
}

static void inputs_f64(double *x)
{
    uint64_t state = 2;
    for (int i = 0; i < 3 * TRIPLES; ++i) {
        const uint64_t r = next(&state);
        const uint64_t moderate = (r & 0x800fffffffffffffu) | ((1016u + (r >> 52) % 16u) << 52);
        memcpy(&x[i], i < 3 * TRIPLES / 2 ? &moderate : &r, sizeof(r));
    }
    for (int i = 0; i < 900; ++i) {
        const uint64_t r = next(&state) & 0x801fffffffffffffu;
        memcpy(&x[i < 300 ? 7 * i : 6144 + i], &r, sizeof(r));
    }
}

static void expect_f32(const float *x, float *y)
{
    for (int i = 0; i < TRIPLES; ++i, x += 3, y += OPS) {
        const float product = x[0] * x[1];
        y[0] = x[0] + x[1];
        y[1] = product;
        y[2] = fmaf(x[0], x[1], x[2]);
        y[3] = x[0] / x[1];
        y[4] = sqrtf(x[0]);
        y[5] = product + x[2];
    }
}

static void expect_f64(const double *x, double *y)
{
    for (int i = 0; i < TRIPLES; ++i, x += 3, y += OPS) {
        const double product = x[0] * x[1];
        y[0] = x[0] + x[1];
        y[1] = product;
        y[2] = fma(x[0], x[1], x[2]);
        y[3] = x[0] / x[1];
        y[4] = sqrt(x[0]);
        y[5] = product + x[2];
    }
}

static double number(const char *at, size_t size)
{
    float f;
    double d;
    memcpy(&f, at, sizeof(f));
    if (size == sizeof(d)) memcpy(&d, at, sizeof(d));
    return size == sizeof(d) ? d : (double)f;
}

static bool is_denormal(double x, size_t size)
{
    return x != 0 && fabs(x) < (size == 8 ? 0x1p-1022 : 0x1p-126);
}

/* Results that differ, counted per operation.  If an operation goes wrong only where a denormal
 * goes in or should come out, then denormals are flushed.  x: triples of elements of `size` bytes.
 */
static void compare(const char *x, const char *have, const char *want, size_t size,
                    int wrong[FINDINGS])
{
    int small[OPS] = {0};
    for (size_t i = 0; i < (size_t)TRIPLES * OPS; ++i) {
        const double h = number(have + i * size, size), w = number(want + i * size, size);
        bool denormal = is_denormal(w, size);
        if (memcmp(have + i * size, want + i * size, size) == 0 || (isnan(h) && isnan(w))) continue;
        for (size_t k = 0; k < 3; ++k)
            denormal |= is_denormal(number(x + (i / OPS * 3 + k) * size, size), size);
        ++(denormal ? small : wrong)[i % OPS];
    }
    for (int i = 0; i < OPS; ++i)
        if (!wrong[i]) wrong[DENORMALS] += small[i];
}

typedef struct target {
    const iv_host *host;
    const iv_backend *vt;
    void *dev;
} target;

/* Runs `kernel` on x (in_bytes) and gets y (out_bytes). */
static iv_status run(const target *t, void *kernel, const void *x, int64_t in_bytes, void *y,
                     int64_t out_bytes)
{
    const iv_backend *vt = t->vt;
    void *q = NULL, *in = NULL, *out = NULL;
    iv_status s = vt->queue_open(t->dev, IV_QUEUE_COMPUTE, &q);
    if (s == IV_OK) s = vt->mem_alloc(t->dev, in_bytes, IV_MEM_DEVICE, &in);
    if (s == IV_OK) s = vt->mem_alloc(t->dev, out_bytes, IV_MEM_DEVICE, &out);
    if (s == IV_OK) s = vt->write(q, (iv_buffer){in, 0, in_bytes}, x);
    if (s == IV_OK) {
        const iv_launch l = {.buf = {{in, 0, in_bytes}, {out, 0, out_bytes}},
                             .n_bufs = 2,
                             .groups = 1,
                             .n = {TRIPLES}};
        s = vt->launch(q, kernel, &l);
    }
    if (s == IV_OK) s = vt->read(q, y, (iv_buffer){out, 0, out_bytes});
    if (s == IV_OK) s = vt->sync(q);
    vt->queue_close(q);
    vt->mem_free(t->dev, out);
    vt->mem_free(t->dev, in);
    return s;
}

static iv_status probe_type(const target *t, bool f64, int wrong[FINDINGS])
{
    const size_t size = f64 ? 8 : 4;
    const int64_t in = 3 * TRIPLES * (int64_t)size, out = OPS * TRIPLES * (int64_t)size;
    const iv_kernel_src src = {.file = "probe", .name = "probe", .sig = f64 ? "dd" : "ff"};
    void *kernel = NULL;
    iv_status s = t->vt->kernel_build(t->dev, &src, &kernel);
    if (s != IV_OK) return s;
    char *memory = calloc(1, (size_t)(in + 2 * out));
    if (memory) {
        char *have = memory + in, *want = have + out;
        f64 ? inputs_f64((double *)(void *)memory) : inputs_f32((float *)(void *)memory);
        f64 ? expect_f64((double *)(void *)memory, (double *)(void *)want)
            : expect_f32((float *)(void *)memory, (float *)(void *)want);
        s = run(t, kernel, memory, in, have, out);
        if (s == IV_OK) compare(memory, have, want, size, wrong);
    } else {
        s = t->host->fail(IV_NO_MEMORY, "probing a device");
    }
    free(memory);
    t->vt->kernel_free(t->dev, kernel);
    return s;
}

iv_status iv__probe(const iv_host *h, const iv_backend *vt, void *dev, bool has_f64,
                    uint8_t out_inexact[2], char *notes, size_t size)
{
    const target t = {h, vt, dev};
    size_t n = strlen(notes);
    out_inexact[0] = out_inexact[1] = 0;
    for (int f64 = 0; f64 <= (has_f64 ? 1 : 0); ++f64) {
        int wrong[FINDINGS] = {0};
        const iv_status s = probe_type(&t, f64 == 1, wrong);
        if (s != IV_OK) return s;
        for (int i = 0; i < FINDINGS; ++i) {
            if (wrong[i] == 0) continue;
            n += (size_t)snprintf(notes + n, size - n, "%s%s%s", n ? "; " : "",
                                  out_inexact[f64] ? ""
                                  : f64            ? "f64: "
                                                   : "f32: ",
                                  findings[i].text);
            if (n >= size) n = size - 1;
            out_inexact[f64] |= findings[i].kind;
        }
    }
    if (!out_inexact[0] && !out_inexact[1])
        snprintf(notes + n, size - n, "%srounds exactly, keeps denormals", n ? "; " : "");
    return IV_OK;
}
