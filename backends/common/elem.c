/* elem.c: prints an element program as a kernel in the dialect of kernels/portable.h (see
 * common.h).
 *
 * Every register is a variable, every operator a block with the expression of kernels/elem.def as
 * it stands there:
 *     { const AT a = r0, b = r1; const AT IMM0 = ..., IMM1 = ...; r2 = (AT)(a + b); }
 *     r2 = iv_from_bf16(iv_st_to_b(r2));                  rounded to the type of the node
 *
 * On a GPU a lane has every 64th element of the group's 1024 and works out its index; in the host's
 * form the groups are walked in runs of the innermost dimension, so that the loop becomes vector
 * code. */
#include "common.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *text;
    int arity;
} expressions[] = {
#define E(NAME, name, arity, expr, cls, gradient) {#expr, arity},
#include "../../kernels/elem.def"
#undef E
};
enum { EXPRESSIONS = sizeof(expressions) / sizeof(expressions[0]) };

typedef struct text {
    char *s;
    size_t n, cap;
    bool failed;
} text;

static void put(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(text *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (t->failed || n < 0) return;
    if (t->n + (size_t)n + 1 > t->cap) {
        const size_t cap = 2 * (t->cap + (size_t)n + 512);
        char *s = realloc(t->s, cap);
        t->failed = s == NULL;
        if (!s) return;
        t->s = s;
        t->cap = cap;
    }
    va_start(args, fmt);
    vsnprintf(t->s + t->n, t->cap - t->n, fmt, args);
    va_end(args);
    t->n += (size_t)n;
}

/* iv__elem_params, and what elem.def calls RNG. */
static void put_head(text *t)
{
    put(t,
        "typedef struct { i64 off[%d], count, per_sample, dim[%d], stride[%d][%d]; u32 stream[%d]; "
        "} iv_elem_params;\n",
        IV_MAX_BUFS, IV_PROGRAM_DIMS, IV_PROGRAM_INPUTS + 1, IV_PROGRAM_DIMS, IV_PROGRAM_OPS);
    put(t, "typedef char iv_same_layout[sizeof(iv_elem_params) == %zu ? 1 : -1];\n",
        sizeof(iv__elem_params));
    put(t, "#define RNG(e) iv_random_u32(seed, STREAM, step, (e))\n");
}

/* Letter of a storage type: LD(f, ..) as in the kernels. */
static char letter(uint8_t type)
{
    return type == IV_F64 ? 'd' : type == IV_BF16 ? 'b' : type == IV_F16 ? 'h' : 'f';
}

static void put_buffers(text *t, const iv_program *p)
{
    for (int32_t k = 0; k < p->n_in; ++k)
        put(t, "    BUF(%c, x%d, %d);\n", letter(p->in_type[k]), k, k);
    put(t, "    BUF(%c, y, %d);\n", letter(p->out_type), p->n_in);
    if (!p->uses_rng) return;
    put(t, "    IV_GLOBAL const u64 *uniforms = (IV_GLOBAL const u64 *)(IV_RAW(%d) + p.off[%d]);\n",
        p->n_in + 1, p->n_in + 1);
    put(t, "    const u64 seed = uniforms[0], step = uniforms[1], first = uniforms[2] * "
           "(u64)p.per_sample;\n");
}

/* A constant of the operator, by its bits. */
static void put_constant(text *t, const iv_program *p, const char *name, double x)
{
    const float f = (float)x;
    uint64_t u;
    uint32_t v;
    memcpy(&u, &x, sizeof(u));
    memcpy(&v, &f, sizeof(v));
    if (p->compute == IV_F64)
        put(t, "const AT %s = IV_AS_F64(0x%llxul); ", name, (unsigned long long)u);
    else put(t, "const AT %s = IV_AS_F32(0x%xu); ", name, v);
}

static void put_op(text *t, const iv_program *p, int32_t k)
{
    const iv_program_op *op = &p->ops[k];
    if (op->op >= EXPRESSIONS) return;
    const int second = expressions[op->op].arity > 1 ? op->src[1] : op->src[0];
    put(t, "        { const AT a = r%d, b = r%d; (void)a; (void)b; ", op->src[0], second);
    if (strstr(expressions[op->op].text, "IMM0")) put_constant(t, p, "IMM0", op->imm[0]);
    if (strstr(expressions[op->op].text, "IMM1")) put_constant(t, p, "IMM1", op->imm[1]);
    if (strstr(expressions[op->op].text, "RNG")) put(t, "const u32 STREAM = p.stream[%d]; ", k);
    put(t, "r%d = (AT)(%s); }\n", op->dst, expressions[op->op].text);
    if (op->round == IV_BF16)
        put(t, "        r%d = (AT)iv_from_bf16(iv_st_to_b(r%d));\n", op->dst, op->dst);
    else if (op->round == IV_F16)
        put(t, "        r%d = (AT)iv_from_f16(iv_st_to_h(r%d));\n", op->dst, op->dst);
    else if (op->round == IV_F32) put(t, "        r%d = (AT)(f32)r%d;\n", op->dst, op->dst);
}

/* One element: loads (element k of the input at `at(k)`), operators, store. */
static void put_registers(text *t, const iv_program *p)
{
    bool declared[256] = {false};
    for (int32_t k = 0; k < p->n_in; ++k) declared[k] = true;
    for (int32_t k = 0; k < p->n_ops; ++k) {
        if (!declared[p->ops[k].dst]) put(t, "        AT r%d;\n", p->ops[k].dst);
        declared[p->ops[k].dst] = true;
    }
    if (p->uses_rng) put(t, "        const u64 IDX = first + (u64)e;\n");
    for (int32_t k = 0; k < p->n_ops; ++k) put_op(t, p, k);
}

/* sum of i<d> * stride over the dimensions [0, n) of operand k */
static void put_place(text *t, int32_t k, int32_t n)
{
    if (n == 0) put(t, "0");
    for (int32_t d = 0; d < n; ++d) put(t, "%si%d * p.stride[%d][%d]", d ? " + " : "", d, k, d);
}

static void put_split(text *t, const iv_program *p, const char *from, const char *kind)
{
    put(t, "    i64 rest = %s;\n", from);
    for (int32_t d = p->n_dims - 1; d > 0; --d)
        put(t, "    %si64 i%d = rest %% p.dim[%d]; rest /= p.dim[%d];\n", kind, d, d, d);
    put(t, "    %si64 i0 = rest;\n", kind);
}

static void put_gpu(text *t, const iv_program *p)
{
    put(t, "IV_HEAD_(elements, iv_elem_params)\n");
    put_buffers(t, p);
    put(t, "    const i64 from = GROUP * %d, most = p.count - from < %d ? p.count : from + %d;\n",
        IV_PROGRAM_TILE, IV_PROGRAM_TILE, IV_PROGRAM_TILE);
    put(t, "    for (i64 e = from + IV_LANE; e < most; e += IV_W) {\n");
    put_split(t, p, "e", "const ");
    for (int32_t k = 0; k < p->n_in; ++k) {
        put(t, "        AT r%d = (AT)LD(%c, x%d, ", k, letter(p->in_type[k]), k);
        put_place(t, k, p->n_dims);
        put(t, ");\n");
    }
    put_registers(t, p);
    put(t, "        ST(%c, y, ", letter(p->out_type));
    put_place(t, p->n_in, p->n_dims);
    put(t, ", r%d);\n    }\nIV_END\n", p->out_reg);
}

/* The place of element i of a run that begins at `at`, for innermost stride s. */
static void put_step(text *t, const char *at, int32_t k, int32_t inner, int64_t s)
{
    if (s == 0) put(t, "%s", at);
    else if (s == 1) put(t, "%s + i", at);
    else put(t, "%s + i * p.stride[%d][%d]", at, k, inner);
}

static void put_run(text *t, const iv_program *p, int32_t inner)
{
    char at[16];
    for (int32_t k = 0; k <= p->n_in; ++k) {
        put(t, "        const i64 at%d = ", k);
        put_place(t, k, p->n_dims);
        put(t, ";\n");
    }
    for (int32_t k = 0; k < p->n_in; ++k)
        if (p->in_stride[k][inner] == 0)
            put(t, "        const AT c%d = (AT)LD(%c, x%d, at%d);\n", k, letter(p->in_type[k]), k,
                k);
    put(t, "        IV_SIMD for (i64 i = 0; i < run; ++i) {\n");
    for (int32_t k = 0; k < p->n_in; ++k) {
        snprintf(at, sizeof(at), "at%d", k);
        if (p->in_stride[k][inner] == 0) {
            put(t, "        AT r%d = c%d;\n", k, k);
            continue;
        }
        put(t, "        AT r%d = (AT)LD(%c, x%d, ", k, letter(p->in_type[k]), k);
        put_step(t, at, k, inner, p->in_stride[k][inner]);
        put(t, ");\n");
    }
    if (p->uses_rng) put(t, "        const i64 e = e0 + i;\n");
    put_registers(t, p);
    snprintf(at, sizeof(at), "at%d", p->n_in);
    put(t, "        ST(%c, y, ", letter(p->out_type));
    put_step(t, at, p->n_in, inner, p->out_stride[inner]);
    put(t, ", r%d);\n        }\n", p->out_reg);
}

static void put_host(text *t, const iv_program *p)
{
    const int32_t inner = p->n_dims - 1;
    put(t, "IV_HEAD_(elements, iv_elem_params)\n");
    put_buffers(t, p);
    put(t, "    i64 e0 = iv_g0 * %d, end = iv_g1 * %d;\n", IV_PROGRAM_TILE, IV_PROGRAM_TILE);
    put(t, "    end = end < p.count ? end : p.count;\n");
    put_split(t, p, "e0", "");
    put(t, "    while (e0 < end) {\n");
    put(t, "        const i64 left = p.dim[%d] - i%d, run = left < end - e0 ? left : end - e0;\n",
        inner, inner);
    put_run(t, p, inner);
    put(t, "        e0 += run;\n        i%d = 0;\n", inner);
    for (int32_t d = inner - 1; d > 0; --d)
        put(t, "        if (++i%d == p.dim[%d]) { i%d = 0;\n", d, d, d);
    if (inner > 0) put(t, "        ++i0;\n");
    for (int32_t d = inner - 1; d > 0; --d) put(t, "        }\n");
    put(t, "    }\n}\n");
}

char *iv__elem_text(const iv_program *p, bool host_form)
{
    text t = {0};
    put_head(&t);
    if (host_form) put_host(&t, p);
    else put_gpu(&t, p);
    if (!t.failed) return t.s;
    free(t.s);
    return NULL;
}

void iv__elem_params_fill(const iv_program *p, iv__elem_params *out)
{
    memset(out, 0, sizeof(*out));
    out->count = 1;
    for (int32_t d = 0; d < p->n_dims; ++d) {
        out->count *= p->dim[d];
        out->dim[d] = p->dim[d];
        for (int32_t k = 0; k < p->n_in; ++k) out->stride[k][d] = p->in_stride[k][d];
        out->stride[p->n_in][d] = p->out_stride[d];
    }
    out->per_sample = p->rng_per_sample;
    for (int32_t k = 0; k < p->n_ops; ++k) out->stream[k] = p->ops[k].stream;
}
