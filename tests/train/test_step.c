/* test_step.c: a training step and what surrounds it, against formulas written out. */
#include "train/session.h"

#include "../runtime/trainer.h"

#include <cJSON.h>
#include <dlfcn.h>
#include <math.h>
#include <stdatomic.h>

/* ---- heap allocations, counted ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTS_ALLOCATIONS 0
#endif
#endif
#if !defined(COUNTS_ALLOCATIONS) && defined(__GLIBC__)
#define COUNTS_ALLOCATIONS 1
#endif

static atomic_bool counting;
static atomic_long allocations;

#if COUNTS_ALLOCATIONS
/* The program's own definitions go before the C library's, for every library in the process. */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
#define HOOK __attribute__((visibility("default")))

/* oneDNN makes a map of its arguments in every dnnl_primitive_execute, which a caller cannot avoid:
 * what it and its C++ library ask for is not counted. */
static bool is_onednn(const void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname &&
           (strstr(info.dli_fname, "libdnnl") || strstr(info.dli_fname, "libstdc++"));
}

static void count_call(const void *caller)
{
    if (atomic_load(&counting) && !is_onednn(caller)) atomic_fetch_add(&allocations, 1);
}
#define count() count_call(__builtin_return_address(0))

HOOK void *malloc(size_t n)
{
    count();
    return __libc_malloc(n);
}

HOOK void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

HOOK void *realloc(void *p, size_t n)
{
    count();
    return __libc_realloc(p, n);
}

HOOK void *memalign(size_t align, size_t n)
{
    count();
    return __libc_memalign(align, n);
}

HOOK void *aligned_alloc(size_t align, size_t n)
{
    count();
    return __libc_memalign(align, n);
}

HOOK int posix_memalign(void **out, size_t align, size_t n)
{
    count();
    *out = __libc_memalign(align, n);
    return *out ? 0 : 12;
}
#endif

#define GPT "model.name=gpt model.layers=2 model.heads=2 model.width=32 model.context=16 "
#define CNN "model.name=cnn model.channels=4 "
#define MLP "model.name=mlp model.layers=1 model.width=24 "
#define F64 "precision.name=64-true "

static const char *const numerics[] = {"numerics.mode=fast ", "numerics.mode=invariant "};

static void a_step_allocates_nothing(void **state)
{
    static const char *const models[] = {
        GPT "train.clip=1 model.dropout=0.1",
        GPT "precision.name=bf16-mixed train.accumulate=3",
        GPT F64,
        CNN "model.norm=batch",
        CNN "precision.name=bf16-mixed",
        CNN F64 "train.accumulate=2",
        MLP "optim.name=sgd optim.momentum=0.9",
    };
    (void)state;
    if (!COUNTS_ALLOCATIONS) {
        print_message("skipped: a sanitizer owns malloc\n");
        skip();
    }
    for (size_t i = 0; i < 2 * sizeof(models) / sizeof(*models); ++i) {
        char settings[512];
        session s;
        iv_step_report r;
        snprintf(settings, sizeof(settings), "%s%s", numerics[i % 2], models[i / 2]);
        session_open(&s, settings);
        WORKS(iv_trainer_step(s.trainer, &r));
        atomic_store(&allocations, 0);
        for (int k = 0; k < 5; ++k) { /* 80 images: into the second epoch */
            atomic_store(&counting, true);
            const iv_status status = iv_trainer_step(s.trainer, &r);
            atomic_store(&counting, false);
            if (status != IV_OK) fail_msg("%s", iv_error_message());
        }
        if (atomic_load(&allocations) != 0)
            fail_msg("%s: %ld allocations in 5 steps, expected 0", settings,
                     atomic_load(&allocations));
        session_close(&s);
    }
}

/* ---- memory ---- */

static double number(const cJSON *o, const char *key)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    if (!cJSON_IsNumber(v)) fail_msg("invar plan --json: no number \"%s\"", key);
    return v->valuedouble;
}

/* What `invar plan --json` says about these settings. */
static cJSON *cli_plan(const char *settings)
{
    char command[2048], text[4096];
    int n = snprintf(command, sizeof(command), "'%s' plan --json --set data.train=%s", INVAR_CLI,
                     strstr(settings, "=gpt") ? spec("text", "text.txt") : spec("idx", "images"));
    for (const char *word = settings; *word; word += strspn(word, " ")) {
        const size_t length = strcspn(word, " ");
        n += snprintf(command + n, sizeof(command) - (size_t)n, " --set %.*s", (int)length, word);
        word += length;
    }
    FILE *f = popen(command, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    assert_int_equal(pclose(f), 0);
    cJSON *o = cJSON_Parse(text);
    if (!o) fail_msg("invar plan --json printed %s", text);
    return o;
}

static void memory_is_as_planned(void **state)
{
    static const char *const rows[] = {GPT "precision.name=32-true",
                                       GPT "precision.name=bf16-mixed train.accumulate=4",
                                       CNN F64 "model.norm=batch", MLP "optim.name=sgd"};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        session s;
        iv_memory_report m, later;
        iv_step_report r;
        session_open(&s, rows[i]);
        iv_trainer_memory(s.trainer, &m);
        assert_int_equal(m.total, m.allocated);
        assert_int_equal(m.total, m.parameters + m.gradients + m.optimizer + m.lowered +
                                      m.statistics + m.inputs + m.temporaries + m.other);
        cJSON *plan = cli_plan(rows[i]), *memory = cJSON_GetObjectItemCaseSensitive(plan, "memory");
        assert_int_equal(m.total, (int64_t)number(memory, "total"));
        assert_int_equal(m.allocated, (int64_t)number(memory, "allocated"));
        assert_int_equal(m.temporaries, (int64_t)number(memory, "temporaries"));
        cJSON_Delete(plan);
        for (int k = 0; k < 3; ++k) WORKS(iv_trainer_step(s.trainer, &r));
        iv_trainer_memory(s.trainer, &later);
        assert_memory_equal(&m, &later, sizeof(m));
        double loss,
            accuracy; /* validation has a plan of its own, in borrowed memory where it fits */
        WORKS(iv_trainer_evaluate(s.trainer, &loss, &accuracy));
        iv_trainer_memory(s.trainer, &later);
        assert_int_equal(later.total, later.allocated);
        if (later.total < m.total)
            fail_msg("%s: %lld bytes, with validation %lld", rows[i], (long long)m.total,
                     (long long)later.total);
        session_close(&s);
    }
}

/* ---- accumulation ---- */

static void accumulation_is_a_larger_batch(void **state)
{
    static const char *const models[] = {GPT F64, CNN F64, MLP F64};
    (void)state;
    for (int i = 0; i < 6; ++i) { /* without grains in common: the sums have different orders */
        char one[512], four[512];
        session a, b;
        iv_step_report ra, rb;
        snprintf(one, sizeof(one), "%s%s train.batch=12", numerics[i % 2], models[i / 2]);
        snprintf(four, sizeof(four), "%s%s train.batch=3 train.accumulate=4", numerics[i % 2],
                 models[i / 2]);
        session_open(&a, one);
        session_open(&b, four);
        for (int k = 0; k < 3; ++k) {
            WORKS(iv_trainer_step(a.trainer, &ra));
            WORKS(iv_trainer_step(b.trainer, &rb));
            if (!(fabs(ra.loss - rb.loss) <= 1e-12 * ra.loss &&
                  fabs(ra.grad_norm - rb.grad_norm) <= 1e-12 * ra.grad_norm))
                fail_msg("%s: loss %.17g, norm %.17g; in passes %.17g, %.17g", one, ra.loss,
                         ra.grad_norm, rb.loss, rb.grad_norm);
            int64_t n;
            double *x = all_params(&a, true, &n), *y = all_params(&b, true, &n), most = 0;
            for (int64_t j = 0; j < n; ++j) most = fmax(most, fabs(x[j]));
            for (int64_t j = 0; j < n; ++j)
                if (!(fabs(x[j] - y[j]) <= 1e-12 * most))
                    fail_msg("%s: gradient %lld: %.17g, in passes %.17g", one, (long long)j, x[j],
                             y[j]);
            free(x);
            free(y);
        }
        session_close(&a);
        session_close(&b);
    }
}

/* ---- optimizers, clipping, schedules ---- */

typedef struct optimizer {
    const char *settings;
    enum { SGD, ADAM, ADAMW } kind;
    bool decay_all, nesterov;
    double lr, b1, b2, eps, decay, mu, clip_norm, clip_value;
} optimizer;

/* The factor that clips by norm, as PyTorch's clip_grad_norm_. */
static double norm_factor(double norm, double most)
{
    return most > 0 && most / (norm + 1e-6) < 1 ? most / (norm + 1e-6) : 1;
}

static double clipped(double g, double limit)
{
    return limit > 0 ? fmin(fmax(g, -limit), limit) : g;
}

/* One element's update at step t = 1, 2, ... */
static double updated(const optimizer *o, int t, bool decays, double w, double g, double *m,
                      double *v)
{
    const double decay = decays ? o->decay : 0;
    if (o->kind == SGD) {
        g += decay * w;
        if (o->mu == 0) return w - o->lr * g;
        *m = t == 1 ? g : o->mu * *m + g;
        return w - o->lr * (o->nesterov ? g + o->mu * *m : *m);
    }
    if (o->kind == ADAM) g += decay * w;
    else w *= 1 - o->lr * decay;
    *m = o->b1 * *m + (1 - o->b1) * g;
    *v = o->b2 * *v + (1 - o->b2) * g * g;
    const double m_hat = *m / (1 - pow(o->b1, t)), v_hat = *v / (1 - pow(o->b2, t));
    return w - o->lr * m_hat / (sqrt(v_hat) + o->eps);
}

/* 1 where weight decay applies. */
static bool *decaying(const session *s, bool all, int64_t n)
{
    bool *yes = calloc((size_t)n, sizeof(*yes));
    int64_t k = 0;
    assert_non_null(yes);
    for (int64_t i = 0; i < iv_trainer_param_count(s->trainer); ++i) {
        iv_shape shape;
        iv_trainer_param_name(s->trainer, i, &shape);
        for (int64_t j = 0; j < iv_shape_count(&shape); ++j) yes[k++] = all || shape.rank >= 2;
    }
    return yes;
}

static void check_optimizer(const optimizer *o)
{
    char settings[512];
    session s;
    iv_step_report r;
    int64_t n;
    snprintf(settings, sizeof(settings), MLP F64 "%s", o->settings);
    session_open(&s, settings);
    double *w = all_params(&s, false, &n), *m = calloc((size_t)n, 8), *v = calloc((size_t)n, 8),
           worst = 0;
    bool *decays = decaying(&s, o->decay_all, n);
    for (int t = 1; t <= 6; ++t) {
        WORKS(iv_trainer_step(s.trainer, &r));
        double *g = all_params(&s, true, &n), *got = all_params(&s, false, &n), sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += g[i] * g[i];
        if (!(fabs(r.grad_norm - sqrt(sum)) <= 1e-13 * r.grad_norm))
            fail_msg("gradient norm %.17g, expected %.17g", r.grad_norm, sqrt(sum));
        assert_true(o->clip_norm == 0 || sqrt(sum) > o->clip_norm); /* clips */
        for (int64_t i = 0; i < n; ++i) {
            w[i] = updated(o, t, decays[i], w[i],
                           clipped(g[i] * norm_factor(sqrt(sum), o->clip_norm), o->clip_value),
                           &m[i], &v[i]);
            worst = fmax(worst, fabs(w[i] - got[i]));
        }
        free(g);
        free(got);
    }
    /* Parameters are below 1; six steps of lr round a few times each. */
    if (!(worst <= 1e-13)) fail_msg("%s: largest difference %g, allowed 1e-13", o->settings, worst);
    free(w);
    free(m);
    free(v);
    free(decays);
    session_close(&s);
}

static void optimizers_follow_their_formulas(void **state)
{
    static const optimizer rows[] = {
        {"optim.name=sgd optim.lr=0.1 optim.weight_decay=0", .kind = SGD, .lr = 0.1},
        {"optim.name=sgd optim.lr=0.1 optim.weight_decay=0.05", .kind = SGD, .lr = 0.1,
         .decay = 0.05},
        {"optim.name=sgd optim.lr=0.1 optim.weight_decay=0.05 optim.momentum=0.9", .kind = SGD,
         .lr = 0.1, .decay = 0.05, .mu = 0.9},
        {"optim.name=sgd optim.lr=0.1 optim.weight_decay=0.05 optim.momentum=0.9 "
         "optim.nesterov=true optim.decay=all train.clip=0.1",
         .kind = SGD, .lr = 0.1, .decay = 0.05, .mu = 0.9, .nesterov = true, .decay_all = true,
         .clip_norm = 0.1},
        {"optim.name=adam optim.lr=0.01 optim.weight_decay=0.05 optim.beta1=0.8 optim.beta2=0.9 "
         "optim.eps=1e-6",
         .kind = ADAM, .lr = 0.01, .b1 = 0.8, .b2 = 0.9, .eps = 1e-6, .decay = 0.05},
        {"optim.name=adamw optim.lr=0.01", .kind = ADAMW, .lr = 0.01, .b1 = 0.9, .b2 = 0.95,
         .eps = 1e-8, .decay = 0.1},
        {"optim.name=adamw optim.lr=0.01 optim.decay=all train.clip=0.2", .kind = ADAMW, .lr = 0.01,
         .b1 = 0.9, .b2 = 0.95, .eps = 1e-8, .decay = 0.1, .decay_all = true, .clip_norm = 0.2},
        {"optim.name=sgd optim.lr=0.1 optim.weight_decay=0 train.clip=0.002 train.clip_by=value",
         .kind = SGD, .lr = 0.1, .clip_value = 0.002},
        {"optim.name=adam optim.lr=0.01 optim.weight_decay=0 optim.eps=1e-3 train.clip=0.002 "
         "train.clip_by=value",
         .kind = ADAM, .lr = 0.01, .b1 = 0.9, .b2 = 0.95, .eps = 1e-3, .clip_value = 0.002},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) check_optimizer(&rows[i]);
}

/* lr of step t = 0, 1, ..., with peak 0.02 and end 0.002, 4 steps of warm-up, 12 in all. */
static double literal_lr(int kind, int t)
{
    const double peak = 0.02, end = 0.002, share = (t - 4) / 8.0;
    if (t < 4) return peak * (t + 1) / 5;
    if (kind == 0) return peak;
    if (kind == 1) return end + 0.5 * (1 + cos(acos(-1) * share)) * (peak - end);
    return peak + share * (end - peak);
}

static void schedules_follow_their_formulas(void **state)
{
    static const char *const kinds[] = {"constant", "cosine", "linear"};
    (void)state;
    for (int kind = 0; kind < 3; ++kind) {
        char settings[512];
        session s;
        iv_step_report r;
        snprintf(
            settings, sizeof(settings),
            MLP
            "optim.lr=0.02 optim.min_lr=0.002 optim.warmup=4 train.max_steps=12 optim.schedule=%s",
            kinds[kind]);
        session_open(&s, settings);
        for (int t = 0; t < 12; ++t) {
            WORKS(iv_trainer_step(s.trainer, &r));
            if (!(fabs(r.lr - literal_lr(kind, t)) <= 1e-15))
                fail_msg("%s, step %d: lr %.17g, expected %.17g", kinds[kind], t, r.lr,
                         literal_lr(kind, t));
        }
        WORKS(iv_trainer_step(s.trainer, &r)); /* past the end */
        assert_true(fabs(r.lr - (kind == 0 ? 0.02 : 0.002)) <= 1e-15);
        session_close(&s);
    }
}

/* ---- validation ---- */

typedef struct net {
    double w1[24][IMAGE * IMAGE], b1[24], w2[10][24], b2[10];
} net;

static void read_net(const session *s, net *n)
{
    const struct {
        const char *name;
        double *to;
    } parts[] = {
        {"1.weight", n->w1[0]}, {"1.bias", n->b1}, {"3.weight", n->w2[0]}, {"3.bias", n->b2}};
    int64_t count_;
    for (size_t i = 0; i < 4; ++i) {
        const int64_t k = param_index(s, parts[i].name, &count_);
        WORKS(iv_trainer_param_read(s->trainer, k, false, parts[i].to));
    }
}

/* The loss of one image, and whether the largest output is right. */
static double forward(const net *n, const float *x, int32_t y, bool *right)
{
    double h[24], z[10], sum = 0;
    int best = 0;
    for (int i = 0; i < 24; ++i) {
        h[i] = n->b1[i];
        for (int k = 0; k < IMAGE * IMAGE; ++k) h[i] += n->w1[i][k] * (double)x[k];
        h[i] = fmax(h[i], 0);
    }
    for (int i = 0; i < 10; ++i) {
        z[i] = n->b2[i];
        for (int k = 0; k < 24; ++k) z[i] += n->w2[i][k] * h[k];
        sum += exp(z[i]);
        if (z[i] > z[best]) best = i;
    }
    *right = best == y;
    return log(sum) - z[y];
}

/* 21 images in batches of 8: the last batch has 5. */
static void validation_is_the_mean_over_samples(void **state)
{
    static net n;
    (void)state;
    for (int limit = 0; limit <= 2; limit += 2) {
        char settings[256];
        session s;
        iv_step_report r;
        snprintf(settings, sizeof(settings), MLP F64 "train.batch=8 optim.lr=0.02 eval.batches=%d",
                 limit);
        session_open(&s, settings);
        for (int k = 0; k < 8; ++k) WORKS(iv_trainer_step(s.trainer, &r));
        read_net(&s, &n);
        double loss, accuracy, sum = 0;
        int hits = 0;
        const int images = limit ? 8 * limit : VAL_IMAGES;
        for (int i = 0; i < images; ++i) {
            float x[IMAGE * IMAGE];
            int32_t y;
            bool right;
            WORKS(iv_dataset_sample(s.data, IV_VAL, i, x, &y));
            sum += forward(&n, x, y, &right);
            hits += right;
        }
        WORKS(iv_trainer_evaluate(s.trainer, &loss, &accuracy));
        if (!(fabs(loss - sum / images) <= 1e-12))
            fail_msg("%d images: loss %.17g, expected %.17g", images, loss, sum / images);
        if (!(fabs(accuracy - (double)hits / images) <= 1e-15))
            fail_msg("%d images: accuracy %g, expected %d of them", images, accuracy, hits);
        assert_true(hits > 0 && hits < images);
        session_close(&s);
    }
}

/* Text: the mean over all windows, however they fall into batches; equal to a step's loss over
 * them. */
static void validation_of_text(void **state)
{
    enum { MOST = 64, CONTEXT = 16 };
    static int32_t x[MOST * CONTEXT], y[MOST * CONTEXT];
    char settings[256];
    session s;
    iv_dataset_info info;
    iv_step_report r;
    (void)state;
    session_prepare(&s, GPT);
    iv_dataset_info_get(s.data, &info);
    const int n = (int)info.samples[IV_VAL];
    assert_true(n > 7 && n % 7 != 0 && n <= MOST);
    for (int i = 0; i < n; ++i)
        WORKS(iv_dataset_sample(s.data, IV_VAL, i, x + i * CONTEXT, y + i * CONTEXT));
    session_close(&s);
    snprintf(settings, sizeof(settings), GPT F64 "train.batch=%d", n);
    session_open(&s, settings);
    WORKS(iv_trainer_step_on(s.trainer, x, y, &r));
    session_close(&s);
    session_open(&s, GPT F64 "train.batch=7");
    double loss, accuracy;
    WORKS(iv_trainer_evaluate(s.trainer, &loss, &accuracy));
    if (!(fabs(loss - r.loss) <= 1e-12))
        fail_msg("%d windows: loss %.17g, expected %.17g", n, loss, r.loss);
    assert_true(accuracy == -1);
    session_close(&s);
}

/* ---- generation ---- */

/* The likeliest token after `context` tokens, by the loss of each: a step with lr 0 changes
 * nothing. */
static int32_t likeliest(session *s, const int32_t *x, int classes)
{
    int32_t y[16], best = -1;
    double least = INFINITY;
    iv_step_report r;
    memset(y, -1, sizeof(y)); /* ignored */
    for (int32_t c = 0; c < classes; ++c) {
        y[15] = c;
        WORKS(iv_trainer_step_on(s->trainer, x, y, &r));
        if (r.loss < least) {
            least = r.loss;
            best = c;
        }
    }
    return best;
}

static void generation(void **state)
{
    enum { N = 40 };
    const int32_t prompt[18] = {'a', 'd', 'g', 'j', 'm', 'p', 's', 'v', 'y',
                                'b', 'e', 'h', 'k', 'n', 'q', 't', 'w', 'z'};
    int32_t a[N], b[N], c[N], window[16];
    session s;
    iv_step_report r;
    (void)state;
    session_open(&s, GPT "train.batch=16 optim.lr=1e-2 train.max_steps=60");
    for (int k = 0; k < 60; ++k) WORKS(iv_trainer_step(s.trainer, &r));
    WORKS(iv_trainer_save(s.trainer, at("generates.safetensors")));
    WORKS(iv_trainer_generate(s.trainer, prompt, 18, N, 0.8, 0, 3, a));
    WORKS(iv_trainer_generate(s.trainer, prompt, 18, N, 0.8, 0, 3, b));
    WORKS(iv_trainer_generate(s.trainer, prompt, 18, N, 0.8, 0, 4, c));
    assert_memory_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, c, sizeof(a));
    /* A prompt's tail is all that the model sees; the text before a token does not change it. */
    WORKS(iv_trainer_generate(s.trainer, prompt + 2, 16, 1, 0, 0, 3, b));
    WORKS(iv_trainer_generate(s.trainer, prompt, 18, N, 0, 0, 3, a));
    assert_int_equal(a[0], b[0]);
    WORKS(iv_trainer_generate(s.trainer, prompt, 18, N, 1, 1, 9,
                              b)); /* the best 1 at any temperature */
    assert_memory_equal(a, b, sizeof(a));
    FAILS(IV_INVALID, "token 256",
          iv_trainer_generate(s.trainer, (int32_t[]){256}, 1, 1, 0, 0, 1, b));
    FAILS(IV_INVALID, "prompt", iv_trainer_generate(s.trainer, prompt, 0, 1, 0, 0, 1, b));
    session_close(&s);

    session_open(&s, GPT "train.batch=1 optim.name=sgd optim.lr=0 optim.weight_decay=0");
    WORKS(iv_trainer_load_params(s.trainer, at("generates.safetensors")));
    for (int k = 0; k < 3; ++k) {
        for (int i = 0; i < 16; ++i)
            window[i] = k + i + 2 < 18 ? prompt[k + i + 2] : a[k + i + 2 - 18];
        assert_int_equal(likeliest(&s, window, 256), a[k]);
    }
    session_close(&s);
}

/* ---- losses that are not finite ---- */

static void nonfinite_names_step_and_node(void **state)
{
    session s;
    iv_step_report r;
    char before[33], after[33], state_before[33], state_after[33];
    (void)state;
    for (int model = 0; model < 3; ++model) {
        static const char *const models[] = {GPT, CNN, MLP};
        char settings[256];
        iv_status status = IV_OK;
        snprintf(settings, sizeof(settings), "%soptim.name=sgd optim.momentum=0.9 optim.lr=1e30",
                 models[model]);
        session_open(&s, settings);
        int step = 0;
        for (; status == IV_OK && step < 5; ++step) {
            WORKS(iv_trainer_hash(s.trainer, false, before));
            WORKS(iv_trainer_hash(s.trainer, true, state_before));
            status = iv_trainer_step(s.trainer, &r);
        }
        char part[64];
        snprintf(part, sizeof(part), "training step %d: loss ", step);
        if (status != IV_NONFINITE || !strstr(iv_error_message(), part) ||
            !(strstr(iv_error_message(), "node ") || strstr(iv_error_message(), "parameter ")))
            fail_msg("%s gave %s: %s", settings, iv_status_name(status), iv_error_message());
        WORKS(iv_trainer_hash(s.trainer, false, after));
        WORKS(iv_trainer_hash(s.trainer, true, state_after));
        assert_string_equal(before, after);
        assert_string_equal(state_before, state_after);
        session_close(&s);
    }
}

/* A damaged parameter is named itself. */
static void a_damaged_parameter_is_named(void **state)
{
    static const struct {
        const char *precision;
        bool f64;
    } rows[] = {{"32-true", false}, {"64-true", true}, {"bf16-mixed", false}};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        session s;
        iv_step_report r;
        char settings[256];
        const float f = NAN;
        const double d = NAN;
        snprintf(settings, sizeof(settings), GPT "precision.name=%s", rows[i].precision);
        session_open(&s, settings);
        iv__store *st = s.trainer->store;
        const iv__slot *slot =
            &st->params[iv__store_find(st->params, st->n_params, "h.1.mlp.c_fc.weight")];
        iv_buffer b = iv__slot_range(&st->param_mem, slot, st->type);
        b.bytes = (int64_t)iv_dtype_bytes(st->type);
        WORKS(iv__device_write(st->device, b, rows[i].f64 ? (const void *)&d : (const void *)&f));
        WORKS(iv__store_lower(st));
        FAILS(IV_NONFINITE, "parameter 'h.1.mlp.c_fc.weight'", iv_trainer_step(s.trainer, &r));
        assert_non_null(strstr(iv_error_message(), "training step 1: "));
        session_close(&s);
    }
}

/* Ids that reach outside a table are refused before they reach a kernel. */
static void bad_samples_are_refused(void **state)
{
    int32_t x[16 * 16] = {0}, y[16 * 16] = {0};
    session s;
    iv_step_report r;
    (void)state;
    session_open(&s, GPT);
    for (x[5] = 256; x[5] >= -1; x[5] -= 257)
        FAILS(IV_INVALID, x[5] < 0 ? "token -1" : "token 256",
              iv_trainer_step_on(s.trainer, x, y, &r));
    x[5] = 0;
    y[255] = 1000;
    FAILS(IV_INVALID, "target 1000", iv_trainer_step_on(s.trainer, x, y, &r));
    y[255] = -1; /* ignored */
    WORKS(iv_trainer_step_on(s.trainer, x, y, &r));
    session_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(memory_is_as_planned),
        cmocka_unit_test(accumulation_is_a_larger_batch),
        cmocka_unit_test(optimizers_follow_their_formulas),
        cmocka_unit_test(schedules_follow_their_formulas),
        cmocka_unit_test(validation_is_the_mean_over_samples),
        cmocka_unit_test(validation_of_text),
        cmocka_unit_test(generation),
        cmocka_unit_test(nonfinite_names_step_and_node),
        cmocka_unit_test(a_damaged_parameter_is_named),
        cmocka_unit_test(bad_samples_are_refused),
    };
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
