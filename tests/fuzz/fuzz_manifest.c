/* fuzz_manifest.c: loads folders with an arbitrary manifest (libFuzzer).  The input is the
 * metadata's two lists, of tensors and of files, each behind its length; around them a valid
 * manifest is made, so that its checksums hold.  One file of a real checkpoint lies beside it. */
#include "../../checkpoint/sharded.h"
#include "input.h"
#include "registry.h"

#include <sys/stat.h>

static char *text_of(input part)
{
    char *s = malloc(part.n + 1);
    if (!s) abort();
    size_t n = 0;
    for (size_t i = 0; i < part.n;
         ++i) /* what JSON and UTF-8 allow; the rest is of the other target */
        if (part.data[i] == '\n' || (part.data[i] >= ' ' && part.data[i] < 127))
            s[n++] = (char)part.data[i];
    s[n] = '\0';
    return s;
}

static iv_status on_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    const int64_t bytes = iv_shape_count(&info->shape) * (int64_t)iv_dtype_bytes(info->dtype);
    static char room[1 << 16];
    (void)ctx;
    *out_dst = bytes <= (int64_t)sizeof(room) ? room : NULL;
    return IV_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static void *self;
    static char folder[128], manifest[200];
    const iv_checkpoint *vt = iv__plugin_sharded.vtable;
    if (!self) {
        static const float w[6] = {1, 2, 3, 4, 5, 6};
        const iv_ckpt_tensor t = {.name = "w", .dtype = IV_F32, .shape = IV_SHAPE(2, 3), .data = w};
        if (iv__plugin_sharded.init(&iv__host, "", &self) != IV_OK) abort();
        snprintf(folder, sizeof(folder), "%s", input_folder());
        snprintf(manifest, sizeof(manifest), "%s/" IV__SHARDED_MANIFEST, folder);
        if (vt->save(self, folder, &(iv_ckpt){.n_tensors = 1, .tensors = &t, .id = 7}) != IV_OK)
            abort();
    }
    input in = {data, n};
    char *tensors = text_of(input_part(&in)), *files = text_of(in);
    const iv_ckpt_meta meta[2] = {{IV__SHARDED_TENSORS, tensors}, {IV__SHARDED_FILES, files}};
    const iv__io_job j = {
        .host = &iv__host, .calls = &iv__io_system, .doing = "saving", .path = manifest};
    if (iv__st_write(&j, &(iv_ckpt){.n_meta = 2, .meta = meta}, IV_IO_PLAIN, NULL) != IV_OK)
        abort();
    const iv_status s = vt->load(self, folder, &(iv_ckpt_sink){.want = on_want});
    if (s != IV_OK && s != IV_CORRUPT && s != IV_IO && s != IV_INVALID) abort();
    free(tensors);
    free(files);
    return 0;
}
