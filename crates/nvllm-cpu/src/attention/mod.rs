//! Paged attention for a ragged batch: who computes which tile, and where keys lie.
//!
//! One unit of work is a tile of consecutive new tokens of one sequence with all query heads that
//! share one KV head: each key and value row is then read once for all of them. It walks the chunks
//! of 64 absolute positions that its queries see, in ascending order. Where there are fewer tiles
//! than would keep the threads busy (decoding few sequences over a long context), the chunks of a
//! tile are dealt out as well: their states are stored and merged in the same order, so the bits
//! are the same.

mod pages;
mod scratch;

pub use pages::{KvLayout, KvPages, KvPagesMut, SequenceQueries};
pub(crate) use scratch::AttentionScratch;

use nvllm_cpu_kernels::{CHUNK, Chunk, PageRow, State};
use scratch::Item;

use crate::error::ensure;
use crate::rows::{Rows, RowsMut, Target};
use crate::scratch::Buffer;
use crate::{Cpu, Elem, Result};

/// Query rows of a tile: tokens times the query heads of one KV head.
const TILE_ROWS: usize = 48;
/// Chunks that a thread takes at a time where tiles are split.
const PART_CHUNKS: usize = 4;
/// Most bytes of stored chunk states.
const MAX_STATE_BYTES: usize = 64 << 20;

/// What an attention op computes.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads: a multiple of the KV heads; consecutive ones share a KV head.
    pub q_heads: usize,
    /// Factor on every score, commonly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Positions that a token sees, itself included; `None` for all before it.
    pub window: Option<usize>,
}

/// What all threads of one call share.
struct Call<'a> {
    shape: AttentionShape,
    q: Rows<'a>,
    pages: KvPages<'a>,
    seqs: &'a [SequenceQueries<'a>],
    out: Target,
    group: usize,
}

/// A thread's scratch for one tile, carved from its buffer.
struct TileScratch {
    q: *mut f32,
    kt: *mut f32,
    p: *mut f32,
    chunk: State,
    running: State,
}

/// f32 elements of the state of `rows` rows.
fn state_len(rows: usize, head_dim: usize) -> usize {
    rows * (head_dim + 2)
}

/// The state stored at `at`: maxima, sums, then accumulators.
fn state_at(at: *mut f32, rows: usize) -> State {
    State { max: at, sum: at.wrapping_add(rows), acc: at.wrapping_add(2 * rows) }
}

impl TileScratch {
    fn len(rows: usize, dim: usize) -> usize {
        rows * dim + dim * CHUNK + rows * CHUNK + 2 * state_len(rows, dim)
    }

    fn carve(at: *mut f32, rows: usize, dim: usize) -> Self {
        let kt = at.wrapping_add(rows * dim);
        let p = kt.wrapping_add(dim * CHUNK);
        let chunk = p.wrapping_add(rows * CHUNK);
        let running = chunk.wrapping_add(state_len(rows, dim));
        Self { q: at, kt, p, chunk: state_at(chunk, rows), running: state_at(running, rows) }
    }
}

impl Cpu {
    /// Stores the new tokens' keys and values (rows of `kv_heads * head_dim`) in their pages.
    ///
    /// # Errors
    /// Extents that do not fit together, blocks that are not there.
    pub fn append_kv(
        &self,
        keys: Rows<'_>,
        values: Rows<'_>,
        pages: &mut KvPagesMut<'_>,
        seqs: &[SequenceQueries<'_>],
    ) -> Result<()> {
        let layout = pages.layout;
        let cols = layout.kv_heads * layout.head_dim;
        let fits = keys.cols() == cols && values.cols() == cols && keys.num_rows() == values.num_rows();
        ensure!(fits, "append_kv", "rows of {} and {} columns for {layout:?}", keys.cols(), values.cols());
        for s in seqs {
            s.check("append_kv", &layout, keys.num_rows())?;
        }
        for s in seqs {
            for i in 0..s.num_new {
                let position = s.first_position + i;
                let block = s.blocks[position / layout.block_len] as usize;
                for (value, rows) in [(false, &keys), (true, &values)] {
                    for head in 0..layout.kv_heads {
                        let row = layout.row(value, head, position % layout.block_len);
                        let to = layout.row_offset(block, row);
                        let skip = head * layout.head_dim * rows.elem().size();
                        let row_of_page = PageRow {
                            x: rows.row(s.first_row + i).wrapping_add(skip),
                            elem: rows.elem(),
                            out: pages.bytes[to..to + layout.row_bytes()].as_mut_ptr(),
                            out_elem: layout.elem,
                            n: layout.head_dim,
                        };
                        // SAFETY: both sides hold head_dim elements.
                        let scale = unsafe { (self.kernels.attention.store)(&row_of_page) };
                        let at = layout.scale_offset(block, row);
                        let size = layout.elem.scale_size();
                        pages.bytes[at..at + size].copy_from_slice(&scale.to_le_bytes()[..size]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Causal softmax attention of every new token (rows of `q_heads * head_dim`) over its
    /// sequence's pages, which hold its own key and value already. Rows that no sequence names are
    /// left as they are.
    ///
    /// A row's result is a function of its query and of the keys and values by absolute position:
    /// not of the pages' size or place, of how many tokens are new, of other sequences or of the
    /// number of threads.
    ///
    /// # Errors
    /// Extents that do not fit together, blocks that are not there.
    pub fn attention(
        &mut self,
        shape: AttentionShape,
        q: Rows<'_>,
        pages: KvPages<'_>,
        seqs: &[SequenceQueries<'_>],
        mut out: RowsMut<'_>,
    ) -> Result<()> {
        let layout = pages.layout;
        let cols = shape.q_heads * layout.head_dim;
        ensure!(
            shape.q_heads > 0 && shape.q_heads.is_multiple_of(layout.kv_heads) && shape.window != Some(0),
            "attention",
            "{} query heads over {} KV heads, window {:?}",
            shape.q_heads,
            layout.kv_heads,
            shape.window
        );
        ensure!(
            q.cols() == cols && out.cols() == cols && q.num_rows() == out.num_rows(),
            "attention",
            "queries {} x {}, output {} x {}; {cols} columns are needed",
            q.num_rows(),
            q.cols(),
            out.num_rows(),
            out.cols()
        );
        for s in seqs {
            s.check("attention", &layout, q.num_rows())?;
        }
        let group = shape.q_heads / layout.kv_heads;
        let call = Call { shape, q, pages, seqs, out: out.target(), group };
        let states = self.list_items(&call);
        let busy = self.attention.items.len() >= 2 * self.pool.num_threads();
        let longest = self.attention.items.iter().map(|i| i.hi - i.lo).max().unwrap_or(0);
        let state_bytes = state_len(states, layout.head_dim) * size_of::<f32>();
        if busy || longest < 2 * PART_CHUNKS || self.pool.num_threads() == 1 || state_bytes > MAX_STATE_BYTES
        {
            let items = &self.attention.items;
            self.pool.for_chunks(items.len(), 1, |thread, range| {
                for item in &items[range] {
                    self.tile(&call, item, thread);
                }
            });
        } else {
            self.split(&call, state_bytes);
        }
        Ok(())
    }

    /// Lists the tiles, longest contexts of a sequence first; returns how many row states their
    /// chunks have.
    fn list_items(&mut self, call: &Call<'_>) -> usize {
        let items = &mut self.attention.items;
        items.clear();
        let tokens = (TILE_ROWS / call.group).max(1);
        let mut states = 0;
        for (seq, s) in call.seqs.iter().enumerate() {
            for tile in (0..s.num_new.div_ceil(tokens)).rev() {
                let token = tile * tokens;
                let num_tokens = tokens.min(s.num_new - token);
                let first = s.first_position + token;
                let seen_from = call.shape.window.map_or(0, |w| (first + 1).saturating_sub(w));
                let (lo, hi) = (seen_from / CHUNK, (first + num_tokens).div_ceil(CHUNK));
                for head in 0..call.pages.layout.kv_heads {
                    items.push(Item { seq, head, token, num_tokens, lo, hi, state: states });
                    states += (hi - lo) * num_tokens * call.group;
                }
            }
        }
        states
    }

    /// One tile over all of its chunks.
    fn tile(&self, call: &Call<'_>, item: &Item, thread: usize) {
        let dim = call.pages.layout.head_dim;
        let rows = item.num_tokens * call.group;
        let mut buffer = self.threads.of(thread);
        let scratch = self.queries(call, item, &mut buffer);
        // SAFETY: the scratch holds `rows` rows of state.
        unsafe { scratch.running.clear(rows, dim) };
        for chunk in item.lo..item.hi {
            self.chunk(call, item, chunk, &scratch, scratch.chunk);
            // SAFETY: both states hold `rows` rows.
            unsafe { (self.kernels.attention.merge)(scratch.running, scratch.chunk, rows, dim) };
        }
        self.write(call, item, scratch.running);
    }

    /// All tiles, their chunks dealt out in parts; then the merge.
    fn split(&mut self, call: &Call<'_>, state_bytes: usize) {
        let dim = call.pages.layout.head_dim;
        let AttentionScratch { items, parts, states } = &mut self.attention;
        let base = Shared(states.bytes(state_bytes).cast());
        parts.clear();
        for item in items.iter() {
            for lo in (item.lo..item.hi).step_by(PART_CHUNKS) {
                parts.push((*item, lo, item.hi.min(lo + PART_CHUNKS)));
            }
        }
        let (items, parts) = (&self.attention.items, &self.attention.parts);
        let state_of = |item: &Item, chunk: usize| {
            let rows = item.num_tokens * call.group;
            let first = item.state + (chunk - item.lo) * rows;
            state_at(base.at(state_len(first, dim)), rows)
        };
        self.pool.for_chunks(parts.len(), 1, |thread, range| {
            for (item, lo, hi) in &parts[range] {
                let mut buffer = self.threads.of(thread);
                let scratch = self.queries(call, item, &mut buffer);
                for chunk in *lo..*hi {
                    self.chunk(call, item, chunk, &scratch, state_of(item, chunk));
                }
            }
        });
        self.pool.for_chunks(items.len(), 1, |thread, range| {
            for item in &items[range] {
                let rows = item.num_tokens * call.group;
                let mut buffer = self.threads.of(thread);
                let running = state_at(buffer.bytes(state_len(rows, dim) * size_of::<f32>()).cast(), rows);
                // SAFETY: the states hold `rows` rows each; those of the chunks were written in the
                // section before.
                unsafe {
                    running.clear(rows, dim);
                    for chunk in item.lo..item.hi {
                        (self.kernels.attention.merge)(running, state_of(item, chunk), rows, dim);
                    }
                }
                self.write(call, item, running);
            }
        });
    }

    /// Carves the thread's scratch and copies the tile's queries there: rows token-major, so that
    /// neighbours see the same keys.
    fn queries(&self, call: &Call<'_>, item: &Item, buffer: &mut Buffer) -> TileScratch {
        let dim = call.pages.layout.head_dim;
        let rows = item.num_tokens * call.group;
        let len = TileScratch::len(rows, dim) * size_of::<f32>();
        let scratch = TileScratch::carve(buffer.bytes(len).cast(), rows, dim);
        let elem = call.q.elem();
        for t in 0..item.num_tokens {
            let row = call.q.row(call.seqs[item.seq].first_row + item.token + t);
            let src = row.wrapping_add(item.head * call.group * dim * elem.size());
            let dst = scratch.q.wrapping_add(t * call.group * dim).cast();
            // SAFETY: the heads of a group are consecutive columns; the scratch holds their rows.
            unsafe { (self.kernels.rows.convert)(src, elem, dst, Elem::F32, call.group * dim) };
        }
        scratch
    }

    /// The state of the tile over one chunk.
    fn chunk(&self, call: &Call<'_>, item: &Item, chunk: usize, scratch: &TileScratch, state: State) {
        let layout = &call.pages.layout;
        let seq = &call.seqs[item.seq];
        let start = chunk * CHUNK;
        let first = seq.first_position + item.token;
        let here = KeyRows::new(call, item, chunk);
        let next = KeyRows::new(call, item, chunk + 1);
        let n = here.n;
        let rows = item.num_tokens * call.group;
        let mut few = [(0, 0); TILE_ROWS];
        let mut many = Vec::new();
        let spans = if rows <= TILE_ROWS {
            &mut few[..rows]
        } else {
            many.resize(rows, (0, 0));
            &mut many[..]
        };
        for (row, span) in spans.iter_mut().enumerate() {
            let position = first + row / call.group;
            let from = call.shape.window.map_or(0, |w| (position + 1).saturating_sub(w));
            let clip = |p: usize| p.saturating_sub(start).min(n) as u32;
            *span = (clip(from), clip(position + 1));
        }
        let args = Chunk {
            q: scratch.q,
            rows,
            head_dim: layout.head_dim,
            scale: call.shape.scale,
            keys: &here.keys[..n],
            values: &here.values[..n],
            key_scales: &here.key_scales[..n],
            value_scales: &here.value_scales[..n],
            next: &next.keys[..next.n],
            elem: layout.elem,
            spans,
            kt: scratch.kt,
            p: scratch.p,
            state,
        };
        // SAFETY: keys and values are rows of checked blocks; the scratch holds `rows` rows.
        unsafe { (self.kernels.attention.chunk)(&args) }
    }

    /// Divides by the sums and writes the tile's outputs.
    fn write(&self, call: &Call<'_>, item: &Item, state: State) {
        let dim = call.pages.layout.head_dim;
        for row in 0..item.num_tokens * call.group {
            let (token, g) = (row / call.group, row % call.group);
            let to = call.out.row(call.seqs[item.seq].first_row + item.token + token);
            let head = item.head * call.group + g;
            let dst = to.wrapping_add(head * dim * call.out.elem.size());
            // SAFETY: the state holds this row; these columns of this output row are this tile's
            // alone.
            unsafe {
                let state = state.at_row(row, dim);
                (self.kernels.attention.finish)(state.acc, *state.sum, dim, dst, call.out.elem);
            }
        }
    }
}

/// Where the keys and values of one chunk lie.
struct KeyRows {
    keys: [*const u8; CHUNK],
    values: [*const u8; CHUNK],
    /// 1 where rows have no scales.
    key_scales: [f32; CHUNK],
    value_scales: [f32; CHUNK],
    n: usize,
}

impl KeyRows {
    /// The rows of a chunk that the tile's last query sees; none beyond it.
    fn new(call: &Call<'_>, item: &Item, chunk: usize) -> Self {
        let layout = &call.pages.layout;
        let seq = &call.seqs[item.seq];
        let start = chunk * CHUNK;
        let n = CHUNK.min((seq.first_position + item.token + item.num_tokens).saturating_sub(start));
        let row_bytes = layout.row_bytes();
        let base = call.pages.bytes.as_ptr();
        let mut rows = Self {
            keys: [base; CHUNK],
            values: [base; CHUNK],
            key_scales: [1.0; CHUNK],
            value_scales: [1.0; CHUNK],
            n,
        };
        let mut i = 0;
        while i < n {
            let block = seq.blocks[(start + i) / layout.block_len] as usize;
            let at = (start + i) % layout.block_len;
            let [first_key, first_value] = [false, true].map(|value| layout.row(value, item.head, at));
            let key = base.wrapping_add(layout.row_offset(block, first_key));
            let value = base.wrapping_add(layout.row_offset(block, first_value));
            let run = (layout.block_len - at).min(n - i);
            for r in 0..run {
                rows.keys[i + r] = key.wrapping_add(r * row_bytes);
                rows.values[i + r] = value.wrapping_add(r * row_bytes);
            }
            if layout.elem.scale_size() > 0 {
                call.pages.scales(block, first_key, &mut rows.key_scales[i..i + run]);
                call.pages.scales(block, first_value, &mut rows.value_scales[i..i + run]);
            }
            i += run;
        }
        rows
    }
}

/// Memory that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: an address; chunk states of different parts do not overlap.
unsafe impl Sync for Shared {}

impl Shared {
    fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}
