/* windows.c: windows over a row of tokens, and the unbiased random choice (see dataset.h). */
#include "dataset.h"

#include "../rng.h"

__extension__ typedef unsigned __int128 u128;

uint64_t iv__data_uniform(uint64_t seed, uint64_t step, uint64_t element, uint64_t n)
{
    /* Lemire, "Fast random integer generation in an interval" (2019): the high half of bits * n is
     * the result; low halves below 2^64 mod n are those that would make some results more likely.
     */
    const uint64_t least = (0 - n) % n;
    uint64_t result = 0;
    /* A counter gives four words, two tries; bits 32 and up of the step count further pairs of
     * tries. Every try fails with a chance below 1/2 (in practice n / 2^64): 128 are as good as for
     * ever. */
    for (uint64_t attempt = 0; attempt < 128; ++attempt) {
        uint64_t at = step | (attempt >> 1) << 32, word = element * 4 + (attempt & 1) * 2;
        uint64_t high = iv_random_u32(seed, IV__STREAM_DATA, at, word);
        uint64_t bits = high << 32 | iv_random_u32(seed, IV__STREAM_DATA, at, word + 1);
        u128 product = (u128)bits * n;
        result = (uint64_t)(product >> 64);
        if ((uint64_t)product >= least) break;
    }
    return result;
}

iv_status iv__span_split(iv__span whole, double val_fraction, iv__span out_spans[2])
{
    /* Written so that a NaN fails too. */
    if (!(val_fraction >= 0 && val_fraction < 1)) {
        IV_FAIL(IV_INVALID,
                "opening data: the validation fraction is %g, expected 0 <= fraction < 1",
                val_fraction);
    }
    int64_t n_val = (int64_t)((double)whole.n * val_fraction);
    int64_t n_train = whole.n - IV_MIN2(n_val, whole.n);
    out_spans[IV_TRAIN] = (iv__span){whole.data, n_train, whole.bytes};
    out_spans[IV_VAL] =
        (iv__span){whole.data + n_train * whole.bytes, whole.n - n_train, whole.bytes};
    return IV_OK;
}

iv_status iv__windows_init(const iv__span spans[2], int64_t context, const char *what,
                           iv_dataset_info *info)
{
    if (context < 1) {
        IV_FAIL(IV_INVALID, "opening %s: the context is %lld tokens, expected 1 or more", what,
                (long long)context);
    }
    if (spans[IV_TRAIN].n <= context) {
        IV_FAIL(IV_INVALID,
                "opening %s: the training part has %lld tokens, fewer than context + 1 = %llu "
                "[hint: use a longer file or a smaller context]",
                what, (long long)spans[IV_TRAIN].n, (unsigned long long)context + 1);
    }
    if (spans[IV_VAL].n > 0 && spans[IV_VAL].n <= context) {
        iv__log(IV_LOG_WARN,
                "%s: no validation: its part has %lld tokens, fewer than context + 1 = %llu", what,
                (long long)spans[IV_VAL].n, (unsigned long long)context + 1);
    }
    info->is_tokens = true;
    info->sample = IV_SHAPE(context);
    for (int split = 0; split < 2; ++split) {
        info->tokens[split] = spans[split].n;
        info->samples[split] = spans[split].n > 0 ? (spans[split].n - 1) / context : 0;
    }
    return IV_OK;
}

/* Token k of the span; composed from bytes, so neither alignment nor the host's order matters. */
static int32_t token(const iv__span *s, int64_t k)
{
    const uint8_t *p = s->data + k * s->bytes;
    uint32_t id = p[0];
    for (int32_t b = 1; b < s->bytes; ++b) id |= (uint32_t)p[b] << (8 * b);
    return (int32_t)id; /* the readers have checked that ids fit */
}

void iv__window_copy(const iv__span *s, int64_t start, int64_t context, int32_t *x, int32_t *y)
{
    int32_t next = token(s, start);
    for (int64_t k = 0; k < context; ++k) {
        x[k] = next;
        next = token(s, start + k + 1);
        y[k] = next;
    }
}

void iv__window_random(const iv__span *s, int64_t context, uint64_t seed, int64_t index, int32_t *x,
                       int32_t *y)
{
    uint64_t starts = (uint64_t)(s->n - context);
    uint64_t start = iv__data_uniform(seed, 0, (uint64_t)index, starts);
    iv__window_copy(s, (int64_t)start, context, x, y);
}
