// The better of candidates, over a workgroup of 256 and over the splits of a row.

// Most splits of a row.
const SPLITS = 32u;
// Words of a row in the scratch memory, as in src/sampler.rs.
const ROW_WORDS = 2u * SPLITS * 4u + 4u;

// Whether there is a best; whether a logit among those looked at was NaN or plus infinity as the
// model made it; and whether one was above minus infinity.
const HAS_BEST = 1u;
const UNUSABLE = 2u;
const POSSIBLE = 4u;

struct Best {
    score: f32,
    token: u32,
    flags: u32,
}

// The larger score, of equals the lower token. One that holds nothing loses. Other flags are
// joined.
fn better(a: Best, b: Best) -> Best {
    let flags = a.flags | b.flags;
    let take_b = (b.flags & HAS_BEST) != 0u
        && ((a.flags & HAS_BEST) == 0u || b.score > a.score || (b.score == a.score && b.token < a.token));
    if (take_b) {
        return Best(b.score, b.token, flags);
    }
    return Best(a.score, a.token, flags);
}

var<workgroup> bests: array<Best, 256>;

// The best of a workgroup of 256, in its invocation 0.
fn workgroup_best(best: Best, lane: u32) -> Best {
    bests[lane] = best;
    workgroupBarrier();
    // A barrier costs more than a few comparisons: 256 to 32, to 4, to 1.
    for (var left = 32u; left > 0u; left /= 8u) {
        if (lane < left) {
            for (var i = 1u; i < 8u; i++) {
                bests[lane] = better(bests[lane], bests[lane + i * left]);
            }
        }
        workgroupBarrier();
    }
    var joined = bests[0];
    for (var i = 1u; i < 4u; i++) {
        joined = better(joined, bests[i]);
    }
    return joined;
}

// Tokens of one split: a multiple of 4, so that four uniforms of one counter stay together.
fn split_len() -> u32 {
    return ((p.vocab + p.splits - 1u) / p.splits + 3u) / 4u * 4u;
}

fn store_split(at: u32, draws: u32, split: u32, best: Best) {
    let word = at * ROW_WORDS + (draws * SPLITS + split) * 4u;
    scratch[word] = bitcast<u32>(best.score);
    scratch[word + 1u] = best.token;
    scratch[word + 2u] = best.flags;
}

// The best of a row's splits: of the scan (0), or of the draw (1).
fn row_best(at: u32, draws: u32) -> Best {
    var best = Best(LOWEST, 0u, 0u);
    for (var split = 0u; split < p.splits; split++) {
        let word = at * ROW_WORDS + (draws * SPLITS + split) * 4u;
        best = better(best, Best(bitcast<f32>(scratch[word]), scratch[word + 1u], scratch[word + 2u]));
    }
    return best;
}
