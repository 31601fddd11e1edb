// paged_attention: o = sum_j p_j v_j, p = softmax(scale q . k), over a row's own sequence.
//
// A workgroup of 256 a query head of a row. Order: positions in chunks of 256 that begin at
// multiples of 256, ascending, each brought to the running maximum. Within a chunk an invocation
// has the score of a position, and of four groups of 64 each adds the values of 64 positions,
// ascending; the groups are added at the end. So it is a function of the absolute position only.
//
// KV: 0 f32, 1 bf16. `cached(block, i)` is 16 bytes, the i-th, of a block of this layer, [k|v,
// head, offset, d], from the segment of the cache that has the block, `cached_word(block, i)` its
// i-th word, and `query_at(i)` element i of the queries; their text and their bindings are
// generated.
struct Params {
    num_heads: u32,
    // Query heads of a KV head.
    group: u32,
    num_kv_heads: u32,
    d: u32,
    scale: f32,
    // Positions that a query sees; 0: all.
    window: u32,
    block_len: u32,
    // Words at which these begin in the inputs, and entries of one block table.
    row_seq: u32,
    row_kv: u32,
    tables: u32,
    max_blocks: u32,
    // Blocks in one segment of the cache.
    segment_blocks: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> inputs: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

const CHUNK = 256u;
const GROUP = 64u;
const MOST_D = 256u;
const LOWEST = -3.4028234e38;

var<workgroup> query: array<vec4<f32>, MOST_D / 4u>;
var<workgroup> scores: array<f32, CHUNK>;
// Block of each position of the chunk, and the word of it at which the value begins.
var<workgroup> blocks: array<u32, CHUNK>;
var<workgroup> values: array<u32, CHUNK>;
// Maxima, or sums, of 16 positions each.
var<workgroup> joined: array<f32, 16>;
var<workgroup> ends: array<f32, CHUNK>;

// Words of a head.
fn head_words() -> u32 {
    if (KV == 0u) {
        return p.d;
    }
    return p.d / 2u;
}

// Word at which the key (0) or value (1) at an offset of a block begins.
fn row_at(is_value: u32, head: u32, offset: u32) -> u32 {
    return ((is_value * p.num_kv_heads + head) * p.block_len + offset) * head_words();
}

fn score(block: u32, head: u32, offset: u32) -> f32 {
    let at = row_at(0u, head, offset) / 4u;
    var sum = 0.0;
    if (KV == 0u) {
        for (var i = 0u; i < p.d / 4u; i++) {
            let k = bitcast<vec4<f32>>(cached(block, at + i));
            let q = query[i];
            sum = fma(q.w, k.w, fma(q.z, k.z, fma(q.y, k.y, fma(q.x, k.x, sum))));
        }
    } else {
        for (var i = 0u; i < p.d / 8u; i++) {
            let pairs = cached(block, at + i);
            let low = bitcast<vec4<f32>>(pairs << vec4(16u));
            let high = bitcast<vec4<f32>>(pairs & vec4(0xffff0000u));
            let q = query[2u * i];
            let r = query[2u * i + 1u];
            sum = fma(q.w, high.y, fma(q.z, low.y, fma(q.y, high.x, fma(q.x, low.x, sum))));
            sum = fma(r.w, high.w, fma(r.z, low.w, fma(r.y, high.z, fma(r.x, low.z, sum))));
        }
    }
    return sum * p.scale;
}

fn value(block: u32, at: u32, column: u32) -> f32 {
    if (KV == 0u) {
        return bitcast<f32>(cached_word(block, at + column));
    }
    let pair = cached_word(block, at + column / 2u);
    return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, (column & 1u) == 1u));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = id.y;
    let head = id.x / p.group;
    let last = inputs[p.row_kv + row];
    var first = 0u;
    if (p.window != 0u && last + 1u > p.window) {
        first = last + 1u - p.window;
    }
    let table = p.tables + inputs[p.row_seq + row] * p.max_blocks;
    let at = (row * p.num_heads + id.x) * p.d;
    if (lane < p.d / 4u) {
        let q = at + 4u * lane;
        query[lane] = vec4(query_at(q), query_at(q + 1u), query_at(q + 2u), query_at(q + 3u));
    }
    let column = lane % GROUP;
    let group = lane / GROUP;
    var highest = LOWEST;
    var total = 0.0;
    var acc: array<f32, MOST_D / GROUP>;
    for (var chunk = first / CHUNK * CHUNK; chunk <= last; chunk += CHUNK) {
        // Behind it `query` is complete and nobody reads the last chunk's scores any more.
        workgroupBarrier();
        let j = chunk + lane;
        let seen = j >= first && j <= last;
        var s = LOWEST;
        if (seen) {
            let block = inputs[table + j / p.block_len];
            blocks[lane] = block;
            values[lane] = row_at(1u, head, j % p.block_len);
            s = score(block, head, j % p.block_len);
        }
        scores[lane] = s;
        workgroupBarrier();
        if (lane < 16u) {
            var most = scores[lane];
            for (var i = 1u; i < 16u; i++) {
                most = max(most, scores[lane + 16u * i]);
            }
            joined[lane] = most;
        }
        workgroupBarrier();
        var most = highest;
        for (var i = 0u; i < 16u; i++) {
            most = max(most, joined[i]);
        }
        let kept = exp(highest - most);
        highest = most;
        // Nobody reads the maxima any more.
        workgroupBarrier();
        scores[lane] = select(0.0, exp(s - most), seen);
        workgroupBarrier();
        if (lane < 16u) {
            var sum = scores[lane];
            for (var i = 1u; i < 16u; i++) {
                sum += scores[lane + 16u * i];
            }
            joined[lane] = sum;
        }
        let begin = max(max(first, chunk) - chunk, group * GROUP);
        let end = min(min(last - chunk + 1u, CHUNK), (group + 1u) * GROUP);
        for (var c = 0u; c < MOST_D / GROUP; c++) {
            if (c * GROUP + column < p.d) {
                var o = acc[c] * kept;
                for (var i = begin; i < end; i++) {
                    o = fma(scores[i], value(blocks[i], values[i], c * GROUP + column), o);
                }
                acc[c] = o;
            }
        }
        workgroupBarrier();
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += joined[i];
        }
        total = total * kept + sum;
    }
    for (var c = 0u; c < MOST_D / GROUP; c++) {
        ends[lane] = acc[c];
        workgroupBarrier();
        if (group == 0u && c * GROUP + column < p.d) {
            let o = ((ends[lane] + ends[lane + 64u]) + ends[lane + 128u]) + ends[lane + 192u];
            out[at + c * GROUP + column] = stored(o / total);
        }
        workgroupBarrier();
    }
}
