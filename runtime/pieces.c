/* pieces.c: moving parameters and sums between their owners and the plans (see pieces.h). */
#include "pieces.h"

#include "reduce.h"

enum {
    RING = 2,     /* sets of a kind under way at once (plan_sets.c) */
    BLOCK = 8192, /* bytes that are added at once: operands stay in the first cache */
    COPY = -1     /* as an operand: there is none, the other one is copied */
};

/* A set under way. */
typedef struct flight {
    uint64_t ticket;
    bool sent;
} flight;

struct iv__pieces {
    iv__comm *comm;
    iv__store *store;
    iv__device *device;
    /* The passes of a step, and what is added in each: operands are what the ranks send [world],
     * what waits [n_waiting], and temporaries. */
    int64_t n_passes, pass;
    bool *has; /* [n_passes][world]: whether a rank has that pass */
    iv__fold_op *ops;
    int64_t *first_op; /* [n_passes + 1] */
    int32_t n_waiting, n_temps;
    char **waiting; /* [n_waiting]: as grad_mem; the first becomes the sums of the step */
    char *arrived;  /* [RING][other ranks][arrival] */
    int64_t arrival;
    char *staging; /* [2][RING][staged], where the host cannot reach the device's memory */
    int64_t staged;
    char *temps;     /* [n_temps][BLOCK] */
    char **operands; /* [world + n_waiting + n_temps] */
    iv_message *messages;
    flight flights[2][RING]; /* of parameters, of sums */
    uint64_t last;           /* stage 0: of the sums that come back; 0: none */
    int64_t bytes, waited_ns;
};

iv_status iv__pieces_open(iv__comm *comm, iv__store *store, iv__pieces **out)
{
    iv__pieces *p;
    IV_TRY(iv__calloc(1, sizeof(*p), "pieces", &p));
    *p = (iv__pieces){.comm = comm, .store = store, .device = store->device, .pass = -1};
    *out = p;
    return IV_OK;
}

static void free_deal(iv__pieces *p)
{
    for (int32_t i = 0; p->waiting && i < p->n_waiting; ++i)
        if (i > 0 || !iv__memory_host(&p->store->grad_mem)) free(p->waiting[i]);
    void **all[] = {(void **)&p->has,     (void **)&p->ops,      (void **)&p->first_op,
                    (void **)&p->waiting, (void **)&p->arrived,  (void **)&p->staging,
                    (void **)&p->temps,   (void **)&p->operands, (void **)&p->messages};
    for (int64_t i = 0; i < IV_COUNT(all); ++i) {
        free(*all[i]);
        *all[i] = NULL;
    }
    p->bytes = 0;
}

void iv__pieces_close(iv__pieces *p)
{
    if (!p) return;
    free_deal(p);
    free(p);
}

void iv__pieces_rest(iv__pieces *p)
{
    free_deal(p);
    p->n_passes = 0;
    p->pass = -1;
}

int64_t iv__pieces_passes(const iv__pieces *p)
{
    return p->n_passes;
}

void iv__pieces_pass(iv__pieces *p, int64_t pass)
{
    p->pass = pass;
}

int64_t iv__pieces_bytes(const iv__pieces *p)
{
    return p->bytes;
}

int64_t iv__pieces_waited(const iv__pieces *p)
{
    return p->waited_ns;
}

/* ---- what is added in which pass ---- */

/* Sums of a node of the tree. */
typedef struct item {
    iv__span node;
    int32_t operand;
    int64_t op;      /* of this pass, that makes them, or -1 */
    uint64_t waited; /* places of sums from earlier passes that are in them: a bit each */
} item;

typedef struct dealer {
    iv__pieces *p;
    int64_t grains, n_items, n_ops;
    item *items;    /* by their first grain */
    uint64_t taken; /* places of sums that wait */
} dealer;

static void insert(dealer *d, item x)
{
    int64_t i = d->n_items++;
    for (; i > 0 && d->items[i - 1].node.first > x.node.first; --i) d->items[i] = d->items[i - 1];
    d->items[i] = x;
}

static void join_items(dealer *d, int64_t first_op)
{
    for (int64_t i = 0; i + 1 < d->n_items;) {
        item *a = &d->items[i], b = d->items[i + 1];
        if (!iv__tree_joins(d->grains, a->node, b.node)) {
            ++i;
            continue;
        }
        const int32_t temp = -2 - (int32_t)(d->n_ops - first_op); /* numbered when all is known */
        d->p->ops[d->n_ops] = (iv__fold_op){a->operand, b.operand, temp};
        *a = (item){
            {a->node.first, a->node.count + b.node.count}, temp, d->n_ops++, a->waited | b.waited};
        memmove(a + 1, a + 2, (size_t)(d->n_items - i - 2) * sizeof(*a));
        --d->n_items;
        i = 0;
    }
}

/* What is new and could not be added to everything waits: where sums waited that are in it now, or
 * in a place that was free before this pass. */
static iv_status keep_items(dealer *d, bool last)
{
    const int32_t world = d->p->comm->ranks.world;
    const uint64_t before = d->taken;
    uint64_t now = 0;
    for (int64_t i = 0; i < d->n_items; ++i) {
        item *x = &d->items[i];
        const bool stays = x->op < 0 && x->operand >= world;
        uint64_t places = x->waited ? x->waited : ~(before | now);
        if (last) places = 1;
        if (!places)
            IV_FAIL(IV_UNSUPPORTED, "adding gradients in parts: more than 64 wait at once");
        const int32_t place = (int32_t)__builtin_ctzll(places);
        now |= 1ull << place;
        if (!stays && x->op >= 0) d->p->ops[x->op].dst = world + place;
        if (!stays && x->op < 0)
            d->p->ops[d->n_ops++] = (iv__fold_op){x->operand, COPY, world + place};
        *x = (item){x->node, world + place, -1, 1ull << place};
        d->p->n_waiting = IV_MAX2(d->p->n_waiting, place + 1);
    }
    d->taken = now;
    return IV_OK;
}

static iv_status deal_pass(dealer *d, int64_t k, const iv__span *nodes)
{
    iv__pieces *p = d->p;
    const int32_t world = p->comm->ranks.world;
    const int64_t first = p->first_op[k] = d->n_ops;
    for (int32_t r = 0; r < world; ++r)
        if (p->has[k * world + r]) insert(d, (item){nodes[r], r, -1, 0});
    join_items(d, first);
    IV_TRY(keep_items(d, k + 1 == p->n_passes));
    p->first_op[k + 1] = d->n_ops;
    p->n_temps = (int32_t)IV_MAX2(p->n_temps, d->n_ops - first);
    return IV_OK;
}

/* passes: [world][grains]; n: [world]. */
static iv_status deal_passes(iv__pieces *p, int64_t grains, const iv__pass *passes,
                             const int64_t *n)
{
    const int32_t world = p->comm->ranks.world;
    dealer d = {.p = p, .grains = grains};
    iv__span *nodes = NULL;
    int64_t total = 0;
    p->n_passes = p->n_waiting = p->n_temps = 0;
    for (int32_t r = 0; r < world; ++r) {
        p->n_passes = IV_MAX2(p->n_passes, n[r]);
        total += n[r];
    }
    IV_TRY(iv__calloc(p->n_passes * world, sizeof(*p->has), "passes", &p->has));
    IV_TRY(iv__calloc(p->n_passes + 1, sizeof(*p->first_op), "passes", &p->first_op));
    IV_TRY(iv__calloc(2 * total + 1, sizeof(*p->ops), "additions", &p->ops));
    IV_TRY(iv__calloc(total + 1, sizeof(*d.items), "sums", &d.items));
    iv_status s = iv__calloc(world, sizeof(*nodes), "nodes", &nodes);
    for (int64_t k = 0; s == IV_OK && k < p->n_passes; ++k) {
        for (int32_t r = 0; r < world; ++r) {
            p->has[k * world + r] = k < n[r];
            if (k < n[r]) nodes[r] = passes[r * grains + k].grains;
        }
        s = deal_pass(&d, k, nodes);
    }
    free(nodes);
    if (s == IV_OK && (d.n_items != 1 || d.items[0].node.count != grains))
        s = iv__fail(IV_INTERNAL, "adding gradients in parts: they do not make up the grains");
    free(d.items);
    /* Temporaries follow what waits. */
    for (int64_t i = 0; s == IV_OK && i < d.n_ops; ++i) {
        int32_t *all[] = {&p->ops[i].a, &p->ops[i].b, &p->ops[i].dst};
        for (int j = 0; j < 3; ++j)
            if (*all[j] < COPY) *all[j] = world + p->n_waiting - 2 - *all[j];
    }
    return s;
}

/* ---- memory ---- */

static int64_t type_bytes(const iv__pieces *p, const iv__move *m)
{
    const iv__store *s = p->store;
    return (int64_t)iv_dtype_bytes(m->arena == IV_ARENA_GRAD      ? s->type
                                   : m->arena == IV_ARENA_LOWERED ? s->lowered_type
                                                                  : s->param_type);
}

static bool is_own(const iv__pieces *p, const iv__move *m)
{
    return m->owner < 0 || m->owner == p->comm->ranks.rank;
}

static iv_status reserve(iv__pieces *p, int64_t n, int64_t each, const char *what, char **out)
{
    p->bytes += n * each;
    return iv__calloc(n, (size_t)each, what, out);
}

static iv_status allocate(iv__pieces *p, const iv__plan *plan)
{
    const int32_t world = p->comm->ranks.world;
    const bool reachable = iv__memory_host(&p->store->grad_mem) != NULL;
    int64_t moves = 0;
    p->arrival = p->staged = 0;
    for (int64_t i = 0; i < plan->n_sets; ++i) {
        const iv__set *s = &plan->sets[i];
        int64_t own = 0, all = 0;
        for (int64_t k = s->first; k < s->first + s->n; ++k) {
            const int64_t b = plan->moves[k].count * type_bytes(p, &plan->moves[k]);
            if (s->sums && is_own(p, &plan->moves[k])) own += b;
            all += b;
        }
        moves = IV_MAX2(moves, s->n);
        p->arrival = IV_MAX2(p->arrival, own);
        p->staged = IV_MAX2(p->staged, all);
    }
    IV_TRY(iv__calloc(p->n_waiting, sizeof(*p->waiting), "sums that wait", &p->waiting));
    if (reachable) p->waiting[0] = iv__memory_host(&p->store->grad_mem);
    for (int32_t i = reachable; i < p->n_waiting; ++i)
        IV_TRY(reserve(p, 1, p->store->grad_mem.bytes, "sums that wait", &p->waiting[i]));
    IV_TRY(reserve(p, RING * (world - 1), p->arrival, "sums of other ranks", &p->arrived));
    if (!reachable) IV_TRY(reserve(p, 2 * RING, p->staged, "moves of a device", &p->staging));
    IV_TRY(reserve(p, p->n_temps, BLOCK, "sums of nodes", &p->temps));
    IV_TRY(iv__calloc(world + p->n_waiting + p->n_temps, sizeof(*p->operands), "operands",
                      &p->operands));
    return iv__calloc(2 * world * moves, sizeof(*p->messages), "messages", &p->messages);
}

iv_status iv__pieces_deal(iv__pieces *p, int64_t grains, int64_t most, const iv__span *span,
                          const iv__plan *plan)
{
    const int32_t world = p->comm->ranks.world;
    iv__pass *passes;
    int64_t *n;
    iv__span nodes[IV__NODES_MOST];
    free_deal(p);
    IV_TRY(iv__comm_same(p->comm, iv__plan_sets_hash(plan), "another order of operators"));
    IV_TRY(iv__calloc(world * grains, sizeof(*passes), "passes", &passes));
    iv_status s = iv__calloc(world, sizeof(*n), "passes", &n);
    for (int32_t r = 0; s == IV_OK && r < world; ++r) {
        int64_t n_nodes;
        iv__passes_cut(grains, span[r], most, passes + r * grains, &n[r], nodes, &n_nodes);
    }
    if (s == IV_OK) {
        s = deal_passes(p, grains, passes, n);
        free(n);
    }
    free(passes);
    return s == IV_OK ? allocate(p, plan) : s;
}

/* ---- moving ---- */

/* Where the temporary of a move is: in the device's memory, and for the host. */
static iv_buffer device_range(const iv__pieces *p, const iv__plan *plan, const iv__move *m)
{
    iv_buffer b = iv__plan_range(plan, m->value);
    b.offset += m->skip * type_bytes(p, m);
    b.bytes = m->count * type_bytes(p, m);
    return b;
}

/* The parameters of a move that this rank owns. */
static iv_buffer owned_range(const iv__pieces *p, const iv__move *m)
{
    const iv__store *s = p->store;
    const int64_t b = type_bytes(p, m);
    return iv__memory_range(m->arena == IV_ARENA_LOWERED ? &s->lowered_mem : &s->param_mem,
                            (m->at - iv__store_first(s)) * b, m->count * b);
}

static flight *flight_of(iv__pieces *p, const iv__plan *plan, int64_t set)
{
    return &p->flights[plan->sets[set].sums][set % RING];
}

/* Host memory for the bytes of a move; `at`: of earlier moves of the set. */
static char *place_of(const iv__pieces *p, const iv__plan *plan, int64_t set, const iv__move *m,
                      int64_t at)
{
    const iv_buffer b = device_range(p, plan, m);
    if (p->staging) {
        const int64_t kind = plan->sets[set].sums;
        return p->staging + (kind * RING + set % RING) * p->staged + at;
    }
    return (char *)p->device->vt->mem_host(p->device->dev, b.mem) + b.offset;
}

static char *arrival_of(const iv__pieces *p, int64_t set, int32_t rank, int64_t at)
{
    const int32_t others = p->comm->ranks.world - 1, k = rank - (rank > p->comm->ranks.rank);
    return p->arrived + ((set % RING) * others + k) * p->arrival + at;
}

static int32_t add_params(iv__pieces *p, const iv__move *m, char *place, int32_t n)
{
    const int32_t me = p->comm->ranks.rank, world = p->comm->ranks.world;
    const int64_t bytes = m->count * type_bytes(p, m);
    if (m->owner != me) {
        p->messages[n++] = (iv_message){m->owner, 0, place, bytes};
        return n;
    }
    for (int32_t k = 1; k < world; ++k)
        p->messages[n++] = (iv_message){(me + k) % world, 1, place, bytes};
    return n;
}

/* `own`: bytes of earlier moves of the set that this rank owns. */
static int32_t add_sums(iv__pieces *p, const iv__move *m, char *place, int64_t set, int64_t own,
                        int32_t n)
{
    const int32_t me = p->comm->ranks.rank, world = p->comm->ranks.world;
    const int64_t bytes = m->count * type_bytes(p, m);
    const bool *has = p->has + p->pass * world;
    for (int32_t k = 1; k < world; ++k) {
        const int32_t to = (me + k) % world, from = (me + world - k) % world;
        if (has[me] && (m->owner < 0 || m->owner == to))
            p->messages[n++] = (iv_message){to, 1, place, bytes};
        if (has[from] && is_own(p, m))
            p->messages[n++] = (iv_message){from, 0, arrival_of(p, set, from, own), bytes};
    }
    return n;
}

/* Own parameters go into their temporary, and sums out of theirs, where the host can send them. */
static iv_status prepare(iv__pieces *p, const iv__plan *plan, const iv__move *m, char *place)
{
    const iv_backend *vt = p->device->vt;
    void *q = p->device->queue;
    if (m->arena == IV_ARENA_GRAD)
        return p->staging ? vt->read(q, place, device_range(p, plan, m)) : IV_OK;
    if (m->owner != p->comm->ranks.rank) return IV_OK;
    return p->staging ? vt->read(q, place, owned_range(p, m))
                      : vt->copy(q, device_range(p, plan, m), owned_range(p, m));
}

iv_status iv__pieces_send(iv__pieces *p, const iv__plan *plan, int64_t set)
{
    const iv__set *s = &plan->sets[set];
    flight *f = flight_of(p, plan, set);
    const bool computed =
        !s->sums || (p->pass >= 0 && p->has[p->pass * p->comm->ranks.world + p->comm->ranks.rank]);
    int64_t at = 0, own = 0;
    int32_t n = 0;
    f->sent = false;
    if (s->sums && p->pass < 0) return IV_OK;
    for (int64_t i = s->first; i < s->first + s->n; ++i) {
        const iv__move *m = &plan->moves[i];
        char *place = place_of(p, plan, set, m, at);
        if (computed) IV_TRY(prepare(p, plan, m, place));
        n = s->sums ? add_sums(p, m, place, set, own, n) : add_params(p, m, place, n);
        at += m->count * type_bytes(p, m);
        if (is_own(p, m)) own += m->count * type_bytes(p, m);
    }
    IV_TRY(p->device->vt->sync(p->device->queue));
    f->sent = n > 0;
    return n ? iv__comm_start(p->comm, p->messages, n, &f->ticket) : IV_OK;
}

/* This rank's sums of a move, from those of all ranks. */
static void fold(iv__pieces *p, const iv__move *m, char *place, int64_t set, int64_t own)
{
    const int32_t world = p->comm->ranks.world;
    const int64_t b = type_bytes(p, m), bytes = m->count * b,
                  at = iv__store_sum_at(p->store, m->at) * b;
    const int32_t fixed = world + p->n_waiting;
    for (int32_t r = 0; r < world; ++r)
        p->operands[r] = r == p->comm->ranks.rank ? place : arrival_of(p, set, r, own);
    for (int32_t i = 0; i < p->n_waiting; ++i) p->operands[world + i] = p->waiting[i] + at;
    for (int32_t i = 0; i < p->n_temps; ++i) p->operands[fixed + i] = p->temps + i * BLOCK;
    for (int64_t k = 0; k < bytes; k += BLOCK) {
        const int64_t n = IV_MIN2(bytes - k, (int64_t)BLOCK);
        for (int64_t i = p->first_op[p->pass]; i < p->first_op[p->pass + 1]; ++i) {
            const iv__fold_op *op = &p->ops[i];
            const char *x = p->operands[op->a] + (op->a < fixed ? k : 0);
            char *dst = p->operands[op->dst] + (op->dst < fixed ? k : 0);
            if (op->b == COPY) memcpy(dst, x, (size_t)n);
            else
                iv__sums_add(p->store->type, p->store->amax_at, m->at + k / b, dst, x,
                             p->operands[op->b] + (op->b < fixed ? k : 0), n);
        }
    }
}

/* Sums that their owners have added go to everybody. */
static iv_status give_back(iv__pieces *p, const iv__plan *plan, int64_t set)
{
    const iv__set *s = &plan->sets[set];
    int32_t n = 0;
    for (int64_t i = s->first; i < s->first + s->n; ++i)
        n = add_params(p, &plan->moves[i], place_of(p, plan, set, &plan->moves[i], 0), n);
    return n ? iv__comm_start(p->comm, p->messages, n, &p->last) : IV_OK;
}

iv_status iv__pieces_await(iv__pieces *p, const iv__plan *plan, int64_t set)
{
    const iv__set *s = &plan->sets[set];
    flight *f = flight_of(p, plan, set);
    const int64_t start = iv__now_ns();
    int64_t at = 0, own = 0;
    if (s->sums && p->pass < 0) return IV_OK;
    if (f->sent) IV_TRY(iv__comm_finish(p->comm, f->ticket));
    f->sent = false;
    p->waited_ns += iv__now_ns() - start;
    for (int64_t i = s->first; i < s->first + s->n; ++i) {
        const iv__move *m = &plan->moves[i];
        char *place = place_of(p, plan, set, m, at);
        if (s->sums && is_own(p, m)) fold(p, m, place, set, own);
        if (!s->sums && p->staging)
            IV_TRY(p->device->vt->write(p->device->queue, device_range(p, plan, m), place));
        at += m->count * type_bytes(p, m);
        if (is_own(p, m)) own += m->count * type_bytes(p, m);
    }
    return s->sums && p->store->share.stage == 0 ? give_back(p, plan, set) : IV_OK;
}

iv_status iv__pieces_end(iv__pieces *p)
{
    const iv__memory *g = &p->store->grad_mem;
    const int64_t start = iv__now_ns();
    p->pass = -1;
    if (p->last) IV_TRY(iv__comm_finish(p->comm, p->last));
    p->last = 0;
    p->waited_ns += iv__now_ns() - start;
    return p->staging ? iv__device_write(p->device, iv__memory_range(g, 0, g->bytes), p->waiting[0])
                      : IV_OK;
}
