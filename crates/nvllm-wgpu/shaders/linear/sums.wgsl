// Sums of which each of 64 invocations has a part: NUM_SUMS of them. 64 parts become 8, and 1.
var<workgroup> partial: array<f32, 64 * NUM_SUMS>;

fn join(sums: ptr<function, array<f32, NUM_SUMS>>, lane: u32) {
    for (var s = 0u; s < NUM_SUMS; s++) {
        partial[s * 64u + lane] = (*sums)[s];
    }
    workgroupBarrier();
    for (var i = lane; i < 8u * NUM_SUMS; i += 64u) {
        let at = i / 8u * 64u + i % 8u;
        for (var j = 1u; j < 8u; j++) {
            partial[at] += partial[at + 8u * j];
        }
    }
    workgroupBarrier();
}

// A sum, after `join`.
fn joined(sum: u32) -> f32 {
    var y = 0.0;
    for (var j = 0u; j < 8u; j++) {
        y += partial[sum * 64u + j];
    }
    return y;
}
