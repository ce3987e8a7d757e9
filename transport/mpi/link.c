/* link.c: the transport over MPI: a library of its own, one for each MPI (see transport/mpi.c).
 *
 * A set of messages is a row of non-blocking receives and sends on a communicator of our own, whose
 * ranks are those of iv_ranks whatever MPI's are.  Messages of one pair match in the order in which
 * they were started, which MPI promises for one tag.  Requests live in a ring, oldest first:
 *
 *   first ─► [set 7][set 7][set 8][set 9][set 9] ◄─ end        finished sets leave at the front
 *
 * A wait is over when nothing has arrived for the time limit; what is then still open names the
 * rank, since survivors finish with each other.  MPI with fault tolerance (ULFM) tells at once.
 *
 * Open MPI's components look for libmpi among the global symbols, while a plugin and what it needs
 * are opened as local ones: libmpi is opened once more, as global. */
#include "runtime/plugin.h"

#include <dlfcn.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(OPEN_MPI) && defined(OMPI_HAVE_MPI_EXT)
#include <mpi-ext.h>
#endif

enum { TAG = 1, PIECE = 1 << 30, POOL = 1 << 16 };

static const iv_host *host;

typedef struct mpi_link {
    iv_ranks ranks;
    MPI_Comm comm;
    int64_t timeout_ns;
    /* Rings of POOL entries; positions are not wrapped. */
    MPI_Request *request;
    int32_t *peer;
    uint64_t *ticket;
    uint64_t first, end, next_ticket;
    int *index; /* [POOL] scratch of MPI_Testsome */
    MPI_Status *status;
    int32_t lost;
} mpi_link;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static iv_status failed(const char *what, int code)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    MPI_Error_string(code, text, &n);
    return host->fail(IV_VENDOR, "transport mpi: %s: %s (MPI error %d)", what, text, code);
}

/* ---- start and end of MPI itself ---- */

static bool broken; /* a rank was lost: MPI_Finalize would wait for it */

static void finalize(void)
{
    int finalized = 0;
    if (!broken && MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized) MPI_Finalize();
}

static iv_status start_mpi(void)
{
    int running = 0, over = 0, level;
    Dl_info lib;
    MPI_Finalized(&over);
    if (over) return host->fail(IV_UNAVAILABLE, "transport mpi: MPI has ended in this process");
    MPI_Initialized(&running);
    if (running) return IV_OK;
    int (*function)(int *, char ***) = MPI_Init;
    void *address;
    memcpy(&address, &function, sizeof(address));
    if (dladdr(address, &lib) && lib.dli_fname)
        (void)dlopen(lib.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    const int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    if (code != MPI_SUCCESS) return failed("starting MPI", code);
    if (atexit(finalize) != 0) host->log(IV_LOG_WARN, "transport mpi: MPI will not be ended");
    return IV_OK;
}

/* ---- meeting ---- */

/* Each of 0 .. world-1 is there once and means the same world.  theirs: rank and world of each of
 * MPI's n processes. */
static iv_status census(const iv_ranks *r, const int32_t *theirs, int n)
{
    for (int i = 0; i < n; ++i)
        if (theirs[2 * i + 1] != r->world)
            return host->fail(
                IV_INVALID, "transport mpi: MPI's process %d has rank %d of %d, this one %d of %d",
                i, theirs[2 * i], theirs[2 * i + 1], r->rank, r->world);
    char missing[256] = "", twice[256] = "";
    for (int32_t rank = 0; rank < r->world; ++rank) {
        int seen = 0;
        for (int i = 0; i < n; ++i) seen += theirs[2 * i] == rank;
        char *text = seen == 0 ? missing : twice;
        const size_t at = strlen(text);
        if (seen != 1) snprintf(text + at, sizeof(missing) - at, "%s%d", at ? ", " : "", rank);
    }
    if (*missing || *twice || n != r->world)
        return host->fail(IV_INVALID,
                          "transport mpi: %d processes for %d ranks; missing: %s; twice: %s", n,
                          r->world, *missing ? missing : "none", *twice ? twice : "none");
    return IV_OK;
}

/* The processes that are left: all, or after a loss those that MPI can still reach. */
static iv_status survivors(MPI_Comm *out)
{
#ifdef MPIX_ERR_PROC_FAILED
    if (broken) {
        const int code = MPIX_Comm_shrink(MPI_COMM_WORLD, out);
        return code == MPI_SUCCESS ? IV_OK : failed("leaving lost ranks out", code);
    }
#endif
    if (broken)
        return host->fail(IV_UNAVAILABLE, "transport mpi: this MPI cannot go on without the rank "
                                          "that was lost");
    const int code = MPI_Comm_dup(MPI_COMM_WORLD, out);
    return code == MPI_SUCCESS ? IV_OK : failed("copying the communicator", code);
}

static iv_status meet(mpi_link *l)
{
    MPI_Comm all = MPI_COMM_NULL;
    int n = 0;
    const iv_ranks *r = &l->ranks;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    iv_status s = survivors(&all);
    if (s != IV_OK) return s;
    MPI_Comm_set_errhandler(all, MPI_ERRORS_RETURN);
    MPI_Comm_size(all, &n);
    const int32_t mine[2] = {r->rank, r->world};
    int32_t *theirs = calloc((size_t)n, 2 * sizeof(*theirs));
    if (!theirs) {
        MPI_Comm_free(&all);
        return host->fail(IV_NO_MEMORY, "transport mpi: meeting %d ranks", n);
    }
    int code = MPI_Allgather(mine, 2, MPI_INT32_T, theirs, 2, MPI_INT32_T, all);
    s = code == MPI_SUCCESS ? census(r, theirs, n) : failed("meeting", code);
    free(theirs);
    if (s == IV_OK) {
        code = MPI_Comm_split(all, 0, r->rank, &l->comm);
        if (code != MPI_SUCCESS) s = failed("ordering the ranks", code);
    }
    if (s == IV_OK) MPI_Comm_set_errhandler(l->comm, MPI_ERRORS_RETURN);
    MPI_Comm_free(&all);
    return s;
}

static void free_link(mpi_link *l)
{
    free(l->request);
    free(l->peer);
    free(l->ticket);
    free(l->index);
    free(l->status);
    free(l);
}

static iv_status mpi_open(void *self, const iv_ranks *r, int64_t timeout_ns, void **out_link)
{
    (void)self;
    mpi_link *l = calloc(1, sizeof(*l));
    if (!l) return host->fail(IV_NO_MEMORY, "opening the transport mpi");
    *l = (mpi_link){.ranks = *r, .comm = MPI_COMM_NULL, .timeout_ns = timeout_ns, .lost = -1};
    l->request = calloc(POOL, sizeof(*l->request));
    l->peer = calloc(POOL, sizeof(*l->peer));
    l->ticket = calloc(POOL, sizeof(*l->ticket));
    l->index = calloc(POOL, sizeof(*l->index));
    l->status = calloc(POOL, sizeof(*l->status));
    iv_status s = l->request && l->peer && l->ticket && l->index && l->status
                      ? IV_OK
                      : host->fail(IV_NO_MEMORY, "opening the transport mpi");
    if (s == IV_OK) s = start_mpi();
    if (s == IV_OK) s = meet(l);
    if (s != IV_OK) {
        free_link(l);
        return s;
    }
    *out_link = l;
    return IV_OK;
}

/* All ranks close together, or not at all: then MPI is left as it is. */
static void mpi_close(void *link)
{
    mpi_link *l = link;
    MPI_Request all_here;
    int done = l->lost >= 0;
    if (!done && MPI_Ibarrier(l->comm, &all_here) == MPI_SUCCESS) {
        const int64_t limit = now_ns() + l->timeout_ns;
        while (!done && now_ns() < limit) {
            if (MPI_Test(&all_here, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
            if (!done) sched_yield();
        }
        if (done) MPI_Comm_free(&l->comm);
        else broken = true;
    } else {
        broken = true;
    }
    free_link(l);
}

/* ---- messages ---- */

static iv_status post(mpi_link *l, const iv_message *m)
{
    for (int64_t at = 0; at < m->bytes; at += PIECE) {
        const int count = (int)(m->bytes - at < PIECE ? m->bytes - at : PIECE);
        char *data = (char *)m->data + at;
        if (l->end - l->first == POOL)
            return host->fail(IV_INTERNAL, "transport mpi: more than %d messages under way", POOL);
        MPI_Request *r = &l->request[l->end % POOL];
        const int code = m->outgoing ? MPI_Isend(data, count, MPI_BYTE, m->peer, TAG, l->comm, r)
                                     : MPI_Irecv(data, count, MPI_BYTE, m->peer, TAG, l->comm, r);
        if (code != MPI_SUCCESS) {
            l->lost = m->peer;
            broken = true;
            (void)failed("starting a message", code);
            return host->fail(IV_LOST, "rank %d is lost: MPI could not start a message", m->peer);
        }
        l->peer[l->end % POOL] = m->peer;
        l->ticket[l->end % POOL] = l->next_ticket;
        ++l->end;
    }
    return IV_OK;
}

/* What is complete at the front leaves the ring. */
static void advance(mpi_link *l)
{
    while (l->first != l->end && l->request[l->first % POOL] == MPI_REQUEST_NULL) ++l->first;
}

static iv_status lose(mpi_link *l, int32_t rank, const char *how)
{
    l->lost = rank;
    broken = true;
    return host->fail(IV_LOST, "rank %d is lost: %s", rank, how);
}

/* Looks once at the requests before `until`; *out_n of them have ended. */
static iv_status poll_once(mpi_link *l, uint64_t until, int *out_n)
{
    *out_n = 0;
    for (uint64_t at = l->first; at != until;) {
        /* A part of the ring that does not wrap. */
        const uint64_t begin = at % POOL, n = POOL - begin < until - at ? POOL - begin : until - at;
        int done = 0;
        const int code = MPI_Testsome((int)n, l->request + begin, &done, l->index, l->status);
        if (code != MPI_SUCCESS) {
            for (int i = 0; code == MPI_ERR_IN_STATUS && i < done; ++i)
                if (l->status[i].MPI_ERROR != MPI_SUCCESS)
                    return lose(l, l->peer[begin + (uint64_t)l->index[i]],
                                "MPI tells that it failed");
            return lose(l, l->peer[begin], "MPI tells that a message failed");
        }
        if (done != MPI_UNDEFINED) *out_n += done;
        at += n;
    }
    advance(l);
    return IV_OK;
}

static iv_status mpi_start(void *link, const iv_message *m, int32_t n, uint64_t *out_ticket)
{
    mpi_link *l = link;
    int ended;
    if (l->lost >= 0) return lose(l, l->lost, "it was before");
    ++l->next_ticket;
    for (int32_t pass = 0; pass < 2; ++pass) /* receives first: nothing arrives unexpected */
        for (int32_t i = 0; i < n; ++i)
            if (m[i].outgoing == pass) {
                iv_status s = post(l, &m[i]);
                if (s != IV_OK) return s;
            }
    *out_ticket = l->next_ticket;
    return poll_once(l, l->end, &ended); /* earlier sets get on */
}

static iv_status mpi_finish(void *link, uint64_t ticket, int64_t timeout_ns, int32_t *out_rank)
{
    mpi_link *l = link;
    if (l->lost >= 0) {
        *out_rank = l->lost;
        return lose(l, l->lost, "it was before");
    }
    int64_t limit = now_ns() + timeout_ns;
    for (;;) {
        int ended;
        iv_status s = poll_once(l, l->end, &ended);
        if (s != IV_OK) {
            *out_rank = l->lost;
            return s;
        }
        if (l->first == l->end || l->ticket[l->first % POOL] > ticket) return IV_OK;
        const int64_t now = now_ns();
        if (ended > 0) limit = now + timeout_ns;
        if (now > limit) {
            *out_rank = l->peer[l->first % POOL];
            return lose(l, *out_rank, "nothing came from it within the time limit");
        }
        if (ended == 0) sched_yield();
    }
}

static int mpi_usable(void *self, const iv_ranks *r, char *why, size_t why_size)
{
    (void)self, (void)r;
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    MPI_Get_library_version(version, &n);
    version[strcspn(version, ",\n")] = 0;
    snprintf(why, why_size, "%.100s", version);
    return 50;
}

static iv_status mpi_init(const iv_host *h, const char *args, void **out_self)
{
    if (*args) return h->fail(IV_INVALID, "transport mpi takes no arguments, got '%s'", args);
    host = h;
    *out_self = NULL;
    return IV_OK;
}

static const iv_transport table = {mpi_usable, mpi_open, mpi_close, mpi_start, mpi_finish, NULL};
static const iv_plugin plugin = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_TRANSPORT,
    .vtable_size = sizeof(iv_transport),
    .name = "mpi",
    .version = "1",
    .summary = "messages over MPI",
    .vtable = &table,
    .init = mpi_init,
};

__attribute__((visibility("default"))) const iv_plugin *invar_plugin(void);
const iv_plugin *invar_plugin(void)
{
    return &plugin;
}
