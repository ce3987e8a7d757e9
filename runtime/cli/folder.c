/* folder.c: the checkpoints of a run folder: step-<number>, with or without an ending: a file, or a
 * folder with a manifest. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The step in a checkpoint's file name, or -1. */
static int64_t step_of(const char *name)
{
    enum { MOST_DIGITS = 18 };
    if (strncmp(name, "step-", 5) != 0) return -1;
    const size_t n = strspn(name + 5, "0123456789");
    const char *end = name + 5 + n;
    if (n == 0 || n > MOST_DIGITS || (*end && *end != '.') || strstr(end, ".tmp")) return -1;
    return strtoll(name + 5, NULL, 10);
}

static int by_step(const void *a, const void *b)
{
    const iv__cli_file *x = a, *y = b;
    return (x->step > y->step) - (x->step < y->step);
}

/* Bytes of the files in a folder. */
static int64_t bytes_in(const char *path)
{
    int64_t bytes = 0;
    DIR *d = opendir(path);
    struct stat st;
    for (const struct dirent *e; d && (e = readdir(d));)
        if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) bytes += st.st_size;
    if (d) closedir(d);
    return bytes;
}

/* Whether a folder is a checkpoint that several ranks wrote, and complete. */
bool iv__cli_is_sharded(const char *path)
{
    char manifest[1100];
    const int n = snprintf(manifest, sizeof(manifest), "%s/manifest.safetensors", path);
    return n < (int)sizeof(manifest) && access(manifest, F_OK) == 0;
}

/* Adds dir/name if it is a checkpoint; false without memory. */
static bool add_file(const char *dir, const char *name, iv__cli_file **files, int64_t *n,
                     int64_t *cap)
{
    struct stat st;
    iv__cli_file file = {.step = step_of(name)};
    const int length = snprintf(file.path, sizeof(file.path), "%s/%s", dir, name);
    if (file.step < 0 || length >= (int)sizeof(file.path)) return true;
    if (stat(file.path, &st) != 0) return true;
    if (S_ISREG(st.st_mode)) file.bytes = st.st_size;
    else if (S_ISDIR(st.st_mode) && iv__cli_is_sharded(file.path)) file.bytes = bytes_in(file.path);
    else return true;
    if (*n == *cap) {
        const int64_t more = *cap ? 2 * *cap : 16;
        iv__cli_file *grown = realloc(*files, (size_t)more * sizeof(**files));
        if (!grown) return false;
        *files = grown;
        *cap = more;
    }
    (*files)[(*n)++] = file;
    return true;
}

int iv__cli_folder(const iv__cli *c, const char *dir, iv__cli_file **out, int64_t *out_n)
{
    char inner[1024];
    iv__cli_file *files = NULL;
    int64_t n = 0, cap = 0;
    bool fits = true;
    const int length = snprintf(inner, sizeof(inner), "%s/checkpoints", dir);
    DIR *d = length < (int)sizeof(inner) ? opendir(inner) : NULL;
    if (d) dir = inner;
    else d = opendir(dir);
    if (!d) return iv__cli_fail(c, "reading folder %s: %s", dir, strerror(errno));
    for (const struct dirent *e; fits && (e = readdir(d));)
        fits = add_file(dir, e->d_name, &files, &n, &cap);
    closedir(d);
    if (!fits) {
        free(files);
        return iv__cli_fail(c, "reading folder %s: out of memory", dir);
    }
    if (n > 1) qsort(files, (size_t)n, sizeof(*files), by_step);
    *out = files;
    *out_n = n;
    return 0;
}
