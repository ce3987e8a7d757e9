/* test_graph.c: building graphs: shapes that come out, mistakes and their texts, poisoned values,
 * names, pruning, and what differentiation refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph.h"

#define FAILS(status, part, call)                                                                  \
    do {                                                                                           \
        iv_status got_ = (call);                                                                   \
        if (got_ != (status) || !strstr(iv_error_message(), (part)))                               \
            fail_msg("%s\n  gave \"%s\" (%s)\n  expected \"%s\" (%s)", #call, iv_error_message(),  \
                     iv_status_name(got_), (part), iv_status_name(status));                        \
    } while (0)

static const iv_init zeros = {IV_INIT_ZEROS, 0};

static iv_graph *new_graph(void)
{
    iv_graph *g = NULL;
    assert_int_equal(iv_graph_new(&g), IV_OK);
    return g;
}

static int n_inputs; /* names of inputs are unique */
static iv_value in(iv_graph *g, iv_shape s)
{
    char name[16];
    snprintf(name, sizeof(name), "x%d", n_inputs++);
    return iv_input(g, name, IV_F32, s);
}

static iv_value ids(iv_graph *g, iv_shape s)
{
    char name[16];
    snprintf(name, sizeof(name), "i%d", n_inputs++);
    return iv_input(g, name, IV_I32, s);
}

/* ---- mistakes: a row each; all parts must be in the text, which starts with scope and operator
 * ---- */

#define M(name) static iv_value name(iv_graph *g)
#define S IV_SHAPE
M(m_add)
{
    return iv_add(g, in(g, S(3, 4)), in(g, S(5)));
}
M(m_mul)
{
    return iv_mul(g, in(g, S(2, 3, 4)), in(g, S(2, 1, 5)));
}
M(m_int)
{
    return iv_relu(g, ids(g, S(3)));
}
M(m_int2)
{
    return iv_add(g, in(g, S(3)), ids(g, S(3)));
}
M(m_inner)
{
    return iv_matmul(g, in(g, S(5, 7)), in(g, S(8, 3)), false, false);
}
M(m_inner_t)
{
    return iv_matmul(g, in(g, S(5, 7)), in(g, S(7, 3)), false, true);
}
M(m_batch)
{
    return iv_matmul(g, in(g, S(2, 5, 7)), in(g, S(3, 7, 4)), false, false);
}
M(m_ranks)
{
    return iv_matmul(g, in(g, S(2, 2, 5, 7)), in(g, S(2, 7, 4)), false, false);
}
M(m_vector)
{
    return iv_matmul(g, in(g, S(7)), in(g, S(7, 4)), false, false);
}
M(m_bias)
{
    return iv_linear(g, in(g, S(5, 7)), in(g, S(7, 3)), in(g, S(4)), false);
}
M(m_int_bias)
{
    return iv_linear(g, in(g, S(5, 7)), in(g, S(7, 3)), ids(g, S(3)), false);
}
M(m_concat)
{
    return iv_concat(g, (iv_value[]){in(g, S(2, 3)), in(g, S(3, 3))}, 2, 1);
}
M(m_concat_types)
{
    return iv_concat(g, (iv_value[]){in(g, S(2, 3)), ids(g, S(2, 3))}, 2, 1);
}
M(m_concat_axis)
{
    return iv_concat(g, (iv_value[]){in(g, S(2, 3))}, 1, 2);
}
M(m_concat_none)
{
    return iv_concat(g, NULL, 0, 0);
}
M(m_reshape)
{
    return iv_reshape(g, in(g, S(4, 6)), S(5, -1));
}
M(m_reshape_two)
{
    return iv_reshape(g, in(g, S(4, 6)), S(-1, -1));
}
M(m_reshape_rank)
{
    return iv_reshape(g, in(g, S(1)), (iv_shape){7, {1}});
}
M(m_broadcast)
{
    return iv_broadcast(g, in(g, S(4, 6)), S(4, 7));
}
M(m_broadcast_less)
{
    return iv_broadcast(g, in(g, S(4, 6)), S(6));
}
M(m_slice)
{
    return iv_slice(g, in(g, S(4, 6)), 1, 3, 4);
}
M(m_slice_axis)
{
    return iv_slice(g, in(g, S(4, 6)), -3, 0, 1);
}
M(m_slice_none)
{
    return iv_slice(g, in(g, S(4, 6)), 0, 1, 0);
}
M(m_axes)
{
    return iv_transpose(g, in(g, S(4, 6)), (int32_t[]){0, 0});
}
M(m_mask)
{
    return iv_sum(g, in(g, S(4, 6)), 4, false);
}
M(m_layernorm)
{
    return iv_layernorm(g, in(g, S(4, 6)), in(g, S(6)), in(g, S(5)), 1e-5);
}
M(m_rmsnorm)
{
    return iv_rmsnorm(g, in(g, S(4, 6)), ids(g, S(6)), 1e-5);
}
M(m_xent)
{
    return iv_cross_entropy_rows(g, in(g, S(4, 6)), ids(g, S(5)), -1);
}
M(m_xent_float)
{
    return iv_cross_entropy_rows(g, in(g, S(4, 6)), in(g, S(4)), -1);
}
M(m_embedding)
{
    return iv_embedding(g, in(g, S(4, 6)), in(g, S(5)));
}
M(m_embedding_int)
{
    return iv_embedding(g, ids(g, S(4, 6)), ids(g, S(5)));
}
M(m_attention)
{
    return iv_attention(g, in(g, S(2, 5, 6)), in(g, S(2, 5, 8)), in(g, S(2, 5, 8)), 2, true, 0);
}
M(m_attention_kv)
{
    return iv_attention(g, in(g, S(2, 5, 6)), in(g, S(2, 5, 6)), in(g, S(2, 4, 6)), 2, true, 0);
}
M(m_heads)
{
    return iv_attention(g, in(g, S(2, 5, 6)), in(g, S(2, 5, 6)), in(g, S(2, 5, 6)), 4, true, 0);
}
M(m_attention_int)
{
    return iv_attention(g, in(g, S(2, 5, 6)), in(g, S(2, 5, 6)), ids(g, S(2, 5, 6)), 2, true, 0);
}
static const iv_window window = {{3, 3}, {1, 1}, {0, 0}};
M(m_conv)
{
    return iv_conv2d(g, in(g, S(2, 3, 8, 8)), in(g, S(4, 2, 3, 3)), NULL, window, 1);
}
M(m_conv_groups)
{
    return iv_conv2d(g, in(g, S(2, 4, 8, 8)), in(g, S(3, 2, 3, 3)), NULL, window, 2);
}
M(m_conv_big)
{
    return iv_conv2d(g, in(g, S(2, 3, 2, 8)), in(g, S(4, 3, 3, 3)), NULL, window, 1);
}
M(m_conv_int)
{
    return iv_conv2d(g, in(g, S(2, 3, 8, 8)), ids(g, S(4, 3, 3, 3)), NULL, window, 1);
}
M(m_conv_bias)
{
    iv_value b = in(g, S(5));
    return iv_conv2d(g, in(g, S(2, 3, 8, 8)), in(g, S(4, 3, 3, 3)), &b, window, 1);
}
M(m_pool)
{
    return iv_max_pool2d(g, in(g, S(2, 8, 8)), window);
}
M(m_pool_pad)
{
    return iv_avg_pool2d(g, in(g, S(1, 2, 8, 8)), (iv_window){{3, 3}, {1, 1}, {2, 0}});
}
M(m_pool_stride)
{
    return iv_avg_pool2d(g, in(g, S(1, 2, 8, 8)), (iv_window){{3, 3}, {0, 1}, {0, 0}});
}
M(m_cast)
{
    return iv_cast(g, in(g, S(3)), IV_I32);
}
M(m_dropout)
{
    return iv_dropout(g, in(g, S(3)), 1);
}
M(m_dropout_nan)
{
    return iv_dropout(g, in(g, S(3)), 0.0 / 0.0);
}
M(m_zero)
{
    return in(g, S(3, 0));
}
M(m_huge)
{
    return in(g, S(1 << 20, 1 << 20));
}
M(m_grown)
{
    return iv_broadcast(g, in(g, S(1)), S(1 << 20, 1 << 20));
}
M(m_rank)
{
    return in(g, (iv_shape){7, {1, 1, 1, 1, 1, 1}});
}
M(m_grains)
{
    iv_graph_set_grains(g, 3);
    iv_value w = in(g, S(3));
    return iv_batchnorm(g, in(g, S(4, 3)), w, w, w, w, 1e-5, 0.1, true);
}
M(m_no_grains)
{
    iv_graph_set_grains(g, 0);
    return in(g, S(4, 3));
}
M(m_name)
{
    iv_param(g, "same", S(3), zeros);
    return iv_input(g, "same", IV_F32, S(3));
}
M(m_loss)
{
    iv_graph_set_loss(g, in(g, S(3)));
    return in(g, S(3));
}
M(m_outputs)
{
    for (int i = 0; i < 17; ++i) iv_graph_set_output(g, "y", in(g, S(3)));
    return in(g, S(3));
}
M(m_targets)
{
    return iv_cross_entropy(g, in(g, S(4, 6)), iv_reshape(g, ids(g, S(4)), S(4)), -1);
}
M(m_other_graph)
{
    return iv_add(g, in(g, S(3)), (iv_value){1000});
}
#undef M

static const struct {
    iv_value (*build)(iv_graph *);
    const char *parts[4]; /* all must be in the text */
} mistakes[] = {
    {m_add, {"h.0.add", "[3,4]", "[5]", "broadcast"}},
    {m_mul, {"h.0.mul", "[2,3,4]", "[2,1,5]"}},
    {m_int, {"h.0.relu", "float", "i32"}},
    {m_int2, {"h.0.add", "float", "i32"}},
    {m_inner, {"h.0.matmul", "[5,7]", "[8,3]", "inner"}},
    {m_inner_t, {"h.0.matmul", "[5,7]", "[7,3]", "inner"}},
    {m_batch, {"h.0.matmul", "[2,5,7]", "[3,7,4]", "batch"}},
    {m_ranks, {"h.0.matmul", "[2,2,5,7]", "[2,7,4]", "batch"}},
    {m_vector, {"h.0.matmul", "[7]", "[7,4]", "two dimensions"}},
    {m_bias, {"h.0.matmul", "[7,3]", "[4]", "bias"}},
    {m_int_bias, {"h.0.matmul", "float", "i32"}},
    {m_concat, {"h.0.concat", "[2,3]", "[3,3]"}},
    {m_concat_types, {"h.0.concat", "f32", "i32"}},
    {m_concat_axis, {"h.0.concat", "axis 2", "[2,3]"}},
    {m_concat_none, {"h.0.concat", "0 inputs"}},
    {m_reshape, {"h.0.reshape", "[4,6]", "[5,", "elements"}},
    {m_reshape_two, {"h.0.reshape", "[4,6]", "elements"}},
    {m_reshape_rank, {"h.0.reshape", "rank 7"}},
    {m_broadcast, {"h.0.broadcast", "[4,6]", "[4,7]"}},
    {m_broadcast_less, {"h.0.broadcast", "[4,6]", "[6]"}},
    {m_slice, {"h.0.slice", "[3, 7)", "of 6"}},
    {m_slice_axis, {"h.0.slice", "axis -1", "[4,6]"}},
    {m_slice_none, {"h.0.slice", "[1, 1)"}},
    {m_axes, {"h.0.transpose", "axis 0"}},
    {m_mask, {"h.0.sum", "0x4", "rank 2"}},
    {m_layernorm, {"h.0.layernorm", "[4,6]", "[5]"}},
    {m_rmsnorm, {"h.0.rmsnorm", "float", "i32"}},
    {m_xent, {"h.0.cross_entropy_rows", "[4,6]", "[5]"}},
    {m_xent_float, {"h.0.cross_entropy_rows", "i32", "f32"}},
    {m_embedding, {"h.0.embedding", "i32", "f32"}},
    {m_embedding_int, {"h.0.embedding", "float", "i32"}},
    {m_attention, {"h.0.attention", "[2,5,6]", "[2,5,8]"}},
    {m_attention_kv, {"h.0.attention", "[2,5,6]", "[2,4,6]"}},
    {m_heads, {"h.0.attention", "4 heads", "6"}},
    {m_attention_int, {"h.0.attention", "float", "i32"}},
    {m_conv, {"h.0.conv2d", "[2,3,8,8]", "[4,2,3,3]"}},
    {m_conv_groups, {"h.0.conv2d", "[2,4,8,8]", "[3,2,3,3]"}},
    {m_conv_big, {"h.0.conv2d", "window of 3", "over 2"}},
    {m_conv_int, {"h.0.conv2d", "float", "i32"}},
    {m_conv_bias, {"h.0.conv2d", "[4,3,3,3]", "[5]"}},
    {m_pool, {"h.0.max_pool2d", "[2,8,8]", "4 dimensions"}},
    {m_pool_pad, {"h.0.avg_pool2d", "padding 2", "window of 3"}},
    {m_pool_stride, {"h.0.avg_pool2d", "stride 0"}},
    {m_cast, {"h.0.cast", "i32"}},
    {m_dropout, {"h.0.dropout", "probability 1"}},
    {m_dropout_nan, {"h.0.dropout", "nan"}},
    {m_zero, {"[3,0]", "1 or more"}},
    {m_huge, {"[1048576,1048576]", "2^31"}},
    {m_grown, {"h.0.broadcast", "[1048576,1048576]", "2^31"}},
    {m_rank, {"rank 7", "0 to 6"}},
    {m_grains, {"h.0.batchnorm", "4 samples", "3 grains"}},
    {m_no_grains, {"grains", "0", "1 or more"}},
    {m_name, {"same", "unique"}},
    {m_loss, {"loss", "one element"}},
    {m_outputs, {"16 outputs"}},
    {m_targets, {"h.0.cross_entropy", "input"}},
    {m_other_graph, {"h.0.add", "input 1"}},
};

static void test_mistakes(void **state)
{
    (void)state;
    for (int64_t i = 0; i < IV_COUNT(mistakes); ++i) {
        iv_graph *g = new_graph();
        iv_graph_scope(g, "h.0");
        iv_value v = mistakes[i].build(g);
        if (v.id >= 0 || iv_graph_status(g) != IV_INVALID)
            fail_msg("mistake %lld (%s): no error", (long long)i, mistakes[i].parts[0]);
        for (int k = 0; k < 4 && mistakes[i].parts[k]; ++k)
            if (!strstr(iv_error_message(), mistakes[i].parts[k]))
                fail_msg("mistake %lld: \"%s\" does not contain \"%s\"", (long long)i,
                         iv_error_message(), mistakes[i].parts[k]);
        if (strchr(iv_error_message(), '\n'))
            fail_msg("more than one line: \"%s\"", iv_error_message());
        iv_graph_free(g);
    }
}

/* ---- after a mistake: the first error stays, every function takes poisoned values ---- */

static void test_poisoned(void **state)
{
    (void)state;
    iv_graph *g = new_graph();
    iv_value x = in(g, S(3)), bad = iv_add(g, x, in(g, S(4)));
    char first[512];
    assert_int_equal(bad.id, -1);
    assert_int_equal(iv_graph_status(g), IV_INVALID);
    snprintf(first, sizeof(first), "%s", iv_error_message());
    int64_t nodes = g->n_nodes;
    iv_value more[] = {
        iv_relu(g, bad),
        iv_add(g, x, bad),
        iv_relu(g, x),
        iv_matmul(g, bad, bad, true, false),
        iv_linear(g, bad, x, bad, false),
        iv_reshape(g, bad, S(3)),
        iv_transpose(g, bad, (int32_t[]){0}),
        iv_slice(g, bad, -1, 0, 1),
        iv_concat(g, &bad, 1, -1),
        iv_sum(g, bad, 0, false),
        iv_mean(g, bad, 1, true),
        iv_softmax(g, bad),
        iv_layernorm(g, bad, bad, bad, 1e-5),
        iv_batchnorm(g, bad, bad, bad, bad, bad, 1e-5, 0.1, true),
        iv_batchnorm(g, bad, bad, bad, bad, bad, 1e-5, 0.1, false),
        iv_embedding(g, bad, bad),
        iv_attention(g, bad, bad, bad, 0, true, 0),
        iv_conv2d(g, bad, bad, &bad, window, 1),
        iv_max_pool2d(g, bad, window),
        iv_cross_entropy(g, bad, bad, -1),
        iv_dropout(g, bad, 0.5),
        iv_cast(g, bad, IV_BF16),
        iv_input(g, "late", IV_F32, S(3)),
        iv_param(g, "late", S(3), zeros),
    };
    for (int64_t i = 0; i < IV_COUNT(more); ++i)
        if (more[i].id != -1)
            fail_msg("value %lld after a mistake is %d", (long long)i, more[i].id);
    iv_graph_set_loss(g, bad);
    iv_graph_set_output(g, "y", bad);
    assert_int_equal(iv_value_shape(g, bad).rank, 0);
    assert_int_equal(iv_value_dtype(g, bad), IV_F32);
    assert_int_equal(iv_graph_gradient(g, bad).id, -1);
    assert_int_equal(g->n_nodes, nodes);
    assert_int_equal(iv_graph_status(g), IV_INVALID);
    assert_string_equal(iv_error_message(), first);
    assert_int_equal(iv_graph_differentiate(g), IV_INVALID);
    assert_string_equal(iv_error_message(), first);
    iv_graph_free(g);
    iv_graph_free(NULL);
}

/* ---- shapes ---- */

static void shape_is(iv_graph *g, iv_value v, const char *want, int samples)
{
    char text[128];
    iv_shape s = iv_value_shape(g, v);
    if (v.id < 0) fail_msg("%s: %s", want, g->error);
    iv__shape_text(&s, text, sizeof(text));
    if (strcmp(text, want) != 0) fail_msg("shape %s, expected %s", text, want);
    if (g->values[v.id].samples != samples)
        fail_msg("shape %s: samples %d, expected %d", want, g->values[v.id].samples, samples);
}

static void test_shapes(void **state)
{
    (void)state;
    iv_graph *g = new_graph();
    iv_value x = in(g, S(4, 3, 5)), w = iv_param(g, "w", S(5, 7), zeros);
    shape_is(g, iv_add(g, x, in(g, S(1, 1))), "[4,3,5]", 1);
    shape_is(g, iv_add(g, iv_param(g, "p", S(2, 1, 1, 5), zeros), x), "[2,4,3,5]", 2);
    shape_is(g, iv_matmul(g, x, w, false, false), "[4,3,7]", 1);
    shape_is(g, iv_matmul(g, x, x, true, false), "[4,5,5]", 1);
    shape_is(g, iv_matmul(g, iv_reshape(g, x, S(-1, 5)), iv_reshape(g, x, S(-1, 5)), true, false),
             "[5,5]", 0);
    shape_is(g, iv_transpose(g, x, (int32_t[]){0, -1, 1}), "[4,5,3]", 1);
    shape_is(g, iv_transpose(g, x, (int32_t[]){1, 0, 2}), "[3,4,5]", 2);
    iv_value turned = iv_transpose(g, x, (int32_t[]){1, 2, 0});
    shape_is(g, turned, "[3,5,4]", 3);
    shape_is(g, iv_reshape(g, turned, S(15, 1, 2, 2)), "[15,1,2,2]", 3);
    shape_is(g, iv_reshape(g, turned, S(6, 10)), "[6,10]", 0);
    shape_is(g, iv_reshape(g, x, S(1, 12, 5)), "[1,12,5]", 2);
    shape_is(g, iv_sum(g, turned, 1, false), "[5,4]", 2);
    shape_is(g, iv_sum(g, turned, 4, true), "[3,5,1]", 0);
    shape_is(g, iv_mul(g, iv_reshape(g, turned, S(15, 4)), in(g, S(4))), "[15,4]", 2);
    shape_is(g, iv_matmul(g, iv_param(g, "r", S(3, 2, 5), zeros), turned, false, false), "[3,2,4]",
             3);
    shape_is(g, iv_slice(g, x, -1, 1, 2), "[4,3,2]", 1);
    shape_is(g, iv_slice(g, x, 0, 1, 2), "[2,3,5]", 0);
    shape_is(g, iv_concat(g, (iv_value[]){x, x}, 2, -2), "[4,6,5]", 1);
    shape_is(g, iv_sum(g, x, 0, false), "[]", 0);
    shape_is(g, iv_sum(g, x, 2 + 4, false), "[4]", 1);
    shape_is(g, iv_max(g, x, 1, true), "[1,3,5]", 0);
    shape_is(g, iv_broadcast(g, x, S(2, 4, 3, 5)), "[2,4,3,5]", 2);
    shape_is(g, iv_embedding(g, w, ids(g, S(4, 9))), "[4,9,7]", 1);
    shape_is(g, iv_cross_entropy_rows(g, x, ids(g, S(4, 3)), -1), "[12]", 1);
    iv_value image = in(g, S(2, 4, 9, 10)), k = iv_param(g, "k", S(6, 2, 3, 2), zeros);
    iv_window s = {{3, 2}, {2, 3}, {1, 0}};
    shape_is(g, iv_conv2d(g, image, k, NULL, s, 2), "[2,6,5,3]", 1);
    shape_is(g, iv_max_pool2d(g, image, s), "[2,4,5,3]", 1);
    assert_int_equal(iv_graph_status(g), IV_OK);
    assert_int_equal(iv_dropout(g, x, 0).id, x.id);
    iv_graph_free(g);
}

/* With grains, what would mix the samples of a grain with others' is refused; what keeps them is
 * not. */
static void test_samples_are_kept_apart(void **state)
{
    (void)state;
    for (int k = 0; k < 5; ++k) {
        iv_graph *g = new_graph();
        iv_graph_set_grains(g, k == 4 ? 1 : 4);
        iv_value x = iv_transpose(g, in(g, S(4, 3, 5)), (int32_t[]){1, 0, 2});
        iv_value w = iv_param(g, "w", S(5), zeros);
        iv_sum(g, iv_tanh(g, iv_matmul(g, x, iv_param(g, "m", S(5, 2), zeros), false, false)), 0,
               false);
        assert_int_equal(iv_graph_status(g), IV_OK);
        if (k == 0 || k == 4) iv_reshape(g, x, S(12, 5));
        if (k == 1 || k == 4) iv_layernorm(g, x, w, w, 1e-5);
        if (k == 2 || k == 4) iv_rmsnorm(g, x, w, 1e-5);
        if (k == 3 || k == 4) iv_cross_entropy_rows(g, x, ids(g, S(3, 4)), -1);
        assert_int_equal(iv_graph_status(g), k == 4 ? IV_OK : IV_INVALID);
        if (k < 4) assert_non_null(strstr(iv_error_message(), "samples are dimension 1"));
        iv_graph_free(g);
    }
}

/* ---- names, pruning, differentiation ---- */

static void test_names(void **state)
{
    (void)state;
    iv_graph *g = new_graph();
    iv_value x = iv_input(g, "x", IV_F32, S(3));
    iv_graph_scope(g, "h.1");
    iv_value y = iv_relu(g, x);
    iv_graph_scope(g, NULL);
    iv_value z = iv_relu(g, y);
    assert_string_equal(g->nodes[g->values[y.id].node].name, "h.1.relu");
    assert_string_equal(g->nodes[g->values[z.id].node].name, "relu");
    assert_int_equal(iv__graph_find(g, "x"), x.id);
    assert_int_equal(iv__graph_find(g, "relu"), -1); /* temporaries are not found by name */
    iv_param(g, "w", S(3), zeros);
    iv_state(g, "w", S(3), zeros);
    FAILS(IV_INVALID, "w: the name is taken", iv_graph_status(g));
    iv_graph_free(g);
}

static void test_prune(void **state)
{
    (void)state;
    iv_graph *g = new_graph();
    iv_value x = in(g, S(3)), y = iv_relu(g, x);
    iv_exp(g, iv_relu(g, y));
    iv_value z = iv_tanh(g, y);
    iv_graph_set_output(g, "z", z);
    assert_int_equal(iv__graph_prune(g), IV_OK);
    assert_int_equal(g->n_nodes, 2);
    assert_int_equal(g->values[z.id].node, 1);
    assert_int_equal(g->nodes[1].op, IV_OP_TANH);
    iv_graph_free(g);
}

static void test_differentiate(void **state)
{
    (void)state;
    iv_graph *g = new_graph();
    iv_value x = in(g, S(3)), w = iv_param(g, "w", S(3), zeros);
    FAILS(IV_INVALID, "no loss", iv_graph_differentiate(g));
    iv_graph_set_loss(g, iv_sum(g, iv_mul(g, x, w), 0, false));
    assert_int_equal(iv_graph_differentiate(g), IV_OK);
    assert_true(iv_graph_gradient(g, w).id >= 0);
    FAILS(IV_INVALID, "done already", iv_graph_differentiate(g));
    iv_graph_free(g);

    g = new_graph();
    w = iv_param(g, "w", S(3), zeros);
    iv_graph_scope(g, "h.0");
    iv_value sign = iv__node_add(g, IV_OP_SIGN, &w, 1, NULL, NULL);
    iv_graph_set_loss(g, iv_sum(g, sign, 0, false));
    FAILS(IV_UNSUPPORTED, "h.0.sign: sign has no gradient: piecewise constant",
          iv_graph_differentiate(g));
    iv_graph_free(g);

    /* Off the path from parameters to the loss it does not matter. */
    g = new_graph();
    w = iv_param(g, "w", S(3), zeros);
    iv_value still = iv__node_add(g, IV_OP_SIGN, &w, 1, NULL, NULL);
    iv_graph_set_output(g, "sign", still);
    iv_graph_set_loss(g, iv_sum(g, w, 0, false));
    assert_int_equal(iv_graph_differentiate(g), IV_OK);
    iv_graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),      cmocka_unit_test(test_poisoned),
        cmocka_unit_test(test_shapes),        cmocka_unit_test(test_samples_are_kept_apart),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_prune),
        cmocka_unit_test(test_differentiate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
