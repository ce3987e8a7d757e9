/* lightning.c: checkpoints of Lightning as those of a run here (see torch.h).
 *
 * Optimizer states are numbered in the order of the optimizer's parameters.  state_dict has these
 * in the same order, among buffers: a number takes the next entry that has the shape of its
 * moments. */
#include "torch.h"

#include <stdio.h>
#include <string.h>

bool iv__lightning_is(const iv__pickle *root)
{
    return iv__pickle_get(root, "state_dict") && iv__pickle_get(root, "pytorch-lightning_version");
}

static bool same_shape(const iv__pickle *a, const iv__pickle *b)
{
    if (a->kind != IV_PICKLE_TENSOR || b->kind != IV_PICKLE_TENSOR ||
        a->shape.rank != b->shape.rank)
        return false;
    for (int32_t k = 0; k < a->shape.rank; ++k)
        if (a->shape.dim[k] != b->shape.dim[k]) return false;
    return true;
}

/* optimizer_states[0].state: {0: {"step", "exp_avg", "exp_avg_sq"}, ...} */
static iv_status map_moments(iv__torch_list *l, const iv__io_job *j, const iv__pickle *weights,
                             const iv__pickle *state)
{
    static const char *const keys[2] = {"exp_avg", "exp_avg_sq"};
    static const char *const prefix[2] = {"optim.m.", "optim.v."};
    int64_t next = 0;
    for (int64_t k = 0; k + 1 < state->n; k += 2) {
        const iv__pickle *m = iv__pickle_get(state->items[k + 1], keys[0]);
        if (!m) continue; /* an optimizer that has none */
        while (next + 1 < weights->n && !same_shape(weights->items[next + 1], m)) next += 2;
        if (next + 1 >= weights->n || weights->items[next]->kind != IV_PICKLE_TEXT)
            return iv__io_fail(j, IV_CORRUPT, "moments of parameter %lld fit none of state_dict",
                               (long long)(k / 2));
        for (int i = 0; i < 2; ++i) {
            char name[IV__TORCH_NAME];
            const iv__pickle *t = iv__pickle_get(state->items[k + 1], keys[i]);
            if (!t || t->kind != IV_PICKLE_TENSOR) continue;
            snprintf(name, sizeof(name), "%s%.480s", prefix[i], weights->items[next]->text);
            iv_status s = iv__torch_add(l, j, name, t);
            if (s != IV_OK) return s;
        }
        next += 2;
    }
    return IV_OK;
}

/* Numbers and texts of everything else; its tensors have no counterpart. */
static iv_status map_rest(iv__torch_list *l, const iv__io_job *j, const char *key,
                          const iv__pickle *p)
{
    char name[IV__TORCH_NAME];
    iv__torch_list rest = {0};
    snprintf(name, sizeof(name), "lightning.%.480s", key);
    iv_status s = iv__torch_flatten(&rest, j, name, p, 1);
    for (int64_t i = 0; i < rest.n && s == IV_OK; ++i) {
        const iv__torch_item *e = &rest.items[i];
        const iv__pickle text = {.kind = IV_PICKLE_TEXT, .text = e->value};
        if (!e->tensor) s = iv__torch_add(l, j, e->name, &text);
        else
            j->host->log(IV_LOG_INFO, "loading checkpoint %s: tensor %s has no counterpart here",
                         j->path, e->name);
    }
    iv__torch_list_free(&rest);
    return s;
}

iv_status iv__lightning_map(iv__torch_list *l, const iv__io_job *j, const iv__pickle *root)
{
    const iv__pickle *weights = iv__pickle_get(root, "state_dict"),
                     *optimizers = iv__pickle_get(root, "optimizer_states");
    iv_status s = iv__torch_flatten(l, j, "", weights, 0);
    const iv__pickle *first = optimizers && optimizers->kind == IV_PICKLE_LIST && optimizers->n > 0
                                  ? optimizers->items[0]
                                  : NULL;
    const iv__pickle *state = iv__pickle_get(first, "state");
    if (s == IV_OK && state && state->kind == IV_PICKLE_DICT) s = map_moments(l, j, weights, state);
    for (int64_t k = 0; k + 1 < root->n && s == IV_OK; k += 2) {
        const iv__pickle *key = root->items[k], *value = root->items[k + 1];
        if (key->kind != IV_PICKLE_TEXT || value == weights) continue;
        if (strcmp(key->text, "global_step") == 0 && value->kind == IV_PICKLE_INT)
            s = iv__torch_add(l, j, "invar.step", value);
        else if (value == optimizers) { /* the groups hold the settings */
            const iv__pickle *groups = iv__pickle_get(first, "param_groups");
            if (groups) s = map_rest(l, j, "param_groups", groups);
        } else {
            s = map_rest(l, j, key->text, value);
        }
    }
    return s;
}
