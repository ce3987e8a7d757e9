/* ckpt_tools.c: what tools do with checkpoints: list and verify. */
#include "trainer.h"

static iv_status list_meta(void *ctx, const char *key, const char *value)
{
    const iv_ckpt_visitor *v = ctx;
    if (v->meta) v->meta(v->ctx, key, value);
    return IV_OK;
}

static iv_status list_tensor(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    const iv_ckpt_visitor *v = ctx;
    *out_dst = NULL;
    if (v->tensor) v->tensor(v->ctx, info->name, info->dtype, &info->shape);
    return IV_OK;
}

iv_status iv_checkpoint_list(const char *path, const iv_ckpt_visitor *v)
{
    const iv_checkpoint *vt;
    void *self;
    IV_TRY(iv__ckpt_format_of(NULL, path, &vt, &self));
    iv_ckpt_visitor copy = *v;
    return vt->load(self, path,
                    &(iv_ckpt_sink){.ctx = &copy, .meta = list_meta, .want = list_tensor});
}
