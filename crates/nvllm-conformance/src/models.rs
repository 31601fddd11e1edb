//! Small random programs with the shape of a language model: what single ops cannot show is how
//! they are put together.

use std::collections::VecDeque;

use nvllm_core::program::{QkNorm, Recorder};
use nvllm_core::{
    Activations, AttentionSpec, Backend, Executable, KvFormat, KvLayer, Reference, RopeScaling, RopeSpec,
    RowOutput, Step, StepOutput, ValueId, WeightId,
};
use proptest::prelude::*;

use crate::anchor::first_difference;
use crate::check::{Settings, conforms, holds, load};
use crate::error::{Difference, Doing, Mismatch, Result};
use crate::layout::{Layout, Outputs, layouts, long};
use crate::ops::{Routing, head_dims, ropes, router, routings};
use crate::tolerance::program;
use crate::trial::{Numbers, Sketch, Trial, numbers};

/// Extents of a random model.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub vocab: usize,
    pub hidden: usize,
    pub layers: usize,
    pub num_kv: usize,
    pub group: usize,
    pub ffn: usize,
    pub norm: bool,
    pub bias: bool,
    pub tied: bool,
    pub window: Option<usize>,
    /// Every second layer is routed.
    pub routing: Option<Routing>,
    pub rope: RopeSpec,
}

pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let rope = head_dims().prop_flat_map(ropes);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let window = prop_oneof![Just(None), Just(Some(4_usize)), Just(Some(33))];
    let extents = (5..150_usize, 3..50_usize, 1..4_usize, 1..3_usize, 1..4_usize, 1..60_usize);
    let routing = prop_oneof![2 => Just(None).boxed(), 1 => routings().prop_map(Some).boxed()];
    (extents, flags, window, routing, rope).prop_map(
        |((vocab, hidden, layers, num_kv, group, ffn), (norm, bias, tied), window, routing, rope)| Shape {
            vocab,
            hidden,
            layers,
            num_kv,
            group,
            ffn,
            norm,
            bias,
            tied,
            window,
            routing,
            rope,
        },
    )
}

/// Weights of a layer.
struct Layer {
    norms: [WeightId; 2],
    qkv: WeightId,
    qkv_bias: Option<WeightId>,
    qk_norm: Option<QkNorm>,
    o: WeightId,
    ffn: Ffn,
    spec: AttentionSpec,
    kv: KvLayer,
}

enum Ffn {
    Dense { gate_up: WeightId, down: WeightId },
    Routed { router: WeightId, gate_up: WeightId, down: WeightId, routing: Routing },
}

impl Shape {
    /// A small dense model in which attention is what matters: `num_kv` key/value heads of
    /// `head_dim`, each shared by `group` query heads.
    pub(crate) fn of_heads(layers: usize, [head_dim, num_kv, group]: [usize; 3], norm: bool) -> Self {
        Self {
            vocab: 61,
            hidden: 16,
            layers,
            num_kv,
            group,
            ffn: 9,
            norm,
            bias: false,
            tied: true,
            window: None,
            routing: None,
            rope: RopeSpec { head_dim, theta: 1e4, scaling: RopeScaling::None },
        }
    }

    /// Op applications that one logit depends on, roughly: two residual branches a layer.
    pub(crate) fn depth(&self) -> usize {
        2 * self.layers
    }

    /// All layers in one KV group, every second one with the window.
    pub(crate) fn trial(&self, numbers: Numbers, layout: Layout) -> Trial {
        let mut sketch = Sketch::new(numbers);
        let kv = sketch.paged_kv(self.layers, self.num_kv, self.rope.head_dim, None);
        let window = |i: usize| self.window.filter(|_| i.is_multiple_of(2));
        let places: Vec<_> = (0..self.layers).map(|i| (kv(i), window(i))).collect();
        self.layered(sketch, layout, &places)
    }

    /// Each layer in a KV group of its own, which has the layer's window.
    pub(crate) fn grouped(&self, numbers: Numbers, layout: Layout, windows: &[Option<usize>]) -> Trial {
        let mut sketch = Sketch::new(numbers);
        let group = |&window| (sketch.paged_kv(1, self.num_kv, self.rope.head_dim, window)(0), window);
        let places: Vec<_> = windows.iter().map(group).collect();
        self.layered(sketch, layout, &places)
    }

    /// A layer for each place of its keys and values and its window.
    fn layered(&self, mut sketch: Sketch, layout: Layout, places: &[(KvLayer, Option<usize>)]) -> Trial {
        let table = sketch.even_table("embed_tokens", self.vocab, self.hidden, 1.0);
        let layers: Vec<_> =
            places.iter().enumerate().map(|(i, &place)| self.layer(&mut sketch, i, place)).collect();
        let last = sketch.vector("norm", self.hidden, 1.0, 0.2);
        let head = if self.tied { table } else { sketch.matrix("lm_head", self.vocab, self.hidden) };
        sketch.finish(self.vocab, layout, |p| {
            let mut h = p.embed(table);
            for layer in &layers {
                h = layer.record(p, h, &self.rope);
            }
            let x = p.gather_rows(h);
            let x = p.rms_norm(x, last, 1e-6);
            let logits = p.linear_f32(x, head);
            p.label(logits, "logits");
            p.output_logits(logits);
        })
    }

    fn layer(&self, sketch: &mut Sketch, i: usize, (kv, window): (KvLayer, Option<usize>)) -> Layer {
        let (d, hidden, num_heads) = (self.rope.head_dim, self.hidden, self.num_kv * self.group);
        let name = |part: &str| format!("layers.{i}.{part}");
        let width = (num_heads + 2 * self.num_kv) * d;
        let norms = ["input_norm", "post_norm"].map(|n| sketch.vector(&name(n), hidden, 1.0, 0.2));
        let qk_norm = self.norm.then(|| {
            let [q, k] = ["q_norm", "k_norm"].map(|n| sketch.vector(&name(n), d, 1.5, 0.3));
            QkNorm { q, k, eps: 1e-6 }
        });
        let ffn = match &self.routing {
            Some(routing) if i % 2 == 1 || self.layers == 1 => Ffn::Routed {
                router: router(sketch, &name("router"), routing, hidden),
                gate_up: sketch.experts(&name("experts.gate_up"), [routing.experts, 2 * self.ffn, hidden], 2),
                down: sketch.experts(&name("experts.down"), [routing.experts, hidden, self.ffn], 1),
                routing: routing.clone(),
            },
            _ => Ffn::Dense {
                gate_up: sketch.matrix(&name("gate_up"), 2 * self.ffn, hidden),
                down: sketch.matrix(&name("down"), hidden, self.ffn),
            },
        };
        Layer {
            norms,
            qkv: sketch.matrix(&name("qkv"), width, hidden),
            qkv_bias: self.bias.then(|| sketch.vector(&name("qkv_bias"), width, 0.0, 0.5)),
            qk_norm,
            o: sketch.matrix(&name("o"), hidden, num_heads * d),
            ffn,
            spec: AttentionSpec {
                num_heads,
                num_kv_heads: self.num_kv,
                head_dim: d,
                scale: 1.0 / (d as f32).sqrt(),
                window,
            },
            kv,
        }
    }
}

impl Layer {
    fn record(&self, p: &mut Recorder, h: ValueId, rope: &RopeSpec) -> ValueId {
        let x = p.rms_norm(h, self.norms[0], 1e-6);
        let qkv = p.linear(x, nvllm_core::program::Projection { weight: self.qkv, bias: self.qkv_bias });
        let a = p.attention(qkv, self.qk_norm, rope, &self.spec, self.kv);
        let a = p.linear(a, self.o);
        let a = p.all_reduce(a);
        let h = p.add(h, a);
        let x = p.rms_norm(h, self.norms[1], 1e-6);
        let y = match &self.ffn {
            Ffn::Dense { gate_up, down } => {
                let x = p.linear(x, *gate_up);
                let x = p.silu_mul(x);
                p.linear(x, *down)
            }
            Ffn::Routed { router, gate_up, down, routing } => {
                let logits = p.linear_f32(x, *router);
                let (ids, weights) = p.top_k(logits, routing.per_token, routing.renormalize);
                let x = p.expert_linear(x, *gate_up, ids);
                let x = p.silu_mul(x);
                let x = p.expert_linear(x, *down, ids);
                p.weighted_sum(x, weights)
            }
        };
        let y = p.all_reduce(y);
        p.add(h, y)
    }
}

/// Ragged batches of a size that whole models run in a moment.
fn batches() -> impl Strategy<Value = Layout> {
    let rows = prop_oneof![2 => Just(1_usize), 3 => Just(19_usize), 1 => Just(111_usize)];
    let layouts = prop_oneof![6 => layouts(rows, 40).boxed(), 1 => long().boxed()];
    layouts.prop_map(|layout| Layout { logits: true, ..layout })
}

pub(crate) fn trials(backend: &dyn Backend) -> impl Strategy<Value = (Shape, Trial)> + use<> {
    (numbers(backend), batches(), shapes()).prop_map(|(numbers, layout, mut shape)| {
        if layout.lens().into_iter().max() > Some(250) {
            shape = Shape { num_kv: 1, group: shape.group.min(2), layers: shape.layers.min(2), ..shape };
        }
        let trial = shape.trial(numbers.for_heads(shape.rope.head_dim), layout);
        (shape, trial)
    })
}

/// Random models with every value kept: each op on the backend's own inputs, whatever came before
/// it.
pub fn models_op_by_op(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = trials(backend).prop_map(|(_, trial)| trial.keep_all());
    holds("models_op_by_op", settings, 1.0, trials, |trial| conforms(backend, trial))
}

/// Random models with nothing kept, first op to logits: buffers are shared and ops may be fused.
///
/// Routed models are compared in f32 only, cache included: in bf16 a near tie between two experts
/// may fall either way.
pub fn models_end_to_end(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let trials = trials(backend).prop_map(|(shape, mut trial)| {
        if shape.routing.is_some() {
            (trial.limits.activations, trial.limits.kv_format) = (Activations::F32, KvFormat::F32);
            trial = trial.with_layout(trial.layout.clone());
        }
        (shape, trial)
    });
    holds("models_end_to_end", settings, 1.0, trials, |(shape, trial)| {
        let mut theirs = load(backend, trial)?;
        let mut ours = load(&Reference::default(), trial)?;
        for (at, step) in trial.steps().iter().enumerate() {
            let (got, want) = (run(&mut *theirs, step)?, run(&mut *ours, step)?);
            let (got, want) = (logits(&got)?, logits(&want)?);
            let allowed = program(trial.limits.activations, trial.limits.kv_format, shape.depth());
            same_logits(at, &got, &want, allowed)?;
        }
        Ok(())
    })
}

/// More sequences than a thread block has threads: what a device makes of them in one block, it
/// makes in several rounds.
pub fn many_sequences(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let strategy = (numbers(backend), any::<u64>(), 257..700_usize);
    holds("many_sequences", settings, 0.1, strategy, |(numbers, content, num_seqs)| {
        let rope = RopeSpec { head_dim: 64, theta: 1e4, scaling: RopeScaling::None };
        let shape = Shape {
            vocab: 11,
            hidden: 8,
            layers: 1,
            num_kv: 1,
            group: 2,
            ffn: 4,
            norm: false,
            bias: false,
            tied: true,
            window: None,
            routing: None,
            rope,
        };
        // A prompt of one or two tokens, then one more.
        let seqs = (0..*num_seqs).map(|i| vec![1 + i % 2, 1]).collect();
        let layout = Layout { seqs, outputs: Outputs::Last, ..Layout::whole(&[1], *content) };
        // Of these dtypes fused attention takes half.
        let alike = Numbers { kv: numbers.activations.kv_format(), ..*numbers };
        conforms(backend, &shape.trial(alike, layout).keep_all())
    })
}

/// Submits and collects.
pub(crate) fn run(exe: &mut dyn Executable, step: &Step) -> Result<StepOutput> {
    let ticket = exe.submit(step).doing("submit")?;
    let output = exe.collect(ticket).doing("collect")?;
    exe.prepare(false).doing("prepare")?;
    Ok(output)
}

/// Runs the steps with up to `max_in_flight` in flight.
pub(crate) fn run_all(
    exe: &mut dyn Executable,
    steps: &[Step],
    max_in_flight: usize,
) -> Result<Vec<StepOutput>> {
    let (mut tickets, mut outputs) = (VecDeque::new(), Vec::new());
    for step in steps {
        if tickets.len() == max_in_flight {
            outputs.extend(tickets.pop_front().map(|t| exe.collect(t).doing("collect")).transpose()?);
        }
        tickets.push_back(exe.submit(step).doing("submit")?);
        exe.prepare(false).doing("prepare")?;
    }
    for ticket in tickets {
        outputs.push(exe.collect(ticket).doing("collect")?);
    }
    Ok(outputs)
}

/// The executable with two steps in flight where the backend holds so many, else one.
pub(crate) fn load_in_flight(backend: &dyn Backend, trial: &Trial) -> Result<(Box<dyn Executable>, usize)> {
    let mut two = trial.clone();
    two.limits.max_in_flight = 2;
    match load(backend, &two) {
        Ok(exe) => Ok((exe, 2)),
        // `steps_in_flight` sees to it that a backend which holds fewer says so.
        Err(_) => Ok((load(backend, trial)?, 1)),
    }
}

/// The rows of logits that a step returned.
pub(crate) fn logits(output: &StepOutput) -> Result<Vec<Vec<f32>>> {
    let host = |row: &RowOutput| match &row.values {
        Some(row) => Ok(row.to_host().doing("reading logits")?.to_f32()),
        None => Err(Mismatch::contract("a row that asked for its logits came back without them")),
    };
    output.rows.iter().map(host).collect()
}

fn same_logits(step: usize, got: &[Vec<f32>], want: &[Vec<f32>], relative: f64) -> Result<()> {
    if got.len() != want.len() {
        let problem = format!("a step returned {} rows of logits; {} were asked for", got.len(), want.len());
        return Err(Mismatch::contract(problem));
    }
    for (row, (got, want)) in got.iter().zip(want).enumerate() {
        let size = want.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
        let allowed = relative * f64::from(size);
        if got.len() != want.len() {
            let problem =
                format!("a row of logits has {} columns; the vocabulary has {}", got.len(), want.len());
            return Err(Mismatch::contract(problem));
        }
        if let Some((col, allowed, num_bad)) = first_difference(got, want, |_, _, _| Some(allowed)) {
            return Err(Mismatch::Value(Box::new(Difference {
                step,
                line: "logits".into(),
                row,
                col,
                got: got[col],
                expected: want[col],
                allowed,
                num_bad,
                num_values: got.len(),
            })));
        }
    }
    Ok(())
}
