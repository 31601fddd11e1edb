//! Linear layers whose weights and inputs are 8-bit integers: `y = (sx * sw) * sum(x w) + b`.
//!
//! Sums of integers are exact, so no order has to be kept. Weights are read in place whatever the
//! number of activation rows: a byte a weight is little enough to come from the cache for each
//! group of rows.

use crate::Cpu;
use crate::linear::{Segment, rows_at_a_time};
use crate::rows::Rows;
use nvllm_cpu_kernels::{Int8Dot, Out, Quantize};

/// Bytes of weights that a thread takes at a time, for one group of activation rows and for more:
/// then they have to stay in its second-level cache.
const STREAMED: usize = 384 * 1024;
const CACHED: usize = 128 * 1024;
/// Activation rows in a group, at most.
const GROUP: usize = 6;

/// Weight rows of one segment.
struct Span<'a> {
    first: usize,
    chunk: usize,
    segment: &'a Segment<'a>,
    n: usize,
    col: usize,
}

impl Cpu {
    /// The products of all rows of x with integer segments, whose outputs begin at column `col`.
    /// Arguments have been checked.
    pub(crate) fn int8_products(&mut self, x: Rows<'_>, segments: &[Segment<'_>], col: usize, out: Out) {
        let (int8, k, m) = (self.kernels.int8(), x.cols(), x.num_rows());
        let row_bytes = int8.row_bytes(k);
        let base = Shared(self.packed.bytes(m * row_bytes + m * size_of::<f32>()));
        let rows_at_once = (32 * 1024 / k).max(1);
        self.pool.for_chunks(m, rows_at_once, |_, rows| {
            for row in rows {
                let (dst, scale) = (base.at(row * row_bytes), base.scale(m * row_bytes, row));
                // SAFETY: the row holds k elements; each has its own place in the packed buffer.
                unsafe { (int8.quantize)(&Quantize { src: x.row(row), elem: x.elem(), k, dst, scale }) }
            }
        });
        let (mut spans, mut chunks, mut col) = (Vec::with_capacity(segments.len()), 0, col);
        for segment in segments {
            let Segment::Coded(_, _, n) = *segment else { continue };
            let most = if m <= GROUP { STREAMED } else { CACHED } / k;
            let chunk = rows_at_a_time(n, most, self.pool.num_threads());
            spans.push(Span { first: chunks, chunk, segment, n, col });
            chunks += n.div_ceil(chunk);
            col += n;
        }
        let out = SharedOut(out);
        self.pool.for_chunks(chunks, 1, |_, range| {
            for id in range {
                let span = &spans[spans.partition_point(|span| span.first <= id) - 1];
                let row = (id - span.first) * span.chunk;
                let n = span.chunk.min(span.n - row);
                let Segment::Coded(coded, first, _) = *span.segment else { continue };
                let w = coded.rows(first + row, n);
                let args = Int8Dot {
                    x: base.at(0),
                    x_scales: base.scale(m * row_bytes, 0),
                    m,
                    w: w.codes.cast(),
                    w_stride: w.form.row_bytes(),
                    w_scales: w.scales.cast(),
                    w_sums: coded.sums(first + row),
                    k,
                    n,
                    col: span.col + row,
                    out: out.get(),
                };
                // SAFETY: rows, scales and sums are there; each output is this chunk's alone.
                unsafe { (int8.dot)(&args) }
            }
        });
    }
}

/// The packed rows, and their scales after them.
#[derive(Clone, Copy)]
struct Shared(*mut u8);

// SAFETY: an address that threads write disjoint parts of and then read.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, byte: usize) -> *mut u8 {
        self.0.wrapping_add(byte)
    }

    #[allow(clippy::cast_ptr_alignment, reason = "packed rows are multiples of 64 bytes")]
    fn scale(self, scales: usize, row: usize) -> *mut f32 {
        self.0.wrapping_add(scales).cast::<f32>().wrapping_add(row)
    }
}

/// Where results go.
#[derive(Clone, Copy)]
struct SharedOut(Out);

// SAFETY: threads write disjoint outputs.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

impl SharedOut {
    fn get(self) -> Out {
        self.0
    }
}
