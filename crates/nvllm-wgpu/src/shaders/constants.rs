//! The constants that shaders are compiled with, and what of their text depends on formats and on
//! numbers of bindings.

use nvllm_core::weight::ActQuant;
use nvllm_core::{DType, KvFormat};

use super::LINEAR_SCALES;
use crate::coded::{self, Code, Form};
use crate::storage::Store;

/// Whether stored values are rounded to bf16.
pub(crate) fn round(round: bool) -> String {
    format!("const ROUND = {round};")
}

/// How a weight is read: its bindings, `w` at 3 and its scales at `scales_at`, and its constants.
pub(crate) fn weight(store: &Store, is_wide: bool, scales_at: usize) -> String {
    let chunked = "@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;\n";
    match store {
        Store::Dense(dtype) => {
            let number = match dtype {
                DType::Bf16 => 1,
                DType::F16 => 2,
                DType::F32 | DType::I32 | DType::U8 => 0,
            };
            let per = coded::CHUNK_BYTES / dtype.size();
            let elements = "@group(0) @binding(3) var<storage, read> w: array<u32>;\n";
            let binding = if is_wide { chunked } else { elements };
            format!("{binding}const WEIGHT = {number}u; const PER = {per}u;")
        }
        Store::Coded(form) => format!("{chunked}{}", codes(form, scales_at)),
    }
}

/// The constants of common/coded.wgsl and what of it is generated.
fn codes(form: &Form, scales_at: usize) -> String {
    let code = match form.code {
        Code::I8 => 0,
        Code::E4M3 => 1,
        Code::U4 => 2,
        Code::Table(_) => 3,
    };
    let (offset, middle) = match form.offset {
        coded::Offset::None => (0, "0.0"),
        coded::Offset::Midpoint => (0, "8.0"),
        coded::Offset::Int => (1, "0.0"),
        coded::Offset::Float => (2, "0.0"),
    };
    let (per, split) = (form.per(), form.is_split());
    let mut text = format!(
        "const CODE = {code}u; const OFFSET = {offset}u; const MIDDLE = {middle}; const PER = {per}u; \
         const SPLIT = {split};\n"
    );
    text += if form.has_offsets() {
        "alias Block = vec2<f32>;\nfn scale_of(block: Block) -> f32 { return block.x; }\n\
         fn offset_of(block: Block) -> f32 { return block.y; }\n"
    } else {
        "alias Block = f32;\nfn scale_of(block: Block) -> f32 { return block; }\n\
         fn offset_of(block: Block) -> f32 { return 0.0; }\n"
    };
    text += &format!("@group(0) @binding({scales_at}) var<storage, read> scales: array<Block>;\n");
    text += "fn table_bits(i: u32) -> u32 {\n    switch i {\n";
    if let Code::Table(table) = form.code {
        for (i, value) in table.values().iter().enumerate().skip(1) {
            text += &format!("        case {i}u: {{ return {:#x}u; }}\n", value.to_bits());
        }
        text += &format!("        default: {{ return {:#x}u; }}\n    }}\n}}\n", table.values()[0].to_bits());
    } else {
        text += "        default: { return 0u; }\n    }\n}\n";
    }
    text
}

/// Runs of 64 among `num`, and whether the last is whole.
const fn runs(num: usize) -> (usize, bool) {
    (num.div_ceil(64), num.is_multiple_of(64))
}

/// `line` of each number below `num`.
fn lines(num: usize, line: impl Fn(usize) -> String) -> String {
    (0..num).map(line).collect()
}

/// Rows of `chunks` chunks of `per` elements of which an invocation holds all of its own, of
/// `num_cols` rows of the weight; none are held if there are no chunks.
pub(crate) fn held(chunks: usize, num_cols: usize, per: usize) -> String {
    let (steps, whole) = runs(chunks);
    let mut text = format!(
        "const STEPS = {steps}u;\n\
         fn add_held(sums: ptr<function, array<f32, NUM_SUMS>>, row: u32, \
         cols: ptr<function, array<u32, NUM_COLS>>, lane: u32) {{\n"
    );
    if steps == 0 {
        return text + "}\n";
    }
    let mut each = |step: usize, body: String| {
        // Only the last run may end before its last invocation.
        let guard = step + 1 == steps && !whole;
        text += &if guard { format!("if (lane + {}u < p.k / PER) {{\n{body}}}\n", 64 * step) } else { body };
    };
    let names = (0..steps).flat_map(|step| (0..num_cols).map(move |c| format!("var h{step}_{c}: Chunk;\n")));
    each(steps, names.collect());
    for step in 0..steps {
        let load = |c| format!("h{step}_{c} = load_chunk((*cols)[{c}], lane + {}u);\n", 64 * step);
        each(step, lines(num_cols, load));
    }
    let sums = lines(num_cols, |c| format!("var s{c} = 0.0;\n"));
    each(steps, format!("prepare_weights(lane);\nprepare_row(row, lane);\n{sums}"));
    for step in 0..steps {
        let four = |j: usize| {
            let at = format!("(lane + {}u) * {}u + {j}u", 64 * step, per / 4);
            let add = |c| format!("s{c} = add_four(a{j}, chunk_values(h{step}_{c}, {j}u), s{c});\n");
            let adds = lines(num_cols, add);
            format!("let a{j} = row_values(row, {at});\n{adds}")
        };
        let body = lines(per / 4, four);
        each(step, format!("{{\n{body}}}\n"));
    }
    let stores = lines(num_cols, |c| format!("(*sums)[{c}] = s{c};\n"));
    each(steps, stores);
    text + "}\n"
}

/// Runs of four elements that an invocation holds of a row that it norms, at most.
const MOST_RUNS: usize = 8;

/// `prepare_row` of linear/normed.wgsl.
fn prepare_row(k: usize) -> String {
    let (num, whole) = runs(k / 4);
    let mut text = String::from("fn prepare_row(row: u32, lane: u32) {\n");
    if num > MOST_RUNS {
        return text + "prepare_long_row(row, lane);\n}\n";
    }
    let guarded = |run: usize, body: String| {
        let guard = run + 1 == num && !whole;
        if guard { format!("if (lane + {}u < K / 4u) {{ {body} }}\n", 64 * run) } else { body + "\n" }
    };
    let each = |body: &dyn Fn(usize, usize) -> String| {
        (0..num).map(|run| guarded(run, body(run, 64 * run))).collect::<String>()
    };
    text += "let base = row * (K / 4u);\nvar sum = 0.0;\n";
    for run in 0..num {
        text += &format!("var v{run}: vec4<f32>;\nvar w{run}: vec4<f32>;\n");
    }
    text += &each(&|run, at| format!("v{run} = x[base + lane + {at}u]; w{run} = norm_weight[lane + {at}u];"));
    text += &each(&|run, _| format!("sum = add_squares(sum, v{run});"));
    text += "let factor = norm_factor(sum, p.k, p.eps, lane);\n";
    text += &each(&|run, at| format!("keep_normed(lane + {at}u, v{run}, w{run}, factor);"));
    text + "workgroupBarrier();\n}\n"
}

/// The norm of a layer's one row of `k` columns, its weight bound behind all else.
pub(crate) fn normed(k: usize, is_coded: bool, rounds: bool) -> String {
    let at = LINEAR_SCALES + usize::from(is_coded);
    format!(
        "const K = {k}u; const NORM_ROUND = {rounds};\n\
         @group(0) @binding({at}) var<storage, read> norm_weight: array<vec4<f32>>;\n{}",
        prepare_row(k)
    )
}

/// Whether columns are in another order.
pub(crate) fn ordered(ordered: bool) -> String {
    format!("const ORDERED = {ordered};")
}

/// What a linear layer's input is quantised to.
pub(crate) fn act(act: Option<ActQuant>) -> String {
    let kind = match act {
        None => 0,
        Some(ActQuant::DynTokenI8 | ActQuant::StaticI8) => 1,
        Some(ActQuant::DynTokenE4M3 | ActQuant::DynGroupE4M3(_) | ActQuant::StaticE4M3) => 2,
    };
    format!("const ACT = {kind}u;")
}

/// The format of the KV cache and the width of its heads.
pub(crate) fn kv(format: KvFormat, head_dim: usize) -> String {
    let number = match format {
        KvFormat::F32 => 0,
        KvFormat::Bf16 => 1,
        KvFormat::Fp8 => 2,
        KvFormat::Int8 => 3,
    };
    let words = head_dim * format.element_bytes() / 4;
    // Of a block: what each of its rows takes.
    let with_scale = format.row_bytes(head_dim) / 4;
    format!(
        "const KV = {number}u; const D = {head_dim}u; const ROW_WORDS = {words}u;\n\
         fn block_words() -> u32 {{ return 2u * p.num_kv_heads * p.block_len * {with_scale}u; }}"
    )
}

/// The width of a head where no cache is read.
pub(crate) fn kv_width(head_dim: usize) -> String {
    format!("const D = {head_dim}u;")
}

/// What a linear layer adds to its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epilogue {
    pub bias: bool,
    pub residual: bool,
    /// Whether one half of the columns is gated by the other.
    pub gated: bool,
}

/// What a linear layer does with its sums.
pub(crate) fn epilogue(of: Epilogue) -> String {
    let Epilogue { bias, residual, gated } = of;
    let parts = 1 + usize::from(gated);
    format!("const PARTS = {parts}u; const HAS_BIAS = {bias}; const HAS_RESIDUAL = {residual};")
}

/// Rows and columns of a linear layer that one workgroup makes, and what it does with its sums.
pub(crate) fn tile(rows: usize, cols: usize, epilogue: Epilogue) -> String {
    format!("const ROWS = {rows}u; const COLS = {cols}u; {}", self::epilogue(epilogue))
}

/// Whether heads are normed.
pub(crate) fn norm(norm: bool) -> String {
    format!("const NORM = {norm};")
}

/// Whether rows are sampled that await masks.
pub(crate) fn masked(masked: bool) -> String {
    format!("const MASKED = {masked};")
}

/// Of the words of a cache: how it is declared, and the 16 bytes or the word at word `at`.
const fn words_of(format: KvFormat) -> (&'static str, &'static str) {
    // Rows of codes begin at words.
    if format.plain().is_none() { ("array<u32>", "at") } else { ("array<vec4<u32>>", "at / 4u") }
}

/// The bindings of a cache in `num` segments from binding 3 on, and the reads of it.
fn cache(format: KvFormat, num: usize, access: &str) -> String {
    let (kind, index) = words_of(format);
    let mut text = String::new();
    for at in 0..num {
        text += &format!("@group(0) @binding({}) var<storage, {access}> cache{at}: {kind};\n", 3 + at);
    }
    let (read, other) = if format.plain().is_none() {
        ("cached_word(block: u32, i: u32) -> u32", "cached_words(block: u32, i: u32) -> vec4<u32>")
    } else {
        ("cached_words(block: u32, i: u32) -> vec4<u32>", "cached_word(block: u32, i: u32) -> u32")
    };
    let none = if format.plain().is_none() { "vec4(0u)" } else { "0u" };
    text += &format!("fn {read} {{\n    let at = block % p.segment_blocks * block_words() + i;\n");
    for segment in 1..num {
        text += &format!(
            "    if (block / p.segment_blocks == {segment}u) {{ return cache{segment}[{index}]; }}\n"
        );
    }
    text + &format!("    return cache0[{index}];\n}}\nfn {other} {{ return {none}; }}\n")
}

/// The write of one word of a cache, its segment's word `at` being `word_at`.
fn append(num: usize, word_at: &str) -> String {
    let mut text = String::from("fn append(block: u32, i: u32, word: u32) {\n");
    text += "    let at = block % p.segment_blocks * block_words() + i;\n";
    text += "    switch block / p.segment_blocks {\n";
    for segment in 1..num {
        text += &format!("        case {segment}u: {{ cache{segment}{word_at} = word; }}\n");
    }
    text + &format!("        default: {{ cache0{word_at} = word; }}\n    }}\n}}\n")
}

/// A cache in `num` segments from binding 3 on that is read, and the read of the queries: from the
/// binding after those, or from where the output goes.
pub(crate) fn cache_read(format: KvFormat, num: usize, in_place: bool) -> String {
    let queries = if in_place {
        "fn query_at(i: u32) -> f32 { return bitcast<f32>(out[i]); }\n".into()
    } else {
        let at = 3 + num;
        format!(
            "@group(0) @binding({at}) var<storage, read> q: array<f32>;\n\
             fn query_at(i: u32) -> f32 {{ return q[i]; }}\n"
        )
    };
    cache(format, num, "read") + &queries
}

/// A cache in `num` segments from binding 3 on that is read and written, and behind it what a token
/// is made of.
pub(crate) fn cache_decode(format: KvFormat, num: usize) -> String {
    let mut text = cache(format, num, "read_write");
    text += &append(num, if format.plain().is_none() { "[at]" } else { "[at / 4u][at % 4u]" });
    let values =
        [("qkv", "f32"), ("rotations", "vec2<f32>"), ("q_norm", "f32"), ("k_norm", "f32")].into_iter();
    for ((name, kind), at) in values.zip(3 + num..) {
        text += &format!("@group(0) @binding({at}) var<storage, read> {name}: array<{kind}>;\n");
    }
    text
}

/// A cache in `num` segments from binding `first` on that is written.
pub(crate) fn cache_write(num: usize, first: usize) -> String {
    let mut text = String::new();
    for at in 0..num {
        let binding = first + at;
        text += &format!("@group(0) @binding({binding}) var<storage, read_write> cache{at}: array<u32>;\n");
    }
    text + &append(num, "[at]")
}

/// Whether a workgroup attends to a chunk of a sequence and not to all of it.
pub(crate) fn split(split: bool) -> String {
    format!("const SPLIT = {split};")
}
