/* conv_impl.c: `conv2d`, `conv2d_dgrad` and `conv2d_wgrad` by the canonical GEMM (gemm.h):
 * invariant.
 *
 * The chain of an output element is a row of one matrix times a column of another, in the order of
 * the contract:
 *
 *     y  [O/G, pixels] = w  [O/G, k]  * b  [k, pixels]   k = (channel of the group, row, column)
 *     dx [C/G, pixels] = w' [C/G, k]  * b  [k, pixels]   k = (output of the group, row, column)
 *     dw [O/G, q]      = dy [O/G, k]  * b' [k, q]        k = (sample, output row, column), grains
 *
 * b is never written.  In an image with a frame of zeros (x with its padding; for dx: dy spread to
 * the strides, with a margin of a kernel) element (k, pixel) lies at a sum of two offsets, one of k
 * and one of the pixel, and both come in runs: iv__gemm_runs.  So packing a panel reads the image,
 * and so it does with the weights and with dy, whatever their order.
 *
 * y and dx: the output is cut into bands of rows of one sample; a thread frames what a band reads,
 * which stays in its cache, and multiplies.  dw: the chain goes through all samples, so all of x is
 * framed first.  An image that needs no frame is read where it is.
 *
 * Not here: weight gradients so large that the framed x would need more than MAX_SCRATCH: the
 * portable kernel takes those.
 */
#include "cpu.h"
#include "gemm.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

enum { A_STRIDE = 0, A_PAD = 2, A_GROUPS = 4 }; /* of attr: runtime/graph.h */
enum {
    BAND_BYTES = 256 << 10, /* of a band's frame: half of a second-level cache */
    BAND_PIXELS = 384,      /* but not fewer than pay for packing the weights */
    MAX_SCRATCH = 512 << 20,
    ALIGN = 64
};

typedef enum conv_kind { FORWARD, DGRAD, WGRAD } conv_kind;

/* Along one axis: element i of the source lies at i * step - first in the frame, which has `size`
 * places (bands: at most; `first` is that of band 0). */
typedef struct frame_axis {
    int64_t n, step, first, size;
} frame_axis;

typedef struct conv {
    conv_kind kind;
    int64_t n, c, h, w, o, kh, kw, oh, ow, groups;
    int64_t stride[2], pad[2];
    int64_t in_bytes, out_bytes; /* of an element */
    frame_axis rows, cols;
    bool direct;           /* no frame */
    int64_t pitch, plane;  /* elements of a row and of a plane that b is read from */
    int64_t channels;      /* planes of a sample */
    int64_t band, n_bands; /* y, dx: rows of the output in a band */
    int64_t frame_bytes;   /* of one thread; dw: of all */
    int64_t gemm_bytes;    /* of one thread */
    int level, threads;
    bool bias;
    iv__gemm g; /* for a whole band */
    /* of the running call: */
    const uint8_t *image, *other; /* what b and a are read from */
    uint8_t *out, *frames, *gemm_scratch;
    const void *bias_data;
    int32_t tables[]; /* of the runs: b's k, b's columns, a's k */
} conv;

static int64_t i64_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t i64_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t div_up(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static int64_t aligned(int64_t bytes)
{
    return div_up(bytes, ALIGN) * ALIGN;
}

/* ---- frames ---- */

/* Elements [src, src + count) of the source go to dst, dst + step, ... */
typedef struct span {
    int64_t dst, src, count;
} span;

static span span_of(frame_axis a, int64_t first, int64_t size)
{
    int64_t src = first > 0 ? div_up(first, a.step) : 0, last = first + size - 1;
    int64_t end = last < 0 ? 0 : i64_min(last / a.step + 1, a.n);
    return (span){src * a.step - first, src, i64_max(end - src, 0)};
}

#define SPREAD(T)                                                                                  \
    for (int64_t i = 0; i < n; ++i) ((T *)dst)[i * step] = ((const T *)src)[i];
static void spread(void *dst, const void *src, int64_t n, int64_t step, int64_t bytes)
{
    if (step == 1) memcpy(dst, src, (size_t)(n * bytes));
    else if (bytes == 2) SPREAD(uint16_t)
    else if (bytes == 4) SPREAD(uint32_t)
    else SPREAD(uint64_t)
}

/* `rows` rows of a plane's frame, of which the first is number `skip` of the whole. */
static void frame_plane(const conv *c, uint8_t *dst, const uint8_t *src, int64_t skip, int64_t rows)
{
    int64_t e = c->in_bytes;
    span y = span_of(c->rows, c->rows.first + skip, rows),
         x = span_of(c->cols, c->cols.first, c->cols.size);
    memset(dst, 0, (size_t)(rows * c->pitch * e));
    for (int64_t r = 0; r < y.count; ++r)
        spread(dst + ((y.dst + r * c->rows.step) * c->pitch + x.dst) * e,
               src + ((y.src + r) * c->cols.n + x.src) * e, x.count, c->cols.step, e);
}

/* Frames of planes [begin, end) of all samples. */
static void frames_run(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const conv *c = arg;
    for (int64_t i = begin; i < end; ++i)
        frame_plane(c, c->frames + i * c->plane * c->in_bytes,
                    c->image + i * c->rows.n * c->cols.n * c->in_bytes, 0, c->rows.size);
}

static void plan_frame(conv *c, int64_t band)
{
    const int64_t kernel[2] = {c->kh, c->kw}, out[2] = {band, c->kind == DGRAD ? c->w : c->ow};
    const int64_t x[2] = {c->h, c->w}, y[2] = {c->oh, c->ow};
    frame_axis *axis[2] = {&c->rows, &c->cols};
    c->direct = true;
    for (int i = 0; i < 2; ++i) {
        int64_t s = c->stride[i], margin = kernel[i] - 1;
        if (c->kind == DGRAD) *axis[i] = (frame_axis){y[i], s, c->pad[i] - margin, out[i] + margin};
        else *axis[i] = (frame_axis){x[i], 1, -c->pad[i], (out[i] - 1) * s + kernel[i]};
        c->direct &= axis[i]->first == 0 && axis[i]->step == 1;
    }
    c->pitch = c->direct ? c->cols.n : c->cols.size;
    c->plane = (c->direct ? c->rows.n : c->rows.size) * c->pitch;
    c->channels = c->kind == DGRAD ? c->o : c->c;
}

/* ---- runs ---- */

/* Adds a table of n x m runs: [i][j] at i * outer + j * inner + first. */
static iv__gemm_runs runs(int32_t **at, int64_t n, int64_t outer, int64_t m, int64_t inner,
                          int64_t first, int64_t run)
{
    iv__gemm_runs r = {*at, run};
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < m; ++j) *(*at)++ = (int32_t)(i * outer + j * inner + first);
    return r;
}

/* Places of the kernel come in runs of a kernel row, pixels in runs of an output row.  dx: place
 * (0, 0) meets what lies a kernel below and to the right. */
static void fill_tables(conv *c)
{
    iv__gemm *g = &c->g;
    int64_t og = c->o / c->groups, cg = c->c / c->groups, kernel = c->kh * c->kw;
    int64_t step = c->stride[0] * c->pitch;
    int32_t *at = c->tables;
    if (c->kind == FORWARD) {
        g->b_k = runs(&at, cg, c->plane, c->kh, c->pitch, 0, c->kw);
        g->b_n = runs(&at, 1, 0, c->band, step, 0, c->ow);
    } else if (c->kind == DGRAD) {
        int64_t last = (c->kh - 1) * c->pitch + c->kw - 1;
        g->b_k = runs(&at, og, c->plane, c->kh, -c->pitch, last, c->kw);
        g->b_n = runs(&at, 1, 0, c->band, c->pitch, 0, c->w);
        g->a_k = runs(&at, og, cg * kernel, 1, 0, 0, kernel);
    } else {
        g->b_k = runs(&at, c->n, c->c * c->plane, c->oh, step, 0, c->ow);
        g->b_n = runs(&at, cg, c->plane, c->kh, c->pitch, 0, c->kw);
        g->a_k = runs(&at, c->n, c->o * c->oh * c->ow, 1, 0, 0, c->oh * c->ow);
    }
}

/* Entries of the tables; bounds for each kind. */
static int64_t table_size(const conv *c)
{
    return c->channels * c->kh + c->h + c->oh + c->o + (c->kind == WGRAD ? c->n * (c->oh + 1) : 0);
}

/* ---- y and dx: bands ---- */

/* Adds the bias of output channel `row` of group `batch` to finished sums. */
static void add_bias(void *ctx, void *acc, int64_t batch, int64_t row0, int64_t rows, int64_t col0,
                     int64_t cols, int64_t ld)
{
    (void)col0;
    const conv *c = ctx;
    int64_t o = batch * (c->o / c->groups) + row0;
    for (int64_t r = 0; r < rows; ++r, ++o)
        if (c->g.in == IV__GEMM_F64) {
            double *x = (double *)acc + r * ld, b = ((const double *)c->bias_data)[o];
            for (int64_t i = 0; i < cols; ++i) x[i] += b;
        } else {
            float *x = (float *)acc + r * ld, b = ((const float *)c->bias_data)[o];
            for (int64_t i = 0; i < cols; ++i) x[i] += b;
        }
}

static void bands_run(void *arg, int64_t begin, int64_t end, int thread)
{
    conv *c = arg;
    bool back = c->kind == DGRAD;
    int64_t width = back ? c->w : c->ow, height = back ? c->h : c->oh, e = c->in_bytes;
    int64_t step = back ? 1 : c->stride[0], margin = c->rows.size - (c->band - 1) * step;
    uint8_t *frame = c->frames + thread * c->frame_bytes;
    iv__gemm g = c->g;
    for (int64_t i = begin; i < end; ++i) {
        int64_t sample = i / c->n_bands, y0 = i % c->n_bands * c->band,
                y1 = i64_min(y0 + c->band, height), n_src = c->rows.n * c->cols.n;
        const uint8_t *image = c->image + sample * c->channels * n_src * e, *b = frame;
        if (c->direct) b = image + y0 * step * c->pitch * e;
        for (int64_t p = 0; !c->direct && p < c->channels; ++p)
            frame_plane(c, frame + p * c->plane * e, image + p * n_src * e, y0 * step,
                        (y1 - y0 - 1) * step + margin);
        g.n = (y1 - y0) * width;
        uint8_t *out = c->out + (sample * g.batch * g.c_bs + y0 * width) * c->out_bytes;
        /* In a loop of the team the product runs on this thread.  (A single band is no loop: then
         * the product has the team and all of the scratch.) */
        iv__gemm_run(&g, c->level, c->other, b, out, c->gemm_scratch + thread * c->gemm_bytes);
    }
}

/* Cuts the output into bands. */
static void plan_bands(conv *c)
{
    bool back = c->kind == DGRAD;
    int64_t width = back ? c->w : c->ow, height = back ? c->h : c->oh;
    plan_frame(c, height);
    int64_t row = c->channels * c->pitch * (back ? 1 : c->stride[0]) * c->in_bytes;
    int64_t most = i64_max(BAND_BYTES / row, div_up(BAND_PIXELS, width));
    c->n_bands = i64_max(div_up(height, most), div_up(c->threads, i64_max(c->n, 1)));
    c->band = div_up(height, i64_min(c->n_bands, height));
    c->n_bands = div_up(height, c->band);
    plan_frame(c, c->band);
    c->frame_bytes = c->direct ? 0 : aligned(c->channels * c->plane * c->in_bytes);
    int64_t og = c->o / c->groups, cg = c->c / c->groups, kernel = c->kh * c->kw;
    iv__gemm *g = &c->g;
    g->m = back ? cg : og;
    g->k = (back ? og : cg) * kernel;
    g->n = c->band * width;
    g->a_rs = back ? kernel : g->k;
    g->a_cs = 1;
    g->a_bs = g->m * g->k;
    g->b_rs = back ? -1 : 1;
    g->b_cs = back ? 1 : c->stride[1];
    g->b_bs = c->channels / c->groups * c->plane;
    g->c_rs = height * width;
    g->c_bs = g->m * g->c_rs;
}

/* ---- dw ---- */

static void plan_wgrad(conv *c)
{
    iv__gemm *g = &c->g;
    int64_t og = c->o / c->groups, cg = c->c / c->groups;
    plan_frame(c, c->oh);
    c->frame_bytes = c->direct ? 0 : aligned(c->n * c->c * c->plane * c->in_bytes);
    g->m = og;
    g->n = cg * c->kh * c->kw;
    g->k = c->n * c->oh * c->ow;
    g->a_rs = c->oh * c->ow;
    g->a_cs = 1;
    g->a_bs = og * g->a_rs;
    g->b_rs = c->stride[1];
    g->b_cs = 1;
    g->b_bs = cg * c->plane;
    g->c_rs = g->n;
    g->c_bs = og * g->n;
}

/* ---- the implementations ---- */

static void set_sizes(conv *c, const iv_op_desc *d)
{
    const iv_tensor_desc *of[3][3] = {/* x, w, y */
                                      [FORWARD] = {&d->in[0], &d->in[1], &d->out[0]},
                                      [DGRAD] = {&d->out[0], &d->in[1], &d->in[0]},
                                      [WGRAD] = {&d->in[1], &d->out[0], &d->in[0]}};
    const int64_t *x = of[c->kind][0]->shape.dim, *w = of[c->kind][1]->shape.dim,
                  *y = of[c->kind][2]->shape.dim;
    c->n = x[0], c->c = x[1], c->h = x[2], c->w = x[3];
    c->o = w[0], c->kh = w[2], c->kw = w[3];
    c->oh = y[2], c->ow = y[3];
    c->groups = d->attr[A_GROUPS];
    for (int i = 0; i < 2; ++i) {
        c->stride[i] = d->attr[A_STRIDE + i];
        c->pad[i] = d->attr[A_PAD + i];
    }
}

static iv_status check_types(const cpu_device *cpu, const iv_op_desc *d)
{
    iv_dtype in = d->in[0].dtype, out = d->out[0].dtype;
    if (in != d->in[1].dtype || iv__cpu_type(in) < 0 || iv__cpu_type(out) < 0 ||
        (in == IV_F64) != (out == IV_F64))
        return cpu->host->fail(IV_UNSUPPORTED, "types %s, %s to %s", iv_dtype_name(in),
                               iv_dtype_name(d->in[1].dtype), iv_dtype_name(out));
    iv_dtype full = in == IV_F64 ? IV_F64 : IV_F32;
    if (d->n_in == 3 && d->in[2].dtype != full)
        return cpu->host->fail(IV_UNSUPPORTED, "bias of %s, needs %s",
                               iv_dtype_name(d->in[2].dtype), iv_dtype_name(full));
    for (int32_t i = 0; i < d->n_in; ++i)
        if (!iv__cpu_contiguous(&d->in[i]))
            return cpu->host->fail(IV_UNSUPPORTED, "input %d is not contiguous", i);
    return IV_OK;
}

static conv_kind kind_of(const char *op)
{
    return strcmp(op, "conv2d") == 0 ? FORWARD : strcmp(op, "conv2d_dgrad") == 0 ? DGRAD : WGRAD;
}

/* Sizes and cutting, without looking at types; returns the scratch in bytes. */
static int64_t plan_conv(conv *c, const cpu_device *cpu, const iv_op_desc *d)
{
    *c = (conv){.kind = kind_of(d->op), .level = cpu->level, .threads = cpu->threads};
    set_sizes(c, d);
    c->in_bytes = (int64_t)iv_dtype_bytes(d->in[0].dtype);
    c->out_bytes = (int64_t)iv_dtype_bytes(d->out[0].dtype);
    c->g.in = (iv__gemm_type)iv__cpu_type(d->in[0].dtype);
    c->g.out = (iv__gemm_type)iv__cpu_type(d->out[0].dtype);
    c->g.batch = c->groups;
    c->g.segments = c->kind == WGRAD ? d->segments : 1;
    c->bias = d->n_in == 3;
    if (c->kind == WGRAD) plan_wgrad(c);
    else plan_bands(c);
    c->gemm_bytes = aligned((int64_t)iv__gemm_scratch(&c->g, 1));
    return c->frame_bytes * (c->kind == WGRAD ? 1 : c->threads) + c->gemm_bytes * c->threads;
}

/* Whether offsets of all elements fit the tables: dw counts through all samples. */
static bool fits_tables(const conv *c)
{
    int64_t n = c->kind == WGRAD ? c->n : 1;
    return n * c->channels * c->plane <= INT32_MAX && n * c->o * c->oh * c->ow <= INT32_MAX &&
           c->o * (c->c / c->groups) * c->kh * c->kw <= INT32_MAX;
}

static iv_status conv_accepts(void *dev, const iv_op_desc *d)
{
    const cpu_device *cpu = dev;
    conv c;
    iv_status s = check_types(cpu, d);
    if (s != IV_OK) return s;
    int64_t scratch = plan_conv(&c, cpu, d);
    if (scratch > MAX_SCRATCH)
        return cpu->host->fail(IV_UNSUPPORTED, "needs %lld MiB of scratch, %d at most",
                               (long long)(scratch >> 20), MAX_SCRATCH >> 20);
    if (!fits_tables(&c))
        return cpu->host->fail(IV_UNSUPPORTED, "more than %d elements", INT32_MAX);
    if (c.n % c.g.segments != 0)
        return cpu->host->fail(IV_UNSUPPORTED, "%lld samples in %lld grains", (long long)c.n,
                               (long long)c.g.segments);
    return IV_OK;
}

static iv_status conv_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                              int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    conv sizes;
    *out_scratch = plan_conv(&sizes, cpu, d);
    conv *c = malloc(sizeof(*c) + (size_t)table_size(&sizes) * sizeof(*c->tables));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a convolution");
    *c = sizes;
    fill_tables(c);
    if (c->bias) {
        c->g.epilogue = add_bias;
        c->g.epilogue_ctx = c;
    }
    *out_prepared = c;
    return IV_OK;
}

static iv_status conv_run(void *queue, void *prepared, const iv_buffer *io)
{
    (void)queue;
    conv *c = prepared;
    int n_in = 2 + c->bias, image = c->kind == WGRAD;
    c->image = iv__cpu_ptr(io[image]);
    c->other = iv__cpu_ptr(io[1 - image]);
    c->bias_data = c->bias ? iv__cpu_ptr(io[2]) : NULL;
    c->out = iv__cpu_ptr(io[n_in]);
    c->frames = iv__cpu_ptr(io[n_in + 1]);
    c->gemm_scratch = c->frames + c->frame_bytes * (c->kind == WGRAD ? 1 : c->threads);
    if (c->kind != WGRAD) {
        iv__team_for(c->n * c->n_bands, 1, bands_run, c);
        return IV_OK;
    }
    if (!c->direct) iv__team_for(c->n * c->c, 1, frames_run, c);
    iv__gemm_run(&c->g, c->level, c->other, c->direct ? c->image : c->frames, c->out,
                 c->gemm_scratch);
    return IV_OK;
}

#define CONV_IMPL(id)                                                                              \
    {                                                                                              \
        .name = "cpu." #id, .op = #id, .invariant = true, .accepts = conv_accepts,                 \
        .prepare = conv_prepare, .unprepare = free, .run = conv_run                                \
    }
static const iv_impl impls[] = {CONV_IMPL(conv2d), CONV_IMPL(conv2d_dgrad),
                                CONV_IMPL(conv2d_wgrad)};
const iv_impl *const iv__cpu_conv_impls[] = {&impls[0], &impls[1], &impls[2], NULL};
