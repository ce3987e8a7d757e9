/* stream.c: streams are threads that take work from a queue; events are places in a stream (see
 * core.h).
 *
 * The work of a stream is numbered; `done[slot]` is the number of the last that is over.  The
 * numbers of a slot go on when another stream gets it, so (slot, number) names a piece of work for
 * ever, and an event is just that. */
#include "core_internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LABEL = 64 };

typedef struct work {
    struct work *next;
    uint64_t number;
    sc_clock clock;
    sc_run_fn *run;
    sc_event *event;   /* whose record this is, or NULL */
    int32_t wait_slot; /* -1, or: runs when done[wait_slot] >= wait_number */
    uint64_t wait_number;
    char label[LABEL];
    _Alignas(16) char arg[];
} work;

struct sc_stream {
    sc_device *device;
    int32_t slot;
    bool blocking, closing;
    uint64_t random;
    uint64_t asked; /* number of the last work that was put */
    sc_clock clock;
    work *first, *last;
    sc_graph *graph; /* what it captures into, or NULL */
    pthread_cond_t more;
    sc_stream *next; /* of all streams */
};

struct sc_event {
    sc_device *device;
    int32_t slot;    /* -1: never recorded */
    sc_graph *graph; /* recorded while the stream captured into it */
    uint64_t number;
    sc_clock clock;
    double seconds; /* when it was reached */
};

static uint64_t asked[SC_STREAMS], done[SC_STREAMS];
static bool taken[SC_STREAMS];
static sc_clock host; /* what the host has waited for */
static sc_stream *streams;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the thread of a stream ---- */

/* Sometimes lets the others go first. */
static void delay(sc_stream *s)
{
    if (sc_options_get()->seed == 0) return;
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    const uint64_t r = s->random >> 11;
    if (r % 4 == 0) sched_yield();
    if (r % 32 != 1) return;
    const struct timespec t = {0, (long)(20000 + r / 32 % 180000)};
    nanosleep(&t, NULL);
}

/* Runs one piece of work; the lock is not held. */
static void run_work(sc_stream *s, work *w)
{
    sc_access_list touched = {0};
    char text[400] = "";
    if (w->run && sc_device_fault(s->device) == SC_OK) {
        const sc_status status = w->run(s->device, w->arg, &touched, text, sizeof(text));
        if (status != SC_OK) {
            char line[480];
            snprintf(line, sizeof(line), "%s: %s", w->label,
                     text[0] ? text : sc_status_name(status));
            sc_device_set_fault(s->device, status, line);
        }
    }
    if (w->run) sc_order_done(s->slot, w->number, &w->clock, w->label, &touched);
    free(touched.at);
}

static void unlink_stream(sc_stream *s)
{
    sc_stream **at = &streams;
    while (*at && *at != s) at = &(*at)->next;
    if (*at) *at = s->next;
    taken[s->slot] = false;
}

static void *stream_main(void *arg)
{
    sc_stream *s = arg;
    pthread_mutex_lock(&sc__mutex);
    for (;;) {
        while (!s->first && !s->closing) pthread_cond_wait(&s->more, &sc__mutex);
        work *w = s->first;
        if (!w) break;
        while (w->wait_slot >= 0 && done[w->wait_slot] < w->wait_number)
            pthread_cond_wait(&sc__progress, &sc__mutex);
        pthread_mutex_unlock(&sc__mutex);
        delay(s);
        run_work(s, w);
        pthread_mutex_lock(&sc__mutex);
        s->first = w->next; /* it stays in the list while it runs: sc__pending_write looks there */
        if (!s->first) s->last = NULL;
        if (w->event && w->event->slot == s->slot && w->event->number == w->number)
            w->event->seconds = seconds();
        done[s->slot] = w->number;
        free(w);
        pthread_cond_broadcast(&sc__progress);
    }
    unlink_stream(s);
    pthread_mutex_unlock(&sc__mutex);
    pthread_cond_destroy(&s->more);
    free(s);
    return NULL;
}

/* ---- streams ---- */

static int32_t slot_take(void)
{
    for (int32_t i = 0; i < SC_STREAMS; ++i)
        if (!taken[i]) {
            taken[i] = true;
            return i;
        }
    return -1;
}

static sc_status stream_new(sc_device *d, bool blocking, sc_stream **out_s)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sc_stream *s = calloc(1, sizeof(*s));
    if (!s) return SC_OUT_OF_MEMORY;
    pthread_mutex_lock(&sc__mutex);
    s->slot = slot_take();
    if (s->slot < 0) {
        pthread_mutex_unlock(&sc__mutex);
        free(s);
        return SC_OUT_OF_RESOURCES;
    }
    s->device = d;
    s->blocking = blocking;
    s->asked = asked[s->slot];
    s->clock.at[s->slot] = s->asked;
    s->random = (sc_options_get()->seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)s->slot * 977 + 1;
    pthread_cond_init(&s->more, NULL);
    s->next = streams;
    streams = s;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    const bool started = pthread_create(&thread, &attributes, stream_main, s) == 0;
    pthread_attr_destroy(&attributes);
    if (!started) unlink_stream(s);
    pthread_mutex_unlock(&sc__mutex);
    if (!started) {
        free(s);
        return SC_OUT_OF_RESOURCES;
    }
    *out_s = s;
    return SC_OK;
}

sc_status sc_stream_open(sc_device *d, bool blocking, const char *maker, sc_stream **out_s)
{
    const sc_status s = stream_new(d, blocking, out_s);
    if (s == SC_OK) sc_object_add("stream", *out_s, maker);
    return s;
}

sc_status sc_stream_close(sc_stream *s, const char *function)
{
    if (!sc_object_remove("stream", s, function)) return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    s->closing = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&sc__mutex);
    return SC_OK;
}

sc_stream *sc_stream_default(sc_device *d)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    if (!d->default_stream && stream_new(d, false, &d->default_stream) != SC_OK)
        d->default_stream = NULL;
    pthread_mutex_unlock(&mutex);
    return d->default_stream;
}

sc_device *sc_stream_device(const sc_stream *s)
{
    return s->device;
}

sc_status sc_stream_check(sc_stream *s, const sc_device *d, const char *function)
{
    if (s == d->default_stream && s) return SC_OK;
    if (!sc_object_check("stream", s, function)) return SC_INVALID_HANDLE;
    if (s->device == d) return SC_OK;
    sc_misuse("%s: the stream is one of device %d, the current device is %d", function,
              s->device->index, d->index);
    return SC_INVALID_HANDLE;
}

/* ---- putting work; the lock is held ---- */

static work *work_new(const char *label, const void *arg, size_t arg_bytes)
{
    work *w = calloc(1, sizeof(*w) + arg_bytes);
    if (!w) return NULL;
    w->wait_slot = -1;
    snprintf(w->label, sizeof(w->label), "%s", label);
    if (arg_bytes) memcpy(w->arg, arg, arg_bytes);
    return w;
}

static void append(sc_stream *s, work *w)
{
    s->asked = ++asked[s->slot];
    w->number = s->asked;
    if (w->wait_slot >= 0 && s->clock.at[w->wait_slot] < w->wait_number)
        s->clock.at[w->wait_slot] = w->wait_number;
    sc_clock_join(&s->clock, &host);
    s->clock.at[s->slot] = w->number;
    w->clock = s->clock;
    if (s->last) s->last->next = w;
    else s->first = w;
    s->last = w;
    pthread_cond_signal(&s->more);
}

static void append_wait(sc_stream *s, int32_t slot, uint64_t number)
{
    if (slot == s->slot || done[slot] >= number) return;
    work *w = work_new("wait", NULL, 0);
    if (!w) return;
    w->wait_slot = slot;
    w->wait_number = number;
    append(s, w);
}

/* The default stream and the blocking streams of its device wait for each other. */
static void legacy_rule(sc_stream *s)
{
    sc_stream *const common = s->device->default_stream;
    if (!common) return;
    if (s->blocking) {
        sc_clock_join(&s->clock, &common->clock);
        append_wait(s, common->slot, common->asked);
    }
    for (sc_stream *o = streams; s == common && o; o = o->next)
        if (o->blocking && o->device == s->device) {
            sc_clock_join(&s->clock, &o->clock);
            append_wait(s, o->slot, o->asked);
        }
}

sc_status sc_stream_put(sc_stream *s, const char *label, sc_run_fn *run, const void *arg,
                        size_t arg_bytes)
{
    const sc_status fault = sc_device_fault(s->device);
    if (fault != SC_OK) return fault;
    pthread_mutex_lock(&sc__mutex);
    const sc_status captured =
        s->graph ? sc__graph_add(s->graph, label, run, arg, arg_bytes) : SC_OK;
    const bool captures = s->graph != NULL;
    pthread_mutex_unlock(&sc__mutex);
    if (captures) return captured;
    work *w = work_new(label, arg, arg_bytes);
    if (!w) return SC_OUT_OF_MEMORY;
    w->run = run;
    pthread_mutex_lock(&sc__mutex);
    legacy_rule(s);
    append(s, w);
    pthread_mutex_unlock(&sc__mutex);
    return SC_OK;
}

sc_graph **sc__stream_graph(sc_stream *s)
{
    return &s->graph;
}

void sc__streams_leave(const sc_graph *g)
{
    for (sc_stream *s = streams; s; s = s->next)
        if (s->graph == g) s->graph = NULL;
}

/* What the host must not ask of a stream that captures; the lock is held. */
static bool spoils(sc_stream *s)
{
    if (s->graph) s->graph->spoilt = true;
    return s->graph != NULL;
}

/* ---- waiting by the host ---- */

static void host_wait(int32_t slot, uint64_t number, const sc_clock *clock)
{
    while (done[slot] < number) pthread_cond_wait(&sc__progress, &sc__mutex);
    sc_clock_join(&host, clock);
    if (host.at[slot] < number) host.at[slot] = number;
}

sc_status sc_stream_sync(sc_stream *s)
{
    pthread_mutex_lock(&sc__mutex);
    const sc_clock clock = s->clock;
    const bool captures = spoils(s);
    if (!captures) host_wait(s->slot, s->asked, &clock);
    pthread_mutex_unlock(&sc__mutex);
    return captures ? SC_STREAM_CAPTURE : sc_device_fault(s->device);
}

sc_status sc_stream_query(sc_stream *s)
{
    pthread_mutex_lock(&sc__mutex);
    const bool over = done[s->slot] >= s->asked;
    if (over) host_wait(s->slot, s->asked, &s->clock);
    pthread_mutex_unlock(&sc__mutex);
    const sc_status fault = sc_device_fault(s->device);
    return fault != SC_OK ? fault : over ? SC_OK : SC_NOT_READY;
}

sc_status sc_device_sync(sc_device *d)
{
    pthread_mutex_lock(&sc__mutex);
    for (sc_stream *s = streams; s;) {
        if (s->device == d && done[s->slot] < s->asked) {
            pthread_cond_wait(&sc__progress, &sc__mutex); /* the list may change meanwhile */
            s = streams;
            continue;
        }
        if (s->device == d) sc_clock_join(&host, &s->clock);
        s = s->next;
    }
    pthread_mutex_unlock(&sc__mutex);
    return sc_device_fault(d);
}

/* ---- events ---- */

sc_status sc_event_open(sc_device *d, const char *maker, sc_event **out_e)
{
    sc_event *e = calloc(1, sizeof(*e));
    if (!e) return SC_OUT_OF_MEMORY;
    e->device = d;
    e->slot = -1;
    sc_object_add("event", e, maker);
    *out_e = e;
    return SC_OK;
}

sc_status sc_event_close(sc_event *e, const char *function)
{
    if (!sc_object_remove("event", e, function)) return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    for (sc_stream *s = streams; s; s = s->next)
        for (work *w = s->first; w; w = w->next)
            if (w->event == e) w->event = NULL;
    pthread_mutex_unlock(&sc__mutex);
    free(e);
    return SC_OK;
}

sc_status sc_event_record(sc_event *e, sc_stream *s, const char *function)
{
    if (!sc_object_check("event", e, function)) return SC_INVALID_HANDLE;
    if (e->device != s->device) {
        sc_misuse("%s: an event of device %d on a stream of device %d", function, e->device->index,
                  s->device->index);
        return SC_INVALID_HANDLE;
    }
    work *w = work_new("event", NULL, 0);
    if (!w) return SC_OUT_OF_MEMORY;
    pthread_mutex_lock(&sc__mutex);
    e->graph = s->graph;
    if (s->graph) {
        free(w);
    } else {
        legacy_rule(s);
        w->event = e;
        append(s, w);
        e->slot = s->slot;
        e->number = w->number;
        e->clock = w->clock;
    }
    pthread_mutex_unlock(&sc__mutex);
    return sc_device_fault(s->device);
}

sc_status sc_stream_wait(sc_stream *s, sc_event *e, const char *function)
{
    if (!sc_object_check("event", e, function)) return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    bool mixed = false;
    if (e->graph) {
        mixed = s->graph && s->graph != e->graph;
        s->graph = e->graph;                /* joins the capture */
    } else if (s->graph) mixed = spoils(s); /* an event from outside */
    else if (e->slot >= 0) {
        sc_clock_join(&s->clock, &e->clock);
        append_wait(s, e->slot, e->number);
    }
    pthread_mutex_unlock(&sc__mutex);
    return mixed ? SC_STREAM_CAPTURE : sc_device_fault(s->device);
}

sc_status sc_event_sync(sc_event *e, const char *function)
{
    if (!sc_object_check("event", e, function)) return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    if (e->slot >= 0) {
        const sc_clock clock = e->clock;
        host_wait(e->slot, e->number, &clock);
    }
    pthread_mutex_unlock(&sc__mutex);
    return sc_device_fault(e->device);
}

sc_status sc_event_query(sc_event *e, const char *function)
{
    if (!sc_object_check("event", e, function)) return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    const bool over = e->slot < 0 || done[e->slot] >= e->number;
    if (over && e->slot >= 0) host_wait(e->slot, e->number, &e->clock);
    pthread_mutex_unlock(&sc__mutex);
    const sc_status fault = sc_device_fault(e->device);
    return fault != SC_OK ? fault : over ? SC_OK : SC_NOT_READY;
}

sc_status sc_event_elapsed(sc_event *from, sc_event *to, float *out_ms, const char *function)
{
    if (!sc_object_check("event", from, function) || !sc_object_check("event", to, function))
        return SC_INVALID_HANDLE;
    pthread_mutex_lock(&sc__mutex);
    const bool recorded = from->slot >= 0 && to->slot >= 0;
    const bool over = recorded && done[from->slot] >= from->number && done[to->slot] >= to->number;
    *out_ms = (float)(1e3 * (to->seconds - from->seconds));
    pthread_mutex_unlock(&sc__mutex);
    return !recorded ? SC_INVALID_HANDLE : over ? SC_OK : SC_NOT_READY;
}

/* ---- for copies ---- */

bool sc__pending_write(uint64_t address, int64_t bytes)
{
    bool found = false;
    pthread_mutex_lock(&sc__mutex);
    for (sc_stream *s = streams; s && !found; s = s->next)
        for (work *w = s->first; w && !found; w = w->next)
            found = sc__copy_writes(w->run, w->arg, address, bytes);
    pthread_mutex_unlock(&sc__mutex);
    return found;
}
