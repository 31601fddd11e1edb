//! How long decode steps take with weights in each format: Qwen3's shapes, weights of no meaning.
//!
//! `decode_formats [0.6b|8b] [FORMAT..]` prints milliseconds a step beside those of bf16, measured
//! in the same run. A layer's weights are in the format; tables of the vocabulary are in int8
//! wherever the format has no more than 8 bits.
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use nvllm_core::blocks::{CausalLmShape, DecoderLayer, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::weight::{Offset, PUBLIC, ScaleType, WHOLE};
use nvllm_core::{
    Activations, AttentionSpec, Backend, CanonicalTensor, Code, CoreError, DType, Executable, KvFormat,
    KvGeometry, Limits, ModelSpec, Numerics, OutputRow, PagedKv, Result, RopeScaling, RopeSpec, SeqStep,
    SlotId, SlotReset, Source, SpecBuilder, Step, StepId, TensorInfo, Ticket, TokenId, WeightFormat,
    WeightSource,
};
use nvllm_cuda::{CudaBackend, CudaOptions};

/// Steps before those that are timed, and those.
const STEPS: [u64; 2] = [120, 200];

const BLOCK_LEN: usize = 16;

/// Extents of a model.
struct Shape {
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    tied: bool,
}

fn shape(name: &str) -> Option<Shape> {
    match name {
        "0.6b" => Some(Shape { hidden: 1024, ffn: 3072, layers: 28, heads: 16, tied: true }),
        "8b" => Some(Shape { hidden: 4096, ffn: 12_288, layers: 36, heads: 32, tied: false }),
        _ => None,
    }
}

fn model(shape: &Shape) -> Result<ModelSpec> {
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
struct Repeated {
    tensors: BTreeMap<String, TensorInfo>,
    made: RefCell<BTreeMap<(Vec<usize>, String), CanonicalTensor>>,
}

impl Repeated {
    fn new(spec: &ModelSpec, layers: WeightFormat, ends: WeightFormat) -> Self {
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

/// `batch` sequences, each with blocks of its own.
struct Decoding {
    exe: Box<dyn Executable>,
    seq_blocks: usize,
    num_steps: u64,
}

impl Decoding {
    fn submit(&mut self, batch: usize, first: bool) -> Result<Ticket> {
        let seq = |slot: usize| {
            let blocks: Arc<[_]> = (0..self.seq_blocks)
                .map(|i| nvllm_core::BlockId((1 + slot * self.seq_blocks + i) as u32))
                .collect();
            let token = if first { Source::Host(TokenId(slot as u32)) } else { Source::Slot };
            let position = if first { Source::Host(0) } else { Source::Slot };
            SeqStep {
                slot: SlotId(slot as u32),
                tokens: [token].into(),
                positions: [position].into(),
                kv_start: position,
                block_tables: [blocks].into_iter().collect(),
                outputs: [OutputRow::sample(0)].into(),
            }
        };
        let reset = |slot| SlotReset {
            slot: SlotId(slot),
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::default(),
        };
        let resets = if first { (0..batch as u32).map(reset).collect() } else { Vec::new() };
        let step = Step {
            id: StepId(self.num_steps),
            resets,
            seqs: (0..batch).map(seq).collect(),
            ..Step::default()
        };
        self.num_steps += 1;
        self.exe.submit(&step)
    }

    /// Seconds a step, the next one submitted before the last one's tokens are collected.
    fn seconds(&mut self, batch: usize) -> Result<f64> {
        let mut last = self.submit(batch, true)?;
        let mut begin = Instant::now();
        for step in 0..STEPS[0] + STEPS[1] {
            if step == STEPS[0] {
                begin = Instant::now();
            }
            let next = self.submit(batch, false)?;
            self.exe.collect(std::mem::replace(&mut last, next))?;
        }
        self.exe.collect(last)?;
        Ok(begin.elapsed().as_secs_f64() / STEPS[1] as f64)
    }
}

/// Seconds a step with 1 and 8 sequences, and bytes of weights.
fn measure(backend: &CudaBackend, spec: &ModelSpec, formats: [WeightFormat; 2]) -> Result<([f64; 2], usize)> {
    let mut limits = Limits {
        step_tokens: 8,
        step_outputs: 8,
        seqs: 8,
        context: 512,
        block_len: BLOCK_LEN,
        kv_bytes: 0,
        kv_format: KvFormat::Bf16,
        activations: Activations::Bf16,
        numerics: Numerics::Invariant,
        max_in_flight: 2,
    };
    let seq_blocks = limits.context / BLOCK_LEN;
    limits.kv_bytes = KvGeometry::bytes_of_block(&spec.kv, &limits)? * (1 + 8 * seq_blocks);
    let source = Repeated::new(spec, formats[0], formats[1]);
    let plan = backend.plan(spec, &source, &limits)?;
    let bytes = plan.memory.weights;
    let mut exe = backend.load(plan, &source)?;
    while exe.prepare(true)? {}
    let mut decoding = Decoding { exe, seq_blocks, num_steps: 0 };
    Ok(([decoding.seconds(1)?, decoding.seconds(8)?], bytes))
}

fn formats() -> Vec<(&'static str, WeightFormat)> {
    use nvllm_core::WeightFormat as F;
    let own = [
        ("bf16", F::dense(DType::Bf16)),
        ("int8", F::scaled(Code::I8, ScaleType::F32, [1, WHOLE], Offset::None)),
        ("fp8", F::scaled(Code::E4M3, ScaleType::F32, [1, WHOLE], Offset::None)),
        ("int4", F::scaled(Code::U4, ScaleType::F16, [1, 128], Offset::Midpoint)),
    ];
    own.into_iter().chain(PUBLIC).collect()
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "0.6b".into());
    let spec = model(&shape(&name).ok_or("the shapes are 0.6b and 8b")?)?;
    let asked: Vec<String> = args.collect();
    let asked = if asked.is_empty() {
        vec!["bf16".into(), "int8".into(), "fp8".into(), "int4".into()]
    } else {
        asked
    };
    let cache_dir = Some(std::env::temp_dir().join("nvllm-cuda-test-kernels"));
    let backend = CudaBackend::new(&CudaOptions { cache_dir, ..CudaOptions::default() })?;
    let (all, mut dense) = (formats(), None);
    for name in asked {
        let (_, format) =
            all.iter().find(|(known, _)| *known == name).ok_or_else(|| format!("no format {name}"))?;
        let ends = if format.code.bits() > 8 { *format } else { all[1].1 };
        let (seconds, bytes) = measure(&backend, &spec, [*format, ends])?;
        let dense = *dense.get_or_insert(seconds);
        let of = |i: usize| format!("{:.3} ms {:.2}x", seconds[i] * 1e3, dense[i] / seconds[i]);
        println!("{name}: {:.3} GB, 1 sequence {}, 8 sequences {}", bytes as f64 / 1e9, of(0), of(1));
    }
    Ok(())
}
