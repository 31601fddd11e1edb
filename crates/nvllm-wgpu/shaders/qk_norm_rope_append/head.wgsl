// A head of a row of qkv as attention takes it: normed (NORM; queries and keys) and turned by its
// row's rotation (queries and keys). It rounds where the ops that it stands for round, and sums as
// rms_norm.

// Head `which`, of query heads, then keys, then values, into the `heads` of a team. All invocations
// of a workgroup call it.
fn make_head(row: u32, which: u32, lane: u32) {
    let base = lane / 64u * D;
    let first = lane % 64u;
    let is_query = which < p.num_heads;
    let is_value = which >= p.num_heads + p.num_kv_heads;
    let x = (row * (p.num_heads + 2u * p.num_kv_heads) + which) * D;
    for (var i = first; i < D; i += 64u) {
        heads[base + i] = qkv[x + i];
    }
    workgroupBarrier();
    if (NORM) {
        var sum = 0.0;
        for (var i = base + 4u * first; i < base + D; i += 256u) {
            sum = add_squares(sum, vec4(heads[i], heads[i + 1u], heads[i + 2u], heads[i + 3u]));
        }
        let factor = norm_factor(sum, D, p.eps, lane);
        if (!is_value) {
            for (var i = first; i < D; i += 64u) {
                let weight = select(k_norm[i], q_norm[i], is_query);
                heads[base + i] = bitcast<f32>(stored(heads[base + i] * factor * weight));
            }
        }
        workgroupBarrier();
    }
    let half = D / 2u;
    if (!is_value) {
        for (var i = first; i < half; i += 64u) {
            let turn = rotations[row * half + i];
            let a = heads[base + i];
            let b = heads[base + i + half];
            heads[base + i] = bitcast<f32>(stored(fma(a, turn.x, -(b * turn.y))));
            heads[base + i + half] = bitcast<f32>(stored(fma(b, turn.x, a * turn.y)));
        }
    }
    workgroupBarrier();
}
