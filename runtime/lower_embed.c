/* lower_embed.c: EMBEDDING and its gradient to kernels/embed.k. */
#include "base.h"
#include "lower.h"

/* Groups that build the chains of rows, each for its own ids: enough to hide the latency of a
 * device, few enough that a host core does not mind reading the ids as often. */
enum { LINK_GROUPS = 16, COLUMNS = 256, MAX_GRAINS = 1 << 15 };

iv_status iv__lower_embedding(iv__lower *l, const iv__node *n)
{
    const iv__view table = iv__lower_in(l, n, 0), ids = iv__lower_in(l, n, 1),
                   y = iv__lower_out(l, n, 0);
    const iv__emit e = {.file = "embed",
                        .name = "embedding",
                        .sig = {iv__letter(table.dtype), iv__letter(y.dtype)},
                        .n_bufs = 3,
                        .buf = {table, ids, y},
                        .groups = iv_shape_count(&ids.shape),
                        .n = {table.shape.dim[1], table.shape.dim[0]}};
    return iv__lower_launch(l, &e);
}

iv_status iv__lower_embedding_grad(iv__lower *l, const iv__node *n)
{
    const iv__view dy = iv__lower_in(l, n, 0), ids = iv__lower_in(l, n, 1),
                   dw = iv__lower_out(l, n, 0);
    const int64_t rows = iv_shape_count(&ids.shape), vocab = dw.shape.dim[0],
                  cols = dw.shape.dim[1];
    const int64_t grains = iv__lower_segments(l, n);
    iv__view head, next;
    if (rows % grains != 0 || grains > MAX_GRAINS || rows > INT32_MAX)
        IV_FAIL(IV_INVALID,
                "embedding gradient: %lld rows in %lld grains [hint: grains must divide the rows]",
                (long long)rows, (long long)grains);
    IV_TRY(iv__lower_temp(l, IV_I32, IV_SHAPE(vocab), &head));
    IV_TRY(iv__lower_temp(l, IV_I32, IV_SHAPE(rows), &next));
    iv__emit e = {.file = "embed",
                  .name = "embedding_links",
                  .sig = {iv__letter(dy.dtype), iv__letter(dw.dtype)},
                  .n_bufs = 3,
                  .buf = {ids, head, next},
                  .groups = LINK_GROUPS,
                  .n = {rows, vocab, LINK_GROUPS}};
    IV_TRY(iv__lower_launch(l, &e));
    iv__emit sum = {.file = "embed",
                    .name = "embedding_grad",
                    .sig = {e.sig[0], e.sig[1]},
                    .n_bufs = 4,
                    .buf = {dy, head, next, dw},
                    .groups = vocab * ((cols + COLUMNS - 1) / COLUMNS),
                    .n = {cols, rows / grains, grains}};
    return iv__lower_launch(l, &sum);
}
