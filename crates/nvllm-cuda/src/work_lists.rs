//! Work lists of attention's fast kernels, made on the device once a step for all layers, and room
//! for the sums of KV chunks.

use std::sync::Arc;

use nvllm_core::host::{Batch, BatchSeq};
use nvllm_core::{AttentionSpec, KvGeometry, Limits, Op, Program, Rows, RowsOf};

use crate::device::Device;
use crate::error::Result;
use crate::inputs::Inputs;
use crate::kernels::attention::attention_order::ITEM_BYTES;
use crate::kernels::attention::prefill::TILE_ROWS;
use crate::launch::{Args, Dim, Launch};
use crate::lower;
use crate::memory::{Address, Buffer};
use crate::modules::Modules;

/// Positions of a chunk.
pub(crate) use crate::kernels::attention::attention_order::KV_CHUNK as CHUNK;

/// What a list depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Query heads of one KV head.
    group: usize,
    /// 0 for none.
    window: usize,
    /// Most packed rows (new rows times `group`) that go to the decode kernel: one row, or none
    /// where it does not take the pages.
    decode_rows: usize,
}

impl Key {
    fn new(spec: &AttentionSpec, limits: &Limits) -> Self {
        let group = spec.num_heads / spec.num_kv_heads;
        let decode_rows = if limits.block_len.is_multiple_of(16) { group } else { 0 };
        Self { group, window: spec.window.unwrap_or(0), decode_rows }
    }

    const fn tile_tokens(self) -> usize {
        TILE_ROWS / self.group
    }

    /// Chunks that the new rows of a sequence see: entries that it takes of the decode kernel's.
    const fn chunks(self, seq: &BatchSeq) -> usize {
        let window = if self.window > 0 { self.window } else { usize::MAX };
        (seq.kv_start + seq.num_rows).div_ceil(CHUNK) - (seq.kv_start + 1).saturating_sub(window) / CHUNK
    }
}

/// How large everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    keys: Vec<Key>,
    /// Entries for the decode kernel at most: chunks of sequences that share no block. What is more
    /// goes to the prefill kernel, which gives the same bits.
    entries: usize,
    /// Floats of partial sums, and of their maxima and weights.
    partial: [usize; 2],
}

impl Plan {
    fn new(programs: &[Program], limits: &Limits, geometries: &[KvGeometry]) -> Self {
        let mut plan = Self { keys: Vec::new(), entries: 0, partial: [0; 2] };
        let chunks = limits.context.div_ceil(CHUNK);
        for node in programs.iter().flat_map(|program| &program.nodes) {
            let (Op::PagedAttention { spec, kv } | Op::Attention { spec, kv, .. }) = &node.op else {
                continue;
            };
            let geometry = &geometries[kv.group];
            if !lower::attends_fast(spec, limits) {
                continue;
            }
            let key = Key::new(spec, limits);
            if !plan.keys.contains(&key) {
                plan.keys.push(key);
            }
            let unshared = geometry.num_blocks * geometry.block_len / CHUNK + limits.seqs;
            plan.entries = plan.entries.max(unshared.min(limits.seqs * chunks));
            // A row of sums for each query head.
            let rows = plan.entries.saturating_mul(spec.num_heads);
            let sums = rows.saturating_mul(spec.head_dim);
            plan.partial = [plan.partial[0].max(sums), plan.partial[1].max(rows.saturating_mul(2))];
        }
        plan
    }

    fn list_bytes(&self, key: Key, limits: &Limits) -> [usize; 4] {
        let tiles = limits.step_tokens / key.tile_tokens() + limits.seqs;
        [self.entries * ITEM_BYTES, tiles * ITEM_BYTES, 16, limits.seqs * 4]
    }
}

/// Where the kernels find a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListAt {
    pub decode: Address,
    pub prefill: Address,
    pub counts: Address,
    pub first_entry: Address,
    /// Tokens of a tile of prefill.
    pub tile_tokens: usize,
    /// Whether the decode kernel has work.
    pub decodes: bool,
    /// Sums of chunks, their maxima and weights, and rows of each entry.
    pub partial: [Address; 2],
    pub part_rows: usize,
}

/// All lists of a model.
pub(crate) struct WorkLists {
    plan: Plan,
    /// Entries for decode, entries for prefill, their counts, each sequence's first entry.
    lists: Vec<[Buffer; 4]>,
    partial: [Buffer; 2],
    block_len: usize,
}

impl WorkLists {
    /// Bytes that the lists of `programs` take.
    pub(crate) fn bytes_for(programs: &[Program], limits: &Limits, geometries: &[KvGeometry]) -> usize {
        let plan = Plan::new(programs, limits, geometries);
        let lists = plan.keys.iter().map(|&key| plan.list_bytes(key, limits).iter().sum::<usize>());
        let partial = plan.partial.map(|floats| floats.saturating_mul(size_of::<f32>()));
        lists.chain(partial).fold(0, usize::saturating_add)
    }

    pub(crate) fn new(
        device: &Arc<Device>,
        programs: &[Program],
        limits: &Limits,
        geometries: &[KvGeometry],
    ) -> Result<Self> {
        let plan = Plan::new(programs, limits, geometries);
        let list = |&key: &Key| {
            let [decode, prefill, counts, first] =
                plan.list_bytes(key, limits).map(|bytes| Buffer::zeroed(device, bytes));
            Ok([decode?, prefill?, counts?, first?])
        };
        let lists = plan.keys.iter().map(list).collect::<Result<_>>()?;
        let [sums, weights] = plan.partial.map(|floats| Buffer::new(device, floats * size_of::<f32>()));
        Ok(Self { lists, partial: [sums?, weights?], block_len: limits.block_len, plan })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.lists.iter().flatten().chain(&self.partial).map(Buffer::len).sum()
    }

    /// The list of attention with `spec`; every such op of the model has one.
    pub(crate) fn list(&self, spec: &AttentionSpec, limits: &Limits) -> Option<ListAt> {
        let key = Key::new(spec, limits);
        let at = self.plan.keys.iter().position(|known| *known == key)?;
        let [decode, prefill, counts, first_entry] = self.lists[at].each_ref().map(|buffer| buffer.at(0));
        Some(ListAt {
            decode,
            prefill,
            counts,
            first_entry,
            tile_tokens: key.tile_tokens(),
            decodes: key.decode_rows > 0,
            partial: self.partial.each_ref().map(|buffer| buffer.at(0)),
            part_rows: key.group,
        })
    }

    /// What makes the lists at the beginning of a step.
    pub(crate) fn launches(&self, modules: &Modules, inputs: &Inputs) -> Result<Vec<Launch>> {
        let layout = &inputs.layout;
        let one = |(key, list): (&Key, &[Buffer; 4])| {
            let [decode, prefill, counts, first_entry] = list;
            let args = Args::new()
                .ptr(inputs.at(layout.seq_start))
                .ptr(inputs.at(layout.seq_rows))
                .ptr(inputs.at(layout.seq_kv_start))
                .rows(Rows { of: RowsOf::Seqs, times: 1 })
                .int(key.group)
                .int(key.decode_rows)
                .int(key.tile_tokens())
                .int(key.window)
                .int(self.plan.entries)
                .ptr(decode.at(0))
                .ptr(prefill.at(0))
                .ptr(counts.at(0))
                .ptr(first_entry.at(0));
            Ok(Launch::new(&modules.function("attention_work_list")?, Dim::Fixed(1), args).early())
        };
        self.plan.keys.iter().zip(&self.lists).map(one).collect()
    }

    /// Whether some of a step's rows go to the prefill kernel.
    pub(crate) fn prefill(&self, batch: &Batch) -> bool {
        if self.plan.keys.is_empty() {
            return false;
        }
        let chunks = |key: &Key| batch.seqs.iter().map(|seq| key.chunks(seq)).sum::<usize>();
        !self.block_len.is_multiple_of(16)
            || batch.seqs.iter().any(|seq| seq.num_rows > 1)
            || self.plan.keys.iter().any(|key| chunks(key) > self.plan.entries)
    }
}
