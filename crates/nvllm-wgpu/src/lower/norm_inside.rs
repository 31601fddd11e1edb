//! A norm that the linear layer after it makes for itself where there is one row: a launch fewer.

use std::ops::Range;

use nvllm_core::{Op, Program};

use super::Lowering;
use crate::gpu::Part;

/// Bytes of a workgroup's memory that a linear layer takes beside its row.
const BESIDE: usize = 3 << 10;

/// A norm inside a linear layer.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub x: Part<'a>,
    pub weight: Part<'a>,
    pub eps: f32,
    /// Whether its result is rounded to bf16.
    pub rounds: bool,
}

/// The ranges of nodes that may run as one, known from the program alone so that the plan of its
/// memory counts on them: a norm and the linear layer that alone reads it.
pub(crate) fn ranges(program: &Program) -> Vec<Range<usize>> {
    (0..program.nodes.len()).filter(|&at| program.is_norm_of_next(at)).map(|at| at..at + 2).collect()
}

impl<'a> Lowering<'a> {
    /// Whether node `at` is a norm that the next node has inside for one row.
    pub(super) fn is_inside_next(&self, at: usize) -> bool {
        self.norm_inside(at + 1).is_some()
    }

    /// The norm that node `at`, a linear layer, has inside for one row.
    pub(super) fn norm_inside(&self, at: usize) -> Option<Inside<'a>> {
        let before = at.checked_sub(1).filter(|&before| self.program.is_norm_of_next(before))?;
        let (norm, layer) = (&self.program.nodes[before], &self.program.nodes[at]);
        let Op::RmsNorm { weight: norm_weight, eps } = norm.op else { return None };
        let weight = *layer.op.weights().first()?;
        let runs = &self.weights.get(weight).runs;
        let simple = runs.iter().all(|run| run.of.is_wide() && !run.of.changes_input());
        let fits = 4 * self.cols(norm.outputs[0]) + BESIDE <= self.gpu.facts.workgroup_bytes;
        (simple && fits).then(|| Inside {
            x: self.value(norm.inputs[0]),
            weight: Part::whole(self.weights.get(norm_weight).vector()),
            eps,
            rounds: self.rounds(norm.outputs[0]),
        })
    }
}

#[cfg(test)]
mod tests {
    use nvllm_core::program::MemoryPlan;
    use nvllm_core::{Activations, AxisRole, Limits, PlanRules, Program, SpecBuilder};

    use super::*;

    /// A norm and the linear layer that reads it, whose input something later reads if `again`.
    fn program(again: bool) -> Program {
        let mut builder = SpecBuilder::new();
        let part = |name: &str| (name.to_owned(), 64, AxisRole::Replicated);
        let table = builder.matrix("table", 64, AxisRole::Replicated, [part("t")]);
        let norm = builder.vector("norm", "n", 64);
        let mut p = builder.program("generate");
        let x = p.embed(table);
        let normed = p.rms_norm(x, norm, 1e-6);
        let y = p.linear(normed, table);
        if again {
            p.add(normed, y);
        }
        p.finish().unwrap()
    }

    #[test]
    fn what_is_normed_and_what_is_made_of_it_lie_in_buffers_apart() {
        let program = program(false);
        assert_eq!(ranges(&program).first(), Some(&(1..3)));
        let limits = Limits { step_tokens: 4, kv_bytes: 1 << 20, ..Limits::new(Activations::Bf16, 1, 32) };
        let rules = PlanRules { read_write_share: false, ..PlanRules::HOST };
        let segments = |rules: &PlanRules| {
            let plan = MemoryPlan::new(&program, &limits, rules).unwrap();
            [program.nodes[1].inputs[0], program.nodes[2].outputs[0]].map(|id| plan.place(id).segment)
        };
        let [x, y] = segments(&rules);
        assert_eq!(x, y, "without the stage the buffer is used again");
        let [x, y] = segments(&PlanRules { stages: ranges, ..rules });
        assert_ne!(x, y);
    }

    #[test]
    fn a_norm_that_others_read_is_made_by_itself() {
        assert!(ranges(&program(true)).is_empty());
    }
}
