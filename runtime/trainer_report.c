/* trainer_report.c: memory by category, the plan as text, and the list of devices. */
#include "trainer.h"

#include "placement.h"
#include "registry.h"

static int64_t program_bytes(const iv__program *p, int64_t *inputs, int64_t *temps)
{
    if (!p->plan) return 0;
    *inputs += p->plan->input_mem.bytes;
    if (!p->plan->temp_borrowed) *temps += p->plan->temp_mem.bytes;
    return p->plan->uniform_mem.bytes;
}

static void add_replica(const iv__replica *r, iv_memory_report *m)
{
    const iv__store *s = r->store;
    /* Sums of parameters that are used several times, until they are one. */
    const int64_t b = (int64_t)iv_dtype_bytes(s->type),
                  summands = s->n_summands
                                 ? (iv__store_sum_at(s, s->stat_at) - iv__store_held_sums(s)) * b
                                 : 0;
    m->parameters += s->param_mem.bytes;
    m->gradients += s->grad_mem.bytes - summands;
    m->other += summands;
    m->optimizer += s->moment_mem[0].bytes + s->moment_mem[1].bytes;
    m->lowered += s->lowered_mem.bytes;
    m->statistics += s->state_mem.bytes;
    m->other += s->group_mem.bytes + s->rate_mem.bytes;
    for (int i = 0; i < IV__NODES_MOST; ++i) m->gradients += r->slots[i].bytes;
    for (int64_t i = 0; i < r->n_programs; ++i)
        m->other += program_bytes(&r->programs[i], &m->inputs, &m->temporaries);
    m->other += r->optim->hyper_mem.bytes + r->optim->scalar_mem.bytes + r->optim->part_mem.bytes;
    m->allocated += r->device->allocated;
}

void iv_trainer_memory(const iv_trainer *t, iv_memory_report *out)
{
    iv_memory_report r = {0};
    for (int64_t i = 0; i < t->workers.n_replicas; ++i) add_replica(t->workers.replicas[i], &r);
    const iv__workers *w = &t->workers;
    for (int64_t i = 0; i < w->replicas[0]->n_programs; ++i)
        r.passing = IV_MAX2(r.passing, w->replicas[0]->programs[i].plan->passing);
    r.gradients += w->gradients.bytes;
    r.exchange = (w->pieces ? iv__pieces_bytes(w->pieces) : 0) +
                 (w->reducer && !w->overlaps ? iv__reducer_bytes(w->reducer) : 0);
    const iv__program *more[] = {&t->eval, &t->generate};
    for (int i = 0; i < 2; ++i) r.other += program_bytes(more[i], &r.inputs, &r.temporaries);
    r.total = r.parameters + r.gradients + r.optimizer + r.lowered + r.statistics + r.inputs +
              r.temporaries + r.other;
    *out = r;
}

iv_status iv_trainer_memory_all(iv_trainer *t, iv_memory_report *out)
{
    iv__comm *c = t->workers.comm;
    iv_trainer_memory(t, &out[c->ranks.rank]);
    return iv__comm_gather(c, out, sizeof(*out));
}

static void print_bytes(iv__text *x, const char *what, int64_t bytes)
{
    iv__text_printf(x, "  %-22s %14lld  %9.2f MiB\n", what, (long long)bytes,
                    (double)bytes / 1048576.0);
}

static void print_memory(const iv_trainer *t, iv__text *x)
{
    iv_memory_report m;
    iv_trainer_memory(t, &m);
    iv__text_printf(x, "memory of %s, bytes\n", t->device->name);
    print_bytes(x, "parameters", m.parameters);
    print_bytes(x, "gradients", m.gradients);
    print_bytes(x, "optimizer state", m.optimizer);
    print_bytes(x, "lowered parameters", m.lowered);
    print_bytes(x, "running statistics", m.statistics);
    print_bytes(x, "inputs and outputs", m.inputs);
    print_bytes(x, "temporaries", m.temporaries);
    print_bytes(x, "other", m.other);
    print_bytes(x, "total", m.total);
    iv__text_printf(x, "  temporaries would take %.2f MiB without reuse\n",
                    (double)t->workers.replicas[0]->programs[0].plan->temp_unshared / 1048576.0);
}

/* What each rank keeps of what is shared out, and what it needs besides. */
static iv_status print_ranks(iv_trainer *t, iv__text *x)
{
    const int32_t world = t->workers.comm->ranks.world;
    iv_memory_report *all;
    if (world == 1) return IV_OK;
    IV_TRY(iv__calloc(world, sizeof(*all), "memory of ranks", &all));
    iv_status s = iv_trainer_memory_all(t, all);
    if (s == IV_OK)
        iv__text_printf(x,
                        "memory of each rank, MiB (--strategy %s)\n"
                        "  rank  parameters   gradients   optimizer     lowered  temporaries  "
                        "(passing through)    exchange       total\n",
                        iv_config_str(t->config, "cluster.strategy"));
    for (int32_t i = 0; s == IV_OK && i < world; ++i) {
        const int64_t row[] = {
            all[i].parameters,  all[i].gradients, all[i].optimizer, all[i].lowered,
            all[i].temporaries, all[i].passing,   all[i].exchange,  all[i].total + all[i].exchange};
        static const int width[] = {12, 12, 12, 12, 13, 19, 12, 12};
        iv__text_printf(x, "  %4d", i);
        for (int k = 0; k < IV_COUNT(row); ++k)
            iv__text_printf(x, "%*.2f", width[k], (double)row[k] / 1048576.0);
        iv__text_printf(x, "\n");
    }
    free(all);
    return s;
}

iv_status iv_trainer_plan_text(iv_trainer *t, iv_plan_detail detail, char **out_text)
{
    iv__text x = {0};
    iv_trainer_info info;
    iv_trainer_info_get(t, &info);
    iv__text_printf(
        &x,
        "%s on %s (%s, %s): %lld parameters, batch %lld x %lld in %lld grains, %lld steps a pass\n",
        iv_config_str(t->config, "model.name"), t->device->name, info.precision, info.numerics,
        (long long)info.parameters, (long long)info.batch, (long long)info.accumulate,
        (long long)info.grains, (long long)t->workers.replicas[0]->programs[0].plan->n_steps);
    if (detail != IV_PLAN_SUMMARY)
        iv__plan_print(t->workers.replicas[0]->programs[0].plan, &x, detail == IV_PLAN_REFUSED);
    print_memory(t, &x);
    iv_status s = print_ranks(t, &x);
    if (s == IV_OK && x.failed) s = iv__fail(IV_NO_MEMORY, "printing the plan");
    if (s != IV_OK) {
        iv__text_free(&x);
        return s;
    }
    *out_text = x.s;
    return IV_OK;
}

/* ---- devices ---- */

static void describe(const iv__device *d, iv_device_entry *e)
{
    const iv_device_info *i = &d->info;
    snprintf(e->description, sizeof(e->description), "%s", i->name);
    snprintf(e->vendor, sizeof(e->vendor), "%s", i->vendor);
    snprintf(e->driver, sizeof(e->driver), "%s", i->driver);
    snprintf(e->arch, sizeof(e->arch), "%s", i->arch);
    snprintf(e->notes, sizeof(e->notes), "%s", i->notes);
    e->mem_bytes = i->mem_bytes;
    e->mem_free = i->mem_free;
    e->units = i->units;
    e->f64 = i->has_f64;
    e->exact = i->exact;
    e->native_bf16 = i->native_bf16;
    e->native_f16 = i->native_f16;
}

static iv_status list_backend(const char *kind, iv_device_entry **list, int64_t *n, int64_t *cap)
{
    int32_t count = 0;
    const iv_ranks alone = {.world = 1, .local_world = 1};
    iv__placement nodes = {0};
    iv_status s = iv__device_count(kind, &count);
    if (s == IV_OK && strcmp(kind, "cpu") == 0)
        s = iv__placement_open(&alone, IV_PLACE_NODES, &nodes);
    if (nodes.n > 0) count = nodes.n;
    for (int32_t i = 0; i < (s == IV_OK ? count : 1); ++i) {
        const iv_status grown = iv__reserve(list, cap, *n + 1, sizeof(**list), "devices");
        if (grown != IV_OK) {
            iv__placement_close(&nodes);
            return grown;
        }
        iv_device_entry *e = &(*list)[(*n)++];
        *e = (iv_device_entry){0};
        snprintf(e->name, sizeof(e->name), s == IV_OK ? "%s:%d" : "%s", kind, i);
        iv__device *d = NULL;
        const iv_backend_options o = {.n_places = nodes.n, .place = nodes.place};
        if (s == IV_OK && iv__device_open(e->name, &o, false, &d) == IV_OK) describe(d, e);
        else snprintf(e->why, sizeof(e->why), "%s", iv_error_message());
        iv__device_close(d);
    }
    iv__placement_close(&nodes);
    return IV_OK;
}

iv_status iv_devices_list(iv_device_entry **out, int64_t *out_n)
{
    iv_device_entry *list = NULL;
    int64_t n = 0, cap = 0;
    iv_plugin_info p;
    for (int32_t i = 0; iv_plugin_entry(i, &p); ++i) {
        if (strcmp(p.kind, "backend") != 0) continue;
        iv_status s = list_backend(p.name, &list, &n, &cap);
        if (s != IV_OK) {
            free(list);
            return s;
        }
    }
    *out = list;
    *out_n = n;
    return IV_OK;
}
