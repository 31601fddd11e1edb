// The uniform of a vocabulary entry, as nvllm-core's `sampling` defines it, and its Gumbel noise.
//
// Philox4x32-10 (Salmon et al. 2011). A shader's own logarithm is exact to 2^-21 near 1 only, which
// is more than what the likeliest noise is made of; so it is made here, by a series.

// The 64 bits of a product: low, high.
fn product(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let mid = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (mid & 0xffffu);
    return vec2(a * b, (a >> 16u) * (b >> 16u) + (mid >> 16u) + (other >> 16u));
}

fn philox(seed: vec2<u32>, counter: vec4<u32>) -> vec4<u32> {
    var key = seed;
    var c = counter;
    for (var round = 0u; round < 10u; round++) {
        let a = product(0xD2511F53u, c.x);
        let b = product(0xCD9E8D57u, c.z);
        c = vec4(b.y ^ c.y ^ key.x, b.x, a.y ^ c.w ^ key.y, a.x);
        key += vec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// ln((1 + s) / (1 - s)) for |s| <= 0.1716, to a few units in the last place.
fn ln_ratio(s: f32) -> f32 {
    let z = s * s;
    let series = fma(z, fma(z, fma(z, fma(z, 0.09090909, 0.11111111), 0.14285715), 0.2), 0.33333334);
    return 2.0 * fma(s * z, series, s);
}

// ln x for x > 0, not subnormal.
fn ln(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    // x = m 2^e with m from 1/sqrt(2) to sqrt(2).
    let e = (bitcast<i32>(bits - 0x3f3504f3u)) >> 23u;
    let m = bitcast<f32>(bits - (bitcast<u32>(e) << 23u));
    return fma(f32(e), 0.6931472, ln_ratio((m - 1.0) / (m + 1.0)));
}

// -ln(-ln u) of the uniform u = (n + 1/2) / 2^24, n the upper 24 bits of a word.
fn gumbel(word: u32) -> f32 {
    let n = word >> 8u;
    // What u lacks to 1, exact where u is near 1.
    let rest = f32(0x1ffffffu - 2u * n) * 2.9802322387695312e-8;
    if (rest <= 0.25) {
        return -ln(ln_ratio(rest / (2.0 - rest)));
    }
    return -ln(-ln(f32(2u * n + 1u) * 2.9802322387695312e-8));
}
