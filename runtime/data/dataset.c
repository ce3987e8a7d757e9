/* dataset.c: the table of data readers and the public entry points (see invar.h, dataset.h). */
#include "dataset.h"

static const iv__reader *const readers[] = {&iv__reader_text, &iv__reader_idx, &iv__reader_tokens};

static const char allowed[] = "allowed: text:FILE, idx:DIR, tokens:FILE[,VALFILE]";

static iv_status find_reader(const char *spec, const iv__reader **out, const char **out_rest)
{
    const char *colon = strchr(spec, ':');
    if (!*spec) IV_FAIL(IV_INVALID, "opening data: no data is given (%s)", allowed);
    if (!colon) {
        IV_FAIL(IV_INVALID, "opening data \"%.200s\": the kind of data is missing (%s)", spec,
                allowed);
    }
    char kind[32];
    const char *names[IV_COUNT(readers)], *near = NULL;
    snprintf(kind, sizeof(kind), "%.*s", (int)IV_MIN2(colon - spec, 31), spec);
    for (int64_t i = 0; i < IV_COUNT(readers); ++i) {
        names[i] = readers[i]->kind;
        if (strcmp(kind, names[i]) != 0) continue;
        if (!colon[1]) IV_FAIL(IV_INVALID, "opening data %s: no file is named (%s)", spec, allowed);
        *out = readers[i];
        *out_rest = colon + 1;
        return IV_OK;
    }
    near = iv__nearest(kind, names, IV_COUNT(readers));
    IV_FAIL(IV_INVALID, "opening data \"%.200s\": there is no kind \"%s\" (%s)%s%s%s", spec, kind,
            allowed, near ? " [hint: did you mean " : "", near ? near : "", near ? "?]" : "");
}

iv_status iv_dataset_open(const char *spec, int64_t context, double val_fraction, iv_dataset **out)
{
    const iv__reader *reader = NULL;
    const char *rest = NULL;
    IV_TRY(find_reader(spec, &reader, &rest));
    iv_dataset *d = NULL;
    IV_TRY(iv__calloc(1, sizeof(*d), "a dataset", &d));
    d->reader = reader;
    d->info.kind = reader->kind;
    iv_status s = reader->open(d, rest, context, val_fraction);
    if (s != IV_OK) {
        free(d);
        return s;
    }
    *out = d;
    return IV_OK;
}

void iv_dataset_close(iv_dataset *d)
{
    if (!d) return;
    d->reader->close(d->self);
    free(d);
}

void iv_dataset_info_get(const iv_dataset *d, iv_dataset_info *out)
{
    *out = d->info;
}

iv_status iv_dataset_train_sample(iv_dataset *d, uint64_t seed, int64_t index, void *x, int32_t *y)
{
    if (index < 0) {
        IV_FAIL(IV_INVALID, "reading %s data: training sample %lld, expected 0 or more",
                d->info.kind, (long long)index);
    }
    return d->reader->train_sample(d, seed, index, x, y);
}

iv_status iv_dataset_sample(iv_dataset *d, iv_split split, int64_t i, void *x, int32_t *y)
{
    if (split != IV_TRAIN && split != IV_VAL)
        IV_FAIL(IV_INVALID, "reading %s data: there is no split %d", d->info.kind, (int)split);
    if (i < 0 || i >= d->info.samples[split]) {
        IV_FAIL(IV_INVALID, "reading %s data: sample %lld of the %s split, which has %lld",
                d->info.kind, (long long)i, split == IV_TRAIN ? "training" : "validation",
                (long long)d->info.samples[split]);
    }
    return d->reader->sample(d, split, i, x, y);
}
