/* fuzz_idx.c: arbitrary bytes as the files of an image folder (libFuzzer).
 *
 * Two flag bits per file choose: absent; plain; as a .gz as it stands; or compressed here, so that
 * the bytes inside are fuzzed too.  Every file but the last has its length before it. */
#include "input.h"

#include <zlib.h>

static const char *const names[4] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                     "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};

static void write_file(const char *path, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    close(fd);
}

static void write_gz(const char *path, const void *data, size_t n)
{
    z_stream z = {0};
    uint8_t *out = malloc(n + 1024);
    if (!out || deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) abort();
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)n + 1024;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END) abort();
    write_file(path, out, z.total_out);
    deflateEnd(&z);
    free(out);
}

static void put_part(const char *folder, int k, unsigned how, input part)
{
    char plain[128], gz[128];
    snprintf(plain, sizeof(plain), "%s/%s", folder, names[k]);
    snprintf(gz, sizeof(gz), "%s/%s.gz", folder, names[k]);
    unlink(plain);
    unlink(gz);
    const void *data = part.n > 0 ? (const void *)part.data : "";
    if (how == 1) write_file(plain, data, part.n);
    if (how == 2) write_file(gz, data, part.n);
    if (how == 3) write_gz(gz, data, part.n);
}

static void read_some(iv_dataset *d)
{
    iv_dataset_info info;
    iv_dataset_info_get(d, &info);
    int64_t pixels = iv_shape_count(&info.sample);
    /* Exactly as large as a sample, so that an overrun is seen. */
    float *x = malloc((size_t)pixels * sizeof(float));
    int32_t *y = malloc(sizeof(int32_t));
    if (!x || !y) abort();
    for (int split = 0; split < 2; ++split) {
        int64_t n = info.samples[split], step = IV_MAX2(n / 7, 1);
        for (int64_t i = 0; i < n; i += step) {
            if (iv_dataset_sample(d, (iv_split)split, i, x, y) != IV_OK) abort();
            if (*y < 0 || *y >= info.classes || !(x[pixels - 1] >= 0 && x[pixels - 1] <= 1))
                abort();
        }
        if (n > 0 && iv_dataset_sample(d, (iv_split)split, n - 1, x, y) != IV_OK) abort();
        if (iv_dataset_sample(d, (iv_split)split, n, x, y) != IV_INVALID) abort();
    }
    for (int64_t i = 0; i < 3 * info.samples[IV_TRAIN] && i < 30; ++i)
        if (iv_dataset_train_sample(d, 1, i, x, y) != IV_OK) abort();
    free(x);
    free(y);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *folder = input_folder();
    input in = {data, n};
    uint8_t flags = input_byte(&in);
    for (int k = 0; k < 4; ++k)
        put_part(folder, k, flags >> (2 * k) & 3, k < 3 ? input_part(&in) : in);
    char spec[128];
    snprintf(spec, sizeof(spec), "idx:%s", folder);
    iv_dataset *d = NULL;
    iv_status s = iv_dataset_open(spec, 0, 0, &d);
    if (s == IV_INTERNAL || s == IV_NO_MEMORY) abort();
    if (s == IV_OK) read_some(d);
    else if (d) abort();
    iv_dataset_close(d);
    return 0;
}
