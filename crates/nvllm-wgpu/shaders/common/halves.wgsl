// The bits of an f16 as those of an f32.
//
// By integers: a driver may flush subnormal halves.
fn f16_bits(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 31u;
    let mantissa = half & 1023u;
    if (exponent == 0u) {
        return bitcast<u32>(f32(mantissa) * 5.9604644775390625e-8) | sign;
    }
    if (exponent == 31u) {
        return sign | 0x7f800000u | (mantissa << 13u);
    }
    return sign | ((exponent + 112u) << 23u) | (mantissa << 13u);
}
