/* input.h: gives a fuzz target's bytes to functions that take a path, and cuts them into parts. */
#ifndef IV_FUZZ_INPUT_H
#define IV_FUZZ_INPUT_H

#include "base.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A file in memory; its path is valid while the process lives. */
typedef struct input_file {
    int fd; /* 0 until it is made */
    char path[64];
} input_file;

/* Makes the file hold these bytes and gives its path. */
static inline const char *input_put(input_file *f, const void *data, size_t n)
{
    if (!f->fd) {
        f->fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (f->fd < 0) abort();
        snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
    }
    if (ftruncate(f->fd, 0) != 0) abort();
    if (n > 0 && pwrite(f->fd, data, n, 0) != (ssize_t)n) abort();
    return f->path;
}

static char input_folder_[64];

static inline void input_remove_folder(void)
{
    DIR *d = opendir(input_folder_);
    for (struct dirent *e; d && (e = readdir(d));) (void)unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    rmdir(input_folder_);
}

/* A folder in memory where there is one; made once, removed at a normal exit. */
static inline const char *input_folder(void)
{
    if (*input_folder_) return input_folder_;
    strcpy(input_folder_, "/dev/shm/invar-fuzz-XXXXXX");
    if (!mkdtemp(input_folder_)) {
        strcpy(input_folder_, "/tmp/invar-fuzz-XXXXXX");
        if (!mkdtemp(input_folder_)) abort();
    }
    atexit(input_remove_folder);
    return input_folder_;
}

/* Log lines are printed nowhere, but printed: a bad argument is found. */
static inline void input_log(void *ctx, iv_log_level level, const char *line)
{
    (void)ctx, (void)level;
    if (strlen(line) > 4096) abort();
}

/* The input, eaten from the front.  Past the end come zeros. */
typedef struct input {
    const uint8_t *data;
    size_t n;
} input;
static inline uint8_t input_byte(input *in)
{
    if (in->n == 0) return 0;
    --in->n;
    return *in->data++;
}
/* A part: its length is the next two bytes, or all that is left. */
static inline input input_part(input *in)
{
    size_t n = (size_t)input_byte(in) << 8;
    n |= input_byte(in);
    n = IV_MIN2(n, in->n);
    input part = {in->data, n};
    in->data += n;
    in->n -= n;
    return part;
}

#endif
