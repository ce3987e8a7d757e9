/* ckpt.c: `invar ckpt ls`: the tensors (and with -v the metadata) of a checkpoint, or the
 * checkpoints of a folder.  The listing is printed only after the whole file has been verified. */
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

int iv__cli_ckpt(iv__cli *c)
{
    struct stat st;
    if (strcmp(c->arg[0], "ls") != 0)
        return iv__cli_fail(c, "\"%.40s\" is not one of ls [hint: invar ckpt ls FILE|DIR]",
                            c->arg[0]);
    if (stat(c->arg[1], &st) == 0 && S_ISDIR(st.st_mode)) return list_folder(c, c->arg[1]);
    return list_file(c, c->arg[1]);
}
