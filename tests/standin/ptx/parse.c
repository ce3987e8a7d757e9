/* parse.c: the structure of a PTX module: variables, functions, declarations, statements.
 *
 * A statement goes to ptx__decode as soon as it is read, with its registers and variables looked
 * up; labels are looked up when the function ends. */
#include "internal.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* A declaration of registers: %r<75> is the prefix %r and 75 registers, %SP one with no number. */
typedef struct decl {
    const char *prefix;
    size_t length;
    int32_t first, n;
    bool numbered;
} decl;
typedef struct label {
    const char *name;
    int32_t at;
} label;
enum { DECLS = 256 };
typedef struct body {
    ptx_function *f;
    ptx_lexer *x;
    decl decls[DECLS];
    int32_t n_decls;
    label *labels;
    int32_t n_labels, cap_labels;
    const char **targets; /* label of each instruction, or NULL */
    int32_t cap_targets;
} body;

/* Room for one more element; false: no memory. */
static bool grow(void *array, int32_t n, int32_t *cap, size_t size)
{
    void **const at = array;
    if (n < *cap) return true;
    const int32_t more = 2 * *cap + 64;
    void *p = realloc(*at, (size_t)more * size);
    if (!p) return false;
    *at = p;
    *cap = more;
    return true;
}

/* ---- registers ---- */

int32_t ptx__reg_new(ptx_function *f, uint8_t bytes)
{
    if (!grow(&f->regs, f->n_regs, &f->cap_regs, sizeof(*f->regs))) return -1;
    f->regs[f->n_regs] = (ptx_reg){.bytes = bytes, .same = -1};
    return f->n_regs++;
}

int32_t ptx__constant(ptx_function *f, uint8_t bytes, uint64_t value)
{
    /* The newest only: a constant may be there twice. */
    for (int32_t i = f->n_regs - 1, seen = 0;
         i >= (f->first_constant ? f->first_constant : f->n_regs) && seen < 400; --i, ++seen) {
        const ptx_reg *r = &f->regs[i];
        if (r->constant && r->bytes == bytes && r->value == value) return i;
    }
    const int32_t k = ptx__reg_new(f, bytes);
    if (k < 0) return k;
    if (f->first_constant == 0) f->first_constant = k;
    f->regs[k].constant = true;
    f->regs[k].value = value;
    return k;
}

static int32_t special_of(const char *word)
{
    static const char *const names[SPECIALS] = {
        "%tid.x",   "%tid.y",   "%tid.z",    "%ntid.x",   "%ntid.y",   "%ntid.z", "%ctaid.x",
        "%ctaid.y", "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid"};
    for (int32_t i = 0; i < SPECIALS; ++i)
        if (strcmp(names[i], word) == 0) return i;
    return -1;
}

static int32_t reg_of(body *b, const char *word)
{
    size_t n = strlen(word);
    const int32_t special = special_of(word);
    if (special >= 0) return special;
    for (int32_t i = b->n_decls - 1; i >= 0; --i) {
        const decl *d = &b->decls[i];
        if (strncmp(d->prefix, word, d->length) != 0) continue;
        if (!d->numbered && n == d->length) return d->first;
        if (!d->numbered || n == d->length) continue;
        char *end;
        const unsigned long k = strtoul(word + d->length, &end, 10);
        if (*end == 0 && isdigit((unsigned char)word[d->length]) && k < (unsigned long)d->n)
            return d->first + (int32_t)k;
    }
    ptx__lex_fail(b->x, "register %s is not declared or not known", word);
    return -1;
}

/* Bytes of a type's name, 0 for .pred, -1 if it is none. */
static int32_t type_bytes(const char *word)
{
    if (strcmp(word, ".pred") == 0) return 0;
    if (word[0] != '.' || !strchr("bufs", word[1])) return -1;
    const int bits = atoi(word + 2);
    return bits == 8 || bits == 16 || bits == 32 || bits == 64 ? bits / 8 : -1;
}

/* .reg .b32 %r<75>, %SP; */
static bool parse_reg(body *b)
{
    ptx_lexer *x = b->x;
    const int32_t bytes = x->kind == TOK_WORD ? type_bytes(x->word) : -1;
    if (bytes < 0 || bytes == 1) return ptx__lex_fail(x, ".reg: type %s", x->word);
    ptx__lex_next(x);
    for (;;) {
        if (x->kind != TOK_WORD) return ptx__lex_fail(x, ".reg: a name is missing");
        if (b->n_decls == DECLS) return ptx__lex_fail(x, "more than %d declarations", DECLS);
        decl d = {x->word, strlen(x->word), b->f->n_regs, 1, false};
        ptx__lex_next(x);
        if (ptx__lex_is(x, '<')) {
            ptx__lex_next(x);
            d.n = (int32_t)x->number;
            d.numbered = true;
            ptx__lex_next(x);
            if (!ptx__lex_take(x, '>')) return false;
        }
        for (int32_t i = 0; i < d.n; ++i)
            if (ptx__reg_new(b->f, (uint8_t)bytes) < 0) return ptx__lex_fail(x, "no memory");
        b->decls[b->n_decls++] = d;
        if (!ptx__lex_is(x, ',')) break;
        ptx__lex_next(x);
    }
    return ptx__lex_take(x, ';');
}

/* ---- variables ---- */

static const ptx_var *var_of(const body *b, const char *name)
{
    for (int32_t i = b->f->n_vars - 1; i >= 0; --i)
        if (strcmp(b->f->vars[i].name, name) == 0) return &b->f->vars[i];
    const ptx_module *m = b->f->module;
    for (int32_t i = 0; i < m->n_vars; ++i)
        if (strcmp(m->vars[i].name, name) == 0) return &m->vars[i];
    return NULL;
}

typedef struct var_text { /* what a declaration says */
    const char *name;
    int32_t align, element, bytes; /* bytes: 0 for name[] */
    bool array;
} var_text;

/* .align 4 .b8 name[256] -- after the word of the space, up to what follows. */
static bool parse_var(ptx_lexer *x, var_text *v)
{
    *v = (var_text){.align = 0};
    while (x->kind == TOK_WORD && x->word[0] == '.') {
        const int32_t bytes = type_bytes(x->word);
        if (strcmp(x->word, ".align") == 0) {
            ptx__lex_next(x);
            v->align = (int32_t)x->number;
        } else if (bytes > 0) v->element = bytes;
        /* Others (.ptr .global of parameters) say nothing that matters here. */
        ptx__lex_next(x);
    }
    if (x->kind != TOK_WORD || v->element == 0)
        return ptx__lex_fail(x, "a variable without type or name");
    v->name = x->word;
    v->bytes = v->element;
    ptx__lex_next(x);
    if (ptx__lex_is(x, '[')) {
        ptx__lex_next(x);
        v->array = true;
        v->bytes = 0;
        if (x->kind == TOK_NUMBER) {
            v->bytes = (int32_t)x->number * v->element;
            ptx__lex_next(x);
        }
        if (!ptx__lex_take(x, ']')) return false;
    }
    if (v->align < v->element) v->align = v->element;
    return !x->failed;
}

static int32_t align_up(int32_t at, int32_t align)
{
    return (at + align - 1) / align * align;
}

/* A variable of a function, at the end of its space. */
static bool add_var(ptx_lexer *x, ptx_function *f, const var_text *v, ptx_space space)
{
    int32_t *const end = space == S_PARAM    ? &f->param_bytes
                         : space == S_SHARED ? &f->shared_bytes
                                             : &f->local_bytes;
    if (!grow(&f->vars, f->n_vars, &f->cap_vars, sizeof(*f->vars)))
        return ptx__lex_fail(x, "no memory");
    const int32_t at = align_up(*end, v->align);
    f->vars[f->n_vars++] = (ptx_var){v->name, space, (uint64_t)at, v->bytes};
    *end = at + v->bytes;
    return true;
}

/* ---- operands ---- */

static bool parse_number(ptx_lexer *x, uint64_t *out)
{
    const bool minus = ptx__lex_is(x, '-');
    if (minus) ptx__lex_next(x);
    if (x->kind != TOK_NUMBER) return ptx__lex_fail(x, "a number is missing");
    *out = minus ? 0 - x->number : x->number;
    ptx__lex_next(x);
    return true;
}

/* [%rd1+8], [name+16], [name] */
static bool parse_address(body *b, ptx_operand *o)
{
    ptx_lexer *x = b->x;
    *o = (ptx_operand){.kind = O_ADDRESS, .reg = {-1, -1, -1, -1}};
    ptx__lex_next(x);
    if (x->kind == TOK_WORD && x->word[0] == '%') {
        if ((o->reg[0] = reg_of(b, x->word)) < 0) return false;
    } else if (x->kind == TOK_WORD) {
        if (!(o->var = var_of(b, x->word))) return ptx__lex_fail(x, "no variable %s", x->word);
    } else return ptx__lex_fail(x, "an address without a register or a name");
    ptx__lex_next(x);
    if (ptx__lex_is(x, '+')) {
        ptx__lex_next(x);
        if (!parse_number(x, &o->value)) return false;
    }
    return ptx__lex_take(x, ']');
}

static bool parse_vector(body *b, ptx_operand *o)
{
    ptx_lexer *x = b->x;
    *o = (ptx_operand){.kind = O_VECTOR};
    do {
        ptx__lex_next(x);
        if (o->n == MAX_DST || x->kind != TOK_WORD)
            return ptx__lex_fail(x, "a vector that is not 1 to 4 registers");
        if ((o->reg[o->n++] = reg_of(b, x->word)) < 0) return false;
        ptx__lex_next(x);
    } while (ptx__lex_is(x, ','));
    return ptx__lex_take(x, '}');
}

static bool parse_operand(body *b, ptx_operand *o)
{
    ptx_lexer *x = b->x;
    if (ptx__lex_is(x, '[')) return parse_address(b, o);
    if (ptx__lex_is(x, '{')) return parse_vector(b, o);
    if (x->kind == TOK_NUMBER || ptx__lex_is(x, '-')) {
        *o = (ptx_operand){.kind = O_INT};
        return parse_number(x, &o->value);
    }
    if (x->kind == TOK_F32 || x->kind == TOK_F64) {
        *o = (ptx_operand){.kind = x->kind == TOK_F32 ? O_F32 : O_F64, .value = x->number};
    } else if (x->kind == TOK_WORD && x->word[0] == '%') {
        *o = (ptx_operand){.kind = O_REG};
        if ((o->reg[0] = reg_of(b, x->word)) < 0) return false;
    } else if (x->kind == TOK_WORD) {
        const ptx_var *v = var_of(b, x->word);
        *o = (ptx_operand){.kind = v ? O_VAR : O_LABEL, .var = v, .label = x->word};
    } else return ptx__lex_fail(x, "an operand is missing");
    ptx__lex_next(x);
    return !x->failed;
}

/* ---- statements ---- */

/* Remembers where the branches just decoded go. */
static bool note_target(body *b, const ptx_statement *s)
{
    ptx_function *f = b->f;
    for (int32_t cap = b->cap_targets; cap < f->n_code;) {
        if (!grow(&b->targets, cap, &b->cap_targets, sizeof(*b->targets)))
            return ptx__lex_fail(b->x, "no memory");
        memset(b->targets + cap, 0, (size_t)(b->cap_targets - cap) * sizeof(*b->targets));
        cap = b->cap_targets;
    }
    b->targets[f->n_code - 1] =
        s->n == 1 && s->operand[0].kind == O_LABEL ? s->operand[0].label : NULL;
    return true;
}

static bool parse_statement(body *b, int32_t guard, bool guard_not)
{
    ptx_lexer *x = b->x;
    ptx_statement s = {.name = x->word, .line = x->line, .guard = guard, .guard_not = guard_not};
    ptx__lex_next(x);
    while (!ptx__lex_is(x, ';')) {
        if (s.n == MAX_OPERANDS) return ptx__lex_fail(x, "%s: too many operands", s.name);
        if (!parse_operand(b, &s.operand[s.n++])) return false;
        if (ptx__lex_is(x, ',')) ptx__lex_next(x);
        else if (!ptx__lex_is(x, ';'))
            return ptx__lex_fail(x, "%s: operands of an unknown form", s.name);
    }
    ptx__lex_next(x);
    return ptx__decode(x, b->f, &s) && note_target(b, &s);
}

/* @%p1 or @!%p1 */
static bool parse_guard(body *b)
{
    ptx_lexer *x = b->x;
    ptx__lex_next(x);
    const bool no = ptx__lex_is(x, '!');
    if (no) ptx__lex_next(x);
    const int32_t guard = x->kind == TOK_WORD ? reg_of(b, x->word) : -1;
    if (guard < 0 || b->f->regs[guard].bytes != 0) return ptx__lex_fail(x, "@ without a predicate");
    ptx__lex_next(x);
    if (x->kind != TOK_WORD) return ptx__lex_fail(x, "@ without an instruction");
    return parse_statement(b, guard, no);
}

static bool add_label(body *b, const char *name)
{
    if (!grow(&b->labels, b->n_labels, &b->cap_labels, sizeof(*b->labels)))
        return ptx__lex_fail(b->x, "no memory");
    b->labels[b->n_labels++] = (label){name, b->f->n_code};
    return true;
}

/* A directive in a body. */
static bool parse_directive(body *b)
{
    ptx_lexer *x = b->x;
    const char *word = x->word;
    var_text v;
    ptx__lex_next(x);
    if (strcmp(word, ".reg") == 0) return parse_reg(b);
    if (strcmp(word, ".shared") == 0 || strcmp(word, ".local") == 0)
        return parse_var(x, &v) && add_var(x, b->f, &v, word[1] == 's' ? S_SHARED : S_LOCAL) &&
               ptx__lex_take(x, ';');
    if (strcmp(word, ".pragma") == 0) {
        ptx__lex_next(x);
        return ptx__lex_take(x, ';');
    }
    return ptx__lex_fail(x, "unknown directive %s", word);
}

static bool parse_item(body *b)
{
    ptx_lexer *x = b->x;
    if (ptx__lex_is(x, '@')) return parse_guard(b);
    if (ptx__lex_is(x, ';')) {
        ptx__lex_next(x);
        return true;
    }
    if (x->kind != TOK_WORD) return ptx__lex_fail(x, "a statement is missing");
    if (x->word[0] == '.') return parse_directive(b);
    /* A label is a word with a colon behind it. */
    char *c = x->at;
    if (x->held == ':' || (x->held == ' ' && c[1] == ':')) {
        const char *name = x->word;
        ptx__lex_next(x);
        return ptx__lex_take(x, ':') && add_label(b, name);
    }
    return parse_statement(b, -1, false);
}

static int label_compare(const void *a, const void *b)
{
    return strcmp(((const label *)a)->name, ((const label *)b)->name);
}

/* Branches learn where they go; every target begins a block. */
static bool link_branches(body *b)
{
    ptx_function *f = b->f;
    if (b->n_labels) qsort(b->labels, (size_t)b->n_labels, sizeof(*b->labels), label_compare);
    for (int32_t i = 0; i < f->n_code; ++i) {
        if (f->code[i].kind != K_BRA) continue;
        const label key = {b->targets[i], 0};
        const label *to = key.name && b->n_labels ? bsearch(&key, b->labels, (size_t)b->n_labels,
                                                            sizeof(key), label_compare)
                                                  : NULL;
        if (!to || to->at >= f->n_code)
            return ptx__lex_fail(b->x, "a branch to %s, which is not a label",
                                 key.name ? key.name : "?");
        f->code[i].target = to->at;
        f->code[to->at].leader = 1;
        if (i + 1 < f->n_code) f->code[i + 1].leader = 1;
    }
    return true;
}

static bool parse_body(ptx_lexer *x, ptx_function *f)
{
    body *b = calloc(1, sizeof(*b));
    if (!b) return ptx__lex_fail(x, "no memory");
    b->f = f;
    b->x = x;
    int32_t depth = 0;
    bool good = true;
    do {
        if (ptx__lex_is(x, '{') || ptx__lex_is(x, '}')) {
            depth += ptx__lex_is(x, '{') ? 1 : -1;
            ptx__lex_next(x);
        } else good = parse_item(b);
    } while (good && depth > 0 && !x->failed);
    good = good && !x->failed && link_branches(b);
    if (good && (f->n_code == 0 ||
                 (f->code[f->n_code - 1].kind != K_RET && f->code[f->n_code - 1].kind != K_BRA)))
        good = ptx__lex_fail(x, "%s does not end with ret or a branch", f->name);
    free(b->labels);
    free(b->targets);
    free(b);
    return good;
}

/* ---- functions and the module ---- */

static bool parse_params(ptx_lexer *x, ptx_function *f)
{
    var_text v;
    if (!ptx__lex_is(x, '(')) return true;
    ptx__lex_next(x);
    while (!ptx__lex_is(x, ')')) {
        if (!ptx__lex_word(x, ".param")) return ptx__lex_fail(x, "%s: expected .param", f->name);
        ptx__lex_next(x);
        if (!parse_var(x, &v) || !add_var(x, f, &v, S_PARAM)) return false;
        f->n_params = f->n_vars;
        if (ptx__lex_is(x, ',')) ptx__lex_next(x);
    }
    return ptx__lex_take(x, ')');
}

/* .maxntid 64, 1, 1 and the like */
static bool parse_limits(ptx_lexer *x, ptx_function *f)
{
    f->max_threads = 1024;
    while (x->kind == TOK_WORD) {
        const bool threads = ptx__lex_word(x, ".maxntid") || ptx__lex_word(x, ".reqntid");
        if (!threads && !ptx__lex_word(x, ".minnctapersm") && !ptx__lex_word(x, ".maxnreg"))
            return ptx__lex_fail(x, "%s: unknown directive %s", f->name, x->word);
        int32_t product = 1;
        do {
            ptx__lex_next(x);
            product *= (int32_t)x->number;
            ptx__lex_next(x);
        } while (ptx__lex_is(x, ','));
        if (threads) f->max_threads = product;
    }
    return true;
}

static bool parse_entry(ptx_module *m, ptx_lexer *x)
{
    ptx_function *f = calloc(1, sizeof(*f));
    if (!f) return ptx__lex_fail(x, "no memory");
    f->module = m;
    f->next = m->functions;
    m->functions = f;
    f->name = x->word;
    f->shared_granule = 4;
    for (int32_t i = 0; i < SPECIALS; ++i)
        if (ptx__reg_new(f, 4) < 0) return ptx__lex_fail(x, "no memory");
    ptx__lex_next(x);
    for (int32_t i = 0; i < m->n_vars;
         ++i) /* extern shared memory begins behind a function's own */
        if (m->vars[i].space == S_SHARED) f->dynamic_shared = true;
    return parse_params(x, f) && parse_limits(x, f) && parse_body(x, f) &&
           (ptx__place(f) || ptx__lex_fail(x, "no memory"));
}

/* A variable of the module: extern shared memory, or global or constant bytes with their values. */
static bool parse_module_var(ptx_module *m, ptx_lexer *x, ptx_space space)
{
    var_text v;
    if (!parse_var(x, &v)) return false;
    if (!grow(&m->vars, m->n_vars, &m->cap_vars, sizeof(*m->vars)))
        return ptx__lex_fail(x, "no memory");
    ptx_var *var = &m->vars[m->n_vars];
    *var = (ptx_var){v.name, space, 0, v.bytes};
    if (space == S_SHARED) {
        if (v.bytes != 0) return ptx__lex_fail(x, "shared memory %s outside of a kernel", v.name);
        ++m->n_vars;
        return ptx__lex_take(x, ';');
    }
    if (sc_mem_alloc(m->device, v.bytes, SC_MEM_DEVICE, "a module's variable", &var->address) !=
        SC_OK)
        return ptx__lex_fail(x, "no device memory for %s", v.name);
    ++m->n_vars;
    char *to = memset(sc_mem_alias(var->address), 0, (size_t)v.bytes);
    if (ptx__lex_is(x, '=')) {
        ptx__lex_next(x);
        const bool list = ptx__lex_is(x, '{');
        if (list) ptx__lex_next(x);
        for (int32_t at = 0; !ptx__lex_is(x, ';') && !ptx__lex_is(x, '}'); at += v.element) {
            uint64_t value = x->number;
            if (x->kind == TOK_F32 || x->kind == TOK_F64) ptx__lex_next(x);
            else if (!parse_number(x, &value)) return false;
            if (at + v.element > v.bytes) return ptx__lex_fail(x, "%s has too many values", v.name);
            memcpy(to + at, &value, (size_t)v.element);
            if (ptx__lex_is(x, ',')) ptx__lex_next(x);
        }
        if (list && !ptx__lex_take(x, '}')) return false;
    }
    return ptx__lex_take(x, ';');
}

static bool parse_top(ptx_module *m, ptx_lexer *x)
{
    const char *word = x->kind == TOK_WORD ? x->word : "?";
    ptx__lex_next(x);
    if (strcmp(word, ".version") == 0 || strcmp(word, ".address_size") == 0 ||
        strcmp(word, ".target") == 0) {
        ptx__lex_next(x);
        return true;
    }
    if (strcmp(word, ".visible") == 0 || strcmp(word, ".extern") == 0 || strcmp(word, ".weak") == 0)
        return true;
    if (strcmp(word, ".entry") == 0) return parse_entry(m, x);
    if (strcmp(word, ".global") == 0 || strcmp(word, ".const") == 0)
        return parse_module_var(m, x, S_GLOBAL);
    if (strcmp(word, ".shared") == 0) return parse_module_var(m, x, S_SHARED);
    return ptx__lex_fail(x, "unknown directive %s", word);
}

bool ptx__parse(ptx_module *m, ptx_lexer *x)
{
    if (!ptx__lex_word(x, ".version"))
        return ptx__lex_fail(x, "this is not PTX: .version is missing");
    while (x->kind != TOK_END && !x->failed)
        if (!parse_top(m, x)) return false;
    return !x->failed;
}
