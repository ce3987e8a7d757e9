/* scaler.h: the algorithms that move a loss scale, as pure state machines: no clock, no memory, no
 * device.  Each follows its original bit for bit (f32 arithmetic where the original has a f32
 * tensor), except that all of them may have bounds.
 *
 *   GRAD     PyTorch's GradScaler: halves at an overflow, doubles after `window` steps without
 *   APEX     the same with bounds, its counter also keeps counting at the upper bound
 *   ZERO     DeepSpeed's, under ZeRO: `hysteresis` overflows are forgiven; grows every `window`
 * steps since the last overflow FUSED    DeepSpeed's without ZeRO: no hysteresis HYSTERESIS  the
 * one of Megatron and Transformer Engine: GRAD with overflows forgiven STATIC   never moves */
#ifndef IV_SCALER_H
#define IV_SCALER_H

#include "../runtime/plugin.h"

typedef enum iv__scaler_kind {
    IV_SCALER_NONE,
    IV_SCALER_STATIC,
    IV_SCALER_GRAD,
    IV_SCALER_APEX,
    IV_SCALER_ZERO,
    IV_SCALER_FUSED,
    IV_SCALER_HYSTERESIS,
    IV_SCALER_COUNT
} iv__scaler_kind;

typedef struct iv__scaler {
    iv__scaler_kind kind;
    float scale;
    double growth, backoff; /* factors; products are rounded to f32 once, as the originals do */
    float least, most;      /* bounds; 0: none */
    int64_t window;
    int64_t hysteresis; /* ZERO, HYSTERESIS: as configured */
    bool refill;        /* ZERO: hysteresis is full again after each good step */
    bool fail_at_least; /* ZERO: an overflow at the lower bound ends the run */
    int64_t good;       /* GRAD, APEX, HYSTERESIS: steps since the scale moved or overflowed */
    int64_t left;       /* ZERO, HYSTERESIS: overflows that are still forgiven, plus 1 */
    int64_t step, last; /* ZERO, FUSED: steps seen, and the last with an overflow (-1) */
} iv__scaler;

/* A scaler of the kind with its original's constants. */
void iv__scaler_init(iv__scaler *s, iv__scaler_kind kind);
/* After a step's gradients: moves the scale; false: nothing can be gained by going on (an overflow
 * at the lower bound of a scaler with fail_at_least). */
bool iv__scaler_update(iv__scaler *s, bool overflow);
/* "grad", "apex", ... */
const char *iv__scaler_name(iv__scaler_kind kind);
/* State as text, "scaler/1 kind=grad scale=65536 good=3 ...", and back.  A text of another kind
 * gives the scale and the steps since the last change: what every kind has.  load is false if the
 * text is none of a scaler, and then changes nothing. */
size_t iv__scaler_save(const iv__scaler *s, char *dst, size_t size);
bool iv__scaler_load(iv__scaler *s, const char *text);

#endif
