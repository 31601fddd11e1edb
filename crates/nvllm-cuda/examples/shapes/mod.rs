//! Qwen3's shapes with weights of no meaning, for examples that measure.

use std::cell::RefCell;
use std::collections::BTreeMap;

use nvllm_core::blocks::{CausalLmShape, DecoderLayer, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::weight::{Offset, ScaleType};
use nvllm_core::{
    AttentionSpec, CanonicalTensor, CoreError, DType, ModelSpec, PagedKv, Result, RopeScaling, RopeSpec,
    SpecBuilder, TensorInfo, WeightFormat, WeightSource,
};

/// Extents of a model.
pub(crate) struct Shape {
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    tied: bool,
}

/// Those of `0.6b` or `8b`.
pub(crate) fn shape(name: &str) -> Option<Shape> {
    match name {
        "0.6b" => Some(Shape { hidden: 1024, ffn: 3072, layers: 28, heads: 16, tied: true }),
        "8b" => Some(Shape { hidden: 4096, ffn: 12_288, layers: 36, heads: 32, tied: false }),
        _ => None,
    }
}

/// The model of a shape.
pub(crate) fn model(shape: &Shape) -> Result<ModelSpec> {
    let mut b = SpecBuilder::new();
    let kv = b.paged_kv(PagedKv { num_layers: shape.layers, num_heads: 8, head_dim: 128, window: None });
    let attention = GqaShape {
        hidden: shape.hidden,
        spec: AttentionSpec {
            num_heads: shape.heads,
            num_kv_heads: 8,
            head_dim: 128,
            scale: 0.088,
            window: None,
        },
        rope: RopeSpec { head_dim: 128, theta: 1e6, scaling: RopeScaling::None },
        qkv_bias: false,
        o_bias: false,
        qk_norm: Some(1e-6),
    };
    let ends = CausalLmShape {
        vocab: 151_936,
        hidden: shape.hidden,
        num_layers: shape.layers,
        eps: 1e-6,
        tied: shape.tied,
        max_positions: 4096,
    };
    let declare = |b: &mut SpecBuilder, i| {
        let scope = Scope::layer(i);
        DecoderLayer::declare(b, &scope, &attention, kv(i), |b| {
            GatedMlp::declare(b, &scope, shape.hidden, shape.ffn, false)
        })
    };
    causal_lm("Qwen3 shapes", &ends, b, declare, |layer, p, h| layer.record(p, h, 1e-6))
}

/// Weights of no meaning: tensors of a shape are one.
pub(crate) struct Repeated {
    tensors: BTreeMap<String, TensorInfo>,
    made: RefCell<BTreeMap<(Vec<usize>, String), CanonicalTensor>>,
}

impl Repeated {
    /// Layers' weights in the first format, tables of the vocabulary in the second.
    pub(crate) fn new(spec: &ModelSpec, layers: WeightFormat, ends: WeightFormat) -> Self {
        let parts = spec.weights.iter().flat_map(|decl| decl.parts.iter().map(move |part| (decl, part)));
        let tensor = |(decl, part): (&nvllm_core::WeightDecl, &nvllm_core::WeightPart)| {
            let info = match decl.shape.len() {
                1 => TensorInfo::dense(DType::Bf16, [part.num_rows]),
                _ => TensorInfo {
                    shape: vec![part.num_rows, decl.num_cols()],
                    format: if part.num_rows > 100_000 { ends } else { layers },
                },
            };
            (part.source.clone(), info)
        };
        Self { tensors: parts.map(tensor).collect(), made: RefCell::default() }
    }
}

/// Bytes of a counter, no FP8 NaN among them.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ state >> 29) & 0xf7f7_f7f7_f7f7_f7f7
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

fn constant(dtype: DType, value: f32, len: usize) -> Vec<u8> {
    let mut one = Vec::new();
    dtype.write(value, &mut one);
    one.repeat(len / one.len())
}

/// A tensor whose values are small.
fn tensor(info: &TensorInfo) -> CanonicalTensor {
    let (rows, cols) = (info.shape[0], info.shape.get(1).copied().unwrap_or(1));
    let dense = CanonicalTensor::dense(DType::Bf16, info.shape.clone(), bytes::Bytes::new());
    let format = info.format;
    let Some(scales) = format.scales else {
        let mut codes = noise(rows * cols * 2);
        let vector = info.shape.len() < 2;
        // Around 1 / 64, of both signs.
        codes.chunks_exact_mut(2).for_each(|x| x[1] = if vector { 0x3f } else { x[1] & 0x80 | 0x3c });
        return CanonicalTensor { codes: codes.into(), ..dense };
    };
    let blocks = |block: [usize; 2]| rows.div_ceil(block[0]) * cols.div_ceil(block[1]);
    let stored = |kind: ScaleType, block: [usize; 2], value: f32| match kind {
        ScaleType::F32 => constant(DType::F32, value, 4 * blocks(block)),
        ScaleType::F16 => constant(DType::F16, value, 2 * blocks(block)),
        ScaleType::Bf16 => constant(DType::Bf16, value, 2 * blocks(block)),
        _ => vec![0x11; rows * (cols.div_ceil(block[1]) * kind.bits()).div_ceil(8)],
    };
    let value = 0.01 / 64.0;
    let second = |value: f32| scales.second.map_or_else(Vec::new, |s| stored(s.kind, s.block, value / 16.0));
    let offsets = match format.offset {
        Offset::None | Offset::Midpoint => [Vec::new(), Vec::new()],
        Offset::Int => {
            [noise(rows * (cols.div_ceil(scales.block[1]) * format.code.bits()).div_ceil(8)), Vec::new()]
        }
        Offset::Float => [stored(scales.kind, scales.block, -7.5 * value), second(-7.5 * value)],
    };
    let [offsets, second_offsets] = offsets.map(Into::into);
    CanonicalTensor {
        format,
        codes: noise(rows * (cols * format.code.bits()).div_ceil(8)).into(),
        scales: stored(scales.kind, scales.block, value).into(),
        second_scales: second(value).into(),
        offsets,
        second_offsets,
        ..dense
    }
}

impl WeightSource for Repeated {
    fn describe(&self) -> String {
        "weights of no meaning".into()
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let missing = || CoreError::MissingTensor { name: name.into(), place: self.describe() };
        self.tensors.get(name).cloned().ok_or_else(missing)
    }

    fn tensor(&self, name: &str) -> Result<CanonicalTensor> {
        let info = self.info(name)?;
        let key = (info.shape.clone(), info.format.to_string());
        Ok(self.made.borrow_mut().entry(key).or_insert_with(|| tensor(&info)).clone())
    }
}
