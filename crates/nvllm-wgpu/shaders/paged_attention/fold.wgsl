// paged_attention: puts together what chunks of a row's positions made, ascending, as part.wgsl
// says.
//
// A workgroup a query head of a row, an invocation four columns. Bound by its launch.
struct Params {
    num_heads: u32,
    // Positions that a query sees; 0: all.
    window: u32,
    // Words at which the last positions of rows begin in the inputs.
    row_kv: u32,
    max_chunks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

// What chunk number `chunk` of a row made; nothing from `end` on.
fn part_of(row: u32, chunk: u32, end: u32, lane: u32) -> Part {
    if (chunk < end) {
        let at = (row * p.max_chunks + chunk) * (D / 4u + 1u);
        return Part(parts[at].x, parts[at].y, parts[at + 1u + lane]);
    }
    return Part(LOWEST, 0.0, vec4(0.0));
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let last = inputs[p.row_kv + id.y];
    var first = 0u;
    if (p.window != 0u && last + 1u > p.window) {
        first = last + 1u - p.window;
    }
    if (lane >= D / 4u) {
        return;
    }
    let row = id.y * p.num_heads + id.x;
    var all = Part(LOWEST, 0.0, vec4(0.0));
    let end = last / CHUNK + 1u;
    // Four are asked for at once.
    for (var chunk = first / CHUNK; chunk < end; chunk += 4u) {
        let a = part_of(row, chunk, end, lane);
        let b = part_of(row, chunk + 1u, end, lane);
        let c = part_of(row, chunk + 2u, end, lane);
        let d = part_of(row, chunk + 3u, end, lane);
        all = together(all, a);
        if (chunk + 1u < end) {
            all = together(all, b);
        }
        if (chunk + 2u < end) {
            all = together(all, c);
        }
        if (chunk + 3u < end) {
            all = together(all, d);
        }
    }
    let o = all.o / vec4(all.total);
    for (var c = 0u; c < 4u; c++) {
        out[row * D + 4u * lane + c] = stored(o[c]);
    }
}
