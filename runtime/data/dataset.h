/* dataset.h: what a data reader is made of.
 *
 * A reader is one file with one iv__reader; dataset.c lists it.  "kind:rest" chooses the reader by
 * kind and gives it the rest.  There are two families: windows over a row of tokens (text, tokens),
 * which share iv__windows, and images (idx).
 *
 *     tokens of a split   0 1 2 3 4 5 6 7 8 9 ...        context = 4
 *     window 0            x: 0 1 2 3   y: 1 2 3 4
 *     window 1            x: 4 5 6 7   y: 5 6 7 8        windows do not overlap
 *     training windows    start anywhere
 *
 * Random choices are pure functions of (seed, index): Philox stream IV__STREAM_DATA.
 */
#ifndef IV_DATASET_H
#define IV_DATASET_H

#include "../base.h"
#include "../file.h"

typedef struct iv__reader iv__reader;

struct iv_dataset {
    const iv__reader *reader;
    iv_dataset_info info;
    void *self; /* the reader's */
};

struct iv__reader {
    const char *kind;  /* "text" */
    const char *usage; /* "text:FILE" */
    /* Opens `rest`; sets d->self and d->info (but kind).  On failure nothing is left open. */
    iv_status (*open)(iv_dataset *d, const char *rest, int64_t context, double val_fraction);
    void (*close)(void *self);
    /* As iv_dataset_train_sample and iv_dataset_sample; dataset.c has checked the index. */
    iv_status (*train_sample)(iv_dataset *d, uint64_t seed, int64_t index, void *x, int32_t *y);
    iv_status (*sample)(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y);
};

extern const iv__reader iv__reader_text, iv__reader_idx, iv__reader_tokens;

/* Uniform over 0 .. n-1, n >= 1, without bias; a pure function of its arguments.  step < 2^32.
 * 64 random bits are Philox words of counter (IV__STREAM_DATA, step, element); the rare values that
 * would favour some results are rejected, and the next words taken. */
uint64_t iv__data_uniform(uint64_t seed, uint64_t step, uint64_t element, uint64_t n);

/* A row of n token ids of `bytes` (1, 2, 4) each, little-endian, at any alignment; borrowed. */
typedef struct iv__span {
    const uint8_t *data;
    int64_t n;
    int32_t bytes;
} iv__span;

/* Cuts `whole` at the last val_fraction of it: spans[IV_TRAIN] and spans[IV_VAL].
 * IV_INVALID if val_fraction is not in [0, 1). */
iv_status iv__span_split(iv__span whole, double val_fraction, iv__span out_spans[2]);
/* Checks that both splits hold a window (context >= 1; `what` names the data in messages), and
 * fills info.  A validation split that is too short has 0 samples, which is logged unless it is
 * empty. */
iv_status iv__windows_init(const iv__span spans[2], int64_t context, const char *what,
                           iv_dataset_info *info);
/* The window from `start` of a span: x[k] = token start + k, y[k] = token start + k + 1, k <
 * context. 0 <= start < n - context. */
void iv__window_copy(const iv__span *s, int64_t start, int64_t context, int32_t *x, int32_t *y);
/* The same at a random place for global sample `index`. */
void iv__window_random(const iv__span *s, int64_t context, uint64_t seed, int64_t index, int32_t *x,
                       int32_t *y);

#endif
