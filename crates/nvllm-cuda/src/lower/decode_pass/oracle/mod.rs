//! What recorded passes compute, held to the reference backend: logits and the appended keys and
//! values of small models, bit for bit, with blocks in random orders.

use std::sync::Arc;

use nvllm_core::blocks::{DecoderConfig, DecoderLayer, GatedMlp, GqaShape, Scope, causal_lm};
use nvllm_core::weight::SyntheticSource;
use nvllm_core::{
    Activations, Backend, BlockId, DType, Executable, HfConfig, InlineVec, Limits, ModelSpec, OutputRow,
    Reference, SeqStep, SlotId, SlotReset, Source, SpecBuilder, Step, TokenId,
};
use proptest::prelude::*;

use self::interpret::Launch;
use self::memory::Model;
use super::check::Machine;
use super::phase::{ATTENTION, FOLD, LINEAR, NO_TAG, Phase, SILU};
use super::record::{Loaded as _, Shared};
use super::schedule::Schedule;
use crate::DeviceProfile;
use crate::memory::Address;

mod interpret;
mod memory;

/// A model and the step that it decodes.
#[derive(Clone, Copy, Debug)]
struct Case {
    layers: usize,
    hidden: usize,
    kv_heads: usize,
    group: usize,
    ffn: usize,
    vocab: usize,
    qk_norm: bool,
    biases: bool,
    window: Option<usize>,
    /// Tokens in the cache.
    context: usize,
    blocks: usize,
    seed: u64,
}

const SMALL: Case = Case {
    layers: 2,
    hidden: 64,
    kv_heads: 2,
    group: 2,
    ffn: 192,
    vocab: 51,
    qk_norm: true,
    biases: true,
    window: None,
    context: 20,
    blocks: 5,
    seed: 1,
};

impl Case {
    fn spec(&self) -> ModelSpec {
        let config = serde_json::json!({
            "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers, "num_attention_heads": self.kv_heads * self.group,
            "num_key_value_heads": self.kv_heads, "head_dim": 64, "max_position_embeddings": 1024,
            "tie_word_embeddings": true,
        });
        let config = DecoderConfig::read(&HfConfig::parse(config.to_string().as_bytes()).unwrap()).unwrap();
        let mut b = SpecBuilder::new();
        let kv = config.kv_layers(&mut b, &vec![self.window; self.layers]);
        let attention = GqaShape {
            qkv_bias: self.biases,
            o_bias: self.biases,
            qk_norm: self.qk_norm.then_some(1e-6),
            ..config.attention(self.window)
        };
        let declare = |b: &mut SpecBuilder, i: usize| {
            let scope = Scope::layer(i);
            let mlp =
                |b: &mut SpecBuilder| GatedMlp::declare(b, &scope, config.hidden, config.ffn, self.biases);
            DecoderLayer::declare(b, &scope, &attention, kv[i], mlp)
        };
        let record = |layer: &DecoderLayer<GatedMlp>, p: &mut _, h| layer.record(p, h, config.eps);
        causal_lm("small", &config.causal_lm_shape(), b, declare, record).unwrap()
    }

    fn token(&self, at: usize) -> usize {
        (at * 7 + self.seed as usize % 1000) % self.vocab
    }

    /// The blocks of the sequence, in no order.
    fn table(&self) -> Vec<BlockId> {
        (0..=self.context / 16).map(|i| BlockId((i * 5 % 37 + 1) as u32)).collect()
    }
}

/// A recorded pass, the model in memory before the step, and what the reference makes of the step.
struct Prepared {
    case: Case,
    model: Model,
    schedule: Schedule,
    /// W of each phase that is a linear layer.
    weights: Vec<Address>,
    attention: Shared,
    logits: Vec<f32>,
    cache: Vec<Vec<u8>>,
}

/// Runs tokens `tokens` of the case's sequence on the reference; the logits of the last.
fn step(case: &Case, exe: &mut dyn Executable, tokens: std::ops::Range<usize>) -> Vec<f32> {
    let reset = SlotReset { slot: SlotId(0), prompt: [].into(), output: [].into(), sampling: Arc::default() };
    let seq = SeqStep {
        slot: SlotId(0),
        tokens: tokens.clone().map(|at| Source::Host(TokenId(case.token(at) as u32))).collect(),
        positions: tokens.clone().map(|at| Source::Host(at as u32)).collect(),
        kv_start: Source::Host(tokens.start as u32),
        block_tables: InlineVec::from_elem(case.table().into(), 1),
        outputs: InlineVec::from_elem(OutputRow::values(tokens.len() as u32 - 1), 1),
    };
    let ticket = exe.submit(&Step { resets: vec![reset], seqs: vec![seq], ..Step::default() }).unwrap();
    let row = exe.collect(ticket).unwrap().rows.remove(0);
    row.values.unwrap().to_host().unwrap().to_f32()
}

impl Prepared {
    fn new(case: Case) -> Self {
        let spec = case.spec();
        let limits = Limits { kv_bytes: 16 << 20, ..Limits::new(Activations::Bf16, 1, 512) };
        let source = SyntheticSource::new(&spec.weights, DType::Bf16, case.seed);
        let mut model = Model::new(DeviceProfile::H200.plan(&spec, &source, &limits).unwrap(), &source);
        let mut exe = Reference::default().plan_and_load(&spec, &source, &limits).unwrap();
        if case.context > 0 {
            step(&case, &mut *exe, 0..case.context);
        }
        model.copy_cache(&mut *exe, &case.table());
        model.embed(case.token(case.context));
        let logits = step(&case, &mut *exe, case.context..case.context + 1);
        let block = |&block: &BlockId| exe.kv_cache().read_block(0, block).unwrap().bytes().to_vec();
        let cache = case.table().iter().map(block).collect();

        let mut pass = model.record(1).expect("a pass runs all of it");
        let value = |id| (model.value(id).at, model.value(id).cols);
        let units = [case.kv_heads, 1 << 16];
        let schedule = Schedule::new(&mut pass, case.blocks, units, model.room.clone(), value).unwrap();
        let attention = pass.attention.unwrap();
        let weights = weights(&schedule);
        Self { case, model, schedule, weights, attention, logits, cache }
    }

    fn machine(&self) -> Machine {
        let (spec, blocks) = (&self.attention.spec, self.case.blocks);
        let attention = [spec.num_heads + 2 * spec.num_kv_heads, spec.num_heads].map(|n| n * spec.head_dim);
        Machine { blocks, multiprocessors: blocks, attention }
    }

    /// Runs the pass; errors with what differs from the reference, or why it does not end.
    fn run(&self, draw: impl FnMut(usize) -> usize) -> Result<(), String> {
        let mut model = self.model.clone();
        let launch = Launch {
            phases: &self.schedule.phases,
            weights: &self.weights,
            attention: &self.attention,
            table: &self.case.table(),
            index: self.case.context,
            blocks: self.case.blocks,
            base: self.schedule.phases.len() as u32 + 1,
        };
        launch.run(&mut model.memory, draw)?;
        let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        if bits(&model.logits()) != bits(&self.logits) {
            return Err("other logits".into());
        }
        let same =
            self.case.table().iter().zip(&self.cache).all(|(block, bytes)| model.block(*block) == *bytes);
        if same { Ok(()) } else { Err("other keys or values".into()) }
    }

    /// The phases that `takes` holds for.
    fn phases(&self, takes: impl Fn(&Phase) -> bool) -> Vec<usize> {
        (0..self.schedule.phases.len()).filter(|&at| takes(&self.schedule.phases[at])).collect()
    }
}

/// W of each phase of a schedule that is a linear layer, else 0.
fn weights(schedule: &Schedule) -> Vec<Address> {
    let mut weights = schedule.maps.iter().map(|maps| maps.at);
    let of = |phase: &Phase| if phase.kind == LINEAR { weights.next().unwrap() } else { 0 };
    schedule.phases.iter().map(of).collect()
}

/// Numbers below what is asked, from a seed.
fn draws(mut state: u64) -> impl FnMut(usize) -> usize {
    move |num| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % num
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1_usize..4, 1_usize..4, 1_usize..3, 1_usize..4, 1_usize..4, 3_usize..70);
    let context = prop_oneof![3 => 0_usize..60, 1 => 250_usize..300];
    let window = prop_oneof![2 => Just(None), 1 => (1_usize..40).prop_map(Some)];
    (shape, any::<(bool, bool)>(), window, context, 1_usize..10, any::<u64>()).prop_map(
        |(
            (layers, hidden, kv_heads, group, ffn, vocab),
            (qk_norm, biases),
            window,
            context,
            blocks,
            seed,
        )| {
            let (hidden, ffn) = (64 * hidden, 64 * ffn);
            Case {
                layers,
                hidden,
                kv_heads,
                group,
                ffn,
                vocab,
                qk_norm,
                biases,
                window,
                context,
                blocks,
                seed,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_pass_makes_what_the_reference_makes(case in case()) {
        let prepared = Prepared::new(case);
        prop_assert_eq!(prepared.schedule.check(&prepared.machine()), Ok(()));
        prop_assert_eq!(prepared.run(draws(case.seed)), Ok(()));
    }
}

#[test]
fn chunks_of_keys_are_folded() {
    for context in [254, 255, 256, 290, 511] {
        let prepared = Prepared::new(Case { context, ..SMALL });
        assert_eq!(prepared.run(draws(7)), Ok(()), "{context} tokens in the cache");
    }
    let mut prepared = Prepared::new(Case { context: 290, ..SMALL });
    let [first, ..] = prepared.phases(|phase| phase.kind == FOLD)[..] else { unreachable!("two layers") };
    prepared.schedule.phases[first].y = prepared.schedule.phases[first - 1].x;
    assert!(prepared.run(draws(7)).is_err(), "it folds to where the queries are");
}

/// Asserts that a run of `SMALL` with a fault says `words`.
#[track_caller]
fn planted(words: &str, fault: impl FnOnce(&mut Prepared)) {
    let mut prepared = Prepared::new(SMALL);
    fault(&mut prepared);
    let found = prepared.run(draws(7)).expect_err(words);
    assert!(found.contains(words), "{found}");
}

#[test]
fn faults_of_values_are_seen() {
    let is_linear = |phase: &Phase| phase.kind == LINEAR;
    let normed = |phase: &Phase| phase.kind == LINEAR && phase.norm != 0;
    planted("other", |p| {
        // A later residual is that of the first layer.
        let last = *p.phases(|phase| phase.residual != 0).last().unwrap();
        let first = p.schedule.phases[0];
        (p.schedule.phases[last].residual, p.schedule.phases[last].residual_tag) = (first.x, NO_TAG);
    });
    planted("other", |p| {
        let last = *p.phases(|phase| phase.residual != 0).last().unwrap();
        p.schedule.phases[last].residual = 0;
    });
    planted("other", |p| {
        let [a, b] = p.phases(normed)[..2] else { unreachable!("four of them") };
        (p.schedule.phases[a].norm, p.schedule.phases[b].norm) =
            (p.schedule.phases[b].norm, p.schedule.phases[a].norm);
    });
    planted("other", |p| {
        let at = p.phases(normed)[1];
        p.schedule.phases[at].norm = 0;
    });
    planted("other", |p| {
        let at = p.phases(|phase| phase.flags & SILU != 0)[0];
        let Phase { k, outputs, .. } = p.schedule.phases[at];
        let (half, w) = ((k * outputs * 2) as usize, p.weights[at]);
        let mut halves = p.model.memory.bytes(w, 2 * half).to_vec();
        halves.rotate_left(half);
        p.model.memory.write(w, &halves);
    });
    planted("other", |p| {
        let at = p.phases(|phase| phase.flags & SILU != 0)[0];
        p.schedule.phases[at].flags &= !SILU;
    });
    planted("other", |p| {
        let at = p.phases(is_linear);
        let layer = at.len() / SMALL.layers;
        p.weights.swap(at[1], at[1 + layer]);
    });
    planted("other", |p| {
        let at = p.phases(|phase| phase.bias != 0 && phase.kind == LINEAR)[2];
        p.schedule.phases[at].bias = 0;
    });
    planted("other", |p| p.schedule.phases[0].eps = 0.1_f32.to_bits());
    planted("other", |p| {
        let [a, b] = p.phases(|phase| phase.kind == ATTENTION)[..] else { unreachable!("two layers") };
        p.schedule.phases[b].keys = p.schedule.phases[a].keys;
    });
    planted("other", |p| {
        let at = p.phases(|phase| phase.kind == ATTENTION)[0];
        let Phase { norm, bias, .. } = p.schedule.phases[at];
        (p.schedule.phases[at].norm, p.schedule.phases[at].bias) = (bias, norm);
    });
    planted("a block takes unit -1 of phase 3", |p| p.schedule.phases[3].first_block = 6);
    planted("no block goes on", |p| p.schedule.phases[4].x_tag = 2);
    planted("no block goes on", |p| p.schedule.phases[4].y += 8);
}
