/* test_gpu_faults.c: the driver fails in the N-th call of a function: a training ends with one line
 * that names the call's error, with a status that is not 0, without hanging and without a leak (the
 * stand-in would end with status 97), and the checkpoint written before is whole.
 *
 *   test_gpu_faults cuda|hip      the stand-in is in INVAR_CUDA_LIB or INVAR_HIP_LIB */
#include "run.h"

static const char *kind;

#define TRAIN                                                                                      \
    "train --model mlp --data idx:images --json --numerics invariant --precision 32-true --batch " \
    "4 --set model.width=16 --set eval.batches=1 --accelerator %s --out run --resume auto "

/* One function to fail: how often it is called before, what the line must contain. */
typedef struct fault {
    const char *cuda, *hip, *name, *expect;
} fault;
static const fault faults[] = {
    {"cuMemAlloc_v2:6", "hipMalloc:6", "out_of_memory", "bytes"},
    {"cuMemHostAlloc:2", "hipHostMalloc:2", "out_of_memory", "opening a queue"},
    {"cuStreamCreate:2", "hipStreamCreateWithFlags:2", "unknown", "opening a queue"},
    {"cuEventCreate:70", "hipEventCreateWithFlags:70", "unknown", "opening a queue"},
    {"cuLaunchKernel:40", "hipModuleLaunchKernel:40", "out_of_resources", "running kernel"},
    {"cuMemcpyHtoDAsync_v2:12", "hipMemcpyHtoDAsync:12", "unknown", "writing"},
    {"cuMemcpyDtoHAsync_v2:8", "hipMemcpyDtoHAsync:8", "unknown", "reading"},
    {"cuStreamSynchronize:20", "hipStreamSynchronize:20", "launch_failed", "waiting for all work"},
    {"kernel:30", "kernel:30", "illegal_address", "ILLEGALADDRESS"},
};

/* Upper case without underscores: "CUDA_ERROR_ILLEGAL_ADDRESS", "hipErrorIllegalAddress". */
static void plain(const char *from, char *to)
{
    for (; *from; ++from)
        if (*from != '_') *to++ = (char)(*from >= 'a' && *from <= 'z' ? *from - 32 : *from);
    *to = 0;
}

static void ends_well(const fault *f)
{
    static char said[1 << 14];
    char environment[256], args[512];
    snprintf(environment, sizeof(environment), "INVAR_STANDIN_FAIL=%s=%s",
             strcmp(kind, "cuda") == 0 ? f->cuda : f->hip, f->name);
    snprintf(args, sizeof(args), TRAIN "--max-steps 40", kind);
    const int status = run(environment, args);
    plain(err_, said);
    int lines = 0;
    for (const char *c = err_; *c; ++c) lines += *c == '\n' && strncmp(c + 1, "standin", 7) != 0;
    if (status == 0 || status == 97 || status == 124 || status >= 128 || !strstr(err_, kind) ||
        (!strstr(err_, f->expect) && !strstr(said, f->expect)))
        fail_msg("%s invar %s\n  ended with %d and said: %s  expected \"%s\"", environment, args,
                 status, err_, f->expect);
}

/* A run of 4 steps leaves a checkpoint; what comes after it may not damage that. */
static void every_fault_ends_well(void **state)
{
    char args[512];
    (void)state;
    snprintf(args, sizeof(args), TRAIN "--max-steps 4", kind);
    if (run("", args) != 0) fail_msg("invar %s\n  said: %s", args, err_);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); ++i) {
        ends_well(&faults[i]);
        if (run("", "ckpt ls run/checkpoints") != 0) fail_msg("ckpt ls: %s%s", out_, err_);
    }
    /* And the run goes on from there. */
    snprintf(args, sizeof(args), TRAIN "--max-steps 6", kind);
    if (run("", args) != 0 || !strstr(out_, "\"steps\":6"))
        fail_msg("invar %s\n  said: %s%s", args, out_, err_);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_fault_ends_well)};
    kind = argc > 1 ? argv[1] : "cuda";
    if (!getenv(strcmp(kind, "cuda") == 0 ? "INVAR_CUDA_LIB" : "INVAR_HIP_LIB")) {
        printf("skipped: no stand-in is named\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, session_files, temporary_remove);
}
