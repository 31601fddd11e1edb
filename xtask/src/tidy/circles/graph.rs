//! Shortest circles among arrows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::modules::Arrow;

/// The arrows between files, one for each pair.
pub(super) struct Graph<'a> {
    from: BTreeMap<&'a str, BTreeMap<&'a str, &'a Arrow>>,
}

impl<'a> Graph<'a> {
    /// The graph of these arrows; of several between two files, the first.
    pub(super) fn new(arrows: impl IntoIterator<Item = &'a Arrow>) -> Self {
        let mut from: BTreeMap<&str, BTreeMap<&str, &Arrow>> = BTreeMap::new();
        for arrow in arrows {
            from.entry(&arrow.from).or_default().entry(&arrow.to).or_insert(arrow);
        }
        Self { from }
    }

    /// The fewest arrows that lead from `from` to `to`, one at least.
    pub(super) fn route(&self, from: &str, to: &str) -> Option<Vec<&'a Arrow>> {
        let mut reached: BTreeMap<&str, &Arrow> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(file) = queue.pop_front() {
            for (next, arrow) in self.from.get(file).into_iter().flatten() {
                if reached.contains_key(next) {
                    continue;
                }
                reached.insert(next, arrow);
                if *next == to {
                    let mut route = vec![*arrow];
                    while route[route.len() - 1].from != from {
                        route.push(reached[route[route.len() - 1].from.as_str()]);
                    }
                    route.reverse();
                    return Some(route);
                }
                queue.push_back(next);
            }
        }
        None
    }

    /// A shortest circle through every file that lies on one, each once, beginning with its first
    /// file by name.
    pub(super) fn circles(&self) -> Vec<Vec<&'a Arrow>> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for file in self.from.keys() {
            let Some(mut circle) = self.route(file, file) else { continue };
            let first = (0..circle.len()).min_by_key(|&at| &circle[at].from).unwrap_or(0);
            circle.rotate_left(first);
            if seen.insert(circle.iter().map(|arrow| arrow.from.as_str()).collect::<Vec<_>>()) {
                found.push(circle);
            }
        }
        found
    }
}
