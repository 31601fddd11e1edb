// What a linear layer is beside its products: y = x W^T + b, W [n, k]. Also linear_add:
// y = x W^T + b + r, and linear_silu_mul: silu(x Wg^T + bg) * (x Wu^T + bu), where W has the rows
// of Wg, then those of Wu.
//
// HAS_BIAS, HAS_RESIDUAL: whether b and r are added. PARTS: 2 if gated, else 1. W is one segment of
// the rows: dense or coded, as common/weights.wgsl, chunks.wgsl or coded.wgsl reads it.
struct Params {
    k: u32,
    // Columns of y.
    n: u32,
    // Of these, the first that this segment of W makes, and how many.
    first: u32,
    num_cols: u32,
    // Rows of y for each of what is counted in this word of the inputs.
    times: u32,
    count: u32,
    // As the reader of W has them.
    pitch: u32,
    blocks: u32,
    group: u32,
    shift: u32,
    // Of a norm of x.
    eps: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(4) var<storage, read> b: array<f32>;
@group(0) @binding(5) var<storage, read> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;
