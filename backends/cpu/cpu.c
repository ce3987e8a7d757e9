/* cpu.c: the CPU backend: devices, memory, launches.
 *
 * A queue runs work at once on the calling thread and the team, so every operation is complete when
 * it returns.  Kernels are the host instances of the portable texts at the best instruction level
 * that the machine has, or the one INVAR_ISA names. */
#include "cpu.h"

#include "peak.h"
#include "place.h"
#include "team.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

typedef struct cpu_driver {
    const iv_host *host;
    int level, threads;
    int32_t asked; /* threads that were asked for, or 0 */
    int32_t n_places;
    iv_cpu_place *places;
} cpu_driver;

typedef struct cpu_kernel {
    cpu_kernel_fn *fn; /* or a program */
    cpu_program_fn *run_program;
    iv_program program;
} cpu_kernel;

static int drivers; /* that are open */
/* CPUs of the places of open devices, which the team works on. */
static struct {
    int32_t *cpus, n;
} team_place;
static const iv_host *host; /* set once by init; the host outlives every plugin */

static iv_status cpu_init(const iv_host *h, const char *args, void **out_self)
{
    if (*args) return h->fail(IV_INVALID, "backend cpu takes no arguments, got '%s'", args);
    host = h;
    *out_self = NULL;
    return IV_OK;
}

static int usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

static iv_status choose_level(const char *forced, int *out)
{
    int best = iv__isa_detect();
    while (best >= 0 && !iv__host_kernels[best]) --best;
    if (best < 0)
        return host->fail(IV_UNAVAILABLE, "this processor lacks the least instruction level that "
                                          "the CPU backend was built for (x86-64-v2 by default)");
    *out = best;
    if (!forced) return IV_OK;
    int level = iv__isa_from_name(forced);
    if (level < 0)
        return host->fail(
            IV_INVALID, "INVAR_ISA='%s': no such instruction level [hint: one of v2, v3, v4, amx]",
            forced);
    if (level > best)
        return host->fail(IV_UNAVAILABLE, "INVAR_ISA=%s: this machine and build have only up to %s",
                          forced, iv__isa_name(best));
    if (!iv__host_kernels[level])
        return host->fail(IV_UNAVAILABLE,
                          "INVAR_ISA=%s: this build left that level out (INVAR_LEVELS)", forced);
    *out = level;
    return IV_OK;
}

/* A positive number from INVAR_THREADS, 0 if it is unset. */
static iv_status threads_from_env(int32_t *out)
{
    const char *s = host->env("INVAR_THREADS");
    char *end = NULL;
    long n = s ? strtol(s, &end, 10) : 0;
    if (s && (*end || n < 1 || n > IV__TEAM_MAX))
        return host->fail(IV_INVALID, "INVAR_THREADS='%s': a number from 1 to %d is needed", s,
                          IV__TEAM_MAX);
    *out = (int32_t)n;
    return IV_OK;
}

static iv_status cpu_open(void *self, const iv_backend_options *o, void **out_drv)
{
    (void)self;
    int level = 0;
    int32_t threads = o->threads;
    iv_status s = choose_level(o->isa ? o->isa : host->env("INVAR_ISA"), &level);
    if (s == IV_OK && threads <= 0) s = threads_from_env(&threads);
    if (s != IV_OK) return s;
    cpu_driver *d = calloc(1, sizeof(*d));
    if (!d) return host->fail(IV_NO_MEMORY, "opening the CPU backend");
    d->host = host;
    d->level = level;
    d->asked = threads;
    d->n_places = o->n_places;
    if (d->n_places > 0 && !(d->places = iv__place_copy(o->place, o->n_places))) {
        free(d);
        return host->fail(IV_NO_MEMORY, "opening the CPU backend");
    }
    d->threads = threads > 0 ? threads : d->n_places > 0 ? 1 : usable_cores();
    /* The team is one for the process: a second device shares it. */
    if (drivers++ == 0 && iv__team_open(d->threads) != 0)
        host->log(IV_LOG_WARN, "%d of %d threads could be started", iv__team_size(), d->threads);
    d->threads = iv__team_size();
    *out_drv = d;
    return IV_OK;
}

static void cpu_close(void *drv)
{
    cpu_driver *d = drv;
    if (--drivers == 0) {
        iv__place_release();
        iv__team_close();
        free(team_place.cpus);
        memset(&team_place, 0, sizeof(team_place));
    }
    free(d->places);
    free(d);
}

static iv_status cpu_device_count(void *drv, int32_t *out_n)
{
    const cpu_driver *d = drv;
    *out_n = d->n_places > 0 ? d->n_places : 1;
    return IV_OK;
}

static bool is_in_team_place(int32_t cpu)
{
    for (int32_t i = 0; i < team_place.n; ++i)
        if (team_place.cpus[i] == cpu) return true;
    return false;
}

/* The team works on the places of all open devices. */
static iv_status join_team_place(cpu_driver *d, const iv_cpu_place *p)
{
    int32_t *grown = realloc(team_place.cpus, (size_t)(team_place.n + p->n_cpus) * sizeof(*grown));
    if (!grown) return host->fail(IV_NO_MEMORY, "opening a CPU device");
    team_place.cpus = grown;
    for (int32_t i = 0; i < p->n_cpus; ++i)
        if (!is_in_team_place(p->cpus[i])) team_place.cpus[team_place.n++] = p->cpus[i];
    const int threads = d->asked > 0 ? d->asked : team_place.n;
    if (threads != iv__team_size() && iv__team_open(threads) != 0)
        host->log(IV_LOG_WARN, "%d of %d threads could be started", iv__team_size(), threads);
    iv__place_team(host, team_place.cpus, team_place.n);
    d->threads = iv__team_size();
    return IV_OK;
}

static iv_status cpu_device_open(void *drv, int32_t index, void **out_dev)
{
    cpu_driver *d = drv;
    int32_t n;
    (void)cpu_device_count(drv, &n);
    if (index < 0 || index >= n)
        return host->fail(IV_UNAVAILABLE, "opening cpu:%d: there are %d CPU devices", index, n);
    const iv_cpu_place *place = d->n_places > 0 ? &d->places[index] : NULL;
    if (place) {
        iv_status s = join_team_place(d, place);
        if (s != IV_OK) return s;
    }
    cpu_device *dev = calloc(1, sizeof(*dev));
    if (!dev) return host->fail(IV_NO_MEMORY, "opening a CPU device");
    *dev = (cpu_device){.host = host, .level = d->level, .threads = d->threads, .place = place};
    *out_dev = dev;
    return IV_OK;
}

static void cpu_device_close(void *dev)
{
    free(dev);
}

/* The processor's name from /proc/cpuinfo. */
static void read_name(char *out, size_t size)
{
    snprintf(out, size, "CPU");
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (f && fgets(line, sizeof(line), f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(out, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (f) fclose(f);
}

static iv_status cpu_device_info(void *dev, iv_device_info *out)
{
    const cpu_device *d = dev;
    struct sysinfo si;
    memset(out, 0, sizeof(*out));
    read_name(out->name, sizeof(out->name));
    snprintf(out->vendor, sizeof(out->vendor), "host");
    snprintf(out->driver, sizeof(out->driver), "invar %s", iv_version());
    snprintf(out->arch, sizeof(out->arch), "x86-64-%s", iv__isa_name(d->level));
    if (sysinfo(&si) == 0) {
        out->mem_bytes = (int64_t)si.totalram * si.mem_unit;
        out->mem_free = (int64_t)(si.freeram + si.bufferram) * si.mem_unit;
    }
    out->units = d->threads;
    out->has_f64 = out->exact = true;
    bool tiles = iv__isa_has_tiles(d->level);
    out->native_bf16 = tiles || (iv__isa_is_widest(d->level) && iv__isa_has_avx512_bf16());
    snprintf(out->notes, sizeof(out->notes), "%s",
             tiles              ? "AMX bf16 tiles"
             : out->native_bf16 ? "AVX512-BF16"
                                : "");
    return IV_OK;
}

/* ---- memory ---- */

enum { PAGE = 4096, HUGE_PAGE = 2 << 20 };

static iv_status cpu_mem_alloc(void *dev, int64_t bytes, iv_mem_kind kind, void **out_mem)
{
    const iv_cpu_place *place = ((const cpu_device *)dev)->place;
    (void)kind;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    size_t size = ((size_t)bytes + align - 1) / align * align;
    cpu_memory *m = calloc(1, sizeof(*m));
    if (m) m->ptr = aligned_alloc(align, size);
    if (!m || !m->ptr) {
        free(m);
        return host->fail(IV_NO_MEMORY, "the system has no %zu bytes", size);
    }
    if (align == HUGE_PAGE) madvise(m->ptr, size, MADV_HUGEPAGE); /* a hint: fewer TLB misses */
    if (place && place->n_nodes > 0) iv__place_memory(m->ptr, size, place->nodes, place->n_nodes);
    m->bytes = bytes;
    *out_mem = m;
    return IV_OK;
}

static void cpu_mem_free(void *dev, void *mem)
{
    (void)dev;
    if (mem) free(((cpu_memory *)mem)->ptr);
    free(mem);
}

static void *cpu_mem_host(void *dev, void *mem)
{
    (void)dev;
    return ((cpu_memory *)mem)->ptr;
}

/* ---- queue ---- */

static iv_status cpu_queue_open(void *dev, iv_queue_kind kind, void **out_q)
{
    (void)kind;
    *out_q = dev;
    return IV_OK;
}

static void cpu_queue_close(void *q)
{
    (void)q;
}

static iv_status cpu_write(void *q, iv_buffer dst, const void *src)
{
    (void)q;
    memcpy(iv__cpu_ptr(dst), src, (size_t)dst.bytes);
    return IV_OK;
}

static iv_status cpu_read(void *q, void *dst, iv_buffer src)
{
    (void)q;
    memcpy(dst, iv__cpu_ptr(src), (size_t)src.bytes);
    return IV_OK;
}

static iv_status cpu_copy(void *q, iv_buffer dst, iv_buffer src)
{
    (void)q;
    memmove(iv__cpu_ptr(dst), iv__cpu_ptr(src), (size_t)src.bytes);
    return IV_OK;
}

typedef struct fill_job {
    uint32_t *dst, pattern;
} fill_job;

static void fill_part(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const fill_job *j = arg;
    if (j->pattern == 0) memset(j->dst + begin, 0, (size_t)(end - begin) * 4);
    else
        for (int64_t i = begin; i < end; ++i) j->dst[i] = j->pattern;
}

static iv_status cpu_fill(void *q, iv_buffer dst, uint32_t pattern)
{
    (void)q;
    fill_job j = {iv__cpu_ptr(dst), pattern};
    iv__team_for(dst.bytes / 4, 1 << 16, fill_part, &j);
    return IV_OK;
}

typedef struct launch_job {
    const cpu_kernel *kernel;
    uint8_t *buf[IV_MAX_BUFS];
    cpu_params p;
} launch_job;

static void launch_part(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const launch_job *j = arg;
    if (j->kernel->fn) j->kernel->fn(j->buf, &j->p, begin, end);
    else j->kernel->run_program(&j->kernel->program, j->buf, begin, end);
}

static iv_status cpu_launch(void *q, void *kernel, const iv_launch *l)
{
    (void)q;
    launch_job j = {.kernel = kernel};
    bool program = j.kernel->run_program != NULL;
    for (int32_t i = 0; i < l->n_bufs; ++i) j.buf[i] = iv__cpu_ptr(l->buf[i]);
    if (!program) {
        memcpy(j.p.n, l->n, sizeof(j.p.n));
        memcpy(j.p.d, l->f, sizeof(j.p.d));
        for (int32_t i = 0; i < IV_KERNEL_FLOATS; ++i) j.p.f[i] = (float)l->f[i];
    }
    /* Waking the team costs about as much as a few thousand elements. */
    iv__team_for(l->groups, program ? 4 : 1, launch_part, &j);
    return IV_OK;
}

static iv_status cpu_signal(void *q, uint64_t *out_seq)
{
    (void)q;
    *out_seq = 0; /* everything enqueued is complete */
    return IV_OK;
}

static iv_status cpu_wait(void *q, void *other, uint64_t seq)
{
    (void)q, (void)other, (void)seq;
    return IV_OK;
}

static iv_status cpu_sync(void *q)
{
    (void)q;
    return IV_OK;
}

/* ---- kernels ---- */

static cpu_kernel_fn *find_kernel(int level, const iv_kernel_src *src)
{
    for (const iv__host_kernel *const *file = iv__host_kernels[level]; *file; ++file)
        for (const iv__host_kernel *k = *file; k->name; ++k)
            if (strcmp(k->file, src->file) == 0 && strcmp(k->name, src->name) == 0 &&
                strcmp(k->sig, src->sig) == 0)
                return k->fn;
    return NULL;
}

static iv_status cpu_kernel_build(void *dev, const iv_kernel_src *src, void **out_kernel)
{
    const cpu_device *d = dev;
    cpu_kernel_fn *fn = src->program ? NULL : find_kernel(d->level, src);
    if (!src->program && !fn)
        return host->fail(
            IV_UNSUPPORTED,
            "the CPU has no instance of kernel %s for types '%s' (kernels/kernels.def)", src->name,
            src->sig);
    cpu_kernel *k = calloc(1, sizeof(*k));
    if (!k) return host->fail(IV_NO_MEMORY, "building a kernel");
    k->fn = fn;
    if (src->program) {
        k->program = *src->program;
        k->run_program = iv__host_programs[d->level];
    }
    *out_kernel = k;
    return IV_OK;
}

static void cpu_kernel_free(void *dev, void *kernel)
{
    (void)dev;
    free(kernel);
}

/* ---- implementations: the best first ---- */

static const iv_impl *const *cpu_impls(void *dev, int32_t *out_n)
{
    (void)dev;
    static const iv_impl *all[32];
    static int32_t n;
    const iv_impl *const *const lists[] = {iv__cpu_onednn_impls, iv__cpu_blas_impls,
                                           iv__cpu_gemm_impls,   iv__cpu_conv_impls,
                                           iv__cpu_pool_impls,   iv__cpu_attention_impls};
    if (n == 0)
        for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); ++i)
            for (const iv_impl *const *p = lists[i]; *p; ++p) all[n++] = *p;
    *out_n = n;
    return all;
}

static double cpu_peak_flops(void *dev, iv_dtype t)
{
    const cpu_device *d = dev;
    const int type = iv__cpu_type(t);
    return iv__peak_flops(d->level, type < 0 ? IV__GEMM_F32 : (iv__gemm_type)type);
}

static const iv_backend cpu_backend = {
    .open = cpu_open,
    .close = cpu_close,
    .device_count = cpu_device_count,
    .device_open = cpu_device_open,
    .device_close = cpu_device_close,
    .device_info = cpu_device_info,
    .mem_alloc = cpu_mem_alloc,
    .mem_free = cpu_mem_free,
    .mem_host = cpu_mem_host,
    .queue_open = cpu_queue_open,
    .queue_close = cpu_queue_close,
    .write = cpu_write,
    .read = cpu_read,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .launch = cpu_launch,
    .signal = cpu_signal,
    .wait = cpu_wait,
    .sync = cpu_sync,
    .kernel_build = cpu_kernel_build,
    .kernel_free = cpu_kernel_free,
    .impls = cpu_impls,
    .peak_flops = cpu_peak_flops,
};

const iv_plugin iv__plugin_cpu = {
    .abi = IV_PLUGIN_ABI,
    .size = sizeof(iv_plugin),
    .kind = IV_PLUGIN_BACKEND,
    .vtable_size = sizeof(iv_backend),
    .name = "cpu",
    .version = "1",
    .summary = "this machine's processors: portable kernels, canonical GEMM, oneDNN and CBLAS in "
               "fast mode",
    .vtable = &cpu_backend,
    .init = cpu_init,
};
