/* gemm.c: blocking, threading and segments of the canonical matrix product; the arithmetic is in
 * gemm_kernels.inc.
 *
 *     task      one block of c, at most MAX_M x MAX_N, of one product of the batch
 *     k-block   at most MAX_K packed k: a's part of the block is packed once (it stays in the
 *               second-level cache), then each panel of b is packed (it stays in the first
 *               level, being the wider one) and all of a run against it
 *     tile      mr x nr sums in registers
 *
 * The chain of an output element goes through the k-blocks in order; between them the tile's sums
 * wait in scratch ("state").  So blocking never changes a bit.
 *
 * Segments.  A tile's state is a stack of `depth` tiles.  The running segment is on top; when
 * segment s ends, s + 1 segments are in, and as many folds follow as s + 1 has trailing zero bits:
 * a binary counter, whose final fold from the top gives the balanced tree.  Height = number of one
 * bits in s, so the stack needs no variables.
 */
#include "backends/cpu/gemm.h"

#include <string.h>

#include "backends/cpu/fpmode.h"
#include "backends/cpu/gemm_ops.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/team.h"

enum {
    MAX_K = 384, /* packed k in a block, where an element of a panel has 4 bytes */
    MAX_M = 480, /* rows of c in a task; multiples of every mr and nr */
    MAX_N = 384,
    MAX_MR = 32,
    MAX_NR = 32,
    ALIGN = 64
};

static const iv__gemm_ops *const levels[IV__ISA_COUNT] = {
#if defined(__x86_64__)
    &iv__gemm_ops_v2, &iv__gemm_ops_v3, &iv__gemm_ops_v4, &iv__gemm_ops_v4
#else
    &iv__gemm_ops_base
#endif
};

const iv__gemm_ops *iv__gemm_ops_of(int level, iv__gemm_type in)
{
#if defined(__x86_64__)
    if (level == IV__ISA_AMX && in == IV__GEMM_BF16) return &iv__gemm_ops_amx;
#endif
    (void)in;
    return levels[level];
}

typedef struct plan {
    const iv__gemm *g;
    const iv__gemm_ops *ops;
    const char *a, *b;
    char *c, *scratch;
    int64_t seg, seg_padded; /* k in a segment */
    int64_t k_padded;        /* all segments */
    int64_t kc;              /* packed k in a k-block */
    int64_t mc, nc;          /* block of c in a task */
    int64_t n_m, n_n;        /* tasks along m and n */
    int64_t depth;           /* tiles in a state */
    int64_t e;               /* bytes of an element of a panel */
    int64_t b_bytes, a_bytes, thread_bytes;
    int64_t tile_elems;
} plan;

static int64_t i64_min(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

static int64_t div_up(int64_t x, int64_t y)
{
    return x / y + (x % y != 0);
}

static int64_t round_up(int64_t x, int64_t y)
{
    return div_up(x, y) * y;
}

static int64_t type_bytes(iv__gemm_type t)
{
    return t == IV__GEMM_F64 ? 8 : t == IV__GEMM_F32 ? 4 : 2;
}

static int64_t sum_bytes(const iv__gemm *g)
{
    return g->in == IV__GEMM_F64 ? 8 : 4;
}

bool iv__gemm_accepts(const iv__gemm *g)
{
    bool types = (unsigned)g->in < IV__GEMM_TYPES && (unsigned)g->out < IV__GEMM_TYPES &&
                 (g->in == IV__GEMM_F64) == (g->out == IV__GEMM_F64);
    bool sizes = g->batch >= 0 && g->m >= 0 && g->n >= 0 && g->k >= 0;
    return types && sizes && g->segments >= 1 && g->k % g->segments == 0;
}

/* ---- the plan ---- */

static void plan_k(plan *p)
{
    const iv__gemm *g = p->g;
    int64_t quantum = g->in == IV__GEMM_BF16 || g->in == IV__GEMM_F16 ? 32 : 1;
    int64_t most = MAX_K * 4 / p->e;
    p->seg = g->k / g->segments;
    p->seg_padded = round_up(p->seg, quantum);
    p->k_padded = p->seg_padded * g->segments;
    int64_t n_blocks = div_up(p->k_padded, most);
    p->kc = n_blocks ? round_up(div_up(p->k_padded, n_blocks), 32) : 0;
    if (n_blocks > 1 && p->seg_padded <= most) { /* whole segments: no chain is cut twice */
        p->kc = most / p->seg_padded * p->seg_padded;
    }
    p->depth = 1;
    for (int64_t s = g->segments; s > 1; s /= 2) {
        ++p->depth;
    }
}

/* Scratch of a thread: a k-block of a, a panel of b, and the states of a task's tiles, or of one
 * tile if there is one k-block.  Bounds that hold for every level and every splitting into tasks:
 * a level whose panels have smaller elements has longer k-blocks, of no more bytes. */
static void plan_scratch(plan *p)
{
    const iv__gemm *g = p->g;
    int64_t n = i64_min(round_up(g->n, MAX_NR), MAX_N) + MAX_NR;
    int64_t m = i64_min(round_up(g->m, MAX_MR), MAX_M) + MAX_MR;
    int64_t sums = p->kc < p->k_padded ? m * n : MAX_MR * MAX_NR;
    int64_t k_bytes = i64_min(round_up(p->k_padded, 32) * sum_bytes(g), MAX_K * 4);
    p->a_bytes = round_up(m * k_bytes, ALIGN);
    p->b_bytes = round_up(MAX_NR * k_bytes, ALIGN);
    p->thread_bytes = p->b_bytes + p->a_bytes + round_up(sums * p->depth * sum_bytes(g), ALIGN);
}

/* Cuts m and n into blocks so that the slowest thread has least to do.  A block costs its products,
 * and for packing about as much as 8 products for each of its rows and columns. */
static void plan_tasks(plan *p, int n_threads)
{
    const iv__gemm *g = p->g;
    int64_t mr = p->ops->mr[g->in], nr = p->ops->nr[g->in], best = INT64_MAX;
    int64_t least_m = div_up(g->m, MAX_M), least_n = div_up(g->n, MAX_N);
    for (int64_t i = 0; i <= n_threads; ++i) {
        int64_t mc = round_up(div_up(g->m, least_m + i), mr), n_m = div_up(g->m, mc);
        for (int64_t j = 0; j <= n_threads; ++j) {
            int64_t nc = round_up(div_up(g->n, least_n + j), nr), n_n = div_up(g->n, nc);
            int64_t rounds = div_up(g->batch * n_m * n_n, n_threads);
            int64_t cost = rounds * (mc * nc + 8 * (mc + nc));
            if (cost < best) {
                best = cost;
                p->mc = mc;
                p->nc = nc;
                p->n_m = n_m;
                p->n_n = n_n;
            }
        }
    }
}

size_t iv__gemm_scratch(const iv__gemm *g, int n_threads)
{
    plan p = {.g = g, .e = sum_bytes(g)};
    plan_k(&p);
    plan_scratch(&p);
    return (size_t)p.thread_bytes * (size_t)(n_threads < 1 ? 1 : n_threads);
}

/* One block of c, and one k-block of it. */
typedef struct block {
    int64_t batch, row, col, rows, cols;
    int64_t p0, p1;  /* packed k */
    int64_t segment; /* that p0 is in */
    char *b, *a, *states;
} block;

/* ---- one tile ---- */

/* Continues a tile over a block's packed k, through the segments in it.  mode: of the chains;
 * additions of the tree keep denormals, whatever the type. */
static void tile_sum(const plan *p, const block *t, const char *a, const char *b, char *state,
                     int64_t rows, int64_t cols, unsigned mode)
{
    const iv__gemm *g = p->g;
    int64_t tile = p->tile_elems * sum_bytes(g), p0 = t->p0, p1 = t->p1;
    int64_t a_step = p->ops->mr[g->in] * p->e, b_step = p->ops->nr[g->in] * p->e;
    for (int64_t s = t->segment; p0 < p1; ++s) {
        int64_t end = i64_min((s + 1) * p->seg_padded, p1);
        char *top = state + __builtin_popcountll((uint64_t)s) * tile;
        if (mode != FP_KEEP) fp_set(mode);
        p->ops->chain[g->in](end - p0, a, b, top, rows, cols, p0 == s * p->seg_padded);
        if (mode != FP_KEEP) fp_set(FP_KEEP);
        a += (end - p0) * a_step;
        b += (end - p0) * b_step;
        p0 = end;
        if (end == (s + 1) * p->seg_padded) {
            for (int64_t done = s + 1; done % 2 == 0; done /= 2) {
                p->ops->fold[g->in](top - tile, top, p->tile_elems);
                top -= tile;
            }
        }
    }
}

/* Folds what is left on the stack, runs the epilogue and stores. */
static void tile_finish(const plan *p, char *state, int64_t batch, int64_t row, int64_t rows,
                        int64_t col, int64_t cols)
{
    const iv__gemm *g = p->g;
    int64_t tile = p->tile_elems * sum_bytes(g);
    for (int64_t i = __builtin_popcountll((uint64_t)g->segments) - 1; i > 0; --i) {
        p->ops->fold[g->in](state + (i - 1) * tile, state + i * tile, p->tile_elems);
    }
    int64_t ld = p->ops->nr[g->in];
    if (g->epilogue) {
        g->epilogue(g->epilogue_ctx, state, batch, row, rows, col, cols, ld);
    }
    char *c = p->c + (batch * g->c_bs + row * g->c_rs + col) * type_bytes(g->out);
    p->ops->store[g->out](c, g->c_rs, state, ld, rows, cols);
}

/* ---- one task ---- */

static block task_block(const plan *p, int64_t task, int thread)
{
    const iv__gemm *g = p->g;
    block t = {.batch = task / (p->n_m * p->n_n),
               .row = task / p->n_n % p->n_m * p->mc,
               .col = task % p->n_n * p->nc};
    t.rows = i64_min(p->mc, g->m - t.row);
    t.cols = i64_min(p->nc, g->n - t.col);
    t.b = p->scratch + thread * p->thread_bytes;
    t.a = t.b + p->b_bytes;
    t.states = t.a + p->a_bytes;
    return t;
}

/* The panel of columns from j on. */
static void b_pack(const plan *p, const block *t, int64_t j)
{
    const iv__gemm *g = p->g;
    int64_t nr = p->ops->nr[g->in];
    iv__gemm_panel q = {.w = nr,
                        .n_w = i64_min(nr, t->cols - j),
                        .w_stride = g->b_cs,
                        .k_stride = g->b_rs,
                        .w_runs = g->b_n,
                        .k_runs = g->b_k,
                        .w0 = t->col + j,
                        .p0 = t->p0,
                        .p1 = t->p1,
                        .seg = p->seg,
                        .seg_padded = p->seg_padded};
    p->ops->pack_b[g->in](t->b, p->b + t->batch * g->b_bs * type_bytes(g->in), &q);
}

static void a_pack(const plan *p, const block *t)
{
    const iv__gemm *g = p->g;
    int64_t mr = p->ops->mr[g->in], bytes = mr * (t->p1 - t->p0) * p->e;
    const char *src = p->a + t->batch * g->a_bs * type_bytes(g->in);
    iv__gemm_panel q = {.w = mr,
                        .w_stride = g->a_rs,
                        .k_stride = g->a_cs,
                        .k_runs = g->a_k,
                        .p0 = t->p0,
                        .p1 = t->p1,
                        .seg = p->seg,
                        .seg_padded = p->seg_padded};
    char *dst = t->a;
    for (int64_t i = 0; i < t->rows; i += mr, dst += bytes) {
        q.n_w = i64_min(mr, t->rows - i);
        q.w0 = t->row + i;
        p->ops->pack_a[g->in](dst, src, &q);
    }
}

/* A panel of b against all panels of a, over one k-block. */
static void panel_run(const plan *p, const block *t, int64_t j)
{
    const iv__gemm *g = p->g;
    int64_t mr = p->ops->mr[g->in], nr = p->ops->nr[g->in];
    int64_t cols = i64_min(nr, t->cols - j), state_bytes = p->depth * p->tile_elems * sum_bytes(g);
    bool one_block = p->kc >= p->k_padded;
    unsigned mode = g->in == IV__GEMM_BF16 && p->ops->uses_ftz ? FP_FLUSH : FP_KEEP;
    char *state = t->states + (one_block ? 0 : j / nr * div_up(t->rows, mr) * state_bytes);
    for (int64_t i = 0; i < t->rows; i += mr) {
        int64_t rows = i64_min(mr, t->rows - i);
        tile_sum(p, t, t->a + i * (t->p1 - t->p0) * p->e, t->b, state, rows, cols, mode);
        if (t->p1 == p->k_padded) {
            tile_finish(p, state, t->batch, t->row + i, rows, t->col + j, cols);
        }
        if (!one_block) state += state_bytes;
    }
}

/* k == 0: there is nothing to sum, but zeros to store. */
static void zero_run(const plan *p, const block *t)
{
    const iv__gemm *g = p->g;
    int64_t mr = p->ops->mr[g->in], nr = p->ops->nr[g->in];
    for (int64_t i = 0; i < t->rows; i += mr) {
        for (int64_t j = 0; j < t->cols; j += nr) {
            memset(t->states, 0, (size_t)(p->depth * p->tile_elems * sum_bytes(g)));
            tile_finish(p, t->states, t->batch, t->row + i, i64_min(mr, t->rows - i), t->col + j,
                        i64_min(nr, t->cols - j));
        }
    }
}

static void tasks_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const plan *p = arg;
    unsigned mode = fp_get();
    fp_set(FP_KEEP);
    if (p->ops->enter) p->ops->enter();
    int64_t nr = p->ops->nr[p->g->in];
    for (int64_t task = begin; task < end; ++task) {
        block t = task_block(p, task, thread);
        /* The tasks of one row of blocks follow each other: with one k-block, a stays packed. */
        bool packed = p->kc >= p->k_padded && task > begin && task % p->n_n != 0;
        if (p->k_padded == 0) {
            zero_run(p, &t);
        }
        for (; t.p0 < p->k_padded; t.p0 = t.p1) {
            t.p1 = i64_min(t.p0 + p->kc, p->k_padded);
            t.segment = t.p0 / p->seg_padded;
            if (!packed) {
                a_pack(p, &t);
            }
            for (int64_t j = 0; j < t.cols; j += nr) {
                b_pack(p, &t, j);
                panel_run(p, &t, j);
            }
        }
    }
    if (p->ops->leave) p->ops->leave();
    fp_set(mode);
}

void iv__gemm_run(const iv__gemm *g, int isa_level, const void *a, const void *b, void *c,
                  void *scratch)
{
    if (g->batch == 0 || g->m == 0 || g->n == 0) {
        return;
    }
    plan p = {.g = g,
              .ops = iv__gemm_ops_of(isa_level, g->in),
              .a = a,
              .b = b,
              .c = c,
              .scratch = scratch};
    p.e = p.ops->panel_bytes[g->in];
    p.tile_elems = (int64_t)p.ops->mr[g->in] * p.ops->nr[g->in];
    plan_k(&p);
    plan_scratch(&p);
    plan_tasks(&p, iv__team_size());
    iv__team_for(g->batch * p.n_m * p.n_n, 1, tasks_run, &p);
}
