/* queue.c: in-order queues: copies, launches, timeline, graphs (see gpu.h).
 *
 * A fault is sticky: the first one is kept, and every later call returns it.  Points of the
 * timeline are events; the last 64 are kept, and an older one is as good as the oldest of these,
 * because the queue is in order. */
#include "gpu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

iv_status iv__gpu_fault(gpu_queue *q, int error, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    const gpu_api *api = q->dev->api;
    snprintf(q->why, sizeof(q->why), "%s (%s), %s: %s = %d (%s)", q->dev->label, q->dev->desc.name,
             what, api->error_name(error), error, api->error_text(error));
    q->failed = iv__gpu_fail(q->dev, error, "%s", what);
    return q->failed;
}

iv_status iv__gpu_queue_ready(const gpu_queue *q)
{
    return q->failed == IV_OK ? IV_OK : q->dev->api->host->fail(q->failed, "%s", q->why);
}

/* Opens every call: the queue's fault, or its context made current. */
static iv_status begin(gpu_queue *q)
{
    if (q->failed != IV_OK) return iv__gpu_queue_ready(q);
    const int e = q->dev->api->use(q->dev->context);
    return e ? iv__gpu_fault(q, e, "making its context current") : IV_OK;
}

static int open_parts(gpu_queue *q)
{
    const gpu_api *api = q->dev->api;
    void *staging = NULL;
    int e = api->use(q->dev->context);
    if (!e) e = api->stream_open(&q->stream);
    for (int i = 0; i < GPU_RING && !e; ++i) e = api->event_open(&q->ring[i]);
    for (int i = 0; i < GPU_SLOTS && !e; ++i) e = api->event_open(&q->slot_event[i]);
    if (!e) e = api->host_alloc(&staging, (size_t)GPU_SLOTS * GPU_SLOT_BYTES);
    q->staging = staging;
    return e;
}

iv_status iv__gpu_queue_open(void *dev, iv_queue_kind kind, void **out_q)
{
    (void)kind;
    gpu_device *d = dev;
    gpu_queue *q = calloc(1, sizeof(*q));
    if (!q) return d->api->host->fail(IV_NO_MEMORY, "opening a queue of %s", d->label);
    q->dev = d;
    const int e = open_parts(q);
    if (e) {
        iv__gpu_queue_close(q);
        return iv__gpu_fail(d, e, "opening a queue");
    }
    *out_q = q;
    return IV_OK;
}

void iv__gpu_queue_close(void *queue)
{
    gpu_queue *q = queue;
    if (!q) return;
    const gpu_api *api = q->dev->api;
    api->use(q->dev->context);
    if (q->stream) api->stream_sync(q->stream);
    for (int i = 0; i < GPU_RING; ++i)
        if (q->ring[i]) api->event_close(q->ring[i]);
    for (int i = 0; i < GPU_SLOTS; ++i)
        if (q->slot_event[i]) api->event_close(q->slot_event[i]);
    if (q->staging) api->host_free(q->staging);
    if (q->stream) api->stream_close(q->stream);
    free(q);
}

/* ---- copies ---- */

static gpu_memory *memory_of(iv_buffer b)
{
    return b.mem;
}

/* Where a range of pinned memory begins, or NULL. */
static char *pinned(iv_buffer b)
{
    return memory_of(b)->host ? memory_of(b)->host + b.offset : NULL;
}

/* Room for up to `bytes` in the ring; *out_bytes is what there is. */
static int stage(gpu_queue *q, int64_t bytes, char **out, int64_t *out_bytes)
{
    const gpu_api *api = q->dev->api;
    int e = 0;
    if (q->slot_used == GPU_SLOT_BYTES) {
        e = api->event_record(q->slot_event[q->slot], q->stream);
        q->slot = (q->slot + 1) % GPU_SLOTS;
        if (!e) e = api->event_sync(q->slot_event[q->slot]);
        q->slot_used = 0;
    }
    const int64_t room = GPU_SLOT_BYTES - q->slot_used;
    *out = q->staging + (int64_t)q->slot * GPU_SLOT_BYTES + q->slot_used;
    *out_bytes = bytes < room ? bytes : room;
    q->slot_used += (*out_bytes + 63) / 64 * 64;
    return e;
}

iv_status iv__gpu_write(void *queue, iv_buffer dst, const void *src)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK || dst.bytes == 0) return s;
    if (pinned(dst)) { /* what was enqueued before may still use it */
        const iv_status done = iv__gpu_sync(q);
        if (done == IV_OK) memcpy(pinned(dst), src, (size_t)dst.bytes);
        return done;
    }
    const gpu_ptr to = iv__gpu_at(dst);
    int64_t n = 0;
    for (int64_t at = 0; at < dst.bytes; at += n) {
        char *part = NULL;
        int e = stage(q, dst.bytes - at, &part, &n);
        if (!e) {
            memcpy(part, (const char *)src + at, (size_t)n);
            e = q->dev->api->copy_in(to + (gpu_ptr)at, part, (size_t)n, q->stream);
        }
        if (e) return iv__gpu_fault(q, e, "writing %lld bytes", (long long)dst.bytes);
    }
    return IV_OK;
}

iv_status iv__gpu_read(void *queue, void *dst, iv_buffer src)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK || src.bytes == 0) return s;
    if (pinned(src)) {
        const iv_status done = iv__gpu_sync(q);
        if (done == IV_OK) memcpy(dst, pinned(src), (size_t)src.bytes);
        return done;
    }
    const int e = q->dev->api->copy_out(dst, iv__gpu_at(src), (size_t)src.bytes, q->stream);
    return e ? iv__gpu_fault(q, e, "reading %lld bytes", (long long)src.bytes) : IV_OK;
}

/* Between two devices: directly where the driver offers it, which maps the memory of the other one
 * on first use. */
static int copy_from_peer(gpu_queue *q, iv_buffer dst, iv_buffer src)
{
    const gpu_api *api = q->dev->api;
    gpu_device *here = q->dev, *there = memory_of(src)->dev;
    const uint64_t bit = there->index < 64 ? UINT64_C(1) << there->index : 0;
    int can = 0;
    if (bit && !(here->peers & bit) && api->peer_can && api->peer_enable) {
        if (api->peer_can(&can, here->index, there->index) == 0 && can)
            api->peer_enable(there->index, there->context); /* slower without, not wrong */
        here->peers |= bit;
    }
    return api->copy_peer(iv__gpu_at(dst), here->index, here->context, iv__gpu_at(src),
                          there->index, there->context, (size_t)src.bytes, q->stream);
}

static iv_status copy_pinned(gpu_queue *q, iv_buffer dst, iv_buffer src)
{
    const iv_status s = iv__gpu_sync(q);
    if (s == IV_OK) memmove(pinned(dst), pinned(src), (size_t)src.bytes);
    return s;
}

iv_status iv__gpu_copy(void *queue, iv_buffer dst, iv_buffer src)
{
    gpu_queue *q = queue;
    const gpu_api *api = q->dev->api;
    const size_t n = (size_t)src.bytes;
    const iv_status s = begin(q);
    if (s != IV_OK || n == 0) return s;
    if (pinned(dst) && pinned(src)) return copy_pinned(q, dst, src);
    const bool peer = !pinned(src) && !pinned(dst) && memory_of(src)->dev != q->dev;
    if (peer && !api->copy_peer)
        return api->host->fail(IV_UNSUPPORTED, "copying from %s to %s: the driver has no peer copy",
                               memory_of(src)->dev->label, q->dev->label);
    const int e = peer          ? copy_from_peer(q, dst, src)
                  : pinned(dst) ? api->copy_out(pinned(dst), iv__gpu_at(src), n, q->stream)
                  : pinned(src) ? api->copy_in(iv__gpu_at(dst), pinned(src), n, q->stream)
                                : api->copy(iv__gpu_at(dst), iv__gpu_at(src), n, q->stream);
    return e ? iv__gpu_fault(q, e, "copying %lld bytes", (long long)src.bytes) : IV_OK;
}

iv_status iv__gpu_fill(void *queue, iv_buffer dst, uint32_t pattern)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK || dst.bytes == 0) return s;
    if (pinned(dst)) {
        const iv_status done = iv__gpu_sync(q);
        for (int64_t i = 0; done == IV_OK && i < dst.bytes / 4; ++i)
            memcpy(pinned(dst) + 4 * i, &pattern, 4);
        return done;
    }
    const int e = q->dev->api->fill(iv__gpu_at(dst), pattern, (size_t)dst.bytes / 4, q->stream);
    return e ? iv__gpu_fault(q, e, "filling %lld bytes", (long long)dst.bytes) : IV_OK;
}

/* ---- launches ---- */

iv_status iv__gpu_launch(void *queue, void *kernel, const iv_launch *l)
{
    gpu_queue *q = queue;
    gpu_kernel *k = kernel;
    const gpu_api *api = q->dev->api;
    iv__kernel_params params;
    gpu_ptr bufs[IV_MAX_BUFS] = {0};
    void *arguments[IV_MAX_BUFS + 1];
    const iv_status s = begin(q);
    if (s != IV_OK || l->groups <= 0) return s;
    if (l->groups > api->most_groups)
        return api->host->fail(IV_UNSUPPORTED, "running kernel %s on %s: %lld groups, at most %lld",
                               k->name, q->dev->label, (long long)l->groups,
                               (long long)api->most_groups);
    for (int32_t i = 0; i < IV_MAX_BUFS; ++i) {
        const gpu_memory *m = i < l->n_bufs ? l->buf[i].mem : NULL;
        if (m && m->host)
            return api->host->fail(IV_INVALID, "running kernel %s on %s: buffer %d is host memory",
                                   k->name, q->dev->label, i);
        bufs[i] = m ? m->at : 0;
        arguments[i] = &bufs[i];
    }
    arguments[IV_MAX_BUFS] = k->program ? (void *)&k->elem : (void *)&params;
    if (k->program)
        for (int32_t i = 0; i < l->n_bufs; ++i) k->elem.off[i] = l->buf[i].offset;
    else iv__kernel_params_fill(l, &params);
    const int e = api->launch(k->function, (unsigned)l->groups, arguments, q->stream);
    return e ? iv__gpu_fault(q, e, "running kernel %s on %lld groups", k->name,
                             (long long)l->groups)
             : IV_OK;
}

/* ---- timeline ---- */

iv_status iv__gpu_signal(void *queue, uint64_t *out_seq)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK) return s;
    const int e = q->dev->api->event_record(q->ring[(q->seq + 1) % GPU_RING], q->stream);
    if (e) return iv__gpu_fault(q, e, "marking the timeline");
    *out_seq = ++q->seq;
    return IV_OK;
}

iv_status iv__gpu_wait(void *queue, void *other_q, uint64_t seq)
{
    gpu_queue *q = queue, *other = other_q;
    iv_status s = begin(q);
    if (s == IV_OK) s = iv__gpu_queue_ready(other);
    if (s != IV_OK || seq == 0 || q == other) return s;
    if (seq > other->seq)
        return q->dev->api->host->fail(
            IV_INVALID, "%s waits for point %llu of a queue that has reached %llu", q->dev->label,
            (unsigned long long)seq, (unsigned long long)other->seq);
    if (other->seq - seq >= GPU_RING) seq = other->seq - GPU_RING + 1;
    const int e = q->dev->api->stream_wait(q->stream, other->ring[seq % GPU_RING]);
    return e ? iv__gpu_fault(q, e, "waiting for another queue") : IV_OK;
}

iv_status iv__gpu_sync(void *queue)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK) return s;
    const int e = q->dev->api->stream_sync(q->stream);
    return e ? iv__gpu_fault(q, e, "waiting for all work") : IV_OK;
}

/* ---- captured graphs ---- */

iv_status iv__gpu_capture_begin(void *queue)
{
    gpu_queue *q = queue;
    const gpu_api *api = q->dev->api;
    const iv_status s = begin(q);
    if (s != IV_OK) return s;
    if (!api->capture_begin || !api->capture_end || !api->graph_make || !api->graph_run)
        return api->host->fail(IV_UNSUPPORTED, "capturing a graph on %s: the driver has no graphs",
                               q->dev->label);
    const int e = api->capture_begin(q->stream);
    if (e) return iv__gpu_fault(q, e, "beginning to capture a graph");
    q->capturing = true;
    return IV_OK;
}

iv_status iv__gpu_capture_end(void *queue, void **out_graph)
{
    gpu_queue *q = queue;
    const gpu_api *api = q->dev->api;
    gpu_graph *g = calloc(1, sizeof(*g));
    if (!g) return api->host->fail(IV_NO_MEMORY, "capturing a graph on %s", q->dev->label);
    g->dev = q->dev;
    q->capturing = false;
    iv_status s = begin(q);
    if (s == IV_OK) {
        int e = api->capture_end(q->stream, &g->graph);
        if (!e) e = api->graph_make(&g->exec, g->graph);
        if (e) s = iv__gpu_fault(q, e, "capturing a graph");
    }
    if (s == IV_OK) *out_graph = g;
    else iv__gpu_graph_free(q->dev, g);
    return s;
}

iv_status iv__gpu_graph_run(void *queue, void *graph)
{
    gpu_queue *q = queue;
    const iv_status s = begin(q);
    if (s != IV_OK) return s;
    const int e = q->dev->api->graph_run(((gpu_graph *)graph)->exec, q->stream);
    return e ? iv__gpu_fault(q, e, "running a graph") : IV_OK;
}

void iv__gpu_graph_free(void *dev, void *graph)
{
    gpu_device *d = dev;
    gpu_graph *g = graph;
    if (!g) return;
    d->api->use(d->context);
    if (g->exec) d->api->graph_exec_free(g->exec);
    if (g->graph) d->api->graph_free(g->graph);
    free(g);
}
