// Attention of one query over one chunk of 256 positions of its sequence, by 256 invocations.
//
// Order: a score is four sums of every fourth column, ascending, then added. Of the values of a
// chunk an invocation adds eight columns of every TEAMS-th position, ascending; then the teams are
// added. Chunks begin at multiples of 256 and come together ascending, as part.wgsl says. So it is
// a function of D and of the absolute position only.
//
// The cache is read as common/cache.wgsl says, in which D is the width of a head. `read_octet` and
// `read_scale` read it, or what is not there yet.
const OCTETS = D / 8u;
// Positions whose values are read at once, an octet an invocation.
const TEAMS = CHUNK / OCTETS;

var<workgroup> query: array<vec4<f32>, D / 4u>;
var<workgroup> scores: array<f32, CHUNK>;
// Of each position of the chunk: its block, and the row of its value there.
var<workgroup> blocks: array<u32, CHUNK>;
var<workgroup> value_rows: array<u32, CHUNK>;
// Maxima, or sums, of 16 positions each.
var<workgroup> joined: array<f32, 16>;
var<workgroup> ends: array<vec4<f32>, 2u * TEAMS * OCTETS>;

fn add_octet(i: u32, octet: Octet, sum: vec4<f32>) -> vec4<f32> {
    let k = octet_values(octet);
    return fma(query[2u * i + 1u], k.b, fma(query[2u * i], k.a, sum));
}

// Eight octets are asked for at once: what a compiler leaves in a loop waits for each.
fn score(is_new: bool, block: u32, row: u32) -> f32 {
    let scale = read_scale(is_new, 0u, block, row);
    var sum = vec4(0.0);
    var i = 0u;
    for (; i + 8u <= OCTETS; i += 8u) {
        let a = read_octet(is_new, 0u, block, row, i);
        let b = read_octet(is_new, 0u, block, row, i + 1u);
        let c = read_octet(is_new, 0u, block, row, i + 2u);
        let d = read_octet(is_new, 0u, block, row, i + 3u);
        let e = read_octet(is_new, 0u, block, row, i + 4u);
        let f = read_octet(is_new, 0u, block, row, i + 5u);
        let g = read_octet(is_new, 0u, block, row, i + 6u);
        let h = read_octet(is_new, 0u, block, row, i + 7u);
        sum = add_octet(i + 3u, d, add_octet(i + 2u, c, add_octet(i + 1u, b, add_octet(i, a, sum))));
        sum = add_octet(i + 7u, h, add_octet(i + 6u, g, add_octet(i + 5u, f, add_octet(i + 4u, e, sum))));
    }
    for (; i < OCTETS; i++) {
        sum = add_octet(i, read_octet(is_new, 0u, block, row, i), sum);
    }
    return ((sum.x + sum.y) + (sum.z + sum.w)) * (p.scale * scale);
}

// An octet of the value of position `at` of a chunk and its weight; nothing from `end` on.
struct Weighted {
    octet: Octet,
    weight: f32,
}

fn weighted(at: u32, end: u32, newest: u32, octet: u32) -> Weighted {
    if (at < end) {
        let block = blocks[at];
        let row = value_rows[at];
        let scale = read_scale(at == newest, 1u, block, row);
        return Weighted(read_octet(at == newest, 1u, block, row, octet), scores[at] * scale);
    }
    return Weighted(Octet(vec4(0u), vec4(0u)), 0.0);
}

fn add_weighted(sum: Eight, v: Weighted) -> Eight {
    let x = octet_values(v.octet);
    return Eight(fma(vec4(v.weight), x.a, sum.a), fma(vec4(v.weight), x.b, sum.b));
}

// The block of an invocation's position of a chunk: asked for before anything waits. `table`: where
// the sequence's blocks begin in the inputs.
fn block_of(chunk: u32, last: u32, table: u32, lane: u32) -> u32 {
    return inputs[table + min(chunk + lane, last) / p.block_len];
}

// Of positions `first` to `last` those of the chunk that begins at `chunk`, an invocation's own in
// `block`. `head`: of the keys.
fn attend(chunk: u32, first: u32, last: u32, block: u32, head: u32, lane: u32) -> Part {
    // Behind it `query` is complete and nobody reads the last chunk's numbers any more.
    workgroupBarrier();
    let j = chunk + lane;
    let seen = j >= first && j <= last;
    var s = LOWEST;
    if (seen) {
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
        var sum = Eight(vec4(0.0), vec4(0.0));
        let begin = max(first, chunk) - chunk;
        let end = min(last - chunk + 1u, CHUNK);
        // The position that is not in the cache yet, where that is of this chunk.
        let newest = last - chunk;
        // From the first position of the team that is seen on.
        let start = begin + (team + TEAMS - begin % TEAMS) % TEAMS;
        for (var at = start; at < end; at += 8u * TEAMS) {
            let a = weighted(at, end, newest, octet);
            let b = weighted(at + TEAMS, end, newest, octet);
            let c = weighted(at + 2u * TEAMS, end, newest, octet);
            let d = weighted(at + 3u * TEAMS, end, newest, octet);
            let e = weighted(at + 4u * TEAMS, end, newest, octet);
            let f = weighted(at + 5u * TEAMS, end, newest, octet);
            let g = weighted(at + 6u * TEAMS, end, newest, octet);
            let h = weighted(at + 7u * TEAMS, end, newest, octet);
            sum = add_weighted(add_weighted(add_weighted(add_weighted(sum, a), b), c), d);
            sum = add_weighted(add_weighted(add_weighted(add_weighted(sum, e), f), g), h);
        }
        ends[2u * lane] = sum.a;
        ends[2u * lane + 1u] = sum.b;
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
