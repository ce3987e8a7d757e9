/* tcp_again.c: how the ranks that are left find each other when one is lost.
 *
 * Everybody knows where everybody listens.  The lowest rank that answers is the host; the others
 * come to it in the order of their numbers: a dead process refuses, one that hangs does not
 * answer.  The host waits for all who are not known to be lost, asks those who have not come
 * whether their process is still there, and tells everybody who is left.
 *
 * Less than half of the ranks do not go on: they are the smaller part of a cut network, or a job
 * that has lost its ground.  Two halves both go on; their bits are the same. */
#include "tcp.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

static const uint64_t magic = 0x327074766e69ull;
enum { SHORT_NS = 1000000000, LOOK_NS = 50000000 };

uint64_t iv__tcp_job(const iv_ranks *r, int32_t meeting)
{
    uint64_t h = 0xcbf29ce484222325u ^ (uint64_t)(uint32_t)meeting;
    for (const char *s = r->job; *s; ++s) h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    return h * 0x100000001b3u;
}

/* Reads a hello of this meeting; -1: somebody else's knock, and the connection is closed. */
static int32_t greet(const iv_ranks *r, int32_t meeting, int fd)
{
    iv__tcp_hello h;
    if (iv__tcp_read(fd, &h, sizeof(h), iv__now_ns() + SHORT_NS) == 0 && h.magic == magic &&
        h.job == iv__tcp_job(r, meeting) && h.rank >= 0 && h.rank < r->world)
        return h.rank;
    close(fd);
    return -1;
}

/* Calls rank i and says who this is; -1 and errno. */
static int approach(const iv_ranks *r, int32_t meeting, const iv__tcp_peer *p, int64_t deadline)
{
    const iv__tcp_hello h = {.magic = magic, .job = iv__tcp_job(r, meeting), .rank = r->rank};
    int fd = iv__tcp_call((const struct sockaddr *)&p->at, p->at_size, deadline);
    int e = fd < 0 ? errno : iv__tcp_write(fd, &h, sizeof(h), deadline);
    if (!e) return fd;
    if (fd >= 0) close(fd);
    errno = e;
    return -1;
}

iv_status iv__tcp_pairs(const iv_ranks *r, int32_t meeting, int listener, iv__tcp_peer *peers,
                        int64_t deadline)
{
    for (int32_t i = 1; i < r->rank; ++i) {
        peers[i].fd = approach(r, meeting, &peers[i], deadline);
        if (peers[i].fd < 0)
            IV_FAIL(IV_LOST, "rank %d cannot reach rank %d on %s: %s", r->rank, i, peers[i].name,
                    strerror(errno));
    }
    for (int32_t n = r->rank > 0 ? r->world - r->rank - 1 : 0; n > 0;) {
        int fd = iv__tcp_take(listener, deadline);
        if (fd < 0 && errno == ETIMEDOUT)
            IV_FAIL(IV_TIMEOUT, "rank %d waited in vain for %d ranks to connect", r->rank, n);
        const int32_t who = fd < 0 ? -1 : greet(r, meeting, fd);
        if (who <= r->rank || peers[who].fd >= 0) {
            if (who >= 0) close(fd);
            continue;
        }
        peers[who].fd = fd;
        --n;
    }
    return IV_OK;
}

typedef struct meeting {
    const iv_ranks *r;
    int32_t number;
    int64_t deadline, timeout_ns;
    int listener;
    const bool *suspect;
    iv__tcp_peer *peers;
    bool *alive, *gone; /* [world] */
} meeting;

static iv_status check_half(const meeting *m)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->r->world; ++i) n += m->alive[i];
    if (2 * n >= m->r->world) return IV_OK;
    IV_FAIL(IV_LOST, "%d of %d ranks are left, which is less than half", n, m->r->world);
}

/* ---- the host ---- */

static void take_guest(meeting *m, int64_t deadline)
{
    int fd = iv__tcp_take(m->listener, deadline);
    const int32_t who = fd < 0 ? -1 : greet(m->r, m->number, fd);
    const char yes = 1;
    if (who < 0) return;
    if (m->peers[who].fd >= 0 || iv__tcp_write(fd, &yes, 1, iv__now_ns() + SHORT_NS) != 0) {
        close(fd);
        return;
    }
    m->peers[who].fd = fd;
    m->alive[who] = true;
}

/* Ranks that are awaited.  With `ask`, those whose process is gone are found out. */
static int32_t missing(meeting *m, bool ask)
{
    int32_t n = 0;
    for (int32_t i = 0; i < m->r->world; ++i) {
        if (m->alive[i] || m->gone[i] || m->suspect[i]) continue;
        const iv__tcp_peer *p = &m->peers[i];
        int fd =
            ask ? iv__tcp_call((const struct sockaddr *)&p->at, p->at_size, iv__now_ns() + SHORT_NS)
                : -1;
        if (ask && fd < 0 && errno == ECONNREFUSED) m->gone[i] = true;
        else ++n;
        if (fd >= 0) close(fd);
    }
    return n;
}

static iv_status host(meeting *m)
{
    const int32_t world = m->r->world;
    m->alive[m->r->rank] = true;
    for (int turn = 0; missing(m, turn % 8 == 4) > 0 && iv__now_ns() < m->deadline; ++turn)
        take_guest(m, iv__now_ns() + LOOK_NS);
    for (int i = 0; i < world; ++i) take_guest(m, iv__now_ns()); /* who knocks already */
    IV_TRY(check_half(m));
    for (int32_t i = 0; i < world; ++i) {
        iv__tcp_peer *p = &m->peers[i];
        if (p->fd < 0) continue;
        if (iv__tcp_write(p->fd, m->alive, (size_t)world * sizeof(*m->alive),
                          iv__now_ns() + SHORT_NS) != 0)
            IV_FAIL(IV_LOST, "rank %d on %s left the meeting of those who are left", i, p->name);
    }
    return IV_OK;
}

/* ---- the others ---- */

/* Comes to rank i; false: it is not the host. */
static bool visit(meeting *m, int32_t i)
{
    const int64_t soon = iv__now_ns() + SHORT_NS;
    iv__tcp_peer *p = &m->peers[i];
    char yes;
    int fd = approach(m->r, m->number, p, soon);
    if (fd < 0) return false;
    /* One that is not lost may still be computing. */
    if (iv__tcp_read(fd, &yes, 1, m->suspect[i] ? soon : m->deadline) == 0 &&
        iv__tcp_read(fd, m->alive, (size_t)m->r->world * sizeof(*m->alive),
                     m->deadline + m->timeout_ns) == 0) {
        p->fd = fd;
        return true;
    }
    close(fd);
    return false;
}

static iv_status find_host(meeting *m)
{
    for (int32_t i = 0; i < m->r->rank; ++i) {
        if (visit(m, i)) return IV_OK;
        m->gone[i] = true;
    }
    return host(m);
}

/* The numbers of those who are left, and their connections among each other. */
static iv_status connect_rest(meeting *m)
{
    iv_ranks r = *m->r;
    iv__tcp_peer *list;
    int32_t n = 0;
    if (!m->alive[r.rank]) IV_FAIL(IV_LOST, "the others go on without rank %d", r.rank);
    IV_TRY(iv__calloc(r.world, sizeof(*list), "ranks", &list));
    for (int32_t i = 0; i < r.world; ++i) {
        if (!m->alive[i]) continue;
        if (i == m->r->rank) r.rank = n;
        list[n++] = m->peers[i];
    }
    r.world = n;
    iv_status s = iv__tcp_pairs(&r, m->number, m->listener, list, m->deadline + SHORT_NS);
    for (int32_t i = 0, k = 0; i < m->r->world; ++i)
        if (m->alive[i]) m->peers[i].fd = list[k++].fd;
    free(list);
    return s;
}

iv_status iv__tcp_again(const iv_ranks *r, int32_t number, int64_t timeout_ns, int listener,
                        const bool *suspect, iv__tcp_peer *peers, bool *alive)
{
    meeting m = {.r = r,
                 .number = number,
                 .deadline = iv__now_ns() + timeout_ns,
                 .timeout_ns = timeout_ns,
                 .listener = listener,
                 .suspect = suspect,
                 .peers = peers,
                 .alive = alive};
    for (int32_t i = 0; i < r->world; ++i) alive[i] = false;
    IV_TRY(iv__calloc(r->world, sizeof(*m.gone), "ranks", &m.gone));
    iv_status s = find_host(&m);
    if (s == IV_OK) s = connect_rest(&m);
    for (int32_t i = 0; s != IV_OK && i < r->world; ++i) {
        if (peers[i].fd >= 0) close(peers[i].fd);
        peers[i].fd = -1;
    }
    free(m.gone);
    return s;
}
