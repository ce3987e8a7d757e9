/* test_precision_plugin.c: a precision plugin in a shared library, made from the installed headers
 * alone: loaded by path, used, refused with a reason.  And the layout of the interface. */
#include "train/policies.h"

#include "../runtime/registry.h"

static void a_library_is_loaded_and_trains(void **state)
{
    session s;
    iv_step_report r;
    char *text;
    (void)state;
    open_with(&s, GPT "plugins=" GOOD_PLUGIN " ", "example(start=512)", "");
    WORKS(iv_trainer_step(s.trainer, &r));
    assert_true(r.scale == 512);
    inject("step=2,grain=0,param=wte.weight");
    WORKS(iv_trainer_step(s.trainer, &r));
    inject(NULL);
    assert_int_equal(r.outcome, IV_SKIPPED_OVERFLOW);
    WORKS(iv_trainer_save(s.trainer, at("p.safetensors")));
    WORKS(iv_trainer_step(s.trainer, &r));
    assert_true(r.scale == 256);
    const prints whole = prints_of(&s);
    session_close(&s);
    open_with(&s, GPT "plugins=" GOOD_PLUGIN " ", "example", "");
    WORKS(iv_trainer_load(s.trainer, at("p.safetensors")));
    WORKS(iv_trainer_step(s.trainer, &r));
    assert_true(r.scale == 256);
    const prints both = prints_of(&s);
    session_close(&s);
    assert_true(equal(&whole, &both));
    WORKS(iv_precision_text("example", &text));
    if (!strstr(text, "in f32:") || !strstr(strstr(text, "in f32:"), "attention"))
        fail_msg("\"%s\"", text);
    free(text);
}

/* Its rule for the scales of 8-bit floats is followed, in powers of two. */
static void a_library_scales_operands(void **state)
{
    session s;
    char *text;
    int e;
    (void)state;
    open_with(&s, GPT "plugins=" GOOD_PLUGIN " ", "example(operands=fp8)", "");
    const iv__precision *p = &s.trainer->precision;
    assert_true(p->n_scales > 0);
    for (int64_t i = 0; i < p->n_scales; ++i) assert_true(p->scales[i] == 2); /* it says 3 */
    advance(&s, 1);
    for (int64_t i = 0; i < p->n_scales; ++i) {
        frexpf(100 / p->amax[i], &e);
        if (p->amax[i] > 0 && p->scales[i] != ldexpf(0.5f, e))
            fail_msg("scale %d is %g for a largest magnitude of %g", (int)i, (double)p->scales[i],
                     (double)p->amax[i]);
    }
    advance(&s, 1);
    session_close(&s);
    WORKS(iv_precision_text("example(operands=fp8)", &text));
    if (!strstr(text, "E4M3") || !strstr(text, "options: start, operands"))
        fail_msg("\"%s\"", text);
    free(text);
    refuses(GPT "plugins=" GOOD_PLUGIN " ", "example(operands=bad)", "",
            "the scale of tensor 0 is -1");
}

static void what_a_plugin_refuses_ends_the_opening(void **state)
{
    (void)state;
    refuses(GPT "plugins=" GOOD_PLUGIN " ", "example", "optim.name=sgd", "works with Adam only");
    refuses(GPT "plugins=" GOOD_PLUGIN " ", "example(stop=1)", "", "no option 'stop'");
}

/* The entry of `invar plugins -v` of a library. */
static const char *refusal(const char *origin)
{
    static iv_plugin_info p;
    for (int32_t i = 0; iv_plugin_entry(i, &p); ++i)
        if (strcmp(p.origin, origin) == 0) return p.refused;
    fail_msg("%s is not listed", origin);
    return "";
}

static void wrong_libraries_are_refused_with_reasons(void **state)
{
    session s;
    (void)state;
    assert_int_equal(iv_plugins_load(ABI_PLUGIN), IV_UNAVAILABLE);
    if (!strstr(refusal(ABI_PLUGIN), "plugin ABI is 77.0")) fail_msg("%s", refusal(ABI_PLUGIN));
    session_prepare(&s, GPT "plugins=" INIT_PLUGIN " precision.name=example-bad");
    assert_int_equal(iv_trainer_open(s.config, s.data, iv_model_build, &s.spec, &s.trainer),
                     IV_UNAVAILABLE);
    if (!strstr(iv_error_message(), "licence")) fail_msg("%s", iv_error_message());
    if (!strstr(refusal(INIT_PLUGIN), "licence")) fail_msg("%s", refusal(INIT_PLUGIN));
    s.trainer = NULL;
    session_close(&s);
}

/* Fields are only ever appended: these offsets are those of ABI 2.0 on 64-bit machines. */
static void the_layout_is_pinned(void **state)
{
    (void)state;
    if (sizeof(void *) != 8) skip();
    assert_int_equal(IV_PLUGIN_ABI >> 16, 2);
    const struct {
        const char *what;
        size_t got, want;
    } rows[] = {
        {"iv_plugin.abi", offsetof(iv_plugin, abi), 0},
        {"iv_plugin.vtable_size", offsetof(iv_plugin, vtable_size), 12},
        {"iv_plugin.name", offsetof(iv_plugin, name), 16},
        {"iv_plugin.vtable", offsetof(iv_plugin, vtable), 40},
        {"iv_plugin.init", offsetof(iv_plugin, init), 48},
        {"iv_plugin.fini", offsetof(iv_plugin, fini), 56},
        {"iv_policy.param", offsetof(iv_policy, param), 4},
        {"iv_policy.full", offsetof(iv_policy, full), 8},
        {"iv_policy.moment", offsetof(iv_policy, moment), 12},
        {"iv_policy.compute", offsetof(iv_policy, compute), 16},
        {"iv_policy.low", offsetof(iv_policy, low), 20},
        {"iv_policy.stochastic", offsetof(iv_policy, stochastic), 24},
        {"iv_policy.operands", offsetof(iv_policy, operands), 28},
        {"iv_policy.clip", offsetof(iv_policy, clip), 32},
        {"iv_precision_request.device", offsetof(iv_precision_request, device), 8},
        {"iv_precision_request.clip", offsetof(iv_precision_request, clip), 32},
        {"iv_precision_request.option", offsetof(iv_precision_request, option), 40},
        {"iv_precision.options", offsetof(iv_precision, options), 0},
        {"iv_precision.open", offsetof(iv_precision, open), 8},
        {"iv_precision.policy", offsetof(iv_precision, policy), 24},
        {"iv_precision.classify", offsetof(iv_precision, classify), 32},
        {"iv_precision.loss_scale", offsetof(iv_precision, loss_scale), 40},
        {"iv_precision.on_grads", offsetof(iv_precision, on_grads), 48},
        {"iv_precision.scales", offsetof(iv_precision, scales), 56},
        {"iv_precision.save", offsetof(iv_precision, save), 64},
        {"iv_precision.load", offsetof(iv_precision, load), 72},
        {"iv_precision.describe", offsetof(iv_precision, describe), 80},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        if (rows[i].got != rows[i].want)
            fail_msg("%s is at %zu, pinned at %zu", rows[i].what, rows[i].got, rows[i].want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_library_is_loaded_and_trains),
        cmocka_unit_test(a_library_scales_operands),
        cmocka_unit_test(what_a_plugin_refuses_ends_the_opening),
        cmocka_unit_test(wrong_libraries_are_refused_with_reasons),
        cmocka_unit_test(the_layout_is_pinned),
    };
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
