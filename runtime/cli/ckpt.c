/* ckpt.c: `invar ckpt`: lists (ls) and checks (verify) a checkpoint or all of a run folder,
 * compares two (diff), writes one in another format (convert), removes old ones (prune).  A listing
 * is printed only after the whole checkpoint has been verified.  With --json one object a line. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct listing {
    FILE *out; /* a text in memory */
    bool json, verbose;
    int64_t tensors, elements, bytes;
} listing;

static void on_meta(void *ctx, const char *key, const char *value)
{
    const listing *l = ctx;
    if (!l->verbose) return;
    if (!l->json) {
        fprintf(l->out, "%s = %s\n", key, value);
        return;
    }
    fputs("{\"meta\":", l->out);
    iv__json_text(l->out, key);
    fputs(",\"value\":", l->out);
    iv__json_text(l->out, value);
    fputs("}\n", l->out);
}

static void print_shape(FILE *f, const iv_shape *shape)
{
    fputc('[', f);
    for (int32_t i = 0; i < shape->rank; ++i)
        fprintf(f, "%s%lld", i ? "," : "", (long long)shape->dim[i]);
    fputc(']', f);
}

static void on_tensor(void *ctx, const char *name, iv_dtype dtype, const iv_shape *shape)
{
    listing *l = ctx;
    ++l->tensors;
    l->elements += iv_shape_count(shape);
    l->bytes += iv_shape_count(shape) * (int64_t)iv_dtype_bytes(dtype);
    if (l->json) {
        fputs("{\"tensor\":", l->out);
        iv__json_text(l->out, name);
        fprintf(l->out, ",\"dtype\":\"%s\",\"shape\":", iv_dtype_name(dtype));
        print_shape(l->out, shape);
        fputs("}\n", l->out);
    } else {
        fprintf(l->out, "%-44s %-5s ", name, iv_dtype_name(dtype));
        print_shape(l->out, shape);
        fputc('\n', l->out);
    }
}

static int list_file(const iv__cli *c, const char *path)
{
    char *text = NULL, bytes[32];
    size_t n = 0;
    listing l = {.out = open_memstream(&text, &n), .json = c->json, .verbose = c->verbose};
    if (!l.out) return iv__cli_fail(c, "listing %s: out of memory", path);
    const iv_ckpt_visitor visitor = {&l, on_meta, on_tensor};
    const iv_status s = iv_checkpoint_list(path, &visitor);
    const bool whole = fclose(l.out) == 0;
    int status = 0;
    if (s != IV_OK) status = iv__cli_status(c, s);
    else if (!whole) status = iv__cli_fail(c, "listing %s: out of memory", path);
    else fwrite(text, 1, n, stdout);
    if (status == 0 && !c->json) {
        iv__print_bytes(bytes, l.bytes);
        printf("%lld tensors, %lld elements, %s\n", (long long)l.tensors, (long long)l.elements,
               bytes);
    }
    free(text);
    return status;
}

static int list_folder(const iv__cli *c, const char *path)
{
    iv__cli_file *files;
    int64_t n;
    const int status = iv__cli_folder(c, path, &files, &n);
    if (status != 0) return status;
    for (int64_t i = 0; i < n; ++i) {
        char bytes[32];
        iv__print_bytes(bytes, files[i].bytes);
        if (c->json) {
            printf("{\"step\":%lld,\"bytes\":%lld,\"path\":", (long long)files[i].step,
                   (long long)files[i].bytes);
            iv__json_text(stdout, files[i].path);
            puts("}");
        } else {
            printf("step %-12lld %10s  %s\n", (long long)files[i].step, bytes, files[i].path);
        }
    }
    if (n == 0 && !c->json) fprintf(stderr, "invar ckpt: %s: no checkpoints\n", path);
    free(files);
    return 0;
}

static bool is_run_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode) && !iv__cli_is_sharded(path);
}

static int list(iv__cli *c)
{
    return is_run_folder(c->arg[1]) ? list_folder(c, c->arg[1]) : list_file(c, c->arg[1]);
}

/* ---- verify ---- */

static void count_tensor(void *ctx, const char *name, iv_dtype dtype, const iv_shape *shape)
{
    listing *l = ctx;
    (void)name;
    ++l->tensors;
    l->bytes += iv_shape_count(shape) * (int64_t)iv_dtype_bytes(dtype);
}

static int verify_file(const iv__cli *c, const char *path)
{
    listing l = {0};
    const iv_ckpt_visitor visitor = {.ctx = &l, .tensor = count_tensor};
    const iv_status s = iv_checkpoint_list(path, &visitor);
    if (c->json) {
        fputs("{\"path\":", stdout);
        iv__json_text(stdout, path);
        printf(",\"whole\":%s,\"tensors\":%lld,\"bytes\":%lld", s == IV_OK ? "true" : "false",
               (long long)l.tensors, (long long)l.bytes);
        if (s != IV_OK) {
            fputs(",\"error\":", stdout);
            iv__json_text(stdout, iv_error_message());
        }
        puts("}");
    } else if (s == IV_OK) {
        char bytes[32];
        iv__print_bytes(bytes, l.bytes);
        printf("%s: whole, %lld tensors, %s\n", path, (long long)l.tensors, bytes);
    }
    return s == IV_OK ? 0 : iv__cli_status(c, s);
}

static int verify(iv__cli *c)
{
    iv__cli_file *files;
    int64_t n;
    if (!is_run_folder(c->arg[1])) return verify_file(c, c->arg[1]);
    int status = iv__cli_folder(c, c->arg[1], &files, &n);
    if (status != 0) return status;
    for (int64_t i = 0; i < n; ++i) {
        const int one = verify_file(c, files[i].path);
        if (one > status) status = one;
    }
    free(files);
    if (n == 0 && !c->json) fprintf(stderr, "invar ckpt: %s: no checkpoints\n", c->arg[1]);
    return status;
}

/* ---- diff ---- */

typedef struct comparison {
    const iv__cli *c;
    int64_t tensors, different;
} comparison;

static void on_difference(void *ctx, const iv_ckpt_difference *d)
{
    comparison *k = ctx;
    const bool equal = strcmp(d->kind, "equal") == 0;
    ++k->tensors;
    k->different += !equal;
    if (k->c->json) {
        fputs("{\"tensor\":", stdout);
        iv__json_text(stdout, d->name);
        printf(",\"difference\":\"%s\",\"elements\":%lld,\"different\":%lld,\"max_abs\":", d->kind,
               (long long)d->elements, (long long)d->different);
        iv__json_number(stdout, d->max_abs);
        puts("}");
    } else if (!equal && d->different) {
        printf("%-44s %lld of %lld elements, at most %g\n", d->name, (long long)d->different,
               (long long)d->elements, d->max_abs);
    } else if (!equal || k->c->verbose) {
        printf("%-44s %s\n", d->name, d->kind);
    }
}

/* As of diff(1): 0 if they are equal, 1 if not, 2 on trouble. */
static int diff(iv__cli *c)
{
    comparison k = {.c = c};
    const iv_status s = iv_checkpoint_diff(c->arg[1], c->arg[2], on_difference, &k);
    if (s != IV_OK) return iv__cli_status(c, s), 2;
    if (!c->json)
        printf("%lld tensors, %lld of them different\n", (long long)k.tensors,
               (long long)k.different);
    return k.different ? 1 : 0;
}

/* ---- convert, prune ---- */

static int convert(iv__cli *c)
{
    const iv_status s = iv_checkpoint_convert(c->arg[1], c->arg[2], NULL);
    if (s != IV_OK) return iv__cli_status(c, s);
    if (c->json) {
        fputs("{\"converted\":", stdout);
        iv__json_text(stdout, c->arg[1]);
        fputs(",\"path\":", stdout);
        iv__json_text(stdout, c->arg[2]);
        puts("}");
    }
    return 0;
}

/* The name in the file `last` beside the checkpoint at `path`, or "". */
static void read_last(const char *path, char out[256])
{
    char name[1100];
    const char *slash = strrchr(path, '/');
    snprintf(name, sizeof(name), "%.*slast", (int)(slash + 1 - path), path);
    FILE *f = fopen(name, "r");
    if (!f || !fgets(out, 256, f)) out[0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    if (f) fclose(f);
}

/* Removes from the oldest on, and nothing before the ones that stay have been verified. */
static int prune(iv__cli *c)
{
    iv__cli_file *files;
    int64_t n;
    char last[256] = "";
    if (!is_run_folder(c->arg[1])) return iv__cli_fail(c, "%s: this is no run folder", c->arg[1]);
    if (c->keep < 1) return iv__cli_fail(c, "--keep: at least 1 checkpoint must stay");
    int status = iv__cli_folder(c, c->arg[1], &files, &n);
    if (status != 0) return status;
    if (n > 0) read_last(files[0].path, last);
    const iv_ckpt_visitor nothing = {0};
    for (int64_t i = n > c->keep ? n - c->keep : 0; i < n && n > c->keep && status == 0; ++i) {
        const iv_status s = iv_checkpoint_list(files[i].path, &nothing);
        if (s != IV_OK) status = iv__cli_status(c, s);
    }
    for (int64_t i = 0; i < n - c->keep && status == 0; ++i) {
        if (strcmp(strrchr(files[i].path, '/') + 1, last) == 0) continue;
        const iv_status s = iv_checkpoint_remove(files[i].path);
        if (s != IV_OK) status = iv__cli_status(c, s);
        else if (c->json) {
            fputs("{\"removed\":", stdout);
            iv__json_text(stdout, files[i].path);
            puts("}");
        } else {
            printf("removed %s\n", files[i].path);
        }
    }
    free(files);
    return status;
}

int iv__cli_ckpt(iv__cli *c)
{
    static const struct {
        const char *name;
        int32_t paths;
        int (*run)(iv__cli *c);
        const char *args;
    } verbs[] = {{"ls", 1, list, "FILE|DIR"},
                 {"verify", 1, verify, "FILE|DIR"},
                 {"diff", 2, diff, "A B"},
                 {"convert", 2, convert, "SRC DST"},
                 {"prune", 1, prune, "DIR"}};
    for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); ++i) {
        if (strcmp(c->arg[0], verbs[i].name) != 0) continue;
        if (c->n_args == verbs[i].paths + 1) return verbs[i].run(c);
        return iv__cli_fail(c, "%s: takes %d path%s [hint: invar ckpt %s %s]", verbs[i].name,
                            verbs[i].paths, verbs[i].paths == 1 ? "" : "s", verbs[i].name,
                            verbs[i].args);
    }
    return iv__cli_fail(c,
                        "\"%.40s\" is not one of ls, verify, diff, convert, prune [hint: invar "
                        "ckpt ls FILE|DIR]",
                        c->arg[0]);
}
