/* cache.c: compiled programs on disk (see common.h).
 *
 *   <folder>/<kind>-<key>.bin:   "IVCC0001" | key 16 | XXH3-128 of the bytes 16 | length 8 | bytes
 *
 * The key is a hash of everything that goes into the compiler and of the compiler's name and
 * version, so an entry is never wrong, only damaged: then it is made again.  Files
 * appear whole, by renaming.  A cache that cannot be written only costs time; a line in the debug
 * log says so. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

typedef struct entry_head {
    char magic[8];
    uint64_t key[2], sum[2], size;
} entry_head;

static void path_of(const iv__cache *c, const uint64_t key[2], char *out, size_t size)
{
    snprintf(out, size, "%s/%s-%016llx%016llx.bin", c->folder, c->kind, (unsigned long long)key[0],
             (unsigned long long)key[1]);
}

static void fill_head(entry_head *h, const uint64_t key[2], const void *bytes, size_t size)
{
    const XXH128_hash_t sum = XXH3_128bits(bytes, size);
    *h = (entry_head){.magic = {'I', 'V', 'C', 'C', '0', '0', '0', '1'},
                      .key = {key[0], key[1]},
                      .sum = {sum.low64, sum.high64},
                      .size = size};
}

iv__cache_named iv__cache_choose(const iv_host *h, const char *option, char *folder, size_t size)
{
    const char *named = option ? option : h->env("INVAR_CACHE_DIR"), *home = h->env("HOME");
    *folder = 0;
    if (named) snprintf(folder, size, "%s", named);
    else if (home) snprintf(folder, size, "%s/.cache/invar", home);
    return named ? IV__CACHE_NAMED : IV__CACHE_DEFAULT;
}

/* The bytes behind the head, or NULL. */
static void *read_entry(FILE *f, const uint64_t key[2], size_t *out_size)
{
    entry_head have, want;
    struct stat st;
    if (fread(&have, sizeof(have), 1, f) != 1 || fstat(fileno(f), &st) != 0) return NULL;
    if (have.size == 0 || have.size != (uint64_t)st.st_size - sizeof(have)) return NULL;
    void *bytes = malloc(have.size);
    if (bytes && fread(bytes, have.size, 1, f) == 1) {
        fill_head(&want, key, bytes, have.size);
        if (memcmp(&have, &want, sizeof(have)) == 0) {
            *out_size = have.size;
            return bytes;
        }
    }
    free(bytes);
    return NULL;
}

void iv__cache_load(const iv__cache *c, const uint64_t key[2], void **out_bytes, size_t *out_size)
{
    char path[640];
    *out_bytes = NULL;
    if (!*c->folder) return;
    path_of(c, key, path, sizeof(path));
    FILE *f = fopen(path, "rb");
    if (!f) return;
    *out_bytes = read_entry(f, key, out_size);
    fclose(f);
    if (!*out_bytes) c->host->log(IV_LOG_DEBUG, "compiled program %s is damaged: made again", path);
}

/* The folder with its parents. */
static bool make_folder(const char *folder)
{
    char path[512];
    snprintf(path, sizeof(path), "%s", folder);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST) return false;
        *slash = '/';
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static bool write_entry(const char *path, const entry_head *h, const void *bytes)
{
    char part[680];
    snprintf(part, sizeof(part), "%s.XXXXXX", path);
    const int fd = mkstemp(part);
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!f) {
        if (fd >= 0) close(fd);
        return false;
    }
    bool good = fwrite(h, sizeof(*h), 1, f) == 1 && fwrite(bytes, h->size, 1, f) == 1;
    good = fclose(f) == 0 && good;
    good = good && rename(part, path) == 0;
    if (!good) unlink(part);
    return good;
}

void iv__cache_store(const iv__cache *c, const uint64_t key[2], const void *bytes, size_t size)
{
    char path[640];
    entry_head h;
    if (!*c->folder || size == 0) return;
    path_of(c, key, path, sizeof(path));
    fill_head(&h, key, bytes, size);
    if (!make_folder(c->folder) || !write_entry(path, &h, bytes))
        c->host->log(IV_LOG_DEBUG, "keeping a compiled program as %s: %s", path, strerror(errno));
}
