/* test_gpu_faults.c: the driver fails in the N-th call of a function: a training ends with one line
 * that names the call's error, with a status that is not 0, without hanging and without a leak (the
 * stand-in would end with status 97), and the checkpoint written before is whole.
 *
 *   test_gpu_faults cuda|hip      the stand-in is in INVAR_CUDA_LIB or INVAR_HIP_LIB */
#include "unit/temporary.h"

#include <sys/stat.h>
#include <sys/wait.h>

static const char *kind;
static char out_[1 << 16], err_[1 << 14];

static void slurp(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* Runs `ENVIRONMENT invar ARGS` by the shell in the folder; its exit status, 124 after five
 * minutes. */
static int run(const char *environment, const char *args)
{
    char command[4096];
    snprintf(command, sizeof(command), "cd '%s' && %s timeout 300 '%s' %s >out.txt 2>err.txt",
             folder_, environment, INVAR_CLI, args);
    const int status = system(command);
    slurp(at("out.txt"), out_, sizeof(out_));
    slurp(at("err.txt"), err_, sizeof(err_));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}

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

static void put_u32(FILE *f, uint32_t x)
{
    for (int i = 3; i >= 0; --i) fputc((int)(x >> (8 * i) & 255), f);
}

/* 40 images of 8 x 8 with labels, for each part. */
static int files(void **state)
{
    static const char *const parts[] = {"train", "t10k"};
    if (temporary_make(state) != 0 || mkdir(at("images"), 0777) != 0) return -1;
    for (int p = 0; p < 2; ++p) {
        char name[64];
        snprintf(name, sizeof(name), "images/%s-images-idx3-ubyte", parts[p]);
        FILE *f = fopen(at(name), "wb");
        if (!f) return -1;
        put_u32(f, 0x803), put_u32(f, 40), put_u32(f, 8), put_u32(f, 8);
        for (int i = 0; i < 40 * 64; ++i) fputc((i * 7 + i / 64 * 13) % 251, f);
        fclose(f);
        snprintf(name, sizeof(name), "images/%s-labels-idx1-ubyte", parts[p]);
        f = fopen(at(name), "wb");
        if (!f) return -1;
        put_u32(f, 0x801), put_u32(f, 40);
        for (int i = 0; i < 40; ++i) fputc(i % 10, f);
        fclose(f);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_fault_ends_well)};
    kind = argc > 1 ? argv[1] : "cuda";
    if (!getenv(strcmp(kind, "cuda") == 0 ? "INVAR_CUDA_LIB" : "INVAR_HIP_LIB")) {
        printf("skipped: no stand-in is named\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, files, temporary_remove);
}
