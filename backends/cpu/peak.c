/* peak.c: times the loops of peak_loop.c and gemm_amx.c on all threads of the team (peak.h). */
#include "backends/cpu/peak.h"

#include <time.h>

#include "backends/cpu/isa.h"
#include "backends/cpu/team.h"

typedef double loop_fn(int64_t rounds);
#if defined(__x86_64__)
extern loop_fn *const iv__peak_loop_v2[2], *const iv__peak_loop_v3[2], *const iv__peak_loop_v4[2];
loop_fn iv__peak_loop_amx;
static loop_fn *const *const loops[IV__ISA_COUNT] = {iv__peak_loop_v2, iv__peak_loop_v3,
                                                     iv__peak_loop_v4, iv__peak_loop_v4};
#else
extern loop_fn *const iv__peak_loop_base[2];
static loop_fn *const *const loops[IV__ISA_COUNT] = {iv__peak_loop_base};
#endif

static loop_fn *loop_of(int level, iv__gemm_type t)
{
#if defined(__x86_64__)
    if (iv__isa_has_tiles(level) && t == IV__GEMM_BF16) return iv__peak_loop_amx;
#endif
    return loops[level][t == IV__GEMM_F64];
}

typedef struct race {
    loop_fn *loop;
    int64_t rounds;
    double done[IV__TEAM_MAX];
} race;

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    race *r = arg;
    (void)begin, (void)end;
    r->done[thread] = r->loop(r->rounds);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of a few races of about 20 ms. */
double iv__peak_flops(int level, iv__gemm_type t)
{
    static race r;
    int n = iv__team_size();
    double best = 0;
    r = (race){.loop = loop_of(level, t), .rounds = 1000};
    for (int i = 0; i < 12; ++i) {
        double all = 0, start = seconds();
        iv__team_for(n, 1, run, &r);
        double took = seconds() - start;
        for (int k = 0; k < n; ++k) all += r.done[k];
        if (took > 0 && all / took > best) best = all / took;
        if (took < 0.02) r.rounds *= 4;
    }
    return best;
}
