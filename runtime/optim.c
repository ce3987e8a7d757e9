/* optim.c: schedules and the launches of norm and update (see optim.h and kernels/optim.k). */
#include "optim.h"

#include "rng.h"
#include "../kernels/portable.h"
#include "../kernels/math.h"

enum { BLOCK = 4096 }; /* elements: part of the numerics contract */
enum { SCALARS = 8 };  /* what kernels leave in scalar_mem */

double iv__schedule_lr(const iv__schedule *s, int64_t t)
{
    if (t < s->warmup) return s->lr * (double)(t + 1) / (double)(s->warmup + 1);
    if (s->kind == IV_SCHEDULE_CONSTANT) return s->lr;
    if (t >= s->total) return s->min_lr;
    double x = (double)(t - s->warmup) / (double)(s->total - s->warmup);
    double share =
        s->kind == IV_SCHEDULE_LINEAR ? 1 - x : 0.5 * (1 + iv_cos_d(3.141592653589793 * x));
    return s->min_lr + share * (s->lr - s->min_lr);
}

int32_t iv__optim_moments(const iv__optim_options *o)
{
    if (o->kind != IV_OPTIM_SGD) return 2;
    return o->momentum > 0 ? 1 : 0;
}

static iv_status make(iv__optim *o)
{
    iv__store *s = o->store;
    iv__device *d = s->device;
    const char *sig = s->type == IV_F64 ? "dd" : "ff",
               update[3] = {iv__letter(s->param_type), iv__letter(s->moment_type)};
    bool power = o->o.norm_p != 2;
    int64_t b = (int64_t)iv_dtype_bytes(s->type);
    o->blocks = (s->param_elems + BLOCK - 1) / BLOCK;
    IV_TRY(iv__memory_alloc(d, 4 * b, "hyperparameters", &o->hyper_mem));
    IV_TRY(iv__memory_alloc(d, SCALARS * b, "gradient norm", &o->scalar_mem));
    IV_TRY(iv__memory_alloc(d, 2 * o->blocks * b, "norm blocks", &o->part_mem));
    IV_TRY(iv__device_kernel(d, "optim", power ? "grad_power_blocks" : "grad_norm_blocks", sig,
                             &o->norm_blocks));
    IV_TRY(iv__device_kernel(d, "optim", power ? "grad_power" : "grad_norm", sig, &o->norm));
    if (iv_dtype_bytes(s->param_type) == 2)
        IV_TRY(iv__device_kernel(d, "optim", "updates_lost", sig, &o->count));
    return iv__device_kernel(d, "optim", o->o.kind == IV_OPTIM_SGD ? "sgd" : "adam", update,
                             &o->update);
}

iv_status iv__optim_new(iv__store *s, const iv__optim_options *opt, iv__optim **out)
{
    iv__optim *o;
    IV_TRY(iv__calloc(1, sizeof(*o), "the optimizer", &o));
    o->store = s;
    o->gradients = &s->grad_mem;
    o->o = *opt;
    iv_status st = make(o);
    if (st != IV_OK) {
        iv__optim_free(o);
        return st;
    }
    *out = o;
    return IV_OK;
}

void iv__optim_free(iv__optim *o)
{
    if (!o) return;
    iv__memory_free(&o->hyper_mem);
    iv__memory_free(&o->scalar_mem);
    iv__memory_free(&o->part_mem);
    iv__memory_free(&o->one_mem);
    free(o);
}

static iv_buffer all(const iv__memory *m)
{
    return iv__memory_range(m, 0, m->bytes);
}

/* Four numbers in the store's type. */
static iv_status write_hyper(iv__optim *o, const double h[4])
{
    float f[4];
    for (int i = 0; i < 4; ++i) f[i] = (float)h[i];
    return iv__device_write(o->store->device, all(&o->hyper_mem),
                            o->store->type == IV_F64 ? (const void *)h : (const void *)f);
}

static iv_status read_scalars(iv__optim *o, double s[SCALARS])
{
    float f[SCALARS];
    if (o->store->type == IV_F64) return iv__device_read(o->store->device, s, all(&o->scalar_mem));
    IV_TRY(iv__device_read(o->store->device, f, all(&o->scalar_mem)));
    for (int i = 0; i < SCALARS; ++i) s[i] = (double)f[i];
    return IV_OK;
}

/* This rank's range of an arena that is laid out as the parameters, 1 element for each `per`. */
static iv_buffer shard(const iv__store *s, const iv__memory *m, int64_t per, int64_t element)
{
    const int64_t first = m == &s->param_mem ? iv__store_first(s) : 0;
    return iv__memory_range(m, (s->shard_at - first) / per * element,
                            (s->shard_elems + per - 1) / per * element);
}

static iv_buffer gradients(const iv__store *s)
{
    const int64_t b = (int64_t)iv_dtype_bytes(s->type);
    return iv__memory_range(&s->grad_mem, iv__store_sum_at(s, s->shard_at) * b, s->shard_elems * b);
}

/* Sums of this rank's blocks; those of counters follow o->blocks behind. */
static iv_buffer parts(const iv__optim *o)
{
    int64_t skip = o->store->shard_at / BLOCK * (int64_t)iv_dtype_bytes(o->store->type);
    return iv__memory_range(&o->part_mem, skip, o->part_mem.bytes - skip);
}

static int64_t shard_blocks(const iv__optim *o)
{
    return (o->store->shard_elems + BLOCK - 1) / BLOCK;
}

iv_status iv__optim_norm_blocks(iv__optim *o, int64_t t, double lr, double inv_scale)
{
    const iv__store *s = o->store;
    double h[4] = {lr, t == 0, 0, inv_scale};
    if (o->o.kind != IV_OPTIM_SGD) {
        h[1] = 1 - iv_pow_d(o->o.beta1, (double)(t + 1));
        h[2] = __builtin_sqrt(1 - iv_pow_d(o->o.beta2, (double)(t + 1)));
    }
    IV_TRY(write_hyper(o, h));
    iv_launch blocks = {.n_bufs = 3,
                        .groups = shard_blocks(o),
                        .buf = {gradients(s), all(&o->hyper_mem), parts(o)},
                        .n = {s->shard_elems, o->blocks},
                        .f = {0, o->o.norm_p}};
    return blocks.groups ? s->device->vt->launch(s->device->queue, o->norm_blocks, &blocks) : IV_OK;
}

iv_status iv__optim_norm(iv__optim *o, double *out_norm, bool *out_finite)
{
    const iv__store *s = o->store;
    double r[SCALARS];
    iv_launch norm = {.n_bufs = 3,
                      .groups = 1,
                      .buf = {all(&o->part_mem), all(&o->hyper_mem), all(&o->scalar_mem)},
                      .n = {o->blocks},
                      .f = {o->o.clip_norm, o->o.norm_p}};
    IV_TRY(s->device->vt->launch(s->device->queue, o->norm, &norm));
    IV_TRY(read_scalars(o, r));
    *out_norm = r[0];
    *out_finite = r[2] == 1;
    return IV_OK;
}

iv_status iv__optim_norms(iv__optim *o, double p, double *out)
{
    iv__store *s = o->store;
    iv__device *d = s->device;
    int64_t b = (int64_t)iv_dtype_bytes(s->type);
    const char *sig = s->type == IV_F64 ? "dd" : "ff";
    void *blocks, *whole;
    char host[SCALARS * sizeof(double)];
    IV_TRY(iv__device_kernel(d, "optim", p == 2 ? "grad_norm_blocks" : "grad_power_blocks", sig,
                             &blocks));
    IV_TRY(iv__device_kernel(d, "optim", p == 2 ? "grad_norm" : "grad_power", sig, &whole));
    if (!o->one_mem.mem) IV_TRY(iv__memory_alloc(d, SCALARS * b, "gradient norms", &o->one_mem));
    for (int64_t i = 0; i < s->n_params; ++i) {
        int64_t n = s->params[i].count, groups = (n + BLOCK - 1) / BLOCK;
        iv_launch l = {.n_bufs = 3,
                       .groups = groups,
                       .buf = {iv__slot_range(o->gradients, &s->params[i], s->type),
                               all(&o->hyper_mem), all(&o->part_mem)},
                       .n = {n, groups},
                       .f = {0, p}};
        iv_launch m = {.n_bufs = 3,
                       .groups = 1,
                       .buf = {all(&o->part_mem), all(&o->hyper_mem), all(&o->one_mem)},
                       .n = {groups},
                       .f = {0, p}};
        IV_TRY(d->vt->launch(d->queue, blocks, &l));
        IV_TRY(d->vt->launch(d->queue, whole, &m));
        IV_TRY(iv__device_read(d, host, all(&o->one_mem)));
        out[i] = iv__dtype_get(s->type, host);
    }
    return IV_OK;
}

iv_status iv__optim_update(iv__optim *o, int64_t t)
{
    const iv__store *s = o->store;
    const iv__optim_options *p = &o->o;
    bool sgd = p->kind == IV_OPTIM_SGD;
    int64_t b = (int64_t)iv_dtype_bytes(s->param_type);
    iv_launch l = {.n_bufs = 8,
                   .groups = shard_blocks(o),
                   .buf = {shard(s, &s->param_mem, 1, b), gradients(s), all(&s->moment_mem[0]),
                           all(&s->moment_mem[1]), all(&o->hyper_mem), all(&o->scalar_mem),
                           shard(s, &s->group_mem, 64, 1), parts(o)},
                   .n = {s->shard_elems, sgd ? p->nesterov : p->kind == IV_OPTIM_ADAMW,
                         p->stochastic, (int64_t)p->seed, t, s->shard_at, IV__STREAM_ROUND,
                         o->blocks},
                   .f = {sgd ? p->momentum : p->beta1, p->beta2, p->eps, p->weight_decay,
                         p->clip_value, 1 - p->beta1, 1 - p->beta2}};
    return l.groups ? s->device->vt->launch(s->device->queue, o->update, &l) : IV_OK;
}

iv_status iv__optim_lost(iv__optim *o, double *out)
{
    iv__store *s = o->store;
    double r[SCALARS];
    iv_launch l = {.n_bufs = 2,
                   .groups = 1,
                   .buf = {all(&o->part_mem), all(&o->scalar_mem)},
                   .n = {o->blocks}};
    *out = -1;
    if (!o->count) return IV_OK;
    IV_TRY(s->device->vt->launch(s->device->queue, o->count, &l));
    IV_TRY(read_scalars(o, r));
    *out = r[5] > 0 ? r[4] / r[5] : 0;
    return IV_OK;
}
