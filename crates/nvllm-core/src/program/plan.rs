//! The static memory plan: where every value lies, decided once from lifetimes.

use std::ops::Range;

use super::{Program, RowsOf, Value};
use crate::limits::MAX_BYTES;
use crate::{ByteCount, CoreError, Limits, Result, ValueId};

/// What a backend's memory allows, for the planner.
#[derive(Clone, Copy, Debug)]
pub struct PlanRules {
    /// Alignment of every value in bytes, a power of two.
    pub align: usize,
    /// Bytes of one allocation.
    pub max_segment: usize,
    /// Bytes of one value that a kernel can see (wgpu binds at most 128 MiB).
    pub max_binding: usize,
    /// Whether one allocation may be read and written by the same op.
    pub read_write_share: bool,
    /// Consecutive nodes that the backend may run as one: all that they touch lives at once.
    pub stages: fn(&Program) -> Vec<Range<usize>>,
}

impl PlanRules {
    /// Host memory: one allocation, cache-line alignment, one node after another.
    pub const HOST: Self = Self {
        align: 64,
        max_segment: usize::MAX,
        max_binding: usize::MAX,
        read_write_share: true,
        stages: |_| Vec::new(),
    };
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which allocation.
    pub segment: usize,
    /// Byte offset, aligned.
    pub offset: usize,
    /// Bytes at the largest extent.
    pub bytes: usize,
}

/// Places for all values of one program; exact for what the engine allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// By value id.
    pub places: Vec<Place>,
    /// Bytes of each allocation.
    pub segments: Vec<usize>,
}

impl MemoryPlan {
    /// Plans `program` under `limits` and `rules`: largest value first, each at the lowest offset
    /// of the first allocation where nothing that lives at the same time overlaps it.
    ///
    /// Source: Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"
    /// (greedy by size).
    pub fn new(program: &Program, limits: &Limits, rules: &PlanRules) -> Result<Self> {
        let stages = (rules.stages)(program);
        let lifetimes = lifetimes(program, &stages);
        let largest = rules.max_segment.min(rules.max_binding).min(MAX_BYTES);
        let size = |value: &Value| {
            let bytes = value.max_bytes(limits).and_then(|bytes| bytes.checked_next_multiple_of(rules.align));
            bytes.filter(|&bytes| bytes <= largest).ok_or_else(|| too_large(value, limits, largest))
        };
        let bytes = program.values.iter().map(size).collect::<Result<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..bytes.len()).collect();
        order.sort_by_key(|&id| (std::cmp::Reverse(bytes[id]), id));
        let mut planner = Planner {
            rules,
            lifetimes,
            // Of no use where they may share an allocation.
            partners: if rules.read_write_share { Vec::new() } else { partners(program, &stages) },
            placed: Vec::new(),
            segments: Vec::new(),
        };
        let mut places = vec![Place { segment: 0, offset: 0, bytes: 0 }; bytes.len()];
        for &id in &order {
            places[id] = planner.place(id, bytes[id]);
        }
        let total = planner.segments.iter().try_fold(0, |sum: usize, &bytes| sum.checked_add(bytes));
        match (total.filter(|&total| total <= MAX_BYTES), order.first()) {
            (None, Some(&largest)) => Err(too_large(&program.values[largest], limits, MAX_BYTES)),
            _ => Ok(Self { places, segments: planner.segments }),
        }
    }

    /// Where a value lies.
    pub fn place(&self, id: ValueId) -> Place {
        self.places[id.index()]
    }

    /// Bytes over all allocations.
    pub fn bytes(&self) -> usize {
        self.segments.iter().sum()
    }
}

/// Names the extent that makes `value` larger than `most` bytes.
fn too_large(value: &Value, limits: &Limits, most: usize) -> CoreError {
    let (field, extent) = match value.rows.of {
        RowsOf::Tokens => ("step_tokens", limits.step_tokens),
        RowsOf::Outputs => ("step_outputs", limits.step_outputs),
        RowsOf::Seqs => ("seqs", limits.seqs),
    };
    let cols = value.rows.times.saturating_mul(value.cols);
    let problem = format!(
        "is {extent}; {cols} values for each take more than the {} that are held in one piece: give less",
        ByteCount(most)
    );
    CoreError::BadLimits { field, problem }
}

/// Lifetimes where the nodes of a stage run at once: what one of them touches lives through all.
fn lifetimes(program: &Program, stages: &[Range<usize>]) -> Vec<(usize, usize)> {
    let mut lifetimes = program.lifetimes();
    for stage in stages.iter().filter(|stage| !stage.is_empty()) {
        for node in &program.nodes[stage.clone()] {
            for id in node.inputs.iter().chain(&node.outputs) {
                let (first, last) = &mut lifetimes[id.index()];
                (*first, *last) = ((*first).min(stage.start), (*last).max(stage.end - 1));
            }
        }
    }
    lifetimes
}

/// For each value the values on the other side of an op: inputs of the op that writes it, outputs
/// of those that read it. The nodes of a stage are one op.
fn partners(program: &Program, stages: &[Range<usize>]) -> Vec<Vec<usize>> {
    let mut partners = vec![Vec::new(); program.values.len()];
    let nodes = (0..program.nodes.len()).map(|at| at..at + 1);
    for nodes in nodes.chain(stages.iter().cloned()).map(|range| &program.nodes[range]) {
        for input in nodes.iter().flat_map(|node| &node.inputs) {
            for output in nodes.iter().flat_map(|node| &node.outputs).filter(|output| *output != input) {
                partners[input.index()].push(output.index());
                partners[output.index()].push(input.index());
            }
        }
    }
    partners
}

struct Planner<'a> {
    rules: &'a PlanRules,
    lifetimes: Vec<(usize, usize)>,
    partners: Vec<Vec<usize>>,
    placed: Vec<(usize, Place)>,
    segments: Vec<usize>,
}

impl Planner<'_> {
    fn place(&mut self, id: usize, bytes: usize) -> Place {
        let found = (0..self.segments.len()).find_map(|segment| {
            let offset = self.gap(id, bytes, segment)?;
            Some((segment, offset))
        });
        let (segment, offset) = found.unwrap_or_else(|| {
            self.segments.push(0);
            (self.segments.len() - 1, 0)
        });
        self.segments[segment] = self.segments[segment].max(offset + bytes);
        let place = Place { segment, offset, bytes };
        self.placed.push((id, place));
        place
    }

    /// The lowest offset in `segment` that is free for all of `id`'s life.
    fn gap(&self, id: usize, bytes: usize, segment: usize) -> Option<usize> {
        let here = || self.placed.iter().filter(move |(_, p)| p.segment == segment);
        if !self.rules.read_write_share && here().any(|(other, _)| self.partners[id].contains(other)) {
            return None;
        }
        let mut busy: Vec<_> =
            here().filter(|(other, _)| self.overlap(id, *other)).map(|(_, p)| *p).collect();
        busy.sort_by_key(|p| p.offset);
        let mut offset: usize = 0;
        for place in busy {
            if offset.checked_add(bytes)? <= place.offset {
                break;
            }
            offset = offset.max(place.offset + place.bytes);
        }
        (offset.checked_add(bytes)? <= self.rules.max_segment).then_some(offset)
    }

    fn overlap(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.lifetimes[a], self.lifetimes[b]);
        a.0 <= b.1 && b.0 <= a.1
    }
}
