/* queue.c: in-order queues: copies, launches, timeline (see opencl.h).
 *
 * Small writes are taken to pinned memory and enqueued without waiting; larger ones wait.
 * A fault is sticky: the first one is kept, and every later call returns it.  A launch is one
 * enqueue, and sets only the arguments that have changed.  Points of the timeline are events of
 * markers; the last 64 are kept, and an older one is as good as the oldest of these, because the
 * queue is in order. */
#include "opencl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Work-items of a CPU device for each of its units: few, because neighbouring groups share work. */
enum { ITEMS_PER_UNIT = 4 };

/* Keeps the failure for good and returns it. */
static iv_status fault(cl_queue *q, cl_int e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static iv_status fault(cl_queue *q, cl_int e, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    snprintf(q->why, sizeof(q->why), "%s (%s), %s: %s = %d", q->dev->label, q->dev->name, what,
             iv__cl_name(e), (int)e);
    q->failed = iv__cl_fail(e, "%s (%s), %s", q->dev->label, q->dev->name, what);
    return q->failed;
}

static iv_status again(const cl_queue *q)
{
    return iv__cl_host->fail(q->failed, "%s", q->why);
}

iv_status iv__cl_queue_open(void *dev, iv_queue_kind kind, void **out_q)
{
    (void)kind;
    cl_dev *d = dev;
    cl_int e;
    cl_queue *q = calloc(1, sizeof(*q));
    if (!q) return iv__cl_host->fail(IV_NO_MEMORY, "opening a queue of %s", d->label);
    q->dev = d;
    q->queue = iv__cl.CreateCommandQueue(d->context, d->id, 0, &e);
    iv_status s = IV_OK;
    void *stage = NULL;
    if (!q->queue) s = iv__cl_fail(e, "opening a queue of %s (%s)", d->label, d->name);
    if (s == IV_OK) s = iv__cl_mem_alloc(d, CL_STAGE, IV_MEM_HOST, &stage);
    q->stage = stage;
    if (s != IV_OK) {
        iv__cl_queue_close(q);
        return s;
    }
    *out_q = q;
    return IV_OK;
}

void iv__cl_queue_close(void *queue)
{
    cl_queue *q = queue;
    if (!q) return;
    if (q->queue) iv__cl.Finish(q->queue);
    for (int i = 0; i < CL_RING; ++i)
        if (q->ring[i]) iv__cl.ReleaseEvent(q->ring[i]);
    iv__cl_mem_free(q->dev, q->stage);
    if (q->queue) iv__cl.ReleaseCommandQueue(q->queue);
    free(q);
}

/* ---- copies ---- */

static cl_memory *memory_of(iv_buffer b)
{
    return b.mem;
}

/* Where a range of pinned memory begins, or NULL. */
static char *pinned(iv_buffer b)
{
    return memory_of(b)->host ? (char *)memory_of(b)->host + b.offset : NULL;
}

iv_status iv__cl_write(void *queue, iv_buffer dst, const void *src)
{
    cl_queue *q = queue;
    if (q->failed != IV_OK) return again(q);
    if (dst.bytes == 0) return IV_OK;
    if (pinned(dst)) {
        memcpy(pinned(dst), src, (size_t)dst.bytes);
        return IV_OK;
    }
    cl_bool wait = CL_TRUE;
    if (dst.bytes <= CL_STAGE) {
        const iv_status s = q->staged + dst.bytes > CL_STAGE ? iv__cl_sync(q) : IV_OK;
        if (s != IV_OK) return s;
        src = memcpy((char *)q->stage->host + q->staged, src, (size_t)dst.bytes);
        q->staged += (dst.bytes + 63) / 64 * 64;
        wait = CL_FALSE;
    }
    const cl_int e =
        iv__cl.EnqueueWriteBuffer(q->queue, memory_of(dst)->mem, wait, (size_t)dst.offset,
                                  (size_t)dst.bytes, src, 0, NULL, NULL);
    return e == CL_SUCCESS ? IV_OK : fault(q, e, "writing %lld bytes", (long long)dst.bytes);
}

iv_status iv__cl_read(void *queue, void *dst, iv_buffer src)
{
    cl_queue *q = queue;
    if (q->failed != IV_OK) return again(q);
    if (src.bytes == 0) return IV_OK;
    if (pinned(src)) { /* what was enqueued before may still write it */
        const iv_status s = iv__cl_sync(q);
        if (s == IV_OK) memcpy(dst, pinned(src), (size_t)src.bytes);
        return s;
    }
    const cl_int e =
        iv__cl.EnqueueReadBuffer(q->queue, memory_of(src)->mem, CL_FALSE, (size_t)src.offset,
                                 (size_t)src.bytes, dst, 0, NULL, NULL);
    return e == CL_SUCCESS ? IV_OK : fault(q, e, "reading %lld bytes", (long long)src.bytes);
}

iv_status iv__cl_copy(void *queue, iv_buffer dst, iv_buffer src)
{
    cl_queue *q = queue;
    cl_int e;
    if (q->failed != IV_OK) return again(q);
    const size_t n = (size_t)src.bytes, from = (size_t)src.offset, to = (size_t)dst.offset;
    if (n == 0) return IV_OK;
    if (pinned(dst) && pinned(src)) {
        const iv_status s = iv__cl_sync(q);
        if (s == IV_OK) memmove(pinned(dst), pinned(src), n);
        return s;
    }
    if (pinned(dst))
        e = iv__cl.EnqueueReadBuffer(q->queue, memory_of(src)->mem, CL_FALSE, from, n, pinned(dst),
                                     0, NULL, NULL);
    else if (pinned(src))
        e = iv__cl.EnqueueWriteBuffer(q->queue, memory_of(dst)->mem, CL_FALSE, to, n, pinned(src),
                                      0, NULL, NULL);
    else
        e = iv__cl.EnqueueCopyBuffer(q->queue, memory_of(src)->mem, memory_of(dst)->mem, from, to,
                                     n, 0, NULL, NULL);
    return e == CL_SUCCESS ? IV_OK : fault(q, e, "copying %lld bytes", (long long)src.bytes);
}

iv_status iv__cl_fill(void *queue, iv_buffer dst, uint32_t pattern)
{
    cl_queue *q = queue;
    if (q->failed != IV_OK) return again(q);
    if (dst.bytes == 0) return IV_OK;
    if (pinned(dst)) {
        const iv_status s = iv__cl_sync(q);
        for (int64_t i = 0; s == IV_OK && i < dst.bytes / 4; ++i)
            memcpy(pinned(dst) + 4 * i, &pattern, 4);
        return s;
    }
    const cl_int e =
        iv__cl.EnqueueFillBuffer(q->queue, memory_of(dst)->mem, &pattern, sizeof(pattern),
                                 (size_t)dst.offset, (size_t)dst.bytes, 0, NULL, NULL);
    return e == CL_SUCCESS ? IV_OK : fault(q, e, "filling %lld bytes", (long long)dst.bytes);
}

/* ---- launches ---- */

static cl_int set_buffers(const cl_queue *q, cl_kern *k, const iv_launch *l)
{
    cl_int e = CL_SUCCESS;
    const bool stale =
        k->freed != q->dev->freed; /* an address may have come back for another memory */
    for (cl_uint i = 0; i < IV_MAX_BUFS && e == CL_SUCCESS; ++i) {
        const cl_memory *m = (int32_t)i < l->n_bufs ? l->buf[i].mem : NULL;
        const cl_mem mem = m ? m->mem : q->dev->spare;
        if (m && m->host) return CL_INVALID_MEM_OBJECT;
        if (k->set[i] == mem && !stale) continue;
        e = iv__cl.SetKernelArg(k->kernel, i, sizeof(mem), &mem);
        k->set[i] = e == CL_SUCCESS ? mem : NULL;
    }
    k->freed = q->dev->freed;
    return e;
}

static cl_int set_params(cl_kern *k, const iv_launch *l)
{
    if (k->program) {
        for (int32_t i = 0; i < l->n_bufs; ++i) k->elem.off[i] = l->buf[i].offset;
        return iv__cl.SetKernelArg(k->kernel, IV_MAX_BUFS, sizeof(k->elem), &k->elem);
    }
    iv__kernel_params p;
    iv__kernel_params_fill(l, &p);
    return iv__cl.SetKernelArg(k->kernel, IV_MAX_BUFS, sizeof(p), &p);
}

iv_status iv__cl_launch(void *queue, void *kernel, const iv_launch *l)
{
    cl_queue *q = queue;
    cl_kern *k = kernel;
    if (q->failed != IV_OK) return again(q);
    if (l->groups <= 0) return IV_OK;
    const bool cpu = q->dev->cpu;
    const int64_t items = (int64_t)q->dev->units * ITEMS_PER_UNIT;
    const size_t local = cpu ? 1 : 64,
                 global =
                     cpu ? (size_t)(l->groups < items ? l->groups : items) : (size_t)l->groups * 64;
    const cl_long groups = l->groups;
    cl_int e = set_buffers(q, k, l);
    if (e == CL_SUCCESS) e = set_params(k, l);
    if (e == CL_SUCCESS && cpu)
        e = iv__cl.SetKernelArg(k->kernel, IV_MAX_BUFS + 1, sizeof(groups), &groups);
    if (e == CL_SUCCESS)
        e = iv__cl.EnqueueNDRangeKernel(q->queue, k->kernel, 1, NULL, &global, &local, 0, NULL,
                                        NULL);
    return e == CL_SUCCESS
               ? IV_OK
               : fault(q, e, "running kernel %s on %lld groups", k->name, (long long)l->groups);
}

/* ---- timeline ---- */

iv_status iv__cl_signal(void *queue, uint64_t *out_seq)
{
    cl_queue *q = queue;
    cl_event event = NULL;
    if (q->failed != IV_OK) return again(q);
    const cl_int e = iv__cl.EnqueueMarkerWithWaitList(q->queue, 0, NULL, &event);
    if (e != CL_SUCCESS) return fault(q, e, "marking the timeline");
    cl_event *slot = &q->ring[++q->seq % CL_RING];
    if (*slot) iv__cl.ReleaseEvent(*slot);
    *slot = event;
    *out_seq = q->seq;
    return IV_OK;
}

iv_status iv__cl_wait(void *queue, void *other_q, uint64_t seq)
{
    cl_queue *q = queue, *other = other_q;
    if (q->failed != IV_OK) return again(q);
    if (other->failed != IV_OK) return again(other);
    if (seq == 0 || q == other) return IV_OK;
    if (seq > other->seq)
        return iv__cl_host->fail(
            IV_INVALID, "%s waits for point %llu of a queue that has reached %llu", q->dev->label,
            (unsigned long long)seq, (unsigned long long)other->seq);
    if (other->seq - seq >= CL_RING) seq = other->seq - CL_RING + 1;
    cl_event event = other->ring[seq % CL_RING];
    cl_int e = iv__cl.Flush(other->queue);
    /* Events do not reach beyond their context: then the host waits. */
    if (e == CL_SUCCESS && q->dev == other->dev)
        e = iv__cl.EnqueueBarrierWithWaitList(q->queue, 1, &event, NULL);
    else if (e == CL_SUCCESS) e = iv__cl.WaitForEvents(1, &event);
    return e == CL_SUCCESS ? IV_OK : fault(q, e, "waiting for another queue");
}

iv_status iv__cl_sync(void *queue)
{
    cl_queue *q = queue;
    if (q->failed != IV_OK) return again(q);
    const cl_int e = iv__cl.Finish(q->queue);
    if (e != CL_SUCCESS) return fault(q, e, "waiting for all work");
    q->staged = 0;
    return IV_OK;
}
