//! From nodes of a program to launches: bind groups and pipelines are made once, at load.

mod attention;
mod elementwise;
mod experts;
mod linear;
mod lowering;
mod norm_inside;

use std::ops::{Bound, RangeBounds, RangeInclusive};

use nvllm_core::{OrderId, Rows};
use wgpu::{BindGroup, ComputePass};

use crate::kernel::Pipeline;
use crate::split::CHUNK;

pub(crate) use attention::MOST_HEAD_DIM;
pub(crate) use lowering::Lowering;
pub(crate) use norm_inside::ranges;

/// The extents of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    pub tokens: usize,
    pub outputs: usize,
    pub seqs: usize,
    /// Positions of the longest sequence.
    pub longest: usize,
}

impl Extents {
    pub(crate) const fn rows(self, rows: Rows) -> usize {
        rows.resolve(self.tokens, self.outputs, self.seqs)
    }
}

/// Workgroups in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dim {
    Fixed(usize),
    /// One for every `per` rows.
    Rows {
        rows: Rows,
        per: usize,
    },
    /// So many for each chunk of the longest sequence.
    Chunks(usize),
}

impl Dim {
    pub(crate) const fn rows(rows: Rows) -> Self {
        Self::Rows { rows, per: 1 }
    }

    const fn at(self, extents: Extents) -> u32 {
        match self {
            Self::Fixed(num) => num as u32,
            Self::Rows { rows, per } => extents.rows(rows).div_ceil(per) as u32,
            Self::Chunks(num) => (num * extents.longest.div_ceil(CHUNK)) as u32,
        }
    }
}

/// A launch. Clones are the same launch.
#[derive(Clone)]
pub(crate) struct Dispatch {
    pipeline: Pipeline,
    group: BindGroup,
    x: Dim,
    y: Dim,
    /// The numbers of rows for which it runs; all if there is none.
    only: Option<(Rows, RangeInclusive<usize>)>,
    /// The positions of the longest sequence for which it runs.
    at: (Bound<usize>, Bound<usize>),
}

impl Dispatch {
    pub(crate) const fn new(pipeline: Pipeline, group: BindGroup, x: Dim, y: Dim) -> Self {
        Self { pipeline, group, x, y, only: None, at: (Bound::Unbounded, Bound::Unbounded) }
    }

    /// The launch for so many rows only.
    pub(crate) fn only(self, rows: Rows, range: RangeInclusive<usize>) -> Self {
        Self { only: Some((rows, range)), ..self }
    }

    /// The launch for longest sequences of so many positions only.
    pub(crate) fn at(self, positions: impl RangeBounds<usize>) -> Self {
        Self { at: (positions.start_bound().cloned(), positions.end_bound().cloned()), ..self }
    }

    fn workgroups(&self, extents: Extents) -> Option<[u32; 2]> {
        let runs = self.only.as_ref().is_none_or(|(rows, range)| range.contains(&extents.rows(*rows)));
        let runs = runs && self.at.contains(&extents.longest);
        let num = [self.x.at(extents), self.y.at(extents)];
        (runs && num.iter().all(|&num| num > 0)).then_some(num)
    }

    pub(crate) fn run(&self, pass: &mut ComputePass<'_>, extents: Extents) {
        if let Some(num) = self.workgroups(extents) {
            self.run_at(pass, num);
        }
    }

    /// Runs so many workgroups, whatever the extents.
    pub(crate) fn run_at(&self, pass: &mut ComputePass<'_>, [x, y]: [u32; 2]) {
        if x > 0 && y > 0 {
            pass.set_pipeline(&self.pipeline.compiled);
            pass.set_bind_group(0, &self.group, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
    }

    /// What runs in a step of these extents, in words.
    pub(crate) fn text(&self, extents: Extents) -> Option<String> {
        self.workgroups(extents).map(|[x, y]| format!("{} in {x} x {y} workgroups", self.pipeline.name))
    }
}

/// The launches of one node.
pub(crate) struct Stage {
    pub order: OrderId,
    pub launches: Vec<Dispatch>,
    /// Launches that leave each value in its place, where `launches` leave some to other nodes.
    pub checked: Option<Vec<Dispatch>>,
}

impl Stage {
    pub(crate) const fn new(order: OrderId, launches: Vec<Dispatch>) -> Self {
        Self { order, launches, checked: None }
    }

    /// What runs where every value is looked at.
    pub(crate) fn checked(&self) -> &[Dispatch] {
        self.checked.as_deref().unwrap_or(&self.launches)
    }
}
