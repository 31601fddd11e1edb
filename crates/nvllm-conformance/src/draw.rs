//! Deterministic random numbers for contents that need no shrinking: weights, tokens, placements.

use nvllm_core::sampling::philox4x32;

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    seed: u64,
    at: u64,
}

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// The stream of `seed` that belongs to `index`: a function of both, so that it can be entered
    /// anywhere.
    pub(crate) fn at(seed: u64, index: [u32; 2]) -> Self {
        let [a, b, ..] = philox4x32(seed, [index[0], index[1], 1, 1]);
        Self::new(u64::from(a) << 32 | u64::from(b))
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.at += 1;
        philox4x32(self.seed, [self.at as u32, (self.at >> 32) as u32, 0, 0])[0]
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.word()) * n as u64) >> 32) as usize
    }

    /// Mean 0, variance 1: two uniforms, triangular, inside +-2.45.
    pub(crate) fn unit(&mut self) -> f32 {
        let word = self.word();
        ((word & 0xffff) as f32 + (word >> 16) as f32 - 65_535.0) / 65_535.0 * 6_f32.sqrt()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `total` as `parts` positive numbers; fewer parts if `total` is small.
    pub(crate) fn split(&mut self, total: usize, parts: usize) -> Vec<usize> {
        let mut cuts: Vec<_> = (1..total).collect();
        self.shuffle(&mut cuts);
        cuts.truncate(parts.saturating_sub(1));
        cuts.sort_unstable();
        let ends = cuts.iter().copied().chain([total]);
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        ends.zip(starts).map(|(end, start)| end - start).filter(|&n| n > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_positive_and_complete() {
        for (total, parts) in [(1, 5), (5, 5), (19, 3), (989, 4), (7, 1)] {
            let split = Draw::new(3).split(total, parts);
            assert_eq!(split.iter().sum::<usize>(), total);
            assert_eq!(split.len(), parts.min(total));
            assert!(split.iter().all(|&n| n > 0));
        }
    }
}
