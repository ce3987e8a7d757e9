/* config_yaml.c: a configuration as a YAML file: iv_config_load and iv_config_save.
 *
 * Loading walks libyaml's events rather than its document tree, because the tree resolves aliases
 * and forgets duplicates.  A path grows with the nesting: `model: {width: 384}` and `model.width:
 * 384` both give the key model.width.  At every step the path must be a key or the beginning of
 * one, so nesting is never deeper than the keys are.  Values go into a copy, which replaces the
 * store at the end: a file that is refused changes nothing.
 *
 * Not accepted, with path:line: anchors, aliases, tags, several documents, lists except of texts,
 * empty values, unknown and duplicate keys, files above 1 MiB.
 */
#include "config.h"
#include "file.h"

#include <yaml.h>

enum { MOST_SEEN = 512 };

typedef struct loader {
    const char *path;
    yaml_parser_t parser;
    iv_config *config; /* the copy */
    iv__text key;      /* of the mapping or value at hand */
    /* Sections and keys met so far, with their lines.  A path is entered only if it is in the
     * table, and once, so the list is bounded by the table. */
    char *seen[MOST_SEEN];
    int64_t seen_line[MOST_SEEN], n_seen;
} loader;

static iv_status fail_at(const loader *l, int64_t line, const char *what)
{
    IV_FAIL(IV_INVALID, "%s:%lld: %s", l->path, (long long)line, what);
}

static int64_t line_of(const yaml_event_t *e)
{
    return (int64_t)e->start_mark.line + 1;
}

static iv_status next_event(loader *l, yaml_event_t *e)
{
    if (yaml_parser_parse(&l->parser, e)) return IV_OK;
    const yaml_parser_t *p = &l->parser;
    if (p->error == YAML_MEMORY_ERROR) IV_FAIL(IV_NO_MEMORY, "%s: reading YAML", l->path);
    const char *problem = p->problem ? p->problem : "not valid YAML";
    if (p->error == YAML_READER_ERROR) {
        IV_FAIL(IV_INVALID, "%s: byte %zu: %s", l->path, p->problem_offset, problem);
    }
    IV_FAIL(IV_INVALID, "%s:%zu: %s", l->path, p->problem_mark.line + 1, problem);
}

/* Refuses what YAML has and this format has not. */
static iv_status check_event(const loader *l, const yaml_event_t *e)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (e->type) {
    case YAML_ALIAS_EVENT: return fail_at(l, line_of(e), "aliases (*name) are not accepted");
    case YAML_SCALAR_EVENT:
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
        break;
    default: return IV_OK;
    }
    if (anchor) return fail_at(l, line_of(e), "anchors (&name) are not accepted");
    if (tag) return fail_at(l, line_of(e), "tags (!name) are not accepted");
    return IV_OK;
}

/* Next event of those that a configuration may hold.  The caller deletes it. */
static iv_status take_event(loader *l, yaml_event_t *e)
{
    IV_TRY(next_event(l, e));
    iv_status s = check_event(l, e);
    if (s != IV_OK) yaml_event_delete(e);
    return s;
}

/* Appends the scalar's text. */
static iv_status append_scalar(const loader *l, const yaml_event_t *e, iv__text *t)
{
    const char *s = (const char *)e->data.scalar.value;
    if (strlen(s) != e->data.scalar.length)
        return fail_at(l, line_of(e), "a text contains the character NUL");
    iv__text_printf(t, "%s", s);
    if (t->failed) IV_FAIL(IV_NO_MEMORY, "%s: reading YAML", l->path);
    return IV_OK;
}

/* Whether the scalar is YAML's null: nothing, ~ or null without quotes. */
static bool is_null(const yaml_event_t *e)
{
    const char *s = (const char *)e->data.scalar.value;
    if (e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
    return !*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0;
}

/* Enters the key at hand into the list of those seen. */
static iv_status check_unique(loader *l, int64_t line)
{
    const char *key = l->key.s;
    for (int64_t i = 0; i < l->n_seen; ++i) {
        if (strcmp(l->seen[i], key) != 0) continue;
        IV_FAIL(IV_INVALID, "%s:%lld: %s is given twice, first in line %lld", l->path,
                (long long)line, key, (long long)l->seen_line[i]);
    }
    if (l->n_seen == MOST_SEEN) return fail_at(l, line, "too many keys");
    IV_TRY(iv__strdup(key, &l->seen[l->n_seen]));
    l->seen_line[l->n_seen++] = line;
    return IV_OK;
}

static iv_status set_at(loader *l, int64_t line, const char *text)
{
    iv_status s = iv_config_set(l->config, l->key.s, text);
    return s == IV_OK ? s : iv__context(s, "%s:%lld", l->path, (long long)line);
}

static iv_status load_scalar(loader *l, const yaml_event_t *e)
{
    if (iv__config_find(l->key.s) < 0) {
        IV_FAIL(IV_INVALID, "%s:%lld: %s is a section, expected a mapping of keys", l->path,
                (long long)line_of(e), l->key.s);
    }
    if (is_null(e)) {
        IV_FAIL(IV_INVALID, "%s:%lld: %s has no value [hint: \"\" is the empty text]", l->path,
                (long long)line_of(e), l->key.s);
    }
    iv__text text = {0};
    iv_status s = append_scalar(l, e, &text);
    if (s == IV_OK) s = set_at(l, line_of(e), text.s);
    iv__text_free(&text);
    return s;
}

/* Takes the items of a list up to its end and joins them with ','. */
static iv_status join_items(loader *l, iv__text *text)
{
    iv__text_printf(text, "%s", "");
    for (bool first = true;; first = false) {
        yaml_event_t e;
        IV_TRY(take_event(l, &e));
        iv_status s = IV_OK;
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        if (!end && (e.type != YAML_SCALAR_EVENT || is_null(&e))) {
            s = fail_at(l, line_of(&e), "an item of a list must be a plain text");
        } else if (!end) {
            if (!first) iv__text_printf(text, ",");
            s = append_scalar(l, &e, text);
        }
        yaml_event_delete(&e);
        if (s != IV_OK || end) return s;
    }
}

static iv_status load_sequence(loader *l, int64_t line)
{
    const iv_config_key *keys;
    iv_config_keys(&keys);
    int64_t i = iv__config_find(l->key.s);
    if (i < 0 || keys[i].type != IV_CFG_STRING) {
        IV_FAIL(IV_INVALID, "%s:%lld: %s takes no list", l->path, (long long)line, l->key.s);
    }
    iv__text text = {0};
    iv_status s = join_items(l, &text);
    if (s == IV_OK && text.failed) s = iv__fail(IV_NO_MEMORY, "%s: reading YAML", l->path);
    if (s == IV_OK) s = set_at(l, line, text.s);
    iv__text_free(&text);
    return s;
}

static iv_status load_mapping(loader *l);

/* Reads the value of the key at hand. */
static iv_status load_value(loader *l)
{
    yaml_event_t e;
    IV_TRY(take_event(l, &e));
    iv_status s = IV_OK;
    int64_t line = line_of(&e);
    if (e.type == YAML_SCALAR_EVENT) {
        s = load_scalar(l, &e);
    } else if (e.type == YAML_SEQUENCE_START_EVENT) {
        s = load_sequence(l, line);
    } else if (!iv__config_is_section(l->key.s)) {
        s = iv__fail(IV_INVALID, "%s:%lld: %s takes one value, not a mapping", l->path,
                     (long long)line, l->key.s);
    } else {
        s = load_mapping(l);
    }
    yaml_event_delete(&e);
    return s;
}

/* Extends the path by a key and checks that it leads somewhere. */
static iv_status enter_key(loader *l, const yaml_event_t *e)
{
    int64_t line = line_of(e);
    if (e->type != YAML_SCALAR_EVENT) return fail_at(l, line, "a key must be a plain text");
    if (l->key.len > 0) iv__text_printf(&l->key, ".");
    IV_TRY(append_scalar(l, e, &l->key));
    if (iv__config_find(l->key.s) < 0 && !iv__config_is_section(l->key.s))
        return iv__context(iv__config_unknown(l->key.s), "%s:%lld", l->path, (long long)line);
    return check_unique(l, line);
}

/* Reads pairs up to the end of the mapping.  Recursion is as deep as a key has dots. */
static iv_status load_mapping(loader *l)
{
    int64_t outer = l->key.len;
    for (;;) {
        yaml_event_t e;
        IV_TRY(take_event(l, &e));
        bool end = e.type == YAML_MAPPING_END_EVENT;
        iv_status s = end ? IV_OK : enter_key(l, &e);
        yaml_event_delete(&e);
        if (s != IV_OK || end) return s;
        IV_TRY(load_value(l));
        l->key.len = outer;
        l->key.s[outer] = 0;
    }
}

/* Takes the next event and checks that it has this type. */
static iv_status expect(loader *l, yaml_event_type_t type, const char *otherwise)
{
    yaml_event_t e;
    IV_TRY(take_event(l, &e));
    iv_status s = e.type == type ? IV_OK : fail_at(l, line_of(&e), otherwise);
    yaml_event_delete(&e);
    return s;
}

static iv_status load_document(loader *l)
{
    static const char empty[] = "the file has no settings, expected a mapping of keys";
    IV_TRY(expect(l, YAML_STREAM_START_EVENT, empty));
    IV_TRY(expect(l, YAML_DOCUMENT_START_EVENT, empty));
    IV_TRY(expect(l, YAML_MAPPING_START_EVENT, "the document is not a mapping of keys"));
    IV_TRY(load_mapping(l));
    IV_TRY(expect(l, YAML_DOCUMENT_END_EVENT, "the document does not end"));
    return expect(l, YAML_STREAM_END_EVENT, "a second document is not accepted");
}

static iv_status load_text(loader *l, const char *text, int64_t n)
{
    if (!yaml_parser_initialize(&l->parser)) IV_FAIL(IV_NO_MEMORY, "%s: reading YAML", l->path);
    /* Without this the first bytes could choose UTF-16. */
    yaml_parser_set_encoding(&l->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&l->parser, (const unsigned char *)text, (size_t)n);
    iv_status s = load_document(l);
    yaml_parser_delete(&l->parser);
    iv__text_free(&l->key);
    for (int64_t i = 0; i < l->n_seen; ++i) free(l->seen[i]);
    return s;
}

iv_status iv_config_load(iv_config *c, const char *path)
{
    char *text = NULL;
    int64_t n = 0;
    IV_TRY(iv__file_read(path, IV__CONFIG_MOST_BYTES, &text, &n));
    loader *l = NULL;
    iv_status s;
    IV_TRY_GOTO(s, iv__calloc(1, sizeof(*l), "a YAML loader", &l), free_text);
    l->path = path;
    IV_TRY_GOTO(s, iv__config_copy(c, &l->config), free_loader);
    s = load_text(l, text, n);
    if (s == IV_OK) iv__config_swap(c, l->config);
    iv_config_free(l->config);
free_loader:
    free(l);
free_text:
    free(text);
    return s;
}

/* ---- saving ---- */

/* Whether a character must be written as an escape: controls, YAML's line breaks, marks, and the
 * two that quoting gives a meaning. */
static bool needs_escape(uint32_t code)
{
    if (code < ' ' || code == '"' || code == '\\') return true;
    if (code >= 0x7f && code <= 0xa0) return true;
    return code == 0x2028 || code == 0x2029 || code == 0xfeff || (code & 0xfffe) == 0xfffe;
}

/* Appends s (UTF-8) in double quotes, on one line. */
static void print_quoted(iv__text *t, const char *s)
{
    iv__text_printf(t, "\"");
    while (*s) {
        uint32_t code = 0;
        int n = iv__utf8_next(s, &code);
        if (n == 0) break; /* the store holds only UTF-8 */
        if (!needs_escape(code)) iv__text_printf(t, "%.*s", n, s);
        else if (code < 0x100) iv__text_printf(t, "\\x%02X", code);
        else iv__text_printf(t, "\\U%08X", code);
        s += n;
    }
    iv__text_printf(t, "\"");
}

/* Appends row i as one line, after a line for its section when that is a new one. */
static void print_row(iv__text *t, const iv_config *c, int64_t i, const iv_config_key *keys)
{
    const char *key = keys[i].key, *dot = strrchr(key, '.'), *before = i ? keys[i - 1].key : "";
    size_t n = dot ? (size_t)(dot - key) + 1 : 0; /* of the section, with the dot */
    bool same = n > 0 && strncmp(before, key, n) == 0 && !strchr(before + n, '.');
    if (n > 0 && !same) iv__text_printf(t, "%.*s:\n", (int)n - 1, key);
    iv__text_printf(t, "%s%s: ", dot ? "  " : "", key + n);
    iv__text value = {0};
    iv__config_print(c, i, &value);
    if (value.failed) t->failed = true;
    else if (keys[i].type == IV_CFG_STRING) print_quoted(t, value.s);
    else iv__text_printf(t, "%s", value.s);
    iv__text_free(&value);
    iv__text_printf(t, "\n");
}

void iv__config_yaml(const iv_config *c, iv__text *t)
{
    const iv_config_key *keys;
    int64_t n = iv_config_keys(&keys);
    for (int64_t i = 0; i < n; ++i) print_row(t, c, i, keys);
}

iv_status iv_config_save(const iv_config *c, const char *path)
{
    iv__text t = {0};
    iv__config_yaml(c, &t);
    iv_status s = t.failed ? iv__fail(IV_NO_MEMORY, "writing %s: making the text", path)
                           : iv__file_write_atomic(path, t.s, (size_t)t.len);
    iv__text_free(&t);
    return s;
}
