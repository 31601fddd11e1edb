//! Weights in device memory: matrices as the checkpoint has them, `[n, k]` row-major, in segments
//! of rows that a shader can see; vectors as f32.

use std::ops::Range;

use nvllm_core::{CanonicalTensor, DType, ModelSpec, Plan, WeightDecl, WeightId, WeightInfo, WeightSource};
use wgpu::Buffer;

use crate::error::Result;
use crate::gpu::{Gpu, padded};

/// Bytes that are copied to the device in one go.
const CHUNK: usize = 32 << 20;

/// Most rows of a segment: its launch has a workgroup for every four, and 65,535 at most.
const MOST_ROWS: usize = 65_535 * 4;

/// Consecutive rows of a matrix.
pub(crate) struct Segment {
    pub first: usize,
    pub num_rows: usize,
    pub buffer: Buffer,
}

/// One weight.
pub(crate) struct Weight {
    /// Of a vector f32.
    pub dtype: DType,
    pub segments: Vec<Segment>,
}

/// All weights of a model, by id.
pub(crate) struct Weights(Vec<Weight>);

/// The dtype in which a weight lies: that of its parts, or f32 where they differ, which is exact.
/// Vectors are f32.
///
/// Errors if a part is coded.
fn dtype_of(decl: &WeightDecl, info: &WeightInfo) -> nvllm_core::Result<DType> {
    let dtypes = info.plain().map_err(|reason| decl.refused("wgpu", reason))?;
    let same = dtypes.windows(2).all(|pair| pair[0] == pair[1]);
    Ok(dtypes.first().copied().filter(|_| same && decl.shape.len() > 1).unwrap_or(DType::F32))
}

/// Rows of a weight; a vector is one.
fn num_rows(decl: &WeightDecl) -> usize {
    if decl.shape.len() < 2 { 1 } else { decl.num_elements() / decl.num_cols().max(1) }
}

/// Ranges of rows of `row_bytes` of which none is larger than `most` bytes. Each begins at a word:
/// after an even number of rows.
fn segments(num_rows: usize, row_bytes: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = (most / row_bytes.max(1)).clamp(2, MOST_ROWS) / 2 * 2;
    (0..num_rows).step_by(rows).map(move |first| first..(first + rows).min(num_rows))
}

/// Bytes that the weights will take where a shader sees `most` bytes of a buffer.
pub(crate) fn bytes_for(plan: &Plan, most: usize) -> nvllm_core::Result<usize> {
    let one = |(decl, info): (&WeightDecl, &WeightInfo)| {
        let row_bytes = dtype_of(decl, info)?.size() * decl.num_elements() / num_rows(decl).max(1);
        Ok(segments(num_rows(decl), row_bytes, most)
            .map(|rows| padded(rows.len() * row_bytes))
            .sum::<usize>())
    };
    plan.spec.weights.iter().zip(&plan.weights).map(one).sum()
}

/// Whether a matrix is one segment where a shader sees `most` bytes of a buffer.
pub(crate) fn is_whole(info: &WeightInfo, most: usize) -> bool {
    let rows: usize = info.parts.iter().map(|part| part.shape[0]).sum();
    let cols: usize = info.parts.first().map_or(0, |part| part.shape[1..].iter().product());
    // Parts of different dtypes lie as f32.
    segments(rows, cols * DType::F32.size(), most).count() <= 1
}

impl Weight {
    fn load(
        gpu: &Gpu,
        decl: &WeightDecl,
        source: &dyn WeightSource,
        sent: &mut usize,
    ) -> nvllm_core::Result<Self> {
        let dtype = dtype_of(decl, &WeightInfo::of(decl, source)?)?;
        let weight = nvllm_core::Weight::load(decl, source)?;
        let as_is = weight.segments.iter().all(|part| part.format.plain() == Some(dtype));
        let widened = if as_is { Vec::new() } else { weight.to_f32()? };
        let parts: Vec<&[u8]> = if as_is {
            weight.segments.iter().map(|part: &CanonicalTensor| &part.codes[..]).collect()
        } else {
            vec![bytemuck::cast_slice(&widened)]
        };
        let rows = num_rows(decl);
        let row_bytes = dtype.size() * decl.num_elements() / rows.max(1);
        let one = |rows: Range<usize>| {
            let buffer = gpu.storage(rows.len() * row_bytes, "a weight")?;
            let (start, end) = (rows.start * row_bytes, rows.end * row_bytes);
            for at in (start..end).step_by(CHUNK) {
                let mut bytes = gather(&parts, at..(at + CHUNK).min(end));
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                gpu.write(&buffer, at - start, &bytes);
                *sent += bytes.len();
                if *sent >= 4 * CHUNK {
                    gpu.flush()?;
                    *sent = 0;
                }
            }
            Ok(Segment { first: rows.start, num_rows: rows.len(), buffer })
        };
        let segments = segments(rows, row_bytes, gpu.facts.piece_bytes).map(one).collect::<Result<_>>()?;
        Ok(Self { dtype, segments })
    }

    /// The buffer of a vector.
    pub(crate) fn vector(&self) -> &Buffer {
        &self.segments[0].buffer
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
        let mut sent = 0;
        let weights = spec.weights.iter().map(|decl| Weight::load(gpu, decl, source, &mut sent));
        let weights = weights.collect::<nvllm_core::Result<_>>()?;
        gpu.flush()?;
        Ok(Self(weights))
    }

    pub(crate) fn get(&self, id: WeightId) -> &Weight {
        &self.0[id.index()]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().flat_map(|weight| &weight.segments).map(|segment| segment.buffer.size() as usize).sum()
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
            let all: Vec<_> = segments(rows, row_bytes, most).collect();
            assert!(all.iter().all(|range| (range.start * row_bytes).is_multiple_of(4)));
            assert!(all.iter().flat_map(Clone::clone).eq(0..rows));
        }
        assert_eq!(segments(151_936, 2048, 128 << 20).count(), 3);
    }

    #[test]
    fn bytes_are_gathered_across_parts() {
        let parts: [&[u8]; 3] = [&[0, 1, 2], &[3], &[4, 5, 6, 7]];
        assert_eq!(gather(&parts, 2..6), [2, 3, 4, 5]);
        assert_eq!(gather(&parts, 0..8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(gather(&parts, 4..4).is_empty());
    }
}
