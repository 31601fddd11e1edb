//! What a pass computes: its phases run on the host by blocks in any order, by the formulas and
//! roundings of the reference backend.

use std::collections::{BTreeMap, VecDeque};

use nvllm_core::{BlockId, DType};

use super::memory::Memory;
use crate::lower::decode_pass::phase::{ATTENTION, FOLD, LINEAR, NO_TAG, OUT_F32, Phase, SILU};
use crate::lower::decode_pass::record::Shared;
use crate::memory::Address;
use crate::work_lists::CHUNK;

/// A launch that decodes one token of one sequence.
pub(super) struct Launch<'a> {
    pub phases: &'a [Phase],
    /// W of each phase that is a linear layer.
    pub weights: &'a [Address],
    pub attention: &'a Shared,
    /// The sequence's block table.
    pub table: &'a [BlockId],
    /// KV index and position of the token.
    pub index: usize,
    pub blocks: usize,
    /// The tag of phase 0.
    pub base: u32,
}

/// What a block does next.
#[derive(Clone, Copy, Debug)]
enum Action {
    /// A tile or unit of a phase.
    Run(usize, usize),
    /// Says that its units of attention are done.
    Arrive(usize),
}

/// A launch that runs.
struct Running<'a> {
    launch: &'a Launch<'a>,
    memory: &'a mut Memory,
    arrived: Vec<usize>,
    /// By KV head and chunk. One place for all layers, as on the device.
    partial: BTreeMap<[usize; 2], Vec<Position>>,
}

/// A position as a KV head sees it.
struct Position {
    /// Of the head's queries.
    scores: Vec<f32>,
    value: Vec<f32>,
}

fn bf16(x: f32) -> f32 {
    DType::Bf16.round(x)
}

fn dot(a: &[f32], b: impl Iterator<Item = f32>) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

impl Launch<'_> {
    /// Runs the launch, the next block to go on being `draw` of how many there are that are not
    /// done. Errors if none can go on, or one leaves its phase.
    pub(super) fn run(
        &self,
        memory: &mut Memory,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Result<(), String> {
        let (arrived, partial) = (vec![0; self.phases.len()], BTreeMap::new());
        let mut running = Running { launch: self, memory, arrived, partial };
        let mut left = (0..self.blocks).map(|block| self.actions(block)).collect::<Result<Vec<_>, _>>()?;
        left.retain(|actions| !actions.is_empty());
        while !left.is_empty() {
            let first = draw(left.len());
            let order = (0..left.len()).map(|i| (first + i) % left.len());
            let next = order.into_iter().find(|&block| running.goes_on(left[block][0]));
            let Some(block) = next else { return Err(format!("no block goes on: {:?}", left[0][0])) };
            left[block].pop_front();
            left.retain(|actions| !actions.is_empty());
        }
        Ok(())
    }

    fn chunks(&self) -> std::ops::Range<usize> {
        self.first() / CHUNK..self.index / CHUNK + 1
    }

    /// The first position that the token sees.
    fn first(&self) -> usize {
        self.attention.spec.window.map_or(0, |window| (self.index + 1).saturating_sub(window))
    }

    fn folds(&self) -> bool {
        self.index + 1 > CHUNK
    }

    fn actions(&self, block: usize) -> Result<VecDeque<Action>, String> {
        let kv_heads = self.attention.spec.num_kv_heads;
        let mut all = VecDeque::new();
        for (at, phase) in self.phases.iter().enumerate() {
            let units = match phase.kind {
                LINEAR => phase.tiles as usize,
                ATTENTION => self.chunks().len() * kv_heads,
                FOLD if self.folds() => kv_heads,
                _ => 0,
            };
            let (block, first) = (block as i64, i64::from(phase.first_block));
            let first = if block < first { block - first + self.blocks as i64 } else { block - first };
            let first =
                usize::try_from(first).map_err(|_| format!("a block takes unit {first} of phase {at}"))?;
            all.extend((first..units).step_by(self.blocks).map(|unit| Action::Run(at, unit)));
            if phase.kind == ATTENTION && self.folds() && first < units {
                all.push_back(Action::Arrive(at));
            }
        }
        Ok(all)
    }
}

impl Running<'_> {
    /// Does what a block does next, unless what it reads is not there yet.
    fn goes_on(&mut self, action: Action) -> bool {
        let Action::Run(at, unit) = action else {
            let Action::Arrive(at) = action else { unreachable!("there are two") };
            self.arrived[at] += 1;
            return true;
        };
        let phase = self.launch.phases[at];
        let made = match phase.kind {
            LINEAR => self.tile(at, &phase, unit),
            ATTENTION => self.attend(&phase, unit),
            _ => self.fold(at, unit),
        };
        let Some((first, values)) = made else { return false };
        self.store(&phase, first, &values);
        true
    }

    /// So many elements of a row from element `first` on; None if one is not there yet.
    fn load(&self, at: Address, tag: i32, first: usize, num: usize) -> Option<Vec<f32>> {
        let element = |i: usize| {
            if tag == NO_TAG {
                return Some(self.memory.bf16(at, i));
            }
            // Two elements and a tag.
            let packet = at + (i / 2 * 8) as Address;
            let found = u32::from_le_bytes(self.memory.bytes(packet + 4, 4).try_into().unwrap());
            (found == self.launch.base + tag as u32).then(|| self.memory.bf16(packet, i % 2))
        };
        (first..first + num).map(element).collect()
    }

    /// Stores elements of y from element `first` on, which is even.
    fn store(&mut self, phase: &Phase, first: usize, values: &[f32]) {
        for (i, pair) in (first..).step_by(2).zip(values.chunks(2)) {
            if phase.y_tag != NO_TAG {
                let packet = phase.y + (i * 4) as Address;
                pair.iter().enumerate().for_each(|(j, x)| self.memory.write_bf16(packet, j, *x));
                self.memory.write(packet + 4, &(self.launch.base + phase.y_tag as u32).to_le_bytes());
            } else if phase.flags & OUT_F32 != 0 {
                let bytes: Vec<u8> = pair.iter().flat_map(|x| x.to_le_bytes()).collect();
                self.memory.write(phase.y + (i * 4) as Address, &bytes);
            } else {
                pair.iter().enumerate().for_each(|(j, x)| self.memory.write_bf16(phase.y, i + j, *x));
            }
        }
    }

    fn normed(&self, x: &[f32], weight: Address, eps: u32) -> Vec<f32> {
        if weight == 0 {
            return x.to_vec();
        }
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        let scale = 1.0 / (mean + f32::from_bits(eps)).sqrt();
        x.iter().enumerate().map(|(i, x)| bf16(x * scale * self.memory.bf16(weight, i))).collect()
    }

    /// A tile of a linear layer.
    fn tile(&self, at: usize, phase: &Phase, tile: usize) -> Option<(usize, Vec<f32>)> {
        let (k, outputs) = (phase.k as usize, phase.outputs as usize);
        let each = outputs.div_ceil(phase.tiles as usize).next_power_of_two();
        let mine = tile * each..outputs.min((tile + 1) * each);
        let x = self.normed(&self.load(phase.x, phase.x_tag, 0, k)?, phase.norm, phase.eps);
        let residual = match phase.residual {
            0 => None,
            residual => Some(self.load(residual, phase.residual_tag, mine.start, mine.len())?),
        };
        let w = self.launch.weights[at];
        let round = |y| if phase.flags & OUT_F32 == 0 { bf16(y) } else { y };
        let row = |row: usize| {
            let y = dot(&x, (0..k).map(|i| self.memory.bf16(w, row * k + i)));
            round(if phase.bias == 0 { y } else { y + self.memory.bf16(phase.bias, row) })
        };
        let y = |(i, o): (usize, usize)| match &residual {
            _ if phase.flags & SILU != 0 => round(silu(row(o)) * row(outputs + o)),
            Some(residual) => round(row(o) + residual[i]),
            None => row(o),
        };
        Some((mine.start, mine.enumerate().map(y).collect()))
    }

    /// Head `head` of the merged queries, keys and values, normed and rotated if it has a norm's
    /// place.
    fn head(&self, phase: &Phase, head: usize, norm: Option<Address>) -> Option<Vec<f32>> {
        let (d, rope) = (self.launch.attention.spec.head_dim, &self.launch.attention.rope);
        let x = self.load(phase.x, phase.x_tag, head * d, d)?;
        let Some(norm) = norm else { return Some(x) };
        let x = self.normed(&x, norm, phase.eps);
        let (a, b) = x.split_at(d / 2);
        let rotation = rope.rotation(self.launch.index as u32, &rope.inv_freq());
        let turned = || a.iter().zip(b).zip(&rotation);
        let low = turned().map(|((a, b), [cos, sin])| bf16(a * cos - b * sin));
        Some(low.chain(turned().map(|((a, b), [cos, sin])| bf16(b * cos + a * sin))).collect())
    }

    /// Element 0 of a KV head's row in a layer's keys or values.
    fn row(&self, pages: Address, head: usize, index: usize) -> Address {
        let of = self.launch.attention;
        let block = self.launch.table[index / of.block_len].index();
        let row = (block * of.spec.num_kv_heads + head) * of.block_len + index % of.block_len;
        pages + (row * of.spec.head_dim * 2) as Address
    }

    /// A chunk of a KV head.
    fn attend(&mut self, phase: &Phase, unit: usize) -> Option<(usize, Vec<f32>)> {
        let (launch, spec) = (self.launch, &self.launch.attention.spec);
        let (kv_heads, group, d) = (spec.num_kv_heads, spec.num_heads / spec.num_kv_heads, spec.head_dim);
        let (chunk, head) = (launch.chunks().start + unit / kv_heads, unit % kv_heads);
        let queries: Option<Vec<_>> =
            (head * group..(head + 1) * group).map(|q| self.head(phase, q, Some(phase.norm))).collect();
        let queries = queries?;
        if chunk == launch.index / CHUNK {
            let key = self.head(phase, spec.num_heads + head, Some(phase.bias))?;
            let value = self.head(phase, spec.num_heads + kv_heads + head, None)?;
            for (pages, row) in [(phase.keys, key), (phase.values, value)] {
                let at = self.row(pages, head, launch.index);
                row.iter().enumerate().for_each(|(i, x)| self.memory.write_bf16(at, i, *x));
            }
        }
        let position = |index: usize| {
            let [key, value] = [phase.keys, phase.values].map(|pages| self.row(pages, head, index));
            let score = |q: &Vec<f32>| dot(q, (0..d).map(|i| self.memory.bf16(key, i))) * spec.scale;
            let value = (0..d).map(|i| self.memory.bf16(value, i)).collect();
            Position { scores: queries.iter().map(score).collect(), value }
        };
        let positions = launch.first().max(chunk * CHUNK)..(launch.index + 1).min((chunk + 1) * CHUNK);
        let scores = positions.map(position).collect();
        self.partial.insert([head, chunk], scores);
        let whole = if launch.folds() { Vec::new() } else { self.sum(head) };
        Some((head * group * d, whole))
    }

    /// The output of a KV head's queries, once all chunks are there.
    fn sum(&self, head: usize) -> Vec<f32> {
        let spec = &self.launch.attention.spec;
        let positions =
            || self.launch.chunks().flat_map(|chunk| self.partial.get(&[head, chunk]).into_iter().flatten());
        let query = |q: usize| {
            let max = positions().map(|at| at.scores[q]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = positions().map(|at| (at.scores[q] - max).exp()).sum();
            let mut out = vec![0.0; spec.head_dim];
            for Position { scores, value } in positions() {
                let weight = (scores[q] - max).exp();
                out.iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * v);
            }
            out.into_iter().map(bf16).collect::<Vec<_>>()
        };
        (0..spec.num_heads / spec.num_kv_heads).flat_map(query).collect()
    }

    /// The fold of a KV head's chunks.
    fn fold(&self, at: usize, head: usize) -> Option<(usize, Vec<f32>)> {
        let spec = &self.launch.attention.spec;
        let units = self.launch.chunks().len() * spec.num_kv_heads;
        let group = spec.num_heads / spec.num_kv_heads;
        let over = self.arrived[at - 1] >= units.min(self.launch.blocks);
        over.then(|| (head * group * spec.head_dim, self.sum(head)))
    }
}
