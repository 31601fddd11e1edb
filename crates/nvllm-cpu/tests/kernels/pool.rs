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

/// Every chunk of 1 of `0..total`, as [`Pool::for_chunks`] gives them.
fn each(pool: &Pool, total: usize, f: impl Fn(usize, usize) + Sync) {
    pool.for_chunks(total, 1, |thread, range| {
        assert_eq!(range.len(), 1);
        f(thread, range.start);
    });
}

#[test]
fn every_part_runs_once_and_no_thread_index_twice_at_a_time() {
    for spin in SPINS {
        for threads in 1..=5 {
            let pool = pool(threads, spin);
            assert_eq!(pool.num_threads(), threads);
            let caller = std::thread::current().id();
            for _ in 0..200 {
                let seen = Mutex::new(vec![0; 2 * threads]);
                let busy: Vec<Mutex<()>> = (0..threads).map(|_| Mutex::default()).collect();
                each(&pool, 2 * threads, |thread, part| {
                    let _alone = busy[thread].try_lock().unwrap();
                    assert_eq!(thread == 0, std::thread::current().id() == caller);
                    seen.lock().unwrap()[part] += 1;
                });
                assert_eq!(seen.into_inner().unwrap(), vec![1; 2 * threads]);
            }
        }
    }
}

/// Where a signal keeps a thread, as a busy machine may, until it is let go.
#[cfg(unix)]
static HELD: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(unix)]
extern "C" fn stand_still(_: libc::c_int) {
    while HELD.load(Ordering::SeqCst) {
        std::hint::spin_loop();
    }
}

#[test]
#[cfg(unix)]
fn a_worker_that_stands_still_between_sections_holds_up_nobody() {
    let pool = std::sync::Arc::new(pool(2, SPINS[1]));
    let worker = Mutex::new(None);
    while worker.lock().unwrap().is_none() {
        each(&pool, 64, |thread, _| {
            if thread == 1 {
                // SAFETY: asks for the calling thread's own name.
                *worker.lock().unwrap() = Some(unsafe { libc::pthread_self() });
            }
        });
    }
    HELD.store(true, Ordering::SeqCst);
    let handler: extern "C" fn(libc::c_int) = stand_still;
    // SAFETY: the handler reads an atomic and nothing else; the worker lives as long as the pool.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::pthread_kill(worker.into_inner().unwrap().unwrap(), libc::SIGUSR1);
    }
    let (tell, done) = std::sync::mpsc::channel();
    let caller = std::sync::Arc::clone(&pool);
    std::thread::spawn(move || {
        // More sections than could end before the signal arrives.
        let end = std::time::Instant::now() + Duration::from_millis(100);
        let mut sums = Vec::new();
        while std::time::Instant::now() < end {
            let sum = AtomicUsize::new(0);
            each(&caller, 10, |_, part| {
                sum.fetch_add(part, Ordering::Relaxed);
            });
            sums.push(sum.into_inner());
        }
        tell.send(sums).unwrap();
    });
    let sums = done.recv_timeout(Duration::from_mins(1));
    HELD.store(false, Ordering::SeqCst);
    assert!(sums.expect("the sections must end without the worker").iter().all(|&sum| sum == 45));
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
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                each(&pool, 3, |_, part| assert!(part != victim, "planted in {part}"));
            }));
            let payload = outcome.expect_err("the panic must come through");
            let message = payload.downcast_ref::<String>().cloned().unwrap_or_default();
            assert_eq!(message, format!("planted in {victim}"));
        }
        let sum = AtomicUsize::new(0);
        each(&pool, 3, |_, part| {
            sum.fetch_add(part + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 6);
    }
}

#[test]
fn nested_use_runs_on_the_calling_thread() {
    let pool = pool(3, SPINS[1]);
    let count = AtomicUsize::new(0);
    each(&pool, 3, |_, _| {
        let outer = std::thread::current().id();
        each(&pool, 3, |_, _| {
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
                    each(&pool, 4, |thread, _| {
                        if thread == 0 {
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
    let mut workers = 0;
    for i in 0..300 {
        if i % 3 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        let (count, others) = (AtomicUsize::new(0), AtomicUsize::new(0));
        each(&pool, 8, |thread, part| {
            if part % 4 == i % 4 {
                std::thread::sleep(Duration::from_micros(30));
            }
            others.fetch_add(usize::from(thread > 0), Ordering::Relaxed);
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 8);
        workers += others.into_inner();
    }
    assert!(workers > 0, "no worker ever woke");
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
    each(&pool, 2, |_, _| {
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
