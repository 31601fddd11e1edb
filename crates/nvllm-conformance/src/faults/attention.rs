//! Attention computed anew from what an observer sees of the reference: with a fault planted, or
//! rounded as a kernel may round.

use std::borrow::Cow;
use std::collections::HashMap;

use nvllm_core::program::Node;
use nvllm_core::{Activations, AttentionSpec, DType, KvFormat, KvLayer, Limits, Op, Program, Step};

use crate::anchor::{append, rows};
use crate::bound::{History, RowAt};

/// Positions that are summed before they are merged.
const CHUNK: usize = 64;

/// A planted fault: how attention is computed instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionFault {
    /// The last chunk of positions is merged as if its maximum were the largest.
    WrongMaximum,
    /// A row does not see itself, unless it sees nothing else.
    LostNewest,
    /// A row does not see the oldest position of its window, unless it sees nothing else.
    LostOldest,
    /// Query head `h` reads KV head `h % kv_heads`: the right heads in the wrong order.
    InterleavedHeads,
    /// Keys of an int8 cache are read with the scale of the KV head after them.
    KeyScale,
    /// Values of an int8 cache are read with a scale of 1.
    ValueScale,
    /// No fault but a kernel's liberties under bf16 activations: queries and keys are rounded once,
    /// behind the rotation, and probabilities before they meet the values. They are divided by the
    /// sum of the rounded ones, or of those before rounding.
    Kernel {
        /// Whether of the rounded ones.
        rounded_sum: bool,
    },
}

impl AttentionFault {
    /// Those that a check must find.
    pub(super) const ALL: [Self; 6] = [
        Self::WrongMaximum,
        Self::LostNewest,
        Self::LostOldest,
        Self::InterleavedHeads,
        Self::KeyScale,
        Self::ValueScale,
    ];

    /// What it says in a table.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::WrongMaximum => "last chunk merged by a wrong maximum",
            Self::LostNewest => "newest position not seen",
            Self::LostOldest => "oldest position of the window not seen",
            Self::InterleavedHeads => "KV heads interleaved",
            Self::KeyScale => "int8 keys with the scale of another head",
            Self::ValueScale => "int8 values without their scale",
            Self::Kernel { .. } => "rounded as kernels may",
        }
    }
}

/// What was seen of the steps so far.
pub(super) struct Seen {
    rows: Vec<RowAt>,
    /// Of the step, by id.
    values: HashMap<u32, Vec<f32>>,
    history: History,
    /// Of the model.
    weights: Vec<Vec<f32>>,
}

impl Seen {
    /// Nothing yet of a model of these weights.
    pub(super) fn new(weights: Vec<Vec<f32>>) -> Self {
        Self { rows: Vec::new(), values: HashMap::new(), history: History::new(), weights }
    }

    /// A step begins.
    pub(super) fn begin(&mut self, step: &Step) {
        self.rows = rows(step);
    }

    /// Computes attention under the stem `op` with a fault, and remembers what later nodes may
    /// ask for.
    pub(super) fn node(
        &mut self,
        (op, fault): (&str, AttentionFault),
        limits: &Limits,
        program: &Program,
        node: &Node,
        outputs: &mut [Vec<f32>],
    ) {
        let inside = || node.outputs.iter().all(|id| program.value(*id).label.is_none());
        match &node.op {
            Op::KvAppend { kv } => {
                let parts = [0, 1].map(|part| self.values[&node.inputs[part].0].as_slice());
                append(&mut self.history, *kv, &self.rows, parts, &program.kv[kv.group], limits.kv_format);
            }
            Op::RmsNorm { weight, eps } if matches!(fault, AttentionFault::Kernel { .. }) && inside() => {
                outputs[0] = norm(&self.values[&node.inputs[0].0], &self.weights[weight.index()], *eps);
            }
            Op::PagedAttention { spec, kv } if is(op, program, node) => {
                let q = &self.values[&node.inputs[0].0];
                let rounded = Rounded { fault, activations: limits.activations, kv_format: limits.kv_format };
                outputs[0] = rounded.attention(spec, *kv, q, &self.rows, &self.history);
            }
            _ => {}
        }
        for (id, out) in node.outputs.iter().zip(outputs) {
            self.values.insert(id.0, out.clone());
        }
    }
}

/// Root mean square norm without a rounding behind it.
fn norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let head = |x: &[f32]| {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let scale = (mean + eps).sqrt().recip();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(head).collect()
}

/// Attention with this fault under these activations.
#[derive(Clone, Copy)]
struct Rounded {
    fault: AttentionFault,
    activations: Activations,
    kv_format: KvFormat,
}

impl Rounded {
    fn attention(
        self,
        spec: &AttentionSpec,
        kv: KvLayer,
        q: &[f32],
        rows: &[RowAt],
        history: &History,
    ) -> Vec<f32> {
        let (d, group) = (spec.head_dim, spec.num_heads / spec.num_kv_heads);
        let mut out = Vec::with_capacity(q.len());
        for (at, q) in rows.iter().zip(q.chunks(spec.num_heads * d)) {
            let mut first = spec.window.map_or(0, |w| (at.kv_index + 1).saturating_sub(w));
            let mut end = at.kv_index + 1;
            match self.fault {
                AttentionFault::LostOldest if spec.window.is_some() && first + 1 < end => first += 1,
                AttentionFault::LostNewest if first + 1 < end => end -= 1,
                _ => {}
            }
            for (head, q) in q.chunks(d).enumerate() {
                let kv_head = match self.fault {
                    AttentionFault::InterleavedHeads => head % spec.num_kv_heads,
                    _ => head / group,
                };
                let cached = history[&(kv, at.slot)].each_ref();
                let at = |part: usize, j: usize, kv_head: usize| {
                    &cached[part][(j * spec.num_kv_heads + kv_head) * d..][..d]
                };
                let next = (kv_head + 1) % spec.num_kv_heads;
                let row = |part: usize, j: usize| self.read(part, at(part, j, kv_head), at(part, j, next));
                out.extend(self.head(q, first..end, spec.scale, row));
            }
        }
        let dtype = self.activations.dtype();
        out.iter_mut().for_each(|x| *x = dtype.round(*x));
        out
    }

    /// A row as it is read: a key (part 0) or a value of a head, beside that of the next head.
    fn read<'a>(self, part: usize, row: &'a [f32], next: &[f32]) -> Cow<'a, [f32]> {
        let scale = |row: &[f32]| self.kv_format.scale(row);
        let wrong = match (self.fault, self.kv_format, part) {
            (AttentionFault::KeyScale, KvFormat::Int8, 0) => scale(next),
            (AttentionFault::ValueScale, KvFormat::Int8, 1) => 1.0,
            _ => return Cow::Borrowed(row),
        };
        let factor = if scale(row) == 0.0 { 0.0 } else { wrong / scale(row) };
        row.iter().map(|x| x * factor).collect()
    }

    /// One row of one head over positions `seen`; `row` gives the key (part 0) and the value
    /// (part 1) of a position.
    fn head<'a>(
        self,
        q: &[f32],
        seen: std::ops::Range<usize>,
        scale: f32,
        row: impl Fn(usize, usize) -> Cow<'a, [f32]>,
    ) -> Vec<f32> {
        let (mut top, mut sum, mut out) = (f32::NEG_INFINITY, 0.0, vec![0.0; q.len()]);
        let last = (seen.end - 1) / CHUNK;
        for chunk in seen.start / CHUNK..=last {
            let positions = (chunk * CHUNK).max(seen.start)..((chunk + 1) * CHUNK).min(seen.end);
            let dot = |k: &[f32]| q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * scale;
            let scores: Vec<f32> = positions.clone().map(|j| dot(&row(0, j))).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let larger = top.max(max);
            let (mut fade, mut grow) = ((top - larger).exp(), (max - larger).exp());
            if self.fault == AttentionFault::WrongMaximum && chunk == last && chunk > seen.start / CHUNK {
                (fade, grow) = (1.0, 1.0);
            }
            top = larger;
            sum *= fade;
            out.iter_mut().for_each(|x| *x *= fade);
            for (j, score) in positions.zip(scores) {
                let p = (score - max).exp();
                let (p, counted) = match self.fault {
                    AttentionFault::Kernel { rounded_sum } if self.activations == Activations::Bf16 => {
                        let rounded = DType::Bf16.round(p);
                        (rounded, if rounded_sum { rounded } else { p })
                    }
                    _ => (p, p),
                };
                sum += counted * grow;
                out.iter_mut().zip(row(1, j).iter()).for_each(|(x, v)| *x += p * grow * v);
            }
        }
        out.iter().map(|x| x / sum).collect()
    }
}

/// Whether `node` is the op at whose output a fault of `op` shows. A fused op ends in a primitive
/// whose first input was made inside it.
pub(super) fn is(op: &str, program: &Program, node: &Node) -> bool {
    let inside = || node.inputs.first().is_some_and(|&id| program.value(id).label.is_none());
    let ends_in = |stem| node.op.stem() == stem && inside();
    match op {
        "attention" => ends_in("paged_attention"),
        "linear_add" => ends_in("add"),
        "linear_silu_mul" => ends_in("silu_mul"),
        _ => node.op.stem() == op,
    }
}
