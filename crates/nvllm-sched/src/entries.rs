//! Which entry program a step runs.

use nvllm_core::EntryId;

/// The entries that sequences were added for, in the order of their turns: the one that ran longest
/// ago is first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries(Vec<EntryId>);

impl Entries {
    /// A sequence of `entry` is added. An entry that is new goes before all that have run.
    pub(crate) fn insert(&mut self, entry: EntryId) {
        if !self.0.contains(&entry) {
            self.0.insert(0, entry);
        }
    }

    /// The entry at place `at`, if there are so many.
    pub(crate) fn get(&self, at: usize) -> Option<EntryId> {
        self.0.get(at).copied()
    }

    /// A step runs the entry at place `at`, whose turn is last from now on.
    pub(crate) fn ran(&mut self, at: usize) {
        self.0[at..].rotate_left(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ran_longest_ago_is_first() {
        let mut entries = Entries::default();
        let order = |entries: &Entries| {
            (0..).map_while(|at| entries.get(at)).map(|entry| entry.0).collect::<Vec<_>>()
        };
        entries.insert(EntryId(0));
        entries.ran(0);
        [2, 0, 1, 2].into_iter().for_each(|entry| entries.insert(EntryId(entry)));
        assert_eq!(order(&entries), [1, 2, 0]);
        entries.ran(1);
        assert_eq!(order(&entries), [1, 0, 2]);
        entries.ran(0);
        assert_eq!(order(&entries), [0, 2, 1]);
    }
}
