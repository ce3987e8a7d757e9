/* test_store.c: the arenas of a run: where parameters lie, their initial values, lowered copies,
 * and the hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rng.h"
#include "store.h"

#include "../kernels/portable.h"

#include <math.h>

#define WORKS(call)                                                                                \
    do {                                                                                           \
        if ((call) != IV_OK) fail_msg("%s\n  gave \"%s\"", #call, iv_error_message());             \
    } while (0)

static iv__device *device;

static int open_it(void **state)
{
    (void)state;
    WORKS(iv__device_open("cpu:0", &(iv_backend_options){.threads = 1}, false, &device));
    return 0;
}

static int close_it(void **state)
{
    (void)state;
    iv__device_close(device);
    return 0;
}

enum { BIG = 20000 };

/* Four parameters and a state; `turned`: declared in another order. */
static iv__store *make(iv_dtype type, uint64_t seed, bool turned, bool decay_all)
{
    iv_graph *g = NULL;
    iv__store *s = NULL;
    WORKS(iv_graph_new(&g));
    if (turned) iv_param(g, "ones", IV_SHAPE(65), (iv_init){IV_INIT_ONES, 0});
    iv_param(g, "normal", IV_SHAPE(BIG / 10, 10), (iv_init){IV_INIT_NORMAL, 0.5});
    iv_param(g, "uniform", IV_SHAPE(BIG), (iv_init){IV_INIT_UNIFORM, 2});
    if (!turned) iv_param(g, "ones", IV_SHAPE(65), (iv_init){IV_INIT_ONES, 0});
    iv_param(g, "scalar", IV_SCALAR, (iv_init){IV_INIT_ZEROS, 0});
    iv_state(g, "running", IV_SHAPE(3), (iv_init){IV_INIT_ONES, 0});
    g->differentiated = true; /* gradients wanted */
    WORKS(iv__store_new(device, g, &(iv_policy){.param = type, .full = type, .moment = type}, seed,
                        2, decay_all, &s));
    iv_graph_free(g);
    return s;
}

static void *read_all(const iv__memory *m)
{
    void *host = malloc((size_t)m->bytes + 1);
    assert_non_null(host);
    WORKS(iv__device_read(device, host, iv__memory_range(m, 0, m->bytes)));
    return host;
}

static void test_layout(void **state)
{
    (void)state;
    iv__store *s = make(IV_F32, 1, false, false);
    int64_t at = 0;
    assert_int_equal(s->n_params, 4);
    assert_int_equal(s->n_states, 1);
    for (int64_t i = 0; i < s->n_params; ++i) {
        assert_int_equal(s->params[i].offset, at);
        assert_int_equal(s->params[i].count, iv_shape_count(&s->params[i].shape));
        at += (s->params[i].count + 63) / 64 * 64;
    }
    assert_int_equal(s->param_elems, at);
    const iv__memory *like_params[] = {&s->param_mem, &s->moment_mem[0], &s->moment_mem[1]};
    for (int64_t i = 0; i < IV_COUNT(like_params); ++i)
        assert_int_equal(like_params[i]->bytes, 4 * at);
    assert_int_equal(s->stat_at, at); /* behind the gradients: statistics, then the loss */
    assert_int_equal(s->loss_at, at + s->state_elems);
    assert_int_equal(s->grad_elems, s->loss_at + 64);
    assert_int_equal(s->grad_mem.bytes, 4 * s->grad_elems);
    static const char *const names[] = {"normal", "ones", "scalar",
                                        "uniform"}; /* in the order of names */
    for (int64_t i = 0; i < 4; ++i)
        assert_int_equal(iv__store_find(s->params, s->n_params, names[i]), i);
    assert_int_equal(iv__store_find(s->params, s->n_params, "one"), -1);
    iv__store_free(s);
    iv__store_free(NULL);
}

/* Bit 0 of a group of 64: whether weights there decay. */
static void test_groups(void **state)
{
    (void)state;
    for (int all = 0; all < 2; ++all) {
        iv__store *s = make(IV_F32, 1, false, all);
        uint8_t *groups = read_all(&s->group_mem);
        for (int64_t i = 0; i < s->param_elems / 64; ++i) {
            bool want = all || i < (BIG + 63) / 64; /* "normal", the only matrix, comes first */
            if ((groups[i] & 1) != want)
                fail_msg("group %lld is %d, expected %d", (long long)i, groups[i], want);
        }
        free(groups);
        iv__store_free(s);
    }
}

static void moments(const double *x, int64_t n, double *mean, double *deviation)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    *mean = sum / (double)n;
    for (int64_t i = 0; i < n; ++i) squares += (x[i] - *mean) * (x[i] - *mean);
    *deviation = sqrt(squares / (double)n);
}

/* Means and deviations within 5 standard errors; the values of f32 and f64 runs are equal. */
static void test_initial(void **state)
{
    (void)state;
    iv__store *s = make(IV_F64, 1, false, false), *narrow = make(IV_F32, 1, false, false),
              *other = make(IV_F64, 2, false, false);
    double *x = read_all(&s->param_mem), *y = read_all(&other->param_mem), mean, deviation;
    float *f = read_all(&narrow->param_mem), *grad = read_all(&narrow->grad_mem);
    for (int64_t i = 0; i < s->param_elems; ++i)
        if (x[i] != (double)f[i] || grad[i] != 0)
            fail_msg("element %lld is %g in f64, %g in f32, its gradient %g", (long long)i, x[i],
                     (double)f[i], (double)grad[i]);
    for (int64_t k = 0; k < s->n_params; ++k) /* what kernels compute is what C computes */
        for (int64_t i = 0; i < s->params[k].count; ++i)
            if (x[s->params[k].offset + i] !=
                iv__initial_value(s->params[k].init, 1, (uint32_t)(IV__STREAM_INIT + (k << 8)),
                                  (uint64_t)i))
                fail_msg("%s: element %lld is %.17g", s->params[k].name, (long long)i,
                         x[s->params[k].offset + i]);
    moments(x, BIG, &mean, &deviation);
    if (fabs(mean) > 5 * 0.5 / sqrt(BIG) || fabs(deviation - 0.5) > 5 * 0.5 / sqrt(2.0 * BIG))
        fail_msg("normal: mean %g, deviation %g", mean, deviation);
    const double *u = x + s->params[3].offset;
    moments(u, BIG, &mean, &deviation);
    if (fabs(mean) > 5 * 2 / sqrt(3.0 * BIG) || fabs(deviation - 2 / sqrt(3)) > 0.02)
        fail_msg("uniform: mean %g, deviation %g", mean, deviation);
    int64_t equal = 0;
    for (int64_t i = 0; i < BIG; ++i) {
        assert_true(u[i] >= -2 && u[i] < 2);
        equal += x[i] == y[i];
    }
    if (equal > 5) fail_msg("%lld values do not depend on the seed", (long long)equal);
    for (int64_t i = 0; i < 128; ++i)
        assert_true(x[s->params[1].offset + i] == (i < 65)); /* ones, then the gap */
    free(x);
    free(y);
    free(f);
    free(grad);
    iv__store_free(s);
    iv__store_free(narrow);
    iv__store_free(other);
}

static void test_lowered(void **state)
{
    (void)state;
    iv__store *s = make(IV_F32, 1, false, false);
    WORKS(iv__store_lowered(s, IV_BF16));
    WORKS(iv__store_lowered(s, IV_BF16));
    assert_int_equal(iv__store_lowered(s, IV_F16), IV_UNSUPPORTED);
    assert_non_null(strstr(iv_error_message(), "f16"));
    for (int round = 0; round < 2; ++round) {
        float *x = read_all(&s->param_mem);
        uint16_t *low = read_all(&s->lowered_mem);
        for (int64_t i = 0; i < s->param_elems; ++i)
            if (low[i] != iv_to_bf16(x[i]))
                fail_msg("element %lld: %a is lowered to %04x", (long long)i, (double)x[i], low[i]);
        for (int64_t i = 0; i < s->param_elems; ++i) x[i] = -3 * x[i];
        WORKS(iv__device_write(device, iv__memory_range(&s->param_mem, 0, s->param_mem.bytes), x));
        WORKS(iv__store_lower(s));
        free(x);
        free(low);
    }
    iv__store_free(s);
}

/* Equal contents, equal hash, in whatever order parameters were declared; any bit changes it. */
static void test_hash(void **state)
{
    (void)state;
    iv__store *a = make(IV_F32, 1, false, false), *b = make(IV_F32, 1, false, false),
              *c = make(IV_F32, 2, false, false);
    char ha[33], hb[33], hc[33], hm[33];
    WORKS(iv__store_hash(a, false, ha));
    WORKS(iv__store_hash(b, false, hb));
    WORKS(iv__store_hash(c, false, hc));
    WORKS(iv__store_hash(a, true, hm));
    assert_int_equal(strlen(ha), 32);
    assert_string_equal(ha, hb);
    assert_string_not_equal(ha, hc);
    assert_string_not_equal(ha, hm);
    float ulp = 1.0000001f;
    WORKS(iv__device_write(device, iv__memory_range(&b->state_mem, 4, 4), &ulp));
    WORKS(iv__store_hash(b, false, hb));
    assert_string_not_equal(ha, hb);
    WORKS(iv__device_write(device, iv__memory_range(&a->moment_mem[1], 8, 4), &ulp));
    WORKS(iv__store_hash(a, true, hb));
    assert_string_not_equal(hm, hb);

    /* Declared in another order, as another compiler evaluates arguments: the same arena. */
    iv__store *d = make(IV_F32, 1, true, false);
    float *x = read_all(&a->param_mem), *y = read_all(&d->param_mem);
    assert_memory_equal(x, y, (size_t)a->param_mem.bytes);
    free(x);
    free(y);
    WORKS(iv__store_hash(d, false, hb));
    assert_string_equal(ha, hb);
    iv__store_free(a);
    iv__store_free(b);
    iv__store_free(c);
    iv__store_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),  cmocka_unit_test(test_groups),
        cmocka_unit_test(test_initial), cmocka_unit_test(test_lowered),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, open_it, close_it);
}
