//! Whole steps as CUDA graphs, and apart from them the sampler of rows that awaited their masks:
//! captured between steps, when no one waits or when the last step lacked its own, and replayed
//! from then on. Loading does not wait for them: a step without a graph is launched kernel by
//! kernel, with the same bits.

use std::collections::{BTreeSet, HashMap};

use cudarc::driver::{CudaGraph, sys};

use crate::device::Device;
use crate::error::{CudaError, Doing, Result};
use crate::launch::Extents;

/// Rows of the largest graph: above, launches cost little beside the work.
const MOST_ROWS: usize = 512;

/// What a graph holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A step, with the sampler of rows that await no mask.
    Step,
    /// The sampler of rows whose masks came after the step began.
    MaskedSampler,
}

/// A graph: rows first, so that small ones come first; then the flags of [`Extents`], the entry
/// program, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GraphKey {
    rows: usize,
    chunks: bool,
    prefill: bool,
    pub entry: usize,
    pub part: Part,
}

impl GraphKey {
    /// What the graph's launches are sized for: a new token and an output for each sequence.
    pub(crate) const fn extents(self) -> Extents {
        let Self { rows, chunks, prefill, .. } = self;
        Extents { tokens: rows, outputs: rows, seqs: rows, prefill, chunks }
    }
}

/// The graphs of one loaded model.
pub(crate) struct Graphs {
    captured: HashMap<GraphKey, CudaGraph>,
    /// Those that are still to be captured; one whose capture failed is in neither.
    todo: BTreeSet<GraphKey>,
    /// Rows of the largest.
    most: usize,
    /// A graph that a step has lacked since the last capture.
    lacked: Option<GraphKey>,
    pub num_replays: usize,
}

/// The bucket of a step that decodes `rows` tokens: as many, or the next size for which a graph is
/// kept.
const fn bucket(rows: usize) -> usize {
    match rows {
        0..=2 => rows,
        3..=4 => 4,
        5..=64 => rows.next_multiple_of(8),
        65..=128 => rows.next_multiple_of(16),
        _ => rows.next_multiple_of(32),
    }
}

/// What decides which graphs a model has.
pub(crate) struct GraphLimits {
    pub num_entries: usize,
    /// Rows of a step that only decodes, at most.
    pub rows: usize,
    /// Whether keys may be cut into several chunks.
    pub chunks: bool,
    /// Whether attention's prefill kernels run every row.
    pub prefill: bool,
}

impl Graphs {
    /// The graphs of a model: a bucket for every number of rows, for each entry program, with and
    /// without chunks.
    pub(crate) fn new(limits: &GraphLimits) -> Self {
        let most = limits.rows.min(MOST_ROWS);
        let key = |rows: usize, chunks, entry| GraphKey {
            rows: bucket(rows).min(most),
            chunks,
            prefill: limits.prefill,
            entry,
            part: Part::Step,
        };
        let chunks = [false, true].into_iter().filter(|&chunks| !chunks || limits.chunks);
        let keys = chunks.flat_map(|chunks| (1..=most).map(move |rows| (rows, chunks)));
        let steps = keys
            .flat_map(|(rows, chunks)| (0..limits.num_entries).map(move |entry| key(rows, chunks, entry)));
        let sampler =
            |key: GraphKey| GraphKey { chunks: false, prefill: false, part: Part::MaskedSampler, ..key };
        let todo = steps.flat_map(|key| [key, sampler(key)]).collect();
        Self { captured: HashMap::new(), todo, most, lacked: None, num_replays: 0 }
    }

    /// No graphs.
    pub(crate) fn none() -> Self {
        Self { captured: HashMap::new(), todo: BTreeSet::new(), most: 0, lacked: None, num_replays: 0 }
    }

    /// The graph that serves a step, if there is one; where one is still to be captured, that is
    /// remembered.
    pub(crate) fn find(&mut self, entry: usize, step: Extents) -> Option<GraphKey> {
        let Extents { tokens, outputs, seqs, prefill, chunks } = step;
        if tokens == 0 || tokens != outputs || tokens != seqs || tokens > self.most {
            return None;
        }
        self.find_key(GraphKey {
            rows: bucket(tokens).min(self.most),
            chunks,
            prefill,
            entry,
            part: Part::Step,
        })
    }

    /// The graph of the sampler of so many outputs whose masks have come, likewise. It is captured
    /// once a step has lacked it: most models never see a mask.
    pub(crate) fn find_masked_sampler(&mut self, entry: usize, outputs: usize) -> Option<GraphKey> {
        if outputs == 0 || outputs > self.most {
            return None;
        }
        let (rows, part) = (bucket(outputs).min(self.most), Part::MaskedSampler);
        self.find_key(GraphKey { rows, chunks: false, prefill: false, entry, part })
    }

    fn find_key(&mut self, key: GraphKey) -> Option<GraphKey> {
        if self.captured.contains_key(&key) {
            return Some(key);
        }
        self.lacked = self.todo.get(&key).copied().or(self.lacked);
        None
    }

    /// Replays a graph that was [found](Self::find).
    pub(crate) fn replay(&mut self, key: GraphKey) -> Result<()> {
        self.num_replays += 1;
        self.captured[&key].launch().doing("launching a graph")
    }

    /// The graph to capture next: the one that the last step lacked, or the smallest of a step if
    /// nothing waits for one.
    pub(crate) fn next(&self, idle: bool) -> Option<GraphKey> {
        let smallest = || self.todo.iter().copied().find(|key| key.part == Part::Step);
        self.lacked.or_else(|| idle.then(smallest).flatten())
    }

    /// Takes what capturing `key` came to. A failure costs this one graph.
    pub(crate) fn insert(&mut self, key: GraphKey, captured: Result<CudaGraph>) {
        self.todo.remove(&key);
        self.lacked = None;
        match captured {
            Ok(graph) => drop(self.captured.insert(key, graph)),
            Err(error) => {
                tracing::warn!(%error, rows = key.rows, "a CUDA graph could not be captured: such steps run kernel by kernel");
            }
        }
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

    fn limits() -> GraphLimits {
        GraphLimits { num_entries: 2, rows: 200, chunks: true, prefill: false }
    }

    fn decode(rows: usize) -> Extents {
        Extents { tokens: rows, outputs: rows, seqs: rows, prefill: false, chunks: true }
    }

    #[test]
    fn every_decode_has_a_graph_that_holds_it() {
        let largest = Graphs::new(&limits()).todo.last().copied().unwrap();
        for rows in 1..=300 {
            let mut graphs = Graphs::new(&limits());
            assert_eq!(graphs.find(1, decode(rows)), None, "none is captured");
            let key = graphs.next(false);
            assert_eq!(key.is_some(), rows <= 200);
            assert!(key.is_none_or(|key| key.rows >= rows && key.rows < rows + 32 && key <= largest));
        }
        let mut graphs = Graphs::new(&limits());
        let prefill = Extents { tokens: 5, outputs: 1, seqs: 1, prefill: true, chunks: true };
        assert_eq!((graphs.find(0, prefill), graphs.next(false)), (None, None));
    }

    #[test]
    fn small_graphs_come_first_and_a_failed_one_costs_itself() {
        let mut graphs = Graphs::new(&limits());
        let all = graphs.todo.iter().filter(|key| key.part == Part::Step).count();
        let failed = || Err(CudaError::Driver { what: "capturing a graph", cause: "of a test".into() });
        let mut rows = Vec::new();
        while let Some(key) = graphs.next(true) {
            rows.push(key.rows);
            graphs.insert(key, failed());
        }
        assert!(rows.is_sorted() && rows.len() == all && rows[0] == 1 && rows[all - 1] == 200);
        let mut graphs = Graphs::new(&limits());
        graphs.find(0, decode(40));
        let lacked = graphs.next(true).unwrap();
        assert_eq!(lacked.rows, 40, "what a step lacked comes before what is small");
        graphs.insert(lacked, failed());
        graphs.find(0, decode(40));
        assert_eq!((graphs.next(false), graphs.next(true).map(|key| key.rows)), (None, Some(1)));
        assert_eq!(Graphs::none().next(true), None);
    }

    #[test]
    fn the_sampler_behind_masks_is_captured_once_a_step_has_lacked_it() {
        let mut graphs = Graphs::new(&limits());
        assert_eq!(graphs.next(true).map(|key| key.part), Some(Part::Step), "not while nobody asks");
        assert_eq!(graphs.find_masked_sampler(1, 13), None, "none is captured");
        let lacked = graphs.next(false).unwrap();
        assert_eq!((lacked.part, lacked.rows, lacked.entry), (Part::MaskedSampler, 16, 1));
        let failed = Err(CudaError::Driver { what: "capturing a graph", cause: "of a test".into() });
        graphs.insert(lacked, failed);
        graphs.find_masked_sampler(1, 13);
        assert_eq!(graphs.next(false), None, "a failed capture costs this one graph");
        for outputs in [0, 201] {
            assert_eq!((graphs.find_masked_sampler(0, outputs), graphs.next(false)), (None, None));
        }
    }
}
