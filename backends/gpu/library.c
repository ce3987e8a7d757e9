/* library.c: vendors' libraries, opened at run time (see gpu.h).  They stay open, since the threads
 * that they start outlive us. */
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { LATEST = 20 }; /* major version that is looked for */

static void *open_one(gpu_library *lib, const char *name, int major, char *why, size_t size)
{
    const size_t n = strlen(name);
    const bool numbered = n > 0 && name[n - 1] == '.';
    if (numbered) snprintf(lib->path, sizeof(lib->path), "%s%d", name, major);
    else snprintf(lib->path, sizeof(lib->path), "%s", name);
    void *handle = dlopen(lib->path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) snprintf(why, size, "%s", dlerror());
    return handle;
}

static iv_status open_any(const iv_host *host, gpu_library *lib)
{
    const char *named = host->env(lib->env), *const only[] = {named, NULL};
    const int last = lib->least / 100, first = lib->most ? lib->most / 100 : LATEST;
    char why[512] = "no name to look for";
    lib->handle = NULL;
    for (int major = named ? last : first; major >= last && !lib->handle; --major)
        for (const char *const *n = named ? only : lib->names; *n && !lib->handle; ++n)
            lib->handle = open_one(lib, *n, major, why, sizeof(why));
    if (lib->handle) return IV_OK;
    return host->fail(IV_UNAVAILABLE, "opening %s: %s [hint: %s, or set %s]", lib->what, why,
                      lib->hint, lib->env);
}

/* The functions that tell the version, or the others. */
static iv_status find(const iv_host *host, const gpu_library *lib, bool version)
{
    for (const gpu_symbol *s = lib->symbols; s->name; ++s) {
        if ((s->need == 'V') != version) continue;
        *s->at = dlsym(lib->handle, s->name);
        if (!*s->at && s->need != 'O')
            return host->fail(IV_UNAVAILABLE,
                              "opening %s %s: it has no function %s [hint: update it]", lib->what,
                              lib->path, s->name);
    }
    return IV_OK;
}

static iv_status check_version(const iv_host *host, gpu_library *lib)
{
    const int v = lib->version = lib->tell ? lib->tell() : lib->least;
    if (v < lib->least)
        return host->fail(IV_UNAVAILABLE,
                          "opening %s %s: it is of %s %d.%d, need %d.%d or later [hint: %s]",
                          lib->what, lib->path, lib->product, v / 100, v % 100, lib->least / 100,
                          lib->least % 100, lib->hint);
    if (lib->most && v > lib->most)
        return host->fail(
            IV_UNAVAILABLE,
            "opening %s %s: it is of %s %d.%d, and the driver of %d [hint: update the "
            "driver, or name an older one by %s]",
            lib->what, lib->path, lib->product, v / 100, v % 100, lib->most / 100, lib->env);
    return IV_OK;
}

/* A library finds its driver among those that it is linked to, or, if it opens it itself, by the
 * first of the driver's names.  Where that is not the driver in use, it would be handed streams and
 * memory of a driver that it does not know, and crash. */
static bool on_driver(const gpu_library *lib, const gpu_library *driver)
{
    const gpu_symbol *known = driver->symbols;
    if (dlsym(lib->handle, known->name) == *known->at) return true;
    void *theirs = dlopen(driver->names[0], RTLD_LAZY | RTLD_NOLOAD);
    const bool same = theirs && dlsym(theirs, known->name) == *known->at;
    if (theirs) dlclose(theirs);
    return same;
}

/* driver: the one that it must work on; NULL: any. */
static iv_status open_on(const iv_host *host, gpu_library *lib, const gpu_library *driver)
{
    iv_status s = open_any(host, lib);
    if (s == IV_OK) s = find(host, lib, true);
    if (s == IV_OK && driver && !on_driver(lib, driver))
        s = host->fail(IV_UNAVAILABLE,
                       "opening %s %s: it works on another driver than %s [hint: name one of "
                       "this driver by %s]",
                       lib->what, lib->path, driver->path, lib->env);
    if (s == IV_OK) s = check_version(host, lib);
    if (s == IV_OK) s = find(host, lib, false);
    return s;
}

iv_status iv__gpu_library_open(const iv_host *host, gpu_library *lib)
{
    return open_on(host, lib, NULL);
}

iv_status iv__gpu_library_join(const iv_host *host, gpu_library *lib, const gpu_library *driver)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    iv_status s = IV_OK;
    pthread_mutex_lock(&lock);
    if (!lib->version) {
        /* One that counts as its driver does must not be of a later major version. */
        if (strcmp(lib->product, driver->product) == 0)
            lib->most = driver->version / 100 * 100 + 99;
        s = open_on(host, lib, driver);
        if (s != IV_OK) lib->version = 0;
    }
    pthread_mutex_unlock(&lock);
    return s;
}
