//! Packing a step.

use bytemuck::Pod;

use super::{DeviceReset, DeviceRow, StepLayout, WordCopy};
use crate::host::{Batch, BatchSeq};
use crate::{SlotId, SlotReset, Source, Step};

/// Tokens that a sequence brings into its slot, to be counted for its penalties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedTokens {
    /// The slot.
    pub slot: SlotId,
    /// Whether they are of the prompt, or else of the output.
    pub in_prompt: bool,
    /// Where they lie in the packed bytes as words; `None` if the packed step had no room for them.
    pub at: Option<usize>,
    /// How many.
    pub num: usize,
}

/// A packed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedStep {
    /// Bytes used.
    pub len: usize,
    /// Where the list of [`WordCopy`] begins.
    pub copies_at: usize,
    /// Entries of the list.
    pub num_copies: usize,
    /// Where the sources of tokens begin.
    pub source_at: usize,
    /// Where the resets begin.
    pub resets_at: usize,
    /// Tokens to count, by reset: prompt, then output.
    pub counted: Vec<CountedTokens>,
}

impl PackedStep {
    /// The copies, as they lie in `bytes`.
    pub fn copies<'a>(&self, bytes: &'a [u8]) -> &'a [WordCopy] {
        bytemuck::cast_slice(&bytes[self.copies_at..][..self.num_copies * size_of::<WordCopy>()])
    }
}

struct Packer<'a> {
    bytes: &'a mut [u8],
    len: usize,
    copies: Vec<WordCopy>,
}

impl Packer<'_> {
    /// Appends `items`; returns their place.
    fn push<T: Pod>(&mut self, items: impl IntoIterator<Item = T>) -> std::ops::Range<usize> {
        let start = self.len;
        for item in items {
            let end = self.len + size_of::<T>();
            self.bytes[self.len..end].copy_from_slice(bytemuck::bytes_of(&item));
            self.len = end;
        }
        start..self.len
    }

    /// Appends `items`, which belong at byte `to` of the layout; returns where they begin.
    fn part<T: Pod>(&mut self, to: usize, items: impl IntoIterator<Item = T>) -> usize {
        let place = self.push(items);
        if !place.is_empty() {
            let (from, num_words) = ((place.start / 4) as u32, (place.len() / 4) as u32);
            self.copies.push(WordCopy { to: (to / 4) as u64, from, num_words });
        }
        place.start
    }
}

impl StepLayout {
    /// Packs a step that was resolved to `batch` into `bytes` (`packed_len` of them, aligned to
    /// 16), its rows padded to `tokens` and its sequences to `seqs`.
    ///
    /// Rows of padding name token 0, position 0 and no place in the KV cache, and belong to no
    /// sequence: kernels run them without effect, or stop at the counts.
    pub fn pack(
        &self,
        bytes: &mut [u8],
        step: &Step,
        batch: &Batch,
        [tokens, seqs]: [usize; 2],
    ) -> PackedStep {
        let mut packer = Packer { bytes, len: 0, copies: Vec::new() };
        let row_pad = || std::iter::repeat_n(0_i32, tokens - batch.tokens.len());
        let seq_pad = || std::iter::repeat_n(0_i32, seqs - batch.seqs.len());
        let counts = [batch.tokens.len(), batch.outputs.len(), batch.seqs.len(), step.resets.len()];
        packer.part(0, counts.map(|n| n as i32));
        let sources = step.seqs.iter().flat_map(|seq| {
            seq.tokens.iter().map(|token| match token {
                Source::Host(token) => token.0 as i32,
                Source::Slot => -1 - seq.slot.0 as i32,
            })
        });
        let source_at = packer.part(self.source, sources.chain(row_pad()));
        packer.part(self.positions, batch.positions.iter().map(|&p| p as i32).chain(row_pad()));
        let rows =
            || batch.seqs.iter().enumerate().flat_map(|(i, s)| (0..s.num_rows).map(move |row| (i, s, row)));
        packer.part(self.row_seq, rows().map(|(i, _, _)| i as i32).chain(row_pad()));
        let kv_index = |(_, seq, row): (usize, &BatchSeq, usize)| (seq.kv_start + row) as i32;
        packer.part(self.row_kv, rows().map(kv_index).chain(row_pad()));
        let end = std::iter::repeat_n(batch.tokens.len() as i32, 1 + seq_pad().len());
        packer.part(self.seq_start, batch.seqs.iter().map(|s| s.first_row as i32).chain(end));
        packer.part(self.seq_rows, batch.seqs.iter().map(|s| s.num_rows as i32).chain(seq_pad()));
        packer.part(self.seq_kv_start, batch.seqs.iter().map(|s| s.kv_start as i32).chain(seq_pad()));
        packer.part(self.outputs, batch.outputs.iter().map(|output| device_row(batch, output)));
        let resets_at = packer.part(self.resets, step.resets.iter().map(DeviceReset::new));
        for (group, (&places, &tables)) in self.row_place.iter().zip(&self.tables).enumerate() {
            let place = |(_, seq, row): (usize, &BatchSeq, usize)| {
                let (block, offset) = seq.locate(group, seq.kv_start + row, self.block_len);
                (block.index() * self.block_len + offset) as i32
            };
            packer.part(places, rows().map(place).chain(row_pad().map(|_| -1)));
            for (i, seq) in batch.seqs.iter().enumerate() {
                let used = (seq.kv_start + seq.num_rows).div_ceil(self.block_len);
                let table = seq.block_tables[group][..used].iter().map(|block| block.0);
                packer.part(tables + i * self.max_blocks * 4, table);
            }
        }
        for reset in &step.resets {
            self.pack_lists(&mut packer, reset);
        }
        let copies = std::mem::take(&mut packer.copies);
        packer.len = packer.len.next_multiple_of(size_of::<WordCopy>());
        let copies_at = packer.push(copies.iter().copied()).start;
        let counted = self.pack_counted(&mut packer, &step.resets);
        let (len, num_copies) = (packer.len, copies.len());
        PackedStep { len, copies_at, num_copies, source_at, resets_at, counted }
    }

    /// Biases and stop tokens. Stop tokens are read only until `min_tokens`, and most sequences
    /// have some.
    fn pack_lists(&self, packer: &mut Packer<'_>, reset: &SlotReset) {
        let (slot, params) = (reset.slot.index(), &reset.sampling);
        let biases = params.logit_bias.iter().map(|&(token, bias)| [token.0, bias.to_bits()]);
        packer.part(self.biases + slot * self.max_biases * 8, biases);
        if params.min_tokens > 0 {
            let stops = params.stop_tokens.iter().map(|token| token.0);
            packer.part(self.stops + slot * self.max_stops * 4, stops);
        }
    }

    fn pack_counted(&self, packer: &mut Packer<'_>, resets: &[SlotReset]) -> Vec<CountedTokens> {
        let mut room = self.counted_len;
        let lists = resets
            .iter()
            .filter(|reset| reset.sampling.needs_counts())
            .flat_map(|reset| [(reset.slot, true, &reset.prompt), (reset.slot, false, &reset.output)]);
        let pack = |(slot, in_prompt, tokens): (_, _, &std::sync::Arc<[crate::TokenId]>)| {
            let num = tokens.len();
            let fits = num <= room;
            let at = fits.then(|| packer.push(tokens.iter().map(|token| token.0)).start);
            room -= if fits { num } else { 0 };
            CountedTokens { slot, in_prompt, at, num }
        };
        lists.map(pack).filter(|list| list.num > 0).collect()
    }
}

fn device_row(batch: &Batch, output: &crate::host::BatchOutput) -> DeviceRow {
    let want = &output.want;
    let bits = [
        (want.sample, DeviceRow::SAMPLE),
        (want.scored(), DeviceRow::SCORE),
        (want.awaits_mask, DeviceRow::AWAITS_MASK),
    ];
    DeviceRow {
        row: output.row as i32,
        slot: batch.seqs[output.seq].slot.0 as i32,
        wants: bits.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum(),
        next_index: output.next_index,
        target: want.target.map_or(-1, |token| token.0 as i32),
        num_top: u32::from(want.top_logprobs.unwrap_or(0)),
        padding: [0; 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Slots;
    use crate::{
        Activations, BlockId, KvFormat, KvGeometry, Limits, OutputRow, RequestLimits, SamplingParams,
        SeqStep, StepId, TokenId,
    };

    const LISTS: RequestLimits = RequestLimits { stop_tokens: 3, logit_biases: 5 };

    fn words(bytes: &[u8], at: usize, num: usize) -> Vec<i32> {
        bytes[at..at + 4 * num].chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    fn limits() -> Limits {
        Limits { step_tokens: 8, block_len: 4, kv_bytes: 1 << 20, ..Limits::new(Activations::F32, 4, 10) }
    }

    const GEOMETRY: KvGeometry = KvGeometry {
        num_layers: 1,
        num_heads: 1,
        head_dim: 8,
        block_len: 4,
        num_blocks: 9,
        format: KvFormat::F32,
        window: None,
    };

    fn host(token: u32) -> Source<TokenId> {
        Source::Host(TokenId(token))
    }

    fn seq(slot: u32, tokens: Vec<Source<TokenId>>, start: u32, table: [u32; 2]) -> SeqStep {
        SeqStep {
            slot: SlotId(slot),
            positions: (0..tokens.len() as u32).map(|i| Source::Host(100 + i)).collect(),
            outputs: [OutputRow::sample(tokens.len() as u32 - 1)].into(),
            tokens: tokens.into(),
            kv_start: Source::Host(start),
            block_tables: [table.map(BlockId).into()].into(),
        }
    }

    fn reset(slot: u32, sampling: SamplingParams) -> SlotReset {
        let prompt: Vec<_> = [5, 6, 5].map(TokenId).into();
        SlotReset {
            slot: SlotId(slot),
            prompt: prompt.into(),
            output: [TokenId(8)].into(),
            sampling: sampling.into(),
        }
    }

    /// Packs and spreads; what nothing was copied to is -1.
    fn spread(
        limits: &Limits,
        step: &Step,
        padded: [usize; 2],
    ) -> (StepLayout, PackedStep, Vec<u8>, Vec<u8>) {
        let mut slots = Slots::new(limits.seqs);
        slots.reset(step, 50).unwrap();
        let batch = Batch::new(step, &slots, limits, &[GEOMETRY], 50).unwrap();
        let layout = StepLayout::new(limits, &[GEOMETRY], LISTS);
        let mut aligned = vec![0_u128; layout.packed_len.div_ceil(16)];
        let packed = bytemuck::cast_slice_mut(&mut aligned);
        let made = layout.pack(packed, step, &batch, padded);
        let mut inputs = vec![0xff; layout.len];
        for copy in made.copies(packed) {
            let (to, from, len) = (copy.to as usize * 4, copy.from as usize * 4, copy.num_words as usize * 4);
            inputs[to..to + len].copy_from_slice(&packed[from..from + len]);
        }
        (layout, made, packed.to_vec(), inputs)
    }

    /// Two tokens of one sequence after five, and one token of another that only its slot knows.
    #[test]
    fn a_step_is_laid_out_and_padded() {
        let step = Step {
            id: StepId(0),
            resets: vec![reset(3, SamplingParams::default()), reset(1, SamplingParams::default())],
            seqs: vec![seq(3, vec![host(7), host(9)], 5, [2, 6]), seq(1, vec![Source::Slot], 3, [8, 1])],
            ..Step::default()
        };
        let (layout, made, packed, bytes) = spread(&limits(), &step, [4, 3]);
        assert_eq!(words(&bytes, 0, 4), [3, 2, 2, 2]);
        assert_eq!(words(&bytes, layout.source, 5), [7, 9, -2, 0, -1]);
        assert_eq!(words(&bytes, layout.positions, 5), [100, 101, 100, 0, -1]);
        assert_eq!(words(&bytes, layout.row_seq, 4), [0, 0, 1, 0]);
        assert_eq!(words(&bytes, layout.row_kv, 4), [5, 6, 3, 0]);
        assert_eq!(words(&bytes, layout.row_place[0], 4), [25, 26, 35, -1]);
        assert_eq!(words(&bytes, layout.seq_start, 4), [0, 2, 3, 3]);
        assert_eq!(words(&bytes, layout.seq_rows, 3), [2, 1, 0]);
        assert_eq!(words(&bytes, layout.seq_kv_start, 3), [5, 3, 0]);
        assert_eq!(words(&bytes, layout.outputs, 4), [1, 3, 1, 7]);
        assert_eq!(words(&bytes, layout.outputs + 32, 4), [2, 1, 1, 4]);
        assert_eq!([0, 80].map(|at| words(&bytes, layout.resets + at, 1)[0]), [3, 1]);
        let tables = layout.tables[0];
        assert_eq!((words(&bytes, tables, 2), words(&bytes, tables + 12, 1)), (vec![2, 6], vec![8]));
        assert!(made.counted.is_empty() && made.len <= layout.packed_len);
        assert_eq!(words(&packed, made.source_at, 4), [7, 9, -2, 0]);
        assert_eq!([0, 80].map(|at| words(&packed, made.resets_at + at, 1)[0]), [3, 1]);
    }

    /// Biases, stop tokens and tokens to count come with the step; what there is no room for is
    /// said.
    #[test]
    fn lists_of_a_reset_are_packed() {
        let biased = SamplingParams {
            logit_bias: vec![(TokenId(4), 0.5), (TokenId(2), -1.0)],
            stop_tokens: vec![TokenId(9)],
            min_tokens: 1,
            ..SamplingParams::default()
        };
        let counted = SamplingParams { presence_penalty: 0.5, ..SamplingParams::default() };
        let resets = vec![reset(2, biased), reset(0, counted.clone()), reset(1, counted)];
        let step = Step { resets, ..Step::default() };
        let (layout, made, packed, bytes) = spread(&Limits { context: 7, ..limits() }, &step, [0, 0]);
        let biases = layout.biases + 2 * 5 * 8;
        assert_eq!(
            words(&bytes, biases, 5),
            [4, 0.5_f32.to_bits() as i32, 2, (-1.0_f32).to_bits() as i32, -1]
        );
        assert_eq!(words(&bytes, layout.stops + 2 * 3 * 4, 2), [9, -1]);
        let lists: Vec<_> =
            made.counted.iter().map(|c| (c.slot.0, c.in_prompt, c.at.is_some(), c.num)).collect();
        assert_eq!(
            lists,
            [(0, true, true, 3), (0, false, true, 1), (1, true, true, 3), (1, false, false, 1)]
        );
        assert_eq!(words(&packed, made.counted[0].at.unwrap(), 3), [5, 6, 5]);
    }

    /// A step takes as many bytes whatever the context and the number of slots that the model was
    /// loaded for.
    #[test]
    fn bytes_follow_use() {
        let step = Step {
            resets: vec![reset(1, SamplingParams::default())],
            seqs: vec![seq(1, vec![host(3)], 3, [8, 1])],
            ..Step::default()
        };
        let small = spread(&limits(), &step, [1, 1]).1;
        let large = Limits { context: 1 << 20, seqs: 999, step_tokens: 9999, ..limits() };
        assert_eq!(spread(&large, &step, [1, 1]).1, small);
        assert!(small.len < 600, "{}", small.len);
    }

    /// The largest step fits: every row, every table full, every list as long as it may be.
    #[test]
    fn the_largest_step_fits() {
        let limits = Limits { step_outputs: 8, ..limits() };
        let sampling = SamplingParams {
            logit_bias: (0..5).map(|t| (TokenId(t), 1.0)).collect(),
            stop_tokens: (0..3).map(TokenId).collect(),
            min_tokens: 1,
            presence_penalty: 1.0,
            ..SamplingParams::default()
        };
        let sequence = |slot: u32| SeqStep {
            outputs: vec![OutputRow::values(0), OutputRow::sample(1)].into(),
            block_tables: [[1, 2, 3].map(BlockId).into()].into(),
            ..seq(slot, vec![host(1), host(2)], 8, [1, 2])
        };
        let step = Step {
            resets: (0..4).map(|slot| reset(slot, sampling.clone())).collect(),
            seqs: (0..4).map(sequence).collect(),
            ..Step::default()
        };
        let (layout, made, ..) = spread(&limits, &step, [8, 4]);
        assert!(made.len <= layout.packed_len, "{} > {}", made.len, layout.packed_len);
        assert_eq!(
            made.counted.iter().filter(|list| list.at.is_some()).map(|list| list.num).sum::<usize>(),
            10
        );
    }
}
