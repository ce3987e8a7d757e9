/* precision.h: the numerics policy of a run: which plugin --precision, --strategy and the device
 * mean, its open instance, and what becomes of a step. */
#ifndef IV_PRECISION_H
#define IV_PRECISION_H

#include "base.h"
#include "plugin.h"

typedef struct iv__precision {
    const iv_precision *vt;
    void *run; /* the plugin's instance; closed with close_run */
    iv_policy policy;
    char name[64];           /* of the plugin: "16-mixed" */
    char args[256];          /* the text in parentheses, cut at its commas */
    const iv_config *config; /* borrowed; NULL: defaults */
    int64_t skips, skipped;  /* steps skipped in a row, and in all */
    int64_t most_skips;      /* in a row; more end the run */
    int64_t skipped_none;    /* of skipped: without a loss */
    enum { IV__BAD_AUTO, IV__BAD_STOP, IV__BAD_SKIP } bad; /* train.nonfinite */
    /* Tensors that are rounded to 8-bit floats, in the order of the graph (operands.c). */
    int64_t n_scales;
    uint8_t *e5m2;        /* [n_scales] 1: a gradient */
    float *scales, *amax; /* [n_scales] powers of two; largest magnitudes of the step */
} iv__precision;

/* select.c: the plugin that these mean, with its arguments: "16-mixed", "apex(level=O1)".  device:
 * kind; backend: "native" or "apex"; level: "O0".. or "".  IV_INVALID and IV_UNSUPPORTED name the
 * combination and what to do. */
iv_status iv__precision_select(const char *precision, const char *device, const char *strategy,
                               const char *backend, const char *level, char *out, size_t size);
/* Chooses by the keys precision.*, cluster.strategy and device kind, opens the instance, reads and
 * checks its policy. */
iv_status iv__precision_open(const iv_config *c, const char *device, iv__precision *out);
/* The instance of plugin `spec` for options of config (may be NULL), with nothing selected. */
iv_status iv__precision_start(const char *spec, const iv_config *c, const char *device,
                              iv__precision *out);
void iv__precision_close(iv__precision *p);
/* The class of an operator: the plugin's choice, within what ops.def allows. */
iv_cast_class iv__precision_class(const iv__precision *p, const char *op, iv_cast_class fallback);
/* Goes on from the state (may be NULL or "") that a run with precision `name` left; logs what a
 * change of precision keeps and loses. */
iv_status iv__precision_resume(iv__precision *p, const char *name, const char *state);
double iv__precision_scale(const iv__precision *p);
/* What becomes of a step with these unscaled gradients.  IV_NONFINITE: the run ends (the caller
 * adds what is known); *out is IV_STEP or IV_SKIP_OVERFLOW otherwise. */
iv_status iv__precision_judge(iv__precision *p, double loss, double grad_norm, bool finite,
                              iv_verdict *out);
/* The run rounds n tensors to 8-bit floats (e5m2[i]: a gradient): makes room and gets their scales.
 */
iv_status iv__precision_tensors(iv__precision *p, int64_t n, const uint8_t *e5m2);
/* New scales, after a step whose largest magnitudes are in p->amax. */
iv_status iv__precision_rescale(iv__precision *p);
/* Counts an outcome; IV_NONFINITE after too many skipped steps in a row: the caller names why. */
iv_status iv__precision_count(iv__precision *p, iv_verdict v);
/* graph.c's side of the text: a line for each class with its operators. */
iv_status iv__precision_classes(const iv__precision *p, iv__text *t);
/* The policy and classes of every operator, as lines of text. */
iv_status iv__precision_text(const iv__precision *p, iv__text *t);

#endif
