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

// Chunks that are asked for at once.
const AHEAD = 8u;

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
    for (var chunk = first / CHUNK; chunk < end; chunk += AHEAD) {
        var held: array<Part, AHEAD>;
        for (var a = 0u; a < AHEAD; a++) {
            if (chunk + a < end) {
                let at = (row * p.max_chunks + chunk + a) * (D / 4u + 1u);
                let sums = parts[at];
                held[a] = Part(sums.x, sums.y, parts[at + 1u + lane]);
            }
        }
        for (var a = 0u; a < AHEAD; a++) {
            if (chunk + a < end) {
                all = together(all, held[a]);
            }
        }
    }
    let o = all.o / vec4(all.total);
    for (var c = 0u; c < 4u; c++) {
        out[row * D + 4u * lane + c] = stored(o[c]);
    }
}
