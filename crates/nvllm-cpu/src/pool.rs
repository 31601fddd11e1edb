//! The thread pool: every thread runs the same closure once, the caller among them.
//!
//! A decode step is some two hundred short parallel sections, a few microseconds apart. So a worker that has nothing to do spins
//! for a bounded time before it sleeps, and handing out a section costs two atomic operations and no allocation. There are no
//! queues and no futures: a section is a closure and an index per thread. Who computes what never changes a result: kernels fix
//! the order of every sum, the pool only deals out disjoint outputs.

use crate::topology::{allowed_cpus, default_threads, pin_to};
use crate::{CpuError, Result};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Most threads of a pool.
pub const MAX_THREADS: usize = 1024;

/// How a pool is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Threads, the caller included; `None` for what affinity and quota allow.
    pub threads: Option<usize>,
    /// Whether each worker is kept on one processor of the affinity mask. The caller is not (see [`Pool::pin_caller`]).
    pub pin: bool,
    /// How long an idle thread spins before it sleeps.
    pub spin: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { threads: None, pin: false, spin: Duration::from_micros(100) }
    }
}

/// A section: a closure by address, its lifetime erased.
#[derive(Clone, Copy)]
struct Section {
    run: unsafe fn(*const (), usize),
    data: *const (),
}

/// State of one worker, on its own cache lines.
#[repr(align(128))]
struct Seat {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

struct Shared {
    /// Counts sections: a change is the signal to run.
    epoch: AtomicUsize,
    section: UnsafeCell<Section>,
    /// Workers that have not finished the section.
    left: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    seats: Box<[Seat]>,
    caller: Seat,
    caller_thread: Mutex<Option<Thread>>,
    spin: Duration,
}

// SAFETY: `section` is written by the caller before it raises `epoch` (release) and read by workers after they saw the new epoch
// (acquire); the next write happens only after `left` reached zero, which every reader lowers after its last use.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer in `section` is only followed while the caller keeps its closure alive in `Pool::run`.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a section.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Marks the thread as inside a section until dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// A fixed set of threads. See the module's text.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a section: two callers take turns.
    turn: Mutex<()>,
    first_cpu: Option<usize>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.num_threads())
    }
}

impl Pool {
    /// Starts a pool of its own.
    ///
    /// # Errors
    /// A thread count of 0 or above [`MAX_THREADS`]; the system refusing a thread or a processor.
    pub fn new(config: &PoolConfig) -> Result<Self> {
        let threads = config.threads.unwrap_or_else(|| default_threads().min(MAX_THREADS));
        if threads == 0 || threads > MAX_THREADS {
            return Err(CpuError::BadThreads { asked: threads, max: MAX_THREADS });
        }
        let seat = || Seat { asleep: AtomicBool::new(false), thread: OnceLock::new() };
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            section: UnsafeCell::new(Section { run: |_, _| (), data: std::ptr::null() }),
            left: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            seats: (1..threads).map(|_| seat()).collect(),
            caller: seat(),
            caller_thread: Mutex::new(None),
            spin: if threads <= default_threads() { config.spin } else { Duration::ZERO },
        });
        let cpus = if config.pin { allowed_cpus() } else { Vec::new() };
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
            turn: Mutex::new(()),
            first_cpu: cpus.first().copied(),
        };
        for index in 1..threads {
            pool.start_worker(index, cpus.get(index % cpus.len().max(1)).copied())?;
        }
        Ok(pool)
    }

    fn start_worker(&mut self, index: usize, cpu: Option<usize>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let (report, pinned) = std::sync::mpsc::channel();
        let body = move || {
            let outcome = cpu.map_or(Ok(()), pin_to);
            let ready = outcome.is_ok();
            let _ = report.send(outcome);
            if ready {
                work(&shared, index);
            }
        };
        let os = |what| move |e: std::io::Error| CpuError::Os { what, cause: e.to_string() };
        let handle = std::thread::Builder::new()
            .name(format!("nvllm-cpu-{index}"))
            .spawn(body)
            .map_err(os("starting a thread"))?;
        let _ = self.shared.seats[index - 1].thread.set(handle.thread().clone());
        self.workers.push(handle);
        let lost = || Err(std::io::Error::other("the thread ended"));
        pinned.recv().unwrap_or_else(|_| lost()).map_err(os("pinning a thread"))
    }

    /// The pool of this process, started by the first call.
    ///
    /// # Errors
    /// As [`Pool::new`]; [`CpuError::PoolMismatch`] where it exists with another number of threads.
    pub fn of_process(config: &PoolConfig) -> Result<Arc<Self>> {
        static POOL: Mutex<Option<Arc<Pool>>> = Mutex::new(None);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = &*pool {
            let have = pool.num_threads();
            return match config.threads {
                Some(asked) if asked != have => Err(CpuError::PoolMismatch { have, asked }),
                _ => Ok(Arc::clone(pool)),
            };
        }
        let new = Arc::new(Self::new(config)?);
        *pool = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Threads, the caller included.
    pub fn num_threads(&self) -> usize {
        self.shared.seats.len() + 1
    }

    /// Keeps the calling thread on the processor that a pinned pool left free for it; nothing if the pool is not pinned.
    ///
    /// # Errors
    /// The system refusing.
    pub fn pin_caller(&self) -> Result<()> {
        let Some(cpu) = self.first_cpu else { return Ok(()) };
        pin_to(cpu).map_err(|e| CpuError::Os { what: "pinning a thread", cause: e.to_string() })
    }

    /// Calls `f(index)` once for every index below [`Pool::num_threads`], index 0 on the calling thread, and returns when all
    /// have returned. From inside a section (nested use) it calls them one after the other on the calling thread.
    ///
    /// # Panics
    /// With the first panic of any of them, after all have ended.
    pub fn run<F: Fn(usize) + Sync>(&self, f: F) {
        if self.workers.is_empty() || INSIDE.get() {
            for index in 0..self.num_threads() {
                f(index);
            }
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        *lock(&shared.caller_thread) = Some(std::thread::current());
        // SAFETY: no worker reads `section` now: `left` is zero since the last section ended and the epoch has not moved.
        unsafe { *shared.section.get() = Section { run: call::<F>, data: (&raw const f).cast() } };
        shared.left.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::SeqCst);
        for seat in &shared.seats {
            seat.wake();
        }
        let inside = Inside::enter();
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        drop(inside);
        shared.caller.wait(shared.spin, || shared.left.load(Ordering::SeqCst) == 0);
        let theirs = lock(&shared.panic).take();
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Calls `f(thread index, range)` for consecutive ranges of at most `chunk` that cover `0..total`; threads take the next range
    /// as they come. `chunk` 0 counts as 1.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn for_chunks<F: Fn(usize, Range<usize>) + Sync>(&self, total: usize, chunk: usize, f: F) {
        let chunk = chunk.max(1);
        if total <= chunk {
            if total > 0 {
                f(0, 0..total);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(|thread| {
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(chunk);
                if start >= total {
                    return;
                }
                f(thread, start..total.min(start + chunk));
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for seat in &self.shared.seats {
            seat.wake();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Calls the closure at `data`.
unsafe fn call<F: Fn(usize) + Sync>(data: *const (), index: usize) {
    // SAFETY: `data` is the address of the F that `run` holds on its stack until every worker has finished.
    unsafe { (*data.cast::<F>())(index) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seat {
    /// Wakes the worker of this seat if it sleeps or is about to.
    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Returns when `done()`: spins for `spin`, then parks. Whoever makes `done()` true must look at `asleep` afterwards (both
    /// sequentially consistent, so one of the two sees the other) and unpark.
    fn wait(&self, spin: Duration, done: impl Fn() -> bool) {
        let mut start = None;
        loop {
            for _ in 0..64 {
                if done() {
                    return;
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if now.duration_since(*start.get_or_insert(now)) >= spin {
                break;
            }
        }
        self.asleep.store(true, Ordering::SeqCst);
        while !done() {
            std::thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let seat = &shared.seats[index - 1];
    let mut seen = 0;
    loop {
        seat.wait(shared.spin, || shared.epoch.load(Ordering::SeqCst) != seen);
        seen += 1;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: the epoch moved, so the caller has written `section` and keeps it and its closure until `left` is zero.
        let section = unsafe { *shared.section.get() };
        let inside = Inside::enter();
        // SAFETY: `data` belongs to `run`; both were written together.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (section.run)(section.data, index) }));
        drop(inside);
        if let Err(payload) = outcome {
            lock(&shared.panic).get_or_insert(payload);
        }
        if shared.left.fetch_sub(1, Ordering::SeqCst) == 1 && shared.caller.asleep.load(Ordering::SeqCst) {
            let thread = lock(&shared.caller_thread).clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }
}
