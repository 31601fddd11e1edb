// A coded weight in device memory, and the exact value of each of its elements: for kernels that
// read any format. src/coded.rs writes what is read here.
//
// A matrix [n, k]; its rows are cut into octets of 8, its columns into blocks of `group`.
//   codes: rows of `pitch` bytes, a multiple of 16. Columns 0, 1, 2, 3 of four 8-bit codes are
//     bytes 0, 2, 1, 3; columns 0, 1, .. 7 of eight 4-bit ones are nibbles 0, 4, 1, 5, 2, 6, 3, 7
//     from the lowest bits up: what linear/codes.cuh unpacks with masks;
//   scales: f32, [octet][block][row of the octet]; where there are offsets, a scale and its offset.
// An element is s * (code - z) or s * code + m; each operation rounded to f32, as nvllm-core's
// weight/format.rs defines it.
#pragma once

#include "dtype.cuh"

// As `Code` and `Offset` in src/coded.rs.
enum CodeKind { CODE_I8 = 0, CODE_E4M3 = 1, CODE_U4 = 2, CODE_TABLE = 3 };
enum OffsetKind { OFFSET_NONE = 0, OFFSET_MIDPOINT = 1, OFFSET_INT = 2, OFFSET_FLOAT = 3 };

struct Coded {
    const u8* codes;
    const float* scales;
    const float* table;  // values of CODE_TABLE
    int code, offset, group, pitch, blocks;
};

__device__ __forceinline__ float coded_value(const Coded& w, i64 row, int col) {
    const u8* codes = w.codes + row * w.pitch;
    float code;
    if (w.code == CODE_I8 || w.code == CODE_E4M3) {
        u32 byte = codes[col & ~3 | (col & 1) << 1 | (col >> 1 & 1)];
        code = w.code == CODE_I8 ? (float)(signed char)byte : to_f32(e4m3{(u8)byte});
    } else {
        int place = (col & 7) >> 1 | (col & 1) << 2, nibble = codes[(col & ~7 | place) >> 1] >> (place & 1) * 4 & 15;
        code = w.code == CODE_U4 ? (float)nibble : w.table[nibble];
    }
    const i64 at = ((row >> 3) * w.blocks + col / w.group) * 8 + (row & 7);
    if (w.offset == OFFSET_NONE || w.offset == OFFSET_MIDPOINT) {
        return __fmul_rn(w.scales[at], w.offset == OFFSET_NONE ? code : code - 8.0f);
    }
    const float scale = w.scales[2 * at], offset = w.scales[2 * at + 1];
    return w.offset == OFFSET_INT ? __fmul_rn(scale, code - offset) : __fadd_rn(__fmul_rn(scale, code), offset);
}

// The parameters of a kernel that make a Coded, and the Coded.
#define CODED_PARAMS                                                                                                   \
    const u8 *codes, const float *scales, const float *table, int code, int offset, int group, int pitch, int blocks
#define CODED {codes, scales, table, code, offset, group, pitch, blocks}
