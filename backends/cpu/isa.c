/* isa.c: asks the processor what it can do.  No environment variables here: the caller that lets a
 * user force a level passes it on. */
#include "backends/cpu/isa.h"

#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const names[IV__ISA_COUNT] = {"v2", "v3", "v4", "amx"};

/* The state components that the operating system saves (XCR0); 0 without XSAVE. */
static uint64_t os_state(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

/* Parts of v3 that __builtin_cpu_supports does not know in every compiler. */
static bool has_v3_extras(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0, c_ext = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid(0x80000001u, &a, &b, &c_ext, &d)) {
        return false;
    }
    enum { LZCNT = 1 << 5 };
    return (c & bit_F16C) && (c & bit_MOVBE) && (c_ext & LZCNT);
}

int iv__isa_detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) {
        return -1;
    }
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") || !has_v3_extras()) {
        return IV__ISA_V2;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl")) {
        return IV__ISA_V3;
    }
    return iv__isa_has_amx_bf16() ? IV__ISA_AMX : IV__ISA_V4;
}

bool iv__isa_has_avx512_bf16(void)
{
    enum { AVX512_STATE = 0xe6, AVX512_BF16 = 1 << 5 };
    unsigned a = 0, b = 0, c = 0, d = 0;
    return iv__isa_detect() >= IV__ISA_V4 && (os_state() & AVX512_STATE) == AVX512_STATE &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & AVX512_BF16);
}

bool iv__isa_has_tiles(int level)
{
    return level == IV__ISA_AMX;
}

bool iv__isa_is_widest(int level)
{
    return level >= IV__ISA_V4;
}

bool iv__isa_has_amx_bf16(void)
{
    enum { TILE_STATE = 3 << 17, AMX = 1 << 22 | 1 << 24 }; /* AMX-BF16 and AMX-TILE */
    enum { REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };       /* of arch_prctl */
    unsigned a = 0, b = 0, c = 0, d = 0;
    return (os_state() & TILE_STATE) == TILE_STATE && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & AMX) == AMX && syscall(SYS_arch_prctl, REQ_XCOMP_PERM, TILE_DATA) == 0;
}

#else

static const char *const names[IV__ISA_COUNT] = {"base"};

int iv__isa_detect(void)
{
    return IV__ISA_BASE;
}

bool iv__isa_has_tiles(int level)
{
    (void)level;
    return false;
}

bool iv__isa_is_widest(int level)
{
    return level == IV__ISA_BASE;
}

bool iv__isa_has_avx512_bf16(void)
{
    return false;
}

bool iv__isa_has_amx_bf16(void)
{
    return false;
}

#endif

int iv__isa_from_name(const char *name)
{
    for (int i = 0; name && i < IV__ISA_COUNT; ++i) {
        if (strcmp(name, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

const char *iv__isa_name(int level)
{
    return level >= 0 && level < IV__ISA_COUNT ? names[level] : NULL;
}
