/* graph.c: captured work (see core.h). */
#include "core_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sc_status sc__graph_add(sc_graph *g, const char *label, sc_run_fn *run, const void *arg,
                        size_t arg_bytes)
{
    sc__item *i = calloc(1, sizeof(*i) + arg_bytes);
    if (!i) return SC_OUT_OF_MEMORY;
    i->run = run;
    i->arg_bytes = arg_bytes;
    snprintf(i->label, sizeof(i->label), "%s", label);
    if (arg_bytes) memcpy(i->arg, arg, arg_bytes);
    if (g->last) g->last->next = i;
    else g->first = i;
    g->last = i;
    return SC_OK;
}

void sc__graph_clear(sc_graph *g)
{
    for (sc__item *i = g->first, *next; i; i = next) {
        next = i->next;
        free(i);
    }
    g->first = g->last = NULL;
}

sc_status sc_capture_begin(sc_stream *s, const char *function)
{
    sc_graph *g = calloc(1, sizeof(*g));
    if (!g) return SC_OUT_OF_MEMORY;
    pthread_mutex_lock(&sc__mutex);
    sc_graph **const at = sc__stream_graph(s);
    const bool already = *at != NULL;
    if (!already) *at = g;
    pthread_mutex_unlock(&sc__mutex);
    if (!already) return SC_OK;
    free(g);
    sc_misuse("%s: the stream captures already", function);
    return SC_STREAM_CAPTURE;
}

sc_status sc_capture_end(sc_stream *s, const char *function, sc_graph **out_g)
{
    pthread_mutex_lock(&sc__mutex);
    sc_graph *g = *sc__stream_graph(s);
    if (g) sc__streams_leave(g);
    pthread_mutex_unlock(&sc__mutex);
    if (!g) {
        sc_misuse("%s: the stream does not capture", function);
        return SC_STREAM_CAPTURE;
    }
    if (g->spoilt) {
        sc__graph_clear(g);
        free(g);
        return SC_STREAM_CAPTURE;
    }
    sc_object_add("graph", g, function);
    *out_g = g;
    return SC_OK;
}

sc_status sc_graph_copy(const sc_graph *g, const char *function, sc_graph **out_g)
{
    if (!sc_object_check("graph", g, function)) return SC_INVALID_HANDLE;
    sc_graph *copy = calloc(1, sizeof(*copy));
    sc_status s = copy ? SC_OK : SC_OUT_OF_MEMORY;
    for (const sc__item *i = g->first; i && s == SC_OK; i = i->next)
        s = sc__graph_add(copy, i->label, i->run, i->arg, i->arg_bytes);
    if (s != SC_OK) {
        if (copy) sc__graph_clear(copy);
        free(copy);
        return s;
    }
    sc_object_add("graph", copy, function);
    *out_g = copy;
    return SC_OK;
}

sc_status sc_graph_launch(sc_graph *g, sc_stream *stream, const char *function)
{
    sc_status s = SC_OK;
    if (!sc_object_check("graph", g, function)) return SC_INVALID_HANDLE;
    for (const sc__item *i = g->first; i && s == SC_OK; i = i->next)
        s = sc_stream_put(stream, i->label, i->run, i->arg, i->arg_bytes);
    return s;
}

sc_status sc_graph_free(sc_graph *g, const char *function)
{
    if (!sc_object_remove("graph", g, function)) return SC_INVALID_HANDLE;
    sc__graph_clear(g);
    free(g);
    return SC_OK;
}
