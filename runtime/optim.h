/* optim.h: what happens to parameters after the gradients are there: norm, clipping, update,
 * lowering. All of it is launches over arenas (kernels/optim.k). */
#ifndef IV_OPTIM_H
#define IV_OPTIM_H

#include "store.h"

typedef enum iv__optim_kind { IV_OPTIM_SGD, IV_OPTIM_ADAM, IV_OPTIM_ADAMW } iv__optim_kind;

typedef struct iv__optim_options {
    iv__optim_kind kind;
    double beta1, beta2, eps, weight_decay, momentum;
    bool nesterov;
    bool stochastic; /* updated 16-bit parameters are rounded at random */
    uint64_t seed;   /* of that */
    double norm_p;   /* p of the gradient's norm; 0: the largest magnitude (infinity) */
    double clip_norm, clip_value; /* 0: none */
} iv__optim_options;

typedef struct iv__schedule {
    double lr, min_lr;
    int64_t warmup, total;
    enum { IV_SCHEDULE_CONSTANT, IV_SCHEDULE_COSINE, IV_SCHEDULE_LINEAR } kind;
} iv__schedule;
/* Learning rate of step t = 0, 1, ...: (t+1)/(warmup+1) of lr while t < warmup; then constant, or
 * from lr to min_lr over the rest by half a cosine or a line.  Canonical arithmetic. */
double iv__schedule_lr(const iv__schedule *s, int64_t t);

typedef struct iv__optim {
    iv__optim_options o;
    iv__store *store;
    iv__memory hyper_mem, scalar_mem, part_mem;
    iv__memory one_mem; /* norms of single parameters */
    /* Where the gradients of all parameters are: the store's, or what the ranks that keep parts of
     * them have put together.  Borrowed. */
    const iv__memory *gradients;
    void *norm_blocks, *norm, *update, *count;
    int64_t blocks;
} iv__optim;

/* Arenas of moments that a kind needs: 0 to 2. */
int32_t iv__optim_moments(const iv__optim_options *o);
iv_status iv__optim_new(iv__store *s, const iv__optim_options *o, iv__optim **out);
void iv__optim_free(iv__optim *o);
/* Sums of squares of the blocks of this rank's gradients, unscaled by inv_scale, for step t. */
iv_status iv__optim_norm_blocks(iv__optim *o, int64_t t, double lr, double inv_scale);
/* Norm and finiteness of all gradients, when the sums of all blocks are there (in part_mem). */
iv_status iv__optim_norm(iv__optim *o, double *out_norm, bool *out_finite);
/* The p-norm of each parameter's gradient (p = 0: infinity), as iv__optim_norm unscaled them.  Not
 * where the optimizer has a part of the parameters. */
iv_status iv__optim_norms(iv__optim *o, double p, double *out);
/* The update of this rank's parameters in step t = 0, 1, ... (after iv__optim_norm). */
iv_status iv__optim_update(iv__optim *o, int64_t t);
/* The share of that update's changes that rounding to a 16-bit parameter undid; -1: parameters are
 * wider. */
iv_status iv__optim_lost(iv__optim *o, double *out);

#endif
