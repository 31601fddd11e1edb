//! What runs a step: for each node where a stage may begin, the stages that may run from there.

use std::ops::Range;

use nvllm_core::{Op, OrderId, Program, Rows};

use super::choice::Chosen;
use crate::launch::{Extents, Launch, Work};

/// Consecutive nodes that run in one go, in steps of some sizes.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub nodes: Range<usize>,
    /// What `most_rows` counts.
    pub rows: Rows,
    /// Rows at most.
    pub most_rows: usize,
    /// Whether it takes a step of so many rows.
    pub only: fn(Extents) -> bool,
    /// The order in which each node sums.
    pub orders: Vec<OrderId>,
    pub launches: Vec<Launch>,
}

impl Stage {
    /// Node `at` alone.
    pub(crate) fn node(at: usize, rows: Rows, chosen: Chosen) -> Self {
        Self::of(at..at + 1, rows, vec![chosen.order], chosen)
    }

    /// What was chosen for `nodes`, which sum in `orders`.
    pub(super) fn of(nodes: Range<usize>, rows: Rows, orders: Vec<OrderId>, chosen: Chosen) -> Self {
        let Chosen { most_rows, launches, .. } = chosen;
        Self { nodes, rows, most_rows, only: |_| true, orders, launches }
    }

    pub(super) fn takes(&self, extents: Extents) -> bool {
        extents.rows(self.rows) <= self.most_rows && (self.only)(extents)
    }

    fn uses_vendor(&self) -> bool {
        self.launches.iter().any(|launch| matches!(launch.work, Work::Product(_)))
    }
}

/// The stages of a program: for each node those that begin with it, best first. Of those of the
/// node alone, the last takes any number of rows.
pub(crate) struct Schedule(Vec<Vec<Stage>>);

impl Schedule {
    /// Those of `by_first_node` that write to memory all that is read of it after them: what nodes of
    /// a stage hand to each other is nowhere.
    pub(crate) fn new(program: &Program, mut by_first_node: Vec<Vec<Stage>>) -> Self {
        for stages in &mut by_first_node {
            stages.retain(|stage| program.only_last_is_seen(stage.nodes.clone()));
        }
        Self(by_first_node)
    }

    /// The stages of a step, in order: each node is in one of them.
    pub(crate) fn stages(&self, extents: Extents) -> impl Iterator<Item = &Stage> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let stage = self.0.get(at)?.iter().find(|stage| stage.takes(extents))?;
            at = stage.nodes.end;
            Some(stage)
        })
    }

    /// Those that begin with node `at`.
    pub(super) fn of_node(&self, at: usize) -> &[Stage] {
        &self.0[at]
    }

    /// Puts others in place of those that begin with node `at`.
    pub(super) fn replace_node(&mut self, at: usize, stages: Vec<Stage>) {
        self.0[at] = stages;
    }

    /// Nodes that the vendor's library runs for some number of rows.
    pub(crate) fn vendor_nodes(&self) -> usize {
        self.0.iter().filter(|stages| stages.iter().any(Stage::uses_vendor)).count()
    }
}

/// The ranges of nodes that kernels may run as one, known from the program alone so that the plan
/// of its memory counts on them: a norm and the linear layer that alone reads it.
pub(crate) fn ranges(program: &Program) -> Vec<Range<usize>> {
    (0..program.nodes.len()).filter(|&at| program.is_norm_of_next(at)).map(|at| at..at + 2).collect()
}

/// Whether node `at` is a norm of which only the rows are read that the next node gathers for the
/// linear layer after it, which alone reads those.
pub(super) fn is_gathered_norm(program: &Program, at: usize) -> bool {
    let gathers = program.nodes.get(at + 1).is_some_and(|node| matches!(node.op, Op::GatherRows));
    let alone = |at| program.only_next_reads(at);
    gathers && program.is_row_norm(at) && program.is_linear(at + 2) && alone(at) && alone(at + 1)
}

#[cfg(test)]
mod tests {
    use nvllm_core::program::MemoryPlan;
    use nvllm_core::{Activations, AxisRole, Limits, PlanRules, RowsOf, SpecBuilder};

    use super::*;
    use crate::plan::RULES;

    fn stage(nodes: Range<usize>, most_rows: usize) -> Stage {
        let orders = vec![OrderId("any"); nodes.len()];
        let rows = Rows { of: RowsOf::Tokens, times: 1 };
        let order = OrderId("any");
        Stage::of(nodes, rows, orders, Chosen { most_rows, order, launches: Vec::new() })
    }

    #[test]
    fn every_node_is_in_one_stage_the_best_that_takes_the_step() {
        let any = usize::MAX;
        let schedule = schedule(&program());
        assert_eq!(at(&schedule, 2), [(0..3, 2)]);
        assert_eq!(at(&schedule, 3), [(0..2, 8), (2..3, 4)]);
        assert_eq!(at(&schedule, 8), [(0..2, 8), (2..3, any)]);
        assert_eq!(at(&schedule, 9), [(0..1, any), (1..2, any), (2..3, any)]);
    }

    #[test]
    fn what_is_kept_is_in_memory_however_few_rows_a_step_has() {
        let kept = |label: &str| {
            let mut program = program();
            assert!(program.keep(label));
            schedule(&program)
        };
        let any = usize::MAX;
        assert_eq!(at(&kept("logits"), 1), [(0..3, 2)], "what a stage ends with it writes");
        assert_eq!(at(&kept("normed"), 1), [(0..2, 8), (2..3, 4)]);
        assert_eq!(at(&kept("embedded"), 1), [(0..1, any), (1..2, any), (2..3, 4)]);
    }

    /// Stages of `program`, which has three nodes.
    fn schedule(program: &Program) -> Schedule {
        let any = usize::MAX;
        let stages = vec![
            vec![stage(0..3, 2), stage(0..2, 8), stage(0..1, any)],
            vec![stage(1..2, any)],
            vec![stage(2..3, 4), stage(2..3, any)],
        ];
        Schedule::new(program, stages)
    }

    /// What runs so many rows: nodes and rows at most.
    fn at(schedule: &Schedule, tokens: usize) -> Vec<(Range<usize>, usize)> {
        let stages = schedule.stages(Extents { tokens, ..Extents::NONE });
        stages.map(|stage| (stage.nodes.clone(), stage.most_rows)).collect()
    }

    /// An embedding, a norm and the linear layer after it.
    fn program() -> Program {
        let mut builder = SpecBuilder::new();
        let table = builder.matrix("table", 8, AxisRole::Replicated, [("t".into(), 8, AxisRole::Replicated)]);
        let weight = builder.vector("norm", "n", 8);
        let mut p = builder.program("generate");
        let x = p.embed(table);
        let normed = p.rms_norm(x, weight, 1e-6);
        let logits = p.linear(normed, table);
        for (value, label) in [(x, "embedded"), (normed, "normed"), (logits, "logits")] {
            p.label(value, label);
        }
        p.finish().unwrap()
    }

    #[test]
    fn what_a_stage_reads_lies_apart_from_what_it_writes() {
        let program = program();
        let limits = Limits { step_tokens: 4, kv_bytes: 1 << 20, ..Limits::new(Activations::Bf16, 1, 32) };
        let apart = |rules: &PlanRules| {
            let plan = MemoryPlan::new(&program, &limits, rules).unwrap();
            let [x, y] = [program.nodes[1].inputs[0], program.nodes[2].outputs[0]].map(|id| plan.place(id));
            x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset
        };
        assert!(apart(&RULES));
        assert!(!apart(&PlanRules { stages: |_| Vec::new(), ..RULES }), "the place is used again");
    }
}
