/* subjects.h: what test_kill.c and test_refused.c save: two versions of a small checkpoint, by each
 * plugin that writes in a way of its own, on a real file system; and tracing of a child that does
 * so. */
#ifndef SUBJECTS_H
#define SUBJECTS_H

#include "../plugins/st_util.h"

#include "../../checkpoint/sharded.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

extern const iv_plugin iv__plugin_async;

static unsigned char content[2][5000];
static iv_ckpt_tensor tensors[2];
static iv_ckpt_meta meta;

static iv_ckpt describe(int v)
{
    static const char *const steps[2] = {"1", "2"};
    tensors[0] =
        (iv_ckpt_tensor){.name = "w", .dtype = IV_U8, .shape = IV_SHAPE(5000), .data = content[v]};
    tensors[1] =
        (iv_ckpt_tensor){.name = "b", .dtype = IV_F32, .shape = IV_SHAPE(10), .data = content[v]};
    meta = (iv_ckpt_meta){"step", steps[v]};
    iv_ckpt c = CKPT(2, 1, tensors, &meta);
    static uint64_t id = 100;
    c.id = ++id;
    return c;
}

enum { SUBJECTS = 3 };
static const struct {
    const char *name, *path;
    const iv_plugin *plugin;
} subjects[SUBJECTS] = {{"safetensors", "k.safetensors", &iv__plugin_safetensors},
                        {"async(safetensors)", "a.safetensors", &iv__plugin_async},
                        {"sharded", "folder", &iv__plugin_sharded}};

static void fill_contents(void)
{
    for (int v = 0; v < 2; ++v)
        for (int k = 0; k < 5000; ++k) content[v][k] = (unsigned char)(k * (v + 3) + (k >> 5));
}

static iv_status save(int i, int v)
{
    const iv_checkpoint *vt = subjects[i].plugin->vtable;
    const iv_ckpt c = describe(v);
    void *self = NULL;
    const char *told;
    if (subjects[i].plugin->init(&host, "", &self) != IV_OK) return IV_INTERNAL;
    iv_status s = vt->save(self, in_folder(subjects[i].path), &c);
    if (s == IV_OK && vt->drain) s = vt->drain(self);
    if (s == IV_OK && vt->poll) s = vt->poll(self, &told);
    subjects[i].plugin->fini(self);
    return s;
}

/* 1 or 2: which version is there; 0: it does not load; -1: something else. */
static int version(int i)
{
    const iv_checkpoint *vt = subjects[i].plugin->vtable;
    void *self = NULL;
    collected got = {0};
    assert_int_equal(subjects[i].plugin->init(&host, "", &self), IV_OK);
    iv_status s = vt->load(self, in_folder(subjects[i].path),
                           &(iv_ckpt_sink){&got, take_meta, take_want, take_done});
    int v = 0;
    if (s == IV_OK) {
        v = -1;
        for (int k = 0; k < 2; ++k) {
            const iv_ckpt c = describe(k);
            if (same(&got, &c)) v = k + 1;
        }
    }
    collected_free(&got);
    subjects[i].plugin->fini(self);
    return v;
}

/* Entries of a folder whose names are not those of a checkpoint. */
static int left_over(const char *path)
{
    int n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += strstr(e->d_name, ".tmp.") != NULL || strstr(e->d_name, ".part") != NULL;
    if (d) closedir(d);
    return n;
}

/* ---- tracing ---- */

/* Some sandboxes forbid it. */
static bool may_trace(void)
{
    int status = 1;
    const pid_t probe = fork();
    if (probe == 0) _exit(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? 0 : 1);
    waitpid(probe, &status, 0);
    return status == 0;
}

/* Runs work(arg) in a child and calls at_call at the entry and at the exit of each system call of
 * any of its threads, `thread` being stopped there.  Returns the child's wait status. */
static int traced(int (*work)(const void *arg), const void *arg,
                  void (*at_call)(void *ctx, pid_t child, pid_t thread), void *ctx)
{
    const pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(work(arg));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSTOPPED(status)) return status;
    ptrace(PTRACE_SETOPTIONS, child, NULL,
           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, child, NULL, NULL);
    for (;;) {
        const pid_t p = waitpid(-1, &status, __WALL);
        if (p < 0) return status;
        if (p == child && (WIFEXITED(status) || WIFSIGNALED(status))) return status;
        if (!WIFSTOPPED(status)) continue; /* a thread ended */
        const bool call = WSTOPSIG(status) == (SIGTRAP | 0x80);
        if (call) at_call(ctx, child, p);
        /* Signals that are not of tracing are passed on. */
        const int pass = call || WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP
                             ? 0
                             : WSTOPSIG(status);
        ptrace(PTRACE_SYSCALL, p, NULL, (void *)(intptr_t)pass);
    }
}

#endif
