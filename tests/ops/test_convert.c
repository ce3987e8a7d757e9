/* test_convert.c: conversions to bf16 and f16 round once (docs/numerics.md, rule 8).
 *
 * Between any two neighbours of a 16-bit type, what lies exactly in the middle goes to the even
 * one, and what lies beside the middle, by as little as f64 can say, to its side; rounding to f32
 * on the way would lose that little.  All pairs of neighbours are tried: by the functions of
 * kernels/portable.h, and by a cast on the device. */
#include "harness.h"

typedef struct type16 {
    const char *name;
    iv_dtype dtype;
    uint16_t infinity;
    double past_the_end; /* the first power of two out of range */
    float (*widen)(uint16_t);
    uint16_t (*from_f64)(double), (*from_f32)(float);
} type16;

/* The functions are always inlined: these can be pointed to. */
static float bf16_widen(uint16_t h)
{
    return iv_from_bf16(h);
}
static float f16_widen(uint16_t h)
{
    return iv_from_f16(h);
}
static uint16_t bf16_from_f64(double x)
{
    return iv_to_bf16(iv_narrow(x));
}
static uint16_t f16_from_f64(double x)
{
    return iv_to_f16(iv_narrow(x));
}
static uint16_t bf16_from_f32(float x)
{
    return iv_to_bf16(x);
}
static uint16_t f16_from_f32(float x)
{
    return iv_to_f16(x);
}

static const type16 types[] = {
    {"bf16", IV_BF16, 0x7f80, 0x1p128, bf16_widen, bf16_from_f64, bf16_from_f32},
    {"f16", IV_F16, 0x7c00, 0x1p16, f16_widen, f16_from_f64, f16_from_f32},
};

enum { TRIES = 5 };

/* The middle of h and its upper neighbour, and what is beside it; the results expected. */
static void tries_at(const type16 *t, uint16_t h, double x[TRIES], uint16_t want[TRIES])
{
    const uint16_t up = (uint16_t)(h + 1);
    const double lo = (double)t->widen(h),
                 hi = up == t->infinity ? t->past_the_end : (double)t->widen(up);
    const double mid = lo + (hi - lo) / 2; /* exact */
    x[0] = lo, want[0] = h;
    x[1] = nextafter(mid, 0), want[1] = h;
    x[2] = mid, want[2] = h & 1 ? up : h;
    x[3] = nextafter(mid, 0x1p200), want[3] = up;
    x[4] = nextafter(hi, 0), want[4] = up;
}

static void test_every_middle(void **state)
{
    double x[TRIES];
    uint16_t want[TRIES];
    (void)state;
    for (int i = 0; i < IV_COUNT(types); ++i) {
        const type16 *t = &types[i];
        for (uint16_t h = 0; h < t->infinity; ++h) {
            tries_at(t, h, x, want);
            for (int k = 0; k < 2 * TRIES; ++k) {
                const double v = k < TRIES ? x[k] : -x[k - TRIES];
                const uint16_t w = (uint16_t)(k < TRIES ? want[k] : want[k - TRIES] | 0x8000);
                const uint16_t got = t->from_f64(v);
                if (got != w) fail_msg("%s of %a is %04x, expected %04x", t->name, v, got, w);
                if ((double)(float)v == v && t->from_f32((float)v) != w)
                    fail_msg("%s of f32 %a is not %04x", t->name, v, w);
            }
        }
    }
}

static void test_specials(void **state)
{
    static const uint64_t nans[] = {0x7ff8000000000000, 0x7ff0000000000001, 0xfff0000020000000,
                                    0x7fffffffffffffff};
    (void)state;
    for (int i = 0; i < IV_COUNT(types); ++i) {
        const type16 *t = &types[i];
        assert_int_equal(t->from_f64(0x1p1000), t->infinity);
        assert_int_equal(t->from_f64(-INFINITY), t->infinity | 0x8000);
        assert_int_equal(t->from_f64(-0.0), 0x8000);
        assert_int_equal(t->from_f64(-0x1p-1074), 0x8000);
        for (int k = 0; k < IV_COUNT(nans); ++k) {
            const uint16_t got = t->from_f64(IV_AS_F64(nans[k]));
            const int quiet = t->dtype == IV_BF16 ? 0x40 : 0x200;
            if ((got & 0x7fff) <= t->infinity || !(got & quiet))
                fail_msg("%s of NaN %llx is %04x", t->name, (unsigned long long)nans[k], got);
        }
    }
}

/* The same by a device: all middles in one tensor. */
static void cast_on(iv__device *d, const type16 *t)
{
    const int64_t n = (int64_t)t->infinity * TRIES;
    double *x = malloc((size_t)n * sizeof(*x)), *y;
    uint16_t *want = malloc((size_t)n * sizeof(*want));
    int64_t got = 0;
    rig r;
    assert_true(x && want);
    for (uint16_t h = 0; h < t->infinity; ++h) tries_at(t, h, x + h * TRIES, want + h * TRIES);
    rig_open(&r, d, P_F64, 1);
    iv_value in = iv_input(r.g, "x", IV_F64, IV_SHAPE(n));
    iv_graph_set_output(r.g, "y", iv_cast(r.g, in, t->dtype));
    if (rig_compile(&r, 1) != IV_OK) fail_msg("%s: %s", t->name, iv_error_message());
    rig_write(&r, in, x);
    rig_run(&r);
    y = rig_read(&r, "y", &got);
    assert_int_equal(got, n);
    for (int64_t i = 0; i < n; ++i) {
        const double w = want[i] == t->infinity ? INFINITY : (double)t->widen(want[i]);
        if (y[i] != w) fail_msg("cast to %s of %a is %a, expected %a", t->name, x[i], y[i], w);
    }
    free(x);
    free(y);
    free(want);
    rig_close(&r);
}

static void test_casts(void **state)
{
    (void)state;
    iv__device *d = device_open(2, NULL, true, NULL);
    for (int i = 0; i < IV_COUNT(types); ++i) cast_on(d, &types[i]);
    iv__device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_middle),
        cmocka_unit_test(test_specials),
        cmocka_unit_test(test_casts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
