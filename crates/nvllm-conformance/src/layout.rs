//! Ragged batches: how sequences are cut into steps, and where they lie in slots and blocks.
//!
//! *Content* (how many tokens, which) and *placement* (chunks, block length, slots, blocks, order
//! in the step) are drawn from two seeds, so that the same content can be run under another
//! placement.

use std::sync::Arc;

use nvllm_core::{
    BlockId, InlineVec, OutputRow, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, StepId, TokenId,
};
use proptest::prelude::*;

use crate::draw::Draw;

/// Which rows of a step are outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    None,
    Last,
    Some,
    All,
}

/// A set of sequences and how they are run.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// For each sequence the lengths of its chunks; the last chunks of all sequences share the last
    /// step.
    pub seqs: Vec<Vec<usize>>,
    pub block_len: usize,
    /// Seed of tokens and positions.
    pub content: u64,
    /// Seed of slots and of the order in a step.
    pub placement: u64,
    /// Seed of block tables.
    pub blocks: u64,
    /// The content's number of the first sequence: a part of another layout.
    pub first: usize,
    pub outputs: Outputs,
    /// Whether rows ask for their logits.
    pub logits: bool,
}

/// What a layout asks of [`Limits`](nvllm_core::Limits).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub step_tokens: usize,
    pub step_outputs: usize,
    pub slots: usize,
    pub context: usize,
    pub num_blocks: usize,
}

/// Row counts that every op must take: one, and numbers that no tile size divides.
pub(crate) fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![2 => Just(1_usize), 3 => Just(19_usize), 2 => Just(111_usize), 1 => Just(989_usize)]
}

/// Batches with `rows` new tokens in one step, after up to `past` tokens a sequence in steps
/// before, with a step of single tokens after it in half of the cases that have a past.
pub(crate) fn layouts(rows: impl Strategy<Value = usize>, past: usize) -> impl Strategy<Value = Layout> {
    let block_len = prop_oneof![Just(1_usize), Just(3_usize), Just(16_usize), Just(64_usize)];
    let outputs = prop_oneof![Just(Outputs::Last), Just(Outputs::Some), Just(Outputs::All)];
    let seeds = (any::<u64>(), any::<u64>());
    (rows, 1..=5_usize, 0..=past, block_len, seeds, outputs).prop_map(
        |(rows, num_seqs, past, block_len, (content, placement), outputs)| {
            let mut draw = Draw::new(content ^ 0x5eed);
            let decode = past > 0 && draw.below(2) == 0;
            let seqs = draw
                .split(rows, num_seqs)
                .into_iter()
                .map(|new| {
                    let (past, parts) = (draw.below(past + 1), 1 + draw.below(3));
                    let mut chunks = draw.split(past, parts);
                    chunks.push(new);
                    chunks.extend(decode.then_some(1));
                    chunks
                })
                .collect();
            Layout {
                seqs,
                block_len,
                content,
                placement,
                blocks: placement,
                first: 0,
                outputs,
                logits: false,
            }
        },
    )
}

/// One sequence of 251 to 570 tokens, the last of them a few or one: kernels split so many
/// positions into chunks that they merge.
pub(crate) fn long() -> impl Strategy<Value = Layout> {
    layouts(prop_oneof![Just(1_usize), Just(19_usize)], 300).prop_map(|mut layout| {
        layout.seqs.truncate(1);
        layout.seqs[0][0] += 250;
        layout
    })
}

impl Layout {
    /// Whole prompts of these lengths, one sequence each, in one step.
    pub(crate) fn whole(lens: &[usize], content: u64) -> Self {
        let seqs = lens.iter().map(|&len| vec![len]).collect();
        Self {
            seqs,
            block_len: 16,
            content,
            placement: 0,
            blocks: 0,
            first: 0,
            outputs: Outputs::All,
            logits: true,
        }
    }

    pub(crate) fn lens(&self) -> Vec<usize> {
        self.seqs.iter().map(|chunks| chunks.iter().sum()).collect()
    }

    pub(crate) fn num_steps(&self) -> usize {
        self.seqs.iter().map(Vec::len).max().unwrap_or(0)
    }

    pub(crate) fn needs(&self) -> Needs {
        let steps = self.steps(1, 0);
        let blocks: usize = self.lens().iter().map(|len| len.div_ceil(self.block_len)).sum();
        let max = |of: fn(&Step) -> usize| steps.iter().map(of).max().unwrap_or(0).max(1);
        Needs {
            step_tokens: max(Step::num_tokens),
            step_outputs: max(Step::num_outputs),
            slots: self.num_slots(),
            context: self.lens().into_iter().max().unwrap_or(1),
            // The null block, and holes.
            num_blocks: 3 + blocks + blocks / 2,
        }
    }

    fn num_slots(&self) -> usize {
        self.seqs.len() + Draw::new(self.placement ^ 1).below(3)
    }

    /// The slot of each sequence.
    pub(crate) fn slots(&self) -> Vec<SlotId> {
        let mut slots: Vec<_> = (0..self.num_slots() as u32).map(SlotId).collect();
        Draw::new(self.placement ^ 2).shuffle(&mut slots);
        slots.truncate(self.seqs.len());
        slots
    }

    /// The block table of each sequence in a KV group: blocks in no order, with holes between them,
    /// and null blocks after the end. Groups have tables of their own.
    pub(crate) fn tables(&self, group: usize) -> Vec<Arc<[BlockId]>> {
        let lens = self.lens();
        let blocks: usize = lens.iter().map(|len| len.div_ceil(self.block_len)).sum();
        let mut pool: Vec<_> = (1..(3 + blocks + blocks / 2) as u32).map(BlockId).collect();
        let mut draw = Draw::new(self.blocks ^ 3 ^ (group as u64) << 32);
        draw.shuffle(&mut pool);
        let table = |len: usize| {
            let mut table = pool.split_off(pool.len() - len.div_ceil(self.block_len));
            table.extend(vec![BlockId::NULL; draw.below(2)]);
            table.into()
        };
        lens.into_iter().map(table).collect()
    }

    /// The token of sequence `seq` at `index`: content, whatever the placement.
    pub(crate) fn token(&self, seq: usize, index: usize, vocab_size: usize) -> TokenId {
        TokenId(Draw::at(self.content, [(self.first + seq) as u32, index as u32]).below(vocab_size) as u32)
    }

    /// The position id of a sequence's first token: position ids are not KV indices.
    pub(crate) fn first_position(&self, seq: usize) -> u32 {
        [0, 0, 7, 40_008][Draw::at(self.content, [(self.first + seq) as u32, u32::MAX]).below(4)]
    }

    /// The steps, over tables of `vocab_size` rows and `num_groups` KV groups.
    pub(crate) fn steps(&self, vocab_size: usize, num_groups: usize) -> Vec<Step> {
        let slots = self.slots();
        let tables: Vec<_> = (0..num_groups).map(|group| self.tables(group)).collect();
        let mut draw = Draw::new(self.placement ^ 4);
        let mut wanted = Draw::new(self.content ^ 5);
        (0..self.num_steps())
            .map(|at| {
                let mut step = Step { id: StepId(at as u64), ..Step::default() };
                for (seq, chunks) in self.seqs.iter().enumerate() {
                    let Some(chunk) = (at + chunks.len()).checked_sub(self.num_steps()) else { continue };
                    if chunk == 0 {
                        step.resets.push(SlotReset {
                            slot: slots[seq],
                            prompt: Arc::new([]),
                            output: Arc::new([]),
                            sampling: Arc::new(SamplingParams::default()),
                        });
                    }
                    let start = chunks[..chunk].iter().sum::<usize>();
                    step.seqs.push(SeqStep {
                        slot: slots[seq],
                        tokens: (start..start + chunks[chunk])
                            .map(|i| Source::Host(self.token(seq, i, vocab_size)))
                            .collect(),
                        positions: (start..start + chunks[chunk])
                            .map(|i| Source::Host(self.first_position(seq) + i as u32))
                            .collect(),
                        kv_start: Source::Host(start as u32),
                        block_tables: tables.iter().map(|group| Arc::clone(&group[seq])).collect(),
                        outputs: self.wanted(&mut wanted, chunks[chunk]),
                    });
                }
                draw.shuffle(&mut step.seqs);
                step
            })
            .collect()
    }

    fn wanted(&self, draw: &mut Draw, len: usize) -> InlineVec<OutputRow> {
        let row = |index| OutputRow { values: self.logits, ..OutputRow::new(index) };
        let rows = 0..len as u32;
        match self.outputs {
            Outputs::None => InlineVec::new(),
            Outputs::Last => rows.map(row).skip(len - 1).collect(),
            Outputs::Some => rows.filter(|_| draw.below(3) == 0).map(row).collect(),
            Outputs::All => rows.map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_every_token_once_and_in_order() {
        let layout = Layout { seqs: vec![vec![5, 3, 1], vec![2], vec![4, 4]], ..Layout::whole(&[1], 9) };
        let mut next = [0; 8];
        for step in layout.steps(50, 1) {
            for seq in &step.seqs {
                assert_eq!(seq.kv_start, Source::Host(next[seq.slot.index()]));
                next[seq.slot.index()] += seq.tokens.len() as u32;
            }
        }
        let lens: Vec<_> = layout.slots().iter().map(|s| next[s.index()] as usize).collect();
        assert_eq!(lens, layout.lens());
        let mut blocks: Vec<_> = layout.tables(0).iter().flat_map(|t| t.to_vec()).collect();
        blocks.retain(|&b| b != BlockId::NULL);
        blocks.sort_unstable();
        let num_blocks = blocks.len();
        blocks.dedup();
        assert_eq!(blocks.len(), num_blocks, "blocks are shared");
    }
}
