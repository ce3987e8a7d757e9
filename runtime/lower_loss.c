/* lower_loss.c: softmax, log-softmax, cross entropy and their gradients as launches of
 * kernels/softmax.k and kernels/xent.k: one group per row. */
#include "lower_emit.h"

iv_status iv__lower_softmax(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), y = iv__lower_out(l, n, 0);
    iv__emit e = iv__emit_of("softmax", n->op == IV_OP_SOFTMAX ? "softmax" : "log_softmax", x.dtype,
                             y.dtype, iv__rows(&x));
    iv__emit_buf(&e, x);
    iv__emit_buf(&e, y);
    e.n[0] = iv__cols(&x);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_softmax_grad(iv__lower *l, const iv__node *n)
{
    const iv__view y = iv__lower_in(l, n, 0), dy = iv__lower_in(l, n, 1),
                   dx = iv__lower_out(l, n, 0);
    IV_TRY(iv__lower_typed(n, &dy, y.dtype, "the gradient"));
    iv__emit e =
        iv__emit_of("softmax", n->op == IV_OP_SOFTMAX_GRAD ? "softmax_grad" : "log_softmax_grad",
                    y.dtype, dx.dtype, iv__rows(&y));
    iv__emit_buf(&e, y);
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, dx);
    e.n[0] = iv__cols(&y);
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_xent(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), targets = iv__lower_in(l, n, 1);
    const iv__view loss = iv__lower_out(l, n, 0), lse = iv__lower_out(l, n, 1);
    const iv_dtype a = iv__compute_type(x.dtype, x.dtype);
    IV_TRY(iv__lower_typed(n, &targets, IV_I32, "the targets"));
    IV_TRY(iv__lower_typed(n, &loss, a, "the loss"));
    IV_TRY(iv__lower_typed(n, &lse, a, "the log sum"));
    iv__emit e = iv__emit_of("xent", "xent", x.dtype, x.dtype, iv__rows(&x));
    iv__emit_buf(&e, x);
    iv__emit_buf(&e, targets);
    iv__emit_buf(&e, loss);
    iv__emit_buf(&e, lse);
    e.n[0] = iv__cols(&x);
    e.n[1] = n->attr[IV_A_IGNORE];
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_xent_grad(iv__lower *l, const iv__node *n)
{
    const iv__view x = iv__lower_in(l, n, 0), targets = iv__lower_in(l, n, 1);
    const iv__view lse = iv__lower_in(l, n, 2), dy = iv__lower_in(l, n, 3);
    const iv__view dx = iv__lower_out(l, n, 0);
    const iv_dtype a = iv__compute_type(x.dtype, dx.dtype);
    IV_TRY(iv__lower_typed(n, &targets, IV_I32, "the targets"));
    IV_TRY(iv__lower_typed(n, &lse, a, "the log sum"));
    IV_TRY(iv__lower_typed(n, &dy, a, "the gradient"));
    iv__emit e = iv__emit_of("xent", "xent_grad", x.dtype, dx.dtype, iv__rows(&x));
    iv__emit_buf(&e, x);
    iv__emit_buf(&e, targets);
    iv__emit_buf(&e, lse);
    iv__emit_buf(&e, dy);
    iv__emit_buf(&e, dx);
    e.n[0] = iv__cols(&x);
    e.n[1] = n->attr[IV_A_IGNORE];
    return iv__lower_launch(l, &e);
}
