//! The static memory plan: where every value lies, decided once from lifetimes.

use super::Program;
use crate::{CoreError, Limits, PlanRules, Result, ValueId};

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
    /// Plans `program` under `limits` and `rules`: largest value first, each at the lowest offset of the first
    /// allocation where nothing that lives at the same time overlaps it.
    ///
    /// Source: Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference" (greedy by size).
    pub fn new(program: &Program, limits: &Limits, rules: &PlanRules) -> Result<Self> {
        let lifetimes = program.lifetimes();
        let bytes: Vec<_> =
            program.values.iter().map(|v| v.max_bytes(limits).next_multiple_of(rules.align)).collect();
        let largest = rules.max_segment.min(rules.max_binding);
        if let Some(id) = bytes.iter().position(|&b| b > largest) {
            let problem = format!(
                "makes a value of {} bytes ({} columns); this backend holds {largest} in one piece: lower step_tokens",
                bytes[id], program.values[id].cols
            );
            return Err(CoreError::BadLimits { field: "step_tokens", problem });
        }
        let mut order: Vec<usize> = (0..bytes.len()).collect();
        order.sort_by_key(|&id| (std::cmp::Reverse(bytes[id]), id));
        let mut planner = Planner {
            rules,
            lifetimes,
            partners: partners(program),
            placed: Vec::new(),
            segments: Vec::new(),
        };
        let mut places = vec![Place { segment: 0, offset: 0, bytes: 0 }; bytes.len()];
        for id in order {
            places[id] = planner.place(id, bytes[id]);
        }
        Ok(Self { places, segments: planner.segments })
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

/// For each value the values on the other side of an op: inputs of the op that writes it, outputs of those that read it.
fn partners(program: &Program) -> Vec<Vec<usize>> {
    let mut partners = vec![Vec::new(); program.values.len()];
    for node in &program.nodes {
        for input in &node.inputs {
            for output in &node.outputs {
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
        let mut offset = 0;
        for place in busy {
            if offset + bytes <= place.offset {
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
