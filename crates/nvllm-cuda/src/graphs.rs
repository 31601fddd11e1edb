//! Whole steps as CUDA graphs, and apart from them the sampler of rows that awaited their masks:
//! captured between steps, when no one waits or when the last step lacked its own, and replayed
//! from then on. Loading does not wait for them: a step without a graph is launched kernel by
//! kernel, with the same bits.

use std::collections::{BTreeSet, HashMap};

use cudarc::driver::{CudaGraph, sys};

use crate::device::Device;
use crate::error::{CudaError, Doing, Result};
use crate::kernels::attention::attention_order::KV_CHUNK;
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

/// A graph: rows first, so that small ones come first; then what else is in [`Extents`], the entry
/// program, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GraphKey {
    rows: usize,
    positions: usize,
    draws: bool,
    prefill: bool,
    pub entry: usize,
    pub part: Part,
}

impl GraphKey {
    /// What the graph's launches are sized for: a new token and an output for each sequence.
    pub(crate) const fn extents(self) -> Extents {
        let Self { rows, positions, draws, prefill, .. } = self;
        Extents { tokens: rows, outputs: rows, seqs: rows, prefill, positions, draws }
    }
}

/// The graphs of one loaded model.
pub(crate) struct Graphs {
    captured: HashMap<GraphKey, CudaGraph>,
    /// Those that are still to be captured; one whose capture failed is in neither.
    todo: BTreeSet<GraphKey>,
    /// Rows of the largest.
    most: usize,
    spans: Vec<Span>,
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

/// Contexts with which launches are alike: those longer than the next shorter span's, in steps of
/// some sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    /// KV positions of the longest sequence at most.
    positions: usize,
    /// Rows at most.
    rows: usize,
}

/// The spans of `limits`: keys in one chunk or in several, decode passes and what is longer.
fn spans(limits: &GraphLimits) -> Vec<Span> {
    let any_rows = |positions| Span { positions, rows: usize::MAX };
    let all = [any_rows(KV_CHUNK.min(limits.context)), any_rows(limits.context)];
    let passes = limits.passes.iter().map(|&(rows, positions)| Span { positions, rows });
    let mut all: Vec<_> = passes.filter(|pass| pass.positions < limits.context).chain(all).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The positions for which a graph of `rows` rows is kept that serves so many.
fn span_of(spans: &[Span], rows: usize, positions: usize) -> Option<usize> {
    let serves = |span: &&Span| span.rows >= rows && span.positions >= positions;
    spans.iter().find(serves).map(|span| span.positions)
}

/// What decides which graphs a model has.
pub(crate) struct GraphLimits {
    pub num_entries: usize,
    /// Rows of a step that only decodes, at most.
    pub rows: usize,
    /// KV positions of a sequence at most.
    pub context: usize,
    /// Rows and positions of each decode pass at most.
    pub passes: Vec<(usize, usize)>,
    /// Whether attention's prefill kernels run every row.
    pub prefill: bool,
}

impl Graphs {
    /// The graphs of a model: a bucket for every number of rows, for each entry program and every
    /// span of contexts, with and without what draws.
    pub(crate) fn new(limits: &GraphLimits) -> Self {
        let most = limits.rows.min(MOST_ROWS);
        let spans = spans(limits);
        let sizes: BTreeSet<usize> = (1..=most).map(|rows| bucket(rows).min(most)).collect();
        let of_size = |&rows: &usize| {
            let spans = spans.iter().filter(move |span| span.rows >= rows);
            spans.flat_map(move |span| [false, true].map(|draws| (rows, span.positions, draws)))
        };
        let entries = |(rows, positions, draws)| {
            let (prefill, part) = (limits.prefill, Part::Step);
            let key = move |entry| GraphKey { rows, positions, draws, prefill, entry, part };
            (0..limits.num_entries).map(key)
        };
        let steps = sizes.iter().flat_map(of_size).flat_map(entries);
        let sampler =
            |key: GraphKey| GraphKey { positions: 0, prefill: false, part: Part::MaskedSampler, ..key };
        let todo = steps.flat_map(|key| [key, sampler(key)]).collect();
        Self { captured: HashMap::new(), todo, most, spans, lacked: None, num_replays: 0 }
    }

    /// No graphs.
    pub(crate) fn none() -> Self {
        let (captured, todo) = (HashMap::new(), BTreeSet::new());
        Self { captured, todo, most: 0, spans: Vec::new(), lacked: None, num_replays: 0 }
    }

    /// The graph that serves a step, if there is one; where one is still to be captured, that is
    /// remembered.
    pub(crate) fn find(&mut self, entry: usize, step: Extents) -> Option<GraphKey> {
        let Extents { tokens, outputs, seqs, prefill, positions, draws } = step;
        if tokens == 0 || tokens != outputs || tokens != seqs || tokens > self.most {
            return None;
        }
        let rows = bucket(tokens).min(self.most);
        let positions = span_of(&self.spans, rows, positions)?;
        self.find_key(GraphKey { rows, positions, draws, prefill, entry, part: Part::Step })
    }

    /// The graph of the sampler of a step whose masks have come, likewise. It is captured once a
    /// step has lacked it: most models never see a mask.
    pub(crate) fn find_masked_sampler(&mut self, entry: usize, step: Extents) -> Option<GraphKey> {
        let Extents { outputs, draws, .. } = step;
        if outputs == 0 || outputs > self.most {
            return None;
        }
        let (rows, part) = (bucket(outputs).min(self.most), Part::MaskedSampler);
        self.find_key(GraphKey { rows, positions: 0, draws, prefill: false, entry, part })
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
        GraphLimits { num_entries: 2, rows: 200, context: 4096, passes: Vec::new(), prefill: false }
    }

    fn decode(rows: usize) -> Extents {
        Extents { tokens: rows, outputs: rows, seqs: rows, prefill: false, positions: 300, draws: false }
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
        let prefill = Extents { outputs: 1, seqs: 1, prefill: true, ..decode(5) };
        assert_eq!((graphs.find(0, prefill), graphs.next(false)), (None, None));
    }

    #[test]
    fn a_graph_is_of_one_chunk_or_several_and_of_a_pass_or_none() {
        let passes = vec![(1, 2048), (1, usize::MAX), (1, 256)];
        let mut graphs = Graphs::new(&GraphLimits { passes, ..limits() });
        let mut found = |rows, positions| {
            graphs.find(0, Extents { positions, ..decode(rows) });
            graphs.lacked.take().map(|key| key.extents().positions)
        };
        let of_one: Vec<_> = [1, 256, 257, 2048, 2049, 4096].map(|positions| found(1, positions)).into();
        assert_eq!(of_one, [256, 256, 2048, 2048, 4096, 4096].map(Some));
        assert_eq!([256, 257, 2049].map(|positions| found(2, positions)), [256, 4096, 4096].map(Some));
        assert_eq!(found(1, 4097), None, "no sequence is so long");
        let short = Graphs::new(&GraphLimits { context: 100, ..limits() });
        assert!(short.todo.iter().all(|key| key.part != Part::Step || key.positions == 100));
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

    /// A graph without what draws does not serve a step that draws, nor the other way round.
    #[test]
    fn what_draws_has_graphs_of_its_own() {
        for draws in [false, true] {
            let mut graphs = Graphs::new(&limits());
            let step = Extents { draws, ..decode(5) };
            graphs.find(0, step);
            assert_eq!(graphs.next(false).map(|key| (key.rows, key.draws)), Some((8, draws)));
            graphs.find_masked_sampler(0, step);
            let key = graphs.next(false).unwrap();
            assert_eq!((key.part, key.extents().draws), (Part::MaskedSampler, draws));
        }
    }

    #[test]
    fn the_sampler_behind_masks_is_captured_once_a_step_has_lacked_it() {
        let mut graphs = Graphs::new(&limits());
        assert_eq!(graphs.next(true).map(|key| key.part), Some(Part::Step), "not while nobody asks");
        let masked = |rows| Extents { tokens: 100, ..decode(rows) };
        assert_eq!(graphs.find_masked_sampler(1, masked(13)), None, "none is captured");
        let lacked = graphs.next(false).unwrap();
        assert_eq!((lacked.part, lacked.rows, lacked.entry), (Part::MaskedSampler, 16, 1));
        let failed = Err(CudaError::Driver { what: "capturing a graph", cause: "of a test".into() });
        graphs.insert(lacked, failed);
        graphs.find_masked_sampler(1, masked(13));
        assert_eq!(graphs.next(false), None, "a failed capture costs this one graph");
        for outputs in [0, 201] {
            assert_eq!((graphs.find_masked_sampler(0, masked(outputs)), graphs.next(false)), (None, None));
        }
    }
}
