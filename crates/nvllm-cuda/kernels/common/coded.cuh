// A coded weight in device memory, and the exact value of each of its elements: for kernels that
// read any format. src/coded.rs writes what is read here.
//
// A matrix [n, k]; its rows are cut into octets of 8, its columns into blocks of `group`.
//   codes: rows of `pitch` bytes (a multiple of 16); 8 bits an element, or 4 with the first of two
//     elements in the low nibble;
//   scales, offsets: [octet][block][row of the octet], so that the 8 rows of an octet lie together.
// An element is s * (code - z) or s * code + m; each operation rounded to f32, as nvllm-core's
// weight/format.rs defines it.
#pragma once

#include "dtype.cuh"

// As `Code` and `Offset` in src/coded.rs.
enum CodeKind { CODE_I8 = 0, CODE_E4M3 = 1, CODE_U4 = 2, CODE_TABLE = 3 };
enum OffsetKind { OFFSET_NONE = 0, OFFSET_MIDPOINT = 1, OFFSET_INT = 2, OFFSET_FLOAT = 3 };

struct Coded {
    const u8* codes;
    const void* scales;
    const void* offsets;  // OFFSET_INT: bf16; OFFSET_FLOAT: as scales
    const float* table;   // values of CODE_TABLE
    int code, scale_type, offset, group, pitch, blocks;
};

__device__ __forceinline__ float e4m3_to_f32(u32 byte) {
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float size = exponent == 0 ? mantissa * 0.001953125f                                      // 2^-9
                               : __uint_as_float((u32)(exponent + 120) << 23 | (u32)mantissa << 20);
    if ((byte & 0x7f) == 0x7f) size = __int_as_float(0x7fc00000);
    return byte & 0x80 ? -size : size;
}

__device__ __forceinline__ float coded_value(const Coded& w, i64 row, int col) {
    const u8* codes = w.codes + row * w.pitch;
    float code;
    if (w.code == CODE_I8) {
        code = (float)(signed char)codes[col];
    } else if (w.code == CODE_E4M3) {
        code = e4m3_to_f32(codes[col]);
    } else {
        int nibble = codes[col >> 1] >> (col & 1) * 4 & 15;
        code = w.code == CODE_U4 ? (float)nibble : w.table[nibble];
    }
    i64 at = ((row >> 3) * w.blocks + col / w.group) * 8 + (row & 7);
    float scale = load_as(w.scales, w.scale_type, at);
    if (w.offset == OFFSET_FLOAT) return __fadd_rn(__fmul_rn(scale, code), load_as(w.offsets, w.scale_type, at));
    if (w.offset == OFFSET_MIDPOINT) code -= 8.0f;
    if (w.offset == OFFSET_INT) code -= load_as(w.offsets, BF16, at);
    return __fmul_rn(scale, code);
}

// The parameters of a kernel that make a Coded, and the Coded.
#define CODED_PARAMS                                                                                                   \
    const u8 *codes, const void *scales, const void *offsets, const float *table, int code, int scale_type,            \
        int offset_kind, int group, int pitch, int blocks
#define CODED {codes, scales, offsets, table, code, scale_type, offset_kind, group, pitch, blocks}
