/* trainer.h: inside a trainer.  trainer.c opens and steps, trainer_eval.c validates and generates,
 * trainer_ckpt.c saves and loads, trainer_fit.c runs the loop and keeps the run folder,
 * trainer_elastic.c goes on without lost ranks. */
#ifndef IV_TRAINER_H
#define IV_TRAINER_H

#include "workers.h"

struct iv_trainer {
    const iv_config *config; /* borrowed */
    iv_dataset *data;        /* borrowed, may be NULL */
    iv_dataset_info info;
    iv_build_fn build;
    void *build_ctx;

    iv__workers workers;
    bool is_cut; /* a step has several passes, here or elsewhere */
    /* The first replica's (borrowed): for validation, generation and checkpoints. */
    iv__device *device;
    iv__store *store;
    iv__precision precision;
    bool detect_anomaly;
    iv__schedule schedule;

    const iv_checkpoint *ckpt; /* NULL until needed */
    void *ckpt_self;
    uint64_t save_id; /* of the last save */

    iv__program eval, generate;        /* plan NULL until needed */
    int64_t batch, accumulate, grains; /* most samples of a pass; batches and grains of a step */
    int64_t step, samples_seen, max_steps;
    uint64_t seed;

    /* One step's samples on the host. */
    char *x;
    int32_t *y;
    char *converted; /* [batch, sample] when the model does not take f32 */
    size_t x_bytes;  /* per sample */
    int64_t y_count; /* per sample */
};

/* replica.c */
iv_status iv__program_new(iv_trainer *t, iv__replica *r, int64_t batch, bool train, int64_t grains,
                          iv__program *out);
void iv__program_free(iv__program *p);

/* trainer.c */
iv__optim_options iv__trainer_optim(const iv_trainer *t);
/* Writes samples, targets and the number of targets that count. */
iv_status iv__program_feed(iv_trainer *t, iv__program *p, const char *x, const int32_t *y,
                           double norm, double scale);
iv_status iv__program_loss(iv_trainer *t, const iv__program *p, double *out);
int64_t iv__count_targets(const iv__program *p, const int32_t *y, int64_t n);
iv_status iv__trainer_check_ids(const iv_trainer *t, const char *x, const int32_t *y,
                                int64_t samples);

/* trainer_save.c */
extern const char *const iv__moment_prefix[2];
/* The plugin that saves: out.checkpoint, or else what `plugins` lists, such as "async(sharded)". */
void iv__trainer_ckpt_spec(const iv_config *c, char *out, size_t size);
/* Finds it. */
iv_status iv__trainer_ckpt(iv_trainer *t);
/* Whether all ranks take part in a save. */
bool iv__trainer_saves_together(const iv_trainer *t);
typedef struct iv__save_options {
    bool weights_only;  /* neither moments nor what a resume needs */
    const char *metric; /* kept with its value, or NULL */
    double value;
} iv__save_options;
/* Starts a save: with a plugin that has `poll` it may end later. */
iv_status iv__trainer_save_start(iv_trainer *t, const char *path, const iv__save_options *o);
/* Waits for started saves. */
iv_status iv__trainer_drain(iv_trainer *t);
/* To be called before the memory is changed that a save may still be reading. */
void iv__trainer_release(iv_trainer *t, const iv__memory *m);
void iv__trainer_release_all(iv_trainer *t);
/* Waits for saves and tells failures that nobody asked about. */
void iv__trainer_ckpt_close(iv_trainer *t);
/* trainer_ckpt.c: the plugin whose format the checkpoint at `path` has: out.checkpoint of t (NULL:
 * none), or the one that is the most sure. */
iv_status iv__ckpt_format_of(iv_trainer *t, const char *path, const iv_checkpoint **out,
                             void **out_self);

/* iv_trainer_evaluate that asks `stop` (NULL: never) before each batch: IV_INTERRUPTED if it is not
 * 0. */
iv_status iv__trainer_evaluate(iv_trainer *t, int (*stop)(void *ctx), void *ctx, double *out_loss,
                               double *out_accuracy);
/* trainer_elastic.c: after IV_LOST: the ranks that are left go on from the last step that one of
 * them has done.  *r: the report of this rank's last step; becomes that one's. */
iv_status iv__trainer_again(iv_trainer *t, iv_step_report *r);

/* check.c: fills the step's samples with numbers that are the same in every run: ids, or values in
 * [0, 1). */
void iv__trainer_make_samples(iv_trainer *t);

/* nonfinite.c: runs the plan, step by step, looking at what each one wrote, and names the first
 * node with an infinity or NaN; *out_node: in the graph, -1: a parameter or input, -2: all is
 * finite. */
iv_status iv__plan_run_checked(iv__plan *p, int32_t *out_node, char *out_name, size_t size);
/* The same for a pass of --detect-anomaly: ends the run, or under a loss scale tells where the
 * gradients overflowed. */
iv_status iv__plan_run_guarded(const iv_trainer *t, iv__plan *p);
/* inject.c: INVAR_INJECT's value, after a pass over these grains. */
iv_status iv__inject(const iv_trainer *t, iv__replica *r, iv__span grains);

#endif
