/* test_environments.c: the corpus of launchers' environments (*.env in this folder), and SLURM's
 * host lists.
 *
 * A file of the corpus holds cases, separated by empty lines; '#' begins a comment.  A case is
 *
 *   case: name
 *   VARIABLE=value          any number; nothing else is in the environment
 *   file NAME: a b b        a file of these lines, named by the variable
 *   set: key=value          a key of the configuration, such as device.devices=4
 *   expect: slurm world=4 rank=1 local_world=2 ...     what iv_cluster_find must say; or
 *   refuse: slurm part of the message                  the plugin chosen, and the refusal
 *
 * `expect` compares the fields that it names: world rank local_world local_rank nodes node address
 * port spawn restarts requeue job, and from.FIELD. */
#include "base.h"
#include "cluster/hostlist.h"
#include "registry.h"

#include <dirent.h>
#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

extern char **environ;

enum { MOST_CASES = 400 };

typedef struct one {
    char *file, *name, *body; /* body: the lines after "case:" */
} one;
static one cases[MOST_CASES];
static int n_cases;

/* ---- one case ---- */

static char file_[] = "/tmp/invar-environment-XXXXXX";

static void set_variable(char *line)
{
    char *equal = strchr(line, '=');
    *equal = 0;
    assert_int_equal(setenv(line, equal + 1, 1), 0);
    *equal = '=';
}

/* "NAME: a b b" */
static void write_file(char *text)
{
    FILE *f = fopen(file_, "w");
    char *rest = text, *name = strsep(&rest, ":");
    assert_non_null(f);
    for (char *w; (w = strsep(&rest, " "));)
        if (*w) fprintf(f, "%s\n", w);
    fclose(f);
    setenv(name, file_, 1);
}

/* The text of a field. */
static void field_text(const iv_cluster_info *f, const char *key, char *out, size_t size)
{
    static const char *const names[IV_RANK_FIELDS] = {"world", "rank", "local_world", "local_rank",
                                                      "nodes", "node", "address",     "port"};
    const iv_ranks *r = &f->ranks;
    const int32_t numbers[] = {r->world, r->rank, r->local_world, r->local_rank, r->nodes, r->node};
    snprintf(out, size, "no such field");
    for (int i = 0; i < IV_RANK_FIELDS; ++i) {
        if (strncmp(key, "from.", 5) == 0 && strcmp(key + 5, names[i]) == 0)
            snprintf(out, size, "%s", r->from[i]);
        if (strcmp(key, names[i]) == 0 && i < IV_RANK_ADDRESS)
            snprintf(out, size, "%d", numbers[i]);
    }
    if (strcmp(key, "address") == 0) snprintf(out, size, "%s", r->address);
    if (strcmp(key, "port") == 0) snprintf(out, size, "%d", r->port);
    if (strcmp(key, "spawn") == 0) snprintf(out, size, "%d", r->spawn);
    if (strcmp(key, "restarts") == 0) snprintf(out, size, "%d", r->restarts);
    if (strcmp(key, "job") == 0) snprintf(out, size, "%s", r->job);
    if (strcmp(key, "requeue") == 0) {
        snprintf(out, size, "%s", f->requeue);
        for (char *c = out; *c; ++c)
            if (*c == ' ') *c = '_'; /* an expectation is a word */
    }
}

static void check_fields(const one *c, const iv_cluster_info *f, char *expected)
{
    char *rest = expected, *name = strsep(&rest, " ");
    if (strcmp(name, f->name) != 0)
        fail_msg("%s: %s: chose %s (%s), expected %s", c->file, c->name, f->name, f->why, name);
    for (char *word; (word = strsep(&rest, " "));) {
        char got[512], *equal = strchr(word, '=');
        if (!*word) continue;
        if (!equal) fail_msg("%s: %s: '%s' is not an expectation", c->file, c->name, word);
        *equal = 0;
        field_text(f, word, got, sizeof(got));
        if (strcmp(got, equal + 1) != 0)
            fail_msg("%s: %s: %s is '%s' (%s), expected '%s'", c->file, c->name, word, got, f->why,
                     equal + 1);
    }
}

static void check_refusal(const one *c, const iv_cluster_info *f, iv_status s, char *expected)
{
    char *part = strchr(expected, ' ');
    assert_non_null(part);
    *part++ = 0;
    if (s != IV_INVALID)
        fail_msg("%s: %s: status %s, expected a refusal", c->file, c->name, iv_status_name(s));
    if (strcmp(expected, f->name) != 0)
        fail_msg("%s: %s: chose %s, expected %s", c->file, c->name, f->name, expected);
    if (!strstr(iv_error_message(), part))
        fail_msg("%s: %s: said '%s', expected '%s'", c->file, c->name, iv_error_message(), part);
}

static bool starts(const char *line, const char *with, char **out_rest)
{
    const size_t n = strlen(with);
    *out_rest = (char *)(uintptr_t)line + n;
    return strncmp(line, with, n) == 0;
}

static void run_case(void **state)
{
    const one *c = *state;
    char *lines = strdup(c->body), *rest = lines, *text, *expect = NULL, *refuse = NULL;
    iv_config *config;
    iv_cluster_info found;
    assert_int_equal(iv_config_new(&config), IV_OK);
    clearenv();
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (starts(line, "expect: ", &text)) expect = text;
        else if (starts(line, "refuse: ", &text)) refuse = text;
        else if (starts(line, "file ", &text)) write_file(text);
        else if (starts(line, "set: ", &text)) {
            char *equal = strchr(text, '=');
            assert_non_null(equal);
            *equal = 0;
            if (iv_config_set(config, text, equal + 1) != IV_OK) fail_msg("%s", iv_error_message());
        } else if (strchr(line, '=')) set_variable(line);
        else if (*line) fail_msg("%s: %s: what is '%s'?", c->file, c->name, line);
    }
    const iv_status s = iv_cluster_find(config, &found);
    if (!expect == !refuse) fail_msg("%s: %s: one expectation is needed", c->file, c->name);
    if (expect && s != IV_OK) fail_msg("%s: %s: refused: %s", c->file, c->name, iv_error_message());
    if (expect) check_fields(c, &found, expect);
    else check_refusal(c, &found, s, refuse);
    iv_config_free(config);
    free(lines);
}

/* ---- the corpus ---- */

static void add_case(const char *file, const char *text)
{
    const char *start = strstr(text, "case: ");
    if (!start) return;
    start += strlen("case: ");
    const size_t n = strcspn(start, "\n");
    assert_true(n_cases < MOST_CASES);
    cases[n_cases++] = (one){strdup(file), strndup(start, n), strdup(start + n)};
}

static void read_corpus(const char *file)
{
    char path[1024], line[8192], text[32768];
    size_t n = 0;
    snprintf(path, sizeof(path), "%s/cluster/%s", TESTS_DIR, file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    *text = 0;
    while (fgets(line, sizeof(line), f)) {
        if (*line == '#') continue;
        if (*line == '\n') {
            add_case(file, text);
            n = 0;
            *text = 0;
            continue;
        }
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s", line);
        assert_true(n < sizeof(text));
    }
    add_case(file, text);
    fclose(f);
}

/* ---- host lists ---- */

static iv_status quiet(iv_status code, const char *fmt, ...)
{
    (void)fmt;
    return code;
}
static const iv_host silent = {.fail = quiet};

static void expands_host_lists(void **state)
{
    static const char *const rows[][2] = {
        {"host0 host1 host3", "host0 host1 host3"},
        {"host0,host1", "host0 host1"},
        {"host[5-9]", "host5 host6 host7 host8 host9"},
        {"host[05,07-09]", "host05 host07 host08 host09"},
        {"n1,m[1-2]", "n1 m1 m2"},
        {"node[1-3]-ib", "node1-ib node2-ib node3-ib"},
        {"a[1,2],b3", "a1 a2 b3"},
        {"rack[1-2]n[3-4]", "rack1n3 rack1n4 rack2n3 rack2n4"},
        {"node[7],gpu[1-2]", "node7 gpu1 gpu2"},
        {"h[1][2-3]", "h12 h13"},
        {"n[098-101]", "n098 n099 n100 n101"},
        {"n[9-11]", "n9 n10 n11"},
        {"n[00-02],n[0-2]", "n00 n01 n02 n0 n1 n2"},
        {"[1-2]", "1 2"},
        {"r[1-2]s[1-2]n[1-2]", "r1s1n1 r1s1n2 r1s2n1 r1s2n2 r2s1n1 r2s1n2 r2s2n1 r2s2n2"},
        {"a[1-2]b,c.d-e_f[10]", "a1b a2b c.d-e_f10"},
        {"n1, n2", "n1 n2"},
        {"n[1,3,5-6,008]", "n1 n3 n5 n6 n008"},
        {"single", "single"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char all[1024] = "", name[256];
        int64_t n = 0;
        if (iv__hostlist_count(&iv__host, rows[i][0], &n) != IV_OK)
            fail_msg("%s", iv_error_message());
        for (int64_t k = 0; k < n; ++k) {
            assert_int_equal(iv__hostlist_get(&iv__host, rows[i][0], k, name, sizeof(name)), IV_OK);
            snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", k ? " " : "", name);
        }
        assert_string_equal(all, rows[i][1]);
        assert_int_equal(iv__hostlist_get(&silent, rows[i][0], n, name, sizeof(name)), IV_INVALID);
    }
}

static void refuses_host_lists(void **state)
{
    static const char *const rows[] = {"",
                                       ",",
                                       "a,",
                                       ",a",
                                       "a,,b",
                                       "n[",
                                       "n[1",
                                       "n[]",
                                       "n[1-]",
                                       "n[-1]",
                                       "n[a-b]",
                                       "n[3-1]",
                                       "n[1,]",
                                       "n[1-2",
                                       "n]",
                                       "n[[1]]",
                                       "n[1]]",
                                       "n[1-2-3]",
                                       "n[010-5]",
                                       "n[1-02]",
                                       "n[1 2]",
                                       "n[1;2]",
                                       "n\x01",
                                       "  ",
                                       "n[1-9999999999999999]",
                                       "n[0-999999999999999]m[0-999999999999999]"};
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        int64_t n = -1;
        if (iv__hostlist_count(&silent, rows[i], &n) == IV_OK)
            fail_msg("'%s' was taken for %lld hosts", rows[i], (long long)n);
        assert_int_equal(n, -1);
    }
    char name[8];
    int64_t n;
    assert_int_equal(iv__hostlist_get(&silent, "longername[1-2]", 0, name, sizeof(name)),
                     IV_INVALID);
    /* Large lists cost nothing. */
    assert_int_equal(iv__hostlist_count(&silent, "n[000000-999999]x[1-1000000]", &n), IV_OK);
    assert_true(n == 1000000000000);
    char big[64];
    assert_int_equal(
        iv__hostlist_get(&silent, "n[000000-999999]x[1-1000000]", n - 1, big, sizeof(big)), IV_OK);
    assert_string_equal(big, "n999999x1000000");
}

static bool is_corpus(const char *name)
{
    const size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".env") == 0;
}

int main(void)
{
    static struct CMUnitTest tests[MOST_CASES + 2];
    DIR *d = opendir(TESTS_DIR "/cluster");
    for (struct dirent *e; d && (e = readdir(d));)
        if (is_corpus(e->d_name)) read_corpus(e->d_name);
    if (d) closedir(d);
    const int fd = mkstemp(file_);
    if (fd >= 0) close(fd);
    int n = 0;
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(expands_host_lists);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(refuses_host_lists);
    for (int i = 0; i < n_cases; ++i)
        tests[n++] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, &cases[i]};
    if (n_cases < 150) {
        fprintf(stderr, "the corpus has %d environments, 150 are the least\n", n_cases);
        return 1;
    }
    iv_log_set(IV_LOG_WARN, NULL, NULL);
    const int failed = _cmocka_run_group_tests("environments", tests, (size_t)n, NULL, NULL);
    for (int i = 0; i < n_cases; ++i) {
        free(cases[i].file);
        free(cases[i].name);
        free(cases[i].body);
    }
    unlink(file_);
    return failed;
}
