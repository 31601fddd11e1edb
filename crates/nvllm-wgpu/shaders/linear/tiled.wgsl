// linear, linear_add and linear_silu_mul, as layer.wgsl defines them, for many rows.
//
// A workgroup of 256 makes 32 rows by 32 / PARTS columns of y; of W its tile has 32 rows, those of
// Wg before those of Wu. The order of a sum is that of general.wgsl over whole chunks, with the
// same bits. There invocation a + 8 b of 64 has the chunks a + 8 b, a + 8 b + 64, .. and the sums
// come together over b, then over a, ascending. Here a is a team of 32 invocations: it goes through
// the chunks of one b after the other, with one sum for the b at hand and one for all before it,
// and at the end the eight teams' sums are added. So each value of x and of W is asked for and
// unpacked once a tile, and read from the workgroup's memory by what makes its rows or columns.
//
// An invocation has 8 rows of x, its place `tr` of 4 in the team and every fourth from there, and 4
// rows of W, `tc` of 8 and every eighth. Of a chunk STRIP fours are worked on at once. A
// row of a tile has 8 STRIP fours, turned by its number, so that no two rows that are read together
// share a bank. Bound by its barriers: it reaches a quarter of what multiply-adds alone do.
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;

const TILE = 32u;
const COLS = TILE / PARTS;
// Fours of a chunk that are worked on at once: 8 elements, or the 4 that a chunk of f32 has.
const STRIP = min(PER, 8u) / 4u;
const STRIPS = PER / (4u * STRIP);
const PITCH = 8u * STRIP;

// A strip of x, then one of W; at the end sums.
var<workgroup> tile: array<vec4<f32>, 1024>;
const W_TILE = 512u;

fn place(row: u32, four: u32) -> u32 {
    return row * PITCH + (four ^ (row & 7u));
}

// `sum` and four products, ascending.
fn add_four(a: vec4<f32>, v: vec4<f32>, sum: f32) -> f32 {
    return fma(a.w, v.w, fma(a.z, v.z, fma(a.y, v.y, fma(a.x, v.x, sum))));
}

// Four products each for the four rows of W of an invocation.
struct Four {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

fn add_row(x: vec4<f32>, w: Four, sum: vec4<f32>) -> vec4<f32> {
    return vec4(
        add_four(x, w.a, sum.x), add_four(x, w.b, sum.y), add_four(x, w.c, sum.z), add_four(x, w.d, sum.w));
}

// The sums of rows tr, tr + 4, ..
struct Sums {
    r0: vec4<f32>,
    r1: vec4<f32>,
    r2: vec4<f32>,
    r3: vec4<f32>,
    r4: vec4<f32>,
    r5: vec4<f32>,
    r6: vec4<f32>,
    r7: vec4<f32>,
}

fn no_sums() -> Sums {
    let z = vec4(0.0);
    return Sums(z, z, z, z, z, z, z, z);
}

fn both(s: Sums, t: Sums) -> Sums {
    return Sums(
        s.r0 + t.r0, s.r1 + t.r1, s.r2 + t.r2, s.r3 + t.r3, s.r4 + t.r4, s.r5 + t.r5, s.r6 + t.r6, s.r7 + t.r7);
}

// Adds four columns of k: number `four` of the strip.
fn add_fours(s: Sums, tr: u32, tc: u32, four: u32) -> Sums {
    let at = W_TILE + tc * PITCH + (four ^ tc);
    let w = Four(tile[at], tile[at + 8u * PITCH], tile[at + 16u * PITCH], tile[at + 24u * PITCH]);
    let even = tr * PITCH + (four ^ tr);
    let odd = (tr + 4u) * PITCH + (four ^ (tr + 4u));
    return Sums(
        add_row(tile[even], w, s.r0),
        add_row(tile[odd], w, s.r1),
        add_row(tile[even + 8u * PITCH], w, s.r2),
        add_row(tile[odd + 8u * PITCH], w, s.r3),
        add_row(tile[even + 16u * PITCH], w, s.r4),
        add_row(tile[odd + 16u * PITCH], w, s.r5),
        add_row(tile[even + 24u * PITCH], w, s.r6),
        add_row(tile[odd + 24u * PITCH], w, s.r7));
}

// Fours of x of a strip, the invocation's own: number `at` of a row in chunks from `first` on.
fn x_four(row: u32, first: u32, strip: u32, at: u32) -> vec4<f32> {
    let chunk = first + at / STRIP;
    if (chunk < p.k / PER) {
        return x[row * (p.k / 4u) + chunk * (PER / 4u) + strip * STRIP + at % STRIP];
    }
    return vec4(0.0);
}

fn w_chunk(row: u32, chunk: u32) -> Chunk {
    if (chunk < p.k / PER) {
        return load_chunk(row, chunk);
    }
    var none: Chunk;
    return none;
}

// The sum of a place of the tile: of team 0, then of the others, ascending.
fn sum_of_teams(at: u32) -> vec4<f32> {
    var y = vec4(0.0);
    for (var team = 0u; team < 8u; team++) {
        y += tile[team * 128u + at];
    }
    return y;
}

fn store(row: u32, column: u32, num_rows: u32, sum: f32, up_sum: f32) {
    if (row < num_rows && column < p.num_cols) {
        let added = added_to(row, p.first + column);
        out[row * p.n + p.first + column] = stored(finished(sum, up_sum, added));
    }
}

// Stores four rows of each invocation of a team, `start` the first of them, which are `sums`.
fn store_rows(start: u32, row: u32, col: u32, num_rows: u32, sums: array<vec4<f32>, 4>, lane: u32) {
    workgroupBarrier();
    let at = lane / 32u * 128u + lane % 32u;
    tile[at] = sums[0];
    tile[at + 32u] = sums[1];
    tile[at + 64u] = sums[2];
    tile[at + 96u] = sums[3];
    workgroupBarrier();
    if (lane < 128u) {
        let y = sum_of_teams(lane);
        let r = row + start + lane / 8u;
        let c = col + lane % 8u;
        if (PARTS == 2u) {
            store(r, c, num_rows, y.x, y.z);
            store(r, c + 8u, num_rows, y.y, y.w);
        } else {
            store(r, c, num_rows, y.x, 0.0);
            store(r, c + 8u, num_rows, y.y, 0.0);
            store(r, c + 16u, num_rows, y.z, 0.0);
            store(r, c + 24u, num_rows, y.w, 0.0);
        }
    }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * TILE;
    let col = group.x * COLS;
    let num_rows = p.times * inputs[p.count];
    prepare_weights(lane);
    // What this invocation brings: fours `x_at` of rows, and a chunk of a row of W. Rows past the
    // last are the last again, and not stored.
    let x_row = lane / PITCH;
    let x_at = lane % PITCH;
    let x_from = min(row + x_row, num_rows - 1u);
    let x_then = min(row + x_row + 16u, num_rows - 1u);
    let w_row = lane / 8u;
    let w_from = w_row / COLS * p.n + min(col + w_row % COLS, p.num_cols - 1u);
    // What it adds.
    let team = lane / 32u;
    let tr = lane % 32u / 8u;
    let tc = lane % 8u;
    let num_chunks = p.k / PER;
    var all = no_sums();
    var now = no_sums();
    var eighth = 0u;
    var first = 0u;
    var strip = 0u;
    var chunk = w_chunk(w_from, lane % 8u);
    var x_a = x_four(x_from, 0u, 0u, x_at);
    var x_b = x_a;
    if (STRIP == 2u) {
        x_b = x_four(x_then, 0u, 0u, x_at);
    }
    loop {
        tile[place(x_row, x_at)] = x_a;
        if (STRIP == 2u) {
            tile[place(x_row + 16u, x_at)] = x_b;
        }
        for (var i = 0u; i < STRIP; i++) {
            tile[W_TILE + place(w_row, lane % 8u * STRIP + i)] = chunk_values(chunk, strip * STRIP + i);
        }
        workgroupBarrier();
        // What comes next is asked for before this is worked on.
        strip++;
        if (strip == STRIPS) {
            strip = 0u;
            first += 64u;
        }
        let ends = first >= num_chunks;
        if (ends) {
            eighth++;
            first = 8u * eighth;
        }
        let more = eighth < 8u && first < num_chunks;
        if (more) {
            if (strip == 0u) {
                chunk = w_chunk(w_from, first + lane % 8u);
            }
            x_a = x_four(x_from, first, strip, x_at);
            if (STRIP == 2u) {
                x_b = x_four(x_then, first, strip, x_at);
            }
        }
        for (var i = 0u; i < STRIP; i++) {
            now = add_fours(now, tr, tc, team * STRIP + i);
        }
        if (ends) {
            all = both(all, now);
            now = no_sums();
        }
        if (!more) {
            break;
        }
        workgroupBarrier();
    }
    store_rows(0u, row, col, num_rows, array(all.r0, all.r1, all.r2, all.r3), lane);
    store_rows(16u, row, col, num_rows, array(all.r4, all.r5, all.r6, all.r7), lane);
}
