/* policies.h: short runs under every precision policy, for tests. */
#ifndef IV_TEST_POLICIES_H
#define IV_TEST_POLICIES_H

#include "train/session.h"

#include "../runtime/trainer.h"

#include <math.h>

#define GPT                                                                                        \
    "numerics.mode=invariant device.threads=1 train.batch=8 train.grains=4 train.seed=3 "          \
    "model.name=gpt model.layers=1 model.heads=2 model.width=16 model.context=8 "
#define MLP "numerics.mode=invariant device.threads=1 train.batch=8 model.name=mlp model.width=16 "

/* Every policy, as a run names it. */
static const char *const policies[] = {
    "32-true",
    "64-true",
    "16-mixed",
    "bf16-mixed",
    "16-true",
    "bf16-true",
    "16-true(masters=true)",
    "bf16-true(masters=true)",
    "bf16-true(rounding=stochastic)",
    "16-true(rounding=stochastic)",
    "mixed(low=bf16)",
    "mixed(scaler=hysteresis)",
    "apex(level=O0)",
    "apex(level=O1)",
    "apex(level=O2)",
    "apex(level=O3)",
    "deepspeed(precision=16-mixed)",
    "deepspeed(precision=bf16-mixed)",
    "deepspeed(precision=32-true)",
    "deepspeed(precision=16-mixed,amp=true)",
    "sharded(precision=16)",
    "sharded(precision=bf16)",
    "fullysharded(precision=16)",
    "fullysharded(precision=bf16)",
    "hpu(level=O1)",
    "hpu(level=O2)",
    "hpu(precision=32)",
    "ipu",
    "ipu(precision=32)",
    "tpu",
    "tpu-bf16",
    "xla",
    "xla(precision=bf16-true)",
    "xla(precision=16-true)",
    "fp8",
    "fp8(history=2)",
    "fp8(weights=bf16)",
    "fp8(weights=f16)",
    "int8",
    "nf4",
    "nf4(low=f16)",
    "int8(low=f16)",
};
enum { POLICIES = sizeof(policies) / sizeof(policies[0]) };

typedef struct prints {
    char params[33], state[33];
} prints;

static inline prints prints_of(const session *s)
{
    prints p;
    WORKS(iv_trainer_hash(s->trainer, false, p.params));
    WORKS(iv_trainer_hash(s->trainer, true, p.state));
    return p;
}

static inline bool equal(const prints *a, const prints *b)
{
    return strcmp(a->params, b->params) == 0 && strcmp(a->state, b->state) == 0;
}

static inline void open_with(session *s, const char *base, const char *precision, const char *more)
{
    char all[1024];
    snprintf(all, sizeof(all), "%s precision.name=%s %s", base, precision, more);
    session_open(s, all);
}

static inline void advance(session *s, int64_t n)
{
    iv_step_report r;
    while (n-- > 0) WORKS(iv_trainer_step(s->trainer, &r));
}

static inline prints run(const char *base, const char *precision, const char *more, int64_t n)
{
    session s;
    open_with(&s, base, precision, more);
    advance(&s, n);
    prints p = prints_of(&s);
    session_close(&s);
    return p;
}

static inline void inject(const char *text)
{
    if (text) setenv("INVAR_INJECT", text, 1);
    else unsetenv("INVAR_INJECT");
}

/* The session cannot be opened, and the text says `part`. */
static inline void refuses(const char *base, const char *precision, const char *more,
                           const char *part)
{
    session s;
    char all[1024];
    snprintf(all, sizeof(all), "%s precision.name=%s %s", base, precision, more);
    session_prepare(&s, all);
    const iv_status st = iv_trainer_open(s.config, s.data, iv_model_build, &s.spec, &s.trainer);
    if (st == IV_OK) fail_msg("%s %s: was opened", precision, more);
    if (st != IV_INVALID && st != IV_UNSUPPORTED) fail_msg("%s: %s", precision, iv_status_name(st));
    if (!strstr(iv_error_message(), part))
        fail_msg("%s %s: \"%s\" does not say \"%s\"", precision, more, iv_error_message(), part);
    s.trainer = NULL;
    session_close(&s);
}

#endif
