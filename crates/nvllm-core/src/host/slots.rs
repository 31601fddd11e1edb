//! Per-slot state of host backends: what a device would keep beside the KV cache.

use std::sync::Arc;

use crate::sampling::TokenCounts;
use crate::{CoreError, Result, SamplingParams, SlotId, Step, TokenId};

/// One sequence's state.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// The last sampled token.
    pub last_token: TokenId,
    /// Tokens in the cache.
    pub kv_len: u32,
    /// Position id after the last row.
    pub next_position: u32,
    /// How it is sampled.
    pub sampling: Arc<SamplingParams>,
    /// What it has seen: its length, and tokens if penalties ask for them.
    pub counts: TokenCounts,
}

/// What a reset replaced, to be put back if the step is refused.
pub struct Replaced(Vec<(SlotId, Option<SlotState>)>);

/// All slots. Those that were never taken cost nothing.
#[derive(Clone, Debug)]
pub struct Slots {
    states: Vec<Option<SlotState>>,
    num_slots: usize,
}

impl Slots {
    /// `num_slots` empty slots.
    pub fn new(num_slots: usize) -> Self {
        Self { states: Vec::new(), num_slots }
    }

    /// Slots up to the highest that was ever taken.
    pub fn num_used(&self) -> usize {
        self.states.len()
    }

    /// The state, if a sequence holds the slot.
    pub fn get(&self, slot: SlotId) -> Option<&SlotState> {
        self.states.get(slot.index())?.as_ref()
    }

    /// As [`get`](Self::get), to change it.
    pub fn get_mut(&mut self, slot: SlotId) -> Option<&mut SlotState> {
        self.states.get_mut(slot.index())?.as_mut()
    }

    /// Takes the step's resets; returns what they replaced. On an error nothing has changed.
    pub fn reset(&mut self, step: &Step, vocab_size: usize) -> Result<Replaced> {
        for reset in &step.resets {
            if reset.slot.index() >= self.num_slots {
                let problem =
                    format!("resets slot {}; the model was loaded with {}", reset.slot, self.num_slots);
                return Err(CoreError::step(step.id, problem));
            }
            reset.sampling.check(vocab_size)?;
        }
        let mut replaced = Vec::new();
        for reset in &step.resets {
            let state = SlotState {
                last_token: reset.output.last().or(reset.prompt.last()).copied().unwrap_or_default(),
                kv_len: 0,
                next_position: 0,
                sampling: Arc::clone(&reset.sampling),
                counts: TokenCounts::needed(&reset.sampling, &reset.prompt, &reset.output),
            };
            let at = reset.slot.index();
            if at >= self.states.len() {
                self.states.resize(at + 1, None);
            }
            replaced.push((reset.slot, self.states[at].replace(state)));
        }
        Ok(Replaced(replaced))
    }

    /// Takes a reset back.
    pub fn restore(&mut self, replaced: Replaced) {
        for (slot, state) in replaced.0.into_iter().rev() {
            self.states[slot.index()] = state;
        }
    }

    /// Records a sampled token.
    pub fn sampled(&mut self, slot: SlotId, token: TokenId) {
        if let Some(state) = self.get_mut(slot) {
            state.last_token = token;
            state.counts.push(token);
        }
    }
}
