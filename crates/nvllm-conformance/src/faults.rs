//! Planted faults: the proof that the suite bites.
//!
//! Each fault is a backend that is the reference but for one thing. [`bite`] runs the cases over it
//! that ought to notice and names the one that did.

mod attention;
mod cache;
mod coded;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvllm_core::program::{Counts, Node};
use nvllm_core::reference::Observer;
use nvllm_core::{
    Activations, Backend, BackendInfo, BlockId, EntryId, Executable, HostTensor, KvCache, KvGeometry, Limits,
    MemoryReport, ModelSpec, Op, OpQuery, Plan, PlanRules, Program, Reason, Reference, RequestLimits, Result,
    SeqStep, Source, Stage, Step, StepOutput, Ticket, TokenId, TokenMasks, Weight, WeightSource,
};

pub use attention::AttentionFault;
use attention::{Seen, is};
pub use cache::CacheFault;
pub use coded::{Misread, Refusal};

use crate::{CASES, MemorySource, Settings};

/// What is wrong with a backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Outputs of this op are too large by 0.1 % under f32 activations, 2 % under bf16; nothing
    /// under the other.
    Scale(&'static str, Activations),
    /// One element of this op's outputs is another element of the same output.
    OneWrong(&'static str),
    /// Attention under this op's stem is computed with this fault.
    Attention(&'static str, AttentionFault),
    /// One element of a written KV block is wrong.
    WrongKey,
    /// Keys are stored with this fault.
    Cache(CacheFault),
    /// Query head `h` reads the KV head of query head `heads - 1 - h`.
    SwappedHeads,
    /// Queries and keys are not normalised.
    NoQkNorm,
    /// Scores are not divided by the root of the head's width.
    NoSoftmaxScale,
    /// Sliding windows are ignored.
    NoWindow,
    /// The sampler takes the next token id, once a step.
    WrongToken,
    /// Log-probabilities are too large by 0.1 %.
    WrongLogprobs,
    /// Rows of the program's output come back in reverse order.
    ReversedRows,
    /// Rows that are NaN or infinite are passed off as usable.
    HidesUnusable,
    /// Every sampler row draws from the same uniforms: the seed is ignored.
    IgnoredSeed,
    /// A row's values depend on how many rows the step has.
    DependsOnBatch,
    /// An entry program does not see what another one has cached.
    EntriesApart,
    /// One element of a written block of the last KV group is wrong.
    WrongGroup,
    /// The last KV group is found by the first group's block table.
    FirstTable,
    /// Blocks that a step copies are not copied.
    CopiesIgnored,
    /// Blocks that a step copies are copied when its tokens have been run.
    CopiesLate,
    /// A slot that is taken anew begins with an empty cache, whatever its block table holds.
    ForgetsPrefix,
    /// The output that a slot begins with is not counted.
    ForgetsOutput,
    /// Positions before a window weigh 0, and what lies in their blocks is multiplied by it.
    ReadsNull,
    /// Every step is said to begin when the model was loaded.
    StoppedClock,
    /// Coded weights are misread, which this case ought to notice.
    Misread(&'static str, Misread),
    /// Coded weights are refused in a way that is none.
    Refused(Refusal),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scale(op, Activations::F32) => write!(f, "{op}: scaled by 1.001 in f32"),
            Self::Scale(op, Activations::Bf16) => write!(f, "{op}: scaled by 1.02 in bf16"),
            Self::OneWrong(op) => write!(f, "{op}: one wrong element"),
            Self::Attention(op, fault) => write!(f, "{op}: {}", fault.text()),
            Self::WrongKey => f.write_str("kv_append: one wrong element"),
            Self::Cache(fault) => write!(f, "kv_append: {}", fault.text()),
            Self::SwappedHeads => f.write_str("model: swapped head map"),
            Self::NoQkNorm => f.write_str("model: dropped q/k norm"),
            Self::NoSoftmaxScale => f.write_str("model: softmax scale missing"),
            Self::NoWindow => f.write_str("model: window ignored"),
            Self::WrongToken => f.write_str("sample: the next token id"),
            Self::WrongLogprobs => f.write_str("sample: log-probabilities scaled by 1.001"),
            Self::ReversedRows => f.write_str("output: rows in reverse order"),
            Self::HidesUnusable => f.write_str("sample: NaN passes as usable"),
            Self::IgnoredSeed => f.write_str("sample: the seed is ignored"),
            Self::DependsOnBatch => f.write_str("model: last bit depends on the number of rows"),
            Self::EntriesApart => f.write_str("entries: a cache for each"),
            Self::WrongGroup => f.write_str("kv_append: one wrong element in the second KV group"),
            Self::FirstTable => f.write_str("kv groups: one block table for all"),
            Self::CopiesIgnored => f.write_str("step: blocks are not copied"),
            Self::CopiesLate => f.write_str("step: blocks are copied after the tokens"),
            Self::ForgetsPrefix => f.write_str("slots: a reset empties the blocks"),
            Self::ForgetsOutput => f.write_str("slots: output from before is not counted"),
            Self::ReadsNull => f.write_str("attention: the null block is read and weighs 0"),
            Self::StoppedClock => f.write_str("step: spans begin at loading"),
            Self::Misread(case, misread) => write!(f, "{case}: {}", misread.text()),
            Self::Refused(refusal) => write!(f, "coded weights: {}", refusal.text()),
        }
    }
}

/// Ops that compute, under their stems.
const ARITHMETIC: [&str; 11] = [
    "rms_norm",
    "linear",
    "add",
    "silu_mul",
    "rope",
    "paged_attention",
    "attention",
    "linear_add",
    "linear_silu_mul",
    "expert_linear",
    "weighted_sum",
];

/// Ops that only move values; `kv_append` has no output and a fault of its own.
const COPIES: [&str; 5] = ["embed", "slice_cols", "gather_rows", "all_reduce", "all_gather"];

impl Fault {
    /// Every fault that the suite must catch.
    pub fn all() -> Vec<Self> {
        let scale = |op| [Activations::F32, Activations::Bf16].map(|a| Self::Scale(op, a));
        let mut faults: Vec<_> = ARITHMETIC.into_iter().chain(["top_k"]).flat_map(scale).collect();
        faults.extend(COPIES.into_iter().chain(["top_k"]).map(Self::OneWrong));
        let attention = |op| AttentionFault::ALL.map(|fault| Self::Attention(op, fault));
        faults.extend(["paged_attention", "attention"].into_iter().flat_map(attention));
        faults.extend([
            Self::WrongKey,
            Self::SwappedHeads,
            Self::NoQkNorm,
            Self::NoSoftmaxScale,
            Self::NoWindow,
            Self::WrongToken,
            Self::WrongLogprobs,
            Self::ReversedRows,
            Self::HidesUnusable,
            Self::IgnoredSeed,
            Self::DependsOnBatch,
            Self::EntriesApart,
            Self::WrongGroup,
            Self::FirstTable,
            Self::CopiesIgnored,
            Self::CopiesLate,
            Self::ForgetsPrefix,
            Self::ForgetsOutput,
            Self::ReadsNull,
            Self::StoppedClock,
        ]);
        let misread = |misread: Misread| misread.cases().iter().map(move |case| Self::Misread(case, misread));
        faults.extend(Misread::ALL.into_iter().flat_map(misread));
        faults.extend(Refusal::ALL.map(Self::Refused));
        faults.extend(CacheFault::ALL.map(Self::Cache));
        faults
    }

    /// Cases that ought to notice, nearest first.
    pub fn cases(&self) -> Vec<&'static str> {
        match self {
            Self::Scale(op, _) | Self::OneWrong(op) | Self::Attention(op, _) => vec![op],
            Self::WrongKey | Self::Cache(_) => vec!["kv_append"],
            Self::SwappedHeads | Self::NoQkNorm | Self::NoSoftmaxScale | Self::NoWindow => {
                vec!["models_end_to_end", "models_op_by_op"]
            }
            Self::WrongToken => vec!["sample"],
            Self::WrongLogprobs => vec!["logprobs"],
            Self::ReversedRows => vec!["hidden_states"],
            Self::HidesUnusable => vec!["unusable_rows"],
            Self::IgnoredSeed => vec!["sample", "frequencies"],
            Self::DependsOnBatch => vec!["batch_invariance"],
            Self::EntriesApart => vec!["entries"],
            Self::WrongGroup | Self::FirstTable => vec!["kv_groups"],
            Self::CopiesIgnored | Self::CopiesLate => vec!["block_copies"],
            Self::ForgetsPrefix => vec!["shared_blocks"],
            Self::ForgetsOutput => vec!["resumed_sequences"],
            Self::ReadsNull => vec!["window_blocks"],
            Self::StoppedClock => vec!["step_spans"],
            Self::Misread(case, _) => vec![case],
            Self::Refused(_) => vec!["linear_formats"],
        }
    }

    /// Changes the program before it is loaded, where the fault is one of meaning.
    fn rewrite(&self, spec: &mut ModelSpec) {
        for node in spec.programs.iter_mut().flat_map(|p| &mut p.nodes) {
            let (Op::Attention { spec, .. } | Op::PagedAttention { spec, .. }) = &mut node.op else {
                continue;
            };
            match self {
                Self::NoSoftmaxScale => spec.scale = 1.0,
                Self::NoWindow => spec.window = None,
                _ => {}
            }
            if let (Self::NoQkNorm, Op::Attention { norm, .. }) = (self, &mut node.op) {
                *norm = None;
            }
        }
    }

    /// Changes an op's outputs.
    fn disturb(&self, limits: &Limits, program: &Program, node: &Node, outputs: &mut [Vec<f32>]) {
        match self {
            Self::Scale(op, activations) if is(op, program, node) && limits.activations == *activations => {
                let factor = if *activations == Activations::F32 { 1.001 } else { 1.02 };
                // `top_k` computes its weights, the second output.
                if let (Some(out), Some(id)) = (outputs.last_mut(), node.outputs.last()) {
                    let dtype = program.value(*id).kind.dtype(limits);
                    out.iter_mut().for_each(|x| *x = dtype.round(*x * factor));
                }
            }
            Self::OneWrong(op) if node.op.stem() == *op => one_wrong(&mut outputs[0]),
            Self::SwappedHeads => swap_heads(program, node, &mut outputs[..]),
            Self::DependsOnBatch if node.op.stem() == "linear" => {
                let rows = outputs[0].len() / program.value(node.outputs[0]).cols;
                if rows.is_multiple_of(2) {
                    outputs[0].iter_mut().for_each(|x| *x = f32::from_bits(x.to_bits() ^ 1));
                }
            }
            _ => {}
        }
    }
}

/// Copies the last element that differs from its neighbour over that neighbour.
fn one_wrong(values: &mut [f32]) {
    if let Some(at) = (1..values.len()).rev().find(|&i| values[i] != values[i - 1]) {
        values[at - 1] = values[at];
    }
}

/// Reverses the heads of a query before attention and of the result after it.
fn swap_heads(program: &Program, node: &Node, outputs: &mut [Vec<f32>]) {
    let reads = |n: &&Node| matches!(n.op, Op::PagedAttention { .. });
    let attention = program.nodes.iter().filter(reads).find(|n| {
        n.outputs == node.outputs || node.outputs.first() == n.inputs.first() && is("attention", program, n)
    });
    if let Some(Op::PagedAttention { spec, .. }) = attention.map(|n| &n.op) {
        let d = spec.head_dim;
        for row in outputs[0].chunks_mut(spec.num_heads * d) {
            let heads: Vec<f32> = row.chunks(d).rev().flatten().copied().collect();
            row.copy_from_slice(&heads);
        }
    }
}

/// The reference with one fault.
pub struct Faulty(pub Fault);

impl Backend for Faulty {
    fn info(&self) -> BackendInfo {
        BackendInfo { name: format!("reference with a fault ({})", self.0), ..Reference::default().info() }
    }

    fn supports(&self, query: &OpQuery<'_>) -> Result<(), Reason> {
        Reference::default().supports(query)
    }

    fn plan_rules(&self) -> PlanRules {
        Reference::default().plan_rules()
    }

    fn plan(&self, spec: &ModelSpec, weights: &dyn WeightSource, limits: &Limits) -> Result<Plan> {
        let mut spec = spec.clone();
        self.0.rewrite(&mut spec);
        if let Fault::Refused(refusal) = self.0 {
            refusal.check(&spec, weights, false)?;
        }
        Reference::default().plan(&spec, weights, limits)
    }

    fn load(&self, plan: Plan, weights: &dyn WeightSource) -> Result<Box<dyn Executable>> {
        let (fault, held) = (self.0.clone(), plan.limits.clone());
        if let Fault::Refused(refusal) = self.0 {
            refusal.check(&plan.spec, weights, true)?;
        }
        let mut weights = MemorySource::copy_of(weights)?;
        if let Fault::Misread(_, misread) = self.0 {
            weights.change(|tensor| misread.apply(tensor));
        }
        let vocab_size = plan.spec.vocab_size as u32;
        let decoded = plan.spec.weights.iter().map(|decl| Weight::load(decl, &weights)?.to_f32());
        let seen = Arc::new(Mutex::new(Seen::new(decoded.collect::<Result<_>>()?)));
        let observed = Arc::clone(&seen);
        let observer: Observer = Arc::new(move |program, node, outputs| {
            if let Fault::Attention(op, instead) = fault {
                lock(&observed).node((op, instead), &held, program, node, outputs);
            } else if !outputs.is_empty() {
                fault.disturb(&held, program, node, outputs);
            }
        });
        let inner = Reference::observed(observer).load(plan, &weights)?;
        let (fault, entry) = (self.0.clone(), EntryId::default());
        Ok(Box::new(FaultyRun { fault, inner, entry, seen, vocab_size, reads_null: false }))
    }
}

/// Faults that the reference's observer cannot reach, the sampler's and the cache's; and what it
/// needs to know of a step.
struct FaultyRun {
    fault: Fault,
    inner: Box<dyn Executable>,
    /// Of the last step.
    entry: EntryId,
    /// Shared with the observer.
    seen: Arc<Mutex<Seen>>,
    vocab_size: u32,
    /// Whether the last step has read the null block.
    reads_null: bool,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyRun {
    /// Clears what is cached for the step's sequences.
    fn forget(&mut self, step: &Step) -> Result<()> {
        let cache = self.inner.kv_cache();
        for (group, table) in step.seqs.iter().flat_map(|seq| seq.block_tables.iter().enumerate()) {
            let geometry = cache.geometry(group);
            let block = geometry.encode_block(&vec![0.0; geometry.num_layers * geometry.layer_block_len()]);
            table.iter().try_for_each(|&id| cache.write_block(group, id, &block))?;
        }
        Ok(())
    }

    /// Whether a table of the step has the null block before its end and that is not a number.
    fn null_is_read(&mut self, step: &Step) -> Result<bool> {
        let cache = self.inner.kv_cache();
        for (group, table) in step.seqs.iter().flat_map(|seq| seq.block_tables.iter().enumerate()) {
            let geometry = cache.geometry(group);
            if table.first() == Some(&BlockId::NULL) {
                let values = geometry.decode_block(&cache.read_block(group, BlockId::NULL)?)?;
                if !values.iter().all(|x| x.is_finite()) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Changes the block that holds the first key of a step, which is at an offset in it.
    fn spoil_keys(
        &mut self,
        step: &Step,
        group: usize,
        spoil: impl Fn(&KvGeometry, &HostTensor, usize) -> Result<HostTensor>,
    ) -> Result<()> {
        let Some(seq) = step.seqs.first() else { return Ok(()) };
        let (Source::Host(start), Some(table)) = (seq.kv_start, seq.block_tables.get(group)) else {
            return Ok(());
        };
        let cache = self.inner.kv_cache();
        let geometry = cache.geometry(group);
        let (at, offset) = (start as usize / geometry.block_len, start as usize % geometry.block_len);
        let block = spoil(&geometry, &cache.read_block(group, table[at])?, offset)?;
        cache.write_block(group, table[at], &block)
    }
}

/// One wrong element of a key, in every layer: which of them the program writes is not known here.
fn wrong_key(geometry: &KvGeometry, block: &HostTensor, offset: usize) -> Result<HostTensor> {
    let mut values = geometry.decode_block(block)?;
    for layer in values.chunks_mut(geometry.layer_block_len()) {
        let key = &mut layer[offset * geometry.head_dim];
        // No format takes it for what was there.
        *key += 1.0 + key.abs();
    }
    Ok(geometry.encode_block(&values))
}

impl Executable for FaultyRun {
    fn submit(&mut self, step: &Step) -> Result<Ticket> {
        let mut step = step.clone();
        if self.fault == Fault::IgnoredSeed {
            for reset in &mut step.resets {
                reset.sampling =
                    Arc::new(nvllm_core::SamplingParams { seed: 0, ..(*reset.sampling).clone() });
            }
        }
        if self.fault == Fault::FirstTable {
            for seq in &mut step.seqs {
                let first = seq.block_tables.first().cloned();
                if let (Some(last), Some(first)) = (seq.block_tables.last_mut(), first) {
                    *last = first;
                }
            }
        }
        let late = match self.fault {
            Fault::CopiesIgnored | Fault::CopiesLate => std::mem::take(&mut step.copies),
            _ => Vec::new(),
        };
        match self.fault {
            Fault::ForgetsPrefix => {
                let anew = |seq: &&SeqStep| step.resets.iter().any(|reset| reset.slot == seq.slot);
                let seqs = step.seqs.iter().filter(anew).cloned().collect();
                self.forget(&Step { seqs, ..Step::default() })?;
            }
            Fault::ForgetsOutput => step.resets.iter_mut().for_each(|reset| reset.output = [].into()),
            Fault::ReadsNull => self.reads_null = self.null_is_read(&step)?,
            _ => {}
        }
        lock(&self.seen).begin(&step);
        let before = std::mem::replace(&mut self.entry, step.entry);
        if self.fault == Fault::EntriesApart && before != step.entry {
            self.forget(&step)?;
        }
        let ticket = self.inner.submit(&step)?;
        match self.fault {
            Fault::WrongKey => self.spoil_keys(&step, 0, wrong_key)?,
            Fault::WrongGroup => self.spoil_keys(&step, 1, wrong_key)?,
            Fault::Cache(fault) => {
                self.spoil_keys(&step, 0, |g, block, offset| Ok(fault.apply(g, block, offset)))?;
            }
            Fault::CopiesLate => {
                let cache = self.inner.kv_cache();
                late.iter().try_for_each(|copy| cache.copy_blocks(copy.group, &[(copy.from, copy.to)]))?;
            }
            _ => {}
        }
        Ok(ticket)
    }

    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()> {
        self.inner.supply_masks(ticket, masks)
    }

    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput> {
        let mut output = self.inner.collect(ticket)?;
        match self.fault {
            Fault::WrongToken => {
                if let Some(token) = output.rows.iter_mut().find_map(|row| row.token.as_mut()) {
                    *token = TokenId((token.0 + 1) % self.vocab_size);
                }
            }
            Fault::ReversedRows => {
                let values: Vec<_> = output.rows.iter_mut().rev().map(|row| row.values.take()).collect();
                output.rows.iter_mut().zip(values).for_each(|(row, values)| row.values = values);
            }
            Fault::ReadsNull if self.reads_null => {
                for values in output.rows.iter_mut().filter_map(|row| row.values.as_mut()) {
                    let nothing = vec![f32::NAN; values.shape().iter().product()];
                    *values = Box::new(HostTensor::from_f32(values.shape(), values.dtype(), &nothing));
                }
            }
            Fault::StoppedClock => {
                output.span.iter_mut().for_each(|span| span.began = Duration::ZERO);
            }
            Fault::HidesUnusable => output.rows.iter_mut().for_each(|row| row.unusable = false),
            Fault::WrongLogprobs => {
                let scored = output.rows.iter_mut().filter_map(|row| row.logprobs.as_mut());
                scored.for_each(|scored| scored.logprob *= 1.001);
            }
            _ => {}
        }
        Ok(output)
    }

    fn program(&self, entry: EntryId) -> Option<&Program> {
        self.inner.program(entry)
    }

    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage> {
        self.inner.schedule(entry, counts)
    }

    fn kv_cache(&mut self) -> &mut dyn KvCache {
        self.inner.kv_cache()
    }

    fn kept(&self, label: &str) -> Result<Option<HostTensor>> {
        self.inner.kept(label)
    }

    fn memory(&self) -> MemoryReport {
        self.inner.memory()
    }

    fn failure(&self) -> Option<String> {
        self.inner.failure()
    }

    fn request_limits(&self) -> RequestLimits {
        self.inner.request_limits()
    }
}

/// A fault, and the case that caught it with the first line of what it said.
pub type Bite = (Fault, Option<(&'static str, String)>);

/// Plants every fault and runs the cases that ought to notice.
pub fn bite(settings: &Settings) -> Vec<Bite> {
    Fault::all()
        .into_iter()
        .map(|fault| {
            let backend = Faulty(fault.clone());
            let caught = fault.cases().into_iter().find_map(|name| {
                let case = CASES.iter().find(|case| case.name == name)?;
                let mismatch = (case.run)(&backend, settings).err()?;
                Some((name, mismatch.to_string().lines().next().unwrap_or_default().to_owned()))
            });
            (fault, caught)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    /// The bounds leave room for what their derivation grants, and the oracle for attention here is
    /// right but for that.
    #[test]
    fn attention_rounded_as_kernels_may_passes() {
        for rounded_sum in [false, true] {
            let backend = |op| Faulty(Fault::Attention(op, AttentionFault::Kernel { rounded_sum }));
            crate::expect_conformance(cases::paged_attention, &backend("paged_attention"));
            crate::expect_conformance(cases::attention, &backend("attention"));
            crate::expect_conformance(cases::models_op_by_op, &backend("attention"));
        }
    }
}
