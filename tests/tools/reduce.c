/* reduce.c: the time of one gradient reduction, as a step makes it: every rank has a whole arena,
 * and gets the sums of all.  Run by ci/reduce beside MPI_Allreduce.
 *
 *   reduce TRANSPORT MIB ROUNDS        in each rank of a launcher */
#include "reduce.h"

#include <math.h>

static int end(iv_status s)
{
    if (s != IV_OK) fprintf(stderr, "reduce: %s\n", iv_error_message());
    return s != IV_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static iv_status open_reducer(iv__comm *c, int64_t n, iv__reducer **out)
{
    int32_t world = c->ranks.world;
    iv__segment segments[64];
    iv__span nodes[64];
    int32_t ranks[64];
    if (world > 64) return iv__fail(IV_INVALID, "%d ranks: at most 64", world);
    for (int32_t r = 0; r < world; ++r) {
        int64_t first = n / 64 * r / world * 64,
                last = r + 1 < world ? n / 64 * (r + 1) / world * 64 : n;
        segments[r] = (iv__segment){first, last - first, r, true};
        nodes[r] = (iv__span){r, 1};
        ranks[r] = r;
    }
    IV_TRY(iv__reducer_open(c, IV_F32, segments, world, INT64_MAX, out));
    return iv__reducer_deal(*out, world, nodes, ranks, world);
}

static iv_status rounds(iv__comm *c, float *x, int64_t n, int count, double *ms)
{
    iv__reducer *r;
    IV_TRY(open_reducer(c, n, &r));
    iv_status s = IV_OK;
    for (int k = -2; s == IV_OK && k < count; ++k) { /* two to warm up */
        for (int64_t i = 0; i < n; ++i) x[i] = (float)(i % 1000 + c->ranks.rank);
        s = iv__comm_barrier(c);
        int64_t start = iv__now_ns();
        void *parts[] = {x};
        if (s == IV_OK) s = iv__reducer_run(r, parts, x);
        if (k >= 0) ms[k] = (double)(iv__now_ns() - start) * 1e-6;
    }
    int64_t w = c->ranks.world;
    for (int64_t i = 0; s == IV_OK && i < n; ++i)
        if (x[i] != (float)(i % 1000 * w + w * (w - 1) / 2))
            s = iv__fail(IV_CORRUPT, "element %lld is %g", (long long)i, (double)x[i]);
    iv__reducer_close(r);
    return s;
}

int main(int argc, char **argv)
{
    iv_config *config = NULL;
    iv_cluster_info found;
    iv__comm *c = NULL;
    if (argc != 4) return fprintf(stderr, "reduce TRANSPORT MIB ROUNDS\n"), 2;
    int64_t n = strtoll(argv[2], NULL, 10) << 18;
    int count = atoi(argv[3]);
    float *x = calloc((size_t)n, sizeof(*x));
    double *ms = calloc((size_t)count + 1, sizeof(*ms));
    iv_status s = x && ms && count > 0 ? iv_config_new(&config) : iv__fail(IV_INVALID, "sizes");
    if (s == IV_OK) s = iv_cluster_find(config, &found);
    if (s == IV_OK) s = iv__comm_open(argv[1], &found.ranks, 60000000000, &c);
    if (s == IV_OK) s = rounds(c, x, n, count, ms);
    if (s == IV_OK) {
        qsort(ms, (size_t)count, sizeof(*ms), by_size);
        if (found.ranks.rank == 0)
            printf("invar %s: %d ranks, %s MiB: median %.2f ms, best %.2f ms\n", c->name,
                   found.ranks.world, argv[2], ms[count / 2], ms[0]);
    }
    iv__comm_close(c);
    iv_config_free(config);
    free(x);
    free(ms);
    return end(s);
}
