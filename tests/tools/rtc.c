/* rtc.c: compiles a text as the GPU backends do, without a GPU: for ci/gpu-compile.
 *   rtc ARCHITECTURE TEXT OUT     NVRTC: "compute_75" gives PTX, "sm_80" a CUBIN
 *                                 hipRTC (built with -DHIP): "gfx90a" gives a code object */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HIP
#include <hip/hiprtc.h>
#define RTC(name) hiprtc##name
static const char *const fixed[] = {"-std=c++17", "-O3", "-ffp-contract=off",
                                    "-fhip-fp32-correctly-rounded-divide-sqrt", "-w"};
#define OPTION "--offload-arch="
#else
#include <nvrtc.h>
#define RTC(name) nvrtc##name
static const char *const fixed[] = {"--std=c++17",     "--fmad=false",     "--ftz=false",
                                    "--prec-div=true", "--prec-sqrt=true", "-w"};
#define OPTION "--gpu-architecture="
#endif

static char *read_all(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    const size_t n = (size_t)ftell(f);
    rewind(f);
    char *s = malloc(n + 1);
    s[fread(s, 1, n, f)] = 0;
    fclose(f);
    return s;
}

int main(int argc, char **argv)
{
    const char *options[8];
    char arch[64], *text = argc == 4 ? read_all(argv[2]) : NULL, *code = NULL;
    int n = 0, e;
    size_t size = 0;
    if (!text) return fprintf(stderr, "usage: rtc ARCHITECTURE TEXT OUT\n"), 2;
    snprintf(arch, sizeof(arch), OPTION "%s", argv[1]);
    options[n++] = arch;
    for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); ++i) options[n++] = fixed[i];
    RTC(Program) p;
    RTC(CreateProgram)(&p, text, argv[2], 0, NULL, NULL);
    e = (int)RTC(CompileProgram)(p, n, options);
    if (e) {
        RTC(GetProgramLogSize)(p, &size);
        char *log = calloc(size + 1, 1);
        RTC(GetProgramLog)(p, log);
        return fprintf(stderr, "%s: %d\n%.2000s\n", argv[2], e, log), 1;
    }
#ifdef HIP
    RTC(GetCodeSize)(p, &size);
    code = malloc(size + 1);
    RTC(GetCode)(p, code);
#else
    const int ptx = argv[1][0] == 'c';
    ptx ? RTC(GetPTXSize)(p, &size) : RTC(GetCUBINSize)(p, &size);
    code = malloc(size + 1);
    ptx ? RTC(GetPTX)(p, code) : RTC(GetCUBIN)(p, code);
    size -= (size_t)ptx; /* the NUL */
#endif
    FILE *f = fopen(argv[3], "wb");
    const int good = f && fwrite(code, 1, size, f) == size;
    return f && fclose(f) == 0 && good ? 0 : 1;
}
