//! Coded weights: codes of 4 and 8 bits under scales, read where they lie and turned into f32 in
//! registers.
//!
//! An element's value is the one that its format defines, rounded as it says, so a product with
//! coded weights has the bits of the product with the f32 weights that the codes stand for: the
//! order is that of [`FmaDot`](super::dot::FmaDot). [`dot`] is for one activation row, which
//! memory bounds. For more, [`decode`] writes rows as f32, and the kernels for dense weights take
//! them from the cache. Where activations are bf16 and the processor multiplies pairs of bf16,
//! values are rounded to bf16 and products have the bits of those bf16 weights: `x86/coded.rs`.
//!
//! **Layout.** A row's codes of 4 bits lie in blocks of 32 columns and 16 bytes: byte `i` holds
//! column `i` in its low half and column `i + 16` in its high one (as ggml's `Q4_0`), so that a
//! vector takes one half each of neighbouring bytes. Codes of 8 bits lie in order, in blocks of 16.
//! The last block is whole. Scales, and offsets where there are any, follow each other group by
//! group, row by row.

use std::marker::PhantomData;

use super::out::Out;
use crate::coded::{CodedForm, Codes, Formula};
use crate::elem::Elem;
use crate::simd::{F16, F32, Simd, Stored, store_part};

/// Columns of a vector step: a multiple of every instruction set's lanes.
pub(crate) const STEP: usize = 16;
/// Bytes of a block of codes, and blocks of a cache line.
const BYTES: usize = 16;
const LINE: usize = 4;
/// How far ahead scales are asked for, in bytes.
const SCALES_AHEAD: usize = 512;

/// How an element comes of its code `c`, its group's scale `s` and its group's offset `o`.
pub(crate) trait Rule: Copy {
    const HAS_OFFSET: bool;
    unsafe fn value<S: Simd>(c: S::V, s: S::V, o: S::V) -> S::V;
}

/// `s c`.
#[derive(Clone, Copy)]
pub(crate) struct Symmetric;
/// `s (c - o)`.
#[derive(Clone, Copy)]
pub(crate) struct ZeroPoint;
/// `s (c - 8)`.
#[derive(Clone, Copy)]
pub(crate) struct Midpoint;
/// `s c + o`.
#[derive(Clone, Copy)]
pub(crate) struct Affine;

impl Rule for Symmetric {
    const HAS_OFFSET: bool = false;
    #[inline(always)]
    unsafe fn value<S: Simd>(c: S::V, s: S::V, _: S::V) -> S::V {
        S::mul(s, c)
    }
}

impl Rule for ZeroPoint {
    const HAS_OFFSET: bool = true;
    #[inline(always)]
    unsafe fn value<S: Simd>(c: S::V, s: S::V, o: S::V) -> S::V {
        S::mul(s, S::sub(c, o))
    }
}

impl Rule for Midpoint {
    const HAS_OFFSET: bool = false;
    #[inline(always)]
    unsafe fn value<S: Simd>(c: S::V, s: S::V, _: S::V) -> S::V {
        S::mul(s, S::sub(c, S::splat(8.0)))
    }
}

impl Rule for Affine {
    const HAS_OFFSET: bool = true;
    #[inline(always)]
    unsafe fn value<S: Simd>(c: S::V, s: S::V, o: S::V) -> S::V {
        S::fma(s, c, o)
    }
}

/// What codes of one kind are made numbers with.
pub(crate) trait Code<S: Simd, const P: usize> {
    /// Vector steps of a block.
    const STEPS: usize;
    /// What a group's elements share.
    type Group: Copy;

    unsafe fn group(table: *const f32, s: S::V, o: S::V) -> Self::Group;
    /// `S::LANES` elements: phase `phase` of step `step` of the block at `p`.
    unsafe fn load(g: Self::Group, p: *const u8, step: usize, phase: usize) -> S::V;
}

/// Codes of 4 bits through a table of their values, those of the group at hand.
pub(crate) struct Looked<R>(PhantomData<R>);
/// Codes of 4 bits as numbers.
pub(crate) struct Counted<R>(PhantomData<R>);
/// Signed bytes.
pub(crate) struct Signed<R>(PhantomData<R>);
/// FP8 bytes, at 2^-8 of their value: scales are 2^8 as large.
pub(crate) struct Fp8;

impl<S: Simd, R: Rule, const P: usize> Code<S, P> for Looked<R> {
    const STEPS: usize = 2;
    type Group = [S::V; P];

    #[inline(always)]
    unsafe fn group(table: *const f32, s: S::V, o: S::V) -> [S::V; P] {
        let mut values = [s; P];
        for p in 0..P {
            values[p] = R::value::<S>(S::load(table.add(p * S::LANES)), s, o);
        }
        values
    }
    #[inline(always)]
    unsafe fn load(g: [S::V; P], p: *const u8, step: usize, phase: usize) -> S::V {
        S::look_up(g, S::load_u8(p.add(phase * S::LANES)), step)
    }
}

impl<S: Simd, R: Rule, const P: usize> Code<S, P> for Counted<R> {
    const STEPS: usize = 2;
    type Group = [S::V; 2];

    #[inline(always)]
    unsafe fn group(_: *const f32, s: S::V, o: S::V) -> [S::V; 2] {
        [s, o]
    }
    #[inline(always)]
    unsafe fn load(g: [S::V; 2], p: *const u8, step: usize, phase: usize) -> S::V {
        R::value::<S>(S::nibble(S::load_u8(p.add(phase * S::LANES)), step), g[0], g[1])
    }
}

impl<S: Simd, R: Rule, const P: usize> Code<S, P> for Signed<R> {
    const STEPS: usize = 1;
    type Group = [S::V; 2];

    #[inline(always)]
    unsafe fn group(_: *const f32, s: S::V, o: S::V) -> [S::V; 2] {
        [s, o]
    }
    #[inline(always)]
    unsafe fn load(g: [S::V; 2], p: *const u8, _: usize, phase: usize) -> S::V {
        R::value::<S>(S::load_i8(p.add(phase * S::LANES)), g[0], g[1])
    }
}

impl<S: Simd, const P: usize> Code<S, P> for Fp8 {
    const STEPS: usize = 1;
    type Group = S::V;

    #[inline(always)]
    unsafe fn group(_: *const f32, s: S::V, _: S::V) -> S::V {
        s
    }
    #[inline(always)]
    unsafe fn load(g: S::V, p: *const u8, _: usize, phase: usize) -> S::V {
        S::mul(g, S::load_e4m3(p.add(phase * S::LANES)))
    }
}

/// Consecutive rows of a coded matrix.
#[derive(Clone, Copy)]
pub struct CodedRows {
    pub form: CodedForm,
    pub codes: *const u8,
    pub scales: *const u8,
    /// Null where the formula has none.
    pub offsets: *const u8,
    pub n: usize,
}

impl CodedRows {
    /// The rows from `row` on.
    #[must_use]
    pub fn from(self, row: usize, n: usize) -> Self {
        let groups = row * self.form.groups() * self.form.scale.size();
        Self {
            codes: self.codes.wrapping_add(row * self.form.row_bytes()),
            scales: self.scales.wrapping_add(groups),
            offsets: if self.offsets.is_null() { self.offsets } else { self.offsets.wrapping_add(groups) },
            n,
            ..self
        }
    }
}

/// One packed activation row against coded rows in place.
pub struct CodedDot {
    pub x: *const u8,
    pub w: CodedRows,
    pub col: usize,
    pub out: Out,
}

/// Coded rows as the kernels' `elem`, row-major.
pub struct Decode {
    pub w: CodedRows,
    pub dst: *mut u8,
}

/// One row as it is walked.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    pub(crate) codes: *const u8,
    scales: *const u8,
    offsets: *const u8,
    /// Scales from the row's first on that are there, other rows' included.
    room: usize,
}

/// Scales and offsets of up to 16 groups of a row as f32.
#[derive(Clone, Copy)]
pub(crate) struct Groups([[f32; STEP]; 2]);

impl Walk {
    #[inline(always)]
    pub(crate) unsafe fn of(w: &CodedRows, row: usize) -> Self {
        let w = w.from(row, w.n - row);
        Self { codes: w.codes, scales: w.scales, offsets: w.offsets, room: w.n * w.form.groups() }
    }

    /// Those of the `n` groups from `first` on, and perhaps of the next row's. Asks for those that
    /// come later.
    #[inline(always)]
    pub(crate) unsafe fn groups<S: Simd, E: Stored, R: Rule>(self, first: usize, n: usize) -> Groups {
        let mut groups = [[0.0; STEP]; 2];
        let places = [self.scales, self.offsets];
        for i in 0..if R::HAS_OFFSET { 2 } else { 1 } {
            let p = places[i].add(first * E::BYTES);
            S::prefetch(p.wrapping_add(SCALES_AHEAD));
            if first + STEP <= self.room {
                for lane in (0..STEP).step_by(S::LANES) {
                    S::store(groups[i].as_mut_ptr().add(lane), E::load::<S>(p.add(lane * E::BYTES)));
                }
            } else {
                for group in 0..n {
                    groups[i][group] = E::one::<S>(p.add(group * E::BYTES));
                }
            }
        }
        Groups(groups)
    }
}

impl Groups {
    pub(crate) const NONE: Self = Self([[0.0; STEP]; 2]);

    #[inline(always)]
    pub(crate) unsafe fn at<S: Simd, C: Code<S, P>, const P: usize>(
        &self,
        table: *const f32,
        group: usize,
    ) -> C::Group {
        C::group(table, S::splat(self.0[0][group]), S::splat(self.0[1][group]))
    }
}

/// Adds `num_steps` steps of the block at `codes` to a row's chains: `x` is the block's first step
/// in the first phase.
#[inline(always)]
unsafe fn add_block<S: Simd, C: Code<S, P>, const P: usize>(
    acc: &mut [S::V; P],
    shared: C::Group,
    codes: *const u8,
    x: *const f32,
    phase_len: usize,
    num_steps: usize,
) {
    for p in 0..P {
        for step in 0..num_steps {
            let wv = C::load(shared, codes, step, p);
            acc[p] = S::fma(S::load(x.add(p * phase_len + step * S::LANES)), wv, acc[p]);
        }
    }
}

/// Folds and writes the sums of `num_rows` rows of N streams, which begin at `cols`.
#[inline(always)]
pub(crate) unsafe fn write_tile<S: Simd, const N: usize>(
    out: &Out,
    tile: [[S::V; 4]; 4],
    num_rows: usize,
    cols: [usize; N],
) {
    let folded = S::fold16(tile);
    let (mut sums, mut to) = ([0.0; 16], [0; 16]);
    for i in 0..num_rows {
        for s in 0..N {
            sums[i * N + s] = folded[i * 4 + s];
            to[i * N + s] = cols[s] + i;
        }
    }
    out.write_row::<S>(sums, 0, &to, num_rows * N);
}

/// Rows `cols[0] ..`, `cols[1] ..` and so on, `n` each, side by side: N streams of memory. They
/// take turns of B blocks, no more than a group has, so that what a group shares is in registers
/// for one of them.
#[inline(always)]
unsafe fn dot_rows<
    S: Simd,
    E: Stored,
    R: Rule,
    C: Code<S, P>,
    const P: usize,
    const B: usize,
    const N: usize,
>(
    a: &CodedDot,
    cols: [usize; N],
    n: usize,
) {
    let form = &a.w.form;
    let (table, width) = (form.table(), C::STEPS * STEP);
    let (whole, steps) = (form.k / width, form.k.div_ceil(STEP));
    let (groups, group_blocks) = (form.groups(), form.group.min(form.k).div_ceil(width));
    let (x, phase_len) = (a.x.cast::<f32>(), steps * S::LANES);
    // Four rows of each stream are folded and written together.
    let mut tile = [[S::splat(0.0); 4]; 4];
    for j in 0..n {
        let w = cols.map(|col| Walk::of(&a.w, col + j));
        let mut acc = [[S::splat(0.0); P]; N];
        for first in (0..groups).step_by(STEP) {
            let held = STEP.min(groups - first);
            let mut shared = [Groups::NONE; N];
            for s in 0..N {
                shared[s] = w[s].groups::<S, E, R>(first, held);
            }
            for group in 0..held {
                let start = (first + group) * group_blocks;
                let end = whole.min(start + group_blocks);
                let mut turn = start;
                while turn + B <= end {
                    let xp = x.add(turn * C::STEPS * S::LANES);
                    for s in 0..N {
                        let codes = w[s].codes.add(turn * BYTES);
                        if B >= LINE || turn.is_multiple_of(LINE) {
                            S::prefetch(codes.wrapping_add(super::dot::AHEAD));
                        }
                        let shared = shared[s].at::<S, C, P>(table, group);
                        for b in 0..B {
                            let xp = xp.add(b * C::STEPS * S::LANES);
                            add_block::<S, C, P>(
                                &mut acc[s],
                                shared,
                                codes.add(b * BYTES),
                                xp,
                                phase_len,
                                C::STEPS,
                            );
                        }
                    }
                    turn += B;
                }
                // What is left of a row; of its last block the columns past the last step are no
                // columns, and have no activations.
                let last = if first + group + 1 == groups { form.k.div_ceil(width) } else { end };
                while turn < last {
                    let (at, num_steps) = (turn * C::STEPS, C::STEPS.min(steps - turn * C::STEPS));
                    for s in 0..N {
                        let (codes, xp) = (w[s].codes.add(turn * BYTES), x.add(at * S::LANES));
                        let shared = shared[s].at::<S, C, P>(table, group);
                        add_block::<S, C, P>(&mut acc[s], shared, codes, xp, phase_len, num_steps);
                    }
                    turn += 1;
                }
            }
        }
        for s in 0..N {
            tile[j % 4][s] = super::dot::fold_phases::<S, P>(acc[s]);
        }
        if j % 4 == 3 || j + 1 == n {
            write_tile::<S, N>(&a.out, tile, j % 4 + 1, cols.map(|col| a.col + col + j - j % 4));
        }
    }
}

/// All rows in four streams, as far apart as they go; the last streams may begin early and compute
/// rows of others again.
#[inline(always)]
unsafe fn dot_streams<S: Simd, E: Stored, R: Rule, C: Code<S, P>, const P: usize, const B: usize>(
    a: &CodedDot,
) {
    if a.w.n < 4 {
        return dot_rows::<S, E, R, C, P, 1, 1>(a, [0], a.w.n);
    }
    let n = a.w.n.div_ceil(4);
    dot_rows::<S, E, R, C, P, B, 4>(a, std::array::from_fn(|s| (s * n).min(a.w.n - n)), n);
}

/// In turns as long as groups allow.
#[inline(always)]
unsafe fn dot_turns<S: Simd, E: Stored, R: Rule, C: Code<S, P>, const P: usize>(a: &CodedDot) {
    match a.w.form.group.min(a.w.form.k) / (C::STEPS * STEP) {
        0 | 1 => dot_streams::<S, E, R, C, P, 1>(a),
        2 | 3 => dot_streams::<S, E, R, C, P, 2>(a),
        _ => dot_streams::<S, E, R, C, P, 4>(a),
    }
}

#[inline(always)]
pub(crate) unsafe fn decode_rows<S: Simd, T: Stored, E: Stored, R: Rule, C: Code<S, P>, const P: usize>(
    a: &Decode,
) {
    let form = &a.w.form;
    let (table, width) = (form.table(), C::STEPS * STEP);
    let (blocks, group_blocks) = (form.k.div_ceil(width), form.group.min(form.k).div_ceil(width));
    let groups = form.groups();
    for row in 0..a.w.n {
        let (w, dst) = (Walk::of(&a.w, row), a.dst.add(row * form.k * T::BYTES));
        for first in (0..groups).step_by(STEP) {
            let held = STEP.min(groups - first);
            let shared = w.groups::<S, E, R>(first, held);
            for group in 0..held {
                let start = (first + group) * group_blocks;
                let shared = shared.at::<S, C, P>(table, group);
                for block in start..blocks.min(start + group_blocks) {
                    for step in 0..C::STEPS {
                        for p in 0..P {
                            let v = C::load(shared, w.codes.add(block * BYTES), step, p);
                            let col = block * width + step * STEP + p * S::LANES;
                            let to = dst.add(col * T::BYTES);
                            if col + S::LANES <= form.k {
                                T::store::<S>(to, v);
                            } else if col < form.k {
                                store_part::<S, T>(to, v, form.k - col);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Runs `$body` with the code type `$C`, its rule `$R` and the scales' type `$E` of a form.
macro_rules! with_form {
    ($form:expr, $S:ty, $P:ident, ($E:ident, $R:ident, $C:ident) => $body:expr) => {
        match ($form.scale, $form.codes, $form.formula) {
            (Elem::F16, Codes::U4 | Codes::Table(_), formula) => with_form!(@nibbles $form, formula, F16, $S, $P, ($E, $R, $C) => $body),
            (_, Codes::U4 | Codes::Table(_), formula) => with_form!(@nibbles $form, formula, F32, $S, $P, ($E, $R, $C) => $body),
            (Elem::F16, Codes::I8, Formula::Symmetric) => with_form!(@one F16, Symmetric, Signed<Symmetric>, ($E, $R, $C) => $body),
            (Elem::F16, Codes::I8, Formula::ZeroPoint) => with_form!(@one F16, ZeroPoint, Signed<ZeroPoint>, ($E, $R, $C) => $body),
            (_, Codes::I8, Formula::Symmetric) => with_form!(@one F32, Symmetric, Signed<Symmetric>, ($E, $R, $C) => $body),
            (_, Codes::I8, Formula::ZeroPoint) => with_form!(@one F32, ZeroPoint, Signed<ZeroPoint>, ($E, $R, $C) => $body),
            // No form has the middle of bytes, which are signed.
            (_, Codes::I8, Formula::Midpoint) => with_form!(@one F32, Symmetric, Signed<Symmetric>, ($E, $R, $C) => $body),
            (_, Codes::I8, Formula::Affine) => with_form!(@one F32, Affine, Signed<Affine>, ($E, $R, $C) => $body),
            (_, Codes::E4m3, _) => with_form!(@one F32, Symmetric, Fp8, ($E, $R, $C) => $body),
        }
    };
    (@nibbles $form:expr, $formula:expr, $scale:ty, $S:ty, $P:ident, ($E:ident, $R:ident, $C:ident) => $body:expr) => {
        match $formula {
            Formula::Symmetric => with_form!(@one $scale, Symmetric, Looked<Symmetric>, ($E, $R, $C) => $body),
            // Its table has them less 8 already.
            Formula::Midpoint if <$S>::LOOKS_UP => with_form!(@one $scale, Symmetric, Looked<Symmetric>, ($E, $R, $C) => $body),
            Formula::Midpoint => with_form!(@one $scale, Midpoint, Counted<Midpoint>, ($E, $R, $C) => $body),
            Formula::ZeroPoint if <$S>::LOOKS_UP => with_form!(@one $scale, ZeroPoint, Looked<ZeroPoint>, ($E, $R, $C) => $body),
            Formula::Affine if <$S>::LOOKS_UP => with_form!(@one $scale, Affine, Looked<Affine>, ($E, $R, $C) => $body),
            Formula::ZeroPoint => with_form!(@one $scale, ZeroPoint, Counted<ZeroPoint>, ($E, $R, $C) => $body),
            Formula::Affine => with_form!(@one $scale, Affine, Counted<Affine>, ($E, $R, $C) => $body),
        }
    };
    (@one $scale:ty, $rule:ty, $code:ty, ($E:ident, $R:ident, $C:ident) => $body:expr) => {{
        type $E = $scale;
        type $R = $rule;
        type $C = $code;
        $body
    }};
}

pub(crate) use with_form;

#[inline(always)]
pub(crate) unsafe fn dot<S: Simd, const P: usize>(a: &CodedDot) {
    with_form!(a.w.form, S, P, (E, R, C) => dot_turns::<S, E, R, C, P>(a));
}

#[inline(always)]
pub(crate) unsafe fn decode<S: Simd, T: Stored, const P: usize>(a: &Decode) {
    with_form!(a.w.form, S, P, (E, R, C) => decode_rows::<S, T, E, R, C, P>(a));
}
