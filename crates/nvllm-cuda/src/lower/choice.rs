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
    /// Rows at most for a shape; `usize::MAX` takes any.
    pub most_rows: fn(&S) -> usize,
    /// Its launches.
    pub launch: fn(&Lowering<'_>, &S) -> Result<Vec<Launch>>,
}

/// [`Way::most_rows`] of what takes any number.
pub(crate) fn any_rows<S>(_: &S) -> usize {
    usize::MAX
}

/// The entries that run `shape`, ascending in their number of rows.
///
/// Under `Invariant` all of them share one order: that of the first entry that takes any number of
/// rows.
pub(crate) fn choose<S>(table: &'static [Way<S>], shape: &S, numerics: Numerics) -> Vec<&'static Way<S>> {
    let taking = || table.iter().filter(|way| (way.takes)(shape));
    let most_rows = |way: &Way<S>| (way.most_rows)(shape);
    let Some(any) = taking().find(|way| most_rows(way) == usize::MAX) else { return Vec::new() };
    let mut chosen: Vec<&Way<S>> = Vec::new();
    for way in taking().filter(|way| numerics == Numerics::Fast || way.order == any.order) {
        // Only what is better for fewer rows than everything before it takes.
        if chosen.iter().all(|better| most_rows(better) < most_rows(way)) {
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
        .map(|way| Ok(((way.most_rows)(shape), (way.launch)(lowering, shape)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(order: &'static str, most_rows: fn(&u32) -> usize, takes: fn(&u32) -> bool) -> Way<u32> {
        Way { order: OrderId(order), takes, most_rows, launch: |_, _| Ok(Vec::new()) }
    }

    static TABLE: [Way<u32>; 5] = [
        way("a", |_| 16, |_| true),
        way("b", |&k| 8 * k as usize, |_| true),
        way("a", |_| 8, |_| true),
        way("a", any_rows, |&k| k % 8 == 0),
        way("b", any_rows, |_| true),
    ];

    fn chosen(shape: u32, numerics: Numerics) -> Vec<(&'static str, usize)> {
        let chosen = choose(&TABLE, &shape, numerics).into_iter();
        chosen.map(|way| (way.order.0, (way.most_rows)(&shape))).collect()
    }

    #[test]
    fn invariant_keeps_one_order_and_fast_takes_the_best() {
        assert_eq!(chosen(8, Numerics::Invariant), [("a", 16), ("a", usize::MAX)]);
        assert_eq!(chosen(7, Numerics::Invariant), [("b", 56), ("b", usize::MAX)]);
        assert_eq!(chosen(8, Numerics::Fast), [("a", 16), ("b", 64), ("a", usize::MAX)]);
    }
}
