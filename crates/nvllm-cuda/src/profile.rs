//! How long each op of a step takes, layer after layer as in the step, without the launches' own cost.

use std::collections::BTreeMap;

use cudarc::driver::sys;
use nvllm_core::program::Node;
use nvllm_core::{CoreError, Op, Program};

use crate::error::Doing;
use crate::executable::CudaExecutable;
use crate::graphs::capture;

/// All nodes of a program that do the same with equal shapes.
#[derive(Clone, Debug)]
pub struct OpTime {
    /// The op with its columns: `linear 1024 -> 4096`.
    pub op: String,
    /// The nodes, as indices into the program.
    pub nodes: Vec<usize>,
    /// Seconds for all of them together, one entry a repetition.
    pub seconds: Vec<f64>,
}

impl CudaExecutable {
    /// The entry program as it runs: fused ops that have no kernel are expanded.
    pub fn program(&self, entry: usize) -> Option<&Program> {
        self.entries.get(entry).map(|entry| &entry.program)
    }

    /// Times the ops of the last step at its extents, `repeats` times each: a graph of all nodes that are alike, so that weights are read
    /// in turn and not again from cache. The sampler is the last entry.
    ///
    /// Values are left as the repetitions made them: the next step begins anew. `expert_linear` is left out, because its ids are among
    /// those values.
    ///
    /// # Errors
    /// If no step has run, or the device fails.
    pub fn time_ops(&mut self, repeats: usize) -> nvllm_core::Result<Vec<OpTime>> {
        let Some((entry, extents)) = self.last else {
            return Err(CoreError::Device { backend: "cuda".into(), problem: "no step has run".into() });
        };
        let mut groups: BTreeMap<(usize, String), Vec<usize>> = BTreeMap::new();
        let program = &self.entries[entry].program;
        for (at, node) in program.nodes.iter().enumerate() {
            if matches!(node.op, Op::ExpertLinear { .. } | Op::Sample) {
                continue;
            }
            let name = name(program, node);
            let first = groups.keys().find(|(_, known)| *known == name).map_or(at, |(first, _)| *first);
            groups.entry((first, name)).or_default().push(at);
        }
        let mut times = Vec::new();
        for ((_, op), nodes) in groups {
            let lowered = &self.entries[entry].nodes;
            let launches = nodes.iter().flat_map(|&at| lowered[at].launches(extents));
            let launches: Vec<_> = launches.collect();
            let seconds = self.time(&launches, repeats)?;
            times.push(OpTime { op, nodes, seconds });
        }
        if let Some((_, sampling)) = &self.entries[entry].sampling {
            let launches: Vec<_> = sampling.plain.iter().collect();
            let nodes = program.nodes.iter().position(|n| n.op == Op::Sample).into_iter().collect();
            let seconds = self.time(&launches, repeats)?;
            times.push(OpTime { op: "sample".into(), nodes, seconds });
        }
        Ok(times)
    }

    fn time(&self, launches: &[&crate::launch::Launch], repeats: usize) -> crate::Result<Vec<f64>> {
        let Some((_, extents)) = self.last else { return Ok(Vec::new()) };
        let device = &self.device;
        device.bind()?;
        let graph =
            capture(device, extents, |at| launches.iter().try_for_each(|launch| launch.run(device, at)))?;
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let record = || device.stream.record_event(timed).doing("recording an event");
        let mut seconds = Vec::with_capacity(repeats);
        // The first is not counted.
        for at in 0..=repeats {
            let start = record()?;
            graph.launch().doing("launching a graph")?;
            let end = record()?;
            end.synchronize().doing("waiting for the GPU")?;
            if at > 0 {
                seconds.push(f64::from(start.elapsed_ms(&end).doing("reading an event")?) / 1e3);
            }
        }
        Ok(seconds)
    }
}

/// The op with the columns of its first input and output.
fn name(program: &Program, node: &Node) -> String {
    let cols = |id: &nvllm_core::ValueId| program.value(*id).cols;
    let from = node.inputs.first().map(cols);
    let to = node.outputs.first().map(cols);
    let stem = node.op.stem();
    match (from, to) {
        (Some(from), Some(to)) if from == to => format!("{stem} {to}"),
        (Some(from), Some(to)) => format!("{stem} {from} -> {to}"),
        (Some(one), None) | (None, Some(one)) => format!("{stem} {one}"),
        (None, None) => stem.into(),
    }
}
