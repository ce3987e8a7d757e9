/* bench.h: what the benchmarks of bench.c, bench_step.c and bench_ckpt.c share. */
#ifndef IV_BENCH_H
#define IV_BENCH_H

#include "trainer.h"

typedef struct iv__bench {
    iv_trainer *t;
    iv__device *device;                            /* the trainer's first */
    iv_dtype low;                                  /* what products run in */
    double seconds;                                /* to spend on a row */
    double peak_flops[IV_DTYPE_COUNT], peak_bytes; /* per second; 0: not known */
    void (*on_row)(void *ctx, const iv_bench_row *row);
    void *ctx;
} iv__bench;

/* Sorts and returns the middle one; 0 of none. */
double iv__bench_median(double *seconds, int64_t n);
iv_status iv__bench_ops(iv__bench *b);
iv_status iv__bench_launches(iv__bench *b);
iv_status iv__bench_step(iv__bench *b);
iv_status iv__bench_ckpt(iv__bench *b);
void iv__bench_row(const iv__bench *b, const iv_bench_row *row);
/* ---- profile.c ---- */
/* Where the time of a training step goes: a row for each step of the plan, then for the gradient
 * norm and the update, each alone and finished, and for a whole training step.  Parameters are
 * worth nothing afterwards.  The caller frees *out; texts live as long as the trainer. */
typedef struct iv__step_time {
    const char *label, *node; /* "softmax_ff", "block0.attention" */
    int64_t ns;               /* the shortest of the runs */
    int64_t cpu_ns;           /* processor time of this process, the least of the runs */
    int64_t bytes;            /* of the operands, each counted once */
    double flops;             /* of matrix products, else 0 */
} iv__step_time;
iv_status iv__trainer_profile(iv_trainer *t, int64_t runs, iv__step_time **out, int64_t *out_n);
/* Multiplications and additions of the products of step i of a plan. */
double iv__step_flops(const iv__plan *p, int64_t i);

#endif
