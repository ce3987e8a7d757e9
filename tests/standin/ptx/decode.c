/* decode.c: a statement becomes an instruction: its operation by its mnemonic, its operands checked
 * against the types of that, numbers as registers that hold constants. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t ptx__tag_bytes(ptx_tag t)
{
    static const int8_t bytes[] = {0, 0, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
    return bytes[t];
}

const ptx_level *ptx__level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        return &ptx__level_v3;
#endif
    return &ptx__level_base;
}

/* ---- mnemonic -> operation ---- */

enum { TABLE = 2048 };
typedef struct name_row {
    const char *name;
    size_t length;
    const ptx_op *op;
} name_row;

static uint32_t hash_of(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; ++i) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h;
}

bool ptx__op_table_open(ptx_module *m)
{
    name_row *table = calloc(TABLE, sizeof(*table));
    if (!table) return false;
    for (const ptx_op *op = m->level->ops; op->names; ++op)
        for (const char *s = op->names; *s;) {
            const size_t n = strcspn(s, " ");
            uint32_t h = hash_of(s, n) % TABLE;
            while (table[h].name) h = (h + 1) % TABLE;
            table[h] = (name_row){s, n, op};
            s += n + (s[n] == ' ');
        }
    m->op_table = table;
    return true;
}

static const ptx_op *op_of(const ptx_module *m, const char *name)
{
    const name_row *table = m->op_table;
    const size_t n = strlen(name);
    for (uint32_t h = hash_of(name, n) % TABLE; table[h].name; h = (h + 1) % TABLE)
        if (table[h].length == n && memcmp(table[h].name, name, n) == 0) return table[h].op;
    return NULL;
}

/* A conversion out of a register wider than its type is a row of its own. */
static const ptx_op *conversion_of(const ptx_function *f, const ptx_statement *s, const ptx_op *op)
{
    char name[80];
    const ptx_operand *o = &s->operand[1];
    if (strncmp(s->name, "cvt.", 4) != 0 || s->n != 2 || o->kind != O_REG) return op;
    const int32_t bytes = f->regs[o->reg[0]].bytes;
    if (bytes <= ptx__tag_bytes(op->tag[1])) return op;
    snprintf(name, sizeof(name), "%s/%d", s->name, bytes);
    const ptx_op *wide = op_of(f->module, name);
    return wide ? wide : op;
}

/* ---- operands ---- */

static uint8_t reg_bytes(ptx_tag t)
{
    return t == T_pr ? 0 : (uint8_t)ptx__tag_bytes(t);
}

/* The value of a variable's name: its address in its space. */
static uint64_t var_value(const ptx_function *f, const ptx_var *v)
{
    /* Memory whose size the launch says begins where the function's own ends. */
    if (v->space == S_SHARED && v->bytes == 0) return ((uint64_t)f->shared_bytes + 15) / 16 * 16;
    return v->address;
}

/* The register of a source operand of type t. */
static int32_t source(ptx_lexer *x, ptx_function *f, const ptx_statement *s, int32_t k, ptx_tag t)
{
    const ptx_operand *o = &s->operand[k];
    const uint8_t bytes = reg_bytes(t);
    uint64_t value = o->value;
    if (o->kind == O_REG) {
        if (f->regs[o->reg[0]].bytes == bytes) return o->reg[0];
        ptx__lex_fail(x, "%s: operand %d is a register of %d bytes, expected %d", s->name, k + 1,
                      f->regs[o->reg[0]].bytes, bytes);
        return -1;
    }
    const bool is_float = t == T_f32 || t == T_f64;
    if (o->kind == O_VAR) value = var_value(f, o->var);
    else if (o->kind == O_F64 && bytes == 4) { /* rounded to what is asked for */ double d;
        float g;
        memcpy(&d, &value, sizeof(d));
        g = (float)d;
        uint32_t u;
        memcpy(&u, &g, sizeof(u));
        value = u;
    } else if (o->kind != O_INT && o->kind != O_F32 && o->kind != O_F64) {
        ptx__lex_fail(x, "%s: operand %d has an unknown form", s->name, k + 1);
        return -1;
    }
    if (o->kind == O_INT && is_float) {
        ptx__lex_fail(x, "%s: operand %d is a whole number", s->name, k + 1);
        return -1;
    }
    if (bytes == 0) value = value ? 0xffffffffu : 0;
    else if (bytes < 8) value &= ((uint64_t)1 << 8 * bytes) - 1;
    return ptx__constant(f, bytes, value);
}

static int32_t result(ptx_lexer *x, ptx_function *f, const ptx_statement *s, ptx_tag t)
{
    const ptx_operand *o = &s->operand[0];
    if (s->n == 0 || o->kind != O_REG || o->reg[0] < SPECIALS ||
        f->regs[o->reg[0]].bytes != reg_bytes(t)) {
        ptx__lex_fail(x, "%s: the result is not a register of %d bytes", s->name, reg_bytes(t));
        return -1;
    }
    ++f->regs[o->reg[0]].defs;
    return o->reg[0];
}

/* ---- instructions ---- */

static ptx_insn *insn_new(ptx_lexer *x, ptx_function *f, const ptx_statement *s, ptx_kind kind)
{
    if (f->n_code == f->cap_code) {
        const int32_t cap = 2 * f->cap_code + 256;
        ptx_insn *more = realloc(f->code, (size_t)cap * sizeof(*more));
        if (!more) {
            ptx__lex_fail(x, "no memory");
            return NULL;
        }
        f->code = more;
        f->cap_code = cap;
    }
    ptx_insn *i = &f->code[f->n_code++];
    *i = (ptx_insn){.kind = (uint8_t)kind,
                    .guard = s->guard,
                    .guard_not = s->guard_not,
                    .line = s->line,
                    .name = s->name,
                    .target = -1,
                    .counter = -1};
    for (int32_t k = 0; k < MAX_DST; ++k) i->d[k] = -1;
    for (int32_t k = 0; k < MAX_SRC; ++k) i->s[k] = -1;
    i->leader = f->n_code == 1;
    return i;
}

static bool decode_op(ptx_lexer *x, ptx_function *f, const ptx_statement *s, const ptx_op *op)
{
    if (s->n != op->n_src + 1) return ptx__lex_fail(x, "%s with %d operands", s->name, s->n);
    ptx_insn *i = insn_new(x, f, s, K_OP);
    if (!i) return false;
    i->full = op->full;
    i->masked = op->masked;
    if ((i->d[0] = result(x, f, s, op->tag[0])) < 0) return false;
    for (int32_t k = 0; k < op->n_src; ++k)
        if ((i->s[k] = source(x, f, s, k + 1, op->tag[k + 1])) < 0) return false;
    return true;
}

/* mov.b64 {%r1, %r2}, %rd1 and back: equal parts, the lowest first. */
static bool decode_parts(ptx_lexer *x, ptx_function *f, const ptx_statement *s)
{
    const bool pack = s->operand[1].kind == O_VECTOR;
    const ptx_operand *one = &s->operand[pack ? 0 : 1], *parts = &s->operand[pack ? 1 : 0];
    if (s->n != 2 || one->kind != O_REG || parts->kind != O_VECTOR)
        return ptx__lex_fail(x, "%s: operands of an unknown form", s->name);
    const int32_t whole = f->regs[one->reg[0]].bytes;
    for (int32_t k = 0; k < parts->n; ++k)
        if (parts->n < 2 || f->regs[parts->reg[k]].bytes * parts->n != whole ||
            parts->reg[k] < SPECIALS)
            return ptx__lex_fail(x, "%s: parts that do not make the whole", s->name);
    ptx_insn *i = insn_new(x, f, s, pack ? K_PACK : K_UNPACK);
    if (!i) return false;
    i->n = parts->n;
    i->bytes = (uint8_t)(whole / parts->n);
    for (int32_t k = 0; k < parts->n; ++k) {
        *(pack ? &i->s[k] : &i->d[k]) = parts->reg[k];
        if (!pack) ++f->regs[parts->reg[k]].defs;
    }
    *(pack ? &i->d[0] : &i->s[0]) = one->reg[0];
    if (pack) ++f->regs[one->reg[0]].defs;
    return true;
}

/* ---- loads and stores ---- */

typedef struct access_text {
    ptx_space space;
    int32_t n, bytes;
    bool sign;
} access_text;

/* The parts of a mnemonic behind ld or st: space, cache hints, v2 or v4, type. */
static bool access_of(const char *parts, access_text *a)
{
    static const struct {
        const char *name;
        ptx_space space;
    } spaces[] = {{"global", S_GLOBAL}, {"shared", S_SHARED}, {"shared::cta", S_SHARED},
                  {"local", S_LOCAL},   {"param", S_PARAM},   {"const", S_GLOBAL}};
    static const char *const hints[] = {"nc", "ca", "cg",       "cs",  "lu",
                                        "wb", "wt", "volatile", "weak"};
    *a = (access_text){S_GENERIC, 1, 0, false};
    while (*parts == '.') {
        const size_t n = strcspn(++parts, ".");
        bool known = false;
        for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); ++i)
            if (strlen(spaces[i].name) == n && memcmp(spaces[i].name, parts, n) == 0) {
                a->space = spaces[i].space;
                known = true;
            }
        for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); ++i)
            known |= strlen(hints[i]) == n && memcmp(hints[i], parts, n) == 0;
        if (n == 2 && parts[0] == 'v' && (parts[1] == '2' || parts[1] == '4')) {
            a->n = parts[1] - '0';
            known = true;
        }
        const int bits = n > 1 && strchr("bufs", parts[0]) ? atoi(parts + 1) : 0;
        if (bits == 8 || bits == 16 || bits == 32 || bits == 64) {
            a->bytes = bits / 8;
            a->sign = parts[0] == 's';
            known = true;
        }
        if (!known) return false;
        parts += n;
    }
    return a->bytes != 0;
}

static bool decode_address(ptx_lexer *x, ptx_function *f, const ptx_statement *s,
                           const ptx_operand *o, ptx_insn *i)
{
    if (o->kind != O_ADDRESS) return ptx__lex_fail(x, "%s: an address is missing", s->name);
    i->imm = (int64_t)o->value;
    if (o->var) {
        i->imm += (int64_t)var_value(f, o->var);
        if (i->space == S_GENERIC) i->space = (uint8_t)o->var->space;
        if (o->var->space != i->space)
            return ptx__lex_fail(x, "%s: %s lies elsewhere", s->name, o->var->name);
        return true;
    }
    i->s[4] = o->reg[0];
    i->addr_bytes = f->regs[o->reg[0]].bytes;
    if (i->addr_bytes < 4)
        return ptx__lex_fail(x, "%s: an address of %d bytes", s->name, i->addr_bytes);
    return true;
}

static bool decode_memory(ptx_lexer *x, ptx_function *f, const ptx_statement *s, bool store)
{
    access_text a;
    if (!access_of(s->name + 2, &a) || s->n != 2)
        return ptx__lex_fail(x, "this machine does not know %s", s->name);
    const ptx_operand *data = &s->operand[store ? 1 : 0];
    ptx_operand constant;
    if (store && data->kind != O_REG && data->kind != O_VECTOR) {
        const ptx_tag t = a.bytes == 8 ? T_u64 : a.bytes == 4 ? T_u32 : T_u16;
        constant = (ptx_operand){.kind = O_REG, .reg = {source(x, f, s, 1, t)}};
        if (constant.reg[0] < 0) return false;
        data = &constant;
    }
    const int32_t n = data->kind == O_VECTOR ? data->n : data->kind == O_REG ? 1 : 0;
    if (n != a.n) return ptx__lex_fail(x, "%s: %d registers", s->name, n);
    ptx_insn *i = insn_new(x, f, s, K_MEM);
    if (!i) return false;
    i->space = (uint8_t)a.space;
    i->n = (uint8_t)a.n;
    i->bytes = (uint8_t)a.bytes;
    i->sign = a.sign;
    i->store = store;
    i->reg_bytes = f->regs[data->reg[0]].bytes;
    for (int32_t k = 0; k < n; ++k) {
        const ptx_reg *r = &f->regs[data->reg[k]];
        if (r->bytes < a.bytes || r->bytes != i->reg_bytes || r->bytes == 0 ||
            (!store && data->reg[k] < SPECIALS))
            return ptx__lex_fail(x, "%s: a register of %d bytes", s->name, r->bytes);
        *(store ? &i->s[k] : &i->d[k]) = data->reg[k];
        if (!store) ++f->regs[data->reg[k]].defs;
    }
    if (!decode_address(x, f, s, &s->operand[store ? 0 : 1], i)) return false;
    if (i->space == S_PARAM && store) return ptx__lex_fail(x, "%s to a parameter", s->name);
    if (i->space == S_GLOBAL || i->space == S_SHARED || i->space == S_GENERIC)
        i->counter = f->n_counters++;
    if ((i->space == S_SHARED || i->space == S_GENERIC) && a.bytes < f->shared_granule)
        f->shared_granule = a.bytes;
    return true;
}

/* ---- control ---- */

/* Barrier 0 for all threads; its forms differ in name only. */
static bool decode_barrier(ptx_lexer *x, ptx_function *f, const ptx_statement *s)
{
    if (s->n != 1 || s->operand[0].kind != O_INT || s->operand[0].value != 0)
        return ptx__lex_fail(x, "%s: only barrier 0 for all threads is known", s->name);
    if (s->guard >= 0) return ptx__lex_fail(x, "%s under a predicate", s->name);
    return insn_new(x, f, s, K_BAR) != NULL;
}

static bool one_of(const char *name, const char *const *list)
{
    for (; *list; ++list)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

bool ptx__decode(ptx_lexer *x, ptx_function *f, const ptx_statement *s)
{
    static const char *const branches[] = {"bra", "bra.uni", 0}, *const ends[] = {"ret", "ret.uni",
                                                                                  "exit", 0};
    static const char *const barriers[] = {"bar.sync", "barrier.sync", "barrier.sync.aligned", 0};
    /* Memory here is in order for all threads at once. */
    static const char *const fences[] = {
        "membar.cta",        "membar.gl",    "membar.sys",   "fence.acq_rel.cta",
        "fence.acq_rel.gpu", "fence.sc.cta", "fence.sc.gpu", 0};
    const ptx_op *op = op_of(f->module, s->name);
    if (op && s->n == 2 && (s->operand[0].kind == O_VECTOR || s->operand[1].kind == O_VECTOR) &&
        strncmp(s->name, "mov.b", 5) == 0)
        return decode_parts(x, f, s);
    if (op) return decode_op(x, f, s, conversion_of(f, s, op));
    if (strncmp(s->name, "ld.", 3) == 0) return decode_memory(x, f, s, false);
    if (strncmp(s->name, "st.", 3) == 0) return decode_memory(x, f, s, true);
    if (one_of(s->name, branches)) return insn_new(x, f, s, K_BRA) != NULL;
    if (one_of(s->name, ends)) return insn_new(x, f, s, K_RET) != NULL;
    if (one_of(s->name, barriers)) return decode_barrier(x, f, s);
    if (one_of(s->name, fences)) return insn_new(x, f, s, K_NOP) != NULL;
    if (strcmp(s->name, "trap") == 0) return insn_new(x, f, s, K_TRAP) != NULL;
    return ptx__lex_fail(x, "this machine does not know %s", s->name);
}
