//! What is varied.

use nvllm_core::{KvGeometry, Limits};

use super::cases::Cases;
use super::options::VerifyOptions;
use super::proof::Proof;
use super::run::Submission;
use crate::options::kv_bytes;
use crate::{LoadOptions, Model, Result};

/// Sequences at once, at most: as many as there are requests up to this.
const MAX_SEQS: usize = 256;

/// A row of the table.
pub(super) struct Variation {
    pub varied: String,
    pub submission: Submission,
    pub proof: Proof,
}

/// Variations of a model that is loaded in one way.
pub(super) struct Setup {
    pub load: LoadOptions,
    /// Whether the KV cache holds one full sequence only: short ones begin together in it and have
    /// to give way.
    pub one_sequence: bool,
    pub variations: Vec<Variation>,
}

/// How the baseline is loaded: one step in flight, nothing reused.
pub(super) fn alone(cases: &Cases, options: &VerifyOptions) -> LoadOptions {
    let default = LoadOptions::default();
    LoadOptions {
        // Room for the choices of one request, and for the set without a wait.
        max_num_seqs: Some(cases.requests.len().clamp(4, MAX_SEQS)),
        max_model_len: Some(cases.context),
        // A scored prompt is one step too.
        max_num_logits: cases.scored_len,
        max_in_flight: Some(1),
        enable_prefix_caching: false,
        max_queued_requests: default.max_queued_requests.max(8 * cases.requests.len()),
        max_queued_prompt_tokens: usize::MAX,
        tenants: default.tenants,
        ..options.load.clone()
    }
}

/// All variations, by how the model is loaded. The first setup is the baseline's.
pub(super) fn all(alone: &LoadOptions, options: &VerifyOptions) -> Vec<Setup> {
    let (chunks, blocks): (&[usize], &[usize]) =
        if options.quick { (&[5], &[3]) } else { (&[1, 5, 64], &[3, 16, 64]) };
    let row = |varied: &str, submission, proof| Variation { varied: varied.into(), submission, proof };
    let setup = |load, variations| Setup { load, one_sequence: false, variations };
    let mut setups = vec![setup(
        alone.clone(),
        vec![
            row("all at once", Submission::Together, Proof::Batched),
            row("all at once, in another order", Submission::Shuffled, Proof::Batched),
        ],
    )];
    for &chunk in chunks {
        let load = LoadOptions { max_num_batched_tokens: Some(chunk), ..alone.clone() };
        setups.push(setup(load, vec![row(&format!("steps of {chunk}"), Submission::Alone, Proof::Chunked)]));
    }
    for &block_size in blocks.iter().filter(|size| **size != alone.block_size) {
        let load = LoadOptions { block_size, ..alone.clone() };
        setups.push(setup(
            load,
            vec![row(&format!("blocks of {block_size}"), Submission::Alone, Proof::Loaded)],
        ));
    }
    let in_flight = LoadOptions { max_in_flight: Some(3), ..alone.clone() };
    let stopped = row("3 steps in flight", Submission::Stopped, Proof::InFlight);
    setups.push(setup(in_flight.clone(), vec![stopped]));
    // Prefixes are taken over by whole blocks.
    let block_size = alone.block_size.min(16);
    setups.push(setup(
        LoadOptions { enable_prefix_caching: true, block_size, ..alone.clone() },
        vec![
            row("prefix cache", Submission::Twice, Proof::Cached),
            row("several choices", Submission::Choices, Proof::Cached),
            row("companions come and go", Submission::Companions, Proof::Companions),
        ],
    ));
    // Blocks that a few tokens fill, so that those who run need more of them soon.
    setups.push(Setup {
        load: LoadOptions { block_size: alone.block_size.min(4), ..alone.clone() },
        one_sequence: true,
        variations: vec![row("preemption", Submission::Together, Proof::Preempted)],
    });
    let (block_size, max_num_batched_tokens) = (3, Some(24));
    setups.push(Setup {
        load: LoadOptions { enable_prefix_caching: true, block_size, max_num_batched_tokens, ..in_flight },
        one_sequence: true,
        variations: vec![row("all of these", Submission::Companions, Proof::PreemptedAndCached)],
    });
    setups
}

impl Setup {
    /// Whether prompts are cut otherwise than in a baseline of these limits, where that is what is
    /// varied: a device that only small steps suit cuts them itself.
    pub(super) fn differs(&self, baseline: &Limits) -> bool {
        let chunked = self.variations.iter().any(|variation| matches!(variation.proof, Proof::Chunked));
        !chunked || self.load.max_num_batched_tokens.is_none_or(|chunk| chunk < baseline.step_tokens)
    }

    /// How the model is loaded, given the limits of the baseline.
    pub(super) fn load(&self, model: &Model, limits: &Limits) -> Result<LoadOptions> {
        let options = self.load.clone();
        if !self.one_sequence {
            return Ok(options);
        }
        let limits = Limits { block_len: options.block_size, ..limits.clone() };
        let block_bytes =
            KvGeometry::bytes_of_block(&model.spec.kv, &limits).map_err(|e| options.named(e))?;
        Ok(LoadOptions { kv_cache_bytes: Some(kv_bytes(1, &limits, block_bytes)), ..options })
    }
}
