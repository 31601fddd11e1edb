//! Bad input: a clear line each, and nothing changed.

use std::sync::Arc;

use nvllm_core::{RowOutput, Source, Step, StepId, StepOutput, TokenId, TokenLogprobs};

use super::executor::Executor;
use super::turns::{prompt, running, with_blocks};
use crate::{GroupConfig, NewSequence, SchedConfig, SchedError, Scheduler, TenantId};

fn config() -> SchedConfig {
    SchedConfig { max_in_flight: 2, ..with_blocks(5) }
}

fn refusal(config: SchedConfig, new: NewSequence) -> String {
    let mut sched = Scheduler::new(config).unwrap();
    let error = sched.add(new).unwrap_err().to_string();
    assert!(sched.is_idle() && sched.plan().is_none());
    error
}

#[test]
fn sequences_that_cannot_run_are_refused() {
    assert_eq!(refusal(config(), prompt(0)), "the prompt is empty; give at least one token");
    assert_eq!(
        refusal(config(), prompt(33)),
        "the prompt has 33 tokens, more than there is room for: the context is 32 tokens, prompt and output together; \
         shorten it"
    );
    assert!(refusal(config(), prompt(32)).contains("leaves no room for one more: the context is 32 tokens"));
    let more_positions = SchedConfig { max_positions: 40, ..config() };
    let longer = "shorten it, or give a --max-model-len of up to 40";
    assert!(refusal(more_positions, prompt(33)).ends_with(longer));
    let few_positions = SchedConfig { max_positions: 8, ..config() };
    assert_eq!(
        refusal(few_positions, prompt(8)),
        "the prompt has 8 tokens, which leaves no room for one more: the model has 8 positions and 8 are behind it; \
         shorten it"
    );
    let few_positions = SchedConfig { max_positions: 8, ..config() };
    let behind = "9 tokens, more than there is room for: the model has 8 positions and 9 are behind it";
    assert!(refusal(few_positions, prompt(9)).contains(behind));
    let never = "a prompt of 15 tokens and up to 4 more take 5 KV blocks of 4 positions; the cache has 4: \
                 generate fewer tokens, shorten the prompt, or load the model with a larger KV cache";
    assert_eq!(refusal(config(), prompt(15)), never);
    let endless = NewSequence { max_tokens: None, ..prompt(17) };
    assert!(
        refusal(config(), endless).starts_with("a prompt of 17 tokens and up to 1 more take 5 KV blocks")
    );
}

#[test]
fn choices_and_tenants_must_exist() {
    let tenant = NewSequence { tenant: TenantId(2), ..prompt(2) };
    let two = SchedConfig { tenant_weights: vec![1, 1], ..config() };
    assert_eq!(refusal(two, tenant), "tenant 2 is not known; there are 2, counted from 0");
    let mut sched = Scheduler::new(config()).unwrap();
    for (n, message) in [(0, "n is 0; give 1 to 4"), (5, "n is 5; give 1 to 4")] {
        let error = sched.add_choices(&prompt(2), n).unwrap_err().to_string();
        assert_eq!(error, format!("{message}, the sequences that run at once"));
        assert!(sched.is_idle());
    }
    assert_eq!(sched.add_choices(&prompt(2), 4).unwrap().len(), 4);
}

#[test]
fn positions_must_fit_prompt_and_model() {
    let with = |positions: &[u32]| NewSequence { positions: Some(positions.into()), ..prompt(2) };
    let error = refusal(config(), with(&[1]));
    assert_eq!(error, "positions: 1 are given for a prompt of 2 tokens; give one for each");
    assert_eq!(refusal(config(), with(&[32, 1])), "positions: 32 is given; the model has 0 to 31");
    assert!(refusal(config(), with(&[0, 31])).contains("the model has 32 positions and 32 are behind it"));
}

#[test]
fn what_just_fits_is_taken_and_clamped() {
    let mut sched = Scheduler::new(config()).unwrap();
    let max_tokens = |sched: &mut Scheduler, new: NewSequence| {
        let seq = sched.add(new).unwrap();
        sched.seqs[sched.keys[&seq]].max_tokens
    };
    // 16 KV positions: the last token is never run.
    assert_eq!(max_tokens(&mut sched, prompt(13)), 4);
    assert_eq!(max_tokens(&mut sched, NewSequence { max_tokens: None, ..prompt(13) }), 4);
    assert_eq!(max_tokens(&mut sched, NewSequence { max_tokens: Some(0), ..prompt(16) }), 0);
    let mut large = Scheduler::new(SchedConfig { groups: with_blocks(100).groups, ..config() }).unwrap();
    assert_eq!(max_tokens(&mut large, NewSequence { max_tokens: Some(usize::MAX), ..prompt(30) }), 2);
    assert_eq!(max_tokens(&mut large, NewSequence { max_tokens: None, ..prompt(31) }), 1);
    assert_eq!(max_tokens(&mut large, NewSequence { max_tokens: Some(0), ..prompt(32) }), 0);
}

#[test]
fn configurations_that_run_nothing_are_refused() {
    let error = |config: SchedConfig| Scheduler::new(config).unwrap_err().to_string();
    let zero = SchedConfig { step_outputs: 0, ..config() };
    assert_eq!(error(zero), "scheduler configuration: `step_outputs` is 0; give at least 1");
    let null = SchedConfig { groups: [with_blocks(9).groups, with_blocks(1).groups].concat(), ..config() };
    let wanted = "scheduler configuration: `num_blocks` is 1; give at least 2: the null block and one to use";
    assert_eq!(error(null), wanted);
    let huge = SchedConfig { max_positions: usize::MAX, ..config() };
    assert!(error(huge).ends_with("ids and counts have 32 bits"));
    let blocks = SchedConfig { groups: with_blocks(1 << 33).groups, ..config() };
    assert_eq!(
        error(blocks),
        "scheduler configuration: `num_blocks` is 8589934592; ids and counts have 32 bits"
    );
    let nobody = SchedConfig { tenant_weights: Vec::new(), ..config() };
    assert_eq!(error(nobody), "scheduler configuration: `tenant_weights` is 0; give at least 1");
    let weightless = SchedConfig { tenant_weights: vec![2, 0], ..config() };
    assert_eq!(error(weightless), "scheduler configuration: `tenant_weights` is 0; give at least 1");
    let blind = SchedConfig { groups: vec![GroupConfig { num_blocks: 9, window: Some(0) }], ..config() };
    assert_eq!(error(blind), "scheduler configuration: `window` is 0; give at least 1");
}

#[test]
fn commits_must_fit_their_steps() {
    let mut sched = Scheduler::new(config()).unwrap();
    let mut executor = Executor::new(&config());
    sched.add(NewSequence { logprobs: Some(0), logits: true, ..prompt(2) }).unwrap();
    let steps = [sched.plan().unwrap(), sched.plan().unwrap()];
    steps.iter().for_each(|step| executor.submit(step).unwrap());
    let mut error = |step: u64, output: StepOutput| {
        let error = sched.commit(StepId(step), output).unwrap_err().to_string();
        sched.check().unwrap();
        assert_eq!(sched.stats().num_in_flight, 2, "nothing has changed");
        error
    };
    let output = |n: usize| StepOutput {
        rows: std::iter::repeat_with(|| RowOutput {
            token: Some(TokenId(1)),
            logprobs: Some(TokenLogprobs::default()),
            values: None,
            unusable: false,
        })
        .take(n)
        .collect(),
        ..StepOutput::default()
    };
    let backend = "; this is a fault in the backend";
    assert_eq!(error(7, output(2)), "step 7 is not in flight; commit each planned step once");
    let order = "step 2 is committed before step 1; commit in the order of submission";
    assert_eq!(error(2, output(1)), order);
    assert_eq!(error(1, output(0)), format!("the output of step 1 has 0 rows; the step wants 2{backend}"));
    assert_eq!(error(1, output(2)), format!("the output of step 1 lacks the logits of row 0{backend}"));
    let blind =
        StepOutput { rows: vec![RowOutput::default(), RowOutput::default()], ..StepOutput::default() };
    assert!(error(1, blind).contains("lacks the"));
    let (id, output) = executor.collect().unwrap();
    assert_eq!(sched.commit(id, output).unwrap().len(), 2);
    assert!(matches!(sched.fail(id), Err(SchedError::UnknownStep { step }) if step == id));
}

#[test]
fn a_failed_step_ends_its_sequences_and_no_others() {
    let mut sched = Scheduler::new(SchedConfig { seqs: 1, ..config() }).unwrap();
    let mut executor = Executor::new(sched.config());
    let failed = sched.add(prompt(2)).unwrap();
    let spared = sched.add(prompt(2)).unwrap();
    let steps = [sched.plan().unwrap(), sched.plan().unwrap()];
    executor.submit(&steps[0]).unwrap();
    // The second step is refused; the first is still out and its token is dropped.
    let events = sched.fail(steps[1].id).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].seq(), failed);
    let (id, output) = executor.collect().unwrap();
    assert!(sched.commit(id, output).unwrap().is_empty());
    sched.check().unwrap();
    assert!(sched.plan().is_some() && running(&sched) == [spared]);
}

#[test]
fn events_of_a_sequence_can_be_printed() {
    let mut sched = Scheduler::new(config()).unwrap();
    let mut executor = Executor::new(sched.config());
    let stop =
        nvllm_core::SamplingParams { stop_tokens: (0..17).map(TokenId).collect(), ..Default::default() };
    sched.add(NewSequence { sampling: Arc::new(stop), ..prompt(1) }).unwrap();
    executor.submit(&sched.plan().unwrap()).unwrap();
    let (id, output) = executor.collect().unwrap();
    let text = format!("{:?}", sched.commit(id, output).unwrap());
    assert!(text.starts_with("[Token { seq: SeqId(1), index: 0, token: TokenId("), "{text}");
    assert!(text.contains("logits: None }, Finished { seq: SeqId(1), reason: StopToken(TokenId("), "{text}");
}

/// A sequence whose first of several rows is unusable ends alone: the next sequence of the step
/// gets its own row.
#[test]
fn an_unusable_row_ends_its_sequence_and_shifts_no_other() {
    let mut sched = Scheduler::new(config()).unwrap();
    let scored = sched.add(NewSequence { prompt_logprobs: Some(0), ..prompt(3) }).unwrap();
    let other = sched.add(prompt(2)).unwrap();
    let step = Step { entry: nvllm_core::EntryId(2), ..sched.plan().unwrap() };
    let row = |token, unusable: bool| RowOutput {
        token: (!unusable).then_some(TokenId(token)),
        logprobs: (!unusable).then(TokenLogprobs::default),
        values: None,
        unusable,
    };
    let rows = vec![row(1, true), row(2, false), row(3, false), row(4, false)];
    assert_eq!(step.num_outputs(), rows.len());
    let output = StepOutput { rows, ..StepOutput::default() };
    let part = sched.unusable_part(&step, &output).unwrap();
    assert_eq!((part.seqs.len(), part.seqs[0].slot, part.resets.len()), (1, step.seqs[0].slot, 0));
    assert_eq!((part.id, part.entry), (step.id, step.entry));
    assert_eq!(part.seqs[0].tokens[..], [0, 1, 2].map(|token| Source::Host(TokenId(token))));
    let events = sched.commit(step.id, output).unwrap();
    let news: Vec<_> = events.iter().map(|event| (event.seq(), format!("{event:?}"))).collect();
    assert!(news.len() == 2 && news[0].0 == scored && news[0].1.contains("Unusable"), "{news:?}");
    assert!(news[1].0 == other && news[1].1.contains("TokenId(4)"), "{news:?}");
    sched.check().unwrap();
}
