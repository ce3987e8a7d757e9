/* source.c: texts of kernels for devices that compile at run time (see common.h).
 *
 * A text is portable.h, the other headers, the type letters of an instance and one kernel file, so
 * it serves all kernels of the file. */
#include "common.h"

#include "texts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static bool add_file(iv__source *s, const char *name)
{
    for (const iv__kernel_text *t = iv__kernel_texts; t->name; ++t) {
        if (strcmp(t->name, name) != 0) continue;
        s->text[s->n] = (const char *)t->bytes;
        s->size[s->n++] = t->size;
        return true;
    }
    return false;
}

static void add_text(iv__source *s, const char *text)
{
    s->text[s->n] = text;
    s->size[s->n++] = strlen(text);
}

static iv_status no_f64(const iv__source_target *t, const char *what)
{
    return t->host->fail(IV_UNSUPPORTED, "building kernel %s: %s (%s) has no f64 arithmetic", what,
                         t->label, t->name);
}

static iv_status make_file(const iv__source_target *t, const iv_kernel_src *src, iv__source *s)
{
    static const char *const headers[] = {"portable.h", "math.h",        "philox.h",
                                          "fold.h",     "tile_vector.h", "tile.h"};
    char file[64];
    snprintf(s->what, sizeof(s->what), "%s_%s", src->name, src->sig);
    snprintf(s->function, sizeof(s->function), "%s", src->name);
    snprintf(file, sizeof(file), "%s.k", src->file);
    const bool f64 = strchr(src->sig, 'd') != NULL;
    if (strlen(src->sig) != 2 || strspn(src->sig, "fdbh") != 2)
        return t->host->fail(IV_UNSUPPORTED,
                             "building kernel %s: types '%s' are not two of f, d, b, h", src->name,
                             src->sig);
    if (f64 && !t->has_f64) return no_f64(t, s->what);
    snprintf(s->letters, sizeof(s->letters),
             "#define T0 %c\n#define T1 %c\n#define A %c\ntypedef char "
             "iv_same_layout[sizeof(iv_params) == %zu ? 1 : -1];\n#line 1 \"%s\"\n",
             src->sig[0], src->sig[1], f64 ? 'd' : 'f', sizeof(iv__kernel_params), file);
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); ++i) add_file(s, headers[i]);
    add_text(s, s->letters);
    if (!add_file(s, file))
        return t->host->fail(IV_UNSUPPORTED,
                             "building kernel %s: there is no kernel file kernels/%s", s->what,
                             file);
    return IV_OK;
}

static iv_status make_program(const iv__source_target *t, const iv_program *p, iv__source *s)
{
    static const char *const headers[] = {"portable.h", "math.h", "philox.h"};
    bool f64 = p->compute == IV_F64 || p->out_type == IV_F64;
    for (int32_t i = 0; i < p->n_in; ++i) f64 |= p->in_type[i] == IV_F64;
    snprintf(s->what, sizeof(s->what), "elements");
    snprintf(s->function, sizeof(s->function), "elements");
    if (f64 && !t->has_f64) return no_f64(t, "elements");
    s->program = iv__elem_text(p, t->host_form);
    if (!s->program) return t->host->fail(IV_NO_MEMORY, "building an element program");
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); ++i) add_file(s, headers[i]);
    add_text(s, p->compute == IV_F64 ? "#define A d\n" : "#define A f\n");
    add_file(s, "elem.h");
    add_text(s, s->program);
    return IV_OK;
}

iv_status iv__source_make(const iv__source_target *t, const iv_kernel_src *src, iv__source *out)
{
    memset(out, 0, sizeof(*out));
    return src->program ? make_program(t, src->program, out) : make_file(t, src, out);
}

void iv__source_free(iv__source *s)
{
    free(s->program);
    s->program = NULL;
}

bool iv__source_key(const iv__source *s, const char *const *names, size_t n, uint64_t out[2])
{
    XXH3_state_t *h = XXH3_createState();
    if (!h) return false;
    XXH3_128bits_reset(h);
    for (uint32_t i = 0; i < s->n; ++i) XXH3_128bits_update(h, s->text[i], s->size[i]);
    for (size_t i = 0; i < n; ++i) XXH3_128bits_update(h, names[i], strlen(names[i]) + 1);
    const XXH128_hash_t sum = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    out[0] = sum.high64;
    out[1] = sum.low64;
    return true;
}

void iv__kernel_params_fill(const iv_launch *l, iv__kernel_params *out)
{
    memset(out->off, 0, sizeof(out->off));
    for (int32_t i = 0; i < l->n_bufs; ++i) out->off[i] = l->buf[i].offset;
    memcpy(out->n, l->n, sizeof(out->n));
    memcpy(out->d, l->f, sizeof(out->d));
    for (int32_t i = 0; i < IV_KERNEL_FLOATS; ++i) out->f[i] = (float)l->f[i];
}
