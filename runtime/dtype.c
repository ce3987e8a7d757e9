/* dtype.c: names, sizes and values of element types, and shapes. */
#include "base.h"

#include "../kernels/portable.h"

static const struct {
    const char *name;
    size_t bytes;
    bool is_float;
} types[IV_DTYPE_COUNT] = {
    [IV_F32] = {"f32", 4, true}, [IV_F64] = {"f64", 8, true},  [IV_BF16] = {"bf16", 2, true},
    [IV_F16] = {"f16", 2, true}, [IV_I32] = {"i32", 4, false}, [IV_I64] = {"i64", 8, false},
    [IV_U8] = {"u8", 1, false},  [IV_U16] = {"u16", 2, false},
};

const char *iv_dtype_name(iv_dtype t)
{
    return (unsigned)t < IV_DTYPE_COUNT ? types[t].name : "?";
}

size_t iv_dtype_bytes(iv_dtype t)
{
    return (unsigned)t < IV_DTYPE_COUNT ? types[t].bytes : 0;
}

bool iv_dtype_is_float(iv_dtype t)
{
    return (unsigned)t < IV_DTYPE_COUNT && types[t].is_float;
}

char iv__letter(iv_dtype t)
{
    return t == IV_F32 ? 'f' : t == IV_F64 ? 'd' : t == IV_BF16 ? 'b' : t == IV_F16 ? 'h' : '?';
}

double iv__dtype_get(iv_dtype t, const void *src)
{
    double x = 0;
    float f = 0;
    uint16_t h;
    if (t == IV_F64) {
        memcpy(&x, src, sizeof(x));
        return x;
    }
    if (t == IV_F32) {
        memcpy(&f, src, sizeof(f));
        return (double)f;
    }
    memcpy(&h, src, sizeof(h));
    return (double)(t == IV_BF16 ? iv_from_bf16(h) : iv_from_f16(h));
}

void iv__dtype_put(iv_dtype t, void *dst, double x)
{
    float f = (float)x;
    if (t == IV_F64) {
        memcpy(dst, &x, sizeof(x));
    } else if (t == IV_F32) {
        memcpy(dst, &f, sizeof(f));
    } else {
        uint16_t h = t == IV_BF16 ? iv_to_bf16(f) : iv_to_f16(f);
        memcpy(dst, &h, sizeof(h));
    }
}

int64_t iv_shape_count(const iv_shape *s)
{
    int64_t n = 1;
    for (int32_t i = 0; i < s->rank; ++i) n *= s->dim[i];
    return n;
}
