/* keep.h: which checkpoints a run writes, which of them it keeps, and which one it starts from.
 *
 *   out.dir/checkpoints/step-000000000100.safetensors    or a folder, as the plugin makes it
 *                       last                             one line: the name of the newest whole one
 *
 * A save ends when its checkpoint is durable, which with an asynchronous plugin is steps later.
 * Then, in this order: `last` names it, older ones are removed, the caller is told.  The first two
 * wait for the disk: with an asynchronous plugin another thread does them while training goes on.
 */
#ifndef IV_KEEP_H
#define IV_KEEP_H

#include "trainer.h"

#include <pthread.h>

typedef struct iv__kept {
    int64_t step;
    double value;                /* of out.monitor at that step; NAN: there was none */
    bool whole;                  /* its save has ended */
    char *path;                  /* owned */
    const iv_checkpoint *format; /* removes it */
    void *format_self;
} iv__kept;

/* What follows the end of a save. */
typedef struct iv__tidying {
    char last[1100], name[256]; /* the file `last` and what it is to say */
    iv__kept *remove;           /* owned */
    int64_t n_remove, step;
    char path[1024]; /* of the new checkpoint */
    pthread_t thread;
    bool started;      /* joined by the next poll that finds it done, at the latest by finish */
    _Atomic bool done; /* set by the thread */
    iv_status status;
    char text[2048]; /* of an error */
} iv__tidying;

typedef struct iv__keeper {
    iv_trainer *t;
    const iv_fit_callbacks *cb;
    char folder[1024], extension[32]; /* folder "": nothing is written */
    char resumed[1024];               /* what the run started from, or "" */
    char newest[1024];                /* the last one whose save has ended, or "" */
    int64_t started_step;             /* of the last save that was started, or resumed; -1: none */
    int64_t every_ns, last_ns;        /* out.save_every_time; when the last save was started */
    iv__kept *kept;
    int64_t n_kept, cap_kept;
    iv__tidying tidying;
} iv__keeper;

/* What a checkpoint may be judged by.  NAN where there is none at this step. */
typedef struct iv__scores {
    double loss, val_loss, val_accuracy;
} iv__scores;

/* Reads the settings; writes nothing. */
iv_status iv__keeper_open(iv__keeper *k, iv_trainer *t, const iv_fit_callbacks *cb);
/* out.resume: "", auto, last, best, or a path.  Finds the checkpoints that are there already;
 * IV_INVALID if there are some and the run is to start anew. */
iv_status iv__keeper_resume(iv__keeper *k);
/* Makes the folder. */
iv_status iv__keeper_make_folder(iv__keeper *k);
/* Whether a save is due after a step that began at `samples` samples. */
bool iv__keeper_due(const iv__keeper *k, int64_t samples);
/* Starts a save of the state as it is, unless there is one already. */
iv_status iv__keeper_save(iv__keeper *k, const iv__scores *s);
/* Deals with saves that have ended; an error is that of a save that failed. */
iv_status iv__keeper_poll(iv__keeper *k);
/* Waits for all of them. */
iv_status iv__keeper_finish(iv__keeper *k);
void iv__keeper_close(iv__keeper *k);

/* "90", "90s", "15m", "2h", "hh:mm:ss" or "mm:ss"; empty: no limit (INT64_MAX). */
iv_status iv__parse_time(const char *flag, const char *s, int64_t *out_ns);

#endif
