/* replica.c: programs of a replica, its passes and the sums of them (see replica.h). */
#include "trainer.h"

#include "pieces.h"
#include "placement.h"

/* ---- programs ---- */

void iv__program_free(iv__program *p)
{
    iv__plan_free(p->plan);
    iv_graph_free(p->graph);
    *p = (iv__program){0};
}

static iv_status compile(iv_trainer *t, iv__program *p, bool train)
{
    iv_graph *g = p->graph;
    IV_TRY(t->build(t->build_ctx, g, p->batch, train, &p->io));
    IV_TRY(iv_graph_status(g));
    /* Read for the share of right answers, and for generation (one sample); else they need not
     * stay. */
    if (!train && (!t->info.is_tokens || p->batch == 1))
        iv_graph_set_output(g, "logits", p->io.logits);
    IV_TRY(iv__graph_commute(g));
    if (train) IV_TRY(iv_graph_differentiate(g));
    if (train && t->is_cut) IV_TRY(iv__graph_split_gradients(g));
    IV_TRY(iv__graph_prune(g));
    IV_TRY(iv__graph_cast(g, &t->precision));
    IV_TRY(iv__graph_absorb(g));
    IV_TRY(iv__graph_prune(g));
    return iv__graph_fuse(g);
}

static int32_t output_value(const iv_graph *g, const char *name)
{
    for (int32_t i = 0; i < g->n_outputs; ++i)
        if (strcmp(g->outputs[i].name, name) == 0) return g->outputs[i].value;
    return -1;
}

static iv_status make_store(iv_trainer *t, iv__replica *r, const iv_graph *g, bool train)
{
    iv__optim_options o = iv__trainer_optim(t);
    bool all = strcmp(iv_config_str(t->config, "optim.decay"), "all") == 0;
    return iv__store_new_part(r->device, g, &t->precision.policy, t->seed,
                              train ? iv__optim_moments(&o) : 0, all, t->workers.share, &r->store);
}

iv_status iv__program_new(iv_trainer *t, iv__replica *r, int64_t batch, bool train, int64_t grains,
                          iv__program *out)
{
    iv__program p = {.batch = batch, .grains = grains};
    IV_TRY(iv_graph_new(&p.graph));
    iv_graph_set_grains(p.graph, grains);
    iv_status s = compile(t, &p, train);
    if (s == IV_OK && !r->store) s = make_store(t, r, p.graph, train);
    if (s == IV_OK)
        s = iv__plan_new(r->store, p.graph, batch, r->n_programs ? r->programs[0].plan : NULL,
                         &p.plan);
    if (s == IV_OK) {
        p.loss = output_value(p.graph, "loss");
        p.logits = output_value(p.graph, "logits");
        *out = p;
        return IV_OK;
    }
    iv__program_free(&p);
    return s;
}

/* The training program for passes of so many grains, made on first use. */
static iv_status program_for(iv_trainer *t, iv__replica *r, int64_t grains, iv__program **out)
{
    int64_t per_grain = t->batch * t->accumulate / t->grains;
    for (int64_t i = 0; i < r->n_programs; ++i)
        if (r->programs[i].grains == grains) {
            *out = &r->programs[i];
            return IV_OK;
        }
    iv__program p;
    IV_TRY(iv__reserve(&r->programs, &r->cap_programs, r->n_programs + 1, sizeof(*r->programs),
                       "programs"));
    IV_TRY(iv__program_new(t, r, grains * per_grain, true, grains, &p));
    r->programs[r->n_programs++] = p;
    *out = &r->programs[r->n_programs - 1];
    return IV_OK;
}

/* ---- opening ---- */

/* A CPU device works on this rank's share of the machine, or on the NUMA node that it is named by;
 * what drives another device stays near it. */
static iv_status place_device(const iv_trainer *t, const char *name, iv__placement *out)
{
    const bool listed = strchr(iv_config_str(t->config, "device.devices"), ':') != NULL,
               cpu = strncmp(name, "cpu:", 4) == 0;
    const iv_ranks *r = &t->workers.comm->ranks;
    if (!cpu && listed) return IV_OK;
    IV_TRY(iv__placement_open(r,
                              !cpu     ? IV_PLACE_GPU_RANK
                              : listed ? IV_PLACE_NODES
                                       : IV_PLACE_RANK,
                              out));
    if (!cpu) iv__placement_stay(out);
    return IV_OK;
}

static iv_status open_device(const iv_trainer *t, const char *name, iv__device **out)
{
    bool invariant = strcmp(iv_config_str(t->config, "numerics.mode"), "invariant") == 0;
    iv__placement places = {0};
    IV_TRY(place_device(t, name, &places));
    iv_backend_options o = {.threads = (int32_t)iv_config_int(t->config, "device.threads"),
                            .isa = iv__env(IV__ENV_ISA),
                            .cache = iv__env(IV__ENV_CACHE),
                            .n_places = places.n,
                            .place = places.place};
    iv_status s = iv__device_open(name, &o, invariant, out);
    iv__placement_close(&places); /* the backend has a copy */
    return s;
}

static iv_status open_all(iv_trainer *t, iv__replica *r, const char *device, iv__span range)
{
    iv__optim_options o = iv__trainer_optim(t);
    IV_TRY(open_device(t, device, &r->device));
    IV_TRY(iv__replica_deal(t, r, range));
    return iv__optim_new(r->store, &o, &r->optim);
}

iv_status iv__replica_open(iv_trainer *t, const char *device, iv__span range, iv__replica **out)
{
    iv__replica *r;
    IV_TRY(iv__calloc(1, sizeof(*r), "a replica", &r));
    iv_status s = open_all(t, r, device, range);
    if (s != IV_OK) {
        iv__replica_close(r);
        return s;
    }
    *out = r;
    return IV_OK;
}

void iv__replica_close(iv__replica *r)
{
    if (!r) return;
    for (int64_t i = r->n_programs - 1; i >= 0; --i) /* they may use the memory of the first */
        iv__program_free(&r->programs[i]);
    iv__optim_free(r->optim);
    iv__store_free(r->store);
    for (int i = 0; i < IV__NODES_MOST; ++i) iv__memory_free(&r->slots[i]);
    iv__device_close(r->device);
    free(r->programs);
    free(r->passes);
    free(r);
}

/* ---- a range of grains ---- */

/* Slots that are in use at once: the sums of a pass wait there when others follow. */
static int64_t slots_needed(const iv__replica *r)
{
    int64_t depth = 0, most = 0;
    if (r->store->share.stage >= 2) return 0; /* they wait at their owners (pieces.c) */
    for (int64_t i = 0; i + 1 < r->n_passes; ++i) {
        depth += 1 - r->passes[i].joins;
        most = IV_MAX2(most, depth);
    }
    return most;
}

iv_status iv__replica_deal(iv_trainer *t, iv__replica *r, iv__span range)
{
    int64_t most = t->grains / t->accumulate, largest = 1;
    iv__program *p;
    IV_TRY(iv__reserve(&r->passes, &r->cap_passes, IV_MAX2(range.count, 1), sizeof(*r->passes),
                       "passes"));
    r->range = range;
    iv__passes_cut(t->grains, range, most, r->passes, &r->n_passes, r->nodes, &r->n_nodes);
    for (int64_t i = 0; i < r->n_passes; ++i) largest = IV_MAX2(largest, r->passes[i].grains.count);
    IV_TRY(program_for(t, r, largest, &p)); /* the first: others use its memory */
    for (int64_t i = 0; i < r->n_passes; ++i)
        IV_TRY(program_for(t, r, r->passes[i].grains.count, &p));
    for (int64_t i = slots_needed(r) - 1; i >= 0; --i)
        if (!r->slots[i].mem)
            IV_TRY(iv__memory_alloc(r->device, r->store->grad_mem.bytes, "sums of passes",
                                    &r->slots[i]));
    const iv__store *s = r->store;
    iv_program add = iv__store_add_program(s->type, s->amax_at),
               larger = iv__store_max_program(s->type, s->n_amax);
    IV_TRY(iv__device_program(r->device, &add, &r->add_kernel));
    return s->n_amax ? iv__device_program(r->device, &larger, &r->max_kernel) : IV_OK;
}

/* ---- running ---- */

/* grad = slot op grad over n elements from `at`. */
static iv_status combine(iv__replica *r, void *kernel, int64_t slot, int64_t at, int64_t n)
{
    int64_t b = (int64_t)iv_dtype_bytes(r->store->type);
    iv_buffer sums = iv__memory_range(&r->store->grad_mem, at * b, n * b);
    iv_launch l = {.n_bufs = 3,
                   .groups = (n + IV_PROGRAM_TILE - 1) / IV_PROGRAM_TILE,
                   .buf = {iv__memory_range(&r->slots[slot], at * b, n * b), sums, sums}};
    return r->device->vt->launch(r->device->queue, kernel, &l);
}

static iv_status join(iv__replica *r, int64_t slot)
{
    const iv__store *s = r->store;
    IV_TRY(combine(r, r->add_kernel, slot, 0, s->amax_at));
    return s->n_amax ? combine(r, r->max_kernel, slot, s->amax_at, s->n_amax) : IV_OK;
}

/* Whether sums leave during the passes. */
static bool moves_sums(const iv__replica *r)
{
    return r->store->pieces && iv__pieces_passes(r->store->pieces) > 0;
}

static iv_status run_pass(iv_trainer *t, iv__replica *r, iv__span grains, const iv__feed *f)
{
    int64_t per_grain = t->batch * t->accumulate / t->grains, at = grains.first * per_grain;
    iv__program *p;
    iv_uniforms u = {f->seed, f->step, (uint64_t)at};
    IV_TRY(program_for(t, r, grains.count, &p));
    IV_TRY(iv__plan_uniforms(p->plan, &u));
    IV_TRY(iv__program_feed(t, p, f->x + (size_t)at * t->x_bytes, f->y + at * t->y_count, f->norm,
                            f->scale));
    IV_TRY(t->detect_anomaly ? iv__plan_run_guarded(t, p->plan) : iv__plan_run(p->plan));
    /* Where sums leave during the pass, they are complete when the step is. */
    return moves_sums(r) ? IV_OK : iv__inject(t, r, grains);
}

/* All ranks go through the passes together; sums leave as soon as they are there. */
static iv_status run_in_step(iv_trainer *t, iv__replica *r, const iv__feed *f)
{
    iv__pieces *p = r->store->pieces;
    for (int64_t k = 0; k < iv__pieces_passes(p); ++k) {
        iv__pieces_pass(p, k);
        IV_TRY(k < r->n_passes ? run_pass(t, r, r->passes[k].grains, f)
                               : iv__plan_serve(r->programs[0].plan));
    }
    IV_TRY(iv__pieces_end(p));
    return iv__inject(t, r, (iv__span){0, t->grains});
}

iv_status iv__replica_run(iv_trainer *t, iv__replica *r, const iv__feed *f)
{
    const iv__memory *g = &r->store->grad_mem;
    int64_t waiting = 0;
    if (moves_sums(r)) return run_in_step(t, r, f);
    for (int64_t i = 0; i < r->n_passes; ++i) {
        IV_TRY(run_pass(t, r, r->passes[i].grains, f));
        for (int32_t k = 0; k < r->passes[i].joins; ++k) IV_TRY(join(r, --waiting));
        if (i + 1 == r->n_passes) break;
        IV_TRY(r->device->vt->copy(r->device->queue,
                                   iv__memory_range(&r->slots[waiting++], 0, g->bytes),
                                   iv__memory_range(g, 0, g->bytes)));
    }
    return IV_OK;
}

iv__program *iv__replica_last(iv__replica *r)
{
    int64_t grains = r->n_passes ? r->passes[r->n_passes - 1].grains.count : 0;
    for (int64_t i = 0; i < r->n_programs; ++i)
        if (r->programs[i].grains == grains) return &r->programs[i];
    return &r->programs[0];
}

const iv__memory *iv__replica_sums(const iv__replica *r, int64_t i)
{
    return i + 1 < r->n_nodes ? &r->slots[i] : &r->store->grad_mem;
}
