//! The trait of a loaded model.

use crate::program::Counts;
use crate::{
    CoreError, EntryId, ExactHeadCounts, HostTensor, KvCache, MemoryReport, Program, RequestLimits, Result,
    Stage, Step, StepOutput, StepProfile, Ticket, TokenMasks,
};

/// A loaded model. Lives on one thread.
pub trait Executable {
    /// Launches the step and does not wait for a device. A host backend runs it at once.
    ///
    /// Errors if the step does not fit the limits or its program, or while an earlier one awaits
    /// masks; state is then as before.
    fn submit(&mut self, step: &Step) -> Result<Ticket>;
    /// Supplies the masks of all rows of a step that await one, which are then sampled.
    ///
    /// Errors if the step awaits none, or a mask is for a row that awaits none.
    fn supply_masks(&mut self, ticket: &Ticket, masks: TokenMasks) -> Result<()>;
    /// Waits for a step's results. Steps are collected in the order of submission.
    fn collect(&mut self, ticket: Ticket) -> Result<StepOutput>;
    /// An entry program as it runs: fused and expanded. `None` if there is no such entry.
    fn program(&self, entry: EntryId) -> Option<&Program>;
    /// The stages in which an entry program runs a step of these extents, in order, every node in
    /// one of them. Empty if there is no such entry.
    fn schedule(&self, entry: EntryId, counts: &Counts) -> Vec<Stage>;
    /// The physical KV cache.
    fn kv_cache(&mut self) -> &mut dyn KvCache;
    /// The labelled, kept value as the last step left it, `[rows, cols]`; `None` if no value of
    /// that label is kept.
    ///
    /// Errors if the device cannot hand it out.
    fn kept(&self, label: &str) -> Result<Option<HostTensor>>;
    /// What is held.
    fn memory(&self) -> MemoryReport;
    /// Why nothing can run any more, once that is so: the model has to be loaded again.
    fn failure(&self) -> Option<String> {
        None
    }
    /// What it takes from one request; a step with a request beyond that is refused.
    fn request_limits(&self) -> RequestLimits {
        RequestLimits::default()
    }
    /// Does one piece of work that makes later steps faster and that loading does not wait for,
    /// such as recording a graph: what a step has lacked, or with `idle` whatever is left. False
    /// if there was nothing to do.
    ///
    /// Called between steps. No result depends on it, and what fails here only stays slow; errors
    /// if the device has failed.
    fn prepare(&mut self, idle: bool) -> Result<bool> {
        let _ = idle;
        Ok(false)
    }
    /// Runs the sequences of a collected `step` again, op by op, and names the first op that makes
    /// NaN or infinity; `None` if none does, or the backend cannot tell. All tokens are named by
    /// the host; no slot is reset and no block copied.
    ///
    /// Slots are as before, and the KV cache holds what it held; [`kept`](Self::kept) values are of
    /// this pass. Slow: for the message of a request
    /// that ends by it.
    fn find_unusable(&mut self, step: &Step) -> Result<Option<String>> {
        let _ = step;
        Ok(None)
    }
    /// What came of [`Limits::exact_head`](crate::Limits::exact_head) since loading.
    fn exact_head(&self) -> ExactHeadCounts {
        ExactHeadCounts::default()
    }
    /// Bytes of inputs that the last step copied to a device; 0 on the host.
    fn input_bytes(&self) -> usize {
        0
    }
    /// Times every op of the steps submitted from now on, or no longer. Steps that are timed may
    /// run slower.
    ///
    /// Errors if the backend cannot.
    fn set_profiling(&mut self, on: bool) -> Result<()> {
        if !on {
            return Ok(());
        }
        Err(CoreError::Unsupported {
            backend: "this backend".into(),
            op: "a profile by op".into(),
            reason: "it times whole steps only".into(),
        })
    }
    /// Profiles of the steps since the last call, in the order of submission.
    fn take_profiles(&mut self) -> Vec<StepProfile> {
        Vec::new()
    }
}
