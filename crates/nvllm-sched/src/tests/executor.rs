//! A backend without arithmetic: it resolves and checks each step as host backends do, keeps what
//! is written to each KV cell and by whom, and computes rows from what it reads back through the
//! block tables.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use nvllm_core::host::{Batch, BatchSeq, Slots};
use nvllm_core::{
    Activations, BlockId, DType, EntryId, HostTensor, KvFormat, KvGeometry, Limits, RowOutput, SlotId, Step,
    StepId, StepOutput, Tensor, TokenId,
};

use super::model::{Hash, VOCAB};
use crate::{GroupConfig, SchedConfig};

/// What one KV position of one block holds.
#[derive(Clone, Copy, PartialEq)]
struct Cell {
    kv_index: usize,
    token: TokenId,
    position: u32,
    /// Of this token and all before it.
    tokens: Hash,
}

struct Submitted {
    id: StepId,
    output: StepOutput,
    slots: BTreeSet<SlotId>,
    /// What its sequences may read: KV group, block, and which use of which slot reads it.
    blocks: BTreeSet<(usize, BlockId, u64)>,
    /// Cells that it wrote, by KV group.
    written: Vec<(usize, usize)>,
}

pub(super) struct Executor {
    limits: Limits,
    kv: Vec<KvGeometry>,
    slots: Slots,
    epochs: Vec<u64>,
    next_epoch: u64,
    cells: Vec<Vec<Option<Cell>>>,
    submitted: VecDeque<Submitted>,
    /// Cells that the last collected step wrote.
    written: Vec<(usize, usize)>,
    /// The last block tables of each slot.
    tables: Vec<Vec<Arc<[BlockId]>>>,
}

impl Executor {
    pub(super) fn new(config: &SchedConfig) -> Self {
        let geometry = |group: &GroupConfig| KvGeometry {
            num_layers: 1,
            num_heads: 1,
            head_dim: 1,
            block_len: config.block_len,
            num_blocks: group.num_blocks,
            format: KvFormat::F32,
            window: group.window,
        };
        Self {
            limits: Limits {
                step_tokens: config.step_tokens,
                step_outputs: config.step_outputs,
                block_len: config.block_len,
                max_in_flight: config.max_in_flight,
                ..Limits::new(Activations::F32, config.seqs, config.context)
            },
            kv: config.groups.iter().map(geometry).collect(),
            slots: Slots::new(config.seqs),
            epochs: vec![0; config.seqs],
            next_epoch: 0,
            cells: config
                .groups
                .iter()
                .map(|group| vec![None; group.num_blocks * config.block_len])
                .collect(),
            submitted: VecDeque::new(),
            written: Vec::new(),
            tables: vec![Vec::new(); config.seqs],
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
        self.check_tables(step)?;
        self.copy(step)?;
        let mut submitted = Submitted {
            id: step.id,
            output: StepOutput::default(),
            slots: step.seqs.iter().map(|s| s.slot).collect(),
            blocks: BTreeSet::new(),
            written: Vec::new(),
        };
        for (at, seq) in batch.seqs.iter().enumerate() {
            self.write(&batch, seq, &mut submitted)
                .map_err(|e| format!("step {}, slot {}: {e}", step.id, seq.slot))?;
            let hashes = self
                .read(seq, step.entry)
                .map_err(|e| format!("step {}, slot {}: {e}", step.id, seq.slot))?;
            for output in batch.outputs.iter().filter(|o| o.seq == at) {
                let hash = hashes[seq.kv_start + output.row - seq.first_row];
                self.emit(seq.slot, &output.want, hash, &mut submitted.output);
            }
        }
        self.slots.advance(&batch);
        self.submitted.push_back(submitted);
        Ok(())
    }

    /// Steps whose results wait.
    pub(super) fn num_submitted(&self) -> usize {
        self.submitted.len()
    }

    /// The results of the oldest step.
    pub(super) fn collect(&mut self) -> Option<(StepId, StepOutput)> {
        let step = self.submitted.pop_front()?;
        self.written = step.written;
        Some((step.id, step.output))
    }

    /// Forgets what the step that was collected last has written: it failed.
    pub(super) fn lose(&mut self) {
        std::mem::take(&mut self.written).into_iter().for_each(|(group, at)| self.cells[group][at] = None);
    }

    /// Block tables only grow, but for blocks that are given back.
    fn check_tables(&mut self, step: &Step) -> Result<(), String> {
        step.resets.iter().for_each(|reset| self.tables[reset.slot.index()].clear());
        for seq in &step.seqs {
            let last = &mut self.tables[seq.slot.index()];
            for (before, now) in last.iter().zip(&seq.block_tables) {
                let kept = |(before, now): (&BlockId, &BlockId)| before == now || *now == BlockId::NULL;
                if before.len() > now.len() || !before.iter().zip(&**now).all(kept) {
                    return Err(format!("step {}, slot {}: {before:?} became {now:?}", step.id, seq.slot));
                }
            }
            *last = seq.block_tables.to_vec();
        }
        Ok(())
    }

    /// Block copies, before anything is written.
    fn copy(&mut self, step: &Step) -> Result<(), String> {
        for copy in &step.copies {
            self.check_unused(copy.group, copy.to, None)?;
            let len = self.limits.block_len;
            let cells = &mut self.cells[copy.group];
            let from = copy.from.index() * len;
            cells.copy_within(from..from + len, copy.to.index() * len);
        }
        Ok(())
    }

    /// Errors if a step in flight may read a block for a sequence other than `epoch`'s.
    fn check_unused(&self, group: usize, block: BlockId, epoch: Option<u64>) -> Result<(), String> {
        let used =
            |s: &Submitted| s.blocks.iter().any(|&(g, b, e)| (g, b) == (group, block) && Some(e) != epoch);
        if self.submitted.iter().any(used) {
            return Err(format!("writes block {block}, which a step in flight uses for another sequence"));
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch, seq: &BatchSeq, submitted: &mut Submitted) -> Result<(), String> {
        let epoch = self.epochs[seq.slot.index()];
        let before = self.tokens_before(seq)?;
        for group in 0..self.kv.len() {
            let mut tokens = before;
            for row in 0..seq.num_rows {
                let kv_index = seq.kv_start + row;
                let (block, offset) = seq.locate(group, kv_index, self.limits.block_len);
                self.check_unused(group, block, Some(epoch))?;
                let (token, position) =
                    (batch.tokens[seq.first_row + row], batch.positions[seq.first_row + row]);
                tokens = tokens.push(token, position);
                let at = block.index() * self.limits.block_len + offset;
                self.cells[group][at] = Some(Cell { kv_index, token, position, tokens });
                submitted.written.push((group, at));
            }
            let end = (seq.kv_start + seq.num_rows).div_ceil(self.limits.block_len);
            let used = &seq.block_tables[group][self.kv[group].num_unseen(seq.kv_start)..end];
            submitted.blocks.extend(used.iter().map(|&block| (group, block, epoch)));
        }
        Ok(())
    }

    /// The tokens whose keys and values a sequence finds: all of them written for this prefix, in
    /// group 0, which has no window.
    fn tokens_before(&self, seq: &BatchSeq) -> Result<Hash, String> {
        let mut tokens = Hash::START;
        for kv_index in 0..seq.kv_start {
            tokens = self.cell(seq, 0, kv_index, tokens)?;
        }
        Ok(tokens)
    }

    /// The tokens up to `kv_index` by what is stored there, which must follow `before`.
    fn cell(&self, seq: &BatchSeq, group: usize, kv_index: usize, before: Hash) -> Result<Hash, String> {
        let (block, offset) = seq.locate(group, kv_index, self.limits.block_len);
        let cell = self.cells[group][block.index() * self.limits.block_len + offset];
        let follows = |c: &Cell| c.kv_index == kv_index && c.tokens == before.push(c.token, c.position);
        let cell = cell.filter(follows).ok_or_else(|| {
            format!("reads KV index {kv_index} in block {block}, which holds something else")
        })?;
        Ok(cell.tokens)
    }

    /// What each row from the first on depends on, read back through the tables; all groups must
    /// agree on what a row sees.
    fn read(&self, seq: &BatchSeq, entry: EntryId) -> Result<Vec<Hash>, String> {
        let sampling = self.slots.get(seq.slot).map(|s| Arc::clone(&s.sampling)).unwrap_or_default();
        let mut all = vec![Hash::START];
        let mut tokens = Hash::START;
        for kv_index in 0..seq.kv_start + seq.num_rows {
            tokens = self.cell(seq, 0, kv_index, tokens)?;
            all.push(tokens);
        }
        for group in 1..self.kv.len() {
            for row in seq.kv_start..seq.kv_start + seq.num_rows {
                let first = self.kv[group].window.map_or(0, |window| (row + 1).saturating_sub(window));
                for (kv_index, before) in all.iter().enumerate().take(row + 1).skip(first) {
                    self.cell(seq, group, kv_index, *before)?;
                }
            }
        }
        Ok(all[1..].iter().map(|tokens| tokens.sampled_by(&sampling, entry)).collect())
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
