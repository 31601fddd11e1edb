//! Whole steps as CUDA graphs: captured when a bucket of rows is first met, replayed from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use cudarc::driver::{CudaGraph, sys};

use crate::device::Device;
use crate::error::{CudaError, Doing, Result};
use crate::launch::Extents;

/// Rows of the largest graph: above, launches cost little beside the work.
const MOST_ROWS: usize = 512;

/// The graphs of one loaded model, by entry program and bucket.
pub(crate) struct Graphs {
    wanted: bool,
    graphs: HashMap<(usize, Extents), CudaGraph>,
}

/// The bucket of a step that decodes `rows` tokens: as many, or the next size for which a graph is kept.
const fn bucket(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        5..=64 => rows.next_multiple_of(8),
        65..=128 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(32),
    }
}

impl Graphs {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, graphs: HashMap::new() }
    }

    /// The extents of the graph that serves a step: one new token and one output for each sequence, and `most` rows at most.
    pub(crate) fn extents(&self, step: Extents, most: usize) -> Option<Extents> {
        let Extents { tokens, outputs, seqs, .. } = step;
        if !self.wanted || tokens == 0 || tokens != outputs || tokens != seqs || tokens > most.min(MOST_ROWS)
        {
            return None;
        }
        let rows = bucket(tokens).min(most);
        Some(Extents { tokens: rows, outputs: rows, seqs: rows, ..step })
    }

    /// Replays the graph of `entry` at `extents`, capturing `launch` first if there is none yet. False if there is no graph to be had:
    /// then nothing was launched.
    pub(crate) fn replay(
        &mut self,
        device: &Device,
        entry: usize,
        extents: Extents,
        launch: impl FnOnce(Extents) -> Result<()>,
    ) -> Result<bool> {
        let graph = match self.graphs.entry((entry, extents)) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(new) => match capture(device, extents, launch) {
                Ok(graph) => new.insert(graph),
                Err(error) => {
                    tracing::warn!(%error, "no CUDA graph could be captured: steps are launched kernel by kernel");
                    self.wanted = false;
                    return Ok(false);
                }
            },
        };
        graph.launch().doing("launching a graph")?;
        Ok(true)
    }
}

/// A graph of what `launch` puts on the stream.
pub(crate) fn capture(
    device: &Device,
    extents: Extents,
    launch: impl FnOnce(Extents) -> Result<()>,
) -> Result<CudaGraph> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.stream.begin_capture(mode).doing("beginning a graph")?;
    let launched = launch(extents);
    // Ends the capture in any case: a stream left capturing runs nothing.
    let flags = sys::CUgraphInstantiate_flags(0);
    let graph = device.stream.end_capture(flags).doing("capturing a graph");
    launched?;
    graph?.ok_or(CudaError::Driver { what: "capturing a graph", cause: "it came out empty".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decode_has_a_bucket_that_holds_it() {
        let graphs = Graphs::new(true);
        for rows in 1..=300 {
            let step = Extents { tokens: rows, outputs: rows, seqs: rows, prefill: false, chunks: true };
            let bucket = graphs.extents(step, 200);
            assert_eq!(bucket.is_some(), rows <= 200);
            assert!(bucket.is_none_or(|b| b.tokens >= rows && b.tokens <= 200 && b.tokens < rows + 32));
        }
        let prefill = Extents { tokens: 5, outputs: 1, seqs: 1, prefill: true, chunks: true };
        assert_eq!(graphs.extents(prefill, 200), None);
    }
}
