//! ggml's blocks taken apart: codes to codes, scales to scales.
//!
//! ggml keeps a block's scales beside its codes and spreads codes of five and six bits over several
//! bytes; the canonical form has them apart and in a row. Nothing is computed but the sign of
//! `dmin`, so an element's value is ggml's. Layouts and formulas: ggml, `ggml-common.h` and
//! `ggml-quants.c`.

#![allow(clippy::inline_always, reason = "a block is taken apart inside the loop over blocks")]

mod k;
mod layout;
mod simple;

use bytes::Bytes;
use nvllm_core::weight::{CanonicalTensor, PUBLIC, TensorInfo, WeightFormat, in_parallel};
use nvllm_core::{CoreError, DType, Result};

use crate::SUPPORTED;
use crate::ggml_type::GgmlType;
use layout::{Layout, Parts};

/// The format of a tensor `name` of that type and shape. Errors if its values are not read.
pub(crate) fn info(name: &str, kind: &GgmlType, shape: Vec<usize>) -> Result<TensorInfo> {
    let bad = |problem| Err(CoreError::BadTensor { name: name.into(), problem });
    if let Some(dtype) = dense(kind) {
        return Ok(TensorInfo::dense(dtype, shape));
    }
    let kind = kind.name;
    let Some(block) = Block::of(kind) else {
        return bad(format!("is in {kind}; {SUPPORTED} are supported"));
    };
    if shape.len() < 2 {
        return bad(format!("is a vector in {kind}; vectors in F32, F16 and BF16 are supported"));
    }
    Ok(TensorInfo { shape, format: block.format() })
}

fn dense(kind: &GgmlType) -> Option<DType> {
    match kind.name {
        "F32" => Some(DType::F32),
        "F16" => Some(DType::F16),
        "BF16" => Some(DType::Bf16),
        _ => None,
    }
}

/// Rows of blocks in canonical form: `bytes` are whole rows of the type that `info` was made of.
pub(crate) fn tensor(kind: &GgmlType, info: TensorInfo, bytes: &Bytes) -> CanonicalTensor {
    let whole = CanonicalTensor::dense(DType::F32, info.shape, bytes.clone());
    let Some(block) = Block::of(kind.name) else { return CanonicalTensor { format: info.format, ..whole } };
    let [codes, scales, offsets, second_scales, second_offsets] = block.take_apart(bytes).map(Bytes::from);
    CanonicalTensor { format: info.format, codes, scales, offsets, second_scales, second_offsets, ..whole }
}

/// The parts of all blocks.
fn take_apart<L: Layout>(bytes: &[u8]) -> [Vec<u8>; 5] {
    /// Bytes that a thread takes apart at once: a few tenths of a millisecond's work.
    const AT_ONCE: usize = 1 << 20;
    let num_blocks = bytes.len() / L::BYTES;
    let mut parts = L::PARTS.map(|size| vec![0; num_blocks * size]);
    let mut rest = parts.each_mut().map(Vec::as_mut_slice);
    let runs = bytes.chunks(AT_ONCE / L::BYTES * L::BYTES);
    let runs = runs.map(|run| (run, cut(&mut rest, L::PARTS.map(|size| run.len() / L::BYTES * size))));
    in_parallel(runs.collect(), |(run, mut parts): (&[u8], Parts<'_>)| {
        run.chunks_exact(L::BYTES).for_each(|block| L::take_apart(block, cut(&mut parts, L::PARTS)));
    });
    parts
}

/// The first `sizes` bytes of each part, which are taken from it.
#[inline(always)]
#[allow(clippy::mut_mut, reason = "what is cut is the slice that lies in a part's place")]
fn cut<'a>([a, b, c, d, e]: &mut Parts<'a>, sizes: [usize; 5]) -> Parts<'a> {
    let cut = |part: &mut &'a mut [u8], size| part.split_off_mut(..size).unwrap_or_default();
    [cut(a, sizes[0]), cut(b, sizes[1]), cut(c, sizes[2]), cut(d, sizes[3]), cut(e, sizes[4])]
}

/// A type whose blocks are taken apart.
#[derive(Clone, Copy)]
enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Block {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "Q4_0" => Self::Q4_0,
            "Q4_1" => Self::Q4_1,
            "Q5_0" => Self::Q5_0,
            "Q5_1" => Self::Q5_1,
            "Q8_0" => Self::Q8_0,
            "Q4_K" => Self::Q4K,
            "Q5_K" => Self::Q5K,
            "Q6_K" => Self::Q6K,
            _ => return None,
        })
    }

    /// The public format of the same name.
    fn format(self) -> WeightFormat {
        let name = match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        };
        PUBLIC.iter().find(|(known, _)| *known == name).expect("a public format").1
    }

    fn take_apart(self, bytes: &[u8]) -> [Vec<u8>; 5] {
        match self {
            Self::Q4_0 => take_apart::<simple::Q4_0>(bytes),
            Self::Q4_1 => take_apart::<simple::Q4_1>(bytes),
            Self::Q5_0 => take_apart::<simple::Q5_0>(bytes),
            Self::Q5_1 => take_apart::<simple::Q5_1>(bytes),
            Self::Q8_0 => take_apart::<simple::Q8_0>(bytes),
            Self::Q4K => take_apart::<k::Q4K>(bytes),
            Self::Q5K => take_apart::<k::Q5K>(bytes),
            Self::Q6K => take_apart::<k::Q6K>(bytes),
        }
    }
}
