//! Whose request it is, and until when it may run.

use std::time::{Duration, Instant};

use nvllm_engine::{Engine, EngineError, FinishReason, LoadOptions, MAX_SALT_LEN, Model, Request, Tenant};

use crate::support::{Plain, end, in_time, options, request, start, start_stepwise};

fn tenants() -> LoadOptions {
    let tenant = |name: &str| Tenant { name: name.into(), weight: 1 };
    LoadOptions { tenants: vec![tenant("a"), tenant("b")], ..options() }
}

fn of(tenant: &str, max_tokens: usize) -> Request {
    Request { tenant: Some(tenant.into()), ..request(2, max_tokens) }
}

#[test]
fn a_tenant_that_floods_fills_its_own_part_of_the_queue_and_waits_for_its_turns() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&LoadOptions { max_queued_requests: 12, ..tenants() });
        let running = engine.stream(of("a", 1)).unwrap();
        steps.wait_for_step();
        let flood: Vec<_> = (0..6).map(|_| engine.stream(of("a", 1)).unwrap()).collect();
        let refused = engine.stream(of("a", 1)).err();
        assert!(matches!(refused, Some(EngineError::QueueFull { requests: 6, .. })), "{refused:?}");
        let other = engine.stream(of("b", 1)).unwrap();
        drop(steps);
        assert_eq!(end(running).reason, FinishReason::Length);
        let other = end(other).queue_time.unwrap();
        let later = flood.into_iter().map(|stream| end(stream).queue_time.unwrap());
        let overtaken = later.filter(|time| *time > other).count();
        assert!(overtaken >= 3, "{overtaken} of the flood ran after the other tenant's");
    });
}

#[test]
fn what_cannot_be_met_is_refused_by_name() {
    let engine = start(Plain, tenants());
    let now = Instant::now();
    let salt = |len: usize| Some("x".repeat(len));
    for (request, words) in [
        (of("c", 1), "tenant is \"c\"; those that are known: a, b"),
        (Request { deadline: Some(now), ..request(0, 1) }, "deadline passed "),
        (Request { cache_salt: salt(0), ..request(0, 1) }, "cache_salt has 0 bytes; give 1 to 256"),
        (Request { cache_salt: salt(257), ..request(0, 1) }, "cache_salt has 257 bytes; give 1 to 256"),
    ] {
        let error = engine.stream(request).err().expect("a refusal").to_string();
        assert!(error.starts_with(words), "{error}");
    }
    assert_eq!(engine.stats().num_waiting, 0);
    engine.generate(Request { cache_salt: salt(MAX_SALT_LEN), ..request(0, 1) }).unwrap();
}

#[test]
fn a_tenant_may_come_while_others_are_served() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let first = engine.stream(request(2, 1)).unwrap();
        steps.wait_for_step();
        let flood: Vec<_> = (0..6).map(|_| engine.stream(request(2, 1)).unwrap()).collect();
        let late = || engine.stream(of("late", 1));
        assert!(late().is_err());
        engine.add_tenant(&Tenant { name: "late".into(), weight: 1 }).unwrap();
        let late = late().unwrap();
        drop(steps);
        assert_eq!(end(first).reason, FinishReason::Length);
        let late = end(late);
        assert_eq!(late.reason, FinishReason::Length);
        let times = flood.into_iter().map(|stream| end(stream).queue_time.unwrap());
        assert!(times.filter(|time| Some(*time) > late.queue_time).count() >= 3);
    });
}

#[test]
fn tenants_are_checked_before_anything_is_loaded() {
    let builder = |tenants| {
        let model: std::sync::Arc<Model> = crate::support::model();
        let options = LoadOptions { tenants, ..options() };
        Engine::builder(model, || unreachable!("nothing is loaded")).options(options).spawn()
    };
    let error = builder(Vec::new()).err().unwrap().to_string();
    assert_eq!(error, "--tenants is empty; give at least one");
}

#[test]
fn a_deadline_ends_who_runs_with_what_it_has_and_who_waits() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let soon = Instant::now() + Duration::from_secs(2);
        let with = |request: Request| Request { deadline: Some(soon), ..request };
        let running = engine.stream(with(request(0, 40))).unwrap();
        let waiting = engine.stream(with(request(1, 40))).unwrap();
        let patient = engine.stream(request(1, 3)).unwrap();
        steps.wait_for_step();
        std::thread::sleep(soon.saturating_duration_since(Instant::now()));
        drop(steps);
        let [running, waiting] = [running, waiting].map(end);
        assert_eq!([running.reason, waiting.reason], [FinishReason::Deadline; 2]);
        assert_eq!((running.output_tokens, waiting.output_tokens), (1, 0));
        assert_eq!(end(patient).reason, FinishReason::Length);
        assert_eq!(engine.stats().finished.deadline, 2);
    });
}
