/* tcp.c: the socket transport: one connection per pair of ranks, one thread per process.
 *
 *   start()  ─► queues of messages per peer and direction ─► the thread: poll, send, receive
 *   finish() ◄─ a set's count of unfinished messages reaches 0
 *
 * What goes over a connection is a row of frames.  A message is one frame DATA with its bytes; or,
 * between processes of one machine that can read each other's memory, a frame REF with its
 * address: the receiver reads the bytes itself, once, without a copy in between, and returns DONE.
 *
 * Every process sends a frame now and then (PING).  A peer that is silent for `silence` has hung or
 * cannot be reached; a connection that ends is a dead peer.  Who sees it first tells the others
 * (LOST rank), so that all survivors name the same rank.  A peer whose thread lives but which does
 * not take part is noticed by finish()'s own limit. */
#include "tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

enum { QUEUE = 1024, PIECE = 1 << 20, SMALL = 4096 };

typedef enum frame_kind { PING = 1, DATA, REF, DONE, BYE, LOST } frame_kind;
typedef struct frame {
    uint32_t kind;
    int32_t rank;            /* LOST */
    uint64_t bytes, address; /* DATA, REF: of the message; REF: where it is */
} frame;

/* One message under way. */
typedef struct item {
    char *data;
    int64_t bytes;
    uint32_t set;
    bool is_ref, complete;
} item;
typedef struct queue {
    item items[QUEUE];
    uint32_t first, end; /* positions, not wrapped; `first` is the oldest that is not complete */
} queue;

typedef struct peer {
    iv__tcp_peer who;
    bool direct; /* its memory can be read */
    bool ended;  /* it said BYE */
    queue out, in;
    uint32_t sent; /* position in `out` of the next message to send */
    int64_t last_heard, last_sent;
    /* The frame being sent: header, then perhaps bytes of a message. */
    frame head;
    size_t head_left;
    const char *body;
    int64_t body_left;
    bool body_counts; /* message `sent` - 1 is complete when its bytes are gone */
    uint32_t dones;   /* DONE frames still to be sent */
    int32_t lost;     /* LOST frame still to be sent for this rank, or -1 */
    bool bye;         /* BYE still to be sent */
    /* The frame being received. */
    frame got;
    size_t got_bytes;
    int64_t into_left; /* DATA, REF: bytes of the first item of `in` still missing */
    char *into;
    int64_t unreadable; /* when its memory was found gone; 0: never */
    int read_error;
} peer;

typedef struct tcp_link {
    iv_ranks ranks;
    iv__tcp_window window;
    peer *peers; /* [world] */
    struct pollfd *polls;
    pthread_t thread;
    bool threaded;
    int wake;         /* eventfd */
    int listener;     /* for later meetings */
    int32_t meetings; /* so far, without the first */
    int64_t turned;   /* when the thread last went round */
    bool slept;       /* this process was stopped for longer than others wait */
    int64_t silence;
    pthread_mutex_t lock; /* of all below, and of the queues' ends and counts */
    pthread_cond_t done;
    uint64_t ticket, finished; /* sets started; all up to `finished` are complete */
    int32_t pending[IV_TRANSPORT_SETS];
    char why[256];
    atomic_bool stop;
    _Atomic int32_t lost;   /* rank, or -1 */
    _Atomic uint64_t bytes; /* of messages moved so far: whether anything goes on */
} tcp_link;

/* ---- failure ---- */

/* The first loss counts; it is passed on to everybody. */
static void lose(tcp_link *l, int32_t rank, const char *why)
{
    pthread_mutex_lock(&l->lock);
    if (l->lost < 0) {
        l->lost = rank;
        snprintf(l->why, sizeof(l->why), "%s", why);
        for (int32_t i = 0; i < l->ranks.world; ++i)
            if (i != rank) l->peers[i].lost = rank;
        pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
}

static void lose_peer(tcp_link *l, peer *p, const char *why)
{
    int32_t rank = (int32_t)(p - l->peers);
    lose(l, rank, why);
    if (p->who.fd >= 0) close(p->who.fd);
    p->who.fd = -1;
}

/* ---- finished messages ---- */

static void complete(tcp_link *l, queue *q, uint32_t at)
{
    pthread_mutex_lock(&l->lock);
    uint32_t set = q->items[at % QUEUE].set;
    q->items[at % QUEUE].complete = true;
    while (q->first != q->end && q->items[q->first % QUEUE].complete) ++q->first;
    if (--l->pending[set % IV_TRANSPORT_SETS] == 0) {
        while (l->finished < l->ticket && l->pending[(l->finished + 1) % IV_TRANSPORT_SETS] == 0)
            ++l->finished;
        pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
}

/* The peer has read the oldest message that it was to read by itself. */
static void complete_ref(tcp_link *l, peer *p)
{
    for (uint32_t at = p->out.first; at != p->sent; ++at) {
        const item *m = &p->out.items[at % QUEUE];
        if (!m->is_ref || m->complete) continue;
        complete(l, &p->out, at);
        return;
    }
    lose_peer(l, p, "it confirms a message that was not sent");
}

/* The item at position `at` of a queue, if it is there. */
static bool peek(tcp_link *l, const queue *q, uint32_t at, item *out)
{
    pthread_mutex_lock(&l->lock);
    bool there = at != q->end;
    if (there) *out = q->items[at % QUEUE];
    pthread_mutex_unlock(&l->lock);
    return there;
}

/* ---- sending ---- */

static void put_head(peer *p, frame f)
{
    p->head = f;
    p->head_left = sizeof(f);
}

/* The next frame for this peer; false: there is nothing to say. */
static bool next_frame(tcp_link *l, peer *p)
{
    item m;
    pthread_mutex_lock(&l->lock);
    int32_t lost = p->lost;
    p->lost = -1;
    pthread_mutex_unlock(&l->lock);
    if (lost >= 0) {
        put_head(p, (frame){.kind = LOST, .rank = lost});
    } else if (p->dones) {
        --p->dones;
        put_head(p, (frame){.kind = DONE});
    } else if (peek(l, &p->out, p->sent, &m)) {
        bool ref = p->out.items[p->sent++ % QUEUE].is_ref;
        put_head(p, (frame){.kind = ref ? REF : DATA,
                            .bytes = (uint64_t)m.bytes,
                            .address = (uint64_t)(uintptr_t)m.data});
        p->body = ref ? NULL : m.data;
        p->body_left = ref ? 0 : m.bytes;
        p->body_counts = !ref;
    } else if (p->bye) {
        p->bye = false;
        put_head(p, (frame){.kind = BYE});
    } else if (iv__now_ns() - p->last_sent > l->silence / 8) {
        put_head(p, (frame){.kind = PING});
    } else {
        return false;
    }
    return true;
}

static bool has_output(const peer *p)
{
    return p->head_left || p->body_left;
}

/* Sends what the socket takes. */
static void push(tcp_link *l, peer *p)
{
    while (p->who.fd >= 0 && (has_output(p) || next_frame(l, p))) {
        struct iovec v[2];
        int n = 0;
        if (p->head_left)
            v[n++] =
                (struct iovec){(char *)&p->head + sizeof(p->head) - p->head_left, p->head_left};
        if (p->body_left)
            v[n++] = (struct iovec){(void *)(uintptr_t)p->body,
                                    (size_t)IV_MIN2(p->body_left, (int64_t)PIECE)};
        struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)n};
        ssize_t put = sendmsg(p->who.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (put < 0) {
            char why[160];
            snprintf(why, sizeof(why), "its connection failed: %s", strerror(errno));
            if (!p->ended) lose_peer(l, p, why);
            return;
        }
        p->last_sent = iv__now_ns();
        size_t head = IV_MIN2((size_t)put, p->head_left);
        p->head_left -= head;
        p->body += (size_t)put - head;
        p->body_left -= put - (ssize_t)head;
        atomic_fetch_add(&l->bytes, (uint64_t)put - head);
        if (!has_output(p) && p->body_counts) {
            p->body_counts = false;
            complete(l, &p->out, p->sent - 1);
        }
    }
}

/* ---- receiving ---- */

/* Reads a piece of the first awaited message out of the peer's memory. */
static void read_direct(tcp_link *l, peer *p)
{
    size_t n = (size_t)IV_MIN2(p->into_left, (int64_t)PIECE);
    struct iovec to = {p->into, n}, from = {(void *)(uintptr_t)p->got.address, n};
    ssize_t got = process_vm_readv(p->who.pid, &to, 1, &from, 1, 0);
    if (got <= 0) {
        p->unreadable = iv__now_ns();
        p->read_error = errno;
        p->got_bytes = 0;
        p->into_left = 0;
        return;
    }
    p->into += got;
    p->into_left -= got;
    p->got.address += (uint64_t)got;
    atomic_fetch_add(&l->bytes, (uint64_t)got);
    if (p->into_left) return;
    p->got_bytes = 0;
    ++p->dones;
    complete(l, &p->in, p->in.first);
}

/* A whole header is there. */
static void take_frame(tcp_link *l, peer *p)
{
    char why[160];
    switch (p->got.kind) {
    case PING: break;
    case DONE: complete_ref(l, p); break;
    case BYE: p->ended = true; break;
    case LOST:
        if (p->got.rank == l->ranks.rank)
            snprintf(why, sizeof(why), "the others gave this rank up (rank %d says so)",
                     (int)(p - l->peers));
        else snprintf(why, sizeof(why), "rank %d noticed it", (int)(p - l->peers));
        lose(l, p->got.rank, why);
        break;
    case DATA:
    case REF: return; /* stays until its message is awaited and complete */
    default: lose_peer(l, p, "it sends what is no frame"); return;
    }
    p->got_bytes = 0;
}

/* A message has begun to come: finds out where it belongs.  False: nobody awaits it yet. */
static bool match(tcp_link *l, peer *p)
{
    item m;
    if (p->into_left) return true;
    if (!peek(l, &p->in, p->in.first, &m)) return false;
    if (m.bytes != (int64_t)p->got.bytes) {
        char why[160];
        snprintf(why, sizeof(why), "it sends a message of %llu bytes where %lld are awaited",
                 (unsigned long long)p->got.bytes, (long long)m.bytes);
        lose_peer(l, p, why);
        return false;
    }
    p->into = m.data;
    p->into_left = m.bytes;
    return true;
}

static bool is_message(const peer *p)
{
    return p->got_bytes == sizeof(p->got) && (p->got.kind == DATA || p->got.kind == REF);
}

/* Whether bytes of this peer can be taken now. */
static bool wants_input(tcp_link *l, peer *p)
{
    return p->who.fd >= 0 && (!is_message(p) || (!p->unreadable && match(l, p)));
}

/* Whether no message to or from this peer is under way. */
static bool is_idle(tcp_link *l, const peer *p)
{
    pthread_mutex_lock(&l->lock);
    bool idle = p->in.first == p->in.end && p->out.first == p->out.end;
    pthread_mutex_unlock(&l->lock);
    return idle;
}

/* One read.  False: there is nothing more. */
static bool pull_once(tcp_link *l, peer *p)
{
    bool body = is_message(p);
    if (body && p->got.kind == REF) {
        read_direct(l, p);
        return true;
    }
    void *to = body ? p->into : (char *)&p->got + p->got_bytes;
    size_t most =
        body ? (size_t)IV_MIN2(p->into_left, (int64_t)PIECE) : sizeof(p->got) - p->got_bytes;
    ssize_t got = recv(p->who.fd, to, most, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        char why[160];
        snprintf(why, sizeof(why), "its connection ended%s%s", got < 0 ? ": " : "",
                 got < 0 ? strerror(errno) : "");
        if (p->ended && is_idle(l, p)) {
            close(p->who.fd); /* it has left in good order, and nobody waits for it */
            p->who.fd = -1;
        } else {
            lose_peer(l, p, p->ended ? "it has left the job" : why);
        }
        return false;
    }
    p->last_heard = iv__now_ns();
    if (!body) {
        p->got_bytes += (size_t)got;
        if (p->got_bytes == sizeof(p->got)) take_frame(l, p);
        return true;
    }
    p->into += got;
    p->into_left -= got;
    atomic_fetch_add(&l->bytes, (uint64_t)got);
    if (p->into_left == 0) {
        p->got_bytes = 0;
        complete(l, &p->in, p->in.first);
    }
    return true;
}

static void pull(tcp_link *l, peer *p)
{
    for (int i = 0; i < 8 && wants_input(l, p) && pull_once(l, p); ++i)
        ;
}

/* ---- the thread ---- */

/* Whether the peer's memory is to be read without waiting for its socket. */
static bool is_reading(tcp_link *l, peer *p)
{
    return p->who.fd >= 0 && !p->unreadable && is_message(p) && p->got.kind == REF && match(l, p);
}

static void check_silence(tcp_link *l, peer *p)
{
    int64_t now = iv__now_ns();
    if (p->who.fd < 0) return;
    /* Not listened to, because it is ahead of this rank, or because it has left. */
    if (!wants_input(l, p) || p->ended) p->last_heard = now;
    if (now - p->last_heard <= l->silence) return;
    char why[160];
    snprintf(why, sizeof(why), "nothing was heard of it for %.3g s", (double)l->silence * 1e-9);
    lose_peer(l, p, why);
}

/* A peer whose memory is gone has given up, mostly since it knows of a lost rank: that is behind in
 * its stream, and is the rank to be named.  A peer that says nothing is lost itself. */
static void check_readable(tcp_link *l, peer *p, int64_t now)
{
    char why[160];
    if (!p->unreadable || p->who.fd < 0 || now - p->unreadable < 500000000) return;
    snprintf(why, sizeof(why), "its memory cannot be read: %s", strerror(p->read_error));
    lose_peer(l, p, why);
}

static void turn(tcp_link *l)
{
    int n = 1, busy = 0;
    const int64_t now = iv__now_ns();
    l->slept |= l->turned && now - l->turned > l->silence;
    l->turned = now;
    l->polls[0] = (struct pollfd){.fd = l->wake, .events = POLLIN};
    for (int32_t i = 0; i < l->ranks.world; ++i, ++n) {
        peer *p = &l->peers[i];
        if (p->who.fd >= 0) push(l, p);
        busy |= is_reading(l, p);
        l->polls[n] = (struct pollfd){.fd = p->who.fd};
        if (wants_input(l, p) && !(is_message(p) && p->got.kind == REF))
            l->polls[n].events |= POLLIN;
        if (has_output(p)) l->polls[n].events |= POLLOUT;
        if (!l->polls[n].events) l->polls[n].fd = -1;
    }
    int wait = busy ? 0 : (int)IV_MAX2(l->silence / 16000000, 1);
    if (poll(l->polls, (nfds_t)n, wait) < 0 && errno != EINTR)
        lose(l, l->ranks.rank, strerror(errno));
    uint64_t woken;
    if (l->polls[0].revents && read(l->wake, &woken, sizeof(woken)) < 0) (void)woken;
    for (int32_t i = 0; i < l->ranks.world; ++i) {
        peer *p = &l->peers[i];
        if (l->polls[1 + i].revents || is_reading(l, p)) pull(l, p);
        if (l->lost < 0) check_silence(l, p);
        if (l->lost < 0) check_readable(l, p, iv__now_ns());
    }
}

/* Whether all that is to be said is said. */
static bool is_quiet(const tcp_link *l)
{
    for (int32_t i = 0; i < l->ranks.world; ++i) {
        const peer *p = &l->peers[i];
        if (p->who.fd >= 0 && (has_output(p) || p->bye || p->lost >= 0)) return false;
    }
    return true;
}

static void *thread_main(void *arg)
{
    tcp_link *l = arg;
    while (!atomic_load(&l->stop)) turn(l);
    for (int32_t i = 0; i < l->ranks.world; ++i) l->peers[i].bye = true;
    int64_t end = iv__now_ns() + 300000000; /* goodbyes do not wait for long */
    while (!is_quiet(l) && iv__now_ns() < end) turn(l);
    return NULL;
}

static void wake(tcp_link *l)
{
    uint64_t one = 1;
    if (write(l->wake, &one, sizeof(one)) < 0) return; /* the counter is full: it is awake */
}

/* ---- the plugin ---- */

static bool sockets_only; /* set once by init */

static iv_status tcp_init(const iv_host *host, const char *args, void **out_self)
{
    if (*args && strcmp(args, "sockets") != 0)
        return host->fail(IV_INVALID, "transport tcp(%s): write tcp or tcp(sockets)", args);
    sockets_only = *args != 0;
    *out_self = NULL;
    return IV_OK;
}

static int tcp_usable(void *self, const iv_ranks *r, char *why, size_t size)
{
    (void)self, (void)r;
    snprintf(why, size, "sockets, and memory of processes on the same machine");
    return 10;
}

/* Processes of the same machine are asked for their random number, through their memory. */
static bool can_read(const iv__tcp_peer *p, uint64_t own_host, uint64_t token)
{
    uint64_t got = 0;
    struct iovec to = {&got, sizeof(got)}, from = {(void *)(uintptr_t)p->window, sizeof(got)};
    return !sockets_only && p->host == own_host &&
           process_vm_readv(p->pid, &to, 1, &from, 1, 0) == (ssize_t)sizeof(got) && got == token;
}

/* Each tells its number, reads the other's from its memory, and tells whether that went well.  Both
 * have to be able to: messages go both ways. */
static iv_status try_direct(tcp_link *l, int64_t deadline)
{
    for (int step = 0; step < 3; ++step)
        for (int32_t i = 0; i < l->ranks.world; ++i) {
            peer *p = &l->peers[i];
            uint64_t token, yes = p->direct;
            int e = 0;
            if (i == l->ranks.rank) continue;
            if (step == 0)
                e = iv__tcp_write(p->who.fd, &l->window.token, sizeof(l->window.token), deadline);
            if (step == 1) {
                e = iv__tcp_read(p->who.fd, &token, sizeof(token), deadline);
                yes = p->direct = !e && can_read(&p->who, l->peers[l->ranks.rank].who.host, token);
                if (!e) e = iv__tcp_write(p->who.fd, &yes, sizeof(yes), deadline);
            }
            if (step == 2) {
                e = iv__tcp_read(p->who.fd, &yes, sizeof(yes), deadline);
                p->direct = p->direct && yes;
            }
            if (e)
                IV_FAIL(IV_LOST, "rank %d on %s left the meeting: %s", i, p->who.name, strerror(e));
        }
    return IV_OK;
}

static iv_status start_thread(tcp_link *l)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are for the program's own threads */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int e = pthread_create(&l->thread, NULL, thread_main, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e) IV_FAIL(IV_NO_MEMORY, "starting the thread of the sockets: %s", strerror(e));
    l->threaded = true;
    return IV_OK;
}

/* All are connected. */
static iv_status begin(tcp_link *l, int64_t deadline)
{
    IV_TRY(try_direct(l, deadline));
    for (int32_t i = 0; i < l->ranks.world; ++i)
        l->peers[i].last_heard = l->peers[i].last_sent = iv__now_ns();
    return start_thread(l);
}

static iv_status connect_all(tcp_link *l, int64_t timeout_ns)
{
    int64_t now = iv__now_ns();
    iv__tcp_peer *found;
    l->window.token = (uint64_t)now * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32;
    prctl(PR_SET_PTRACER,
          PR_SET_PTRACER_ANY); /* lets ranks read this one's memory, where Yama asks */
    IV_TRY(iv__calloc(l->ranks.world, sizeof(*found), "ranks", &found));
    iv_status s = iv__tcp_meet(&l->ranks, timeout_ns, &l->window, found, &l->listener);
    for (int32_t i = 0; i < l->ranks.world; ++i)
        l->peers[i] = (peer){.who = s == IV_OK ? found[i] : (iv__tcp_peer){.fd = -1}, .lost = -1};
    free(found);
    return s == IV_OK ? begin(l, now + 2 * timeout_ns) : s;
}

/* Says goodbye; afterwards nothing moves. */
static void stop_thread(tcp_link *l)
{
    if (!l->threaded) return;
    atomic_store(&l->stop, true);
    wake(l);
    pthread_join(l->thread, NULL);
    l->threaded = false;
}

static void tcp_close(void *link)
{
    tcp_link *l = link;
    stop_thread(l);
    for (int32_t i = 0; l->peers && i < l->ranks.world; ++i)
        if (l->peers[i].who.fd >= 0) close(l->peers[i].who.fd);
    if (l->wake >= 0) close(l->wake);
    if (l->listener >= 0) close(l->listener);
    pthread_cond_destroy(&l->done);
    pthread_mutex_destroy(&l->lock);
    free(l->peers);
    free(l->polls);
    free(l);
}

static iv_status tcp_open(void *self, const iv_ranks *r, int64_t timeout_ns, void **out_link)
{
    tcp_link *l;
    pthread_condattr_t attr;
    (void)self;
    IV_TRY(iv__calloc(1, sizeof(*l), "a link", &l));
    l->ranks = *r;
    l->lost = l->listener = -1;
    l->silence = IV_MIN2(timeout_ns, 15000000000);
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->done, &attr);
    pthread_condattr_destroy(&attr);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    iv_status s = l->wake < 0 ? iv__fail(IV_UNAVAILABLE, "eventfd: %s", strerror(errno)) : IV_OK;
    if (s == IV_OK) s = iv__calloc(r->world, sizeof(*l->peers), "ranks", &l->peers);
    for (int32_t i = 0; s == IV_OK && i < r->world; ++i) l->peers[i].who.fd = -1;
    if (s == IV_OK) s = iv__calloc(r->world + 1, sizeof(*l->polls), "ranks", &l->polls);
    if (s == IV_OK) s = connect_all(l, timeout_ns);
    if (s != IV_OK) {
        tcp_close(l);
        return s;
    }
    *out_link = l;
    return IV_OK;
}

static iv_status tcp_start(void *link, const iv_message *m, int32_t n, uint64_t *out_ticket)
{
    tcp_link *l = link;
    bool full = false;
    pthread_mutex_lock(&l->lock);
    if (l->ticket - l->finished >= IV_TRANSPORT_SETS - 1) full = true;
    for (int32_t i = 0; i < n && !full; ++i) {
        const peer *p = &l->peers[m[i].peer];
        const queue *q = m[i].outgoing ? &p->out : &p->in;
        full = q->end - q->first + (uint32_t)n > QUEUE;
    }
    if (!full) {
        uint32_t set = (uint32_t)(++l->ticket % IV_TRANSPORT_SETS);
        l->pending[set] = n;
        for (int32_t i = 0; i < n; ++i) {
            peer *p = &l->peers[m[i].peer];
            queue *q = m[i].outgoing ? &p->out : &p->in;
            q->items[q->end++ % QUEUE] =
                (item){m[i].data, m[i].bytes, set, p->direct && m[i].bytes > SMALL, false};
        }
        *out_ticket = l->ticket;
    }
    pthread_mutex_unlock(&l->lock);
    if (full) IV_FAIL(IV_INTERNAL, "too many messages are under way");
    wake(l);
    return IV_OK;
}

/* The rank that the oldest unfinished message waits for. */
static int32_t waits_for(const tcp_link *l)
{
    for (int32_t i = 0; i < l->ranks.world; ++i)
        if (l->peers[i].in.first != l->peers[i].in.end) return i;
    for (int32_t i = 0; i < l->ranks.world; ++i)
        if (l->peers[i].out.first != l->peers[i].out.end) return i;
    return l->ranks.rank;
}

/* Everything that was under way is dropped, and those who are left get the lower numbers. */
static void forget(tcp_link *l, const iv__tcp_peer *found, const bool *alive)
{
    int32_t n = 0, me = l->ranks.rank;
    for (int32_t i = 0; i < l->ranks.world; ++i) {
        if (!alive[i]) continue;
        if (i == me) l->ranks.rank = n;
        l->peers[n++] = (peer){.who = found[i], .lost = -1};
    }
    l->ranks.world = n;
    l->finished = l->ticket;
    memset(l->pending, 0, sizeof(l->pending));
    l->lost = -1;
    l->turned = 0;
    atomic_store(&l->stop, false);
}

static iv_status tcp_again(void *link, int64_t timeout_ns, iv_ranks *ranks)
{
    tcp_link *l = link;
    const int32_t world = l->ranks.world;
    const int64_t deadline = iv__now_ns() + 3 * timeout_ns;
    iv__tcp_peer *found;
    bool *suspect, *alive;
    if (l->lost == l->ranks.rank) IV_FAIL(IV_LOST, "%s", l->why);
    stop_thread(l);
    if (l->slept)
        IV_FAIL(IV_LOST, "rank %d was stopped for so long that the others gave it up",
                l->ranks.rank);
    IV_TRY(iv__calloc(world, sizeof(*found) + 2 * sizeof(bool), "ranks", &found));
    suspect = (bool *)(found + world);
    alive = suspect + world;
    for (int32_t i = 0; i < world; ++i) {
        peer *p = &l->peers[i];
        suspect[i] = i == l->lost || (i != l->ranks.rank && p->who.fd < 0 && !p->ended);
        if (p->who.fd >= 0) close(p->who.fd);
        p->who.fd = -1;
        found[i] = p->who;
    }
    iv_status s =
        iv__tcp_again(&l->ranks, ++l->meetings, timeout_ns, l->listener, suspect, found, alive);
    if (s == IV_OK) {
        forget(l, found, alive);
        s = begin(l, deadline);
    }
    free(found);
    if (s != IV_OK) return s;
    ranks->rank = l->ranks.rank;
    ranks->world = l->ranks.world;
    return IV_OK;
}

/* Waits until the set is finished, a rank is lost, or nothing has moved for timeout_ns. */
static void await(tcp_link *l, uint64_t ticket, int64_t timeout_ns)
{
    uint64_t bytes = atomic_load(&l->bytes);
    int64_t end = iv__now_ns() + timeout_ns;
    while (l->finished < ticket && l->lost < 0) {
        struct timespec t = {.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
        if (pthread_cond_timedwait(&l->done, &l->lock, &t) != ETIMEDOUT) continue;
        uint64_t now = atomic_load(&l->bytes);
        if (now == bytes) return;
        bytes = now;
        end = iv__now_ns() + timeout_ns;
    }
}

static iv_status tcp_finish(void *link, uint64_t ticket, int64_t timeout_ns, int32_t *out_rank)
{
    tcp_link *l = link;
    char why[256];
    pthread_mutex_lock(&l->lock);
    await(l, ticket, timeout_ns);
    bool finished = l->finished >= ticket;
    int32_t rank = l->lost >= 0 ? l->lost : waits_for(l);
    pthread_mutex_unlock(&l->lock);
    if (finished) return IV_OK;
    snprintf(why, sizeof(why), "it lives, but has not taken part for %.3g s",
             (double)timeout_ns * 1e-9);
    lose(l, rank, why);
    wake(l);
    *out_rank = rank = l->lost;
    IV_FAIL(IV_LOST, "rank %d on %s is lost: %s", rank, l->peers[rank].who.name, l->why);
}

static const iv_transport tcp_transport = {.usable = tcp_usable,
                                           .open = tcp_open,
                                           .close = tcp_close,
                                           .start = tcp_start,
                                           .finish = tcp_finish,
                                           .again = tcp_again};

const iv_plugin iv__plugin_transport_tcp = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_TRANSPORT,
    .vtable_size = sizeof(iv_transport),
    .name = "tcp",
    .version = "1",
    .summary =
        "sockets, and between processes of one machine their memory; tcp(sockets): sockets only",
    .vtable = &tcp_transport,
    .init = tcp_init,
};
