//! Which of an op's kernels runs a shape.

use nvllm_core::{Numerics, OrderId};

use super::Lowering;
use crate::error::Result;
use crate::launch::Launch;

/// One kernel of an op, for shapes `S`: an entry of the op's table, best first.
pub(crate) struct Way<S: 'static> {
    /// The order in which it sums.
    pub order: OrderId,
    /// Whether it takes the shape.
    pub takes: fn(&S) -> bool,
    /// Rows at most; `usize::MAX` takes any.
    pub most_rows: usize,
    /// Its launches.
    pub launch: fn(&Lowering<'_>, &S) -> Result<Vec<Launch>>,
}

/// The entries that run `shape`, ascending in their number of rows.
///
/// Under `Invariant` all of them share one order: that of the first entry that takes any number of rows.
pub(crate) fn choose<S>(table: &'static [Way<S>], shape: &S, numerics: Numerics) -> Vec<&'static Way<S>> {
    let taking = || table.iter().filter(|way| (way.takes)(shape));
    let Some(any) = taking().find(|way| way.most_rows == usize::MAX) else { return Vec::new() };
    let mut chosen: Vec<&Way<S>> = Vec::new();
    for way in taking().filter(|way| numerics == Numerics::Fast || way.order == any.order) {
        // Only what is better for fewer rows than everything before it takes.
        if chosen.iter().all(|better| better.most_rows < way.most_rows) {
            chosen.push(way);
        }
    }
    chosen
}

/// The launches of each chosen entry, by the rows that it takes at most.
pub(crate) fn ways<S>(
    lowering: &Lowering<'_>,
    table: &'static [Way<S>],
    shape: &S,
) -> Result<Vec<(usize, Vec<Launch>)>> {
    choose(table, shape, lowering.limits.numerics)
        .into_iter()
        .map(|way| Ok((way.most_rows, (way.launch)(lowering, shape)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(order: &'static str, most_rows: usize, takes: fn(&u32) -> bool) -> Way<u32> {
        Way { order: OrderId(order), takes, most_rows, launch: |_, _| Ok(Vec::new()) }
    }

    static TABLE: [Way<u32>; 5] = [
        way("a", 16, |_| true),
        way("b", 64, |_| true),
        way("a", 8, |_| true),
        way("a", usize::MAX, |&k| k % 8 == 0),
        way("b", usize::MAX, |_| true),
    ];

    fn chosen(shape: u32, numerics: Numerics) -> Vec<(&'static str, usize)> {
        choose(&TABLE, &shape, numerics).into_iter().map(|w| (w.order.0, w.most_rows)).collect()
    }

    #[test]
    fn invariant_keeps_one_order_and_fast_takes_the_best() {
        assert_eq!(chosen(8, Numerics::Invariant), [("a", 16), ("a", usize::MAX)]);
        assert_eq!(chosen(7, Numerics::Invariant), [("b", 64), ("b", usize::MAX)]);
        assert_eq!(chosen(8, Numerics::Fast), [("a", 16), ("b", 64), ("a", usize::MAX)]);
    }
}
