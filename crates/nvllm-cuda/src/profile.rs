//! Where the time of a step goes on the device: the step as one CUDA graph that records an event
//! after every stage.
//!
//! As a graph, ops follow each other without the host in between, as in serving; an event costs
//! about as much as a small kernel's launch, so a profiled step is a little slower than a plain
//! one.

use std::ops::Range;

use cudarc::driver::{CudaEvent, CudaGraph, sys};
use nvllm_core::{EntryId, OpTime, StepId, StepProfile};

use crate::device::{Device, seconds_between};
use crate::error::{Doing, Result};
use crate::graphs::capture;
use crate::launch::{Extents, Launch};

/// A profiled step: its graph is held until its events have been read.
pub(crate) struct Timed {
    step: StepId,
    entry: EntryId,
    graph: CudaGraph,
    /// At the start of the step, at the start of each stage and after the last.
    events: Vec<CudaEvent>,
    nodes: Vec<Option<Range<usize>>>,
}

impl Timed {
    /// Runs a step: `begin`, then the launches of each stage, given with its nodes.
    pub(crate) fn run(
        device: &Device,
        (step, entry): (StepId, EntryId),
        extents: Extents,
        begin: &[Launch],
        stages: &[(Option<Range<usize>>, &[Launch])],
    ) -> Result<Self> {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = |_| device.context.new_event(timed).doing("making an event");
        let events = (0..stages.len() + 2).map(event).collect::<Result<Vec<_>>>()?;
        let graph = capture(device, extents, |at| {
            record(device, &events[0])?;
            begin.iter().try_for_each(|launch| launch.run(device, at))?;
            for ((_, launches), event) in stages.iter().zip(&events[1..]) {
                record(device, event)?;
                launches.iter().try_for_each(|launch| launch.run(device, at))?;
            }
            record(device, &events[stages.len() + 1])
        })?;
        graph.launch().doing("launching a graph")?;
        let nodes = stages.iter().map(|(nodes, _)| nodes.clone()).collect();
        Ok(Self { step, entry, graph, events, nodes })
    }

    /// The times, once the step has run: waits for it.
    pub(crate) fn profile(self) -> Result<StepProfile> {
        let Self { step, entry, graph, events, nodes } = self;
        if let Some(last) = events.last() {
            last.synchronize().doing("waiting for a profiled step")?;
        }
        drop(graph);
        let times = nodes.into_iter().zip(events[1..].windows(2)).map(|(nodes, pair)| {
            let (start, seconds) =
                (seconds_between(&events[0], &pair[0])?, seconds_between(&pair[0], &pair[1])?);
            Ok(OpTime { nodes, start, seconds })
        });
        Ok(StepProfile { step, entry, ops: times.collect::<Result<_>>()? })
    }
}

/// Records `event` as a node of the graph that is being captured.
fn record(device: &Device, event: &CudaEvent) -> Result<()> {
    let flags = sys::CUevent_record_flags_enum::CU_EVENT_RECORD_EXTERNAL as u32;
    // SAFETY: event and stream belong to the device's context, which is bound while a step is
    // launched.
    let result = unsafe { sys::cuEventRecordWithFlags(event.cu_event(), device.stream.cu_stream(), flags) };
    result.result().doing("recording an event")
}
