//! Small runs of the hard cases, written out.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use nvllm_core::{SamplingParams, SeqId, Source, Step};

use super::executor::Executor;
use super::turns::{prompt, with_blocks};
use crate::{GroupConfig, NewSequence, SchedConfig, Scheduler, SeqEvent, Stats, TenantId};

/// A scheduler, an executor, and what they did.
struct Trace {
    sched: Scheduler,
    executor: Executor,
    text: String,
}

impl Trace {
    fn new(config: &SchedConfig) -> Self {
        let sched = Scheduler::new(config.clone()).unwrap();
        Self { sched, executor: Executor::new(config), text: String::new() }
    }

    fn say(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn add(&mut self, new: &NewSequence) -> SeqId {
        self.add_choices(new, 1)[0]
    }

    fn add_choices(&mut self, new: &NewSequence, n: usize) -> Vec<SeqId> {
        let seqs = self.sched.add_choices(new, n).unwrap();
        let (len, max_tokens) = (new.prompt.len(), new.max_tokens);
        let mut line = format!("add {}: prompt of {len}, max_tokens {max_tokens:?}", names(&seqs));
        if new.priority != 0 {
            let _ = write!(line, ", priority {}", new.priority);
        }
        if new.tenant != TenantId(0) {
            let _ = write!(line, ", tenant {}", new.tenant.0);
        }
        self.say(&line);
        seqs
    }

    /// Plans all steps that can be planned.
    fn plan(&mut self) {
        while let Some(step) = self.sched.plan() {
            for admitted in self.sched.admitted() {
                let how = if admitted.resumed { "resumed" } else { "admitted" };
                let cached = admitted.cached_tokens;
                let _ = writeln!(self.text, "{how} seq {}: {cached} tokens cached", admitted.seq);
            }
            self.text += &describe(&step);
            self.executor.submit(&step).unwrap();
            self.sched.check().unwrap();
        }
    }

    /// Takes in the oldest step.
    fn commit(&mut self) {
        let (id, output) = self.executor.collect().expect("a step is in flight");
        let events = self.sched.commit(id, output).unwrap();
        let Stats { num_waiting, num_running, num_ending, used_blocks, totals, .. } = self.sched.stats();
        let _ = writeln!(
            self.text,
            "commit step {id}: {num_waiting} waiting, {num_running} running, {num_ending} ending, {used_blocks} blocks \
             used, {} preempted so far",
            totals.num_preemptions
        );
        self.see(&events);
        self.sched.check().unwrap();
    }

    fn see(&mut self, events: &[SeqEvent]) {
        events.iter().for_each(|event| self.text += &describe_event(event));
    }

    fn turn(&mut self) {
        self.plan();
        self.commit();
    }

    fn finish(mut self) -> String {
        while !self.sched.is_idle() {
            self.turn();
        }
        self.text
    }
}

fn names(seqs: &[SeqId]) -> String {
    let names: Vec<_> = seqs.iter().map(|seq| format!("seq {seq}")).collect();
    names.join(", ")
}

fn source<T: std::fmt::Display>(source: &Source<T>) -> String {
    match source {
        Source::Host(value) => value.to_string(),
        Source::Slot => "slot".into(),
    }
}

/// A step, one line a sequence.
fn describe(step: &Step) -> String {
    let mut text =
        format!("plan step {}: {} tokens, {} outputs\n", step.id, step.num_tokens(), step.num_outputs());
    for reset in &step.resets {
        let (prompt, output) = (reset.prompt.len(), reset.output.len());
        let _ = writeln!(text, "  slot {} reset: prompt of {prompt}, {output} sampled", reset.slot);
    }
    for copy in &step.copies {
        let _ = writeln!(text, "  copy block {} to {}", copy.from, copy.to);
    }
    for seq in &step.seqs {
        let tokens: Vec<String> = seq.tokens.iter().map(source).collect();
        let tables = seq.block_tables.iter().map(|table| {
            let blocks: Vec<String> = table.iter().map(ToString::to_string).collect();
            format!("blocks [{}]", blocks.join(" "))
        });
        let tables = tables.collect::<Vec<_>>().join(" ");
        let rows = seq.outputs.iter().map(|o| match (o.sample, o.target) {
            (true, _) => format!("sample@{}", o.index),
            (_, Some(target)) => format!("score {target}@{}", o.index),
            _ => format!("logits@{}", o.index),
        });
        let rows: Vec<String> = rows.collect();
        let (slot, start) = (seq.slot, source(&seq.kv_start));
        let (tokens, rows) = (tokens.join(" "), rows.join(", "));
        let _ = writeln!(text, "  slot {slot} from {start}: tokens [{tokens}] {tables} outputs [{rows}]");
    }
    text
}

fn describe_event(event: &SeqEvent) -> String {
    match event {
        SeqEvent::PromptRow { seq, index, .. } => format!("  seq {seq}: row {index}\n"),
        SeqEvent::Token { seq, index, token, .. } => format!("  seq {seq}: token {token} from row {index}\n"),
        SeqEvent::Finished { seq, reason } => format!("  seq {seq}: finished, {reason:?}\n"),
    }
}

/// Three sequences on two slots, with two steps in flight.
#[test]
fn steps_in_flight() {
    let config = SchedConfig { step_tokens: 6, step_outputs: 3, seqs: 2, max_in_flight: 2, ..with_blocks(8) };
    let mut trace = Trace::new(&config);
    let stop_tokens = (0..8).map(Into::into).collect();
    let stops = Arc::new(SamplingParams { stop_tokens, seed: 4, ..SamplingParams::default() });
    trace.add(&prompt(9));
    trace.add(&NewSequence { sampling: stops, max_tokens: Some(6), ..prompt(2) });
    trace.add(&NewSequence {
        prompt_logprobs: Some(1),
        max_tokens: Some(1),
        cache_salt: Some("own".into()),
        ..prompt(5)
    });
    insta::assert_snapshot!(trace.finish());
}

/// The whole prompt is in the cache, in blocks that nobody holds: the block of its last token is
/// computed all the same. With another salt nothing is found.
#[test]
fn full_prefix_hit() {
    let mut trace = Trace::new(&with_blocks(12));
    trace.add(&NewSequence { max_tokens: Some(2), ..prompt(8) });
    while !trace.sched.is_idle() {
        trace.turn();
    }
    trace.add(&NewSequence { max_tokens: Some(2), ..prompt(8) });
    trace.add(&NewSequence { max_tokens: Some(1), ..prompt(10) });
    trace.add(&NewSequence { max_tokens: Some(1), cache_salt: Some("other".into()), ..prompt(8) });
    insta::assert_snapshot!(trace.finish());
}

/// Two sequences outgrow the cache: the later one gives up its blocks, waits, and takes up where it
/// was, with the blocks that were not overwritten.
#[test]
fn preempt_and_resume() {
    let mut trace = Trace::new(&SchedConfig { max_in_flight: 2, ..with_blocks(6) });
    trace.add(&NewSequence { max_tokens: Some(9), ..prompt(7) });
    trace.add(&NewSequence { max_tokens: Some(7), cache_salt: Some("other".into()), ..prompt(7) });
    insta::assert_snapshot!(trace.finish());
}

/// An urgent sequence takes the only slot from one that can wait.
#[test]
fn urgent_preempts() {
    let mut trace = Trace::new(&SchedConfig { seqs: 1, ..with_blocks(10) });
    trace.add(&NewSequence { priority: 5, max_tokens: Some(4), ..prompt(6) });
    trace.turn();
    trace.turn();
    trace.add(&NewSequence { priority: 5, max_tokens: Some(1), ..prompt(1) });
    trace.add(&NewSequence {
        priority: -1,
        max_tokens: Some(2),
        cache_salt: Some("other".into()),
        ..prompt(3)
    });
    insta::assert_snapshot!(trace.finish());
}

/// An abort in the middle of a prompt, with steps in flight: what the next sequence needs is free
/// once they are committed.
#[test]
fn abort_while_prefilling() {
    let config = SchedConfig { step_tokens: 4, seqs: 1, max_in_flight: 2, ..with_blocks(6) };
    let mut trace = Trace::new(&config);
    let first = trace.add(&prompt(13));
    trace.add(&NewSequence { max_tokens: Some(1), ..prompt(9) });
    trace.plan();
    let event = trace.sched.abort(first).unwrap();
    trace.say(&format!("abort seq {first}"));
    trace.see(&[event]);
    insta::assert_snapshot!(trace.finish());
}

/// Prompts and decoding sequences fill the tokens and the rows of a step to the last.
#[test]
fn budget_exactly_met() {
    let config = SchedConfig { step_tokens: 8, step_outputs: 2, seqs: 3, ..with_blocks(5) };
    let mut trace = Trace::new(&config);
    trace.add(&NewSequence { max_tokens: Some(2), ..prompt(5) });
    trace.add(&NewSequence { max_tokens: Some(2), cache_salt: Some("b".into()), ..prompt(3) });
    trace.add(&NewSequence { max_tokens: Some(2), cache_salt: Some("c".into()), ..prompt(6) });
    insta::assert_snapshot!(trace.finish());
}

/// All slots are taken: who comes waits in the order of arrival, and a deadline ends one of them
/// there.
#[test]
fn slots_full() {
    let mut trace = Trace::new(&SchedConfig { seqs: 1, ..with_blocks(12) });
    trace.add(&NewSequence { max_tokens: Some(3), ..prompt(3) });
    trace.add(&NewSequence { deadline: Some(Duration::from_secs(5)), ..prompt(2) });
    trace.add(&NewSequence { max_tokens: Some(1), ..prompt(4) });
    trace.turn();
    trace.turn();
    trace.say("5 seconds have passed");
    let events = trace.sched.expire(Duration::from_secs(5));
    trace.see(&events);
    insta::assert_snapshot!(trace.finish());
}

/// Tenant 0 has five sequences waiting when tenant 1 comes with two.
#[test]
fn a_tenant_that_floods() {
    let config = SchedConfig { step_tokens: 8, seqs: 1, tenant_weights: vec![1, 1], ..with_blocks(12) };
    let mut trace = Trace::new(&config);
    let short = |len, tenant| NewSequence { max_tokens: Some(2), tenant: TenantId(tenant), ..prompt(len) };
    for _ in 0..5 {
        trace.add(&short(3, 0));
    }
    for _ in 0..2 {
        trace.add(&short(3, 1));
    }
    insta::assert_snapshot!(trace.finish());
}

/// Three choices of one prompt: the first computes it, the others take its full block and a copy of
/// the last, and compute the last token.
#[test]
fn choices_share_the_prompt() {
    let mut trace = Trace::new(&with_blocks(12));
    trace.add_choices(&NewSequence { max_tokens: Some(3), ..prompt(6) }, 3);
    insta::assert_snapshot!(trace.finish());
}

/// The second KV group has a window of 5 positions.
#[test]
fn windows_give_blocks_back() {
    let groups =
        vec![GroupConfig { num_blocks: 12, window: None }, GroupConfig { num_blocks: 5, window: Some(5) }];
    let mut trace = Trace::new(&SchedConfig { groups, ..with_blocks(12) });
    trace.add(&NewSequence { max_tokens: Some(6), ..prompt(12) });
    insta::assert_snapshot!(trace.finish());
}
