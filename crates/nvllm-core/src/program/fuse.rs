//! Fused ops made from what a model recorded: the reverse of [`expand`](Program::expand).

use super::{Op, Program, Recorder, ValueKind};
use crate::{Result, ValueId};

/// A linear layer and the op that alone reads it, as one.
struct Pair {
    /// Index of the linear layer's node.
    linear: usize,
    op: Op,
    inputs: Vec<ValueId>,
}

impl Program {
    /// The same program with every linear layer that is read by one `add` or `silu_mul`, and by
    /// nothing else, made one op with it if `wanted` holds for that op.
    ///
    /// The product of the linear layer is then no value any more. One that is kept stays, and with
    /// it the two ops.
    pub fn fuse(&self, wanted: impl Fn(&Op) -> bool) -> Result<Self> {
        let pairs: Vec<_> =
            (0..self.nodes.len()).map(|at| self.pair(at).filter(|pair| wanted(&pair.op))).collect();
        let mut taken = vec![false; self.nodes.len()];
        pairs.iter().flatten().for_each(|pair| taken[pair.linear] = true);
        let mut recorder = Recorder::new(&self.name, &self.weights, &self.kv);
        let mut renamed: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for (at, (node, pair)) in self.nodes.iter().zip(pairs).enumerate() {
            if taken[at] {
                continue;
            }
            let (op, inputs) = pair.map_or((node.op.clone(), node.inputs.clone()), |p| (p.op, p.inputs));
            let inputs: Vec<_> =
                inputs.iter().map(|id| renamed[id.index()].expect("written before read")).collect();
            let outputs: Vec<_> = node.outputs.iter().map(|&id| self.value(id).clone()).collect();
            for (old, new) in node.outputs.iter().zip(recorder.copy_node(op, &inputs, &outputs)) {
                recorder.copy_marks(new, self.value(*old));
                renamed[old.index()] = Some(new);
            }
        }
        recorder.copy_output(self, &renamed);
        recorder.finish()
    }

    /// What node `at` and the linear layer before it are as one.
    fn pair(&self, at: usize) -> Option<Pair> {
        let node = &self.nodes[at];
        let act = |id: &ValueId| self.value(*id).kind == ValueKind::Act;
        if !matches!(node.op, Op::Add | Op::SiluMul) || !node.inputs.iter().all(act) {
            return None;
        }
        // Of two linear layers that are added, the later one: what it reads need not live longer.
        let (linear, product) =
            node.inputs.iter().filter_map(|&id| Some((self.only_for(id, at)?, id))).max()?;
        let Op::Linear { weight, bias } = self.nodes[linear].op else { return None };
        let mut inputs = self.nodes[linear].inputs.clone();
        inputs.extend(node.inputs.iter().filter(|&&id| id != product));
        let op = match node.op {
            Op::Add => Op::LinearAdd { weight, bias },
            _ => Op::LinearSiluMul { weight, bias },
        };
        Some(Pair { linear, op, inputs })
    }

    /// The linear layer that makes `id` for node `at` alone, once.
    fn only_for(&self, id: ValueId, at: usize) -> Option<usize> {
        let value = self.value(id);
        let linear = self.nodes[..at].iter().rposition(|node| node.outputs.contains(&id))?;
        let reads = self.nodes.iter().flat_map(|node| &node.inputs).filter(|&&input| input == id).count();
        let handed_out = self.output.is_some_and(|output| output.value() == id);
        (reads == 1 && !value.keep && !handed_out && matches!(self.nodes[linear].op, Op::Linear { .. }))
            .then_some(linear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecBuilder;

    /// Embeds, and records `ops` over what was embedded, a square weight and one of two halves.
    fn program(ops: impl FnOnce(&mut Recorder, ValueId, [crate::WeightId; 2])) -> Program {
        let mut builder = SpecBuilder::new();
        let mut matrix = |name: &str, n| {
            let part = (name.to_owned(), n, crate::AxisRole::Replicated);
            builder.matrix(name, 8, crate::AxisRole::Replicated, [part])
        };
        let (table, weights) = (matrix("table", 4), [matrix("square", 8), matrix("halves", 16)]);
        let mut recorder = builder.program("generate");
        let x = recorder.embed(table);
        ops(&mut recorder, x, weights);
        recorder.finish().unwrap()
    }

    fn stems(program: &Program) -> Vec<&'static str> {
        program.nodes.iter().map(|node| node.op.stem()).collect()
    }

    fn fused(ops: impl FnOnce(&mut Recorder, ValueId, [crate::WeightId; 2])) -> Vec<&'static str> {
        stems(&program(ops).fuse(|_| true).unwrap())
    }

    #[test]
    fn a_fused_program_expands_into_what_was_recorded() {
        let recorded = program(|p, x, [square, halves]| {
            let y = p.linear(x, halves);
            let y = p.silu_mul(y);
            let y = p.linear(y, square);
            let y = p.add(y, x);
            p.label(y, "y");
        });
        let fused = recorded.fuse(|_| true).unwrap();
        assert_eq!(stems(&fused), ["embed", "linear_silu_mul", "linear_add"]);
        assert_eq!(fused.labelled("y"), Some(ValueId(2)));
        assert_eq!(fused.expand(|_| true).unwrap(), recorded);
        assert_eq!(recorded.fuse(|_| false).unwrap(), recorded);
    }

    #[test]
    fn the_later_of_two_linear_layers_is_fused() {
        let sum = program(|p, x, [square, _]| {
            let (a, b) = (p.linear(x, square), p.linear(x, square));
            p.add(b, a);
        });
        let sum = sum.fuse(|_| true).unwrap();
        assert_eq!(stems(&sum), ["embed", "linear", "linear_add"]);
        assert_eq!(sum.nodes[2].inputs, [ValueId(0), ValueId(1)]);
    }

    #[test]
    fn products_that_something_else_reads_stay() {
        let twice = fused(|p, x, [square, _]| {
            let y = p.linear(x, square);
            p.add(y, y);
        });
        assert_eq!(twice, ["embed", "linear", "add"]);
        let by_two = fused(|p, x, [_, halves]| {
            let y = p.linear(x, halves);
            p.silu_mul(y);
            p.slice_cols(y, 0, 1);
        });
        assert_eq!(by_two, ["embed", "linear", "silu_mul", "slice_cols"]);
        let mut kept = program(|p, x, [square, _]| {
            let y = p.linear(x, square);
            p.label(y, "y");
            p.add(x, y);
        });
        kept.keep("y");
        assert_eq!(kept.fuse(|_| true).unwrap(), kept);
        let wide = fused(|p, x, [square, _]| {
            let y = p.linear_f32(x, square);
            p.add(x, y);
        });
        assert_eq!(wide, ["embed", "linear", "add"]);
    }
}
