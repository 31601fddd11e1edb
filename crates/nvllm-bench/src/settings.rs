//! How it is measured.

use std::path::PathBuf;

use nvllm_core::{Activations, KvFormat, Numerics};

use crate::peer::Installation;
use crate::record;

/// How a model is measured.
pub struct Settings {
    /// Fewer sizes and rounds: a look, not a measurement to quote.
    pub quick: bool,
    /// Storage of values between ops.
    pub activations: Activations,
    /// Storage of keys and values.
    pub kv_format: KvFormat,
    /// Summation-order promise.
    pub numerics: Numerics,
    /// Whether tokens are found through a copy of the head in 8 bits.
    pub exact_head: bool,
    /// New tokens in one step; as many as suit the backend if not given.
    pub step_tokens: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
    /// Share of the nano-vllm set's requests and lengths; as much as fits the time if not given.
    pub scale: Option<f64>,
    /// Seconds that one case may take: larger ones are skipped.
    pub case_seconds: f64,
    /// The command line without the program.
    pub flags: Vec<String>,
    /// What was built.
    pub source: record::Source,
    /// Our version.
    pub version: String,
    /// The `nvllm` whose start is measured, with the arguments that choose backend and threads.
    pub binary: Option<Binary>,
    /// Sizes asked for; a workload's own where empty.
    pub sizes: Sizes,
    /// Peers to look for.
    pub peers: Vec<Installation>,
    /// Where they compute, as torch names it: `cpu`, `cuda:0`.
    pub peer_device: String,
    /// Where peers may keep converted weights.
    pub scratch: PathBuf,
}

/// Sizes of `decode` and `prefill`: every combination of those given is measured.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// Sequences at once.
    pub batch: Vec<usize>,
    /// Tokens of each sequence that the cache holds before a decode step.
    pub context: Vec<usize>,
    /// Tokens of each prompt.
    pub prompt_len: Vec<usize>,
}

impl Sizes {
    /// Every batch size with every length of `lens`; a size that was not given counts as `default`,
    /// and `None` where neither was.
    pub(crate) fn pairs(&self, lens: &[usize], default: (usize, usize)) -> Option<Vec<(usize, usize)>> {
        if self.batch.is_empty() && lens.is_empty() {
            return None;
        }
        let or = |given: &[usize], default| if given.is_empty() { vec![default] } else { given.to_vec() };
        let (batches, lens) = (or(&self.batch, default.0), or(lens, default.1));
        Some(lens.iter().flat_map(|&len| batches.iter().map(move |&batch| (batch, len))).collect())
    }
}

/// The executable file `nvllm`.
pub struct Binary {
    /// The executable.
    pub path: PathBuf,
    /// Arguments of `generate` that choose backend, threads and dtypes.
    pub args: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_combine() {
        let sizes = |batch: &[usize]| Sizes { batch: batch.to_vec(), ..Sizes::default() };
        assert_eq!(sizes(&[]).pairs(&[], (1, 128)), None);
        assert_eq!(sizes(&[]).pairs(&[512, 64], (1, 128)), Some(vec![(1, 512), (1, 64)]));
        assert_eq!(sizes(&[1, 8]).pairs(&[], (1, 128)), Some(vec![(1, 128), (8, 128)]));
        assert_eq!(sizes(&[2, 4]).pairs(&[16, 32], (1, 1)), Some(vec![(2, 16), (4, 16), (2, 32), (4, 32)]));
    }
}
