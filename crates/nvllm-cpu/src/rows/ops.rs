//! The ops that treat every row (or every group of columns of a row) alone.

use nvllm_cpu_kernels::{Binary, Decode, RmsNorm, Rope, WeightedSum};

use super::{Rows, RowsMut, Target};
use crate::error::ensure;
use crate::{ActMode, Cpu, Elem, Result, Segment, Weights};

/// Elements that one thread takes at a time: enough to be worth handing out.
const GRAIN: usize = 16 * 1024;

/// The weight of a norm: one element per column of a group.
#[derive(Clone, Copy, Debug)]
pub struct NormWeight<'a> {
    /// `n` elements.
    pub bytes: &'a [u8],
    /// Their type.
    pub elem: Elem,
}

fn same_shape(op: &'static str, a: (usize, usize), b: (usize, usize)) -> Result<()> {
    ensure!(a == b, op, "shapes differ: {} x {} and {} x {}", a.0, a.1, b.0, b.1);
    Ok(())
}

fn grain(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

impl Cpu {
    /// Copies `x` to `out`, converting the element type.
    ///
    /// # Errors
    /// Shapes differ.
    pub fn convert(&self, x: Rows<'_>, mut out: RowsMut<'_>) -> Result<()> {
        same_shape("convert", (x.num_rows, x.cols), (out.num_rows, out.cols))?;
        let to = out.target();
        self.pool.for_chunks(x.num_rows, grain(x.cols), |_, rows| {
            for r in rows {
                // SAFETY: both views hold `cols` elements at row `r`, which no other thread writes.
                unsafe { (self.kernels.rows.convert)(x.row(r), x.elem, to.row(r), to.elem, x.cols) }
            }
        });
        Ok(())
    }

    /// `out = a + b`.
    ///
    /// # Errors
    /// Shapes or the inputs' types differ.
    pub fn add(&self, a: Rows<'_>, b: Rows<'_>, out: RowsMut<'_>) -> Result<()> {
        same_shape("add", (a.num_rows, a.cols), (b.num_rows, b.cols))?;
        self.binary("add", self.kernels.rows.add, a, b, out)
    }

    /// `out = silu(gate) * up` for rows `gate | up` of twice `out`'s columns; silu(x) = x / (1 +
    /// e^-x).
    ///
    /// # Errors
    /// `x` has not twice the columns of `out`, or other rows.
    pub fn silu_mul(&self, x: Rows<'_>, out: RowsMut<'_>) -> Result<()> {
        ensure!(
            x.cols == 2 * out.cols,
            "silu_mul",
            "{} columns in, {} out; twice is needed",
            x.cols,
            out.cols
        );
        let (gate, up) = (x.columns(0, out.cols)?, x.columns(out.cols, out.cols)?);
        self.binary("silu_mul", self.kernels.rows.silu_mul, gate, up, out)
    }

    fn binary(
        &self,
        op: &'static str,
        kernel: unsafe fn(&Binary),
        a: Rows<'_>,
        b: Rows<'_>,
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        same_shape(op, (a.num_rows, a.cols), (out.num_rows, out.cols))?;
        ensure!(a.elem == b.elem, op, "inputs of {:?} and {:?}; one type is needed", a.elem, b.elem);
        let to = out.target();
        self.pool.for_chunks(a.num_rows, grain(a.cols), |_, rows| {
            for r in rows {
                let args = Binary {
                    a: a.row(r),
                    b: b.row(r),
                    elem: a.elem,
                    out: to.row(r),
                    out_elem: to.elem,
                    n: a.cols,
                };
                // SAFETY: the views hold `cols` elements at row `r`, which no other thread writes.
                unsafe { kernel(&args) }
            }
        });
        Ok(())
    }

    /// RMS norm of every group of `n` columns, `n` being the weight's length: `x / sqrt(mean(x^2) +
    /// eps) * weight`.
    ///
    /// # Errors
    /// Shapes differ, or the columns are no multiple of the weight's length.
    pub fn rms_norm(
        &self,
        x: Rows<'_>,
        weight: NormWeight<'_>,
        eps: f32,
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        same_shape("rms_norm", (x.num_rows, x.cols), (out.num_rows, out.cols))?;
        let n = weight.bytes.len() / weight.elem.size();
        ensure!(
            n > 0 && x.cols.is_multiple_of(n) && weight.bytes.len() == n * weight.elem.size(),
            "rms_norm",
            "{} columns, weight of {} bytes; the columns must be a multiple of the weight's elements",
            x.cols,
            weight.bytes.len()
        );
        let to = out.target();
        let weight_ptr = Target { ptr: weight.bytes.as_ptr().cast_mut(), elem: weight.elem, stride: n };
        self.pool.for_chunks(x.num_rows, grain(x.cols), |_, rows| {
            for r in rows {
                let args = RmsNorm {
                    x: x.row(r),
                    elem: x.elem,
                    weight: weight_ptr.row(0),
                    weight_elem: weight.elem,
                    out: to.row(r),
                    out_elem: to.elem,
                    n,
                    groups: x.cols / n,
                    eps,
                };
                // SAFETY: the views hold `cols` elements at row `r`, which no other thread writes;
                // the weight is only read.
                unsafe { (self.kernels.rows.rms_norm)(&args) }
            }
        });
        Ok(())
    }

    /// Rotates heads of `head_dim` columns: `(x[i], x[i + half])` by the angle whose cosine and
    /// sine are in column i of the row's table entry, for i below `half`; columns from `2 half` on
    /// are copied. Tables: `num_rows x half`.
    ///
    /// # Errors
    /// Shapes differ, columns are no multiple of `head_dim`, tables are too short, or `2 half >
    /// head_dim`.
    pub fn rope(
        &self,
        x: Rows<'_>,
        head_dim: usize,
        (cos, sin): (&[f32], &[f32]),
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        same_shape("rope", (x.num_rows, x.cols), (out.num_rows, out.cols))?;
        let half = cos.len() / x.num_rows.max(1);
        ensure!(
            cos.len() == sin.len()
                && cos.len() == half * x.num_rows
                && 2 * half <= head_dim
                && head_dim > 0
                && x.cols.is_multiple_of(head_dim),
            "rope",
            "{} rows of {} columns, head_dim {head_dim}, tables of {} and {}",
            x.num_rows,
            x.cols,
            cos.len(),
            sin.len()
        );
        let to = out.target();
        self.pool.for_chunks(x.num_rows, grain(x.cols), |_, rows| {
            for r in rows {
                let args = Rope {
                    x: x.row(r),
                    elem: x.elem,
                    out: to.row(r),
                    out_elem: to.elem,
                    cos: cos[r * half..].as_ptr(),
                    sin: sin[r * half..].as_ptr(),
                    half,
                    head_dim,
                    heads: x.cols / head_dim,
                };
                // SAFETY: the views hold `cols` elements at row `r`, which no other thread writes;
                // tables hold `half` from there.
                unsafe { (self.kernels.rows.rope)(&args) }
            }
        });
        Ok(())
    }

    /// Copies row `ids[i]` of the table to row i of `out`, converting. The table's rows may lie in
    /// several segments.
    ///
    /// # Errors
    /// `out` has not one row per id, a segment is no whole number of rows, or an id is beyond the
    /// table.
    pub fn gather(&self, segments: &[Segment<'_>], ids: &[u32], mut out: RowsMut<'_>) -> Result<()> {
        ensure!(ids.len() == out.num_rows, "gather", "{} ids for {} rows", ids.len(), out.num_rows);
        let cols = out.cols;
        let num_rows = Weights { segments, k: cols }.num_rows()?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= num_rows) {
            ensure!(false, "gather", "id {id} in a table of {num_rows} rows");
        }
        let to = out.target();
        self.pool.for_chunks(ids.len(), grain(cols), |thread, rows| {
            for r in rows {
                let (from, elem) = self.row_of(segments, ids[r] as usize, cols, thread);
                // SAFETY: a whole row lies at `from`; row `r` of `out` is written by this thread
                // only.
                unsafe { (self.kernels.rows.convert)(from, elem, to.row(r), to.elem, cols) };
            }
        });
        Ok(())
    }

    /// Where row `row` of the segments lies; a coded one is made in the thread's own buffer.
    fn row_of(&self, segments: &[Segment<'_>], row: usize, cols: usize, thread: usize) -> (*const u8, Elem) {
        let mut at = row;
        for segment in segments {
            let num_rows = segment.num_rows(cols).unwrap_or(0);
            match *segment {
                _ if at >= num_rows => at -= num_rows,
                Segment::Dense(bytes, elem) => return (bytes[at * cols * elem.size()..].as_ptr(), elem),
                Segment::Coded(coded, first, _) => {
                    let dst = self.decoded.of(thread).bytes(cols * size_of::<f32>());
                    let args = Decode { w: coded.rows(first + at, 1), dst };
                    // SAFETY: the row is there, and the buffer holds it.
                    unsafe { (self.kernels.coded(ActMode::F32).decode)(&args) };
                    return (dst.cast_const(), Elem::F32);
                }
            }
        }
        unreachable!("row {row} was checked")
    }

    /// `out[r] = sum over j of weights[r * k + j] * x[rows[r * k + j]]`, j ascending, `k =
    /// weights.len() / out's rows`.
    ///
    /// # Errors
    /// Columns differ, lists of different length, or a row beyond `x`.
    pub fn weighted_sum(
        &self,
        x: Rows<'_>,
        rows: &[u32],
        weights: &[f32],
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        const MOST: usize = 64;
        let k = weights.len() / out.num_rows.max(1);
        ensure!(
            x.cols == out.cols
                && rows.len() == weights.len()
                && weights.len() == k * out.num_rows
                && k <= MOST,
            "weighted_sum",
            "{} columns to {}, {} rows and {} weights for {} outputs; at most {MOST} per output",
            x.cols,
            out.cols,
            rows.len(),
            weights.len(),
            out.num_rows
        );
        if let Some(row) = rows.iter().find(|row| **row as usize >= x.num_rows) {
            ensure!(false, "weighted_sum", "row {row} of {}", x.num_rows);
        }
        let to = out.target();
        self.pool.for_chunks(out.num_rows, grain(x.cols * k.max(1)), |_, range| {
            for r in range {
                let mut from = [std::ptr::null(); MOST];
                for (p, row) in from.iter_mut().zip(&rows[r * k..(r + 1) * k]) {
                    *p = x.row(*row as usize);
                }
                let args = WeightedSum {
                    rows: &from[..k],
                    weights: &weights[r * k..(r + 1) * k],
                    elem: x.elem,
                    out: to.row(r),
                    out_elem: to.elem,
                    n: x.cols,
                };
                // SAFETY: every listed row holds `cols` elements; row `r` of `out` is written by
                // this thread only.
                unsafe { (self.kernels.rows.weighted_sum)(&args) }
            }
        });
        Ok(())
    }
}
