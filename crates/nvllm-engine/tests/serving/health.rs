//! Loading, serving, draining, failed.

use std::time::Duration;

use nvllm_engine::{Engine, EngineError, FinishReason, Health};

use crate::support::{PATIENCE, end, in_time, model, options, request, spawn_loading, start_stepwise};

#[test]
fn an_engine_loads_then_serves() {
    in_time(|| {
        let (engine, go) = spawn_loading();
        assert_eq!(engine.health(), Health::Loading);
        assert!(matches!(engine.stream(request(0, 1)).err(), Some(EngineError::Loading)));
        assert!(matches!(engine.info().err(), Some(EngineError::Loading)));
        assert!(matches!(engine.measure_read_bandwidth().err(), Some(EngineError::Loading)));
        drop(go);
        engine.wait_until_loaded().unwrap();
        // As often as anyone asks.
        engine.wait_until_loaded().unwrap();
        assert_eq!(engine.health(), Health::Serving);
        assert_eq!(engine.info().unwrap().limits.context, 64);
        assert_eq!(end(engine.stream(request(0, 1)).unwrap()).reason, FinishReason::Length);
    });
}

#[test]
fn an_engine_that_drains_ends_what_it_has() {
    in_time(|| {
        let (engine, steps) = start_stepwise(&options());
        let running = engine.stream(request(0, 2)).unwrap();
        steps.wait_for_step();
        let waiting = engine.stream(request(1, 2)).unwrap();
        assert!(!engine.wait_until_idle(Duration::ZERO));
        engine.drain();
        assert_eq!(engine.health(), Health::Draining);
        assert!(matches!(engine.stream(request(0, 2)).err(), Some(EngineError::Draining)));
        assert!(!engine.wait_until_idle(Duration::from_millis(5)));
        drop(steps);
        assert!(engine.wait_until_idle(PATIENCE));
        for stream in [running, waiting] {
            assert_eq!(end(stream).reason, FinishReason::Length);
        }
        assert_eq!(engine.health(), Health::Draining);
    });
}

#[test]
fn an_engine_that_cannot_load_says_why() {
    in_time(|| {
        let factory = || Err(EngineError::Backend { reason: "no device of that name".into() });
        let engine = Engine::builder(model(), factory).spawn().unwrap();
        let first = engine.wait_until_loaded().err();
        assert!(matches!(first, Some(EngineError::Backend { .. })), "{first:?}");
        assert_eq!(engine.health(), Health::Failed("no device of that name".into()));
        for error in [
            engine.wait_until_loaded().err(),
            engine.stream(request(0, 1)).err(),
            engine.info().err(),
            engine.measure_read_bandwidth().err(),
        ] {
            let message = error.expect("an error").to_string();
            assert!(message.contains("no device of that name"), "{message}");
        }
    });
}

#[test]
fn a_panic_while_loading_says_what_it_said() {
    in_time(|| {
        let factory = || panic!("the driver is from Mars");
        let error = Engine::builder(model(), factory).start().err().unwrap().to_string();
        assert!(error.contains("the driver is from Mars"), "{error}");
    });
}
