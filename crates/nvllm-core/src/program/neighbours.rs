//! Which nodes hand their result to the next one and to nobody else, so that a kernel may run both.

use std::ops::Range;

use super::Program;
use crate::Op;

impl Program {
    /// Whether what node `at` makes is the first input of the next node, read by nothing else and
    /// not handed out.
    pub fn only_next_reads(&self, at: usize) -> bool {
        let [Some(node), Some(next)] = [at, at + 1].map(|at| self.nodes.get(at)) else { return false };
        let Some(&id) = node.outputs.first() else { return false };
        let reads = self.nodes.iter().flat_map(|node| &node.inputs).filter(|&&input| input == id).count();
        let is_output = self.output.is_some_and(|output| output.value() == id);
        next.inputs.first() == Some(&id) && reads == 1 && !is_output && !self.value(id).keep
    }

    /// Whether a kernel that writes what the last of `nodes` makes, and nothing else, may run all
    /// of them: of what the others make nothing is kept, handed out or read by other nodes.
    pub fn only_last_is_seen(&self, nodes: Range<usize>) -> bool {
        let last = nodes.end.saturating_sub(1);
        let inside = self.nodes[nodes.start..last].iter().flat_map(|node| &node.outputs);
        let others = || self.nodes[..nodes.start].iter().chain(&self.nodes[nodes.end..]);
        let mut seen = inside.filter(|&&id| {
            let is_output = self.output.is_some_and(|output| output.value() == id);
            is_output || self.value(id).keep || others().any(|node| node.inputs.contains(&id))
        });
        seen.next().is_none()
    }

    /// Whether node `at` is an RMS norm of whole rows.
    pub fn is_row_norm(&self, at: usize) -> bool {
        let Some(node) = self.nodes.get(at) else { return false };
        let Op::RmsNorm { weight, .. } = node.op else { return false };
        self.value(node.outputs[0]).cols == self.weights[weight.index()].num_elements()
    }

    /// Whether node `at` is a linear layer, with or without what follows it in one op.
    pub fn is_linear(&self, at: usize) -> bool {
        let linear =
            |op: &Op| matches!(op, Op::Linear { .. } | Op::LinearAdd { .. } | Op::LinearSiluMul { .. });
        self.nodes.get(at).is_some_and(|node| linear(&node.op))
    }

    /// Whether node `at` is a norm of whole rows that only the linear layer after it reads, as its
    /// input.
    pub fn is_norm_of_next(&self, at: usize) -> bool {
        self.is_row_norm(at) && self.is_linear(at + 1) && self.only_next_reads(at)
    }
}

#[cfg(test)]
mod tests {
    use crate::program::{Program, ProgramOutput, Recorder};
    use crate::{AxisRole, SpecBuilder, ValueId};

    /// A norm of runs of `cols` columns of 8 and the linear layer after it, with `more`.
    fn program(cols: usize, more: impl FnOnce(&mut Recorder, ValueId)) -> Program {
        let mut builder = SpecBuilder::new();
        let table = builder.matrix("table", 8, AxisRole::Replicated, [("t".into(), 8, AxisRole::Replicated)]);
        let weight = builder.vector("norm", "n", cols);
        let mut p = builder.program("generate");
        let x = p.embed(table);
        let normed = p.rms_norm(x, weight, 1e-6);
        p.label(normed, "normed");
        p.linear(normed, table);
        more(&mut p, normed);
        p.finish().unwrap()
    }

    fn norms(program: &Program) -> Vec<usize> {
        (0..=program.nodes.len()).filter(|&at| program.is_norm_of_next(at)).collect()
    }

    #[test]
    fn a_norm_is_of_the_layer_after_it_only_where_nothing_else_reads_it() {
        let nothing = |_: &mut Recorder, _| {};
        let mut alone = program(8, nothing);
        assert_eq!(norms(&alone), [1]);
        assert!(norms(&program(4, nothing)).is_empty(), "a norm of heads");
        let twice = |p: &mut Recorder, normed| {
            p.add(normed, normed);
        };
        assert!(norms(&program(8, twice)).is_empty());
        assert!(alone.keep("normed"));
        assert!(norms(&alone).is_empty());
    }

    #[test]
    fn what_nodes_hand_to_each_other_is_seen_where_it_is_kept_handed_out_or_read_elsewhere() {
        // An embedding, a norm, a linear layer, and the sum of the norm and itself.
        let recorded = |labels: &[&str]| {
            let mut program = program(8, |p, normed| {
                let again = p.add(normed, normed);
                p.label(again, "again");
            });
            labels.iter().for_each(|label| assert!(program.keep(label)));
            program
        };
        let plain = recorded(&[]);
        assert!((0..4).all(|at| plain.only_last_is_seen(at..at + 1)));
        assert!(plain.only_last_is_seen(1..4) && plain.only_last_is_seen(0..4));
        assert!(!plain.only_last_is_seen(1..3), "the sum reads the norm");
        assert!(!recorded(&["normed"]).only_last_is_seen(1..4));
        assert!(recorded(&["again"]).only_last_is_seen(1..4), "the last");
        let hidden = Program { output: Some(ProgramOutput::Hidden(plain.nodes[1].outputs[0])), ..plain };
        assert!(!hidden.only_last_is_seen(1..4) && hidden.only_last_is_seen(2..4));
    }
}
