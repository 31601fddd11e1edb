// z / (1 + exp(-z)) with no exponential that overflows, and far below 0 with none that is
// subnormal.
fn silu(z: f32) -> f32 {
    if (z >= 0.0) {
        return z / (1.0 + exp(-z));
    }
    if (z < -64.0) {
        return z * exp(z + 32.0) * 1.2664165549094176e-14;
    }
    let e = exp(z);
    return z * e / (1.0 + e);
}
