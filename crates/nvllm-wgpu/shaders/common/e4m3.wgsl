// FP8 E4M3 from f32: the nearest value, of two the one with an even mantissa, +-448 beyond it. NaN
// stays NaN.

// Neighbours of a number of this size are 2^(result - 3) apart.
fn e4m3_exponent(size: f32) -> i32 {
    return max(i32(bitcast<u32>(size) >> 23u) - 127, -6);
}

fn power_of_two(exponent: i32) -> f32 {
    return bitcast<f32>(u32(exponent + 127) << 23u);
}

fn is_nan_bits(bits: u32) -> bool {
    return (bits & 0x7fffffffu) > 0x7f800000u;
}

// The code of the number with these bits. Its size is found by bits: NaN may not be compared.
fn e4m3_code(bits: u32) -> u32 {
    let sign = (bits >> 24u) & 0x80u;
    if (is_nan_bits(bits)) {
        return sign | 0x7fu;
    }
    let size = bitcast<f32>(min(bits & 0x7fffffffu, 0x43e00000u));
    let exponent = e4m3_exponent(size);
    // In 0 to 16; 16 carries into the exponent field.
    return sign | ((u32(exponent + 6) << 3u) + u32(round(size * power_of_two(3 - exponent))));
}
