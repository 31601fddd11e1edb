// The input of a linear layer as its weight sees it: quantised where the format says so, columns in
// the weight's stored order.
//
// Definition: nvllm-core's weight/act.rs. ACT: 0 as it is, 1 to int8, 2 to FP8 E4M3. Each `group`
// columns of a row have a scale, their largest magnitude divided by 127 or 448, unless `fixed` is
// that of all; out holds scale * code. ORDERED: order [k] is where each column is stored. A
// workgroup a group of a row. Bound by its launch.
struct Params {
    k: u32,
    group: u32,
    fixed: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Bits of magnitudes, which have their order.
var<workgroup> largest: array<u32, 64>;

fn nearest(v: f32) -> f32 {
    if (ACT == 1u) {
        return clamp(round(v), -128.0, 127.0);
    }
    let bits = bitcast<u32>(v);
    if (is_nan_bits(bits)) {
        return v;
    }
    let size = min(abs(v), 448.0);
    let exponent = e4m3_exponent(size);
    let steps = round(size * power_of_two(3 - exponent)) * power_of_two(exponent - 3);
    return bitcast<f32>(bitcast<u32>(steps) | (bits & 0x80000000u));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let base = id.y * p.k;
    let begin = id.x * p.group;
    let end = min(begin + p.group, p.k);
    var scale = p.fixed;
    if (ACT != 0u && p.fixed == 0.0) {
        var most = 0u;
        for (var i = begin + lane; i < end; i += 64u) {
            most = max(most, bitcast<u32>(x[base + i]) & 0x7fffffffu);
        }
        largest[lane] = most;
        workgroupBarrier();
        for (var i = 0u; i < 64u; i++) {
            most = max(most, largest[i]);
        }
        scale = divided(bitcast<f32>(most), select(448.0, 127.0, ACT == 1u));
    }
    for (var i = begin + lane; i < end; i += 64u) {
        var v = x[base + i];
        if (ACT != 0u) {
            v = select(scale * nearest(divided(v, scale)), 0.0, scale == 0.0);
        }
        var to = i;
        if (ORDERED) {
            to = order[i];
        }
        out[base + to] = v;
    }
}
