// paged_attention: o = sum_j p_j v_j, p = softmax(scale q . k), over a row's own sequence.
//
// A workgroup of 256 a query head of a row. Order: positions in chunks of 256 that begin at
// multiples of 256, ascending, each brought to the running maximum. A score is four sums of every
// fourth column, ascending, then added. Of the values of a chunk a lane adds eight columns of every
// TEAMS-th position, ascending; the teams are added at the end. So it is a function of D and of the
// absolute position only. Bound by latency, for long sequences by reading keys and values.
//
// The cache is read as common/cache.wgsl says, in which D is the width of a head. `query_at(i)` is
// element i of the queries; its text is generated.
struct Params {
    num_heads: u32,
    // Query heads of a KV head.
    group: u32,
    num_kv_heads: u32,
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
const LOWEST = -3.4028234e38;
const OCTETS = D / 8u;
// Positions whose values are read at once, an octet a lane.
const TEAMS = CHUNK / OCTETS;
// Of these, how many a lane asks for before it uses the first.
const AHEAD = 4u;

var<workgroup> query: array<vec4<f32>, D / 4u>;
var<workgroup> scores: array<f32, CHUNK>;
// Of each position of the chunk: its block, and the row of its value there.
var<workgroup> blocks: array<u32, CHUNK>;
var<workgroup> value_rows: array<u32, CHUNK>;
// Maxima, or sums, of 16 positions each.
var<workgroup> joined: array<f32, 16>;
var<workgroup> ends: array<vec4<f32>, 2u * TEAMS * OCTETS>;

fn score(block: u32, row: u32) -> f32 {
    var sum = vec4(0.0);
    for (var i = 0u; i < OCTETS; i++) {
        let k = octet_values(load_octet(block, row, i));
        sum = fma(query[2u * i + 1u], k.b, fma(query[2u * i], k.a, sum));
    }
    return ((sum.x + sum.y) + (sum.z + sum.w)) * (p.scale * row_scale(block, row));
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
    let at = (row * p.num_heads + id.x) * D;
    if (lane < D / 4u) {
        let q = at + 4u * lane;
        query[lane] = vec4(query_at(q), query_at(q + 1u), query_at(q + 2u), query_at(q + 3u));
    }
    let octet = lane % OCTETS;
    let team = lane / OCTETS;
    var highest = LOWEST;
    var total = 0.0;
    var low = vec4(0.0);
    var high = vec4(0.0);
    for (var chunk = first / CHUNK * CHUNK; chunk <= last; chunk += CHUNK) {
        // Behind it `query` is complete and nobody reads the last chunk's scores any more.
        workgroupBarrier();
        let j = chunk + lane;
        let seen = j >= first && j <= last;
        var s = LOWEST;
        if (seen) {
            let block = inputs[table + j / p.block_len];
            let offset = j % p.block_len;
            blocks[lane] = block;
            value_rows[lane] = (p.num_kv_heads + head) * p.block_len + offset;
            s = score(block, head * p.block_len + offset);
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
        low *= kept;
        high *= kept;
        if (team < TEAMS) {
            let begin = max(first, chunk) - chunk;
            let end = min(last - chunk + 1u, CHUNK);
            // The first position of the team that is seen.
            let start = begin + (team + TEAMS - begin % TEAMS) % TEAMS;
            for (var i = start; i < end; i += AHEAD * TEAMS) {
                var held: array<Octet, AHEAD>;
                var weights: array<f32, AHEAD>;
                for (var a = 0u; a < AHEAD; a++) {
                    let at = i + a * TEAMS;
                    weights[a] = 0.0;
                    if (at < end) {
                        held[a] = load_octet(blocks[at], value_rows[at], octet);
                        weights[a] = scores[at] * row_scale(blocks[at], value_rows[at]);
                    }
                }
                for (var a = 0u; a < AHEAD; a++) {
                    if (i + a * TEAMS < end) {
                        let v = octet_values(held[a]);
                        low = fma(vec4(weights[a]), v.a, low);
                        high = fma(vec4(weights[a]), v.b, high);
                    }
                }
            }
        }
        workgroupBarrier();
        var sum = 0.0;
        for (var i = 0u; i < 16u; i++) {
            sum += joined[i];
        }
        total = fma(total, kept, sum);
    }
    if (team < TEAMS) {
        ends[2u * lane] = low;
        ends[2u * lane + 1u] = high;
    }
    workgroupBarrier();
    if (lane < D / 4u) {
        var o = ends[lane];
        for (var i = 1u; i < TEAMS; i++) {
            o += ends[i * 2u * OCTETS + lane];
        }
        o /= vec4(total);
        for (var c = 0u; c < 4u; c++) {
            out[at + 4u * lane + c] = stored(o[c]);
        }
    }
}
