/* fuzz_tokens.c: arbitrary bytes as token files (libFuzzer), one or two, with or without suffix.
 *
 * Two header bits of the first byte put a right llm.c header before the first file, so that what
 * lies behind it is reached soon.  Every id that is read must be below the number of classes. */
#include "input.h"

static void check_window(const iv_dataset_info *info, const int32_t *x, const int32_t *y)
{
    int64_t n = info->sample.dim[0];
    for (int64_t k = 0; k < n; ++k) {
        if (x[k] < 0 || x[k] >= info->classes || y[k] < 0 || y[k] >= info->classes) abort();
        if (k > 0 && x[k] != y[k - 1]) abort();
    }
}

static void read_some(iv_dataset *d, uint8_t seed)
{
    iv_dataset_info info;
    iv_dataset_info_get(d, &info);
    /* Exactly as large as a sample, so that an overrun is seen. */
    size_t bytes = (size_t)info.sample.dim[0] * sizeof(int32_t);
    int32_t *x = malloc(bytes), *y = malloc(bytes);
    if (!x || !y) abort();
    for (int split = 0; split < 2; ++split) {
        int64_t n = info.samples[split], step = IV_MAX2(n / 7, 1);
        for (int64_t i = 0; i < n; i += step) {
            if (iv_dataset_sample(d, (iv_split)split, i, x, y) != IV_OK) abort();
            check_window(&info, x, y);
        }
        if (n > 0 && iv_dataset_sample(d, (iv_split)split, n - 1, x, y) != IV_OK) abort();
        if (iv_dataset_sample(d, (iv_split)split, n, x, y) != IV_INVALID) abort();
    }
    for (int64_t i = 0; i < 8; ++i) {
        if (iv_dataset_train_sample(d, seed, i << (seed % 60), x, y) != IV_OK) abort();
        check_window(&info, x, y);
    }
    free(x);
    free(y);
}

static const char *put_file(input_file *f, input part, unsigned header)
{
    static const int32_t heads[2][2] = {{20240520, 1}, {20240801, 7}};
    if (header < 2) return input_put(f, part.data, part.n);
    int32_t width = header == 2 ? 2 : 4;
    size_t n = 1024 + part.n;
    uint8_t *with = calloc(1, n);
    if (!with) abort();
    int32_t head[3] = {heads[header - 2][0], heads[header - 2][1], (int32_t)part.n / width};
    memcpy(with, head, sizeof(head));
    if (part.n > 0) memcpy(with + 1024, part.data, part.n);
    const char *path = input_put(f, with, n);
    free(with);
    return path;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const suffixes[4] = {"", ":u16", ":u32", ":u8"};
    static input_file files[2];
    iv_log_set(IV_LOG_DEBUG, input_log, NULL);
    input in = {data, n};
    uint8_t flags = input_byte(&in), seed = input_byte(&in);
    int64_t context = (int64_t)input_byte(&in) - 1;
    double fraction = input_byte(&in) / 250.0;
    bool two = flags >> 6 & 1;
    input val = two ? input_part(&in) : (input){data, 0};
    char spec[256];
    int at = snprintf(spec, sizeof(spec), "tokens:%s%s", put_file(&files[0], in, flags & 3),
                      suffixes[flags >> 2 & 3]);
    if (two) {
        snprintf(spec + at, sizeof(spec) - (size_t)at, ",%s%s", put_file(&files[1], val, 0),
                 suffixes[flags >> 4 & 3]);
    }
    iv_dataset *d = NULL;
    iv_status s = iv_dataset_open(spec, context, fraction, &d);
    if (s == IV_INTERNAL || s == IV_NO_MEMORY) abort();
    if (s == IV_OK) read_some(d, seed);
    else if (d) abort();
    iv_dataset_close(d);
    return 0;
}
