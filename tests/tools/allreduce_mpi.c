/* allreduce_mpi.c: the time of MPI_Allreduce, for ci/reduce.  allreduce_mpi MIB ROUNDS */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    int rank, world;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    long n = atol(argv[1]) << 18;
    int rounds = atoi(argv[2]);
    float *x = calloc((size_t)n, sizeof(*x)), *y = calloc((size_t)n, sizeof(*y));
    double *ms = calloc((size_t)rounds, sizeof(*ms));
    for (int k = -2; k < rounds; ++k) {
        for (long i = 0; i < n; ++i) x[i] = (float)(i % 1000 + rank);
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        MPI_Allreduce(x, y, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        if (k >= 0) ms[k] = (MPI_Wtime() - start) * 1e3;
    }
    qsort(ms, (size_t)rounds, sizeof(*ms), by_size);
    if (rank == 0)
        printf("MPI_Allreduce: %d ranks, %s MiB: median %.2f ms, best %.2f ms\n", world, argv[1],
               ms[rounds / 2], ms[0]);
    MPI_Finalize();
    return 0;
}
