/* keep.c: checkpoint policies: when to save, what to keep, where to start from (see keep.h). */
#include "keep.h"

#include "file.h"
#include "registry.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>

/* ---- settings ---- */

/* The ending of names that the innermost plugin of "async(hpu(x))" gives. */
static iv_status find_extension(const char *spec, char *out, size_t size)
{
    const iv_plugin *p;
    void *self;
    IV_TRY(iv__registry_get(IV_PLUGIN_CHECKPOINT, spec, &p, &self));
    const char *extension = ((const iv_checkpoint *)p->vtable)->extension;
    const char *open = strchr(spec, '(');
    if (extension) {
        snprintf(out, size, "%s", extension);
        return IV_OK;
    }
    char inner[128] = "safetensors";
    if (open && strlen(open) < sizeof(inner) && strlen(open) > 2)
        snprintf(inner, sizeof(inner), "%.*s", (int)strlen(open) - 2, open + 1);
    return find_extension(inner, out, size);
}

iv_status iv__parse_time(const char *flag, const char *s, int64_t *out_ns)
{
    double a, b, c;
    char unit = 's', rest;
    *out_ns = INT64_MAX;
    if (!*s) return IV_OK;
    int n = sscanf(s, "%lf:%lf:%lf%c", &a, &b, &c, &rest);
    if (n == 3) a = a * 3600 + b * 60 + c;
    else if (n == 2) a = a * 60 + b;
    else if ((n = sscanf(s, "%lf%c%c", &a, &unit, &rest)) == 2 || n == 1) {
        if (!strchr("smh", unit)) n = 0;
        a *= unit == 'h' ? 3600 : unit == 'm' ? 60 : 1;
    }
    if (n < 1 || n > 3 || !(a > 0) || a > 1e9)
        IV_FAIL(IV_INVALID, "%s '%s': write 90, 90s, 15m, 2h or hh:mm:ss", flag, s);
    *out_ns = (int64_t)(a * 1e9);
    return IV_OK;
}

/* All ranks keep the same list; rank 0 writes `last` and removes. */
static bool writes(const iv__keeper *k)
{
    return k->t->workers.comm->ranks.rank == 0;
}

static const char *setting(const iv__keeper *k, const char *key)
{
    return iv_config_str(k->t->config, key);
}

iv_status iv__keeper_open(iv__keeper *k, iv_trainer *t, const iv_fit_callbacks *cb)
{
    *k = (iv__keeper){.t = t, .cb = cb, .started_step = -1, .last_ns = iv__now_ns()};
    IV_TRY(iv__parse_time("--save-every-time", setting(k, "out.save_every_time"), &k->every_ns));
    if (!*setting(k, "out.dir")) return IV_OK;
    /* A checkpoint plugin that is not there is told now, not after hours of training. */
    IV_TRY(iv__trainer_ckpt(t));
    char spec[256];
    iv__trainer_ckpt_spec(t->config, spec, sizeof(spec));
    IV_TRY(find_extension(spec, k->extension, sizeof(k->extension)));
    int n = snprintf(k->folder, sizeof(k->folder), "%s/checkpoints", setting(k, "out.dir"));
    if (n < 0 || (size_t)n + 64 >= sizeof(k->folder))
        IV_FAIL(IV_INVALID, "--out %s: the path is too long", setting(k, "out.dir"));
    return IV_OK;
}

/* ---- what is there ---- */

/* The step in a checkpoint's name ("step-12", "step-12.safetensors"), or -1. */
static int64_t step_of(const char *name)
{
    int64_t step;
    int end = 0;
    if (sscanf(name, "step-%" SCNd64 "%n", &step, &end) != 1 || step < 0) return -1;
    return name[end] == '\0' || (name[end] == '.' && !strstr(name + end, ".tmp")) ? step : -1;
}

static iv_status add_kept(iv__keeper *k, int64_t step, const char *path, double value, bool whole)
{
    IV_TRY(iv__reserve(&k->kept, &k->cap_kept, k->n_kept + 1, sizeof(*k->kept),
                       "the list of checkpoints"));
    iv__kept e = {.step = step,
                  .value = value,
                  .whole = whole,
                  .format = k->t->ckpt,
                  .format_self = k->t->ckpt_self};
    IV_TRY(iv__strdup(path, &e.path));
    k->kept[k->n_kept++] = e;
    return IV_OK;
}

static void drop_kept(iv__keeper *k, int64_t i)
{
    free(k->kept[i].path);
    memmove(&k->kept[i], &k->kept[i + 1], (size_t)(--k->n_kept - i) * sizeof(*k->kept));
}

static int by_step(const void *a, const void *b)
{
    const iv__kept *x = a, *y = b;
    return (x->step > y->step) - (x->step < y->step);
}

typedef struct head {
    const char *metric;
    double value;
} head;

static iv_status head_meta(void *ctx, const char *key, const char *value)
{
    head *h = ctx;
    if (strcmp(key, "invar.metric") == 0 && strcmp(value, h->metric) == 0) h->value = 0;
    if (strcmp(key, "invar.metric_value") == 0 && !isnan(h->value)) h->value = strtod(value, NULL);
    return IV_OK;
}

/* Metadata comes first: that is all that is read. */
static iv_status head_want(void *ctx, const iv_ckpt_tensor *info, void **out_dst)
{
    (void)ctx, (void)info, (void)out_dst;
    return iv__fail(IV_INTERRUPTED, "enough was read");
}

/* Learns the format and the value of one that was found. */
static void look_into(const iv__keeper *k, iv__kept *e)
{
    head h = {.metric = setting(k, "out.monitor"), .value = NAN};
    const iv_checkpoint *vt;
    void *self;
    if (iv__ckpt_format_of(k->t, e->path, &vt, &self) != IV_OK) return;
    e->format = vt;
    e->format_self = self;
    iv_status s =
        vt->load(self, e->path, &(iv_ckpt_sink){.ctx = &h, .meta = head_meta, .want = head_want});
    if (s == IV_OK || s == IV_INTERRUPTED) e->value = h.value;
}

/* Lists the checkpoints of the folder by rising step. */
static iv_status scan(iv__keeper *k)
{
    DIR *d = opendir(k->folder);
    iv_status s = IV_OK;
    for (struct dirent *e; d && s == IV_OK && (e = readdir(d));) {
        char path[1400];
        const int64_t step = step_of(e->d_name);
        if (step < 0) continue;
        snprintf(path, sizeof(path), "%s/%s", k->folder, e->d_name);
        s = add_kept(k, step, path, NAN, true);
    }
    if (d) closedir(d);
    if (k->n_kept > 1) qsort(k->kept, (size_t)k->n_kept, sizeof(*k->kept), by_step);
    return s;
}

/* ---- starting from one ---- */

static bool greater_is_better(const iv__keeper *k)
{
    const char *mode = setting(k, "out.monitor_mode");
    if (strcmp(mode, "auto") != 0) return strcmp(mode, "max") == 0;
    return strcmp(setting(k, "out.monitor"), "val_accuracy") == 0;
}

/* Whether a is worth less than b: without a value less than with one; of two without, the older; of
 * equals the newer, since it did not improve. */
static bool is_worse(const iv__keeper *k, const iv__kept *a, const iv__kept *b)
{
    if (isnan(a->value) || isnan(b->value))
        return isnan(a->value) && (!isnan(b->value) || a->step < b->step);
    if (a->value == b->value) return a->step > b->step;
    return greater_is_better(k) ? a->value < b->value : a->value > b->value;
}

/* The path that `last` names, in out; false: there is no such file. */
static bool read_last(const iv__keeper *k, char *out, size_t size)
{
    char path[1100], *text = NULL;
    int64_t n = 0;
    snprintf(path, sizeof(path), "%s/last", k->folder);
    if (iv__file_read(path, 256, &text, &n) != IV_OK) return false;
    text[strcspn(text, "\n")] = '\0';
    const bool fits = step_of(text) >= 0 && !strchr(text, '/');
    if (fits) snprintf(out, size, "%s/%s", k->folder, text);
    free(text);
    return fits;
}

static iv_status load(iv__keeper *k, const char *path)
{
    IV_TRY(iv_trainer_load(k->t, path));
    snprintf(k->resumed, sizeof(k->resumed), "%.1023s", path);
    return IV_OK;
}

/* The one that `last` names, else the newest that loads; a damaged one is passed over with a line.
 */
static iv_status resume_auto(iv__keeper *k)
{
    char last[1400] = "";
    iv_status s = IV_CORRUPT;
    if (read_last(k, last, sizeof(last))) {
        s = load(k, last);
        if (s != IV_CORRUPT && s != IV_IO) return s;
        iv__log(IV_LOG_WARN, "%s; trying others", iv_error_message());
    }
    for (int64_t i = k->n_kept - 1; i >= 0; --i) {
        if (strcmp(k->kept[i].path, last) == 0) continue;
        s = load(k, k->kept[i].path);
        if (s != IV_CORRUPT && s != IV_IO) return s;
        iv__log(IV_LOG_WARN, "%s; trying the one before", iv_error_message());
    }
    return IV_OK; /* none: a fresh start */
}

static iv_status resume_last(iv__keeper *k)
{
    char last[1400];
    if (!read_last(k, last, sizeof(last)))
        IV_FAIL(IV_INVALID,
                "--resume last: %s/last names no checkpoint [hint: --resume auto starts anew if "
                "there is none]",
                k->folder);
    return load(k, last);
}

static iv_status resume_best(iv__keeper *k)
{
    const iv__kept *best = NULL;
    for (int64_t i = 0; i < k->n_kept; ++i)
        if (!isnan(k->kept[i].value) && (!best || is_worse(k, best, &k->kept[i])))
            best = &k->kept[i];
    if (!best)
        IV_FAIL(IV_INVALID,
                "--resume best: no checkpoint in %s was saved with a value of %s [hint: a "
                "validation at the step of a save, --eval-every and --save-every]",
                k->folder, setting(k, "out.monitor"));
    return load(k, best->path);
}

iv_status iv__keeper_resume(iv__keeper *k)
{
    static const struct {
        const char *name;
        iv_status (*resume)(iv__keeper *k);
    } ways[] = {{"auto", resume_auto}, {"last", resume_last}, {"best", resume_best}};
    const char *how = setting(k, "out.resume");
    /* A job that its scheduler has started again goes on by itself. */
    if (!*how && *k->folder && k->t->workers.cluster.ranks.restarts > 0) how = "auto";
    if (*k->folder) IV_TRY(scan(k));
    if (!*how && k->n_kept > 0)
        IV_FAIL(IV_INVALID,
                "--out %s holds the checkpoints of a run already [hint: --resume auto continues "
                "it; another folder starts anew]",
                setting(k, "out.dir"));
    if (!*how) return IV_OK;
    if (strcmp(how, "best") == 0 || iv_config_int(k->t->config, "out.save_top_k") > 0)
        for (int64_t i = 0; i < k->n_kept; ++i) look_into(k, &k->kept[i]);
    iv_status (*resume)(iv__keeper * k) = NULL;
    for (int64_t i = 0; i < IV_COUNT(ways); ++i)
        if (strcmp(how, ways[i].name) == 0) resume = ways[i].resume;
    if (resume && !*k->folder)
        IV_FAIL(IV_INVALID, "--resume %s needs --out DIR, the run's folder", how);
    IV_TRY(resume ? resume(k) : load(k, how));
    if (*k->resumed) k->started_step = k->t->step;
    return IV_OK;
}

iv_status iv__keeper_make_folder(iv__keeper *k)
{
    return *k->folder ? iv__mkdirs(k->folder) : IV_OK;
}

/* ---- saving ---- */

bool iv__keeper_due(const iv__keeper *k, int64_t samples)
{
    const iv_config *c = k->t->config;
    const int64_t steps = iv_config_int(c, "out.save_every"),
                  epochs = iv_config_int(c, "out.save_every_epochs"),
                  epoch = epochs * k->t->info.samples[IV_TRAIN];
    if (!*k->folder) return false;
    if (steps > 0 && k->t->step % steps == 0) return true;
    if (epoch > 0 && samples / epoch != k->t->samples_seen / epoch) return true;
    return k->every_ns != INT64_MAX && iv__now_ns() - k->last_ns >= k->every_ns;
}

/* save_top_k: the worst of more than k, or -1.  The newest always stays, since it is what a resume
 * needs, and so does the one that the run started from. */
static int64_t one_too_many(const iv__keeper *k)
{
    const int64_t most = iv_config_int(k->t->config, "out.save_top_k");
    int64_t worst = -1, n = 0;
    for (int64_t i = 0; i < k->n_kept; ++i) {
        const iv__kept *e = &k->kept[i];
        if (!e->whole) continue;
        ++n;
        if (strcmp(e->path, k->newest) == 0 || strcmp(e->path, k->resumed) == 0) continue;
        if (worst < 0 || is_worse(k, e, &k->kept[worst])) worst = i;
    }
    return most > 0 && n > most ? worst : -1;
}

static void *tidy(void *arg)
{
    iv__tidying *y = arg;
    iv_status s = iv__file_write_atomic(y->last, y->name, strlen(y->name));
    for (int64_t i = 0; i < y->n_remove && s == IV_OK; ++i)
        s = y->remove[i].format->remove(y->remove[i].format_self, y->remove[i].path);
    y->status = s;
    if (s != IV_OK) snprintf(y->text, sizeof(y->text), "%s", iv_error_message());
    atomic_store(&y->done, true);
    return NULL;
}

/* Waits for it and tells the caller of the save. */
static iv_status tidied(iv__keeper *k)
{
    iv__tidying *y = &k->tidying;
    if (y->started) pthread_join(y->thread, NULL);
    y->started = false;
    for (int64_t i = 0; i < y->n_remove; ++i) free(y->remove[i].path);
    free(y->remove);
    y->remove = NULL;
    y->n_remove = 0;
    if (y->status != IV_OK) return iv__fail(y->status, "%s", y->text);
    if (k->cb->on_save) k->cb->on_save(k->cb->ctx, y->step, y->path);
    return IV_OK;
}

/* Takes those that are to go off the list. */
static iv_status choose_removals(iv__keeper *k, iv__tidying *y)
{
    int64_t i, room = 0;
    while ((i = one_too_many(k)) >= 0) {
        IV_TRY(iv__reserve(&y->remove, &room, y->n_remove + 1, sizeof(*y->remove), "removals"));
        y->remove[y->n_remove++] = k->kept[i];
        memmove(&k->kept[i], &k->kept[i + 1], (size_t)(--k->n_kept - i) * sizeof(*k->kept));
    }
    return IV_OK;
}

/* The save of kept[i] has ended well. */
static iv_status ended(iv__keeper *k, int64_t i)
{
    iv__tidying *y = &k->tidying;
    if (y->started) IV_TRY(tidied(k)); /* one after another */
    *y = (iv__tidying){.step = k->kept[i].step};
    k->kept[i].whole = true;
    snprintf(k->newest, sizeof(k->newest), "%.1023s", k->kept[i].path);
    memcpy(y->path, k->newest, sizeof(y->path));
    snprintf(y->last, sizeof(y->last), "%s/last", k->folder);
    const char *slash = strrchr(y->path, '/');
    snprintf(y->name, sizeof(y->name), "%.254s\n", slash ? slash + 1 : y->path);
    y->status = choose_removals(k, y);
    if (y->status != IV_OK) snprintf(y->text, sizeof(y->text), "%s", iv_error_message());
    if (y->status != IV_OK || !writes(k)) return tidied(k);
    /* Without `poll` a save has held training up anyway; without a thread this one does. */
    y->started = k->t->ckpt->poll && pthread_create(&y->thread, NULL, tidy, y) == 0;
    if (y->started) return IV_OK;
    tidy(y);
    return tidied(k);
}

static iv_status start(iv__keeper *k, const char *path, double value)
{
    const iv__save_options o = {.weights_only =
                                    iv_config_bool(k->t->config, "out.save_weights_only"),
                                .metric = isnan(value) ? NULL : setting(k, "out.monitor"),
                                .value = value};
    for (int64_t i = 0; i < k->n_kept; ++i) /* an older one of that step is replaced */
        if (strcmp(k->kept[i].path, path) == 0) drop_kept(k, i--);
    k->started_step = k->t->step;
    k->last_ns = iv__now_ns();
    IV_TRY(iv__trainer_save_start(k->t, path, &o));
    IV_TRY(add_kept(k, k->t->step, path, value, false));
    return k->t->ckpt->poll ? IV_OK : ended(k, k->n_kept - 1);
}

iv_status iv__keeper_save(iv__keeper *k, const iv__scores *s)
{
    char path[1400];
    const char *by = setting(k, "out.monitor");
    if (!*k->folder || k->started_step == k->t->step) return IV_OK;
    snprintf(path, sizeof(path), "%s/step-%012" PRId64 "%s", k->folder, k->t->step, k->extension);
    return start(k, path,
                 strcmp(by, "loss") == 0           ? s->loss
                 : strcmp(by, "val_accuracy") == 0 ? s->val_accuracy
                                                   : s->val_loss);
}

iv_status iv__keeper_poll(iv__keeper *k)
{
    const iv_trainer *t = k->t;
    if (k->tidying.started && atomic_load(&k->tidying.done)) IV_TRY(tidied(k));
    while (*k->folder && t->ckpt && t->ckpt->poll) {
        const char *path;
        iv_status s = t->ckpt->poll(t->ckpt_self, &path);
        if (!path) return s;
        int64_t i = 0;
        while (i < k->n_kept && (k->kept[i].whole || strcmp(k->kept[i].path, path) != 0)) ++i;
        if (i < k->n_kept && s == IV_OK) s = ended(k, i);
        else if (i < k->n_kept) drop_kept(k, i);
        if (s != IV_OK) return s;
    }
    return IV_OK;
}

iv_status iv__keeper_finish(iv__keeper *k)
{
    if (!*k->folder) return IV_OK;
    IV_TRY(iv__trainer_drain(k->t));
    IV_TRY(iv__keeper_poll(k));
    return k->tidying.started ? tidied(k) : IV_OK;
}

void iv__keeper_close(iv__keeper *k)
{
    if (k->tidying.started && tidied(k) != IV_OK) iv__log(IV_LOG_WARN, "%s", iv_error_message());
    for (int64_t i = 0; i < k->n_kept; ++i) free(k->kept[i].path);
    free(k->kept);
    k->kept = NULL;
    k->n_kept = k->cap_kept = 0;
}
