//! One small run, written out: three sequences on two slots, with two steps in flight.

use std::fmt::Write as _;
use std::sync::Arc;

use nvllm_core::{SamplingParams, Source, Step};

use super::executor::Executor;
use super::turns::{CONFIG, prompt};
use crate::{NewSequence, SchedConfig, Scheduler, SeqEvent, Stats};

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
        let _ = writeln!(text, "  slot {} reset: prompt of {}", reset.slot, reset.prompt.len());
    }
    for seq in &step.seqs {
        let tokens: Vec<String> = seq.tokens.iter().map(source).collect();
        let blocks: Vec<String> = seq.block_tables[0].iter().map(ToString::to_string).collect();
        let rows = seq.outputs.iter().map(|o| match (o.sample, o.target) {
            (true, _) => format!("sample@{}", o.index),
            (_, Some(target)) => format!("score {target}@{}", o.index),
            _ => format!("logits@{}", o.index),
        });
        let rows: Vec<String> = rows.collect();
        let (slot, start) = (seq.slot, source(&seq.kv_start));
        let (tokens, blocks, rows) = (tokens.join(" "), blocks.join(" "), rows.join(", "));
        let _ = writeln!(
            text,
            "  slot {slot} from {start}: tokens [{tokens}] blocks [{blocks}] outputs [{rows}]"
        );
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

#[test]
fn a_run_reads_well() {
    let config = SchedConfig {
        step_tokens: 6,
        step_outputs: 3,
        seqs: 2,
        num_blocks: vec![8],
        max_in_flight: 2,
        ..CONFIG
    };
    let mut sched = Scheduler::new(config.clone()).unwrap();
    let mut executor = Executor::new(&config);
    let mut text = String::new();
    let stop_tokens = (0..8).map(Into::into).collect();
    let stops = Arc::new(SamplingParams { stop_tokens, seed: 4, ..SamplingParams::default() });
    let news = [
        prompt(9),
        NewSequence { sampling: stops, max_tokens: Some(6), ..prompt(2) },
        NewSequence { prompt_logprobs: Some(1), max_tokens: Some(1), ..prompt(5) },
    ];
    for new in news {
        let (len, max_tokens) = (new.prompt.len(), new.max_tokens);
        let seq = sched.add(new).unwrap();
        let _ = writeln!(text, "add seq {seq}: prompt of {len}, max_tokens {max_tokens:?}");
    }
    while !sched.is_idle() {
        while let Some(step) = sched.plan() {
            text += &describe(&step);
            executor.submit(&step).unwrap();
        }
        let (id, output) = executor.collect().unwrap();
        let events = sched.commit(id, output).unwrap();
        let Stats { num_waiting, num_running, num_ending, used_blocks, promised_blocks, .. } = sched.stats();
        let _ = writeln!(
            text,
            "commit step {id}: {num_waiting} waiting, {num_running} running, {num_ending} ending; blocks: {used_blocks} \
             used, {promised_blocks} promised"
        );
        events.iter().for_each(|event| text += &describe_event(event));
        sched.check().unwrap();
    }
    insta::assert_snapshot!(text);
}
