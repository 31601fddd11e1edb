// a / b as IEEE 754 rounds it: a driver's quotient may be off by some units in the last place.
//
// What the quotient leaves of `a` corrects it. It is found by products of halves of 12 bits, which
// are exact: a driver may or may not fuse a multiply-add. Where they could overflow or be
// subnormal, the driver's quotient stays.
fn is_usual(x: f32) -> bool {
    return abs(x) > 1e-25 && abs(x) < 1e25;
}

fn upper_half(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
}

fn divided(a: f32, b: f32) -> f32 {
    let q = a / b;
    if (is_usual(a) && is_usual(b) && is_usual(q)) {
        let q0 = upper_half(q);
        let b0 = upper_half(b);
        let q1 = q - q0;
        let b1 = b - b0;
        let left = (((a - q0 * b0) - q0 * b1) - q1 * b0) - q1 * b1;
        return q + left / b;
    }
    return q;
}
