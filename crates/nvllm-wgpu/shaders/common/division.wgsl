// a / b as IEEE 754 rounds it: a driver's quotient may be off by some units in the last place, and
// what a product of it leaves of `a` depends on whether the driver fuses or reorders. So the
// mantissas are divided as integers. Where a number could be subnormal or overflow, the driver's
// quotient stays.
fn is_usual(x: f32) -> bool {
    return abs(x) > 1e-25 && abs(x) < 1e25;
}

fn divided(a: f32, b: f32) -> f32 {
    let q = a / b;
    if (!(is_usual(a) && is_usual(b) && is_usual(q))) {
        return q;
    }
    let a_bits = bitcast<u32>(a);
    let b_bits = bitcast<u32>(b);
    var left = (a_bits & 0x7fffffu) | 0x800000u;
    let divisor = (b_bits & 0x7fffffu) | 0x800000u;
    var exponent = 127u + ((a_bits >> 23u) & 0xffu) - ((b_bits >> 23u) & 0xffu);
    if (left < divisor) {
        left <<= 1u;
        exponent -= 1u;
    }
    // The quotient is at least 1 and under 2: a mantissa, and a bit more for rounding.
    var quotient = 0u;
    for (var i = 0u; i < 25u; i++) {
        quotient <<= 1u;
        if (left >= divisor) {
            left -= divisor;
            quotient |= 1u;
        }
        left <<= 1u;
    }
    // To the nearest, to the even one of two; a carry goes into the exponent.
    let up = (quotient & 1u) == 1u && (left != 0u || (quotient & 2u) == 2u);
    let bits = (exponent << 23u) + (quotient >> 1u) - 0x800000u + select(0u, 1u, up);
    return bitcast<f32>(bits | ((a_bits ^ b_bits) & 0x80000000u));
}
