//! The pool: every index once, panics kept, nothing lost under load.

use nvllm_cpu::{CpuError, Kernels, MAX_THREADS, Pool, PoolConfig, default_threads, measure_read_bandwidth};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn pool(threads: usize, spin: Duration) -> Pool {
    Pool::new(&PoolConfig { threads: Some(threads), pin: false, spin }).unwrap()
}

/// Always parking, and mostly spinning.
const SPINS: [Duration; 2] = [Duration::ZERO, Duration::from_micros(50)];

#[test]
fn every_index_runs_once_the_first_on_the_caller() {
    for spin in SPINS {
        for threads in 1..=5 {
            let pool = pool(threads, spin);
            assert_eq!(pool.num_threads(), threads);
            let caller = std::thread::current().id();
            for _ in 0..200 {
                let seen = Mutex::new(vec![0; threads]);
                pool.run(|i| {
                    seen.lock().unwrap()[i] += 1;
                    assert_eq!(i == 0, std::thread::current().id() == caller);
                });
                assert_eq!(seen.into_inner().unwrap(), vec![1; threads]);
            }
        }
    }
}

#[test]
fn chunks_cover_the_range_once() {
    let pool = pool(3, SPINS[1]);
    for (total, chunk) in [(0, 4), (1, 4), (4, 4), (5, 4), (1000, 7), (10, 0), (3, usize::MAX)] {
        let hits: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
        pool.for_chunks(total, chunk, |thread, range| {
            assert!(thread < 3 && range.len() <= chunk.max(1) && !range.is_empty());
            for i in range {
                hits[i].fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1), "{total} in chunks of {chunk}");
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    for spin in SPINS {
        let pool = pool(3, spin);
        for victim in 0..3 {
            let ended = AtomicUsize::new(0);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(|i| {
                    assert!(i != victim, "planted in {i}");
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let payload = outcome.expect_err("the panic must come through");
            let message = payload.downcast_ref::<String>().cloned().unwrap_or_default();
            assert_eq!(message, format!("planted in {victim}"));
            assert_eq!(ended.load(Ordering::Relaxed), 2, "the others ran to their end first");
        }
        let sum = AtomicUsize::new(0);
        pool.run(|i| {
            sum.fetch_add(i + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 6);
    }
}

#[test]
fn nested_use_runs_on_the_calling_thread() {
    let pool = pool(3, SPINS[1]);
    let count = AtomicUsize::new(0);
    pool.run(|_| {
        let outer = std::thread::current().id();
        pool.run(|_| {
            assert_eq!(std::thread::current().id(), outer);
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(count.into_inner(), 9);
}

#[test]
fn two_callers_take_turns() {
    let pool = pool(2, SPINS[1]);
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.run(|i| {
                        if i == 0 {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                    });
                }
            });
        }
    });
}

#[test]
fn sleepers_wake() {
    let pool = pool(4, Duration::from_micros(1));
    for i in 0..300 {
        if i % 3 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        let count = AtomicUsize::new(0);
        pool.run(|t| {
            if t == i % 4 {
                std::thread::sleep(Duration::from_micros(30));
            }
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 4);
    }
}

#[test]
fn bad_counts_are_refused_and_the_process_has_one_pool() {
    for asked in [0, MAX_THREADS + 1] {
        let config = PoolConfig { threads: Some(asked), ..PoolConfig::default() };
        assert_eq!(Pool::new(&config).unwrap_err(), CpuError::BadThreads { asked, max: MAX_THREADS });
    }
    let first = Pool::of_process(&PoolConfig::default()).unwrap();
    assert_eq!(first.num_threads(), default_threads());
    assert!(std::sync::Arc::ptr_eq(&first, &Pool::of_process(&PoolConfig::default()).unwrap()));
    let asked = first.num_threads() + 1;
    let other = Pool::of_process(&PoolConfig { threads: Some(asked), ..PoolConfig::default() });
    assert_eq!(other.unwrap_err(), CpuError::PoolMismatch { have: asked - 1, asked });
}

#[test]
fn a_pinned_pool_works() {
    let pool = Pool::new(&PoolConfig { threads: Some(2), pin: true, spin: SPINS[1] }).unwrap();
    let count = AtomicUsize::new(0);
    pool.run(|_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), 2);
    std::thread::scope(|s| {
        s.spawn(|| pool.pin_caller().unwrap());
    });
}

#[test]
fn bandwidth_is_a_positive_rate() {
    let rate = measure_read_bandwidth(&pool(2, SPINS[1]), Kernels::best(), 8 << 20, 3);
    assert!(rate.is_finite() && rate > 1e8, "{rate}");
}
