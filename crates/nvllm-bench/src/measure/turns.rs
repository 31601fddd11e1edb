//! In which order engines are measured.

use std::time::Duration;

/// Lets another engine come to rest: turns of ours right after a peer's were seen to run slower.
/// Why, and whether this pause is long enough, is not established.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}

/// The order in which `num` engines take their turns in a round: forwards, then backwards (ABBA).
pub(crate) fn turns(round: usize, num: usize) -> Vec<usize> {
    if round.is_multiple_of(2) { (0..num).collect() } else { (0..num).rev().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_take_turns_forwards_and_backwards() {
        assert_eq!(turns(0, 3), [0, 1, 2]);
        assert_eq!(turns(1, 3), [2, 1, 0]);
    }
}
