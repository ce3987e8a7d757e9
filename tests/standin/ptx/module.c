/* module.c: modules and functions as their users see them, and the report of the checked blocks. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool ptx_load(sc_device *device, const char *text, char *error, size_t error_size,
              ptx_module **out_module)
{
    ptx_module *m = calloc(1, sizeof(*m));
    ptx_lexer x;
    snprintf(error, error_size, "no memory");
    if (!m) return false;
    m->device = device;
    m->level = ptx__level();
    m->text = strdup(text);
    if (!m->text || !ptx__op_table_open(m)) {
        ptx_unload(m);
        return false;
    }
    ptx__lex_open(&x, m->text, error, error_size);
    if (!ptx__parse(m, &x)) {
        ptx_unload(m);
        return false;
    }
    ptx_function *last = NULL; /* in the order of the text */
    while (m->functions) {
        ptx_function *next = m->functions->next;
        m->functions->next = last;
        last = m->functions;
        m->functions = next;
    }
    m->functions = last;
    *out_module = m;
    return true;
}

void ptx_unload(ptx_module *m)
{
    if (!m) return;
    for (ptx_function *f = m->functions, *next; f; f = next) {
        next = f->next;
        free(f->code);
        free(f->regs);
        free(f->vars);
        free(f->counts);
        free(f);
    }
    for (int32_t i = 0; i < m->n_vars; ++i)
        if (m->vars[i].space == S_GLOBAL)
            sc_mem_free(m->vars[i].address, SC_MEM_DEVICE, "a module's end");
    free(m->vars);
    free(m->op_table);
    free(m->text);
    free(m);
}

ptx_function *ptx_function_get(ptx_module *m, const char *name)
{
    ptx_function *f = m->functions;
    while (f && strcmp(f->name, name) != 0) f = f->next;
    return f;
}

ptx_function *ptx_function_at(ptx_module *m, int32_t index)
{
    ptx_function *f = m->functions;
    while (f && index-- > 0) f = f->next;
    return f;
}

const char *ptx_function_name(const ptx_function *f)
{
    return f->name;
}

sc_device *ptx_function_device(const ptx_function *f)
{
    return f->module->device;
}

int32_t ptx_function_params(const ptx_function *f)
{
    return f->n_params;
}

int32_t ptx_function_param(const ptx_function *f, int32_t k, int32_t *out_offset)
{
    *out_offset = (int32_t)f->vars[k].address;
    return f->vars[k].bytes;
}

int32_t ptx_function_param_bytes(const ptx_function *f)
{
    return f->param_bytes;
}

void ptx_function_size(const ptx_function *f, ptx_size *out)
{
    *out = (ptx_size){f->shared_bytes, f->local_bytes, f->max_threads, f->n_code,
                      f->file_bytes / LANES};
}

/* ---- report ---- */

bool ptx_function_counts(const ptx_function *f, int32_t k, ptx_counts *out)
{
    for (int32_t i = 0; i < f->n_code; ++i) {
        if (f->code[i].counter != k) continue;
        const ptx_shadow_counts *c = &f->counts[k];
        *out = (ptx_counts){f->code[i].line, f->code[i].name, f->code[i].space == S_SHARED,
                            c->requests,     c->units,        c->ideal,
                            c->worst};
        return true;
    }
    return false;
}

void ptx_function_forget(ptx_function *f)
{
    memset(f->counts, 0, (size_t)f->n_counters * sizeof(*f->counts));
}

static double ratio(int64_t units, int64_t ideal)
{
    return ideal ? (double)units / (double)ideal : 1;
}

static void report_function(const ptx_function *f, void (*line)(void *ctx, const char *text),
                            void *ctx)
{
    char text[256];
    int64_t units[2] = {0, 0}, ideal[2] = {0, 0};
    int32_t worst = 1;
    ptx_counts c;
    for (int32_t k = 0; ptx_function_counts(f, k, &c); ++k) {
        units[c.shared] += c.units;
        ideal[c.shared] += c.ideal;
        worst = c.worst > worst ? c.worst : worst;
    }
    if (ideal[0] + ideal[1] == 0) return;
    snprintf(text, sizeof(text),
             "%-20s global: %lld sectors, %.2f of the ideal; shared: %lld passes, %.2f of the "
             "ideal, at worst %d-way",
             f->name, (long long)units[0], ratio(units[0], ideal[0]), (long long)units[1],
             ratio(units[1], ideal[1]), worst);
    line(ctx, text);
    for (int32_t k = 0; ptx_function_counts(f, k, &c); ++k) {
        const double r = ratio(c.units, c.ideal);
        if (r <= 1.25 && c.worst <= 2) continue;
        snprintf(text, sizeof(text), "    %s (PTX line %d): %lld requests, %.2f of the ideal%s%d",
                 c.name, c.line, (long long)c.requests, r, c.shared ? ", at worst ways: " : "",
                 c.shared ? c.worst : 0);
        if (!c.shared) *strrchr(text, '0') = 0;
        line(ctx, text);
    }
}

void ptx_report(const ptx_module *m, void (*line)(void *ctx, const char *text), void *ctx)
{
    for (const ptx_function *f = m->functions; f; f = f->next) report_function(f, line, ctx);
}
