/* mpi.c: the transport over MPI, as far as it can be had without MPI: which library to open.
 *
 * Nothing of Invar links MPI.  The transport proper is transport/mpi/link.c, built once for each
 * MPI that the build found (invar-mpi-openmpi.so, invar-mpi-mpich.so; their handles differ) and
 * opened here when ranks meet that an MPI launcher has started: the variables tell whose. */
#include "runtime/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const iv_host *host; /* set once by init */

/* The library that was opened, and what it gave. */
static struct {
    char why[1024]; /* why there is none, or "" */
    const iv_transport *vt;
    void *self;
} inner;

static iv_status init(const iv_host *h, const char *args, void **out_self)
{
    if (*args) return h->fail(IV_INVALID, "transport mpi takes no arguments, got '%s'", args);
    host = h;
    *out_self = NULL;
    return IV_OK;
}

/* Which MPI started this process, by a variable that it leaves; NULL: none did.  srun can stand in
 * for a launcher of either kind. */
static const char *flavour(const char **out_seen)
{
    static const char *const rows[][2] = {{"OMPI_COMM_WORLD_SIZE", "openmpi"},
                                          {"MPI_LOCALNRANKS", "mpich"},
                                          {"PMI_RANK", "mpich"},
                                          {"PMIX_RANK", "openmpi"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        if (host->variable(*out_seen = rows[i][0])) return rows[i][1];
    return NULL;
}

/* INVAR_MPI_LIB, or the file beside this library. */
static bool library_path(const char *which, char *out, size_t size)
{
    const char *given = host->env("INVAR_MPI_LIB");
    Dl_info self;
    if (given) return (size_t)snprintf(out, size, "%s", given) < size;
    if (!dladdr(&host, &self) || !self.dli_fname) return false;
    const char *slash = strrchr(self.dli_fname, '/');
    const int folder = slash ? (int)(slash - self.dli_fname) : 1;
    return (size_t)snprintf(out, size, "%.*s/invar-plugins/invar-mpi-%s.so", folder,
                            slash ? self.dli_fname : ".", which) < size;
}

static const char *open_library(const char *which)
{
    char path[1024];
    const iv_plugin *(*get)(void);
    if (!library_path(which, path, sizeof(path))) return "its path is too long";
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) return dlerror();
    void *symbol = dlsym(lib, "invar_plugin");
    if (!symbol) return "it does not export invar_plugin()";
    memcpy(&get, &symbol, sizeof(get));
    const iv_plugin *p = get();
    if (!p || p->abi >> 16 != IV_PLUGIN_ABI >> 16 || p->kind != IV_PLUGIN_TRANSPORT)
        return "it is not a transport for this plugin ABI";
    if (p->init && p->init(host, "", &inner.self) != IV_OK) return "its init failed";
    inner.vt = p->vtable;
    return NULL;
}

static bool is_open(const char *which)
{
    if (inner.vt) return true;
    if (!*inner.why) {
        const char *fault = open_library(which);
        if (fault) snprintf(inner.why, sizeof(inner.why), "invar-mpi-%s.so: %s", which, fault);
    }
    return inner.vt != NULL;
}

static int usable(void *self, const iv_ranks *r, char *why, size_t why_size)
{
    (void)self;
    const char *seen, *which = flavour(&seen);
    if (!which) {
        snprintf(why, why_size, "no MPI launcher's variables");
        return 0;
    }
    if (is_open(which)) return inner.vt->usable(inner.self, r, why, why_size);
    snprintf(why, why_size, "%s", inner.why);
    return 0;
}

static iv_status open(void *self, const iv_ranks *r, int64_t timeout_ns, void **out_link)
{
    (void)self;
    const char *seen, *which = flavour(&seen);
    if (!which)
        return host->fail(IV_UNAVAILABLE, "transport mpi: this process was not started by mpirun, "
                                          "mpiexec or srun --mpi");
    if (!is_open(which)) return host->fail(IV_UNAVAILABLE, "transport mpi: %s", inner.why);
    return inner.vt->open(inner.self, r, timeout_ns, out_link);
}

static void close(void *link)
{
    inner.vt->close(link);
}

static iv_status start(void *link, const iv_message *m, int32_t n, uint64_t *out_ticket)
{
    return inner.vt->start(link, m, n, out_ticket);
}

static iv_status finish(void *link, uint64_t ticket, int64_t timeout_ns, int32_t *out_rank)
{
    return inner.vt->finish(link, ticket, timeout_ns, out_rank);
}

static const iv_transport table = {usable, open, close, start, finish, NULL};
const iv_plugin iv__plugin_mpi = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_TRANSPORT,
    .vtable_size = sizeof(iv_transport),
    .name = "mpi",
    .version = "1",
    .summary = "messages over MPI, where an MPI launcher started the ranks",
    .vtable = &table,
    .init = init,
};
