//! ggml's blocks taken apart: codes to codes, scales to scales.
//!
//! ggml keeps a block's scales beside its codes and spreads codes of five and six bits over several
//! bytes; the canonical form has them apart and in a row. Nothing is computed but the sign of
//! `dmin`, so an element's value is ggml's. Layouts and formulas: ggml, `ggml-common.h` and
//! `ggml-quants.c`.

mod k;
mod simple;

use bytes::Bytes;
use nvllm_core::weight::{CanonicalTensor, PUBLIC, TensorInfo, WeightFormat};
use nvllm_core::{CoreError, DType, Result};

use crate::SUPPORTED;
use crate::ggml_type::GgmlType;

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
    let num_blocks = bytes.len() / kind.block_bytes;
    let mut parts = Parts::default();
    parts.codes.reserve_exact(num_blocks * kind.block_len * info.format.code.bits() / 8);
    bytes.chunks_exact(kind.block_bytes).for_each(|bytes| block.push(bytes, &mut parts));
    CanonicalTensor {
        format: info.format,
        codes: parts.codes.into(),
        scales: parts.scales.into(),
        offsets: parts.offsets.into(),
        second_scales: parts.second_scales.into(),
        second_offsets: parts.second_offsets.into(),
        ..whole
    }
}

/// The byte strings of a canonical tensor, as far as blocks have been pushed.
#[derive(Default)]
struct Parts {
    codes: Vec<u8>,
    scales: Vec<u8>,
    offsets: Vec<u8>,
    second_scales: Vec<u8>,
    second_offsets: Vec<u8>,
}

/// A type whose blocks are taken apart. Blocks fill whole bytes of each part, so that rows have no
/// padding.
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

    fn push(self, block: &[u8], parts: &mut Parts) {
        match self {
            Self::Q4_0 => simple::q4_0(block, parts),
            Self::Q4_1 => simple::q4_1(block, parts),
            Self::Q5_0 => simple::q5_0(block, parts),
            Self::Q5_1 => simple::q5_1(block, parts),
            Self::Q8_0 => simple::q8_0(block, parts),
            Self::Q4K => k::q4_k(block, parts),
            Self::Q5K => k::q5_k(block, parts),
            Self::Q6K => k::q6_k(block, parts),
        }
    }
}

/// Appends codes of `BITS` bits, a multiple of eight: from the lowest bit of a byte up, eight codes
/// in as many bytes as a code has bits.
fn pack<const BITS: usize>(codes: &[u8], out: &mut Vec<u8>) {
    for eight in codes.as_chunks::<8>().0 {
        let word = eight.iter().rev().fold(0_u64, |word, &code| word << BITS | u64::from(code));
        out.extend_from_slice(&word.to_le_bytes()[..BITS]);
    }
}
