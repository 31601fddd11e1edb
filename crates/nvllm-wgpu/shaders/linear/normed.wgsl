// The one row of x, normed on its way as rms_norm does it: with the same bits. Each workgroup does
// so for itself, behind its requests for W.
//
// K: columns, a multiple of 4. NORM_ROUND: whether the norm's result is rounded. `norm_weight` is
// generated.

const NORM_TEAMS = 1u;

var<workgroup> normed: array<vec4<f32>, K / 4u>;

fn norm_stored(y: f32) -> f32 {
    if (NORM_ROUND) {
        return bitcast<f32>(rounded_to_bf16(bitcast<u32>(y)));
    }
    return y;
}

// Runs of four elements that an invocation has; few are held with their weights, so that all is
// asked for at once.
const RUNS = (K / 4u + 63u) / 64u;
const HOLDS = RUNS <= 8u;
const HELD_RUNS = select(1u, RUNS, HOLDS);

fn keep_normed(i: u32, v: vec4<f32>, weight: vec4<f32>, factor: f32) {
    let y = v * factor * weight;
    normed[i] = vec4(norm_stored(y.x), norm_stored(y.y), norm_stored(y.z), norm_stored(y.w));
}

fn prepare_row(row: u32, lane: u32) {
    let base = row * (K / 4u);
    var sum = 0.0;
    if (HOLDS) {
        var v: array<vec4<f32>, HELD_RUNS>;
        var weight: array<vec4<f32>, HELD_RUNS>;
        for (var run = 0u; run < HELD_RUNS; run++) {
            let i = lane + 64u * run;
            if (i < K / 4u) {
                v[run] = x[base + i];
                weight[run] = norm_weight[i];
            }
        }
        for (var run = 0u; run < HELD_RUNS; run++) {
            if (lane + 64u * run < K / 4u) {
                sum = add_squares(sum, v[run]);
            }
        }
        let factor = norm_factor(sum, p.k, p.eps, lane);
        for (var run = 0u; run < HELD_RUNS; run++) {
            if (lane + 64u * run < K / 4u) {
                keep_normed(lane + 64u * run, v[run], weight[run], factor);
            }
        }
    } else {
        for (var i = lane; i < K / 4u; i += 64u) {
            let v = x[base + i];
            normed[i] = v;
            sum = add_squares(sum, v);
        }
        let factor = norm_factor(sum, p.k, p.eps, lane);
        for (var i = lane; i < K / 4u; i += 64u) {
            keep_normed(i, normed[i], norm_weight[i], factor);
        }
    }
    workgroupBarrier();
}

// Elements 4 i .. 4 i + 3 of the row.
fn row_values(row: u32, i: u32) -> vec4<f32> {
    return normed[i];
}
