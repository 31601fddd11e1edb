//! The ops of a real model, each by itself: held to the reference in the model's shapes, and loaded
//! so that it can be timed.
//!
//! A matrix of a real model is too much for the reference under many rows. There a step has few
//! different rows, each of them many times: the reference computes each once, and rows that are
//! equal have equal bits.

use nvllm_core::program::Node;
use nvllm_core::weight::{AxisRole, WeightPart};
use nvllm_core::{
    Activations, Backend, DType, KvFormat, Limits, ModelSpec, Numerics, Op, OpQuery, Plan, Program,
    ValueKind, WeightDecl, WeightFormat, WeightInfo,
};

use crate::check::conforms_to;
use crate::coded::Coded;
use crate::error::{Doing, Result};
use crate::every_row::every_row_conforms;
use crate::extents::Extents;
use crate::layout::{Layout, Outputs};
use crate::ring::Ring;
use crate::source::MemorySource;
use crate::timed::Timed;
use crate::trial::{Trial, limits};

/// Most elements of a weight that the reference is asked about: it holds two copies in f32.
const MOST_ELEMENTS: usize = 200_000_000;
/// Most elements of a coded one, whose codes and scales are drawn one by one.
const MOST_CODED: usize = 60_000_000;
/// Multiplications that the reference does in some seconds.
const WORK: usize = 600_000_000;
/// Different rows of a step, at most and at least.
const ROWS: [usize; 2] = [16, 2];
/// Rows of the tables if all may differ.
const TABLE_ROWS: usize = 131;
/// Bytes of weights and KV cache over which copies of an op are spread: more than caches hold.
const SPREAD_BYTES: usize = 512 << 20;
/// Position ids of the suite's steps are below.
const MOST_POSITIONS: usize = 65_536;
/// Tokens of a step from which an op is limited by arithmetic, and few copies do.
const MANY_TOKENS: usize = 64;
const FEW_COPIES: usize = 4;

/// What an op works on, and what is promised of it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The format of matrices; vectors are bf16 where these are coded.
    pub weights: WeightFormat,
    /// Storage of values.
    pub activations: Activations,
    /// Storage of keys and values.
    pub kv: KvFormat,
    /// The promise on the order of sums.
    pub numerics: Numerics,
    /// Seed of weights and rows.
    pub seed: u64,
}

impl Default for Setting {
    /// All in bf16, in the same order for any batch.
    fn default() -> Self {
        Self {
            weights: WeightFormat::dense(DType::Bf16),
            activations: Activations::Bf16,
            kv: KvFormat::Bf16,
            numerics: Numerics::Invariant,
            seed: 0,
        }
    }
}

/// How a backend runs an op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// By a kernel.
    Native,
    /// As the ops of its expansion, for this reason.
    Expanded(String),
    /// Not at all, for this reason.
    Refused(String),
}

/// One op of a model, in its shape.
#[derive(Clone, Debug)]
pub struct ModelOp {
    /// The op and its shape: `linear 4096x1024`.
    pub name: String,
    /// How often it stands in the model's program.
    pub count: usize,
    /// The model in the form in which the op stands.
    spec: ModelSpec,
    node: usize,
}

impl ModelOp {
    /// Every op of the first entry program of `spec`, each shape once: as the model records it, in
    /// fused ops as far as that goes, and in primitives.
    ///
    /// Errors if the program cannot be rewritten.
    pub fn all(spec: &ModelSpec) -> Result<Vec<Self>> {
        let recorded = spec.programs[0].clone();
        let fused = recorded.fuse(|_| true).doing("fusing")?;
        let primitive = recorded.expand(|_| true).doing("expanding")?;
        let mut ops: Vec<Self> = Vec::new();
        for program in [recorded, fused, primitive] {
            let spec = ModelSpec { programs: vec![program.clone()], ..spec.clone() };
            for (node, op) in program.nodes.iter().enumerate() {
                let name = name(&program, op);
                if ops.iter().all(|op| op.name != name) {
                    let count = program.nodes.iter().filter(|op| self::name(&program, op) == name).count();
                    ops.push(Self { name, count, spec: spec.clone(), node });
                }
            }
        }
        Ok(ops)
    }

    /// The op.
    pub fn op(&self) -> &Op {
        &self.spec.programs[0].nodes[self.node].op
    }

    /// How `backend` runs it, asked of its plan: what is planned is what runs.
    ///
    /// Errors if the op cannot be taken out of the model.
    pub fn support(&self, backend: &dyn Backend, setting: Setting) -> Result<Support> {
        let mut trial = self.trial(Extents::Prompt(1), setting, 1, 1)?;
        trial.source = MemorySource::announced(&trial.spec.weights, |decl| setting.format(decl));
        let infos = trial.spec.weights.iter().map(|decl| WeightInfo::of(decl, &trial.source));
        let infos = infos.collect::<nvllm_core::Result<Vec<_>>>().doing("describing weights")?;
        let refusal = |op| backend.supports(&OpQuery { op, weights: &infos, limits: &trial.limits }).err();
        let ops = trial.spec.programs[0].nodes.iter().map(|node| &node.op);
        let reason = ops.filter_map(refusal).map(|reason| reason.0).next_back();
        Ok(match backend.plan(&trial.spec, &trial.source, &trial.limits) {
            Ok(plan) if !self.nodes(&plan).is_empty() => Support::Native,
            Ok(_) => Support::Expanded(reason.unwrap_or_default()),
            Err(error) => Support::Refused(reason.unwrap_or_else(|| error.to_string())),
        })
    }

    /// Why the reference is not asked about it, if it is not.
    ///
    /// Errors if the op cannot be taken out of the model.
    pub fn beyond_reference(&self, setting: Setting) -> Result<Option<String>> {
        let most = if setting.weights.plain().is_some() { MOST_ELEMENTS } else { MOST_CODED };
        let largest = self.sizes()?.into_iter().max().filter(|&largest| largest > most);
        Ok(largest
            .map(|largest| format!("a weight has {largest} elements, and the reference is asked for {most}")))
    }

    /// Holds `backend` to the reference in a step of these extents, over drawn weights and rows.
    /// Returns the extents that were checked: contexts are as long as the reference can compute.
    ///
    /// Errors with the first difference.
    pub fn check(&self, backend: &dyn Backend, extents: Extents, setting: Setting) -> Result<Extents> {
        let (extents, work) = (self.affordable(extents), self.multiplications());
        let rows = WORK.checked_div(work).map_or(TABLE_ROWS, |rows| rows.clamp(ROWS[1], ROWS[0]));
        let trial = self.trial(extents, setting, 1, rows)?;
        let Coded { trial, twin, .. } = filled(trial, setting);
        let checked = if work == 0 { conforms_to } else { every_row_conforms };
        checked(backend, &trial.keep_all(), &twin.keep_all()).map(|()| extents)
    }

    /// Loads as many copies of the op as the model has, or as are more than caches hold, for a step
    /// of these extents.
    ///
    /// Errors if `backend` refuses, or runs the op in parts.
    pub fn load(&self, backend: &dyn Backend, extents: Extents, setting: Setting) -> Result<Timed> {
        let bits = setting.weights.code.bits();
        let bytes = self.sizes()?.into_iter().sum::<usize>() * bits / 8 + self.cache_bytes(extents, setting);
        let spread = SPREAD_BYTES.checked_div(bytes).unwrap_or(self.count);
        let most = if extents.tokens() > MANY_TOKENS { FEW_COPIES } else { self.count };
        let copies = self.count.min(spread).min(most).max(1);
        let trial = self.trial(extents, setting, copies, TABLE_ROWS)?;
        Timed::load(backend, &filled(trial, setting).trial, extents, |plan| self.nodes(plan))
    }

    /// Bytes of the keys and values that one copy reads or writes.
    fn cache_bytes(&self, extents: Extents, setting: Setting) -> usize {
        let Some(kv) = self.op().kv() else { return 0 };
        let positions = match extents {
            Extents::Decode { seqs, context } => seqs * (context + 1),
            Extents::Prompt(tokens) => tokens,
        };
        let group = &self.spec.kv[kv.group];
        2 * positions * group.num_heads * setting.kv.row_bytes(group.head_dim)
    }

    /// Nodes of a plan's program that are this op.
    fn nodes(&self, plan: &Plan) -> Vec<usize> {
        let program = &plan.spec.programs[0];
        let is_ours = |node: &Node| name(program, node) == self.name;
        program.nodes.iter().enumerate().filter(|(_, node)| is_ours(node)).map(|(at, _)| at).collect()
    }

    /// Elements of the weights of the op and of those that it needs.
    fn sizes(&self) -> Result<Vec<usize>> {
        let spec = self.spec.alone(self.node, 1, |at, cols| table(at, 1, cols));
        let weights = spec.doing("taking an op out of a model")?.weights;
        let model = weights.iter().filter(|decl| !Ring::is_table(decl));
        Ok(model.map(WeightDecl::num_elements).collect())
    }

    /// Multiplications of one row with matrices of which a naive reference can do few; 0 if there
    /// are none.
    fn multiplications(&self) -> usize {
        let program = &self.spec.programs[0];
        let of_expert = |node: &Node| match node.op {
            Op::ExpertLinear { weight } => self.spec.weights[weight.index()].shape[1..].iter().product(),
            _ => 0,
        };
        match self.op() {
            Op::Linear { weight, .. } | Op::LinearAdd { weight, .. } | Op::LinearSiluMul { weight, .. } => {
                self.spec.weights[weight.index()].num_elements()
            }
            // Few models have a token go through more experts.
            Op::ExpertLinear { .. } | Op::WeightedSum => {
                8 * program.nodes.iter().map(of_expert).max().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// As much of a decode step's context as the reference can compute from the start.
    fn affordable(&self, extents: Extents) -> Extents {
        let (Extents::Decode { seqs, context }, Some(kv)) = (extents, self.op().kv()) else { return extents };
        let width = match self.op() {
            Op::Attention { spec, .. } | Op::PagedAttention { spec, .. } => spec.num_heads * spec.head_dim,
            _ => self.spec.kv[kv.group].num_heads * self.spec.kv[kv.group].head_dim,
        };
        let most = ((WORK / (seqs * width)) as f64).sqrt() as usize;
        Extents::Decode { seqs, context: context.min(most).max(1) }
    }

    /// A step of these extents through `copies` of the op, over tables of `table_rows` rows.
    /// Weights have no content yet.
    fn trial(&self, extents: Extents, setting: Setting, copies: usize, table_rows: usize) -> Result<Trial> {
        let spec = self.spec.alone(self.node, copies, |at, cols| table(at, table_rows, cols));
        let mut spec = spec.doing("taking an op out of a model")?;
        // The suite's positions are those of any model.
        spec.max_positions = spec.max_positions.max(MOST_POSITIONS);
        let cached = self.op().kv().is_some();
        let (seqs, outputs) = match extents {
            Extents::Decode { seqs, context } if cached => (vec![vec![context, 1]; seqs], Outputs::All),
            Extents::Decode { seqs, .. } => (vec![vec![1]; seqs], Outputs::All),
            Extents::Prompt(tokens) => (vec![vec![tokens]], Outputs::Last),
        };
        let layout = Layout { seqs, outputs, logits: false, ..Layout::whole(&[1], setting.seed) };
        let limits = limits(&layout, &spec.kv, setting.activations, setting.kv);
        let limits = Limits { numerics: setting.numerics, ..limits };
        Ok(Trial { spec, source: MemorySource::new(), limits, layout })
    }
}

/// The trial with drawn weights.
fn filled(trial: Trial, setting: Setting) -> Coded {
    let ring = Ring::new(setting.seed);
    let source = ring.source(&trial.spec.weights, setting.weights.plain().unwrap_or(DType::Bf16));
    let trial = Trial { source, ..trial };
    if setting.weights.plain().is_some() {
        return Coded { twin: trial.clone(), trial, names: Vec::new() };
    }
    Coded::matrices(trial, setting.weights)
}

impl Setting {
    /// In what a weight is stored.
    fn format(&self, decl: &WeightDecl) -> WeightFormat {
        let coded = self.weights.plain().is_none();
        let stays = coded && (decl.shape.len() < 2 || Ring::is_table(decl));
        if stays { WeightFormat::dense(DType::Bf16) } else { self.weights }
    }
}

/// A table of rows.
fn table(at: usize, rows: usize, cols: usize) -> WeightDecl {
    let (name, role) = (format!("{}.{at}", Ring::TABLE), AxisRole::Replicated);
    let parts = vec![WeightPart { source: name.clone(), num_rows: rows, role }];
    WeightDecl { name, shape: vec![rows, cols], parts, in_role: role }
}

/// `linear 4096x1024`: the op, and the shape of its matrix, its heads or its row.
pub(crate) fn name(program: &Program, node: &Node) -> String {
    let dims = |dims: &[usize]| dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    let stem = node.op.stem();
    let cols = node.inputs.first().map_or(0, |&id| program.value(id).cols);
    let wide = node.outputs.first().is_some_and(|&id| program.value(id).kind == ValueKind::F32);
    match &node.op {
        Op::RmsNorm { weight, .. } => {
            let n = program.weights[weight.index()].num_elements();
            format!("{stem} {}", dims(&[cols / n.max(1), n]))
        }
        Op::Attention { spec, .. } | Op::PagedAttention { spec, .. } => {
            let window = spec.window.map_or_else(String::new, |window| format!(" window {window}"));
            format!("{stem} {}/{}x{}{window}", spec.num_heads, spec.num_kv_heads, spec.head_dim)
        }
        Op::Rope(spec) => format!("{stem} {}", dims(&[cols / spec.head_dim.max(1), spec.head_dim])),
        Op::TopK { k, .. } => format!("{stem} {k} of {cols}"),
        Op::SliceCols { start, len } => format!("{stem} {start}+{len} of {cols}"),
        op => match op.weights().first() {
            Some(id) => {
                let shape = dims(&program.weights[id.index()].shape);
                let wide = if wide { " to f32" } else { "" };
                format!("{stem} {shape}{wide}")
            }
            None => format!("{stem} {cols}"),
        },
    }
}
