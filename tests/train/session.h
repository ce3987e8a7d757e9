/* session.h: small trainings for tests: data files in a temporary folder, and a configuration, data
 * set and trainer made from a line of settings. */
#ifndef IV_TEST_SESSION_H
#define IV_TEST_SESSION_H

#include "unit/temporary.h"

#include "invar.h"

#include <stdlib.h>
#include <sys/stat.h>

enum { IMAGE = 12, TRAIN_IMAGES = 60, VAL_IMAGES = 21, TEXT_BYTES = 4000 };

typedef struct session {
    iv_config *config;
    iv_dataset *data;
    iv_model_spec spec;
    iv_trainer *trainer;
} session;

/* Numbers that are the same everywhere. */
static inline uint32_t next_number(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

static inline void put_u32(uint8_t *p, uint32_t x)
{
    for (int i = 0; i < 4; ++i) p[i] = (uint8_t)(x >> (24 - 8 * i));
}

/* Images with a bright row whose number is the label, and noise. */
static inline void put_images(const char *part, uint32_t count, uint32_t seed)
{
    enum { MOST = TRAIN_IMAGES > VAL_IMAGES ? TRAIN_IMAGES : VAL_IMAGES };
    static uint8_t images[16 + MOST * IMAGE * IMAGE], labels[8 + MOST];
    char name[64];
    put_u32(images, 0x803);
    put_u32(images + 4, count);
    put_u32(images + 8, IMAGE);
    put_u32(images + 12, IMAGE);
    put_u32(labels, 0x801);
    put_u32(labels + 4, count);
    for (uint32_t i = 0; i < count; ++i) {
        uint8_t *image = images + 16 + i * IMAGE * IMAGE;
        labels[8 + i] = (uint8_t)(next_number(&seed) % 10);
        for (uint32_t k = 0; k < IMAGE * IMAGE; ++k)
            image[k] =
                (uint8_t)(next_number(&seed) % 64 + (k / IMAGE == 1u + labels[8 + i] ? 160 : 0));
    }
    snprintf(name, sizeof(name), "images/%s-images-idx3-ubyte", part);
    put(name, images, 16 + (size_t)count * IMAGE * IMAGE);
    snprintf(name, sizeof(name), "images/%s-labels-idx1-ubyte", part);
    put(name, labels, 8 + (size_t)count);
}

/* cmocka group setup: folder, text and images. */
static inline int session_files(void **state)
{
    static char text[TEXT_BYTES];
    uint32_t seed = 7;
    if (temporary_make(state) != 0) return -1;
    for (int i = 0; i < TEXT_BYTES; ++i) { /* letters that often follow each other */
        const uint32_t r = next_number(&seed);
        text[i] =
            (char)(i > 0 && r % 4 ? 'a' + (text[i - 1] - 'a' + 3) % 26 : 'a' + (int)(r / 4 % 26));
    }
    put("text.txt", text, sizeof(text));
    if (mkdir(at("images"), 0777) != 0) return -1;
    put_images("train", TRAIN_IMAGES, 1);
    put_images("t10k", VAL_IMAGES, 2);
    return 0;
}

/* "key=value key=value ..." */
static inline void configure(iv_config *c, const char *settings)
{
    char copy[2048], *rest = copy;
    assert_true(strlen(settings) < sizeof(copy));
    strcpy(copy, settings);
    for (char *word; (word = strsep(&rest, " "));) {
        char *eq = strchr(word, '=');
        if (!*word) continue;
        assert_non_null(eq);
        *eq = 0;
        WORKS(iv_config_set(c, word, eq + 1));
    }
}

/* Everything but the trainer. */
static inline void session_prepare(session *s, const char *settings)
{
    iv_dataset_info info;
    *s = (session){0};
    WORKS(iv_config_new(&s->config));
    configure(s->config, "train.max_steps=10");
    configure(s->config, settings);
    const bool gpt = strcmp(iv_config_str(s->config, "model.name"), "gpt") == 0;
    WORKS(iv_dataset_open(gpt ? spec("text", "text.txt") : spec("idx", "images"),
                          iv_config_int(s->config, "model.context"), 0.1, &s->data));
    iv_dataset_info_get(s->data, &info);
    WORKS(iv_model_spec_from(s->config, &info, &s->spec));
}

static inline void session_open(session *s, const char *settings)
{
    session_prepare(s, settings);
    WORKS(iv_trainer_open(s->config, s->data, iv_model_build, &s->spec, &s->trainer));
}

static inline void session_close(session *s)
{
    iv_trainer_close(s->trainer);
    iv_dataset_close(s->data);
    iv_config_free(s->config);
    *s = (session){0};
}

/* `steps` steps of a run of its own; hashes of its parameters and of its optimizer's state. */
static inline void session_hashes(const char *settings, const char *more, int steps,
                                  char hashes[2][33])
{
    char all[1024];
    session s;
    iv_step_report r;
    snprintf(all, sizeof(all), "%s %s", settings, more);
    session_open(&s, all);
    for (int i = 0; i < steps; ++i) WORKS(iv_trainer_step(s.trainer, &r));
    WORKS(iv_trainer_hash(s.trainer, false, hashes[0]));
    WORKS(iv_trainer_hash(s.trainer, true, hashes[1]));
    session_close(&s);
}

static inline int64_t param_index(const session *s, const char *name, int64_t *out_count)
{
    for (int64_t i = 0; i < iv_trainer_param_count(s->trainer); ++i) {
        iv_shape shape;
        if (strcmp(iv_trainer_param_name(s->trainer, i, &shape), name) != 0) continue;
        *out_count = iv_shape_count(&shape);
        return i;
    }
    fail_msg("there is no parameter %s", name);
    return -1;
}

/* All parameters (or their gradients) one behind the other; the caller frees. */
static inline double *all_params(const session *s, bool gradients, int64_t *out_n)
{
    int64_t n = 0, at_ = 0;
    iv_shape shape;
    for (int64_t i = 0; i < iv_trainer_param_count(s->trainer); ++i) {
        iv_trainer_param_name(s->trainer, i, &shape);
        n += iv_shape_count(&shape);
    }
    double *x = malloc((size_t)n * sizeof(*x));
    assert_non_null(x);
    for (int64_t i = 0; i < iv_trainer_param_count(s->trainer); ++i) {
        iv_trainer_param_name(s->trainer, i, &shape);
        WORKS(iv_trainer_param_read(s->trainer, i, gradients, x + at_));
        at_ += iv_shape_count(&shape);
    }
    *out_n = n;
    return x;
}

#endif
