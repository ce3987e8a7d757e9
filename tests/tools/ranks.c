/* ranks.c: what a launcher started meets and exchanges bytes: a tool for tests under mpirun, srun,
 * torchrun and the like.
 *
 *   mpirun -n 3 ranks [TRANSPORT=auto] [NAME=the transport that must be chosen]
 *
 * Every rank finds its place (iv_cluster_find), opens the communicator, and checks gathers of equal
 * and of uneven parts, reductions, and many sets under way at once.  Rank 0 prints one line. */
#include "comm.h"

static uint8_t byte_of(int32_t rank, int64_t i, int round)
{
    return (uint8_t)((uint64_t)(i * 31 + rank * 7 + round) * 0x9e3779b97f4a7c15u >> 56);
}

static iv_status check(const uint8_t *data, int64_t n, int32_t rank, int round)
{
    for (int64_t i = 0; i < n; ++i)
        if (data[i] != byte_of(rank, i, round))
            IV_FAIL(IV_CORRUPT, "round %d: byte %lld of rank %d is wrong", round, (long long)i,
                    rank);
    return IV_OK;
}

static iv_status uneven_parts(iv__comm *c, int round)
{
    static const int64_t sizes[] = {0, 1, 4097, 1 << 20, 65536, 17};
    iv__part parts[256];
    int64_t end = 0;
    for (int32_t i = 0; i < c->ranks.world; ++i) {
        parts[i] = (iv__part){end, sizes[(i + round) % 6]};
        end += parts[i].bytes;
    }
    uint8_t *all;
    const int32_t me = c->ranks.rank;
    IV_TRY(iv__calloc(end + 1, 1, "bytes", &all));
    for (int64_t k = 0; k < parts[me].bytes; ++k) all[parts[me].offset + k] = byte_of(me, k, round);
    iv_status s = iv__comm_gather_parts(c, all, parts);
    for (int32_t i = 0; s == IV_OK && i < c->ranks.world; ++i)
        s = check(all + parts[i].offset, parts[i].bytes, i, round);
    free(all);
    return s;
}

static iv_status reductions(iv__comm *c, int round)
{
    const int64_t me = c->ranks.rank, n = c->ranks.world;
    int64_t sum[2] = {me + round, 1}, most[2] = {me, -me};
    IV_TRY(iv__comm_reduce(c, IV_COMM_SUM, sum, 2));
    IV_TRY(iv__comm_reduce(c, IV_COMM_MAX, most, 2));
    if (sum[0] != n * (n - 1) / 2 + n * round || sum[1] != n || most[0] != n - 1 || most[1] != 0)
        IV_FAIL(IV_CORRUPT, "a reduction is wrong: %lld, %lld", (long long)sum[0],
                (long long)most[0]);
    return IV_OK;
}

/* Sets to and from the right and left neighbour, finished at once at the end. */
static iv_status many_sets(iv__comm *c)
{
    enum { SETS = 40, LARGE = 100000 };
    static uint8_t out[SETS][LARGE], in[SETS][LARGE];
    const int32_t me = c->ranks.rank, n = c->ranks.world, right = (me + 1) % n,
                  left = (me + n - 1) % n;
    uint64_t ticket = 0;
    for (int s = 0; s < SETS; ++s) {
        const int64_t size = s % 3 ? LARGE - s : 8 + s;
        for (int64_t i = 0; i < size; ++i) out[s][i] = byte_of(me, i, s);
        const iv_message m[2] = {{right, 1, out[s], size}, {left, 0, in[s], size}};
        IV_TRY(iv__comm_start(c, m, 2, &ticket));
    }
    IV_TRY(iv__comm_finish(c, ticket));
    for (int s = 0; s < SETS; ++s) IV_TRY(check(in[s], s % 3 ? LARGE - s : 8 + s, left, s));
    return IV_OK;
}

static iv_status run(iv__comm *c, const char *expected)
{
    if (expected && c->ranks.world > 1 && strcmp(c->name, expected) != 0)
        IV_FAIL(IV_INVALID, "the ranks chose transport %s, expected %s", c->name, expected);
    for (int round = 0; round < 7; ++round) IV_TRY(uneven_parts(c, round));
    for (int round = 0; round < 50; ++round) IV_TRY(reductions(c, round));
    if (c->ranks.world > 1) IV_TRY(many_sets(c));
    return iv__comm_barrier(c);
}

int main(int argc, char **argv)
{
    iv_config *config;
    iv_cluster_info found;
    iv__comm *c = NULL;
    iv_status s = iv_config_new(&config);
    if (s == IV_OK) s = iv_cluster_find(config, &found);
    if (s == IV_OK) s = iv__comm_open(argc > 1 ? argv[1] : "auto", &found.ranks, 60000000000, &c);
    if (s == IV_OK) s = run(c, argc > 2 ? argv[2] : NULL);
    if (s != IV_OK) fprintf(stderr, "rank %d: %s\n", found.ranks.rank, iv_error_message());
    else if (found.ranks.rank == 0)
        printf("%d ranks of %s over %s: fine\n", found.ranks.world, found.name, c->name);
    iv__comm_close(c);
    iv_config_free(config);
    return s == IV_OK ? 0 : 1;
}
