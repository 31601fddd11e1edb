//! Which of an op's kernels runs a shape.

use nvllm_core::{Numerics, OrderId};

use super::Lowering;
use crate::error::Result;
use crate::launch::Launch;

/// One kernel that an op may run, for shapes `S`: an entry of the op's table, best first.
pub(crate) struct KernelCandidate<S: 'static> {
    /// The order in which it sums.
    pub order: OrderId,
    /// Whether it takes the shape.
    pub takes: fn(&S) -> bool,
    /// Rows at most for a shape; `usize::MAX` takes any.
    pub most_rows: fn(&S) -> usize,
    /// Its launches.
    pub launch: fn(&Lowering<'_>, &S) -> Result<Vec<Launch>>,
}

/// [`KernelCandidate::most_rows`] of what takes any number.
pub(crate) fn any_rows<S>(_: &S) -> usize {
    usize::MAX
}

/// The candidates that run `shape`, ascending in their number of rows.
///
/// Under `Invariant` all of them share one order: that of the first candidate that takes any number
/// of rows.
pub(crate) fn choose<S>(
    table: &'static [KernelCandidate<S>],
    shape: &S,
    numerics: Numerics,
) -> Vec<&'static KernelCandidate<S>> {
    let taking = || table.iter().filter(|candidate| (candidate.takes)(shape));
    let most_rows = |candidate: &KernelCandidate<S>| (candidate.most_rows)(shape);
    let Some(any) = taking().find(|candidate| most_rows(candidate) == usize::MAX) else { return Vec::new() };
    let mut chosen: Vec<&KernelCandidate<S>> = Vec::new();
    for candidate in taking().filter(|candidate| numerics == Numerics::Fast || candidate.order == any.order) {
        // Only what is better for fewer rows than everything before it takes.
        if chosen.iter().all(|better| most_rows(better) < most_rows(candidate)) {
            chosen.push(candidate);
        }
    }
    chosen
}

/// What was chosen for some numbers of rows of a node.
#[derive(Clone)]
pub(crate) struct Chosen {
    /// Rows at most.
    pub most_rows: usize,
    /// The order in which it sums.
    pub order: OrderId,
    pub launches: Vec<Launch>,
}

impl Chosen {
    /// For any number of rows.
    pub(crate) const fn any(order: OrderId, launches: Vec<Launch>) -> Self {
        Self { most_rows: usize::MAX, order, launches }
    }
}

/// The chosen candidates with their launches.
pub(crate) fn candidate_launches<S>(
    lowering: &Lowering<'_>,
    table: &'static [KernelCandidate<S>],
    shape: &S,
) -> Result<Vec<Chosen>> {
    let one = |candidate: &KernelCandidate<S>| {
        let (most_rows, order) = ((candidate.most_rows)(shape), candidate.order);
        Ok(Chosen { most_rows, order, launches: (candidate.launch)(lowering, shape)? })
    };
    choose(table, shape, lowering.limits.numerics).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn candidate(
        order: &'static str,
        most_rows: fn(&u32) -> usize,
        takes: fn(&u32) -> bool,
    ) -> KernelCandidate<u32> {
        KernelCandidate { order: OrderId(order), takes, most_rows, launch: |_, _| Ok(Vec::new()) }
    }

    static TABLE: [KernelCandidate<u32>; 5] = [
        candidate("a", |_| 16, |_| true),
        candidate("b", |&k| 8 * k as usize, |_| true),
        candidate("a", |_| 8, |_| true),
        candidate("a", any_rows, |&k| k % 8 == 0),
        candidate("b", any_rows, |_| true),
    ];

    fn chosen(shape: u32, numerics: Numerics) -> Vec<(&'static str, usize)> {
        let chosen = choose(&TABLE, &shape, numerics).into_iter();
        chosen.map(|candidate| (candidate.order.0, (candidate.most_rows)(&shape))).collect()
    }

    #[test]
    fn invariant_keeps_one_order_and_fast_takes_the_best() {
        assert_eq!(chosen(8, Numerics::Invariant), [("a", 16), ("a", usize::MAX)]);
        assert_eq!(chosen(7, Numerics::Invariant), [("b", 56), ("b", usize::MAX)]);
        assert_eq!(chosen(8, Numerics::Fast), [("a", 16), ("b", 64), ("a", usize::MAX)]);
    }
}
