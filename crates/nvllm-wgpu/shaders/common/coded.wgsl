// Elements of a coded weight, one by one and in chunks of 16 bytes. src/coded.rs writes what is
// read here.
//
//   w: codes in the order of columns, rows of `p.pitch` chunks, the last one filled up;
//   scales: for each row `p.blocks` blocks of `p.group` columns, each a scale s or (s, offset).
// CODE: 0 int8, 1 FP8 E4M3, 2 unsigned 4 bits, 3 four bits that select an entry of a table, whose
// bits are `table_bits`. OFFSET: an element is `s (code - MIDDLE)` for 0, `s (code - offset)` for
// 1, `s code + offset` for 2. PER: elements of a chunk. SPLIT: blocks are half a chunk; else no
// block of rows that are read by chunks ends inside one, and 2^`p.shift` columns share one. `w`,
// `scales`, `Block` with `scale_of` and `offset_of`, and `table_bits` are generated.
//
// A value is exact: `code - offset` is, and so is `s code` with the scales that come with values
// for offsets (16 bits, or the product of 16 and 6), so that it is rounded once.

var<workgroup> table: array<f32, 16>;

// Before the first value is read.
fn prepare_weights(lane: u32) {
    if (CODE == 3u) {
        if (lane < 16u) {
            table[lane] = bitcast<f32>(table_bits(lane));
        }
        workgroupBarrier();
    }
}

// Integers below 2^23 as the mantissa of 2^23 are f32 without a conversion, `less` the smaller.
fn from_mantissa(bits: vec4<u32>, less: f32) -> vec4<f32> {
    return bitcast<vec4<f32>>(bits | vec4(0x4b000000u)) - vec4(8388608.0 + less);
}

// Sign, 4 exponent bits of bias 7, 3 mantissa bits. By integers: a driver may flush what is
// subnormal. The scale of a block that holds NaN is NaN.
fn e4m3_values(bytes: vec4<u32>) -> vec4<f32> {
    let size = bitcast<vec4<f32>>(((bytes & vec4(0x7fu)) << vec4(20u)) + vec4(0x3c000000u));
    let small = fma(size, vec4(2.0), vec4(-0.015625));
    let either = select(size, small, (bytes & vec4(0x78u)) == vec4(0u));
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(either) | ((bytes & vec4(0x80u)) << vec4(24u)));
}

// Four values from the codes in the lowest bits of a word.
fn four_values(word: u32, block: Block) -> vec4<f32> {
    var less = MIDDLE;
    if (OFFSET == 1u) {
        less = offset_of(block);
    }
    var codes: vec4<f32>;
    if (CODE == 0u) {
        // With its sign bit flipped a code is 128 more.
        let bytes = (vec4(word ^ 0x80808080u) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu);
        codes = from_mantissa(bytes, less + 128.0);
    } else if (CODE == 1u) {
        codes = e4m3_values((vec4(word) >> vec4(0u, 8u, 16u, 24u)) & vec4(0xffu));
    } else {
        let nibbles = (vec4(word) >> vec4(0u, 4u, 8u, 12u)) & vec4(15u);
        if (CODE == 2u) {
            codes = from_mantissa(nibbles, less);
        } else {
            codes = vec4(table[nibbles.x], table[nibbles.y], table[nibbles.z], table[nibbles.w]);
        }
    }
    if (OFFSET == 2u) {
        return fma(codes, vec4(scale_of(block)), vec4(offset_of(block)));
    }
    return codes * scale_of(block);
}

struct Chunk {
    codes: vec4<u32>,
    first: Block,
    second: Block,
}

fn load_chunk(row: u32, i: u32) -> Chunk {
    var chunk: Chunk;
    chunk.codes = w[row * p.pitch + i];
    let blocks = row * p.blocks;
    chunk.first = scales[blocks + ((i * PER) >> p.shift)];
    if (SPLIT) {
        chunk.second = scales[blocks + ((i * PER + PER / 2u) >> p.shift)];
    }
    return chunk;
}

// Elements 4 j .. 4 j + 3 of a chunk.
fn chunk_values(chunk: Chunk, j: u32) -> vec4<f32> {
    if (PER == 16u) {
        return four_values(chunk.codes[j], chunk.first);
    }
    let word = chunk.codes[j / 2u] >> (j % 2u * 16u);
    if (SPLIT && j >= 4u) {
        return four_values(word, chunk.second);
    }
    return four_values(word, chunk.first);
}

fn weight_bits(row: u32, col: u32) -> u32 {
    let chunk = w[row * p.pitch + col / PER];
    let at = col % PER * (128u / PER);
    let word = chunk[at / 32u] >> (at % 32u);
    return bitcast<u32>(four_values(word, scales[row * p.blocks + col / p.group]).x);
}
