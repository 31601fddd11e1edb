//! The thread pool: threads take the parts of a section as they come, the caller among them.
//!
//! A decode step is some two hundred short parallel sections, a few microseconds apart. So a worker
//! that has nothing to do spins for a bounded time before it sleeps, and handing out a section
//! costs a few atomic operations and no allocation. There are no queues and no futures: a section
//! is a closure and a counter of parts. Who computes what never changes a result: kernels fix the
//! order of every sum, the pool only deals out disjoint outputs.
//!
//! No section needs a worker. One that the system lets run too late finds the [`gate`] closed and
//! is not waited for; one that stands still in the middle of a part is, and where that happens
//! often, [`pace`] goes on with fewer threads.

mod gate;
mod pace;

use crate::topology::{allowed_cpus, default_threads, pin_to, thread_time};
use crate::{CpuError, Result};
use gate::Gate;
use pace::{Clock, Pace};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Most threads of a pool.
pub const MAX_THREADS: usize = 1024;

/// How a pool is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Threads, the caller included; `None` for what affinity and quota allow.
    pub threads: Option<usize>,
    /// Whether each worker is kept on one processor of the affinity mask. The caller is not (see
    /// [`Pool::pin_caller`]).
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

/// Where one thread waits, on its own cache lines.
#[repr(align(128))]
struct Seat {
    asleep: AtomicBool,
    /// Who sleeps here.
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    gate: Gate,
    section: UnsafeCell<Section>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    seats: Box<[Seat]>,
    caller: Seat,
    spin: Duration,
}

// SAFETY: `section` is written by the caller while the gate is closed and no worker inside, and
// read by workers inside; opening and entering (acquire, release) put the first before the second,
// leaving and the caller's look for it the second before the next.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer in `section` is only followed inside, while the caller keeps
// its closure alive.
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
    turn: Mutex<Pace>,
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
        let seat = || Seat { asleep: AtomicBool::new(false), thread: Mutex::new(None) };
        let shared = Arc::new(Shared {
            gate: Gate::new(),
            section: UnsafeCell::new(Section { run: |_, _| (), data: std::ptr::null() }),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            seats: (1..threads).map(|_| seat()).collect(),
            caller: seat(),
            spin: if threads <= default_threads() { config.spin } else { Duration::ZERO },
        });
        let cpus = if config.pin { allowed_cpus() } else { Vec::new() };
        let mut pool = Self {
            shared,
            workers: Vec::with_capacity(threads - 1),
            turn: Mutex::new(Pace::new(threads, &System)),
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

    /// Keeps the calling thread on the processor that a pinned pool left free for it; nothing if
    /// the pool is not pinned.
    ///
    /// # Errors
    /// The system refusing.
    pub fn pin_caller(&self) -> Result<()> {
        let Some(cpu) = self.first_cpu else { return Ok(()) };
        pin_to(cpu).map_err(|e| CpuError::Os { what: "pinning a thread", cause: e.to_string() })
    }

    /// Calls `f(thread index, range)` for consecutive ranges of at most `chunk` that cover
    /// `0..total`, and returns when all have returned. Threads take the next range as they come; no
    /// thread index, below [`Pool::num_threads`], is in use twice at a time. `chunk` 0 counts as 1.
    /// From inside a section (nested use) all of it runs on the calling thread.
    ///
    /// # Panics
    /// With the first panic of any thread, after all have ended; other ranges may then have been
    /// left out.
    pub fn for_chunks<F: Fn(usize, Range<usize>) + Sync>(&self, total: usize, chunk: usize, f: F) {
        let chunk = chunk.max(1);
        if total <= chunk {
            if total > 0 {
                f(0, 0..total);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.section(total.div_ceil(chunk), |thread| {
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(chunk);
                if start >= total {
                    return;
                }
                f(thread, start..total.min(start + chunk));
            }
        });
    }

    /// Calls `f(row, bytes of it)` for each of the rows of `row_bytes` that fill `rows`, on all
    /// threads, some rows at a time.
    pub fn for_rows(&self, rows: &mut [u8], row_bytes: usize, f: impl Fn(usize, &mut [u8]) + Sync) {
        /// Bytes worth handing out.
        const GRAIN: usize = 64 * 1024;
        let row_bytes = row_bytes.max(1);
        let (start, num_rows) = (rows.as_mut_ptr().expose_provenance(), rows.len() / row_bytes);
        self.for_chunks(num_rows, GRAIN / row_bytes, |_, range| {
            for row in range {
                let at = std::ptr::with_exposed_provenance_mut::<u8>(start + row * row_bytes);
                // SAFETY: rows lie in the slice, which is borrowed for the call, and each is one
                // call's alone.
                f(row, unsafe { std::slice::from_raw_parts_mut(at, row_bytes) });
            }
        });
    }

    /// Calls `f(0)` on the calling thread, and `f(index)` at most once on every worker that comes
    /// before that has returned.
    fn section<F: Fn(usize) + Sync>(&self, parts: usize, f: F) {
        if self.workers.is_empty() || INSIDE.get() {
            return f(0);
        }
        let mut pace = lock(&self.turn);
        let workers = pace.threads().min(parts) - 1;
        let shared = &*self.shared;
        if workers == 0 {
            let inside = Inside::enter();
            f(0);
            drop(inside);
            return pace.done(parts, None, &System);
        }
        // SAFETY: the gate is closed and no worker inside since the last section ended.
        unsafe { *shared.section.get() = Section { run: call::<F>, data: (&raw const f).cast() } };
        shared.gate.open(workers);
        for seat in &shared.seats[..workers] {
            seat.wake();
        }
        let inside = Inside::enter();
        let own = catch_unwind(AssertUnwindSafe(|| f(0)));
        drop(inside);
        let wait = if shared.gate.close() {
            None
        } else {
            shared.caller.wait(shared.spin, || shared.gate.is_empty())
        };
        pace.done(parts, wait.map(|from| (from, Instant::now())), &System);
        let theirs = lock(&shared.panic).take();
        drop(pace);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
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
    // SAFETY: `data` is the address of the F that `section` holds on its stack until no worker is
    // inside.
    unsafe { (*data.cast::<F>())(index) }
}

/// The system's clocks.
struct System;

impl Clock for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn thread(&self) -> Option<Duration> {
        thread_time()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks a few times, so that the clock is read seldom.
fn soon(done: &impl Fn() -> bool) -> bool {
    (0..64).any(|_| {
        let is = done();
        if !is {
            std::hint::spin_loop();
        }
        is
    })
}

impl Seat {
    /// Wakes the thread of this seat if it sleeps or is about to.
    fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst)
            && self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }

    /// Returns when `done()`: spins for `spin`, then sleeps. Whoever makes `done()` true must
    /// [`Seat::wake`] afterwards: both sides are sequentially consistent, so one of the two sees
    /// the other. Gives the start of the wait if it was not over in a few looks.
    fn wait(&self, spin: Duration, done: impl Fn() -> bool) -> Option<Instant> {
        if soon(&done) {
            return None;
        }
        let start = Instant::now();
        while start.elapsed() < spin {
            if soon(&done) {
                return Some(start);
            }
        }
        *lock(&self.thread) = Some(std::thread::current());
        loop {
            self.asleep.store(true, Ordering::SeqCst);
            if done() {
                break;
            }
            std::thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
        Some(start)
    }
}

/// A worker's life.
fn work(shared: &Shared, index: usize) {
    let seat = &shared.seats[index - 1];
    let stopped = || shared.stop.load(Ordering::SeqCst);
    let mut last = 0;
    loop {
        seat.wait(shared.spin, || shared.gate.invites(index, last) || stopped());
        if stopped() {
            return;
        }
        let Some(number) = shared.gate.enter(index) else { continue };
        last = number;
        // SAFETY: inside, so the caller has written `section` and keeps it and its closure.
        let section = unsafe { *shared.section.get() };
        let inside = Inside::enter();
        // SAFETY: `data` belongs to `run`; both were written together.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (section.run)(section.data, index) }));
        drop(inside);
        if let Err(payload) = outcome {
            lock(&shared.panic).get_or_insert(payload);
        }
        if shared.gate.leave() {
            shared.caller.wake();
        }
    }
}
