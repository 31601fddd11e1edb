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
    /// Positions of a sequence at most.
    pub most_positions: usize,
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
        let most_positions = usize::MAX;
        Self { nodes, rows, most_rows, most_positions, only: |_| true, orders, launches }
    }

    pub(super) fn takes(&self, extents: Extents) -> bool {
        extents.rows(self.rows) <= self.most_rows
            && extents.positions <= self.most_positions
            && (self.only)(extents)
    }

    fn uses_vendor(&self) -> bool {
        self.launches.iter().any(|launch| matches!(launch.work, Work::Product(_)))
    }
}

/// The stages of a program.
pub(crate) struct Schedule {
    /// For each node those that begin with it, best first. Of those of the node alone, the last
    /// takes any number of rows.
    by_first_node: Vec<Vec<Stage>>,
    /// The decode pass, which comes before what begins with its first node.
    pass: Option<Stage>,
}

impl Schedule {
    /// Of those given all that write to memory what is read of it after them: what nodes of a stage
    /// hand to each other is nowhere.
    pub(crate) fn new(program: &Program, mut by_first_node: Vec<Vec<Stage>>, pass: Option<Stage>) -> Self {
        let writes_all = |stage: &Stage| program.only_last_is_seen(stage.nodes.clone());
        by_first_node.iter_mut().for_each(|stages| stages.retain(writes_all));
        Self { by_first_node, pass: pass.filter(writes_all) }
    }

    /// The stages of a step, in order: each node is in one of them.
    pub(crate) fn stages(&self, extents: Extents) -> impl Iterator<Item = &Stage> {
        self.in_order(self.pass.as_ref(), extents)
    }

    /// The same without a decode pass.
    pub(crate) fn one_by_one(&self, extents: Extents) -> impl Iterator<Item = &Stage> {
        self.in_order(None, extents)
    }

    fn in_order<'a>(&'a self, pass: Option<&'a Stage>, extents: Extents) -> impl Iterator<Item = &'a Stage> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let alone = self.by_first_node.get(at)?;
            let pass = pass.filter(|pass| pass.nodes.start == at);
            let stage = pass.into_iter().chain(alone).find(|stage| stage.takes(extents))?;
            at = stage.nodes.end;
            Some(stage)
        })
    }

    /// The decode pass, if there is one.
    pub(crate) const fn pass(&self) -> Option<&Stage> {
        self.pass.as_ref()
    }

    /// Leaves the decode pass steps whose sequences have so many positions at most.
    pub(crate) fn limit_pass(&mut self, positions: usize) {
        let limited = |pass| Stage { most_positions: positions, ..pass };
        self.pass = self.pass.take().filter(|_| positions > 0).map(limited);
    }

    /// Those that begin with node `at`, the decode pass aside.
    pub(super) fn of_node(&self, at: usize) -> &[Stage] {
        &self.by_first_node[at]
    }

    /// Puts others in place of those that begin with node `at`.
    pub(super) fn replace_node(&mut self, at: usize, stages: Vec<Stage>) {
        self.by_first_node[at] = stages;
    }

    /// Nodes that the vendor's library runs for some number of rows.
    pub(crate) fn vendor_nodes(&self) -> usize {
        self.by_first_node.iter().filter(|stages| stages.iter().any(Stage::uses_vendor)).count()
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

    #[test]
    fn a_pass_runs_what_it_may_and_no_longer_contexts_than_it_is_left() {
        let of = |program: &Program| {
            let alone = (0..3).map(|at| vec![stage(at..at + 1, usize::MAX)]).collect();
            Schedule::new(program, alone, Some(stage(1..3, 1)))
        };
        let num = |schedule: &Schedule, tokens, positions| {
            let at = Extents { tokens, positions, ..Extents::NONE };
            assert_eq!(schedule.one_by_one(at).count(), 3);
            schedule.stages(at).count()
        };
        let mut schedule = of(&program());
        assert_eq!([1, 2].map(|tokens| num(&schedule, tokens, 5000)), [2, 3]);
        schedule.limit_pass(1024);
        assert_eq!([1, 1024, 1025].map(|positions| num(&schedule, 1, positions)), [2, 2, 3]);
        schedule.limit_pass(0);
        assert!(schedule.pass().is_none() && num(&schedule, 1, 1) == 3);
        let mut kept = program();
        assert!(kept.keep("normed"));
        assert!(of(&kept).pass().is_none(), "the pass writes no norm");
    }

    /// Stages of `program`, which has three nodes.
    fn schedule(program: &Program) -> Schedule {
        let any = usize::MAX;
        let stages = vec![
            vec![stage(0..3, 2), stage(0..2, 8), stage(0..1, any)],
            vec![stage(1..2, any)],
            vec![stage(2..3, 4), stage(2..3, any)],
        ];
        Schedule::new(program, stages, None)
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
