/* test_scaler.c: loss scalers against what the real ones did: 10,000 random patterns of overflows
 * for each algorithm (tests/ref/scalers.txt, made by scalers.py: PyTorch's GradScaler itself, the
 * others from their descriptions), bit for bit.  Then bounds, state and conversion. */
#include "unit/temporary.h"

#include "../precision/scaler.h"

#include <inttypes.h>

enum { PATTERNS = 10000, STEPS = 48, BLOCK = 100 };

typedef struct pattern {
    iv__scaler s;
    bool overflow[STEPS];
} pattern;

static uint64_t next_number(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static int64_t below(uint64_t *state, int64_t n)
{
    return (int64_t)(next_number(state) % (uint64_t)n);
}

/* The same as scalers.py makes of k. */
static void make(iv__scaler_kind kind, uint64_t k, pattern *p)
{
    static const float inits[] = {65536, 1, 4, 8, 1024, 0x1p24f, 0x1p100f, 0x1p126f};
    static const double factors[][2] = {{2, 0.5},   {2, 0.25},  {4, 0.5},
                                        {1.5, 0.7}, {1.1, 0.3}, {3, 1.0 / 3}};
    static const float least[] = {0, 1, 0.25f, 256};
    static const int rates[] = {0, 1, 5, 20, 50, 90, 100};
    iv__scaler *s = &p->s;
    bool deepspeed = kind == IV_SCALER_ZERO || kind == IV_SCALER_FUSED;
    iv__scaler_init(s, kind);
    s->scale = inits[below(&k, 8)];
    if (deepspeed && s->scale > 0x1p24f) s->scale = 0x1p24f;
    int64_t f = below(&k, 6);
    if (kind == IV_SCALER_GRAD || kind == IV_SCALER_HYSTERESIS) {
        s->growth = factors[f][0];
        s->backoff = factors[f][1];
    }
    s->window = 1 + below(&k, 6);
    int64_t hysteresis = 1 + below(&k, 4);
    if (kind == IV_SCALER_ZERO || kind == IV_SCALER_HYSTERESIS)
        s->hysteresis = s->left = hysteresis;
    s->refill = below(&k, 2) == 1;
    float low = least[below(&k, 4)];
    if (kind == IV_SCALER_APEX || deepspeed) s->least = deepspeed && low == 0 ? 1 : low;
    s->fail_at_least = false;
    int rate = rates[below(&k, 7)];
    for (int i = 0; i < STEPS; ++i) p->overflow[i] = below(&k, 100) < rate;
}

static uint64_t run_block(iv__scaler_kind kind, int block)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (int k = block * BLOCK; k < (block + 1) * BLOCK; ++k) {
        pattern p;
        make(kind, (uint64_t)k, &p);
        for (int i = 0; i < STEPS; ++i) {
            uint32_t bits;
            iv__scaler_update(&p.s, p.overflow[i]);
            memcpy(&bits, &p.s.scale, sizeof(bits));
            for (int b = 0; b < 4; ++b) h = (h ^ (bits >> 8 * b & 255)) * 0x100000001b3u;
        }
    }
    return h;
}

static void traces_are_those_of_the_originals(void **state)
{
    FILE *f = fopen(TESTS_DIR "/ref/scalers.txt", "r");
    char name[32];
    int block, lines = 0, wrong = 0;
    uint64_t want;
    (void)state;
    assert_non_null(f);
    while (fscanf(f, "%31s %d %" SCNx64, name, &block, &want) == 3) {
        int kind = IV_SCALER_GRAD;
        while (kind < IV_SCALER_COUNT && strcmp(name, iv__scaler_name((iv__scaler_kind)kind)) != 0)
            ++kind;
        assert_in_range(kind, IV_SCALER_GRAD, IV_SCALER_COUNT - 1);
        uint64_t got = run_block((iv__scaler_kind)kind, block);
        if (got != want && wrong++ < 5)
            print_error("%s, patterns from %d: %016" PRIx64 ", the original %016" PRIx64 "\n", name,
                        block * BLOCK, got, want);
        ++lines;
    }
    fclose(f);
    assert_int_equal(lines, 5 * PATTERNS / BLOCK);
    if (wrong) fail_msg("%d of %d blocks differ", wrong, lines);
}

/* Row 8 of the known complaints: the scale must not fall to 0. */
static void gotcha_8_bounds_hold(void **state)
{
    iv__scaler s;
    (void)state;
    iv__scaler_init(&s, IV_SCALER_GRAD);
    s.least = 0.25f;
    s.most = 1024;
    for (int i = 0; i < 1000; ++i) assert_true(iv__scaler_update(&s, true));
    assert_true(s.scale == 0.25f); /* below 1 is allowed */
    s.window = 1;
    for (int i = 0; i < 1000; ++i) iv__scaler_update(&s, false);
    assert_true(s.scale == 1024);
    iv__scaler_init(&s, IV_SCALER_GRAD);
    s.window = 1;
    for (int i = 0; i < 1000; ++i) iv__scaler_update(&s, false);
    assert_true(s.scale == 0x1p127f); /* the last power of two in f32 */
}

static void deepspeed_gives_up_at_the_minimum(void **state)
{
    iv__scaler s;
    (void)state;
    iv__scaler_init(&s, IV_SCALER_ZERO);
    s.scale = 4;
    assert_true(iv__scaler_update(&s, true)); /* forgiven */
    assert_true(s.scale == 4);
    assert_true(iv__scaler_update(&s, true)); /* 2 */
    assert_true(iv__scaler_update(&s, true)); /* 1 */
    assert_true(s.scale == 1);
    assert_false(iv__scaler_update(&s, true));
    assert_true(s.scale == 1);
}

/* A scaler that goes on from saved state does what the one that never stopped does. */
static void state_survives(void **state)
{
    (void)state;
    for (int kind = IV_SCALER_GRAD; kind < IV_SCALER_COUNT; ++kind)
        for (uint64_t k = 0; k < 200; ++k) {
            pattern p;
            char text[256];
            make((iv__scaler_kind)kind, k, &p);
            for (int i = 0; i < STEPS / 2; ++i) iv__scaler_update(&p.s, p.overflow[i]);
            assert_in_range(iv__scaler_save(&p.s, text, sizeof(text)), 1, sizeof(text));
            pattern q;
            make((iv__scaler_kind)kind, k, &q);
            assert_true(iv__scaler_load(&q.s, text));
            for (int i = STEPS / 2; i < STEPS; ++i) {
                iv__scaler_update(&p.s, p.overflow[i]);
                iv__scaler_update(&q.s, p.overflow[i]);
                if (p.s.scale != q.s.scale)
                    fail_msg("%s, pattern %d, step %d: %g, unbroken %g",
                             iv__scaler_name((iv__scaler_kind)kind), (int)k, i, (double)q.s.scale,
                             (double)p.s.scale);
            }
        }
}

/* Row 10: another scaler takes the scale over, and how long it has been good. */
static void gotcha_10_state_converts_between_scalers(void **state)
{
    (void)state;
    for (int from = IV_SCALER_GRAD; from < IV_SCALER_COUNT; ++from)
        for (int to = IV_SCALER_GRAD; to < IV_SCALER_COUNT; ++to) {
            iv__scaler a, b;
            char text[256];
            iv__scaler_init(&a, (iv__scaler_kind)from);
            iv__scaler_init(&b, (iv__scaler_kind)to);
            a.scale = 512;
            for (int i = 0; i < 5; ++i) iv__scaler_update(&a, i == 1);
            iv__scaler_save(&a, text, sizeof(text));
            assert_true(iv__scaler_load(&b, text));
            assert_true(b.scale == a.scale);
            int until = 0;
            while (b.scale == a.scale && until < 5000) iv__scaler_update(&b, false), ++until;
            if (until > b.window || until < b.window - 6)
                fail_msg("%s from %s grows after %d steps of a window of %d, 3 were good",
                         iv__scaler_name((iv__scaler_kind)to),
                         iv__scaler_name((iv__scaler_kind)from), until, (int)b.window);
        }
}

static void bad_state_is_refused(void **state)
{
    static const char *const texts[] = {"",
                                        "scaler/2 kind=grad scale=2",
                                        "scaler/1 kind=grad scale=0 good=1",
                                        "scaler/1 kind=grad scale=-4 good=1",
                                        "scaler/1 kind=grad scale=inf good=1",
                                        "scaler/1 kind=grad scale=nan good=1",
                                        "scaler/1 scale=4",
                                        "amax/1 n=3"};
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); ++i) {
        iv__scaler s, before;
        iv__scaler_init(&s, IV_SCALER_GRAD);
        before = s;
        if (iv__scaler_load(&s, texts[i])) fail_msg("\"%s\" was taken", texts[i]);
        assert_memory_equal(&s, &before, sizeof(s));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(traces_are_those_of_the_originals),
        cmocka_unit_test(gotcha_8_bounds_hold),
        cmocka_unit_test(deepspeed_gives_up_at_the_minimum),
        cmocka_unit_test(state_survives),
        cmocka_unit_test(gotcha_10_state_converts_between_scalers),
        cmocka_unit_test(bad_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
