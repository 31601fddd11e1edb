//! From a program to phases.

use std::collections::HashMap;

use nvllm_core::program::{Node, QkNorm};
use nvllm_core::{
    AttentionSpec, DType, KvFormat, KvGeometry, KvLayer, Op, OrderId, Program, RopeSpec, ValueId, WeightId,
};

use super::packets::Life;
use super::phase::{ATTENTION, FOLD, GATHER, NO_TAG, OUT_F32, Phase, SILU};
use crate::lower::attention::FUSED;
use crate::lower::linear::{Epilogue, Linear, SPLIT8};
use crate::lower::rows::BLOCK128;
use crate::lower::stage::is_gathered_norm;
use crate::lower::{LANES, Lowering, Operand};
use crate::memory::Address;
use crate::work_lists::ListAt;

/// What all attention of a pass shares.
#[derive(Clone)]
pub(super) struct Shared {
    pub spec: AttentionSpec,
    pub rope: RopeSpec,
    pub list: ListAt,
    /// Of the KV cache.
    pub group: usize,
    pub block_len: usize,
}

/// A phase with the values it reads and writes.
pub(super) struct Recorded {
    pub phase: Phase,
    /// Of W, of a linear layer.
    pub weight: Address,
    pub x: ValueId,
    pub y: ValueId,
    pub residual: Option<ValueId>,
}

/// A recorded pass.
#[derive(Default)]
pub(super) struct Pass {
    pub phases: Vec<Recorded>,
    pub attention: Option<Shared>,
    /// The order in which each node sums.
    pub orders: Vec<OrderId>,
    /// Columns of the widest x that is normed.
    pub widest_norm: usize,
}

/// What phases are recorded from: a loaded model, or one that tests lay out themselves.
pub(super) trait Loaded {
    fn program(&self) -> &Program;
    fn value(&self, id: ValueId) -> Operand;
    /// As [`Lowering::layer`].
    fn layer(&self, at: usize) -> Option<Linear>;
    /// The address of a vector as bf16; 0 if it has none.
    fn narrow(&self, id: WeightId) -> Address;
    /// The work list of attention with `spec`, if there is one.
    fn list(&self, spec: &AttentionSpec) -> Option<ListAt>;
    fn geometry(&self, kv: KvLayer) -> KvGeometry;
    /// Keys and values of a layer.
    fn pages(&self, kv: KvLayer) -> [Address; 2];

    /// The phases of all nodes from `from` on; None if a node is nothing that a pass runs.
    fn record(&self, from: usize) -> Option<Pass> {
        let mut pass = Pass::default();
        let mut at = from;
        while let Some(node) = self.program().nodes.get(at) {
            at += match &node.op {
                Op::Attention { norm, rope, spec, kv } => {
                    self.record_attention(&mut pass, node, (norm.as_ref(), rope), spec, *kv)?
                }
                _ => self.record_linear(&mut pass, at)?,
            };
        }
        // Each phase but the first reads what the one before wrote: that is what holds them apart.
        let writes = pass.phases.iter().filter(|recorded| recorded.phase.kind != FOLD);
        let chained = writes.clone().zip(writes.skip(1)).all(|(before, after)| after.x == before.y);
        (chained && pass.phases.first()?.phase.kind != ATTENTION).then_some(pass)
    }

    fn record_attention(
        &self,
        pass: &mut Pass,
        node: &Node,
        (norm, rope): (Option<&QkNorm>, &RopeSpec),
        spec: &AttentionSpec,
        kv: KvLayer,
    ) -> Option<usize> {
        let geometry = self.geometry(kv);
        let list = self.list(spec).filter(|list| list.decodes)?;
        let (group, block_len) = (kv.group, geometry.block_len);
        let of = Shared { spec: spec.clone(), rope: rope.clone(), list, group, block_len };
        let same = pass.attention.get_or_insert_with(|| of.clone());
        let alike = (&same.spec, &same.rope, same.group) == (&of.spec, &of.rope, of.group);
        if !alike || geometry.format != KvFormat::Bf16 {
            return None;
        }
        let weight = |id: WeightId| self.narrow(id);
        let [norm_of_queries, bias] = norm.map_or([0; 2], |norm| [weight(norm.q), weight(norm.k)]);
        let [keys, values] = self.pages(kv);
        let eps = norm.map_or(0.0, |norm| norm.eps).to_bits();
        let phase =
            Phase { kind: ATTENTION, norm: norm_of_queries, bias, keys, values, eps, ..Phase::default() };
        let (x, y) = (node.inputs[0], node.outputs[0]);
        let recorded = |phase| Recorded { phase, weight: 0, x, y, residual: None };
        pass.phases.extend([recorded(phase), recorded(Phase { kind: FOLD, ..Phase::default() })]);
        pass.orders.push(FUSED);
        Some(1)
    }

    /// A linear layer, with its norm and the gathering of its rows if node `at` begins those.
    fn record_linear(&self, pass: &mut Pass, at: usize) -> Option<usize> {
        let (before, gathers) = match () {
            () if is_gathered_norm(self.program(), at) => (2, true),
            () if self.program().is_norm_of_next(at) => (1, false),
            () => (0, false),
        };
        let (first, last) = (&self.program().nodes[at], &self.program().nodes[at + before]);
        let layer = self.layer(at + before)?;
        let mut phase = linear(&layer)?;
        if let Op::RmsNorm { weight, eps } = &first.op {
            let (x, norm) = (self.value(first.inputs[0]), self.narrow(*weight));
            if norm == 0 || x.cols != layer.k() || x.dtype != DType::Bf16 {
                return None;
            }
            pass.widest_norm = x.cols.max(pass.widest_norm);
            (phase.norm, phase.eps) = (norm, eps.to_bits());
            pass.orders.push(BLOCK128);
        }
        if gathers {
            phase.flags |= GATHER;
            pass.orders.push(LANES);
        }
        pass.orders.push(SPLIT8);
        let residual = matches!(layer.epilogue, Epilogue::Add(_)).then(|| last.inputs[1]);
        let (x, y) = (first.inputs[0], last.outputs[0]);
        pass.phases.push(Recorded { phase, weight: layer.weight, x, y, residual });
        Some(before + 1)
    }
}

impl Loaded for Lowering<'_> {
    fn program(&self) -> &Program {
        self.program
    }

    fn value(&self, id: ValueId) -> Operand {
        Lowering::value(self, id)
    }

    fn layer(&self, at: usize) -> Option<Linear> {
        Lowering::layer(self, at)
    }

    fn narrow(&self, id: WeightId) -> Address {
        self.weights.vector(id).narrow
    }

    fn list(&self, spec: &AttentionSpec) -> Option<ListAt> {
        self.lists.list(spec, self.limits)
    }

    fn geometry(&self, kv: KvLayer) -> KvGeometry {
        self.kv.geometry_of(kv)
    }

    fn pages(&self, kv: KvLayer) -> [Address; 2] {
        self.kv.layer(kv)
    }
}

/// A dense layer as a phase, its norm aside; None if the kernel does not take it.
fn linear(l: &Linear) -> Option<Phase> {
    if !l.hopper() {
        return None;
    }
    let silu = if l.epilogue == Epilogue::SiluMul { SILU } else { 0 };
    let flags = silu | if l.y.dtype == DType::F32 { OUT_F32 } else { 0 };
    Some(Phase { bias: l.narrow_bias(), ..Phase::linear(l.k(), l.y.cols, flags) })
}

impl Pass {
    /// Gives every phase the tags of what it reads and writes; the values that phases hand to each
    /// other, in the order in which they are written.
    pub(super) fn tag(&mut self, bytes: impl Fn(ValueId) -> usize) -> Vec<(ValueId, Life)> {
        let mut written: HashMap<ValueId, usize> = HashMap::new();
        let mut lives: Vec<(ValueId, Life)> = Vec::new();
        let last = self.phases.len().saturating_sub(1);
        for (at, Recorded { phase, x, y, residual, .. }) in self.phases.iter_mut().enumerate() {
            let mut tag = |id: ValueId| {
                let Some(&by) = written.get(&id) else { return NO_TAG };
                if let Some((_, life)) = lives.iter_mut().find(|(value, _)| *value == id) {
                    life.phases.end = at;
                }
                by as i32
            };
            phase.x_tag = tag(*x);
            phase.residual_tag = residual.map_or(NO_TAG, &mut tag);
            // A fold ends what attention began.
            phase.y_tag = match phase.kind {
                FOLD => tag(*y),
                _ if at == last => NO_TAG,
                _ => {
                    written.insert(*y, at);
                    lives.push((*y, Life { phases: at..at, bytes: bytes(*y) }));
                    at as i32
                }
            };
        }
        lives
    }
}
