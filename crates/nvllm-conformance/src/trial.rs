//! One trial: a program with its weights, limits and steps.
//!
//! Programs have no inputs beside tokens, and need none: every program begins with `embed` of
//! random tables, and a token selects a row. So any x, q, k, v or router logits can be given to an
//! op.

use nvllm_core::program::Recorder;
use nvllm_core::weight::WeightPart;
use nvllm_core::{
    Activations, AxisRole, Backend, DType, EntryId, KvFormat, KvGeometry, KvLayer, Limits, ModelSpec, Op,
    OpQuery, PagedKv, Program, SpecBuilder, Step, WeightDecl, WeightId,
};
use proptest::prelude::*;

use crate::draw::Draw;
use crate::layout::Layout;
use crate::source::MemorySource;

/// Element types and the seed of all values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// Of tables and matrices.
    pub weights: DType,
    /// Of norms and biases.
    pub vectors: DType,
    pub activations: Activations,
    pub kv: KvFormat,
    pub seed: u64,
}

/// Every combination of element types, with each format of the KV cache that `backend` runs.
pub(crate) fn numbers(backend: &dyn Backend) -> impl Strategy<Value = Numbers> + use<> {
    let weights = || prop_oneof![Just(DType::F32), Just(DType::Bf16), Just(DType::F16)];
    let activations = prop_oneof![Just(Activations::F32), Just(Activations::Bf16)];
    let kv = prop::sample::select(kv_formats(backend));
    (weights(), weights(), activations, kv, any::<u64>()).prop_map(
        |(weights, vectors, activations, kv, seed)| Numbers { weights, vectors, activations, kv, seed },
    )
}

impl Numbers {
    /// For heads of this width: those that fast kernels take have more often what they ask for, a
    /// cache of the activations' type or of codes.
    pub(crate) fn for_heads(self, head_dim: usize) -> Self {
        let alike = head_dim >= 64 && self.kv.plain().is_some() && !self.seed.is_multiple_of(4);
        Self { kv: if alike { self.activations.kv_format() } else { self.kv }, ..self }
    }
}

/// The formats of the KV cache that `backend` runs: f32 and bf16 it has to.
pub(crate) fn kv_formats(backend: &dyn Backend) -> Vec<KvFormat> {
    let limits = limits(&Layout::whole(&[1], 0), &[], Activations::F32, KvFormat::F32);
    let op = Op::KvAppend { kv: KvLayer { group: 0, layer: 0 } };
    let runs = OpQuery { op: &op, weights: &[], limits: &limits }.kv_formats(backend);
    KvFormat::ALL.into_iter().filter(|format| format.plain().is_some() || runs.contains(format)).collect()
}

/// A program to run, complete.
#[derive(Clone)]
pub(crate) struct Trial {
    pub spec: ModelSpec,
    pub source: MemorySource,
    pub limits: Limits,
    pub layout: Layout,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for program in &self.spec.programs {
            write!(f, "{program}")?;
        }
        let dtypes: Vec<_> = self
            .spec
            .weights
            .iter()
            .map(|w| {
                use nvllm_core::WeightSource;
                let format =
                    |part: &WeightPart| Some(self.source.info(&part.source).ok()?.format.to_string());
                let mut formats: Vec<_> = w.parts.iter().filter_map(format).collect();
                formats.dedup();
                format!("{} {} in {} parts", w.name, formats.join(", then "), w.parts.len())
            })
            .collect();
        writeln!(f, "weights: {}", dtypes.join(", "))?;
        writeln!(f, "{:?}", self.limits)?;
        writeln!(f, "{:?}", self.layout)
    }
}

impl Trial {
    /// The layout's steps, through the entry programs in turn.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = self.layout.steps(self.spec.vocab_size, self.spec.kv.len());
        for (at, step) in steps.iter_mut().enumerate() {
            step.entry = EntryId((at % self.spec.programs.len()) as u32);
        }
        steps
    }

    /// The same model with its program a second time, as the entry `name`.
    pub(crate) fn with_entry(mut self, name: &str) -> Self {
        let program = Program { name: name.into(), ..self.spec.programs[0].clone() };
        self.spec.programs.push(program);
        self
    }

    /// The same content, placed otherwise.
    pub(crate) fn with_layout(&self, layout: Layout) -> Self {
        let limits = limits(&layout, &self.spec.kv, self.limits.activations, self.limits.kv_format);
        Self { limits, layout, ..self.clone() }
    }

    /// Labels every value `v0`, `v1`, .. and keeps it.
    pub(crate) fn keep_all(mut self) -> Self {
        for program in &mut self.spec.programs {
            for (i, value) in program.values.iter_mut().enumerate() {
                value.label = Some(format!("v{i}"));
                value.keep = true;
            }
        }
        self
    }
}

pub(crate) fn limits(
    layout: &Layout,
    kv: &[PagedKv],
    activations: Activations,
    kv_format: KvFormat,
) -> Limits {
    let needs = layout.needs();
    let mut limits = Limits {
        step_tokens: needs.step_tokens,
        step_outputs: needs.step_outputs,
        block_len: layout.block_len,
        kv_bytes: usize::MAX,
        kv_format,
        ..Limits::new(activations, needs.slots, needs.context)
    };
    let block_bytes = KvGeometry::bytes_of_block(kv, &limits).expect("the suite's blocks are small");
    limits.kv_bytes = needs.num_blocks * block_bytes;
    limits
}

/// Draws weights while a program over them is written.
pub(crate) struct Sketch {
    pub builder: SpecBuilder,
    pub numbers: Numbers,
    pub draw: Draw,
    source: MemorySource,
    kv: Vec<PagedKv>,
}

impl Sketch {
    pub(crate) fn new(numbers: Numbers) -> Self {
        let draw = Draw::new(numbers.seed);
        Self { builder: SpecBuilder::new(), numbers, draw, source: MemorySource::new(), kv: Vec::new() }
    }

    /// A weight of `shape` in `parts` (rows each), its values made by `value` from the stream and
    /// the index.
    pub(crate) fn weight(
        &mut self,
        name: &str,
        shape: &[usize],
        parts: &[usize],
        mut value: impl FnMut(&mut Draw, usize) -> f32,
    ) -> WeightId {
        let dtype = if shape.len() == 1 { self.numbers.vectors } else { self.numbers.weights };
        let cols = if shape.len() == 1 { 1 } else { shape[shape.len() - 1] };
        let mut at = 0;
        let parts = parts
            .iter()
            .enumerate()
            .map(|(i, &num_rows)| {
                let part = WeightPart { source: format!("{name}.{i}"), num_rows, role: AxisRole::Replicated };
                let values: Vec<_> = (at..at + num_rows * cols).map(|i| value(&mut self.draw, i)).collect();
                at += values.len();
                let tensor = if shape.len() == 1 { vec![num_rows] } else { vec![num_rows, cols] };
                self.source.insert(&part.source, dtype, &tensor, values);
                part
            })
            .collect();
        let decl =
            WeightDecl { name: name.into(), shape: shape.to_vec(), parts, in_role: AxisRole::Replicated };
        self.builder.weight(decl)
    }

    /// A table of inputs: row scales differ by up to 2^6, columns are of the size of the row.
    pub(crate) fn table(&mut self, name: &str, rows: usize, cols: usize) -> WeightId {
        self.table_of(name, rows, cols, [1.0, 1.0, 0.25, 16.0])
    }

    /// A table whose rows are each of one of the `scales`.
    pub(crate) fn table_of(&mut self, name: &str, rows: usize, cols: usize, scales: [f32; 4]) -> WeightId {
        let parts = 1 + self.draw.below(3);
        let parts = self.draw.split(rows, parts);
        let mut scale = 1.0;
        self.weight(name, &[rows, cols], &parts, |draw, i| {
            if i % cols == 0 {
                scale = scales[draw.below(4)];
            }
            draw.unit() * scale
        })
    }

    /// A table whose rows are all of unit scale.
    pub(crate) fn even_table(&mut self, name: &str, rows: usize, cols: usize, scale: f32) -> WeightId {
        self.weight(name, &[rows, cols], &[rows], |draw, _| draw.unit() * scale)
    }

    /// A matrix `[n, k]` of deviation `1 / sqrt(k)` in one to three parts.
    pub(crate) fn matrix(&mut self, name: &str, n: usize, k: usize) -> WeightId {
        let parts = 1 + self.draw.below(3);
        let parts = self.draw.split(n, parts);
        let scale = 1.0 / (k as f32).sqrt();
        self.weight(name, &[n, k], &parts, |draw, _| draw.unit() * scale)
    }

    /// A vector `[n]` around `mean`.
    pub(crate) fn vector(&mut self, name: &str, n: usize, mean: f32, deviation: f32) -> WeightId {
        self.weight(name, &[n], &[n], |draw, _| mean + draw.unit() * deviation)
    }

    /// Experts `[e, n, k]`, each expert in as many parts as `split` says.
    pub(crate) fn experts(&mut self, name: &str, [e, n, k]: [usize; 3], split: usize) -> WeightId {
        let scale = 1.0 / (k as f32).sqrt();
        let each = self.draw.split(n, split);
        let parts: Vec<_> = (0..e).flat_map(|_| each.clone()).collect();
        self.weight(name, &[e, n, k], &parts, |draw, _| draw.unit() * scale)
    }

    /// Declares the next KV group.
    pub(crate) fn paged_kv(
        &mut self,
        num_layers: usize,
        num_heads: usize,
        head_dim: usize,
        window: Option<usize>,
    ) -> impl Fn(usize) -> KvLayer + use<> {
        let kv = PagedKv { num_layers, num_heads, head_dim, window };
        self.kv.push(kv.clone());
        self.builder.paged_kv(kv)
    }

    /// The trial, with the program that `record` writes.
    pub(crate) fn finish(
        self,
        vocab_size: usize,
        layout: Layout,
        record: impl FnOnce(&mut Recorder),
    ) -> Trial {
        let mut recorder = self.builder.program("generate");
        record(&mut recorder);
        let program = recorder.finish().expect("the suite records sound programs");
        let limits = limits(&layout, &self.kv, self.numbers.activations, self.numbers.kv);
        let spec = self.builder.finish("conformance", vec![program], vocab_size, 65_536);
        Trial { spec, source: self.source, limits, layout }
    }
}
