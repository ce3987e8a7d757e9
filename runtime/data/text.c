/* text.c: data reader "text:FILE": the bytes of a file are the tokens, 256 classes.
 *
 * The file is mapped, not read, so its size is bounded by the address space only.  The first part
 * trains, the last val_fraction validates.  A file that another process shortens meanwhile is out
 * of scope (file.h).
 */
#include "dataset.h"

typedef struct text {
    iv__map map;
    iv__span spans[2];
} text;

static void text_close(void *self)
{
    text *t = self;
    iv__file_unmap(&t->map);
    free(t);
}

static iv_status text_open(iv_dataset *d, const char *path, int64_t context, double val_fraction)
{
    text *t = NULL;
    iv_status s;
    IV_TRY(iv__calloc(1, sizeof(*t), "a text reader", &t));
    IV_TRY_GOTO(s, iv__file_map(path, &t->map), close_text);
    if (t->map.size == 0) {
        s = iv__fail(IV_INVALID, "opening text:%s: the file is empty", path);
        goto close_text;
    }
    iv__text what = {0};
    iv__text_printf(&what, "text:%s", path);
    s = iv__span_split((iv__span){t->map.data, t->map.size, 1}, val_fraction, t->spans);
    if (s == IV_OK)
        s = iv__windows_init(t->spans, context, what.failed ? "text" : what.s, &d->info);
    iv__text_free(&what);
    if (s != IV_OK) goto close_text;
    d->info.classes = 256;
    d->self = t;
    return IV_OK;
close_text:
    text_close(t);
    return s;
}

static iv_status text_train_sample(iv_dataset *d, uint64_t seed, int64_t index, void *x, int32_t *y)
{
    const text *t = d->self;
    iv__window_random(&t->spans[IV_TRAIN], d->info.sample.dim[0], seed, index, x, y);
    return IV_OK;
}

static iv_status text_sample(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y)
{
    const text *t = d->self;
    int64_t context = d->info.sample.dim[0];
    iv__window_copy(&t->spans[split], i * context, context, x, y);
    return IV_OK;
}

const iv__reader iv__reader_text = {"text",     "text:FILE",       text_open,
                                    text_close, text_train_sample, text_sample};
