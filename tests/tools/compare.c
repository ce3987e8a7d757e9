/* compare.c: trains on given parameters and batches and compares with a recorded reference.
 *
 *   compare --model gpt|cnn --init FILE --batches FILE --expect FILE.json [--grads FILE] [--idx
 * DIR]
 *           [--precision P] [--mode KEY] [--loss-tol X] [--norm-tol X] [--grad-tol X] [--set K=V
 * ...]
 *           [--missing skip] [--skips N]
 *
 * FILE.json: {"config": {...}, "adamw": {...}, "clip_norm": x, "KEY": {"loss": [...], "grad_norm":
 * [...]}} as PyTorch made it; --batches holds "input" [steps, B, T] and "target", or "label"
 * [steps, B] with images from "input" [steps, B, 1, H, W], or taken in file order from --idx.
 * The last line has the hashes of parameters and optimizer state.
 * --skips: steps 0 .. N-1 may be skipped for overflow.
 * --grads: gradients of step 0, compared by largest element.  Tolerances are relative. Exit status:
 * 1 on a difference; with --missing skip 77 (and the reason) if a file is not there. */
#include "base.h"
#include "plugin.h"
#include "registry.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <unistd.h>

typedef struct tensor {
    char name[128];
    iv_dtype dtype;
    iv_shape shape;
    void *data;
} tensor;

typedef struct file {
    tensor t[256];
    int n;
} file;

static iv_status want(void *ctx, const iv_ckpt_tensor *info, void **out)
{
    file *f = ctx;
    if (f->n == 256) IV_FAIL(IV_UNSUPPORTED, "more than 256 tensors");
    tensor *t = &f->t[f->n++];
    snprintf(t->name, sizeof(t->name), "%s", info->name);
    t->dtype = info->dtype;
    t->shape = info->shape;
    IV_TRY(iv__calloc(iv_shape_count(&info->shape), iv_dtype_bytes(info->dtype), info->name,
                      &t->data));
    *out = t->data;
    return IV_OK;
}

static iv_status read_tensors(const char *path, file *f)
{
    const iv_plugin *p;
    void *self;
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, "safetensors", &p, &self));
    const iv_checkpoint *vt = p->vtable;
    return vt->load(self, path, &(iv_ckpt_sink){.ctx = f, .want = want});
}

static const tensor *find(const file *f, const char *name)
{
    for (int i = 0; i < f->n; ++i)
        if (strcmp(f->t[i].name, name) == 0) return &f->t[i];
    return NULL;
}

static double number(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItem(o, key);
    return cJSON_IsNumber(v) ? v->valuedouble : NAN;
}

typedef struct options {
    const char *model, *init, *batches, *expect, *grads, *idx, *precision, *mode, *missing;
    double loss_tol, norm_tol, grad_tol;
    double skips; /* steps that may be skipped at the start; none after these */
} options;

static void set_number(iv_config *c, const char *key, double x)
{
    char text[64];
    snprintf(text, sizeof(text), "%.17g", x);
    if (!isnan(x) && iv_config_set(c, key, text) != IV_OK)
        fprintf(stderr, "%s\n", iv_error_message());
}

static iv_status configure(const options *o, const cJSON *ref, iv_config *c)
{
    const cJSON *cfg = cJSON_GetObjectItem(ref, "config"),
                *adam = cJSON_GetObjectItem(ref, "adamw");
    const cJSON *betas = cJSON_GetObjectItem(adam, "betas");
    IV_TRY(iv_config_set(c, "model.name", o->model));
    IV_TRY(iv_config_set(c, "precision.name", o->precision));
    IV_TRY(iv_config_set(c, "optim.decay", "all"));
    set_number(c, "train.batch", number(cfg, "batch"));
    set_number(c, "model.vocab", number(cfg, "vocab"));
    set_number(c, "model.context", number(cfg, "context"));
    set_number(c, "model.layers", number(cfg, "layers"));
    set_number(c, "model.heads", number(cfg, "heads"));
    set_number(c, "model.width", number(cfg, "width"));
    set_number(c, "model.channels", number(cfg, "channels"));
    set_number(c, "optim.lr", number(adam, "lr"));
    set_number(c, "optim.eps", number(adam, "eps"));
    set_number(c, "optim.weight_decay", number(adam, "weight_decay"));
    set_number(c, "optim.beta1", cJSON_GetArrayItem(betas, 0)->valuedouble);
    set_number(c, "optim.beta2", cJSON_GetArrayItem(betas, 1)->valuedouble);
    set_number(c, "train.clip", number(ref, "clip_norm"));
    return iv_config_set(c, "model.init", o->init);
}

static int compare_one(const char *what, int64_t step, double got, double want_value, double tol)
{
    double rel = fabs(got - want_value) / fabs(want_value);
    bool bad = !(rel <= tol);
    if (bad || step == 0)
        printf("%s step %lld: %.15g, reference %.15g, relative difference %.3g%s\n", what,
               (long long)step, got, want_value, rel, bad ? "  TOO LARGE" : "");
    return bad;
}

/* Largest difference of a parameter's gradient by the tensor's largest element. */
static iv_status compare_grads(iv_trainer *t, const file *ref, double tol, int *bad)
{
    double worst = 0;
    for (int64_t i = 0; i < iv_trainer_param_count(t); ++i) {
        iv_shape s;
        const char *name = iv_trainer_param_name(t, i, &s);
        const tensor *r = find(ref, name);
        double *got, diff = 0, most = 0;
        if (!r) IV_FAIL(IV_INVALID, "the reference lacks the gradient of %s", name);
        IV_TRY(iv__calloc(iv_shape_count(&s), 8, "a gradient", &got));
        IV_TRY(iv_trainer_param_read(t, i, true, got));
        for (int64_t k = 0; k < iv_shape_count(&s); ++k) {
            double w = ((const double *)r->data)[k];
            diff = fmax(diff, fabs(got[k] - w));
            most = fmax(most, fabs(w));
        }
        if (!(diff / most <= tol)) {
            printf("gradient of %s: largest difference %.3g of %.3g  TOO LARGE\n", name, diff,
                   most);
            ++*bad;
        }
        worst = fmax(worst, diff / most);
        free(got);
    }
    printf("gradients of step 0: largest relative difference %.3g (tolerance %.3g)\n", worst, tol);
    return IV_OK;
}

/* The first n images of the training split of --idx. */
static iv_status images(const options *o, int64_t n, float **out)
{
    char spec[512];
    iv_dataset *d;
    iv_dataset_info info;
    int32_t y;
    snprintf(spec, sizeof(spec), "idx:%s", o->idx ? o->idx : "/usr/share/datasets/fashion-mnist");
    IV_TRY(iv_dataset_open(spec, 0, 0, &d));
    iv_dataset_info_get(d, &info);
    int64_t per = iv_shape_count(&info.sample);
    IV_TRY(iv__calloc(n * per, 4, "images", out));
    for (int64_t i = 0; i < n; ++i) IV_TRY(iv_dataset_sample(d, IV_TRAIN, i, *out + i * per, &y));
    iv_dataset_close(d);
    return IV_OK;
}

static iv_status run(const options *o, iv_config *c, const cJSON *ref, int *bad)
{
    static file batches, grads;
    iv_trainer *t;
    IV_TRY(read_tensors(o->batches, &batches));
    if (o->grads) IV_TRY(read_tensors(o->grads, &grads));
    IV_TRY(configure(o, ref, c));
    const cJSON *mode = cJSON_GetObjectItem(ref, o->mode),
                *loss = cJSON_GetObjectItem(mode, "loss"),
                *norm = cJSON_GetObjectItem(mode, "grad_norm");
    if (!loss || !norm) IV_FAIL(IV_INVALID, "%s has no curves for '%s'", o->expect, o->mode);
    bool gpt = strcmp(o->model, "gpt") == 0;
    const tensor *y = find(&batches, gpt ? "target" : "label"), *x = find(&batches, "input");
    if (!y || (gpt && !x) || (!gpt && x && x->shape.rank != 5))
        IV_FAIL(IV_INVALID, "%s lacks the inputs or targets of %s", o->batches, o->model);
    iv_dataset_info info = {.kind = "idx", .sample = IV_SHAPE(1, 28, 28), .classes = 10};
    if (!gpt && x) info.sample = IV_SHAPE(x->shape.dim[2], x->shape.dim[3], x->shape.dim[4]);
    iv_model_spec spec;
    IV_TRY(iv_model_spec_from(c, gpt ? NULL : &info, &spec));
    IV_TRY(iv_trainer_open(c, NULL, iv_model_build, &spec, &t));
    int64_t steps = y->shape.dim[0], per_step = iv_shape_count(&y->shape) / steps;
    double worst_loss = 0, worst_norm = 0;
    float *pixels = NULL;
    if (!x) IV_TRY(images(o, steps * per_step, &pixels));
    /* Ids and pixels are both of 4 bytes. */
    const char *in = x ? (const char *)x->data : (const char *)pixels;
    size_t in_bytes = 4 * (size_t)(x ? iv_shape_count(&x->shape) / steps
                                     : per_step * iv_shape_count(&info.sample));
    for (int64_t i = 0; i < steps; ++i) {
        iv_step_report r;
        IV_TRY(iv_trainer_step_on(t, in + (size_t)i * in_bytes,
                                  (const int32_t *)y->data + i * per_step, &r));
        if (r.skipped && (double)i >= o->skips) {
            printf("step %lld was skipped, scale %g\n", (long long)i, r.scale);
            ++*bad;
        }
        double wl = cJSON_GetArrayItem(loss, (int)i)->valuedouble,
               wn = cJSON_GetArrayItem(norm, (int)i)->valuedouble;
        *bad += compare_one("loss", i, r.loss, wl, o->loss_tol);
        *bad += compare_one("gradient norm", i, r.grad_norm, wn, o->norm_tol);
        worst_loss = fmax(worst_loss, fabs(r.loss - wl) / wl);
        worst_norm = fmax(worst_norm, fabs(r.grad_norm - wn) / wn);
        if (i == 0 && o->grads) IV_TRY(compare_grads(t, &grads, o->grad_tol, bad));
    }
    printf("%s %s, %lld steps: largest relative difference of the loss %.3g (tolerance %.3g), of "
           "the gradient norm %.3g (%.3g)\n",
           o->model, o->precision, (long long)steps, worst_loss, o->loss_tol, worst_norm,
           o->norm_tol);
    char hash[33], state[33];
    IV_TRY(iv_trainer_hash(t, false, hash));
    IV_TRY(iv_trainer_hash(t, true, state));
    printf("hash %s %s\n", hash, state);
    iv_trainer_close(t);
    free(pixels);
    return IV_OK;
}

/* The first file that is named and not there, or NULL. */
static const char *missing(const options *o)
{
    const char *const files[] = {o->expect, o->init, o->batches, o->grads, o->idx};
    for (int64_t i = 0; i < IV_COUNT(files); ++i)
        if (files[i] && access(files[i], R_OK) != 0) return files[i];
    return NULL;
}

int main(int argc, char **argv)
{
    options o = {.model = "gpt",
                 .precision = "64-true",
                 .mode = "f64",
                 .loss_tol = 1e-9,
                 .norm_tol = 1e-9,
                 .grad_tol = 1e-9};
    iv_config *c;
    if (iv_config_new(&c) != IV_OK) return 2;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i], *v = argv[i + 1];
        const struct {
            const char *name;
            const char **text;
            double *x;
        } table[] = {{"--model", &o.model, 0},         {"--init", &o.init, 0},
                     {"--batches", &o.batches, 0},     {"--expect", &o.expect, 0},
                     {"--grads", &o.grads, 0},         {"--idx", &o.idx, 0},
                     {"--precision", &o.precision, 0}, {"--mode", &o.mode, 0},
                     {"--missing", &o.missing, 0},     {"--loss-tol", 0, &o.loss_tol},
                     {"--norm-tol", 0, &o.norm_tol},   {"--grad-tol", 0, &o.grad_tol},
                     {"--skips", 0, &o.skips}};
        bool known = false;
        for (int64_t j = 0; j < IV_COUNT(table); ++j) {
            if (strcmp(table[j].name, k) != 0) continue;
            known = true;
            if (table[j].text) *table[j].text = v;
            else *table[j].x = strtod(v, NULL);
        }
        char key[128];
        const char *eq = strchr(v, '=');
        if (strcmp(k, "--set") == 0 && eq) {
            snprintf(key, sizeof(key), "%.*s", (int)(eq - v), v);
            known = iv_config_set(c, key, eq + 1) == IV_OK;
        }
        if (!known) {
            fprintf(stderr, "compare: %s %s: unknown\n", k, v);
            return 2;
        }
    }
    if (o.missing && missing(&o)) {
        printf("skipped: %s is not there\n", missing(&o));
        return 77;
    }
    FILE *f = o.expect ? fopen(o.expect, "r") : NULL;
    static char text[1 << 20];
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f) fclose(f);
    cJSON *ref = n ? cJSON_Parse(text) : NULL;
    if (!ref) {
        fprintf(stderr, "compare: cannot read %s\n", o.expect ? o.expect : "(no --expect)");
        return 2;
    }
    int bad = 0;
    iv_status s = run(&o, c, ref, &bad);
    if (s != IV_OK) fprintf(stderr, "compare: %s\n", iv_error_message());
    iv_config_free(c);
    cJSON_Delete(ref);
    return s != IV_OK ? 2 : bad ? 1 : 0;
}
