// Attention of one query over one chunk of 256 positions of its sequence, by 256 invocations.
//
// Order: a score is four sums of every fourth column, ascending, then added. Of the values of a
// chunk an invocation adds eight columns of every TEAMS-th position, ascending; then the teams are
// added. Chunks begin at multiples of 256 and come together ascending, as part.wgsl says. So it is a
// function of D and of the absolute position only.
//
// The cache is read as common/cache.wgsl says, in which D is the width of a head. `read_octet` and
// `read_scale` read it, or what is not there yet.
const OCTETS = D / 8u;
// Positions whose values are read at once, an octet an invocation.
const TEAMS = CHUNK / OCTETS;
// Of these, how many an invocation asks for before it uses the first.
const AHEAD = 4u;

var<workgroup> query: array<vec4<f32>, D / 4u>;
var<workgroup> scores: array<f32, CHUNK>;
// Of each position of the chunk: its block, and the row of its value there.
var<workgroup> blocks: array<u32, CHUNK>;
var<workgroup> value_rows: array<u32, CHUNK>;
// Maxima, or sums, of 16 positions each.
var<workgroup> joined: array<f32, 16>;
var<workgroup> ends: array<vec4<f32>, 2u * TEAMS * OCTETS>;

fn score(is_new: bool, block: u32, row: u32) -> f32 {
    var sum = vec4(0.0);
    for (var i = 0u; i < OCTETS; i++) {
        let k = octet_values(read_octet(is_new, 0u, block, row, i));
        sum = fma(query[2u * i + 1u], k.b, fma(query[2u * i], k.a, sum));
    }
    return ((sum.x + sum.y) + (sum.z + sum.w)) * (p.scale * read_scale(is_new, 0u, block, row));
}

// Of positions `first` to `last` those of the chunk that begins at `chunk`. `table`: where the
// sequence's blocks begin in the inputs; `head`: of the keys.
fn attend(chunk: u32, first: u32, last: u32, table: u32, head: u32, lane: u32) -> Part {
    // Behind it `query` is complete and nobody reads the last chunk's numbers any more.
    workgroupBarrier();
    let j = chunk + lane;
    let seen = j >= first && j <= last;
    var s = LOWEST;
    if (seen) {
        let block = inputs[table + j / p.block_len];
        let offset = j % p.block_len;
        blocks[lane] = block;
        value_rows[lane] = (p.num_kv_heads + head) * p.block_len + offset;
        s = score(j == last, block, head * p.block_len + offset);
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
    var highest = LOWEST;
    for (var i = 0u; i < 16u; i++) {
        highest = max(highest, joined[i]);
    }
    // Nobody reads the maxima any more.
    workgroupBarrier();
    scores[lane] = select(0.0, exp(s - highest), seen);
    workgroupBarrier();
    if (lane < 16u) {
        var sum = scores[lane];
        for (var i = 1u; i < 16u; i++) {
            sum += scores[lane + 16u * i];
        }
        joined[lane] = sum;
    }
    let octet = lane % OCTETS;
    let team = lane / OCTETS;
    if (team < TEAMS) {
        var low = vec4(0.0);
        var high = vec4(0.0);
        let begin = max(first, chunk) - chunk;
        let end = min(last - chunk + 1u, CHUNK);
        // The first position of the team that is seen.
        let start = begin + (team + TEAMS - begin % TEAMS) % TEAMS;
        for (var i = start; i < end; i += AHEAD * TEAMS) {
            var held: array<Octet, AHEAD>;
            var weights: array<f32, AHEAD>;
            for (var a = 0u; a < AHEAD; a++) {
                let at = i + a * TEAMS;
                if (at < end) {
                    let is_new = chunk + at == last;
                    held[a] = read_octet(is_new, 1u, blocks[at], value_rows[at], octet);
                    weights[a] = scores[at] * read_scale(is_new, 1u, blocks[at], value_rows[at]);
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
        ends[2u * lane] = low;
        ends[2u * lane + 1u] = high;
    }
    workgroupBarrier();
    var part = Part(highest, 0.0, vec4(0.0));
    for (var i = 0u; i < 16u; i++) {
        part.total += joined[i];
    }
    if (lane < D / 4u) {
        part.o = ends[lane];
        for (var i = 1u; i < TEAMS; i++) {
            part.o += ends[i * 2u * OCTETS + lane];
        }
    }
    return part;
}
