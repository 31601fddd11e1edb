// embed: out[t, :] = table[token(t), :], a copy of dense rows, the values of coded ones.
//
// One segment of the table's rows: a token of another segment is left to the launch that has it.
// ORDERED: columns are stored in another order; order [cols] is where each lies. An invocation a
// column, a row of workgroups a token. Bound by its launch.
struct Params {
    cols: u32,
    first: u32,
    num_rows: u32,
    // As the reader of the table has them.
    pitch: u32,
    blocks: u32,
    group: u32,
    shift: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    prepare_weights(lane);
    let token = tokens[id.y];
    if (id.x < p.cols && token >= p.first && token - p.first < p.num_rows) {
        var col = id.x;
        if (ORDERED) {
            col = order[col];
        }
        out[id.y * p.cols + id.x] = stored_bits(weight_bits(token - p.first, col));
    }
}
