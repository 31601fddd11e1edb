//! KV blocks that several sequences use: prefixes that are read by all, the last block of a prompt
//! copied on write, and what a sequence finds again after its preemption. Bit for bit what a
//! sequence computes that shares nothing.

use std::ops::Range;
use std::sync::Arc;

use nvllm_core::{
    Backend, BlockCopy, BlockId, OutputRow, SamplingParams, SeqStep, SlotId, SlotReset, Source, Step, StepId,
    TokenId,
};
use proptest::prelude::*;

use crate::check::{Settings, holds, load};
use crate::error::{Mismatch, Result};
use crate::layout::Layout;
use crate::models::{Shape, load_in_flight, logits, run, run_all};
use crate::trial::{Trial, numbers};

/// Tokens of each sequence after its prompt.
const DECODED: usize = 4;
/// Most sequences of a trial.
const MOST_SEQS: usize = 4;

/// A model and sequences with one prompt.
#[derive(Clone, Debug)]
struct Family {
    trial: Trial,
    prompt_len: usize,
}

/// Prompts of whole blocks and a part of one, in one KV group and in two, with a window and
/// without.
fn families(backend: &dyn Backend) -> impl Strategy<Value = Family> + use<> {
    let windows = prop_oneof![
        Just(vec![None]),
        Just(vec![None, None]),
        Just(vec![None, Some(5)]),
        Just(vec![Some(40), None])
    ];
    // Prompts of up to five blocks, some of them beyond a chunk of 256 positions.
    let blocks = prop_oneof![
        (Just(1_usize), 1..20_usize),
        (Just(3), 1..20_usize),
        (Just(16), 1..5_usize),
        (Just(16), 16..18_usize),
        (Just(64), 1..5_usize)
    ];
    let head_dim = prop_oneof![Just(8_usize), Just(64), Just(128)];
    let shape = (head_dim, 1..3_usize, 1..4_usize, any::<bool>());
    (numbers(backend), shape, windows, blocks, 1..65_usize, 2..=MOST_SEQS, any::<[u64; 2]>()).prop_map(
        |(numbers, (head_dim, num_kv, group, norm), windows, (block_len, whole), part, num_seqs, seeds)| {
            let prompt_len = block_len * whole + 1 + part % block_len;
            let shape = Shape::of_heads(windows.len(), [head_dim, num_kv, group], norm);
            let [content, placement] = seeds;
            let seqs = vec![vec![prompt_len + DECODED]; num_seqs];
            let whole = Layout::whole(&[1], content);
            let layout = Layout { seqs, block_len, placement, blocks: placement, ..whole };
            let trial = shape.grouped(numbers.for_heads(head_dim), layout, &windows);
            Family { trial, prompt_len }
        },
    )
}

/// One sequence: where it is, and its tokens.
#[derive(Clone, Debug)]
struct Member {
    slot: SlotId,
    tokens: Vec<TokenId>,
    /// By KV group.
    tables: Vec<Arc<[BlockId]>>,
}

impl Member {
    fn reset(&self) -> SlotReset {
        let sampling = Arc::new(SamplingParams::default());
        SlotReset { slot: self.slot, prompt: [].into(), output: [].into(), sampling }
    }

    /// Runs the tokens in `range` and asks for all of their logits.
    fn step(&self, range: Range<usize>) -> SeqStep {
        SeqStep {
            slot: self.slot,
            tokens: self.tokens[range.clone()].iter().map(|&token| Source::Host(token)).collect(),
            positions: range.clone().map(|at| Source::Host(at as u32)).collect(),
            kv_start: Source::Host(range.start as u32),
            block_tables: self.tables.iter().cloned().collect(),
            outputs: (0..range.len() as u32).map(OutputRow::values).collect(),
        }
    }
}

impl Family {
    fn block_len(&self) -> usize {
        self.trial.limits.block_len
    }

    fn num_groups(&self) -> usize {
        self.trial.spec.kv.len()
    }

    /// Blocks before the one that holds the prompt's last token.
    fn num_shared(&self) -> usize {
        (self.prompt_len - 1) / self.block_len()
    }

    /// The sequences, none of which shares a block: one prompt, then tokens of their own.
    fn members(&self) -> Vec<Member> {
        let layout = &self.trial.layout;
        let tables: Vec<_> = (0..self.num_groups()).map(|group| layout.tables(group)).collect();
        let member = |(seq, slot): (usize, SlotId)| {
            let of = |at| if at < self.prompt_len { 0 } else { seq };
            let token = |at| layout.token(of(at), at, self.trial.spec.vocab_size);
            Member {
                slot,
                tokens: (0..self.prompt_len + DECODED).map(token).collect(),
                tables: tables.iter().map(|group| Arc::clone(&group[seq])).collect(),
            }
        };
        layout.slots().into_iter().enumerate().map(member).collect()
    }

    /// `member` with the blocks of `first` in place of its own before the prompt's last.
    fn sharing(&self, first: &Member, member: &Member) -> Member {
        let table = |(own, theirs): (&Arc<[BlockId]>, &Arc<[BlockId]>)| {
            theirs[..self.num_shared()].iter().chain(&own[self.num_shared()..]).copied().collect()
        };
        Member { tables: member.tables.iter().zip(&first.tables).map(table).collect(), ..member.clone() }
    }

    /// Logits after the tokens from the prompt's last on, of a sequence that has the device to
    /// itself.
    fn alone(&self, backend: &dyn Backend, member: &Member) -> Result<Vec<Vec<f32>>> {
        let mut exe = load(backend, &self.trial)?;
        let prompt = Step { resets: vec![member.reset()], ..only(0, vec![member.step(0..self.prompt_len)]) };
        let mut rows = logits(&run(&mut *exe, &prompt)?)?.split_off(self.prompt_len - 1);
        for at in self.prompt_len..self.prompt_len + DECODED {
            rows.extend(logits(&run(&mut *exe, &only(at, vec![member.step(at..at + 1)]))?)?);
        }
        Ok(rows)
    }
}

/// A step of `seqs` and nothing else.
fn only(id: usize, seqs: Vec<SeqStep>) -> Step {
    Step { id: StepId(id as u64), seqs, ..Step::default() }
}

/// Requires equal bits.
fn same(what: &str, got: &[Vec<f32>], want: &[Vec<f32>]) -> Result<()> {
    let bits = |rows: &[Vec<f32>]| -> Vec<Vec<u32>> {
        rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    };
    let (got, want) = (bits(got), bits(want));
    if got == want {
        return Ok(());
    }
    let at = got.iter().zip(&want).position(|(got, want)| got != want).unwrap_or(got.len().min(want.len()));
    Err(Mismatch::contract(format!("{what}: row {at} of {} has other logits than alone", want.len())))
}

/// [`Step::copies`]: sequences take the whole blocks of a prompt that another sequence computes, a
/// copy of its last block, and run the prompt's last token alone, while the other goes on. The
/// step of the copies is submitted right behind the one that writes what they copy.
pub fn block_copies(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("block_copies", settings, 1.0, families(backend), |family| {
        let members = family.members();
        let (first, rest) = members.split_first().expect("there are several");
        let choices: Vec<_> = rest.iter().map(|member| family.sharing(first, member)).collect();
        let (last, shared) = (family.prompt_len - 1, family.num_shared());
        let copies = choices.iter().flat_map(|choice| {
            let tables = first.tables.iter().zip(&choice.tables).enumerate();
            tables.map(|(group, (from, to))| BlockCopy { group, from: from[shared], to: to[shared] })
        });
        let prompt = Step { resets: vec![first.reset()], ..only(0, vec![first.step(0..last + 1)]) };
        // The first sequence writes beside the copied token in this very step.
        let seqs = choices.iter().map(|choice| choice.step(last..last + 1));
        let parting = Step {
            resets: choices.iter().map(Member::reset).collect(),
            copies: copies.collect(),
            ..only(1, std::iter::once(first.step(last + 1..last + 2)).chain(seqs).collect())
        };
        let mut steps = vec![prompt, parting];
        for at in last + 1..=last + DECODED {
            let goes_on = (at < last + DECODED).then(|| first.step(at + 1..at + 2));
            let seqs = goes_on.into_iter().chain(choices.iter().map(|choice| choice.step(at..at + 1)));
            steps.push(only(steps.len(), seqs.collect()));
        }
        let (mut exe, max_in_flight) = load_in_flight(backend, &family.trial)?;
        let outputs = run_all(&mut *exe, &steps, max_in_flight)?;
        let mut rows = vec![Vec::new(); members.len()];
        for (step, output) in steps.iter().zip(&outputs) {
            let owner = |seq: &SeqStep| members.iter().position(|member| member.slot == seq.slot);
            let owners = step.seqs.iter().flat_map(|seq| seq.outputs.iter().map(move |_| owner(seq)));
            for (owner, row) in owners.zip(logits(output)?) {
                rows[owner.expect("the steps name members")].push(row);
            }
        }
        rows[0].drain(..last);
        for (i, (member, rows)) in members.iter().zip(&rows).enumerate() {
            same(&format!("block_copies: sequence {i}"), rows, &family.alone(backend, member)?)?;
        }
        Ok(())
    })
}

/// Whole blocks of a sequence that has ended are found by others that begin behind them, in one
/// step and with one slot taken over: read by all, written by none.
pub fn shared_blocks(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("shared_blocks", settings, 1.0, families(backend), |family| {
        let members = family.members();
        let (first, rest) = members.split_first().expect("there are several");
        let start = family.num_shared() * family.block_len();
        let mut heirs: Vec<_> = rest.iter().map(|member| family.sharing(first, member)).collect();
        // The ended sequence's slot serves the next.
        heirs[0].slot = first.slot;
        let end = family.prompt_len;
        let prompt = Step { resets: vec![first.reset()], ..only(0, vec![first.step(0..end)]) };
        let hits = Step {
            resets: heirs.iter().map(Member::reset).collect(),
            ..only(1, heirs.iter().map(|heir| heir.step(start..end)).collect())
        };
        let mut steps = vec![prompt, hits];
        for at in end..end + DECODED {
            steps.push(only(steps.len(), heirs.iter().map(|heir| heir.step(at..at + 1)).collect()));
        }
        let (mut exe, max_in_flight) = load_in_flight(backend, &family.trial)?;
        let outputs = run_all(&mut *exe, &steps, max_in_flight)?;
        let mut rows = vec![Vec::new(); heirs.len()];
        for (step, output) in steps.iter().zip(&outputs).skip(1) {
            let num_rows = step.seqs[0].outputs.len();
            for (rows, new) in rows.iter_mut().zip(logits(output)?.chunks(num_rows)) {
                rows.extend_from_slice(new);
            }
        }
        for (i, (member, rows)) in rest.iter().zip(&rows).enumerate() {
            let from_last = &rows[end - 1 - start..];
            same(&format!("shared_blocks: sequence {i}"), from_last, &family.alone(backend, member)?)?;
        }
        Ok(())
    })
}

/// Penalties of every kind, stop tokens ruled out for a while, greedy and drawn.
fn penalized(seed: u64) -> SamplingParams {
    SamplingParams {
        temperature: (seed % 2) as f32,
        seed,
        repetition_penalty: 1.3,
        presence_penalty: 0.4,
        frequency_penalty: 0.7,
        min_tokens: DECODED as u32,
        stop_tokens: (0..20).map(TokenId).collect(),
        ..SamplingParams::default()
    }
}

/// A sequence that lost its slot is resumed in another with its output, from its first token or
/// behind the blocks that are still there: it samples the tokens of the undisturbed sequence.
pub fn resumed_sequences(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let strategy = (families(backend), any::<u64>(), 1..DECODED, any::<bool>());
    holds("resumed_sequences", settings, 1.0, strategy, |(family, seed, preempted_after, hit)| {
        let members = family.members();
        let sampling = Arc::new(penalized(*seed));
        let undisturbed = sampled(backend, family, &members[0], &sampling, None)?;
        // In the blocks of another, but for those that it finds again.
        let resumed = if *hit { family.sharing(&members[0], &members[1]) } else { members[1].clone() };
        let start = if *hit { family.num_shared() * family.block_len() } else { 0 };
        let resume = Some((*preempted_after, &resumed, start));
        let tokens = sampled(backend, family, &members[0], &sampling, resume)?;
        if tokens != undisturbed {
            let problem = format!("{tokens:?} are sampled; {undisturbed:?} without preemption");
            return Err(Mismatch::contract(format!("resumed_sequences: {problem}")));
        }
        Ok(())
    })
}

/// Tokens that `member` samples; after some of them it goes on elsewhere, from a KV index on.
fn sampled(
    backend: &dyn Backend,
    family: &Family,
    member: &Member,
    sampling: &Arc<SamplingParams>,
    resume: Option<(usize, &Member, usize)>,
) -> Result<Vec<TokenId>> {
    let mut exe = load(backend, &family.trial)?;
    let mut member = Member { tokens: member.tokens[..family.prompt_len].to_vec(), ..member.clone() };
    let prompt: Arc<[TokenId]> = member.tokens.as_slice().into();
    let mut output = Vec::new();
    let mut next = 0;
    while output.len() < DECODED {
        let mut resets = Vec::new();
        if let Some((_, other, start)) = resume.filter(|(after, ..)| *after == output.len()) {
            next = start;
            member = Member { tokens: member.tokens, ..other.clone() };
        }
        if output.is_empty() || resume.is_some_and(|(after, ..)| after == output.len()) {
            let (sampling, output) = (Arc::clone(sampling), output.as_slice().into());
            resets.push(SlotReset { slot: member.slot, prompt: Arc::clone(&prompt), output, sampling });
        }
        let mut seq = member.step(next..member.tokens.len());
        seq.outputs = [OutputRow::sample(seq.tokens.len() as u32 - 1)].into();
        next = member.tokens.len();
        let step = Step { resets, ..only(output.len(), vec![seq]) };
        let token = run(&mut *exe, &step)?.rows[0].token;
        let token = token.ok_or_else(|| Mismatch::contract("a row that is sampled came without a token"))?;
        output.push(token);
        member.tokens.push(token);
    }
    Ok(output)
}
