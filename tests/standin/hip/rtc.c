/* rtc.c: hipRTC as it is inside libamdhip64 of ROCm 5.2, except that code is for the host (see
 * lanes.h).
 *
 * The text goes through the host's C++ compiler behind prelude.h.  Behind the text stands a caller
 * for each kernel, which takes arguments by address and tells their sizes.  "Code" is a head and a
 * shared library.  As in ROCm 5.2, an architecture that it does not know ends the process. */
#include "lanes.h"

#ifndef __HIP_PLATFORM_AMD__
#define __HIP_PLATFORM_AMD__ 1
#endif
#pragma GCC visibility push(default)
#include <hip/hiprtc.h>
#pragma GCC visibility pop

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char magic[8] = "SCHIP001";
typedef struct code_head {
    char magic[8];
    uint64_t bytes;
} code_head;

struct _hiprtcProgram {
    char *text, *log, *code;
    size_t log_bytes, code_bytes;
    char folder[64];
};

hiprtcResult hiprtcVersion(int *major, int *minor)
{
    *major = 9;
    *minor = 0;
    return HIPRTC_SUCCESS;
}

const char *hiprtcGetErrorString(hiprtcResult r)
{
    static const char *const names[] = {"HIPRTC_SUCCESS",
                                        "HIPRTC_ERROR_OUT_OF_MEMORY",
                                        "HIPRTC_ERROR_PROGRAM_CREATION_FAILURE",
                                        "HIPRTC_ERROR_INVALID_INPUT",
                                        "HIPRTC_ERROR_INVALID_PROGRAM",
                                        "HIPRTC_ERROR_INVALID_OPTION",
                                        "HIPRTC_ERROR_COMPILATION"};
    return (unsigned)r < sizeof(names) / sizeof(names[0]) ? names[r]
                                                          : "HIPRTC_ERROR_INTERNAL_ERROR";
}

hiprtcResult hiprtcCreateProgram(hiprtcProgram *out, const char *src, const char *name,
                                 int n_headers, const char **headers, const char **names)
{
    (void)name;
    (void)headers;
    (void)names;
    if (sc_enter("hiprtcCreateProgram") != SC_OK) return HIPRTC_ERROR_PROGRAM_CREATION_FAILURE;
    hiprtcProgram p = calloc(1, sizeof(*p));
    if (!p || n_headers != 0) return HIPRTC_ERROR_INVALID_INPUT;
    p->text = strdup(src);
    sc_object_add("hiprtc program", p, "hiprtcCreateProgram");
    *out = p;
    return HIPRTC_SUCCESS;
}

hiprtcResult hiprtcDestroyProgram(hiprtcProgram *p)
{
    if (!sc_object_remove("hiprtc program", *p, "hiprtcDestroyProgram"))
        return HIPRTC_ERROR_INVALID_PROGRAM;
    free((*p)->text);
    free((*p)->log);
    free((*p)->code);
    free(*p);
    *p = NULL;
    return HIPRTC_SUCCESS;
}

/* ---- files ---- */

static char *read_file(const char *path, size_t *out_bytes)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    *out_bytes = 0;
    if (!f) return NULL;
    char *s = fstat(fileno(f), &st) == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    if (s) {
        *out_bytes = fread(s, 1, (size_t)st.st_size, f);
        s[*out_bytes] = 0;
    }
    fclose(f);
    return s;
}

static const char *part(const hiprtcProgram p, const char *name)
{
    static _Thread_local char path[2][128];
    static _Thread_local int turn;
    turn = !turn;
    snprintf(path[turn], sizeof(path[0]), "%s/%s", p->folder, name);
    return path[turn];
}

/* Runs the compiler; its words go to the file `log`. */
static bool run(const hiprtcProgram p, const char *const *arguments)
{
    posix_spawn_file_actions_t to;
    pid_t pid;
    int status = 1;
    posix_spawn_file_actions_init(&to);
    posix_spawn_file_actions_addopen(&to, 2, part(p, "log"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (posix_spawnp(&pid, arguments[0], &to, NULL, (char *const *)(uintptr_t)arguments, environ) ==
        0)
        waitpid(pid, &status, 0);
    posix_spawn_file_actions_destroy(&to);
    return status == 0;
}

/* ---- compiling ---- */

/* Ends the process for an architecture that ROCm 5.2 does not know, as its hipRTC does. */
static void check_arch(const char *option)
{
    static const char *const known[] = {"gfx900", "gfx906",  "gfx908",
                                        "gfx90a", "gfx1010", "gfx1030"};
    const char *arch = strchr(option, '=') + 1;
    const size_t n = strcspn(arch, ":");
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); ++i)
        if (strlen(known[i]) == n && strncmp(known[i], arch, n) == 0) return;
    fprintf(stderr, "munmap_chunk(): invalid pointer\n");
    abort();
}

/* Whether products and sums may fuse, and the text must be compiled so. */
static const char *check_options(int n, const char *const *options)
{
    bool arch = false, division = false;
    const char *contract = "-ffp-contract=fast";
    for (int i = 0; i < n; ++i) {
        if (strncmp(options[i], "--offload-arch=", 15) == 0) {
            check_arch(options[i]);
            arch = true;
        }
        if (strncmp(options[i], "-ffp-contract=", 14) == 0) contract = options[i];
        division |= strcmp(options[i], "-fhip-fp32-correctly-rounded-divide-sqrt") == 0;
    }
    if (!arch) sc_misuse("hiprtcCompileProgram: no --offload-arch");
    if (!division) sc_misuse("hiprtcCompileProgram: f32 division would not be rounded correctly");
    return contract;
}

/* A caller for each `void NAME(` that follows an attribute `global`. */
static void add_callers(const char *text, FILE *f)
{
    fputs(
        "\n#include <utility>\n"
        "template <class T> struct sc_size { enum { v = (int)sizeof(T) }; };\n"
        "template <class T> struct sc_size<T *> { enum { v = -(int)sizeof(T *) }; };\n"
        "template <class... A, std::size_t... I>\n"
        "static void sc_call(void (*f)(A...), void **a, std::index_sequence<I...>)\n"
        "{ f(*(A *)a[I]...); }\n"
        "template <class... A> static void sc_call(void (*f)(A...), void **a)\n"
        "{ sc_call(f, a, std::index_sequence_for<A...>()); }\n"
        "template <class... A> struct sc_sizes {\n"
        "    static constexpr int v[sizeof...(A) + 1] = {(int)sizeof...(A), sc_size<A>::v...}; };\n"
        "template <class... A> static constexpr const int *sc_sizes_of(void (*)(A...))\n"
        "{ return sc_sizes<A...>::v; }\n",
        f);
    for (const char *at = text; (at = strstr(at, "global,")); ++at) {
        char name[64];
        const char *v = strstr(at, "void ");
        if (!v || sscanf(v, "void %63[a-zA-Z0-9_]", name) != 1) continue;
        fprintf(
            f,
            "extern \"C\" __attribute__((visibility(\"default\"))) void sc_call_%s(void **a)\n"
            "{ sc_call(%s, a); }\n"
            "extern \"C\" __attribute__((visibility(\"default\"))) const int *sc_sizes_%s(void)\n"
            "{ return sc_sizes_of(%s); }\n",
            name, name, name, name);
    }
}

static bool compile(hiprtcProgram p, const char *contract)
{
    char in[128], all[128], so[128];
    size_t n = 0;
    snprintf(in, sizeof(in), "%s", part(p, "text.cc"));
    snprintf(all, sizeof(all), "%s", part(p, "all.cc"));
    snprintf(so, sizeof(so), "%s", part(p, "code.so"));
    FILE *f = fopen(in, "w");
    if (!f) return false;
    fputs(p->text, f);
    fclose(f);
    const char *const expand[] = {STANDIN_CXX, "-E",         "-P",
                                  "-w",        "-std=c++17", "-x",
                                  "c++",       "-include",   STANDIN_FOLDER "/hip/prelude.h",
                                  in,          "-o",         all,
                                  NULL};
    if (!run(p, expand)) return false;
    char *text = read_file(all, &n);
    f = text ? fopen(all, "a") : NULL;
    if (f) {
        add_callers(text, f);
        fclose(f);
    }
    free(text);
    const char *const build[] = {STANDIN_CXX,
                                 "-w",
                                 "-std=c++17",
                                 "-O2",
                                 "-march=native",
                                 "-fPIC",
                                 "-shared",
                                 "-fvisibility=hidden",
                                 "-fno-math-errno",
                                 "-fno-trapping-math",
                                 contract,
                                 all,
                                 "-o",
                                 so,
                                 NULL};
    return f && run(p, build);
}

static bool keep_code(hiprtcProgram p)
{
    size_t n = 0;
    char *so = read_file(part(p, "code.so"), &n);
    code_head head = {.bytes = n};
    memcpy(head.magic, magic, sizeof(magic));
    p->code = so ? malloc(sizeof(head) + n) : NULL;
    if (p->code) {
        memcpy(p->code, &head, sizeof(head));
        memcpy(p->code + sizeof(head), so, n);
        p->code_bytes = sizeof(head) + n;
    }
    free(so);
    return p->code != NULL;
}

hiprtcResult hiprtcCompileProgram(hiprtcProgram p, int n, const char **options)
{
    static const char *const files[] = {"text.cc", "all.cc", "code.so", "log"};
    const char *tmp = getenv("TMPDIR");
    if (sc_enter("hiprtcCompileProgram") != SC_OK) return HIPRTC_ERROR_COMPILATION;
    if (!sc_object_check("hiprtc program", p, "hiprtcCompileProgram"))
        return HIPRTC_ERROR_INVALID_PROGRAM;
    const char *contract = check_options(n, options);
    snprintf(p->folder, sizeof(p->folder), "%.40s/standin-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(p->folder)) return HIPRTC_ERROR_INTERNAL_ERROR;
    const bool good = compile(p, contract) && keep_code(p);
    p->log = read_file(part(p, "log"), &p->log_bytes);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); ++i) unlink(part(p, files[i]));
    rmdir(p->folder);
    return good ? HIPRTC_SUCCESS : HIPRTC_ERROR_COMPILATION;
}

hiprtcResult hiprtcGetProgramLogSize(hiprtcProgram p, size_t *out)
{
    *out = p->log_bytes + 1;
    return HIPRTC_SUCCESS;
}

hiprtcResult hiprtcGetProgramLog(hiprtcProgram p, char *out)
{
    memcpy(out, p->log ? p->log : "", p->log ? p->log_bytes + 1 : 1);
    return HIPRTC_SUCCESS;
}

hiprtcResult hiprtcGetCodeSize(hiprtcProgram p, size_t *out)
{
    if (sc_enter("hiprtcGetCodeSize") != SC_OK) return HIPRTC_ERROR_INTERNAL_ERROR;
    *out = p->code_bytes;
    return p->code ? HIPRTC_SUCCESS : HIPRTC_ERROR_INVALID_PROGRAM;
}

hiprtcResult hiprtcGetCode(hiprtcProgram p, char *out)
{
    if (!p->code) return HIPRTC_ERROR_INVALID_PROGRAM;
    memcpy(out, p->code, p->code_bytes);
    return HIPRTC_SUCCESS;
}

/* ---- modules ---- */

sc_status sc_hip_module_load(const void *code, sc_hip_module **out)
{
    code_head head;
    const char *tmp = getenv("TMPDIR");
    char path[128];
    memcpy(&head, code, sizeof(head));
    if (memcmp(head.magic, magic, sizeof(magic)) != 0) return SC_INVALID_IMAGE;
    sc_hip_module *m = calloc(1, sizeof(*m));
    /* The loader knows libraries by name, so each needs one of its own. */
    snprintf(path, sizeof(path), "%.64s/standin-XXXXXX", tmp ? tmp : "/tmp");
    const int fd = mkstemp(path);
    if (m && fd >= 0 &&
        write(fd, (const char *)code + sizeof(head), head.bytes) == (ssize_t)head.bytes)
        m->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (m && m->library) m->state = dlsym(m->library, "sc_hip_state");
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    if (!m || !m->state) {
        sc_hip_module_free(m);
        return SC_INVALID_IMAGE;
    }
    *out = m;
    return SC_OK;
}

void sc_hip_module_free(sc_hip_module *m)
{
    if (!m) return;
    for (sc_hip_function *f = m->functions, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    if (m->library) dlclose(m->library);
    free(m);
}

sc_hip_function *sc_hip_function_get(sc_hip_module *m, const char *name)
{
    char symbol[96];
    const int *(*sizes)(void) = NULL;
    for (sc_hip_function *f = m->functions; f; f = f->next)
        if (strcmp(f->name, name) == 0) return f;
    sc_hip_function *f = calloc(1, sizeof(*f));
    if (!f) return NULL;
    snprintf(f->name, sizeof(f->name), "%s", name);
    snprintf(symbol, sizeof(symbol), "sc_call_%s", name);
    *(void **)&f->call = dlsym(m->library, symbol);
    snprintf(symbol, sizeof(symbol), "sc_sizes_%s", name);
    *(void **)&sizes = dlsym(m->library, symbol);
    if (!f->call || !sizes || sizes()[0] > SC_HIP_ARGS) {
        free(f);
        return NULL;
    }
    f->n = sizes()[0];
    f->sizes = sizes() + 1;
    f->module = m;
    f->next = m->functions;
    m->functions = f;
    return f;
}
