/* fuzz_safetensors.c: loads arbitrary bytes as a safetensors file (libFuzzer), by way of a memfd.
 *
 * The first byte chooses: even, the rest is the file; odd, the rest is a header up to its last '}'
 * and then data, the length is put before it, and where the header's checksum belongs the right one
 * is put, so that what lies behind these two hurdles is reached as well. */
#include "../../checkpoint/safetensors.h"
#include "../../checkpoint/st_header.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Texts are printed, so that a bad argument is found. */
static __attribute__((format(printf, 2, 3))) iv_status print_error(iv_status code, const char *fmt,
                                                                   ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return code;
}

static __attribute__((format(printf, 2, 3))) void print_log(iv_log_level level, const char *fmt,
                                                            ...)
{
    char text[4096];
    va_list args;
    (void)level;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
}

static const char *no_env(const char *name)
{
    (void)name;
    return NULL;
}

static const iv_host host = {.abi = IV_PLUGIN_ABI,
                             .size = sizeof(iv_host),
                             .fail = print_error,
                             .log = print_log,
                             .env = no_env};

typedef struct counter {
    size_t tensors, texts;
    void **dst; /* [tensors] exactly as large as each, so that an overrun is seen */
} counter;

static iv_status on_meta(void *ctx, const char *key, const char *value)
{
    ((counter *)ctx)->texts += strlen(key) + strlen(value);
    return IV_OK;
}

static iv_status on_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    static const size_t size[IV_DTYPE_COUNT] = {4, 8, 2, 2, 4, 8, 1, 2};
    counter *c = ctx;
    size_t n = size[info->dtype];
    for (int32_t i = 0; i < info->shape.rank; ++i) n *= (size_t)info->shape.dim[i];
    void **more = realloc(c->dst, (c->tensors + 1) * sizeof(*more));
    if (!more) return IV_NO_MEMORY;
    c->dst = more;
    *out_dst = c->dst[c->tensors] = c->tensors % 3 ? malloc(n) : NULL; /* every third is skipped */
    ++c->tensors;
    return IV_OK;
}

static void write_all(int fd, const void *src, size_t n)
{
    if (write(fd, src, n) != (ssize_t)n) abort();
}

/* Makes a file of a header and data (see top). */
static void write_wrapped(int fd, const uint8_t *data, size_t n)
{
    size_t head = n;
    while (head > 0 && data[head - 1] != '}') --head;
    unsigned char *s = malloc(n + 8);
    if (!s) return;
    for (int i = 0; i < 8; ++i) s[i] = (unsigned char)(head >> (8 * i));
    if (n) memcpy(s + 8, data, n);
    const size_t prefix = sizeof(IV__ST_PREFIX) - 1;
    if (head >= prefix + IV__ST_HEX && memcmp(data, IV__ST_PREFIX, prefix) == 0) {
        memset(s + IV__ST_SELF_AT, '0', IV__ST_HEX);
        iv__st_hex(XXH3_64bits(s, head + 8), (char *)s + IV__ST_SELF_AT);
    }
    write_all(fd, s, n + 8);
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static void *self;
    if (!self) iv__plugin_safetensors.init(&host, "", &self);
    if (n == 0) return 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0) return 0;
    if (data[0] & 1) write_wrapped(fd, data + 1, n - 1);
    else write_all(fd, data + 1, n - 1);
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const iv_checkpoint *format = iv__plugin_safetensors.vtable;
    counter c = {0};
    const iv_ckpt_sink sink = {&c, on_meta, on_want, NULL};
    int sure = format->detect(self, path);
    iv_status s = format->load(self, path, &sink);
    if (s == IV_OK && sure < 90) abort(); /* what loads must have been recognised */
    if (s != IV_OK && s != IV_CORRUPT) abort();
    for (size_t i = 0; i < c.tensors; ++i) free(c.dst[i]);
    free(c.dst);
    close(fd);
    return 0;
}
