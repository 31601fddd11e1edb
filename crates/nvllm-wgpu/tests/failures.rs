//! A device that is lost, and one that is too small. Skips, and says why, where there is no
//! adapter.

mod head;

use std::sync::mpsc;
use std::time::Duration;

use head::{load, step};
use nvllm_wgpu::{WgpuBackend, WgpuOptions};

/// Runs `test` where there is an adapter; a test that hangs fails.
fn on_adapter(test: impl FnOnce(WgpuBackend) + Send + 'static) {
    let backend = match WgpuBackend::new(&WgpuOptions::default()) {
        Ok(backend) => backend,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let (ended, end) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test(backend);
        // The receiver waits for it.
        ended.send(()).expect("somebody waits");
    });
    if matches!(end.recv_timeout(Duration::from_mins(2)), Err(mpsc::RecvTimeoutError::Timeout)) {
        panic!("the test hangs");
    }
    thread.join().expect("the test's thread");
}

/// The one error of a lost device, whoever asks.
fn check_lost(error: &nvllm_core::CoreError) {
    let text = error.to_string();
    assert!(text.contains("the device is lost") && text.lines().count() == 1, "{text}");
    assert!(!text.contains("Validation"), "{text}");
}

#[test]
fn a_lost_device_ends_the_steps_in_flight_and_refuses_later_ones() {
    on_adapter(|backend| {
        let mut exe = load(&backend, 0, 0).expect("a small model");
        let first = exe.submit(&step(0)).expect("a step");
        assert!(exe.collect(first).expect("its output").rows[0].token.is_some() && exe.failure().is_none());
        let [second, third] = [1, 2].map(|id| exe.submit(&step(id)).expect("a step"));
        backend.destroy();
        for ticket in [second, third] {
            check_lost(&exe.collect(ticket).err().expect("its output cannot be read"));
        }
        check_lost(&exe.submit(&step(3)).expect_err("a lost device takes no step"));
        assert!(exe.failure().is_some_and(|reason| reason.contains("the device is lost")));
        let again = load(&backend, 0, 0).err();
        check_lost(&again.expect("a lost device loads nothing"));
        // What is left is dropped without a panic.
        drop((exe, backend));
    });
}

#[test]
fn a_device_that_is_lost_between_steps_refuses_the_next() {
    on_adapter(|backend| {
        let mut exe = load(&backend, 0, 0).expect("a small model");
        let first = exe.submit(&step(0)).expect("a step");
        exe.collect(first).expect("its output");
        backend.destroy();
        check_lost(&exe.submit(&step(1)).expect_err("a lost device takes no step"));
        check_lost(&exe.find_unusable(&step(1)).expect_err("nor is one looked at"));
    });
}

#[test]
fn a_cache_larger_than_the_memory_is_refused_before_anything_is_allocated() {
    on_adapter(|backend| {
        let facts = backend.facts();
        let layers = facts.memory_bytes / facts.max_binding.min(1 << 30) + 1;
        let kv_bytes = layers * facts.max_binding.min(1 << 30);
        let error = load(&backend, layers, kv_bytes).err().expect("it does not fit").to_string();
        assert!(error.contains("a KV cache of ") && error.contains(" sequences of 1024"), "{error}");
    });
}
