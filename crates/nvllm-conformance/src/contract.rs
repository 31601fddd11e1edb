//! Promises of the traits that are not arithmetic: slots, steps in flight, errors that leave no
//! trace, the KV cache.

use std::sync::Arc;

use nvllm_core::{
    Activations, Backend, BlockCopy, BlockId, CoreError, DType, EntryId, HostTensor, KvCache, KvFormat,
    KvGeometry, OutputRow, SamplingParams, SlotId, SlotReset, Source, Step, StepId, StepOutput, Tensor,
    TokenId,
};
use proptest::prelude::*;

use crate::check::{Settings, conforms, holds, load};
use crate::draw::Draw;
use crate::error::{Doing, Mismatch, Result};
use crate::layout::Layout;
use crate::models::{Shape, load_in_flight, run, run_all, shapes};
use crate::trial::{Numbers, Sketch, Trial, kv_formats, numbers};

/// Steps after the prompt.
const DECODED: usize = 5;

/// Prompts, then single tokens that are sampled as they go.
fn dialogues(backend: &dyn Backend) -> impl Strategy<Value = Trial> + use<> {
    let lens = proptest::collection::vec(1..20_usize, 1..5);
    let block_len = prop_oneof![Just(1_usize), Just(3), Just(16)];
    (numbers(backend), shapes(), lens, block_len, any::<[u64; 2]>()).prop_map(
        |(numbers, shape, lens, block_len, [content, placement])| {
            let chunks = |&len: &usize| std::iter::once(len).chain([1; DECODED]).collect();
            let seqs = lens.iter().map(chunks).collect();
            let whole = Layout::whole(&[1], content);
            shape.trial(numbers, Layout { seqs, block_len, placement, blocks: placement, ..whole })
        },
    )
}

/// Who knows a decoded token, its position and its KV index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Host,
    Slot,
}

/// The dialogue's steps: the last row of each sequence is sampled; half of the sequences greedily.
fn steps(trial: &Trial, known: Known) -> Vec<Step> {
    let mut steps = trial.steps();
    let mut draw = Draw::new(trial.layout.content ^ 0x15);
    for (at, step) in steps.iter_mut().enumerate() {
        for reset in &mut step.resets {
            let temperature = [0.0, 1.0][draw.below(2)];
            let seed = u64::from(draw.word());
            let repetition_penalty = [1.0, 1.2][draw.below(2)];
            let params =
                SamplingParams { temperature, seed, repetition_penalty, ..SamplingParams::default() };
            reset.sampling = Arc::new(params);
        }
        for seq in &mut step.seqs {
            seq.outputs = [OutputRow::sample(seq.tokens.len() as u32 - 1)].into();
            if at > 0 && known == Known::Slot {
                seq.tokens = [Source::Slot].into();
                seq.positions = [Source::Slot].into();
                seq.kv_start = Source::Slot;
            }
        }
    }
    steps
}

/// Gives a step the tokens that the step before sampled.
fn feed(step: &mut Step, before: &Step, output: &StepOutput) {
    for seq in &mut step.seqs {
        let row = before.seqs.iter().position(|s| s.slot == seq.slot);
        if let Some(token) = row.and_then(|row| output.rows.get(row)?.token) {
            seq.tokens = [Source::Host(token)].into();
        }
    }
}

/// Tokens by slot, step after step.
type Tokens = Vec<Vec<(SlotId, Option<TokenId>)>>;

fn tokens(step: &Step, output: &StepOutput) -> Vec<(SlotId, Option<TokenId>)> {
    let sampled = output.rows.iter().map(|row| row.token);
    let mut tokens: Vec<_> = step.seqs.iter().map(|s| s.slot).zip(sampled).collect();
    tokens.sort_by_key(|(slot, _)| *slot);
    tokens
}

/// Runs the dialogue one step at a time; `before` may do more to the executable.
fn speak(
    backend: &dyn Backend,
    trial: &Trial,
    known: Known,
    mut before: impl FnMut(&mut dyn nvllm_core::Executable, &Step) -> Result<()>,
) -> Result<Tokens> {
    let mut exe = load(backend, trial)?;
    let mut steps = steps(trial, known);
    let mut all = Tokens::new();
    for at in 0..steps.len() {
        before(&mut *exe, &steps[at])?;
        let output = run(&mut *exe, &steps[at])?;
        all.push(tokens(&steps[at], &output));
        let (done, left) = steps.split_at_mut(at + 1);
        if let (Known::Host, Some(next)) = (known, left.first_mut()) {
            feed(next, &done[at], &output);
        }
    }
    Ok(all)
}

fn same(what: &str, got: &Tokens, want: &Tokens) -> Result<()> {
    match (0..want.len()).find(|&i| got.get(i) != Some(&want[i])) {
        None => Ok(()),
        Some(i) => Err(Mismatch::contract(format!(
            "{what}: step {i} sampled {:?}; {:?} (slot, token) is right",
            got.get(i),
            want[i]
        ))),
    }
}

/// Tokens, positions and lengths that the slot knows equal those that the host names; a slot taken
/// anew starts anew.
pub fn slot_sources(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("slot_sources", settings, 1.0, dialogues(backend), |trial| {
        let host = speak(backend, trial, Known::Host, |_, _| Ok(()))?;
        let slot = speak(backend, trial, Known::Slot, |_, _| Ok(()))?;
        same("tokens from the slot", &slot, &host)?;
        let mut exe = load(backend, trial)?;
        for _ in 0..2 {
            let mut all = Tokens::new();
            for step in steps(trial, Known::Slot) {
                let output = run(&mut *exe, &step)?;
                all.push(tokens(&step, &output));
            }
            same("slots taken anew", &all, &host)?;
        }
        Ok(())
    })
}

/// Two entry programs over one state: slots and the cache are what the other entry's step left,
/// each entry's kept values are its own, and tokens are those of one entry alone where both are
/// equal programs.
pub fn entries(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("entries", settings, 0.5, dialogues(backend), |trial| {
        // Prompts run through the first entry, decoded tokens through both in turn.
        let both = trial.clone().with_entry("decode");
        for known in [Known::Host, Known::Slot] {
            let one = speak(backend, trial, known, |_, _| Ok(()))?;
            same("two entries", &speak(backend, &both, known, |_, _| Ok(()))?, &one)?;
        }
        conforms(backend, &both.keep_all())
    })
}

/// A step submitted before the one before it is collected, up to `max_in_flight` 3; one more is
/// refused.
pub fn steps_in_flight(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("steps_in_flight", settings, 0.7, dialogues(backend), |trial| {
        let one = speak(backend, trial, Known::Slot, |_, _| Ok(()))?;
        for max_in_flight in 1..=3 {
            let mut trial = trial.clone();
            trial.limits.max_in_flight = max_in_flight;
            let mut exe = match backend.plan_and_load(&trial.spec, &trial.source, &trial.limits) {
                // A backend may hold fewer, if it says so.
                Err(CoreError::BadLimits { field: "max_in_flight", .. }) if max_in_flight > 1 => {
                    return Ok(());
                }
                loaded => loaded.doing("load")?,
            };
            let steps = steps(&trial, Known::Slot);
            let mut flying = std::collections::VecDeque::new();
            let mut all = Tokens::new();
            for step in &steps {
                if flying.len() == max_in_flight {
                    if exe.submit(step).is_ok() {
                        let problem = format!("{} steps were in flight at once", max_in_flight + 1);
                        return Err(Mismatch::contract(format!("{problem}; the limit is {max_in_flight}")));
                    }
                    let (ticket, step) = flying.pop_front().expect("some are in flight");
                    all.push(tokens(step, &exe.collect(ticket).doing("collect")?));
                }
                flying.push_back((exe.submit(step).doing("submit")?, step));
            }
            for (ticket, step) in flying {
                all.push(tokens(step, &exe.collect(ticket).doing("collect")?));
            }
            same(&format!("{max_in_flight} steps in flight"), &all, &one)?;
        }
        Ok(())
    })
}

/// Spans of steps, where a device gives them: each begins before it ends, and none before the step
/// before it has ended, however many are in flight.
pub fn step_spans(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("step_spans", settings, 0.3, dialogues(backend), |trial| {
        let (mut exe, max_in_flight) = load_in_flight(backend, trial)?;
        let outputs = run_all(&mut *exe, &steps(trial, Known::Slot), max_in_flight)?;
        let spans: Vec<_> = outputs.iter().filter_map(|output| output.span).collect();
        if !spans.is_empty() && spans.len() != outputs.len() {
            return Err(Mismatch::contract("some steps come with a span and others without"));
        }
        let ordered = spans.iter().all(|span| span.began <= span.ended);
        if !ordered || spans.windows(2).any(|pair| pair[1].began < pair[0].ended) {
            return Err(Mismatch::contract(format!("spans of consecutive steps overlap: {spans:?}")));
        }
        Ok(())
    })
}

/// KV blocks that are read while steps are in flight hold what those steps write: bit for bit what
/// they hold when each step is waited for.
pub fn blocks_in_flight(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("blocks_in_flight", settings, 0.5, dialogues(backend), |trial| {
        let mut trial = trial.clone();
        trial.limits.max_in_flight = 2;
        let loads = [0, 1].map(|_| load(backend, &trial));
        let [Ok(mut waited), Ok(mut flying)] = loads else {
            // A backend may hold fewer: `steps_in_flight` sees to it that it says so.
            return Ok(());
        };
        let steps = steps(&trial, Known::Slot);
        let steps = &steps[..2];
        let geometry = waited.kv_cache().geometry(0);
        let blocks = |exe: &mut dyn nvllm_core::Executable| {
            let read = |id| exe.kv_cache().read_block(0, BlockId(id)).doing("read_block");
            (1..geometry.num_blocks as u32).map(read).collect::<Result<Vec<_>>>()
        };
        for step in steps {
            run(&mut *waited, step)?;
        }
        let tickets = steps.iter().map(|step| flying.submit(step).doing("submit"));
        let tickets = tickets.collect::<Result<Vec<_>>>()?;
        let (got, want) = (blocks(&mut *flying)?, blocks(&mut *waited)?);
        for ticket in tickets {
            flying.collect(ticket).doing("collect")?;
        }
        match got.iter().zip(&want).position(|(got, want)| got != want) {
            None => Ok(()),
            Some(at) => {
                let problem = format!("block {} with two steps in flight is not what they write", at + 1);
                Err(Mismatch::contract(problem))
            }
        }
    })
}

/// A way to spoil a step.
type Spoil = (&'static str, fn(&mut Step, &Trial));

/// Steps that no executable may take.
const SPOILED: [Spoil; 23] = [
    ("a token outside the vocabulary", |s, t| {
        s.seqs[0].tokens[0] = Source::Host(TokenId(t.spec.vocab_size as u32));
    }),
    ("no tokens", |s, _| {
        s.seqs[0].tokens.clear();
        s.seqs[0].positions.clear();
        s.seqs[0].outputs.clear();
    }),
    ("more tokens than the limit", |s, t| {
        let n = t.limits.step_tokens + 1;
        s.seqs[0].tokens = vec![Source::Host(TokenId(0)); n].into();
        s.seqs[0].positions = (0..n as u32).map(Source::Host).collect();
    }),
    ("fewer positions than tokens", |s, _| s.seqs[0].positions.clear()),
    ("more outputs than the limit", |s, t| {
        s.seqs[0].outputs = vec![OutputRow::sample(0); t.limits.step_outputs + 1].into();
    }),
    ("a slot that does not exist", |s, t| s.seqs[0].slot = SlotId(t.limits.seqs as u32)),
    ("a slot twice", |s, _| s.seqs.push(s.seqs[0].clone())),
    ("no block table", |s, _| s.seqs[0].block_tables.clear()),
    ("an empty block table", |s, _| s.seqs[0].block_tables = [Arc::from([])].into()),
    ("the null block", |s, _| {
        let null = vec![BlockId::NULL; s.seqs[0].block_tables[0].len()];
        s.seqs[0].block_tables = [null.into()].into();
    }),
    ("a block that does not exist", |s, _| {
        let beyond = vec![BlockId(u32::MAX); s.seqs[0].block_tables[0].len()];
        s.seqs[0].block_tables = [beyond.into()].into();
    }),
    ("an output row beyond the tokens", |s, _| {
        s.seqs[0].outputs = [OutputRow::sample(s.seqs[0].tokens.len() as u32)].into();
    }),
    ("output rows out of order", |s, _| {
        s.seqs[0].outputs = vec![OutputRow::sample(0), OutputRow::sample(0)].into();
    }),
    ("more context than the limit", |s, t| {
        s.seqs[0].kv_start = Source::Host(t.limits.context as u32);
        s.seqs[0].block_tables = [vec![BlockId(1); 2 * t.limits.context + 2].into()].into();
    }),
    ("an entry program that does not exist", |s, _| s.entry = EntryId(1)),
    ("a reset with an impossible parameter", |s, _| {
        let params = SamplingParams { top_p: 0.0, ..SamplingParams::default() };
        let reset = |slot| SlotReset {
            slot,
            prompt: [].into(),
            output: [].into(),
            sampling: Arc::new(params.clone()),
        };
        s.resets = vec![reset(s.seqs[0].slot)];
    }),
    ("a copy in a KV group that does not exist", |s, _| s.copies = copies(&[(1, 1, 2)])),
    ("a copy of the null block", |s, _| s.copies = copies(&[(0, 0, 1)])),
    ("a copy to the null block", |s, _| s.copies = copies(&[(0, 1, 0)])),
    ("a copy to a block that does not exist", |s, _| s.copies = copies(&[(0, 1, u32::MAX)])),
    ("a copy of a block to itself", |s, _| s.copies = copies(&[(0, 1, 1)])),
    ("two copies to one block", |s, _| s.copies = copies(&[(0, 1, 3), (0, 2, 3)])),
    ("a copy to a block that is copied", |s, _| s.copies = copies(&[(0, 1, 2), (0, 2, 3)])),
];

fn copies(of: &[(usize, u32, u32)]) -> Vec<BlockCopy> {
    of.iter().map(|&(group, from, to)| BlockCopy { group, from: BlockId(from), to: BlockId(to) }).collect()
}

/// A step that cannot be is refused with an error, and the executable goes on as if it had not
/// been: slots that it would have reset, masks, lengths and the cache are as before.
pub fn refused_steps(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("refused_steps", settings, 0.5, dialogues(backend), |trial| {
        let host = speak(backend, trial, Known::Host, |_, _| Ok(()))?;
        let slot = speak(backend, trial, Known::Slot, |exe, step| {
            for (what, spoil) in &SPOILED {
                let mut bad = Step { id: StepId(step.id.0 + 1_000), ..step.clone() };
                spoil(&mut bad, trial);
                if step.resets.is_empty() && bad.resets.is_empty() && *what != "a slot that does not exist" {
                    // Would show if it were carried out.
                    bad.resets = bad.seqs.iter().map(|s| empty_reset(s.slot)).collect();
                }
                if exe.submit(&bad).is_ok() {
                    return Err(Mismatch::contract(format!("a step with {what} was accepted")));
                }
            }
            Ok(())
        })?;
        same("after refused steps", &slot, &host)
    })
}

fn empty_reset(slot: SlotId) -> SlotReset {
    let sampling = Arc::new(SamplingParams { temperature: 1.0, seed: 99, ..SamplingParams::default() });
    SlotReset { slot, prompt: [].into(), output: [].into(), sampling }
}

/// The physical cache: geometry, bytes, round trips, copies in order, and refusals.
pub fn kv_cache(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    let shapes = (
        numbers(backend),
        1..4_usize,
        1..4_usize,
        prop_oneof![Just(8_usize), Just(24), Just(128)],
        1..40_usize,
    );
    let trials = shapes.prop_map(|(numbers, layers, heads, head_dim, block_len)| {
        let mut sketch = Sketch::new(numbers);
        let x = sketch.even_table("x", 3, heads * head_dim, 1.0);
        let kv = sketch.paged_kv(layers, heads, head_dim, None);
        let layout = Layout { block_len, logits: false, ..Layout::whole(&[3 * block_len], numbers.seed) };
        sketch.finish(3, layout, |p| {
            let x = p.embed(x);
            p.kv_append(x, x, kv(0));
        })
    });
    refused_formats(backend)?;
    holds("kv_cache", settings, 1.0, trials, |trial| {
        let expected = KvGeometry::plan(&trial.spec.kv, &trial.limits).doing("KvGeometry::plan")?[0];
        let mut exe = load(backend, trial)?;
        let allocated = exe.memory().kv;
        let cache = exe.kv_cache();
        let least = expected.num_blocks * expected.block_bytes();
        if cache.bytes() < least || allocated < least {
            let problem = format!("{} bytes and {allocated} bytes are reported", cache.bytes());
            return Err(Mismatch::contract(format!("kv_cache: {problem}; the blocks take {least}")));
        }
        round_trips(cache, expected, trial.layout.content)?;
        refusals(cache, expected)
    })
}

/// A format of the KV cache that the backend does not run is an error of `plan` that names it and
/// those that it runs.
fn refused_formats(backend: &dyn Backend) -> Result<()> {
    let runs = kv_formats(backend);
    for kv in KvFormat::ALL.into_iter().filter(|format| !runs.contains(format)) {
        let numbers =
            Numbers { weights: DType::F32, vectors: DType::F32, activations: Activations::F32, kv, seed: 0 };
        let trial = Shape::of_heads(1, [8, 1, 1], false).trial(numbers, Layout::whole(&[1], 0));
        let text = match backend.plan(&trial.spec, &trial.source, &trial.limits) {
            Ok(_) => "there is none".into(),
            Err(CoreError::BadLimits { field: "kv_format", problem }) => problem,
            Err(other) => other.to_string(),
        };
        if !text.starts_with(&format!("is {kv};")) || !runs.iter().all(|other| text.contains(other.name())) {
            let problem = format!("the refusal of a KV cache in {kv} names it and {runs:?} if it is right");
            return Err(Mismatch::contract(format!("kv_cache: {problem}: {text}")));
        }
    }
    Ok(())
}

fn round_trips(cache: &mut dyn KvCache, g: KvGeometry, seed: u64) -> Result<()> {
    let mut draw = Draw::new(seed);
    let block = |draw: &mut Draw| {
        let values: Vec<_> = (0..g.num_layers * g.layer_block_len()).map(|_| draw.unit()).collect();
        g.encode_block(&values)
    };
    let mut model: Vec<_> = (0..g.num_blocks).map(|_| block(&mut draw)).collect();
    for (i, block) in model.iter().enumerate() {
        cache.write_block(0, BlockId(i as u32), block).doing("write_block")?;
    }
    // A chain: what the first pair writes the second reads.
    let mut any = || draw.below(g.num_blocks);
    let (a, b, c, d) = (any(), any(), any(), any());
    let pairs = [(a, b), (b, c), (c, c), (d, a)];
    for &(from, to) in &pairs {
        model[to] = model[from].clone();
    }
    let ids = pairs.map(|(from, to)| (BlockId(from as u32), BlockId(to as u32)));
    cache.copy_blocks(0, &ids).doing("copy_blocks")?;
    for (i, want) in model.iter().enumerate() {
        let got = cache.read_block(0, BlockId(i as u32)).doing("read_block")?;
        if got != *want {
            let (shape, dtype) = (got.shape(), got.dtype());
            let problem =
                format!("block {i} reads back as other {shape:?} {dtype} than was written and copied");
            return Err(Mismatch::contract(format!("kv_cache: {problem} (copies {pairs:?})")));
        }
    }
    Ok(())
}

fn refusals(cache: &mut dyn KvCache, g: KvGeometry) -> Result<()> {
    let beyond = BlockId(g.num_blocks as u32);
    let len: usize = g.block_shape().iter().product();
    let good = g.encode_block(&vec![0.0; g.num_layers * g.layer_block_len()]);
    let flat = HostTensor::from_bytes([len], g.block_dtype(), good.bytes().to_vec());
    let other = if g.block_dtype() == DType::F32 { DType::Bf16 } else { DType::F32 };
    let other = HostTensor::from_f32(g.block_shape(), other, &vec![0.0; len]);
    let first = BlockId(1);
    let taken = [
        ("reading a block that does not exist", cache.read_block(0, beyond).is_ok()),
        ("writing a block that does not exist", cache.write_block(0, beyond, &good).is_ok()),
        ("copying to a block that does not exist", cache.copy_blocks(0, &[(first, beyond)]).is_ok()),
        ("copying from a block that does not exist", cache.copy_blocks(0, &[(beyond, first)]).is_ok()),
        ("writing another shape", cache.write_block(0, first, &flat).is_ok()),
        ("writing another dtype", cache.write_block(0, first, &other).is_ok()),
    ];
    match taken.into_iter().find(|(_, accepted)| *accepted) {
        Some((what, _)) => Err(Mismatch::contract(format!("kv_cache: {what} was accepted"))),
        None => Ok(()),
    }
}

/// `kept` gives what is marked and nothing else.
pub fn kept_values(backend: &dyn Backend, settings: &Settings) -> Result<()> {
    holds("kept_values", settings, 0.3, dialogues(backend), |trial| {
        let mut trial = trial.clone();
        trial.spec.keep("logits").doing("keep")?;
        let mut exe = load(backend, &trial)?;
        run(&mut *exe, &trial.steps()[0])?;
        let kept = |label| exe.kept(label).doing("kept");
        if kept("logits")?.is_none() || kept("no such label")?.is_some() {
            return Err(Mismatch::contract(
                "`kept` must give the kept value `logits`, and nothing for other labels",
            ));
        }
        Ok(())
    })
}
