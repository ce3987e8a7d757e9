/* scaler.c: loss scalers (see scaler.h).  Sources: the descriptions of torch.amp.GradScaler
 * (amp_update_scale), apex.amp.LossScaler, DeepSpeed's DynamicLossScaler and fused fp16 optimizer,
 * and Megatron's update_scale_hysteresis. */
#include "scaler.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[IV_SCALER_COUNT] = {"none", "static", "grad",      "apex",
                                                        "zero", "fused",  "hysteresis"};

const char *iv__scaler_name(iv__scaler_kind kind)
{
    return kind_names[kind];
}

void iv__scaler_init(iv__scaler *s, iv__scaler_kind kind)
{
    *s = (iv__scaler){.kind = kind,
                      .scale = kind == IV_SCALER_NONE || kind == IV_SCALER_STATIC ? 1 : 65536,
                      .growth = 2,
                      .backoff = 0.5,
                      .window = 2000,
                      .hysteresis = 1,
                      .left = 1,
                      .last = -1};
    switch (kind) {
    case IV_SCALER_APEX: s->most = 16777216; break;
    case IV_SCALER_ZERO:
        s->window = 1000;
        s->hysteresis = s->left = 2;
        s->least = 1;
        s->fail_at_least = true;
        break;
    case IV_SCALER_FUSED:
        s->window = 1000;
        s->least = 1;
        break;
    case IV_SCALER_HYSTERESIS: s->hysteresis = s->left = 2; break;
    default: break;
    }
}

static bool is_finite(float x)
{
    return x - x == 0;
}

static void lower(iv__scaler *s, float to)
{
    s->scale = s->least > 0 && to < s->least ? s->least : to;
}

/* A scale that would leave f32 stays. */
static void raise_scale(iv__scaler *s)
{
    float to = (float)((double)s->scale * s->growth);
    if (!is_finite(to)) return;
    s->scale = s->most > 0 && to > s->most ? s->most : to;
}

static void update_grad(iv__scaler *s, bool overflow)
{
    if (overflow) {
        if (s->kind == IV_SCALER_HYSTERESIS && --s->left > 0) {
            s->good = 0;
            return;
        }
        lower(s, (float)((double)s->scale * s->backoff));
        s->good = 0;
        return;
    }
    if (s->kind == IV_SCALER_HYSTERESIS) s->left = s->hysteresis;
    if (++s->good < s->window) return;
    raise_scale(s);
    s->good = 0;
}

static bool update_zero(iv__scaler *s, bool overflow)
{
    bool usable = true;
    if (overflow) {
        if (s->hysteresis == 1 || s->left == 1) {
            usable = !(s->fail_at_least && s->scale == s->least);
            lower(s, (float)((double)s->scale * s->backoff));
        } else {
            --s->left;
        }
        s->last = s->step;
    } else {
        bool grow = (s->step - s->last) % s->window == 0;
        if (s->refill || grow) s->left = s->hysteresis;
        if (grow) raise_scale(s);
    }
    ++s->step;
    return usable;
}

static void update_fused(iv__scaler *s, bool overflow)
{
    int64_t stable = s->step - s->last - 1;
    if (overflow) {
        lower(s, (float)((double)s->scale * s->backoff));
        s->last = s->step;
    } else if (stable > 0 && stable % s->window == 0) {
        raise_scale(s);
    }
    ++s->step;
}

bool iv__scaler_update(iv__scaler *s, bool overflow)
{
    switch (s->kind) {
    case IV_SCALER_GRAD:
    case IV_SCALER_APEX:
    case IV_SCALER_HYSTERESIS: update_grad(s, overflow); return true;
    case IV_SCALER_ZERO: return update_zero(s, overflow);
    case IV_SCALER_FUSED: update_fused(s, overflow); return true;
    default: return true;
    }
}

/* ---- state ---- */

size_t iv__scaler_save(const iv__scaler *s, char *dst, size_t size)
{
    return (size_t)snprintf(dst, size,
                            "scaler/1 kind=%s scale=%.9g good=%" PRId64 " left=%" PRId64
                            " step=%" PRId64 " last=%" PRId64,
                            kind_names[s->kind], (double)s->scale, s->good, s->left, s->step,
                            s->last) +
           1;
}

static int64_t integer(const char *text, const char *name, int64_t fallback)
{
    const char *at = strstr(text, name);
    return at ? strtoll(at + strlen(name), NULL, 10) : fallback;
}

bool iv__scaler_load(iv__scaler *s, const char *text)
{
    char kind[16];
    float scale;
    if (sscanf(text, "scaler/1 kind=%15s scale=%g", kind, &scale) != 2) return false;
    if (!(scale > 0) || !is_finite(scale)) return false;
    bool same = strcmp(kind, kind_names[s->kind]) == 0;
    int64_t good = integer(text, " good=", 0), step = integer(text, " step=", 0),
            last = integer(text, " last=", -1);
    if (s->kind == IV_SCALER_STATIC || s->kind == IV_SCALER_NONE) return true;
    s->scale = scale;
    if (same) {
        s->good = good;
        s->left = integer(text, " left=", s->hysteresis);
        s->step = step;
        s->last = last;
        return true;
    }
    /* DeepSpeed's kinds count from the last overflow, the others from the last change. */
    bool from_deepspeed = strcmp(kind, kind_names[IV_SCALER_ZERO]) == 0 ||
                          strcmp(kind, kind_names[IV_SCALER_FUSED]) == 0;
    int64_t since = from_deepspeed ? step - last - 1 : good;
    s->good = since % s->window;
    s->left = s->hysteresis;
    s->step = since;
    s->last = -1;
    return true;
}
