/* library.c: vendors' libraries, opened at run time (see gpu.h).  They stay open, since the threads
 * that they start outlive us. */
#include "gpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

iv_status iv__gpu_library_open(gpu_library *lib, const char *const *names, const char *hint)
{
    const char *named = lib->host->env(lib->env), *const only[] = {named, NULL};
    char why[512] = "no name to look for";
    for (const char *const *n = named ? only : names; *n && !lib->handle; ++n) {
        lib->handle = dlopen(*n, RTLD_NOW | RTLD_LOCAL);
        snprintf(lib->path, sizeof(lib->path), "%s", *n);
        if (!lib->handle) snprintf(why, sizeof(why), "%s", dlerror());
    }
    if (lib->handle) return IV_OK;
    return lib->host->fail(IV_UNAVAILABLE, "opening %s: %s [hint: %s, or set %s]", lib->what, why,
                           hint, lib->env);
}

iv_status iv__gpu_library_find(const gpu_library *lib, const gpu_symbol *list)
{
    for (const gpu_symbol *s = list; s->name; ++s) {
        *s->at = dlsym(lib->handle, s->name);
        if (!*s->at && !s->optional)
            return lib->host->fail(IV_UNAVAILABLE,
                                   "opening %s %s: it has no function %s [hint: update it]",
                                   lib->what, lib->path, s->name);
    }
    return IV_OK;
}

iv_status iv__gpu_library_once(const iv_host *host, const char *what, const char *env,
                               const char *const *names, const gpu_symbol *list)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    gpu_library lib = {.host = host, .what = what, .env = env};
    iv_status s = IV_OK;
    pthread_mutex_lock(&lock);
    if (!*list->at) {
        s = iv__gpu_library_open(&lib, names, "install it");
        if (s == IV_OK) s = iv__gpu_library_find(&lib, list);
        if (s != IV_OK) *list->at = NULL;
    }
    pthread_mutex_unlock(&lock);
    return s;
}
