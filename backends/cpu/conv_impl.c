/* conv_impl.c: `conv2d`, `conv2d_dgrad` and `conv2d_wgrad` by the canonical GEMM (gemm.h):
 * invariant.
 *
 * The operand that a kernel window reads is written out ("columns"), so that the chain of an output
 * element is a row of one matrix times a column of another, in the order of the contract:
 *
 *     y  [O/G, pixels] = w  [O/G, k]  * cols(x)  [k, pixels]   k = (channel of the group, row,
 * column) dx [C/G, pixels] = w' [C/G, k]  * cols(dy) [k, pixels]   k = (output of the group, row,
 * column) dw [O/G, q]      = dy [O/G, k]  * cols(x)' [k, q]        k = (sample, output row,
 * column), grains
 *
 * What lies in the padding, or between the strides, is zero in the columns.  Columns are gathered,
 * each element once; nothing is ever added up outside of the GEMM.
 *
 * y and dx: the output is cut into bands of rows of one sample; a thread gathers a band's columns,
 * which stay in its cache, and multiplies them.  dw: the chain goes through all samples of a grain,
 * so the columns of all samples are written, for a part of q (or some groups) at a time.
 *
 * Not here: 1x1 kernels without the copy, and weight gradients so large that the columns would need
 * more than MAX_SCRATCH: the portable kernel takes those.
 */
#include "cpu.h"
#include "gemm.h"
#include "team.h"

#include <stdlib.h>
#include <string.h>

enum { A_STRIDE = 0, A_PAD = 2, A_GROUPS = 4 }; /* of attr: runtime/graph.h */
enum {
    BAND_BYTES = 512 << 10, /* columns of a band: half of a second-level cache */
    BAND_PIXELS = 128,      /* but not fewer than pay for packing the weights */
    WGRAD_BYTES = 8 << 20,  /* columns of a part of q: a share of the third-level cache */
    WGRAD_COLUMNS = 32,     /* but not fewer than a tile of the GEMM is wide */
    MAX_SCRATCH = 512 << 20,
    ALIGN = 64
};

typedef enum conv_kind { FORWARD, DGRAD, WGRAD } conv_kind;

typedef struct conv {
    conv_kind kind;
    int64_t n, c, h, w, o, kh, kw, oh, ow, groups;
    int64_t stride[2], pad[2];
    int64_t in_bytes, out_bytes; /* of an element */
    int64_t band, n_bands;       /* y, dx: rows of the output in a band */
    int64_t part_q, part_groups; /* dw: columns and groups at a time */
    int64_t cols_bytes;          /* of one thread; dw: of all */
    int64_t turned_bytes;        /* reordered weights (dx) or dy (dw) */
    int64_t gemm_bytes;          /* of one thread */
    int level, threads;
    bool bias;
    iv__gemm g; /* for a whole band; dw: a whole part */
    /* of the running call: */
    const uint8_t *a, *b;
    uint8_t *out, *turned, *cols, *gemm_scratch;
    const void *bias_data;
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

/* ---- columns ---- */

/* Along one axis, which elements of the source (x; for dx: dy) one place of the kernel meets, and
 * where they go in the columns: dst + i dst_step takes src + i src_step, i < count.  The rest is
 * zero. */
typedef struct tap {
    int64_t dst, src, count, dst_step, src_step;
} tap;

static int64_t div_floor(int64_t a, int64_t b)
{
    return a >= 0 ? a / b : -div_up(-a, b);
}

/* Output i of the convolution meets position i * stride + kernel - pad of its input, of which there
 * are `size`.  Gathered are the outputs (dx: the positions) [first, end). */
static tap tap_at(const conv *c, int axis, int64_t kernel, int64_t first, int64_t end)
{
    bool back = c->kind == DGRAD;
    int64_t s = c->stride[axis], off = kernel - c->pad[axis], size = axis ? c->w : c->h,
            n_out = axis ? c->ow : c->oh;
    int64_t pos_first = back ? first : 0, pos_end = back ? end : size;
    int64_t i = i64_max(back ? 0 : first, -div_floor(off - pos_first, s));
    int64_t count = i64_min(back ? n_out : end, div_floor(pos_end - 1 - off, s) + 1) - i;
    tap t = {i - first, i * s + off, i64_max(count, 0), 1, s};
    return back ? (tap){t.src - first, i, t.count, s, 1} : t;
}

/* copy: element [r * row_step + i * step] of the source to that of the columns, for a tap of rows
 * and one of elements.  zero: n elements in each of `rows` rows. */
#define BY_TYPE(T, bits)                                                                           \
    static void copy_##bits(void *dst, int64_t dst_w, const void *src, int64_t src_w, tap y,       \
                            tap x)                                                                 \
    {                                                                                              \
        for (int64_t r = 0; r < y.count; ++r) {                                                    \
            T *d = (T *)dst + (y.dst + r * y.dst_step) * dst_w + x.dst;                            \
            const T *s = (const T *)src + (y.src + r * y.src_step) * src_w + x.src;                \
            if (x.count >= 16 && x.dst_step == 1 && x.src_step == 1) {                             \
                memcpy(d, s, (size_t)x.count * sizeof(T));                                         \
                continue;                                                                          \
            }                                                                                      \
            for (int64_t i = 0; i < x.count; ++i) d[i * x.dst_step] = s[i * x.src_step];           \
        }                                                                                          \
    }                                                                                              \
    static void zero_##bits(void *dst, int64_t rows, int64_t step, int64_t n)                      \
    {                                                                                              \
        for (int64_t r = 0; r < rows; ++r)                                                         \
            for (int64_t i = 0; i < n; ++i) ((T *)dst)[r * step + i] = 0;                          \
    }
BY_TYPE(uint16_t, 16)
BY_TYPE(uint32_t, 32)
BY_TYPE(uint64_t, 64)
static const struct {
    void (*copy)(void *dst, int64_t dst_w, const void *src, int64_t src_w, tap y, tap x);
    void (*zero)(void *dst, int64_t rows, int64_t step, int64_t n);
} by_bytes[9] = {[2] = {copy_16, zero_16}, [4] = {copy_32, zero_32}, [8] = {copy_64, zero_64}};

/* Steps of 1 and rows of equal width: all rows are one run; the gaps in it are then set to zero. */
static void gather_run(const conv *c, uint8_t *dst, const uint8_t *plane, int64_t rows, tap y,
                       tap x)
{
    int64_t e = c->in_bytes, w = c->w, gap = w - x.count;
    uint8_t *first = dst + (y.dst * w + x.dst) * e,
            *last = first + ((y.count - 1) * w + x.count) * e;
    memset(dst, 0, (size_t)(y.dst * w * e));
    by_bytes[e].zero(dst + y.dst * w * e, 1, 0, x.dst);
    memcpy(first, plane + (y.src * w + x.src) * e, (size_t)(last - first));
    by_bytes[e].zero(first + x.count * e, y.count - 1, w, gap);
    by_bytes[e].zero(last, 1, 0, gap - x.dst);
    int64_t below = (rows - y.dst - y.count) * w * e;
    memset(dst + rows * w * e - below, 0, (size_t)below);
}

/* Rows [y0, y1) of the columns' plane (of outputs; dx: of inputs) at one place of the kernel. */
static void gather(const conv *c, uint8_t *dst, const uint8_t *plane, int64_t place, int64_t y0,
                   int64_t y1)
{
    int64_t dst_w = c->kind == DGRAD ? c->w : c->ow, src_w = c->kind == DGRAD ? c->ow : c->w;
    tap y = tap_at(c, 0, place / c->kw, y0, y1), x = tap_at(c, 1, place % c->kw, 0, dst_w);
    bool run = dst_w == src_w && c->stride[0] == 1 && c->stride[1] == 1;
    if (run && y.count > 0 && x.count > 0) {
        gather_run(c, dst, plane, y1 - y0, y, x);
        return;
    }
    memset(dst, 0, (size_t)((y1 - y0) * dst_w * c->in_bytes));
    if (x.count > 0) by_bytes[c->in_bytes].copy(dst, dst_w, plane, src_w, y, x);
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

/* The columns of rows [y0, y1) of a sample: [groups, k, pixels]. */
static void band_gather(const conv *c, uint8_t *cols, int64_t sample, int64_t y0, int64_t y1)
{
    bool forward = c->kind == FORWARD;
    int64_t channels = forward ? c->c : c->o,
            plane = (forward ? c->h * c->w : c->oh * c->ow) * c->in_bytes;
    int64_t row = (y1 - y0) * (forward ? c->ow : c->w) * c->in_bytes;
    const uint8_t *src = c->a + sample * channels * plane;
    for (int64_t i = 0; i < channels; ++i)
        for (int64_t place = 0; place < c->kh * c->kw; ++place, cols += row)
            gather(c, cols, src + i * plane, place, y0, y1);
}

static void bands_run(void *arg, int64_t begin, int64_t end, int thread)
{
    conv *c = arg;
    int64_t width = c->kind == FORWARD ? c->ow : c->w, height = c->kind == FORWARD ? c->oh : c->h;
    uint8_t *cols = c->cols + thread * c->cols_bytes;
    iv__gemm g = c->g;
    for (int64_t i = begin; i < end; ++i) {
        int64_t sample = i / c->n_bands, y0 = i % c->n_bands * c->band,
                y1 = i64_min(y0 + c->band, height);
        band_gather(c, cols, sample, y0, y1);
        g.n = g.b_rs = (y1 - y0) * width;
        g.b_bs = g.k * g.n;
        uint8_t *out = c->out + (sample * g.batch * g.c_bs + y0 * width) * c->out_bytes;
        /* In a loop of the team the product runs on this thread.  (A single band is no loop: then
         * the product has the team and all of the scratch.) */
        iv__gemm_run(&g, c->level, c->kind == FORWARD ? c->b : c->turned, cols, out,
                     c->gemm_scratch + thread * c->gemm_bytes);
    }
}

/* Weights [O, C/G, kernel] to [G, C/G, O/G, kernel]. */
static void turn_weights(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const conv *c = arg;
    int64_t og = c->o / c->groups, cg = c->c / c->groups, bytes = c->kh * c->kw * c->in_bytes;
    for (int64_t i = begin; i < end; ++i) {
        int64_t group = i / (cg * og), in = i / og % cg, o = group * og + i % og;
        memcpy(c->turned + i * bytes, c->b + (o * cg + in) * bytes, (size_t)bytes);
    }
}

/* Cuts the output into bands and says how large their columns are. */
static void plan_bands(conv *c)
{
    bool forward = c->kind == FORWARD;
    int64_t rows = (forward ? c->c : c->o) * c->kh * c->kw, width = forward ? c->ow : c->w,
            height = forward ? c->oh : c->h;
    int64_t most = i64_max(BAND_BYTES / (rows * width * c->in_bytes), div_up(BAND_PIXELS, width));
    c->n_bands = i64_max(div_up(height, most), div_up(c->threads, i64_max(c->n, 1)));
    c->band = div_up(height, i64_min(c->n_bands, height));
    c->n_bands = div_up(height, c->band);
    c->cols_bytes = aligned(rows * c->band * width * c->in_bytes);
    int64_t og = c->o / c->groups, cg = c->c / c->groups;
    iv__gemm *g = &c->g;
    g->batch = c->groups;
    g->m = forward ? og : cg;
    g->k = (forward ? cg : og) * c->kh * c->kw;
    g->n = g->b_rs = c->band * width;
    g->a_rs = g->k;
    g->a_cs = g->b_cs = 1;
    g->a_bs = g->m * g->k;
    g->b_bs = g->k * g->n;
    g->c_rs = height * width;
    g->c_bs = g->m * g->c_rs;
    if (!forward) c->turned_bytes = aligned(c->o * cg * c->kh * c->kw * c->in_bytes);
}

/* ---- dw: parts ---- */

typedef struct part {
    conv *c;
    int64_t group, q0; /* first group, first column */
} part;

/* dy [N, O, pixels] to [O, N, pixels]. */
static void turn_dy(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const conv *c = arg;
    int64_t bytes = c->oh * c->ow * c->in_bytes;
    for (int64_t i = begin; i < end; ++i) {
        int64_t o = i / c->n, sample = i % c->n;
        memcpy(c->turned + i * bytes, c->a + (sample * c->o + o) * bytes, (size_t)bytes);
    }
}

/* Columns of a part, [groups of the part, q of the part, N, output pixels]; i counts all but
 * pixels. */
static void part_gather(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const part *p = arg;
    const conv *c = p->c;
    int64_t kernel = c->kh * c->kw, cg = c->c / c->groups, plane = c->h * c->w * c->in_bytes;
    for (int64_t i = begin; i < end; ++i) {
        int64_t sample = i % c->n, q = p->q0 + i / c->n % c->g.n,
                group = p->group + i / c->n / c->g.n;
        const uint8_t *src = c->b + (sample * c->c + group * cg + q / kernel) * plane;
        gather(c, c->cols + i * c->oh * c->ow * c->in_bytes, src, q % kernel, 0, c->oh);
    }
}

static void wgrad_part(conv *c, int64_t group, int64_t q0)
{
    int64_t og = c->o / c->groups, n_q = c->g.c_rs;
    part p = {c, group, q0};
    c->g.n = i64_min(c->part_q, n_q - q0);
    c->g.batch = i64_min(c->part_groups, c->groups - group);
    c->g.b_bs = c->g.n * c->g.k;
    iv__team_for(c->g.batch * c->g.n * c->n, 1, part_gather, &p);
    iv__gemm_run(&c->g, c->level, c->turned + group * og * c->g.k * c->in_bytes, c->cols,
                 c->out + (group * og * n_q + q0) * c->out_bytes, c->gemm_scratch);
}

/* Whole groups as far as they fit; else one group, and of it as many columns as fit. */
static void plan_parts(conv *c)
{
    iv__gemm *g = &c->g;
    int64_t og = c->o / c->groups, n_q = c->c / c->groups * c->kh * c->kw;
    g->k = c->n * c->oh * c->ow;
    int64_t fits = WGRAD_BYTES / i64_max(g->k * c->in_bytes, 1);
    c->part_groups = i64_min(i64_max(fits / n_q, 1), c->groups);
    c->part_q = i64_min(i64_max(fits / WGRAD_COLUMNS, 1) * WGRAD_COLUMNS, n_q);
    g->batch = c->part_groups;
    g->m = og;
    g->n = c->part_q;
    g->a_rs = g->b_cs = g->k;
    g->a_cs = g->b_rs = 1;
    g->a_bs = og * g->k;
    g->b_bs = g->n * g->k;
    g->c_rs = n_q;
    g->c_bs = og * n_q;
    c->cols_bytes = aligned(c->part_groups * c->part_q * g->k * c->in_bytes);
    c->turned_bytes = aligned(c->o * g->k * c->in_bytes);
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

/* iv__gemm_type + 1 of an element type; 0: none. */
static const uint8_t gemm_types[IV_DTYPE_COUNT] = {[IV_F32] = IV__GEMM_F32 + 1,
                                                   [IV_F64] = IV__GEMM_F64 + 1,
                                                   [IV_BF16] = IV__GEMM_BF16 + 1,
                                                   [IV_F16] = IV__GEMM_F16 + 1};

static iv_status check_types(const cpu_device *cpu, const iv_op_desc *d)
{
    iv_dtype in = d->in[0].dtype, out = d->out[0].dtype;
    if (in != d->in[1].dtype || !gemm_types[in] || !gemm_types[out] ||
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
    c->g.in = (iv__gemm_type)(gemm_types[d->in[0].dtype] - 1);
    c->g.out = (iv__gemm_type)(gemm_types[d->out[0].dtype] - 1);
    c->g.segments = c->kind == WGRAD ? d->segments : 1;
    c->bias = d->n_in == 3;
    if (c->kind == WGRAD) plan_parts(c);
    else plan_bands(c);
    c->gemm_bytes = aligned((int64_t)iv__gemm_scratch(&c->g, 1));
    int64_t all_cols = c->cols_bytes * (c->kind == WGRAD ? 1 : c->threads);
    return c->turned_bytes + all_cols + c->gemm_bytes * c->threads;
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
    if (c.n % c.g.segments != 0)
        return cpu->host->fail(IV_UNSUPPORTED, "%lld samples in %lld grains", (long long)c.n,
                               (long long)c.g.segments);
    return IV_OK;
}

static iv_status conv_prepare(void *dev, const iv_op_desc *d, void **out_prepared,
                              int64_t *out_scratch)
{
    const cpu_device *cpu = dev;
    conv *c = malloc(sizeof(*c));
    if (!c) return cpu->host->fail(IV_NO_MEMORY, "preparing a convolution");
    *out_scratch = plan_conv(c, cpu, d);
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
    int n_in = 2 + c->bias;
    c->a = iv__cpu_ptr(io[0]);
    c->b = iv__cpu_ptr(io[1]);
    c->bias_data = c->bias ? iv__cpu_ptr(io[2]) : NULL;
    c->out = iv__cpu_ptr(io[n_in]);
    c->turned = iv__cpu_ptr(io[n_in + 1]);
    c->cols = c->turned + c->turned_bytes;
    c->gemm_scratch = c->cols + c->cols_bytes * (c->kind == WGRAD ? 1 : c->threads);
    if (c->kind == WGRAD) {
        iv__team_for(c->o * c->n, 1, turn_dy, c);
        for (int64_t group = 0; group < c->groups; group += c->part_groups)
            for (int64_t q = 0; q < c->g.c_rs; q += c->part_q) wgrad_part(c, group, q);
        return IV_OK;
    }
    if (c->kind == DGRAD) iv__team_for(c->o * (c->c / c->groups), 64, turn_weights, c);
    iv__team_for(c->n * c->n_bands, 1, bands_run, c);
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
