// step: what every step does first. Spreads its packed inputs to their places, takes slots anew,
// and resolves tokens that only the device knows.
//
// packed: the word at which the list of copies begins, three unused ones, the packed bytes.
// A copy is four words: where to (two words), where from, how many.
// source [T]: a token id, or -1 - slot for the last token sampled in a slot.
struct Params {
    outputs: u32,
    resets: u32,
    source: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> inputs: array<u32>;
@group(0) @binding(3) var<storage, read_write> slots: array<u32>;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;

@compute @workgroup_size(256)
fn spread(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let copy = 4u + packed[0] + 4u * group.x;
    let to = packed[copy];
    let from_word = 4u + packed[copy + 2u];
    let num = packed[copy + 3u];
    for (var i = lane; i < num; i += 256u) {
        inputs[to + i] = packed[from_word + i];
    }
}

// A reset is 20 words: the slot, three unused ones, 16 words of its state.
@compute @workgroup_size(16)
fn take_slots(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (group.x < inputs[3]) {
        let reset = p.resets + 20u * group.x;
        slots[16u * inputs[reset] + lane] = inputs[reset + 4u + lane];
    }
}

@compute @workgroup_size(64)
fn take_tokens(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < inputs[0]) {
        let source = bitcast<i32>(inputs[p.source + id.x]);
        if (source >= 0) {
            tokens[id.x] = u32(source);
        } else {
            tokens[id.x] = slots[16u * u32(-1 - source)];
        }
    }
}
