// What is done with a sum once it is whole. general.wgsl does the same by itself, and asks for what
// it adds before its products.

// What is added to the products of one element of y.
struct Added {
    bias: f32,
    up_bias: f32,
    residual: f32,
}

fn added_to(row: u32, column: u32) -> Added {
    var added = Added(0.0, 0.0, 0.0);
    if (HAS_RESIDUAL) {
        added.residual = residual[row * p.n + column];
    }
    if (HAS_BIAS) {
        added.bias = b[column];
        if (PARTS == 2u) {
            added.up_bias = b[p.n + column];
        }
    }
    return added;
}

// An element of y from its sum, and that of `up` if the layer is gated.
fn finished(sum: f32, up_sum: f32, added: Added) -> f32 {
    var y = sum;
    if (HAS_BIAS) {
        y += added.bias;
    }
    if (PARTS == 2u) {
        var up = up_sum;
        if (HAS_BIAS) {
            up += added.up_bias;
        }
        y = silu(y) * up;
    }
    if (HAS_RESIDUAL) {
        y += added.residual;
    }
    return y;
}
