/* trainer_save.c: what a checkpoint of a run holds.
 *
 * Tensors: parameters and running statistics under their own names, moments as "optim.m.NAME" and
 * "optim.v.NAME".  Metadata: everything else that a run needs to go on with the same bits, and
 * facts about where it ran.  Arenas that the host can touch are handed to the plugin as they are;
 * before the trainer changes them it calls iv__trainer_release. */
#include "trainer.h"

#include "config.h"
#include "registry.h"

#include <inttypes.h>
#include <time.h>

const char *const iv__moment_prefix[2] = {"optim.m.", "optim.v."};

/* Whether the first n characters of `spec` ("async(x)") name a checkpoint plugin. */
static bool names_checkpoint(const char *spec, size_t n)
{
    const char *name, *open = memchr(spec, '(', n);
    if (open) n = (size_t)(open - spec);
    for (int32_t i = 0; (name = iv__registry_name(IV_PLUGIN_CHECKPOINT, i)); ++i)
        if (strlen(name) == n && strncmp(name, spec, n) == 0) return true;
    return false;
}

/* Characters of the first entry of a list separated by commas, which may stand in parentheses too.
 */
static size_t entry_length(const char *list)
{
    int depth = 0;
    size_t n = 0;
    for (; list[n] && (list[n] != ',' || depth > 0); ++n)
        depth += list[n] == '(' ? 1 : list[n] == ')' ? -1 : 0;
    return n;
}

void iv__trainer_ckpt_spec(const iv_config *c, char *out, size_t size)
{
    const char *list = iv_config_str(c, "plugins");
    snprintf(out, size, "%s", iv_config_str(c, "out.checkpoint"));
    while (*list && !iv_config_is_set(c, "out.checkpoint")) {
        const size_t n = entry_length(list);
        if (names_checkpoint(list, n)) snprintf(out, size, "%.*s", (int)n, list);
        list += n + (list[n] == ',');
    }
}

iv_status iv__trainer_ckpt(iv_trainer *t)
{
    const iv_plugin *p;
    char spec[256];
    if (t->ckpt) return IV_OK;
    iv__trainer_ckpt_spec(t->config, spec, sizeof(spec));
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, spec, &p, &t->ckpt_self));
    const iv_checkpoint *vt = p->vtable;
    const iv_ranks *r = &t->workers.comm->ranks;
    if (vt->join)
        IV_TRY(vt->join(
            t->ckpt_self,
            &(iv_ckpt_group){.rank = r->rank, .ranks = r->world, .local_rank = r->local_rank}));
    t->ckpt = vt;
    return IV_OK;
}

bool iv__trainer_saves_together(const iv_trainer *t)
{
    return t->workers.comm->ranks.world > 1 && (t->workers.sharded || (t->ckpt && t->ckpt->join));
}

typedef struct saver {
    iv_trainer *t;
    iv_ckpt_tensor *tensors;
    iv_buffer *buffers; /* where the tensors lie */
    int64_t n;
} saver;

/* Appends the slots of one arena. */
static iv_status add_slots(saver *s, const iv__slot *slots, int64_t n, const iv__memory *m,
                           const char *prefix)
{
    const char *host = n ? iv__memory_host(m) : NULL;
    for (int64_t i = 0; m->mem && i < n; ++i) {
        char *name;
        IV_TRY(
            iv__calloc((int64_t)(strlen(prefix) + strlen(slots[i].name) + 1), 1, "a name", &name));
        sprintf(name, "%s%s", prefix, slots[i].name);
        const iv_dtype type = iv__store_type(s->t->store, m);
        const iv_buffer b = iv__slot_range(m, &slots[i], type);
        s->buffers[s->n] = b;
        s->tensors[s->n++] = (iv_ckpt_tensor){.name = name,
                                              .dtype = type,
                                              .shape = slots[i].shape,
                                              .data = host ? host + b.offset : NULL};
    }
    return IV_OK;
}

static iv_status gather(saver *s, bool weights_only)
{
    const iv__store *st = s->t->store;
    int64_t n = st->n_params * 3 + st->n_states;
    IV_TRY(iv__calloc(n, sizeof(*s->tensors), "a checkpoint's index", &s->tensors));
    IV_TRY(iv__calloc(n, sizeof(*s->buffers), "a checkpoint's index", &s->buffers));
    IV_TRY(add_slots(s, st->params, st->n_params, &st->param_mem, ""));
    IV_TRY(add_slots(s, st->states, st->n_states, &st->state_mem, ""));
    for (int i = 0; i < 2 && !weights_only; ++i)
        IV_TRY(add_slots(s, st->params, st->n_params, &st->moment_mem[i], iv__moment_prefix[i]));
    return s->t->device->vt->sync(s->t->device->queue);
}

static iv_status read_range(void *ctx, int64_t i, int64_t offset, int64_t bytes, void *dst)
{
    const saver *s = ctx;
    iv_buffer b = s->buffers[i];
    b.offset += offset;
    b.bytes = bytes;
    return iv__device_read(s->t->device, dst, b);
}

/* ---- metadata ---- */

enum { MOST_META = 24, NUMBER = 32 };
typedef struct meta {
    iv_ckpt_meta pairs[MOST_META];
    int64_t n;
    char numbers[MOST_META][NUMBER]; /* storage of printed values */
    char *precision;                 /* the plugin's state */
    iv__text config;
} meta;

static void add_text(meta *m, const char *key, const char *value)
{
    if (m->n < MOST_META) m->pairs[m->n++] = (iv_ckpt_meta){key, value};
}

static void add_number(meta *m, const char *key, int64_t value)
{
    if (m->n == MOST_META) return;
    snprintf(m->numbers[m->n], NUMBER, "%" PRId64, value);
    add_text(m, key, m->numbers[m->n]);
}

static iv_status precision_state(iv_trainer *t, char **out)
{
    const iv__precision *p = &t->precision;
    size_t n = p->vt->save ? p->vt->save(p->run, NULL, 0) : 0;
    IV_TRY(iv__calloc((int64_t)n + 1, 1, "precision state", out));
    if (n) p->vt->save(p->run, *out, n);
    return IV_OK;
}

static iv_status describe(iv_trainer *t, const iv__save_options *o, meta *m)
{
    IV_TRY(precision_state(t, &m->precision));
    iv__config_yaml(t->config, &m->config);
    if (m->config.failed) IV_FAIL(IV_NO_MEMORY, "saving: copying the configuration");
    add_text(m, "format", "pt"); /* what Hugging Face's loader asks for */
    add_text(m, "invar.version", iv_version());
    if (o->weights_only) add_text(m, "invar.weights_only", "true");
    add_number(m, "invar.step", t->step);
    add_number(m, "invar.samples", t->samples_seen);
    add_number(m, "invar.skipped", t->precision.skipped);
    add_number(m, "invar.seed", (int64_t)t->seed);
    add_number(m, "invar.grains", t->grains);
    add_text(m, "invar.type", iv_dtype_name(t->store->param_type));
    add_text(m, "invar.precision", t->precision.name);
    add_text(m, "invar.precision_state", m->precision);
    add_text(m, "invar.optimizer", iv_config_str(t->config, "optim.name"));
    add_text(m, "invar.device", t->device->info.name);
    add_text(m, "invar.arch", t->device->info.arch);
    add_text(m, "invar.driver", t->device->info.driver);
    add_text(m, "invar.numerics", t->device->invariant ? "invariant" : "fast");
    add_text(m, "invar.build", __VERSION__);
    add_text(m, "invar.config", m->config.s ? m->config.s : "");
    if (o->metric) {
        add_text(m, "invar.metric", o->metric);
        if (m->n < MOST_META) {
            snprintf(m->numbers[m->n], NUMBER, "%.17g", o->value);
            add_text(m, "invar.metric_value", m->numbers[m->n]);
        }
    }
    return IV_OK;
}

/* ---- saving ---- */

static void saver_free(saver *s, meta *m)
{
    for (int64_t i = 0; i < s->n; ++i) free((void *)(uintptr_t)s->tensors[i].name);
    free(s->tensors);
    free(s->buffers);
    free(m->precision);
    iv__text_free(&m->config);
}

/* Different for every save of every run, and the same on all ranks. */
static iv_status new_id(iv_trainer *t)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (!t->save_id) {
        int64_t first =
            (int64_t)(((uint64_t)now.tv_sec * 1000000007u + (uint64_t)now.tv_nsec) >> 1);
        if (t->workers.comm->ranks.rank > 0) first = 0;
        if (iv__trainer_saves_together(t))
            IV_TRY(iv__comm_reduce(t->workers.comm, IV_COMM_MAX, &first, 1));
        t->save_id = (uint64_t)first;
    }
    ++t->save_id;
    return IV_OK;
}

iv_status iv__trainer_save_start(iv_trainer *t, const char *path, const iv__save_options *o)
{
    saver s = {.t = t};
    meta m = {.n = 0};
    iv_status st = iv__trainer_ckpt(t);
    if (st == IV_OK) st = new_id(t);
    if (st == IV_OK)
        st =
            iv__workers_unshard(t, &t->workers, t->ckpt->join ? IV_UNSHARD_EVERY : IV_UNSHARD_ROOT);
    /* A plugin that does not know its rank writes on rank 0 for all. */
    if (st != IV_OK || (t->workers.comm->ranks.rank > 0 && !t->ckpt->join)) return st;
    st = gather(&s, o->weights_only);
    if (st == IV_OK) st = describe(t, o, &m);
    if (st == IV_OK)
        st = t->ckpt->save(t->ckpt_self, path,
                           &(iv_ckpt){.n_tensors = s.n,
                                      .n_meta = m.n,
                                      .tensors = s.tensors,
                                      .meta = m.pairs,
                                      .id = t->save_id,
                                      .read = read_range,
                                      .ctx = &s});
    saver_free(&s, &m);
    iv_status back = iv__workers_reshard(t, &t->workers, IV_RESHARD_KEEP);
    return st == IV_OK ? back : st;
}

iv_status iv__trainer_drain(iv_trainer *t)
{
    return t->ckpt && t->ckpt->drain ? t->ckpt->drain(t->ckpt_self) : IV_OK;
}

iv_status iv_trainer_save(iv_trainer *t, const char *path)
{
    IV_TRY(iv__trainer_save_start(t, path, &(iv__save_options){0}));
    if (!t->ckpt || !t->ckpt->poll) return IV_OK;
    IV_TRY(iv__trainer_drain(t));
    for (const char *told;;) {
        iv_status s = t->ckpt->poll(t->ckpt_self, &told);
        if (!told || strcmp(told, path) == 0) return s;
        if (s != IV_OK) iv__log(IV_LOG_WARN, "%s", iv_error_message()); /* an earlier save's */
    }
}

void iv__trainer_release(iv_trainer *t, const iv__memory *m)
{
    if (!t->ckpt || !t->ckpt->release || !m->mem) return;
    const char *host = iv__memory_host(m);
    if (host) t->ckpt->release(t->ckpt_self, host, m->bytes);
}

void iv__trainer_release_all(iv_trainer *t)
{
    const iv__store *s = t->store;
    const iv__memory *all[] = {&s->param_mem, &s->state_mem, &s->moment_mem[0], &s->moment_mem[1]};
    for (int64_t i = 0; i < IV_COUNT(all); ++i) iv__trainer_release(t, all[i]);
}

void iv__trainer_ckpt_close(iv_trainer *t)
{
    if (!t->ckpt || !t->store) return;
    if (iv__trainer_drain(t) != IV_OK) iv__log(IV_LOG_WARN, "%s", iv_error_message());
    for (const char *told = ""; t->ckpt->poll && told;)
        if (t->ckpt->poll(t->ckpt_self, &told) != IV_OK)
            iv__log(IV_LOG_WARN, "%s", iv_error_message());
    t->ckpt = NULL;
}
