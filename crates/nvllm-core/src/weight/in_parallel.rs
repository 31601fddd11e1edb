//! Work of loading, shared among threads that live as long as it.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, available_parallelism, scope};

/// Calls `work` for each item, on as many threads as there are processors. One of them is the
/// caller's, which does alone what no thread can be started for.
///
/// A thread takes some ten microseconds to start: an item is worth it if it takes ten times that.
pub fn in_parallel<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync) {
    // Asking for the processors takes as long as small items.
    let threads = if items.len() > 1 { available_parallelism().map_or(1, NonZero::get) } else { 1 };
    let threads = threads.min(items.len());
    let queue = Mutex::new(items.into_iter());
    // A worker that panics has taken its item from the queue.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::in_parallel;

    #[test]
    fn each_item_is_worked_on_once() {
        for len in [0, 1, 2, 1000] {
            let counts: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            in_parallel(counts.iter().collect(), |count| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{len} items");
        }
    }
}
