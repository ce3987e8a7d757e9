/* fuzz_torch.c: loads arbitrary bytes as a file of torch.save (libFuzzer).  The first byte chooses:
 * even, the rest is the file; odd, the rest is the pickle inside of one, so that what lies behind
 * the CRC of the ZIP entry is reached as well. */
#include "../../checkpoint/torch.h"
#include "input.h"
#include "registry.h"

typedef struct counter {
    void **dst; /* [n] exactly as large as each tensor */
    size_t n;
} counter;

static iv_status on_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    counter *c = ctx;
    int64_t bytes = iv_shape_count(&info->shape) * (int64_t)iv_dtype_bytes(info->dtype);
    void **more = realloc(c->dst, (c->n + 1) * sizeof(*more));
    if (!more) return IV_NO_MEMORY;
    c->dst = more;
    *out_dst = c->dst[c->n] = c->n % 3 ? malloc((size_t)bytes) : NULL;
    ++c->n;
    return IV_OK;
}

static void read_pickle(const uint8_t *data, size_t n)
{
    const iv__io_job j = {.host = &iv__host, .doing = "loading", .path = "pickle"};
    iv__pickle_tree t;
    iv__torch_list l = {0};
    if (iv__pickle_read(&j, (const char *)data, n, &t) != IV_OK) return;
    if (iv__lightning_is(t.root)) (void)iv__lightning_map(&l, &j, t.root);
    else (void)iv__torch_flatten(&l, &j, "", t.root, 0);
    iv__torch_list_free(&l);
    iv__pickle_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static void *self;
    static input_file file;
    if (!self && iv__plugin_torch.init(&iv__host, "", &self) != IV_OK) abort();
    iv_log_set(IV_LOG_DEBUG, input_log, NULL);
    if (n == 0) return 0;
    if (data[0] & 1) {
        read_pickle(data + 1, n - 1);
        return 0;
    }
    const iv_checkpoint *vt = iv__plugin_torch.vtable;
    counter c = {0};
    const char *path = input_put(&file, data + 1, n - 1);
    (void)vt->detect(self, path);
    const iv_status s = vt->load(self, path, &(iv_ckpt_sink){.ctx = &c, .want = on_want});
    if (s != IV_OK && s != IV_CORRUPT && s != IV_UNSUPPORTED && s != IV_NO_MEMORY) abort();
    for (size_t i = 0; i < c.n; ++i) free(c.dst[i]);
    free(c.dst);
    return 0;
}
