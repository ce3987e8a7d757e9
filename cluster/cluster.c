/* cluster.c: reading variables for the cluster plugins (see cluster.h). */
#include "cluster/cluster.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const iv_host *iv__cluster_host;

iv_status iv__cluster_init(const iv_host *host, const char *args, void **out_self)
{
    if (*args) return host->fail(IV_INVALID, "cluster plugins take no arguments, got '%s'", args);
    iv__cluster_host = host;
    *out_self = NULL;
    return IV_OK;
}

const char *iv__cluster_get(const char *name)
{
    const char *v = iv__cluster_host->variable(name);
    return v && *v ? v : NULL;
}

bool iv__cluster_all(const char *const *names, char *why, size_t why_size)
{
    size_t at = 0;
    *why = 0;
    for (int i = 0; names[i]; ++i) {
        const char *v = iv__cluster_get(names[i]);
        if (!v) {
            snprintf(why, why_size, "%s is not set", names[i]);
            return false;
        }
        const int n = snprintf(why + at, why_size - at, "%s%s=%.80s", i ? ", " : "", names[i], v);
        at += n > 0 && (size_t)n < why_size - at ? (size_t)n : 0;
    }
    return true;
}

iv_status iv__cluster_number(const char *name, const char *text, int64_t least, int64_t most,
                             int64_t *out)
{
    int64_t v = 0;
    const char *s = text;
    for (; *s >= '0' && *s <= '9' && s - text < 18; ++s) v = v * 10 + (*s - '0');
    if (s == text || *s)
        return iv__cluster_host->fail(IV_INVALID, "%s='%.80s': a whole number is needed", name,
                                      text);
    if (v < least || v > most)
        return iv__cluster_host->fail(IV_INVALID, "%s=%.80s: must be from %lld to %lld", name, text,
                                      (long long)least, (long long)most);
    *out = v;
    return IV_OK;
}

static int32_t *slot(iv_ranks *r, iv_rank_field field)
{
    int32_t *const slots[] = {&r->world,      &r->rank,  &r->local_world,
                              &r->local_rank, &r->nodes, &r->node};
    return slots[field];
}

void iv__cluster_set(iv_ranks *r, iv_rank_field field, int32_t value, const char *from)
{
    *slot(r, field) = value;
    snprintf(r->from[field], sizeof(r->from[field]), "%s", from);
}

iv_status iv__cluster_read(const char *what, const iv__rank_row *rows, size_t n, iv_ranks *r)
{
    for (size_t i = 0; i < n; ++i) {
        const iv__rank_row *row = &rows[i];
        const char *name = NULL, *text = NULL;
        for (int k = 0; !text && k < 5 && row->names[k]; ++k)
            text = iv__cluster_get(name = row->names[k]);
        if (!text && row->required)
            return iv__cluster_host->fail(IV_INVALID, "%s: %s is not set", what, row->names[0]);
        if (!text) continue;
        const bool count = row->field == IV_RANK_WORLD || row->field == IV_RANK_LOCAL_WORLD ||
                           row->field == IV_RANK_NODES;
        int64_t v;
        iv_status s = iv__cluster_number(name, text, count, (1 << 20) - !count, &v);
        if (s != IV_OK) return s;
        iv__cluster_set(r, row->field, (int32_t)v, name);
    }
    return IV_OK;
}

iv_status iv__cluster_address(iv_ranks *r, const char *fallback, const char *from)
{
    const char *given = iv__cluster_get("MASTER_ADDR"), *address = given ? given : fallback;
    if (!address) return IV_OK;
    if (strlen(address) >= sizeof(r->address) || strpbrk(address, " \t\n"))
        return iv__cluster_host->fail(IV_INVALID, "%s: '%.80s' is not the name of a host",
                                      given ? "MASTER_ADDR" : from, address);
    snprintf(r->address, sizeof(r->address), "%s", address);
    snprintf(r->from[IV_RANK_ADDRESS], sizeof(r->from[0]), "%s", given ? "MASTER_ADDR" : from);
    return IV_OK;
}

iv_status iv__cluster_ports(iv_ranks *r, int32_t first, int32_t span, int64_t at, const char *from)
{
    const char *given = iv__cluster_get("MASTER_PORT");
    int64_t port;
    if (given) {
        iv_status s = iv__cluster_number("MASTER_PORT", given, 1, 65535, &port);
        if (s != IV_OK) return s;
        r->ports[0] = (int32_t)port;
        r->n_ports = 1;
        snprintf(r->from[IV_RANK_PORT], sizeof(r->from[0]), "MASTER_PORT");
        return IV_OK;
    }
    r->n_ports = IV_MOST_PORTS;
    for (int k = 0; k < IV_MOST_PORTS; ++k)
        r->ports[k] = first + (int32_t)((at % span + 1231 * k) % span);
    snprintf(r->from[IV_RANK_PORT], sizeof(r->from[0]), "%s", from);
    return IV_OK;
}

void iv__cluster_host_name(char out[256])
{
    const char *given = iv__cluster_host->env("INVAR_HOST_NAME");
    if (given) snprintf(out, 256, "%s", given);
    else if (gethostname(out, 256) != 0) snprintf(out, 256, "localhost");
    out[255] = 0;
}

bool iv__cluster_same_host(const char *a, const char *b)
{
    const size_t n = strcspn(a, "."), m = strcspn(b, ".");
    if (a[n] && b[m]) return strcmp(a, b) == 0;
    return n == m && strncmp(a, b, n) == 0;
}
