/* registry.c: the lists of plugins (see registry.h and plugin.h).
 *
 * Built-in plugins come from a table that the build writes (builtin.c); there are no constructors,
 * so static linking drops nothing.  Every candidate leaves a line for `invar plugins -v`. */
#include "registry.h"

#include "base.h"

#include <dirent.h>
#include <dlfcn.h>

extern const iv_plugin *const iv__builtin_plugins[]; /* NULL-terminated */

typedef struct entry {
    const iv_plugin *plugin;
    iv_plugin whole;   /* an older plugin with its table filled up */
    char name[64];     /* of the plugin, or the file for a refused library */
    char origin[512];  /* "built in" or the file */
    char refused[512]; /* why, or "" */
    char args[128];    /* the initialised instance */
    void *self;
    bool starting, ready;
} entry;

enum { MOST = 128 };
static entry entries[MOST]; /* the default registry: grows only, under one thread */
static int32_t n_entries;

static const char *host_env(const char *name)
{
    for (int32_t i = 0; i < IV__ENV_COUNT; ++i) {
        const char *help, *value;
        if (strcmp(iv_env_entry(i, &help, &value), name) == 0) return value;
    }
    return NULL;
}

static iv_status host_plugin(uint32_t kind, const char *spec, const void **out_vtable,
                             void **out_self)
{
    const iv_plugin *p;
    if (kind >= IV_PLUGIN_KIND_COUNT) IV_FAIL(IV_INVALID, "plugin '%s': unknown kind", spec);
    IV_TRY(iv__registry_get((iv_plugin_kind)kind, spec, &p, out_self));
    *out_vtable = p->vtable;
    return IV_OK;
}

#define HOST(variable)                                                                             \
    {                                                                                              \
        IV_PLUGIN_ABI, sizeof(iv_host), iv__fail, iv__log, host_env, variable, iv_error_message,   \
            host_plugin                                                                            \
    }
const iv_host iv__host = HOST(NULL);
/* Cluster and transport plugins may also read what launchers left in the environment. */
static const iv_host launched_host = HOST(iv__env_any);

static const char *const kind_names[IV_PLUGIN_KIND_COUNT] = {"backend", "precision", "checkpoint",
                                                             "cluster", "transport"};

const char *iv_plugin_kind_name(int32_t kind)
{
    return kind >= 0 && kind < IV_PLUGIN_KIND_COUNT ? kind_names[kind] : "unknown";
}

static entry *add_entry(const iv_plugin *p, const char *name, const char *origin)
{
    if (n_entries == MOST) return NULL;
    entry *e = &entries[n_entries++];
    *e = (entry){.plugin = p};
    snprintf(e->name, sizeof(e->name), "%s", name);
    snprintf(e->origin, sizeof(e->origin), "%s", origin);
    return e;
}

static void ensure_builtin(void)
{
    if (n_entries) return;
    for (int32_t i = 0; iv__builtin_plugins[i]; ++i)
        add_entry(iv__builtin_plugins[i], iv__builtin_plugins[i]->name, "built in");
}

/* Why this descriptor cannot be used, or NULL. */
static const char *check_descriptor(const iv_plugin *p, char *buf, size_t size)
{
    if (!p) return "invar_plugin() returned NULL";
    if (p->abi >> 16 != IV_PLUGIN_ABI >> 16) {
        snprintf(buf, size, "its plugin ABI is %u.%u, this host speaks %u.x", p->abi >> 16,
                 p->abi & 0xffffu, IV_PLUGIN_ABI >> 16);
        return buf;
    }
    if (p->size < sizeof(iv_plugin)) {
        snprintf(buf, size, "its descriptor has %u bytes, at least %zu are needed", p->size,
                 sizeof(iv_plugin));
        return buf;
    }
    if (p->kind >= IV_PLUGIN_KIND_COUNT) {
        snprintf(buf, size, "unknown kind %u", p->kind);
        return buf;
    }
    if (!p->name || !*p->name || !p->vtable) return "its descriptor lacks a name or a vtable";
    return NULL;
}

/* What the host calls: the plugin itself, or, where its table was compiled with fewer entries than
 * this host knows, a copy whose missing entries are NULL.  Lives as long as the process. */
static const iv_plugin *completed(const iv_plugin *p)
{
    static const size_t sizes[IV_PLUGIN_KIND_COUNT] = {
        [IV_PLUGIN_BACKEND] = sizeof(iv_backend),
        [IV_PLUGIN_PRECISION] = sizeof(iv_precision),
        [IV_PLUGIN_CHECKPOINT] = sizeof(iv_checkpoint),
        [IV_PLUGIN_CLUSTER] = sizeof(iv_cluster),
        [IV_PLUGIN_TRANSPORT] = sizeof(iv_transport),
    };
    if (p->vtable_size >= sizes[p->kind]) return p;
    iv_plugin *copy = calloc(1, sizeof(*copy) + sizes[p->kind]);
    if (!copy) return NULL;
    *copy = *p;
    copy->vtable = memcpy(copy + 1, p->vtable, p->vtable_size);
    return copy;
}

static iv_status load_library(const char *path)
{
    ensure_builtin();
    for (int32_t i = 0; i < n_entries; ++i)
        if (strcmp(entries[i].origin, path) == 0)
            return entries[i].refused[0]
                       ? iv__fail(IV_UNAVAILABLE, "loading plugin %s: %s", path, entries[i].refused)
                       : IV_OK;
    char buf[256];
    const char *why = NULL;
    const iv_plugin *p = NULL;
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) why = dlerror();
    if (lib) {
        const iv_plugin *(*get)(void);
        void *symbol = dlsym(lib, "invar_plugin");
        memcpy(&get, &symbol, sizeof(get));
        if (!symbol) why = "it does not export invar_plugin()";
        else why = check_descriptor(p = get(), buf, sizeof(buf));
        if (symbol && !why && !(p = completed(p))) why = "no memory for its table";
    }
    entry *e = add_entry(why ? NULL : p, why ? path : p->name, path);
    if (!e) IV_FAIL(IV_UNSUPPORTED, "loading plugin %s: more than %d plugins", path, MOST);
    if (!why) return IV_OK;
    snprintf(e->refused, sizeof(e->refused), "%s", why);
    IV_FAIL(IV_UNAVAILABLE, "loading plugin %s: %s", path, e->refused);
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

/* All *.so of a folder; refused ones stay listed. */
static void load_folder(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d) {
        iv__log(IV_LOG_WARN, "INVAR_PLUGIN_PATH: cannot read folder %s", folder);
        return;
    }
    for (struct dirent *f; (f = readdir(d));) {
        char path[512];
        if (!ends_with(f->d_name, ".so") ||
            snprintf(path, sizeof(path), "%s/%s", folder, f->d_name) >= (int)sizeof(path))
            continue;
        if (load_library(path) != IV_OK) iv__log(IV_LOG_WARN, "%s", iv_error_message());
    }
    closedir(d);
}

static void load_path_once(void)
{
    static bool done;
    const char *path = iv__env(IV__ENV_PLUGINS);
    if (done) return;
    done = true;
    while (path && *path) {
        char folder[512];
        size_t n = strcspn(path, ":");
        if (n > 0 && n < sizeof(folder)) {
            memcpy(folder, path, n);
            folder[n] = 0;
            load_folder(folder);
        }
        path += n + (path[n] == ':');
    }
}

iv_status iv__registry_load(const char *list)
{
    ensure_builtin();
    load_path_once();
    while (list && *list) {
        char item[512];
        size_t n = strcspn(list, ",");
        if (n >= sizeof(item)) IV_FAIL(IV_INVALID, "plugins: an entry of %zu characters", n);
        memcpy(item, list, n);
        item[n] = 0;
        if (strchr(item, '/') || ends_with(item, ".so")) IV_TRY(load_library(item));
        list += n + (list[n] == ',');
    }
    return IV_OK;
}

static iv_status not_found(iv_plugin_kind kind, const char *name)
{
    const char *names[MOST];
    int64_t n = 0;
    for (int32_t i = 0; i < n_entries; ++i)
        if (entries[i].plugin && entries[i].plugin->kind == kind) names[n++] = entries[i].name;
    const char *near = iv__nearest(name, names, n);
    IV_FAIL(IV_INVALID, "no %s plugin is named '%s'%s%s%s [hint: `invar plugins` lists them]",
            kind_names[kind], name, near ? "; nearest: '" : "", near ? near : "", near ? "'" : "");
}

static iv_status start(entry *e, const char *args, const iv_plugin **out, void **out_self)
{
    if (e->ready && strcmp(e->args, args) != 0)
        IV_FAIL(IV_INVALID, "plugin %s: used with '%s' and with '%s'", e->name, e->args, args);
    if (e->starting) IV_FAIL(IV_INVALID, "plugin %s(%s): it wraps itself", e->name, args);
    if (!e->ready && e->plugin->init) {
        const bool launched =
            e->plugin->kind == IV_PLUGIN_CLUSTER || e->plugin->kind == IV_PLUGIN_TRANSPORT;
        e->starting = true;
        iv_status s = e->plugin->init(launched ? &launched_host : &iv__host, args, &e->self);
        e->starting = false;
        if (s != IV_OK) {
            snprintf(e->refused, sizeof(e->refused), "%s", iv_error_message());
            return iv__context(s, "starting plugin %s", e->name);
        }
    }
    e->ready = true;
    e->refused[0] = 0;
    snprintf(e->args, sizeof(e->args), "%s", args);
    *out = e->plugin;
    *out_self = e->self;
    return IV_OK;
}

iv_status iv__registry_get(iv_plugin_kind kind, const char *spec, const iv_plugin **out,
                           void **out_self)
{
    ensure_builtin();
    load_path_once();
    char name[64], args[128] = "";
    const char *open = strchr(spec, '(');
    size_t n = open ? (size_t)(open - spec) : strlen(spec);
    if (n >= sizeof(name) || (open && (!ends_with(spec, ")") || strlen(open) >= sizeof(args))))
        IV_FAIL(IV_INVALID, "plugin '%s': write it as name or name(arguments)", spec);
    memcpy(name, spec, n);
    name[n] = 0;
    if (open) {
        memcpy(args, open + 1, strlen(open) - 2);
        args[strlen(open) - 2] = 0;
    }
    /* The last one loaded wins, so that a library can replace a built-in plugin. */
    for (int32_t i = n_entries - 1; i >= 0; --i)
        if (entries[i].plugin && entries[i].plugin->kind == kind &&
            strcmp(entries[i].name, name) == 0)
            return start(&entries[i], args, out, out_self);
    return not_found(kind, name);
}

const char *iv__registry_name(iv_plugin_kind kind, int32_t i)
{
    ensure_builtin();
    load_path_once();
    for (int32_t k = 0; k < n_entries; ++k)
        if (entries[k].plugin && entries[k].plugin->kind == kind && i-- == 0)
            return entries[k].name;
    return NULL;
}

/* How sure the format of entry e is to be that of `path`; 0 also if it cannot be started. */
static int surety(entry *e, const char *path)
{
    const iv_checkpoint *vt = e->plugin->vtable;
    const iv_plugin *p;
    void *self;
    if (!vt->detect || (!e->ready && start(e, "", &p, &self) != IV_OK)) return 0;
    return vt->detect(e->self, path);
}

iv_status iv__registry_detect(const char *path, const void *preferred, const iv_plugin **out,
                              void **out_self)
{
    ensure_builtin();
    load_path_once();
    const entry *best = NULL;
    int best_sure = 0;
    for (int32_t i = 0; i < n_entries; ++i) {
        entry *e = &entries[i];
        if (!e->plugin || e->plugin->kind != IV_PLUGIN_CHECKPOINT) continue;
        const bool mine = preferred && e->plugin->vtable == preferred;
        const int sure = surety(e, path);
        if (sure > best_sure || (mine && sure >= best_sure)) {
            best = e;
            best_sure = sure;
        }
    }
    /* Nobody knows it: safetensors says in its words what is wrong. */
    if (!best) return iv__registry_get(IV_PLUGIN_CHECKPOINT, "safetensors", out, out_self);
    *out = best->plugin;
    *out_self = best->self;
    return IV_OK;
}

iv_status iv_plugins_load(const char *list)
{
    return iv__registry_load(list);
}

bool iv_plugin_entry(int32_t i, iv_plugin_info *out)
{
    ensure_builtin();
    load_path_once();
    if (i < 0 || i >= n_entries) return false;
    const entry *e = &entries[i];
    *out = (iv_plugin_info){.kind = e->plugin ? kind_names[e->plugin->kind] : "library",
                            .name = e->name,
                            .version = e->plugin && e->plugin->version ? e->plugin->version : "",
                            .summary = e->plugin && e->plugin->summary ? e->plugin->summary : "",
                            .origin = e->origin,
                            .refused = e->refused};
    return true;
}
