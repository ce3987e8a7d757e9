/* safetensors.c: the checkpoint plugin `safetensors`: files that other programs read without Invar.
 *
 * The layout, and which bytes the two checksum entries cover, is told in st_header.h; writing is in
 * st_write.c, reading in st_read.c, atomic replacement in io.c. */
#include "safetensors.h"
#include "st_header.h"

#include <stdlib.h>
#include <string.h>

typedef struct plugin_self {
    const iv_host *host;
    const iv__io_calls *calls;
    iv__io_way way;
} plugin_self;

static iv__io_job job_of(void *self, const char *doing, const char *path)
{
    const plugin_self *p = self;
    return (iv__io_job){.host = p->host, .calls = p->calls, .doing = doing, .path = path};
}

static iv_status check_contents(const iv__io_job *j, const iv_ckpt *c)
{
    if (!c || c->n_tensors < 0 || c->n_meta < 0 || (c->n_tensors && !c->tensors) ||
        (c->n_meta && !c->meta))
        return iv__io_fail(j, IV_INVALID, "no contents were given");
    for (int64_t i = 0; c->parts && i < c->n_tensors; ++i) {
        const iv_ckpt_part *p = &c->parts[i];
        uint64_t bytes = 0;
        iv_status s = iv__st_bytes(j, &c->tensors[i], &bytes);
        if (s != IV_OK) return s;
        int64_t all = (int64_t)(bytes * 8 / iv__st_dtype_of(c->tensors[i].dtype)->bits);
        if (p->begin != 0 || p->end != all)
            return iv__io_fail(
                j, IV_UNSUPPORTED,
                "tensor \"%.200s\": this rank has elements %lld to %lld of %lld, and "
                "a safetensors file holds whole tensors [hint: --set "
                "out.checkpoint=sharded]",
                c->tensors[i].name, (long long)p->begin, (long long)p->end, (long long)all);
    }
    return IV_OK;
}

static iv_status save(void *self, const char *path, const iv_ckpt *c)
{
    const iv__io_job j = job_of(self, "saving", path);
    iv_status s = check_contents(&j, c);
    return s == IV_OK ? iv__st_write(&j, c, ((const plugin_self *)self)->way, NULL) : s;
}

static iv_status load(void *self, const char *path, const iv_ckpt_sink *sink)
{
    const iv__io_job j = job_of(self, "loading", path);
    return iv__st_read(&j, sink, NULL);
}

static int detect(void *self, const char *path)
{
    static const char ext[] = ".safetensors";
    iv_host quiet = *((plugin_self *)self)->host;
    quiet.fail = iv__io_fail_quietly;
    iv__io_job j = job_of(self, "detecting", path);
    j.host = &quiet;
    const size_t n_path = path ? strlen(path) : 0, n_ext = sizeof(ext) - 1;
    const bool named = n_path > n_ext && memcmp(path + n_path - n_ext, ext, n_ext) == 0;
    int fd;
    uint64_t size = 0, n = 0;
    iv_status s = iv__io_open(&j, &fd, &size);
    if (s == IV_INVALID) return 0;
    if (s != IV_OK) return named ? 50 : 0;
    char first = 0;
    bool fits = iv__st_length(&j, fd, size, &n) == IV_OK && n >= 2 &&
                iv__io_read(&j, fd, &first, 1, 8) == IV_OK && first == '{';
    j.calls->close(fd);
    if (fits) return named ? 100 : 90;
    return named ? 40 : 0;
}

static iv_status remove_checkpoint(void *self, const char *path)
{
    const iv__io_job j = job_of(self, "removing", path);
    return iv__io_remove(&j);
}

static iv_status init(const iv_host *host, const char *args, void **out_self)
{
    const bool plain = args && strcmp(args, "plain") == 0;
    if (args && *args && !plain && strcmp(args, "direct") != 0)
        return host->fail(IV_INVALID,
                          "checkpoint plugin safetensors: \"%s\": it takes nothing, or one of "
                          "direct, plain",
                          args);
    plugin_self *p = malloc(sizeof(*p));
    if (!p)
        return host->fail(IV_NO_MEMORY, "checkpoint plugin safetensors: allocating %zu bytes",
                          sizeof(*p));
    *p = (plugin_self){
        .host = host, .calls = &iv__io_system, .way = plain ? IV_IO_PLAIN : IV_IO_DIRECT};
    *out_self = p;
    return IV_OK;
}

void iv__st_use_calls(void *self, const iv__io_calls *calls)
{
    ((plugin_self *)self)->calls = calls;
}

static const iv_checkpoint vtable = {
    .detect = detect,
    .save = save,
    .load = load,
    .remove = remove_checkpoint,
    .drain = NULL, /* a save is durable when it returns */
    .extension = ".safetensors",
};

const iv_plugin iv__plugin_safetensors = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_CHECKPOINT,
    .vtable_size = sizeof(iv_checkpoint),
    .name = "safetensors",
    .version = "1.0",
    .summary = "safetensors files with checksums, replaced atomically",
    .vtable = &vtable,
    .init = init,
    .fini = free,
};
