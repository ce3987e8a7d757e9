/* dtype.c: names and sizes of element types, and shapes. */
#include "base.h"

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

int64_t iv_shape_count(const iv_shape *s)
{
    int64_t n = 1;
    for (int32_t i = 0; i < s->rank; ++i) n *= s->dim[i];
    return n;
}
