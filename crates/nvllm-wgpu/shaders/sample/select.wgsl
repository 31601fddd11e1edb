// The smallest key of the shortest descending prefix whose weights reach a wanted sum: eight bits
// of the key at a time, by histograms of integers, so that the result does not depend on the order
// in which invocations add.
//
// A key is the order of the logit, then of the token, lower ids first. A weight is 33 bits in three
// pieces of 11, so that up to 2^21 of them add up in 32 bits.

struct Weighted {
    key: vec2<u32>,
    pieces: vec3<u32>,
}

var<workgroup> bins: array<atomic<u32>, 768>;
// The prefix of the key found so far, what is still wanted, and whether anything is.
var<workgroup> prefix: vec2<u32>;
var<workgroup> wanted: f32;
var<workgroup> searching: u32;

// A weight from 0 to 1, in units of 2^-32.
fn pieces_of(mass: f32) -> vec3<u32> {
    if (mass >= 1.0) {
        return vec3(1024u, 0u, 0u);
    }
    // Eleven bits of it, and so on: each is exact.
    let a = mass * 1024.0;
    let b = (a - floor(a)) * 2048.0;
    let c = (b - floor(b)) * 2048.0;
    return vec3(u32(a), u32(b), u32(c + 0.5));
}

fn joined(bin: u32) -> f32 {
    let high = f32(atomicLoad(&bins[3u * bin]));
    let mid = f32(atomicLoad(&bins[3u * bin + 1u]));
    let low = f32(atomicLoad(&bins[3u * bin + 2u]));
    return fma(high, 0.0009765625, fma(mid, 4.76837158203125e-7, low * 2.3283064365386963e-10));
}

// The eight bits of a key that level `level` looks at, the highest first.
fn digit(key: vec2<u32>, level: u32) -> u32 {
    let word = select(key.y, key.x, level < 4u);
    return (word >> (24u - 8u * (level % 4u))) & 255u;
}

// Whether a key begins with what has been found before level `level`.
fn has_prefix(key: vec2<u32>, level: u32) -> bool {
    if (level == 0u) {
        return true;
    }
    if (level < 4u) {
        return (key.x >> (32u - 8u * level)) == (prefix.x >> (32u - 8u * level));
    }
    if (key.x != prefix.x) {
        return false;
    }
    return level == 4u || (key.y >> (64u - 8u * level)) == (prefix.y >> (64u - 8u * level));
}

// Takes level `level` from the histogram: by one invocation. `share` of the sum of all weights is
// wanted, or `count` of them if that is not 0; nothing is if `count` is more than there are.
fn take_digit(level: u32, share: f32, count: u32) {
    if (level == 0u) {
        var total = 0.0;
        for (var bin = 0u; bin < 256u; bin++) {
            total += joined(bin);
        }
        wanted = share * total;
        if (count != 0u) {
            wanted = f32(count) * 0.0009765625;
        }
        searching = u32(wanted > 0.0 && wanted <= total);
    }
    if (searching == 0u) {
        return;
    }
    var bin = 255u;
    var sum = 0.0;
    while (bin > 0u && sum + joined(bin) < wanted) {
        sum += joined(bin);
        bin -= 1u;
    }
    wanted -= sum;
    let shift = 24u - 8u * (level % 4u);
    if (level < 4u) {
        prefix.x |= bin << shift;
    } else {
        prefix.y |= bin << shift;
    }
}

// All invocations of a workgroup of 256 call it. (0, 0) if all weights together do not reach the
// sum. `kind` is handed to `weighted`, which gives key and weight of a token.
fn select_prefix(kind: u32, at: u32, share: f32, count: u32, lane: u32) -> vec2<u32> {
    if (lane == 0u) {
        prefix = vec2(0u, 0u);
    }
    for (var level = 0u; level < 8u; level++) {
        for (var i = lane; i < 768u; i += 256u) {
            atomicStore(&bins[i], 0u);
        }
        workgroupBarrier();
        for (var t = lane; t < p.vocab; t += 256u) {
            let one = weighted(kind, at, t);
            if (any(one.pieces != vec3(0u)) && has_prefix(one.key, level)) {
                let bin = 3u * digit(one.key, level);
                for (var piece = 0u; piece < 3u; piece++) {
                    if (one.pieces[piece] != 0u) {
                        atomicAdd(&bins[bin + piece], one.pieces[piece]);
                    }
                }
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            take_digit(level, share, count);
        }
        workgroupBarrier();
    }
    var key = prefix;
    if (searching == 0u) {
        key = vec2(0u, 0u);
    }
    // Nobody begins another search before all have read this one's result.
    workgroupBarrier();
    return key;
}

// Whether a key is at or above another.
fn reaches(key: vec2<u32>, threshold: vec2<u32>) -> bool {
    return key.x > threshold.x || (key.x == threshold.x && key.y >= threshold.y);
}
