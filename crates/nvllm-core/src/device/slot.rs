//! What a device keeps of each sequence beside the KV cache: its last token and how it is sampled.

use bytemuck::{Pod, Zeroable};

use crate::{SamplingParams, SlotReset};

/// One sequence's state, from its admission to its end. Fields are those of [`SamplingParams`]
/// unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Zeroable, Pod)]
#[repr(C)]
#[allow(missing_docs, reason = "SamplingParams documents them")]
pub struct DeviceSlot {
    /// The last token that was sampled or brought.
    pub last_token: i32,
    /// Tokens of output so far.
    pub output_len: i32,
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub choice: u32,
    pub seed: u64,
    pub min_tokens: u32,
    /// Entries of its list of biases.
    pub num_biases: u32,
    /// Entries of its list of stop tokens.
    pub num_stops: u32,
    /// Whether penalties ask for the counts of tokens.
    pub uses_counts: u32,
}

const _: () = assert!(size_of::<DeviceSlot>() == 64);

/// A slot's new state.
#[derive(Clone, Copy, Debug, PartialEq, Zeroable, Pod)]
#[repr(C)]
pub struct DeviceReset {
    /// The slot.
    pub slot: u32,
    /// To 16 bytes.
    pub padding: [u32; 3],
    /// Its state.
    pub state: DeviceSlot,
}

const _: () = assert!(size_of::<DeviceReset>() == 80);

impl DeviceReset {
    /// What `reset` puts into its slot.
    pub fn new(reset: &SlotReset) -> Self {
        let SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            choice,
            min_tokens,
            ..
        } = *reset.sampling;
        let last = reset.output.last().or(reset.prompt.last()).copied().unwrap_or_default();
        let state = DeviceSlot {
            last_token: last.0 as i32,
            output_len: reset.output.len() as i32,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            choice,
            seed,
            min_tokens,
            num_biases: reset.sampling.logit_bias.len() as u32,
            num_stops: reset.sampling.stop_tokens.len() as u32,
            uses_counts: u32::from(reset.sampling.needs_counts()),
        };
        Self { slot: reset.slot.0, padding: [0; 3], state }
    }
}
