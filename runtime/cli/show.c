/* show.c: `invar devices`, `plugins` and `env`: tables of what is there.  With --json one object a
 * line. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

/* ,"name":"text" */
static void member(const char *name, const char *text)
{
    printf(",\"%s\":", name);
    if (text) iv__json_text(stdout, text);
    else fputs("null", stdout);
}

static const char *truth(bool b)
{
    return b ? "true" : "false";
}

static void device_json(const iv_device_entry *d)
{
    fputs("{\"name\":", stdout);
    iv__json_text(stdout, d->name);
    printf(",\"usable\":%s", truth(!d->why[0]));
    if (d->why[0]) {
        member("why", d->why);
    } else {
        member("description", d->description);
        member("vendor", d->vendor);
        member("driver", d->driver);
        member("arch", d->arch);
        member("notes", d->notes);
        printf(",\"mem_bytes\":%lld,\"mem_free\":%lld,\"units\":%d,\"f64\":%s,\"exact\":%s,"
               "\"native_bf16\":%s,\"native_f16\":%s",
               (long long)d->mem_bytes, (long long)d->mem_free, d->units, truth(d->f64),
               truth(d->exact), truth(d->native_bf16), truth(d->native_f16));
    }
    puts("}");
}

static void device_text(const iv_device_entry *d)
{
    char all[32], left[32];
    if (d->why[0]) {
        printf("%-10s not usable: %s\n", d->name, d->why);
        return;
    }
    iv__print_bytes(all, d->mem_bytes);
    iv__print_bytes(left, d->mem_free);
    printf("%-10s %s\n", d->name, d->description);
    printf("%10s %d units, %s of memory, %s free%s%s\n", "", d->units, all, left,
           d->arch[0] ? ", " : "", d->arch);
    printf("%10s f32 native, f64 %s, bf16 %s, f16 %s; invariant numerics: %s\n", "",
           d->f64 ? "native" : "no", d->native_bf16 ? "native" : "emulated",
           d->native_f16 ? "native" : "emulated", d->exact ? "yes" : "not by all kernels");
    if (d->driver[0])
        printf("%10s %s%s%sdriver %s\n", "", d->vendor[0] ? "vendor " : "", d->vendor,
               d->vendor[0] ? ", " : "", d->driver);
    if (d->notes[0]) printf("%10s %s\n", "", d->notes);
}

int iv__cli_devices(iv__cli *c)
{
    iv_device_entry *devices;
    int64_t n;
    const iv_status s = iv_devices_list(&devices, &n);
    if (s != IV_OK) return iv__cli_status(c, s);
    for (int64_t i = 0; i < n; ++i) {
        if (c->json) device_json(&devices[i]);
        else device_text(&devices[i]);
    }
    free(devices);
    return 0;
}

static void plugin_json(const iv_plugin_info *p)
{
    fputs("{\"kind\":", stdout);
    iv__json_text(stdout, p->kind);
    member("name", p->name);
    member("version", p->version);
    member("summary", p->summary);
    member("origin", p->origin);
    member("refused", p->refused[0] ? p->refused : NULL);
    puts("}");
}

static void plugin_text(const iv_plugin_info *p, bool verbose)
{
    if (p->refused[0]) {
        if (verbose) printf("%-11s %-14s refused: %s\n", p->kind, p->name, p->refused);
        return;
    }
    printf("%-11s %-14s %s\n", p->kind, p->name, p->summary ? p->summary : "");
    if (verbose)
        printf("%26s loaded, version %s, %s\n", "", p->version ? p->version : "?", p->origin);
}

/* The lines of a precision plugin's policy, indented. */
static void policy_text(const char *name)
{
    char *text, *rest;
    if (iv_precision_text(name, &text) != IV_OK) {
        printf("%26s not to be opened: %s\n", "", iv_error_message());
        return;
    }
    rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (*line) printf("%26s %s\n", "", line);
    free(text);
}

static void plugins_of(const iv__cli *c, const char *kind)
{
    iv_plugin_info p;
    for (int32_t i = 0; iv_plugin_entry(i, &p); ++i) {
        if (strcmp(p.kind, kind) != 0) continue;
        if (c->json) plugin_json(&p);
        else plugin_text(&p, c->verbose);
        if (!c->json && c->verbose && !p.refused[0] && strcmp(kind, "precision") == 0)
            policy_text(p.name);
    }
}

int iv__cli_plugins(iv__cli *c)
{
    iv_plugin_info p, earlier;
    for (int32_t i = 0; iv_plugin_entry(i, &p); ++i) {
        int32_t first = 0;
        while (iv_plugin_entry(first, &earlier) && strcmp(earlier.kind, p.kind) != 0) ++first;
        if (first == i) plugins_of(c, p.kind);
    }
    return 0;
}

int iv__cli_env(iv__cli *c)
{
    const int64_t n = iv_env_count();
    for (int64_t i = 0; i < n; ++i) {
        const char *help, *value, *name = iv_env_entry(i, &help, &value);
        if (c->json) {
            fputs("{\"name\":", stdout);
            iv__json_text(stdout, name);
            member("value", value);
            member("help", help);
            puts("}");
        } else {
            printf("%-22s %s\n", name, help);
            if (value) printf("%22s = %s\n", "", value);
        }
    }
    return 0;
}
