/* attention.c: blocks, products and threads of the host's attention (attention.h).
 *
 * A thread takes one head of one sample at a time.  Queries and keys are cut into blocks of 64.
 *
 *   forward    s' = k q' by key block, so that a lane is a query and no sum crosses lanes;
 *              o' += v' p: kept turned until the last key block
 *   backward   key blocks outside, query blocks inside: s, do v', then
 *              dv += p' do, dk += ds' q  (sums of the key block), dq += ds k  (sums of each query
 *              block wait in scratch).  Each is one chain in rising order, as the contract wants.
 *
 * An operand is packed as panels (gemm_ops.h) once: "a" holds rows of a product, "b" columns. */
#include "backends/cpu/attention.h"

#include <string.h>

#include "backends/cpu/attention_soft.h"
#include "backends/cpu/fpmode.h"
#include "backends/cpu/gemm_ops.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/team.h"

enum { N = IV__ATT_BLOCK, ALIGN = 64, MAX_D = 256 };

static const iv__soft_ops *const soft[IV__ISA_COUNT] = {
#if defined(__x86_64__)
    iv__soft_ops_v2, iv__soft_ops_v3, iv__soft_ops_v4, iv__soft_ops_v4
#else
    iv__soft_ops_base
#endif
};

/* Work memory of a thread, and what it is busy with. */
typedef struct head {
    const iv__attention *a;
    const iv__gemm_ops *g;
    const iv__soft_ops *s;
    int64_t mr, nr, e;   /* tile, bytes of a panel's element */
    int64_t in_b, sum_b; /* bytes of an element of the inputs, of a sum */
    int64_t nq, nk;      /* blocks */
    int64_t d_steps;     /* packed k of a row */
    int64_t a_d, b_d;    /* bytes of a block of 64 rows or columns, d deep */
    int64_t a_64, b_64;  /* of d rows or columns, 64 deep */
    int64_t tiles_d;     /* of the sums of 64 x d */
    const char *q, *k, *v, *o, *dy, *lse;
    char *out, *lse_out, *dq, *dk, *dv;
    /* scratch */
    char *k_a, *v_a, *q_b;           /* forward */
    char *q_a, *dy_a, *q_64, *dy_64; /* backward, per query block */
    char *k_b, *v_b, *k_64;          /* backward, per key block */
    char *dq_sums, *dk_sums, *dv_sums, *delta;
    char *sums, *s_mat, *t_mat, *low, *turned, *o_mat, *out_mat, *row[2];
    char *m, *l, *alpha;
} head;

static int64_t i64_min(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

static int64_t i64_max(int64_t x, int64_t y)
{
    return x > y ? x : y;
}

static int64_t round_up(int64_t x, int64_t y)
{
    return (x + y - 1) / y * y;
}

static bool is_half(iv__gemm_type t)
{
    return t == IV__GEMM_BF16 || t == IV__GEMM_F16;
}

static int64_t type_bytes(iv__gemm_type t)
{
    return t == IV__GEMM_F64 ? 8 : t == IV__GEMM_F32 ? 4 : 2;
}

/* Steps of a chain over k elements. */
static int64_t padded(const head *h, int64_t k)
{
    return is_half(h->a->in) ? round_up(k, 32) : k;
}

/* ---- scratch ---- */

static char *take(char **at, int64_t bytes)
{
    char *p = *at;
    *at += round_up(bytes, ALIGN);
    return p;
}

static void lay_forward(head *h, char **at)
{
    h->k_a = take(at, h->nk * h->a_d);
    h->v_a = take(at, h->nk * h->a_64);
    h->q_b = take(at, h->b_d);
    h->o_mat = take(at, h->a->d * N * h->sum_b);
    h->out_mat = take(at, h->a->d * N * h->sum_b);
    h->m = take(at, N * h->sum_b);
    h->l = take(at, N * h->sum_b);
    h->alpha = take(at, N * h->sum_b);
}

static void lay_backward(head *h, char **at)
{
    h->q_a = take(at, h->nq * h->a_d);
    h->dy_a = take(at, h->nq * h->a_d);
    h->q_64 = take(at, h->nq * h->b_64);
    h->dy_64 = take(at, h->nq * h->b_64);
    h->k_b = take(at, h->nk * h->b_d);
    h->v_b = take(at, h->nk * h->b_d);
    h->k_64 = take(at, h->nk * h->b_64);
    h->dq_sums = take(at, h->nq * h->tiles_d);
    h->dk_sums = take(at, h->tiles_d);
    h->dv_sums = take(at, h->tiles_d);
    h->delta = take(at, h->nq * N * h->sum_b);
    h->t_mat = take(at, N * N * h->sum_b);
    for (int i = 0; i < 2; ++i) h->row[i] = take(at, MAX_D * h->sum_b);
}

/* Sizes, and pointers into `scratch`; returns the bytes of one thread. */
static int64_t lay(head *h, const iv__attention *a, bool backward, char *scratch)
{
    char *at = scratch;
    const iv__gemm_ops *g = iv__gemm_ops_of(a->level, a->in);
    *h = (head){.a = a,
                .g = g,
                .s = &soft[a->soft_level][a->in == IV__GEMM_F64],
                .mr = g->mr[a->in],
                .nr = g->nr[a->in],
                .e = g->panel_bytes[a->in],
                .in_b = type_bytes(a->in),
                .sum_b = a->in == IV__GEMM_F64 ? 8 : 4,
                .nq = round_up(a->tq, N) / N,
                .nk = round_up(a->tk, N) / N};
    const int64_t rows = round_up(N, h->mr), cols = round_up(N, h->nr),
                  d_rows = round_up(a->d, h->mr), d_cols = round_up(a->d, h->nr);
    h->d_steps = padded(h, a->d);
    h->a_d = round_up(rows * h->d_steps * h->e, ALIGN);
    h->b_d = round_up(cols * h->d_steps * h->e, ALIGN);
    h->a_64 = round_up(d_rows * N * h->e, ALIGN);
    h->b_64 = round_up(d_cols * N * h->e, ALIGN);
    h->tiles_d = round_up(rows * d_cols * h->sum_b, ALIGN);
    h->sums = take(&at, i64_max(rows, d_rows) * cols * h->sum_b);
    h->s_mat = take(&at, N * N * h->sum_b);
    h->low = take(&at, N * N * h->in_b);
    h->turned = take(&at, i64_max(rows, cols) * N * h->e);
    if (backward) lay_backward(h, &at);
    else lay_forward(h, &at);
    return at - scratch;
}

size_t iv__attention_scratch(const iv__attention *a, bool backward, int n_threads)
{
    head h;
    return (size_t)lay(&h, a, backward, NULL) * (size_t)(n_threads < 1 ? 1 : n_threads);
}

/* ---- products ---- */

/* Packs n rows (columns) of k elements each: element (i, j) at i * ws + j * ks. */
static void pack_side(const head *h, bool is_a, char *dst, const char *src, int64_t n, int64_t ws,
                      int64_t k, int64_t ks)
{
    const iv__gemm_type t = h->a->in;
    const int64_t w = is_a ? h->mr : h->nr, steps = padded(h, k);
    iv__gemm_panel q = {
        .w = w, .w_stride = ws, .k_stride = ks, .p1 = steps, .seg = k, .seg_padded = steps};
    for (int64_t i = 0; i < n; i += w, dst += w * steps * h->e) {
        q.n_w = i64_min(w, n - i);
        q.w0 = i;
        (is_a ? h->g->pack_a : h->g->pack_b)[t](dst, src, &q);
    }
}

/* sums [panels of a][panels of b][mr][nr] += a b; fresh: from +0. */
static void multiply(const head *h, const char *a, int64_t rows, const char *b, int64_t cols,
                     int64_t k, char *sums, bool fresh)
{
    const int64_t steps = padded(h, k), tile = h->mr * h->nr * h->sum_b;
    const int64_t a_step = h->mr * steps * h->e, b_step = h->nr * steps * h->e;
    if (h->a->in == IV__GEMM_BF16 && h->g->uses_ftz) fp_set(FP_FLUSH);
    for (int64_t i = 0; i < rows; i += h->mr, a += a_step) {
        const char *panel = b;
        for (int64_t j = 0; j < cols; j += h->nr, panel += b_step, sums += tile)
            h->g->chain[h->a->in](steps, a, panel, sums, i64_min(h->mr, rows - i),
                                  i64_min(h->nr, cols - j), fresh);
    }
    fp_set(FP_KEEP);
}

/* sums to mat [..][64]. */
static void unpack_sums(const head *h, const char *sums, int64_t rows, int64_t cols, char *mat)
{
    for (int64_t i = 0; i < rows; i += h->mr)
        for (int64_t j = 0; j < cols; j += h->nr)
            for (int64_t r = 0; r < h->mr; ++r, sums += h->nr * h->sum_b)
                if (i + r < rows)
                    memcpy(mat + ((i + r) * N + j) * h->sum_b, sums,
                           (size_t)(i64_min(h->nr, cols - j) * h->sum_b));
}

/* mat [..][64] = a b from +0. */
static void product(const head *h, const char *a, int64_t rows, const char *b, int64_t cols,
                    int64_t k, char *mat)
{
    multiply(h, a, rows, b, cols, k, h->sums, true);
    unpack_sums(h, h->sums, rows, cols, mat);
}

/* Stores sums of rows x d to rows of an output [batch, t, heads, d]. */
static void store_sums(const head *h, const char *sums, int64_t rows, char *out)
{
    const iv__attention *a = h->a;
    const int64_t tile = h->mr * h->nr * h->sum_b, rs = a->heads * a->d, b = type_bytes(a->out);
    for (int64_t i = 0; i < rows; i += h->mr)
        for (int64_t j = 0; j < a->d; j += h->nr, sums += tile)
            h->g->store[a->out](out + (i * rs + j) * b, rs, sums, h->nr, i64_min(h->mr, rows - i),
                                i64_min(h->nr, a->d - j));
}

/* mat [rows][64] as the inputs' type: itself, or rounded into h->low. */
static const char *lowered(const head *h, const char *mat, int64_t rows)
{
    if (!is_half(h->a->in)) return mat;
    h->g->store[h->a->in](h->low, N, mat, N, rows, N);
    return h->low;
}

/* ---- forward ---- */

static const char *row_at(const head *h, const char *base, const iv__att_rows *r, int64_t t)
{
    return base + t * r->rs * h->in_b;
}

static void pack_forward(const head *h)
{
    const iv__attention *a = h->a;
    for (int64_t j = 0; j < h->nk; ++j) {
        const int64_t n = i64_min(N, a->tk - j * N);
        pack_side(h, true, h->k_a + j * h->a_d, row_at(h, h->k, &a->k, j * N), n, a->k.rs, a->d, 1);
        pack_side(h, true, h->v_a + j * h->a_64, row_at(h, h->v, &a->v, j * N), a->d, 1, n,
                  a->v.rs);
    }
}

static void fill(char *dst, int64_t n, double x, int64_t bytes)
{
    for (int64_t i = 0; i < n; ++i)
        if (bytes == 8) ((double *)(void *)dst)[i] = x;
        else ((float *)(void *)dst)[i] = (float)x;
}

/* o = o alpha + v' p of key block j. */
static void add_values(const head *h, int64_t j, int64_t keys, int64_t queries)
{
    const int64_t d = h->a->d;
    const char *sums = h->sums;
    pack_side(h, false, h->turned, lowered(h, h->s_mat, N), queries, 1, keys, N);
    multiply(h, h->v_a + j * h->a_64, d, h->turned, queries, keys, h->sums, true);
    for (int64_t r = 0; r < d; r += h->mr)
        for (int64_t c = 0; c < queries; c += h->nr, sums += h->mr * h->nr * h->sum_b)
            h->s->rescale(h->o_mat + (r * N + c) * h->sum_b, h->alpha + c * h->sum_b, sums, h->nr,
                          i64_min(h->mr, d - r), i64_min(h->nr, queries - c));
}

/* out_mat [64][d] = o_mat [d][64], turned. */
static void turn(const head *h)
{
    const int64_t d = h->a->d;
    for (int64_t i = 0; i < d; ++i)
        for (int64_t c = 0; c < N; ++c)
            if (h->sum_b == 8)
                ((double *)(void *)h->out_mat)[c * d + i] = ((double *)(void *)h->o_mat)[i * N + c];
            else ((float *)(void *)h->out_mat)[c * d + i] = ((float *)(void *)h->o_mat)[i * N + c];
}

static void forward_block(const head *h, int64_t i, int64_t shift)
{
    const iv__attention *a = h->a;
    const int64_t q0 = i * N, queries = i64_min(N, a->tq - q0),
                  keys = i64_min(a->tk, q0 + queries + shift);
    pack_side(h, false, h->q_b, row_at(h, h->q, &a->q, q0), queries, a->q.rs, a->d, 1);
    memset(h->s_mat, 0, (size_t)(N * N * h->sum_b));
    memset(h->o_mat, 0, (size_t)(a->d * N * h->sum_b));
    memset(h->l, 0, (size_t)(N * h->sum_b));
    fill(h->m, N, -(double)__builtin_inf(), h->sum_b);
    for (int64_t j = 0; j * N < keys; ++j) {
        const iv__att_mask mask = {i64_min(N, a->tk - j * N), N, q0 + shift - j * N};
        product(h, h->k_a + j * h->a_d, mask.rows, h->q_b, queries, a->d, h->s_mat);
        h->s->forward(h->s_mat, a->scale, &mask, h->m, h->l, h->alpha);
        add_values(h, j, mask.rows, queries);
    }
    char lse[N * sizeof(double)];
    h->s->finish(h->o_mat, a->d, h->m, h->l, lse);
    memcpy(h->lse_out + q0 * h->sum_b, lse, (size_t)(queries * h->sum_b));
    turn(h);
    const int64_t rs = a->heads * a->d;
    h->g->store[a->out](h->out + q0 * rs * type_bytes(a->out), rs, h->out_mat, a->d, queries, a->d);
}

/* ---- backward ---- */

static void pack_queries(const head *h)
{
    const iv__attention *a = h->a;
    for (int64_t i = 0; i < h->nq; ++i) {
        const int64_t n = i64_min(N, a->tq - i * N);
        const char *q = row_at(h, h->q, &a->q, i * N), *dy = row_at(h, h->dy, &a->dy, i * N);
        pack_side(h, true, h->q_a + i * h->a_d, q, n, a->q.rs, a->d, 1);
        pack_side(h, true, h->dy_a + i * h->a_d, dy, n, a->dy.rs, a->d, 1);
        pack_side(h, false, h->q_64 + i * h->b_64, q, a->d, 1, n, a->q.rs);
        pack_side(h, false, h->dy_64 + i * h->b_64, dy, a->d, 1, n, a->dy.rs);
    }
}

static void pack_keys(const head *h)
{
    const iv__attention *a = h->a;
    for (int64_t j = 0; j < h->nk; ++j) {
        const int64_t n = i64_min(N, a->tk - j * N);
        const char *k = row_at(h, h->k, &a->k, j * N), *v = row_at(h, h->v, &a->v, j * N);
        pack_side(h, false, h->k_b + j * h->b_d, k, n, a->k.rs, a->d, 1);
        pack_side(h, false, h->v_b + j * h->b_d, v, n, a->v.rs, a->d, 1);
        pack_side(h, false, h->k_64 + j * h->b_64, k, a->d, 1, n, a->k.rs);
    }
}

/* delta[t] = sum of do o. */
static void find_delta(const head *h)
{
    const iv__attention *a = h->a;
    for (int64_t t = 0; t < a->tq; ++t) {
        h->s->widen(a->in, row_at(h, h->dy, &a->dy, t), a->d, h->row[0]);
        h->s->widen(a->in, row_at(h, h->o, &a->o, t), a->d, h->row[1]);
        h->s->dot(h->row[0], h->row[1], a->d, h->delta + t * h->sum_b);
    }
}

static void backward_pair(const head *h, int64_t i, int64_t j, int64_t shift)
{
    const iv__attention *a = h->a;
    const int64_t q0 = i * N, k0 = j * N, nq = i64_min(N, a->tq - q0), nk = i64_min(N, a->tk - k0);
    const iv__att_mask mask = {nq, nk, q0 + shift - k0};
    product(h, h->q_a + i * h->a_d, nq, h->k_b + j * h->b_d, nk, a->d, h->s_mat);
    product(h, h->dy_a + i * h->a_d, nq, h->v_b + j * h->b_d, nk, a->d, h->t_mat);
    h->s->backward(h->s_mat, h->t_mat, a->scale, &mask, h->lse + q0 * h->sum_b,
                   h->delta + q0 * h->sum_b);
    pack_side(h, true, h->turned, lowered(h, h->s_mat, nq), nk, 1, nq, N);
    multiply(h, h->turned, nk, h->dy_64 + i * h->b_64, a->d, nq, h->dv_sums, false);
    const char *ds = lowered(h, h->t_mat, nq);
    pack_side(h, true, h->turned, ds, nk, 1, nq, N);
    multiply(h, h->turned, nk, h->q_64 + i * h->b_64, a->d, nq, h->dk_sums, false);
    if (k0 >= q0 + nq + shift) return; /* no query of the block sees a key: not in dq's chains */
    pack_side(h, true, h->turned, ds, nq, N, nk, 1);
    multiply(h, h->turned, nq, h->k_64 + j * h->b_64, a->d, nk, h->dq_sums + i * h->tiles_d, false);
}

static void backward_head(const head *h, int64_t shift)
{
    const iv__attention *a = h->a;
    const int64_t row = a->heads * a->d * type_bytes(a->out);
    pack_queries(h);
    pack_keys(h);
    find_delta(h);
    memset(h->s_mat, 0, (size_t)(N * N * h->sum_b));
    memset(h->t_mat, 0, (size_t)(N * N * h->sum_b));
    memset(h->dq_sums, 0, (size_t)(h->nq * h->tiles_d));
    for (int64_t j = 0; j < h->nk; ++j) {
        memset(h->dk_sums, 0, (size_t)h->tiles_d);
        memset(h->dv_sums, 0, (size_t)h->tiles_d);
        for (int64_t i = i64_max(j * N - shift, 0) / N; i < h->nq; ++i)
            backward_pair(h, i, j, shift);
        store_sums(h, h->dk_sums, i64_min(N, a->tk - j * N), h->dk + j * N * row);
        store_sums(h, h->dv_sums, i64_min(N, a->tk - j * N), h->dv + j * N * row);
    }
    for (int64_t i = 0; i < h->nq; ++i)
        store_sums(h, h->dq_sums + i * h->tiles_d, i64_min(N, a->tq - i * N), h->dq + i * N * row);
}

/* ---- heads over threads ---- */

typedef struct call {
    const iv__attention *a;
    bool backward;
    const char *q, *k, *v, *o, *lse, *dy;
    char *out, *lse_out, *dq, *dk, *dv, *scratch;
} call;

static const char *head_at(const head *h, const char *base, const iv__att_rows *r, int64_t b,
                           int64_t head_index)
{
    return base ? base + (b * r->bs + head_index * h->a->d) * h->in_b : NULL;
}

static void point_at(head *h, const call *c, int64_t unit)
{
    const iv__attention *a = c->a;
    const int64_t b = unit / a->heads, n = unit % a->heads, out_b = type_bytes(a->out);
    const int64_t q_at = (b * a->tq * a->heads + n) * a->d * out_b,
                  k_at = (b * a->tk * a->heads + n) * a->d * out_b,
                  lse_at = unit * a->tq * h->sum_b;
    h->q = head_at(h, c->q, &a->q, b, n);
    h->k = head_at(h, c->k, &a->k, b, n);
    h->v = head_at(h, c->v, &a->v, b, n);
    if (c->backward) {
        h->o = head_at(h, c->o, &a->o, b, n);
        h->dy = head_at(h, c->dy, &a->dy, b, n);
        h->lse = c->lse + lse_at;
        h->dq = c->dq + q_at;
        h->dk = c->dk + k_at;
        h->dv = c->dv + k_at;
    } else {
        h->out = c->out + q_at;
        h->lse_out = c->lse_out + lse_at;
    }
}

static void heads_run(void *arg, int64_t begin, int64_t end, int thread)
{
    const call *c = arg;
    const iv__attention *a = c->a;
    const int64_t shift = a->causal ? a->tk - a->tq : a->tk;
    const unsigned mode = fp_get();
    head h;
    int64_t bytes = lay(&h, a, c->backward, NULL);
    lay(&h, a, c->backward, c->scratch + thread * bytes);
    fp_set(FP_KEEP);
    if (h.g->enter) h.g->enter();
    for (int64_t unit = begin; unit < end; ++unit) {
        point_at(&h, c, unit);
        if (c->backward) {
            backward_head(&h, shift);
            continue;
        }
        pack_forward(&h);
        for (int64_t i = 0; i < h.nq; ++i) forward_block(&h, i, shift);
    }
    if (h.g->leave) h.g->leave();
    fp_set(mode);
}

void iv__attention_forward(const iv__attention *a, const void *q, const void *k, const void *v,
                           void *o, void *lse, void *scratch)
{
    call c = {.a = a, .q = q, .k = k, .v = v, .out = o, .lse_out = lse, .scratch = scratch};
    iv__team_for(a->batch * a->heads, 1, heads_run, &c);
}

void iv__attention_backward(const iv__attention *a, const void *q, const void *k, const void *v,
                            const void *o, const void *lse, const void *dy, void *dq, void *dk,
                            void *dv, void *scratch)
{
    call c = {.a = a,
              .backward = true,
              .q = q,
              .k = k,
              .v = v,
              .o = o,
              .lse = lse,
              .dy = dy,
              .dq = dq,
              .dk = dk,
              .dv = dv,
              .scratch = scratch};
    iv__team_for(a->batch * a->heads, 1, heads_run, &c);
}
