/* store.c: arenas of parameters and what goes with them (see store.h). */
#include "store.h"

#include "rng.h"
#include "../kernels/math.h"

#include <xxhash.h>

enum { SLOT_ALIGN = 64 }; /* elements: part of the numerics contract (norm blocks) */

static int64_t slot_room(int64_t count)
{
    return (count + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const iv__slot *)a)->name, ((const iv__slot *)b)->name);
}

/* Slots for the graph's values of a role, or (summands) for parts of gradients, from element `at`
 * on. They lie in the order of their names: C compilers differ in the order in which they evaluate
 * arguments, so iv_linear(g, x, iv_param(...), iv_param(...), ...) makes either parameter first. */
static iv_status collect(const iv_graph *g, iv__role role, bool summands, int64_t at,
                         iv__slot **out, int64_t *out_n, int64_t *out_elems)
{
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_values; ++i)
        n += g->values[i].role == role && (g->values[i].summand_of > 0) == summands;
    iv__slot *slots;
    IV_TRY(iv__calloc(n, sizeof(*slots), "parameters", &slots));
    *out = slots;
    *out_n = n;
    n = 0;
    for (int64_t i = 0; i < g->n_values; ++i) {
        const iv__value *v = &g->values[i];
        if (v->role != role || (v->summand_of > 0) != summands) continue;
        iv__slot *s = &slots[n++];
        IV_TRY(iv__strdup(v->name, &s->name));
        s->shape = v->shape;
        s->init = v->init;
        s->count = iv_shape_count(&v->shape);
        s->decay = v->shape.rank >= 2;
        s->rate = v->updates >= 0 ? v->rate : 0;
    }
    qsort(slots, (size_t)n, sizeof(*slots), by_name);
    for (int64_t i = 0; i < n; ++i) {
        slots[i].offset = at;
        at += slot_room(slots[i].count);
    }
    *out_elems = at;
    return IV_OK;
}

/* ---- initial values: kernels/init.k, or the same arithmetic here for devices without f64 ---- */

static double normal(uint64_t seed, uint32_t stream, uint64_t i)
{
    uint64_t pair = i / 2;
    double u = ((double)iv_random_u32(seed, stream, 0, 2 * pair) + 1.0) * 0x1p-32;
    double v = (double)iv_random_u32(seed, stream, 0, 2 * pair + 1) * 0x1p-32;
    double r = __builtin_sqrt(-2.0 * iv_log_d(u)), a = 6.283185307179586 * v;
    return (double)(float)(r * (i % 2 ? iv_sin_d(a) : iv_cos_d(a)));
}

double iv__initial_value(iv_init init, uint64_t seed, uint32_t stream, uint64_t i)
{
    switch (init.kind) {
    case IV_INIT_ONES: return 1;
    case IV_INIT_NORMAL: return (double)(float)(init.scale * normal(seed, stream, i));
    case IV_INIT_UNIFORM: {
        double u = (double)iv_uniform(iv_random_u32(seed, stream, 0, i));
        return (double)(float)(init.scale * (2.0 * u - 1.0));
    }
    case IV_INIT_ZEROS: break;
    }
    return 0;
}

iv_dtype iv__store_type(const iv__store *s, const iv__memory *m)
{
    if (m == &s->param_mem) return s->param_type;
    if (m == &s->lowered_mem) return s->lowered_type;
    return m == &s->moment_mem[0] || m == &s->moment_mem[1] ? s->moment_type : s->type;
}

static iv_status fill_from_host(iv__store *st, const iv__slot *s, iv_dtype type, iv_buffer to,
                                uint64_t seed, uint32_t stream)
{
    int64_t b = (int64_t)iv_dtype_bytes(type);
    char *host;
    IV_TRY(iv__calloc(s->count, (size_t)b, "initial values", &host));
    for (int64_t i = 0; i < s->count; ++i)
        iv__dtype_put(type, host + i * b, iv__initial_value(s->init, seed, stream, (uint64_t)i));
    iv_status status = iv__device_write(st->device, to, host);
    free(host);
    return status;
}

static iv_status fill_slot(iv__store *st, const iv__slot *s, const iv__memory *mem, iv_dtype type,
                           uint64_t seed, uint32_t stream)
{
    enum { BLOCK = 4096 }; /* elements of a group of kernels/init.k */
    const char *name = s->init.kind == IV_INIT_NORMAL    ? "init_normal"
                       : s->init.kind == IV_INIT_UNIFORM ? "init_uniform"
                                                         : NULL;
    iv_buffer to = iv__slot_range(mem, s, type);
    char letter = iv__letter(type), sig[3] = {letter, letter};
    void *kernel;
    if (s->init.kind == IV_INIT_ZEROS) return IV_OK; /* memories start so */
    if (!name || !st->device->info.has_f64) return fill_from_host(st, s, type, to, seed, stream);
    IV_TRY(iv__device_kernel(st->device, "init", name, sig, &kernel));
    iv_launch l = {.buf = {to},
                   .n_bufs = 1,
                   .groups = (s->count + BLOCK - 1) / BLOCK,
                   .n = {s->count, (int64_t)seed, stream},
                   .f = {s->init.scale}};
    return st->device->vt->launch(st->device->queue, kernel, &l);
}

/* A slot of which the memory has elements [first, first + held) of the arena. */
static iv_status fill_part(iv__store *st, iv__slot s, const iv__memory *mem, int64_t first,
                           int64_t held, uint64_t seed, uint32_t stream)
{
    iv_dtype type = iv__store_type(st, mem);
    int64_t b = (int64_t)iv_dtype_bytes(type), from = IV_MAX2(s.offset, first),
            end = IV_MIN2(s.offset + s.count, first + held), at = s.offset;
    iv__memory whole = {0};
    s.offset -= first;
    if (from >= end) return IV_OK;
    if (end - from == s.count) return fill_slot(st, &s, mem, type, seed, stream);
    s.offset = 0;
    IV_TRY(iv__memory_alloc(st->device, s.count * b, "initial values", &whole));
    iv_status status = fill_slot(st, &s, &whole, type, seed, stream);
    if (status == IV_OK)
        status = st->device->vt->copy(st->device->queue,
                                      iv__memory_range(mem, (from - first) * b, (end - from) * b),
                                      iv__memory_range(&whole, (from - at) * b, (end - from) * b));
    if (status == IV_OK) status = st->device->vt->sync(st->device->queue);
    iv__memory_free(&whole);
    return status;
}

static iv_status fill_slots(iv__store *st, const iv__slot *slots, int64_t n, const iv__memory *mem,
                            uint64_t seed)
{
    const bool params = mem == &st->param_mem;
    const int64_t first = params ? iv__store_first(st) : 0,
                  held = params ? iv__store_held(st) : st->state_elems;
    for (int64_t k = 0; k < n; ++k)
        IV_TRY(fill_part(st, slots[k], mem, first, held, seed,
                         (uint32_t)(IV__STREAM_INIT + (k << 8))));
    return st->device->vt->sync(st->device->queue);
}

static iv_status fill_groups(iv__store *st, bool decay_all)
{
    int64_t n = st->param_elems / SLOT_ALIGN;
    uint8_t *host;
    IV_TRY(iv__calloc(n + 4, 1, "weight decay groups", &host));
    for (int64_t k = 0; k < st->n_params; ++k)
        for (int64_t i = st->params[k].offset / SLOT_ALIGN;
             i < (st->params[k].offset + slot_room(st->params[k].count)) / SLOT_ALIGN; ++i)
            host[i] = st->params[k].decay || decay_all;
    iv_status s =
        iv__memory_alloc(st->device, (n + 3) / 4 * 4, "weight decay groups", &st->group_mem);
    if (s == IV_OK && n)
        s = iv__device_write(st->device, iv__memory_range(&st->group_mem, 0, n), host);
    free(host);
    return s;
}

/* The room behind the gradients for their summands. */
static iv_status collect_summands(iv__store *s, const iv_graph *g)
{
    IV_TRY(collect(g, IV_ROLE_PARAM, true, s->param_elems, &s->summands, &s->n_summands,
                   &s->grad_elems));
    for (int64_t i = 0; i < s->n_summands; ++i) {
        const iv__value *v = &g->values[iv__graph_find(g, s->summands[i].name)];
        s->summands[i].summand_of =
            iv__store_find(s->params, s->n_params, g->values[v->summand_of - 1].name);
    }
    return IV_OK;
}

static iv_program binary_program(iv__op op, iv_dtype type, int64_t n)
{
    iv_program p;
    memset(&p, 0, sizeof(p));
    p.n_in = 2;
    p.n_ops = p.n_dims = 1;
    p.compute = p.out_type = p.in_type[0] = p.in_type[1] = (uint8_t)type;
    p.out_reg = 2;
    p.dim[0] = n;
    p.in_stride[0][0] = p.in_stride[1][0] = p.out_stride[0] = 1;
    p.ops[0] = (iv_program_op){.op = (uint8_t)op, .dst = 2, .src = {0, 1}, .round = (uint8_t)type};
    return p;
}

iv_program iv__store_add_program(iv_dtype type, int64_t n)
{
    return binary_program(IV_OP_ADD, type, n);
}

iv_program iv__store_max_program(iv_dtype type, int64_t n)
{
    return binary_program(IV_OP_MAXIMUM, type, n);
}

/* Rates of the states, one for each 64 elements. */
static iv_status fill_rates(iv__store *st)
{
    int64_t n = st->state_elems / SLOT_ALIGN, b = (int64_t)iv_dtype_bytes(st->type);
    char *host;
    if (n == 0) return IV_OK;
    IV_TRY(iv__calloc(n, (size_t)b, "rates of statistics", &host));
    for (int64_t k = 0; k < st->n_states; ++k)
        for (int64_t i = st->states[k].offset / SLOT_ALIGN;
             i < (st->states[k].offset + slot_room(st->states[k].count)) / SLOT_ALIGN; ++i) {
            if (st->type == IV_F64) ((double *)host)[i] = st->states[k].rate;
            else ((float *)host)[i] = (float)st->states[k].rate;
        }
    iv_status s = iv__memory_alloc(st->device, n * b, "rates of statistics", &st->rate_mem);
    if (s == IV_OK)
        s = iv__device_write(st->device, iv__memory_range(&st->rate_mem, 0, n * b), host);
    free(host);
    return s == IV_OK ? iv__device_kernel(st->device, "optim", "running",
                                          st->type == IV_F64 ? "dd" : "ff", &st->running_kernel)
                      : s;
}

/* Of each summand, the part that belongs to this rank's gradients.  Returns the end of them. */
static int64_t own_summands(iv__store *s, int64_t at)
{
    for (int64_t i = 0; i < s->n_summands; ++i) {
        iv__slot *u = &s->summands[i];
        const iv__slot *p = &s->params[u->summand_of];
        const iv__span own = s->share.stage >= 2
                                 ? iv__store_owned(s, p, s->share.part, s->share.parts)
                                 : iv__store_owned(s, p, 0, 1);
        u->own = own.first;
        u->n_own = IV_MAX2(IV_MIN2(own.first + own.count, u->count) - u->own, 0);
        u->own_at = at;
        at += slot_room(u->n_own);
    }
    return at;
}

int64_t iv__store_sum_at(const iv__store *s, int64_t i)
{
    if (s->share.stage < 2) return i;
    if (i < s->param_elems) return i - s->shard_at;
    int64_t end = s->shard_elems;
    for (int64_t k = 0; k < s->n_summands; ++k) {
        const iv__slot *u = &s->summands[k];
        if (i < u->offset + slot_room(u->count)) return u->own_at + i - u->offset - u->own;
        end = u->own_at + slot_room(u->n_own);
    }
    return end + i - s->stat_at;
}

/* The gradient arena, and what works on its parts. */
static iv_status make_gradients(iv__store *s, const iv_graph *g)
{
    IV_TRY(collect_summands(s, g));
    s->stat_at = s->grad_elems;
    s->loss_at = s->stat_at + s->state_elems;
    s->amax_at = s->loss_at + SLOT_ALIGN;
    s->n_amax = g->n_scaled;
    s->grad_elems = s->amax_at + slot_room(s->n_amax);
    const int64_t own = own_summands(s, iv__store_held_sums(s)), tail = s->grad_elems - s->stat_at;
    if (!g->differentiated) return IV_OK;
    IV_TRY(iv__memory_alloc(s->device, (own + tail) * (int64_t)iv_dtype_bytes(s->type), "gradients",
                            &s->grad_mem));
    IV_TRY(iv__calloc(s->n_summands, sizeof(*s->summand_kernels), "sums of gradients",
                      &s->summand_kernels));
    for (int64_t i = 0; i < s->n_summands; ++i) {
        iv_program p = iv__store_add_program(s->type, IV_MAX2(s->summands[i].n_own, 1));
        IV_TRY(iv__device_program(s->device, &p, &s->summand_kernels[i]));
    }
    return fill_rates(s);
}

static iv_status make_arenas(iv__store *s, const iv_graph *g, uint64_t seed, int32_t moments,
                             bool decay_all)
{
    IV_TRY(collect(g, IV_ROLE_PARAM, false, 0, &s->params, &s->n_params, &s->param_elems));
    IV_TRY(collect(g, IV_ROLE_STATE, false, 0, &s->states, &s->n_states, &s->state_elems));
    int64_t b = (int64_t)iv_dtype_bytes(s->type), moment = (int64_t)iv_dtype_bytes(s->moment_type);
    s->shard_at = iv__store_cut(s->param_elems, s->share.part, s->share.parts);
    s->shard_elems = iv__store_cut(s->param_elems, s->share.part + 1, s->share.parts) - s->shard_at;
    IV_TRY(iv__memory_alloc(s->device, iv__store_held(s) * (int64_t)iv_dtype_bytes(s->param_type),
                            "parameters", &s->param_mem));
    IV_TRY(make_gradients(s, g));
    IV_TRY(iv__memory_alloc(s->device, s->state_elems * b, "running statistics", &s->state_mem));
    s->n_moments = moments;
    for (int32_t i = 0; i < moments; ++i)
        IV_TRY(iv__memory_alloc(s->device, s->shard_elems * moment, "optimizer state",
                                &s->moment_mem[i]));
    IV_TRY(fill_groups(s, decay_all));
    IV_TRY(fill_slots(s, s->params, s->n_params, &s->param_mem, seed));
    return fill_slots(s, s->states, s->n_states, &s->state_mem, seed);
}

int64_t iv__store_cut(int64_t n, int32_t part, int32_t parts)
{
    enum { BLOCK = 4096 }; /* of the norm */
    return IV_MIN2(n, (n + BLOCK - 1) / BLOCK * part / parts * BLOCK);
}

iv__span iv__store_owned(const iv__store *s, const iv__slot *p, int32_t part, int32_t parts)
{
    const int64_t first = IV_MAX2(p->offset, iv__store_cut(s->param_elems, part, parts)),
                  end = IV_MIN2(p->offset + slot_room(p->count),
                                iv__store_cut(s->param_elems, part + 1, parts));
    return first < end ? (iv__span){first - p->offset, end - first} : (iv__span){0, 0};
}

iv_status iv__store_new(iv__device *d, const iv_graph *g, const iv_policy *policy, uint64_t seed,
                        int32_t moments, bool decay_all, iv__store **out)
{
    return iv__store_new_part(d, g, policy, seed, moments, decay_all, (iv__share){.parts = 1}, out);
}

iv_status iv__store_new_part(iv__device *d, const iv_graph *g, const iv_policy *policy,
                             uint64_t seed, int32_t moments, bool decay_all, iv__share share,
                             iv__store **out)
{
    iv__store *s;
    IV_TRY(iv__calloc(1, sizeof(*s), "the store", &s));
    s->device = d;
    s->type = policy->full;
    s->param_type = policy->param;
    s->moment_type = policy->moment;
    s->share = share;
    iv_status st = make_arenas(s, g, seed, moments, decay_all);
    if (st != IV_OK) {
        iv__store_free(s);
        return st;
    }
    *out = s;
    return IV_OK;
}

static void free_slots(iv__slot *slots, int64_t n)
{
    for (int64_t i = 0; slots && i < n; ++i) free(slots[i].name);
    free(slots);
}

void iv__store_free(iv__store *s)
{
    if (!s) return;
    iv__memory *all[] = {&s->param_mem,     &s->grad_mem,  &s->state_mem,   &s->moment_mem[0],
                         &s->moment_mem[1], &s->group_mem, &s->lowered_mem, &s->rate_mem};
    free(s->summand_kernels);
    for (int64_t i = 0; i < IV_COUNT(all); ++i) iv__memory_free(all[i]);
    free_slots(s->params, s->n_params);
    free_slots(s->states, s->n_states);
    free_slots(s->summands, s->n_summands);
    free(s);
}

/* A cast of n elements as a one-dimensional program. */
static iv_program cast_program(iv_dtype from, iv_dtype to, int64_t n)
{
    iv_program p;
    memset(&p, 0, sizeof(p));
    p.n_in = p.n_ops = p.n_dims = 1;
    p.compute = IV_F32;
    p.in_type[0] = (uint8_t)from;
    p.out_type = (uint8_t)to;
    p.out_reg = 1;
    p.dim[0] = n;
    p.in_stride[0][0] = p.out_stride[0] = 1;
    p.ops[0] = (iv_program_op){.op = IV_OP_CAST, .dst = 1, .round = (uint8_t)to};
    return p;
}

iv_status iv__store_lowered(iv__store *s, iv_dtype t)
{
    if (s->lower_kernel && s->lowered_type == t) return IV_OK;
    if (s->lower_kernel)
        IV_FAIL(IV_UNSUPPORTED, "lowering parameters to %s: the run lowers them to %s already",
                iv_dtype_name(t), iv_dtype_name(s->lowered_type));
    iv_program p = cast_program(s->param_type, t, IV_MAX2(iv__store_held(s), 1));
    IV_TRY(iv__memory_alloc(s->device, iv__store_held(s) * (int64_t)iv_dtype_bytes(t),
                            "lowered parameters", &s->lowered_mem));
    IV_TRY(iv__device_program(s->device, &p, &s->lower_kernel));
    s->lowered_type = t;
    return iv__store_lower(s);
}

iv_status iv__store_lower(iv__store *s)
{
    const int64_t n = iv__store_held(s);
    if (!s->lower_kernel || !n) return IV_OK;
    iv_launch l = {.n_bufs = 2,
                   .groups = (n + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE,
                   .buf = {iv__memory_range(&s->param_mem, 0, s->param_mem.bytes),
                           iv__memory_range(&s->lowered_mem, 0, s->lowered_mem.bytes)}};
    return s->device->vt->launch(s->device->queue, s->lower_kernel, &l);
}

/* Where the own part of a summand lies. */
static int64_t from_at(const iv__store *s, const iv__slot *u)
{
    return iv__store_sum_at(s, u->offset + u->own);
}

iv_status iv__store_add_summands(iv__store *s)
{
    for (int64_t i = s->n_summands - 1; i >= 0; --i) { /* the last one was split off first */
        const iv__slot *from = &s->summands[i], *to = &s->params[from->summand_of];
        const int64_t b = (int64_t)iv_dtype_bytes(s->type), n = from->n_own;
        if (n == 0) continue;
        iv_buffer sum =
            iv__memory_range(&s->grad_mem, iv__store_sum_at(s, to->offset + from->own) * b, n * b);
        iv_launch l = {
            .n_bufs = 3,
            .groups = (n + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE,
            .buf = {sum, iv__memory_range(&s->grad_mem, from_at(s, from) * b, n * b), sum}};
        IV_TRY(s->device->vt->launch(s->device->queue, s->summand_kernels[i], &l));
    }
    return IV_OK;
}

iv_status iv__store_follow(iv__store *s, int64_t grains)
{
    enum { BLOCK = 4096 }; /* elements of a group of the kernel */
    int64_t b = (int64_t)iv_dtype_bytes(s->type);
    if (!s->state_elems) return IV_OK;
    iv_launch l = {.n_bufs = 3,
                   .groups = (s->state_elems + BLOCK - 1) / BLOCK,
                   .buf = {iv__memory_range(&s->state_mem, 0, s->state_mem.bytes),
                           iv__memory_range(&s->grad_mem, iv__store_sum_at(s, s->stat_at) * b,
                                            s->state_elems * b),
                           iv__memory_range(&s->rate_mem, 0, s->rate_mem.bytes)},
                   .n = {s->state_elems},
                   .f = {(double)grains}};
    return s->device->vt->launch(s->device->queue, s->running_kernel, &l);
}

int64_t iv__store_find(const iv__slot *slots, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; ++i)
        if (strcmp(slots[i].name, name) == 0) return i;
    return -1;
}

/* ---- hash ---- */

/* Feeds the slots of one arena, in order of their names. */
static iv_status hash_slots(iv__store *s, XXH3_state_t *h, const iv__slot *slots, int64_t n,
                            const iv__memory *mem)
{
    iv_dtype type = iv__store_type(s, mem);
    int64_t b = (int64_t)iv_dtype_bytes(type), most = 0;
    char *host = NULL;
    for (int64_t i = 0; i < n; ++i) most = IV_MAX2(most, slots[i].count);
    iv_status st = iv__calloc(most, (size_t)b, "hashing", &host);
    for (int64_t i = 0; st == IV_OK && i < n; ++i) {
        const iv__slot *t = &slots[i];
        st = iv__device_read(s->device, host, iv__slot_range(mem, t, type));
        XXH3_128bits_update(h, t->name, strlen(t->name) + 1);
        XXH3_128bits_update(h, iv_dtype_name(type), 4);
        XXH3_128bits_update(h, t->shape.dim, (size_t)t->shape.rank * sizeof(int64_t));
        XXH3_128bits_update(h, host, (size_t)(t->count * b));
    }
    free(host);
    return st;
}

iv_status iv__store_hash(iv__store *s, bool optimizer_state, char out_hex[33])
{
    XXH3_state_t *h = XXH3_createState();
    if (!h) IV_FAIL(IV_NO_MEMORY, "hashing parameters");
    XXH3_128bits_reset(h);
    iv_status st = IV_OK;
    if (!optimizer_state) {
        st = hash_slots(s, h, s->params, s->n_params, &s->param_mem);
        if (st == IV_OK) st = hash_slots(s, h, s->states, s->n_states, &s->state_mem);
    }
    for (int32_t i = 0; optimizer_state && st == IV_OK && i < 2; ++i)
        if (s->moment_mem[i].mem) st = hash_slots(s, h, s->params, s->n_params, &s->moment_mem[i]);
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits_digest(h));
    XXH3_freeState(h);
    for (int i = 0; st == IV_OK && i < 16; ++i) snprintf(out_hex + 2 * i, 3, "%02x", c.digest[i]);
    return st;
}
