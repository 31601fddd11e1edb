//! Weights in device memory: matrices `[n, k]` row-major, dense as the checkpoint has them or
//! coded, in segments of rows that a shader can see; vectors as f32.

use std::ops::Range;

use nvllm_core::{CanonicalTensor, ModelSpec, Plan, WeightDecl, WeightId, WeightInfo, WeightSource};
use wgpu::Buffer;

use crate::error::Result;
use crate::gpu::{Gpu, padded};
use crate::storage::{Extent, Store, extents, extents_of};

/// Bytes that are copied to the device in one go.
const CHUNK: usize = 32 << 20;

/// Most rows of a segment: its launch has a workgroup for every four, and 65,535 at most.
const MOST_ROWS: usize = 65_535 * 4;

/// Consecutive rows of a matrix.
pub(crate) struct Segment {
    /// Counted from the first of the weight.
    pub first: usize,
    pub num_rows: usize,
    pub buffer: Buffer,
    /// Of coded rows.
    pub scales: Option<Buffer>,
}

/// Rows of one form.
pub(crate) struct Run {
    pub of: Extent,
    pub segments: Vec<Segment>,
    /// Where each column of the input is stored, if they are in another order.
    pub order: Option<Buffer>,
    /// The input's scale where it is static, else 0.
    pub input_scale: f32,
}

/// One weight.
pub(crate) struct Weight {
    pub runs: Vec<Run>,
}

/// All weights of a model, by id.
pub(crate) struct Weights(Vec<Weight>);

/// Ranges of rows of `bytes` a row, in one or two buffers, of which none takes more than `most`
/// bytes. Each begins at a word: after an even number of rows.
fn segments(num_rows: usize, bytes: [usize; 2], most: usize) -> impl Iterator<Item = Range<usize>> {
    let row_bytes = bytes[0].max(bytes[1]).max(1);
    let rows = (most / row_bytes).clamp(2, MOST_ROWS) / 2 * 2;
    (0..num_rows).step_by(rows).map(move |first| first..(first + rows).min(num_rows))
}

/// Bytes of one run where a shader sees `most` bytes of a buffer.
fn run_bytes(of: &Extent, most: usize) -> usize {
    let row_bytes = of.store.row_bytes(of.cols);
    let one =
        |rows: Range<usize>| row_bytes.map(|bytes| buffer_bytes(rows.len() * bytes)).iter().sum::<usize>();
    let order = if of.permuted { buffer_bytes(of.cols * size_of::<u32>()) } else { 0 };
    segments(of.rows.len(), row_bytes, most).map(one).sum::<usize>() + order
}

/// Bytes of a buffer that is there if it holds something.
const fn buffer_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { padded(bytes) }
}

/// Bytes that the weights will take where a shader sees `most` bytes of a buffer.
pub(crate) fn bytes_for(plan: &Plan, most: usize) -> nvllm_core::Result<usize> {
    let one = |(decl, info): (&WeightDecl, &WeightInfo)| {
        Ok(extents_of(decl, info)?.iter().map(|run| run_bytes(run, most)).sum::<usize>())
    };
    plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
}

/// Whether a matrix is one segment of one form where a shader sees `most` bytes of a buffer.
pub(crate) fn is_whole(info: &WeightInfo, most: usize) -> bool {
    match extents(info).as_deref() {
        Ok([run]) => segments(run.rows.len(), run.store.row_bytes(run.cols), most).count() <= 1,
        _ => false,
    }
}

/// Bytes on their way to the device.
struct Upload<'a> {
    gpu: &'a Gpu,
    /// Since the device was last waited for.
    sent: usize,
}

impl Upload<'_> {
    fn write(&mut self, buffer: &Buffer, at: usize, mut bytes: Vec<u8>) -> Result<()> {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.gpu.write(buffer, at, &bytes);
        self.sent += bytes.len();
        if self.sent >= 4 * CHUNK {
            self.gpu.flush()?;
            self.sent = 0;
        }
        Ok(())
    }
}

impl Run {
    fn load(upload: &mut Upload<'_>, of: Extent, weight: &nvllm_core::Weight) -> nvllm_core::Result<Self> {
        let parts = &weight.segments[of.parts.clone()];
        let gpu = upload.gpu;
        let row_bytes = of.store.row_bytes(of.cols);
        let mut made = Vec::new();
        let widened = widened(&of, weight)?;
        let dense = dense_parts(parts, widened.as_deref());
        for rows in segments(of.rows.len(), row_bytes, gpu.facts.piece_bytes) {
            let [codes, scales] = row_bytes.map(|bytes| rows.len() * bytes);
            let buffer = gpu.storage(codes, "a weight")?;
            let scales = (scales > 0).then(|| gpu.storage(scales, "a weight's scales")).transpose()?;
            let piece = (CHUNK / row_bytes[0].max(1)).max(1).next_multiple_of(2);
            for first in rows.clone().step_by(piece) {
                let some = first..(first + piece).min(rows.end);
                let at = row_bytes.map(|bytes| (first - rows.start) * bytes);
                match &of.store {
                    Store::Dense(_) => {
                        let range = some.start * row_bytes[0]..some.end * row_bytes[0];
                        upload.write(&buffer, at[0], gather(&dense, range))?;
                    }
                    Store::Coded(form) => {
                        let [codes, values] = form.pack(parts, some);
                        upload.write(&buffer, at[0], codes)?;
                        if let Some(scales) = &scales {
                            upload.write(scales, at[1], values)?;
                        }
                    }
                }
            }
            let first = of.rows.start + rows.start;
            made.push(Segment { first, num_rows: rows.len(), buffer, scales });
        }
        let first = parts.first();
        let order = first.and_then(|part| part.k_perm.as_ref()).map(|perm| {
            let buffer = gpu.storage(size_of_val(&**perm), "a column order")?;
            let mut places = vec![0_u32; perm.len()];
            perm.iter().enumerate().for_each(|(stored, &col)| places[col as usize] = stored as u32);
            upload.write(&buffer, 0, bytemuck::cast_slice(&places).to_vec())?;
            Ok::<_, crate::error::WgpuError>(buffer)
        });
        let input_scale = first.and_then(|part| part.act_scale).unwrap_or(0.0);
        Ok(Self { segments: made, order: order.transpose()?, input_scale, of })
    }

    pub(crate) fn bytes(&self) -> usize {
        let buffers =
            |segment: &Segment| segment.buffer.size() + segment.scales.as_ref().map_or(0, wgpu::Buffer::size);
        let order = self.order.as_ref().map_or(0, Buffer::size);
        (self.segments.iter().map(buffers).sum::<u64>() + order) as usize
    }
}

/// The rows of dense parts of different dtypes, and those of vectors, as f32.
fn widened(of: &Extent, weight: &nvllm_core::Weight) -> nvllm_core::Result<Option<Vec<f32>>> {
    let Store::Dense(dtype) = of.store else { return Ok(None) };
    let as_is = |part: &CanonicalTensor| part.format.code == nvllm_core::Code::Dense(dtype);
    if weight.segments[of.parts.clone()].iter().all(as_is) {
        return Ok(None);
    }
    let mut out = vec![0.0; of.rows.len() * of.cols];
    weight.dequant_rows(of.rows.start, &mut out)?;
    Ok(Some(out))
}

/// The bytes of dense rows, one part after another.
fn dense_parts<'a>(parts: &'a [CanonicalTensor], widened: Option<&'a [f32]>) -> Vec<&'a [u8]> {
    match widened {
        Some(values) => vec![bytemuck::cast_slice(values)],
        None => parts.iter().map(|part| &part.codes[..]).collect(),
    }
}

impl Weight {
    fn load(
        upload: &mut Upload<'_>,
        decl: &WeightDecl,
        source: &dyn WeightSource,
    ) -> nvllm_core::Result<Self> {
        let runs = extents_of(decl, &WeightInfo::of(decl, source)?)?;
        let weight = nvllm_core::Weight::load(decl, source)?;
        let runs = runs.into_iter().map(|of| Run::load(upload, of, &weight));
        Ok(Self { runs: runs.collect::<nvllm_core::Result<_>>()? })
    }

    /// The buffer of a vector.
    pub(crate) fn vector(&self) -> &Buffer {
        &self.runs[0].segments[0].buffer
    }
}

/// The bytes at `range` of what `parts` are one after another.
fn gather(parts: &[&[u8]], range: Range<usize>) -> Vec<u8> {
    let (mut out, mut first) = (Vec::with_capacity(range.len() + 4), 0);
    for part in parts {
        let from = range.start.clamp(first, first + part.len()) - first;
        let to = range.end.clamp(first, first + part.len()) - first;
        out.extend_from_slice(&part[from..to]);
        first += part.len();
    }
    out
}

impl Weights {
    /// Copies every weight to the device.
    pub(crate) fn load(gpu: &Gpu, spec: &ModelSpec, source: &dyn WeightSource) -> nvllm_core::Result<Self> {
        let mut upload = Upload { gpu, sent: 0 };
        let weights = spec.weights.iter().map(|decl| Weight::load(&mut upload, decl, source));
        let weights = weights.collect::<nvllm_core::Result<_>>()?;
        gpu.flush()?;
        Ok(Self(weights))
    }

    pub(crate) fn get(&self, id: WeightId) -> &Weight {
        &self.0[id.index()]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().flat_map(|weight| &weight.runs).map(Run::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_complete_and_begin_at_words() {
        for (rows, row_bytes, most) in
            [(7, 6, 20), (1, 100, 8), (151_936, 2048, 128 << 20), (600_000, 2, usize::MAX)]
        {
            for bytes in [[row_bytes, 0], [2, row_bytes]] {
                let all: Vec<_> = segments(rows, bytes, most).collect();
                assert!(all.iter().all(|range| (range.start * row_bytes).is_multiple_of(4)));
                assert!(all.iter().flat_map(Clone::clone).eq(0..rows));
            }
        }
        assert_eq!(segments(151_936, [2048, 0], 128 << 20).count(), 3);
    }

    #[test]
    fn bytes_are_gathered_across_parts() {
        let parts: [&[u8]; 3] = [&[0, 1, 2], &[3], &[4, 5, 6, 7]];
        assert_eq!(gather(&parts, 2..6), [2, 3, 4, 5]);
        assert_eq!(gather(&parts, 0..8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(gather(&parts, 4..4).is_empty());
    }
}
