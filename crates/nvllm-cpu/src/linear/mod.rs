//! `y = x W^T + b`: packing activations, dealing out weight rows.
//!
//! Weights stay where the checkpoint is mapped, in one or more segments of whole rows. With few
//! activation rows each thread reads its weight rows once, in sequence, straight from there. With
//! many, a thread converts a few weight rows at a time into a panel in its cache and runs the
//! register tile over all activation rows. Which of the two runs is a matter of speed alone: both
//! keep the order of `nvllm-cpu-kernels`, `generic/dot.rs`.
//!
//! Coded weights are read in place by one activation row. With more, a thread first writes some of
//! their rows into its cache, as f32 or bf16, and goes on with those: the bits are the same. Where
//! inputs are rounded to 8 bits, `int8.rs` multiplies integers.

mod lists;
mod weights;

pub(crate) use lists::{LinearLists, rows_at_a_time};
pub use weights::{ExpertRows, Segment, Weights};

use lists::{Pack, Span};
use nvllm_cpu_kernels::{
    Block, CodedDot, CodedForm, CodedKernels, Decode, Direct, DotKernels, MAX_ROWS, Out, PANEL, PackW, PackX,
};
use weights::Place;

use crate::error::ensure;
use crate::rows::{Rows, RowsMut};
use crate::{ActMode, Cpu, Result};

/// Activation rows up to which weights are read in place: by the first group of them from memory,
/// by the others from the cache. Packing reads memory while nothing is multiplied.
const DIRECT_ROWS: usize = 18;
/// Bytes of weights that a thread takes at a time when one group reads them in place: four streams
/// of 96 KiB, each long enough that the misses it begins with are few.
const DIRECT_BYTES: usize = 384 * 1024;
/// Most activation rows packed at a time: bounds the scratch and keeps it in the last-level cache.
const BLOCK_ROWS: usize = 528;
/// A multiple of every instruction set's rows in a group of `block`.
const BLOCK_GROUPS: usize = 12;
/// Most weight rows that a thread packs at a time.
const PANEL_ROWS: usize = 128;

/// Some rows of a product, small enough to pack at once.
struct Piece<'a> {
    segments: &'a [Segment<'a>],
    /// Column of the output that the first weight row makes.
    col: usize,
    /// Rows of x; `None` for rows from `row` on.
    x_rows: Option<&'a [u32]>,
    row: usize,
    m: usize,
    out: Out,
}

/// What every chunk of one call shares.
struct Common {
    dot: &'static DotKernels,
    coded: &'static CodedKernels,
    k: usize,
}

impl Cpu {
    /// `out[m, n] = x[m, k] W[n, k]^T (+ bias[n])`, accumulated in f32, rounded once to `out`'s
    /// type.
    ///
    /// Each output's summation order is [`nvllm_cpu_kernels::Kernels::linear_order`]: the same for
    /// any number of rows, threads and segments. Under [`ActMode::Bf16`] every value of x must be a
    /// bf16 value (stored as bf16 or f32).
    ///
    /// # Errors
    /// Extents that do not fit together.
    pub fn linear(
        &mut self,
        x: Rows<'_>,
        w: Weights<'_>,
        bias: Option<&[f32]>,
        mode: ActMode,
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        let n = w.num_rows()?;
        ensure!(x.cols() == w.k, "linear", "x has {} columns, the weight {}", x.cols(), w.k);
        ensure!(
            out.num_rows() == x.num_rows() && out.cols() == n,
            "linear",
            "{} rows by {n} outputs into {} x {}",
            x.num_rows(),
            out.num_rows(),
            out.cols()
        );
        ensure!(bias.is_none_or(|b| b.len() == n), "linear", "a bias of another length than {n}");
        let target = out.target();
        let whole = Out {
            ptr: target.row(0),
            elem: target.elem,
            stride: target.stride,
            rows: std::ptr::null(),
            bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
        };
        // Blocks of like size: each packs all of the weights, and a small one would do so for
        // little.
        let blocks = x.num_rows().div_ceil(BLOCK_ROWS).max(1);
        let block_rows = x.num_rows().div_ceil(blocks).next_multiple_of(BLOCK_GROUPS).max(1);
        let mut col = 0;
        let kernels = self.kernels;
        for segments in w.segments.chunk_by(|a, b| a.order(kernels, mode) == b.order(kernels, mode)) {
            let n = segments.iter().filter_map(|segment| segment.num_rows(w.k)).sum::<usize>();
            if segments[0].order(kernels, mode).is_none() {
                self.int8_products(x, segments, col, whole);
            } else {
                let (dot, coded) = (segments[0].dot(kernels, mode), kernels.coded(mode));
                let common = Common { dot, coded, k: w.k };
                for row in (0..x.num_rows()).step_by(block_rows) {
                    let out = Out { ptr: target.row(row), ..whole };
                    let m = block_rows.min(x.num_rows() - row);
                    self.products(&common, x, &[Piece { segments, col, x_rows: None, row, m, out }]);
                }
            }
            col += n;
        }
        Ok(())
    }

    /// For every expert `out[out_rows[i]] = x[x_rows[i]] W^T`, all weights `n x k` of one form, `n`
    /// being the columns of `out`. Inputs are taken as they are: whoever rounds them does so
    /// before.
    ///
    /// # Errors
    /// Extents that do not fit together, a row that is not there, an output row named twice.
    pub fn expert_linear(
        &mut self,
        x: Rows<'_>,
        experts: &[ExpertRows<'_>],
        mode: ActMode,
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        let op = "expert_linear";
        ensure!(x.cols() > 0, op, "x has no columns");
        let mut written = vec![false; out.num_rows()];
        for e in experts {
            ensure!(e.x_rows.len() == e.out_rows.len(), op, "row lists differ in length");
            ensure!(e.weight.num_rows(x.cols()) == Some(out.cols()), op, "a weight of another size");
            ensure!(e.x_rows.iter().all(|r| (*r as usize) < x.num_rows()), op, "a row beyond x");
            for r in e.out_rows {
                let free = written.get_mut(*r as usize).is_some_and(|w| !std::mem::replace(w, true));
                ensure!(free, op, "output row {r} is beyond {} or named twice", out.num_rows());
            }
        }
        let target = out.target();
        let Some(first) = experts.first() else { return Ok(()) };
        let (dot, coded) = (first.weight.dot(self.kernels, mode), self.kernels.coded(mode));
        let common = Common { dot, coded, k: x.cols() };
        let alike = experts.iter().all(|e| e.weight.dot(self.kernels, mode).order == common.dot.order);
        ensure!(alike, op, "weights of several orders of sums");
        let weights: Vec<[Segment<'_>; 1]> = experts.iter().map(|e| [e.weight]).collect();
        let mut pieces = Vec::new();
        let mut rows = 0;
        for (e, segments) in experts.iter().zip(&weights) {
            for (xs, outs) in e.x_rows.chunks(BLOCK_ROWS).zip(e.out_rows.chunks(BLOCK_ROWS)) {
                if rows + xs.len() > BLOCK_ROWS {
                    self.products(&common, x, &pieces);
                    pieces.clear();
                    rows = 0;
                }
                let (ptr, elem, stride) = (target.row(0), target.elem, target.stride);
                let out = Out { ptr, elem, stride, rows: outs.as_ptr(), bias: std::ptr::null() };
                pieces.push(Piece { segments, col: 0, x_rows: Some(xs), row: 0, m: xs.len(), out });
                rows += xs.len();
            }
        }
        self.products(&common, x, &pieces);
        Ok(())
    }

    /// Packs the pieces' rows, then computes all products in one section. Arguments have been
    /// checked.
    fn products(&mut self, common: &Common, x: Rows<'_>, pieces: &[Piece<'_>]) {
        let dot = common.dot;
        let row_bytes = dot.row_bytes(common.k);
        let total: usize = pieces.iter().map(|p| p.m * row_bytes).sum();
        let mut base = self.packed.bytes(total);
        let (packs, spans) = (&mut self.lists.packs, &mut self.lists.spans);
        packs.clear();
        spans.clear();
        let mut chunks = 0;
        for piece in pieces {
            let group = group_rows(dot, piece.m);
            for first in (0..piece.m).step_by(group) {
                let num_rows = group.min(piece.m - first);
                let mut rows = [std::ptr::null(); MAX_ROWS];
                for (i, p) in rows.iter_mut().take(num_rows).enumerate() {
                    *p = x.row(piece.x_rows.map_or(piece.row + first + i, |list| list[first + i] as usize));
                }
                packs.push(Pack { rows, num_rows, first, m: piece.m, dst: base });
            }
            let mut col = piece.col;
            for segment in piece.segments {
                let n = segment.num_rows(common.k).unwrap_or(0);
                let chunk = chunk_rows(common, segment, piece.m, n, self.pool.num_threads());
                let (x, m, out) = (base.cast_const(), piece.m, piece.out);
                spans.push(Span { first: chunks, chunk, w: segment.place(), n, col, x, m, out });
                col += n;
                chunks += n.div_ceil(chunk);
            }
            base = base.wrapping_add(piece.m * row_bytes);
        }
        let lists = &self.lists;
        let (elem, k) = (x.elem(), common.k);
        let groups_at_once = (32 * 1024 / (k * dot.block_rows)).max(1);
        self.pool.for_chunks(lists.packs.len(), groups_at_once, |_, range| {
            for pack in &lists.packs[range] {
                let Pack { rows, num_rows, first, m, dst } = *pack;
                let args = PackX { rows, num_rows, first, m, elem, k, dst };
                // SAFETY: each row holds k elements; groups have disjoint places in the packed
                // buffer.
                unsafe { (dot.pack_x)(&args) }
            }
        });
        self.pool.for_chunks(chunks, 1, |thread, range| {
            for id in range {
                let span = &lists.spans[lists.spans.partition_point(|s| s.first <= id) - 1];
                let row = (id - span.first) * span.chunk;
                self.compute(common, span, row, span.chunk.min(span.n - row), thread);
            }
        });
    }

    /// Weight rows `row .. row + n` of a span.
    #[allow(clippy::cast_ptr_alignment, reason = "buffers are aligned to 64, panels are whole cache lines")]
    fn compute(&self, common: &Common, span: &Span, row: usize, n: usize, thread: usize) {
        let Common { dot, coded, k } = *common;
        let (col, out) = (span.col + row, span.out);
        let (w, elem) = match span.w {
            Place::Dense(w, elem) => (w.wrapping_add(row * k * elem.size()), elem),
            Place::Coded(rows) => {
                let w = rows.from(row, n);
                if in_place(common, &w.form, span.m) {
                    // SAFETY: the rows are there and x is packed; each output is this chunk's
                    // alone.
                    return unsafe { (coded.dot)(&CodedDot { x: span.x, w, col, out }) };
                }
                let dst = self.decoded.of(thread).bytes(n * k * coded.elem.size());
                // SAFETY: the rows are there, and the thread's own buffer holds them.
                unsafe { (coded.decode)(&Decode { w, dst }) };
                (dst.cast_const(), coded.elem)
            }
        };
        if is_direct(span.m) {
            let group = group_rows(dot, span.m);
            for m0 in (0..span.m).step_by(group) {
                let num_rows = group.min(span.m - m0);
                let args = Direct { x: span.x, m: span.m, num_rows, row: m0, w, elem, k, n, col, out };
                // SAFETY: the weight rows and the packed group are there; each output is this
                // chunk's alone.
                unsafe { (dot.direct)(&args) }
            }
            return;
        }
        let mut scratch = self.threads.of(thread);
        let panels = n.next_multiple_of(PANEL) * dot.row_bytes(k);
        let dst = scratch.bytes(panels + dot.acc_len * size_of::<f32>());
        let acc = dst.wrapping_add(panels).cast::<f32>();
        // SAFETY: the weight rows are there; the scratch holds the panels.
        unsafe { (dot.pack_w)(&PackW { w, elem, k, n, dst }) };
        let args = Block { x: span.x, m: span.m, w: dst, k, n, acc, col, out };
        // SAFETY: x and the panels are packed for k; the scratch holds the accumulators; each
        // output is this chunk's alone.
        unsafe { (dot.block)(&args) }
    }
}

/// Whether `m` activation rows read weights in place.
fn is_direct(m: usize) -> bool {
    m <= DIRECT_ROWS
}

/// Whether they read coded weights in place.
fn in_place(common: &Common, form: &CodedForm, m: usize) -> bool {
    m == 1 && (common.coded.takes)(form)
}

/// Activation rows in a group, the last perhaps smaller.
fn group_rows(dot: &DotKernels, m: usize) -> usize {
    if is_direct(m) { dot.direct_rows } else { dot.block_rows }
}

/// Weight rows that a thread takes at a time, of `n` for `m` activation rows: so many that every
/// thread has as many to take.
fn chunk_rows(common: &Common, segment: &Segment<'_>, m: usize, n: usize, num_threads: usize) -> usize {
    let (dot, k) = (common.dot, common.k);
    let decoded = match segment {
        Segment::Coded(coded, ..) => !in_place(common, coded.form(), m),
        Segment::Dense(..) => false,
    };
    // What other groups read again, or was decoded, has to stay in the second-level cache.
    let cached = dot.panel_bytes / 2;
    let most = match (is_direct(m), decoded) {
        (true, false) if m <= dot.direct_rows => DIRECT_BYTES / segment.row_bytes(k),
        (true, false) => cached / segment.row_bytes(k),
        (true, true) => cached / dot.row_bytes(k),
        (false, true) => (cached / dot.row_bytes(k)).min(PANEL_ROWS),
        (false, false) => (dot.panel_bytes / dot.row_bytes(k)).min(PANEL_ROWS),
    };
    rows_at_a_time(n, most, num_threads)
}
