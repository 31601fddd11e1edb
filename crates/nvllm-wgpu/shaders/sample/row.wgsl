// One row of logits as the sampler sees it: steps 1 to 3 of nvllm-core's `sampling`, evaluated
// where a logit is read, so that the row itself stays as the model made it.
//
// MASKED: whether the rows are those that await masks, sampled when these have come, or the others,
// sampled with the forward pass.
struct Params {
    vocab: u32,
    mask_words: u32,
    // Words at which these begin in the inputs; entries of one slot's lists.
    outputs: u32,
    biases: u32,
    stops: u32,
    max_biases: u32,
    max_stops: u32,
    // Word at which scored rows begin in the results.
    scored: u32,
    // Workgroups that share a row in the scan and in the draw.
    splits: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read_write> slots: array<u32>;
// [slots, vocab]: bit 31: in the prompt; below: how often in the output.
@group(0) @binding(3) var<storage, read_write> seen: array<u32>;
@group(0) @binding(4) var<storage, read> logits: array<u32>;
@group(0) @binding(5) var<storage, read> masks: array<u32>;
// By row: the best of each split, the best draw of each split, the threshold.
@group(0) @binding(6) var<storage, read_write> scratch: array<u32>;
// Tokens [Outputs], then scored rows.
@group(0) @binding(7) var<storage, read_write> results: array<u32>;

const LAST_TOKEN = 0u;
const OUTPUT_LEN = 1u;
const TEMPERATURE = 2u;
const TOP_K = 3u;
const TOP_P = 4u;
const MIN_P = 5u;
const REPETITION = 6u;
const PRESENCE = 7u;
const FREQUENCY = 8u;
const CHOICE = 9u;
const SEED = 10u;
const MIN_TOKENS = 12u;
const NUM_BIASES = 13u;
const NUM_STOPS = 14u;
const USES_COUNTS = 15u;

const WANTS_SAMPLE = 1u;
const WANTS_SCORE = 2u;
const AWAITS_MASK = 4u;

const NO_TOKEN = 0xffffffffu;
const INFINITY = 0x7f800000u;
const MINUS_INFINITY = 0xff800000u;
// Stands for minus infinity where numbers are compared.
const LOWEST = -3.4028234e38;

fn output_word(at: u32, word: u32) -> u32 {
    return inputs[p.outputs + 8u * at + word];
}

fn slot_of(at: u32) -> u32 {
    return output_word(at, 1u);
}

fn slot_word(slot: u32, word: u32) -> u32 {
    return slots[16u * slot + word];
}

fn slot_number(slot: u32, word: u32) -> f32 {
    return bitcast<f32>(slot_word(slot, word));
}

// Whether this launch samples the row.
fn samples(at: u32) -> bool {
    let wants = output_word(at, 2u) & (WANTS_SAMPLE | AWAITS_MASK);
    if (MASKED) {
        return wants == (WANTS_SAMPLE | AWAITS_MASK);
    }
    return wants == WANTS_SAMPLE;
}

// NaN or plus infinity, of which no row is sampled.
fn is_unusable(bits: u32) -> bool {
    return (bits & 0x7fffffffu) > INFINITY || bits == INFINITY;
}

// The logit of token t after mask, suppression, bias and penalties, in the order of the definition;
// LOWEST for one that is ruled out, or not usable.
fn processed(at: u32, slot: u32, t: u32) -> f32 {
    let bits = logits[at * p.vocab + t];
    if (bits == MINUS_INFINITY || is_unusable(bits)) {
        return LOWEST;
    }
    if (MASKED) {
        if (((masks[at * p.mask_words + t / 32u] >> (t % 32u)) & 1u) == 0u) {
            return LOWEST;
        }
    }
    if (slot_word(slot, OUTPUT_LEN) < slot_word(slot, MIN_TOKENS)) {
        for (var i = 0u; i < slot_word(slot, NUM_STOPS); i++) {
            if (inputs[p.stops + slot * p.max_stops + i] == t) {
                return LOWEST;
            }
        }
    }
    var x = bitcast<f32>(bits);
    for (var i = 0u; i < slot_word(slot, NUM_BIASES); i++) {
        let entry = p.biases + 2u * (slot * p.max_biases + i);
        if (inputs[entry] == t) {
            x += bitcast<f32>(inputs[entry + 1u]);
        }
    }
    if (slot_word(slot, USES_COUNTS) != 0u) {
        let count = seen[slot * p.vocab + t];
        let in_output = count & 0x7fffffffu;
        let penalty = slot_number(slot, REPETITION);
        if (count != 0u && penalty != 1.0) {
            x = select(x * penalty, x / penalty, x > 0.0);
        }
        if (in_output != 0u) {
            x -= f32(in_output) * slot_number(slot, FREQUENCY) + slot_number(slot, PRESENCE);
        }
    }
    return x;
}

// Larger logits have larger keys: the order of `f32::total_cmp`.
fn order_key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return bits ^ select(0x80000000u, 0xffffffffu, (bits >> 31u) == 1u);
}
