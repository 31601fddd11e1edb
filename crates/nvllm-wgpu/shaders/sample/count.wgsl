// sample_count: what a sequence has when it gets its slot. Bit 31 marks tokens of the prompt, below
// it those of the output are counted.
//
// tokens: how many, whether of the prompt, the slot, the vocabulary, then the tokens.
@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read_write> seen: array<atomic<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < tokens[0]) {
        let at = tokens[2] * tokens[3] + tokens[4u + id.x];
        if (tokens[1] != 0u) {
            atomicOr(&seen[at], 0x80000000u);
        } else {
            atomicAdd(&seen[at], 1u);
        }
    }
}
