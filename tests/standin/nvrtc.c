/* nvrtc.c: see nvrtc.h. */
#include "nvrtc.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The few functions that are needed, as nvrtc.h of CUDA declares them. */
static int (*create)(void **program, const char *text, const char *name, int n,
                     const char *const *headers, const char *const *names);
static int (*compile)(void *program, int n, const char *const *options);
static int (*destroy)(void **program);
static int (*ptx_size)(void *program, size_t *size);
static int (*ptx_get)(void *program, char *ptx);
static int (*log_size)(void *program, size_t *size);
static int (*log_get)(void *program, char *log);

static const char *const options[] = {"--gpu-architecture=compute_121",
                                      "--std=c++17",
                                      "--fmad=false",
                                      "--ftz=false",
                                      "--prec-div=true",
                                      "--prec-sqrt=true",
                                      "-w"};
enum { OPTIONS = sizeof(options) / sizeof(*options), HEADERS = 6 };
static const char *const headers[HEADERS] = {"portable.h", "math.h", "philox.h",
                                             "fold.h",     "tile.h", "elem.h"};

bool nvrtc_open(char *why, size_t size)
{
    const char *const names[] = {getenv("INVAR_NVRTC_LIB"), "libnvrtc.so.13",
                                 "/usr/local/cuda/lib64/libnvrtc.so.13", "libnvrtc.so.12",
                                 "/usr/local/cuda/lib64/libnvrtc.so.12"};
    const struct {
        const char *name;
        void *at;
    } symbols[] = {{"nvrtcCreateProgram", &create},   {"nvrtcCompileProgram", &compile},
                   {"nvrtcDestroyProgram", &destroy}, {"nvrtcGetPTXSize", &ptx_size},
                   {"nvrtcGetPTX", &ptx_get},         {"nvrtcGetProgramLogSize", &log_size},
                   {"nvrtcGetProgramLog", &log_get}};
    void *lib = NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !lib; ++i)
        if (names[i]) lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(why, size, "no NVRTC: %s", dlerror());
        return false;
    }
    for (size_t i = 0; i < sizeof(symbols) / sizeof(*symbols); ++i) {
        void *f = dlsym(lib, symbols[i].name);
        memcpy(symbols[i].at, &f, sizeof(f));
        if (f) continue;
        snprintf(why, size, "NVRTC has no %s", symbols[i].name);
        return false;
    }
    return true;
}

/* A whole file, or NULL; the caller frees. */
static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *s = NULL;
    if (!f) return NULL;
    if (fseek(f, 0, SEEK_END) == 0) {
        const long n = ftell(f);
        rewind(f);
        s = n >= 0 ? malloc((size_t)n + 1) : NULL;
        if (s) s[fread(s, 1, (size_t)n, f)] = 0;
    }
    fclose(f);
    return s;
}

static uint64_t hash_of(uint64_t h, const char *s)
{
    for (; *s; ++s) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h;
}

/* Written beside its place and moved there, since tests run at the same time. */
static void keep(const char *path, const char *text)
{
    char part[600];
    snprintf(part, sizeof(part), "%s.%d-%lx", path, (int)getpid(), (unsigned long)pthread_self());
    FILE *f = fopen(part, "wb");
    if (!f) return;
    const bool good = fputs(text, f) >= 0;
    if (fclose(f) == 0 && good) rename(part, path);
    else unlink(part);
}

static char *run_compiler(const char *text, const char *name, const char *const *bodies,
                          const char *const *names, char *why, size_t size)
{
    void *p = NULL;
    char *ptx = NULL;
    size_t n = 0;
    if (create(&p, text, name, HEADERS, bodies, names) != 0) {
        snprintf(why, size, "nvrtcCreateProgram failed");
        return NULL;
    }
    const int e = compile(p, OPTIONS, options);
    if (e != 0) {
        snprintf(why, size, "compiling %s: NVRTC error %d", name, e);
        char *log = log_size(p, &n) == 0 ? calloc(n + 1, 1) : NULL;
        if (log && log_get(p, log) == 0) snprintf(why, size, "compiling %s: %s", name, log);
        free(log);
    } else if (ptx_size(p, &n) == 0 && (ptx = malloc(n + 1)) != NULL && ptx_get(p, ptx) != 0) {
        free(ptx);
        ptx = NULL;
    }
    destroy(&p);
    return ptx;
}

char *nvrtc_text(const char *text, const char *name, char *why, size_t size)
{
    char *bodies[HEADERS], names[HEADERS][64], path[512];
    const char *pointers[HEADERS];
    uint64_t h = hash_of(0xcbf29ce484222325u, text);
    char *ptx = NULL;
    bool good = true;
    for (int i = 0; i < HEADERS; ++i) {
        snprintf(path, sizeof(path), "%s/kernels/%s", SOURCE_DIR, headers[i]);
        snprintf(names[i], sizeof(names[i]), "kernels/%s", headers[i]);
        pointers[i] = names[i];
        bodies[i] = read_file(path);
        good = good && bodies[i];
        if (bodies[i]) h = hash_of(h, bodies[i]);
    }
    for (int i = 0; i < OPTIONS; ++i) h = hash_of(h, options[i]);
    snprintf(path, sizeof(path), "%s/ptx-cache", BINARY_DIR);
    mkdir(path, 0777);
    snprintf(path, sizeof(path), "%s/ptx-cache/%s-%016llx.ptx", BINARY_DIR, name,
             (unsigned long long)h);
    snprintf(why, size, "kernels/ cannot be read");
    if (good && !(ptx = read_file(path))) {
        ptx = run_compiler(text, name, (const char *const *)bodies, pointers, why, size);
        if (ptx) keep(path, ptx);
    }
    for (int i = 0; i < HEADERS; ++i) free(bodies[i]);
    return ptx;
}

char *nvrtc_kernel(const char *file, const char *sig, char *why, size_t size)
{
    char path[512], name[64];
    snprintf(path, sizeof(path), "%s/kernels/%s.k", SOURCE_DIR, file);
    snprintf(name, sizeof(name), "%s_%s", file, sig);
    char *body = read_file(path), *ptx = NULL, *text = body ? malloc(strlen(body) + 512) : NULL;
    snprintf(why, size, "%s cannot be read", path);
    if (text) {
        sprintf(text,
                "#include \"kernels/portable.h\"\n#include \"kernels/math.h\"\n#include "
                "\"kernels/philox.h\"\n#include \"kernels/fold.h\"\n"
                "#include \"kernels/tile.h\"\n#define T0 %c\n#define T1 %c\n#define A %c\n%s",
                sig[0], sig[1], strchr(sig, 'd') ? 'd' : 'f', body);
        ptx = nvrtc_text(text, name, why, size);
    }
    free(text);
    free(body);
    return ptx;
}
