/* test_fp8.c: the scales of `fp8` against delayed scaling written plainly, with its whole history
 * (TransformerEngine's rule), over random magnitudes; then state, and states that are refused. */
#include "unit/temporary.h"

#include "../runtime/precision.h"

#include <math.h>

enum { TENSORS = 6, STEPS = 400, MOST = 1024 };
static const uint8_t e5m2[TENSORS] = {0, 0, 0, 1, 1, 1};

static uint64_t next_number(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* A magnitude between 2^-20 and 2^20, now and then 0. */
static float magnitude(uint64_t *state)
{
    uint64_t r = next_number(state);
    if (r % 16 == 0) return 0;
    return ldexpf(1 + (float)(r >> 40) * 0x1p-24f, (int)(r % 41) - 20);
}

typedef struct plain {
    float history[TENSORS][MOST]; /* the newest first */
    float scale[TENSORS];
} plain;

static void plain_step(plain *p, int64_t length, int margin, const float *amax)
{
    for (int i = 0; i < TENSORS; ++i) {
        float most = 0;
        memmove(p->history[i] + 1, p->history[i], (size_t)(length - 1) * sizeof(float));
        p->history[i][0] = amax[i];
        for (int64_t k = 0; k < length; ++k) most = fmaxf(most, p->history[i][k]);
        if (most > 0) p->scale[i] = (float)(ldexp(e5m2[i] ? 57344 : 448, -margin) / (double)most);
    }
}

static void start(iv__precision *p, const char *spec)
{
    if (iv__precision_start(spec, NULL, "cpu", p) != IV_OK ||
        iv__precision_tensors(p, TENSORS, e5m2) != IV_OK)
        fail_msg("%s: %s", spec, iv_error_message());
}

static void same_scales(const char *spec, const iv__precision *p, const plain *want, int step)
{
    for (int i = 0; i < TENSORS; ++i) {
        int e;
        frexpf(want->scale[i], &e);
        if (p->scales[i] != ldexpf(0.5f, e))
            fail_msg("%s, step %d: scale %d is %g, expected the power of two below %g", spec, step,
                     i, (double)p->scales[i], (double)want->scale[i]);
    }
}

static void take(const iv__precision *p, char **out)
{
    size_t n = p->vt->save(p->run, NULL, 0);
    *out = malloc(n);
    assert_non_null(*out);
    assert_int_equal(p->vt->save(p->run, *out, n), n);
    assert_int_equal(strlen(*out) + 1, n);
}

/* With a stop in the middle: the state goes through its text. */
static void scales_follow_the_history(void **state)
{
    static const struct {
        const char *spec;
        int64_t length;
        int margin;
    } runs[] = {{"fp8", 1024, 0},
                {"fp8(history=16)", 16, 0},
                {"fp8(history=1)", 1, 0},
                {"fp8(algo=most_recent,history=9)", 1, 0},
                {"fp8(margin=3,history=40)", 40, 3}};
    (void)state;
    for (size_t k = 0; k < sizeof(runs) / sizeof(*runs); ++k) {
        static plain want;
        iv__precision p;
        uint64_t seed = k;
        memset(&want, 0, sizeof(want));
        for (int i = 0; i < TENSORS; ++i) want.scale[i] = 1;
        start(&p, runs[k].spec);
        for (int step = 0; step < STEPS; ++step) {
            same_scales(runs[k].spec, &p, &want, step);
            for (int i = 0; i < TENSORS; ++i) p.amax[i] = magnitude(&seed);
            if (step > 200) /* rising and falling runs, too */
                for (int i = 0; i < TENSORS; ++i)
                    p.amax[i] = step < 300 ? (float)step : (float)-step + 500;
            plain_step(&want, runs[k].length, runs[k].margin, p.amax);
            assert_int_equal(iv__precision_rescale(&p), IV_OK);
            if (step % 97 != 50) continue;
            char *text;
            take(&p, &text);
            iv__precision_close(&p);
            start(&p, runs[k].spec);
            assert_int_equal(iv__precision_resume(&p, "fp8", text), IV_OK);
            free(text);
        }
        iv__precision_close(&p);
    }
}

/* Infinities and NaN give no scale, and go with the history. */
static void scales_stay_numbers(void **state)
{
    static const float bad[] = {INFINITY, NAN, 3.4e38f, 1e-38f};
    (void)state;
    for (int k = 0; k < 4; ++k) {
        iv__precision p;
        start(&p, "fp8(history=2)");
        for (int step = 0; step < 4; ++step) {
            for (int i = 0; i < TENSORS; ++i) p.amax[i] = step == 1 ? bad[k] : 7;
            assert_int_equal(iv__precision_rescale(&p), IV_OK);
            for (int i = 0; i < TENSORS; ++i)
                assert_true(p.scales[i] >= 0x1p-126f && p.scales[i] <= 0x1p126f);
        }
        assert_true(p.scales[0] == 64); /* 448 / 7 */
        assert_true(p.scales[5] == 8192);
        iv__precision_close(&p);
    }
}

static void states_are_refused(void **state)
{
    static const struct {
        const char *text;
        iv_status status;
    } rows[] = {{"fp8/1 steps=2 tensors=5 | 1 | 1 | 1 | 1 | 1", IV_CORRUPT},
                {"fp8/1 steps=2 tensors=6 | 1 | 1 | 1 | 1 | 1", IV_CORRUPT},
                {"fp8/1 steps=2 tensors=6 | 1 | 1 | -1 | 1 | 1 | 1", IV_CORRUPT},
                {"fp8/1 steps=2 tensors=6 | 1 5:3 | 1 | 1 | 1 | 1 | 1", IV_CORRUPT},
                {"fp8/1 steps=9 tensors=6 | 1 8:1 7:2 | 1 | 1 | 1 | 1 | 1", IV_CORRUPT},
                {"fp8/1 steps=9 tensors=6 | 1 7:2 8:1 | 1 | 1 | 1 | 1 | 1", IV_OK},
                {"fp8/1", IV_UNSUPPORTED},
                {"scaler/1 kind=grad scale=65536", IV_UNSUPPORTED}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        iv__precision p;
        start(&p, "fp8(history=2)");
        const iv_status s = p.vt->load(p.run, rows[i].text, strlen(rows[i].text));
        if (s != rows[i].status) fail_msg("'%s': %s", rows[i].text, iv_status_name(s));
        iv__precision_close(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_follow_the_history),
        cmocka_unit_test(scales_stay_numbers),
        cmocka_unit_test(states_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
