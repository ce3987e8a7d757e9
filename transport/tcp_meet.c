/* tcp_meet.c: how the ranks find each other.
 *
 * Rank 0 listens at the main address.  Every other rank opens a port of its own, connects to rank 0
 * and tells who it is (a card).  When all are there, rank 0 sends everybody all cards; then rank j
 * connects to each rank i with 0 < i < j.  The connection to rank 0 stays, so each pair has one.
 * The ports stay open, so that ranks can meet again when one is lost (tcp_again.c).
 *
 * Rank 0 takes the census: who is missing when time is up, who came twice, who means another world.
 * It tells everybody the same sentence, so that every rank ends with it instead of waiting. */
#include "tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 2, REFUSAL = 1024, CALL_MS = 1000 };
static const uint64_t magic = 0x31727074766e69ull; /* "invtpr1" */

/* Who a rank is; the first thing that is sent on any connection. */
typedef struct card {
    uint64_t magic, job; /* job: hash of iv_ranks.job and address */
    int32_t version, world, rank, pid;
    uint64_t host, window;
    uint16_t port, family; /* where it listens; family 0: at the address where rank 0 is */
    uint8_t address[16];
    char name[64];
} card;

/* Rank 0's answer: cards follow, or a refusal. */
typedef struct answer {
    uint64_t magic, job;
    int32_t refused; /* 1: REFUSAL bytes of text follow; 0: [world] cards follow */
    int32_t world;
} answer;

/* ---- bytes ---- */

static int wait_for(int fd, short what, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = what};
    for (;;) {
        int64_t left = (deadline - iv__now_ns()) / 1000000;
        if (left < 0) return ETIMEDOUT;
        int n = poll(&p, 1, (int)IV_MIN2(left + 1, 1000000));
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return errno;
    }
}

int iv__tcp_read(int fd, void *data, size_t n, int64_t deadline)
{
    char *at = data;
    while (n > 0) {
        int e = wait_for(fd, POLLIN, deadline);
        if (e) return e;
        ssize_t got = recv(fd, at, n, MSG_DONTWAIT);
        if (got == 0) return ECONNRESET;
        if (got < 0 && errno != EAGAIN && errno != EINTR) return errno;
        if (got > 0) at += got, n -= (size_t)got;
    }
    return 0;
}

int iv__tcp_write(int fd, const void *data, size_t n, int64_t deadline)
{
    const char *at = data;
    while (n > 0) {
        int e = wait_for(fd, POLLOUT, deadline);
        if (e) return e;
        ssize_t put = send(fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && errno != EAGAIN && errno != EINTR) return errno;
        if (put > 0) at += put, n -= (size_t)put;
    }
    return 0;
}

/* ---- addresses ---- */

static uint64_t hash_text(uint64_t h, const char *s)
{
    for (; *s; ++s) h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    return h * 0x100000001b3u;
}

/* The machine: its boot, and the process and network namespaces that this process sees. */
static uint64_t this_host(void)
{
    char boot[64] = "", pids[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && !fgets(boot, sizeof(boot), f)) boot[0] = 0;
    if (f) fclose(f);
    struct stat s;
    if (stat("/proc/self/ns/pid", &s) == 0)
        snprintf(pids, sizeof(pids), "%llu", (unsigned long long)s.st_ino);
    return hash_text(hash_text(0xcbf29ce484222325u, boot), pids);
}

static void set_address(card *c, const struct sockaddr *a)
{
    c->family = (uint16_t)a->sa_family;
    if (a->sa_family == AF_INET)
        memcpy(c->address, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    if (a->sa_family == AF_INET6)
        memcpy(c->address, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 16);
}

/* A loopback address means nothing on another machine; there the rank is where rank 0 is. */
static void set_peer_address(card *c, int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof(a);
    c->family = 0;
    if (getpeername(fd, (struct sockaddr *)&a, &n) != 0) return;
    set_address(c, (struct sockaddr *)&a);
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
                         six[16] = {[15] = 1};
    if (c->family == AF_INET6 && memcmp(c->address, mapped, 12) == 0) {
        c->family = AF_INET;
        memmove(c->address, c->address + 12, 4);
    }
    if ((c->family == AF_INET && c->address[0] == 127) ||
        (c->family == AF_INET6 && memcmp(c->address, six, 16) == 0))
        c->family = 0;
}

/* Where a card's rank listens, seen from here: `zero` is our connection to rank 0. */
static socklen_t address_of(const card *c, int zero, struct sockaddr_storage *out)
{
    socklen_t n = sizeof(*out);
    memset(out, 0, sizeof(*out));
    if (c->family == 0) getpeername(zero, (struct sockaddr *)out, &n);
    else out->ss_family = c->family;
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)out;
    if (out->ss_family == AF_INET) {
        if (c->family) memcpy(&four->sin_addr, c->address, 4);
        four->sin_port = htons(c->port);
        return sizeof(*four);
    }
    if (c->family) memcpy(&six->sin6_addr, c->address, 16);
    six->sin6_port = htons(c->port);
    return sizeof(*six);
}

static void tune(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- listening and calling ---- */

/* Listens on `port` (0: any free one) of all addresses; -1 and errno. */
static int listen_on(int32_t port)
{
    int on = 1, off = 0, saved;
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        if (bind(fd, (struct sockaddr *)&a6, sizeof(a6)) == 0 && listen(fd, 4096) == 0) return fd;
        saved = errno;
        close(fd);
        if (saved == EADDRINUSE) {
            errno = saved;
            return -1;
        }
    }
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&a4, sizeof(a4)) == 0 && listen(fd, 4096) == 0) return fd;
    saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof(a);
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0) return 0;
    return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&a)->sin6_port
                                         : ((struct sockaddr_in *)(void *)&a)->sin_port);
}

int iv__tcp_call(const struct sockaddr *a, socklen_t n, int64_t deadline)
{
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t size = sizeof(e);
    if (fd < 0) return -1;
    if (connect(fd, a, n) != 0 && errno != EINPROGRESS) e = errno;
    if (!e) e = wait_for(fd, POLLOUT, deadline);
    if (!e && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size) != 0) e = errno;
    if (e) {
        close(fd);
        errno = e;
        return -1;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    tune(fd);
    return fd;
}

int iv__tcp_take(int listener, int64_t deadline)
{
    int e = wait_for(listener, POLLIN, deadline);
    int fd = e ? -1 : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (e) errno = e;
    if (fd >= 0) tune(fd);
    return fd;
}

/* ---- the meeting ---- */

typedef struct meeting {
    const iv_ranks *r;
    int64_t deadline, timeout_ns;
    card mine, *cards; /* [world] */
    iv__tcp_peer *peers;
    int listener, door; /* for later meetings; rank 0: for this one, at the main port */
    char where[300];    /* "node1:29500" */
} meeting;

static void write_card(meeting *m, const iv__tcp_window *window)
{
    char name[64] = "";
    gethostname(name, sizeof(name) - 1);
    m->mine = (card){.magic = magic,
                     .job = hash_text(0xcbf29ce484222325u, m->r->job),
                     .version = VERSION,
                     .world = m->r->world,
                     .rank = m->r->rank,
                     .pid = (int32_t)getpid(),
                     .host = this_host(),
                     .window = (uint64_t)(uintptr_t)window};
    snprintf(m->mine.name, sizeof(m->mine.name), "%s", name);
    m->cards[m->r->rank] = m->mine;
}

static bool is_ours(const meeting *m, const card *c)
{
    return c->magic == magic && c->job == m->mine.job;
}

/* "1, 4, 7" */
static void list_missing(const meeting *m, char *out, size_t size)
{
    size_t n = 0;
    int32_t missing = 0;
    out[0] = 0;
    for (int32_t i = 0; i < m->r->world; ++i) {
        if (m->cards[i].magic) continue;
        if (++missing <= 16 && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s%d", n ? ", " : "", i);
    }
    if (missing > 16 && n < size) snprintf(out + n, size - n, " and %d more", missing - 16);
}

/* Tells all who are there that the meeting has failed, with the text of the error. */
static void refuse_all(meeting *m, int extra)
{
    answer a = {.magic = magic, .job = m->mine.job, .refused = 1, .world = m->r->world};
    char text[REFUSAL] = "";
    int64_t deadline = iv__now_ns() + 1000000000;
    snprintf(text, sizeof(text), "%s", iv_error_message());
    for (int32_t i = 0; i <= m->r->world; ++i) {
        int fd = i < m->r->world ? m->peers[i].fd : extra;
        if (fd < 0) continue;
        if (iv__tcp_write(fd, &a, sizeof(a), deadline) == 0)
            iv__tcp_write(fd, text, sizeof(text), deadline);
    }
}

/* One guest of rank 0: its card is kept, or the meeting fails. */
static iv_status admit(meeting *m, int fd)
{
    card c;
    if (iv__tcp_read(fd, &c, sizeof(c), IV_MIN2(m->deadline, iv__now_ns() + 5000000000)) != 0 ||
        !is_ours(m, &c)) {
        close(fd); /* somebody else's knock */
        return IV_OK;
    }
    iv_status s = IV_OK;
    if (c.version != VERSION)
        s = iv__fail(IV_INVALID, "rank %d on %s speaks version %d of the protocol, rank 0 %d",
                     c.rank, c.name, c.version, VERSION);
    else if (c.world != m->r->world)
        s = iv__fail(IV_INVALID, "rank %d on %s means a world of %d, rank 0 one of %d", c.rank,
                     c.name, c.world, m->r->world);
    else if (c.rank < 0 || c.rank >= c.world)
        s = iv__fail(IV_INVALID, "%s has a rank %d in a world of %d", c.name, c.rank, c.world);
    else if (m->cards[c.rank].magic)
        s = iv__fail(IV_INVALID,
                     "rank %d is there twice: on %s (process %d) and on %s (process %d)", c.rank,
                     m->cards[c.rank].name, m->cards[c.rank].pid, c.name, c.pid);
    if (s != IV_OK) {
        refuse_all(m, fd);
        close(fd);
        return s;
    }
    set_peer_address(&c, fd);
    m->cards[c.rank] = c;
    m->peers[c.rank].fd = fd;
    return IV_OK;
}

static iv_status open_main_port(meeting *m)
{
    const iv_ranks *r = m->r;
    int e = 0;
    for (int32_t i = 0; i < r->n_ports && m->door < 0; ++i) {
        m->door = listen_on(r->ports[i]);
        if (m->door < 0) e = errno;
    }
    if (m->door < 0)
        IV_FAIL(IV_UNAVAILABLE,
                "listening as rank 0 on port %d%s: %s [hint: another main port, or is another rank "
                "0 there already?]",
                r->ports[0], r->n_ports > 1 ? " and its alternatives" : "", strerror(e));
    return IV_OK;
}

/* Rank 0: waits for all, then tells all about all. */
static iv_status host(meeting *m)
{
    const iv_ranks *r = m->r;
    IV_TRY(open_main_port(m));
    for (int32_t n = 1; n < r->world;) {
        int fd = iv__tcp_take(m->door, m->deadline);
        if (fd < 0 && errno == ETIMEDOUT) {
            char missing[128];
            list_missing(m, missing, sizeof(missing));
            iv_status s = iv__fail(IV_TIMEOUT,
                                   "rank %s of %d did not come to %s within %.3g s [hint: are all "
                                   "processes started, and can they reach that address?]",
                                   missing, r->world, m->where, (double)m->timeout_ns * 1e-9);
            refuse_all(m, -1);
            return s;
        }
        if (fd < 0) continue;
        IV_TRY(admit(m, fd));
        n = 0;
        for (int32_t i = 0; i < r->world; ++i) n += m->cards[i].magic != 0;
    }
    answer a = {.magic = magic, .job = m->mine.job, .world = r->world};
    for (int32_t i = 1; i < r->world; ++i) {
        int e = iv__tcp_write(m->peers[i].fd, &a, sizeof(a), m->deadline);
        if (!e)
            e = iv__tcp_write(m->peers[i].fd, m->cards, (size_t)r->world * sizeof(card),
                              m->deadline);
        if (e) {
            iv_status s = iv__fail(IV_LOST, "rank %d on %s left the meeting: %s", i,
                                   m->cards[i].name, strerror(e));
            refuse_all(m, -1);
            return s;
        }
    }
    return IV_OK;
}

/* One try to reach rank 0 on a port: the connection with the card sent and the answer begun. */
static int knock(meeting *m, int32_t port, answer *a)
{
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int fd = -1, e = 0;
    snprintf(service, sizeof(service), "%d", port);
    int gai = getaddrinfo(m->r->address, service, &hints, &list);
    if (gai != 0) {
        iv__fail(IV_UNAVAILABLE, "%s", gai_strerror(gai));
        errno = 0;
        return -1;
    }
    int64_t soon = IV_MIN2(m->deadline, iv__now_ns() + (int64_t)CALL_MS * 1000000);
    for (struct addrinfo *i = list; i && fd < 0; i = i->ai_next)
        fd = iv__tcp_call(i->ai_addr, i->ai_addrlen, soon);
    e = errno;
    freeaddrinfo(list);
    if (fd >= 0) {
        e = iv__tcp_write(fd, &m->mine, sizeof(m->mine), m->deadline);
        /* Rank 0 may have started later: it waits as long for the others. */
        if (!e) e = iv__tcp_read(fd, a, sizeof(*a), iv__now_ns() + m->timeout_ns + 2000000000);
        if (!e && (a->magic != magic || a->job != m->mine.job)) e = EPROTO;
        if (e) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) iv__fail(IV_UNAVAILABLE, "%s", strerror(e));
    return fd;
}

/* Another rank: comes to rank 0 and learns of all. */
static iv_status visit(meeting *m)
{
    const iv_ranks *r = m->r;
    answer a = {0};
    int fd = -1;
    for (int32_t i = 0; fd < 0; ++i) {
        fd = knock(m, r->ports[i % r->n_ports], &a);
        if (fd < 0 && iv__now_ns() > m->deadline) {
            char why[160];
            snprintf(why, sizeof(why), "%s", iv_error_message());
            IV_FAIL(IV_TIMEOUT,
                    "rank %d did not reach rank 0 at %s within %.3g s (%s) [hint: is rank 0 "
                    "started, and are address and port right?]",
                    r->rank, m->where, (double)m->timeout_ns * 1e-9, why);
        }
        if (fd < 0) nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
    m->peers[0].fd = fd;
    if (a.refused) {
        char text[REFUSAL] = "";
        iv__tcp_read(fd, text, sizeof(text), iv__now_ns() + 2000000000);
        text[REFUSAL - 1] = 0;
        IV_FAIL(IV_INVALID, "rank 0 at %s: %s", m->where, text);
    }
    int e = iv__tcp_read(fd, m->cards, (size_t)r->world * sizeof(card), m->deadline + 2000000000);
    if (e) IV_FAIL(IV_LOST, "rank 0 at %s left the meeting: %s", m->where, strerror(e));
    return IV_OK;
}

/* Where everybody listens, seen from here. */
static void set_places(meeting *m)
{
    for (int32_t i = 0; i < m->r->world; ++i)
        if (i != m->r->rank)
            m->peers[i].at_size =
                address_of(&m->cards[i], m->peers[m->r->rank == 0 ? i : 0].fd, &m->peers[i].at);
}

static iv_status run(meeting *m)
{
    m->listener = listen_on(0);
    if (m->listener < 0) IV_FAIL(IV_UNAVAILABLE, "opening a port: %s", strerror(errno));
    m->mine.port = port_of(m->listener);
    m->cards[m->r->rank] = m->mine;
    IV_TRY(m->r->rank == 0 ? host(m) : visit(m));
    set_places(m);
    IV_TRY(iv__tcp_pairs(m->r, 0, m->listener, m->peers, m->deadline));
    for (int32_t i = 0; i < m->r->world; ++i) {
        m->peers[i].pid = m->cards[i].pid;
        m->peers[i].host = m->cards[i].host;
        m->peers[i].window = m->cards[i].window;
        snprintf(m->peers[i].name, sizeof(m->peers[i].name), "%s", m->cards[i].name);
    }
    return IV_OK;
}

iv_status iv__tcp_meet(const iv_ranks *r, int64_t timeout_ns, const iv__tcp_window *window,
                       iv__tcp_peer *peers, int *out_listener)
{
    meeting m = {.r = r,
                 .deadline = iv__now_ns() + timeout_ns,
                 .timeout_ns = timeout_ns,
                 .peers = peers,
                 .listener = -1,
                 .door = -1};
    if (!*r->address || r->n_ports < 1)
        IV_FAIL(IV_INVALID,
                "%d ranks, but no main address and port [hint: MASTER_ADDR and "
                "MASTER_PORT]",
                r->world);
    snprintf(m.where, sizeof(m.where), "%s:%d", r->address, r->ports[0]);
    IV_TRY(iv__calloc(r->world, sizeof(*m.cards), "a meeting", &m.cards));
    for (int32_t i = 0; i < r->world; ++i) peers[i].fd = -1;
    write_card(&m, window);
    iv_status s = run(&m);
    if (m.door >= 0) close(m.door);
    if (s == IV_OK) *out_listener = m.listener;
    else if (m.listener >= 0) close(m.listener);
    for (int32_t i = 0; s != IV_OK && i < r->world; ++i) {
        if (peers[i].fd >= 0) close(peers[i].fd);
        peers[i].fd = -1;
    }
    free(m.cards);
    return s;
}
