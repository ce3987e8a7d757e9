/* reduce.c: partial sums of all workers become the sums of the step (see reduce.h). */
#include "reduce.h"

enum {
    CHUNK = 1 << 20, /* bytes of a segment that travel at once */
    BLOCK = 8192     /* bytes that are added at once: operands stay in the first cache */
};

static int64_t element(const iv__reducer *r)
{
    return (int64_t)iv_dtype_bytes(r->type);
}

/* ---- chunks ---- */

static int64_t chunks_of(const iv__reducer *r, int32_t owner, iv__segment *out)
{
    int64_t most = CHUNK / element(r), n = 0;
    for (int64_t i = 0; i < r->n_segments; ++i) {
        iv__segment s = r->segments[i];
        for (; s.owner == owner && s.count > 0; ++n) {
            int64_t count = IV_MIN2(s.count, most);
            if (out) out[n] = (iv__segment){s.offset, count, owner, s.gathered};
            s.offset += count;
            s.count -= count;
        }
    }
    return n;
}

static iv_status make_chunks(iv__reducer *r)
{
    int32_t world = r->comm->ranks.world;
    for (int32_t o = 0; o < world; ++o) r->n_steps = IV_MAX2(r->n_steps, chunks_of(r, o, NULL));
    IV_TRY(iv__calloc(world * r->n_steps, sizeof(*r->chunks), "chunks", &r->chunks));
    for (int32_t o = 0; o < world; ++o) chunks_of(r, o, r->chunks + o * r->n_steps);
    return IV_OK;
}

iv_status iv__reducer_open(iv__comm *comm, iv_dtype type, const iv__segment *segments, int64_t n,
                           int64_t larger_at, iv__reducer **out)
{
    iv__reducer *r;
    IV_TRY(iv__calloc(1, sizeof(*r), "a reduction", &r));
    r->comm = comm;
    r->type = type;
    r->larger_at = larger_at;
    r->n_segments = n;
    iv_status s = iv__calloc(n, sizeof(*segments), "segments", &r->segments);
    if (s == IV_OK && n) memcpy(r->segments, segments, (size_t)n * sizeof(*segments));
    if (s == IV_OK) s = make_chunks(r);
    if (s != IV_OK) {
        iv__reducer_close(r);
        return s;
    }
    *out = r;
    return IV_OK;
}

static void free_deal(iv__reducer *r)
{
    void **all[] = {(void **)&r->nodes,    (void **)&r->node_rank, (void **)&r->ops,
                    (void **)&r->received, (void **)&r->temporary, (void **)&r->messages,
                    (void **)&r->operands};
    for (int64_t i = 0; i < IV_COUNT(all); ++i) {
        free(*all[i]);
        *all[i] = NULL;
    }
}

void iv__reducer_close(iv__reducer *r)
{
    if (!r) return;
    free_deal(r);
    free(r->segments);
    free(r->chunks);
    free(r);
}

int64_t iv__reducer_bytes(const iv__reducer *r)
{
    return r->received ? r->received_bytes + (int64_t)r->temps * BLOCK : 0;
}

iv_status iv__reducer_deal(iv__reducer *r, int64_t grains, const iv__span *nodes,
                           const int32_t *rank, int64_t n)
{
    int32_t me = r->comm->ranks.rank, world = r->comm->ranks.world;
    free_deal(r);
    r->n_nodes = n;
    r->first_own = r->n_own = 0;
    IV_TRY(iv__calloc(n, sizeof(*r->nodes), "nodes", &r->nodes));
    IV_TRY(iv__calloc(n, sizeof(*r->node_rank), "nodes", &r->node_rank));
    IV_TRY(iv__calloc(n, sizeof(*r->ops), "additions", &r->ops));
    memcpy(r->nodes, nodes, (size_t)n * sizeof(*nodes));
    memcpy(r->node_rank, rank, (size_t)n * sizeof(*rank));
    IV_TRY(iv__fold_plan(grains, nodes, n, r->ops, &r->temps));
    for (int64_t i = n - 1; i >= 0; --i)
        if (rank[i] == me) {
            r->first_own = i;
            ++r->n_own;
        }
    r->received_bytes = 2 * (n - r->n_own) * CHUNK;
    if (world > 1) IV_TRY(iv__calloc(r->received_bytes, 1, "sums of other ranks", &r->received));
    IV_TRY(iv__calloc(r->temps, BLOCK, "sums of nodes", &r->temporary));
    IV_TRY(iv__calloc(n + r->temps, sizeof(*r->operands), "operands", &r->operands));
    /* In one set: my nodes to every owner, every node to me; or a chunk to and from everybody. */
    return iv__calloc(r->n_own * world + n + 2 * world, sizeof(*r->messages), "messages",
                      &r->messages);
}

/* ---- adding ---- */

/* dst = a + b, where dst may be a or b: in pieces, so that compilers see no overlap and use
 * vectors. */
#define ADD(name, type)                                                                            \
    static void name(type *dst, const type *a, const type *b, int64_t n)                           \
    {                                                                                              \
        enum { PIECE = 32 };                                                                       \
        type sum[PIECE];                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + PIECE <= n; i += PIECE) {                                                       \
            for (int k = 0; k < PIECE; ++k) sum[k] = a[i + k] + b[i + k];                          \
            memcpy(dst + i, sum, sizeof(sum));                                                     \
        }                                                                                          \
        for (; i < n; ++i) dst[i] = a[i] + b[i];                                                   \
    }
ADD(add_f32, float)
ADD(add_f64, double)

/* dst = the larger one, or NaN: kernels/portable.h, IV_MAX. */
#define LARGER(name, type)                                                                         \
    static void name(type *dst, const type *a, const type *b, int64_t n)                           \
    {                                                                                              \
        for (int64_t i = 0; i < n; ++i) dst[i] = a[i] > b[i] || a[i] != a[i] ? a[i] : b[i];        \
    }
LARGER(larger_f32, float)
LARGER(larger_f64, double)

void iv__sums_add(iv_dtype type, int64_t larger_at, int64_t at, void *dst, const void *a,
                  const void *b, int64_t bytes)
{
    int64_t n = bytes / (int64_t)iv_dtype_bytes(type), k = IV_MIN2(n, IV_MAX2(larger_at - at, 0));
    if (type == IV_F64) {
        add_f64(dst, a, b, k);
        larger_f64((double *)dst + k, (const double *)a + k, (const double *)b + k, n - k);
    } else {
        add_f32(dst, a, b, k);
        larger_f32((float *)dst + k, (const float *)a + k, (const float *)b + k, n - k);
    }
}

/* out = the tree over operands[0 .. n_nodes), each `bytes` long, of the arena from `first` on. */
static void fold(const iv__reducer *r, int64_t first, char *out, int64_t bytes)
{
    if (r->n_nodes == 1 && r->operands[0] != out) memcpy(out, r->operands[0], (size_t)bytes);
    for (int64_t at = 0; r->n_nodes > 1 && at < bytes; at += BLOCK) {
        int64_t n = IV_MIN2(bytes - at, (int64_t)BLOCK);
        for (int64_t i = 0; i + 1 < r->n_nodes; ++i) {
            const iv__fold_op *op = &r->ops[i];
            const char *a = r->operands[op->a], *b = r->operands[op->b];
            char *dst = i + 2 == r->n_nodes ? out + at : r->operands[op->dst];
            iv__sums_add(r->type, r->larger_at, first + at / element(r), dst,
                         op->a < r->n_nodes ? a + at : a, op->b < r->n_nodes ? b + at : b, n);
        }
    }
}

/* ---- sending ---- */

static const iv__segment *chunk(const iv__reducer *r, int32_t owner, int64_t step)
{
    return &r->chunks[owner * r->n_steps + step];
}

/* Where the chunk of node i of another rank arrives. */
static char *arrival(const iv__reducer *r, int64_t i, int64_t step)
{
    int64_t others = r->n_nodes - r->n_own, k = i < r->first_own ? i : i - r->n_own;
    return r->received + ((step % 2) * others + k) * CHUNK;
}

/* Starts the way of a step's partial sums to their owners. */
static iv_status start_reduce(iv__reducer *r, void *const *parts, int64_t step,
                              uint64_t *out_ticket)
{
    int32_t me = r->comm->ranks.rank, world = r->comm->ranks.world, n = 0;
    int64_t b = element(r);
    for (int32_t k = 1; k < world; ++k) { /* each begins with its right neighbour */
        int32_t to = (me + k) % world, from = (me + world - k) % world;
        const iv__segment *out = chunk(r, to, step), *in = chunk(r, me, step);
        for (int64_t i = 0; out->count && i < r->n_own; ++i)
            r->messages[n++] =
                (iv_message){to, 1, (char *)parts[i] + out->offset * b, out->count * b};
        for (int64_t i = 0; in->count && i < r->n_nodes; ++i)
            if (r->node_rank[i] == from)
                r->messages[n++] = (iv_message){from, 0, arrival(r, i, step), in->count * b};
    }
    return n ? iv__comm_start(r->comm, r->messages, n, out_ticket) : IV_OK;
}

static iv_status start_gather(iv__reducer *r, char *out, int64_t step, uint64_t *out_ticket)
{
    int32_t me = r->comm->ranks.rank, world = r->comm->ranks.world, n = 0;
    int64_t b = element(r);
    for (int32_t k = 1; k < world; ++k) {
        int32_t to = (me + k) % world, from = (me + world - k) % world;
        const iv__segment *mine = chunk(r, me, step), *theirs = chunk(r, from, step);
        if (mine->count && mine->gathered)
            r->messages[n++] = (iv_message){to, 1, out + mine->offset * b, mine->count * b};
        if (theirs->count && theirs->gathered)
            r->messages[n++] = (iv_message){from, 0, out + theirs->offset * b, theirs->count * b};
    }
    return n ? iv__comm_start(r->comm, r->messages, n, out_ticket) : IV_OK;
}

/* Adds this rank's chunk of a step. */
static void fold_step(iv__reducer *r, void *const *parts, char *out, int64_t step)
{
    const iv__segment *s = chunk(r, r->comm->ranks.rank, step);
    int64_t at = s->offset * element(r), own = 0;
    if (!s->count) return;
    for (int64_t i = 0; i < r->n_nodes; ++i)
        r->operands[i] = r->node_rank[i] == r->comm->ranks.rank ? (char *)parts[own++] + at
                                                                : arrival(r, i, step);
    for (int32_t i = 0; i < r->temps; ++i) r->operands[r->n_nodes + i] = r->temporary + i * BLOCK;
    fold(r, s->offset, out + at, s->count * element(r));
}

iv_status iv__reducer_run(iv__reducer *r, void *const *parts, void *out)
{
    uint64_t now = 0, next = 0, last = 0;
    IV_TRY(start_reduce(r, parts, 0, &now));
    for (int64_t step = 0; step < r->n_steps; ++step) {
        if (step + 1 < r->n_steps) IV_TRY(start_reduce(r, parts, step + 1, &next));
        if (now) IV_TRY(iv__comm_finish(r->comm, now));
        fold_step(r, parts, out, step);
        last = IV_MAX2(last, now);
        /* What this rank sent of the step is gone, so `out` may be one of the parts. */
        IV_TRY(start_gather(r, out, step, &last));
        now = next;
    }
    return last ? iv__comm_finish(r->comm, last) : IV_OK;
}
