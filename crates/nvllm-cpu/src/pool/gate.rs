//! The gate of a section: which section it is, which workers may enter, how many are inside.
//!
//! All three are one word, so that entering and closing exclude each other: once the caller has
//! closed the gate, no worker comes in, and when none is inside the section is over. A worker that
//! the system has not let run by then is not waited for.

use std::sync::atomic::{AtomicU64, Ordering};

/// Workers inside: bits 0 to 15. Workers that may enter, 0 if closed: bits 16 to 31. Number of the
/// section: the upper half. On cache lines of its own, because workers that have nothing to do read
/// it all the time.
#[repr(align(128))]
pub(super) struct Gate(AtomicU64);

const INSIDE: u64 = 0xffff;
const OPEN: u64 = 0xffff << 16;
const NEXT: u64 = 1 << 32;

/// Number of the section in a word of the gate.
fn number(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Whether worker `index` (from 1) may enter.
fn admits(word: u64, index: usize) -> bool {
    index as u64 <= (word & OPEN) >> 16
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Opens the next section to workers 1 to `workers`. The caller's, when the last section is
    /// over.
    pub(super) fn open(&self, workers: usize) {
        let last = self.0.load(Ordering::Relaxed);
        debug_assert_eq!(last & (INSIDE | OPEN), 0, "a section was left open");
        self.0.store((last & !(INSIDE | OPEN)).wrapping_add(NEXT) | (workers as u64) << 16, Ordering::SeqCst);
    }

    /// Lets no one else in; whether no one is inside.
    pub(super) fn close(&self) -> bool {
        self.0.fetch_and(!OPEN, Ordering::SeqCst) & INSIDE == 0
    }

    /// Whether no worker is inside.
    pub(super) fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst) & INSIDE == 0
    }

    /// Whether worker `index` may enter a section other than the one it was in last.
    pub(super) fn invites(&self, index: usize, last: u32) -> bool {
        let word = self.0.load(Ordering::SeqCst);
        number(word) != last && admits(word, index)
    }

    /// Enters the open section, if it still is open to worker `index`, and gives its number.
    pub(super) fn enter(&self, index: usize) -> Option<u32> {
        let enter = |word| admits(word, index).then_some(word + 1);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).ok().map(number)
    }

    /// Leaves; whether this worker was the last inside of a closed section, for whose end the
    /// caller waits.
    pub(super) fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) & (OPEN | INSIDE) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_without_workers_is_over_when_closed() {
        let gate = Gate::new();
        gate.open(2);
        assert!(gate.invites(1, 0) && gate.invites(2, 0) && !gate.invites(3, 0));
        assert!(gate.close());
        assert!(!gate.invites(1, 0));
        assert_eq!(gate.enter(1), None, "too late");
        assert!(gate.is_empty());
    }

    #[test]
    fn the_last_worker_of_a_closed_section_ends_it() {
        let gate = Gate::new();
        gate.open(2);
        assert_eq!((gate.enter(1), gate.enter(2), gate.enter(3)), (Some(1), Some(1), None));
        assert!(!gate.leave(), "the section is open: the caller does not wait");
        assert!(!gate.invites(1, 1), "once for each section");
        assert!(!gate.close());
        assert!(!gate.is_empty());
        assert!(gate.leave());
        assert!(gate.is_empty());
        gate.open(1);
        assert!(gate.invites(1, 1) && !gate.invites(2, 1));
        assert!(gate.close());
    }

    #[test]
    fn section_numbers_wrap() {
        let gate = Gate(AtomicU64::new(!(INSIDE | OPEN)));
        gate.open(1);
        assert!(gate.invites(1, u32::MAX));
        assert_eq!(gate.enter(1), Some(0));
        assert!(!gate.close());
        assert!(gate.leave());
    }
}
