// The front of `attention` inside it, for a step of one token: each workgroup makes its query and
// the new key and value for itself, as qk_norm_rope_append/head.wgsl says, and reads those from its
// own memory; one of them stores them.
const NORM_TEAMS = 4u;

// The new key and value as they are stored, and the bits of their scales.
var<workgroup> new_words: array<u32, 2u * ROW_WORDS>;
var<workgroup> new_scales: array<u32, 2>;

fn new_four(at: u32) -> vec4<u32> {
    return vec4(new_words[at], new_words[at + 1u], new_words[at + 2u], new_words[at + 3u]);
}

fn read_octet(is_new: bool, is_value: u32, block: u32, row: u32, i: u32) -> Octet {
    if (!is_new) {
        return load_octet(block, row, i);
    }
    let at = is_value * ROW_WORDS;
    if (KV == 0u) {
        return Octet(new_four(at + 8u * i), new_four(at + 8u * i + 4u));
    }
    if (KV == 1u) {
        return Octet(new_four(at + 4u * i), vec4(0u));
    }
    return Octet(vec4(new_words[at + 2u * i], new_words[at + 2u * i + 1u], 0u, 0u), vec4(0u));
}

fn read_scale(is_new: bool, is_value: u32, block: u32, row: u32) -> f32 {
    if (is_new && KV == 3u) {
        return bitcast<f32>(new_scales[is_value]);
    }
    return row_scale(block, row);
}

fn prepare_query(row: u32, q_head: u32, last: u32, table: u32, chunk: u32, lane: u32) {
    // Teams: query, key, value, and the query again.
    let head = q_head / p.group;
    let team = lane / 64u;
    var which = q_head;
    if (team == 1u) {
        which = p.num_heads + head;
    }
    if (team == 2u) {
        which = p.num_heads + p.num_kv_heads + head;
    }
    make_head(row, which, lane);
    if (lane < D / 4u) {
        let i = 4u * lane;
        query[lane] = vec4(heads[i], heads[i + 1u], heads[i + 2u], heads[i + 3u]);
    }
    let scale = row_scale_bits(lane);
    if (team == 1u || team == 2u) {
        let is_value = team - 1u;
        for (var i = lane % 64u; i < ROW_WORDS; i += 64u) {
            new_words[is_value * ROW_WORDS + i] = row_word(i, team * D, scale);
        }
        if (lane % 64u == 0u) {
            new_scales[is_value] = scale;
        }
        if (q_head % p.group == 0u && last - chunk < CHUNK) {
            let block = inputs[table + last / p.block_len];
            let in_block = (is_value * p.num_kv_heads + head) * p.block_len + last % p.block_len;
            append_row(block, in_block, lane, scale);
        }
    }
}
