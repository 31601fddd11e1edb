// What attention over some positions has made, and how parts of a sequence come together.
const CHUNK = 256u;
const LOWEST = -3.4028234e38;

// Softmax over some positions, and the values under it, not yet divided by the sum.
struct Part {
    highest: f32,
    total: f32,
    // Columns 4 i .. 4 i + 3 in invocation i.
    o: vec4<f32>,
}

// What comes after `a` added to it: both are brought to the larger maximum.
fn together(a: Part, b: Part) -> Part {
    let highest = max(a.highest, b.highest);
    let kept = exp(a.highest - highest);
    let added = exp(b.highest - highest);
    return Part(highest, fma(b.total, added, a.total * kept), fma(b.o, vec4(added), a.o * kept));
}
