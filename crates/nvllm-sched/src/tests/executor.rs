//! A backend without arithmetic: it resolves and checks each step as host backends do, keeps what
//! is written to each KV cell and by whom, and computes rows from what it reads back through the
//! block tables.

use std::collections::{BTreeSet, VecDeque};

use nvllm_core::host::{Batch, BatchSeq, Slots};
use nvllm_core::{
    Activations, BlockId, DType, HostTensor, KvGeometry, Limits, Numerics, RowOutput, SlotId, Step, StepId,
    StepOutput, Tensor,
};

use super::model::{Hash, VOCAB};
use crate::SchedConfig;

/// What one KV position of one block holds.
#[derive(Clone, Copy)]
struct Cell {
    /// Which use of which slot wrote it.
    epoch: u64,
    kv_index: usize,
    token: nvllm_core::TokenId,
    position: u32,
}

struct Submitted {
    id: StepId,
    output: StepOutput,
    slots: BTreeSet<SlotId>,
    blocks: BTreeSet<(usize, BlockId, u64)>,
}

pub(super) struct Executor {
    limits: Limits,
    kv: Vec<KvGeometry>,
    slots: Slots,
    epochs: Vec<u64>,
    next_epoch: u64,
    cells: Vec<Vec<Option<Cell>>>,
    submitted: VecDeque<Submitted>,
}

impl Executor {
    pub(super) fn new(config: &SchedConfig) -> Self {
        let geometry = |&num_blocks: &usize| KvGeometry {
            num_layers: 1,
            num_heads: 1,
            head_dim: 1,
            block_len: config.block_len,
            num_blocks,
            dtype: DType::F32,
            window: None,
        };
        Self {
            limits: Limits {
                step_tokens: config.step_tokens,
                step_outputs: config.step_outputs,
                seqs: config.seqs,
                context: config.context,
                block_len: config.block_len,
                kv_bytes: 0,
                kv_dtype: DType::F32,
                activations: Activations::F32,
                numerics: Numerics::Invariant,
                max_in_flight: config.max_in_flight,
            },
            kv: config.num_blocks.iter().map(geometry).collect(),
            slots: Slots::new(config.seqs),
            epochs: vec![0; config.seqs],
            next_epoch: 0,
            cells: config.num_blocks.iter().map(|n| vec![None; n * config.block_len]).collect(),
            submitted: VecDeque::new(),
        }
    }

    /// Runs a step at once; its results wait for [`collect`](Self::collect).
    pub(super) fn submit(&mut self, step: &Step) -> Result<(), String> {
        if self.submitted.len() >= self.limits.max_in_flight {
            return Err(format!("step {} is one too many in flight", step.id));
        }
        for reset in &step.resets {
            if self.submitted.iter().any(|s| s.slots.contains(&reset.slot)) {
                return Err(format!("step {} takes slot {} from a step in flight", step.id, reset.slot));
            }
        }
        self.slots.reset(step, VOCAB as usize).map_err(|e| e.to_string())?;
        for reset in &step.resets {
            self.next_epoch += 1;
            self.epochs[reset.slot.index()] = self.next_epoch;
        }
        let batch = Batch::new(step, &self.slots, &self.limits, &self.kv, VOCAB as usize)
            .map_err(|e| e.to_string())?;
        let mut submitted = Submitted {
            id: step.id,
            output: StepOutput::default(),
            slots: step.seqs.iter().map(|s| s.slot).collect(),
            blocks: BTreeSet::new(),
        };
        for (at, seq) in batch.seqs.iter().enumerate() {
            self.write(&batch, seq, &mut submitted)
                .map_err(|e| format!("step {}, slot {}: {e}", step.id, seq.slot))?;
            let hashes = self.read(seq).map_err(|e| format!("step {}, slot {}: {e}", step.id, seq.slot))?;
            for output in batch.outputs.iter().filter(|o| o.seq == at) {
                let hash = hashes[seq.kv_start + output.row - seq.first_row];
                self.emit(seq.slot, &output.want, hash, &mut submitted.output);
            }
        }
        self.slots.advance(&batch);
        self.submitted.push_back(submitted);
        Ok(())
    }

    /// The results of the oldest step.
    pub(super) fn collect(&mut self) -> Option<(StepId, StepOutput)> {
        self.submitted.pop_front().map(|s| (s.id, s.output))
    }

    fn write(&mut self, batch: &Batch, seq: &BatchSeq, submitted: &mut Submitted) -> Result<(), String> {
        let epoch = self.epochs[seq.slot.index()];
        let kv_len = self.slots.get(seq.slot).map_or(0, |s| s.kv_len as usize);
        if seq.kv_start != kv_len {
            return Err(format!("writes from KV index {}; the cache holds {kv_len}", seq.kv_start));
        }
        for group in 0..self.kv.len() {
            for row in 0..seq.num_rows {
                let kv_index = seq.kv_start + row;
                let (block, offset) = seq.locate(group, kv_index, self.limits.block_len);
                let pinned =
                    |s: &Submitted| s.blocks.iter().any(|&(g, b, e)| (g, b) == (group, block) && e != epoch);
                if self.submitted.iter().any(pinned) {
                    return Err(format!(
                        "writes block {block}, which a step in flight uses for another sequence"
                    ));
                }
                let cell = &mut self.cells[group][block.index() * self.limits.block_len + offset];
                if let Some(old) = cell.filter(|old| old.epoch == epoch) {
                    return Err(format!("writes KV index {kv_index} over {}", old.kv_index));
                }
                let (token, position) =
                    (batch.tokens[seq.first_row + row], batch.positions[seq.first_row + row]);
                *cell = Some(Cell { epoch, kv_index, token, position });
            }
            let used =
                &seq.block_tables[group][..(seq.kv_start + seq.num_rows).div_ceil(self.limits.block_len)];
            submitted.blocks.extend(used.iter().map(|&block| (group, block, epoch)));
        }
        Ok(())
    }

    /// What each row from the first on depends on, read back through the tables; all groups must
    /// agree.
    fn read(&self, seq: &BatchSeq) -> Result<Vec<Hash>, String> {
        let epoch = self.epochs[seq.slot.index()];
        let seed = self.slots.get(seq.slot).map_or(0, |s| s.sampling.seed);
        let mut all: Option<Vec<Hash>> = None;
        for group in 0..self.kv.len() {
            let mut hash = Hash::new(seed);
            let mut hashes = Vec::new();
            for kv_index in 0..seq.kv_start + seq.num_rows {
                let (block, offset) = seq.locate(group, kv_index, self.limits.block_len);
                let cell = self.cells[group][block.index() * self.limits.block_len + offset];
                let own = cell.filter(|c| c.epoch == epoch && c.kv_index == kv_index);
                let own = own.ok_or_else(|| {
                    format!("reads KV index {kv_index} in block {block}, which is not its own")
                })?;
                hash = hash.push(own.token, own.position);
                hashes.push(hash);
            }
            if all.as_ref().is_some_and(|all| *all != hashes) {
                return Err("KV groups disagree".into());
            }
            all = Some(hashes);
        }
        all.ok_or_else(|| "there is no KV group".into())
    }

    fn emit(&mut self, slot: SlotId, want: &nvllm_core::OutputRow, hash: Hash, out: &mut StepOutput) {
        let token = want.sample.then(|| hash.next_token());
        if let Some(token) = token {
            self.slots.sampled(slot, token);
        }
        let scored = want.target.or(token.filter(|_| want.top_logprobs.is_some()));
        let logits = || Box::new(HostTensor::from_f32([1], DType::F32, &[hash.logit()])) as Box<dyn Tensor>;
        out.rows.push(RowOutput {
            token,
            logprobs: scored.map(|t| hash.logprobs(t, want.top_logprobs.unwrap_or(0))),
            values: want.values.then(logits),
            unusable: false,
        });
    }
}
