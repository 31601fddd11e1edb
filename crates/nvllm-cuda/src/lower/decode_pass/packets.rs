//! Places of the packets by which blocks hand values to each other.

use std::ops::Range;

/// Bytes of a value of so many columns as packets: two elements and a tag in 8 bytes.
pub(super) const fn packet_bytes(cols: usize) -> usize {
    (cols * 4).next_multiple_of(128)
}

/// A value of a pass: the phase that writes it, the last that reads it, and how large it is.
pub(super) struct Life {
    pub phases: Range<usize>,
    pub bytes: usize,
}

/// Phases between the last reader of a place and its next writer at least. A block may write in a
/// phase while others still read in the one before; that all have read in the one before that, its
/// own inputs say.
const APART: usize = 2;

/// The offset of each value, and the bytes of all. Values are in the order in which they are
/// written.
pub(super) fn places(values: &[Life]) -> (Vec<usize>, usize) {
    // Of each place: its offset and size, and the last phase that reads it.
    let mut all: Vec<(usize, usize, usize)> = Vec::new();
    let mut bytes = 0;
    let mut place = |value: &Life| {
        let free = |(_, size, last): &&mut (usize, usize, usize)| {
            *size >= value.bytes && *last + APART < value.phases.start
        };
        if let Some(place) = all.iter_mut().filter(free).min_by_key(|place| place.1) {
            place.2 = value.phases.end;
            return place.0;
        }
        all.push((bytes, value.bytes, value.phases.end));
        bytes += value.bytes.next_multiple_of(128);
        all[all.len() - 1].0
    };
    (values.iter().map(&mut place).collect(), bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_place_is_written_before_its_readers_are_done(
            values in prop::collection::vec((1_usize..4, 1_usize..8, 1_usize..2000), 1..40),
        ) {
            let mut at = 0;
            let lives: Vec<_> = values
                .iter()
                .map(|&(step, len, bytes)| {
                    at += step;
                    Life { phases: at..at + len, bytes }
                })
                .collect();
            let (offsets, bytes) = places(&lives);
            for (i, (a, from)) in lives.iter().zip(&offsets).enumerate() {
                prop_assert!(from % 128 == 0 && from + a.bytes <= bytes);
                for (b, to) in lives[i + 1..].iter().zip(&offsets[i + 1..]) {
                    let apart = from + a.bytes <= *to || to + b.bytes <= *from;
                    prop_assert!(apart || a.phases.end + APART < b.phases.start);
                }
            }
        }
    }

    #[test]
    fn a_place_serves_layer_after_layer() {
        let layer = |n| [(n, n + 1), (n + 1, n + 3), (n + 3, n + 5), (n + 4, n + 5), (n + 5, n + 9)];
        let lives =
            (0..20).flat_map(|i| layer(6 * i)).map(|(from, to)| Life { phases: from..to, bytes: 1024 });
        let (_, bytes) = places(&lives.collect::<Vec<_>>());
        assert!(bytes <= 7 * 1024, "{bytes}");
    }
}
