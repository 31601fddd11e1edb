//! Dot products of activation rows with weight rows: one summation order, two shapes of loop.
//!
//! **The order.** Element k of a dot product belongs to chain `k mod C`, C = `STEP * PHASES`. A
//! chain is a sequence of fused multiply-adds over ascending k, starting at +0, with zeros up to
//! the next multiple of C. At the end chain i takes chain i + C/2, and so on until one is left.
//! With [`FmaDot`] C is 16 for every instruction set, whatever its register width, so f32 results
//! are the same bits on all of them. (The widest register has 16 lanes; more chains would be more
//! phases, and [`block`] enters and leaves a tile once a phase.)
//!
//! **[`direct`]** reads weight rows where they lie, against one group of up to MD activation rows;
//! a row's C chains live in PHASES registers. It reads several rows side by side, two to four
//! streams, each as far from the next as the rows allow: enough chains to hide the latency of the
//! multiply-add, and enough cache misses in flight, where widening bf16 takes so many instructions
//! that one stream keeps too few. (Rows that are neighbours do not help: the processor's prefetcher
//! takes them for one stream.)
//!
//! **[`block`]** is for many rows: weights are converted once into panels of four rows, and a
//! register tile of MR x 4 outputs runs over all of K for one phase, then for the next. A chain
//! sees the same operations in the same order either way. Both read the activations in one packed
//! form, and panels have the same: `[phase][segment][group][step][row][STEP]`, a segment being so
//! many steps that a group's stays in the first-level cache while panels pass it (see
//! [`Blocking`]), and lies in one piece (rows a power of two apart would share cache sets).

use super::out::{Out, PANEL};
use super::with_elem;
use crate::elem::Elem;
use crate::simd::{Simd, Stored};
use std::marker::PhantomData;

/// Most activation rows in a group, over all instruction sets and both loops.
pub const MAX_ROWS: usize = 8;
/// Activation rows that pass all panels of a call together, one segment at a time.
const BLOCK_ROWS: usize = 12;
/// How far ahead weights are asked for, in bytes. Where widening takes several instructions a line,
/// those that wait for memory fill the processor's queues before enough lines are on their way.
pub(crate) const AHEAD: usize = 2048;

/// How [`block`] uses the caches.
#[derive(Clone, Copy)]
pub(crate) struct Blocking {
    /// Steps of K in a segment.
    pub(crate) segment: usize,
    /// Panels whose partial results are kept while activation rows pass a segment: their segments
    /// stay in the first-level cache too if they are few, and come from the second if they are
    /// many.
    pub(crate) panels: usize,
    /// Bytes of panels that a thread packs at a time: a part of the second-level cache.
    pub(crate) bytes: usize,
}

impl Blocking {
    /// Segments of 1 KiB a row, 28 rows of them in the first-level cache.
    pub(crate) const fn small(step_bytes: usize) -> Self {
        Self { segment: 1024 / step_bytes, panels: 4, bytes: 192 * 1024 }
    }

    /// Segments of 4 KiB a row: a tile of twice the registers is entered a quarter as often.
    /// Processors with AVX-512 have second-level caches of 1 MiB and more.
    pub(crate) const WIDE: Self = Self { segment: 64, panels: 32, bytes: 768 * 1024 };
}

/// How one vector of products is added to a vector of chains.
pub(crate) trait Dot {
    /// The accumulators.
    type S: Simd;
    /// A packed element.
    type X: Copy;
    /// `STEP` packed elements in a register.
    type XV: Copy;
    /// Elements of K consumed by one [`Dot::mac`].
    const STEP: usize;
    /// How [`block`] uses the caches.
    const BLOCKING: Blocking = Blocking::small(Self::STEP * size_of::<Self::X>());

    unsafe fn load(p: *const Self::X) -> Self::XV;
    unsafe fn store(p: *mut Self::X, v: Self::XV);
    /// `STEP` weights as they lie in the checkpoint.
    unsafe fn load_w<E: Stored>(p: *const u8) -> Self::XV;
    /// Packs `STEP` activations.
    unsafe fn convert_x<E: Stored>(src: *const u8, dst: *mut Self::X);
    unsafe fn mac(acc: <Self::S as Simd>::V, x: Self::XV, w: Self::XV) -> <Self::S as Simd>::V;
}

/// f32 multiply-adds.
#[derive(Clone, Copy)]
pub(crate) struct FmaDot<S>(PhantomData<S>);

impl<S: Simd> Dot for FmaDot<S> {
    type S = S;
    type X = f32;
    type XV = S::V;
    const STEP: usize = S::LANES;
    const BLOCKING: Blocking = if S::LANES == 16 { Blocking::WIDE } else { Blocking::small(4 * S::LANES) };

    #[inline(always)]
    unsafe fn load(p: *const f32) -> S::V {
        S::load(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: S::V) {
        S::store(p, v);
    }
    #[inline(always)]
    unsafe fn load_w<E: Stored>(p: *const u8) -> S::V {
        E::load::<S>(p)
    }
    #[inline(always)]
    unsafe fn convert_x<E: Stored>(src: *const u8, dst: *mut f32) {
        S::store(dst, E::load::<S>(src));
    }
    #[inline(always)]
    unsafe fn mac(acc: S::V, x: S::V, w: S::V) -> S::V {
        S::fma(x, w, acc)
    }
}

/// Packs one group of activation rows, the rows from `first` on of `m`.
pub struct PackX {
    pub rows: [*const u8; MAX_ROWS],
    pub num_rows: usize,
    pub first: usize,
    pub m: usize,
    pub elem: Elem,
    pub k: usize,
    /// Where the `m` packed rows begin.
    pub dst: *mut u8,
}

/// Packs `n` consecutive weight rows of `k` elements into panels; rows missing from the last panel
/// are zero.
pub struct PackW {
    pub w: *const u8,
    pub elem: Elem,
    pub k: usize,
    pub n: usize,
    pub dst: *mut u8,
}

/// Folds the lanes of R x N vectors of chains and writes the sums: rows from `row` on, columns
/// `cols`.
#[inline(always)]
unsafe fn write_folded<S: Simd, const R: usize, const N: usize>(
    out: &Out,
    c: [[S::V; N]; R],
    row: usize,
    cols: &[usize],
) {
    write_four::<S, R, N, 0>(out, c, row, cols);
    if R > 4 {
        write_four::<S, R, N, 4>(out, c, row, cols);
    }
}

/// Up to four rows of it, from FIRST on. (Without a loop over them, in which the chains would be
/// indexed by a variable and written to the stack in every step of the loop before.)
#[inline(always)]
unsafe fn write_four<S: Simd, const R: usize, const N: usize, const FIRST: usize>(
    out: &Out,
    c: [[S::V; N]; R],
    row: usize,
    cols: &[usize],
) {
    let mut tile = [[S::splat(0.0); PANEL]; 4];
    for r in 0..4 {
        for j in 0..N {
            if FIRST + r < R {
                tile[r][j] = c[FIRST + r][j];
            }
        }
    }
    out.write::<S>(S::fold16(tile), row + FIRST, 4.min(R - FIRST), cols);
}

/// The group of `num_rows` activation rows from `row` on, of `m` packed ones, against `n` weight
/// rows in place.
pub struct Direct {
    pub x: *const u8,
    pub m: usize,
    pub num_rows: usize,
    pub row: usize,
    pub w: *const u8,
    pub elem: Elem,
    pub k: usize,
    pub n: usize,
    pub col: usize,
    pub out: Out,
}

/// `m` packed activation rows against `n` packed weight rows.
pub struct Block {
    pub x: *const u8,
    pub m: usize,
    pub w: *const u8,
    pub k: usize,
    pub n: usize,
    /// Scratch of `DotKernels::acc_len` elements.
    pub acc: *mut f32,
    pub col: usize,
    pub out: Out,
}

/// Elements of scratch that [`block`] needs.
pub(crate) const fn acc_len<D: Dot>(phases: usize) -> usize {
    BLOCK_ROWS * D::BLOCKING.panels * slots(phases) * PANEL * <D::S as Simd>::LANES
}

/// Partial results of one tile: a phase in progress, and one per level of the fold but the last.
const fn slots(phases: usize) -> usize {
    1 + phases.ilog2() as usize
}

/// Where group rows `first ..` of `rows` packed ones begin, for one phase and the segment that
/// holds `step`, and the first step of that segment. From there a group's rows of one step follow
/// each other.
#[inline(always)]
fn segment_at<D: Dot>(steps: usize, rows: usize, phase: usize, step: usize, first: usize) -> (usize, usize) {
    let start = step / D::BLOCKING.segment * D::BLOCKING.segment;
    let len = D::BLOCKING.segment.min(steps - start);
    (((phase * steps + start) * rows + first * len) * D::STEP, start)
}

#[inline(always)]
pub(crate) unsafe fn pack_x<D: Dot, const P: usize>(a: &PackX) {
    with_elem!(a.elem, E => {
        let steps = a.k.div_ceil(D::STEP * P);
        let dst = a.dst.cast::<D::X>();
        for r in 0..a.num_rows {
            let src = a.rows[r];
            for i in 0..steps * P {
                let (segment, start) = segment_at::<D>(steps, a.m, i % P, i / P, a.first);
                let at = dst.add(segment + ((i / P - start) * a.num_rows + r) * D::STEP);
                let k = i * D::STEP;
                if k + D::STEP <= a.k {
                    D::convert_x::<E>(src.add(k * E::BYTES), at);
                } else {
                    let mut buf = [0u8; 128];
                    let left = a.k.saturating_sub(k);
                    std::ptr::copy_nonoverlapping(src.wrapping_add(k * E::BYTES), buf.as_mut_ptr(), left * E::BYTES);
                    D::convert_x::<E>(buf.as_ptr(), at);
                }
            }
        }
    });
}

#[inline(always)]
pub(crate) unsafe fn pack_w<D: Dot, const P: usize>(a: &PackW) {
    with_elem!(a.elem, E => {
        let unit = D::STEP * P;
        let steps = a.k.div_ceil(unit);
        let full = a.k / unit;
        let dst = a.dst.cast::<D::X>();
        let rows = a.n.next_multiple_of(PANEL);
        for row in 0..rows {
            let src = a.w.wrapping_add(row * a.k * E::BYTES);
            let present = row < a.n;
            let whole = if present { full } else { 0 };
            for step in 0..steps {
                let (segment, start) = segment_at::<D>(steps, rows, 0, step, row / PANEL * PANEL);
                let to = dst.add(segment + ((step - start) * PANEL + row % PANEL) * D::STEP);
                let phase_len = steps * rows * D::STEP;
                if step < whole {
                    ask_ahead::<D::S>(src.add(step * unit * E::BYTES), unit * E::BYTES);
                    for p in 0..P {
                        D::store(to.add(p * phase_len), D::load_w::<E>(src.add((step * P + p) * D::STEP * E::BYTES)));
                    }
                } else {
                    let left = if present { a.k - step * unit } else { 0 };
                    let tail = Tail::new::<E>(src, step * unit, left);
                    for p in 0..P {
                        D::store(to.add(p * phase_len), D::load_w::<E>(tail.at::<E>(p * D::STEP)));
                    }
                }
            }
        }
    });
}

/// The last, incomplete unit of a weight row, with zeros after it.
struct Tail([u8; 128]);

impl Tail {
    #[inline(always)]
    unsafe fn new<E: Stored>(row: *const u8, k: usize, left: usize) -> Self {
        let mut buf = [0u8; 128];
        std::ptr::copy_nonoverlapping(row.wrapping_add(k * E::BYTES), buf.as_mut_ptr(), left * E::BYTES);
        Self(buf)
    }
    #[inline(always)]
    unsafe fn at<E: Stored>(&self, k: usize) -> *const u8 {
        self.0.as_ptr().add(k * E::BYTES)
    }
}

/// Adds the upper half of the phases to the lower until one is left.
#[inline(always)]
pub(crate) unsafe fn fold_phases<S: Simd, const P: usize>(mut acc: [S::V; P]) -> S::V {
    let mut half = P / 2;
    while half > 0 {
        for i in 0..half {
            acc[i] = S::add(acc[i], acc[i + half]);
        }
        half /= 2;
    }
    acc[0]
}

/// Asks for `bytes` bytes of the weights that follow those at `w`. (Rows of a stream follow each
/// other.)
#[inline(always)]
unsafe fn ask_ahead<S: Simd>(w: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        S::prefetch(w.wrapping_add(AHEAD + line));
    }
}

/// Adds one unit of K to the chains of R activation rows with each of S weight rows: `x` at its
/// step, a phase `phase_len` elements after the one before. An activation is loaded once for all
/// weight rows: a load for each product would take longer than the product.
#[inline(always)]
unsafe fn add_unit<D: Dot, E: Stored, const P: usize, const R: usize, const S: usize>(
    acc: &mut [[[<D::S as Simd>::V; P]; R]; S],
    x: *const D::X,
    phase_len: usize,
    w: [*const u8; S],
) {
    for p in 0..P {
        let mut wv = [D::load_w::<E>(w[0].add(p * D::STEP * E::BYTES)); S];
        for s in 1..S {
            wv[s] = D::load_w::<E>(w[s].add(p * D::STEP * E::BYTES));
        }
        for r in 0..R {
            let xv = D::load(x.add(p * phase_len + r * D::STEP));
            for s in 0..S {
                acc[s][r][p] = D::mac(acc[s][r][p], xv, wv[s]);
            }
        }
    }
}

/// Weight rows `cols[0] ..`, `cols[1] ..` and so on, `n` each, side by side: S streams of memory.
#[inline(always)]
unsafe fn direct_rows<D: Dot, E: Stored, const P: usize, const R: usize, const S: usize>(
    a: &Direct,
    cols: [usize; S],
    n: usize,
) {
    let unit = D::STEP * P;
    let steps = a.k.div_ceil(unit);
    let full = a.k / unit;
    let phase_len = steps * a.m * D::STEP;
    for j in 0..n {
        let w = cols.map(|col| a.w.wrapping_add((col + j) * a.k * E::BYTES));
        let mut acc = [[[D::S::splat(0.0); P]; R]; S];
        let mut step = 0;
        while step < full {
            let (at, start) = segment_at::<D>(steps, a.m, 0, step, a.row);
            let mut x = a.x.cast::<D::X>().add(at);
            while step < full.min(start + D::BLOCKING.segment) {
                let mut at = w;
                for s in 0..S {
                    at[s] = w[s].wrapping_add(step * unit * E::BYTES);
                    ask_ahead::<D::S>(at[s], unit * E::BYTES);
                }
                add_unit::<D, E, P, R, S>(&mut acc, x, phase_len, at);
                x = x.add(R * D::STEP);
                step += 1;
            }
        }
        if full < steps {
            let (at, start) = segment_at::<D>(steps, a.m, 0, full, a.row);
            let x = a.x.cast::<D::X>().add(at + (full - start) * R * D::STEP);
            let tails = w.map(|w| Tail::new::<E>(w, full * unit, a.k - full * unit));
            let mut at = [std::ptr::null(); S];
            for s in 0..S {
                at[s] = tails[s].at::<E>(0);
            }
            add_unit::<D, E, P, R, S>(&mut acc, x, phase_len, at);
        }
        let mut sums = [[D::S::splat(0.0); S]; R];
        for s in 0..S {
            for r in 0..R {
                sums[r][s] = fold_phases::<D::S, P>(acc[s][r]);
            }
        }
        write_folded::<D::S, R, S>(&a.out, sums, a.row, &cols.map(|col| a.col + col + j));
    }
}

/// R activation rows: the weight rows in S streams, as far apart as they go. Streams are of one
/// length: where the rows are no multiple of S, the last ones begin up to S - 1 rows early and
/// compute those again, out of the cache.
#[inline(always)]
unsafe fn direct_streams<D: Dot, E: Stored, const P: usize, const R: usize, const S: usize>(a: &Direct) {
    if a.n < S {
        return direct_rows::<D, E, P, R, 1>(a, [0], a.n);
    }
    let n = a.n.div_ceil(S);
    direct_rows::<D, E, P, R, S>(a, std::array::from_fn(|s| (s * n).min(a.n - n)), n);
}

#[inline(always)]
pub(crate) unsafe fn direct<D: Dot, const P: usize, const MD: usize>(a: &Direct) {
    with_elem!(a.elem, E => match a.num_rows {
        1 => direct_streams::<D, E, P, 1, 4>(a),
        2 => direct_streams::<D, E, P, 2, 3>(a),
        3 => direct_streams::<D, E, P, 3, 2>(a),
        4 if MD > 3 => direct_streams::<D, E, P, 4, 2>(a),
        5 if MD > 3 => direct_streams::<D, E, P, 5, 2>(a),
        6 if MD > 3 => direct_streams::<D, E, P, 6, 2>(a),
        7 if MD > 6 => direct_streams::<D, E, P, 7, 2>(a),
        8 if MD > 6 => direct_streams::<D, E, P, 8, 2>(a),
        _ => unreachable!("a group has 1 to {MD} rows"),
    });
}

/// One register tile, one phase, one segment.
struct Tile<'a, X> {
    x: *const X,
    w: *const X,
    steps: usize,
    /// Partial results: chains of a phase between its segments, then one slot per level of the
    /// fold.
    acc: *mut f32,
    slot_len: usize,
    /// Which phase in the order of the fold, and whether this is its first and its last segment.
    turn: usize,
    first: bool,
    last: bool,
    row: usize,
    col: usize,
    cols: usize,
    out: &'a Out,
}

/// The phase whose turn it is: with bits reversed, phases that fold together follow each other.
#[inline(always)]
fn phase_of<const P: usize>(turn: usize) -> usize {
    if P == 1 { 0 } else { turn.reverse_bits() >> (usize::BITS - P.trailing_zeros()) }
}

/// Continues R x 4 vectors of chains. At a phase's end they are added to those of earlier phases as
/// a binary counter carries, which is the fold of [`fold_phases`]; the last phase's end is the
/// output.
#[inline(always)]
unsafe fn tile<D: Dot, const P: usize, const R: usize>(t: &Tile<'_, D::X>) {
    let lanes = <D::S as Simd>::LANES;
    let mut c = [[D::S::splat(0.0); PANEL]; R];
    if !t.first {
        for r in 0..R {
            for j in 0..PANEL {
                c[r][j] = D::S::load(t.acc.add((r * PANEL + j) * lanes));
            }
        }
    }
    let (mut x, mut w) = (t.x, t.w);
    for _ in 0..t.steps {
        let mut xv = [D::load(x); R];
        for r in 1..R {
            xv[r] = D::load(x.add(r * D::STEP));
        }
        for j in 0..PANEL {
            let wv = D::load(w.add(j * D::STEP));
            for r in 0..R {
                c[r][j] = D::mac(c[r][j], xv[r], wv);
            }
        }
        x = x.add(R * D::STEP);
        w = w.add(PANEL * D::STEP);
    }
    // A loop of constant length: with any other the chains would move to the stack.
    let carries = if t.last { t.turn.trailing_ones() as usize } else { 0 };
    for level in 1..slots(P) {
        if level <= carries {
            let slot = t.acc.add(level * t.slot_len);
            for r in 0..R {
                for j in 0..PANEL {
                    c[r][j] = D::S::add(D::S::load(slot.add((r * PANEL + j) * lanes)), c[r][j]);
                }
            }
        }
    }
    if t.last && t.turn + 1 == P {
        let cols = [t.col, t.col + 1, t.col + 2, t.col + 3];
        return write_folded::<D::S, R, PANEL>(t.out, c, t.row, &cols[..t.cols]);
    }
    let slot = t.acc.add(if t.last { carries + 1 } else { 0 } * t.slot_len);
    for r in 0..R {
        for j in 0..PANEL {
            D::S::store(slot.add((r * PANEL + j) * lanes), c[r][j]);
        }
    }
}

#[inline(always)]
unsafe fn tile_of<D: Dot, const P: usize, const MR: usize>(rows: usize, t: &Tile<'_, D::X>) {
    match rows {
        1 => tile::<D, P, 1>(t),
        2 => tile::<D, P, 2>(t),
        3 => tile::<D, P, 3>(t),
        4 if MR > 3 => tile::<D, P, 4>(t),
        5 if MR > 3 => tile::<D, P, 5>(t),
        6 if MR > 3 => tile::<D, P, 6>(t),
        _ => unreachable!("a group has 1 to {MR} rows"),
    }
}

#[inline(always)]
pub(crate) unsafe fn block<D: Dot, const P: usize, const MR: usize>(a: &Block) {
    let steps = a.k.div_ceil(D::STEP * P);
    let padded = a.n.next_multiple_of(PANEL);
    let slot_len = MR * PANEL * <D::S as Simd>::LANES;
    let tile_len = slot_len * slots(P);
    let segments = steps.div_ceil(D::BLOCKING.segment);
    for m0 in (0..a.m).step_by(BLOCK_ROWS) {
        let m1 = a.m.min(m0 + BLOCK_ROWS);
        for n0 in (0..a.n).step_by(D::BLOCKING.panels * PANEL) {
            let n1 = a.n.min(n0 + D::BLOCKING.panels * PANEL);
            for i in 0..P * segments {
                let (turn, start) = (i / segments, i % segments * D::BLOCKING.segment);
                let phase = phase_of::<P>(turn);
                let mut acc = a.acc;
                for m in (m0..m1).step_by(MR) {
                    let x = a.x.cast::<D::X>().add(segment_at::<D>(steps, a.m, phase, start, m).0);
                    for n in (n0..n1).step_by(PANEL) {
                        let t = Tile {
                            x,
                            w: a.w.cast::<D::X>().add(segment_at::<D>(steps, padded, phase, start, n).0),
                            steps: D::BLOCKING.segment.min(steps - start),
                            acc,
                            slot_len,
                            turn,
                            first: start == 0,
                            last: start + D::BLOCKING.segment >= steps,
                            row: m,
                            col: a.col + n,
                            cols: PANEL.min(n1 - n),
                            out: &a.out,
                        };
                        tile_of::<D, P, MR>(MR.min(m1 - m), &t);
                        acc = acc.add(tile_len);
                    }
                }
            }
        }
    }
}
