/* pickle.c: reads PyTorch's pickles as data (see pickle.h). */
#include "pickle.h"

#include <stdlib.h>
#include <string.h>

typedef struct machine {
    const iv__io_job *job;
    const unsigned char *s;
    size_t n, i;
    iv__pickle_tree *tree;
    iv__pickle **stack; /* NULL entries are marks */
    int64_t depth, stack_cap;
    iv__pickle **memo;
    int64_t memo_n, memo_cap;
    size_t text_at;
} machine;

static iv_status bad(const machine *m, const char *what)
{
    return iv__io_fail(m->job, IV_CORRUPT, "its pickle: %s, at byte %zu", what, m->i);
}

static iv_status no_memory(const machine *m)
{
    return iv__io_fail(m->job, IV_NO_MEMORY, "reading its pickle");
}

static bool grow(void *array, int64_t *cap, int64_t need)
{
    void *old, *more;
    if (need <= *cap) return true;
    const int64_t room = need > *cap * 2 ? need : *cap * 2;
    memcpy(&old, array, sizeof(old));
    more = realloc(old, (size_t)room * sizeof(void *));
    if (!more) return false;
    memcpy(array, &more, sizeof(more));
    *cap = room;
    return true;
}

/* A new value on the stack. */
static iv_status push_new(machine *m, iv__pickle_kind kind, iv__pickle **out)
{
    if (!grow(&m->tree->all, &m->tree->cap, m->tree->n + 1) ||
        !grow(&m->stack, &m->stack_cap, m->depth + 1))
        return no_memory(m);
    iv__pickle *p = calloc(1, sizeof(*p));
    if (!p) return no_memory(m);
    p->kind = kind;
    m->tree->all[m->tree->n++] = p;
    m->stack[m->depth++] = p;
    if (out) *out = p;
    return IV_OK;
}

static iv_status add_item(machine *m, iv__pickle *to, iv__pickle *item)
{
    if (!grow(&to->items, &to->cap, to->n + 1)) return no_memory(m);
    to->items[to->n++] = item;
    return IV_OK;
}

/* Little-endian bytes of the pickle; false past its end. */
static bool take(machine *m, int bytes, uint64_t *out)
{
    if (m->n - m->i < (size_t)bytes) return false;
    *out = 0;
    for (int k = 0; k < bytes; ++k) *out |= (uint64_t)m->s[m->i + (size_t)k] << (8 * k);
    m->i += (size_t)bytes;
    return true;
}

static iv_status push_text(machine *m, size_t bytes, iv__pickle_kind kind)
{
    iv__pickle *p;
    if (bytes > m->n - m->i) return bad(m, "a text that does not end");
    if (memchr(m->s + m->i, 0, bytes)) kind = IV_PICKLE_OTHER; /* no use for such a text here */
    iv_status s = push_new(m, kind, &p);
    if (s != IV_OK) return s;
    char *to = m->tree->texts + m->text_at;
    memcpy(to, m->s + m->i, bytes);
    to[bytes] = '\0';
    p->text = to;
    m->text_at += bytes + 1; /* the texts of a pickle are shorter than the pickle */
    m->i += bytes;
    return IV_OK;
}

/* Index of the topmost mark, or -1. */
static int64_t find_mark(const machine *m)
{
    int64_t k = m->depth - 1;
    while (k >= 0 && m->stack[k]) --k;
    return k;
}

/* A list of what stands above `from`, which it replaces (with `extra` entries below it). */
static iv_status make_list(machine *m, int64_t from, int64_t extra)
{
    const int64_t n = m->depth - from;
    iv__pickle *p;
    iv_status s = push_new(m, IV_PICKLE_LIST, &p);
    for (int64_t k = 0; k < n && s == IV_OK; ++k) {
        if (!m->stack[from + k]) return bad(m, "a mark inside a tuple");
        s = add_item(m, p, m->stack[from + k]);
    }
    m->depth = from - extra;
    m->stack[m->depth++] = p;
    return s;
}

/* Moves what stands above the mark into the list or dictionary below it. */
static iv_status add_above_mark(machine *m, bool pairs)
{
    const int64_t mark = find_mark(m);
    if (mark < 1 || !m->stack[mark - 1]) return bad(m, "no mark to add from");
    iv__pickle *to = m->stack[mark - 1];
    if (pairs && (m->depth - mark - 1) % 2) return bad(m, "a key without a value");
    iv_status s = IV_OK;
    if (to->kind == (pairs ? IV_PICKLE_DICT : IV_PICKLE_LIST))
        for (int64_t k = mark + 1; k < m->depth && s == IV_OK; ++k)
            s = add_item(m, to, m->stack[k]);
    m->depth = mark;
    return s;
}

static iv_status memoize(machine *m, uint64_t at)
{
    if (m->depth < 1 || !m->stack[m->depth - 1]) return bad(m, "nothing to remember");
    if (at > (uint64_t)m->n) return bad(m, "a memo number that is too large");
    if (!grow(&m->memo, &m->memo_cap, (int64_t)at + 1)) return no_memory(m);
    while (m->memo_n <= (int64_t)at) m->memo[m->memo_n++] = NULL;
    m->memo[at] = m->stack[m->depth - 1];
    return IV_OK;
}

static iv_status recall(machine *m, uint64_t at)
{
    if (at >= (uint64_t)m->memo_n || !m->memo[at]) return bad(m, "a memo that was not made");
    if (!grow(&m->stack, &m->stack_cap, m->depth + 1)) return no_memory(m);
    m->stack[m->depth++] = m->memo[at];
    return IV_OK;
}

/* ---- what the names mean ---- */

static const struct {
    const char *name;
    int type;
} storages[] = {
    {"torch FloatStorage", IV_F32}, {"torch DoubleStorage", IV_F64},
    {"torch HalfStorage", IV_F16},  {"torch BFloat16Storage", IV_BF16},
    {"torch IntStorage", IV_I32},   {"torch LongStorage", IV_I64},
    {"torch ByteStorage", IV_U8},   {"torch BoolStorage", IV_U8},
};

/* ('storage', class, key, location, elements) */
static iv_status make_storage(machine *m)
{
    if (m->depth < 1 || !m->stack[m->depth - 1]) return bad(m, "a persistent id of nothing");
    const iv__pickle *id = m->stack[--m->depth];
    if (id->kind != IV_PICKLE_LIST || id->n != 5 || id->items[0]->kind != IV_PICKLE_TEXT ||
        strcmp(id->items[0]->text, "storage") != 0 || id->items[1]->kind != IV_PICKLE_NAME ||
        id->items[2]->kind != IV_PICKLE_TEXT || id->items[4]->kind != IV_PICKLE_INT)
        return bad(m, "a persistent id that is no storage");
    iv__pickle *p;
    iv_status s = push_new(m, IV_PICKLE_OTHER, &p);
    if (s != IV_OK) return s;
    for (size_t k = 0; k < sizeof(storages) / sizeof(storages[0]); ++k)
        if (strcmp(storages[k].name, id->items[1]->text) == 0) {
            p->kind = IV_PICKLE_STORAGE;
            p->type = (iv_dtype)storages[k].type;
            p->text = id->items[2]->text;
            p->number = id->items[4]->number;
        }
    return IV_OK;
}

static bool all_numbers(const iv__pickle *list)
{
    for (int64_t k = 0; k < list->n; ++k)
        if (list->items[k]->kind != IV_PICKLE_INT || list->items[k]->number < 0) return false;
    return list->kind == IV_PICKLE_LIST && list->n <= IV_MAX_RANK;
}

/* (storage, offset, size, stride, ...); anything else stays IV_PICKLE_OTHER. */
static void fill_tensor(iv__pickle *p, const iv__pickle *args)
{
    if (args->kind != IV_PICKLE_LIST || args->n < 4) return;
    const iv__pickle *storage = args->items[0], *offset = args->items[1], *size = args->items[2],
                     *stride = args->items[3];
    if (storage->kind != IV_PICKLE_STORAGE || offset->kind != IV_PICKLE_INT || offset->number < 0 ||
        !all_numbers(size) || !all_numbers(stride) || size->n != stride->n)
        return;
    p->kind = IV_PICKLE_TENSOR;
    p->storage = storage;
    p->offset = offset->number;
    p->shape.rank = (int32_t)size->n;
    for (int64_t k = 0; k < size->n; ++k) {
        p->shape.dim[k] = size->items[k]->number;
        p->stride[k] = stride->items[k]->number;
    }
}

/* A call that the pickle asks for, of which nothing is done. */
static iv_status reduce(machine *m)
{
    if (m->depth < 2 || !m->stack[m->depth - 1] || !m->stack[m->depth - 2])
        return bad(m, "a call of nothing");
    iv__pickle *args = m->stack[m->depth - 1];
    const iv__pickle *f = m->stack[m->depth - 2];
    const char *name = f->kind == IV_PICKLE_NAME ? f->text : "";
    m->depth -= 2;
    if (strcmp(name, "torch._utils _rebuild_parameter") == 0 && args->kind == IV_PICKLE_LIST &&
        args->n > 0) {
        m->stack[m->depth++] = args->items[0];
        return IV_OK;
    }
    if (strcmp(name, "torch Size") == 0 && args->kind == IV_PICKLE_LIST && args->n == 1) {
        m->stack[m->depth++] = args->items[0];
        return IV_OK;
    }
    iv__pickle *p;
    iv_status s = push_new(m, IV_PICKLE_OTHER, &p);
    if (s != IV_OK) return s;
    if (strcmp(name, "collections OrderedDict") == 0) p->kind = IV_PICKLE_DICT;
    if (strcmp(name, "torch._utils _rebuild_tensor_v2") == 0) fill_tensor(p, args);
    return IV_OK;
}

/* "module\nname\n" */
static iv_status push_name(machine *m)
{
    const unsigned char *first = memchr(m->s + m->i, '\n', m->n - m->i);
    const size_t rest = first ? m->n - (size_t)(first + 1 - m->s) : 0;
    const unsigned char *second = first ? memchr(first + 1, '\n', rest) : NULL;
    if (!second) return bad(m, "a name that does not end");
    const size_t bytes = (size_t)(second - (m->s + m->i));
    iv_status s = push_text(m, bytes, IV_PICKLE_NAME);
    if (s != IV_OK) return s;
    char *at = strchr((char *)(uintptr_t)m->stack[m->depth - 1]->text, '\n');
    if (at) *at = ' ';
    ++m->i;
    return IV_OK;
}

/* ---- opcodes ---- */

static iv_status push_number(machine *m, int bytes, bool is_signed)
{
    uint64_t v;
    iv__pickle *p;
    if (!take(m, bytes, &v)) return bad(m, "a number that does not end");
    iv_status s = push_new(m, IV_PICKLE_INT, &p);
    if (s != IV_OK) return s;
    if (is_signed && bytes > 0 && bytes < 8 && v >> (8 * bytes - 1))
        v |= ~(uint64_t)0 << (8 * bytes);
    p->number = (int64_t)v;
    return IV_OK;
}

static iv_status push_float(machine *m)
{
    iv__pickle *p;
    uint64_t v;
    if (!take(m, 8, &v)) return bad(m, "a number that does not end");
    iv_status s = push_new(m, IV_PICKLE_FLOAT, &p);
    if (s != IV_OK) return s;
    v = __builtin_bswap64(v); /* it is stored big-endian */
    memcpy(&p->real, &v, sizeof(v));
    return IV_OK;
}

static iv_status push_sized_text(machine *m, int bytes, iv__pickle_kind kind)
{
    uint64_t n;
    if (!take(m, bytes, &n)) return bad(m, "a text that does not end");
    return push_text(m, (size_t)n, kind);
}

static iv_status set_item(machine *m)
{
    if (m->depth < 3 || !m->stack[m->depth - 1] || !m->stack[m->depth - 2] ||
        !m->stack[m->depth - 3])
        return bad(m, "an item of nothing");
    iv__pickle *to = m->stack[m->depth - 3];
    iv_status s = IV_OK;
    if (to->kind == IV_PICKLE_DICT) {
        s = add_item(m, to, m->stack[m->depth - 2]);
        if (s == IV_OK) s = add_item(m, to, m->stack[m->depth - 1]);
    }
    m->depth -= 2;
    return s;
}

static iv_status append(machine *m)
{
    if (m->depth < 2 || !m->stack[m->depth - 1] || !m->stack[m->depth - 2])
        return bad(m, "an item of nothing");
    iv__pickle *to = m->stack[m->depth - 2], *item = m->stack[--m->depth];
    return to->kind == IV_PICKLE_LIST ? add_item(m, to, item) : IV_OK;
}

static iv_status make_tuple(machine *m, int64_t n)
{
    if (m->depth < n) return bad(m, "a tuple of more than there is");
    return make_list(m, m->depth - n, 0);
}

static iv_status push_mark(machine *m)
{
    if (!grow(&m->stack, &m->stack_cap, m->depth + 1)) return no_memory(m);
    m->stack[m->depth++] = NULL;
    return IV_OK;
}

static iv_status push_bool(machine *m, int64_t value)
{
    iv__pickle *p;
    iv_status s = push_new(m, IV_PICKLE_BOOL, &p);
    if (s == IV_OK) p->number = value;
    return s;
}

/* Module and name are on the stack. */
static iv_status stack_name(machine *m)
{
    if (m->depth < 2 || !m->stack[m->depth - 1] || !m->stack[m->depth - 2])
        return bad(m, "a name of nothing");
    m->depth -= 2;
    return push_new(m, IV_PICKLE_OTHER, NULL); /* newer protocols: not written by torch.save */
}

static iv_status with_number(machine *m, int bytes, iv_status (*f)(machine *m, uint64_t v))
{
    uint64_t v;
    return take(m, bytes, &v) ? f(m, v) : bad(m, "a number that does not end");
}

static iv_status drop(machine *m)
{
    if (m->depth < 1) return bad(m, "nothing to drop");
    --m->depth;
    return IV_OK;
}

static iv_status long_number(machine *m)
{
    uint64_t n;
    if (!take(m, 1, &n)) return bad(m, "a number that does not end");
    if (n > 8)
        return iv__io_fail(m->job, IV_UNSUPPORTED, "its pickle: a number of %d bytes", (int)n);
    return push_number(m, (int)n, true);
}

static iv_status run_one(machine *m, unsigned char op)
{
    uint64_t unused;
    switch (op) {
    case 0x80: return take(m, 1, &unused) ? IV_OK : bad(m, "it ends");
    case 0x95: return take(m, 8, &unused) ? IV_OK : bad(m, "it ends");
    case '(': return push_mark(m);
    case '}': return push_new(m, IV_PICKLE_DICT, NULL);
    case ']':
    case ')': return push_new(m, IV_PICKLE_LIST, NULL);
    case 'N': return push_new(m, IV_PICKLE_NONE, NULL);
    case 0x88: return push_bool(m, 1);
    case 0x89: return push_bool(m, 0);
    case 'K': return push_number(m, 1, false);
    case 'M': return push_number(m, 2, false);
    case 'J': return push_number(m, 4, true);
    case 0x8a: return long_number(m);
    case 'G': return push_float(m);
    case 'X': return push_sized_text(m, 4, IV_PICKLE_TEXT);
    case 0x8c: return push_sized_text(m, 1, IV_PICKLE_TEXT);
    case 'B': return push_sized_text(m, 4, IV_PICKLE_OTHER);
    case 'C': return push_sized_text(m, 1, IV_PICKLE_OTHER);
    case 'c': return push_name(m);
    case 0x93: return stack_name(m);
    case 'q': return with_number(m, 1, memoize);
    case 'r': return with_number(m, 4, memoize);
    case 0x94: return memoize(m, (uint64_t)m->memo_n);
    case 'h': return with_number(m, 1, recall);
    case 'j': return with_number(m, 4, recall);
    case 0x85: return make_tuple(m, 1);
    case 0x86: return make_tuple(m, 2);
    case 0x87: return make_tuple(m, 3);
    case 't':
        if (find_mark(m) < 0) return bad(m, "a tuple without a mark");
        return make_list(m, find_mark(m) + 1, 1);
    case 's': return set_item(m);
    case 'u': return add_above_mark(m, true);
    case 'a': return append(m);
    case 'e': return add_above_mark(m, false);
    case 'R':
    case 0x81: return reduce(m);
    case 'b': return drop(m); /* attributes of an object */
    case 'Q': return make_storage(m);
    case '0': return drop(m);
    default:
        return iv__io_fail(
            m->job, IV_UNSUPPORTED,
            "its pickle: opcode 0x%02x at byte %zu is none that builds plain tensors", op,
            m->i - 1);
    }
}

iv_status iv__pickle_read(const iv__io_job *j, const char *bytes, size_t n, iv__pickle_tree *out)
{
    iv__pickle_tree t = {0};
    machine m = {.job = j, .s = (const unsigned char *)bytes, .n = n, .tree = &t};
    /* A text takes its bytes and one more, and at least one opcode of at least two bytes. */
    t.texts = malloc(n + 1);
    iv_status s = t.texts ? IV_OK : no_memory(&m);
    bool stopped = false;
    while (s == IV_OK && !stopped) {
        if (m.i == n) s = bad(&m, "it does not end");
        else if (m.s[m.i] == '.') stopped = true;
        else s = run_one(&m, m.s[m.i++]);
    }
    if (s == IV_OK && (m.depth != 1 || !m.stack[0])) s = bad(&m, "it ends with nothing made");
    if (s == IV_OK) t.root = m.stack[0];
    free(m.stack);
    free(m.memo);
    if (s == IV_OK) *out = t;
    else iv__pickle_free(&t);
    return s;
}

void iv__pickle_free(iv__pickle_tree *t)
{
    for (int64_t i = 0; i < t->n; ++i) {
        free(t->all[i]->items);
        free(t->all[i]);
    }
    free(t->all);
    free(t->texts);
    *t = (iv__pickle_tree){0};
}

const iv__pickle *iv__pickle_get(const iv__pickle *dict, const char *key)
{
    for (int64_t k = 0; dict && dict->kind == IV_PICKLE_DICT && k + 1 < dict->n; k += 2)
        if (dict->items[k]->kind == IV_PICKLE_TEXT && strcmp(dict->items[k]->text, key) == 0)
            return dict->items[k + 1];
    return NULL;
}
