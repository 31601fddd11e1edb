//! Panics of a library, turned into errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is caught and told in our words.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Wraps whatever hook the program has set until now: its own panics are told as before.
fn install() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !CONTAINED.get() {
            hook(panic);
        }
    }));
}

/// Runs what may panic inside a library. `None` if it does; nothing is printed then, as the panic's
/// place in the library's source says nothing to a user. The values that `run` borrows must be
/// thrown away after `None`.
pub(crate) fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(install);
    let outer = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CONTAINED.set(outer);
    result.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn contained_panics_are_quiet_and_others_are_not() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&told);
        let before = std::panic::take_hook();
        // Other tests of this process may panic in between, and are not counted.
        let this = std::thread::current().id();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().id() == this {
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                before(panic);
            }
        }));
        install();
        assert_eq!(contained(|| 7), Some(7));
        assert_eq!(
            contained(|| -> u32 {
                contained(|| -> () { panic!("inner") }).map_or_else(|| panic!("outer"), |()| 7)
            }),
            None
        );
        assert_eq!(told.load(Ordering::SeqCst), 0);
        assert!(catch_unwind(|| panic!("ours")).is_err());
        assert_eq!(told.load(Ordering::SeqCst), 1);
    }
}
